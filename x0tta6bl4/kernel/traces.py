"""A short trace of each series in memory: what it said in the last minutes, with its extremes, in bounded room."""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from math import isfinite, nan

Series = tuple[str, str]
"""Subject and metric."""

SPAN = 600.0
"""Seconds that a trace goes back. One that is rarely added to may go back further; it has the room."""
RECENT = 60.0
"""Seconds before now that get half of a trace's points; the other half is for all that is older."""
STRETCH = 10.0
"""Seconds between two points of a value that stays the same: long enough that a yes that stays a yes costs nothing,
short enough that what is told from the middle of it on has its beginning."""
UNSEEN = 4.0
"""How many times the usual time between two looks makes a gap: nothing is known of the time between them."""
SHORTEST = 0.5
"""Seconds that are usual at least: what is looked at ten times a second has no gap when the machine was busy for
one."""
LEARNT = 6
"""Times between looks that are taken as they come, at first: a slow monitor begins with a look or two out of its
pace."""
SINKS = 0.05
"""How much the usual time sinks in each second of looks that follow each other much faster. After a burst of looks, for
a proof, of a minute, the next one at the monitor's own pace comes as usual."""
NEW_PACE = 3
"""Gaps after each of which there was one look only: so many in a row are no gaps any more, but how often it is seen."""
BEHIND = 0.01
"""Seconds from the last point before a gap to the one that stands for the gap, whose value is no number."""
MOST_SERIES = 2048
"""Traces at a time. Beyond it, series of subjects under care take the places of others; the rest has none."""
MOST_POINTS = 384
"""Points of one trace before it is thinned, as long as there are few of them: 6 KiB."""
ALL_POINTS = 196_608
"""Points of all traces together: 3 MiB. The more series there are, the fewer each may keep."""
PHASES = 8
"""Groups of traces that are thinned at different counts, so that what began together is not all thinned at once."""


class Share:
    """How many points a trace may have; many traces look at the same one."""

    __slots__ = ("room",)

    def __init__(self, room: int) -> None:
        self.room = room


