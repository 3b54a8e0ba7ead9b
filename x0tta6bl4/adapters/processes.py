"""Keeps the processes port on Linux: /proc for looking, pidfds for watching and signalling, sessions and an
environment marker for starting programs and finding all of what became of them."""

import asyncio
import contextlib
import errno
import json
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from x0tta6bl4.kernel.errors import ProbeFailed, StepFailed, StepRefused
from x0tta6bl4.ports.processes import ProcessId, ProcessReading, Program, Watch

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LARGEST_PID = 1 << 22
_KERNEL_THREAD = 0x00200000
_GONE = (errno.ESRCH, errno.ENOENT, errno.EINVAL)
"""What pidfd_open says of a pid that names no process; EINVAL (later ENOENT) when it names a mere thread."""
_PASSED_ON = ("HOME", "USER", "LOGNAME", "TZ")
_LOOK_EVERY = 2.0
"""Seconds between two looks at the size of a program's output, as long as it stays within its limit."""
_COUNT_EVERY = 10.0
"""Seconds between two counts of a process's zombies: they hurt by their number, which takes minutes to grow."""
_COUNT_SHARE = 500.0
"""Counting zombies may take one part in so many of the time: it means a look at every child."""
_HELD = 100
"""Processes whose files in /proc are held open, three for each; those beyond are opened anew for every look."""
_UNREAD = 60.0
"""Seconds without a look after which another process may have the place."""
_KILL_WAIT = 5.0
"""Seconds a process gets to disappear after SIGKILL; one that needs more hangs inside the kernel."""
_BOUNDARY = b"\0"
_EXEC_PAUSES = (0.0005, 0.001, 0.001, 0.002, 0.002, 0.003, 0.003, 0.005, 0.005, 0.008)
"""Seconds between the looks at a process that seems to have no command line."""


class _Stat(NamedTuple):
    state: str
    parent: int
    session: int
    flags: int
    cpu_ticks: int
    threads: int
    started: int

    @property
    def is_dead(self) -> bool:
        # A main thread that ended before its siblings also shows Z, and that process lives on.
        return self.state in "ZXx" and self.threads <= 1


class _Row(NamedTuple):
    id: ProcessId
    stat: _Stat


@dataclass(slots=True)
class _Care:
    """A program that runs in our care."""

    id: ProcessId
    name: str
    on_exit: str
    pidfd: int
    loop: asyncio.AbstractEventLoop
    output: Path
    look_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _Ended:
    id: ProcessId
    code: int | None
    at: float
    tick: int
    """Boot-time tick at which we learnt of it. Before that nobody else can have had a session of its number."""


@dataclass(slots=True)
class _Remembered:
    """What of a process is too dear, or too constant, to be read each time.

    An open file of /proc belongs to its process, not to the pid: once that is gone reading says so, whoever has the
    number now. And to read an open one again costs a third of opening, reading and closing it.
    """

    folder: int
    stat: int
    statm: int
    fd_limit: int | None
    read_at: float = 0.0
    zombies: int = 0
    count_at: float = 0.0


