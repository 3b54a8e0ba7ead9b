"""The endpoint on real sockets: it opens, bears rude clients, and closes when it is told to."""

import asyncio
import contextlib
import http.client
import io
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
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
from x0tta6bl4.status.access import Access
from x0tta6bl4.status.desk import Behind
from x0tta6bl4.status.endpoint import serve
from x0tta6bl4.status.face import Condition
from x0tta6bl4.testing.memory_database import MemoryDatabase

PATIENCE = 30.0
"""How long something that must happen may take on a busy machine; nobody waits for it when all is well."""


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
        self.health = HealthChecker({"database": lambda: {"status": "ok"}})
        self.token = "the-operators-token"
        self.may_reload = asyncio.Event()
        self.is_reloading = asyncio.Event()

    def conditions(self) -> Sequence[Condition]:
        return []

    def describe(self) -> Mapping[str, Any]:
        return {}

    async def reload(self) -> Sequence[str]:
        self.is_reloading.set()
        await self.may_reload.wait()
        return []

    async def set_flag(self, name: str, value: bool, who: str) -> None:
        self.loop.parts.flags.set(name, value)


class Reply(io.BytesIO):
    """An answer that was read to its end."""

    def __init__(self, status: int, headers: Message, body: bytes) -> None:
        super().__init__(body)
        self.status = status
        self.headers = headers


