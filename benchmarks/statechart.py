"""Measures the statechart engine beside others for Python: events a second, instances a second, bytes an instance.

    python -m benchmarks.statechart [--rounds 15] [--slice 0.02]

Run it with a Python that has the others installed (transitions, sismic, xstate-statemachine, python-statemachine); it
says which are missing, and compares with those that are there. All of them get the same charts and the same events in
one process, in turn, a slice of CPU time each, so that whatever disturbs the machine disturbs all of them. Before that
each one has to reach the same states by the same events. Times are CPU time; the best slice and the median are given.
A new instance is made from a chart that is there already, except with transitions, which has no such thing.

Exits with 1 when a goal is missed.
"""

import argparse
import gc
import importlib.metadata
import logging
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from x0tta6bl4.statechart import Chart, Definition, Event, Kind, Machine, Runtime, State, Transition, handle, new, start

Send = Callable[[str], Any]
OURS, EASY = "this engine", "this engine, Machine"
TOGGLE, LEVELS, REGIONS, BIRTH = "toggle", "three levels", "two regions, deep history", "a new toggle, started"
EVENTS = {
    TOGGLE: ("flip",),
    LEVELS: ("inner", "over", "inner", "over"),
    REGIONS: ("next", "pause", "resume", "next", "pause", "resume"),
}
INNERMOST = {
    TOGGLE: {"off", "on"},
    LEVELS: {"a111", "a112", "b111", "b112"},
    REGIONS: {"x1", "x21", "x22", "y1", "y2", "paused"},
}
BEST_PEER, SLOW_PEER, BYTES = 10.0, 80.0, 200
SLOW = "python-statemachine"


@dataclass
class Contestant:
    """One machine under way."""

    send: Send
    active: Callable[[], Iterable[str]]


@dataclass
class Peer:
    """How one engine makes each of the charts; it leaves out what it cannot express."""

    make: dict[str, Callable[[], Contestant]]
    cannot: dict[str, str] = field(default_factory=dict)


# -- the charts, as each engine has them written -----------------------------------------------------------------------


def _level(name: str, other: str) -> State:
    inner = (
        State(f"{name}111", transitions=(Transition("inner", (f"{name}112",)),)),
        State(f"{name}112", transitions=(Transition("inner", (f"{name}111",)),)),
    )
    middle = State(f"{name}1", states=(State(f"{name}11", states=inner),))
    return State(name, states=(middle,), transitions=(Transition("over", (other,)),))


def definitions() -> dict[str, Definition]:
    def to(event: str, target: str) -> tuple[Transition, ...]:
        return (Transition(event, (target,)),)

    toggle = State(states=(State("off", transitions=to("flip", "on")), State("on", transitions=to("flip", "off"))))
    x = State(
        "x",
        states=(
            State("x1", transitions=to("next", "x2")),
            State(
                "x2",
                states=(State("x21", transitions=to("next", "x22")), State("x22", transitions=to("next", "x1"))),
            ),
        ),
    )
    y = State("y", states=(State("y1", transitions=to("next", "y2")), State("y2", transitions=to("next", "y1"))))
    work = State(
        "work",
        states=(
            State("was", Kind.DEEP_HISTORY, transitions=(Transition(to=("both",)),)),
            State("both", Kind.PARALLEL, states=(x, y)),
        ),
        transitions=to("pause", "paused"),
    )
    return {
        TOGGLE: Definition("toggle", toggle),
        LEVELS: Definition("levels", State(states=(_level("a", "b"), _level("b", "a")))),
        REGIONS: Definition("regions", State(states=(work, State("paused", transitions=to("resume", "was"))))),
    }


def this_engine() -> Peer:
    charts = {name: Chart(definition) for name, definition in definitions().items()}
    runtime = Runtime()

    def made(chart: Chart) -> Contestant:
        instance = new(chart, "bench", runtime)
        start(instance)
        return Contestant(lambda name: handle(instance, Event(name)), lambda: instance.configuration)

    return Peer({name: partial(made, chart) for name, chart in charts.items()})


def this_machine() -> Peer:
    charts = {name: Chart(definition) for name, definition in definitions().items()}

    def made(chart: Chart) -> Contestant:
        machine = Machine(chart).start()
        return Contestant(machine.send, lambda: machine.configuration)

    return Peer({name: partial(made, chart) for name, chart in charts.items()})


