"""The embedded database: durable when it says so, whoever else writes, dies or fills the disk."""

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.ports.database import Transaction

TABLE = [(1, "-- one table\nCREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);\n")]


@contextlib.asynccontextmanager
async def opened(path: Path, migrations: Any = TABLE) -> AsyncIterator[SqliteDatabase]:
    database = await SqliteDatabase.open(path, migrations)
    try:
        yield database
    finally:
        await database.close()


def note(text: str) -> Any:
    return lambda tx: tx.execute("INSERT INTO notes (text) VALUES (?)", (text,))


async def texts(database: SqliteDatabase) -> list[str]:
    return [text for (text,) in await database.read("SELECT text FROM notes ORDER BY id")]


def child(code: str, *args: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, text=True)


def test_a_read_sees_every_write_that_was_awaited_before(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as database:
            for number in range(20):
                await database.write(note(str(number)))

                assert len(await texts(database)) == number + 1

    asyncio.run(main())


def test_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    """A killed process cannot show it, only a power cut: so the setting itself is looked at."""

    async def main() -> None:
        async with opened(tmp_path / "a.db") as database:
            assert await database.write(lambda tx: tx.query("PRAGMA synchronous")) == [(2,)]
            assert await database.write(lambda tx: tx.query("PRAGMA journal_mode")) == [("wal",)]

    asyncio.run(main())


def test_files_and_folder_belong_to_their_owner_alone(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "state" / "a.db"
        async with opened(path) as database:
            await database.write(note("x"))
            modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}

            assert modes == {"a.db": 0o600, "a.db-wal": 0o600, "a.db-shm": 0o600}
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    asyncio.run(main())


def test_waiting_works_share_commits_and_one_that_raises_is_rolled_back_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as database:
            going = threading.Event()
            commits: list[str] = []
            database._writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)

            def wait(tx: Transaction) -> None:
                going.wait()

            def spoil(tx: Transaction) -> None:
                tx.execute("INSERT INTO notes (text) VALUES ('spoilt')")
                raise KeyError("mine")

            works = [asyncio.ensure_future(database.write(wait))]
            works += [asyncio.ensure_future(database.write(note(str(n)))) for n in range(10)]
            works.insert(5, asyncio.ensure_future(database.write(spoil)))
            works.append(asyncio.ensure_future(database.write(note("3"))))  # not unique: SQLite refuses it
            await asyncio.sleep(0)
            going.set()
            ends = await asyncio.gather(*works, return_exceptions=True)

            assert isinstance(ends[5], KeyError)
            assert isinstance(ends[-1], StoreError)
            assert [e for e in ends if e is not None] == [ends[5], ends[-1]]
            assert sorted(await texts(database)) == sorted(str(n) for n in range(10))
            assert len(commits) <= 2

    asyncio.run(main())


