"""The process monitor: on scripted processes in virtual time, and on a real child."""

import asyncio
import os
import signal
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from x0tta6bl4.adapters.processes import LinuxProcesses
from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Observation, Occurrence
from x0tta6bl4.monitors.process import PLUGIN, Config, ProcessMonitor
from x0tta6bl4.ports.processes import ProcessId, Program
from x0tta6bl4.ports.units import Unit
from x0tta6bl4.testing.fake_processes import FakeProcesses
from x0tta6bl4.testing.fakes import RUNNING, STOPPED, FakeClock, FakeUnits, tools
from x0tta6bl4.testing.virtual_time import LoopClock, run

API = Program("api", ("/usr/bin/api",))


class CountingProcesses(FakeProcesses):
    def __init__(self) -> None:
        super().__init__()
        self.searches = 0

    async def find_by_command(self, pattern: str) -> Sequence[ProcessId]:
        self.searches += 1
        return await super().find_by_command(pattern)


class CountingUnits(FakeUnits):
    def __init__(self) -> None:
        super().__init__()
        self.questions = 0

    async def show(self, names: Sequence[str]) -> Mapping[str, Unit]:
        self.questions += 1
        return await super().show(names)


def monitor(processes: Any, units: FakeUnits | None = None, clock: Any = None, **settings: Any) -> ProcessMonitor:
    config = Config(subject="api", **settings)
    given = tools(clock=clock or LoopClock(), processes=processes, units=units or FakeUnits())
    built = PLUGIN.build("p", config, given)
    assert isinstance(built, ProcessMonitor)
    return built


def numbers(seen: Sequence[Observation]) -> dict[str, float]:
    return {observation.metric: observation.value for observation in seen}


def up(seen: Sequence[Observation]) -> tuple[float, str]:
    (found,) = (o for o in seen if o.metric == "process_up")
    return found.value, found.detail


def test_it_reports_what_a_process_uses() -> None:
    async def scene() -> None:
        processes = FakeProcesses()
        process = await processes.start(API)
        processes.set_reading(process, rss=50 << 20, fds=7, fd_limit=512, threads=3, cpu_seconds=1.5, zombies=2)
        await asyncio.sleep(10)

        seen = await monitor(processes, program="api").observe()

        assert numbers(seen) == {
            "process_up": 1,
            "process_rss_bytes": 50 << 20,
            "process_fds": 7,
            "process_fds_limit": 512,
            "process_fds_ratio": 7 / 512,
            "process_threads": 3,
            "process_cpu_seconds": 1.5,
            "process_age_seconds": 10,
            "process_zombies": 2,
            "process_stopped": 0,
        }
        assert up(seen) == (1, f"pid {process.pid}")
        assert {(o.source, o.subject) for o in seen} == {("p", "api")}

    run(scene())


def test_descriptors_that_cannot_be_counted_are_left_out() -> None:
    async def scene() -> None:
        class Blind(FakeProcesses):
            async def read(self, process: ProcessId) -> Any:
                reading = await super().read(process)
                assert reading is not None
                return type(reading)(process, "S", 1.0, 1, None, None, 1, 0.0, 0)

        processes = Blind()
        await processes.start(API)

        seen = numbers(await monitor(processes, program="api").observe())

        assert {"process_fds", "process_fds_limit"}.isdisjoint(seen)
        assert seen["process_up"] == 1

    run(scene())


def test_its_share_of_the_cpu_is_measured_between_two_looks_and_anew_for_a_new_process() -> None:
    async def scene() -> None:
        processes = FakeProcesses()
        process = await processes.start(API)
        processes.set_reading(process, cpu_seconds=100.0)
        watched = monitor(processes, program="api")

        assert "process_busy" not in numbers(await watched.observe())
        await asyncio.sleep(0.5)
        processes.set_reading(process, cpu_seconds=100.75)
        assert numbers(await watched.observe())["process_busy"] == pytest.approx(1.5)
        await asyncio.sleep(0.01)
        assert "process_busy" not in numbers(await watched.observe()), "10 ms are too short to measure in"

        processes.die(process)
        successor = await processes.start(API)
        processes.set_reading(successor, cpu_seconds=200.0)
        await asyncio.sleep(5)
        assert "process_busy" not in numbers(await watched.observe())

    run(scene())


