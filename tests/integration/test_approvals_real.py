"""A question to a person, from a real daemon's message over its endpoint to the step, across the daemon's own death."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import pytest

from x0tta6bl4.status.links import Links, kept_key

PATIENCE = 60.0
"""Seconds that something which must happen may take on a busy machine; nobody waits for it when all is well."""
PACE = 0.05
APPROVALS = "/api/v1/approvals"
T = TypeVar("T")


def until(found: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + PATIENCE
    while (value := found()) is None:
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(PACE)  # between two looks at another process, for which there is nothing to wait on
    return value


class Hook(ThreadingHTTPServer):
    """Where the daemon's messages go, and what it asks whether the program works: it never does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hearing)
        self.heard: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Hearing(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        self.server.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": PACE})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass
class Host:
    """A folder with a configuration, over which one daemon after another runs."""

    folder: Path
    hook: Hook
    works: bool = True

    def __post_init__(self) -> None:
        self.state = self.folder / "state"
        self.log = self.folder / "daemon.log"
        self.config = self.folder / "x0tta6bl4.yaml"
        asked = {} if self.works else {"work": f"{self.hook.url}/work", "start_timeout": "500ms"}
        # The program says where it is, so that its ends and starts can be told without asking the daemon.
        program = [sys.executable, "-c", "import time; time.sleep(3600)", str(self.folder)]
        self.config.write_text(
            json.dumps(  # JSON is YAML
                {
                    "state_dir": str(self.state),
                    "lock_file": str(self.folder / "lock"),
                    "status": {"port": 0, "rate_limit_per_minute": 100000},
                    "guard": {"allow": ["process.*"]},
                    "subjects": {
                        "web": {"process": {"command": program, "on_exit": "stop"}, "mode": "approve", **asked}
                    },
                    "monitors": {"host": {"enabled": False}},
                    "executors": {"systemd": {"enabled": False}, "notify": {"webhook": {"url": self.hook.url}}},
                }
            )
        )

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        with self.log.open("ab") as log:
            running = subprocess.Popen(
                [sys.executable, "-m", "x0tta6bl4", "--config", str(self.config), "run"], stdout=log, stderr=log
            )
        try:
            until(lambda: self.url(running))
            yield running
        finally:
            if running.poll() is None:
                running.send_signal(signal.SIGTERM)
            running.wait(PATIENCE)

    def url(self, running: subprocess.Popen[bytes]) -> str | None:
        assert running.poll() is None, self.log.read_text()
        try:
            told = json.loads((self.folder / "lock").read_text())
        except (OSError, ValueError):
            return None
        return str(told["url"]) if told["pid"] == running.pid and told["url"] else None

    def ask(self, running: subprocess.Popen[bytes], method: str, path: str, body: str = "", **headers: str) -> Reply:
        parts = urlsplit(until(lambda: self.url(running)))
        with closing(http.client.HTTPConnection("127.0.0.1", parts.port, timeout=PATIENCE)) as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body.encode(), named)
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())

    def operator(self) -> str:
        return f"Bearer {(self.state / 'operator.token').read_text().strip()}"

    def wanted(self, running: subprocess.Popen[bytes]) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            reply = self.ask(running, "GET", f"{APPROVALS}?state=wanted", authorization=self.operator())
            assert 200 == reply.status, reply.body
            return next(iter(json.loads(reply.body)["approvals"]), None)

        return until(found)

    def pids(self) -> set[int]:
        """Of the program under care, as the kernel tells it."""
        found = set()
        for entry in Path("/proc").iterdir():
            try:
                line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            except OSError:  # it ended meanwhile
                continue
            if b"time.sleep(3600)" in line and str(self.folder).encode() in line:
                found.add(int(entry.name))
        return found

    def kill_program(self) -> int:
        (pid,) = until(lambda: self.pids() or None)
        os.kill(pid, signal.SIGKILL)
        return pid

    def link(self, plan: str) -> str:
        """As the message has it, for the expiry that the store has."""
        import sqlite3

        with closing(sqlite3.connect(self.state / "knowledge.db")) as store:
            ((expires,),) = store.execute("SELECT expires FROM approvals WHERE plan = ?", (plan,)).fetchall()
        made = urlsplit(Links(kept_key(self.state / "approval.key"), lambda: "http://h/").to(plan, expires))
        return f"{made.path}?{made.query}"


