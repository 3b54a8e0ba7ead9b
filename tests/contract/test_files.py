"""What every Files promises, asked of the real one with real files, and the short of it of the fake as well."""

import asyncio
import contextlib
import json
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x0tta6bl4.adapters.files import LinuxFiles
from x0tta6bl4.kernel.errors import ProbeFailed, StepFailed, StepRefused
from x0tta6bl4.ports.files import FileInfo, Files
from x0tta6bl4.testing.fakes import FakeFiles

QUICK = (0.001, 0.002)
LONG = 60.0


def files() -> LinuxFiles:
    return LinuxFiles(poll=QUICK)


def listed(folder: Path, pattern: str = "*") -> list[FileInfo]:
    port: Files = files()
    return list(asyncio.run(port.list(str(folder), pattern)))


def delete(folder: Path | str, path: Path | str) -> int:
    return asyncio.run(files().delete(str(folder), str(path)))


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# --- list ---


def test_matching_files_are_listed_at_any_depth_oldest_first(tmp_path: Path) -> None:
    young, old = write(tmp_path / "a.log", "y" * 5000), write(tmp_path / "deep" / "er" / "b.log")
    write(tmp_path / "c.txt")
    os.utime(old, (1000, 1000))

    found = listed(tmp_path, "*.log")

    assert [file.path for file in found] == [str(old), str(young)]
    assert found[0].modified == 1000
    assert found[1].size == young.stat().st_blocks * 512


def test_links_are_neither_followed_nor_listed(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / "secret.log")
    inside = tmp_path / "inside"
    mine = write(inside / "mine.log")
    (inside / "link.log").symlink_to(outside)
    (inside / "folder").symlink_to(outside.parent)
    os.mkfifo(inside / "pipe.log")

    assert [file.path for file in listed(inside)] == [str(mine)]


def test_a_folder_that_is_a_link_or_missing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("link", "missing"):
        with pytest.raises(OSError, match=name):
            listed(tmp_path / name)


# --- delete ---


