"""A second interpreter of statecharts, slow and simple, to check the first: appendix D of SCXML 1.0, literally.

It shares the definitions with the engine and nothing else: sets and lists, nothing remembered between steps, a way of
its own to evaluate expressions. What goes beyond SCXML is told where it is done.
"""

import copy
from collections.abc import Callable
from typing import Any

from x0tta6bl4.statechart.core.state import Definition, Kind, State
from x0tta6bl4.statechart.core.transition import Assign, Block, Cancel, Content, If, Log, Raise, Send, Transition

HISTORIES = (Kind.HISTORY, Kind.DEEP_HISTORY)
MARKS = (*HISTORIES, Kind.ENTRY)
"""Pseudostates that are never active. A choice is: a state that eventless transitions lead out of at once."""


class Endless(Exception):
    """More microsteps than a chart of this size needs."""


class Failed(Exception):
    """An action that failed in a chart that takes back the whole macrostep then."""


class Node:
    def __init__(self, state: State, parent: "Node | None", nodes: "list[Node]") -> None:
        self.state = state
        self.kind = state.kind
        self.id = state.id
        self.parent = parent
        self.order = len(nodes)
        nodes.append(self)
        self.children = [Node(child, self, nodes) for child in state.states]
        self.real = [child for child in self.children if child.kind not in MARKS]

    def ancestors(self, stop: "Node | None" = None) -> "list[Node]":
        found: list[Node] = []
        node = self.parent
        while node is not None and node is not stop:
            found.append(node)
            node = node.parent
        return found

    def is_below(self, other: "Node") -> bool:
        return other in self.ancestors()

    @property
    def is_compound(self) -> bool:
        return self.parent is None or (self.kind is Kind.STATE and bool(self.real))

    @property
    def is_atomic(self) -> bool:
        return not self.is_compound and self.kind is not Kind.PARALLEL

    def __repr__(self) -> str:
        return self.id or "(root)"


Way = tuple[Node, Transition]


