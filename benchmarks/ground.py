"""The ground of every benchmark: the real daemon in a folder of its own, real victims in its care, a look from outside.

Everything is at its default except what has to be said: subjects, ports, state_dir, lock_file and guard.allow.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.demo import breaker
from x0tta6bl4.knowledge.sqlite import Config as KnowledgeConfig
from x0tta6bl4.knowledge.sqlite import SqliteKnowledge, migrations

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_CLI = "import sys; from pathlib import Path; from x0tta6bl4 import app; app.run(Path(sys.argv[1]), {})"
UP_WITHIN = 30.0
BREATH = 2.5
"""Seconds after the first good answers until the first fault, so that every probe has been asked and has said yes."""
STOP_WITHIN = 30.0


class GroundFailed(Exception):
    """The ground itself gave way: nothing that was measured on it counts."""


@dataclass(frozen=True)
class Site:
    """One victim: its name, the options it is started with, and its subject's settings beside the usual ones."""

    name: str = "victim"
    options: Sequence[str] = ()
    subject: Mapping[str, Any] = field(default_factory=dict)
    health: bool = False
    on_exit: str = "stop"
    cwd: str = str(ROOT)
    depends_on: str = ""
    """The site whose port it is told to depend on, and its subject to wait for."""


@dataclass(frozen=True)
class Act:
    """One step of the journal."""

    subject: str
    target: str
    action: str
    rung: str
    at: float
    ended_at: float | None
    result: str | None
    detail: str
    disruptive: bool


@dataclass(frozen=True)
class Story:
    """One incident of the journal."""

    id: str
    subject: str
    fault: str
    state: str
    ended: str
    summary: str
    opened_at: float
    closed_at: float | None
    reopened: int


@dataclass(frozen=True)
class Said:
    """One decision of the journal."""

    subject: str
    action: str
    check: str
    answer: str
    sentence: str
    at: float


class Ports:
    """Gives each port once, also to grounds that are laid at the same time and have not bound theirs yet."""

    def __init__(self) -> None:
        self._given: set[int] = set()
        self._lock = threading.Lock()

    def take(self) -> int:
        with self._lock:
            while (port := breaker.free_port()) in self._given:
                pass
            self._given.add(port)
            return port


