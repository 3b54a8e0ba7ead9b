"""What calls the loop at its interval."""

from collections.abc import Callable
from typing import Protocol


class Schedule(Protocol):
    def every(self, seconds: float, call: Callable[[], None]) -> None:
        """Calls from the event loop every so many seconds from now on. A second call replaces the first."""
        ...

    def close(self) -> None:
        """No call after this one. Calling it again does nothing."""
        ...
