"""Who is let in to the endpoint as whom, how often, from which pages and under which names; and who is not."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from asking import HOST, OPERATOR, TOKEN, Browser, Endpoint, Reply, Sent, play, problem, signed_in
from hypothesis import given
from hypothesis import strategies as st

from x0tta6bl4.status import app as app_module
from x0tta6bl4.status.access import TRIES_A_MINUTE, Access, Scope
from x0tta6bl4.status.door import SAFE, Door
from x0tta6bl4.status.filekeys import FileKeys
from x0tta6bl4.status.links import Links
from x0tta6bl4.status.routes import Route
from x0tta6bl4.status.tokens import ACCESS_SECONDS

AWAY = "192.0.2.7"
WHO = "/api/v1/session"
FEATURES = "/api/v1/config/features"
SECRET = "a-key-that-others-keep-in-a-file-0123456789"


async def who(endpoint: Endpoint, **headers: Sent) -> tuple[str, str, str | None]:
    reply = await endpoint.get(WHO, **headers)
    assert 200 == reply.status, reply.text
    return reply.json["kind"], reply.json["name"], reply.json["scope"]


# -- who is who --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_who_asks_from_this_host_without_a_key_may_read(tmp_path: Path, peer: str) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.peer = peer
        assert ("local", "local", "read") == await who(endpoint)
        assert 200 == (await endpoint.get("/status")).status

    play(tmp_path, story)


@pytest.mark.parametrize("peer", ["192.0.2.7", "2001:db8::1", "::ffff:192.0.2.7", "10.0.0.1", "", "nonsense"])
def test_who_asks_from_elsewhere_is_nobody(tmp_path: Path, peer: str) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.peer = peer
        assert ("nobody", "nobody", None) == await who(endpoint)
        problem(await endpoint.get("/status"), 401, "UNAUTHORIZED")

    play(tmp_path, story)


@pytest.mark.parametrize(
    "headers",
    [
        {"x_forwarded_for": "127.0.0.1"},
        {"x_forwarded_for": ""},
        {"forwarded": "for=127.0.0.1"},
        {"x_real_ip": "::1"},
        {"x_forwarded_proto": "https"},
        {"x_forwarded_host": "localhost"},
        {"via": "1.1 proxy"},
    ],
)
@pytest.mark.parametrize("trusted", [[], ["127.0.0.1"]])
def test_what_somebody_passes_on_does_not_come_from_a_neighbour(
    tmp_path: Path, trusted: list[str], headers: dict[str, str]
) -> None:
    """A proxy on this host would make neighbours of all the world."""

    async def story(endpoint: Endpoint) -> None:
        assert ("nobody", "nobody", None) == await who(endpoint, **headers)
        problem(await endpoint.get("/status", **headers), 401, "UNAUTHORIZED")
        assert 200 == (await endpoint.get("/status", authorization=f"Bearer {TOKEN}", **headers)).status

    play(tmp_path, story, trusted_proxies=trusted)


def test_neighbours_need_a_key_too_where_that_was_said(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        assert ("nobody", "nobody", None) == await who(endpoint)
        problem(await endpoint.get("/status"), 401, "UNAUTHORIZED")
        problem(await endpoint.get("/metrics"), 401, "UNAUTHORIZED")
        assert 200 == (await endpoint.get("/livez")).status

    play(tmp_path, story, local_read=False)


def test_metrics_are_open_to_everybody_only_where_that_was_said(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.peer = AWAY
        assert 200 == (await endpoint.get("/metrics")).status
        problem(await endpoint.get("/status"), 401, "UNAUTHORIZED")

    play(tmp_path, story, metrics_open=True)


def test_a_key_is_known_in_either_header_and_has_its_own_scope(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.peer = AWAY
        for scope in Scope:
            key = await endpoint.key(scope, f"of-{scope}")
            told = ("key", f"of-{scope}", scope.value)
            assert told == await who(endpoint, authorization=f"Bearer {key}")
            assert told == await who(endpoint, authorization=f"bearer   {key} ")
            assert told == await who(endpoint, x_api_key=key)
        assert ("token", "operator", "admin") == await who(endpoint, x_api_key=TOKEN)
        # Of two headers, the one that says more is looked at, and alone.
        problem(await endpoint.get(WHO, authorization="Bearer x", x_api_key=key), 401, "UNAUTHORIZED")

    play(tmp_path, story)


def test_a_key_that_was_ended_or_has_run_out_lets_nobody_in(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        ended, short = (
            await endpoint.key(Scope.READ, "ended"),
            await endpoint.access.create_key("short", Scope.READ, "root@cli", expires_in=60),
        )
        assert "key" == (await who(endpoint, x_api_key=ended))[0] == (await who(endpoint, x_api_key=short.text))[0]
        await endpoint.access.revoke_keys("ended", "root@cli")
        problem(await endpoint.get(WHO, x_api_key=ended), 401, "UNAUTHORIZED")
        endpoint.clock.ahead = 61
        problem(await endpoint.get(WHO, x_api_key=short.text), 401, "UNAUTHORIZED")

    play(tmp_path, story)


def test_a_key_that_others_keep_in_a_file_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "ci.key"
    file.write_text(SECRET + "\n")

    def change(text: str | None) -> None:
        if text is None:
            file.unlink()
            return
        draft = tmp_path / "draft"
        draft.write_text(text)
        os.replace(draft, file)  # another inode: seen however coarse the file system's clock is

    async def story(endpoint: Endpoint) -> None:
        endpoint.peer = AWAY
        keys = endpoint.behind.keys
        assert ("key", "ci", "operate") == await who(endpoint, x_api_key=SECRET)
        new = SECRET[::-1]
        change(new)
        keys.look()
        assert ("key", "ci", "operate") == await who(endpoint, x_api_key=new)
        problem(await endpoint.get(WHO, x_api_key=SECRET), 401, "UNAUTHORIZED")
        for spoilt in ("short", None, "two lines\n" + "x" * 40, "x" * 513):
            change(spoilt)
            keys.look()
            for shown in (new, SECRET, "", "short"):
                problem(await endpoint.get(WHO, x_api_key=shown), 401, "UNAUTHORIZED")
            change(new)
            keys.look()
            assert ("key", "ci", "operate") == await who(endpoint, x_api_key=new)

    play(tmp_path, story, files={"ci": (file, Scope.OPERATE)})


@pytest.mark.parametrize("content", [b"", b"short", b"a b" * 20, b"\xff" * 40, b"x" * 40 + b"\n" + b"y" * 40])
def test_a_file_that_holds_no_key_is_told_when_the_daemon_starts(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ci.key"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(file))):
        FileKeys({"ci": (file, Scope.READ)})
    with pytest.raises(OSError, match="nix"):
        FileKeys({"ci": (tmp_path / "nix", Scope.READ)})


def test_a_session_is_known_by_its_cookie_and_by_its_access_token(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.peer = AWAY
        browser = await signed_in(endpoint, Scope.OPERATE)
        told = ("session", OPERATOR, "operate")
        shown = (await browser.ask("GET", WHO)).json
        assert told == (shown["kind"], shown["name"], shown["scope"])
        token = browser.cookie("x0_access")
        assert told == await who(endpoint, authorization=f"Bearer {token}") == await who(endpoint, x_api_key=token)
        for wrong in (token + "x", token[:-2], browser.cookie("x0_refresh"), browser.cookie("x0_csrf")):
            problem(await endpoint.get(WHO, authorization=f"Bearer {wrong}"), 401, "UNAUTHORIZED")
            assert ("nobody", "nobody", None) == await who(endpoint, cookie=f"x0_access={wrong}")

    play(tmp_path, story)


def test_an_access_token_runs_out_and_its_cookie_is_as_none(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint)
        token = browser.cookie("x0_access")
        endpoint.clock.ahead = ACCESS_SECONDS + 1
        problem(await endpoint.get(WHO, authorization=f"Bearer {token}"), 401, "UNAUTHORIZED")
        assert "local" == (await browser.ask("GET", WHO)).json["kind"]
        endpoint.peer = AWAY
        assert "nobody" == (await browser.ask("GET", WHO)).json["kind"]

    play(tmp_path, story)


WRONG = [
    "", "Bearer", "Bearer ", "Bearer x", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN,
    f"Bearer{TOKEN}", "Bearer \u00e9", b"Bearer \xff\x80", "Bearer x0k_0123456789ab_" + "a" * 43,
    "Bearer x0k_", "Bearer a.b.c", "Bearer " + "a" * 5000, "Bearer eyJhbGciOiJub25lIn0.e30.",
]  # fmt: skip


@pytest.mark.parametrize("shown", WRONG)
def test_a_wrong_credential_is_never_taken_for_none(tmp_path: Path, shown: str | bytes) -> None:
    """Whoever shows one wants to be somebody; to be let in as somebody else would hide the mistake."""

    async def story(endpoint: Endpoint) -> None:
        await endpoint.key(Scope.ADMIN)
        browser = await signed_in(endpoint, Scope.ADMIN)
        for target in (WHO, "/status", "/metrics", "/openapi.json"):
            reply = await browser.ask("GET", target, authorization=shown)
            problem(reply, 401, "UNAUTHORIZED")
            assert "invalid_token" in reply["www-authenticate"]
        problem(await browser.ask("POST", "/-/reload", {}, authorization=shown), 401, "UNAUTHORIZED")
        assert 200 == (await endpoint.get("/livez", authorization=shown)).status
        assert 0 == endpoint.face.reloads

    play(tmp_path, story)


def test_an_empty_token_of_the_daemon_lets_nobody_in(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.face.token = ""
        for shown in ("Bearer ", "Bearer  ", "Bearer"):
            problem(await endpoint.get(WHO, authorization=shown), 401, "UNAUTHORIZED")
        problem(await endpoint.get(WHO, x_api_key=""), 401, "UNAUTHORIZED")

    play(tmp_path, story)


# -- what each may -----------------------------------------------------------------------------------------------------


def target_of(route: Route) -> str:
    return re.sub(r"\{\w+\}", "web", route.path)


BODIES: dict[str, Any] = {
    FEATURES: {"auto_healing": False},
    "/-/reload": {},
    "/api/v1/pauses": {"target": "web", "for": "1h"},
    "/api/v1/incidents/{id}/events": {"event": "operator.hold"},
    "/api/v1/approvals/{plan}": {"answer": "approve"},
    "/api/v1/commands": {"command": "pause", "params": {"target": "web", "for": "1h"}},
}
OPEN = {
    ("POST", WHO),
    ("POST", f"{WHO}/refresh"),
    ("DELETE", WHO),
    ("POST", "/api/v1/approvals/{plan}/answer"),
}
"""What changes something and asks for no scope, because it looks at a password, a cookie or a link's token itself."""
OWN = {("DELETE", "/api/v1/sessions/{id}")}
"""What readers may change: their own sessions."""
Asks = Callable[[str, str, Any], Awaitable[Reply]]


