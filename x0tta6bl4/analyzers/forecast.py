"""Foretells when what fills or drains is used up: memory, descriptors, disks, swap, and whatever else was named."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from math import inf, isfinite

from pydantic import Field, model_validator

from x0tta6bl4.judgement.runway import Outlook, Runway
from x0tta6bl4.kernel.facts import Condition, Finding, Observation, Severity, shown
from x0tta6bl4.kernel.judged import Judged, all_judged_of, judged_data
from x0tta6bl4.kernel.lessons import Lesson
from x0tta6bl4.kernel.plugin import PluginConfig, analyzer
from x0tta6bl4.kernel.sight import View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.units import Seconds, Size

UNSEASONED = 900.0
"""Seconds of lead as long as two days were not seen: what fills slowly may be emptied every night."""
DOUBT = 0.9
"""By how much a forecast counts less until then."""
SURE = 0.8
"""How sure it must be that the end comes within the lead."""
CAREFUL_FOR = 14 * 86400.0
"""Seconds for which a false alarm makes it more careful."""
MOST_CAREFUL = 8.0
FORGET_AFTER = 14 * 24
"""Hours after which a series that was not seen again is forgotten; sooner, if it was not known for as long."""
LEAST_KEPT = 2
"""Hours for which it is kept in any case."""
HOLDS = 0.25
"""Part of the time left for which a forecast that wavers is still told, as long as nothing has gone back."""
BACK = 0.02
"""Share of the whole by which a store must have gone back until what was said of it may be taken back."""
LONGEST_NAME = 0xFFFF
"""Bytes; what has a longer one is not kept."""
MAGIC = b"runway1\n"
_SERIES = struct.Struct("<HHIdd")
Key = tuple[str, str]
"""Subject and resource."""


class Resource(PluginConfig):
    metric: str = Field(min_length=1)
    """The series to judge, e.g. ``queue_length``."""
    subjects: list[str] = Field(default_factory=lambda: ["*"])
    """Whose series, as shell patterns."""
    full: Size | float | None = None
    """The value at which it is full; with ``empties_at``, the value when nothing of it is used."""
    full_metric: str = ""
    """In place of ``full``: another metric of the same subject that says it, e.g. ``queue_capacity``."""
    empties_at: Size | float | None = None
    """For what drains instead of filling up: the value at which nothing is left. Where neither ``full`` nor
    ``full_metric`` says how much there is when nothing is used, it is the most that was seen."""
    lead: Seconds | None = Field(default=None, gt=0)
    """Seconds before the end at which it becomes a finding; empty: the analyzer's ``lead``. More gives more time and
    more false alarms."""
    fault: str = ""
    """The fault's name, by which a rule is chosen; empty: ``filling-NAME``, with ``empties_at`` ``draining-NAME``."""

    @model_validator(mode="after")
    def _sensible(self) -> "Resource":
        if self.full is not None and self.full_metric:
            raise ValueError(f"give either full or full_metric for {self.metric!r}, not both")
        if self.full is None and not self.full_metric and self.empties_at is None:
            raise ValueError(f"when is {self.metric!r} used up? Give full, full_metric or empties_at")
        if self.full is not None and self.full <= (self.empties_at or 0):
            least = "empties_at" if self.empties_at is not None else "0"
            raise ValueError(f"full ({self.full:g}) must lie above {least} ({self.empties_at or 0:g})")
        return self


class Config(PluginConfig):
    lead: Seconds = Field(default=900.0, gt=0)
    """Seconds before the end at which it becomes a finding. More gives more time and more false alarms."""
    disk_lead: Seconds = Field(default=4 * 3600.0, gt=0)
    """The same for space and inodes of disks, which fill more slowly and take a human to make room on. Until two days
    of a disk were seen it is 15 minutes at most: what a night job empties every day looks the same on the first."""
    least_rise: float = Field(default=0.05, ge=0, le=1)
    """Share of the whole by which a series must have moved before a forecast is made from it: less is noise."""
    full: float = Field(default=0.95, gt=0, le=1)
    """Share in use from which it is a finding whatever the trend."""
    window: Seconds = Field(default=600.0, gt=0)
    """Seconds of the past from which the trend is taken at least; what has a longer lead has as much past. Longer is
    steadier on what moves up and down, and needs more memory."""
    resources: dict[str, Resource] = Field(default_factory=dict)
    """What else fills or drains, each under a name of your choice: queues, pools of connections, quotas, budgets."""


