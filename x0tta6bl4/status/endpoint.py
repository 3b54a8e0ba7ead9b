"""Opens the daemon's HTTP endpoint, bounds what its clients can cost, and closes it; healing never waits for it."""

import asyncio
import errno
import ipaddress
import logging
import resource
import socket
from collections.abc import Callable, Collection, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from x0tta6bl4.kernel.watching import until_next
from x0tta6bl4.status.app import StatusApp
from x0tta6bl4.status.desk import Behind, EndpointSettings
from x0tta6bl4.status.face import Face
from x0tta6bl4.status.gauges import derive_gauges
from x0tta6bl4.status.problems import GUARDING, Raw, Refusal
from x0tta6bl4.status.report import CpuUse, Listening
from x0tta6bl4.status.stream import HAND_OVER, READERS, Stream
from x0tta6bl4.status.tls import HANDSHAKE_WITHIN, Certificate

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

log = logging.getLogger("x0tta6bl4.status.endpoint")

TICK = 1.0
"""Seconds between looks at the connections. Each wakes an idle daemon, so one is for all that is periodic here."""
REQUEST_WITHIN = 10.0
"""Seconds for a request to arrive in full, from its first byte, or from the connection's opening."""
UNREAD_WITHIN = 20.0
"""Seconds for a client to read its answer."""
KEEP_ALIVE = 20
"""Seconds that an idle connection stays open: longer than the usual pause between two scrapes."""
HEAD_LIMIT = 16 * 1024
HEADERS = 100
MESSAGE_LIMIT = 8 * 1024 * 1024
"""Bytes of one request. A body over its own limit is refused in words and read to here, or the words get lost."""
CONNECTIONS = 1024
"""On one port, at once; readers of the stream are not among them."""
OWN_FILES = 256
"""Open files that the daemon itself may need: probes, pipes of what it runs, the journal. Clients get none of these."""
BACKLOG = 512
ACCEPTED_TOGETHER = 16
"""Connections taken in one go; a crowd at the door must not keep a heal waiting."""
AHEAD = 16
"""Requests that one client may have sent before the first of them is answered; each waits in memory."""
CLOSE_WITHIN = 0.5
"""Seconds that answers under way get when the endpoint closes."""


