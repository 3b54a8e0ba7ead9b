"""The stream on real sockets: it is resumed, bears rude readers, outlives a reload, and ends when it is told to."""

import asyncio
import base64
import contextlib
import http.client
import json
import os
import random
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.kernel.events import Event
from x0tta6bl4.kernel.facts import Finding, Observation
from x0tta6bl4.kernel.health import HealthChecker
from x0tta6bl4.kernel.loop import MAPEK, Parts
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.watching import Instance
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.observability.metrics import Metrics
from x0tta6bl4.planners.runbook import Config as RunbookConfig
from x0tta6bl4.planners.runbook import Runbooks
from x0tta6bl4.settings.model import StatusSettings
from x0tta6bl4.status import endpoint as endpoint_module
from x0tta6bl4.status import stream as stream_module
from x0tta6bl4.status.access import Access
from x0tta6bl4.status.desk import Behind
from x0tta6bl4.status.endpoint import serve
from x0tta6bl4.status.face import Condition
from x0tta6bl4.status.stream import Stream

PATIENCE = 30.0
"""How long something that must happen may take on a busy machine; nobody waits for it when all is well."""


# -- two small clients -----------------------------------------------------------------------------------------------


class Sse:
    """Reads Server-Sent Events from a socket, as a browser does."""

    def __init__(self, port: int, query: str = "", last: str = "", headers: str = "", method: str = "GET") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        resume = f"Last-Event-ID: {last}\r\n" if last else ""
        self.socket.sendall(
            f"{method} /api/v1/events?{query} HTTP/1.1\r\nHost: localhost\r\n{headers}{resume}\r\n".encode("latin-1")
        )
        self.buffer = b""
        self.last = last
        self.retry = 0
        self.comments: list[str] = []
        self.is_over = False
        head = self._until(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}

    def _until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            piece = self.socket.recv(65536)
            if not piece:
                self.is_over = True
                return b""
            self.buffer += piece
        found, _, self.buffer = self.buffer.partition(end)
        return found

    def event(self) -> tuple[str, Any]:
        """Type and CloudEvent of the next one; an empty type: there is none any more."""
        while not self.is_over:
            kind, data = "", ""
            for line in self._until(b"\n\n").decode("ascii").split("\n"):
                name, _, value = line.partition(": ")
                if name == "id":
                    self.last = value
                elif name == "retry":
                    self.retry = int(value)
                elif name == "event":
                    kind = value
                elif name == "data":
                    data += value
                elif line.startswith(":"):
                    self.comments.append(line[2:])
            if data:
                return kind.removeprefix("x0tta6bl4."), json.loads(data)
        return "", None

    def numbers(self, upto: int) -> list[int]:
        """Of the events that the test told, until the one with this number has come."""
        found: list[int] = []
        while not found or found[-1] != upto:
            kind, told = self.event()
            assert kind not in ("", "gap", "dropped"), (kind, told, found[-3:])
            if "number" in told["data"]:
                found.append(told["data"]["number"])
        return found

    def rest(self) -> list[tuple[str, Any]]:
        found = []
        while (one := self.event())[0]:
            found.append(one)
        return found

    def close(self) -> None:
        self.socket.close()


