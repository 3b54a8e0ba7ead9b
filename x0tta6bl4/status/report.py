"""Tells everything about the daemon and what it cares for in JSON's own types: the body of /status."""

import asyncio
import logging
import os
import resource
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from typing_extensions import TypedDict

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.kernel.facts import Answer, Incident
from x0tta6bl4.kernel.guard import decision
from x0tta6bl4.kernel.lessons import Matures
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.kernel.memory import ActionRecord, Decision, plain
from x0tta6bl4.kernel.policy import Budget
from x0tta6bl4.kernel.subjects import subject_of
from x0tta6bl4.kernel.summary import describe
from x0tta6bl4.observability.memory import MemoryProfiler
from x0tta6bl4.observability.tracker import ExecutionTracker
from x0tta6bl4.status.face import Face

log = logging.getLogger("x0tta6bl4.status.report")

MOST_ASKED = 200
"""Open incidents whose last decision is looked up for one report."""
DECISIONS_WITHIN = 1.0
"""Seconds to ask the store what was decided last; a page without it is better than none."""
CPU_WINDOW, CPU_STEP = 60.0, 10.0
"""Seconds that the CPU share is told about, and between the readings it is told from."""


@dataclass
class Listening:
    """Where the endpoint can be reached, as far as it could be opened."""

    address: str = ""
    metrics: str = ""
    trouble: str = ""


class CpuUse:
    """The daemon's own CPU time, and its share of one core over the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._cpu = cpu or _cpu_seconds
        self._readings: deque[tuple[float, float]] = deque([(clock(), self._cpu())])

    def tick(self) -> None:
        now = self._clock()
        if now - self._readings[-1][0] < CPU_STEP:
            return
        self._readings.append((now, self._cpu()))
        while len(self._readings) > 2 and now - self._readings[1][0] >= CPU_WINDOW:
            self._readings.popleft()

    def read(self) -> dict[str, float | None]:
        now, used = self._clock(), self._cpu()
        since, before = self._readings[0]
        over = now - since
        return {
            "seconds": round(used, 3),
            "percent": round(100 * (used - before) / over, 2) if over >= 1 else None,
            "over_seconds": round(over, 1),
        }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def iso(wall: float, timespec: str = "milliseconds") -> str | None:
    """As ISO 8601 in UTC; None for a time that no calendar has."""
    try:
        return datetime.fromtimestamp(wall, UTC).isoformat(timespec=timespec).removesuffix("+00:00") + "Z"
    except (ValueError, OverflowError, OSError):
        return None


class Decided(TypedDict):
    """What the guard said last."""

    at: str | None
    check: str
    answer: str
    sentence: str
    until: str | None
    action: str


class Status(TypedDict):
    version: str
    timestamp: str | None
    started_at: str | None
    uptime_seconds: float
    pid: int
    memory: dict[str, float]
    cpu: dict[str, float | None]
    connections: int
    listening: dict[str, str]
    loop: dict[str, Any]
    subjects: list[dict[str, Any]]
    incidents: list[dict[str, Any]]
    held_back: list[dict[str, Any]]
    in_treatment: list[str]
    approvals_wanted: list[dict[str, Any]]
    pauses: list[dict[str, Any]]
    learning: dict[str, dict[str, int]]
    """Analyzer -> how much it knows, how much of that is too young to be judged, and what found no room."""
    flags: dict[str, bool]
    budgets: dict[str, Any]
    conditions: list[dict[str, Any]]
    configuration: dict[str, Any]
    stages: dict[str, Any]


def learning(loop: MAPEK) -> dict[str, dict[str, int]]:
    """How far each analyzer has come that judges nothing before it was learnt."""
    return {one.name: asdict(one.progress()) for one in loop.parts.analyzers if isinstance(one, Matures)}


async def report(face: Face, cpu: CpuUse, connections: int, listening: Listening) -> dict[str, Any]:
    """Everything there is to know about the daemon and what it cares for, in JSON's own types."""
    loop = face.loop
    wall = loop.parts.clock.wall()
    memory = MemoryProfiler().get_memory_stats()
    said = await _decisions(loop)
    incidents = [_incident(i, said.get(i.id)) for i in sorted(loop.incidents.open, key=lambda i: i.opened_at)]
    told: dict[str, Any] = {
        "version": face.version,
        "timestamp": iso(wall),
        "started_at": iso(face.started_at),
        "uptime_seconds": round(max(0.0, wall - face.started_at), 3),
        "pid": os.getpid(),
        "memory": {"rss_mb": round(memory["current_mb"], 2), "peak_mb": round(memory["peak_mb"], 2)},
        "cpu": cpu.read(),
        "connections": connections,
        "listening": {"address": listening.address, "metrics": listening.metrics, "trouble": listening.trouble},
        "loop": _loop(loop),
        "subjects": _subjects(loop, incidents),
        "incidents": incidents,
        "held_back": [
            {"incident": i["id"], "subject": i["subject"], **i["decision"]}
            for i in incidents
            if i["decision"] is not None and i["decision"]["answer"] != Answer.ALLOW.value
        ],
        "in_treatment": sorted(loop.standing.in_treatment),
        "approvals_wanted": [
            {"plan": a.plan, "incident": a.incident, "why": a.why, "expires": iso(a.expires)}
            for a in loop.standing.approvals.values()
            if a.state == "wanted" and a.expires > wall
        ],
        "pauses": [
            {
                "target": p.target,
                "kind": p.kind,
                "reason": p.reason,
                "who": p.who,
                "since": iso(p.since),
                "until": iso(p.until),
            }
            for p in loop.standing.pauses
            if p.until > wall
        ],
        "learning": learning(loop),
        "flags": loop.parts.flags.as_dict(),
        "budgets": budgets(loop),
        "conditions": [
            {"code": c.code, "title": c.title, "meaning": c.meaning, "severity": c.severity, "since": iso(c.since)}
            for c in face.conditions()
        ],
        "configuration": dict(face.describe()),
        "stages": loop.parts.stages.all_statistics() if isinstance(loop.parts.stages, ExecutionTracker) else {},
    }
    shown = plain(told)
    assert isinstance(shown, dict)
    return shown


