"""Instances move to a newer version of their chart: planned for every state they can be in, then one by one."""

from dataclasses import replace
from typing import Any

import pytest
from test_statechart_validator import link_loss

from x0tta6bl4.statechart.core.content import Runtime
from x0tta6bl4.statechart.core.effect import Sent, Started
from x0tta6bl4.statechart.core.event import Event
from x0tta6bl4.statechart.core.machine import Chart, Instance
from x0tta6bl4.statechart.core.state import Definition, Kind, State, Variable
from x0tta6bl4.statechart.core.transition import Activity, Log, Transition
from x0tta6bl4.statechart.persistence.migrate import (
    Migration,
    MigrationRefused,
    apply,
    migration_from_json,
    moved_timers,
    plan,
)
from x0tta6bl4.statechart.persistence.model import reachable
from x0tta6bl4.statechart.persistence.serializer import Restorer, encode, snapshot
from x0tta6bl4.statechart.runtime.executor import handle, new, observe, start


def chart(version: str, *states: State, **root: Any) -> Chart:
    return Chart(Definition("book", State(states=states, **root), version))


def begun(of: Chart, *events: str) -> Instance:
    instance = new(of, "i-1", Runtime())
    start(instance)
    for name in events:
        instance.seq += 1
        handle(instance, Event(name))
    instance.runtime.effects.clear()
    return instance


def to(event: str, *targets: str) -> Transition:
    return Transition(event, targets)


def act(name: str, *transitions: Transition, **keys: Any) -> State:
    return State(name, transitions=transitions, activities=(Activity("act"),), **keys)


END = State("end", Kind.FINAL)
OLD = chart("1", act("look", to("go", "mend")), act("mend", to("go", "end"), to("back", "look")), END)
SPLIT = chart(
    "2",
    act("look", to("go", "mend")),
    State(
        "mend",
        states=(act("stop", to("go", "begin")), act("begin", to("go", "end"))),
        transitions=(to("back", "look"),),
    ),
    END,
)
RENAME = Migration("2", "1", states={"mend": ("stop",)})


def test_a_plan_without_problems_lets_every_instance_go():
    assert () == plan(OLD, SPLIT, RENAME)


def test_an_instance_goes_on_where_its_state_went_and_its_activity_keeps_its_id():
    old = begun(OLD, "go")
    before = encode(old)

    moved = apply(old, SPLIT, RENAME, Runtime())

    assert ("mend", "stop") == moved.configuration
    assert {"mend.1": ["stop", 0]} == snapshot(moved)["activities"]
    assert before == encode(old)
    assert [] == moved.runtime.effects
    assert moved.dirty
    moved.seq += 1
    handle(moved, Event("go"))
    assert moved.is_in("begin")


def test_an_empty_migration_is_enough_where_all_states_are_still_there():
    wider = chart("2", *OLD.definition.root.states, State("more"))

    assert () == plan(OLD, wider, Migration("2"))
    assert ("mend",) == apply(begun(OLD, "go"), wider, Migration("2"), Runtime()).configuration


def test_every_configuration_without_a_place_is_told_with_the_shortest_way_there():
    problems = plan(OLD, SPLIT, Migration("2", "1"))

    assert [
        "migration: mend becomes mend, in which the new chart cannot be: "
        "of state 'mend' exactly one state is active, not none [go]",
        "migration: activity 0 of 'mend' may be running in state 'mend', and nothing that it becomes has the same [go]",
    ] == list(map(str, problems))


def test_a_state_that_is_gone_is_told():
    gone = chart("2", act("look"), END)

    assert [
        "migration: state 'mend' has no place in the new chart; say under 'states' where it goes [go]",
        "migration: activity 0 of 'mend' may be running in state 'mend', and nothing that it becomes has the same [go]",
    ] == list(map(str, plan(OLD, gone, Migration("2"))))
    with pytest.raises(MigrationRefused, match="state 'mend' has no place in the new chart"):
        apply(begun(OLD, "go"), gone, Migration("2"), Runtime())
    assert ("look",) == apply(begun(OLD), gone, Migration("2"), Runtime()).configuration


def test_a_running_activity_is_not_lost():
    other = chart("2", act("look", to("go", "mend")), State("mend", activities=(Activity("other"),)), END)
    told = "may be running in state 'mend', and nothing that it becomes has the same"

    assert [told in str(problem) for problem in plan(OLD, other, Migration("2"))] == [True]
    with pytest.raises(MigrationRefused, match=r"mend\.1 may be running in state 'mend'"):
        apply(begun(OLD, "go"), other, Migration("2"), Runtime())


