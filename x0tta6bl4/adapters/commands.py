"""Runs other programs for the daemon: argv lists in a session of their own, bounded in time and in output."""

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import signal
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Self

from x0tta6bl4.kernel.errors import StepFailed, StepRefused
from x0tta6bl4.ports.commands import CommandResult

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_GRACE = 0.5
"""Seconds between asking a tree to end and ending it."""
_LINGER = 0.2
"""Seconds the output is still read after the program ended: a service it left behind may hold the pipe for ever."""
_CHUNK = 65536
_KILL_WAIT = 5.0
"""Seconds that what an earlier life left gets to disappear after SIGKILL; what needs more hangs inside the kernel."""
_LOOK_AGAIN = 0.01
_ENTRY = struct.Struct("=QQQ")
"""One command under way: its number, which is its session's too; the boot-time tick at which it started; and what its
words are known by. The number is 0 while it is being started."""
_NONE = _ENTRY.pack(0, 0, 0)
_TICKS = os.sysconf("SC_CLK_TCK")
_STARTING = 2 * _TICKS
"""Ticks within which a program has begun that was about to be started."""
_INTERPRETER = 2
"""Words that the kernel may put in front of a script's own: its interpreter, and one argument for that."""

log = logging.getLogger("x0tta6bl4.adapters.commands")


class LinuxCommands:
    """Does not reach what a program moves into yet another session and abandons (a service it was meant to start).

    With a ``state_dir``, which takes ``commands/``, what runs is written down there, and ``end_left`` of the next life
    ends what a daemon that was killed had still written down, before anything is decided about it. PR_SET_PDEATHSIG
    would be sooner, but it reaches the program alone and not its children, it has to be set between fork and exec,
    which is not safe beside threads, and each start would copy the daemon's page tables. Marks in the environment
    cannot be read across the user namespaces that ``PrivateUsers=`` makes anew for each life.
    """

    def __init__(self, state_dir: Path | None = None) -> None:
        self._running = _Running(state_dir / "commands") if state_dir is not None else None

    async def end_left(self) -> None:
        """See ``ports.commands.OutlivesTheDaemon``. As after a timeout, it is each program's whole session."""
        if self._running is None:
            return
        until = time.monotonic() + _KILL_WAIT
        while left := self._kill_left(self._running):
            if time.monotonic() > until:
                raise StepFailed(
                    f"commands of an earlier life of the daemon are still running: {', '.join(map(str, left))}",
                    remedy="one in state D waits inside the kernel, mostly for a disk; another user's is yours to end",
                )
            await asyncio.sleep(_LOOK_AGAIN)

    @staticmethod
    def _kill_left(running: "_Running") -> list[int]:
        try:
            left = running.left()
        except OSError as error:
            raise StepFailed(f"cannot read what an earlier life of the daemon left running: {error}") from error
        _kill(left)
        return left

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
            raise StepRefused(
                f"not a command: {list(command)!r}", remedy="begin it with the absolute path of the program"
            )
        if any("\0" in word for word in command):
            raise StepRefused(f"not a command: {list(command)!r} has a zero byte in it")
        started = time.monotonic()
        ended = False
        with _Entry(self._running, command) as entry:
            run = _Run(command, limit, dict(_ENVIRONMENT if env is None else env), input)
            entry.has_started(run.process.pid)
            try:
                async with asyncio.timeout(timeout):
                    # Not `await run.ended`: our cancellation would cancel that future, and its end would never be seen.
                    await asyncio.wait([run.ended])
                    ended = True
                    # Before the wait for the last of its output: what it leaves behind, it was meant to start.
                    entry.remove()
                    await asyncio.wait([run.drained], timeout=_LINGER)
            except TimeoutError:
                pass
            finally:
                try:
                    if not ended:
                        await run.end_tree()
                finally:
                    run.close()
                    # What hangs in the kernel even after SIGKILL stays written down: it must not be overlooked later.
                    entry.stays = not run.ended.done()
        output, truncated = run.output()
        return CommandResult(
            command, run.process.returncode if ended else None, output, truncated, time.monotonic() - started
        )


