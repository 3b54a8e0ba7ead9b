"""Shows what would have been done and whether it would have been right, and takes down what people say helped."""

import asyncio
from argparse import Namespace
from collections.abc import Iterable, Sequence

from x0tta6bl4.cli.display import Display, plural, span
from x0tta6bl4.cli.exits import OK, Refusal
from x0tta6bl4.cli.incidents import find
from x0tta6bl4.cli.places import known_or_refuse, opened, place_of, who
from x0tta6bl4.kernel.facts import Incident, Result
from x0tta6bl4.kernel.judged import all_judged_of
from x0tta6bl4.kernel.lessons import Lesson, verdict_on
from x0tta6bl4.kernel.memory import ActionRecord, Feedback, Knowledge, Trial
from x0tta6bl4.runbooks.score import BOUND, Judgement, Score, in_plain, scores

LINES = 10
"""Evidence shown for a rule, the latest; `--output json` has all of it."""
WORD = 2.0
"""Tries that a person's word about one counts as."""


def run(args: Namespace) -> int:
    return asyncio.run(_score(args, Display(args)))


def feedback(args: Namespace) -> int:
    return asyncio.run(_feedback(args, Display(args)))


async def _score(args: Namespace, display: Display) -> int:
    async with opened(place_of(args)) as knowledge:
        suggestions = await knowledge.suggestions(display.now - args.seconds)
    if args.rule is not None:
        known_or_refuse(args.rule, {s.rule for s in suggestions}, "suggestion of a rule")
    # Whether a subject may be left to itself is judged by all rules, also when one is asked about.
    found = [s for s in scores(suggestions, display.now) if args.rule in (None, s.rule)]
    if display.as_json:
        display.json(
            {
                "since": display.now - args.seconds,
                "bound": BOUND,
                "rules": [in_plain(score) for score in found],
            }
        )
    elif not found:
        display.line(
            f"Nothing was suggested in the last {span(args.seconds)}. Rules suggest for subjects in mode suggest."
        )
    else:
        display.table(
            ("RULE", "SUGGESTED", "RIGHT", "NEEDLESS", "HARMFUL", "UNKNOWN", "RIGHT AT LEAST"),
            [
                (
                    s.rule,
                    str(len(s.judged)),
                    *(str(s.counts[kind]) for kind in Judgement),
                    f"{s.bound:.0%}",
                )
                for s in found
            ],
        )
        for score in found:
            _tell(display, score)
    return OK


def _tell(display: Display, score: Score) -> None:
    display.line()
    display.head(score.rule)
    latest = sorted(score.judged, key=lambda j: j.suggestion.at)[-LINES:]
    for judged in latest:
        told = judged.suggestion
        display.line(
            f"{display.clock(told.at)} {judged.judgement.value}: {' and '.join(told.actions)} on {told.target} "
            f"({told.incident.fault}, {told.incident.id}): {judged.why}",
            2,
        )
    if len(score.judged) > LINES:
        display.line(f"and {plural(len(score.judged) - LINES, 'earlier one')} (`--output json` has them)", 2)
    if score.missing:
        display.line(f"Not to be left to itself yet. Missing: {score.missing}.", 2)
        return
    for proposal in score.proposals:
        display.line(
            f"It has earned to act on {proposal.subject}. In the configuration, beside what stands there (every rule "
            f"may then do these actions on {proposal.subject}), and reload the daemon (SIGHUP):",
            2,
        )
        for line in proposal.lines:
            print(f"      {line}")


async def _feedback(args: Namespace, display: Display) -> int:
    asker = who()
    async with opened(place_of(args)) as knowledge:
        incident = await find(knowledge, args.incident)
        if args.opinion in FINDINGS:
            lesson = verdict_on(incident, FINDINGS[args.opinion], asker, args.why)
            return _taught(await knowledge.learnt.teach(lesson), incident, display)
        said, beside = await _about(knowledge, incident, args.opinion)
        await knowledge.add_feedback(said, asker, args.why)
    if display.as_json:
        display.json({"feedback": said, "who": asker, "why": args.why, "not_of": beside})
    elif said.weight:
        display.line(f"Taken down: {' and '.join(said.rung)} {_VERDICTS[args.opinion]} ({incident.id}).")
        if beside:
            display.line(f"It does not speak of what came to nothing: {'; '.join(beside)}.")
    else:
        display.line(
            f"Taken down: {' and '.join(said.rung)} was only suggested ({incident.id}); `x0tta6bl4 score` counts it as "
            f"{'right' if args.opinion == 'helped' else 'needless' if args.opinion == 'useless' else 'harmful'}."
        )
    return OK