def test_two_activities_do_not_become_one():
    both = State("both", Kind.PARALLEL, (act("left"), act("right")))
    one = chart("2", act("single"))
    migration = Migration("2", states={"left": ("single",), "right": ("single",)})

    assert ["activity 0 of 'right'" in str(problem) for problem in plan(chart("1", both), one, migration)] == [True]


@pytest.mark.parametrize(
    ("migration", "reason"),
    [
        (Migration("3"), "to: it leads to '3', the new chart is '2'"),
        (Migration("2", "0"), "from: it is for '0', this is '1'"),
        (Migration("2", from_hash="abc"), "from: it is for 'abc', this is '1'"),
        (Migration("2", states={"mned": ("stop",)}), "the old chart has no state 'mned'; did you mean 'mend'?"),
        (Migration("2", states={"mend": ("stpo",)}), "states.mend: the new chart has no state 'stpo'; did you mean"),
        (Migration("2", states={"mend": ()}), "states.mend: leads nowhere"),
        (Migration("2", states={"mend": ("stop",)}, drop=("x",)), "data.drop: the old chart has no variable 'x'"),
        (Migration("2", states={"mend": ("stop",)}, set={"x": "1"}), "data.set: the new chart has no variable 'x'"),
        (Migration("2", states={"mend": ("stop",)}, refuse_if="x"), "refuse_if: `x`: no variable is called 'x'"),
    ],
)  # fmt: skip
def test_a_migration_that_cannot_be_meant_is_refused_before_anything_is_looked_at(migration: Migration, reason: str):
    assert reason in "\n".join(map(str, plan(OLD, SPLIT, migration)))
    with pytest.raises(MigrationRefused) as refused:
        apply(begun(OLD), SPLIT, migration, Runtime())
    assert reason in str(refused.value)


def test_hashes_name_versions_too():
    migration = Migration(SPLIT.hash, from_hash=OLD.hash, states={"mend": ("stop",)})

    assert () == plan(OLD, SPLIT, migration)


def test_an_ended_instance_and_another_chart_are_refused():
    with pytest.raises(MigrationRefused, match="it has ended"):
        apply(begun(OLD, "go", "go"), SPLIT, RENAME, Runtime())
    with pytest.raises(MigrationRefused, match="chart 'book' cannot become 'other'"):
        apply(begun(OLD), Chart(Definition("other", OLD.definition.root, "2")), Migration("2"), Runtime())


# --- data ---

BEFORE = (Variable("tries", value=3, type="integer"), Variable("why", value="x"), Variable("note", value="n"))
AFTER = (
    Variable("tries", value=0, type="integer"),
    Variable("cause", value=""),
    Variable("most", expression="tries + 1"),
)


def versions() -> tuple[Chart, Chart]:
    a = State("a", variables=(Variable("own", value=1),), transitions=(to("go", "b"),))
    b = State("b", variables=(Variable("own", value=2), Variable("more", expression="own + 1")))
    return chart("1", a, State("b"), variables=BEFORE), chart("2", State("a"), b, variables=AFTER)


def test_variables_are_kept_set_dropped_and_begun():
    old, new_chart = versions()
    migration = Migration(
        "2", states={"a": ("b",), "b": ("a",)}, set={"cause": "why + '!' if In('a') else why"}, drop=("why", "note")
    )

    assert () == plan(old, new_chart, migration)
    moved = apply(begun(old), new_chart, migration, Runtime())

    assert {"tries": 3, "cause": "x!", "most": 4, "b.own": 1, "b.more": 2} == moved.data


def test_variables_of_states_that_are_not_active_stay_away():
    old, new_chart = versions()
    migration = Migration("2", states={"b": ("a",)}, drop=("why", "note", "a.own"))

    assert {"tries": 3, "cause": "", "most": 4} == apply(begun(old), new_chart, migration, Runtime()).data


