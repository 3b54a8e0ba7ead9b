"""Keeps the daemon's hands off targets for a while, and lets it go on."""

import asyncio
from argparse import Namespace
from fnmatch import fnmatchcase

from x0tta6bl4.cli.display import Display, plural
from x0tta6bl4.cli.exits import OK, Refusal, quoted
from x0tta6bl4.cli.picture import pause_words
from x0tta6bl4.cli.places import known_or_refuse, opened, place_of, who


def pause(args: Namespace) -> int:
    return asyncio.run(_pause(args, Display(args)))


def resume(args: Namespace) -> int:
    return asyncio.run(_resume(args, Display(args)))


async def _pause(args: Namespace, display: Display) -> int:
    async with opened(place_of(args)) as knowledge:
        known = {s.name for s in await knowledge.subjects()} | {
            i.subject for i in await knowledge.incidents(limit=10_000)
        }
        # Whoever mistypes a name here would believe something paused that is not.
        if not any(fnmatchcase(name, args.target) for name in known) and args.target != "*":
            known_or_refuse(args.target, known, "subject")
        made = await knowledge.add_pause(
            args.target,
            display.now + args.seconds,
            who=who(),
            reason=args.reason,
            kind="maintenance" if args.maintenance else "pause",
        )
    if display.as_json:
        display.json({"pause": made})
    else:
        display.line(f"From now on {pause_words(display, made)}. Watching goes on.")
    return OK


async def _resume(args: Namespace, display: Display) -> int:
    asker = who()
    async with opened(place_of(args)) as knowledge:
        targets = dict.fromkeys(p.target for p in await knowledge.pauses())
        if args.target is not None and args.target not in targets:
            there = f"paused: {', '.join(targets)}" if targets else "nothing is paused at all"
            raise Refusal(f"nothing is paused under the name {quoted(args.target)}; {there}")
        ended = {
            target: await knowledge.remove_pause(target, asker) for target in targets if args.target in (None, target)
        }
    if display.as_json:
        display.json({"ended": ended})
    elif not ended:
        display.line("Nothing is paused.")
    else:
        for target, count in ended.items():
            display.line(f"{plural(count, 'pause')} on {target} ended; it is healed again as its mode says.")
    return OK
