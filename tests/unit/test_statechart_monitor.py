"""Of an instance can be told how it came to be where it is, what it waits for, and how much it has done."""

from typing import Any

import pytest

from x0tta6bl4.statechart.core.content import Runtime
from x0tta6bl4.statechart.core.event import Event
from x0tta6bl4.statechart.core.machine import Chart, Instance
from x0tta6bl4.statechart.core.state import Definition, Kind, State, Variable
from x0tta6bl4.statechart.core.transition import Assign, Scope, Transition
from x0tta6bl4.statechart.runtime.executor import handle, new, start
from x0tta6bl4.statechart.runtime.monitor import Level, Monitor, why_not


class Driven:
    """An instance, its monitor, and a clock that ticks with every event."""

    def __init__(self, *states: State, monitor: Monitor | None = None, **root: Any) -> None:
        self.monitor = monitor or Monitor()
        self.runtime = Runtime()
        self.monitor.watch(self.runtime)
        chart = Chart(Definition("link", State(states=states, **root)))
        self.instance: Instance = new(chart, "i", self.runtime)
        self.now = 100.0

    def start(self) -> "Driven":
        start(self.instance)
        self.monitor.record(self.instance, None, self.now, True)
        self.runtime.effects.clear()
        return self

    def send(self, name: str, data: Any = None) -> bool:
        self.now += 1
        event = Event(name, data)
        taken = handle(self.instance, event)
        self.monitor.record(self.instance, event, self.now, taken)
        self.runtime.effects.clear()
        return taken

    def why_not(self, what: str | Event) -> list[str]:
        return [str(blocked) for blocked in self.monitor.why_not(self.instance, what)]


def _go(event: str, to: str, guard: Any = None, **more: Any) -> Transition:
    return Transition(event, (to,) if to else (), guard, **more)


def _link(monitor: Monitor | None = None) -> Driven:
    return Driven(
        State(
            "work",
            transitions=(_go("stop", "held"),),
            states=(
                State("look", transitions=(_go("found", "mend", "result.loss > 0.2"),)),
                State("mend", transitions=(_go("done", "look", do=(Assign("tries", "tries + 1"),)),)),
            ),
        ),
        State("held", transitions=(_go("resume", "work"), _go("", "gone", "tries > 3"))),
        State("gone", kind=Kind.FINAL),
        variables=(Variable("tries", value=0),),
        monitor=monitor,
    )


def test_each_active_state_is_explained_by_what_entered_it_last() -> None:
    link = _link().start()
    link.send("found", {"loss": 0.5})
    link.send("done")
    link.send("noise")

    told = [(one.state, one.at, one.event, one.transition) for one in link.monitor.explain(link.instance)]

    assert [("work", 100.0, None, "the start"), ("look", 102.0, "done", "mend -> look on done")] == told
    assert "'look': since 102.000, by 'done', through mend -> look on done" == str(
        link.monitor.explain(link.instance)[1]
    )


def test_what_is_longer_ago_than_the_trace_is_said_to_be_so() -> None:
    link = _link(Monitor(trace=3)).start()
    for _ in range(4):
        link.send("found", {"loss": 0.5})
        link.send("done")

    work, look = link.monitor.explain(link.instance)

    assert work.at is None
    assert "entered before what is remembered begins" in str(work)
    assert 108.0 == look.at
    assert 3 == len(list(link.monitor.trace()))


def test_a_step_that_was_taken_back_explains_nothing_and_is_counted_as_a_fault() -> None:
    link = Driven(
        State("a", transitions=(_go("go", "b", do=(Assign("n", "n + 'x'"),)),)),
        State("b"),
        variables=(Variable("n", value=1),),
    ).start()

    assert not link.send("go")

    assert ["a"] == [one.state for one in link.monitor.explain(link.instance)]
    assert (1, 0, 1) == (link.monitor.events, link.monitor.taken, link.monitor.faults)
    faults = [step.fault for step in link.monitor.trace() if step.fault]
    assert 1 == len(faults)
    assert "n + 'x'" in faults[0]


