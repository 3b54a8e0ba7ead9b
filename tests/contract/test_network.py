"""What every Network promises, asked of the real one over real sockets, and the short of it of the fake as well."""

import asyncio
import calendar
import contextlib
import errno
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from x0tta6bl4.adapters.network import AsyncNetwork, ReplyParser, certificate_expiry
from x0tta6bl4.ports.network import HttpReply, HttpRequest, Network
from x0tta6bl4.testing.fakes import FOREVER, FakeNetwork

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(
    handler: Handler, host: str = "127.0.0.1", context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    server = await asyncio.start_server(handler, host, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def answering(*parts: bytes, close: bool = True) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            if not close:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass  # The probe has gone, as it may.
        finally:
            writer.close()

    return handle


def asked(handler: Handler, *, host: str = "127.0.0.1", **request: object) -> HttpReply:
    async def ask() -> HttpReply:
        network: Network = AsyncNetwork()
        async with serving(handler, host) as port:
            name = f"[{host}]" if ":" in host else host
            return await network.http(HttpRequest(f"http://{name}:{port}/health?x=1", **request))  # type: ignore[arg-type]  # keywords of a test

    return asyncio.run(ask())


def refused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_an_answer_comes_back_whole() -> None:
    reply = asked(
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Mood: good\r\nX-MOOD: calm\r\n\r\nok\n", close=False)
    )

    assert (reply.status, reply.body, reply.tls_expires_at) == (200, b"ok\n", None)
    assert reply.headers == {"content-length": "3", "x-mood": "good, calm"}
    assert reply.seconds > 0


def test_the_request_says_what_was_asked_for() -> None:
    heard: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heard.append(head + await reader.readexactly(4))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    reply = asked(handle, method="POST", headers={"X-Who": "me", "Host": "shop.example"}, body=b"ping")
    lines = heard[0].decode().split("\r\n")

    assert reply.status == 204
    assert lines[0] == "POST /health?x=1 HTTP/1.1"
    assert {"host: shop.example", "x-who: me", "connection: close", "content-length: 4"} <= set(lines)
    assert lines[-1] == "ping"


def test_a_request_larger_than_the_socket_takes_arrives_whole() -> None:
    body = bytes(range(256)) * 40_000

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        same = await reader.readexactly(len(body)) == body
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + (b"same" if same else b"other"))
        writer.close()

    assert asked(handle, method="PUT", body=body).body == b"same"


@pytest.mark.parametrize(
    ("parts", "status", "body"),
    [
        ((b"HTTP/1.0 500\r\n\r\nbroken",), 500, b"broken"),
        (
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"2;x=y\r\nde\r\n0\r\n\r\n"),
            200,
            b"abcde",
        ),
        ((b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n",), 201, b""),
        ((b"HTTP/1.1 200 OK\nContent-Length: 4\n\n\r\n\r\n",), 200, b"\r\n\r\n"),
        ((b"H", b"TTP/1.1 2", b"00 OK\r", b"\n\r", b"\nab", b"cd"), 200, b"abcd"),
        ((b"HTTP/1.1 304 Not Modified\r\nContent-Length: 900\r\n\r\n",), 304, b""),
    ],
)
def test_every_way_to_end_a_body_is_understood(parts: tuple[bytes, ...], status: int, body: bytes) -> None:
    reply = asked(answering(*parts))

    assert (reply.status, reply.body) == (status, body)


@pytest.mark.parametrize("head", [b"Content-Length: 99999999\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_no_more_than_the_limit_is_read_of_an_endless_body(head: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        with contextlib.suppress(OSError):
            while True:
                writer.write((b"5\r\nxxxxx\r\n" if b"chunked" in head else b"xxxxx") * 100)
                await writer.drain()

    assert asked(handle, body_limit=7).body == b"xxxxxxx"


def test_head_waits_for_no_body() -> None:
    assert asked(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", close=False), method="HEAD").body == b""


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((), "closed the connection without an answer"),
        ((b"SSH-2.0-OpenSSH_9.2\r\n",), r"answered no HTTP: b'SSH-2.0-OpenSSH_9.2"),
        ((b"HTTP/1.1 2OO OK\r\n\r\n",), "answered no HTTP"),
        ((b"HTTP/1.1 200 OK\r\nX-Cut: o",), "in the middle of its headers"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour",), "in the middle of its answer, after 4 bytes"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",), "impossible Content-Length"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",), "impossible Content-Length"),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",), "broken chunk: b'zz"),
        ((b"HTTP/1.1 200 OK\r\n" + b"X-Long: yes\r\n" * 2000,), "more than 16384 bytes of headers"),
    ],
)
def test_what_is_no_answer_is_an_error_that_names_the_address(parts: tuple[bytes, ...], words: str) -> None:
    with pytest.raises(OSError, match=r"^127\.0\.0\.1:\d+ .*" + words):
        asked(answering(*parts))


def test_a_refused_connection_is_an_error_that_names_the_address() -> None:
    port = refused_port()
    for host, shown in (("127.0.0.1", "127.0.0.1"), ("localhost", "localhost")):
        with pytest.raises(ConnectionRefusedError) as caught:
            asyncio.run(AsyncNetwork().http(HttpRequest(f"http://{host}:{port}/")))
        with pytest.raises(ConnectionRefusedError) as by_tcp:
            asyncio.run(AsyncNetwork().tcp(host, port))

        assert str(caught.value) == str(by_tcp.value) == f"{shown}:{port} refused the connection"


def test_a_reset_connection_is_an_error_that_names_the_address() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    with pytest.raises(ConnectionResetError, match=r"^127\.0\.0\.1:\d+ reset the connection$"):
        asked(handle)


def test_ipv6_literals_are_asked() -> None:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")

    assert asked(answering(b"HTTP/1.1 200 OK\r\n\r\n"), host="::1").status == 200


def test_localhost_is_also_asked_by_its_ipv6_address() -> None:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")

    async def ask() -> float:
        async with serving(answering(), "::1") as port:
            return await AsyncNetwork().tcp("localhost", port)

    assert asyncio.run(ask()) > 0


def test_unix_sockets_are_asked(tmp_path: Path) -> None:
    async def ask() -> HttpReply:
        server = await asyncio.start_unix_server(answering(b"HTTP/1.1 200 OK\r\n\r\nhere"), tmp_path / "app.sock")
        try:
            return await AsyncNetwork().http(HttpRequest(f"http+unix://{tmp_path}/app.sock:/route"))
        finally:
            server.close()

    assert asyncio.run(ask()).body == b"here"
    with pytest.raises(OSError, match=r"nobody\.sock cannot be reached: there is no such socket"):
        asyncio.run(AsyncNetwork().http(HttpRequest(f"http+unix://{tmp_path}/nobody.sock:/")))


def test_many_answers_at_once_find_their_questions() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + path)
        writer.close()

    async def ask() -> None:
        network = AsyncNetwork()
        async with serving(handle) as port:
            paths = [f"/{number}" for number in range(80)]
            replies = await asyncio.gather(*(network.http(HttpRequest(f"http://127.0.0.1:{port}{p}")) for p in paths))
        assert [reply.body.decode() for reply in replies] == paths

    asyncio.run(ask())


