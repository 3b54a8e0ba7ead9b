"""Keeps the ports in memory, so that a test can script the outside: hosts, units, commands, networks, files, people."""

import asyncio
import fnmatch
import os.path
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from x0tta6bl4.kernel.errors import ProbeFailed, StepFailed, StepRefused
from x0tta6bl4.kernel.plugin import Tools
from x0tta6bl4.ports.alerts import Alert, Told
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.commands import CommandResult
from x0tta6bl4.ports.files import FileInfo
from x0tta6bl4.ports.host import Disk, Nic, Vitals
from x0tta6bl4.ports.messages import Message
from x0tta6bl4.ports.network import HttpReply, HttpRequest
from x0tta6bl4.ports.units import Unit, Verb
from x0tta6bl4.testing.fake_processes import FakeProcesses
from x0tta6bl4.testing.virtual_time import EPOCH, START

FOREVER = float("inf")


class FakeClock:
    """Stands still until it is told to go on. Inside a virtual loop take ``LoopClock``, which goes with the loop."""

    def __init__(self, monotonic: float = START, wall: float = EPOCH) -> None:
        self._monotonic = monotonic
        self._wall = wall

    def wall(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"time never goes back, not even by {-seconds} s; the wall clock can be set")
        self._monotonic += seconds
        self._wall += seconds

    def set_wall(self, wall: float) -> None:
        self._wall = wall


VITALS = Vitals(
    cores=4, cpu_busy=0.1, load1=0.4, load5=0.3, load15=0.2, memory_total=8 << 30, memory_available=6 << 30,
    swap_total=1 << 30, swap_used=0, fds_used=1000, fds_max=100_000, boot_time=EPOCH - 86400,
)  # fmt: skip
"""A host that is well."""
DISK = Disk("/", "/dev/sda1", 100 << 30, 60 << 30, 1_000_000, 900_000, False)
NIC = Nic("eth0", True, 0, 0, 0, 0)
PRESSURE = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


class FakeHost:
    """Change its attributes to change the host. What ``broken`` holds is raised by every reading."""

    def __init__(self) -> None:
        self.vital_numbers = VITALS
        self.disk_list: list[Disk] = [DISK]
        self.nic_list: list[Nic] = [NIC]
        self.texts: dict[str, str] = {
            "/proc/loadavg": "0.40 0.30 0.20 1/100 12345\n",
            "/sys/devices/system/cpu/online": "0-3\n",
            **{f"/proc/pressure/{resource}": PRESSURE for resource in ("cpu", "memory", "io")},
        }
        self.broken: OSError | ProbeFailed | None = None
        self._has_been_read = False

    async def read_text(self, path: str) -> str:
        self._see()
        if path not in self.texts:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self.texts[path]

    async def vitals(self) -> Vitals:
        self._see()
        if self._has_been_read:
            return self.vital_numbers
        self._has_been_read = True
        return replace(self.vital_numbers, cpu_busy=0.0)  # There is no reading before it to compare with.

    async def disks(self) -> Sequence[Disk]:
        self._see()
        return tuple(self.disk_list)

    async def nics(self) -> Sequence[Nic]:
        self._see()
        return tuple(self.nic_list)

    def _see(self) -> None:
        if self.broken is not None:
            raise self.broken


RUNNING = Unit("", "loaded", "active", "running", "success", 0, 0, "no", EPOCH, 0.0, "")
STOPPED = Unit("", "loaded", "inactive", "dead", "success", 0, 0, "no", EPOCH, EPOCH + 1, "")
FAILED = replace(STOPPED, active_state="failed", sub_state="failed", result="exit-code")
_NOT_FOUND = replace(STOPPED, load_state="not-found", active_since=0.0, inactive_since=0.0)
_KINDS = frozenset(
    ("service", "socket", "timer", "mount", "automount", "swap", "target", "path", "slice", "scope", "device")
)


def _full_name(name: str) -> str:
    """As systemd reads it: what says no kind is a service."""
    return name if name.rpartition(".")[2] in _KINDS else f"{name}.service"


