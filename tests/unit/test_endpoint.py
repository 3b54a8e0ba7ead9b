"""What the endpoint says, to whom, and how it refuses: the application alone, asked without a socket."""

import gzip
import json
import re
import time
from html.parser import HTMLParser
from importlib.resources import files as files_of
from pathlib import Path
from typing import Any

import pytest
from asking import TOKEN, Endpoint, play, problem
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.kernel.facts import Result
from x0tta6bl4.kernel.flags import NAMES
from x0tta6bl4.kernel.memory import ActionRecord
from x0tta6bl4.status.face import Condition
from x0tta6bl4.status.limits import RateLimiter, client_key
from x0tta6bl4.status.report import CpuUse, iso
from x0tta6bl4.status.routes import BODY_LIMIT

# -- health ------------------------------------------------------------------------------------------------------------


def test_health_has_exactly_the_members_that_are_documented(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        reply = await endpoint.get("/health")

        assert 200 == reply.status
        assert ["status", "timestamp", "components", "version"] == list(reply.json)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", reply.json["timestamp"])
        assert ["pqc", "mesh", "database", "api"] == list(reply.json["components"])
        assert {"status": "not configured"} == reply.json["components"]["mesh"]
        assert {"status": "ok", "connections": 2} == reply.json["components"]["database"]
        assert ("healthy", "9.8.7") == (reply.json["status"], reply.json["version"])

    play(tmp_path, story)


def test_a_degraded_daemon_is_alive_unless_one_asks_strictly(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.face.database = {"status": "failing"}

        replies = [await endpoint.get(target) for target in ("/health", "/health?strict=1", "/health?strict=0")]

        assert [200, 503, 200] == [reply.status for reply in replies]
        assert {"degraded"} == {reply.json["status"] for reply in replies}

    play(tmp_path, story)


def test_the_parts_are_asked_once_in_an_interval_but_a_failing_journal_shows_at_once(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        asked = []
        endpoint.face.health.register("counted", lambda: asked.append(1) or {"status": "ok"})  # type: ignore[func-returns-value]  # append gives None

        for _ in range(5):
            await endpoint.get("/health")
        assert 1 == len(asked)

        endpoint.face.loop.standing.store_trouble = "no space left"
        endpoint.face.database = {"status": "failing"}
        assert 503 == (await endpoint.get("/health?strict=1")).status

    play(tmp_path, story, health_check_interval=3600)


def test_livez_says_yes_whatever_is_broken_behind_it(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.face.database = {"status": "failing"}
        endpoint.face.loop.standing.store_trouble = "no space left"

        assert (200, "ok\n") == ((await endpoint.get("/livez")).status, (await endpoint.get("/livez")).text)
        assert "[+]ping ok\nlivez check passed\n" == (await endpoint.get("/livez?verbose")).text

    play(tmp_path, story)


def test_readyz_names_what_fails_and_can_leave_checks_out(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.face.loop.standing.store_trouble = "no space left"
        reply = await endpoint.get("/readyz")

        # One cycle was run, but nobody started the loop.
        assert 503 == reply.status
        assert reply["content-type"].startswith("text/plain")
        assert [
            "[-]loop-running failed: the loop is stopped",
            "[+]first-cycle ok",
            "[-]store failed: no space left",
            "readyz check failed",
        ] == reply.text.splitlines()

        reply = await endpoint.get("/readyz?verbose&exclude=store&exclude=loop-running&exclude=nix")
        assert 200 == reply.status
        assert [
            "[+]loop-running excluded: ok",
            "[+]first-cycle ok",
            "[+]store excluded: ok",
            "warn: some health checks cannot be excluded: no matches for 'nix'",
            "readyz check passed",
        ] == reply.text.splitlines()
        assert "ok\n" == (await endpoint.get("/readyz?exclude=store&exclude=loop-running")).text

    play(tmp_path, story)


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_a_scrape_changes_nothing(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        def ours(text: str) -> list[str]:
            return [line for line in text.splitlines() if line.startswith("x0tta6bl4_")]

        await endpoint.get("/health")
        first, second = [ours((await endpoint.get("/metrics")).text) for _ in range(2)]

        assert first == second
        assert 'x0tta6bl4_http_requests_total{code="200",endpoint="/health"} 1.0' in first
        assert 'x0tta6bl4_api_latency_seconds_count{endpoint="/health"} 1.0' in first
        assert not [line for line in second if 'endpoint="/metrics"' in line]

    play(tmp_path, story)


def test_metrics_come_in_the_format_and_packing_that_are_asked_for(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        modern = await endpoint.get("/metrics", accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
        packed = await endpoint.get("/metrics", accept_encoding="br, gzip;q=0.5")
        refused = await endpoint.get("/metrics", accept_encoding="gzip;q=0, *;q=0.0")

        assert modern["content-type"].startswith("application/openmetrics-text")
        assert modern.text.endswith("# EOF\n")
        assert "gzip" == packed["content-encoding"]
        assert b"x0tta6bl4_build_info" in gzip.decompress(packed.body)
        assert ("", True) == (refused["content-encoding"], "x0tta6bl4_build_info" in refused.text)

    play(tmp_path, story)


def test_metrics_that_are_switched_off_are_not_found(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        error = problem(await endpoint.get("/metrics"), 404, "METRICS_DISABLED")

        assert "METRICS_ENABLED" in error["suggestions"][0]

    play(tmp_path, story, metrics_enabled=False)


def test_invented_paths_are_one_series(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        for number in range(20):
            await endpoint.get(f"/invented/{number}")

        lines = (await endpoint.get("/metrics")).text.splitlines()
        assert ['x0tta6bl4_http_requests_total{code="404",endpoint="other"} 20.0'] == [
            line for line in lines if line.startswith("x0tta6bl4_http_requests_total{")
        ]

    play(tmp_path, story)


# -- status and the page -----------------------------------------------------------------------------------------------


def test_status_tells_what_is_watched_what_is_open_and_what_was_decided(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        loop = endpoint.face.loop
        action = ActionRecord("s1", "web", "web", "process.restart", time.time(), result=Result.VERIFIED)
        loop.guard.ledger.begun(action)
        endpoint.face.told = [Condition("paused", "all is paused", "by a person", "info", float("inf"))]
        told = (await endpoint.get("/status")).json

        web, db = told["subjects"][1], told["subjects"][0]
        (incident,) = told["incidents"]
        assert ("db", "well", []) == (db["name"], db["state"], db["incidents"])
        assert ("web", "dead", [incident["id"]]) == (web["name"], web["state"], web["incidents"])
        decision = (await loop.parts.knowledge.decisions("web"))[0]
        assert (decision.sentence, decision.check) == (incident["decision"]["sentence"], incident["decision"]["check"])
        assert [incident["id"]] == [held["incident"] for held in told["held_back"]]
        spent = told["budgets"]["per_target"]
        assert {"used": 1, "of": spent["of"], "left": spent["of"] - 1} == spent["spent"]["web"]
        assert 1 == told["loop"]["cycles"] == told["loop"]["last_turn"]["number"]
        assert told["stages"]["2.0_ANALYZE"]["p99_ms"] > 0
        assert told["memory"]["peak_mb"] >= told["memory"]["rss_mb"] > 1
        assert told["cpu"]["seconds"] > 0
        assert ("all is paused", None) == (told["conditions"][0]["title"], told["conditions"][0]["since"])
        assert ["eyes"] == told["configuration"]["instances"]["monitors"]
        assert TOKEN not in json.dumps(told)

    play(tmp_path, story, {"web": 0.0, "db": 1.0})


def test_status_is_there_while_the_store_is_not(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        async def failing(subject: str, limit: int = 100) -> Any:
            raise StoreError("no space left")

        endpoint.face.loop.parts.knowledge.decisions = failing  # type: ignore[method-assign]  # a store that fails now
        reply = await endpoint.get("/status")

        # The last turn of the loop still knows.
        assert 200 == reply.status
        assert reply.json["incidents"][0]["decision"]["sentence"]

    play(tmp_path, story, {"web": 0.0})


class Reader(HTMLParser):
    """Reads a page as a browser would: tags that are open, what they link to, and the text."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: set[str] = set()
        self.words = ""
        self.inline: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links |= {value or "" for name, value in attrs if name in ("href", "src")}
        self.inline += [name for name, _ in attrs if name == "style" or name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_and_its_files_load_nothing_from_elsewhere_and_are_not_sent_twice(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        shell = await endpoint.get("/")
        page = Reader(shell.text)

        assert "text/html; charset=utf-8" == shell["content-type"]
        assert "script-src 'self'" in shell["content-security-policy"]
        assert "unsafe" not in shell["content-security-policy"]
        assert not [link for link in page.links if "://" in link or link.startswith("/")]
        assert not page.inline
        files = [file.name for file in files_of("x0tta6bl4.status").joinpath("web").iterdir()]
        assert page.links <= {*files, "status", "#content"}
        weight = len(shell.body)
        for name in files:
            reply = await endpoint.get(f"/{name}", accept_encoding="gzip")
            assert (200, "gzip") == (reply.status, reply["content-encoding"])
            assert gzip.decompress(reply.body) == (await endpoint.get(f"/{name}")).body
            assert 304 == (await endpoint.get(f"/{name}", if_none_match=reply["etag"])).status
            weight += len(gzip.decompress(reply.body))
        assert weight < 150_000

    play(tmp_path, story)


# -- the door ----------------------------------------------------------------------------------------------------------


def test_every_answer_carries_the_headers_that_guard_a_browser(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        for target in ("/", "/health", "/metrics", "/style.css", "/nix"):
            reply = await endpoint.get(target)

            csp = reply["content-security-policy"]
            assert "default-src 'none'" in csp
            assert "unsafe" not in csp
            assert "http:" not in csp
            assert ("DENY", "nosniff", "no-referrer") == (
                reply["x-frame-options"],
                reply["x-content-type-options"],
                reply["referrer-policy"],
            )
            assert "" == reply["strict-transport-security"]
            assert 1 == sum(name == "cache-control" for name, _ in reply.headers)

    play(tmp_path, story)


@pytest.mark.parametrize(("host", "status"), [
    ("localhost", 200), ("LOCALHOST:8080", 200), ("localhost.", 200), ("app.localhost:1", 200), ("127.0.0.1", 200),
    ("[::1]:8080", 200), ("10.1.2.3:9", 200), ("box.example", 200), ("Box.Example:443", 200),
    ("evil.example", 421), ("localhost.evil.example", 421), ("127.0.0.1.evil.example", 421), ("evil-localhost", 421),
    ("127.1", 421), ("", 400), ("a b", 400), ("localhost:x", 400), ("user@localhost", 400), ("[::1", 400),
    ("[1:2]", 400), ("localhost/", 400), ("lo\u00e9", 400), ("localhost,evil.example", 400), (None, 400),
])  # fmt: skip
def test_only_names_of_this_host_are_answered_to(tmp_path: Path, host: str | None, status: int) -> None:
    async def story(endpoint: Endpoint) -> None:
        reply = await endpoint.get("/health", host=host)

        assert status == reply.status
        if status != 200:
            problem(reply, status, "FOREIGN_HOST" if status == 421 else "BAD_HOST")

    play(tmp_path, story, host="box.example")


def test_a_request_id_is_kept_when_it_is_one_and_replaced_when_it_is_not(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        assert "trace-1.A_b" == (await endpoint.get("/livez", x_request_id="trace-1.A_b"))["x-request-id"]
        made = set()
        for hostile in ("", "a b", "x" * 65, "a\r\nSet-Cookie: b", "<script>", "\u00e9"):
            reply = await endpoint.get("/livez", x_request_id=hostile)
            assert re.fullmatch(r"[a-z0-9-]{8,40}", reply["x-request-id"])
            made.add(reply["x-request-id"])
        assert 6 == len(made)

    play(tmp_path, story)


def test_what_is_not_there_and_what_does_not_fit_are_told_apart(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        assert "/status" in problem(await endpoint.get("/statsu"), 404, "NOT_FOUND")["suggestions"][0]
        reply = await endpoint.ask("DELETE", "/status")
        problem(reply, 405, "METHOD_NOT_ALLOWED")
        assert "GET, HEAD, OPTIONS" == reply["allow"]
        reply = await endpoint.get("/-/reload")
        problem(reply, 405, "METHOD_NOT_ALLOWED")
        assert "OPTIONS, POST" == reply["allow"]
        reply = await endpoint.ask("OPTIONS", "/api/v1/config/features")
        assert (204, "GET, HEAD, OPTIONS, POST") == (reply.status, reply["allow"])
        assert 200 == (await endpoint.ask("HEAD", "/status")).status
        problem(await endpoint.get("/metrics/../status"), 404, "NOT_FOUND")

    play(tmp_path, story)


def test_pages_of_listed_origins_may_read_and_no_others(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        good = "http://localhost:3000"
        reply = await endpoint.get("/status", origin=good)
        assert (good, "Origin") == (reply["access-control-allow-origin"], reply["vary"])
        assert "" == reply["access-control-allow-credentials"]
        for origin in ("http://localhost:3000.evil.example", "http://localhost:30000", "null", "*", "https://localhost:3000",
                       "http://localhost", "\u00e9"):  # fmt: skip
            assert "" == (await endpoint.get("/status", origin=origin))["access-control-allow-origin"]
        assert good == (await endpoint.post("/-/reload", b"", origin=good))["access-control-allow-origin"]

        asked = {"origin": good, "access-control-request-method": "GET"}
        reply = await endpoint.ask("OPTIONS", "/status", asked)
        assert (204, good, "GET, HEAD, OPTIONS", "") == (
            reply.status,
            reply["access-control-allow-origin"],
            reply["access-control-allow-methods"],
            reply["access-control-allow-credentials"],
        )
        assert "Authorization" in reply["access-control-allow-headers"]
        reply = await endpoint.ask("OPTIONS", "/status", {**asked, "origin": "http://evil.example"})
        assert ("", "") == (reply["access-control-allow-origin"], reply["access-control-allow-methods"])
        assert "OPTIONS, POST" == (await endpoint.ask("OPTIONS", "/-/reload", asked))["access-control-allow-methods"]

    play(tmp_path, story, cors_origins=["http://localhost:3000"])


def test_https_only_sends_people_away_and_lets_the_proxy_and_the_probes_in(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        reply = await endpoint.get("/status?a=b", host="localhost:8080")
        assert (308, "https://localhost/status?a=b") == (reply.status, reply["location"])
        reply = await endpoint.get("//evil.example", host="localhost")
        assert (308, "https://localhost//evil.example") == (reply.status, reply["location"])
        shown = f"Bearer {TOKEN}"
        assert 200 == (await endpoint.get("/status", x_forwarded_proto="https", authorization=shown)).status
        assert 200 == (await endpoint.get("/readyz?exclude=loop-running")).status
        assert "max-age=" in reply["strict-transport-security"]

    play(tmp_path, story, https_only=True)


def test_a_mistake_of_our_own_is_a_problem_document_and_names_the_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.face.broken = AssertionError("not for the client's eyes")
        reply = await endpoint.post("/api/v1/config/features", {"auto_healing": False})

        error = problem(reply, 500, "INTERNAL_ERROR")
        assert "not for the client's eyes" not in reply.text
        assert error["request_id"] in error["suggestions"][0]
        assert [error["request_id"]] == [r.request_id for r in caplog.records if hasattr(r, "request_id")]

    play(tmp_path, story)


# -- what is changed ---------------------------------------------------------------------------------------------------


def test_a_flag_is_set_by_who_shows_the_token(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        reply = await endpoint.post("/api/v1/config/features", {"auto_healing": False, "monitoring_verbose": True})

        assert 200 == reply.status
        assert set(NAMES) == reply.json.keys()
        assert (False, True) == (reply.json["auto_healing"], reply.json["monitoring_verbose"])
        assert reply.json == (await endpoint.get("/api/v1/config/features", authorization=f"bearer {TOKEN}")).json
        assert "127.0.0.1" in endpoint.face.flags_set[0][2]

    play(tmp_path, story)


@pytest.mark.parametrize("target", ["/api/v1/config/features", "/-/reload"])
def test_without_the_token_nothing_changes(tmp_path: Path, target: str) -> None:
    async def story(endpoint: Endpoint) -> None:
        for shown in (None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer x{TOKEN}",
                      f"Bearer {TOKEN[:-1]}", TOKEN, "Bearer \u00e9", b"Bearer \xff\x80"):  # fmt: skip
            reply = await endpoint.post(target, {"auto_healing": False}, authorization=shown)

            problem(reply, 401, "UNAUTHORIZED")
            assert reply["www-authenticate"].startswith("Bearer ")
            assert TOKEN not in reply.text
        assert ([], 0) == (endpoint.face.flags_set, endpoint.face.reloads)
        endpoint.peer = "192.0.2.7"
        problem(await endpoint.get("/api/v1/config/features"), 401, "UNAUTHORIZED")
        endpoint.peer = "127.0.0.1"
        assert 200 == (await endpoint.get("/api/v1/config/features")).status
        problem(await endpoint.get("/api/v1/config/features", x_forwarded_for="127.0.0.1"), 401, "UNAUTHORIZED")
        problem(await endpoint.get("/api/v1/config/features", authorization="Bearer x"), 401, "UNAUTHORIZED")

        endpoint.face.token = ""
        problem(await endpoint.post(target, {"auto_healing": False}, authorization="Bearer "), 401, "UNAUTHORIZED")

    play(tmp_path, story)


def test_a_wrong_flag_is_answered_with_the_nearest_one_and_none_is_set(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        body = {"auto_healing": False, "auto_heeling": True, "monitoring_verbose": "yes"}
        error = problem(await endpoint.post("/api/v1/config/features", body), 422, "INVALID_FLAGS")

        assert ["did you mean auto_healing?"] == error["suggestions"]
        assert ["flags.auto_heeling", "flags.monitoring_verbose"] == [m["where"] for m in error["details"]["mistakes"]]
        assert [] == endpoint.face.flags_set

        problem(await endpoint.post("/api/v1/config/features", {}), 422, "NO_FLAGS")
        problem(await endpoint.post("/api/v1/config/features", [1]), 422, "NO_FLAGS")

    play(tmp_path, story)


def test_a_flag_that_could_not_be_remembered_is_told_as_the_daemons_trouble(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.face.broken = StoreError("no space left")
        error = problem(await endpoint.post("/api/v1/config/features", {"auto_healing": False}), 503, "STORE_FAILING")

        assert "no space left" in error["message"]

    play(tmp_path, story)


def test_a_query_says_each_thing_once_and_nothing_that_means_nothing(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        error = problem(await endpoint.get("/api/v1/incidents?limit=1&limit=2&stat=open&subject="), 422, "BAD_QUERY")
        assert {"limit", "stat", "subject"} == {mistake["where"] for mistake in error["details"]["mistakes"]}
        assert "did you mean state?" in error["suggestions"]
        assert 200 == (await endpoint.get("/api/v1/incidents?limit=1")).status

    play(tmp_path, story)


def test_a_body_is_bounded_typed_and_json(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        target = "/api/v1/config/features"
        for kind in (None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
            problem(await endpoint.post(target, {"auto_healing": True}, content_type=kind), 415, "NOT_JSON")
        for body in (b"{", b"\xff\xfe\x00", b"[" * 60000, b'{"auto_healing": tru', b"\x00"):
            problem(await endpoint.post(target, body), 400, "BAD_JSON")
        for length in (str(BODY_LIMIT + 1), "9" * 400):
            problem(await endpoint.post(target, b"{}", content_length=length), 413, "BODY_TOO_LARGE")
        problem(await endpoint.post(target, b" " * (BODY_LIMIT + 1)), 413, "BODY_TOO_LARGE")
        given = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        problem(await endpoint.ask("POST", target, given, pieces=[b'{"auto']), 400, "BODY_INCOMPLETE")
        assert [] == endpoint.face.flags_set
        json_with_charset = "Application/JSON; charset=utf-8"
        assert 200 == (await endpoint.post(target, {"auto_healing": True}, content_type=json_with_charset)).status

    play(tmp_path, story)


def test_a_reload_is_done_or_every_mistake_is_listed(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        assert 200 == (await endpoint.post("/-/reload", b"", content_type=None)).status
        assert 200 == (await endpoint.post("/-/reload", {})).status
        endpoint.face.mistakes = ["monitors.web.every: should be greater than 0", "planner: no such section"]
        error = problem(await endpoint.post("/-/reload", {}), 422, "CONFIG_INVALID")

        assert endpoint.face.mistakes == error["details"]["mistakes"]
        assert 3 == endpoint.face.reloads

    play(tmp_path, story)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=10,
)


@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(
    st.tuples(st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS"]),
              st.sampled_from(["/", "/status", "/health", "/livez", "/readyz", "/-/reload", "/api/v1/config/features"]),
              st.text(st.characters(max_codepoint=126, min_codepoint=33, exclude_characters="#?"), max_size=30),
              st.dictionaries(st.sampled_from(["authorization", "host", "origin", "x-request-id", "accept-encoding",
                                               "content-type", "content-length", "access-control-request-method"]),
                              st.binary(max_size=30), max_size=4),
              st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode())),
    min_size=1, max_size=15))  # fmt: skip
def test_no_request_makes_it_our_mistake(
    tmp_path: Path, asked: list[tuple[str, str, str, dict[str, bytes], bytes]]
) -> None:
    async def story(endpoint: Endpoint) -> None:
        for method, path, query, headers, body in asked:
            told: dict[str, str | bytes | None] = {
                "authorization": f"Bearer {TOKEN}",
                "content-type": "application/json",
                **headers,
            }
            reply = await endpoint.ask(method, f"{path}?{query}", told, body)
            assert reply.status < 500 or path == "/readyz"
            if reply.status >= 400 and path != "/readyz":
                problem(reply, reply.status, reply.json["error"]["code"])

    play(tmp_path, story)


# -- limits ------------------------------------------------------------------------------------------------------------


def test_who_asks_too_often_is_told_when_to_come_back_and_probes_go_on(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        now = [1000.0]
        endpoint.app.door.limiter = RateLimiter(5, clock=lambda: now[0])
        replies = [await endpoint.get("/api/v1/session") for _ in range(6)]

        assert [200] * 5 + [429] == [reply.status for reply in replies]
        assert ["4", "3", "2", "1", "0", "0"] == [reply["x-ratelimit-remaining"] for reply in replies]
        assert '"default";q=5;w=60' == replies[0]["ratelimit-policy"]
        assert '"default";r=4;t=12' == replies[0]["ratelimit"]
        problem(replies[5], 429, "RATE_LIMITED")
        assert "12" == replies[5]["retry-after"]
        for path in ("/livez", "/health", "/metrics", "/readyz?exclude=loop-running", "/", "/style.css"):
            reply = await endpoint.get(path)
            assert (200, "") == (reply.status, reply["ratelimit"])
        endpoint.peer = "127.0.0.2"
        assert 200 == (await endpoint.get("/api/v1/session")).status
        endpoint.peer = "127.0.0.1"
        now[0] += 12
        assert [200, 429] == [(await endpoint.get("/api/v1/session")).status for _ in range(2)]

    play(tmp_path, story)


@given(limit=st.integers(1, 300), pauses=st.lists(st.floats(0, 30), max_size=200))
def test_a_limit_holds_in_the_long_run_and_its_waiting_time_is_true(limit: int, pauses: list[float]) -> None:
    now = [0.0]
    limiter = RateLimiter(limit, clock=lambda: now[0])
    passed = 0
    for pause in pauses:
        now[0] += pause
        taken = limiter.take("a")
        if not taken.retry_after:
            passed += 1
            assert 0 <= taken.remaining < limit
            continue
        just_before, there = now[0] + taken.retry_after * 0.99 - 1e-3, now[0] + taken.retry_after
        if just_before > now[0]:
            now[0] = just_before
            assert limiter.take("a").retry_after
        now[0] = there
        assert not limiter.take("a").retry_after
        passed += 1
    assert passed <= limit + now[0] * limit / 60 + 1


def test_the_memory_of_a_limiter_is_bounded_and_forgets_who_was_quiet() -> None:
    now = [0.0]
    limiter = RateLimiter(60, most=100, clock=lambda: now[0])
    for number in range(1000):
        limiter.take(str(number))
    assert 100 == len(limiter)

    now[0] = 1e6
    for _ in range(100):
        limiter.take("one")
    assert 1 == len(limiter)


def test_a_client_is_an_ipv4_address_or_an_ipv6_network() -> None:
    assert "192.0.2.1" == client_key("192.0.2.1") == client_key("::ffff:192.0.2.1")
    assert client_key("2001:db8::1") == client_key("2001:db8::ffff:1") != client_key("2001:db8:0:1::1")
    assert client_key("fe80::1%eth0") == client_key("fe80::2")
    assert "" == client_key("")


def test_the_cpu_share_is_that_of_the_last_minute() -> None:
    now, used = [0.0], [0.0]
    cpu = CpuUse(clock=lambda: now[0], cpu=lambda: used[0])
    for _ in range(300):  # five busy minutes
        now[0] += 1
        used[0] += 0.5
        cpu.tick()
    for _ in range(90):  # and then it was quiet
        now[0] += 1
        cpu.tick()

    told = cpu.read()
    assert (150.0, 0.0) == (told["seconds"], told["percent"])
    assert told["over_seconds"] is not None
    assert 60 <= told["over_seconds"] <= 75


def test_a_time_that_no_calendar_has_is_none() -> None:
    assert "1970-01-01T00:00:00Z" == iso(0, "seconds")
    assert [None] * 3 == [iso(float("inf")), iso(1e20), iso(float("nan"))]