class Opened:
    """A daemon's loop and endpoint that run, seen from a client's thread."""

    def __init__(self, address: str, face: Face, running: asyncio.AbstractEventLoop) -> None:
        self.address = address
        self.face = face
        self.port = int(address.rstrip("/").rpartition(":")[2])
        self._running = running

    def on_loop(self, work: Callable[[], Any]) -> Any:
        async def worked() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(worked(), self._running).result(PATIENCE)

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def get(self, path: str) -> "Reply":
        with contextlib.closing(self.connection()) as connection:
            connection.request("GET", path)
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())

    @contextlib.contextmanager
    def socket(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as opened:
            yield opened

    def say(self, sent: bytes) -> bytes:
        """Everything that comes back until the daemon closes the connection or the client has no more to say."""
        with self.socket() as opened:
            opened.sendall(sent)
            opened.shutdown(socket.SHUT_WR)
            return everything(opened)


def everything(opened: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := opened.recv(65536):
            got += piece
    return got


def live(folder: Path, client: Callable[[Opened], None], subjects: int = 1, **settings: Any) -> None:
    """Runs loop and endpoint, and the client in a thread; all of it is closed afterwards."""

    async def lived() -> None:
        async with AsyncExitStack() as stack:
            database = await SqliteDatabase.open(folder / "knowledge.db", migrations())
            stack.push_async_callback(database.close)
            clock, metrics = SystemClock(), Metrics("9.8.7", strict=True)
            loop = MAPEK(
                Parts(
                    clock=clock,
                    knowledge=SqliteKnowledge("store", Config(), database, clock),
                    planner=Runbooks("runbook", RunbookConfig()),
                    instances=[Instance(Eyes(), 0.5, 5.0)],
                    analyzers=[Judge()],
                    sight=Sight({f"web-{number}": Subject(f"web-{number}") for number in range(subjects)}),
                    meter=metrics,
                )
            )
            face = Face(loop, metrics)
            access = Access(database, loop.parts.knowledge.audit, clock, lambda: b"k" * 32)
            behind = Behind(database, access)
            told: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
            asked = StatusSettings(**{"port": 0, "rate_limit_per_minute": 10_000, **settings})
            async with asyncio.TaskGroup() as group:
                turning = group.create_task(loop.start())
                serving = group.create_task(
                    serve(face, asked, behind, lambda where, why: told.set_result((where, why)))
                )
                address, trouble = await told
                assert "" == trouble
                await loop.first_turn.wait()
                try:
                    await asyncio.to_thread(client, Opened(address, face, asyncio.get_running_loop()))
                finally:
                    serving.cancel()
                    loop.stop()
            assert turning.done()
            assert serving.cancelled()

    asyncio.run(asyncio.wait_for(lived(), 2 * PATIENCE))


def test_it_answers_on_any_free_port_and_says_where(tmp_path: Path) -> None:
    def client(opened: Opened) -> None:
        assert f"http://127.0.0.1:{opened.port}/" == opened.address
        assert "healthy" == json.load(opened.get("/health"))["status"]
        assert b"ok\n" == opened.get("/readyz").read()
        told = json.load(opened.get("/status"))
        assert ("running", opened.address) == (told["loop"]["status"], told["listening"]["address"])
        assert opened.get("/livez").headers["date"].endswith("GMT")
        assert opened.get("/livez").headers["server"] is None

    live(tmp_path, client)


def test_many_requests_share_a_connection_and_a_head_has_no_body(tmp_path: Path) -> None:
    def client(opened: Opened) -> None:
        connection = opened.connection()
        connection.connect()
        first = connection.sock
        lengths = {}
        for method, path in (
            ("GET", "/health"),
            ("HEAD", "/health"),
            ("OPTIONS", "/health"),
            ("GET", "/nix"),
            ("POST", "/health"),
            ("HEAD", "/status"),
            ("GET", "/metrics"),
            ("GET", "/livez"),
        ):
            connection.request(method, path, body=b"{}" if method == "POST" else None)
            reply = connection.getresponse()
            body = reply.read()
            lengths[method, path] = (len(body), reply.headers["content-length"])
        assert first is connection.sock
        assert lengths["GET", "/health"][1] == str(lengths["GET", "/health"][0]) == lengths["HEAD", "/health"][1]
        assert (0, True) == (lengths["HEAD", "/status"][0], int(lengths["HEAD", "/status"][1]) > 100)
        deadline = time.monotonic() + PATIENCE
        while json.load(opened.get("/status"))["connections"] != 2:  # that one, and the one that asks
            assert time.monotonic() < deadline
        connection.close()

    live(tmp_path, client)


def test_requests_sent_ahead_are_answered_in_their_order(tmp_path: Path) -> None:
    def client(opened: Opened) -> None:
        paths = [b"/livez", b"/status", b"/nix", b"/metrics", b"/livez"]
        sent = b"".join(
            b"GET %s HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: r%d\r\n\r\n" % (path, number)
            for number, path in enumerate(paths)
        )
        with opened.socket() as ahead:
            ahead.sendall(sent)
            got = b""
            while got.count(b"HTTP/1.1 ") < 5 or not got.endswith(b"ok\n"):
                got += ahead.recv(65536)
        places = [got.index(b"x-request-id: r%d" % number) for number in range(5)]
        assert sorted(places) == places

    live(tmp_path, client)


HELLO = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
MALFORMED = [
    b"\x00\x01\x02\x03\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET\r\n\r\n",
    b"GET /livez\r\n\r\n",
    b"GET /livez HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"get /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /li vez HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /livez HTTP/1.1\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    HELLO + b"no colon\r\n\r\n",
    HELLO + b"bad name: x\r\n\r\n",
    HELLO + b"A: b\x00c\r\n\r\n",
    HELLO + b"Content-Length: -1\r\n\r\n",
    HELLO + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    HELLO + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    HELLO + b"Content-Length: 99999999999999999999999999\r\n\r\n",
    b"POST /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@pytest.mark.parametrize("sent", MALFORMED)
def test_what_is_no_request_is_the_clients_mistake_and_hurts_nobody(tmp_path: Path, sent: bytes) -> None:
    def client(opened: Opened) -> None:
        reply = opened.say(sent)

        # Either no answer at all, because there was never a whole request, or one that blames the client.
        for line in reply.split(b"\r\n"):
            if line.startswith(b"HTTP/"):
                assert line.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200" if sent.startswith(b"POST") else b"HTTP/1.1 4"))
        if b"HTTP/1.1 400" in reply:
            head, _, body = reply.partition(b"\r\n\r\n")
            assert b"content-type: application/problem+json" in head
            assert b"x-frame-options: DENY" in head
            assert 400 == json.loads(body)["status"]
        assert 200 == opened.get("/livez").status

    live(tmp_path, client)


def test_old_clients_without_a_host_and_clients_that_offer_another_protocol_are_answered(tmp_path: Path) -> None:
    def client(opened: Opened) -> None:
        assert opened.say(b"GET /livez HTTP/1.0\r\n\r\n").endswith(b"ok\n")
        for offer in (b"h2c", b"websocket"):
            with opened.socket() as upgrading:
                upgrading.sendall(HELLO + b"Connection: Upgrade\r\nUpgrade: " + offer + b"\r\n\r\n")
                reply = everything(upgrading)  # the daemon closes: what would come next is no HTTP/1.1 for its parser
            assert reply.startswith(b"HTTP/1.1 200")
            assert b"connection: close" in reply

    live(tmp_path, client)


@pytest.mark.parametrize(
    "headers",
    [
        b"A: " + b"x" * 40_000 + b"\r\n",
        b"".join(b"A%d: x\r\n" % number for number in range(200)),
        b"A: " + b"x" * 400_000,
    ],
)
def test_a_head_without_measure_is_refused(tmp_path: Path, headers: bytes) -> None:
    def client(opened: Opened) -> None:
        with opened.socket() as wordy:
            with contextlib.suppress(ConnectionError):
                wordy.sendall(HELLO + headers + b"\r\n")
            reply = everything(wordy)
        # What it sent beyond the limit may have reset the connection before it could read the words.
        assert reply[:12] in (b"HTTP/1.1 431", b"")
        assert b"ok\n" not in reply
        assert 200 == opened.get("/livez").status

    live(tmp_path, client)


def test_a_body_without_measure_is_refused_in_words_and_the_connection_goes_on(tmp_path: Path) -> None:
    def client(opened: Opened) -> None:
        connection = opened.connection()
        given = {"Authorization": "Bearer the-operators-token", "Content-Type": "application/json"}
        for body in (b" " * 1_000_000, iter([b" " * 50_000] * 20)):
            is_chunked = not isinstance(body, bytes)
            connection.request("POST", "/api/v1/config/features", body, given, encode_chunked=is_chunked)
            reply = connection.getresponse()
            assert (413, "BODY_TOO_LARGE") == (reply.status, json.load(reply)["error"]["code"])
        connection.request("POST", "/api/v1/config/features", b'{"auto_healing": false}', given)
        assert False is json.load(connection.getresponse())["auto_healing"]
        connection.close()

    live(tmp_path, client)


def test_slow_clients_keep_nobody_waiting_and_are_shown_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def client(opened: Opened) -> None:
        with Crowd() as slow:
            silent = slow.open(opened.port, b"")
            head = [slow.open(opened.port, HELLO + b"X-%d: " % number) for number in range(20)]
            body = slow.open(opened.port, b"POST /api/v1/config/features HTTP/1.1\r\nHost: localhost\r\n"
                             b"Authorization: Bearer the-operators-token\r\nContent-Type: application/json\r\n"
                             b"Content-Length: 100\r\n\r\n{")  # fmt: skip
            between = slow.open(opened.port, HELLO + b"\r\n")
            while not between.recv(65536).endswith(b"ok\n"):
                pass
            between.sendall(b"\r\n")  # the beginning of nothing

            assert 200 == opened.get("/health").status
            monkeypatch.setattr(endpoint_module, "REQUEST_WITHIN", 0.1)
            assert b"" == everything(silent)
            for one in head:
                assert everything(one).startswith(b"HTTP/1.1 408")
            assert b"" == everything(body)
            assert everything(between).startswith(b"HTTP/1.1 408")

    monkeypatch.setattr(endpoint_module, "TICK", 0.02)
    live(tmp_path, client)


def test_who_never_reads_is_shown_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def client(opened: Opened) -> None:
        with Crowd() as slow:
            # Ten answers of a megabyte and more: they fill every buffer between here and there.
            slow.open(opened.port, (HELLO + b"\r\n").replace(b"/livez", b"/status") * 10)
            deadline = time.monotonic() + PATIENCE
            while not opened.on_loop(is_full):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            monkeypatch.setattr(endpoint_module, "UNREAD_WITHIN", 0.1)
            while opened.on_loop(lambda: made[0] in made[0].connections):
                assert time.monotonic() < deadline
                time.sleep(0.02)

    made: list[Any] = []

    class Watched(endpoint_module._Connection):
        """Lets the test look at the daemon's side of the connection."""

        def connection_made(self, transport: Any) -> None:
            made.append(self)
            super().connection_made(transport)

    def is_full() -> bool:
        return bool(made) and made[0].transport.get_write_buffer_size() > 0

    monkeypatch.setattr(endpoint_module, "_Connection", Watched)
    monkeypatch.setattr(endpoint_module, "TICK", 0.02)
    live(tmp_path, client, subjects=4000)


def test_who_sends_far_ahead_of_the_answers_is_cut_off(tmp_path: Path) -> None:
    def client(opened: Opened) -> None:
        with opened.socket() as hasty:
            with contextlib.suppress(ConnectionError):
                hasty.sendall((HELLO + b"\r\n") * 5000)
            reply = everything(hasty)
        assert reply.count(b"HTTP/1.1 200") < 5000
        assert 200 == opened.get("/livez").status

    live(tmp_path, client)


def test_idle_connections_make_room_for_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def client(opened: Opened) -> None:
        with Crowd() as crowd:
            for _ in range(30):
                crowd.open(opened.port, HELLO)
            assert 200 == (reply := opened.get("/status")).status
            assert json.load(reply)["connections"] <= 10

    monkeypatch.setattr(endpoint_module, "CONNECTIONS", 10)
    live(tmp_path, client)


class Crowd:
    """Clients that stay."""

    def __enter__(self) -> "Crowd":
        self._opened: list[socket.socket] = []
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._opened:
            one.close()

    def open(self, port: int, sent: bytes) -> socket.socket:
        one = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        one.sendall(sent)
        self._opened.append(one)
        return one


def test_it_closes_at_once_whoever_is_still_connected(tmp_path: Path) -> None:
    stay = Crowd()

    def client(opened: Opened) -> None:
        stay.open(opened.port, b"")
        stay.open(opened.port, HELLO)
        stay.open(opened.port, HELLO + b"\r\n")
        stay.open(opened.port, b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\n"
                  b"Authorization: Bearer the-operators-token\r\n\r\n")  # fmt: skip
        asyncio.run_coroutine_threadsafe(opened.face.is_reloading.wait(), opened._running).result(PATIENCE)
        # The reload never ends: it waits for what nobody sets.

    with stay:
        live(tmp_path, client)
        assert [b"", b"", True, b""] == [
            got if number != 2 else got.endswith(b"ok\n") for number, got in enumerate(map(everything, stay._opened))
        ]


async def _audited(who: str, what: str, data: Mapping[str, Any]) -> int:
    raise AssertionError("nobody did anything")


def test_a_port_that_is_taken_is_told_and_the_daemon_goes_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        told: list[tuple[str, str]] = []

        async def tried(**settings: Any) -> None:
            loop = MAPEK(Parts(clock=SystemClock(), knowledge=None, planner=Runbooks("r", RunbookConfig())))  # type: ignore[arg-type]  # never asked
            face, database = Face(loop, Metrics("9.8.7")), MemoryDatabase(migrations())
            access = Access(database, _audited, SystemClock(), lambda: b"k" * 32)
            asked = StatusSettings(**settings)
            await serve(face, asked, Behind(database, access), lambda where, why: told.append((where, why)))

        asyncio.run(tried(port=port))
        asyncio.run(tried(port=port, host="localhost"))
        asyncio.run(tried(port=0, host="192.0.2.1"))
        assert ("", f"port {port} on 127.0.0.1 is in use; set PORT or status.port") == told[0]
        assert ("", f"port {port} on localhost is in use; set PORT or status.port") == told[1]
        assert "HOST or status.host" in told[2][1]


def test_the_second_port_has_metrics_and_nothing_else(tmp_path: Path) -> None:
    def client(opened: Opened) -> None:
        told = json.load(opened.get("/status"))["listening"]
        second = http.client.HTTPConnection(told["metrics"].split("/")[2], timeout=PATIENCE)
        answers = {}
        for path in ("/metrics", "/status", "/-/reload", "/"):
            second.request("GET", path)
            reply = second.getresponse()
            answers[path] = (reply.status, b"x0tta6bl4_build_info" in reply.read())
        second.close()
        nothing = (404, False)
        assert {"/metrics": (200, True), "/status": nothing, "/-/reload": nothing, "/": nothing} == answers
        assert 200 == opened.get("/metrics").status

    live(tmp_path, client, prometheus_port=0)


def test_a_second_port_that_is_taken_leaves_the_first_one_open(tmp_path: Path) -> None:
    def client(opened: Opened) -> None:
        told = json.load(opened.get("/status"))["listening"]
        assert ("", True) == (told["metrics"], "set PROMETHEUS_PORT or status.prometheus_port" in told["trouble"])

    with socket.create_server(("127.0.0.1", 0)) as holder:
        live(tmp_path, client, prometheus_port=holder.getsockname()[1])


def test_a_name_with_two_addresses_is_served_on_both_with_one_port(tmp_path: Path) -> None:
    def client(opened: Opened) -> None:
        addresses = {info[4][0] for info in socket.getaddrinfo("localhost", opened.port, type=socket.SOCK_STREAM)}
        assert f"http://localhost:{opened.port}/" == opened.address
        reached = set()
        for address in addresses:
            with contextlib.suppress(OSError), socket.create_connection((str(address), opened.port), PATIENCE) as one:
                one.sendall(HELLO + b"Connection: close\r\n\r\n")
                reached.add(everything(one)[:12])
        assert {b"HTTP/1.1 200"} == reached

    live(tmp_path, client, host="localhost")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this host has no IPv6")
def test_every_address_means_those_of_both_kinds(tmp_path: Path) -> None:
    def client(opened: Opened) -> None:
        assert f"http://[::1]:{opened.port}/" == opened.address
        assert 200 == opened.get("/livez").status  # asked by IPv4

    live(tmp_path, client, host="::")


def test_signals_stay_the_daemons_own(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def client(opened: Opened) -> None:
        assert 200 == opened.get("/livez").status
        assert signal.getsignal(signal.SIGTERM) == before[1]

    live(tmp_path, client)
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
