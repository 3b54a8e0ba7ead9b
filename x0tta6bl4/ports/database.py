"""The embedded database: SQL in, rows out, durable when it says so."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = tuple[Any, ...]


class Transaction(Protocol):
    """Open while the function handed to ``write`` runs, on the writer's thread; never kept longer."""

    def execute(self, sql: str, values: Sequence[Any] = ()) -> None: ...

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None: ...

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Row]: ...


class Database(Protocol):
    async def read(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Sees every write that was awaited before. Raises StoreError."""
        ...

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Runs ``work`` in a transaction; returns when it is on disk (fsynced). All or nothing. Raises StoreError.

        Works that are waiting at the same time share one commit. One that raises is rolled back alone.
        A work whose awaiter was cancelled is done all the same.
        """
        ...

    def changed_by_others(self) -> bool:
        """Whether another process has committed since the last call. Costs microseconds, never blocks."""
        ...

    def version(self) -> tuple[int, int]:
        """How often we have committed, and how often others were seen to have: while both stay, so does what is read.

        Asked before a reading, it says of what was read that it is not older. A commit of others that falls together
        with one of our own may be told a moment late. Takes nothing from ``changed_by_others``; costs microseconds,
        never blocks.
        """
        ...
