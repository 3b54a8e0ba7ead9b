"""Snapshots and definitions as JSON: what is written is read back, and nothing that is wrong is adopted."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_charts import World, random_definition

from x0tta6bl4.statechart.core.content import Runtime
from x0tta6bl4.statechart.core.effect import Faulted
from x0tta6bl4.statechart.core.event import Event, Priority
from x0tta6bl4.statechart.core.machine import Chart, Instance
from x0tta6bl4.statechart.core.state import Definition, Kind, State, Variable
from x0tta6bl4.statechart.core.tables import DefinitionError
from x0tta6bl4.statechart.core.transition import Activity, Assign, Call, ForEach, If, Log, Raise, Send, Transition
from x0tta6bl4.statechart.persistence.serializer import (
    Restorer,
    SnapshotError,
    compatibility,
    decode,
    definition_from_json,
    definition_to_json,
    downgrade,
    encode,
    restore,
    snapshot,
    upgrade,
)
from x0tta6bl4.statechart.runtime import executor
from x0tta6bl4.statechart.runtime.executor import EndlessLoop, handle, new, observe, start

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True, scope="module")
def _random_charts_that_go_round_in_a_circle_are_stopped_soon() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "MICROSTEPS", 200)
        yield


def step(instance: Instance, event: Event) -> list[str]:
    """What the step asks of the world, as text."""
    instance.seq += 1
    instance.runtime.effects.clear()
    try:
        handle(instance, event)
        observe(instance)
    except EndlessLoop:
        instance.runtime.effects.append(Faulted("the step", "found no rest"))
    return list(map(repr, instance.runtime.effects))


def begun(chart: Chart) -> Instance:
    instance = new(chart, "i-1", Runtime())
    start(instance)
    instance.runtime.effects.clear()
    return instance


# --- a chart with everything that a snapshot can hold ---


def everything() -> Definition:
    inner = State(
        "inner",
        states=(State("one", transitions=(Transition("next", ("two",)),)), State("two")),
        transitions=(Transition("leave", ("outside",)),),
    )
    both = State(
        "both",
        Kind.PARALLEL,
        (
            State("left", states=(inner,), activities=(Activity("watch"), Activity("act"))),
            State("right", states=(State("r1", defer=("later",)), State("r2"))),
            State("was", Kind.DEEP_HISTORY, transitions=(Transition(to=("left", "right")),)),
        ),
        transitions=(
            Transition(when="count > 0", do=(Log("counted"),)),
            Transition("count", do=(Assign("count", "count + 1"),)),
        ),
        variables=(Variable("of_both", value="b"),),
    )
    last = State("last", Kind.HISTORY, transitions=(Transition(to=("both",)),))
    outside = State("outside", transitions=(Transition("back", ("was",)), Transition("later", ("end",))))
    return Definition(
        "everything",
        State(
            states=(State("whole", states=(both, outside, last)), State("end", Kind.FINAL)),
            variables=(Variable("count", value=0, type="integer"), Variable("note", value={"deep": [1, None, "ü"]})),
        ),
        version="7",
    )


def full() -> Instance:
    """Something in every part of the snapshot."""
    instance = begun(Chart(everything()))
    for event in (
        Event("next"),
        Event("leave"),
        Event("back"),
        Event("count"),
        Event("later", [1], id="l", priority=Priority.LOW),
    ):
        step(instance, event)
    return instance


TIMER = {"instance": "i-1", "id": "t", "at": 1700000000.5, "remaining": 2.5, "event": {"name": "tick", "data": None}}


def test_a_snapshot_holds_names_and_plain_json():
    plain = snapshot(full(), [TIMER])

    assert {
        "format": 2,
        "chart": "everything",
        "version": "7",
        "hash": Chart(everything()).hash,
        "id": "i-1",
        "running": True,
        "seq": 5,
        "states": ["whole", "both", "left", "inner", "two", "right", "r1"],
        "history": {"was": ["two", "r1"]},
        "data": {"count": 1, "note": {"deep": [1, None, "ü"]}, "both.of_both": "b"},
        "activities": {"left.3": ["left", 0], "left.3.2": ["left", 1]},
        "deferred": [{"name": "later", "data": [1], "priority": 2, "id": "l"}],
        "when": ["when.both.0"],
        "timers": [TIMER],
    } == plain
    assert plain == json.loads(json.dumps(plain))


def test_a_restored_instance_is_the_same_and_goes_on_the_same():
    original = full()
    text = encode(original)
    copied = decode(original.chart, text, Runtime())

    assert text == encode(copied)
    for event in (Event("leave"), Event("back")):
        assert step(original, event) == step(copied, event)
        assert encode(original) == encode(copied)
    assert not copied.running


def test_the_same_state_is_the_same_text_however_the_data_came_about():
    instance = full()
    text = encode(instance)
    instance.data = dict(reversed(instance.data.items()))

    assert text == encode(instance)


def test_a_restored_instance_shares_nothing_with_its_snapshot():
    plain = snapshot(full())
    before = copy.deepcopy(plain)
    instance = restore(Chart(everything()), plain, Runtime())
    step(instance, Event("count"))

    assert instance.data["count"] == 2
    assert before == plain


def test_instances_that_were_not_started_or_have_ended_are_restored_too():
    chart = Chart(everything())
    asleep = new(chart, "i-2", Runtime())
    ended = full()
    step(ended, Event("leave"))

    assert not ended.running
    for instance in (asleep, ended):
        assert encode(instance) == encode(decode(chart, encode(instance), Runtime()))
    again = decode(chart, encode(asleep), Runtime())
    start(again)
    assert again.is_in("one")


def test_a_machine_that_a_terminate_ended_in_the_middle_of_an_entry_is_restored():
    stop = State("stop", states=(State("t", Kind.TERMINATE), State("never")))
    par = State("par", Kind.PARALLEL, (stop, State("other")))
    chart = Chart(Definition("c", State(states=(State("a", transitions=(Transition("go", ("par",)),)), par))))
    instance = begun(chart)
    step(instance, Event("go"))

    assert not instance.running
    assert not instance.is_in("other")
    assert encode(instance) == encode(decode(chart, encode(instance), Runtime()))


# --- what is refused ---


EVERYTHING = Chart(everything())
WHOLE = encode(full(), [TIMER])


def broken(**changed: Any) -> dict[str, Any]:
    return {**json.loads(WHOLE), **changed}


ACTIVE = ["whole", "both", "left", "inner", "two", "right", "r1"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": 3}, "format: expected 2, got 3; it may be of a later version"),
        ({"format": "2"}, "format: expected 2, got '2'"),
        ({"format": True}, "format: expected 2, got True"),
        ({"chart": "other"}, "chart: 'other' is another chart; this is 'everything'"),
        ({"hash": "0" * 16}, "hash: '0000000000000000' (version '7') is not this chart's"),
        ({"running": 1}, "running: expected true or false, got 1"),
        ({"seq": True}, "seq: expected a whole number, got True"),
        ({"id": None}, "id: expected a text, got None"),
        ({"states": "one"}, "states: expected a list, got 'one'"),
        ({"states": ["whole", "bth"]}, "states[1]: the chart has no state 'bth'; did you mean 'both'?"),
        ({"states": [["one"]]}, "states[0]: the chart has no state ['one']"),
        ({"states": []}, "states: [] cannot be active together"),
        ({"states": [*ACTIVE, "r2"]}, "cannot be active together: of state 'right' exactly one state is active"),
        ({"states": ACTIVE[:5]}, "cannot be active together: of the parallel state 'both' every region is active"),
        ({"states": [*ACTIVE, "was"]}, "'was' is a deep-history: it is never active"),
        ({"running": False, "states": ["one"]}, "states: 'one' cannot be active without what it lies in"),
        ({"history": {"one": ["two"]}}, "history: 'one' is a state and no history"),
        ({"history": {"gone": []}}, "history: the chart has no state 'gone'"),
        ({"history": {"was": "two"}}, "history.was: expected a list, got 'two'"),
        ({"history": {"was": ["two", "r3"]}}, "history.was[1]: the chart has no state 'r3'"),
        ({"history": {"was": ["two"]}}, "history.was: not all regions of 'both' are in it"),
        ({"history": {"was": ["two", "one", "r1"]}}, "history.was: of 'inner' exactly one state was active"),
        ({"history": {"was": ["outside"]}}, "history.was: 'outside' does not lie in 'both'"),
        ({"history": {"was": ["left", "r1"]}}, "history.was: 'left' has states of its own"),
        ({"history": {"last": ["one"]}}, "history.last: 'one' is not directly in 'whole'"),
        ({"history": {"last": ["both", "outside"]}}, "history.last: of 'whole' exactly one state was active"),
        ({"data": []}, "data: expected a mapping, got []"),
        ({"data": {}}, "data: 'both.of_both' is missing"),
        ({"data": {"count": 1, "note": None}}, "data: 'both.of_both' is missing"),
        ({"data": {"count": "1", "note": None, "both.of_both": 1}}, "data: 'count' "),
        ({"data": {"count": 1, "note": {"a": [(1,)]}, "both.of_both": 1}}, "data.note.a[0] is (1,), a tuple and"),
        ({"data": {"count": 1, "note": float("nan"), "both.of_both": 1}}, "data.note is nan, which JSON does not have"),
        ({"data": {"count": 1, "note": {1: 2}, "both.of_both": 1}}, "data.note has the key 1, which is no text"),
        ({"activities": {"a": ["one"]}}, "activities.a: expected a state and a number, got ['one']"),
        ({"activities": {"a": ["one", 0]}}, "activities.a: state 'one' has no activity 0"),
        ({"activities": {"a": ["left", 2]}}, "activities.a: state 'left' has no activity 2"),
        ({"activities": {"a": ["left", True]}}, "activities.a: expected a state and a number"),
        ({"deferred": [{"data": 1}]}, "deferred[0].name: an event needs one"),
        ({"deferred": [{"name": "e", "nmae": 1}]}, "deferred[0]: no such key: 'nmae'"),
        ({"deferred": [{"name": "e", "data": {1: 1}}]}, "deferred[0].data has the key 1"),
        ({"deferred": [{"name": "e", "priority": 9}]}, "deferred[0].priority: 9 is none of 0, 1, 2"),
        ({"deferred": [{"name": "e", "type": None}]}, "deferred[0].type: expected a text, got None"),
        ({"when": ["when.one.0"]}, "when[0]: no active state waits for 'when.one.0'"),
        ({"when": [0]}, "when[0]: no active state waits for 0"),
        ({"timers": [{**TIMER, "at": "noon"}]}, "timers[0].at: expected a number of seconds, got 'noon'"),
        ({"timers": [{**TIMER, "remaining": float("inf")}]}, "remaining: expected a number of seconds, got inf"),
        ({"timers": [{**TIMER, "event": None}]}, "timers[0].event: expected a mapping, got None"),
        ({"timers": [7]}, "timers[0]: expected a mapping, got 7"),
        ({"masks": 3}, "snapshot: no such key: 'masks'"),
    ],
)  # fmt: skip
def test_a_snapshot_that_does_not_fit_is_refused_with_place_and_value(changed: dict[str, Any], message: str):
    with pytest.raises(SnapshotError) as refused:
        restore(EVERYTHING, broken(**changed), Runtime())

    assert message in str(refused.value)


@pytest.mark.parametrize("key", sorted(json.loads(WHOLE)))
def test_a_snapshot_without_one_of_its_keys_is_refused(key: str):
    plain = broken()
    del plain[key]

    with pytest.raises(
        SnapshotError, match="format: expected 2, got None" if key == "format" else f"{key!r} is missing"
    ):
        restore(EVERYTHING, plain, Runtime())


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"format": 2}', "[" * 100_000])
def test_text_that_is_no_snapshot_is_refused(text: str):
    with pytest.raises(SnapshotError):
        decode(EVERYTHING, text, Runtime())


def test_an_activity_of_a_state_that_is_not_active_is_refused():
    plain = broken(states=["whole", "outside"], data={"count": 0, "note": 1}, when=[])

    with pytest.raises(SnapshotError, match=r"activities.left.3: state 'left' is not active"):
        restore(EVERYTHING, plain, Runtime())


def test_data_for_a_chart_without_variables_are_refused():
    chart = Chart(Definition("c", State(states=(State("a"),))))
    plain = snapshot(begun(chart))

    with pytest.raises(SnapshotError, match="the chart has no variables, and there is 'x'"):
        restore(chart, {**plain, "data": {"x": 1}}, Runtime())


def test_values_that_are_not_json_are_not_written():
    instance = full()
    instance.data["note"] = {"when": {1, 2}}

    with pytest.raises(SnapshotError, match=r"data.note.when is \{1, 2\}, a set and no JSON value"):
        encode(instance)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(JSON, st.sampled_from(sorted(json.loads(WHOLE))))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_whatever_stands_in_a_snapshot_is_adopted_or_refused(value: Any, key: str):
    try:
        instance = restore(EVERYTHING, broken(**{key: value}), Runtime())
    except SnapshotError:
        return
    assert json.loads(encode(instance))[key] == json.loads(json.dumps(value))


# --- every chart ---


@given(st.integers(0, 2**32))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_instance_of_any_chart_survives_being_written_down_after_every_step(seed: int):
    random = Random(seed)
    chart = Chart(random_definition(random))
    runtime = Runtime()
    original = new(chart, "i-1", runtime)
    try:
        start(original)
    except EndlessLoop:
        return
    world = World()
    world.told(runtime.effects)
    runtime.effects.clear()
    restorer = Restorer(chart, Runtime())
    for event in world.events(random, 12):
        text = encode(original)
        copied = restorer.decode(text)
        assert text == encode(copied)

        assert step(original, event) == step(copied, event)
        assert encode(original) == encode(copied)
        world.told(runtime.effects)
        runtime.effects.clear()


# --- formats ---


def golden(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def test_what_is_written_today_is_what_the_golden_file_says():
    assert golden("snapshot_format_2.json") == snapshot(full(), [TIMER])


@pytest.mark.parametrize("name", ["snapshot_format_1.json", "snapshot_format_2.json"])
def test_golden_snapshots_are_restored(name: str):
    instance = restore(Chart(everything()), golden(name), Runtime())

    assert tuple(ACTIVE) == instance.configuration
    step(instance, Event("leave"))
    step(instance, Event("back"))
    assert instance.is_in("two") or not instance.running


def test_the_golden_snapshot_of_format_1_goes_up_and_comes_down_again():
    old = golden("snapshot_format_1.json")
    upgraded = upgrade(old)

    assert 2 == upgraded["format"]
    assert {"left.3": ["left", 0]} == upgraded["activities"]
    assert old == downgrade(upgraded)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "activities.left.3.2: format 1 has one activity a state"),
        ({"activities": {"a": ["left", 1]}}, "activities.a: format 1 has one activity a state, this is ['left', 1]"),
        ({"activities": {}}, "deferred: format 1 has no deferred events"),
        ({"activities": {}, "deferred": []}, "when: format 1 has no change events"),
        ({"format": 1}, "format: expected 2, got 1"),
    ],
)
def test_what_format_1_cannot_hold_is_not_forgotten(changed: dict[str, Any], message: str):
    with pytest.raises(SnapshotError) as refused:
        downgrade(broken(**changed))

    assert message in str(refused.value)


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_comes_down_to_format_1_goes_up_to_the_same(seed: int):
    random = Random(seed)
    instance = new(Chart(random_definition(random)), "i-1", Runtime())
    try:
        start(instance)
    except EndlessLoop:
        return
    for event in World().events(random, 5):
        step(instance, event)
    plain = json.loads(encode(instance))
    try:
        older = downgrade(plain)
    except SnapshotError:
        assert plain["deferred"] or plain["when"] or len(plain["activities"]) > 1
        return
    assert not {"deferred", "when"} & older.keys()
    assert plain == upgrade(older)


# --- definitions ---


def test_a_definition_is_written_and_read_back():
    definition = everything()
    text = json.dumps(definition_to_json(definition))

    assert definition == definition_from_json(json.loads(text))
    assert Chart(definition).hash == Chart(definition_from_json(json.loads(text))).hash


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_definition_is_written_and_read_back(seed: int):
    definition = random_definition(Random(seed))

    assert definition == definition_from_json(json.loads(json.dumps(definition_to_json(definition))))


def test_all_kinds_of_actions_are_written_and_read_back():
    block = (
        If((("a", (Log("l"),)), (None, (ForEach("[1]", "i", "k", (Raise("r", "i"),)),)))),
        Send("s", delay=1.5, parameters=(("p", "1"),), content={"x": [1]}),
        Assign("a", value=[None, {"b": False}]),
    )
    definition = Definition("d", State(states=(State("s", entry=(block, (Log(),))),)), strict=False)

    assert definition == definition_from_json(json.loads(json.dumps(definition_to_json(definition))))


def test_functions_are_refused_with_their_places_all_at_once():
    def is_ripe(scope: Any) -> bool:
        return True

    state = State("s", transitions=(Transition("e", (), is_ripe, (Call(print),)),), invariants=(is_ripe,))

    with pytest.raises(DefinitionError) as refused:
        definition_to_json(Definition("d", State(states=(state,), entry=((Assign("x", value={1: 2}),),))))

    told = refused.value.problems
    assert 4 == len(told)
    assert told[0].startswith("state 's': transitions[0]: guard: ")
    assert told[0].endswith("is_ripe is a Python function; only expressions can be written down")
    assert (
        "state 's': transitions[0]: do[0]: print is a Python function; only expressions can be written down" == told[1]
    )
    assert told[2].startswith("state 's': invariants[0]: ")
    assert "chart: root: entry[0][0]: value has the key 1, which is no text" == told[3]


def test_a_definition_that_is_not_one_is_refused_with_every_mistake():
    plain = {
        "name": 7,
        "scoping": "wide",
        "color": "red",
        "root": {
            "states": [
                {"id": "s", "kind": "parralel", "transitions": [{"to": "s"}, {"after": True}]},
                {"id": "t", "entry": [[{"action": "call"}, {"action": "raise"}]], "initial": [1]},
                5,
            ],
        },
    }

    with pytest.raises(DefinitionError) as refused:
        definition_from_json(plain)

    assert [
        "chart: no such key: 'color'",
        "chart: name: expected a text, got 7",
        "chart: scoping: 'wide' is none of global, local",
        "state 's': kind: 'parralel' is none of state, parallel, final, history, deep-history, choice, junction, join, "
        "entry, exit, terminate",
        "state 's': transitions[0]: to: expected a list, got 's'",
        "state 's': transitions[1]: after: expected a number or a text or nothing, got True",
    ] == list(refused.value.problems[:6])
    assert 10 == len(refused.value.problems)


def test_a_definition_that_is_nested_without_end_is_refused():
    plain: dict[str, Any] = {"id": "s"}
    for _ in range(5000):
        plain = {"id": "s", "states": [plain]}

    with pytest.raises(DefinitionError, match="at most 64 levels"):
        definition_from_json({"name": "d", "root": plain})


# --- versions ---


def book(*states: State, name: str = "book", **root: Any) -> Definition:
    return Definition(name, State(states=states, **root))


A = State("a", transitions=(Transition("go", ("b",)),))
B = State("b", activities=(Activity("act"),))
WIDE_B = State("b", states=(State("c"),), activities=(Activity("act"),))
INTEGER = (Variable("x", type="integer"),)
NUMBER = (Variable("x", type="number"),)


@pytest.mark.parametrize(
    ("old", "new", "level", "reason"),
    [
        (book(A, B), book(A, B), "exact", None),
        (book(A, B), book(A, B, State("c")), "compatible", None),
        (book(A, B), book(A, B, variables=(Variable("x"),)), "compatible", None),
        (book(A, B, variables=INTEGER), book(A, B, variables=NUMBER), "compatible", None),
        (book(A, B, State("c")), book(A, B), "needs-migration", "state 'c' is gone"),
        (book(A, B), book(A, State("c", states=(B,))), "needs-migration", "state 'b' is in 'c' and was in 'the chart'"),
        (book(A, B), book(A, WIDE_B), "needs-migration", "'b' is composite and was state"),
        (book(A, B), book(A, State("b")), "needs-migration", "state 'b' has other activities"),
        (book(A, B, variables=NUMBER), book(A, B), "needs-migration", "the chart has no variable 'x' any more"),
        (book(A, B, variables=NUMBER), book(A, B, variables=INTEGER), "needs-migration", "'x' is integer and was"),
        (
            book(A, B, State("p", Kind.PARALLEL, (State("r"),))),
            book(A, B, State("p", Kind.PARALLEL, (State("r"), State("q")))),
            "needs-migration",
            "state 'p' has new regions ('q')",
        ),
        (book(A, B), book(A, B, name="other"), "breaking", "the chart is called 'other' and was called 'book'"),
        (book(A, B), book(State("a"), B), "breaking", "the event 'go' is not taken any more"),
        (book(A, B), Definition("book", State(states=(A, B)), scoping="global"), "breaking", "variables are global"),
    ],
)  # fmt: skip
def test_how_a_chart_relates_to_its_older_version_is_told(
    old: Definition, new: Definition, level: str, reason: str | None
):
    found = compatibility(old, new)

    assert level == found.level, found
    assert (reason is None) == (not found.reasons)
    assert reason is None or reason in found.reasons[0]


def test_an_event_that_a_wider_descriptor_takes_is_still_taken():
    wide = State("a", transitions=(Transition("go.*", ("b",)),))
    narrow = State("a", transitions=(Transition("go.fast", ("b",)),))

    assert "compatible" == compatibility(book(narrow, B), book(wide, B)).level
    assert "breaking" == compatibility(book(wide, B), book(narrow, B)).level


def test_events_that_only_the_chart_itself_raises_may_go():
    inside = State("a", entry=((Raise("tick"),),), transitions=(Transition("tick", ("b",)),))

    assert "compatible" == compatibility(book(inside, B), book(State("a"), B)).level
