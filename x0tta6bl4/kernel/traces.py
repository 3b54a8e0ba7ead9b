"""A short trace of each series in memory: what it said in the last minutes, with its extremes, in bounded room."""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from math import isfinite

Series = tuple[str, str]
"""Subject and metric."""

SPAN = 600.0
"""Seconds that a trace goes back. One that is rarely added to may go back further; it has the room."""
RECENT = 60.0
"""Seconds before now that get half of a trace's points; the other half is for all that is older."""
STRETCH = 10.0
"""Seconds between two points of a value that stays the same: long enough that a yes that stays a yes costs nothing,
short enough that a gap in what was seen can be told from it."""
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

    A value that stays the same is two points, the last of which moves on; a change is always a new one.
    """

    __slots__ = ("ats", "share", "values")

    def __init__(self, share: Share) -> None:
        self.ats = array("d")
        self.values = array("d")
        self.share = share

    def take(self, at: float, value: float) -> None:
        ats, values = self.ats, self.values
        count = len(ats)
        if count >= self.share.room:
            if not self.share.room:
                return  # its place was given to another series
            self._make_room(at)
            count = len(ats)
        if count > 1 and value == values[-1] and value == values[-2] and at - ats[-2] < STRETCH:
            ats[-1] = at
        else:
            values.append(value)  # first, for it refuses what is no number
            ats.append(at)

    def since(self, at: float) -> tuple[Sequence[float], Sequence[float]]:
        """Times and values from then on; what cannot be drawn is left out."""
        first = bisect_left(self.ats, at)
        ats, values = self.ats[first:], self.values[first:]
        if all(map(isfinite, values)):
            return ats, values
        drawn = [number for number, value in enumerate(values) if isfinite(value)]
        return [ats[n] for n in drawn], [values[n] for n in drawn]

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
    """At most so many of the points (and at least four), all of them where they are few.

    First those between two of the same value go, which no line needs. If that is not enough, the time is cut into equal
    windows, and the first, last, lowest and highest point of each stay.
    """
    most = max(4, most)
    if len(ats) <= most:
        return ats, values
    turns = [n for n, (a, b, c) in enumerate(zip(values, values[1:], values[2:], strict=False), 1) if not a == b == c]
    keep = [0, *turns, len(ats) - 1]
    ats, values = [ats[n] for n in keep], [values[n] for n in keep]
    if len(ats) <= most:
        return ats, values
    chosen: list[int] = []
    begin, width = ats[0], (ats[-1] - ats[0]) / (most // 4)
    first = 0
    for window in range(1, most // 4 + 1):
        after = bisect_left(ats, begin + window * width, first) if window < most // 4 else len(ats)
        if after - first > 4:
            inside = values[first:after]
            extremes = {first + inside.index(min(inside)), first + inside.index(max(inside))}
            chosen += sorted(extremes | {first, after - 1})
        else:
            chosen += range(first, after)
        first = after
    return [ats[n] for n in chosen], [values[n] for n in chosen]
