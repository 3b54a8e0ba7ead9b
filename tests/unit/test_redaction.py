"""What must never be printed, what must stay readable, and what the looking may cost."""

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from x0tta6bl4.observability.redaction import (
    ITEMS,
    LIMIT,
    TOTAL,
    is_secret_name,
    redact,
    redact_exception,
    redact_text,
    redact_value,
)

PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIHjk\nAoGCCqGSM49\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail to intruder.o+x@mail.example.com.", "mail to [REDACTED:email]."),
        ("key sk-proj-abcDEF123 used", "key [REDACTED:key] used"),
        ("sk-abcdefghijklmnop", "[REDACTED:key]"),
        ("ghp_0123456789abcdefABCD", "[REDACTED:key]"),
        ("xoxb-12345678-abcdef", "[REDACTED:key]"),
        ("AKIAIOSFODNN7EXAMPLE", "[REDACTED:key]"),
        ("got 9fK2mPq7Zr4Xc8Vb1Nw6Ty3Lh5Jd0GsQ", "got [REDACTED:key]"),
        ("Bearer abcdefgh", "Bearer [REDACTED:token]"),
        ("Basic dXNlcjpwYXNz", "Basic [REDACTED:token]"),
        ("authorization=Bearer sk-abc user=5", "authorization=[REDACTED:secret] user=5"),
        ("Authorization: Digest a=b, c=d\nHost: x", "Authorization: [REDACTED:secret]\nHost: x"),
        ("Set-Cookie: sid=1; Path=/", "Set-Cookie: [REDACTED:secret]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-def", "[REDACTED:jwt]"),
        ("postgres://app:hunter2@db:5432/x", "postgres://app:[REDACTED:password]@db:5432/x"),
        ("redis://:hun/ter2@db", "redis://:[REDACTED:password]@db"),
        (f"a {PEM} b", "a [REDACTED:private-key] b"),
        (PEM[:50], "[REDACTED:private-key]"),
        ("call +44 20 7946 0958 now", "call [REDACTED:phone] now"),
        ("call (030) 1234-5678 now", "call [REDACTED:phone] now"),
        ("+1 (555) 123-4567", "[REDACTED:phone]"),
        ("555-123-4567", "[REDACTED:phone]"),
        ("0171-1234567", "[REDACTED:phone]"),
        ("run --password=a&b --token x -v", "run --password=[REDACTED:secret] --token [REDACTED:secret] -v"),
        ("['--token', 'abc', '-v']", "['--token', '[REDACTED:secret]', '-v']"),
        ("{'password': 'a b', 'port': 1}", "{'password': '[REDACTED:secret]', 'port': 1}"),
        ('{"api_key":"a\\"b","n":1}', '{"api_key":"[REDACTED:secret]","n":1}'),
        ("DB_PASSWORD=x", "DB_PASSWORD=[REDACTED:secret]"),
    ],
)
def test_secrets_and_personal_data_leave_the_text(text: str, expected: str) -> None:
    assert expected == redact_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "connected to 192.168.1.100:8080 and 10.0.0.1",
        "2025-01-17T15:00:00.123456+00:00 and 2025-01-17 15:00:00 and 17/01/2025",
        "at 1737126000.123 since 1737126000",
        "incident 123e4567-e89b-12d3-a456-426614174000",
        "trace 01234567-0123-0123-0123-012345678901",
        "pid=12345 rss=104857600 fds=1024 port 65535",
        "hash=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "user@1000.service and getty@tty1.service failed",
        "left-pad@1.3.0",
        "max_tokens=512 tokens: 5.0",
        "password_file=/run/credentials/db",
        "PWD=/srv/app",
        "basic authentication with a bearer token",
        "Token expired; authorization denied",
        "x0tta6bl4-core-7d9f8b6c5d-x2x4z-with-a-quite-long-pod-name",
        "http://localhost:8080/health?strict=1",
        "password=None",
        "+1048576 bytes",
    ],
)
def test_what_an_operator_needs_stays(text: str) -> None:
    assert text == redact_text(text)


