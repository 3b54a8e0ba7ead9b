"""Weeks of a host's life through all analyzers, correlation and incidents: what a human hears, and what it was about.

A made host: ten services that depend on one another, disks, an interface, days, nights, weekends, a holiday, nightly
jobs, deploys and restarts, scraped once a minute. The first two weeks have no fault; later ones have some, each of them
written down with whose fault it is. Nothing is simulated of the daemon: its analyzers are those that run by default,
built as the daemon builds them, and what they find goes through its own correlation and incidents.

A message is what a runbook tells a human: a hint that is more than noted (``unusual.yaml``), or any other fault, once
for each time that its incident begins.
"""

import argparse
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from x0tta6bl4.app import draw
from x0tta6bl4.kernel.correlate import Correlation, storms
from x0tta6bl4.kernel.facts import Incident, Observation, Occurrence, Severity
from x0tta6bl4.kernel.incidents import Incidents, is_soft
from x0tta6bl4.kernel.lessons import Learner, Lesson
from x0tta6bl4.kernel.plugin import Analyzer
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.settings.model import Settings
from x0tta6bl4.testing.fakes import FakeClock, tools

Floats = NDArray[np.float64]
Random = np.random.Generator
Series = tuple[str, str]

MINUTE, HOUR, DAY, WEEK = 60.0, 3600.0, 86400.0, 604800.0
BEGIN = 1_699_833_600.0
"""A Monday, midnight, in seconds since the epoch."""
CALM_WEEKS = 2
"""Weeks at the start that have no fault."""
LASTS = 180.0
"""Seconds for which ``unusual.yaml`` waits whether a hint lasts."""
LATE = 600.0
"""Seconds after the end of a fault in which a message may still be about it."""
REST = 2 * HOUR
"""Seconds after a fault, or its length if that is more, in which what is told is its aftermath, and not wrong."""
DEPLOY = 2 * HOUR
"""Seconds after a deploy in which a word about it is no false alarm."""


# -- a host ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    name: str
    depends_on: tuple[str, ...]
    seconds: float
    """What it takes for its own part of an answer."""
    cores: float
    """Busy at full traffic."""
    memory: float
    """MiB."""
    collects: bool = False
    """Its memory goes up and down by its own garbage collection."""
    threads: int = 8


SERVICES = (
    Service("db", (), 0.004, 1.2, 1800, threads=40),
    Service("cache", (), 0.001, 0.2, 500, threads=4),
    Service("queue", (), 0.002, 0.15, 300, threads=12),
    Service("api", ("db", "cache"), 0.020, 1.4, 700, collects=True, threads=32),
    Service("web", ("api",), 0.015, 0.6, 250, threads=16),
    Service("auth", ("db",), 0.012, 0.25, 180, threads=8),
    Service("search", ("db",), 0.040, 0.8, 1500, collects=True, threads=24),
    Service("mailer", ("queue",), 0.030, 0.05, 120, threads=3),
    Service("worker", ("db", "queue"), 0.025, 0.7, 400, threads=10),
    Service("reports", ("db",), 0.050, 0.1, 350, collects=True, threads=6),
)
CORES, MEMORY = 8, 16384.0
MEMORY_LIMIT = 2.5
"""Times what a service usually has."""


@dataclass(frozen=True)
class Fault:
    kind: str
    start: int
    stop: int
    """Ticks; the first that is as before."""
    causes: tuple[str, ...]
    """Subjects of which any is the right answer to whose fault it is."""


@dataclass
class Life:
    """What is seen of some subjects in the course of time; rows are ticks, columns series."""

    at: Floats
    names: list[Series]
    values: Floats
    subjects: Mapping[str, Subject]
    faults: list[Fault] = field(default_factory=list)
    altered: list[tuple[int, str, str]] = field(default_factory=list)
    """Tick, subject and kind of what people noted."""

    @property
    def step(self) -> float:
        return float(self.at[1] - self.at[0])


