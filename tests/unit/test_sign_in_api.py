"""Signing in over HTTP: the cookies a browser gets, how a session goes on and ends, and what strangers get instead."""

import base64
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from asking import HOST, OPERATOR, PASSWORD, TOKEN, Browser, Endpoint, Reply, play, problem, signed_in
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from x0tta6bl4.status.access import FRESH, TRIES_A_MINUTE, Scope
from x0tta6bl4.status.tokens import ACCESS_SECONDS, AGAIN_WITHIN, REFRESH_SECONDS, SESSION_SECONDS

SESSION, SESSIONS, REFRESH = "/api/v1/session", "/api/v1/sessions", "/api/v1/session/refresh"
AWAY = "192.0.2.7"
COOKIES = ("x0_access", "x0_refresh", "x0_csrf")


def cookies(reply: Reply) -> dict[str, tuple[str, dict[str, str]]]:
    """By name: the value, and the attributes in lower case."""
    found = {}
    for line in reply.all("set-cookie"):
        first, *rest = (part.strip() for part in line.split(";"))
        name, _, value = first.partition("=")
        found[name] = (value, {a.partition("=")[0].lower(): a.partition("=")[2] for a in rest})
    return found


async def kind(browser: Browser) -> str:
    return str((await browser.ask("GET", SESSION)).json["kind"])


async def ids(browser: Browser) -> set[str]:
    return {one["id"] for one in (await browser.ask("GET", SESSIONS)).json["sessions"]}


async def own_id(browser: Browser) -> str:
    (id,) = [one["id"] for one in (await browser.ask("GET", SESSIONS)).json["sessions"] if one["is_this"]]
    return str(id)


# -- signing in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_cookies_are_for_this_host_alone_and_scripts_see_one_of_them(tmp_path: Path, scheme: str) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.scheme = scheme
        await endpoint.access.add_operator(OPERATOR, PASSWORD, Scope.OPERATE, "root@cli")
        browser = Browser(endpoint)
        reply = await browser.sign_in()
        prefix = "__Host-" if scheme == "https" else ""
        given = cookies(reply)
        assert {f"{prefix}{name}" for name in COOKIES} == given.keys()
        for name, (value, about) in given.items():
            assert value and re.fullmatch(r"[A-Za-z0-9._~-]+", value), "nothing that has to be quoted"
            assert ("/", "Strict") == (about["path"], about["samesite"])
            assert "domain" not in about
            assert (scheme == "https") == ("secure" in about)
            assert ("httponly" in about) == (not name.endswith("csrf"))
            longest = ACCESS_SECONDS if name.endswith("access") else REFRESH_SECONDS
            assert longest - 60 < int(about["max-age"]) <= longest
        assert ("no-store", OPERATOR, "session", "operate", True) == (
            reply["cache-control"],
            *(reply.json[key] for key in ("name", "kind", "scope", "can_sign_in")),
        )
        assert not [value for value, _ in given.values() if value in reply.text], "what is hidden from scripts"
        assert "session" == await kind(browser)
        assert 201 == (await browser.ask("POST", "/api/v1/pauses", {"target": "web", "for": "1h"})).status

    play(tmp_path, story)


