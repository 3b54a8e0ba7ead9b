"""Lists who is signed in on the endpoint's page, and ends sessions."""

import asyncio
from argparse import Namespace

from x0tta6bl4.cli.display import Display, plural
from x0tta6bl4.cli.exits import OK, Refusal, quoted
from x0tta6bl4.cli.keys import access_of, followed
from x0tta6bl4.cli.places import known_or_refuse, place_of, who
from x0tta6bl4.status.access import Session


def list_(args: Namespace) -> int:
    return asyncio.run(_list(args, Display(args)))


def end(args: Namespace) -> int:
    return asyncio.run(_end(args, Display(args)))


async def _list(args: Namespace, display: Display) -> int:
    async with access_of(place_of(args)) as access:
        if args.operator is not None:
            known_or_refuse(args.operator, [o.name for o in await access.operators()], "operator")
        sessions = await access.sessions(args.operator)
    if display.as_json:
        display.json({"sessions": sessions})
    elif not sessions:
        display.line("Nobody is signed in.")
    else:
        display.table(
            ("ID", "OPERATOR", "SCOPE", "FROM", "SIGNED IN", "REFRESHED", "BROWSER"),
            [
                (
                    s.id,
                    s.operator,
                    str(s.scope),
                    s.client,
                    display.when(s.created_at),
                    display.ago(s.used_at),
                    s.agent or "-",
                )
                for s in sessions
            ],
        )
    return OK


async def _end(args: Namespace, display: Display) -> int:
    chosen = [args.id is not None, args.operator is not None, args.all]
    if sum(chosen) != 1:
        raise Refusal(
            "say which session to end: one ID, --operator NAME or --all", remedy="`x0tta6bl4 sessions list` tells them"
        )
    place = place_of(args)
    async with access_of(place) as access:
        if args.operator is not None:
            known_or_refuse(args.operator, [o.name for o in await access.operators()], "operator")
        if args.id is not None:
            one = _one(args.id, await access.sessions())
            ended = int(await access.end_session(one.id, who()))
        else:
            ended = await access.end_sessions(who(), args.operator)
    if ended:
        await followed(place)
    if display.as_json:
        display.json({"ended": ended})
    else:
        display.line(f"{plural(ended, 'session')} ended.")
    return OK


def _one(wanted: str, sessions: list[Session]) -> Session:
    found = [session for session in sessions if wanted and session.id.startswith(wanted)]
    if len(found) != 1:
        what = "is not the beginning of one" if not found else f"is the beginning of {len(found)}"
        raise Refusal(
            f"the id of a session is wanted; {quoted(wanted)} {what}", remedy="`x0tta6bl4 sessions list` tells them"
        )
    return found[0]
