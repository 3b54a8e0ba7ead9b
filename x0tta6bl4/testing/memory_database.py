"""The database port on SQLite in memory, done at once and in the caller's thread, for tests in virtual time."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.ports.database import Row, Transaction

T = TypeVar("T")


class _Work:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[Any] = ()) -> None:
        with _in_our_words():
            self._connection.execute(sql, _bindable(values))

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        with _in_our_words():
            self._connection.executemany(sql, map(_bindable, rows))

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        with _in_our_words():
            return self._connection.execute(sql, _bindable(values)).fetchall()


class MemoryDatabase:
    """Durable as long as the object lives, so that a second daemon of the same test finds what the first one wrote."""

    def __init__(self, migrations: Sequence[tuple[int, str]]) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        for _, script in migrations:
            self._connection.executescript(script)
        self.broken = ""
        """A disk error in words: until it is empty again every read and write fails with it."""
        self._others_wrote = False
        self._ours, self._theirs = 0, 0

    async def read(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        self._see()
        self._connection.execute("PRAGMA query_only = ON")
        try:
            return _Work(self._connection).query(sql, values)
        finally:
            self._connection.execute("PRAGMA query_only = OFF")

    async def write(self, work: Callable[[Transaction], T]) -> T:
        self._see()
        statements = _Work(self._connection)
        statements.execute("BEGIN IMMEDIATE")
        try:
            done = work(statements)
            statements.execute("COMMIT")
        finally:
            self._ours += 1
            if self._connection.in_transaction:
                self._connection.rollback()
        return done

    def changed_by_others(self) -> bool:
        wrote, self._others_wrote = self._others_wrote, False
        return wrote

    def version(self) -> tuple[int, int]:
        return self._ours, self._theirs

    def others_wrote(self) -> None:
        """As if what was written last had come from another process."""
        self._others_wrote = True
        self._theirs += 1

    def _see(self) -> None:
        if self.broken:
            raise StoreError(self.broken)


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OverflowError) as error:
        raise StoreError(str(error)) from error


def _bindable(values: Sequence[Any]) -> list[Any]:
    """Bytes that are no text (lone surrogates in Python) in escaped form, as the database on disk keeps them."""
    return [value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value for value in values]
