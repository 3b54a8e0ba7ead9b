"""The heart of the statechart engine: steps, order, memory, rollback, deferral, variables, time, exchange of charts."""

import doctest
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import x0tta6bl4.statechart as package
from x0tta6bl4.kernel import lifecycle
from x0tta6bl4.statechart.core import machine as machine_module
from x0tta6bl4.statechart.core.effect import (
    Cancelled,
    Effect,
    Ended,
    Faulted,
    Forwarded,
    Logged,
    Sent,
    Started,
    Stopped,
)
from x0tta6bl4.statechart.core.event import Event, Priority
from x0tta6bl4.statechart.core.machine import Chart, Instance, UnsafeModification, modified
from x0tta6bl4.statechart.core.region import region_status
from x0tta6bl4.statechart.core.state import Definition, Kind, State, Variable
from x0tta6bl4.statechart.core.tables import DefinitionError
from x0tta6bl4.statechart.core.transition import (
    Activity,
    Assign,
    Call,
    Cancel,
    ForEach,
    If,
    Log,
    Raise,
    Result,
    Scope,
    Send,
    Transition,
)
from x0tta6bl4.statechart.examples import STARK, stark_chart
from x0tta6bl4.statechart.extensions.hooks import Hooks
from x0tta6bl4.statechart.runtime import executor
from x0tta6bl4.statechart.runtime.executor import EndlessLoop, Runtime, cancel, handle, new, observe, start
from x0tta6bl4.statechart.runtime.machine import Machine
from x0tta6bl4.statechart.runtime.monitor import Monitor

T, S = Transition, State


def chart(*states: State, initial: tuple[str, ...] = (), root: dict[str, Any] | None = None, **more: Any) -> Chart:
    return Chart(Definition("test", State(states=states, initial=initial, **(root or {})), **more))


def begin(chart: Chart, **data: Any) -> Instance:
    instance = new(chart, "i", Runtime())
    start(instance, data)
    return instance


def effects(instance: Instance) -> list[Effect]:
    found = instance.runtime.effects[:]
    instance.runtime.effects.clear()
    return found


def send(instance: Instance, *names: str, data: Any = None) -> bool:
    taken = False
    for name in names:
        instance.seq += 1
        taken = handle(instance, Event(name, data))
    return taken


def logs(instance: Instance) -> list[str]:
    return [effect.label for effect in effects(instance) if isinstance(effect, Logged)]


def log(text: str) -> tuple[Log, ...]:
    return (Log(text),)


def telling(id: str, *states: State, **more: Any) -> State:
    """A state that says when it is entered and exited."""
    return State(id, states=states, entry=(log(f"+{id}"),), exit=(log(f"-{id}"),), **more)


# Order


def test_exits_come_innermost_first_then_actions_then_entries_outermost_first() -> None:
    instance = begin(
        chart(
            telling("a", telling("a1", telling("a11", transitions=(T("go", ("b11",), do=log("do")),)))),
            telling("b", telling("b1", telling("b11"))),
        )
    )
    effects(instance)
    assert send(instance, "go")

    assert logs(instance) == ["-a11", "-a1", "-a", "do", "+b", "+b1", "+b11"]


def test_regions_are_entered_in_document_order_and_exited_in_reverse() -> None:
    instance = begin(
        chart(
            telling("p", telling("x", telling("x1")), telling("y", telling("y1")), kind=Kind.PARALLEL),
            S("end"),
            root={"transitions": (T("go", ("end",)),)},
        )
    )
    assert logs(instance) == ["+p", "+x", "+x1", "+y", "+y1"]
    send(instance, "go")
    assert logs(instance) == ["-y1", "-y", "-x1", "-x", "-p"]


def test_an_inner_transition_is_taken_before_an_outer_one_and_an_earlier_before_a_later() -> None:
    instance = begin(
        chart(
            S("a", states=(S("a1", transitions=(T("e", ("x",)), T("e", ("y",)))),), transitions=(T("e", ("z",)),)),
            S("x"),
            S("y"),
            S("z"),
        )
    )
    send(instance, "e")
    assert instance.configuration == ("x",)


def test_of_conflicting_regions_the_first_in_the_document_wins_unless_the_other_is_inside_it() -> None:
    first = chart(
        S(
            "p",
            Kind.PARALLEL,
            states=(S("r", transitions=(T("e", ("x",)),)), S("s", transitions=(T("e", ("y",)),))),
        ),
        S("x"),
        S("y"),
    )
    instance = begin(first)
    send(instance, "e")
    assert instance.configuration == ("x",)

    # The parallel state's own transition is found from the first region, yet the second has one further inside.
    inner = chart(
        S(
            "p",
            Kind.PARALLEL,
            states=(S("r"), S("s", states=(S("s1", transitions=(T("e", ("s2",)),)), S("s2")))),
            transitions=(T("e", ("x",)),),
        ),
        S("x"),
    )
    instance = begin(inner)
    send(instance, "e")
    assert instance.configuration == ("p", "r", "s", "s2")


def test_external_leaves_its_source_local_stays_and_internal_moves_nothing() -> None:
    instance = begin(
        chart(
            telling(
                "a",
                telling("a1"),
                telling("a2"),
                transitions=(
                    T("out", ("a2",)),
                    T("in", ("a2",), kind="local"),
                    T("none", do=log("none"), kind="internal"),
                ),
            )
        )
    )
    effects(instance)
    send(instance, "out")
    assert logs(instance) == ["-a1", "-a", "+a", "+a2"]
    send(instance, "in")
    assert logs(instance) == ["-a2", "+a2"]
    send(instance, "none")
    assert logs(instance) == ["none"]


