"""A real Alertmanager tells a real daemon of what a real Prometheus found, and the daemon heals by it."""

import contextlib
import json
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from x0tta6bl4.demo.breaker import free_port

from .live import RULES, Daemon, child, command, daemon, eventually, fetch, token

pytestmark = pytest.mark.face

SERVICE = """\
import http.server, sys
errors = 0
class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global errors
        errors = 1 if self.path == "/break" else errors
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(b"sample_errors_ratio %d\\n" % errors)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service).serve_forever()
"""
CARE = """\
subjects:
  sample:
    process: {{command: ["${{python}}", "{service}", "{port}"], on_exit: stop}}
    mode: auto
monitors:
  alerts: {{use: alerts}}
analyzers:
  alerts: {{use: alerts}}
runbooks:
  - runbook: sample-errors
    summary: It only answers with errors. Restart it, and believe Prometheus that it is well again.
    trigger: {{anomaly: alert-sample-errors}}
    states:
      restart: {{do: service.restart, expect: {{within: 2m}}, done: healed, failed: told}}
      healed: {{final: true}}
      told: {{final: true}}
"""
RULE = """\
groups:
  - name: sample
    rules:
      - alert: SampleErrors
        expr: sample_errors_ratio > 0.5
        labels: {severity: critical, heal: x0tta6bl4}
        annotations: {summary: "{{ $labels.job }} answers with errors only"}
"""
PROMETHEUS = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rule.yml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{alertmanager}"]}}]}}]}}
scrape_configs: [{{job_name: sample, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""


def shown() -> str:
    """The configuration of Alertmanager, as README.md gives it."""
    text = (RULES / "README.md").read_text(encoding="utf-8")
    begin = text.index("       route:\n")
    return textwrap.dedent(text[begin : text.index("\n\n", begin)]) + "\n"


@dataclass
class Told:
    """A daemon that an Alertmanager tells of a service's alerts."""

    daemon: Daemon
    port: int
    """Of the service."""

    def break_(self) -> None:
        assert fetch(self.port, "/break") == (200, "sample_errors_ratio 1\n")

    def is_broken(self) -> bool:
        return fetch(self.port, "/metrics")[1] != "sample_errors_ratio 0\n"

    def received(self, result: str) -> float:
        wanted = f'x0tta6bl4_alerts_received_total{{result="{result}"}}'
        return sum(float(line.split()[1]) for line in self.daemon.metrics().splitlines() if line.startswith(wanted))

    def incidents(self) -> list[Any]:
        found: list[Any] = json.loads(fetch(self.daemon.port, "/api/v1/incidents?state=closed")[1])["incidents"]
        return found

    def set_loop(self, *, enabled: bool) -> None:
        config = self.daemon.folder / "daemon.yaml"
        text = config.read_text(encoding="utf-8")
        on, off = "mapek: {interval: 1s}", "mapek: {interval: 1s, enabled: false}"
        before, after = (off, on) if enabled else (on, off)
        assert before in text
        config.write_text(text.replace(before, after), encoding="utf-8")
        bearer = {"Authorization": f"Bearer {token(self.daemon)}"}
        status, said = fetch(self.daemon.port, "/-/reload", "POST", headers=bearer)
        assert 200 == status, said


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    for program in ("prometheus", "prometheus-alertmanager"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install prometheus prometheus-alertmanager")
    folder = tmp_path_factory.mktemp("alertmanager")
    port, prometheus, alertmanager = free_port(), free_port(), free_port()
    (folder / "service.py").write_text(SERVICE, encoding="utf-8")
    (folder / "rule.yml").write_text(RULE, encoding="utf-8")
    (folder / "prometheus.yml").write_text(PROMETHEUS.format(alertmanager=alertmanager, port=port), encoding="utf-8")
    with contextlib.ExitStack() as open_:
        running = open_.enter_context(daemon(folder / "daemon", CARE.format(service=folder / "service.py", port=port)))
        made = command(running.folder, "--output", "json", "keys", "create", "alertmanager", "--scope", "operate")
        key = folder / "operate.key"
        key.write_text(json.loads(made)["key"], encoding="utf-8")
        text = shown()
        for example, ours in {
            "http://localhost:8080/": f"http://{running.address}/",
            "/etc/prometheus/x0tta6bl4-operate.key": str(key),
            "group_wait: 5s": "group_wait: 0s",
            "group_interval: 30s": "group_interval: 10s",
        }.items():
            assert example in text
            text = text.replace(example, ours)
        (folder / "alertmanager.yml").write_text(text, encoding="utf-8")
        open_.enter_context(
            child(
                [
                    "prometheus-alertmanager",
                    "--config.file=alertmanager.yml",
                    f"--storage.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{alertmanager}",
                    "--cluster.listen-address=",
                ],
                folder / "alertmanager.log",
            )
        )
        open_.enter_context(
            child(
                [
                    "prometheus",
                    "--config.file=prometheus.yml",
                    f"--storage.tsdb.path={folder / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{prometheus}",
                ],
                folder / "prometheus.log",
            )
        )
        eventually("Alertmanager", lambda: fetch(alertmanager, "/-/ready")[0] == 200)
        eventually("Prometheus", lambda: fetch(prometheus, "/-/ready")[0] == 200)
        eventually("the service", lambda: not Told(running, port).is_broken())
        yield Told(running, port)


def test_the_receiver_that_the_page_shows_is_one(tmp_path: Path) -> None:
    amtool = shutil.which("amtool")
    if amtool is None:
        pytest.skip("amtool is not installed: apt-get install prometheus-alertmanager")
    path = tmp_path / "alertmanager.yml"
    path.write_text(shown(), encoding="utf-8")
    done = subprocess.run([amtool, "check-config", str(path)], capture_output=True, text=True, check=False)

    assert (0, True) == (done.returncode, "SUCCESS" in done.stdout), done.stdout + done.stderr


def test_an_alert_heals_its_service_and_its_end_proves_the_heal(told: Told) -> None:
    told.break_()
    eventually("the service is restarted", lambda: not told.is_broken())
    (incident,) = eventually("the end of the incident", told.incidents)
    story = json.loads(fetch(told.daemon.port, f"/api/v1/incidents/{incident['id']}")[1])

    assert ("sample", "alert-sample-errors", "critical") == tuple(incident[k] for k in ("subject", "fault", "severity"))
    assert ("healed", "sample: SampleErrors: sample answers with errors only") == (
        incident["ended"],
        incident["summary"],
    )
    assert any("proved by alert_sample_errors_up >= 1" in step["text"] for step in story["timeline"])
    assert (2, 0, 0) == tuple(told.received(result) for result in ("taken", "ignored", "refused"))


def test_a_daemon_whose_loop_stands_is_told_again_until_it_turns(told: Told) -> None:
    before = len(told.incidents())
    told.set_loop(enabled=False)
    told.break_()
    eventually("it is told more than once", lambda: told.received("refused") >= 3)
    assert told.is_broken()
    told.set_loop(enabled=True)
    eventually("the service is restarted", lambda: not told.is_broken())
    eventually("the end of the incident", lambda: len(told.incidents()) >= before and not _open(told))
    page = told.daemon.metrics()

    assert 'code="503"' in page
    assert 'endpoint="/api/v1/alerts",code="429"' not in page
    assert {"healed"} == {incident["ended"] for incident in told.incidents()}


def _open(told: Told) -> list[Any]:
    found: list[Any] = json.loads(fetch(told.daemon.port, "/api/v1/incidents?state=open")[1])["incidents"]
    return found