def test_behind_a_proxy_that_ends_tls_the_cookies_are_secure_too(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        await endpoint.access.add_operator(OPERATOR, PASSWORD, Scope.OPERATE, "root@cli")
        reply = await Browser(endpoint).sign_in(x_forwarded_proto="https", origin=f"https://{HOST}")
        assert {f"__Host-{name}" for name in COOKIES} == cookies(reply).keys()
        assert all("secure" in about for _, about in cookies(reply).values())

    play(tmp_path, story)


def test_a_cookie_that_only_this_host_can_have_set_counts_before_others(tmp_path: Path) -> None:
    """A neighbouring host of the same domain can set cookies for this one, but none that begins with __Host-."""

    async def story(endpoint: Endpoint) -> None:
        endpoint.scheme = "https"
        own, planted = await signed_in(endpoint), await signed_in(endpoint, Scope.READ, "stranger")
        for header in (
            f"x0_access={planted.cookie('x0_access')}; __Host-x0_access={own.cookie('x0_access')}",
            f"__Host-x0_access={own.cookie('x0_access')}; x0_access={planted.cookie('x0_access')}",
        ):
            assert OPERATOR == (await endpoint.get(SESSION, cookie=header)).json["name"]

    play(tmp_path, story)


def test_whoever_is_wrong_is_not_told_what_was_wrong(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        await endpoint.access.add_operator(OPERATOR, PASSWORD, Scope.OPERATE, "root@cli")
        told = set()
        for number, (name, password) in enumerate([
            (OPERATOR, "wrong"), ("nobody", PASSWORD), ("", ""), (OPERATOR, ""), ("x" * 200, "y" * 1000),
            ("a\x00b", PASSWORD), (f"{OPERATOR}' --", PASSWORD), ("\u202e", "\U0001f511"),
        ]):  # fmt: skip
            endpoint.peer = f"198.51.100.{number}"
            reply = await Browser(endpoint).sign_in(name, password)
            told.add(problem(reply, 401, "SIGN_IN_WRONG")["message"])
            assert {} == cookies(reply)
            assert reply["www-authenticate"].startswith("Bearer ")
        assert 1 == len(told)
        assert OPERATOR == (await Browser(endpoint).sign_in("  OnCall ")).json["name"], "as people type it"

    play(tmp_path, story)


def test_a_body_with_mistakes_never_gives_the_password_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "Hidden.Harbour-9-Bells"

    async def story(endpoint: Endpoint) -> None:
        await endpoint.access.add_operator(OPERATOR, PASSWORD, Scope.OPERATE, "root@cli")
        bodies: list[Any] = [
            {"name": OPERATOR, "pasword": secret}, {"name": 7, "password": secret}, {"password": secret},
            {"name": OPERATOR, "password": [secret]}, {"name": OPERATOR, "password": secret * 50}, [secret], secret,
            {"name": OPERATOR, "password": secret, "scope": "admin"},
        ]  # fmt: skip
        for body in bodies:
            reply = await Browser(endpoint).ask("POST", SESSION, body)
            assert problem(reply, 422, "BAD_BODY")["details"]["mistakes"]
            assert secret not in reply.text
        problem(await Browser(endpoint).ask("POST", SESSION, b"{" + secret.encode()), 400, "BAD_JSON")
        problem(await Browser(endpoint).sign_in(password=secret), 401, "SIGN_IN_WRONG")
        browser = await signed_in(endpoint)
        logged = "".join(json.dumps(vars(record), default=str) for record in caplog.records)
        told = [secret, PASSWORD, *(browser.cookie(name) for name in COOKIES)]
        assert not [one for one in told if one in logged]
        assert "signed in" in [record.getMessage() for record in caplog.records]

    play(tmp_path, story)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"http://{HOST}.evil.example"},
        {"origin": "http://localhost:3000"},
        {"origin": None, "sec_fetch_site": "cross-site"},
        {"origin": None, "sec_fetch_site": "same-site"},
    ],
)
def test_a_page_elsewhere_signs_nobody_in(tmp_path: Path, headers: dict[str, Any]) -> None:
    """Under a name of its own it would: and then see what the visitor does there."""

    async def story(endpoint: Endpoint) -> None:
        await endpoint.access.add_operator(OPERATOR, PASSWORD, Scope.OPERATE, "root@cli")
        for _ in range(TRIES_A_MINUTE + 1):
            reply = await Browser(endpoint).sign_in(**headers)
            problem(reply, 403, "CROSS_SITE")
            assert {} == cookies(reply)
        # A form of HTML cannot send JSON, and nothing else is taken.
        for media in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data"):
            problem(await Browser(endpoint).sign_in(content_type=media), 415, "NOT_JSON")
        assert 200 == (await Browser(endpoint).sign_in()).status

    play(tmp_path, story)