def _wander(random: Random, count: int, memory: float) -> Floats:
    """Goes its way and comes back within so many ticks, with variance 1."""
    keep = math.exp(-1 / memory)
    pushes = (random.normal(size=count) * math.sqrt(1 - keep * keep)).tolist()
    found, last = np.empty(count), float(random.normal())
    for number, push in enumerate(pushes):
        last = keep * last + push
        found[number] = last
    return found


class _Host:
    """Made in two steps: what is done to it is written down first, then its numbers follow."""

    def __init__(self, weeks: int, seed: int, calm: bool) -> None:
        self.random = np.random.default_rng([seed, 0])
        self.trouble = np.random.default_rng([seed, 1])
        self.ticks = round(weeks * WEEK / MINUTE)
        self.at = BEGIN + MINUTE * np.arange(self.ticks, dtype=np.float64)
        one = np.ones(self.ticks)
        self.slow = {s.name: one.copy() for s in SERVICES}
        self.busy = {s.name: one.copy() for s in SERVICES}
        self.held = {s.name: np.zeros(self.ticks) for s in SERVICES}
        """MiB that it holds on to."""
        self.open = {s.name: np.zeros(self.ticks) for s in SERVICES}
        """Descriptors that it holds on to."""
        self.begins: dict[str, list[int]] = {s.name: [-round(30 * DAY / MINUTE)] for s in SERVICES}
        self.pressed = np.zeros(self.ticks)
        """By how much the disk is busier than it can be."""
        self.stolen = np.zeros(self.ticks)
        """Cores that something else takes."""
        self.logged = np.zeros(self.ticks)
        """Share of the disk that is written to it at a tick."""
        self.lost = np.zeros(self.ticks)
        """Packets a second."""
        self.crowd = one.copy()
        self.faults: list[Fault] = []
        self.altered: list[tuple[int, str, str]] = []
        self._deploy(weeks, calm)
        if not calm:
            self._trouble(weeks)

    def _tick(self, seconds: float) -> int:
        return round(seconds / MINUTE)

    # -- what people do ------------------------------------------------------------------------------------------------

    def _deploy(self, weeks: int, calm: bool) -> None:
        random = self.random
        for week in range(weeks):
            for day, hour in ((1, 10.5), (3, 14.0)):
                tick = self._tick(week * WEEK + day * DAY + hour * HOUR + random.uniform(0, HOUR))
                name = SERVICES[int(random.integers(len(SERVICES)))].name
                self.altered.append((tick, name, "deploy"))
                self.begins[name].append(tick)
                # Nothing is quite as it was, and nothing is wrong with it.
                self.slow[name][tick:] *= random.uniform(0.95, 1.08)
                self.busy[name][tick:] *= random.uniform(0.95, 1.08)
                if week >= CALM_WEEKS and not calm and (week + day) % 2:
                    back = tick + self._tick(random.uniform(1.5, 3) * HOUR)
                    size = random.uniform(2.5, 4)
                    self.slow[name][tick:back] *= size
                    self.busy[name][tick:back] *= 1 + size / 4
                    self.altered.append((back, name, "rollback"))
                    self.begins[name].append(back)
                    self.faults.append(Fault("bad deploy", tick, back, (name,)))
        for service in SERVICES:
            for _ in range(int(random.poisson(0.3 * weeks))):
                self.begins[service.name].append(int(random.integers(self.ticks)))

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    def _trouble(self, weeks: int) -> None:
        random, kinds = self.trouble, ("slow db", "busy disk", "leak", "slow cache", "noisy neighbour", "descriptors")
        kinds += ("bad link", "stuck worker", "runaway log", "slow service")
        order: list[str] = []
        at = CALM_WEEKS * WEEK + 12 * HOUR
        while at < weeks * WEEK - 14 * HOUR:
            if not order:
                order = [str(kind) for kind in random.permutation(kinds)]
            start = self._tick(at)
            if not any(abs(start - f.start) < self._tick(14 * HOUR) for f in self.faults):
                self._fault(order.pop(), start)
                at += random.uniform(24, 48) * HOUR
            else:
                at += 4 * HOUR

    def _fault(self, kind: str, start: int) -> None:
        random = self.trouble
        lasts = self._tick(random.uniform(25, 75) * MINUTE)
        now = slice(start, start + lasts)
        size = random.uniform(3, 8)
        causes: tuple[str, ...]
        if kind == "slow db":
            causes = ("db",)
            self.slow["db"][now] *= size * 2
            self.busy["db"][now] *= 1.8
        elif kind == "slow cache":
            causes = ("cache",)
            self.slow["cache"][now] *= size * 4
            self.busy["db"][now] *= 1.5
        elif kind == "slow service":
            name = str(random.choice(["auth", "search", "web", "mailer"]))
            causes = (name,)
            self.slow[name][now] *= size
            self.busy[name][now] *= 1.6
        elif kind == "busy disk":
            causes = ("host", "disk:/", "disk:/data")
            self.pressed[now] = 0.1 * size
        elif kind == "noisy neighbour":
            causes = ("host",)
            self.stolen[now] = random.uniform(4, 7)
        elif kind == "bad link":
            causes = ("nic:eth0",)
            self.lost[now] = random.uniform(20, 200)
            for name in ("web", "api", "auth"):
                self.slow[name][now] *= 1 + random.uniform(0.3, 1)
        elif kind == "stuck worker":
            causes = ("worker", "queue")
            self.busy["worker"][now] *= 0.02
            self.held["queue"][now] += np.linspace(0, 400, lasts)
        elif kind == "leak":
            name = str(random.choice(["api", "search", "worker", "reports"]))
            causes, lasts = (name,), self._tick(random.uniform(3, 6) * HOUR)
            usual = next(s.memory for s in SERVICES if s.name == name)
            self.held[name][start : start + lasts] += np.linspace(0, (MEMORY_LIMIT - 1.1) * usual, lasts)
            self.begins[name].append(start + lasts)
        elif kind == "descriptors":
            name = str(random.choice(["api", "auth", "web"]))
            causes, lasts = (name,), self._tick(random.uniform(2, 4) * HOUR)
            self.open[name][start : start + lasts] += np.linspace(0, 900, lasts)
            self.begins[name].append(start + lasts)
        else:
            causes, lasts = ("disk:/",), self._tick(random.uniform(2, 4) * HOUR)
            self.logged[start : start + lasts] += random.uniform(0.35, 0.5) / lasts
        self.faults.append(Fault(kind, start, start + lasts, causes))

    # -- what follows --------------------------------------------------------------------------------------------------

    def _traffic(self) -> Floats:
        random, at = self.random, self.at - BEGIN
        hour, day = at % DAY / HOUR, (at // DAY).astype(int)
        course = 0.25 + 0.75 * np.exp(-(((hour - 14.5) / 4.5) ** 2)) + 0.15 * np.exp(-(((hour - 20.5) / 1.5) ** 2))
        quiet = np.where(day % 7 >= 5, 0.6, 1.0)
        quiet[(day == 10) | (day == 23)] = 0.5  # holidays, in the second and in the fourth week
        bursts = np.zeros(self.ticks)
        for start in np.nonzero(random.uniform(size=self.ticks) < MINUTE / (3 * DAY))[0]:
            bursts[start : start + int(random.uniform(5, 30))] = random.uniform(0.2, 0.6)
        return course * quiet * self.crowd * np.exp(0.06 * _wander(random, self.ticks, 15)) * (1 + bursts)

    def _age(self, name: str) -> Floats:
        begins = np.array(sorted(self.begins[name]))
        ticks = np.arange(self.ticks)
        age: Floats = (ticks - begins[np.searchsorted(begins, ticks, side="right") - 1]) * MINUTE + 20
        return age

    def live(self) -> Life:
        random, count, hour = self.random, self.ticks, (self.at - BEGIN) % DAY / HOUR
        traffic = self._traffic()
        backup = (hour >= 2.5) & (hour < 3.0 + 0.1 * np.sin((self.at - BEGIN) // DAY))
        hourly = (self.at % HOUR < 240).astype(float)
        busy: dict[str, Floats] = {}
        for s in SERVICES:
            own = 0.05 + 0.95 * traffic * np.exp(0.05 * _wander(random, count, 10))
            if s.name in ("worker", "reports"):
                own = 0.3 * own + 0.6 * hourly * random.uniform(0.8, 1.2, size=count)
            busy[s.name] = s.cores * own * self.busy[s.name] * np.exp(0.08 * random.normal(size=count))
        busy["db"] += 0.5 * backup
        for name in busy:
            busy[name][self._age(name) < 60] *= 2.5
        others = 0.3 + 0.1 * np.abs(random.normal(size=count)) + 0.8 * backup + self.stolen
        cpu = np.clip((sum(busy.values()) + others) / CORES, 0.01, 1.0)
        io = np.clip(0.02 * traffic + 0.25 * backup + self.pressed + 0.01 * np.abs(random.normal(size=count)), 0, 3)
        crowded = 1 + 0.4 * cpu**4 / (1.05 - cpu) + 0.8 * io
        seconds: dict[str, Floats] = {}
        columns: dict[Series, Floats] = {}
        resident = np.zeros(count)
        for s in SERVICES:
            noise = np.exp(random.uniform(0.1, 0.25) * random.normal(size=count))
            noise *= np.where(random.uniform(size=count) < 0.004, random.uniform(2, 6, size=count), 1.0)
            age = self._age(s.name)
            own = s.seconds * self.slow[s.name] * (1 + 0.3 * traffic) * crowded * (1 + 2.0 * (age < 60))
            behind = sum((0.8 * seconds[name] for name in s.depends_on), np.zeros(count))
            seconds[s.name] = own + behind
            memory = s.memory * (0.6 + 0.3 * (1 - np.exp(-age / (6 * HOUR)))) + 0.1 * s.memory * traffic
            if s.collects:
                period = random.uniform(20, 90) * MINUTE
                memory += 0.2 * s.memory * ((age + random.uniform(0, period)) % period) / period
            memory += self.held[s.name] + 0.002 * s.memory * random.normal(size=count)
            resident += memory
            descriptors = 20 + random.poisson(np.maximum(10 + 60 * s.cores * traffic, 0)) + self.open[s.name]
            used = busy[s.name]
            begins = np.diff(age, prepend=age[0] - MINUTE) < 0
            cpu_seconds = np.cumsum(used * MINUTE)
            for tick in np.nonzero(begins)[0]:
                cpu_seconds[tick:] -= cpu_seconds[tick] - 3.0
            busy_seen = used.copy()
            busy_seen[begins] = np.nan
            columns |= {
                (s.name, "process_up"): np.ones(count),
                (s.name, "process_age_seconds"): age,
                (s.name, "process_rss_bytes"): np.round(memory * 256) * 4096,
                (s.name, "process_threads"): np.full(count, float(s.threads)) + (random.uniform(size=count) < 0.02),
                (s.name, "process_cpu_seconds"): np.round(cpu_seconds, 2) + 100.0,
                (s.name, "process_busy"): busy_seen,
                (s.name, "process_zombies"): np.zeros(count),
                (s.name, "process_fds"): descriptors,
                (s.name, "process_fds_limit"): np.full(count, 1024.0),
                (s.name, "process_fds_ratio"): descriptors / 1024,
                (s.name, "work_up"): np.ones(count),
                (s.name, "work_seconds"): seconds[s.name] * noise,
            }
        columns |= self._vitals(cpu, io, resident, traffic)
        names = list(columns)
        limits = {s.name: int(MEMORY_LIMIT * s.memory * 2**20) for s in SERVICES}
        subjects = {
            s.name: Subject(s.name, "process", depends_on=s.depends_on, data={"memory_limit": limits[s.name]})
            for s in SERVICES
        }
        values = np.stack([columns[name] for name in names], axis=1)
        return Life(self.at, names, values, subjects, sorted(self.faults, key=lambda f: f.start), sorted(self.altered))

    def _vitals(self, cpu: Floats, io: Floats, resident: Floats, traffic: Floats) -> dict[Series, Floats]:
        random, count, hour = self.random, self.ticks, (self.at - BEGIN) % DAY / HOUR
        noise = random.normal(size=(6, count))
        load = CORES * cpu * (1 + 0.8 * np.clip(cpu - 0.7, 0, 1)) + 3 * io
        load = np.maximum(load * np.exp(0.15 * _wander(random, count, 1.5)), 0.01)
        available = (MEMORY - resident - 1200 - 60 * _wander(random, count, 120)) * 2**20
        rare = random.uniform(size=(2, count)) < MINUTE / DAY
        written = 0.10 * traffic * MINUTE / DAY + self.logged
        used, free = 0.35, np.empty(count)
        for number, (more, when) in enumerate(zip(written.tolist(), hour.tolist(), strict=True)):
            used += more
            if 3.2 <= when < 3.2 + 1 / 60:
                used = 0.35 + 0.0003 * number * MINUTE / DAY  # old logs are let go of
            free[number] = 1 - used
        segments = np.cumsum(0.02 * traffic * MINUTE / HOUR) % 0.03
        data = 0.6 - 0.002 * (self.at - BEGIN) / DAY - segments
        found = {
            ("host", "load1"): np.round(load, 2),
            ("host", "load1_per_core"): np.round(load, 2) / CORES,
            ("host", "memory_total_bytes"): np.full(count, MEMORY * 2**20),
            ("host", "memory_available_bytes"): available,
            ("host", "memory_available_ratio"): available / (MEMORY * 2**20),
            ("host", "fds_used_ratio"): 0.02 + 0.01 * traffic + 0.0003 * noise[0],
            ("host", "cpu_busy_ratio"): np.clip(cpu + 0.01 * noise[1], 0, 1),
            ("host", "swap_used_ratio"): 0.04 + np.round(0.002 * _wander(random, count, 3000), 3),
            ("host", "psi_cpu_some_ratio"): np.round(np.clip(1.5 * (cpu - 0.35) + 0.02 * noise[2], 0, 1), 4),
            ("host", "psi_memory_some_ratio"): np.where(rare[0], 0.01, 0.0),
            ("host", "psi_memory_full_ratio"): np.zeros(count),
            ("host", "psi_io_some_ratio"): np.round(np.clip(0.8 * io + 0.01 * noise[3], 0, 1), 4),
            ("host", "psi_io_full_ratio"): np.round(np.clip(0.5 * io + 0.008 * noise[4], 0, 1), 4),
            ("nic:eth0", "nic_errors_per_second"): np.where(rare[1], 0.2, 0.0) + self.lost * 0.3,
            ("nic:eth0", "nic_drops_per_second"): random.poisson(0.02, size=count) / 60 + self.lost,
        }
        for name, share, size in (("disk:/", free, 100), ("disk:/data", data, 500)):
            found |= {
                (name, "disk_free_ratio"): share,
                (name, "disk_free_bytes"): np.round(share * size * 2**18) * 4096,
                (name, "inodes_free_ratio"): 0.8 + 0.1 * share,
                (name, "disk_read_only"): np.zeros(count),
            }
        return found


def host(weeks: int = 6, seed: int = 1, calm: bool = False) -> Life:
    """The same without its faults when ``calm``: deploys, nights, holidays and all."""
    return _Host(weeks, seed, calm).live()


# -- the daemon --------------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """A message to a human."""

    tick: int
    incident: Incident


@dataclass
class Heard:
    """What came of a life."""

    found: Counter[tuple[int, str]] = field(default_factory=Counter)
    """Week and fault -> how often a finding began, before anything was folded."""
    opened: Counter[tuple[int, str]] = field(default_factory=Counter)
    """The same of incidents."""
    merged: Counter[int] = field(default_factory=Counter)
    folded: Counter[int] = field(default_factory=Counter)
    """Week -> findings that began, and were a part of another's incident."""
    open_ticks: Counter[str] = field(default_factory=Counter)
    told: list[Told] = field(default_factory=list)
    noted: list[Told] = field(default_factory=list)
    """Incidents as they opened, those that nobody was told of among them."""
    last: dict[str, Incident] = field(default_factory=dict)
    """Incident -> as it was at its end."""
    taught: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Daemon:
    """All analyzers of the defaults, correlation and incidents, over what a life shows; no runbook acts."""

    def __init__(self, life: Life, settings: Mapping[str, object] | None = None) -> None:
        self.life = life
        blueprint, problems = draw(Settings.model_validate(settings or {}), None)
        if problems:
            raise ValueError(f"the defaults are not sound: {problems}")
        self.clock = FakeClock(1_000_000.0, float(life.at[0]))
        built = tools(clock=self.clock, subjects=life.subjects)
        self.analyzers: list[Analyzer] = [
            chosen.plugin.build(chosen.name, chosen.config, built) for chosen in blueprint.chosen["analyzers"]
        ]
        self.sight = Sight(life.subjects)
        self.incidents = Incidents(self.clock)
        self.correlation = Correlation()

    def run(self, teach: str = "nothing", first: int = 0, last: int | None = None) -> Heard:
        """``teach``: what a human says: ``nothing``, or whether each message was ``told`` rightly."""
        life, heard = self.life, Heard()
        began = time.perf_counter()
        known: set[tuple[str, str]] = set()
        altered = {tick: [a for a in life.altered if a[0] == tick] for tick, _, _ in life.altered}
        is_told: set[tuple[str, int]] = set()
        worse_since: dict[tuple[str, int], float] = {}
        for tick in range(first, len(life.at) if last is None else last):
            for finding, folded in self._turn(tick, altered.get(tick, ()), heard):
                key = (finding[0], finding[1])
                if key not in known:
                    heard.found[self._week(tick), finding[1]] += 1
                    heard.folded[self._week(tick)] += folded
            known = self._known
            for incident in self.incidents.open:
                heard.open_ticks[incident.fault] += 1
                heard.last[incident.id] = incident
                if (incident.id, incident.reopened) in is_told:
                    continue
                bout = (incident.id, incident.reopened)
                if is_soft(incident.fault, incident.data):
                    if incident.severity is Severity.INFO:
                        continue
                    now = float(life.at[tick])
                    if now - worse_since.setdefault(bout, now) < LASTS:
                        continue
                is_told.add(bout)
                heard.told.append(Told(tick, incident))
            if teach != "nothing":
                self._teach(tick, heard)
        heard.seconds = time.perf_counter() - began
        return heard

    def _week(self, tick: int) -> int:
        return int((self.life.at[tick] - self.life.at[0]) // WEEK) + 1

    def _turn(
        self, tick: int, altered: Sequence[tuple[int, str, str]], heard: Heard
    ) -> Iterator[tuple[tuple[str, str], bool]]:
        life = self.life
        self.clock.advance(float(life.at[tick]) - self.clock.wall())
        now = self.clock.monotonic()
        row = life.values[tick].tolist()
        seen = [
            Observation("made", subject, metric, value)
            for (subject, metric), value in zip(life.names, row, strict=True)
            if value == value
        ]
        self.sight.record(seen, now)
        noted = tuple(Occurrence("operators", name, f"altered.{kind}", now, "") for _, name, kind in altered)
        view = View(self.sight, now, None, noted, self.clock.wall())
        findings = [finding for analyzer in self.analyzers for finding in analyzer.analyze(view)]
        folded = self.correlation.fold(findings, view, self.incidents)
        changes = self.incidents.take(folded.findings, view, merging=folded.merged)
        self.incidents.stand_beside(folded.beside, folded.into, view)
        for incident in folded.linked:
            self.incidents.put(incident)
        for own, into in folded.merged.items():
            part, whole = self.incidents.get(*own), self.incidents.get(*into)
            if part is not None and whole is not None:
                self.incidents.merge(part, whole)
                heard.merged[self._week(tick)] += 1
        for incident in storms(self.incidents, changes.opened):
            self.incidents.put(incident)
        for incident in changes.opened:
            heard.opened[self._week(tick), incident.fault] += 1
            heard.noted.append(Told(tick, incident))
        self._known = {(f.subject, f.fault) for f in findings}
        for key in sorted(self._known):
            yield key, key in folded.into

    def _teach(self, tick: int, heard: Heard) -> None:
        """An hour after a message, when it is plain what it was about."""
        for told in heard.told:
            if told.tick == tick - round(HOUR / self.life.step):
                incident = heard.last[told.incident.id]
                right = about(self.life, told.tick) != "nothing"
                lesson = Lesson("verdict", incident=incident.id, right=right, data=incident.data, at=self.clock.wall())
                said = [
                    sentence
                    for analyzer in self.analyzers
                    if isinstance(analyzer, Learner) and (sentence := analyzer.teach(lesson))
                ]
                heard.taught.append("; ".join(said))


# -- what it was about -------------------------------------------------------------------------------------------------


def fault_at(life: Life, tick: int) -> Fault | None:
    for fault in life.faults:
        if fault.start <= tick <= fault.stop + LATE / life.step:
            return fault
    return None


def about(life: Life, tick: int) -> str:
    """``fault``, ``aftermath``, ``deploy``, or ``nothing``: then it was a false alarm."""
    if fault_at(life, tick) is not None:
        return "fault"
    for fault in life.faults:
        if fault.start <= tick <= fault.stop + max(fault.stop - fault.start, REST / life.step):
            return "aftermath"
    if any(0 <= tick - at <= DEPLOY / life.step for at, _, _ in life.altered):
        return "deploy"
    return "nothing"


def is_right(incident: Incident, fault: Fault) -> bool:
    """Whether the likeliest cause that is told is one of the fault's; without any told, its own subject."""
    cause = incident.data.get("cause")
    causes = incident.data.get("causes")
    if not isinstance(cause, Mapping) and isinstance(causes, list | tuple) and causes:
        cause = causes[0]
    subject = cause.get("subject") if isinstance(cause, Mapping) else incident.subject
    return subject in fault.causes


@dataclass
class Summary:
    """Of one life, or of several together."""

    faults: int = 0
    noted: int = 0
    told: int = 0
    once: int = 0
    right: int = 0
    """Of those that were told: the likeliest cause was theirs."""
    minutes: list[float] = field(default_factory=list)
    """From the beginning to the message."""
    wrong: int = 0
    """Messages about nothing, after the calm weeks."""
    weeks: float = 0.0
    """In which those were counted."""

    def add(self, other: "Summary") -> None:
        for name in ("faults", "noted", "told", "once", "right", "minutes", "wrong", "weeks"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __str__(self) -> str:
        median = f"{np.median(self.minutes):.0f}" if self.minutes else "-"
        return (
            f"{self.wrong} wrong messages in {self.weeks:g} weeks; {self.faults} faults: {self.noted} noted, "
            f"{self.told} told ({self.once} of them once), after {median} minutes (median), "
            f"the right cause first for {self.right}"
        )


def summed(life: Life, heard: Heard) -> Summary:
    length = len(life.at) * life.step / WEEK
    found = Summary(faults=len(life.faults), weeks=max(0.0, length - CALM_WEEKS))
    calm = CALM_WEEKS * WEEK / life.step
    found.wrong = sum(about(life, t.tick) == "nothing" for t in heard.told if t.tick >= calm)
    for fault in life.faults:
        found.noted += any(fault_at(life, t.tick) is fault for t in heard.noted)
        if mine := [t for t in heard.told if fault_at(life, t.tick) is fault]:
            found.told += 1
            found.once += len(mine) == 1
            found.right += is_right(mine[0].incident, fault)
            found.minutes.append((mine[0].tick - fault.start) * life.step / MINUTE)
    return found


def report(life: Life, heard: Heard) -> None:
    """Week by week."""
    weeks = range(1, round(len(life.at) * life.step / WEEK) + 1)
    print(f"  {len(life.names)} series, {heard.seconds / len(life.at) * 1e3:.2f} ms a turn")
    print(f"  {'week':42}" + "".join(f"{week:>7}" for week in weeks))
    for fault in sorted({fault for _, fault in (*heard.found, *heard.opened)}):
        row = "".join(f"{f'{heard.found[week, fault]}/{heard.opened[week, fault]}':>7}" for week in weeks)
        print(f"  {fault + ' (found/opened)':42}{row}")
    kinds = Counter((int((life.at[t.tick] - life.at[0]) // WEEK) + 1, about(life, t.tick)) for t in heard.told)
    for kind in ("fault", "aftermath", "deploy", "nothing"):
        print(f"  {'messages about ' + kind:42}" + "".join(f"{kinds[week, kind]:>7}" for week in weeks))
    hours = ", ".join(f"{name} {n * life.step / HOUR:.0f}" for name, n in sorted(heard.open_ticks.items()))
    print(f"  folded {sum(heard.folded.values())}, merged {sum(heard.merged.values())}; hours open: {hours}")


def stories(life: Life, heard: Heard) -> None:
    """Every fault, and every message about anything else."""
    for fault in life.faults:
        mine = [t for t in heard.told if fault_at(life, t.tick) is fault]
        noted = [t for t in heard.noted if fault_at(life, t.tick) is fault]
        first, told = (
            f"{(some[0].tick - fault.start) * life.step / MINUTE:.0f} min" if some else "never"
            for some in (noted, mine)
        )
        lasted = (fault.stop - fault.start) * life.step / MINUTE
        print(f"    {fault.kind} of {'/'.join(fault.causes)}, {lasted:.0f} min: noted {first}, told {told}")
        for t in mine:
            right = "right" if is_right(t.incident, fault) else "wrong"
            print(f"      {right} cause: {t.incident.severity.value} {t.incident.fault}, {t.incident.summary}")
    for t in heard.told:
        if (kind := about(life, t.tick)) != "fault":
            week = (float(life.at[t.tick]) - float(life.at[0])) / WEEK + 1
            print(f"    {kind}, week {week:.2f}: {t.incident.severity.value} {t.incident.fault}, {t.incident.summary}")


WRONG, CAUSES, TOLD = 1.0, 0.7, 0.75
"""Targets: wrong messages a week at most; of the faults that are told, the share whose cause comes first; of all
faults, the share that is told."""


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weeks", description=__doc__)
    parser.add_argument("--weeks", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--calm", action="store_true", help="only the hosts without faults")
    parser.add_argument("--teach", choices=("nothing", "told"), default="nothing", help="whether messages are judged")
    parser.add_argument("--verbose", action="store_true", help="tell each fault and each wrong message")
    wanted = parser.parse_args(words)
    quiet, troubled = Summary(), Summary()
    for seed in wanted.seeds:
        for calm, whole in ((True, quiet), (False, troubled))[: 1 if wanted.calm else 2]:
            print(f"host {seed}, {'without faults' if calm else 'with faults'}")
            life = host(wanted.weeks, seed, calm)
            heard = Daemon(life).run(wanted.teach)
            report(life, heard)
            if wanted.verbose:
                stories(life, heard)
            whole.add(summed(life, heard))
    print(f"without faults: {quiet}\nwith faults: {troubled}")
    is_quiet = quiet.wrong <= WRONG * quiet.weeks and troubled.wrong <= WRONG * troubled.weeks
    hears = troubled.told >= TOLD * troubled.faults and troubled.right >= CAUSES * troubled.told
    return 0 if is_quiet and hears else 1


if __name__ == "__main__":
    raise SystemExit(main())
