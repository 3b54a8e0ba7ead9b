"""Describes the API from the routes themselves: as OpenAPI 3.1 for programs, and on one page for people."""

import asyncio
import html
import json
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from x0tta6bl4.status.desk import Desk
from x0tta6bl4.status.page import head, tail
from x0tta6bl4.status.routes import HTML, JSON, PROBLEM, Asked, Gives, Route

REFUSALS = {
    400: "The request cannot be read.",
    401: "Nobody is known by what was shown, or nothing was shown.",
    403: "Known, and not allowed to.",
    404: "There is no such thing.",
    405: "This method means nothing here.",
    408: "The request took too long to arrive.",
    409: "It cannot be done as things stand.",
    413: "The body is too large.",
    415: "The body is of another kind.",
    421: "The request was meant for another host.",
    422: "Understood, and something in it is wrong; every mistake is told.",
    426: "This is a WebSocket.",
    429: "More often than agreed; Retry-After says when to come again.",
    431: "The head of the request is too large.",
    500: "A mistake of the daemon's own; its log says more.",
    503: "It cannot be told at the moment: the store fails, or too much is asked at once.",
}
SENT_AWAY = Gives("Plain HTTP was spoken.", media="", headers={"Location": "The same over HTTPS."})
PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457, with the member `error` for those who read that.",
    "required": ["type", "title", "status", "detail", "instance", "error"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "error": {
            "type": "object",
            "required": ["code", "message", "details", "timestamp", "request_id", "suggestions"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "object"},
                "timestamp": {"type": "string"},
                "request_id": {"type": "string"},
                "suggestions": {"type": "array", "items": {"type": "string"}},
            },
        },
    },
}


class Description:
    """Made when somebody asks for the first time, and kept as text: most daemons are never asked."""

    def __init__(self, desk: Desk, routes: Sequence[Route]) -> None:
        self._desk = desk
        self._described = [route for route in routes if not route.is_hidden]
        self._document: bytes = b""
        self._page: bytes = b""
        self._making = asyncio.Lock()

    def routes(self) -> list[Route]:
        own = [
            Route(
                "GET",
                "/openapi.json",
                self._openapi,
                "This description, as OpenAPI 3.1.",
                gives={200: Gives("The document.", dict[str, Any])},
            ),
            Route(
                "GET", "/docs", self._docs, "This description, to be read.", gives={200: Gives("A page.", media=HTML)}
            ),
        ]
        self._described += own
        return own

    async def _openapi(self, asked: Asked) -> Response:
        await self._made()
        return Response(self._document, media_type=JSON)

    async def _docs(self, asked: Asked) -> Response:
        await self._made()
        return Response(self._page, media_type=HTML)

    async def _made(self) -> None:
        async with self._making:
            if not self._document:
                face, settings = self._desk.face, self._desk.settings
                document = await asyncio.to_thread(describe, self._described, face.version, settings.https_only)
                self._page = "".join(readable(document)).encode("utf-8")
                self._document = json.dumps(document, separators=(",", ":")).encode("ascii")


def describe(routes: Iterable[Route], version: str, is_https_only: bool = False) -> dict[str, Any]:
    from pydantic import TypeAdapter

    routes = list(routes)
    asked_for: list[tuple[str, Any, Any]] = []
    for route in routes:
        for media, model in _bodies(route).items():
            asked_for.append((f"{route.method} {route.path} {media}", "validation", TypeAdapter(model)))
        for status, gives in route.gives.items():
            if gives.shape is not None:
                asked_for.append((f"{route.method} {route.path} {status}", "serialization", TypeAdapter(gives.shape)))
        if route.words is not None:
            asked_for.append((f"{route.method} {route.path} ?", "validation", TypeAdapter(route.words)))
    found, rest = TypeAdapter.json_schemas(asked_for, ref_template="#/components/schemas/{model}")
    schemas = {key: schema for (key, _), schema in found.items()}
    components = dict(rest.get("$defs", {}))
    components["Problem"] = PROBLEM_SCHEMA
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas, components)
        if is_https_only and route.is_limited:
            operation["responses"]["308"] = _given(SENT_AWAY, None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "x0tta6bl4",
            "version": version,
            "summary": "What the daemon sees, what it does about it and why, and what people can change.",
            "description": (
                "Who asks from the same host may read without a key. Everybody else shows an API key or an access "
                "token as `Authorization: Bearer …`. Times are ISO 8601 in UTC. Refusals are problem details. Every "
                "answer carries X-Request-ID and traceparent; those of the request are taken over."
            ),
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, an access token, or the token in operator.token.",
                },
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "session": {"type": "apiKey", "in": "cookie", "name": "x0_access"},
            },
        },
    }


