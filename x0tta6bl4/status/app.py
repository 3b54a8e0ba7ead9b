"""The endpoint as an application: lets requests through the door to their handlers, and sees every answer out."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from x0tta6bl4.kernel.supervise import Failure, guarded
from x0tta6bl4.status.access import NOBODY
from x0tta6bl4.status.alerting import Alerting
from x0tta6bl4.status.approvals import Approvals
from x0tta6bl4.status.changes import Changes
from x0tta6bl4.status.commands import Commands
from x0tta6bl4.status.desk import Behind, Desk, EndpointSettings, in_words
from x0tta6bl4.status.door import SAFE, Door, refuse_method, shows_credential
from x0tta6bl4.status.face import Face
from x0tta6bl4.status.openapi import Description
from x0tta6bl4.status.operating import Operating
from x0tta6bl4.status.probes import Probes
from x0tta6bl4.status.problems import GUARDING, Raw, Refusal
from x0tta6bl4.status.reading import Reading
from x0tta6bl4.status.report import CpuUse, Listening
from x0tta6bl4.status.routes import PROBLEM, Asked, Map, Place, Route, read_said, read_words
from x0tta6bl4.status.signin import SignIn
from x0tta6bl4.status.static import Static
from x0tta6bl4.status.stream import Stream
from x0tta6bl4.status.streaming import Streaming
from x0tta6bl4.status.verdicts import Judging

log = logging.getLogger("x0tta6bl4.status.app")

ANSWER_WITHIN = 30.0
"""Seconds for one answer; a reload on a slow disk is the longest there is."""
AT_ONCE = 256
"""Requests that are worked on at the same time. One more is told to come again, so that healing gets its turns."""
LOOKING_AT_ONCE = 8
"""Of these, those that only look. What they ask of the store waits in one row with what a heal asks of it, and more at
once would be no sooner done."""
TRACE_FLAGS = b"-00"
"""Of a traceparent: that nobody here records spans."""


class StatusApp:
    """The ASGI application. ``only`` leaves out all paths but those, for the second port."""

    def __init__(
        self,
        face: Face,
        settings: EndpointSettings,
        behind: Behind,
        *,
        connections: Callable[[], int] = lambda: 0,
        listening: Listening | None = None,
        cpu: CpuUse | None = None,
        stream: Stream | None = None,
        only: Iterable[str] | None = None,
    ) -> None:
        outside = behind.links.host if behind.links is not None else ""
        self.door = Door(face, settings, behind.access, behind.keys, outside)
        self.desk = desk = Desk(
            face,
            settings,
            behind,
            self.door,
            stream or Stream(face.metrics),
            connections,
            listening or Listening(),
            cpu or CpuUse(),
        )
        self.face = face
        operating, approvals = Operating(desk), Approvals(desk)
        commands = Commands(desk, operating, approvals)
        self.streaming = Streaming(desk)
        routes = [
            *Probes(desk).routes(),
            *Reading(desk).routes(),
            *operating.routes(),
            *Changes(desk).routes(),
            *Judging(desk).routes(),
            *approvals.routes(),
            *commands.routes(),
            *Alerting(desk).routes(),
            *self.streaming.routes(),
            *SignIn(desk).routes(),
            *Static().routes(),
        ]
        routes += Description(desk, routes).routes()
        wanted = None if only is None else set(only)
        self.map = Map(route for route in routes if wanted is None or route.path in wanted)
        self._busy = 0
        self._looking = asyncio.Semaphore(LOOKING_AT_ONCE)
        self._always = list(GUARDING)
        if settings.https_only or behind.certificate is not None:
            self._always.append((b"strict-transport-security", b"max-age=31536000"))
        if settings.cors_origins:
            self._always.append((b"vary", b"Origin"))

    def new_id(self) -> str:
        return self.door.new_id()

    async def __call__(self, connection: Connection, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        asked, has_repeated = self._asked(connection, Request(connection, receive))
        found = self.map.find(asked.path, connection["raw_path"])
        place, asked.params = found if found is not None else (None, {})
        extra: list[Raw] = []
        try:
            response = await self._let_in(asked, place, has_repeated, extra)
        except Refusal as refusal:
            response = self._refused(asked, refusal)
        self._see_out(asked, response, extra)
        await response(connection, receive, send)
        if place is None or place.first.is_counted:
            metrics, endpoint = self.face.metrics, place.path if place is not None else "other"
            if not asked.is_stream:
                metrics.observe("x0tta6bl4_api_latency_seconds", time.perf_counter() - began, endpoint=endpoint)
            metrics.count("x0tta6bl4_http_requests_total", endpoint=endpoint, code=str(response.status_code))

    def _asked(self, connection: Connection, request: Request) -> tuple[Asked, bool]:
        raw: list[Raw] = connection["headers"]
        headers = dict(raw)
        peer = connection["client"]
        address, asked_by_neighbour = self.door.client(peer[0] if peer else "", headers)
        asked = Asked(
            request,
            self.door.request_id(headers),
            self.door.trace(headers),
            headers,
            connection["path"],
            address,
            NOBODY,
            asked_by_neighbour,
        )
        return asked, len(raw) != len(headers)

    # -- in ---------------------------------------------------------------------------------------------------------

    async def _let_in(self, asked: Asked, place: Place | None, has_repeated: bool, extra: list[Raw]) -> Response:
        """Raises Refusal, or answers. ``extra`` goes on whatever answer there is."""
        door, method = self.door, asked.connection["method"]
        is_limited = place is None or place.first.is_limited
        door.check_host(asked, has_repeated)
        origin = door.allowed_origin(asked)
        if origin is not None:
            extra += [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", b"X-Request-ID, ETag, Location, Retry-After, RateLimit"),
            ]
        is_free = place is not None and place.first.is_free  # files of the page: the same for everybody
        if (is_limited and not is_free) or (place is not None and any(route.needs for route in place.methods.values())):
            try:
                asked.caller = await door.who(asked)
            except Refusal:
                # Guessing is limited like everything else.
                door.take(asked, extra)
                raise
        if is_limited:
            if not is_free:
                door.take(asked, extra)
            if (sent_away := door.to_https(asked)) is not None:
                return sent_away
        if place is None:
            raise Refusal(
                404, "NOT_FOUND", "there is nothing here", suggestions=["there are: " + ", ".join(self.map.paths)]
            )
        route = place.methods.get("GET" if method == "HEAD" else method)
        if route is None:
            if method == "OPTIONS":
                return self._options(asked, place, is_allowed=origin is not None)
            raise refuse_method(place, method)
        if origin is not None and method not in SAFE and asked.caller.kind == "session":
            raise Refusal(403, "CROSS_SITE", "a page of another site cannot change anything with a sign-in")
        door.must_be_allowed(asked, route)
        if method not in SAFE and asked.caller.kind == "session" and not shows_credential(asked):
            door.must_not_be_forged(asked)
        if self._busy >= AT_ONCE and is_limited:
            raise Refusal(
                503,
                "OVERLOADED",
                f"{self._busy} requests are being answered already",
                suggestions=["ask again in a second"],
                headers=[(b"retry-after", b"1")],
            )
        self._busy += 1
        try:
            return await self._answer(asked, route)
        finally:
            self._busy -= 1

    async def _answer(self, asked: Asked, route: Route) -> Response:
        async def answered() -> Response:
            if route.words is not None:
                asked.words = read_words(route.words, asked.query)
            if route.said is not None:
                body = await asked.json(is_needed=route.is_body_needed)
                asked.said = read_said(route.said, body)
            if not route.is_limited or asked.connection["method"] not in SAFE:
                return await route.handler(asked)
            async with self._looking:
                return await route.handler(asked)

        answer = await guarded(answered, ANSWER_WITHIN if route.is_limited else None)
        if not isinstance(answer, Failure):
            return answer
        if (refusal := in_words(answer.exception)) is not None:
            raise refusal
        log.error(
            "a request could not be answered",
            exc_info=answer.exception,
            extra={"endpoint": route.path, "request_id": asked.id, "trace_id": asked.trace, "reason": answer.message},
        )
        raise Refusal(
            500,
            "INTERNAL_ERROR",
            "the daemon could not answer; its log says why",
            suggestions=[f"look for request_id {asked.id} in the log"],
        )

    def _options(self, asked: Asked, place: Place, *, is_allowed: bool) -> Response:
        headers = {"allow": place.allow}
        if is_allowed and asked.headers.get(b"access-control-request-method") is not None:
            # Without credentials: a page elsewhere shows a key of its own, or reads as a neighbour does.
            headers |= {
                "access-control-allow-methods": place.allow,
                "access-control-allow-headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, "
                "Traceparent, X-API-Key, X-Request-ID",
                "access-control-max-age": "600",
            }
        return Response(status_code=204, headers=headers)

    # -- out --------------------------------------------------------------------------------------------------------

    def _see_out(self, asked: Asked, response: Response, extra: list[Raw]) -> None:
        out = response.raw_headers
        own = dict(out)
        # A page with a form has said where it may go; a second policy would forbid it again.
        out += self._always if b"content-security-policy" not in own else self._always[1:]
        out += extra
        out.append((b"x-request-id", asked.id.encode("ascii")))
        out.append((b"traceparent", b"00-" + asked.trace.encode("ascii") + b"-" + _span(asked) + TRACE_FLAGS))
        if b"upgrade" in asked.headers and response.status_code != 101:
            # The parser takes whatever follows on such a connection for another protocol, which nobody speaks here.
            out.append((b"connection", b"close"))
        if b"cache-control" not in own:
            out.append((b"cache-control", b"no-store"))

    def _refused(self, asked: Asked, refusal: Refusal) -> Response:
        instance = asked.connection["raw_path"][:200].decode("latin-1")
        response = Response(refusal.body(instance, asked.id), refusal.status, media_type=PROBLEM)
        response.raw_headers += refusal.headers
        return response


def _span(asked: Asked) -> bytes:
    """This answer's own part of the trace: derived, for it only has to differ from others'."""
    return b"%016x" % ((hash((asked.id, asked.trace)) & 0x7FFFFFFFFFFFFFFF) | 1)