def test_eventless_transitions_come_before_internal_events_and_those_before_external_ones() -> None:
    instance = begin(
        chart(
            S("a", transitions=(T("go", ("b",), do=(Raise("inner"),)),)),
            S("b", transitions=(T("inner", ("wrong",)), T("", ("c",)))),
            S("c", transitions=(T("inner", ("d",)),)),
            S("d"),
            S("wrong"),
        )
    )
    send(instance, "go")
    assert instance.configuration == ("d",)


def test_event_descriptors_match_whole_words_from_the_left() -> None:
    instance = begin(chart(S("a", transitions=(T("error.disk other.*", ("b",)),)), S("b")))
    assert not send(instance, "error")
    assert not send(instance, "error.disks")
    assert send(instance, "error.disk.full")


def test_completion_events_rise_from_regions_to_the_parallel_state_and_carry_the_result() -> None:
    def region(name: str) -> State:
        return S(
            name,
            states=(
                S(f"{name}1", transitions=(T(f"end.{name}", (f"{name}2",)),)),
                S(f"{name}2", Kind.FINAL, result=Result("1 + 1")),
            ),
        )

    instance = begin(
        chart(
            S(
                "p",
                Kind.PARALLEL,
                states=(region("r"), region("s")),
                transitions=(
                    T("done.state.r", do=(Log("r", "_event.data"),)),
                    T("done.state.p", ("end",)),
                ),
            ),
            S("end", Kind.FINAL, result=Result(parameters=(("n", "40 + 2"),))),
        )
    )
    assert send(instance, "end.r")
    assert effects(instance) == [Logged("r", 2)]
    assert region_status(instance) == {"p": {"r": "completed", "s": "active"}}
    assert send(instance, "end.s")
    assert effects(instance) == [Ended("end", {"n": 42})]
    assert not instance.running
    assert not send(instance, "end.r")


# Memory


def nested() -> Chart:
    def region(name: str) -> State:
        return S(
            name,
            states=(
                S(f"{name}1", transitions=(T("next", (f"{name}2",)),)),
                S(f"{name}2", states=(S(f"{name}21", transitions=(T("next", (f"{name}22",)),)), S(f"{name}22"))),
            ),
        )

    return chart(
        S(
            "p",
            Kind.PARALLEL,
            states=(
                S("deep", Kind.DEEP_HISTORY, transitions=(T(to=("x2", "y22"), do=log("first time")),)),
                region("x"),
                region("y"),
            ),
            transitions=(T("out", ("off",)),),
        ),
        S("off", transitions=(T("back", ("deep",)), T("in", ("p",)))),
        initial=("off",),
    )


def test_a_deep_history_brings_back_every_region_and_its_default_only_the_first_time() -> None:
    instance = begin(nested())
    send(instance, "back")
    assert instance.configuration == ("p", "x", "x2", "x21", "y", "y2", "y22")
    assert logs(instance) == ["first time"]
    send(instance, "next", "out", "in")
    assert instance.node.names == ("p", "x", "x1", "y", "y1")
    send(instance, "next", "next", "out", "back")
    assert instance.configuration == ("p", "x", "x2", "x22", "y", "y2", "y22")
    assert logs(instance) == []


def test_a_shallow_history_brings_back_the_child_and_begins_it_anew() -> None:
    instance = begin(
        chart(
            S(
                "a",
                states=(
                    S("h", Kind.HISTORY, transitions=(T(to=("a1",)),)),
                    S("a1"),
                    S("a2", states=(S("a21"), S("a22"))),
                ),
                transitions=(T("deep", ("a22",)), T("out", ("off",))),
            ),
            S("off", transitions=(T("back", ("h",)),)),
        )
    )
    send(instance, "deep", "out", "back")
    assert instance.configuration == ("a", "a2", "a21")


def test_a_history_without_a_transition_means_its_parents_beginning() -> None:
    instance = begin(
        chart(
            S("off", transitions=(T("in", ("h",)),)),
            S("a", states=(S("h", Kind.HISTORY), S("a1"), S("a2")), initial=("a2",)),
        )
    )
    send(instance, "in")
    assert instance.configuration == ("a", "a2")


# Rollback


def faulty(errors: str = "rollback", **more: Any) -> Chart:
    return chart(
        S(
            "a",
            states=(S("h", Kind.HISTORY), S("a1", transitions=(T("next", ("a2",)),)), S("a2")),
            activities=(Activity(type="work"),),
            exit=((Assign("n", "n + 1"), Assign("m.deep", "n")),),
            transitions=(T("go", ("b",)), T("bad.guard", ("b",), "n / 0 > 1"), T("loop", ("c",))),
        ),
        S("b", entry=((Send("told", target="#_out"),), (Log("x", "1 / (n - n)"),)), transitions=(T("error", ("e",)),)),
        S("c", transitions=(T("", ("c",)),)),
        S("e"),
        root={"variables": (Variable("n", value=0), Variable("m", value={"deep": 0}))},
        errors=errors,
        **more,
    )


def image(instance: Instance) -> tuple[object, ...]:
    return (
        instance.configuration,
        instance.mask,
        instance.history,
        instance.data,
        instance.activities,
        instance.deferred,
        instance.when_bits,
        instance.running,
    )


