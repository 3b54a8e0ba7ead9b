"""Tells whether a series steps or drifts after a moment, against what it did before and how far it wanders anyway."""

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Series = tuple[str, str]
Floats = npt.NDArray[np.float64]

BLOCK = 300.0
"""Seconds that one mean stands for: the grain of all that is remembered."""
KEPT = 36
"""Means of each series that are remembered: the hour before something, told an hour late, and an hour of what came."""
BEFORE = 12
"""Means that make up what it was before: an hour."""
LEAST_BLOCKS = 4
"""Means without which nothing is known of a series: twenty minutes. Few of them make the limit higher."""
GAP = 3
"""Means left out between the hour and the mean whose distance from it is its usual wander."""
NOISE_MEMORY, WANDER_MEMORY = 6 * 3600.0, 86400.0
"""Seconds after which two thirds are forgotten of how much a series scatters within a block, and wanders in an hour."""
FEW = 3.0
"""How much is asked of a series that is hardly known: the limit grows by this over the number of its means."""
DAILY = 0.6
"""How much the latest day counts in what each hour of the day is like."""
HIDDEN = 1.5
"""By how much what goes on for a part of an hour is larger than the mean of that hour tells."""
PRE = 300.0
"""Seconds before the moment whose values tell a step that came with it from one that was there already."""
SLACK = 45.0
"""Seconds that a step may seem to come before its moment: clocks and looks are not exact."""
LEAST_SPAN, LEAST_POINTS = 120.0, 3
"""Seconds, and values, for which a step must have lasted."""
AGREE = 0.8
"""Share of the values since a step that must lie beyond half of it: what comes and goes is none."""
LEAST_DRIFT = 6
"""Means since the moment from which a drift can be told: half an hour."""
STRAIGHT = 0.85
"""How much of the scatter a straight line must explain; a single step reaches three quarters at most."""
FORGET_AFTER = 86400.0
"""Seconds without a value after which a series loses its place."""
MOST_SERIES = 20_000
"""Series that have a place at most; further ones wait until one is free."""
PRESSED = 3600.0
"""Seconds without a value after which it loses it to another, where none is free: what it was before is forgotten."""
MAGIC = b"x0shift1"

STATES = ("last", "last_at", "ref", "sum", "squares", "count", "hour_sum", "hour_count", "noise", "wander")
"""What is known of each series beside its means; noise and wander are squares."""
COUNTS = ("noises", "wanders", "blocks")
"""How often each was learnt."""


@dataclass(frozen=True, slots=True)
class Before:
    """What a series was like before a moment."""

    level: float
    latest: float
    """In the last quarter of an hour: what had changed by then was not changed by what came after."""
    slope: float
    """A second."""
    middle: float
    """Time at which the level stands."""
    scale: float
    """How far the level of a while usually is from that of the hour before."""
    noise: float
    """Scatter of single values."""
    blocks: int
    """Means that the series is known by, however long ago."""
    floor: float
    day: tuple[float, ...]
    """What each hour of the day was like until then; NaN where nobody knows."""
    hour: int
    """Of the moment, in that day."""

    def may_have_moved(self, values: Iterable[float], base: float) -> bool:
        """False: no shift worth the name ends in these values. For looking closer at few of many series."""
        room = 0.5 * base * self.scale
        return any(abs(value - self.level) > room for value in values)

    def expected(self, hours: int, rises: bool) -> float:
        """How far the days before went that way within so many hours after that hour."""
        most = 0.0
        for start in (-1, 0):  # the moment may be the first of its hour, or of what begins with it
            base = self.day[(self.hour + start) % 24]
            for later in range(start + 1, hours + 1):
                move = self.day[(self.hour + later) % 24] - base
                most = max(most, move if rises else -move)  # which a number that is none never is
        return HIDDEN * most


@dataclass(frozen=True, slots=True)
class Shift:
    """What became of it."""

    kind: str
    """``step`` or ``drift``."""
    onset: float
    level: float
    """Where it is since then; of a drift, where it had come to."""
    number: float
    """How far that is, in spreads of what it was before."""
    limit: float
    """From which number on it is one."""
    low: float
    high: float
    """Between which values it would have been none."""

    @property
    def rises(self) -> bool:
        return self.level > self.high


