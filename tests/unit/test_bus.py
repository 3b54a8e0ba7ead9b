"""The bus: bounded, ordered per subscription, and deaf to the trouble of any one handler."""

import asyncio
import functools
import gc
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x0tta6bl4.kernel.bus import EventBus, Subscription
from x0tta6bl4.kernel.events import Event, EventType
from x0tta6bl4.kernel.supervise import Failure, guarded

T = TypeVar("T")
STEP, FINDING, COMMAND = EventType.STEP, EventType.FINDING, EventType.USER_COMMAND


def run(play: Coroutine[Any, Any, T]) -> T:
    """A minute is no measure of speed: it only turns a test that hangs into one that fails."""
    return asyncio.run(asyncio.wait_for(play, 60))


@asynccontextmanager
async def processing(bus: EventBus) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        group.create_task(bus.process_events())
        try:
            yield
        finally:
            bus.stop()


def balance(subscription: Subscription) -> int:
    return subscription.delivered + subscription.failed + subscription.missed + subscription.queued


def test_the_seed_s_example_works() -> None:
    got: list[Any] = []

    async def play() -> None:
        bus = EventBus(max_queue_size=1000, history_size=100)

        async def handle_command(event: Event) -> None:
            got.append(event.data["command"])

        bus.subscribe(EventType.USER_COMMAND, handle_command)
        assert await bus.publish(Event(event_type=EventType.USER_COMMAND, data={"command": "hello"})) is True
        processor = asyncio.create_task(bus.process_events())
        assert await bus.drain()
        processor.cancel()
        with pytest.raises(asyncio.CancelledError):
            await processor

    run(play())

    assert got == ["hello"]


def test_a_full_queue_refuses_at_once_and_counts_by_type() -> None:
    bus = EventBus(max_queue_size=3)
    said = [bus.publish_nowait(Event(STEP if number < 4 else FINDING)) for number in range(5)]

    assert said == [True, True, True, False, False]
    assert (bus.dropped, bus.dropped_by_type, bus.queue_size, bus.is_full) == (2, {STEP: 1, FINDING: 1}, 3, True)


def test_history_has_the_latest_accepted_and_limit_0_is_none() -> None:
    bus = EventBus(max_queue_size=4, history_size=3)
    events = [Event(STEP) for _ in range(5)]
    for event in events:
        bus.publish_nowait(event)

    assert events[1:4] == bus.get_history() == bus.get_history(10)
    assert events[2:4] == bus.get_history(limit=2)
    assert bus.get_history(limit=0) == []
    with pytest.raises(ValueError, match="-1"):
        bus.get_history(limit=-1)


def test_each_type_goes_to_its_own_and_every_type_to_those_who_asked_for_all() -> None:
    steps: list[Event] = []
    everything: list[Event] = []

    async def play() -> None:
        bus = EventBus()
        bus.subscribe("step", steps.append)
        bus.subscribe(None, everything.append)
        async with processing(bus):
            bus.publish_nowait(Event(STEP))
            bus.publish_nowait(Event(FINDING))
            assert await bus.drain()

    run(play())

    assert [event.event_type for event in steps] == [STEP]
    assert [event.event_type for event in everything] == [STEP, FINDING]


def test_whatever_a_handler_returns_is_awaited() -> None:
    done: list[str] = []

    async def late(name: str, event: Event) -> None:
        await asyncio.sleep(0)
        done.append(name)

    class Callable:
        async def __call__(self, event: Event) -> None:
            await late("object", event)

        async def method(self, event: Event) -> None:
            await late("method", event)

    class Awaitable:
        def __await__(self) -> Iterator[None]:
            done.append("awaitable")
            return iter(())

    async def play() -> None:
        bus = EventBus()
        for handler in (
            Callable(),
            Callable().method,
            lambda event: Awaitable(),
            functools.partial(late, "partial"),
            lambda event: late("lambda", event),
            lambda event: asyncio.ensure_future(late("task", event)),
            lambda event: done.append("sync"),
        ):
            bus.subscribe(STEP, handler)
        async with processing(bus):
            await bus.publish(Event(STEP))
            assert await bus.drain()

    run(play())

    assert sorted(done) == ["awaitable", "lambda", "method", "object", "partial", "sync", "task"]


