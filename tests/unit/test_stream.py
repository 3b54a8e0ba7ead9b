"""The stream: every event once and in order to whoever reads, and nobody who reads slowly costs anybody anything."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from x0tta6bl4.kernel.bus import EventBus
from x0tta6bl4.kernel.events import Event, EventType
from x0tta6bl4.kernel.lifecycle import State, StateMachine
from x0tta6bl4.observability.metrics import Metrics
from x0tta6bl4.status import stream as stream_module
from x0tta6bl4.status.problems import Raw, Refusal
from x0tta6bl4.status.stream import (
    HAND_OVER,
    HEARTBEAT,
    KEPT,
    LAST_WORDS_WITHIN,
    PONG_WITHIN,
    UNREAD_WITHIN,
    Reader,
    SocketReader,
    Stream,
)
from x0tta6bl4.status.websocket import CLOSE, PING, PONG, TALK, TEXT, Broken, Frames, accepted, frame
from x0tta6bl4.testing import virtual_time

KEY = base64.b64encode(b"sixteen bytes!!!").decode("ascii")
UPGRADE = {"connection": "keep-alive, Upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
           "sec-websocket-key": KEY}  # fmt: skip


class Wire(asyncio.Transport):
    """A connection whose other end reads, or does not."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.Protocol
        self.head: tuple[int, dict[bytes, bytes]]
        self.got = b""
        self.writes: list[bytes] = []
        self.waiting = b""
        self.reads = True
        self.is_closed = self.is_aborted = False

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.writes.append(bytes(data))
        if self.reads:
            self.got += data
            return
        was_empty, self.waiting = not self.waiting, self.waiting + bytes(data)
        if was_empty:
            self.protocol.pause_writing()

    def read_all(self) -> None:
        self.got, self.waiting = self.got + self.waiting, b""
        self.protocol.resume_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 1

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True
        self.protocol.connection_lost(None)

    def events(self) -> list[tuple[str, Any]]:
        """Type and CloudEvent of each event that came by SSE; ``id`` is the frame's."""
        found = []
        for block in self.got.decode("ascii").split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
            if "data" in fields:
                told = json.loads(fields["data"])
                assert fields["event"] == told["type"]
                found.append((told["type"].removeprefix("x0tta6bl4."), told | {"sse_id": fields.get("id")}))
        return found

    def numbers(self) -> list[int]:
        return [told["data"]["number"] for _, told in self.events() if "number" in told["data"]]

    def frames(self) -> list[tuple[int, bytes]]:
        found, rest = [], self.got
        while rest:
            size, at = rest[1], 2
            if size == 126:
                size, at = struct.unpack("!H", rest[2:4])[0], 4
            elif size == 127:
                size, at = struct.unpack("!Q", rest[2:10])[0], 10
            found.append((rest[0] & 15, rest[at : at + size]))
            rest = rest[at + size :]
        return found


def asked(wire: Wire, query: str = "", headers: dict[str, str] | None = None, method: str = "GET") -> Request:
    def hand_over(status: int, head: Iterable[Raw], to: asyncio.Protocol) -> asyncio.Transport:
        wire.head, wire.protocol = (status, dict(head)), to
        return wire

    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": "/", "query_string": query.encode("ascii"), "headers": raw,
             "http_version": "1.1", "extensions": {HAND_OVER: hand_over}}  # fmt: skip
    return Request(scope)


async def nothing(*_: Any) -> Any:
    raise AssertionError("a stream neither reads a body nor sends through the server")


async def read(stream: Stream, query: str = "", last: str | None = None, who: str = "192.0.2.1", **more: Any) -> Wire:
    wire = Wire()
    request = asked(wire, query, {} if last is None else {"last-event-id": last})
    await stream.events(request, who, **more)(request.scope, nothing, nothing)
    return wire


async def socket(stream: Stream, query: str = "", who: str = "192.0.2.1") -> Wire:
    wire = Wire()
    request = asked(wire, query, UPGRADE)
    await stream.websocket(request, who)(request.scope, nothing, nothing)
    return wire


def masked(opcode: int, payload: bytes = b"", *, first: int = 0x80) -> bytes:
    mask, size = b"\x01\x7f\x80\xff", len(payload)
    length = bytes([0x80 | size]) if size < 126 else struct.pack("!BH", 0x80 | 126, size)
    return bytes([first | opcode]) + length + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


