"""The founding document of the statechart engine as a contract: its modules, what each of them promises, and no cycles.

The promises stand in its words in ``CONTRACT``; each has a test here that breaks with it. In depth they are tested
where the modules are. Its "design patterns" are no promises, and its timer module's "singleton" is one value here that
whoever drives machines owns.
"""

import ast
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import pytest

from x0tta6bl4.statechart.core.content import Runtime
from x0tta6bl4.statechart.core.effect import Effect, Logged, Started
from x0tta6bl4.statechart.core.event import Event, EventQueue, Priority
from x0tta6bl4.statechart.core.machine import Chart, UnsafeModification
from x0tta6bl4.statechart.core.region import region_status
from x0tta6bl4.statechart.core.state import Definition, Kind, State, Variable
from x0tta6bl4.statechart.core.tables import DefinitionError
from x0tta6bl4.statechart.core.transition import Activity, Assign, Call, Log, Raise, Result, Scope, Send, Transition
from x0tta6bl4.statechart.extensions.hooks import IN_A_ROW, Hooks, Point
from x0tta6bl4.statechart.extensions.sandbox import Bounds, Sandbox, SandboxError, SandboxUnavailable
from x0tta6bl4.statechart.persistence import serializer, validator
from x0tta6bl4.statechart.persistence.migrate import Migration, apply
from x0tta6bl4.statechart.runtime.executor import MICROSTEPS
from x0tta6bl4.statechart.runtime.machine import Machine
from x0tta6bl4.statechart.runtime.monitor import Level, Monitor
from x0tta6bl4.statechart.runtime.scheduler import Timers
from x0tta6bl4.statechart.types.base import EvaluationError, compile_expression, parse_type
from x0tta6bl4.statechart.types.extensions import TypeExtensions

PACKAGE = "x0tta6bl4.statechart"
ROOM = Path(__file__).parents[2] / "x0tta6bl4" / "statechart"

CONTRACT: Mapping[str, tuple[str, ...]] = {
    "core.state": (
        "Provides hierarchical state management",
        "Maintains state data isolation",
        "Enforces state invariants",
        "Manages history state preservation",
        "Coordinates with region.py for parallel states",
    ),
    "core.transition": (
        "Implements transition type hierarchy",
        "Manages transition behavior and actions",
        "Resolves transition conflicts",
        "Coordinates with state.py for state changes",
        "Integrates with event.py for triggers",
    ),
    "core.event": (
        "Implements event queue management",
        "Handles event processing patterns",
        "Maintains event ordering",
        "Coordinates with executor.py for processing",
        "Integrates with scheduler.py for time events",
    ),
    "core.region": (
        "Manages parallel region execution",
        "Maintains region synchronization",
        "Handles cross-region transitions",
        "Coordinates with state.py for hierarchy",
        "Integrates with executor.py for concurrency",
    ),
    "core.machine": (
        "Orchestrates state machine lifecycle",
        "Manages configuration and initialization",
        "Coordinates all core components",
        "Integrates with monitor.py for introspection",
        "Handles dynamic modifications",
    ),
    "runtime.executor": (
        "Enforces run-to-completion semantics",
        "Manages transition execution",
        "Handles concurrent operations",
        "Coordinates with event.py for processing",
        "Integrates with monitor.py for metrics",
    ),
    "runtime.scheduler": (
        "Manages time and change events",
        "Maintains timer consistency",
        "Coordinates with event.py for queuing",
        "Integrates with executor.py for processing",
        "Handles timer interruptions",
    ),
    "runtime.monitor": (
        "Provides introspection capabilities",
        "Emits state machine events",
        "Tracks execution metrics",
        "Coordinates with all modules for monitoring",
        "Maintains monitoring boundaries",
    ),
    "persistence.serializer": (
        "Handles state machine persistence",
        "Preserves runtime state",
        "Maintains version compatibility",
        "Coordinates with validator.py for integrity",
        "Integrates with types.py for serialization",
    ),
    "persistence.validator": (
        "Validates state machine definitions",
        "Ensures semantic consistency",
        "Verifies transition rules",
        "Coordinates with all modules for validation",
        "Maintains validation boundaries",
    ),
    "types.base": (
        "Defines core type system",
        "Specifies type compatibility rules",
        "Manages type safety",
        "Coordinates with validator.py for checking",
        "Integrates with extensions.py for custom types",
    ),
    "types.extensions": (
        "Provides type system extension points",
        "Manages type conversions",
        "Maintains type consistency",
        "Coordinates with base.py for compatibility",
        "Integrates with sandbox.py for safety",
    ),
    "extensions.hooks": (
        "Defines extension interfaces",
        "Manages extension lifecycle",
        "Provides customization points",
        "Coordinates with sandbox.py for isolation",
        "Integrates with all modules for extension",
    ),
    "extensions.sandbox": (
        "Implements extension isolation",
        "Enforces resource boundaries",
        "Manages extension security",
        "Coordinates with hooks.py for lifecycle",
        "Maintains extension guarantees",
    ),
}

Test = TypeVar("Test", bound=Callable[..., None])
kept: dict[str, set[str]] = {module: set() for module in CONTRACT}


def promise(module: str, *lines: str) -> Callable[[Test], Test]:
    """Which promises a test would break with."""
    assert set(lines) <= set(CONTRACT[module]), f"{module} does not promise so"
    kept[module] |= set(lines)

    def unchanged(test: Test) -> Test:
        return test

    return unchanged


def test_every_promise_has_a_test() -> None:
    assert {module: set(lines) for module, lines in CONTRACT.items()} == kept


@pytest.mark.parametrize("module", CONTRACT)
def test_every_module_is_where_the_document_has_it(module: str) -> None:
    assert import_module(f"{PACKAGE}.{module}").__doc__
    assert import_module(f"{PACKAGE}.{module.partition('.')[0]}").__doc__


