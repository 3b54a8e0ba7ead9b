"""Makes, lists, replaces and revokes the keys with which programs ask the endpoint."""

import asyncio
import os
import pwd
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.cli.display import Display, plural
from x0tta6bl4.cli.exits import OK, PERMISSION, Refusal, quoted
from x0tta6bl4.cli.places import Place, opened, place_of, who
from x0tta6bl4.kernel.memory import plain
from x0tta6bl4.knowledge.sqlite import migrations
from x0tta6bl4.settings.mistakes import nearest
from x0tta6bl4.status.access import FRESH, Access, AccessError, Key, NewKey, Scope
from x0tta6bl4.status.links import kept_key
from x0tta6bl4.status.passwords import PasswordRefused


def create(args: Namespace) -> int:
    return asyncio.run(_create(args, Display(args)))


def list_(args: Namespace) -> int:
    return asyncio.run(_list(args, Display(args)))


def rotate(args: Namespace) -> int:
    return asyncio.run(_rotate(args, Display(args)))


def revoke(args: Namespace) -> int:
    return asyncio.run(_revoke(args, Display(args)))


async def _create(args: Namespace, display: Display) -> int:
    place = place_of(args)
    with in_our_words():
        async with access_of(place, create=True) as access:
            made = await access.create_key(
                args.name, Scope(args.scope), who(), per_minute=args.per_minute, expires_in=args.expires
            )
    if display.as_json:
        display.json({"key": made.text, "about": _about(display, made.about)})
    else:
        _show(display, made, _until(display, made.about))
    return OK


async def _list(args: Namespace, display: Display) -> int:
    async with access_of(place_of(args)) as access:
        keys = await access.keys()
    if display.as_json:
        display.json({"keys": [_about(display, key) for key in keys]})
    elif not keys:
        display.line("There is no key. `x0tta6bl4 keys create NAME --scope read` makes one.")
    else:
        display.table(
            ("ID", "NAME", "SCOPE", "STATE", "PER MINUTE", "LAST USED", "HOLDS"),
            [
                (
                    key.id,
                    key.name,
                    str(key.scope),
                    key.state(display.now),
                    str(key.per_minute or "as all"),
                    display.ago(key.used_at) if key.used_at is not None else "never",
                    _until(display, key),
                )
                for key in keys
            ],
            states=3,
        )
    return OK


async def _rotate(args: Namespace, display: Display) -> int:
    place = place_of(args)
    with in_our_words():
        async with access_of(place) as access:
            known = {key.name for key in await access.keys() if key.state(display.now) == "live"}
            if args.name not in known:
                raise Refusal(f"no key called {quoted(args.name)} holds; {_hint(args.name, known)}")
            made, old = await access.rotate_key(args.name, args.overlap, who())
    if display.as_json:
        display.json({"key": made.text, "about": _about(display, made.about), "before": _about(display, old)})
    else:
        _show(display, made, _until(display, made.about))
        display.line(f"The one before it, {old.id}, {_until(display, old)}.")
    return OK


async def _revoke(args: Namespace, display: Display) -> int:
    place = place_of(args)
    async with access_of(place) as access:
        ended = await access.revoke_keys(args.key, who())
        live = [key for key in await access.keys() if key.state(display.now) == "live"]
    if not ended:
        known = {key.name for key in live} | {key.id for key in live}
        raise Refusal(f"no key that holds is called {quoted(args.key)}, nor has it for an id; {_hint(args.key, known)}")
    await followed(place)
    if display.as_json:
        display.json({"revoked": [_about(display, key) for key in ended]})
    else:
        names = ", ".join(f"{key.name} ({key.id})" for key in ended)
        display.line(f"{plural(len(ended), 'key')} revoked: {names}. What shows it is refused from now on.")
    return OK


def _show(display: Display, made: NewKey, until: str) -> None:
    about = made.about
    rate = f", {about.per_minute} requests a minute" if about.per_minute else ""
    display.line(f"The key {about.name} ({about.id}) may {about.scope}{rate}, and {until}:")
    display.head(f"  {made.text}")
    display.line("It is shown this once and kept nowhere. Programs send it as `Authorization: Bearer KEY`.")


def _about(display: Display, key: Key) -> dict[str, Any]:
    return {**plain(key), "state": key.state(display.now)}


def _until(display: Display, key: Key) -> str:
    if key.revoked_at is not None:
        return f"was revoked {display.when(key.revoked_at)}"
    if key.expires_at is None:
        return "holds until it is revoked"
    word = "holds until" if key.expires_at > display.now else "held until"
    return f"{word} {display.when(key.expires_at)}"


def _hint(name: str, known: set[str]) -> str:
    return (nearest(name, known) or "`x0tta6bl4 keys list` tells all") if known else "there is none at all"


# -- what the commands about operators and sessions need as well ---------------------------------------------------


@asynccontextmanager
async def access_of(place: Place, *, create: bool = False) -> AsyncIterator[Access]:
    """Who may ask, as the store has it. ``create``: the first key may be made before the first daemon runs."""
    if create:
        _must_be_ours(place)
    async with opened(place, create=create and not place.store.exists()) as knowledge:
        database = await SqliteDatabase.open(place.store, migrations(), check=False)
        try:
            yield Access(database, knowledge.audit, SystemClock(), partial(kept_key, place.state_dir / "sign-in.key"))
        finally:
            await database.close()


def _must_be_ours(place: Place) -> None:
    """A store that root makes in the folder of another user would be one that the daemon cannot open."""
    try:
        owner = os.stat(place.state_dir).st_uid
    except OSError:
        return  # it is made with the store, or what is wrong with it is said then
    if owner != os.geteuid() and not place.store.exists():
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"#{owner}"
        raise Refusal(
            f"{place.state_dir} belongs to {name}", PERMISSION, remedy=f"ask as that user: sudo -u {name} x0tta6bl4 …"
        )


@contextmanager
def in_our_words() -> Iterator[None]:
    """What cannot be done as it was said is the mistake of who said it, and has that exit code."""
    try:
        yield
    except PasswordRefused as error:
        raise Refusal(f"this password will not do: {error.message}") from error
    except AccessError as error:
        raise Refusal(error.message, remedy=error.remedy) from error


async def followed(place: Place) -> None:
    """Returns when a running daemon has noticed: what is said to be over must be over."""
    if place.daemon is not None:
        await asyncio.sleep(FRESH)
