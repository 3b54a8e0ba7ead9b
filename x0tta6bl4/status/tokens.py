"""Makes and reads the signed tokens of a session, and tells a refresh token that is used again from a stolen one."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from x0tta6bl4.kernel.errors import X0tError
from x0tta6bl4.ports.clock import Clock

ACCESS_SECONDS = 15 * 60.0
REFRESH_SECONDS = 14 * 86400.0
SESSION_SECONDS = 30 * 86400.0
"""How long a session may last, however often it is refreshed; then the person signs in again."""
AGAIN_WITHIN = 10.0
"""
Seconds after a refresh in which the token before it is answered with the very tokens that the refresh gave.

Two tabs that refresh in the same moment, or a browser whose answer was lost, show the same token twice and are no
theft. Nothing is lost by it: no second line of tokens begins, so of a thief and an owner the one who comes later shows
a token that was used before, and that ends the session.
"""
AHEAD = 60.0
"""Seconds that a token may be from the future: the clock was set back since it was made."""

ISSUER = "x0tta6bl4"
AUDIENCE = "x0tta6bl4.endpoint"
ALGORITHM = "HS256"
LONGEST = 1024
"""Characters of the longest token that is read. Ours have some 400."""
LONGEST_SUBJECT = 256
CLAIMS = ("exp", "iat", "sub", "sid", "jti", "iss", "aud", "use")

Use = Literal["access", "refresh"]
_ID = re.compile(r"[0-9a-f]{16,64}", re.ASCII)
_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


class TokenRefused(X0tError):
    """A token that proves nothing; ``code`` names why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says that was signed here and is not over."""

    use: Use
    subject: str
    session: str
    id: str
    issued_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class Line:
    """The refresh tokens of one session: one of them counts, and each use puts the next one in its place."""

    session: str
    subject: str
    ends_at: float
    """Wall-clock seconds; no token of the session holds longer."""
    number: int
    turned_at: float
    """When the one that counts was made."""
    current: str
    previous: str
    """Hashes of the one that counts and the one before it; empty when there was none."""


@dataclass(frozen=True, slots=True)
class Turned:
    """What showing a refresh token led to. ``token`` is the one that counts now; empty after a reuse."""

    how: Literal["turned", "again", "reused"]
    line: Line
    token: str = field(repr=False)


@dataclass(frozen=True)
class Tokens:
    key: bytes = field(repr=False)
    clock: Clock

    # -- making ---------------------------------------------------------------------------------------------------

    def begin(self, session: str, subject: str) -> tuple[Line, str]:
        """A new session's line, and its first refresh token."""
        now = self.clock.wall()
        line = Line(session, subject, now + SESSION_SECONDS, 1, now, "", "")
        token = self.refresh(line)
        return replace(line, current=digest(token)), token

    def turn(self, line: Line, shown: str) -> Turned:
        """What becomes of the line when this refresh token, whose signature holds, is shown."""
        now, shown_digest = self.clock.wall(), digest(shown)
        if hmac.compare_digest(shown_digest, line.current):
            after = replace(line, number=line.number + 1, turned_at=now, previous=line.current)
            token = self.refresh(after)
            return Turned("turned", replace(after, current=digest(token)), token)
        if hmac.compare_digest(shown_digest, line.previous) and abs(now - line.turned_at) <= AGAIN_WITHIN:
            return Turned("again", line, self.refresh(line))
        return Turned("reused", line, "")

    def access(self, line: Line) -> str:
        now = self.clock.wall()
        return self._signed(line, "access", secrets.token_hex(8), now, min(now + ACCESS_SECONDS, line.ends_at))

    def refresh(self, line: Line) -> str:
        """The one that counts. Always the same for the same place of the line, so that it need not be kept."""
        place = f"refresh\n{line.session}\n{line.number}"
        id = hmac.new(self.key, place.encode(), hashlib.sha256).hexdigest()
        return self._signed(line, "refresh", id, line.turned_at, min(line.turned_at + REFRESH_SECONDS, line.ends_at))

    def refresh_until(self, line: Line) -> float:
        return min(line.turned_at + REFRESH_SECONDS, line.ends_at)

    def _signed(self, line: Line, use: Use, id: str, now: float, until: float) -> str:
        import jwt

        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "use": use,
            "sub": line.subject,
            "sid": line.session,
            "jti": id,
            "iat": int(now),
            "exp": int(until),
        }
        return jwt.encode(claims, self.key, ALGORITHM)

    # -- reading --------------------------------------------------------------------------------------------------

    def read(self, token: str, use: Use) -> Claims:
        """TokenRefused, and nothing else, for whatever is not a token of that use, made here, that holds now."""
        if len(token) > LONGEST or not _FORM.fullmatch(token):
            raise TokenRefused("TOKEN_MALFORMED", "this is no token")
        if token.partition(".")[0] != self._head:
            # Every token of ours begins alike. So nothing in a foreign one's header (another algorithm, none at all,
            # a key to be fetched) is ever looked at.
            raise TokenRefused("TOKEN_FOREIGN", "the token was not made here")
        return self._judged(self._opened(token), use)

    def prepare(self) -> None:
        """Loads the library, which takes long enough to be done in a thread."""
        assert self._head, "a token begins with something"

    @cached_property
    def _head(self) -> str:
        import jwt

        return jwt.encode({}, self.key, ALGORITHM).partition(".")[0]

    def _opened(self, token: str) -> Mapping[str, Any]:
        import jwt

        options: Any = {
            "require": list(CLAIMS),
            "strict_aud": True,
            # Times are judged below, by the daemon's own clock.
            "verify_exp": False,
            "verify_iat": False,
            "verify_nbf": False,
        }
        try:
            return jwt.decode(
                token, self.key, algorithms=[ALGORITHM], audience=AUDIENCE, issuer=ISSUER, options=options
            )
        except jwt.InvalidSignatureError as error:
            raise TokenRefused("TOKEN_FOREIGN", "the token was not signed with this host's key") from error
        except (jwt.InvalidIssuerError, jwt.InvalidAudienceError) as error:
            raise TokenRefused("TOKEN_FOREIGN", "the token is meant for somebody else") from error
        except jwt.MissingRequiredClaimError as error:
            raise TokenRefused("TOKEN_CLAIMS", f"the token lacks {error.claim}") from error
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            # Not every version of the library has an error of its own for JSON that nobody would write.
            raise TokenRefused("TOKEN_MALFORMED", "the token cannot be read") from error

    def _judged(self, claims: Mapping[str, Any], use: Use) -> Claims:
        if claims["use"] != use:
            raise TokenRefused("TOKEN_USE", f"this is no {use} token")
        texts = [claims["sub"], claims["sid"], claims["jti"]]
        times = [claims["iat"], claims["exp"]]
        # A bool is an int in Python, and NaN would compare as neither over nor valid.
        if not all(type(one) is int and 0 <= one < 1 << 40 for one in times):
            raise TokenRefused("TOKEN_CLAIMS", "a time in the token is not a number of seconds")
        if not all(isinstance(one, str) and 0 < len(one) <= LONGEST_SUBJECT for one in texts) or not _ID.fullmatch(
            claims["sid"]
        ):
            raise TokenRefused("TOKEN_CLAIMS", "a name in the token is none")
        now = self.clock.wall()
        if claims["iat"] > now + AHEAD:
            raise TokenRefused("TOKEN_FUTURE", "the token is from the future")
        if claims["exp"] <= now:
            raise TokenRefused("TOKEN_EXPIRED", "the token is over")
        return Claims(use, claims["sub"], claims["sid"], claims["jti"], claims["iat"], claims["exp"])

    # -- forged requests ------------------------------------------------------------------------------------------

    def csrf(self, session: str) -> str:
        """What a page of ours sends back in a header, and no other page can read. Bound to the session."""
        nonce = secrets.token_hex(16)
        return f"{nonce}.{self._csrf_mark(session, nonce)}"

    def csrf_holds(self, session: str, cookie: str, header: str) -> bool:
        nonce, dot, mark = header.partition(".")
        same = hmac.compare_digest(_octets(cookie), _octets(header))
        bound = hmac.compare_digest(_octets(mark), self._csrf_mark(session, nonce).encode())
        return bool(same and bound and dot and session and _ID.fullmatch(nonce))

    def _csrf_mark(self, session: str, nonce: str) -> str:
        return hmac.new(self.key, _octets(f"csrf\n{session}\n{nonce}"), hashlib.sha256).hexdigest()


def digest(token: str) -> str:
    """What is kept of a token. They have 256 random bits or a signature of as many, so no slow hash is needed."""
    return hashlib.sha256(_octets(token)).hexdigest()


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
