"""What the API takes and gives: each route declared once, for the door, its handler and the API's description."""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope as Connection

from x0tta6bl4.kernel.memory import plain
from x0tta6bl4.status.access import Caller, Scope
from x0tta6bl4.status.problems import Refusal, to_json

BODY_LIMIT = 64 * 1024
"""Bytes of a request's body where its route says nothing else; hardly anybody has more to say here."""
MISTAKES = 50
"""Mistakes of one request that are told; whoever makes more has another problem."""

JSON = "application/json"
PROBLEM = "application/problem+json"
HTML = "text/html"


class Words(BaseModel):
    """The query of a request. A word that means nothing is a mistake: a filter with a typing error must not pass."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Said(BaseModel):
    """The body of a request, in JSON's own types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def _one_line(text: str) -> str:
    """It is shown in terminals, logs and sentences of the guard."""
    line = " ".join(text.split())
    if not line.isprintable():
        raise ValueError("has characters that cannot be shown")
    return line


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has characters that cannot be shown")
    return text


Who = Annotated[str, Field(max_length=100), AfterValidator(_one_line)]
Why = Annotated[str, Field(max_length=1000), AfterValidator(_one_line)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]


@dataclass(frozen=True, slots=True)
class Gives:
    """One kind of answer."""

    what: str
    shape: Any = None
    """The type of a JSON body; None: another media type, or nothing."""
    media: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    also: Sequence[str] = ()
    """Media types in which the same is given to who prefers them."""


@dataclass(slots=True)
class Asked:
    """One request, with what the door found out about it."""

    request: Request
    id: str
    trace: str
    """32 hexadecimal digits that the caller, the log and the answer share (W3C trace context)."""
    headers: dict[bytes, bytes]
    path: str
    client: str
    caller: Caller
    is_neighbour: bool = False
    """Whether it comes from this host, by nobody's hand but its own."""
    is_stream: bool = False
    """Whether the answer goes on until the reader leaves; how long that was says nothing about us."""
    params: Mapping[str, str] = field(default_factory=dict)
    words: Any = None
    """The query, as the route's model has read it."""
    said: Any = None
    """The body, as the route's model has read it."""

    @property
    def connection(self) -> Connection:
        return self.request.scope

    @property
    def query(self) -> QueryParams:
        return self.request.query_params

    @property
    def who(self) -> str:
        """As the journal has it."""
        return f"{self.caller.name} ({self.caller.way})"

    @property
    def content_type(self) -> bytes:
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()

    @property
    def reads_pages(self) -> bool:
        return b"text/html" in self.headers.get(b"accept", b"")

    def about(self) -> dict[str, Any]:
        """For a line in the log about what was asked."""
        return {"client": self.client, "who": self.caller.name, "request_id": self.id, "trace_id": self.trace}

    async def body(self, limit: int = BODY_LIMIT) -> bytes:
        declared = self.headers.get(b"content-length", b"0")
        too_much = Refusal(413, "BODY_TOO_LARGE", f"the body is larger than {limit} bytes")
        if declared.isdigit() and int(declared[:20]) > limit:
            raise too_much
        body = bytearray()
        try:
            async for chunk in self.request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_much
        except ClientDisconnect as error:
            raise Refusal(400, "BODY_INCOMPLETE", "the body ended too early") from error
        return bytes(body)

    async def json(self, *, is_needed: bool = True, limit: int = BODY_LIMIT) -> Any:
        """``is_needed=False``: no body at all says as much as an empty object."""
        body = await self.body(limit)
        if not body and not is_needed:
            return {}
        if self.content_type != b"application/json":
            raise Refusal(
                415,
                "NOT_JSON",
                "the body must be application/json",
                suggestions=["send `Content-Type: application/json`"],
            )
        try:
            return json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            why = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
            raise Refusal(400, "BAD_JSON", f"the body is not JSON: {why[:200]}") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


