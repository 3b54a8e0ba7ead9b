"""Examines this host: what the daemon needs and lacks here, each with the line that mends it."""

import asyncio
import errno
import os
import shutil
import socket
import sys
import tempfile
from argparse import Namespace
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from x0tta6bl4.cli.display import Display, plural
from x0tta6bl4.cli.exits import BAD, OK
from x0tta6bl4.cli.places import Place, config_of, held_by, overrides_of, place_of
from x0tta6bl4.kernel.errors import ConfigError, ProbeFailed

if TYPE_CHECKING:
    from x0tta6bl4.analyzers.threshold import Limit
    from x0tta6bl4.app import Blueprint

NEEDS_PYTHON = (3, 11)
LEAST_SPACE = 64 << 20
"""Bytes: the journal of some thousand incidents, with room for SQLite's own files beside it."""
RULES = (Path("/etc/polkit-1/rules.d"), Path("/usr/share/polkit-1/rules.d"), Path("/run/polkit-1/rules.d"))
PROBES = frozenset({"http", "tcp", "command"})
PROBES_AT_ONCE = 16
LOOK = 2.5
"""Seconds in which every monitor should have reported: rates need two looks, and most look once a second."""


@dataclass(frozen=True)
class Examined:
    what: str
    status: str
    """``ok``, ``warning`` (the daemon can do without) or ``missing``."""
    says: str
    mend: str = ""


def run(args: Namespace) -> int:
    return asyncio.run(_run(args, Display(args)))


async def _run(args: Namespace, display: Display) -> int:
    found = [one async for one in examine(args)]
    lacking = [one for one in found if one.status == "missing"]
    if display.as_json:
        display.json({"ok": not lacking, "checks": found})
        return BAD if lacking else OK
    display.table(("WHAT", "STATUS", "SAYS"), [(o.what, o.status, o.says) for o in found], states=1)
    to_mend = [one for one in found if one.mend and one.status != "ok"]
    if to_mend:
        display.line()
        display.head("How to mend it")
        for one in to_mend:
            display.line(f"{one.what}: {one.mend}", 2)
    display.line()
    display.line(
        f"{plural(len(lacking), 'thing')} that the daemon needs {'is' if len(lacking) == 1 else 'are'} missing."
        if lacking
        else "Nothing that the daemon needs is missing."
    )
    return BAD if lacking else OK


async def examine(args: Namespace) -> AsyncIterator[Examined]:
    from x0tta6bl4.app import read

    for check in (_python, _pidfd, _pressure):
        yield check()
    config = config_of(args)
    try:
        _, blueprint = await asyncio.to_thread(read, config, os.environ, overrides_of(args))
    except ConfigError as error:
        first = str(error.problems[0]) if error.problems else error.message
        more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
        yield Examined("configuration", "missing", first + more, f"x0tta6bl4 validate {config or ''}".rstrip())
        return
    yield Examined("configuration", "ok", f"{config or 'the defaults'}: {plural(len(blueprint.cares), 'subject')}")
    place = place_of(args)
    if place.state_dir != blueprint.places.state_dir:
        place = Place(blueprint.places.state_dir, None)
    yield _state_dir(place.state_dir)
    yield _space(place.state_dir)
    yield _lock(place, blueprint)
    yield _endpoint(place, blueprint)
    yield _liboqs(blueprint)
    for examined in _programs(blueprint):
        yield examined
    units = {str(c.subject.data["unit"]): c.subject.mode for c in blueprint.cares if "unit" in c.subject.data}
    for examined in _systemd(units, reads_journal=_reads_journal(blueprint)):
        yield examined
    async for examined in _units(units):
        yield examined
    async for examined in _probes(blueprint, place):
        yield examined
    async for examined in _limits(blueprint):
        yield examined


# -- the host ----------------------------------------------------------------------------------------------------------


def _python() -> Examined:
    have = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= NEEDS_PYTHON:
        return Examined("python", "ok", have)
    return Examined(
        "python", "missing", f"{have} is too old", f"install Python {'.'.join(map(str, NEEDS_PYTHON))} or newer"
    )


def _pidfd() -> Examined:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError) as error:
        return Examined(
            "pidfd",
            "missing",
            f"processes cannot be held by descriptor: {error}",
            "use a kernel of 5.3 or newer, and a container runtime whose seccomp profile lets pidfd_open through",
        )
    return Examined("pidfd", "ok", "the end of a process is told at once")


def _pressure() -> Examined:
    lacking = []
    for resource in ("cpu", "memory", "io"):
        try:
            with open(f"/proc/pressure/{resource}", encoding="ascii") as file:
                file.read(1)
        except OSError:
            lacking.append(resource)
    if not lacking:
        return Examined("pressure", "ok", "overload can be told from failure")
    return Examined(
        "pressure",
        "warning",
        f"no /proc/pressure for {', '.join(lacking)}: overload looks like failure",
        "boot with psi=1 on the kernel's command line",
    )


