"""Asks a service one question over a raw socket, cheaply enough to do it twenty times a second all day long."""

import asyncio
import calendar
import errno
import ipaddress
import os
import re
import select
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic, strptime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from x0tta6bl4.ports.network import HttpReply, HttpRequest

if TYPE_CHECKING:
    import ssl

_HEADERS_LIMIT = 16 * 1024
_CHUNK = 65536
_REMEMBER = 30.0
"""Seconds a resolved name is used without asking again; a refused connection forgets it at once."""
_MOST_TARGETS = 1024
_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_LITERAL_SAFE = "!#$%&'()*+,/:;=?@[]~"

# The words after the number may be missing.
_STATUS = re.compile(r"HTTP/1\.[0-9] ([1-9][0-9]{2})(?![^ \r])")

_Address = tuple[socket.AddressFamily, Any]
_WORDS: Mapping[int, str] = {
    errno.ECONNREFUSED: "refused the connection",
    errno.ECONNRESET: "reset the connection",
    errno.EPIPE: "closed the connection before the request was sent",
    errno.EHOSTUNREACH: "cannot be reached: no route to it, or it is down",
    errno.ENETUNREACH: "cannot be reached: no network leads there",
    errno.ETIMEDOUT: "did not answer the kernel's tries to connect",
    errno.EAGAIN: "takes no more connections",
    errno.ENOENT: "cannot be reached: there is no such socket",
    errno.EACCES: "cannot be reached: permission denied",
}


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL taken apart."""

    where: str
    host: str
    port: int
    path: str
    tls: bool
    host_header: str
    fixed: tuple[_Address, ...]
    """Where to connect when no name has to be looked up."""
    plain_get: bytes
    """The whole request for a GET without more headers, which is nearly every probe."""


class AsyncNetwork:
    """Tries the addresses of a name one after another: one that swallows packets uses up the caller's time."""

    def __init__(self) -> None:
        self._targets: dict[str, _Target] = {}
        self._names: dict[str, tuple[float, tuple[_Address, ...]]] = {}
        self._lookups: dict[tuple[str, int], asyncio.Future[Any]] = {}
        self._contexts: dict[tuple[bool, str | None, int], ssl.SSLContext] = {}
        self._answers: _Answers | None = None

    async def http(self, request: HttpRequest) -> HttpReply:
        target = self._targets.get(request.url)
        if target is None:
            target = self._remember(request.url)
        question = (
            target.plain_get
            if request.method == "GET" and not request.headers and not request.body
            else _question(target, request)
        )
        parser = ReplyParser(target.where, request.method == "HEAD", request.body_limit)
        if target.tls:
            return await self._https(target, request, question, parser)
        addresses = target.fixed or await self._resolve(target.host, target.port)
        loop = asyncio.get_running_loop()
        started = monotonic()
        if len(addresses) == 1:
            try:
                sock = _begin(addresses[0])
            except OSError as error:
                raise _explained(error, target.where) from None
        else:
            sock = await self._connect(target, addresses)
        fd = sock.fileno()
        try:
            sent = 0
            while sent < len(question):
                try:
                    # On loopback the handshake is over by now; waiting to be told so costs a turn of the event loop.
                    sent += sock.send(question[sent:])
                except BlockingIOError:
                    await _wait_writable(loop, fd)
            answer: asyncio.Future[float] = loop.create_future()
            answers = self._answers
            if answers is None or answers.loop is not loop:
                answers = self._answers = _Answers(loop)
            answers.expect(fd, (sock, parser, answer))
            try:
                ended = await answer
            finally:
                answers.forget(fd)
        except OSError as error:
            self._names.pop(target.host, None)
            raise _explained(error, target.where) from None
        finally:
            sock.close()
        return HttpReply(parser.status, parser.headers, bytes(parser.body), ended - started, None)

    async def tcp(self, host: str, port: int) -> float:
        where = _where(host, port)
        target = _Target(where, host, port, "", False, "", _fixed(host, port), b"")
        addresses = target.fixed or await self._resolve(host, port)
        started = monotonic()
        sock = await self._connect(target, addresses)
        ended = monotonic()
        sock.close()
        return ended - started

    async def _connect(self, target: _Target, addresses: tuple[_Address, ...]) -> socket.socket:
        """A connected socket."""
        first: OSError | None = None
        for address in addresses:
            sock = None
            try:
                sock = _begin(address)
                if not _is_connected(sock):
                    await _wait_writable(asyncio.get_running_loop(), sock.fileno())
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code:
                        raise OSError(code, os.strerror(code))
            except OSError as error:
                if sock is not None:
                    sock.close()
                first = first or _explained(error, target.where)
            except BaseException:  # cancellation: the socket goes with it
                if sock is not None:
                    sock.close()
                raise
            else:
                return sock
        self._names.pop(target.host, None)
        assert first is not None
        raise first

    def _remember(self, url: str) -> _Target:
        if len(self._targets) >= _MOST_TARGETS:
            self._targets.clear()
        target = self._targets[url] = _parse(url)
        return target

    async def _resolve(self, host: str, port: int) -> tuple[_Address, ...]:
        now = monotonic()
        known = self._names.get(host)
        if known is not None and known[0] > now:
            return tuple((family, (address[0], port, *address[2:])) for family, address in known[1])
        lookup = self._lookups.get((host, port))
        if lookup is None:
            # A resolver that hangs keeps its thread; one per name, however often the probe is repeated meanwhile.
            loop = asyncio.get_running_loop()
            lookup = loop.run_in_executor(None, socket.getaddrinfo, host, port, 0, socket.SOCK_STREAM)
            self._lookups[host, port] = lookup
            lookup.add_done_callback(lambda done: self._on_lookup(host, port, done))
        try:
            found = await asyncio.shield(lookup)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise OSError(f"{host} cannot be resolved: {reason}") from error
        addresses = tuple(dict.fromkeys((family, address) for family, _, _, _, address in found))
        if len(self._names) >= _MOST_TARGETS:
            self._names.clear()
        self._names[host] = (monotonic() + _REMEMBER, addresses)
        return addresses

    def _on_lookup(self, host: str, port: int, lookup: asyncio.Future[Any]) -> None:
        if self._lookups.get((host, port)) is lookup:
            del self._lookups[host, port]
        if not lookup.cancelled():
            lookup.exception()  # Told to whoever still waits; nobody may.

    async def _https(self, target: _Target, request: HttpRequest, question: bytes, parser: "ReplyParser") -> HttpReply:
        context = await self._context(request)
        addresses = target.fixed or await self._resolve(target.host, target.port)
        loop = asyncio.get_running_loop()
        started = monotonic()
        plain = await self._connect(target, addresses)
        try:
            sock = context.wrap_socket(plain, do_handshake_on_connect=False, server_hostname=target.host)
        except (OSError, ValueError) as error:
            plain.close()
            raise OSError(f"{target.where} cannot be asked over TLS: {error}") from error
        try:
            await _whenever_ready(loop, sock, sock.do_handshake)
            certificate = sock.getpeercert(binary_form=True)
            rest = memoryview(question)
            while rest:
                rest = rest[await _whenever_ready(loop, sock, sock.send, rest) :]
            while not parser.done:
                data = await _whenever_ready(loop, sock, sock.recv, _CHUNK)
                if data:
                    parser.feed(data)
                else:
                    parser.end()
        except OSError as error:
            raise _explained(error, target.where) from error
        finally:
            sock.close()
        expires = None if certificate is None else certificate_expiry(certificate)
        return HttpReply(parser.status, parser.headers, bytes(parser.body), monotonic() - started, expires)

    async def _context(self, request: HttpRequest) -> "ssl.SSLContext":
        # The file's time is part of the key: a renewed authority is taken up without a restart.
        try:
            stamp = 0 if request.ca_file is None else os.stat(request.ca_file).st_mtime_ns
        except OSError as error:
            raise OSError(f"the CA file {request.ca_file} cannot be read: {error.strerror}") from error
        key = (request.verify_tls, request.ca_file, stamp)
        context = self._contexts.get(key)
        if context is None:
            # Reading the system's authorities takes tens of milliseconds.
            context = await asyncio.to_thread(_new_context, request.verify_tls, request.ca_file)
            if len(self._contexts) >= 32:
                self._contexts.clear()
            self._contexts[key] = context
        return context


