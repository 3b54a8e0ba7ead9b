"""The small machine: the table, force, bounded history, and every move told."""

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0tta6bl4.kernel.bus import EventBus
from x0tta6bl4.kernel.events import EventType
from x0tta6bl4.kernel.lifecycle import State, StateMachine, Transition

TABLE = """
idle -> processing, stopped
processing -> responding, error, idle, stopped
responding -> idle, error, stopped
error -> idle, stopped
stopped -> idle
"""
ALLOWED = {
    (State(start), State(end))
    for start, ends in (line.split(" -> ") for line in TABLE.strip().splitlines())
    for end in ends.split(", ")
}


@dataclass
class SetClock:
    now: float = 0.0

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("end", State)
@pytest.mark.parametrize("start", State)
def test_the_table_is_kept_to_the_letter(start: State, end: State) -> None:
    machine = StateMachine(initial_state=start)

    assert ((start, end) in ALLOWED) is machine.can_transition_to(end)
    assert ((start, end) in ALLOWED) is machine.transition_to(end)
    assert (end if (start, end) in ALLOWED else start) is machine.current_state


def test_a_refused_move_leaves_no_trace() -> None:
    told: list[Transition] = []
    bus = EventBus()
    machine = StateMachine(on_change=told.append, bus=bus)

    assert machine.transition_to(State.RESPONDING) is False
    assert (machine.current_state, machine.previous_state, machine.history) == (State.IDLE, None, ())
    assert (told, bus.get_history()) == ([], [])


def test_force_moves_anywhere_and_says_so() -> None:
    machine = StateMachine()

    assert machine.transition_to(State.ERROR, force=True) is True
    assert machine.is_in_state(State.ERROR)
    move = machine.history[0]
    assert (move.from_state, move.to_state, move.forced) == (State.IDLE, State.ERROR, True)


def test_is_in_state_takes_several() -> None:
    assert StateMachine().is_in_state(State.ERROR, State.IDLE)
    assert not StateMachine().is_in_state(State.ERROR, State.STOPPED)


def test_reset_goes_back_from_anywhere_and_keeps_the_history() -> None:
    machine = StateMachine()
    machine.transition_to(State.ERROR, force=True)
    machine.reset()

    assert (machine.current_state, machine.previous_state) == (State.IDLE, State.ERROR)
    assert [move.reason for move in machine.history] == ["", "reset"]


def test_the_history_is_bounded() -> None:
    machine = StateMachine(history_size=10)
    for _ in range(1000):
        machine.transition_to(State.PROCESSING)
        machine.transition_to(State.IDLE, "last")

    assert len(machine.history) == 10
    assert machine.history[-1].reason == "last"


def test_every_move_is_told_on_the_bus_with_its_reason_and_time() -> None:
    bus = EventBus()
    machine = StateMachine(bus=bus, clock=SetClock(1_700_000_000.0))
    machine.transition_to(State.PROCESSING, "a turn")
    machine.transition_to(State.STOPPED, force=True)

    assert [dict(event.data) for event in bus.get_history()] == [
        {"from": "idle", "to": "processing", "reason": "a turn", "forced": False},
        {"from": "processing", "to": "stopped", "reason": "", "forced": True},
    ]
    assert {EventType.STATE_CHANGE} == {event.event_type for event in bus.get_history()}
    assert datetime.fromtimestamp(1_700_000_000, UTC) == bus.get_history()[0].timestamp == machine.history[0].at


def test_a_full_bus_does_not_hinder_a_move() -> None:
    bus = EventBus(max_queue_size=1)
    machine = StateMachine(bus=bus)

    assert machine.transition_to(State.PROCESSING)
    assert machine.transition_to(State.IDLE)
    assert (machine.current_state, bus.dropped) == (State.IDLE, 1)


def test_whoever_is_told_may_move_the_machine_on() -> None:
    def on_change(move: Transition) -> None:
        if move.to_state is State.ERROR:
            machine.transition_to(State.IDLE, "recovered")

    bus = EventBus()
    machine = StateMachine(State.PROCESSING, on_change=on_change, bus=bus)
    machine.transition_to(State.ERROR)

    assert State.IDLE is machine.current_state
    assert [event.data["to"] for event in bus.get_history()] == ["error", "idle"]


def test_what_on_change_raises_reaches_the_mover_and_the_move_stands() -> None:
    def on_change(move: Transition) -> None:
        raise OSError("no")

    machine = StateMachine(on_change=on_change)
    with pytest.raises(OSError, match="no"):
        machine.transition_to(State.PROCESSING)

    assert State.PROCESSING is machine.current_state


def test_a_string_is_taken_for_its_state_and_a_wrong_one_refused() -> None:
    machine = StateMachine()

    assert machine.transition_to("processing")  # type: ignore[arg-type]  # as the API hands it in
    with pytest.raises(ValueError, match="sleeping"):
        machine.transition_to("sleeping")  # type: ignore[arg-type]  # as the API hands it in


@given(st.sampled_from(State), st.lists(st.tuples(st.sampled_from(State), st.booleans())), st.integers(0, 5))
def test_the_table_is_never_left_without_force(start: State, moves: list[tuple[State, bool]], size: int) -> None:
    told: list[Transition] = []
    machine = StateMachine(start, history_size=size, on_change=told.append)
    for state, force in moves:
        before = machine.current_state
        moved = machine.transition_to(state, force=force)

        assert moved is (force or (before, state) in ALLOWED)
        assert (state if moved else before) is machine.current_state

    assert all(move.forced or (move.from_state, move.to_state) in ALLOWED for move in told)
    assert all(first.to_state is second.from_state for first, second in pairwise(told))
    assert tuple(told[len(told) - min(size, len(told)) :]) == machine.history