class _Running:
    """The commands under way, in a file that tells a next life of them; its lock tells that this life goes on.

    It is never flushed to the disk: the page cache outlives the daemon, and what ends the page cache ends the commands.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None
        self._taken: set[int] = set()
        self._is_failing = False

    def take(self) -> int:
        """A place in the file. It is the taker's until it is given back."""
        place = next(n for n in range(len(self._taken) + 1) if n not in self._taken)
        self._taken.add(place)
        return place

    def give_back(self, place: int) -> None:
        self.write(place, _NONE)
        self._taken.discard(place)

    def write(self, place: int, entry: bytes) -> None:
        """A full disk is no reason not to act: then it is not written down, which is said once."""
        try:
            if self._fd is None:
                self._fd = self._open()
            os.pwrite(self._fd, entry, place * _ENTRY.size)
        except OSError as error:
            if not self._is_failing:
                log.warning(
                    "what commands are running cannot be written down; killed now, the daemon would leave them behind",
                    extra={"folder": str(self._folder), "reason": str(error)},
                )
            self._is_failing = True
        else:
            self._is_failing = False

    def _open(self) -> int:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _kill(self.left())
        path = self._folder / f"{_world()}-{secrets.token_hex(8)}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # With the last command that uses it, also after a reload: what is being run holds on to this object.
        weakref.finalize(self, _close_and_remove, fd, path)
        return fd

    def left(self) -> list[int]:
        """The live processes of what daemons that are gone had running. Files that tell of none are removed."""
        found: list[int] = []
        world = _world()
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return found
        for name in names:
            path = self._folder / name
            try:
                fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Of before a boot, or of a container that is gone: the numbers mean other processes now.
                here = _read(fd) if name.startswith(f"{world}-") else []
            except BlockingIOError:
                continue  # ours, or that of a loop before a reload
            finally:
                os.close(fd)
            alive = [member for entry in here for member in _remains(*entry)]
            if not alive:
                path.unlink(missing_ok=True)
            found += alive
        return found


class _Entry:
    """One command in it, from before it is started; without a file it does nothing."""

    def __init__(self, running: _Running | None, argv: Sequence[str]) -> None:
        self._running = running
        self._argv = argv
        self._place: int | None = None
        self.stays = False

    def __enter__(self) -> Self:
        if self._running is not None:
            tick = int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)
            about_to_start = _ENTRY.pack(0, tick, _known_by([*map(os.fsencode, self._argv)]))
            self._place = self._running.take()
            self._running.write(self._place, about_to_start)
        return self

    def has_started(self, pid: int) -> None:
        if self._running is not None and self._place is not None:
            self._running.write(self._place, _ENTRY.pack(pid, _started(pid) or 0, 0))

    def remove(self) -> None:
        if self._running is not None and self._place is not None:
            self._running.give_back(self._place)
            self._place = None

    def __exit__(self, *_: object) -> None:
        if not self.stays:
            self.remove()


