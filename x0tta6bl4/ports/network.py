"""The network as a probe sees it: one request, one answer, timed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class HttpRequest:
    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    body_limit: int = 4096
    verify_tls: bool = True
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class HttpReply:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    """At most ``body_limit`` bytes."""
    seconds: float
    """From before connecting to the end of what was read."""
    tls_expires_at: float | None
    """Wall-clock seconds at which the server's certificate expires; None without TLS."""


class Network(Protocol):
    """Nothing here times out by itself, except name lookup in the system's resolver: the caller bounds the call."""

    async def http(self, request: HttpRequest) -> HttpReply:
        """A new connection each time, redirects not followed. OSError when there was no valid answer."""
        ...

    async def tcp(self, host: str, port: int) -> float:
        """Connects and closes; the seconds it took. OSError when refused or unreachable."""
        ...