def test_a_failing_action_takes_back_state_history_data_and_activities_and_only_the_fault_is_told() -> None:
    instance = begin(faulty())
    send(instance, "next")
    effects(instance)
    instance.data = {**instance.data}
    before = repr(image(instance))
    assert not send(instance, "go")

    assert repr(image(instance)) == before
    (fault,) = effects(instance)
    assert isinstance(fault, Faulted)
    assert fault.what == "entry of 'b'"
    assert "1 / (n - n)" in fault.why
    assert send(instance, "next") is False
    assert instance.is_in("a2")


def test_a_failing_guard_takes_the_step_back() -> None:
    instance = begin(faulty())
    effects(instance)
    assert not send(instance, "bad.guard")
    (fault,) = effects(instance)
    assert isinstance(fault, Faulted)
    assert fault.what == "guard of a -> b on bad.guard"


def test_an_endless_loop_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "MICROSTEPS", 50)
    instance = begin(faulty())
    effects(instance)
    before = repr(image(instance))
    assert not send(instance, "loop")
    assert repr(image(instance)) == before
    (fault,) = effects(instance)
    assert isinstance(fault, Faulted)
    assert "50 microsteps" in fault.why

    lenient = begin(faulty("event"))
    before = repr(image(lenient))
    with pytest.raises(EndlessLoop):
        send(lenient, "loop")
    assert repr(image(lenient)) == before


def test_in_event_mode_the_block_ends_the_error_is_an_event_and_the_step_goes_on() -> None:
    instance = begin(faulty("event"))
    effects(instance)
    assert send(instance, "go")
    assert instance.configuration == ("e",)
    assert instance.data["n"] == 1
    assert [type(effect) for effect in effects(instance)] == [Stopped, Sent]


def test_in_event_mode_a_failing_guard_is_false_and_told() -> None:
    instance = begin(
        chart(
            S("a", transitions=(T("e", ("b",), "1 / 0 > 1"), T("e", ("c",)))),
            S("b"),
            S("c", transitions=(T("error.execution", ("d",)),)),
            S("d"),
            errors="event",
        )
    )
    send(instance, "e")
    assert instance.configuration == ("d",)


def test_functions_may_change_values_in_place_and_are_taken_back_all_the_same() -> None:
    def grow(scope: Scope) -> None:
        scope.data["items"].append(len(scope.data["items"]))

    def fail(scope: Scope) -> None:
        raise OSError("no disk")

    instance = begin(
        chart(
            S("a", transitions=(T("good", do=(Call(grow),)), T("bad", ("b",), do=(Call(grow), Call(fail))))),
            S("b"),
            root={"variables": (Variable("items", value=[]),)},
        )
    )
    send(instance, "good", "bad", "bad")
    assert instance.configuration == ("a",)
    assert instance.data == {"items": [0]}
    faults = effects(instance)
    assert [type(fault) for fault in faults] == [Faulted, Faulted]
    assert "no disk" in str(faults[0])


def test_a_function_sees_data_event_and_states_and_what_it_sends_comes_in_the_same_step() -> None:
    def guard(scope: Scope) -> bool:
        return scope.event is not None and bool(scope.event.data == 3) and scope.is_in("a")

    instance = begin(
        chart(
            S("a", transitions=(T("e", ("b",), guard, do=(Call(lambda scope: scope.send("on")),)),)),
            S("b", transitions=(T("on", ("c",)),)),
            S("c"),
        )
    )
    assert not send(instance, "e", data=2)
    assert send(instance, "e", data=3)
    assert instance.configuration == ("c",)


def test_a_broken_invariant_takes_the_step_back_but_may_be_broken_on_the_way() -> None:
    instance = begin(
        chart(
            S(
                "a",
                transitions=(
                    T("set", do=(Assign("n", "result"),)),
                    T("there.and.back", do=(Assign("n", "-1"), Raise("mend"))),
                    T("mend", do=(Assign("n", "7"),)),
                ),
                invariants=("n >= 0",),
            ),
            root={"variables": (Variable("n", value=0),)},
        )
    )
    assert send(instance, "set", data=5)
    assert not send(instance, "set", data=-5)
    assert instance.data["n"] == 5
    assert effects(instance) == [Faulted("invariant n >= 0 of 'a'", "does not hold")]
    assert send(instance, "there.and.back")
    assert instance.data["n"] == 7


def test_a_start_that_fails_leaves_an_instance_that_was_never_started() -> None:
    instance = begin(chart(S("a", entry=((Assign("n", "1 / n"),),)), root={"variables": (Variable("n", value=0),)}))
    assert not instance.running
    assert instance.configuration == ()
    assert instance.data == {}
    assert [type(effect) for effect in effects(instance)] == [Faulted]


@given(st.lists(st.sampled_from(["next", "go", "bad.guard", "set", "nothing"]), max_size=12))
def test_whatever_comes_a_faulted_step_changes_nothing(names: list[str]) -> None:
    instance = begin(faulty())
    for name in names:
        effects(instance)
        before = repr(image(instance))
        taken = send(instance, name)
        if any(isinstance(effect, Faulted) for effect in effects(instance)):
            assert not taken
            assert repr(image(instance)) == before


# Deferral


def deferring() -> Chart:
    return chart(
        S("busy", transitions=(T("free", ("ready",)), T("stay", do=log("stay"))), defer=("job",)),
        S("ready", transitions=(T("job", ("busy",), do=(Log("job", "_event.data"),)),)),
    )


