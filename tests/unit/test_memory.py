"""The numbers are the kernel's, and the file opens where the documentation says it does."""

import pstats
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from x0tta6bl4.observability.memory import get_memory_profiler


@pytest.fixture(autouse=True)
def _tracing_off() -> Iterator[None]:
    yield
    tracemalloc.stop()


class Hoarded:
    def __init__(self) -> None:
        self.things: list[object] = []


def test_the_documented_example_works_as_it_stands() -> None:
    profiler = get_memory_profiler()
    stats = profiler.get_memory_stats()
    print(f"Memory: {stats['current_mb']}MB, Peak: {stats['peak_mb']}MB")

    assert 5 < stats["current_mb"] <= stats["peak_mb"]
    assert "traced_mb" not in stats


def test_the_numbers_follow_what_the_process_takes() -> None:
    before = get_memory_profiler().get_memory_stats()
    block = b"\x01" * (64 * 1024 * 1024)
    during = get_memory_profiler().get_memory_stats()

    assert during["current_mb"] - before["current_mb"] > len(block) / 1024**2 / 2
    assert during["peak_mb"] >= during["current_mb"]


def test_tracing_names_the_line_that_allocated() -> None:
    profiler = get_memory_profiler()
    profiler.start_tracing()
    block = [bytes(4 * 1024 * 1024)]
    top = profiler.top(1)[0]
    traced = profiler.get_memory_stats()["traced_mb"]
    profiler.stop_tracing()

    assert block
    assert top["file"] == __file__
    assert 4 <= top["size_mb"] < 5
    assert traced >= 4
    assert "traced_mb" not in profiler.get_memory_stats()


def test_without_tracing_the_objects_are_counted_by_type() -> None:
    hoard = [Hoarded() for _ in range(321)]
    entries = {entry["what"]: entry for entry in get_memory_profiler().top(100_000)}

    assert len(hoard) == entries["Hoarded"]["count"]
    assert entries["Hoarded"]["size_mb"] > 0


@pytest.mark.parametrize("tracing", [True, False])
def test_the_dump_opens_in_pstats(tracing: bool, tmp_path: Path) -> None:
    path = tmp_path / "memory.prof"
    profiler = get_memory_profiler()
    if tracing:
        profiler.start_tracing()
    block: list[object] = [bytes(2 * 1024 * 1024)]
    profiler.dump_stats(str(path))
    shown = subprocess.run(
        [sys.executable, "-m", "pstats", str(path)],
        input="sort time\nstats 3\n",
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert block
    assert "tottime" in shown.stdout
    assert shown.stderr == ""
    assert pstats.Stats(str(path)).total_tt > (2 if tracing else 0)  # type: ignore[attr-defined]  # not in the stub
    assert ("test_memory.py" in shown.stdout) is tracing