@asynccontextmanager
async def living(bus: EventBus | None = None, **more: Any) -> AsyncIterator[tuple[Stream, EventBus]]:
    """A stream at work behind a bus at work, and the clock that the endpoint gives it."""
    bus = bus or EventBus(max_queue_size=5000)
    stream = Stream(Metrics("1", strict=True), host="here", **more)
    stream.follow(bus)

    async def ticking() -> None:
        while True:
            await asyncio.sleep(1.0)
            stream.tick(stream.now())

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in (bus.process_events(), stream.run(), ticking())]
        try:
            yield stream, bus
        finally:
            for task in tasks:
                task.cancel()


def tell(bus: EventBus, number: int, kind: str = "step", **data: Any) -> Event:
    event = Event(kind, {"number": number, **data}, source="loop")
    assert bus.publish_nowait(event)
    return event


def run(play: Coroutine[Any, Any, None]) -> None:
    virtual_time.run(play)


def test_an_event_comes_as_a_cloud_event_of_one_line() -> None:
    async def play() -> None:
        async with living() as (stream, bus):
            wire = await read(stream)
            event = tell(bus, 1, "incident", subject="shop", text="Grün\nis\u2028not\ud800")
            await asyncio.sleep(1)
        status, head = wire.head
        assert (200, b"text/event-stream", b"close") == (status, head[b"content-type"], head[b"connection"])
        assert b"content-length" not in head
        assert wire.got.startswith(b"retry: ")
        [(kind, told)] = wire.events()
        assert ("incident", event.event_id) == (kind, told.pop("sse_id"))
        assert told.pop("time").endswith("Z")
        assert {
            "specversion": "1.0",
            "id": event.event_id,
            "source": "/x0tta6bl4/here",
            "type": "x0tta6bl4.incident",
            "subject": "shop",
            "datacontenttype": "application/json",
            "data": {"number": 1, "subject": "shop", "text": "Grün\nis\u2028not\ud800"},
        } == told

    run(play())


def test_an_event_is_written_out_once_for_all_and_not_before_the_moment_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    original = Event.as_dict

    def as_dict(event: Event) -> dict[str, Any]:
        made.append(event.event_id)
        return original(event)

    monkeypatch.setattr(Event, "as_dict", as_dict)

    async def play() -> None:
        async with living(readers=100, per_client=100) as (stream, bus):
            wires = [await read(stream) for _ in range(40)]
            sockets = [await socket(stream) for _ in range(40)]
            tell(bus, 1)
            await asyncio.sleep(stream_module.PACE / 2)
            tell(bus, 2)
            assert not made
            await asyncio.sleep(stream_module.PACE)
        assert 2 == len(made)
        assert all([1, 2] == wire.numbers() for wire in wires)
        assert {2} == {len(wire.writes) for wire in wires}  # the greeting, and both together
        assert 1 == len({wire.writes[1] for wire in wires})
        assert all([TEXT, TEXT] == [opcode for opcode, _ in wire.frames()] for wire in sockets)

    run(play())


def test_many_readers_leave_the_daemon_its_time() -> None:
    async def play() -> None:
        async with living(readers=500, per_client=500) as (stream, bus):
            wires = [await read(stream) for _ in range(500)]
            tell(bus, 1)
            await asyncio.sleep(stream_module.PACE + stream_module.REST / 2)
            begun = sum(wire.numbers() == [1] for wire in wires)
            await asyncio.sleep(1)
        assert stream_module.GROUP == begun
        assert all([1] == wire.numbers() for wire in wires)

    run(play())


def test_who_was_away_goes_on_where_it_was_and_the_header_counts_more_than_the_address() -> None:
    async def play() -> None:
        async with living() as (stream, bus):
            events = [tell(bus, number) for number in range(5)]
            await asyncio.sleep(1)
            first = await read(stream, f"last_event_id={events[1].event_id}")
            second = await read(stream, f"last_event_id={events[1].event_id}", events[3].event_id)
            now = await read(stream)
            await asyncio.sleep(1)
        assert ([2, 3, 4], [4], []) == (first.numbers(), second.numbers(), now.numbers())
        # Who leaves before anything came must know where it was.
        assert now.got.endswith(b"\nid: %b\n\n" % events[4].event_id.encode())

    run(play())


