"""What every plugin promises, asked of all that are installed: ours by their files, others' by their entry points."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError

import x0tta6bl4
from x0tta6bl4.kernel.facts import Step
from x0tta6bl4.kernel.plugin import FAMILIES, Plugin
from x0tta6bl4.testing.contract import check_plugin

MINIMAL: Mapping[str, Mapping[str, Any]] = {
    "monitors.process": {"subject": "api", "program": "api"},
    "monitors.http": {"subject": "api", "url": "http://127.0.0.1:8080/work"},
    "monitors.tcp": {"subject": "api", "port": 5432},
    "monitors.systemd": {"subject": "api", "unit": "api.service"},
    "monitors.log": {"subject": "api", "path": "/var/log/api.log", "patterns": {"error": "ERROR"}},
    "monitors.command": {"subject": "api", "argv": ["/usr/lib/nagios/plugins/check_load"]},
    "monitors.prometheus": {"url": "http://127.0.0.1:9090", "queries": {"targets_up": {"query": "up"}}},
}
"""The smallest configuration of each plugin that cannot do with an empty one."""

MORE: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "monitors.process": (
        {"subject": "api", "pid_file": "/run/api.pid"},
        {"subject": "api", "match": "api --serve"},
        {"subject": "api", "unit": "api.service"},
    ),
    "monitors.http": ({"subject": "api", "url": "https://example.org/", "probe": "health", "expect_body": "ok"},),
    "monitors.log": ({"subject": "api", "unit": "api.service", "patterns": {"error": "ERROR"}},),
    "monitors.alerts": ({"only": ["Shop*"], "severities": {"p1": "critical"}, "stale_after": "1d"},),
    "analyzers.threshold": ({"limits": {"hot": {"metric": "load1_per_core", "above": 2}}},),
    "executors.command": (
        {"commands": {"flush": {"argv": ["/usr/bin/flush", "{what}"], "slots": {"what": {}}, "summary": "empties it"}}},
    ),
    "executors.notify": ({"webhook": {"url": "https://example.org/hook"}},),
}
"""Other shapes of those whose settings lead through other code."""

STEPS: Mapping[str, tuple[Step, ...]] = {
    "executors.command": (Step("s1", "command.flush", "api", {"what": "cache"}),),
    "executors.notify": (Step("s1", "notify.human", "api", {"title": "api: dead", "text": "pid 7 exited with 1"}),),
    "executors.process": (Step("s1", "process.signal", "api", {"signal": "HUP"}),),
}
"""Steps for executors' verbs that take arguments."""


def _installed() -> Iterator[tuple[str, str]]:
    """(family.name, module), whether or not the module can be imported: that is a test's matter."""
    for family in FAMILIES:
        for folder in x0tta6bl4.__path__:
            for module in pkgutil.iter_modules([str(Path(folder) / family)]):
                if not module.name.startswith("_"):
                    yield f"{family}.{module.name}", f"x0tta6bl4.{family}.{module.name}"
        for point in entry_points(group=f"x0tta6bl4.{family}"):
            yield f"{family}.{point.name}", point.module


INSTALLED = sorted(set(_installed()))


def _plugin_of(module: ModuleType) -> Plugin[Any, Any]:
    plugin = getattr(module, "PLUGIN", None)
    assert isinstance(plugin, Plugin), f"{module.__name__} lies among the plugins and declares none as PLUGIN"
    return plugin


@pytest.mark.parametrize(("name", "path"), INSTALLED, ids=[name for name, _ in INSTALLED])
def test_a_plugin_keeps_the_contract(name: str, path: str) -> None:
    module = importlib.import_module(path)
    plugin = _plugin_of(module)
    assert plugin.family == name.partition(".")[0]
    smallest = MINIMAL.get(name, {})
    if name not in MINIMAL:
        try:
            plugin.config.model_validate({})
        except ValidationError:
            pytest.fail(f"{name} cannot do with an empty configuration: add its smallest one to MINIMAL in {__file__}")

    wrong = check_plugin(plugin, module, lambda: smallest, steps=STEPS.get(name, ()))

    assert wrong == []


@pytest.mark.parametrize(
    ("name", "values"),
    [(name, values) for name, several in MORE.items() for values in several],
    ids=[f"{name}-{number}" for name, several in MORE.items() for number, _ in enumerate(several)],
)
def test_it_keeps_the_contract_in_every_shape(name: str, values: Mapping[str, Any]) -> None:
    module = importlib.import_module(f"x0tta6bl4.{name}")

    assert check_plugin(_plugin_of(module), module, lambda: values, steps=STEPS.get(name, ())) == []


def test_all_plugins_of_a_family_have_different_names() -> None:
    names = [name for name, _ in INSTALLED]

    assert sorted(set(names)) == sorted(names)


def test_what_the_table_configures_is_installed() -> None:
    names = {name for name, _ in INSTALLED}

    assert {*MINIMAL, *MORE, *STEPS} - names == set()
