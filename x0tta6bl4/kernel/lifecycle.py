"""The small machine that says what the daemon is busy with: idle, processing, responding, error or stopped."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType

from x0tta6bl4.kernel.bus import EventBus
from x0tta6bl4.kernel.events import Event, EventType
from x0tta6bl4.ports.clock import Clock


class State(StrEnum):
    IDLE = "idle"
    PROCESSING = "processing"
    RESPONDING = "responding"
    ERROR = "error"
    STOPPED = "stopped"


TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.IDLE: frozenset({State.PROCESSING, State.STOPPED}),
        State.PROCESSING: frozenset({State.RESPONDING, State.ERROR, State.IDLE, State.STOPPED}),
        State.RESPONDING: frozenset({State.IDLE, State.ERROR, State.STOPPED}),
        State.ERROR: frozenset({State.IDLE, State.STOPPED}),
        State.STOPPED: frozenset({State.IDLE}),
    }
)
"""Where one may go from each state without force."""


@dataclass(frozen=True, slots=True)
class Transition:
    from_state: State
    to_state: State
    at: datetime
    """Aware, and in UTC."""
    reason: str = ""
    forced: bool = False
    """Asked for with ``force``, whether or not the table would have allowed it."""


class StateMachine:
    """Moves along the table only, unless forced; remembers the last moves, and tells each one on the bus.

    A move is told after it is complete: first on the bus (a full bus counts the loss, the move stands), then to
    ``on_change``, which may itself move the machine on. What ``on_change`` raises reaches whoever made the move, and
    the move stands. Belongs to one thread, the event loop's.
    """

    def __init__(
        self,
        initial_state: State = State.IDLE,
        history_size: int = 100,
        on_change: Callable[[Transition], None] | None = None,
        bus: EventBus | None = None,
        clock: Clock | None = None,
    ) -> None:
        if history_size < 0:
            raise ValueError(f"history_size must not be negative, is {history_size}")
        self._initial = State(initial_state)
        self._current = self._initial
        self._previous: State | None = None
        self._history: deque[Transition] = deque(maxlen=history_size)
        self._on_change = on_change
        self._bus = bus
        self._clock = clock

    @property
    def current_state(self) -> State:
        return self._current

    @property
    def previous_state(self) -> State | None:
        """None before the first move."""
        return self._previous

    @property
    def history(self) -> tuple[Transition, ...]:
        """The latest moves, oldest first, no more than ``history_size``."""
        return tuple(self._history)

    def can_transition_to(self, state: State) -> bool:
        return State(state) in TRANSITIONS[self._current]

    def is_in_state(self, *states: State) -> bool:
        """True when the present state is any of these."""
        return self._current in states

    def transition_to(self, state: State, reason: str = "", force: bool = False) -> bool:
        """Makes the move and answers True; False, and nothing changed, when the table does not have it."""
        state = State(state)
        if not force and state not in TRANSITIONS[self._current]:
            return False
        at = datetime.now(UTC) if self._clock is None else datetime.fromtimestamp(self._clock.wall(), UTC)
        transition = Transition(self._current, state, at, reason, forced=force)
        self._previous, self._current = self._current, state
        self._history.append(transition)
        if self._bus is not None:
            self._bus.publish_nowait(_told(transition))
        if self._on_change is not None:
            self._on_change(transition)
        return True

    def reset(self) -> None:
        """Back to where it began, from anywhere. The history stays, and has this as its latest entry."""
        self.transition_to(self._initial, "reset", force=True)

    def __repr__(self) -> str:
        return f"<StateMachine {self._current}>"


def _told(transition: Transition) -> Event:
    return Event(
        EventType.STATE_CHANGE,
        {
            "from": transition.from_state.value,
            "to": transition.to_state.value,
            "reason": transition.reason,
            "forced": transition.forced,
        },
        source="lifecycle",
        timestamp=transition.at,
    )
