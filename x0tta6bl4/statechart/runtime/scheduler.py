"""Time events: what is to happen to which instance when, in one heap over all instances; waiting costs nothing.

Nothing here sleeps or polls: the host asks when the next timer is due, waits as it likes, and takes what is due. While
the process lives, only the monotonic clock counts, so that setting the wall clock moves nothing. Across a restart there
is only the wall clock: each timer is written down with its deadline on it and with what remained, and never waits
longer than the latter. (A clock set forward meanwhile looks like time that has passed, and makes it fire early.)
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from typing import Any

from x0tta6bl4.statechart.core.event import Event, Priority

_FIELDS = ("type", "sendid", "origin", "origintype", "invokeid")


class TooManyTimers(Exception):
    """The bound was reached; the event was not taken. A chart that sends itself ever more delayed events ends here."""


class Timer:
    """One event that waits for its time."""

    __slots__ = ("due", "event", "id", "instance", "is_live", "number")

    def __init__(self, instance: str, id: str, due: float, number: int, event: Event) -> None:
        self.instance = instance
        self.id = id
        """Empty: it cannot be cancelled by name."""
        self.due = due
        """On the monotonic clock."""
        self.number = number
        """Of two that are due at the same moment, the one that was armed first comes first."""
        self.event = event
        self.is_live = True

    def __repr__(self) -> str:
        return f"Timer({self.instance!r}, {self.id!r}, {self.due!r}, {self.event!r})"


class Timers:
    """Several timers may wait under one id, as SCXML allows; they are cancelled together."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, limit: int = 100_000) -> None:
        self.limit = limit
        self._clock = clock
        self._heap: list[tuple[float, int, Timer]] = []
        self._of: dict[str, dict[int, Timer]] = {}
        self._live = 0
        self._armed = 0

    def __len__(self) -> int:
        return self._live

    def arm(self, instance: str, id: str, delay: float, event: Event) -> Timer:
        if not 0 <= delay < math.inf:
            raise ValueError(f"a timer cannot wait for {delay!r} seconds")
        return self._arm(instance, id, self._clock() + delay, event)

    def cancel(self, instance: str, id: str) -> list[Timer]:
        """Those that were still waiting under this id. Costs a look at each timer of the instance."""
        there = self._of.get(instance)
        if not there or not id:
            return []
        return [self._kill(timer) for timer in list(there.values()) if timer.id == id]

    def drop(self, instance: str) -> list[Timer]:
        """All of an instance: it has ended, or is about to be restored."""
        return [self._kill(timer) for timer in list(self._of.get(instance, {}).values())]

    def due(self, now: float | None = None, most: int | None = None) -> list[Timer]:
        """Takes out what is due, in due order; with ``most``, the rest stays due. What is cancelled after this was
        called is the caller's to notice: it has the timers in its hand."""
        if now is None:
            now = self._clock()
        taken: list[Timer] = []
        heap = self._heap
        while heap and (most is None or len(taken) < most):
            due, _, timer = heap[0]
            if timer.is_live and due > now:
                break
            heappop(heap)
            if timer.is_live:
                self._forget(timer)
                taken.append(timer)
        return taken

    def next_due(self) -> float | None:
        """When the next one is due, on the monotonic clock; None: nothing waits."""
        heap = self._heap
        while heap and not heap[0][2].is_live:
            heappop(heap)
        return heap[0][0] if heap else None

    def seconds_left(self) -> float | None:
        """Until the next one is due, never below zero; None: nothing waits."""
        due = self.next_due()
        return None if due is None else max(0.0, due - self._clock())

    def waiting(self, instance: str) -> list[Timer]:
        """In due order."""
        return sorted(self._of.get(instance, {}).values(), key=lambda timer: (timer.due, timer.number))

    def snapshot(self, wall: float, instance: str | None = None) -> list[dict[str, Any]]:
        """What waits, in due order, as JSON values. ``wall``: the time now, in seconds since 1970."""
        now = self._clock()
        names = self._of if instance is None else (instance,)
        timers = sorted(
            (timer for name in names for timer in self._of.get(name, {}).values()), key=lambda t: (t.due, t.number)
        )
        return [
            {
                "instance": timer.instance,
                "id": timer.id,
                "at": wall + timer.due - now,
                "remaining": max(0.0, timer.due - now),
                "event": _written(timer.event),
            }
            for timer in timers
        ]

    def restore(self, rows: Iterable[Mapping[str, Any]], wall: float) -> int:
        """Instead of what the instances named in ``rows`` had waiting, so that restoring twice is restoring once.

        Overdue timers are due at once, in the order of their deadlines.
        """
        wanted = sorted(rows, key=lambda row: float(row["at"]))  # stable: equal deadlines stay as they were written
        for instance in {str(row["instance"]) for row in wanted}:
            self.drop(instance)
        now = self._clock()
        for row in wanted:
            left = min(float(row["at"]) - wall, float(row["remaining"]))
            if not math.isfinite(left):
                raise ValueError(f"the timer {row['id']!r} of {row['instance']!r} has no deadline: {row['at']!r}")
            self._arm(str(row["instance"]), str(row["id"]), now + left, _read(row["event"]))
        return len(wanted)

    def _arm(self, instance: str, id: str, due: float, event: Event) -> Timer:
        if self._live >= self.limit:
            raise TooManyTimers(f"{self.limit} timers wait already; {instance!r} cannot have one for {event.name!r}")
        self._armed += 1
        timer = Timer(instance, id, due, self._armed, event)
        heappush(self._heap, (due, timer.number, timer))
        self._of.setdefault(instance, {})[timer.number] = timer
        self._live += 1
        return timer

    def _kill(self, timer: Timer) -> Timer:
        self._forget(timer)
        # A dead entry stays in the heap until its time comes, unless there are more of them than of the living:
        # a chart that arms and cancels a long timer with every event must not fill the memory with them.
        if len(self._heap) > 2 * self._live + 64:
            self._heap = [entry for entry in self._heap if entry[2].is_live]
            heapify(self._heap)
        return timer

    def _forget(self, timer: Timer) -> None:
        timer.is_live = False
        self._live -= 1
        there = self._of[timer.instance]
        del there[timer.number]
        if not there:
            del self._of[timer.instance]


def _written(event: Event) -> dict[str, Any]:
    row: dict[str, Any] = {"name": event.name, "data": event.data, "priority": int(event.priority), "id": event.id}
    row.update((name, getattr(event, name)) for name in _FIELDS)
    return row


def _read(row: Mapping[str, Any]) -> Event:
    known = {name: row[name] for name in _FIELDS if name in row}
    return Event(row["name"], row.get("data"), priority=Priority(row.get("priority", 1)), id=row.get("id", ""), **known)
