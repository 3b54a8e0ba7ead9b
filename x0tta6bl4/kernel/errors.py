"""Every error the daemon raises on purpose, told apart by what its catcher must do.

X0tError
  ConfigError             a human must change a file; never retried; lists every problem
  AlreadyRunning          another daemon holds this host; say who and exit
  PluginError
    ProbeFailed           nothing was seen; try at the next turn
    StepFailed            the action did not work; may be tried again
      StepRefused         ... will not help: tell a human
  StoreError              what must be remembered could not be written: nothing may be done
    TamperedError         the audit chain does not hold: say where
  CacheError, QueueError, ProviderError, CircuitOpenError, RateLimitExceededError, ... are not born before their
  raisers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self


class X0tError(Exception):
    """An error with what to do about it. ``details`` are for machines, ``remedy`` is for the person who reads it."""

    remedy: str = ""

    def __init__(
        self,
        message: str,
        *,
        thread_id: str | None = None,
        details: Mapping[str, Any] | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.thread_id = thread_id
        self.details = dict(details or {})
        if remedy is not None:
            self.remedy = remedy

    def with_remedy(self, remedy: str) -> Self:
        self.remedy = remedy
        return self

    def as_dict(self) -> dict[str, Any]:
        """For API bodies and structured logs."""
        return {
            "code": type(self).__name__,
            "message": self.message,
            "details": self.details,
            "thread_id": self.thread_id,
            "suggestions": [self.remedy] if self.remedy else [],
        }

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the configuration: where it stands, what stands there, and what would be right."""

    where: str
    """The dotted key, e.g. ``monitors.load.every``."""
    message: str
    file: str = ""
    line: int = 0
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        return f"{place}{self.where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(X0tError):
    """The configuration cannot be used. Holds all of its problems, not the first one only."""

    remedy = "mend the file and try again; `x0tta6bl4 validate FILE` checks it without starting anything"

    def __init__(self, problems: Sequence[Problem] | str, **more: Any) -> None:
        self.problems: tuple[Problem, ...] = () if isinstance(problems, str) else tuple(problems)
        super().__init__(problems if isinstance(problems, str) else "\n".join(map(str, self.problems)), **more)


class AlreadyRunning(X0tError):
    """Another daemon runs the loop on this host."""


class PluginError(X0tError):
    """Something a plugin says of its own work."""


class ProbeFailed(PluginError):
    """The monitor could not see. The kernel tries again at the next turn; the subject is *unknown* until then."""


class StepFailed(PluginError):
    """The action was tried and did not work. ``delay``: not before so many seconds again, when the plugin knows."""

    def __init__(self, message: str, *, delay: float | None = None, **more: Any) -> None:
        super().__init__(message, **more)
        self.delay = delay


class StepRefused(StepFailed):
    """The action must not or cannot be done here, and trying again will not change that."""


class StoreError(X0tError):
    """The knowledge store did not take or give what was asked. Acting stops until it does again."""

    remedy = "see that the state directory is writable and has space left; the daemon does not act until it is"


class TamperedError(StoreError):
    """A record of the audit trail was changed, removed or put in."""

    remedy = "compare with an exported copy; who may write the state directory?"
