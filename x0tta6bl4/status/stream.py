"""Hands the daemon's events on to whoever reads them, as Server-Sent Events or by WebSocket; healing never waits.

One ring of events for all, each written out once; a reader is a place in it and a connection. What a reader does not
take stays in the ring until it takes it or is dropped, so none costs more than another, and none delays another.
"""

import asyncio
import json
import logging
import random
import secrets
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from x0tta6bl4.kernel.bus import EventBus, Subscription
from x0tta6bl4.kernel.events import Event, EventType
from x0tta6bl4.kernel.lifecycle import State
from x0tta6bl4.kernel.supervise import Failure, guarded, guarded_call
from x0tta6bl4.ports.meter import Meter
from x0tta6bl4.status.problems import Raw, Refusal
from x0tta6bl4.status.websocket import (
    CLOSE,
    GOING_AWAY,
    PING,
    POLICY,
    PONG,
    TALK,
    TEXT,
    Broken,
    Frames,
    accepted,
    closing,
    frame,
)

log = logging.getLogger("x0tta6bl4.status.stream")

PREFIX = "x0tta6bl4."
GAP, DROPPED = "gap", "dropped"
"""Events of the stream itself: some were missed, so the state must be read anew; and: this reader was too slow."""
TYPES = (*(kind.value for kind in EventType), GAP, DROPPED)

READERS = 600
PER_CLIENT = 20
"""Readers at one address without a key: a person's tabs and scripts. Who shows a key or signed in may have them all."""
KEPT = 1000
"""Events that a reader can come back to. An incident makes about ten of them."""
KEPT_BYTES = 1024 * 1024
EVENT_BYTES = 32 * 1024
"""A larger event is told without its long parts."""
PIECE = 16 * 1024
"""Bytes written to one reader at a time: with the system's own buffer all that an idle reader can hold on to."""
SYSTEM_BUFFER = 64 * 1024
PACE = 0.075
"""Seconds from an event to its handing on, together with all that came meanwhile: a heal is mostly over by then."""
GROUP, REST = 16, 0.003
"""After so many readers the daemon has so many seconds for itself: at worst a tenth of its time goes to readers."""
WRITTEN_AT_ONCE = 32
"""Events turned into text before others have their turn."""
HEARTBEAT = 30.0
PONG_WITHIN = 20.0
"""Seconds after a ping in which a WebSocket's reader must have sent something."""
UNREAD_WITHIN = 20.0
"""Seconds for a reader to take what was written to it."""
LAST_WORDS_WITHIN = 10.0
"""Seconds for a dropped reader to take its last words."""
END_WITHIN = 0.5
HEARD_BYTES = 4096
"""Of what a reader of Server-Sent Events may say, which is nothing."""
DEAD_AFTER_MS = 60_000
"""Milliseconds for the peer's system to acknowledge what was sent: a host that lost its power says no goodbye."""
RETRY_MS = (2000, 5000)
"""When to come back; each reader is told a time of its own, or all would come at once."""
TRY_AGAIN = 10
"""Seconds, for who finds no place."""
SUBJECTS = 50
ID_LENGTH = 200
TOO_SLOW, NO_PONG = 4001, 4002
SUBPROTOCOL = b"cloudevents.json"
"""What the WebSocket binding of CloudEvents calls one event in a text frame."""

HAND_OVER = "x0tta6bl4.hand_over"
"""Key in the extensions of an ASGI scope, where the endpoint's connection offers to become another protocol's."""
HandOver = Callable[[int, Iterable[Raw], asyncio.Protocol], asyncio.Transport | None]
"""Writes the head of an answer and leaves the connection to the protocol; None: the client has gone."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader asked for; None: all there are. What the stream says about itself reaches everybody."""

    types: frozenset[str] | None = None
    subjects: frozenset[str] | None = None

    def takes(self, news: "_News") -> bool:
        return news.kind == GAP or (
            (self.types is None or news.kind in self.types) and (self.subjects is None or news.subject in self.subjects)
        )


def wanted_in(query: QueryParams) -> Wanted:
    names = [name.strip().removeprefix(PREFIX) for part in query.getlist("types") for name in part.split(",")]
    types = frozenset(filter(None, names))
    if unknown := sorted(types.difference(TYPES)):
        raise Refusal(
            422,
            "UNKNOWN_TYPES",
            "no events are called " + ", ".join(ascii(name[:50]) for name in unknown[:10]),
            details={"unknown": [name[:50] for name in unknown[:10]]},
            suggestions=["there are: " + ", ".join(TYPES)],
        )
    subjects = frozenset(filter(None, query.getlist("subject")))
    if len(subjects) > SUBJECTS:
        raise Refusal(
            422,
            "TOO_MANY_SUBJECTS",
            f"{len(subjects)} subjects are named; at most {SUBJECTS} can be",
            suggestions=["leave subject out and choose among the events"],
        )
    return Wanted(types or None, subjects or None)