class _Connection(HttpToolsProtocol):
    """One client. Bounds what uvicorn leaves open: how large and how slow a request may be, and how many there are."""

    arriving_since: float | None = None
    """When the request began of which not all is there; None while it is answered, and between requests."""
    stuck_since: float | None = None
    arrived = 0
    is_in_head = True
    trailing_from: int | None = None
    """After how many bytes the head of a chunk was there whose body has not begun: behind the last one, for good."""
    refusal: Refusal | None = None
    answering: "RequestResponseCycle | None" = None
    """The request that is being answered; ``cycle`` may be one that came after it already."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn types it
        super().connection_made(transport)
        self.offers: dict[str, Any] = {HAND_OVER: self.hand_over}
        self.arriving_since = self.loop.time()
        if len(self.connections) > self.app_state["room"]:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.offers.clear()  # or this would keep itself alive

    def _make_room(self) -> None:
        """Who has waited longest for nothing goes; when all are being answered, who came last."""
        idle = [c for c in cast("set[_Connection]", self.connections) if c is not self and not c.is_answered]
        least = min(idle, key=lambda c: c.arriving_since or 0.0, default=self)
        self.connections.discard(least)
        least.transport.abort()

    @property
    def is_answered(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        if self.arriving_since is None:
            self.arriving_since, self.arrived, self.is_in_head = self.loop.time(), 0, True
        self.arrived += len(data)
        super().data_received(data)
        if self.arriving_since is None or self.transport.is_closing():
            return
        if self.is_in_head and self.arrived > HEAD_LIMIT:
            self.refuse(_too_large())
        elif self.arrived > MESSAGE_LIMIT or self._has_long_trailers():
            self.transport.abort()

    def _has_long_trailers(self) -> bool:
        return self.trailing_from is not None and self.arrived - self.trailing_from > HEAD_LIMIT

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = self.offers
        if self.arriving_since is None:  # the next one of several in one packet
            self.arriving_since, self.arrived = self.loop.time(), 0
        self.is_in_head, self.trailing_from = True, None

    def on_header(self, name: bytes, value: bytes) -> None:
        # What comes behind a body must not pass for a header: the proxy before us has not looked at it.
        if self.is_in_head:
            super().on_header(name, value)

    def on_chunk_header(self) -> None:
        self.trailing_from = self.arrived

    def on_body(self, body: bytes) -> None:
        self.trailing_from = None
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self.is_in_head = False
        if len(self.headers) > HEADERS or (
            self.arrived > HEAD_LIMIT and len(self.url) + sum(len(n) + len(v) for n, v in self.headers) > HEAD_LIMIT
        ):
            self.refusal = _too_large()
            raise self.refusal  # the parser stops, and uvicorn asks for the answer to a bad request
        if len(self.pipeline) >= AHEAD:
            self.refusal = Refusal(429, "TOO_FAR_AHEAD", f"more than {AHEAD} requests wait on this connection")
            raise self.refusal
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: "RequestResponseCycle", app: "ASGI3Application") -> None:
        self.answering = cycle
        super()._start_asgi_task(cycle, app)

    def hand_over(self, status: int, headers: Iterable[Raw], to: asyncio.Protocol) -> asyncio.Transport | None:
        """Writes the head of an answer and leaves the connection to another protocol; None: the client has gone.

        What the client sent ahead, before it could know of the other protocol, is forgotten.
        """
        assert self.answering is not None, "who calls is answering a request"
        self.answering.response_started = self.answering.response_complete = True
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        self.offers.clear()
        self.pipeline.clear()
        if self.transport.is_closing():
            return None
        self.server_state.total_requests += 1
        self.transport.write(_head(status, (*self.server_state.default_headers, *headers)))
        self.transport.set_protocol(to)
        self.flow.resume_reading()
        return self.transport

    def on_message_complete(self) -> None:
        self.arriving_since = None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what the parser does not take."""
        self.refuse(self.refusal or Refusal(400, "MALFORMED_REQUEST", "this is not a request in HTTP/1.1"))

    def refuse(self, refusal: Refusal) -> None:
        """The last words on this connection, where no application could say them."""
        if not self.is_answered and not self.transport.is_closing():
            request_id = self.new_id()
            body = refusal.body("/", request_id)
            headers = [
                *self.server_state.default_headers,
                *GUARDING,
                (b"content-type", b"application/problem+json"),
                (b"content-length", b"%d" % len(body)),
                (b"cache-control", b"no-store"),
                (b"x-request-id", request_id.encode("ascii")),
                (b"connection", b"close"),
            ]
            self.transport.write(_head(refusal.status, headers) + body)
        self.transport.close()

    def new_id(self) -> str:
        app = self.config.app
        assert isinstance(app, StatusApp), "what _Server was built with"
        return app.new_id()

    def look(self, now: float) -> None:
        """Ends what takes too long. One look a second for all costs less than a timer for each request."""
        if self.arriving_since is not None and now - self.arriving_since > REQUEST_WITHIN:
            if self.is_answered or not self.arrived:
                self.transport.abort()
                return
            self.refuse(Refusal(408, "REQUEST_TIMEOUT", f"the request took longer than {REQUEST_WITHIN:g} s to arrive"))
        if not (self.transport.is_closing() or self.transport.get_write_buffer_size()):
            self.stuck_since = None
        elif self.stuck_since is None:
            self.stuck_since = now
        elif now - self.stuck_since > UNREAD_WITHIN:
            self.transport.abort()


def _head(status: int, headers: Iterable[Raw]) -> bytes:
    lines = [b"%s: %s\r\n" % header for header in headers]
    return b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, HTTPStatus(status).phrase.encode("ascii"), b"".join(lines))


def _too_large() -> Refusal:
    return Refusal(431, "HEADERS_TOO_LARGE", f"the head of a request may have {HEAD_LIMIT} bytes and {HEADERS} headers")


