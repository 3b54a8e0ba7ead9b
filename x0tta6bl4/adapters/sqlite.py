"""The embedded database: one SQLite file in WAL mode, with every commit on disk before anybody is told of it."""

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.ports.database import Row, Transaction

T = TypeVar("T")

BUSY_TIMEOUT = 5.0
"""Seconds to wait for another process that is writing. Its transactions last milliseconds; longer means it hangs."""
GROUP = 256
"""Most works in one commit: bounds how long the first of them waits for the last."""
WAITING = 4096
"""Most works that may wait. Beyond it the disk has stopped answering, and a StoreError says so at once."""
CACHE_KIB = 256
"""Page cache of each connection. What is asked often is small; the system's page cache has the rest."""
APPLICATION_ID = 0x78307462
"""Marks the file as ours, so that another program's database is never written to."""

_LEFT_ALONE = "the file was left as it is: move it aside to begin anew, or put a copy in its place"
_REFUSALS = (sqlite3.Error, OverflowError)


class _Statements:
    """SQL on one connection, with the errors in the daemon's words."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def execute(self, sql: str, values: Sequence[Any] = ()) -> None:
        try:
            self._connection.execute(sql, _bindable(values))
        except _REFUSALS as error:
            raise _refusal(self._path, error) from error

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        try:
            self._connection.executemany(sql, map(_bindable, rows))
        except _REFUSALS as error:
            raise _refusal(self._path, error) from error

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        try:
            return self._connection.execute(sql, _bindable(values)).fetchall()
        except _REFUSALS as error:
            raise _refusal(self._path, error) from error


@dataclass(slots=True, eq=False)
class _Job:
    """One work on its way to a thread, and its end on the way back."""

    work: Callable[[Transaction], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None
    is_done: bool = False


class _Savepoint:
    """One work's part of a shared transaction: what it raises undoes this part alone and is kept for its awaiter."""

    def __init__(self, connection: sqlite3.Connection, job: _Job) -> None:
        self._connection = connection
        self._job = job

    def __enter__(self) -> None:
        self._connection.execute("SAVEPOINT work")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._job.is_done = True
        if error is None:
            self._connection.execute("RELEASE work")
            return False
        self._job.error = error
        # A full disk may make SQLite roll back the whole transaction by itself; then there is no savepoint any more.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK TO work")
            self._connection.execute("RELEASE work")
        # Not swallowed: it is raised again where the work is awaited. What is no Exception ends this thread.
        return isinstance(error, Exception)


class _Worker:
    """A thread that serves works in the order they came; each end is told to the event loop the work came from."""

    def __init__(self, name: str, serve: Callable[[list[_Job]], None], most: int) -> None:
        self._serve = serve
        self._most = most
        self._todo: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        # A daemon thread: a process that ends without close() must not hang on it. What was told to be on disk is.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[Transaction], T]) -> T:
        if self._closed:
            raise StoreError("the database is closed", remedy="this is the daemon's own mistake: please report it")
        if self._todo.qsize() >= WAITING:
            raise StoreError(f"{WAITING} requests wait for the database: the disk does not answer")
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future())
        self._todo.put(job)
        return cast(T, await job.future)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._todo.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        jobs: list[_Job] = []
        try:
            is_last = False
            while not is_last:
                jobs, is_last = self._next()
                self._serve(jobs)
                _tell(jobs)
                jobs = []  # what the works hold on to must not live until the next one comes
        finally:
            self._closed = True
            while not self._todo.empty():
                left = self._todo.get()
                if left is not None:
                    jobs.append(left)
            _tell(jobs)

    def _next(self) -> tuple[list[_Job], bool]:
        jobs: list[_Job] = []
        job = self._todo.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) >= self._most or self._todo.empty():
                return jobs, False
            job = self._todo.get()
        return jobs, True


