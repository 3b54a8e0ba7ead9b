"""Judges whether each subject lives and works: dead, hung, gray, never started, or merely overloaded with the host."""

import math
from collections.abc import Sequence

from pydantic import Field

from x0tta6bl4.kernel.facts import Condition, Finding, Observation, Severity
from x0tta6bl4.kernel.judged import Judged, judged_data
from x0tta6bl4.kernel.plugin import PluginConfig, analyzer
from x0tta6bl4.kernel.sight import Streak, View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.units import Seconds

ALIVE = ("process_up", "unit_up")
ANSWERS = ("work_up", "health_up", "check_up")
MEMORY = 600.0
"""Seconds after which two thirds of what was usual are forgotten."""


class Config(PluginConfig):
    failures: int = Field(default=3, ge=1)
    """Wrong answers in a row (refused, errors) that make a finding. Lower heals sooner and mistakes a hiccup for a
    fault more often. Silence is not counted but timed: see ``silent_for``."""
    failing_for: Seconds = Field(default=0.9, ge=0)
    """Seconds that wrong answers must have lasted as well, whatever their number."""
    silent_for: Seconds = Field(default=1.2, gt=0)
    """Seconds without one good answer, while at least one question went unanswered, that make a service hung. Lower
    finds hangs sooner and restarts services that only paused; a single slow request never counts as long as others
    are answered meanwhile."""
    overload_pressure: float = Field(default=0.6, gt=0, le=1)
    """Share of the last 10 seconds in which something on the host waited for CPU, memory or disk (pressure stall
    information) from which slowness may be the host's fault. Lower takes more hangs for overload."""
    overload_patience: Seconds = Field(default=60.0, gt=0)
    """Seconds for which overload excuses silence. After them the service counts as hung all the same."""