def _state_dir(folder: Path) -> Examined:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if existing == folder and not folder.is_dir():
        return Examined("state", "missing", f"{folder} is no folder", "move it away, or set state_dir to another place")
    if os.access(existing, os.W_OK | os.X_OK):
        how = "writable" if existing == folder else "will be made"
        return Examined("state", "ok", f"{folder} ({how})")
    return Examined(
        "state",
        "missing",
        f"{existing} is not writable for uid {os.geteuid()}",
        f"sudo install -d -m 700 -o {os.geteuid()} {folder}, or set state_dir to another place",
    )


def _space(folder: Path) -> Examined:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
        inodes = os.statvfs(folder)
    except OSError as error:
        return Examined("disk", "missing", f"{folder}: {error.strerror}", "see what is wrong with that filesystem")
    if free < LEAST_SPACE:
        return Examined(
            "disk",
            "missing",
            f"{free >> 20} MiB are free in {folder}; the journal needs {LEAST_SPACE >> 20}",
            f"free some space: du -xh {folder} | sort -h | tail",
        )
    if inodes.f_files and not inodes.f_favail:
        return Examined(
            "disk", "missing", f"no inode is free in {folder}", f"find what has so many files: du -x --inodes {folder}"
        )
    return Examined("disk", "ok", f"{free >> 20} MiB are free in {folder}")


def _lock(place: Place, blueprint: "Blueprint") -> Examined:
    from x0tta6bl4.app import lock_file_of

    if place.daemon is not None:
        return Examined("lock", "ok", f"the daemon runs: pid {place.daemon.pid}, since {place.daemon.since}")
    path = lock_file_of(blueprint.settings, blueprint.places.config_dir)
    for lock in (path, place.state_dir / "daemon.lock"):  # the daemon takes both
        holder = held_by(lock)
        if holder:
            return Examined(
                "lock",
                "missing",
                f"another daemon holds {lock}: {holder}",
                "stop that one first: two on one host would heal against each other",
            )
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if os.access(path if path.exists() else folder, os.W_OK):
        return Examined("lock", "ok", f"{path} can be taken; no daemon runs")
    return Examined(
        "lock", "missing", f"{path} is not writable for uid {os.geteuid()}", "set lock_file to another place"
    )


def _endpoint(place: Place, blueprint: "Blueprint") -> Examined:
    status = blueprint.settings.status
    if not status.enabled:
        return Examined("endpoint", "warning", "switched off: no status page, metrics or probes", "set status.enabled")
    where = f"{status.host}:{status.port}"
    if place.daemon is not None and place.daemon.url:
        return Examined("endpoint", "ok", f"served by the daemon at {place.daemon.url}")
    try:
        family, kind, number, _, address = socket.getaddrinfo(status.host, status.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, number) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and place.daemon is not None:
            return Examined(
                "endpoint",
                "warning",
                f"{where} is taken by another program; the daemon runs without its page",
                "set status.port to a free one and reload",
            )
        return Examined(
            "endpoint",
            "missing",
            f"{where} cannot be opened: {(error.strerror or str(error)).lower()}",
            f"set status.port to a free one (0 takes any); who has it: ss -ltnp sport = :{status.port}",
        )
    return Examined("endpoint", "ok", f"{where} is free")


def _liboqs(blueprint: "Blueprint") -> Examined:
    from x0tta6bl4.settings.production import liboqs_is_there

    if liboqs_is_there():
        return Examined("liboqs", "ok", "the library and its Python binding are there")
    settings = blueprint.settings
    needed = settings.in_production or settings.pqc.required or settings.flags.get("pqc_required", False)
    return Examined(
        "liboqs",
        "missing" if needed else "warning",
        "not installed" + ("" if needed else "; needed in production only"),
        "install the C library liboqs, then: pip install 'liboqs-python>=0.14.1'",
    )


# -- what the configuration names --------------------------------------------------------------------------------------


def _programs(blueprint: "Blueprint") -> Iterator[Examined]:
    """Every program that the daemon would start: those it supervises, checks and remedies."""
    wanted: list[tuple[str, str]] = [(f"subject {p.name}", p.argv[0]) for p in blueprint.programs]
    for family in ("monitors", "executors"):
        for chosen in blueprint.chosen[family]:
            argv = getattr(chosen.config, "argv", None)
            if argv:
                wanted.append((f"{family} {chosen.name}", argv[0]))
            commands = getattr(chosen.config, "commands", None)
            if isinstance(commands, dict):
                wanted += [(f"command {name}", c.argv[0]) for name, c in commands.items() if getattr(c, "argv", None)]
    good = 0
    for what, path in wanted:
        if not os.path.isabs(path):
            yield Examined(
                what, "missing", f"{path} is no absolute path", f"name it in full: {shutil.which(path) or path}"
            )
        elif not os.path.isfile(path):
            yield Examined(what, "missing", f"there is no {path}", "install it, or mend the path in the configuration")
        elif not os.access(path, os.X_OK):
            yield Examined(what, "missing", f"{path} is not executable", f"chmod +x {path}")
        else:
            good += 1
    if good:
        yield Examined("programs", "ok", f"{plural(good, 'program')} named in the configuration can be run")


