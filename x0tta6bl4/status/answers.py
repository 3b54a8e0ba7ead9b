"""Tells people what waits for their approval, with all that speaks for and against it, and hands on their answers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

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


# -- what is asked -----------------------------------------------------------------------------------------------------


def as_it_stands(approval: Approval, wall: float) -> Approval:
    """The store is told of an expiry at the next turn only; whoever asks is told at once."""
    return replace(approval, state="expired") if approval.state == "wanted" and approval.expires <= wall else approval


async def approval_of(knowledge: Knowledge, plan: str) -> Approval | None:
    # The open ones first: they must be found, however many were asked and answered after them.
    found = [*await knowledge.approvals("wanted", limit=1000), *await knowledge.approvals(limit=1000)]
    return next((approval for approval in found if approval.plan == plan), None)


async def listed(loop: MAPEK, state: str) -> list[dict[str, Any]]:
    """Newest first. ``state``: only those; empty for all."""
    knowledge, wall = loop.parts.knowledge, loop.parts.clock.wall()
    # The open ones are few and must all be there; of the others the latest do.
    read = await knowledge.approvals("wanted" if state == "wanted" else None, limit=1000)
    found = [as_it_stands(a, wall) for a in read]
    told = []
    for approval in [a for a in found if state in ("", a.state)][:MOST_LISTED]:
        told.append(summary(approval, await knowledge.plan(approval.plan)))
    return told


def summary(approval: Approval, plan: Plan | None) -> dict[str, Any]:
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


async def detail(loop: MAPEK, approval: Approval) -> dict[str, Any]:
    """All that a person should know before answering."""
    knowledge = loop.parts.knowledge
    plan, incident = await knowledge.plan(approval.plan), await knowledge.incident(approval.incident)
    told = summary(approval, plan)
    said = await _decisions(knowledge, plan)
    told["moot"] = moot(approval, incident, said)
    told["incident"] = {"id": approval.incident} | (
        {
            "state": incident.state.value,
            "severity": incident.severity.value,
            "summary": incident.summary,
            "because": list(incident.because),
            "onset_at": iso(incident.onset_at or incident.opened_at),
        }
        if incident is not None
        else {}
    )
    told["reasons"] = list(plan.because) if plan is not None else []
    told["steps"] = [await _step(loop, step) for step in plan.steps] if plan is not None else []
    told["decided"] = [
        {"at": iso(d.at), "check": d.check, "answer": d.answer.value, "sentence": d.sentence}
        for d in said
        if d.plan == approval.plan
    ]
    # An incident of the loop's own is newer than the one on disk; the store's is told of while no loop runs.
    current = next((i for i in loop.incidents.open if i.id == approval.incident), None)
    told["guard"] = (
        [
            {"check": v.check, "answer": v.answer.value, "sentence": v.sentence, "until": v.until and iso(v.until)}
            for v in _judged(loop, plan, current)
        ]
        if plan is not None and current is not None and approval.state in ("wanted", "approved")
        else []
    )
    return told


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


async def _step(loop: MAPEK, step: Step) -> dict[str, Any]:
    told: dict[str, Any] = {
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
        return told | {"refused": str(refused)}
    sentence = await guarded(lambda: executor.preview(step), PREVIEW_WITHIN)
    return told | ({"refused": sentence.message} if isinstance(sentence, Failure) else {"preview": sentence})


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
