"""The rules hold what README.md promises, parse, speak of numbers that exist, and wake a person in the end."""

import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from x0tta6bl4.cli import grammar

from .live import RULES, Lived, Looking, eventually, fetch
from .promql import complaint, labels, names, rules
from .series import BY_PROMETHEUS, ON_TARGETS, RARE, declared, unknown

pytestmark = pytest.mark.face

ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
README = (RULES / "README.md").read_text(encoding="utf-8")
UNIT_TESTS = yaml.safe_load((RULES / "tests" / "alerts.yaml").read_text(encoding="utf-8"))["tests"]


def test_the_rules_are_well_formed(promtool: str, tmp_path: Path) -> None:
    paths = sorted(map(str, (RULES / "rules").glob("*.yaml")))
    done = subprocess.run([promtool, "check", "rules", *paths], capture_output=True, text=True, check=False)

    assert (0, 2) == (done.returncode, done.stdout.count("SUCCESS")), done.stdout + done.stderr
    assert "" == complaint(promtool, [rule["expr"] for rule in rules()], tmp_path)


def test_the_unit_tests_of_the_rules_pass(promtool: str) -> None:
    paths = sorted(map(str, (RULES / "tests").glob("*.yaml")))
    done = subprocess.run([promtool, "test", "rules", *paths], capture_output=True, text=True, check=False)

    assert (0, len(paths)) == (done.returncode, done.stdout.count("SUCCESS")), done.stdout + done.stderr