@pytest.mark.parametrize(
    "name",
    ["password", "DB_PASSWORD", "userPassword", "api_key", "X-Api-Key", "accessToken", "private_key", "Cookie",
     "Authorization", "proxy-authorization", "client_secret", "auth", "AWS_SECRET_ACCESS_KEY", "session_id"],
)  # fmt: skip
def test_names_that_smell_of_secrets_are_known(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "author",
        "cache_key",
        "hash",
        "pid",
        "token_count",
        "password_file",
        "secret_name",
        "tokenizer",
        "thread_id",
        "keys",
    ],
)
def test_names_that_only_look_like_secrets_are_not_hidden(name: str) -> None:
    assert not is_secret_name(name)


class Pair(NamedTuple):
    user: str
    password: str


@dataclass
class Login:
    user: str
    api_key: str
    unseen: str = field(default="hunter2", repr=False)


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("cannot print myself")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [{"password": "hunter2"}]}, {"a": [{"password": "[REDACTED:secret]"}]}),
        ({"password": ["hunter2", {"x": "hunter2"}]}, {"password": "[REDACTED:secret]"}),
        (Login("intruder", "hunter2"), {"user": "intruder", "api_key": "[REDACTED:secret]"}),
        (Pair("intruder", "hunter2"), {"user": "intruder", "password": "[REDACTED:secret]"}),
        (["run", "--token", "hunter2", "-v"], ["run", "--token", "[REDACTED:secret]", "-v"]),
        (("run", "--password=hunter2"), ["run", "--password=[REDACTED:secret]"]),
        ([(b"authorization", b"hunter2")], [["authorization", "[REDACTED:secret]"]]),
        ([{"name": "DB_PASSWORD", "value": "hunter2"}], [{"name": "DB_PASSWORD", "value": "[REDACTED:secret]"}]),
        (b"password=hunter2", "password=[REDACTED:secret]"),
        (ValueError("password=hunter2"), "ValueError: password=[REDACTED:secret]"),
        ({"a@b.co": 1, "c@d.co": 2}, {"[REDACTED:email]": 1, "[REDACTED:email] #1": 2}),
        ({"has_password": True, "token": None, "tokens": 5}, {"has_password": True, "token": None, "tokens": 5}),
        ({1: 2.5}, {"1": 2.5}),
    ],
)
def test_structures_are_walked(value: Any, expected: Any) -> None:
    assert expected == redact_value(value)


def test_an_object_that_cannot_print_itself_is_named_nonetheless() -> None:
    assert "Broken" in redact_value({"x": Broken()})["x"]


def test_depth_and_size_are_bounded_and_what_is_cut_is_said() -> None:
    endless: list[Any] = []
    endless.extend([endless] * 50)
    wide = redact_value(list(range(ITEMS + 5)))

    assert len(repr(redact_value(endless))) < 20 * TOTAL
    assert "[cut]" in repr(redact_value(endless))
    assert wide[-1] == "[cut: 5 more]"
    assert "bits" in redact_value(1 << 100_000)


def test_a_long_text_is_cut_before_it_is_matched_and_says_so() -> None:
    shown = redact_text("word " * LIMIT)

    assert len(shown) <= LIMIT
    assert shown.endswith(f"… [cut, was {5 * LIMIT} characters]")