@dataclass(frozen=True, slots=True)
class _Store:
    """Something finite: how much of it is used, and how much there is."""

    subject: str
    resource: str
    seen: Observation
    used: float
    whole: float
    full: float
    """Share from which it is used up; above 1: never by itself."""
    fault: str
    foretold: str
    """The fault while it is only foretold."""
    lead: float
    empty_value: float
    """The metric's value when nothing is used."""
    full_value: float
    """The metric's value when all is used."""
    lives: bool = False
    """It ends with the process that uses it."""

    @property
    def sign(self) -> Condition:
        """What must be observed again when it is well: below the limit, or above what is needed."""
        bound = self.value_at(min(self.full, 1.0))
        return Condition(self.seen.metric, "<" if self.full_value > self.empty_value else ">", bound)

    def value_at(self, share: float) -> float:
        # For free shares, 1 - 0.95 says what the operator reads, where 1 + 0.95 * (0 - 1) ends in noise.
        if (self.empty_value, self.full_value) == (1.0, 0.0):
            return 1.0 - share
        return self.empty_value + share * (self.full_value - self.empty_value)


@dataclass(slots=True)
class _Care:
    """How much more it takes to be announced, because it was announced for nothing."""

    times: float
    until: float
    """Wall-clock seconds."""


@dataclass(frozen=True, slots=True)
class _Said:
    """The latest finding of a store, when it was found, and how much was in use."""

    finding: Finding
    at: float
    share: float
    left: float
    """Seconds until the end that it told of."""


