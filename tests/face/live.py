"""A real daemon with real services in its care, and the real Prometheus and Alertmanager that look at it."""

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from x0tta6bl4.demo.breaker import ask, break_, free_port

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "config" / "prometheus"
PATIENCE = 60.0
"""Seconds that something may take on a busy machine which takes a few when all is well."""
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

CONFIG = """\
state_dir: state
lock_file: daemon.lock
logging: {{format: json}}
mapek: {{interval: 1s}}
status: {{port: {port}, rate_limit_per_minute: 10000}}
guard:
  allow: [process.*]
"""
CARE = """\
subjects:
  sample:
    process:
      command: ["${{python}}", -m, x0tta6bl4.demo.victim, --port, "{sample}", --folder, "${{config_dir}}"]
      on_exit: stop
    work: http://127.0.0.1:{sample}/work
    mode: auto
  asked:
    process:
      command: ["${{python}}", -m, x0tta6bl4.demo.victim, --port, "{asked}", --folder, "${{config_dir}}"]
      on_exit: stop
    work: http://127.0.0.1:{asked}/work
    mode: approve
monitors:
  blindfold: {{use: command, every: 1s, subject: nowhere, argv: [/bin/sh, -c, exit 3]}}
"""


def eventually(what: str, look: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """What ``look`` says as soon as it is not nothing."""
    until = time.monotonic() + patience
    while not (seen := look()):
        assert time.monotonic() < until, f"{what}: not within {patience:g} s; the last answer was {seen!r}"
        time.sleep(0.1)
    return seen


def fetch(
    port: int, path: str, method: str = "GET", body: str | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Status and body; 0 when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, dict(headers or {}))
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


@contextlib.contextmanager
def child(command: Sequence[str | Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours and what it writes; ended with the block."""
    with log.open("wb") as said:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass
class Daemon:
    folder: Path
    port: int
    key: str
    """Of the scope read, as an operator gives it to Prometheus."""
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self, *words: str) -> str:
        return command(self.folder, *words)

    def status(self) -> Any:
        return json.loads(fetch(self.port, "/status")[1] or "{}")

    def metrics(self, accept: str = OPENMETRICS) -> str:
        status, page = fetch(self.port, "/metrics", headers={"Accept": accept, "Authorization": f"Bearer {self.key}"})
        assert 200 == status, page
        return page


def command(folder: Path, *words: str) -> str:
    """What the command line says, of the daemon in that folder."""
    done = subprocess.run(
        [sys.executable, "-m", "x0tta6bl4", "--config", "daemon.yaml", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def daemon(folder: Path, care: str = "", *, like: Path | None = None) -> Iterator[Daemon]:
    """``like``: the folder of another one, whose keys hold for this one as well."""
    folder.mkdir()
    port = free_port()
    (folder / "daemon.yaml").write_text(CONFIG.format(port=port) + care, encoding="utf-8")
    if like is None:
        made = json.loads(command(folder, "--output", "json", "keys", "create", "prometheus", "--scope", "read"))
        (folder / "prometheus.key").write_text(made["key"], encoding="utf-8")
        shutil.copytree(folder / "state", folder / "keys")
    else:
        shutil.copytree(like / "keys", folder / "state")
        shutil.copy(like / "prometheus.key", folder)
    key = (folder / "prometheus.key").read_text(encoding="utf-8")
    log = folder / "daemon.log"
    with child([sys.executable, "-m", "x0tta6bl4", "run", "--config", "daemon.yaml"], log) as process:

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text(encoding="utf-8")
            return fetch(port, "/readyz")[0] == 200

        eventually("the daemon answers", is_ready)
        yield Daemon(folder, port, key, process)


@dataclass
class Lived:
    """A daemon that healed one service, which broke again, waits to be allowed to heal another, and is asked."""

    daemon: Daemon
    pages: list[str] = field(default_factory=list)
    """Its metrics, as they were scraped on the way."""


@contextlib.contextmanager
def lived(folder: Path) -> Iterator[Lived]:
    sample, asked = free_port(), free_port()
    with daemon(folder, CARE.format(sample=sample, asked=asked)) as running, contextlib.ExitStack() as open_:
        told = Lived(running)
        for port in (sample, asked):
            eventually("the service works", lambda port=port: ask(port).status == 200)
        break_(sample, "hang")
        break_(asked, "hang")
        eventually("an incident", lambda: running.status()["incidents"])
        told.pages.append(running.metrics())
        eventually("a heal", lambda: 'result="verified"' in running.metrics())
        eventually("the end of its incident", lambda: not any(i["subject"] == "sample" for i in incidents(running)))
        break_(sample, "hang")
        eventually("the same again", lambda: "x0tta6bl4_incidents_reopened_total{" in running.metrics())
        eventually("a question", lambda: running.status()["approvals_wanted"])
        # What an operator's day brings besides: a reload, a password that is wrong, a reader of the stream.
        reloaded, _ = fetch(running.port, "/-/reload", "POST", headers={"Authorization": f"Bearer {token(running)}"})
        refused, _ = fetch(
            running.port,
            "/api/v1/session",
            "POST",
            json.dumps({"name": "nobody", "password": "not a password"}),
            {"Content-Type": "application/json"},
        )
        reader = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
        open_.callback(reader.close)
        reader.request("GET", "/api/v1/events", headers={"Accept": "text/event-stream"})
        stream = open_.enter_context(reader.getresponse())
        assert (200, 401, 200) == (reloaded, refused, stream.status)
        # Its first turn over everything has to come, for what is told of subjects and conditions.
        eventually("a turn after the reload", lambda: running.status()["loop"]["last_turn"])
        told.pages.append(running.metrics())
        yield told


def incidents(running: Daemon) -> list[Any]:
    """Those that are open."""
    found: list[Any] = running.status()["incidents"]
    return found


def token(running: Daemon) -> str:
    return (running.folder / "state" / "operator.token").read_text(encoding="utf-8").strip()


@dataclass
class Looking:
    """Prometheus and Alertmanager, started with config/prometheus, where only addresses and times were replaced."""

    port: int
    alertmanager: int
    lived: Lived
    second: Daemon
    notices: list[Any]
    """What Alertmanager has sent on."""

    def api(self, path: str, **query: str | float) -> Any:
        status, body = fetch(self.port, f"/api/v1/{path}?{urllib.parse.urlencode(query)}")
        assert 200 == status, body
        return json.loads(body)["data"]

    def ask(self, expr: str) -> list[Any]:
        found: list[Any] = self.api("query", query=expr)["result"]
        return found


@contextlib.contextmanager
def looking(folder: Path, told: Lived) -> Iterator[Looking]:
    folder.mkdir()
    port, alertmanager = free_port(), free_port()
    notices: list[Any] = []
    with contextlib.ExitStack() as open_:
        hook = open_.enter_context(receiver(notices))
        second = open_.enter_context(daemon(folder / "second", like=told.daemon.folder))
        shutil.copytree(RULES / "rules", folder / "rules")
        rules = folder / "rules" / "alerts.yaml"
        rules.write_text(
            shortened(rules.read_text(encoding="utf-8"), "X0tta6bl4HealingOff", "X0tta6bl4DaemonDown"),
            encoding="utf-8",
        )
        text = (RULES / "prometheus.yml").read_text(encoding="utf-8")
        for example, ours in {
            "localhost:8080": f'"{told.daemon.address}", "{second.address}"',
            "localhost:9093": f'"127.0.0.1:{alertmanager}"',
            "/etc/prometheus/x0tta6bl4.key": str(told.daemon.folder / "prometheus.key"),
            ": 15s": ": 1s",
        }.items():
            assert example in text
            text = text.replace(example, ours)
        (folder / "prometheus.yml").write_text(text, encoding="utf-8")
        (folder / "alertmanager.yml").write_text(
            "route: {receiver: hook, group_wait: 1s, group_interval: 1m, repeat_interval: 1h, group_by: [alertname]}\n"
            f"receivers: [{{name: hook, webhook_configs: [{{url: 'http://127.0.0.1:{hook}/'}}]}}]\n",
            encoding="utf-8",
        )
        open_.enter_context(
            child(
                [
                    "prometheus-alertmanager",
                    "--config.file=alertmanager.yml",
                    f"--storage.path={folder / 'alertmanager'}",
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
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--enable-feature=exemplar-storage",
                ],
                folder / "prometheus.log",
            )
        )
        eventually("Alertmanager", lambda: fetch(alertmanager, "/-/ready")[0] == 200)
        eventually("Prometheus", lambda: fetch(port, "/-/ready")[0] == 200)
        seen = Looking(port, alertmanager, told, second, notices)
        eventually("both daemons are scraped", lambda: len(seen.ask('up{job="x0tta6bl4"} == 1')) == 2)
        yield seen


def shortened(rules: str, *alerts: str) -> str:
    """The rules, where those alerts fire at once."""
    for alert in alerts:
        rules, times = re.subn(rf"(- alert: {alert}\n(?: .*\n)*?        for: )\w+", r"\g<1>0s", rules)
        assert 1 == times, alert
    return rules


@contextlib.contextmanager
def receiver(notices: list[Any]) -> Iterator[int]:
    """A webhook that keeps what it is sent."""

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            notices.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: what came is in ``notices``."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever, name="webhook")
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