class FakeUnits:
    """Jobs are done at once, and each a second after the one before. ``acted`` tells what was asked: verb and unit."""

    def __init__(self) -> None:
        self.units: dict[str, Unit] = {}
        self.wishes: dict[str, bool | None] = {}
        """What the journal says of who stopped a unit; None, as for a unit that is not here: it cannot be read."""
        self.acted: list[tuple[Verb, str]] = []
        self.broken: OSError | ProbeFailed | None = None
        """Why systemd answers nothing and does nothing; its journal cannot be read either then."""
        self._failures: dict[str, list[StepFailed]] = {}

    def add(self, name: str, state: Unit = RUNNING, **changes: Any) -> Unit:
        name = _full_name(name)
        unit = self.units[name] = replace(state, name=name, **changes)
        return unit

    def fail(self, name: str, error: StepFailed) -> None:
        """The next action on that unit raises it."""
        self._failures.setdefault(_full_name(name), []).append(error)

    async def show(self, names: Sequence[str]) -> Mapping[str, Unit]:
        if self.broken is not None:
            raise self.broken
        full = {name: _full_name(name) for name in names}
        return {name: self.units.get(full[name], replace(_NOT_FOUND, name=full[name])) for name in names}

    async def act(self, verb: Verb, name: str, timeout: float, signal: str | None = None) -> None:
        name = _full_name(name)
        self.acted.append((verb, name))
        if self.broken is not None:
            raise StepFailed(str(self.broken)) from self.broken
        if failures := self._failures.get(name):
            raise failures.pop(0)
        unit = self.units.get(name)
        if unit is None:
            raise StepRefused(f"Failed to {verb} {name}: Unit {name} not found.")
        if unit.load_state == "masked" and verb in ("start", "restart"):
            raise StepRefused(f"Failed to {verb} {name}: Unit {name} is masked.")
        is_active = unit.active_state not in ("inactive", "failed")
        at = max(EPOCH, unit.active_since, unit.inactive_since) + 1
        if verb == "restart" or (verb == "start" and not is_active):
            self.units[name] = replace(
                unit, active_state="active", sub_state="running", result="success", active_since=at
            )
            self.wishes[name] = False
        elif verb == "stop" and is_active:
            self.units[name] = replace(
                unit, active_state="inactive", sub_state="dead", result="success", main_pid=0, inactive_since=at
            )
            self.wishes[name] = True
        elif verb == "reset-failed" and unit.active_state == "failed":
            self.units[name] = replace(unit, active_state="inactive", sub_state="dead", result="success", restarts=0)
        elif verb == "reload" and unit.active_state != "active":
            raise StepFailed(f"{name} is not active, cannot reload.")
        elif verb == "kill" and unit.active_state == "active":
            self.units[name] = replace(
                unit, active_state="failed", sub_state="failed", result="signal", main_pid=0, inactive_since=at
            )

    async def stopped_on_purpose(self, unit: Unit) -> bool | None:
        return None if self.broken is not None else self.wishes.get(unit.name)


@dataclass(frozen=True)
class _Answer:
    code: int
    output: str
    seconds: float


