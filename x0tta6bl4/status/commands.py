"""Does what is asked for by name: checked before, once for one key, in the background when it takes long."""

import asyncio
import hashlib
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import BaseModel, Field
from starlette.responses import Response
from typing_extensions import TypedDict

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.kernel.memory import plain
from x0tta6bl4.kernel.supervise import Failure, guarded
from x0tta6bl4.ports.database import Database, Transaction
from x0tta6bl4.status.access import Scope
from x0tta6bl4.status.approvals import AnswerSaid, Approvals, must_be_open
from x0tta6bl4.status.desk import Desk
from x0tta6bl4.status.operating import EventSaid, Operating, PauseSaid
from x0tta6bl4.status.problems import Refusal, store_failing, unknown
from x0tta6bl4.status.report import iso
from x0tta6bl4.status.routes import PROBLEM, Asked, Gives, Name, Route, Said, Why, answer, read_said

COMMANDS = "/api/v1/commands"
ANSWER_WITHIN = 0.5
"""Seconds in which a command may end to be answered at once; a longer one gets an address to ask at."""
LONGEST = 300.0
"""Seconds that a caller may give a command."""
KEPT = 24 * 3600.0
"""Seconds for which a command and its answer are remembered."""
MOST = 10_000
"""Commands that are remembered, the latest; each is about a kilobyte."""
UNDER_WAY = 16
"""Commands at work in the background at the same time."""
DIED = "the daemon ended while it was under way; look before you ask again"
_KEY = re.compile(r"[\x21-\x7e]{1,200}")


class CommandSaid(Said):
    command: str = Field(max_length=100)
    params: dict[str, Any] = Field(default_factory=dict)
    timeout_seconds: float = Field(default=10.0, gt=0, le=LONGEST)
    """How long it may take; what is not done by then has failed."""
    dry_run: bool = False
    """Only say what would be done, and whether it could be."""


class CommandTold(TypedDict):
    id: str
    """Empty for what was only tried out: nobody remembers it."""
    command: str
    state: Literal["would run", "running", "done", "failed", "unknown"]
    """`unknown`: the daemon died over it; look before you ask again."""
    says: str
    result: Any
    problem: dict[str, Any] | None
    """Why it failed, as problem details."""
    accepted_at: str | None
    ended_at: str | None


class NoParams(Said):
    pass


class CycleParams(Said):
    subjects: list[Name] = Field(default_factory=list, max_length=100)
    """Only these; none means everything."""


class ResumeParams(Said):
    target: Name


class AnswerParams(Said):
    plan: Name
    why: Why = ""


class TellParams(EventSaid):
    incident: Name


class MeshParams(Said):
    source: Name
    destination: Name
    path: list[Name] = Field(min_length=2, max_length=64)


@dataclass(frozen=True, slots=True)
class Command:
    """``check`` says what would be done, or raises the Refusal; ``do`` does it and tells what came of it."""

    summary: str
    params: type[BaseModel]
    check: Callable[[Asked, Any], Awaitable[str]]
    do: Callable[[Asked, Any], Awaitable[Any]]
    needs: Scope = Scope.OPERATE


@dataclass(frozen=True, slots=True)
class Receipt:
    id: str
    caller: str
    key: str
    digest: str
    command: str
    life: str
    at: float
    ended_at: float | None = None
    status: int | None = None
    body: str | None = None


