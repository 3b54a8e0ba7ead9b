"""Calls what the daemon did not write or does not trust, and turns its failure into a fact instead of a crash."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failure:
    """How a guarded call ended when it did not end well."""

    error: str
    """The name of the exception's class."""
    message: str
    timed_out: bool
    """True when the time given to the call was up; a TimeoutError of the call's own does not count."""
    exception: BaseException
    """For the traceback in the log."""


async def guarded(call: Callable[[], Awaitable[T]], timeout: float | None) -> T | Failure:
    """The call's result, or how it failed. The time includes making the awaitable; None: no bound.

    Whoever cancels the task that waits here is obeyed: that cancellation is never turned into a failure. A
    CancelledError that nobody asked this task for comes from inside the call (something it waited for was cancelled),
    and is a failure like any other; let through, it would end the caller's task without a word.

    Cannot stop a call that blocks the event loop, nor one that swallows its cancellation: it is waited for.
    """
    limit = asyncio.timeout(timeout)
    try:
        if timeout is None:  # nothing to bound: the bound's own cost is a tenth of a fast probe's
            return await call()
        async with limit:
            return await call()
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return Failure(type(error).__name__, _words(error), timed_out=False, exception=error)
    except Exception as error:  # noqa: BLE001 - the one place: what a plugin or handler raises is a fact about it
        if limit.expired():
            return Failure(type(error).__name__, f"took longer than {timeout:g} s", timed_out=True, exception=error)
        return Failure(type(error).__name__, _words(error), timed_out=False, exception=error)


def guarded_call(call: Callable[[], T]) -> T | Failure:
    """The same for a call that neither waits nor blocks."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - still the one place
        return Failure(type(error).__name__, _words(error), timed_out=False, exception=error)


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - still the one place: an exception's own text is as foreign as the call
        return "its message cannot be read"
