"""Learns where each series usually is, by hour and by week, and says when one is somewhere it has not been."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from pydantic import Field, field_validator

from x0tta6bl4.analyzers._series import COUNTERS, Numbers, Patterns, Rows, Seats, is_born_small, is_young, named
from x0tta6bl4.judgement.novelty import Explanation, Novelty, Settings
from x0tta6bl4.judgement.snapshots import pack, unpack
from x0tta6bl4.kernel.facts import Condition, Finding, Severity, shown
from x0tta6bl4.kernel.judged import Judged, all_judged_of, causes_of, judged_data
from x0tta6bl4.kernel.lessons import Lesson, Progress
from x0tta6bl4.kernel.plugin import PluginConfig, analyzer
from x0tta6bl4.kernel.sight import COMPARE, View
from x0tta6bl4.kernel.traces import Series
from x0tta6bl4.kernel.units import Seconds

FORM = "x0tta6bl4.baseline"
"""What its snapshots call themselves."""
NOT_LEARNT = (
    "*_up",
    "*_age_seconds",
    "*_seconds_left",
    "*_limit",
    "*_status",
    "unit_*",
    "memory_total_bytes",
    "disk_read_only",
    "*_left_out",
    "check_warning",
    "alert_*",
)
"""Yes-or-no answers, clocks that only run, and sizes that somebody chose: nothing about them is usual."""
MOST_WORDS = 1000
UNHEARD = 600.0
"""Seconds without a value after which nothing more is said of a series that was unusual."""
SEVERAL, CLEAR, LASTS = 2, 2.0, 300.0
"""A human should know of a subject of which so many numbers are so many times their limits beyond what is usual, for so
many seconds. One alone, or for a moment, is noted."""
SAME = re.compile(r"_(bytes|ratio|per_core|busy|cpu_seconds)$")
"""How the names of numbers that measure the same differ."""


class Config(PluginConfig):
    metrics: list[str] = Field(default_factory=lambda: ["*"], min_length=1)
    """Which metrics are learnt, as shell patterns."""
    exclude: list[str] = Field(default_factory=lambda: list(NOT_LEARNT))
    """Which of those are not. What only ever grows, and yes-or-no answers, have no baseline."""
    counters: list[str] = Field(default_factory=lambda: list(COUNTERS))
    """Metrics that count up and begin anew with their process: their rate a second is judged."""
    subjects: list[str] = Field(default_factory=lambda: ["*"], min_length=1)
    """Whose series are learnt, as shell patterns."""
    every: Seconds = Field(default=60.0, ge=1)
    """Seconds between two values that are learnt from. Fewer find short deviations sooner, at more cost; what is
    learnt is in seconds and stays."""
    sensitivity: float = Field(default=Settings.sensitivity, gt=0)
    """How unusual something must be; without a value here ``mapek.anomaly_threshold`` counts. Raised, less is found;
    half as much finds about twice as small deviations."""
    budget: float = Field(default=Settings.budget, gt=0, le=1000)
    """False alarms of one series in a week that are acceptable: the threshold of a series that says more rises until
    it keeps to it, and sinks again slowly."""
    learning: Seconds = Field(default=Settings.learning, gt=0)
    """Seconds for which a new series is only learnt. Less than a day takes the daily rhythm for news."""
    most_series: int = Field(default=20_000, ge=1)
    """Series that are learnt at most, at some 700 bytes each; further ones are left out, and counted."""
    longest: Seconds = Field(default=6 * 3600.0, gt=0)
    """Seconds after which what was unusual counts as the new usual, and its finding ends."""
    timezone: str = "UTC"
    """Whose hours of the day and days of the week the series follow, such as Europe/Berlin."""

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("is no time zone; one looks like Europe/Berlin, or UTC") from error
        return value


class Baselines:
    """What is learnt of each series, by its name. Also for those who fill it from history."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.wants_metric = Patterns(config.metrics, config.exclude)
        self.wants_subject = Patterns(config.subjects, ())
        self._is_counter = Patterns(config.counters, ())
        self.engine = Novelty(Settings(sensitivity=config.sensitivity, budget=config.budget, learning=config.learning))
        self.seats = Seats(self._add, self.engine.drop, config.most_series)
        self.damaged = 0
        """Series of the latest that was merged whose numbers were none; they were left out."""
        self._zone = ZoneInfo(config.timezone)
        self._offset_of = lru_cache(maxsize=4)(self._offset)

    def _add(self, names: Sequence[Series]) -> Rows:
        return self.engine.add(len(names), np.array([self._is_counter(metric) for _, metric in names]))

    def _offset(self, quarter: int) -> float:
        """Seconds by which the zone is ahead; zones change at full quarters of an hour."""
        offset = datetime.fromtimestamp(quarter * 900.0, UTC).astimezone(self._zone).utcoffset()
        return offset.total_seconds() if offset is not None else 0.0

    def local(self, wall: float) -> float:
        """Wall-clock seconds as the engine counts them, so that midnight is midnight there."""
        return wall + self._offset_of(int(wall // 900.0))

    def learn(self, values: Numbers, wall: float) -> Rows:
        """One look: a value, or NaN, for each row. The rows that are unusual now."""
        self.engine.update(values, self.local(wall))
        return self.engine.alarms()

    def update(self, names: Sequence[Series], values: Iterable[float], wall: float) -> Rows:
        """The same by name, for whoever has no sight; series that are not wanted are left out."""
        wanted = [
            (name, value)
            for name, value in zip(names, values, strict=True)
            if self.wants_metric(name[1]) and self.wants_subject(name[0])
        ]
        rows = self.seats.seat([name for name, _ in wanted], wall, is_seen=True)
        told = np.full(self.engine.size, np.nan)
        is_seated = rows >= 0
        told[rows[is_seated]] = np.array([value for _, value in wanted])[is_seated]
        return self.learn(told, wall)

    def pack(self, names: Iterable[Series] | None = None) -> bytes:
        """All that is learnt, or what is learnt of these series."""
        arrays, header = self.seats.told()
        arrays |= self.engine.snapshot()
        kept = pack(arrays, {"form": FORM, **header})
        if names is None:
            return kept
        part = Baselines(self.config)
        part.merge(kept, names)
        return part.pack()

    def merge(
        self, body: bytes, names: Iterable[Series] | None = None, *, seen_at: float | None = None
    ) -> list[Series]:
        """Takes over what was learnt of its series, or of these of them, in place of what is known; they count as seen
        at that time, or when they were. ValueError, and nothing taken, when it cannot be read."""
        arrays, header = unpack(body)
        if header.get("form") != FORM:
            raise ValueError(f"this was not learnt by a baseline (it says {header.get('form')!r})")
        series, theirs = Seats.read(arrays, header)
        only = None if names is None else set(names)
        wanted = [n for n, name in enumerate(series) if only is None or name in only]
        sound = self.engine.sound(arrays, theirs[wanted])  # before anybody is given a row for it
        self.damaged = len(wanted) - int(sound.sum())
        if self.damaged and not sound.any():
            raise ValueError("what was learnt is damaged: it holds numbers that are none; learn anew")
        wanted = [n for n, is_sound in zip(wanted, sound.tolist(), strict=True) if is_sound]
        seen = np.nan_to_num(arrays["seats.seen"].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        mine = self.seats.seat([series[n] for n in wanted], 0.0)
        is_seated = mine >= 0
        self.seats.saw(mine[is_seated], seen[wanted][is_seated] if seen_at is None else seen_at)
        self.engine.merge(arrays, mine[is_seated], theirs[wanted][is_seated])
        return [series[n] for n, seated in zip(wanted, is_seated.tolist(), strict=True) if seated]

    def sweep(self, wall: float) -> list[Series]:
        return self.seats.sweep(wall, lambda rows: self.engine.learning()[rows])


@dataclass(slots=True)
class _Active:
    """A series that is unusual."""

    since: float
    """Monotonic seconds."""
    judged: Judged
    seen_at: float
    is_outside: bool
    """Whether its value lies outside of where it usually is; else it moves as it did not before."""


class Baseline:
    """One finding for each subject, of all its series that are unusual at the time."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self.known = Baselines(config)
        self._looked_at: float | None = None
        self._active: dict[Series, _Active] = {}
        self._words: dict[tuple[str, str, str], float] = {}
        """Incident, subject and metric -> the limit before anybody said something of it; the latest."""
        self._settled: dict[str, _Active] = {}
        """Subject -> what of it counts as usual from now on, though it has not gone back: that is to be told once, or
        its incident would wait for signs of health that never come."""

    def analyze(self, view: View) -> Sequence[Finding]:
        if view.scope is None and (self._looked_at is None or view.now - self._looked_at >= 0.9 * self.config.every):
            self._looked_at = view.now
            self._learn(view)
        self._let_go(view)
        unusual: dict[str, list[_Active]] = {}
        for (subject, _), one in self._active.items():
            if view.in_scope(subject):
                unusual.setdefault(subject, []).append(one)
        told = [self._finding(subject, found, view) for subject, found in unusual.items()]
        for subject in [subject for subject in self._settled if view.in_scope(subject)]:
            one = self._settled.pop(subject)
            if subject not in unusual:
                is_over = self._finding(subject, [one], view)
                told.append(replace(is_over, summary=f"{is_over.summary}; by now it counts as usual", healthy_when=()))
        return told

    def _learn(self, view: View) -> None:
        known = self.known
        seen = view.sight.columns(known.wants_metric)
        subjects = {subject for subject, _ in seen.names}
        seen = seen.without({s for s in subjects if not known.wants_subject(s) or is_young(view, s)})
        values = known.seats.values(seen, lambda: known.engine.size, view.wall)
        alarms = known.learn(values, view.wall)
        if len(alarms):
            told = dict(zip(alarms.tolist(), known.engine.explain_all(alarms), strict=True))
            for series in seen.names:
                row = known.seats.row_of.get(series)
                if row is not None and row in told:
                    self._note(series, told[row], view)
        known.sweep(view.wall)

    def _note(self, series: Series, told: Explanation, view: View) -> None:
        if is_born_small(view, *series, told.value, told.low):
            return
        judged = _judged(*series, told)
        before = self._active.get(series)
        if before is not None:
            judged = before.judged if before.judged.number >= judged.number else judged
        self._active[series] = _Active(
            view.now if before is None else before.since,
            judged,
            view.now,
            not told.low <= told.value <= told.high,
        )

    def _let_go(self, view: View) -> None:
        for series, one in list(self._active.items()):
            if not view.in_scope(series[0]):
                continue
            seen = view.latest(*series)
            row = self.known.seats.row_of.get(series)
            at = view.sight.seen_at(*series)
            if seen is None or at is None or row is None or view.now - at > UNHEARD:
                del self._active[series]
            elif view.now - one.since > self.config.longest:
                self._settled[series[0]] = self._active.pop(series)
            elif at > one.seen_at:
                is_counter = self.known._is_counter(series[1])
                if is_counter or not one.is_outside:
                    # By the next look that is not unusual.
                    if self._looked_at is not None and self._looked_at > one.seen_at:
                        del self._active[series]
                elif all(COMPARE[sign.op](seen.value, sign.value) for sign in _well(one.judged)):
                    del self._active[series]

    @staticmethod
    def _is_grave(found: list[_Active], now: float) -> bool:
        """Whether several of its numbers that do not measure the same are clearly unusual, and not for a moment."""
        clear = {
            SAME.sub("", one.judged.metric)
            for one in found
            if one.judged.number >= CLEAR * one.judged.limit and now - one.since >= LASTS
        }
        return len(clear) >= SEVERAL

    def _finding(self, subject: str, found: list[_Active], view: View) -> Finding:
        found.sort(key=lambda one: -one.judged.number)
        whole = sum(one.judged.number for one in found) or 1.0
        judged = [replace(one.judged, share=one.judged.number / whole) for one in found]
        first = judged[0]
        more = f" and {len(judged) - 1} more" if len(judged) > 1 else ""
        because = tuple(seen for one in judged if (seen := view.latest(one.subject, one.metric)) is not None)
        return Finding(
            analyzer=self.name,
            subject=subject,
            fault="unusual",
            severity=Severity.WARNING if self._is_grave(found, view.now) else Severity.INFO,
            since=min(one.since for one in found),
            summary=f"{subject}: {first.metric} is {shown(first.metric, first.value)}, "
            f"usually {_span(first)} ({first.why}){more}",
            because=because,
            healthy_when=tuple(condition for one in found for condition in _well(one.judged))
            if all(one.is_outside for one in found)
            else (),
            data={**judged_data(judged), "causes": causes_of(judged)},
        )

    # What charts show

    def band(self, subject: str, metric: str, since: float, until: float) -> Sequence[tuple[float, float, float]]:
        """As it is now, or was when the series became unusual; a counter's is of its rate and fits no chart of it."""
        if self.known._is_counter(metric):
            return ()
        active = self._active.get((subject, metric))
        row = self.known.seats.row_of.get((subject, metric))
        if active is not None and active.judged.low is not None and active.judged.high is not None:
            low, high = active.judged.low, active.judged.high
        elif row is not None and not self.known.engine.learning()[row]:
            lows, highs = self.known.engine.band(np.array([row]))
            low, high = _possible(metric, float(lows[0]), float(highs[0]))
        else:
            return ()
        return [(since, low, high), (until, low, high)]

    # What outlives it

    def learnt(self) -> bytes:
        return self.known.pack() if len(self.known.seats) else b""

    def nearest(self, subject: str, most: int = 3) -> Sequence[Judged]:
        """The series of a subject that are nearest to a finding, though they may be far from it."""
        known = self.known
        found = [(row, series) for series, row in known.seats.row_of.items() if series[0] == subject]
        learning = known.engine.learning()
        near = sorted(
            (
                (float(known.engine.scores[row] / known.engine.limits[row]), row, metric)
                for row, (_, metric) in found
                if not learning[row]
            ),
            reverse=True,
        )[:most]
        return [_judged(subject, metric, known.engine.explain(row)) for _, row, metric in near]

    def progress(self) -> Progress:
        known = self.known
        rows = np.fromiter(known.seats.row_of.values(), np.intp, len(known.seats))
        return Progress(len(rows), int(known.engine.learning()[rows].sum()), known.seats.turned_away)

    def take_up(self, learnt: bytes, wall: float) -> None:
        self.known.merge(learnt)

    def teach(self, lesson: Lesson) -> str:
        if lesson.kind == "learnt":
            return self._take_over(lesson)
        if lesson.right is None:
            return ""
        said = [
            sentence
            for judged in all_judged_of(lesson.data)
            if judged.named == "novelty" and (sentence := self._judge(judged, lesson.right, lesson.incident))
        ]
        return "; ".join(said)

    def _take_over(self, lesson: Lesson) -> str:
        patterns = lesson.data.get("forget")
        if isinstance(patterns, list | tuple):
            names = self.known.seats.let_go(named(map(str, patterns), self.known.seats.row_of))
            return f"{self.name} begins anew with {len(names)} series"
        if not lesson.body:
            return ""
        rows, engine = self.known.seats.row_of, self.known.engine
        moved = engine.limits != np.float32(engine.settings.base)
        before = {name: float(engine.limits[row]) for name, row in rows.items() if moved[row]}
        taken = self.known.merge(lesson.body, seen_at=lesson.at)
        for name in before.keys() & set(taken):  # what people said of it here holds, whatever its past was like
            engine.set_limit(rows[name], before[name])
        left = f"; {self.known.damaged} were damaged" if self.known.damaged else ""
        left += f"; {self.known.seats.turned_away} found no room" if self.known.seats.turned_away else ""
        return f"{self.name} took over what was learnt of {len(taken)} series{left}"

    def _judge(self, judged: Judged, right: bool, incident: str) -> str:
        row = self.known.seats.row_of.get((judged.subject, judged.metric))
        if row is None:
            return ""
        if not (isfinite(judged.number) and judged.number >= 0):
            return f"{judged.subject} {judged.metric} has no novelty to learn from, but {judged.number:g}"
        engine = self.known.engine
        word = (incident, judged.subject, judged.metric)
        if word in self._words:
            engine.set_limit(row, self._words[word])  # the last word on an incident counts, not the sum of them
        before = float(engine.limits[row])
        if incident:
            self._words[word] = before
        while len(self._words) > MOST_WORDS:
            self._words.pop(next(iter(self._words)))
        engine.judge(row, right, judged.number)
        if not right and (one := self._active.pop((judged.subject, judged.metric), None)) is not None:
            self._settled[judged.subject] = one
        return (
            f"{judged.subject} {judged.metric} is unusual from a novelty of {float(engine.limits[row]):.3g} on "
            f"(it was {before:.3g})"
        )


def _judged(subject: str, metric: str, told: Explanation) -> Judged:
    why = told.feature or "level"
    low, high = _possible(metric, told.low, told.high)
    return Judged(subject, metric, told.value, low, high, told.score, told.limit, "novelty", why=why)


def _possible(metric: str, low: float, high: float) -> tuple[float, float]:
    """A share lies between nothing and all, whatever a series would have to do to be unusual."""
    if not metric.endswith("_ratio"):
        return low, high
    return min(max(low, 0.0), high), max(min(high, 1.0), low)


def _well(judged: Judged) -> Iterable[Condition]:
    """More than half of the way back to where it is usual, on the side on which it left: nothing is ever just as it
    was."""
    if judged.high is not None and judged.value > judged.high:
        yield Condition(judged.metric, "<=", (judged.high + judged.value) / 2)
    elif judged.low is not None and judged.value < judged.low:
        yield Condition(judged.metric, ">=", (judged.low + judged.value) / 2)


def _span(judged: Judged) -> str:
    if judged.low is None or judged.high is None:
        return "elsewhere"
    low, high = shown(judged.metric, judged.low), shown(judged.metric, judged.high)
    return f"{low} to {high}" if low != high else f"about {low}"


PLUGIN = analyzer(Config, lambda name, config, tools: Baseline(name, config))