def transitions() -> Peer:
    from transitions import Machine as Flat
    from transitions.extensions import HierarchicalMachine

    def flat() -> Contestant:
        model = Flat(
            states=["off", "on"],
            initial="off",
            transitions=[["flip", "off", "on"], ["flip", "on", "off"]],
            auto_transitions=False,
        )
        triggers = {"flip": model.flip}
        return Contestant(lambda name: triggers[name](), lambda: [model.state])

    def nested() -> Contestant:
        def level(n: str) -> dict[str, Any]:
            inner = {"name": f"{n}11", "initial": f"{n}111", "children": [f"{n}111", f"{n}112"]}
            return {
                "name": n,
                "initial": f"{n}1",
                "children": [{"name": f"{n}1", "initial": f"{n}11", "children": [inner]}],
            }

        moves: list[list[str]] = []
        for n, other in (("a", "b"), ("b", "a")):
            path = f"{n}_{n}1_{n}11_{n}11"
            moves += [["inner", f"{path}1", f"{path}2"], ["inner", f"{path}2", f"{path}1"], ["over", n, other]]
        model = HierarchicalMachine(
            states=[level("a"), level("b")], initial="a", transitions=moves, auto_transitions=False
        )
        triggers = {"inner": model.inner, "over": model.over}
        return Contestant(lambda name: triggers[name](), lambda: model.state.split("_"))

    return Peer({TOGGLE: flat, LEVELS: nested}, {REGIONS: "has no history"})


def sismic() -> Peer:
    from sismic.interpreter import Interpreter
    from sismic.model import BasicState, CompoundState, DeepHistoryState, OrthogonalState, Statechart
    from sismic.model import Transition as Move

    def running(chart: Statechart) -> Contestant:
        interpreter = Interpreter(chart)
        interpreter.execute()

        def send(name: str) -> None:
            interpreter.queue(name)
            interpreter.execute()

        return Contestant(send, lambda: interpreter.configuration)

    def flat() -> Statechart:
        chart = Statechart("toggle")
        chart.add_state(CompoundState("root", initial="off"), None)
        chart.add_state(BasicState("off"), "root")
        chart.add_state(BasicState("on"), "root")
        chart.add_transition(Move("off", "on", event="flip"))
        chart.add_transition(Move("on", "off", event="flip"))
        return chart

    def nested() -> Statechart:
        chart = Statechart("levels")
        chart.add_state(CompoundState("root", initial="a"), None)
        for n in "ab":
            chart.add_state(CompoundState(n, initial=f"{n}1"), "root")
            chart.add_state(CompoundState(f"{n}1", initial=f"{n}11"), n)
            chart.add_state(CompoundState(f"{n}11", initial=f"{n}111"), f"{n}1")
            chart.add_state(BasicState(f"{n}111"), f"{n}11")
            chart.add_state(BasicState(f"{n}112"), f"{n}11")
            chart.add_transition(Move(f"{n}111", f"{n}112", event="inner"))
            chart.add_transition(Move(f"{n}112", f"{n}111", event="inner"))
        chart.add_transition(Move("a", "b", event="over"))
        chart.add_transition(Move("b", "a", event="over"))
        return chart

    def regions() -> Statechart:
        chart = Statechart("regions")
        chart.add_state(CompoundState("root", initial="work"), None)
        chart.add_state(CompoundState("work", initial="both"), "root")
        chart.add_state(BasicState("paused"), "root")
        chart.add_state(DeepHistoryState("was", memory="both"), "work")
        chart.add_state(OrthogonalState("both"), "work")
        chart.add_state(CompoundState("x", initial="x1"), "both")
        chart.add_state(BasicState("x1"), "x")
        chart.add_state(CompoundState("x2", initial="x21"), "x")
        chart.add_state(BasicState("x21"), "x2")
        chart.add_state(BasicState("x22"), "x2")
        chart.add_state(CompoundState("y", initial="y1"), "both")
        chart.add_state(BasicState("y1"), "y")
        chart.add_state(BasicState("y2"), "y")
        for source, target in (("x1", "x2"), ("x21", "x22"), ("x22", "x1"), ("y1", "y2"), ("y2", "y1")):
            chart.add_transition(Move(source, target, event="next"))
        chart.add_transition(Move("work", "paused", event="pause"))
        chart.add_transition(Move("paused", "was", event="resume"))
        return chart

    return Peer({name: partial(running, made()) for name, made in zip(EVENTS, (flat, nested, regions), strict=True)})


