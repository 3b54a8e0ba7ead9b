"""Where others look on while a statechart runs: named points, called in order, that can never change the step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

FAULTS_KEPT = 32
"""Of the failures of hooks, the newest; all of them are counted."""
IN_A_ROW = 100
"""A hook that failed so often without succeeding once is not called any more."""


class Point(StrEnum):
    STARTED = "started"
    """An instance was begun and has come to rest."""
    BEFORE_EVENT = "before_event"
    AFTER_EVENT = "after_event"
    """The macrostep is over, whatever came of it."""
    TRANSITION = "transition"
    EXITED = "exited"
    ENTERED = "entered"
    FAULTED = "faulted"
    """The macrostep was taken back."""
    PERSISTED = "persisted"
    """The host has made the step durable."""
    RESTORED = "restored"
    MODIFIED = "modified"
    """The instance goes on under another definition."""
    ENDED = "ended"


Hook = Callable[[Mapping[str, Any]], object]
"""Called with what is known at its point (``instance`` always, besides ``event``, ``state``, ``transition`` …). What it
returns is not looked at."""


@dataclass(frozen=True, slots=True)
class HookFault:
    point: Point
    name: str
    why: str


class _Added:
    __slots__ = ("called", "failed", "hook", "name", "number", "order", "row")

    def __init__(self, order: int, number: int, name: str, hook: Hook) -> None:
        self.order = order
        self.number = number
        self.name = name
        self.hook = hook
        self.called = 0
        self.failed = 0
        self.row = 0


class Hooks:
    """The hooks of one machine or host. Lower ``order`` is called first; among equals, the one that was added first.

    A hook that raises is counted and the others are called all the same. It is handed the event and the instance
    themselves, so it must not write to them; code that is not trusted that far belongs in a sandbox. It may send events
    to a Machine: they wait until the step is over.
    """

    def __init__(self) -> None:
        self._at: dict[Point, tuple[_Added, ...]] = {}
        self._added = 0
        self.faults: list[HookFault] = []

    def add(self, point: Point | str, hook: Hook, *, order: int = 0, name: str = "") -> Callable[[], None]:
        """Returns what takes it away again; safe to call more than once, and from within a hook."""
        where = Point(point)
        self._added += 1
        name = name or getattr(hook, "__qualname__", "") or type(hook).__name__
        added = _Added(order, self._added, name, hook)
        there = (*self._at.get(where, ()), added)
        self._at[where] = tuple(sorted(there, key=lambda one: (one.order, one.number)))

        def remove() -> None:
            self._drop(where, added)

        return remove

    def wants(self, point: Point) -> bool:
        """Whether anybody listens: what nobody listens to need not be put together."""
        return point in self._at

    def call(self, point: Point, **known: Any) -> None:
        for added in self._at.get(point, ()):
            added.called += 1
            try:
                # A mapping of its own for each: what one does to it, the next does not see.
                added.hook(dict(known))
            except Exception as error:  # noqa: BLE001 - somebody else's code: whatever it raises is a fact about the hook
                self._note(point, added, error)
            else:
                added.row = 0

    def counts(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Point -> hook -> (how often called, how often failed), for metrics. Of one name, the sum."""
        result: dict[str, dict[str, tuple[int, int]]] = {}
        for point, there in self._at.items():
            named = result.setdefault(point.value, {})
            for added in there:
                called, failed = named.get(added.name, (0, 0))
                named[added.name] = (called + added.called, failed + added.failed)
        return result

    def _note(self, point: Point, added: _Added, error: Exception) -> None:
        added.failed += 1
        added.row += 1
        why = _said(error)
        if added.row >= IN_A_ROW:
            self._drop(point, added)
            why = f"{why} (not called any more: it failed {added.row} times in a row)"
        self.faults.append(HookFault(point, added.name, why))
        del self.faults[:-FAULTS_KEPT]

    def _drop(self, point: Point, added: _Added) -> None:
        left = tuple(one for one in self._at.get(point, ()) if one is not added)
        if left:
            self._at[point] = left
        else:
            self._at.pop(point, None)


def _said(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except Exception:  # noqa: BLE001 - the text of an exception is somebody else's code, too
        return type(error).__name__
