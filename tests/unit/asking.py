"""A daemon's endpoint for tests to ask: the application alone, over a real loop and a real store, without a socket."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.kernel.facts import Condition as Sign
from x0tta6bl4.kernel.facts import Finding, Observation, Severity
from x0tta6bl4.kernel.flags import known_flag
from x0tta6bl4.kernel.health import HealthChecker
from x0tta6bl4.kernel.loop import MAPEK, Parts
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.watching import Instance
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.observability.metrics import Metrics
from x0tta6bl4.observability.tracker import ExecutionTracker
from x0tta6bl4.planners.runbook import Config as RunbookConfig
from x0tta6bl4.planners.runbook import Runbooks
from x0tta6bl4.settings.model import StatusSettings
from x0tta6bl4.status.access import Access, Scope
from x0tta6bl4.status.app import StatusApp
from x0tta6bl4.status.desk import Behind
from x0tta6bl4.status.face import Condition
from x0tta6bl4.status.filekeys import FileKeys
from x0tta6bl4.status.gauges import derive_gauges
from x0tta6bl4.status.links import Links
from x0tta6bl4.status.passwords import Passwords

TOKEN = "the-operators-token"
HOSTILE = "<script>alert(1)</script>&\"'"
HOST = "127.0.0.1:8080"
OPERATOR, PASSWORD = "oncall", "Tall-Ships.Sail-West"
Sent = str | bytes | None


class MovedClock(SystemClock):
    """The machine's clocks, some seconds ahead: what waits for a time need not be waited for."""

    ahead = 0.0

    def wall(self) -> float:
        return super().wall() + self.ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Eyes:
    name = "eyes"

    def __init__(self, seen: Mapping[str, float]) -> None:
        self.seen = dict(seen)

    async def observe(self) -> Sequence[Observation]:
        return [Observation("eyes", name, "process_up", value) for name, value in self.seen.items()]


class Judge:
    name = "judge"

    def analyze(self, view: View) -> Sequence[Finding]:
        return [
            Finding(
                "judge",
                o.subject,
                "dead",
                f"it is dead {HOSTILE}",
                Severity.CRITICAL,
                view.now,
                healthy_when=(Sign("process_up", ">=", 1),),
            )
            for o in view.select("process_up")
            if o.value == 0
        ]


class Face:
    """The daemon as the endpoint sees it: a real loop, and what a test wants to be told."""

    def __init__(self, loop: MAPEK, metrics: Metrics) -> None:
        self.version = "9.8.7"
        self.started_at = time.time()
        self.loop = loop
        self.metrics = metrics
        self.health = HealthChecker({"database": lambda: self.database})
        self.token = TOKEN
        self.database: dict[str, Any] = {"status": "ok", "connections": 2}
        self.told: list[Condition] = []
        self.mistakes: Sequence[str] = ()
        self.reloads = 0
        self.may_reload = asyncio.Event()
        """Cleared, a reload takes until it is set."""
        self.may_reload.set()
        self.broken: Exception | None = None
        self.flags_set: list[tuple[str, bool, str]] = []

    def conditions(self) -> Sequence[Condition]:
        return self.told

    def describe(self) -> Mapping[str, Any]:
        return {"instances": {"monitors": ["eyes"]}, "last_reload": {"at": 0.0, "ok": True, "problems": []}}

    async def reload(self) -> Sequence[str]:
        self.reloads += 1
        await self.may_reload.wait()
        return self.mistakes

    async def set_flag(self, name: str, value: bool, who: str) -> None:
        if self.broken is not None:
            raise self.broken
        self.flags_set.append((name, value, who))
        self.loop.parts.flags.set(known_flag(name), value)


