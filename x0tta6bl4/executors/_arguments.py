"""Reads what a step asks for: verb, target and arguments. A mistake is refused before anything happens."""

import signal
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ValidationError

from x0tta6bl4.kernel.errors import StepRefused
from x0tta6bl4.kernel.facts import Step
from x0tta6bl4.kernel.plugin import Action, PluginConfig
from x0tta6bl4.kernel.subjects import Subject

Args = TypeVar("Args", bound=PluginConfig)

SHOWN = 80
"""Characters of a wrong value that are worth repeating."""


def action_of(step: Step, actions: Sequence[Action]) -> Action:
    """The action that the step names; the part before the dot is the operator's name for the executor."""
    verb = step.action.partition(".")[2]
    for action in actions:
        if action.verb == verb:
            return action
    raise StepRefused(f"{step.action}: there is no verb {verb!r}{near(verb, [a.verb for a in actions])}")


def subject_of(step: Step, subjects: Mapping[str, Subject]) -> Subject:
    subject = subjects.get(step.target)
    if subject is None:
        raise StepRefused(f"{step.action}: {step.target!r} is not under care{near(step.target, subjects)}")
    return subject


def arguments_of(step: Step, model: type[Args], also: Mapping[str, Any] | None = None) -> Args:
    """The step's arguments, checked; ``also`` holds values for those that it does not give."""
    try:
        return model.model_validate({**(also or {}), **step.args})
    except ValidationError as error:
        raise StepRefused(
            f"{step.action}: " + "; ".join(_mistake(dict(m), model) for m in error.errors(include_url=False))
        ) from error


def _mistake(mistake: Mapping[str, Any], model: type[PluginConfig]) -> str:
    key = ".".join(map(str, mistake["loc"]))
    if mistake["type"] == "extra_forbidden":
        return f"there is no argument {key!r}{near(key, model.model_fields) or _offered(model)}"
    if mistake["type"] == "missing":
        return f"{key} is missing"
    return f"{key} {mistake['msg'].removeprefix('Value error, ')} (got {shown(mistake['input'])})"


def _offered(model: type[PluginConfig]) -> str:
    return f"; there are: {', '.join(model.model_fields)}" if model.model_fields else "; it takes none"


def near(name: str, names: Iterable[str]) -> str:
    found = get_close_matches(name, list(names), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def as_signal(value: object) -> int:
    """A signal's number from 15, ``TERM`` or ``SIGTERM``. ValueError for what this kernel does not have."""
    number: object = value
    if isinstance(value, str):
        name = value.strip().upper()
        if name.isascii() and name.isdigit() and len(name) <= 3:
            number = int(name)
        else:
            known = {entry.name.removeprefix("SIG"): entry for entry in signal.Signals}
            found = known.get(name.removeprefix("SIG"))
            if found is None:
                raise ValueError(f"should be a signal such as HUP or 1{near(name.removeprefix('SIG'), known)}")
            number = found.value
    if isinstance(number, bool) or not isinstance(number, int) or number not in signal.valid_signals():
        raise ValueError("should be a signal such as HUP or 1")
    return int(number)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal between the first and the last has a number only
        return str(number)


Signal = Annotated[int, BeforeValidator(as_signal)]
"""A signal in a verb's arguments, by number or by name; the value is its number."""
