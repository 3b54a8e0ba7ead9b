"""What every Clock promises, asked of the machine's and of both fakes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.testing import virtual_time
from x0tta6bl4.testing.fakes import FakeClock
from x0tta6bl4.testing.virtual_time import EPOCH, LoopClock


class Settable(Clock, Protocol):
    def set_wall(self, wall: float) -> None: ...


Wait = Callable[[float], Awaitable[None]]
Scenario = Callable[[Any, Wait], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]


def _system(scenario: Scenario) -> None:
    asyncio.run(scenario(SystemClock(), asyncio.sleep))


def _loop(scenario: Scenario) -> None:
    virtual_time.run(scenario(LoopClock(), asyncio.sleep))


def _fake(scenario: Scenario) -> None:
    clock = FakeClock()

    async def wait(seconds: float) -> None:
        clock.advance(seconds)

    asyncio.run(scenario(clock, wait))


ALL = pytest.mark.parametrize("play", [_system, _loop, _fake], ids=["system", "loop", "fake"])


@ALL
def test_the_steady_clock_goes_on_and_never_back(play: Play) -> None:
    async def scenario(clock: Clock, wait: Wait) -> None:
        began = before = clock.monotonic()
        for _ in range(5):
            await wait(0.002)
            now = clock.monotonic()
            assert now >= before
            before = now

        # A sleep may end a tick early by another clock; time that stands still fails here all the same.
        assert before - began > 0.005

    play(scenario)


@ALL
def test_the_wall_clock_counts_seconds_since_the_epoch(play: Play) -> None:
    async def scenario(clock: Clock, wait: Wait) -> None:
        earliest, latest = (time.time() - 1, time.time() + 60) if play is _system else (EPOCH, EPOCH)

        assert earliest <= clock.wall() <= latest

    play(scenario)


@pytest.mark.parametrize("play", [_system, _loop], ids=["system", "loop"])
def test_the_steady_clock_is_the_event_loops(play: Play) -> None:
    """Not FakeClock's promise: it stands still until it is told to go on, whatever the loop does."""

    async def scenario(clock: Clock, wait: Wait) -> None:
        for _ in range(3):
            before = clock.monotonic()
            by_the_loop = asyncio.get_running_loop().time()
            assert before <= by_the_loop <= clock.monotonic()
            await wait(0.001)

    play(scenario)


@pytest.mark.parametrize("play", [_loop, _fake], ids=["loop", "fake"])
@given(moves=st.lists(st.tuples(st.sampled_from(["wait", "set"]), st.floats(0, 1e6)), max_size=10))
def test_whoever_sets_the_wall_clock_does_not_move_the_steady_one(play: Play, moves: list[tuple[str, float]]) -> None:
    async def scenario(clock: Settable, wait: Wait) -> None:
        for move, value in moves:
            steady, wall = clock.monotonic(), clock.wall()
            if move == "wait":
                await wait(value)
                assert clock.monotonic() == pytest.approx(steady + value, abs=1e-5)
                assert clock.wall() == pytest.approx(wall + value, abs=1e-5)
            else:
                clock.set_wall(value)
                assert clock.monotonic() == steady
                assert clock.wall() == pytest.approx(value, abs=1e-5)

    play(scenario)


def test_no_test_can_turn_the_steady_clock_back() -> None:
    clock = FakeClock()
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(-1.0)

    assert clock.monotonic() == FakeClock().monotonic()
