"""Time as the daemon reads it: one clock for people, one that never jumps."""

from typing import Protocol


class Clock(Protocol):
    """Both readings are cheap and never block."""

    def wall(self) -> float:
        """Seconds since the epoch, UTC. May jump when somebody sets the clock; use it for records, never for
        waiting.
        """
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back within one life of the daemon. Equals the event loop's
        time.
        """
        ...
