"""The API's description and the API are the same: every route stands in it, and every answer is as it says."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from asking import OPERATOR, PASSWORD, TOKEN, Browser, Endpoint, Reply, play, signed_in

from x0tta6bl4.kernel.facts import Incident, IncidentState, Plan, Severity, Step
from x0tta6bl4.status import commands
from x0tta6bl4.status.access import Scope
from x0tta6bl4.status.links import Links
from x0tta6bl4.status.report import iso
from x0tta6bl4.status.routes import BODY_LIMIT

DEAD = {"web": 0.0, "db": 1.0}
LINKS = Links(b"k" * 32, lambda: "http://127.0.0.1:8080/")
PROBLEM = "application/problem+json"
STREAMS = {"/api/v1/events", "/ws"}
Document = Mapping[str, Any]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, too, what is soon done is answered at once."""
    monkeypatch.setattr(commands, "ANSWER_WITHIN", 60.0)


async def described(endpoint: Endpoint) -> Any:
    reply = await endpoint.get("/openapi.json")
    assert (200, "application/json") == (reply.status, reply["content-type"])
    return reply.json


def everything_in(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from everything_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from everything_in(inner)


# -- the document ------------------------------------------------------------------------------------------------------


def test_it_is_openapi_by_the_rules(tmp_path: Path) -> None:
    validator = pytest.importorskip(
        "openapi_spec_validator", reason="openapi-spec-validator, which knows the rules, is not installed"
    )

    async def story(endpoint: Endpoint) -> None:
        validator.validate(await described(endpoint))

    play(tmp_path, story, links=LINKS)


def test_every_route_stands_in_it_and_nothing_else(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        document = await described(endpoint)
        told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
        assert {(r.method, r.path) for r in endpoint.app.map.routes if not r.is_hidden} == told
        assert "3.1.0" == document["openapi"]
        assert "9.8.7" == document["info"]["version"]

    play(tmp_path, story, links=LINKS)


def test_what_it_refers_to_is_there_and_each_operation_has_a_name_and_a_sentence(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        document = await described(endpoint)
        for one in everything_in(document):
            if isinstance(ref := one.get("$ref"), str):
                assert resolved(document, one) is not None, ref
        operations = [o for methods in document["paths"].values() for o in methods.values()]
        names = [operation["operationId"] for operation in operations]
        assert len(names) == len(set(names))
        for path, methods in document["paths"].items():
            for operation in methods.values():
                assert re.fullmatch(r"[A-Z0-9].*\.(?: With `Idempotency-Key`, once\.)?", operation["summary"]), path
                inside = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
                assert set(re.findall(r"\{(\w+)\}", path)) == inside
                assert {"400", "401", "500"} <= operation["responses"].keys()
                assert any(status < "400" for status in operation["responses"])
                for scheme in itertools.chain.from_iterable(operation["security"]):
                    assert scheme in document["components"]["securitySchemes"]

    play(tmp_path, story, links=LINKS)


def test_the_page_for_people_names_every_path_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        page = await endpoint.get("/docs")
        assert (200, True) == (page.status, page["content-type"].startswith("text/html"))
        for path in (await described(endpoint))["paths"]:
            assert path in page.text
        assert not re.findall(r"<script|style=|\bon\w+=|(?:src|href)=\"?(?:https?:)?//", page.text)
        assert "'self'" in page["content-security-policy"]

    play(tmp_path, story, links=LINKS)


def test_what_a_request_may_say_is_described_as_it_is_taken(tmp_path: Path) -> None:
    """Each word of a query and each member of a body that is named there is known, and no other is."""

    async def story(endpoint: Endpoint) -> None:
        document = await described(endpoint)
        for route in endpoint.app.map.routes:
            if route.is_hidden:
                continue
            operation = document["paths"][route.path][route.method.lower()]
            words = {p["name"] for p in operation["parameters"] if p["in"] == "query"}
            assert words == (set() if route.words is None else set(route.words.model_fields))
            if route.said is not None:
                schema = resolved(document, operation["requestBody"]["content"]["application/json"]["schema"])
                names = {field.alias or name for name, field in route.said.model_fields.items()}
                assert (names, False) == (set(schema["properties"]), schema["additionalProperties"])

    play(tmp_path, story, links=LINKS)


# -- the answers -------------------------------------------------------------------------------------------------------


def resolved(document: Document, schema: Mapping[str, Any]) -> Any:
    found: Any = schema
    while isinstance(ref := found.get("$ref"), str):
        found = document
        for part in ref.removeprefix("#/").split("/"):
            found = found[part]
    return found


TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),),
    "integer": (int,), "number": (int, float),
}  # fmt: skip
SAYS_NOTHING = {"title", "description", "default", "examples", "discriminator"}
KNOWN = {"type", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems",
         "enum", "const", "anyOf", "oneOf", "$ref", "propertyNames"} | SAYS_NOTHING  # fmt: skip


