"""A fleet of made series with known incidents, and what a detector's alarms on it are worth.

Every series is healthy in a way of its own (a shape), scraped every five minutes for six weeks. After two weeks some of
them get incidents that are written down. An alarm inside one is a find; an alarm outside of it, and outside of the time
that it takes to recover, is false. All is drawn from the seed and the number of the series, so a fleet of 28 is the
first part of a fleet of 280.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

HOUR, DAY, WEEK = 3600.0, 86400.0, 604800.0
BEGIN = 1_699_833_600.0
"""A Monday, midnight, in seconds since the epoch."""
REST = 2 * HOUR
"""An incident has at least so long to recover, or as long as it lasted, before an alarm is false again."""
AGAIN = HOUR
"""One alarm covers what is flagged within this time after it; whatever goes on is counted again."""
DEPLOY = 6 * HOUR
"""One alarm within this time after a deploy is right to come: the level has changed, and stays."""
BUDGET, RECALL, FLAGGED = 0.15, 0.85, 0.001


@dataclass(frozen=True)
class Incident:
    """What was done to one series, in ticks; ``stop`` is the first tick that is as before."""

    series: int
    kind: str
    start: int
    stop: int
    size: float
    """In sigmas of the healthy series; 0 where it has no size."""


@dataclass(frozen=True)
class Fleet:
    """Series by columns, ticks by rows."""

    at: Floats
    values: Floats
    """What is scraped. A counter is the running total, as it is scraped; NaN is a sample that never came."""
    counters: Flags
    shapes: Sequence[str]
    incidents: Sequence[Incident]
    deploys: Sequence[tuple[int, int]]
    """Series and tick from which on its level is another; no incident."""
    judged: int
    """Ticks before this one are for learning and are not counted."""
    quiet: Flags
    """Where an alarm is false: judged, no incident and no recovery."""

    @property
    def step(self) -> float:
        return float(self.at[1] - self.at[0])

    @property
    def weeks(self) -> float:
        """Series-weeks in which an alarm is false."""
        return float(self.quiet.sum()) * self.step / WEEK

    def rates(self) -> Floats:
        """The same for who knows no counters: each as its increase a second, missing where it began anew."""
        found = self.values.copy()
        grown = np.diff(self.values[:, self.counters], axis=0, prepend=np.nan) / self.step
        found[:, self.counters] = np.where(grown < 0, np.nan, grown)
        return found


# -- the shapes of health ----------------------------------------------------------------------------------------------


@dataclass
class Healthy:
    """A series before anything is done to it: what it follows, what is random about it, what can be injected."""

    course: Floats
    noise: Floats
    kinds: Sequence[str]
    missing: Flags | None = None
    deploys: Sequence[tuple[int, float]] = ()
    """Tick, and by how many sigmas the level is another from then on."""
    counter: bool = False
    whole: bool = False
    """Counts: never a fraction."""


ALL = ("shift", "spike", "drop", "stuck", "ramp", "noise")
Random = np.random.Generator


def _walk(random: Random, count: int, keep: float) -> Floats:
    """AR(1) with variance 1: every value keeps so much of the one before."""
    pushes = random.normal(size=count) * np.sqrt(1 - keep * keep)
    found, last = np.empty(count), random.normal()
    for number, push in enumerate(pushes.tolist()):
        last = keep * last + push
        found[number] = last
    return found


def _day(random: Random, at: Floats) -> Floats:
    """A smooth day between -1 and 1, not quite a sine, highest at an hour of its own."""
    phase = 2 * np.pi * ((at % DAY) / DAY - random.uniform())
    tilt = random.uniform(-0.3, 0.3)
    found = np.cos(phase) + tilt * np.cos(2 * phase + random.uniform(0, 2 * np.pi))
    return np.asarray(found / np.abs(found).max())


def constant(random: Random, at: Floats) -> Healthy:
    level = np.full(len(at), float(random.choice([1.0, 4.0, 16.0, 80.0, 443.0])))
    return Healthy(level, np.zeros(len(at)), ("shift", "spike", "drop", "ramp"))


def gaussian(random: Random, at: Floats) -> Healthy:
    return Healthy(np.full(len(at), random.uniform(8, 40)), random.normal(size=len(at)), ALL)


def bursty(random: Random, at: Floats) -> Healthy:
    """Latencies and queue lengths: most of it small, now and then many times as much."""
    if random.uniform() < 0.5:
        noise = np.exp(0.9 * _walk(random, len(at), 0.5))
    else:
        noise = np.abs(random.standard_t(3, size=len(at)))
    return Healthy(np.full(len(at), random.uniform(0, 2)), noise, ("shift", "spike", "ramp"))


def daily(random: Random, at: Floats) -> Healthy:
    spread = random.uniform(0.04, 0.12)
    return Healthy(random.uniform(1.4, 3) + _day(random, at), spread * random.normal(size=len(at)), ALL)


def weekly(random: Random, at: Floats) -> Healthy:
    """Busy by day, and less so on the two last days of the week."""
    weekend = np.where((at - BEGIN) % WEEK >= 5 * DAY, random.uniform(0.3, 0.7), 1.0)
    spread = random.uniform(0.04, 0.12)
    return Healthy((random.uniform(1.4, 3) + _day(random, at)) * weekend, spread * random.normal(size=len(at)), ALL)


def sawtooth(random: Random, at: Floats) -> Healthy:
    """Fills and is emptied, or is filled and drains: logs, pools, heaps, batteries."""
    period, course, here = random.uniform(4, 72) * HOUR, np.empty(len(at)), 0
    step = at[1] - at[0]
    while here < len(at):
        ticks = max(6, int(period * random.uniform(0.85, 1.15) / step))
        part = np.linspace(random.uniform(0.18, 0.22), random.uniform(0.75, 0.85), ticks)
        course[here : here + ticks] = part[: len(at) - here]
        here += ticks
    if random.uniform() < 0.5:
        course = 1.05 - course
    return Healthy(course, 0.004 * random.normal(size=len(at)), ("shift", "spike", "drop", "ramp"))


def batch(random: Random, at: Floats) -> Healthy:
    """Busy while a job runs that starts some minutes sooner or later than last time."""
    period, share = float(random.choice([6, 12, 24])) * HOUR, random.uniform(0.08, 0.4)
    course, start = np.full(len(at), 0.15), random.uniform(0, period)
    while start < at[-1] - at[0]:
        begin = start + random.normal() * 240
        runs = (at - at[0] >= begin) & (at - at[0] < begin + period * share * random.uniform(0.9, 1.1))
        course[runs] = 1.0
        start += period
    return Healthy(course, 0.02 * random.normal(size=len(at)), ("shift", "spike", "ramp", "noise"))


def counter(random: Random, at: Floats) -> Healthy:
    """Requests or bytes since the start of a process that is started anew now and then."""
    day = _day(random, at) * random.uniform(0, 0.6)
    return Healthy(2 + day, random.uniform(0.08, 0.2) * random.normal(size=len(at)), ALL, counter=True)


def growth(random: Random, at: Floats) -> Healthy:
    """Users, tables, indexes: more every week, with a little of the day in it."""
    grown = (at - at[0]) / WEEK * random.uniform(0.03, 0.15)
    spread = random.uniform(0.01, 0.03)
    day = _day(random, at) * random.uniform(0, 0.05)
    return Healthy(1 + grown + day, spread * random.normal(size=len(at)), ALL)


def wandering(random: Random, at: Floats) -> Healthy:
    """Goes its way without a goal, and not without bounds."""
    keep = float(np.exp(-(at[1] - at[0]) / (random.uniform(1, 12) * HOUR)))
    return Healthy(
        np.full(len(at), random.uniform(8, 20)), _walk(random, len(at), keep), ("shift", "spike", "drop", "stuck")
    )


def few(random: Random, at: Floats) -> Healthy:
    """Workers, connections, replicas: a few whole numbers."""
    noise = random.poisson(random.uniform(0.5, 4), size=len(at)).astype(float)
    level = np.full(len(at), float(random.integers(4, 12)))
    return Healthy(level, noise, ("shift", "spike", "drop", "ramp"), whole=True)


def rare(random: Random, at: Floats) -> Healthy:
    """Errors and retries: nearly always none, at times a handful."""
    noise = np.zeros(len(at))
    for start in np.nonzero(random.uniform(size=len(at)) < random.uniform(0.003, 0.02))[0]:
        noise[start : start + int(random.integers(1, 4))] = np.ceil(np.exp(random.normal(2, 0.5)))
    return Healthy(np.zeros(len(at)), noise, ("shift", "spike", "ramp"), whole=True)


def gappy(random: Random, at: Floats) -> Healthy:
    """Scraped over a bad line: samples are missing, at times for hours."""
    missing = random.uniform(size=len(at)) < random.uniform(0.01, 0.1)
    step = at[1] - at[0]
    for start in np.nonzero(random.uniform(size=len(at)) < step / (4 * DAY))[0]:
        missing[start : start + int(random.uniform(0.5, 8) * HOUR / step)] = True
    day = _day(random, at) * float(random.choice([0.0, 5.0]))
    return Healthy(random.uniform(12, 40) + day, random.normal(size=len(at)), ALL, missing=missing)


def deployed(random: Random, at: Floats) -> Healthy:
    """Its level is another after some deploys, and stays there: worth a word, and not an incident."""
    times = np.sort(random.uniform(3 * DAY, at[-1] - at[0] - DAY, size=int(random.integers(2, 4))))
    times = times[np.diff(times, prepend=0.0) > 2 * DAY]
    sizes = random.uniform(3, 8, size=len(times)) * random.choice([-1, 1], size=len(times))
    deploys = [
        (int(time / (at[1] - at[0])), float(size)) for time, size in zip(times.tolist(), sizes.tolist(), strict=True)
    ]
    return Healthy(np.full(len(at), random.uniform(40, 60)), random.normal(size=len(at)), ALL, deploys=deploys)


SHAPES: dict[str, Callable[[Random, Floats], Healthy]] = {
    shape.__name__: shape
    for shape in (
        constant,
        gaussian,
        bursty,
        daily,
        weekly,
        sawtooth,
        batch,
        counter,
        growth,
        wandering,
        few,
        rare,
        gappy,
        deployed,
    )
}


# -- the incidents -----------------------------------------------------------------------------------------------------


def sigma(at: Floats, values: Floats) -> float:
    """How far a healthy series goes from what it is at that hour of the week; more if it goes far now and then.

    A tenth of the whole way for those that leap, so that what is injected is never what happens every week anyway; a
    hundredth of the level for those that stand still.
    """
    slots = ((at % WEEK) // HOUR).astype(int)
    seen = np.bincount(slots, minlength=168)
    away = values - (np.bincount(slots, values, 168) / np.maximum(seen, 1))[slots]
    return float(max(away.std(), np.ptp(away) / 10, 0.01 * np.abs(values).mean(), 1e-9))


def _placed(random: Random, kind: str, healthy: Healthy, step: float, judged: int, taken: Flags) -> tuple[int, int]:
    """Where one fits: not near another or a deploy, and with most of its samples there; (0, 0) if nowhere."""
    lasts = {"spike": (step, 3 * step), "stuck": (3 * HOUR, 12 * HOUR), "noise": (HOUR, 12 * HOUR)}
    low, high = {**lasts, "ramp": (2 * HOUR, 12 * HOUR)}.get(kind, (HOUR / 2, 12 * HOUR))
    around = int(DAY / step)
    for _ in range(50):
        ticks = max(1, int(np.exp(random.uniform(np.log(low), np.log(high))) / step + 0.5))
        start = int(random.integers(judged + around, len(taken) - ticks - around))
        stop = start + ticks
        there = healthy.missing is None or healthy.missing[start:stop].mean() < 0.5
        if there and not taken[start - around : stop + around].any():
            taken[max(0, start - 6 * around) : stop + 6 * around] = True
            return start, stop
    return 0, 0


def _inject(random: Random, kind: str, start: int, stop: int, course: Floats, noise: Floats, unit: float) -> float:
    """Does it to the course and its noise; returns the size in sigmas."""
    if kind == "noise":
        noise[start:stop] *= 4
        return 4.0
    if kind in ("drop", "stuck"):
        held = 0.0 if kind == "drop" else course[start - 1] + noise[start - 1]
        course[start:stop], noise[start:stop] = held, 0.0
        return 0.0
    size = random.uniform(12, 24) if kind == "spike" else random.uniform(4, 10)
    lowest = float((course[start:stop] + noise[start:stop]).min())
    sign = -1.0 if random.uniform() < 0.5 and lowest > size * unit else 1.0
    course[start:stop] += sign * size * unit * (np.linspace(0, 1, stop - start) if kind == "ramp" else 1.0)
    return float(sign * size)


def make(
    count: int = 280, weeks: float = 6, learn: float = 2, seed: int = 1, step: float = 300.0, calm: bool = False
) -> Fleet:
    """``count`` series, the shapes in turn, for so many weeks, of which the first ``learn`` have no incident.

    A ``calm`` one is the same without any.
    """
    ticks, judged = round(weeks * WEEK / step), round(learn * WEEK / step)
    at = BEGIN + step * np.arange(ticks, dtype=np.float64)
    values, quiet = np.empty((ticks, count)), np.ones((ticks, count), bool)
    quiet[:judged] = False
    incidents: list[Incident] = []
    deploys: list[tuple[int, int]] = []
    shapes = [list(SHAPES)[number % len(SHAPES)] for number in range(count)]
    counters = np.zeros(count, bool)
    for number, shape in enumerate(shapes):
        random, trouble = np.random.default_rng([seed, number]), np.random.default_rng([seed, number, 1])
        healthy = SHAPES[shape](random, at)
        course, noise = healthy.course.copy(), healthy.noise.copy()
        unit = sigma(at[:judged], (course + noise)[:judged])
        taken = np.zeros(ticks, bool)
        for tick, size in healthy.deploys:
            course[tick:] += size * unit
            deploys.append((number, tick))
            taken[max(0, tick - round(DAY / step)) : tick + round(DAY / step)] = True
        for _ in range(0 if calm else int(trouble.choice([0, 1, 2], p=[0.25, 0.5, 0.25]))):
            kind = str(trouble.choice(list(healthy.kinds)))
            start, stop = _placed(trouble, kind, healthy, step, judged, taken)
            if stop:
                size = _inject(trouble, kind, start, stop, course, noise, unit)
                incidents.append(Incident(number, kind, start, stop, size))
                quiet[start : stop + max(stop - start, round(REST / step)), number] = False
        series = course + noise
        if healthy.whole:
            series = np.round(series)
        scale = 10 ** random.uniform(-2, 8)
        if healthy.counter:
            counters[number] = True
            series = np.cumsum(np.maximum(series, 0) * max(1.0, scale) * step)
            for anew in np.nonzero(random.uniform(size=ticks) < step / (5 * DAY))[0]:
                series[anew:] -= series[anew]
        elif not healthy.whole:
            series = series * scale
        if healthy.missing is not None:
            series[healthy.missing] = np.nan
        values[:, number] = series
    return Fleet(at, values, counters, shapes, incidents, deploys, judged, quiet)


# -- what alarms are worth ---------------------------------------------------------------------------------------------


@dataclass
class Score:
    """What the operators of the fleet would say."""

    recall: float
    false_a_week: float
    """False alarms per series and week."""
    found: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By kind of incident: how many were noticed, of how many."""
    false: dict[str, float] = field(default_factory=dict)
    """By shape: false alarms per series and week."""
    flagged: dict[str, float] = field(default_factory=dict)
    """By shape: the share of the healthy points that were flagged."""


