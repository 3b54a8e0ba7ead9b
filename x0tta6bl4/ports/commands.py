"""Other programs, run to their end: argv lists, no shell, bounded in time and in output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class CommandResult:
    argv: tuple[str, ...]
    code: int | None
    """The exit code; negative for a signal, as subprocess has it; None when it was killed for its timeout."""
    output: str
    """Standard output, then standard error, at most ``limit`` bytes; bytes that are no text are replaced."""
    truncated: bool
    seconds: float


class Commands(Protocol):
    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        limit: int = 65536,
        env: Mapping[str, str] | None = None,
        input: bytes | None = None,
    ) -> CommandResult:
        """Runs argv[0], an absolute path, in its own session; on timeout or cancellation the whole tree is killed.

        Raises OSError when it cannot be started. ``env`` replaces the environment; None means a minimal one.
        """
        ...


@runtime_checkable
class OutlivesTheDaemon(Protocol):
    """What starts programs that go on when the daemon itself is killed."""

    async def end_left(self) -> None:
        """Ends what earlier lives of the daemon left running, and returns when it is gone; asked again, looks again.

        Never touches what this life runs. Raises StepFailed when something cannot be ended.
        """
        ...