def test_a_file_is_deleted_and_what_it_took_is_told(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a" / "x", "z" * 9000), write(tmp_path / "y", "z")
    size = first.stat().st_blocks * 512

    assert delete(tmp_path, first) == size > 0
    assert delete(tmp_path, "y") > 0
    assert not first.exists()
    assert not second.exists()
    assert delete(tmp_path, first) == 0


def test_a_second_name_of_a_file_gives_nothing_back(tmp_path: Path) -> None:
    file = write(tmp_path / "a")
    os.link(file, tmp_path / "b")

    assert delete(tmp_path, "a") == 0
    assert (tmp_path / "b").exists()


def test_what_does_not_truly_lie_inside_is_refused(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / "precious")
    inside = tmp_path / "inside"
    write(inside / "deep" / "x")
    (inside / "way").symlink_to(outside.parent)
    (inside / "link").symlink_to(outside)
    os.mkfifo(inside / "pipe")
    tries: list[Path | str] = [
        outside,
        "../outside/precious",
        f"{inside}/../outside/precious",
        "way/precious",
        "link",
        "pipe",
        "deep",
    ]
    for path in [*tries, "", ".", "deep/", "deep/./x", "a\0b", str(inside), str(inside) + "x/y"]:
        with pytest.raises(StepRefused):
            delete(inside, path)

    assert outside.exists()
    assert (inside / "link").is_symlink()
    assert (inside / "deep" / "x").exists()


@pytest.mark.parametrize("folder", ["/", "/etc", "/usr/share", "/var", "/home", "/var/../etc", "relative", "//"])
def test_nothing_is_deleted_in_the_systems_own_folders(folder: str) -> None:
    # A name that is surely not there: should the check fail, nothing is lost but the test.
    with pytest.raises(StepRefused):
        delete(folder, "x0tta6bl4-no-such-file")


def test_a_system_folder_is_known_by_any_name(tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to("/")

    with pytest.raises(StepRefused, match="nothing is deleted in /etc"):
        delete(f"{tmp_path}/way/etc", "x0tta6bl4-no-such-file")


def test_a_folder_swapped_for_a_link_is_refused(tmp_path: Path) -> None:
    precious = write(tmp_path / "outside" / "x")
    found = write(tmp_path / "inside" / "deep" / "x")
    path = listed(tmp_path / "inside")[0].path
    found.unlink()
    found.parent.rmdir()
    found.parent.symlink_to(precious.parent)

    with pytest.raises(StepRefused, match="without links"):
        delete(tmp_path / "inside", path)
    assert precious.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may delete anything, so the refusal cannot be seen")
def test_a_file_that_may_not_be_deleted_is_a_failure(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x")
    (tmp_path / "a").chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(StepFailed, match="Permission denied"):
            delete(tmp_path, "a/x")
    finally:
        (tmp_path / "a").chmod(0o700)


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(st.sampled_from(["a", "b", "c", "..", ".", ""]), min_size=1, max_size=4).map("/".join)
ENTRIES = st.lists(
    st.tuples(st.lists(NAMES, min_size=1, max_size=3), st.sampled_from(["file", "link", "folder"]), PATHS), max_size=10
)


@settings(deadline=None)
@given(ENTRIES, PATHS)
def test_whatever_links_there_are_nothing_outside_is_listed_or_deleted(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[list[str], str, str]], target: str
) -> None:
    root = tmp_path_factory.mktemp("tree")
    outside, inside = root / "a", root / "inside"
    for name in ("a", "b", "c"):
        write(outside / name)
    inside.mkdir()
    for parts, kind, to in entries:
        path = inside.joinpath(*parts)
        if any(part.is_symlink() or part.is_file() for part in (path, *path.parents)) or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            path.write_text("x")
        elif kind == "link":
            path.symlink_to(to or ".")
        else:
            path.mkdir()
    links = {path for path in inside.rglob("*") if path.is_symlink()}
    regular = {str(path) for path in inside.rglob("*") if path.is_file() and not path.is_symlink()}
    regular = {path for path in regular if not links & set(Path(path).parents)}

    assert {file.path for file in listed(inside)} == regular
    for tried in (target, f"{inside}/{target}", f"{root}/{target}"):
        with contextlib.suppress(StepRefused):
            delete(inside, tried)
    assert sorted(path.name for path in outside.iterdir()) == ["a", "b", "c"]
    assert {path for path in inside.rglob("*") if path.is_symlink()} >= links


# --- follow ---


class Reader:
    """Takes the lines one by one."""

    def __init__(self, path: Path) -> None:
        self.lines: AsyncIterator[str] = files().follow(str(path))

    async def take(self, count: int = 1) -> list[str]:
        async with asyncio.timeout(LONG):
            return [await anext(self.lines) for _ in range(count)]

    async def close(self) -> None:
        await self.lines.aclose()  # type: ignore[attr-defined]  # it is an async generator


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_lines_appended_from_now_on_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "log", "old\n")

    async def follow() -> list[str]:
        reader = Reader(path)
        # Before anything was taken: "now" is when it was asked for.
        append(path, b"one\ntwo\r\n\n")
        lines = await reader.take(3)
        append(path, b"part")
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(reader.take())
            await asyncio.sleep(0.01)
            assert not waiting.done()
            append(path, b"ial \xff\n")
        await reader.close()
        return lines + waiting.result()

    assert asyncio.run(follow()) == ["one", "two", "", "partial \N{REPLACEMENT CHARACTER}"]


def test_a_file_that_is_not_there_yet_is_waited_for_and_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "later" / "log"

    async def follow() -> list[str]:
        reader = Reader(path)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(reader.take())
            await asyncio.sleep(0.01)
            write(path, "first\n")
        await reader.close()
        return waiting.result()

    assert asyncio.run(follow()) == ["first"]


def test_a_rotated_file_is_read_to_its_end_and_then_the_new_one(tmp_path: Path) -> None:
    path, rotated = write(tmp_path / "log", ""), tmp_path / "log.1"

    async def follow() -> list[str]:
        reader = Reader(path)
        append(path, b"before\n")
        lines = await reader.take()
        append(path, b"just before\n")
        path.rename(rotated)
        write(path, "new\n")
        lines += await reader.take(2)
        # Its owner has not been told yet.
        append(rotated, b"latecomer\n")
        lines += await reader.take()
        append(path, b"newer\n")
        lines += await reader.take()
        await reader.close()
        return lines

    assert asyncio.run(follow()) == ["before", "just before", "new", "latecomer", "newer"]


def test_an_old_file_is_let_go_when_it_has_been_quiet(tmp_path: Path) -> None:
    path = write(tmp_path / "log", "")

    def held() -> int:
        count = 0
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the one that listed them
                count += str(tmp_path) in os.readlink(f"/proc/self/fd/{fd}")
        return count

    async def follow() -> list[str]:
        reader = Reader(path)
        append(path, b"no line end")
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(reader.take(2))
            await until(lambda: held() == 1)
            path.rename(tmp_path / "log.1")
            write(path, "")
            await until(lambda: held() == 2)
            await until(lambda: held() == 1)
            append(path, b"new\n")
        await reader.close()
        await until(lambda: held() == 0)
        return waiting.result()

    assert asyncio.run(follow()) == ["no line end", "new"]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not true():
            await asyncio.sleep(0)


def test_a_truncated_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = write(tmp_path / "log", "x" * 100 + "\n")

    async def follow() -> list[str]:
        reader = Reader(path)
        append(path, b"one\nhalf of a line")
        lines = await reader.take()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(reader.take())
            await asyncio.sleep(0.01)
            path.write_text("two\n")
        await reader.close()
        return lines + waiting.result()

    assert asyncio.run(follow()) == ["one", "two"]


def test_an_endless_line_is_cut_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "log", "")

    async def follow() -> list[str]:
        reader = Reader(path)
        append(path, b"a" * 300_000 + b"\nnext\n")
        lines = await reader.take(2)
        await reader.close()
        return lines

    assert asyncio.run(follow()) == ["a" * 65536, "next"]