def test_a_variable_that_is_gone_must_be_dropped_and_one_of_another_type_be_set():
    old, new_chart = versions()
    narrow = chart(
        "2", *old.definition.root.states, variables=(Variable("tries", value="", type="string"), *BEFORE[1:])
    )
    told = [str(problem) for problem in plan(old, new_chart, Migration("2", states={"a": ("b",)}, drop=("note",)))]

    assert ["data: the new chart has no variable 'why'; drop it"] == told
    assert ["data: 'tries' was integer and becomes string; set or drop it"] == [
        str(problem) for problem in plan(old, narrow, Migration("2"))
    ]
    assert "3" == apply(begun(old), narrow, Migration("2", set={"tries": "str(tries)"}), Runtime()).data["tries"]


def test_a_value_that_does_not_fit_its_new_type_is_refused():
    old = chart("1", State("a"), variables=(Variable("x", value="text"),))
    new_chart = chart("2", State("a"), variables=(Variable("x", value=1, type="integer"),))

    with pytest.raises(MigrationRefused, match="data: 'x' "):
        apply(begun(old), new_chart, Migration("2"), Runtime())


def test_an_expression_that_fails_leaves_the_instance_where_it_is():
    old = chart("1", State("a"), variables=(Variable("x", value=0),))
    newer = chart("2", State("a"), variables=(Variable("x", value=0),))

    with pytest.raises(MigrationRefused, match=r"data\.set\.x: "):
        apply(begun(old), newer, Migration("2", set={"x": "1 // x"}), Runtime())


def test_an_instance_stays_where_refuse_if_holds():
    migration = Migration("2", "1", states={"mend": ("stop",)}, refuse_if="In('mend')")

    assert ("look",) == apply(begun(OLD), SPLIT, migration, Runtime()).configuration
    with pytest.raises(MigrationRefused, match=r"refuse_if: `In\('mend'\)` holds"):
        apply(begun(OLD, "go"), SPLIT, migration, Runtime())


# --- history, regions, time ---


def test_what_a_history_remembers_moves_too():
    def book(version: str, *names: str) -> Chart:
        inner = tuple(State(name, transitions=(to("next", names[1]),)) for name in names)
        was = State("was", Kind.HISTORY, transitions=(to("", names[0]),))
        work = State("work", states=(*inner, was), transitions=(to("hold", "held"),))
        return chart(version, work, State("held", transitions=(to("resume", "was"),)))

    old, new_chart = book("1", "a", "b"), book("2", "a", "c")
    migration = Migration("2", states={"b": ("c",)})

    assert () == plan(old, new_chart, migration)
    moved = apply(begun(old, "next", "hold"), new_chart, migration, Runtime())
    handle(moved, Event("resume"))
    assert moved.is_in("c")
    told = [str(problem) for problem in plan(old, new_chart, Migration("2"))]
    assert [
        "migration: state 'b' has no place in the new chart; say under 'states' where it goes [next]",
        "migration: history 'was' remembers 'b', which has no place in the new chart [next -> hold]",
    ] == told


def test_a_state_may_become_states_of_several_regions():
    left = State("left", states=(State("l1"), State("l2")))
    both = State("both", Kind.PARALLEL, (left, State("right", states=(State("r1"),))))
    old, newer = chart("1", State("one")), chart("2", both)

    moved = apply(begun(old), newer, Migration("2", states={"one": ("l2", "r1")}), Runtime())

    assert ("both", "left", "l2", "right", "r1") == moved.configuration
    told = plan(old, newer, Migration("2", states={"one": ("l2",)}))
    assert ["every region is active; missing: right" in str(problem) for problem in told] == [True]


def test_a_composite_state_that_is_named_takes_what_is_inside_with_it():
    old = chart("1", State("work", states=(State("a", transitions=(to("next", "b"),)), State("b"))))

    assert () == plan(old, chart("2", State("done")), Migration("2", states={"work": ("done",)}))
    moved = apply(begun(old, "next"), chart("2", State("done")), Migration("2", states={"work": ("done",)}), Runtime())
    assert ("done",) == moved.configuration


def waiting(version: str, name: str, *more: Transition) -> Chart:
    state = State(name, transitions=(Transition(to=("end",), after="5m"), *more))
    return chart(version, state, END, transitions=(Transition(to=("end",), after="1h"),))