def test_one_network_serves_one_event_loop_after_another() -> None:
    network = AsyncNetwork()

    async def ask() -> int:
        async with serving(answering(b"HTTP/1.1 200 OK\r\n\r\n")) as port:
            return (await network.http(HttpRequest(f"http://127.0.0.1:{port}/"))).status

    assert [asyncio.run(ask()), asyncio.run(ask())] == [200, 200]


def test_tcp_connects_and_closes() -> None:
    async def connect() -> tuple[float, bytes]:
        came: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            came.set_result(await reader.read())
            writer.close()

        async with serving(handle) as port:
            return await AsyncNetwork().tcp("127.0.0.1", port), await came

    seconds, said = asyncio.run(connect())

    assert seconds > 0
    assert said == b""


def test_a_name_is_looked_up_once_and_forgotten_when_its_address_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    lookups: list[str] = []

    def getaddrinfo(host: str, port: int, *_: object) -> list[object]:
        lookups.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def ask() -> None:
        network = AsyncNetwork()
        async with serving(answering(b"HTTP/1.1 200 OK\r\n\r\n")) as port:
            await asyncio.gather(*(network.http(HttpRequest(f"http://shop.test:{port}/")) for _ in range(5)))
            await network.tcp("shop.test", port)
        assert lookups == ["shop.test"]
        with pytest.raises(ConnectionRefusedError):
            await network.tcp("shop.test", refused_port())
        with pytest.raises(ConnectionRefusedError):
            await network.http(HttpRequest(f"http://shop.test:{refused_port()}/"))

    asyncio.run(ask())

    assert lookups == ["shop.test"] * 2


