"""Puts the daemon together and keeps it together: the one module that may know all the others."""

import asyncio
import contextlib
import fcntl
import fnmatch
import gc
import json
import logging
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from x0tta6bl4 import __version__
from x0tta6bl4.adapters.alerts import AlertInbox
from x0tta6bl4.adapters.allocator import give_back
from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.commands import LinuxCommands
from x0tta6bl4.adapters.files import LinuxFiles
from x0tta6bl4.adapters.host import LinuxHost
from x0tta6bl4.adapters.messages import OutboundMessages
from x0tta6bl4.adapters.network import AsyncNetwork
from x0tta6bl4.adapters.processes import LinuxProcesses
from x0tta6bl4.adapters.scheduler import ApScheduler
from x0tta6bl4.adapters.sdnotify import notify
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.adapters.systemd import SystemctlUnits
from x0tta6bl4.kernel.bus import EventBus
from x0tta6bl4.kernel.errors import AlreadyRunning, ConfigError, PluginError, Problem, StoreError, X0tError
from x0tta6bl4.kernel.events import Event, EventType
from x0tta6bl4.kernel.flags import FeatureFlags, known_flag
from x0tta6bl4.kernel.health import HealthChecker
from x0tta6bl4.kernel.loop import MAPEK, Parts
from x0tta6bl4.kernel.plugin import Tools
from x0tta6bl4.kernel.respond import Catalogue
from x0tta6bl4.kernel.sight import Sight
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.supervise import Failure, guarded
from x0tta6bl4.kernel.watching import Instance
from x0tta6bl4.knowledge.sqlite import migrations
from x0tta6bl4.observability.logging import setup_logging
from x0tta6bl4.observability.metrics import Metrics
from x0tta6bl4.observability.tracker import ExecutionTracker
from x0tta6bl4.ports.database import Row, Transaction
from x0tta6bl4.ports.processes import Program
from x0tta6bl4.runbooks.catalogue import catalogue_of, check
from x0tta6bl4.runbooks.document import Runbook, draft, drafts, parse
from x0tta6bl4.runbooks.shipped import shipped
from x0tta6bl4.settings.care import Care, Places, UnderCare, unfold
from x0tta6bl4.settings.load import Loaded, load, watched_paths
from x0tta6bl4.settings.mistakes import nearest, problems_of
from x0tta6bl4.settings.model import Settings, StatusSettings
from x0tta6bl4.settings.plugins import Chosen, choose, merged, own_names
from x0tta6bl4.settings.production import is_loopback, liboqs_is_there, production_checks
from x0tta6bl4.settings.watch import Changes
from x0tta6bl4.status.access import Access, Scope
from x0tta6bl4.status.face import Condition
from x0tta6bl4.status.links import Links, kept_key

if TYPE_CHECKING:
    from x0tta6bl4.status.desk import Behind

log = logging.getLogger("x0tta6bl4.app")
T = TypeVar("T")

DEFAULTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "monitors": {"host": {"use": "host"}},
    "analyzers": {
        "liveness": {"use": "liveness"},
        "forecast": {"use": "forecast"},
        "baseline": {"use": "baseline"},
        "host": {"use": "host"},
        "change": {"use": "change"},
        "usual-limits": {
            "use": "threshold",
            "limits": {
                "certificate": {
                    "metric": "tls_seconds_left",
                    "below": 7 * 86400.0,
                    "clear": 8 * 86400.0,
                    "fault": "certificate-expiring",
                    "severity": "major",
                },
                "memory-pressure": {
                    "metric": "psi_memory_full_ratio",
                    "above": 0.3,
                    "clear": 0.1,
                    "lasting": 30.0,
                    "fault": "host-overloaded",
                },
                "zombies": {
                    "metric": "process_zombies",
                    "above": 50.0,
                    "clear": 10.0,
                    "lasting": 60.0,
                    "fault": "zombies",
                },
            },
        },
    },
    "planners": {"runbook": {"use": "runbook"}},
    "executors": {
        "process": {"use": "process"},
        "systemd": {"use": "systemd"},
        "cleanup": {"use": "cleanup"},
        "notify": {"use": "notify"},
    },
    "knowledge": {"store": {"use": "sqlite"}},
}
"""What runs without being named; an entry of the same name in the configuration changes or disables it."""
SENSITIVE = ("baseline", "host")
"""Analyzers whose sensitivity ``mapek.anomaly_threshold`` is."""
BETWEEN_LOOPS = 120.0
"""Seconds that a loop may take to end its acts at a reload before the watchdog counts it as stuck."""


# -- from settings to a checked plan of the daemon; nothing is touched yet ---------------------------------------------