def _begin(address: _Address) -> socket.socket:
    """A socket that is connected or about to be."""
    sock = socket.socket(address[0], _STREAM)
    try:
        code = sock.connect_ex(address[1])
        if code and code != errno.EINPROGRESS:
            raise OSError(code, os.strerror(code))
    except (ValueError, OverflowError) as error:
        sock.close()
        raise OSError(f"cannot be asked: {error}") from error
    except OSError:
        sock.close()
        raise
    return sock


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


_Waiting = tuple[socket.socket, "ReplyParser", "asyncio.Future[float]"]


class _Answers:
    """All sockets that wait for an answer, in one epoll set that the event loop watches as a single descriptor.

    Registering each socket with the event loop itself took about a tenth of the CPU time of a probe.
    It lives as long as its loop, which holds on to it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._epoll = select.epoll()
        self._waiting: dict[int, _Waiting] = {}
        loop.add_reader(self._epoll.fileno(), self._on_ready)

    def expect(self, fd: int, waiting: _Waiting) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._waiting[fd] = waiting

    def forget(self, fd: int) -> None:
        """To be followed by the socket's close, which takes it out of the set."""
        del self._waiting[fd]

    def _on_ready(self) -> None:
        for fd, _ in self._epoll.poll(0, 64):
            waiting = self._waiting.get(fd)
            if waiting is not None:
                _on_readable(*waiting)