def test_deferred_events_come_back_in_order_as_soon_as_the_configuration_changed() -> None:
    instance = begin(deferring())
    for number in (1, 2, 3):
        assert not send(instance, "job", data=number)
    send(instance, "stay")
    assert [event.data for event in instance.deferred] == [1, 2, 3]
    effects(instance)
    assert send(instance, "free")
    # The first makes it busy again, so the others go on waiting, in their order.
    assert effects(instance) == [Logged("job", 1)]
    assert [event.data for event in instance.deferred] == [2, 3]
    send(instance, "free", "free")
    assert effects(instance) == [Logged("job", 2), Logged("job", 3)]
    assert instance.deferred == ()


def test_a_recalled_event_that_fails_is_gone_and_takes_only_its_own_step_back() -> None:
    instance = begin(
        chart(
            S("busy", transitions=(T("free", ("ready",)),), defer=("job",)),
            S("ready", transitions=(T("job", ("busy",), "10 / result > 1"),)),
        )
    )
    send(instance, "job", data=0)
    assert send(instance, "free")
    assert instance.configuration == ("ready",)
    assert instance.deferred == ()
    assert [type(effect) for effect in effects(instance)] == [Faulted]


def test_what_recalled_events_begin_has_ids_of_its_own_and_is_not_handed_on_twice() -> None:
    instance = begin(
        chart(
            S(
                "busy",
                transitions=(T("free", ("ready",)),),
                defer=("job",),
                activities=(Activity(type="work", forward=True),),
            ),
            S("ready", transitions=(T("job", ("between",)),)),
            S("between", transitions=(T("job", ("busy",)),), activities=(Activity(type="work"),)),
            initial=("busy",),
        )
    )
    send(instance, "job", "job", "job")
    assert len([effect for effect in effects(instance) if isinstance(effect, Forwarded)]) == 3
    send(instance, "free")
    told = effects(instance)
    assert [effect.id for effect in told if isinstance(effect, Started)] == ["between.4", "busy.4"]
    assert len([effect for effect in told if isinstance(effect, Forwarded)]) == 1
    assert len(instance.deferred) == 1

    again = begin(
        chart(
            S("busy", transitions=(T("free", ("ready",)),), defer=("job",)),
            S("ready", transitions=(T("job", ("ready",)),), activities=(Activity(type="work"),)),
        )
    )
    send(again, "job", "job", "free")
    assert [e.id for e in effects(again) if isinstance(e, Started)] == ["ready.3", "ready.3.2", "ready.3.3"]


def test_deferred_events_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "DEFERRED", 2)
    instance = begin(deferring())
    send(instance, "job", "job", "job")
    assert len(instance.deferred) == 2
    assert [type(effect) for effect in effects(instance)] == [Faulted]


# Variables


def test_local_variables_are_seen_inside_only_begin_anew_and_are_gone_after_the_exits_and_actions() -> None:
    instance = begin(
        chart(
            S(
                "a",
                variables=(Variable("n", expression="total + 1"),),
                states=(
                    S(
                        "a1",
                        variables=(Variable("n", value=100),),
                        transitions=(T("inner", do=(Assign("n", "n + 1"),)),),
                    ),
                ),
                transitions=(T("outer", do=(Assign("n", "n + 1"),)), T("out", ("b",), do=(Assign("total", "n"),))),
            ),
            S("b", transitions=(T("in", ("a",)),)),
            root={"variables": (Variable("total", value=0),)},
        )
    )
    send(instance, "inner", "outer", "inner")
    assert instance.data == {"total": 0, "a.n": 2, "a1.n": 102}
    send(instance, "out")
    assert instance.data == {"total": 2}
    send(instance, "in")
    assert instance.data == {"total": 2, "a.n": 3, "a1.n": 100}


def test_a_variable_of_a_sibling_is_refused_when_the_chart_is_compiled() -> None:
    with pytest.raises(DefinitionError) as refused:
        chart(S("a", variables=(Variable("mine", value=1),)), S("b", transitions=(T("e", ("a",), "mine > 0"),)))
    assert "mine" in refused.value.problems[0]


def test_a_function_sees_local_variables_by_their_names() -> None:
    def double(scope: Scope) -> None:
        scope.data["n"] = scope.data["n"] * 2

    instance = begin(
        chart(
            S("a", variables=(Variable("n", value=4, type="integer"),), transitions=(T("e", do=(Call(double),)),)),
            root={"variables": (Variable("n", value=1),)},
        )
    )
    send(instance, "e")
    assert instance.data == {"n": 1, "a.n": 8}


def test_a_value_of_the_wrong_type_is_refused_and_the_old_one_stays() -> None:
    instance = begin(
        chart(
            S("a", transitions=(T("set", do=(Assign("n", "result"),)), T("deep", do=(Assign("r.x", "result"),)))),
            root={
                "variables": (
                    Variable("n", value=1, type="integer"),
                    Variable("r", value={"x": 1}, type="map[integer]"),
                )
            },
        )
    )
    assert send(instance, "set", data=2)
    assert not send(instance, "set", data="two")
    assert send(instance, "deep", data=5)
    assert not send(instance, "deep", data="five")
    assert instance.data == {"n": 2, "r": {"x": 5}}
    faults = effects(instance)
    assert [type(fault) for fault in faults] == [Faulted, Faulted]
    with pytest.raises(ValueError, match="'n'"):
        start(new(instance.chart, "j", Runtime()), {"n": "one"})
    with pytest.raises(ValueError, match="no variable 'nn'; did you mean 'n'"):
        start(new(instance.chart, "j", Runtime()), {"nn": 1})


