"""Lists, deletes and reads along with files of this host, never through a link and never outside the named folder."""

import asyncio
import fnmatch
import heapq
import json
import os
import shutil
import stat
from collections.abc import AsyncIterator, Iterator, Sequence

from x0tta6bl4.adapters.systemd import is_journal_readable
from x0tta6bl4.kernel.errors import ProbeFailed, StepFailed, StepRefused
from x0tta6bl4.ports.files import FileInfo

_MOST_LISTED = 20_000
_LINE_LIMIT = 64 * 1024
_CHUNK = 64 * 1024
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# Nothing is ever deleted directly in these …
_ROOTS = frozenset({"/", "/home", "/mnt", "/media", "/opt", "/root", "/run", "/srv", "/var", "/var/lib"})
# … or anywhere below these: what is wrong there is not mended by deleting files.
_TREES = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sbin", "/sys", "/usr")


class LinuxFiles:
    def __init__(self, *, poll: tuple[float, float] = (0.25, 1.0), journalctl: str | None = None) -> None:
        """``poll``: seconds between two looks at a followed file, while it is written to and when it is quiet.

        Polled, because inotify tells nothing of files on network filesystems, and a look costs microseconds.
        """
        self._poll = poll
        self._journalctl = journalctl

    async def list(self, folder: str, pattern: str) -> Sequence[FileInfo]:
        """Oldest first, at most 20,000. Other filesystems mounted below are left out: they are not what is full."""
        return await asyncio.to_thread(_list, folder, pattern)

    async def delete(self, folder: str, path: str) -> int:
        """0 when it is gone already, or when another name (a hard link) still holds its contents."""
        return await asyncio.to_thread(_delete, folder, path)

    def follow(self, path: str) -> AsyncIterator[str]:
        """Does not notice a file that between two looks is cut to nothing and grows beyond its old size again."""
        try:
            before: tuple[int, int, int] | None = _identity(os.stat(path))
        except OSError:
            before = None
        return self._follow(path, before)

    async def _follow(self, path: str, before: tuple[int, int, int] | None) -> AsyncIterator[str]:
        quick, slow = self._poll
        pause = quick
        tails: list[_Tail] = []
        try:
            while True:
                fresh = _open_if_other(path, tails[-1] if tails else None)
                if fresh is not None:
                    if before is not None and fresh.key == before[:2]:
                        fresh.position = min(before[2], os.fstat(fresh.fd).st_size)
                    before = None
                    tails.append(fresh)
                busy = False
                for tail in tuple(tails):
                    while data := tail.read():
                        busy = True
                        for line in tail.lines.feed(data):
                            yield line
                        await asyncio.sleep(0)  # A long backlog must not keep the loop from its probes.
                    # A rotated file is written to until its owner is told to open the new one. Let it be quiet first.
                    if tail is not tails[-1]:
                        tail.quiet += pause
                        if tail.quiet > max(3 * slow, quick):
                            for line in tail.lines.end():
                                yield line
                            tails.remove(tail)
                            tail.close()
                pause = quick if busy else min(slow, pause * 1.5)
                await asyncio.sleep(pause)
        finally:
            for tail in tails:
                tail.close()

    async def follow_journal(self, unit: str | None) -> AsyncIterator[str]:
        program = self._journalctl or shutil.which("journalctl", path="/usr/bin:/bin")
        if program is None:
            raise ProbeFailed("journalctl is not installed", remedy="follow a log file instead of the journal")
        if self._journalctl is None and not await asyncio.to_thread(is_journal_readable):
            raise ProbeFailed(
                "there is no journal that this daemon may read",
                remedy="is systemd-journald running, and the daemon's user in the group systemd-journal?",
            )
        argv = [program, "--follow", "--output=json", "--lines=0", "--no-pager", "--output-fields=MESSAGE"]
        if unit is not None:
            argv.append(f"--unit={unit}")
        try:
            child = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
                start_new_session=True,
            )
        except OSError as error:
            raise ProbeFailed(f"{program} cannot be started: {error.strerror}") from error
        assert child.stdout is not None
        lines, last_words = _Lines(), ""
        try:
            while data := await child.stdout.read(_CHUNK):
                for line in lines.feed(data):
                    message = _message(line)
                    if message is not None:
                        yield message
                    else:
                        last_words = line[:200]
            code = await child.wait()
            raise ProbeFailed(f"journalctl ended by itself with code {code}: {last_words or 'without a word'}")
        finally:
            if child.returncode is None:
                try:
                    child.kill()
                except ProcessLookupError:
                    pass
                await child.wait()


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_size


