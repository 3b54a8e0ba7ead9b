"""Unfolds a subject under care, three lines in the file, into what watches it and what may treat it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator, model_validator

from x0tta6bl4.kernel.policy import Section
from x0tta6bl4.kernel.subjects import Mode, Subject
from x0tta6bl4.kernel.units import Seconds, Size
from x0tta6bl4.ports.processes import Program

SERVICE_VERBS = ("start", "stop", "restart", "reload")


class ProcessCare(Section):
    """A process that the daemon starts, watches and restarts itself."""

    command: list[str] = Field(min_length=1)
    """The program and its arguments. ``${python}``, ``${state_dir}`` and ``${config_dir}`` are replaced."""
    cwd: str | None = None
    """Folder to run it in."""

    @field_validator("command")
    @classmethod
    def _absolute(cls, value: list[str]) -> list[str]:
        if not value[0].startswith(("/", "${")):
            raise ValueError(
                f"should begin with the absolute path of a program (got {value[0]!r}); `command -v {value[0]}` tells it"
            )
        return value

    env: dict[str, str] = {}
    """Environment variables beside PATH and LANG."""
    on_exit: Literal["leave", "stop"] = "leave"
    """What becomes of it when the daemon stops: ``leave`` keeps it running until the next daemon takes it up again."""


class ProbeCare(Section):
    """One question that a healthy service answers."""

    url: str
    """``http://``, ``https://`` or ``tcp://host:port``."""
    within: Seconds = Field(default=1.2, gt=0)
    """Seconds in which a good answer comes. Raise it for services that are slow by nature; hangs are seen later then.
    """
    every: Seconds = Field(default=0.5, gt=0)
    """Seconds between questions. Raised, faults are seen later; lowered, service and daemon have more to do."""
    expect_status: list[int] = []
    """HTTP statuses that are good; empty: 200 to 399."""
    expect_body: str | None = None
    """A regular expression that the beginning of the body must match."""
    headers: dict[str, str] = {}
    """HTTP headers to send. Not for secrets: this file is no place for them."""
    ca_file: str | None = None
    """Certificates to trust instead of the system's."""
    verify_tls: bool = True
    """Whether a certificate that cannot be trusted is a fault."""

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"is no address: {error}") from error
        if parts.scheme not in ("http", "https", "tcp") or not parts.hostname:
            raise ValueError("should look like http://host:port/path, https://host/path or tcp://host:port")
        if parts.scheme == "tcp" and port is None:
            raise ValueError("needs a port: tcp://host:port")
        return value


class CleanupCare(Section):
    """Files that may be deleted to free space, inside one folder only."""

    folder: str
    """The folder, absolute. ``${state_dir}`` and ``${config_dir}`` are replaced. Nothing outside it is ever touched."""
    pattern: str = "*"
    """Names of the files, as a shell pattern."""
    older_than: Seconds = Field(default=0.0, ge=0)
    """Seconds since a file was last written before it may go. Higher keeps more."""
    keep: int = Field(default=0, ge=0)
    """So many of the newest matching files stay whatever happens."""
    max_bytes: Size | None = None
    """At most so much is deleted at a time. Empty: everything that matches."""


class LogCare(Section):
    """Lines to watch for in a log."""

    path: str | None = None
    """The file; empty: the unit's journal."""
    patterns: dict[str, str] = Field(min_length=1)
    """Name -> regular expression. Each becomes the series ``log_NAME_per_minute``."""