def test_assignments_below_a_variable_leave_the_old_value_alone() -> None:
    instance = begin(
        chart(
            S("a", transitions=(T("e", do=(Assign("m.x", "2"),)),)),
            root={"variables": (Variable("m", value={"x": 1}),)},
        )
    )
    old = instance.data["m"]
    send(instance, "e")
    assert (old, instance.data["m"]) == ({"x": 1}, {"x": 2})
    assert begin(instance.chart).data["m"] == {"x": 1}


def test_for_each_if_and_raise_with_data() -> None:
    instance = begin(
        chart(
            S(
                "a",
                entry=(
                    (
                        ForEach(
                            "[3, 4, 5]", "item", "i", (If((("item == 4", (Log("four", "i"),)), (None, (Log("no"),)))),)
                        ),
                        Raise("sum", "{'of': 12}"),
                    ),
                ),
                transitions=(T("sum", ("b",), do=(Log("sum", "result.of"),)),),
            ),
            S("b"),
        )
    )
    assert effects(instance) == [Logged("no", None), Logged("four", 1), Logged("no", None), Logged("sum", 12)]
    assert instance.data == {}


# Activities, time and change


def test_activities_begin_at_rest_and_only_in_states_that_are_still_active() -> None:
    instance = begin(
        chart(
            S("passing", transitions=(T("", ("a",)),), activities=(Activity(type="never"),)),
            S(
                "a",
                activities=(
                    Activity(
                        type="work", parameters=(("n", "1 + 1"),), finalize=(Assign("seen", "result"),), forward=True
                    ),
                ),
                transitions=(T("out", ("b",)), T("done.invoke", ("b",))),
            ),
            S("b"),
            root={"variables": (Variable("seen", value=0),)},
        )
    )
    assert effects(instance) == [Started("a.0", "a", "work", None, {"n": 2}, None)]
    answer = Event("progress", 9, invokeid="a.0")
    assert handle(instance, answer)
    assert instance.data["seen"] == 9
    assert effects(instance) == [Forwarded("a.0", answer)]
    send(instance, "out")
    # Every external event is handed on before it is acted upon.
    assert [type(effect) for effect in effects(instance)] == [Forwarded, Stopped]
    assert not instance.activities


def test_an_activity_is_resumed_only_where_a_history_led_back() -> None:
    instance = begin(
        chart(
            S(
                "a",
                states=(
                    S("h", Kind.DEEP_HISTORY),
                    S("a1", transitions=(T("next", ("a2",)),)),
                    S("a2", states=(S("a21", activities=(Activity(type="work"),)),)),
                ),
                transitions=(T("out", ("b",)),),
            ),
            S("b", transitions=(T("back", ("h",)), T("anew", ("a2",)))),
        )
    )

    def resumed() -> list[bool]:
        return [effect.resumed for effect in effects(instance) if isinstance(effect, Started)]

    send(instance, "next")
    assert resumed() == [False]
    send(instance, "out", "back")
    assert resumed() == [True]
    send(instance, "out", "anew")
    assert resumed() == [False]


def test_ids_follow_from_the_instance_and_the_step_so_that_a_replay_makes_the_same() -> None:
    compiled = chart(
        S("off", transitions=(T("on", ("p",)),)),
        S(
            "p",
            Kind.PARALLEL,
            states=(
                S("x", activities=(Activity(type="one"), Activity(type="two"))),
                S("y", activities=(Activity(type="three"),)),
            ),
            transitions=(T("on", ("p",)),),
        ),
    )

    def run() -> list[str]:
        instance = begin(compiled)
        send(instance, "on", "on")
        return [effect.id for effect in effects(instance) if isinstance(effect, Started)]

    assert run() == ["x.1", "x.1.2", "y.1", "x.2", "x.2.2", "y.2"]
    assert run() == run()


def test_time_events_are_armed_on_entry_and_taken_back_on_exit() -> None:
    instance = begin(
        chart(
            S("a", transitions=(T(after="1.5s", to=("b",)), T(after="=n * 2", to=("c",)), T("e", ("c",)))),
            S("b"),
            S("c"),
            root={"variables": (Variable("n", value=4),), "transitions": (T(after=60, to=("c",)),)},
        )
    )
    names = ("after.test.0", "after.a.0", "after.a.1")
    assert effects(instance) == [
        Sent(name, None, delay, name, None) for name, delay in zip(names, (60.0, 1.5, 8.0), strict=True)
    ]
    assert send(instance, "after.a.0")
    assert instance.configuration == ("b",)
    assert sorted(e.id for e in effects(instance) if isinstance(e, Cancelled)) == ["after.a.0", "after.a.1"]


def test_a_change_event_happens_when_its_expression_becomes_true_and_not_again_until_it_was_false() -> None:
    instance = begin(
        chart(
            S(
                "a",
                transitions=(
                    T("set", do=(Assign("n", "result"),)),
                    T(when="n > 3", do=(Log("high"),)),
                    T("again", ("a",)),
                ),
            ),
            root={"variables": (Variable("n", value=0),)},
        )
    )
    assert not observe(instance)
    send(instance, "set", data=4)
    assert observe(instance)
    assert not observe(instance)
    send(instance, "set", data=1)
    assert not observe(instance)
    send(instance, "set", data=9)
    assert observe(instance)
    send(instance, "again")
    assert observe(instance)  # what is true already when the state is entered has become true
    assert logs(instance) == ["high"] * 3


