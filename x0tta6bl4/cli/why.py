"""Says why something was done about a target, or was not: how it is, what is wrong, what was planned, held and done."""

import asyncio
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from time import time
from typing import Any

from x0tta6bl4.cli import incidents as stories
from x0tta6bl4.cli.display import Display, plural, span
from x0tta6bl4.cli.events import tell_stand
from x0tta6bl4.cli.exits import OK, Refusal, quoted
from x0tta6bl4.cli.judged import tell_judged, tell_verdicts
from x0tta6bl4.cli.live import Now
from x0tta6bl4.cli.live import nearest as nearest_of
from x0tta6bl4.cli.picture import (
    Seen,
    is_healing_on,
    pause_words,
    seen,
    tell_conditions,
    tell_source,
    watched_words,
)
from x0tta6bl4.cli.places import Place, known_or_refuse, opened, place_of
from x0tta6bl4.kernel.facts import Answer, Incident, IncidentState
from x0tta6bl4.kernel.memory import Decision, Knowledge, Pause
from x0tta6bl4.runbooks.story import well_at
from x0tta6bl4.settings.mistakes import nearest
from x0tta6bl4.status.explain import Case, case_of, remedy
from x0tta6bl4.status.judgements import how_judged

LINES = 3
"""Of its output, told while something is wrong with it."""
TAIL = 8192
LATEST = 5
"""Actions of an open incident that are told in full; the whole story is one command away."""


def run(args: Namespace) -> int:
    if args.metrics:
        from x0tta6bl4.cli.simulate import quiet

        with quiet():
            return asyncio.run(_metrics(args, Display(args)))
    return asyncio.run(_run(args, Display(args)))


async def _metrics(args: Namespace, display: Display) -> int:
    """Seen by this command itself, with the configured monitors, so it can be asked before a daemon runs."""
    from x0tta6bl4.cli.doctor import LOOK
    from x0tta6bl4.cli.simulate import Said, drawn, look

    _, blueprint = await drawn(args)
    outlook = await look(blueprint, Said(), LOOK)
    known_or_refuse(args.target, {*(o.subject for o in outlook.seen), *blueprint.subjects}, "subject")
    seen = [o for o in outlook.seen if o.subject == args.target]
    if display.as_json:
        display.json({"target": args.target, "metrics": seen, "blind": dict(outlook.blind)})
        return OK
    if seen:
        display.table(
            ("METRIC", "VALUE", "SEEN BY", "WHAT"), [(o.metric, f"{o.value:g}", o.source, o.detail) for o in seen]
        )
    else:
        display.line(f"Nothing was reported of {args.target} within {LOOK:g} s.")
    for name, reason in outlook.blind:
        display.line(f"{name} cannot look: {reason}")
    return OK


async def _run(args: Namespace, display: Display) -> int:
    place = place_of(args)
    async with opened(place) as knowledge:
        if args.target.startswith("inc-"):
            incident = await stories.find(knowledge, args.target)
            picture = await seen(place, knowledge, display.now)
            cases = [await _case(knowledge, incident)]
            subject = incident.subject
        else:
            subject = args.target
            picture = await seen(place, knowledge, display.now)
            past = await knowledge.incidents(subject=subject, limit=1)
            if picture.find(subject) is None and not past and not _nearest(place, picture, subject):
                raise await _unknown(knowledge, subject, picture)
            trouble = await knowledge.open_incidents()
            open_ones = [i for i in trouble if i.subject == subject]
            now = picture.find(subject)
            if not open_ones and now is not None and now.state != "well":
                open_ones = [i for i in trouble if _is_with(subject, i)]
            cases = [await _case(knowledge, i) for i in open_ones]
        closed = None if cases else await knowledge.closed_last(subject)
        last = await _case(knowledge, closed) if closed is not None else None
        output = last_output(place.state_dir, subject) if cases else None
        healing = await is_healing_on(knowledge)
        pauses = [p for p in await knowledge.pauses() if fnmatchcase(subject, p.target)]
    near = _nearest(place, picture, subject) if not cases else []
    if display.as_json:
        display.json(_json(subject, place, picture, cases, last, healing, pauses) | {"nearest": near})
    else:
        _tell(display, subject, place, picture, cases, last, healing, pauses)
        _tell_nearest(display, near)
        if output is not None:
            _tell_output(display, *output)
    return OK


def _nearest(place: Place, picture: Seen, subject: str) -> Sequence[Mapping[str, Any]]:
    """What the running daemon has learnt of it, also of what nobody takes care of, such as the host."""
    return nearest_of(place.daemon, subject) if picture.is_live and place.daemon is not None else []


def _is_with(subject: str, incident: Incident) -> bool:
    """Whether what was found of the subject is a part of another's incident."""
    told = incident.data.get("together")
    return isinstance(told, list) and any(isinstance(one, Mapping) and one.get("subject") == subject for one in told)


def last_output(state_dir: Path, subject: str) -> tuple[Path, list[str]] | None:
    """What a process in the daemon's care wrote last, and where; the cause often stands there."""
    path = state_dir / "output" / f"{subject}.log"
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read(TAIL).decode(errors="replace").splitlines()
    except (OSError, ValueError):
        return None
    return path, [line for line in lines if line.strip()][-LINES:]


