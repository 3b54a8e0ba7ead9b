"""Answers HTTP requests about the daemon: checks who asks, shows how it is, and words every refusal the same way."""

import asyncio
import hmac
import ipaddress
import json
import logging
import math
import re
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qsl

from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from x0tta6bl4.kernel.errors import ConfigError, Problem, StoreError
from x0tta6bl4.kernel.facts import Book, Incident, IncidentState
from x0tta6bl4.kernel.flags import known_flag
from x0tta6bl4.kernel.memory import Approval, plain
from x0tta6bl4.kernel.supervise import Failure, guarded
from x0tta6bl4.runbooks.document import parse
from x0tta6bl4.runbooks.life import ABORT, heard, is_heard, wrong_data, wrong_event
from x0tta6bl4.statechart.persistence.serializer import SnapshotError
from x0tta6bl4.status import answers
from x0tta6bl4.status.face import Face
from x0tta6bl4.status.links import Links
from x0tta6bl4.status.page import STYLE, note, page, question
from x0tta6bl4.status.report import CpuUse, Listening, iso, report

log = logging.getLogger("x0tta6bl4.status.app")

Raw = tuple[bytes, bytes]

BODY_LIMIT = 64 * 1024
"""Bytes of a request's body; nobody has more to say here."""
ANSWER_WITHIN = 30.0
"""Seconds for one answer; a reload on a slow disk is the longest there is."""

LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})
PROBES = frozenset({"/livez", "/readyz", "/health", "/metrics"})
"""Asked often, by machines, from inside: neither counted against a limit nor sent away to HTTPS."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
APPROVALS = "/api/v1/approvals"
_APPROVAL = re.compile(APPROVALS + "/([^/]{1,200})(/answer)?")
INCIDENTS = "/api/v1/incidents"
_EVENTS = re.compile(INCIDENTS + "/([^/]{1,200})/events")
APPROVAL_STATES = ("wanted", "approved", "rejected", "expired")
WHO_LIMIT, WHY_LIMIT = 100, 1000
"""Characters of what a person says about an answer."""

CSP = b"default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
GUARDING: tuple[Raw, ...] = (
    (b"content-security-policy", CSP),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
"""On every answer, whatever it is; a form has a policy of its own, which differs in where it may go."""
FORM_CSP = CSP.replace(b"form-action 'none'", b"form-action 'self'")


class EndpointSettings(Protocol):
    """What the endpoint must know of the settings; ``settings.model.StatusSettings`` has it."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def https_only(self) -> bool: ...

    @property
    def rate_limit_per_minute(self) -> int: ...

    @property
    def cors_origins(self) -> Sequence[str]: ...

    @property
    def prometheus_port(self) -> int | None: ...

    @property
    def metrics_enabled(self) -> bool: ...

    @property
    def health_check_interval(self) -> float: ...


class Refusal(Exception):
    """A request that gets no for an answer: the status, a code for programs and words for people."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        suggestions: Sequence[str] = (),
        headers: Sequence[Raw] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = dict(details or {})
        self.suggestions = list(suggestions)
        self.headers = list(headers)

    def body(self, instance: str, request_id: str) -> bytes:
        """RFC 9457, with the member ``error`` for those who read that."""
        return _json(
            {
                "type": f"urn:x0tta6bl4:problem:{self.code.lower().replace('_', '-')}",
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "detail": self.message,
                "instance": instance,
                "error": {
                    "code": self.code,
                    "message": self.message,
                    "details": self.details,
                    "timestamp": iso(time.time()),
                    "request_id": request_id,
                    "suggestions": self.suggestions,
                },
            }
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """What a limiter said to one request. ``retry_after`` is 0 when it may pass."""

    remaining: int
    full_in: float
    retry_after: float


class RateLimiter:
    """A token bucket for each client, kept as the one time at which it will be full again (GCRA).

    A bucket that is full is the same as one never heard of, so those are dropped; at ``most`` buckets the one that was
    used longest ago makes room.
    """

    def __init__(self, per_minute: int, most: int = 4096, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._step = 60.0 / per_minute
        self._most = most
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, client: str) -> Taken:
        now = self._clock()
        before = max(self._full_at.pop(client, now), now)
        after = before + self._step
        late = after - now - 60.0
        # The sum of many steps is not exactly their product: a hair more is not one request more.
        is_over = late > 1e-6
        self._full_at[client] = before if is_over else after
        self._tidy(now)
        if is_over:
            return Taken(0, before - now, late)
        return Taken(int((60.0 - (after - now)) / self._step + 1e-6), after - now, 0.0)

    def _tidy(self, now: float) -> None:
        # The longest unused stand first. Two at a time is faster than new ones come in.
        for _ in range(2):
            oldest = next(iter(self._full_at))
            if self._full_at[oldest] > now and len(self._full_at) <= self._most:
                return
            del self._full_at[oldest]
            if not self._full_at:
                return


def client_key(address: str) -> str:
    """Whom a limit counts for: an IPv4 address, or the IPv6 network that one customer usually has."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)


