"""The daemon's memory in the embedded database: incidents, the journal of steps, what people said, the audit chain."""

import hashlib
import json
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import accumulate, pairwise
from math import isfinite, isnan, nan
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from x0tta6bl4.kernel.errors import StoreError, TamperedError
from x0tta6bl4.kernel.facts import (
    NOTHING,
    Answer,
    Attributes,
    Book,
    Finding,
    Incident,
    IncidentState,
    Message,
    Move,
    Outcome,
    Plan,
    Result,
    Step,
    Verdict,
)
from x0tta6bl4.kernel.memory import (
    ActionRecord,
    Approval,
    ApprovalState,
    AuditRow,
    Course,
    Decision,
    Deed,
    Encoder,
    Entry,
    Feedback,
    Imported,
    Kept,
    Milestones,
    Pause,
    Place,
    Retained,
    Signal,
    SubjectState,
    Suggestion,
    Trial,
    Unfinished,
    Wanted,
    evidence_of,
    finding_from,
    incident_from,
    outcome_from,
    plain,
    plan_from,
    step_from,
)
from x0tta6bl4.kernel.plugin import PluginConfig, Tools, knowledge
from x0tta6bl4.kernel.units import show_seconds
from x0tta6bl4.knowledge._learnt import SqliteLearnt
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.database import Database, Row, Transaction

FINDINGS = 50
"""Most different findings kept of one incident: the first, and the latest of the others."""
DECISIONS = 200
"""Most decisions kept of one incident, the latest."""
OUTPUT = 8192
"""Most characters kept of what an action printed, its end: that is where programs say what went wrong."""
BATCH = 500
"""Rows handled in one go, so that neither memory nor the time the file is held grows with the store."""

PASSING = 60.0
"""Seconds after a try within which trouble that began during it may pass by itself and is not held against it: those
who depend on what is restarted notice, and recover."""

FOREVER = 4102444800.0
"""The year 2100, for pauses without an end: a moment that every calendar and every file can express."""

FORMAT = 3
"""The form of an export. Rises when an older reader would misunderstand a newer file; older files are read."""
HEAD, ANCHOR = "audit.head", "audit.anchor"
GENESIS = "0" * 64
RETAINED = "audit.retained"

TABLES: Mapping[str, tuple[str, ...]] = {
    "epochs": ("epoch", "at"),
    "incidents": ("id", "subject", "fault", "state", "opened_at", "updated_at", "closed_at", "body", "place"),
    "findings": ("incident", "analyzer", "summary", "first_at", "last_at", "times", "since", "body"),
    "plans": ("id", "incident", "subject", "at", "body"),
    "steps": (
        "id",
        "plan",
        "incident",
        "subject",
        "action",
        "target",
        "target_group",
        "disruptive",
        "rung",
        "rule",
        "intent_at",
        "epoch",
        "step",
        "result",
        "started_at",
        "ended_at",
        "verified_at",
        "outcome",
    ),
    "moves": (
        "incident",
        "number",
        "at",
        "event",
        "data",
        "invocation",
        "message",
        "states",
        "taken",
        "effects",
    ),
    "inbox": ("id", "incident", "event", "data", "who", "at"),
    "books": ("hash", "name", "version", "source", "at"),
    "decisions": (
        "incident",
        "subject",
        "plan",
        "step",
        "action",
        "target",
        "check",
        "answer",
        "sentence",
        "until",
        "at",
    ),
    "approvals": ("plan", "incident", "state", "who", "why", "at", "expires"),
    "feedback": (
        "incident",
        "rung",
        "source",
        "who",
        "fault",
        "kind",
        "subject",
        "seconds",
        "spent",
        "verified",
        "harmful",
        "weight",
        "tries_before",
        "why",
        "at",
    ),
    "signals": ("incident", "subject", "metric", "body"),
    "flags": ("name", "value", "who", "at"),
    "pauses": ("id", "target", "kind", "reason", "who", "since", "until"),
    "subjects": ("name", "state", "since", "summary", "at"),
    "state": ("key", "value"),
    "audit": ("seq", "at", "who", "what", "data", "previous", "hash"),
}
"""What an export holds, in its order. Decisions leave out their number: it has a meaning in one store only."""
OF_INCIDENT = ("findings", "plans", "steps", "moves", "inbox", "decisions", "approvals", "feedback", "signals")
"""The tables that belong to an incident, by their column of that name."""
OURS_STAY = ("epochs", "subjects", "state", "books")
"""What a daemon writes before anybody tells it anything; at an import into an otherwise empty store ours goes first."""


class Config(PluginConfig):
    """How long, and how much, is remembered."""

    retention_days: float = Field(default=90.0, ge=1)
    """
    Days that closed incidents, and the audit trail, are kept.

    Higher answers `why` for longer and makes the file larger, by some 25 kB an incident. Budgets look back one day,
    so it cannot be lower than that.
    """
    max_incidents: int = Field(default=10_000, ge=100)
    """
    Most incidents kept, and most audit rows; beyond it the oldest closed ones go before their days are over.

    It bounds the file when something flaps. Lower it where the disk is small.
    """


def migrations() -> list[tuple[int, str]]:
    """The scripts that make the tables, by number: what the database is opened with."""
    scripts = sorted((Path(__file__).parent / "sql").glob("[0-9]*.sql"))
    return [(int(script.name.split("_")[0]), script.read_text(encoding="utf-8")) for script in scripts]