class SqliteDatabase:
    """See ``ports.database``. A work whose awaiter was cancelled is still done: it was handed over.

    Other processes may read and write the same file through an object of this class. Must lie on a local filesystem.
    """

    def __init__(self, path: Path, migrations: Sequence[tuple[int, str]], check: bool) -> None:
        """Blocks; use ``open``."""
        self._path = path
        _create(path)
        with ExitStack() as opened:
            try:
                self._writer = opened.enter_context(closing(_connect(path)))
                _prepare(self._writer, path, migrations, check)
                self._reader = opened.enter_context(closing(_connect(path)))
                self._reader.execute("PRAGMA query_only = ON")
                self._version = _data_version(self._writer)
            except sqlite3.Error as error:
                raise _refusal(path, error) from error
            self._connections = opened.pop_all()
        self._identity = _identity(path)
        self._others_wrote = False
        self._ours, self._theirs = 0, 0
        """Commits of our own, and changes that others were seen to have made."""
        self._turn = threading.Lock()
        """Held while the writer's connection is in use."""

    @classmethod
    async def open(cls, path: str | Path, migrations: Sequence[tuple[int, str]], *, check: bool = True) -> Self:
        """Creates the file or brings it up to the newest migration (number, script); numbers rise from 1.

        ``check`` looks through the whole file for damage, some 2 ms per MiB: for the daemon, not for a quick question.
        Raises StoreError, and leaves the file alone, when it is damaged, newer than the migrations, or not ours.
        """
        database = await asyncio.to_thread(cls, Path(path), migrations, check)
        database._start()
        return database

    def _start(self) -> None:
        self._writes = _Worker("database-writer", self._serve_writes, GROUP)
        self._reads = _Worker("database-reader", self._serve_reads, 1)

    async def read(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        return await self._reads.do(lambda statements: statements.query(sql, values))

    async def write(self, work: Callable[[Transaction], T]) -> T:
        return await self._writes.do(work)

    def changed_by_others(self) -> bool:
        self._look_unless_writing()
        changed, self._others_wrote = self._others_wrote, False
        return changed

    def version(self) -> tuple[int, int]:
        self._look_unless_writing()
        return self._ours, self._theirs

    async def close(self) -> None:
        """Finishes what was handed over, then closes the file. Calling it again does nothing."""
        await self._writes.close()
        await self._reads.close()
        await asyncio.to_thread(self._close_connections)

    def _close_connections(self) -> None:
        with self._turn:
            self._connections.close()

    def _look_unless_writing(self) -> None:
        # Asked of the writer's connection, the only one for which our own commits do not count as a change. While the
        # writer holds the file nobody else can commit, so there is nothing to wait for: the next call sees the rest.
        if self._turn.acquire(blocking=False):
            try:
                self._look_for_others()
            except sqlite3.Error:
                self._they_wrote()  # cannot tell: to read once too often is the safe mistake
            finally:
                self._turn.release()

    def _look_for_others(self) -> None:
        version = _data_version(self._writer)
        if version != self._version:
            self._version = version
            self._they_wrote()

    def _they_wrote(self) -> None:
        self._theirs += 1
        self._others_wrote = True

    def _serve_reads(self, jobs: list[_Job]) -> None:
        for job in jobs:
            try:
                job.result = job.work(_Statements(self._reader, self._path))
            except StoreError as error:
                job.error = error
            job.is_done = True

    def _serve_writes(self, jobs: list[_Job]) -> None:
        connection = self._writer
        with self._turn:
            try:
                if _identity(self._path) != self._identity:
                    # Commits would go to a file that no name leads to: acknowledged, and gone with this process.
                    raise StoreError(
                        f"{self._path} was moved or replaced while in use",
                        remedy="put it back, or restart the daemon to use the one that is there now",
                    )
                connection.execute("BEGIN IMMEDIATE")
                self._look_for_others()
                statements = _Statements(connection, self._path)
                for job in jobs:
                    with _Savepoint(connection, job):
                        job.result = job.work(statements)
                    if not connection.in_transaction:
                        raise StoreError(f"{self._path}: the transaction was lost: {job.error or 'a work ended it'}")
                connection.execute("COMMIT")
            except (sqlite3.Error, StoreError) as error:
                for job in jobs:
                    if job.error is None:
                        job.error = _refusal(self._path, error)
                        job.error.__cause__ = error
                    job.is_done = True
            finally:
                self._ours += 1  # also where it failed: a commit that reports an error may be on disk all the same
                if connection.in_transaction:
                    connection.rollback()


def _tell(jobs: Sequence[_Job]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, mine in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, mine)
        except RuntimeError:
            continue  # that loop is closed: nobody waits there any more


def _settle(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue  # its awaiter was cancelled meanwhile
        if not job.is_done:
            job.future.set_exception(StoreError("the database ended before this was done"))
        elif job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


def _bindable(values: Sequence[Any]) -> list[Any]:
    """Names from the system may hold bytes that are no text (lone surrogates in Python): kept in escaped form."""
    return [
        value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) and not value.isascii() else value
        for value in values
    ]


def _refusal(path: Path, error: Exception) -> StoreError:
    if isinstance(error, StoreError):
        return type(error)(error.message, details=error.details, remedy=error.remedy)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind, the rest its variety
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreError(f"{path} is damaged or is no database: {error}", remedy=_LEFT_ALONE)
    if code == sqlite3.SQLITE_CONSTRAINT:
        return StoreError(f"{path}: {error}", remedy="it contradicts what is there already; nothing was written")
    if code == sqlite3.SQLITE_BUSY:
        remedy = "see which process keeps the file locked (`fuser` names it); the daemon does not act until it lets go"
        return StoreError(f"{path} is in use by another process: {error}", remedy=remedy)
    return StoreError(f"{path}: {error}")


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def _data_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _create(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Never opened by us when it exists: closing it would drop the locks that SQLite holds on it in this process.
        # The files that SQLite puts beside it take over its mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        if path.is_file():
            return
        raise StoreError(f"{path} is no file, or a part of its path is no folder") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be created: {error.strerror}") from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA journal_size_limit = 4194304")
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, migrations: Sequence[tuple[int, str]], check: bool) -> None:
    def number(pragma: str) -> int:
        return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])

    newest = migrations[-1][0] if migrations else 0
    has_tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0
    if has_tables and number("application_id") != APPLICATION_ID:
        raise StoreError(f"{path} is the database of another program", remedy="give the state directory another place")
    if number("user_version") > newest:
        raise StoreError(
            f"{path} was written by a newer version (its form is {number('user_version')}, ours {newest})",
            remedy="install that version again, or move the file aside to begin anew",
        )
    if check:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise StoreError(f"{path} is damaged: {verdict}", remedy=_LEFT_ALONE)
    _use_wal(connection, path)
    for version, script in migrations:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if number("user_version") < version:  # looked at again: another process may have been quicker
                for statement in _statements(script):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.rollback()


def _use_wal(connection: sqlite3.Connection, path: Path) -> None:
    # Two processes that turn a new file to WAL at the same time are refused without the busy timeout being waited for.
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
            continue
        if mode != "wal":
            raise StoreError(
                f"{path} cannot be shared between processes there (journal mode stays {mode})",
                remedy="put the state directory on a local filesystem",
            )
        return


def _statements(script: str) -> list[str]:
    found: list[str] = []
    collected = ""
    for line in script.splitlines(keepends=True):
        collected += line
        if sqlite3.complete_statement(collected):
            found.append(collected)
            collected = ""
    if collected.strip():
        found.append(collected)
    return found