class Receipts:
    """Which commands were taken, and what they came to; on disk, so that a key holds over the daemon's death."""

    _COLUMNS = "id, caller, key, digest, command, life, at, ended_at, status, body"

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, receipt: Receipt) -> Receipt:
        """The one that is there already for that caller's key, or this one, which is now."""

        def work(transaction: Transaction) -> Receipt:
            transaction.execute(
                "DELETE FROM commands WHERE at < ? OR rowid <= (SELECT max(rowid) FROM commands) - ?",
                [receipt.at - KEPT, MOST],
            )
            if receipt.key:
                found = transaction.query(
                    f"SELECT {self._COLUMNS} FROM commands WHERE caller = ? AND key = ?",  # noqa: S608  # own words
                    [receipt.caller, receipt.key],
                )
                if found:
                    return Receipt(*found[0])
            transaction.execute(
                "INSERT INTO commands (id, caller, key, digest, command, life, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    receipt.id,
                    receipt.caller,
                    receipt.key,
                    receipt.digest,
                    receipt.command,
                    receipt.life,
                    receipt.at,
                ],
            )
            return receipt

        return await self._database.write(work)

    async def find(self, receipt: Receipt) -> Receipt | None:
        """The one that was taken for the same caller's same key, as long as it is remembered."""
        found = await self._database.read(
            f"SELECT {self._COLUMNS} FROM commands WHERE caller = ? AND key = ? AND at >= ?",  # noqa: S608  # own words
            [receipt.caller, receipt.key, receipt.at - KEPT],
        )
        return Receipt(*found[0]) if found else None

    async def end(self, id: str, at: float, status: int, body: str) -> None:
        await self._database.write(
            lambda t: t.execute(
                "UPDATE commands SET ended_at = ?, status = ?, body = ? WHERE id = ?", [at, status, body, id]
            )
        )

    async def get(self, id: str) -> Receipt | None:
        found = await self._database.read(f"SELECT {self._COLUMNS} FROM commands WHERE id = ?", [id])  # noqa: S608
        return Receipt(*found[0]) if found else None