class Liveness:
    """One finding a subject, the most telling one: dead before hung before gray."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._typical: dict[str, tuple[float, float]] = {}
        """Seconds of an answer, and when that was last learnt."""
        self._excused_since: dict[str, float] = {}
        self._first_seen: dict[str, float] = {}

    def analyze(self, view: View) -> Sequence[Finding]:
        findings = []
        for subject in view.subjects:
            if view.sight.is_acted_on(subject.name):
                continue  # what is seen of it now is our own doing
            self._learn(subject, view)
            finding = self._judge(subject, view)
            if finding is not None:
                findings.append(finding)
        return findings

    def _learn(self, subject: Subject, view: View) -> None:
        """How long an answer usually takes, for telling slow from usual.

        By time and not by turns: a host in trouble turns often, and a minute of it must not become the usual.
        """
        seconds = view.value(subject.name, "work_seconds")
        up = view.streak(subject.name, "work_up")
        if seconds is not None and up is not None and up.up:
            before, at = self._typical.get(subject.name, (seconds, view.now))
            weight = 1.0 - math.exp((at - view.now) / MEMORY)
            self._typical[subject.name] = before + weight * (seconds - before), view.now

    def _evidence(self, view: View, subject: Subject, metric: str) -> tuple[Observation, Streak] | None:
        """The latest answer, unless it was asked for before the last action: then it says nothing about now."""
        seen, streak = view.latest(subject.name, metric), view.streak(subject.name, metric)
        if seen is None or streak is None:
            return None
        acted = view.sight.acted_at(subject.name)
        asked = view.sight.asked_at(subject.name, metric)
        if acted is not None and (asked is None or asked < acted):
            return None
        return seen, streak

    def _judge(self, subject: Subject, view: View) -> Finding | None:
        signs = tuple(Condition(m, ">=", 1.0) for m in (*ALIVE, *ANSWERS) if view.latest(subject.name, m) is not None)
        if not signs:
            return None
        if subject.name not in self._first_seen:
            # The first looks came before the first turn: an answer given to them is an answer since "our first look".
            streaks = [s for m in (*ALIVE, *ANSWERS) if (s := view.streak(subject.name, m)) is not None]
            self._first_seen[subject.name] = min(t for s in streaks for t in (s.since, s.last_yes) if t is not None)
        for metric in ALIVE:
            found = self._evidence(view, subject, metric)
            if found is not None and not found[1].up:
                return self._dead(subject, view, found, signs)
        failing = []
        for metric in ANSWERS:
            found = self._evidence(view, subject, metric)
            if found is not None and not found[1].up:
                failing.append((metric, *found))
        if not failing:
            self._excused_since.pop(subject.name, None)
            return None
        # Each question for itself: many services call themselves healthy long before their work is ready.
        failing = [found for found in failing if not self._starting(subject, view, found[2])]
        if not failing:
            return None
        metric, seen, streak = failing[0]
        silent = seen.detail.startswith("no answer")
        born = self._born(subject, view)
        last_yes = max(streak.last_yes if streak.last_yes is not None else born, born)
        if silent:
            if view.now - last_yes < self.config.silent_for:
                return None
        elif streak.count < self.config.failures or view.now - streak.since < self.config.failing_for:
            return None
        since = max(last_yes, born, self._first_seen[subject.name])
        if silent:
            excuse = self._overload(subject, view)
            if excuse is not None:
                excused = self._excused_since.setdefault(subject.name, view.now)
                if view.now - excused < self.config.overload_patience:
                    return Finding(
                        analyzer=self.name,
                        subject=subject.name,
                        fault="overloaded",
                        severity=Severity.WARNING,
                        since=since,
                        summary=f"{subject.name} does not answer, and neither would others: {excuse}",
                        because=(seen,),
                        healthy_when=signs,
                        data=judged_data(self._judged(subject, view, seen, streak, last_yes, born)),
                    )
        fault = self._fault(subject, view, metric, silent)
        answered = (
            f"last good answer {view.now - last_yes:.1f} s ago"
            if streak.last_yes == last_yes
            else f"no good answer in the {view.now - born:.0f} s since it was started or first looked at"
        )
        words = {"hung": "lives but does not answer", "gray": "lives but its work fails", "dead": "cannot be reached"}[
            fault
        ]
        return Finding(
            analyzer=self.name,
            subject=subject.name,
            fault=fault,
            severity=Severity.CRITICAL if fault != "gray" else Severity.MAJOR,
            since=since,
            summary=f"{subject.name} {words}: {seen.detail or metric} ({answered})",
            because=(seen,),
            healthy_when=signs,
            data=judged_data(self._judged(subject, view, seen, streak, last_yes, born)),
        )

    def _judged(
        self, subject: Subject, view: View, seen: Observation, streak: Streak, last_yes: float, born: float
    ) -> list[Judged]:
        """In numbers: for how long it was silent, or how often it was wrong. Told only of what was found."""
        config, silence = self.config, view.now - last_yes
        if streak.last_yes is None or streak.last_yes < born:
            number, limit, named = silence, subject.start_timeout, "seconds since its start without a good answer"
            why, well = "no good answer since its start", f"a good answer within {limit:g} s of its start"
        elif seen.detail.startswith("no answer"):
            number, limit, named = silence, config.silent_for, "seconds without a good answer"
            why, well = "silence", f"a good answer within {limit:g} s"
        else:
            number, limit, named = float(streak.count), float(config.failures), "wrong answers in a row"
            why = "wrong answers"
            well = f"a good answer among {config.failures} in a row, or within {config.failing_for:g} s,"
        return [Judged(subject.name, seen.metric, seen.value, 1.0, None, number, limit, named, why=why, well=well)]

    def _dead(
        self, subject: Subject, view: View, found: tuple[Observation, Streak], signs: tuple[Condition, ...]
    ) -> Finding:
        seen, streak = found
        acted = view.sight.acted_at(subject.name)
        well = "a process that runs" if seen.metric == "process_up" else "a unit that is active"
        looks, named = float(streak.count), "looks that found it gone"
        judged = Judged(subject.name, seen.metric, seen.value, 1.0, None, looks, 1.0, named, why="gone", well=well)
        return Finding(
            analyzer=self.name,
            subject=subject.name,
            fault="dead",
            severity=Severity.CRITICAL,
            since=max(streak.since, acted or streak.since),
            summary=f"{subject.name} is dead: {seen.detail or seen.metric}",
            because=(seen,),
            healthy_when=signs,
            data=judged_data([judged]),
        )

    def _born(self, subject: Subject, view: View) -> float:
        """Since when it could have answered at all: its start, the last action that worked on it, or our first look."""
        acted = view.sight.anew_at(subject.name)
        age = view.latest(subject.name, "process_age_seconds")
        at = view.sight.seen_at(subject.name, "process_age_seconds")
        started = at - age.value if age is not None and at is not None else self._first_seen[subject.name]
        return max(started, acted or started)

    def _starting(self, subject: Subject, view: View, streak: Streak) -> bool:
        """It has never given this answer since it was started, and may still take that long."""
        born = self._born(subject, view)
        if streak.last_yes is not None and streak.last_yes >= born:
            return False
        return view.now - max(born, self._first_seen[subject.name] if born <= 0 else born) < subject.start_timeout

    def _fault(self, subject: Subject, view: View, metric: str, silent: bool) -> str:
        health = self._evidence(view, subject, "health_up")
        asked = view.sight.asked_at(subject.name, metric)
        if metric != "health_up" and health is not None and health[1].up:
            said_yes_to = view.sight.asked_at(subject.name, "health_up")
            # Silence is known late: a yes to an older question was said before it began, and the next may never come.
            if not silent or (said_yes_to is not None and asked is not None and said_yes_to > asked):
                return "gray"
        answered = view.sight.asked_at(subject.name, f"{metric[:-3]}_status") == asked
        if answered and not silent:
            return "gray"
        alive = any((e := self._evidence(view, subject, m)) is not None and e[1].up for m in ALIVE)
        return "hung" if silent or alive else "dead"

    def _overload(self, subject: Subject, view: View) -> str | None:
        """Why its silence is more likely the host's fault than its own; None when it is not."""
        pressed = [
            (name, value)
            for name in ("cpu", "memory", "io")
            if (value := view.value("host", f"psi_{name}_some_ratio")) is not None
            and value >= self.config.overload_pressure
        ]
        others = [
            s
            for s in view.sight.subjects.values()
            if s.name != subject.name
            and view.streak(s.name, "work_up") is not None
            and s.name not in subject.depends_on
            and subject.name not in s.depends_on
        ]
        slow = [s.name for s in others if self._is_slow(s, view)]
        if pressed and len(others) >= 2 and len(slow) * 2 >= len(others):
            return (
                f"{pressed[0][0]} pressure is {pressed[0][1]:.0%} and {len(slow)} of {len(others)} others are slow too"
            )
        busy = view.value(subject.name, "process_busy")
        if pressed and busy is not None and busy >= 0.2:
            # It works as hard as the host lets it; a hung handler burns nothing.
            return f"{pressed[0][0]} pressure is {pressed[0][1]:.0%} and it is busy itself ({busy:.0%} of a core)"
        return None

    def _is_slow(self, subject: Subject, view: View) -> bool:
        streak = view.streak(subject.name, "work_up")
        if streak is not None and not streak.up:
            return True
        seconds, typical = view.value(subject.name, "work_seconds"), self._typical.get(subject.name)
        return seconds is not None and typical is not None and seconds > max(0.25, 5 * typical[0])


PLUGIN = analyzer(Config, lambda name, config, tools: Liveness(name, config))