def test_a_name_that_cannot_be_resolved_is_an_error_that_names_it() -> None:
    with pytest.raises(OSError, match=r"no-such-host\.invalid cannot be resolved"):
        asyncio.run(AsyncNetwork().tcp("no-such-host.invalid", 80))


@pytest.mark.parametrize(
    "request_",
    [
        HttpRequest("ftp://127.0.0.1/"),
        HttpRequest("http://"),
        HttpRequest("http://127.0.0.1:99999/"),
        HttpRequest("http://me:secret@127.0.0.1/"),
        HttpRequest("http://[::1/"),
        HttpRequest("http+unix://app.sock:/"),
        HttpRequest("http://127.0.0.1/", method="GET /evil HTTP/1.1\r\n"),
        HttpRequest("http://127.0.0.1/", headers={"X-A": "b\r\nX-Smuggled: yes"}),
        HttpRequest("http://127.0.0.1/", headers={"X-A": "\N{SNOWMAN}"}),
    ],
)
def test_what_cannot_be_asked_is_an_error_before_anything_is_sent(request_: HttpRequest) -> None:
    with pytest.raises(OSError, match="not a"):
        asyncio.run(AsyncNetwork().http(request_))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cancelling_closes_the_connection_at_once(scheme: str) -> None:
    async def ask() -> bytes:
        connected, closed = asyncio.Event(), asyncio.get_running_loop().create_future()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            connected.set()
            closed.set_result(await reader.read())
            writer.close()

        async with serving(handle) as port:
            async with asyncio.TaskGroup() as group:
                probe = group.create_task(AsyncNetwork().http(HttpRequest(f"{scheme}://127.0.0.1:{port}/")))
                await connected.wait()
                probe.cancel()
            async with asyncio.timeout(30):
                return bytes(await closed)

    assert asyncio.run(ask())


def test_nothing_stays_registered_or_open_after_probes() -> None:
    async def ask() -> None:
        network = AsyncNetwork()
        async with serving(answering(b"HTTP/1.1 200 OK\r\n\r\n")) as port, serving(answering(b"nonsense")) as bad:
            await network.http(HttpRequest(f"http://127.0.0.1:{port}/"))
            before = len(list(Path("/proc/self/fd").iterdir()))
            for _ in range(20):
                await network.http(HttpRequest(f"http://127.0.0.1:{port}/"))
                with pytest.raises(OSError, match="answered no HTTP"):
                    await network.http(HttpRequest(f"http://127.0.0.1:{bad}/"))
                with pytest.raises(OSError, match="refused"):
                    await network.http(HttpRequest(f"http://127.0.0.1:{refused_port()}/"))
            # The server's ends are closed when its handlers have had their turn.
            for _ in range(1000):
                if len(list(Path("/proc/self/fd").iterdir())) <= before:
                    return
                await asyncio.sleep(0)
            raise AssertionError("descriptors are left open")

    asyncio.run(ask())


# --- TLS ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, so there is no certificate to serve")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 -subj /CN=test "
        f"-keyout {key} -out {cert} -addext subjectAltName=IP:127.0.0.1",
        shell=True,
        check=True,
        capture_output=True,
    )
    return key, cert


