"""Choices, junctions, forks, joins, entries, exits and terminate states, as UML means them."""

from typing import Any

import pytest

from x0tta6bl4.statechart.core.effect import Effect, Ended, Faulted, Logged, Started, Stopped
from x0tta6bl4.statechart.core.event import Event
from x0tta6bl4.statechart.core.machine import Chart, Instance
from x0tta6bl4.statechart.core.state import Definition, Kind, State, Variable
from x0tta6bl4.statechart.core.tables import DefinitionError
from x0tta6bl4.statechart.core.transition import Activity, Assign, Call, Log, Raise, Scope, Transition
from x0tta6bl4.statechart.runtime.executor import Runtime, handle, new, start

T, S = Transition, State


def chart(*states: State, initial: tuple[str, ...] = (), **data: Any) -> Chart:
    variables = tuple(Variable(name, value=value) for name, value in data.items())
    return Chart(Definition("test", State(states=states, initial=initial, variables=variables)))


def begin(chart: Chart) -> Instance:
    instance = new(chart, "i", Runtime())
    start(instance)
    return instance


def effects(instance: Instance) -> list[Effect]:
    found = instance.runtime.effects[:]
    instance.runtime.effects.clear()
    return found


def send(instance: Instance, *names: str, data: Any = None) -> bool:
    taken = False
    for name in names:
        taken = handle(instance, Event(name, data))
    return taken


def logs(instance: Instance) -> list[str]:
    return [effect.label for effect in effects(instance) if isinstance(effect, Logged)]


def log(text: str) -> tuple[Log, ...]:
    return (Log(text),)


def telling(id: str, *states: State, **more: Any) -> State:
    return State(id, states=states, entry=(log(f"+{id}"),), exit=(log(f"-{id}"),), **more)


def refused(*states: State) -> str:
    with pytest.raises(DefinitionError) as error:
        chart(*states)
    return "\n".join(error.value.problems)


# Choice and junction


def deciding(kind: Kind) -> Chart:
    return chart(
        telling("a", transitions=(T("go", ("c",), do=(Assign("n", "n + 1"),)),)),
        S("c", kind, transitions=(T(to=("much",), guard="n > 1", do=log("much")), T(to=("little",), do=log("little")))),
        telling("much"),
        telling("little", transitions=(T("back", ("a",)),)),
        n=1,
    )


def test_a_choice_decides_after_what_was_done_on_the_way() -> None:
    instance = begin(deciding(Kind.CHOICE))
    effects(instance)
    send(instance, "go")
    assert logs(instance) == ["-a", "much", "+much"]


def test_a_junction_decides_before_anything_is_done() -> None:
    instance = begin(deciding(Kind.JUNCTION))
    effects(instance)
    send(instance, "go")
    assert logs(instance) == ["-a", "little", "+little"]
    send(instance, "back", "go")
    assert instance.configuration == ("much",)


def test_a_transition_through_junctions_is_not_taken_when_no_way_is_open() -> None:
    instance = begin(
        chart(
            telling(
                "a",
                transitions=(T("go", ("j",), "n > 0", do=log("first")), T("go", ("other",))),
            ),
            S("j", Kind.JUNCTION, transitions=(T(to=("k",), guard="n > 1", do=log("second")),)),
            S("k", Kind.JUNCTION, transitions=(T(to=("b",), guard="n > 2", do=log("third")),)),
            S("b"),
            S("other", transitions=(T("back", ("a",)), T("set", do=(Assign("n", "result"),)))),
            n=2,
        )
    )
    effects(instance)
    send(instance, "go")
    assert instance.configuration == ("other",)
    assert logs(instance) == ["-a"]
    send(instance, "set", data=3)
    send(instance, "back", "go")
    assert instance.configuration == ("b",)
    assert logs(instance) == ["+a", "-a", "first", "second", "third"]


def test_several_transitions_share_a_junction() -> None:
    shared = chart(
        S("a", transitions=(T("x", ("j",)),)),
        S("b", transitions=(T("y", ("j",)),)),
        S("j", Kind.JUNCTION, transitions=(T(to=("end",)),)),
        S("end"),
        S("c", transitions=(T("z", ("b",)),)),
        initial=("c",),
    )
    instance = begin(shared)
    send(instance, "z", "y")
    assert instance.configuration == ("end",)


def test_a_choice_may_be_a_states_beginning_and_chain_to_another() -> None:
    instance = begin(
        chart(
            S("one", Kind.CHOICE, transitions=(T(to=("two",), guard="n > 0"), T(to=("never",)))),
            S("two", Kind.CHOICE, transitions=(T(to=("never",), guard="n > 1"), T(to=("there",)))),
            S("there"),
            S("never"),
            n=1,
        )
    )
    assert instance.configuration == ("there",)


