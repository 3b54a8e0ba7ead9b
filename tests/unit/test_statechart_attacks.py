"""What a hostile chart, host or sender could do to the engine, each as a test that it cannot."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x0tta6bl4.statechart import (
    Activity,
    Assign,
    Chart,
    Definition,
    DefinitionError,
    EndlessLoop,
    Event,
    Faulted,
    ForEach,
    Instance,
    Kind,
    Machine,
    Raise,
    Result,
    Runtime,
    Send,
    State,
    Transition,
    Variable,
    handle,
    new,
    start,
)
from x0tta6bl4.statechart.core import content
from x0tta6bl4.statechart.core import machine as tables
from x0tta6bl4.statechart.core.effect import Started
from x0tta6bl4.statechart.extensions.hooks import Hooks
from x0tta6bl4.statechart.persistence.model import Model
from x0tta6bl4.statechart.persistence.serializer import restore, snapshot
from x0tta6bl4.statechart.persistence.validator import check
from x0tta6bl4.statechart.runtime import executor
from x0tta6bl4.statechart.types.base import (
    FUNCTION_NAMES,
    VALUE_BYTES,
    EvaluationError,
    ExpressionError,
    compile_expression,
    compile_location,
    names_in,
    readings_in,
    root_of,
)


def go(event: str, to: str, *do: Any, guard: str | None = None) -> Transition:
    return Transition(event, (to,), guard, do)


def stay(event: str, *do: Any) -> Transition:
    return Transition(event, do=do, kind="internal")


def chart(*states: State, **more: Any) -> Definition:
    return Definition("x", State(states=states, variables=more.pop("variables", ())), **more)


# Deferred events

PASSING = chart(
    State("here", transitions=(go("go", "there", Raise("kept"), Raise("back")), go("kept", "end"))),
    State("there", defer=("kept",), transitions=(go("back", "here"),)),
    State("end"),
)
"""The way leads through a state that defers, and back to where it began."""
TURNING = chart(
    State("begin", defer=("kept",), transitions=(go("go", "b1"),)),
    State("b1", transitions=(go("kept", "c1", Raise("kept"), Raise("on")),)),
    State("c1", defer=("kept",), transitions=(go("on", "b2"),)),
    State("b2", transitions=(go("kept", "c2", Raise("kept"), Raise("on")),)),
    State("c2", defer=("kept",), transitions=(go("on", "b1"),)),
)
"""Each time the deferred event is offered it is deferred again, and the configuration has changed."""


def test_what_was_deferred_on_a_way_that_leads_back_is_offered_where_it_ends() -> None:
    machine = Machine(PASSING).start()

    machine.send("go")

    assert (machine.configuration, machine.instance.deferred) == (("end",), ())


def test_what_was_deferred_while_the_machine_was_starting_is_offered_when_it_has_started() -> None:
    definition = chart(
        State("first", defer=("kept",), entry=((Raise("kept"), Raise("on")),), transitions=(go("on", "second"),)),
        State("second", transitions=(go("kept", "end"),)),
        State("end"),
    )

    machine = Machine(definition).start()

    assert (machine.configuration, machine.instance.deferred) == (("end",), ())


@pytest.mark.parametrize("errors", ["event", "rollback"])
def test_deferred_events_that_bring_themselves_back_are_stopped_told_and_kept(
    errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "MICROSTEPS", 50)
    definition = Definition("x", TURNING.root, errors=errors)
    machine = Machine(definition).start()
    machine.send("kept")

    machine.send("go")

    assert machine.fault is not None and machine.fault.what == "recalling deferred events"
    assert [event.name for event in machine.instance.deferred] == ["kept"]
    assert not check(definition, must_end=False).ok  # and somebody could have known


@pytest.mark.parametrize("errors", ["event", "rollback"])
def test_a_recalled_event_that_finds_no_rest_takes_neither_the_step_before_it_nor_the_others(errors: Any) -> None:
    definition = chart(
        State("busy", defer=("circle", "other"), transitions=(go("go", "idle"),)),
        State("idle", transitions=(go("circle", "round"), go("other", "end"))),
        State("round", transitions=(Transition(to=("round",)),)),
        State("end"),
        errors=errors,
    )
    machine = Machine(definition).start()
    for name in ("circle", "other"):
        machine.send(name)

    assert machine.send("go") is True
    assert machine.configuration == ("end",)
    assert machine.fault is not None and "no rest" in machine.fault.why


@pytest.mark.parametrize("errors", ["event", "rollback"])
def test_an_endless_circle_is_taken_back_in_both_ways_of_treating_errors(errors: Any) -> None:
    definition = chart(
        State("a", transitions=(go("e", "b"),)),
        State("b", entry=((Raise("e"),),), transitions=(Transition(to=("a",)),)),
        errors=errors,
    )
    machine = Machine(definition).start()

    if errors == "event":
        with pytest.raises(EndlessLoop):
            machine.send("e")
    else:
        machine.send("e")
        assert machine.fault is not None
    assert machine.configuration == ("a",)
    assert machine.send("nothing") is False


# Sizes


def test_an_event_that_holds_the_last_ones_data_twice_stops_growing() -> None:
    doubled = (("one", "_event.data"), ("two", "_event.data"))
    now = 0.0
    machine = Machine(chart(State("a", transitions=(stay("e", Send("e", parameters=doubled, delay=1.0)),))))
    machine = Machine(machine.chart, clock=lambda: now).start()
    machine.send("e", 1)
    steps = 0
    while machine.fault is None and steps < 40:
        now, steps = now + 1.0, steps + 1
        machine.advance()

    assert machine.fault is not None and "larger" in machine.fault.why
    assert len(json.dumps(machine.snapshot())) < VALUE_BYTES


def test_activities_and_results_are_handed_no_more_than_a_value_may_hold() -> None:
    twice = (("one", "v"), ("two", "v"))
    definition = chart(
        State("a", transitions=(go("work", "b"), go("end", "c"))),
        State("b", activities=(Activity("job", parameters=twice),)),
        State("c", Kind.FINAL, result=Result(parameters=twice)),
        variables=(Variable("v", value=""),),
    )
    for event in ("work", "end"):
        told: list[Any] = []
        machine = Machine(definition, outside=told.append).start(v="x" * (VALUE_BYTES // 2 + 1))

        assert machine.send(event) is False
        assert machine.configuration == ("a",)
        assert [type(effect) for effect in told] == [Faulted]


@pytest.mark.parametrize(
    "item", [float("nan"), "x" * (VALUE_BYTES + 1), (1, 2), {1: 2}], ids=["nan", "long", "tuple", "key"]
)
def test_a_loop_puts_nothing_into_a_variable_that_an_assignment_would_refuse(item: Any) -> None:
    definition = chart(
        State("a", transitions=(stay("e", ForEach("_event.data", "i")),)), variables=(Variable("i", value=0),)
    )
    machine = Machine(definition).start()

    machine.send("e", [item])

    assert machine.fault is not None
    assert machine.snapshot()["data"] == {"i": 0}


def test_a_loop_that_fails_leaves_no_variable_of_its_own_behind() -> None:
    definition = chart(
        State("a", transitions=(stay("e", ForEach("[1, 2]", "i", do=(Assign("n", "n + 'x'"),))),)),
        variables=(Variable("n", value=0),),
        errors="event",
    )
    machine = Machine(definition).start()

    machine.send("e")

    assert dict(machine.data) == {"n": 0}


@pytest.mark.parametrize("errors", ["event", "rollback"])
def test_loops_inside_loops_are_stopped_by_the_rounds_they_make_together(
    errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "ROUNDS", 100)
    inner = ForEach("l", "j", do=(Assign("n", "n + 1"),))
    definition = chart(
        State("a", transitions=(stay("one", inner), stay("both", ForEach("l", "i", do=(inner,))))),
        variables=(Variable("l", value=[0] * 60), Variable("n", value=0)),
        errors=errors,
    )
    machine = Machine(definition).start()

    machine.send("both")
    assert machine.data["n"] == (0 if errors == "rollback" else 98)  # two rounds are the outer loop's
    for _ in range(3):
        machine.send("one")
    assert machine.data["n"] == (180 if errors == "rollback" else 278)


@pytest.mark.parametrize("data", ["x" * 1_000_000, ["x" * 1_000] * 1_000, {"a": {"b": "x" * 1_000_000}}])
def test_a_megabyte_goes_by_and_leaves_nothing(data: Any) -> None:
    definition = chart(
        State("a", transitions=(stay("keep", Assign("v", "result")), stay("look", Assign("v", "len(result)")))),
        variables=(Variable("v"),),
    )
    machine = Machine(definition).start()

    machine.send("keep", data)
    assert machine.fault is not None
    machine.send("look", data)
    assert machine.data["v"] == len(data)


# What a chart remembers


def test_long_names_of_events_are_not_remembered_and_work_all_the_same() -> None:
    long = "e." + "x" * 10_000
    compiled = Chart(chart(State("a", transitions=(go("e", "b"),)), State("b", transitions=(go("e", "a"),))))
    machine = Machine(compiled).start()

    assert [machine.send(long) for _ in range(3)] == [True] * 3
    for n in range(100):
        machine.send(f"{n}" * 1_000)
    assert sum(len(name) for node in compiled._nodes.values() for name in node.select) < 1_000


def test_instances_in_forgotten_configurations_keep_nothing_alive_but_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tables, "NODES", 4)
    monkeypatch.setattr(tables, "SELECTIONS", 20)
    compiled = Chart(chart(*(State(f"s{n}", transitions=(go("e", f"s{(n + 1) % 9}"),)) for n in range(9))))
    sleeper, walker = Machine(compiled).start(), Machine(compiled).start()
    forgotten = sleeper.instance.node

    for _ in range(30):
        assert walker.send("e")
    for n in range(100):
        sleeper.send(f"made.up.{n}")

    assert compiled._nodes.get(forgotten.mask) is not forgotten
    assert len(forgotten.select) <= 21
    assert sleeper.send("e") and sleeper.configuration == ("s1",)


# Types


@pytest.mark.parametrize("place", ["v", "(v)", "v ", "( v )", "v # v.x", "((v))"])
def test_no_way_of_writing_a_place_gets_around_its_type(place: str) -> None:
    definition = chart(
        State("a", transitions=(stay("e", Assign(place, "'text'")),)),
        variables=(Variable("v", value=1, type="integer"),),
    )
    machine = Machine(definition).start()

    machine.send("e")

    assert machine.fault is not None and machine.data["v"] == 1


# Machines


def test_a_machine_that_is_restored_forgets_what_waited_for_its_former_life() -> None:
    now = 0.0
    definition = chart(
        State("a", transitions=(Transition(after=5, to=("late",)), go("e", "b"))), State("b"), State("late")
    )
    other = Machine(definition, clock=lambda: now).start()
    other.send("e")
    machine = Machine(definition, clock=lambda: now).start()
    machine.send("later", delay=3.0)

    machine.restore(other.snapshot())

    assert machine.advance() is None
    assert machine.configuration == ("b",)


def test_a_hook_that_starts_its_machine_again_opens_no_way_into_the_step_under_way() -> None:
    hooks, seen = Hooks(), []
    machine = Machine(
        chart(State("a", transitions=(go("e", "b"),)), State("b", transitions=(go("e", "a"),))), hooks=hooks
    )

    def again(known: dict[str, Any]) -> None:
        with pytest.raises(RuntimeError, match="under way"):
            machine.start()
        if len(seen) < 2:
            seen.append(machine.send("e"))  # waits, as it is not taken for a step of its own

    hooks.add("entered", again)
    machine.start()

    assert seen == [None, None]
    assert not hooks.faults
    assert machine.configuration == ("a",)


# The model check against the engine itself


class Maker:
    """Makes up a small chart without data, so that all that it can do can be tried out."""

    def __init__(self, number: int) -> None:
        self.random = random.Random(number)
        self.count = 0
        self.kinds: dict[str, Kind] = {}
        self.below: dict[str, list[str]] = {}

    def one_in(self, n: int) -> bool:
        return self.random.randrange(n) == 0

    def definition(self) -> Definition:
        tree = self.tree("", 0)
        ends = [(self.named(Kind.FINAL), [])] if self.one_in(2) else []
        marks = [(self.named(kind), []) for kind in (Kind.JUNCTION, Kind.JOIN) if self.one_in(3)]
        root = State(states=tuple(self.state(*part) for part in [*tree, *ends, *marks]))
        return Definition("made", root, errors=self.random.choice(("event", "rollback")))

    def named(self, kind: Kind) -> str:
        self.count += 1
        self.kinds[f"s{self.count}"] = kind
        return f"s{self.count}"

    def tree(self, over: str, depth: int) -> list[tuple[str, list[Any]]]:
        parts: list[tuple[str, list[Any]]] = []
        regions = bool(over) and self.kinds[over] is Kind.PARALLEL
        for _ in range(2 if regions else self.random.randint(2, 3)):
            shape = self.random.choice("ssscp") if depth < 2 else "s"
            name = self.named(Kind.PARALLEL if shape == "p" else Kind.STATE)
            parts.append((name, [] if shape == "s" else self.tree(name, depth + 1)))
        self.below[over] = [part[0] for part in parts]
        marks = [Kind.HISTORY, Kind.DEEP_HISTORY] + ([] if regions else [Kind.FINAL, Kind.CHOICE, Kind.JUNCTION])
        return parts + [(self.named(kind), []) for kind in marks if over and self.one_in(4)]

    def guard(self) -> str:
        asked = self.random.choice([name for name, kind in self.kinds.items() if kind in (Kind.STATE, Kind.PARALLEL)])
        return f"{self.random.choice(('', 'not '))}In('{asked}')"

    def raising(self) -> tuple[Raise, ...]:
        return (Raise(self.random.choice(("a", "b", "i"))),) if self.one_in(5) else ()

    def transition(self, name: str) -> Transition:
        joins = [n for n, kind in self.kinds.items() if kind is Kind.JOIN]
        if joins and self.one_in(6):
            return Transition(to=(joins[0],))
        event = "" if self.one_in(12) else self.random.choice(("a", "b", "c", "*", "i", "done.state"))
        to = (self.random.choice([n for n, kind in self.kinds.items() if kind is not Kind.JOIN]),)
        guard = self.guard() if not event or self.one_in(3) else None
        return Transition(event, to, guard, self.raising(), self.random.choice(("external", "local")))

    def state(self, name: str, inside: list[Any]) -> State:
        kind = self.kinds[name]
        if kind in (Kind.FINAL, Kind.HISTORY, Kind.DEEP_HISTORY):
            return State(name, kind)
        states = [n for n, other in self.kinds.items() if other in (Kind.STATE, Kind.FINAL)]
        if kind in (Kind.JUNCTION, Kind.CHOICE, Kind.JOIN):
            first = () if kind is Kind.JOIN else (go("", self.random.choice(states), guard=self.guard()),)
            return State(name, kind, transitions=(*first, go("", self.random.choice(states), *self.raising())))
        return State(
            name,
            kind,
            tuple(self.state(*part) for part in inside),
            transitions=tuple(self.transition(name) for _ in range(self.random.randint(0, 2))),
            entry=(self.raising(),),
            defer=(self.random.choice("abci"),) if self.one_in(6) else (),
        )


Resting = tuple[int, tuple[int, ...], tuple[str, ...], bool]


def resting(instance: Instance) -> Resting:
    names = tuple(event.name for event in instance.deferred)
    return instance.node.mask, instance.history, names, not instance.running


def tried_out(compiled: Chart, names: list[str], most: int = 400) -> dict[Resting, dict[str, Any]] | None:
    """Where the engine rests after whatever happens; None: it does not, or in too many places."""
    runtime = Runtime()
    first = new(compiled, "x", runtime)
    try:
        start(first)
        found = {resting(first): snapshot(first)}
        waiting = list(found)
        while waiting:
            here = waiting.pop()
            for name in [] if here[3] else [name for name in names if name not in here[2]]:
                instance = restore(compiled, json.loads(json.dumps(found[here])), runtime)
                handle(instance, Event(name))
                there = resting(instance)
                if any(isinstance(e, Faulted) for e in runtime.effects) or len(set(there[2])) < len(there[2]):
                    return None
                runtime.effects.clear()
                if there not in found:
                    found[there] = snapshot(instance)
                    waiting.append(there)
            if len(found) > most:
                return None
    except EndlessLoop:
        return None
    return found if first.mask else None


def compared(number: int) -> bool:
    definition = Maker(number).definition()
    try:
        compiled, model = Chart(definition), Model(definition, 5_000, None)
    except DefinitionError:
        return False
    model.explore()
    found = tried_out(compiled, [outside.name for outside in model.outside])
    if found is None or model.endless or not model.complete:
        return False
    assert {tuple(rest) for rest in model.found} == set(found), f"chart {number}"
    for rest in list(model.found)[:20]:
        instance = new(compiled, "x", Runtime())
        start(instance)
        for step in model.path(rest):
            if step.event != "start":
                handle(instance, Event(step.event))
        assert resting(instance) == tuple(rest), f"chart {number}: the way {model.path(rest)} leads elsewhere"
    return True


def test_the_model_finds_what_the_engine_does_no_more_and_no_less_and_its_ways_lead_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executor, "MICROSTEPS", 200)

    assert sum(map(compared, range(150))) > 50


def test_a_guard_behind_a_junction_that_never_holds_opens_no_way_to_the_end() -> None:
    definition = chart(
        State("a", transitions=(go("e", "j"),)),
        State("j", Kind.JUNCTION, transitions=(go("", "end", guard="In('b')"), go("", "a"))),
        State("b"),
        State("end", Kind.FINAL),
    )

    assert [problem.rule for problem in check(definition).problems if problem.level == "error"] == ["no-end"]


@pytest.mark.parametrize("guard", ["1 / 0 > 1", "In([])", "len(3) > 1"])
def test_a_guard_that_can_only_fail_is_no_way_and_no_trouble_for_the_check(guard: str) -> None:
    definition = chart(State("a", transitions=(go("e", "end", guard=guard),)), State("end", Kind.FINAL))

    assert "no-end" in {problem.rule for problem in check(definition).problems}


# Rebuilt, and carried on


def test_random_charts_with_deferral_go_on_the_same_when_rebuilt_and_when_carried_to_a_chart_of_the_same_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executor, "MICROSTEPS", 200)
    compared = 0
    for number in range(200):
        definition = Maker(number).definition()
        try:
            charts = [Chart(definition), Chart(Definition("made", definition.root, "2", errors=definition.errors))]
        except DefinitionError:
            continue
        lives = [new(charts[0], "x", Runtime()) for _ in range(3)]
        names = random.Random(number).choices("abci", k=12)
        try:
            for life in lives:
                start(life)
            for count, name in enumerate(names if lives[0].mask else ()):
                lives[1] = restore(charts[0], json.loads(json.dumps(snapshot(lives[1]))), lives[1].runtime)
                if not any(isinstance(effect, Faulted) for effect in lives[2].runtime.effects):
                    lives[2] = tables.modified(lives[2], charts[(count + 1) % 2])
                for life in lives:
                    life.runtime.effects.clear()
                    handle(life, Event(name))
                told = [[repr(effect) for effect in life.runtime.effects] for life in lives]

                assert resting(lives[0]) == resting(lives[1]) == resting(lives[2]), f"chart {number}, event {count}"
                assert told[0] == told[1] == told[2], f"chart {number}, event {count}"
                compared += 1
        except EndlessLoop:
            continue
    assert compared > 500


# Expressions

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**80), 10**80) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abk"), inner, max_size=3),
    max_leaves=8,
)
PLAIN = ("x", "y", "result", "0", "-1", "1e308", "0x10", "None", "true", "[]", "'a'", "{'a': 1}", "[1, 'a']", "é", "#")
ODD = (
    "_event",
    "_event.data",
    "_event.raw",
    "_ioprocessors",
    "'%s'",
    "10**2",
    "(x",
    "y)",
    "\\\n",
    "f''",
    "x.__class__",
)
WORDS = st.sampled_from((*PLAIN, *ODD))


def larger(part: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    signs = ("+", "-", "*", "/", "//", "%", "==", "<", "in", "not in", "is", "and", "or", ",", "if", "**", "@", ":=")
    return st.one_of(
        st.tuples(part, st.sampled_from(signs), part).map(" ".join),
        st.tuples(part, part, part).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})"),
        st.tuples(st.sampled_from(("not ", "-", "+", "~", "*", "lambda: ")), part).map("".join),
        st.tuples(part, part).map(lambda t: f"{t[0]}[{t[1]}]"),
        st.tuples(part, st.sampled_from(("a", "name", "_x", "get('a')", "upper()", "format(1)"))).map(".".join),
        st.tuples(st.sampled_from((*FUNCTION_NAMES, "isinstance", "open")), st.lists(part, max_size=3)).map(
            lambda t: f"{t[0]}({', '.join(t[1])})"
        ),
        st.tuples(part, part).map(lambda t: f"[{t[0]}, {t[1]}]"),
        part.map(lambda p: f"{{'a': {p}}}"),
    )


@given(st.recursive(WORDS, larger, max_leaves=10) | st.text(max_size=30), VALUES, VALUES, VALUES)
@settings(max_examples=300, deadline=None)
def test_whatever_is_written_is_refused_or_reckoned_or_fails_and_nothing_else(
    source: str, x: Any, y: Any, d: Any
) -> None:
    instance = new(Chart(chart(State("a"))), "x", Runtime())
    for read in (names_in, readings_in, root_of):
        try:
            read(source)
        except ExpressionError:
            continue
    try:
        compute = compile_expression(source)
    except ExpressionError:
        return
    for event in (Event("e", d), None):
        try:
            compute({"x": x, "y": y}, event, instance)
        except EvaluationError:
            continue
    try:
        compile_location(source)({"x": x, "y": y}, d)
    except (ExpressionError, EvaluationError):
        return


def test_an_activity_is_begun_once_however_often_a_deferred_event_leads_through_its_state() -> None:
    told: list[Any] = []
    definition = chart(
        State("a", defer=("e",), transitions=(go("go", "b"),)),
        State("b", activities=(Activity("job", id="job"),), transitions=(go("e", "c"),)),
        State("c", transitions=(go("back", "b"),)),
    )
    machine = Machine(definition, outside=told.append).start()
    machine.send("e")
    machine.send("go")
    machine.send("back")

    assert sum(isinstance(effect, Started) for effect in told) == 2  # at rest in b before e is offered, and after back
    assert list(machine.instance.activities or ()) == ["job"]
