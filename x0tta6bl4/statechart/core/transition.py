"""How a statechart moves, as its author writes it: transitions, their guards, and what is done on the way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from x0tta6bl4.statechart.core.event import Event


class Scope(Protocol):
    """What a guard or action written in Python gets to see."""

    data: dict[str, Any]
    """The machine's variables. Actions may assign to it; nested values are to be replaced, not changed in place."""
    event: Event | None

    def is_in(self, state: str) -> bool: ...

    def send(self, name: str, data: Any = None) -> None:
        """Raises an internal event: handled in this macrostep, after what is being done."""
        ...


Guard = str | Callable[[Scope], Any] | None
"""An expression, or a function without side effects. None is always true."""
Kind = Literal["external", "internal", "local"]
"""``external`` leaves and enters its source; ``local`` stays in a composite source when it goes to a part of it;
``internal`` has no target and leaves nothing."""


@dataclass(frozen=True, slots=True)
class Raise:
    """Puts an event into the internal queue."""

    event: str
    data: str | None = None
    """An expression."""


@dataclass(frozen=True, slots=True)
class Assign:
    """Sets a variable, or a field below one (``a.b``). Either an expression or a literal value."""

    to: str
    expression: str | None = None
    value: Any = None


@dataclass(frozen=True, slots=True)
class Log:
    label: str = ""
    expression: str | None = None


@dataclass(frozen=True, slots=True)
class If:
    """The first branch whose guard holds; a guard of None is the else."""

    branches: "tuple[tuple[str | None, Block], ...]"


@dataclass(frozen=True, slots=True)
class ForEach:
    """Goes over a copy of a list."""

    array: str
    item: str
    index: str | None = None
    do: "Block" = ()


@dataclass(frozen=True, slots=True)
class Send:
    """Sends an event: to oneself, or to whatever the host understands by ``target``. Each ``…_expression`` stands in
    for the literal beside it."""

    event: str | None = None
    event_expression: str | None = None
    target: str | None = None
    target_expression: str | None = None
    type: str | None = None
    type_expression: str | None = None
    id: str | None = None
    id_location: str | None = None
    delay: float | str | None = None
    """Seconds, or a duration such as ``1.5s``."""
    delay_expression: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    """Name -> expression: the event's data, as a mapping."""
    content: Any = None
    content_expression: str | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Takes back a delayed event that was sent under this id."""

    id: str | None = None
    id_expression: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """Calls a function of the author's own. It must neither block nor touch the world: it may run more than once."""

    function: Callable[[Scope], Any]
    name: str = ""


Content = Raise | Assign | Log | If | ForEach | Send | Cancel | Call
Block = tuple[Content, ...]
"""Done in order; one that fails ends its block."""


@dataclass(frozen=True, slots=True)
class Transition:
    """From the state it stands in to others, when something happens and the guard holds."""

    event: str = ""
    """Descriptors, separated by blanks; empty: taken as soon as the guard holds (or by ``after`` or ``when``)."""
    to: tuple[str, ...] = ()
    """Several targets enter several regions (a fork). None: only ``do`` is done."""
    guard: Guard = None
    do: Block = ()
    kind: Kind = "external"
    after: float | str | None = None
    """A time event: so long after its source was entered, unless it was left. Seconds, a duration (``5s``), or
    ``=EXPRESSION``."""
    when: str | None = None
    """A change event: when this expression becomes true while its source is active."""

    def __post_init__(self) -> None:
        if isinstance(self.to, str):  # a text is a sequence of letters, and none of them is a state
            object.__setattr__(self, "to", (self.to,))


@dataclass(frozen=True, slots=True)
class Activity:
    """What goes on outside while a state is active: begun when the machine has come to rest in it, cancelled on exit.

    The host is told by ``Started`` and ``Stopped`` effects and answers with an event that carries the ``invokeid``.
    """

    type: str | None = None
    type_expression: str | None = None
    source: Any = None
    source_expression: str | None = None
    id: str | None = None
    """Empty: made from the state's name and the step's number."""
    id_location: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    content: Any = None
    content_expression: str | None = None
    finalize: Block = ()
    """Done with each event that the activity sends, before transitions are looked for."""
    forward: bool = False
    """Every external event is handed on to it."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a final state hands over with its completion event."""

    expression: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    value: Any = None


Values = Mapping[str, Any]
