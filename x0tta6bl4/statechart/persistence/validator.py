"""Finds what is wrong with a statechart before it runs: in its words first, then in every state it can get into."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from x0tta6bl4.statechart.core.event import catches, descriptors
from x0tta6bl4.statechart.core.state import Definition, Kind, State, Variable
from x0tta6bl4.statechart.core.tables import DefinitionError
from x0tta6bl4.statechart.core.transition import (
    Activity,
    Assign,
    Block,
    Call,
    Cancel,
    ForEach,
    Guard,
    If,
    Log,
    Raise,
    Result,
    Send,
    Transition,
)
from x0tta6bl4.statechart.persistence.model import Model, Step, Tree, label_of, reachable, trigger
from x0tta6bl4.statechart.types.base import (
    GIVEN_NAMES,
    ExpressionError,
    Extension,
    compile_expression,
    compile_location,
    duration_seconds,
    nearest,
    parse_type,
)

__all__ = ["Problem", "Report", "Step", "check", "reachable"]


@dataclass(frozen=True, slots=True)
class Problem:
    rule: str
    """One word for programs: ``target``, ``expression``, ``never-entered``, ``no-end``, …"""
    where: str
    what: str
    """The value that is wrong and what to do about it."""
    level: Literal["error", "warning"] = "error"
    path: tuple[Step, ...] | None = None
    """The shortest way to the trouble; None when it does not depend on what happens."""

    def __str__(self) -> str:
        way = "" if self.path is None else f" [{' -> '.join(map(str, self.path))}]"
        return f"{self.where}: {self.what}{way}"


@dataclass(frozen=True, slots=True)
class Report:
    problems: tuple[Problem, ...]
    states: int = 0
    """How many resting states (configuration, history, deferred events) were found."""
    edges: int = 0
    complete: bool = False
    """Whether every one of them was looked at; False when the limit was hit or the lint found errors."""

    @property
    def ok(self) -> bool:
        return not any(problem.level == "error" for problem in self.problems)


# Only a name that is written out can be checked; one that is reckoned is a matter of the run.
_ASKED_STATE = re.compile(r"""\bIn\(\s*(?:"([^"]*)"|'([^']*)')\s*\)""")
_PSEUDO = frozenset(Kind) - {Kind.STATE, Kind.PARALLEL, Kind.FINAL}
_HISTORY = (Kind.HISTORY, Kind.DEEP_HISTORY)


