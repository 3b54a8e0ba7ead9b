"""The dashboards are what the generator makes, ask for numbers that exist, and show something on a real daemon."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from .live import ROOT, Lived, Looking, eventually
from .promql import complaint, dashboards, filled, labels, names
from .series import BY_PROMETHEUS, ON_TARGETS, RARE, declared, unknown

pytestmark = pytest.mark.face

GRAFANA = ROOT / "config" / "grafana"
BOARDS = dashboards()
SHOWN = {"stat", "timeseries", "table", "heatmap", "state-timeline", "bargauge", "row"}
"""Kinds of panels that every Grafana from 10 on has, and that none has called deprecated."""

OF_A_MOMENT = {"Daemon started": "there is no restart to mark while it runs"}
"""What a good minute of a real daemon leaves empty, and why."""


def panels(board: Any) -> Iterator[Any]:
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", ())


def asked(board: Any) -> Iterator[tuple[str, str]]:
    """Who asks, and what: panels, variables and annotations."""
    for panel in panels(board):
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for annotation in board["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert match is not None, variable
            yield variable["name"], f"group by ({match[2]}) ({match[1]})"


EVERY = [(name, who, expr) for name, board in BOARDS.items() for who, expr in asked(board)]


def test_they_are_what_the_generator_makes_byte_for_byte(tmp_path: Path) -> None:
    if find_spec("grafana_foundation_sdk") is None:
        pytest.skip("grafana-foundation-sdk is not installed: pip install --require-hashes -r requirements/face.txt")
    made = []
    for folder in (tmp_path / "once", tmp_path / "again"):
        subprocess.run([sys.executable, str(GRAFANA / "generate.py"), "--to", str(folder)], check=True)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    kept = {path.name: path.read_bytes() for path in (GRAFANA / "dashboards").iterdir()}

    assert made[0] == made[1]
    assert kept == made[0], "out of date: make grafana"


def test_every_expression_parses(promtool: str, tmp_path: Path) -> None:
    assert 60 < len(EVERY)
    assert "" == complaint(promtool, [expr for _, _, expr in EVERY], tmp_path)


def test_every_name_is_exported_by_a_real_daemon_or_recorded(healed: Lived) -> None:
    assert set() == unknown({name for _, _, expr in EVERY for name in names(expr)}, healed.pages)


def test_labels_that_panels_ask_for_are_declared() -> None:
    known = declared()
    for board, who, expr in EVERY:
        used = names(expr)
        if all(name in known or name in BY_PROMETHEUS for name in used):
            carried = {label for name in used for label in known.get(name, ())}
            assert labels(expr) <= carried | ON_TARGETS, (board, who, expr)


def test_what_is_asked_keeps_to_the_chosen_daemons_and_to_the_width_of_the_picture() -> None:
    for board, who, expr in EVERY:
        if "label_values" not in expr and not expr.startswith(("group by", "count(up{job", "max by (alertname")):
            assert 'instance=~"$instance"' in expr, (board, who)
        for window in re.findall(r"\[([^\]]*)\]", expr):
            assert window in ("$__rate_interval", "$__range"), (board, who)


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_can_be_told_from_others_and_chooses_its_source_and_daemons(name: str) -> None:
    board = BOARDS[name]
    variables = {v["name"]: v for v in board["templating"]["list"]}

    assert f"x0tta6bl4-{name.removesuffix('.json')}" == board["uid"]
    assert "30s" == board["refresh"]
    assert "id" not in board
    assert ("datasource", "prometheus") == (variables["datasource"]["type"], variables["datasource"]["query"])
    assert ("query", True, True) == tuple(variables["instance"][key] for key in ("type", "multi", "includeAll"))


@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_says_what_it_shows_in_which_unit(name: str) -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels(BOARDS[name]):
        assert panel["type"] in SHOWN
        if panel["type"] == "row":
            continue
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert defaults["unit"], panel["title"]
        assert source == panel["datasource"]
        assert all(source == target["datasource"] for target in panel["targets"])
        if panel["type"] in ("stat", "bargauge"):
            assert 2 <= len(defaults["thresholds"]["steps"]), panel["title"]


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_numbers_of_their_own_and_do_not_lie_on_each_other(name: str) -> None:
    found = list(panels(BOARDS[name]))
    taken: set[tuple[int, int]] = set()
    for panel in found:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in found}) == len(found)


def test_histograms_show_their_exemplars() -> None:
    shown = {
        name
        for board in BOARDS.values()
        for panel in panels(board)
        for target in panel.get("targets", ())
        if target.get("exemplar")
        for name in names(target["expr"])
    }

    assert {f"{name}_bucket" for name in histograms()} == shown


def histograms() -> set[str]:
    return {name.removesuffix("_bucket") for name in declared() if name.endswith("_bucket")}


def test_provisioning_names_a_source_and_a_folder() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yaml").read_text())
    boards = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "x0tta6bl4.yaml").read_text())

    assert (1, 1) == (sources["apiVersion"], boards["apiVersion"])
    assert ["prometheus"] == [source["type"] for source in sources["datasources"]]
    assert ["file"] == [provider["type"] for provider in boards["providers"]]
    assert boards["providers"][0]["options"]["path"].startswith("/")


def test_every_panel_shows_something_of_a_real_daemon_in_a_real_prometheus(looked_at: Looking) -> None:
    wanted = {(who, expr) for _, who, expr in EVERY if not names(expr) & set(RARE)}

    def empty() -> set[str]:
        return {who for who, expr in wanted if not looked_at.ask(filled(expr))} - set(OF_A_MOMENT)

    eventually("all panels have data", lambda: not empty())
    assert set() == empty()
