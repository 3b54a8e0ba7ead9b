"""Turns the loop at its interval with APScheduler, whatever the wall clock does meanwhile."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

_JOB = "turn"


class ApScheduler:
    """One job. A turn that is late is made up for by exactly one call; several missed ones are one."""

    def __init__(self) -> None:
        self._scheduler: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._overdue: asyncio.TimerHandle | None = None
        self._seconds = 0.0
        self._call: Callable[[], None] | None = None

    def every(self, seconds: float, call: Callable[[], None]) -> None:
        if seconds <= 0:
            raise ValueError(f"an interval must be longer than nothing, not {seconds}")
        self._seconds, self._call = seconds, call
        if self._scheduler is None:
            self._start()
        self._plan()

    def close(self) -> None:
        self._call = None
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None and self._loop is not None and not self._loop.is_closed():
            scheduler.shutdown(wait=False)

    def _start(self) -> None:
        from apscheduler.schedulers.asyncio import AsyncIOScheduler

        self._loop = asyncio.get_running_loop()
        # It reports every run at INFO, which would be most of what the daemon logs when all is well.
        logging.getLogger("apscheduler").setLevel(logging.WARNING)
        self._scheduler = AsyncIOScheduler(event_loop=self._loop, timezone=UTC)
        self._scheduler.start()

    def _plan(self) -> None:
        # max_instances: the job ends within one step of the event loop; if that step has not come yet,
        # the run still waiting is the made-up one. No grace time: late is better than lost.
        self._scheduler.add_job(
            self._run,
            _interval(self._seconds),
            id=_JOB,
            replace_existing=True,
            coalesce=True,
            misfire_grace_time=None,
            max_instances=1,
        )
        self._watch()

    def _watch(self) -> None:
        assert self._loop is not None
        if self._overdue is not None:
            self._overdue.cancel()
        self._overdue = self._loop.call_later(self._seconds * 1.5, self._suspect)

    # A coroutine, because APScheduler would run a plain function in a thread.
    async def _run(self) -> None:
        call = self._call
        if call is not None:
            self._watch()
            call()

    def _suspect(self) -> None:
        # A loop that was blocked finds this timer and APScheduler's due at once: give its run the time to come first.
        assert self._loop is not None
        self._overdue = self._loop.call_later(min(0.25, self._seconds / 4), self._catch_up)

    def _catch_up(self) -> None:
        # APScheduler reckons in wall-clock time: set the clock back an hour, and the next run is an hour away.
        call = self._call
        if call is not None:
            self._plan()
            call()


def _interval(seconds: float) -> Any:
    from apscheduler.triggers.base import BaseTrigger

    step = timedelta(seconds=seconds)

    # The stock trigger lists every run missed since the one before. A board without a clock battery starts in 1970, and
    # the first answer of its time server would make that list millions of entries long.
    class Interval(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
        def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
            if previous_fire_time is None or not now - step < previous_fire_time + step <= now + step:
                return now + step
            following = previous_fire_time + step
            return following if following > now else following + step

    return Interval()