class _Lint:
    """Everything that can be said without running the chart; collects all of it instead of stopping at the first."""

    def __init__(self, definition: Definition, extensions: Mapping[str, Extension] | None) -> None:
        self.definition = definition
        self.extensions = extensions
        self.tree = Tree(definition.root)
        self.problems: list[Problem] = []
        self.everywhere: set[str] = set()
        if definition.scoping == "global":
            self.everywhere |= {v.name for state in self.tree.states for v in state.variables}

    def run(self) -> list[Problem]:
        if not self.definition.name:
            self.say("name", "chart", "has no name; give it one: snapshots say by it which chart they belong to")
        for index in self.tree.twice:
            self.say("id", self.tree.place(index), "another state has the same id; rename one of them")
        for index in range(len(self.tree.states)):
            self.state(index)
        self.block(self.definition.script, "chart: script", self.names(0))
        return self.problems

    def say(self, rule: str, where: str, what: str, level: Literal["error", "warning"] = "error") -> None:
        self.problems.append(Problem(rule, where, what, level))

    def names(self, index: int) -> frozenset[str]:
        seen = set(self.everywhere)
        for each in (index, *self.tree.above(index)):
            seen.update(v.name for v in self.tree.states[each].variables)
        return frozenset(seen)

    # --- states

    def state(self, index: int) -> None:
        state, where = self.tree.states[index], self.tree.place(index)
        names = self.names(index)
        if state.id != "".join(state.id.split()):
            self.say("id", where, "an id must not contain blanks; use '-' or '_'")
        if not index and state.kind is not Kind.STATE:
            self.say(
                "kind",
                where,
                f"the outermost state cannot be a {state.kind}; make it a state with a {state.kind} in it",
            )
            return
        if state.kind in _PSEUDO or state.kind is Kind.FINAL:
            self.resting_place(index, where)
        if state.kind in _PSEUDO:
            self.pseudo(index, where)
        elif state.kind is Kind.FINAL:
            if state.transitions:
                self.say(
                    "final", where, "a final state cannot be left; remove its transitions or make it a plain state"
                )
        else:
            self.children(index, where)
        if state.result is not None and state.kind is not Kind.FINAL:
            self.say("final", where, "only a final state has a result; remove it or make the state final")
        self.block(state.on_initial, f"{where}: initial", names)
        for word, blocks in (("entry", state.entry), ("exit", state.exit)):
            for block in blocks:
                self.block(block, f"{where}: {word}", names)
        for guard in state.invariants:
            self.guard(guard, f"{where}: invariant", names)
        for words in state.defer:
            self.words(words, f"{where}: defer")
        if state.result is not None:
            self.result(state.result, f"{where}: result", names)
        self.variables(state.variables, where, self.names(self.tree.parent[index]) if index else self.names(0))
        for activity in state.activities:
            self.activity(activity, f"{where}: activity", names)
        for number, transition in enumerate(state.transitions):
            self.transition(index, transition, label_of(where, number, transition), names)

    def resting_place(self, index: int, where: str) -> None:
        """Finals and pseudostates are points: nothing is inside them and nothing goes on in them."""
        state = self.tree.states[index]
        if state.states:
            self.say("kind", where, f"a {state.kind} state cannot have states of its own; move them to its parent")
        for word in ("activities", "variables", "invariants", "defer", "initial"):
            if getattr(state, word):
                self.say("kind", where, f"a {state.kind} state cannot have {word}; the machine does not wait in it")

    def children(self, index: int, where: str) -> None:
        state = self.tree.states[index]
        inside = [each for each in state.states if each.kind not in _PSEUDO]
        if state.kind is Kind.PARALLEL:
            if not inside:
                self.say("region", where, "a parallel state needs regions; add states to it or make it a plain state")
            for each in inside:
                if each.kind is Kind.FINAL:
                    self.say(
                        "region", where, f"its region {each.id!r} is a final state; put it into a state of its own"
                    )
            if state.initial:
                self.say("initial", where, "a parallel state enters all its regions; remove 'initial'", "warning")
        elif state.states and not inside:
            self.say("initial", where, "has only pseudostates inside and nothing to rest in; add a state")
        if state.initial and not state.states:
            self.say("initial", where, f"initial {state.initial[0]!r} given, but it has no states; remove it")
        elif state.kind is not Kind.PARALLEL:
            self.targets(index, state.initial, f"{where}: initial")
            for target in state.initial:
                found = self.tree.ids.get(target)
                if found is not None and not self.tree.is_inside(found, index):
                    self.say("initial", where, f"initial {target!r} is not inside it; name one of {_named(inside)}")

    def pseudo(self, index: int, where: str) -> None:
        state, ways = self.tree.states[index], self.tree.states[index].transitions
        if any((state.entry, state.exit, state.on_initial)):
            self.say("kind", where, f"a {state.kind} has no entry or exit; put what is to be done on its transitions")
        if state.kind is Kind.TERMINATE:
            if ways:
                self.say("kind", where, "nothing comes after a terminate; remove its transitions")
            return
        for way in ways:
            if way.event or way.after is not None or way.when is not None:
                self.say("kind", where, f"the machine does not wait in a {state.kind}; remove event, after and when")
                break
        if state.kind in _HISTORY or state.kind in (Kind.ENTRY, Kind.JOIN):
            if len(ways) != 1 or ways[0].guard is not None or not ways[0].to:
                self.say("default", where, f"a {state.kind} needs exactly one transition, with a target and no guard")
            elif state.kind is not Kind.JOIN:
                parent = self.tree.parent[index]
                for target in ways[0].to:
                    found = self.tree.ids.get(target)
                    if found is not None and not self.tree.is_inside(found, parent):
                        self.say("default", where, f"its target {target!r} is not inside {self.tree.place(parent)}")
        elif not ways or (ways[-1].guard is not None and state.kind is Kind.CHOICE):
            self.say("default", where, f"a {state.kind} needs a last transition without a guard, or it can get stuck")
        elif ways[-1].guard is not None:
            # No mistake of the engine's: where no way is open, what leads to it is not taken at all.
            what = f"has no way out without a guard: transitions to this {state.kind} may not be taken"
            self.say("default", where, f"{what}; add a last one", "warning")
        if state.kind is Kind.JOIN and not any(state.id in t.to for each in self.tree.states for t in each.transitions):
            self.say("default", where, "no transition leads to this join; add one in each region")

    # --- transitions

    def transition(self, index: int, transition: Transition, where: str, names: frozenset[str]) -> None:
        state = self.tree.states[index]
        triggers = [bool(transition.event.split()), transition.after is not None, transition.when is not None]
        if sum(triggers) > 1:
            self.say("event", where, "has more than one of event, after and when; make a transition of each")
        if transition.event:
            self.words(transition.event, where)
        elif state.kind in (Kind.STATE, Kind.PARALLEL) and not any(triggers) and transition.guard is None:
            if not transition.to:
                self.say(
                    "endless", where, "has no event, no guard and no target: it would be taken for ever; remove it"
                )
            elif state.id and transition.to == (state.id,):
                self.say("endless", where, "leads back to its own state with no event and no guard, for ever; add one")
        if transition.kind == "internal" and transition.to:
            self.say("target", where, "is internal and has a target; remove the target or make it local", "warning")
        if transition.after is not None:
            self.delay(transition.after, f"{where}: after", names)
        if transition.when is not None:
            self.expression(transition.when, f"{where}: when", names)
        self.guard(transition.guard, f"{where}: if", names)
        self.targets(index, transition.to, where)
        self.block(transition.do, where, names)

    def targets(self, index: int, targets: Sequence[str], where: str) -> None:
        found = []
        for target in targets:
            if target not in self.tree.ids:
                near = nearest(target, self.tree.ids) or "; name one that the chart has"
                self.say("target", where, f"there is no state {target!r}{near}")
            else:
                found.append(self.tree.ids[target])
        for one, other in combinations(found, 2):
            meet = self.tree.meet(one, other)
            if one == other or meet in (one, other) or self.tree.states[meet].kind is not Kind.PARALLEL:
                pair = f"{self.tree.states[one].id!r} and {self.tree.states[other].id!r}"
                self.say("target", where, f"targets {pair} cannot be active together; name states of different regions")

    def words(self, words: str, where: str) -> None:
        for word in words.split():
            body = word.removesuffix(".*").removesuffix(".") if word != "*" else "x"
            if not all(part and "*" not in part for part in body.split(".")):
                self.say("event", where, f"{word!r} is no event descriptor; write it like 'a.b', 'a.*' or '*'")

    def event(self, name: str, where: str) -> None:
        if not name or name != "".join(name.split()) or "*" in name:
            self.say("event", where, f"{name!r} is no event name; write it like 'a.b'")

    def delay(self, delay: float | str, where: str, names: frozenset[str]) -> None:
        if isinstance(delay, str) and delay.startswith("="):
            self.expression(delay[1:], where, names)
            return
        try:
            seconds = duration_seconds(delay)
        except ValueError as error:
            self.say("delay", where, f"{delay!r} is no duration ({error}); write seconds or 500ms, 5s, 2m, 1h, 1d")
        else:
            if seconds < 0:
                self.say("delay", where, f"{delay!r} is in the past; write a duration of zero or more")

    # --- expressions, types, actions

    def expression(self, source: str, where: str, names: frozenset[str]) -> None:
        self.compiled(lambda: compile_expression(source, names=names), where)
        for quoted in map("".join, _ASKED_STATE.findall(source)):
            if quoted not in self.tree.ids:
                self.say(
                    "expression", where, f"`{source}`: there is no state {quoted!r}{nearest(quoted, self.tree.ids)}"
                )

    def location(self, location: str, where: str, names: frozenset[str]) -> None:
        self.compiled(lambda: compile_location(location, names=names), where)

    def compiled(self, attempt: Callable[[], Any], where: str) -> None:
        try:
            attempt()
        except ExpressionError as error:
            # A chart that is not strict lets it fail when it is reached, and may mean that.
            self.say("expression", where, str(error), "error" if self.definition.strict else "warning")

    def guard(self, guard: Guard, where: str, names: frozenset[str]) -> None:
        if isinstance(guard, str):
            self.expression(guard, where, names)

    def variables(self, variables: Sequence[Variable], where: str, names: frozenset[str]) -> None:
        seen: set[str] = set()
        for variable in variables:
            place = f"{where}: variable {variable.name!r}"
            if not variable.name.isidentifier() or variable.name in GIVEN_NAMES:
                self.say("variable", place, "is no usable name; use letters, digits and '_'")
            if variable.name in seen:
                self.say("variable", place, "is declared twice; remove one")
            seen.add(variable.name)
            if variable.expression is not None:
                self.expression(variable.expression, place, names | seen)
            try:
                wanted = parse_type(variable.type, self.extensions)
            except ValueError as error:
                self.say("type", place, f"{variable.type!r} is no type: {error}")
                continue
            wrong = wanted.check(variable.value) if variable.expression is None and variable.value is not None else None
            if wrong:
                self.say("type", place, f"its first value is not a {variable.type}: {wrong}")

    def expressions(self, item: Any, where: str, names: frozenset[str], *fields: str) -> None:
        for name in fields:
            source = getattr(item, name)
            if source is not None:
                self.expression(source, f"{where}: {name.removesuffix('_expression')}", names)

    def parameters(self, parameters: Sequence[tuple[str, str]], where: str, names: frozenset[str]) -> None:
        for name, source in parameters:
            self.expression(source, f"{where}: {name}", names)

    def result(self, result: Result, where: str, names: frozenset[str]) -> None:
        self.expressions(result, where, names, "expression")
        self.parameters(result.parameters, where, names)

    def activity(self, activity: Activity, where: str, names: frozenset[str]) -> None:
        self.expressions(activity, where, names, "type_expression", "source_expression", "content_expression")
        self.parameters(activity.parameters, where, names)
        if activity.id_location is not None:
            self.location(activity.id_location, where, names)
        self.block(activity.finalize, f"{where}: finalize", names)

    def block(self, block: Block, where: str, names: frozenset[str]) -> None:
        for item in block:
            match item:
                case Raise():
                    self.event(item.event, f"{where}: raise")
                    self.expressions(item, f"{where}: raise {item.event}", names, "data")
                case Assign():
                    self.location(item.to, f"{where}: set", names)
                    self.expressions(item, f"{where}: set {item.to}", names, "expression")
                case Log():
                    self.expressions(item, f"{where}: log", names, "expression")
                case If():
                    for guard, inner in item.branches:
                        self.guard(guard, f"{where}: if", names)
                        self.block(inner, where, names)
                case ForEach():
                    place = f"{where}: foreach"
                    self.expression(item.array, place, names)
                    loop = {name for name in (item.item, item.index) if name is not None}
                    for name in sorted(loop):
                        if not name.isidentifier() or name in GIVEN_NAMES:
                            self.say("variable", place, f"{name!r} is no usable name; use letters, digits and '_'")
                    self.block(item.do, place, names | loop)
                case Send():
                    self.send(item, f"{where}: send", names)
                case Cancel():
                    self.expressions(item, f"{where}: cancel", names, "id_expression")
                case Call():
                    pass

    def send(self, item: Send, where: str, names: frozenset[str]) -> None:
        if item.event is not None:
            self.event(item.event, where)
        self.expressions(
            item, where, names,
            "event_expression", "target_expression", "type_expression", "delay_expression", "content_expression",
        )  # fmt: skip
        self.parameters(item.parameters, where, names)
        if item.id_location is not None:
            self.location(item.id_location, where, names)
        if item.delay is not None:
            self.delay(item.delay, f"{where}: delay", names)