def test_a_slow_handler_delays_no_other() -> None:
    async def play() -> None:
        bus = EventBus(handler_timeout=None)
        gate, all_seen = asyncio.Event(), asyncio.Event()
        seen: list[Event] = []

        async def slow(event: Event) -> None:
            await gate.wait()

        def fast(event: Event) -> None:
            seen.append(event)
            if len(seen) == 100:
                all_seen.set()

        stuck = bus.subscribe(STEP, slow)
        bus.subscribe(STEP, fast)
        async with processing(bus):
            for _ in range(100):
                await bus.publish(Event(STEP))
            await all_seen.wait()
            assert (stuck.delivered, stuck.queued) == (0, 99)
            gate.set()
            assert await bus.drain()
            assert stuck.delivered == 100

    run(play())


def test_a_handler_that_never_waits_lets_others_in_between() -> None:
    async def play() -> list[str]:
        bus = EventBus()
        order: list[str] = []
        bus.subscribe(STEP, lambda event: order.append("busy"))
        bus.subscribe(FINDING, lambda event: order.append("urgent"))
        for _ in range(900):
            bus.publish_nowait(Event(STEP))
        bus.publish_nowait(Event(FINDING))
        async with processing(bus):
            assert await bus.drain()
        return order

    assert run(play()).index("urgent") < 100


def test_a_failing_handler_delays_no_other_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "x0tta6bl4.kernel.bus")
    broken = True

    def failing(event: Event) -> None:
        if broken:
            raise ValueError("boom")

    async def play() -> tuple[EventBus, Subscription, Subscription]:
        nonlocal broken
        bus = EventBus()
        bad, good = bus.subscribe(STEP, failing), bus.subscribe(STEP, lambda event: None)
        async with processing(bus):
            for now_broken in (True, True, False, True):
                broken = now_broken
                await bus.publish(Event(STEP))
                assert await bus.drain()
        return bus, bad, good

    bus, bad, good = run(play())

    assert (bad.delivered, bad.failed, bad.timed_out, good.delivered) == (1, 3, 0, 4)
    assert bus.failed == 3
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO", "ERROR"]
    assert "ValueError: boom" in caplog.text
    assert "works again, after 2 failures" in caplog.text


