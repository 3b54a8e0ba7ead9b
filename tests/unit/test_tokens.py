"""Tokens: what is refused and by which name, whatever somebody makes of one, and that nothing else is ever raised."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x0tta6bl4.status.tokens import (
    ACCESS_SECONDS,
    AGAIN_WITHIN,
    AHEAD,
    AUDIENCE,
    ISSUER,
    LONGEST,
    REFRESH_SECONDS,
    SESSION_SECONDS,
    Claims,
    TokenRefused,
    Tokens,
    digest,
)
from x0tta6bl4.testing.fakes import FakeClock

KEY = b"0123456789abcdef0123456789abcdef"
SESSION = "00112233445566ff"
CODES = {"TOKEN_MALFORMED", "TOKEN_FOREIGN", "TOKEN_CLAIMS", "TOKEN_USE", "TOKEN_FUTURE", "TOKEN_EXPIRED"}


def made() -> Tokens:
    return Tokens(KEY, FakeClock())


TOKENS = made()
NOW = int(TOKENS.clock.wall())
LINE, REFRESH = TOKENS.begin(SESSION, "oncall")
ACCESS = TOKENS.access(LINE)
GOOD: dict[str, Any] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "use": "access",
    "sub": "oncall",
    "sid": SESSION,
    "jti": "0123456789abcdef",
    "iat": NOW,
    "exp": NOW + 900,
}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: Any, payload: Any, key: bytes = KEY) -> str:
    """Signed with our key, whatever stands in it: as the worst of forgers could."""
    head = b64(header if isinstance(header, bytes) else json.dumps(header).encode())
    body = b64(payload if isinstance(payload, bytes) else json.dumps(payload).encode())
    return f"{head}.{body}.{b64(hmac.new(key, f'{head}.{body}'.encode(), hashlib.sha256).digest())}"


def with_our_head(payload: bytes | dict[str, Any], key: bytes = KEY) -> str:
    head = ACCESS.partition(".")[0]
    body = b64(payload if isinstance(payload, bytes) else json.dumps(payload).encode())
    return f"{head}.{body}.{b64(hmac.new(key, f'{head}.{body}'.encode(), hashlib.sha256).digest())}"


def code_of(token: str, use: Any = "access", tokens: Tokens = TOKENS) -> str:
    with pytest.raises(TokenRefused) as caught:
        tokens.read(token, use)
    assert caught.value.message
    return caught.value.code


def test_a_token_says_whose_it_is_and_until_when() -> None:
    assert TOKENS.read(with_our_head(GOOD), "access") == Claims(
        "access", "oncall", SESSION, "0123456789abcdef", NOW, NOW + 900
    )
    read = TOKENS.read(ACCESS, "access")
    assert (read.subject, read.session, read.expires_at - read.issued_at) == ("oncall", SESSION, ACCESS_SECONDS)
    read = TOKENS.read(REFRESH, "refresh")
    assert (read.subject, read.session, read.expires_at - read.issued_at) == ("oncall", SESSION, REFRESH_SECONDS)
    assert jwt.get_unverified_header(ACCESS)["alg"] == "HS256"
    assert KEY not in repr(TOKENS).encode() and repr(KEY) not in repr(TOKENS)


head, body, signature = ACCESS.split(".")
FORMS = {
    "nothing": "",
    "a word": "token",
    "two parts": f"{head}.{body}",
    "four parts": f"{ACCESS}.{signature}",
    "five parts (encrypted)": f"{head}.{body}.{signature}.{body}.{signature}",
    "no signature": f"{head}.{body}.",
    "no payload": f"{head}..{signature}",
    "only dots": "..",
    "blank before": f" {ACCESS}",
    "a line's end": f"{ACCESS}\n",
    "padded": f"{ACCESS}=",
    "standard base64": f"{head}.{body}.+{signature[1:]}",
    "unicode": ACCESS[:-1] + "\u0131",
    "full-width": ACCESS.replace("e", "\uff45"),
    "lone surrogate": ACCESS[:-1] + "\udc80",
    "nul": ACCESS[:-1] + "\0",
    "huge": "A" * 5_000_000,
    "huge in its form": f"{head}.{'A' * 1_000_000}.{signature}",
    "a bit too long": f"{head}.{'A' * LONGEST}.{signature}",
    "with Bearer": f"Bearer {ACCESS}",
}
FOREIGN = {
    "alg none": f"{b64(json.dumps({'alg': 'none', 'typ': 'JWT'}).encode())}.{body}.{signature}",
    "alg None, signed": forged({"alg": "None", "typ": "JWT"}, GOOD),
    "alg RS256 with our key as its secret": forged({"alg": "RS256", "typ": "JWT"}, GOOD),
    "alg ES256": forged({"alg": "ES256", "typ": "JWT"}, GOOD),
    "alg HS512": jwt.encode(GOOD, KEY * 2, "HS512"),
    "alg HS384, our key": forged({"alg": "HS384", "typ": "JWT"}, GOOD),
    "alg missing": forged({"typ": "JWT"}, GOOD),
    "alg a list": forged({"alg": ["HS256"], "typ": "JWT"}, GOOD),
    "alg null": forged({"alg": None}, GOOD),
    "kid a path": forged({"alg": "HS256", "typ": "JWT", "kid": "../../dev/null"}, GOOD),
    "kid of SQL": forged({"alg": "HS256", "typ": "JWT", "kid": "x' UNION SELECT 'k"}, GOOD),
    "a key of its own": forged({"alg": "HS256", "jwk": {"kty": "oct", "k": "AA"}}, GOOD, b"\0"),
    "a key to fetch": forged({"alg": "HS256", "jku": "https://keys.example.org/"}, GOOD),
    "a certificate to fetch": forged({"alg": "HS256", "x5u": "https://keys.example.org/"}, GOOD),
    "critical": forged({"alg": "HS256", "typ": "JWT", "crit": ["b64"], "b64": False}, GOOD),
    "header is a list": forged([], GOOD),
    "header is a bomb": forged(b"[" * 700, b"{}"),
    "header is no text": forged(b"\xff\xfe", GOOD),
    "header in another order": forged({"typ": "JWT", "alg": "HS256"}, GOOD),
    "another key": with_our_head(GOOD, b"x" * 32),
    "an empty key": with_our_head(GOOD, b""),
    "signature of another token": f"{head}.{body}.{REFRESH.rpartition('.')[2]}",
    "payload changed": f"{head}.{b64(json.dumps({**GOOD, 'sub': 'root'}).encode())}.{signature}",
    "another issuer": with_our_head({**GOOD, "iss": "somebody"}),
    "issuer a list": with_our_head({**GOOD, "iss": [ISSUER]}),
    "another audience": with_our_head({**GOOD, "aud": "another.service"}),
    "several audiences": with_our_head({**GOOD, "aud": [AUDIENCE, "another.service"]}),
}
CLAIMS = {
    "audience an object": {**GOOD, "aud": {}},
    "audience empty": {**GOOD, "aud": ""},
    "use null": {**GOOD, "use": None},
    **{f"no {name}": {key: value for key, value in GOOD.items() if key != name} for name in GOOD},
    "exp text": {**GOOD, "exp": str(NOW + 900)},
    "exp a float": {**GOOD, "exp": NOW + 900.5},
    "exp NaN": {**GOOD, "exp": float("nan")},
    "exp infinite": {**GOOD, "exp": float("inf")},
    "exp true": {**GOOD, "exp": True},
    "exp null": {**GOOD, "exp": None},
    "exp a list": {**GOOD, "exp": [NOW]},
    "exp after all time": {**GOOD, "exp": 10**30},
    "exp negative": {**GOOD, "exp": -1},
    "iat text": {**GOOD, "iat": "now"},
    "iat NaN": {**GOOD, "iat": float("nan")},
    "iat null": {**GOOD, "iat": None},
    "sub a number": {**GOOD, "sub": 1},
    "sub null": {**GOOD, "sub": None},
    "sub empty": {**GOOD, "sub": ""},
    "sub a list": {**GOOD, "sub": ["oncall"]},
    "sub long": {**GOOD, "sub": "x" * 300},
    "sid a path": {**GOOD, "sid": "../" * 8},
    "sid a number": {**GOOD, "sid": 1234567890123456},
    "sid an object": {**GOOD, "sid": {"$ne": ""}},
    "sid with a line's end": {**GOOD, "sid": SESSION + "\n"},
    "jti a number": {**GOOD, "jti": 7},
    "jti null": {**GOOD, "jti": None},
    "jti empty": {**GOOD, "jti": ""},
}
TIMES = {
    "over": ({**GOOD, "exp": NOW}, "TOKEN_EXPIRED"),
    "long over": ({**GOOD, "iat": 0, "exp": 1}, "TOKEN_EXPIRED"),
    "from the future": ({**GOOD, "iat": NOW + int(AHEAD) + 1, "exp": NOW + 9000}, "TOKEN_FUTURE"),
}
USES = {
    "a refresh token": {**GOOD, "use": "refresh"},
    "use unknown": {**GOOD, "use": "admin"},
    "use a list": {**GOOD, "use": ["access"]},
    "use in capitals": {**GOOD, "use": "ACCESS"},
}
CUT = (ACCESS[:-1], ACCESS[:-4], ACCESS[:-40], ACCESS[1:], ACCESS[: len(ACCESS) // 2])
PAYLOADS = {
    "no JSON": b"{",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "no text": b"\xff\xfe\xfd",
    "a bomb of lists": b"[" * 600,
    "a bomb of objects": b'{"a":' * 120,
    "a number of many digits": b'{"exp":' + b"9" * 600 + b"}",
}


@pytest.mark.parametrize("name", FORMS)
def test_what_has_not_the_form_is_no_token(name: str) -> None:
    assert code_of(FORMS[name]) == "TOKEN_MALFORMED"


@pytest.mark.parametrize("name", FOREIGN)
def test_what_was_not_made_here_is_foreign_whatever_it_says(name: str) -> None:
    assert code_of(FOREIGN[name]) == "TOKEN_FOREIGN"


@pytest.mark.parametrize("token", CUT)
def test_a_part_of_a_token_is_none(token: str) -> None:
    assert code_of(token) in {"TOKEN_MALFORMED", "TOKEN_FOREIGN"}


@pytest.mark.parametrize("name", CLAIMS)
def test_what_lacks_a_claim_or_has_a_wrong_one_is_refused_even_signed(name: str) -> None:
    assert code_of(with_our_head(CLAIMS[name])) in {"TOKEN_CLAIMS", "TOKEN_MALFORMED", "TOKEN_FOREIGN"}


@pytest.mark.parametrize("name", TIMES)
def test_what_holds_at_another_time_does_not_hold_now(name: str) -> None:
    claims, code = TIMES[name]
    assert code_of(with_our_head(claims)) == code


@pytest.mark.parametrize("name", USES)
def test_a_token_is_for_one_use(name: str) -> None:
    assert code_of(with_our_head(USES[name])) == "TOKEN_USE"
    assert code_of(ACCESS, "refresh") == "TOKEN_USE"
    assert code_of(REFRESH, "access") == "TOKEN_USE"


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_that_is_no_object_is_refused_even_signed(name: str) -> None:
    assert code_of(with_our_head(PAYLOADS[name])) in {"TOKEN_MALFORMED", "TOKEN_CLAIMS"}


def test_a_bomb_deep_in_the_stack_is_a_refusal_too() -> None:
    def deep(left: int) -> str:
        return deep(left - 1) if left else code_of(with_our_head(b"[" * 600))

    assert deep(600) == "TOKEN_MALFORMED"


@settings(deadline=None)
@given(st.text(max_size=200))
def test_no_text_raises_anything_else(text: str) -> None:
    assert code_of(text) in CODES
    assert code_of(f"{head}.{text}.{signature}") in CODES


@settings(deadline=None)
@given(st.data())
def test_no_change_of_one_character_goes_unseen(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(ACCESS) - 2))  # the last one has bits that mean nothing
    other = data.draw(st.characters())
    if ACCESS[at] != other:
        assert code_of(ACCESS[:at] + other + ACCESS[at + 1 :]) in CODES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*GOOD, "nbf", "crit", "cnf"]), JSON, max_size=6))
def test_no_claims_raise_anything_else(claims: dict[str, Any]) -> None:
    try:
        read = TOKENS.read(with_our_head({**GOOD, **claims}), "access")
    except TokenRefused as refused:
        assert refused.code in CODES
    else:
        assert type(read.expires_at) is int and read.expires_at > NOW
        assert isinstance(read.subject, str) and read.subject


@settings(deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_no_bytes_raise_anything_else(header: bytes, payload: bytes) -> None:
    assert code_of(forged(header, payload)) in CODES
    assert code_of(with_our_head(payload)) in CODES


# -- the line of refresh tokens ----------------------------------------------------------------------------------------


def test_a_refresh_token_counts_once_and_again_only_at_once() -> None:
    clock = FakeClock()
    tokens = Tokens(KEY, clock)
    line, first = tokens.begin(SESSION, "oncall")
    assert digest(first) == line.current and line.previous == ""

    clock.advance(100)
    turned = tokens.turn(line, first)
    assert turned.how == "turned" and turned.line.previous == line.current
    assert turned.line.current == digest(turned.token) and turned.token != first
    again = tokens.turn(turned.line, first)
    assert (again.how, again.token, again.line) == ("again", turned.token, turned.line)
    clock.advance(AGAIN_WITHIN + 0.01)
    late = tokens.turn(turned.line, first)
    assert (late.how, late.token) == ("reused", "")
    assert tokens.turn(turned.line, turned.token).how == "turned"
    assert first not in repr(turned) and turned.token not in repr(turned)


def test_a_clock_that_was_set_back_makes_no_thief_of_the_owner() -> None:
    clock = FakeClock()
    tokens = Tokens(KEY, clock)
    line, first = tokens.begin(SESSION, "oncall")
    turned = tokens.turn(line, first)
    clock.set_wall(clock.wall() - 5)
    assert tokens.turn(turned.line, first).how == "again"
    assert tokens.read(turned.token, "refresh").session == SESSION


def test_no_token_outlives_its_session() -> None:
    clock = FakeClock()
    tokens = Tokens(KEY, clock)
    line, token = tokens.begin(SESSION, "oncall")
    assert line.ends_at == clock.wall() + SESSION_SECONDS
    clock.advance(SESSION_SECONDS - 60)
    turned = tokens.turn(line, token).line
    assert tokens.read(tokens.access(turned), "access").expires_at == int(line.ends_at)
    assert tokens.refresh_until(turned) == line.ends_at


def test_who_has_the_store_but_not_the_key_has_no_token() -> None:
    other = Tokens(b"x" * 32, TOKENS.clock)
    assert other.refresh(LINE) != REFRESH
    assert code_of(other.refresh(LINE), "refresh") == "TOKEN_FOREIGN"
    assert TOKENS.refresh(LINE) == REFRESH
    assert TOKENS.refresh(replace(LINE, number=2)) != REFRESH
