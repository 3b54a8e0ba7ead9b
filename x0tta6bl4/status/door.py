"""Looks at every request before anything is done for it: whose host it names, who asks, how often, and may they."""

import hmac
import ipaddress
import math
import random
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Protocol

from starlette.responses import Response

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.status.access import NOBODY, Access, Caller, Scope
from x0tta6bl4.status.face import Face
from x0tta6bl4.status.filekeys import FileKeys
from x0tta6bl4.status.limits import Address, RateLimiter, Taken, address_of, client_key, is_loopback
from x0tta6bl4.status.origins import Origin, parse_origin
from x0tta6bl4.status.problems import Raw, Refusal, store_failing
from x0tta6bl4.status.routes import Asked, Place, Route
from x0tta6bl4.status.tokens import TokenRefused

LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
FORWARDED = (b"x-forwarded-for", b"forwarded", b"x-real-ip", b"x-forwarded-host", b"x-forwarded-proto", b"via")
"""Who passes a request on says so in one of these; then the peer is not who asks."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
HOSTS_KEPT = 64


class DoorSettings(Protocol):
    """What the door must know of the settings; ``settings.model.StatusSettings`` has it."""

    @property
    def host(self) -> str: ...

    @property
    def https_only(self) -> bool: ...

    @property
    def rate_limit_per_minute(self) -> int: ...

    @property
    def cors_origins(self) -> Sequence[str]: ...

    @property
    def trusted_proxies(self) -> Sequence[str]: ...

    @property
    def local_read(self) -> bool: ...


class Door:
    """Knows who asks and keeps out whom the rules keep out. It never looks at what is asked for in detail."""

    def __init__(
        self,
        face: Face,
        settings: DoorSettings,
        access: Access,
        keys: FileKeys,
        outside: str = "",
    ) -> None:
        """``outside``: the name under which a proxy shows the endpoint."""
        self.face = face
        self.settings = settings
        self.access = access
        self.keys = keys
        self.limiter = RateLimiter(settings.rate_limit_per_minute)
        self.names = LOOPBACK_NAMES | {settings.host.lower()} | ({outside.lower()} if outside else set())
        self._proxies = [ipaddress.ip_network(one, strict=False) for one in settings.trusted_proxies]
        self._allowed = {origin for one in settings.cors_origins if (origin := parse_origin(one)) is not None}
        self._hosts: dict[bytes, int] = {}
        self._is_local = settings.host == "localhost" or is_loopback(settings.host)
        self._prefix = secrets.token_hex(5)
        self._requests = 0

    # -- what every request has ----------------------------------------------------------------------------------

    def new_id(self) -> str:
        self._requests += 1
        return f"{self._prefix}-{self._requests:x}"

    def request_id(self, headers: Mapping[bytes, bytes]) -> str:
        given = headers.get(b"x-request-id", b"")
        return given.decode("ascii") if _REQUEST_ID.fullmatch(given) else self.new_id()

    def trace(self, headers: Mapping[bytes, bytes]) -> str:
        """The caller's, when he has one in W3C's form; otherwise a new one."""
        match = _TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
        # It is no secret, and asking the system for randomness would be the dearest part of answering a probe.
        return match[1].decode("ascii") if match else f"{random.getrandbits(128) or 1:032x}"

    def client(self, peer: str, headers: Mapping[bytes, bytes]) -> tuple[str, bool]:
        """The address that asks, and whether it is a neighbour on this host.

        Behind a proxy that is trusted by its address, the last one in its list that is no proxy of ours. Whatever was
        passed on by somebody else is counted as that somebody, and is never a neighbour.
        """
        address = address_of(peer)
        if address is None:
            return peer, False
        is_passed_on = any(name in headers for name in FORWARDED)
        if not (is_passed_on and self._is_proxy(address)):
            return str(address), address.is_loopback and not is_passed_on
        for text in reversed(headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")):
            before = address_of(text.strip())
            if before is None:
                break
            address = before
            if not self._is_proxy(before):
                break
        return str(address), False

    def _is_proxy(self, address: Address) -> bool:
        return any(address in network for network in self._proxies)

    # -- the host and the page it comes from ---------------------------------------------------------------------

    def check_host(self, asked: Asked, has_repeated_headers: bool) -> None:
        host = asked.headers.get(b"host")
        headers: list[Raw] = asked.connection["headers"]
        if has_repeated_headers and sum(name == b"host" for name, _ in headers) > 1:
            raise Refusal(400, "BAD_HOST", "the request names more than one host")
        if host is None:
            if asked.connection["http_version"] != "1.0":
                raise Refusal(400, "BAD_HOST", "the request names no host")
        elif (verdict := self._judge_host(host)) and (verdict != 421 or asked.is_neighbour or self._is_local):
            # An endpoint that others reach may have any name: they show who they are, under whatever name they come.
            raise _foreign_host(verdict, host)

    def _judge_host(self, host: bytes) -> int:
        """0, or the status to refuse with. A page of another site whose name was made to lead here has its own name."""
        known = self._hosts.get(host)
        if known is not None:
            return known
        if len(self._hosts) >= HOSTS_KEPT:
            self._hosts.clear()
        verdict = self._hosts[host] = self._look_at_host(host.decode("latin-1"))
        return verdict

    def _look_at_host(self, host: str) -> int:
        match = _HOST.fullmatch(host)
        if match is None:
            return 400
        name = match[1].lower().rstrip(".")
        if name in self.names or name.endswith(".localhost"):
            return 0
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return 400 if name.startswith("[") else 421
        return 0

    def allowed_origin(self, asked: Asked) -> bytes | None:
        """The origin of a page of another site that may ask, as it is sent back to the browser."""
        given = asked.headers.get(b"origin")
        if given is None:
            return None
        origin = parse_origin(given.decode("latin-1"))
        return given if origin is not None and origin in self._allowed else None

    def is_ours(self, asked: Asked, *, is_null_nobody: bool = True) -> bool:
        """Whether the page that asks is one of this endpoint's own.

        A page with no-referrer gives the origin of its form as ``null``; ``is_null_nobody=False`` takes that for none
        given.
        """
        given = asked.headers.get(b"origin")
        if given is None or (given == b"null" and not is_null_nobody):
            # Browsers send an origin with whatever changes something. Without one, they say at least which site it was.
            return asked.headers.get(b"sec-fetch-site", b"same-origin") in (b"same-origin", b"none")
        return is_same_site(parse_origin(given.decode("latin-1")), asked.headers.get(b"host", b"").decode("latin-1"))

    def to_https(self, asked: Asked) -> Response | None:
        host = asked.headers.get(b"host")
        if not self.settings.https_only or host is None or self.is_secure(asked):
            return None
        connection = asked.connection
        query = b"?" + connection["query_string"] if connection["query_string"] else b""
        name = _HOST.fullmatch(host.decode("latin-1"))
        assert name is not None, "a host that has passed the check"
        place = b"https://" + name[1].encode("ascii") + connection["raw_path"] + query
        return Response(status_code=308, headers={"location": place.decode("latin-1")})

    def is_secure(self, asked: Asked) -> bool:
        """Whether the way to the client is encrypted; a proxy is believed about its part of it on this host, and where
        it is trusted."""
        if asked.connection["scheme"] in ("https", "wss"):
            return True
        if asked.headers.get(b"x-forwarded-proto", b"").strip().lower() != b"https":
            return False
        peer = asked.connection["client"]
        address = address_of(peer[0]) if peer else None
        return address is not None and (address.is_loopback or self._is_proxy(address))

    # -- who ------------------------------------------------------------------------------------------------------

    async def who(self, asked: Asked) -> Caller:
        """Who asks. A credential that is shown and does not hold is a refusal, never a reason to look at the next."""
        shown = _credential(asked)
        if shown is not None:
            return await self._known(shown)
        token = cookie(asked, "x0_access")
        if token:
            caller = await self._by_access(token)
            if caller is not None:
                return caller
            # The page's own session ran out. It is told so where it needs one, and can sign in again.
        return LOCAL if asked.is_neighbour and self.settings.local_read else NOBODY

    async def _known(self, shown: str) -> Caller:
        own = self.face.token
        # An empty token would let everybody in who shows an empty one.
        if own and hmac.compare_digest(shown.encode("utf-8", "replace"), own.encode()):
            return TOKEN
        if (caller := self.keys.find(shown)) is not None:
            return caller
        try:
            found = await self.access.by_key(shown) if shown.startswith("x0k_") else await self._by_access(shown)
        except StoreError as error:
            raise store_failing(error, "who this is cannot be looked up") from error
        if found is not None:
            return found
        raise unauthorized("this key or token is not known here, or not any more", is_wrong=True)

    async def _by_access(self, token: str) -> Caller | None:
        try:
            return await self.access.by_access(token)
        except TokenRefused:
            return None
        except StoreError as error:
            raise store_failing(error, "who this is cannot be looked up") from error

    def must_be_allowed(self, asked: Asked, route: Route) -> None:
        needs = route.needs
        if needs is None:
            return
        caller = asked.caller
        if caller.scope is None or (caller.kind == "local" and not caller.scope.allows(needs)):
            raise unauthorized(f"this needs a key, or to be signed in, with the scope {needs}")
        if not caller.scope.allows(needs):
            raise Refusal(
                403,
                "FORBIDDEN",
                f"{caller.name} has the scope {caller.scope}; this needs {needs}",
                suggestions=["ask an administrator for a key or a sign-in with that scope"],
            )

    def must_not_be_forged(self, asked: Asked) -> None:
        """Cookies are sent by browsers whatever page asks; so a change needs what only our own page can know."""
        if not self.is_ours(asked):
            raise Refusal(403, "CROSS_SITE", "a page of another site cannot change anything here")
        header = asked.headers.get(b"x-csrf-token", b"").decode("latin-1")
        if not self.access.csrf_holds(asked.caller, cookie(asked, "x0_csrf"), header):
            raise Refusal(
                403,
                "CSRF",
                "the request does not carry the token of this session",
                suggestions=["send the value of the cookie x0_csrf as the header X-CSRF-Token", "load the page again"],
            )

    # -- how often -------------------------------------------------------------------------------------------------

    def take(self, asked: Asked, extra: list[Raw]) -> None:
        caller = asked.caller
        per_minute = caller.per_minute or self.limiter.per_minute
        # A key or a session has a bucket of its own: what others do behind the same address is not its doing.
        bucket = caller.id if caller.id else client_key(asked.client)
        taken = self.limiter.take(bucket, per_minute)
        extra += _limit_headers(per_minute, taken)
        if taken.retry_after:
            seconds = math.ceil(taken.retry_after)
            raise Refusal(
                429,
                "RATE_LIMITED",
                f"more than {per_minute} requests in a minute from {caller.name if caller.id else asked.client}",
                details={"retry_after_seconds": round(taken.retry_after, 3)},
                suggestions=[
                    f"ask again in {seconds} s",
                    "`x0tta6bl4 keys create NAME --per-minute N` makes a key with a rate of its own",
                ],
                headers=[(b"retry-after", b"%d" % seconds)],
            )


LOCAL = Caller("local", "local", Scope.READ, "")
TOKEN = Caller("token", "operator", Scope.ADMIN, "")
"""Whoever can read the file is the daemon's user; his rate is that of his address."""


