"""Chooses by rules: each fault has a ladder of different steps, from the mildest to telling a human."""

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from x0tta6bl4.kernel.errors import ConfigError, Problem
from x0tta6bl4.kernel.facts import Expect, Incident, IncidentState, Outcome, Plan, Result, Step
from x0tta6bl4.kernel.loop import plan_id
from x0tta6bl4.kernel.plugin import PluginConfig, Situation, planner
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.units import Seconds

TRIED = "tried "
TRIES_TOLD = 3
"""Tries that did not help which an incident tells of, the latest."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True)


class Retry(_Part):
    max: int = Field(default=1, ge=1, le=3)
    """Tries on this rung before the next one."""


class Do(_Part):
    action: str
    """``executor.verb``; ``service.VERB`` is whatever controls the subject, ``dependency.VERB`` the same for each
    subject it depends on."""
    args: dict[str, Any] = Field(default_factory=dict)
    """The action's arguments; ``=EXPRESSION`` is evaluated over ``subject`` and ``incident``."""
    timeout: Seconds = Field(default=30.0, gt=0)
    """Seconds that the action itself may take."""
    retry: Retry = Retry()
    undo: str = ""
    """The action that takes it back when it did not help."""
    on_unknown: Literal["retry", "probe", "ask"] = "probe"
    """When the daemon died in the middle of it: look first (probe), or call a human (ask)."""


class Expected(_Part):
    within: Seconds = Field(default=0.0, ge=0)
    """Seconds until the probe that failed must say yes; 0: the subject's start_timeout."""
    hold: Seconds = Field(default=3.0, ge=0)
    """Seconds for which it must then go on saying yes."""


class Branch(_Part):
    to: str
    when: str = Field(default="", alias="if")
    """An expression over ``subject`` and ``incident``; the first branch that is true is taken."""


class RuleState(_Part):
    do: list[Do] = Field(default_factory=list)
    """The actions of this rung, in order. The last one is proved."""
    when: str = Field(default="", alias="if")
    """Precondition: where it is not true, this rung is left out and ``failed`` is followed."""
    expect: Expected = Expected()
    done: list[Branch] = Field(default_factory=list)
    failed: list[Branch] = Field(default_factory=list)
    final: bool = False

    @field_validator("do", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, Mapping) else value

    @field_validator("done", "failed", mode="before")
    @classmethod
    def _branches(cls, value: Any) -> Any:
        entries = value if isinstance(value, list) else [value]
        return [{"to": entry} if isinstance(entry, str) else entry for entry in entries]


class Trigger(_Part):
    anomaly: str
    """The fault, as an analyzer names it; shell patterns are allowed."""
    when: str = Field(default="", alias="if")
    subjects: list[str] = Field(default_factory=lambda: ["*"])


class Rule(_Part):
    runbook: str
    version: int = 1
    summary: str
    trigger: Trigger
    initial: str
    states: dict[str, RuleState]

    @model_validator(mode="after")
    def _whole(self) -> "Rule":
        names = list(self.states)
        wrong: list[str] = []
        if self.trigger.when:
            try:
                compile_expression(self.trigger.when)
            except ValueError as error:
                wrong.append(f"trigger: {error}")
        if self.initial not in self.states:
            wrong.append(f"initial: there is no state {self.initial!r}")
        for name, state in self.states.items():
            if state.final:
                if state.do or state.done or state.failed:
                    wrong.append(f"states.{name}: a final state does nothing and leads nowhere")
                continue
            if not state.do:
                wrong.append(f"states.{name}: has nothing to do and is not final")
            for key in ("done", "failed"):
                branches: list[Branch] = getattr(state, key)
                if not branches:
                    wrong.append(f"states.{name}.{key}: where does it go?")
                for branch in branches:
                    if branch.to not in self.states:
                        near = get_close_matches(branch.to, names, n=1)
                        hint = f"; did you mean {near[0]!r}?" if near else ""
                        wrong.append(f"states.{name}.{key}: there is no state {branch.to!r}{hint}")
                if branches and branches[-1].when:
                    wrong.append(
                        f"states.{name}.{key}: the last branch has a condition; nothing is left if it is false"
                    )
            if state.do and not state.do[-1].action.startswith("notify."):
                wrong += [
                    f"states.{name}.done: once it is proved nothing more is done, so {b.to!r} must be final"
                    for b in state.done
                    if b.to in self.states and not self.states[b.to].final
                ]
            conditions = [c for c in (state.when, *(b.when for b in (*state.done, *state.failed))) if c]
            for expression in [
                *conditions,
                *(v[1:] for d in state.do for v in d.args.values() if isinstance(v, str) and v.startswith("=")),
            ]:
                try:
                    compile_expression(expression)
                except ValueError as error:
                    wrong.append(f"states.{name}: {error}")
        if not wrong:
            wrong += [f"states.{name}: no end can be reached from it" for name in names if not self._ends(name)]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _ends(self, name: str) -> bool:
        seen, queue = {name}, [name]
        while queue:
            state = self.states[queue.pop()]
            if state.final:
                return True
            for branch in (*state.done, *state.failed):
                if branch.to not in seen:
                    seen.add(branch.to)
                    queue.append(branch.to)
        return False