def _loop(loop: MAPEK) -> dict[str, Any]:
    turn = loop.last_turn
    return {
        "state": loop.lifecycle.current_state.value,
        "status": loop.status,
        "cycles": loop.cycle_count,
        "overruns": loop.overruns,
        "timeouts": loop.timeouts,
        "interval_seconds": loop.interval,
        "seconds_since_progress": round(loop.parts.clock.monotonic() - loop.last_progress, 3),
        "last_turn": None
        if turn is None
        else {
            "number": turn.number,
            "trigger": turn.trigger,
            "scope": None if turn.scope is None else sorted(turn.scope),
            "findings": len(turn.findings),
            "responses": list(turn.responses),
            "seconds": round(turn.seconds, 6),
            "result": turn.result,
        },
    }


def _subjects(loop: MAPEK, incidents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    sight, clock = loop.parts.sight, loop.parts.clock
    now, wall = clock.monotonic(), clock.wall()
    ids: dict[str, list[str]] = {}
    for incident in incidents:
        ids.setdefault(incident["subject"], []).append(incident["id"])
    # An incident may be about something that nobody put under care: a disk, a monitor that went blind.
    told = []
    for name in sorted(sight.subjects.keys() | ids.keys()):
        subject, how = subject_of(sight.subjects, name), describe(sight, loop.incidents, name, now)
        told.append(
            {
                "name": name,
                "kind": subject.kind,
                "mode": subject.mode,
                "group": subject.group,
                "depends_on": list(subject.depends_on),
                "state": how.state,
                "since": iso(wall - max(0.0, now - how.since)),
                "summary": how.summary,
                "incidents": ids.get(name, []),
            }
        )
    return told


def _incident(incident: Incident, said: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "id": incident.id,
        "subject": incident.subject,
        "fault": incident.fault,
        "state": incident.state.value,
        "severity": incident.severity.value,
        "summary": incident.summary,
        "opened_at": iso(incident.opened_at),
        "onset_at": iso(incident.onset_at or incident.opened_at),
        "updated_at": iso(incident.updated_at),
        "reopened": incident.reopened,
        "rung": incident.rung,
        "tries": incident.tries,
        "because": list(incident.because),
        "decision": said,
    }


def decided(one: Decision) -> Decided:
    return {
        "at": iso(one.at),
        "check": one.check,
        "answer": one.answer.value,
        "sentence": one.sentence,
        "until": None if one.until is None else iso(one.until),
        "action": one.action,
    }


async def _decisions(loop: MAPEK) -> dict[str, Decided]:
    """Incident -> what was last decided about it, from the store; what the last turn decided where the store fails."""
    said: dict[str, Decided] = {}
    if loop.last_turn is not None:
        for plan, incident, verdicts in loop.last_turn.decisions:
            verdict = decision(verdicts)
            said[incident.id] = {
                "at": None,
                "check": verdict.check,
                "answer": verdict.answer.value,
                "sentence": verdict.sentence,
                "until": None if verdict.until is None else iso(verdict.until),
                "action": plan.steps[0].action if plan is not None and plan.steps else "",
            }
    ids = [incident.id for incident in loop.incidents.open][:MOST_ASKED]
    try:
        async with asyncio.timeout(DECISIONS_WITHIN):
            latest = await loop.parts.knowledge.latest_decisions(ids)
            said |= {id: decided(one) for id, one in latest.items()}
    except (StoreError, TimeoutError) as error:
        log.debug("the decisions could not be read", extra={"reason": str(error)})
    return said


def budgets(loop: MAPEK) -> dict[str, Any]:
    policy, wall = loop.parts.policy, loop.parts.clock.wall()
    subjects = loop.parts.sight.subjects

    def of(budget: Budget, key: Callable[[ActionRecord], str], names: Iterable[str]) -> dict[str, Any]:
        spent = Counter(map(key, loop.guard.ledger.since(wall - budget.window, lambda r: r.disruptive)))
        return {
            "of": budget.count,
            "window_seconds": budget.window,
            "spent": {
                name: {"used": spent[name], "of": budget.count, "left": max(0, budget.count - spent[name])}
                for name in sorted({*names, *spent} - {""})
            },
        }

    return {
        "per_target": of(policy.per_target, lambda r: r.target, subjects),
        "per_kind": of(policy.per_kind, lambda r: r.action, ()),
        "per_group": of(policy.per_group, lambda r: r.group, (s.group for s in subjects.values())),
    }