def test_what_is_no_file_cannot_be_followed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ProbeFailed, match="no regular file"):
            asyncio.run(Reader(path).take())


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_lines_are_the_same_however_they_were_written(pieces: list[bytes]) -> None:
    from x0tta6bl4.adapters.files import _Lines

    whole, lines = b"".join(pieces), _Lines()
    cut = [line for piece in pieces for line in lines.feed(piece)] + list(lines.end())
    expected = whole.split(b"\n")
    if not expected[-1]:
        expected.pop()

    assert cut == [line.removesuffix(b"\r").decode(errors="replace") for line in expected]


# --- the journal ---


def journalctl(tmp_path: Path, script: str) -> LinuxFiles:
    program = tmp_path / "journalctl"
    program.write_text(f'#!/bin/sh\necho $$ > {tmp_path}/pid\necho "$@" > {tmp_path}/argv\n{script}\n')
    program.chmod(0o755)
    return LinuxFiles(journalctl=str(program))


def test_messages_of_the_journal_are_read_and_the_child_ends_with_the_reader(tmp_path: Path) -> None:
    records = [
        {"MESSAGE": "plain"},
        {"MESSAGE": list(b"b\xff")},
        {"MESSAGE": None},
        {"MESSAGE": ["two", "texts"]},
    ]
    text = "\n".join(map(json.dumps, records))
    port = journalctl(tmp_path, f"cat <<'END'\n{text}\nEND\nexec sleep 1000")

    async def follow() -> list[str]:
        lines = port.follow_journal("shop.service")
        async with asyncio.timeout(LONG):
            taken = [await anext(lines) for _ in records]
        await lines.aclose()  # type: ignore[attr-defined]  # it is an async generator
        return taken

    assert asyncio.run(follow()) == ["plain", "b\N{REPLACEMENT CHARACTER}", "", "two\ntexts"]
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()
    assert "--unit=shop.service" in (tmp_path / "argv").read_text().split()


def test_a_journal_that_cannot_be_read_is_said_so_in_journalctls_words(tmp_path: Path) -> None:
    port = journalctl(tmp_path, "echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1")

    async def follow() -> None:
        async for _ in port.follow_journal(None):
            pass

    with pytest.raises(ProbeFailed, match="insufficient permissions"):
        asyncio.run(follow())


def test_a_missing_journalctl_is_said_so(tmp_path: Path) -> None:
    async def follow() -> None:
        async for _ in LinuxFiles(journalctl=str(tmp_path / "none")).follow_journal(None):
            pass

    with pytest.raises(ProbeFailed, match="cannot be started: No such file"):
        asyncio.run(follow())


# --- promises that the fake keeps too ---

UNITS = ("api.service", "db.service")