async def everything(endpoint: Endpoint) -> dict[str, Any]:
    """All that is kept, but who was seen when."""
    database = endpoint.database
    names = [row[0] for row in await database.read("SELECT name FROM sqlite_master WHERE type = 'table'")]
    kept: dict[str, Any] = {
        name: sorted(map(repr, await database.read(f"SELECT * FROM {name}")))
        for name in names
        if name not in ("keys", "sessions", "sqlite_sequence")
    }
    face = endpoint.face
    return {**kept, "flags": face.loop.parts.flags.as_dict(), "asked": (face.reloads, list(face.flags_set))}


def test_what_changes_something_refuses_who_may_only_read_and_nothing_changes(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        unsafe = [route for route in endpoint.app.map.routes if route.method not in SAFE]
        assert OPEN == {(route.method, route.path) for route in unsafe if route.needs is None}
        assert OWN == {(route.method, route.path) for route in unsafe if route.needs is Scope.READ}
        key, browser = await endpoint.key(Scope.READ), await signed_in(endpoint, Scope.READ)
        away = endpoint.again()
        away.peer = AWAY

        def by(asking: Endpoint, **headers: Sent) -> Asks:
            return lambda method, target, body: asking.send(method, target, body, **{"authorization": None, **headers})

        callers: list[tuple[str, int, Asks]] = [
            ("a neighbour", 401, by(endpoint)),
            ("nobody", 401, by(away)),
            ("a key", 403, by(endpoint, authorization=f"Bearer {key}")),
            ("a key from elsewhere", 403, by(away, x_api_key=key)),
            ("a session", 403, browser.ask),
            ("a session's token", 403, by(away, authorization=f"Bearer {browser.cookie('x0_access')}")),
        ]
        before = await everything(endpoint)
        guarded = [route for route in unsafe if (route.method, route.path) not in OPEN | OWN]
        assert len(guarded) >= 6
        for route in guarded:
            for name, status, asks in callers:
                reply = await asks(route.method, target_of(route), BODIES.get(route.path))
                assert status == reply.status, (name, route.method, route.path, reply.text)
                problem(reply, status, "FORBIDDEN" if status == 403 else "UNAUTHORIZED")
        assert before == await everything(endpoint)

    play(tmp_path, story, links=Links(b"k" * 32, lambda: "http://127.0.0.1:8080/"), rate_limit_per_minute=10_000)


def test_what_only_administrators_may_refuses_operators(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        admin = [route for route in endpoint.app.map.routes if route.needs is Scope.ADMIN]
        assert {("POST", FEATURES), ("POST", "/-/reload")} == {(route.method, route.path) for route in admin}
        operate, full = await endpoint.key(Scope.OPERATE, "operate"), await endpoint.key(Scope.ADMIN, "admin")
        before = await everything(endpoint)
        for route in admin:
            body = BODIES[route.path]
            problem(await endpoint.post(route.path, body, authorization=f"Bearer {operate}"), 403, "FORBIDDEN")
        assert before == await everything(endpoint)
        for route in admin:
            assert 200 == (await endpoint.post(route.path, BODIES[route.path], authorization=f"Bearer {full}")).status
        assert (1, 1) == (endpoint.face.reloads, len(endpoint.face.flags_set))

    play(tmp_path, story)


def test_what_is_read_is_for_readers_and_for_nobody_else(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.peer = AWAY
        key = await endpoint.key(Scope.READ)
        guarded = [r for r in endpoint.app.map.routes if r.method == "GET" and r.needs is not None]
        assert {Scope.READ} == {route.needs for route in guarded}
        for route in guarded:
            target = target_of(route)
            problem(await endpoint.get(target), 401, "UNAUTHORIZED")
            problem(await endpoint.get(target, authorization="Bearer x"), 401, "UNAUTHORIZED")
            reply = await endpoint.ask("HEAD", target, {"x-api-key": key})
            assert reply.status in (200, 404, 422, 426), (route.path, reply.text)
        told = {route.path for route in endpoint.app.map.routes if route.needs is None and not route.is_hidden}
        assert {"/health", "/livez", "/readyz", "/openapi.json", "/docs", WHO, f"{WHO}/refresh"} == told

    play(tmp_path, story, rate_limit_per_minute=10_000)


@dataclass
class _Plain:
    host: str = "127.0.0.1"
    https_only: bool = False
    rate_limit_per_minute: int = 100
    cors_origins: Sequence[str] = ()
    trusted_proxies: Sequence[str] = ()
    local_read: bool = True


# -- how often ---------------------------------------------------------------------------------------------------------


def test_a_key_has_its_own_rate_and_takes_nothing_from_its_neighbours(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.peer = AWAY
        slow, plain = await endpoint.key(Scope.READ, "slow", per_minute=2), await endpoint.key(Scope.READ, "plain")
        replies = [await endpoint.get(WHO, x_api_key=slow) for _ in range(3)]
        assert [200, 200, 429] == [reply.status for reply in replies]
        assert ['"default";q=2;w=60'] * 3 == [reply["ratelimit-policy"] for reply in replies]
        error = problem(replies[2], 429, "RATE_LIMITED")
        assert 0 < error["details"]["retry_after_seconds"] <= 30
        assert 1 <= int(replies[2]["retry-after"]) <= 30
        assert "slow" in error["message"]
        assert [200, 200, 200, 429] == [(await endpoint.get(WHO, x_api_key=plain)).status for _ in range(4)]
        assert [200, 200, 200, 429] == [(await endpoint.get(WHO)).status for _ in range(4)]
        # A tier is the key's; what a client says of itself changes nothing.
        headers = {"x-rate-limit-tier": "premium", "x-user-tier": "admin", "x-ratelimit-limit": "100000"}
        assert 429 == (await endpoint.ask("GET", WHO, headers)).status

    play(tmp_path, story, rate_limit_per_minute=3)


def test_guessing_at_keys_is_limited_by_the_address_it_comes_from(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        key = await endpoint.key(Scope.READ)
        endpoint.peer = AWAY
        told = [(await endpoint.get(WHO, x_api_key=f"guess-{number}")).status for number in range(5)]
        assert [401, 401, 401, 429, 429] == told
        assert 200 == (await endpoint.get(WHO, x_api_key=key)).status, "who has a key is not kept out by it"
        endpoint.peer = "192.0.2.8"
        assert 200 == (await endpoint.get(WHO)).status

    play(tmp_path, story, rate_limit_per_minute=3)


def test_an_address_cannot_be_made_up(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.peer = AWAY
        for number in range(3):
            assert 200 == (await endpoint.get(WHO, x_forwarded_for=f"198.51.100.{number}")).status
        assert 429 == (await endpoint.get(WHO, x_forwarded_for="198.51.100.77")).status
        assert 429 == (await endpoint.get(WHO, forwarded="for=198.51.100.78", x_real_ip="198.51.100.79")).status

    play(tmp_path, story, rate_limit_per_minute=3, trusted_proxies=["10.0.0.0/8"])


@pytest.mark.parametrize(("peer", "listed", "told"), [
    (AWAY, "198.51.100.1", (AWAY, False)),                             # nobody we trust says so
    (AWAY, None, (AWAY, False)),
    ("10.0.0.1", None, ("10.0.0.1", False)),
    ("10.0.0.1", "198.51.100.1", ("198.51.100.1", False)),
    ("10.0.0.1", "203.0.113.9, 198.51.100.1", ("198.51.100.1", False)),  # what stands before it, the client wrote
    ("10.0.0.1", "127.0.0.1, 198.51.100.1", ("198.51.100.1", False)),
    ("10.0.0.1", "203.0.113.9, 10.9.9.9", ("203.0.113.9", False)),      # two proxies of ours, one behind the other
    ("10.0.0.1", "127.0.0.1", ("127.0.0.1", False)),                    # it says loopback, and is no neighbour
    ("10.0.0.1", "", ("10.0.0.1", False)),
    ("10.0.0.1", "unknown", ("10.0.0.1", False)),
    ("10.0.0.1", "198.51.100.1, unknown", ("10.0.0.1", False)),
    ("10.0.0.1", "198.51.100.1:443", ("10.0.0.1", False)),
    ("10.0.0.1", ",,,", ("10.0.0.1", False)),
    ("10.0.0.1", "2001:db8::1", ("2001:db8::1", False)),
    ("::ffff:10.0.0.1", "::ffff:198.51.100.1", ("198.51.100.1", False)),
    ("127.0.0.1", "198.51.100.1", ("127.0.0.1", False)),
    ("127.0.0.1", None, ("127.0.0.1", True)),
])  # fmt: skip
def test_only_a_trusted_proxy_says_who_asks(
    tmp_path: Path, peer: str, listed: str | None, told: tuple[str, bool]
) -> None:
    async def story(endpoint: Endpoint) -> None:
        headers = {} if listed is None else {b"x-forwarded-for": listed.encode()}
        assert told == endpoint.app.door.client(peer, headers)

    play(tmp_path, story, trusted_proxies=["10.0.0.0/8"])


@given(peer=st.text(max_size=50), listed=st.binary(max_size=200))
def test_no_list_of_addresses_breaks_the_door(peer: str, listed: bytes) -> None:
    unused: Any = None
    door = Door(unused, _Plain(trusted_proxies=("0.0.0.0/0", "::/0")), unused, FileKeys({}))
    _, is_neighbour = door.client(peer, {b"x-forwarded-for": listed})
    assert not is_neighbour
    door.client("127.0.0.1", {b"x-forwarded-for": listed})


def test_behind_a_trusted_proxy_each_client_has_its_own_rate_and_its_own_tries(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.peer = "10.0.0.1"
        for client in ("198.51.100.1", "198.51.100.2"):
            told = [(await endpoint.get(WHO, x_forwarded_for=client)).status for _ in range(4)]
            assert [200, 200, 200, 429] == told

    play(tmp_path, story, rate_limit_per_minute=3, trusted_proxies=["10.0.0.1"])


# -- names and pages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hosts",
    [("evil.example",), (HOST,), ("127.0.0.1:8080, evil.example",)],
)
def test_a_second_host_is_refused_whichever_it_is(tmp_path: Path, hosts: tuple[str, ...]) -> None:
    async def story(endpoint: Endpoint) -> None:
        reply = await endpoint.ask("GET", "/livez", more=[("host", host) for host in hosts])
        problem(reply, 400, "BAD_HOST")

    play(tmp_path, story)


def test_a_request_without_a_host_is_taken_from_old_clients_only(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        problem(await endpoint.get("/livez", host=None), 400, "BAD_HOST")
        endpoint.http_version = "1.0"
        assert 200 == (await endpoint.get("/livez", host=None)).status
        assert 200 == (await endpoint.get("/status", host=None)).status

    play(tmp_path, story)


def test_the_name_that_messages_lead_to_is_ours_too(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        assert 200 == (await endpoint.get("/livez", host="heal.example.org")).status
        for host in ("evil.example.org", "heal.example.org.evil.example", "xheal.example.org", "example.org"):
            problem(await endpoint.get("/livez", host=host), 421, "FOREIGN_HOST")

    play(tmp_path, story, links=Links(b"k" * 32, lambda: "", "https://Heal.example.org/"))


def test_many_strange_hosts_leave_no_trace_and_take_no_memory(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        for number in range(500):
            problem(await endpoint.get("/livez", host=f"h{number}.example"), 421, "FOREIGN_HOST")
        assert len(endpoint.app.door._hosts) <= 64
        assert 200 == (await endpoint.get("/livez")).status

    play(tmp_path, story)


FOREIGN = [
    "http://evil.example", "http://localhost.evil.com", "http://127.0.0.1.evil.com:8080", "http://127.0.0.1:8081",
    "http://127.0.0.1", "http://[::1]:8080", "http://localhost:8080", "null", "", "http://127.0.0.1:8080.evil.example",
    "http://127.0.0.1:8080@evil.example", "file://", "garbage", "http://127.0.0.1:08080", "http://2130706433:8080",
    b"\xff\xfe", "http://127.0.0.1:8080/path", "http://localhost:3000", "chrome-extension://abc",
]  # fmt: skip


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_of_another_site_changes_nothing_with_a_visitors_session(tmp_path: Path, origin: str | bytes) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint, Scope.ADMIN)
        for method, target, body in (
            ("POST", FEATURES, {"auto_healing": False}),
            ("POST", "/-/reload", {}),
            ("POST", "/api/v1/pauses", {"target": "web", "for": "1h"}),
            ("DELETE", WHO, None),
            ("POST", f"{WHO}/refresh", None),
        ):
            problem(await browser.ask(method, target, body, origin=origin), 403, "CROSS_SITE")
        assert (0, []) == (endpoint.face.reloads, endpoint.face.flags_set)
        assert "session" == (await browser.ask("GET", WHO)).json["kind"], "and the session is still there"

    play(tmp_path, story)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
def test_without_an_origin_the_browser_says_which_site_it_was(tmp_path: Path, site: str) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint, Scope.ADMIN)
        problem(await browser.ask("POST", "/-/reload", {}, origin=None, sec_fetch_site=site), 403, "CROSS_SITE")
        assert 200 == (await browser.ask("POST", "/-/reload", {}, origin=None, sec_fetch_site="same-origin")).status
        assert 1 == endpoint.face.reloads

    play(tmp_path, story)


def test_a_listed_page_may_change_things_with_a_key_and_never_with_a_session(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        listed, key = "http://localhost:3000", await endpoint.key(Scope.ADMIN)
        browser = await signed_in(endpoint, Scope.ADMIN)
        problem(await browser.ask("POST", "/-/reload", {}, origin=listed), 403, "CROSS_SITE")
        shown = f"Bearer {browser.cookie('x0_access')}"
        reply = await endpoint.post("/-/reload", {}, authorization=shown, origin=listed)
        problem(reply, 403, "CROSS_SITE")
        reply = await endpoint.post("/-/reload", {}, authorization=f"Bearer {key}", origin=listed)
        assert (200, listed, "") == (
            reply.status,
            reply["access-control-allow-origin"],
            reply["access-control-allow-credentials"],
        )
        assert 1 == endpoint.face.reloads

    play(tmp_path, story, cors_origins=["http://localhost:3000"])


@pytest.mark.parametrize("origin", ["http://[::1]:3000", "http://LOCALHOST:3000"])
def test_an_origin_is_compared_by_what_it_is(tmp_path: Path, origin: str) -> None:
    async def story(endpoint: Endpoint) -> None:
        assert origin == (await endpoint.get("/livez", origin=origin))["access-control-allow-origin"]
        for other in (origin + "0", origin + "/", origin + ".evil.example", origin.replace("http", "https")):
            assert "" == (await endpoint.get("/livez", origin=other))["access-control-allow-origin"]

    play(tmp_path, story, cors_origins=["http://[::1]:3000", "http://localhost:3000"])


def test_a_change_by_cookie_needs_the_token_of_that_session(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint, Scope.ADMIN)
        other = await signed_in(endpoint, Scope.ADMIN, "colleague")
        own, theirs = browser.cookie("x0_csrf"), other.cookie("x0_csrf")
        assert own != theirs
        for shown in (None, "", "x", own[:-1], own + "0", own.upper() if own.upper() != own else own.lower(), theirs):
            problem(await browser.ask("POST", "/-/reload", {}, x_csrf_token=shown), 403, "CSRF")
        # Somebody who can set a cookie, such as a neighbouring host of the same domain, sets both alike.
        planted = Browser(endpoint, {**browser.cookies, "x0_csrf": theirs})
        problem(await planted.ask("POST", "/-/reload", {}), 403, "CSRF")
        planted = Browser(endpoint, {**browser.cookies, "x0_csrf": "planted"})
        problem(await planted.ask("POST", "/-/reload", {}), 403, "CSRF")
        without = Browser(endpoint, {"x0_access": browser.cookie("x0_access")})
        problem(await without.ask("POST", "/-/reload", {}, x_csrf_token=own), 403, "CSRF")
        assert 0 == endpoint.face.reloads
        assert 200 == (await browser.ask("POST", "/-/reload", {})).status
        assert 200 == (await browser.ask("GET", "/status", x_csrf_token=None)).status, "looking needs none"

    play(tmp_path, story)


def test_a_program_with_a_sessions_token_needs_no_cookie(tmp_path: Path) -> None:
    """A header is never sent by a browser unasked, so there is nothing to be forged."""

    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint, Scope.ADMIN)
        reply = await endpoint.post("/-/reload", {}, authorization=f"Bearer {browser.cookie('x0_access')}")
        assert (200, 1) == (reply.status, endpoint.face.reloads)
        # With the cookies beside it, and without their token: the header is what counts.
        reply = await browser.ask(
            "POST", "/-/reload", {}, x_csrf_token=None, x_api_key=browser.cookie("x0_access"), origin=None
        )
        assert (200, 2) == (reply.status, endpoint.face.reloads)

    play(tmp_path, story)


# -- HTTPS -------------------------------------------------------------------------------------------------------------


def test_browsers_are_told_to_stay_with_https_where_there_is_nothing_else(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        for target in ("/livez", "/status", "/", "/nix"):
            reply = await endpoint.get(target)
            assert "max-age=31536000" == reply["strict-transport-security"], target
        # Who is sent away has not been let in.
        reply = await endpoint.post("/-/reload", {})
        assert (308, 0) == (reply.status, endpoint.face.reloads)
        reply = await endpoint.post("/-/reload", {}, x_forwarded_proto="https")
        assert (200, 1) == (reply.status, endpoint.face.reloads)
        endpoint.scheme = "https"
        assert 200 == (await endpoint.get("/status")).status

    play(tmp_path, story, https_only=True)


# -- what every answer carries -----------------------------------------------------------------------------------------


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-00")


def test_a_trace_goes_on_under_a_part_of_its_own(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        spans = set()
        for sent in (f"00-{TRACE}-00f067aa0ba902b7-01", f"01-{TRACE}-00f067aa0ba902b7-00-more"):
            for target in ("/livez", "/status", "/nix"):
                match = PARENT.fullmatch((await endpoint.get(target, traceparent=sent))["traceparent"])
                assert match is not None
                assert TRACE == match[1]
                spans.add(match[2])
        assert 6 == len(spans)
        assert not {"00f067aa0ba902b7", "0" * 16} & spans

    play(tmp_path, story)


@pytest.mark.parametrize("sent", [
    None, "", "00", f"ff-{TRACE}-00f067aa0ba902b7-01", f"00-{'0' * 32}-00f067aa0ba902b7-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE.upper()}-00f067aa0ba902b7-01", f"00-{TRACE}-00f067aa0ba902b7", f"00-{TRACE[:-1]}-00f067aa0ba902b7-01",
    f"00-{TRACE}-00f067aa0ba902b7-01x", f" 00-{TRACE}-00f067aa0ba902b7-01", b"\xff" * 55, "x" * 5000,
    f"00-{TRACE}-00f067aa0ba902b7-01\r\nx: y",
])  # fmt: skip
def test_what_is_no_trace_is_replaced(tmp_path: Path, sent: Sent) -> None:
    async def story(endpoint: Endpoint) -> None:
        seen = set()
        for _ in range(2):
            match = PARENT.fullmatch((await endpoint.get("/livez", traceparent=sent))["traceparent"])
            assert match is not None
            seen.add(match[1])
        assert 2 == len(seen)
        assert not seen & {TRACE, "0" * 32}

    play(tmp_path, story)


@given(sent=st.binary(max_size=80))
def test_whatever_is_sent_as_an_id_what_comes_back_is_one(sent: bytes) -> None:
    unused: Any = None
    door = Door(unused, _Plain(), unused, FileKeys({}))
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", door.request_id({b"x-request-id": sent}))
    assert re.fullmatch(r"(?!0{32})[0-9a-f]{32}", door.trace({b"traceparent": sent}))


# -- too much at once --------------------------------------------------------------------------------------------------


def test_who_comes_when_too_much_is_asked_at_once_is_told_so_and_probes_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "AT_ONCE", 5)

    async def story(endpoint: Endpoint) -> None:
        endpoint.face.may_reload.clear()
        waiting = [asyncio.create_task(endpoint.post("/-/reload", {})) for _ in range(5)]
        while endpoint.app._busy < 5:
            await asyncio.sleep(0)
        reply = await endpoint.get("/status")
        problem(reply, 503, "OVERLOADED")
        assert "1" == reply["retry-after"]
        for target in ("/livez", "/health", "/metrics"):
            assert 200 == (await endpoint.get(target)).status, target
        endpoint.face.may_reload.set()
        assert [200] * 5 == [reply.status for reply in await asyncio.gather(*waiting)]
        assert 200 == (await endpoint.get("/status")).status

    play(tmp_path, story)


def test_a_store_that_fails_lets_nobody_in_by_what_only_it_knows(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        key, browser = await endpoint.key(Scope.ADMIN), await signed_in(endpoint, Scope.ADMIN)
        token = browser.cookie("x0_access")
        await endpoint.database.close()
        endpoint.access._forget_seen()
        for shown in (key, token):
            reply = await endpoint.post("/-/reload", {}, authorization=f"Bearer {shown}")
            problem(reply, 503, "STORE_FAILING")
            assert int(reply["retry-after"]) > 0
        problem(await browser.ask("POST", "/-/reload", {}), 503, "STORE_FAILING")
        assert 0 == endpoint.face.reloads
        # The token in the state directory needs no store: who holds it can still turn the daemon off.
        assert 200 == (await endpoint.post("/-/reload", {})).status
        assert 200 == (await endpoint.get("/livez")).status

    play(tmp_path, story)


def test_tries_at_passwords_are_counted_for_the_client_that_a_proxy_names(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        await endpoint.access.add_operator(OPERATOR, "Tall-Ships.Sail-West", Scope.READ, "root@cli")
        endpoint.peer = "10.0.0.1"
        wrong = {"name": OPERATOR, "password": "wrong"}

        async def tried(client: str) -> int:
            return (await endpoint.post(WHO, wrong, authorization=None, x_forwarded_for=client)).status

        told = [await tried("198.51.100.1") for _ in range(TRIES_A_MINUTE + 1)]
        assert [401] * TRIES_A_MINUTE + [429] == told
        assert 401 == await tried("198.51.100.2")

    play(tmp_path, story, trusted_proxies=["10.0.0.1"])


def test_the_sessions_of_one_daemon_mean_nothing_to_another(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint, Scope.ADMIN)
        knowledge, database = endpoint.face.loop.parts.knowledge, endpoint.database
        other = Access(database, knowledge.audit, endpoint.clock, lambda: b"o" * 32)
        endpoint.app.door.access = other
        assert "local" == (await browser.ask("GET", WHO)).json["kind"]
        problem(await endpoint.get(WHO, authorization=f"Bearer {browser.cookie('x0_access')}"), 401, "UNAUTHORIZED")

    play(tmp_path, story)


def test_a_stranger_is_not_believed_that_the_way_was_encrypted(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        key = {"authorization": f"Bearer {TOKEN}", "x_forwarded_proto": "https"}
        endpoint.peer = "192.0.2.7"
        assert 308 == (await endpoint.get("/status", **key)).status
        for proxy in ("10.1.2.3", "127.0.0.1"):
            endpoint.peer = proxy
            assert 200 == (await endpoint.get("/status", **key)).status

    play(tmp_path, story, https_only=True, trusted_proxies=["10.0.0.0/8"])
