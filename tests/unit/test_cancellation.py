"""Cancellation: asked for once, seen everywhere below, from any thread, with or without an event loop."""

import asyncio
import gc
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from x0tta6bl4.kernel.cancellation import CancellationToken, CancelledError

T = TypeVar("T")


def run(play: Coroutine[Any, Any, T]) -> T:
    """A minute is no measure of speed: it only turns a test that hangs into one that fails."""
    return asyncio.run(asyncio.wait_for(play, 60))


@dataclass
class SetClock:
    now: float = 0.0

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def test_the_first_reason_stays() -> None:
    token = CancellationToken()
    assert (token.is_cancelled, token.cancel_reason) == (False, None)
    token.cancel("first")
    token.cancel("second")

    assert (token.is_cancelled, token.cancel_reason) == (True, "first")


def test_a_cancel_without_a_reason_is_a_cancel() -> None:
    token = CancellationToken()
    token.cancel()

    assert (token.is_cancelled, token.cancel_reason) == (True, "")
    with pytest.raises(CancelledError):
        token.raise_if_cancelled()


def test_raising_is_asyncio_s_own_cancellation_and_passes_an_except_exception() -> None:
    token = CancellationToken()
    token.raise_if_cancelled()
    token.cancel("User requested stop")

    assert CancelledError is asyncio.CancelledError
    assert not issubclass(CancelledError, Exception)
    with pytest.raises(asyncio.CancelledError, match="User requested stop"):
        token.raise_if_cancelled()


def test_a_reset_token_can_be_used_again() -> None:
    token = CancellationToken()
    token.cancel("one")
    token.reset()
    assert not token.is_cancelled
    token.cancel("two")

    assert token.cancel_reason == "two"


def test_waiting_ends_when_cancelled_from_the_same_loop() -> None:
    async def play() -> list[bool]:
        token = CancellationToken()
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(token.wait_for_cancellation()) for _ in range(3)]
            await asyncio.sleep(0)
            token.cancel("enough")
        return [wait.result() for wait in waits]

    assert run(play()) == [True, True, True]


def test_waiting_ends_when_cancelled_from_another_thread() -> None:
    token = CancellationToken()

    async def play() -> bool:
        thread = threading.Thread(target=token.cancel, args=("from outside",))
        waiting = asyncio.ensure_future(token.wait_for_cancellation())
        await asyncio.sleep(0)
        thread.start()
        try:
            return await waiting
        finally:
            thread.join()

    assert run(play())
    assert token.cancel_reason == "from outside"


def test_waiting_in_vain_answers_false_and_leaves_nothing_behind() -> None:
    token = CancellationToken()

    assert run(token.wait_for_cancellation(timeout=0.001)) is False
    assert run(token.wait_for_cancellation(timeout=0)) is False
    assert not token._waiters


def test_a_waiter_that_is_itself_cancelled_leaves_nothing_behind() -> None:
    token = CancellationToken()

    async def play() -> None:
        waiting = asyncio.ensure_future(token.wait_for_cancellation())
        await asyncio.sleep(0)
        assert token._waiters
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(play())

    assert not token._waiters
    assert not token.is_cancelled


def test_a_reset_on_the_heels_of_a_cancel_still_ends_the_waiting() -> None:
    async def play() -> bool:
        token = CancellationToken()
        waiting = asyncio.ensure_future(token.wait_for_cancellation())
        await asyncio.sleep(0)
        token.cancel()
        token.reset()
        return await waiting

    assert run(play())


def test_one_token_serves_one_event_loop_after_another() -> None:
    token = CancellationToken()
    assert run(token.wait_for_cancellation(0.001)) is False
    token.cancel()

    assert run(token.wait_for_cancellation()) is True


def test_a_waiter_whose_loop_is_closed_does_not_hinder_the_cancel() -> None:
    token = CancellationToken()
    loop = asyncio.new_event_loop()
    token._waiters.add(loop.create_future())  # what a loop that was torn down in the middle leaves behind
    loop.close()
    token.cancel("still")

    assert token.cancel_reason == "still"


