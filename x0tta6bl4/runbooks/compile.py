"""Compiles a runbook to a statechart: what an operator writes in a line becomes activities, transitions and timers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from x0tta6bl4.kernel.units import show_seconds
from x0tta6bl4.runbooks.document import GIVEN, LENIENT, SEEN, Act, Branch, Do, Move, Node, Runbook, computed
from x0tta6bl4.statechart.core.event import catches, descriptors
from x0tta6bl4.statechart.core.state import Definition, Kind, State, Variable
from x0tta6bl4.statechart.core.transition import Activity, Assign, Block, Content, Log, Raise, Result, Send, Transition

ERROR, ESCALATED = "$error", "$escalated"
"""The states of what nobody thought of: an expression that failed is told to a human, never passed over."""
_TROUBLE = "error_"
"""Variables that are made here end in ``_``: authors' names do not."""
BUS = "#_bus"


def definition(book: Runbook) -> Definition:
    return _Compiler(book).definition()


def pausing(book: Runbook) -> frozenset[str]:
    """The time events that go on with what was left of them when a history leads back to their states."""
    compiler = _Compiler(book)
    compiler.definition()
    return frozenset(compiler.pausing)


def authored(compiled: Definition) -> Definition:
    """Without the states for the runbook's own failures: they lead to an end from everywhere, and so hide that the
    author's own states do not."""
    root = compiled.root
    states = tuple(state for state in root.states if state.id not in (ERROR, ESCALATED))
    moves = tuple(move for move in root.transitions if ERROR not in move.to)
    return replace(compiled, root=replace(root, states=states, transitions=moves))


