"""Notices what a number has not done before: many series at once, one tick after the other, with bounded memory.

Each series is seen through eight features: its level, two swings, the distance from what its hour of the day and its
hour of the week usually show, now and over some hours, a slow drift, a step. Each feature keeps the extremes it has
reached, which leak slowly towards its mean. What lies beyond them, as a share of the range between them, is new. The
sum over the features, gathered over some minutes, is the score, if it outgrows what was told lately; less with each
repetition.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Rows = NDArray[np.intp]

FEATURES = ("level", "minutes", "hours", "hours of the week", "hour of the day", "hour of the week", "drift", "step")
"""What a series is seen through: its level; its swing within minutes and within hours; its distance from
what these hours of the week, this hour of the day and this hour of the week usually show; its drift over days; its step
from one grain to the next."""

STILL = "standing still"
"""The ninth reason: a series that always moved has not moved for much longer than ever before."""

WEEK = 604800.0
WIDTH = 2048
"""Series that are worked on at once, so that their numbers stay in the processor's second cache."""
FIRST = 64
"""Room for so many is made at first: a daemon with a hundred series must not pay for thousands."""
FAR = 1e6
"""Values are kept in units of about a quarter of the series' range; what is farther out than this is as far as this."""
NEVER = -(1 << 31)
"""The hour of a series that has not been seen."""
KEPT = 1024
"""So many alarms' explanations are kept, the latest."""


@dataclass(frozen=True)
class Settings:
    """What the engine is told. Times are in seconds."""

    sensitivity: float = 2.0
    """Limits grow with it: at 4 a series must do what is twice as new as at 2 before it is an alarm."""
    limit: float = 0.112
    """The score that is an alarm at sensitivity 2, before a series' own limit has moved. 1: one whole range beyond."""
    budget: float = 0.15
    """Alarms a week that a series may have. Each is a debt that is paid off at this rate; one that was hardly above the
    limit is a whole one, a clear one less, if there was none for long."""
    forgiven: float = 1.5
    """A series' debt up to this does not raise its limit."""
    raised: float = 1.5
    """A series' limit is multiplied by this for each alarm of debt above what is forgiven."""
    lesson_memory: float = 12000000.0
    """An operator's verdict is forgotten slowly: about twenty weeks."""
    event: float = 21600.0
    """Alarms of a series that follow one another faster than this are one, as far as its budget is concerned."""
    learning: float = 86400.0
    """No alarm before a series was seen for so long, and for as many samples as there are grains in it."""
    grain: float = 300.0
    """What happens faster than this is averaged; a longer step counts as this, so that no memory is ever shorter than
    the number of samples that it has at this pace."""
    swings: tuple[float, float, float, float, float] = (1200.0, 4800.0, 19200.0, 76800.0, 307200.0)
    """Memories of the moving means whose differences are the swings, the day and the drift."""
    level_memory: float = 600000.0
    """Memory of the mean size of a series, by which its level is measured."""
    level_bend: float = 8.0
    """Above the mean size divided by this, the level is felt by its logarithm; below, as it is."""
    mean_memory: float = 30000.0
    """Memory of the mean that stands in for hours that were never seen."""
    hour_smooth: float = 1200.0
    """Memory of the mean of what is left after the hour of the day is taken off."""
    hours_smooth: float = 14400.0
    """Memory of the mean of what is left after the hour of the week is taken off."""
    gap: float = 21600.0
    """After so long without a value, what was a moment ago says nothing about now."""
    day_memory: float = 6000.0
    """Memory of each hour of the day, in time spent in that hour."""
    week_memory: float = 3000.0
    """Memory of each hour of the week, in time spent in that hour."""
    centre_memory: float = 300000.0
    """Memory of the mean towards which a feature's extremes leak."""
    extremes_memory: float = 6000000.0
    """Memory of a feature's extremes: about ten weeks. Shorter, and what is usual is forgotten between two times."""
    jump: float = 3.0
    """An extreme moves by at most so many ranges at once, so that one glitch does not deafen a series for weeks. Also
    the most that one feature can say."""
    weights: tuple[float, float, float, float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5)
    """What each feature's novelty counts."""
    still: float = 1.0
    """What standing still counts. 0 takes it out."""
    least_change: float = 0.01
    """Share of its level by which a constant series must change to be noticed, and the least range of any feature."""
    gather_memory: float = 1000.0
    """What is new within about this time is added up, so that many small steps the same way count."""
    echo_memory: float = 30000.0
    """What was told stays in mind so long: only what is newer than the fading memory of it is told again."""
    growth: float = 1.5
    """And only when it is so many times as new."""
    habit_memory: float = 600000.0
    """What was told is remembered so long: each telling makes the next quieter."""
    habit: float = 0.25
    """By how much. 0: nothing becomes a habit."""
    habit_full: float = 0.1
    """A novelty of this size makes one whole step of habit."""

    def __post_init__(self) -> None:
        wrong = []
        for each in fields(self):
            value = getattr(self, each.name)
            for number in value if isinstance(value, tuple) else (value,):
                if not (isinstance(number, int | float) and math.isfinite(number) and number >= 0):
                    wrong.append(f"{each.name} is {value!r}: give numbers from 0 on")
                    break
        if not wrong:
            times = [name for name in _TIMES if getattr(self, name) <= self.grain]
            times += ["swings"] if min(self.swings) <= self.grain else []
            more = f"give more than the grain of {self.grain:g} s"
            wrong += [f"{name} is {getattr(self, name)!r}: {more}" for name in times]
            least = (
                "grain",
                "sensitivity",
                "limit",
                "budget",
                "jump",
                "habit_full",
                "level_bend",
                "event",
                "lesson_memory",
            )
            wrong += [f"{name} is 0: give more" for name in least if getattr(self, name) == 0]
            wrong += [f"weights are {len(self.weights)}: give {len(FEATURES)}"] * (len(self.weights) != len(FEATURES))
            wrong += [f"raised is {self.raised!r}: give 1 or more"] if self.raised < 1 else []
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def base(self) -> float:
        """The limit of a series that never gave a false alarm."""
        return self.limit * self.sensitivity / 2.0