class Commands:
    def __init__(self, desk: Desk, operating: Operating, approvals: Approvals) -> None:
        self.desk = desk
        self._operating = operating
        self._approvals = approvals
        self._receipts = Receipts(desk.behind.database)
        self._life = secrets.token_hex(8)
        self._running: dict[str, asyncio.Task[None]] = {}
        self.known: Mapping[str, Command] = {
            "approve": Command("Approve a plan that waits.", AnswerParams, self._check_answer, self._approve),
            "cycle": Command("Run a cycle of the loop now.", CycleParams, self._check_cycle, self._cycle),
            "pause": Command("Keep the hands off a target for a while.", PauseSaid, self._check_pause, self._pause),
            "reject": Command("Reject a plan that waits.", AnswerParams, self._check_answer, self._reject),
            "reload": Command(
                "Read the configuration again.", NoParams, self._check_reload, self._reload, needs=Scope.ADMIN
            ),
            "reroute_mesh": Command("Lead traffic over another path.", MeshParams, self._check_mesh, self._mesh),
            "resume": Command("End the pauses on a target.", ResumeParams, self._check_resume, self._resume),
            "tell": Command("An event for an incident's runbook.", TellParams, self._check_tell, self._tell),
        }

    def routes(self) -> list[Route]:
        told = {
            200: Gives("What came of it.", CommandTold),
            202: Gives("It is under way.", CommandTold, headers={"Location": "Where to ask how it went."}),
        }
        return [
            Route(
                "POST",
                COMMANDS,
                self._take,
                "Does one of: " + ", ".join(self.known) + ". With `Idempotency-Key`, once.",
                Scope.OPERATE,
                "commands",
                said=CommandSaid,
                gives=told,
                refuses=(404, 409, 503),
            ),
            Route(
                "GET",
                COMMANDS + "/{id}",
                self._look,
                "How a command went.",
                Scope.READ,
                "commands",
                gives={200: Gives("How it stands.", CommandTold)},
                refuses=(404, 503),
            ),
        ]

    async def _take(self, asked: Asked) -> Response:
        said: CommandSaid = asked.said
        command = self.known.get(said.command)
        if command is None:
            near = get_close_matches(said.command[:64], self.known, n=1)
            raise Refusal(
                422,
                "UNKNOWN_COMMAND",
                f"no command is called {said.command[:100]!a}",
                details={"known": {name: one.summary for name, one in self.known.items()}},
                suggestions=[f"did you mean {near[0]}?"] if near else ["there are: " + ", ".join(self.known)],
            )
        assert asked.caller.scope is not None, "the route needs one"
        if not asked.caller.scope.allows(command.needs):
            raise Refusal(403, "FORBIDDEN", f"{said.command} needs the scope {command.needs}")
        params = read_said(command.params, said.params, "BAD_PARAMS")
        receipt = Receipt(
            f"cmd-{secrets.token_hex(8)}",
            f"{asked.caller.kind}:{asked.caller.id or asked.caller.name}",
            _key_of(asked),
            hashlib.sha256(json.dumps(plain(said.model_dump()), sort_keys=True).encode()).hexdigest(),
            said.command,
            self._life,
            self.desk.face.loop.parts.clock.wall(),
        )
        if receipt.key and not said.dry_run and (before := await self._before(receipt)) is not None:
            # Before the check: what was done by this key is often what would be in the way of doing it once more.
            return await self._again(before, receipt)
        says = await command.check(asked, params)
        if said.dry_run:
            return answer(_told(receipt, "would run", says))
        if len(self._running) >= UNDER_WAY:
            raise Refusal(503, "OVERLOADED", f"{UNDER_WAY} commands are under way", headers=[(b"retry-after", b"2")])
        try:
            taken = await self._receipts.take(receipt)
        except StoreError as error:
            raise store_failing(error, "the command was not taken") from error
        if taken is not receipt:
            return await self._again(taken, receipt)
        task = asyncio.get_running_loop().create_task(self._run(asked, command, params, receipt, says), name=receipt.id)
        self._running[receipt.id] = self.desk.keep(task)
        task.add_done_callback(lambda _: self._running.pop(receipt.id, None))
        await asyncio.wait({task}, timeout=min(ANSWER_WITHIN, said.timeout_seconds))
        ended = await self._found(receipt.id)
        return _answered(ended) if ended.status is not None else _under_way(ended, says)

    async def _before(self, receipt: Receipt) -> Receipt | None:
        try:
            return await self._receipts.find(receipt)
        except StoreError as error:
            raise store_failing(error, "whether the command was taken before cannot be read") from error

    async def _again(self, taken: Receipt, now: Receipt) -> Response:
        """The same key once more: the answer that the first one got, never the act."""
        if taken.digest != now.digest:
            raise Refusal(
                422,
                "KEY_REUSED",
                f"this Idempotency-Key was used for another command before ({taken.command})",
                suggestions=["make a new key for each command"],
            )
        taken = await self._as_it_stands(taken)
        if taken.status is not None:
            response = _answered(taken)
        elif taken.id in self._running:
            response = _under_way(taken, "")
        else:
            response = answer(_told(taken, "unknown", DIED))
        response.headers["idempotency-replayed"] = "true"
        return response

    async def _as_it_stands(self, found: Receipt) -> Receipt:
        """It may have ended between the look at the disk and now; then the disk knows more."""
        has_ended = found.status is None and found.life == self._life and found.id not in self._running
        return await self._found(found.id) if has_ended else found

    async def _run(self, asked: Asked, command: Command, params: Any, receipt: Receipt, says: str) -> None:
        ended = await guarded(lambda: command.do(asked, params), asked.said.timeout_seconds)
        wall = self.desk.face.loop.parts.clock.wall()
        if isinstance(ended, Failure):
            refusal = (
                ended.exception
                if isinstance(ended.exception, Refusal)
                else Refusal(409, "COMMAND_FAILED", f"{receipt.command} did not come to an end: {ended.message}")
            )
            status, body = refusal.status, refusal.body(COMMANDS, asked.id).decode("ascii")
        else:
            told = _told(receipt, "done", says, result=plain(ended), ended_at=wall)
            status, body = 200, json.dumps(plain(told))
        with suppress(StoreError):  # whoever asks is told `unknown` then, which is the truth about what was written
            await self._receipts.end(receipt.id, wall, status, body)

    async def _found(self, id: str) -> Receipt:
        try:
            found = await self._receipts.get(id)
        except StoreError as error:
            raise store_failing(error, "how the command went cannot be read") from error
        if found is None:
            raise unknown("NO_SUCH_COMMAND", f"there is no command {id[:100]!a}", ["they are forgotten after a day"])
        return found

    async def _look(self, asked: Asked) -> Response:
        found = await self._as_it_stands(await self._found(asked.params["id"]))
        if found.status is None:
            is_running = found.id in self._running
            return answer(_told(found, "running", "") if is_running else _told(found, "unknown", DIED))
        told = json.loads(found.body or "{}")
        if found.status != 200:
            told = _told(found, "failed", told.get("detail", ""), problem=told, ended_at=found.ended_at)
        return answer(told)

    # -- the commands ------------------------------------------------------------------------------------------------

    async def _check_cycle(self, asked: Asked, params: CycleParams) -> str:
        loop = self.desk.face.loop
        if loop.status != "running":
            raise Refusal(409, "LOOP_NOT_RUNNING", f"the loop is {loop.status}")
        strange = [name for name in params.subjects if name not in loop.parts.sight.subjects]
        if strange:
            raise unknown("NO_SUCH_TARGET", f"nothing is called {', '.join(map(ascii, strange[:5]))}")
        return f"a cycle over {', '.join(params.subjects) or 'everything'}"

    async def _cycle(self, asked: Asked, params: CycleParams) -> dict[str, Any]:
        turn = await self.desk.face.loop.run_cycle(params.subjects or None)
        return {"cycle": turn.number, "findings": len(turn.findings), "seconds": turn.seconds, "result": turn.result}

    async def _check_pause(self, asked: Asked, params: PauseSaid) -> str:
        return f"nothing is done to {params.target} until {iso(self._operating.check_pause(params))}"

    async def _pause(self, asked: Asked, params: PauseSaid) -> Any:
        return await self._operating.pause(asked, params)

    async def _check_resume(self, asked: Asked, params: ResumeParams) -> str:
        return f"the pauses on {params.target} end"

    async def _resume(self, asked: Asked, params: ResumeParams) -> Any:
        return await self._operating.resume(asked, params.target)

    async def _check_answer(self, asked: Asked, params: AnswerParams) -> str:
        approval, told, moot = await self._approvals.question_of(params.plan)
        must_be_open(approval, told, moot)
        return f"the answer holds for: {', '.join(told['steps'])}"

    async def _approve(self, asked: Asked, params: AnswerParams) -> Any:
        return await self._approvals.answer(asked, params.plan, AnswerSaid(answer="approve", why=params.why))

    async def _reject(self, asked: Asked, params: AnswerParams) -> Any:
        return await self._approvals.answer(asked, params.plan, AnswerSaid(answer="reject", why=params.why))

    async def _check_tell(self, asked: Asked, params: TellParams) -> str:
        incident, blocked = await self._operating.find_hearer(params.incident, params)
        return f"{params.event} waits for the runbook of {incident.id}" + (f"; now {blocked}" if blocked else "")

    async def _tell(self, asked: Asked, params: TellParams) -> Any:
        return await self._operating.send_event(asked, params.incident, params)

    async def _check_reload(self, asked: Asked, params: NoParams) -> str:
        return "the configuration is read again; with a mistake in it the old one stays"

    async def _reload(self, asked: Asked, params: NoParams) -> Any:
        return await self._operating.reload(asked)

    async def _check_mesh(self, asked: Asked, params: MeshParams) -> str:
        if (params.path[0], params.path[-1]) != (params.source, params.destination):
            raise Refusal(422, "BAD_PARAMS", "params.path: must begin at the source and end at the destination")
        return await self._mesh(asked, params)

    async def _mesh(self, asked: Asked, params: MeshParams) -> str:
        raise Refusal(409, "NO_MESH", "this daemon has no mesh links, so there is nothing to be routed")


