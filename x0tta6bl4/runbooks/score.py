"""Judges what would have been done by what then happened, and says when a rule has earned the right to act."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from x0tta6bl4.kernel.facts import Incident, IncidentState, Result, Severity
from x0tta6bl4.kernel.memory import Suggestion

USUAL_WITHIN = 30.0
"""Seconds in which a step is expected to help, where its plan does not say."""
LONG = 300.0
"""Seconds after which what is still wrong did not pass by itself: acting would have been right."""
TOGETHER = 60.0
"""Seconds within which other trouble that ends with an incident ended because of it."""
BOUND = 0.9
"""The share of right suggestions that must be believed in before acting is proposed."""
LEAST = 10
"""Judged cases below which nothing is proposed, however good they are."""
Z = 1.645
"""Standard deviations of one-sided 95 %: the bound is too high in one case of twenty."""
RANK = {Severity.INFO: 0, Severity.WARNING: 1, Severity.MAJOR: 2, Severity.CRITICAL: 3}


class Judgement(StrEnum):
    RIGHT = "right"
    NEEDLESS = "needless"
    HARMFUL = "harmful"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Judged:
    suggestion: Suggestion
    judgement: Judgement
    why: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """What to write into the configuration so that a rule acts on a subject."""

    subject: str
    allow: tuple[str, ...]
    """What ``guard.allow`` has to name."""
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Score:
    rule: str
    judged: tuple[Judged, ...]
    counts: Mapping[Judgement, int]
    bound: float
    """So large, at least, is the share of right ones, to one-sided 95 %."""
    missing: str
    """What is missing before acting is proposed; empty: nothing."""
    proposals: tuple[Proposal, ...]


def judge(suggestion: Suggestion, now: float) -> Judged:
    """By people's word, then by what was done after all, then by how the fault went on without us."""
    judgement, why = _judged(suggestion, now)
    return Judged(suggestion, judgement, why)


def _judged(suggestion: Suggestion, now: float) -> tuple[Judgement, str]:
    incident, at = suggestion.incident, suggestion.at
    if suggestion.opinions:
        latest = suggestion.opinions[-1]
        said = {"helped": Judgement.RIGHT, "useless": Judgement.NEEDLESS, "harmful": Judgement.HARMFUL}
        return said[latest], f"a person says: {latest}"
    if at < incident.onset_at:
        return Judgement.UNKNOWN, "it came back since, and how that bout ended is not kept"
    tried = [t for t in suggestion.trials if t.actions == suggestion.actions and t.begun_at >= at]
    if tried:
        last = tried[-1]
        if last.stuck or last.harmed:
            return Judgement.HARMFUL, f"it was done after all, and {_harm(last.harmed)}"
        if last.result is Result.VERIFIED:
            return Judgement.RIGHT, "it was done after all, and helped"
        if last.result in (Result.REFUTED, Result.FAILED):
            return Judgement.NEEDLESS, "it was done after all, and did not help"
    within = suggestion.within or USUAL_WITHIN
    is_over = incident.state is IncidentState.CLOSED
    until = now if incident.closed_at is None else incident.closed_at
    lasted = until - at
    if incident.ended == "aged out":
        return Judgement.UNKNOWN, "nobody saw how it ended"
    if incident.ended == "merged":
        return Judgement.UNKNOWN, "it was a part of another incident, and went on with that"
    if incident.ended == "healed":
        return Judgement.UNKNOWN, "something else was done about it, and helped"
    if is_over and lasted <= within:
        return Judgement.NEEDLESS, f"it was well again by itself {lasted:.0f} s later, before this could have helped"
    if is_over and (how := _restarted(suggestion)):
        return Judgement.RIGHT, f"{how}, {lasted:.0f} s later"
    if worse := _worse(suggestion, until):
        return Judgement.RIGHT, worse
    if lasted > LONG:
        return Judgement.RIGHT, f"it {'lasted' if is_over else 'lasts'} {lasted:.0f} s more without it"
    if not is_over:
        return Judgement.UNKNOWN, "it is not over"
    return Judgement.UNKNOWN, f"it was well again {lasted:.0f} s later, and nothing tells why"


def _harm(harmed: Sequence[str]) -> str:
    return f"{', '.join(harmed)} came of it" if harmed else "it could not be taken back"


def _restarted(suggestion: Suggestion) -> str:
    """Whether somebody did it by hand. The journal does not see hands; it sees what was gone and lives again.

    Services whose own supervisor restarts them never get here: the guard holds back for it before it suggests.
    """
    incident, starts = suggestion.incident, any(a.endswith(("restart", ".start")) for a in suggestion.actions)
    if not starts:
        return ""
    if incident.fault == "dead":
        return "somebody started it"
    died = [
        i
        for i in suggestion.beside
        if i.subject == incident.subject
        and i.fault == "dead"
        and i.ended == "recovered"
        and i.opened_at >= suggestion.at
    ]
    return f"somebody restarted it ({died[0].id})" if died else ""