def is_same_site(origin: Origin | None, host: str) -> bool:
    """Whether an origin names the very host and port that the request was sent to."""
    if origin is None:
        return False
    return parse_origin(f"{origin.scheme}://{host}") == origin


def shows_credential(asked: Asked) -> bool:
    """Whether it says in a header who it is: no page of another site can make a browser do that unasked."""
    return b"authorization" in asked.headers or b"x-api-key" in asked.headers


def _credential(asked: Asked) -> str | None:
    """What was shown to be known by; None: nothing."""
    given = asked.headers.get(b"authorization")
    if given is not None:
        scheme, _, shown = given.partition(b" ")
        if scheme.lower() != b"bearer":
            raise unauthorized("the only scheme understood here is Bearer", is_wrong=True)
        return shown.strip().decode("latin-1")
    key = asked.headers.get(b"x-api-key")
    return None if key is None else key.strip().decode("latin-1")


def cookie(asked: Asked, name: str) -> str:
    """The first of that name; browsers send the most specific one first.

    The one with ``__Host-`` counts before all others: only this very host can have set it, over HTTPS.
    """
    found = None
    for part in asked.headers.get(b"cookie", b"").decode("latin-1").split(";"):
        key, _, value = part.strip().partition("=")
        if key == f"__Host-{name}":
            return value
        if key == name and found is None:
            found = value
    return found or ""