_TIMES = (
    "level_memory", "mean_memory", "hour_smooth", "day_memory", "week_memory", "centre_memory", "extremes_memory",
    "echo_memory", "habit_memory", "gather_memory", "hours_smooth",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a score is what it is."""

    value: float
    """What was judged; where samples come faster than the grain, their mean over about one grain."""
    low: float
    """The least value that would not have been an alarm."""
    high: float
    """The greatest one."""
    score: float
    limit: float
    feature: str
    """What decided: one of ``FEATURES``, or ``STILL``; empty when nothing was new."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Each feature's share of what was new; together 1, or nothing."""
    at: float = math.nan
    """When it was judged, seconds since the epoch."""
    alarm: bool = False


# Rows of a block's numbers (float32, one column a series). Who reads a snapshot looks at three of them.
_K = len(FEATURES)
_SMOOTH, _LAST, _E, _MEAN, SIZE, _LEFT = 0, 1, 2, 7, 8, 9
_CENTRE, HIGH, LOW = 10, 10 + _K, 10 + 2 * _K
_AGE, _GATHERED, _ECHO, _HABIT, _RUN, _NEXT, _LONGEST, _MOVES, _TOLD, _DAY, _WEEK, _BASE, _WEEK_LEFT, _DEBT, _TAUGHT = (
    range(10 + 3 * _K, 25 + 3 * _K)
)
_NUMBERS = 25 + 3 * _K
_VALUES = (*range(_E + 5), _MEAN, _DAY, _WEEK)
"""Rows that hold values (they move with the anchor); sizes and distances only change with the unit."""
_SIZES = (SIZE, _LEFT, _WEEK_LEFT, *(top + k for top in (_CENTRE, HIGH, LOW) for k in range(1, _K)))

# What leaks, and in which order: the five means, then mean, size, centre; left, hour of day and of week; what fades.
_A_MEAN, _A_SIZE, _A_CENTRE, _A_LEFT, _A_DAY, _A_WEEK, _A_EXTREMES, _A_ECHO, _A_HABIT, _A_GATHER, _A_WEEK_LEFT = range(
    5, 16
)
_LEAKS = 16
_AVERAGED = 8
"""The first so many are plain averages while a series is young."""

_STILL_FIRST = 24.0
_STILL_MOVES = 48.0
_NO_MORE = np.float32(1e30)


class _Block:
    """Up to WIDTH series side by side."""

    def __init__(self, capacity: int) -> None:
        self.size = 0
        self.capacity = capacity
        self.numbers: Floats = np.zeros((_NUMBERS, capacity), np.float32)
        self.doubles: Doubles = np.zeros((3, capacity), np.float64)  # anchor, scale, seen
        self.hour: NDArray[np.int32] = np.full(capacity, NEVER, np.int32)
        self.day: NDArray[np.float16] = np.full((24, capacity), np.nan, np.float16)
        self.week: NDArray[np.float16] = np.full((168, capacity), np.nan, np.float16)
        self.counter: NDArray[np.bool_] = np.zeros(capacity, np.bool_)
        self.free: NDArray[np.bool_] = np.zeros(capacity, np.bool_)
        self.totals: Doubles | None = None  # last total and when, of blocks that have counters
        self.common_seen: float | None = None
        """When all were seen last, if it was at the same time; then row 2 of ``doubles`` is out of date."""
        self.common_hour: int | None = None
        self.fresh = True
        self.any_free = False
        self.any_counter = False
        self.moved()

    def moved(self) -> None:
        """Takes new views: the size or the room has changed."""
        n = self.size
        v = self.numbers[:, :n]
        self.v = list(v)
        self.e = v[_E : _E + 5]
        self.means = v[_E:_CENTRE]
        self.centre, self.high, self.low = (v[top : top + _K] for top in (_CENTRE, HIGH, LOW))
        self.anchor, self.scale, self.seen = self.doubles[:, :n]

    def grow(self, capacity: int) -> None:
        def wider(old: NDArray[Any], fill: float) -> NDArray[Any]:
            new = np.full((*old.shape[:-1], capacity), fill, old.dtype)
            new[..., : self.size] = old[..., : self.size]
            return new

        self.numbers, self.doubles = wider(self.numbers, 0), wider(self.doubles, 0)
        self.hour, self.counter, self.free = wider(self.hour, NEVER), wider(self.counter, 0), wider(self.free, 0)
        self.day, self.week = wider(self.day, math.nan), wider(self.week, math.nan)
        self.totals = None if self.totals is None else wider(self.totals, math.nan)
        self.capacity = capacity
        self.moved()

    def seen_apart(self) -> None:
        """Writes down when each was seen, where so far one number stood for all."""
        if self.common_seen is not None:
            self.seen[:] = self.common_seen
            self.common_seen = None

    def clear(self, columns: Rows) -> None:
        self.seen_apart()
        self.common_hour = None
        self.numbers[:, columns] = 0
        self.doubles[:, columns] = 0
        self.hour[columns] = NEVER
        self.day[:, columns] = np.nan
        self.week[:, columns] = np.nan
        self.counter[columns] = False
        if self.totals is not None:
            self.totals[:, columns] = np.nan
        self.fresh = True

    @property
    def nbytes(self) -> int:
        arrays = (self.numbers, self.doubles, self.hour, self.day, self.week, self.counter, self.free, self.totals)
        return sum(each.nbytes for each in arrays if each is not None)


class _Scratch:
    """Room for the work on one block, shared by all."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.float: Floats = np.empty((6 * _K + _LEAKS + 7, width), np.float32)
        self.double: Doubles = np.empty((1, width), np.float64)
        self.flag: NDArray[np.bool_] = np.empty((3, width), np.bool_)
        self.of: dict[int, _Views] = {}

    def views(self, n: int) -> "_Views":
        found = self.of.get(n)
        if found is None:
            if len(self.of) > 8:
                self.of.clear()
            found = self.of[n] = _Views(self, n)
        return found

    @property
    def nbytes(self) -> int:
        return self.float.nbytes + self.double.nbytes + self.flag.nbytes


class _Views:
    """The scratch room, cut to the width of a block."""

    def __init__(self, room: _Scratch, n: int) -> None:
        f = room.float[:, :n]
        self.work = f[: 3 * _K]
        self.f, self.r, self.q7, self.t, self.u, self.s7 = (f[k * _K : (k + 1) * _K] for k in range(6))
        self.a = f[6 * _K : 6 * _K + _LEAKS]
        self.xr, self.dt, self.z, self.b, self.c, self.d, self.inverse = f[6 * _K + _LEAKS :]
        self.e = self.u[:5]
        self.y = room.double[0, :n]
        self.ok, self.p, self.q = room.flag[:, :n]
        self.f_row = list(self.f)


class _Moment:
    """What some series are judged by at one moment: the features as ``offset + slope * value`` (the level is bent),
    their extremes and ranges, and how much must be new for an alarm.
    """

    def __init__(
        self, numbers: Floats, doubles: Doubles, offset: Doubles, slope: Doubles, r: Doubles, least: Doubles
    ) -> None:
        self.offset, self.slope, self.r, self.least = offset, slope, r, least
        self.high, self.low = (numbers[top : top + _K].astype(np.float64) for top in (HIGH, LOW))
        wanted = [_SMOOTH, _BASE, SIZE, _E, _E + 1, _E + 3, _MEAN, _DAY, _WEEK]
        self.x, self.base, self.size, *self.likely = numbers[wanted].astype(np.float64)
        self.anchor, self.scale = doubles[:2]
        self.constant = numbers[_MOVES] < _STILL_MOVES

    def edges(self, s: Settings) -> tuple[Doubles, Doubles]:
        """Between which values less would be new than makes an alarm."""
        weights = np.array(s.weights)[:, None]

        def new(at: Doubles) -> Doubles:
            f = self.offset + self.slope * at
            f[0] = np.arcsinh((at + self.base) / (self.size + 1e-12) * s.level_bend)
            beyond = np.maximum(np.maximum(f - self.high, self.low - f), 0.0) / self.r
            total: Doubles = (np.minimum(beyond, s.jump) * weights).sum(0)
            return total

        with np.errstate(all="ignore"):
            best, found = self.x, new(self.x)  # what could be expected and is the least new is inside
            for likely in self.likely:
                value = new(likely)
                best = np.where(value < found, likely, best)
                found = np.minimum(found, value)
            inside = np.where(found < self.least, 1.0, 0.0)
            far = 4.0 * np.maximum(self.r[5], np.abs(self.x - best)) + self.size * s.least_change
            ends = []
            for side in (-1.0, 1.0):
                within, beyond = np.zeros_like(best), np.ones_like(best)
                for _ in range(30):
                    half = 0.5 * (within + beyond)
                    fine = new(best + side * half * far) < self.least
                    within, beyond = np.where(fine, half, within), np.where(fine, beyond, half)
                ends.append(best + side * within * far * inside)
            least = self.size * s.least_change
            ends[0] = np.where(self.constant, np.minimum(ends[0], self.likely[-1] + self.low[5] - least), ends[0])
            ends[1] = np.where(self.constant, np.maximum(ends[1], self.likely[-1] + self.high[5] + least), ends[1])
            return self.anchor + ends[0] / self.scale, self.anchor + ends[1] / self.scale


class _Judged:
    """The numbers behind the alarms of one tick in one block, as they were; made into words when somebody asks."""

    def __init__(self, k: _Block, w: _Views, columns: Rows, a: Floats, mean_a: Floats) -> None:
        self.numbers: Floats = k.numbers[:, columns]
        self.doubles: Doubles = k.doubles[:2, columns]
        self.work: Floats = w.work[:, columns]
        self.a: Floats = a[:, columns] if a.shape[1] > 1 else a
        self.mean_a: Floats = mean_a[:, columns] if mean_a.shape[1] > 1 else mean_a
        self.gathered: Floats = w.z[columns]
        self.scores: Floats = np.zeros(0, np.float32)
        self.limits: Floats = np.zeros(0, np.float32)
        self.value: Floats = self.scores
        self.still: NDArray[np.bool_] | None = None
        self.at: float | Doubles = math.nan

    def was_at(self, j: int) -> float:
        return self.at if isinstance(self.at, float) else float(self.at[j])

    def explanations(self, js: Rows, s: Settings) -> list[Explanation]:
        """All in one go: a thousand of them, one by one, would be a second of work."""
        numbers, work = self.numbers[:, js], self.work[:, js].astype(np.float64)
        f, r, new = (work[k * _K : (k + 1) * _K] for k in range(3))
        a = self.a[:, js if self.a.shape[1] > 1 else [0]].astype(np.float64)
        e = self.mean_a[:, js if self.mean_a.shape[1] > 1 else [0]].astype(np.float64)
        none, whole = np.zeros(len(js)), np.ones(len(js))
        slope = np.stack([
            none, whole * (e[0] - e[2]), whole * (e[1] - e[3]), whole * a[_A_WEEK_LEFT], whole * a[_A_LEFT], whole,
            whole * (e[3] - e[4]), whole,
        ])  # fmt: skip
        x = numbers[_SMOOTH].astype(np.float64)
        # Part of what counts may have been gathered before: this value had only the rest to do.
        enough = self.limits[js].astype(np.float64) * (1.0 + s.habit * numbers[_HABIT].astype(np.float64))
        rest = np.minimum(enough - (numbers[_GATHERED] - self.gathered[js]), 0.999 * new.sum(0))
        at = _Moment(numbers, self.doubles[:, js], f - slope * x, slope, r, np.maximum(rest, 1e-6))
        lows, highs = at.edges(s)
        found = zip(js.tolist(), new.T.tolist(), lows.tolist(), highs.tolist(), strict=True)
        return [self._explanation(j, of_each, low, high, s) for j, of_each, low, high in found]

    def _explanation(self, j: int, new: list[float], low: float, high: float, s: Settings) -> Explanation:
        told = dict(zip(FEATURES, new, strict=True))
        told[STILL] = s.still if self.still is not None and self.still[j] else 0.0
        total = sum(told.values())
        shares = {name: value / total for name, value in sorted(told.items(), key=lambda one: -one[1]) if value > 0}
        return Explanation(
            value=float(self.doubles[0, j] + float(self.value[j]) / self.doubles[1, j]),
            low=low,
            high=high,
            score=float(self.scores[j]),
            limit=float(self.limits[j]),
            feature=next(iter(shares), ""),
            shares=shares,
            at=self.was_at(j),
            alarm=True,
        )


class Novelty:
    """Follows series by row number and scores each of their values by how new it is."""

    def __init__(self, settings: Settings = Settings()) -> None:
        self.settings = s = settings
        self._blocks: list[_Block] = []
        self._scratch = _Scratch(0)
        self._size = 0
        self._free: list[int] = []
        self._scores: Floats = np.zeros(0, np.float32)
        self._limits: Floats = np.zeros(0, np.float32)
        self._alarms: list[Rows] = []
        self._told: OrderedDict[int, tuple[_Judged, int]] = OrderedDict()
        times = (
            *s.swings, s.mean_memory, s.level_memory, s.centre_memory, s.hour_smooth, s.day_memory, s.week_memory,
            s.extremes_memory, s.echo_memory, s.habit_memory, s.gather_memory, s.hours_smooth,
        )  # fmt: skip
        self._rates: Floats = np.array([[math.log1p(-s.grain / each)] for each in times], np.float32)
        self._weights: Floats = np.array(s.weights, np.float32)[:, None]
        self._learnt = np.float32(s.learning / s.grain)
        self._column: tuple[float, Floats] = (math.nan, self._rates)

    def __len__(self) -> int:
        """How many series it follows."""
        return self._size - len(self._free)

    @property
    def size(self) -> int:
        """One more than the highest row in use: what ``update`` is given has at most so many values."""
        return self._size

    @property
    def scores(self) -> Floats:
        """What the latest values scored. The next update writes into the same place."""
        return self._scores[: self._size]

    @property
    def limits(self) -> Floats:
        """From which score on a value is an alarm, of each series."""
        return self._limits[: self._size]

    @property
    def nbytes(self) -> int:
        rows = self._scores.nbytes + self._limits.nbytes
        return sum(block.nbytes for block in self._blocks) + self._scratch.nbytes + rows

    # --- rows come and go -------------------------------------------------------------------------------------------

    def add(self, count: int, counters: bool | NDArray[np.bool_] = False) -> Rows:
        """Rows for so many new series. A counter is judged by its rate; a fall of it is a restart, never a spike."""
        if count < 0:
            raise ValueError(f"{count} series cannot be added: give a number from 0 on")
        flags = np.broadcast_to(np.asarray(counters, np.bool_), (count,))
        again = [self._free.pop() for _ in range(min(count, len(self._free)))]
        again.sort()
        rows = np.array(again + list(range(self._size, self._size + count - len(again))), np.intp)
        self._extend(self._size + count - len(again))
        for block, columns, where in self._apart(rows):
            block.clear(columns)
            block.free[columns] = False
            block.any_free = bool(block.free[: block.size].any())
            if flags[where].any() and block.totals is None:
                block.totals = np.full((2, block.capacity), np.nan)
            block.counter[columns] = flags[where]
            block.any_counter = bool(block.counter[: block.size].any())
        self._scores[rows] = 0
        self._limits[rows] = self.settings.base
        for row in rows:
            self._told.pop(int(row), None)
        return rows

    def drop(self, rows: Sequence[int] | Rows) -> None:
        """Forgets these series; their rows are given away again."""
        gone = self._known(rows)
        if len(np.unique(gone)) != len(gone):
            raise ValueError("a row is named twice: drop each series once")
        for block, columns, _ in self._apart(gone):
            block.clear(columns)
            block.free[columns] = True
            block.any_free = True
        self._scores[gone] = 0
        self._free += [int(row) for row in gone]
        self._free.sort(reverse=True)
        lost = set(gone.tolist())
        self._alarms = [np.array([row for row in each if row not in lost], np.intp) for each in self._alarms]
        for row in lost:
            self._told.pop(row, None)

    def _extend(self, size: int) -> None:
        while self._size < size:
            if not self._blocks or self._blocks[-1].size == WIDTH:
                left = size - self._size
                room = min(WIDTH, max(FIRST, -(-left // FIRST) * FIRST))
                self._blocks.append(_Block(room))
            block = self._blocks[-1]
            want = min(WIDTH, block.size + size - self._size)
            if want > block.capacity:
                block.grow(min(WIDTH, max(want, block.capacity * 3 // 2)))
            self._size += want - block.size
            block.seen_apart()
            block.common_hour = None
            block.size = want
            block.moved()
            block.fresh = True
        if self._size > len(self._scores):
            room = max(self._size, min(len(self._scores) * 2, len(self._scores) + WIDTH), FIRST)
            for name in ("_scores", "_limits"):
                old = getattr(self, name)
                new = np.zeros(room, np.float32)
                new[: len(old)] = old
                setattr(self, name, new)
        width = max((block.size for block in self._blocks), default=0)
        if width > self._scratch.width:
            self._scratch = _Scratch(min(WIDTH, max(width, self._scratch.width * 3 // 2)))

    def _known(self, rows: Sequence[int] | Rows) -> Rows:
        """The rows as an array; an error when one is not in use."""
        found = np.asarray(rows, np.intp).reshape(-1)
        for row in found:
            if not 0 <= row < self._size or self._blocks[row // WIDTH].free[row % WIDTH]:
                raise ValueError(f"row {int(row)} is no series: add it first, and do not drop it twice")
        return found

    def _apart(self, rows: Rows) -> list[tuple[_Block, Rows, Rows]]:
        """The rows block by block: the block, the columns in it, and which of the rows they are."""
        which = rows // WIDTH
        found = []
        for number in np.unique(which):
            where = np.flatnonzero(which == number)
            found.append((self._blocks[number], rows[where] % WIDTH, where))
        return found

    # --- one tick ---------------------------------------------------------------------------------------------------

    def update(self, values: NDArray[np.float64] | Sequence[float], at: float | NDArray[np.float64]) -> Floats:
        """Scores one value of each series. ``values[row]`` is NaN where nothing was seen; rows beyond its end were not
        seen either. ``at`` is one time for all, or one a row. The scores are the engine's own array: the next call
        writes into it.
        """
        x = np.asarray(values, np.float64)
        if x.ndim != 1 or len(x) > self._size:
            raise ValueError(f"{x.shape} values for {self._size} series: give one number for each row, in one row")
        times: Doubles | None = None
        moment = 0.0
        if isinstance(at, np.ndarray) and at.ndim:
            times = np.asarray(at, np.float64)
            if times.shape != x.shape:
                raise ValueError(f"{times.shape} times for {len(x)} values: give one time for all, or one for each")
            if not (np.abs(times[np.isfinite(x)]) < _LATEST).all():
                raise ValueError("a time is none: give seconds since the epoch for each value that was seen")
        else:
            moment = float(at)
            if not abs(moment) < _LATEST:
                raise ValueError(f"the time is {at!r}: give seconds since the epoch")
        if len(x) < self._size:
            x = np.concatenate([x, np.full(self._size - len(x), np.nan)])
            if times is not None:
                times = np.concatenate([times, np.zeros(self._size - len(times))])
        self._alarms.clear()
        start = 0
        with np.errstate(all="ignore"):
            for block in self._blocks:
                end = start + block.size
                self._step(block, start, end, x[start:end], moment if times is None else times[start:end])
                start = end
        return self._scores[: self._size]

    def _step(self, k: _Block, start: int, end: int, x: Doubles, at: float | Doubles) -> None:
        s = self.settings
        w = self._scratch.views(k.size)
        v = k.v
        if k.any_free:  # rows that are nobody's stand at zero, so that the others need not go the way of missing values
            x = np.where(k.free[: k.size], 0.0, x)
            at = at if isinstance(at, float) else np.where(k.free[: k.size], 0.0, at)
        if k.any_counter:
            x = self._rated(k, x, at)
        ok = np.isfinite(x, out=w.ok)
        whole = bool(ok.all())
        if not whole and not ok.any():
            self._scores[start:end] = 0
            return

        # How long it is since each was seen, in grains: nothing passes for what is not seen now.
        dt: float | Floats
        back: Rows | None = None
        missing = None if whole else np.flatnonzero(~ok)
        if whole and isinstance(at, float) and k.common_seen is not None and not k.fresh:
            if at - k.common_seen > s.gap:
                back = np.arange(k.size)
            dt = min(max(at - k.common_seen, 0.0), s.grain) / s.grain
            k.common_seen = at
        else:
            k.seen_apart()
            np.subtract(at, k.seen, out=w.y)
            if missing is not None:
                w.y[missing] = 0.0
            np.maximum(w.y, 0.0, out=w.y)
            np.greater(w.y, s.gap, out=w.p)
            back = np.flatnonzero(w.p) if w.p.any() else None
            np.minimum(w.y, s.grain, out=w.y)
            np.divide(w.y, s.grain, out=w.dt, casting="same_kind")
            np.copyto(k.seen, at, where=ok)
            dt = w.dt
            if whole and isinstance(at, float):
                k.common_seen = at
        young: Rows | None = None
        if k.fresh:
            assert not isinstance(dt, float)
            young = np.flatnonzero(ok & (v[_AGE] == 0) & (k.hour[: k.size] == NEVER))
            self._begin(k, young, x, at)
            dt[young] = 1.0
            k.fresh = bool((k.hour[: k.size] == NEVER).any())
        untaught = self._turn(k, start, ok, whole, at)

        # The value in the series' own units; and how much of each memory is replaced by it.
        np.subtract(x, k.anchor, out=w.y)
        np.multiply(w.y, k.scale, out=w.y)
        np.maximum(w.y, -FAR, out=w.y)
        np.minimum(w.y, FAR, out=w.y)
        xr = w.xr
        np.copyto(xr, w.y, casting="same_kind")
        if missing is not None:
            xr[missing] = v[_LAST][missing]
        a, lag = self._leaks(w, dt, ok, whole)
        if whole:
            dt = lag
        age = v[_AGE]
        np.add(age, dt, out=age)
        least = float(age.min())
        mean_a = a[:_AVERAGED]
        if not least > 1.0 / max(1e-9, 1.0 - math.exp(float(self._rates[_A_SIZE, 0]))):
            np.maximum(age, 1e-9, out=w.inverse)
            np.divide(dt, w.inverse, out=w.inverse)
            np.maximum(mean_a, w.inverse, out=w.a[:_AVERAGED])
            mean_a = w.a[:_AVERAGED]

        # Standing still is asked of the values as they come.
        still = self._stillness(k, w, dt) if s.still > 0 else None
        np.copyto(v[_LAST], xr)
        if missing is not None:
            xr[missing] = v[_SMOOTH][missing]

        # What is far beyond everything before is taken as just so far beyond, or one glitch would bend all means.
        f, high, low = w.f_row, k.high, k.low
        np.equal(v[SIZE], 0.0, out=w.q)
        nil: Rows | None = None
        if w.q.any():
            np.add(xr, v[_BASE], out=w.b)
            nil = np.flatnonzero(w.q & (w.b != 0.0))
        np.subtract(high[5], low[5], out=w.b)
        np.multiply(v[SIZE], s.least_change, out=w.c)
        np.maximum(w.b, w.c, out=w.b)
        np.multiply(w.b, s.jump, out=w.b)
        np.add(v[_WEEK], high[5], out=w.c)
        np.add(w.c, w.b, out=w.c)
        np.minimum(xr, w.c, out=xr)
        np.add(v[_WEEK], low[5], out=w.c)
        np.subtract(w.c, w.b, out=w.c)
        np.maximum(xr, w.c, out=xr)
        if nil is not None:
            xr[nil] = v[_LAST][nil]
        if back is not None:
            back = back[age[back] > 1.0]
            v[_SMOOTH][back] = xr[back]
            k.e[:3, back] = xr[back]
            v[_LEFT][back] = v[_WEEK_LEFT][back] = v[_GATHERED][back] = 0.0

        # The features.
        np.subtract(xr, v[_SMOOTH], out=f[7])
        fast = not isinstance(lag, float) or lag < 1.0
        if fast:
            np.multiply(f[7], lag, out=w.b)
            np.add(v[_SMOOTH], w.b, out=xr)
        np.copyto(v[_SMOOTH], xr)
        np.add(xr, v[_BASE], out=w.b)
        np.absolute(w.b, out=w.c)
        np.subtract(w.c, v[SIZE], out=w.c)
        np.multiply(w.c, mean_a[_A_SIZE], out=w.c)
        np.add(v[SIZE], w.c, out=v[SIZE])
        np.add(v[SIZE], 1e-12, out=w.c)
        np.divide(w.b, w.c, out=w.b)
        np.multiply(w.b, s.level_bend, out=w.b)
        np.arcsinh(w.b, out=f[0])
        e = k.e
        np.subtract(xr, e, out=w.e)
        np.multiply(w.e, mean_a[:5], out=w.e)
        np.add(e, w.e, out=e)
        np.subtract(e[0:2], e[2:4], out=w.f[1:3])
        np.subtract(e[3], e[4], out=f[6])
        np.subtract(xr, v[_MEAN], out=w.b)
        np.multiply(w.b, mean_a[_A_MEAN], out=w.b)
        np.add(v[_MEAN], w.b, out=v[_MEAN])
        self._profile(w, v[_DAY], a[_A_DAY], untaught[0], f[4])
        np.subtract(f[4], v[_LEFT], out=w.b)
        np.multiply(w.b, a[_A_LEFT], out=w.b)
        np.add(v[_LEFT], w.b, out=v[_LEFT])
        np.copyto(f[4], v[_LEFT])
        self._profile(w, v[_WEEK], a[_A_WEEK], untaught[1], f[5])
        np.subtract(f[5], v[_WEEK_LEFT], out=w.b)
        np.multiply(w.b, a[_A_WEEK_LEFT], out=w.b)
        np.add(v[_WEEK_LEFT], w.b, out=v[_WEEK_LEFT])
        np.copyto(f[3], v[_WEEK_LEFT])
        if young is not None and len(young):
            for part in (k.centre, k.high, k.low):
                part[:, young] = w.f[:, young]

        # What lies beyond the extremes, as a share of the range between them.
        r, t, u, q = w.r, w.t, w.u, w.q7
        np.subtract(high, low, out=r)
        np.multiply(v[SIZE], s.least_change, out=w.c)
        np.less(v[_MOVES], _STILL_MOVES, out=w.p)
        constant = bool(w.p.any())
        if constant:  # a series that hardly ever moves must leave its extremes by a share of its level
            np.subtract(f[5], high[5], out=w.b)
            np.subtract(low[5], f[5], out=w.z)
            np.maximum(w.b, w.z, out=w.b)
            np.less(w.b, w.c, out=w.q)
            np.logical_and(w.p, w.q, out=w.p)
        np.maximum(r[1:], w.c, out=r[1:])
        np.maximum(r[0], s.least_change * s.level_bend * 0.7, out=r[0])
        np.add(r, 1e-12, out=r)
        np.multiply(r, s.jump, out=t)
        np.subtract(low, t, out=u)
        np.add(high, t, out=t)
        if nil is not None:  # the first value of a series that was always zero says how large its values are
            t[:, nil], u[:, nil] = np.inf, -np.inf
        np.minimum(t, w.f, out=t)
        np.maximum(u, w.f, out=u)
        np.subtract(t, high, out=q)
        np.maximum(q, 0.0, out=q)
        np.divide(q, r, out=q)
        z = w.z
        # Only one of the two sides can be left at a time; the second goes through the room of the leaking.
        beyond = w.s7
        np.subtract(low, u, out=beyond)
        np.maximum(beyond, 0.0, out=beyond)
        np.divide(beyond, r, out=beyond)
        np.add(q, beyond, out=q)
        if nil is not None:
            np.minimum(q, s.jump, out=q)
        np.multiply(q, self._weights, out=q)
        np.add.reduce(q, axis=0, out=z)
        if constant:
            np.copyto(z, 0.0, where=w.p)
        if missing is not None:  # nothing is new, and no extreme moves
            z[missing] = 0.0
            t[:, missing], u[:, missing] = high[:, missing], low[:, missing]
        if least <= self._learnt:
            np.copyto(z, 0.0, where=age <= self._learnt)

        # New things of about the same time count together. Told is what outgrows what was told lately, and less of it
        # the more often it happens.
        gathered, echo, habit, score = v[_GATHERED], v[_ECHO], v[_HABIT], self._scores[start:end]
        np.multiply(gathered, a[_A_GATHER], out=w.b)
        np.subtract(gathered, w.b, out=gathered)
        if fast:
            np.multiply(z, lag, out=z)
        if still is not None:
            z[still] += s.still * (age[still] > self._learnt)
        np.add(gathered, z, out=gathered)
        np.multiply(echo, s.growth, out=w.b)
        np.greater(gathered, w.b, out=w.p)
        if not whole:
            np.logical_and(w.p, ok, out=w.p)
        np.multiply(gathered, w.p, out=w.b)
        np.multiply(habit, s.habit, out=w.c)
        np.add(w.c, 1.0, out=w.c)
        np.divide(w.b, w.c, out=score)
        np.greater_equal(score, self._limits[start:end], out=w.p)
        if w.p.any():
            self._tell(k, w, np.flatnonzero(w.p), start, a, mean_a, still, dt, at)
        np.multiply(habit, a[_A_HABIT], out=w.c)
        np.subtract(habit, w.c, out=habit)
        np.multiply(w.b, 1.0 / s.habit_full, out=w.c)
        np.minimum(w.c, 1.0, out=w.c)
        np.add(habit, w.c, out=habit)
        np.multiply(echo, a[_A_ECHO], out=w.c)
        np.subtract(echo, w.c, out=echo)
        np.maximum(echo, w.b, out=echo)

        # The memories of the features move on.
        np.subtract(w.f, k.centre, out=q)
        np.multiply(q, mean_a[_A_CENTRE], out=q)
        np.add(k.centre, q, out=k.centre)
        leak = a[_A_EXTREMES]
        for edge in (high, low):
            np.subtract(k.centre, edge, out=q)
            np.multiply(q, leak, out=q)
            np.add(edge, q, out=edge)
        if fast:  # a record is believed within a grain
            np.subtract(t, high, out=t)
            np.maximum(t, 0.0, out=t)
            np.multiply(t, lag, out=t)
            np.add(high, t, out=high)
            np.subtract(u, low, out=u)
            np.minimum(u, 0.0, out=u)
            np.multiply(u, lag, out=u)
            np.add(low, u, out=low)
        else:
            np.maximum(high, t, out=high)
            np.minimum(low, u, out=low)

    def _leaks(
        self, w: _Views, dt: float | Floats, ok: NDArray[np.bool_], whole: bool
    ) -> tuple[Floats, float | Floats]:
        """How much of each memory is replaced at this tick, a column for all series or a column for each; and how many
        grains have passed for those that were seen, one number if it is the same for all.
        """
        usual = dt if isinstance(dt, float) else float(dt.max())
        alike = isinstance(dt, float)
        if not isinstance(dt, float) and usual > 0:
            np.equal(dt, usual, out=w.p)
            if whole:
                alike = bool(w.p.all())
            else:
                np.greater(ok, w.p, out=w.q)  # seen, and after another time than the others
                alike = not w.q.any()
        if not alike:
            np.multiply(self._rates, dt, out=w.a)
            np.expm1(w.a, out=w.a)
            np.negative(w.a, out=w.a)
            return w.a, dt
        if self._column[0] != usual:
            self._column = (usual, -np.expm1(self._rates * np.float32(usual)))
        if whole:
            return self._column[1], usual
        np.copyto(w.d, w.p)
        np.multiply(self._column[1], w.d, out=w.a)
        return w.a, usual

    @staticmethod
    def _profile(w: "_Views", usual: Floats, share: Floats, untaught: Rows | None, out: Floats) -> None:
        """How far the value is from what this hour usually shows; the hour learns it, a new hour takes it as it is."""
        np.subtract(w.xr, usual, out=out)
        np.multiply(out, share, out=w.b)
        np.add(usual, w.b, out=usual)
        if untaught is not None:
            usual[untaught] = w.xr[untaught]

    def _stillness(self, k: _Block, w: "_Views", dt: float | Floats) -> Rows | None:
        """The columns that have not moved for more than twice as long as ever, told once."""
        v = k.v
        run = v[_RUN]
        np.equal(w.xr, v[_LAST], out=w.p)
        np.add(run, dt, out=w.b)
        np.multiply(w.b, w.p, out=w.b)
        np.less(w.b, run, out=w.p)
        if w.p.any():
            ended = np.flatnonzero(w.p)
            longest = np.maximum(v[_LONGEST][ended], run[ended])
            v[_LONGEST][ended] = longest
            v[_NEXT][ended] = 2.0 * longest + _STILL_FIRST
        np.copyto(run, w.b)
        np.greater_equal(run, v[_NEXT], out=w.p)
        if not w.p.any():
            return None
        due = np.flatnonzero(w.p)
        v[_NEXT][due] = _NO_MORE
        due = due[v[_MOVES][due] >= _STILL_MOVES]
        return due if len(due) else None

    def _rated(self, k: _Block, x: Doubles, at: float | Doubles) -> Doubles:
        """The values with counters replaced by their rates; NaN after a restart, and the first time."""
        assert k.totals is not None
        totals, when = k.totals[:, : k.size]
        now = np.broadcast_to(np.asarray(at, np.float64), x.shape)
        rate = (x - totals) / (now - when)
        rate[(x < totals) | (now <= when)] = np.nan
        seen = k.counter[: k.size] & np.isfinite(x)
        np.copyto(totals, x, where=seen)
        np.copyto(when, now, where=seen)
        return np.where(k.counter[: k.size], rate, x)

    def _begin(self, k: _Block, columns: Rows, x: Doubles, at: float | Doubles) -> None:
        """The first value of a series is its anchor, and gives its first unit."""
        first = x[columns]
        power = np.where(first == 0, 4, np.frexp(first)[1])
        scale = np.ldexp(1.0, np.clip(4 - power, -1000, 1000))
        k.numbers[:, columns] = 0
        k.doubles[0, columns] = first
        k.doubles[1, columns] = scale
        base = (first * scale).astype(np.float32)
        k.numbers[_BASE, columns] = base
        k.numbers[SIZE, columns] = np.abs(base)
        k.numbers[_NEXT, columns] = _STILL_FIRST

    def _turn(
        self, k: _Block, start: int, ok: NDArray[np.bool_], whole: bool, at: float | Doubles
    ) -> tuple[Rows | None, Rows | None]:
        """Where another hour has begun, puts away what the last one taught and takes out what this one usually is.
        Says which hours of the day and of the week begin for the first time.
        """
        n = k.size
        hours: Any
        if isinstance(at, float):
            hour = int(at // 3600)
            if k.common_hour == hour:
                return _NOTHING
            turned = np.flatnonzero(ok & (k.hour[:n] != hour))
            hours = np.full(len(turned), hour, np.int64)
            k.common_hour = hour if whole else None
        else:
            now = np.where(ok, at, 0.0) // 3600
            turned = np.flatnonzero(ok & (k.hour[:n] != now))
            hours = now[turned].astype(np.int64)
            k.common_hour = None
        if not len(turned):
            return _NOTHING
        v = k.v
        self._put_away(k, turned)
        self._new_unit(k, turned)
        v[_LONGEST][turned] *= np.float32(1.0 - 3600.0 / self.settings.extremes_memory)
        moved = v[_RUN][turned] < _STILL_FIRST
        v[_MOVES][turned] = np.where(moved, np.minimum(v[_MOVES][turned] + 6.0, 600.0), v[_MOVES][turned] * 0.99)
        v[_DEBT][turned] = np.maximum(0.0, v[_DEBT][turned] - np.float32(self.settings.budget * 3600.0 / WEEK))
        v[_TAUGHT][turned] *= np.float32(math.exp(-3600.0 / self.settings.lesson_memory))
        self._set_limits(k, turned, start)
        mean = v[_MEAN][turned]
        untaught: list[Rows | None] = []
        for stored, many, value in ((k.day, 24, _DAY), (k.week, 168, _WEEK)):
            known = stored[hours % many, turned].astype(np.float32)
            new = np.isnan(known)
            v[value][turned] = np.where(new, mean, known)
            untaught.append(turned[new] if new.any() else None)
        k.hour[turned] = hours
        return untaught[0], untaught[1]

    @staticmethod
    def _put_away(k: _Block, columns: Rows) -> None:
        """What the present hour has taught goes into the profiles."""
        taught = columns[k.hour[columns] != NEVER]
        hours = k.hour[taught].astype(np.int64)
        for stored, many, value in ((k.day, 24, _DAY), (k.week, 168, _WEEK)):
            stored[hours % many, taught] = np.clip(k.v[value][taught], -60000.0, 60000.0)

    def _new_unit(self, k: _Block, columns: Rows) -> None:
        """Gives another anchor and unit to series that have outgrown theirs, so that small numbers hold them well."""
        v = k.v
        spread = (v[HIGH + 5] - v[LOW + 5])[columns]
        middle = v[_E + 3][columns]
        off = (spread > 0) & (
            (spread > 256.0) | (spread < 0.0625) | (np.abs(middle) > 64.0 * np.maximum(spread, 0.0625))
        )
        if not off.any():
            return
        columns, spread, middle = columns[off], spread[off], middle[off]
        anchor, scale = k.doubles[0, columns], k.doubles[1, columns]
        moved = anchor + middle / scale
        power = np.clip(2 - np.frexp(spread)[1], -100, 100)
        larger = np.ldexp(1.0, power)
        larger = np.where(np.abs(np.log2(scale * larger)) < 1000, larger, 1.0)
        shift = ((moved - anchor) * scale).astype(np.float32)
        by = larger.astype(np.float32)
        for row in _VALUES:
            k.numbers[row, columns] = (k.numbers[row, columns] - shift) * by
        for row in _SIZES:
            k.numbers[row, columns] *= by
        for stored in (k.day, k.week):
            held = (stored[:, columns].astype(np.float32) - shift) * by
            stored[:, columns] = np.clip(held, -60000.0, 60000.0)
        k.doubles[0, columns] = moved
        k.doubles[1, columns] = scale * larger
        k.numbers[_BASE, columns] = moved * scale * larger

    # --- why ---------------------------------------------------------------------------------------------------------

    def _tell(
        self,
        k: _Block,
        w: "_Views",
        columns: Rows,
        start: int,
        a: Floats,
        mean_a: Floats,
        still: Rows | None,
        dt: float | Floats,
        at: float | Doubles,
    ) -> None:
        """Notes the alarms with what explains them, and raises the limits of those that come too often."""
        s = self.settings
        rows = columns + start
        self._alarms.append(rows)
        v = k.v
        moment = _Judged(k, w, columns, a, mean_a)
        passed = dt if isinstance(dt, float) else dt[columns]
        moment.value = np.where(passed >= 1.0, v[_LAST][columns], v[_SMOOTH][columns])
        moment.still = None if still is None else np.isin(columns, still)
        moment.scores, moment.limits = self._scores[rows], self._limits[rows]
        moment.at = at if isinstance(at, float) else at[columns]
        for j, row in enumerate(rows.tolist()):
            self._told.pop(row, None)
            self._told[row] = (moment, j)
        while len(self._told) > KEPT:
            self._told.popitem(last=False)
        again = v[_AGE][columns] - v[_TOLD][columns] <= s.event / s.grain
        other = columns[~again]
        debt = v[_DEBT][columns]
        least = np.minimum(1.0, _CLEAR + _OFTEN * debt)
        debt += np.clip(moment.limits / moment.scores, least, 1.0)
        v[_DEBT][other] = debt[~again]
        v[_TOLD][columns] = v[_AGE][columns]
        self._set_limits(k, other, start)

    def _set_limits(self, k: _Block, columns: Rows, start: int) -> None:
        """The limits as debt and verdicts have them."""
        s = self.settings
        debt, taught = k.v[_DEBT][columns], k.v[_TAUGHT][columns]
        raised = np.exp(np.maximum(debt - s.forgiven, 0.0) * math.log(s.raised) + taught)
        self._limits[columns + start] = np.clip(s.base * raised, 0.5 * s.base, max(_HIGHEST, s.base))

    def _expected(self, k: _Block, columns: Rows) -> "_Moment":
        """What the next value will be judged by, as things are."""
        s = self.settings
        a = -np.expm1(self._rates.astype(np.float64))[:, 0]
        v = [row[columns].astype(np.float64) for row in k.v]
        e = v[_E : _E + 5]
        b = 1.0 - a
        one = np.ones(len(columns))
        offset = np.array([
            0 * one, e[0] * b[0] - e[2] * b[2], e[1] * b[1] - e[3] * b[3],
            v[_WEEK_LEFT] * b[_A_WEEK_LEFT] - v[_WEEK] * a[_A_WEEK_LEFT],
            v[_LEFT] * b[_A_LEFT] - v[_DAY] * a[_A_LEFT], -v[_WEEK], e[3] * b[3] - e[4] * b[4], -v[_SMOOTH],
        ])  # fmt: skip
        slope = (
            np.array([0.0, a[0] - a[2], a[1] - a[3], a[_A_WEEK_LEFT], a[_A_LEFT], 1.0, a[3] - a[4], 1.0])[:, None] * one
        )
        r = (k.high - k.low)[:, columns].astype(np.float64)
        r[1:] = np.maximum(r[1:], v[SIZE] * s.least_change)
        r[0] = np.maximum(r[0], s.least_change * s.level_bend * 0.7)
        start = self._blocks.index(k) * WIDTH
        least = self._limits[start + columns] * (1.0 + s.habit * v[_HABIT])
        return _Moment(k.numbers[:, columns], k.doubles[:2, columns], offset, slope, r + 1e-12, least)

    def alarms(self) -> Rows:
        """The series whose latest score has reached their limit; never one that is still learning."""
        return np.concatenate(self._alarms) if self._alarms else np.zeros(0, np.intp)

    def learning(self) -> NDArray[np.bool_]:
        """Which series are too young to be judged."""
        found = np.zeros(self._size, np.bool_)
        start = 0
        for k in self._blocks:
            found[start : start + k.size] = (k.v[_AGE] <= self._learnt) & ~k.free[: k.size]
            start += k.size
        return found

    def progress(self, row: int) -> float:
        """How much of the learning of a series is done, from 0 to 1."""
        column = int(self._known([row])[0]) % WIDTH
        if self._learnt == 0:
            return 1.0
        return min(1.0, float(self._blocks[row // WIDTH].v[_AGE][column] / self._learnt))

    def band(self, rows: Sequence[int] | Rows) -> tuple[Doubles, Doubles]:
        """Between which values each of these series is usual now: outside, the next value is an alarm. NaN for series
        that were never seen.
        """
        wanted = self._known(rows)
        low, high = np.full(len(wanted), np.nan), np.full(len(wanted), np.nan)
        for k, columns, where in self._apart(wanted):
            ends = self._expected(k, columns).edges(self.settings)
            for found, end in zip((low, high), ends, strict=True):
                found[where] = np.where(k.hour[columns] == NEVER, np.nan, end)
        return low, high

    def explain(self, row: int) -> Explanation:
        """Why the latest score of this series is what it is; of an alarm, what would not have been one."""
        return self.explain_all([row])[0]

    def _as_it_is(self, row: int, low: float, high: float) -> Explanation:
        """Of one that is no alarm now."""
        column, k = row % WIDTH, self._blocks[row // WIDTH]
        unseen = k.hour[column] == NEVER
        value = math.nan if unseen else float(k.anchor[column] + float(k.v[_SMOOTH][column]) / k.scale[column])
        score, limit = float(self._scores[row]), float(self._limits[row])
        return Explanation(value, low, high, score, limit, "", at=math.nan if unseen else self._seen_at(row))

    def explain_all(self, rows: Sequence[int] | Rows) -> list[Explanation]:
        """``explain`` for each of these, at a fraction of the cost where many are alarms of the same moment."""
        wanted = self._known(rows)
        found: dict[int, Explanation] = {}
        together: dict[int, tuple[_Judged, list[int], list[int]]] = {}
        for row in wanted.tolist():
            moment, j = self._told.get(row, _UNTOLD)
            if moment is not None and moment.was_at(j) == self._seen_at(row):
                _, of, js = together.setdefault(id(moment), (moment, [], []))
                of.append(row)
                js.append(j)
        for moment, of, js in together.values():
            found.update(zip(of, moment.explanations(np.array(js), self.settings), strict=True))
        others = [row for row in wanted.tolist() if row not in found]
        if others:
            lows, highs = self.band(others)
            for row, low, high in zip(others, lows.tolist(), highs.tolist(), strict=True):
                found[row] = self._as_it_is(row, low, high)
        return [found[row] for row in wanted.tolist()]

    def _seen_at(self, row: int) -> float:
        k = self._blocks[row // WIDTH]
        return float(k.common_seen if k.common_seen is not None else k.seen[row % WIDTH])

    def set_limit(self, row: int, limit: float) -> None:
        """Gives a series the limit that it had before, as if nobody had said anything since."""
        if not (math.isfinite(limit) and limit > 0):
            raise ValueError(f"the limit {limit!r} cannot be: give a number above 0")
        column = int(self._known([row])[0]) % WIDTH
        self._limits[row] = limit
        self._blocks[row // WIDTH].v[_TAUGHT][column] = math.log(limit / self.settings.base)

    def judge(self, row: int, right: bool, score: float) -> None:
        """An operator's word on an alarm. After a false one, a score like this is no alarm any more and the present
        value is usual; after a right one the limit comes down, at most to half of where limits start.
        """
        if not (math.isfinite(score) and score >= 0):
            raise ValueError(f"the score {score!r} cannot be judged: give the number that the alarm had")
        column = int(self._known([row])[0]) % WIDTH
        k, base, limit = self._blocks[row // WIDTH], self.settings.base, float(self._limits[row])
        if right:
            limit = max(0.5 * base, min(limit / self.settings.raised, 0.9 * score))
        else:
            limit = min(max(_HIGHEST, base), max(limit, 1.1 * score))
        k.v[_DEBT][column] = min(float(k.v[_DEBT][column]), self.settings.forgiven)
        k.v[_TAUGHT][column] = math.log(limit / base)
        self._limits[row] = limit
        if right or k.hour[column] == NEVER:
            return
        v = [float(each[column]) for each in k.v]
        x, e = v[_SMOOTH], v[_E : _E + 5]
        level = math.asinh((x + v[_BASE]) / (v[SIZE] + 1e-12) * self.settings.level_bend)
        now = (level, e[0] - e[2], e[1] - e[3], v[_WEEK_LEFT], v[_LEFT], x - v[_WEEK], e[3] - e[4], 0.0)
        k.high[:, column] = np.maximum(k.high[:, column], now)
        k.low[:, column] = np.minimum(k.low[:, column], now)

    # --- kept and shared ---------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """All that was learnt, as arrays of its own. ``snapshots.pack`` makes bytes of them."""
        for k in self._blocks:
            k.seen_apart()
            self._put_away(k, np.flatnonzero(k.hour[: k.size] != NEVER))

        def joined(parts: list[NDArray[Any]], empty: tuple[int, ...], kind: type) -> NDArray[Any]:
            return np.concatenate(parts, axis=-1) if parts else np.zeros(empty, kind)

        ks = self._blocks
        totals = [np.full((2, k.size), np.nan) if k.totals is None else k.totals[:, : k.size] for k in ks]
        return {
            "numbers": joined([k.numbers[:, : k.size] for k in ks], (_NUMBERS, 0), np.float32),
            "doubles": joined([k.doubles[:, : k.size] for k in ks], (3, 0), np.float64),
            "hour": joined([k.hour[: k.size] for k in ks], (0,), np.int32),
            "day": joined([k.day[:, : k.size] for k in ks], (24, 0), np.float16),
            "week": joined([k.week[:, : k.size] for k in ks], (168, 0), np.float16),
            "counter": joined([k.counter[: k.size] for k in ks], (0,), np.bool_),
            "free": joined([k.free[: k.size] for k in ks], (0,), np.bool_),
            "totals": joined(totals, (2, 0), np.float64),
            "limits": self._limits[: self._size].copy(),
        }

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        """Takes the place of all that is followed now. What passed since the snapshot is missing time: it teaches
        nothing and forgets nothing.
        """
        found = _shaped(snapshot)
        size = len(found["limits"])
        if not _sound(found, np.arange(size)).all():
            raise ValueError(_DAMAGED)
        self._blocks, self._size, self._free, self._alarms = [], 0, [], []
        self._told.clear()
        self._scores, self._limits = np.zeros(0, np.float32), np.zeros(0, np.float32)
        self._extend(size)
        self._write(np.arange(size), found, np.arange(size))
        free = np.flatnonzero(found["free"])
        for k, columns, _ in self._apart(free):
            k.free[columns] = True
            k.any_free = True
        self._free = sorted(free.tolist(), reverse=True)

    def merge(
        self,
        other: Mapping[str, NDArray[Any]],
        mine: Sequence[int] | Rows,
        theirs: Sequence[int] | Rows,
    ) -> None:
        """Takes over what was learnt elsewhere, from history or by another node: their rows replace mine."""
        to, of = self._known(mine), np.asarray(theirs, np.intp).reshape(-1)
        if len(to) != len(of) or len(np.unique(to)) != len(to):
            raise ValueError(f"{len(to)} rows cannot take over {len(of)}: name as many of mine as of theirs, each once")
        if not self.sound(other, of).all():
            raise ValueError(_DAMAGED)
        self._write(to, other, of)

    @staticmethod
    def sound(other: Mapping[str, NDArray[Any]], theirs: Sequence[int] | Rows) -> NDArray[np.bool_]:
        """Which of these rows of a snapshot can be taken over: one that is damaged must not cost all the others.
        ValueError when it is no snapshot, or has no such rows.
        """
        found, of = _shaped(other), np.asarray(theirs, np.intp).reshape(-1)
        there = ~found["free"]
        for row in of:
            if not 0 <= row < len(there) or not there[row]:
                raise ValueError(f"row {int(row)} is no series of the snapshot: it has rows 0 to {len(there) - 1}")
        return _sound(found, of)

    def _write(self, to: Rows, found: Mapping[str, NDArray[Any]], of: Rows) -> None:
        for k, columns, where in self._apart(to):
            source = of[where]
            k.seen_apart()
            k.common_hour = None
            for name in ("numbers", "doubles", "day", "week"):
                getattr(k, name)[:, columns] = found[name][:, source]
            for name in ("hour", "counter"):
                getattr(k, name)[columns] = found[name][source]
            if found["counter"][source].any() and k.totals is None:
                k.totals = np.full((2, k.capacity), np.nan)
            if k.totals is not None:
                k.totals[:, columns] = found["totals"][:, source]
            k.any_counter = bool(k.counter[: k.size].any())
            k.fresh = True
        self._limits[to] = found["limits"][of]
        self._scores[to] = 0
        for row in to.tolist():
            self._told.pop(row, None)


_NOTHING: tuple[None, None] = (None, None)
_UNTOLD: tuple[None, int] = (None, 0)
_CLEAR = 0.1
_OFTEN = 0.2
"""However clear an alarm was, it is this much of a debt, and for each alarm of debt that there is already this more."""
_LATEST = 3600.0 * (1 << 31)
"""Hours since the epoch are counted in 32 bits."""
_HIGHEST = 20.0
"""No limit rises above this, about the most that a score can be."""


_SHAPES: Mapping[str, tuple[tuple[int, ...], type]] = {
    "numbers": ((_NUMBERS,), np.float32),
    "doubles": ((3,), np.float64),
    "hour": ((), np.int32),
    "day": ((24,), np.float16),
    "week": ((168,), np.float16),
    "counter": ((), np.bool_),
    "free": ((), np.bool_),
    "totals": ((2,), np.float64),
    "limits": ((), np.float32),
}


def _shaped(snapshot: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """The snapshot, if it is one: all arrays there, each of its kind and as long as the others."""
    size = len(snapshot["limits"]) if "limits" in snapshot and snapshot["limits"].ndim == 1 else -1
    for name, (rows, kind) in _SHAPES.items():
        array = snapshot.get(name)
        if array is None or array.dtype != kind or array.shape != (*rows, size):
            what = "missing" if array is None else f"{array.dtype} {array.shape}"
            raise ValueError(f"this is no snapshot of baselines: {name} is {what}; learn them anew")
    return snapshot


_DAMAGED = "this snapshot of baselines is damaged: it holds numbers that are none; learn them anew"


def _sound(snapshot: Mapping[str, NDArray[Any]], rows: Rows) -> NDArray[np.bool_]:
    """Which of the rows hold numbers only."""
    limits, doubles = snapshot["limits"][rows], snapshot["doubles"][:, rows]
    sound: NDArray[np.bool_] = np.isfinite(snapshot["numbers"][:, rows]).all(0) & np.isfinite(doubles).all(0)
    sound &= np.isfinite(limits) & (limits > 0) & ((doubles[1] > 0) | (snapshot["hour"][rows] == NEVER))
    for hours in ("day", "week"):
        sound &= ~np.isinf(snapshot[hours][:, rows]).any(0)
    return sound
