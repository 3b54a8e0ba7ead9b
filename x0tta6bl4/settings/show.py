"""Shows the settings: what is in force and where it comes from, and everything that could be set."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, time
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, BeforeValidator, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from x0tta6bl4.kernel.units import as_bytes, as_seconds, show_bytes, show_seconds
from x0tta6bl4.settings.document import dotted
from x0tta6bl4.settings.load import Loaded
from x0tta6bl4.settings.mistakes import HIDDEN, masked

_FAMILIES = ("monitors", "analyzers", "planners", "executors")
_WIDTH = 116
_WORD = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_HIDDEN_KIND = "a secret"
_SIMPLE: Mapping[Any, str] = MappingProxyType(
    {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        datetime: "a date and time",
        time: "a time of day",
    }
)
_SIGNS: Mapping[Any, str] = MappingProxyType({Gt: ">", Ge: ">=", Lt: "<", Le: "<="})
_NO_TEXT = frozenset(("true", "false", "null"))


@dataclass(frozen=True, slots=True)
class Row:
    """One setting in force."""

    key: str
    value: str
    origin: str


def rows(loaded: Loaded) -> list[Row]:
    """Every setting in force, in the order of the sections, secrets hidden."""
    return [
        Row(dotted(path), _written(value), str(loaded.origins.get(dotted(path), "default")))
        for path, value in _leaves((), loaded.settings)
    ]


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from _leaves((*path, field.alias or name), _in_words(getattr(value, name), field))
    elif isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves((*path, key), inner)
    else:
        yield path, masked(_plain(value), path)


def _plain(value: Any) -> Any:
    """The value as YAML could hold it."""
    if isinstance(value, BaseModel):
        return {
            field.alias or name: _plain(_in_words(getattr(value, name), field))
            for name, field in type(value).model_fields.items()
            if getattr(value, name) is not None
        }
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, SecretStr):
        return HIDDEN
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _in_words(value: Any, field: FieldInfo) -> Any:
    """Durations and sizes the way they are written in the file."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        reader = _reader_of(field)
        if reader is as_seconds:
            return show_seconds(value)
        if reader is as_bytes:
            return show_bytes(int(value))
    return value


def _reader_of(field: FieldInfo) -> Any:
    readers = [item.func for item in _metadata(field) if isinstance(item, BeforeValidator)]
    return next((reader for reader in readers if reader in (as_seconds, as_bytes)), None)


def _written(value: Any) -> str:
    """YAML on one line that the daemon's own reader takes for the same value."""
    if isinstance(value, str) and _WORD.fullmatch(value) and value.lower() not in _NO_TEXT:
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]+(?:ms|[smhd]|[KMGT]iB)", value):
        return value
    return json.dumps(value, ensure_ascii=True)


def reference(models: Mapping[str, type[BaseModel]]) -> str:
    """A configuration file with every setting, its default and its meaning. The same models give the same text.

    The model under the empty key is the whole file; loaded as it stands, the text changes no default. Models under
    dotted keys, such as ``monitors.http``, are examples inside the section of that name, as comments.
    """
    examples: dict[str, list[str]] = {}
    for key, model in sorted(models.items()):
        if key:
            section, _, name = key.partition(".")
            examples.setdefault(section, []).extend(_example(section, name, model))
    lines = [
        "# Every setting with its default and its meaning. Generated from the classes that read them.",
        "# A file needs only what differs. Durations: 500ms, 5s, 2m, 1h, 1d; sizes: 512KiB, 100MiB, 2GB.",
    ]
    root = models.get("")
    if root is not None:
        for name, field in root.model_fields.items():
            key = field.alias or name
            lines += ["", *_field(key, field, ""), *examples.pop(key, [])]
    for section, text in sorted(examples.items()):
        lines += ["", f"{section}: {{}}", *text]
    return "\n".join(lines) + "\n"


