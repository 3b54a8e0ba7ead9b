"""Lists incidents, and tells the whole story of one as a timeline."""

import asyncio
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from x0tta6bl4.cli.display import Display, plural, span
from x0tta6bl4.cli.exits import OK, Refusal, quoted
from x0tta6bl4.cli.places import known_or_refuse, opened, place_of
from x0tta6bl4.kernel.facts import Incident, IncidentState
from x0tta6bl4.kernel.memory import Entry, Knowledge

if TYPE_CHECKING:
    from x0tta6bl4.cli.events import Stand


def run(args: Namespace) -> int:
    return asyncio.run(_run(args, Display(args)))


async def _run(args: Namespace, display: Display) -> int:
    from x0tta6bl4.cli import events  # brings the statecharts with it, and finds incidents by what is here

    async with opened(place_of(args)) as knowledge:
        if args.id is not None:
            incident = await find(knowledge, args.id)
            story = await knowledge.story(incident.id)
            stand = await events.stand_of(knowledge, incident)
            if display.as_json:
                display.json({"incident": incident, "stand": stand, "story": story})
            else:
                tell(display, incident, story, stand, with_moves=args.moves)
            return OK
        if args.moves:
            raise Refusal("--moves is about one incident: which one?")
        if args.subject is not None:
            seen = await knowledge.incidents(limit=10_000)
            known_or_refuse(
                args.subject, [*(s.name for s in await knowledge.subjects()), *(i.subject for i in seen)], "subject"
            )
        if args.all:
            # Kept in the order in which they were opened first; one that came back belongs where it came back.
            found = await knowledge.incidents(subject=args.subject, limit=10_000)
            found = sorted(found, key=began, reverse=True)[: args.limit]
        else:
            newest = reversed(await knowledge.open_incidents())
            found = [i for i in newest if args.subject in (None, i.subject)][: args.limit]
    if display.as_json:
        display.json({"incidents": found})
    elif not found:
        about = f" of {args.subject}" if args.subject else ""
        display.line(
            f"There is no {'' if args.all else 'open '}incident{about}."
            + ("" if args.all else " `--all` shows those that are over.")
        )
    else:
        display.table(
            ("INCIDENT", "SUBJECT", "FAULT", "STATE", "SINCE", "WHAT"),
            [
                (
                    i.id,
                    i.subject,
                    i.fault,
                    i.ended or i.state.value,
                    display.ago(began(i)),
                    f"{i.summary} ({_length(i)})" if _length(i) else i.summary,
                )
                for i in found
            ],
            states=3,
        )
    return OK


def began(incident: Incident) -> float:
    """When it began: of one that came back, when it came back last."""
    return incident.onset_at or incident.opened_at


async def find(knowledge: Knowledge, id: str) -> Incident:
    """The incident of that id, or the only one that has this as a part of it. A table may have cut it with a ~."""
    id = id.rstrip("~")
    exact = await knowledge.incident(id)
    if exact is not None:
        return exact
    all_of_them = await knowledge.incidents(limit=10_000)
    parts = [i for i in all_of_them if id and id in i.id]
    if len(parts) == 1:
        return parts[0]
    if parts:
        raise Refusal(
            f"{quoted(id)} is a part of {len(parts)} incidents' ids: {', '.join(i.id for i in parts[:5])}"
            + (" and more" if len(parts) > 5 else "")
        )
    if id in {i.subject for i in all_of_them}:
        raise Refusal(f"{quoted(id)} is a subject; `x0tta6bl4 incidents --all --subject {id}` lists its incidents")
    known_or_refuse(id, [i.id for i in all_of_them], "incident")
    raise AssertionError("an id that is known was found above")


def tell(
    display: Display, incident: Incident, story: Sequence[Entry], stand: "Stand | None", *, with_moves: bool = False
) -> None:
    from x0tta6bl4.cli.events import tell_stand

    display.head(
        f"{incident.id}: {incident.subject} is {incident.fault}"
        if incident.state is not IncidentState.CLOSED
        else f"{incident.id}: {incident.subject} was {incident.fault}"
    )
    display.line(incident.summary, 2)
    display.line(f"{incident.severity.value}, opened {display.when(incident.opened_at)}, {_summary(incident)}", 2)
    if stand is not None:
        tell_stand(display, stand, incident)
    story = called_off(story)
    timeline(display, story if with_moves else calm(story), with_moves=with_moves)


def called_off(story: Sequence[Entry]) -> list[Entry]:
    """With the abort that a runbook does not speak of told as what it did: it is no event that nobody heard."""
    from x0tta6bl4.runbooks.life import ABORT  # brings the statecharts with it

    told = list(story)
    moves = [number for number, entry in enumerate(told) if entry.kind == "moved"]
    for number, after in pairwise(moves):
        entry, follows = told[number], told[after]
        if entry.data["event"] == ABORT and not entry.data["taken"] and follows.data["event"] == "$close":
            said = entry.text.removesuffix("; nothing listened to it")
            told[number] = replace(entry, text=f"{said}; its runbook is called off")
    return told


def calm(story: Sequence[Entry]) -> list[Entry]:
    """Without what a runbook only says to itself: which rung comes next, looks that led nowhere, and that it waits
    where it is said to have come to."""
    told: list[Entry] = []
    states: object = None
    for entry in story:
        if entry.kind == "moved":
            event, before, states = str(entry.data["event"]), states, entry.data["states"]
            is_choice = event.startswith(("done.act.", "failed.act.")) and event.endswith(".next")
            if is_choice or (event == "$seen" and states == before) or (event == "$close" and entry.data["taken"]):
                continue
        elif entry.kind == "decided" and entry.data["check"] == "runbook":
            continue
        told.append(entry)
    return told


def timeline(display: Display, story: Sequence[Entry], *, with_moves: bool = False) -> None:
    rows = []
    for entry in story:
        rows.append((display.clock(entry.at), entry.kind, entry.text))
        if entry.kind == "moved" and with_moves:
            rows[-1] = (display.clock(entry.at), f"move {entry.data['number']}", f"{entry.data['event']}: {entry.text}")
            rows += [("", "", effect) for effect in entry.data["effects"] if effect]
        if entry.kind in ("opened", "outcome"):
            rows += [("", "", f"because {reason}") for reason in entry.data.get("because") or ()]
        output = str(entry.data.get("output") or "").strip() if entry.kind == "outcome" else ""
        rows += [("", "", f"| {line}") for line in output.splitlines()[-5:]]
    display.table(("WHEN", "WHAT", ""), rows)


def _summary(incident: Incident) -> str:
    state = incident.state.value if incident.closed_at is None else incident.ended or "ended"
    return ", ".join(filter(None, (state, _length(incident))))


def _length(incident: Incident) -> str:
    """How long it lasted, how often it came back; empty when there is nothing to say."""
    parts = []
    if incident.closed_at is not None:
        parts.append(f"closed after {span(incident.closed_at - began(incident))}")
    elif incident.passes:
        parts.append(f"the whole ladder was walked {plural(incident.passes, 'time')}")
    if incident.reopened:
        parts.append(f"came back {plural(incident.reopened, 'time')}")
    return "; ".join(parts)