def _bodies(route: Route) -> dict[str, Any]:
    return dict(route.takes) if route.takes else {JSON: route.said} if route.said is not None else {}


def _operation(route: Route, schemas: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    key = f"{route.method} {route.path}"
    parts = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    parameters: list[dict[str, Any]] = [
        {"name": part, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1, "maxLength": 200}}
        for part in parts
    ]
    words = schemas.get(f"{key} ?")
    if words is not None:
        words = _resolved(words, components)
        needed = words.get("required", [])
        for name, schema in words.get("properties", {}).items():
            text = schema.get("description", "")
            one: dict[str, Any] = {"name": name, "in": "query", "required": name in needed, "schema": schema}
            parameters.append(one | ({"description": text} if text else {}))
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method.lower()}{route.path}".replace("/", "_").replace("{", "").replace("}", ""),
        "tags": [route.group],
        "parameters": parameters,
        "responses": {str(s): _given(gives, schemas.get(f"{key} {s}")) for s, gives in route.gives.items()},
        "security": [{"bearer": []}, {"key": []}, {"session": []}, {}] if route.needs is not None else [],
    }
    if route.needs is not None:
        operation["description"] = f"Needs the scope `{route.needs.value}`."
    bodies = _bodies(route)
    if bodies:
        operation["requestBody"] = {
            "required": route.is_body_needed,
            "content": {media: {"schema": schemas[f"{key} {media}"]} for media in bodies},
        }
    problem = {"$ref": "#/components/schemas/Problem"}
    for status in sorted(_refusals(route)):
        told = operation["responses"].setdefault(str(status), {"description": REFUSALS[status]})
        told.setdefault("content", {}).setdefault(PROBLEM, {"schema": problem})
    return operation


