"""Charts and their instances: configurations, which transitions an event takes in each, and the plan of every step."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from x0tta6bl4.statechart.core.content import Compiled, Operation, Runtime
from x0tta6bl4.statechart.core.event import Event, catches
from x0tta6bl4.statechart.core.region import COMPOUND, DEEP_HISTORY, FINAL, PARALLEL, TERMINATE, is_complete
from x0tta6bl4.statechart.core.state import Definition
from x0tta6bl4.statechart.core.tables import Change, DefinitionError, Edge, Tables, bits, completed
from x0tta6bl4.statechart.core.transition import Transition
from x0tta6bl4.statechart.types.base import EvaluationError, Extension, nearest

PLANS = 50_000
NODES = 20_000
SELECTIONS = 65_536
NAME = 256
"""Bounds of what a chart remembers, so that made-up event names (longer ones than ``NAME`` are not remembered at all)
and huge products of regions cost time, not memory."""


class Plan:
    """One microstep: what is done, in order, and where it ends."""

    __slots__ = (
        "changed",
        "edges",
        "end",
        "enters",
        "exits",
        "history",
        "node",
        "operations",
        "plain",
        "starts",
        "updates",
    )

    def __init__(self, node: "Node", edges: tuple[Edge, ...]) -> None:
        self.node = node
        self.edges = edges
        """The transitions taken, conflicts removed."""
        self.exits: tuple[int, ...] = ()
        self.enters: tuple[int, ...] = ()
        self.operations: tuple[tuple[int, Operation], ...] = ()
        """Each with the configuration as it is at that moment."""
        self.history: tuple[int, ...] | None = None
        """All that is remembered afterwards, where that is known beforehand ..."""
        self.updates: tuple[tuple[int, int], ...] = ()
        """... else what is newly remembered: which history, and its states."""
        self.starts: tuple[tuple[int, bool], ...] = ()
        """States entered that have activities, and whether a history led there."""
        self.changed = 0
        """Bits of the change events that begin anew."""
        self.end: int | None = None
        """The final or terminate state that ends the machine."""
        self.plain = False
        """It does nothing but change the configuration, and the machine rests in it."""


Candidates = tuple[tuple[Edge, ...], ...]
Selection = Plan | dict[tuple[int, ...], Plan] | Candidates | bool
"""What an event does in a configuration: a plan, a plan for each memory, edges whose guards are to be asked (for each
innermost state), or nothing (False)."""


class Node:
    """A configuration; one object for each, so that what was found out about it is found again."""

    __slots__ = (
        "_innermost",
        "_names",
        "changes",
        "chart",
        "defers",
        "eventless",
        "invariants",
        "mask",
        "plans",
        "restless",
        "select",
    )

    def __init__(self, chart: "Chart", mask: int) -> None:
        self.chart = chart
        self.mask = mask
        self.select: dict[str, Selection] = {}
        self.plans: dict[Any, Plan] = {}
        self.eventless: Selection | None = None
        """None: not found out yet."""
        self._names: tuple[str, ...] | None = None
        self._innermost: tuple[str, ...] | None = None
        active = (0, *bits(mask)) if mask else ()
        self.restless = mask != 0 and bool(chart.candidates(mask, None))
        """Transitions without an event lead away from it, if their guards hold."""
        self.invariants: tuple[tuple[str, Compiled], ...] = tuple(i for n in active for i in chart.invariants[n])
        self.defers: tuple[str, ...] = tuple(w for n in active for w in chart.deferred[n])
        self.changes: tuple[Change, ...] = tuple(c for n in active for c in chart.changes[n])

    @property
    def names(self) -> tuple[str, ...]:
        """Ids of the active states, in document order."""
        names = self._names
        if names is None:
            names = self._names = tuple(self.chart.names[n] for n in bits(self.mask))
        return names

    @property
    def innermost(self) -> tuple[str, ...]:
        """Ids of the active states that have no active state inside them."""
        names = self._innermost
        if names is None:
            names = self._innermost = tuple(self.chart.names[n] for n in bits(self.mask & self.chart.atomic))
        return names

    def __repr__(self) -> str:
        return f"<Node {' '.join(self.names)}>"


class Chart(Tables):
    """A compiled definition. Its tables are fixed; what follows from them is found out once and kept, within bounds."""

    def __init__(self, definition: Definition, *, extensions: Mapping[str, Extension] | None = None) -> None:
        super().__init__(definition, extensions)
        self.no_data: dict[str, Any] = {}
        """Shared by the instances of a chart without variables; never written to."""
        self._nodes: dict[int, Node] = {}
        self._plans = 0
        self._selections = 0
        self._hash = ""
        self.empty = self.node(0)
        self._first_step = Edge(0, Transition(to=self.definition.root.initial), "the start", targets=self.initial[0])
        self._start: Plan | None = None

    @property
    def hash(self) -> str:
        """Of the definition's contents: the same in every process; functions count by their names."""
        if not self._hash:
            import hashlib  # brings OpenSSL with it; only who keeps instances needs it
            import json

            text = json.dumps(_plain(self.definition), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
            self._hash = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self._hash

    # Configurations

    def node(self, mask: int) -> Node:
        node = self._nodes.get(mask)
        if node is None:
            if len(self._nodes) >= NODES:
                # They lead to one another: an instance that still rests in one of them would keep them all.
                for other in self._nodes.values():
                    other.plans.clear()
                    other.select.clear()
                    other.eventless = None
                self._nodes.clear()
            node = self._nodes[mask] = Node(self, mask)
        return node

    def configuration(self, names: Iterable[str]) -> int:
        """The set of states, from the names of all of them or of the innermost ones."""
        mask = 0
        problems = []
        for name in names:
            n = self.ids.get(name)
            if n is None:
                problems.append(f"there is no state {name!r}{nearest(name, self.ids)}")
            elif self.kinds[n] > TERMINATE:
                problems.append(f"{name!r} is a {self.states[n].kind}: it is never active")
            else:
                mask |= 1 << n | sum(1 << a for a in self.ancestors[n] if a)
        for n in (0, *bits(mask)):
            active = [self.names[child] for child in self.children[n] if mask >> child & 1]
            what = f"state {self.names[n]!r}" if n else "the chart"
            if self.kinds[n] == COMPOUND and len(active) != 1:
                problems.append(f"of {what} exactly one state is active, not {', '.join(active) or 'none'}")
            elif self.kinds[n] == PARALLEL and len(active) != len(self.children[n]):
                missing = [self.names[child] for child in self.children[n] if not mask >> child & 1]
                problems.append(f"of the parallel {what} every region is active; missing: {', '.join(missing)}")
        if problems:
            raise DefinitionError(problems)
        return mask

    # Which transitions

    def candidates(self, mask: int, name: str | None) -> Candidates:
        """For each innermost state, in document order, the transitions it has for the event: its own before its
        ancestors', each in document order, up to the first that asks nothing."""
        found: list[tuple[Edge, ...]] = []
        for atomic in bits(mask & self.atomic):
            edges: list[Edge] = []
            for state in (atomic, *self.ancestors[atomic]):
                for edge in self.edges[state]:
                    if edge.need & ~mask:
                        continue
                    if edge.events is None if name is None else edge.events is not None and catches(edge.events, name):
                        edges.append(edge)
                        if edge.guard is None:
                            break
                else:
                    continue
                break
            if edges:
                found.append(tuple(edges))
        return tuple(found)

    def selection(self, node: Node, name: str | None) -> Selection:
        """Finds out what an event (None: no event) does in a configuration, and remembers it."""
        found = self.candidates(node.mask, name) if node.mask else ()
        selection: Selection
        if not found:
            selection = False
        elif any(edges[0].guard is not None for edges in found):
            selection = found
        elif any(edges[0].remembers for edges in found):
            selection = {}
        else:
            selection = self.plan(node, tuple(dict.fromkeys(edges[0] for edges in found)), self.no_history)
        if name is None:
            node.eventless = selection
            return selection
        if len(name) > NAME:
            return selection
        self._selections += 1
        if self._selections > SELECTIONS:
            self._selections = 0
            for other in (node, *self._nodes.values()):
                other.select.clear()
        node.select[name] = selection
        return selection

    def remembering(
        self, node: Node, selection: dict[tuple[int, ...], Plan], name: str | None, history: tuple[int, ...]
    ) -> Plan:
        """The plan of transitions that ask nothing but what a history remembers."""
        edges = tuple(dict.fromkeys(edges[0] for edges in self.candidates(node.mask, name)))
        plan = selection[history] = self.plan(node, edges, history)
        return plan

    # Where they lead: Appendix D of SCXML 1.0, on sets as integers

    def _ends(self, targets: Iterable[int], history: tuple[int, ...]) -> list[int]:
        """Targets with histories and entries replaced by what they stand for."""
        ends: list[int] = []
        for target in targets:
            k = self.history_index.get(target)
            if k is not None and history[k]:
                ends += bits(history[k])
            elif target in self.defaults:
                ends += self._ends(self.defaults[target].targets, history)
            else:
                ends.append(target)
        return ends

    def _domain(self, edge: Edge, history: tuple[int, ...]) -> int | None:
        """The state that is neither left nor entered and has all that is."""
        ends = self._ends(edge.targets, history)
        if not ends:
            return None
        inside = self.descendants
        stays = edge.kind == "local" and self.kinds[edge.source] == COMPOUND
        if stays and all(inside[edge.source] >> end & 1 for end in ends):
            return edge.source
        for above in self.ancestors[edge.source]:
            if self.kinds[above] == COMPOUND and all(inside[above] >> end & 1 for end in ends):
                return above
        return 0

    def _left(self, edge: Edge, mask: int, history: tuple[int, ...]) -> int:
        domain = self._domain(edge, history)
        return 0 if domain is None else mask & self.descendants[domain]

    def _compatible(self, edges: tuple[Edge, ...], mask: int, history: tuple[int, ...]) -> tuple[Edge, ...]:
        """Of two that would leave the same state, the inner one is taken, else the first in document order."""
        if len(edges) < 2:
            return edges
        taken: list[Edge] = []
        for edge in edges:
            left = self._left(edge, mask, history)
            outdone = []
            for other in taken:
                if left & self._left(other, mask, history):
                    if not self.descendants[other.source] >> edge.source & 1:
                        break
                    outdone.append(other)
            else:
                taken = [other for other in taken if other not in outdone]
                taken.append(edge)
        return tuple(taken)

    def plan(self, node: Node, edges: tuple[Edge, ...], history: tuple[int, ...]) -> Plan:
        """The microstep that takes these transitions, given in the order of selection.

        It follows from the configuration and them alone, except where a history may be reached.
        """
        remembers = any(edge.remembers for edge in edges)
        key = (edges, history) if remembers else edges
        plan = node.plans.get(key)
        if plan is not None:
            return plan
        self._plans += 1
        if self._plans > PLANS:
            self._plans = 0
            for other in (node, *self._nodes.values()):
                other.plans.clear()
                other.select.clear()
                other.eventless = None
        plan = node.plans[key] = self._planned(node.mask, edges, history, remembers)
        return plan

    def start_plan(self, history: tuple[int, ...] = ()) -> Plan:
        """Nothing is remembered before the start, so there is only one, unless somebody says otherwise."""
        if history and any(history):
            return self._planned(0, (self._first_step,), history, remembers=True)
        if self._start is None:
            self._start = self._planned(0, (self._first_step,), self.no_history, remembers=True)
        return self._start

    def _planned(self, mask: int, edges: tuple[Edge, ...], history: tuple[int, ...], remembers: bool) -> Plan:
        edges = self._compatible(edges, mask, history)
        left = 0
        for edge in edges:
            left |= self._left(edge, mask, history)
        memory, updates = self._remembered(left, mask, history)
        exits = sorted(bits(left), reverse=True)
        operations: list[tuple[int, Operation]] = []
        forgotten: list[str] = []
        for state in exits:
            operations += [(mask, operation) for operation in self.exit[state]]
            forgotten += self.dropped.get(state, ())
            mask &= ~(1 << state)
        for edge in edges:
            operations += [(mask, operation) for operation in edge.operations]
        if forgotten:
            # Only now: what was done on the way out could still read the variables of the states that were left.
            operations.append((mask, _dropping(tuple(forgotten))))
        entering = _Entering(self, memory, mask)
        for edge in edges:
            entering.through(edge)
        if edges and edges[0] is self._first_step:
            operations += [(0, operation) for operation in self.entry[0]]
            if self.on_initial[0] is not None:
                operations.append((0, self.on_initial[0]))
        enters: list[int] = []
        end: int | None = None
        for parent, operation in entering.loose:
            if not entering.mask >> parent & 1:
                operations.append((mask, operation))
        for state in bits(entering.mask):
            mask |= 1 << state
            enters.append(state)
            resumes = entering.resumed >> state & 1
            operations += [
                (mask, self.rearming.get(operation, operation) if resumes else operation)
                for operation in self.entry[state]
            ]
            initially = self.on_initial[state]
            if state in entering.by_default and initially is not None:
                operations.append((mask, initially))
            operations += [(mask, operation) for operation in entering.content.get(state, ())]
            if self.kinds[state] == TERMINATE:
                end = state
                break
            if self.kinds[state] == FINAL:
                parent = self.parents[state]
                if parent == 0:
                    end = state
                else:
                    operations.append((mask, self._completion(state, parent, mask)))
        plan = Plan(self.node(mask), edges)
        plan.exits = tuple(exits)
        plan.enters = tuple(enters)
        plan.operations = tuple(operations)
        if updates:
            if remembers or len(self.histories) == 1:
                plan.history = memory
            else:
                plan.updates = tuple(updates.items())
        plan.starts = tuple((n, bool(entering.resumed >> n & 1)) for n in enters if self.activities[n])
        if edges and edges[0] is self._first_step and self.activities[0]:
            plan.starts = ((0, False), *plan.starts)
        plan.changed = sum(change.bit for n in enters for change in self.changes[n])
        plan.end = end
        node = plan.node
        plan.plain = not (
            operations or plan.starts or plan.changed or node.restless or node.invariants or end is not None
        )
        return plan

    def _remembered(self, left: int, mask: int, history: tuple[int, ...]) -> tuple[tuple[int, ...], dict[int, int]]:
        updates: dict[int, int] = {}
        for n in self.histories:
            parent = self.parents[n]
            if left >> parent & 1:
                inside = self.descendants[parent] & mask
                if self.kinds[n] == DEEP_HISTORY:
                    inside &= self.atomic
                else:
                    inside &= sum(1 << child for child in self.children[parent])
                updates[self.history_index[n]] = inside
        return tuple(updates.get(k, value) for k, value in enumerate(history)), updates

    def _completion(self, state: int, parent: int, mask: int) -> Operation:
        names = [f"done.state.{self.names[parent]}"]
        around = self.parents[parent]
        if around > 0 and self.kinds[around] == PARALLEL and is_complete(self.kinds, self.children, around, mask):
            names.append(f"done.state.{self.names[around]}")
        return completed(names, self.results[state], self.rollback)


class _Entering:
    """Gathers the states that a microstep enters."""

    def __init__(self, chart: Chart, memory: tuple[int, ...], active: int) -> None:
        self.chart = chart
        self.memory = memory
        self.active = active
        """What stays: a history or an entry may stand outside of it and lead into it."""
        self.mask = 0
        self.by_default: set[int] = set()
        """Entered by their initial transitions."""
        self.content: dict[int, list[Operation]] = {}
        """What default transitions do, after the entry of the state that they stand in."""
        self.loose: list[tuple[int, Operation]] = []
        """The same for entries, whose parent may be active already and stay so."""
        self.resumed = 0

    def through(self, edge: Edge) -> None:
        chart = self.chart
        for target in edge.targets:
            self._down(target)
        domain = chart._domain(edge, self.memory)
        for end in chart._ends(edge.targets, self.memory):
            self._up(end, domain)

    def _down(self, state: int) -> None:
        chart = self.chart
        k = chart.history_index.get(state)
        if k is not None and self.memory[k]:
            parent = chart.parents[state]
            remembered = list(bits(self.memory[k]))
            for target in remembered:
                self.resumed |= 1 << target | sum(1 << a for a in chart.ancestors[target] if chart._inside(a, parent))
            self._all(remembered, parent)
            return
        if state in chart.defaults:
            default, parent = chart.defaults[state], chart.parents[state]
            if k is None:
                self.loose += [(parent, operation) for operation in default.operations]
            self.content.setdefault(parent, []).extend(default.operations)
            self._all(default.targets, parent)
            return
        self.mask |= 1 << state
        if chart.kinds[state] == COMPOUND:
            self.by_default.add(state)
            self._all(chart.initial[state], state)
        elif chart.kinds[state] == PARALLEL:
            self._regions(state)

    def _all(self, targets: Iterable[int], outer: int) -> None:
        targets = list(targets)
        for target in targets:
            self._down(target)
        for target in targets:
            self._up(target, outer)

    def _up(self, state: int, outer: int | None) -> None:
        for above in self.chart.ancestors[state]:
            if above == outer or above == 0 or self.active >> above & 1:
                return
            self.mask |= 1 << above
            if self.chart.kinds[above] == PARALLEL:
                self._regions(above)

    def _regions(self, state: int) -> None:
        for region in self.chart.children[state]:
            if not self.mask & (self.chart.descendants[region] | 1 << region):
                self._down(region)


def _dropping(keys: tuple[str, ...]) -> Operation:
    def run(instance: Any) -> None:
        for key in keys:
            instance.data.pop(key, None)
        instance.dirty = True

    return run


def _plain(value: Any) -> Any:
    """A definition as JSON. What says nothing new is left out, so that a field more in a later version of the engine
    changes no hash."""
    if is_dataclass(value) and not isinstance(value, type):
        said = {field.name: (field, getattr(value, field.name)) for field in fields(value)}
        return {
            "is": type(value).__name__,
            **{name: _plain(item) for name, (field, item) in said.items() if item != field.default},
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if callable(value):
        return f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', type(value).__qualname__)}"
    return value


class Instance:
    """One machine under way. All that has to outlive a macrostep is here; between macrosteps nothing else is state."""

    __slots__ = (
        "activities",
        "chart",
        "data",
        "deferred",
        "dirty",
        "history",
        "id",
        "mask",
        "node",
        "running",
        "runtime",
        "seq",
        "when_bits",
    )

    def __init__(self, chart: Chart, id: str, runtime: Runtime) -> None:
        self.chart = chart
        self.id = id
        self.runtime = runtime
        self.node = chart.empty
        self.mask = 0
        self.history = chart.no_history
        self.data: dict[str, Any] = {} if chart.has_data else chart.no_data
        self.running = False
        self.activities: dict[str, tuple[int, int]] | None = None
        """Id -> the state it belongs to, and its number there."""
        self.deferred: tuple[Event, ...] = ()
        self.when_bits = 0
        """Change events whose expression was true when it was asked last."""
        self.seq = 0
        """Of the macrostep; whoever drives the instance counts it up before each one. Ids are made from it."""
        self.dirty = False
        """Data were assigned to; set by the engine, cleared by whoever keeps them."""

    def is_in(self, name: str) -> bool:
        n = self.chart.ids.get(name)
        return n is not None and self.mask >> n & 1 == 1

    @property
    def configuration(self) -> tuple[str, ...]:
        return self.node.names

    def __repr__(self) -> str:
        return f"<Instance {self.id!r} of {self.chart.name!r}: {' '.join(self.configuration)}>"


class UnsafeModification(Exception):
    """The instance cannot go on under the other chart; nothing was changed."""

    def __init__(self, reasons: Collection[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = tuple(reasons)


def modified(instance: Instance, chart: Chart) -> Instance:
    """The same machine under another chart, at the same place. The instance that is given stays as it is.

    States and variables are found again by their names. Variables that are new get their first values, those that are
    no more are dropped, and so is what a history remembered that is no more.
    """
    old = instance.chart
    reasons: list[str] = []

    def moved(n: int, why: str) -> int | None:
        name = old.names[n]
        to = chart.ids.get(name)
        if to is None:
            reasons.append(f"state {name!r} is {why}, and missing")
        elif chart.kinds[to] != old.kinds[n]:
            reasons.append(f"state {name!r} is {why}, and would become another kind: {chart.states[to].kind}")
        return to

    new = Instance(chart, instance.id, instance.runtime)
    new.running, new.seq, new.dirty = instance.running, instance.seq, True
    mask = 0
    for n in bits(instance.node.mask):
        if (to := moved(n, "active")) is not None:
            mask |= 1 << to
    if not reasons and mask:
        try:
            new.node = chart.node(chart.configuration(chart.names[n] for n in bits(mask)))
            new.mask = new.node.mask
            if new.mask != mask:
                reasons.append("the active states would lie in others that were not entered")
        except DefinitionError as error:
            reasons += error.problems
    history = list(chart.no_history)
    for k, n in enumerate(old.histories):
        kept = chart.history_index.get(chart.ids.get(old.names[n], -1))
        states = [moved(state, f"remembered by {old.names[n]!r}") for state in bits(instance.history[k])]
        if kept is not None:
            history[kept] = sum(1 << to for to in states if to is not None)
            outer = chart.descendants[chart.parents[chart.histories[kept]]]
            if history[kept] & ~outer:
                reasons.append(f"what {old.names[n]!r} remembers would no longer lie around it")
    new.history = tuple(history)
    reasons += [
        f"event {event.name!r} waits, and nothing would defer it"
        for event in instance.deferred
        if not catches(new.node.defers, event.name)
    ]
    new.deferred = instance.deferred
    _keep_activities(instance, new, reasons)
    for n in (0, *bits(instance.node.mask)):
        for change in old.changes[n]:
            if instance.when_bits & change.bit:
                new.when_bits |= sum(c.bit for c in new.node.changes if c.event == change.event)
    if not reasons:
        _keep_data(instance, new, reasons)
    if reasons:
        raise UnsafeModification(reasons)
    return new


def _keep_activities(instance: Instance, new: Instance, reasons: list[str]) -> None:
    old, chart = instance.chart, new.chart
    for id, (state, number) in (instance.activities or {}).items():
        name, activity = old.names[state], old.activities[state][number][0]
        to = chart.ids.get(name, 0)
        same = [
            k
            for k, (other, _, _) in enumerate(chart.activities[to])
            if (other.id, other.type, other.type_expression) == (activity.id, activity.type, activity.type_expression)
        ]
        if not same:
            reasons.append(f"activity {id!r} of state {name!r} is under way, and missing")
            continue
        if new.activities is None:
            new.activities = {}
        new.activities[id] = (to, number if number in same else same[0])


def _keep_data(instance: Instance, new: Instance, reasons: list[str]) -> None:
    chart = new.chart
    known = {first.key for first in instance.chart.firsts} | {
        key for keys in instance.chart.dropped.values() for key in keys
    }
    wanted = {first.key: first for first in chart.firsts}
    for n in bits(new.mask):
        wanted |= {first.key: first for first in chart.local_firsts.get(n, ())}
    kept = {key: value for key, value in instance.data.items() if key in wanted or key not in known}
    if kept or chart.has_data:
        new.data = kept
    for key, value in kept.items():
        kind = chart.types.get(key)
        first = wanted.get(key)
        unset = value is None and first is not None and first.kind is None
        if kind is not None and not unset and (wrong := kind.check(value)):
            reasons.append(f"variable {key!r}: {wrong}")
    for key, first in wanted.items():
        if key not in kept:
            try:
                new.data[key] = first.value(new)
            except EvaluationError as error:
                reasons.append(f"variable {key!r} is new, and has no first value: {error}")
