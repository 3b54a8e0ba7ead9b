"""Whose time it was, when tasks interleave; what failed, also when nobody samples; and that it stays small."""

import asyncio
import random
import threading
from collections.abc import Generator
from contextvars import copy_context
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x0tta6bl4.observability import tracker as module
from x0tta6bl4.observability.tracker import ExecutionTracker, get_tracker, is_stage_id
from x0tta6bl4.ports.meter import Stages


class Hands:
    """A clock that somebody moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_is_what_the_kernel_asks_for() -> None:
    stages: Stages = ExecutionTracker()
    with stages.track_stage("1.0_MONITOR", "Monitor", "c1"), stages.track_substage("1.1_LOAD", "Load"):
        pass


def test_the_documented_example_works_as_it_stands() -> None:
    tracker, thread_id = get_tracker(), "example"
    with tracker.track_stage("2.0_CACHE_LOOKUP", "Cache Lookup", thread_id):  # noqa: SIM117  # as documented
        with tracker.track_substage("2.1_L1_CACHE_LOOKUP", "L1 Cache"):
            pass
    summary = tracker.get_execution_summary(thread_id)
    tracker.clear_thread_data(thread_id)

    assert summary["total_duration_ms"] >= 0
    assert tracker is get_tracker()
    assert tracker.get_execution_summary(thread_id)["stage_count"] == 0


def test_the_summary_tells_what_ran_how_long_and_how_it_ended() -> None:
    clock = Hands()
    tracker = ExecutionTracker(clock=clock)
    with tracker.track_stage("1.0_MONITOR", "Monitor", "c"):
        clock.now += 1
        with tracker.track_substage("1.1_LOAD", "Load"):
            clock.now += 0.5
    clock.now += 10
    with pytest.raises(ValueError, match="wrong"), tracker.track_stage("2.0_ANALYZE", "Analyze", "c"):
        clock.now += 2
        raise ValueError("wrong")

    assert tracker.get_execution_summary("c") == {
        "thread_id": "c",
        "total_duration_ms": pytest.approx(3500),
        "stage_count": 2,
        "stages": [
            {
                "stage": "1.0_MONITOR",
                "name": "Monitor",
                "duration_ms": pytest.approx(1500),
                "success": True,
                "substages": [
                    {"stage": "1.1_LOAD", "name": "Load", "duration_ms": pytest.approx(500), "success": True}
                ],
            },
            {
                "stage": "2.0_ANALYZE",
                "name": "Analyze",
                "duration_ms": pytest.approx(2000),
                "success": False,
                "error": "ValueError",
            },
        ],
        "success": False,
        "failed_stages": ["2.0_ANALYZE"],
    }


def test_nothing_known_is_neither_success_nor_failure() -> None:
    assert ExecutionTracker().get_execution_summary("nobody")["success"] is None


def test_nested_and_parallel_stages_count_once_in_the_total() -> None:
    clock = Hands()
    tracker = ExecutionTracker(clock=clock)
    outer = tracker.track_stage("1.0_A", "a", "c")
    inner = tracker.track_stage("2.0_B", "b", "c")
    outer.__enter__()
    clock.now += 1
    inner.__enter__()
    clock.now += 1
    outer.__exit__(None, None, None)
    clock.now += 1
    inner.__exit__(None, None, None)

    assert tracker.get_execution_summary("c")["total_duration_ms"] == pytest.approx(3000)


def test_interleaved_tasks_keep_their_substages_to_themselves() -> None:
    tracker = ExecutionTracker()

    async def work(thread_id: str, mine: asyncio.Event, others: asyncio.Event) -> None:
        with tracker.track_stage("1.0_WORK", "Work", thread_id):
            mine.set()
            await others.wait()
            with tracker.track_substage(f"1.1_{thread_id}", "Part"):
                await asyncio.sleep(0)
            await asyncio.to_thread(
                lambda: tracker.track_substage(f"1.2_{thread_id}", "Part").__enter__().__exit__(None, None, None)
            )

    async def both() -> None:
        a, b = asyncio.Event(), asyncio.Event()
        await asyncio.gather(work("A", a, b), work("B", b, a))

    asyncio.run(both())
    for thread_id in "AB":
        (stage,) = tracker.get_execution_summary(thread_id)["stages"]

        assert [part["stage"] for part in stage["substages"]] == [f"1.1_{thread_id}", f"1.2_{thread_id}"]


def test_a_substage_outside_of_any_stage_counts_in_the_statistics_only() -> None:
    tracker = ExecutionTracker()
    with tracker.track_substage("1.1_LOAD", "Load"):
        pass

    assert tracker.get_stage_statistics("1.1_LOAD")["count"] == 1


def test_two_trackers_do_not_mix() -> None:
    ours, theirs = ExecutionTracker(), ExecutionTracker()
    with ours.track_stage("1.0_A", "a", "c"), theirs.track_substage("1.1_B", "b"):
        pass

    assert "substages" not in ours.get_execution_summary("c")["stages"][0]


def test_a_cancelled_stage_is_no_success() -> None:
    tracker = ExecutionTracker()

    async def main() -> None:
        async def stuck() -> None:
            with tracker.track_stage("1.0_STUCK", "Stuck", "c"):
                await asyncio.Event().wait()

        task = asyncio.create_task(stuck())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())

    assert tracker.get_execution_summary("c")["stages"][0]["error"] == "CancelledError"
    assert tracker.get_stage_statistics("1.0_STUCK")["errors"] == 1


def test_errors_are_kept_when_nothing_is_sampled() -> None:
    tracker = ExecutionTracker(sampling=0.0)
    with tracker.track_stage("1.0_FINE", "Fine", "c"):
        pass
    with tracker.track_stage("2.0_CAUGHT", "Caught", "c"):
        with pytest.raises(KeyError), tracker.track_substage("2.1_DEEP", "Deep"):
            raise KeyError
        with tracker.track_substage("2.2_FINE", "Fine"):
            pass
    summary = tracker.get_execution_summary("c")

    assert [stage["stage"] for stage in summary["stages"]] == ["2.0_CAUGHT"]
    assert [part["stage"] for part in summary["stages"][0]["substages"]] == ["2.1_DEEP"]
    assert tracker.get_stage_statistics("1.0_FINE")["count"] == 1
    assert tracker.get_stage_statistics("1.0_FINE")["p50_ms"] is None


@pytest.mark.parametrize("share", [0.005, 0.1, 0.5])
def test_sampling_keeps_the_share_asked_for_also_below_one_percent(share: float) -> None:
    tracker = ExecutionTracker(sampling=share)
    kept = sum(tracker.is_sampled(f"thread-{number}") for number in range(40_000)) / 40_000

    assert kept == pytest.approx(share, rel=0.15)


def test_sampling_decides_by_the_id_alone() -> None:
    one, other = ExecutionTracker(sampling=0.3), ExecutionTracker(sampling=0.3)

    assert [one.is_sampled(str(n)) for n in range(500)] == [other.is_sampled(str(n)) for n in range(500)]


def test_statistics_tell_percentiles_also_of_substages() -> None:
    clock = Hands()
    tracker = ExecutionTracker(clock=clock)
    order = list(range(1, 101))
    random.Random(4).shuffle(order)
    for number in order:
        with tracker.track_stage("1.0_A", "a", "c"), tracker.track_substage("1.1_B", "b"):
            clock.now += number / 1000

    assert tracker.get_stage_statistics("1.1_B") == {
        "count": 100,
        "sampled": 100,
        "errors": 0,
        "p50_ms": pytest.approx(50.5),
        "p95_ms": pytest.approx(95.05),
        "p99_ms": pytest.approx(99.01),
        "min_ms": pytest.approx(1),
        "max_ms": pytest.approx(100),
    }
    assert list(tracker.all_statistics()) == ["1.0_A", "1.1_B"]


def test_statistics_forget_what_slid_out_of_the_window() -> None:
    clock = Hands()
    tracker = ExecutionTracker(max_samples=3, clock=clock)
    for seconds in (9, 1, 2, 3):
        with tracker.track_stage("1.0_A", "a"):
            clock.now += seconds
    told = tracker.get_stage_statistics("1.0_A")

    assert (told["count"], told["sampled"]) == (4, 3)
    assert told["max_ms"] == pytest.approx(3000)


def test_memory_is_bounded_in_threads_stages_substages_and_ids() -> None:
    tracker = ExecutionTracker(max_threads=3)
    for number in range(module.IDS + 5):
        with tracker.track_stage(f"1.{number}_A", "a", f"t{number}"):
            pass
    with tracker.track_stage("1.0_A", "a", "many"):
        for _ in range(module.PARTS + 2):
            with tracker.track_substage("1.1_B", "b"):
                pass
    for _ in range(module.PARTS + 2):
        with tracker.track_stage("1.0_A", "a", "many"):
            pass
    summary = tracker.get_execution_summary("many")

    assert tracker.get_execution_summary("t0")["stage_count"] == 0
    assert tracker.get_execution_summary(f"t{module.IDS + 4}")["stage_count"] == 1
    assert len(tracker.all_statistics()) == module.IDS
    assert len(summary["stages"]) == module.PARTS
    assert summary["stage_count"] == module.PARTS + 3
    assert summary["stages"][0]["substages_dropped"] == 2


def test_it_counts_right_from_many_threads() -> None:
    tracker = ExecutionTracker(max_threads=4)

    def work(number: int) -> None:
        for turn in range(500):
            with tracker.track_stage("1.0_A", "a", f"{number}-{turn % 3}"), tracker.track_substage("1.1_B", "b"):
                tracker.get_execution_summary(f"{number}-0")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert tracker.get_stage_statistics("1.0_A")["count"] == 2000
    assert tracker.get_stage_statistics("1.1_B")["count"] == 2000


def test_a_stage_that_ends_in_a_foreign_context_is_still_filed() -> None:
    tracker = ExecutionTracker()

    def generate() -> Generator[None, None, None]:
        with tracker.track_stage("1.0_A", "a", "c"):
            yield

    generator = generate()
    copy_context().run(next, generator)
    generator.close()

    assert tracker.get_execution_summary("c")["failed_stages"] == ["1.0_A"]


@pytest.mark.parametrize("settings", [{"sampling": 1.5}, {"sampling": -0.1}, {"max_threads": 0}, {"max_samples": 0}])
def test_impossible_bounds_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not"):
        ExecutionTracker(**settings)  # type: ignore[arg-type]  # floats on purpose


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("0.0_INITIALIZATION", True),
        ("2.1_L1_CACHE_LOOKUP", True),
        ("REDIS.1_CLIENT_INITIALIZATION", True),
        ("REDIS.GET_OPERATION", True),
        ("ET.2_STAGE_TRACKING", True),
        ("2.1", False),
        ("2.1_lower", False),
        ("MONITOR", False),
        ("", False),
    ],
)
def test_stage_names_are_checked_when_asked(text: str, right: bool) -> None:
    assert is_stage_id(text) is right


@settings(deadline=None)
@given(durations=st.lists(st.floats(0, 1000), min_size=1, max_size=60))
def test_percentiles_are_ordered_and_within_what_was_seen(durations: list[float]) -> None:
    clock = Hands()
    clock.now = 0.0
    tracker = ExecutionTracker(clock=clock)
    for duration in durations:
        clock.now = 0.0
        with tracker.track_stage("1.0_A", "a"):
            clock.now = duration
    told = tracker.get_stage_statistics("1.0_A")
    ladder = [told[key] or 0.0 for key in ("min_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms")]

    assert all(lower <= upper * (1 + 1e-9) for lower, upper in pairwise(ladder))
    assert told["min_ms"] == pytest.approx(min(durations) * 1000)
    assert told["max_ms"] == pytest.approx(max(durations) * 1000)
