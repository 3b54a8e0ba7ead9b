"""Processes on this host: finding, reading and watching any of them; starting and stopping those in our care."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid with its start time in clock ticks since boot: together they never name two processes."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class ProcessReading:
    """One look at one process. ``zombies`` counts its dead children that nobody has collected."""

    id: ProcessId
    state: str
    """The kernel's letter: R running, S sleeping, D waiting for a device, T stopped, Z zombie."""
    age: float
    """Seconds since the process started."""
    rss: int
    fds: int | None
    """Open descriptors, or None where we lack the right to count another user's."""
    fd_limit: int | None
    threads: int
    cpu_seconds: float
    zombies: int


@dataclass(frozen=True, slots=True)
class Program:
    """What it takes to start a process that the daemon supervises. ``argv[0]`` is an absolute path."""

    name: str
    argv: tuple[str, ...]
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    on_exit: str = "leave"
    """``leave``: it outlives the daemon and is adopted by the next one. ``stop``: it is stopped when the daemon stops.
    """


class Watch(Protocol):
    def close(self) -> None:
        """Ends the watching; calling it again does nothing."""
        ...


class Processes(Protocol):
    async def find_by_pid_file(self, path: str) -> ProcessId | None:
        """The live process that the file names, or None: no file, a stale pid, a foreign number in it."""
        ...

    async def find_by_command(self, pattern: str) -> Sequence[ProcessId]:
        """Live processes whose command line matches the regular expression, oldest first. Walks all of /proc:
        costly.
        """
        ...

    async def find_by_pid(self, pid: int) -> ProcessId | None: ...

    async def read(self, process: ProcessId) -> ProcessReading | None:
        """None when that process is gone or is itself a zombie, also when its pid was given to another one
        meanwhile.
        """
        ...

    def watch_exit(self, process: ProcessId, on_exit: Callable[[], None]) -> Watch:
        """Calls ``on_exit`` once, from the event loop, when the process ends; also when it had ended before."""
        ...

    def supervised(self, name: str) -> ProcessId | None:
        """The live process running for the program of that name, or None."""
        ...

    async def start(self, program: Program) -> ProcessId:
        """Starts it in a session of its own, with its output in a bounded file. If it already runs, that one is
        returned.
        """
        ...

    async def stop(self, name: str, grace: float) -> bool:
        """SIGTERM to the whole tree, SIGKILL after ``grace`` seconds, all of it collected. False when nothing was
        running.
        """
        ...

    async def signal(self, name: str, number: int) -> bool:
        """Sends a signal to the program's main process. False when nothing was running."""
        ...

    async def kill(self, process: ProcessId, number: int) -> bool:
        """Sends a signal to exactly that process (never to a newcomer with its pid). False when it is gone."""
        ...

    async def adopt(self, programs: Sequence[Program]) -> Mapping[str, ProcessId]:
        """After a restart of the daemon: finds those programs of ours that still run and takes them up again."""
        ...

    def exit_of(self, name: str) -> tuple[int | None, float] | None:
        """How the program of that name ended last, and when (wall clock): its exit code, or minus the signal's number.

        The code is None when it was another parent's to collect; None altogether when it has not ended in this life.
        """
        ...

    async def last_output(self, name: str, lines: int) -> Sequence[str]:
        """The last lines that the program wrote; empty when it has written none."""
        ...