class Forecast:
    """One runway a store: what is seen goes in at each turn, and its end is asked for."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._runways: dict[Key, Runway] = {}
        self._cares: dict[Key, _Care] = {}
        self._said: dict[Key, _Said] = {}
        self._most: dict[Key, float] = {}
        """The most that was seen of what drains."""
        self._hour = 0

    # -- judging -------------------------------------------------------------------------------------------------------

    def alarms(self, subjects: Mapping[str, Subject]) -> Sequence[Condition]:
        """A process in the last third of its memory is judged whenever it is read: a fast leak has no minute left."""
        memory = [
            Condition("process_rss_bytes", ">=", 0.66 * float(limit), name)
            for name, subject in subjects.items()
            if (limit := subject.data.get("memory_limit"))
        ]
        named = [
            Condition(one.metric, ">=", self.config.full * float(one.full))
            if one.empties_at is None
            else Condition(one.metric, "<=", float(one.full) - self.config.full * (float(one.full) - one.empties_at))
            for one in self.config.resources.values()
            if one.full is not None
        ]
        return [*memory, Condition("process_fds_ratio", ">=", 0.66), *named]

    def analyze(self, view: View) -> Sequence[Finding]:
        found = [finding for store in self._stores(view) if (finding := self._judge(store, view)) is not None]
        hour = int(view.wall // 3600)
        if view.scope is None and hour != self._hour:
            self._hour = hour
            self._forget(hour)
        return found

    def _stores(self, view: View) -> Iterator[_Store]:
        config = self.config
        for seen in view.select("process_rss_bytes"):
            limit = view.subject(seen.subject).data.get("memory_limit")
            if limit and isfinite(seen.value):
                yield _Store(
                    seen.subject, "memory", seen, seen.value, float(limit), 1.0, "exhausting-memory", "leaking-memory",
                    config.lead, 0.0, float(limit), lives=True,
                )  # fmt: skip
        for seen in view.select("process_fds"):
            limit = view.value(seen.subject, "process_fds_limit")
            if limit and isfinite(seen.value) and isfinite(limit):
                yield _Store(
                    seen.subject, "descriptors", seen, seen.value, limit, config.full, "exhausting-descriptors",
                    "leaking-descriptors", config.lead, 0.0, limit, lives=True,
                )  # fmt: skip
        for metric, resource, fault, lead, full in (
            ("disk_free_ratio", "space", "filling-space", config.disk_lead, config.full),
            ("inodes_free_ratio", "inodes", "filling-inodes", config.disk_lead, config.full),
            ("memory_available_ratio", "memory", "host-memory", config.lead, config.full),
        ):
            for seen in view.select(metric):
                if isfinite(seen.value):
                    yield _Store(
                        seen.subject, resource, seen, 1.0 - seen.value, 1.0, full, fault, fault, lead, 1.0, 0.0
                    )
        for seen in view.select("swap_used_ratio"):
            if isfinite(seen.value):
                # Swap that is full and stays so harms nobody while there is memory; running full, it tells of more.
                yield _Store(
                    seen.subject, "swap", seen, seen.value, 1.0, inf, "filling-swap", "filling-swap", config.lead,
                    0.0, 1.0,
                )  # fmt: skip
        for name, named in config.resources.items():
            for seen in view.select(named.metric):
                if isfinite(seen.value) and any(fnmatchcase(seen.subject, pattern) for pattern in named.subjects):
                    store = self._named(name, named, seen, view)
                    if store is not None:
                        yield store

    def _named(self, name: str, resource: Resource, seen: Observation, view: View) -> _Store | None:
        drains = resource.empties_at is not None
        whole = resource.full
        if resource.full_metric:
            whole = view.value(seen.subject, resource.full_metric)
        least = float(resource.empties_at) if resource.empties_at is not None else 0.0
        if whole is None and drains and not resource.full_metric:
            key = (seen.subject, name)
            whole = self._most[key] = max(seen.value, self._most.get(key, seen.value))
        if whole is None or not isfinite(whole) or whole <= least:
            return None
        whole = float(whole)
        used = whole - seen.value if drains else seen.value
        fault = resource.fault or f"{'draining' if drains else 'filling'}-{name}"
        return _Store(
            seen.subject, name, seen, used, whole - least, self.config.full, fault, fault,
            resource.lead or self.config.lead, whole if drains else 0.0, least if drains else whole, lives=True,
        )  # fmt: skip

    def _judge(self, store: _Store, view: View) -> Finding | None:
        key = (store.subject, store.resource)
        sight = view.sight
        started = sight.acted_at(store.subject)
        asked = sight.asked_at(store.subject, store.seen.metric)
        seen_at = sight.seen_at(store.subject, store.seen.metric)
        is_old = started is not None and (asked is None or asked < started)
        runway = self._runways.get(key)
        if runway is None:
            runway = self._runways[key] = Runway(max(self.config.window, store.lead))
        born = self._born(store, view, started)
        if born is not None:
            runway.begin_anew(born, view.wall)
        if is_old:
            return None
        share = store.used / store.whole
        if not isfinite(share):
            return None
        # Woken turns look at the same number again and again: only a new one is a point of the line.
        if seen_at is not None and (runway.seen_at is None or seen_at > runway.seen_at):
            runway.take(seen_at, share, view.wall - (view.now - seen_at))
        before = self._said.get(key)
        # What hovers about full is used up all the time, and not by turns used up and about to be.
        was_full = before is not None and before.finding.fault == store.fault != store.foretold
        is_back = before is not None and (store.full if was_full else before.share) - share > BACK
        if is_back or (before is not None and born is not None and born > before.at):
            del self._said[key]
            before, was_full = None, False
        if share >= store.full - (BACK if was_full else 0.0):
            found: Finding | None = self._used_up(store, view)
        else:
            found = self._foretold(store, view, runway)
        if found is not None:
            self._said[key] = _Said(found, view.now, share, float(found.data.get("seconds_left", 0.0)))
        elif (
            before is not None and before.finding.fault == store.foretold and view.now - before.at < HOLDS * before.left
        ):
            return replace(before.finding, because=(store.seen,))  # the line wavers, and nothing has gone back
        return found

    @staticmethod
    def _born(store: _Store, view: View, started: float | None) -> float | None:
        """From when on its line counts: our last action, or the start of the process."""
        if not store.lives:
            return started
        age = view.value(store.subject, "process_age_seconds")
        at = view.sight.seen_at(store.subject, "process_age_seconds")
        if age is None or at is None or not isfinite(age):
            return started
        # The age is told a little before or after it is true: a second more keeps the process' own first points.
        return max(at - age - 1.0, started if started is not None else -inf)

    def _used_up(self, store: _Store, view: View) -> Finding:
        share = store.used / store.whole
        is_process = store.fault != store.foretold
        return Finding(
            analyzer=self.name,
            subject=store.subject,
            fault=store.fault,
            severity=Severity.MAJOR,
            since=view.now,
            summary=f"{store.subject}: {store.resource} is used up: {share:.0%} of {_size(store)}",
            because=(store.seen,),
            # A process that is gone uses no memory either, which is no heal: it must live and work as well.
            healthy_when=(store.sign, *(_life(store, view) if is_process or store.lives else ())),
            data={
                "resource": store.resource,
                "used": store.used,
                "whole": store.whole,
                **judged_data([self._judged(store, store.full, share, store.full, "share in use", "level")]),
            },
        )

    def _foretold(self, store: _Store, view: View, runway: Runway) -> Finding | None:
        care = self._cares.get((store.subject, store.resource))
        careful = care.times if care is not None and view.wall < care.until else 1.0
        is_seasoned = runway.knows_days
        lead = (store.lead if is_seasoned else min(store.lead, UNSEASONED)) / careful
        found = runway.outlook(view.now, view.wall, lead, self.config.least_rise, 1.0 - (1.0 - SURE) / careful)
        if found is None:
            return None
        confidence = found.confidence if is_seasoned else found.confidence * DOUBT
        share = store.used / store.whole
        until = max(0.0, 1.0 - found.slope * lead)
        fills = store.full_value > store.empty_value or store.whole == 1.0
        ends = f"ends in about {_span(found.likely)} ({_between(found)}) at this pace"
        named = "seconds until it is full" if fills else "seconds until none is left"
        well = f"an end more than {_span(lead)} away would have been no finding"
        why = "trend" if is_seasoned else "trend; less than two days of it are known"
        return Finding(
            analyzer=self.name,
            subject=store.subject,
            fault=store.foretold,
            severity=Severity.WARNING,
            since=min(found.since, view.now),
            summary=f"{store.subject}: {store.resource} {ends}: {share:.0%} of {_size(store)} is used",
            because=(store.seen,),
            # What is foretold has not come: every sign of health is there still, and would say that nothing is the
            # matter. Such an incident is over when the forecast is.
            data={
                "resource": store.resource,
                "used": store.used,
                "whole": store.whole,
                "seconds_left": round(found.likely),
                "earliest": round(found.earliest),
                "latest": round(found.latest) if isfinite(found.latest) else None,
                "per_hour": found.slope * store.whole * 3600.0,
                "confidence": round(confidence, 2),
                "days_known": is_seasoned,
                **judged_data([replace(self._judged(store, until, found.likely, lead, named, why), well=well)]),
            },
        )

    @staticmethod
    def _judged(store: _Store, bound: float, number: float, limit: float, named: str, why: str) -> Judged:
        """``bound``: the share up to which it would have been well."""
        value = store.value_at(min(bound, 1.0))
        fills = store.full_value > store.empty_value
        return Judged(
            store.subject,
            store.seen.metric,
            store.seen.value,
            low=None if fills else value,
            high=value if fills else None,
            number=number,
            limit=limit,
            named=named,
            why=why,
        )

    # -- learning ------------------------------------------------------------------------------------------------------

    def learnt(self) -> bytes:
        """The hours and the teeth of every series, and what people said of it."""
        parts = [MAGIC]
        for key in sorted({*self._runways, *self._cares}):
            runway, care = self._runways.get(key), self._cares.get(key)
            subject, resource = (word.encode("utf-8", "surrogatepass") for word in key)
            if max(len(subject), len(resource)) > LONGEST_NAME:
                continue
            packed = runway.pack() if runway is not None else b""
            times, until = (care.times, care.until) if care is not None else (1.0, 0.0)
            most = self._most.get(key)
            parts.append(_SERIES.pack(len(subject), len(resource), len(packed), times, until))
            parts.append(struct.pack("<d", most) if most is not None else struct.pack("<d", -inf))
            parts += [subject, resource, packed]
        return b"".join(parts)

    def take_up(self, learnt: bytes, wall: float) -> None:
        if not learnt.startswith(MAGIC):
            raise ValueError(f"it does not begin as what this analyzer keeps, but with {learnt[:8]!r}; it is left out")
        runways: dict[Key, Runway] = {}
        cares: dict[Key, _Care] = {}
        mosts: dict[Key, float] = {}
        place, head = len(MAGIC), _SERIES.size + 8
        while place < len(learnt):
            if len(learnt) - place < head:
                raise ValueError(f"it ends in the middle of a series, at byte {place}; it is left out")
            one, other, size, times, until = _SERIES.unpack_from(learnt, place)
            (most,) = struct.unpack_from("<d", learnt, place + _SERIES.size)
            place += head
            if len(learnt) - place < one + other + size:
                raise ValueError(f"it ends in the middle of a series, at byte {place}; it is left out")
            try:
                names = learnt[place : place + one], learnt[place + one : place + one + other]
                key = (names[0].decode("utf-8", "surrogatepass"), names[1].decode("utf-8", "surrogatepass"))
            except UnicodeDecodeError as error:
                raise ValueError(f"the name of a series at byte {place} is no text; it is left out") from error
            place += one + other
            if not (1.0 <= times <= MOST_CAREFUL and isfinite(until)):
                raise ValueError(f"{key[1]} of {key[0]} cannot be {times:g} times as careful; it is left out")
            if size:
                runways[key] = Runway(max(self.config.window, self._lead_of(key[1])))
                runways[key].unpack(learnt[place : place + size])
            if times > 1.0:
                cares[key] = _Care(times, until)
            if isfinite(most):
                mosts[key] = most
            place += size
        self._runways, self._cares, self._most = runways, cares, mosts

    def teach(self, lesson: Lesson) -> str:
        """A false alarm makes the resource harder to announce for a fortnight; one that was right, easier again."""
        if lesson.kind != "verdict" or lesson.right is None or "resource" not in lesson.data:
            return ""
        told = all_judged_of(lesson.data)
        if not told:
            return ""
        subject, resource = told[0].subject, str(lesson.data["resource"])
        if "seconds_left" not in lesson.data:
            return f"{resource} of {subject} was used up: that is no forecast, and nothing is learnt from it"
        key = (subject, resource)
        care = self._cares.get(key)
        times = care.times if care is not None and lesson.at < care.until else 1.0
        times = max(1.0, times / 2) if lesson.right else min(MOST_CAREFUL, times * 2)
        if times == 1.0:
            self._cares.pop(key, None)
            return f"{resource} of {subject} is announced as usual"
        until = lesson.at + CAREFUL_FOR
        self._cares[key] = _Care(times, until)
        day = datetime.fromtimestamp(until).strftime("%Y-%m-%d")
        return f"until {day}, {resource} of {subject} must run out {times:g} times as soon to be announced"

    def _lead_of(self, resource: str) -> float:
        named = self.config.resources.get(resource)
        if named is not None:
            return named.lead or self.config.lead
        return self.config.disk_lead if resource in ("space", "inodes") else self.config.lead

    def _forget(self, hour: int) -> None:
        for key, runway in list(self._runways.items()):
            # Disks and queues that come and go by the thousand must not be kept for a fortnight each.
            kept = min(FORGET_AFTER, max(LEAST_KEPT, runway.hours_known))
            if runway.hour is None or runway.hour < hour - kept:
                del self._runways[key]
                self._most.pop(key, None)
                self._said.pop(key, None)
        for key, care in list(self._cares.items()):
            if care.until < hour * 3600.0:
                del self._cares[key]


def _life(store: _Store, view: View) -> Iterator[Condition]:
    for metric in ("process_up", "work_up", "health_up"):
        if view.latest(store.subject, metric) is not None:
            yield Condition(metric, ">=", 1.0)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days"


def _between(found: Outlook) -> str:
    """The band, in the unit of what is likely where that reads well: ``5 to 14``."""
    if not isfinite(found.latest) or found.latest > 100 * max(found.likely, 60.0):
        return f"{_span(found.earliest)} at the earliest"
    early, late, likely = _span(found.earliest), _span(found.latest), _span(found.likely)
    unit = late.partition(" ")[2]
    if early.partition(" ")[2] == unit == likely.partition(" ")[2]:
        return f"{early.partition(' ')[0]} to {late.partition(' ')[0]}"
    return f"{early} to {late}"


def _size(store: _Store) -> str:
    if store.seen.metric.endswith("_bytes"):
        return f"{store.whole / 1048576:.0f} MiB" if store.whole >= 1048576 else shown(store.seen.metric, store.whole)
    if store.whole == 1.0:
        return "the whole"
    return f"{store.whole:g} descriptors" if store.resource == "descriptors" else f"{store.whole:g}"


PLUGIN = analyzer(Config, lambda name, config, tools: Forecast(name, config))