# -- charts to try things on -------------------------------------------------------------------------------------------

T, S = Transition, State


def chart(*states: State, name: str = "test", root: Mapping[str, Any] | None = None, **more: Any) -> Definition:
    return Definition(name, State(states=states, **(root or {})), **more)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def labels(effects: Iterable[Effect]) -> list[str]:
    return [effect.label for effect in effects if isinstance(effect, Logged)]


def said(name: str) -> tuple[tuple[Log, ...], ...]:
    return ((Log(name),),)


def loud(name: str, *states: State, kind: Kind = Kind.STATE, transitions: tuple[Transition, ...] = ()) -> State:
    """Says when it is entered and exited."""
    return State(name, kind, states, entry=said(f"+{name}"), exit=said(f"-{name}"), transitions=transitions)


def running(definition: Definition, **more: Any) -> tuple[Machine, list[Effect]]:
    effects: list[Effect] = []
    return Machine(definition, outside=effects.append, **more).start(), effects


REGIONS = chart(
    S("off", transitions=(T("start", ("a2", "b1")),)),
    loud(
        "both",
        loud(
            "a",
            loud("a1", transitions=(T("tick", ("a2",)),)),
            loud("a2", transitions=(T("end", ("a9",)),)),
            S("a9", Kind.FINAL),
        ),
        loud("b", loud("b1", transitions=(T("tick", ("b2",)), T("end", ("b9",)))), loud("b2"), S("b9", Kind.FINAL)),
        S("was", Kind.DEEP_HISTORY),
        kind=Kind.PARALLEL,
        transitions=(T("stop", ("off",)), T("done.state.both", ("off",))),
    ),
)


# -- core --------------------------------------------------------------------------------------------------------------


@promise("core.state", "Provides hierarchical state management")
@promise("core.transition", "Coordinates with state.py for state changes")
def test_states_are_exited_from_within_and_entered_from_without() -> None:
    machine, effects = running(
        chart(loud("a", loud("b", transitions=(T("go", ("d",), do=(Log("go"),)),))), loud("c", loud("d")))
    )
    effects.clear()

    machine.send("go")

    assert labels(effects) == ["-b", "-a", "go", "+c", "+d"]
    assert machine.configuration == ("c", "d")


@promise("core.state", "Maintains state data isolation")
def test_a_states_variables_are_seen_inside_it_only_and_gone_with_it() -> None:
    own = State("a", variables=(Variable("x", value=1),), transitions=(T("go", ("b",)), T("more", ("a",), "x < 2")))
    machine = Machine(chart(own, S("b", transitions=(T("back", ("a",)),)))).start()
    values = [dict(machine.data)]
    for event in ("go", "back"):
        machine.send(event)
        values.append(dict(machine.data))

    assert values == [{"a.x": 1}, {}, {"a.x": 1}]
    with pytest.raises(DefinitionError, match="no variable is called 'x'"):
        Chart(chart(own, S("b", transitions=(T("go", ("a",), "x == 1"),))))


@promise("core.state", "Enforces state invariants")
def test_a_step_that_breaks_an_invariant_has_not_happened() -> None:
    spend = T("spend", kind="internal", do=(Log("paid"), Assign("left", "left - result")))
    state = State("a", invariants=("left >= 0",), transitions=(spend,))
    machine, effects = running(chart(state, root={"variables": (Variable("left", value=3),)}))

    assert (machine.send("spend", 4), machine.data["left"], labels(effects)) == (False, 3, [])
    assert machine.fault is not None and "left >= 0" in machine.fault.what
    assert (machine.send("spend", 3), machine.data["left"], labels(effects)) == (True, 0, ["paid"])


@promise("core.state", "Manages history state preservation", "Coordinates with region.py for parallel states")
def test_a_history_leads_back_to_where_every_region_was() -> None:
    off = replaced(REGIONS, "off", transitions=(T("start", ("a2", "b1")), T("resume", ("was",))))
    machine = Machine(off).start()
    for event in ("start", "tick", "stop", "resume"):
        machine.send(event)

    assert machine.configuration == ("both", "a", "a2", "b", "b2")
    assert region_status(machine.instance) == {"both": {"a": "active", "b": "active"}}


def replaced(definition: Definition, name: str, **fields: Any) -> Definition:
    states = tuple(State(name, **fields) if state.id == name else state for state in definition.root.states)
    return Definition(definition.name, State(states=states), version=definition.version)


@promise("core.transition", "Implements transition type hierarchy")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [("external", ["-b", "-a", "+a", "+c"]), ("local", ["-b", "+c"]), ("internal", ["stays"])],
)
def test_a_transition_leaves_its_source_or_only_what_is_in_it_or_nothing(kind: Any, expected: list[str]) -> None:
    way = T("go", () if kind == "internal" else ("c",), kind=kind, do=(Log("stays"),) if kind == "internal" else ())
    machine, effects = running(chart(loud("a", loud("b"), loud("c"), transitions=(way,))))
    effects.clear()

    assert machine.send("go")
    assert labels(effects) == expected


@promise("core.transition", "Manages transition behavior and actions", "Integrates with event.py for triggers")
def test_a_transition_is_taken_by_its_event_and_guard_and_does_what_it_says() -> None:
    way = T("load.high load.low", ("b",), "result > limit", do=(Assign("limit", "result"), Log("over", "limit")))
    machine, effects = running(
        chart(S("a", transitions=(way,)), S("b"), root={"variables": (Variable("limit", value=5),)})
    )

    assert [machine.send("load", 9), machine.send("load.highest", 9), machine.send("load.high.now", 5)] == [False] * 3
    assert machine.send("load.high.now", 9)
    assert (machine.configuration, effects) == (("b",), [Logged("over", 9)])


