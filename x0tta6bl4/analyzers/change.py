"""Ties a step or drift of a number to the deploy, configuration change, restart or act of ours that came before it."""

import base64
import json
import math
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from itertools import islice

import numpy as np
from pydantic import Field

from x0tta6bl4.analyzers._series import COUNTERS, GROWS
from x0tta6bl4.judgement.shifts import (
    BLOCK,
    LEAST_SPAN,
    PRE,
    Before,
    Pasts,
    Shift,
    before_read,
    before_told,
    drift,
    step,
)
from x0tta6bl4.kernel.facts import Condition, Finding, Observation, Occurrence, Severity, shown
from x0tta6bl4.kernel.judged import MOST, Judged, all_judged_of, judged_data
from x0tta6bl4.kernel.lessons import Lesson
from x0tta6bl4.kernel.plugin import PluginConfig, analyzer
from x0tta6bl4.kernel.sight import View
from x0tta6bl4.kernel.subjects import Subject, subject_of
from x0tta6bl4.kernel.traces import Series
from x0tta6bl4.kernel.units import Seconds

FAULT = "changed"
ALTERED = "altered."
ENDED = "process ended"
RESTART, ACT = "restart", "act"
"""Kinds of events that nobody notes: something began anew, or the daemon did something about it."""

TAKE_EVERY = 15.0
"""Seconds between two values of a series that are counted, however often the loop turns."""
TOGETHER = 600.0
"""Seconds within which a restart belongs to what was noted beside it: a deploy restarts what it deploys."""
LATE = 3600.0
"""Seconds after which nothing is made of an event any more that is told only then: what it was before is forgotten."""
LATEST_DRIFT = 7200.0
"""Seconds after an event in which a drift is looked for."""
MOST_EVENTS = 64
MOST_WATCHED = 400
"""Events, and series after them, that are looked at together. The oldest without a finding go first."""
MOST_POINTS = 400
"""Values kept of one of those series."""
MOST_KNOWN = 500
"""Events that are remembered as told, so that none counts twice when the daemon starts anew."""
MOST_BEGAN = 10_000
"""Subjects whose beginning is remembered; past that, those that are not seen any more are forgotten."""
BACK = 3
"""Values that say together whether a series is back."""
SAME_BEGIN = 5.0
"""Seconds by which the time at which a process began may seem to move without its being another process."""

LEFT_OUT = re.compile(r".*_(up|status|limit|job|failed|stopped|auto_restart|on_purpose|age_seconds)|alert_.*|tls_.*")
"""Yes and no, codes, and what goes on by itself: other analyzers judge them, or nobody needs to."""
NEW_PROCESS = 0.5
"""Share by which what begins small with every new process must be more than before to count: less says nothing, and a
little more hardly anything."""
LESS_IS_WORSE = re.compile(
    r"(.*_)?(free|available|left|idle|success|successes|hits|healthy|ready|remaining|headroom)(_.*)?"
)
MORE_IS_WORSE = re.compile(
    r"(.*_)?(seconds|latency|duration|delay|lag|wait|waiting|errors?|fail|failed|failures?|faults?|drops?|dropped|"
    r"rejects?|rejected|refused|retry|retries|timeouts?|load|load1|memory|rss|heap|used|busy|cpu|psi|swap|queue|queued|"
    r"pending|backlog|depth|zombies|threads|fds|restarts|warning|exceptions|panics|misses|pressure)(_.*)?"
)
FLOORS = {"ratio": 0.005, "seconds": 0.0005, "bytes": 262144.0, "minute": 0.05, "second": 0.01, "percent": 0.5}
"""What is nothing, whatever a series did before, by the last word of its metric's name."""


class Config(PluginConfig):
    shift: float = Field(default=4.0, ge=2, le=50)
    """Spreads by which a series must have moved to count as changed; a spread is what it usually wanders within an
    hour. Lower finds smaller changes and blames more events for nothing. Where many series are looked at, and where
    little is known of one, more is asked by itself."""
    within: Seconds = Field(default=1800.0, gt=0, le=LATE)
    """Seconds after an event in which a step must begin to be tied to it. Longer ties slow effects to it as well, and
    more that has nothing to do with it. A drift has to begin within two hours."""
    settle: Seconds = Field(default=120.0, ge=0, le=1800)
    """Seconds after an event, or after the start of a process that came with it, that are not looked at: caches are
    cold then. Longer for services that take longer to warm up; everything is found so much later."""
    window: Seconds = Field(default=3600.0, ge=600, le=LATEST_DRIFT)
    """Seconds after an event for which a step may gather proof. Longer finds changes of noisy series."""
    remember: Seconds = Field(default=21600.0, ge=600)
    """Seconds after which what has not gone back is the new normal, and no finding any more."""


