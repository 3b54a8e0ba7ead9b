"""The audit chain: whoever changes, removes, adds or reorders a link is noticed, and told where."""

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_knowledge import DAY, Hands, exported, store

from x0tta6bl4.kernel.errors import StoreError, TamperedError
from x0tta6bl4.knowledge.sqlite import GENESIS, _hash

LINKS = 8


def tamper(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


async def chain(path: Path, links: int = LINKS) -> None:
    async with store(path) as memory:
        for number in range(links):
            await memory.audit("oncall", "did", {"number": number, "name": "é", "odd": os.fsdecode(b"\xff")})
        assert await memory.verify_audit() == links


async def first_bad(path: Path) -> int:
    async with store(path) as memory:
        with pytest.raises(TamperedError) as caught:
            await memory.verify_audit()
        return int(caught.value.details["seq"])


def test_an_empty_chain_holds(tmp_path: Path) -> None:
    async def main() -> None:
        async with store(tmp_path / "k.db") as memory:
            assert await memory.verify_audit() == 0

    asyncio.run(main())


def test_links_come_back_newest_first_each_holding_the_hash_of_the_one_before(tmp_path: Path) -> None:
    async def main() -> None:
        await chain(tmp_path / "k.db")
        async with store(tmp_path / "k.db") as memory:
            rows = await memory.audit_trail(limit=5)
            rows += await memory.audit_trail(before=rows[-1].seq)
            assert [row.seq for row in rows] == list(range(LINKS, 0, -1))
            assert [row.previous for row in rows] == [*(row.hash for row in rows[1:]), GENESIS]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("bad", "statements"),
    [
        (3, ["UPDATE audit SET who = 'intruder' WHERE seq = 3"]),
        (3, ["UPDATE audit SET at = at + 1 WHERE seq = 3"]),
        (3, ["UPDATE audit SET what = 'nothing' WHERE seq = 3"]),
        (3, ["UPDATE audit SET data = '{\"number\":7}' WHERE seq = 3"]),
        (3, ["UPDATE audit SET data = ' ' || data WHERE seq = 3"]),
        (3, ["UPDATE audit SET data = x'00' WHERE seq = 3"]),
        (3, ["UPDATE audit SET hash = previous WHERE seq = 3"]),
        (3, ["UPDATE audit SET previous = hash WHERE seq = 3"]),
        (3, ["DELETE FROM audit WHERE seq = 3"]),
        (3, ["DELETE FROM audit WHERE seq = 3", "UPDATE audit SET seq = seq - 1 WHERE seq > 3"]),
        (
            3,
            [
                "UPDATE audit SET seq = 99 WHERE seq = 3",
                "UPDATE audit SET seq = 3 WHERE seq = 4",
                "UPDATE audit SET seq = 4 WHERE seq = 99",
            ],
        ),
        (1, ["DELETE FROM audit WHERE seq = 1"]),
        (1, ["DELETE FROM audit"]),
        (LINKS, [f"DELETE FROM audit WHERE seq = {LINKS}"]),
        (LINKS - 1, [f"DELETE FROM audit WHERE seq >= {LINKS - 1}"]),
        (
            LINKS + 1,
            [f"INSERT INTO audit SELECT {LINKS + 1}, at, who, what, data, hash, hash FROM audit WHERE seq = {LINKS}"],
        ),
        (0, ["UPDATE state SET value = 'x' WHERE key = 'audit.head'"]),
        (1, ["DELETE FROM state WHERE key = 'audit.head'"]),
        (
            5,
            [
                "DELETE FROM audit WHERE seq < 5",
                "INSERT INTO state SELECT 'audit.anchor', "
                "json_object('link', json_array(4, previous)) FROM audit WHERE seq = 5",
            ],
        ),
    ],
)
def test_the_first_link_that_does_not_hold_is_named(tmp_path: Path, bad: int, statements: list[str]) -> None:
    async def main() -> None:
        path = tmp_path / "k.db"
        await chain(path)
        tamper(path, *statements)
        assert await first_bad(path) == bad

    asyncio.run(main())


def test_a_link_hashed_anew_is_noticed_at_the_next_one_and_at_the_end(tmp_path: Path) -> None:
    def rehash(seq: int) -> None:
        with contextlib.closing(sqlite3.connect(path)) as database:
            row = database.execute("SELECT seq, at, 'intruder', what, data, previous FROM audit WHERE seq = ?", (seq,))
            seq, at, who, what, data, previous = row.fetchone()
            hash = _hash(seq, at, who, what, json.loads(data), previous)
            database.execute("UPDATE audit SET who = 'intruder', hash = ? WHERE seq = ?", (hash, seq))
            database.commit()

    path = tmp_path / "k.db"
    asyncio.run(chain(path))
    rehash(LINKS)
    assert asyncio.run(first_bad(path)) == LINKS
    rehash(3)
    assert asyncio.run(first_bad(path)) == 4


def test_a_cut_tail_stays_visible_when_the_chain_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "k.db"
        await chain(path)
        tamper(path, f"DELETE FROM audit WHERE seq >= {LINKS - 1}")
        async with store(path) as memory:
            await memory.set_flag("auto_healing", False, "oncall")  # an operator can still switch off
        assert await first_bad(path) == LINKS - 1

    asyncio.run(main())


