"""Notes what was changed on purpose, such as a deploy, and lists what was; a running daemon hears of it at once."""

import asyncio
from argparse import Namespace
from datetime import datetime

from x0tta6bl4.cli.display import Display
from x0tta6bl4.cli.exits import OK, Refusal, quoted
from x0tta6bl4.cli.places import known_or_refuse, opened, place_of, who
from x0tta6bl4.kernel.lessons import Alteration
from x0tta6bl4.kernel.memory import Knowledge
from x0tta6bl4.kernel.units import as_seconds

LONGEST_AGO = 366 * 86400.0
LATE = 3600.0
"""Seconds after which the daemon remembers too little of what was before to tie anything to it."""
LONGEST_DETAIL = 1000
THE_HOST = "host"
"""The subject of the host's own numbers, as its monitor calls it where nobody says otherwise."""


def run(args: Namespace) -> int:
    return asyncio.run(_run(args, Display(args)))


async def _run(args: Namespace, display: Display) -> int:
    if args.subject is None:
        given = [name for name in ("kind", "detail", "at") if getattr(args, name) is not None]
        if given:
            raise Refusal(f"--{given[0]} is about one change: of which subject?")
        return await _listed(args, display)
    at = display.now if args.at is None else moment(" ".join(args.at), display.now)
    detail = " ".join((args.detail or "").split())
    if len(detail) > LONGEST_DETAIL or not detail.isprintable():
        raise Refusal(f"--detail {quoted(detail)} should be at most {LONGEST_DETAIL} characters that can be shown")
    place = place_of(args)
    async with opened(place) as knowledge:
        names = await _names(knowledge)
        if args.subject not in names:  # the rest is megabytes to read
            names |= await _learnt_of(knowledge)
        known_or_refuse(args.subject, names, "subject")
        noted = await knowledge.learnt.alter(Alteration(args.subject, args.kind or "deploy", detail, who(), at))
    if display.as_json:
        display.json({"change": noted})
        return OK
    what = f"the {noted.kind} of {noted.subject}" + (f" ({noted.detail})" if noted.detail else "")
    display.line(f"Noted: {what}, {display.when(noted.at)}.")
    if display.now - at > LATE:
        display.line("That is too long ago to tie anything to it; it is shown with incidents of that time.")
    elif place.daemon is None:
        display.line("No daemon runs; the next one is told of it if it starts within an hour of then.")
    return OK


async def _listed(args: Namespace, display: Display) -> int:
    async with opened(place_of(args)) as knowledge:
        found = await knowledge.learnt.alterations(limit=args.limit)
    newest = list(reversed(found))
    if display.as_json:
        display.json({"changes": newest})
    elif not newest:
        display.line("No change was noted yet. `x0tta6bl4 changed SUBJECT --detail v2.3` notes a deploy.")
    else:
        display.table(
            ("SUBJECT", "KIND", "WHEN", "WHO", "WHAT"),
            [(one.subject, one.kind, display.when(one.at), one.who, one.detail) for one in newest],
        )
    return OK


async def _names(knowledge: Knowledge) -> set[str]:
    """Those under care, those that were ever in trouble, and this host itself."""
    return {s.name for s in await knowledge.subjects()} | set(await knowledge.incident_subjects()) | {THE_HOST}


async def _learnt_of(knowledge: Knowledge) -> set[str]:
    """Those of which something is seen: nobody need take care of a disk for its numbers to change."""
    kept = await knowledge.learnt.kept("baseline")
    if kept is None:
        return set()
    from x0tta6bl4.judgement.snapshots import unpack  # numpy: only where something was learnt

    try:
        return {subject for subject, _ in unpack(kept[0])[1]["series"]}
    except (ValueError, KeyError, TypeError):
        return set()  # the daemon tells that it cannot be read


def moment(text: str, now: float) -> float:
    """Wall-clock seconds, from words such as ``5m ago``, ``14:05`` (the latest one) or ISO 8601; local without a zone.

    Refusal for what is none, and for what lies in the future.
    """
    at = _moment(text.strip(), now)
    if at > now:
        raise Refusal(f"--at {quoted(text)} lies in the future: note it when it was done")
    if at < now - LONGEST_AGO:
        raise Refusal(f"--at {quoted(text)} is more than a year ago")
    return at


def _moment(text: str, now: float) -> float:
    ago = text.removesuffix("ago").strip()
    try:
        return now - as_seconds(ago)
    except ValueError:
        pass
    try:
        if text.count("-") == 0 and len(text) <= 8 and ":" in text:
            today = datetime.combine(datetime.fromtimestamp(now).date(), datetime.strptime(text, _clock(text)).time())
            return today.timestamp() if today.timestamp() <= now else today.timestamp() - 86400.0
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise Refusal(
            f"--at {quoted(text)} is no moment",
            remedy="say how long ago (5m ago), a time of the day (14:05), or a date with it (2030-01-01T14:05Z)",
        ) from error


def _clock(text: str) -> str:
    return "%H:%M:%S" if text.count(":") == 2 else "%H:%M"
