"""Speaks to the runbook of an incident, and says where that stands: what it waits for, until when, what it hears."""

import asyncio
import json
from argparse import Namespace
from collections.abc import Collection, Sequence
from typing import Any

from x0tta6bl4.cli.display import Display
from x0tta6bl4.cli.exits import BAD, OK, Refusal
from x0tta6bl4.cli.incidents import find
from x0tta6bl4.cli.places import opened, place_of, who
from x0tta6bl4.kernel.facts import Incident, IncidentState
from x0tta6bl4.runbooks.document import near
from x0tta6bl4.runbooks.life import ABORT, MIGRATE, is_heard, wrong_data, wrong_event
from x0tta6bl4.runbooks.stand import Doing, Stand, stand_of

LONGEST_WHY = 1000
NOTES = 3
"""Sentences about how it came to be where it is, the latest."""


# -- where it stands ---------------------------------------------------------------------------------------------------


def tell_stand(display: Display, stand: Stand, incident: Incident, indent: int = 2, said: Collection[str] = ()) -> None:
    """In sentences, without reasons that were ``said`` above. Of an incident that is over only the version."""
    named = f"{stand.runbook} v{stand.version} ({stand.hash})"
    if incident.state is IncidentState.CLOSED:
        if stand.runbook:
            display.line(f"It was on the runbook {named}.", indent)
        return
    if stand.runbook:
        at = f", at {' and '.join(stand.states)}" if stand.states else ""
        display.line(f"It is on the runbook {named}{at}.", indent)
    if stand.trouble:
        display.line(f"No more can be said of where it is: {stand.trouble}.", indent)
    for doing in stand.doing:
        display.line(f"{doing.state}: {doing.what} {_how(display, doing)}", indent + 2)
    for what in stand.taking_back:
        display.line(f"to be taken back: {what}", indent + 2)
    for timer in stand.timers:
        to = f", then to {' and '.join(timer.leads_to)}" if timer.leads_to else ""
        late = " (due; it comes when the daemon looks again)" if timer.at <= display.now else ""
        display.line(f"{timer.what}: time is up {display.when(timer.at)}{late}{to}", indent + 2)
    if stand.begins_anew_at is not None:
        display.line(f"Its runbook has ended; it begins anew {display.when(stand.begins_anew_at)}.", indent)
    elif stand.runbook and not stand.doing and not stand.timers and not stand.taking_back and not stand.trouble:
        display.line("It waits for an event; nothing is done until then.", indent + 2)
    if stand.can_take_back:
        display.line(f"what can be taken back: {', '.join(stand.can_take_back)}", indent + 2)
    for note in (note for note in stand.notes[-NOTES:] if note not in said):
        display.line(f"because {note}", indent + 2)
    open_ = [event for event, blocked in stand.hears.items() if not blocked]
    if open_:
        display.line(f"listens to {', '.join(open_)} (`x0tta6bl4 tell {incident.id}` says more)", indent + 2)
    for message in stand.inbox:
        display.line(f"{_event_word(message.event)} by {message.who} {display.when(message.at)} waits to be taken", 4)


def _how(display: Display, doing: Doing) -> str:
    tries = f", try {doing.tries + 1}" if doing.tries else ""
    if doing.under_way:
        return f"is under way{tries}"
    if doing.not_before > display.now:
        return f"comes {display.when(doing.not_before)}{tries}"
    return f"is wanted, and not begun{tries}"


def _event_word(event: str) -> str:
    return "a migration" if event == MIGRATE else event


# -- speaking to it ----------------------------------------------------------------------------------------------------


def tell(args: Namespace) -> int:
    return asyncio.run(_tell(args, Display(args)))


async def _tell(args: Namespace, display: Display) -> int:
    data = said(args.data)
    why = " ".join(args.why.split())
    if len(why) > LONGEST_WHY:
        raise Refusal(f"--why has more than {LONGEST_WHY} characters")
    if args.event is None and (args.data or why):
        raise Refusal("which event? it comes before --data and --why")
    if args.event is not None and (wrong := wrong_event(args.event)):
        raise Refusal(f"{args.event[:100]!r}: {wrong}")
    if why:
        data = {**data, "why": why}
    if wrong := wrong_data(data):
        raise Refusal(f"--data: {wrong}")
    place = place_of(args)
    async with opened(place) as knowledge:
        incident = await find(knowledge, args.incident)
        if incident.state is IncidentState.CLOSED:
            raise Refusal(f"{incident.id} is over ({incident.ended or 'closed'}): nobody listens any more", BAD)
        stand = await stand_of(knowledge, incident, display.now)
        if args.event is None:
            _list(display, incident, stand)
            return OK
        blocked = _blocked(args.event, incident, stand)
        message = await knowledge.send(incident.id, args.event, data, who())
    if display.as_json:
        display.json({"message": message, "blocked": blocked, "daemon": place.daemon})
        return OK
    display.line(f"Sent {args.event} to {incident.id} ({incident.subject} is {incident.fault}).")
    if blocked:
        display.line(f"As its runbook stands, nothing takes it now: {blocked}.")
    elif args.event == ABORT and stand is not None and is_heard(ABORT, stand.hears) is None:
        display.line("Its runbook does not speak of it, so it is called off and begins anew after a rest.")
    if place.daemon is None:
        display.line("No daemon runs: it waits, and is taken when one runs.")
    else:
        display.line(f"The daemon takes it at once; `x0tta6bl4 incidents {incident.id}` tells what came of it.")
    return OK


def _blocked(event: str, incident: Incident, stand: Stand | None) -> str:
    """What keeps it from being taken now. Refusal when the runbook can never take it."""
    if stand is None or not stand.hears:
        return ""
    found = is_heard(event, stand.hears)
    if found is None and event != ABORT:
        raise Refusal(
            f"nothing in {stand.runbook} v{stand.version} ever listens to {event!r}; {near(event, stand.hears)}",
            remedy=f"`x0tta6bl4 tell {incident.id}` lists what it listens to",
        )
    return found or ""


def _list(display: Display, incident: Incident, stand: Stand | None) -> None:
    hears = dict(stand.hears) if stand is not None else {}
    if stand is not None and stand.runbook and not stand.ended and is_heard(ABORT, hears) is None:
        hears[ABORT] = ""
    if display.as_json:
        display.json({"incident": incident.id, "stand": stand, "hears": hears})
        return
    if stand is not None:
        tell_stand(display, stand, incident, 0)
    if not hears:
        display.line(f"{incident.id} is on no runbook now; what is sent to it is told to the one that begins next.")
        return
    display.line()
    display.table(
        ("EVENT", "NOW", ""),
        [
            (event, "no" if blocked else "yes", blocked or ("calls the runbook off" if event == ABORT else ""))
            for event, blocked in hears.items()
        ],
    )


def said(words: Sequence[str] | None) -> dict[str, Any]:
    """What --data tells: KEY=VALUE each, or one JSON object. A value that is no JSON is text."""
    if not words:
        return {}
    if len(words) == 1 and words[0].lstrip().startswith(("{", "[")):
        found = _json(words[0], "--data")
        if not isinstance(found, dict):
            raise Refusal("--data: as JSON it must be an object, such as '{\"loss\": 0.5}'")
        return found
    told: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier() or not key.isascii():
            raise Refusal(f"--data {word[:100]!r} should be KEY=VALUE, such as loss=0.5, or one JSON object")
        if key in told:
            raise Refusal(f"--data says {key!r} twice")
        try:
            told[key] = _json(value, "")
        except Refusal:
            told[key] = value
    return told


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refusal(f"{where} is not JSON: {why[:200]}") from error


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")
