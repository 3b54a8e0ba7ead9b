"""Random statecharts, run by the engine and by a literal reading of the W3C's algorithm: both must do the same."""

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from oracle import Endless, Oracle

from x0tta6bl4.statechart.core.content import Runtime
from x0tta6bl4.statechart.core.effect import Cancelled, Effect, Ended, Faulted, Logged, Sent, Started, Stopped
from x0tta6bl4.statechart.core.event import Event
from x0tta6bl4.statechart.core.machine import Chart, Instance
from x0tta6bl4.statechart.core.state import Definition, Kind, State, Variable
from x0tta6bl4.statechart.core.transition import (
    Activity,
    Assign,
    Cancel,
    Content,
    If,
    Log,
    Raise,
    Result,
    Send,
    Transition,
)
from x0tta6bl4.statechart.formats.scxml import read, write
from x0tta6bl4.statechart.runtime.executor import cancel, handle, new, start

FEW = 200
MANY = int(os.environ.get("X0TTA6BL4_FUZZ_CHARTS", "20000"))
EVENTS = ("a", "b", "c", "a.x", "a.x.y", "ab", "i1", "zz")
CAUGHT = ("a", "a", "b", "c", "a.x", "a.x.*", "*", "b", "done.state", "i1", "error", "b c", "c zz")


@dataclass
class Sketch:
    """A state while its chart is being made up."""

    kind: Kind
    id: str
    inside: list["Sketch"] = field(default_factory=list)
    over: "Sketch | None" = None

    def real(self) -> "list[Sketch]":
        return [s for s in self.inside if s.kind not in (Kind.HISTORY, Kind.DEEP_HISTORY, Kind.ENTRY)]

    def everything(self) -> "Iterator[Sketch]":
        for sketch in self.inside:
            yield sketch
            yield from sketch.everything()

    def below(self) -> "Iterator[Sketch]":
        for sketch in self.real():
            yield sketch
            yield from sketch.below()

    def up(self) -> "Iterator[Sketch]":
        above: Sketch | None = self
        while above is not None:
            yield above
            above = above.over