def misfits(document: Document, schema: Mapping[str, Any] | bool, value: Any, where: str = "$") -> list[str]:
    """Where the value does not fit; what is said of objects is taken for all that may be in them."""
    if schema is True or schema == {}:
        return []
    assert isinstance(schema, Mapping), schema
    return _misfits(document, resolved(document, schema), value, where)


def _misfits(document: Document, schema: Mapping[str, Any], value: Any, where: str) -> list[str]:
    assert schema.keys() <= KNOWN, schema.keys() - KNOWN  # a word that this check does not understand
    for several in ("anyOf", "oneOf"):
        if several in schema:
            tried = [misfits(document, one, value, where) for one in schema[several]]
            return [] if [] in tried else [f"{where}: fits none of {len(tried)}", *min(tried, key=len)]
    if "const" in schema and value != schema["const"]:
        return [f"{where}: is {value!r} instead of {schema['const']!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: {value!r} is none of {schema['enum']}"]
    kind = schema.get("type")
    if kind is None:
        return []
    kinds = (kind,) if isinstance(kind, str) else kind
    if not any(isinstance(value, TYPES[one]) and (one == "boolean" or (value is not True and value is not False))
               for one in kinds):  # fmt: skip
        return [f"{where}: {value!r} is no {kind}"]
    found: list[str] = []
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(f"{where}: has {len(value)} members")
        for number, inner in enumerate(value):
            of_it = first[number] if number < len(first) else schema.get("items", True)
            found += misfits(document, of_it, inner, f"{where}[{number}]")
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        found += [f"{where}: has no {name}" for name in schema.get("required", []) if name not in value]
        for name, inner in value.items():
            if name in properties:
                found += misfits(document, properties[name], inner, f"{where}.{name}")
            elif (rest := schema.get("additionalProperties", not properties)) is False:
                found.append(f"{where}: has {name}, which nobody has described")
            else:
                found += misfits(document, rest, inner, f"{where}.{name}")
    return found


