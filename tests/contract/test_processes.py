"""What every implementation of the processes port promises, asked of the real one and of its fake alike."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from x0tta6bl4.adapters.processes import LinuxProcesses
from x0tta6bl4.kernel.errors import StepRefused
from x0tta6bl4.ports.processes import Processes, ProcessId, Program
from x0tta6bl4.testing.fake_processes import FakeProcesses

PATIENCE = 30.0
"""Seconds after which a test fails instead of hanging; nothing is measured with it."""
_FOREVER = "import time; time.sleep(600)"
_DEAF = (
    "import signal, time, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);print('deaf', flush=True); time.sleep(600)"
)


class Subject(Processes, Protocol):
    def exit_of(self, name: str) -> tuple[int | None, float] | None: ...

    def close(self) -> None: ...


class Bench(Protocol):
    """Makes the world do for either implementation what a test needs."""

    subject: Subject

    def program(self, name: str, *, deaf: bool = False) -> Program: ...

    async def until_ready(self, name: str) -> None:
        """A deaf program is deaf from here on."""
        ...

    def foreign(self, command_word: str, pid_file: str | None = None) -> ProcessId: ...

    def write_pid_file(self, path: str, text: str) -> None: ...

    def succeed(self) -> None:
        """The daemon is gone without a word; its successor's processes port is the subject now."""
        ...

    async def tidy(self) -> None: ...


class FakeBench:
    def __init__(self, folder: Path) -> None:
        self.fake = FakeProcesses()
        self.subject: Subject = self.fake

    def program(self, name: str, *, deaf: bool = False) -> Program:
        if deaf:
            self.fake.hang_from_start(name)
        return Program(name, (sys.executable, "-c", _FOREVER))

    async def until_ready(self, name: str) -> None:
        self.fake.write_output(name, "deaf")

    def foreign(self, command_word: str, pid_file: str | None = None) -> ProcessId:
        return self.fake.add(f"python {command_word}", pid_file=pid_file)

    def write_pid_file(self, path: str, text: str) -> None:
        self.fake.write_pid_file(path, text)

    def succeed(self) -> None:
        self.fake.close()
        self.fake = self.fake.successor()
        self.subject = self.fake

    async def tidy(self) -> None:
        pass


class RealBench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.subject: Subject = LinuxProcesses(folder)
        self.names: set[str] = set()
        self.others: list[subprocess.Popen[bytes]] = []

    def program(self, name: str, *, deaf: bool = False) -> Program:
        self.names.add(name)
        return Program(name, (sys.executable, "-c", _DEAF if deaf else _FOREVER))

    async def until_ready(self, name: str) -> None:
        while not await self.subject.last_output(name, 1):
            await asyncio.sleep(0.005)

    def foreign(self, command_word: str, pid_file: str | None = None) -> ProcessId:
        child = subprocess.Popen([sys.executable, "-c", _FOREVER, command_word])
        self.others.append(child)
        if pid_file is not None:
            Path(pid_file).write_text(f"{child.pid}\n")
        stat = Path(f"/proc/{child.pid}/stat").read_text()
        return ProcessId(child.pid, int(stat.rpartition(")")[2].split()[19]))

    def write_pid_file(self, path: str, text: str) -> None:
        Path(path).write_text(text)

    def succeed(self) -> None:
        self.subject.close()
        self.subject = LinuxProcesses(self.folder)

    async def tidy(self) -> None:
        for name in self.names:
            await self.subject.stop(name, 0.0)
        self.subject.close()
        for child in self.others:
            child.kill()
            child.wait()


Scenario = Callable[[Bench], Awaitable[None]]


@pytest.fixture(params=[RealBench, FakeBench], ids=["linux", "fake"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Scenario], None]:
    async def whole(scenario: Scenario) -> None:
        bench = request.param(tmp_path)
        try:
            async with asyncio.timeout(PATIENCE):
                await scenario(bench)
        finally:
            await bench.tidy()

    return lambda scenario: asyncio.run(whole(scenario))


Play = Callable[[Scenario], None]


