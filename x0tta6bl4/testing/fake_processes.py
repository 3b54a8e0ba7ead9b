"""Keeps the processes port in memory, so that tests can script what processes do: die, hang, swell, refuse to start."""

import asyncio
import dataclasses
import itertools
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence

from x0tta6bl4.kernel.errors import StepFailed, StepRefused
from x0tta6bl4.ports.processes import ProcessId, ProcessReading, Program, Watch


@dataclasses.dataclass(slots=True)
class _Process:
    reading: ProcessReading
    command: str
    born: float
    name: str | None
    parent: ProcessId | None = None
    ignores_terms: bool = False
    code: int | None = None
    died: float | None = None
    watches: list["_Watch"] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True, eq=False)
class _Watch:
    on_exit: Callable[[], None]
    is_open: bool = True

    def fire(self) -> None:
        if self.is_open:
            self.is_open = False
            self.on_exit()

    def close(self) -> None:
        self.is_open = False


@dataclasses.dataclass(slots=True)
class _World:
    """What outlives a daemon."""

    processes: dict[ProcessId, _Process] = dataclasses.field(default_factory=dict)
    pid_files: dict[str, str] = dataclasses.field(default_factory=dict)
    output: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    pids: "itertools.count[int]" = dataclasses.field(default_factory=lambda: itertools.count(1000))


