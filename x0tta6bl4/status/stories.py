"""Tells of incidents in JSON's own types: page by page, one with its whole story, what was done, and the sums of it."""

import asyncio
import heapq
import json
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from operator import is_
from statistics import median
from typing import Any, Literal

from typing_extensions import TypedDict

from x0tta6bl4.kernel.errors import X0tError
from x0tta6bl4.kernel.facts import Incident, IncidentState, Plan, Severity, shown, trace_id_of
from x0tta6bl4.kernel.lessons import Alteration
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.kernel.memory import Course, Decision, Deed, Entry, Kept, Milestones, Place, Wanted, plain
from x0tta6bl4.observability.redaction import redact_text
from x0tta6bl4.runbooks.document import near
from x0tta6bl4.runbooks.story import called_off, calm, well_at
from x0tta6bl4.status.answers import Question, as_it_stands
from x0tta6bl4.status.answers import summary as question
from x0tta6bl4.status.judgements import HowJudged, how_judged, verdicts_on, with_verdicts
from x0tta6bl4.status.report import Decided, decided, iso
from x0tta6bl4.status.signals import MOST_ALTERED, alterations_of, altered_words

PAGE = 200
"""Most incidents, or actions, of one page."""
LONGEST = 200
"""Characters of a cursor, or of a name that is looked for."""
LINES = 500
"""Most entries that a story is told from, the latest; the first word of it is always there."""
PLANS = 100
"""Most plans, and approvals, told with a story, the latest."""
OUTPUT_LINES, OUTPUT_WIDTH = 5, 500
"""Of what an action printed: its last lines, where programs say what went wrong."""
ELSEWHERE = 1000
"""Open incidents of the store that the loop does not know which are counted: it knows all of them once it runs."""
NAMES = 200
"""Names among which the nearest to an unknown one is looked for: the search takes time for each."""
DAYS = 366.0
COUNTED, AT_A_TIME = 20_000, 1000
"""Most incidents that sums are made of, and how many the store is asked for in one go: others wait meanwhile."""
BODIES, BYTES = 32, 1 << 20
"""Most answers that are kept, and the room that all of them may take."""
SUMS_KEPT, SUMS_SHARE = 8, 20.0
"""Sums that are kept whatever was written meanwhile, for so many times as long as they took to make."""
MINUTE = 60.0
"""Seconds for which an answer about a time that ends now may be kept."""

UNSEEN = ("aged out", "merged")
"""Ends that tell nothing of when it was well again."""
OPEN_STATES = frozenset(IncidentState) - {IncidentState.CLOSED}
StateWord = Literal["open", "waiting", "responding", "escalated", "closed"]
Phase = Literal[
    "seen",
    "judged",
    "planned",
    "allowed",
    "held",
    "denied",
    "asked",
    "answered",
    "done",
    "verified",
    "refuted",
    "failed",
    "moved",
    "closed",
]
ANSWERED: Mapping[str, Phase] = {"allow": "allowed", "hold": "held", "deny": "denied"}
ENDED: Mapping[str, Phase] = {"verified": "verified", "refuted": "refuted", "failed": "failed", "refused": "failed"}
"""What is neither was done, or only acted out, and nobody could see what came of it."""