class Maker:
    """Makes up one chart; the same number gives the same chart."""

    def __init__(self, number: int) -> None:
        self.random = random.Random(number)
        self.count = 0
        self.local = self.random.random() < 0.3
        self.rollback = self.random.random() < 0.3
        self.late = self.random.random() < 0.3
        self.variables: dict[str, list[str]] = {}  # state -> its variables
        self.root = Sketch(Kind.STATE, "")

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def fresh(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def definition(self) -> Definition:
        r = self.random
        for _ in range(r.randint(2, 3)):
            self.grow(self.root, 1)
        if self.chance(0.3):
            self.root.inside.append(Sketch(Kind.FINAL, self.fresh("f"), over=self.root))
        self.variables[""] = [self.fresh("v") for _ in range(r.randint(1, 3))]
        for sketch in self.root.everything():
            if sketch.kind in (Kind.STATE, Kind.PARALLEL) and self.chance(0.15):
                self.variables[sketch.id] = [self.fresh("v")]
        return Definition(
            name="fuzz",
            root=self.state(self.root),
            binding="late" if self.late else "early",
            scoping="local" if self.local else "global",
            errors="rollback" if self.rollback else "event",
            strict=False,
        )

    def grow(self, over: Sketch, depth: int) -> None:
        region = over.kind is Kind.PARALLEL
        weights = ([2, 6, 1] if region else [6, 4, 3]) if depth < 4 else [1, 0, 0]
        shape = self.random.choices(["simple", "composite", "parallel"], weights)[0]
        kind = Kind.PARALLEL if shape == "parallel" else Kind.STATE
        sketch = Sketch(kind, self.fresh("s"), over=over)
        over.inside.append(sketch)
        if shape == "simple":
            return
        for _ in range(2 + self.chance(0.2) if shape == "parallel" else self.random.randint(1, 2 if region else 3)):
            self.grow(sketch, depth + 1)
        marks = [(Kind.HISTORY, 0.25), (Kind.DEEP_HISTORY, 0.25), (Kind.ENTRY, 0.15)]
        if shape == "composite":
            marks += [(Kind.FINAL, 0.7 if region else 0.35), (Kind.CHOICE, 0.2)]
        for mark, share in marks:
            if self.chance(share):
                place = self.random.randint(0 if mark in (Kind.FINAL, Kind.HISTORY) else 1, len(sketch.inside))
                sketch.inside.insert(place, Sketch(mark, self.fresh(mark[0]), over=sketch))

    def fork(self, targets: list[str]) -> tuple[str, ...]:
        """States of several regions of one parallel state, or a single one."""
        parallels = [s for s in self.root.everything() if s.kind is Kind.PARALLEL and s.id in targets]
        if not parallels or not self.chance(0.25):
            return (self.random.choice(targets),)
        regions = self.random.choice(parallels).real()
        chosen = [r for r in regions if self.chance(0.7)] or regions[:1]
        return tuple(self.random.choice([r.id, *(s.id for s in r.below())]) for r in chosen)

    # What is in a state

    def seen(self, sketch: Sketch) -> list[str]:
        if not self.local:
            return [v for names in self.variables.values() for v in names]
        return [v for place in sketch.up() for v in self.variables.get(place.id, ())]

    def number(self, sketch: Sketch) -> str:
        name = self.random.choice(self.seen(sketch))
        if self.chance(0.03):
            return f"{name} + missing"
        return self.random.choice([f"({name} + 1) % 5", f"{name} - 1", "2", name])

    def guard(self, sketch: Sketch) -> str:
        states = [s.id for s in self.root.everything()]
        name = self.random.choice(self.seen(sketch))
        kinds = [
            f"In('{self.random.choice(states)}')",
            f"not In('{self.random.choice(states)}')",
            f"{name} < {self.random.randint(0, 4)}",
            f"{name} != {self.random.randint(0, 4)} and In('{self.random.choice(states)}')",
        ]
        if self.chance(0.04):
            kinds = ["missing > 1"]
        return self.random.choice(kinds)

    def log(self, what: str) -> Content:
        return Log(what)

    def block(self, sketch: Sketch, what: str) -> tuple[Content, ...]:
        done: list[Content] = [self.log(what)]
        if self.chance(0.3):
            done.append(Assign(self.random.choice(self.seen(sketch)), self.number(sketch)))
        if self.chance(0.06):
            inner = (Raise(self.random.choice(("i1", "a"))), self.log(f"{what}?"))
            done.append(If(((self.guard(sketch), inner), (None, (self.log(f"{what}!"),)))))
        if self.chance(0.08):
            done.append(Send(event="later", id="s", delay=1.0))
        if self.chance(0.04):
            done.append(Cancel(id="s"))
        if self.chance(0.05):
            done.append(Log("", "_event.name"))
        self.random.shuffle(done)
        return tuple(done)

    def transition(self, sketch: Sketch, targets: list[str]) -> Transition:
        r = self.random
        ends = [s.id for s in sketch.over.inside if s.kind is Kind.FINAL] if sketch.over else []
        if ends and self.chance(0.5):  # else whole parallel states would hardly ever be done
            targets = ends
        # Without an event, or for all of them, they are what makes charts go round in circles: only few.
        event = "" if self.chance(0.06) else r.choice(CAUGHT)
        to = self.fork(targets) if self.chance(0.85) or not event else ()
        do = list(self.block(sketch, self.fresh("t")))
        if self.chance(0.15):
            do.append(Raise(r.choice(("i1", "a", "b")), r.choice((None, "1"))))
        if self.chance(0.1):
            do.append(Log("", "_event.data"))
        guarded = not event or self.chance(0.3)
        return Transition(
            event=event,
            to=to,
            guard=self.guard(sketch) if guarded else None,
            do=tuple(do),
            kind="internal" if not to else r.choice(("external", "local")),
        )

    def state(self, sketch: Sketch) -> State:
        r = self.random
        root = sketch is self.root
        inside = tuple(self.state(s) for s in sketch.inside)
        below = [s.id for s in sketch.below()]
        if sketch.kind in (Kind.HISTORY, Kind.DEEP_HISTORY, Kind.ENTRY):
            assert sketch.over is not None
            near = [s.id for s in sketch.over.real()]
            options = near if sketch.kind is Kind.HISTORY and sketch.over.kind is Kind.STATE else None
            to = r.choice(options or [s.id for s in sketch.over.below()])
            do = (self.log(f"{sketch.id}>"),)
            return State(sketch.id, sketch.kind, transitions=(Transition(to=(to,), do=do),))
        targets = [s.id for s in self.root.everything()]
        if sketch.kind is Kind.CHOICE:
            ways = [self.transition(sketch, targets) for _ in range(r.randint(0, 2))]
            near = [s.id for s in sketch.over.everything()] if sketch.over else []
            ends = [Transition(to=(r.choice([n for n in near if n != sketch.id] or targets),), kind="external")]
            guarded = [
                Transition(to=w.to or (r.choice(targets),), guard=self.guard(sketch), do=w.do, kind="external")
                for w in ways
            ]
            return State(sketch.id, sketch.kind, transitions=(*guarded, *ends))
        final = sketch.kind is Kind.FINAL
        ways = [] if final or root else [self.transition(sketch, targets) for _ in range(r.choice((0, 1, 1, 2, 3)))]
        composite = sketch.kind is Kind.STATE and bool(sketch.real()) and not root
        result = Result(expression=self.number(sketch)) if final and self.chance(0.4) else None
        activities = (Activity(type="job", id=f"job.{sketch.id}"),) if not (final or root) and self.chance(0.15) else ()
        return State(
            id=sketch.id,
            kind=sketch.kind,
            states=inside,
            initial=self.fork(below) if composite and self.chance(0.4) else (),
            on_initial=(self.log(f"{sketch.id}*"),) if composite and self.chance(0.3) else (),
            transitions=tuple(ways),
            entry=() if root else tuple(self.block(sketch, f"+{sketch.id}") for _ in range(r.choice((1, 1, 2)))),
            exit=() if root else (self.block(sketch, f"-{sketch.id}"),),
            activities=activities,
            variables=tuple(
                Variable(v, value=r.randint(0, 4)) if root or self.chance(0.7) else Variable(v, self.first(sketch))
                for v in self.variables.get(sketch.id, ())
            ),
            invariants=(self.guard(sketch),) if self.rollback and not final and self.chance(0.03) else (),
            result=result,
        )

    def first(self, sketch: Sketch) -> str:
        return f"{self.random.choice(self.variables[''])} + 1"


def told(effects: list[Effect]) -> list[tuple[Any, ...]]:
    """Effects in the words of the oracle."""
    found: list[tuple[Any, ...]] = []
    for effect in effects:
        match effect:
            case Logged(label, value):
                # What an error says is in the engine's own words.
                said = None if isinstance(value, dict) and value.keys() == {"message"} else value
                found.append(("log", label or said))
            case Sent(event=event):
                found.append(("send", event))
            case Cancelled(id):
                found.append(("cancel", id))
            case Started(id=id):
                found.append(("start", id))
            case Stopped(id=id):
                found.append(("stop", id))
            case Faulted():
                found.append(("faulted",))
            case Ended(state, result):
                found.append(("ended", state, result))
            case _:
                raise AssertionError(effect)
    return found


Rebuild = Callable[[Instance], Instance]


def agree(definition: Definition, number: int, rebuild: Rebuild | None = None) -> int:
    """Runs both through the same events; the number of events, or 0 for a chart that goes round in circles."""
    oracle, runtime = Oracle(definition), Runtime()
    instance = new(Chart(definition), "x", runtime)
    names = random.Random(number + 1).choices(EVENTS, k=20)

    def compare(moment: str) -> None:
        # Where it has ended is left to be looked at, which is of no concern to the rules.
        active = [n.id for n in oracle.nodes if n in oracle.configuration and n.id]
        expected = (active if oracle.running else list(instance.configuration), oracle.data, oracle.log)
        got = (list(instance.configuration), instance.data, told(runtime.effects))

        assert got == expected, f"chart {number}, {moment}"
        assert instance.running == oracle.running, f"chart {number}, {moment}"
        oracle.log.clear()
        runtime.effects.clear()

    try:
        oracle.start()
        start(instance)
        compare("at the start")
        for count, name in enumerate(names):
            if not oracle.running:
                return count + 1
            if rebuild is not None:
                instance = rebuild(instance)
            taken = oracle.send(name)
            instance.seq += 1
            handled = handle(instance, Event(name))
            compare(f"event {count} {name}")

            assert handled == taken, f"chart {number}, event {count} {name}"
        if definition.errors == "event":
            oracle.cancel()
            cancel(instance)
            compare("cancelled")
    except Endless:
        return 0
    return len(names)


def from_snapshot(instance: Instance) -> Instance:
    from x0tta6bl4.statechart.persistence.serializer import restore, snapshot

    return restore(instance.chart, json.loads(json.dumps(snapshot(instance))), instance.runtime)


def test_random_charts_behave_as_the_rules_say() -> None:
    events = sum(agree(Maker(number).definition(), number) for number in range(FEW))

    assert events > 10 * FEW  # most of them do find rest


def test_random_charts_behave_the_same_when_they_are_rebuilt_before_every_event() -> None:
    events = sum(agree(Maker(number).definition(), number, from_snapshot) for number in range(FEW))

    assert events > 10 * FEW


def test_random_charts_survive_being_written_as_scxml() -> None:
    for number in range(FEW):
        definition = Maker(number).definition()
        again = read(write(definition))

        assert write(again) == write(definition)
        agree(again, number)


@pytest.mark.slow
def test_thousands_of_random_charts_behave_as_the_rules_say() -> None:
    """X0TTA6BL4_FUZZ_CHARTS sets how many."""
    for number in range(FEW, FEW + MANY):
        definition = Maker(number).definition()
        agree(definition, number, from_snapshot if number % 2 else None)