def _reads_journal(blueprint: "Blueprint") -> bool:
    return any(
        chosen.keys.use == "log" and getattr(chosen.config, "unit", None) for chosen in blueprint.chosen["monitors"]
    )


def _systemd(units: Mapping[str, str], *, reads_journal: bool) -> Iterator[Examined]:
    from x0tta6bl4.adapters.systemd import is_journal_readable

    there = os.path.isdir("/run/systemd/system")
    if not there:
        yield Examined(
            "systemd",
            "missing" if units else "warning",
            "not running here" + (f", and {plural(len(units), 'unit')} named in the configuration" if units else ""),
            "let the daemon start the processes itself (process:), or run it on a host that systemd has booted",
        )
    else:
        yield Examined("systemd", "ok", "running")
    if not is_journal_readable():
        yield Examined(
            "journal",
            "missing" if reads_journal else "warning",
            "not readable: who stopped a unit cannot be told, so a clean stop counts as wanted",
            "sudo usermod -aG systemd-journal USER (the daemon's), then restart it",
        )
    else:
        yield Examined("journal", "ok", "readable")
    acts = any(mode in ("approve", "auto") for mode in units.values())
    if there and acts and os.geteuid() != 0:
        yield _polkit()


def _polkit() -> Examined:
    unread = []
    for folder in RULES:
        try:
            for file in folder.glob("*.rules"):
                if "x0tta6bl4" in file.name or "x0tta6bl4" in file.read_text(encoding="utf-8", errors="replace"):
                    return Examined("polkit", "ok", str(file))
            os.listdir(folder)
        except FileNotFoundError:
            continue
        except PermissionError:
            unread.append(str(folder))
    mend = "install the rule shipped in systemd/ into /etc/polkit-1/rules.d and name the units in it"
    if unread:
        return Examined(
            "polkit", "warning", f"{', '.join(unread)} cannot be read by this user, so nobody can say", mend
        )
    return Examined("polkit", "missing", "no rule lets this user restart units", mend)


async def _units(units: Mapping[str, str]) -> AsyncIterator[Examined]:
    from x0tta6bl4.adapters.commands import LinuxCommands
    from x0tta6bl4.adapters.systemd import SystemctlUnits

    if not units or not os.path.isdir("/run/systemd/system"):
        return
    ask = SystemctlUnits(LinuxCommands())
    good = 0
    for name in units:
        try:
            unit = (await ask.show([name]))[name]
        except ProbeFailed as error:
            yield Examined(f"unit {name}", "missing", error.message, error.remedy or "see `systemctl status`")
            continue
        if unit.load_state == "not-found":
            yield Examined(f"unit {name}", "missing", "systemd knows no such unit", "install it, or mend its name")
        elif unit.load_state not in ("loaded", "masked"):
            yield Examined(f"unit {name}", "missing", f"its file is {unit.load_state}", f"systemctl cat {name}")
        else:
            good += 1
    if good:
        yield Examined("units", "ok", f"{plural(good, 'unit')} named in the configuration are known to systemd")


async def _probes(blueprint: "Blueprint", place: Place) -> AsyncIterator[Examined]:
    """One look by each probe. A service that is down is what the daemon is for; a mistyped address looks the same."""
    from x0tta6bl4.app import LaterDatabase, tools_of
    from x0tta6bl4.kernel.plugin import Monitor
    from x0tta6bl4.kernel.supervise import Failure, guarded

    chosen = [c for c in blueprint.chosen["monitors"] if c.keys.use in PROBES]
    if not chosen:
        return
    tools = tools_of(blueprint, LaterDatabase(place.state_dir / "unopened"))
    limit = asyncio.Semaphore(PROBES_AT_ONCE)

    async def look(monitor: Monitor, timeout: float | None) -> str:
        """Empty when the answer is good, else what is wrong with it."""
        async with limit:
            seen = await guarded(monitor.observe, timeout)
        if isinstance(seen, Failure):
            return f"cannot look: {seen.message}"
        return next((o.detail or f"{o.metric} is 0" for o in seen if o.metric.endswith("_up") and o.value < 0.5), "")

    answers = await asyncio.gather(
        *(look(c.plugin.build(c.name, c.config, tools), c.keys.timeout or c.plugin.timeout) for c in chosen)
    )
    for one, trouble in zip(chosen, answers, strict=True):
        if not trouble:
            continue
        supervised = getattr(one.config, "subject", "") in {p.name for p in blueprint.programs}
        if supervised and place.daemon is None:
            yield Examined(f"probe {one.name}", "ok", f"{trouble}; the daemon will start it when it begins")
        else:
            yield Examined(
                f"probe {one.name}", "warning", trouble, "see that the address is right; else the service is down"
            )
    good = answers.count("")
    if good:
        yield Examined("probes", "ok", f"{plural(good, 'probe')} of {len(answers)} are answered well now")


