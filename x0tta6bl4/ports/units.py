"""systemd's units: their states, and the verbs that change them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Verb = Literal["start", "stop", "restart", "reload", "kill", "reset-failed"]


@dataclass(frozen=True, slots=True)
class Unit:
    """What systemd says of one unit, in systemd's own words."""

    name: str
    load_state: str
    active_state: str
    sub_state: str
    result: str
    main_pid: int
    restarts: int
    """NRestarts: how often systemd itself has restarted it."""
    restart_policy: str
    """Restart=: no, on-failure, always, …"""
    active_since: float
    """Wall-clock seconds; 0 when it never was active."""
    inactive_since: float
    job: str
    """The type of the job now running for it (start, stop, restart, …), or an empty string."""


class Units(Protocol):
    async def show(self, names: Sequence[str]) -> Mapping[str, Unit]:
        """All of the named units in one question. Unknown ones come back with ``load_state`` not-found.

        Raises ProbeFailed where systemd is not running.
        """
        ...

    async def act(self, verb: Verb, name: str, timeout: float, signal: str | None = None) -> None:
        """Raises StepFailed or StepRefused with systemd's own words; returns when the job is done."""
        ...

    async def stopped_on_purpose(self, unit: Unit) -> bool | None:
        """Whether somebody asked systemd to stop it (`systemctl stop`); None when the journal cannot be read."""
        ...