def test_cancelling_exits_everything_and_stops_what_goes_on() -> None:
    instance = begin(chart(telling("a", telling("a1"), activities=(Activity(type="work", id="w"),))))
    effects(instance)
    cancel(instance)
    assert effects(instance) == [Logged("-a1", None), Logged("-a", None), Stopped("w", "a"), Ended(None, None)]
    cancel(instance)
    assert effects(instance) == []


def test_sends_carry_what_was_said_and_reach_only_what_can_be_reached() -> None:
    compiled = chart(
        S(
            "a",
            transitions=(
                T("e", do=(Send("ping", target="#_peer", parameters=(("n", "1"),), id="s", delay="2s"), Cancel("s"))),
                T("inside", do=(Send("inner", target="#_internal"),)),
                T("inner", ("b",)),
            ),
        ),
        S("b"),
        errors="event",
    )
    instance = begin(compiled)
    send(instance, "e")
    assert effects(instance) == [Sent("ping", "#_peer", 2.0, "s", {"n": 1}), Cancelled("s")]
    instance.runtime.reachable = lambda _, target: target != "#_peer"
    instance.runtime.steps = []
    send(instance, "e")
    assert [cause.name for cause, _ in instance.runtime.steps if cause] == ["e"]
    assert effects(instance) == []
    send(instance, "inside")
    assert instance.configuration == ("b",)


@given(st.lists(st.sampled_from(["back", "next", "out", "in", "job", "free", "stay", "none"]), max_size=30))
def test_the_short_way_through_a_step_leads_where_the_long_one_does(names: list[str]) -> None:
    for compiled in (nested(), deferring()):
        short, long = begin(compiled), begin(compiled)
        long.runtime.steps = []
        for name in names:
            assert send(short, name) == send(long, name)
            assert repr(image(short)) == repr(image(long))
            assert short.mask == short.node.mask
        assert effects(short) == effects(long)


# The chart itself


def test_everything_that_is_wrong_is_told_at_once_with_its_place() -> None:
    with pytest.raises(DefinitionError) as refused:
        chart(
            S(
                "a",
                transitions=(
                    T("e", ("bb",)),
                    T("f", ("b",), "1 +"),
                    T("g", ("b", "b1")),
                    T("h", ("b",), kind="internal"),
                ),
            ),
            S("b", states=(S("b1"), S("a"))),
            S("p", Kind.PARALLEL),
            S("f", Kind.FINAL, transitions=(T("x", ("b",)),)),
            S("late", transitions=(T(after="soon", to=("b",)),)),
            initial=("nowhere",),
            root={"variables": (Variable("n", value="one", type="integer"),)},
        )
    text = "\n".join(refused.value.problems)
    for part in (
        "'a' is there twice",
        "'bb', which is no state; did you mean 'b'?",
        "transition a -> b on f",
        "'b' and 'b1', which are never active together",
        "make it local",
        "'p': a parallel state needs states",
        "nothing leads out of a final state",
        "soon",
        "'nowhere', which is no state",
        "variable 'n' begins with a value of another type",
    ):
        assert part in text, part


def test_a_configuration_is_legal_or_refused_with_the_reason() -> None:
    compiled = nested()
    mask = compiled.configuration(["x1", "y22"])
    assert compiled.node(mask).names == ("p", "x", "x1", "y", "y2", "y22")
    for names, why in (
        (["x1"], "every region"),
        (["off", "x1", "y1"], "exactly one"),
        (["nowhere"], "no state 'nowhere'"),
        (["deep"], "never active"),
        ([], "exactly one"),
    ):
        with pytest.raises(DefinitionError, match=why):
            compiled.configuration(names)


def test_the_hash_is_of_the_contents() -> None:
    assert nested().hash == nested().hash
    assert nested().hash != deferring().hash
    assert len(nested().hash) == 16


def test_made_up_events_do_not_make_the_chart_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "SELECTIONS", 100)
    instance = begin(chart(S("a", transitions=(T("*", ("b",)),)), S("b")))
    for number in range(1_000):
        send(instance, f"made.up.{number}")
    assert sum(len(node.select) for node in instance.chart._nodes.values()) <= 100


def test_plans_and_configurations_are_bounded_and_nothing_changes_when_they_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine_module, "PLANS", 3)
    monkeypatch.setattr(machine_module, "NODES", 3)
    instance = begin(nested())
    send(instance, "back", "next", "out", "in", "next", "next", "out", "back")
    assert instance.configuration == ("p", "x", "x2", "x22", "y", "y2", "y22")


def test_a_bare_instance_takes_two_hundred_bytes_at_most() -> None:
    instance = begin(chart(S("a"), S("b")))
    assert sys.getsizeof(instance) <= 200
    assert not hasattr(instance, "__dict__")
    assert instance.data is begin(instance.chart).data


# Exchange of charts


def before_and_after(*more: State, **changes: Any) -> tuple[Instance, Chart]:
    def made(*states: State, n: Any = 1, kind: str = "any", extra: tuple[Variable, ...] = ()) -> Chart:
        return chart(*states, root={"variables": (Variable("n", value=n, type=kind), *extra)})

    old = made(
        S(
            "a",
            states=(S("h", Kind.HISTORY), S("a1", transitions=(T("next", ("a2",)),)), S("a2")),
            transitions=(T("out", ("b",)),),
        ),
        S("b", activities=(Activity(type="work"),), defer=("later",)),
    )
    instance = begin(old)
    send(instance, "next", "out", "later")
    return instance, made(*more, **changes)