def unauthorized(message: str, *, is_wrong: bool = False) -> Refusal:
    challenge = b'Bearer realm="x0tta6bl4"' + (b', error="invalid_token"' if is_wrong else b"")
    return Refusal(
        401,
        "UNAUTHORIZED",
        message,
        suggestions=[
            "send `Authorization: Bearer KEY`; `x0tta6bl4 keys create NAME --scope operate` makes one",
            "or sign in on the page",
            "or send the token in operator.token in the state directory, which only the daemon's user can read",
        ],
        headers=[(b"www-authenticate", challenge)],
    )


def _foreign_host(status: int, host: bytes) -> Refusal:
    shown = ascii(host[:100].decode("latin-1"))
    if status == 400:
        return Refusal(400, "BAD_HOST", f"this is no host: {shown}")
    return Refusal(
        421,
        "FOREIGN_HOST",
        f"{shown} is not a name of this endpoint",
        suggestions=["use the IP address or localhost", "or set status.host (HOST) to that name"],
    )


def _limit_headers(per_minute: int, taken: Taken) -> list[Raw]:
    left, seconds = taken.remaining, math.ceil(taken.full_in)
    return [
        (b"ratelimit-policy", b'"default";q=%d;w=60' % per_minute),
        (b"ratelimit", b'"default";r=%d;t=%d' % (left, seconds)),
        (b"x-ratelimit-limit", b"%d" % per_minute),
        (b"x-ratelimit-remaining", b"%d" % left),
        (b"x-ratelimit-reset", b"%d" % seconds),
    ]


def refuse_method(place: Place, method: str) -> Refusal:
    return Refusal(
        405,
        "METHOD_NOT_ALLOWED",
        f"{method} means nothing here",
        suggestions=[f"{place.path} takes {place.allow}"],
        headers=[(b"allow", place.allow.encode("ascii"))],
    )
