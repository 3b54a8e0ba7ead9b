"""Where readers of the daemon's events come in: Server-Sent Events, and a WebSocket with the same."""

import asyncio

from pydantic import Field
from starlette.responses import Response

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.status.access import Caller, Scope
from x0tta6bl4.status.desk import Desk
from x0tta6bl4.status.limits import client_key
from x0tta6bl4.status.problems import Refusal
from x0tta6bl4.status.routes import Asked, Gives, Route, Words

LOOK_EVERY = 5.0
"""Seconds between two looks at whether those who read may still do so."""


class StreamWords(Words):
    types: list[str] = Field(default_factory=list)
    """Only these types of events, such as `incident,step`."""
    subject: list[str] = Field(default_factory=list)
    """Only events about these subjects."""
    last_event_id: str = ""
    """The id of the last event that was read; the header Last-Event-ID says the same."""


class Streaming:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._ids: set[str] = set()
        """Of the keys and sessions that streams were opened with."""
        self._new: set[str] = set()
        """Of them, those since the last look: their streams may not have begun yet."""
        self._look_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    def routes(self) -> list[Route]:
        return [
            Route(
                "GET",
                "/api/v1/events",
                self._events,
                "What happens, as it happens: CloudEvents as Server-Sent Events.",
                Scope.READ,
                "events",
                words=StreamWords,
                gives={200: Gives("Goes on until the reader leaves.", media="text/event-stream")},
                refuses=(422, 503),
            ),
            Route(
                "GET",
                "/ws",
                self._websocket,
                "The same by WebSocket: one CloudEvent a text frame.",
                Scope.READ,
                "events",
                words=StreamWords,
                gives={101: Gives("The connection is a WebSocket now.", media="text/plain")},
                refuses=(422, 426, 503),
            ),
        ]

    async def _events(self, asked: Asked) -> Response:
        asked.is_stream = True
        who, is_known = self._reader(asked)
        return self.desk.stream.events(asked.request, who, is_known=is_known)

    async def _websocket(self, asked: Asked) -> Response:
        door = self.desk.door
        # Browsers let any page open one, with the cookies of this site.
        if b"origin" in asked.headers and not door.is_ours(asked) and door.allowed_origin(asked) is None:
            raise Refusal(403, "CROSS_SITE", "a page of another site cannot listen here")
        asked.is_stream = True
        who, is_known = self._reader(asked)
        return self.desk.stream.websocket(asked.request, who, is_known=is_known)

    def _reader(self, asked: Asked) -> tuple[str, bool]:
        """Whom the stream counts, and ends with the session or key; and whether that is more than an address."""
        caller = asked.caller
        if not caller.id:
            return client_key(asked.client), caller.kind == "token"
        if _is_kept(caller):
            self._new.add(caller.id)
        return caller.id, True

    def tick(self, now: float) -> None:
        """Once a second. The store is asked beside it, for it may be slow."""
        if not (self._ids or self._new) or now < self._look_at or not (self._looking is None or self._looking.done()):
            return
        self._look_at = now + LOOK_EVERY
        self._looking = self.desk.keep(asyncio.get_running_loop().create_task(self.look(), name="readers"))

    async def look(self) -> None:
        """Shows out whose key or session has ended since the stream began, such as by the command line."""
        self._ids = self._new | (self._ids & {reader.who for reader in self.desk.stream.readers})
        self._new = set()
        for id in tuple(self._ids):
            try:
                if await self.desk.behind.access.holds(id):
                    continue
            except StoreError:
                return  # nobody can tell now, and the next look is soon
            self.desk.stream.dismiss(id, "the key or the session does not hold any more")


def _is_kept(caller: Caller) -> bool:
    """Whether it is in the store; keys in files are followed where they are read."""
    return ":" not in caller.id
