"""Runs a coroutine on an event loop whose time jumps to the next timer whenever nothing else is left to do.

An hour of backoff passes in microseconds, and two runs of the same test see the same times. Real file descriptors and
threads still work: while a thread started by the loop is busy, time stands still until it is done; while descriptors
are registered, each jump first gives them ``patience`` seconds of real time. Without either nothing real is waited for.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START = 1000.0
"""Not zero, so that a 0 meant as "never" cannot pass for a time."""
EPOCH = 1_750_000_000.0


class Deadlock(RuntimeError):
    """Nothing is ready, no timer runs, and nothing from outside can come: the test would wait for ever."""


class LoopClock:
    """The clock port on the running loop's time; the wall clock goes with it until somebody sets it."""

    def __init__(self, wall: float = EPOCH) -> None:
        self._offset = wall - START

    def wall(self) -> float:
        return self._offset + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def set_wall(self, wall: float) -> None:
        """As an administrator or NTP does: the wall clock jumps, the other one does not."""
        self._offset = wall - self.monotonic()


class VirtualLoop(asyncio.SelectorEventLoop):
    """``start`` is the time at which it begins; ``patience`` is what real descriptors get of real time at each jump."""

    def __init__(self, start: float = START, patience: float = 0.01) -> None:
        self._now = start
        self._in_threads = 0
        self._selector_of_time = _JumpingSelector(self, patience)
        super().__init__(self._selector_of_time)
        # A timer is due when it lies no further ahead than this. The real clock's nanosecond is less than a float can
        # tell apart some months from now, and the loop would turn for ever just before the timer.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        self._now += seconds

    @property
    def waits_for_threads(self) -> bool:
        return self._in_threads > 0

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> "asyncio.Future[T]":
        future = super().run_in_executor(executor, func, *args)
        self._in_threads += 1
        future.add_done_callback(self._on_thread_done)
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        self._in_threads += 1  # It ends the threads from a thread of its own.
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._in_threads -= 1

    def _on_thread_done(self, _: object) -> None:
        self._in_threads -= 1


class _JumpingSelector(selectors.BaseSelector):
    """A real selector that does not wait where virtual time can pass instead."""

    def __init__(self, loop: VirtualLoop, patience: float) -> None:
        self._loop = loop
        self._patience = patience
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready or timeout == 0:
            return ready
        # One descriptor is the loop's own: threads and signals wake it through that.
        has_descriptors = len(self._real.get_map()) > 1
        if self._loop.waits_for_threads or (timeout is None and has_descriptors):
            return self._real.select(None)
        if timeout is None:
            raise Deadlock(f"nothing is left that could go on: {_waiting(self._loop)}")
        if has_descriptors and (ready := self._real.select(self._patience)):
            return ready
        self._loop.jump(timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.get_key(fileobj)

    def get_map(self) -> Any:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


def _waiting(loop: asyncio.AbstractEventLoop) -> str:
    places = []
    for task in asyncio.all_tasks(loop):
        frames = task.get_stack(limit=1)
        place = f" at {frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else ""
        places.append(f"{task.get_name()}{place}")
    return ", ".join(sorted(places)) or "no task"


def run(main: Coroutine[Any, Any, T], *, start: float = START, patience: float = 0.01) -> T:
    """As ``asyncio.run``, in virtual time. Raises Deadlock where that would wait for ever."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(start, patience)) as runner:
        return runner.run(main)