def _on_readable(sock: socket.socket, parser: "ReplyParser", answer: "asyncio.Future[float]") -> None:
    if answer.done():
        return
    try:
        data = sock.recv(_CHUNK)
        if data:
            parser.feed(data)
        else:
            parser.end()
    except BlockingIOError:
        return
    except OSError as error:
        answer.set_exception(error)
        return
    if parser.done:
        answer.set_result(monotonic())


async def _wait_writable(loop: asyncio.AbstractEventLoop, fd: int) -> None:
    await _wait(loop.add_writer, loop.remove_writer, loop, fd)


async def _wait(
    add: Callable[..., None], remove: Callable[[int], bool], loop: asyncio.AbstractEventLoop, fd: int
) -> None:
    ready: asyncio.Future[None] = loop.create_future()
    add(fd, _settle, ready)
    try:
        await ready
    finally:
        remove(fd)


def _settle(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


async def _whenever_ready(
    loop: asyncio.AbstractEventLoop, sock: "ssl.SSLSocket", call: Callable[..., Any], *args: Any
) -> Any:
    import ssl

    while True:
        try:
            return call(*args)
        except ssl.SSLWantReadError:
            await _wait(loop.add_reader, loop.remove_reader, loop, sock.fileno())
        except ssl.SSLWantWriteError:
            await _wait(loop.add_writer, loop.remove_writer, loop, sock.fileno())


def _new_context(verify: bool, ca_file: str | None) -> "ssl.SSLContext":
    import ssl

    if verify:
        try:
            return ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise OSError(f"the CA file {ca_file} cannot be used: {error}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _explained(error: OSError, where: str) -> OSError:
    """The same error in words that name the address."""
    if isinstance(error, _Answered):
        return error
    # What is not a builtin comes from the ssl module, whose numbers are not the system's.
    is_plain = type(error).__module__ == "builtins"
    distrust = getattr(error, "verify_message", "")
    words = _WORDS.get(error.errno or 0, "") if is_plain else distrust and f"has no valid certificate: {distrust}"
    told = (type(error) if is_plain else OSError)(f"{where} {words or f'failed: {error.strerror or error}'}")
    told.errno = error.errno if is_plain else None
    return told


class _Answered(OSError):
    """It took the connection, and what came back was no valid answer."""


class ReplyParser:
    """Reads one HTTP/1.x answer as it comes in; OSError as soon as it cannot become a valid one any more."""

    __slots__ = ("_buffer", "_chunked", "_head_only", "_left", "_limit", "_where", "body", "done", "headers", "status")

    def __init__(self, where: str, head_only: bool, body_limit: int) -> None:
        self._where = where
        self._head_only = head_only
        self._limit = body_limit
        self._buffer = b""
        self._chunked = False
        self._left: int | None = None
        """Bytes still to come of the body, or of the chunk; None: until the connection is closed."""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.done = False

    def feed(self, data: bytes) -> None:
        if self.done:
            return
        if self.status == 0:
            self._buffer = data = self._buffer + data if self._buffer else data
            data = self._read_head(data)
            if self.status == 0 or self.done:
                return
        if self._chunked:
            self._read_chunks(data)
        else:
            self._read_plain(data)

    def end(self) -> None:
        """The other side has closed the connection."""
        if self.done:
            return
        if self.status == 0:
            if not self._buffer:
                raise _Answered(f"{self._where} closed the connection without an answer")
            raise _Answered(f"{self._where} closed the connection in the middle of its headers: {self._buffer[:60]!r}")
        if self._chunked or self._left is not None:
            raise _Answered(
                f"{self._where} closed the connection in the middle of its answer, after {len(self.body)} bytes"
            )
        self.done = True

    def _read_head(self, data: bytes) -> bytes:
        """What follows the headers of the final answer. While they are incomplete, the status stays 0."""
        while True:
            if not data.startswith(b"HTTP/1.") and not b"HTTP/1.".startswith(data[:7]):
                raise _Answered(f"{self._where} answered no HTTP: {data[:60]!r}")
            end = data.find(b"\r\n\r\n", 0, _HEADERS_LIMIT)
            skip = 4
            # Two bare line feeds end the headers of hand-made servers; the standard asks us to be so kind.
            bare = data.find(b"\n\n", 0, end if end >= 0 else _HEADERS_LIMIT)
            if bare >= 0:
                end, skip = bare, 2
            if end < 0:
                if len(data) >= _HEADERS_LIMIT:
                    raise _Answered(f"{self._where} answered with more than {_HEADERS_LIMIT} bytes of headers")
                self._buffer = data
                return b""
            lines = data[:end].decode("latin-1").split("\n")
            status = self._status(lines[0])
            data = data[end + skip :]
            if 100 <= status < 200 and status != 101:
                continue  # An interim answer; the real one follows.
            self._buffer = b""
            self.status = status
            self._read_headers(lines)
            return data

    def _status(self, line: str) -> int:
        match = _STATUS.match(line)
        if match is not None:
            return int(match[1])
        raise _Answered(f"{self._where} answered no HTTP: {line[:60].encode('latin-1')!r}")

    def _read_headers(self, lines: list[str]) -> None:
        headers = self.headers
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            name = name.strip().lower()
            if not colon or not name:
                continue
            value = value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if self._head_only or self.status in (101, 204, 304) or self._limit <= 0:
            self.done = True
        elif "chunked" in headers.get("transfer-encoding", "").lower():
            self._chunked = True
            self._left = 0
        elif (length := headers.get("content-length")) is not None:
            first, _, more = length.partition(",")
            if not (first.isascii() and first.isdecimal()) or len(first) > 18 or more.strip() not in ("", first):
                raise _Answered(f"{self._where} answered with an impossible Content-Length: {length[:60]!r}")
            self._left = int(first)
            self.done = self._left == 0

    def _read_plain(self, data: bytes) -> None:
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        self._take(data)
        if self._left == 0:
            self.done = True

    def _read_chunks(self, data: bytes) -> None:
        assert self._left is not None
        data = self._buffer + data
        while data and not self.done:
            if self._left > 0:
                part = data[: self._left]
                self._take(part)
                self._left -= len(part)
                data = data[len(part) :]
                continue
            # A size line, and before it the line end of the chunk before.
            line, newline, rest = data.lstrip(b"\r\n").partition(b"\n") if self.body else data.partition(b"\n")
            if not newline:
                if len(data) > 256:
                    raise _Answered(f"{self._where} answered with a broken chunk: {data[:60]!r}")
                break
            size = line.split(b";")[0].strip()
            if not 0 < len(size) <= 16 or size.strip(b"0123456789abcdefABCDEF"):
                raise _Answered(f"{self._where} answered with a broken chunk: {line[:60]!r}")
            self._left = int(size, 16)
            # After the last chunk only trailers can follow, which say nothing a probe asks for.
            self.done = self._left == 0
            data = rest
        self._buffer = data

    def _take(self, data: bytes) -> None:
        self.body += data[: self._limit - len(self.body)]
        if len(self.body) >= self._limit:
            self.done = True


def _where(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _fixed(host: str, port: int) -> tuple[_Address, ...]:
    if host == "localhost":
        return ((socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port)))
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ()
    if address.version == 4:
        return ((socket.AF_INET, (host, port)),)
    # A scope such as %eth0 must be turned into a number, which getaddrinfo knows how to do.
    return () if address.scope_id else ((socket.AF_INET6, (host, port)),)


def _parse(url: str) -> _Target:
    if url.startswith("http+unix://"):
        file, colon, route = url[len("http+unix://") :].partition(":/")
        if not file.startswith("/"):
            raise OSError(f"not a URL to ask: {url!r} must name an absolute path, as http+unix:///run/app.sock:/route")
        path = quote("/" + route if colon else "/", safe=_LITERAL_SAFE)
        fixed: tuple[_Address, ...] = ((socket.AF_UNIX, file),)
        return _Target(file, file, 0, path, False, "localhost", fixed, _head("GET", path, "localhost", {}, b""))
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
        name = f"[{host}]" if ":" in host else host if host.isascii() else host.encode("idna").decode()
    except ValueError as error:
        raise OSError(f"not a URL to ask: {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc:
        raise OSError(f"not a URL to ask: {url!r} must be http://HOST[:PORT]/PATH or https://…, without a user")
    tls = parts.scheme == "https"
    usual = 443 if tls else 80
    port = usual if port is None else port
    path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_LITERAL_SAFE)
    host_header = name if port == usual else f"{name}:{port}"
    where = _where(host, port)
    return _Target(
        where, host, port, path, tls, host_header, _fixed(host, port), _head("GET", path, host_header, {}, b"")
    )


def _question(target: _Target, request: HttpRequest) -> bytes:
    return _head(request.method, target.path, target.host_header, request.headers, request.body)


def _head(method: str, path: str, host: str, headers: Mapping[str, str], body: bytes) -> bytes:
    if not (method.isascii() and method.isalpha()):
        raise OSError(f"not an HTTP method: {method!r}")
    fields = {"host": host, "user-agent": "x0tta6bl4", "accept": "*/*"}
    fields.update((name.lower(), value) for name, value in headers.items())
    fields["connection"] = "close"
    if body or method in ("POST", "PUT", "PATCH"):
        fields["content-length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    for line in lines:
        if "\n" in line or "\r" in line or "\0" in line:
            raise OSError(f"not a header that can be sent: {line!r}")
    try:
        return "\r\n".join(lines).encode("latin-1") + body
    except UnicodeEncodeError as error:
        raise OSError(f"not a header that can be sent: {error.object[error.start : error.end]!r} in it") from error


def certificate_expiry(certificate: bytes) -> float:
    """The end of the validity of an X.509 certificate in DER, as wall-clock seconds. OSError when it is none.

    Read by hand because the ssl module takes apart only what it has verified, and an expired certificate never is.
    """
    try:
        _, at, _ = _der(certificate, 0)  # Certificate
        _, at, _ = _der(certificate, at)  # TBSCertificate
        tag, _, after = _der(certificate, at)
        if tag == 0xA0:  # version, absent in the oldest kind
            at = after
        for _ in range(3):  # serial number, signature algorithm, issuer
            _, _, at = _der(certificate, at)
        _, at, _ = _der(certificate, at)  # validity
        _, _, at = _der(certificate, at)  # not before
        tag, begin, end = _der(certificate, at)  # not after
        text = certificate[begin:end].decode("ascii")
        if tag == 0x17:  # two digits for the year: 50 and later is the last century
            text = ("19" if text[:2] >= "50" else "20") + text
        elif tag != 0x18:
            raise ValueError(f"tag {tag} is no time")
        return float(calendar.timegm(strptime(text, "%Y%m%d%H%M%SZ")))
    except (ValueError, IndexError) as error:
        raise OSError(f"the server's certificate cannot be read: {error}") from error


def _der(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, begin and end of the value that starts there."""
    tag, length, begin = data[at], data[at + 1], at + 2
    if length >= 0x80:
        count = length & 0x7F
        if not 0 < count <= 4:
            raise ValueError(f"a length of {count} bytes")
        length = int.from_bytes(data[begin : begin + count])
        begin += count
    if begin + length > len(data):
        raise ValueError("it is cut off")
    return tag, begin, begin + length
