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
        self._connection.execute(sql, values)

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._connection.executemany(sql, rows)

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()


class MemoryDatabase:
    """Durable as long as the object lives, so that a second daemon of the same test finds what the first one wrote."""

    def __init__(self, migrations: Sequence[tuple[int, str]]) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        for _, script in migrations:
            self._connection.executescript(script)
        self.broken = ""
        """A disk error in words: until it is empty again every read and write fails with it."""
        self._others_wrote = False

    async def read(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        with self._told():
            return _Work(self._connection).query(sql, values)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        with self._told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                done = work(_Work(self._connection))
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
            return done

    def changed_by_others(self) -> bool:
        wrote, self._others_wrote = self._others_wrote, False
        return wrote

    def others_wrote(self) -> None:
        """As if what was written last had come from another process."""
        self._others_wrote = True

    @contextmanager
    def _told(self) -> Iterator[None]:
        if self.broken:
            raise StoreError(self.broken)
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(str(error)) from error
