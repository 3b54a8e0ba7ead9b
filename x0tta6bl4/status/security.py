"""Offers passwords, tokens and keys to programs that use this package as a library, without an endpoint or a store."""

import hmac
import secrets
from collections.abc import Generator, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.status.origins import is_localhost
from x0tta6bl4.status.passwords import ROUNDS, Passwords
from x0tta6bl4.status.tokens import LONGEST_SUBJECT, Line, TokenRefused, Tokens

SESSIONS = 10_000
"""Most sessions that are remembered; the one that was longest unused makes room."""

is_localhost_origin = is_localhost


def generate_api_key() -> str:
    """256 random bits, as 64 hexadecimal digits."""
    return secrets.token_hex(32)


def validate_api_key(given: str | None, expected: str | None) -> bool:
    """Whether they are the same, in a time that does not depend on where they differ.

    False when none is expected: a key that was forgotten in the configuration must not let everybody in.
    """
    if not given or not expected:
        return False
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))


class Text(str):
    """Text that is there at once and can be awaited all the same, for callers that do not know which it is."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, str]:
        yield from ()
        return str(self)


class Pair(tuple[str, str]):
    """An access token and its refresh token, there at once and awaitable, as ``Text`` is."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self


@dataclass(frozen=True, slots=True)
class User:
    """Whose tokens they are. ``token`` and ``refresh`` are the ones to use from now on; often the same as before."""

    id: Hashable
    token: str = field(repr=False)
    refresh: str = field(repr=False)


class Security:
    """Sessions in this process's memory: they end with it, and so does the key unless one is given.

    The endpoint keeps its own in the store (``status.access``); the tokens and their rules are the same.
    """

    def __init__(self, key: bytes | None = None, *, clock: Clock | None = None, rounds: int = ROUNDS) -> None:
        self._key = key or secrets.token_bytes(32)
        self._clock = clock or SystemClock()
        self._passwords = Passwords(rounds)
        self._lines: dict[str, tuple[Line, Hashable]] = {}

    @cached_property
    def _tokens(self) -> Tokens:
        return Tokens(self._key, self._clock)

    def create_tokens(self, user_id: Hashable) -> Pair:
        """An access token and a refresh token for a new session. ValueError for an id that is no name."""
        if not 0 < len(str(user_id)) <= LONGEST_SUBJECT:
            raise ValueError(f"a user's id should have 1 to {LONGEST_SUBJECT} characters")
        line, refresh = self._tokens.begin(secrets.token_hex(16), str(user_id))
        self._keep(line, user_id)
        return Pair((self._tokens.access(line), refresh))

    async def verify_and_refresh_token(self, token: str, refresh_token: str) -> User:
        """The user, with new tokens when the access token is over. TokenRefused when neither proves anything.

        A refresh token that was used before ends the session.
        """
        try:
            claims = self._tokens.read(token, "access")
        except TokenRefused as refused:
            if refused.code != "TOKEN_EXPIRED":
                raise
            return self._refreshed(refresh_token)
        return User(self._line(claims.session)[1], token, refresh_token)

    def end_session(self, token: str) -> None:
        """Neither token of the access token's session holds any more. TokenRefused for a token that holds not now."""
        self._lines.pop(self._tokens.read(token, "access").session, None)

    def get_password_hash(self, password: str) -> Text:
        """Takes a quarter of a second, in which this thread does nothing else."""
        return Text(self._passwords.hash_now(password))

    async def verify_password(self, password: str, hashed: str) -> bool:
        return await self._passwords.holds(password, hashed)

    def _refreshed(self, refresh_token: str) -> User:
        claims = self._tokens.read(refresh_token, "refresh")
        line, user_id = self._line(claims.session)
        turned = self._tokens.turn(line, refresh_token)
        if turned.how == "reused":
            del self._lines[claims.session]
            raise TokenRefused("REFRESH_REUSED", "the token was used before; the session was ended")
        self._keep(turned.line, user_id)
        return User(user_id, self._tokens.access(turned.line), turned.token)

    def _line(self, session: str) -> tuple[Line, Hashable]:
        kept = self._lines.get(session)
        if kept is None:
            raise TokenRefused("SESSION_ENDED", "the session was ended")
        return kept

    def _keep(self, line: Line, user_id: Hashable) -> None:
        self._lines.pop(line.session, None)
        self._lines[line.session] = (line, user_id)
        while len(self._lines) > SESSIONS:
            del self._lines[next(iter(self._lines))]


security = Security()
"""One for the whole process, made of nothing until it is used."""
