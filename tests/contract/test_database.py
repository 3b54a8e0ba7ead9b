"""What every Database promises, asked of the one on disk and of the one in memory alike."""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol

import pytest

from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.ports.database import Database, Transaction
from x0tta6bl4.testing.memory_database import MemoryDatabase

TABLE = [(1, "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, number INTEGER);\n")]
INSERT = "INSERT INTO notes (text) VALUES (?)"


class Bench(Protocol):
    """Makes the world do for either implementation what a test needs."""

    subject: Database

    async def begin(self) -> None: ...

    async def end(self) -> None: ...

    async def others_write(self, text: str) -> None:
        """Another process commits a note."""
        ...

    def break_disk(self) -> None:
        """Nothing can be written from here on, until it is mended."""
        ...

    def mend_disk(self) -> None: ...


class MemoryBench:
    def __init__(self, folder: Path) -> None:
        self.memory = MemoryDatabase(TABLE)
        self.subject: Database = self.memory

    async def begin(self) -> None:
        pass

    async def end(self) -> None:
        pass

    async def others_write(self, text: str) -> None:
        await self.memory.write(note(text))
        self.memory.others_wrote()

    def break_disk(self) -> None:
        self.memory.broken = "disk I/O error"

    def mend_disk(self) -> None:
        self.memory.broken = ""


class RealBench:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "a.db"
        self.away = folder / "away.db"

    async def begin(self) -> None:
        self.database = await SqliteDatabase.open(self.path, TABLE)
        self.subject: Database = self.database

    async def end(self) -> None:
        await self.database.close()

    async def others_write(self, text: str) -> None:
        def commit() -> None:
            # A connection of its own is another process as far as SQLite can tell.
            with contextlib.closing(sqlite3.connect(self.path, timeout=60)) as other, other:
                other.execute(INSERT, (text,))

        await asyncio.to_thread(commit)

    def break_disk(self) -> None:
        self.path.rename(self.away)

    def mend_disk(self) -> None:
        self.away.rename(self.path)