async def _unknown(knowledge: Knowledge, name: str, picture: Seen) -> Refusal:
    near = nearest(name, {*(s.name for s in picture.subjects), *await knowledge.incident_subjects()})
    hint = f"; {near}" if near.startswith("did you") else ""
    return Refusal(f"nothing is known of {quoted(name)}{hint} ({watched_words(picture)})")


async def _case(knowledge: Knowledge, incident: Incident) -> Case:
    """With the whole story."""
    return await case_of(knowledge, incident, time())


# -- for programs ------------------------------------------------------------------------------------------------------


def _json(
    subject: str,
    place: Place,
    picture: Seen,
    cases: Sequence[Case],
    last: Case | None,
    healing: bool,
    pauses: Sequence[Pause],
) -> dict[str, Any]:
    return {
        "target": subject,
        "now": picture.find(subject),
        "source": "daemon" if picture.is_live else "store",
        "seen_at": picture.at,
        "daemon": place.daemon,
        "auto_healing": healing,
        "pauses": pauses,
        "incidents": [_case_json(case) for case in cases],
        "last_incident": _case_json(last) if last else None,
    }


def _case_json(case: Case) -> Mapping[str, Any]:
    decision = case.latest_decision
    return {
        "incident": case.incident,
        "plan": case.latest_plan,
        "stand": case.stand,
        "decision": None
        if decision is None
        else {
            "check": decision.check,
            "answer": decision.answer,
            "sentence": decision.sentence,
            "until": decision.until,
            "at": decision.at,
            "plan": decision.plan,
            "action": decision.action,
            "target": decision.target,
            "remedy": remedy(decision),
        },
        "judged": how_judged(case.incident, case.verdicts),
        "actions": [
            {"at": begun.at, **begun.data, "outcome": None if ended is None else {"at": ended.at, **ended.data}}
            for begun, ended in case.actions
        ],
        "story": case.story,
    }


# -- for people --------------------------------------------------------------------------------------------------------


def _tell(
    display: Display,
    subject: str,
    place: Place,
    picture: Seen,
    cases: Sequence[Case],
    last: Case | None,
    healing: bool,
    pauses: Sequence[Pause],
) -> None:
    now = picture.find(subject)
    _tell_now(display, subject, now, place, picture, cases)
    tell_source(display, place, picture)
    if not healing:
        display.line(
            "auto_healing is off: nothing is done about anything; `x0tta6bl4 flags auto_healing on` switches it on."
        )
    for pause in pauses:
        display.line(pause_words(display, pause))
    tell_conditions(display, picture)
    for case in cases:
        display.line()
        _tell_case(display, case, is_run=place.daemon is not None)
    if last is not None:
        display.line()
        _tell_last(display, last, is_run=place.daemon is not None)
    elif not cases:
        display.line("Nothing was ever wrong with it, as far as is remembered.")


def _tell_now(
    display: Display, subject: str, now: Now | None, place: Place, picture: Seen, cases: Sequence[Case]
) -> None:
    if now is None:
        display.state(
            subject,
            "not under care",
            "; what follows is what is seen and remembered of it" if picture.is_live else "; so it is remembered",
        )
        return
    mode = f", in mode {now.mode}" if now.mode else ""
    was = "" if picture.is_live else " (when last seen)"
    display.state(subject, now.state, f" since {display.when(now.since)}{mode}{was}")
    if now.summary:
        display.line(now.summary, 2)
    if now.state == "well" and not cases:
        display.line("Nothing is wrong with it, so nothing is done.", 2)
    elif not cases:
        display.line(
            "No incident is on record about it: what was seen is not enough for a finding (yet), or something else is "
            "found to be its cause (see `x0tta6bl4 status`).",
            2,
        )


def _tell_case(display: Display, case: Case, *, is_run: bool) -> None:
    incident, plan, decision = case.incident, case.latest_plan, case.latest_decision
    closed = incident.state is IncidentState.CLOSED
    word = incident.ended or "closed" if closed else incident.state.value
    display.head(f"Incident {incident.id}: {incident.fault}, {word}")
    display.line(f"{incident.severity.value}, since {display.when(case.onset)}: {incident.summary}", 2)
    if incident.reopened:
        display.line(
            f"It came back {plural(incident.reopened, 'time')}; the first was at {display.when(incident.opened_at)}.", 2
        )
    for reason in incident.because:
        display.line(f"because {reason}", 4)
    if incident.healthy_when:
        display.line(f"It is over when {' and '.join(map(str, incident.healthy_when))}.", 2)
    elif not closed:
        display.line("No probe can prove that it is over; it is closed when nothing is found for a while.", 2)
    tell_judged(display, incident)
    tell_verdicts(display, incident, case.verdicts)
    if plan is not None:
        display.line(f"Planned by runbook {plan.rule}, step {plan.rung} ({plan.id}):", 2)
        for step in plan.steps:
            display.line(f"{step.action} on {step.target}", 4)
        for reason in plan.because[2:]:  # the first two say again what stands above
            display.line(f"because {reason}", 4)
    elif decision is not None and decision.action:
        display.line(f"Planned ({decision.plan}):", 2)
        display.line(f"{decision.action} on {decision.target}", 4)
    elif not closed:
        display.line("Nothing is planned about it.", 2)
    if case.stand is not None:
        tell_stand(display, case.stand, incident, said=plan.because if plan is not None else ())
    if decision is not None and (decision.check != "runbook" or case.stand is None):  # else its place has said it
        _tell_decision(display, decision)
    done = [begun for begun, _ in case.actions if not case.only_asks(begun)]
    if not closed and not any(begun.at >= case.onset for begun in done):
        asked = [begun for begun, _ in case.actions if case.only_asks(begun) and begun.at >= case.onset]
        told = " but to try and let people know" if asked else ""
        display.line(f"Nothing was done about it{' this time' if done else ''}{told}.", 2)
    if case.actions:
        _tell_actions(display, case, is_run=is_run)
    if incident.state is IncidentState.ESCALATED:
        display.line(
            f"The whole ladder was walked {plural(incident.passes, 'time')} without success: "
            "a person is needed. It is still retried, slowly.",
            2,
        )
    display.line(f"The whole story: `x0tta6bl4 incidents {incident.id}`", 2)


