"""Every state that a statechart can get into, its data left out of it: what the checks and migrations ask."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from x0tta6bl4.statechart.core.content import Operation, Runtime
from x0tta6bl4.statechart.core.event import catches
from x0tta6bl4.statechart.core.machine import Chart, Instance, Plan
from x0tta6bl4.statechart.core.state import Definition, Kind, State
from x0tta6bl4.statechart.core.tables import Edge, bits
from x0tta6bl4.statechart.core.transition import Block, Call, ForEach, Guard, If, Raise, Scope, Send, Transition
from x0tta6bl4.statechart.types.base import EvaluationError, ExpressionError, names_in


@dataclass(frozen=True, slots=True)
class Step:
    """One link of a counterexample: what happened, and what the guards asked on the way were taken to say."""

    event: str
    answers: tuple[tuple[str, bool], ...] = ()

    def __str__(self) -> str:
        said = ", ".join(f"`{guard}` {'holds' if answer else 'does not hold'}" for guard, answer in self.answers)
        return f"{self.event} ({said})" if said else self.event


class Tree:
    """Who is inside whom."""

    def __init__(self, root: State) -> None:
        self.states: list[State] = []
        self.parent: list[int] = []
        self.ids: dict[str, int] = {}
        self.twice: list[int] = []
        waiting = [(root, -1)]
        while waiting:
            state, parent = waiting.pop()
            index = len(self.states)
            self.states.append(state)
            self.parent.append(parent)
            if state.id in self.ids:
                self.twice.append(index)
            elif state.id:
                self.ids[state.id] = index
            waiting.extend((child, index) for child in reversed(state.states))

    def above(self, index: int) -> Iterator[int]:
        """The ancestors, nearest first."""
        while (index := self.parent[index]) >= 0:
            yield index

    def is_inside(self, index: int, ancestor: int) -> bool:
        return ancestor in self.above(index)

    def meet(self, one: int, other: int) -> int:
        """The least state that holds both."""
        holding = {one, *self.above(one)}
        return next(each for each in (other, *self.above(other)) if each in holding)

    def place(self, index: int) -> str:
        state = self.states[index]
        if state.id:
            return f"state {state.id!r}"
        parent = self.parent[index]
        if parent < 0:
            return "chart"
        return f"{state.kind} {self.states[parent].states.index(state) + 1} in {self.place(parent)}"


def trigger(transition: Transition) -> str:
    if transition.after is not None:
        return f"after {transition.after}"
    if transition.when is not None:
        return f"when `{transition.when}`"
    return transition.event or "always"


def label_of(where: str, number: int, transition: Transition) -> str:
    to = f" -> {', '.join(transition.to)}" if transition.to else ""
    return f"{where}: transition {number + 1} ({trigger(transition)}{to})"


@dataclass(frozen=True, slots=True)
class Configuration:
    """A way in which a machine can rest, as far as its data are left out of it."""

    states: tuple[str, ...]
    history: Mapping[str, tuple[str, ...]]
    deferred: tuple[str, ...]
    """Names of the events that wait."""
    path: tuple[Step, ...]
    """The shortest way there."""


Answers = tuple[tuple[str, bool], ...]
Memory = tuple[int, ...]


class Rest(NamedTuple):
    """Where a macrostep ends."""

    mask: int
    history: Memory
    deferred: tuple[str, ...]
    has_ended: bool


class Point(NamedTuple):
    """Between two microsteps. An event in the queue is its name, and whether the author raised it."""

    mask: int
    history: Memory
    deferred: tuple[str, ...]
    has_ended: bool
    queue: tuple[tuple[str, bool], ...]

    def rest(self) -> Rest:
        return Rest(*self[:4])


_Offer = tuple[Rest, tuple[str, ...], tuple[str, ...], Answers]
"""A rest, the deferred events that were offered to it in vain, and those that are still to be."""


@dataclass(slots=True)
class _Outside:
    """An event that comes from outside of the machine, or from one of its timers or activities."""

    name: str
    sources: int
    """States that do something when it comes; -1: the root does."""
    only_in: int
    """States without which it does not come; 0: it may always come."""
    drives: bool
    """It comes by itself: of a timer or an activity, or of people who are known to send it."""


def _raising(block: Block) -> tuple[Any, ...]:
    """What of a block can raise events: names, branches (a list of guards and blocks), loops (an array and a block)."""
    found: list[Any] = []
    for item in block:
        match item:
            case Raise(event=str(event)) | Send(event=str(event), target="#_internal"):
                found.append(event)
            case If(branches=branches):
                several = [(guard, _raising(inner)) for guard, inner in branches]
                if any(inner for _, inner in several):
                    found.append(several)
            case ForEach(array=array, do=do):
                if inner := _raising(do):
                    found.append((array, inner))
    return tuple(found)


class Model:
    """The chart without its data: guards may say yes or no, actions do nothing but raise their events.

    Which transitions are taken, what they leave, enter and remember is asked of the engine's own tables, so that the
    model cannot disagree with it. Exact are internal and completion events, histories, deferral and ``In()``; a guard
    that stands twice in one selection gets one answer. Taken to be so: events that the chart raises itself come from
    nowhere else; an event that waits already, deferred, is not sent again; and an event named ``….STATE``, where
    the state has an activity, is the activity's answer and comes only while that state is active.
    """

    QUEUE = 64
    """Internal events waiting at once; more are cut off, and the check says that it is not complete."""

    def __init__(self, definition: Definition, limit: int, people: Sequence[str] | None) -> None:
        self.definition = definition
        self.tree = Tree(definition.root)
        self.limit = limit
        self.people = people
        self._keys: dict[int, tuple[int, int]] = {}
        """Transition as it stands in the stripped chart -> its state, and its number there."""
        self.fired: set[tuple[int, int]] = set()
        self.entered = 1
        self.complete = True
        self.edges = 0
        self.endless: list[tuple[Rest | None, Step, str]] = []
        self.conflicts: dict[tuple[Edge, Edge], tuple[Rest | None, Step]] = {}
        self.found: dict[Rest, tuple[Rest | None, Step] | None] = {}
        self.before: dict[Rest, set[Rest]] = {}
        self.driven: set[Rest] = set()
        """Resting states out of which something leads that comes by itself."""
        self._unsure = False
        """Whether the guard that was asked last depends on more than the active states."""
        self._script: Sequence[bool] = ()
        self._asked: list[tuple[str, bool]] = []
        self._numbered = iter(range(len(self.tree.states)))
        root = self._stripped(definition.root)
        self.chart = Chart(
            replace(
                definition, root=root, errors="event", scoping="global", script=self._block(definition.script)
            )
        )  # fmt: skip
        self._shared = definition.scoping == "global" or not any(state.variables for state in self.tree.states[1:])
        self._runtime = Runtime()
        self._instance = Instance(self.chart, "", self._runtime)
        self._choices: dict[tuple[int, str | None], list[tuple[tuple[Edge, ...], Answers]]] = {}
        self._raised: dict[Plan, list[tuple[tuple[tuple[str, bool], ...], Answers]]] = {}
        self._guards: dict[Edge, str] = {}
        self._moved = False
        self.finalizing = self._having(lambda state: any(activity.finalize for activity in state.activities))
        self.busy = self._having(lambda state: bool(state.activities))
        self.outside = list(self._alphabet())
        answered = sum({outside.only_in for outside in self.outside})
        self.unanswered = self.busy & ~answered
        """States whose activities send events of names that say nothing: it may be any event."""

    # The chart without data

    def _stripped(self, state: State) -> State:
        index = next(self._numbered)
        passed = state.kind in (Kind.JUNCTION, Kind.EXIT)
        transitions = []
        for number, transition in enumerate(state.transitions):
            event = transition.event
            if transition.after is not None:
                event = f"after.{self._name(index)}.{number}"
            elif transition.when is not None:
                event = f"when.{self._name(index)}.{number}"
            do = self._block(transition.do)
            if passed or any(self._is_join(target) for target in transition.to):
                # These are only parts of the engine's transitions: they tell themselves that they were taken.
                do = (Call(self._marking(index, number)), *do)
            guard = transition.guard
            guard = guard if guard is None or _is_exact(guard) else self._perhaps
            made = replace(transition, event=event, after=None, when=None, guard=guard, do=do)
            self._keys[id(made)] = (index, number)
            transitions.append(made)
        return replace(
            state,
            states=tuple(map(self._stripped, state.states)),
            transitions=tuple(transitions),
            on_initial=self._block(state.on_initial),
            entry=tuple(filter(None, map(self._block, state.entry))),
            exit=tuple(filter(None, map(self._block, state.exit))),
            activities=(), variables=(), invariants=(), result=None,
        )  # fmt: skip

    def _perhaps(self, scope: Scope) -> bool:
        """Stands for a guard that reads data: the model check tries both answers."""
        self._unsure = True
        return True

    def _name(self, index: int) -> str:
        """In events of timers and changes, where unnamed states have to be told apart, too."""
        return self.tree.states[index].id or f"#{index}"

    def _named(self, name: str) -> int | None:
        return int(name[1:]) if name.startswith("#") and name not in self.tree.ids else self.tree.ids.get(name)

    def _is_join(self, target: str) -> bool:
        found = self.tree.ids.get(target)
        return found is not None and self.tree.states[found].kind is Kind.JOIN

    def _marking(self, index: int, number: int) -> Callable[[Scope], None]:
        return lambda scope: self.fired.add((index, number))

    def _block(self, block: Block) -> Block:
        raising = _raising(block)
        if all(isinstance(item, str) for item in raising):
            return tuple(Raise(name) for name in raising)
        return (Call(lambda scope: self._perform(raising, scope)),)

    def _perform(self, raising: tuple[Any, ...], scope: Scope) -> None:
        for item in raising:
            match item:
                case str():
                    scope.send(item)
                case list():
                    for guard, inner in item:
                        if guard is None or self._ask(guard):
                            self._perform(inner, scope)
                            break
                case (array, inner):
                    # None, one or two: what more of them raise are events of the same names.
                    for _ in range(2):
                        if not self._ask(f"{array} has more"):
                            break
                        self._perform(inner, scope)

    def _ask(self, guard: str) -> bool:
        count = len(self._asked)
        answer = self._script[count] if count < len(self._script) else True
        self._asked.append((guard, answer))
        return answer

    def _alphabet(self) -> Iterator[_Outside]:
        names: dict[str, bool] = {}
        """Event -> whether a timer brings it."""
        raised = {name for state in self.tree.states for block in _blocks(state) for name in _names(_raising(block))}
        raised |= set(_names(_raising(self.definition.script)))
        sent = {
            item.event: item.delay is not None or item.delay_expression is not None
            for state in self.tree.states
            for block in _blocks(state)
            for item in _flat(block)
            if isinstance(item, Send) and item.target is None and item.event is not None
        }
        words = [word for edges in self.chart.edges for edge in edges for word in edge.events or ()]
        for word in dict.fromkeys((*words, *(word for deferred in self.chart.deferred for word in deferred))):
            inside = word == "done.state" or word.startswith("done.state.")
            inside = inside or (word not in sent and word != "*" and any(catches((word,), name) for name in raised))
            if not inside or word.split(".")[0] == "error":
                names[_ANY if word == "*" else word] = word.startswith("after.")
        for name, delayed in sent.items():
            if any(catches((word,), name) for word in words):
                names[name] = names.get(name, False) or delayed
        for name, by_timer in names.items():
            sources = 0
            for n, edges in enumerate(self.chart.edges):
                words_here = [word for edge in edges for word in edge.events or ()]
                if catches((*words_here, *self.chart.deferred[n]), name):
                    sources |= 1 << n if n else -1
            only_in = self._only_in(name)
            known = self.people is None or catches(self.people, name) or (name == _ANY and bool(self.people))
            yield _Outside(name, sources, only_in, by_timer or known or bool(only_in & self.busy))

    def _only_in(self, name: str) -> int:
        """The state whose timer, change event or activity such an event is of."""
        word, _, rest = name.partition(".")
        if word in ("after", "when"):
            found = self._named(rest.rpartition(".")[0])
            return 0 if found is None else 1 << found
        while rest:
            for n, state in enumerate(self.tree.states):
                if any(rest == (activity.id or state.id) for activity in state.activities):
                    return 1 << n
            rest = rest.partition(".")[2]
        return 0

    def _having(self, asked: Callable[[State], bool]) -> int:
        return sum(1 << n for n, state in enumerate(self.tree.states) if asked(state))

    # One microstep

    def _verdict(self, edge: Edge, mask: int, answers: Answers) -> tuple[str, bool | None]:
        """What the guard is called, and what it says; None: it may say either."""
        if edge.guard is None:
            return "", True
        text = self._guards.get(edge)
        if text is None:
            text = self._guards[edge] = self._guard(edge)
        self._instance.mask = mask
        self._unsure = False
        try:
            # Of several guards on a way through junctions, one that is sure to say no is enough.
            holds = bool(edge.guard({}, None, self._instance))
        except EvaluationError:
            holds = False  # it fails whatever the data are, and nothing is taken by it
        if not holds or not self._unsure:
            return text, holds
        return text, next((answer for asked, answer in answers if asked == text), None)

    def _guard(self, edge: Edge) -> str:
        index, number = self._keys[id(edge.definition)]
        written = self.tree.states[index].transitions[number]
        if any(self.tree.states[self.tree.ids[to]].kind in (Kind.JUNCTION, Kind.EXIT) for to in written.to):
            targets = ", ".join(self._name(target) for target in edge.targets)
            return f"{edge.label} -> {targets}"
        if isinstance(written.guard, str):
            return written.guard if self._shared else f"{written.guard} in {self._name(index)}"
        return getattr(written.guard, "__qualname__", repr(written.guard))

    def _selections(self, mask: int, name: str | None) -> list[tuple[tuple[Edge, ...], Answers]]:
        """Each set of transitions that can be enabled, with the answers of the guards that make it so."""
        known = self._choices.get((mask, name))
        if known is not None:
            return known
        candidates = self.chart.candidates(mask, name)
        found: dict[tuple[Edge, ...], Answers] = {}
        waiting: list[tuple[int, int, tuple[Edge, ...], Answers]] = [(0, 0, (), ())]
        while waiting:
            region, number, chosen, answers = waiting.pop()
            if region == len(candidates):
                found.setdefault(chosen, answers)
                if len(found) > self.limit:
                    self.complete = False
                    break
                continue
            if number == len(candidates[region]):
                waiting.append((region + 1, 0, chosen, answers))
                continue
            edge = candidates[region][number]
            text, verdict = self._verdict(edge, mask, answers)
            if verdict is not True:
                waiting.append((region, number + 1, chosen, answers if verdict is False else (*answers, (text, False))))
            if verdict is not False:
                taken = chosen if edge in chosen else (*chosen, edge)
                waiting.append((region + 1, 0, taken, answers if verdict is True else (*answers, (text, True))))
        made = self._choices[mask, name] = list(found.items())
        return made

    def _follow(
        self, point: Point, edges: tuple[Edge, ...], source: tuple[Rest | None, Step]
    ) -> Iterator[tuple[Point, Answers]]:
        plan = self.chart.plan(self.chart.node(point.mask), edges, point.history)
        if len(plan.edges) < len(edges):
            self._note_conflict(plan, edges, point, source)
        yield from self._after(plan, point)

    def _after(self, plan: Plan, point: Point) -> Iterator[tuple[Point, Answers]]:
        history = point.history
        if plan.history is not None:
            history = plan.history
        elif plan.updates:
            updates = dict(plan.updates)
            history = tuple(updates.get(k, memory) for k, memory in enumerate(history))
        if plan.enters or plan.exits:
            self._moved = True
        outcomes = self._raised.get(plan)
        if outcomes is None:
            outcomes = self._raised[plan] = self._outcomes(plan.operations)
            for edge in plan.edges:
                if id(edge.definition) in self._keys:
                    self.fired.add(self._keys[id(edge.definition)])
            for n in plan.enters:
                self.entered |= 1 << n
        for raised, answers in outcomes:
            has_ended = plan.end is not None
            queue = () if has_ended else (*point.queue, *raised)
            if len(queue) > self.QUEUE:
                self.complete = False
                continue
            yield Point(plan.node.mask, history, () if has_ended else point.deferred, has_ended, queue), answers

    def _outcomes(
        self, operations: Sequence[tuple[int, Operation]]
    ) -> list[tuple[tuple[tuple[str, bool], ...], Answers]]:
        """The events that are raised, for each set of answers to what is asked on the way."""
        found: dict[tuple[tuple[str, bool], ...], Answers] = {}
        scripts: list[tuple[bool, ...]] = [()]
        queue = self._runtime.queue
        while scripts:
            script = self._script = scripts.pop()
            self._asked = []
            for mask, operation in operations:
                self._instance.mask = mask
                operation(self._instance)
            raised = tuple((event.name, event.type == "internal") for event in queue)
            queue.clear()
            found.setdefault(raised, tuple(self._asked))
            if len(found) > self.limit:
                self.complete = False
                break
            said = tuple(answer for _, answer in self._asked)
            scripts += [(*said[:k], False) for k in range(len(script), len(said))]
        return list(found.items())

    def _note_conflict(
        self, plan: Plan, edges: tuple[Edge, ...], point: Point, source: tuple[Rest | None, Step]
    ) -> None:
        """What was enabled and not taken, though nothing further in was in its way: another region was faster."""
        node = self.chart.node(point.mask)
        for lost in edges:
            if lost in plan.edges or any(self.tree.is_inside(taken.source, lost.source) for taken in plan.edges):
                continue
            for taken in plan.edges:
                alike = taken.targets == lost.targets and not (taken.operations or lost.operations)
                pair = tuple(edge for edge in edges if edge in (taken, lost))
                if (
                    (taken, lost) not in self.conflicts
                    and not alike
                    and not self.tree.is_inside(lost.source, taken.source)
                    and len(self.chart.plan(node, pair, point.history).edges) < 2
                ):
                    self.conflicts[taken, lost] = source

    # One macrostep

    def _settled(self, first: Iterable[tuple[Point, Answers]], source: tuple[Rest | None, Step]) -> dict[Rest, Answers]:
        """From where the first microstep led to every rest that can follow, by the fewest microsteps."""
        seen: dict[Point, Answers] = {}
        before: dict[Point, list[Point]] = {}
        rests: dict[Rest, Answers] = {}
        last: list[Point] = []
        waiting: deque[Point] = deque()

        def reach(point: Point, answers: Answers, origin: Point | None) -> None:
            if origin is not None:
                before.setdefault(point, []).append(origin)
            if point not in seen:
                seen[point] = answers
                waiting.append(point)

        for point, answers in first:
            reach(point, answers, None)
        while waiting:
            point = waiting.popleft()
            answers = seen[point]
            here = (source[0], Step(source[1].event, answers))
            if len(seen) > self.limit:
                self.complete = False
                return rests
            stays = not point.has_ended
            if stays and self.chart.node(point.mask).restless:
                stays = False
                for edges, said in self._selections(point.mask, None):
                    stays = stays or not edges
                    if edges:
                        for after, more in self._follow(point, edges, here):
                            reach(after, (*answers, *said, *more), point)
            if stays and point.queue:
                (name, by_author), *rest = point.queue
                ahead = point._replace(queue=tuple(rest))
                for edges, said in self._selections(point.mask, name):
                    if edges:
                        for after, more in self._follow(ahead, edges, here):
                            reach(after, (*answers, *said, *more), point)
                    else:
                        reach(self._kept(ahead, name) if by_author else ahead, (*answers, *said), point)
            elif stays or point.has_ended:
                rests.setdefault(point.rest(), answers)
                last.append(point)
        if len(last) < len(seen):
            self._note_endless(seen, before, last, source)
        return rests

    def _kept(self, point: Point, name: str) -> Point:
        """Deferred, where nothing took the event and an active state wants it."""
        if name in point.deferred or not catches(self.chart.node(point.mask).defers, name):
            return point
        return point._replace(deferred=(*point.deferred, name))

    def _note_endless(
        self,
        seen: Mapping[Point, Answers],
        before: Mapping[Point, list[Point]],
        last: Sequence[Point],
        source: tuple[Rest | None, Step],
    ) -> None:
        resting = set(last)
        waiting = list(last)
        while waiting:
            for point in before.get(waiting.pop(), ()):
                if point not in resting:
                    resting.add(point)
                    waiting.append(point)
        lost = next((point for point in seen if point not in resting), None)
        if lost is not None and self.complete:
            self.endless.append((source[0], Step(source[1].event, seen[lost]), self.innermost(lost.mask)))

    def _external(self, rest: Rest, name: str, step: Step, origin: Rest | None) -> dict[tuple[Rest, bool], Answers]:
        """What can follow one event from outside, and whether it was taken."""
        point = Point(*rest, ())
        found: dict[tuple[Rest, bool], Answers] = {}
        for edges, said in self._selections(rest.mask, name):
            answers = (*step.answers, *said)
            here = (origin, Step(step.event, answers))
            if edges:
                first = [(after, (*answers, *more)) for after, more in self._follow(point, edges, here)]
                for end, path in self._settled(first, here).items():
                    found.setdefault((end, True), path)
            elif rest.mask & self.finalizing:
                # The activity may have changed data, and so the answers of guards that did not hold before.
                for end, path in self._settled([(self._kept(point, name), answers)], here).items():
                    found.setdefault((end, False), path)
            else:
                found.setdefault((self._kept(point, name).rest(), False), answers)
        return found

    def _macrostep(self, rest: Rest, name: str) -> dict[Rest, Answers]:
        """The event, and then the deferred ones, offered again whenever the configuration has changed."""
        found: dict[Rest, Answers] = {}
        step = Step(self.shown(name))
        known = len(self.endless)
        waiting: list[_Offer] = []
        for (end, taken), answers in self._external(rest, name, step, rest).items():
            if taken and end.deferred and end.mask != rest.mask:
                waiting.append((end._replace(deferred=()), (), end.deferred, answers))
            elif taken and end.deferred != rest.deferred:
                # Deferred on a way that led back here, where nobody has been asked for it yet.
                new = tuple(event for event in end.deferred if event not in rest.deferred)
                waiting.append((end._replace(deferred=()), rest.deferred, new, answers))
            else:
                found.setdefault(end, answers)
        self._recalled(waiting, step, rest, found)
        if not found and self.complete and len(self.endless) == known:
            # Recalled events cause one another without end.
            self.endless.append((rest, step, self.innermost(rest.mask)))
        return found

    def _recalled(
        self,
        waiting: list[_Offer],
        step: Step,
        origin: Rest | None,
        found: dict[Rest, Answers],
    ) -> None:
        """Puts into ``found`` where it rests after what waits was offered."""
        seen: set[tuple[Rest, tuple[str, ...], tuple[str, ...]]] = set()
        while waiting:
            at, kept, left, answers = waiting.pop()
            if (at, kept, left) in seen:
                continue
            seen.add((at, kept, left))
            if not left or at.has_ended:
                found.setdefault(at if at.has_ended else at._replace(deferred=(*kept, *left)), answers)
                continue
            for (end, taken), said in self._external(at, left[0], Step(step.event, answers), origin).items():
                bare, again = end._replace(deferred=()), end.deferred
                if taken and end.mask != at.mask:
                    waiting.append((bare, (), _once(*kept, *left[1:], *again), said))
                elif taken:
                    waiting.append((bare, kept, _once(*left[1:], *again), said))
                else:
                    waiting.append((bare, _once(*kept, *again), left[1:], said))

    # All of them

    def explore(self) -> None:
        """Breadth first, so that the first way to a resting state is a shortest one."""
        chart = self.chart
        start = Step(_START)
        begin = Point(0, chart.no_history, (), False, ())
        script = [] if chart.script is None else [(0, chart.script)]
        first = [
            (point, (*said, *more))
            for raised, said in self._outcomes(script)
            for point, more in self._after(chart.start_plan(chart.no_history), begin._replace(queue=raised))
        ]
        settled = self._settled(first, (None, start))
        deferring = [rest for rest in settled if rest.deferred]
        again: list[_Offer] = [(rest._replace(deferred=()), (), rest.deferred, settled.pop(rest)) for rest in deferring]
        self._recalled(again, start, None, settled)
        waiting: deque[Rest] = deque()
        for rest, answers in settled.items():
            self.found[rest] = (None, Step(_START, answers)) if answers else None
            waiting.append(rest)
        while waiting:
            rest = waiting.popleft()
            if rest.has_ended:
                continue
            for outside in self.outside:
                if not (rest.mask & outside.sources or outside.sources < 0):
                    continue
                if outside.only_in and not rest.mask & outside.only_in and not outside.only_in & 1:
                    continue
                self._moved = False
                for after, answers in self._macrostep(rest, outside.name).items():
                    if after == rest:
                        continue
                    self.edges += 1
                    self.before.setdefault(after, set()).add(rest)
                    if after not in self.found:
                        if len(self.found) >= self.limit:
                            self.complete = False
                            return
                        self.found[after] = (rest, Step(self.shown(outside.name), answers))
                        waiting.append(after)
                if self._moved and (outside.drives or rest.mask & self.unanswered or self.unanswered & 1):
                    self.driven.add(rest)

    def path(self, rest: Rest | None) -> tuple[Step, ...]:
        steps: list[Step] = []
        while rest is not None:
            way = self.found[rest]
            if way is None:
                break
            rest, step = way
            steps.append(step)
        return tuple(reversed(steps))

    def shown(self, event: str) -> str:
        """An event in the words of the author."""
        word, _, rest = event.partition(".")
        name, _, number = rest.rpartition(".")
        found = self._named(name) if word in ("after", "when") else None
        if found is None:
            return event
        return f"{trigger(self.tree.states[found].transitions[int(number)])} in {self.chart.names[found]!r}"

    def label(self, edge: Edge) -> str:
        index, number = self._keys[id(edge.definition)]
        return label_of(self.tree.place(index), number, self.tree.states[index].transitions[number])

    def way_to(self, n: int) -> tuple[Step, ...] | None:
        """To where a state rests first; None where it never does."""
        first = next((rest for rest in self.found if not n or rest.mask >> n & 1), None)
        return None if first is None else self.path(first)

    def taker(self, n: int, number: int) -> Edge | None:
        """A transition from further in that leaves nothing for this one, wherever it could be taken; None if there is
        a place where it is not in the way."""
        own = [edge for edge in self.chart.edges[n] if self._keys.get(id(edge.definition)) == (n, number)]
        found: Edge | None = None
        for mask in dict.fromkeys(rest.mask for rest in self.found if not n or rest.mask >> n & 1):
            for outside in self.outside:
                if not any(edge.events is not None and catches(edge.events, outside.name) for edge in own):
                    continue
                if outside.only_in and not mask & outside.only_in:
                    continue
                for edges in self.chart.candidates(mask, outside.name):
                    if any(edge in own for edge in edges):
                        return None
                    if found is None and self.tree.is_inside(edges[-1].source, n):
                        found = edges[-1]
        return found

    def innermost(self, mask: int) -> str:
        names = [self.chart.names[n] for n in bits(mask & self.chart.atomic)]
        return f"in {', '.join(map(repr, names))}" if names else "at the start"


_ANY = "any.other.event"
_START = "start"
# What makes the answer of a guard depend on more than the active states.
_READS_EVENT = re.compile(r"\b(_event|result|now)\b")


def _is_exact(guard: Guard) -> bool:
    """Whether a guard reads nothing but which states are active."""
    if not isinstance(guard, str) or _READS_EVENT.search(guard):
        return False
    try:
        return not names_in(guard)
    except ExpressionError:
        return False  # the lint has said so, and a chart that is not strict may keep it


def _once(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _blocks(state: State) -> Iterator[Block]:
    yield from (state.on_initial, *state.entry, *state.exit)
    for transition in state.transitions:
        yield transition.do


def _flat(block: Block) -> Iterator[Any]:
    for item in block:
        yield item
        if isinstance(item, If):
            for _, inner in item.branches:
                yield from _flat(inner)
        elif isinstance(item, ForEach):
            yield from _flat(item.do)


def _names(raising: tuple[Any, ...]) -> Iterator[str]:
    for item in raising:
        match item:
            case str():
                yield item
            case list():
                for _, inner in item:
                    yield from _names(inner)
            case (_, inner):
                yield from _names(inner)


def reachable(definition: Definition, *, limit: int = 20_000) -> tuple[tuple[Configuration, ...], bool]:
    """Every way in which a machine of this definition can rest before its end, and whether these are all of them.

    Raises ``DefinitionError`` if the definition makes no chart.
    """
    model = Model(definition, limit, None)
    model.explore()
    names, histories = model.chart.names, model.chart.histories

    def remembered(rest: Rest) -> dict[str, tuple[str, ...]]:
        return {names[histories[k]]: tuple(names[n] for n in bits(mask)) for k, mask in enumerate(rest.history) if mask}

    found = tuple(
        Configuration(tuple(names[n] for n in bits(rest.mask)), remembered(rest), rest.deferred, model.path(rest))
        for rest in model.found
        if not rest.has_ended
    )
    return found, model.complete