class FakeProcesses:
    """Everything happens at once and in the running loop's time, virtual or not.

    ``started`` and ``sent`` tell what was done to the world: names of programs, and signals with their receivers.
    """

    def __init__(self) -> None:
        self._world = _World()
        self._care: dict[str, ProcessId] = {}
        self._ended: dict[str, ProcessId] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._failures: dict[str, list[StepFailed]] = {}
        self._stubborn: set[str] = set()
        self._watches: list[_Watch] = []
        self.start_delay = 0.0
        self.started: list[str] = []
        self.sent: list[tuple[ProcessId, int]] = []

    # For the test that writes the script

    def successor(self) -> "FakeProcesses":
        """What the next daemon on this host has: the same world, and nothing in its care."""
        heir = FakeProcesses()
        heir._world = self._world
        return heir

    def add(self, command: str, *, pid_file: str | None = None, parent: ProcessId | None = None) -> ProcessId:
        """A process that somebody else started."""
        process = self._new(command, None, parent)
        if pid_file is not None:
            self._world.pid_files[pid_file] = f"{process.pid}\n"
        return process

    def write_pid_file(self, path: str, text: str) -> None:
        self._world.pid_files[path] = text

    def die(self, process: ProcessId, code: int = 1) -> None:
        """It ends by itself; a negative code says which signal did it. Its children go on."""
        entry = self._world.processes[process]
        if entry.died is None:
            entry.died, entry.code = _now(), code
            loop = asyncio.get_running_loop()
            for watch in entry.watches:
                loop.call_soon(watch.fire)
            entry.watches.clear()

    def hang(self, process: ProcessId) -> None:
        """It lives and answers nothing: only SIGKILL ends it."""
        self._world.processes[process].ignores_terms = True

    def hang_from_start(self, name: str) -> None:
        self._stubborn.add(name)

    def set_reading(
        self,
        process: ProcessId,
        *,
        state: str | None = None,
        rss: int | None = None,
        fds: int | None = None,
        fd_limit: int | None = None,
        threads: int | None = None,
        cpu_seconds: float | None = None,
        zombies: int | None = None,
    ) -> None:
        entry = self._world.processes[process]
        old = entry.reading
        entry.reading = dataclasses.replace(
            old,
            state=old.state if state is None else state,
            rss=old.rss if rss is None else rss,
            fds=old.fds if fds is None else fds,
            fd_limit=old.fd_limit if fd_limit is None else fd_limit,
            threads=old.threads if threads is None else threads,
            cpu_seconds=old.cpu_seconds if cpu_seconds is None else cpu_seconds,
            zombies=old.zombies if zombies is None else zombies,
        )

    def fail_start(self, name: str, error: StepFailed, times: int = 1) -> None:
        """The next so many starts of that program raise it."""
        self._failures.setdefault(name, []).extend([error] * times)

    def write_output(self, name: str, *lines: str) -> None:
        self._world.output.setdefault(name, []).extend(lines)

    # The port

    async def find_by_pid_file(self, path: str) -> ProcessId | None:
        text = self._world.pid_files.get(path, "").strip()
        return await self.find_by_pid(int(text)) if text.isdigit() else None

    async def find_by_command(self, pattern: str) -> Sequence[ProcessId]:
        expression = re.compile(pattern)
        found = [process for process, entry in self._live() if expression.search(entry.command)]
        return sorted(found, key=lambda process: (process.started, process.pid))

    async def find_by_pid(self, pid: int) -> ProcessId | None:
        return next((process for process, _ in self._live() if process.pid == pid), None)

    async def read(self, process: ProcessId) -> ProcessReading | None:
        entry = self._alive(process)
        return None if entry is None else dataclasses.replace(entry.reading, age=_now() - entry.born)

    def watch_exit(self, process: ProcessId, on_exit: Callable[[], None]) -> Watch:
        watch = _Watch(on_exit)
        self._watches = [known for known in self._watches if known.is_open]
        self._watches.append(watch)
        entry = self._alive(process)
        if entry is None:
            asyncio.get_running_loop().call_soon(watch.fire)
        else:
            entry.watches.append(watch)
        return watch

    def supervised(self, name: str) -> ProcessId | None:
        process = self._care.get(name)
        if process is not None and self._alive(process) is None:
            self._ended[name] = self._care.pop(name)
            return None
        return process

    def exit_of(self, name: str) -> tuple[int | None, float] | None:
        self.supervised(name)
        if name not in self._ended:
            return None
        entry = self._world.processes[self._ended[name]]
        return entry.code, entry.died or 0.0

    async def start(self, program: Program) -> ProcessId:
        async with self._locks.setdefault(program.name, asyncio.Lock()):
            running = self.supervised(program.name) or (await self.adopt([program])).get(program.name)
            if running is not None:
                return running
            if not program.argv or not os.path.isabs(program.argv[0]):
                raise StepRefused(f"cannot start {program.name!r}: {program.argv[:1]} is not an absolute path")
            if self.start_delay > 0:
                await asyncio.sleep(self.start_delay)
            if failures := self._failures.get(program.name):
                raise failures.pop(0)
            process = self._new(" ".join(program.argv), program.name, None)
            self._world.processes[process].ignores_terms = program.name in self._stubborn
            self._care[program.name] = process
            self.started.append(program.name)
            return process

    async def stop(self, name: str, grace: float) -> bool:
        async with self._locks.setdefault(name, asyncio.Lock()):
            tree = self._tree(name)
            for process in tree:
                self._deliver(process, signal.SIGTERM)
            left = [process for process in tree if self._alive(process) is not None]
            if left:
                # As the real one does: woken by the ends, by the clock only where there are none.
                ends = asyncio.Event()
                watches = [self.watch_exit(process, ends.set) for process in left]
                try:
                    async with asyncio.timeout(grace):
                        while any(self._alive(process) is not None for process in left):
                            ends.clear()
                            await ends.wait()
                except TimeoutError:
                    pass
                finally:
                    for watch in watches:
                        watch.close()
            for process in self._tree(name):
                self._deliver(process, signal.SIGKILL)
            self.supervised(name)
            return bool(tree)

    async def signal(self, name: str, number: int) -> bool:
        process = self.supervised(name)
        return process is not None and self._deliver(process, number)

    async def kill(self, process: ProcessId, number: int) -> bool:
        return self._deliver(process, number)

    async def adopt(self, programs: Sequence[Program]) -> Mapping[str, ProcessId]:
        adopted = {}
        for program in programs:
            process = self.supervised(program.name) or next(
                (process for process, entry in self._live() if entry.name == program.name), None
            )
            if process is not None:
                adopted[program.name] = self._care[program.name] = process
        return adopted

    async def last_output(self, name: str, lines: int) -> Sequence[str]:
        return self._world.output.get(name, [])[-lines:] if lines > 0 else []

    def close(self) -> None:
        for watch in self._watches:
            watch.close()
        self._watches.clear()
        self._care.clear()

    def _new(self, command: str, name: str | None, parent: ProcessId | None) -> ProcessId:
        pid = next(self._world.pids)
        process = ProcessId(pid, pid * 10)
        reading = ProcessReading(process, "S", 0.0, 8 << 20, 3, 1024, 1, 0.0, 0)
        self._world.processes[process] = _Process(reading, command, _now(), name, parent)
        return process

    def _alive(self, process: ProcessId) -> _Process | None:
        entry = self._world.processes.get(process)
        return entry if entry is not None and entry.died is None else None

    def _live(self) -> list[tuple[ProcessId, _Process]]:
        return [(process, entry) for process, entry in self._world.processes.items() if entry.died is None]

    def _tree(self, name: str) -> list[ProcessId]:
        members = {process for process, entry in self._world.processes.items() if entry.name == name}
        for process, entry in self._world.processes.items():
            if entry.parent in members:
                members.add(process)
        return sorted((process for process in members if self._alive(process)), key=lambda process: process.started)

    def _deliver(self, process: ProcessId, number: int) -> bool:
        entry = self._alive(process)
        if entry is None:
            return False
        self.sent.append((process, number))
        if number in (signal.SIGSTOP, signal.SIGCONT):
            entry.reading = dataclasses.replace(entry.reading, state="T" if number == signal.SIGSTOP else "S")
        elif number == signal.SIGKILL or (number != 0 and not entry.ignores_terms):
            self.die(process, -number)
        return True


def _now() -> float:
    return asyncio.get_running_loop().time()
