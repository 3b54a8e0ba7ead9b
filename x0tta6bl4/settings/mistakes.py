"""Says what is wrong with a setting in words an operator can act on, without ever telling a secret."""

import difflib
import re
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from x0tta6bl4.kernel.errors import Problem
from x0tta6bl4.settings.document import KeyPath, dotted, printable

HIDDEN = "********"
LONGEST_SHOWN = 80

_SECRET_KEY = re.compile(
    r"pass(?:word|wd|phrase)|secret|token|credential|api[-_]?key|access[-_]?key|private[-_]?key|authorization|cookie",
    re.IGNORECASE,
)
_NO_SECRET_KEY = re.compile(r"_(?:file|path|env|limit|seconds)$", re.IGNORECASE)
_URL_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_SECRET_WORD = re.compile(r"((?:password|passwd|secret|token|api[-_]?key)\s*[=:]\s*)\S+", re.IGNORECASE)
_BEARER = re.compile(r"(bearer\s+)\S+|\b(?:sk|ghp|xoxb)[-_][A-Za-z0-9_-]{6,}", re.IGNORECASE)


def is_secret(path: Sequence[str | int]) -> bool:
    """Whether the value there must not be shown. Names of files with secrets in them may be."""
    return any(isinstance(part, str) and _SECRET_KEY.search(part) and not _NO_SECRET_KEY.search(part) for part in path)


def masked(value: Any, path: Sequence[str | int]) -> Any:
    """The value as it may be shown: secrets replaced, however deep they lie and also inside a longer text."""
    if value is not None and is_secret(path):
        return HIDDEN
    if isinstance(value, dict):
        return {key: masked(inner, (*path, key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(inner, path) for inner in value]
    if isinstance(value, str):
        value = _URL_USER.sub(HIDDEN, value)
        value = _SECRET_WORD.sub(rf"\g<1>{HIDDEN}", value)
        return _BEARER.sub(lambda match: (match[1] or "") + HIDDEN, value)
    return value


def nearest(word: str, names: Iterable[str]) -> str:
    """A hint at the valid name that is meant, or at all of them when none is near and they are few."""
    valid = sorted(names)
    by_lower = {name.lower(): name for name in valid}
    close = difflib.get_close_matches(word[:LONGEST_SHOWN].lower(), by_lower, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{by_lower[close[0]]}'?"
    return "there are: " + ", ".join(valid) if 0 < len(valid) <= 24 else ""


def problems_of(
    error: ValidationError, model: type[BaseModel], data: Any, prefix: Sequence[str | int] = ()
) -> list[Problem]:
    """Each mistake that pydantic found in ``data``, a part of the settings that stands at ``prefix``. No place yet."""
    return [_problem(mistake, model, data, tuple(prefix)) for mistake in error.errors(include_url=False)]


def _problem(mistake: Any, model: type[BaseModel], data: Any, prefix: KeyPath) -> Problem:
    kind: str = mistake["type"]
    location = tuple(part for part in mistake["loc"] if part != "[key]")
    path = (*prefix, *_existing(location, data, may_lack_last=kind == "missing"))
    where = dotted(path) or "the whole configuration"
    if kind == "extra_forbidden":
        # The key is the mistake, so its value is not shown: who mistypes `pasword` should not read it in a log.
        what = "section" if len(path) == 1 else "setting"
        return Problem(where, f"no such {what}", hint=nearest(str(location[-1]), _names_at(model, location[:-1])))
    if kind == "missing":
        return Problem(where, "is missing, and has no default")
    message = str(mistake["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message[:1].lower() + message[1:]
    given = mistake.get("input")
    # Only the key itself says whether it is a secret; a whole section given as text could hold one as well.
    if is_secret(path) or (isinstance(given, str) and kind in ("model_type", "model_attributes_type", "dict_type")):
        if kind in ("value_error", "assertion_error"):
            message = "is not valid"
        return Problem(where, f"{printable(message)} (its value is not shown)")
    shown = _shown(given, path)
    hint = ""
    if kind in ("literal_error", "enum") and isinstance(given, str):
        hint = nearest(given, re.findall(r"'([^']*)'", str(mistake["ctx"]["expected"])))
    elif kind == "string_type" and isinstance(given, (int, float)):
        hint = "put it in quotes to make it text"
    elif kind == "list_type":
        hint = "a list is written [a, b]"
    return Problem(where, printable(f"{message} (got {shown})" if shown else message), hint=hint)


def _existing(location: Sequence[str | int], data: Any, *, may_lack_last: bool) -> KeyPath:
    """The part of pydantic's location that is truly in the data; the rest names types it tried."""
    path: list[str | int] = []
    for number, part in enumerate(location):
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, (list, tuple)) and isinstance(part, int) and part < len(data)
        )
        if inside:
            path.append(part)
            data = data[part]
        elif may_lack_last and number == len(location) - 1:
            path.append(part)
    return tuple(path)


def _shown(value: Any, path: KeyPath) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None:
        return "nothing"
    text = repr(masked(value[: 4 * LONGEST_SHOWN] if isinstance(value, str) else value, path))
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


def _names_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    here: list[Any] = [model]
    for part in location:
        here = [inner for kind in here for inner in _inside(kind, part)]
    return [field.alias or name for kind in here for name, field in kind.model_fields.items()]


def _inside(model: type[BaseModel], part: str | int) -> list[type[BaseModel]]:
    if isinstance(part, int):
        # The list itself was passed through with the name before it.
        return [model]
    for name, field in model.model_fields.items():
        if part == (field.alias or name):
            return _models_in(field.annotation)
    return [model]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _models_in(get_args(annotation)[0])
    if origin in (Union, UnionType, list, tuple, dict):
        return [found for argument in get_args(annotation) for found in _models_in(argument)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