def test_a_failing_guard_of_a_choice_takes_everything_back() -> None:
    instance = begin(
        chart(
            S("a", transitions=(T("go", ("c",), do=(Assign("n", "7"),)),)),
            S("c", Kind.CHOICE, transitions=(T(to=("b",), guard="1 / (n - 7) > 0"), T(to=("a",)))),
            S("b"),
            n=1,
        )
    )
    assert not send(instance, "go")
    assert (instance.configuration, instance.data) == (("a",), {"n": 1})
    assert [type(effect) for effect in effects(instance)] == [Faulted]


def test_choices_and_junctions_without_a_way_on_are_refused() -> None:
    a = S("a", transitions=(T("go", ("c",)),))
    assert "must have a way out" in refused(a, S("c", Kind.CHOICE, transitions=(T(to=("a",), guard="1 > 2"),)))
    assert "waits for nothing" in refused(a, S("c", Kind.CHOICE, transitions=(T("e", ("a",)), T(to=("a",)))))
    assert "must lead somewhere" in refused(a, S("c", Kind.JUNCTION))
    assert "leads back to itself" in refused(
        a, S("c", Kind.JUNCTION, transitions=(T(to=("d",)),)), S("d", Kind.JUNCTION, transitions=(T(to=("c",)),))
    )
    assert "use a choice" in refused(
        S("a", states=(S("j", Kind.JUNCTION, transitions=(T(to=("b",)),)), S("b")), initial=("j",))
    )


def test_ways_through_junctions_are_bounded() -> None:
    states = [S("a", transitions=(T("go", ("j0",)),))]
    for k in range(12):
        following = (f"j{k + 1}",) if k < 11 else ("b",)
        states.append(S(f"j{k}", Kind.JUNCTION, transitions=(T(to=following, guard="1 > 0"), T(to=following))))
    assert "use choices" in refused(*states, S("b"))


# Fork and join


def forked(*more: Transition) -> Chart:
    def region(name: str) -> State:
        return telling(
            name,
            S(f"{name}1"),
            telling(f"{name}2", transitions=(T(f"on.{name}", (f"{name}3",)),)),
            telling(
                f"{name}3", transitions=(T(to=("join",), do=log(f"from {name}")), T(f"redo.{name}", (f"{name}2",)))
            ),
        )

    return chart(
        S("a", transitions=(T("go", ("fork",), do=log("go")),)),
        S("fork", Kind.JUNCTION, transitions=(T(to=("x2", "y2"), do=log("fork")),)),
        telling("p", region("x"), region("y"), kind=Kind.PARALLEL),
        S("join", Kind.JOIN, transitions=more or (T(to=("end",), do=log("join")),)),
        telling("end"),
        n=0,
    )


def test_a_fork_enters_the_named_states_of_its_regions() -> None:
    instance = begin(forked())
    send(instance, "go")
    assert instance.configuration == ("p", "x", "x2", "y", "y2")
    assert logs(instance) == ["go", "fork", "+p", "+x", "+x2", "+y", "+y2"]


def test_a_join_waits_for_all_of_its_sources_and_does_what_each_way_to_it_says() -> None:
    instance = begin(forked())
    send(instance, "go", "on.y")
    assert instance.configuration == ("p", "x", "x2", "y", "y3")
    effects(instance)
    send(instance, "on.x")
    assert instance.configuration == ("end",)
    assert logs(instance) == ["-x2", "+x3", "-y3", "-y", "-x3", "-x", "-p", "from x", "from y", "join", "+end"]


def test_a_join_that_is_guarded_waits_for_its_guard_too() -> None:
    instance = begin(forked(T(to=("end",), guard="n > 0")))
    send(instance, "go", "on.y", "on.x")
    assert instance.configuration == ("p", "x", "x3", "y", "y3")
    send(instance, "redo.x")
    assert instance.is_in("x2")


def test_what_cannot_be_forked_or_joined_is_refused() -> None:
    two = S("p", Kind.PARALLEL, states=(S("x", states=(S("x1"), S("x2"))), S("y", states=(S("y1"), S("y2")))))
    assert "never active together" in refused(S("a", transitions=(T("e", ("x1", "x2")),)), two)
    assert "never active together" in refused(S("a", transitions=(T("e", ("p", "x1")),)), two)
    one_way = S("x", transitions=(T(to=("j",)),))
    assert "two or more regions" in refused(one_way, S("j", Kind.JOIN, transitions=(T(to=("x",)),)))
    waiting = S("x", transitions=(T("e", ("j",)),))
    assert "has no event, guard" in refused(waiting, S("y", transitions=(T(to=("j",)),)), S("j", Kind.JOIN))


# Entry and exit


def bordered() -> Chart:
    return chart(
        telling("out", transitions=(T("in", ("door",), do=log("in")), T("plain", ("house",)))),
        telling(
            "house",
            S("door", Kind.ENTRY, transitions=(T(to=("kitchen",), do=log("through the door")),)),
            telling("hall"),
            telling("kitchen", transitions=(T("leave", ("back",), do=log("leave")), T("again", ("door",)))),
            S(
                "back",
                Kind.EXIT,
                transitions=(T(to=("shed",), guard="n > 0", do=log("shed")), T(to=("out",), do=log("out"))),
            ),
            transitions=(T("anew", ("door",), kind="local"),),
        ),
        telling("shed"),
        n=0,
    )


