"""Where readers of the daemon's events come in: Server-Sent Events, and a WebSocket with the same."""

from pydantic import Field
from starlette.responses import Response

from x0tta6bl4.status.access import Scope
from x0tta6bl4.status.desk import Desk
from x0tta6bl4.status.limits import client_key
from x0tta6bl4.status.problems import Refusal
from x0tta6bl4.status.routes import Asked, Gives, Route, Words


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
        who, is_known = _reader(asked)
        return self.desk.stream.events(asked.request, who, is_known=is_known)

    async def _websocket(self, asked: Asked) -> Response:
        door = self.desk.door
        # Browsers let any page open one, with the cookies of this site.
        if b"origin" in asked.headers and not door.is_ours(asked) and door.allowed_origin(asked) is None:
            raise Refusal(403, "CROSS_SITE", "a page of another site cannot listen here")
        asked.is_stream = True
        who, is_known = _reader(asked)
        return self.desk.stream.websocket(asked.request, who, is_known=is_known)


def _reader(asked: Asked) -> tuple[str, bool]:
    """Whom the stream counts, and ends with the session or key; and whether that is more than an address."""
    caller = asked.caller
    return (caller.id, True) if caller.id else (client_key(asked.client), caller.kind == "token")