def test_a_state_says_which_events_it_waits_for_and_which_guards_do_not_hold() -> None:
    link = _link().start()

    assert [
        "look -> mend on found: waits for event 'found'; guard `result.loss > 0.2` depends on the event's data"
    ] == (link.why_not("mend"))
    assert ["work -> held on stop: waits for event 'stop'"] == link.why_not("held")
    assert ["held -> gone: source 'held' not active"] == link.why_not("gone")
    assert [] == link.why_not("look")

    link.send("stop")

    assert ["held -> gone: guard `tries > 3` is false: tries = 0"] == link.why_not("gone")
    assert [
        "held -> work on resume: waits for event 'resume'",
        "mend -> look on done: source 'mend' not active",
    ] == link.why_not("look")


def test_an_event_is_asked_about_with_its_data() -> None:
    link = _link().start()

    assert ["look -> mend on found: guard `result.loss > 0.2` is false: result.loss = 0.1"] == link.why_not(
        Event("found", {"loss": 0.1})
    )
    assert [] == link.why_not(Event("found", {"loss": 0.3}))
    assert ["look -> mend on found: guard `result.loss > 0.2` fails: `result.loss > 0.2`: there is no 'loss'"] == (
        link.why_not(Event("found", {}))
    )
    assert ["mend -> look on done: source 'mend' not active"] == link.why_not("done")


def test_what_is_called_by_no_name_gets_the_nearest() -> None:
    link = _link().start()

    assert ["'hold' is no state, and no transition is for such an event; did you mean 'held'?"] == link.why_not("hold")


def test_an_instance_that_does_not_run_is_kept_by_nothing_else() -> None:
    link = _link()

    assert ["the machine was not started"] == link.why_not("held")
    link.start()
    link.instance.data["tries"] = 9
    link.send("stop")
    assert ["the machine has ended"] == link.why_not("work")
    assert 1 == link.monitor.ended


@pytest.mark.parametrize("asked", ["outer", "go"])
def test_a_transition_behind_an_inner_one_is_said_to_be_shadowed(asked: str) -> None:
    link = Driven(
        State(
            "a",
            transitions=(_go("go", "outer"),),
            states=(State("b", transitions=(_go("go", "inner"),)), State("inner")),
        ),
        State("outer"),
    ).start()

    (reason,) = link.why_not(asked)

    assert reason.startswith("a -> outer on go: ")
    assert reason.endswith("shadowed by inner transition b -> inner on go")


def test_of_two_transitions_of_one_state_the_later_is_shadowed_as_long_as_the_earlier_holds() -> None:
    link = Driven(
        State("a", transitions=(_go("go", "b", "n < 2"), _go("go", "c", "n < 5"))),
        State("b"),
        State("c"),
        variables=(Variable("n", value=1),),
    ).start()

    assert ["a -> c on go: shadowed by earlier transition a -> b on go"] == link.why_not("go")
    link.instance.data["n"] = 3
    assert ["a -> b on go: guard `n < 2` is false: n = 3"] == link.why_not("go")


def test_a_transition_that_gives_way_to_another_region_says_so() -> None:
    link = Driven(
        State(
            "p",
            kind=Kind.PARALLEL,
            states=(
                State("r1", states=(State("a", transitions=(_go("go", "out1"),)),)),
                State("r2", states=(State("b", transitions=(_go("go", "out2"),)),)),
            ),
        ),
        State("out1"),
        State("out2"),
    ).start()

    assert ["b -> out2 on go: gives way to a -> out1 on go"] == link.why_not("go")


def test_values_are_shown_as_they_are_read_and_missing_ones_as_missing() -> None:
    link = Driven(
        State("a", transitions=(_go("go", "b", "peer.up and In('b') or get(peer, 'x') == peer['key'] and on"),)),
        State("b"),
        variables=(Variable("peer", value={"up": False, "key": "k" * 200}), Variable("on", value=True)),
    ).start()

    (reason,) = link.why_not("go")

    assert "peer.up = false, In('b') = false, peer = {'up': False," in reason
    assert "on = true" in reason
    assert len(reason) < 400
    link.instance.data["peer"] = {"key": 1}
    (reason,) = link.why_not("go")
    assert "fails" in reason