class FakeCommands:
    """Programs answer as scripted, by argv or by the program alone; others do not exist. ``ran`` tells what ran."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, ...]] = []
        self._answers: dict[tuple[str, ...], _Answer] = {}

    def answer(self, *argv: str, code: int = 0, output: str = "", seconds: float = 0.0) -> None:
        """``seconds``: how long it runs; ``FOREVER`` hangs."""
        self._answers[argv] = _Answer(code, output, seconds)

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        limit: int = 65536,
        env: Mapping[str, str] | None = None,
        input: bytes | None = None,
    ) -> CommandResult:
        command = tuple(argv)
        if not command or not os.path.isabs(command[0]):
            raise StepRefused(f"not a command: {list(command)!r}")
        if any("\0" in word for word in command):
            raise StepRefused(f"not a command: {list(command)!r} has a zero byte in it")
        answer = self._answers.get(command) or self._answers.get(command[:1])
        if answer is None:
            raise FileNotFoundError(2, "No such file or directory", command[0])
        self.ran.append(command)
        await asyncio.sleep(min(answer.seconds, timeout))
        text = answer.output.encode()
        is_done = answer.seconds <= timeout
        return CommandResult(
            command,
            answer.code if is_done else None,
            text[:limit].decode(errors="replace") if is_done else "",
            is_done and len(text) > limit,
            min(answer.seconds, timeout),
        )


class FakeNetwork:
    """Services answer as scripted; nobody listens anywhere else. ``asked`` tells who was asked: URL or host:port."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.requests: list[HttpRequest] = []
        self._answers: dict[str, tuple[HttpReply | OSError, float]] = {}

    def answer(
        self,
        where: str,
        status: int = 200,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = 0.0,
        tls_expires_at: float | None = None,
    ) -> None:
        """``where``: a URL, or host:port for TCP. ``seconds``: after how long; ``FOREVER`` never."""
        lower = {name.lower(): value for name, value in (headers or {}).items()}
        self._answers[where] = (HttpReply(status, lower, body, seconds, tls_expires_at), seconds)

    def fail(self, where: str, error: OSError, seconds: float = 0.0) -> None:
        self._answers[where] = (error, seconds)

    async def http(self, request: HttpRequest) -> HttpReply:
        self.requests.append(request)
        reply = await self._ask(request.url)
        return replace(reply, body=b"" if request.method == "HEAD" else reply.body[: request.body_limit])

    async def tcp(self, host: str, port: int) -> float:
        return (await self._ask(f"{host}:{port}")).seconds

    async def _ask(self, where: str) -> HttpReply:
        self.asked.append(where)
        reply, seconds = self._answers.get(where, (ConnectionRefusedError(111, f"{where} refused the connection"), 0.0))
        if seconds == FOREVER:
            await asyncio.get_running_loop().create_future()
        if seconds > 0:
            await asyncio.sleep(seconds)
        if isinstance(reply, OSError):
            raise reply
        return reply


class FakeFiles:
    """Files by their paths. Lines are written with ``write_line`` and ``write_message``; whoever follows gets them."""

    def __init__(self) -> None:
        self.files: dict[str, FileInfo] = {}
        self.links: set[str] = set()
        """Paths that are symbolic links, whatever they point to."""
        self.deleted: list[str] = []
        self.has_journal = True
        self._followers: dict[tuple[str, str | None], list[asyncio.Queue[str | OSError]]] = {}

    def add(self, path: str, size: int, modified: float = EPOCH) -> None:
        self.files[path] = FileInfo(path, size, modified)

    def write_line(self, path: str, line: str) -> None:
        self._pass_on(("file", path), line.removesuffix("\n").removesuffix("\r"))

    def write_message(self, unit: str, message: str) -> None:
        self._pass_on(("journal", _full_name(unit)), message)
        self._pass_on(("journal", None), message)

    def fail_followers(self, path: str, error: OSError) -> None:
        self._pass_on(("file", path), error)

    async def list(self, folder: str, pattern: str) -> Sequence[FileInfo]:
        """OSError for a folder that is a link, or in which there never was anything."""
        folder = folder.rstrip("/")
        if folder in self.links:
            raise NotADirectoryError(20, "Not a directory", folder)
        if not any(path.startswith(f"{folder}/") for path in (*self.files, *self.links, *self.deleted)):
            raise FileNotFoundError(2, "No such file or directory", folder)
        return [
            info
            for path, info in sorted(self.files.items())
            if self._lies_in(folder, path) and fnmatch.fnmatchcase(os.path.basename(path), pattern)
        ]

    async def delete(self, folder: str, path: str) -> int:
        """0 when it is gone already."""
        folder = folder.rstrip("/")
        whole = path if path.startswith("/") else f"{folder}/{path}"
        is_folder = any(known.startswith(f"{whole}/") for known in self.files)
        if is_folder or not self._lies_in(folder, whole):
            raise StepRefused(f"{path} is no regular file inside {folder}")
        if whole not in self.files:
            return 0
        self.deleted.append(whole)
        return self.files.pop(whole).size

    def follow(self, path: str) -> AsyncIterator[str]:
        return self._follow(("file", path))

    async def follow_journal(self, unit: str | None) -> AsyncIterator[str]:
        if not self.has_journal:
            raise ProbeFailed("there is no journal on this host")
        async with aclosing(self._follow(("journal", unit and _full_name(unit)))) as messages:
            async for message in messages:
                yield message

    def _follow(self, source: tuple[str, str | None]) -> AsyncGenerator[str, None]:
        # Not only when the first line is taken: "from now on" begins with the asking.
        lines: asyncio.Queue[str | OSError] = asyncio.Queue()
        self._followers.setdefault(source, []).append(lines)
        return self._taken(source, lines)

    async def _taken(
        self, source: tuple[str, str | None], lines: "asyncio.Queue[str | OSError]"
    ) -> AsyncGenerator[str, None]:
        try:
            while True:
                line = await lines.get()
                if isinstance(line, OSError):
                    raise line
                yield line
        finally:
            self._followers[source].remove(lines)

    def _pass_on(self, source: tuple[str, str | None], line: str | OSError) -> None:
        for lines in self._followers.get(source, []):
            lines.put_nowait(line)

    def _lies_in(self, folder: str, path: str) -> bool:
        """By a plain way: without links, in the folder's own place neither, and without detours."""
        is_plain = folder.startswith("/") and os.path.normpath(path) == path and "\0" not in path
        way = (path, *map(str, PurePosixPath(path).parents))
        is_inside = path.startswith(f"{folder}/")
        return is_plain and is_inside and self.links.isdisjoint(part for part in way if len(part) >= len(folder))


