"""The cleanup executor: real files in a real folder, what goes, what stays, and which folders it never enters."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from x0tta6bl4.adapters.files import LinuxFiles
from x0tta6bl4.executors.cleanup import PLUGIN, Cleanup, Config
from x0tta6bl4.kernel.errors import StepFailed, StepRefused
from x0tta6bl4.kernel.facts import Step
from x0tta6bl4.kernel.plugin import Tools
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.ports.files import FileInfo
from x0tta6bl4.ports.host import Disk

NOW = 1_700_000_000.0


class FixedClock:
    def wall(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return 0.0


class OneDisk:
    def __init__(self, free: int = 0) -> None:
        self.free = free

    async def disks(self) -> Sequence[Disk]:
        return [Disk("/", "/dev/a", 100 * 4096, self.free, 1, 1, False)]


def built(rules: object, files: Any = None, host: Any = None) -> Cleanup:
    tools = SimpleNamespace(
        files=files or LinuxFiles(),
        host=host or OneDisk(),
        clock=FixedClock(),
        subjects={"web": Subject("web", data={"cleanup": rules})},
    )
    return cast(Cleanup, PLUGIN.build("cleanup", Config(), cast(Tools, tools)))


STEP = Step("s1", "cleanup.free", "web")


def put(folder: Path, name: str, age: float, size: int = 4096) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)
    os.utime(file, (NOW - age, NOW - age))
    return file


def left(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_only_old_files_with_the_right_name_go(tmp_path: Path) -> None:
    put(tmp_path, "old.log", 7200)
    put(tmp_path, "young.log", 60)
    put(tmp_path, "old.db", 7200)
    put(tmp_path, "deep/older.log", 9000)
    effect = asyncio.run(built([{"folder": str(tmp_path), "pattern": "*.log", "older_than": 3600}]).act(STEP))
    assert {"young.log", "old.db"} == left(tmp_path)
    assert f"deleted 2 files in {tmp_path}, 8KiB" == effect.detail
    assert {"files": 2, "bytes": 8192} == effect.data
    assert [f"{tmp_path}/deep/older.log", f"{tmp_path}/old.log"] == effect.output.splitlines()


def test_the_newest_stay_whatever_their_age(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path, f"core.{number}", 10000 - number)
    asyncio.run(built([{"folder": str(tmp_path), "pattern": "core.*", "keep": 2}]).act(STEP))
    assert {"core.3", "core.4"} == left(tmp_path)


def test_keeping_more_than_there_are_keeps_all(tmp_path: Path) -> None:
    put(tmp_path, "a", 100)
    put(tmp_path, "b", 200)
    with pytest.raises(StepFailed, match="nothing to free in"):
        asyncio.run(built([{"folder": str(tmp_path), "keep": 3}]).act(STEP))
    assert {"a", "b"} == left(tmp_path)


def test_it_stops_when_enough_is_free_and_begins_with_the_oldest(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path, f"f{number}", 1000 - number)
    asyncio.run(built([{"folder": str(tmp_path), "max_bytes": "5000"}]).act(STEP))
    assert {"f2", "f3", "f4"} == left(tmp_path)


def test_it_stops_when_the_wanted_share_of_the_filesystem_is_free(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path, f"f{number}", 1000 - number)
    rules = [{"folder": str(tmp_path), "until_free": 0.1}]
    asyncio.run(built(rules, host=OneDisk(free=7 * 4096)).act(STEP))
    assert {"f3", "f4"} == left(tmp_path)
    with pytest.raises(StepFailed, match="nothing to free"):
        asyncio.run(built(rules, host=OneDisk(free=10 * 4096)).act(STEP))


def test_what_one_rule_spares_no_other_rule_takes(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path, f"{number}.db", 9000 - number)
    put(tmp_path, "x.tmp", 9000)
    rules = [{"folder": str(tmp_path), "older_than": 60}, {"folder": str(tmp_path), "pattern": "*.db", "keep": 2}]
    asyncio.run(built(rules).act(STEP))
    assert {"1.db", "2.db"} == left(tmp_path)


def test_a_rule_that_cannot_say_how_much_is_enough_takes_nothing_and_still_spares(tmp_path: Path) -> None:
    class Blind:
        async def disks(self) -> Sequence[Disk]:
            raise OSError("cannot read the mounts")

    put(tmp_path, "a", 100)
    put(tmp_path, "b", 50)
    rules = [{"folder": str(tmp_path), "until_free": 0.5, "keep": 1}, {"folder": str(tmp_path)}]
    effect = asyncio.run(built(rules, host=Blind()).act(STEP))
    assert {"b"} == left(tmp_path)
    assert "cannot read the mounts" in effect.detail


def test_a_preview_tells_the_same_files_and_leaves_them(tmp_path: Path) -> None:
    put(tmp_path, "a", 100)
    put(tmp_path, "b", 50)
    cleanup = built([{"folder": str(tmp_path), "keep": 1}, {"folder": str(tmp_path), "keep": 1}])
    assert f"would delete 1 file (4KiB): {tmp_path}/a" == asyncio.run(cleanup.preview(STEP))
    assert {"a", "b"} == left(tmp_path)
    assert f"{tmp_path}/a" == asyncio.run(cleanup.act(STEP)).output


def test_done_twice_the_second_finds_nothing_and_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path, "a", 100)
    put(tmp_path, "b", 50)
    cleanup = built([{"folder": str(tmp_path), "keep": 1}])
    asyncio.run(cleanup.act(STEP))
    with pytest.raises(StepFailed, match=f"nothing to free in {tmp_path}"):
        asyncio.run(cleanup.act(STEP))
    assert f"would find nothing to free in {tmp_path}" == asyncio.run(cleanup.preview(STEP))
    assert {"b"} == left(tmp_path)


def test_links_are_neither_deleted_nor_followed(tmp_path: Path) -> None:
    outside = put(tmp_path, "outside/precious", 9000)
    inside = tmp_path / "inside"
    put(inside, "plain", 9000)
    (inside / "link").symlink_to(outside)
    (inside / "folder").symlink_to(outside.parent)
    asyncio.run(built([{"folder": str(inside)}]).act(STEP))
    assert outside.exists() and (inside / "link").is_symlink() and not (inside / "plain").exists()


def test_a_folder_that_is_not_there_is_told_and_the_others_are_still_cleaned(tmp_path: Path) -> None:
    put(tmp_path, "a", 100)
    effect = asyncio.run(built([{"folder": f"{tmp_path}/none"}, {"folder": str(tmp_path)}]).act(STEP))
    assert f"deleted 1 file in {tmp_path}, 4KiB; {tmp_path}/none: " in effect.detail


def test_what_cannot_be_deleted_is_told_and_is_a_failure_when_it_is_all() -> None:
    class Stubborn:
        async def list(self, folder: str, pattern: str) -> Sequence[FileInfo]:
            return [FileInfo(f"{folder}/a", 10, 0.0), FileInfo(f"{folder}/b", 10, 1.0)]

        async def delete(self, folder: str, path: str) -> int:
            if path.endswith("a") or self.all_stay:
                raise StepFailed("it is immutable")
            return 10

        all_stay = False

    files = Stubborn()
    effect = asyncio.run(built([{"folder": "/srv/x"}], files).act(STEP))
    assert (
        "deleted 1 file in /srv/x, 10; 1 file could not be deleted, such as /srv/x/a: it is immutable" == effect.detail
    )
    files.all_stay = True
    with pytest.raises(StepFailed, match="2 files could not be deleted"):
        asyncio.run(built([{"folder": "/srv/x"}], files).act(STEP))


@pytest.mark.parametrize(
    "folder",
    [
        "/",
        "//",
        "/etc",
        "/etc/",
        "/etc/x",
        "/usr",
        "/usr/local/share",
        "/bin",
        "/home",
        "/home/",
        "/home/me",
        "/root",
        "/var",
        "/var/lib",
        "/proc/1",
        "/sys",
        "/dev/shm",
        "/boot",
        "/lib64",
        "relative",
        "",
        "/tmp/../etc",
        "/tmp/./x",
        "/srv//x",
        "/a\0b",
    ],
)
def test_folders_that_the_host_stands_on_are_refused_before_any_file_is_touched(tmp_path: Path, folder: str) -> None:
    put(tmp_path, "a", 100)
    for call in (built([{"folder": str(tmp_path)}, {"folder": folder}]).act, built([{"folder": folder}]).preview):
        with pytest.raises(StepRefused, match=r"cleanup\[\d\]\.folder"):
            asyncio.run(call(STEP))
    assert {"a"} == left(tmp_path)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (None, "web has no cleanup rules"),
        ([], "web has no cleanup rules"),
        ("/srv/x", "web has no cleanup rules"),
        (["/srv/x"], r"cleanup\[0\] should have a folder"),
        ([{"folder": "/srv/x", "older": 1}], r"cleanup\[0\]\.older"),
        ([{"folder": "/srv/x", "keep": -1}], r"cleanup\[0\]\.keep"),
        ([{"folder": "/srv/x", "pattern": "../*"}], "about names"),
    ],
)
def test_a_mistake_in_the_rules_is_refused_with_its_place(rules: object, words: str) -> None:
    with pytest.raises(StepRefused, match=words):
        asyncio.run(built(rules).act(STEP))


def test_the_verb_takes_no_arguments() -> None:
    with pytest.raises(StepRefused, match="no argument 'folder'; it takes none"):
        asyncio.run(built([{"folder": "/srv/x"}]).act(Step("s", "cleanup.free", "web", {"folder": "/srv/y"})))


@given(
    ages=st.lists(st.integers(min_value=-50, max_value=200), min_size=1, max_size=12),
    keep=st.integers(min_value=0, max_value=5),
    older_than=st.integers(min_value=0, max_value=150),
    enough=st.none() | st.integers(min_value=0, max_value=60),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_young_file_and_the_newest_are_never_deleted(
    tmp_path: Path, ages: list[int], keep: int, older_than: int, enough: int | None
) -> None:
    class InMemory:
        """Every file is ten bytes."""

        def __init__(self) -> None:
            self.gone: list[str] = []
            self.there = {f"/srv/x/{n:02}": age for n, age in enumerate(ages)}

        async def list(self, folder: str, pattern: str) -> Sequence[FileInfo]:
            return [FileInfo(path, 10, NOW - age) for path, age in self.there.items()]

        async def delete(self, folder: str, path: str) -> int:
            self.gone.append(path)
            return 10

    files = InMemory()
    rule = {"folder": "/srv/x", "keep": keep, "older_than": older_than, "max_bytes": enough}
    preview = asyncio.run(built([rule], files).preview(STEP))
    try:
        asyncio.run(built([rule], files).act(STEP))
    except StepFailed:
        assert preview.startswith("would find nothing to free")
    gone_ages = [files.there[path] for path in files.gone]
    kept_ages = sorted(age for path, age in files.there.items() if path not in files.gone)
    assert all(age >= older_than for age in gone_ages)
    assert len(kept_ages) >= min(keep, len(ages))
    if gone_ages and keep:
        assert kept_ages[min(keep, len(kept_ages)) - 1] <= min(gone_ages)
    may_go = sum(1 for age in sorted(ages)[keep:] if age >= older_than)
    assert (may_go if enough is None else min(may_go, -(-enough // 10))) == len(files.gone)
    assert all(path in preview for path in files.gone)
