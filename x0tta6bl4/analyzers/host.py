"""Judges all numbers of a subject together: a little of everything at once is a sign, and the oddest say why."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from pydantic import Field

from x0tta6bl4.analyzers._series import COUNTERS, Patterns, Rates, Rows, Seats, is_born_small, is_young, named
from x0tta6bl4.analyzers.baseline import NOT_LEARNT
from x0tta6bl4.judgement.snapshots import pack, unpack
from x0tta6bl4.judgement.together import Settings, Together
from x0tta6bl4.kernel.facts import Finding, Severity, shown
from x0tta6bl4.kernel.judged import MOST, Judged, all_judged_of, causes_of, judged_data
from x0tta6bl4.kernel.lessons import Lesson, Progress
from x0tta6bl4.kernel.plugin import PluginConfig, analyzer
from x0tta6bl4.kernel.sight import View
from x0tta6bl4.kernel.traces import Series
from x0tta6bl4.kernel.units import Seconds

FORM = "x0tta6bl4.host"
"""What its snapshots call themselves."""
NUMBER = "strangeness of all its numbers together"
STAYS = 0.6
"""Part of its limit under which the score of a subject must fall until it is not strange any more."""
ALONE = 0.5
"""Share of a score from which one number is most of it: a single glitch is not a subject that is strange, so it has to
be there at the next look as well."""
BORN = 0.5
"""Share of a score that may come from a new process being smaller than the one before; with more, that is all it is."""


class Config(PluginConfig):
    metrics: list[str] = Field(default_factory=lambda: ["*"], min_length=1)
    """Which metrics are judged, as shell patterns."""
    exclude: list[str] = Field(default_factory=lambda: list(NOT_LEARNT))
    """Which of those are not. What only ever grows, and yes-or-no answers, say nothing here."""
    counters: list[str] = Field(default_factory=lambda: list(COUNTERS))
    """Metrics that count up and begin anew with their process: their rate a second is judged."""
    subjects: list[str] = Field(default_factory=lambda: ["*"], min_length=1)
    """Which subjects are judged, as shell patterns."""
    least_metrics: int = Field(default=4, ge=2)
    """Numbers that a subject must have: fewer are the baseline's business alone."""
    every: Seconds = Field(default=60.0, ge=1)
    """Seconds between two looks. Fewer find sooner, at more cost; what is learnt is in seconds and stays."""
    sensitivity: float = Field(default=Settings.sensitivity, gt=0)
    """How odd a subject must be; without a value here ``mapek.anomaly_threshold`` counts. Raised, less is found."""
    budget: float = Field(default=Settings.budget, gt=0, le=1000)
    """False alarms of one subject in a week that are acceptable: the limit of one that says more rises until it keeps
    to it, and sinks again slowly."""
    learning: Seconds = Field(default=Settings.learning, gt=0)
    """Seconds for which a new number is only learnt. Less takes the daily rhythm for a fault."""
    most_series: int = Field(default=20_000, ge=2)
    """Numbers that are judged at most; further ones are left out."""
    longest: Seconds = Field(default=6 * 3600.0, gt=0)
    """Seconds after which what was odd counts as usual, and its finding ends."""


@dataclass(slots=True)
class _Active:
    since: float
    """Monotonic seconds."""
    judged: tuple[Judged, ...]
    count: int
    """All the metrics that had a part in it."""
    score: float