def _example(section: str, name: str, model: type[BaseModel]) -> list[str]:
    lines = [f"  {name or 'NAME'}:"]
    if section in _FAMILIES:
        lines.append(f"    use: {name}")
    for inner, field in model.model_fields.items():
        lines += _field(field.alias or inner, field, "    ")
    return [f"# {line}".rstrip() for line in lines]


def _field(key: str, field: FieldInfo, indent: str) -> list[str]:
    lines = [f"{indent}# {line}".rstrip() for line in _about(field, len(indent))]
    default = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, BaseModel):
        lines.append(f"{indent}{key}:")
        for name, inner in type(default).model_fields.items():
            # What is in force is the section's own default object, not its class'.
            shown = inner._copy()
            shown.default, shown.default_factory = getattr(default, name), None
            lines += _field(inner.alias or name, shown, indent + "  ")
        return lines
    kind = _kind(field)
    if default is PydanticUndefined:
        return [*lines, f"{indent}# {kind}, must be given", f"{indent}# {key}:"]
    lines.append(f"{indent}# {kind}")
    if kind == _HIDDEN_KIND:
        return [*lines, f"{indent}# {key}: not in a file"]
    lines.append(f"{indent}{key}: {_written(_plain(_in_words(default, field)))}")
    for model in _models_of(field.annotation):
        # The keys of what may be left out whole stand here too: nobody guesses them.
        lines.append(f"{indent}# {'when it is given' if default is None else 'each'}:")
        for name, inner in model.model_fields.items():
            lines += [f"{indent}#   {line}".rstrip() for line in _field(inner.alias or name, inner, "")]
    return lines


def _about(field: FieldInfo, indent: int) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", (field.description or "").strip().replace("``", "`")):
        yield from textwrap.wrap(paragraph, _WIDTH - indent, break_long_words=False, break_on_hyphens=False)


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    """Of the members of a list or a mapping, or of a section that may be empty."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    is_several = get_origin(annotation) in (list, dict)
    arguments = get_args(annotation) if is_several or NoneType in get_args(annotation) else ()
    inner = [get_args(each)[0] if get_origin(each) is Annotated else each for each in arguments]
    return [each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)]


def _kind(field: FieldInfo) -> str:
    """The type and its bounds, in words."""
    reader = _reader_of(field)
    words = {as_seconds: "a duration", as_bytes: "a size"}.get(reader) or _type_words(field.annotation)
    limits: dict[str, Any] = {}
    for item in _metadata(field):
        # Bounds given with Field() inside an annotation are kept in a FieldInfo of their own.
        for bound in (item, *getattr(item, "metadata", ())):
            for kind in (Gt, Ge, Lt, Le):
                if isinstance(bound, kind):
                    limits[_SIGNS[kind]] = getattr(bound, kind.__name__.lower())
    if ">" in limits:
        limits.pop(">=", None)
    if reader is not None and limits.get(">=") == 0:
        del limits[">="]
    words = " ".join([words, *(f"{sign} {limit}" for sign, limit in limits.items())])
    return words + (", or empty" if NoneType in get_args(field.annotation) and words != _HIDDEN_KIND else "")


def _metadata(field: FieldInfo) -> list[Any]:
    inner = [item for argument in get_args(field.annotation) for item in getattr(argument, "__metadata__", ())]
    # Bounds of a list's items are not bounds of the list.
    return [*field.metadata, *(inner if get_origin(field.annotation) in (Union, UnionType) else ())]


def _type_words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_words(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(_type_words(each) for each in arguments if each is not NoneType)
    if origin in (list, tuple, set, frozenset):
        return "a list, each " + _type_words(arguments[0])
    if origin is dict or annotation is dict:
        return "names, each with " + _type_words(arguments[1]) if arguments else "a mapping"
    if annotation is SecretStr:
        return _HIDDEN_KIND
    if isinstance(annotation, type) and issubclass(annotation, Path):
        return "a path"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a mapping"
    return _SIMPLE.get(annotation, "any value")