@pytest.fixture
def build(tmp_path: Path, hook: Hook) -> Iterator[Callable[..., Host]]:
    made: list[Host] = []

    def built(*, works: bool = True) -> Host:
        made.append(Host(tmp_path, hook, works))
        return made[-1]

    yield built
    for host in made:
        for pid in host.pids():
            os.kill(pid, signal.SIGKILL)


def test_a_link_answers_after_the_daemons_death_and_once(build: Callable[..., Host]) -> None:
    host = build(works=False)
    with host.daemon() as running:
        plan = host.wanted(running)["plan"]
        link = host.link(plan)
        (before,) = host.pids()
        running.kill()
        running.wait(PATIENCE)

    with host.daemon() as running:
        page = host.ask(running, "GET", link, accept="text/html")
        assert (200, True) == (page.status, b"<form" in page.body)
        assert 1 == len(page.headers.get_all("content-security-policy") or [])
        assert plan == host.wanted(running)["plan"]
        assert {before} == host.pids()

        form = {"content_type": "application/x-www-form-urlencoded", "accept": "text/html", "origin": "null"}
        path, _, token = link.partition("?token=")
        answer = urlencode({"token": token, "who": "oncall", "why": "looked at it", "answer": "approve"})
        taken = host.ask(running, "POST", path, answer, **form)
        assert (200, True) == (taken.status, b"Approved" in taken.body)
        until(lambda: True if host.pids() - {before} else None)
        assert 409 == host.ask(running, "POST", path, answer, **form).status

        told = json.loads(host.ask(running, "GET", f"{APPROVALS}/{plan}", authorization=host.operator()).body)
        assert ("approved", "oncall (link)", "looked at it") == (told["state"], told["who"], told["why"])
    assert 0o600 == (host.state / "approval.key").stat().st_mode & 0o777
    assert token not in host.log.read_text()


def test_a_rejection_over_http_is_heard_at_once_and_nothing_is_started(build: Callable[..., Host]) -> None:
    host = build()
    with host.daemon() as running:
        host.kill_program()
        plan = host.wanted(running)["plan"]
        body = json.dumps({"answer": "reject", "who": "oncall"})
        target = f"{APPROVALS}/{plan}"
        assert 401 == host.ask(running, "POST", target, body, content_type="application/json").status
        given = {"content_type": "application/json", "authorization": host.operator()}
        assert 200 == host.ask(running, "POST", target, body, **given).status

        def rejected() -> bool | None:
            told = json.loads(host.ask(running, "GET", "/status").body)
            said = [i["decision"]["sentence"] for i in told["incidents"] if i["decision"]]
            return True if "rejected by oncall (api)" in said else None

        assert until(rejected)
        assert set() == host.pids()
        stands = host.ask(running, "POST", target, json.dumps({"answer": "approve"}), **given)
        assert (409, "APPROVAL_ANSWERED") == (stands.status, json.loads(stands.body)["error"]["code"])


def test_the_message_that_asks_has_the_link_that_answers(build: Callable[..., Host]) -> None:
    host = build()
    with host.daemon() as running:
        host.kill_program()
        plan = host.wanted(running)["plan"]
        asked = until(lambda: next((m for m in host.hook.heard if m.get("plan") == plan), None))
        assert f"x0tta6bl4 approve {plan}" in asked["text"]
        link = urlsplit(asked["answer_url"])
        body = json.dumps({"answer": "approve", "who": "chat"})
        reply = host.ask(running, "POST", f"{link.path}?{link.query}", body, content_type="application/json")
        assert 200 == reply.status, reply.body
        assert until(lambda: host.pids() or None)
