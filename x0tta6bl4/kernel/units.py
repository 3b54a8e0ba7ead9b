"""Reads durations and sizes the way operators write them, and writes them back, for settings and plugin configurations.

A duration is a number of seconds, or a number with ``ms``, ``s``, ``m``, ``h`` or ``d``. A size is a number of bytes,
or a number with a unit: ``kB MB GB TB`` count in thousands, ``KiB MiB GiB TiB`` in 1024s, and a bare ``k M G T`` in
1024s too, as systemd and ulimit read it. Sizes may be in upper or lower case, the units of durations are lower case.
"""

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_DURATION = re.compile(rf"\s*((?:{_NUMBER})(?:e[-+]?[0-9]+)?)\s*(ms|s|m|h|d)?\s*", re.ASCII)
_SIZE = re.compile(rf"\s*({_NUMBER})\s*([kmgt](?:i?b)?|b)?\s*", re.ASCII | re.IGNORECASE)
_SECONDS_IN = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_POWERS = "bkmgt"
_LONGEST = 64
"""Characters of the longest number worth reading; a longer one is a mistake, and slow to convert."""


def as_seconds(value: object) -> float:
    """Seconds from a number or from text such as ``500ms``. ValueError, in the operator's words, for anything else."""
    wanted = "a duration such as 500ms, 5s, 2m, 1h, 1d or a number of seconds"
    if isinstance(value, str):
        match = _DURATION.fullmatch(value) if len(value) <= _LONGEST else None
        if match is None:
            raise ValueError(f"should be {wanted}")
        unit = match[2] or ""
        # A division is exact where a product with 0.001 is not: 700ms is 0.7 s.
        value = float(match[1]) / 1000 if unit == "ms" else float(match[1]) * _SECONDS_IN[unit]
    number = _plain_number(value, wanted)
    if number < 0:
        raise ValueError("a duration cannot be negative")
    return number


def as_bytes(value: object) -> int:
    """Bytes from a whole number or from text such as ``100MiB``. ValueError, in words, for anything else."""
    wanted = "a size such as 512k, 100MiB, 2GB or a number of bytes"
    factor = 1
    if isinstance(value, str):
        match = _SIZE.fullmatch(value) if len(value) <= _LONGEST else None
        if match is None:
            raise ValueError(f"should be {wanted}")
        unit = (match[2] or "b").lower()
        factor = int((1000 if len(unit) == 2 else 1024) ** _POWERS.index(unit[0]))
        if match[1].isdigit():
            return int(match[1]) * factor
        number = float(match[1]) * factor
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        number = _plain_number(value, wanted)
    if number < 0:
        raise ValueError("a size cannot be negative")
    if number != int(number):
        raise ValueError("a size is a whole number of bytes")
    return int(number)


def show_seconds(seconds: float) -> str:
    """A short text that ``as_seconds`` reads back as exactly this duration."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= size and seconds % size == 0 and seconds < 1e15:
            return f"{int(seconds // size)}{unit}"
    thousandths = round(seconds * 1000) if seconds < 1e12 else 0
    if thousandths and thousandths / 1000 == seconds and seconds < 1:
        return f"{thousandths}ms"
    return f"{seconds:g}s" if float(f"{seconds:g}") == seconds else f"{seconds!r}s"


def show_bytes(size: int) -> str:
    """A short text that ``as_bytes`` reads back as exactly this size."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(size)


def _plain_number(value: object, wanted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"should be {wanted}")
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError("is too large a number") from error
    if not math.isfinite(number):
        raise ValueError("should be a finite number")
    return number


Seconds = Annotated[float, BeforeValidator(as_seconds), Field(ge=0, allow_inf_nan=False)]
"""A duration in a settings or plugin model; the value is seconds."""

Size = Annotated[int, BeforeValidator(as_bytes), Field(ge=0)]
"""A size in a settings or plugin model; the value is bytes."""