def _probe(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


def _process(value: object) -> object:
    return {"command": value} if isinstance(value, list) else value


Probe = Annotated[ProbeCare, BeforeValidator(_probe)]


class Care(Section):
    """One subject under care. Say what it is (process, unit, pid_file or match), how to ask it (work), and a mode."""

    mode: Mode | None = None
    """observe (only watch), suggest (say what would be done), approve (ask first) or auto (act). Empty: guard.mode."""
    process: Annotated[ProcessCare, BeforeValidator(_process)] | None = None
    """A command that the daemon runs itself; a list is the command."""
    unit: str | None = None
    """A systemd unit, such as nginx.service."""
    pid_file: str | None = None
    """The pid file of a process that something else starts."""
    match: str | None = None
    """A regular expression for the command line of a process that something else starts."""
    work: Probe | None = None
    """A question that only a working service answers well: a page, a query, a port."""
    health: Probe | None = None
    """Its own health check. When it says yes while ``work`` fails, the fault is *gray*."""
    log: LogCare | None = None
    """Lines to watch for."""
    memory_limit: Size | None = None
    """Resident memory from which it is restarted; a leak is announced before."""
    depends_on: list[str] = []
    """Subjects that must be well for this one to be. While one is not, it is healed first and this one waits."""
    restart_dependencies: bool = False
    """Whether the ladder may also restart what it depends on when nothing else helped."""
    group: str = ""
    """Subjects of one group are treated one at a time."""
    start_timeout: Seconds = Field(default=30.0, gt=0)
    """Seconds that a start may take before silence counts as a fault. Too low kills slow starters again and again."""
    cleanup: list[CleanupCare] = []
    """What may be deleted on the rung that cleans up."""
    commands: dict[Literal["start", "stop", "restart", "reload"], str] = {}
    """Allowlisted commands (of the executor ``command``) that start, stop, restart or reload it."""
    rules: dict[str, str] = {}
    """Fault -> the rule that treats it here, by its name, instead of the first that fits."""
    probe_every: Seconds = Field(default=1.0, gt=0)
    """Seconds between looks at its process."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "Care":
        kinds = [k for k in ("process", "unit", "pid_file", "match") if getattr(self, k) is not None]
        if len(kinds) > 1:
            raise ValueError(f"is said to be {' and '.join(kinds)}; give one of them")
        if not kinds and self.work is None and self.health is None and self.log is None:
            raise ValueError("there is nothing to watch; give process, unit, pid_file, match, work, health or log")
        if self.memory_limit is not None and not kinds:
            raise ValueError("memory_limit needs a process to read: give process, unit, pid_file or match")
        if self.match is not None:
            try:
                re.compile(self.match)
            except re.error as error:
                raise ValueError(f"match is no regular expression: {error}") from error
        return self


@dataclass(frozen=True)
class Places:
    """What the placeholders in a configuration stand for."""

    python: str
    state_dir: Path
    config_dir: Path

    def fill(self, text: str) -> str:
        return (
            text.replace("${python}", self.python)
            .replace("${state_dir}", str(self.state_dir))
            .replace("${config_dir}", str(self.config_dir))
        )


@dataclass(frozen=True)
class UnderCare:
    """A subject, the monitors that see it, and the program to supervise where there is one."""

    subject: Subject
    monitors: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    program: Program | None = None


def unfold(name: str, care: Care, default_mode: Mode, places: Places) -> UnderCare:
    monitors: dict[str, dict[str, Any]] = {}
    data: dict[str, Any] = {}
    controller: dict[str, str] = {
        verb: f"command.{command.removeprefix('command.')}" for verb, command in care.commands.items()
    }
    kind, program = "thing", None
    process: dict[str, Any] = {"use": "process", "subject": name, "every": care.probe_every}
    if care.process is not None:
        kind = "process"
        program = Program(
            name=name,
            argv=tuple(places.fill(part) for part in care.process.command),
            cwd=places.fill(care.process.cwd) if care.process.cwd else None,
            env={k: places.fill(v) for k, v in care.process.env.items()},
            on_exit=care.process.on_exit,
        )
        data["program"] = program
        process["program"] = name
        for verb in ("start", "stop", "restart"):
            controller.setdefault(verb, f"process.{verb}")
    elif care.unit is not None:
        kind = "unit"
        data["unit"] = process["unit"] = care.unit
        monitors[f"{name}.unit"] = {"use": "systemd", "subject": name, "unit": care.unit}
        for verb in SERVICE_VERBS:
            controller.setdefault(verb, f"systemd.{verb}")
        # Reload only where asked for: a unit that cannot do it would fail the first rung each time.
        if "reload" not in care.commands:
            controller.pop("reload", None)
    elif care.pid_file is not None or care.match is not None:
        kind = "watched"
        process |= {"pid_file": care.pid_file} if care.pid_file is not None else {"match": care.match}
    if kind != "thing" and (kind != "unit" or care.memory_limit is not None):
        monitors[f"{name}.process"] = process
    for probe_name, probe in (("work", care.work), ("health", care.health)):
        if probe is not None:
            monitors[f"{name}.{probe_name}"] = _probe_monitor(name, probe_name, probe)
    if care.log is not None:
        log: dict[str, Any] = {"use": "log", "subject": name, "patterns": dict(care.log.patterns)}
        log |= {"path": places.fill(care.log.path)} if care.log.path else {"unit": care.unit} if care.unit else {}
        monitors[f"{name}.log"] = log
    if care.memory_limit is not None:
        data["memory_limit"] = care.memory_limit
    if care.cleanup:
        data["cleanup"] = [{**rule.model_dump(), "folder": places.fill(rule.folder)} for rule in care.cleanup]
    if care.restart_dependencies:
        data["restart_dependencies"] = True
    subject = Subject(
        name=name,
        kind=kind,
        mode=care.mode or default_mode,
        group=care.group,
        depends_on=tuple(care.depends_on),
        start_timeout=care.start_timeout,
        controller=controller,
        rules=dict(care.rules),
        data=data,
    )
    return UnderCare(subject, monitors, program)


def _probe_monitor(name: str, probe_name: str, probe: ProbeCare) -> dict[str, Any]:
    parts = urlsplit(probe.url)
    common: dict[str, Any] = {"subject": name, "probe": probe_name, "within": probe.within, "every": probe.every}
    if parts.scheme == "tcp":
        return {"use": "tcp", "host": parts.hostname, "port": parts.port, **common}
    more: dict[str, Any] = {"use": "http", "url": probe.url, **common}
    for key, default in (
        ("expect_status", []),
        ("expect_body", None),
        ("headers", {}),
        ("ca_file", None),
        ("verify_tls", True),
    ):
        if (value := getattr(probe, key)) != default:
            more[key] = value
    return more