class Oracle:
    """``log`` has everything in the order in which it happened; the caller clears it."""

    def __init__(self, definition: Definition, most: int = 60) -> None:
        self.definition = definition
        self.most = most
        self.nodes: list[Node] = []
        self.root = Node(definition.root, None, self.nodes)
        self.by_id = {node.id: node for node in self.nodes if node.id}
        self.configuration: set[Node] = set()
        self.history: dict[str, list[Node]] = {}
        self.queue: list[tuple[str, Any]] = []
        self.data: dict[str, Any] = {}
        self.entered: set[Node] = set()
        self.to_start: list[Node] = []
        self.started: set[Node] = set()
        self.log: list[tuple[Any, ...]] = []
        self.event: tuple[str, Any] | None = None
        self.running = False
        self.taken = False
        self.code: dict[str, Any] = {}

    # Expressions and content

    def key(self, node: Node, name: str) -> str:
        """Variables of inner states have keys of their own when each is seen only inside its state."""
        if self.definition.scoping == "local":
            for place in [node, *node.ancestors()]:
                if place.parent is not None and any(v.name == name for v in place.state.variables):
                    return f"{place.id}.{name}"
        return name

    def evaluate(self, expression: str, node: Node) -> Any:
        code = self.code.get(expression)
        if code is None:
            code = self.code[expression] = compile(expression, "<expression>", "eval")
        names: dict[str, Any] = {}
        for variable in code.co_names:
            key = self.key(node, variable)
            if key in self.data:
                names[variable] = self.data[key]
        names["In"] = lambda name: self.by_id[name] in self.configuration
        if self.event is not None:
            names["_event"] = type("E", (), {"name": self.event[0], "data": self.event[1]})
        return eval(code, {"__builtins__": {}}, names)

    def failed(self) -> None:
        if self.definition.errors == "rollback":
            raise Failed
        self.queue.append(("error.execution", None))

    def holds(self, guard: Any, node: Node) -> bool:
        if guard is None:
            return True
        try:
            return bool(self.evaluate(guard, node))
        except (NameError, TypeError, AttributeError, ZeroDivisionError):
            self.failed()
            return False

    def do(self, block: Block, node: Node) -> None:
        try:
            for content in block:
                self.act(content, node)
        except (NameError, TypeError, AttributeError, ZeroDivisionError):
            self.failed()

    def act(self, content: Content, node: Node) -> None:
        match content:
            case Raise(event, data):
                self.queue.append((event, None if data is None else self.evaluate(data, node)))
            case Assign(to, expression, value):
                key = self.key(node, to)
                new = value if expression is None else self.evaluate(expression, node)
                if key not in self.data:
                    raise NameError(to)
                self.data[key] = new
            case Log(label, expression):
                self.log.append(("log", label if expression is None else self.evaluate(expression, node)))
            case Send(event=event):
                self.log.append(("send", event))
            case Cancel(id=id):
                self.log.append(("cancel", id))
            case If(branches):
                for guard, block in branches:
                    if self.holds(guard, node):
                        for inner in block:
                            self.act(inner, node)
                        break
            case _:
                raise AssertionError(content)

    # Macrosteps

    def start(self) -> None:
        self.attempt(self.start_up)

    def send(self, name: str, data: Any = None) -> bool:
        """Whether a transition was taken, for the event or in what followed from it."""
        self.taken = False
        return self.running and self.attempt(lambda: self.external(name, data)) and self.taken

    def cancel(self) -> None:
        if self.running:
            self.running = False
            self.event = None
            self.end()

    def end(self) -> None:
        final, result = None, None
        for node in sorted(self.configuration, key=lambda n: -n.order):
            self.leave(node)
            if node.kind is Kind.FINAL and node.parent is self.root:
                final, result = node.id, self.result(node)
        self.log.append(("ended", final, result))

    def attempt(self, step: Callable[[], None]) -> bool:
        """Beyond SCXML: in a chart that takes back, a step that fails did not happen."""
        kept = (
            set(self.configuration),
            dict(self.history),
            copy.deepcopy(self.data),
            set(self.entered),
            set(self.started),
            self.running,
        )
        logged = len(self.log)
        try:
            step()
            if self.definition.errors == "rollback" and self.running:
                for node in self.configuration:
                    for invariant in node.state.invariants:
                        if not self.holds(invariant, node):
                            raise Failed
        except Failed:
            self.configuration, self.history, self.data, self.entered, self.started, self.running = kept
            del self.log[logged:]
            self.queue.clear()
            self.log.append(("faulted",))
            return False
        finally:
            self.to_start.clear()
        return True

    def start_up(self) -> None:
        self.running = True
        self.event = None
        early = self.definition.binding == "early" and self.definition.scoping == "global"
        for node in self.nodes:
            if early or node is self.root:
                self.bind(node)
        self.do(self.definition.script, self.root)
        self.enter_states([(self.root, Transition(to=self.initial(self.root), do=()))], is_start=True)
        self.to_rest()

    def bind(self, node: Node) -> None:
        for variable in node.state.variables:
            key = self.key(node, variable.name)
            if variable.expression is None:
                self.data[key] = variable.value
                continue
            try:
                self.data[key] = self.evaluate(variable.expression, node)
            except (NameError, TypeError, AttributeError, ZeroDivisionError):
                self.data[key] = None
                self.failed()

    def external(self, name: str, data: Any) -> None:
        self.event = (name, data)
        ways = self.select(name)
        if ways:
            self.microstep(ways)
        self.to_rest()

    def to_rest(self) -> None:
        steps = 0
        while self.running:
            ways = self.select(None)
            if not ways:
                if not self.queue:
                    break
                self.event = self.queue.pop(0)
                ways = self.select(self.event[0])
            steps += 1
            if steps > self.most:
                raise Endless
            if ways:
                self.microstep(ways)
        if self.running:
            for node in sorted(self.to_start, key=lambda n: n.order):
                for activity in node.state.activities:
                    self.log.append(("start", activity.id))
                self.started.add(node)
        else:
            self.queue.clear()
            self.end()
        self.to_start.clear()

    # Selecting

    def select(self, name: str | None) -> list[Way]:
        enabled: list[Way] = []
        for atomic in sorted((n for n in self.configuration if n.is_atomic), key=lambda n: n.order):
            for node in [atomic, *atomic.ancestors()]:
                way = next((t for t in node.state.transitions if self.enables(node, t, name)), None)
                if way is not None:
                    if not any(node is n and way is t for n, t in enabled):
                        enabled.append((node, way))
                    break
        return self.without_conflicts(enabled)

    def enables(self, node: Node, transition: Transition, name: str | None) -> bool:
        if name is None:
            return not transition.event and self.holds(transition.guard, node)
        for word in transition.event.split():
            word = word.removesuffix(".*").removesuffix(".")
            if word == "*" or word.split(".") == name.split(".")[: len(word.split("."))]:
                return self.holds(transition.guard, node)
        return False

    def without_conflicts(self, enabled: list[Way]) -> list[Way]:
        kept: list[Way] = []
        for way in enabled:
            preempted = False
            to_remove: list[Way] = []
            for other in kept:
                if self.exit_set([way]) & self.exit_set([other]):
                    if way[0].is_below(other[0]):
                        to_remove.append(other)
                    else:
                        preempted = True
                        break
            if not preempted:
                kept = [other for other in kept if not any(other is r for r in to_remove)]
                kept.append(way)
        return kept

    def exit_set(self, ways: list[Way]) -> set[Node]:
        found: set[Node] = set()
        for node, transition in ways:
            if transition.to:
                domain = self.domain(node, transition)
                found |= {n for n in self.configuration if n.is_below(domain)}
        return found

    def targets(self, transition: Transition) -> list[Node]:
        return [self.by_id[name] for name in transition.to]

    def effective(self, transition: Transition) -> list[Node]:
        found: list[Node] = []
        for node in self.targets(transition):
            if node.kind in HISTORIES and node.id in self.history:
                found += self.history[node.id]
            elif node.kind in MARKS:
                found += self.effective(node.state.transitions[0])
            else:
                found.append(node)
        return found

    def domain(self, node: Node, transition: Transition) -> Node:
        targets = self.effective(transition)
        if transition.kind == "local" and node.is_compound and all(t.is_below(node) for t in targets):
            return node
        return next(a for a in node.ancestors() if a.is_compound and all(t.is_below(a) for t in targets))

    # Microsteps

    def microstep(self, ways: list[Way]) -> None:
        self.taken = True
        left = self.exit_states(ways)
        for node, transition in ways:
            self.do(transition.do, node)
        for node in left:
            self.drop(node)
        self.enter_states(ways)

    def exit_states(self, ways: list[Way]) -> list[Node]:
        leaving = sorted(self.exit_set(ways), key=lambda n: -n.order)
        for node in leaving:
            for mark in node.children:
                if mark.kind in HISTORIES:
                    kept = [
                        n
                        for n in self.configuration
                        if (n.is_atomic and n.is_below(node) if mark.kind is Kind.DEEP_HISTORY else n.parent is node)
                    ]
                    self.history[mark.id] = sorted(kept, key=lambda n: n.order)
        for node in leaving:
            self.leave(node)
        return leaving

    def leave(self, node: Node) -> None:
        for block in node.state.exit:
            self.do(block, node)
        if node in self.started:
            self.started.remove(node)
            for activity in node.state.activities:
                self.log.append(("stop", activity.id))
        self.to_start = [n for n in self.to_start if n is not node]
        self.configuration.discard(node)

    def drop(self, node: Node) -> None:
        if self.definition.scoping == "local":
            for variable in node.state.variables:
                self.data.pop(self.key(node, variable.name), None)

    def initial(self, node: Node) -> tuple[str, ...]:
        return node.state.initial or (node.real[0].id,)

    def enter_states(self, ways: list[Way], *, is_start: bool = False) -> None:
        entering: list[Node] = []
        by_default: set[Node] = set()
        on_the_way: dict[Node, Block] = {}
        through: list[Node] = []

        def add(node: Node) -> None:
            if node not in entering:
                entering.append(node)

        def regions(node: Node) -> None:
            for child in node.real:
                if not any(e is child or e.is_below(child) for e in entering):
                    downwards(child)

        def downwards(node: Node) -> None:
            if node.kind in MARKS:
                assert node.parent is not None
                if node.id in self.history:
                    inner = self.history[node.id]
                else:
                    transition = node.state.transitions[0]
                    on_the_way[node.parent] = transition.do
                    if node.kind is Kind.ENTRY:
                        through.append(node)
                    inner = self.targets(transition)
                for n in inner:
                    downwards(n)
                for n in inner:
                    upwards(n, node.parent)
                return
            add(node)
            if node.is_compound:
                by_default.add(node)
                inner = [self.by_id[name] for name in self.initial(node)]
                for n in inner:
                    downwards(n)
                for n in inner:
                    upwards(n, node)
            elif node.kind is Kind.PARALLEL:
                regions(node)

        def upwards(node: Node, stop: Node) -> None:
            for n in node.ancestors(stop):
                if n in self.configuration:
                    # A history may stand outside of states that stay active, and lead into them. To the letter they
                    # would be entered again, and their regions with them; section 3.13 wants a legal configuration.
                    break
                add(n)
                if n.kind is Kind.PARALLEL:
                    regions(n)

        for node, transition in ways:
            if not transition.to:
                continue
            domain = self.root if is_start else self.domain(node, transition)
            for target in self.targets(transition):
                downwards(target)
            for target in self.effective(transition):
                upwards(target, domain)
        if is_start:
            entering.append(self.root)
            by_default.add(self.root)
        for mark in through:
            # Beyond SCXML: a state may be active already, and stay so, when one goes through an entry of it.
            if mark.parent not in entering:
                self.do(mark.state.transitions[0].do, mark)
        for node in sorted(entering, key=lambda n: n.order):
            self.enter(node, node in by_default, on_the_way.get(node, ()))

    def enter(self, node: Node, is_default: bool, on_the_way: Block) -> None:
        self.configuration.add(node)
        self.to_start.append(node)
        if node.parent is not None and (
            self.definition.scoping == "local" or (self.definition.binding == "late" and node not in self.entered)
        ):
            self.bind(node)
        self.entered.add(node)
        for block in node.state.entry:
            self.do(block, node)
        if is_default:
            self.do(node.state.on_initial, node)
        self.do(on_the_way, node)
        if node.kind is Kind.FINAL:
            assert node.parent is not None
            if node.parent is self.root:
                self.running = False
                return
            self.queue.append((f"done.state.{node.parent.id}", self.result(node)))
            above = node.parent.parent
            if above is not None and above.kind is Kind.PARALLEL and all(self.is_complete(n) for n in above.real):
                self.queue.append((f"done.state.{above.id}", None))

    def result(self, node: Node) -> Any:
        if node.state.result is None or node.state.result.expression is None:
            return None
        try:
            return self.evaluate(node.state.result.expression, node)
        except (NameError, TypeError, AttributeError, ZeroDivisionError):
            self.failed()
            return None

    def is_complete(self, node: Node) -> bool:
        if node.is_compound:
            return any(n.kind is Kind.FINAL and n in self.configuration for n in node.real)
        return node.kind is Kind.PARALLEL and all(self.is_complete(n) for n in node.real)
