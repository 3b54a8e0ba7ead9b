"""Asks a service a question over HTTP and reports whether, how fast and with what status it answered."""

import asyncio
import errno
import re
import socket
from collections.abc import Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Observation
from x0tta6bl4.kernel.plugin import PluginConfig, monitor
from x0tta6bl4.kernel.units import Seconds, Size
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.network import HttpReply, HttpRequest, Network

OUR_OWN = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM}
)
"""Errors that say what this daemon or host has run out of or may not do, and nothing about the service."""


class Config(PluginConfig):
    subject: str = Field(min_length=1)
    """The name of what is asked; observations are reported under it."""
    url: str
    """What to ask, such as http://127.0.0.1:8080/work, https://… or http+unix:///run/app.sock:/work."""
    probe: Literal["health", "work"] = "work"
    """Which claim the answer is about: ``health`` for what the service says of itself, ``work`` for a question it
    cannot answer without doing what it is for. It begins the names of the metrics."""
    expect_status: list[Annotated[int, Field(ge=100, le=599)]] = []
    """The statuses that are good answers. Empty: everything from 200 to 399."""
    expect_body: str | None = Field(default=None, min_length=1)
    """A regular expression that must be found in the body's first ``body_limit`` bytes. Empty: any body will do."""
    within: Seconds = Field(default=1.2, gt=0, le=60)
    """Seconds in which an answer must come. Raised, a hung service is noticed later; lowered, a slow one is taken for a
    hung one. Beyond the monitor's ``timeout`` silence would count as blindness."""
    method: Literal["GET", "HEAD", "POST", "OPTIONS"] = "GET"
    """The HTTP method. It is repeated at every look: it must change nothing."""
    headers: dict[str, str] = {}
    """Headers to send beside the usual ones, by name. Secrets do not belong here: ``config show`` prints them."""
    body_limit: Size = Field(default=4096, le=1 << 20)
    """Bytes of the body that are read at most; at 0 the headers are the whole answer. Raised, each look costs more."""
    verify_tls: bool = True
    """Whether the certificate must be valid for the name. Off, a stranger may answer in the service's place."""
    ca_file: str | None = Field(default=None, pattern="^/")
    """Absolute path of the certificates to trust. Empty: the system's."""

    @field_validator("url")
    @classmethod
    def _can_be_asked(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme == "http+unix":
            if not parts.path.startswith("/"):
                raise ValueError("should name an absolute path, as http+unix:///run/app.sock:/work")
        elif parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("should be http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH, without a user")
        elif parts.port == 0:
            raise ValueError("should have a port from 1 to 65535")
        return value

    @field_validator("expect_body")
    @classmethod
    def _is_expression(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"should be a regular expression: {error}") from error
        return value


class HttpProbe:
    def __init__(self, name: str, config: Config, clock: Clock, network: Network) -> None:
        self.name = name
        self.config = config
        self._clock = clock
        self._usual: tuple[Observation, Observation] | None = None
        self._network = network
        self._request = HttpRequest(
            url=config.url,
            method=config.method,
            headers=config.headers,
            body_limit=config.body_limit,
            verify_tls=config.verify_tls,
            ca_file=config.ca_file,
        )
        self._statuses = frozenset(config.expect_status or range(200, 400))
        self._body = None if config.expect_body is None else re.compile(config.expect_body.encode())
        self._up, self._seconds, self._status = (f"{config.probe}_{what}" for what in ("up", "seconds", "status"))

    @property
    def subjects(self) -> Sequence[str]:
        return (self.config.subject,)

    async def observe(self) -> Sequence[Observation]:
        # The kernel's own bound on a look means blindness. This one is what the probe is about: silence is an answer,
        # and it says no.
        limit = asyncio.timeout(self.config.within)
        try:
            async with limit:
                reply = await self._network.http(self._request)
        except OSError as error:
            # A TimeoutError may also be the kernel's word for a host that did not let us connect.
            if limit.expired():
                return [self._number(self._up, 0.0, f"no answer within {self.config.within:g} s")]
            raise_if_blind(error)
            return [self._number(self._up, 0.0, str(error))]
        subject = self.config.subject
        if self._usual is None or self._usual[1].value != reply.status or self._body is not None:
            up, detail = self._judged(reply)
            self._usual = (
                self._number(self._up, up, detail),
                Observation(self.name, subject, self._status, reply.status),
            )
        # An observation is frozen, and most answers are as the one before: only the time they took is news.
        seen = [*self._usual, Observation(self.name, subject, self._seconds, reply.seconds)]
        if reply.tls_expires_at is not None:
            seen.append(self._number("tls_seconds_left", reply.tls_expires_at - self._clock.wall()))
        return seen

    def _judged(self, reply: HttpReply) -> tuple[float, str]:
        """Whether it is the answer that the operator called a good one."""
        if reply.status not in self._statuses:
            return 0.0, f"answered {reply.status}"
        if self._body is not None and not self._body.search(reply.body):
            return 0.0, f"answered {reply.status}, but its body has no {self.config.expect_body!r} in it"
        return 1.0, f"answered {reply.status}"

    def _number(self, metric: str, value: float, detail: str = "") -> Observation:
        return Observation(self.name, self.config.subject, metric, value, detail=detail)


def raise_if_blind(error: OSError) -> None:
    """Raises ProbeFailed for an error that says nothing about who was asked: our own, or the resolver's."""
    cause = error.__cause__
    if isinstance(error, socket.gaierror) or isinstance(cause, (socket.gaierror, UnicodeError)):
        raise ProbeFailed(str(error), remedy="look at the host's name resolution; an address needs none") from error
    if error.errno in OUR_OWN:
        raise ProbeFailed(f"this host cannot ask: {error}") from error
    if error.errno is None and isinstance(cause, (FileNotFoundError, PermissionError)):
        # The file of authorities to trust: nothing that a server does has such a cause.
        raise ProbeFailed(str(error)) from error


PLUGIN = monitor(
    Config,
    lambda name, config, tools: HttpProbe(name, config, tools.clock, tools.network),
    every=0.5,
    timeout=None,
    overlap=6,
)