@promise("core.transition", "Resolves transition conflicts")
def test_the_inner_of_two_conflicting_transitions_is_taken_else_the_first_in_the_document() -> None:
    inner = chart(
        S("a", states=(S("b", transitions=(T("go", ("c",)),)),), transitions=(T("go", ("d",)),)), S("c"), S("d")
    )
    regions = chart(
        S("p", Kind.PARALLEL, (S("x", transitions=(T("go", ("c",)),)), S("y", transitions=(T("go", ("d",)),)))),
        S("c"),
        S("d"),
    )
    machines = [Machine(definition).start() for definition in (inner, regions)]

    assert [machine.send("go") and machine.configuration for machine in machines] == [("c",), ("c",)]


@promise("core.event", "Implements event queue management")
def test_waiting_events_are_bounded_and_can_be_taken_back() -> None:
    queue = EventQueue(limit=2)

    assert [queue.put(Event(name, id=name)) for name in "abc"] == [True, True, False]
    assert (queue.cancel("a"), queue.cancel("a"), [event.name for event in queue]) == (True, False, ["b"])


@promise("core.event", "Maintains event ordering", "Coordinates with executor.py for processing")
def test_inner_events_come_before_outer_ones_and_the_urgent_before_the_usual() -> None:
    order: list[str] = []

    def note(scope: Scope) -> None:
        assert scope.event is not None
        order.append(scope.event.name)

    def more(scope: Scope) -> None:
        machine.send("usual")
        machine.send("later", priority=Priority.LOW)
        machine.send("also usual")
        machine.send("urgent", priority=Priority.HIGH)

    machine = Machine(
        chart(
            S(
                "a",
                transitions=(
                    T("go", kind="internal", do=(Raise("inner"), Call(more), Raise("inner too"))),
                    T("*", kind="internal", do=(Call(note),)),
                ),
            )
        )
    ).start()
    machine.send("go")

    assert order == ["inner", "inner too", "urgent", "usual", "also usual", "later"]


@promise("core.event", "Handles event processing patterns")
def test_a_deferred_event_waits_for_a_state_that_takes_it() -> None:
    machine = Machine(
        chart(
            S("busy", defer=("job",), transitions=(T("free", ("idle",)),)),
            S("idle", transitions=(T("job", ("busy",), do=(Assign("done", "done + [result]"),)),)),
            root={"variables": (Variable("done", value=[]),)},
        )
    ).start()
    machine.send("job", 1), machine.send("job", 2), machine.send("dropped", 3)
    before = dict(machine.data)
    machine.send("free"), machine.send("free")

    assert (before, machine.data["done"], machine.configuration) == ({"done": []}, [1, 2], ("busy",))


@promise("core.event", "Integrates with scheduler.py for time events")
@promise("runtime.scheduler", "Manages time and change events", "Integrates with executor.py for processing")
def test_time_and_change_are_events_like_others() -> None:
    clock = Clock()
    machine = Machine(
        chart(
            S("cold", transitions=(T(when="celsius > 60", to=("warm",)), T(after="5m", to=("broken",)))),
            S("warm", transitions=(T(after="=minutes * 60", to=("cold",)),)),
            S("broken"),
            root={
                "variables": (Variable("celsius", value=20), Variable("minutes", value=2)),
                "transitions": (T("reading", kind="internal", do=(Assign("celsius", "result"),)),),
            },
        ),
        clock=clock,
    ).start()
    seen = [(machine.advance(), machine.configuration)]
    machine.send("reading", 61)
    seen.append((machine.advance(), machine.configuration))
    machine.send("reading", 20)
    clock.now = 120.0
    seen.append((machine.advance(), machine.configuration))
    clock.now = 420.0
    seen.append((machine.advance(), machine.configuration))

    assert seen == [(300.0, ("cold",)), (120.0, ("warm",)), (300.0, ("cold",)), (None, ("broken",))]


@promise("core.region", "Manages parallel region execution", "Integrates with executor.py for concurrency")
@promise("runtime.executor", "Handles concurrent operations")
def test_every_region_takes_the_event_in_one_step_in_the_order_of_the_document() -> None:
    machine, effects = running(
        chart(
            loud(
                "p",
                loud("x", loud("x1", transitions=(T("go", ("x2",)),)), loud("x2")),
                loud("y", loud("y1", transitions=(T("go", ("y2",)),)), loud("y2")),
                kind=Kind.PARALLEL,
            )
        )
    )
    effects.clear()
    machine.send("go")

    assert labels(effects) == ["-y1", "-x1", "+x2", "+y2"]


@promise("core.region", "Maintains region synchronization")
def test_a_parallel_state_is_complete_when_each_of_its_regions_is() -> None:
    regions = tuple(
        S(name, states=(S(f"{name}1", transitions=(T(f"end.{name}", (f"{name}9",)),)), S(f"{name}9", Kind.FINAL)))
        for name in ("x", "y")
    )
    machine = Machine(
        chart(S("p", Kind.PARALLEL, regions, transitions=(T("done.state.p", ("over",)),)), S("over"))
    ).start()
    machine.send("end.y")
    half = region_status(machine.instance)
    machine.send("end.x")

    assert half == {"p": {"x": "active", "y": "completed"}}
    assert machine.configuration == ("over",)


@promise("core.region", "Maintains region synchronization")
def test_a_join_waits_for_the_slower_region() -> None:
    both = S(
        "p",
        Kind.PARALLEL,
        (
            S("x", states=(S("x1", transitions=(T("one", ("x2",)),)), S("x2", transitions=(T(to=("met",)),)))),
            S("y", states=(S("y1", transitions=(T("two", ("y2",)),)), S("y2", transitions=(T(to=("met",)),)))),
        ),
    )
    machine = Machine(chart(both, S("met", Kind.JOIN, transitions=(T(to=("end",)),)), S("end"))).start()

    ways = [(machine.send(event), machine.configuration) for event in ("one", "two")]

    assert ways == [(True, ("p", "x", "x2", "y", "y1")), (True, ("end",))]


