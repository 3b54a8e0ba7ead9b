"""Says why something was done about a target, or was not: how it is, what is wrong, what was planned, held and done."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from typing_extensions import TypedDict

from x0tta6bl4.kernel.facts import Answer, Incident, Plan
from x0tta6bl4.kernel.lessons import Lesson
from x0tta6bl4.kernel.loop import ASKING, MAPEK
from x0tta6bl4.kernel.memory import Approval, Decision, Entry, Knowledge, Pause, plain
from x0tta6bl4.kernel.subjects import subject_of
from x0tta6bl4.kernel.summary import describe
from x0tta6bl4.observability.redaction import redact_text
from x0tta6bl4.runbooks.score import BOUND, in_plain, scores
from x0tta6bl4.runbooks.stand import Stand, stand_of
from x0tta6bl4.status.answers import Question, as_it_stands
from x0tta6bl4.status.answers import summary as question
from x0tta6bl4.status.face import Condition
from x0tta6bl4.status.judgements import HowJudged, SeriesTold, how_judged, nearest, verdicts_on
from x0tta6bl4.status.report import iso
from x0tta6bl4.status.stories import (
    DAYS,
    LINES,
    OUTPUT_LINES,
    OUTPUT_WIDTH,
    Misasked,
    Planned,
    Summary,
    Unknown,
    incident_of,
    last_lines,
    planned,
    summary_of,
)

LATEST = 20
"""Actions of an incident that are told, the latest; the whole story has the others."""

REMEDIES: Mapping[tuple[str, str], str] = {
    (
        "kill switch",
        "deny",
    ): "`x0tta6bl4 flags auto_healing on` lets it act; if the journal cannot be written, see that "
    "the state directory is writable and has space left",
    ("precondition", "deny"): "nothing: the symptom was gone when it was looked at again",
    ("maintenance", "hold"): "wait for its end, or end a pause with `x0tta6bl4 resume`; windows stand in "
    "guard.maintenance",
    ("other healers", "hold"): "nothing: something else is healing it already, and two would be in each other's way",
    ("other healers", "deny"): "start it again yourself when it is wanted (for a unit: `systemctl start`)",
    ("allowlist", "deny"): "add {action} to guard.allow in the configuration and reload the daemon (SIGHUP), or do it "
    "yourself",
    ("mode", "hold"): "`x0tta6bl4 approve {plan}` or `x0tta6bl4 reject {plan}`",
    ("mode", "deny"): "do it yourself, or give {subject} the mode approve or auto in the configuration and reload the "
    "daemon (SIGHUP)",
    ("backoff", "hold"): "nothing: it tries again by itself then; mend the cause if you know it",
    ("variety", "hold"): "look yourself: the same step does not help here",
    (
        "budget",
        "hold",
    ): "mend the cause (the outcomes below say what failed); where it cannot wait, raise guard.per_target, per_kind or "
    "per_group and reload the daemon (SIGHUP)",
    ("share", "hold"): "nothing: its turn comes when the others are done; the limit stands in guard.share",
    (
        "storm brake",
        "hold",
    ): "look for what so many faults have in common (host, network, a deploy); then it goes on by itself",
    ("circuit", "hold"): "try {action} by hand: it fails wherever it is tried",
    ("dependency", "hold"): "see why what it depends on is not well: `x0tta6bl4 why` it",
    ("runbook", "hold"): "nothing, unless you know better: `x0tta6bl4 tell {incident}` lists the events it listens to",
    ("planner", "deny"): "write a rule for it (runbooks, rules_dirs), or mend it yourself",
    ("catalogue", "deny"): "mend the rule: no executor offers that action",
}
"""What a person can do about a guard's answer; the answer's own sentence says what it means."""


class HowItIs(TypedDict):
    name: str
    kind: str
    mode: str
    state: str
    """well, unknown, failing, treated, recovering, or the fault's name."""
    since: str | None
    summary: str


