"""The schedule, with a clock of our own where the machine's would make the test wait."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0tta6bl4.adapters import scheduler
from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.scheduler import ApScheduler
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.schedule import Schedule

LONG = 60.0


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not true():
            await asyncio.sleep(0.001)


def test_calls_come_again_and_again_in_the_event_loops_thread() -> None:
    async def watch() -> list[float]:
        loop, times = asyncio.get_running_loop(), list[float]()

        def call() -> None:
            assert asyncio.get_running_loop() is loop
            times.append(loop.time())

        schedule: Schedule = ApScheduler()
        began = loop.time()
        schedule.every(0.02, call)
        await until(lambda: len(times) >= 4)
        schedule.close()
        return [time - began for time in times]

    times = asyncio.run(watch())

    # Late is possible on a busy machine; early or crowded is not (APScheduler rounds to microseconds).
    assert times[0] >= 0.019
    assert times[-1] >= 0.02 * (len(times) - 1)


def test_a_second_call_replaces_the_first() -> None:
    async def watch() -> list[str]:
        calls: list[str] = []
        schedule = ApScheduler()
        schedule.every(LONG, lambda: calls.append("first"))
        schedule.every(0.001, lambda: calls.append("second"))
        await until(lambda: len(calls) >= 3)
        schedule.close()
        return calls

    assert set(asyncio.run(watch())) == {"second"}


def test_after_closing_no_call_comes() -> None:
    async def watch() -> None:
        calls: list[int] = []
        schedule = ApScheduler()
        schedule.every(0.001, lambda: calls.append(1))
        await until(lambda: bool(calls))
        schedule.close()
        schedule.close()
        count = len(calls)
        await asyncio.sleep(0.02)
        assert len(calls) == count

    asyncio.run(watch())
    ApScheduler().close()


def test_a_blocked_loop_makes_up_for_all_missed_turns_with_one_call() -> None:
    async def watch() -> None:
        loop, calls = asyncio.get_running_loop(), list[float]()
        schedule = ApScheduler()
        schedule.every(0.2, lambda: calls.append(loop.time()))
        time.sleep(1.0)
        await until(lambda: bool(calls))
        # Everything that was due at once has had its turn by now; the next is 0.2 s away.
        for _ in range(20):
            await asyncio.sleep(0)
        schedule.close()
        assert len(calls) == 1 or calls[1] - calls[0] > 0.1

    asyncio.run(watch())


def test_a_clock_set_back_does_not_stop_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    from apscheduler.schedulers import base

    back = timedelta()

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]  # a true datetime is what is needed
            return datetime.now(UTC) - back

    monkeypatch.setattr(base, "datetime", Shifted)

    async def watch() -> None:
        nonlocal back
        calls: list[int] = []
        schedule = ApScheduler()
        schedule.every(0.05, lambda: calls.append(1))
        await until(lambda: len(calls) >= 2)
        back = timedelta(hours=1)
        count = len(calls)
        await until(lambda: len(calls) >= count + 4)
        schedule.close()

    asyncio.run(watch())


MOMENTS = st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2999, 1, 1)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)


@given(MOMENTS, MOMENTS, st.floats(0.01, 86400))
def test_the_next_turn_is_always_ahead_and_never_further_than_one_interval(
    before: datetime, now: datetime, seconds: float
) -> None:
    step = timedelta(seconds=seconds)
    following = scheduler._interval(seconds).get_next_fire_time(before, now)

    assert now < following <= now + step


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than nothing"):
        ApScheduler().every(0, lambda: None)


def test_the_clock_is_the_event_loops() -> None:
    clock: Clock = SystemClock()

    async def readings() -> tuple[float, float, float]:
        return clock.monotonic(), asyncio.get_running_loop().time(), clock.monotonic()

    first, loop, second = asyncio.run(readings())

    assert first <= loop <= second
    assert clock.wall() > 1.6e9