@promise("core.region", "Handles cross-region transitions", "Coordinates with state.py for hierarchy")
def test_a_fork_enters_regions_where_it_says_and_a_way_across_regions_enters_the_parallel_state_anew() -> None:
    across = S(
        "p",
        Kind.PARALLEL,
        (
            S("x", states=(S("x1", transitions=(T("cross", ("y2",)),)), S("x2"))),
            S("y", states=(S("y1"), S("y2"))),
        ),
    )
    machine = Machine(chart(S("a", transitions=(T("fork", ("x2", "y2")), T("plain", ("p",)))), across)).start()
    forked = machine.send("fork") and machine.configuration
    machine = Machine(machine.chart).start()
    machine.send("plain"), machine.send("cross")

    assert forked == ("p", "x", "x2", "y", "y2")
    assert machine.configuration == ("p", "x", "x1", "y", "y2")


@promise("core.machine", "Orchestrates state machine lifecycle", "Coordinates all core components")
def test_a_machine_is_started_lives_and_ends_with_a_result() -> None:
    definition = chart(
        S("work", exit=said("leave"), transitions=(T("end", ("over",)),)),
        S("over", Kind.FINAL, result=Result("{'by': result}")),
    )
    machine, effects = running(definition)
    with pytest.raises(ValueError, match="was started before"):
        machine.start()
    machine.send("end", "oncall")

    assert (machine.done, machine.result, machine.send("end")) == (True, {"by": "oncall"}, False)
    stopped, effects = running(definition)
    stopped.stop()
    assert (stopped.done, stopped.result, labels(effects)) == (True, None, ["leave"])


@promise("core.machine", "Manages configuration and initialization")
def test_a_machine_begins_with_its_initial_states_and_values_or_those_it_is_given() -> None:
    definition = chart(
        S("a", states=(S("a1"), S("a2")), initial=("a2",)),
        root={"variables": (Variable("n", value=1, type="integer"), Variable("twice", "n * 2"))},
    )
    machines = [Machine(definition).start(), Machine(definition).start(n=5)]

    assert [machine.configuration for machine in machines] == [("a", "a2")] * 2
    assert [dict(machine.data) for machine in machines] == [{"n": 1, "twice": 2}, {"n": 5, "twice": 10}]
    with pytest.raises(ValueError, match="variable 'n'"):
        Machine(definition).start(n="five")


@promise("core.machine", "Integrates with monitor.py for introspection")
@promise("runtime.monitor", "Provides introspection capabilities")
def test_a_machine_says_how_it_came_to_be_here_and_what_keeps_it_from_there() -> None:
    clock = Clock()
    machine = Machine(
        chart(S("a", transitions=(T("go", ("b",)),)), S("b", transitions=(T("on", ("c",), "result > 3"),)), S("c")),
        clock=clock,
        monitor=Monitor(),
    ).start()
    clock.now = 7.0
    machine.send("go")

    assert [str(entered) for entered in machine.explain()] == ["'b': since 7.000, by 'go', through a -> b on go"]
    (blocked,) = machine.why_not("c")
    assert "guard `result > 3` depends on the event's data" in str(blocked)


@promise("core.machine", "Handles dynamic modifications")
def test_a_chart_is_exchanged_under_way_at_the_same_place_or_not_at_all() -> None:
    inside = (S("x", transitions=(T("go", ("y",)),)), S("y"), S("was", Kind.HISTORY))
    old = chart(S("a", states=inside, transitions=(T("leave", ("b",)),)), S("b"))
    machine = Machine(old).start()
    machine.send("go"), machine.send("leave")
    back = S("b", transitions=(T("back", ("was",)), T("on", ("c",))))
    machine.modify(chart(S("a", states=inside, transitions=(T("leave", ("b",)),)), back, S("c")))
    remembered = machine.send("back") and machine.configuration
    machine.send("leave"), machine.send("on")
    with pytest.raises(UnsafeModification, match="state 'c' is active, and missing"):
        machine.modify(old)

    assert (remembered, machine.configuration) == (("a", "y"), ("c",))


# -- runtime -----------------------------------------------------------------------------------------------------------


@promise("runtime.executor", "Enforces run-to-completion semantics", "Coordinates with event.py for processing")
@promise("runtime.scheduler", "Coordinates with event.py for queuing")
def test_what_is_sent_during_a_step_waits_for_its_end() -> None:
    seen: list[Any] = []

    def reenter(scope: Scope) -> None:
        seen.append(("answer", machine.send("second"), machine.advance()))

    machine = Machine(
        chart(
            S("a", transitions=(T("first", ("b",), do=(Call(reenter), Send("third", delay=0.0))),)),
            S("b", transitions=(T(to=("c",), do=(Call(lambda scope: seen.append("rest of the first")),)),)),
            S("c", transitions=(T("second", ("d",)), T("third", ("lost",)))),
            S("d", transitions=(T("third", ("e",)),)),
            S("e"),
            S("lost"),
        )
    ).start()
    taken = machine.send("first")

    assert (taken, seen) == (True, [("answer", None, None), "rest of the first"])
    assert machine.configuration == ("e",)


@promise("runtime.executor", "Manages transition execution")
def test_a_step_that_finds_no_rest_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MICROSTEPS >= 1000
    monkeypatch.setattr("x0tta6bl4.statechart.runtime.executor.MICROSTEPS", 50)
    machine, _ = running(
        chart(
            S("a", transitions=(T("go", ("b",)),)),
            S("b", transitions=(T(to=("c",)),)),
            S("c", transitions=(T(to=("b",)),)),
        )
    )

    assert (machine.send("go"), machine.configuration) == (False, ("a",))
    assert machine.fault is not None and "no rest after" in machine.fault.why