def test_too_many_tries_are_locked_out_for_a_time_that_is_told_truly(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        await endpoint.access.add_operator(OPERATOR, PASSWORD, Scope.OPERATE, "root@cli")
        endpoint.peer = AWAY
        browser = Browser(endpoint)
        for _ in range(TRIES_A_MINUTE):
            problem(await browser.sign_in(password="wrong"), 401, "SIGN_IN_WRONG")
        for password in ("wrong", PASSWORD):
            reply = await browser.sign_in(password=password)
            error = problem(reply, 429, "SIGN_IN_LOCKED")
            seconds = int(reply["retry-after"])
            assert 0 < seconds <= 60
            assert str(seconds) in error["suggestions"][0]
        endpoint.peer = "192.0.2.99"
        assert 200 == (await Browser(endpoint).sign_in()).status, "nobody keeps an operator out of other places"
        endpoint.peer = AWAY
        endpoint.clock.ahead = seconds + 1
        assert 200 == (await browser.sign_in()).status
        text = (await endpoint.get("/metrics", authorization=f"Bearer {TOKEN}")).text
        for result, count in (("wrong", TRIES_A_MINUTE), ("locked", 2), ("signed_in", 2)):
            assert f'x0tta6bl4_sign_ins_total{{result="{result}"}} {count}.0' in text

    play(tmp_path, story)


def test_where_nobody_can_sign_in_nobody_does(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        told = (await endpoint.get(SESSION)).json
        assert ("local", False) == (told["kind"], told["can_sign_in"])
        problem(await Browser(endpoint).sign_in(), 401, "SIGN_IN_WRONG")

    play(tmp_path, story)


# -- going on ----------------------------------------------------------------------------------------------------------


def test_a_session_goes_on_with_new_cookies(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint)
        endpoint.peer = AWAY
        seen = {browser.cookie("x0_refresh")}
        for turn in range(1, 4):
            endpoint.clock.ahead = turn * (ACCESS_SECONDS + 1)
            assert "nobody" == await kind(browser), "the access token is over"
            reply = await browser.ask("POST", REFRESH)
            assert (200, OPERATOR) == (reply.status, reply.json["name"])
            assert set(COOKIES) == cookies(reply).keys()
            seen.add(browser.cookie("x0_refresh"))
            assert "session" == await kind(browser)
        assert 4 == len(seen)
        assert 1 == len(await ids(browser)), "it is one session all the time"

    play(tmp_path, story)


def test_two_tabs_that_go_on_in_the_same_moment_are_no_theft(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint)
        other = Browser(endpoint, dict(browser.cookies))
        assert [200, 200] == [(await one.ask("POST", REFRESH)).status for one in (browser, other)]
        assert browser.cookie("x0_refresh") == other.cookie("x0_refresh")
        assert ["session", "session"] == [await kind(browser), await kind(other)]

    play(tmp_path, story)


@pytest.mark.parametrize("first", ["owner", "thief"])
def test_a_refresh_token_that_is_used_twice_ends_the_session(tmp_path: Path, first: str) -> None:
    async def story(endpoint: Endpoint) -> None:
        owner = await signed_in(endpoint)
        thief = Browser(endpoint, dict(owner.cookies))
        endpoint.peer = AWAY
        early, late = (owner, thief) if first == "owner" else (thief, owner)
        assert 200 == (await early.ask("POST", REFRESH)).status
        endpoint.clock.ahead = AGAIN_WITHIN + 1
        reply = await late.ask("POST", REFRESH)
        assert "used before" in problem(reply, 401, "UNAUTHORIZED")["message"]
        assert {("", "0")} == {(value, about["max-age"]) for value, about in cookies(reply).values()}
        assert {} == late.cookies
        # Whoever was first has nothing of it either, at once.
        assert "nobody" == await kind(early)
        problem(await early.ask("POST", REFRESH), 401, "UNAUTHORIZED")
        told = [(row.who, row.what) for row in await endpoint.face.loop.parts.knowledge.audit_trail(100)]
        assert 1 == told.count(("endpoint", "session.reuse_seen"))
        text = (await endpoint.get("/metrics", authorization=f"Bearer {TOKEN}")).text
        assert 'x0tta6bl4_sign_ins_total{result="reused"} 1.0' in text

    play(tmp_path, story)


def test_going_on_needs_what_only_our_own_page_can_read(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint)
        endpoint.clock.ahead = ACCESS_SECONDS + 1
        for shown in (None, "", "x", browser.cookie("x0_csrf")[:-1]):
            problem(await browser.ask("POST", REFRESH, x_csrf_token=shown), 403, "CSRF")
        for headers in ({"origin": "http://evil.example"}, {"origin": None, "sec_fetch_site": "cross-site"}):
            problem(await browser.ask("POST", REFRESH, **headers), 403, "CROSS_SITE")
        assert 200 == (await browser.ask("POST", REFRESH)).status, "and the token was not used up by it"

    play(tmp_path, story)


@pytest.mark.parametrize("seconds", [REFRESH_SECONDS + 1, SESSION_SECONDS + 1])
def test_a_session_that_was_left_alone_is_over(tmp_path: Path, seconds: float) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint)
        endpoint.clock.ahead = seconds
        problem(await browser.ask("POST", REFRESH), 401, "UNAUTHORIZED")
        assert "local" == await kind(browser)

    play(tmp_path, story)


def test_an_access_token_does_not_make_new_ones(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint)
        turned = Browser(endpoint, {**browser.cookies, "x0_refresh": browser.cookie("x0_access")})
        problem(await turned.ask("POST", REFRESH), 401, "UNAUTHORIZED")
        problem(await Browser(endpoint).ask("POST", REFRESH), 401, "UNAUTHORIZED")
        assert "session" == await kind(browser)

    play(tmp_path, story)


# -- ending ------------------------------------------------------------------------------------------------------------


def test_signing_out_ends_the_session_and_takes_the_cookies_back(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser, other = await signed_in(endpoint), await signed_in(endpoint)
        kept = Browser(endpoint, dict(browser.cookies))
        reply = await browser.ask("DELETE", SESSION)
        assert (200, {"ended": True}, {}) == (reply.status, reply.json, browser.cookies)
        assert set(COOKIES) == cookies(reply).keys()
        assert "local" == await kind(kept)
        problem(await kept.ask("POST", REFRESH), 401, "UNAUTHORIZED")
        reply = await kept.ask("DELETE", SESSION)
        assert (200, {"ended": False}, {}) == (reply.status, reply.json, kept.cookies)
        assert {"ended": False} == (await Browser(endpoint).ask("DELETE", SESSION)).json
        assert "session" == await kind(other), "of the same operator, elsewhere"

    play(tmp_path, story)


def test_signing_out_works_when_the_access_token_is_over(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint)
        kept = Browser(endpoint, dict(browser.cookies))
        endpoint.clock.ahead = ACCESS_SECONDS + 1
        problem(await browser.ask("DELETE", SESSION, x_csrf_token="x"), 403, "CSRF")
        assert {"ended": True} == (await browser.ask("DELETE", SESSION)).json
        problem(await kept.ask("POST", REFRESH), 401, "UNAUTHORIZED")

    play(tmp_path, story)


def test_sessions_are_seen_and_ended_by_their_owner_and_by_administrators(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        one, two = await signed_in(endpoint, Scope.READ), await signed_in(endpoint, Scope.READ)
        colleague = await signed_in(endpoint, Scope.OPERATE, "colleague")
        boss = await signed_in(endpoint, Scope.ADMIN, "boss")
        id_one, id_two = await own_id(one), await own_id(two)
        assert {id_one, id_two} == await ids(one) == await ids(two)
        id_colleague = await own_id(colleague)
        assert {id_colleague} == await ids(colleague)
        assert {id_one, id_two, id_colleague} < await ids(boss)
        listed = (await boss.ask("GET", SESSIONS)).json["sessions"]
        assert {OPERATOR, "colleague", "boss"} == {session["operator"] for session in listed}
        assert 1 == sum(session["is_this"] for session in listed)
        assert not re.search(r"ey[A-Za-z0-9_-]{20}", json.dumps(listed)), "no token is told"

        problem(await colleague.ask("DELETE", f"{SESSIONS}/{id_one}"), 404, "NO_SUCH_SESSION")
        problem(await one.ask("DELETE", f"{SESSIONS}/nix"), 404, "NO_SUCH_SESSION")
        assert "session" == await kind(one)
        problem(await one.ask("DELETE", f"{SESSIONS}/{id_two}", x_csrf_token="x"), 403, "CSRF")
        assert {"ended": True} == (await one.ask("DELETE", f"{SESSIONS}/{id_two}")).json
        assert ["session", "local"] == [await kind(one), await kind(two)]
        assert {"ended": True} == (await boss.ask("DELETE", f"{SESSIONS}/{id_one}")).json
        assert "local" == await kind(one)
        problem(await boss.ask("DELETE", f"{SESSIONS}/{id_one}"), 404, "NO_SUCH_SESSION")
        assert 200 == (await endpoint.delete(f"{SESSIONS}/{id_colleague}")).status, "by the operator's token"

    play(tmp_path, story)


def test_a_key_that_is_called_like_an_operator_has_nothing_of_theirs(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint)
        (id,) = await ids(browser)
        key = await endpoint.key(Scope.OPERATE, OPERATOR)
        for headers in ({"authorization": f"Bearer {key}"}, {"authorization": None}):
            reply = await endpoint.send("GET", SESSIONS, **headers)
            assert (200, []) == (reply.status, reply.json["sessions"])
            problem(await endpoint.delete(f"{SESSIONS}/{id}", **headers), 404, "NO_SUCH_SESSION")
        assert "session" == await kind(browser)

    play(tmp_path, story)


@pytest.mark.parametrize("change", ["password", "scope", "removed"])
def test_what_is_changed_about_an_operator_ends_their_sessions(tmp_path: Path, change: str) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint, Scope.ADMIN)
        access = endpoint.access
        if change == "password":
            await access.set_password(OPERATOR, "Quiet.Harbour-7-Lamps", "root@cli")
        elif change == "scope":
            await access.set_scope(OPERATOR, Scope.READ, "root@cli")
        else:
            await access.remove_operator(OPERATOR, "root@cli")
        assert "local" == await kind(browser)
        problem(await browser.ask("POST", "/-/reload", {}), 401, "UNAUTHORIZED")
        problem(await browser.ask("POST", REFRESH), 401, "UNAUTHORIZED")
        assert 0 == endpoint.face.reloads
        if change != "scope":
            problem(await Browser(endpoint).sign_in(), 401, "SIGN_IN_WRONG")

    play(tmp_path, story)


def test_a_session_that_another_process_ended_is_over_soon(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint)
        assert "session" == await kind(browser)
        await endpoint.database.write(lambda t: t.execute("UPDATE sessions SET ended_at = 1"))
        endpoint.clock.ahead = FRESH + 0.1
        assert "local" == await kind(browser)

    play(tmp_path, story)


# -- strangers ---------------------------------------------------------------------------------------------------------


def forged(token: str) -> list[str]:
    """Tokens that look like that one."""
    head, claims, signature = token.split(".")

    def packed(value: Any) -> str:
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(text).rstrip(b"=").decode()

    said = json.loads(base64.urlsafe_b64decode(claims + "=="))
    none = packed({"alg": "none", "typ": "JWT"})
    return [
        f"{none}.{claims}.", f"{none}.{claims}.{signature}", f"{head}.{claims}.", f"{head}.{claims}.{signature[:-4]}",
        f"{head}.{claims}.{signature[::-1]}", f"{packed({'alg': 'RS256'})}.{claims}.{signature}",
        f"{packed({'alg': 'HS512'})}.{claims}.{signature}", f"{packed([])}.{claims}.{signature}",
        f"{head}.{packed({**said, 'sub': 'root'})}.{signature}", f"{head}.{packed({**said, 'exp': 9e12})}.{signature}",
        f"{head}.{packed({**said, 'exp': 'never'})}.{signature}", f"{head}.{packed(b'{')}.{signature}",
        f"{head}.{packed(b'[' * 500)}.{signature}", f"{packed(b'[' * 500)}.{claims}.{signature}",
        "..", ".", "a.b.c", "ey.ey.ey", token + ".x", token.replace(".", " "), token[1:], token * 3, "x" * 8000,
        "\u00e9.\u00e9.\u00e9", "%00", "' OR 1=1 --", '"', "null", "undefined", "0",
    ]  # fmt: skip


def test_no_token_but_a_true_one_is_taken_and_none_is_our_mistake(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint, Scope.ADMIN)
        endpoint.peer = AWAY
        for name in ("x0_access", "x0_refresh"):
            for wrong in forged(browser.cookie(name)):
                stranger = Browser(endpoint, {**browser.cookies, name: wrong})
                if name == "x0_access":
                    problem(await stranger.ask("GET", "/status"), 401, "UNAUTHORIZED")
                    problem(await stranger.ask("POST", "/-/reload", {}), 401, "UNAUTHORIZED")
                    problem(await endpoint.get("/status", authorization=f"Bearer {wrong}"), 401, "UNAUTHORIZED")
                else:
                    problem(await stranger.ask("POST", REFRESH), 401, "UNAUTHORIZED")
                    stranger = Browser(endpoint, {"x0_refresh": wrong, "x0_csrf": browser.cookie("x0_csrf")})
                    assert {"ended": False} == (await stranger.ask("DELETE", SESSION)).json
        assert 0 == endpoint.face.reloads
        assert "session" == await kind(browser), "and the true one still is"

    play(tmp_path, story, rate_limit_per_minute=10_000)


@examples(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shown=st.lists(st.binary(max_size=60), min_size=1, max_size=12))
def test_no_cookie_makes_it_our_mistake(tmp_path: Path, shown: list[bytes]) -> None:
    async def story(endpoint: Endpoint) -> None:
        if not await endpoint.access.operators():
            await endpoint.access.add_operator(OPERATOR, PASSWORD, Scope.READ, "root@cli")
        endpoint.peer = AWAY
        for bytes_ in shown:
            for header in (bytes_, b"x0_access=" + bytes_, b"x0_refresh=" + bytes_ + b"; x0_csrf=" + bytes_):
                problem(await endpoint.get("/status", cookie=header), 401, "UNAUTHORIZED")
                reply = await endpoint.send("POST", REFRESH, authorization=None, cookie=header, x_csrf_token=bytes_)
                assert reply.status in (401, 403)
                reply = await endpoint.delete(SESSION, authorization=None, cookie=header)
                assert (200, False) == (reply.status, reply.json["ended"]) or reply.status == 403

    play(tmp_path, story, rate_limit_per_minute=100_000)


def test_while_the_store_fails_nobody_signs_in_and_the_reason_is_told(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        browser = await signed_in(endpoint)
        await endpoint.database.close()
        endpoint.clock.ahead = FRESH + 0.1
        problem(await Browser(endpoint).sign_in(), 503, "STORE_FAILING")
        problem(await browser.ask("POST", REFRESH), 503, "STORE_FAILING")
        problem(await browser.ask("DELETE", SESSION), 503, "STORE_FAILING")
        problem(await endpoint.send("GET", SESSIONS), 503, "STORE_FAILING")
        problem(await endpoint.delete(f"{SESSIONS}/x"), 503, "STORE_FAILING")

    play(tmp_path, story)
