"""What the daemon sees at this moment: the latest observation of everything, and how long each answer has stood."""

import asyncio
import operator
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from x0tta6bl4.kernel.facts import Condition, Lost, Observation, Occurrence
from x0tta6bl4.kernel.subjects import Subject, subject_of
from x0tta6bl4.kernel.traces import Series, Trace, Traces

COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
RECENT = 200
"""Occurrences kept for `why`; older ones fall out."""


@dataclass(slots=True)
class Streak:
    """How a yes-or-no metric has answered lately."""

    up: bool
    since: float
    count: int
    last_yes: float | None
    last_no: float | None


@dataclass(slots=True)
class _Latest:
    observation: Observation
    at: float
    asked: float
    """When the look began: an answer to a question asked before an action proves nothing about after it."""
    streak: Streak | None
    trace: Trace | None
    """What it said in the last minutes; None when there are too many series for it to have one."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The latest value of many series, in one order."""

    names: list[Series]
    values: "array[float]"
    ats: "array[float]"
    """When each was seen, by the monotonic clock."""

    def without(self, subjects: Collection[str]) -> "Columns":
        """The same without the series of these."""
        if not subjects:
            return self
        keep = [n for n, (subject, _) in enumerate(self.names) if subject not in subjects]
        return Columns(
            [self.names[n] for n in keep],
            array("d", [self.values[n] for n in keep]),
            array("d", [self.ats[n] for n in keep]),
        )


class Sight:
    """The latest value of each series, written by monitors, read by analyzers, guard and proof. One event loop
    owns it.
    """

    def __init__(self, subjects: Mapping[str, Subject] | None = None) -> None:
        self.subjects: dict[str, Subject] = dict(subjects or {})
        self._by_metric: dict[str, dict[str, _Latest]] = {}
        self._blind: dict[str, tuple[str, tuple[str, ...], float]] = {}
        self._acted: dict[str, float] = {}
        self._pending: list[Occurrence] = []
        self._listeners: dict[str, asyncio.Event] = {}
        self._acting: set[str] = set()
        self._anew: dict[str, float] = {}
        self._traces = Traces()
        self._alarms: dict[str, dict[str, list[Condition]]] = {}
        self.recent: list[Occurrence] = []

    def __len__(self) -> int:
        return sum(len(row) for row in self._by_metric.values())

    def record(self, observations: Iterable[Observation], now: float, asked: float | None = None) -> set[str]:
        """Takes in what a monitor saw; returns the subjects that deserve a turn at once."""
        wake: set[str] = set()
        by_metric = self._by_metric
        listeners, alarms = self._listeners, self._alarms
        if asked is None:
            asked = now
        for seen in observations:
            metric, subject = seen.metric, seen.subject
            if seen.__class__ is Lost:
                if self._lose(subject, metric):
                    wake.add(subject)
                continue
            row = by_metric.get(metric)
            if row is None:
                row = by_metric[metric] = {}
            latest = row.get(subject)
            if latest is None:
                trace = self._traces.begin((subject, metric), subject in self.subjects, now)
                latest = row[subject] = _Latest(seen, now, asked, None, trace)
            elif asked < latest.asked:
                continue  # looks overlap: a later question was answered already, and this is older news
            else:
                latest.observation = seen
                latest.at = now
                latest.asked = asked
                trace = latest.trace
            if trace is not None:
                trace.take(now, seen.value, asked)
            if listeners and (heard := listeners.get(subject)) is not None:
                heard.set()
            if not metric.endswith("_up"):
                if alarms and (wanted := alarms.get(metric)) is not None:
                    for condition in (*wanted.get(subject, ()), *wanted.get("", ())):
                        if COMPARE[condition.op](seen.value, condition.value):
                            wake.add(subject)
                            break
                continue
            up = seen.value >= 0.5
            streak = latest.streak
            if streak is None:
                latest.streak = Streak(up, now, 1, now if up else None, None if up else now)
            elif streak.up == up:
                streak.count += 1
            else:
                streak.up, streak.since, streak.count = up, now, 1
                wake.add(subject)
            if not up:
                wake.add(subject)
            if streak is not None:
                if up:
                    streak.last_yes = now
                else:
                    streak.last_no = now
        return wake

    def happened(self, occurrence: Occurrence, now: float) -> set[str]:
        self._pending.append(occurrence)
        self.recent.append(occurrence)
        del self.recent[:-RECENT]
        del self._pending[:-RECENT]
        return self.record(occurrence.observations, now) | {occurrence.subject}

    def take_occurrences(self, scope: frozenset[str] | None) -> tuple[Occurrence, ...]:
        """Those that no turn has seen yet."""
        taken = tuple(o for o in self._pending if scope is None or o.subject in scope)
        self._pending = [o for o in self._pending if scope is not None and o.subject not in scope]
        return taken

    def blind(self, instance: str, reason: str, subjects: Sequence[str], now: float) -> None:
        if instance not in self._blind:
            self._blind[instance] = (reason, tuple(subjects), now)

    def sees_again(self, instance: str) -> None:
        self._blind.pop(instance, None)

    def forget_blindness(self) -> None:
        self._blind.clear()

    @property
    def blind_instances(self) -> Mapping[str, tuple[str, tuple[str, ...], float]]:
        """Instance -> why it cannot see, of whom it would have spoken, since when."""
        return self._blind

    def alarm_on(self, conditions: Iterable[Condition]) -> None:
        """Numbers at which a turn is wanted at once, whoever sees them; replaces those of before."""
        self._alarms = {}
        for condition in conditions:
            self._alarms.setdefault(condition.metric, {}).setdefault(condition.subject, []).append(condition)

    def acting(self, subject: str) -> None:
        """An action on the subject begins: until it has ended, what is seen of it is our own doing."""
        self._acting.add(subject)

    def is_acted_on(self, subject: str) -> bool:
        return subject in self._acting

    def acted(self, subject: str, now: float) -> None:
        """An action on the subject has just ended: older observations of it prove nothing any more."""
        self._acting.discard(subject)
        self._acted[subject] = now

    def began_anew(self, subject: str, now: float | None) -> None:
        """An action that worked gives the subject its start time again; None: it did not help, and no grace is left."""
        if now is None:
            self._anew.pop(subject, None)
        else:
            self._anew[subject] = now

    def anew_at(self, subject: str) -> float | None:
        return self._anew.get(subject)

    def acted_at(self, subject: str) -> float | None:
        return self._acted.get(subject)

    def forget(self, subjects: Iterable[str]) -> None:
        for name in subjects:
            self.subjects.pop(name, None)
            self._acted.pop(name, None)
            self._anew.pop(name, None)
            for metric, row in self._by_metric.items():
                gone = row.pop(name, None)
                if gone is not None and gone.trace is not None:
                    self._traces.end((name, metric), gone.trace)

    def _lose(self, subject: str, metric: str) -> bool:
        """The series is not known any more; False when it was not before."""
        row = self._by_metric.get(metric, {})
        gone = row.pop(subject, None)
        if gone is None:
            return False
        if gone.trace is not None:
            self._traces.end((subject, metric), gone.trace)
        if not row:
            del self._by_metric[metric]
        return True

    def latest(self, subject: str, metric: str) -> Observation | None:
        found = self._by_metric.get(metric, {}).get(subject)
        return found.observation if found else None

    def streak(self, subject: str, metric: str) -> Streak | None:
        found = self._by_metric.get(metric, {}).get(subject)
        return found.streak if found else None

    def trace(self, subject: str, metric: str) -> Trace | None:
        found = self._by_metric.get(metric, {}).get(subject)
        return found.trace if found else None

    def of_metric(self, metric: str) -> Iterator[Observation]:
        for latest in self._by_metric.get(metric, {}).values():
            yield latest.observation

    def metrics(self) -> Sequence[str]:
        return tuple(self._by_metric)

    def about(self, subject: str) -> list[Observation]:
        return [row[subject].observation for row in self._by_metric.values() if subject in row]

    def columns(self, wanted: Callable[[str], bool] = lambda metric: True) -> Columns:
        """Every series of the wanted metrics at once, for those who judge thousands of them."""
        names: list[Series] = []
        values, ats = array("d"), array("d")
        for metric, row in self._by_metric.items():
            if wanted(metric):
                for subject, latest in row.items():
                    names.append((subject, metric))
                    values.append(latest.observation.value)
                    ats.append(latest.at)
        return Columns(names, values, ats)

    def holds(self, condition: Condition, subject: str, since: float = 0.0) -> bool | None:
        """Whether a healthy sign is there, by an observation not older than ``since``; None when none is that young."""
        found = self._by_metric.get(condition.metric, {}).get(condition.subject or subject)
        if found is None or found.asked < since:
            return None
        return bool(COMPARE[condition.op](found.observation.value, condition.value))

    def seen_at(self, subject: str, metric: str) -> float | None:
        found = self._by_metric.get(metric, {}).get(subject)
        return found.at if found else None

    def nudge(self, subject: str) -> None:
        """Something was judged about the subject: whoever waits for its proof looks at once."""
        if (heard := self._listeners.get(subject)) is not None:
            heard.set()

    async def wait_changed(self, subject: str) -> None:
        """Returns at the next observation of the subject, or judgement about it. For one waiter a subject: the proof of
        its heal.
        """
        heard = self._listeners.setdefault(subject, asyncio.Event())
        try:
            await heard.wait()
        finally:
            if self._listeners.get(subject) is heard:
                del self._listeners[subject]

    def asked_at(self, subject: str, metric: str) -> float | None:
        """When the question was asked that the latest observation answers."""
        found = self._by_metric.get(metric, {}).get(subject)
        return found.asked if found else None