@promise("runtime.scheduler", "Maintains timer consistency", "Handles timer interruptions")
def test_timers_come_in_due_order_are_cancelled_by_an_exit_and_survive_being_written_down() -> None:
    clock = Clock()
    timers = Timers(clock)
    for name, delay in (("late", 9.0), ("soon", 3.0), ("same", 3.0), ("never", 5.0)):
        timers.arm("m", name, delay, Event(name))
    timers.cancel("m", "never")
    rows = json.loads(json.dumps(timers.snapshot(wall=1000.0)))
    clock.now = 50.0  # another process, whose clock began elsewhere; two seconds have passed
    later = Timers(clock)
    later.restore(rows, wall=1002.0)

    assert [(timer.id, timer.due) for timer in later.waiting("m")] == [("soon", 51.0), ("same", 51.0), ("late", 57.0)]
    later.restore(rows, wall=0.0)  # a clock that was set back makes nobody wait longer than was left
    assert [timer.due for timer in later.waiting("m")] == [53.0, 53.0, 59.0]


@promise("runtime.scheduler", "Handles timer interruptions")
def test_a_state_that_is_left_forgets_what_it_waited_for() -> None:
    clock = Clock()
    waits = S("a", transitions=(T(after=5.0, to=("late",)), T("go", ("b",))))
    machine = Machine(chart(waits, S("b", transitions=(T("back", ("a",)),)), S("late")), clock=clock).start()
    clock.now = 4.0
    machine.send("go"), machine.send("back")

    assert machine.advance() == 5.0


@promise("runtime.executor", "Integrates with monitor.py for metrics")
@promise("runtime.monitor", "Tracks execution metrics", "Coordinates with all modules for monitoring")
def test_a_monitor_counts_events_steps_faults_and_transitions() -> None:
    monitor = Monitor(Level.DETAILED)
    broken = T("fail", kind="internal", do=(Assign("n", "n + 'x'"),))
    machine = Machine(
        chart(
            S("a", transitions=(T("go", ("b",)), broken)),
            S("b", transitions=(T(to=("c",)),)),
            S("c", transitions=(T("end", ("z",)),)),
            S("z", Kind.FINAL),
            root={"variables": (Variable("n", value=0),)},
        ),
        monitor=monitor,
    ).start()
    for event in ("nothing", "fail", "go", "end"):
        machine.send(event)

    assert monitor.counts() == {"events": 4, "taken": 2, "faults": 1, "ended": 1, "microsteps": 4}
    assert monitor.transitions["test", "a -> b on go"] == 1


@promise("runtime.monitor", "Emits state machine events")
@promise("extensions.hooks", "Provides customization points", "Integrates with all modules for extension")
def test_whoever_wants_to_know_is_told_what_happens_in_order() -> None:
    hooks, told = Hooks(), list[str]()

    def telling(point: Point) -> Callable[[Mapping[str, Any]], None]:
        return lambda known: told.append(f"{point.value} {known['state']}" if "state" in known else point.value)

    for point in Point:
        hooks.add(point, telling(point))
    machine = Machine(
        chart(S("a", transitions=(T("go", ("z",)), T("bad", guard="1 / 0 > 1"))), S("z", Kind.FINAL)), hooks=hooks
    )
    machine.start()
    machine.send("bad")
    machine.modify(machine.chart)
    machine.restore(machine.snapshot())
    machine.send("go")

    assert told == [
        "started",
        "transition",
        "entered a",
        "before_event",
        "faulted",
        "after_event",
        "modified",
        "restored",
        "before_event",
        "exited a",
        "transition",
        "entered z",
        "ended",
        "after_event",
    ]


@promise("runtime.monitor", "Maintains monitoring boundaries")
def test_looking_on_is_bounded_and_changes_nothing() -> None:
    definition = chart(S("a", transitions=(T("flip", ("b",)),)), S("b", transitions=(T("flip", ("a",)),)))
    monitor = Monitor(trace=10)
    watched, alone = Machine(definition, monitor=monitor).start(), Machine(definition).start()
    for _ in range(101):
        watched.send("flip"), alone.send("flip")

    assert len(list(monitor.trace())) == 10
    assert watched.snapshot() == alone.snapshot()
    assert all(step.variables is None and step.event_data is None for step in monitor.trace())


# -- persistence -------------------------------------------------------------------------------------------------------


def lived() -> Machine:
    """Everything that can be written down: history, variables, timers, deferred events, an activity."""
    machine = Machine(
        chart(
            S(
                "in",
                states=(
                    S("x", transitions=(T("go", ("y",)),)),
                    S("y", transitions=(T("done", ("x",)),)),
                    S("was", Kind.HISTORY),
                ),
                transitions=(T("leave", ("out",)),),
            ),
            S(
                "out",
                defer=("late",),
                variables=(Variable("n", value=7),),
                activities=(Activity("watch"),),
                transitions=(T("back", ("was",)), T(after="1m", to=("in",))),
            ),
            root={"variables": (Variable("notes", value=["ü"], type="list[string]"),)},
        ),
        clock=Clock(),
        wall=lambda: 5000.0,
    ).start()
    machine.send("go"), machine.send("leave"), machine.send("late", {"k": 1})
    return machine


@promise("persistence.serializer", "Handles state machine persistence", "Preserves runtime state")
def test_a_machine_that_was_written_down_goes_on_as_if_nothing_had_been() -> None:
    machine = lived()
    text = json.dumps(machine.snapshot())
    clock = Clock()
    again = Machine(machine.chart, clock=clock, wall=lambda: 5040.0).restore(json.loads(text))

    assert json.dumps({**again.snapshot(), "timers": []}) == json.dumps({**machine.snapshot(), "timers": []})
    assert again.advance() == 20.0
    again.send("back")
    assert (again.configuration, again.data) == (("in", "y"), {"notes": ["ü"]})


