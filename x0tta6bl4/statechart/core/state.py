"""The states of a statechart, as its author writes them: simple and composite, regions, pseudostates, variables."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from x0tta6bl4.statechart.core.transition import Activity, Block, Guard, Result, Transition


class Kind(StrEnum):
    STATE = "state"
    """Simple, or composite when it has states of its own: then exactly one of them is active with it."""
    PARALLEL = "parallel"
    """Each of its states is a region; all of them are active with it."""
    FINAL = "final"
    """Its parent is complete; a final state of the root ends the machine."""
    HISTORY = "history"
    """Where its parent was when it was left last. Its one transition says where to go the first time."""
    DEEP_HISTORY = "deep-history"
    """The same, down to the innermost states."""
    CHOICE = "choice"
    """Decides among its transitions after what was done on the way to it."""
    JUNCTION = "junction"
    """Joins and splits paths; all guards of a path are asked before anything of it is done. Also a fork, when its
    transition has several targets."""
    JOIN = "join"
    """Left as soon as every state with a transition to it (without event or guard) is active."""
    ENTRY = "entry"
    """A named way into its parent: the parent is entered, then this one's transition is followed."""
    EXIT = "exit"
    """A named way out of its parent: a junction at its border."""
    TERMINATE = "terminate"
    """Ends the machine on the spot; nothing is exited."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the machine, or of one state (seen by it and what is inside it, gone with its exit)."""

    name: str
    expression: str | None = None
    value: Any = None
    type: str = "any"
    """``any``, ``boolean``, ``integer``, ``number``, ``string``, ``null``, ``list[T]``, ``map[T]``,
    ``record{name: T, other?: T}``, ``A | B``, or a name that was registered as an extension."""


@dataclass(frozen=True, slots=True)
class State:
    id: str = ""
    """Unique in the chart. Empty only for the root, and for states that nothing leads to by name."""
    kind: Kind = Kind.STATE
    states: tuple["State", ...] = ()
    initial: tuple[str, ...] = ()
    """Empty: the first in document order."""
    on_initial: Block = ()
    """Done when the state is entered by its initial transition, after its own entry."""
    transitions: tuple[Transition, ...] = ()
    entry: tuple[Block, ...] = ()
    exit: tuple[Block, ...] = ()
    activities: tuple[Activity, ...] = ()
    variables: tuple[Variable, ...] = ()
    invariants: tuple[Guard, ...] = ()
    """Must hold whenever the machine rests in the state."""
    defer: tuple[str, ...] = ()
    """Descriptors of events that are kept for later while nothing takes them in this state."""
    result: Result | None = None
    summary: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.initial, str):  # a text is a sequence of letters, and none of them is a state
            object.__setattr__(self, "initial", (self.initial,))


@dataclass(frozen=True, slots=True)
class Definition:
    """A statechart as a value."""

    name: str
    root: State
    """Its ``states`` are the chart's; its transitions hold everywhere; its variables are the machine's."""
    version: str = "1"
    binding: Literal["early", "late"] = "early"
    """When variables of states get their first values: with the machine, or when the state is first entered."""
    scoping: Literal["global", "local"] = "local"
    """Whether variables of a state are seen everywhere (as SCXML has it) or inside it only."""
    errors: Literal["event", "rollback"] = "rollback"
    """What a failed action or guard does: the event ``error.execution`` is raised and the step goes on (as SCXML has
    it), or the whole macrostep, state and data, is taken back and ``Faulted`` is told."""
    strict: bool = True
    """Whether an expression that cannot be compiled refuses the chart; else it fails when it is reached."""
    lenient: tuple[str, ...] = ()
    """Variables whose missing fields are null instead of an error."""
    script: Block = ()
    """Done once, after the variables have their values and before the first state is entered."""
    summary: str = ""