def test_who_comes_too_late_is_told_of_the_gap_once_and_gets_what_there_is() -> None:
    async def play() -> None:
        async with living() as (stream, bus):
            first = tell(bus, 0)
            for number in range(1, KEPT + 11):
                tell(bus, number)
            await asyncio.sleep(1)
            for last in (first.event_id, "evt_of_an_earlier_life", "\xff"):
                wire = await read(stream, last=last)
                await asyncio.sleep(10)
                (kind, gap), *rest = wire.events()
                assert ("gap", last) == (kind, gap["data"]["last_event_id"])
                assert list(range(11, KEPT + 11)) == [told["data"]["number"] for _, told in rest]
                again = await read(stream, "types=finding", last=gap["sse_id"])
                await asyncio.sleep(1)
                assert [] == again.events()

    run(play())


def test_a_life_that_has_told_nothing_yet_can_be_come_back_to() -> None:
    async def play() -> None:
        async with living() as (stream, bus):
            early = await read(stream)
            position = early.got.rpartition(b"id: ")[2].strip().decode()
            tell(bus, 1)
            await asyncio.sleep(1)
            late = await read(stream, last=position)
            await asyncio.sleep(1)
        assert [1] == early.numbers() == late.numbers()
        assert ["step"] == [kind for kind, _ in late.events()]

    run(play())


def test_filters_choose_by_type_and_subject_and_a_wrong_one_is_refused_with_the_right_ones() -> None:
    async def play() -> None:
        async with living() as (stream, bus):
            wires = {
                query: await read(stream, query)
                for query in (
                    "types=incident,step",
                    "types=x0tta6bl4.decision",
                    "subject=shop",
                    "subject=shop&subject=db&types=step",
                    "types=",
                )
            }
            tell(bus, 1, "incident", subject="shop")
            tell(bus, 2, "step", subject="db")
            tell(bus, 3, "decision", subject="shop")
            tell(bus, 4, "state_change")
            await asyncio.sleep(1)
            assert [[1, 2], [3], [1, 3], [2], [1, 2, 3, 4]] == [wire.numbers() for wire in wires.values()]
            for query, code in (
                ("types=incident,nix&types=%C3%BC", "UNKNOWN_TYPES"),
                ("&".join(f"subject={number}" for number in range(60)), "TOO_MANY_SUBJECTS"),
            ):
                with pytest.raises(Refusal) as refused:
                    await read(stream, query)
                assert (422, code) == (refused.value.status, refused.value.code)
            with pytest.raises(Refusal) as refused:
                await read(stream, "types=nix")
            assert "incident" in refused.value.suggestions[0]
            assert "'nix'" in refused.value.message

    run(play())


def test_a_filtered_reader_comes_back_to_where_it_was_although_nothing_reached_it() -> None:
    async def play() -> None:
        async with living() as (stream, bus):
            wire = await read(stream, "types=finding")
            for number in range(KEPT + 50):
                tell(bus, number)
            await asyncio.sleep(HEARTBEAT + 2)
            back = await read(stream, "types=finding", wire.got.rpartition(b"\nid: ")[2].strip().decode())
            await asyncio.sleep(1)
        assert b": heartbeat" in wire.got
        assert [] == back.events()

    run(play())


def test_a_new_loop_s_events_follow_the_old_one_s_none_lost_and_none_twice() -> None:
    async def play() -> None:
        old, new = EventBus(), EventBus()
        async with living(old) as (stream, _):
            wire = await read(stream)
            tell(old, 1)
            await asyncio.sleep(1)
            old.stop()
            for number in (2, 3):
                tell(old, number)  # nobody hands these on any more
            StateMachine(State.STOPPED, bus=new).transition_to(State.IDLE, force=True)
            tell(new, 4)
            async with asyncio.TaskGroup() as group:
                processing = group.create_task(new.process_events())
                await new.drain()  # before anybody listens
                tell(new, 5)
                stream.follow(new)
                stream.follow(new)
                tell(new, 6)
                await asyncio.sleep(1)
                processing.cancel()
        assert [1, 2, 3, 4, 5, 6] == wire.numbers()
        assert "gap" not in [kind for kind, _ in wire.events()]

    run(play())