def own_limits(blueprint: "Blueprint") -> Mapping[str, "Limit"]:
    """The limits that the operator wrote, by where they stand. Of those that are there unasked, many are for what only
    some hosts have."""
    from x0tta6bl4.analyzers.threshold import Config
    from x0tta6bl4.app import DEFAULTS

    found: dict[str, Limit] = {}
    for chosen in blueprint.chosen["analyzers"]:
        if isinstance(chosen.config, Config):
            usual = DEFAULTS["analyzers"].get(chosen.name, {}).get("limits", {})
            for name, limit in chosen.config.limits.items():
                if usual.get(name, {}).get("metric") != limit.metric:
                    found[f"analyzers.{chosen.name}.limits.{name}"] = limit
    return found


async def _limits(blueprint: "Blueprint") -> AsyncIterator[Examined]:
    """A limit on what nobody reports is never reached: a mistyped metric looks just like one that is always well."""
    from x0tta6bl4.cli.simulate import Said, look, quiet

    limits = own_limits(blueprint)
    if not limits:
        return
    with quiet():
        outlook = await look(blueprint, Said(), LOOK)
    reported: dict[str, set[str]] = {}
    for seen in outlook.seen:
        reported.setdefault(seen.metric, set()).add(seen.subject)
    dead = {seen.subject for seen in outlook.seen if seen.metric == "process_up" and seen.value < 0.5}
    for metric in await _of_a_process(blueprint) if dead else ():
        reported.setdefault(metric, set()).update(dead)
    good = 0
    for where, limit in limits.items():
        subjects = reported.get(limit.metric, set())
        if any(_is_of(subject, limit) for subject in subjects):
            good += 1
            continue
        # What is down or cannot be looked at now may report more another time.
        silent = {s.name for s in outlook.subjects if s.state != "well" and _is_of(s.name, limit)}
        silent |= {name for name, _ in outlook.blind}
        if subjects:
            says = f"{limit.metric} is reported of {_few(subjects)} only, not of {', '.join(limit.subjects)}"
            mend = "mend its subjects"
        else:
            near = get_close_matches(limit.metric, reported, n=3, cutoff=0.5)
            says = f"no monitor reported {limit.metric} within {LOOK:g} s; " + (
                f"near it: {', '.join(near)}" if near else f"reported were {_few(reported)}"
            )
            mend = "mend its metric; `x0tta6bl4 why SUBJECT --metrics` lists those of a subject"
        if silent:
            says += f" (not well now, so it may report more later: {_few(silent)})"
        yield Examined(where, "warning", says, mend)
    if good:
        yield Examined("limits", "ok", f"{plural(good, 'limit')} of {len(limits)} are on metrics that are reported")


def _is_of(subject: str, limit: "Limit") -> bool:
    return any(fnmatchcase(subject, pattern) for pattern in limit.subjects)


async def _of_a_process(blueprint: "Blueprint") -> frozenset[str]:
    """What is reported of a process that lives, learnt from our own: before the daemon runs, those in its care do not,
    and one that does not live tells only that."""
    from x0tta6bl4.app import LaterDatabase, tools_of
    from x0tta6bl4.monitors import process

    tools = tools_of(blueprint, LaterDatabase(blueprint.places.state_dir / "unopened"))
    with tempfile.NamedTemporaryFile("w", prefix="x0tta6bl4-doctor-", suffix=".pid") as file:
        file.write(str(os.getpid()))
        file.flush()
        monitor = process.PLUGIN.build("doctor", process.Config(subject="doctor", pid_file=file.name), tools)
        try:
            await monitor.observe()
            await asyncio.sleep(2 * process.SHORTEST)  # its share of the CPU needs two looks
            return frozenset(seen.metric for seen in await monitor.observe())
        except (ProbeFailed, OSError):
            return frozenset()  # then what is not reported is told as such, with who is not well beside it


def _few(names: Iterable[str]) -> str:
    shown = sorted(names)
    return (", ".join(shown[:12]) or "none") + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
