"""Tells how everything is: the daemon, each subject, what is wrong, and what waits for a person."""

import asyncio
from argparse import Namespace

from x0tta6bl4.cli.display import Display
from x0tta6bl4.cli.exits import BAD, NO_STORE, OK
from x0tta6bl4.cli.incidents import began
from x0tta6bl4.cli.picture import is_healing_on, pause_words, seen, tell_conditions, tell_source
from x0tta6bl4.cli.places import opened, place_of
from x0tta6bl4.kernel.facts import Severity


def run(args: Namespace) -> int:
    return asyncio.run(_run(args, Display(args)))


async def _run(args: Namespace, display: Display) -> int:
    place = place_of(args)
    async with opened(place) as knowledge:
        picture = await seen(place, knowledge, display.now)
        incidents = await knowledge.open_incidents()
        wanted = [a for a in await knowledge.approvals("wanted") if a.expires > display.now]
        pauses = await knowledge.pauses()
        healing = await is_healing_on(knowledge)
        plans = {a.plan: await knowledge.plan(a.plan) for a in wanted}
    conditions = picture.live.conditions if picture.live is not None else ()
    ill = [s for s in picture.subjects if s.state != "well"]
    trouble = [i for i in incidents if i.severity is not Severity.INFO]
    code = NO_STORE if place.daemon is None else BAD if ill or trouble else OK
    if display.as_json:
        display.json(
            {
                "daemon": place.daemon,
                "state_dir": str(place.state_dir),
                "source": "daemon" if picture.is_live else "store",
                "seen_at": picture.at,
                "trouble": picture.live.trouble if picture.live else "",
                "auto_healing": healing,
                "subjects": picture.subjects,
                "incidents": incidents,
                "approvals": wanted,
                "pauses": pauses,
                "conditions": conditions,
                "learning": picture.live.learning if picture.live is not None else (),
            }
        )
        return code

    if place.daemon is not None:
        display.head(
            f"The daemon runs (pid {place.daemon.pid}, since {place.daemon.since}, with {place.daemon.config})"
        )
        if place.daemon.url:
            display.line(f"status page: {place.daemon.url}", 2)
    tell_source(display, place, picture)
    if not healing:
        display.line("auto_healing is off: nothing is healed; `x0tta6bl4 flags auto_healing on` switches it on.")
    for pause in pauses:
        display.line(pause_words(display, pause))
    tell_conditions(display, picture)
    for sentence in picture.live.learning if picture.live is not None else ():
        display.line(sentence)
    display.line()
    if picture.subjects:
        display.table(
            ("SUBJECT", "STATE", "SINCE", "WHAT"),
            [(s.name, s.state, display.when(s.since), s.summary) for s in picture.subjects],
            states=1,
        )
    else:
        display.line(
            "Nothing is under care. Name a subject in the configuration; `x0tta6bl4 config reference` shows how."
        )
    if incidents:
        display.line()
        display.table(
            ("OPEN INCIDENT", "SUBJECT", "FAULT", "STATE", "SINCE"),
            [(i.id, i.subject, i.fault, i.state.value, display.when(began(i))) for i in incidents],
            states=3,
        )
        display.line(f"`x0tta6bl4 why {incidents[0].subject}` tells why something was done or not.")
    if wanted:
        display.line()
        rows = []
        for approval in wanted:
            plan = plans[approval.plan]
            steps = ", ".join(f"{s.action} on {s.target}" for s in plan.steps) if plan else ""
            rows.append((approval.plan, display.ago(approval.expires), steps))
        display.table(("WAITS FOR APPROVAL", "EXPIRES", "WHAT WOULD BE DONE"), rows)
        display.line(f"`x0tta6bl4 approve {wanted[0].plan}` or `x0tta6bl4 reject {wanted[0].plan}` answers.")
    return code