@dataclass(slots=True)
class Event:
    """Something that may show in the numbers of its subject, and of those that depend on it or are of its group."""

    subject: str
    kind: str
    at: float
    """Monotonic seconds, as all times here."""
    detail: str = ""
    settled: float = 0.0
    anew: bool = False
    """A process began with it."""
    noted: bool = False
    """People or their tools told of it; else it was seen."""
    watched: int = 0
    """Series looked at after it: the more, the more one of them must move."""


@dataclass(slots=True)
class _Watch:
    """One series after an event."""

    event: Event
    series: Series
    before: Before
    is_worse: bool | None = None
    """Whether what became of it is for the worse; None: nobody can say."""
    shift: Shift | None = None
    ats: "array[float]" = field(default_factory=lambda: array("d"))
    values: "array[float]" = field(default_factory=lambda: array("d"))
    raw: tuple[float, float] | None = None
    """Of a counter: the latest time and count."""
    judged_at: float = -math.inf
    """Time of the latest value that was judged."""

    def add(self, at: float, value: float) -> None:
        self.ats.append(at)
        self.values.append(value)
        if len(self.ats) > MOST_POINTS:
            # Every other one of the first half: what is old need not be so fine.
            half = len(self.ats) // 2
            self.ats[:] = self.ats[:half:2] + self.ats[half:]
            self.values[:] = self.values[:half:2] + self.values[half:]

    @property
    def now(self) -> float:
        return float(np.median(self.values[-BACK:])) if self.values else math.nan

    @property
    def is_beyond(self) -> bool:
        """Whether it has not gone back to where it was before."""
        if self.shift is None:
            return False
        now = self.now
        if math.isnan(now):
            return True  # nothing was seen since an earlier life found it
        return now > self.shift.high if self.shift.rises else now < self.shift.low