def test_a_stopped_process_is_up_and_stopped() -> None:
    async def scene() -> None:
        processes = FakeProcesses()
        process = await processes.start(API)
        await processes.kill(process, signal.SIGSTOP)

        seen = numbers(await monitor(processes, program="api").observe())

        assert (seen["process_up"], seen["process_stopped"]) == (1, 1)

    run(scene())


@pytest.mark.parametrize(("code", "words"), [(3, "exited with 3"), (-9, "was killed by SIGKILL"), (-50, "signal 50")])
def test_how_a_program_ended_stands_beside_the_no(code: int, words: str) -> None:
    async def scene() -> None:
        processes = FakeProcesses()
        process = await processes.start(API)
        watched = monitor(processes, program="api")
        await watched.observe()
        processes.die(process, code)

        (no,) = await watched.observe()

        assert (no.metric, no.value) == ("process_up", 0)
        assert no.detail.startswith("no process: ") and words in no.detail

    run(scene())


def test_a_program_that_never_ran_is_down_and_nothing_is_made_up_about_it() -> None:
    (no,) = run(monitor(FakeProcesses(), program="api").observe())

    assert (no.metric, no.value, no.detail) == ("process_up", 0, "no process: it does not run in our care")


def test_a_pid_file_without_a_live_process_says_so() -> None:
    (no,) = run(monitor(FakeProcesses(), pid_file="/run/api.pid").observe())

    assert (no.value, no.detail) == (0, "pid file /run/api.pid names no live process")


def test_a_successor_in_the_pid_file_is_followed_although_the_old_process_lives() -> None:
    async def scene() -> None:
        processes = FakeProcesses()
        old = processes.add("api", pid_file="/run/api.pid")
        watched = monitor(processes, pid_file="/run/api.pid")
        assert up(await watched.observe()) == (1, f"pid {old.pid}")
        new = processes.add("api --takes-over", pid_file="/run/api.pid")

        await asyncio.sleep(5)

        assert up(await watched.observe()) == (1, f"pid {new.pid}")

    run(scene())


def test_a_search_by_command_line_is_made_seldom_and_silent_in_between() -> None:
    """Each walks all of /proc; between two of them there is nothing new to tell."""

    async def scene() -> None:
        processes = CountingProcesses()
        watched = monitor(processes, match="api --serve")
        assert up(await watched.observe())[0] == 0
        process = processes.add("/usr/bin/api --serve")
        for _ in range(9):
            await asyncio.sleep(0.5)
            assert await watched.observe() == ()
        await asyncio.sleep(0.5)
        assert up(await watched.observe()) == (1, f"pid {process.pid}")
        for _ in range(100):
            await asyncio.sleep(0.5)
            await watched.observe()
        assert processes.searches == 2, "a process that lives is not searched for again"

        processes.die(process)
        assert up(await watched.observe())[0] == 0, "its end is news at once"

    run(scene())


def test_the_oldest_of_several_matches_counts() -> None:
    async def scene() -> None:
        processes = FakeProcesses()
        oldest = processes.add("api --serve")
        processes.add("api --serve --worker")

        assert up(await monitor(processes, match="api").observe()) == (1, f"pid {oldest.pid}")

    run(scene())


def test_systemd_is_asked_for_a_main_process_only_while_there_is_none_and_once_a_second() -> None:
    async def scene() -> None:
        processes, units = FakeProcesses(), CountingUnits()
        units.add("api.service", STOPPED, result="exit-code", active_state="failed", sub_state="failed")
        watched = monitor(processes, units, unit="api.service")
        assert up(await watched.observe()) == (0, "no process: api.service is failed (failed), result exit-code")
        await asyncio.sleep(0.5)
        assert await watched.observe() == ()
        process = processes.add("api")
        units.add("api.service", RUNNING, main_pid=process.pid)
        for _ in range(20):
            await asyncio.sleep(0.5)
            seen = await watched.observe()
        assert up(seen) == (1, f"pid {process.pid}")
        assert units.questions == 2

    run(scene())