class _Arrival(asyncio.Protocol):
    """A client that has not agreed yet on how HTTPS is spoken; it is counted, for it costs as much as every other."""

    def __init__(self, app_state: dict[str, Any], **rest: Any) -> None:
        """As uvicorn makes its own; all of it is for the connection that this becomes."""
        self._certificate: Certificate = app_state["certificate"]
        self._arrivals: dict[_Arrival, asyncio.Task[None]] = app_state["arrivals"]
        self._becomes = _Connection(app_state=app_state, **rest)
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream's always is
        self.transport = transport
        transport.pause_reading()  # or its first words would come here, before anybody can decipher them
        self._arrivals[self] = asyncio.get_running_loop().create_task(self._agree(transport), name="handshake")
        if len(self._arrivals) + len(self._becomes.connections) > self._becomes.app_state["room"]:
            next(iter(self._arrivals)).transport.abort()  # who has taken longest

    def data_received(self, data: bytes) -> None:
        """What the client asked in one breath with its last words of the handshake."""
        self._early.append(data)

    async def _agree(self, transport: asyncio.Transport) -> None:
        context, becomes = self._certificate.context, self._becomes
        try:
            agreed = await asyncio.get_running_loop().start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=HANDSHAKE_WITHIN
            )
        except OSError:
            return  # it speaks something else, or nothing
        finally:
            del self._arrivals[self]
        if agreed is None or agreed.is_closing():
            transport.abort()
            return
        agreed.set_protocol(becomes)
        becomes.connection_made(agreed)
        for data in self._early:
            becomes.data_received(data)


class _Server(uvicorn.Server):
    """uvicorn's server, driven from here: it neither touches signals nor wakes ten times a second nor exits."""

    def __init__(
        self, app: StatusApp, sockets: Collection[socket.socket], room: int, certificate: Certificate | None
    ) -> None:
        """``room``: for so many connections at once."""
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=_Connection,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                backlog=ACCEPTED_TOGETHER,
            )
        )
        self.room = room
        self.certificate = certificate
        self.sockets = list(sockets)
        self.servers: list[asyncio.Server] = []
        self.arrivals: dict[_Arrival, asyncio.Task[None]] = {}
        """With HTTPS, those that are no clients yet; who has taken longest stands first."""

    @property
    def connected(self) -> int:
        return len(self.clients) + len(self.arrivals)

    @property
    def clients(self) -> "set[_Connection]":
        return cast("set[_Connection]", self.server_state.connections)

    async def begin(self) -> None:
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        self.lifespan.state["room"] = self.room
        if self.certificate is not None:
            # Left to uvicorn, whoever does not speak would be counted nowhere, for a minute.
            self.lifespan.state |= {"certificate": self.certificate, "arrivals": self.arrivals}
            self.config.http_protocol_class = _Arrival
        await self.on_tick(0)
        await self.startup(self.sockets)
        for listening in self.sockets:
            listening.listen(BACKLOG)  # it was told the other number, which is also that of those waiting

    async def look(self) -> None:
        await self.on_tick(0)  # the Date header
        now = asyncio.get_running_loop().time()
        for client in list(self.clients):
            client.look(now)

    async def end(self) -> None:
        """Answers under way are finished if that is soon; nobody who does not read or write can delay it."""
        for server in self.servers:
            server.close()
        for listening in self.sockets:
            listening.close()
        for arrival in list(self.arrivals):
            arrival.transport.abort()
        for client in list(self.clients):
            client.shutdown()
        tasks = {*self.server_state.tasks, *self.arrivals.values()}
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=CLOSE_WITHIN)
        for client in list(self.clients):
            client.transport.abort()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_WITHIN / 2)


async def serve(face: Face, settings: EndpointSettings, behind: Behind, told: Callable[[str, str], None]) -> None:
    """Answers until cancelled. ``told`` hears once: the address, or why there is none, and then this returns."""
    try:
        sockets = await _bind(settings.host, settings.port)
    except OSError as error:
        told("", _why(error, settings.host, settings.port, "PORT or status.port"))
        return
    certificate = behind.certificate
    cpu, listening = CpuUse(), Listening(_url(settings.host, sockets[0], certificate is not None))
    room, readers = _room(2 if settings.prometheus_port is not None else 1)
    stream = Stream(face.metrics, readers=readers)
    app = StatusApp(
        face,
        settings,
        behind,
        connections=lambda: sum(s.connected for s in servers) + len(stream.readers),
        listening=listening,
        cpu=cpu,
        stream=stream,
    )
    servers = [_Server(app, sockets, room, certificate)]
    try:
        if settings.metrics_enabled and settings.prometheus_port is not None:
            servers += await _second_port(face, settings, behind, settings.prometheus_port, listening, room)
        port_trouble = listening.trouble
        stream.follow(face.loop.parts.bus)
        derive_gauges(face)
        for server in servers:
            await server.begin()
        log.info("the endpoint is open", extra={"address": listening.address, "metrics": listening.metrics or None})
        told(listening.address, "")
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.run(), name="stream")
            while True:
                await _tick(face)
                cpu.tick()
                stream.follow(face.loop.parts.bus)
                now = asyncio.get_running_loop().time()
                stream.tick(now)
                app.streaming.tick(now)
                for key in behind.keys.look():
                    stream.dismiss(key, "the key was changed")
                if certificate is not None:
                    certificate.look()
                    listening.trouble = certificate.trouble or port_trouble
                    if certificate.expires is not None:
                        face.metrics.set("x0tta6bl4_tls_certificate_expiry_timestamp_seconds", certificate.expires)
                for server in servers:
                    await server.look()
    finally:
        await asyncio.gather(app.desk.close(), stream.end(), *(server.end() for server in servers))