def test_children_fall_with_the_parent_and_not_the_other_way_round() -> None:
    parent = CancellationToken()
    first, second = parent.child(), parent.child()
    below = first.child()
    first.cancel("first only")
    assert [each.is_cancelled for each in (parent, first, second, below)] == [False, True, False, True]
    parent.cancel("all")

    assert [each.cancel_reason for each in (parent, first, second, below)] == ["all", "first only", "all", "first only"]


def test_a_child_of_a_cancelled_parent_is_born_cancelled_and_no_reset_helps() -> None:
    parent = CancellationToken()
    parent.cancel("gone")
    child = parent.child()
    assert child.cancel_reason == "gone"
    child.reset()

    assert child.cancel_reason == "gone"


def test_a_child_that_was_cancelled_stays_so_when_only_the_parent_is_reset() -> None:
    parent = CancellationToken()
    child = parent.child()
    parent.cancel("gone")
    parent.reset()

    assert (parent.is_cancelled, child.is_cancelled) == (False, True)


def test_a_waiter_below_hears_of_a_cancel_far_above() -> None:
    async def play() -> bool:
        top = CancellationToken()
        waiting = asyncio.ensure_future(top.child().child().wait_for_cancellation())
        await asyncio.sleep(0)
        top.cancel()
        return await waiting

    assert run(play())


def test_dead_children_are_not_kept() -> None:
    parent = CancellationToken()
    for _ in range(1000):
        parent.child()
    kept = parent.child()
    gc.collect()

    assert [kept] == list(parent._children)


def test_a_very_long_line_of_children_is_cancelled_without_recursion() -> None:
    parent = CancellationToken()
    line = [parent]
    for _ in range(5000):
        line.append(line[-1].child())
    parent.cancel("all")

    assert line[-1].cancel_reason == "all"


def test_a_deadline_cancels_here_and_below_and_says_so() -> None:
    clock = SetClock()
    parent = CancellationToken(deadline=2.0, clock=clock)
    child = parent.child(deadline=10.0)
    clock.now = 1.5
    assert (child.is_cancelled, child.seconds_left) == (False, 0.5)
    clock.now = 2.0

    assert "the deadline of 2 s has passed" == child.cancel_reason == parent.cancel_reason
    assert child.seconds_left == 0.0


def test_a_child_s_deadline_leaves_the_parent_alone() -> None:
    clock = SetClock()
    parent = CancellationToken(clock=clock)
    child = parent.child(deadline=1.0)
    clock.now = 1.0

    assert (child.is_cancelled, parent.is_cancelled) == (True, False)
    assert parent.seconds_left is None


def test_reset_starts_the_deadline_anew_and_one_passed_unseen_still_counts_below() -> None:
    clock = SetClock()
    token = CancellationToken(deadline=2.0, clock=clock)
    child = token.child()
    clock.now = 5.0
    token.reset()

    assert (token.is_cancelled, token.seconds_left) == (False, 2.0)
    assert child.is_cancelled
    clock.now = 7.0
    assert token.is_cancelled


def test_a_passed_deadline_is_cancelled_at_once_and_nan_is_refused() -> None:
    assert CancellationToken(deadline=0).is_cancelled
    assert CancellationToken(deadline=-1.0).is_cancelled
    assert not CancellationToken(deadline=float("inf")).is_cancelled
    with pytest.raises(ValueError, match="nan"):
        CancellationToken(deadline=float("nan"))


def test_waiting_ends_at_the_deadline_of_a_parent() -> None:
    async def play() -> tuple[bool, bool]:
        child = CancellationToken(deadline=0.01).child()
        return await child.wait_for_cancellation(), child.is_cancelled

    assert run(play()) == (True, True)


def test_a_timeout_before_the_deadline_answers_false() -> None:
    assert run(CancellationToken(deadline=3600.0).wait_for_cancellation(timeout=0.001)) is False


def test_many_threads_cancelling_at_once_leave_one_reason_for_all_below() -> None:
    token = CancellationToken()
    children = [token.child() for _ in range(50)]
    start = threading.Barrier(8)

    def go(number: int) -> None:
        start.wait()
        token.cancel(str(number))

    threads = [threading.Thread(target=go, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {token.cancel_reason} == {child.cancel_reason for child in children}