class _Compiler:
    def __init__(self, book: Runbook) -> None:
        self.book = book
        self.names = {*GIVEN, *book.data} - {SEEN}
        self.pausing: set[str] = set()

    def definition(self) -> Definition:
        book = self.book
        transitions = [self.move(move) for move in (*book.moves, *book.deadline)]
        own = [move.key for move in book.moves if move.kind == "on"]
        states = [self.state(node) for node in book.nodes]
        variables = [
            Variable("incident", value={}),
            Variable("subject", value={}),
            Variable("seen", value={}),
            Variable("last"),
            *(_variable(name, value) for name, value in book.data.items()),
            *(Variable(left_of(node.name), value=_rungs(node)) for node in book.walk() if node.kind == "ladder"),
        ]
        if not any(catches(descriptors(words), "error.execution") for words in own):
            variables.append(Variable(_TROUBLE))
            states += _trouble()
            keep = Assign(_TROUBLE, "{'name': _event.name, 'data': _event.data}")
            transitions.append(Transition("error", (ERROR,), f"not In('{ERROR}')", (keep,)))
        return Definition(
            name=book.name,
            version=str(book.version),
            root=State(
                states=tuple(states),
                initial=(book.initial,),
                transitions=tuple(transitions),
                variables=tuple(variables),
            ),
            scoping="global",
            # A half-done step would go on with half the truth: it is taken back whole, and the chart told of it.
            errors="rollback",
            lenient=LENIENT,
            summary=book.summary,
        )

    def state(self, node: Node) -> State:
        match node.kind:
            case "final":
                return State(
                    node.name, Kind.FINAL, entry=_blocks(node.enter), result=_result(node.result), summary=node.summary
                )
            case "history":
                kind = Kind.DEEP_HISTORY if node.depth == "deep" else Kind.HISTORY
                return State(node.name, kind, transitions=(Transition(to=(node.default,)),), summary=node.summary)
            case "ladder":
                return self.ladder(node)
        return State(
            id=node.name,
            kind=Kind.PARALLEL if node.kind == "parallel" else Kind.STATE,
            states=tuple(self.state(inner) for inner in node.nodes),
            initial=(node.initial,) if node.initial else (),
            transitions=self.ways(node, tuple(self.answers(node))),
            entry=_blocks(node.enter),
            exit=_blocks(node.exit),
            activities=self.work(node),
            summary=node.summary,
        )

    def work(self, node: Node) -> tuple[Activity, ...]:
        if node.kind == "rollback":
            return (Activity(type="rollback"),)
        if not node.do:
            return ()
        content = {**_deed(node), "on_resume": node.on_resume}
        args = ", ".join(self.arguments(do.args) for do in node.do)
        return (Activity(type="act", content=content, parameters=(("args", f"[{args}]"),)),)

    def arguments(self, args: Mapping[str, Any]) -> str:
        """A mapping as an expression, with the texts in it that are expressions."""
        parts = []
        for key, value in args.items():
            source = computed(value, self.names) if isinstance(value, str) else None
            parts.append(f"{key!r}: {f'({source})' if source is not None else literal(value)}")
        return "{" + ", ".join(parts) + "}"

    def answers(self, node: Node) -> Iterator[Transition]:
        """Where it goes by what became of its work. Without a branch for `unknown`, that counts as failed."""
        if node.guard:
            for branch in node.failed:
                guard = f"not ({node.guard})" + (f" and ({branch.guard})" if branch.guard else "")
                yield Transition(to=(branch.to,), guard=guard, do=_acts(branch.acts))
        yield from _answered(node.name, node.done, node.failed, node.unknown)

    def ladder(self, node: Node) -> State:
        """The rungs, and a state between them in which the host says which one comes next."""
        choosing, left = f"{node.name}.next", left_of(node.name)
        rungs = [
            {"state": r.name, "actions": [do.action for do in r.do], "is_safety": r.safety, **_deed(r)}
            for r in node.nodes
        ]
        open_ = ", ".join(f"{rung.name!r}: bool({rung.guard or 'true'})" for rung in node.nodes)
        chosen = [
            Transition(
                f"done.act.{choosing}",
                (rung.name,),
                f"result.rung == {rung.name!r}",
                (Assign(left, f"without({left}, {rung.name!r})"),),
            )
            for rung in node.nodes
        ]
        nothing_left = [
            Transition(f"failed.act.{choosing}", (branch.to,), branch.guard or None, _acts(branch.acts))
            for branch in node.failed
        ]
        next_ = State(
            choosing,
            transitions=(*chosen, *nothing_left),
            activities=(
                Activity(
                    type="choose",
                    content={"rungs": rungs},
                    parameters=(("left", left), ("open", f"{{{open_}}}")),
                ),
            ),
        )
        fill: Block = (Assign(left, value=_rungs(node)),)
        return State(
            id=node.name,
            states=(next_, *(self.rung(rung, node) for rung in node.nodes)),
            initial=(choosing,),
            transitions=self.ways(node, ()),
            entry=_blocks(node.enter),
            # Not on entry: a ladder that a history comes back to goes on where it was left.
            on_initial=fill,
            exit=_blocks(node.exit),
            summary=node.summary,
        )

    def rung(self, node: Node, ladder: Node) -> State:
        onward = (Branch(f"{ladder.name}.next"),)
        done = node.done or (onward if node.safety else ladder.done)
        # What comes behind a safety step is safe only when that was done.
        failed = node.failed or (ladder.failed if node.safety else onward)
        return State(
            id=node.name,
            transitions=self.ways(node, tuple(_answered(node.name, done, failed, node.unknown))),
            entry=_blocks(node.enter),
            exit=_blocks(node.exit),
            activities=self.work(node),
            summary=node.summary,
        )

    def ways(self, node: Node, answers: tuple[Transition, ...]) -> tuple[Transition, ...]:
        """Time events are named by the place of their transitions among these."""
        for number, move in enumerate(node.moves, len(answers)):
            if move.hold == "pause":
                self.pausing.add(f"after.{node.name}.{number}")
        return (*answers, *(self.move(move) for move in node.moves))

    def move(self, move: Move) -> Transition:
        branch = move.branch
        to = (branch.to,) if branch.to else ()
        guard, acts = branch.guard or None, _acts(branch.acts)
        kind: Any = "external" if to else "internal"
        match move.kind:
            case "after":
                time = move.key if move.key.startswith("=") else show_seconds(float(move.key))
                return Transition(to=to, guard=guard, do=acts, kind=kind, after=time)
            case "when":
                return Transition(to=to, guard=guard, do=acts, kind=kind, when=move.key)
            case "on":
                return Transition(move.key, to, guard, acts, kind)
        return Transition(to=to, guard=guard, do=acts)