@dataclass(slots=True)
class Asked:
    """One request, with what the checks at the door found out about it."""

    request: Request
    id: str
    headers: dict[bytes, bytes]
    path: str
    client: str

    @property
    def query(self) -> QueryParams:
        return self.request.query_params


Handler = Callable[[Asked], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    path: str
    methods: Mapping[str, Handler]
    is_counted: bool = True
    """Whether its requests are in the metrics. A scrape is not: looking must not change what is looked at."""

    @property
    def allow(self) -> str:
        names = {*self.methods, "OPTIONS"} | ({"HEAD"} if "GET" in self.methods else set())
        return ", ".join(sorted(names))


@dataclass(frozen=True, slots=True)
class _Health:
    """One answer to /health, and what it was made of."""

    signs: tuple[object, ...]
    asked_at: float
    components: dict[str, dict[str, Any]]
    second: int
    is_healthy: bool
    body: bytes


class StatusApp:
    """The ASGI application. ``only`` leaves out all paths but those, for the second port."""

    def __init__(
        self,
        face: Face,
        settings: EndpointSettings,
        *,
        connections: Callable[[], int] = lambda: 0,
        listening: Listening | None = None,
        cpu: CpuUse | None = None,
        links: Links | None = None,
        only: Iterable[str] | None = None,
    ) -> None:
        self.face = face
        self.settings = settings
        self.limiter = RateLimiter(settings.rate_limit_per_minute)
        self.cpu = cpu or CpuUse()
        self._connections = connections
        self._listening = listening or Listening()
        self._links = links
        self._names = (
            LOOPBACK_NAMES | {settings.host.lower()} | ({links.host} if links is not None and links.host else set())
        )
        self._origins = {origin.lower().encode("latin-1") for origin in settings.cors_origins}
        self._hosts: dict[bytes, int] = {}
        self._prefix = secrets.token_hex(5)
        self._requests = 0
        self._health_kept: _Health | None = None
        self._scraping = asyncio.Lock()
        self._reloading = asyncio.Lock()
        self._answering = asyncio.Lock()
        """Held from the look at a question to the answer: of two at once, one is told that it came too late."""
        self._always = list(GUARDING)
        if settings.https_only:
            self._always.append((b"strict-transport-security", b"max-age=31536000"))
        if self._origins:
            self._always.append((b"vary", b"Origin"))
        routes = [
            Route("/health", {"GET": self._health}),
            Route("/livez", {"GET": self._livez}),
            Route("/readyz", {"GET": self._readyz}),
            Route("/metrics", {"GET": self._metrics}, is_counted=False),
            Route("/status", {"GET": self._status}),
            Route("/", {"GET": self._page}),
            Route("/style.css", {"GET": self._style}),
            Route("/-/reload", {"POST": self._reload}),
            Route("/api/v1/config/features", {"GET": self._features, "POST": self._set_features}),
            Route(APPROVALS, {"GET": self._approvals}),
            Route(f"{APPROVALS}/{{plan}}", {"GET": self._approval, "POST": self._answer_approval}),
            Route(f"{INCIDENTS}/{{id}}/events", {"POST": self._send_event}),
        ]
        if links is not None:
            routes.append(Route(f"{APPROVALS}/{{plan}}/answer", {"GET": self._link, "POST": self._answer_link}))
        wanted = None if only is None else set(only)
        self._routes = {r.path: r for r in routes if wanted is None or r.path in wanted}

    def new_id(self) -> str:
        self._requests += 1
        return f"{self._prefix}-{self._requests:x}"

    def _route(self, path: str) -> Route | None:
        route = self._routes.get(path)
        if route is None and path.startswith(APPROVALS) and (match := _APPROVAL.fullmatch(path)):
            route = self._routes.get(f"{APPROVALS}/{{plan}}{match[2] or ''}")
        elif route is None and _EVENTS.fullmatch(path):
            route = self._routes.get(f"{INCIDENTS}/{{id}}/events")
        return route

    # -- the door ------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        raw: list[Raw] = scope["headers"]
        headers = dict(raw)
        given = headers.get(b"x-request-id", b"")
        client = scope["client"]
        path: str = scope["path"]
        asked = Asked(
            Request(scope, receive),
            given.decode("ascii") if _REQUEST_ID.fullmatch(given) else self.new_id(),
            headers,
            path,
            client[0] if client else "",
        )
        route = self._route(path)
        extra: list[Raw] = []
        try:
            response = self._check(asked, len(raw) != len(headers), extra) or await self._answer(asked, route)
        except Refusal as refusal:
            response = self._refused(asked, refusal)
        out = response.raw_headers
        own = dict(out)
        # A page with a form has said where it may go; a second policy would forbid it again.
        out += self._always if b"content-security-policy" not in own else self._always[1:]
        out += extra
        out.append((b"x-request-id", asked.id.encode("ascii")))
        if b"upgrade" in headers:
            # The parser takes whatever follows on such a connection for another protocol, which nobody speaks here.
            out.append((b"connection", b"close"))
        if b"cache-control" not in own:
            out.append((b"cache-control", b"no-store"))
        await response(scope, receive, send)
        if route is None or route.is_counted:
            metrics, endpoint = self.face.metrics, route.path if route is not None else "other"
            metrics.observe("x0tta6bl4_api_latency_seconds", time.perf_counter() - began, endpoint=endpoint)
            metrics.count("x0tta6bl4_http_requests_total", endpoint=endpoint, code=str(response.status_code))

    def _check(self, asked: Asked, has_repeated_headers: bool, extra: list[Raw]) -> Response | None:
        """Raises Refusal, or answers at once, or lets the request pass. ``extra`` goes on whatever answer there is."""
        scope, is_probe = asked.request.scope, asked.path in PROBES
        if not is_probe:
            taken = self.limiter.take(client_key(asked.client))
            extra += self._limit_headers(taken)
            if taken.retry_after:
                seconds = math.ceil(taken.retry_after)
                raise Refusal(
                    429,
                    "RATE_LIMITED",
                    f"more than {self.limiter.per_minute} requests in a minute from {asked.client}",
                    details={"retry_after_seconds": round(taken.retry_after, 3)},
                    suggestions=[f"ask again in {seconds} s", "an operator can raise status.rate_limit_per_minute"],
                    headers=[(b"retry-after", b"%d" % seconds)],
                )
        host = asked.headers.get(b"host")
        if has_repeated_headers and sum(name == b"host" for name, _ in scope["headers"]) > 1:
            raise Refusal(400, "BAD_HOST", "the request names more than one host")
        if host is None:
            if scope["http_version"] != "1.0":
                raise Refusal(400, "BAD_HOST", "the request names no host")
        elif verdict := self._judge_host(host):
            raise self._foreign_host(verdict, host)
        origin = asked.headers.get(b"origin")
        if origin is not None and origin.lower() in self._origins and scope["method"] in ("GET", "HEAD", "OPTIONS"):
            extra += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", b"X-Request-ID")]
        if (
            self.settings.https_only
            and not is_probe
            and host is not None
            and scope["scheme"] == "http"
            and asked.headers.get(b"x-forwarded-proto", b"").strip().lower() != b"https"
        ):
            query = b"?" + scope["query_string"] if scope["query_string"] else b""
            name = _HOST.fullmatch(host.decode("latin-1"))
            assert name is not None, "a host that has passed the check"
            place = b"https://" + name[1].encode("ascii") + scope["raw_path"] + query
            return Response(status_code=308, headers={"location": place.decode("latin-1")})
        return None

    def _limit_headers(self, taken: Taken) -> list[Raw]:
        limit, left, seconds = self.limiter.per_minute, taken.remaining, math.ceil(taken.full_in)
        return [
            (b"ratelimit-policy", b'"default";q=%d;w=60' % limit),
            (b"ratelimit", b'"default";r=%d;t=%d' % (left, seconds)),
            (b"x-ratelimit-limit", b"%d" % limit),
            (b"x-ratelimit-remaining", b"%d" % left),
            (b"x-ratelimit-reset", b"%d" % seconds),
        ]

    def _judge_host(self, host: bytes) -> int:
        """0, or the status to refuse with. A page of another site whose name was made to lead here has its own name."""
        known = self._hosts.get(host)
        if known is not None:
            return known
        if len(self._hosts) >= 64:
            self._hosts.clear()
        verdict = self._hosts[host] = self._look_at_host(host.decode("latin-1"))
        return verdict

    def _look_at_host(self, host: str) -> int:
        match = _HOST.fullmatch(host)
        if match is None:
            return 400
        name = match[1].lower().rstrip(".")
        if name in self._names or name.endswith(".localhost"):
            return 0
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return 400 if name.startswith("[") else 421
        return 0

    def _foreign_host(self, status: int, host: bytes) -> Refusal:
        shown = ascii(host[:100].decode("latin-1"))
        if status == 400:
            return Refusal(400, "BAD_HOST", f"this is no host: {shown}")
        return Refusal(
            421,
            "FOREIGN_HOST",
            f"{shown} is not a name of this endpoint",
            suggestions=["use the IP address or localhost", "or set status.host (HOST) to that name"],
        )

    async def _answer(self, asked: Asked, route: Route | None) -> Response:
        method: str = asked.request.scope["method"]
        if route is None:
            raise Refusal(
                404, "NOT_FOUND", "there is nothing here", suggestions=["there are: " + ", ".join(sorted(self._routes))]
            )
        handler = route.methods.get("GET" if method == "HEAD" else method)
        if handler is None:
            if method == "OPTIONS":
                return self._options(asked, route)
            raise Refusal(
                405,
                "METHOD_NOT_ALLOWED",
                f"{method} means nothing here",
                suggestions=[f"{route.path} takes {route.allow}"],
                headers=[(b"allow", route.allow.encode("ascii"))],
            )
        answer = await guarded(lambda: handler(asked), None if asked.path in PROBES else ANSWER_WITHIN)
        if not isinstance(answer, Failure):
            return answer
        if isinstance(answer.exception, Refusal):
            raise answer.exception
        log.error(
            "a request could not be answered",
            exc_info=answer.exception,
            extra={"endpoint": route.path, "request_id": asked.id, "reason": answer.message},
        )
        raise Refusal(
            500,
            "INTERNAL_ERROR",
            "the daemon could not answer; its log says why",
            suggestions=[f"look for request_id {asked.id} in the log"],
        )

    def _options(self, asked: Asked, route: Route) -> Response:
        headers = {"allow": route.allow}
        wanted = asked.headers.get(b"access-control-request-method")
        if wanted is not None and asked.headers.get(b"origin", b"").lower() in self._origins and "GET" in route.methods:
            headers |= {"access-control-allow-methods": "GET", "access-control-max-age": "600"}
        return Response(status_code=204, headers=headers)

    def _refused(self, asked: Asked, refusal: Refusal) -> Response:
        instance = asked.request.scope["raw_path"][:200].decode("latin-1")
        response = Response(refusal.body(instance, asked.id), refusal.status, media_type="application/problem+json")
        response.raw_headers += refusal.headers
        return response

    # -- probes --------------------------------------------------------------------------------------------------

    async def _health(self, asked: Asked) -> Response:
        signs, second = self._signs(), int(time.time())
        kept = self._health_kept
        if kept is None or kept.second != second or kept.signs != signs:
            kept = self._health_kept = self._look(signs, second)
        is_strict = bool(asked.request.scope["query_string"]) and asked.query.get("strict", "").lower() in ("1", "true")
        return Response(kept.body, 503 if is_strict and not kept.is_healthy else 200, media_type="application/json")

    def _signs(self) -> tuple[object, ...]:
        """What matters most and costs nothing to see: when it changes, no older answer is given."""
        loop = self.face.loop
        return loop, loop.status, loop.standing.store_trouble

    def _look(self, signs: tuple[object, ...], second: int) -> "_Health":
        """The parts are asked as often as the settings say; the body is new each second, for its timestamp."""
        health, now, kept = self.face.health, time.monotonic(), self._health_kept
        if kept is not None and kept.signs == signs and now - kept.asked_at < self.settings.health_check_interval:
            components, asked_at = kept.components, kept.asked_at
        else:
            components, asked_at = health.components(), now
        overall = health.overall(components)
        body = _json(
            {
                "status": overall,
                "timestamp": iso(second, "seconds"),
                "components": components,
                "version": self.face.version,
            }
        )
        return _Health(signs, asked_at, components, second, overall == "healthy", body)

    async def _livez(self, asked: Asked) -> Response:
        """That it answers is all there is to know: a restart mends no dependency."""
        return _checks("livez", {"ping": ""}, asked.query)

    async def _readyz(self, asked: Asked) -> Response:
        loop = self.face.loop
        return _checks(
            "readyz",
            {
                "loop-running": "" if loop.status == "running" else f"the loop is {loop.status}",
                "first-cycle": "" if loop.first_turn.is_set() else "no cycle has ended yet",
                "store": loop.standing.store_trouble,
            },
            asked.query,
        )

    async def _metrics(self, asked: Asked) -> Response:
        metrics = self.face.metrics
        if not (self.settings.metrics_enabled and metrics.enabled):
            raise Refusal(
                404,
                "METRICS_DISABLED",
                "metrics are switched off",
                suggestions=["set METRICS_ENABLED=true or status.metrics_enabled: true"],
            )
        accept = asked.headers.get(b"accept", b"").decode("latin-1")
        is_packed = _takes_gzip(asked.headers.get(b"accept-encoding", b"").decode("latin-1"))

        def written() -> tuple[bytes, str]:
            page, kind = metrics.exposition(accept)
            if is_packed:
                packer = zlib.compressobj(level=4, wbits=31)
                page = packer.compress(page) + packer.flush()
            return page, kind

        # One at a time: many scrapers at once must not take all threads from the rest of the daemon.
        async with self._scraping:
            page, kind = await asyncio.to_thread(written)
        headers = {"content-type": kind, "vary": "Accept, Accept-Encoding"}
        if is_packed:
            headers["content-encoding"] = "gzip"
        return Response(page, headers=headers)

    # -- what is shown -------------------------------------------------------------------------------------------

    async def _report(self) -> dict[str, Any]:
        return await report(self.face, self.cpu, self._connections(), self._listening)

    async def _status(self, asked: Asked) -> Response:
        return Response(_json(await self._report()), media_type="application/json")

    async def _page(self, asked: Asked) -> Response:
        text = "".join(page(await self._report()))
        return Response(text.encode("utf-8", "replace"), media_type="text/html")

    async def _style(self, asked: Asked) -> Response:
        return Response(STYLE, headers={"content-type": "text/css; charset=utf-8", "cache-control": "max-age=3600"})

    # -- what is changed -----------------------------------------------------------------------------------------

    def _authorize(self, asked: Asked) -> None:
        given = asked.headers.get(b"authorization", b"")
        scheme, _, shown = given.partition(b" ")
        token = self.face.token.encode()
        # An empty token would let everybody in who shows an empty one.
        if token and scheme.lower() == b"bearer" and hmac.compare_digest(shown.strip(), token):
            return
        challenge = b'Bearer realm="x0tta6bl4"' + (b', error="invalid_token"' if given else b"")
        raise Refusal(
            401,
            "UNAUTHORIZED",
            "this is not the operator's token" if given else "this needs the operator's token",
            suggestions=[
                "send `Authorization: Bearer TOKEN`; the token is in operator.token in the state directory, "
                "which only the daemon's user can read"
            ],
            headers=[(b"www-authenticate", challenge)],
        )

    async def _body(self, asked: Asked) -> bytes:
        declared = asked.headers.get(b"content-length", b"0")
        too_much = Refusal(413, "BODY_TOO_LARGE", f"the body is larger than {BODY_LIMIT} bytes")
        if declared.isdigit() and int(declared[:20]) > BODY_LIMIT:
            raise too_much
        body = bytearray()
        try:
            async for chunk in asked.request.stream():
                body += chunk
                if len(body) > BODY_LIMIT:
                    raise too_much
        except ClientDisconnect as error:
            raise Refusal(400, "BODY_INCOMPLETE", "the body ended too early") from error
        return bytes(body)

    async def _json_body(self, asked: Asked, *, is_needed: bool) -> Any:
        body = await self._body(asked)
        if not body and not is_needed:
            return None
        if _content_type(asked) != b"application/json":
            raise Refusal(
                415,
                "NOT_JSON",
                "the body must be application/json",
                suggestions=["send `Content-Type: application/json`"],
            )
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            why = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
            raise Refusal(400, "BAD_JSON", f"the body is not JSON: {why[:200]}") from error

    async def _reload(self, asked: Asked) -> Response:
        self._authorize(asked)
        await self._json_body(asked, is_needed=False)
        log.info("reload asked for", extra={"client": asked.client, "request_id": asked.id})
        async with self._reloading:
            mistakes = await self.face.reload()
        if mistakes:
            number = f"{len(mistakes)} mistake{'s' * (len(mistakes) != 1)}"
            raise Refusal(
                422,
                "CONFIG_INVALID",
                f"the configuration has {number}; the old one stays in force",
                details={"mistakes": list(mistakes)},
                suggestions=["`x0tta6bl4 validate FILE` checks it without starting anything"],
            )
        return Response(_json({"reloaded": True, "timestamp": iso(time.time())}), media_type="application/json")

    async def _features(self, asked: Asked) -> Response:
        self._authorize(asked)
        return Response(_json(self.face.loop.parts.flags.as_dict()), media_type="application/json")

    async def _set_features(self, asked: Asked) -> Response:
        self._authorize(asked)
        wanted = _flags_in(await self._json_body(asked, is_needed=True))
        for name, value in wanted.items():
            try:
                await self.face.set_flag(name, value, f"operator over HTTP from {asked.client}")
            except ConfigError as error:
                raise _wrong_flags(error.problems or [Problem(f"flags.{name}", error.message)]) from error
            except StoreError as error:
                raise Refusal(
                    503,
                    "STORE_FAILING",
                    f"{name} was not set: {error.message}",
                    suggestions=[error.remedy],
                    headers=[(b"retry-after", b"5")],
                ) from error
            log.info("flag set", extra={"flag": name, "value": value, "client": asked.client, "request_id": asked.id})
        return Response(_json(self.face.loop.parts.flags.as_dict()), media_type="application/json")

    # -- events for runbooks -------------------------------------------------------------------------------------

    async def _send_event(self, asked: Asked) -> Response:
        """Taken down for the incident's runbook, which takes it in the loop's next turn: hence 202."""
        self._authorize(asked)
        event, data = _event_in(await self._json_body(asked, is_needed=True))
        match = _EVENTS.fullmatch(asked.path)
        assert match is not None, "the route was found by it"
        loop, id = self.face.loop, match[1]
        knowledge = loop.parts.knowledge
        try:
            # An incident of the loop's own is newer than the one on disk.
            incident = next((i for i in loop.incidents.open if i.id == id), None) or await knowledge.incident(id)
            if incident is None:
                raise Refusal(404, "NO_SUCH_INCIDENT", f"there is no incident {id[:100]!a}")
            if incident.state is IncidentState.CLOSED:
                raise Refusal(409, "INCIDENT_OVER", f"it is over ({incident.ended or 'closed'}): nobody listens")
            blocked = _whether_heard(event, incident, await knowledge.books())
            message = await knowledge.send(incident.id, event, data, "operator (api)")
        except StoreError as error:
            raise _store_failing(error, "the event was not taken down") from error
        log.info(
            "event taken down",
            extra={
                "event": event,
                "incident": incident.id,
                "message_id": message.id,
                "client": asked.client,
                "request_id": asked.id,
            },
        )
        try:
            # The loop looks into the inbox when another process has written; this was its own.
            await loop.refresh()
        except StoreError:
            pass  # it is on disk: the loop finds it as soon as the store can be read again
        loop.wake({incident.subject})
        told = {"message": message.id, "incident": incident.id, "event": event, "blocked": blocked}
        return Response(_json(told), 202, media_type="application/json")

    # -- approvals -----------------------------------------------------------------------------------------------

    async def _approvals(self, asked: Asked) -> Response:
        self._authorize(asked)
        state = asked.query.get("state", "")
        if state not in ("", *APPROVAL_STATES):
            raise Refusal(
                422,
                "BAD_STATE",
                f"no approval is {state[:50]!a}",
                suggestions=["there are: " + ", ".join(APPROVAL_STATES)],
            )
        try:
            told = await answers.listed(self.face.loop, state)
        except StoreError as error:
            raise _store_failing(error, "the approvals cannot be read") from error
        return Response(_json(plain({"approvals": told})), media_type="application/json")

    async def _approval(self, asked: Asked) -> Response:
        self._authorize(asked)
        try:
            told = await answers.detail(self.face.loop, await self._approval_of(_plan_in(asked)))
        except StoreError as error:
            raise _store_failing(error, "the approval cannot be read") from error
        return Response(_json(plain(told)), media_type="application/json")

    async def _approval_of(self, plan: str) -> Approval:
        loop = self.face.loop
        approval = await answers.approval_of(loop.parts.knowledge, plan)
        if approval is None:
            raise Refusal(
                404,
                "NO_SUCH_PLAN",
                f"nobody was asked about a plan {plan[:100]!a}",
                suggestions=[f"GET {APPROVALS}?state=wanted tells which plans wait"],
            )
        return answers.as_it_stands(approval, loop.parts.clock.wall())

    async def _answer_approval(self, asked: Asked) -> Response:
        self._authorize(asked)
        said = _said_in(await self._json_body(asked, is_needed=True), ("answer", "who", "why"))
        answered = await self._hand_on(asked, said, f"{said.who or 'operator'} (api)")
        return Response(_json(plain(answered)), media_type="application/json")

    async def _hand_on(self, asked: Asked, said: "_Said", who: str, token: str | None = None) -> dict[str, Any]:
        """The approval as it stands when the answer was taken; else the Refusal says how it stands."""
        loop, plan = self.face.loop, _plan_in(asked)
        try:
            async with self._answering:
                approval = await self._approval_of(plan) if token is None else await self._by_link(plan, token)
                planned = await loop.parts.knowledge.plan(plan)
                _must_be_open(approval, answers.summary(approval, planned), await answers.whether_moot(loop, approval))
                answered = await answers.hand_on(loop, plan, said.approve, who, said.why)
                wanted = "approved" if said.approve else "rejected"
                if answered is None or (answered.state, answered.who) != (wanted, who):
                    # Between the look and the answer somebody at the command line was quicker, or the time was up.
                    stands = answers.as_it_stands(answered or approval, loop.parts.clock.wall())
                    _must_be_open(stands, answers.summary(stands, planned), "it is gone")
        except StoreError as error:
            raise _store_failing(error, "the answer was not taken") from error
        assert answered is not None, "what is gone was refused above"
        log.info(
            "approval answered",
            extra={
                "plan": plan,
                "answer": answered.state,
                "who": who,
                "client": asked.client,
                "request_id": asked.id,
            },
        )
        return answers.summary(answered, planned)

    async def _by_link(self, plan: str, token: str) -> Approval:
        """The approval that the link was made for. A wrong token learns nothing, not even whether there is a plan."""
        assert self._links is not None, "the route is there only with links"
        approval = await answers.approval_of(self.face.loop.parts.knowledge, plan)
        # A plan that is not there costs the same comparison.
        expires = approval.expires if approval is not None else 0.0
        if self._links.holds(token, plan, expires) and approval is not None:
            return answers.as_it_stands(approval, self.face.loop.parts.clock.wall())
        raise Refusal(
            403,
            "BAD_LINK",
            "this link answers nothing, or not any more",
            suggestions=["a newer message may have a newer link", f"`x0tta6bl4 approve {plan[:100]}` answers too"],
        )

    async def _link(self, asked: Asked) -> Response:
        """Shows the question and changes nothing: what opens every link in a message must not answer it."""
        token = asked.query.get("token", "")
        try:
            approval = await self._by_link(_plan_in(asked), token)
            told = await answers.detail(self.face.loop, approval)
        except StoreError as error:
            return _told_to(asked, _store_failing(error, "the question cannot be read"))
        except Refusal as refusal:
            return _told_to(asked, refusal)
        is_open = approval.state == "wanted" and not told["moot"]
        text = "".join(question(told, token if is_open else ""))
        return Response(
            text.encode("utf-8", "replace"),
            headers={"content-security-policy": FORM_CSP.decode("ascii")} if is_open else None,
            media_type="text/html",
        )

    async def _answer_link(self, asked: Asked) -> Response:
        try:
            self._must_be_our_page(asked)
            given = await self._form_or_json(asked)
            token = given.pop("token", None) or asked.query.get("token", "")
            said = _said_in(given, ("answer", "who", "why"))
            if not isinstance(token, str):
                raise _bad_answer([Problem("token", "must be text")])
            answered = await self._hand_on(asked, said, f"{said.who or 'unnamed'} (link)", token)
        except Refusal as refusal:
            return _told_to(asked, refusal)
        if not _reads_pages(asked):
            return Response(_json(plain(answered)), media_type="application/json")
        then = (
            "The other checks of the guard still count, and the fault is looked at once more before anything is done."
            if said.approve
            else "It is left to people now."
        )
        text = "".join(note(f"{answered['state'].capitalize()}: {', '.join(answered['steps'])}", [then]))
        return Response(text.encode("utf-8", "replace"), media_type="text/html")

    def _must_be_our_page(self, asked: Asked) -> None:
        """The token is what keeps strangers out; this keeps out a page of theirs that has come by one.

        With no-referrer a browser gives the origin of a form as ``null``, so that one says nothing.
        """
        site = asked.headers.get(b"sec-fetch-site", b"same-origin")
        origin = asked.headers.get(b"origin", b"null").decode("latin-1").lower()
        host = asked.headers.get(b"host", b"").decode("latin-1").lower()
        place = origin.partition("://")[2]
        assert self._links is not None, "the route is there only with links"
        is_ours = origin == "null" or (place != "" and (place == host or place.partition(":")[0] == self._links.host))
        if site not in (b"same-origin", b"none") or not is_ours:
            raise Refusal(403, "CROSS_SITE", "a page of another site cannot answer")

    async def _form_or_json(self, asked: Asked) -> dict[str, Any]:
        if _content_type(asked) != b"application/x-www-form-urlencoded":
            body = await self._json_body(asked, is_needed=True)
            if not isinstance(body, dict):
                raise _bad_answer([Problem("the body", "must be an object")])
            return dict(body)
        try:
            pairs = parse_qsl(
                (await self._body(asked)).decode("ascii"), keep_blank_values=True, max_num_fields=8, errors="strict"
            )
        except ValueError as error:
            raise Refusal(400, "BAD_FORM", "the body is no form") from error
        if len({name for name, _ in pairs}) != len(pairs):
            raise _bad_answer([Problem("the form", "says something twice")])
        return dict(pairs)


def _flags_in(body: Any) -> dict[str, bool]:
    """The flags to set, or a Refusal with every mistake: then none is set."""
    if not isinstance(body, dict) or not body:
        raise Refusal(
            422, "NO_FLAGS", "the body must be an object of flags", suggestions=['for example {"auto_healing": true}']
        )
    problems: list[Problem] = []
    for name, value in body.items():
        try:
            known_flag(name)
        except ConfigError as error:
            problems += error.problems
        else:
            if not isinstance(value, bool):
                problems.append(Problem(f"flags.{name}", "must be true or false"))
    if problems:
        raise _wrong_flags(problems)
    return body


@dataclass(frozen=True, slots=True)
class _Said:
    approve: bool
    who: str
    why: str


def _said_in(body: Any, known: Sequence[str]) -> _Said:
    """What a person answered, or a Refusal with every mistake in it."""
    if not isinstance(body, dict):
        raise _bad_answer([Problem("the body", "must be an object")])
    problems = [Problem(str(name)[:50], "is not known here") for name in body if name not in known]
    if body.get("answer") not in ("approve", "reject"):
        problems.append(Problem("answer", "must be approve or reject"))
    texts = {}
    for name, limit in (("who", WHO_LIMIT), ("why", WHY_LIMIT)):
        text = body.get(name, "")
        if not isinstance(text, str):
            problems.append(Problem(name, "must be text"))
            continue
        # One line: it is shown in terminals, logs and sentences of the guard.
        texts[name] = " ".join(text.split())
        if len(texts[name]) > limit:
            problems.append(Problem(name, f"has more than {limit} characters"))
        if not texts[name].isprintable():
            problems.append(Problem(name, "has characters that cannot be shown"))
    if problems:
        raise _bad_answer(problems)
    return _Said(body["answer"] == "approve", texts["who"], texts["why"])


def _bad_answer(problems: Sequence[Problem]) -> Refusal:
    return Refusal(
        422,
        "BAD_ANSWER",
        "; ".join(map(str, problems[:5]))[:1000],
        details={"mistakes": [{"where": p.where, "message": p.message} for p in problems[:50]]},
        suggestions=['for example {"answer": "approve", "who": "oncall", "why": "looked at it"}'],
    )


def _event_in(body: Any) -> tuple[str, dict[str, Any]]:
    """What is said to a runbook, or a Refusal with every mistake in it."""
    if not isinstance(body, dict):
        raise _bad_event([Problem("the body", "must be an object")])
    problems = [Problem(str(n)[:50], "is not known here") for n in body if n not in ("event", "data", "why")]
    event, data, why = body.get("event"), body.get("data", {}), body.get("why", "")
    if not isinstance(event, str):
        problems.append(Problem("event", "must be text"))
    elif wrong := wrong_event(event):
        problems.append(Problem("event", wrong))
    if not isinstance(data, dict):
        problems.append(Problem("data", "must be an object"))
    elif wrong := wrong_data(data):
        problems.append(Problem("data", wrong))
    if not isinstance(why, str):
        problems.append(Problem("why", "must be text"))
    elif len(why) > WHY_LIMIT or not " ".join(why.split()).isprintable():
        problems.append(Problem("why", f"must be readable text of at most {WHY_LIMIT} characters"))
    if problems:
        raise _bad_event(problems)
    return body["event"], {**data, "why": " ".join(why.split())} if why.strip() else dict(data)


def _bad_event(problems: Sequence[Problem]) -> Refusal:
    return Refusal(
        422,
        "BAD_EVENT",
        "; ".join(map(str, problems[:5]))[:1000],
        details={"mistakes": [{"where": p.where, "message": p.message} for p in problems[:50]]},
        suggestions=['for example {"event": "operator.hold", "data": {}, "why": "looking at it"}'],
    )


def _whether_heard(event: str, incident: Incident, books: Sequence[Book]) -> str:
    """What keeps its runbook from taking the event now; empty: nothing. Refusal when it never listens to it."""
    kept = next((book for book in books if book.hash == incident.place.get("book")), None)
    if kept is None or incident.place.get("ended") is not None:
        return ""
    book, _ = parse(json.loads(kept.source), kept.name)
    try:
        words = heard(book, incident, time.time()) if book is not None else {}
    except SnapshotError:
        return ""  # the daemon begins it anew, and nobody knows yet where that leads
    found = is_heard(event, words) if words else ""
    if found is None and event != ABORT:
        raise Refusal(
            422,
            "UNKNOWN_EVENT",
            f"nothing in {kept.name} v{kept.version} ever listens to {event!a}",
            details={"hears": words},
            suggestions=["it listens to " + ", ".join([*words, ABORT])],
        )
    return found or ""


def _must_be_open(approval: Approval, told: Mapping[str, Any], moot: str) -> None:
    if approval.state == "wanted" and not moot:
        return
    code, message = {
        "wanted": ("APPROVAL_MOOT", moot),
        "expired": ("APPROVAL_EXPIRED", f"it expired {told['expires']}; if the fault is still there, it is asked anew"),
    }.get(approval.state, ("APPROVAL_ANSWERED", f"it was {approval.state} before, by {approval.who}; that stands"))
    raise Refusal(409, code, message, details={"approval": plain(told)})


def _store_failing(error: StoreError, what: str) -> Refusal:
    return Refusal(
        503,
        "STORE_FAILING",
        f"{what}: {error.message}",
        suggestions=[error.remedy] if error.remedy else [],
        headers=[(b"retry-after", b"5")],
    )


def _plan_in(asked: Asked) -> str:
    return asked.path[len(APPROVALS) + 1 :].removesuffix("/answer")


def _content_type(asked: Asked) -> bytes:
    return asked.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def _reads_pages(asked: Asked) -> bool:
    return b"text/html" in asked.headers.get(b"accept", b"")


def _told_to(asked: Asked, refusal: Refusal) -> Response:
    """A refusal in the words of who asked: a person with a browser cannot read the other kind."""
    if not _reads_pages(asked):
        raise refusal
    text = "".join(note(refusal.message, refusal.suggestions))
    response = Response(text.encode("utf-8", "replace"), refusal.status, media_type="text/html")
    response.raw_headers += refusal.headers
    return response


def _wrong_flags(problems: Sequence[Problem]) -> Refusal:
    return Refusal(
        422,
        "INVALID_FLAGS",
        "; ".join(map(str, problems[:5]))[:1000],
        details={"mistakes": [{"where": p.where[:200], "message": p.message, "hint": p.hint} for p in problems[:50]]},
        suggestions=sorted({p.hint for p in problems if p.hint}),
    )


def _checks(name: str, checks: Mapping[str, str], query: QueryParams) -> Response:
    """As Kubernetes words it. A check with a reason has failed, unless it was excluded."""
    excluded = set(query.getlist("exclude")) if query else set()
    failed = [check for check, reason in checks.items() if reason and check not in excluded]
    lines = [
        f"[+]{check} excluded: ok"
        if check in excluded
        else f"[-]{check} failed: {reason}"
        if reason
        else f"[+]{check} ok"
        for check, reason in checks.items()
    ]
    if unknown := sorted(excluded - checks.keys()):
        quoted = ", ".join(ascii(one[:100]) for one in unknown[:20])
        lines.append(f"warn: some health checks cannot be excluded: no matches for {quoted}")
    lines.append(f"{name} check {'failed' if failed else 'passed'}")
    if not failed and "verbose" not in query:
        lines = ["ok"]
    return Response("\n".join(lines) + "\n", 503 if failed else 200, media_type="text/plain")


def _takes_gzip(accept_encoding: str) -> bool:
    weights = {}
    for offer in accept_encoding.lower().split(","):
        coding, *parameters = (part.strip() for part in offer.split(";"))
        weight = next((p[2:].strip() for p in parameters if p.startswith("q=")), "1")
        weights[coding] = re.fullmatch(r"0?\.?0*", weight) is None
    return weights.get("gzip", weights.get("*", False))


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