class PauseTold(TypedDict):
    target: str
    kind: str
    reason: str
    who: str
    since: str | None
    until: str | None


class ConditionTold(TypedDict):
    code: str
    title: str
    meaning: str
    severity: str
    since: str | None


class TimerTold(TypedDict):
    what: str
    at: str | None
    leads_to: list[str]


class DoingTold(TypedDict):
    state: str
    what: str
    under_way: bool
    tries: int
    not_before: str | None


class HeardTold(TypedDict):
    """An event that nobody has taken yet."""

    event: str
    who: str
    at: str | None


class StandTold(TypedDict):
    """Where it stands on its runbook."""

    runbook: str
    version: int
    hash: str
    states: list[str]
    ended: bool
    doing: list[DoingTold]
    timers: list[TimerTold]
    taking_back: list[str]
    can_take_back: list[str]
    begins_anew_at: str | None
    notes: list[str]
    inbox: list[HeardTold]
    hears: dict[str, str]
    """Event from outside: what keeps it from being taken now; empty: nothing."""
    trouble: str
    """Why no more can be said of it; empty: nothing is missing."""


class Standing(TypedDict):
    """The guard's standing answer."""

    at: str | None
    check: str
    answer: Literal["allow", "hold", "deny"]
    sentence: str
    until: str | None
    plan: str
    action: str
    target: str
    remedy: str
    """What a person can do about it; empty: there is nothing to say."""


class Done(TypedDict):
    at: str | None
    action: str
    target: str
    step: str
    plan: str
    runbook: str
    rung: str
    only_asks: bool
    """It was done so that a person may decide, and not by the runbook's own will."""
    approved_by: str
    result: str | None
    """Null: it is under way, or waits to be proved."""
    seconds: float | None
    detail: str
    proof: list[str]
    output: list[str]
    """The last lines that it printed."""


class CaseTold(TypedDict):
    incident: Summary
    because: list[str]
    over_when: list[str]
    """The signs that prove its end; empty: no probe can."""
    plan: Planned | None
    decision: Standing | None
    stand: StandTold | None
    judged: HowJudged
    actions: list[Done]
    earlier_actions: int
    """How many were done before those."""
    approvals: list[Question]


class Why(TypedDict):
    target: str
    subject: str
    now: HowItIs | None
    """Null: it is not watched any more."""
    seen_at: str | None
    auto_healing: bool
    flags: dict[str, bool]
    pauses: list[PauseTold]
    """Those in force that this subject is under."""
    conditions: list[ConditionTold]
    """What is wrong with the daemon itself."""
    incidents: list[CaseTold]
    last_incident: CaseTold | None
    """What was wrong with it last, where nothing is now."""
    nearest: list[SeriesTold]
    """Where nothing is wrong: the series that are nearest to a finding, as far as anything was learnt of them."""


class ProposalTold(TypedDict):
    subject: str
    allow: list[str]
    lines: list[str]
    """What to write into the configuration."""


class JudgedTold(TypedDict):
    at: str | None
    incident: str
    subject: str
    fault: str
    rung: str
    actions: list[str]
    target: str
    stopped_by: str
    judgement: Literal["right", "needless", "harmful", "unknown"]
    why: str


class RuleScore(TypedDict):
    rule: str
    suggestions: int
    right: int
    needless: int
    harmful: int
    unknown: int
    right_at_least: float
    """So large, at least, is the share of right ones, to one-sided 95 %."""
    missing: str
    """What is missing before acting is proposed; empty: nothing."""
    proposals: list[ProposalTold]
    cases: list[JudgedTold]


class ScoreBoard(TypedDict):
    days: float
    since: str | None
    bound: float
    rules: list[RuleScore]


# -- one incident with all that the answer needs -----------------------------------------------------------------------