def asked_over_tls(certificate: tuple[Path, Path], **request: object) -> HttpReply:
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def ask() -> HttpReply:
        async with serving(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"), context=context) as port:
            return await AsyncNetwork().http(HttpRequest(f"https://127.0.0.1:{port}/", **request))  # type: ignore[arg-type]  # keywords of a test

    return asyncio.run(ask())


@pytest.mark.parametrize("verify", [True, False])
def test_a_tls_answer_tells_when_its_certificate_expires(certificate: tuple[Path, Path], verify: bool) -> None:
    reply = asked_over_tls(certificate, verify_tls=verify, ca_file=str(certificate[1]) if verify else None)
    dates = subprocess.run(
        ["openssl", "x509", "-enddate", "-noout", "-in", str(certificate[1])],
        check=True,
        capture_output=True,
        text=True,
    )

    assert (reply.status, reply.body) == (200, b"secret")
    assert reply.tls_expires_at == ssl.cert_time_to_seconds(dates.stdout.strip().removeprefix("notAfter="))


def test_a_certificate_that_nobody_vouches_for_is_an_error(certificate: tuple[Path, Path]) -> None:
    with pytest.raises(OSError, match=r"^127\.0\.0\.1:\d+ has no valid certificate: self.signed"):
        asked_over_tls(certificate)


def test_a_ca_file_that_is_none_is_an_error_that_names_it(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(OSError, match=name):
            asked_over_tls(certificate, ca_file=str(tmp_path / name))


def test_a_server_without_tls_is_an_error_over_tls() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def ask() -> None:
        async with serving(plain) as port:
            await AsyncNetwork().http(HttpRequest(f"https://127.0.0.1:{port}/", verify_tls=False))

    with pytest.raises(OSError, match=r"(?i)^127\.0\.0\.1:\d+ failed: .*(wrong.version|record)"):
        asyncio.run(ask())


def der(tag: int, *values: bytes) -> bytes:
    value = b"".join(values)
    size = len(value)
    length = bytes([size]) if size < 0x80 else bytes([0x82]) + size.to_bytes(2)
    return bytes([tag]) + length + value


def certificate_until(not_after: bytes, *, version: bool = True, padding: int = 3) -> bytes:
    names = der(0x30, b"\x05\x00" * padding)
    validity = der(0x30, der(0x17, b"200101000000Z"), not_after)
    first = der(0xA0, der(0x02, b"\x02")) if version else b""
    return der(0x30, der(0x30, first, der(0x02, b"\x07"), names, names, validity, names), names, der(0x03, b"\0"))


@given(st.datetimes(min_value=datetime(1950, 1, 1)), st.booleans(), st.integers(0, 200))
def test_the_expiry_of_any_certificate_is_read(when: datetime, version: bool, padding: int) -> None:
    text = f"{when.year:04}{when.month:02}{when.day:02}{when.hour:02}{when.minute:02}{when.second:02}Z"
    short = when.year < 2050
    value = der(0x17, text[2:].encode()) if short else der(0x18, text.encode())

    assert certificate_expiry(certificate_until(value, version=version, padding=padding)) == calendar.timegm(
        when.timetuple()
    )


@given(st.binary(max_size=200), st.integers(0, 200))
def test_a_mangled_certificate_is_an_oserror_and_nothing_else(noise: bytes, cut: int) -> None:
    whole = certificate_until(der(0x17, b"300101000000Z"))
    for data in (noise, whole[:cut], whole[:cut] + noise):
        with contextlib.suppress(OSError):
            certificate_expiry(data)


# --- the parser ---

PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"HTTP/1.1 200 OK\r\n",
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.1 204\r\n",
                b"Content-Length: 5\r\n",
                b"content-length: 99\n",
                b"Transfer-Encoding: chunked\r\n",
                b": nameless\r\n",
                b"\r\n",
                b"\n",
                b"hello",
                b"5\r\nhello\r\n",
                b"0\r\n\r\n",
                b"ffffffffffffffff\r\n",
            ]
        ),
        st.binary(max_size=20),
    ),
    max_size=12,
).map(b"".join)


def parsed(data: bytes, cuts: list[int], *, head_only: bool, limit: int) -> object:
    """The reply, or the words of the error."""
    parser = ReplyParser("here:80", head_only, limit)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    try:
        for begin, end in pairwise(edges):
            parser.feed(data[begin:end])
        parser.end()
    except OSError as error:
        assert str(error).startswith("here:80 ")
        return "error"
    assert parser.done
    return parser.status, parser.headers, bytes(parser.body)