@promise("persistence.serializer", "Maintains version compatibility")
def test_older_formats_are_read_and_other_versions_of_a_chart_need_a_way_to_them() -> None:
    machine = Machine(chart(S("a"), S("b"))).start()
    old = serializer.downgrade(machine.snapshot())
    newer = Chart(chart(S("c"), S("b"), version="2"))
    way = Migration(to="2", states={"a": ("c",)})

    assert old["format"] == 1 and serializer.restore(machine.chart, old, Runtime()).configuration == ("a",)
    with pytest.raises(serializer.SnapshotError, match="is not this chart's"):
        serializer.restore(newer, machine.snapshot(), Runtime())
    assert apply(machine.instance, newer, way, Runtime()).configuration == ("c",)
    assert serializer.compatibility(machine.chart.definition, newer.definition).level == "needs-migration"


@promise("persistence.serializer", "Coordinates with validator.py for integrity")
@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("states", ["in", "x", "out"], "exactly one"),
        ("states", ["nowhere"], "nowhere"),
        ("data", {"notes": "none", "out.n": 1}, "notes"),
        ("history", {"was": ["out"]}, "was"),
        ("format", 99, "99"),
    ],
)
def test_what_was_tampered_with_is_refused_with_its_place(key: str, value: Any, why: str) -> None:
    machine = lived()

    with pytest.raises(serializer.SnapshotError, match=why):
        Machine(machine.chart).restore({**machine.snapshot(), key: value})


@promise("persistence.serializer", "Integrates with types.py for serialization")
def test_only_json_values_are_written_down() -> None:
    def smuggle(scope: Scope) -> None:
        scope.data["x"] = {1, 2}

    machine = Machine(
        chart(
            S("a", transitions=(T("go", kind="internal", do=(Call(smuggle),)),)), root={"variables": (Variable("x"),)}
        )
    ).start()
    assert machine.snapshot()["data"] == {"x": None}
    machine.send("go")

    with pytest.raises(serializer.SnapshotError, match=r"data\.x is \{1, 2\}"):
        machine.snapshot()


@promise("persistence.validator", "Validates state machine definitions", "Coordinates with all modules for validation")
def test_every_mistake_of_a_definition_is_told_with_its_place() -> None:
    report = validator.check(
        chart(
            S("a", transitions=(T("go", ("nowhere",)), T("on", ("b",), "x >"))),
            S("a", variables=(Variable("v", value="1", type="integer"),)),
            S("b", Kind.FINAL, transitions=(T("x", ("a",)),)),
            S("c", invariants=("missing == 1",)),
        )
    )
    rules = {problem.rule for problem in report.problems if problem.level == "error"}

    assert not report.ok
    assert rules >= {"target", "expression", "id"} and len(report.problems) >= 6


@promise("persistence.validator", "Ensures semantic consistency")
def test_a_place_from_which_no_end_can_be_reached_is_found_with_the_way_into_it() -> None:
    report = validator.check(
        chart(
            S("a", transitions=(T("go", ("b",)), T("end", ("z",)))),
            S("b", transitions=(T("on", ("c",)),)),
            S("c", transitions=(T("again", ("b",)),)),
            S("z", Kind.FINAL),
        )
    )
    (problem,) = [problem for problem in report.problems if problem.rule == "no-end"]

    assert problem.path is not None and [str(step) for step in problem.path] == ["go"]


@promise("persistence.validator", "Verifies transition rules")
def test_a_transition_that_is_never_taken_is_found() -> None:
    report = validator.check(
        chart(
            S("a", transitions=(T("go", ("b",)), T("go", ("c",), "1 == 1"))),
            S("b", transitions=(T("on", ("c",)),)),
            S("c"),
        )
    )

    assert [problem.rule for problem in report.problems if "never taken" in problem.what] == ["shadowed"]


@promise("persistence.validator", "Maintains validation boundaries")
def test_a_chart_with_too_many_states_to_look_at_is_said_to_be_so() -> None:
    regions = tuple(
        S(f"r{n}", states=tuple(S(f"r{n}s{k}", transitions=(T(f"e{n}", (f"r{n}s{(k + 1) % 3}",)),)) for k in range(3)))
        for n in range(6)
    )
    report = validator.check(chart(S("p", Kind.PARALLEL, regions)), limit=100)

    assert (report.complete, [problem.rule for problem in report.problems]) == (False, ["limit"])
    assert validator.check(chart(S("p", Kind.PARALLEL, regions))).states == 3**6


# -- types -------------------------------------------------------------------------------------------------------------


@promise("types.base", "Defines core type system", "Manages type safety")
def test_a_variable_takes_values_of_its_type_only() -> None:
    put = T("put", kind="internal", do=(Assign("at", "result"),))
    kind = "record{host: string, ports: list[integer], note?: string | null}"
    machine = Machine(
        chart(
            S("a", transitions=(put,)),
            root={"variables": (Variable("at", value={"host": "h", "ports": []}, type=kind),)},
        )
    ).start()
    good = {"host": "h", "ports": [1, 2], "note": None}
    wrong = [{"host": "h"}, {"host": "h", "ports": [1, "2"]}, {"host": "h", "ports": [], "port": 1}, 7, None]

    assert [machine.send("put", value) for value in wrong] == [False] * len(wrong)
    assert machine.data["at"] == {"host": "h", "ports": []}
    assert machine.send("put", good) and machine.data["at"] == good


@promise("types.base", "Manages type safety")
def test_an_expression_reaches_values_and_nothing_else() -> None:
    for source in ("().__class__", "x.__init__", "open('/etc/passwd')", "[y for y in x]", "x.append(1)"):
        with pytest.raises(ValueError):
            compile_expression(source)
    with pytest.raises(EvaluationError):
        compile_expression("'a' * 1000000000")({}, None, None)