def _message(line: str) -> str | None:
    """The message of one journal record, or None when the line is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    message = record.get("MESSAGE")
    if isinstance(message, list):
        # Bytes that are no text come as a list of numbers; a field given several times as a list of texts.
        if all(isinstance(byte, int) and 0 <= byte < 256 for byte in message):
            return bytes(message).decode(errors="replace")
        return "\n".join(part for part in message if isinstance(part, str))
    return message if isinstance(message, str) else ""


class _Lines:
    """Cuts bytes into lines, each bounded; what is over the bound of a line is dropped."""

    def __init__(self) -> None:
        self._partial = bytearray()

    def feed(self, data: bytes) -> Iterator[str]:
        begin = 0
        while (end := data.find(b"\n", begin)) >= 0:
            self._keep(data[begin:end])
            begin = end + 1
            yield self._take()
        self._keep(data[begin:])

    def end(self) -> Iterator[str]:
        """The last line, when nothing ended it."""
        if self._partial:
            yield self._take()

    def forget(self) -> None:
        self._partial.clear()

    def _keep(self, part: bytes) -> None:
        self._partial += part[: _LINE_LIMIT - len(self._partial)]

    def _take(self) -> str:
        line = self._partial.removesuffix(b"\r").decode(errors="replace")
        self._partial.clear()
        return line


class _Tail:
    """One open file and how far it was read."""

    def __init__(self, fd: int) -> None:
        status = os.fstat(fd)
        self.fd = fd
        self.key = (status.st_dev, status.st_ino)
        self.position = 0
        self.quiet = 0.0
        self.lines = _Lines()

    def read(self) -> bytes:
        if os.fstat(self.fd).st_size < self.position:
            self.position = 0
            self.lines.forget()
        data = os.pread(self.fd, _CHUNK, self.position)
        self.position += len(data)
        if data:
            self.quiet = 0.0
        return data

    def close(self) -> None:
        os.close(self.fd)


def _open_if_other(path: str, known: _Tail | None) -> _Tail | None:
    """The file that the path names now, unless it is the known one or there is none at the moment."""
    try:
        status = os.stat(path)
        if known is not None and known.key == (status.st_dev, status.st_ino):
            return None
        if not stat.S_ISREG(status.st_mode):
            raise ProbeFailed(f"{path} is no regular file, it cannot be followed")
        # Non-blocking, should a pipe have taken its place since.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ProbeFailed(f"{path} cannot be followed: {error.strerror}") from error
    tail = _Tail(fd)
    if known is not None and tail.key == known.key:
        tail.close()
        return None
    return tail


def _list(folder: str, pattern: str) -> Sequence[FileInfo]:
    return heapq.nsmallest(_MOST_LISTED, _walk(folder, pattern), key=lambda file: (file.modified, file.path))


def _walk(folder: str, pattern: str) -> Iterator[FileInfo]:
    root = _open_root(folder)
    try:
        device = os.fstat(root).st_dev
        waiting: list[tuple[str, ...]] = [()]
        while waiting:
            parts = waiting.pop()
            try:
                here = _open_below(root, parts, device)
            except OSError:
                if not parts:
                    raise
                continue  # Gone, swapped for a link, another filesystem, or not ours to read: nothing here to clean.
            try:
                with os.scandir(here) as entries:
                    for entry in entries:
                        try:
                            if entry.is_dir(follow_symlinks=False):
                                waiting.append((*parts, entry.name))
                            elif entry.is_file(follow_symlinks=False) and fnmatch.fnmatchcase(entry.name, pattern):
                                status = entry.stat(follow_symlinks=False)
                                path = os.path.join(folder, *parts, entry.name)
                                yield FileInfo(path, status.st_blocks * 512, status.st_mtime)
                        except FileNotFoundError:
                            continue
            finally:
                os.close(here)
    finally:
        os.close(root)


def _delete(folder: str, path: str) -> int:
    parts = _parts(folder, path)
    try:
        root = _open_root(folder)
        try:
            true_folder = os.readlink(f"/proc/self/fd/{root}")
            if true_folder in _ROOTS or any(
                true_folder == tree or true_folder.startswith(f"{tree}/") for tree in _TREES
            ):
                raise StepRefused(f"nothing is deleted in {true_folder}: it belongs to the system")
            here = _open_below(root, parts[:-1], os.fstat(root).st_dev)
            try:
                status = os.stat(parts[-1], dir_fd=here, follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode):
                    raise StepRefused(f"{path} is no regular file, it is left alone")
                os.unlink(parts[-1], dir_fd=here)
            finally:
                os.close(here)
        finally:
            os.close(root)
    except FileNotFoundError:
        return 0
    except (NotADirectoryError, _Elsewhere) as error:
        # O_NOFOLLOW and O_DIRECTORY together answer a link with "not a directory".
        raise StepRefused(f"{path} does not lie in {folder} without links or mounts in between") from error
    except OSError as error:
        raise StepFailed(f"{path} cannot be deleted: {error.strerror}") from error
    return status.st_blocks * 512 if status.st_nlink == 1 else 0


class _Elsewhere(OSError):
    """A folder on another filesystem."""


def _parts(folder: str, path: str) -> tuple[str, ...]:
    """The names that lead from the folder to the file."""
    relative = path
    if path.startswith("/"):
        relative = path.removeprefix(folder.rstrip("/") + "/")
        if relative == path:
            raise StepRefused(f"{path} does not lie in {folder}")
    parts = tuple(relative.split("/"))
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise StepRefused(f"{path!r} is no plain path below {folder}")
    return parts


def _open_root(folder: str) -> int:
    if not folder.startswith("/") or ".." in folder.split("/") or "\0" in folder:
        raise StepRefused(f"{folder!r} is no plain absolute folder")
    return os.open(folder.rstrip("/") or "/", _OPEN_FOLDER)


def _open_below(root: int, parts: Sequence[str], device: int) -> int:
    """A descriptor of a folder below, reached without following a link or leaving the filesystem."""
    fd = os.dup(root)
    for part in parts:
        try:
            deeper = os.open(part, _OPEN_FOLDER, dir_fd=fd)
        finally:
            os.close(fd)
        fd = deeper
        if os.fstat(fd).st_dev != device:
            os.close(fd)
            raise _Elsewhere(f"{part} is on another filesystem")
    return fd