def test_a_handler_that_hangs_is_given_up_after_its_time(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> Subscription:
        bus = EventBus(handler_timeout=0.01)
        subscription = bus.subscribe(STEP, lambda event: asyncio.Event().wait())
        async with processing(bus):
            await bus.publish(Event(STEP))
            await bus.publish(Event(STEP))
            assert await bus.drain()
        return subscription

    subscription = run(play())

    assert (subscription.failed, subscription.timed_out) == (2, 2)
    assert "took longer than 0.01 s" in caplog.text
    assert len(caplog.records) == 1


def test_a_cancellation_of_the_handler_s_own_making_does_not_end_its_subscription() -> None:
    async def cancelled(event: Event) -> None:
        if event.data:
            raise asyncio.CancelledError

    async def play() -> Subscription:
        bus = EventBus()
        subscription = bus.subscribe(STEP, cancelled)
        async with processing(bus):
            await bus.publish(Event(STEP, {"stray": True}))
            await bus.publish(Event(STEP))
            assert await bus.drain()
        return subscription

    subscription = run(play())

    assert (subscription.failed, subscription.delivered) == (1, 1)


def test_a_full_subscription_misses_alone_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "x0tta6bl4.kernel.bus")

    async def play() -> tuple[EventBus, Subscription, Subscription]:
        bus = EventBus(max_queue_size=2, handler_timeout=None)
        gate = asyncio.Event()
        slow = bus.subscribe(STEP, lambda event: gate.wait())
        fast = bus.subscribe(STEP, lambda event: None)
        async with processing(bus):
            for _ in range(6):
                assert await bus.publish(Event(STEP))
                while fast.delivered + bus.queue_size < 1 or fast.queued or bus.queue_size:
                    await asyncio.sleep(0)
            gate.set()
            assert await bus.drain()
        return bus, slow, fast

    bus, slow, fast = run(play())

    assert (slow.delivered, slow.missed) == (3, 3)
    assert (fast.delivered, fast.missed) == (6, 0)
    assert (bus.dropped, bus.missed, bus.missed_by_type) == (0, 3, {STEP: 3})
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_subscribing_and_unsubscribing_while_running_work() -> None:
    async def play() -> None:
        bus = EventBus()
        got: list[Event] = []
        async with processing(bus):
            await bus.publish(Event(STEP))
            assert await bus.drain()
            end = bus.subscribe(STEP, got.append)
            await bus.publish(Event(STEP))
            assert await bus.drain()
            assert len(got) == 1
            end()
            end()
            await bus.publish(Event(STEP))
            assert await bus.drain()
            assert len(got) == 1
            assert bus.subscriptions == ()

    run(play())


def test_unsubscribe_by_handler_says_whether_there_was_one() -> None:
    bus = EventBus()
    got: list[Event] = []
    bus.subscribe(STEP, got.append)

    assert bus.unsubscribe(FINDING, got.append) is False
    assert bus.unsubscribe("step", got.append) is True
    assert bus.unsubscribe(STEP, got.append) is False


def test_a_handler_may_end_its_own_subscription_in_the_middle_of_a_call() -> None:
    async def play() -> tuple[int, int]:
        bus = EventBus()
        calls = finished = 0

        async def once(event: Event) -> None:
            nonlocal calls, finished
            calls += 1
            end()
            await asyncio.sleep(0)
            finished += 1

        end = bus.subscribe(STEP, once)
        for _ in range(3):
            await bus.publish(Event(STEP))
        async with processing(bus):
            assert await bus.drain()
        return calls, finished

    assert run(play()) == (1, 1)


def test_a_handler_may_publish_and_subscribe() -> None:
    async def play() -> list[Event]:
        bus = EventBus()
        got: list[Event] = []

        def answer(event: Event) -> None:
            bus.subscribe(EventType.RESPONSE_READY, got.append)
            bus.publish_nowait(Event(EventType.RESPONSE_READY))

        bus.subscribe(COMMAND, answer)
        async with processing(bus):
            await bus.publish(Event(COMMAND))
            assert await bus.drain()
        return got

    assert len(run(play())) == 1


def test_stop_lets_the_handler_under_way_finish_and_keeps_the_rest_for_the_next_run() -> None:
    async def play() -> None:
        bus = EventBus(handler_timeout=None)
        begun, gate = asyncio.Event(), asyncio.Event()
        got: list[Event] = []

        async def handler(event: Event) -> None:
            begun.set()
            await gate.wait()
            got.append(event)

        subscription = bus.subscribe(STEP, handler)
        events = [Event(STEP) for _ in range(3)]
        for event in events:
            await bus.publish(event)
        task = asyncio.create_task(bus.process_events())
        await begun.wait()
        bus.stop()
        await asyncio.sleep(0)
        assert not task.done()
        gate.set()
        await task
        assert events[:1] == got
        assert subscription.queued == 2
        async with processing(bus):
            assert await bus.drain()
        assert events == got

    run(play())


def test_a_stop_on_the_heels_of_a_start_holds() -> None:
    async def play() -> None:
        bus = EventBus()
        task = asyncio.create_task(bus.process_events())
        bus.stop()
        await task

    run(play())