class WebSocket:
    """A client of RFC 6455 that says what it is told to."""

    def __init__(self, port: int, query: str = "", headers: str = "") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        key = base64.b64encode(os.urandom(16)).decode("ascii")
        self.socket.sendall(
            f"GET /ws?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{headers}\r\n".encode("latin-1")
        )
        self.file = self.socket.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers: dict[str, str] = {}
        while (line := self.file.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name.lower()] = value.strip()

    def say(self, opcode: int, payload: bytes = b"") -> None:
        mask = os.urandom(4)
        assert len(payload) < 126
        self.socket.sendall(
            bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
        )

    def frame(self) -> tuple[int, bytes]:
        """Opcode 0: there is none any more."""
        head = self.file.read(2)
        if len(head) < 2:
            return 0, b""
        assert not head[1] & 0x80, "a server's frame is not masked"
        size = head[1]
        if size == 126:
            size = struct.unpack("!H", self.file.read(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", self.file.read(8))[0]
        return head[0] & 15, self.file.read(size)

    def event(self) -> tuple[str, Any]:
        while True:
            opcode, payload = self.frame()
            if opcode == 9:
                self.say(10, payload)
            elif opcode == 8:
                return "close", (struct.unpack("!H", payload[:2])[0], payload[2:].decode())
            elif opcode in (0, 1):
                told = json.loads(payload) if opcode else None
                return (told["type"].removeprefix("x0tta6bl4.") if told else ""), told

    def numbers(self, upto: int) -> list[int]:
        found: list[int] = []
        while not found or found[-1] != upto:
            kind, told = self.event()
            assert kind not in ("", "gap", "dropped", "close"), (kind, told)
            if "number" in told["data"]:
                found.append(told["data"]["number"])
        return found

    def close(self) -> None:
        self.file.close()
        self.socket.close()


# -- the daemon's side -----------------------------------------------------------------------------------------------


class Eyes:
    name = "eyes"

    async def observe(self) -> Sequence[Observation]:
        return [Observation("eyes", "web-0", "process_up", 1.0)]


class Judge:
    name = "judge"

    def analyze(self, view: View) -> Sequence[Finding]:
        return []


class Face:
    def __init__(self, loop: MAPEK, metrics: Metrics) -> None:
        self.version = "9.8.7"
        self.started_at = time.time()
        self.loop = loop
        self.metrics = metrics
        self.health = HealthChecker({})
        self.token = "the-operators-token"

    def conditions(self) -> Sequence[Condition]:
        return []

    def describe(self) -> Mapping[str, Any]:
        return {}

    async def reload(self) -> Sequence[str]:
        return []

    async def set_flag(self, name: str, value: bool, who: str) -> None:
        self.loop.parts.flags.set(name, value)


class Daemon:
    """Loop and endpoint that run, seen from a client's thread."""

    def __init__(self, address: str, face: Face, running: asyncio.AbstractEventLoop, reload: Callable[[], Any]) -> None:
        self.face = face
        self.port = int(address.rstrip("/").rpartition(":")[2])
        self._running = running
        self._reload = reload
        self._told = 0
        self._clients: list[Sse | WebSocket] = []

    def on_loop(self, work: Callable[[], Any]) -> Any:
        async def worked() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(worked(), self._running).result(PATIENCE)

    def tell(self, count: int = 1, kind: str = "step", **data: Any) -> int:
        """The number of the last."""

        def told() -> None:
            for _ in range(count):
                self._told += 1
                assert self.face.loop.parts.bus.publish_nowait(Event(kind, {"number": self._told, **data}))

        self.on_loop(told)
        return self._told

    def reload(self) -> None:
        asyncio.run_coroutine_threadsafe(self._reload(), self._running).result(PATIENCE)

    def sse(self, *args: Any, **more: Any) -> Sse:
        self._clients.append(client := Sse(self.port, *args, **more))
        return client

    def ws(self, *args: Any, **more: Any) -> WebSocket:
        self._clients.append(client := WebSocket(self.port, *args, **more))
        return client

    def get(self, path: str) -> tuple[int, bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read()

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def wait(self, until: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not until():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextlib.contextmanager
def open_files(limit: int) -> Iterator[None]:
    """Both ends of all connections are in this process."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


KNOWN = {"headers": "Authorization: Bearer the-operators-token\r\n"}


def live(folder: Path, client: Callable[[Daemon], Any], after: Callable[[Any], None] = lambda got: None) -> None:
    """Runs loop and endpoint, and the client in a thread; ``after`` is called when all of it was closed."""

    async def lived() -> tuple[Daemon, Any]:
        async with AsyncExitStack() as stack:
            database = await SqliteDatabase.open(folder / "knowledge.db", migrations())
            stack.push_async_callback(database.close)
            clock, metrics = SystemClock(), Metrics("9.8.7", strict=True)

            def made() -> MAPEK:
                return MAPEK(
                    Parts(
                        clock=clock,
                        knowledge=SqliteKnowledge("store", Config(), database, clock),
                        planner=Runbooks("runbook", RunbookConfig()),
                        instances=[Instance(Eyes(), 0.5, 5.0)],
                        analyzers=[Judge()],
                        sight=Sight({"web-0": Subject("web-0")}),
                        meter=metrics,
                    )
                )

            face = Face(made(), metrics)
            access = Access(database, face.loop.parts.knowledge.audit, clock, lambda: b"k" * 32)
            behind = Behind(database, access)
            told: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
            settings = StatusSettings(port=0, rate_limit_per_minute=10_000)
            async with asyncio.TaskGroup() as group:
                turning = [group.create_task(face.loop.start())]

                async def reload() -> None:
                    face.loop.stop()
                    await turning[0]
                    face.loop = made()
                    turning[0] = group.create_task(face.loop.start())
                    await face.loop.first_turn.wait()

                serving = group.create_task(
                    serve(face, settings, behind, lambda where, why: told.set_result((where, why)))
                )
                address, trouble = await told
                assert "" == trouble
                await face.loop.first_turn.wait()
                daemon = Daemon(address, face, asyncio.get_running_loop(), reload)
                try:
                    got = await asyncio.to_thread(client, daemon)
                finally:
                    serving.cancel()
                    face.loop.stop()
            assert serving.cancelled()
            return daemon, got

    daemon, got = asyncio.run(asyncio.wait_for(lived(), 3 * PATIENCE))
    try:
        after(got)
    finally:
        daemon.close()


def test_the_same_events_come_both_ways(tmp_path: Path) -> None:
    def client(daemon: Daemon) -> None:
        sse, ws = daemon.sse("types=step"), daemon.ws("types=step")
        assert (200, "text/event-stream") == (sse.status, sse.headers["content-type"])
        assert (101, "websocket") == (ws.status, ws.headers["upgrade"])
        last = daemon.tell(3)
        told = [sse.event() for _ in range(last)]
        assert told == [ws.event() for _ in range(last)]
        assert "step" == told[0][0]
        assert 2000 <= sse.retry <= 5000
        ws.say(9, b"there?")
        assert (10, b"there?") == ws.frame()
        ws.say(8, struct.pack("!H", 1000))
        assert ("close", (1000, "")) == ws.event()
        assert (0, b"") == ws.frame()

    live(tmp_path, client)


def test_who_comes_back_misses_nothing_and_sees_nothing_twice(tmp_path: Path) -> None:
    def client(daemon: Daemon) -> None:
        sse = daemon.sse("types=step")
        daemon.tell(5)
        assert [1, 2, 3, 4, 5] == sse.numbers(5)
        sse.socket.close()
        daemon.tell(5)
        back = daemon.sse("types=step", last=sse.last)
        assert [6, 7, 8, 9, 10] == back.numbers(10)
        ws = daemon.ws(f"types=step&last_event_id={sse.last}")
        assert [6, 7, 8, 9, 10] == ws.numbers(10)
        late = daemon.sse("types=step", last="evt_of_an_earlier_life")
        assert "gap" == late.event()[0]
        assert list(range(1, 11)) == late.numbers(10)

    live(tmp_path, client)


def test_what_cannot_be_streamed_is_refused_in_words(tmp_path: Path) -> None:
    def client(daemon: Daemon) -> None:
        for path, status, code in (
            ("/api/v1/events?types=nix", 422, "UNKNOWN_TYPES"),
            ("/ws", 426, "UPGRADE_REQUIRED"),
        ):
            got, body = daemon.get(path)
            assert (status, code) == (got, json.loads(body)["error"]["code"])
        ws = daemon.ws("types=nix")
        assert (422, "application/problem+json") == (ws.status, ws.headers["content-type"])
        head = daemon.sse(method="HEAD", headers="Connection: close\r\n")
        assert (200, []) == (head.status, head.rest())
        for _ in range(stream_module.PER_CLIENT):
            assert 200 == daemon.sse().status
        assert 429 == daemon.sse().status
        assert 200 == daemon.sse(**KNOWN).status

    live(tmp_path, client)


def test_a_request_sent_ahead_of_a_stream_is_forgotten_and_one_before_it_is_answered(tmp_path: Path) -> None:
    def client(daemon: Daemon) -> None:
        stream = b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
        live = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with socket.create_connection(("127.0.0.1", daemon.port), timeout=PATIENCE) as ahead:
            ahead.sendall(live + stream + live * 3)
            got = b""
            while b"id: " not in got:
                got += ahead.recv(65536)
            daemon.tell(1, text="the last")
            while b"the last" not in got:
                got += ahead.recv(65536)
            assert 2 == got.count(b"HTTP/1.1 200")
            assert 1 == len(daemon.on_loop(lambda: of(daemon)))
        daemon.wait(lambda: not daemon.on_loop(lambda: of(daemon)))

    def of(daemon: Daemon) -> list[Any]:
        return list(streams[0].readers)

    streams: list[Stream] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint_module, "Stream", lambda *a, **k: streams.append(Stream(*a, **k)) or streams[0])
        live(tmp_path, client)


def test_who_does_not_read_is_dropped_and_told_and_who_reads_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "UNREAD_WITHIN", 0.5)
    monkeypatch.setattr(stream_module, "LAST_WORDS_WITHIN", 2 * PATIENCE)
    monkeypatch.setattr(endpoint_module, "TICK", 0.1)

    def client(daemon: Daemon) -> None:
        good, slow, slow_ws = daemon.sse("types=step"), daemon.sse("types=step"), daemon.ws("types=step")
        # Several times what the systems at both ends hold for them.
        last, got = 0, []
        deadline = time.monotonic() + PATIENCE
        while b'dropped_total{reason="slow"} 2.0' not in daemon.get("/metrics")[1]:
            last = daemon.tell(10, text="x" * 20_000)
            got += good.numbers(last)
            assert time.monotonic() < deadline
        assert list(range(1, last + 1)) == got

        told = slow.rest()
        assert "dropped" == told[-1][0]
        numbers = [event["data"]["number"] for kind, event in told if kind == "step"]
        assert list(range(1, len(numbers) + 1)) == numbers
        assert 0 < len(numbers) < last
        assert told[-2][1]["id"] == slow.last == told[-1][1]["data"]["last_event_id"]
        while (one := slow_ws.event())[0] != "dropped":
            assert "step" == one[0]
        assert ("close", 4001) == ((end := slow_ws.event())[0], end[1][0])

        assert [daemon.tell()] == good.numbers(last + 1)

    live(tmp_path, client)


def test_who_never_reads_its_last_words_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "UNREAD_WITHIN", 0.2)
    monkeypatch.setattr(stream_module, "LAST_WORDS_WITHIN", 0.2)
    monkeypatch.setattr(endpoint_module, "TICK", 0.1)

    def client(daemon: Daemon) -> None:
        daemon.sse()
        deadline = time.monotonic() + PATIENCE
        while b'stream_readers{transport="sse"} 0.0' not in daemon.get("/metrics")[1]:
            daemon.tell(20, text="x" * 20_000)
            time.sleep(0.1)
            assert time.monotonic() < deadline

    live(tmp_path, client)


def test_three_hundred_readers_all_get_everything(tmp_path: Path) -> None:
    def client(daemon: Daemon) -> None:
        readers = [daemon.sse("types=step", **KNOWN) for _ in range(200)]
        sockets = [daemon.ws("types=step", **KNOWN) for _ in range(100)]
        assert b'stream_readers{transport="sse"} 200.0' in daemon.get("/metrics")[1]
        last = 0
        for _ in range(20):
            last = daemon.tell(3)
            assert 200 == daemon.get("/livez")[0]
        for one in (*readers, *sockets):
            assert list(range(1, last + 1)) == one.numbers(last)

    with open_files(4000):
        live(tmp_path, client)


def test_a_thousand_idle_connections_keep_neither_a_probe_nor_a_reader_out(tmp_path: Path) -> None:
    def answered(one: socket.socket) -> bool:
        got = b""
        while not got.endswith(b"ok\n") and (piece := one.recv(65536)):
            got += piece
        return got.endswith(b"ok\n")

    def client(daemon: Daemon) -> None:
        with contextlib.ExitStack() as stack:
            crowd = [
                stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port), timeout=PATIENCE))
                for _ in range(1000)
            ]
            for one in crowd:
                one.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert all(answered(one) for one in crowd)
            sse = daemon.sse("types=step")
            assert [daemon.tell()] == sse.numbers(1)
            assert 200 == daemon.get("/livez")[0]
            daemon.wait(lambda: b"x0tta6bl4_event_loop_lag_seconds " in daemon.get("/metrics")[1])
            for one in crowd:
                one.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert answered(one), "nobody had to make room"

    with open_files(4000):
        live(tmp_path, client)


def test_a_reload_keeps_the_stream_and_what_was_told_meanwhile(tmp_path: Path) -> None:
    def client(daemon: Daemon) -> None:
        sse = daemon.sse()
        for _ in range(3):
            first = daemon.tell(2)
            daemon.reload()
            last = daemon.tell(2)
            assert list(range(first - 1, last + 1)) == sse.numbers(last)

    live(tmp_path, client)


def test_the_end_of_the_daemon_is_the_end_of_the_stream(tmp_path: Path) -> None:
    def client(daemon: Daemon) -> tuple[Sse, WebSocket]:
        daemon.tell()
        return daemon.sse("types=step"), daemon.ws("types=step")

    def after(got: tuple[Sse, WebSocket]) -> None:
        sse, ws = got
        assert [] == sse.rest()
        assert ["the daemon stops"] == sse.comments
        assert ("close", (1001, "the daemon stops")) == ws.event()

    live(tmp_path, client, after)


def test_rubbish_from_a_reader_hurts_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def rubbish() -> Iterator[bytes]:
        chance = random.Random(7)
        for number in range(60):
            size = chance.choice([1, 2, 6, 14, 200, 70_000])
            head = bytes([chance.choice([0x81, 0x88, 0x89, 0x01, 0x80]), 0x80 | chance.randrange(128)])
            yield (head if number % 2 else b"") + chance.randbytes(size)

    def client(daemon: Daemon) -> None:
        for said in rubbish():
            ws = daemon.ws("types=finding", **KNOWN)
            assert 101 == ws.status
            with contextlib.suppress(OSError):  # it may have been shown out before it has said all
                ws.socket.sendall(said)
                ws.socket.shutdown(socket.SHUT_WR)
                while ws.frame()[0]:
                    pass
        sse = daemon.sse("types=step", **KNOWN)
        with contextlib.suppress(ConnectionError):
            sse.socket.sendall(b"\x00" * 100_000)
            assert [] == sse.rest()
        daemon.wait(lambda: b'stream_readers{transport="websocket"} 0.0' in daemon.get("/metrics")[1])
        assert 200 == daemon.get("/health")[0]

    with caplog.at_level("ERROR"):
        live(tmp_path, client)
    assert [] == [record.getMessage() for record in caplog.records]


def test_a_low_limit_of_open_files_is_said_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def client(daemon: Daemon) -> None:
        opened = [daemon.sse(**KNOWN) for _ in range(40)]
        assert {200, 503} == {one.status for one in opened}
        assert 200 == daemon.get("/livez")[0]

    with open_files(endpoint_module.OWN_FILES + 60):
        live(tmp_path, client)
    assert any("limit of open files" in record.getMessage() for record in caplog.records)