def test_what_the_buses_could_not_keep_is_a_gap_for_everybody() -> None:
    async def play() -> None:
        old, new = EventBus(history_size=2), EventBus(history_size=2)
        async with living(old) as (stream, _):
            wire = await read(stream, "types=finding&subject=other")
            old.stop()
            await asyncio.sleep(1)
            for number in range(3):
                tell(old, number)
            for number in range(3):
                tell(new, number)
            async with asyncio.TaskGroup() as group:
                processing = group.create_task(new.process_events())
                await new.drain()
                stream.follow(new)
                await asyncio.sleep(1)
                processing.cancel()
            full = EventBus(max_queue_size=1)
            StateMachine(State.STOPPED, bus=full).transition_to(State.IDLE, force=True)
            assert not full.publish_nowait(Event(EventType.STEP))
            stream.follow(full)
            stream.follow(full)
            stream.follow(full)
            await asyncio.sleep(1)
        assert ["gap"] * 3 == [kind for kind, _ in wire.events()]

    run(play())


def test_who_does_not_read_is_told_so_and_let_go_and_others_do_not_notice() -> None:
    async def play() -> None:
        async with living() as (stream, bus):
            slow, good = await read(stream), await read(stream)
            slow.reads = False
            for number in range(3):
                tell(bus, number)
                await asyncio.sleep(1)
            # One piece is on its way, and nothing is added to it.
            assert (1, [0, 1, 2]) == (slow.waiting.count(b"data: "), good.numbers())
            await asyncio.sleep(UNREAD_WITHIN + 1)
            assert slow.is_closed
            assert not slow.is_aborted
            waiting = slow.waiting
            slow.read_all()
            *before, (kind, dropped) = slow.events()
            assert ([0], "dropped") == ([told["data"]["number"] for _, told in before], kind)
            assert dropped["sse_id"] is None
            assert slow.got.endswith(waiting)
            slow.protocol.connection_lost(None)
            assert 1 == len(stream.readers)

            back = await read(stream, last=before[-1][1]["sse_id"])
            await asyncio.sleep(1)
            assert [1, 2] == back.numbers()
            assert 0 == good.got.count(b"dropped")

            back.reads = False
            tell(bus, 3)
            await asyncio.sleep(UNREAD_WITHIN + LAST_WORDS_WITHIN + 4)
            assert back.is_aborted
            page, _ = stream._meter.exposition("")  # type: ignore[attr-defined]  # it is the real one
            assert b'x0tta6bl4_stream_readers_dropped_total{reason="slow"} 2.0' in page
            assert b'x0tta6bl4_stream_readers{transport="sse"} 1.0' in page

    run(play())


def test_who_is_overtaken_by_the_ring_is_dropped_and_who_only_was_not_asked_is_told_of_a_gap() -> None:
    async def play() -> None:
        async with living() as (stream, bus):
            slow, good = await read(stream), await read(stream)
            slow.reads = False
            tell(bus, 0)
            await asyncio.sleep(1)
            for number in range(1, KEPT + 20):
                tell(bus, number)
            await asyncio.sleep(5)
            slow.read_all()
            assert ["step", "dropped"] == [kind for kind, _ in slow.events()]
            assert slow.events()[1][1]["data"]["last_event_id"] is None
            kinds = [kind for kind, _ in good.events()]
            assert ("step", "gap", KEPT) == (kinds[0], kinds[1], kinds[2:].count("step"))
            assert [0, *range(20, KEPT + 20)] == good.numbers()

    run(play())


def test_a_reader_that_takes_its_time_gets_all() -> None:
    async def play() -> None:
        async with living() as (stream, bus):
            wire = await read(stream)
            wire.reads = False
            for number in range(500):
                tell(bus, number, text="x" * 500)
            for _ in range(100):
                await asyncio.sleep(UNREAD_WITHIN / 2)
                assert len(wire.waiting) <= stream_module.PIECE + 2000
                wire.read_all()
        assert list(range(500)) == wire.numbers()

    run(play())