def _resolved(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return components[name] if name else schema


def _refusals(route: Route) -> set[int]:
    statuses = {400, 401, 405, 408, 421, 429, 431, 500, *route.refuses}
    if route.is_limited:
        statuses.add(503)
    if route.needs is not None:
        statuses |= {403, 503}
    if _bodies(route):
        statuses |= {413, 415, 422}
    if route.words is not None:
        statuses.add(422)
    if "{" in route.path:
        statuses.add(404)
    return statuses


def _given(gives: Gives, schema: dict[str, Any] | None) -> dict[str, Any]:
    told: dict[str, Any] = {"description": gives.what}
    if gives.shape is not None:
        told["content"] = {gives.media: {"schema": schema}}
    elif gives.media not in ("", JSON):
        told["content"] = {gives.media: {"schema": {"type": "string"}}}
    for media in gives.also:
        told["content"][media] = {"schema": {"type": "string"}}
    if gives.headers:
        told["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in gives.headers.items()
        }
    return told


# -- to be read --------------------------------------------------------------------------------------------------------

FOR_ALL = (400, 401, 403, 405, 408, 413, 415, 421, 422, 429, 431, 500, 503)
"""Refusals that are explained once, for every route."""


def readable(document: dict[str, Any]) -> Iterator[str]:
    yield head("The API", "")
    yield f"<h2>The API</h2><p>{_marked(document['info']['description'])}</p>"
    yield '<p>For programs: <a href="openapi.json">openapi.json</a> (OpenAPI 3.1).</p>'
    groups: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append((path, method.upper(), operation))
    links = (f'<a href="#{html.escape(group)}">{html.escape(group)}</a>' for group in groups)
    yield f'<nav aria-label="Groups">{" ".join(links)} <a href="#refusals">refusals</a></nav>'
    for group, operations in groups.items():
        yield f'<section id="{html.escape(group)}"><h2>{html.escape(group.capitalize())}</h2><ul class="cards">'
        for path, method, operation in operations:
            yield from _readable(path, method, operation, document)
        yield "</ul></section>"
    yield '<section id="refusals"><h2>Refusals</h2><p>Each is <code>application/problem+json</code>, with a member '
    yield "<code>error</code>: code, message, details, suggestions, request_id. Any route may give:</p><ul>"
    for status in FOR_ALL:
        yield f"<li><b>{status}</b> {HTTPStatus(status).phrase}: {html.escape(REFUSALS[status])}</li>"
    yield "</ul></section>" + tail(f"version {html.escape(document['info']['version'])}")


def _readable(path: str, method: str, operation: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    scope = operation.get("description", "")
    yield f"<li><h3><code>{method} {html.escape(path)}</code></h3>"
    yield f"<p>{_marked(operation['summary'])} {_marked(scope)}</p>"
    rows = [
        (one["name"], one["schema"], one["required"], one.get("description") or one["schema"].get("description", ""))
        for one in operation["parameters"]
    ]
    yield from _table("Parameters", rows, document)
    for media, body in operation.get("requestBody", {}).get("content", {}).items():
        yield from _table(f"Body, {media}", _members(body["schema"], document), document)
    for status, given in operation["responses"].items():
        if int(status) < 400:
            yield f"<p><b>{status}</b> {_marked(given['description'])}</p>"
            for content in given.get("content", {}).values():
                rows = _members(content["schema"], document)
                if rows:
                    yield "<details><summary>What it holds</summary>"
                    yield from _table("Members", rows, document)
                    yield "</details>"
    own = [f"{s} ({given['description'][0].lower()}{given['description'][1:].rstrip('.')})"
           for s, given in operation["responses"].items() if int(s) >= 400 and int(s) not in FOR_ALL]  # fmt: skip
    if own:
        yield f'<p class="small">Refuses with {html.escape("; ".join(own))}.</p>'
    yield "</li>"


Member = tuple[str, dict[str, Any], bool, str]


def _members(schema: dict[str, Any], document: dict[str, Any]) -> list[Member]:
    found = _resolved(schema, document["components"]["schemas"])
    needed = found.get("required", [])
    return [(n, one, n in needed, one.get("description", "")) for n, one in found.get("properties", {}).items()]


def _table(title: str, rows: Sequence[Member], document: dict[str, Any]) -> Iterator[str]:
    if not rows:
        return
    yield f"<table><caption>{html.escape(title)}</caption>"
    heads = "".join(f'<th scope="col">{word}</th>' for word in ("name", "kind", "meaning"))
    yield f"<thead><tr>{heads}</tr></thead><tbody>"
    for name, schema, is_needed, text in rows:
        kind = _kind(schema, document)
        if not is_needed:
            kind = kind.removesuffix(" or null")
            kind += (
                f", else {json.dumps(schema['default'])}" if schema.get("default") is not None else ", may be left out"
            )
        yield f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(kind)}</td><td>{_marked(text)}</td></tr>"
    yield "</tbody></table>"


def _kind(schema: dict[str, Any], document: dict[str, Any]) -> str:
    found = _resolved(schema, document["components"]["schemas"])
    if "enum" in found or "const" in found:
        return " | ".join(map(str, found.get("enum", [found.get("const")])))
    if "anyOf" in found:
        return " or ".join(dict.fromkeys(_kind(one, document) for one in found["anyOf"]))
    match found.get("type"):
        case "array":
            return f"list of {_kind(found['items'], document)}" if "items" in found else "list"
        case "integer" | "number" as kind:
            low, high = found.get("minimum", found.get("exclusiveMinimum")), found.get("maximum")
            span = f" {low}…{high}" if low is not None and high is not None else ""
            return ("whole number" if kind == "integer" else "number") + span
        case "string":
            return "text"
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "object":
            return "object"
    return "anything"


def _marked(text: str) -> str:
    """What stands between backticks as code."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
