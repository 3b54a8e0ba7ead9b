"""What every Files promises, asked of the real one with real files."""

import asyncio
import contextlib
import json
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x0tta6bl4.adapters.files import LinuxFiles
from x0tta6bl4.kernel.errors import ProbeFailed, StepFailed, StepRefused
from x0tta6bl4.ports.files import FileInfo, Files

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
