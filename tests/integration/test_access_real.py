"""A real daemon that others can reach: it starts only when there is somebody to be, and lets in whom it knows."""

import http.client
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

PATIENCE = 60.0
"""Seconds that something which must happen may take on a busy machine; nobody waits for it when all is well."""
PACE = 0.05
PASSWORD = "Tall-Ships.Sail-West"
T = TypeVar("T")


def until(found: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + PATIENCE
    while (value := found()) is None:
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(PACE)  # between two looks at another process, for which there is nothing to wait on
    return value


@dataclass
class Host:
    folder: Path
    status: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state, self.config, self.log = (self.folder / n for n in ("state", "x0tta6bl4.yaml", "daemon.log"))
        told = {
            "state_dir": str(self.state),
            "lock_file": str(self.folder / "lock"),
            "status": {"host": "0.0.0.0", "port": 0, **self.status},
            "monitors": {"host": {"enabled": False}},
            "executors": {"systemd": {"enabled": False}},
        }
        self.config.write_text(json.dumps(told))  # JSON is YAML

    def run(self, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "x0tta6bl4", "--config", str(self.config), *words],
            input=typed, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip

    def refused(self) -> str:
        """What it says instead of starting."""
        ended = self.run("run")
        assert 78 == ended.returncode, ended.stderr
        return ended.stdout + ended.stderr

    @contextmanager
    def daemon(self) -> Iterator[int]:
        """Gives the port."""
        with self.log.open("ab") as log:
            running = subprocess.Popen(
                [sys.executable, "-m", "x0tta6bl4", "--config", str(self.config), "run"], stdout=log, stderr=log
            )

        def url() -> str | None:
            assert running.poll() is None, self.log.read_text()
            try:
                told = json.loads((self.folder / "lock").read_text())
            except (OSError, ValueError):
                return None
            return str(told["url"]) if told["pid"] == running.pid and told["url"] else None

        try:
            yield urlsplit(until(url)).port or 0
        finally:
            if running.poll() is None:
                running.send_signal(signal.SIGTERM)
            running.wait(PATIENCE)


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            named["content-type"] = "application/json"
        connection.request(method, path, None if body is None else json.dumps(body), named)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_where_there_is_nobody_to_be_the_daemon_does_not_open_to_others(tmp_path: Path, host: str) -> None:
    told = Host(tmp_path, {"host": host}).refused()
    assert "status.host" in told
    assert f"{host} is open to others, and there is neither a key nor an operator" in told
    for remedy in ("x0tta6bl4 keys create", "x0tta6bl4 operators add", "127.0.0.1"):
        assert remedy in told
    assert not (tmp_path / "state" / "operator.token").exists()


def test_a_key_opens_it_until_the_key_is_ended(tmp_path: Path) -> None:
    host = Host(tmp_path)
    made = host.run("keys", "create", "dashboard", "--scope", "read")
    assert 0 == made.returncode, made.stderr
    (key,) = [word for word in made.stdout.split() if word.startswith("x0k_")]
    with host.daemon() as port:
        assert (200, "key", "dashboard", "read") == _who(port, authorization=f"Bearer {key}")
        assert (200, "nobody", "nobody", None) == _who(port, x_forwarded_for="192.0.2.7")
        assert 401 == ask(port, "GET", "/status", x_forwarded_for="192.0.2.7")[0]
        assert 403 == ask(port, "POST", "/-/reload", {}, authorization=f"Bearer {key}")[0]
        ended = host.run("keys", "revoke", "dashboard")
        assert 0 == ended.returncode, ended.stderr
        until(lambda: True if ask(port, "GET", "/status", authorization=f"Bearer {key}")[0] == 401 else None)
    assert "status.host" in host.refused()


def test_an_operator_opens_it_and_can_sign_in(tmp_path: Path) -> None:
    host = Host(tmp_path)
    added = host.run("operators", "add", "oncall", "--scope", "operate", "--password-file", "-", typed=PASSWORD + "\n")
    assert 0 == added.returncode, added.stderr
    with host.daemon() as port:
        wrong = {"name": "oncall", "password": "wrong"}
        assert 401 == ask(port, "POST", "/api/v1/session", wrong)[0]
        status, told = ask(port, "POST", "/api/v1/session", {"name": "oncall", "password": PASSWORD})
        assert (200, "session", "oncall", "operate") == (status, told["kind"], told["name"], told["scope"])


def test_a_key_in_a_file_opens_it(tmp_path: Path) -> None:
    (tmp_path / "ci.key").write_text("k" * 40 + "\n")
    host = Host(tmp_path, {"api_keys": {"ci": {"file": "ci.key", "scope": "operate"}}})
    with host.daemon() as port:
        assert (200, "key", "ci", "operate") == _who(port, x_api_key="k" * 40)
        assert 401 == ask(port, "GET", "/status", x_api_key="k" * 39)[0]


def _who(port: int, **headers: str) -> tuple[int, str, str, str | None]:
    status, told = ask(port, "GET", "/api/v1/session", **headers)
    return status, told["kind"], told["name"], told["scope"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes certificates, is missing")
def test_the_command_line_asks_a_daemon_that_speaks_https_and_lets_nobody_read_without_a_key(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=heal.example.org", "-keyout", "tls.key", "-out", "tls.crt"],
        cwd=tmp_path, check=True, capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    tls = {"certificate": "tls.crt", "key": "tls.key"}
    host = Host(tmp_path, {"host": "127.0.0.1", "tls": tls, "local_read": False})
    with host.daemon():
        told = host.run("status", "--output", "json")
        assert 0 == told.returncode, told.stderr
        assert '"trouble":""' in told.stdout.replace(" ", ""), told.stdout

        (tmp_path / "state/operator.token").chmod(0o600)
        (tmp_path / "state/operator.token").write_text("another\n")
        told = host.run("status")
        assert "/status answers 401" in told.stdout + told.stderr
        assert "//status" not in told.stdout + told.stderr
