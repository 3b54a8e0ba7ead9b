"""What happens to a statechart: events, their order of precedence, and the words that transitions catch them by."""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any


class Priority(IntEnum):
    """Which of the waiting events comes first; among equals, the one that was sent first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Event:
    """One occurrence. Not to be changed once it was handed over."""

    __slots__ = ("data", "id", "invokeid", "name", "origin", "origintype", "priority", "sendid", "type")

    def __init__(
        self,
        name: str,
        data: Any = None,
        type: str = "external",  # one of external, internal, platform
        *,
        sendid: str | None = None,
        origin: str | None = None,
        origintype: str | None = None,
        invokeid: str | None = None,
        priority: Priority = Priority.NORMAL,
        id: str = "",
    ) -> None:
        self.name = name
        self.data = data
        self.type = type
        self.sendid = sendid
        self.origin = origin
        self.origintype = origintype
        self.invokeid = invokeid
        self.priority = priority
        self.id = id
        """Names it while it waits, so that it can be cancelled; empty: it cannot."""

    def __repr__(self) -> str:
        return f"Event({self.name!r}{'' if self.data is None else f', {self.data!r}'})"


def descriptors(words: str) -> tuple[str, ...]:
    """``a.b c.*`` as what is compared: a trailing ``.*`` or ``.`` says nothing that the prefix rule does not."""
    return tuple(w[:-2] if w.endswith(".*") else w[:-1] if w.endswith(".") else w for w in words.split())


def catches(wanted: Sequence[str], name: str) -> bool:
    """``error`` catches ``error`` and ``error.execution``, not ``errors``; ``*`` catches everything."""
    return any(w == "*" or w == name or (name.startswith(w) and name[len(w)] == ".") for w in wanted)


class EventQueue:
    """Events waiting for a machine: the more urgent first, then the older. Bounded: ``put`` says whether it took it."""

    def __init__(self, limit: int = 10_000) -> None:
        self.limit = limit
        self._waiting: tuple[list[Event], ...] = ([], [], [])

    def __len__(self) -> int:
        return sum(map(len, self._waiting))

    def __iter__(self) -> Iterator[Event]:
        for events in self._waiting:
            yield from events

    def put(self, event: Event) -> bool:
        if len(self) >= self.limit:
            return False
        self._waiting[event.priority].append(event)
        return True

    def put_back(self, events: Sequence[Event]) -> None:
        """Deferred ones, before all others of their priority and in their own order."""
        for event in reversed(events):
            self._waiting[event.priority].insert(0, event)

    def take(self) -> Event | None:
        for events in self._waiting:
            if events:
                return events.pop(0)
        return None

    def cancel(self, id: str) -> bool:
        """Whether one of that id was still waiting."""
        for events in self._waiting:
            for index, event in enumerate(events):
                if id and event.id == id:
                    del events[index]
                    return True
        return False