class FakeMessages:
    """``sent`` tells what went where. What ``broken`` holds is raised instead."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.broken: StepFailed | None = None

    async def webhook(self, url: str, message: Message, token_file: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise StepRefused(f"not a webhook: {url!r}")
        self._send(url, message)

    async def mail(self, to: str, sender: str, server: str, message: Message) -> None:
        if any(sign in address for sign in "\r\n" for address in (to, sender)):
            raise StepRefused(f"not a mail from {sender!r} to {to!r}")
        self._send(to, message)

    def _send(self, where: str, message: Message) -> None:
        if self.broken is not None:
            raise self.broken
        self.sent.append((where, message))


class FakeAlerts:
    """``tell`` it what others would send; copies are the test's own affair, and it has room for everything."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, Told] = {}
        self._waiting: asyncio.Queue[Told] = asyncio.Queue()
        self._wants: Callable[[Alert], bool] | None = None

    def tell(self, alert: Alert) -> bool:
        """Whether somebody listens and wants it."""
        if self._wants is None or not self._wants(alert):
            return False
        before = self._known.get(alert.fingerprint)
        is_repeated = before is not None and (before.alert.firing, before.alert.starts_at) == (True, alert.starts_at)
        told = self._known[alert.fingerprint] = Told(alert, self._clock.monotonic(), not (alert.firing and is_repeated))
        self._waiting.put_nowait(told)
        return True

    def firing(self) -> Sequence[Told]:
        return [told for told in self._known.values() if told.alert.firing]

    async def listen(self, wants: Callable[[Alert], bool]) -> AsyncGenerator[Told, None]:
        if self._wants is not None:
            raise ProbeFailed("somebody listens already")
        self._wants = wants
        try:
            while True:
                yield await self._waiting.get()
        finally:
            self._wants = None


def tools(**overrides: Any) -> Tools:
    """Tools that are fakes wherever nothing else is given; there is no database unless one is."""
    fakes: dict[str, Any] = {
        "clock": FakeClock(),
        "alerts": FakeAlerts(overrides.get("clock") or FakeClock()),
        "host": FakeHost(),
        "processes": FakeProcesses(),
        "units": FakeUnits(),
        "commands": FakeCommands(),
        "network": FakeNetwork(),
        "files": FakeFiles(),
        "messages": FakeMessages(),
    }
    return Tools(**{**fakes, **overrides})