@pytest.mark.parametrize("state", [{}, {"api.service": RUNNING}])
def test_a_unit_that_has_no_main_process_to_look_at_is_blindness_and_no_death(state: Mapping[str, Unit]) -> None:
    units = FakeUnits()
    for name, unit in state.items():
        units.add(name, unit, main_pid=0, sub_state="exited")

    with pytest.raises(ProbeFailed):
        run(monitor(FakeProcesses(), units, unit="api.service").observe())


async def watching(watched: ProcessMonitor, scene: Coroutine[Any, Any, None], told: list[Occurrence]) -> None:
    task = asyncio.create_task(watched.watch(told.append))
    try:
        await scene
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()


def test_the_end_of_a_process_is_told_the_moment_it_comes_and_that_of_the_next_one_too() -> None:
    processes = FakeProcesses()
    watched = monitor(processes, program="api")
    told: list[Occurrence] = []

    async def scene() -> None:
        for number in (1, 2):
            process = await processes.start(API)
            await watched.observe()
            await asyncio.sleep(1)
            processes.die(process, number)
            died = asyncio.get_running_loop().time()
            while len(told) < number:
                await asyncio.sleep(0)
            occurrence = told[-1]
            assert occurrence.at == died, "no look was needed"
            assert (occurrence.source, occurrence.subject, occurrence.kind) == ("p", "api", "process ended")
            assert occurrence.detail == f"pid {process.pid} exited with {number}"
            assert numbers(occurrence.observations) == {"process_up": 0}
        await asyncio.sleep(10)

    run(watching(watched, scene(), told))
    assert len(told) == 2


def test_the_late_news_of_an_end_does_not_call_the_next_process_down() -> None:
    processes = FakeProcesses()
    watched = monitor(processes, program="api")
    told: list[Occurrence] = []

    async def scene() -> None:
        process = await processes.start(API)
        await watched.observe()
        await asyncio.sleep(1)
        processes.die(process)
        await asyncio.gather(processes.start(API), watched.observe())
        await asyncio.sleep(1)
        assert up(await watched.observe())[0] == 1

    run(watching(watched, scene(), told))
    assert [numbers(o.observations) for o in told] in ([], [{}])


@pytest.mark.parametrize("settings", [{}, {"program": "api", "match": "api"}, {"match": "("}, {"pid_file": "api.pid"}])
def test_a_configuration_that_names_not_exactly_one_usable_source_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config(subject="api", **settings)


def test_the_end_of_a_real_process_is_told_with_its_signal(tmp_path: Path) -> None:
    async def scene() -> None:
        processes = LinuxProcesses(tmp_path)
        process = await processes.start(Program("api", ("/bin/sleep", "600"), on_exit="stop"))
        told: asyncio.Queue[Occurrence] = asyncio.Queue()
        watched = monitor(processes, clock=FakeClock(), program="api")
        task = asyncio.create_task(watched.watch(told.put_nowait))
        try:
            seen = numbers(await watched.observe())
            assert seen["process_up"] == 1 and seen["process_rss_bytes"] > 0 and seen["process_fds"] >= 3

            os.kill(process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            assert numbers(await watched.observe())["process_stopped"] == 1

            os.kill(process.pid, signal.SIGKILL)
            async with asyncio.timeout(30):
                occurrence = await told.get()
            assert occurrence.detail == f"pid {process.pid} was killed by SIGKILL"
            assert up(await watched.observe()) == (0, "no process: was killed by SIGKILL")
        finally:
            task.cancel()
            await asyncio.wait([task])
            await processes.stop("api", 0.0)

    asyncio.run(scene())
