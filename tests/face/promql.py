"""What an expression of PromQL speaks of, and whether Prometheus' own parser takes it."""

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from .live import ROOT

_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_MATCHERS = re.compile(r"\{([^{}]*)\}")
_GROUPED = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_WINDOW = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")
_NAME = re.compile(r"(?<![\w.:$])[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])")
_WORDS = frozenset({"and", "or", "unless", "bool"})

FILLED = {
    "$__rate_interval": "1m",
    "$__range": "1h",
    "$__interval": "15s",
    "$instance": ".+",
    "$fault": ".+",
    "${datasource}": "prometheus",
}
"""What Grafana puts in the place of a variable."""


def filled(text: str) -> str:
    for variable, value in FILLED.items():
        text = text.replace(variable, value)
    return text


def names(expr: str) -> set[str]:
    """The metrics in it."""
    bare = _WINDOW.sub(" ", _GROUPED.sub(" ", _MATCHERS.sub(" ", _TEXT.sub(" ", expr))))
    return set(_NAME.findall(bare)) - _WORDS


def labels(expr: str) -> set[str]:
    """The labels that it asks for, be it to choose or to group by."""
    bare = _TEXT.sub('""', expr)
    found: set[str] = set()
    for inside in _MATCHERS.findall(bare):
        found |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside))
    for inside in _GROUPED.findall(bare):
        found |= set(re.findall(r"\w+", inside))
    return found


def complaint(promtool: str, exprs: Iterable[str], folder: Path) -> str:
    """What the parser has against them, taken for recording rules; nothing when all is well."""
    rules = [{"record": f"checked:expression:{at}", "expr": filled(expr)} for at, expr in enumerate(exprs)]
    assert rules
    path = folder / "expressions.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "checked", "rules": rules}]}, width=1000), encoding="utf-8")
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def rules() -> list[Mapping[str, Any]]:
    """All rules of config/prometheus/rules, recorded ones and alerts."""
    found: list[Mapping[str, Any]] = []
    for path in sorted((ROOT / "config" / "prometheus" / "rules").glob("*.yaml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            found += group["rules"]
    return found


def dashboards() -> dict[str, Any]:
    return {
        path.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "config" / "grafana" / "dashboards").glob("*.json"))
    }