Handler = Callable[[Asked], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path. ``path`` may have parts in braces; those never hold a slash."""

    method: str
    path: str
    handler: Handler
    summary: str
    """One sentence for whoever reads the API's description."""
    needs: Scope | None = None
    """None: open to everybody who gets through the door."""
    group: str = "daemon"
    words: type[Words] | None = None
    """None: the query is the handler's to read, or means nothing."""
    said: type[BaseModel] | None = None
    is_body_needed: bool = True
    gives: Mapping[int, Gives] = field(default_factory=lambda: {200: Gives("The answer.")})
    refuses: Sequence[int] = ()
    """Refusals that are this route's own; what the door says to everybody is described for all."""
    is_counted: bool = True
    """Whether its requests are in the metrics. A scrape is not: looking must not change what is looked at."""
    is_limited: bool = True
    """Whether a client's rate counts it. Probes and alerts must get through when a client is at its limit."""
    takes: Mapping[str, Any] = field(default_factory=dict)
    """Media types of a body that the handler reads itself, with their models."""
    is_free: bool = False
    """Whether who is at his limit gets it all the same: without the page's files nobody is told in words to wait."""
    is_hidden: bool = False
    """Left out of the API's description: files of the page."""


@dataclass(frozen=True, slots=True)
class Place:
    """A path and what can be done there."""

    path: str
    methods: Mapping[str, Route]

    @property
    def allow(self) -> str:
        names = {*self.methods, "OPTIONS"} | ({"HEAD"} if "GET" in self.methods else set())
        return ", ".join(sorted(names))

    @property
    def first(self) -> Route:
        return next(iter(self.methods.values()))


class Map:
    """Finds the place that a path leads to."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        by_path: dict[str, dict[str, Route]] = {}
        for route in self.routes:
            methods = by_path.setdefault(route.path, {})
            assert route.method not in methods, f"{route.method} {route.path} is declared twice"
            methods[route.method] = route
        self._exact = {path: Place(path, methods) for path, methods in by_path.items() if "{" not in path}
        self._patterns = [
            (re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]{1,200})", re.escape(path))), Place(path, methods))
            for path, methods in by_path.items()
            if "{" in path
        ]

    @property
    def paths(self) -> list[str]:
        return sorted(
            {*self._exact, *(place.path for _, place in self._patterns)}
            - {route.path for route in self.routes if route.is_hidden}
        )

    def find(self, path: str, raw: bytes = b"") -> tuple[Place, Mapping[str, str]] | None:
        """``raw``: the path before it was decoded, where a slash that belongs to a name is still told from others."""
        place = self._exact.get(path)
        if place is not None:
            return place, {}
        is_encoded = b"%2f" in raw.lower()
        sought = raw.decode("latin-1") if is_encoded else path
        for pattern, found in self._patterns:
            match = pattern.fullmatch(sought)
            if match is not None:
                named = match.groupdict()
                return found, {key: unquote(part) for key, part in named.items()} if is_encoded else named
        return None


def read_words(model: type[Words], query: QueryParams) -> Words:
    given: dict[str, Any] = {}
    problems: list[dict[str, str]] = []
    for name in query:
        values = query.getlist(name)
        several = name in model.model_fields and _takes_many(model, name)
        if len(values) > 1 and not several:
            problems.append({"where": name[:50], "message": "is said more than once", "hint": ""})
        given[name] = values if several else values[0]
    try:
        read = model.model_validate(given)
    except ValidationError as error:
        problems += mistakes(error, model)
    if problems:
        raise refused_for("BAD_QUERY", "the query", problems)
    return read


def _takes_many(model: type[BaseModel], name: str) -> bool:
    return getattr(model.model_fields[name].annotation, "__origin__", None) in (list, tuple)


def read_said(model: type[BaseModel], body: Any, code: str = "BAD_BODY", example: str = "") -> Any:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise refused_for(code, "the body", mistakes(error, model), example) from error


def refused_for(code: str, whole: str, problems: Sequence[Mapping[str, str]], example: str = "") -> Refusal:
    """Every mistake at once, in words and for programs."""
    told = "; ".join(f"{p['where'] or whole}: {p['message']}" for p in problems[:5])[:1000]
    hints = [p["hint"] for p in problems if p["hint"]]
    return Refusal(
        422,
        code,
        told,
        details={"mistakes": [dict(p) for p in problems[:MISTAKES]]},
        suggestions=list(dict.fromkeys([*hints[:10], *([f"for example {example}"] if example else [])])),
    )


def mistakes(error: ValidationError, model: type[BaseModel]) -> list[dict[str, str]]:
    """pydantic's findings in plain words; the values themselves are not repeated, they may be secrets."""
    told = []
    for one in error.errors(include_url=False, include_input=False, include_context=True):
        where = ".".join(str(part) for part in one["loc"])[:200]
        hint = ""
        if one["type"] == "extra_forbidden":
            message = "means nothing here"
            names = [field.alias or name for name, field in model.model_fields.items()]
            near = get_close_matches(str(one["loc"][-1])[:64], names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}" if names else ""
        elif one["type"] == "missing":
            message = "is missing"
        else:
            message = one["msg"].removeprefix("Value error, ")
            message = message[:1].lower() + message[1:]
        told.append({"where": where, "message": message[:300], "hint": hint})
    return told


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(plain(value)), status, headers=headers, media_type=JSON)