class Change:
    """What every series was before is kept for all of them; what came after only for those near a recent event."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._pasts = Pasts(is_counter, floor_of)
        self._is_judged: dict[str, bool] = {}
        self._events: list[Event] = []
        self._watches: list[_Watch] = []
        self._known: dict[tuple[str, str, int], None] = {}
        """Subject, kind and wall-clock second of events that were noted."""
        self._began: dict[str, float] = {}
        self._acted: dict[str, float] = {}
        self._taken_at = -math.inf
        self._first: float | None = None
        self._offset = 0.0
        """What makes a monotonic time one of the clock on the wall."""
        self._is_normal: list[_Watch] = []
        """What has just become the new normal, and has still to be told."""
        self._left: bytes = b""

    # -- judging ---------------------------------------------------------------------------------------------------

    def analyze(self, view: View) -> Sequence[Finding]:
        self._begin(view)
        if view.now - self._taken_at >= TAKE_EVERY:
            self._take(view)
        for event in self._heard(view):
            self._note(event, view)
        self._judge_all(view)
        return self._findings(view)

    def _begin(self, view: View) -> None:
        if self._first is None:
            self._first = view.now
        self._offset = view.wall - view.now
        if self._left:
            left, self._left = self._left, b""
            self._take_over(left)

    def _take(self, view: View) -> None:
        self._taken_at = view.now
        seen = view.sight.columns(self._wanted)
        self._pasts.take(seen.names, seen.values, seen.ats, view.now, view.wall)

    def _wanted(self, metric: str) -> bool:
        known = self._is_judged.get(metric)
        if known is None:
            if len(self._is_judged) > 10_000:
                self._is_judged.clear()  # names that are made up anew each time must not fill the memory
            known = self._is_judged[metric] = LEFT_OUT.fullmatch(metric) is None
        return known

    # -- events ----------------------------------------------------------------------------------------------------

    def _heard(self, view: View) -> Iterator[Event]:
        """What this turn tells of."""
        settle = self.config.settle
        for told in view.occurrences:
            if told.kind.startswith(ALTERED):
                kind = told.kind.removeprefix(ALTERED)
                key = (told.subject, kind, round(told.at + self._offset))
                if not any((key[0], key[1], key[2] + near) in self._known for near in (-1, 0, 1)):
                    self._known[key] = None
                    yield Event(told.subject, kind, told.at, told.detail, told.at + settle, noted=True)
            elif told.kind == ENDED:
                yield Event(told.subject, RESTART, told.at, told.detail, told.at + settle, True)
        while len(self._known) > MOST_KNOWN:
            self._known.pop(next(iter(self._known)))
        for age in view.sight.of_metric("process_age_seconds"):
            began = (view.sight.seen_at(age.subject, age.metric) or view.now) - age.value
            before = self._began.get(age.subject)
            if before is None or abs(began - before) > SAME_BEGIN:
                self._began[age.subject] = began
                if before is not None and began > before:
                    yield Event(age.subject, RESTART, began, "", began + settle, True)
        if len(self._began) > MOST_BEGAN:
            there = {age.subject for age in view.sight.of_metric("process_age_seconds")}
            self._began = {name: at for name, at in self._began.items() if name in there}
        for name in view.sight.subjects:
            acted = view.sight.acted_at(name)
            if acted is not None and acted > self._acted.get(name, self._first or 0.0):
                self._acted[name] = acted
                yield Event(name, ACT, acted, "", acted + settle)

    def _note(self, event: Event, view: View) -> None:
        """Takes it for one of its own, or for a part of another."""
        if view.now - event.at > LATE:
            return
        for other in self._events:
            is_apart = event.noted and other.noted
            if other.subject == event.subject and abs(other.at - event.at) <= TOGETHER and not is_apart:
                self._join(other, event)
                return
        self._make_room(MOST_EVENTS - 1, lambda: len(self._events))
        self._events.append(event)
        wall = event.at + self._offset
        room = MOST_WATCHED - len(self._watches)
        names = affected(view.sight.subjects, event.subject)
        near = list(islice((series for name in names for series in self._series_of(view, name)), MOST_WATCHED))
        if len(near) > room:
            self._make_room(max(0, MOST_WATCHED - len(near)), lambda: len(self._watches))
            near = near[: MOST_WATCHED - len(self._watches)]
        for series in near:
            before = self._pasts.before(series, event.at, wall)
            if before is not None:
                watch = _Watch(event, series, before)
                self._look_back(watch, view)
                self._watches.append(watch)
                event.watched += 1

    def _join(self, other: Event, event: Event) -> None:
        if event.noted or (event.kind == ACT and other.kind == RESTART):
            other.kind, other.detail, other.noted = event.kind, event.detail, event.noted
        elif not other.detail and event.kind == other.kind:
            other.detail = event.detail
        other.anew = other.anew or event.anew
        other.settled = max(other.settled, event.settled)

    def _make_room(self, most: int, count: Callable[[], int]) -> None:
        """Those that showed nothing go first, then the oldest."""
        found = {id(w.event) for w in self._watches if w.shift is not None}
        for event in sorted(self._events, key=lambda e: (id(e) in found, e.at)):
            if count() <= most:
                return
            self._drop(event)

    def _drop(self, event: Event) -> None:
        self._events = [e for e in self._events if e is not event]
        self._watches = [w for w in self._watches if w.event is not event]

    def _series_of(self, view: View, subject: str) -> Iterator[Series]:
        for seen in view.sight.about(subject):
            if self._wanted(seen.metric) and (subject, seen.metric) in self._pasts:
                yield subject, seen.metric

    # -- what came after -------------------------------------------------------------------------------------------

    def _look_back(self, watch: _Watch, view: View) -> None:
        """What was seen round the event before anybody told of it."""
        since = watch.event.at - PRE
        trace = view.sight.trace(*watch.series)
        begins = trace.ats[0] if trace is not None and len(trace.ats) else view.now
        ats, means = self._pasts.means(watch.series, since, max(since, min(begins, view.now)))
        for at, mean in zip(ats.tolist(), means.tolist(), strict=True):
            if not math.isnan(mean):
                watch.add(at, mean)
        if trace is not None:
            self._look_on(watch, view, max(since, begins))

    def _look_on(self, watch: _Watch, view: View, since: float) -> None:
        """Values as far apart as they are seen, from its trace where there is one: turns may be rare."""
        subject, metric = watch.series
        seen_at = view.sight.seen_at(subject, metric)
        if seen_at is None:
            return
        trace = view.sight.trace(subject, metric)
        if trace is None:
            value = view.value(subject, metric)
            if value is not None and seen_at > since:
                self._add(watch, seen_at, value)
            return
        pace = max(TAKE_EVERY, abs(trace.usual) * (2.0 if is_counter(metric) else 1.0))
        ats, values = trace.since(since - pace)
        at = since + pace
        while at <= seen_at:
            index = bisect_right(ats, at) - 1
            if index >= 0 and not math.isnan(values[index]):
                self._add(watch, at, values[index])
            at += pace

    def _add(self, watch: _Watch, at: float, value: float) -> None:
        if not math.isfinite(value):
            return
        if is_counter(watch.series[1]):
            before, watch.raw = watch.raw, (at, value)
            if before is None or value < before[1] or at <= before[0]:
                return
            value = (value - before[1]) / (at - before[0])
        watch.add(at, value)

    def _judge_all(self, view: View) -> None:
        for watch in self._watches:
            last = watch.ats[-1] if watch.ats else watch.event.at - PRE
            if watch.raw is not None:
                last = max(last, watch.raw[0])
            if view.now - last >= TAKE_EVERY:
                self._look_on(watch, view, last)
            is_new = len(watch.ats) > 0 and watch.ats[-1] > watch.judged_at
            if is_new and watch.shift is None and view.now > watch.event.settled:
                watch.judged_at = watch.ats[-1]
                watch.shift = self._judge(watch, view)
        for event in list(self._events):
            age = view.now - event.at
            mine = [w for w in self._watches if w.event is event and w.shift is not None]
            if age > max(LATEST_DRIFT, self.config.window) + BLOCK and not mine:
                self._drop(event)
            elif age > self.config.remember:
                self._is_normal += [w for w in mine if w.is_beyond]
                self._drop(event)

    def _judge(self, watch: _Watch, view: View) -> Shift | None:
        event, config = watch.event, self.config
        age = view.now - event.at
        found: Shift | None = None
        if not watch.before.may_have_moved(watch.values[-BACK:], config.shift):
            return None
        if age <= config.window + LEAST_SPAN:
            ats, values = np.frombuffer(watch.ats), np.frombuffer(watch.values)
            found = step(watch.before, ats, values, event.at, event.settled, config.within, event.watched, config.shift)
        if found is None and age <= LATEST_DRIFT + BLOCK:
            ats, means = self._pasts.means(watch.series, event.settled, view.now)
            found = drift(watch.before, ats, means, event.at, event.watched, config.shift)
        if found is None:
            return None
        others = (w.event for w in self._watches if w.series == watch.series and w.event is not event)
        if any(event.at < other.at <= found.onset + TAKE_EVERY for other in others):
            return None  # the latest event before it is nearer to being its cause
        watch.is_worse = is_worse(watch.series[1], found.rises)
        if event.anew and GROWS.fullmatch(watch.series[1]) and found.level < (1 + NEW_PROCESS) * watch.before.level:
            return None
        if not event.noted and watch.is_worse is False:
            return None  # to be better is what a restart is for
        return found

    # -- telling ---------------------------------------------------------------------------------------------------

    def _findings(self, view: View) -> list[Finding]:
        """One of each subject: of the event that explains most of the worst."""
        by_subject: dict[str, dict[int, list[_Watch]]] = {}
        for watch in self._watches:
            if watch.is_beyond and view.in_scope(watch.series[0]):
                by_subject.setdefault(watch.series[0], {}).setdefault(id(watch.event), []).append(watch)
        told = [
            self._finding(subject, max(several.values(), key=_weight), view) for subject, several in by_subject.items()
        ]
        for watch in [w for w in self._is_normal if view.in_scope(w.series[0])]:
            if watch.series[0] not in by_subject and not view.sight.is_acted_on(watch.series[0]):
                same = [w for w in self._is_normal if w.series[0] == watch.series[0]]
                by_subject[watch.series[0]] = {}
                told.append(self._finding(watch.series[0], same, view, is_normal=True))
        if self._is_normal:
            # Told once: without signs of health the incident is over when nothing more is found.
            self._is_normal = [w for w in self._is_normal if not view.in_scope(w.series[0])]
        return told

    def _finding(self, subject: str, watches: list[_Watch], view: View, *, is_normal: bool = False) -> Finding:
        watches = sorted(watches, key=lambda w: (w.is_worse is not True, -_number(w), w.series[1]))
        event, first = watches[0].event, watches[0]
        shifts = [(w, w.shift) for w in watches if w.shift is not None]
        whole = sum(shift.number for _, shift in shifts) or 1.0
        onset = min(shift.onset for _, shift in shifts)
        what, who = _said(event)
        more = f", and {len(watches) - 1} more" if len(watches) > 1 else ""
        after = f", {_span(onset - event.at)} after it" if onset - event.at >= 30 else ""
        summary = f"{subject}: {_moved(first)}{more} since {what}{after}"
        if is_normal:
            summary += f"; it has been so for {_span(self.config.remember)} and is taken for the new normal"
        judged = [
            Judged(
                w.series[0],
                w.series[1],
                shift.level,
                shift.low if shift.low > 0 or w.before.level < 0 or not shift.rises else None,
                shift.high,
                shift.number,
                shift.limit,
                "shift in spreads of the hour before",
                shift.number / whole,
                f"{shift.kind} since {what}",
            )
            for w, shift in shifts
        ]
        signs = tuple(
            Condition(w.series[1], "<=" if shift.rises else ">=", shift.high if shift.rises else shift.low)
            for w, shift in shifts[:MOST]
            if not is_counter(w.series[1])  # a count says nothing of its pace, and never goes back
        )
        seen = [view.latest(*w.series) for w in watches[:MOST]]
        wall = event.at + self._offset
        return Finding(
            analyzer=self.name,
            subject=subject,
            fault=FAULT,
            summary=summary,
            severity=Severity.WARNING if any(w.is_worse for w in watches) and not is_normal else Severity.INFO,
            since=onset,
            because=(
                *(o for o in seen if isinstance(o, Observation)),
                Occurrence(
                    "operators" if event.noted else self.name, event.subject, event.kind, event.at, event.detail
                ),
            ),
            healthy_when=() if is_normal else signs,
            data={
                **judged_data(judged),
                "event": {
                    "kind": event.kind,
                    "at": round(wall, 3),
                    "detail": event.detail,
                    "subject": event.subject,
                    "who": who,
                },
                "causes": [
                    {
                        "subject": event.subject,
                        "name": event.kind,
                        "share": 1.0,
                        "why": f"{what} came {_span(max(0.0, onset - event.at))} before {_moved(first)}",
                    }
                ],
            },
        )

    # -- what is learnt ----------------------------------------------------------------------------------------------

    def learnt(self) -> bytes:
        """The pasts of all series, and what came of the events so far. The values since an event are not kept."""
        if self._left:
            return self._left
        if self._first is None:
            return b""
        offset = self._offset
        number = {id(event): n for n, event in enumerate(self._events)}
        told = {
            "version": 1,
            "pasts": base64.b64encode(self._pasts.kept(offset)).decode(),
            "events": [
                {**asdict(event), "at": event.at + offset, "settled": event.settled + offset} for event in self._events
            ],
            "watches": [
                {
                    "event": number[id(w.event)],
                    "series": w.series,
                    "before": {**before_told(w.before), "middle": w.before.middle + offset},
                    "is_worse": w.is_worse,
                    "shift": None if w.shift is None else {**asdict(w.shift), "onset": w.shift.onset + offset},
                }
                for w in self._watches
            ],
            "known": list(self._known),
            "began": {name: at + offset for name, at in self._began.items()},
        }
        return json.dumps(told, separators=(",", ":")).encode()

    def take_up(self, learnt: bytes, wall: float) -> None:
        """Read now, so that a mistake is told; put to use at the first look, which knows the clocks."""
        _read(learnt, 0.0)
        self._left = learnt

    def _take_over(self, learnt: bytes) -> None:
        kept = _read(learnt, self._offset)
        self._pasts, self._events, self._watches, self._known, self._began = kept

    def teach(self, lesson: Lesson) -> str:
        """A false alarm: the series may go as far again without a word. It is forgotten as slowly as its wander."""
        event = lesson.data.get("event")
        if lesson.kind != "verdict" or lesson.right is None or not isinstance(event, Mapping):
            return ""
        names = {(one.subject, one.metric) for one in all_judged_of(lesson.data)}
        if lesson.right:
            return f"{self.name}: {event.get('kind')} of {event.get('subject')} is the cause; nothing is to be changed"
        taught: list[str] = []
        for watch in self._watches:
            if watch.shift is not None and watch.series in names:
                usual = abs(watch.shift.level - watch.before.level) / watch.shift.limit
                if self._pasts.widen(watch.series, usual):
                    taught.append(watch.series[1])
                watch.shift = None
        self._watches = [w for w in self._watches if w.series not in names]
        if not taught:
            return ""
        return f"{self.name}: a shift of {', '.join(taught)} as large as this one is no finding any more"


Kept = tuple[Pasts, list[Event], list[_Watch], dict[tuple[str, str, int], None], dict[str, float]]


def _read(learnt: bytes, offset: float) -> Kept:
    """ValueError, in words, for what is not readable."""
    try:
        told = json.loads(learnt)
        if told["version"] != 1:
            raise ValueError(f"it is of version {told['version']}, and this daemon reads version 1")
        pasts = Pasts(is_counter, floor_of)
        pasts.take_up(base64.b64decode(told["pasts"]), offset)
        events = [Event(**{**e, "at": e["at"] - offset, "settled": e["settled"] - offset}) for e in told["events"]]
        watches = []
        for w in told["watches"]:
            before, shift = w["before"], w["shift"]
            watches.append(
                _Watch(
                    events[w["event"]],
                    (str(w["series"][0]), str(w["series"][1])),
                    before_read({**before, "middle": before["middle"] - offset}),
                    w["is_worse"],
                    None if shift is None else Shift(**{**shift, "onset": shift["onset"] - offset}),
                )
            )
        known = {(str(s), str(k), int(at)): None for s, k, at in told["known"]}
        return pasts, events, watches, known, {str(n): float(at) - offset for n, at in told["began"].items()}
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"what was learnt of changes cannot be read: {error!r}") from error


def affected(subjects: Mapping[str, Subject], name: str) -> list[str]:
    """The subject first, then all that depend on it, nearest first, then the others of its group."""
    dependents: dict[str, list[str]] = {}
    for s in subjects.values():
        for other in s.depends_on:
            dependents.setdefault(other, []).append(s.name)
    found = {name: None}
    queue = [name]
    for one in queue:
        new = sorted(s for s in dict.fromkeys(dependents.get(one, ())) if s not in found)
        found.update(dict.fromkeys(new))
        queue += new
    group = subject_of(subjects, name).group
    if group:
        found.update(dict.fromkeys(sorted(s.name for s in subjects.values() if s.group == group)))
    return list(found)


def is_counter(metric: str) -> bool:
    return any(fnmatchcase(metric, pattern) for pattern in COUNTERS)


def floor_of(metric: str) -> float:
    return 0.0 if is_counter(metric) else FLOORS.get(metric.rpartition("_")[2], 0.0)


def is_worse(metric: str, rises: bool) -> bool | None:
    """By the words of the metric's name; None where none of them says so."""
    if LESS_IS_WORSE.fullmatch(metric):
        return not rises
    return rises if MORE_IS_WORSE.fullmatch(metric) else None