async def _tick(face: Face) -> None:
    """Until the clock's next multiple; how late it comes is what everything in this event loop has to wait."""
    now = asyncio.get_running_loop().time()
    pause = until_next(TICK, now)
    await asyncio.sleep(pause)
    late = asyncio.get_running_loop().time() - now - pause
    face.metrics.set("x0tta6bl4_event_loop_lag_seconds", max(0.0, late))


def _room(ports: int) -> tuple[int, int]:
    """How many connections on each port and how many readers of the stream there can be at once.

    Without a file left, no probe could be made and nothing be started: clients are turned away long before.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS * ports + READERS
    if limit == resource.RLIM_INFINITY or limit - OWN_FILES >= wanted:
        return CONNECTIONS, READERS
    share = max(limit - OWN_FILES, 32) / wanted
    room, readers = max(8, int(CONNECTIONS * share)), int(READERS * share)
    log.warning(
        "the limit of open files is too low for all clients that the endpoint could serve; "
        "raise it (LimitNOFILE= in the unit, `ulimit -n` in a shell)",
        extra={"limit": limit, "needed": wanted + OWN_FILES, "connections": room, "streams": readers},
    )
    return room, readers


async def _second_port(
    face: Face, settings: EndpointSettings, behind: Behind, port: int, listening: Listening, room: int
) -> list[_Server]:
    try:
        sockets = await _bind(settings.host, port)
    except OSError as error:
        # The same numbers are on the first port, so this is no reason to close that one.
        listening.trouble = _why(error, settings.host, port, "PROMETHEUS_PORT or status.prometheus_port")
        log.error(
            "the port for metrics cannot be opened; they are on the other one", extra={"reason": listening.trouble}
        )
        return []
    certificate = behind.certificate
    listening.metrics = _url(settings.host, sockets[0], certificate is not None) + "metrics"
    return [_Server(StatusApp(face, settings, behind, only=["/metrics"]), sockets, room, certificate)]


async def _bind(host: str, port: int) -> list[socket.socket]:
    """One listening socket for each address of that name; they share the port also when any free one will do."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        place = (address[0], sockets[0].getsockname()[1] if sockets else port, *address[2:])
        opened: socket.socket | None = None
        try:
            opened = socket.socket(family, kind, protocol)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
            opened.bind(place)
            opened.listen(BACKLOG)
            opened.setblocking(False)
        except OSError as error:
            if opened is not None:
                opened.close()
            # A name may have an address of a family that this host does not speak.
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                failure = error
                continue
            for other in sockets:
                other.close()
            raise
        sockets.append(opened)
    if not sockets:
        raise failure or OSError(errno.EADDRNOTAVAIL, "it has no address")
    return sockets


def _why(error: OSError, host: str, port: int, setting: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; set {setting}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} on {host} is not for this user; set {setting} to one above 1023"
    return f"port {port} on {host} cannot be opened: {error.strerror or error}; set HOST or status.host"


def _url(host: str, opened: socket.socket, is_secure: bool) -> str:
    """Where a person on this host can go; a wildcard address is no place to go to."""
    address, port = opened.getsockname()[:2]
    scheme = "https" if is_secure else "http"
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return f"{scheme}://{host}:{port}/"
    if parsed.is_unspecified:
        address = "127.0.0.1" if parsed.version == 4 else "::1"
    return f"{scheme}://[{address}]:{port}/" if ":" in address else f"{scheme}://{address}:{port}/"