WRITER = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_knowledge import store
async def main():
    async with store(Path(sys.argv[1])) as memory:
        for n in range(int(sys.argv[4])):
            if n % 15 == 0:
                sys.stdin.readline()
            print(await memory.audit(sys.argv[3], "did", {"n": n}), flush=True)
asyncio.run(main())
"""


def writer(path: Path, who: str, links: int) -> "subprocess.Popen[str]":
    code = [sys.executable, "-c", WRITER, str(path), os.path.dirname(__file__), who, str(links)]
    return subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def lines(process: "subprocess.Popen[str]", count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def test_two_processes_that_write_at_once_keep_one_unbroken_chain(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "k.db"
        async with store(path) as memory:
            other = writer(path, "cli", 150)
            assert other.stdout is not None
            assert other.stdin is not None
            for _ in range(10):  # in rounds, so that neither can be done before the other begins
                other.stdin.write("go on\n")
                other.stdin.flush()
                told = asyncio.ensure_future(asyncio.to_thread(lines, other, 15))
                for number in range(15):
                    await memory.audit("daemon", "did", {"n": number})
                await memory.verify_audit()  # holds also while both write
                await told

            assert await asyncio.to_thread(other.wait) == 0
            assert await memory.verify_audit() == 300
            order = [row.who for row in await memory.audit_trail(limit=300)]
            assert all({"cli", "daemon"} == set(order[n : n + 30]) for n in range(0, 300, 30))

    asyncio.run(main())


def test_a_killed_writer_leaves_a_chain_that_holds_with_every_link_it_told_of(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    last = 0
    for life in range(5):
        one = writer(path, "daemon", 1_000_000)
        assert one.stdout is not None
        assert one.stdin is not None
        one.stdin.close()  # it need not wait for anybody
        last = int(lines(one, 1 + 7 * life)[-1])
        one.kill()
        last = max([last, *(int(line) for line in one.stdout if line.endswith("\n"))])
        one.wait()
        one.stdout.close()

    async def main() -> None:
        async with store(path) as memory:
            assert await memory.verify_audit() >= last

    asyncio.run(main())


def test_retention_leaves_an_anchor_from_which_the_chain_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        path, clock = tmp_path / "k.db", Hands()
        async with store(path, clock) as memory:
            for number in range(20):
                await memory.audit("oncall", "did", {"n": number})
                clock.now += DAY
            assert (await memory.retain(clock.now, 5, 10_000)).audit == 15
            assert await memory.verify_audit() == 6  # five of five days, and the one that tells of it
            assert (await memory.retain(clock.now, 5, 3)).audit == 3
            assert await memory.verify_audit() == 4
            clock.now += 90 * DAY
            assert (await memory.retain(clock.now, 5, 10_000)).audit == 4
            assert await memory.verify_audit() == 1
            assert await memory.audit("oncall", "did") == 24
            assert (await memory.retain(clock.now, 5, 10_000)).audit == 0
        tamper(path, "DELETE FROM audit WHERE what = 'audit.retained'")
        assert await first_bad(path) == 23

    asyncio.run(main())


def test_retention_does_not_clear_away_what_was_tampered_with(tmp_path: Path) -> None:
    async def main() -> None:
        path, clock = tmp_path / "k.db", Hands()
        await chain(path)
        tamper(path, "UPDATE audit SET who = 'intruder' WHERE seq = 3")
        async with store(path, clock) as memory:
            with pytest.raises(TamperedError):
                await memory.retain(clock.now + 100 * DAY, 5, 10_000)
            assert len(await memory.audit_trail()) == LINKS

    asyncio.run(main())


def edited(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows[3]["row"][2] = "intruder"
    return rows


def without_one(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[:3] + rows[4:]


def without_the_last(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[:-1]


def without_the_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[1:]


def reordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*rows[:3], rows[4], rows[3], *rows[5:]]


@pytest.mark.parametrize("spoil", [edited, without_one, without_the_last, without_the_first, reordered])
def test_an_export_with_a_broken_chain_is_refused(tmp_path: Path, spoil: Any) -> None:
    async def main() -> None:
        await chain(tmp_path / "a.db")
        async with store(tmp_path / "a.db") as a, store(tmp_path / "b.db") as b:
            first, *rest = [json.loads(line) for line in await exported(a)]
            links = spoil([line for line in rest if line["kind"] == "audit"])
            lines = [first, *links, {"kind": "end", "rows": len(links)}]
            with pytest.raises(TamperedError):
                await b.import_(map(json.dumps, lines), "oncall")
            assert await b.verify_audit() == 0

    asyncio.run(main())


def test_an_operators_act_and_its_link_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "k.db"
        await chain(path)
        tamper(path, "CREATE TRIGGER no BEFORE INSERT ON audit BEGIN SELECT raise(ABORT, 'the disk is full'); END")
        async with store(path) as memory:
            with pytest.raises(StoreError, match="disk is full"):
                await memory.set_flag("auto_healing", True, "oncall")
            with pytest.raises(StoreError, match="disk is full"):
                await memory.add_pause("*", 2e9, who="oncall")
            assert await memory.flags() == {}
            assert await memory.pauses() == []

    asyncio.run(main())
