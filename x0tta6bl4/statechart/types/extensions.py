"""Types with a name of their own: which texts and numbers are durations, sizes, addresses, and what they amount to."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from x0tta6bl4.statechart.types.base import Extension, duration_seconds, parse_type

Parser = Callable[[Any], Any]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
_NODE_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?", re.ASCII)
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([kmgtpe]?)(i?)b?", re.ASCII | re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#]+[^\s]*", re.ASCII | re.IGNORECASE)
_LONGEST = 2048
_LARGEST_SIZE = 1 << 63


class TypeExtensions(Mapping[str, Extension]):
    """The extensions that one chart, or one daemon, knows: those shipped, and those registered with it."""

    def __init__(self) -> None:
        self._known = {extension.name: extension for extension in _shipped()}

    def __getitem__(self, name: str) -> Extension:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def register(
        self,
        name: str,
        check: Callable[[Any], str | None],
        *,
        parse: Parser | None = None,
        show: Callable[[Any], str] | None = None,
        of: str = "string",
    ) -> None:
        """``check`` is called with values that are of type ``of`` and answers what is wrong, or None. All three
        functions are pure and quick: they are called whenever a variable of this type is given a value."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a type: letters, digits, - and _")
        if name in self._known:
            raise ValueError(f"there is a type {name!r} already")
        parse_type(of)
        self._known[name] = Extension(name, check, of, parse, show)

    def convert(self, name: str, value: Any) -> Any:
        """What the value amounts to: seconds, bytes, the one way to write an address. Raises ValueError."""
        extension = self._known[name]
        if wrong := parse_type(name, self).check(value):
            raise ValueError(wrong)
        return value if extension.parse is None else extension.parse(value)

    def show(self, name: str, value: Any) -> str:
        """The converted value as people write it."""
        show = self._known[name].show
        return str(value) if show is None else show(value)


def _checked(parse: Parser) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        try:
            parse(value)
        except ValueError as error:
            return str(error)
        return None

    return check


def _shipped() -> tuple[Extension, ...]:
    def made(name: str, parse: Parser, of: str = "string", show: Callable[[Any], str] | None = None) -> Extension:
        return Extension(name, _checked(parse), of, parse, show)

    return (
        made("duration", _duration, "string | number", _show_duration),
        made("size", _size, "string | integer", _show_size),
        made("ip", _ip),
        made("network", _network),
        made("url", _url),
        made("timestamp", _timestamp, "string | number", _show_timestamp),
        made("node-id", _node_id),
    )


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _duration(value: Any) -> float:
    return duration_seconds(value)


def _show_duration(seconds: float) -> str:
    if seconds and seconds < 1:
        return f"{seconds * 1000:.15g}ms"
    for unit, length in (("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:.15g}{unit}"
    return f"{seconds:.15g}s"


def _size(value: Any) -> int:
    """``k``, ``M``, ``G`` are powers of 1000, ``Ki``, ``Mi``, ``Gi`` of 1024."""
    size = -1
    if value.__class__ is int:
        size = value
    elif len(value) <= 64 and (found := _SIZE.fullmatch(value.strip())):
        # In whole numbers: a float would lose the last bytes of a large one.
        before, _, after = found[1].partition(".")
        power = " kmgtpe".index(found[2].lower() or " ")
        size = int(before + after) * (1024 if found[3] else 1000) ** power // 10 ** len(after)
    if not 0 <= size < _LARGEST_SIZE:
        raise ValueError(f"{_quoted(value)} is not a size: write bytes, or for example 64MiB, 1.5GB")
    return int(size)


def _show_size(size: int) -> str:
    for power, unit in ((5, "PiB"), (4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return f"{size}B"


def _ip(value: Any) -> str:
    from ipaddress import ip_address  # costs a megabyte; most charts have no addresses

    try:
        return str(ip_address(value if len(value) <= 64 else ""))
    except ValueError:
        raise ValueError(f"{_quoted(value)} is not an IP address: write for example 10.0.0.7 or fd00::7") from None


def _network(value: Any) -> str:
    from ipaddress import ip_network  # as above

    try:
        return str(ip_network(value if len(value) <= 64 else "", strict=True))
    except ValueError:
        raise ValueError(
            f"{_quoted(value)} is not a network: write for example 10.0.0.0/24, without bits after the prefix"
        ) from None


def _url(value: Any) -> str:
    if len(value) > _LONGEST or not _URL.fullmatch(value):
        raise ValueError(f"{_quoted(value)} is not a URL: write for example https://host.example:8443/path")
    scheme, rest = value.split("://", 1)
    return f"{scheme.lower()}://{rest}"


def _timestamp(value: Any) -> float:
    """Seconds since 1970. A text without an offset is refused: nobody can tell which hour it means."""
    from datetime import datetime

    why = "not a time: write seconds since 1970, or for example 2030-01-31T12:00:00Z"
    if value.__class__ is not str:
        if not -62_135_596_800 <= value < 253_402_300_800:  # the years 1 to 9999
            raise ValueError(f"{_quoted(value)} is {why}")
        return float(value)
    try:
        moment = datetime.fromisoformat(value if len(value) <= 64 else "")
    except ValueError:
        raise ValueError(f"{_quoted(value)} is {why}") from None
    if moment.tzinfo is None:
        raise ValueError(f"{_quoted(value)} has no offset from UTC: add Z or for example +02:00")
    return moment.timestamp()


def _show_timestamp(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _node_id(value: Any) -> str:
    if not _NODE_ID.fullmatch(value):
        raise ValueError(f"{_quoted(value)} is not a node's id: letters, digits and . _ - between them, at most 128")
    return str(value)