def test_cancelling_ends_the_handlers_and_counts_what_was_in_their_hands() -> None:
    async def play() -> tuple[Subscription, list[str], int]:
        bus = EventBus(handler_timeout=None)
        begun = asyncio.Event()
        ended: list[str] = []

        async def handler(event: Event) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("ended")

        subscription = bus.subscribe(STEP, handler)
        await bus.publish(Event(STEP))
        await bus.publish(Event(STEP))
        task = asyncio.create_task(bus.process_events())
        await begun.wait()
        waiting = asyncio.create_task(bus.drain())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await waiting is False
        return subscription, ended, len(asyncio.all_tasks())

    subscription, ended, tasks = run(play())

    assert (subscription.delivered, subscription.failed, subscription.missed, subscription.queued) == (0, 0, 1, 1)
    assert ended == ["ended"]
    assert tasks == 2, "only the test's own task and the one that bounds it are left"


def test_drain_says_false_when_the_time_is_up() -> None:
    async def play() -> None:
        bus = EventBus()
        bus.publish_nowait(Event(STEP))
        assert await bus.drain(timeout=0.001) is False
        assert not bus._drains
        async with processing(bus):
            assert await bus.drain(timeout=None) is True

    run(play())


def test_two_processors_at_once_are_refused() -> None:
    async def play() -> None:
        bus = EventBus()
        async with processing(bus):
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="already"):
                await bus.process_events()

    run(play())


def test_one_bus_serves_one_event_loop_after_another() -> None:
    bus = EventBus()
    got: list[Event] = []
    bus.subscribe(STEP, got.append)

    async def play() -> None:
        async with processing(bus):
            await bus.publish(Event(STEP))
            assert await bus.drain()

    run(play())
    run(play())

    assert len(got) == 2


def test_ended_subscriptions_leave_no_task_behind() -> None:
    async def play() -> int:
        bus = EventBus()
        async with processing(bus):
            await asyncio.sleep(0)
            for _ in range(50):
                bus.subscribe(STEP, lambda event: None)()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            gc.collect()
            return sum(task.get_name().startswith("bus: ") for task in asyncio.all_tasks())

    assert run(play()) == 0


@pytest.mark.parametrize(("name", "value"), [("max_queue_size", 0), ("history_size", -1), ("handler_timeout", 0.0)])
def test_senseless_sizes_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        EventBus(**{name: value})  # type: ignore[arg-type]  # that is the point


def test_what_is_no_event_or_no_handler_is_refused() -> None:
    with pytest.raises(TypeError, match="only an Event"):
        EventBus().publish_nowait({"event_type": "step"})  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="handler"):
        EventBus().subscribe(STEP, "handler")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="the nearest is 'step'"):
        EventBus().subscribe("steps", print)