def test_a_cancelled_awaiter_breaks_neither_its_work_nor_the_writer(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as database:
            begun, going = threading.Event(), threading.Event()

            def slow(tx: Transaction) -> None:
                begun.set()
                going.wait()
                tx.execute("INSERT INTO notes (text) VALUES ('slow')")

            work = asyncio.ensure_future(database.write(slow))
            await asyncio.to_thread(begun.wait)
            waiting = [asyncio.ensure_future(database.write(note(str(n)))) for n in range(3)]  # one commit of three
            await asyncio.sleep(0)
            for one in (work, waiting[0]):
                one.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await one
            going.set()
            await database.close()

            assert [one.done() for one in waiting] == [True] * 3
            async with opened(tmp_path / "a.db") as again:
                assert await texts(again) == ["slow", "0", "1", "2"]

    asyncio.run(main())


def test_closing_finishes_what_was_handed_over_and_refuses_what_comes_later(tmp_path: Path) -> None:
    async def main() -> None:
        database = await SqliteDatabase.open(tmp_path / "a.db", TABLE)
        works = [asyncio.ensure_future(database.write(note(str(n)))) for n in range(100)]
        await asyncio.sleep(0)
        await database.close()
        await database.close()

        assert await asyncio.gather(*works) == [None] * 100
        with pytest.raises(StoreError, match="closed"):
            await database.write(note("late"))
        async with opened(tmp_path / "a.db") as again:
            assert len(await texts(again)) == 100

    asyncio.run(main())


def test_a_daemon_whose_loop_ended_without_closing_leaves_no_hanging_process(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from x0tta6bl4.adapters.sqlite import SqliteDatabase
async def main():
    database = await SqliteDatabase.open(sys.argv[1], [(1, "CREATE TABLE t (a);")])
    asyncio.ensure_future(database.write(lambda tx: tx.execute("INSERT INTO t VALUES (1)")))
    await asyncio.sleep(0)
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.db")], timeout=60).returncode == 0


def test_only_writes_of_other_processes_count_as_changed_by_others(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        async with opened(path) as database:
            assert not database.changed_by_others()
            await database.write(note("ours"))
            assert not database.changed_by_others()
            await asyncio.to_thread(
                subprocess.run,
                [
                    sys.executable,
                    "-c",
                    "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
                    "c.execute(\"INSERT INTO notes (text) VALUES ('theirs')\"); c.commit()",
                    str(path),
                ],
                check=True,
            )
            await database.write(note("ours again"))  # must not hide theirs

            assert database.changed_by_others()
            assert not database.changed_by_others()
            assert await texts(database) == ["ours", "theirs", "ours again"]

    asyncio.run(main())


def test_asking_for_changes_does_not_wait_for_a_write_under_way(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as database:
            begun, going = threading.Event(), threading.Event()

            def slow(tx: Transaction) -> None:
                begun.set()
                going.wait()

            work = asyncio.ensure_future(database.write(slow))
            await asyncio.to_thread(begun.wait)
            assert not database.changed_by_others()  # would hang here for ever if it waited
            going.set()
            await work

    asyncio.run(main())


def test_migrations_run_once_each_and_a_failing_one_leaves_the_version_before(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        second = (2, "ALTER TABLE notes ADD COLUMN mood TEXT;\nINSERT INTO notes (text, mood) VALUES ('a;b', 'well');")
        async with opened(path) as database:
            await database.write(note("old"))
        with pytest.raises(StoreError):
            await SqliteDatabase.open(path, [*TABLE, (2, "CREATE TABLE half (a); CREATE TABLE notes (a);")])
        async with opened(path, [*TABLE, second]) as database:
            assert await database.read("SELECT text, mood FROM notes ORDER BY id") == [("old", None), ("a;b", "well")]
            assert await database.read("SELECT name FROM sqlite_master WHERE name = 'half'") == []
        async with opened(path, [*TABLE, second]) as database:
            assert len(await texts(database)) == 2

    asyncio.run(main())


def test_a_file_of_a_newer_daemon_is_refused_and_kept(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        async with opened(path, [*TABLE, (2, "CREATE TABLE more (a);")]):
            pass
        before = path.read_bytes()
        with pytest.raises(StoreError, match="newer version") as caught:
            await SqliteDatabase.open(path, TABLE)

        assert "install that version" in caught.value.remedy
        assert path.read_bytes() == before

    asyncio.run(main())


def test_another_programs_database_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE bookmarks (url)")
        other.commit()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        asyncio.run(SqliteDatabase.open(path, TABLE))

    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"this is a text, and no database at all" * 50, b"\0" * 5000])
def test_a_file_that_is_no_database_is_named_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"a\.db") as caught:
        asyncio.run(SqliteDatabase.open(path, TABLE))

    assert "move it aside" in caught.value.remedy
    assert path.read_bytes() == content


def test_a_damaged_database_is_named_and_kept(tmp_path: Path) -> None:
    async def fill() -> None:
        async with opened(path) as database:
            await database.write(
                lambda tx: tx.execute_many(
                    "INSERT INTO notes (text) VALUES (?)", [(f"{n}" * 100,) for n in range(1000)]
                )
            )

    path = tmp_path / "a.db"
    asyncio.run(fill())
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 5] = os.urandom(4096 * 2)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged") as caught:
        asyncio.run(SqliteDatabase.open(path, TABLE))

    assert "move it aside" in caught.value.remedy
    assert path.read_bytes() == content


@pytest.mark.parametrize("place", ["/proc/no/a.db", "{tmp}/file/a.db", "{tmp}"])
def test_a_place_where_nothing_can_be_stored_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    path = place.format(tmp=tmp_path)
    with pytest.raises(StoreError, match=path):
        asyncio.run(SqliteDatabase.open(path, TABLE))


def test_a_full_disk_refuses_writes_until_there_is_space_again(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        async with opened(path) as database:
            await database.write(note("before"))
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "a.db-wal").stat().st_size + 4096, hard))
            try:
                ends = await asyncio.gather(
                    *(database.write(note(f"{n}" * 3000)) for n in range(8)), return_exceptions=True
                )
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            refused = [end for end in ends if isinstance(end, StoreError)]
            assert refused
            assert "space" in refused[0].remedy
            taken = [f"{n}" * 3000 for n, end in enumerate(ends) if end is None]
            assert await texts(database) == ["before", *taken]
            await database.write(note("after"))
            assert await texts(database) == ["before", *taken, "after"]

    asyncio.run(main())


