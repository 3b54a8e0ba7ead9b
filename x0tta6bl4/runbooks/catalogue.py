"""Knows every action that a runbook may ask for, and finds what a runbook asks for that does not exist."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ValidationError

from x0tta6bl4.kernel.errors import Problem
from x0tta6bl4.kernel.plugin import USUAL_TIMEOUT, Action, Blast, is_reboot_class
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.runbooks.document import GIVEN, TELLS, Do, Node, Runbook, computed, near

ROLES = ("service", "dependency")
"""Families without an executor: each subject says itself which action it means by ``service.restart``."""
VERBS = ("start", "stop", "restart", "reload")
TOLD = frozenset({"title", "text", "incident", "severity", "reasons"})
"""What the daemon itself tells a human about an incident; a runbook need not say it."""


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """One action as runbooks, guard and journal need to know it."""

    name: str
    args: type[BaseModel] | None = None
    """What it takes; None: nobody said, so nothing is checked."""
    idempotent: bool = True
    """Whether twice leaves the same as once, with no harm in between."""
    undo: str = ""
    """The action that takes it back, where there is one."""
    on_unknown: Literal["retry", "probe", "ask"] = "probe"
    blast: Blast = "service"
    """What else can be hurt when it goes wrong."""
    timeout: float = USUAL_TIMEOUT
    """Seconds when a runbook says nothing else."""
    summary: str = ""

    @property
    def is_read_only(self) -> bool:
        return self.blast == "none"

    @property
    def is_reboot_class(self) -> bool:
        """It keeps its place in a ladder, whatever was learnt."""
        return is_reboot_class(self.blast)


class Offers(Protocol):
    """An executor, as far as it is looked at here."""

    @property
    def name(self) -> str: ...

    @property
    def actions(self) -> Sequence[Action]: ...


Catalogue = Mapping[str, ActionSpec]


def catalogue_of(executors: Iterable[Offers]) -> dict[str, ActionSpec]:
    """Every action by its full name. Building an executor touches nothing, so this does not either."""
    return {
        f"{executor.name}.{action.verb}": ActionSpec(
            name=f"{executor.name}.{action.verb}",
            args=action.args,
            idempotent=action.idempotent,
            undo=f"{executor.name}.{action.undo}" if action.undo else "",
            on_unknown=action.on_unknown,
            blast=action.blast,
            timeout=action.timeout,
            summary=action.summary,
        )
        for executor in executors
        for action in executor.actions
    }


@dataclass(frozen=True, slots=True)
class Resolved:
    """An action as it is really done, and to whom."""

    action: str
    target: str


def resolved(action: str, subject: Subject, subjects: Mapping[str, Subject], fault: str) -> tuple[Resolved, ...]:
    """What ``service.VERB`` and ``dependency.VERB`` come to here; empty where nothing here can do that."""
    family, _, verb = action.partition(".")
    if family not in ROLES:
        return (Resolved(action, subject.name),)
    targets: Sequence[Subject] = (subject,)
    if family == "dependency":
        targets = [subjects[name] for name in subject.depends_on if name in subjects]
    found: list[Resolved] = []
    for target in targets:
        name = target.controller.get(verb, "")
        if not name and verb == "restart" and fault == "dead":
            name = target.controller.get("start", "")  # what is gone need not be stopped first
        if not name:
            return ()
        found.append(Resolved(name, target.name))
    return tuple(found)


def check(book: Runbook, catalogue: Catalogue, subjects: Iterable[Subject] = ()) -> list[Problem]:
    """What the runbook asks for and the catalogue does not have. ``subjects`` say what ``service.VERB`` can mean;
    without them it is what processes and units understand."""
    served = [s for s in subjects if any(fnmatchcase(s.name, pattern) for pattern in book.trigger.subjects)]
    return [
        Problem(f"{book.name}.{node.name}.{where}", message, book.place, hint=hint)
        for node in book.walk()
        for do in node.do
        if do.action  # else it could not be read, which was told
        for where, message, hint in _mistakes(node, do, book, catalogue, served)
    ]


def _mistakes(
    node: Node, do: Do, book: Runbook, catalogue: Catalogue, subjects: Sequence[Subject]
) -> Iterator[tuple[str, str, str]]:
    candidates = _candidates(do.action, catalogue, subjects)
    if not candidates:
        if do.family not in ROLES or do.verb not in VERBS:
            names = [*catalogue, *(f"{role}.{verb}" for role in ROLES for verb in VERBS)]
            yield "do", f"there is no action {do.action!r}", near(do.action, names)
        return
    yield from _argument_mistakes(do, book, candidates)
    if do.undo is not None and do.undo.action and not _candidates(do.undo.action, catalogue, subjects):
        role, _, verb = do.undo.action.partition(".")
        if role not in ROLES or verb not in VERBS:
            yield "undo", f"there is no action {do.undo.action!r} to take it back", near(do.undo.action, catalogue)
    if do.on_unknown != "ask" and any(spec.on_unknown == "ask" for spec in candidates):
        yield (
            "do",
            f"whether {do.action} was done cannot be found out by looking",
            "write on_unknown: ask, and unknown: STATE",
        )
    if do.on_unknown == "retry" and not all(spec.idempotent for spec in candidates):
        yield "do", f"{do.action} done twice is not the same as done once", "write on_unknown: probe, or ask"
    if do.tries > 1 and any(spec.on_unknown == "ask" for spec in candidates):
        yield "do", f"{do.action} is never repeated by itself", "leave retry out"


def _candidates(action: str, catalogue: Catalogue, subjects: Sequence[Subject]) -> list[ActionSpec]:
    """What it can come to."""
    family, _, verb = action.partition(".")
    if family not in ROLES:
        return [catalogue[action]] if action in catalogue else []
    if verb not in VERBS:
        return []
    wanted = {name for s in subjects if (name := s.controller.get(verb))}
    if not wanted:
        wanted = {f"{executor}.{verb}" for executor in ("process", "systemd")}
    return [catalogue[name] for name in sorted(wanted) if name in catalogue]


def _argument_mistakes(do: Do, book: Runbook, candidates: Sequence[ActionSpec]) -> Iterator[tuple[str, str, str]]:
    models = [spec.args for spec in candidates if spec.args is not None]
    if len(models) < len(candidates):
        return
    known = {name for model in models for name in model.model_fields}
    names = {*GIVEN, *book.data}
    for key in do.args:
        if key not in known:
            hint = near(key, known) or f"{do.action} takes no arguments"
            yield f"do.args.{key}", f"there is no such argument of {do.action}", hint
    plain = {k: v for k, v in do.args.items() if not (isinstance(v, str) and computed(v, names) is not None)}
    for spec, model in zip(candidates, models, strict=True):
        for key, message in _refused(model, plain, do):
            yield f"do.args.{key}", f"{message} ({spec.name})", ""


def _refused(model: type[BaseModel], plain: Mapping[str, Any], do: Do) -> Iterator[tuple[str, str]]:
    """Only what can be known before it runs: what is computed then is checked by the executor then."""
    later = {*do.args} - {*plain}
    if do.family == TELLS:
        later |= TOLD
    try:
        model.model_validate({key: value for key, value in plain.items() if key in model.model_fields})
    except ValidationError as error:
        for mistake in error.errors(include_url=False):
            key = str(mistake["loc"][0]) if mistake["loc"] else ""
            if mistake["type"] == "missing":
                if key not in later:
                    yield key, "is missing"
            elif key in plain:
                yield key, f"{mistake['msg'].removeprefix('Value error, ')} (got {plain[key]!r})"