@promise("types.base", "Specifies type compatibility rules")
@pytest.mark.parametrize(
    ("wanted", "given", "fits"),
    [
        ("number", "integer", True),
        ("integer", "number", False),
        ("string | null", "string", True),
        ("string", "string | null", False),
        ("map[number]", "record{a: integer}", True),
        ("record{a: any}", "record{a: integer, b: integer}", False),
        ("list[any]", "list[string]", True),
    ],
)
def test_one_type_takes_the_values_of_another_or_does_not(wanted: str, given: str, fits: bool) -> None:
    assert parse_type(wanted).accepts(parse_type(given)) is fits


@promise("types.base", "Coordinates with validator.py for checking", "Integrates with extensions.py for custom types")
@promise("types.extensions", "Provides type system extension points", "Coordinates with base.py for compatibility")
def test_a_type_of_ones_own_is_checked_before_and_while_a_chart_runs() -> None:
    types = TypeExtensions()
    types.register("port", lambda value: None if 0 < value < 65536 else f"{value} is no port", of="integer")

    def with_first(value: int) -> Definition:
        put = T("put", kind="internal", do=(Assign("at", "result"),))
        return chart(S("a", transitions=(put,)), root={"variables": (Variable("at", value=value, type="port"),)})

    machine = Machine(Chart(with_first(80), extensions=types)).start()

    assert [machine.send("put", 70_000), machine.send("put", 443)] == [False, True]
    assert "70000 is no port" in "\n".join(map(str, validator.check(with_first(70_000), extensions=types).problems))
    assert not validator.check(with_first(80)).ok  # without the extension there is no such type
    assert parse_type("integer").accepts(parse_type("port", types))
    assert not parse_type("port", types).accepts(parse_type("integer"))


@promise("types.extensions", "Manages type conversions", "Maintains type consistency")
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("duration", "1h30m", 5400.0),
        ("size", "1.5KiB", 1536),
        ("ip", "FD00::0007", "fd00::7"),
        ("network", "10.0.0.0/24", "10.0.0.0/24"),
        ("timestamp", "2030-01-31T12:00:00+02:00", 1896084000.0),
    ],
)
def test_what_people_write_is_converted_and_shown_so_that_it_is_read_back(name: str, text: str, value: Any) -> None:
    types = TypeExtensions()

    assert types.convert(name, text) == value
    assert types.convert(name, types.show(name, value)) == value
    with pytest.raises(ValueError):
        types.convert(name, "neither here nor there")


# -- extensions --------------------------------------------------------------------------------------------------------


@promise("extensions.hooks", "Defines extension interfaces", "Manages extension lifecycle")
def test_hooks_come_in_order_are_taken_away_and_one_that_always_fails_is_not_called_any_more() -> None:
    hooks, order = Hooks(), list[str]()

    def fails(known: Mapping[str, Any]) -> None:
        raise RuntimeError("broken")

    hooks.add("after_event", lambda known: order.append("second"))
    hooks.add("after_event", lambda known: order.append("first"), order=-1)
    remove = hooks.add("after_event", lambda known: order.append("gone"))
    hooks.add("after_event", fails, name="fails")
    remove()
    machine = Machine(chart(S("a")), hooks=hooks).start()
    for _ in range(IN_A_ROW + 5):
        machine.send("x")

    assert order[:2] == ["first", "second"] and "gone" not in order and len(order) == 2 * (IN_A_ROW + 5)
    assert "fails" not in hooks.counts()["after_event"]
    assert "not called any more" in hooks.faults[-1].why
    with pytest.raises(ValueError):
        hooks.add("no such point", fails)


PLUGIN = """
import os

def is_high(data, event):
    return event["data"] > data["limit"]

def raised(data, event):
    return {"limit": data["limit"] + 1}

def reads(path):
    return open(path).read()

def escapes(what):
    return getattr(__import__(what[0]), what[1])(*what[2:])

def spins():
    while True:
        pass

def eats():
    return len(bytearray(1 << 30))

def is_even(value):
    return None if value % 2 == 0 else f"{value} is odd"

def fails(name):
    raise ValueError(name)
"""


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    (tmp_path / "rules.py").write_text(PLUGIN)
    bounds = Bounds(timeout=60.0, start=60.0, crashes=100, backoff=0.0, cpu=3_600)
    with Sandbox(tmp_path, bounds=bounds) as made:
        try:
            made.start()
        except SandboxUnavailable as why:
            pytest.skip(f"this machine cannot lock foreign code up: {why}")
        yield made


@promise("extensions.sandbox", "Implements extension isolation", "Maintains extension guarantees")
def test_foreign_guards_and_actions_work_and_what_they_do_wrong_is_a_failed_step(sandbox: Sandbox) -> None:
    ways = (
        T("load", ("high",), sandbox.as_guard("rules:is_high")),
        T("raise", kind="internal", do=(Call(sandbox.as_action("rules:raised")),)),
        T("peek", ("high",), sandbox.as_guard("rules:reads")),
    )
    machine = Machine(
        chart(S("low", transitions=ways), S("high"), root={"variables": (Variable("limit", value=5),)})
    ).start()

    assert [machine.send("load", 5), machine.send("raise"), machine.data["limit"]] == [False, True, 6]
    assert (machine.send("peek"), machine.configuration) == (False, ("low",))
    assert machine.fault is not None and "rules:reads" in machine.fault.why
    assert machine.send("load", 7) and machine.configuration == ("high",)


@promise("extensions.sandbox", "Enforces resource boundaries")
def test_foreign_code_that_takes_too_long_or_too_much_is_ended_and_the_next_call_is_served(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxError, match="took longer than"):
        sandbox.call("rules:spins", timeout=0.2)
    with pytest.raises(SandboxError, match="MemoryError"):
        sandbox.call("rules:eats")

    assert sandbox.call("rules:is_high", {"limit": 1}, {"data": 2}) is True
    assert (sandbox.tally.timeouts, sandbox.tally.starts) == (1, 2)