def test_a_guard_that_fails_takes_the_whole_step_back_and_is_named_where_it_stands_in_the_way() -> None:
    link = Driven(
        State(
            "a",
            transitions=(_go("go", "b"),),
            states=(State("c", transitions=(_go("go", "b", "n > 'x'"),)),),
        ),
        State("b"),
        variables=(Variable("n", value=1),),
    ).start()

    reasons = link.why_not("go")

    assert any("a -> b on go: the guard of c -> b on go fails, and with it the whole step" in one for one in reasons)
    assert any("c -> b on go: guard `n > 'x'` fails" in one for one in reasons)
    assert not link.send("go")


def test_a_function_as_guard_is_asked_about_the_event_in_question() -> None:
    def is_loud(scope: Scope) -> bool:
        return scope.event is not None and scope.event.data == "loud"

    link = Driven(State("a", transitions=(_go("go", "b", is_loud),)), State("b")).start()
    link.runtime.event = before = Event("other")

    (reason,) = link.why_not(Event("go", "soft"))

    assert "is_loud is false" in reason
    assert [] == link.why_not(Event("go", "loud"))
    assert before is link.runtime.event


def test_waiting_for_time_and_for_a_change_is_said_in_the_authors_words() -> None:
    link = Driven(
        State("a", transitions=(Transition(to=("late",), after="15m"), Transition(to=("hot",), when="heat > 90"))),
        State("late"),
        State("hot"),
        variables=(Variable("heat", value=20),),
    ).start()

    assert link.why_not("late")[0].endswith("waits until 15m after 'a' was entered")
    assert link.why_not("hot")[0].endswith("waits until `heat > 90` becomes true: heat = 20")


def test_asking_changes_nothing() -> None:
    link = _link().start()
    link.send("found", {"loss": 0.5})
    before = (link.instance.configuration, dict(link.instance.data), link.instance.history, link.instance.seq)

    for what in ("held", "look", "gone", "mend", "stop", "done", "nothing", Event("found", {"loss": 1})):
        why_not(link.instance, what)
    link.monitor.explain(link.instance)

    assert before == (link.instance.configuration, dict(link.instance.data), link.instance.history, link.instance.seq)
    assert [] == link.runtime.effects
    assert not link.runtime.queue
    assert link.send("done")


def test_what_is_kept_grows_with_the_level() -> None:
    kept = {}
    for level in Level:
        link = _link(Monitor(level)).start()
        link.send("found", {"loss": 0.5})
        link.send("noise", "x")
        kept[level] = (link.monitor, list(link.monitor.trace()))

    assert [2, 2, 2, 2] == [monitor.events for monitor, _ in kept.values()]
    assert [1, 1, 1, 1] == [monitor.taken for monitor, _ in kept.values()]
    assert [0, 2, 3, 3] == [len(trace) for _, trace in kept.values()]
    assert kept[Level.MINIMAL][0]._trace.maxlen == kept[Level.DEBUG][0]._trace.maxlen
    assert not kept[Level.NORMAL][0].transitions
    assert 1 == kept[Level.DETAILED][0].transitions["link", "look -> mend on found"]
    assert all(step.variables is None for step in kept[Level.DETAILED][1])
    assert [({"tries": 0}, {"loss": 0.5}), ({"tries": 0}, "x")] == [
        (step.variables, step.event_data) for step in kept[Level.DEBUG][1][1:]
    ]
    assert {"events": 2, "taken": 1, "faults": 0, "ended": 0, "microsteps": 2} == kept[Level.NORMAL][0].counts()


def test_one_monitor_tells_instances_apart() -> None:
    monitor = Monitor()
    one, other = _link(monitor).start(), _link(monitor)
    other.instance.id = "j"
    other.now = 500.0
    other.start()

    assert [100.0, 100.0] == [entered.at for entered in monitor.explain(one.instance)]
    assert [500.0, 500.0] == [entered.at for entered in monitor.explain(other.instance)]
    assert 1 == len(list(monitor.trace(other.instance)))