@given(PIECES, st.lists(st.integers(0, 400), max_size=8), st.booleans(), st.integers(0, 30))
@example(
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", [50, 54, 55, 56, 60], False, 30
)
def test_no_bytes_hang_the_parser_and_how_they_are_cut_changes_nothing(
    data: bytes, cuts: list[int], head_only: bool, limit: int
) -> None:
    assert parsed(data, cuts, head_only=head_only, limit=limit) == parsed(data, [], head_only=head_only, limit=limit)


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), min_size=1, max_size=20), st.lists(st.integers(0, 600)))
def test_a_chunked_body_is_put_together_however_it_was_cut(body: bytes, sizes: list[int], cuts: list[int]) -> None:
    chunks, rest = [], body
    for size in sizes:
        if rest:
            chunks.append(b"%x\r\n%s\r\n" % (len(rest[:size]), rest[:size]))
            rest = rest[size:]
    if rest:
        chunks.append(b"%X\r\n%s\r\n" % (len(rest), rest))
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\nX-Trailer: x\r\n\r\n"

    assert parsed(data, cuts, head_only=False, limit=1000) == (200, {"transfer-encoding": "chunked"}, body)


@given(st.binary(min_size=1, max_size=200), st.data())
def test_an_answer_cut_off_before_its_promised_end_is_never_taken_for_whole(body: bytes, data: st.DataObject) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    cut = data.draw(st.integers(0, len(whole) - 1))

    assert parsed(whole[:cut], [], head_only=False, limit=1000) == "error"
    assert parsed(whole, [cut], head_only=False, limit=1000) == (200, {"content-length": str(len(body))}, body)


# --- promises that the fake keeps too ---


class Bench(Protocol):
    """Makes the world do for either implementation what a test needs. One service listens."""

    subject: Network
    port: int
    closed_port: int
    """Nobody listens there."""

    def answer(
        self,
        path: str,
        status: int = 200,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = 0.0,
    ) -> str:
        """The URL that is answered so."""
        ...

    def break_off(self, path: str) -> str:
        """The URL at which an answer is begun and not ended."""
        ...

    @property
    def asked(self) -> int:
        """How many requests came."""
        ...

    def close(self) -> None: ...


class FakeBench:
    port = 8080
    closed_port = 8081

    def __init__(self) -> None:
        self.fake = FakeNetwork()
        self.fake.answer(f"127.0.0.1:{self.port}")
        self.subject: Network = self.fake

    def answer(
        self,
        path: str,
        status: int = 200,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = 0.0,
    ) -> str:
        url = f"http://127.0.0.1:{self.port}{path}"
        self.fake.answer(url, status, body, headers=headers, seconds=seconds)
        return url

    def break_off(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.port}{path}"
        self.fake.fail(url, OSError(f"127.0.0.1:{self.port} closed the connection in the middle of its answer"))
        return url

    @property
    def asked(self) -> int:
        return len(self.fake.requests)

    def close(self) -> None:
        pass


class Service(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.answers: dict[str, tuple[bytes, bytes, float]] = {}
        self.asked = 0
        self.is_over = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.005,))
        self._thread.start()

    def close(self) -> None:
        self.is_over.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class Conversation(socketserver.StreamRequestHandler):
    server: Service

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            words = self.rfile.readline().decode().split()
            if not words:
                return  # It only wanted to see whether somebody is there.
            while self.rfile.readline().strip():
                pass
            self.server.asked += 1
            head, body, seconds = self.server.answers[words[1]]
            if seconds:
                self.server.is_over.wait(None if seconds == FOREVER else seconds)
            self.wfile.write(head if words[0] == "HEAD" else head + body)


