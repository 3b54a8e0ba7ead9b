"""Lets operators sign in on the page, and shows and ends their sessions."""

import logging
import math
from typing import Literal

from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.status.access import Access, Caller, Scope, SignedIn, SignInRefused
from x0tta6bl4.status.desk import Desk
from x0tta6bl4.status.door import cookie, unauthorized
from x0tta6bl4.status.problems import Refusal, store_failing, unknown
from x0tta6bl4.status.report import iso
from x0tta6bl4.status.routes import Asked, Gives, Route, Said, answer
from x0tta6bl4.status.tokens import TokenRefused

log = logging.getLogger("x0tta6bl4.status.signin")

SESSION = "/api/v1/session"


class SignInSaid(Said):
    name: str = Field(max_length=200)
    password: str = Field(max_length=1000, repr=False)


class WhoTold(TypedDict):
    name: str
    kind: Literal["local", "token", "key", "session", "nobody"]
    scope: Literal["read", "operate", "admin"] | None
    session: str
    """The id of the session; empty for who is known by something else."""
    can_sign_in: bool
    """Whether there is any operator who could."""


class SessionTold(TypedDict):
    id: str
    operator: str
    scope: Literal["read", "operate", "admin"]
    client: str
    agent: str
    created_at: str | None
    used_at: str | None
    ends_at: str | None
    is_this: bool
    """The one that asks."""


class SessionsTold(TypedDict):
    sessions: list[SessionTold]


class EndedTold(TypedDict):
    ended: bool