def test_a_started_program_is_supervised_and_can_be_read(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        process = await bench.subject.start(bench.program("web"))
        reading = await bench.subject.read(process)

        assert process == bench.subject.supervised("web")
        assert reading is not None
        assert process == reading.id
        assert reading.threads >= 1
        assert reading.age >= 0.0
        assert reading.zombies == 0
        assert process == await bench.subject.find_by_pid(process.pid)

    play(scenario)


def test_a_running_program_is_not_started_again(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        program = bench.program("web")
        first = await bench.subject.start(program)

        assert first == await bench.subject.start(program)

    play(scenario)


def test_starts_at_the_same_time_make_one_process(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        program = bench.program("web")
        ids: Sequence[ProcessId] = await asyncio.gather(*(bench.subject.start(program) for _ in range(5)))

        assert len(set(ids)) == 1

    play(scenario)


def test_a_start_waits_for_the_stop_that_came_before_it(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        program = bench.program("web")
        old = await bench.subject.start(program)
        stopped, new = await asyncio.gather(bench.subject.stop("web", 5.0), bench.subject.start(program))

        assert stopped
        assert old != new
        assert new == bench.subject.supervised("web")
        assert await bench.subject.read(old) is None

    play(scenario)


def test_a_death_is_told_once_and_nothing_remains_of_the_process(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        process = await bench.subject.start(bench.program("web"))
        told: list[str] = []
        ended = asyncio.Event()

        def on_exit() -> None:
            told.append("ended")
            ended.set()

        bench.subject.watch_exit(process, on_exit)
        killed = await bench.subject.kill(process, signal.SIGKILL)
        await ended.wait()
        await asyncio.sleep(0)

        assert killed
        assert told == ["ended"]
        assert bench.subject.supervised("web") is None
        assert await bench.subject.read(process) is None
        assert await bench.subject.find_by_pid(process.pid) is None
        ending = bench.subject.exit_of("web")
        assert ending is not None
        assert ending[0] == -signal.SIGKILL

    play(scenario)


def test_a_death_before_the_watching_is_told_too(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        process = await bench.subject.start(bench.program("web"))
        await bench.subject.stop("web", 5.0)
        ended = asyncio.Event()
        bench.subject.watch_exit(process, ended.set)
        was_told_within_the_call = ended.is_set()
        await ended.wait()

        assert not was_told_within_the_call

    play(scenario)


def test_a_closed_watch_is_silent_and_its_sibling_is_not(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        process = await bench.subject.start(bench.program("web"))
        told: list[str] = []
        ended = asyncio.Event()
        closed = bench.subject.watch_exit(process, lambda: told.append("closed"))
        bench.subject.watch_exit(process, ended.set)
        closed.close()
        closed.close()
        await bench.subject.stop("web", 5.0)
        await ended.wait()
        late = bench.subject.watch_exit(process, lambda: told.append("late"))
        late.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        assert told == []

    play(scenario)


def test_what_does_not_run_cannot_be_stopped_or_signalled(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        process = await bench.subject.start(bench.program("web"))

        assert await bench.subject.stop("web", 5.0)
        assert not await bench.subject.stop("web", 5.0)
        assert not await bench.subject.stop("never-started", 0.0)
        assert not await bench.subject.signal("web", signal.SIGTERM)
        assert not await bench.subject.kill(process, signal.SIGTERM)
        assert bench.subject.exit_of("never-started") is None

    play(scenario)


def test_who_ignores_the_polite_signal_gets_the_other(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        process = await bench.subject.start(bench.program("web", deaf=True))
        await bench.until_ready("web")

        assert await bench.subject.signal("web", signal.SIGTERM)
        assert process == bench.subject.supervised("web")
        assert await bench.subject.stop("web", 0.05)
        ending = bench.subject.exit_of("web")
        assert ending is not None
        assert ending[0] == -signal.SIGKILL

    play(scenario)


def test_a_pid_with_another_start_time_is_another_process(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        process = await bench.subject.start(bench.program("web"))
        former = ProcessId(process.pid, process.started - 1)
        told = asyncio.Event()
        bench.subject.watch_exit(former, told.set)
        await told.wait()

        assert await bench.subject.read(former) is None
        assert not await bench.subject.kill(former, signal.SIGKILL)
        assert process == bench.subject.supervised("web")

    play(scenario)


def test_the_successor_takes_up_what_still_runs_and_nothing_else(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        running, dead, absent = (bench.program(name) for name in ("running", "dead", "absent"))
        process = await bench.subject.start(running)
        await bench.subject.start(dead)
        await bench.subject.stop("dead", 5.0)
        bench.succeed()
        adopted = await bench.subject.adopt([running, dead, absent])

        assert {"running": process} == dict(adopted)
        assert process == bench.subject.supervised("running")
        assert process == await bench.subject.start(running)
        assert await bench.subject.stop("running", 5.0)
        assert await bench.subject.read(process) is None

    play(scenario)


def test_a_successor_that_did_not_adopt_still_starts_no_second_copy(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        program = bench.program("web")
        process = await bench.subject.start(program)
        bench.succeed()

        assert process == await bench.subject.start(program)

    play(scenario)


def test_a_relative_path_is_refused_with_its_value(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        with pytest.raises(StepRefused, match="sleep"):
            await bench.subject.start(Program("web", ("sleep", "1")))

        assert bench.subject.supervised("web") is None

    play(scenario)


def test_processes_are_found_by_command_oldest_first(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        word = f"needle-{os.getpid()}"
        ids = [bench.foreign(f"{word}-a"), bench.foreign(f"{word}-b")]

        assert sorted(ids, key=lambda one: (one.started, one.pid)) == list(
            await bench.subject.find_by_command(f"{word}-[ab]$")
        )
        assert list(await bench.subject.find_by_command(f"{word}-c")) == []

    play(scenario)


def test_a_pid_file_names_a_live_process_or_nothing(play: Play, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        good, bad = str(tmp_path / "good.pid"), str(tmp_path / "bad.pid")
        process = bench.foreign("anything", good)

        assert process == await bench.subject.find_by_pid_file(good)
        assert await bench.subject.find_by_pid_file(str(tmp_path / "missing.pid")) is None
        for text in ("", "\n", "nonsense", "-1", "0", "4194305", "9" * 60, f"{process.pid}x"):
            bench.write_pid_file(bad, text)
            assert await bench.subject.find_by_pid_file(bad) is None, text

    play(scenario)


def test_output_of_an_unknown_program_is_empty(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.subject.start(bench.program("web", deaf=True))
        await bench.until_ready("web")

        assert list(await bench.subject.last_output("never-started", 10)) == []
        assert list(await bench.subject.last_output("web", 10)) == ["deaf"]
        assert list(await bench.subject.last_output("web", 0)) == []

    play(scenario)


def test_a_process_that_becomes_another_program_is_never_taken_for_gone(tmp_path: Path) -> None:
    script = tmp_path / "again"
    script.write_text('#!/bin/sh\nexec "$0"\n')
    script.chmod(0o755)
    child = subprocess.Popen([str(script)])
    subject = LinuxProcesses(tmp_path)
    try:
        found = [asyncio.run(subject.find_by_command(re.escape(str(script)))) for _ in range(200)]
    finally:
        subject.close()
        child.kill()
        child.wait()

    assert {tuple(one.pid for one in each) for each in found} == {(child.pid,)}