def _named(states: Sequence[State]) -> str:
    return ", ".join(repr(state.id) for state in states if state.id) or "its states, which need ids for that"


# --- what follows from it ---


def check(
    definition: Definition,
    *,
    extensions: Mapping[str, Extension] | None = None,
    people: Sequence[str] | None = None,
    must_end: bool | None = None,
    limit: int = 20_000,
) -> Report:
    """Reads the chart for mistakes; if there are none, looks at every state that it can rest in.

    ``people``: descriptors of the events that somebody is known to send. A machine that waits has to have a timer, an
    activity or one of them; None: any event will do. ``must_end``: whether an end must be reachable from everywhere;
    None: if the chart has one at all. ``limit``: resting states that are looked at, at most.
    """
    problems = _Lint(definition, extensions).run()
    if any(problem.level == "error" for problem in problems):
        return Report(tuple(problems))
    try:
        model = Model(definition, limit, people)
    except DefinitionError as error:
        return Report((*problems, *(Problem("definition", "chart", what) for what in error.problems)))
    model.explore()
    problems += _trouble(model)
    if not model.complete:
        what = f"has more than {limit} states to rest in; not all of them were looked at"
        problems.append(Problem("limit", "chart", what, "warning"))
    else:
        problems += _never(model)
        has_end = any(state.kind is Kind.TERMINATE for state in model.tree.states) or any(
            state.kind is Kind.FINAL for state in definition.root.states
        )
        if must_end or (must_end is None and has_end):
            problems += _no_end(model)
        problems += _waits(model)
    return Report(tuple(problems), len(model.found), model.edges, model.complete)