A = S("a", states=(S("h", Kind.HISTORY), S("a2"), S("a1"), S("a3")))
B = S("b", activities=(Activity(type="work"),), defer=("later",), transitions=(T("back", ("h",)),))


def test_a_chart_is_exchanged_under_way_and_everything_is_where_it_was() -> None:
    instance, other = before_and_after(S("new"), B, A, extra=(Variable("fresh", expression="n + 1"),))
    before = repr(image(instance))
    turned = modified(instance, other)

    assert turned.configuration == ("b",)
    assert turned.data == {"n": 1, "fresh": 2}
    assert [event.name for event in turned.deferred] == ["later"]
    assert list(turned.activities or ()) == list(instance.activities or ())
    assert repr(image(instance)) == before
    send(turned, "back")
    assert turned.node.names == ("a", "a2")


@pytest.mark.parametrize(
    ("states", "changes", "reason"),
    [
        ((A,), {}, "'b' is active, and missing"),
        ((A, S("b", Kind.FINAL)), {}, "another kind"),
        ((S("a", states=(S("h", Kind.HISTORY), S("a1"))), B), {}, "'a2' is remembered by 'h', and missing"),
        ((A, S("b", defer=("later",))), {}, "activity 'b.2' of state 'b'"),
        ((A, S("b", activities=(Activity(type="work"),))), {}, "'later' waits"),
        ((A, B), {"kind": "string", "n": "x"}, "variable 'n'"),
        ((A, B), {"extra": (Variable("z", expression="1 / (n - 1)"),)}, "variable 'z'"),
        ((S("around", states=(A, B)),), {}, "not entered"),
    ],
)
def test_an_exchange_that_is_not_safe_is_refused_and_changes_nothing(
    states: tuple[State, ...], changes: dict[str, Any], reason: str
) -> None:
    instance, other = before_and_after(*states, **changes)
    before = repr(image(instance))
    with pytest.raises(UnsafeModification) as refused:
        modified(instance, other)
    assert reason in str(refused.value)
    assert repr(image(instance)) == before


# The machine


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_events_sent_from_actions_wait_until_the_step_is_over() -> None:
    machines: list[Machine] = []
    answers: list[object] = []

    def re_enter(scope: Scope) -> None:
        answers.append(machines[0].send("next"))
        answers.append(machines[0].configuration)

    machine = Machine(
        Definition(
            "m",
            S(
                states=(
                    S("a", transitions=(T("go", ("b",), do=(Call(re_enter),)),)),
                    S("b", transitions=(T("next", ("c",)),)),
                    S("c"),
                )
            ),
        )
    ).start()
    machines.append(machine)
    assert machine.send("go")
    assert answers == [None, ("a",)]
    assert machine.configuration == ("c",)


def test_the_more_urgent_of_the_waiting_events_comes_first_and_a_cancelled_one_never() -> None:
    machines: list[Machine] = []

    def several(scope: Scope) -> None:
        machines[0].send("low", priority=Priority.LOW)
        machines[0].send("normal")
        machines[0].send("gone", id="g")
        machines[0].send("high", priority=Priority.HIGH)
        assert machines[0].cancel("g")
        assert not machines[0].cancel("g")

    told: list[str] = []
    machine = Machine(
        Definition(
            "m",
            S(states=(S("a", transitions=(T("go", do=(Call(several),)), T("*", do=(Log("got", "_event.name"),)))),)),
        ),
        outside=lambda effect: told.append(effect.value) if isinstance(effect, Logged) else None,
    ).start()
    machines.append(machine)
    machine.send("go")
    assert told == ["high", "normal", "low"]


def test_a_machine_keeps_time_and_forgets_what_was_left() -> None:
    clock = Clock()
    machine = Machine(
        chart(
            S("a", transitions=(T(after="5s", to=("b",)), T("quick", ("c",)))),
            S("b", transitions=(T("ring", ("a",)),)),
            S("c", transitions=(T(after="1s", to=("a",)),)),
        ),
        clock=clock,
    ).start()
    assert machine.advance() == 5.0
    machine.send("quick")
    assert machine.advance() == 1.0
    clock.now += 60
    assert machine.advance() == 5.0
    assert machine.configuration == ("a",)
    clock.now += 5
    assert machine.advance() is None
    assert machine.configuration == ("b",)
    machine.send("ring", delay=3, id="bell")
    assert machine.cancel("bell")
    assert machine.advance() is None


def test_a_time_event_that_is_due_is_not_delivered_when_another_one_left_its_state() -> None:
    clock = Clock()
    machine = Machine(
        chart(S("a", transitions=(T(after=1, to=("b",)), T(after=1, to=("c",)))), S("b"), S("c")), clock=clock
    ).start()
    clock.now += 1
    machine.advance()
    assert machine.configuration == ("b",)


def test_change_events_follow_the_step_that_made_them_true() -> None:
    machine = Machine(
        chart(
            S("a", transitions=(T("set", do=(Assign("n", "result"),)), T(when="n > 3", to=("b",)))),
            S("b", transitions=(T(when="n > 5", to=("c",)),)),
            S("c"),
            root={"variables": (Variable("n", value=0),)},
        )
    ).start()
    machine.send("set", 4)
    assert machine.configuration == ("b",)
    machine = Machine(machine.chart).start(n=6)
    assert machine.configuration == ("c",)


