"""Tables that a definition is compiled to: states numbered in document order, sets of them as bits, content as code."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

from x0tta6bl4.statechart.core.content import (
    Begin,
    Compiled,
    Compiler,
    Operation,
    Place,
    StepFailed,
    raise_error,
    stopping,
    told,
)
from x0tta6bl4.statechart.core.effect import Cancelled, Sent
from x0tta6bl4.statechart.core.event import Event, descriptors
from x0tta6bl4.statechart.core.region import (
    ATOMIC,
    CHOICE,
    COMPOUND,
    DEEP_HISTORY,
    ENTRY,
    EXIT,
    FINAL,
    HISTORY,
    JOIN,
    JUNCTION,
    PARALLEL,
    TERMINATE,
)
from x0tta6bl4.statechart.core.state import Definition, Kind, State, Variable
from x0tta6bl4.statechart.core.transition import Activity, Transition
from x0tta6bl4.statechart.types.base import (
    EvaluationError,
    ExpressionError,
    Extension,
    Type,
    byte_size,
    duration_seconds,
    nearest,
    parse_type,
)

KINDS: Mapping[Kind, int] = {
    Kind.PARALLEL: PARALLEL,
    Kind.FINAL: FINAL,
    Kind.HISTORY: HISTORY,
    Kind.DEEP_HISTORY: DEEP_HISTORY,
    Kind.CHOICE: CHOICE,
    Kind.JUNCTION: JUNCTION,
    Kind.JOIN: JOIN,
    Kind.ENTRY: ENTRY,
    Kind.EXIT: EXIT,
    Kind.TERMINATE: TERMINATE,
}
INDIRECT = (HISTORY, DEEP_HISTORY, ENTRY)
"""Entered by entering something else."""
PASSED = (JUNCTION, EXIT)
"""Only a bend in the way of a transition; gone once it is compiled."""
MARKS = frozenset({HISTORY, DEEP_HISTORY, CHOICE, JUNCTION, JOIN, ENTRY, EXIT, TERMINATE})
"""Pseudostates: nothing goes on in them."""


PATHS = 1_000
"""Of one transition through junctions: every way is a transition of its own, and ways multiply."""
Path = tuple[tuple[Compiled | None, ...], tuple[Operation, ...], tuple[int, ...]]
"""Guards, operations, ends."""


class DefinitionError(ValueError):
    """The definition makes no statechart; each problem names the place, the value and the remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def bits(mask: int) -> Iterator[int]:
    """The numbers in the set, in document order."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


class Edge:
    """A transition from one state to its last targets, junctions on the way included. Compared by identity."""

    __slots__ = (
        "definition",
        "events",
        "guard",
        "kind",
        "label",
        "need",
        "operations",
        "remembers",
        "source",
        "targets",
    )

    def __init__(
        self,
        source: int,
        definition: Transition,
        label: str,
        *,
        events: tuple[str, ...] | None = None,
        guard: Compiled | None = None,
        targets: tuple[int, ...] = (),
        operations: tuple[Operation, ...] = (),
        need: int = 0,
    ) -> None:
        self.source = source
        self.definition = definition
        self.label = label
        self.kind = definition.kind
        self.events = events
        """None: taken without any event."""
        self.guard = guard
        self.targets = targets
        self.operations = operations
        self.need = need
        """States that must all be active: the sources of a join."""
        self.remembers = False
        """Where it leads may depend on what a history remembers."""

    def __repr__(self) -> str:
        return f"<Edge {self.label}>"


class First:
    """What gives a variable its first value."""

    __slots__ = ("compute", "key", "kind", "literal", "name")

    def __init__(self, name: str, key: str, compute: Compiled | None, literal: Any, kind: Type | None) -> None:
        self.name = name
        self.key = key
        self.compute = compute
        self.literal = literal
        self.kind = kind

    def value(self, instance: Any) -> Any:
        value = self.literal
        if self.compute is not None:
            value = self.compute(instance.data, instance.runtime.event, instance)
            byte_size(value)
        elif isinstance(value, dict | list):
            value = copy.deepcopy(value)
        if self.kind is not None and (wrong := self.kind.check(value)):
            raise EvaluationError(f"{self.name}: {wrong}")
        return value


class Change:
    """A ``when``: the event that is raised once its expression becomes true."""

    __slots__ = ("bit", "event", "expression", "state")

    def __init__(self, bit: int, state: int, event: str, expression: Compiled) -> None:
        self.bit = bit
        self.state = state
        self.event = event
        self.expression = expression


class Tables:
    """Everything about a chart that does not change. Lists are indexed by the number of the state; 0 is the root."""

    def __init__(self, definition: Definition, extensions: Mapping[str, Extension] | None = None) -> None:
        self.definition = definition
        self.name = definition.name
        self.version = definition.version
        self.rollback = definition.errors == "rollback"
        self.states: list[State] = []
        self.parents: list[int] = []
        self.all_children: list[list[int]] = []
        self.ids: dict[str, int] = {}
        self._named: list[str] = []
        self._problems: list[str] = []
        self._number(definition.root, -1)
        self.names = tuple(self._named)
        self.size = len(self.names)
        self.kinds = [self._kind(n) for n in range(self.size)]
        self.children = [[c for c in children if self.kinds[c] <= TERMINATE] for children in self.all_children]
        """Those that can be active."""
        self.ancestors = [tuple(self._up(n)) for n in range(self.size)]
        """The parent first, the root last."""
        self.descendants = [0] * self.size
        for n, above in enumerate(self.ancestors):
            for a in above:
                self.descendants[a] |= 1 << n
        self.atomic = sum(1 << n for n, kind in enumerate(self.kinds) if kind in (ATOMIC, FINAL, CHOICE, TERMINATE))
        self.histories = [n for n, kind in enumerate(self.kinds) if kind in (HISTORY, DEEP_HISTORY)]
        self.history_index = {n: k for k, n in enumerate(self.histories)}
        self.no_history = (0,) * len(self.histories)

        self.types: dict[str, Type] = {}
        """Of the variables that have one, by key."""
        self.places = self._scopes(extensions)
        self.content = Compiler(
            strict=definition.strict,
            rollback=self.rollback,
            local=definition.scoping == "local",
            lenient=definition.lenient,
            types=self.types,
        )
        self.content.problems = self._problems
        self.entry: list[list[Operation]] = [[] for _ in self.names]
        self.exit: list[list[Operation]] = [[] for _ in self.names]
        self.edges: list[tuple[Edge, ...]] = [()] * self.size
        self.initial: list[tuple[int, ...]] = [()] * self.size
        self.on_initial: list[Operation | None] = [None] * self.size
        self.defaults: dict[int, Edge] = {}
        """Where histories and entries lead when nothing is remembered."""
        self.results: list[Compiled | None] = [None] * self.size
        self.invariants: list[list[tuple[str, Compiled]]] = [[] for _ in self.names]
        self.deferred: list[tuple[str, ...]] = [descriptors(" ".join(state.defer)) for state in self.states]
        self.activities: list[list[tuple[Activity, Begin, Operation | None]]] = [[] for _ in self.names]
        self.changes: list[list[Change]] = [[] for _ in self.names]
        self.firsts: list[First] = []
        """Variables that begin with the machine."""
        self.dropped: dict[int, tuple[str, ...]] = {}
        """State -> keys of its local variables, gone once it was left."""
        self.local_firsts: dict[int, list[First]] = {}
        self.afters: list[list[tuple[str, Operation]]] = [[] for _ in self.names]
        """Of each state, its time events and what arms them."""
        self.rearming: dict[Operation, Operation] = {}
        """What arms a time event -> what does so where a history led back to its state."""
        self._changes = 0
        self._known_ways: dict[int, list[Path]] = {}
        self._joins: dict[int, list[tuple[int, int, Transition]]] = {}

        for n in range(self.size):
            self._variables(n)
        for n in range(self.size):
            self._state(n)
        loops = self._loops()
        if not loops:
            for n in range(self.size):
                self._edges(n)
            for n in self._joins:
                self._join(n)
        self.script = self.content.operation(definition.script, self.places[0].called("the script"))
        self._extents()
        self.callables = self.content.callables
        self.writes = self.content.writes or bool(self.dropped) or definition.binding == "late"
        self.has_data = bool(self.firsts or self.types) or self.writes
        if self._problems:
            raise DefinitionError(list(dict.fromkeys(self._problems)))

    # The tree

    def _number(self, state: State, parent: int) -> None:
        n = len(self.states)
        self.states.append(state)
        self.parents.append(parent)
        self.all_children.append([])
        if parent < 0:
            self._named.append(state.id or self.definition.name)
        else:
            # Unnamed states need a name of their own in snapshots and messages, too.
            siblings = self.all_children[parent]
            name = state.id or f"{self._named[parent] if parent else ''}#{len(siblings)}"
            siblings.append(n)
            self._named.append(name)
            if name in self.ids:
                self._problems.append(f"state {name!r} is there twice: ids are unique in the whole chart; rename one")
            self.ids[name] = n
        for child in state.states:
            self._number(child, n)

    def _kind(self, n: int) -> int:
        kind = self.states[n].kind
        if n == 0 and kind is not Kind.STATE:
            self._wrong(n, f"the root is a {kind}: make it a state, and the {kind} a part of it")
            return COMPOUND
        if kind is not Kind.STATE:
            return KINDS[kind]
        real = (child for child in self.states[n].states if KINDS.get(child.kind, ATOMIC) <= TERMINATE)
        return COMPOUND if n == 0 or any(real) else ATOMIC

    def _up(self, n: int) -> Iterator[int]:
        while (n := self.parents[n]) >= 0:
            yield n

    def _wrong(self, n: int, what: str) -> None:
        self._problems.append(f"{f'state {self._named[n]!r}' if n else 'the chart'}: {what}")

    def _inside(self, n: int, outer: int) -> bool:
        return bool(self.descendants[outer] >> n & 1)

    def _find(self, n: int, name: str, what: str) -> int | None:
        found = self.ids.get(name)
        if found is None:
            self._wrong(n, f"{what} leads to {name!r}, which is no state{nearest(name, self.ids)}")
        return found

    def _apart(self, n: int, targets: Sequence[int], what: str) -> None:
        """Targets that are to be active together have to be in different regions."""
        for one, other in combinations(targets, 2):
            above = next((a for a in self.ancestors[one] if a == other or self._inside(other, a)), 0)
            if one == other or self._inside(other, one) or above == other or self.kinds[above] != PARALLEL:
                self._wrong(
                    n,
                    f"{what} leads to {self.names[one]!r} and {self.names[other]!r}, which are never active together: "
                    "name states of different regions of one parallel state",
                )
                return

    # Variables

    def _scopes(self, extensions: Mapping[str, Extension] | None) -> list[Place]:
        """The variables seen from each state. Local ones are kept under a key that names their state."""
        local = self.definition.scoping == "local"
        everything = {v.name: v.name for state in self.states for v in state.variables}
        places: list[Place] = []
        for n, state in enumerate(self.states):
            if not local:
                keys: Mapping[str, str] = everything
            elif n == 0:
                keys = {v.name: v.name for v in state.variables}
            else:
                outer = places[self.parents[n]].keys
                keys = {**outer, **{v.name: f"{self.names[n]}.{v.name}" for v in state.variables}}
            places.append(Place(f"state {self.names[n]!r}" if n else "the chart", keys))
            seen: set[str] = set()
            for variable in state.variables:
                if variable.name in seen:
                    self._wrong(n, f"variable {variable.name!r} is there twice; rename or remove one")
                seen.add(variable.name)
                if not variable.name.isidentifier() or variable.name.startswith("_"):
                    self._wrong(n, f"{variable.name!r} is no name for a variable: letters, digits and _, no _ at first")
                if variable.type != "any":
                    try:
                        self.types[keys[variable.name]] = parse_type(variable.type, extensions)
                    except ExpressionError as error:
                        self._wrong(n, f"variable {variable.name!r}: {error}")
        return places

    def _first(self, n: int, variable: Variable) -> First:
        place = self.places[n].called(f"{self.places[n].what}: variable {variable.name!r}")
        compute = None if variable.expression is None else self.content.expression(variable.expression, place)
        key = place.keys[variable.name]
        # A variable without a value of its own is null whatever its type says: it has not been given one yet.
        given = variable.expression is not None or variable.value is not None
        kind = self.types.get(key) if given else None
        if kind is not None and compute is None and (wrong := kind.check(variable.value)):
            self._wrong(n, f"variable {variable.name!r} begins with a value of another type: {wrong}")
        return First(variable.name, key, compute, variable.value, kind)

    def _variables(self, n: int) -> None:
        firsts = [self._first(n, variable) for variable in self.states[n].variables]
        if not firsts:
            return
        if self.kinds[n] in MARKS or self.kinds[n] == FINAL:
            self._wrong(n, f"a {self.states[n].kind} state has no variables: nothing stays in it")
        local = n > 0 and self.definition.scoping == "local"
        if not local and (n == 0 or self.definition.binding == "early"):
            self.firsts += firsts
            return
        if local:
            self.dropped[n] = tuple(first.key for first in firsts)
            self.local_firsts[n] = firsts
        self.entry[n].append(self._begin(firsts, local))

    def _begin(self, firsts: list[First], local: bool) -> Operation:
        rollback = self.rollback

        def run(instance: Any) -> None:
            data = instance.data
            for first in firsts:
                if not local and first.key in data:  # bound when the state was first entered
                    continue
                give(first, instance, rollback)

        return run

    # States

    def _state(self, n: int) -> None:
        state, kind, place, content = self.states[n], self.kinds[n], self.places[n], self.content
        name = self.names[n]
        self._form(n)
        for block in state.entry:
            if operation := content.operation(block, place.called(f"entry of {name!r}")):
                self.entry[n].append(operation)
        for block in state.exit:
            if operation := content.operation(block, place.called(f"exit of {name!r}")):
                self.exit[n].append(operation)
        if kind == COMPOUND:
            what = "its initial transition"
            found = [t for word in state.initial if (t := self._find(n, word, what)) is not None]
            for target in found:
                if not self._inside(target, n):
                    self._wrong(n, f"{what} leads to {self.names[target]!r}, which is not inside it")
                elif self.kinds[target] in (*PASSED, JOIN):
                    self._wrong(
                        n, f"{what} leads to the {self.states[target].kind} {self.names[target]!r}: use a choice"
                    )
            self._apart(n, found, what)
            self.initial[n] = tuple(found) if found else tuple(self.children[n][:1])
            self.on_initial[n] = content.operation(state.on_initial, place.called(f"initial transition of {name!r}"))
        elif state.initial and kind != PARALLEL:
            self._wrong(n, "it has an initial state and no states; remove one or add the others")
        self.results[n] = content.result(state.result, place.called(f"result of {name!r}"))
        for number, guard in enumerate(state.invariants):
            what = f"invariant {guard if isinstance(guard, str) else number} of {name!r}"
            if (compiled := content.guard(guard, place.called(what))) is not None:
                self.invariants[n].append((what, compiled))
        for number, activity in enumerate(state.activities):
            here = place.called(f"activity {activity.id or number} of {name!r}")
            begin = content.activity(activity, n, number, name, here)
            finalize = content.operation(activity.finalize, here.called(f"finalize of {name!r}"))
            self.activities[n].append((activity, begin, finalize))
        if state.activities:
            self.exit[n].append(stopping(n, name))

    def _form(self, n: int) -> None:
        """What the kind of a state forbids."""
        state, kind = self.states[n], self.kinds[n]
        parent = self.kinds[self.parents[n]] if n else COMPOUND
        if kind in (COMPOUND, PARALLEL) and not self.children[n]:
            self._wrong(n, "it has no states" if n == 0 else "a parallel state needs states as its regions")
        if kind in MARKS or kind == FINAL:
            if state.states:
                self._wrong(n, f"a {state.kind} state has no states of its own; make it a state")
            if state.activities:
                self._wrong(n, f"a {state.kind} state has no activities; put them before or after it")
        if kind in MARKS and (state.exit or (state.entry and kind != TERMINATE)):
            self._wrong(n, f"a {state.kind} state has no entry or exit; put it into its transition's `do`")
        if kind in (FINAL, TERMINATE) and state.transitions:
            self._wrong(n, f"nothing leads out of a {state.kind} state; remove its transitions")
        if parent == PARALLEL and kind in (FINAL, CHOICE, TERMINATE):
            self._wrong(n, f"a {state.kind} state is no region of a parallel state; put it into one")
        if kind in MARKS and parent == ATOMIC:
            self._wrong(n, f"a {state.kind} state needs states beside it; add them or remove it")

    # Transitions

    def _loops(self) -> bool:
        """Junctions, exits and defaults that lead into one another for ever."""
        ways = {
            n: [t for transition in self.states[n].transitions for word in transition.to if (t := self.ids.get(word))]
            for n in range(self.size)
            if self.kinds[n] in (*PASSED, *INDIRECT)
        }
        done: set[int] = set()

        def circles(n: int, above: tuple[int, ...]) -> bool:
            if n in above:
                names = " -> ".join(repr(self.names[s]) for s in (*above[above.index(n) :], n))
                self._wrong(n, f"it leads back to itself without a state between: {names}")
                return True
            if n in done or n not in ways:
                return False
            done.add(n)
            return any(circles(target, (*above, n)) for target in ways[n])

        return any(circles(n, ()) for n in ways)

    def _edges(self, n: int) -> None:
        kind = self.kinds[n]
        transitions = self.states[n].transitions
        if kind in PASSED or kind == JOIN:
            self._bend(n)
            return
        if kind in INDIRECT:
            self._default(n)
            return
        edges: list[Edge] = []
        for number, transition in enumerate(transitions):
            edges += self._edge(n, number, transition)
        self.edges[n] = tuple(edges)
        if kind == CHOICE:
            if any(edge.events is not None for edge in edges):
                self._wrong(n, "a choice waits for nothing; remove `event`, `after` and `when` from its transitions")
            if any(not edge.targets for edge in edges):
                self._wrong(n, "a choice is left at once; give each of its transitions a target")
            if all(edge.guard is not None for edge in edges):
                self._wrong(n, "a choice must have a way out; add a last transition without a guard")

    def _bend(self, n: int) -> None:
        """A junction, exit or join: its transitions are parts of others."""
        state = self.states[n]
        if not state.transitions:
            self._wrong(n, f"a {state.kind} must lead somewhere; add a transition")
        for transition in state.transitions:
            if transition.event or transition.after is not None or transition.when is not None:
                self._wrong(n, f"a {state.kind} waits for nothing; remove `event`, `after` and `when`")
            if not transition.to:
                self._wrong(n, f"a {state.kind} cannot be stayed in; give its transition a target")
            if self.kinds[n] == EXIT:
                for word in transition.to:
                    if (target := self.ids.get(word)) is not None and self._inside(target, self.parents[n]):
                        self._wrong(
                            n, f"an exit leads out of {self.names[self.parents[n]]!r}, and {word!r} is inside it"
                        )

    def _default(self, n: int) -> None:
        state, parent = self.states[n], self.parents[n]
        named = f"{state.kind} {self.names[n]!r}"
        if len(state.transitions) > 1 or (self.kinds[n] == ENTRY and not state.transitions):
            self._wrong(n, f"a {state.kind} has exactly one transition, this one has {len(state.transitions)}")
        transition = state.transitions[0] if state.transitions else Transition()
        if transition.event or transition.guard or transition.after is not None or transition.when is not None:
            self._wrong(n, f"the transition of a {state.kind} has neither event nor guard; use a choice behind it")
        targets = [t for word in transition.to if (t := self._find(n, word, "its transition")) is not None]
        for target in targets:
            if not self._inside(target, parent):
                self._wrong(n, f"it leads to {self.names[target]!r}, which is not inside {self.names[parent]!r}")
            elif self.kinds[target] in (*PASSED, JOIN):
                self._wrong(n, f"it leads to the {self.states[target].kind} {self.names[target]!r}: use a choice")
        self._apart(n, targets, "its transition")
        if not transition.to:
            # Nothing said: as if its parent had been meant.
            if self.kinds[parent] == PARALLEL:
                targets = list(self.children[parent])
            else:
                targets = list(self.initial[parent])
                if n in targets:
                    self._wrong(n, "it is its parent's initial state and leads nowhere; give it a transition")
        operation = self.content.operation(transition.do, self.places[n].called(f"transition of {named}"))
        self.defaults[n] = Edge(
            n, transition, named, targets=tuple(targets), operations=() if operation is None else (operation,)
        )

    def _edge(self, n: int, number: int, transition: Transition) -> list[Edge]:
        content, name = self.content, self.names[n]
        events = list(descriptors(transition.event))
        label = f"{name} -> {', '.join(transition.to) or '(stays)'}" + (f" on {transition.event}" if events else "")
        place = self.places[n].called(f"transition {label}")
        if transition.kind == "internal" and transition.to:
            self._wrong(n, f"the internal transition to {', '.join(transition.to)} has a target; make it local")
        if transition.after is not None:
            events.append(self._after(n, number, transition.after, place))
        if transition.when is not None:
            event = f"when.{name}.{number}"
            self.changes[n].append(Change(1 << self._changes, n, event, content.expression(transition.when, place)))
            self._changes += 1
            events.append(event)
        targets = [t for word in transition.to if (t := self._find(n, word, "a transition")) is not None]
        self._apart(n, targets, "a transition")
        joins = [t for t in targets if self.kinds[t] == JOIN]
        if joins:
            if events or transition.guard is not None or len(targets) > 1:
                self._wrong(n, f"a transition to the join {self.names[joins[0]]!r} has no event, guard or other target")
            self._joins.setdefault(joins[0], []).append((n, number, transition))
            return []
        guard = content.guard(transition.guard, place)
        own = content.operation(transition.do, place)
        if len(targets) != len(transition.to):
            return []
        return [
            Edge(
                n,
                transition,
                label,
                events=tuple(events) or None,
                guard=both((guard, *guards)),
                targets=ends,
                operations=(*(() if own is None else (own,)), *operations),
            )
            for guards, operations, ends in self._paths(n, targets)
        ]

    def _after(self, n: int, number: int, after: float | str, place: Place) -> str:
        """A time event is an event sent to oneself on entry and taken back on exit."""
        name = f"after.{self.names[n]}.{number}"
        delay_of: Callable[[Any, Any, Any], Any]
        if isinstance(after, str) and after.startswith("="):
            delay_of = self.content.expression(after[1:], place)
        else:
            seconds = 0.0
            try:
                seconds = duration_seconds(after)
            except (EvaluationError, ValueError) as error:
                self._wrong(n, f"after: {after!r}: {error}")

            def delay_of(data: Any, event: Any, instance: Any) -> Any:
                return seconds

        def arm(instance: Any, resumed: bool = False) -> None:
            delay = duration_seconds(delay_of(instance.data, instance.runtime.event, instance))
            instance.runtime.effects.append(Sent(name, None, delay, name, None, resumed))

        def arm_again(instance: Any) -> None:
            arm(instance, True)

        cancelled = Cancelled(name)

        def disarm(instance: Any) -> None:
            instance.runtime.effects.append(cancelled)

        armed = self.content.guarded(arm, f"after {after} of {self.names[n]!r}")
        self.rearming[armed] = self.content.guarded(arm_again, f"after {after} of {self.names[n]!r}")
        self.afters[n].append((name, armed))
        self.entry[n].append(armed)
        self.exit[n].insert(0, disarm)
        return name

    def _paths(self, n: int, targets: Sequence[int]) -> list[Path]:
        """Every way through the junctions between here and states: its guards, what is done on it, where it ends."""
        several = []
        for target in targets:
            if self.kinds[target] == JOIN:
                self._wrong(
                    n, f"a junction leads to the join {self.names[target]!r}; let the states lead there themselves"
                )
            several.append(self._ways(target) if self.kinds[target] in PASSED else [((), (), (target,))])
        paths: list[Path] = []
        for choice in product(*several):
            if len(paths) == PATHS:
                self._wrong(n, f"its transitions have more than {PATHS} ways through junctions; use choices")
                break
            ends = tuple(end for _, _, part in choice for end in part)
            self._apart(n, ends, "a transition")
            paths.append(
                (
                    tuple(guard for guards, _, _ in choice for guard in guards),
                    tuple(operation for _, operations, _ in choice for operation in operations),
                    ends,
                )
            )
        return paths

    def _ways(self, n: int) -> list[Path]:
        """From a junction, exit or join on."""
        if n not in self._known_ways:
            self._known_ways[n] = list(self._ways_on(n))
        return self._known_ways[n]

    def _ways_on(self, n: int) -> Iterator[Path]:
        count = 0
        for transition in self.states[n].transitions:
            place = self.places[n].called(f"transition {self.names[n]} -> {', '.join(transition.to)}")
            guard = self.content.guard(transition.guard, place)
            own = self.content.operation(transition.do, place)
            targets = [t for word in transition.to if (t := self._find(n, word, "a transition")) is not None]
            for guards, operations, ends in self._paths(n, targets):
                count += 1
                if count > PATHS:
                    self._wrong(n, f"there are more than {PATHS} ways on from it; use choices")
                    return
                yield (guard, *guards), (*(() if own is None else (own,)), *operations), ends

    def _join(self, n: int) -> None:
        """One transition out of all its sources. It stands at the first of them, so that it has their precedence."""
        sources = self._joins[n]
        states = [source for source, _, _ in sources]
        if len(set(states)) < 2:
            self._wrong(n, "a join needs transitions from states of two or more regions")
            return
        self._apart(n, states, "the way to it")
        need = sum(1 << state for state in set(states))
        around = next(a for a in self.ancestors[states[0]] if all(self._inside(state, a) for state in states))
        before: list[Operation] = []
        for source, _, transition in sources:
            place = self.places[source].called(f"transition {self.names[source]} -> {self.names[n]}")
            if operation := self.content.operation(transition.do, place):
                before.append(operation)
        edges = []
        for guards, operations, ends in self._ways(n):
            for end in ends:
                if self._inside(end, around):
                    self._wrong(n, f"a join leaves {self.names[around]!r}, and {self.names[end]!r} is inside it")
            edges.append(
                Edge(
                    states[0],
                    self.states[n].transitions[0],
                    f"{', '.join(self.names[state] for state in states)} -> {self.names[n]}",
                    guard=both(guards),
                    targets=ends,
                    operations=(*before, *operations),
                    need=need,
                )
            )
        # Where the transition to the join stands among the others of its state.
        number = sources[0][1]
        written = self.states[states[0]].transitions
        earlier = sum(1 for edge in self.edges[states[0]] if any(edge.definition is t for t in written[:number]))
        own = self.edges[states[0]]
        self.edges[states[0]] = (*own[:earlier], *edges, *own[earlier:])

    # What follows from all of it

    def _extents(self) -> None:
        """Which transitions may end somewhere that a history decides."""
        anywhere = any(self.kinds[t] in INDIRECT for initial in self.initial for t in initial)

        def reaches(targets: Sequence[int], seen: frozenset[int] = frozenset()) -> bool:
            return any(
                target in self.history_index
                or (
                    target in self.defaults
                    and target not in seen
                    and reaches(self.defaults[target].targets, seen | {target})
                )
                for target in targets
            )

        for edges in self.edges:
            for edge in edges:
                edge.remembers = bool(self.histories) and bool(edge.targets) and (anywhere or reaches(edge.targets))


def both(guards: Sequence[Compiled | None]) -> Compiled | None:
    asked = tuple(guard for guard in guards if guard is not None)
    if len(asked) < 2:
        return asked[0] if asked else None
    return lambda data, event, instance: all(guard(data, event, instance) for guard in asked)


def give(first: First, instance: Any, rollback: bool) -> None:
    """First value of a variable; where it fails, the variable is null (as SCXML has it) or the step has failed."""
    try:
        instance.data[first.key] = first.value(instance)
    except Exception as error:
        # The author's own expression.
        if rollback:
            raise StepFailed(f"first value of {first.name!r}", told(error)) from error
        instance.data[first.key] = None
        raise_error(instance, error)
    instance.dirty = True


def completed(names: Sequence[str], result: Compiled | None, rollback: bool) -> Operation:
    """The completion events of a final state's parent and, when its last region is done, of the parallel around it."""

    def run(instance: Any) -> None:
        value = outcome(result, instance, f"result for {names[0]}", rollback)
        queue = instance.runtime.queue
        queue.append(Event(names[0], value, "platform"))
        for name in names[1:]:
            queue.append(Event(name, None, "platform"))

    return run


def outcome(result: Compiled | None, instance: Any, what: str, rollback: bool) -> Any:
    """What a final state hands over; null where that fails (as SCXML has it), or the step has failed."""
    if result is None:
        return None
    try:
        return result(instance.data, instance.runtime.event, instance)
    except Exception as error:
        # The author's own expression.
        if rollback:
            raise StepFailed(what, told(error)) from error
        raise_error(instance, error)
        return None