def left_of(ladder: str) -> str:
    """The variable that says which rungs of a ladder were not tried yet."""
    return f"left_{ladder}_"


def _rungs(ladder: Node) -> list[str]:
    return [rung.name for rung in ladder.nodes]


def literal(value: Any) -> str:
    """A plain value as an expression that says it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return repr(value)


def _answered(
    name: str, done: Sequence[Branch], failed: Sequence[Branch], unknown: Sequence[Branch]
) -> Iterator[Transition]:
    failing = f"failed.act.{name}" if unknown else f"failed.act.{name} unknown.act.{name}"
    for event, branches in ((f"done.act.{name}", done), (failing, failed), (f"unknown.act.{name}", unknown)):
        for branch in branches:
            keep = Assign("last", "result")
            yield Transition(event, (branch.to,), branch.guard or None, (keep, *_acts(branch.acts)))


def _deed(node: Node) -> dict[str, Any]:
    """What is done, and how it is proved."""
    expect = None if node.expect is None else {"within": node.expect.within, "hold": node.expect.hold}
    return {"steps": [_step(do) for do in node.do], "expect": expect}


def _step(do: Do) -> dict[str, Any]:
    return {
        "action": do.action,
        "timeout": do.timeout,
        "retry": {"max": do.tries, "backoff": do.backoff},
        "undo": None if do.undo is None else {"action": do.undo.action, "args": dict(do.undo.args)},
        "on_unknown": do.on_unknown,
    }


def _trouble() -> tuple[State, State]:
    why = f"({_TROUBLE}.data.message if has({_TROUBLE}.data, 'message') else str({_TROUBLE}.data))"
    text = f"'the runbook itself failed (' + {_TROUBLE}.name + '): ' + {why}"
    step = _step(Do("notify.human", {}, timeout=20.0))
    telling = State(
        id=ERROR,
        transitions=(Transition(f"done.act.{ERROR} failed.act.{ERROR} unknown.act.{ERROR} error", (ESCALATED,)),),
        activities=(
            Activity(
                type="act",
                content={"steps": [step], "expect": None, "on_resume": "adopt"},
                parameters=(("args", f"[{{'text': {text}}}]"),),
            ),
        ),
        summary="The runbook itself failed; a human is told of what.",
    )
    ended = State(ESCALATED, Kind.FINAL, result=Result(expression=f"{{'outcome': 'error', 'error': {_TROUBLE}}}"))
    return telling, ended


def _variable(name: str, value: Any) -> Variable:
    return Variable(name, expression=value) if isinstance(value, str) else Variable(name, value=value)


def _result(value: Any) -> Result | None:
    if value is None:
        return None
    return Result(expression=value) if isinstance(value, str) else Result(value=value)


def _blocks(acts: Sequence[Act]) -> tuple[Block, ...]:
    return (_acts(acts),) if acts else ()


def _acts(acts: Sequence[Act]) -> Block:
    return tuple(_act(act) for act in acts)


def _act(act: Act) -> Content:
    match act.kind:
        case "set":
            if isinstance(act.value, str):
                return Assign(act.name, act.value)
            return Assign(act.name, value=act.value)
        case "raise":
            return Raise(act.name)
        case "log":
            return Log(expression=_expression(act.value))
    parameters = tuple((key, _expression(value)) for key, value in act.value.items())
    return Send(act.name, target=BUS, parameters=parameters)


def _expression(value: Any) -> str:
    return value if isinstance(value, str) else literal(value)