def test_the_check_itself_sees_what_does_not_fit() -> None:
    document = {"components": {"schemas": {"A": {"type": "object", "properties": {"n": {"type": "integer"}},
                                                 "required": ["n"]}}}}  # fmt: skip
    a = {"$ref": "#/components/schemas/A"}
    pair = {"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}], "minItems": 2, "maxItems": 2}
    for schema, good, bad in (
        (a, [{"n": 1}], [{}, {"n": "1"}, {"n": 1.5}, {"n": True}, {"n": 1, "m": 2}, [], None]),
        ({"anyOf": [a, {"type": "null"}]}, [None, {"n": 2}], [{"n": None}, 1]),
        ({"type": "array", "items": a}, [[], [{"n": 1}]], [[{"n": 1}, {}], {}]),
        (pair, [[1.5, "x"]], [[1, 2], [1], [1, "x", 3]]),
        ({"enum": ["a", "b"]}, ["a"], ["c"]),
        ({"type": "object", "additionalProperties": {"type": "boolean"}}, [{}, {"x": True}], [{"x": 1}]),
    ):
        assert not [value for value in good if misfits(document, schema, value)]
        assert not [value for value in bad if not misfits(document, schema, value)]


def must_fit(document: Document, method: str, path: str, reply: Reply) -> None:
    told = document["paths"][path][method.lower()]["responses"].get(str(reply.status))
    asked = f"{method} {path}: {reply.status} {reply.text[:300]}"
    assert told is not None, f"nobody has described {asked}"
    media = reply["content-type"].partition(";")[0]
    if not reply.body:
        assert reply.status == 304 or "content" not in told, asked
        return
    assert media in told["content"], f"{media} is not described for {asked}"
    if media.endswith("json"):
        schema = told["content"][media]["schema"]
        assert [] == misfits(document, schema, reply.json), asked
    for name in told.get("headers", {}):
        assert reply[name], f"{name} is missing from {asked}"


async def filled(endpoint: Endpoint) -> dict[str, str]:
    """Something of everything that can be shown."""
    knowledge, now = endpoint.face.loop.parts.knowledge, endpoint.clock.wall()
    (dead,) = endpoint.face.loop.incidents.open
    incident = Incident("inc-db", "db", "hung", IncidentState.OPEN, Severity.MAJOR, "it hangs", now - 9, now - 9)
    await knowledge.save_incident(incident)
    step = Step("step-1", "process.restart", "db", incident=incident.id)
    plan = Plan("plan-1", incident.id, "db", "hung", "service-down", "restart", (step,), ("it hangs",), "approve")
    await knowledge.save_plan(plan)
    asked = await knowledge.want_approval(plan, now + 600)
    await knowledge.record_intent(step, plan, endpoint.face.loop.responder.epoch)
    over = Incident("inc-over", "db", "hung", IncidentState.CLOSED, Severity.WARNING, "it hung", now - 99, now - 99,
                    closed_at=now - 50, ended="recovered")  # fmt: skip
    await knowledge.save_incident(over)
    command = await endpoint.post(
        "/api/v1/commands", {"command": "pause", "params": {"target": "db", "for": "1h", "reason": "moving disks"}}
    )
    failed = await endpoint.post(
        "/api/v1/commands", {"command": "resume", "params": {"target": "nix"}}, idempotency_key="k"
    )
    assert (200, 404) == (command.status, failed.status)
    ((failed_id,),) = await endpoint.database.read("SELECT id FROM commands WHERE status = 404")
    return {
        "dead": dead.id,
        "command": command.json["id"],
        "failed": failed_id,
        "link": f"/api/v1/approvals/{asked.plan}/answer?token={LINKS.token(asked.plan, asked.expires)}",
    }


def test_every_answer_to_those_who_read_is_as_it_is_described(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        document, there = await described(endpoint), await filled(endpoint)
        browser, incidents, why = await signed_in(endpoint), "/api/v1/incidents", "/api/v1/why"
        walk = [
            ("/health", ["", "?strict=1", "?strict=x"]), ("/livez", ["", "?verbose"]),
            ("/readyz", ["", "?verbose&exclude=loop-running"]), ("/metrics", [""]), ("/status", ["", "?x=1"]),
            (incidents, ["", "?state=open", "?state=closed&limit=1", "?subject=db&fault=hung&severity=major",
                         "?since=2020-01-01T00:00:00Z&until=2040-01-01T00:00:00Z", "?state=nix&limit=0", "?limit=x",
                         "?since=yesterday&until=2020-01-01", "?cursor=nix", "?nix=1", "?limit=1&limit=2",
                         "?severity=bad", "?subject=%00"]),
            (f"{incidents}/{there['dead']}", ["", "?all_moves=1", "?all_moves=x"]), (f"{incidents}/inc-db", [""]),
            (f"{incidents}/inc-over", [""]), (f"{incidents}/nix", [""]),
            (f"{incidents}/{there['dead']}/signals", [""]), (f"{incidents}/inc-over/signals", [""]),
            (f"{incidents}/nix/signals", [""]), (f"{incidents}/inc-db/verdicts", [""]),
            (f"{incidents}/nix/verdicts", [""]),
            (f"{why}/web", [""]), (f"{why}/db", [""]), (f"{why}/{there['dead']}", [""]), (f"{why}/inc-over", [""]),
            (f"{why}/nix", [""]),
            ("/api/v1/history", ["", "?limit=1", "?subject=db", "?limit=0", "?before=nix", "?x"]),
            ("/api/v1/summary", ["", "?days=1", "?days=0", "?days=nan", "?days=1e9"]),
            ("/api/v1/score", ["", "?days=1", "?rule=nix", "?days=x"]),
            ("/api/v1/config/features", [""]), ("/api/v1/pauses", [""]),
            ("/api/v1/changes", ["", "?subject=web&limit=1", "?since=2020-01-01T00:00:00Z", "?since=x", "?nix=1"]),
            ("/api/v1/approvals", ["", "?state=wanted", "?state=nix"]), ("/api/v1/approvals/plan-1", [""]),
            ("/api/v1/approvals/nix", [""]), (f"/api/v1/commands/{there['command']}", [""]),
            (f"/api/v1/commands/{there['failed']}", [""]), ("/api/v1/commands/nix", [""]),
            ("/api/v1/session", [""]), ("/api/v1/sessions", [""]), ("/openapi.json", [""]), ("/docs", [""]),
            ("/api/v1/events", ["?types=nix", "?nix=1"]), ("/ws", ["", "?types=nix"]),
            (there["link"].partition("?")[0], ["?" + there["link"].partition("?")[2], "", "?token=nix"]),
        ]  # fmt: skip
        seen = set()
        for path, queries in walk:
            place, _ = endpoint.app.map.find(path) or (None, {})
            assert place is not None, path
            for query in queries:
                for headers in ({}, {"authorization": f"Bearer {TOKEN}"}, {"authorization": "Bearer x"},
                                {"x-forwarded-for": "192.0.2.7"}, {"host": "evil.example"},
                                {"accept": "text/html"}, {"accept": "application/openmetrics-text"}):  # fmt: skip
                    reply = await endpoint.ask("GET", path + query, headers)
                    must_fit(document, "GET", place.path, reply)
                    seen.add((place.path, reply.status))
                    if etag := reply["etag"]:
                        again = await endpoint.ask("GET", path + query, {**headers, "if-none-match": etag})
                        assert 304 == again.status
                        must_fit(document, "GET", place.path, again)
        for target in ("/api/v1/session", "/api/v1/sessions"):
            must_fit(document, "GET", target, await browser.ask("GET", target))
        readable = {path for path, methods in document["paths"].items() if "get" in methods}
        assert readable == {path for path, _ in seen}, "the walk goes everywhere"
        assert readable - STREAMS == {path for path, status in seen if status == 200}, "and everywhere it gets in"

    play(tmp_path, story, DEAD, links=LINKS, rate_limit_per_minute=1_000_000)


def test_every_answer_to_those_who_change_something_is_as_it_is_described(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        document, there = await described(endpoint), await filled(endpoint)
        await endpoint.access.add_operator(OPERATOR, PASSWORD, Scope.ADMIN, "root@cli")
        read = {"authorization": f"Bearer {await endpoint.key(Scope.READ)}"}
        soon = iso(endpoint.clock.wall() + 3600)
        good: list[tuple[str, str, Any]] = [
            ("POST", "/api/v1/config/features", {"auto_healing": False}),
            ("POST", "/-/reload", {}),
            ("POST", "/api/v1/pauses", {"target": "web", "for": "1h"}),
            ("POST", "/api/v1/pauses", {"target": "*", "until": soon, "kind": "maintenance"}),
            ("DELETE", "/api/v1/pauses/web", None),
            ("POST", "/api/v1/changes", {"subject": "web", "kind": "config", "detail": "v2", "at": iso(0.0)}),
            ("POST", "/api/v1/incidents/inc-db/events", {"event": "operator.hold", "data": {}, "why": "so"}),
            ("POST", "/api/v1/incidents/inc-db/verdicts", {"right": False, "why": "a backup"}),
            ("POST", "/api/v1/commands", {"command": "pause", "params": {"target": "web", "for": "1m"}}),
            ("POST", "/api/v1/commands", {"command": "resume", "params": {"target": "web"}, "dry_run": True}),
            ("POST", "/api/v1/approvals/plan-1", {"answer": "approve", "why": "looked at it"}),
        ]
        bad: list[tuple[str, str, Any]] = [
            ("POST", "/api/v1/config/features", {"nix": 1}), ("POST", "/api/v1/config/features", {}),
            ("POST", "/api/v1/pauses", {}), ("POST", "/api/v1/pauses", {"target": "nix", "for": "1h"}),
            ("POST", "/api/v1/pauses", {"target": "web", "for": "soon"}),
            ("POST", "/api/v1/pauses", {"target": "web", "for": "1h", "until": "2030-01-01T00:00:00Z"}),
            ("DELETE", "/api/v1/pauses/nix", None),
            ("POST", "/api/v1/changes", {"subject": "nix"}),
            ("POST", "/api/v1/changes", {"subject": "web", "at": soon}),
            ("POST", "/api/v1/incidents/nix/events", {"event": "operator.hold"}),
            ("POST", "/api/v1/incidents/inc-over/events", {"event": "operator.hold"}),
            ("POST", "/api/v1/incidents/inc-db/events", {"event": "$x", "data": []}),
            ("POST", "/api/v1/incidents/inc-db/verdicts", {"right": "maybe"}),
            ("POST", "/api/v1/incidents/nix/verdicts", {"right": True}),
            ("POST", "/api/v1/commands", {"command": "nix"}), ("POST", "/api/v1/commands", {"command": "pause"}),
            ("POST", "/api/v1/commands", {"command": "cycle"}),
            ("POST", "/api/v1/approvals/plan-1", {"answer": "reject"}),
            ("POST", "/api/v1/approvals/plan-1", {"answer": "perhaps"}),
            ("POST", "/api/v1/approvals/nix", {"answer": "approve"}),
            ("POST", there["link"], {"answer": "approve"}),
            ("POST", there["link"].partition("?")[0], {"answer": "approve", "token": "nix"}),
            ("POST", "/api/v1/session", {"name": OPERATOR, "password": "wrong"}), ("POST", "/api/v1/session", {}),
            ("POST", "/api/v1/session/refresh", None), ("DELETE", "/api/v1/sessions/nix", None),
            ("POST", "/api/v1/alerts", {"alerts": []}),
        ]  # fmt: skip
        seen = set()

        async def tried(method: str, target: str, body: Any, **headers: Any) -> int:
            place, _ = endpoint.app.map.find(target.partition("?")[0]) or (None, {})
            assert place is not None, target
            reply = await endpoint.send(method, target, body, **headers)
            must_fit(document, method, place.path, reply)
            seen.add((method, place.path, reply.status))
            return reply.status

        for method, target, body in [*good, *bad]:
            status = await tried(method, target, body)
            assert (status < 300) == ((method, target, body) in good), (method, target, body, status)
            for headers in ({"authorization": None}, read, {"host": "evil.example"}, {"authorization": "Bearer x"},
                            {"origin": "http://evil.example"}, {"accept": "text/html"}):  # fmt: skip
                await tried(method, target, body, **headers)
            if method == "POST":
                await tried(method, target, b"{")
                await tried(method, target, [])
                await tried(method, target, b"<a/>", content_type="application/xml")
                await tried(method, target, b" " * (BODY_LIMIT + 1))
        browser = Browser(endpoint)
        for method, target, body in (
            ("POST", "/api/v1/session", {"name": OPERATOR, "password": PASSWORD}),
            ("POST", "/api/v1/session/refresh", None),
            ("POST", "/-/reload", {}),
            ("DELETE", "/api/v1/sessions/nix", None),
            ("DELETE", "/api/v1/session", None),
        ):
            wrong = await browser.ask(method, target, body, x_csrf_token="x", origin="http://evil.example")
            for reply in (wrong, await browser.ask(method, target, body)):
                must_fit(document, method, _template(endpoint, target), reply)
                seen.add((method, _template(endpoint, target), reply.status))
        told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
        changing = {one for one in told if one[0] != "GET"}
        assert changing == {one[:2] for one in seen}, "the walk goes everywhere"

    play(tmp_path, story, DEAD, links=LINKS, rate_limit_per_minute=1_000_000)


def _template(endpoint: Endpoint, target: str) -> str:
    found = endpoint.app.map.find(target.partition("?")[0])
    assert found is not None, target
    return found[0].path


def test_what_the_door_says_to_everybody_is_described_for_every_route(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        document = await described(endpoint)
        for path, methods in document["paths"].items():
            target = re.sub(r"\{\w+\}", "web", path)
            for method in methods:
                for _ in range(2):  # the second one is too much
                    reply = await endpoint.ask(method.upper(), target, {"x-forwarded-for": "192.0.2.7"})
                    if reply.status == 200 and path in STREAMS:
                        continue
                    must_fit(document, method, path, reply)

    play(tmp_path, story, links=LINKS, rate_limit_per_minute=1)


def test_a_failing_store_is_answered_as_described(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        document, there = await described(endpoint), await filled(endpoint)
        await endpoint.database.close()
        statuses = set()
        for path, methods in document["paths"].items():
            target = re.sub(r"\{\w+\}", "inc-db", path)
            if path in STREAMS:
                continue
            for method in methods:
                body = None if method != "post" else {"command": "pause", "params": {"target": "web", "for": "1h"}}
                if path.endswith("/pauses"):
                    body = {"target": "web", "for": "1h"} if method == "post" else None
                for given in (body, {"answer": "approve"} if method == "post" else None):
                    reply = await endpoint.send(method.upper(), target, given)
                    must_fit(document, method, path, reply)
                    statuses.add(reply.status)
        must_fit(document, "GET", "/api/v1/approvals/{plan}/answer", await endpoint.get(there["link"]))
        assert 503 in statuses
        assert 500 not in statuses

    play(tmp_path, story, DEAD, links=LINKS, rate_limit_per_minute=1_000_000)


def test_it_is_made_once(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        first = await endpoint.get("/openapi.json")
        assert first.body == (await endpoint.get("/openapi.json")).body
        assert json.loads(first.body) == (await described(endpoint))

    play(tmp_path, story)
