"""Shows, checks and carries elsewhere what is remembered: the audit chain and everything beside it."""

import asyncio
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

from x0tta6bl4.cli.display import Display, plural
from x0tta6bl4.cli.exits import BAD, OK
from x0tta6bl4.cli.places import opened, place_of, who
from x0tta6bl4.kernel.errors import StoreError, TamperedError


def show(args: Namespace) -> int:
    return asyncio.run(_show(args, Display(args)))


def verify(args: Namespace) -> int:
    return asyncio.run(_verify(args, Display(args)))


def export_(args: Namespace) -> int:
    return asyncio.run(_export(args, Display(args)))


def import_(args: Namespace) -> int:
    with ExitStack() as stack:
        lines = sys.stdin
        if args.archive != "-":
            lines = stack.enter_context(open(args.archive, encoding="utf-8", errors="replace"))
        first = lines.readline()  # before a store is made for it: a mistyped name must leave nothing behind
        if '"x0tta6bl4.knowledge"' not in first:
            raise StoreError(f"{args.archive} is no export of the knowledge store", remedy="`audit export` makes one")
        return asyncio.run(_import(args, Display(args), chain([first], lines)))


async def _show(args: Namespace, display: Display) -> int:
    async with opened(place_of(args)) as knowledge:
        rows = await knowledge.audit_trail(limit=args.limit)
    if display.as_json:
        display.json({"audit": rows})
    elif not rows:
        display.line("The audit trail is empty: nobody has changed anything yet.")
    else:
        display.table(
            ("LINK", "WHEN", "WHO", "WHAT", "DATA"),
            [(str(r.seq), display.clock(r.at), r.who, r.what, _data(display, r.data)) for r in reversed(rows)],
        )
    return OK


def _data(display: Display, data: Mapping[str, Any]) -> str:
    """What was changed, without saying again who did it and when."""
    told = {
        key: value for key, value in data.items() if value not in (None, "", [], {}) and key not in ("who", "since")
    }
    if isinstance(told.get("until"), float):
        told["until"] = display.clock(told["until"])
    return ", ".join(f"{key} {_value(value)}" for key, value in told.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


async def _verify(args: Namespace, display: Display) -> int:
    async with opened(place_of(args)) as knowledge:
        try:
            links = await knowledge.verify_audit()
        except TamperedError as error:
            if display.as_json:
                display.json({"holds": False, "broken_at": error.details.get("seq"), "reason": error.message})
            else:
                display.line(f"BROKEN: {error}")
            return BAD
    if display.as_json:
        display.json({"holds": True, "links": links})
    else:
        display.line(f"The audit chain holds: {plural(links, 'link')}.")
    return OK


async def _export(args: Namespace, display: Display) -> int:
    async with opened(place_of(args)) as knowledge:
        if args.archive == "-":
            await knowledge.export(lambda line: print(line))
            return OK
        # Beside it first: a file of that name is whole or not there. Only its owner may read what is in it.
        target = Path(args.archive)
        draft = target.with_name(target.name + ".part")
        count = 0

        def write(line: str) -> None:
            nonlocal count
            count += 1
            file.write(line + "\n")

        try:
            with os.fdopen(
                os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w", encoding="utf-8"
            ) as file:
                await knowledge.export(write)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    if display.as_json:
        display.json({"file": str(target), "lines": count})
    else:
        display.line(f"{plural(count, 'line')} written to {target}.")
    return OK


async def _import(args: Namespace, display: Display, lines: Iterable[str]) -> int:
    asker = who()
    async with opened(place_of(args), create=True) as knowledge:
        imported = await knowledge.import_(lines, asker)
    if display.as_json:
        display.json({"imported": imported})
        return OK
    taken = ", ".join(f"{count} {table}" for table, count in imported.taken.items())
    display.line(f"Taken in: {taken or 'nothing'}.")
    for sentence in imported.skipped:
        display.line(f"left out: {sentence}", 2)
    return OK
