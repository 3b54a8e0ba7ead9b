"""Statecharts made at random, and random walks through them: for tests of what must hold for every chart."""

from collections.abc import Iterator
from random import Random
from typing import Any

from x0tta6bl4.statechart.core.effect import Cancelled, Sent, Started, Stopped
from x0tta6bl4.statechart.core.event import Event
from x0tta6bl4.statechart.core.state import Definition, Kind, State, Variable
from x0tta6bl4.statechart.core.transition import Activity, Assign, Block, If, Log, Raise, Transition

EVENTS = ("e0", "e1", "e2", "e3.a")
MEMORY = (Kind.HISTORY, Kind.DEEP_HISTORY)


class _Maker:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.ids: list[str] = []
        """Of the states that a transition may lead to."""
        self.resting: list[str] = []

    def definition(self) -> Definition:
        states = self._children(0, Kind.STATE)
        states += [State("end", Kind.FINAL)]
        self.ids.append("end")
        root = State(
            states=tuple(map(self._finished, states)),
            transitions=self._transitions(1),
            variables=(Variable("x", value=0, type="integer"), Variable("y", expression="[x, {'a': null}]")),
        )
        return Definition(
            "random",
            root,
            scoping=self.random.choice(("local", "global")),
            errors=self.random.choice(("rollback", "event")),
            binding=self.random.choice(("early", "late")),
        )

    def _children(self, depth: int, kind: Kind) -> list[State]:
        return [self._state(depth + 1, kind) for _ in range(self.random.randint(2, 3))]

    def _state(self, depth: int, around: Kind) -> State:
        random = self.random
        name = f"s{len(self.ids)}"
        self.ids.append(name)
        kinds = [Kind.STATE] * 3
        if depth < 3:
            kinds.append(Kind.PARALLEL)
        if around is Kind.STATE and len(self.ids) > 2:
            kinds += [Kind.FINAL, Kind.CHOICE]
        kind = random.choice(kinds)
        children: list[State] = []
        if kind is Kind.PARALLEL or (kind is Kind.STATE and depth < 3 and random.random() < 0.6):
            children = self._children(depth, kind)
            if all(child.kind in (Kind.FINAL, Kind.CHOICE) for child in children):
                self.ids.append(f"s{len(self.ids)}")
                children.append(State(self.ids[-1]))
            if random.random() < 0.5:
                history = f"s{len(self.ids)}"
                self.ids.append(history)
                default = next(child for child in children if child.kind not in (Kind.FINAL, Kind.CHOICE))
                children.append(State(history, random.choice(MEMORY), transitions=(Transition(to=(default.id,)),)))
        if kind in (Kind.STATE, Kind.PARALLEL):
            self.resting.append(name)
        return State(name, kind, tuple(children))

    def _finished(self, state: State) -> State:
        """With all that can only be said when every state has its name."""
        random = self.random
        if state.kind in (Kind.FINAL, *MEMORY):
            return state
        if state.kind is Kind.CHOICE:
            ways = (Transition(to=self._target(), guard="x > 1"), Transition(to=self._target(resting=True)))
            return State(state.id, Kind.CHOICE, transitions=ways)
        local = state.kind is Kind.STATE and random.random() < 0.2
        return State(
            state.id,
            state.kind,
            tuple(map(self._finished, state.states)),
            transitions=self._transitions(random.randint(0, 3), state.id),
            entry=(self._block(),) if random.random() < 0.4 else (),
            exit=(self._block(),) if random.random() < 0.2 else (),
            activities=(Activity("act"), Activity("look"))[: random.choice((0, 0, 0, 1, 2))],
            variables=(Variable(f"of_{state.id}", value=1),) if local else (),
            defer=("e2",) if random.random() < 0.15 else (),
        )

    def _target(self, resting: bool = False) -> tuple[str, ...]:
        return (self.random.choice(self.resting if resting else self.ids),)

    def _block(self) -> Block:
        random = self.random
        return random.choice(
            (
                (Assign("x", "(x + 1) % 4"),),
                (Raise("r0"), Log("raised")),
                (If((("x > 1", (Raise("r1", "x"),)), (None, (Assign("x", "x + 1"),)))),),
                (Assign("y", "[x, {'a': x}]"), Log("y", "y")),
            )
        )

    def _transitions(self, count: int, state: str = "") -> tuple[Transition, ...]:
        random = self.random
        made = []
        for _ in range(count):
            guard = random.choice((None, None, "x > 1", "x == 0", f"In({random.choice(self.ids)!r})"))
            to = random.choice((self._target(), self._target(), ()))
            do = self._block() if random.random() < 0.3 else ()
            match random.randint(0, 9):
                case 0:
                    # Comes to an end by itself: it is taken as often as it can still count.
                    made.append(Transition(to=to, guard="x < 2", do=(Assign("x", "x + 1"),)))
                case 1 if state:
                    made.append(Transition(to=to, guard=guard, do=do, after="5s"))
                case 2 if state:
                    made.append(Transition(to=to, guard=guard, do=do, when="x > 1"))
                case 3:
                    # Nothing is raised on its way, so that what is raised comes to an end.
                    made.append(Transition(random.choice(("r0", "r1")), to, guard))
                case 4 if state:
                    made.append(Transition(f"done.act.{state}", to, guard, do))
                case _:
                    kind = random.choice(("external", "local")) if to else "internal"
                    made.append(Transition(random.choice((*EVENTS, "e3", "*")), to, guard, do, kind))  # type: ignore[arg-type]  # one of the three
        return tuple(made)


def random_definition(random: Random) -> Definition:
    return _Maker(random).definition()


class World:
    """What a host would know: which timers wait, and which activities run."""

    def __init__(self) -> None:
        self.timers: list[str] = []
        self.running: dict[str, str] = {}

    def told(self, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case Sent(event=event, target=None):
                    self.timers.append(event)
                case Cancelled(id=id):
                    self.timers = [timer for timer in self.timers if timer != id]
                case Started(id=id, state=state):
                    self.running[id] = state
                case Stopped(id=id):
                    self.running.pop(id, None)

    def events(self, random: Random, count: int) -> Iterator[Event]:
        """What may happen next; asked one at a time, as it depends on what was told."""
        for _ in range(count):
            happens = random.randint(0, 5)
            if happens == 0 and self.timers:
                name = self.timers.pop(random.randrange(len(self.timers)))
                yield Event(name)
            elif happens == 1 and self.running:
                id = random.choice(sorted(self.running))
                yield Event(f"done.act.{self.running[id]}", {"n": 1}, invokeid=id)
            else:
                yield Event(random.choice((*EVENTS, "unheard.of")), random.randint(0, 3))