class Bench(Protocol):
    """Makes the world do for either implementation what a test needs. Names are below the folder."""

    subject: Files
    folder: str

    def put(self, name: str) -> str:
        """The path of a file that is there now."""
        ...

    def link(self, name: str) -> str:
        """The path of a link to a folder elsewhere, with a file x.log in it."""
        ...

    def append(self, name: str, line: str) -> None: ...

    def rotate(self, name: str) -> None: ...

    def truncate(self, name: str) -> None: ...

    def say(self, unit: str, message: str) -> None: ...

    def hide_journal(self) -> None: ...

    def close(self) -> None: ...


class FakeBench:
    folder = "/srv/shop"

    def __init__(self, folder: Path) -> None:
        self.fake = FakeFiles()
        self.subject: Files = self.fake

    def put(self, name: str) -> str:
        path = f"{self.folder}/{name}"
        self.fake.add(path, 4096)
        return path

    def link(self, name: str) -> str:
        path = f"{self.folder}/{name}"
        self.fake.links.add(path)
        for there in (path, "/srv/elsewhere"):
            self.fake.add(f"{there}/x.log", 4096)
        return path

    def append(self, name: str, line: str) -> None:
        self.fake.write_line(f"{self.folder}/{name}", line)

    def rotate(self, name: str) -> None:
        pass  # Who follows the fake follows the name.

    truncate = rotate

    def say(self, unit: str, message: str) -> None:
        self.fake.write_message(unit, message)

    def hide_journal(self) -> None:
        self.fake.has_journal = False

    def close(self) -> None:
        pass