def limit_for(base: float, series: int, blocks: int) -> float:
    """How many spreads a shift must have: more where many series are looked at, and where little is known of one."""
    return math.sqrt(base * base + 2.0 * math.log(max(1, series))) * (1.0 + FEW / max(1, blocks))


def step(
    before: Before, ats: Floats, values: Floats, at: float, settled: float, within: float, series: int, base: float
) -> Shift | None:
    """A step that came within so many seconds after ``at``. Values between ``at`` and ``settled`` are not looked at."""
    counted = np.isfinite(values) & (ats >= at - PRE) & ((ats <= at) | (ats > settled))
    ats, values = ats[counted], values[counted]
    if len(ats) < LEAST_POINTS or ats[-1] <= settled:
        return None
    first = _onset(values, before.level)
    # One that is there from the first settled value on came at some time since the moment.
    onset = at if first and ats[first - 1] <= at < ats[first] else float(ats[first])
    if not first and ats[0] > at:
        onset = at if ats[0] <= settled + PRE else float(ats[0])
    since, times = values[first:], ats[first:]
    times, since = times[times > settled], since[times > settled]
    if onset < at - SLACK or onset > at + within or len(since) < LEAST_POINTS or times[-1] - times[0] < LEAST_SPAN:
        return None
    # What single values scatter round and what their means scatter round are two things where they are skewed: it has
    # to have moved by both.
    levels = (float(np.median(since)), _middle(times, since))
    level = min(levels, key=lambda each: abs(each - before.level))
    if (levels[0] > before.level) != (levels[1] > before.level):
        return None
    hours = 1 + math.ceil(max(0.0, times[-1] - at) / 3600.0)
    noise = before.noise / math.sqrt(max(1.0, min(len(since), (times[-1] - times[0]) / 60.0)))
    found = _judge(before, "step", max(onset, at), level, float(np.mean(times)), noise, 1.0, hours, series, base)
    if found is None:
        return None
    half = before.level + 0.5 * (level - before.level)
    beyond = since > half if found.rises else since < half
    return found if float(np.mean(beyond)) >= AGREE else None


def drift(before: Before, ats: Floats, means: Floats, at: float, series: int, base: float) -> Shift | None:
    """A slope since ``at`` that was not there before, and that has led out of where it was."""
    known = np.isfinite(means)
    ats, means = ats[known], means[known]
    if len(ats) < LEAST_DRIFT:
        return None
    slope, explained = _line(ats, means)
    span = float(ats[-1] - ats[0])
    end = float(np.median(means[-2:]))
    if explained < STRAIGHT or (end > before.level) != (slope > 0):
        return None
    hours = 1 + math.ceil(max(0.0, ats[-1] - at) / 3600.0)
    wide = math.sqrt(max(1.0, (ats[-1] - at) / 3600.0))
    found = _judge(before, "drift", at, end, float(ats[-1]), before.noise, wide, hours, series, base)
    if found is None:
        return None
    already = before.slope if before.slope * slope > 0 else 0.0
    number = min(found.number, abs(slope - already) * span / (before.scale * wide))
    if number < found.limit:
        return None
    return Shift("drift", at, end, number, found.limit, found.low, found.high)


def _judge(
    before: Before,
    kind: str,
    onset: float,
    level: float,
    at: float,
    noise: float,
    wide: float,
    hours: int,
    series: int,
    base: float,
) -> Shift | None:
    """Counted from whichever is nearest: the hour before, the last minutes of it, or where it was going."""
    anchors = (before.level, before.latest, before.level + before.slope * (at - before.middle))
    low, high = min(anchors), max(anchors)
    rises = level > before.level
    away = level - high if rises else low - level
    # A service that does this at this hour every day is not made to by what came just before.
    usual = before.expected(hours, rises)
    away -= usual
    scale = math.sqrt((before.scale * wide) ** 2 + noise * noise + before.floor * before.floor)
    limit = limit_for(base, series, before.blocks)
    if away <= 0 or away < limit * scale:
        return None
    room = limit * scale
    low, high = (low - room, high + usual + room) if rises else (low - usual - room, high + room)
    return Shift(kind, onset, level, away / scale, limit, low, high)