@dataclass
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def __getitem__(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name.lower()), "")

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Endpoint:
    """An application and a way to ask it as a server would."""

    app: StatusApp
    face: Face
    behind: Behind
    settings: StatusSettings
    clock: MovedClock
    database: SqliteDatabase
    peer: str = "127.0.0.1"
    scheme: str = "http"
    http_version: str = "1.1"
    always: dict[str, Sent] = field(default_factory=lambda: {"host": HOST})

    def again(self) -> "Endpoint":
        """After the daemon's death: another application over the same store."""
        return replace(self, app=StatusApp(self.face, self.settings, self.behind))

    @property
    def access(self) -> Access:
        return self.behind.access

    async def key(self, scope: Scope, name: str = "program", *, per_minute: int | None = None) -> str:
        return (await self.access.create_key(name, scope, "root@cli", per_minute=per_minute)).text

    async def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, Sent] | None = None,
        body: bytes = b"",
        pieces: Sequence[bytes] | None = None,
        more: Sequence[tuple[str, str]] = (),
    ) -> Reply:
        """``more``: headers that come a second time."""
        wanted = [*({**self.always, **(headers or {})}).items(), *more]
        raw = [
            (k.lower().encode(), v if isinstance(v, bytes) else v.encode("latin-1")) for k, v in wanted if v is not None
        ]
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "http_version": self.http_version,
            "method": method,
            "scheme": self.scheme,
            "path": unquote(path),  # as a server hands it over
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": raw,
            "client": (self.peer, 50000),
            "server": ("127.0.0.1", 8080),
        }
        coming = list(pieces if pieces is not None else [body])
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if not coming:
                return {"type": "http.disconnect"}
            piece = coming.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(coming) or pieces is not None}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
        told = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in sent[0]["headers"]]
        return Reply(sent[0]["status"], told, sent[1].get("body", b""))

    async def get(self, target: str, **headers: Sent) -> Reply:
        return await self.ask("GET", target, {k.replace("_", "-"): v for k, v in headers.items()})

    async def send(self, method: str, target: str, body: Any = None, **headers: Sent) -> Reply:
        """With the operator's token, unless another ``authorization`` is given; None means none."""
        given = {"authorization": f"Bearer {TOKEN}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        if body is not None:
            given = {"content-type": "application/json", **given}
        return await self.ask(method, target, given, _bytes(body))

    async def post(self, target: str, body: Any, **headers: Sent) -> Reply:
        return await self.send("POST", target, body, **headers)

    async def delete(self, target: str, **headers: Sent) -> Reply:
        return await self.send("DELETE", target, **headers)


def _bytes(body: Any) -> bytes:
    if body is None:
        return b""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@dataclass
class Browser:
    """Keeps cookies and sends them along, as a browser does with a page of the endpoint's own."""

    endpoint: Endpoint
    cookies: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: str, target: str, body: Any = None, **headers: Sent) -> Reply:
        given: dict[str, Sent] = {"cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items()) or None}
        if method not in ("GET", "HEAD"):
            given["origin"] = f"{self.endpoint.scheme}://{HOST}"
            given["x-csrf-token"] = self.cookie("x0_csrf") or None
        if body is not None:
            given["content-type"] = "application/json"
        given |= {k.replace("_", "-"): v for k, v in headers.items()}
        reply = await self.endpoint.ask(method, target, given, _bytes(body))
        for line in reply.all("set-cookie"):
            name, _, rest = line.partition("=")
            value, _, attributes = rest.partition(";")
            if "Max-Age=0" in attributes:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return reply

    def cookie(self, name: str) -> str:
        return next((v for k, v in self.cookies.items() if k.removeprefix("__Host-") == name), "")

    async def sign_in(self, name: str = OPERATOR, password: str = PASSWORD, **headers: Sent) -> Reply:
        return await self.ask("POST", "/api/v1/session", {"name": name, "password": password}, **headers)


async def signed_in(endpoint: Endpoint, scope: Scope = Scope.OPERATE, name: str = OPERATOR) -> Browser:
    """Of an operator who is added if there is none of that name."""
    if name not in {one.name for one in await endpoint.access.operators()}:
        await endpoint.access.add_operator(name, PASSWORD, scope, "root@cli")
    browser = Browser(endpoint)
    reply = await browser.sign_in(name)
    assert 200 == reply.status, reply.text
    return browser


Story = Callable[[Endpoint], Awaitable[None]]


def play(
    folder: Path,
    story: Story,
    seen: Mapping[str, float] | None = None,
    *,
    is_running: bool = False,
    files: Mapping[str, tuple[Path, Scope]] | None = None,
    links: Links | None = None,
    **settings: Any,
) -> None:
    """Builds a loop with a real store, lets it turn once, or run, and then asks the endpoint."""

    async def played() -> None:
        async with AsyncExitStack() as stack:
            database = await SqliteDatabase.open(folder / "knowledge.db", migrations())
            stack.push_async_callback(database.close)
            clock, metrics = MovedClock(), Metrics("9.8.7", strict=True)
            what = seen if seen is not None else {"web": 1.0}
            loop = MAPEK(
                Parts(
                    clock=clock,
                    knowledge=SqliteKnowledge("store", Config(), database, clock),
                    planner=Runbooks("runbook", RunbookConfig()),
                    instances=[Instance(Eyes(what), None, 5.0)],
                    analyzers=[Judge()],
                    sight=Sight({name: Subject(name, kind="process") for name in what}),
                    meter=metrics,
                    stages=ExecutionTracker(),
                )
            )
            if is_running:
                running = asyncio.create_task(loop.start(), name="loop")
                stack.push_async_callback(_ended, loop, running)
                await loop.first_turn.wait()
            else:
                await loop.run_cycle()
            face = Face(loop, metrics)
            derive_gauges(face)
            access = Access(database, loop.parts.knowledge.audit, clock, lambda: b"k" * 32, Passwords(rounds=4))
            behind = Behind(database, access, FileKeys(files or {}), links)
            asked = StatusSettings(**settings)
            await story(Endpoint(StatusApp(face, asked, behind), face, behind, asked, clock, database))

    asyncio.run(played())


async def _ended(loop: MAPEK, running: "asyncio.Task[None]") -> None:
    loop.stop()
    await running


def problem(reply: Reply, status: int, code: str) -> Any:
    """The reply is a refusal as the documents promise it; returns its ``error`` member."""
    assert (status, "application/problem+json") == (reply.status, reply["content-type"]), reply.text
    told = reply.json
    assert {"type", "title", "status", "detail", "instance", "error"} == told.keys()
    assert status == told["status"]
    error = told["error"]
    assert {"code", "message", "details", "timestamp", "request_id", "suggestions"} == error.keys()
    assert (code, reply["x-request-id"]) == (error["code"], error["request_id"])
    assert isinstance(error["suggestions"], list)
    return error
