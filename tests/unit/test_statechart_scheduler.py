"""Timers come due in order, cost nothing while they wait, and survive a restart and a clock that was set."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0tta6bl4.statechart.core.event import Event, Priority
from x0tta6bl4.statechart.runtime.scheduler import Timers, TooManyTimers


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return self.now


def _names(timers: Any) -> list[str]:
    return [timer.event.name for timer in timers]


def test_timers_come_due_in_the_order_of_their_deadlines_and_then_of_arming() -> None:
    clock = Clock()
    timers = Timers(clock)
    for name, delay in (("c", 3.0), ("a", 1.0), ("b1", 2.0), ("b2", 2.0), ("late", 9.0)):
        timers.arm("i", name, delay, Event(name))

    assert [] == timers.due()
    assert 1001.0 == timers.next_due()
    clock.now += 3
    assert ["a", "b1"] == _names(timers.due(most=2))
    assert ["b2", "c"] == _names(timers.due())
    assert [] == timers.due()
    assert 6.0 == timers.seconds_left()
    assert ["late"] == _names(timers.waiting("i"))


def test_nothing_waits_for_nothing() -> None:
    timers = Timers(Clock())

    assert timers.next_due() is None
    assert timers.seconds_left() is None
    assert [] == timers.due()


def test_cancelling_takes_back_all_of_that_id_of_that_instance_only() -> None:
    clock = Clock()
    timers = Timers(clock)
    timers.arm("i", "t", 1, Event("i1"))
    timers.arm("i", "t", 2, Event("i2"))
    timers.arm("i", "other", 3, Event("i3"))
    timers.arm("i", "", 4, Event("i4"))
    timers.arm("j", "t", 5, Event("j1"))

    assert ["i1", "i2"] == _names(timers.cancel("i", "t"))
    assert [] == timers.cancel("i", "t")
    assert [] == timers.cancel("i", "")
    assert [] == timers.cancel("nobody", "t")
    assert 3 == len(timers)
    assert 1003.0 == timers.next_due()
    assert ["i3", "i4"] == _names(timers.drop("i"))
    clock.now += 10
    assert ["j1"] == _names(timers.due())


def test_a_timer_that_is_armed_and_cancelled_for_ever_fills_no_memory() -> None:
    timers = Timers(Clock())
    timers.arm("i", "deadline", 3600, Event("deadline"))

    for _ in range(5000):
        timers.arm("i", "t", 900, Event("t"))
        timers.cancel("i", "t")

    assert 1 == len(timers)
    assert len(timers._heap) <= 70


def test_ten_thousand_waiting_timers_are_not_looked_at() -> None:
    clock = Clock()
    timers = Timers(clock)
    event = Event("t")
    for n in range(10_000):
        timers.arm(f"i{n}", "t", 3600 + n, event)
    clock.asked = 0

    assert 3600.0 == timers.seconds_left()
    assert [] == timers.due()
    assert 2 == clock.asked
    assert 10_000 == len(timers)


def test_more_timers_than_the_bound_are_refused_and_nothing_is_lost() -> None:
    timers = Timers(Clock(), limit=2)
    timers.arm("i", "a", 1, Event("a"))
    timers.arm("i", "b", 1, Event("b"))

    with pytest.raises(TooManyTimers, match="'i' cannot have one for 'c'"):
        timers.arm("i", "c", 1, Event("c"))
    timers.cancel("i", "a")
    timers.arm("i", "c", 1, Event("c"))
    assert ["b", "c"] == _names(timers.waiting("i"))


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf")])
def test_a_delay_that_is_no_time_is_refused(delay: float) -> None:
    with pytest.raises(ValueError, match="cannot wait"):
        Timers(Clock()).arm("i", "t", delay, Event("t"))


def test_after_a_restart_timers_wait_for_the_rest_and_overdue_ones_come_in_due_order() -> None:
    before = Timers(Clock())
    for name, delay in (("third", 50.0), ("first", 5.0), ("second", 20.0)):
        before.arm("i", name, delay, Event(name, {"n": 1}, sendid=name, priority=Priority.HIGH, id="e"))
    rows = json.loads(json.dumps(before.snapshot(wall=1_700_000_000.0)))
    clock = Clock()
    clock.now = 3.0  # another boot
    after = Timers(clock)

    assert 3 == after.restore(rows, wall=1_700_000_030.0)

    overdue = after.due()
    assert ["first", "second"] == _names(overdue)
    assert ({"n": 1}, "first", Priority.HIGH, "e") == (
        overdue[0].event.data,
        overdue[0].event.sendid,
        overdue[0].event.priority,
        overdue[0].event.id,
    )
    assert 20.0 == after.seconds_left()


@pytest.mark.parametrize(("jump", "left"), [(0, 60), (10, 50), (86_400, 0), (-86_400, 60)])
def test_a_clock_that_was_set_meanwhile_never_makes_a_timer_wait_longer_than_what_remained(
    jump: int, left: int
) -> None:
    before = Timers(Clock())
    before.arm("i", "t", 60.0, Event("t"))
    after = Timers(Clock())

    after.restore(before.snapshot(wall=1_700_000_000.0), wall=1_700_000_000.0 + jump)

    assert left == after.seconds_left()


def test_setting_the_wall_clock_moves_nothing_while_the_process_lives() -> None:
    timers = Timers(Clock())
    timers.arm("i", "t", 60.0, Event("t"))

    rows = [timers.snapshot(wall=wall)[0] for wall in (0.0, 5e9)]

    assert [60.0, 60.0] == [row["remaining"] for row in rows]
    assert [60.0, 5e9 + 60.0] == [row["at"] for row in rows]
    assert 60.0 == timers.seconds_left()


def test_restoring_twice_is_restoring_once_and_leaves_others_alone() -> None:
    timers = Timers(Clock())
    timers.arm("i", "t", 60.0, Event("i"))
    timers.arm("j", "t", 60.0, Event("j"))
    rows = timers.snapshot(0.0, "i")

    timers.restore(rows, 0.0)
    timers.restore(rows, 0.0)

    assert ["i"] == _names(timers.waiting("i"))
    assert ["j"] == _names(timers.waiting("j"))
    assert [] == timers.snapshot(0.0, "nobody")


def test_a_deadline_that_is_none_is_refused() -> None:
    row = {"instance": "i", "id": "t", "at": float("nan"), "remaining": 1.0, "event": {"name": "t"}}

    with pytest.raises(ValueError, match="no deadline"):
        Timers(Clock()).restore([row], 0.0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["arm", "cancel", "due"]), st.integers(0, 3), st.integers(0, 5)),
        max_size=40,
    )
)
def test_what_is_taken_is_what_a_plain_list_would_give(steps: list[tuple[str, int, int]]) -> None:
    clock = Clock()
    timers = Timers(clock)
    plain: list[tuple[float, int, str]] = []
    armed = 0
    for what, id, amount in steps:
        if what == "arm":
            armed += 1
            timers.arm("i", f"t{id}", amount, Event(f"e{armed}"))
            plain.append((clock.now + amount, armed, f"t{id}"))
        elif what == "cancel":
            timers.cancel("i", f"t{id}")
            plain = [one for one in plain if one[2] != f"t{id}"]
        else:
            clock.now += amount
            expected = sorted(one for one in plain if one[0] <= clock.now)
            plain = [one for one in plain if one[0] > clock.now]
            assert [f"e{number}" for _, number, _ in expected] == _names(timers.due())
        assert len(plain) == len(timers)
        assert (min(plain)[0] if plain else None) == timers.next_due()