class Misasked(X0tError):
    """A question that cannot be understood; ``details`` tell the parameter."""

    def __init__(self, parameter: str, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{parameter}: {message}", details={"parameter": parameter}, remedy=remedy)


class Unknown(X0tError):
    """Nothing of that name is known; the remedy names the nearest."""

    def __init__(self, what: str, name: str, names: Iterable[str]) -> None:
        asked = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
        super().__init__(f"there is no {what} {asked!r}", details={"name": asked}, remedy=near(name[:LONGEST], names))


class Summary(TypedDict):
    id: str
    subject: str
    fault: str
    state: str
    severity: str
    summary: str
    opened_at: str | None
    """When its first bout began; its place in a list, for ever."""
    onset_at: str | None
    """When its latest bout began."""
    updated_at: str | None
    closed_at: str | None
    ended: str
    """healed, recovered, aged out, or merged into another; empty while it is open."""
    reopened: int
    tries: int
    rung: str
    seconds_to_detect: float | None
    """From the onset of its first bout until an analyzer said so."""
    seconds_to_recover: float | None
    """From the onset of its latest bout until the healthy signs came back; null while it is open, and of one whose end
    nobody saw."""
    decision: Decided | None
    """Of open ones only."""


class Page(TypedDict):
    incidents: list[Summary]
    next: str | None
    """The cursor of the next page; null: this is the last."""
    open: int
    """How many are open now, whatever was asked for."""


class Passed(TypedDict):
    """Where its runbook came to."""

    at: str | None
    states: list[str]


class OnBook(TypedDict):
    name: str
    version: int
    hash: str
    path: list[Passed]


class Line(TypedDict):
    at: str | None
    phase: Phase
    kind: str
    """opened, found, moved, planned, decided, approval, intent, outcome or closed; altered, for what was changed on
    purpose about its subject or what that depends on; or verdict, for what people said of what was found."""
    text: str
    times: int
    """How often it was so, one after the other."""
    last_at: str | None
    """The last of those times."""
    data: dict[str, Any]


class PlannedStep(TypedDict):
    id: str
    action: str
    target: str
    args: dict[str, Any]
    timeout_seconds: float
    undo: str
    within_seconds: float | None
    """In which it has to prove itself; null: it proves nothing by itself."""
    hold_seconds: float | None


class Planned(TypedDict):
    id: str
    at: str | None
    runbook: str
    rung: str
    mode: str
    because: list[str]
    steps: list[PlannedStep]


class Story(Summary):
    because: list[str]
    over_when: list[str]
    """The signs that prove its end; empty: no probe can."""
    judged: HowJudged
    trace_id: str
    book: OnBook | None
    timeline: list[Line]
    left_out: str
    """What the timeline does not tell, in a sentence; empty: it tells everything that is remembered."""
    plans: list[Planned]
    approvals: list[Question]


class Action(TypedDict):
    step: str
    at: str | None
    subject: str
    target: str
    action: str
    result: str | None
    """Null while it is under way, or when the daemon died in the middle of it."""
    unknown: bool
    """It has ended, and nobody knows whether it was done."""
    incident: str
    plan: str
    runbook: str
    rung: str
    seconds: float | None
    """Until the healthy signs came back, else until it ended."""
    sentence: str


class History(TypedDict):
    actions: list[Action]
    next: str | None
    """What ``before`` has to say for the next page; null: this is the last."""


class Spread(TypedDict):
    count: int
    median_seconds: float | None
    p95_seconds: float | None


class Sums(TypedDict):
    incidents: int
    mttd: Spread
    """From the onset to the finding, of each incident's first bout."""
    mttr: Spread
    """From the onset to verified health, of what was healed by what was done about it."""
    ended: dict[str, int]
    """How many ended how; ``open``: not yet."""


class Overview(Sums):
    days: float
    since: str | None
    until: str | None
    steps: dict[str, int]
    """Actions by result; ``under way``: none yet."""
    by_fault: dict[str, Sums]
    left_out: str
    """What was not counted, in a sentence; empty: nothing."""


# -- the list ----------------------------------------------------------------------------------------------------------


async def incidents_page(
    loop: MAPEK,
    *,
    state: StateWord | None = None,
    subject: str | None = None,
    fault: str | None = None,
    severity: str | None = None,
    since: float | None = None,
    until: float | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page:
    """Newest first, by opening. ``since`` and ``until``: wall-clock seconds of the opening, the end not included.

    Every incident keeps its place, so going from cursor to cursor passes each one that was there at the beginning
    once, whatever is opened, closed or comes back meanwhile. Raises Misasked, StoreError.
    """
    wanted = _wanted(state, subject, fault, severity, since, until)
    before = place_of(cursor, "cursor")
    if not 1 <= limit <= PAGE:
        raise Misasked("limit", f"should be from 1 to {PAGE} (got {limit})")
    knowledge = loop.parts.knowledge
    # The loop's own are newer than those on disk: of these the store is not asked.
    mine = {i.id: i for i in loop.incidents.open}
    held = [i for i in mine.values() if fits(i, wanted) and (before is None or _place(i) < before)]
    stored = await _stored(loop, wanted, before, mine, limit)
    found = list(heapq.merge(sorted(held, key=_place, reverse=True), stored, key=_place, reverse=True))
    shown_ones = found[:limit]
    elsewhere = await knowledge.find_incidents(Wanted(OPEN_STATES), limit=ELSEWHERE, without=mine)
    milestones = await knowledge.milestones([i.id for i in shown_ones])
    decided = await knowledge.latest_decisions([i.id for i in shown_ones if i.state is not IncidentState.CLOSED])
    return {
        "incidents": [summary_of(i, milestones[i.id], decided.get(i.id)) for i in shown_ones],
        "next": _cursor(_place(shown_ones[-1])) if len(found) > limit else None,
        "open": len(mine) + sum(loop.incidents.known(i).state is not IncidentState.CLOSED for i in elsewhere),
    }


async def _stored(
    loop: MAPEK, wanted: Wanted, before: Place | None, mine: Mapping[str, Incident], limit: int
) -> list[Incident]:
    """Of those that the loop does not hold as open: at least one more than ``limit``, or all there are."""
    # One that has just been closed may still stand there as open, so the closed ones are told apart here.
    is_closed = wanted.states is not None and IncidentState.CLOSED in wanted.states
    asked = Wanted(None, *_rest(wanted)) if is_closed else wanted
    found: list[Incident] = []
    while len(found) <= limit:
        rows = await loop.parts.knowledge.find_incidents(asked, limit=limit + 1, before=before, without=mine)
        found += [known for row in rows if fits(known := loop.incidents.known(row), wanted)]
        if len(rows) <= limit:
            break
        before = _place(rows[-1])
    return found


def _rest(wanted: Wanted) -> tuple[Any, ...]:
    return (wanted.subject, wanted.fault, wanted.severity, wanted.since, wanted.until)


def fits(incident: Incident, wanted: Wanted) -> bool:
    return (
        (wanted.states is None or incident.state in wanted.states)
        and wanted.subject in (None, incident.subject)
        and wanted.fault in (None, incident.fault)
        and wanted.severity in (None, incident.severity)
        and (wanted.since is None or incident.opened_at >= wanted.since)
        and (wanted.until is None or incident.opened_at < wanted.until)
    )


def _wanted(
    state: str | None,
    subject: str | None,
    fault: str | None,
    severity: str | None,
    since: float | None,
    until: float | None,
) -> Wanted:
    states = {"open": OPEN_STATES} | {s.value: frozenset({s}) for s in IncidentState if s is not IncidentState.OPEN}
    if state is not None and state not in states:
        raise Misasked("state", f"no state is called {state[:LONGEST]!r}", remedy=near(state, states))
    if severity is not None and severity not in tuple(Severity):
        raise Misasked("severity", f"none is called {severity[:LONGEST]!r}", remedy=near(severity, Severity))
    for parameter, moment in (("since", since), ("until", until)):
        if moment is not None and not math.isfinite(moment):
            raise Misasked(parameter, f"should be a moment (got {moment})")
    return Wanted(
        None if state is None else states[state],
        subject,
        fault,
        None if severity is None else Severity(severity),
        since,
        until,
    )


def _place(incident: Incident) -> Place:
    return incident.opened_at, incident.id


def _cursor(place: Place) -> str:
    return urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode()).decode().rstrip("=")


def place_of(cursor: str | None, parameter: str) -> Place | None:
    """Where an earlier page ended; Misasked for what no page gave."""
    if cursor is None:
        return None
    try:
        if len(cursor) > LONGEST:
            raise ValueError("longer than any that was given out")
        at, id = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if isinstance(at, bool) or not isinstance(at, int | float) or not isinstance(id, str) or not math.isfinite(at):
            raise ValueError("no place")
        return float(at), id
    except (ValueError, TypeError, OverflowError) as error:
        raise Misasked(
            parameter, "is none that this daemon gave out", remedy="take `next` of the page before, or begin without it"
        ) from error


def summary_of(incident: Incident, milestones: Milestones, decision: Decision | None) -> Summary:
    """``decision`` is told of an open one only."""
    onset = incident.onset_at or incident.opened_at
    is_closed = incident.state is IncidentState.CLOSED
    lasted = well_at(incident, milestones.verified_at) - onset if is_closed and incident.ended not in UNSEEN else None
    found = milestones.found_at
    return {
        "id": incident.id,
        "subject": incident.subject,
        "fault": incident.fault,
        "state": incident.state.value,
        "severity": incident.severity.value,
        "summary": incident.summary,
        "opened_at": iso(incident.opened_at),
        "onset_at": iso(onset),
        "updated_at": iso(incident.updated_at),
        "closed_at": None if incident.closed_at is None else iso(incident.closed_at),
        "ended": incident.ended,
        "reopened": incident.reopened,
        "tries": incident.tries,
        "rung": incident.rung,
        "seconds_to_detect": None if found is None else _seconds(found - incident.opened_at),
        "seconds_to_recover": None if lasted is None else _seconds(lasted),
        "decision": None if decision is None or is_closed else decided(decision),
    }


def _seconds(value: float) -> float:
    """A clock that was set back lets nothing end before it began."""
    return round(max(0.0, value), 3)


# -- one incident ------------------------------------------------------------------------------------------------------


async def incident_of(loop: MAPEK, id: str) -> Incident:
    """As the loop knows it, else as it is on disk. Raises Unknown, StoreError."""
    mine = next((i for i in loop.incidents.open if i.id == id), None)
    found = mine or await loop.parts.knowledge.incident(id)
    if found is None:
        latest = await loop.parts.knowledge.incident_ids(limit=NAMES)
        raise Unknown("incident", id, {*latest, *(i.id for i in loop.incidents.open)})
    return loop.incidents.known(found)


async def story(loop: MAPEK, id: str, *, all_moves: bool = False) -> Story:
    """One incident from the first sign to the proof of its end. ``all_moves``: also what its runbook only says to
    itself, such as which rung comes next. Raises Unknown, StoreError.
    """
    knowledge, wall = loop.parts.knowledge, loop.parts.clock.wall()
    incident = await incident_of(loop, id)
    entries = await knowledge.story(id, latest=LINES + 1)
    kept, left_out = _latest(entries, id)
    told = called_off(kept)
    told = _with(told if all_moves else calm(told), await alterations_of(loop, incident))
    verdicts = await verdicts_on(knowledge, id)
    plans = await knowledge.plans(id, limit=PLANS)
    by_id = {plan.id: plan for plan in plans}
    planned_at = {str(e.data["plan"]): e.at for e in entries if e.kind == "planned"}
    asked = [as_it_stands(a, wall) for a in await knowledge.approvals(limit=PLANS, incident=id)]
    milestones = await knowledge.milestones([id])
    decided = await knowledge.latest_decisions([id])
    return {
        **summary_of(incident, milestones[id], decided.get(id)),
        "because": list(incident.because),
        "over_when": [str(sign) for sign in incident.healthy_when],
        "judged": how_judged(incident, verdicts),
        "trace_id": trace_id_of(id),
        "book": _book(incident, kept),
        "timeline": timeline(with_verdicts(told, verdicts), wall),
        "left_out": left_out,
        "plans": [planned(plan, planned_at.get(plan.id)) for plan in plans],
        "approvals": [question(a, by_id.get(a.plan)) for a in asked],
    }


def _latest(entries: Sequence[Entry], id: str) -> tuple[list[Entry], str]:
    """What can be told without a gap, and a sentence about what cannot."""
    counts = Counter(entry.kind for entry in entries)
    # Each kind was read back to its latest so many: before that moment the others tell half of the story.
    reaches = [
        next(e.at for e in entries if e.kind == kind)
        for kind, count in counts.items()
        if count > LINES and kind != "outcome"
    ]
    since = max(reaches, default=-math.inf)
    first = [e for e in entries if e.kind == "opened" and e.at <= since][:1]
    rest = [e for e in entries if e.at > since]
    if since == -math.inf and len(rest) <= LINES:
        return rest, ""
    if len(rest) > LINES:
        first, rest = first or [e for e in rest[:1] if e.kind == "opened"], rest[-LINES:]
    return [*first, *rest], (
        f"The latest {len(rest)} entries are told here; what was before {iso(rest[0].at)} is left out. "
        f"`x0tta6bl4 incidents {id} --moves` tells all of it."
    )


def _with(entries: Sequence[Entry], alterations: Sequence[Alteration]) -> list[Entry]:
    """The story, with what was changed on purpose in its place."""
    told = list(entries)
    for one in alterations[-MOST_ALTERED:]:
        data = {"subject": one.subject, "change": one.kind, "detail": one.detail, "who": one.who}
        place = next((n for n, entry in enumerate(told) if entry.at > one.at), len(told))
        told.insert(place, Entry(one.at, "altered", altered_words(one), data))
    return told


def _book(incident: Incident, entries: Sequence[Entry]) -> OnBook | None:
    place = incident.place.read() if isinstance(incident.place, Kept) else incident.place
    if not place.get("book"):
        return None
    path: list[Passed] = []
    for entry in entries:
        if entry.kind == "moved" and (not path or path[-1]["states"] != list(entry.data["states"])):
            path.append({"at": iso(entry.at), "states": list(entry.data["states"])})
    return {
        "name": str(place.get("name")),
        "version": int(place.get("version", 0)),
        "hash": str(place["book"]),
        "path": path,
    }


def planned(plan: Plan, at: float | None) -> Planned:
    return {
        "id": plan.id,
        "at": None if at is None else iso(at),
        "runbook": plan.rule,
        "rung": plan.rung,
        "mode": plan.mode,
        "because": list(plan.because),
        "steps": [
            {
                "id": step.id,
                "action": step.action,
                "target": step.target,
                "args": plain(step.args),
                "timeout_seconds": step.timeout,
                "undo": step.undo,
                "within_seconds": None if step.expect is None else step.expect.within,
                "hold_seconds": None if step.expect is None else step.expect.hold,
            }
            for step in plan.steps
        ],
    }


def timeline(entries: Iterable[Entry], wall: float) -> list[Line]:
    """What is the same as what stands right before it is counted there."""
    told: list[Line] = []
    for entry in _in_order(entries):
        line = _line(entry, wall)
        last = told[-1] if told else None
        if last is not None and all(last[key] == line[key] for key in ("phase", "kind", "text")):
            last["times"] += line["times"]
            last["last_at"], last["data"] = line["last_at"], line["data"]
        else:
            told.append(line)
    return told


BEFORE = {"planned": 0, "decided": 1, "intent": 2}
SAME_MOMENT = 1.0
"""Seconds within which a turn writes down what it planned, decided and began."""


def _in_order(entries: Iterable[Entry]) -> list[Entry]:
    """A turn writes its decision after the step has begun; told in that order, it would have acted and then asked."""
    told: list[Entry] = []
    for entry in entries:
        place = len(told)
        while place and _is_told_before(entry, told[place - 1]):
            place -= 1
        told.insert(place, entry)
    return told


def _is_told_before(entry: Entry, earlier: Entry) -> bool:
    return (
        entry.kind in BEFORE
        and earlier.kind in BEFORE
        and BEFORE[entry.kind] < BEFORE[earlier.kind]
        and entry.data["plan"] == earlier.data["plan"]
        and entry.at - earlier.at < SAME_MOMENT
    )


MOMENTS = ("since", "until", "expires", "verified_at")


def _line(entry: Entry, wall: float) -> Line:
    data = {key: plain(value) for key, value in entry.data.items() if key not in ("incident", "times", "last_at")}
    text = entry.text
    if entry.kind == "approval" and data["state"] == "wanted" and data["expires"] <= wall:
        data["state"] = "expired"  # the store is told of it at the next turn only
        text = f"expired{text.removeprefix('wanted')}"
    if entry.kind == "found":
        data["because"] = [_seen(fact) for fact in data["because"]]
    if entry.kind == "outcome":
        data["output"] = [redact_text(line, OUTPUT_WIDTH) for line in last_lines(data["output"], OUTPUT_LINES)]
    phase = _phase(entry.kind, data)
    for key in MOMENTS:
        if data.get(key) is not None:
            data[key] = iso(data[key])
    return {
        "at": iso(entry.at),
        "phase": phase,
        "kind": entry.kind,
        "text": text,
        "times": int(entry.data.get("times", 1)),
        "last_at": iso(entry.data.get("last_at", entry.at)),
        "data": data,
    }


def _phase(kind: str, data: Mapping[str, Any]) -> Phase:
    match kind:
        case "opened" | "altered":
            return "seen"
        case "found":
            return "judged"
        case "moved":
            return "moved"
        case "planned":
            return "planned"
        case "decided":
            return ANSWERED[data["answer"]]
        case "verdict":
            return "answered"
        case "approval":
            return "answered" if data["state"] in ("approved", "rejected") else "asked"
        case "intent":
            return "done"
        case "outcome":
            return ENDED.get(data["result"], "done")
        case _:
            return "closed"


def last_lines(output: str, most: int) -> list[str]:
    return output.strip().splitlines()[-most:]


def _seen(fact: Mapping[str, Any]) -> str:
    """One of a finding's reasons, as the incident's own are worded."""
    detail = f": {fact['detail']}" if fact["detail"] else ""
    if "metric" in fact:
        return f"{fact['metric']} is {shown(fact['metric'], float(fact['value']))}{detail} (seen by {fact['source']})"
    return f"{fact['kind']}{detail} (told by {fact['source']})"


# -- what was done -----------------------------------------------------------------------------------------------------


async def history(loop: MAPEK, *, subject: str | None = None, limit: int = 50, before: str | None = None) -> History:
    """Actions, newest first: all, or those about a subject and on it as a target. Raises Misasked, StoreError."""
    place = place_of(before, "before")
    if not 1 <= limit <= PAGE:
        raise Misasked("limit", f"should be from 1 to {PAGE} (got {limit})")
    deeds = await loop.parts.knowledge.deeds(subject, limit=limit + 1, before=place)
    told = deeds[:limit]
    last = told[-1].record if told else None
    return {
        "actions": [_action(deed) for deed in told],
        "next": _cursor((last.at, last.step_id)) if last is not None and len(deeds) > limit else None,
    }


def _action(deed: Deed) -> Action:
    record = deed.record
    ended_at = deed.verified_at or record.ended_at
    said = "not ended yet" if record.result is None else f"{record.result.value}: {deed.detail}"
    return {
        "step": record.step_id,
        "at": iso(record.at),
        "subject": record.subject,
        "target": record.target,
        "action": record.action,
        "result": None if record.result is None else record.result.value,
        "unknown": record.unknown,
        "incident": record.incident,
        "plan": deed.plan,
        "runbook": deed.rule,
        "rung": record.rung,
        "seconds": None if ended_at is None else _seconds(ended_at - record.at),
        "sentence": f"{record.action} on {record.target}: {said}",
    }


# -- the sums ----------------------------------------------------------------------------------------------------------


async def summary(loop: MAPEK, days: float = 7.0) -> Overview:
    """How soon trouble was found and healed, and how it ended, of what was opened in the last days.

    Raises Misasked, StoreError.
    """
    if not 0 < days <= DAYS:
        raise Misasked("days", f"should be more than 0 and at most {DAYS:g} (got {days:g})")
    knowledge, wall = loop.parts.knowledge, loop.parts.clock.wall()
    since = wall - days * 86400.0
    courses: list[Course] = []
    rows, place = await knowledge.courses(since, limit=AT_A_TIME), None
    while rows and len(courses) < COUNTED:
        courses += rows
        place = (rows[-1].opened_at, rows[-1].id)
        rows = await knowledge.courses(since, limit=AT_A_TIME, before=place)
    results = await knowledge.results(since)
    by_fault: dict[str, list[Course]] = {}
    for course in courses:
        by_fault.setdefault(course.fault, []).append(course)
    return {
        "days": days,
        "since": iso(since),
        "until": iso(wall),
        **_sums(courses),
        "steps": {"under way" if r is None else r.value: count for r, count in sorted(results.items(), key=str)},
        "by_fault": {fault: _sums(told) for fault, told in sorted(by_fault.items())},
        "left_out": f"Only the latest {len(courses)} incidents are counted." if rows else "",
    }


def _sums(courses: Sequence[Course]) -> Sums:
    found = [c.found_at - c.opened_at for c in courses if c.found_at is not None]
    closed = [c for c in courses if c.state is IncidentState.CLOSED]
    healed = [c.verified_at - c.onset_at for c in closed if c.verified_at is not None]
    ended = Counter("open" if c.state is not IncidentState.CLOSED else c.ended or "closed" for c in courses)
    return {
        "incidents": len(courses),
        "mttd": spread(found),
        "mttr": spread(healed),
        "ended": dict(sorted(ended.items())),
    }


def spread(values: Iterable[float]) -> Spread:
    ordered = sorted(max(0.0, value) for value in values)
    if not ordered:
        return {"count": 0, "median_seconds": None, "p95_seconds": None}
    return {
        "count": len(ordered),
        "median_seconds": round(median(ordered), 3),
        "p95_seconds": round(ordered[math.ceil(0.95 * len(ordered)) - 1], 3),
    }


# -- kept answers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Encoded:
    """An answer as it goes out."""

    body: bytes
    etag: str
    """Strong, in its quotes."""


@dataclass(slots=True)
class _Making:
    """One answer that is being made, for all who wait for it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    begun: int = 0
    made: Encoded | None = None


class Listing:
    """Answers that are asked for again and again, kept as long as nothing has changed that they tell of.

    Nothing is told that was not so at some moment after it was asked. Many who ask the same at once get one answer.
    """

    def __init__(self, bodies: int = BODIES, room: int = BYTES) -> None:
        self._bodies = bodies
        self._room = room
        self._kept: OrderedDict[Hashable, Encoded] = OrderedDict()
        self._taken = 0
        """Bytes of all that are kept."""
        self._loop: MAPEK | None = None
        self._version = (-1, -1)
        self._open: tuple[Incident, ...] = ()
        self._age = 0
        """Rises whenever what was kept is not so any more."""
        self._begun = 0
        self._making: dict[Hashable, _Making] = {}
        self._sums: dict[float, tuple[MAPEK, float, Encoded]] = {}

    async def incidents(
        self,
        loop: MAPEK,
        *,
        state: StateWord | None = None,
        subject: str | None = None,
        fault: str | None = None,
        severity: str | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Encoded:
        """See ``incidents_page``."""
        return await self.told(
            loop,
            ("incidents", state, subject, fault, severity, since, until, limit, cursor),
            lambda: incidents_page(
                loop,
                state=state,
                subject=subject,
                fault=fault,
                severity=severity,
                since=since,
                until=until,
                limit=limit,
                cursor=cursor,
            ),
        )

    async def summary(self, loop: MAPEK, days: float = 7.0) -> Encoded:
        """See ``summary``; the longer it takes to make, the older it may be: summing up must not be all it does."""
        clock = loop.parts.clock
        kept = self._sums.get(days)
        if kept is not None and kept[0] is loop and clock.monotonic() < kept[1]:
            return kept[2]
        began = clock.monotonic()
        made = await self.told(loop, ("summary", days, clock.wall() // MINUTE), lambda: summary(loop, days))
        ended = clock.monotonic()
        if len(self._sums) >= SUMS_KEPT:
            self._sums.clear()
        self._sums[days] = loop, ended + min(MINUTE, SUMS_SHARE * (ended - began)), made
        return made

    async def told(self, loop: MAPEK, key: Hashable, make: Callable[[], Awaitable[Mapping[str, Any]]]) -> Encoded:
        """What ``make`` says, or has said; it may rest on the store and the loop's open incidents only. Raises what it
        raises, and StoreError.
        """
        found = self._find(loop, key)
        if found is not None:
            return found
        asked = self._begun
        making = self._making.setdefault(key, _Making())
        making.waiting += 1
        try:
            async with making.lock:
                if making.made is not None and making.begun > asked:
                    return making.made  # begun after this one was asked for, so it is new enough, whatever came since
                found = self._find(loop, key)
                if found is None:
                    self._begun += 1
                    making.begun, age = self._begun, self._age
                    found = making.made = _encoded(await make())
                    if age == self._age:
                        self._keep(key, found)
                return found
        finally:
            making.waiting -= 1
            if not making.waiting and self._making.get(key) is making:
                del self._making[key]

    def _find(self, loop: MAPEK, key: Hashable) -> Encoded | None:
        version, open_ones = loop.parts.knowledge.version(), loop.incidents.open
        # Incidents are never changed, only replaced, so that another object is all there is to ask about.
        is_same = (
            loop is self._loop
            and version == self._version
            and len(open_ones) == len(self._open)
            and all(map(is_, open_ones, self._open))
        )
        if not is_same:
            self._loop, self._version, self._open = loop, version, tuple(open_ones)
            self._age += 1
            self._kept.clear()
            self._taken = 0
            return None
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def _keep(self, key: Hashable, made: Encoded) -> None:
        self._kept[key] = made
        self._taken += len(made.body)
        while len(self._kept) > self._bodies or self._taken > self._room:
            _, oldest = self._kept.popitem(last=False)
            self._taken -= len(oldest.body)


def _encoded(value: Mapping[str, Any]) -> Encoded:
    body = json.dumps(plain(value), separators=(",", ":"), allow_nan=False).encode("ascii")
    return Encoded(body, f'"{blake2b(body, digest_size=12).hexdigest()}"')