def test_timers_go_on_under_the_names_of_their_new_states_and_new_ones_begin():
    old, new_chart = waiting("1", "wait"), waiting("2", "rest", Transition(do=(Log("late"),), after="=60 * 2"))
    migration = Migration("2", states={"wait": ("rest",)})

    def row(name: str) -> dict[str, Any]:
        return {"instance": "i-1", "id": name, "at": 9.0, "remaining": 3.0, "event": {"name": name, "data": None}}

    moved = apply(begun(old), new_chart, migration, Runtime())

    assert [Sent("after.rest.1", None, 120.0, "after.rest.1", None)] == moved.runtime.effects
    rows = [row("after.wait.0"), row("after.book.0"), row("reminder"), row("after.wait.7")]
    kept = [row("after.rest.0"), row("after.book.0"), row("reminder"), row("after.wait.7")]
    assert kept == moved_timers(rows, old, new_chart, migration)


def test_a_timer_without_a_place_is_dropped():
    rows = [{"instance": "i-1", "id": "t", "at": 9.0, "remaining": 3.0, "event": {"name": "after.wait.0"}}]

    assert [] == moved_timers(rows, waiting("1", "wait"), chart("2", State("wait"), END), Migration("2"))


def test_a_condition_that_held_already_is_not_told_again():
    def book(version: str, name: str) -> Chart:
        state = State(name, transitions=(Transition(when="x > 0", do=(Log("held"),)),))
        return chart(version, state, variables=(Variable("x", value=1),))

    old = begun(book("1", "a"))
    observe(old)
    moved = apply(old, book("2", "b"), Migration("2", states={"a": ("b",)}), Runtime())
    observe(moved)

    assert [] == moved.runtime.effects


# --- a whole runbook ---


def test_every_configuration_of_a_runbook_can_be_moved_and_goes_on():
    old = Chart(link_loss())
    renamed = {"rekey": ("exchange_keys",), "held": ("paused",)}

    def rename(state: State) -> State:
        def name(old_name: str) -> str:
            return renamed.get(old_name, (old_name,))[0]

        moved = tuple(
            Transition(t.event.replace("rekey", "exchange_keys"), tuple(map(name, t.to)), t.guard, t.do, after=t.after)
            for t in state.transitions
        )
        return replace(state, id=name(state.id), states=tuple(map(rename, state.states)), transitions=moved)

    newer = Chart(Definition("link-loss", rename(old.definition.root), "2"))
    migration = Migration("2", "1", states=renamed)

    assert () == plan(old, newer, migration)
    restorer = Restorer(old, Runtime())
    blank = snapshot(begun(old))
    found, complete = reachable(old.definition)
    assert complete
    for configuration in found:
        plain = {
            **blank,
            "states": list(configuration.states),
            "history": {name: list(states) for name, states in configuration.history.items()},
            "activities": {f"{s}.1": [s, 0] for s in configuration.states if old.activities[old.ids[s]]},
        }
        moved = apply(restorer.restore(plain), newer, migration, Runtime())
        assert [renamed.get(s, (s,))[0] for s in configuration.states] == list(moved.configuration)
        if moved.is_in("paused"):
            handle(moved, Event("operator.resume"))
            started = [effect for effect in moved.runtime.effects if isinstance(effect, Started)]
            assert moved.is_in("work")
            assert all(effect.resumed for effect in started)


# --- as written ---


def test_a_migration_is_read_from_what_people_write():
    written = {
        "from": {"version": 3, "hash": "abc"},
        "to": 4,
        "states": {"a": "b", "c": ["d", "e"]},
        "data": {"set": {"x": "1"}, "drop": ["y"]},
        "refuse_if": "In('a')",
    }

    assert Migration(
        "4", "3", "abc", {"a": ("b",), "c": ("d", "e")}, {"x": "1"}, ("y",), "In('a')"
    ) == migration_from_json(written)
    assert Migration("4", "3") == migration_from_json({"from": 3, "to": "4"})


def test_all_mistakes_of_a_written_migration_are_told_at_once():
    with pytest.raises(MigrationRefused) as refused:
        migration_from_json(
            {"form": 1, "states": {"a": 1, "b": [2]}, "data": {"drop": "x", "sets": {}}, "refuse_if": 3}
        )

    assert [
        "migration: no such key: 'form'; did you mean 'from'?",
        "data: no such key: 'sets'; did you mean 'set'?",
        "to: the version that the migration leads to must be given",
        "states.a: expected a text, got 1",
        "states.b: expected a text, got 2",
        "data.drop: expected a list, got 'x'",
        "refuse_if: expected a text, got 3",
    ] == list(refused.value.reasons)