def test_a_machine_tells_its_hooks_its_monitor_its_fault_and_its_end() -> None:
    hooks = Hooks()
    seen: list[tuple[str, str | None]] = []

    def listener(point: str) -> Callable[[Mapping[str, Any]], None]:
        return lambda known: seen.append((point, known.get("state")))

    for point in ("entered", "exited", "faulted", "ended"):
        hooks.add(point, listener(point))

    def note(known: Any) -> None:
        raise RuntimeError("a hook's failure is its own")

    hooks.add("before_event", note)
    machine = Machine(
        chart(S("a", transitions=(T("bad", ("end",), "1 / 0 > 1"), T("end", ("end",)))), S("end", Kind.FINAL)),
        hooks=hooks,
        monitor=Monitor(),
    ).start()
    assert not machine.send("bad")
    assert machine.fault is not None
    assert machine.why_not("end")
    assert machine.explain()
    assert machine.send("end")
    assert machine.done
    assert seen == [("entered", "a"), ("faulted", None), ("exited", "a"), ("entered", "end"), ("ended", None)]
    assert machine.fault is None


def test_a_machine_that_sends_to_itself_for_ever_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("x0tta6bl4.statechart.runtime.machine.MICROSTEPS", 20)
    machine = Machine(chart(S("a", transitions=(T("tick", do=(Send("tick"),)),)))).start()
    with pytest.raises(EndlessLoop):
        machine.send("tick")


def test_a_machine_survives_being_written_down() -> None:
    clock = Clock()
    compiled = chart(
        S("a", transitions=(T("go", ("b",)),), defer=("late",)),
        S("b", transitions=(T(after="5s", to=("c",)), T("late", do=(Assign("n", "n + 1"),)))),
        S("c"),
        root={"variables": (Variable("n", value=0),)},
    )
    machine = Machine(compiled, clock=clock, wall=lambda: 1000.0).start()
    machine.send("late")
    other = Machine(compiled, clock=clock, wall=lambda: 1002.0).restore(machine.snapshot())
    other.send("go")
    assert dict(other.data) == {"n": 1}
    third = Machine(compiled, clock=clock, wall=lambda: 1004.0).restore(other.snapshot())
    assert third.advance() == 3.0
    clock.now += 3
    third.advance()
    assert third.configuration == ("c",)


def test_a_machine_is_modified_as_a_whole_or_not_at_all() -> None:
    clock = Clock()
    old = chart(S("a", transitions=(T(after="5s", to=("b",)),)), S("b"))
    better = chart(S("a", transitions=(T("go", ("b",)), T(after="7s", to=("b",)))), S("b"))
    machine = Machine(old, clock=clock).start()
    machine.modify(better)
    # The old time event is no more; the new one began when the chart was exchanged.
    assert machine.advance() == 7.0
    with pytest.raises(UnsafeModification):
        machine.modify(chart(S("b")))
    with pytest.raises(UnsafeModification, match="does not hold"):
        machine.modify(chart(S("a", invariants=("1 == 2",)), S("b")))
    assert machine.chart is better
    assert machine.send("go")


def test_a_modified_machine_takes_what_the_new_chart_lets_it_take_at_once() -> None:
    machine = Machine(chart(S("a"), S("b"))).start()
    machine.modify(chart(S("a", transitions=(T("", ("b",)),)), S("b")))
    assert machine.configuration == ("b",)


def test_a_machine_that_was_not_started_takes_no_events() -> None:
    with pytest.raises(RuntimeError, match="was not started"):
        Machine(nested()).send("in")


# The five-state machine


@pytest.mark.parametrize("here", list(STARK))
@pytest.mark.parametrize("there", [*STARK, "nowhere"])
@pytest.mark.parametrize("force", [False, True])
def test_the_five_state_chart_moves_as_the_daemons_own_machine_does(here: str, there: str, force: bool) -> None:
    machine = Machine(stark_chart()).start()
    if here != "idle":
        assert machine.send("$force", {"to": here, "reason": "test", "who": "operator"})
    mirror = lifecycle.StateMachine(lifecycle.State(here))
    data = {"to": there, "reason": "drill", "who": "operator"}
    moved = machine.send("$force", data) if force else machine.send(f"go.{there}")
    if there == "nowhere":
        assert not moved
    else:
        assert moved == mirror.transition_to(lifecycle.State(there), force=force)
    assert machine.configuration == (mirror.current_state.value,)


def test_nobody_forces_without_saying_who() -> None:
    machine = Machine(stark_chart()).start()
    assert not machine.send("$force", {"to": "error"})
    assert not machine.send("$force")
    assert machine.configuration == ("idle",)


def test_the_example_of_the_package_is_true() -> None:
    result = doctest.testmod(package, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 5
    assert result.failed == 0


def test_every_public_name_is_there() -> None:
    found: dict[str, Callable[..., Any]] = {name: getattr(package, name) for name in package.__all__}
    assert all(found.values())
    with pytest.raises(AttributeError):
        _ = package.nothing_of_this_name


def test_one_target_may_be_written_as_a_text() -> None:
    door = State(
        states=(State("closed", transitions=(Transition("open", "opened"),)), State("opened")),  # type: ignore[arg-type]  # as people write it
        initial="closed",  # type: ignore[arg-type]  # the same
    )
    machine = Machine(Definition("door", door))
    machine.start()

    assert machine.send("open") and machine.configuration == ("opened",)