@promise("extensions.sandbox", "Manages extension security")
@pytest.mark.parametrize(
    "attempt",
    [
        ("rules:reads", "/etc/passwd"),
        ("rules:escapes", ["os", "fork"]),
        ("rules:escapes", ["os", "kill", 1, 0]),
        ("rules:escapes", ["socket", "socket"]),
        ("rules:escapes", ["os", "mkdir", "/tmp/was-here"]),
    ],
    ids=["read", "fork", "kill", "socket", "write"],
)
def test_foreign_code_reaches_nothing_outside(sandbox: Sandbox, attempt: tuple[str, Any]) -> None:
    with pytest.raises(SandboxError):
        sandbox.call(*attempt)


@promise("extensions.sandbox", "Coordinates with hooks.py for lifecycle")
@promise("extensions.hooks", "Coordinates with sandbox.py for isolation")
def test_a_foreign_hook_is_called_and_closed_with_its_machine_and_harms_nobody(sandbox: Sandbox) -> None:
    hooks = Hooks()
    hooks.add(Point.ENTERED, lambda known: sandbox.call("rules:fails", known["state"]), name="foreign")
    hooks.add(Point.ENDED, lambda known: sandbox.close())
    machine = Machine(chart(S("a", transitions=(T("end", ("z",)),)), S("z", Kind.FINAL)), hooks=hooks).start()
    machine.send("end")

    assert machine.done and sandbox.pid is None
    assert [(fault.point, fault.name) for fault in hooks.faults] == [(Point.ENTERED, "foreign")] * 2
    assert "ValueError: z" in hooks.faults[-1].why


@promise("types.extensions", "Integrates with sandbox.py for safety")
def test_a_foreign_type_is_checked_in_the_sandbox(sandbox: Sandbox) -> None:
    types = TypeExtensions()
    types.register("even", lambda value: sandbox.call("rules:is_even", value), of="integer")

    assert [parse_type("even", types).check(value) for value in (2, 3)] == [None, "the value: 3 is odd"]


@promise("runtime.executor", "Coordinates with event.py for processing")
def test_the_same_events_give_the_same_steps_and_the_same_ids() -> None:
    definition = chart(
        S("a", transitions=(T("go", ("b",), do=(Send("ping", target="peer", id_location="id"),)),)),
        S("b", activities=(Activity("watch"),), transitions=(T("back", ("a",)),)),
        root={"variables": (Variable("id"),)},
    )
    lives = []
    for _ in range(2):
        machine, effects = running(definition)
        for event in ("go", "back", "go"):
            machine.send(event)
        lives.append((machine.snapshot(), effects))

    assert lives[0] == lives[1]
    started = [effect.id for effect in lives[0][1] if isinstance(effect, Started)]
    assert len(started) == len(set(started)) == 2


# -- what imports what -------------------------------------------------------------------------------------------------

DRAWN = """
state region, transition state, event transition, region state, machine state, machine transition, machine event,
machine region, executor event, executor transition, scheduler event, monitor machine, serializer machine,
validator machine, validator serializer, base validator, type_ext base, hooks sandbox, sandbox machine,
sandbox executor, sandbox serializer, monitor executor, monitor scheduler, validator hooks, sandbox type_ext
"""
"""The document's own drawing of what depends on what."""


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """One way that leads back to where it began; empty: there is none."""
    done: set[str] = set()

    def walk(name: str, above: list[str]) -> list[str]:
        if name in above:
            return above[above.index(name) :]
        if name in done:
            return []
        done.add(name)
        return next((found for other in sorted(graph.get(name, ())) if (found := walk(other, [*above, name]))), [])

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def imports(module: str, tree: ast.Module) -> set[str]:
    """Everything of the package that a module imports, wherever in it, but for what only type checkers read."""
    checked_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for part in block.body
        for node in ast.walk(part)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in checked_only:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            found |= {node.module or "", *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


@cache
def import_graph() -> dict[str, set[str]]:
    trees = {}
    for path in sorted(ROOM.rglob("*.py")):
        name = ".".join((PACKAGE, *path.relative_to(ROOM).with_suffix("").parts)).removesuffix(".__init__")
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return {name: imports(name, tree) & set(trees) - {name} for name, tree in trees.items()}


def test_the_engines_modules_import_one_another_in_no_circle() -> None:
    graph = import_graph()

    assert cycle(graph) == []
    assert set(CONTRACT) <= {name.removeprefix(f"{PACKAGE}.") for name in graph}
    assert sum(map(len, graph.values())) > 60


def test_the_circles_of_the_documents_own_drawing_are_found() -> None:
    graph: dict[str, set[str]] = {}
    for edge in DRAWN.replace("\n", " ").split(","):
        one, other = edge.split()
        graph.setdefault(one, set()).add(other)

    assert set(cycle({name: graph[name] for name in ("state", "region")})) == {"state", "region"}
    graph["region"].discard("state")
    assert set(cycle(graph)) == {"base", "validator", "hooks", "sandbox", "type_ext"}
    graph["base"].clear()
    assert cycle(graph) == []


def test_the_core_stands_on_types_alone_and_nothing_stands_on_formats() -> None:
    """What the drawing means, without its circles: types below, the core above them, then runtime, then the rest."""
    level = {"types": 0, "core": 1, "runtime": 2, "persistence": 2, "extensions": 2, "formats": 3, "examples": 3}
    event = f"{PACKAGE}.core.event"  # stands on nothing: expressions read events, so types know what one is

    def room(name: str) -> str:
        return name.removeprefix(f"{PACKAGE}.").partition(".")[0]

    wrong = [
        (name, other)
        for name, others in import_graph().items()
        for other in others
        if name != PACKAGE and other not in (PACKAGE, event) and level[room(other)] > level[room(name)]
    ]

    assert wrong == []
