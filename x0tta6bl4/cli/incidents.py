"""Lists incidents, and tells the whole story of one as a timeline."""

import asyncio
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from x0tta6bl4.cli.display import Display, plural, span
from x0tta6bl4.cli.exits import OK, Refusal, quoted
from x0tta6bl4.cli.places import known_or_refuse, opened, place_of
from x0tta6bl4.kernel.facts import Incident, IncidentState
from x0tta6bl4.kernel.lessons import Lesson
from x0tta6bl4.kernel.memory import Entry, Knowledge
from x0tta6bl4.runbooks.story import called_off, calm

if TYPE_CHECKING:
    from x0tta6bl4.runbooks.stand import Stand


def run(args: Namespace) -> int:
    return asyncio.run(_run(args, Display(args)))


async def _run(args: Namespace, display: Display) -> int:
    async with opened(place_of(args)) as knowledge:
        if args.id is not None:
            from x0tta6bl4.runbooks.stand import stand_of  # brings the statecharts with it
            from x0tta6bl4.status.judgements import how_judged, verdicts_on  # and this the loop

            incident = await find(knowledge, args.id)
            story = await knowledge.story(incident.id)
            stand = await stand_of(knowledge, incident, display.now)
            verdicts = await verdicts_on(knowledge, incident.id)
            if display.as_json:
                judged = how_judged(incident, verdicts)
                display.json({"incident": incident, "stand": stand, "judged": judged, "story": story})
            else:
                tell(display, incident, story, stand, verdicts, with_moves=args.moves)
            return OK
        if args.moves:
            raise Refusal("--moves is about one incident: which one?")
        if args.subject is not None:
            seen = [s.name for s in await knowledge.subjects()]
            known_or_refuse(args.subject, [*seen, *await knowledge.incident_subjects()], "subject")
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
    parts = await knowledge.incident_ids(id) if id else []
    if len(parts) == 1 and (only := await knowledge.incident(parts[0])) is not None:
        return only
    if parts:
        raise Refusal(
            f"{quoted(id)} is a part of {len(parts)} incidents' ids: {', '.join(parts[:5])}"
            + (" and more" if len(parts) > 5 else "")
        )
    if id in await knowledge.incident_subjects():
        raise Refusal(f"{quoted(id)} is a subject; `x0tta6bl4 incidents --all --subject {id}` lists its incidents")
    known_or_refuse(id, await knowledge.incident_ids(), "incident")
    raise AssertionError("an id that is known was found above")


def tell(
    display: Display,
    incident: Incident,
    story: Sequence[Entry],
    stand: "Stand | None",
    verdicts: Sequence[Lesson] = (),
    *,
    with_moves: bool = False,
) -> None:
    from x0tta6bl4.cli.events import tell_stand
    from x0tta6bl4.cli.judged import tell_judged
    from x0tta6bl4.status.judgements import with_verdicts

    display.head(
        f"{incident.id}: {incident.subject} is {incident.fault}"
        if incident.state is not IncidentState.CLOSED
        else f"{incident.id}: {incident.subject} was {incident.fault}"
    )
    display.line(incident.summary, 2)
    display.line(f"{incident.severity.value}, opened {display.when(incident.opened_at)}, {_summary(incident)}", 2)
    if stand is not None:
        tell_stand(display, stand, incident)
    tell_judged(display, incident)
    story = with_verdicts(called_off(story), verdicts)
    timeline(display, story if with_moves else calm(story), with_moves=with_moves)


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