def _taught(lesson: Lesson, incident: Incident, display: Display) -> int:
    if display.as_json:
        display.json(
            {"verdict": {"right": lesson.right, "incident": incident.id}, "who": lesson.who, "why": lesson.why}
        )
        return OK
    display.line(f"Taken down: {incident.fault} was {'right' if lesson.right else 'a false alarm'} ({incident.id}).")
    names = [f"{one.subject} {one.metric}" for one in all_judged_of(incident.data)]
    if names:
        display.line(
            f"It was judged by {', '.join(names)}. Analyzers that learn take your word to heart: within a second where "
            f"the daemon runs, else when it starts. `x0tta6bl4 why {incident.id}` tells what came of it."
        )
    else:
        display.line("Nothing tells what it was judged by: nothing will change by itself.")
    return OK


FINDINGS = {"right": True, "false-alarm": False}
"""Words about the finding; the others are about what was done."""

_VERDICTS = {"helped": "helped", "useless": "did not help", "harmful": "made things worse"}


async def _about(knowledge: Knowledge, incident: Incident, opinion: str) -> tuple[Feedback, list[str]]:
    """What the word is about: what was really done last, or where nothing was tried, the latest suggestion. Beside it,
    what was tried since or with it and came to nothing."""
    verified, harmful = opinion == "helped", opinion == "harmful"
    tries = [t for t in await knowledge.trials(incident.fault, incident.opened_at) if t.incident == incident.id]
    signature = (incident.fault, "", incident.subject)
    if tries:
        plans: dict[str, list[ActionRecord]] = {}
        for record in await knowledge.actions_since(incident.opened_at):
            if record.incident == incident.id:
                plans.setdefault(record.step_id.rsplit(".", 1)[0], []).append(record)
        beside: list[str] = []
        for last in reversed(tries):
            records = _of(last, plans.values())
            done = tuple(record.action for record in records if _counts(record, opinion))
            beside[:0] = _came_to_nothing(last, records, opinion)
            if done:
                break
        else:
            raise Refusal(
                f"nothing that was tried about {incident.id} was done, so it cannot have helped: {beside[-1]}"
            )
        ended_at = last.verified_at or last.ended_at
        return Feedback(
            signature,
            done,
            max(0.0, ended_at - last.onset_at) if verified and last.onset_at is not None else None,
            verified,
            harmful,
            "operator",
            last.ended_at,
            weight=WORD,
            spent=max(0.0, ended_at - last.begun_at),
            after=last.after,
            incident=incident.id,
        ), beside
    suggested = [s for s in await knowledge.suggestions(incident.opened_at) if s.incident.id == incident.id]
    if not suggested:
        raise Refusal(f"nothing was done about {incident.id}, and nothing suggested: there is nothing to judge")
    return Feedback(
        signature, suggested[-1].actions, None, verified, harmful, "operator", 0.0, weight=0.0, incident=incident.id
    ), []


def _of(trial: Trial, plans: Iterable[Sequence[ActionRecord]]) -> Sequence[ActionRecord]:
    """The steps of a try that were begun."""
    for records in plans:
        actions = tuple(record.action for record in records)
        if records[0].at == trial.begun_at and actions == trial.actions[: len(actions)]:
            return records
    return ()


def _counts(record: ActionRecord, opinion: str) -> bool:
    """What failed cannot have helped; it may well have done harm. What nobody knows the end of may be either."""
    if record.result in (Result.REFUSED, Result.SIMULATED):
        return False
    return record.unknown or opinion != "helped" or record.result is not Result.FAILED


def _came_to_nothing(trial: Trial, records: Sequence[ActionRecord], opinion: str) -> list[str]:
    ended = [f"{r.action} {r.result}" for r in records if not _counts(r, opinion)]
    return [*ended, *(f"{action} was not done" for action in trial.actions[len(records) :])]
