"""Keeps what the numbers did before, during and after an incident: beside the work, and never in front of a heal."""

import asyncio
import heapq
import logging
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import isnan, nan
from typing import Protocol, runtime_checkable

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.kernel.facts import Incident, Observation
from x0tta6bl4.kernel.incidents import Incidents
from x0tta6bl4.kernel.judged import Judged
from x0tta6bl4.kernel.memory import Knowledge, Signal
from x0tta6bl4.kernel.sight import Sight
from x0tta6bl4.kernel.supervise import Failure, guarded
from x0tta6bl4.kernel.traces import BEHIND, SPAN, Series, thinned
from x0tta6bl4.kernel.watching import until_next
from x0tta6bl4.ports.clock import Clock

log = logging.getLogger("x0tta6bl4.kernel.signals")

BEFORE, AFTER = 300.0, 120.0
"""Seconds before the onset and after the end of an incident that are kept of its signals."""
SOON, EVERY = 15.0, 60.0
"""Seconds from the beginning of an incident until its signals are first kept, and from then on while it is open."""
LOOK_EVERY = 1.0
"""Seconds between two looks at whose signals are due, while an incident is open or has just ended."""
TOGETHER = 4
"""Incidents whose signals are kept at one look: the work of some milliseconds, however many are open."""
PATIENCE = 120.0
"""Seconds that keeping waits while something is being healed. The traces go back far enough for that."""
AT_THE_END = 2.0
"""Seconds that the daemon's stop may take for it."""
MOST_SERIES = 12
"""Series kept of one incident."""
MOST_BEFORE, MOST_AT_ONSET, MOST_BETWEEN, MOST_LATELY = 60, 200, 140, 200
"""Points kept of one series: most of them where something happens, however long an incident stays open."""
ROUND, LATELY = 60.0, 120.0
"""Seconds on both sides of the onset, and before the latest point, that are told in more detail than the rest."""


@runtime_checkable
class Bands(Protocol):
    """An analyzer that has learnt between which values a series usually stays."""

    def band(self, subject: str, metric: str, since: float, until: float) -> Sequence[tuple[float, float, float]]:
        """Time, low and high, oldest first; empty when nothing was learnt of that series. Does not block.

        Times are those of ``View.now``; one of an earlier life of the daemon lies before all that this one saw.
        """
        ...


@runtime_checkable
class Nearness(Protocol):
    """An analyzer that can say how far from a finding the series of a subject are."""

    def nearest(self, subject: str, most: int = 3) -> Sequence[Judged]:
        """Those that are nearest to one, the nearest first; empty when nothing was learnt of it. Does not block."""
        ...


@dataclass(slots=True)
class _Followed:
    id: str
    subject: str
    fault: str
    onset_at: float
    since: float
    """Monotonic seconds from which on its series are told."""
    due: float
    names: list[Series]
    ended: float | None = None
    kept_until: dict[Series, float] = field(default_factory=dict)
    """Monotonic time of the latest point that is in the store."""