def _trouble(model: Model) -> Iterator[Problem]:
    for origin, step, where in model.endless:
        what = (
            f"never comes to rest {where}: what it does there needs no event and goes on for ever; add a guard or event"
        )
        yield Problem("endless", "chart", what, path=(*model.path(origin), step))
    for (taken, lost), (origin, step) in model.conflicts.items():
        first, second = model.label(taken), model.label(lost)
        what = f"can be enabled together with {second}; only one can be taken, and the order in the document decides"
        yield Problem(
            "conflict", first, f"{what}; let their guards exclude one another", "warning", (*model.path(origin), step)
        )


def _never(model: Model) -> Iterator[Problem]:
    tree = model.tree
    for n, state in enumerate(tree.states):
        rests = state.kind in (Kind.STATE, Kind.PARALLEL, Kind.FINAL, Kind.CHOICE, Kind.TERMINATE)
        is_entered = model.entered >> n & 1 or not rests
        above = tree.parent[n]
        if not is_entered and (above < 0 or model.entered >> above & 1):
            yield Problem(
                "never-entered", tree.place(n), "is never entered; add a transition to it or remove it", "warning"
            )
        if not is_entered or state.kind in (*_HISTORY, Kind.ENTRY):
            continue
        for number, transition in enumerate(state.transitions):
            if (n, number) not in model.fired:
                yield _unused(model, n, number, label_of(tree.place(n), number, transition))