class Trace:
    """What one series said lately, oldest first, by the monotonic clock. Written for each observation, so it is terse.

    A value that stays the same is two points, the last of which moves on; a change is always a new one. Where nothing
    was seen for much longer than usual stands a point whose value is no number.
    """

    __slots__ = ("ats", "share", "to_learn", "usual", "values")

    def __init__(self, share: Share) -> None:
        self.ats = array("d")
        self.values = array("d")
        self.share = share
        self.usual = -SHORTEST
        """Seconds between two looks, the longest of the usual ones; below zero as long as that is being learnt."""
        self.to_learn = LEARNT

    def take(self, at: float, value: float, asked: float) -> None:
        """``asked``: when the look began. What took long to answer was looked at all the while: that is no gap."""
        ats, values = self.ats, self.values
        count = len(ats)
        if count >= self.share.room:
            if not self.share.room:
                return  # its place was given to another series
            self._make_room(at)
            count = len(ats)
        if count:
            apart = asked - ats[-1]
            usual = self.usual
            if (apart > usual or (usual > SHORTEST and apart + apart < usual)) and self._is_gap(apart):
                self._take_after_gap(at, value)
                return
        if count > 1 and value == values[-1] and value == values[-2] and at - ats[-2] < STRETCH:
            ats[-1] = at
        else:
            values.append(value)  # first, for it refuses what is no number
            ats.append(at)

    def since(self, at: float) -> tuple[Sequence[float], Sequence[float]]:
        """Times and values from then on. One NaN stands for each gap, and for all that cannot be drawn."""
        first = bisect_left(self.ats, at)
        ats, values = self.ats[first:], self.values[first:]
        if all(map(isfinite, values)):
            return ats, values
        told = [n for n, value in enumerate(values) if isfinite(value) or n == 0 or isfinite(values[n - 1])]
        return [ats[n] for n in told], [values[n] if isfinite(values[n]) else nan for n in told]

    def is_apart(self, seconds: float) -> bool:
        """Whether two looks that far from each other have a gap between them, as far as its pace is known."""
        return seconds > UNSEEN * abs(self.usual)

    def _take_after_gap(self, at: float, value: float) -> None:
        more = array("d", (nan, value))  # first, for it refuses what is no number
        last = self.ats[-1]
        if len(self.ats) + 2 > self.share.room:
            self._make_room(at)
        self.values += more
        self.ats += array("d", (last + BEHIND, at))

    def _is_gap(self, apart: float) -> bool:
        """For what is not as usual: learns from it what that is. Overlapping looks tell nothing of their pace."""
        usual = self.usual
        if apart <= 0.0:
            return False
        if usual < 0.0:
            self.to_learn -= 1
            usual = min(usual, -apart)
            self.usual = usual if self.to_learn else -usual
            return False
        if apart > UNSEEN * usual:
            alone = self.values[-2 : -2 * NEW_PACE : -2]
            if len(alone) < NEW_PACE - 1 or any(value == value for value in alone):
                return True
            self.usual = apart
        elif apart > usual:
            self.usual = min(apart, 2 * usual)  # one that was late does not make the next ones usual as well
        else:
            self.usual = max(usual - SINKS * apart, apart, SHORTEST)
        return False

    def _make_room(self, now: float) -> None:
        room = self.share.room
        ats, values = self.since(now - SPAN)
        if len(ats) > room * 3 // 4:  # what is seen rarely has room enough for all of it
            recent = bisect_left(ats, now - RECENT)
            older = thinned(ats[:recent], values[:recent], room // 4)
            newer = thinned(ats[recent:], values[recent:], room // 4)
            ats, values = (*older[0], *newer[0]), (*older[1], *newer[1])
        self.ats[:] = array("d", ats)
        self.values[:] = array("d", values)


class Traces:
    """Who has a trace. The number of series is bounded, and so are the points of all of them together."""

    def __init__(self, most: int = MOST_SERIES) -> None:
        self._most = most
        self._count = 0
        self._shares = tuple(Share(MOST_POINTS) for _ in range(PHASES))
        self._none = Share(0)
        self._strangers: dict[Series, Trace] = {}
        """Those of subjects that are not under care, longest known first."""

    def __len__(self) -> int:
        return self._count

    def begin(self, series: Series, named: bool, now: float) -> Trace | None:
        """None when there is no room for it. ``named``: its subject is under care."""
        if self._count >= self._most and not self._take_a_place(named, now):
            return None
        self._count += 1
        room = min(MOST_POINTS, ALL_POINTS // self._count)
        for phase, share in enumerate(self._shares):
            share.room = room - room * phase // (2 * PHASES)
        trace = Trace(self._shares[self._count % PHASES])
        if not named:
            self._strangers[series] = trace
        return trace

    def end(self, series: Series, trace: Trace) -> None:
        """The series is not seen any more."""
        if trace.share is not self._none:
            self._strangers.pop(series, None)
            self._count -= 1

    def _take_a_place(self, named: bool, now: float) -> bool:
        """Of a stranger: for another one only when the longest known is not seen any more."""
        series, trace = next(iter(self._strangers.items()), (None, None))
        if series is None or trace is None:
            return False
        if not named and trace.ats and now - trace.ats[-1] < SPAN:
            return False
        self.end(series, trace)
        trace.share = self._none
        trace.ats, trace.values = array("d"), array("d")
        return True


def thinned(ats: Sequence[float], values: Sequence[float], most: int) -> tuple[Sequence[float], Sequence[float]]:
    """At most so many of the points (and at least four, or nine where there are gaps), all of them where they are few.

    First those between two of the same value go, which no line needs. If that is not enough, the time is cut into equal
    windows, and the first, last, lowest and highest point of each stay. Between two that stay there is a NaN if, and
    only if, there was one before: no line is drawn over what was not seen.
    """
    most = max(4, most)
    if len(ats) <= most:
        return ats, values
    turns = [n for n, (a, b, c) in enumerate(zip(values, values[1:], values[2:], strict=False), 1) if not a == b == c]
    keep = [0, *turns, len(ats) - 1]
    ats, values = [ats[n] for n in keep], [values[n] for n in keep]
    if len(ats) <= most:
        return ats, values
    seen = [n for n, value in enumerate(values) if value == value]
    gaps = len(values) - len(seen)
    if not gaps:
        chosen = _telling(ats, values, most // 4)
    elif not seen:
        chosen = [0]
    else:
        # A gap costs a point, and there is at most one before each of four, and one behind the last.
        windows = max(1, (most - gaps) // 4, (most - 1) // 8)
        telling = _telling([ats[n] for n in seen], [values[n] for n in seen], windows)
        chosen = _with_gaps([seen[n] for n in telling], values)
    return [ats[n] for n in chosen], [values[n] for n in chosen]


def _telling(ats: Sequence[float], values: Sequence[float], windows: int) -> list[int]:
    """The first, last, lowest and highest of each window, by their numbers; all values are known."""
    chosen: list[int] = []
    begin, width = ats[0], (ats[-1] - ats[0]) / windows
    first = 0
    for window in range(1, windows + 1):
        after = bisect_left(ats, begin + window * width, first) if window < windows else len(ats)
        if after - first > 4:
            inside = values[first:after]
            extremes = {first + inside.index(min(inside)), first + inside.index(max(inside))}
            chosen += sorted(extremes | {first, after - 1})
        else:
            chosen += range(first, after)
        first = after
    return chosen


def _with_gaps(chosen: Sequence[int], values: Sequence[float]) -> list[int]:
    """With the first of the gaps before, between and behind them."""
    told: list[int] = []
    before = -1
    for number in (*chosen, len(values)):
        told += [n for n in range(before + 1, number) if values[n] != values[n]][:1]
        told.append(number)
        before = number
    return told[:-1]