@dataclass(slots=True, eq=False)
class _Watch:
    loop: asyncio.AbstractEventLoop
    on_exit: Callable[[], None]
    open: set["_Watch"] = field(repr=False)
    pidfd: int | None = None
    soon: asyncio.Handle | None = None

    def fire(self) -> None:
        self.close()
        self.on_exit()

    def close(self) -> None:
        if self.soon is not None:
            self.soon.cancel()
            self.soon = None
        if self.pidfd is not None:
            self.loop.remove_reader(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = None
        self.open.discard(self)


class LinuxProcesses:
    """Lives on the running event loop and is not to be used from other threads.

    ``state_dir`` takes ``output/NAME.log`` and ``processes/NAME.json``. ``marker`` tells our programs from those of
    other daemons on this host or in a container of it; None makes it of the state directory's device and inode, because
    the same path in another mount namespace is not the same directory.

    Not done: orphans that are handed to the daemon because it is pid 1 are collected by ``stop`` only; run an init in
    such a container. A runaway that cleared its environment *and* left both its session and its parent is not found.
    """

    def __init__(self, state_dir: Path, output_limit: int = 1 << 20, marker: str | None = None) -> None:
        self._state_dir = state_dir
        self._output_limit = output_limit
        self._marker = marker
        self._care: dict[str, _Care] = {}
        self._by_id: dict[ProcessId, _Care] = {}
        self._ended: dict[str, _Ended] = {}
        self._looked_for: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}
        self._watches: set[_Watch] = set()
        self._remembered: dict[ProcessId, _Remembered] = {}
        self._lists_children = os.path.exists("/proc/thread-self/children")
        self._boot_epoch = _boot_epoch()

    # Looking

    async def find_by_pid(self, pid: int) -> ProcessId | None:
        try:
            return _find(pid)
        except OSError as error:
            raise _unreadable(pid, error) from error

    async def find_by_pid_file(self, path: str) -> ProcessId | None:
        """A process that is younger than the file cannot be the one it names: it was given the pid of a dead one.

        The clock may have been set meanwhile; of all offsets between clock and boot time seen so far the one is taken
        that favours the process.
        """
        try:
            first, written = _pid_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ProbeFailed(f"cannot read the pid file {path}: {error.strerror}") from error
        if not first.isdigit():
            return None
        found = await self.find_by_pid(int(first))
        self._boot_epoch = min(self._boot_epoch, _boot_epoch())
        if found is not None and self._boot_epoch + found.started / _TICKS > written + 2.0:
            return None
        return found

    async def find_by_command(self, pattern: str) -> Sequence[ProcessId]:
        return await asyncio.to_thread(_find_by_command, re.compile(pattern))

    async def read(self, process: ProcessId) -> ProcessReading | None:
        care = self._by_id.get(process)
        if care is not None and time.monotonic() >= care.look_at:
            await self._bound_output(care)
        known = self._remembered.get(process)
        try:
            if known is None:
                known = _remember(process.pid)
                self._make_room()
                if len(self._remembered) < _HELD:
                    self._remembered[process] = known
            reading = self._read(process, known)
        except (FileNotFoundError, ProcessLookupError):
            reading = None
        except OSError as error:
            raise _unreadable(process.pid, error) from error
        finally:
            if known is not None and process not in self._remembered:
                _close(known)
        if reading is None:
            self._let_go(process)
        return reading

    def _make_room(self) -> None:
        if len(self._remembered) >= _HELD:
            unread_since = time.monotonic() - _UNREAD
            for process in [process for process, known in self._remembered.items() if known.read_at < unread_since]:
                self._let_go(process)

    def _let_go(self, process: ProcessId) -> None:
        known = self._remembered.pop(process, None)
        if known is not None:
            _close(known)

    def _read(self, process: ProcessId, known: _Remembered) -> ProcessReading | None:
        stat = _parse_stat(os.pread(known.stat, 4096, 0))
        if stat.started != process.started or stat.is_dead:
            return None
        now = known.read_at = time.monotonic()
        if now >= known.count_at:
            known.zombies = self._count_zombies(process.pid, known.folder)
            ended = time.monotonic()
            known.count_at = ended + max(_COUNT_EVERY, (ended - now) * _COUNT_SHARE)
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - stat.started / _TICKS
        return ProcessReading(
            id=process,
            state=stat.state,
            age=max(0.0, age),
            rss=int(os.pread(known.statm, 256, 0).split(b" ", 2)[1]) * _PAGE,
            fds=_count_fds(process.pid, known.folder),
            fd_limit=known.fd_limit,
            threads=stat.threads,
            cpu_seconds=stat.cpu_ticks / _TICKS,
            zombies=known.zombies,
        )

    def _count_zombies(self, pid: int, folder: int) -> int:
        if not self._lists_children:
            return sum(row.stat.parent == pid and row.stat.is_dead for row in _table(with_dead=True))
        count = 0
        for task in os.listdir(f"/proc/{pid}/task"):
            try:
                children = _contents(f"task/{task}/children", folder).split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            for child in children:
                stat = _stat_of(int(child))
                count += stat is not None and stat.is_dead
        return count

    # Watching and signalling

    def watch_exit(self, process: ProcessId, on_exit: Callable[[], None]) -> Watch:
        loop = asyncio.get_running_loop()
        try:
            pidfd = _open_pidfd(process)
        except OSError as error:
            raise ProbeFailed(f"cannot watch pid {process.pid}: {error.strerror}") from error
        watch = _Watch(loop, on_exit, self._watches, pidfd)
        if pidfd is None:
            watch.soon = loop.call_soon(watch.fire)
        else:
            loop.add_reader(pidfd, watch.fire)
        self._watches.add(watch)
        return watch

    async def kill(self, process: ProcessId, number: int) -> bool:
        try:
            pidfd = _open_pidfd(process)
        except OSError as error:
            raise StepFailed(f"cannot reach pid {process.pid}: {error.strerror}") from error
        if pidfd is None:
            return False
        try:
            return _send(process.pid, pidfd, number)
        finally:
            os.close(pidfd)

    async def signal(self, name: str, number: int) -> bool:
        running = self.supervised(name)
        return running is not None and _send(running.pid, self._care[name].pidfd, number)

    # Programs in our care

    def supervised(self, name: str) -> ProcessId | None:
        care = self._care.get(name)
        if care is None:
            return None
        if _has_ended(care.pidfd):
            self._collect(name)
            return None
        return care.id

    def exit_of(self, name: str) -> tuple[int | None, float] | None:
        """How the last process of that program ended, and when (wall clock); None when it never ended in our care.

        The code is negative for a signal, and None for an adopted process: its status was for another parent.
        """
        self.supervised(name)
        ended = self._ended.get(name)
        return None if ended is None else (ended.code, ended.at)

    async def start(self, program: Program) -> ProcessId:
        async with self._lock(program.name):
            running = self.supervised(program.name)
            if running is None and program.name not in self._looked_for:
                running = (await self._adopt([program])).get(program.name)
            return self._start(program) if running is None else running

    def _start(self, program: Program) -> ProcessId:
        _refuse_unrunnable(program)
        record = self._path("processes", program.name, "json")
        # An old record beside a new process that has none yet would hide that one from a successor of this daemon.
        try:
            record.unlink(missing_ok=True)
        except OSError as error:
            raise StepFailed(f"cannot start {program.name!r}: cannot remove {record}: {error.strerror}") from error
        stdout = _open_output(self._path("output", program.name, "log"), self._output_limit)
        try:
            with _signals_at_default():
                child = subprocess.Popen(
                    program.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=subprocess.STDOUT,
                    cwd=program.cwd,
                    env=self._environment(program),
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            raise _start_failure(program, error) from error
        finally:
            if stdout != subprocess.DEVNULL:
                os.close(stdout)
        try:
            stat = _parse_stat(_contents(f"/proc/{child.pid}/stat"))
            pidfd = os.pidfd_open(child.pid)
        except OSError as error:
            child.kill()
            child.wait()
            raise StepFailed(f"{program.name!r} was started but cannot be watched: {error.strerror}") from error
        _as_killable_as_others(child.pid)
        # From here on the pidfd collects it. Popen must not wait for it too, nor complain that it is left running.
        child.returncode = 0
        process = ProcessId(child.pid, stat.started)
        self._take(program, process, pidfd)
        self._write_record(record, program, process)
        return process

    def _environment(self, program: Program) -> dict[str, str]:
        passed_on = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            **passed_on,
            **program.env,
            "X0TTA6BL4_SUBJECT": program.name,
            "X0TTA6BL4_HOME": self._home(),
        }

    def _take(self, program: Program, process: ProcessId, pidfd: int) -> None:
        output = self._path("output", program.name, "log")
        loop = asyncio.get_running_loop()
        care = _Care(process, program.name, program.on_exit, pidfd, loop, output, time.monotonic() + _LOOK_EVERY)
        self._care[program.name] = self._by_id[process] = care
        self._looked_for.add(program.name)
        loop.add_reader(pidfd, self._collect, program.name)

    def _collect(self, name: str) -> None:
        care = self._care.pop(name)
        del self._by_id[care.id]
        self._let_go(care.id)
        care.loop.remove_reader(care.pidfd)
        tick = int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)
        code = _reap(care.pidfd)
        os.close(care.pidfd)
        self._ended[name] = _Ended(care.id, code, time.time(), tick)

    async def stop(self, name: str, grace: float) -> bool:
        async with self._lock(name):
            clock = asyncio.get_running_loop().time
            term_until = clock() + grace
            kill_until: float | None = None
            found_any = False
            held: dict[ProcessId, int] = {}
            refused: dict[ProcessId, StepRefused] = {}
            try:
                # What a process forks while it is being told to end is seen by the next look: until one sees nothing.
                while rows := await asyncio.to_thread(self._tree, name):
                    found_any = True
                    if kill_until is None and clock() >= term_until:
                        kill_until = clock() + _KILL_WAIT
                    elif kill_until is not None and clock() >= kill_until:
                        raise _still_there(name, rows)
                    for row in rows:
                        try:
                            self._end(row.id, held, gently=kill_until is None)
                        except StepRefused as refusal:
                            refused[row.id] = refusal
                    if all(row.id in refused for row in rows):
                        raise refused[rows[0].id]
                    await _wait_ended(held, (kill_until or term_until) - clock())
                    for process in [process for process, pidfd in held.items() if _has_ended(pidfd)]:
                        self._forget(name, process, held.pop(process))
            finally:
                for pidfd in held.values():
                    os.close(pidfd)
            # One that cannot be removed names a process that is gone, and misleads nobody.
            with contextlib.suppress(OSError):
                self._path("processes", name, "json").unlink(missing_ok=True)
            return found_any

    def _end(self, process: ProcessId, held: dict[ProcessId, int], *, gently: bool) -> None:
        if process in held and gently:
            return
        try:
            pidfd = held.get(process)
            if pidfd is None:
                pidfd = _open_pidfd(process)
            if pidfd is None:
                return
            held[process] = pidfd
            _send(process.pid, pidfd, signal.SIGTERM if gently else signal.SIGKILL)
            if gently:
                # A stopped process gets its SIGTERM only when it goes on.
                _send(process.pid, pidfd, signal.SIGCONT)
        except OSError as error:
            raise StepFailed(f"cannot reach pid {process.pid}: {error.strerror}") from error

    def _forget(self, name: str, process: ProcessId, pidfd: int) -> None:
        care = self._care.get(name)
        if care is not None and care.id == process:
            self._collect(name)
        else:
            _reap(pidfd)
        os.close(pidfd)

    async def adopt(self, programs: Sequence[Program]) -> Mapping[str, ProcessId]:
        async with contextlib.AsyncExitStack() as locks:
            # Always in the order of the names: two adoptions at once must not hold what the other waits for.
            for name in sorted({program.name for program in programs}):
                await locks.enter_async_context(self._lock(name))
            return await self._adopt(programs)

    async def _adopt(self, programs: Sequence[Program]) -> dict[str, ProcessId]:
        adopted: dict[str, ProcessId] = {}
        unrecorded: list[Program] = []
        for program in programs:
            running = self.supervised(program.name)
            if running is not None:
                adopted[program.name] = running
                continue
            recorded, process = self._read_record(program.name)
            if process is not None and self._take_if_alive(program, process):
                adopted[program.name] = process
            elif not recorded:
                unrecorded.append(program)
        if unrecorded:
            # No record: never started, or the daemon died between starting it and writing the record.
            leaders = await asyncio.to_thread(self._marked_leaders, [program.name for program in unrecorded])
            for program in unrecorded:
                leader = leaders.get(program.name)
                if leader is not None and self._take_if_alive(program, leader):
                    adopted[program.name] = leader
                    self._write_record(self._path("processes", program.name, "json"), program, leader)
        self._looked_for.update(program.name for program in programs)
        return adopted

    def _take_if_alive(self, program: Program, process: ProcessId) -> bool:
        try:
            pidfd = _open_pidfd(process)
        except OSError as error:
            raise StepFailed(f"cannot adopt pid {process.pid} as {program.name!r}: {error.strerror}") from error
        if pidfd is not None:
            self._take(program, process, pidfd)
        return pidfd is not None

    async def last_output(self, name: str, lines: int) -> Sequence[str]:
        path = self._path("output", name, "log")
        return await asyncio.to_thread(_tail, path, self._output_limit, lines) if lines > 0 else []

    async def aclose(self, grace: float = 5.0) -> None:
        """Stops the programs that are not to outlive the daemon, then closes everything."""
        names = [care.name for care in self._care.values() if care.on_exit == "stop"]
        ends = await asyncio.gather(*(self.stop(name, grace) for name in names), return_exceptions=True)
        self.close()
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    def close(self) -> None:
        """Ends all watching; programs go on. Calling it again does nothing."""
        for watch in tuple(self._watches):
            watch.close()
        for name, care in tuple(self._care.items()):
            if self.supervised(name) is not None:
                care.loop.remove_reader(care.pidfd)
                os.close(care.pidfd)
        self._care.clear()
        self._by_id.clear()
        for process in tuple(self._remembered):
            self._let_go(process)
        # Whoever starts a program after this has to look for the running one again.
        self._looked_for.clear()

    # What lies on disk

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _path(self, folder: str, name: str, suffix: str) -> Path:
        return self._state_dir / folder / f"{name.replace('%', '%25').replace('/', '%2F')}.{suffix}"

    def _home(self) -> str:
        if self._marker is None:
            try:
                stat = self._state_dir.stat()
            except FileNotFoundError:
                self._state_dir.mkdir(parents=True, exist_ok=True)
                stat = self._state_dir.stat()
            self._marker = f"{stat.st_dev:x}:{stat.st_ino:x}"
        return self._marker

    def _write_record(self, path: Path, program: Program, process: ProcessId) -> None:
        record = {
            "pid": process.pid,
            "started": process.started,
            "boot": _boot_id(),
            "argv": program.argv,
            "at": time.time(),
        }
        # Best effort, for a program can be needed most when the disk is full: without a record its marker finds it.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".new")
            draft.write_text(json.dumps(record))
            draft.replace(path)

    def _read_record(self, name: str) -> tuple[bool, ProcessId | None]:
        """Whether there is a usable record, and the process it names if that can still be running."""
        try:
            record = json.loads(self._path("processes", name, "json").read_bytes())
            process = ProcessId(int(record["pid"]), int(record["started"]))
            # After a reboot another process can have the same pid and even the same start time.
            return True, process if record["boot"] == _boot_id() else None
        except (OSError, ValueError, KeyError, TypeError):
            return False, None

    async def _bound_output(self, care: _Care) -> None:
        care.look_at = float("inf")
        trimmed = False
        try:
            if care.output.stat().st_size > self._output_limit:
                await asyncio.to_thread(_drop_older_half, care.output, self._output_limit)
                trimmed = True
        except OSError:
            # Deleted or out of reach: the process's health is still to be read, and that is what was asked for.
            pass
        finally:
            # While a flood lasts every reading looks.
            care.look_at = time.monotonic() + (0.0 if trimmed else _LOOK_EVERY)

    # Finding a program's processes among all

    def _tree(self, name: str) -> list[_Row]:
        """All that belongs to the program, oldest first: by session, by marker, and the descendants of those."""
        rows = _table()
        care, ended = self._care.get(name), self._ended.get(name)
        wanted = self._marks(name)
        pending: list[_Row] = []
        for row in rows:
            session = row.stat.session
            in_session = care is not None and session == care.id.pid
            in_left_session = ended is not None and session == ended.id.pid and row.id.started <= ended.tick
            if in_session or in_left_session or (row.id.pid != 1 and _carries(row.id.pid, wanted)):
                pending.append(row)
        children: dict[int, list[_Row]] = {}
        for row in rows:
            children.setdefault(row.stat.parent, []).append(row)
        members: dict[ProcessId, _Row] = {}
        while pending:
            row = pending.pop()
            if row.id not in members:
                members[row.id] = row
                pending += children.get(row.id.pid, ())
        return sorted(members.values(), key=_by_age)

    def _marked_leaders(self, names: Iterable[str]) -> dict[str, ProcessId]:
        """For each name the oldest process that bears it and leads a session, as what we start does."""
        wanted = {name: self._marks(name) for name in names}
        leaders: dict[str, ProcessId] = {}
        for row in sorted(_table(), key=_by_age):
            if row.stat.session == row.id.pid:
                environment = _environ_of(row.id.pid)
                for name, marks in wanted.items():
                    if name not in leaders and all(mark in environment for mark in marks):
                        leaders[name] = row.id
        return leaders

    def _marks(self, name: str) -> tuple[bytes, bytes]:
        return (
            _BOUNDARY + os.fsencode(f"X0TTA6BL4_SUBJECT={name}") + _BOUNDARY,
            _BOUNDARY + os.fsencode(f"X0TTA6BL4_HOME={self._home()}") + _BOUNDARY,
        )