class Case:
    """One incident with everything about it that the answer needs."""

    def __init__(
        self,
        incident: Incident,
        story: Sequence[Entry],
        decision: Decision | None,
        plans: Mapping[str, Plan],
        approvals: Mapping[str, Approval],
        stand: Stand | None,
        verdicts: Sequence[Lesson] = (),
    ) -> None:
        self.incident = incident
        self.story = story
        self.decision = decision
        self.plans = plans
        self.approvals = approvals
        self.stand = stand
        self.verdicts = verdicts
        """What people said of what was found, oldest first."""

    @property
    def latest_plan(self) -> Plan | None:
        """The plan that the guard spoke of last. The store has it once it was begun or a person was asked about it."""
        decision = self.latest_decision
        if decision is not None and decision.plan:
            return self.plans.get(decision.plan)
        wanted = [plan for plan in self.plans.values() if not _only_asks(plan)]
        return wanted[-1] if wanted else None

    @property
    def onset(self) -> float:
        return self.incident.onset_at or self.incident.opened_at

    @property
    def actions(self) -> list[tuple[Entry, Entry | None]]:
        """Each intent with its outcome, oldest first."""
        ends = {e.data.get("step"): e for e in self.story if e.kind == "outcome"}
        return [(e, ends.get(e.data.get("step"))) for e in self.story if e.kind == "intent"]

    @property
    def latest_decision(self) -> Decision | None:
        """The guard's standing answer. What it allowed and what then had its outcome stands no longer, nor does what it
        said before another plan was begun, or before the incident came back. Letting people know of the answer is no
        other plan."""
        decision = self.decision
        if decision is None or decision.at < self.onset:
            return None
        if any(
            begun.at > decision.at
            if begun.data.get("plan") != decision.plan
            else decision.answer is Answer.ALLOW and ended is not None
            for begun, ended in self.actions
            if not self.only_asks(begun)
        ):
            return None
        return decision

    def only_asks(self, begun: Entry) -> bool:
        """Whether it was done so that a person may decide, and not by the runbook's own will."""
        plan = self.plans.get(str(begun.data.get("plan")))
        return plan is not None and _only_asks(plan)


def _only_asks(plan: Plan) -> bool:
    """A rung of a runbook may have that name too; the loop's own message has it in its id besides."""
    return plan.rung == ASKING and f"-{ASKING}" in plan.id


async def case_of(knowledge: Knowledge, incident: Incident, now: float, latest: int | None = None) -> Case:
    """``now``: wall-clock seconds. ``latest``: how much of its story is read, of each kind; None: all."""
    story = await knowledge.story(incident.id, latest)
    said = await knowledge.latest_decisions([incident.id])
    kept = {plan.id: plan for plan in await knowledge.plans(incident.id, latest)}
    # In the order in which they were first spoken of, which is not always that in which they were kept.
    spoken_of = dict.fromkeys(str(e.data["plan"]) for e in story if e.data.get("plan"))
    plans = {id: kept[id] for id in spoken_of if id in kept}
    approvals = {a.plan: a for a in await knowledge.approvals(limit=1000, incident=incident.id) if a.plan in plans}
    stand = await stand_of(knowledge, incident, now)
    verdicts = await verdicts_on(knowledge, incident.id)
    return Case(incident, story, said.get(incident.id), plans, approvals, stand, verdicts)


def remedy(decision: Decision) -> str:
    """What a person can do about it; empty when there is nothing to say."""
    text = REMEDIES.get((decision.check, decision.answer.value), "")
    if decision.check == "variety" and decision.action.startswith("notify."):
        text = "look yourself: nothing that the daemon may do helps here"
    if decision.check == "dependency":
        # The sentence names it: "waits for its dependency: NAME is dead"
        name = decision.sentence.partition("dependency: ")[2].partition(" ")[0]
        text = text.replace("`x0tta6bl4 why` it", f"`x0tta6bl4 why {name}`") if name else text
    if decision.check == "mode" and decision.sentence.startswith("rejected"):
        text = "do it yourself; the plan was rejected and is not asked for again"
    return (
        text.replace("{action}", decision.action or "the action")
        .replace("{plan}", decision.plan or "PLAN")
        .replace("{subject}", decision.subject)
        .replace("{incident}", decision.incident)
    )


