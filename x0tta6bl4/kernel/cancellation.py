"""Asks work to stop without forcing it: a token that the work looks at, waits for, or hands on to its parts.

``CancelledError`` here is asyncio's own class, not a subclass. A stop that was asked for is a cancellation: it must
pass every ``except Exception``, and a task group must take it for an end and not for a failure. A subclass would be
caught by the same clauses and yet be no more: a task that ends with one shows the plain class to whoever asks it a
second time, so code that looks for the subclass would work by luck. The reason is the exception's first argument.

The price: a task that ends by ``raise_if_cancelled`` counts as cancelled although nobody called its ``cancel()``. Who
awaits it and must tell the two apart looks at its own ``asyncio.current_task().cancelling()``.
"""

import asyncio
import math
import threading
import time
import weakref
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from typing import Any, Self

from x0tta6bl4.ports.clock import Clock

__all__ = ["CancellationToken", "CancelledError"]


class CancellationToken:
    """Says once that it is time to stop, and why. Made anywhere; needs a running event loop only while awaited.

    Every method but the waiting may be called from any thread. A token with a ``parent`` is cancelled when the parent
    is, not the other way round; the parent does not keep it alive. ``deadline``: so many seconds from now (or from
    ``reset``) it cancels itself; it is noticed when somebody looks or waits, so it costs no timer and no task.
    """

    __slots__ = ("__weakref__", "_children", "_deadline", "_ends", "_lock", "_now", "_parent", "_reason", "_waiters")

    def __init__(
        self,
        deadline: float | None = None,
        parent: "CancellationToken | None" = None,
        clock: Clock | None = None,
    ) -> None:
        """``clock``: whose monotonic time the deadline means; the parent's when there is one, else the system's."""
        if deadline is not None and math.isnan(deadline):
            raise ValueError("deadline is a number of seconds, not nan")
        self._now: Callable[[], float] = (
            clock.monotonic if clock is not None else parent._now if parent is not None else time.monotonic
        )
        self._deadline = deadline
        self._ends = math.inf if deadline is None else self._now() + deadline
        self._parent = parent
        self._reason: str | None = None
        """None: not cancelled. One attribute for both, so that a reader without the lock sees both or neither."""
        # Reentrant, since a signal handler may call cancel() while its own thread is inside of it.
        self._lock = threading.RLock()
        self._waiters: set[asyncio.Future[None]] = set()
        self._children: weakref.WeakSet[CancellationToken] = weakref.WeakSet()
        if parent is not None:
            with parent._lock:
                parent._children.add(self)

    @property
    def is_cancelled(self) -> bool:
        if self._reason is None and (self._parent is not None or self._deadline is not None):
            self._look()
        return self._reason is not None

    @property
    def cancel_reason(self) -> str | None:
        """What the first ``cancel`` said; None while not cancelled."""
        return self._reason if self.is_cancelled else None

    @property
    def seconds_left(self) -> float | None:
        """Until the nearest deadline of this token and those above it, never less than 0; None when there is none."""
        left = min(token._ends - token._now() for token in self._upwards())
        return None if math.isinf(left) else max(0.0, left)

    def cancel(self, reason: str = "") -> None:
        """Cancels this token and all below it. The first reason stays; a second call does nothing."""
        below = [self]
        while below:
            token = below.pop()
            with token._lock:
                if token._reason is not None:
                    continue
                token._reason = reason
                waiters, token._waiters = token._waiters, set()
                below.extend(token._children)
            for waiter in waiters:
                try:
                    waiter.get_loop().call_soon_threadsafe(_wake, waiter)
                except RuntimeError:
                    # Its event loop is closed: nobody waits there any more.
                    continue

    def raise_if_cancelled(self) -> None:
        if self.is_cancelled:
            raise CancelledError(self._reason) if self._reason else CancelledError

    async def wait_for_cancellation(self, timeout: float | None = None) -> bool:
        """True once cancelled, even if reset meanwhile; False when ``timeout`` seconds passed first."""
        loop = asyncio.get_running_loop()
        ends = math.inf if timeout is None else loop.time() + timeout
        waiter: asyncio.Future[None] = loop.create_future()
        with self._lock:
            self._waiters.add(waiter)
        try:
            # More than one round only when a deadline was moved by reset() while waiting for it.
            while not (self.is_cancelled or waiter.done()):
                left = ends - loop.time()
                if left <= 0:
                    return False
                deadline = self.seconds_left
                left = left if deadline is None else min(left, deadline)
                await asyncio.wait((waiter,), timeout=None if math.isinf(left) else left)
            return True
        finally:
            with self._lock:
                self._waiters.discard(waiter)

    def reset(self) -> None:
        """Makes it usable again, with its deadline counted from now. Stays cancelled while its parent is."""
        # A deadline that passed unseen still counts for those below.
        self._look()
        with self._lock:
            self._reason = None
            if self._deadline is not None:
                self._ends = self._now() + self._deadline

    def child(self, deadline: float | None = None) -> Self:
        return type(self)(deadline, parent=self)

    def _upwards(self) -> Iterator["CancellationToken"]:
        token: CancellationToken | None = self
        while token is not None:
            yield token
            token = token._parent

    def _look(self) -> None:
        """Learns what nobody told: a deadline that passed, here or above, or a parent cancelled before a reset here."""
        for token in self._upwards():
            if token._reason is None and token._ends <= token._now():
                token.cancel(f"the deadline of {token._deadline:g} s has passed")
            reason = token._reason
            if reason is not None:
                self.cancel(reason)
                return

    def __repr__(self) -> str:
        reason = self.cancel_reason
        return f"<CancellationToken {'waiting' if reason is None else f'cancelled: {reason}'}>"


def _wake(waiter: "asyncio.Future[Any]") -> None:
    if not waiter.done():
        waiter.set_result(None)