def _onset(values: Floats, level: float) -> int:
    """The number of the value from which on another level explains them best."""
    ordered, few = np.sort(values), len(values) // 20
    low, high = float(ordered[few]), float(ordered[-1 - few])
    clipped = np.clip(values, min(low, level), max(high, level)) - level
    # With the level before as what was, and the mean since as what is, this is what each place explains.
    behind = np.cumsum(clipped[::-1])[::-1]
    return int(np.argmax(behind * behind / np.arange(len(clipped), 0, -1)))


def _middle(ats: Floats, values: Floats) -> float:
    """The median of the means of blocks, or the mean where they are too few for one."""
    number = ((ats - ats[0]) // BLOCK).astype(np.intp)
    counts = np.bincount(number)
    means = np.bincount(number, values)[counts > 0] / counts[counts > 0]
    return float(np.median(means)) if len(means) >= LEAST_POINTS else float(np.mean(values))


def _line(ats: Floats, values: Floats) -> tuple[float, float]:
    """Slope, and how much of the scatter it explains."""
    x, y = ats - ats.mean(), values - values.mean()
    across, along, total = float(x @ y), float(x @ x), float(y @ y)
    if along <= 0 or total <= 0:
        return 0.0, 0.0
    return across / along, across * across / (along * total)


class Pasts:
    """What every series was like lately, in some three hundred bytes each, whatever it may be asked about later.

    Times are seconds of one clock that never goes back; ``wall`` is only for the hour of the day.
    """

    def __init__(
        self, is_counter: Callable[[str], bool] = lambda metric: False, floor: Callable[[str], float] = lambda metric: 0
    ) -> None:
        self._is_counter = is_counter
        self._floor = floor
        self._row: dict[Series, int] = {}
        self._free: list[int] = []
        self._names: list[Series] = []
        self._rows: npt.NDArray[np.intp] = np.empty(0, np.intp)
        self._are_placed: npt.NDArray[np.bool_] | None = None
        """Which of the latest names have a row; None: all of them."""
        self._counters = np.empty(0, np.bool_)
        self._states: dict[str, Floats] = {}
        self._counts: dict[str, npt.NDArray[np.int32]] = {}
        self._means = np.empty((0, KEPT), np.float32)
        self._day = np.empty((0, 24), np.float32)
        self._make_room(64)
        self._block: int | None = None
        self._hour: int | None = None

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, series: Series) -> bool:
        return series in self._row

    def _make_room(self, size: int) -> None:
        old = len(self._counters)
        states = {name: np.zeros(size) for name in STATES}
        states["last"][:] = np.nan
        counts = {name: np.zeros(size, np.int32) for name in COUNTS}
        means, day = np.full((size, KEPT), np.nan, np.float32), np.full((size, 24), np.nan, np.float32)
        counters = np.zeros(size, np.bool_)
        if old:
            for name in STATES:
                states[name][:old] = self._states[name]
            for name in COUNTS:
                counts[name][:old] = self._counts[name]
            means[:old], day[:old], counters[:old] = self._means, self._day, self._counters
        self._states, self._counts, self._means, self._day, self._counters = states, counts, means, day, counters
        self._free += range(size - 1, old - 1, -1)

    # -- taking in -------------------------------------------------------------------------------------------------

    def take(
        self, names: Sequence[Series], values: Sequence[float], ats: Sequence[float], now: float, wall: float
    ) -> None:
        """The latest value of each; one that is not newer than the one before is not counted twice."""
        self._roll(now, wall)
        if names != self._names or self._are_placed is not None:
            self._place(names, now)
        rows = self._rows
        told, at = np.asarray(values, np.float64), np.asarray(ats, np.float64)
        if self._are_placed is not None:
            told, at = told[self._are_placed], at[self._are_placed]
        last_at, last = self._states["last_at"], self._states["last"]
        fresh = np.isfinite(told) & (at > last_at[rows])
        if not fresh.any():
            return
        rows, told, at = rows[fresh], told[fresh], at[fresh]
        rates = (told - last[rows]) / np.maximum(at - last_at[rows], 1e-3)
        is_counter = self._counters[rows]
        # A counter says something from its second value on, and nothing where it began anew.
        says = ~is_counter | (rates >= 0)
        worth = np.where(is_counter, rates, told)[says]
        last[rows], last_at[rows] = told, at
        rows = rows[says]
        s, count = self._states, self._states["count"]
        s["ref"][rows] = np.where(count[rows] == 0, worth, s["ref"][rows])
        off = worth - s["ref"][rows]
        s["sum"][rows] += off
        s["squares"][rows] += off * off
        count[rows] += 1

    def _place(self, names: Sequence[Series], now: float) -> None:
        new = list(dict.fromkeys(name for name in names if name not in self._row))
        if len(new) > MOST_SERIES - len(self._row):
            last_at, here = self._states["last_at"], set(names)
            self.let_go([n for n, row in self._row.items() if now - last_at[row] > PRESSED and n not in here])
            new = new[: max(0, MOST_SERIES - len(self._row))]
        short = len(new) - len(self._free)
        if short > 0:
            self._make_room(len(self._counters) + short + len(self._counters) // 4 + 64)
        for name in new:
            row = self._row[name] = self._free.pop()
            self._counters[row] = self._is_counter(name[1])
        rows = np.fromiter((self._row.get(name, -1) for name in names), np.intp, len(names))
        placed = rows >= 0
        self._are_placed = None if placed.all() else placed
        self._rows = rows[placed]
        self._names = list(names)

    def _roll(self, now: float, wall: float) -> None:
        block, hour = int(now // BLOCK), int(wall // 3600)
        if self._block is not None and block > self._block:
            self._close(self._block)
            for skipped in range(self._block + 1, min(block, self._block + 1 + KEPT)):
                self._means[:, skipped % KEPT] = np.nan
            self._means[:, block % KEPT] = np.nan
        if self._hour is not None and hour != self._hour:
            self._close_hour(self._hour % 24)
            self._forget(now)
        self._block = block if self._block is None else max(block, self._block)
        self._hour = hour

    def _close(self, block: int) -> None:
        s, c = self._states, self._counts
        count = s["count"]
        rows = np.flatnonzero(count > 0)
        number = count[rows]
        off = s["sum"][rows] / number
        mean = s["ref"][rows] + off
        several = number >= 2
        scattered, variance = rows[several], np.zeros(0)
        if len(scattered):
            n = number[several]
            variance = np.maximum(s["squares"][scattered] - n * off[several] ** 2, 0.0) / (n - 1)
            _learn(s["noise"], c["noises"], scattered, variance, NOISE_MEMORY)
        then = (block - GAP - np.arange(1, BEFORE + 1)) % KEPT
        hour = self._means[rows[:, None], then].astype(np.float64)
        known = np.isfinite(hour)
        old = known.sum(axis=1)
        usual = np.where(known, hour, 0.0).sum(axis=1) / np.maximum(old, 1)
        enough = old >= LEAST_BLOCKS
        wide = (mean - usual)[enough] ** 2
        wandering = rows[enough]
        # What moves it once, such as a step, must not make it seem to wander for a day.
        sure = c["wanders"][wandering] >= 2 * BEFORE
        most = np.where(sure, 16.0 * np.maximum(s["wander"][wandering], (0.02 * usual[enough]) ** 2), np.inf)
        _learn(s["wander"], c["wanders"], wandering, np.minimum(wide, most), WANDER_MEMORY)
        self._means[rows, block % KEPT] = mean
        c["blocks"][rows] += 1
        s["hour_sum"][rows] += mean
        s["hour_count"][rows] += 1
        for name in ("sum", "squares", "count"):
            s[name][:] = 0.0

    def _close_hour(self, hour: int) -> None:
        s = self._states
        rows = np.flatnonzero(s["hour_count"] > 0)
        mean = (s["hour_sum"][rows] / s["hour_count"][rows]).astype(np.float32)
        old = self._day[rows, hour]
        self._day[rows, hour] = np.where(np.isfinite(old), old + np.float32(DAILY) * (mean - old), mean)
        s["hour_sum"][:] = 0.0
        s["hour_count"][:] = 0.0

    def _forget(self, now: float) -> None:
        last_at = self._states["last_at"]
        gone = [name for name, row in self._row.items() if now - last_at[row] > FORGET_AFTER]
        self.let_go(gone)

    def let_go(self, series: Iterable[Series]) -> None:
        """They are not known any more, and their places are for others."""
        rows = [row for name in series if (row := self._row.pop(name, None)) is not None]
        if not rows:
            return
        for state in self._states.values():
            state[rows] = 0.0
        for count in self._counts.values():
            count[rows] = 0
        self._states["last"][rows] = np.nan
        self._means[rows] = np.nan
        self._day[rows] = np.nan
        self._free += rows
        self._names, self._rows = [], np.empty(0, np.intp)

    # -- telling ---------------------------------------------------------------------------------------------------

    def before(self, series: Series, at: float, wall: float) -> Before | None:
        """What it was like until that moment; None when too little is known. ``wall``: the moment on the wall."""
        row = self._row.get(series)
        if row is None or self._block is None:
            return None
        last = min(int(at // BLOCK), self._block) - 1
        ats, means = self._told(row, last - BEFORE + 1, last)
        known = np.isfinite(means)
        ats, means = ats[known], means[known]
        if len(means) < LEAST_BLOCKS:
            return None
        s, c = self._states, self._counts
        level = float(np.median(means))
        spread = 1.4826 * float(np.median(np.abs(means - level)))
        floor = max(self._floor(series[1]), 0.02 * abs(level))
        slope, explained = _line(ats, means)
        wander = math.sqrt(float(s["wander"][row])) if c["wanders"][row] else 0.0
        return Before(
            level=level,
            latest=float(np.median(means[-3:])),
            slope=slope if explained >= STRAIGHT else 0.0,
            middle=float(np.mean(ats)),
            scale=max(wander, spread, floor, 1e-12),
            noise=math.sqrt(float(s["noise"][row])),
            blocks=int(c["blocks"][row]),
            floor=floor,
            day=tuple(self._day[row].astype(np.float64).tolist()),
            hour=int(wall // 3600) % 24,
        )

    def means(self, series: Series, since: float, until: float) -> tuple[Floats, Floats]:
        """Those of whole blocks between the two, with the times of their middles; NaN where nothing was seen."""
        row = self._row.get(series)
        if row is None or self._block is None:
            return np.empty(0), np.empty(0)
        return self._told(row, math.ceil(since / BLOCK), min(int(until // BLOCK), self._block) - 1)

    def _told(self, row: int, first: int, last: int) -> tuple[Floats, Floats]:
        assert self._block is not None, "nothing was taken in yet"
        first = max(first, self._block - KEPT + 1)
        numbers = np.arange(first, max(last, first - 1) + 1)
        ats = (numbers.astype(np.float64) + 0.5) * BLOCK
        return ats, self._means[row, numbers % KEPT].astype(np.float64)

    def widen(self, series: Series, usual: float) -> bool:
        """Somebody says that it goes as far as that without anything being the matter. False: it is not known."""
        row = self._row.get(series)
        if row is None:
            return False
        self._states["wander"][row] = max(self._states["wander"][row], usual * usual)
        self._counts["wanders"][row] = max(self._counts["wanders"][row], 2 * BEFORE)
        return True

    # -- over restarts ---------------------------------------------------------------------------------------------

    def kept(self, offset: float) -> bytes:
        """All of it. ``offset``: what makes a time of the clock on the wall of its own."""
        rows = np.fromiter(self._row.values(), np.intp, len(self._row))
        # The latest values are not kept: a counter says something again from its second value on.
        states = [self._states[name][rows].astype(np.float32).tobytes() for name in ("noise", "wander")]
        counts = [self._counts[name][rows].astype(np.int32).tobytes() for name in COUNTS]
        last_at = (self._states["last_at"][rows] + offset).astype(np.float64).tobytes()
        header = {
            "names": list(self._row),
            "block": None if self._block is None else (self._block + 1) * BLOCK + offset,
            "at": 0 if self._block is None else self._block % KEPT,
        }
        told = json.dumps(header, separators=(",", ":")).encode()
        body = b"".join([*states, *counts, last_at, self._means[rows].tobytes(), self._day[rows].tobytes()])
        return MAGIC + struct.pack("<I", len(told)) + told + body

    def take_up(self, kept: bytes, offset: float) -> None:
        """What an earlier life knew; ValueError when it cannot be read. The time between is time without values."""
        if kept[: len(MAGIC)] != MAGIC or len(kept) < len(MAGIC) + 4:
            raise ValueError("it is not what this version keeps of its series")
        (length,) = struct.unpack_from("<I", kept, len(MAGIC))
        begin = len(MAGIC) + 4
        try:
            header = json.loads(kept[begin : begin + length])
            names, place = [(str(s), str(m)) for s, m in header["names"]], begin + length
            known, turned = header["block"], int(header["at"])
            ended = None if known is None else int((float(known) - offset - BLOCK / 2) // BLOCK)
        except (KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"what it says of its series cannot be read: {error!r}") from error
        if len(set(names)) < len(names) or len(names) > MOST_SERIES:
            raise ValueError(f"{len(names)} series are too many, or one is there twice")
        each = 2 * 4 + len(COUNTS) * 4 + 8 + KEPT * 4 + 24 * 4
        if len(kept) - place != len(names) * each:
            raise ValueError(f"{len(names)} series should take {len(names) * each} bytes, not {len(kept) - place}")

        def read(kind: Any, width: int = 1) -> npt.NDArray[Any]:
            nonlocal place
            found = np.frombuffer(kept, kind, len(names) * width, place)
            place += found.nbytes
            return found

        assert not self._row, "what was learnt is taken up before anything is seen"
        self._make_room(len(self._counters) + len(names))
        self._place(names, 0.0)
        rows = self._rows
        self._names, self._rows = [], np.empty(0, np.intp)  # what is seen next comes in an order of its own
        # A bit that fell over on the disk must not make a spread of what is none.
        for name in ("noise", "wander"):
            found = read(np.float32)
            self._states[name][rows] = np.where(np.isfinite(found) & (found >= 0), found, 0.0)
        for name in COUNTS:
            self._counts[name][rows] = np.maximum(read(np.int32), 0)
        self._states["last_at"][rows] = read(np.float64) - offset
        self._means[rows] = read(np.float32, KEPT).reshape(-1, KEPT)
        self._day[rows] = read(np.float32, 24).reshape(-1, 24)
        self._block = ended
        if ended is not None:
            # Blocks of another clock begin at other moments: each goes to the one that its middle lies in.
            self._means[:] = np.roll(self._means, ended - turned, axis=1)


def _learn(
    into: Floats, counts: npt.NDArray[np.int32], rows: npt.NDArray[np.intp], values: Floats, memory: float
) -> None:
    """As a plain mean at first, then forgetting the older."""
    counts[rows] += 1
    weight = np.maximum(1.0 - math.exp(-BLOCK / memory), 1.0 / counts[rows])
    into[rows] += weight * (values - into[rows])


def before_told(before: Before) -> dict[str, Any]:
    """In JSON's own types."""
    told = asdict(before)
    told["day"] = [None if math.isnan(value) else value for value in before.day]
    return told


def before_read(told: Mapping[str, Any]) -> Before:
    """ValueError, TypeError or KeyError for what is none."""
    day = tuple(math.nan if value is None else float(value) for value in told["day"])
    if len(day) != 24:
        raise ValueError(f"a day has 24 hours, not {len(day)}")
    return Before(**{**told, "day": day})
