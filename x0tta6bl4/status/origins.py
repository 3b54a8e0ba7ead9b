"""Reads the origin that a browser names, so that origins are compared by what they are and not by how they begin."""

import ipaddress
import re
from dataclasses import dataclass

from x0tta6bl4.status.limits import is_loopback

LONGEST = 320
"""Characters of the longest origin there can be: a scheme, a name of 253 and a port leave room to spare."""
DEFAULT_PORTS = {"http": 80, "https": 443}
_ORIGIN = re.compile(r"(https?)://(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,254})(?::([1-9][0-9]{0,4}))?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Origin:
    """A page's scheme, host and port; equal when a browser would call them the same origin."""

    scheme: str
    host: str
    """In lower case; addresses in their one canonical form, IPv6 without its brackets."""
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if DEFAULT_PORTS[self.scheme] == self.port else f":{self.port}")


def parse_origin(text: str) -> Origin | None:
    """None for whatever is no origin of a web page: ``null``, a path, a user before the host, a port that is none.

    Browsers write an address in its canonical form, whatever the person typed; in another form (octal, one number)
    it did not come from a browser, and what reads it differently than we do could be led elsewhere.
    """
    match = _ORIGIN.fullmatch(text.lower()) if len(text) <= LONGEST and text.isascii() else None
    if match is None:
        return None
    scheme, host, port = match[1], _host(match[2]), int(match[3] or DEFAULT_PORTS[match[1]])
    return Origin(scheme, host, port) if host and port <= 65535 else None


def is_localhost(origin: Origin | str | None) -> bool:
    """Whether a page of that origin was served by this very host, over its loopback.

    By the whole host: a name that only begins with ``localhost`` belongs to somebody else.
    """
    parsed = parse_origin(origin) if isinstance(origin, str) else origin
    if parsed is None:
        return False
    return parsed.host.removesuffix(".") == "localhost" or is_loopback(parsed.host)


def _host(text: str) -> str:
    """Empty when it is none."""
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            return ""
    labels = text.removesuffix(".").split(".")
    if "" in labels or any(len(label) > 63 for label in labels):
        return ""
    if not _NUMBER.fullmatch(labels[-1]):
        return text
    # A host whose last part is a number is an address, or nothing.
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        return ""
