"""Keeps the ports in memory, so that a test can script the outside: hosts, units, commands, networks, files, people."""

import asyncio
import fnmatch
import os.path
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from x0tta6bl4.kernel.errors import ProbeFailed, StepFailed, StepRefused
from x0tta6bl4.kernel.plugin import Tools
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

    async def read_text(self, path: str) -> str:
        self._see()
        if path not in self.texts:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self.texts[path]

    async def vitals(self) -> Vitals:
        self._see()
        return self.vital_numbers

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


class FakeUnits:
    """Jobs are done at once. ``acted`` tells what was asked for: verb and unit."""

    def __init__(self) -> None:
        self.units: dict[str, Unit] = {}
        self.wishes: dict[str, bool | None] = {}
        """What the journal says of who stopped a unit; None, as for a unit that is not here: it cannot be read."""
        self.acted: list[tuple[Verb, str]] = []
        self.broken: OSError | ProbeFailed | None = None
        self._failures: dict[str, list[StepFailed]] = {}

    def add(self, name: str, state: Unit = RUNNING, **changes: Any) -> Unit:
        unit = self.units[name] = replace(state, name=name, **changes)
        return unit

    def fail(self, name: str, error: StepFailed) -> None:
        """The next action on that unit raises it."""
        self._failures.setdefault(name, []).append(error)

    async def show(self, names: Sequence[str]) -> Mapping[str, Unit]:
        if self.broken is not None:
            raise self.broken
        return {name: self.units.get(name, replace(_NOT_FOUND, name=name)) for name in names}

    async def act(self, verb: Verb, name: str, timeout: float, signal: str | None = None) -> None:
        self.acted.append((verb, name))
        if failures := self._failures.get(name):
            raise failures.pop(0)
        unit = self.units.get(name)
        if unit is None:
            raise StepRefused(f"Failed to {verb} {name}: Unit {name} not found.")
        if unit.load_state == "masked" and verb in ("start", "restart"):
            raise StepRefused(f"Failed to {verb} {name}: Unit {name} is masked.")
        if verb in ("start", "restart"):
            self.units[name] = replace(unit, active_state="active", sub_state="running", result="success")
        elif verb == "stop":
            self.units[name] = replace(unit, active_state="inactive", sub_state="dead", result="success", main_pid=0)
            self.wishes[name] = True
        elif verb == "reset-failed" and unit.active_state == "failed":
            self.units[name] = replace(unit, active_state="inactive", sub_state="dead", result="success", restarts=0)
        elif verb == "reload" and unit.active_state != "active":
            raise StepFailed(f"{name} is not active, cannot reload.")
        elif verb == "kill" and unit.active_state == "active":
            self.units[name] = replace(unit, active_state="failed", sub_state="failed", result="signal", main_pid=0)

    async def stopped_on_purpose(self, unit: Unit) -> bool | None:
        return self.wishes.get(unit.name)


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
        self._answers[where] = (HttpReply(status, headers or {}, body, seconds, tls_expires_at), seconds)

    def fail(self, where: str, error: OSError, seconds: float = 0.0) -> None:
        self._answers[where] = (error, seconds)

    async def http(self, request: HttpRequest) -> HttpReply:
        self.requests.append(request)
        reply = await self._ask(request.url)
        return replace(reply, body=reply.body[: request.body_limit])

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
        self._pass_on(("file", path), line)

    def write_message(self, unit: str, message: str) -> None:
        self._pass_on(("journal", unit), message)
        self._pass_on(("journal", None), message)

    def fail_followers(self, path: str, error: OSError) -> None:
        self._pass_on(("file", path), error)

    async def list(self, folder: str, pattern: str) -> Sequence[FileInfo]:
        return [
            info
            for path, info in sorted(self.files.items())
            if self._lies_in(folder, path) and fnmatch.fnmatchcase(os.path.basename(path), pattern)
        ]

    async def delete(self, folder: str, path: str) -> int:
        if path not in self.files or not self._lies_in(folder, path):
            raise StepRefused(f"{path} is no regular file inside {folder}")
        self.deleted.append(path)
        return self.files.pop(path).size

    async def follow(self, path: str) -> AsyncIterator[str]:
        async for line in self._follow(("file", path)):
            yield line

    async def follow_journal(self, unit: str | None) -> AsyncIterator[str]:
        if not self.has_journal:
            raise ProbeFailed("there is no journal on this host")
        async for line in self._follow(("journal", unit)):
            yield line

    async def _follow(self, source: tuple[str, str | None]) -> AsyncIterator[str]:
        lines: asyncio.Queue[str | OSError] = asyncio.Queue()
        self._followers.setdefault(source, []).append(lines)
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
        folder = folder.rstrip("/")
        parents = []
        parent = os.path.dirname(path)
        while len(parent) > len(folder):
            parents.append(parent)
            parent = os.path.dirname(parent)
        is_plain = os.path.normpath(path) == path and parent == folder
        return is_plain and self.links.isdisjoint((path, *parents))


class FakeMessages:
    """``sent`` tells what went where. What ``broken`` holds is raised instead."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.broken: StepFailed | None = None

    async def webhook(self, url: str, message: Message, token_file: str | None = None) -> None:
        self._send(url, message)

    async def mail(self, to: str, sender: str, server: str, message: Message) -> None:
        self._send(to, message)

    def _send(self, where: str, message: Message) -> None:
        if self.broken is not None:
            raise self.broken
        self.sent.append((where, message))


def tools(**overrides: Any) -> Tools:
    """Tools that are fakes wherever nothing else is given; there is no database unless one is."""
    fakes: dict[str, Any] = {
        "clock": FakeClock(),
        "host": FakeHost(),
        "processes": FakeProcesses(),
        "units": FakeUnits(),
        "commands": FakeCommands(),
        "network": FakeNetwork(),
        "files": FakeFiles(),
        "messages": FakeMessages(),
    }
    return Tools(**{**fakes, **overrides})
