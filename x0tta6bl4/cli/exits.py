"""How a command ends: the exit codes that scripts may rely on, and the error that carries one."""

from collections.abc import Mapping

from x0tta6bl4.kernel.errors import X0tError

OK = 0
BAD = 1
USAGE = 2
NO_STORE = 3
TEMPORARILY = 75
PERMISSION = 77
CONFIG = 78
INTERRUPTED = 130
NO_READER = 141

MEANINGS: Mapping[int, str] = {
    OK: "done, and all is well",
    BAD: "done, and something bad was found (a fault, something missing, a broken audit chain), or it failed",
    USAGE: "the command cannot be understood, or names something that is not there",
    NO_STORE: "no daemon runs, or there is no store to ask",
    TEMPORARILY: "not now: another daemon runs the loop on this host",
    PERMISSION: "this user may not",
    CONFIG: "the configuration has mistakes",
    INTERRUPTED: "interrupted (Ctrl-C)",
    NO_READER: "whoever read the output went away",
}


LONGEST = 80


def quoted(text: str) -> str:
    """What was given, in quotes, as far as it helps to find it: it may be a whole file by mistake."""
    shown = repr(text[:LONGEST])
    return shown if len(text) <= LONGEST else f"{shown[:-1]}…{shown[-1]} ({len(text)} characters)"


class Refusal(X0tError):
    """A command cannot be done as it was given; ends the process with its code."""

    def __init__(self, message: str, code: int = USAGE, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.code = code