@pytest.mark.parametrize("offset", range(-40, 120, 7))
def test_a_secret_that_straddles_the_cut_does_not_show(offset: int) -> None:
    filler = "x " * (LIMIT // 2)
    shown = redact_text(filler[: LIMIT - offset] + " https://app:hunter2hunter2@db/x" + filler)

    assert "hunter2" not in shown


def test_the_event_keeps_its_shape_and_loses_its_secrets() -> None:
    try:
        try:
            raise ValueError("token=hunter2")
        except ValueError as error:
            raise RuntimeError("mail intruder@example.com") from error
    except RuntimeError as error:
        event = redact(
            None, "error", {"event": "failed for intruder@example.com", "cookie": "hunter2", "n": 3, "exc_info": error}
        )

    assert event["event"] == "failed for [REDACTED:email]"
    assert event["cookie"] == "[REDACTED:secret]"
    assert event["n"] == 3
    assert "exc_info" not in event
    assert "ValueError: token=[REDACTED:secret]" in event["exception"]
    assert "RuntimeError: mail [REDACTED:email]" in event["exception"]
    assert "hunter2" not in event["exception"]


def test_an_endless_recursion_prints_a_bounded_traceback() -> None:
    def dive(n: int) -> int:
        return dive(n + 1) + 1

    with pytest.raises(RecursionError) as caught:
        dive(0)
    text = redact_exception(caught.value)

    assert len(text) < 10_000
    assert "RecursionError: maximum recursion depth exceeded" in text


WORD = st.text("abcdefghijkmnpqrstuvwxyzABCDEFGH23456789", min_size=12, max_size=24).map(lambda tail: "Zq7" + tail)
AROUND = st.text(st.characters(codec="utf-8", exclude_characters="\"'\\[]"), max_size=60)
SHAPES = st.sampled_from(
    [
        "password={}", "--password={}", "--token {}", "Authorization: Bearer {}", "authorization=Basic {}",
        "api_key: {}", 'Cookie: sid="{}"',
        "'secret': '{}'", '"client_secret":"{}"', "Bearer {}", "sk-proj-{}", "ghp_{}", "xoxb-{}", "redis://:{}@cache:6379",
        "https://user:{}@example.com/path", "{}@example.com", "eyJhbGciOiJI.{}.{}",
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----", "Cookie: a=1; sid={}", "?access_token={}",
    ]
)  # fmt: skip


@settings(deadline=None)
@given(before=AROUND, after=AROUND, shape=SHAPES, secret=WORD)
def test_a_planted_secret_never_comes_through(before: str, after: str, shape: str, secret: str) -> None:
    shown = redact_text(f"{before} {shape.replace('{}', secret)} {after}")

    assert secret not in shown
    assert "[REDACTED:" in shown


PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4) | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(value=PLAIN, secret=WORD, name=st.sampled_from(["password", "x_token", "Api-Key", "cookie"]), wrap=st.booleans())
def test_a_secret_below_its_name_never_comes_through(value: Any, secret: str, name: str, wrap: bool) -> None:
    planted = {"other": value, name: [secret] if wrap else secret}

    assert secret not in repr(redact_value({"outer": [planted], "exc": ValueError(f"{name}={secret}")}))


HOSTILE = st.lists(
    st.sampled_from(
        ["password", "=", ":", " ", '"', "'", "\\", "@", "a", ".", "co", "://", "u:p@h", "+", "49", "030", "-", "--",
         "token", "Bearer ", "Basic ", "eyJhbGciOi", "sk-", "PRIVATE KEY", "-----", "BEGIN ", "END ", "\n",
         "[REDACTED:",
         "]", "[REDACTED:secret]", "private-key", "/", "(", ")", "555-123-4567", "cookie", "aB3xY9", "é", "\ud800"]
    ),
    max_size=60,
).map("".join)  # fmt: skip


@settings(deadline=None)
@given(text=st.text(max_size=300) | HOSTILE)
@example(text="a@b.co " * 1100)
@example(text="password='" + "x" * 9000)
@example(text="bearer " * 1170)
@example(text="Cookie: " + "x" * 9000)
@example(text="--token " + "x" * 9000)
@example(text="x" * 9000)
def test_redacting_again_changes_nothing_and_nothing_raises(text: str) -> None:
    once = redact_text(text)

    assert once == redact_text(once)
    assert len(once) <= LIMIT


@settings(deadline=None)
@given(value=PLAIN)
def test_redacting_a_value_again_changes_nothing(value: Any) -> None:
    once = redact_value(value)

    assert repr(once) == repr(redact_value(once))


ATTACKS = ["a", "@", "a@", "a@b.", "://a:", "+1 ", "0171 ", "(030) 1234", "password=", 'password="', "--token ",
           "eyJ", "eyJa.", "password=a=", "token: ",
           "-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "sk-", "bearer ", "aB3-", "'", "cookie:", "1-", "123-456-",
           "a:b@c://", "tokentoken."]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_cost_grows_with_the_length_and_no_faster(attack: str) -> None:
    """8000 characters in two long pieces or in sixteen short ones: a quadratic pattern would cost 8 times more."""

    def cost(length: int) -> float:
        text = (attack * length)[:length]
        best = float("inf")
        for _ in range(5):
            start = time.process_time()
            for _ in range(8000 // length):
                redact_text(text)
            best = min(best, time.process_time() - start)
        return best

    assert cost(4000) < 4 * cost(500) + 0.001
