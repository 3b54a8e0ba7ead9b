"""What the endpoint may know and ask of the daemon behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from x0tta6bl4.kernel.health import HealthChecker
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.observability.metrics import Metrics


@dataclass(frozen=True)
class Condition:
    """Something about the daemon itself that an operator should know while it lasts."""

    code: str
    title: str
    meaning: str
    """What it means for you, and what to do."""
    severity: str
    since: float
    """Wall-clock seconds."""


class Face(Protocol):
    """Read at each request; a reload may have replaced the loop since the last one."""

    @property
    def version(self) -> str: ...

    @property
    def started_at(self) -> float:
        """Wall-clock seconds."""
        ...

    @property
    def loop(self) -> MAPEK: ...

    @property
    def metrics(self) -> Metrics: ...

    @property
    def health(self) -> HealthChecker: ...

    @property
    def token(self) -> str:
        """Who may change something shows this; it lies in a file that only the daemon's user can read."""
        ...

    def conditions(self) -> Sequence[Condition]: ...

    def describe(self) -> Mapping[str, Any]:
        """What is configured: counts of instances by family, files read, the time and result of the last reload."""
        ...

    async def reload(self) -> Sequence[str]:
        """Reads the configuration again. Empty when it was taken over, else the mistakes; the old one stays then."""
        ...

    async def set_flag(self, name: str, value: bool, who: str) -> None:
        """ConfigError for a name that is not a flag; StoreError when it could not be remembered."""
        ...