Scenario = Callable[[Bench], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=[RealBench, MemoryBench], ids=["sqlite", "memory"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    async def whole(scenario: Scenario) -> None:
        bench = request.param(tmp_path)
        await bench.begin()
        try:
            await scenario(bench)
        finally:
            await bench.end()

    return lambda scenario: asyncio.run(whole(scenario))


def note(text: str) -> Callable[[Transaction], None]:
    return lambda tx: tx.execute(INSERT, (text,))


async def texts(bench: Bench) -> list[str]:
    return [text for (text,) in await bench.subject.read("SELECT text FROM notes ORDER BY id")]


def test_a_read_sees_every_write_that_was_awaited_before(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        for number in range(10):
            await bench.subject.write(note(str(number)))
            assert await bench.subject.read("SELECT count(*), max(id) FROM notes") == [(number + 1, number + 1)]

    play(scenario)


def test_a_work_sees_its_own_writes_and_its_answer_comes_back(play: Play) -> None:
    def work(tx: Transaction) -> list[tuple[Any, ...]]:
        tx.execute_many(INSERT, [("a",), ("b",)])
        tx.execute("UPDATE notes SET number = ? WHERE text = ?", (7, "b"))
        return tx.query("SELECT text, number FROM notes WHERE id > ? ORDER BY id", (0,))

    async def scenario(bench: Bench) -> None:
        assert await bench.subject.write(work) == [("a", None), ("b", 7)]

    play(scenario)


def test_a_work_is_done_whole_or_not_at_all(play: Play) -> None:
    def raises(tx: Transaction) -> NoReturn:
        tx.execute(INSERT, ("half",))
        raise KeyError("mine")

    def contradicts(tx: Transaction) -> None:
        tx.execute(INSERT, ("half",))
        tx.execute_many(INSERT, [("more",), ("kept",)])  # not unique: SQLite refuses the second

    async def scenario(bench: Bench) -> None:
        await bench.subject.write(note("kept"))
        with pytest.raises(KeyError, match="mine"):
            await bench.subject.write(raises)
        with pytest.raises(StoreError, match="UNIQUE"):
            await bench.subject.write(contradicts)
        assert await texts(bench) == ["kept"]

        await bench.subject.write(note("next"))
        assert await texts(bench) == ["kept", "next"]

    play(scenario)


def test_works_that_wait_together_are_done_in_order_and_a_failing_one_is_undone_alone(play: Play) -> None:
    def raises(tx: Transaction) -> None:
        tx.execute(INSERT, ("half",))
        raise ValueError("mine")

    async def scenario(bench: Bench) -> None:
        works = [note("a"), raises, note("b"), note("a"), note("c")]
        ends = await asyncio.gather(*map(bench.subject.write, works), return_exceptions=True)

        assert [type(end) for end in ends] == [type(None), ValueError, type(None), StoreError, type(None)]
        assert await texts(bench) == ["a", "b", "c"]

    play(scenario)


def test_a_work_may_bear_a_refusal_and_go_on(play: Play) -> None:
    def work(tx: Transaction) -> None:
        for text in ("new", "old", "newer"):
            with contextlib.suppress(StoreError):
                tx.execute(INSERT, (text,))

    async def scenario(bench: Bench) -> None:
        await bench.subject.write(note("old"))
        await bench.subject.write(work)

        assert await texts(bench) == ["old", "new", "newer"]

    play(scenario)


@pytest.mark.parametrize(
    ("sql", "values"),
    [
        ("SELECT nothing FROM nowhere", ()),
        ("SELEKT", ()),
        ("SELECT id FROM notes WHERE id = ?", ()),
        ("SELECT id FROM notes WHERE id = ?", (object(),)),
        ("SELECT id FROM notes WHERE id = ?", (1 << 70,)),
    ],
)
def test_what_the_database_does_not_take_is_a_store_error(play: Play, sql: str, values: tuple[Any, ...]) -> None:
    async def scenario(bench: Bench) -> None:
        with pytest.raises(StoreError):
            await bench.subject.read(sql, values)
        for work in (lambda tx: tx.query(sql, values), lambda tx: tx.execute(sql, values)):
            with pytest.raises(StoreError):
                await bench.subject.write(work)
        await bench.subject.write(note("still there"))
        assert await texts(bench) == ["still there"]

    play(scenario)


def test_reading_writes_nothing(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        with pytest.raises(StoreError):
            await bench.subject.read(INSERT, ("smuggled",))
        await bench.subject.write(note("written"))

        assert await texts(bench) == ["written"]

    play(scenario)


def test_a_work_that_was_handed_over_is_done_though_nobody_waits_for_it_any_more(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        waiting = asyncio.ensure_future(bench.subject.write(note("first")))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await bench.subject.write(note("second"))

        assert await texts(bench) == ["first", "second"]

    play(scenario)


def test_only_what_others_committed_counts_as_changed_and_only_once(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        answers = [bench.subject.changed_by_others()]
        await bench.subject.write(note("ours"))
        answers.append(bench.subject.changed_by_others())
        await bench.others_write("theirs")
        await bench.subject.write(note("ours again"))  # must not hide theirs
        answers += [bench.subject.changed_by_others(), bench.subject.changed_by_others()]

        assert answers == [False, False, True, False]
        assert await texts(bench) == ["ours", "theirs", "ours again"]

    play(scenario)


def test_what_could_not_be_kept_is_never_acknowledged(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.subject.write(note("before"))
        bench.break_disk()
        for _ in range(2):
            with pytest.raises(StoreError):
                await bench.subject.write(note("lost"))
        bench.mend_disk()
        await bench.subject.write(note("after"))

        assert await texts(bench) == ["before", "after"]

    play(scenario)


def test_names_that_are_no_text_are_kept_and_found(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        name = os.fsdecode(b"caf\xe9 \xc3\xa9")
        await bench.subject.write(note(name))

        assert await texts(bench) == ["caf\\udce9 é"]
        assert await bench.subject.read("SELECT count(*) FROM notes WHERE text = ?", (name,)) == [(1,)]

    play(scenario)