def xstate() -> Peer:
    from xstate_statemachine import SyncInterpreter, create_machine

    def running(config: dict[str, Any]) -> Callable[[], Contestant]:
        chart = create_machine(config)

        def made() -> Contestant:
            machine = SyncInterpreter(chart).start()
            return Contestant(machine.send, lambda: [id.rsplit(".", 1)[-1] for id in machine.current_state_ids])

        return made

    def level(n: str, other: str) -> dict[str, Any]:
        inner = {
            f"{n}111": {"on": {"inner": f"{n}112"}},
            f"{n}112": {"on": {"inner": f"{n}111"}},
        }
        middle = {"initial": f"{n}11", "states": {f"{n}11": {"initial": f"{n}111", "states": inner}}}
        return {"initial": f"{n}1", "states": {f"{n}1": middle}, "on": {"over": f"#levels.{other}"}}

    x = {
        "initial": "x1",
        "states": {
            "x1": {"on": {"next": "x2"}},
            "x2": {
                "initial": "x21",
                "states": {"x21": {"on": {"next": "x22"}}, "x22": {"on": {"next": "#regions.work.both.x.x1"}}},
            },
        },
    }
    y = {"initial": "y1", "states": {"y1": {"on": {"next": "y2"}}, "y2": {"on": {"next": "y1"}}}}
    work = {
        "initial": "both",
        "states": {
            "was": {"type": "history", "history": "deep", "target": "both"},
            "both": {"type": "parallel", "states": {"x": x, "y": y}},
        },
        "on": {"pause": "#regions.paused"},
    }
    return Peer(
        {
            TOGGLE: running(
                {
                    "id": "toggle",
                    "initial": "off",
                    "states": {"off": {"on": {"flip": "on"}}, "on": {"on": {"flip": "off"}}},
                }
            ),
            LEVELS: running({"id": "levels", "initial": "a", "states": {"a": level("a", "b"), "b": level("b", "a")}}),
            REGIONS: running(
                {
                    "id": "regions",
                    "initial": "work",
                    "states": {"work": work, "paused": {"on": {"resume": "#regions.work.was"}}},
                }
            ),
        }
    )


def python_statemachine() -> Peer:
    from statemachine import HistoryState, StateChart
    from statemachine import State as Node

    class Toggle(StateChart):
        off = Node(initial=True)
        on = Node()
        flip = off.to(on) | on.to(off)

    class Levels(StateChart):
        class a(Node.Compound):
            class a1(Node.Compound):
                class a11(Node.Compound):
                    a111 = Node(initial=True)
                    a112 = Node()
                    inner = a111.to(a112) | a112.to(a111)

        class b(Node.Compound):
            class b1(Node.Compound):
                class b11(Node.Compound):
                    b111 = Node(initial=True)
                    b112 = Node()
                    inner = b111.to(b112) | b112.to(b111)

        over = a.to(b) | b.to(a)

    class Regions(StateChart):
        class work(Node.Compound):
            class both(Node.Parallel):
                class x(Node.Compound):
                    x1 = Node(initial=True)

                    class x2(Node.Compound):
                        x21 = Node(initial=True)
                        x22 = Node()
                        step = x21.to(x22)

                    next = x1.to(x2) | x2.x21.to(x2.x22) | x2.x22.to(x1)

                class y(Node.Compound):
                    y1 = Node(initial=True)
                    y2 = Node()
                    next = y1.to(y2) | y2.to(y1)

            was = HistoryState(type="deep")

        paused = Node()
        pause = work.to(paused)
        resume = paused.to(work.was)

    def running(cls: Any) -> Callable[[], Contestant]:
        def made() -> Contestant:
            machine = cls()
            return Contestant(machine.send, lambda: [state.id for state in machine.configuration])

        return made

    return Peer({TOGGLE: running(Toggle), LEVELS: running(Levels), REGIONS: running(Regions)})


PEERS: dict[str, Callable[[], Peer]] = {
    "transitions": transitions,
    "sismic": sismic,
    "xstate-statemachine": xstate,
    SLOW: python_statemachine,
}

# -- the race ----------------------------------------------------------------------------------------------------------


def agrees(case: str, one: Contestant, other: Contestant) -> str:
    """Empty, or where the two are in different states after the same events."""
    for number in range(24):
        event = EVENTS[case][number % len(EVENTS[case])]
        one.send(event)
        other.send(event)
        ours, theirs = (INNERMOST[case] & set(contestant.active()) for contestant in (one, other))
        if ours != theirs:
            return f"after {number + 1} events it is in {sorted(theirs)} instead of {sorted(ours)}"
    return ""


def timed(work: Callable[[int], None], seconds: float) -> Callable[[], float]:
    """A slice of about so much CPU time; returns the seconds that one unit of work took."""
    count = 1
    while True:
        began = time.process_time()
        work(count)
        took = time.process_time() - began
        if took >= seconds / 4:
            break
        count *= 2
    count = max(1, int(count * seconds / took))

    def run() -> float:
        began = time.process_time()
        work(count)
        return (time.process_time() - began) / count

    return run