def _worse(suggestion: Suggestion, until: float) -> str:
    incident = suggestion.incident
    before = max((s for at, s in suggestion.found if at <= suggestion.at), key=RANK.__getitem__, default=None)
    worst = max((*(s for _, s in suggestion.found), incident.severity), key=RANK.__getitem__)
    if before is not None and RANK[worst] > RANK[before]:
        return f"it became {worst.value} without it"
    within = suggestion.within or USUAL_WITHIN
    followed = [i for i in suggestion.beside if _came_of(i, incident, suggestion.at + within, until)]
    return f"it took {', '.join(i.subject for i in followed)} with it" if followed else ""


def _came_of(other: Incident, incident: Incident, since: float, until: float) -> bool:
    """Other trouble that began later, when acting would have been over, and ended when this did, by itself."""
    return (
        other.subject != incident.subject
        and other.opened_at > since
        and other.ended == "recovered"
        and other.closed_at is not None
        and 0 <= other.closed_at - until <= TOGETHER
    )


def wilson(right: int, of: int) -> float:
    """The lower end of Wilson's interval: how good it is at least. Small numbers bring it down by themselves."""
    if not of:
        return 0.0
    share = right / of
    centre = share + Z * Z / (2 * of)
    spread = Z * math.sqrt(share * (1 - share) / of + Z * Z / (4 * of * of))
    # Rounding may put it a hair above the share, where that is nothing.
    return min(share, max(0.0, (centre - spread) / (1 + Z * Z / of)))


def spotless_needed(right: int, of: int) -> int:
    """How many more cases, all right, until the bound is reached."""
    more = 0
    while of + more < LEAST or wilson(right + more, of + more) < BOUND:
        more += 1
    return more


def scores(suggestions: Iterable[Suggestion], now: float) -> list[Score]:
    """One a rule, by name. A subject on which any rule was wrong is not proposed: a mode is for all of them."""
    rules: dict[str, list[Judged]] = {}
    for suggestion in suggestions:
        rules.setdefault(suggestion.rule, []).append(judge(suggestion, now))
    wrong = {
        j.suggestion.incident.subject
        for judged in rules.values()
        for j in judged
        if j.judgement in (Judgement.NEEDLESS, Judgement.HARMFUL)
    }
    return [_score(rule, judged, wrong) for rule, judged in sorted(rules.items())]


def in_plain(score: Score) -> dict[str, Any]:
    """With every case that it rests on; moments are wall-clock seconds."""
    return {
        "rule": score.rule,
        "suggestions": len(score.judged),
        **{kind.value: score.counts[kind] for kind in Judgement},
        "right_at_least": score.bound,
        "missing": score.missing,
        "proposals": score.proposals,
        "cases": [
            {
                "at": j.suggestion.at,
                "incident": j.suggestion.incident.id,
                "subject": j.suggestion.incident.subject,
                "fault": j.suggestion.incident.fault,
                "rung": j.suggestion.rung,
                "actions": j.suggestion.actions,
                "target": j.suggestion.target,
                "stopped_by": j.suggestion.check,
                "judgement": j.judgement,
                "why": j.why,
            }
            for j in score.judged
        ],
    }


def _score(rule: str, judged: Sequence[Judged], wrong: set[str]) -> Score:
    counts = {kind: sum(j.judgement is kind for j in judged) for kind in Judgement}
    right, harmful = counts[Judgement.RIGHT], counts[Judgement.HARMFUL]
    of = right + counts[Judgement.NEEDLESS] + harmful
    bound = wilson(right, of)
    missing = ""
    if harmful:
        missing = f"{harmful} would have made things worse: mend the rule first"
    elif of < LEAST or bound < BOUND:
        more = spotless_needed(right, of)
        missing = (
            f"{more} more judged cases, all right, for {BOUND:.0%} at least to be right with 95 % confidence "
            f"(now {right} of {of}, which shows {bound:.0%} at least)"
        )
    subjects: dict[str, list[Suggestion]] = {}
    if not missing:
        for j in judged:
            if j.judgement is Judgement.RIGHT and j.suggestion.incident.subject not in wrong:
                subjects.setdefault(j.suggestion.incident.subject, []).append(j.suggestion)
        if not subjects:
            missing = "a subject on which no suggestion was wrong"
    proposals = tuple(_proposal(subject, told) for subject, told in sorted(subjects.items()))
    return Score(rule, tuple(judged), counts, bound, missing, proposals)


def _proposal(subject: str, suggestions: Sequence[Suggestion]) -> Proposal:
    actions = tuple(sorted({action for s in suggestions for action in s.actions}))
    # What is done to another subject, such as a dependency, needs that one's mode too.
    names = sorted({subject, *(s.target for s in suggestions)})
    modes = [line for name in names for line in (f"  {name}:", "    mode: auto")]
    return Proposal(subject, actions, ("subjects:", *modes, "guard:", "  allow:", *(f"    - {a}" for a in actions)))