def _number(watch: _Watch) -> float:
    return 0.0 if watch.shift is None else watch.shift.number


def _weight(watches: Iterable[_Watch]) -> tuple[bool, float, float]:
    """The worse first; of several events that explain it, the one that was nearest before it."""
    several = list(watches)
    return any(w.is_worse for w in several), several[0].event.at, max(map(_number, several))


def _said(event: Event) -> tuple[str, str]:
    """The event in words, and who noted it."""
    detail, _, who = event.detail.rpartition(" (said by ")
    who = who.removesuffix(")") if detail else event.detail.removeprefix("said by ") if event.noted else ""
    if event.kind == RESTART and not event.noted:
        return f"the restart of {event.subject}", ""
    if event.kind == ACT and not event.noted:
        return f"this daemon acted on {event.subject}", ""
    return f"the {event.kind} of {event.subject}" + (f" ({detail})" if detail else ""), who


def _moved(watch: _Watch) -> str:
    """``work_seconds rose from 0.02 to 0.15 (7.5×)``."""
    metric, shift, before = watch.series[1], watch.shift, watch.before.level
    assert shift is not None, "it is told of those that moved"
    per = " a second" if is_counter(metric) else ""
    old, new = (shown(metric, _rounded(value)) for value in (before, shift.level))
    how = "rose" if shift.rises else "fell"
    if shift.kind == "drift":
        how = "has risen steadily" if shift.rises else "has fallen steadily"
    times = shift.level / before if before else 0.0
    factor = f" ({times:.2g}×)" if times >= 1.5 or 0 < times <= 0.67 else f" ({times - 1:+.0%})" if times > 0 else ""
    return f"{metric} {how} from {old} to {new}{per}{factor}"


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


PLUGIN = analyzer(Config, lambda name, config, tools: Change(name, config))