def _key_of(asked: Asked) -> str:
    given = asked.headers.get(b"idempotency-key", b"").decode("latin-1").strip()
    if given and not _KEY.fullmatch(given):
        raise Refusal(400, "BAD_KEY", "an Idempotency-Key has 1 to 200 printable characters without blanks")
    return given


def _told(
    receipt: Receipt,
    state: Literal["would run", "running", "done", "failed", "unknown"],
    says: str,
    *,
    result: Any = None,
    problem: dict[str, Any] | None = None,
    ended_at: float | None = None,
) -> CommandTold:
    is_taken = state != "would run"
    return {
        "id": receipt.id if is_taken else "",
        "command": receipt.command,
        "state": state,
        "says": says,
        "result": result,
        "problem": problem,
        "accepted_at": iso(receipt.at) if is_taken else None,
        "ended_at": None if ended_at is None else iso(ended_at),
    }


def _under_way(receipt: Receipt, says: str) -> Response:
    return answer(_told(receipt, "running", says), 202, {"location": f"{COMMANDS}/{receipt.id}"})


def _answered(receipt: Receipt) -> Response:
    assert receipt.status is not None and receipt.body is not None, "a command that has ended"
    media = "application/json" if receipt.status == 200 else PROBLEM
    return Response(receipt.body, receipt.status, media_type=media)