def _alarms(flagged: Flags, covers: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Ticks and series of the alarms: one covers what is flagged within so many ticks after it."""
    free = np.zeros(flagged.shape[1], np.intp)
    ticks, series = [], []
    for tick in np.nonzero(flagged.any(axis=1))[0]:
        rows = np.nonzero(flagged[tick] & (free <= tick))[0]
        free[rows] = tick + covers
        ticks.append(np.full(len(rows), tick))
        series.append(rows)
    nothing = np.zeros(0, np.intp)
    return np.concatenate([nothing, *ticks]), np.concatenate([nothing, *series])


def score(fleet: Fleet, flagged: Flags) -> Score:
    """``flagged``: a row for each tick, a column for each series, true where the detector says: alarm."""
    if flagged.shape != fleet.values.shape:
        raise ValueError(f"the fleet has {fleet.values.shape} ticks and series, and {flagged.shape} were flagged")
    wrong = flagged & fleet.quiet
    ticks, series = _alarms(wrong, round(AGAIN / fleet.step))
    false = np.bincount(series, minlength=flagged.shape[1]).astype(float)
    points = fleet.quiet.copy()
    for row, tick in fleet.deploys:
        until = tick + round(DEPLOY / fleet.step)
        false[row] -= bool(((series == row) & (ticks >= tick) & (ticks < until)).any())
        points[tick:until, row] = False
    met = [bool(flagged[one.start : one.stop, one.series].any()) for one in fleet.incidents]
    kinds = sorted({one.kind for one in fleet.incidents})
    found = {
        kind: (
            sum(hit for hit, one in zip(met, fleet.incidents, strict=True) if one.kind == kind),
            sum(one.kind == kind for one in fleet.incidents),
        )
        for kind in kinds
    }
    shapes = np.array(fleet.shapes)
    by_shape, share = {}, {}
    for shape in dict.fromkeys(fleet.shapes):
        these = shapes == shape
        weeks = float(fleet.quiet[:, these].sum()) * fleet.step / WEEK
        by_shape[shape] = float(false[these].sum()) / max(weeks, 1e-9)
        share[shape] = float((flagged & points)[:, these].sum() / max(1, points[:, these].sum()))
    return Score(sum(met) / max(1, len(met)), float(false.sum()) / max(fleet.weeks, 1e-9), found, by_shape, share)


def best(fleet: Fleet, scores: NDArray[np.floating], budget: float = BUDGET) -> tuple[float, Score]:
    """The lowest single threshold that stays within so many false alarms per series and week, and its score."""
    told = np.nan_to_num(scores, nan=-np.inf)
    wrong = np.unique(told[fleet.quiet])[::-1]
    low, high = -1, len(wrong) - 1  # of the distinct scores outside of incidents: within the budget, and perhaps not
    limit = np.inf if not len(wrong) else float(np.nextafter(wrong[0], np.inf))
    kept = score(fleet, told >= limit)
    # False alarms hardly ever get fewer when the threshold falls, so halving finds the place within a few rounds.
    while low < high:
        middle = (low + high + 1) // 2
        one = score(fleet, told >= wrong[middle])
        if one.false_a_week <= budget:
            low, kept, limit = middle, one, float(wrong[middle])
        else:
            high = middle - 1
    return limit, kept


def by_length(fleet: Fleet, flagged: Flags) -> list[tuple[str, int, int]]:
    """How many were found of those that lasted so long: what a detector needs time for."""
    bounds = [0.0, HOUR, 3 * HOUR, 13 * HOUR]
    found = []
    for low, high in pairwise(bounds):
        ones = [one for one in fleet.incidents if low <= (one.stop - one.start) * fleet.step < high]
        hits = sum(bool(flagged[one.start : one.stop, one.series].any()) for one in ones)
        found.append((f"{low / HOUR:g} to {high / HOUR:g} h", hits, len(ones)))
    return found