MOVES = st.lists(
    st.sampled_from(["step", "step", "finding", "turn", "turns", "open", "end", "subscribe"]),
    max_size=60,
)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(0, 6), MOVES)
def test_nothing_is_lost_uncounted_or_out_of_order(size: int, kept: int, moves: list[str]) -> None:
    async def play() -> None:
        bus = EventBus(size, kept, handler_timeout=None)
        gate = asyncio.Semaphore(0)
        accepted: list[Event] = []
        refused: list[Event] = []
        seen: dict[str, list[Event]] = {"fast": [], "slow": [], "failing": [], "passing": []}

        async def slow(event: Event) -> None:
            seen["slow"].append(event)
            await gate.acquire()

        def failing(event: Event) -> None:
            seen["failing"].append(event)
            raise ValueError(event.event_id)

        lasting = {
            "fast": bus.subscribe(None, seen["fast"].append),
            "slow": bus.subscribe(STEP, slow),
            "failing": bus.subscribe(STEP, failing),
        }
        passing: list[Subscription] = []
        async with processing(bus):
            for move in moves:
                if move in ("step", "finding"):
                    event = Event(move)
                    was_full = bus.queue_size == size
                    taken = bus.publish_nowait(event)
                    assert taken is not was_full
                    (accepted if taken else refused).append(event)
                elif move == "turn":
                    await asyncio.sleep(0)
                elif move == "turns":
                    for _ in range(30):
                        await asyncio.sleep(0)
                elif move == "open":
                    gate.release()
                elif move == "subscribe":
                    passing.append(bus.subscribe(None, seen["passing"].append))
                elif passing:
                    passing.pop()()
                assert bus.queue_size <= size
                assert len(bus.get_history()) <= kept
            for _ in range(len(accepted)):
                gate.release()
            assert await bus.drain()

        assert len(refused) == bus.dropped
        assert accepted[max(0, len(accepted) - kept) :] == bus.get_history()
        for name, subscription in lasting.items():
            meant = [event for event in accepted if subscription.event_type in (None, event.event_type)]
            assert len(meant) == balance(subscription)
            assert subscription.queued == 0
            assert len(seen[name]) == subscription.delivered + subscription.failed
            rest = iter(meant)
            assert all(event in rest for event in seen[name]), f"{name} got its events out of order"

    run(play())


@given(st.integers(1, 20), st.integers(0, 40), st.integers(0, 20))
def test_exactly_as_many_as_fit_are_accepted(size: int, count: int, kept: int) -> None:
    bus = EventBus(size, kept)
    events = [Event(STEP) for _ in range(count)]
    answers = [bus.publish_nowait(event) for event in events]

    assert [True] * min(size, count) + [False] * max(0, count - size) == answers
    assert count == bus.queue_size + bus.dropped
    assert events[: min(size, count)][-kept or count + 1 :] == bus.get_history()
    assert list(islice(reversed(bus.get_history()), 3)) == bus.get_history(3)[::-1]


# -- supervise.py: what the bus and the loop rest on


def test_a_guarded_call_gives_its_result() -> None:
    async def call() -> int:
        return 7

    assert run(guarded(call, 5.0)) == 7


def test_a_guarded_failure_is_a_fact_with_its_words() -> None:
    async def call() -> int:
        raise ValueError("bad reading")

    failure = run(guarded(call, None))

    assert isinstance(failure, Failure)
    assert (failure.error, failure.message, failure.timed_out) == ("ValueError", "bad reading", False)


def test_failing_before_anything_can_be_awaited_is_caught_too() -> None:
    def call() -> Coroutine[Any, Any, int]:
        raise OSError("no such file")

    failure = run(guarded(call, 1.0))

    assert isinstance(failure, Failure)
    assert failure.error == "OSError"


def test_the_time_given_is_told_from_a_time_out_of_the_call_s_own() -> None:
    async def own() -> None:
        raise TimeoutError("peer is silent")

    async def hang() -> None:
        await asyncio.Event().wait()

    mine, ours = run(guarded(own, 30.0)), run(guarded(hang, 0.001))

    assert isinstance(mine, Failure)
    assert isinstance(ours, Failure)
    assert (mine.timed_out, mine.message) == (False, "peer is silent")
    assert (ours.timed_out, ours.message) == (True, "took longer than 0.001 s")


def test_an_error_that_cannot_even_be_read_is_still_a_fact() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    async def call() -> None:
        raise Mute

    failure = run(guarded(call, None))

    assert isinstance(failure, Failure)
    assert (failure.error, failure.message) == ("Mute", "its message cannot be read")


def test_cancelling_the_waiting_task_passes_through() -> None:
    async def play() -> None:
        begun = asyncio.Event()

        async def call() -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(guarded(call, 60.0))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    run(play())


def test_what_is_no_exception_but_an_order_passes_through() -> None:
    async def call() -> None:
        raise SystemExit(3)

    async def play() -> int:
        with pytest.raises(SystemExit):
            await guarded(call, None)
        return 0

    assert run(play()) == 0