def _unused(model: Model, n: int, number: int, where: str) -> Problem:
    written = model.tree.states[n].transitions
    words = _catching(written[number])
    for earlier, other in enumerate(written[:number]):
        if other.guard is None and all(catches(_catching(other), word) for word in words) and _can_shadow(other, words):
            what = (
                f"is never taken: transition {earlier + 1} ({trigger(other)}) takes the same and asks nothing before it"
            )
            return Problem("shadowed", where, f"{what}; move this one up or remove it", path=model.way_to(n))
    inner = model.taker(n, number)
    if inner is not None:
        what = f"is never taken: {model.label(inner)} is further in and takes the same before it"
        return Problem("shadowed", where, f"{what}; give that one a guard or remove this one", path=model.way_to(n))
    what = "is never taken: its event does not come while the state is active, or its guard never holds"
    return Problem("never-taken", where, f"{what}; remove it, or raise or send the event", "warning", model.way_to(n))


def _catching(transition: Transition) -> tuple[str, ...]:
    return descriptors(transition.event)


def _can_shadow(transition: Transition, words: Sequence[str]) -> bool:
    """Both need an event, or neither."""
    waits = transition.after is not None or transition.when is not None
    return not waits and bool(words) == bool(transition.event)


def _no_end(model: Model) -> Iterator[Problem]:
    good = {rest for rest in model.found if rest.has_ended}
    waiting = list(good)
    while waiting:
        for rest in model.before.get(waiting.pop(), ()):
            if rest not in good:
                good.add(rest)
                waiting.append(rest)
    lost = [rest for rest in model.found if rest not in good]
    if lost:
        more = f" (nor from {len(lost) - 1} more that it can rest in)" if len(lost) > 1 else ""
        what = f"{model.innermost(lost[0].mask)} no end can be reached{more}; add a way to a final state"
        yield Problem("no-end", "chart", what, path=model.path(lost[0]))


def _waits(model: Model) -> Iterator[Problem]:
    seen: set[int] = set()
    for rest in model.found:
        if rest.has_ended or rest in model.driven or rest.mask in seen:
            continue
        seen.add(rest.mask)
        what = f"{model.innermost(rest.mask)} it waits with neither a timer nor an activity"
        what += " nor any event" if model.people is None else " nor an event that people send"
        yield Problem("waits", "chart", f"{what}; add `after`, or a way out", path=model.path(rest))