@dataclass(frozen=True)
class View:
    """One turn's look at the sight, for analyzers. Read it, never keep it."""

    sight: Sight
    now: float
    scope: frozenset[str] | None = None
    occurrences: tuple[Occurrence, ...] = field(default=())
    wall: float = 0.0
    """The same moment by the clock on the wall, in seconds: for what depends on the hour of the day."""

    def in_scope(self, subject: str) -> bool:
        return self.scope is None or subject in self.scope

    def subject(self, name: str) -> Subject:
        return subject_of(self.sight.subjects, name)

    @property
    def subjects(self) -> Iterable[Subject]:
        """Those under care that this turn is about."""
        if self.scope is None:
            return tuple(self.sight.subjects.values())
        return tuple(s for n in sorted(self.scope) if (s := self.sight.subjects.get(n)) is not None)

    def latest(self, subject: str, metric: str) -> Observation | None:
        return self.sight.latest(subject, metric)

    def value(self, subject: str, metric: str) -> float | None:
        seen = self.sight.latest(subject, metric)
        return None if seen is None else seen.value

    def streak(self, subject: str, metric: str) -> Streak | None:
        return self.sight.streak(subject, metric)

    def select(self, metric: str) -> Iterator[Observation]:
        """The latest observation of that metric for every subject in scope."""
        scope = self.scope
        if scope is None:
            yield from self.sight.of_metric(metric)
            return
        for name in sorted(scope):
            if (seen := self.sight.latest(name, metric)) is not None:
                yield seen
