"""Puts the settings together from files, environment and options, and reports every mistake in them at once.

Later beats earlier: defaults, main file, ``conf.d/*.yaml`` beside it in the order of their names, environment, options.
Within the environment: names that start with STARK_, then the short names, then ``X0TTA6BL4__SECTION__KEY``. A variable
that is set to nothing counts as not set.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from x0tta6bl4.kernel.errors import ConfigError, Problem
from x0tta6bl4.settings.document import (
    DEEPEST,
    LARGEST_FILE,
    Document,
    Origin,
    dotted,
    merge,
    nest,
    parse_value,
    printable,
    read,
)
from x0tta6bl4.settings.mistakes import problems_of
from x0tta6bl4.settings.model import Settings

PREFIX = "X0TTA6BL4__"
CONFIG_VARIABLE = "X0TTA6BL4_CONFIG"

SYNONYMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "STARK_ENV": ("environment",),
        "STARK_API_HOST": ("status", "host"),
        "STARK_API_PORT": ("status", "port"),
        "STARK_EVENT_QUEUE_MAX_SIZE": ("events", "max_queue_size"),
        "STARK_EVENT_HISTORY_SIZE": ("events", "history_size"),
        "STARK_LOG_LEVEL": ("logging", "level"),
    }
)

VARIABLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ENVIRONMENT": ("environment",),
        "X0TTA6BL4_PRODUCTION": ("production",),
        "PQC_BACKEND": ("pqc", "backend"),
        "PQC_REQUIRED": ("pqc", "required"),
        "MAPEK_ENABLED": ("mapek", "enabled"),
        "MAPEK_CYCLE_INTERVAL_SECONDS": ("mapek", "interval"),
        "MAPEK_TIMEOUT_SECONDS": ("mapek", "timeout"),
        "MAPEK_ANOMALY_THRESHOLD": ("mapek", "anomaly_threshold"),
        "HOST": ("status", "host"),
        "PORT": ("status", "port"),
        "WORKERS": ("status", "workers"),
        "HTTPS_ONLY": ("status", "https_only"),
        "RATE_LIMIT_PER_MINUTE": ("status", "rate_limit_per_minute"),
        "CORS_ORIGINS": ("status", "cors_origins"),
        "LOG_LEVEL": ("logging", "level"),
        "LOG_FORMAT": ("logging", "format"),
        "LOG_FILE": ("logging", "file"),
        "PROMETHEUS_PORT": ("status", "prometheus_port"),
        "METRICS_ENABLED": ("status", "metrics_enabled"),
        "HEALTH_CHECK_INTERVAL_SECONDS": ("status", "health_check_interval"),
        "REDIS_HOST": ("redis", "host"),
        "OPENAI_API_KEY": ("llm", "openai_api_key"),
        "OPENAI_API_KEY_FILE": ("llm", "openai_api_key_file"),
    }
)
_LISTS = frozenset({"CORS_ORIGINS"})
_FROM_FILE = frozenset({"REDIS_HOST"})
"""Whose value may be in the file that the same name with _FILE gives. The key's file is a setting of its own."""

Check = Callable[[Settings], Iterable[Problem]]


@dataclass(frozen=True, slots=True)
class Loaded:
    settings: Settings
    origins: Mapping[str, Origin]
    """Dotted key -> where its value comes from; what is not in it has its default."""
    files: tuple[Path, ...]
    """The files that were read, in the order in which they count."""


def load(
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any],
    *,
    checks: Sequence[Check] = (),
) -> Loaded:
    """The settings, or ConfigError with every mistake found.

    ``overrides`` are options of the command line by dotted key; None is an option that was not given. Each check looks
    at the typed settings for what their types cannot say, such as plugins' own parts, and yields problems by dotted
    key; their places are filled in here. Checks also run when other parts have mistakes, on what is sound.
    """
    problems: list[Problem] = []
    files = _files(path, problems) if path is not None else ()
    document = Document()
    for file in files:
        document = merge(document, read(file))
    problems += document.problems
    document = _without_secret(document, problems)
    for layer in _environment(environ, document.value, problems):
        document = merge(document, layer)
    for layer in _options(overrides):
        document = merge(document, _without_secret(layer, problems))
    if document.value.get("state_dir") is None:
        document = merge(document, _state_dir(environ))

    origins = {dotted(key): origin for key, origin in document.origins.items()}
    settings, mistakes = _validated(document.value)
    problems += [_placed(problem, origins) for problem in mistakes]
    if settings is not None and document.is_complete:
        broken = {problem.where.split(".")[0] for problem in mistakes}
        found = [problem for check in checks for problem in check(settings)]
        problems += [_placed(problem, origins) for problem in found if problem.where.split(".")[0] not in broken]
    if problems or settings is None:
        raise ConfigError(problems)
    return Loaded(settings, MappingProxyType(origins), files)