class Keeping:
    """Follows each incident from its opening until a while after its end. The loop tells it of both."""

    def __init__(
        self, sight: Sight, incidents: Incidents, knowledge: Knowledge, clock: Clock, is_busy: Callable[[], bool]
    ) -> None:
        self._sight = sight
        self._incidents = incidents
        self._knowledge = knowledge
        self._clock = clock
        self._is_busy = is_busy
        self._followed: dict[str, _Followed] = {}
        self._any = asyncio.Event()
        self._fails = False

    def opened(self, incident: Incident) -> None:
        """Also of one that was opened again, or that an earlier life left open."""
        now = self._clock.monotonic()
        onset = incident.onset_at or incident.opened_at
        before = self._followed.get(incident.id)
        followed = _Followed(
            incident.id,
            incident.subject,
            incident.fault,
            onset,
            now - max(0.0, self._clock.wall() - onset) - BEFORE,
            now + SOON,
            before.names if before else [],
            kept_until=before.kept_until if before else {},
        )
        # No more than that: the incident may be about to be treated. What else is told is chosen when it is first kept.
        followed.names = list(dict.fromkeys([*self._judged_by(followed), *followed.names]))
        self._followed[incident.id] = followed
        self._any.set()

    def closed(self, incident: Incident) -> None:
        if incident.id not in self._followed:
            self.opened(incident)
        followed = self._followed[incident.id]
        followed.ended = followed.due = self._clock.monotonic()

    async def run(self) -> None:
        """Until cancelled. Sleeps while there is no incident."""
        while True:
            await self._any.wait()
            await asyncio.sleep(until_next(LOOK_EVERY, self._clock.monotonic()))
            await self._try_to_keep(self._due())

    async def keep_all(self) -> None:
        """Of every incident, at once: the daemon stops, or a turn on its own is over."""
        await guarded(lambda: self._try_to_keep(list(self._followed.values())), AT_THE_END)
        self._followed = {id: one for id, one in self._followed.items() if one.ended is None}

    def so_far(self, incident: str, kept: Sequence[Signal]) -> list[Signal]:
        """What is kept of an incident together with what was seen since."""
        followed = self._followed.get(incident)
        return list(kept) if followed is None else self._merged(followed, kept)[0]

    def _due(self) -> list[_Followed]:
        now = self._clock.monotonic()
        due = [one for one in self._followed.values() if one.due <= now]
        due = heapq.nsmallest(TOGETHER, due, key=lambda one: (one.ended is None, one.due))
        # The store has one writer: whoever writes an intent must not wait for a chart.
        return [one for one in due if not self._is_busy() or now - one.due > PATIENCE]

    async def _try_to_keep(self, due: Sequence[_Followed]) -> None:
        for one in due:
            failed = await guarded(partial(self._keep, one), None)
            if isinstance(failed, Failure):
                self._not_kept(one, failed)
            else:
                self._fails = False
        if not self._followed:
            self._any.clear()

    def _not_kept(self, one: _Followed, failed: Failure) -> None:
        """Tried again as long as the traces go back to it; a chart that is lost is no reason to disturb anybody."""
        now = self._clock.monotonic()
        one.due = now + EVERY
        if one.ended is not None and now - one.ended > SPAN:
            self._followed.pop(one.id, None)
        if not self._fails:
            ours = not isinstance(failed.exception, StoreError)
            log.log(
                logging.ERROR if ours else logging.DEBUG,
                "signals cannot be kept",
                exc_info=failed.exception if ours else None,
                extra={"incident": one.id, "reason": failed.message},
            )
        self._fails = True

    async def _keep(self, one: _Followed) -> None:
        ended = one.ended
        signals, until = self._merged(one, await self._knowledge.signals(one.id))
        if signals:
            await self._knowledge.keep_signals(one.id, signals)
            one.kept_until |= until
        now = self._clock.monotonic()
        if one.ended != ended:
            return  # it ended meanwhile, and is due for that
        if one.ended is None:
            one.due = now + EVERY
        elif now < one.ended + AFTER:
            one.due = one.ended + AFTER
        elif self._followed.get(one.id) is one:
            del self._followed[one.id]

    def _merged(self, one: _Followed, kept: Sequence[Signal]) -> tuple[list[Signal], dict[Series, float]]:
        """The series with what was seen since they were kept, and until when that is."""
        one.names = self._names(one)
        offset = self._clock.wall() - self._clock.monotonic()
        before = {(signal.subject, signal.metric): signal.points for signal in kept}
        last = None if one.ended is None else one.ended + AFTER
        merged: list[Signal] = []
        until: dict[Series, float] = {}
        for series in dict.fromkeys([*one.names, *before]):
            old = before.get(series, ())
            ats, values = self._seen(series, self._known_until(one, series, old, offset), last)
            if ats:
                until[series] = ats[-1]
            new = [(at + offset, value) for at, value in zip(ats, values, strict=True)]
            points = [*old, *self._between(series, old, new, offset), *new]
            # By the clock on the wall as it was at each point: after it was set back, they are told in its order.
            points.sort(key=lambda point: point[0])
            points = [p for before, p in pairwise([_UNSEEN, *points]) if not (isnan(p[1]) and isnan(before[1]))]
            if points and len(merged) < MOST_SERIES:
                merged.append(Signal(*series, _shaped(points, one.onset_at)))
        return merged, until

    def _between(
        self, series: Series, old: Sequence[tuple[float, float]], new: Sequence[tuple[float, float]], offset: float
    ) -> Sequence[tuple[float, float]]:
        """The gap between what is kept and what was seen since, where the trace began only after what is kept."""
        trace = self._sight.trace(*series)
        if trace is None or not old or not new:
            return ()
        last = old[-1][0]
        # It says itself where a gap is as far as it goes back. What is kept is kept to the millisecond.
        if trace.ats[0] + offset <= last + 0.001 or not trace.is_apart(new[0][0] - last):
            return ()
        return ((last + BEHIND, nan),)

    def _known_until(self, one: _Followed, series: Series, old: Sequence[tuple[float, float]], offset: float) -> float:
        """Monotonic time after which nothing of the series is kept yet."""
        known = one.kept_until.get(series)
        if known is None and old and old[-1][0] <= self._clock.wall():
            known = old[-1][0] - offset  # by an earlier life, or by the loop before a reload
        return max(one.since, known + 0.001) if known is not None else one.since

    def _seen(self, series: Series, since: float, last: float | None) -> tuple[Sequence[float], Sequence[float]]:
        trace = self._sight.trace(*series)
        if trace is None:
            return (), ()
        ats, values = trace.since(since)
        end = len(ats) if last is None else bisect_right(ats, last)
        return ats[:end], values[:end]

    def _names(self, one: _Followed) -> list[Series]:
        """What it is judged by, what was told before, and what else is seen of its subject, most telling first."""
        usual = [(one.subject, o.metric) for o in self._sight.about(one.subject)]
        usual.sort(key=lambda series: (not series[1].endswith("_up"), not self._moves(series)))
        wanted = dict.fromkeys([*self._judged_by(one), *one.names, *usual])
        return [series for series in wanted if self._sight.trace(*series) is not None][:MOST_SERIES]

    def _judged_by(self, one: _Followed) -> list[Series]:
        """What proves its end, and what it was found by."""
        incident = self._incidents.get(one.subject, one.fault)
        if incident is None or incident.id != one.id:
            return []
        finding = self._incidents.finding(incident)
        because = finding.because if finding is not None else ()
        return [(c.subject or one.subject, c.metric) for c in incident.healthy_when] + [
            (o.subject, o.metric) for o in because if isinstance(o, Observation)
        ]

    def _moves(self, series: Series) -> bool:
        trace = self._sight.trace(*series)
        return trace is not None and len({value for value in trace.values if not isnan(value)}) > 1


_UNSEEN = (0.0, nan)


def _shaped(points: Sequence[tuple[float, float]], onset: float) -> tuple[tuple[float, float], ...]:
    ats, values = [at for at, _ in points], [value for _, value in points]
    begin, end = bisect_left(ats, onset - ROUND), bisect_left(ats, onset + ROUND)
    late = max(end, bisect_left(ats, ats[-1] - LATELY))
    parts = (
        (slice(begin), MOST_BEFORE),
        (slice(begin, end), MOST_AT_ONSET),
        (slice(end, late), MOST_BETWEEN),
        (slice(late, None), MOST_LATELY),
    )
    told: list[tuple[float, float]] = []
    for part, most in parts:
        told += zip(*thinned(ats[part], values[part], most), strict=True)
    return tuple(told)
