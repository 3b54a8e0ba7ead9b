"""Alerts: what other programs find out by rules of their own and send here, for one reader in this daemon."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Alert:
    """One notice about one alert, in the sender's own words."""

    fingerprint: str
    """The same for the same labels, whoever sends it and however often."""
    name: str
    firing: bool
    """False: resolved."""
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: float
    """Wall-clock seconds, by the sender's clock. One that fires anew has another beginning."""
    ends_at: float | None = None
    source: str = ""
    """The address at which the sender says more about it."""


@dataclass(frozen=True, slots=True)
class Told:
    alert: Alert
    at: float
    """Monotonic seconds at which it came."""
    is_new: bool = True
    """False: the sender repeats that it fires."""


class Alerts(Protocol):
    def firing(self) -> Sequence[Told]:
        """What was told as firing and not as resolved since, each by its latest notice; kept while readers come and go.

        Lost with the daemon. Senders repeat what fires.
        """
        ...

    def listen(self, wants: Callable[[Alert], bool]) -> AsyncGenerator[Told, None]:
        """What is told from now on, and what the reader before has left; copies of what is known are left out.

        For one reader at a time, who closes it: ProbeFailed for a second one. ``wants`` is asked while the sender waits
        for his answer, so it neither blocks nor raises; what it does not want is not kept.
        """
        ...