class SqliteKnowledge:
    """See ``kernel.memory.Knowledge``, whose promises these are."""

    def __init__(self, name: str, config: Config, database: Database, clock: Clock) -> None:
        self.name = name
        self.config = config
        self._database = database
        self._clock = clock
        self.learnt = SqliteLearnt(database, clock, _append)

    async def boot(self) -> int:
        at = self._clock.wall()

        def begin(tx: Transaction) -> int:
            tx.execute("INSERT INTO epochs (epoch, at) SELECT coalesce(max(epoch), 0) + 1, ? FROM epochs", (at,))
            return int(tx.query("SELECT max(epoch) FROM epochs")[0][0])

        return await self._database.write(begin)

    def changed_by_others(self) -> bool:
        return self._database.changed_by_others()

    def version(self) -> tuple[int, int]:
        return self._database.version()

    # Incidents

    async def save_incident(self, incident: Incident, moves: Sequence[Move] = ()) -> None:
        rows = _incident_rows(incident, moves)
        await self._database.write(lambda tx: _save_incident(tx, rows))

    async def save_incidents(self, changed: Sequence[tuple[Incident, Sequence[Move]]]) -> None:
        made = [_incident_rows(incident, moves) for incident, moves in changed]

        await self._database.write(lambda tx: _save_incidents(tx, made))

    async def open_incidents(self) -> list[Incident]:
        rows = await self._database.read(
            "SELECT body, place FROM incidents WHERE state <> 'closed' ORDER BY opened_at, id"
        )
        return [_incident(*row) for row in rows]

    async def incident(self, id: str) -> Incident | None:
        rows = await self._database.read("SELECT body, place FROM incidents WHERE id = ?", (id,))
        return _incident(*rows[0]) if rows else None

    async def moves(self, incident: str) -> list[Move]:
        return await self._moves(incident, -1)

    async def _moves(self, incident: str, latest: int) -> list[Move]:
        rows = await self._database.read(
            f"SELECT {', '.join(TABLES['moves'])} FROM moves WHERE incident = ?"  # noqa: S608 ours
            " ORDER BY number DESC LIMIT ?",
            (incident, latest),
        )
        return [
            Move(id, number, at, event, _parsed(data), invocation, message, tuple(states.split()), bool(taken), effects)
            for id, number, at, event, data, invocation, message, states, taken, said in reversed(rows)
            for effects in (tuple(_parsed(said)),)
        ]

    async def send(self, incident: str, event: str, data: Any, who: str) -> Message:
        message = Message(f"msg-{secrets.token_hex(8)}", incident, event, plain(data), who, self._clock.wall())

        def put(tx: Transaction) -> None:
            tx.execute(
                "INSERT INTO inbox (id, incident, event, data, who, at) VALUES (?, ?, ?, ?, ?, ?)",
                (message.id, incident, event, _json(data), who, message.at),
            )
            told = {"incident": incident, "event": event, "data": data, "message": message.id}
            _append(tx, message.at, who, "runbook.event", told)

        await self._database.write(put)
        return message

    async def inbox(self) -> list[Message]:
        rows = await self._database.read("SELECT id, incident, event, data, who, at FROM inbox ORDER BY rowid")
        return [Message(id, incident, event, _parsed(data), who, at) for id, incident, event, data, who, at in rows]

    async def drop_message(self, id: str) -> None:
        await self._database.write(lambda tx: tx.execute("DELETE FROM inbox WHERE id = ?", (id,)))

    async def keep_books(self, books: Sequence[Book]) -> None:
        rows = [(b.hash, b.name, b.version, b.source, self._clock.wall()) for b in books]
        known = {hash for (hash,) in await self._database.read("SELECT hash FROM books")}
        if not known.issuperset(row[0] for row in rows):
            await self._database.write(lambda tx: _insert(tx, "books", rows, ours_stay=True))

    async def books(self) -> list[Book]:
        rows = await self._database.read("SELECT hash, name, version, source FROM books ORDER BY at, rowid")
        return [Book(*row) for row in rows]

    async def incidents(
        self,
        state: IncidentState | None = None,
        subject: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[Incident]:
        wanted, values = ["1"], list[Any]()
        for column, value in (("state", state), ("subject", subject)):
            if value is not None:
                wanted.append(f"{column} = ?")
                values.append(str(value))
        if before is not None:
            wanted.append("(opened_at, id) < (SELECT opened_at, id FROM incidents WHERE id = ?)")
            values.append(before)
        where = " AND ".join(wanted)
        rows = await self._database.read(
            f"SELECT body, place FROM incidents WHERE {where} ORDER BY opened_at DESC, id DESC LIMIT ?",  # noqa: S608
            (*values, limit),
        )
        return [_incident(*row) for row in rows]

    async def find_incidents(
        self, wanted: Wanted, *, limit: int, before: Place | None = None, without: Collection[str] = ()
    ) -> list[Incident]:
        asked = _conditions(wanted)
        if before is not None:
            asked.append(("(opened_at, id) < (?, ?)", before))
        if without:
            asked.append(("id NOT IN (SELECT value FROM json_each(?))", (_json(sorted(without)),)))
        where = " AND ".join(["1", *(condition for condition, _ in asked)])
        # Left to itself, SQLite walks through all incidents in the wanted order rather than sort the few open ones.
        is_open = wanted.states is not None and IncidentState.CLOSED not in wanted.states
        index = "INDEXED BY incidents_open" if is_open else ""
        rows = await self._database.read(
            f"SELECT body, place FROM incidents {index} WHERE {where}"  # noqa: S608 all of it is ours
            " ORDER BY opened_at DESC, id DESC LIMIT ?",
            (*(value for _, values in asked for value in values), limit),
        )
        return [_incident(*row) for row in rows]

    async def incident_ids(self, part: str = "", limit: int = 10_000) -> list[str]:
        rows = await self._database.read(
            "SELECT id FROM incidents WHERE instr(id, ?) ORDER BY opened_at DESC, id DESC LIMIT ?", (part, limit)
        )
        return [id for (id,) in rows]

    async def incident_subjects(self) -> list[str]:
        return [name for (name,) in await self._database.read("SELECT DISTINCT subject FROM incidents ORDER BY 1")]

    async def milestones(self, incidents: Sequence[str]) -> Mapping[str, Milestones]:
        wanted = (_json(incidents),)
        findings = await self._database.read(
            "SELECT incident, min(first_at) FROM findings"
            " WHERE incident IN (SELECT value FROM json_each(?)) GROUP BY incident",
            wanted,
        )
        found: dict[str, float] = {id: at for id, at in findings}  # noqa: C416 a row may have any number of columns
        verified: dict[str, list[float]] = {}
        for id, at in await self._database.read(
            "SELECT incident, verified_at FROM steps WHERE incident IN (SELECT value FROM json_each(?))"
            " AND verified_at IS NOT NULL ORDER BY verified_at",
            wanted,
        ):
            verified.setdefault(id, []).append(at)
        return {id: Milestones(found.get(id), tuple(verified.get(id, ()))) for id in incidents}

    async def courses(self, since: float, *, limit: int, before: Place | None = None) -> list[Course]:
        at, id = before or (FOREVER, "")
        rows = await self._database.read(_COURSES, (since, at, id, limit))
        return [Course(id, fault, IncidentState(state), *more) for id, fault, state, *more in rows]

    async def closed_since(self, subject: str, fault: str, at: float) -> Incident | None:
        rows = await self._database.read(
            "SELECT body, place FROM incidents WHERE state = 'closed' AND subject = ? AND fault = ? AND closed_at >= ?"
            " ORDER BY closed_at DESC LIMIT 1",
            (subject, fault, at),
        )
        return _incident(*rows[0]) if rows else None

    async def closed_last(self, subject: str) -> Incident | None:
        rows = await self._database.read(
            "SELECT body, place FROM incidents WHERE state = 'closed' AND subject = ?"
            " ORDER BY closed_at DESC, opened_at DESC, id DESC LIMIT 1",
            (subject,),
        )
        return _incident(*rows[0]) if rows else None

    async def add_finding(self, incident: str, finding: Finding, wall: float) -> None:
        # The monotonic ``since`` means nothing to the next life of the daemon, so its wall-clock time goes with it.
        since = wall - max(0.0, self._clock.monotonic() - finding.since) if finding.since else wall
        body = _json(finding)

        def add(tx: Transaction) -> None:
            tx.execute(
                "INSERT INTO findings (incident, analyzer, summary, first_at, last_at, times, since, body)"
                " VALUES (?, ?, ?, ?, ?, 1, ?, ?) ON CONFLICT (incident, analyzer, summary)"
                " DO UPDATE SET last_at = excluded.last_at, times = times + 1",
                (incident, finding.analyzer, finding.summary, wall, wall, since, body),
            )
            tx.execute(
                "DELETE FROM findings WHERE rowid IN (SELECT rowid FROM findings WHERE incident = ?1"
                " AND rowid <> (SELECT min(rowid) FROM findings WHERE incident = ?1)"
                " ORDER BY last_at DESC, rowid DESC LIMIT -1 OFFSET ?2)",
                (incident, FINDINGS - 1),
            )

        await self._database.write(add)

    # The journal

    async def save_plan(self, plan: Plan) -> None:
        at = self._clock.wall()
        await self._database.write(lambda tx: _save_plan(tx, plan, at))

    async def plan(self, id: str) -> Plan | None:
        rows = await self._database.read("SELECT body FROM plans WHERE id = ?", (id,))
        return plan_from(_parsed(rows[0][0])) if rows else None

    async def plans(self, incident: str, limit: int | None = None) -> list[Plan]:
        rows = await self._database.read(
            "SELECT body FROM plans WHERE incident = ? ORDER BY at DESC, rowid DESC LIMIT ?",
            (incident, -1 if limit is None else limit),
        )
        return [plan_from(_parsed(body)) for (body,) in reversed(rows)]

    async def record_intent(
        self,
        step: Step,
        plan: Plan,
        epoch: int,
        *,
        group: str = "",
        disruptive: bool = True,
        incident: Incident | None = None,
        moves: Sequence[Move] = (),
    ) -> None:
        at = self._clock.wall()
        changed = None if incident is None else _incident_rows(incident, moves)
        row = (
            step.id,
            plan.id,
            plan.incident,
            plan.subject,
            step.action,
            step.target,
            group,
            int(disruptive),
            plan.rung,
            plan.rule,
            at,
            epoch,
            _json(step),
        )

        def intend(tx: Transaction) -> None:
            newest = tx.query("SELECT max(epoch) FROM epochs")[0][0] or 0
            if newest > epoch:
                raise StoreError(
                    f"step {step.id} is meant by life {epoch} of the daemon, and life {newest} has begun since",
                    remedy="stop this daemon: another one has taken over its state directory",
                )
            _save_plan(tx, plan, at)
            tx.execute(
                "INSERT INTO steps (id, plan, incident, subject, action, target, target_group, disruptive, rung, rule,"
                " intent_at, epoch, step) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            if changed is not None:
                _save_incident(tx, changed)

        await self._database.write(intend)

    async def record_outcome(
        self, step: str, outcome: Outcome, incident: Incident | None = None, moves: Sequence[Move] = ()
    ) -> None:
        body = _json(replace(outcome, output=outcome.output[-OUTPUT:]))
        changed = None if incident is None else _incident_rows(incident, moves)

        def end(tx: Transaction) -> None:
            before = tx.query("SELECT outcome FROM steps WHERE id = ?", (step,))
            if not before:
                raise StoreError(f"step {step} ended without ever having begun", remedy=_OURS)
            if before[0][0] not in (None, body):
                raise StoreError(f"step {step} has ended before, and differently", remedy=_OURS)
            tx.execute(
                "UPDATE steps SET result = ?, started_at = ?, ended_at = ?, verified_at = ?, outcome = ? WHERE id = ?",
                (str(outcome.result), outcome.started_at, outcome.ended_at, outcome.verified_at, body, step),
            )
            if changed is not None:
                _save_incident(tx, changed)

        await self._database.write(end)

    async def unfinished(self) -> list[Unfinished]:
        rows = await self._database.read(
            "SELECT steps.step, plans.body, steps.intent_at, steps.epoch FROM steps JOIN plans ON plans.id = steps.plan"
            " WHERE steps.result IS NULL ORDER BY steps.intent_at, steps.rowid"
        )
        return [Unfinished(step_from(_parsed(s)), plan_from(_parsed(p)), at, epoch) for s, p, at, epoch in rows]

    async def actions_since(self, wall: float) -> list[ActionRecord]:
        rows = await self._database.read(
            f"SELECT {_ACTION} FROM steps WHERE intent_at >= ? OR ended_at >= ? OR result IS NULL"  # noqa: S608 ours
            " ORDER BY intent_at, rowid",
            (wall, wall),
        )
        return [_action(row) for row in rows]

    async def deeds(self, subject: str | None = None, *, limit: int, before: Place | None = None) -> list[Deed]:
        asked: list[tuple[str, Sequence[Any]]] = []
        if subject is not None:
            asked.append(("(subject = ? OR target = ?)", (subject, subject)))
        if before is not None:
            asked.append(("(intent_at, id) < (?, ?)", before))
        where = " AND ".join(["1", *(condition for condition, _ in asked)])
        rows = await self._database.read(
            f"SELECT plan, rule, coalesce(json_extract(outcome, '$.detail'), ''), verified_at, {_ACTION}"  # noqa: S608
            f" FROM steps WHERE {where} ORDER BY intent_at DESC, id DESC LIMIT ?",
            (*(value for _, values in asked for value in values), limit),
        )
        return [
            Deed(_action(row), plan, rule, str(detail), verified_at) for plan, rule, detail, verified_at, *row in rows
        ]

    async def results(self, since: float) -> Mapping[Result | None, int]:
        rows = await self._database.read(
            "SELECT result, count(*) FROM steps WHERE intent_at >= ? GROUP BY result", (since,)
        )
        return {None if result is None else Result(result): count for result, count in rows}

    async def record_decision(self, plan: Plan, step: Step, verdict: Verdict, wall: float) -> bool:
        said = (step.action, _text(step.target), verdict.check, str(verdict.answer), _text(verdict.sentence))
        until = None if verdict.until is None else min(verdict.until, FOREVER)

        def record(tx: Transaction) -> bool:
            latest = tx.query(
                'SELECT action, target, "check", answer, sentence FROM decisions WHERE incident = ?'
                " ORDER BY id DESC LIMIT 1",
                (plan.incident,),
            )
            if latest == [said]:
                return False
            tx.execute(
                'INSERT INTO decisions (incident, subject, plan, step, action, target, "check", answer, sentence,'
                " until, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (plan.incident, plan.subject, plan.id, step.id, *said, until, wall),
            )
            tx.execute(
                "DELETE FROM decisions WHERE incident = ?1 AND id <="
                " (SELECT id FROM decisions WHERE incident = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                (plan.incident, DECISIONS),
            )
            return True

        return await self._database.write(record)

    async def decisions(self, subject: str, limit: int = 100) -> list[Decision]:
        rows = await self._database.read(_DECISION + " WHERE subject = ? ORDER BY id DESC LIMIT ?", (subject, limit))
        return [_decision(row) for row in rows]

    async def latest_decisions(self, incidents: Sequence[str]) -> Mapping[str, Decision]:
        rows = await self._database.read(_DECISION + _LATEST, (_json(incidents),))
        return {found.incident: found for found in map(_decision, rows)}

    # Looking back

    async def history(self, subject: str, limit: int = 100) -> list[Entry]:
        mine = "incident IN (SELECT id FROM incidents WHERE subject = ?1)"
        where = {
            "incidents": "subject = ?1",
            "steps": "(subject = ?1 OR target = ?1)",
            "findings": mine,
            "approvals": mine,
        }
        return (await self._entries(subject, "subject = ?1", where, limit))[-limit:]

    async def story(self, incident: str, latest: int | None = None) -> list[Entry]:
        where = {"incidents": "id = ?1", "moves": "incident = ?1"}
        return await self._entries(incident, "incident = ?1", where, -1 if latest is None else latest)

    async def _entries(self, value: str, usual: str, where: Mapping[str, str], limit: int) -> list[Entry]:
        """Each table's latest ``limit`` (all: -1), told in order of time; at the same moment, in order of cause."""

        async def rows(table: str, columns: str, at: str) -> list[Row]:
            return await self._database.read(
                f"SELECT {columns} FROM {table} WHERE {where.get(table, usual)}"  # noqa: S608 all of it is ours
                f" ORDER BY {at} DESC LIMIT ?2",
                (value, limit),
            )

        found: list[tuple[float, float, Entry]] = []

        def add(at: float, kind: str, text: str, data: Attributes, order: float | None = None) -> None:
            found.append((at, _ORDER.index(kind) if order is None else order, Entry(at, kind, text, data)))

        for (body,) in await rows("incidents", "body", "opened_at"):
            incident = _incident(body, "")
            told = {"incident": incident.id, "subject": incident.subject, "fault": incident.fault}
            seen = {**told, "because": list(incident.because), "severity": str(incident.severity)}
            if incident.reopened:
                # The words are the latest return's; those of the first time stand beside it as what was found then.
                times = "once" if incident.reopened == 1 else f"{incident.reopened} times"
                add(incident.opened_at, "opened", f"{incident.fault}, for the first time; it came back {times}", told)
                add(incident.onset_at, "opened", f"{incident.fault} again: {incident.summary}", seen)
            else:
                add(incident.opened_at, "opened", f"{incident.fault}: {incident.summary}", seen)
            if incident.closed_at is not None:
                add(incident.closed_at, "closed", incident.ended or "closed", told)
        for id, first_at, last_at, times, since, body in await rows(
            "findings", "incident, first_at, last_at, times, since, body", "last_at"
        ):
            finding = finding_from(_parsed(body))
            add(
                first_at,
                "found",
                finding.summary,
                {
                    "incident": id,
                    "analyzer": finding.analyzer,
                    "since": since,
                    "last_at": last_at,
                    "times": times,
                    "because": plain(finding.because),
                },
            )
        for at, body in await rows("plans", "at, body", "at"):
            plan = plan_from(_parsed(body))
            steps = ", ".join(f"{step.action} on {step.target}" for step in plan.steps)
            add(
                at,
                "planned",
                f"{plan.rule}/{plan.rung}: {steps}",
                {"incident": plan.incident, "plan": plan.id, "mode": plan.mode, "because": list(plan.because)},
            )
        for row in await rows(
            "decisions", 'incident, plan, step, action, target, "check", answer, sentence, until, at', "id"
        ):
            id, plan_id, step_id, action, target, check, answer, sentence, until, at = row
            add(
                at,
                "decided",
                f"{f'{action} on {target}: ' if action else ''}{answer} by {check}: {sentence}",
                {
                    "incident": id,
                    "plan": plan_id,
                    "step": step_id,
                    "check": check,
                    "answer": answer,
                    "sentence": sentence,
                    "until": until,
                },
            )
        for plan_id, id, state, who, why, at, expires in await rows("approvals", ", ".join(TABLES["approvals"]), "at"):
            add(
                at,
                "approval",
                f"{state}{f' by {who}' if who else ''}{f': {why}' if why else ''}",
                {"incident": id, "plan": plan_id, "state": state, "who": who, "why": why, "expires": expires},
            )
        for id, plan_id, intent_at, epoch, body, ended_at, outcome_body in await rows(
            "steps", "incident, plan, intent_at, epoch, step, ended_at, outcome", "intent_at"
        ):
            step = step_from(_parsed(body))
            told = {"incident": id, "plan": plan_id, "step": step.id, "action": step.action, "target": step.target}
            add(intent_at, "intent", f"{step.action} on {step.target}", {**told, "epoch": epoch})
            if outcome_body is not None:
                outcome = outcome_from(_parsed(outcome_body))
                add(
                    ended_at,
                    "outcome",
                    f"{step.action} on {step.target}: {outcome.result}: {outcome.detail}",
                    {
                        **told,
                        "result": str(outcome.result),
                        "detail": outcome.detail,
                        "verified_at": outcome.verified_at,
                        "because": list(outcome.because),
                        "output": outcome.output,
                    },
                )
        if "moves" in where:
            for move in await self._moves(value, limit):
                # What is answered follows its outcome; everything else comes before what is planned because of it.
                order = _ORDER.index("outcome" if move.invocation else "moved") + 0.5
                add(move.at, "moved", _move_in_words(move), _told_of(move), order)
        return [entry for _, _, entry in sorted(found, key=lambda item: item[:2])]

    async def keep_signals(self, incident: str, signals: Sequence[Signal]) -> None:
        rows = [(incident, signal.subject, signal.metric, _signal_body(signal.points)) for signal in signals]

        def keep(tx: Transaction) -> None:
            if tx.query("SELECT 1 FROM incidents WHERE id = ?", (incident,)):
                tx.execute("DELETE FROM signals WHERE incident = ?", (incident,))
                _insert(tx, "signals", rows)

        await self._database.write(keep)

    async def signals(self, incident: str) -> list[Signal]:
        rows = await self._database.read(
            "SELECT subject, metric, body FROM signals WHERE incident = ? ORDER BY rowid", (incident,)
        )
        return [Signal(subject, metric, _signal_points(_parsed(body))) for subject, metric, body in rows]

    # What helped, and what would have

    async def trials(self, fault: str, since: float, limit: int = 500) -> list[Trial]:
        return await self._tried("incidents.fault = ? AND steps.intent_at >= ?", (fault, since), limit)

    async def _tried(self, where: str, values: Sequence[Any], limit: int) -> list[Trial]:
        rows = await self._database.read(
            _TRIES + f" WHERE {where} ORDER BY steps.intent_at DESC, steps.rowid DESC LIMIT ?",
            (*values, limit),
        )
        tries = _tries(rows[::-1])
        if not tries:
            return []
        first, last = min(t.begun_at for t in tries), max(t.ended_at for t in tries)
        opened = await self._database.read(
            "SELECT opened_at, id, subject FROM incidents WHERE opened_at BETWEEN ? AND ? ORDER BY opened_at",
            (first, last),
        )
        acted = await self._database.read(
            "SELECT id, incident, target, intent_at, ended_at FROM steps"
            " WHERE disruptive = 1 AND intent_at <= ? AND ended_at >= ?",
            (last, first),
        )
        told = []
        for trial in tries:
            inside = opened[bisect_left(opened, (trial.begun_at,)) : bisect_right(opened, (trial.ended_at, "\x7f"))]
            harmed = [id for at, id, subject in inside if _is_its_doing(trial, at, subject, acted)]
            told.append(replace(trial, harmed=tuple([id for id in harmed if not await self._passed(id, trial)])))
        return told

    async def _passed(self, id: str, trial: Trial) -> bool:
        other = await self.incident(id)
        return other is None or (
            other.ended == "recovered" and (other.closed_at or trial.ended_at) <= trial.ended_at + PASSING
        )

    async def add_feedback(self, feedback: Feedback, who: str, why: str = "") -> None:
        now = self._clock.wall()
        at = min(feedback.at, now) if feedback.at > 0 else now  # another node's clock may be ahead
        fault, kind, subject = feedback.signature
        row = (
            feedback.incident,
            _json(feedback.rung),
            feedback.source,
            who,
            fault,
            kind,
            subject,
            feedback.seconds,
            feedback.spent,
            int(feedback.verified),
            int(feedback.harmful),
            feedback.weight,
            feedback.after,
            why,
            at,
        )

        def add(tx: Transaction) -> None:
            tx.execute(
                "DELETE FROM feedback WHERE incident = ? AND rung = ? AND source = ? AND who = ?",
                row[:4],
            )
            _insert(tx, "feedback", [row])
            _append(tx, now, who, f"feedback.{feedback.source}", {**plain(feedback), "why": why})

        await self._database.write(add)

    async def feedback(self, fault: str, since: float, limit: int = 500) -> list[Feedback]:
        rows = await self._database.read(
            "SELECT fault, kind, subject, rung, seconds, verified, harmful, source, at, weight, spent, tries_before,"
            " incident FROM feedback WHERE fault = ? AND at >= ? AND weight > 0 ORDER BY at DESC, rowid DESC LIMIT ?",
            (fault, since, limit),
        )
        said = [
            Feedback((fault, kind, subject), tuple(_parsed(rung)), seconds, bool(good), bool(bad), source, *more)
            for fault, kind, subject, rung, seconds, good, bad, source, *more in rows
        ]
        spoken = {(f.incident, f.rung) for f in said if f.source == "operator"}
        proved = []
        for trial in reversed(await self.trials(fault, since, limit)):
            evidence = evidence_of(trial)
            if (trial.incident, trial.actions) in spoken:
                spoken.discard((trial.incident, trial.actions))  # a person speaks of the latest; those before stand
            elif evidence is not None:
                proved.append(evidence)
        return sorted([*said, *proved], key=lambda f: f.at)[-limit:]

    async def suggestions(self, since: float, rule: str | None = None, limit: int = 1000) -> list[Suggestion]:
        rows = await self._database.read(_SUGGESTED, (since, limit))
        told: dict[tuple[Any, ...], Suggestion] = {}
        incidents: dict[str, Incident | None] = {}
        for id, target, check, at, body in reversed(rows):
            plan = plan_from(_parsed(body))
            if (check == "allowlist" and plan.mode != "suggest") or rule not in (None, plan.rule):
                continue
            if id not in incidents:
                incidents[id] = await self.incident(id)
            incident = incidents[id]
            if incident is None:
                continue
            actions = tuple(step.action for step in plan.steps)
            within = next((step.expect.within for step in reversed(plan.steps) if step.expect is not None), 0.0)
            key = (id, at >= incident.onset_at, actions, target)
            if key not in told:
                told[key] = Suggestion(incident, plan.rule, plan.rung, actions, target, at, check, within)
        return [await self._what_followed(suggestion) for suggestion in told.values()]

    async def _what_followed(self, suggestion: Suggestion) -> Suggestion:
        incident = suggestion.incident
        until = incident.closed_at or self._clock.wall()
        found = await self._database.read(
            "SELECT first_at, body FROM findings WHERE incident = ? ORDER BY first_at", (incident.id,)
        )
        beside = await self._database.read(
            "SELECT body FROM incidents WHERE opened_at BETWEEN ? AND ? AND id <> ? ORDER BY opened_at LIMIT ?",
            (suggestion.at, until, incident.id, FINDINGS),
        )
        opinions = await self._database.read(
            "SELECT verified, harmful FROM feedback WHERE incident = ? AND source = 'operator' ORDER BY at",
            (incident.id,),
        )
        return replace(
            suggestion,
            found=tuple((at, finding_from(_parsed(body)).severity) for at, body in found),
            beside=tuple(_incident(body, "") for (body,) in beside),
            trials=tuple(await self._tried("steps.incident = ?", (incident.id,), DECISIONS)),
            opinions=tuple("harmful" if bad else "helped" if good else "useless" for good, bad in opinions),
        )

    # What people say

    async def flags(self) -> Mapping[str, bool]:
        return {name: bool(value) for name, value in await self._database.read("SELECT name, value FROM flags")}

    async def set_flag(self, name: str, value: bool, who: str) -> bool | None:
        at = self._clock.wall()

        def turn(tx: Transaction) -> bool | None:
            rows = tx.query("SELECT value FROM flags WHERE name = ?", (name,))
            before = bool(rows[0][0]) if rows else None
            tx.execute(
                "INSERT INTO flags (name, value, who, at) VALUES (?, ?, ?, ?) ON CONFLICT (name)"
                " DO UPDATE SET value = excluded.value, who = excluded.who, at = excluded.at",
                (name, int(value), who, at),
            )
            _append(tx, at, who, "flag.set", {"flag": name, "from": before, "to": value})
            return before

        return await self._database.write(turn)

    async def pauses(self) -> list[Pause]:
        rows = await self._database.read(
            "SELECT id, target, kind, reason, who, since, until FROM pauses WHERE until > ? ORDER BY since, rowid",
            (self._clock.wall(),),
        )
        return [Pause(*row) for row in rows]

    async def add_pause(
        self,
        target: str,
        until: float,
        *,
        who: str,
        reason: str = "",
        kind: Literal["pause", "maintenance"] = "pause",
    ) -> Pause:
        at, until = self._clock.wall(), min(until, FOREVER)
        pause = Pause(f"pause-{secrets.token_hex(6)}", target, kind, reason, who, at, until)

        def add(tx: Transaction) -> None:
            tx.execute(
                "INSERT INTO pauses (id, target, kind, reason, who, since, until) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (pause.id, target, kind, reason, who, at, until),
            )
            _append(tx, at, who, f"{kind}.begun", plain(pause))

        await self._database.write(add)
        return pause

    async def remove_pause(self, target: str, who: str) -> int:
        at = self._clock.wall()

        def remove(tx: Transaction) -> int:
            ids = [id for (id,) in tx.query("SELECT id FROM pauses WHERE target = ? AND until > ?", (target, at))]
            if ids:
                tx.execute("DELETE FROM pauses WHERE target = ?", (target,))
                _append(tx, at, who, "pause.ended", {"target": target, "pauses": ids})
            return len(ids)

        return await self._database.write(remove)

    async def want_approval(self, plan: Plan, expires: float, why: str = "") -> Approval:
        at = self._clock.wall()

        def want(tx: Transaction) -> Approval:
            _save_plan(tx, plan, at)
            tx.execute(
                "INSERT INTO approvals (plan, incident, state, who, why, at, expires)"
                " VALUES (?, ?, 'wanted', '', ?, ?, ?) ON CONFLICT (plan) DO UPDATE SET"
                " state = 'wanted', who = '', why = excluded.why, at = excluded.at, expires = excluded.expires"
                " WHERE state = 'expired' OR (state <> 'wanted' AND expires <= excluded.at)",
                (plan.id, plan.incident, why, at, expires),
            )
            return _approval(tx.query(_APPROVAL + " WHERE plan = ?", (plan.id,))[0])

        return await self._database.write(want)

    async def answer_approval(self, plan: str, approve: bool, who: str, why: str = "") -> Approval | None:
        at = self._clock.wall()

        def answer(tx: Transaction) -> Approval | None:
            rows = tx.query(_APPROVAL + " WHERE plan = ?", (plan,))
            if not rows:
                return None
            approval = _approval(rows[0])
            if approval.state != "wanted":
                return approval
            over = tx.query("SELECT 1 FROM incidents WHERE id = ? AND state = 'closed'", (approval.incident,))
            if approval.expires <= at or over:
                return _let_expire(tx, approval, at)
            answered = replace(approval, state="approved" if approve else "rejected", who=who, why=why, at=at)
            tx.execute(_SET_APPROVAL, (answered.state, who, why, at, plan))
            told = {"plan": plan, "incident": approval.incident, "why": why}
            _append(tx, at, who, f"approval.{answered.state}", told)
            return answered

        return await self._database.write(answer)

    async def approvals(
        self, state: ApprovalState | None = None, limit: int = 100, incident: str | None = None
    ) -> list[Approval]:
        of_one = " AND incident = ?" if incident is not None else ""
        rows = await self._database.read(
            _APPROVAL + f" WHERE state = coalesce(?, state){of_one} ORDER BY at DESC, rowid DESC LIMIT ?",
            (state, *([incident] if incident is not None else ()), limit),
        )
        return [_approval(row) for row in rows]

    async def expire_approvals(self, now: float) -> list[Approval]:
        # Of an incident that is over, too: nobody is to be asked about what is no question any more.
        late = (
            " WHERE state = 'wanted' AND (expires <= ? OR EXISTS (SELECT 1 FROM incidents"
            " WHERE incidents.id = approvals.incident AND incidents.state = 'closed'))"
        )
        if not await self._database.read(_APPROVAL + late + " LIMIT 1", (now,)):
            return []  # asked at every turn: a look costs the writer nothing

        def expire(tx: Transaction) -> list[Approval]:
            return [_let_expire(tx, _approval(row), now) for row in tx.query(_APPROVAL + late, (now,))]

        return await self._database.write(expire)

    # Small durable things

    async def save_subjects(self, subjects: Sequence[SubjectState]) -> None:
        rows = [(s.name, s.state, s.since, s.summary, s.at) for s in subjects]
        await self._database.write(
            lambda tx: tx.execute_many(
                "INSERT INTO subjects (name, state, since, summary, at) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE"
                " SET state = excluded.state, since = excluded.since, summary = excluded.summary, at = excluded.at",
                rows,
            )
        )

    async def subjects(self) -> list[SubjectState]:
        rows = await self._database.read("SELECT name, state, since, summary, at FROM subjects ORDER BY name")
        return [SubjectState(*row) for row in rows]

    async def remember(self, key: str, value: Any) -> None:
        if key.startswith("audit."):
            raise StoreError(f"the key {key} is the store's own", remedy=_OURS)
        body = _json(value)
        await self._database.write(lambda tx: _set_state(tx, key, body))

    async def recall(self, key: str) -> Any:
        rows = await self._database.read("SELECT value FROM state WHERE key = ?", (key,))
        return _parsed(rows[0][0]) if rows else None

    # The audit chain

    async def audit(self, who: str, what: str, data: Attributes = NOTHING) -> int:
        at = self._clock.wall()
        return await self._database.write(lambda tx: _append(tx, at, who, what, data))

    async def audit_trail(self, limit: int = 100, before: int | None = None) -> list[AuditRow]:
        rows = await self._database.read(
            _AUDIT + " WHERE seq < coalesce(?, seq + 1) ORDER BY seq DESC LIMIT ?", (before, limit)
        )
        return [
            AuditRow(seq, at, who, what, _parsed(data), previous, hash)
            for seq, at, who, what, data, previous, hash in rows
        ]

    async def verify_audit(self) -> int:
        while True:
            # One statement sees one state of the store, so links that others add meanwhile are no contradiction.
            anchor_body, head_body, last, anchored = (await self._database.read(_AUDIT_ENDS))[0]
            try:
                return await self._verify(anchor_body, head_body, last, anchored)
            except TamperedError:
                if (await self._database.read(_AUDIT_ENDS))[0][0] == anchor_body:
                    raise
                # Not tampering: another process let go of old links while we read them. Look again.

    async def _verify(
        self, anchor_body: str | None, head_body: str | None, last: int | None, anchored: str | None
    ) -> int:
        anchor, head = _link(anchor_body), _link(head_body)
        _check_anchor(anchor, anchored)
        link = anchor
        while link[0] < head[0]:
            rows = await self._database.read(
                _AUDIT + " WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?", (link[0], head[0], BATCH)
            )
            if not rows:
                raise _tampered(link[0] + 1, f"it is missing; the chain went on to {head[0]}")
            link = _follow(rows, link)
        if link != head:
            raise _tampered(link[0], "the chain is not the one that ended here")
        if (last or 0) > head[0]:
            raise _tampered(head[0] + 1, f"the chain ended at {head[0]}")
        return head[0] - anchor[0]

    # Letting go

    async def retain(self, now: float, days: float, max_rows: int) -> Retained:
        oldest = now - days * 86400
        incidents = 0
        while True:
            gone = await self._database.write(lambda tx: _forget_incidents(tx, oldest, max_rows))
            incidents += gone
            if gone < BATCH:
                break
        decisions = await self._database.write(lambda tx: _forget_said(tx, oldest, max_rows))
        audit = await self._database.write(lambda tx: _forget_audit(tx, now, oldest, max_rows))
        return Retained(incidents, decisions, audit)

    # Carrying it elsewhere

    async def export(self, write_line: Callable[[str], None]) -> None:
        anchor_body, head_body, _, _ = (await self._database.read(_AUDIT_ENDS))[0]
        write_line(
            _json(
                {
                    "kind": "x0tta6bl4.knowledge",
                    "version": FORMAT,
                    "at": self._clock.wall(),
                    "anchor": _link(anchor_body),
                    "head": _link(head_body),
                }
            )
        )
        count = 0
        for table, columns in TABLES.items():
            names = ", ".join(f'"{column}"' for column in columns)
            last = -1
            while rows := await self._database.read(
                f"SELECT rowid, {names} FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT ?",  # noqa: S608 ours
                (last, BATCH),
            ):
                for rowid, *values in rows:
                    last = rowid
                    if table != "state" or values[0] not in (HEAD, ANCHOR):
                        write_line(_json({"kind": table, "row": values}))
                        count += 1
        if (await self._database.read(_AUDIT_ENDS))[0][0] != anchor_body:
            raise StoreError("old audit links were let go of during the export", remedy="export once more")
        write_line(_json({"kind": "end", "rows": count}))

    async def import_(self, lines: Iterable[str], who: str) -> Imported:
        at = self._clock.wall()
        anchor, tables, end = _read_export(lines)

        def take(tx: Transaction) -> Imported:
            is_empty = not any(
                tx.query(f"SELECT 1 FROM {table} LIMIT 1")  # noqa: S608 the names are ours
                for table in TABLES
                if table not in OURS_STAY
            )
            if is_empty:
                taken, skipped = _take_all(tx, tables, anchor, end), tuple[str, ...]()
            else:
                taken, skipped = _take_incidents(tx, tables)
            _append(tx, at, who, "import", {"taken": taken, "skipped": list(skipped), "head": list(end)})
            return Imported(taken, skipped)

        return await self._database.write(take)


_TRIES = (
    "SELECT steps.id, steps.incident, steps.subject, incidents.fault, steps.rule, steps.rung,"
    " steps.intent_at, steps.ended_at, steps.verified_at, steps.result, steps.step, plans.body, incidents.body"
    " FROM steps JOIN incidents ON incidents.id = steps.incident LEFT JOIN plans ON plans.id = steps.plan"
)
# Only the sentence tells what was merely suggested from what a person rejected or nobody may do.
_SUGGESTED = (
    'SELECT decisions.incident, decisions.target, decisions."check", decisions.at, plans.body FROM decisions'
    " JOIN plans ON plans.id = decisions.plan WHERE decisions.at >= ? AND decisions.answer = 'deny' AND"
    " ((decisions.\"check\" = 'mode' AND decisions.sentence LIKE '% is in mode suggest: would do %')"
    " OR decisions.\"check\" = 'allowlist') ORDER BY decisions.at DESC, decisions.id DESC LIMIT ?"
)
_ACTION = (
    "id, subject, target, action, intent_at, ended_at, result, incident, rung, target_group, disruptive,"
    " coalesce(json_extract(outcome, '$.unknown'), 0)"
)
_DECISION = 'SELECT subject, incident, plan, step, "check", answer, sentence, until, at, action, target FROM decisions'
_LATEST = (
    " WHERE id IN (SELECT max(id) FROM decisions WHERE incident IN (SELECT value FROM json_each(?)) GROUP BY incident)"
)
# What was verified in an earlier bout says nothing of how long the latest one lasted.
_COURSES = (
    "SELECT id, fault, state, ended, opened_at,"
    " (SELECT min(first_at) FROM findings WHERE incident = told.id), onset_at,"
    " (SELECT max(verified_at) FROM steps WHERE incident = told.id"
    " AND verified_at BETWEEN told.onset_at AND coalesce(told.closed_at, verified_at))"
    " FROM (SELECT id, fault, state, json_extract(body, '$.ended') AS ended, opened_at, closed_at,"
    " coalesce(nullif(json_extract(body, '$.onset_at'), 0), opened_at) AS onset_at"
    " FROM incidents WHERE opened_at >= ? AND (opened_at, id) < (?, ?) ORDER BY opened_at DESC, id DESC LIMIT ?)"
    " AS told"
)
_ORDER = ("opened", "found", "moved", "planned", "decided", "approval", "intent", "outcome", "closed")
_OURS = "this is the daemon's own mistake: please report it"
_APPROVAL = "SELECT plan, state, who, why, at, expires, incident FROM approvals"
_SET_APPROVAL = "UPDATE approvals SET state = ?, who = ?, why = ?, at = ? WHERE plan = ?"
_AUDIT = "SELECT seq, at, who, what, data, previous, hash FROM audit"
_AUDIT_ENDS = (
    "SELECT (SELECT value FROM state WHERE key = 'audit.anchor'), (SELECT value FROM state WHERE key = 'audit.head'),"
    " (SELECT max(seq) FROM audit),"
    " (SELECT data FROM audit WHERE what = 'audit.retained' ORDER BY seq DESC LIMIT 1)"
)

Link = tuple[int, str]
_ENCODER = Encoder(sort_keys=True)


def _json(value: Any) -> str:
    """The one form in which a value is written and hashed."""
    return _ENCODER.encode(plain(value))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise StoreError(f"a row of the knowledge store cannot be read: {error}: {text[:80]!r}") from error


def _signal_body(points: Sequence[tuple[float, float]]) -> str:
    # Numbers as short as a chart needs them: they are most of what is kept of an incident.
    times = [round(at * 1000) for at, _ in points]
    after = [later - before for before, later in pairwise(times)]
    values = ",".join([_signal_value(value) for _, value in points])
    return f"[{times[0] if times else 0},[{','.join(map(str, after))}],[{values}]]"


def _signal_value(value: float) -> str:
    if isnan(value):
        return "null"
    return f"{value:.0f}" if value.is_integer() else f"{value:.6g}"


def _signal_points(parsed: Any) -> tuple[tuple[float, float], ...]:
    first, after, values = parsed
    times = accumulate(after, initial=first) if values else ()
    try:
        points = tuple((at / 1000, None if v is None else float(v)) for at, v in zip(times, values, strict=True))
    except OverflowError as error:
        raise ValueError("no chart has room for such a number") from error
    if not all(isfinite(at) and (value is None or isfinite(value)) for at, value in points):
        raise ValueError("a point of a chart is no number")
    return tuple((at, nan if value is None else value) for at, value in points)


def _told_of(move: Move) -> Attributes:
    told = {
        "incident": move.incident,
        "number": move.number,
        "event": move.event,
        "states": list(move.states),
        "effects": list(move.effects),
        "taken": move.taken,
        "activity": move.invocation,
        "message": move.message,
    }
    return told | ({"who": move.data.get("who", "")} if move.message and isinstance(move.data, Mapping) else {})


def _move_in_words(move: Move) -> str:
    """What happened on the runbook, and where that led, as an operator would say it."""
    data = move.data if isinstance(move.data, Mapping) else {}
    head, _, rest = move.event.partition(".")
    state = rest.removeprefix("act.")
    match head:
        case "$start":
            what = "its runbook begins"
        case "$close":
            what = "its runbook is called off"
        case "$seen":
            what = "what is seen of it has changed"
        case "$migrate" if not move.taken:
            return f"not moved to v{data.get('version')} of its runbook: {data.get('refused')}"
        case "$migrate":
            what = f"moved to v{data.get('version')} of its runbook by {data.get('who')}"
        case "done" | "failed" | "unknown" if rest.startswith("act.") and "rung" in data:
            what = f"chosen: {data['rung']}"
        case "done" if rest.startswith("act."):
            what = f"{state} is done"
        case "failed" if rest.startswith("act."):
            what = f"{state} did not help" if data.get("outcome") != "refused" else f"{state} was passed over"
        case "unknown" if rest.startswith("act."):
            what = f"whether {state} was done is not known"
        case "after":
            what = f"time is up for {rest.rpartition('.')[0]}"
        case "error":
            what = f"a mistake in the runbook: {data.get('message', data)}"
        case _ if move.message:
            said = f" ({data['why']})" if data.get("why") else ""
            what = f"{move.event} by {data.get('who') or 'somebody'}{said}"
        case _:
            what = move.event
    if not move.taken and not any(effect.startswith("was taken back") for effect in move.effects):
        return f"{what}; nothing listened to it"
    worth = [effect for effect in move.effects if effect.startswith(("tells", "ends", "was taken back"))]
    # A timer's own name says less than how long it waits; of one that is set anew, the last word counts.
    waits = dict(effect.split(" in ", 1) for effect in move.effects if effect.startswith("after.") and " in " in effect)
    worth += [
        f"waits {show_seconds(float(time.removesuffix(' s')))} in {event.removeprefix('after.').rpartition('.')[0]}"
        for event, time in waits.items()
    ]
    if move.states and not any(effect.startswith("ends") for effect in worth):
        at = [f"choosing in {s[:-5]}" if s.endswith(".next") else f"at {s}" for s in move.states]
        worth.insert(0, f"now {' and '.join(at)}")
    return "; ".join([what, *worth])


def _incident(body: str, place: str) -> Incident:
    parsed = _parsed(body)
    if place:
        parsed["place"] = Kept(place)
    return incident_from(parsed)


IncidentRows = tuple[Row, list[Row]]
_OF_INCIDENT = tuple(sorted(part.name for part in fields(Incident)))
_parts_of = attrgetter(*_OF_INCIDENT)


def _incident_rows(incident: Incident, moves: Sequence[Move]) -> IncidentRows:
    """Made before the transaction, so that the writer is held no longer than it must be."""
    closed_at = incident.closed_at
    if closed_at is None and incident.state is IncidentState.CLOSED:
        closed_at = incident.updated_at
    row = (
        incident.id,
        incident.subject,
        incident.fault,
        str(incident.state),
        incident.opened_at,
        incident.updated_at,
        closed_at,
        _incident_body(incident),
        Kept.of(incident.place).text if incident.place else "",
    )
    return row, [
        (
            move.incident,
            move.number,
            move.at,
            move.event,
            "null" if move.data is None else _ENCODER.encode(move.data),  # JSON already, as its runbook got it
            move.invocation,
            move.message,
            " ".join(move.states),
            int(move.taken),
            _ENCODER.encode(move.effects),
        )
        for move in moves
    ]


def _incident_body(incident: Incident) -> str:
    """As ``_json`` writes it, without asking each of its values what it is: they are written with every move."""
    told: dict[str, Any] = dict(zip(_OF_INCIDENT, _parts_of(incident), strict=True))
    told["place"] = {}  # stands beside it
    told["data"] = plain(incident.data) if incident.data else {}
    told["healthy_when"] = [
        {"metric": sign.metric, "op": sign.op, "subject": sign.subject, "value": plain(sign.value)}
        for sign in incident.healthy_when
    ]
    return _ENCODER.encode(told)


def _save_incident(tx: Transaction, rows: IncidentRows) -> None:
    _save_incidents(tx, [rows])


def _save_incidents(tx: Transaction, made: Sequence[IncidentRows]) -> None:
    for row, _ in made:
        id, subject, fault, state, opened_at, updated_at, closed_at, body, place = row
        # Mostly only what no index is about has changed, and an index is maintained for what is set, not for what
        # differs.
        if not tx.query(
            "UPDATE incidents SET updated_at = ?, body = ?, place = ? WHERE id = ? AND subject = ? AND fault = ?"
            " AND state = ? AND opened_at = ? AND closed_at IS ? RETURNING 1",
            (updated_at, body, place, id, subject, fault, state, opened_at, closed_at),
        ):
            _put_incident(tx, row)
    moves = [move for _, mine in made for move in mine]
    if not moves:
        return
    # Two that save the same incident may both bring a move along. The first one stands, and must be the same: to
    # another one of its number the table says no.
    tx.execute_many(
        "INSERT INTO moves (incident, number, at, event, data, invocation, message, states, taken, effects)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (incident, number) DO UPDATE SET taken ="
        " CASE WHEN event = excluded.event AND invocation = excluded.invocation AND message = excluded.message"
        " AND states = excluded.states THEN taken END",
        moves,
    )
    taken = [(move[6],) for move in moves if move[6]]
    if taken:
        tx.execute_many("DELETE FROM inbox WHERE id = ?", taken)


def _put_incident(tx: Transaction, row: Row) -> None:
    tx.execute(
        "INSERT INTO incidents (id, subject, fault, state, opened_at, updated_at, closed_at, body, place)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET subject = excluded.subject,"
        " fault = excluded.fault, state = excluded.state, opened_at = excluded.opened_at,"
        " updated_at = excluded.updated_at, closed_at = excluded.closed_at, body = excluded.body,"
        " place = excluded.place",
        row,
    )


def _save_plan(tx: Transaction, plan: Plan, at: float) -> None:
    tx.execute(
        "INSERT INTO plans (id, incident, subject, at, body) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET body = excluded.body",
        (plan.id, plan.incident, plan.subject, at, _json(plan)),
    )


def _set_state(tx: Transaction, key: str, body: str) -> None:
    tx.execute(
        "INSERT INTO state (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, body),
    )


def _tries(rows: Iterable[Row]) -> list[Trial]:
    """The steps of each try taken together, in the order they were begun."""
    groups: dict[str, list[tuple[Row, Step]]] = {}
    stuck: set[str] = set()
    for row in rows:
        step = step_from(_parsed(row[10]))
        if not step.undoes:
            groups.setdefault(row[0].rsplit(".", 1)[0], []).append((row, step))
        elif row[9] in (Result.FAILED, Result.REFUSED):
            stuck.add(step.undoes)
    tries: list[Trial] = []
    failed: dict[str, int] = {}
    for steps in groups.values():
        if any(row[9] is None for row, _ in steps):
            continue
        _, id, subject, fault, rule, rung, begun_at, *_, plan, body = steps[0][0]
        *_, ended_at, verified_at, said, _, _, _ = steps[-1][0]
        planned = [step for _, step in steps] if plan is None else plan_from(_parsed(plan)).steps
        result = Result(said)
        # What proves nothing, and what was refused before anything was done, says nothing of how well it heals.
        if all(step.expect is None for step in planned) or result in (Result.REFUSED, Result.SIMULATED):
            continue
        incident = _incident(body, "")
        onset_at = incident.onset_at or incident.opened_at
        tries.append(
            Trial(
                incident=id,
                subject=subject,
                fault=fault,
                rule=rule,
                rung=rung,
                actions=tuple(step.action for step in planned),
                onset_at=onset_at if begun_at >= onset_at else None,
                begun_at=begun_at,
                ended_at=ended_at,
                verified_at=verified_at,
                result=result,
                after=failed.get(id, 0),
                stuck=any(row[0] in stuck for row, _ in steps),
            )
        )
        failed[id] = 0 if result is Result.VERIFIED else failed.get(id, 0) + 1
    return tries


def _is_its_doing(trial: Trial, at: float, subject: str, acted: Iterable[Row]) -> bool:
    """Whether trouble that began then can be laid at this try's door: not its own, and nothing else was done then."""
    meanwhile = [(target, id) for _, id, target, begun_at, ended_at in acted if begun_at <= at <= ended_at]
    mine = {target for target, id in meanwhile if id == trial.incident} | {trial.subject}
    return subject not in mine and all(id == trial.incident for _, id in meanwhile)


def _conditions(wanted: Wanted) -> list[tuple[str, Sequence[Any]]]:
    """Of SQL over the table of incidents, with the values in them."""
    told: list[tuple[str, Sequence[Any]]] = []
    if wanted.states is not None:
        if IncidentState.CLOSED not in wanted.states:
            told.append(("state <> 'closed'", ()))  # in the words of the index
        if wanted.states != frozenset(IncidentState) - {IncidentState.CLOSED}:
            told.append(("state IN (SELECT value FROM json_each(?))", (_json(sorted(wanted.states)),)))
    for condition, value in (
        ("subject = ?", wanted.subject),
        ("fault = ?", wanted.fault),
        ("json_extract(body, '$.severity') = ?", wanted.severity),
        ("opened_at >= ?", wanted.since),
        ("opened_at < ?", wanted.until),
    ):
        if value is not None:
            told.append((condition, (plain(value),)))
    return told


def _action(row: Sequence[Any]) -> ActionRecord:
    id, subject, target, action, at, ended_at, result, incident, rung, group, disruptive, unknown = row
    return ActionRecord(
        id,
        subject,
        target,
        action,
        at,
        ended_at,
        None if result is None else Result(result),
        incident,
        rung,
        group,
        bool(disruptive),
        bool(unknown),
    )


def _decision(row: Row) -> Decision:
    subject, incident, plan, step, check, answer, sentence, until, at, action, target = row
    return Decision(subject, incident, plan, step, check, Answer(answer), sentence, until, at, action, target)


def _approval(row: Row) -> Approval:
    return Approval(*row)


def _let_expire(tx: Transaction, approval: Approval, at: float) -> Approval:
    tx.execute(_SET_APPROVAL, ("expired", approval.who, approval.why, at, approval.plan))
    return replace(approval, state="expired", at=at)


def _link(body: str | None) -> Link:
    """Where the chain stands: the number and hash of a link; before the first one, 0 and zeros."""
    if body is None:
        return 0, GENESIS
    try:
        seq, hash = json.loads(body)["link"]
        return int(seq), str(hash)
    except (ValueError, KeyError, TypeError) as error:
        raise TamperedError(f"the audit chain's end cannot be read: {body[:80]!r}", details={"seq": 0}) from error


def _hash(seq: int, at: float, who: str, what: str, data: Any, previous: str) -> str:
    told = {"seq": seq, "at": at, "who": who, "what": what, "data": data, "previous": previous}
    return hashlib.sha256(_json(told).encode("ascii")).hexdigest()


def _append(tx: Transaction, at: float, who: str, what: str, data: Attributes) -> int:
    # From the head that is kept apart, not from the last row: after a cut tail the gap stays visible for ever.
    heads = tx.query("SELECT value FROM state WHERE key = ?", (HEAD,))
    if not heads and tx.query("SELECT 1 FROM audit LIMIT 1"):
        raise TamperedError("the audit chain's end was removed", details={"seq": 0})
    last, previous = _link(heads[0][0] if heads else None)
    seq, at, who, what = last + 1, float(at), _text(who), _text(what)
    body = _json(data)
    hash = _hash(seq, at, who, what, json.loads(body), previous)
    tx.execute(
        "INSERT INTO audit (seq, at, who, what, data, previous, hash) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (seq, at, who, what, body, previous, hash),
    )
    _set_state(tx, HEAD, _json({"link": (seq, hash)}))
    return seq


def _text(text: str) -> str:
    """As the database gives it back, which is what the hash must be taken of."""
    return text.encode("utf-8", "backslashreplace").decode()


def _tampered(seq: int, why: str) -> TamperedError:
    return TamperedError(f"the audit chain does not hold at link {seq}: {why}", details={"seq": seq})


def _follow(rows: Iterable[Row], link: Link) -> Link:
    """Walks from a link that holds over the next ones; the last of them. TamperedError at the first that does not."""
    for seq, at, who, what, data, previous, hash in rows:
        if seq != link[0] + 1:
            raise _tampered(link[0] + 1, f"it is missing; {seq} comes next")
        if previous != link[1]:
            raise _tampered(seq, "it does not follow from the one before")
        try:
            told = json.loads(data)
        except (ValueError, TypeError):
            raise _tampered(seq, "its data cannot be read") from None
        if _json(told) != data or _hash(seq, at, who, what, told, previous) != hash:
            raise _tampered(seq, "it was changed")
        link = seq, hash
    return link


def _check_anchor(anchor: Link, anchored: str | None) -> None:
    """What was let go of must be told of in the chain itself, or cutting off its beginning would go unseen."""
    if anchor[0] and (anchored is None or _link(anchored) != anchor):
        raise _tampered(anchor[0] + 1, "links before it were removed, and none tells of it")


def _forget_incidents(tx: Transaction, oldest: float, max_rows: int) -> int:
    excess = max(0, tx.query("SELECT count(*) FROM incidents")[0][0] - max_rows)
    free = (
        "SELECT id, closed_at FROM incidents WHERE state = 'closed' AND NOT EXISTS"
        " (SELECT 1 FROM steps WHERE steps.incident = incidents.id AND steps.result IS NULL)"
        " ORDER BY closed_at LIMIT ?"
    )
    rows = tx.query(free, (BATCH,))
    gone = [(id,) for number, (id, closed_at) in enumerate(rows) if closed_at < oldest or number < excess]
    for table in OF_INCIDENT:
        tx.execute_many(f"DELETE FROM {table} WHERE incident = ?", gone)  # noqa: S608 the names are ours
    tx.execute_many("DELETE FROM incidents WHERE id = ?", gone)
    return len(gone)


def _forget_said(tx: Transaction, oldest: float, max_rows: int) -> int:
    """What belongs to no incident that is kept, or is over."""
    before = tx.query("SELECT count(*) FROM decisions")[0][0]
    tx.execute(
        "DELETE FROM decisions WHERE at < ? AND NOT EXISTS (SELECT 1 FROM incidents WHERE id = decisions.incident)",
        (oldest,),
    )
    # An incident may stay open, and be retried, for years: what was tried long ago goes all the same.
    tx.execute("DELETE FROM steps WHERE result IS NOT NULL AND max(intent_at, ended_at) < ?", (oldest,))
    tx.execute(
        "DELETE FROM plans WHERE at < ?1 AND NOT EXISTS (SELECT 1 FROM steps WHERE steps.plan = plans.id)"
        " AND NOT EXISTS (SELECT 1 FROM approvals WHERE approvals.plan = plans.id AND approvals.expires >= ?1)",
        (oldest,),
    )
    # Of an incident that stays open, everything before its runbook last began anew.
    tx.execute(
        "DELETE FROM moves WHERE at < ? AND number < (SELECT max(number) FROM moves AS later"
        " WHERE later.incident = moves.incident AND later.event = '$start')",
        (oldest,),
    )
    tx.execute("DELETE FROM inbox WHERE at < ?", (oldest,))
    tx.execute("DELETE FROM approvals WHERE NOT EXISTS (SELECT 1 FROM plans WHERE plans.id = approvals.plan)")
    tx.execute("DELETE FROM pauses WHERE until < ?", (oldest,))
    # Other nodes' words belong to no incident here, so their number is bounded by itself.
    tx.execute(
        "DELETE FROM feedback WHERE at < ?1 OR rowid IN"
        " (SELECT rowid FROM feedback ORDER BY at DESC LIMIT -1 OFFSET ?2)",
        (oldest, max_rows),
    )
    tx.execute("DELETE FROM epochs WHERE epoch <= (SELECT max(epoch) FROM epochs) - ?", (max_rows,))
    return int(before - tx.query("SELECT count(*) FROM decisions")[0][0])


def _forget_audit(tx: Transaction, now: float, oldest: float, max_rows: int) -> int:
    anchor_body, head_body, _, _ = tx.query(_AUDIT_ENDS)[0]
    anchor, head = _link(anchor_body), _link(head_body)
    kept = tx.query("SELECT min(seq) FROM audit WHERE at >= ?", (oldest,))[0][0]
    until = max((head[0] if kept is None else kept - 1), head[0] - max_rows)
    if until <= anchor[0]:
        return 0
    link = anchor
    while link[0] < until:
        rows = tx.query(_AUDIT + " WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?", (link[0], until, BATCH))
        if not rows:
            raise _tampered(link[0] + 1, "it is missing")
        link = _follow(rows, link)
    tx.execute("DELETE FROM audit WHERE seq <= ?", (until,))
    _set_state(tx, ANCHOR, _json({"link": link}))
    _append(tx, now, "daemon", RETAINED, {"link": link, "links": until - anchor[0]})
    return until - anchor[0]


def _read_export(lines: Iterable[str]) -> tuple[Link, dict[str, list[Row]], Link]:
    """The rows of each table, between the two ends of its chain. All of it is looked at before any of it is taken."""
    tables: dict[str, list[Row]] = {table: [] for table in TABLES}
    anchor: Link | None = None
    head: Link = 0, GENESIS
    count, end = 0, None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
            kind = told["kind"]
            if anchor is None:
                if kind != "x0tta6bl4.knowledge":
                    raise StoreError("this is no export of the knowledge store", remedy=_EXPORT)
                if told["version"] not in range(1, FORMAT + 1):
                    raise StoreError(
                        f"the export has version {told['version']!r}; this daemon reads {FORMAT}",
                        remedy="import it with the version of the daemon that wrote it, or a newer one",
                    )
                anchor, head = (int(told["anchor"][0]), told["anchor"][1]), (int(told["head"][0]), told["head"][1])
            elif kind == "end":
                end = told["rows"]
            elif end is not None:
                raise ValueError("it comes after the end")
            else:
                tables[kind].append(_checked(kind, told["row"]))
                count += 1
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise StoreError(f"line {number} of the export cannot be read: {error!r}", remedy=_EXPORT) from error
    if anchor is None or end != count:
        raise StoreError(f"the export is cut off: {count} rows, {end} expected", remedy=_EXPORT)
    links = {anchor} | {(row[0], row[6]) for row in tables["audit"]}
    last = _follow(tables["audit"], anchor)
    _check_anchor(anchor, next((row[4] for row in reversed(tables["audit"]) if row[3] == RETAINED), None))
    if head not in links:  # links that were added during the export may follow
        raise _tampered(min(head[0], last[0] + 1), f"the chain went on to {head[0]}, and not so")
    return anchor, tables, last


_EXPORT = "nothing was taken; use a file that `export` wrote to its end"
_READERS: Mapping[tuple[str, str], Callable[[Any], object]] = {
    ("incidents", "body"): incident_from,
    ("findings", "body"): finding_from,
    ("plans", "body"): plan_from,
    ("steps", "step"): step_from,
    ("steps", "outcome"): outcome_from,
    ("signals", "body"): _signal_points,
}


def _checked(table: str, row: Sequence[Any]) -> Row:
    """ValueError and its like for a row that this store could not have written, and could not read later."""
    columns = TABLES[table]
    if table == "incidents" and isinstance(row, list) and len(row) == len(columns) - 1:
        row = [*row, ""]  # of a version in which incidents had no place on a runbook
    known = (str, int, float, type(None))
    if not isinstance(row, list) or len(row) != len(columns) or not all(isinstance(value, known) for value in row):
        raise ValueError(f"it is no row of {table}")
    for column, value in zip(columns, row, strict=True):
        reader = _READERS.get((table, column))
        if reader is not None and value is not None:
            reader(json.loads(value))
    if table == "state" and str(row[0]).startswith("audit."):
        raise ValueError("that key is never exported")
    return tuple(row)


def _insert(tx: Transaction, table: str, rows: Sequence[Row], ours_stay: bool = False) -> None:
    names = ", ".join(f'"{column}"' for column in TABLES[table])
    marks = ", ".join("?" * len(TABLES[table]))
    verb = "INSERT OR IGNORE" if ours_stay else "INSERT"
    tx.execute_many(f"{verb} INTO {table} ({names}) VALUES ({marks})", rows)


def _take_all(tx: Transaction, tables: Mapping[str, list[Row]], anchor: Link, end: Link) -> dict[str, int]:
    for table, rows in tables.items():
        _insert(tx, table, rows, ours_stay=table in OURS_STAY)
    if anchor[0]:
        _set_state(tx, ANCHOR, _json({"link": anchor}))
    if end[0]:
        _set_state(tx, HEAD, _json({"link": end}))
    return {table: len(rows) for table, rows in tables.items() if rows}


def _take_incidents(tx: Transaction, tables: Mapping[str, list[Row]]) -> tuple[dict[str, int], tuple[str, ...]]:
    new = {row[0] for row in tables["incidents"] if not tx.query("SELECT 1 FROM incidents WHERE id = ?", (row[0],))}
    taken: dict[str, int] = {}
    skipped: list[str] = []
    for table, rows in tables.items():
        if table == "incidents":
            mine, why = list(_where(rows, 0, new)), "known here already"
        elif table in OF_INCIDENT:
            mine, why = list(_where(rows, TABLES[table].index("incident"), new)), "their incidents are known here"
        elif table == "audit":
            mine, why = [], "this store has its own chain"
        else:
            mine, why = [], "this store has its own"
        _insert(tx, table, mine)
        if mine:
            taken[table] = len(mine)
        if len(mine) < len(rows):
            skipped.append(f"{len(rows) - len(mine)} of {len(rows)} {table}: {why}")
    return taken, tuple(skipped)


def _where(rows: Iterable[Row], column: int, wanted: set[Any]) -> Iterator[Row]:
    return (row for row in rows if row[column] in wanted)


def _build(name: str, config: Config, tools: Tools) -> SqliteKnowledge:
    if tools.database is None:
        raise StoreError("the sqlite knowledge needs the embedded database, and none was opened")
    return SqliteKnowledge(name, config, tools.database, tools.clock)


PLUGIN = knowledge(Config, _build)
