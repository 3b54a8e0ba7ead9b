"""Finds plugins: ours by file name, others' by entry point. Only what the configuration names is imported."""

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from x0tta6bl4.kernel.errors import Problem
from x0tta6bl4.kernel.plugin import FAMILIES, AnyPlugin, Family, Plugin, PluginConfig
from x0tta6bl4.kernel.supervise import Failure, guarded_call
from x0tta6bl4.kernel.units import Seconds
from x0tta6bl4.settings.mistakes import nearest, problems_of


class InstanceKeys(BaseModel):
    """The keys that the kernel reads of every instance, whatever the plugin."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    use: str
    """The plugin."""
    enabled: bool = True
    """Whether this instance exists at all."""
    every: Seconds | None = Field(default=None, gt=0)
    """Monitors: seconds between two looks. Empty: the plugin's own pace, or once a cycle."""
    timeout: Seconds | None = Field(default=None, gt=0)
    """Monitors: seconds after which a look is cut off and counts as blindness. Empty: the plugin's own."""


@dataclass(frozen=True)
class Chosen:
    """A configured instance, checked and not yet built."""

    name: str
    plugin: AnyPlugin
    keys: InstanceKeys
    config: PluginConfig


FORMER: Mapping[tuple[Family, str], str] = {("analyzers", "exhaustion"): "forecast"}
"""Plugins that there were once, and what took their place."""


@dataclass(frozen=True)
class Installed:
    name: str
    family: Family
    origin: str
    """``x0tta6bl4`` or the distribution that brings it."""
    summary: str = ""


def own_names(family: Family) -> list[str]:
    package = importlib.import_module(f"x0tta6bl4.{family}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_") and not m.ispkg)


def foreign(family: Family) -> Mapping[str, list[EntryPoint]]:
    points: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=f"x0tta6bl4.{family}"):
        points.setdefault(point.name, []).append(point)
    return points


def installed() -> list[Installed]:
    """Every plugin there is; imports ours to read their first line, and none of the others'."""
    rows = []
    for family in FAMILIES:
        for name in own_names(family):
            module = importlib.import_module(f"x0tta6bl4.{family}.{name}")
            if isinstance(getattr(module, "PLUGIN", None), Plugin):
                rows.append(Installed(name, family, "x0tta6bl4", (module.__doc__ or "").split("\n")[0]))
        for name, points in sorted(foreign(family).items()):
            rows.extend(Installed(name, family, p.dist.name if p.dist else p.value) for p in points)
    return rows


def find(family: Family, name: str) -> AnyPlugin | str:
    """The plugin, or why there is none, in words that finish the sentence "monitors.load: …"."""
    own, others = own_names(family), foreign(family)
    points = others.get(name, [])
    if (name in own) + len(points) > 1:
        whose = ", ".join([*(["x0tta6bl4"] if name in own else []), *(p.value for p in points)])
        return f"more than one plugin is called {name!r} ({whose}); uninstall all but one"
    if name not in own and not points:
        if (family, name) in FORMER:
            return f"no {family[:-1]} is called {name!r} any more; '{FORMER[family, name]}' took its place"
        near = nearest(name, [*own, *others]) or f"there are {len(own) + len(others) or 'none'}"
        return f"no {family[:-1] if family != 'knowledge' else family} is called {name!r}; {near}"
    # What a foreign module does while it is imported is as foreign as what it does later.
    declared = guarded_call(
        lambda: importlib.import_module(f"x0tta6bl4.{family}.{name}").PLUGIN if name in own else points[0].load()
    )
    if isinstance(declared, Failure):
        if isinstance(declared.exception, ImportError):
            return f"{name!r} needs something that is not installed: {declared.message}"
        if isinstance(declared.exception, AttributeError):
            return f"{name!r} is no plugin: {declared.message}"
        return f"{name!r} cannot be loaded: {declared.error}: {declared.message}"
    if not isinstance(declared, Plugin) or declared.family != family:
        return f"{name!r} does not declare itself as one of the {family}"
    return declared


def choose(family: Family, entries: Mapping[str, Mapping[str, Any]]) -> tuple[list[Chosen], list[Problem]]:
    """Every configured instance with its plugin and its checked settings, and every mistake among them."""
    chosen: list[Chosen] = []
    problems: list[Problem] = []
    for name, raw in entries.items():
        where = f"{family}.{name}"
        own = {k: raw[k] for k in InstanceKeys.model_fields if k in raw}
        own.setdefault("use", name)
        try:
            keys = InstanceKeys.model_validate(own)
        except ValidationError as error:
            problems += problems_of(error, InstanceKeys, own, (family, name))
            continue
        # One that was switched off is read all the same if it is gone: what took its place is on.
        if not keys.enabled and (family, keys.use) not in FORMER:
            continue
        plugin = find(family, keys.use)
        if isinstance(plugin, str):
            problems.append(Problem(where if keys.use == name else f"{where}.use", plugin))
            continue
        rest = {k: v for k, v in raw.items() if k not in InstanceKeys.model_fields}
        try:
            chosen.append(Chosen(name, plugin, keys, plugin.config.model_validate(rest)))
        except ValidationError as error:
            problems += problems_of(error, plugin.config, rest, (family, name))
    return chosen, problems


def merged(
    defaults: Mapping[str, Mapping[str, Any]], own: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The operator's entries over the built-in ones: same name, same instance, key by key."""
    names: Iterable[str] = dict.fromkeys([*defaults, *own])
    return {name: {**defaults.get(name, {}), **own.get(name, {})} for name in names}