class RealBench:
    def __init__(self) -> None:
        self.service = Service()
        self.port = self.service.server_address[1]
        self.taken = socket.socket()
        self.taken.bind(("127.0.0.1", 0))  # Bound and not listening: nobody else can begin to listen there meanwhile.
        self.closed_port = int(self.taken.getsockname()[1])
        self.subject: Network = AsyncNetwork()

    def answer(
        self,
        path: str,
        status: int = 200,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = 0.0,
    ) -> str:
        fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"HTTP/1.1 {status} So\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode()
        self.service.answers[path] = (head, body, seconds)
        return f"http://127.0.0.1:{self.port}{path}"

    def break_off(self, path: str) -> str:
        self.service.answers[path] = (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", b"four", 0.0)
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def asked(self) -> int:
        return self.service.asked

    def close(self) -> None:
        self.taken.close()
        self.service.close()


Scenario = Callable[[Bench], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=[RealBench, FakeBench], ids=["sockets", "fake"])
def play(request: pytest.FixtureRequest) -> Iterator[Play]:
    bench = request.param()
    yield lambda scenario: asyncio.run(scenario(bench))
    bench.close()


def test_either_brings_the_whole_answer_with_names_in_lower_case(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        url = bench.answer("/work", 200, b"done", headers={"X-Mood": "Good", "RETRY-AFTER": "3"})
        reply = await bench.subject.http(HttpRequest(url))

        assert (reply.status, reply.body, reply.tls_expires_at) == (200, b"done", None)
        assert {"x-mood": "Good", "retry-after": "3"}.items() <= reply.headers.items()
        assert reply.headers == {name.lower(): value for name, value in reply.headers.items()}
        assert reply.seconds >= 0

    play(scenario)


@pytest.mark.parametrize(("limit", "body"), [(0, b""), (3, b"don"), (4, b"done"), (100, b"done")])
def test_either_brings_no_more_of_a_body_than_was_asked_for(play: Play, limit: int, body: bytes) -> None:
    async def scenario(bench: Bench) -> None:
        url = bench.answer("/work", body=b"done")

        assert (await bench.subject.http(HttpRequest(url, body_limit=limit))).body == body
        assert (await bench.subject.http(HttpRequest(url, method="HEAD", body_limit=limit))).body == b""

    play(scenario)


def test_either_asks_anew_each_time_and_goes_where_it_was_sent_only(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.answer("/new")
        old = bench.answer("/old", 302, headers={"Location": f"http://127.0.0.1:{bench.port}/new"})
        seen = [(await bench.subject.http(HttpRequest(old))).status for _ in range(2)]
        bench.answer("/old", 503, b"broken")
        reply = await bench.subject.http(HttpRequest(old))

        assert seen == [302, 302]
        assert (reply.status, reply.body) == (503, b"broken"), "a bad answer is an answer"
        assert bench.asked == 3

    play(scenario)


def test_either_finds_nobody_where_nobody_listens(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        questions: list[Awaitable[object]] = [
            bench.subject.http(HttpRequest(f"http://127.0.0.1:{bench.closed_port}/")),
            bench.subject.tcp("127.0.0.1", bench.closed_port),
        ]
        for question in questions:
            with pytest.raises(ConnectionRefusedError, match="refused the connection") as caught:
                await question
            assert caught.value.errno == errno.ECONNREFUSED
        assert await bench.subject.tcp("127.0.0.1", bench.port) >= 0

    play(scenario)


def test_either_takes_what_is_cut_off_for_no_answer(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        with pytest.raises(OSError, match="in the middle of its answer"):
            await bench.subject.http(HttpRequest(bench.break_off("/work")))

    play(scenario)


def test_either_measures_the_time_to_the_end_of_the_answer(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        reply = await bench.subject.http(HttpRequest(bench.answer("/slow", seconds=0.02)))

        assert reply.seconds >= 0.0199

    play(scenario)


def test_either_waits_as_long_as_the_caller_does_and_no_longer(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        silent, fine = bench.answer("/silent", seconds=FOREVER), bench.answer("/fine", body=b"x")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await bench.subject.http(HttpRequest(silent))
        waiting = asyncio.ensure_future(bench.subject.http(HttpRequest(silent)))
        replies = await asyncio.gather(*(bench.subject.http(HttpRequest(fine)) for _ in range(5)))
        was_waiting = not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

        assert was_waiting
        assert [reply.body for reply in replies] == [b"x"] * 5

    play(scenario)
