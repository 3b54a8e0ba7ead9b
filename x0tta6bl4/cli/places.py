"""Finds what a command speaks of: the configuration, the daemon's store, and the daemon itself if one runs."""

import fcntl
import json
import os
import pwd
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from x0tta6bl4.cli.exits import NO_STORE, PERMISSION, USAGE, Refusal, quoted
from x0tta6bl4.kernel.errors import ConfigError

if TYPE_CHECKING:
    from x0tta6bl4.knowledge.sqlite import SqliteKnowledge

USUAL = (Path("config/x0tta6bl4.yaml"), Path("/etc/x0tta6bl4/x0tta6bl4.yaml"))
LOCKS = (Path("/run/x0tta6bl4/daemon.lock"), Path("/run/x0tta6bl4.lock"))
"""Where the daemon's lock lies under systemd, and where it lies for root. Only the daemon itself has the environment
variables that say so."""


@dataclass(frozen=True)
class Holder:
    """The daemon that runs, as its lock file tells."""

    pid: int
    since: str
    config: str
    state_dir: Path
    url: str = ""
    """Of its endpoint; empty when it has none."""


@dataclass(frozen=True)
class Place:
    state_dir: Path
    daemon: Holder | None

    @property
    def store(self) -> Path:
        return self.state_dir / "knowledge.db"


def config_of(args: Namespace) -> Path | None:
    """The configuration that is meant: given, named by the environment, or lying where it usually does."""
    given = getattr(args, "file", None) or args.config or os.environ.get("X0TTA6BL4_CONFIG")
    if given:
        return Path(given)
    return next((path for path in USUAL if os.path.exists(path)), None)


def overrides_of(args: Namespace) -> dict[str, Any]:
    """The settings that were given as options."""
    from x0tta6bl4.settings.document import DEEPEST, parse_value

    found: dict[str, Any] = {}
    if args.state_dir is not None:
        found["state_dir"] = str(Path(args.state_dir).absolute())  # a path in the file would lie beside the file
    for text in args.set:
        key, equals, value = text.partition("=")
        parts = key.split(".")
        if not equals or "" in parts or len(parts) > DEEPEST or not key.isprintable():
            raise Refusal(f"--set {quoted(text)} should be KEY=VALUE, such as --set guard.mode=observe")
        found[key], problems = parse_value(value, f"option {key}")
        if problems:
            raise Refusal(f"--set {quoted(text)}: {problems[0].message}")
    return found


def place_of(args: Namespace) -> Place:
    """The store that is meant, and the daemon over it. Mistakes elsewhere in the configuration hide neither."""
    from x0tta6bl4.app import lock_file_of, state_dir_of

    config = config_of(args)
    folder = config.resolve().parent if config is not None else Path.cwd()
    settings = _settings(config, args.state_dir)
    state_dir = Path(args.state_dir).absolute() if args.state_dir else state_dir_of(settings, folder)
    if state_dir.name == "knowledge.db":
        raise Refusal(f"--state-dir wants the folder, not the file in it: {state_dir.parent}")
    holders = list(_holders(dict.fromkeys([lock_file_of(settings, folder), state_dir / "daemon.lock", *LOCKS])))
    for holder in holders:
        if _same(holder.state_dir, state_dir):
            return Place(state_dir, holder)
    if config is None and args.state_dir is None and "STATE_DIRECTORY" not in os.environ and holders:
        # Nobody said which: then the daemon that runs here is meant.
        return Place(holders[0].state_dir, holders[0])
    return Place(state_dir, None)


def _settings(config: Path | None, state_dir: str | None) -> Any:
    from x0tta6bl4.settings.document import read
    from x0tta6bl4.settings.load import load

    try:
        return load(config, os.environ, {}).settings
    except ConfigError as error:
        document = read(config) if config is not None else None
        if document is None or not document.is_complete:
            if state_dir is None:
                raise error.with_remedy("mend that, or name the daemon's folder with --state-dir") from error
            document = None
        print(
            f"x0tta6bl4: {config or 'the configuration'} has mistakes (`x0tta6bl4 validate` tells them); "
            "only its places are used",
            file=sys.stderr,
        )
        places = {key: document.value.get(key) for key in ("state_dir", "lock_file")} if document else {}
        return load(None, {}, places).settings


def _holders(locks: Iterable[Path]) -> Iterable[Holder]:
    for lock in locks:
        holder = _holder(lock)
        if holder is not None:
            yield holder


def _holder(lock: Path) -> Holder | None:
    """Who holds this lock now. What a killed daemon left in the file does not count."""
    try:
        with lock.open("rb") as file:
            told = json.loads(file.read(65536))
            holder = Holder(
                int(told["pid"]),
                str(told["since"]),
                str(told["config"]),
                Path(told["state_dir"]),
                str(told.get("url") or ""),
            )
            if not os.path.exists(f"/proc/{holder.pid}"):
                return None
            # Asked only where a live process is named: a lock that we hold even for a moment could turn a daemon away.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return holder
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def held_by(lock: Path) -> str:
    """Who holds this lock now, in words; empty when it is free. Takes and releases it: for a person who asks once."""
    try:
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                told = file.read(65536)
            else:
                return ""
    except OSError:
        return ""  # there is none, or it is not for this user
    try:
        about = json.loads(told)
        return f"pid {about['pid']}, since {about['since']}, with {about['config']}, over {about['state_dir']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has not said who it is"


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


@asynccontextmanager
async def opened(place: Place, *, create: bool = False) -> AsyncIterator["SqliteKnowledge"]:
    """The store, whether or not a daemon runs over it. Never made by those who only ask."""
    from x0tta6bl4.adapters.clock import SystemClock
    from x0tta6bl4.adapters.sqlite import SqliteDatabase
    from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations

    if not create:
        _must_exist(place.store)
    database = await SqliteDatabase.open(place.store, migrations(), check=False)
    try:
        yield SqliteKnowledge("store", Config(), database, SystemClock())
    finally:
        await database.close()


def _must_exist(store: Path) -> None:
    try:
        owner = pwd.getpwuid(os.stat(store).st_uid).pw_name
    except KeyError:
        owner = "another user"
    except PermissionError as error:
        raise Refusal(
            f"{store} is not for this user", PERMISSION, remedy="ask as the user the daemon runs as, or with sudo"
        ) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Refusal(
            f"there is no store at {store}: no daemon has run with this configuration yet",
            NO_STORE,
            remedy="start it with `x0tta6bl4 run`, or say which one with --config FILE or --state-dir DIR",
        ) from error
    if not os.access(store, os.R_OK | os.W_OK) or not os.access(store.parent, os.W_OK):
        raise Refusal(
            f"{store} belongs to {owner}", PERMISSION, remedy=f"ask as that user: sudo -u {owner} x0tta6bl4 …"
        )


def who() -> str:
    """Who asks, for the audit trail: the person behind sudo where there is one."""
    if os.geteuid() == 0 and (behind := os.environ.get("SUDO_USER")):
        return f"{behind}@cli"
    try:
        return f"{pwd.getpwuid(os.getuid()).pw_name}@cli"
    except KeyError:
        return f"uid {os.getuid()}@cli"


def known_or_refuse(name: str, names: Iterable[str], what: str) -> None:
    """Refusal with the nearest name, unless it is one of them."""
    from x0tta6bl4.settings.mistakes import nearest

    known = sorted(set(names))
    if name not in known:
        hint = nearest(name, known) or (f"there are {len(known)}" if known else "there is none at all")
        raise Refusal(f"there is no {what} {quoted(name)}; {hint}", USAGE)