# -- expressions: comparisons over names, nothing that can run, loop or fail with a surprise ---------------------------

_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_ROOTS = ("subject", "incident")


def compile_expression(text: str) -> Callable[[Mapping[str, Any]], Any]:
    """An expression over ``subject`` and ``incident``. A name that is not there is None; all else a ValueError."""
    if len(text) > 500:
        raise ValueError(f"the expression is too long ({len(text)} characters, at most 500)")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{text!r} is no expression: {error}") from error

    def build(node: ast.AST, depth: int) -> Callable[[Mapping[str, Any]], Any]:
        if depth > 20:
            raise ValueError(f"{text!r} is nested too deeply")
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool | None):
            value = node.value
            return lambda names: value
        if isinstance(node, ast.Name):
            if node.id not in _ROOTS:
                raise ValueError(f"{text!r}: unknown name {node.id!r}; there are {' and '.join(_ROOTS)}")
            root = node.id
            return lambda names: names.get(root)
        if isinstance(node, ast.Attribute):
            inner, key = build(node.value, depth + 1), node.attr
            return lambda names: found.get(key) if isinstance(found := inner(names), Mapping) else None
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            operand = build(node.operand, depth + 1)
            return lambda names: not operand(names)
        if isinstance(node, ast.BoolOp):
            parts = [build(value, depth + 1) for value in node.values]
            if isinstance(node.op, ast.And):
                return lambda names: all(part(names) for part in parts)
            return lambda names: any(part(names) for part in parts)
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARE:
            left, right = build(node.left, depth + 1), build(node.comparators[0], depth + 1)
            compare = _COMPARE[type(node.ops[0])]

            def compared(names: Mapping[str, Any]) -> bool:
                try:
                    return bool(compare(left(names), right(names)))
                except TypeError:  # None < 3: what is not known is not true
                    return False

            return compared
        raise ValueError(f"{text!r}: {type(node).__name__} is not allowed; compare names with and, or, not")

    return build(tree.body, 0)


def _names(incident: Incident, subject: Subject) -> dict[str, Any]:
    return {
        "subject": {
            **subject.data,
            "name": subject.name,
            "kind": subject.kind,
            "group": subject.group,
            "depends_on": list(subject.depends_on),
            "can": dict.fromkeys(subject.controller, True),
        },
        "incident": {
            **incident.data,
            "fault": incident.fault,
            "severity": incident.severity.value,
            "reopened": incident.reopened,
            "passes": incident.passes,
            "tries": incident.tries,
        },
    }


def _true(expression: str, names: Mapping[str, Any]) -> bool:
    return not expression or bool(compile_expression(expression)(names))


# -- reading rules --------------------------------------------------------------------------------------------------


def shipped_rules() -> list[Rule]:
    """Those that come with the daemon, in the order of their file names."""
    folder = resources.files("x0tta6bl4.planners") / "rules"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return [rule for file in files for rule in read_rules(file.read_text(), file.name)]