class _News:
    """One event in the ring. ``event`` until it is written out, then ``text``: the CloudEvent as one line of JSON."""

    __slots__ = ("event", "id", "kind", "subject", "text")

    def __init__(self, id: str, kind: str, subject: str, event: Event | None, text: bytes = b"") -> None:
        self.id = id
        self.kind = kind
        self.subject = subject
        self.event = event
        self.text = text


class Reader(asyncio.Protocol):
    """One who reads: a connection that has left HTTP, and the place in the ring up to which it has everything."""

    transport_name: ClassVar[str] = "sse"

    __slots__ = (
        "beat",
        "cursor",
        "ending_since",
        "heard",
        "is_full",
        "stream",
        "stuck_since",
        "transport",
        "wanted",
        "who",
    )

    def __init__(self, stream: "Stream", wanted: Wanted, who: str) -> None:
        self.stream = stream
        self.wanted = wanted
        self.who = who
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set as soon as there is one
        self.cursor = 0
        self.beat = 0
        """The last of the stream's heartbeats that it has."""
        self.is_full = False
        """Not all of what was written to it has left the daemon; nothing is added until it has."""
        self.stuck_since = 0.0
        self.ending_since: float | None = None
        self.heard = 0

    # -- what it is told; another way of reading has other words

    @staticmethod
    def words(news: _News) -> bytes:
        return b"id: %b\nevent: %b%b\ndata: %b\n\n" % (
            news.id.encode("ascii"),
            PREFIX.encode("ascii"),
            news.kind.encode("ascii"),
            news.text,
        )

    def greeting(self, position: str | None) -> bytes:
        """``position``: the id it would come back with, had it been here before."""
        retry = b"retry: %d\n" % random.randint(*RETRY_MS)
        return retry + (b"id: %b\n\n" % position.encode("ascii") if position is not None else b"\n")

    def heartbeat(self, position: str) -> bytes:
        # The id is for those whose filter has let nothing through: they come back to where they were.
        return b": heartbeat\nid: %b\n\n" % position.encode("ascii")

    def last_words(self, news: _News | None, code: int, reason: str) -> bytes:
        if news is None:
            return b": %b\n\n" % reason.encode("ascii", "replace")
        # Without an id: it shall come back with that of the last event that it was sent.
        return self.words(news).partition(b"\n")[2]

    # -- what its connection tells

    def data_received(self, data: bytes) -> None:
        self.heard += len(data)
        if self.heard > HEARD_BYTES:
            self.transport.abort()

    def pause_writing(self) -> None:
        self.is_full = True
        self.stuck_since = self.stream.now()
        self.stream.slow.add(self)

    def resume_writing(self) -> None:
        self.is_full = False
        self.stream.slow.discard(self)
        self.stream.look_after(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.stream.left(self)


class SocketReader(Reader):
    """One who reads by WebSocket."""

    transport_name = "websocket"

    __slots__ = ("frames", "is_silent")

    def __init__(self, stream: "Stream", wanted: Wanted, who: str) -> None:
        super().__init__(stream, wanted, who)
        self.frames = Frames()
        self.is_silent = False
        """Nothing was heard from it since the last ping."""

    @staticmethod
    def words(news: _News) -> bytes:
        return frame(TEXT, news.text)

    def greeting(self, position: str | None) -> bytes:
        return b""

    def heartbeat(self, position: str) -> bytes:
        self.is_silent = True
        self.frames.left = TALK
        return frame(PING, b"")

    def last_words(self, news: _News | None, code: int, reason: str) -> bytes:
        return (self.words(news) if news is not None else b"") + closing(code, reason)

    def data_received(self, data: bytes) -> None:
        if self.ending_since is not None:
            return
        self.is_silent = False
        try:
            for opcode, payload in self.frames.feed(data):
                if opcode == PING and not self.is_full:  # only the latest of several must be answered
                    self.transport.write(frame(PONG, payload))
                elif opcode == CLOSE:
                    self.transport.write(frame(CLOSE, payload))
                    self.stream.end_of(self)
                    return
        except Broken as broken:
            self.transport.write(closing(broken.code, broken.reason))
            self.stream.end_of(self)


class _Opening(Response):
    """An answer that does not end: behind its head the connection is the reader's."""

    def __init__(
        self, stream: "Stream", reader: Reader, last: str | None, status: int, headers: Mapping[str, str]
    ) -> None:
        super().__init__(status_code=status, headers=headers)
        self.raw_headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        self._stream = stream
        self._reader = reader
        self._last = last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await super().__call__(scope, receive, send)
            return
        hand_over: HandOver | None = scope["extensions"].get(HAND_OVER)
        if hand_over is None:
            return  # the client has gone, and its connection offers nothing any more
        headers = [header for header in self.raw_headers if header[0] != b"connection"]
        headers.append((b"connection", b"Upgrade" if self.status_code == 101 else b"close"))
        transport = hand_over(self.status_code, headers, self._reader)
        if transport is not None:
            self._stream.began(self._reader, transport, self._last)


class Stream:
    """The hub: takes events from the bus of the loop that runs, keeps the latest, and hands them on while it ``run``s.

    Everything happens in the event loop's thread. Nothing here waits for a reader.
    """

    def __init__(
        self, meter: Meter, *, readers: int = READERS, per_client: int = PER_CLIENT, host: str | None = None
    ) -> None:
        self.most = readers
        self.per_client = per_client
        self.readers: dict[Reader, None] = {}
        """In the order in which they came."""
        self.slow: set[Reader] = set()
        self._meter = meter
        self._source = f"/x0tta6bl4/{host or socket.gethostname()}"
        self._ending: set[Reader] = set()
        self._by_client: Counter[str] = Counter()
        self._by_transport: Counter[str] = Counter()
        self._ring: deque[_News] = deque()
        self._first = 0
        """The number of the ring's first event; each event's is one more than that of the one before."""
        self._written = 0
        """All with lower numbers were written out."""
        self._bytes = 0
        self._places: dict[str, int] = {}
        self._before = f"life_{secrets.token_hex(8)}"
        """The id of what came before the ring's first; in a new life that is its beginning."""
        self._bus: EventBus | None = None
        self._subscription: Subscription | None = None
        self._lost = 0
        self._wake = asyncio.Event()
        self._beat = 0
        self._beat_at = 0.0
        self._pongs_at: float | None = None
        self._is_over = False
        self._gone = asyncio.Event()

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time()

    # -- from the bus --------------------------------------------------------------------------------------------

    def follow(self, bus: EventBus) -> None:
        """Takes its events from this bus from now on, beginning with those that were told already. Called often."""
        if bus is self._bus:
            self._look_for_losses()
            return
        has_before = self._bus is not None
        self._leave_bus()
        self._bus, self._lost = bus, 0
        told, waiting = bus.get_history(), bus.queue_size
        self._subscription = bus.subscribe(None, self._take)
        # A loop's first event says that it was stopped before: when that is gone, others may be as well.
        if has_before and told and told[0].data.get("from") != State.STOPPED:
            self._miss("more was told than is kept while the daemon took over a new configuration")
        for event in told[: max(0, len(told) - waiting)]:  # the bus hands the others on by itself
            self._take(event)

    def _leave_bus(self) -> None:
        if self._bus is None or self._subscription is None:
            return
        self._look_for_losses()
        waiting = self._bus.queue_size + self._subscription.queued
        self._subscription()
        told = self._bus.get_history()
        if waiting > len(told):
            self._miss("more waited to be told than is kept when the daemon took over a new configuration")
        for event in told[max(0, len(told) - waiting) :]:
            self._take(event)

    def _look_for_losses(self) -> None:
        if self._bus is not None and self._subscription is not None:
            lost = self._bus.dropped + self._subscription.missed
            if lost > self._lost:
                self._lost = lost
                self._miss("the daemon told more than its queue could hold")

    def _take(self, event: Event) -> None:
        about = event.data.get("subject")
        self._append(_News(event.event_id, event.event_type.value, about if isinstance(about, str) else "", event))

    def _miss(self, reason: str) -> None:
        self._append(self._own(GAP, {"reason": reason}))

    def _append(self, news: _News) -> None:
        self._places[news.id] = self._first + len(self._ring)
        self._ring.append(news)
        self._bytes += len(news.text)
        if len(self._ring) > KEPT:
            self._let_go()
        if self.readers:
            self._wake.set()

    def _let_go(self) -> None:
        old = self._ring.popleft()
        self._before = old.id
        self._bytes -= len(old.text)
        self._places.pop(old.id, None)
        self._first += 1
        self._written = max(self._written, self._first)

    # -- as text -------------------------------------------------------------------------------------------------

    def _write_out(self, most: int) -> bool:
        """Up to ``most`` events; whether there are more. Not as they come: that would be in the midst of a heal."""
        end = self._first + len(self._ring)
        for number in range(self._written, min(self._written + most, end)):
            if number < self._first:
                continue  # let go meanwhile, because of its size
            news = self._ring[number - self._first]
            self._written = number + 1
            if news.event is not None:
                news.text, news.event = self._text(news.event), None
                self._bytes += len(news.text)
                while self._bytes > KEPT_BYTES and len(self._ring) > 1:
                    self._let_go()
        return self._written < end

    def _text(self, event: Event) -> bytes:
        written = guarded_call(lambda: event.as_dict()["data"])
        if isinstance(written, Failure):
            log.error("an event cannot be told", exc_info=written.exception, extra={"event": event.event_id})
            written = {"unreadable": written.error}
        kind, at = event.event_type.value, event.timestamp.isoformat(timespec="microseconds").replace("+00:00", "Z")
        text = self._cloud_event(event.event_id, kind, at, written)
        if len(text) > EVENT_BYTES:
            short = {k[:100]: _shortened(v) for k, v in list(written.items())[:50]}
            text = self._cloud_event(event.event_id, kind, at, {**short, "shortened_from_bytes": len(text)})
        return text

    def _own(self, kind: str, data: Mapping[str, Any]) -> _News:
        event = Event(EventType.CONDITION, data)  # for its id and its time
        at = event.timestamp.isoformat(timespec="microseconds").replace("+00:00", "Z")
        return _News(event.event_id, kind, "", None, self._cloud_event(event.event_id, kind, at, dict(data)))

    def _cloud_event(self, id: str, kind: str, at: str, data: Mapping[str, Any]) -> bytes:
        about = data.get("subject")
        return json.dumps(
            {
                "specversion": "1.0",
                "id": id,
                "source": self._source,
                "type": PREFIX + kind,
                "time": at,
                **({"subject": about} if isinstance(about, str) and about else {}),
                "datacontenttype": "application/json",
                "data": data,
            },
            separators=(",", ":"),
            allow_nan=False,
        ).encode("ascii")

    # -- who reads -----------------------------------------------------------------------------------------------

    def events(self, request: Request, who: str, *, is_known: bool = False) -> Response:
        """Answers GET /api/v1/events. ``who``: whom a limit counts for; ``is_known``: by more than an address."""
        wanted, last = wanted_in(request.query_params), _last_in(request)
        self._must_have_room(who, is_known)
        return _Opening(
            self,
            Reader(self, wanted, who),
            last,
            200,
            # A proxy that gathers an answer before it hands it on would hold every event back.
            {"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"},
        )

    def websocket(self, request: Request, who: str, *, is_known: bool = False) -> Response:
        """Answers GET /ws: an upgrade is a request like any other until all who could refuse it have let it pass."""
        wanted, last, headers = wanted_in(request.query_params), _last_in(request), request.headers
        offers = [token.strip().lower() for token in headers.get("upgrade", "").split(",")]
        wishes = [token.strip().lower() for token in headers.get("connection", "").split(",")]
        is_upgrade = request.method == "GET" and request.scope["http_version"] != "1.0" and "websocket" in offers
        if not (is_upgrade and "upgrade" in wishes and headers.get("sec-websocket-version") == "13"):
            raise Refusal(
                426,
                "UPGRADE_REQUIRED",
                "this is a WebSocket, version 13",
                suggestions=["open it as ws:// or wss://", "GET /api/v1/events has the same events over plain HTTP"],
                headers=[(b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")],
            )
        proof = accepted(headers.get("sec-websocket-key", "").encode("latin-1"))
        if proof is None:
            raise Refusal(400, "BAD_WEBSOCKET_KEY", "Sec-WebSocket-Key must be 16 bytes in base64")
        self._must_have_room(who, is_known)
        answer = {"upgrade": "websocket", "sec-websocket-accept": proof.decode("ascii")}
        offered = [token.strip() for token in headers.get("sec-websocket-protocol", "").split(",")]
        if SUBPROTOCOL.decode("ascii") in offered:
            answer["sec-websocket-protocol"] = SUBPROTOCOL.decode("ascii")
        return _Opening(self, SocketReader(self, wanted, who), last, 101, answer)

    def _must_have_room(self, who: str, is_known: bool) -> None:
        again = [(b"retry-after", b"%d" % TRY_AGAIN)]
        if not is_known and self._by_client[who] >= self.per_client:
            raise Refusal(
                429,
                "TOO_MANY_STREAMS",
                f"{self.per_client} streams are open from {who[:100]} already",
                suggestions=["close one of them", "who shows an API key is not counted so"],
                headers=again,
            )
        if len(self.readers) >= self.most or self._is_over:
            why = "the daemon stops" if self._is_over else f"all {self.most} places are taken"
            raise Refusal(503, "NO_ROOM", f"no stream can be opened: {why}", headers=again)

    def began(self, reader: Reader, transport: asyncio.Transport, last: str | None) -> None:
        reader.transport = transport
        if not self.readers:
            self._beat_at = self.now() + HEARTBEAT
        self.readers[reader] = None
        self._by_client[reader.who] += 1
        self._count(reader, 1)
        _set_up(transport)
        if transport.get_write_buffer_size() > 1 and not reader.is_full:
            reader.pause_writing()  # an answer before this one is not read yet
        reader.beat = self._beat
        end = self._first + len(self._ring)
        if last is None:
            reader.cursor = end
            words = reader.greeting(self._id_before(end))
        elif (place := self._place(last)) is not None:
            reader.cursor = place
            words = reader.greeting(None)
        else:
            reader.cursor = self._first
            words = reader.greeting(None) + reader.words(self._gap("what came after it is not all kept", last))
        if words:
            transport.write(words)
        if reader.cursor < end:
            self._wake.set()

    def _place(self, last: str) -> int | None:
        if last == self._before:
            return self._first
        place = self._places.get(last)
        return place + 1 if place is not None else None

    def _gap(self, reason: str, last: str | None) -> _News:
        gap = self._own(GAP, {"reason": reason, "last_event_id": last})
        gap.id = self._before  # who comes back with it has missed nothing that is here
        return gap

    def left(self, reader: Reader) -> None:
        if reader not in self.readers:
            return
        del self.readers[reader]
        self.slow.discard(reader)
        self._ending.discard(reader)
        self._by_client[reader.who] -= 1
        if not self._by_client[reader.who]:
            del self._by_client[reader.who]
        self._count(reader, -1)
        if not self.readers:
            self._gone.set()

    def _count(self, reader: Reader, change: int) -> None:
        way = reader.transport_name
        self._by_transport[way] += change
        self._meter.set("x0tta6bl4_stream_readers", float(self._by_transport[way]), transport=way)

    def look_after(self, reader: Reader) -> None:
        """It has taken all that was written to it."""
        if reader.ending_since is None and (reader.cursor < self._first + len(self._ring) or reader.beat != self._beat):
            self._wake.set()

    def end_of(self, reader: Reader) -> None:
        """Closes behind what was written; nothing more is."""
        if reader.ending_since is None:
            reader.ending_since = self.now()
            self._ending.add(reader)
            reader.transport.close()

    def _drop(self, reader: Reader, why: str, code: int, sentence: str) -> None:
        if reader.ending_since is not None:
            return
        self._meter.count("x0tta6bl4_stream_readers_dropped_total", reason=why)
        log.info("a reader of the stream was dropped", extra={"client": reader.who, "reason": sentence})
        last = self._id_before(reader.cursor) if reader.cursor >= self._first else None
        told = self._own(DROPPED, {"reason": why, "message": sentence, "last_event_id": last})
        reader.transport.write(reader.last_words(told, code, sentence))
        self.end_of(reader)

    def _id_before(self, number: int) -> str:
        return self._ring[number - 1 - self._first].id if number > self._first else self._before

    def dismiss(self, who: str, reason: str) -> int:
        """Ends all streams of one who may not read any more; how many that were."""
        theirs = [reader for reader in self.readers if reader.who == who and reader.ending_since is None]
        for reader in theirs:
            reader.transport.write(reader.last_words(None, POLICY, reason))
            self.end_of(reader)
        return len(theirs)

    # -- handing on ----------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once a second: one clock for all, because a timer for each would wake the daemon for each."""
        self._write_out(WRITTEN_AT_ONCE)
        for reader in list(self.slow):
            if reader.ending_since is None and now - reader.stuck_since > UNREAD_WITHIN:
                self._drop(reader, "slow", TOO_SLOW, f"nothing was read for {UNREAD_WITHIN:g} s")
        for reader in list(self._ending):
            if reader.ending_since is not None and now - reader.ending_since > LAST_WORDS_WITHIN:
                reader.transport.abort()
        if not self.readers:
            return
        if self._pongs_at is not None and now >= self._pongs_at:
            self._pongs_at = None
            for silent in [r for r in self.readers if isinstance(r, SocketReader) and r.is_silent]:
                self._drop(silent, "no_pong", NO_PONG, f"a ping was not answered within {PONG_WITHIN:g} s")
        if now >= self._beat_at:
            self._beat += 1
            self._beat_at, self._pongs_at = now + HEARTBEAT, now + PONG_WITHIN
            self._wake.set()

    async def run(self) -> None:
        """Hands events on until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(PACE)
            self._wake.clear()
            handed = await guarded(self._round, None)
            if isinstance(handed, Failure):
                log.error("events could not be handed on", exc_info=handed.exception, extra={"reason": handed.message})
                await asyncio.sleep(1.0)

    async def _round(self) -> None:
        """Everybody gets the next piece of what is new, a few at a time."""
        while self._write_out(WRITTEN_AT_ONCE):  # noqa: ASYNC110 - waits for nothing, only lets others go first
            await asyncio.sleep(0)
        upto, served = self._first + len(self._ring), 0
        pieces: dict[tuple[str, Wanted, int], tuple[bytes, int]] = {}
        for reader in list(self.readers):
            if not self._hand(reader, upto, pieces):
                continue
            served += 1
            if served % GROUP == 0:
                await asyncio.sleep(REST)

    def _hand(self, reader: Reader, upto: int, pieces: dict[tuple[str, Wanted, int], tuple[bytes, int]]) -> bool:
        """Whether anything was written."""
        if reader.ending_since is not None or reader.transport.is_closing():
            return False
        if reader.is_full:
            if reader.cursor < self._first:
                self._drop(reader, "overrun", TOO_SLOW, "more was told than is kept before it was read")
            return False
        words = b""
        if reader.cursor < self._first:  # not its fault: so much was told at once
            words = reader.words(self._gap("more was told at once than is kept", None))
            reader.cursor = self._first
        if reader.beat != self._beat:
            reader.beat = self._beat
            words += reader.heartbeat(self._id_before(reader.cursor))
        if reader.cursor < upto:
            key = (reader.transport_name, reader.wanted, reader.cursor)
            piece = pieces.get(key)
            if piece is None:
                piece = pieces[key] = self._piece(reader, upto)
            words += piece[0]
            reader.cursor = piece[1]
        if words:
            reader.transport.write(words)
        if reader.cursor < upto:
            self.look_after(reader)
        return bool(words)

    def _piece(self, reader: Reader, upto: int) -> tuple[bytes, int]:
        """What is new for this reader and all like it, and the place behind it."""
        words, size, number = [], 0, reader.cursor
        while number < upto and size < PIECE:
            news = self._ring[number - self._first]
            number += 1
            if reader.wanted.takes(news):
                words.append(reader.words(news))
                size += len(words[-1])
        return b"".join(words), number

    # -- the end -------------------------------------------------------------------------------------------------

    async def end(self) -> None:
        """Says goodbye to all. Who does not take it soon is cut off."""
        self._is_over = True
        if self._subscription is not None:
            self._subscription()
        if not self.readers:
            return
        self._gone.clear()
        for reader in list(self.readers):
            if reader.ending_since is None:
                reader.transport.write(reader.last_words(None, GOING_AWAY, "the daemon stops"))
                self.end_of(reader)
        with suppress(TimeoutError):
            async with asyncio.timeout(END_WITHIN):
                await self._gone.wait()
        for reader in list(self.readers):
            reader.transport.abort()


def _last_in(request: Request) -> str | None:
    """The header first: who reconnects sends it along with the address of the first time."""
    last = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
    return last[:ID_LENGTH] if last else None


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return value[:200]
    return value if value is None or isinstance(value, bool | int | float) else "left out"


def _set_up(transport: asyncio.Transport) -> None:
    # Full as soon as the system takes no more, so that what waits for a reader waits in the ring, once for all of them.
    transport.set_write_buffer_limits(high=1)
    opened: socket.socket | None = transport.get_extra_info("socket")
    if opened is not None:
        # Left to itself, the system would keep megabytes for each reader that does not read.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SYSTEM_BUFFER)
        if opened.family in (socket.AF_INET, socket.AF_INET6):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_MS)
