"""Speaks the server's side of RFC 6455: the answer to a handshake, frames to send, and what a client's bytes mean.

Ours rather than a library's, because the stream's readers only listen: a frame is made once and written to all of them
as it is, a client's messages are checked and forgotten, and a daemon without such readers pays nothing for it.
"""

import base64
import binascii
import hashlib
import struct
from collections.abc import Iterator

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

GOING_AWAY, PROTOCOL_ERROR, NOT_TEXT, POLICY, TOO_LARGE = 1001, 1002, 1007, 1008, 1009

MESSAGE_BYTES = 4096
"""Of one message of a client, which nobody reads. Enough for the habits of any library."""
TALK = 64
"""Frames that a client may send between two beats of the stream's clock: each costs time that is not its own."""
_REASON_BYTES = 123
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Broken(Exception):
    """The client's bytes are not what they must be: the connection ends with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def accepted(key: bytes) -> bytes | None:
    """What the server shows to prove that it understood; None when the key is none."""
    try:
        if len(base64.b64decode(key, validate=True)) != 16:
            return None
    except binascii.Error:
        return None
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole message in one frame. A server's are not masked, so all readers get the same bytes."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload


def closing(code: int, reason: str) -> bytes:
    words = reason.encode("ascii", "replace")[:_REASON_BYTES]
    return frame(CLOSE, struct.pack("!H", code) + words)


class Frames:
    """Takes a client's bytes apart. Holds no more than one message of the size that is allowed."""

    __slots__ = ("_buffer", "_message", "_opcode", "left")

    def __init__(self) -> None:
        self.left = TALK
        """Frames that may still come before ``left`` is set anew."""
        self._buffer = bytearray()
        self._message = bytearray()
        self._opcode = 0
        """Of the message whose end has not come yet; 0: there is none."""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Opcode and payload of each message and control frame that is whole. Broken: nothing after it counts."""
        self._buffer += data
        while (found := self._next()) is not None:
            is_last, opcode, payload = found
            if opcode >= CLOSE:
                yield opcode, _checked_closing(payload) if opcode == CLOSE else payload
                continue
            if (opcode == 0) != (self._opcode != 0):
                raise Broken(PROTOCOL_ERROR, "a message began or went on out of its turn")
            self._opcode = self._opcode or opcode
            if len(self._message) + len(payload) > MESSAGE_BYTES:
                raise Broken(TOO_LARGE, f"a message here has at most {MESSAGE_BYTES} bytes")
            self._message += payload
            if is_last:
                opcode, payload = self._opcode, bytes(self._message)
                self._opcode = 0
                self._message.clear()
                if opcode == TEXT:
                    _checked_text(payload)
                yield opcode, payload

    def _next(self) -> tuple[bool, int, bytes] | None:
        """The next frame, unmasked; its head is judged as soon as it is there, before its payload is waited for."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        if not self.left:
            raise Broken(POLICY, f"more than {TALK} frames were sent to where nobody reads")
        opcode, size, head = buffer[0] & 15, buffer[1] & 127, 2
        if buffer[0] & 0x70:
            raise Broken(PROTOCOL_ERROR, "a reserved bit is set, and no extension was agreed on")
        if opcode not in (0, TEXT, BINARY, CLOSE, PING, PONG):
            raise Broken(PROTOCOL_ERROR, f"there is no opcode {opcode}")
        if not buffer[1] & 0x80:
            raise Broken(PROTOCOL_ERROR, "a client's frame must be masked")
        if opcode >= CLOSE and (size > 125 or not buffer[0] & 0x80):
            raise Broken(PROTOCOL_ERROR, "a control frame is short and in one piece")
        if size >= 126:
            head = 4 if size == 126 else 10
            if len(buffer) < head:
                return None
            shortest = 126 if size == 126 else 65536
            size = int.from_bytes(buffer[2:head], "big")
            if size < shortest or size >> 63:
                raise Broken(PROTOCOL_ERROR, "a length is not written the shortest way")
        if size > MESSAGE_BYTES:
            raise Broken(TOO_LARGE, f"a message here has at most {MESSAGE_BYTES} bytes")
        end = head + 4 + size
        if len(buffer) < end:
            return None
        self.left -= 1
        is_last = bool(buffer[0] & 0x80)
        payload = _unmasked(bytes(buffer[head + 4 : end]), bytes(buffer[head : head + 4]))
        del buffer[:end]
        return is_last, opcode, payload


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def _checked_text(payload: bytes) -> None:
    try:
        payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Broken(NOT_TEXT, "this text is not UTF-8") from error


def _checked_closing(payload: bytes) -> bytes:
    if payload:
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or not (1000 <= code <= 1014 or 3000 <= code <= 4999) or code in (1004, 1005, 1006):
            raise Broken(PROTOCOL_ERROR, "this is no code to close with")
        _checked_text(payload[2:])
    return payload