class HostAnalyzer:
    """One finding for each subject that is odd as a whole, with the share of each number in it."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self.wants_metric = Patterns(config.metrics, config.exclude)
        self.wants_subject = Patterns(config.subjects, ())
        self.engine = Together(Settings(sensitivity=config.sensitivity, budget=config.budget, learning=config.learning))
        self.seats = Seats(self._add, self._drop, config.most_series)
        self._rates = Rates(Patterns(config.counters, ()))
        self._group_of: dict[str, int] = {}
        self._free_groups: list[int] = []
        self._subject_of: dict[int, str] = {}
        self._metrics: dict[int, dict[int, str]] = {}
        """Group -> its rows, and whose metric each is."""
        self._looked_at: float | None = None
        self._active: dict[str, _Active] = {}
        self._odd_since: dict[str, float] = {}
        """Subject -> since which look its score is over its limit, whether it was told or not."""

    def _add(self, names: Sequence[Series]) -> Rows:
        rows = np.empty(len(names), np.intp)
        of_subject: dict[str, list[int]] = {}
        for n, (subject, _) in enumerate(names):
            of_subject.setdefault(subject, []).append(n)
        for subject, places in of_subject.items():
            group = self._group_of.get(subject)
            if group is None:
                group = self._free_groups.pop() if self._free_groups else len(self._subject_of)
                self._group_of[subject] = group
                self._subject_of[group] = subject
                self._metrics[group] = {}
            rows[places] = self.engine.add(group, len(places))
            self._metrics[group].update((int(rows[n]), names[n][1]) for n in places)
        return rows

    def _drop(self, rows: Rows) -> None:
        self.engine.drop(rows)
        gone = set(rows.tolist())
        for group, metrics in list(self._metrics.items()):
            for row in gone & metrics.keys():
                del metrics[row]
            if not metrics:
                del self._metrics[group]
                del self._group_of[self._subject_of.pop(group)]
                self._free_groups.append(group)

    def analyze(self, view: View) -> Sequence[Finding]:
        if view.scope is None and (self._looked_at is None or view.now - self._looked_at >= 0.9 * self.config.every):
            self._looked_at = view.now
            self._look(view)
        for subject, one in list(self._active.items()):
            if view.now - one.since > self.config.longest:
                del self._active[subject]
        return [self._finding(name, one, view) for name, one in self._active.items() if view.in_scope(name)]

    def _look(self, view: View) -> None:
        seen = view.sight.columns(self.wants_metric)
        subjects = {subject for subject, _ in seen.names}
        few = self._with_few(seen.names)
        out = {s for s in subjects if s in few or not self.wants_subject(s) or is_young(view, s)}
        seen = self._rates.of(seen.without(out))
        values = self.seats.values(seen, lambda: self.engine.size, view.wall)
        self.engine.update(values, view.wall)
        alarms = {self._subject_of[group] for group in self.engine.alarms().tolist()}
        for subject in alarms:
            self._note(subject, view)
        self._odd_since = {subject: self._odd_since.get(subject, view.now) for subject in alarms}
        for subject in self._active.keys() - alarms:
            group = self._group_of.get(subject)
            # What hovers about its limit is one finding, and not one a minute.
            if group is None or self.engine.scores[group] < STAYS * self.engine.limits[group]:
                del self._active[subject]
        self.seats.sweep(view.wall, self._is_learning)

    def _is_learning(self, rows: Rows) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        learning = self.engine.learning()
        group_of = {row: group for group, metrics in self._metrics.items() for row in metrics}
        return np.array([learning[group_of[row]] for row in rows.tolist()], np.bool_)

    def _with_few(self, names: Sequence[Series]) -> set[str]:
        count: dict[str, int] = {}
        for subject, _ in names:
            count[subject] = count.get(subject, 0) + 1
        return {subject for subject, many in count.items() if many < self.config.least_metrics}

    def _note(self, subject: str, view: View) -> None:
        group = self._group_of[subject]
        before = self._active.get(subject)
        score = float(self.engine.scores[group])
        if before is not None and before.score >= score:
            return
        told = self._judged(subject, view)
        if sum(one.share for one in told if is_born_small(view, subject, one.metric, one.value, one.low)) > BORN:
            return
        since = self._odd_since.get(subject, view.now) if before is None else before.since
        if before is None and since == view.now and told and told[0].share > ALONE:
            return
        self._active[subject] = _Active(since, tuple(told[:MOST]), len(told), score)

    def _judged(self, subject: str, view: View | None) -> list[Judged]:
        group = self._group_of[subject]
        score, limit = float(self.engine.scores[group]), float(self.engine.limits[group])
        told = []
        for row, share in self.engine.contributions(group):
            metric = self._metrics[group][row]
            low, high = self.engine.usual(row)
            rate = self._rates.latest(subject, metric)
            seen = view.value(subject, metric) if view is not None and rate is None else rate
            value = seen if seen is not None else float("nan")
            told.append(Judged(subject, metric, value, low, high, score, limit, NUMBER, share, self.engine.way(row)))
        return told

    def _finding(self, subject: str, one: _Active, view: View) -> Finding:
        first = one.judged[0] if one.judged else None
        what = (
            f": above all {first.metric} ({first.why}, {first.share:.0%}), {shown(first.metric, first.value)}"
            if first is not None
            else ""
        )
        return Finding(
            analyzer=self.name,
            subject=subject,
            fault="strange",
            severity=Severity.WARNING,
            since=one.since,
            summary=f"{subject}: {one.count} of its numbers are odd together{what}",
            because=tuple(seen for j in one.judged if (seen := view.latest(j.subject, j.metric)) is not None),
            data={**judged_data(one.judged), "judged_count": one.count, "causes": causes_of(one.judged)},
        )

    def nearest(self, subject: str, most: int = 3) -> Sequence[Judged]:
        """What would be told of the subject, though it may be far from a finding."""
        group = self._group_of.get(subject)
        if group is None or self.engine.learning()[group]:
            return []
        return [j for j in self._judged(subject, None) if j.value == j.value][:most]

    # What outlives it

    def learnt(self) -> bytes:
        if not len(self.seats):
            return b""
        arrays, header = self.seats.told()
        groups = [self._subject_of.get(group) for group in range(max(self._subject_of) + 1)]
        return pack({**arrays, **self.engine.snapshot()}, {"form": FORM, **header, "groups": groups})

    def take_up(self, learnt: bytes, wall: float) -> None:
        arrays, header = unpack(learnt)
        if header.get("form") != FORM:
            raise ValueError(f"this was not learnt by a judge of hosts (it says {header.get('form')!r})")
        series, rows = Seats.read(arrays, header)
        groups = header.get("groups")
        if not isinstance(groups, list):
            raise ValueError("the names of the subjects are missing")
        group_of = {name: number for number, name in enumerate(groups) if isinstance(name, str)}
        if strangers := {subject for subject, _ in series} - group_of.keys():
            raise ValueError(f"nothing says which group {min(strangers)!r} is")
        self.engine.restore(arrays)
        self._group_of = group_of
        self._subject_of = {number: name for name, number in group_of.items()}
        self._free_groups = [number for number in range(len(groups)) if number not in self._subject_of]
        self._metrics = {number: {} for number in group_of.values()}
        for (subject, metric), row in zip(series, rows.tolist(), strict=True):
            self._metrics[group_of[subject]][row] = metric
        self.seats.take_up(series, rows, arrays["seats.seen"].astype(np.float64))

    def teach(self, lesson: Lesson) -> str:
        if lesson.kind == "learnt":
            return self._forget(lesson)
        if lesson.right is None:
            return ""
        told = [j for j in all_judged_of(lesson.data) if j.named == NUMBER and isfinite(j.number) and j.number >= 0]
        said = []
        for judged in {j.subject: j for j in reversed(told)}.values():
            group = self._group_of.get(judged.subject)
            if group is None:
                continue
            before = float(self.engine.limits[group])
            self.engine.judge(group, lesson.right, judged.number)
            if not lesson.right:
                self._active.pop(judged.subject, None)
            said.append(
                f"{judged.subject} is strange from {float(self.engine.limits[group]):.3g} on (it was {before:.3g})"
            )
        return "; ".join(said)

    def _forget(self, lesson: Lesson) -> str:
        """What others have learnt of a whole subject does not fit another; only forgetting is for this analyzer."""
        patterns = lesson.data.get("forget")
        if not isinstance(patterns, list | tuple):
            return ""
        gone = self.seats.let_go(named(map(str, patterns), self.seats.row_of))
        return f"{self.name} begins anew with {len(gone)} numbers"

    def progress(self) -> Progress:
        groups = np.array(sorted(self._subject_of), np.intp)
        return Progress(len(groups), int(self.engine.learning()[groups].sum()), self.seats.turned_away)


PLUGIN = analyzer(Config, lambda name, config, tools: HostAnalyzer(name, config))