class _Run:
    """A started program. It is not collected before ``close``, so its number stays its own until then."""

    def __init__(self, argv: tuple[str, ...], limit: int, env: dict[str, str], text: bytes | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=env,
            bufsize=0,
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.drained: asyncio.Future[None] = self._loop.create_future()
        self._readers = {self.process.stdout.fileno(): bytearray(), self.process.stderr.fileno(): bytearray()}
        self._open = set(self._readers)
        self._dropped = False
        try:
            self._pidfd = os.pidfd_open(self.process.pid)
        except OSError:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                if pipe is not None:
                    pipe.close()
            raise
        self._loop.add_reader(self._pidfd, self._on_end)
        for fd in self._readers:
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._on_output, fd)
        if self.process.stdin is not None:
            os.set_blocking(self.process.stdin.fileno(), False)
            self._input = memoryview(text or b"")
            self._loop.add_writer(self.process.stdin.fileno(), self._on_room)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if not self.ended.done():
            self.ended.set_result(None)

    def _on_output(self, fd: int) -> None:
        try:
            chunk = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._loop.remove_reader(fd)
            self._open.discard(fd)
            if not self._open and not self.drained.done():
                self.drained.set_result(None)
            return
        kept = self._readers[fd]
        room = self._limit - len(kept)
        # What is over the limit is still read, or the program would wait for ever for somebody to take it.
        self._dropped = self._dropped or len(chunk) > room
        kept += chunk[: max(0, room)]

    def _on_room(self) -> None:
        assert self.process.stdin is not None
        try:
            self._input = self._input[os.write(self.process.stdin.fileno(), self._input[:_CHUNK]) :]
        except BlockingIOError:
            return
        except OSError:
            self._input = memoryview(b"")  # It does not want to read any more, which is its right.
        if not self._input:
            self._close_input()

    def _close_input(self) -> None:
        if self.process.stdin is not None and not self.process.stdin.closed:
            self._loop.remove_writer(self.process.stdin.fileno())
            self.process.stdin.close()

    async def end_tree(self) -> None:
        try:
            self._signal(signal.SIGTERM)
            await asyncio.wait([self.ended], timeout=_GRACE)
        finally:
            # The program itself may be gone and its children deaf to SIGTERM; also when we are cancelled once more.
            self._signal(signal.SIGKILL)
        # One that hangs in the kernel, waiting for a dead disk, dies when the disk says so: nobody waits for that here.
        await asyncio.wait([self.ended], timeout=_GRACE)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass
        for pid in _session(self.process.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def close(self) -> None:
        assert self.process.stdout is not None and self.process.stderr is not None
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        for fd in self._open:
            self._loop.remove_reader(fd)
        self._dropped = self._dropped or bool(self._open)
        self._close_input()
        self.process.stdout.close()
        self.process.stderr.close()
        # Collects it. Should it not be dead yet, subprocess does so when the next program is started.
        self.process.poll()

    def output(self) -> tuple[str, bool]:
        whole = b"".join(self._readers.values())
        return whole[: self._limit].decode(errors="replace"), self._dropped or len(whole) > self._limit


def _session(leader: int) -> list[int]:
    """The live processes of one session, whatever groups they formed in it (an interactive shell forms many)."""
    members = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            stat = _stat(int(name))
            if stat is not None and stat[0] != b"Z" and int(stat[3]) == leader:
                members.append(int(name))
    return members


def _close_and_remove(fd: int, path: Path) -> None:
    path.unlink(missing_ok=True)
    os.close(fd)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _read(fd: int) -> list[tuple[int, int, int]]:
    table = os.pread(fd, os.fstat(fd).st_size, 0)
    whole = table[: len(table) - len(table) % _ENTRY.size]
    return [(pid, started, words) for pid, started, words in _ENTRY.iter_unpack(whole) if started]


def _remains(pid: int, started: int, words: int) -> list[int]:
    """What lives of that command. While one process of its session lives, nobody else can be given its number."""
    if not pid:
        return [member for leader in _just_started(started, words) for member in _session(leader)]
    now = _started(pid)
    return [] if now is not None and now != started else _session(pid)


def _just_started(tick: int, words: int) -> list[int]:
    """What was begun as a session with these words soon after that tick, and not by us."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        stat = _stat(pid)
        if stat is None or stat[0] == b"Z" or int(stat[3]) != pid or int(stat[1]) == os.getpid():
            continue
        if tick <= int(stat[19]) <= tick + _STARTING:
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
                said = file.read().removesuffix(b"\0").split(b"\0")
                if any(_known_by(said[n:]) == words for n in range(_INTERPRETER + 1)):
                    found.append(pid)
    return found


def _known_by(words: Sequence[bytes]) -> int:
    return int.from_bytes(blake2b(b"\0".join(words), digest_size=8).digest(), sys.byteorder)


def _started(pid: int) -> int | None:
    """The tick of its start, also of one that nobody has collected yet; None when there is no such process."""
    stat = _stat(pid)
    return int(stat[19]) if stat is not None else None


def _stat(pid: int) -> list[bytes] | None:
    """What the kernel says of it, from its state on; None when there is no such process, or it may not be looked at."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split() or None
    except OSError:
        return None


def _world() -> str:
    """Where a process' number and start mean the same: this boot, and in it this container."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return f"{boot}-{_started(1) or 0}"