def test_the_example_is_a_configuration_of_prometheus(promtool: str, tmp_path: Path) -> None:
    key = tmp_path / "x0tta6bl4.key"
    key.write_text("x0k_id_secret", encoding="utf-8")
    text = (RULES / "prometheus.yml").read_text(encoding="utf-8")
    path = tmp_path / "prometheus.yml"
    path.write_text(text.replace("/etc/prometheus/x0tta6bl4.key", str(key)), encoding="utf-8")
    (tmp_path / "rules").symlink_to(RULES / "rules")
    done = subprocess.run([promtool, "check", "config", str(path)], capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout + done.stderr


def test_a_wrong_expression_would_be_found(promtool: str, tmp_path: Path) -> None:
    assert "parse error" in complaint(promtool, ["sum by (instance) (up"], tmp_path)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_proved_to_fire_with_its_words_and_to_keep_quiet_in_a_near_miss(alert: str) -> None:
    about = [test for test in UNIT_TESTS if test["name"].startswith((f"{alert} fires", f"{alert} keeps quiet: "))]
    fires, quiet = about
    (told,) = [test["exp_alerts"] for test in fires["alert_rule_test"] if test["exp_alerts"]]
    rests = [test for test in fires["alert_rule_test"] if not test["exp_alerts"]]

    assert {alert} == {test["alertname"] for part in about for test in part["alert_rule_test"]}
    assert 1 == len(told)
    assert {"summary", "description", "runbook_url"} == set(told[0]["exp_annotations"])
    assert rests, "it is quiet at first"
    assert quiet["input_series"]
    assert not any(test["exp_alerts"] for test in quiet["alert_rule_test"])


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_how_bad_it_is_and_where_its_runbook_stands(alert: str) -> None:
    rule = ALERTS[alert]
    section = re.search(rf"^### {alert}\n(.*?)(?=^##|\Z)", README, re.M | re.S)

    assert alert.startswith("X0tta6bl4")
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["runbook_url"] == (
        '{{ or $externalLabels.x0tta6bl4_runbooks "config/prometheus/README.md" }}#' + alert.lower()
    )
    assert section is not None
    for part in ("**Meaning.**", "**Look at.**", "**Do.**"):
        assert part in section[1]


def test_the_line_that_moves_all_runbooks_does_so(promtool: str, tmp_path: Path) -> None:
    (line,) = re.findall(r"^    (sed -i .*) rules/alerts.yaml$", README, re.M)
    path = tmp_path / "alerts.yaml"
    path.write_bytes((RULES / "rules" / "alerts.yaml").read_bytes())
    subprocess.run([*shlex.split(line), str(path)], check=True)

    assert len(ALERTS) == path.read_text(encoding="utf-8").count('"https://wiki.example/runbooks/x0tta6bl4" }}#')
    subprocess.run([promtool, "check", "rules", str(path)], check=True, capture_output=True)


def test_the_runbook_page_tells_of_no_alert_that_does_not_exist() -> None:
    assert set(re.findall(r"^### (X0tta6bl4\w+)$", README, re.M)) == set(ALERTS)


def test_every_command_that_an_alert_or_its_runbook_names_exists() -> None:
    texts = [README, *(text for rule in ALERTS.values() for text in rule["annotations"].values())]
    named = {said for text in texts for said in re.findall(r"`x0tta6bl4\s+([^`]+)`", text)}

    assert {"status", "why INCIDENT", "keys create"} <= named
    for said in sorted(named):
        parser, words = grammar.build(), said.split()
        while deeper := grammar.subparsers(parser):
            assert words and words[0] in deeper, said
            parser = deeper[words.pop(0)]
        options = {name for option in grammar.options(parser) for name in option.option_strings}
        assert {word for word in words if word.startswith("--")} <= options, said


def test_labels_that_rules_ask_for_are_declared() -> None:
    known = declared()
    for rule in rules():
        used = names(rule["expr"])
        carried = {label for name in used for label in known.get(name, ())}
        if all(name in known or name in BY_PROMETHEUS for name in used):
            assert labels(rule["expr"]) <= carried | ON_TARGETS, rule
    assert set(RARE) <= set(known)


def test_what_an_expression_speaks_of_is_read_off_it() -> None:
    expr = 'sum by (a, le) (rate(x_total{b="y{z}", c!~"q"}[5m] offset 1d)) / on (a) group_left (d) i:m:p95_1d > 0 or v'

    assert {"x_total", "i:m:p95_1d", "v"} == names(expr)
    assert {"a", "b", "c", "d", "le"} == labels(expr)


def test_a_name_that_only_a_comment_knows_is_unknown() -> None:
    page = "# TYPE x0tta6bl4_paused gauge\nx0tta6bl4_observations_total 1.0\n"
    asked = {"x0tta6bl4_paused", "x0tta6bl4_observations_total", "x0tta6bl4_observations", "up", *RARE}

    assert {"x0tta6bl4_paused", "x0tta6bl4_observations"} == unknown(asked, [page])


def test_every_name_in_the_rules_is_exported_by_a_real_daemon(healed: Lived) -> None:
    used = {name for rule in rules() for name in names(rule["expr"])}

    assert 30 < len(used)
    assert set() == unknown(used, healed.pages)


def test_a_real_prometheus_scrapes_the_daemon_by_its_key(looked_at: Looking) -> None:
    wrong = {"Authorization": "Bearer x0k_000000000000_wrong"}
    assert 401 == fetch(looked_at.lived.daemon.port, "/metrics", headers=wrong)[0], "the key is what lets it in"
    here = f'{{job="x0tta6bl4", instance="{looked_at.lived.daemon.address}"}}'
    for expr in (f"up{here} == 1", f"scrape_duration_seconds{here} > 0", f"scrape_samples_scraped{here} > 100"):
        assert 1 == len(looked_at.ask(expr)), expr
    target = next(
        t
        for t in looked_at.api("targets")["activeTargets"]
        if t["labels"]["instance"] == looked_at.lived.daemon.address
    )
    assert ("up", "") == (target["health"], target["lastError"])


def test_its_rules_are_evaluated_without_a_fault(looked_at: Looking) -> None:
    def evaluated() -> list[Any]:
        found = [rule for group in looked_at.api("rules")["groups"] for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else []

    found = eventually("every rule was evaluated", evaluated)

    assert len(rules()) == len(found)
    assert [] == [(rule["name"], rule.get("lastError")) for rule in found if rule["health"] != "ok"]


def test_it_asks_for_openmetrics_and_keeps_the_exemplars(looked_at: Looking) -> None:
    # Only in OpenMetrics is the family of a counter called without its ending.
    assert looked_at.api("targets/metadata", metric="x0tta6bl4_mapek_cycles")
    assert not looked_at.api("targets/metadata", metric="x0tta6bl4_mapek_cycles_total")
    now = time.time()
    for metric in ("x0tta6bl4_self_healing_mttr_seconds_bucket", "x0tta6bl4_mapek_cycle_duration_seconds_bucket"):
        found = looked_at.api("query_exemplars", query=metric, start=now - 600, end=now + 60)
        traces = [kept["labels"]["trace_id"] for series in found for kept in series["exemplars"]]
        assert traces, metric
        assert all(re.fullmatch(r"[0-9a-f]{32}", trace) for trace in traces)


def test_healing_that_was_switched_off_reaches_a_person_once(looked_at: Looking) -> None:
    running = looked_at.lived.daemon
    running.command("flags", "auto_healing", "off")
    try:
        eventually("the notice", lambda: notices_of(looked_at, "X0tta6bl4HealingOff"))
        status, body = fetch(looked_at.alertmanager, "/api/v2/alerts?filter=alertname%3D%22X0tta6bl4HealingOff%22")
        time.sleep(3)  # evaluated three times more, and sent by Prometheus, it is no second notice
    finally:
        running.command("flags", "auto_healing", "on")
    (notice,) = notices_of(looked_at, "X0tta6bl4HealingOff")
    (alert,) = notice["alerts"]

    assert (200, 1) == (status, len(yaml.safe_load(body)))
    assert ("firing", running.address, "warning") == (
        alert["status"],
        alert["labels"]["instance"],
        alert["labels"]["severity"],
    )
    assert "config/prometheus/README.md#x0tta6bl4healingoff" == alert["annotations"]["runbook_url"]
    assert alert["annotations"]["summary"].startswith(f"Healing on {running.address} has been off")
    assert "x0tta6bl4_runbooks" not in alert["labels"]


def test_a_daemon_that_is_gone_is_told_of(looked_at: Looking) -> None:
    looked_at.second.process.terminate()
    looked_at.second.process.wait(60)
    (notice,) = eventually("the notice", lambda: notices_of(looked_at, "X0tta6bl4DaemonDown"))

    assert [looked_at.second.address] == [alert["labels"]["instance"] for alert in notice["alerts"]]
    assert "critical" == notice["alerts"][0]["labels"]["severity"]


def notices_of(looked_at: Looking, alert: str) -> list[Any]:
    return [n for n in looked_at.notices if n["status"] == "firing" and n["groupLabels"]["alertname"] == alert]