@dataclass(frozen=True)
class Blueprint:
    """A configuration whose every part was checked, down to plugins' own settings and the rules."""

    settings: Settings
    places: Places
    cares: tuple[UnderCare, ...]
    subjects: Mapping[str, Subject]
    chosen: Mapping[str, tuple[Chosen, ...]]
    drafts: tuple[Runbook, ...] = ()
    """Runbooks with mistakes, as far as they could be made out: what they ask for is checked with the others'."""

    @property
    def programs(self) -> list[Program]:
        return [care.program for care in self.cares if care.program is not None]


def state_dir_of(settings: Settings, folder: Path) -> Path:
    """A relative one lies beside the configuration file, wherever the daemon is started from."""
    if settings.state_dir is not None:
        return Path(os.path.normpath(folder / settings.state_dir))
    if os.geteuid() == 0:
        return Path("/var/lib/x0tta6bl4")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "x0tta6bl4"


def lock_file_of(settings: Settings, folder: Path) -> Path:
    if settings.lock_file is not None:
        return Path(os.path.normpath(folder / settings.lock_file))
    if runtime := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(runtime.split(":")[0]) / "daemon.lock"
    return Path("/run/x0tta6bl4.lock") if os.geteuid() == 0 else state_dir_of(settings, folder) / "daemon.lock"


def draw(settings: Settings, config: Path | None) -> tuple[Blueprint, list[Problem]]:
    """The blueprint as far as it can be drawn, and every mistake in it."""
    problems: list[Problem] = []
    folder = config.resolve().parent if config is not None else Path.cwd()
    places = Places(sys.executable, state_dir_of(settings, folder), folder)
    cares: list[UnderCare] = []
    for name, raw in settings.subjects.items():
        try:
            cares.append(unfold(name, Care.model_validate(raw), settings.guard.mode, places))
        except ValidationError as error:
            problems += problems_of(error, Care, raw, ("subjects", name))
    subjects = {care.subject.name: care.subject for care in cares}
    problems += _dependency_problems(subjects, set(settings.subjects))

    from_care = {name: entry for care in cares for name, entry in care.monitors.items()}
    rules, unsound, mistakes = _rules(settings, folder)
    problems += mistakes
    planners: dict[str, Mapping[str, Any]] = {k: dict(v) for k, v in DEFAULTS["planners"].items()}
    own_rules = [dict(rule.source) for rule in rules]
    planners["runbook"] = {**planners["runbook"], "rules": own_rules, "equal_tries": settings.guard.equal_tries}
    entries: dict[str, Mapping[str, Mapping[str, Any]]] = {
        "monitors": merged({**DEFAULTS["monitors"], **from_care}, settings.monitors),
        "analyzers": _sensitive(merged(DEFAULTS["analyzers"], settings.analyzers), settings),
        "planners": merged(planners, settings.planners),
        "executors": merged(DEFAULTS["executors"], settings.executors),
        "knowledge": {"store": {**DEFAULTS["knowledge"]["store"], **settings.knowledge}},
    }
    chosen: dict[str, tuple[Chosen, ...]] = {}
    for family, wanted in entries.items():
        found, mistakes = choose(family, wanted)  # type: ignore[arg-type]  # the keys above are the families
        chosen[family] = tuple(found)
        problems += mistakes
    problems += _rule_problems(subjects, [*rules, *unsound, *shipped()])
    if len(chosen["planners"]) != 1 and not any(p.where.startswith("planners") for p in problems):
        problems.append(
            Problem("planners", f"there must be exactly one planner; {len(chosen['planners'])} are enabled")
        )
    for chosen_monitor in chosen["monitors"]:
        if chosen_monitor.keys.use == "alerts" and not settings.status.enabled:
            problems.append(
                Problem(
                    f"monitors.{chosen_monitor.name}",
                    "alerts come by the status endpoint, which is off",
                    hint="set status.enabled: true, or take this monitor out",
                )
            )
    problems += production_checks(settings)
    return Blueprint(settings, places, tuple(cares), subjects, chosen, tuple(unsound)), problems


def _sensitive(analyzers: Mapping[str, Mapping[str, Any]], settings: Settings) -> dict[str, Mapping[str, Any]]:
    """Those that judge by what they learnt are as sensitive as the whole daemon is, unless they say otherwise."""
    whole = {"sensitivity": settings.mapek.anomaly_threshold}
    return {
        name: {**whole, **entry} if entry.get("use", name) in SENSITIVE else entry for name, entry in analyzers.items()
    }


def _dependency_problems(subjects: Mapping[str, Subject], names: set[str]) -> Iterator[Problem]:
    for subject in subjects.values():
        for wanted in subject.depends_on:
            if wanted not in names:
                yield Problem(
                    f"subjects.{subject.name}.depends_on",
                    f"there is no subject {wanted!r}",
                    hint=nearest(wanted, names),
                )
        path: set[str] = set()
        queue = list(subject.depends_on)
        while queue:
            name = queue.pop()
            if name == subject.name:
                yield Problem(
                    f"subjects.{subject.name}.depends_on",
                    "it depends on itself, by way of "
                    f"{', '.join(sorted(path)) or 'nothing'}; nothing of it could ever be healed",
                )
                break
            if name not in path and name in subjects:
                path.add(name)
                queue += subjects[name].depends_on