class Ground:
    """A context: inside it daemon and victims run and are well; behind it nothing of them is left."""

    def __init__(
        self, *sites: Site, ports: Ports | None = None, allow: Sequence[str] = ("process.*", "cleanup.*")
    ) -> None:
        self.sites = {site.name: site for site in sites or (Site(),)}
        self.allow = list(allow)
        given = ports or Ports()
        self.ports = {name: given.take() for name in self.sites}
        self.status_port = given.take()
        # Resolved: what is swept away at the end is known by this path on its command line.
        self.folder = Path(tempfile.mkdtemp(prefix="x0t-ground-")).resolve()
        self.state_dir = self.folder / "state"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.began = 0.0
        self._closed = False
        self._closing = threading.Lock()

    # -- life

    def __enter__(self) -> Self:
        try:
            for site in self.sites.values():
                Path(_filled(site.cwd, self.folder)).mkdir(exist_ok=True)
            (self.folder / "daemon.yaml").write_text(yaml.safe_dump(self._config(), sort_keys=False))
            self.start_daemon()
            for name in self.sites:
                self.wait_well(name, UP_WITHIN)
            self.sleep(BREATH)
        except BaseException:
            # __exit__ is not called for a context that was not entered, and Ctrl-C comes here too.
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _config(self) -> dict[str, Any]:
        # Until the endpoint is part of the tree there is none to give a port to.
        has_endpoint = importlib.util.find_spec("x0tta6bl4.status.endpoint") is not None
        return {
            "state_dir": str(self.state_dir),
            "lock_file": str(self.folder / "daemon.lock"),
            "status": {"port": self.status_port} if has_endpoint else {"enabled": False},
            "guard": {"allow": self.allow},
            "subjects": {site.name: self._subject(site) for site in self.sites.values()},
        }

    def _subject(self, site: Site) -> dict[str, Any]:
        port = self.ports[site.name]
        command = [
            "${python}",
            "-m",
            "x0tta6bl4.demo.victim",
            "--port",
            str(port),
            "--folder",
            str(self.victim_folder(site.name)),
        ]
        more: dict[str, Any] = {}
        if site.depends_on:
            command += ["--depends-on", f"{breaker.HOST}:{self.ports[site.depends_on]}"]
            more["depends_on"] = [site.depends_on]
        if site.health:
            more["health"] = f"http://{breaker.HOST}:{port}/health"
        return {
            "process": {
                "command": [*command, *site.options],
                "cwd": _filled(site.cwd, self.folder),
                "on_exit": site.on_exit,
            },
            "work": f"http://{breaker.HOST}:{port}/work",
            "mode": "auto",
            **more,
            **{key: _filled(value, self.folder) for key, value in site.subject.items()},
        }

    def victim_folder(self, name: str) -> Path:
        return self.folder / "victims" / name

    def start_daemon(self) -> None:
        has_cli = importlib.util.find_spec("x0tta6bl4.cli.run") is not None
        config = str(self.folder / "daemon.yaml")
        argv = (
            [sys.executable, "-m", "x0tta6bl4", "run", "--config", config]
            if has_cli
            else [sys.executable, "-c", WITHOUT_CLI, config]
        )
        with self._closing, (self.folder / "daemon.log").open("ab") as log:
            if self._closed:
                raise GroundFailed("it is being cleared away")
            # In a session of its own: a Ctrl-C is for us, and we stop it in our order.
            self.daemon = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, start_new_session=True
            )
        self.began = time.time()

    def kill_daemon(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def stop_daemon(self) -> int:
        """Asks it to end; its exit code. GroundFailed when it does not."""
        assert self.daemon is not None
        if self.daemon.poll() is None:
            self.daemon.terminate()
        try:
            return self.daemon.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            raise GroundFailed(f"the daemon did not end within {STOP_WITHIN:g} s of SIGTERM") from None

    def close(self) -> None:
        """May be called twice, and from another thread."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            try:
                if self.daemon is not None:
                    with contextlib.suppress(GroundFailed):
                        self.stop_daemon()
                    self.daemon.kill()
                    self.daemon.wait()
            finally:
                self._sweep()
                shutil.rmtree(self.folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Ends what the daemon left: every process that was started with a path of this ground."""
        mark = os.fsencode(str(self.folder))
        for _ in range(50):
            left = []
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    with contextlib.suppress(OSError):
                        if mark in (entry / "cmdline").read_bytes():
                            left.append(int(entry.name))
            if not left:
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    # -- looking

    def sleep(self, seconds: float) -> None:
        """Fails at once when the daemon is gone: nothing that comes after would mean anything."""
        until = time.monotonic() + seconds
        while True:
            self.check_daemon()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.1))

    def check_daemon(self) -> None:
        if self.daemon is not None and self.daemon.poll() is not None:
            raise GroundFailed(f"the daemon ended with {self.daemon.returncode}: {self.log()[-2000:]}")

    def wait_well(self, name: str, timeout: float, other_than: int | None = None) -> float:
        """Seconds until the first good answer (of another process); TimeoutError when there is none."""
        began = time.monotonic()
        while True:
            self.check_daemon()
            left = timeout - (time.monotonic() - began)
            with contextlib.suppress(TimeoutError):
                breaker.wait_until_answers(self.ports[name], began, other_than, min(1.0, max(0.0, left)))
                return time.monotonic() - began
            if left <= 1.0:
                raise TimeoutError(f"{name} had no good answer within {timeout:g} s")

    def pid(self, name: str) -> int:
        for _ in range(20):
            if (pid := breaker.ask(self.ports[name], timeout=1.0).pid) is not None:
                return pid
        raise GroundFailed(f"{name} should answer and does not")

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text(errors="replace")

    def complaints(self) -> list[str]:
        """What the daemon logged as an error, and every traceback."""
        found = []
        for line in self.log().splitlines():
            with contextlib.suppress(ValueError, AttributeError):
                told = json.loads(line)
                if str(told.get("level", "")).lower() in ("error", "critical") or "exception" in told:
                    found.append(line)
                continue
            if "Traceback" in line or "Error" in line:
                found.append(line)
        return found

    def _rows(self, sql: str) -> list[Any]:
        path = self.state_dir / "knowledge.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
            return connection.execute(sql).fetchall()

    def acts(self) -> list[Act]:
        return [
            Act(
                subject,
                target,
                action,
                rung,
                at,
                ended_at,
                result,
                json.loads(outcome)["detail"] if outcome else "",
                bool(disruptive),
            )
            for subject, target, action, rung, at, ended_at, result, outcome, disruptive in self._rows(
                "SELECT subject, target, action, rung, intent_at, ended_at, result, outcome, disruptive FROM steps"
                " ORDER BY intent_at, rowid"
            )
        ]

    def stories(self) -> list[Story]:
        found = []
        for (body,) in self._rows("SELECT body FROM incidents ORDER BY opened_at"):
            told = json.loads(body)
            found.append(Story(**{column.name: told[column.name] for column in fields(Story)}))
        return found

    def said(self) -> list[Said]:
        return [
            Said(*row)
            for row in self._rows('SELECT subject, action, "check", answer, sentence, at FROM decisions ORDER BY id')
        ]

    def wanted(self) -> list[str]:
        """The plans that wait for somebody's approval."""
        return [plan for (plan,) in self._rows("SELECT plan FROM approvals WHERE state = 'wanted'")]

    def calls_for_help(self) -> list[str]:
        """What a human was told, as it stands in the log when no channel is set up."""
        return [line for line in self.log().splitlines() if "a human is needed" in line]

    # -- speaking, as an operator does

    def tell(self, what: Callable[[SqliteKnowledge], Awaitable[object]]) -> None:
        """Writes to the daemon's memory from outside, as the command line does."""

        async def told() -> None:
            database = await SqliteDatabase.open(self.state_dir / "knowledge.db", migrations())
            try:
                await what(SqliteKnowledge("outside", KnowledgeConfig(), database, SystemClock()))
            finally:
                await database.close()

        asyncio.run(told())


def _filled(value: Any, folder: Path) -> Any:
    """``@`` in a subject's settings stands for the ground's folder."""
    if isinstance(value, str):
        return value.replace("@", str(folder))
    if isinstance(value, Mapping):
        return {key: _filled(inner, folder) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(inner, folder) for inner in value]
    return value


def longest_row(acts: Sequence[Act]) -> int:
    """The most equal steps in a row for one subject, whatever came of them."""
    longest = 0
    for subject in {act.subject for act in acts}:
        latest, count = "", 0
        for act in acts:
            if act.subject == subject:
                latest, count = act.action, count + 1 if act.action == latest else 1
                longest = max(longest, count)
    return longest


def end_on_sigterm() -> None:
    """Lets a SIGTERM unwind as a Ctrl-C does, so that nothing is left behind by it either."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