@functools.cache
def get_settings() -> Settings:
    """The settings of this process' environment, and of the file that $X0TTA6BL4_CONFIG names when it is set.

    Read once. The daemon itself does not use it, because it reloads; it is for scripts and for code beside the daemon.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    return load(Path(named) if named else None, os.environ, {}).settings


def watched_paths(path: Path) -> tuple[Path, ...]:
    """What may change when the configuration does: the main file and the folder of its drop-ins."""
    return (path, path.parent / "conf.d")


def _files(path: Path, problems: list[Problem]) -> tuple[Path, ...]:
    main, folder = watched_paths(path)
    try:
        # A name that begins with a dot is an editor's or a mount's own file.
        drop_ins = sorted(file for file in folder.iterdir() if file.suffix == ".yaml" and file.name[0] != ".")
    except FileNotFoundError:
        drop_ins = []
    except OSError as error:
        problems.append(Problem("the drop-ins", f"cannot be listed: {error.strerror}", printable(str(folder))))
        drop_ins = []
    except ValueError:
        drop_ins = []  # A NUL in the name: reading the main file says so.
    return (main, *drop_ins)


def _without_secret(document: Document, problems: list[Problem]) -> Document:
    """The document without a key that others could read there. It is taken out before any mistake can show it."""
    section = document.value.get("llm")
    if not isinstance(section, dict) or section.get("openai_api_key") is None:
        return document
    origin = document.origins[("llm", "openai_api_key")]
    hint = "keep it in a file that only the daemon can read, and name that in llm.openai_api_key_file"
    problems.append(Problem("llm.openai_api_key", "a secret does not belong here", origin.source, origin.line, hint))
    rest = {key: value for key, value in section.items() if key != "openai_api_key"}
    return replace(document, value={**document.value, "llm": rest})


def _environment(environ: Mapping[str, str], known: Mapping[str, Any], problems: list[Problem]) -> Iterator[Document]:
    for table in (SYNONYMS, VARIABLES):
        for name, path in table.items():
            text = environ.get(name, "")
            if not text and name in _FROM_FILE:
                text = _content(name + "_FILE", environ, path, problems)
            if text:
                origin = Origin(_variable(name))
                value = _parsed(text, path, origin, problems) if name in _LISTS else text
                yield nest(path, value, origin)
    for name in sorted(environ):
        if not name.startswith(PREFIX) or not environ[name]:
            continue
        origin = Origin(_variable(name))
        parts = name[len(PREFIX) :].split("__")
        if "" in parts or len(parts) > DEEPEST or not name.isprintable():
            problems.append(Problem(printable(name), f"should be {PREFIX}SECTION__KEY", origin.source))
            continue
        path = _known_path(parts, known)
        yield nest(path, _parsed(environ[name], path, origin, problems), origin)


def _variable(name: str) -> str:
    return f"environment variable {printable(name)}"


def _parsed(text: str, path: Sequence[str], origin: Origin, problems: list[Problem]) -> Any:
    value, mistakes = parse_value(text, origin.source)
    problems += [replace(mistake, where=dotted(path), line=0) for mistake in mistakes]
    return value


def _content(name: str, environ: Mapping[str, str], path: Sequence[str], problems: list[Problem]) -> str:
    file = environ.get(name, "")
    if not file:
        return ""
    try:
        with open(file, encoding="utf-8") as opened:
            return opened.read(LARGEST_FILE).strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text, or no name of a file"
        problems.append(Problem(dotted(path), f"{printable(file)} cannot be read: {why}", _variable(name)))
        return ""


def _known_path(parts: Sequence[str], known: Any) -> tuple[str, ...]:
    """The key that is meant: variables have no lower case, dash or dot, but the names in the files may."""
    path: list[str] = []
    for part in map(str.lower, parts):
        alike = [key for key in known if _as_variable(key) == part] if isinstance(known, dict) else []
        path.append(alike[0] if len(alike) == 1 and part not in known else part)
        known = known.get(path[-1]) if isinstance(known, dict) else None
    return tuple(path)


def _as_variable(key: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in key.lower())


def _options(overrides: Mapping[str, Any]) -> Iterator[Document]:
    for key, value in overrides.items():
        if value is not None:
            yield nest(key.split("."), value, Origin(f"option {key}"))


def _state_dir(environ: Mapping[str, str]) -> Document:
    # systemd gives every StateDirectory= of the unit, with colons between; the first is ours.
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return nest(("state_dir",), given, Origin(_variable("STATE_DIRECTORY")))
    folder = "/var/lib/x0tta6bl4" if os.geteuid() == 0 else "~/.local/state/x0tta6bl4"
    return nest(("state_dir",), folder, Origin("default"))


def _validated(data: Mapping[str, Any]) -> tuple[Settings | None, list[Problem]]:
    """The settings, without the sections that have mistakes, and those mistakes."""
    try:
        return Settings.model_validate(data), []
    except ValidationError as error:
        problems = problems_of(error, Settings, data)
        broken = {mistake["loc"][0] for mistake in error.errors(include_url=False) if mistake["loc"]}
    try:
        return Settings.model_validate({key: value for key, value in data.items() if key not in broken}), problems
    except ValidationError:
        return None, problems


def _placed(problem: Problem, origins: Mapping[str, Origin]) -> Problem:
    """The problem with the place of the nearest key that stands somewhere."""
    key = problem.where.replace("[", ".").replace("]", "")
    while not problem.file:
        origin = origins.get(key)  # a ':' without a key before it stands under the empty name
        if origin is not None:
            return replace(problem, file=origin.source, line=origin.line)
        if not key:
            break
        key = key.rpartition(".")[0]
    return problem