def _tell_nearest(display: Display, near: Sequence[Mapping[str, Any]]) -> None:
    """How far what is well is from a finding, where an analyzer has learnt what is usual of it."""
    if not near:
        return
    display.line()
    display.line("Nearest to a finding, of what was learnt:")
    for one in near:
        usual = f", usual {one.get('usual')}" if one.get("usual") else ""
        display.line(f"{one.get('subject')} {one.get('metric')} is {one.get('was')}{usual}: {one.get('decided')}", 2)


def _tell_decision(display: Display, decision: Decision) -> None:
    about = f"{decision.action} on {decision.target} " if decision.action else ""
    if decision.answer is Answer.ALLOW:
        display.line(f"The guard allowed {about}{display.when(decision.at)}: {decision.sentence}", 2)
        return
    if decision.answer is Answer.DENY:
        verdict = "DENIED"
    elif decision.until is None:
        verdict = "HELD"
    else:
        verdict = f"HELD until {display.when(decision.until)}"
    display.line(f"The guard ({decision.check}): {about}{verdict}: {decision.sentence}", 2)
    advice = remedy(decision)
    if advice:
        display.line(f"what to do: {advice}", 4)


def _tell_output(display: Display, path: Path, lines: Sequence[str]) -> None:
    display.line()
    display.line(f"Its own last words (all of them: {path}):" if lines else f"It wrote nothing to {path}.")
    for line in lines:
        display.line(f"| {line}", 2)


def _tell_actions(display: Display, case: Case, *, is_run: bool) -> None:
    actions = case.actions
    left_out = len(actions) - LATEST
    display.line("What was done" + (f" (the latest {LATEST}; {left_out} before them):" if left_out > 0 else ":"), 2)
    for begun, ended in actions[-LATEST:]:
        plan = case.plans.get(str(begun.data.get("plan")))
        rung = f" ({plan.rule}/{plan.rung})" if plan else ""
        approval = case.approvals.get(str(begun.data.get("plan")))
        by = f", approved by {approval.who}" if approval is not None and approval.state == "approved" else ""
        if ended is None:
            display.line(
                f"{display.when(begun.at)} {begun.text}{rung}{by}: "
                + ("under way: done, or waiting to be proved" if is_run else "cut off by the daemon's end"),
                4,
            )
            continue
        verified = ended.data.get("verified_at")
        seconds = (float(verified) if verified else ended.at) - begun.at
        display.line(
            f"{display.when(begun.at)} {begun.text}{rung}{by}: {str(ended.data.get('result')).upper()} after "
            f"{span(max(0.0, seconds))}: {ended.data.get('detail')}",
            4,
        )
        for reason in ended.data.get("because") or ():
            display.line(f"proof: {reason}", 6)
        for line in str(ended.data.get("output") or "").strip().splitlines()[-3:]:
            display.line(f"| {line}", 6)


def _tell_last(display: Display, case: Case, *, is_run: bool) -> None:
    incident = case.incident
    onset = case.onset
    well = [float(e.data["verified_at"]) for _, e in case.actions if e is not None and e.data.get("verified_at")]
    lasted = well_at(incident, well) - onset
    display.line(
        f"Last trouble: {incident.fault}, {incident.ended or 'closed'} after {span(lasted)}; it began "
        f"{display.when(onset)}: {incident.summary}"
    )
    for reason in incident.because:
        display.line(f"because {reason}", 2)
    tell_judged(display, incident)
    tell_verdicts(display, incident, case.verdicts)
    decision = case.latest_decision
    is_acted_on = any(not case.only_asks(begun) for begun, _ in case.actions)
    if decision is not None and decision.answer is not Answer.ALLOW and not is_acted_on:
        _tell_decision(display, decision)
    if case.actions:
        _tell_actions(display, case, is_run=is_run)
    display.line(f"The whole story: `x0tta6bl4 incidents {incident.id}`", 2)