def read_rules(text: str, place: str) -> list[Rule]:
    """One rule or several (``---`` between them). ConfigError with every mistake and its place."""
    problems: list[Problem] = []
    rules: list[Rule] = []
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            [
                Problem(
                    "(file)",
                    f"is no YAML: {getattr(error, 'problem', None) or error}",
                    place,
                    mark.line + 1 if mark else 0,
                )
            ]
        ) from error
    for document in documents:
        if document is None:
            continue
        try:
            rules.append(Rule.model_validate(document))
        except ValidationError as error:
            name = document.get("runbook", "?") if isinstance(document, Mapping) else "?"
            for mistake in error.errors():
                where = ".".join([str(name), *map(str, mistake["loc"])])
                message = re.sub(r"^Value error, ", "", mistake["msg"])
                problems.extend(Problem(where, part, place) for part in re.split(r"; (?=states\.|initial:)", message))
    if problems:
        raise ConfigError(problems)
    return rules


class _Loader(yaml.SafeLoader):
    """YAML with 1.2's booleans only, so that ``on`` and ``off`` stay words."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


# -- the planner ----------------------------------------------------------------------------------------------------


class Config(PluginConfig):
    rules: list[dict[str, Any]] = Field(default_factory=list)
    """Rules of your own, asked before the shipped ones; each as in the files under ``planners/rules``."""
    shipped: bool = True
    """Whether the shipped rules come behind yours. Without them, a fault no rule speaks of is only shown."""
    equal_tries: int = Field(default=3, ge=1, le=3)
    """The same step at most so often in a row for one subject, over all of its incidents; then the next rung."""

    @field_validator("rules")
    @classmethod
    def _are_rules(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            for number, raw in enumerate(value):
                _own_rule(raw, number)
        except ConfigError as error:
            raise ValueError("; ".join(map(str, error.problems))) from error
        return value


class Ladder:
    """Walks each incident up its rule's rungs; at the top it begins again, slowed down by the guard's backoff."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        own = [rule for number, raw in enumerate(config.rules) for rule in _own_rule(raw, number)]
        self.rules: list[Rule] = own + (shipped_rules() if config.shipped else [])

    def rule_for(self, incident: Incident, subject: Subject) -> Rule | None:
        chosen = subject.rules.get(incident.fault)
        names = _names(incident, subject)
        for rule in self.rules:
            if chosen is not None:
                if rule.runbook == chosen:
                    return rule
            elif (
                fnmatchcase(incident.fault, rule.trigger.anomaly)
                and any(fnmatchcase(subject.name, p) for p in rule.trigger.subjects)
                and _true(rule.trigger.when, names)
            ):
                return rule
        return None

    def plan(self, incident: Incident, situation: Situation) -> Plan | None:
        subject = situation.subject
        rule = self.rule_for(incident, subject)
        if rule is None:
            return None
        names = _names(incident, subject)
        name = incident.rung if incident.rung in rule.states and not rule.states[incident.rung].final else rule.initial
        skipped: list[str] = []
        for _ in range(len(rule.states) + 1):
            state = rule.states[name]
            if state.final:
                return None
            steps = self._steps(state, incident, situation, names)
            if not steps or not _true(state.when, names):
                skipped.append(f"{name} does not apply to {subject.name}")
            elif (
                steps[-1].expect is not None
                and steps[0].action == situation.latest_action
                and situation.latest_target in ("", steps[0].target)
                and situation.equal_tries >= self.config.equal_tries
            ):
                skipped.append(f"{steps[0].action} was tried {situation.equal_tries} times in a row")
            else:
                id = plan_id(incident, name, situation.done)
                return Plan(
                    id=id,
                    incident=incident.id,
                    subject=subject.name,
                    fault=incident.fault,
                    rule=rule.runbook,
                    rung=name,
                    mode=subject.mode,
                    steps=tuple(replace(step, id=f"{id}.{number}") for number, step in enumerate(steps, 1)),
                    because=(incident.summary, f"rule {rule.runbook} v{rule.version}, rung {name}", *skipped),
                )
            name = self._next(state.failed, names)
        return None

    def after(self, incident: Incident, plan: Plan, outcome: Outcome, situation: Situation) -> Incident:
        rule = self.rule_for(incident, situation.subject)
        state = rule.states.get(plan.rung) if rule is not None else None
        if rule is None or state is None:
            return replace(incident, rung="", tries=0, passes=incident.passes + 1)
        names = _names(incident, situation.subject)
        telling = plan.steps[-1].expect is None
        helped = outcome.result is Result.VERIFIED or (telling and outcome.result is Result.UNVERIFIED)
        tries = incident.tries + 1
        if not telling and not helped:
            incident = replace(incident, because=_with_try(incident.because, plan, outcome))
        if not helped and tries < state.do[-1].retry.max and outcome.result is not Result.REFUSED:
            return replace(incident, rung=plan.rung, tries=tries, state=IncidentState.RESPONDING)
        name = self._next(state.done if helped else state.failed, names)
        if rule.states[name].final:
            return replace(incident, rung="", tries=0, passes=incident.passes + 1, state=IncidentState.ESCALATED)
        return replace(incident, rung=name, tries=0, state=IncidentState.RESPONDING)

    @staticmethod
    def _next(branches: Sequence[Branch], names: Mapping[str, Any]) -> str:
        return next(branch.to for branch in branches if _true(branch.when, names))

    @staticmethod
    def _steps(state: RuleState, incident: Incident, situation: Situation, names: Mapping[str, Any]) -> list[Step]:
        """Empty when the subject has nothing that could do what the rung asks for."""
        steps: list[Step] = []
        subject = situation.subject
        for number, do in enumerate(state.do):
            last = number == len(state.do) - 1
            family, _, verb = do.action.partition(".")
            undo_family, _, undo_verb = do.undo.partition(".")
            targets: Sequence[Subject] = (subject,)
            if family == "dependency":
                targets = [s for n in subject.depends_on if (s := situation.subjects.get(n)) is not None]
            for target in targets:
                action = do.action
                if family in ("service", "dependency"):
                    action = target.controller.get(verb, "")
                    if not action and verb == "restart" and incident.fault == "dead":
                        action = target.controller.get("start", "")  # what is gone need not be stopped first
                if not action:
                    return []
                proves = last and target is targets[-1] and family not in ("notify",)
                steps.append(
                    Step(
                        id="",
                        action=action,
                        target=target.name,
                        timeout=do.timeout,
                        on_unknown=do.on_unknown,
                        args={k: _argument(v, names) for k, v in do.args.items()} | _told(family, incident),
                        undo=target.controller.get(undo_verb, "")
                        if undo_family in ("service", "dependency")
                        else do.undo,
                        expect=Expect(state.expect.within or subject.start_timeout, state.expect.hold)
                        if proves
                        else None,
                    )
                )
            if not targets:
                return []
        return steps