class RealBench:
    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.folder = str(folder / "shop")
        self.journals: dict[str, int] = {}
        for unit in ("all", *UNITS):
            os.mkfifo(folder / unit)
            # Open at both ends: a message waits there until it is read, and no end of it is ever seen.
            self.journals[unit] = os.open(folder / unit, os.O_RDWR)
        script = (
            'unit=all; for word; do case "$word" in --unit=*) unit=${word#--unit=};; esac; done\n'
            f'exec cat "{folder}/$unit"'
        )
        program = write(folder / "journalctl", f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        self.subject: Files = LinuxFiles(poll=QUICK, journalctl=str(program))

    def put(self, name: str) -> str:
        return str(write(Path(self.folder, name), "x" * 4096))

    def link(self, name: str) -> str:
        write(self.root / "elsewhere" / "x.log")
        path = Path(self.folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(self.root / "elsewhere")
        return str(path)

    def append(self, name: str, line: str) -> None:
        append(Path(self.folder, name), f"{line}\n".encode())

    def rotate(self, name: str) -> None:
        path = Path(self.folder, name)
        path.rename(path.with_suffix(".1"))

    def truncate(self, name: str) -> None:
        os.truncate(Path(self.folder, name), 0)

    def say(self, unit: str, message: str) -> None:
        for journal in (unit, "all"):
            os.write(self.journals[journal], json.dumps({"MESSAGE": message}).encode() + b"\n")

    def hide_journal(self) -> None:
        write(self.root / "journalctl", "#!/bin/sh\necho 'No journal files were opened.' >&2; exit 1\n")

    def close(self) -> None:
        for journal in self.journals.values():
            os.close(journal)


Scenario = Callable[[Bench], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=[RealBench, FakeBench], ids=["linux", "fake"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    async def whole(scenario: Scenario) -> None:
        bench = request.param(tmp_path)
        try:
            async with asyncio.timeout(LONG):
                await scenario(bench)
        finally:
            bench.close()

    return lambda scenario: asyncio.run(whole(scenario))


async def paths(bench: Bench, pattern: str = "*") -> list[str]:
    return sorted(file.path for file in await bench.subject.list(bench.folder, pattern))


async def stop(lines: AsyncIterator[str]) -> None:
    await lines.aclose()  # type: ignore[attr-defined]  # it is an async generator


def test_either_lists_what_matches_at_any_depth_and_no_link(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        mine = sorted(bench.put(name) for name in ("a.log", "deep/er/b.log"))
        text = bench.put("deep/c.txt")
        bench.link("way")
        bench.link("link.log")

        assert await paths(bench, "*.log") == mine
        assert await paths(bench) == sorted([*mine, text])
        assert await paths(bench, "none*") == []

    play(scenario)


def test_either_lists_nothing_of_a_folder_that_is_a_link_or_missing(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        for folder in (bench.link("way"), f"{bench.folder}/missing"):
            with pytest.raises(OSError, match=Path(folder).name):
                await bench.subject.list(folder, "*")

    play(scenario)


def test_either_gives_back_what_a_deleted_file_took_and_deletes_it_once(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        first, second, kept = (bench.put(name) for name in ("a.log", "deep/b.log", "deep/c.log"))
        sizes = {file.path: file.size for file in await bench.subject.list(bench.folder, "*")}

        assert await bench.subject.delete(bench.folder, first) == sizes[first] > 0
        assert await bench.subject.delete(f"{bench.folder}/", "deep/b.log") == sizes[second]
        assert await paths(bench) == [kept]
        assert await bench.subject.delete(bench.folder, first) == 0
        assert await bench.subject.delete(bench.folder, "deep/b.log") == 0

    play(scenario)


def test_either_leaves_alone_what_does_not_truly_lie_inside(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        kept = [bench.put("deep/x.log"), bench.put("y.log")]
        way = bench.link("way")
        beside = str(Path(bench.folder).parent)
        tried = [
            *(f"{beside}/elsewhere/x.log", "../elsewhere/x.log", f"{bench.folder}/../elsewhere/x.log"),
            *("way", "way/x.log", way, f"{way}/x.log", f"{bench.folder}way/x.log"),
            *("", ".", "deep", "deep/", "deep/./x.log", "deep//x.log", "a\0b", bench.folder, f"{bench.folder}/"),
        ]
        for path in tried:
            with pytest.raises(StepRefused):
                await bench.subject.delete(bench.folder, path)
        for folder in (way, "/", "", "shop"):
            with pytest.raises(StepRefused):
                await bench.subject.delete(folder, "x.log")

        assert await paths(bench) == sorted(kept)
        assert len(await bench.subject.list(f"{beside}/elsewhere", "*")) == 1

    play(scenario)


def test_either_follows_from_the_moment_it_is_asked_to(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.put("log")
        bench.append("log", "before")
        lines = bench.subject.follow(f"{bench.folder}/log")
        for line in ("one", "", "two"):
            bench.append("log", line)

        assert [await anext(lines) for _ in range(3)] == ["one", "", "two"]
        await stop(lines)

    play(scenario)


def test_either_waits_for_a_file_and_goes_on_through_rotation_and_truncation(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.put("other")
        lines = bench.subject.follow(f"{bench.folder}/log")
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0.005)
        assert not waiting.done()
        bench.append("log", "first")
        seen = [await waiting]
        for number in range(3):
            bench.append("log", f"before {number}")
            bench.rotate("log")
            bench.append("log", f"after {number}")
            seen += [await anext(lines), await anext(lines)]
        bench.truncate("log")
        bench.append("log", "cut")
        seen.append(await anext(lines))
        await stop(lines)

        assert seen == ["first", *(f"{when} {n}" for n in range(3) for when in ("before", "after")), "cut"]

    play(scenario)


def test_either_gives_every_line_to_all_who_follow_and_goes_on_when_one_leaves(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.put("log")
        path = f"{bench.folder}/log"
        leaving, cancelled, staying = (bench.subject.follow(path) for _ in range(3))
        bench.append("log", "one")
        assert [await anext(lines) for lines in (leaving, cancelled, staying)] == ["one"] * 3

        await stop(leaving)
        waiting = asyncio.ensure_future(anext(cancelled))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        bench.append("log", "two")
        assert await anext(staying) == "two"
        for ended in (leaving, cancelled):
            with pytest.raises(StopAsyncIteration):
                await anext(ended)
        await stop(staying)

    play(scenario)


def test_either_reads_the_journal_of_one_unit_or_of_all(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        followed = [bench.subject.follow_journal(unit) for unit in ("db.service", None)]
        waiting = [asyncio.ensure_future(anext(messages)) for messages in followed]
        await asyncio.sleep(0)
        for unit, message in (("api.service", "hello"), ("db.service", "is full"), ("db.service", "fell over")):
            bench.say(unit, message)

        assert [await first for first in waiting] == ["is full", "hello"]
        assert [await anext(messages) for messages in followed] == ["fell over", "is full"]
        for messages in followed:
            await stop(messages)

    play(scenario)


def test_either_says_so_when_there_is_no_journal_to_read(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.hide_journal()
        with pytest.raises(ProbeFailed):
            await anext(bench.subject.follow_journal("api.service"))

    play(scenario)