def _contents(path: str, folder: int | None = None) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        data = piece = os.read(fd, 8192)
        # The kernel hands lists out page by page, not always full ones; the short files end with the first read.
        while piece and len(data) >= 2048:
            piece = os.read(fd, 65536)
            data += piece
        return data
    finally:
        os.close(fd)


def _pid_file(path: str) -> tuple[bytes, float]:
    """Its first word and when it was written."""
    # A pipe in place of the file must not hold the daemon up.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, 64).strip().partition(b"\n")[0].strip(), os.fstat(fd).st_mtime
    finally:
        os.close(fd)


def _parse_stat(data: bytes) -> _Stat:
    # The command's name stands in parentheses and may hold anything, parentheses and spaces too.
    part = data[data.rindex(b")") + 2 :].split(None, 20)
    return _Stat(
        state=part[0].decode("ascii"),
        parent=int(part[1]),
        session=int(part[3]),
        flags=int(part[6]),
        cpu_ticks=int(part[11]) + int(part[12]),
        threads=int(part[17]),
        started=int(part[19]),
    )


def _stat_of(pid: int) -> _Stat | None:
    try:
        return _parse_stat(_contents(f"/proc/{pid}/stat"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def _find(pid: int) -> ProcessId | None:
    if not 0 < pid <= _LARGEST_PID:
        return None
    try:
        # /proc shows a thread's number like a process's; this call tells them apart.
        os.close(os.pidfd_open(pid))
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    stat = _stat_of(pid)
    return None if stat is None or stat.is_dead or stat.flags & _KERNEL_THREAD else ProcessId(pid, stat.started)


def _table(*, with_dead: bool = False) -> list[_Row]:
    """All processes but kernel threads and ourselves: nothing that is ever looked for is among those."""
    rows = []
    ourselves = os.getpid()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != ourselves:
            try:
                stat = _stat_of(int(entry))
            except PermissionError:
                # A /proc mounted with hidepid: another user's process, none of ours.
                continue
            if stat is not None and not stat.flags & _KERNEL_THREAD and (with_dead or not stat.is_dead):
                rows.append(_Row(ProcessId(int(entry), stat.started), stat))
    return rows


def _by_age(row: _Row) -> tuple[int, int]:
    return row.id.started, row.id.pid


def _environ_of(pid: int) -> bytes:
    try:
        return _BOUNDARY + _contents(f"/proc/{pid}/environ") + _BOUNDARY
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _carries(pid: int, marks: Iterable[bytes]) -> bool:
    environment = _environ_of(pid)
    return all(mark in environment for mark in marks)


def _command_line(pid: int) -> bytes:
    """
    Empty for an instant while a process becomes another program (exec), and asked again then: one that
    runs must not look gone. The few that have wiped their own are asked in vain.
    """
    for pause in _EXEC_PAUSES:
        if command := _contents(f"/proc/{pid}/cmdline"):
            return command
        time.sleep(pause)
    return b""


def _find_by_command(pattern: re.Pattern[str]) -> list[ProcessId]:
    found = []
    for row in sorted(_table(), key=_by_age):
        try:
            command = _command_line(row.id.pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        text = os.fsdecode(command.rstrip(_BOUNDARY).replace(_BOUNDARY, b" "))
        if text and pattern.search(text):
            found.append(row.id)
    return found


def _count_fds(pid: int, folder: int) -> int | None:
    try:
        # Linux 6.2 and later give the number as the folder's size; before that it is 0.
        return os.stat("fd", dir_fd=folder).st_size or len(os.listdir(f"/proc/{pid}/fd"))
    except PermissionError:
        return None


def _remember(pid: int) -> _Remembered:
    opened = [os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        for name in ("stat", "statm"):
            opened.append(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=opened[0]))
        folder, stat, statm = opened
        return _Remembered(folder, stat, statm, _fd_limit(folder))
    except OSError:
        for fd in opened:
            os.close(fd)
        raise


def _close(known: _Remembered) -> None:
    for fd in (known.folder, known.stat, known.statm):
        os.close(fd)


def _fd_limit(folder: int) -> int | None:
    try:
        _, found, rest = _contents("limits", folder).partition(b"Max open files")
    except PermissionError:
        return None
    return int(rest.split(None, 1)[0]) if found and rest.split(None, 1)[0].isdigit() else None


def _boot_id() -> str:
    return _contents("/proc/sys/kernel/random/boot_id").decode("ascii").strip()


def _boot_epoch() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _open_pidfd(process: ProcessId) -> int | None:
    """A descriptor of exactly that live process: opened before the look, it cannot hold a newcomer to the pid."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    try:
        stat = _stat_of(process.pid)
    except OSError:
        os.close(pidfd)
        raise
    if stat is None or stat.started != process.started or stat.is_dead:
        os.close(pidfd)
        return None
    return pidfd


def _send(pid: int, pidfd: int, number: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise StepRefused(
            f"not allowed to send signal {number} to pid {pid}",
            remedy="run the daemon as that process's user, as root, or with CAP_KILL",
        ) from error
    return True


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _reap(pidfd: int) -> int | None:
    """Collects exactly that child, so asyncio's and everybody else's children are left alone."""
    try:
        status = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if status is None:
        return None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status


async def _wait_ended(held: Mapping[ProcessId, int], timeout: float) -> None:
    """Waits until all have ended or the time is over. Processes wake it; nothing polls."""
    loop = asyncio.get_running_loop()
    waiting = set(held.values())
    done = loop.create_future()

    def ended(pidfd: int) -> None:
        loop.remove_reader(pidfd)
        waiting.discard(pidfd)
        if not waiting and not done.done():
            done.set_result(None)

    for pidfd in held.values():
        loop.add_reader(pidfd, ended, pidfd)
    try:
        if waiting:
            async with asyncio.timeout(timeout):
                await done
    except TimeoutError:
        pass
    finally:
        for pidfd in waiting:
            loop.remove_reader(pidfd)


def _still_there(name: str, rows: Iterable[_Row]) -> StepFailed:
    left = ", ".join(f"{row.id.pid} (state {row.stat.state})" for row in rows)
    return StepFailed(
        f"processes of {name!r} outlived SIGKILL by {_KILL_WAIT:g} s: {left}",
        remedy="state D waits inside the kernel, mostly for a disk or a network filesystem: look at that",
    )


def _unreadable(pid: int, error: OSError) -> ProbeFailed:
    return ProbeFailed(f"cannot read /proc/{pid}: {error.strerror}")


def _as_killable_as_others(pid: int) -> None:
    """The unit protects the daemon from the kernel's memory killer; a leaking program must not inherit that."""
    # Gone already, or no right to: then it is protected too much, which is no reason not to run it.
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "r+") as file:
        if int(file.read()) < 0:
            file.seek(0)
            file.write("0")


def _refuse_unrunnable(program: Program) -> None:
    command = program.argv[0] if program.argv else ""
    if not os.path.isabs(command):
        wrong, remedy = "is not an absolute path", "write the whole path of the program"
    elif not os.path.isfile(command):
        wrong, remedy = "is no file on this host", "install the program or mend its path"
    elif not os.access(command, os.X_OK):
        wrong, remedy = "is not executable for this daemon", f"chmod +x {command}, or mend its path"
    else:
        return
    raise StepRefused(f"cannot start {program.name!r}: {command!r} {wrong}", remedy=remedy)


def _start_failure(program: Program, error: OSError | ValueError) -> StepFailed:
    if isinstance(error, ValueError):
        return StepRefused(f"cannot start {program.name!r}: {error}", remedy="mend its arguments and environment")
    message = f"cannot start {program.name!r} ({program.argv[0]}): {error.strerror}"
    if program.cwd is not None and not os.path.isdir(program.cwd):
        return StepFailed(f"{message}: no folder {program.cwd!r} to work in", remedy="create or mount it")
    if error.errno == errno.ENOENT:
        return StepRefused(message, remedy="the interpreter that its first line names is missing")
    if error.errno in (errno.ENOEXEC, errno.EACCES):
        return StepRefused(message, remedy="it is no program for this machine, or lies on a noexec filesystem")
    return StepFailed(message)


def _open_output(path: Path, limit: int) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o640)
        if os.fstat(fd).st_size > limit:
            _drop_older_half(path, limit)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            # A service that runs unheard is better than one that stays down because a disk is full.
            return subprocess.DEVNULL
        raise StepFailed(f"cannot open {path} for a program's output: {error.strerror}") from error
    return fd


def _drop_older_half(path: Path, limit: int) -> None:
    """Keeps the newest half of the limit, from a line's beginning. What is written during the cut may be lost.

    The file stays the same one, because the program holds it open.
    """
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        keep = limit // 2
        newest = os.pread(fd, keep, max(0, os.fstat(fd).st_size - keep))
        os.ftruncate(fd, 0)
        os.write(fd, newest[newest.find(b"\n") + 1 :])
    finally:
        os.close(fd)


def _tail(path: Path, limit: int, lines: int) -> list[str]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - limit))
            newest = file.read(limit)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ProbeFailed(f"cannot read {path}: {error.strerror}") from error
    return newest.decode("utf-8", "replace").splitlines()[-lines:]


@contextlib.contextmanager
def _signals_at_default() -> Iterator[None]:
    """What the daemon blocks or ignores (nohup makes it ignore SIGHUP) must not be so in what it starts.

    Exec resets handlers but keeps what is ignored; so for that moment a handler that does nothing stands in.
    """
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    ignored: list[int] = []
    if threading.current_thread() is threading.main_thread():
        # The two that Python itself ignores are put back by Popen.
        mendable = signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}
        ignored = [number for number in mendable if signal.getsignal(number) is signal.SIG_IGN]
    try:
        for number in ignored:
            signal.signal(number, lambda *_: None)
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
