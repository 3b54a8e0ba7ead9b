"""Adds, lists, changes and removes the people who may sign in on the endpoint's page."""

import asyncio
import sys
from argparse import Namespace
from getpass import getpass
from pathlib import Path

from x0tta6bl4.cli.display import Display, plural
from x0tta6bl4.cli.exits import OK, Refusal
from x0tta6bl4.cli.keys import access_of, followed, in_our_words
from x0tta6bl4.cli.places import known_or_refuse, place_of, who
from x0tta6bl4.status.access import Access, Scope

LONGEST = 4096
"""Bytes of a password file that are read; a longer one is another file."""


def add(args: Namespace) -> int:
    return asyncio.run(_add(args, Display(args)))


def list_(args: Namespace) -> int:
    return asyncio.run(_list(args, Display(args)))


def password(args: Namespace) -> int:
    return asyncio.run(_password(args, Display(args)))


def scope(args: Namespace) -> int:
    return asyncio.run(_scope(args, Display(args)))


def remove(args: Namespace) -> int:
    return asyncio.run(_remove(args, Display(args)))


async def _add(args: Namespace, display: Display) -> int:
    with in_our_words():
        async with access_of(place_of(args), create=True) as access:
            if args.name in await _names(access):  # said before anybody types a password for nothing
                raise Refusal(
                    f"there is an operator called {args.name} already",
                    remedy=f"`x0tta6bl4 operators password {args.name}` gives them another password",
                )
            await access.add_operator(args.name, read_password(args), Scope(args.scope), who())
    if display.as_json:
        display.json({"operator": args.name, "scope": args.scope})
    else:
        display.line(f"{args.name} can sign in on the page now, with the scope {args.scope}.")
    return OK


async def _list(args: Namespace, display: Display) -> int:
    async with access_of(place_of(args)) as access:
        operators = await access.operators()
    if display.as_json:
        display.json({"operators": operators})
    elif not operators:
        display.line("There is no operator. `x0tta6bl4 operators add NAME --scope operate` adds one.")
    else:
        display.table(
            ("NAME", "SCOPE", "SESSIONS", "CHANGED", "ADDED BY"),
            [(o.name, str(o.scope), str(o.sessions), display.when(o.changed_at), o.created_by) for o in operators],
        )
    return OK


async def _password(args: Namespace, display: Display) -> int:
    place = place_of(args)
    with in_our_words():
        async with access_of(place) as access:
            known_or_refuse(args.name, await _names(access), "operator")
            ended = await access.set_password(args.name, read_password(args), who())
    await followed(place)
    return _changed(display, args.name, ended, f"{args.name} has another password now")


async def _scope(args: Namespace, display: Display) -> int:
    place = place_of(args)
    with in_our_words():
        async with access_of(place) as access:
            known_or_refuse(args.name, await _names(access), "operator")
            ended = await access.set_scope(args.name, Scope(args.scope), who())
    await followed(place)
    return _changed(display, args.name, ended, f"{args.name} has the scope {args.scope} now")


async def _remove(args: Namespace, display: Display) -> int:
    place = place_of(args)
    with in_our_words():
        async with access_of(place) as access:
            known_or_refuse(args.name, await _names(access), "operator")
            ended = await access.remove_operator(args.name, who())
    await followed(place)
    return _changed(display, args.name, ended, f"{args.name} cannot sign in any more")


async def _names(access: Access) -> set[str]:
    return {operator.name for operator in await access.operators()}


def _changed(display: Display, name: str, ended: int, said: str) -> int:
    if display.as_json:
        display.json({"operator": name, "sessions_ended": ended})
    else:
        display.line(f"{said}; {plural(ended, 'session')} ended.")
    return OK


def read_password(args: Namespace) -> str:
    """From the file that was named, or asked for twice. Never from the command line: others can read that."""
    if args.password_file is not None:
        return _from_file(args.password_file)
    if not sys.stdin.isatty():
        raise Refusal(
            "a password is asked for at a terminal, and there is none",
            remedy="put it into a file and say --password-file FILE (- for standard input)",
        )
    try:
        first = getpass(f"Password for {args.name}: ")
        again = getpass("Once more: ")
    except EOFError as error:
        raise Refusal("no password was typed; nothing was changed") from error
    if first != again:
        raise Refusal("the two are not the same; nothing was changed")
    return first


def _from_file(name: str) -> str:
    shown = "standard input" if name == "-" else name
    if name == "-":
        data = sys.stdin.buffer.read(LONGEST + 1)
    else:
        with Path(name).open("rb") as file:
            data = file.read(LONGEST + 1)
    try:
        lines = data.decode("utf-8").splitlines() if len(data) <= LONGEST else []
    except UnicodeDecodeError:
        lines = []
    if len(lines) != 1:
        raise Refusal(f"{shown} should hold one line, the password, in UTF-8")
    return lines[0]
