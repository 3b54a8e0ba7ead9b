"""What a macrostep asks of the world. The engine touches nothing: it hands these to its host, in order."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sent:
    """An event for ``target`` (None: the machine itself, by way of its external queue), after ``delay`` seconds."""

    event: str
    target: str | None
    delay: float
    id: str | None
    data: Any
    resumed: bool = False
    """A time event of a state that was entered again by a history: what was left of it when the state was left may
    count instead of the whole ``delay``."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Delayed events that were sent under this id are not to come any more."""

    id: str


@dataclass(frozen=True, slots=True)
class Started:
    """An activity is to begin."""

    id: str
    state: str
    type: str | None
    source: Any
    parameters: dict[str, Any]
    content: Any
    resumed: bool = False
    """The state was entered again by a history: what went on when it was left may be taken up."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The state was left: the activity is not wanted any more."""

    id: str
    state: str


@dataclass(frozen=True, slots=True)
class Forwarded:
    id: str
    event: Any


@dataclass(frozen=True, slots=True)
class Logged:
    label: str
    value: Any


@dataclass(frozen=True, slots=True)
class Faulted:
    """The macrostep was taken back as a whole: ``what`` failed, ``why``. The only effect of such a step."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The machine has come to its end; ``state`` is the final state it ended in, None when it was cancelled."""

    state: str | None
    result: Any


Effect = Sent | Cancelled | Started | Stopped | Forwarded | Logged | Faulted | Ended
