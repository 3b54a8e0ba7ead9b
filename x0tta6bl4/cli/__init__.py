"""The command line: each command reads its words, asks the store or the daemon, and answers people and programs.

Here belongs what turns a question into an answer on a terminal, one module a command or a small group of them. Nothing
here decides or heals: what a command changes it writes into the store, where the daemon notices it. A command's module,
and all that it needs, is imported only when that command was given.
"""

import importlib
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from io import TextIOWrapper

from x0tta6bl4.cli.exits import BAD, CONFIG, INTERRUPTED, NO_READER, NO_STORE, PERMISSION, TEMPORARILY, Refusal
from x0tta6bl4.cli.grammar import build
from x0tta6bl4.kernel.errors import AlreadyRunning, ConfigError, StoreError, TamperedError, X0tError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code. Nothing that an operator can do wrong ends in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the terminal cannot show must not cost the answer
    try:
        try:
            args = build().parse_args(argv)
        except SystemExit as ended:  # argparse's way to say that it has printed the help, or a mistake
            sys.stdout.flush()
            return ended.code if isinstance(ended.code, int) else BAD
        code = _run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes once more at its end; into nothing, so that it does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return NO_READER
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        if not all(isinstance(leaf, X0tError | OSError) for leaf in leaves):
            raise
        return _say(leaves[0])
    except (X0tError, OSError) as error:
        return _say(error)


def _run(args: Namespace) -> int:
    module = importlib.import_module(f"x0tta6bl4.cli.{args.module}")
    code = getattr(module, args.function)(args)
    assert isinstance(code, int), f"{args.module}.{args.function} ends with an exit code"
    return code


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for inner in group.exceptions:
        if isinstance(inner, BaseExceptionGroup):
            yield from _leaves(inner)
        else:
            yield inner


def _say(error: BaseException) -> int:
    if isinstance(error, ConfigError) and error.problems:
        count = len(error.problems)
        lines = [*map(str, error.problems), f"x0tta6bl4: {count} mistake{'s' * (count != 1)}; {error.remedy}"]
    elif isinstance(error, OSError) and not isinstance(error, BlockingIOError) and error.filename is not None:
        lines = [f"x0tta6bl4: {error.filename}: {(error.strerror or str(error)).lower()}"]
    else:
        lines = [f"x0tta6bl4: {error}"]
    code = _code(error)
    if code == PERMISSION and not isinstance(error, X0tError):
        lines[-1] += "; run it as the user the daemon runs as, or with sudo"
    print(*lines, sep="\n", file=sys.stderr)
    return code


def _code(error: BaseException) -> int:
    if isinstance(error, Refusal):
        return error.code
    if isinstance(error, ConfigError):
        return CONFIG
    if isinstance(error, AlreadyRunning):
        return TEMPORARILY
    if isinstance(error, TamperedError):
        return BAD
    if isinstance(error, PermissionError) or isinstance(error.__cause__, PermissionError):
        return PERMISSION
    return NO_STORE if isinstance(error, StoreError) else BAD