def test_the_ring_is_bounded_in_bytes_and_a_huge_event_loses_its_long_parts() -> None:
    async def play() -> None:
        async with living() as (stream, bus):
            for number in range(200):
                tell(bus, number, text="x" * 20_000, subject="shop")
            tell(bus, 200, text="x" * 200_000, list=["x" * 100_000], subject="shop", on=True, none=None)
            await asyncio.sleep(10)  # without a reader it is done by the clock, some at a time
            assert stream._bytes == sum(len(news.text) for news in stream._ring) <= stream_module.KEPT_BYTES
            assert all(news.event is None for news in stream._ring)
            wire = await read(stream, last="nix")
            await asyncio.sleep(10)
        told = wire.events()[-1][1]
        assert {"number": 200, "text": "x" * 200, "list": "left out", "subject": "shop", "on": True, "none": None} == {
            key: value for key, value in told["data"].items() if key != "shortened_from_bytes"
        }
        assert 40 < len(wire.numbers()) < 60

    run(play())


def test_an_event_that_cannot_be_written_out_keeps_no_other_back() -> None:
    class Unspeakable:
        def __str__(self) -> str:
            raise ValueError("no")

    async def play() -> None:
        async with living() as (stream, bus):
            wire = await read(stream)
            tell(bus, 1)
            bus.publish_nowait(Event("step", {"it": Unspeakable()}))
            tell(bus, 2)
            await asyncio.sleep(1)
        assert [1, 2] == wire.numbers()
        assert {"unreadable": "ValueError"} == wire.events()[1][1]["data"]

    run(play())


def test_there_is_room_for_so_many_and_for_few_of_one_address() -> None:
    async def play() -> None:
        async with living(readers=5, per_client=2) as (stream, _):
            wires = [await read(stream), await socket(stream)]
            with pytest.raises(Refusal) as refused:
                await read(stream)
            assert (429, "TOO_MANY_STREAMS") == (refused.value.status, refused.value.code)
            assert b"retry-after" in dict(refused.value.headers)
            wires += [await read(stream, who="key-1", is_known=True) for _ in range(3)]
            for known in (True, False):
                with pytest.raises(Refusal) as refused:
                    await read(stream, who="key-2", is_known=known)
                assert (503, "NO_ROOM") == (refused.value.status, refused.value.code)
            wires[0].protocol.connection_lost(None)
            wires[0].protocol.connection_lost(None)
            await read(stream)
            assert 5 == len(stream.readers)

    run(play())


def test_who_may_not_read_any_more_is_shown_out() -> None:
    async def play() -> None:
        async with living() as (stream, _):
            wires = [await read(stream, who="session-1"), await socket(stream, who="session-1"), await read(stream)]
            assert 2 == stream.dismiss("session-1", "the session was ended")
            assert 0 == stream.dismiss("session-1", "the session was ended")
            assert [True, True, False] == [wire.is_closed for wire in wires]
            [(opcode, payload)] = wires[1].frames()
            assert (CLOSE, 1008, b"the session was ended") == (opcode, *struct.unpack("!H", payload[:2]), payload[2:])

    run(play())


def test_the_end_is_said_to_all_and_who_does_not_hear_it_is_cut_off() -> None:
    async def play() -> None:
        async with living() as (stream, bus):
            wire, ws, deaf = await read(stream), await socket(stream), await read(stream)
            deaf.reads = False
            tell(bus, 1)
            await asyncio.sleep(1)
            await stream.end()
            assert wire.is_closed
            assert wire.got.endswith(b": the daemon stops\n\n")
            assert (CLOSE, struct.pack("!H", 1001) + b"the daemon stops") == ws.frames()[-1]
            assert deaf.is_aborted
            with pytest.raises(Refusal) as refused:
                await read(stream)
            assert 503 == refused.value.status

    run(play())


def test_a_reader_of_sse_has_nothing_to_say() -> None:
    async def play() -> None:
        async with living() as (stream, _):
            wire = await read(stream)
            wire.protocol.data_received(b"GET / HTTP/1.1\r\n\r\n")
            assert not wire.is_closed
            wire.protocol.data_received(b"x" * 5000)
            assert wire.is_aborted
            assert 0 == len(stream.readers)

    run(play())