def test_an_entry_enters_its_parent_then_does_its_own_then_goes_on() -> None:
    instance = begin(bordered())
    effects(instance)
    send(instance, "in")
    assert logs(instance) == ["-out", "in", "+house", "through the door", "+kitchen"]
    # It never remembers: it leads to the same place again.
    assert instance.configuration == ("house", "kitchen")
    assert instance.history == ()


def test_an_entry_of_a_state_that_stays_active_still_does_its_own() -> None:
    instance = begin(bordered())
    send(instance, "plain")
    effects(instance)
    send(instance, "anew")
    assert logs(instance) == ["-hall", "through the door", "+kitchen"]


def test_an_exit_leaves_its_parent_by_the_way_that_is_open() -> None:
    instance = begin(bordered())
    send(instance, "in")
    effects(instance)
    send(instance, "leave")
    assert logs(instance) == ["-kitchen", "-house", "leave", "out", "+out"]


def test_entries_and_exits_that_lead_to_the_wrong_side_are_refused() -> None:
    assert "not inside 'a'" in refused(
        S("a", states=(S("e", Kind.ENTRY, transitions=(T(to=("b",)),)), S("a1"))), S("b")
    )
    assert "exactly one transition" in refused(S("a", states=(S("e", Kind.ENTRY), S("a1"))))
    assert "is inside it" in refused(
        S("a", states=(S("e", Kind.EXIT, transitions=(T(to=("a1",)),)), S("a1", transitions=(T("x", ("e",)),))))
    )


def test_a_history_may_begin_with_an_entry() -> None:
    instance = begin(
        chart(
            S("off", transitions=(T("in", ("h",)),)),
            S(
                "a",
                states=(
                    S("h", Kind.HISTORY, transitions=(T(to=("e",), do=log("first")),)),
                    S("e", Kind.ENTRY, transitions=(T(to=("a2",), do=log("entry")),)),
                    S("a1"),
                    S("a2", transitions=(T("next", ("a3",)),)),
                    S("a3"),
                ),
                transitions=(T("out", ("off",)),),
            ),
        )
    )
    send(instance, "in")
    assert instance.configuration == ("a", "a2")
    assert logs(instance) == ["first", "entry"]
    send(instance, "next", "out", "in")
    assert instance.configuration == ("a", "a3")
    assert logs(instance) == []


# Terminate


def test_terminate_ends_on_the_spot_without_exits_and_what_waits_is_dropped() -> None:
    instance = begin(
        chart(
            telling(
                "p",
                telling(
                    "x", S("x1", transitions=(T("kill", ("gone",), do=(Raise("never"),)),)), S("gone", Kind.TERMINATE)
                ),
                telling("y", S("y1", transitions=(T("never", do=log("never")),))),
                kind=Kind.PARALLEL,
                activities=(Activity(type="work", id="w"),),
            ),
            S("b"),
        )
    )
    assert Started("w", "p", "work", None, {}, None) in effects(instance)
    send(instance, "kill")
    # Nothing is exited; but what went on outside has lost the one it worked for, and is told so.
    assert effects(instance) == [Stopped("w", "p"), Ended("gone", None)]
    assert not instance.running
    assert not send(instance, "never")


def test_nothing_is_entered_after_a_terminate_state() -> None:
    instance = begin(
        chart(
            S("a", transitions=(T("go", ("gone", "y2")),)),
            telling(
                "p",
                telling("x", S("x1"), S("gone", Kind.TERMINATE, entry=(log("last"),))),
                telling("y", S("y1"), telling("y2")),
                kind=Kind.PARALLEL,
            ),
        )
    )
    send(instance, "go")
    assert logs(instance) == ["+p", "+x", "last"]
    assert not instance.running


# Together


def test_a_choice_in_one_region_does_not_hold_up_another() -> None:
    def count(scope: Scope) -> None:
        scope.data["n"] += 1

    instance = begin(
        chart(
            S(
                "p",
                Kind.PARALLEL,
                states=(
                    S(
                        "x",
                        states=(
                            S("x1", transitions=(T("go", ("c",), do=(Call(count),)),)),
                            S("c", Kind.CHOICE, transitions=(T(to=("x2",), guard="n == 2"), T(to=("x3",)))),
                            S("x2"),
                            S("x3"),
                        ),
                    ),
                    S("y", states=(S("y1", transitions=(T("go", ("y2",), do=(Call(count),)),)), S("y2"))),
                ),
            ),
            n=0,
        )
    )
    send(instance, "go")
    assert instance.configuration == ("p", "x", "x2", "y", "y2")
