"""Bytes for what an engine has learnt: a header in words, the arrays, and a checksum over all of it."""

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"x0ttaLRN"
VERSION = 1
_FRAME = struct.Struct("<8sHQI")
"""Mark, version, length of what follows uncompressed, checksum of what follows as it stands."""
LARGEST = 1 << 28
"""More than this is never made, and never believed: at a thousand bytes each, a quarter of a million series."""
_KINDS = {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "bool"}


def pack(arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any] | None = None) -> bytes:
    """One run of bytes. The header holds what JSON can: names of the series, a version of the settings, a time."""
    described = []
    parts = []
    for name, array in arrays.items():
        kind = array.dtype.name
        if kind not in _KINDS:
            raise ValueError(f"array {name} is of {kind}: only plain numbers can be kept")
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        described.append([name, kind, list(array.shape)])
        parts.append(little.tobytes())
    words = json.dumps({"header": dict(header or {}), "arrays": described}, separators=(",", ":")).encode()
    body = b"".join([struct.pack("<I", len(words)), words, *parts])
    if len(body) > LARGEST:
        raise ValueError(f"{len(body)} bytes are too many to keep in one piece: keep fewer series")
    held = zlib.compress(body, 1)
    return _FRAME.pack(MAGIC, VERSION, len(body), zlib.crc32(held)) + held


def unpack(held: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and the header. Bytes that are damaged, cut off or of something else are a ValueError that says so."""
    if len(held) < _FRAME.size or held[: len(MAGIC)] != MAGIC:
        raise ValueError("these bytes are not what a learner keeps: they begin otherwise; learn anew")
    _, version, length, checksum = _FRAME.unpack_from(held)
    if version != VERSION:
        raise ValueError(f"what was learnt is kept in version {version}, this reads version {VERSION}; learn anew")
    squeezed = held[_FRAME.size :]
    if zlib.crc32(squeezed) != checksum:
        raise ValueError("what was learnt is damaged: its checksum is wrong; learn anew, or take a copy")
    if length > LARGEST:
        raise ValueError(f"what was learnt says that it has {length} bytes; more than {LARGEST} are not believed")
    try:
        opened = zlib.decompressobj()
        body = opened.decompress(squeezed, length)
        if len(body) != length or not (opened.eof or opened.decompress(opened.unconsumed_tail, 1) == b""):
            raise ValueError("the length is wrong")
        words = 4 + struct.unpack_from("<I", body)[0]
        described = json.loads(body[4:words])
        at = words
        arrays: dict[str, NDArray[Any]] = {}
        for name, kind, shape in described["arrays"]:
            if kind not in _KINDS or not all(isinstance(n, int) and n >= 0 for n in shape):
                raise ValueError(f"array {name!r} is of {kind!r} {shape!r}")
            of = np.dtype(kind).newbyteorder("<")
            count = 1
            for each in shape:
                count *= each
            end = at + count * of.itemsize
            if end > len(body):
                raise ValueError(f"array {name!r} is cut off")
            array = np.frombuffer(body, of, count, at).reshape(shape)
            arrays[str(name)] = array.astype(np.dtype(kind))
            at = end
        header = described["header"]
        if at != len(body) or not isinstance(header, dict):
            raise ValueError("something is left over")
    except (zlib.error, struct.error, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"what was learnt cannot be read ({error}); learn anew, or take a copy") from error
    return arrays, header