def test_a_head_is_asked_for_without_a_stream() -> None:
    async def play() -> None:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async with living() as (stream, _):
            request = asked(Wire(), method="HEAD")
            await stream.events(request, "192.0.2.1")(request.scope, nothing, send)
            assert 0 == len(stream.readers)
        assert [200, b""] == [sent[0]["status"], sent[1]["body"]]
        assert b"content-length" not in dict(sent[0]["headers"])

    run(play())


# -- WebSocket -------------------------------------------------------------------------------------------------------


def test_the_handshake_is_answered_as_the_standard_s_example_has_it() -> None:
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" == accepted(b"dGhlIHNhbXBsZSBub25jZQ==")

    async def play() -> None:
        async with living() as (stream, bus):
            wire = Wire()
            request = asked(wire, "types=step", UPGRADE | {"sec-websocket-protocol": "nix, cloudevents.json"})
            await stream.websocket(request, "192.0.2.1")(request.scope, nothing, nothing)
            event = tell(bus, 1)
            tell(bus, 2, "incident")
            await asyncio.sleep(1)
        status, head = wire.head
        assert (101, b"Upgrade", b"websocket") == (status, head[b"connection"], head[b"upgrade"])
        assert b"cloudevents.json" == head[b"sec-websocket-protocol"]
        [(opcode, payload)] = wire.frames()
        assert (TEXT, event.event_id) == (opcode, json.loads(payload)["id"])

    run(play())


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"upgrade": "h2c"}, 426),
        ({"connection": "close"}, 426),
        ({"sec-websocket-version": "8"}, 426),
        ({"sec-websocket-key": "short"}, 400),
        ({"sec-websocket-key": "bm90IHNpeHRlZW4="}, 400),
        ({"sec-websocket-key": "\xff" * 24}, 400),
        ({"sec-websocket-key": ""}, 400),
    ],
)
def test_what_is_no_handshake_is_refused_in_http(change: dict[str, str], status: int) -> None:
    stream = Stream(Metrics("1", strict=True))
    with pytest.raises(Refusal) as refused:
        stream.websocket(asked(Wire(), headers=UPGRADE | change), "192.0.2.1")
    assert status == refused.value.status
    if status == 426:
        assert (b"sec-websocket-version", b"13") in refused.value.headers
    with pytest.raises(Refusal):
        stream.websocket(asked(Wire(), headers=UPGRADE, method="HEAD"), "192.0.2.1")


def test_pings_are_answered_texts_are_ignored_and_a_goodbye_is_returned() -> None:
    async def play() -> None:
        async with living() as (stream, _):
            wire = await socket(stream)
            said = masked(PING, b"you?") + masked(TEXT, b"hello") + masked(2, b"\xff") + masked(PONG)
            for at in range(len(said)):
                wire.protocol.data_received(said[at : at + 1])
            assert [(PONG, b"you?")] == wire.frames()
            wire.protocol.data_received(masked(CLOSE, struct.pack("!H", 1000) + b"bye") + b"\xff" * 100)
            wire.protocol.data_received(b"\xff" * 100)
            assert (CLOSE, struct.pack("!H", 1000) + b"bye") == wire.frames()[-1]
            assert wire.is_closed

    run(play())


def test_who_answers_no_ping_is_let_go_and_who_does_stays() -> None:
    async def play() -> None:
        async with living() as (stream, _):
            dead, alive = await socket(stream), await socket(stream)
            await asyncio.sleep(HEARTBEAT + 2)
            assert [(PING, b"")] == dead.frames() == alive.frames()
            alive.protocol.data_received(masked(PONG))
            await asyncio.sleep(PONG_WITHIN)
            (opcode, payload), (last, reason) = dead.frames()[1:]
            assert (TEXT, "x0tta6bl4.dropped") == (opcode, json.loads(payload)["type"])
            assert (CLOSE, 4002) == (last, *struct.unpack("!H", reason[:2]))
            assert (True, False) == (dead.is_closed, alive.is_closed)

    run(play())