def sending(case: str, contestant: Contestant) -> Callable[[int], None]:
    events, send = EVENTS[case], contestant.send

    def work(rounds: int) -> None:
        for _ in range(rounds):
            for event in events:
                send(event)

    return work


def making(make: Callable[[], Contestant]) -> Callable[[int], None]:
    def work(rounds: int) -> None:
        for _ in range(rounds):
            make()

    return work


def race(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in runs}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in runs.items():
                taken[name].append(run())
            gc.collect()  # between the slices, so that nobody pays for another's rubbish
    finally:
        gc.enable()
    return taken


def bare_bytes(count: int = 10_000) -> tuple[int, float]:
    """What one instance of a chart without data occupies: as its parts say, and as the allocator saw it."""
    chart, runtime = Chart(definitions()[TOGGLE]), Runtime()
    one = new(chart, "bench", runtime)
    start(one)
    shared = {
        id(part) for part in (chart, runtime, one.node, one.id, chart.no_data, chart.no_history, None, False, True)
    }
    parts = {id(part): part for name in one.__slots__ if id(part := getattr(one, name)) not in shared}
    # Small whole numbers and the empty tuple are the interpreter's own, one for all.
    said = sys.getsizeof(one) + sum(sys.getsizeof(part) for part in parts.values() if part not in (0, 1, 2, 4, ()))
    kept: list[Any] = [None] * count
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(count):
        kept[number] = instance = new(chart, "bench", runtime)
        start(instance)
    seen = (tracemalloc.get_traced_memory()[0] - before) / count
    tracemalloc.stop()
    return said, seen


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--slice", type=float, default=0.02, help="CPU seconds of each slice")
    given = parser.parse_args(words)
    logging.disable(logging.CRITICAL)  # some of the others tell every transition
    engines = {OURS: this_engine(), EASY: this_machine()}
    for name, build in PEERS.items():
        try:
            engines[name] = build()
        except ImportError as error:
            print(f"missing: {name} ({error})")
        else:
            print(f"{name} {importlib.metadata.version(name)}")
    missed = []
    for case in (*EVENTS, BIRTH):
        made = TOGGLE if case == BIRTH else case
        runs: dict[str, Callable[[], float]] = {}
        remarks: list[str] = []
        for name, engine in engines.items():
            if made not in engine.make:
                remarks.append(f"    {name}: {engine.cannot[made]}")
                continue
            if wrong := agrees(made, engines[OURS].make[made](), engine.make[made]()):
                remarks.append(f"    {name}: is not compared, {wrong}")
                continue
            work = making(engine.make[made]) if case == BIRTH else sending(case, engine.make[case]())
            runs[name] = timed(work, given.slice)
        units = 1 if case == BIRTH else len(EVENTS[case])
        taken = {name: [seconds / units for seconds in several] for name, several in race(runs, given.rounds).items()}
        best = {name: min(several) for name, several in taken.items()}
        print(f"\n{case}: best and median of {given.rounds}, CPU microseconds a piece")
        for name, several in taken.items():
            middle = statistics.median(several)
            print(
                f"    {name:22} {best[name] * 1e6:9.3f} {middle * 1e6:9.3f}   {1 / best[name]:11,.0f}/s"
                f"   {best[name] / best[OURS]:7.1f} x {middle / statistics.median(taken[OURS]):7.1f} x"
            )
        print("\n".join(remarks), end="\n" if remarks else "")
        others = {name: seconds / best[OURS] for name, seconds in best.items() if name in PEERS}
        if others and case != BIRTH:
            nearest = min(others, key=lambda name: others[name])
            missed += [] if met(f"{case}: times as fast as {nearest}", others[nearest], BEST_PEER) else [case]
        if SLOW in others:
            goal = 100.0 if case == BIRTH else SLOW_PEER
            missed += [] if met(f"{case}: times as fast as {SLOW}", others[SLOW], goal) else [case]
    said, seen = bare_bytes()
    print(f"\na bare instance: {said} bytes by its parts, {seen:.0f} by the allocator (10,000 of them)")
    for what, value in (("by its parts", said), ("by the allocator", seen)):
        print(
            f"{'met   ' if value <= BYTES else 'MISSED'}  bytes of a bare instance, {what}: {value:.0f} (goal {BYTES})"
        )
        missed += [] if value <= BYTES else [what]
    return 1 if missed else 0


def met(what: str, value: float, goal: float) -> bool:
    print(f"{'met   ' if value >= goal else 'MISSED'}  {what}: {value:.1f} (goal {goal:g})")
    return value >= goal


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
