"""Draws a statechart as a Mermaid ``stateDiagram-v2``, active states marked, for status pages and documents."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from x0tta6bl4.statechart.core.state import Definition, Kind, State
from x0tta6bl4.statechart.core.transition import (
    Assign,
    Block,
    Call,
    Cancel,
    Content,
    ForEach,
    Guard,
    If,
    Log,
    Raise,
    Send,
    Transition,
)

LONGEST = 60
"""Characters of a guard, or of what a block does, before it is cut: a drawing is an overview."""

_END_NOTE = re.compile("(end) (note)", re.IGNORECASE)
_PLAIN = frozenset(" _./=,()[]+-*'!|")
_SHAPES = {Kind.CHOICE: "choice", Kind.JUNCTION: "choice", Kind.JOIN: "join"}
_MARKS = {
    Kind.HISTORY: "H",
    Kind.DEEP_HISTORY: "H*",
    Kind.ENTRY: "entry {}",
    Kind.EXIT: "exit {}",
    Kind.TERMINATE: "terminate {}",
}
_CLASSES = (
    "classDef active fill:#2f7d4f,color:#ffffff,stroke:#184a2c,stroke-width:3px",
    "classDef pseudo fill:#e4e4e4,color:#333333,stroke:#888888,stroke-dasharray:3",
)


def draw(definition: Definition, active: Collection[str] = ()) -> str:
    """The whole statechart; ``active`` are the ids of the states to mark."""
    return "\n".join(_Drawing(definition, active).lines()) + "\n"


def safe(text: str) -> str:
    """The text as Mermaid shows it unchanged, whatever is in it: what could end or begin something becomes a number."""
    shown = "".join(c if c.isalnum() or c in _PLAIN else f"#{ord(c)};" for c in " ".join(text.split()))
    # The two that begin something in spite of being made of harmless characters.
    return _END_NOTE.sub(r"\1#32;\2", shown.replace("--", "-#45;"))


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _guard(guard: Guard) -> str:
    return guard if isinstance(guard, str) else getattr(guard, "__name__", "function")


def _doing(content: Content) -> str:
    match content:
        case Raise(event):
            return f"raise {event}"
        case Assign(to, expression, value):
            return f"{to} = {value!r}" if expression is None else f"{to} = {expression}"
        case Log(label, expression):
            return f"log {label or expression or ''}".rstrip()
        case If(branches):
            return f"if {branches[0][0]} ..."
        case ForEach(array, item):
            return f"for {item} in {array} ..."
        case Send(event, expression):
            return f"send {event or expression or ''}".rstrip()
        case Cancel(id, expression):
            return f"cancel {id or expression}"
        case Call(function, name):
            return name or getattr(function, "__name__", "function")


def _done(block: Block) -> str:
    return _cut("; ".join(map(_doing, block)))


def _label(transition: Transition, *, otherwise: bool = False) -> str:
    """``event [guard] / what is done``, as UML writes it; not yet safe."""
    parts = [transition.event] if transition.event else []
    if transition.after is not None:
        after = transition.after
        parts.append(f"after {after if isinstance(after, str) else f'{after:g}s'}")
    if transition.when is not None:
        parts.append(f"when {_cut(transition.when)}")
    if transition.guard is not None:
        parts.append(f"[{_cut(_guard(transition.guard))}]")
    elif otherwise:
        parts.append("[else]")
    if transition.do:
        parts.append(f"/ {_done(transition.do)}")
    return " ".join(parts)


@dataclass(slots=True, eq=False)
class _Node:
    """A state where it stands. Its name is ours: an id may hold anything, and Mermaid has words of its own."""

    name: str
    state: State
    above: "_Node | None"
    inside: list["_Node"] = field(default_factory=list)
    arrows: list[str] = field(default_factory=list)
    """What is drawn inside it: transitions between states of which it is the innermost that holds them all."""

    @property
    def is_pseudo(self) -> bool:
        return self.state.kind in _MARKS or self.state.kind in _SHAPES

    def holders(self) -> list["_Node"]:
        """From the root inwards."""
        return [] if self.above is None else [*self.above.holders(), self.above]

    def shape(self) -> str | None:
        ways = self.state.transitions
        if self.state.kind is Kind.JUNCTION and len(ways) == 1 and len(ways[0].to) > 1:
            return "fork"
        return _SHAPES.get(self.state.kind)


class _Drawing:
    def __init__(self, definition: Definition, active: Collection[str]) -> None:
        self.nodes: list[_Node] = []
        self.root = self._node(definition.root, None)
        self.known = {node.state.id: node for node in self.nodes if node.state.id}
        self.active = set(active)
        if unknown := sorted(self.active - self.known.keys()):
            raise ValueError(f"{definition.name or 'the statechart'} has no state {', '.join(map(repr, unknown))}")
        self.forks = 0
        for node in self.nodes:
            for transition in node.state.transitions:
                if transition.to:
                    self._arrow(node, transition)

    def _node(self, state: State, above: _Node | None) -> _Node:
        node = _Node(f"s{len(self.nodes)}", state, above)
        self.nodes.append(node)
        node.inside = [self._node(child, node) for child in state.states]
        return node

    def _arrow(self, node: _Node, transition: Transition) -> None:
        targets = [self.known[name] for name in transition.to]
        shared = [
            group[0] for group in zip(*(n.holders() for n in (node, *targets)), strict=False) if len({*group}) == 1
        ]
        lines = (shared[-1] if shared else self.root).arrows
        decides = node.shape() == "choice" and len(node.state.transitions) > 1
        label = safe(_label(transition, otherwise=decides))
        source, said = node.name, f" : {label}" if label else ""
        if len(targets) > 1 and node.shape() != "fork":
            self.forks += 1
            lines += [f"state f{self.forks} <<fork>>", f"{source} --> f{self.forks}{said}"]
            source, said = f"f{self.forks}", ""
        lines += [f"{source} --> {target.name}{said}" for target in targets]

    def lines(self) -> Iterator[str]:
        yield "stateDiagram-v2"
        if self.root.state.transitions:
            yield f'    state "anywhere" as {self.root.name}'
            yield from (f"    {self.root.name} : {safe(remark)}" for remark in _remarks(self.root.state))
        yield from self._inside(self.root, "    ")
        yield from (f"    {line}" for line in _CLASSES)
        for word, names in (
            ("pseudo", [n.name for n in self.nodes if n.state.kind in _MARKS]),
            ("active", [n.name for n in self.nodes if n.state.id in self.active]),
        ):
            if names:
                yield f"    class {','.join(names)} {word}"

    def _inside(self, node: _Node, indent: str) -> Iterator[str]:
        regions = node.state.kind is Kind.PARALLEL
        if not regions:
            done = f" : {safe('/ ' + _done(node.state.on_initial))}" if node.state.on_initial else ""
            first = [child for child in node.inside if not child.is_pseudo][:1]
            for target in [self.known[name] for name in node.state.initial] or first:
                yield f"{indent}[*] --> {target.name}{done}"
        drawn = False
        # Pseudostates are no regions: they stand in the first one.
        for child in sorted(node.inside, key=lambda n: not n.is_pseudo) if regions else node.inside:
            if regions and drawn and not child.is_pseudo:
                yield f"{indent}--"
            drawn = drawn or not child.is_pseudo
            yield from self._one(child, indent)
        yield from (indent + line for line in node.arrows)

    def _one(self, node: _Node, indent: str) -> Iterator[str]:
        state, name = node.state, node.name
        if (shape := node.shape()) is not None:
            yield f"{indent}state {name} <<{shape}>>"
            return
        shown = _MARKS.get(state.kind, "{}").format(state.id).strip() or "(no name)"
        label = f'state "{safe(shown)}" as {name}'
        remarks = [safe(remark) for remark in _remarks(state)]
        if node.inside:
            yield f"{indent}{label} {{"
            yield from self._inside(node, indent + "    ")
            yield f"{indent}}}"
            if remarks:
                yield f"{indent}note right of {name}"
                yield from (f"{indent}    {remark}" for remark in remarks)
                yield f"{indent}end note"
            return
        yield indent + label
        yield from (f"{indent}{name} : {remark}" for remark in remarks)
        if state.kind is Kind.FINAL:
            yield f"{indent}{name} --> [*]"


def _remarks(state: State) -> Iterator[str]:
    for word, blocks in (("entry", state.entry), ("exit", state.exit)):
        yield from (f"{word} / {_done(block)}" for block in blocks if block)
    for activity in state.activities:
        kind = activity.type or activity.type_expression or "activity"
        yield f"do / {_cut(f'{kind} {activity.source or activity.source_expression or str()}')}"
    yield from (_label(transition) for transition in state.transitions if not transition.to)
    if state.defer:
        yield f"defer {' '.join(state.defer)}"