class SignIn:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> list[Route]:
        who = {200: Gives("Who that is.", WhoTold)}
        cookies = {"Set-Cookie": "x0_access, x0_refresh and x0_csrf."}
        return [
            Route("GET", SESSION, self._who, "Who is asking, as far as is known.", group="sign-in", gives=who),
            Route(
                "POST",
                SESSION,
                self._sign_in,
                "Signs an operator in, and sets the cookies of the session.",
                group="sign-in",
                said=SignInSaid,
                gives={200: Gives("Signed in.", WhoTold, headers=cookies)},
                refuses=(403, 503),
            ),
            Route(
                "POST",
                f"{SESSION}/refresh",
                self._refresh,
                "New cookies for the session's refresh token, which holds once.",
                group="sign-in",
                gives={200: Gives("The session goes on.", WhoTold, headers=cookies)},
                refuses=(403, 503),
            ),
            Route(
                "DELETE",
                SESSION,
                self._sign_out,
                "Ends the session that asks.",
                group="sign-in",
                gives={200: Gives("It is over.", EndedTold, headers={"Set-Cookie": "Empty ones."})},
                refuses=(403, 503),
            ),
            Route(
                "GET",
                "/api/v1/sessions",
                self._sessions,
                "The sessions that hold: one's own, and for administrators everybody's.",
                Scope.READ,
                "sign-in",
                gives={200: Gives("Those that hold.", SessionsTold)},
                refuses=(503,),
            ),
            Route(
                "DELETE",
                "/api/v1/sessions/{id}",
                self._end,
                "Ends a session: one's own, or for administrators anybody's.",
                Scope.READ,
                "sign-in",
                gives={200: Gives("It is over.", EndedTold)},
                refuses=(404, 503),
            ),
        ]

    @property
    def _access(self) -> Access:
        return self.desk.behind.access

    async def _who(self, asked: Asked) -> Response:
        return answer(await self._told(asked.caller))

    async def _told(self, caller: Caller) -> WhoTold:
        try:
            can_sign_in = await self._access.can_sign_in()
        except StoreError as error:
            raise store_failing(error, "who can sign in is not known") from error
        return {
            "name": caller.name,
            "kind": caller.kind,
            "scope": None if caller.scope is None else caller.scope.value,
            "session": caller.id if caller.kind == "session" else "",
            "can_sign_in": can_sign_in,
        }

    def _must_be_ours(self, asked: Asked) -> None:
        # Or a page elsewhere could sign a visitor in under a name of its own.
        if not self.desk.door.is_ours(asked):
            raise Refusal(403, "CROSS_SITE", "a page of another site cannot sign anybody in or out")

    async def _sign_in(self, asked: Asked) -> Response:
        self._must_be_ours(asked)
        said: SignInSaid = asked.said
        agent = asked.headers.get(b"user-agent", b"").decode("latin-1")
        try:
            signed_in = await self._access.sign_in(said.name, said.password, asked.client, agent)
        except SignInRefused as refused:
            self._count(refused.code)
            raise _no_sign_in(refused) from refused
        except StoreError as error:
            raise store_failing(error, "nobody can sign in now") from error
        self._count("signed_in")
        log.info("signed in", extra={**asked.about(), "who": signed_in.caller.name})
        return self._with_cookies(asked, signed_in, await self._told(signed_in.caller))

    def _count(self, result: str) -> None:
        result = result.lower().removeprefix("sign_in_")
        self.desk.face.metrics.count("x0tta6bl4_sign_ins_total", result=result)

    async def _refresh(self, asked: Asked) -> Response:
        token = cookie(asked, "x0_refresh")
        try:
            await self._by_refresh(asked, token)
            signed_in = await self._access.refresh(token)
        except TokenRefused as refused:
            self._count("reused" if refused.code == "REFRESH_REUSED" else "not_refreshed")
            gone = unauthorized(f"the session does not go on: {refused}", is_wrong=True)
            gone.headers += self._no_cookies(asked)
            raise gone from refused
        except StoreError as error:
            raise store_failing(error, "the session cannot go on now") from error
        return self._with_cookies(asked, signed_in, await self._told(signed_in.caller))

    async def _by_refresh(self, asked: Asked, token: str) -> Caller:
        """Whose refresh token it is; only a page that can read the cookie beside it may use it."""
        caller = await self._access.by_refresh(token)
        asked.caller = caller
        self.desk.door.must_not_be_forged(asked)
        return caller

    async def _sign_out(self, asked: Asked) -> Response:
        caller = asked.caller
        try:
            if caller.kind != "session":
                caller = await self._by_refresh(asked, cookie(asked, "x0_refresh"))
            ended = await self._access.sign_out(caller)
            self.desk.stream.dismiss(caller.id, "signed out")
        except TokenRefused:
            ended = False  # it was over already, and the cookies go all the same
        except StoreError as error:
            raise store_failing(error, "the session was not ended") from error
        response = answer(EndedTold(ended=ended))
        response.raw_headers += self._no_cookies(asked)
        return response

    async def _sessions(self, asked: Asked) -> Response:
        caller = asked.caller
        sees_all = caller.scope is not None and caller.scope.allows(Scope.ADMIN)
        try:
            found = await self._access.sessions(None if sees_all else caller.name if caller.kind == "session" else "")
        except StoreError as error:
            raise store_failing(error, "the sessions cannot be read") from error
        told: SessionsTold = {
            "sessions": [
                {
                    "id": one.id,
                    "operator": one.operator,
                    "scope": one.scope.value,
                    "client": one.client,
                    "agent": one.agent,
                    "created_at": iso(one.created_at),
                    "used_at": iso(one.used_at),
                    "ends_at": iso(one.ends_at),
                    "is_this": one.id == caller.id,
                }
                for one in found
            ]
        }
        return answer(told)

    async def _end(self, asked: Asked) -> Response:
        caller, id = asked.caller, asked.params["id"]
        sees_all = caller.scope is not None and caller.scope.allows(Scope.ADMIN)
        try:
            own = {} if sees_all else {s.id for s in await self._access.sessions(caller.name)}
            ended = (sees_all or (caller.kind == "session" and id in own)) and await self._access.end_session(
                id, caller.name
            )
        except StoreError as error:
            raise store_failing(error, "the session was not ended") from error
        if not ended:
            raise unknown("NO_SUCH_SESSION", f"no session {id[:100]!a} of yours holds")
        self.desk.stream.dismiss(id, "the session was ended")
        return answer(EndedTold(ended=True))

    # -- cookies -----------------------------------------------------------------------------------------------------

    def _with_cookies(self, asked: Asked, signed_in: SignedIn, told: WhoTold) -> Response:
        response = answer(told)
        for name, value, seconds, is_hidden in (
            ("x0_access", signed_in.access, signed_in.access_seconds, True),
            ("x0_refresh", signed_in.refresh, signed_in.refresh_seconds, True),
            ("x0_csrf", signed_in.csrf, signed_in.refresh_seconds, False),
        ):
            response.raw_headers.append((b"set-cookie", self._cookie(asked, name, value, seconds, is_hidden)))
        return response

    def _no_cookies(self, asked: Asked) -> list[tuple[bytes, bytes]]:
        names = ("x0_access", "x0_refresh", "x0_csrf")
        return [(b"set-cookie", self._cookie(asked, name, "", 0, True)) for name in names]

    def _cookie(self, asked: Asked, name: str, value: str, seconds: float, is_hidden: bool) -> bytes:
        # Not bound to a folder: behind a proxy the page may lie in any.
        is_secure = self.desk.door.is_secure(asked)
        parts = [
            f"{'__Host-' if is_secure else ''}{name}={value}",
            "Path=/",
            f"Max-Age={int(seconds)}",
            "SameSite=Strict",
        ]
        parts += ["HttpOnly"] if is_hidden else []
        parts += ["Secure"] if is_secure else []
        return "; ".join(parts).encode("ascii")


def _no_sign_in(refused: SignInRefused) -> Refusal:
    seconds = math.ceil(refused.retry_after)
    headers = [(b"retry-after", b"%d" % seconds)] if seconds else []
    suggestions = [f"try again in {seconds} s"] if seconds else []
    if refused.code == "SIGN_IN_WRONG":
        headers.append((b"www-authenticate", b'Bearer realm="x0tta6bl4"'))
        suggestions.append("`x0tta6bl4 operators password NAME` gives an operator a new password")
        return Refusal(401, refused.code, str(refused), suggestions=suggestions, headers=headers)
    status = 429 if refused.code == "SIGN_IN_LOCKED" else 503
    return Refusal(status, refused.code, str(refused), suggestions=suggestions, headers=headers)