def test_who_talks_all_the_time_is_shown_out_and_who_talks_a_little_is_not() -> None:
    async def play() -> None:
        async with living() as (stream, _):
            wire, modest = await socket(stream), await socket(stream)
            wire.protocol.data_received(masked(TEXT, first=0) + masked(0, first=0) * 40_000)
            assert 1008 == struct.unpack("!H", wire.frames()[-1][1][:2])[0]
            for _ in range(3):
                modest.protocol.data_received(masked(TEXT, b"hi") * TALK)
                await asyncio.sleep(HEARTBEAT + 2)
            assert not modest.is_closed

    run(play())


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"\x81\x02hi", 1002),  # not masked
        (masked(TEXT, b"hi", first=0xC0), 1002),  # a reserved bit
        (masked(3), 1002),
        (masked(11), 1002),
        (masked(0, b"more"), 1002),
        (masked(TEXT, b"a", first=0) + masked(TEXT, b"b"), 1002),
        (masked(PING, first=0), 1002),
        (bytes([0x89, 0xFE, 0, 126]), 1002),
        (bytes([0x81, 0xFE, 0, 125]), 1002),  # a length that is not the shortest
        (bytes([0x81, 0xFF]) + b"\xff" * 8, 1002),
        (bytes([0x81, 0xFF, 0, 0, 0, 1, 0, 0, 0, 0]), 1009),  # 4 GiB, announced
        (bytes([0x81, 0xFE, 0x20, 0]), 1009),
        (masked(TEXT, b"a" * 4000, first=0) + masked(0, b"a" * 4000), 1009),
        (masked(TEXT, b"\xff"), 1007),
        (masked(TEXT, b"\xc3", first=0) + masked(0, b"("), 1007),
        (masked(CLOSE, b"x"), 1002),
        (masked(CLOSE, struct.pack("!H", 1005)), 1002),
        (masked(CLOSE, struct.pack("!H", 2000)), 1002),
        (masked(CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
    ],
)
def test_what_the_standard_forbids_ends_the_connection_with_its_code(said: bytes, code: int) -> None:
    async def play() -> None:
        async with living() as (stream, _):
            wire = await socket(stream)
            wire.protocol.data_received(said)
            assert wire.is_closed
            assert code == struct.unpack("!H", wire.frames()[-1][1][:2])[0]

    run(play())


def taken(pieces: Sequence[bytes]) -> tuple[list[tuple[int, bytes]], int | None]:
    frames, found = Frames(), []
    try:
        for piece in pieces:
            found += list(frames.feed(piece))  # what came before the mistake in the same piece does not count
    except Broken as broken:
        return found, broken.code
    return found, None


@given(st.lists(st.tuples(st.sampled_from([TEXT, 2]), st.text(max_size=300), st.integers(1, 4)), max_size=8), st.data())
def test_whatever_a_client_says_is_understood_however_it_is_cut(said: Any, data: st.DataObject) -> None:
    sent, wanted = b"", []
    for opcode, text, parts in said:
        payload = text.encode("utf-8")
        size = len(payload) // parts + 1
        cut = [payload[at : at + size] for at in range(0, max(1, len(payload)), size)]
        for number, piece in enumerate(cut):
            last = number == len(cut) - 1
            sent += masked(opcode if number == 0 else 0, piece, first=0x80 if last else 0)
            sent += masked(PONG, b"p")
        wanted.append((opcode, payload))
    places = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    pieces = [sent[a:b] for a, b in zip([0, *places], [*places, len(sent)], strict=True)]

    found, code = taken(pieces)

    assert (wanted, None) == ([one for one in found if one[0] != PONG], code)


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_no_bytes_whatsoever_raise_past_the_connection(pieces: list[bytes]) -> None:
    taken(pieces)
    # As far as it is masked, random bytes get further in.
    taken([bytes([piece[0] & 0x8F, piece[1] | 0x80]) + piece[2:] for piece in pieces if len(piece) > 1])


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_frame_says_its_length_in_the_shortest_way(size: int) -> None:
    wire = Wire()
    wire.got = frame(TEXT, b"x" * size) + frame(PING, b"")

    assert [(TEXT, b"x" * size), (PING, b"")] == wire.frames()


def test_a_reader_is_small() -> None:
    stream = Stream(Metrics("1", strict=True))
    for kind in (Reader, SocketReader):
        assert not hasattr(kind(stream, stream_module.Wanted(), "x"), "__dict__")