def _with_try(because: Sequence[str], plan: Plan, outcome: Outcome) -> tuple[str, ...]:
    """Beside what was seen, the last tries: what a step failed of is often all that a human needs to know."""
    tries = [reason for reason in because if reason.startswith(TRIED)]
    step = next((s for s in plan.steps if s.id == outcome.step), plan.steps[-1])
    tried = f"{TRIED}{step.action} on {step.target}: {outcome.result.value}: {outcome.detail}"
    others = [reason for reason in because if not reason.startswith(TRIED)]
    return (*others, *[t for t in tries if t != tried][1 - TRIES_TOLD :], tried)


def _argument(value: Any, names: Mapping[str, Any]) -> Any:
    return compile_expression(value[1:])(names) if isinstance(value, str) and value.startswith("=") else value


def _told(family: str, incident: Incident) -> dict[str, Any]:
    """What a message to a human has to say."""
    if family != "notify":
        return {}
    return {
        "title": f"{incident.subject}: {incident.fault}",
        "text": incident.summary,
        "incident": incident.id,
        "severity": incident.severity.value,
        "reasons": list(incident.because),
    }


def _own_rule(raw: Mapping[str, Any], number: int) -> list[Rule]:
    return read_rules(yaml.safe_dump(dict(raw), sort_keys=False), f"planners rules[{number}]")


PLUGIN = planner(Config, lambda name, config, tools: Ladder(name, config))