# -- why ---------------------------------------------------------------------------------------------------------------


async def why(loop: MAPEK, target: str, conditions: Sequence[Condition] = ()) -> Why:
    """``target``: a subject, or an incident's id. ``conditions``: the daemon's own, which the loop does not know.

    Raises Unknown, StoreError.
    """
    knowledge, wall = loop.parts.knowledge, loop.parts.clock.wall()
    if target.startswith("inc-"):
        found = [await incident_of(loop, target)]
        subject, last = found[0].subject, None
    else:
        subject = target
        found = sorted(loop.incidents.of_subject(subject), key=lambda i: (i.opened_at, i.id))
        beside = loop.incidents.beside(subject)
        if beside is not None and beside[1] is not None and beside[1] not in found:
            found.append(beside[1])  # what is found of it is a part of another's trouble
        last = None if found else await knowledge.closed_last(subject)
    now = _how_it_is(loop, subject)
    if now is None and not found and last is None:
        names = {*loop.parts.sight.subjects, *await knowledge.incident_subjects()}
        raise Unknown("subject or incident", target, names)
    return {
        "target": target,
        "subject": subject,
        "now": now,
        "seen_at": iso(wall),
        "auto_healing": loop.parts.flags.is_enabled("auto_healing"),
        "flags": loop.parts.flags.as_dict(),
        "pauses": [_pause(p) for p in loop.standing.pauses if p.until > wall and fnmatchcase(subject, p.target)],
        "conditions": [_condition(condition) for condition in conditions],
        "incidents": [await _case(loop, incident) for incident in found],
        "last_incident": None if last is None else await _case(loop, loop.incidents.known(last)),
        "nearest": [] if found else nearest(loop, subject),
    }


def _how_it_is(loop: MAPEK, name: str) -> HowItIs | None:
    sight, clock = loop.parts.sight, loop.parts.clock
    if name not in sight.subjects and not sight.about(name) and not loop.incidents.of_subject(name):
        return None
    now, wall = clock.monotonic(), clock.wall()
    subject, how = subject_of(sight.subjects, name), describe(sight, loop.incidents, name, now)
    return {
        "name": name,
        "kind": subject.kind,
        "mode": subject.mode,
        "state": how.state,
        "since": iso(wall - max(0.0, now - how.since)),
        "summary": how.summary,
    }


def _pause(pause: Pause) -> PauseTold:
    return {
        "target": pause.target,
        "kind": pause.kind,
        "reason": pause.reason,
        "who": pause.who,
        "since": iso(pause.since),
        "until": iso(pause.until),
    }


def _condition(condition: Condition) -> ConditionTold:
    return {
        "code": condition.code,
        "title": condition.title,
        "meaning": condition.meaning,
        "severity": condition.severity,
        "since": iso(condition.since),
    }


async def _case(loop: MAPEK, incident: Incident) -> CaseTold:
    knowledge, wall = loop.parts.knowledge, loop.parts.clock.wall()
    case = await case_of(knowledge, incident, wall, LINES)
    milestones = await knowledge.milestones([incident.id])
    plan, decision, actions = case.latest_plan, case.latest_decision, case.actions
    planned_at = {str(e.data["plan"]): e.at for e in case.story if e.kind == "planned"}
    return {
        "incident": summary_of(incident, milestones[incident.id], case.decision),
        "because": list(incident.because),
        "over_when": [str(sign) for sign in incident.healthy_when],
        "plan": None if plan is None else planned(plan, planned_at.get(plan.id)),
        "decision": None if decision is None else _standing(decision),
        "stand": None if case.stand is None else _stand(case.stand),
        "judged": how_judged(incident, case.verdicts),
        "actions": [_done(case, begun, ended) for begun, ended in actions[-LATEST:]],
        "earlier_actions": max(0, len(actions) - LATEST),
        "approvals": [question(as_it_stands(a, wall), case.plans[a.plan]) for a in case.approvals.values()],
    }


