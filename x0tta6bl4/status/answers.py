"""Tells people what waits for their approval, with all that speaks for and against it, and hands on their answers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from typing_extensions import TypedDict

from x0tta6bl4.kernel.errors import StepRefused
from x0tta6bl4.kernel.facts import Answer, Incident, IncidentState, Plan, Step, Verdict
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.kernel.memory import Approval, Decision, Knowledge
from x0tta6bl4.kernel.supervise import Failure, guarded
from x0tta6bl4.status.report import iso

PREVIEW_WITHIN = 2.0
"""Seconds for the sentence about one step; a question without it is better than none."""
MOST_LISTED = 100
DECISIONS_READ = 50
"""Decisions of a subject among which those about a plan are looked for."""


class Question(TypedDict):
    plan: str
    state: Literal["wanted", "approved", "rejected", "expired"]
    incident: str
    subject: str | None
    fault: str | None
    steps: list[str]
    who: str
    why: str
    at: str | None
    expires: str | None


class Questions(TypedDict):
    approvals: list[Question]


class StepTold(TypedDict):
    action: str
    target: str
    args: dict[str, Any]
    timeout: float
    preview: str | None
    """What would be done, in a sentence."""
    refused: str
    """Why it could not be done; empty: it can."""


class VerdictTold(TypedDict):
    check: str
    answer: str
    sentence: str
    until: str | None


class DecisionTold(TypedDict):
    at: str | None
    check: str
    answer: str
    sentence: str


class QuestionTold(TypedDict):
    plan: str
    state: Literal["wanted", "approved", "rejected", "expired"]
    incident: dict[str, Any]
    subject: str | None
    fault: str | None
    steps: list[StepTold]
    who: str
    why: str
    at: str | None
    expires: str | None
    moot: str
    """Why no answer could have an effect any more; empty while one can."""
    reasons: list[str]
    decided: list[DecisionTold]
    guard: list[VerdictTold]


# -- what is asked -----------------------------------------------------------------------------------------------------


def as_it_stands(approval: Approval, wall: float) -> Approval:
    """The store is told of an expiry at the next turn only; whoever asks is told at once."""
    return replace(approval, state="expired") if approval.state == "wanted" and approval.expires <= wall else approval


async def approval_of(knowledge: Knowledge, plan: str) -> Approval | None:
    # The open ones first: they must be found, however many were asked and answered after them.
    found = [*await knowledge.approvals("wanted", limit=1000), *await knowledge.approvals(limit=1000)]
    return next((approval for approval in found if approval.plan == plan), None)


async def listed(loop: MAPEK, state: str) -> list[Question]:
    """Newest first. ``state``: only those; empty for all."""
    knowledge, wall = loop.parts.knowledge, loop.parts.clock.wall()
    # The open ones are few and must all be there; of the others the latest do.
    read = await knowledge.approvals("wanted" if state == "wanted" else None, limit=1000)
    found = [as_it_stands(a, wall) for a in read]
    told = []
    for approval in [a for a in found if state in ("", a.state)][:MOST_LISTED]:
        told.append(summary(approval, await knowledge.plan(approval.plan)))
    return told


def summary(approval: Approval, plan: Plan | None) -> Question:
    return {
        "plan": approval.plan,
        "state": approval.state,
        "incident": approval.incident,
        "subject": plan.subject if plan is not None else None,
        "fault": plan.fault if plan is not None else None,
        "steps": [f"{step.action} on {step.target}" for step in plan.steps] if plan is not None else [],
        "who": approval.who,
        "why": approval.why,
        "at": iso(approval.at),
        "expires": iso(approval.expires),
    }


async def detail(loop: MAPEK, approval: Approval) -> QuestionTold:
    """All that a person should know before answering."""
    knowledge = loop.parts.knowledge
    plan, incident = await knowledge.plan(approval.plan), await knowledge.incident(approval.incident)
    said = await _decisions(knowledge, plan)
    about: dict[str, Any] = {"id": approval.incident}
    if incident is not None:
        about |= {
            "state": incident.state.value,
            "severity": incident.severity.value,
            "summary": incident.summary,
            "because": list(incident.because),
            "onset_at": iso(incident.onset_at or incident.opened_at),
        }
    short = summary(approval, plan)
    return {
        "plan": short["plan"],
        "state": short["state"],
        "incident": about,
        "subject": short["subject"],
        "fault": short["fault"],
        "steps": [await _step(loop, step) for step in plan.steps] if plan is not None else [],
        "who": short["who"],
        "why": short["why"],
        "at": short["at"],
        "expires": short["expires"],
        "moot": moot(approval, incident, said),
        "reasons": list(plan.because) if plan is not None else [],
        "decided": [
            {"at": iso(d.at), "check": d.check, "answer": d.answer.value, "sentence": d.sentence}
            for d in said
            if d.plan == approval.plan
        ],
        "guard": _guard(loop, plan, approval),
    }


def _guard(loop: MAPEK, plan: Plan | None, approval: Approval) -> list[VerdictTold]:
    # An incident of the loop's own is newer than the one on disk; the store's is told of while no loop runs.
    current = next((i for i in loop.incidents.open if i.id == approval.incident), None)
    if plan is None or current is None or approval.state not in ("wanted", "approved"):
        return []
    return [
        {
            "check": v.check,
            "answer": v.answer.value,
            "sentence": v.sentence,
            "until": None if v.until is None else iso(v.until),
        }
        for v in _judged(loop, plan, current)
    ]


def moot(approval: Approval, incident: Incident | None, said: Sequence[Decision]) -> str:
    """Why no answer to the question could have an effect any more; empty while one can."""
    if approval.state not in ("wanted", "approved"):
        return ""
    if incident is not None and incident.state is IncidentState.CLOSED:
        return f"the incident is over ({incident.ended or 'closed'}): nothing is left to be approved"
    latest = next((d for d in said if d.incident == approval.incident and d.plan), None)
    if latest is not None and latest.plan != approval.plan:
        return f"something else is considered for the incident by now: {latest.action} on {latest.target}"
    return ""


async def whether_moot(loop: MAPEK, approval: Approval) -> str:
    knowledge = loop.parts.knowledge
    plan, incident = await knowledge.plan(approval.plan), await knowledge.incident(approval.incident)
    return moot(approval, incident, await _decisions(knowledge, plan))


async def _decisions(knowledge: Knowledge, plan: Plan | None) -> list[Decision]:
    return await knowledge.decisions(plan.subject, limit=DECISIONS_READ) if plan is not None else []


async def _step(loop: MAPEK, step: Step) -> StepTold:
    told: StepTold = {
        "action": step.action,
        "target": step.target,
        "args": dict(step.args),
        "timeout": step.timeout,
        "preview": None,
        "refused": "",
    }
    try:
        executor, _ = loop.parts.catalogue.find(step.action)
    except StepRefused as refused:
        told["refused"] = str(refused)
        return told
    sentence = await guarded(lambda: executor.preview(step), PREVIEW_WITHIN)
    if isinstance(sentence, Failure):
        told["refused"] = sentence.message
    else:
        told["preview"] = sentence
    return told


def _judged(loop: MAPEK, plan: Plan, incident: Incident) -> tuple[Verdict, ...]:
    """Every check's answer as of now, those behind the one that waits for the person too."""
    try:
        return loop.guard.judge_all(loop.responder.case(plan, plan.steps[0], incident))
    except StepRefused as refused:
        return (Verdict("catalogue", Answer.DENY, str(refused)),)


# -- the answer --------------------------------------------------------------------------------------------------------


async def hand_on(loop: MAPEK, plan: str, approve: bool, who: str, why: str) -> Approval | None:
    """Writes the answer and tells the loop, which does not look at what its own process wrote.

    Whatever the answer is, the loop asks its guard and the world again before anything is done.
    """
    answered = await loop.parts.knowledge.answer_approval(plan, approve, who, why)
    if answered is not None:
        loop.standing.approvals[plan] = answered
        loop.wake({incident.subject for incident in loop.incidents.open if incident.id == answered.incident})
    return answered
