"""Shows the feature flags and turns them; the running daemon has followed when the command returns."""

import asyncio
from argparse import Namespace
from collections.abc import Mapping

from x0tta6bl4.cli.display import Display
from x0tta6bl4.cli.exits import OK
from x0tta6bl4.cli.places import config_of, opened, place_of, who
from x0tta6bl4.kernel.errors import ConfigError
from x0tta6bl4.kernel.flags import FLAGS

FOLLOWS_WITHIN = 0.6
"""Seconds in which a running daemon looks at what others wrote; a switch that is said to be thrown must be thrown."""


def run(args: Namespace) -> int:
    return asyncio.run(_run(args, Display(args)))


async def _run(args: Namespace, display: Display) -> int:
    place = place_of(args)
    async with opened(place) as knowledge:
        before = await knowledge.flags()
        if args.value is not None:
            await knowledge.set_flag(args.name, args.value == "on", who())
            if place.daemon:
                await asyncio.sleep(FOLLOWS_WITHIN)
        kept = await knowledge.flags()
    initial = _initial(args)
    rows = [
        {
            "name": flag.name,
            "value": kept.get(flag.name, initial.get(flag.name, flag.default)),
            "from": "switched" if flag.name in kept else "configuration" if flag.name in initial else "default",
            "default": flag.default,
            "meaning": flag.meaning,
        }
        for flag in FLAGS
        if args.name in (None, flag.name)
    ]
    if display.as_json:
        display.json({"flags": rows})
    elif args.value is not None:
        was = before.get(args.name, initial.get(args.name, rows[0]["default"]))
        change = "is" if was == (args.value == "on") else "was off, is" if args.value == "on" else "was on, is"
        display.line(
            f"{args.name} {change} {args.value} now"
            + ("." if place.daemon else "; no daemon runs, the next one will follow it.")
        )
    else:
        display.table(
            ("FLAG", "NOW", "FROM", "MEANING"),
            [(str(r["name"]), "on" if r["value"] else "off", str(r["from"]), str(r["meaning"])) for r in rows],
        )
    return OK


def _initial(args: Namespace) -> Mapping[str, bool]:
    """The configuration's first values; a configuration with mistakes has none that count."""
    import os

    from x0tta6bl4.settings.load import load

    try:
        return load(config_of(args), os.environ, {}).settings.flags
    except ConfigError:
        return {}