def _standing(decision: Decision) -> Standing:
    return {
        "at": iso(decision.at),
        "check": decision.check,
        "answer": decision.answer.value,
        "sentence": decision.sentence,
        "until": None if decision.until is None else iso(decision.until),
        "plan": decision.plan,
        "action": decision.action,
        "target": decision.target,
        "remedy": remedy(decision),
    }


def _stand(stand: Stand) -> StandTold:
    return {
        "runbook": stand.runbook,
        "version": stand.version,
        "hash": stand.hash,
        "states": list(stand.states),
        "ended": stand.ended,
        "doing": [
            {
                "state": doing.state,
                "what": doing.what,
                "under_way": doing.under_way,
                "tries": doing.tries,
                "not_before": iso(doing.not_before) if doing.not_before else None,
            }
            for doing in stand.doing
        ],
        "timers": [{"what": t.what, "at": iso(t.at), "leads_to": list(t.leads_to)} for t in stand.timers],
        "taking_back": list(stand.taking_back),
        "can_take_back": list(stand.can_take_back),
        "begins_anew_at": None if stand.begins_anew_at is None else iso(stand.begins_anew_at),
        "notes": list(stand.notes),
        "inbox": [{"event": m.event, "who": m.who, "at": iso(m.at)} for m in stand.inbox],
        "hears": dict(stand.hears),
        "trouble": stand.trouble,
    }


def _done(case: Case, begun: Entry, ended: Entry | None) -> Done:
    id = str(begun.data["plan"])
    plan, approval = case.plans.get(id), case.approvals.get(id)
    told: Done = {
        "at": iso(begun.at),
        "action": str(begun.data["action"]),
        "target": str(begun.data["target"]),
        "step": str(begun.data["step"]),
        "plan": id,
        "runbook": plan.rule if plan is not None else "",
        "rung": plan.rung if plan is not None else "",
        "only_asks": case.only_asks(begun),
        "approved_by": approval.who if approval is not None and approval.state == "approved" else "",
        "result": None,
        "seconds": None,
        "detail": "",
        "proof": [],
        "output": [],
    }
    if ended is not None:
        until = float(ended.data["verified_at"] or ended.at)
        told["result"] = str(ended.data["result"])
        told["seconds"] = round(max(0.0, until - begun.at), 3)
        told["detail"] = str(ended.data["detail"])
        told["proof"] = [str(reason) for reason in ended.data["because"]]
        lines = last_lines(str(ended.data["output"]), OUTPUT_LINES)
        told["output"] = [redact_text(line, OUTPUT_WIDTH) for line in lines]
    return told


# -- what was only suggested -------------------------------------------------------------------------------------------


async def score(loop: MAPEK, days: float = 30.0, rule: str | None = None) -> ScoreBoard:
    """What rules would have done, and whether it would have been right. Raises Misasked, Unknown, StoreError."""
    if not 0 < days <= DAYS:
        raise Misasked("days", f"should be more than 0 and at most {DAYS:g} (got {days:g})")
    wall = loop.parts.clock.wall()
    since = wall - days * 86400.0
    suggestions = await loop.parts.knowledge.suggestions(since)
    # Whether a subject may be left to itself is judged by all rules, also when one is asked about.
    found = [s for s in scores(suggestions, wall) if rule in (None, s.rule)]
    if rule is not None and not found:
        raise Unknown("suggestion of a rule", rule, {s.rule for s in suggestions})
    rules: list[RuleScore] = []
    for one in found:
        told: Any = plain(in_plain(one))
        rules.append(told | {"cases": [case | {"at": iso(case["at"])} for case in told["cases"]]})
    return {"days": days, "since": iso(since), "bound": BOUND, "rules": rules}