def _rules(settings: Settings, base: Path) -> tuple[list[Runbook], list[Runbook], list[Problem]]:
    """The operator's own, those of them with mistakes apart; relative paths lie beside the configuration file, wherever
    the daemon is started from."""
    rules: list[Runbook] = []
    unsound: list[Runbook] = []
    problems: list[Problem] = []
    sources: list[Path] = []
    for folder in (base / named for named in settings.rules_dirs):
        if not folder.is_dir():
            problems.append(Problem("rules_dirs", f"there is no folder {str(folder)!r}"))
            continue
        sources += sorted(folder.glob("*.yaml"))
    for number, entry in enumerate(settings.runbooks):
        if isinstance(entry, str):
            place = base / entry
            sources += sorted(place.glob("*.yaml")) if place.is_dir() else [place]
        elif isinstance(entry, Mapping):
            book, mistakes = draft(entry, f"runbooks[{number}]")
            (unsound if mistakes else rules).extend([book] if book is not None else [])
            problems += mistakes
        else:
            problems.append(Problem(f"runbooks[{number}]", f"is neither a path nor a runbook (got {entry!r})"))
    for source in sources:
        try:
            books, mistakes = drafts(source.read_text(encoding="utf-8"), str(source))
        except OSError as error:
            problems.append(Problem("runbooks", f"cannot read {source}: {error.strerror}"))
        except UnicodeDecodeError:
            problems.append(Problem("runbooks", f"{source} is not UTF-8 text"))
        else:
            (unsound if mistakes else rules).extend(books)
            problems += mistakes
    names = [rule.name for rule in rules]
    problems += [
        Problem("runbooks", f"{name!r} is the name of {names.count(name)} runbooks of yours", hint="give each its own")
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    return rules, unsound, problems


def _rule_problems(subjects: Mapping[str, Subject], rules: Sequence[Runbook]) -> Iterator[Problem]:
    names = {rule.name for rule in rules}
    for subject in subjects.values():
        for fault, wanted in subject.rules.items():
            if wanted not in names:
                yield Problem(
                    f"subjects.{subject.name}.rules.{fault}",
                    f"there is no runbook {wanted!r}",
                    hint=nearest(wanted, names),
                )


def read(
    config: Path | None, environ: Mapping[str, str] = os.environ, overrides: Mapping[str, Any] | None = None
) -> tuple[Loaded, Blueprint]:
    """Settings and blueprint, or ConfigError with every mistake in both."""
    drawn: list[Blueprint] = []

    def check(settings: Settings) -> Iterable[Problem]:
        blueprint, problems = draw(settings, config)
        drawn.append(blueprint)
        problems += _action_problems(blueprint)
        return problems

    loaded = load(config, environ, overrides or {}, checks=[check])
    return loaded, drawn[-1]


def _action_problems(blueprint: Blueprint) -> list[Problem]:
    """What only the built executors know: which actions there are. Building touches nothing."""
    tools = tools_of(blueprint, LaterDatabase(blueprint.places.state_dir / "unopened"), None)
    offered: set[str] = set()
    executors: list[Any] = []
    problems = []
    for family, members in blueprint.chosen.items():
        for chosen in members:
            # All of them: what cannot be built must be found out while the configuration before is still in force.
            try:
                built = chosen.plugin.build(chosen.name, chosen.config, tools)
            except (ValueError, PluginError) as error:
                problems.append(Problem(f"{family}.{chosen.name}", str(error)))
                continue
            if family == "executors":
                executors.append(built)
                offered |= {f"{chosen.name}.{action.verb}" for action in built.actions}
    families = set(own_names("executors"))
    for number, pattern in enumerate(blueprint.settings.guard.allow):
        if not fnmatch.filter(offered, pattern) and pattern not in {"*", *(f"{name}.*" for name in families)}:
            problems.append(
                Problem(
                    f"guard.allow[{number}]",
                    f"no action is called so (got {pattern!r})",
                    hint=nearest(pattern, offered),
                )
            )
    catalogue = catalogue_of(executors)
    for chosen in blueprint.chosen["planners"]:
        for raw in getattr(chosen.config, "rules", ()):
            book, _ = parse(raw)
            problems += check(book, catalogue, blueprint.subjects.values()) if book is not None else []
    for book in blueprint.drafts:
        problems += check(book, catalogue, blueprint.subjects.values())
    for subject in blueprint.subjects.values():
        for verb, action in subject.controller.items():
            if action not in offered:
                problems.append(
                    Problem(
                        f"subjects.{subject.name}.commands.{verb}",
                        f"there is no action {action!r}",
                        hint=nearest(action, offered),
                    )
                )
    return problems


# -- the database is there before it is opened, so that building stays without I/O -------------------------------------


class LaterDatabase:
    """The embedded database, opened when the loop starts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: SqliteDatabase | None = None

    async def open(self) -> None:
        if self._opened is None:
            self._opened = await SqliteDatabase.open(self.path, migrations())

    async def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    @property
    def _database(self) -> SqliteDatabase:
        if self._opened is None:
            raise StoreError(f"{self.path} is not open")
        return self._opened

    async def read(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        return await self._database.read(sql, values)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        return await self._database.write(work)

    def changed_by_others(self) -> bool:
        return self._database.changed_by_others()

    def version(self) -> tuple[int, int]:
        return self._database.version()


# -- from the blueprint to the parts of a loop -----------------------------------------------------------------------


def tools_of(
    blueprint: Blueprint,
    database: LaterDatabase,
    processes: LinuxProcesses | None = None,
    links: Links | None = None,
    alerts: AlertInbox | None = None,
) -> Tools:
    """``alerts``: where the endpoint puts them; without an endpoint none come."""
    commands = LinuxCommands(blueprint.places.state_dir)
    processes = processes or LinuxProcesses(blueprint.places.state_dir)
    return Tools(
        clock=SystemClock(),
        host=LinuxHost(),
        processes=processes,
        units=SystemctlUnits(commands),
        commands=commands,
        network=AsyncNetwork(),
        files=LinuxFiles(),
        messages=OutboundMessages(links=links.to if links is not None else None),
        alerts=alerts or AlertInbox(),
        database=database,
        subjects=blueprint.subjects,
    )


def parts_of(
    blueprint: Blueprint,
    tools: Tools,
    *,
    sight: Sight,
    flags: FeatureFlags,
    bus: EventBus,
    metrics: Metrics,
    tracker: ExecutionTracker | None = None,
    schedule: ApScheduler | None = None,
) -> Parts:
    def built(family: str) -> list[Any]:
        return [c.plugin.build(c.name, c.config, tools) for c in blueprint.chosen[family]]

    instances = [
        Instance(
            monitor=chosen.plugin.build(chosen.name, chosen.config, tools),
            every=_pace(chosen, blueprint.settings),
            timeout=chosen.keys.timeout if chosen.keys.timeout is not None else chosen.plugin.timeout,
            overlap=chosen.plugin.overlap,
        )
        for chosen in blueprint.chosen["monitors"]
    ]
    store = built("knowledge")[0]
    retention = blueprint.chosen["knowledge"][0].config
    return Parts(
        clock=tools.clock,
        knowledge=store,
        planner=built("planners")[0],
        instances=instances,
        analyzers=built("analyzers"),
        sight=sight,
        policy=blueprint.settings.guard,
        flags=flags,
        bus=bus,
        catalogue=Catalogue({e.name: e for e in built("executors")}),
        meter=metrics,
        stages=tracker,
        schedule=schedule,
        retention_days=getattr(retention, "retention_days", 90.0),
        retention_incidents=getattr(retention, "max_incidents", 10000),
    )


def _pace(chosen: Chosen, settings: Settings) -> float | None:
    """A pace as slow as the cycle's is the cycle's."""
    every = chosen.keys.every if chosen.keys.every is not None else chosen.plugin.every
    return None if every is None or every >= settings.mapek.interval else every


def host_parts() -> Parts:
    """What ``MAPEK()`` runs with when nobody says otherwise: this host, watched, nothing allowed, nothing kept."""
    settings = Settings()
    folder = Path(tempfile.mkdtemp(prefix="x0tta6bl4-"))
    blueprint, _ = draw(settings.model_copy(update={"state_dir": folder}), None)
    database = LaterDatabase(folder / "knowledge.db")
    tools = tools_of(blueprint, database, LinuxProcesses(folder))
    parts = parts_of(
        blueprint,
        tools,
        sight=Sight(),
        flags=FeatureFlags(),
        bus=EventBus(),
        metrics=Metrics(__version__),
        schedule=None,
    )

    async def close() -> None:
        await database.close()

    return replace(parts, open=database.open, close=close)


# -- the running daemon ----------------------------------------------------------------------------------------------


def _log_as(settings: Settings) -> None:
    try:
        setup_logging(settings.logging.level, settings.logging.format, settings.logging.file)
    except OSError as error:
        raise ConfigError(
            [
                Problem(
                    "logging.file",
                    f"cannot open {settings.logging.file}: {error.strerror}",
                    hint="name a file in a folder that this user may write",
                )
            ]
        ) from error


class HostLock:
    """One loop a host: the lock is the kernel's, so it ends with the process, however that ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def take(self, about: Mapping[str, Any]) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # it may be the state directory
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise ConfigError(
                [
                    Problem(
                        "lock_file",
                        f"cannot open {self._path}: {error.strerror}",
                        hint="set lock_file or state_dir to a place this user may write",
                    )
                ]
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 4096).decode(errors="replace").strip() or "a process that has not said who it is"
            os.close(fd)
            with contextlib.suppress(ValueError, TypeError, KeyError):
                told = json.loads(holder)
                holder = f"pid {told['pid']}, since {told['since']}, with {told['config']}"
            raise AlreadyRunning(
                f"another daemon runs the loop on this host: {holder} (lock {self._path})",
                remedy="stop that one first; two would heal against each other",
            ) from None
        self._fd = fd
        self.tell(about)

    def tell(self, about: Mapping[str, Any]) -> None:
        """Who holds it, for a second daemon and for the command line."""
        if self._fd is not None:
            text = (json.dumps(dict(about)) + "\n").encode()
            os.pwrite(self._fd, text, 0)
            os.ftruncate(self._fd, len(text))

    def release(self) -> None:
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None


@dataclass
class Reloaded:
    at: float
    ok: bool
    problems: tuple[str, ...] = field(default=())


class Daemon:
    """The process: one loop at a time, the endpoint beside it, and what the operating system says to it."""

    def __init__(self, config: Path | None, overrides: Mapping[str, Any] | None = None) -> None:
        self.config = config
        self.overrides = dict(overrides or {})
        changes = Changes(watched_paths(config)) if config is not None else None
        self.loaded, self.blueprint = read(config, os.environ, self.overrides)
        self._changes = changes
        self.version = __version__
        self.started_at = time.time()
        self.token = secrets.token_urlsafe(24)
        settings = self.blueprint.settings
        self.state_dir = self.blueprint.places.state_dir
        self.metrics = Metrics(__version__, enabled=settings.status.metrics_enabled)
        self.tracker = ExecutionTracker()
        self.flags = FeatureFlags({**settings.flags, **({"pqc_required": True} if settings.pqc.required else {})})
        self.sight = Sight()
        self.last_reload = Reloaded(self.started_at, True)
        self.address = ""
        self._conditions: dict[str, Condition] = {}
        self._stopping = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._asked = asyncio.Event()
        """To stop, or to begin anew, while there is no loop that could be told."""
        self._next: Blueprint | None = None
        self._loop_left = time.monotonic()
        self._database = LaterDatabase(self.state_dir / "knowledge.db")
        self._processes: LinuxProcesses | None = None
        self._lock = HostLock(lock_file_of(settings, self.blueprint.places.config_dir))
        self._links: Links | None = None
        self._alerts = AlertInbox()
        """Outlives the loops: what fires is not forgotten by a reload."""
        self._access = Access(
            self._database, self._audit, SystemClock(), lambda: kept_key(self.state_dir / "sign-in.key")
        )
        self._loop: MAPEK | None = None
        self._has_liboqs: bool | None = None
        self.health = HealthChecker(
            {"database": self._database_health, "loop": self._loop_health, "pqc": self._pqc_health},
            api_latency=lambda: self.metrics.p95("x0tta6bl4_api_latency_seconds"),
        )

    @property
    def loop(self) -> MAPEK:
        assert self._loop is not None, "the endpoint opens after the loop was built"
        return self._loop

    # -- its own health --

    def _database_health(self) -> Mapping[str, Any]:
        trouble = self.loop.standing.store_trouble
        return {"status": "failing", "detail": trouble} if trouble else {"status": "ok", "connections": 2}

    def _loop_health(self) -> Mapping[str, Any]:
        loop = self.loop
        late = loop.parts.clock.monotonic() - loop.last_progress
        stuck = late > 2 * loop.interval + loop.timeout
        return {
            "status": "failing" if stuck or loop.status != "running" else "ok",
            "cycles": loop.cycle_count,
            "seconds_since_progress": round(late, 3),
        }

    def _pqc_health(self) -> Mapping[str, Any]:
        if not self.blueprint.settings.in_production and not self.flags.is_enabled("pqc_required"):
            return {"status": "not configured"}
        if self._has_liboqs is None:
            # Looking for the library runs ldconfig: once a life, for one that comes later is not taken up anyway.
            self._has_liboqs = liboqs_is_there()
        return {"status": "ok" if self._has_liboqs else "failing"}

    def conditions(self) -> list[Condition]:
        if self._changes is not None and self._changes.changed():
            self._conditions["config-changed"] = Condition(
                "config-changed",
                "the configuration on disk is not the one in force",
                "It was changed since it was read. `systemctl reload x0tta6bl4`, or SIGHUP, takes it over.",
                "info",
                time.time(),
            )
        found = list(self._conditions.values())
        loop = self._loop
        if loop is None:
            return found
        now, wall = loop.parts.clock.monotonic(), loop.parts.clock.wall()
        for instance, (reason, subjects, since) in loop.parts.sight.blind_instances.items():
            whom = f" Nothing is known of {', '.join(subjects)} through it." if subjects else ""
            found.append(
                Condition("blind", f"{instance} cannot see", f"{reason}.{whom}", "warning", wall - now + since)
            )
        if not self.flags.is_enabled("auto_healing"):
            found.append(
                Condition(
                    "healing-off",
                    "auto_healing is off",
                    "Nothing is healed. `x0tta6bl4 flags auto_healing on` switches it on.",
                    "warning",
                    wall,
                )
            )
        if loop.standing.store_trouble:
            found.append(
                Condition(
                    "store",
                    "the journal cannot be written",
                    f"{loop.standing.store_trouble}. Nothing is done until it can.",
                    "critical",
                    wall,
                )
            )
        found += [
            Condition("paused", f"{p.target} is paused by {p.who}", p.reason or "no reason given", "info", p.since)
            for p in loop.standing.pauses
            if p.until > wall
        ]
        return found

    def describe(self) -> Mapping[str, Any]:
        return {
            "config": [str(path) for path in self.loaded.files],
            "state_dir": str(self.state_dir),
            "instances": {family: [c.name for c in chosen] for family, chosen in self.blueprint.chosen.items()},
            "last_reload": {
                "at": self.last_reload.at,
                "ok": self.last_reload.ok,
                "problems": list(self.last_reload.problems),
            },
        }

    async def set_flag(self, name: str, value: bool, who: str) -> None:
        await self.loop.parts.knowledge.set_flag(known_flag(name), value, who)
        if self.flags.set(name, value):
            self.loop.wake({incident.subject for incident in self.loop.incidents.open})

    # -- reload --

    async def reload(self) -> Sequence[str]:
        """Checks the files anew. What is right takes the place of the running configuration; a mistake changes
        nothing.
        """
        wall = time.time()
        try:
            if self.config is not None:
                self._changes = Changes(watched_paths(self.config))
                self._conditions.pop("config-changed", None)
            loaded, blueprint = await asyncio.to_thread(read, self.config, os.environ, self.overrides)
            _log_as(blueprint.settings)  # the last thing that can be wrong; after it nothing is refused any more
        except ConfigError as error:
            problems = tuple(map(str, error.problems)) or (error.message,)
            self.last_reload = Reloaded(wall, False, problems)
            self.metrics.set("x0tta6bl4_config_last_reload_successful", 0.0)
            self._conditions["config"] = Condition(
                "config",
                "the configuration on disk has mistakes; the one before is still in force",
                "; ".join(problems),
                "warning",
                wall,
            )
            log.error("reload refused; the old configuration stays", extra={"problems": list(problems)})
            self._tell_reload(problems)
            return problems
        self.loaded, self._next = loaded, blueprint
        self.last_reload = Reloaded(wall, True)
        self._conditions.pop("config", None)
        self.metrics.set("x0tta6bl4_config_last_reload_successful", 1.0)
        self.metrics.set("x0tta6bl4_config_last_reload_success_timestamp_seconds", wall)
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        log.info("configuration read again", extra={"files": [str(f) for f in loaded.files]})
        self._tell_reload(())
        self._asked.set()
        if self._loop is not None:
            self._loop_left = time.monotonic()
            self._loop.stop()
        return ()

    def _tell_reload(self, problems: Sequence[str]) -> None:
        if self._loop is not None:
            told = {"taken_over": not problems, "problems": list(problems)}
            self._loop.parts.bus.publish_nowait(Event(EventType.CONFIG_CHANGE, told, source="daemon"))

    # -- life --

    def stop(self) -> None:
        self._stopping.set()
        self._asked.set()
        if self._loop is not None:
            self._loop.stop()

    async def run(self, announce: Callable[["Daemon"], None] | None = None) -> None:
        """Until SIGTERM or SIGINT. Raises ConfigError, AlreadyRunning or StoreError when it cannot start."""
        settings = self.blueprint.settings
        _log_as(settings)
        self._lock.take(self._who())
        async with AsyncExitStack() as stack:
            stack.callback(self._lock.release)
            try:
                self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    [
                        Problem(
                            "state_dir",
                            f"cannot make {self.state_dir}: {error.strerror}",
                            hint="set it to a folder this user may write",
                        )
                    ]
                ) from error
            store_lock = self.state_dir / "daemon.lock"
            if store_lock != lock_file_of(settings, self.blueprint.places.config_dir):
                # Another lock file may be another host's or a test's; one memory is never two daemons'.
                own = HostLock(store_lock)
                own.take(self._who())
                stack.callback(own.release)
            await self._database.open()
            stack.push_async_callback(self._database.close)
            self._processes = LinuxProcesses(self.state_dir)
            stack.push_async_callback(self._processes.aclose)
            self._links = self._answer_links(settings)
            self._build(self.blueprint)
            await self._must_have_keys(settings.status)
            self._listen_to_signals()
            await self._write_face(stack)
            async with asyncio.TaskGroup() as group:
                beside = [
                    group.create_task(self._watchdog(), name="watchdog"),
                    group.create_task(self._poll_files(), name="poll-files"),
                ]
                if settings.status.enabled:
                    opened = asyncio.get_running_loop().create_future()
                    beside.append(group.create_task(self._serve(settings.status, opened), name="endpoint"))
                    await asyncio.wait({opened, beside[-1]}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
                await self._start_programs()
                if announce is not None:
                    announce(self)
                gc.collect()
                gc.freeze()
                give_back()
                await self._turn_until_stopped(group)
                notify("STOPPING=1")
                for task in beside:
                    task.cancel()
        log.info("stopped")

    def _who(self) -> Mapping[str, Any]:
        return {
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.started_at)),
            "config": str(self.config) if self.config else "defaults",
            "state_dir": str(self.state_dir),
            "url": self.address,
        }

    def _build(self, blueprint: Blueprint) -> None:
        assert self._processes is not None
        gone = set(self.sight.subjects) - set(blueprint.subjects)
        self.sight.forget(gone)
        for name in gone:
            self.metrics.forget(subject=name)
        self.sight.forget_blindness()  # of instances that are built anew: each tells of itself
        self.sight.subjects.clear()
        self.sight.subjects.update(blueprint.subjects)
        self.blueprint = blueprint
        tools = tools_of(blueprint, self._database, self._processes, self._links, self._alerts)
        settings = blueprint.settings
        bus = EventBus(settings.events.max_queue_size, settings.events.history_size)
        parts = parts_of(
            blueprint,
            tools,
            sight=self.sight,
            flags=self.flags,
            bus=bus,
            metrics=self.metrics,
            tracker=self.tracker,
            schedule=ApScheduler(),
        )
        self._loop = MAPEK(parts, interval=settings.mapek.interval, timeout=settings.mapek.timeout)

    async def _turn_until_stopped(self, group: asyncio.TaskGroup) -> None:
        """One loop after another: each reload begins a new one over the same memory, sight and processes."""
        while not self._stopping.is_set():
            ready = group.create_task(self._say_ready(), name="ready")
            try:
                if self._next is not None:
                    pass  # asked to reload before this loop began: its stop would have been forgotten
                elif self.blueprint.settings.mapek.enabled:
                    await self.loop.start()
                else:
                    await self._stopping_or_reload()
            finally:
                ready.cancel()
            blueprint, self._next = self._next, None
            if blueprint is not None and not self._stopping.is_set():
                before = {p.name for p in self.blueprint.programs}
                assert self._processes is not None
                dropped = [p for p in self.blueprint.programs if p.name not in {q.name for q in blueprint.programs}]
                for program in dropped:
                    if program.on_exit == "stop":
                        await self._processes.stop(program.name, 5.0)
                self._build(blueprint)
                await self._start_programs(before)

    async def _stopping_or_reload(self) -> None:
        log.warning("MAPEK_ENABLED is false: nothing is watched and nothing is healed")
        await self._asked.wait()
        self._asked.clear()

    async def _say_ready(self) -> None:
        if self.blueprint.settings.mapek.enabled:
            await self.loop.first_turn.wait()
        subjects = len(self.blueprint.subjects)
        notify(f"READY=1\nSTATUS=watching {subjects} subject{'s' * (subjects != 1)}, {self.address or 'no endpoint'}")

    async def _start_programs(self, already: Iterable[str] = ()) -> None:
        """Takes up what still runs of an earlier life, and starts what does not: being supervised means running."""
        assert self._processes is not None
        programs = [p for p in self.blueprint.programs if p.name not in set(already)]
        running = await self._processes.adopt(programs)
        knowledge = self.loop.parts.knowledge
        self.flags.load(await knowledge.flags())
        pauses = await knowledge.pauses()
        in_question = {incident.subject for incident in await knowledge.open_incidents()}
        for program in programs:
            subject = self.blueprint.subjects[program.name]
            if program.name in running:
                log.info("taken up", extra={"subject": program.name, "pid": running[program.name].pid})
                continue
            if subject.mode == "observe":
                continue
            if subject.mode != "auto" and program.name in in_question:
                log.warning("not started", extra={"subject": program.name, "reason": "an incident of it is open"})
                continue
            kept = [f"paused by {p.who}" for p in pauses if fnmatch.fnmatchcase(program.name, p.target)]
            if kept or not self.flags.is_enabled("auto_healing"):
                log.warning(
                    "not started", extra={"subject": program.name, "reason": (kept or ["auto_healing is off"])[0]}
                )
                continue
            try:
                started = await self._processes.start(program)
                log.info("started", extra={"subject": program.name, "pid": started.pid})
            except PluginError as error:
                log.error("cannot be started", extra={"subject": program.name, "reason": str(error)})

    def _listen_to_signals(self) -> None:
        running = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            running.add_signal_handler(number, self.stop)
        running.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)

    async def _poll_files(self) -> None:
        """Reload by SIGHUP."""
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            ended = await guarded(self.reload, None)
            if isinstance(ended, Failure):  # a mistake of our own, or a plugin's, is no reason to stop healing
                log.error(
                    "reload failed; the old configuration stays",
                    exc_info=ended.exception,
                    extra={"reason": ended.message},
                )

    async def _watchdog(self) -> None:
        """Fed only while the loop makes progress: a stuck daemon must be restarted by systemd."""
        usec = os.environ.get("WATCHDOG_USEC", "")
        if not usec.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return
        pause = int(usec) / 2_000_000
        while True:
            # Between two loops the old one brings its acts to an end, each bounded by its own timeout.
            between = self.loop.status != "running" and time.monotonic() - self._loop_left < BETWEEN_LOOPS
            if between or self._loop_health()["status"] == "ok" or not self.blueprint.settings.mapek.enabled:
                notify("WATCHDOG=1")
            await asyncio.sleep(pause)

    async def _must_have_keys(self, status: StatusSettings) -> None:
        """Whoever can reach the port from elsewhere could read everything, were there nobody to be."""
        if not status.enabled or is_loopback(status.host):
            return
        if status.tls is None and not status.https_only:
            self._conditions["endpoint-plain"] = Condition(
                "endpoint-plain",
                f"the endpoint speaks plain HTTP on {status.host}",
                "Keys and passwords can be read on their way. Set status.tls, or end TLS in a proxy and set "
                "status.https_only.",
                "warning",
                time.time(),
            )
            log.warning("keys and passwords can be read on their way: the endpoint speaks plain HTTP to others")
        if status.api_keys or await self._access.has_any():
            return
        raise ConfigError(
            [
                Problem(
                    "status.host",
                    f"{status.host} is open to others, and there is neither a key nor an operator",
                    hint="make one with `x0tta6bl4 keys create NAME --scope read` or `x0tta6bl4 operators add NAME`, "
                    "or listen on 127.0.0.1",
                )
            ]
        )

    def _behind(self, status: StatusSettings) -> "Behind":
        from x0tta6bl4.status.desk import Behind
        from x0tta6bl4.status.filekeys import FileKeys
        from x0tta6bl4.status.tls import Certificate

        folder = self.blueprint.places.config_dir
        keys = {name: (folder / key.file, Scope(key.scope)) for name, key in status.api_keys.items()}
        tls = status.tls
        return Behind(
            self._database,
            self._access,
            FileKeys(keys),
            self._links,
            None if tls is None else Certificate(folder / tls.certificate, folder / tls.key),
            self._alerts,
        )

    async def _audit(self, who: str, what: str, data: Mapping[str, Any]) -> int:
        return await self.loop.parts.knowledge.audit(who, what, data)

    async def _serve(self, status: StatusSettings, opened: "asyncio.Future[None]") -> None:
        from x0tta6bl4.status.endpoint import serve

        told = self._endpoint_open(opened)
        try:
            behind = self._behind(status)
        except (OSError, ValueError) as error:
            told("", str(error))
            return
        ended = await guarded(lambda: serve(self, status, behind, told), None)
        if isinstance(ended, Failure):
            told("", f"it ended: {ended.error}: {ended.message}")

    def _endpoint_open(self, opened: "asyncio.Future[None]") -> Callable[[str, str], None]:
        def told(address: str, trouble: str) -> None:
            self.address = address
            self._lock.tell(self._who())
            if trouble:
                self._conditions["endpoint"] = Condition(
                    "endpoint",
                    "the status endpoint is off",
                    f"{trouble}. Healing goes on without it.",
                    "warning",
                    time.time(),
                )
                log.error("the status endpoint cannot be opened; healing goes on", extra={"reason": trouble})
            if not opened.done():
                opened.set_result(None)

        return told

    def _answer_links(self, settings: Settings) -> Links | None:
        """Read once: what was sent in a message must lead to the address that the endpoint answers for."""
        if not (settings.approvals.links and settings.status.enabled):
            return None
        try:
            key = kept_key(self.state_dir / "approval.key")
        except OSError as error:
            log.error("messages carry no links to answer with", extra={"reason": str(error)})
            return None
        return Links(key, lambda: self.address, settings.approvals.url or "")

    async def _write_face(self, stack: AsyncExitStack) -> None:
        """Where the command line finds us, and the token that lets it change something over HTTP."""
        token_file = self.state_dir / "operator.token"
        fd = os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        os.fchmod(fd, 0o600)  # one that was there before keeps its mode otherwise
        with os.fdopen(fd, "w") as file:
            file.write(self.token + "\n")
        stack.callback(lambda: token_file.unlink(missing_ok=True))


def run(config: Path | None, overrides: Mapping[str, Any], announce: Callable[[Daemon], None] | None = None) -> None:
    daemon = Daemon(config, overrides)
    asyncio.run(daemon.run(announce))


__all__ = ["Blueprint", "Daemon", "X0tError", "draw", "host_parts", "read", "run"]