def test_a_file_that_was_replaced_takes_no_more_writes(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        async with opened(path) as database:
            path.rename(tmp_path / "b.db")
            with pytest.raises(StoreError, match="moved or replaced"):
                await database.write(note("lost"))
            (tmp_path / "b.db").rename(path)
            await database.write(note("kept"))

            assert await texts(database) == ["kept"]

    asyncio.run(main())


def test_names_that_are_no_text_are_stored_in_escaped_form(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as database:
            name = os.fsdecode(b"caf\xe9 \xc3\xa9")
            await database.write(note(name))

            assert await texts(database) == ["caf\\udce9 é"]
            assert await database.read("SELECT count(*) FROM notes WHERE text = ?", (name,)) == [(1,)]

    asyncio.run(main())


WRITER = """
import asyncio, sys
from x0tta6bl4.adapters.sqlite import SqliteDatabase
async def main():
    database = await SqliteDatabase.open(sys.argv[1], [(1, sys.argv[2])])
    async def write(n):
        text = f"{sys.argv[3]}-{n}"
        await database.write(lambda tx: tx.execute("INSERT INTO notes (text) VALUES (?)", (text,)))
        sys.stdout.write(text + "\\n"); sys.stdout.flush()
    n = 0
    while n < int(sys.argv[4]):
        await asyncio.gather(*(write(n + i) for i in range(5)))
        n += 5
    await database.close()
asyncio.run(main())
"""


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    acknowledged: list[str] = []
    for life in range(10):
        writer = child(WRITER, str(path), TABLE[0][1], str(life), "1000000")
        assert writer.stdout is not None
        # Killed after so many lines, which is a different moment of a commit each time.
        for _ in range(1 + 7 * life):
            acknowledged.append(writer.stdout.readline().strip())
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
        writer.wait()
        writer.stdout.close()

    async def main() -> None:
        async with opened(path) as database:
            assert set(acknowledged) <= set(await texts(database))

    asyncio.run(main())
    assert len(acknowledged) >= 10


def test_processes_that_create_and_write_one_file_at_once_all_get_through(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    writers = [child(WRITER, str(path), TABLE[0][1], str(n), "50") for n in range(4)]
    for writer in writers:
        writer.communicate()

    async def main() -> None:
        async with opened(path) as database:
            assert len(await texts(database)) == 200

    assert [writer.returncode for writer in writers] == [0] * 4
    asyncio.run(main())
