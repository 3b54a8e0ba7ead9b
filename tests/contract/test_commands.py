"""What every Commands promises, asked of the real one with real programs, and the short of it of the fake as well."""

import asyncio
import ctypes
import gc
import logging
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

from x0tta6bl4.adapters.commands import LinuxCommands, _known_by
from x0tta6bl4.kernel.errors import StepFailed, StepRefused
from x0tta6bl4.ports.commands import CommandResult, Commands
from x0tta6bl4.testing.fakes import FOREVER, FakeCommands

SHELL = "/bin/sh"
LONG = 60.0
"""Seconds that no test waits for: the bound of those that must end by themselves."""


def run(*argv: str, timeout: float = LONG, **more: object) -> CommandResult:
    commands: Commands = LinuxCommands()
    return asyncio.run(commands.run(argv, timeout=timeout, **more))  # type: ignore[arg-type]  # keywords of a test


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not true():
            await asyncio.sleep(0.005)


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] != b"Z"


def test_a_program_ends_with_its_code_and_its_output() -> None:
    result = run(SHELL, "-c", "echo out; echo err >&2; exit 3")

    assert (result.code, result.output, result.truncated) == (3, "out\nerr\n", False)
    assert result.argv == (SHELL, "-c", "echo out; echo err >&2; exit 3")
    assert result.seconds > 0


def test_a_program_that_a_signal_ended_says_so() -> None:
    assert run(SHELL, "-c", "kill -9 $$").code == -signal.SIGKILL


@pytest.mark.parametrize("argv", [(), ("sh", "-c", "true"), ("./sh",), ("",), ("/bin/sh", "-c", "a\0b")])
def test_only_an_absolute_path_is_run(argv: tuple[str, ...]) -> None:
    with pytest.raises(StepRefused, match="not a command"):
        run(*argv)


def test_a_program_that_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run(str(tmp_path / "nothing"))


def test_the_words_reach_the_program_unchanged() -> None:
    assert run("/bin/echo", "a b", "$HOME", ";", "*").output == "a b $HOME ; *\n"


def test_the_environment_is_minimal_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    script = "import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))"

    assert run(sys.executable, "-c", script).output == "['LANG', 'PATH']\n"
    assert run(sys.executable, "-c", script, env={"MINE": "1"}).output == "['MINE']\n"


def test_input_arrives_whole_and_ends() -> None:
    text = b"line\n" * 100_000

    assert run("/usr/bin/wc", "-c", input=text).output.split() == [str(len(text))]
    assert run("/bin/cat").output == ""


def test_a_program_that_reads_no_input_does_no_harm() -> None:
    assert run("/bin/true", input=b"x" * 1_000_000).code == 0


def test_too_much_output_is_cut_without_blocking_the_program() -> None:
    result = run(SHELL, "-c", "yes | head -c 3000000; yes | head -c 3000000 >&2; exit 7", limit=1000)

    assert (result.code, len(result.output), result.truncated) == (7, 1000, True)


def test_output_at_the_limit_is_not_called_cut() -> None:
    assert not run(SHELL, "-c", "printf 12345", limit=5).truncated
    assert run(SHELL, "-c", "printf 123; printf 456 >&2", limit=5).output == "12345"


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert run(SHELL, "-c", r"printf 'a\377b'").output == "a\N{REPLACEMENT CHARACTER}b"


def test_a_timeout_ends_the_whole_tree(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    # The child is deaf to SIGTERM, and the one started by `set -m` is in a process group of its own.
    deaf = f"sh -c 'trap \"\" TERM; echo $$ >> {file}; while :; do sleep 1; done'"
    script = f"set -m; echo said; {deaf} & sleep 1000 & echo $! >> {file}; wait"

    async def time_out() -> CommandResult:
        commands = LinuxCommands()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(commands.run([SHELL, "-c", script], timeout=2.0))
            await until(lambda: file.exists() and len(file.read_text().split()) == 2)
        return running.result()

    result = asyncio.run(time_out())
    pids = [int(word) for word in file.read_text().split()]

    assert result.code is None
    assert result.output.startswith("said\n")
    assert len(pids) == 2
    # They were killed; nobody but the kernel can say when that has come to those that are not our children.
    asyncio.run(until(lambda: not any(map(is_alive, pids))))


def test_cancelling_ends_the_whole_tree_and_collects_it(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    script = f"trap '' TERM; sleep 1000 & echo $$ $! > {file}; wait; wait"

    async def cancel() -> None:
        task = asyncio.ensure_future(LinuxCommands().run([SHELL, "-c", script], timeout=LONG))
        await until(lambda: file.exists() and len(file.read_text().split()) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    main, child = (int(word) for word in file.read_text().split())

    assert not Path(f"/proc/{main}").exists()
    # It was killed with the others; nobody but the kernel can say when that has come to it.
    asyncio.run(until(lambda: not is_alive(child)))


def test_a_service_left_behind_does_not_hold_up_the_answer(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    result = run("/usr/bin/setsid", SHELL, "-c", f"sleep 1000 & echo $! > {file}; echo started")
    pid = int(file.read_text())
    try:
        assert (result.code, result.output, result.truncated) == (0, "started\n", True)
        assert is_alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_no_descriptor_stays_open() -> None:
    async def many() -> tuple[int, int]:
        commands, folder = LinuxCommands(), Path("/proc/self/fd")
        await commands.run(["/bin/true"], timeout=LONG)
        before = len(list(folder.iterdir()))
        await asyncio.gather(*(commands.run([SHELL, "-c", "cat; echo x"], timeout=LONG, input=b"y") for _ in range(10)))
        await commands.run(["/bin/sleep", "1000"], timeout=0.01)
        return before, len(list(folder.iterdir()))

    before, after = asyncio.run(many())

    assert before == after


# --- after the daemon was killed ---

DAEMON = """
import asyncio, sys
from pathlib import Path
from x0tta6bl4.adapters.commands import LinuxCommands
from x0tta6bl4.adapters.processes import LinuxProcesses
from x0tta6bl4.ports.processes import Program

async def main():
    state_dir, *scripts = sys.argv[1:]
    commands, processes = LinuxCommands(Path(state_dir)), LinuxProcesses(Path(state_dir))
    await processes.start(Program("cared-for", ("/bin/sleep", "1000")))
    print(processes.supervised("cared-for").pid, flush=True)
    for script in scripts:
        await commands.run(["/bin/sh", "-c", script], timeout=1000)

asyncio.run(main())
"""


class Killed:
    """A daemon that ran these scripts one after another, and was killed in the middle of the last one."""

    def __init__(self, folder: Path, *scripts: str) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.cared_for = 0
        self._argv = [sys.executable, "-c", DAEMON, str(self.state_dir), *scripts]

    @property
    def pids(self) -> list[int]:
        """The processes that the scripts have told of, each by a line of its own."""
        file = self.folder / "pids"
        return [int(word) for word in file.read_text().split()] if file.exists() else []

    @property
    def written(self) -> Path:
        """Where the daemon has written down what it runs."""
        (file,) = (self.state_dir / "commands").iterdir()
        return file

    def _has_written_down(self, script: int) -> bool:
        number = struct.pack("=Q", script)
        return any(file.read_bytes().startswith(number) for file in (self.state_dir / "commands").glob("*"))

    async def die(self, pids: int) -> None:
        """Once so many processes are told of; the last script's own number comes first of what it tells."""
        daemon = subprocess.Popen(self._argv, stdout=subprocess.PIPE, text=True)
        assert daemon.stdout is not None
        with daemon:
            try:
                self.cared_for = int(daemon.stdout.readline())
                await until(lambda: len(self.pids) == pids and any(map(self._has_written_down, self.pids)))
            finally:
                daemon.kill()

    def clear(self) -> None:
        for pid in filter(None, [*self.pids, self.cared_for]):
            if is_alive(pid):
                with suppress(ProcessLookupError):  # most lead a group, in which their children are
                    os.killpg(pid, signal.SIGKILL)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def killed(folder: Path, *scripts: str, pids: int) -> Iterator[Killed]:
    tell = f"tell() {{ echo $1 >> {folder / 'pids'}; }}; "
    daemon = Killed(folder, *(tell + script for script in scripts))
    try:
        asyncio.run(daemon.die(pids))
        yield daemon
    finally:
        daemon.clear()


TREE = (
    "trap '' TERM HUP; set -m; sleep 1000 & tell $!; set +m; "  # in a process group of its own
    "sh -c 'sleep 1000 & echo $!; wait' > child & tell $$; tell $!; while [ ! -s child ]; do :; done; "
    "tell $(cat child); wait; wait; wait"
)


def test_what_a_killed_daemon_was_running_is_gone_with_all_its_children_when_the_next_one_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with killed(tmp_path, TREE, pids=4) as daemon:
        before = [is_alive(pid) for pid in daemon.pids]
        asyncio.run(LinuxCommands(daemon.state_dir).end_left())

        assert before == [True] * 4, "SIGKILL of the daemon alone ends none of them"
        assert [is_alive(pid) for pid in daemon.pids] == [False] * 4
        assert list((daemon.state_dir / "commands").iterdir()) == []
        assert is_alive(daemon.cared_for), "a program in the daemon's care is to outlive it"


@pytest.fixture
def heir() -> Iterator[None]:
    """Orphans of what a test starts become its own children, whatever the machine's pid 1 does about them."""
    PR_SET_CHILD_SUBREAPER = 36
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.mark.usefixtures("heir")
def test_children_whose_program_has_ended_since_are_ended_too(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with killed(tmp_path, f"sleep 1000 & tell $$; tell $!; while [ ! -e {go} ]; do sleep 0.01; done", pids=2) as daemon:
        program, child = daemon.pids
        go.touch()
        os.waitpid(program, 0)
        before = is_alive(child)
        asyncio.run(LinuxCommands(daemon.state_dir).end_left())

        assert before
        assert not is_alive(child)


def test_what_a_command_left_behind_when_it_ended_is_not_touched(tmp_path: Path) -> None:
    service = "sleep 1000 > /dev/null 2>&1 & tell $!"
    with killed(tmp_path, service, "tell $$; sleep 1000", pids=2) as daemon:
        left_behind, program = daemon.pids
        asyncio.run(LinuxCommands(daemon.state_dir).end_left())

        assert is_alive(left_behind)
        assert not is_alive(program)


def test_the_first_command_of_the_next_life_ends_what_is_left_though_nobody_asks(tmp_path: Path) -> None:
    with killed(tmp_path, "tell $$; sleep 1000", pids=1) as daemon:
        asyncio.run(LinuxCommands(daemon.state_dir).run(["/bin/true"], timeout=LONG))

        asyncio.run(until(lambda: not is_alive(daemon.pids[0])))


def test_a_number_that_another_process_has_by_now_is_not_touched(tmp_path: Path) -> None:
    with killed(tmp_path, "tell $$; sleep 1000", pids=1) as daemon:
        file = daemon.written
        pid, started, _ = struct.unpack("=QQQ", file.read_bytes())
        file.write_bytes(struct.pack("=QQQ", pid, started + 1, 0))
        asyncio.run(LinuxCommands(daemon.state_dir).end_left())

        assert is_alive(daemon.pids[0])


@pytest.mark.parametrize(
    ("script", "earlier", "is_found"),
    [("", 0, True), ("", 50, True), ("as a script", 0, True), ("something else", 0, False), ("", 1000, False)],
)
def test_what_was_just_being_started_is_found_by_its_words_and_its_time(
    tmp_path: Path, script: str, earlier: int, is_found: bool
) -> None:
    with killed(tmp_path, "tell $$; sleep 1000", pids=1) as daemon:
        (program,) = daemon.pids
        words = Path(f"/proc/{program}/cmdline").read_bytes().removesuffix(b"\0").split(b"\0")
        asked = {"": words, "as a script": words[1:], "something else": [*words, b"x"]}[script]
        file = daemon.written
        _, started, _ = struct.unpack("=QQQ", file.read_bytes())
        file.write_bytes(struct.pack("=QQQ", 0, started - earlier, _known_by(asked)))
        asyncio.run(LinuxCommands(daemon.state_dir).end_left())

        assert is_alive(program) is not is_found


def test_what_was_written_down_before_a_boot_is_not_touched_and_forgotten(tmp_path: Path) -> None:
    with killed(tmp_path, "tell $$; sleep 1000", pids=1) as daemon:
        file = daemon.written
        file.rename(file.with_name("00000000-0000-0000-0000-000000000000-1-0"))
        asyncio.run(LinuxCommands(daemon.state_dir).end_left())

        assert is_alive(daemon.pids[0])
        assert list((daemon.state_dir / "commands").iterdir()) == []


def test_what_runs_in_this_life_goes_on_also_when_another_loop_of_it_asks(tmp_path: Path) -> None:
    go = tmp_path / "go"

    async def ask() -> CommandResult:
        before_reload, after_reload = LinuxCommands(tmp_path), LinuxCommands(tmp_path)
        script = f"while [ ! -e {go} ]; do sleep 0.01; done; echo whole"
        async with asyncio.TaskGroup() as group:
            running = group.create_task(before_reload.run([SHELL, "-c", script], timeout=LONG))
            await asyncio.sleep(0)
            await after_reload.run(["/bin/true"], timeout=LONG)
            await before_reload.end_left()
            await after_reload.end_left()
            go.touch()
        return running.result()

    result = asyncio.run(ask())
    gc.collect()

    assert (result.code, result.output) == (0, "whole\n")
    assert list((tmp_path / "commands").iterdir()) == []


def test_the_same_words_begun_by_this_life_are_not_taken_for_an_earlier_ones(tmp_path: Path) -> None:
    async def ask() -> CommandResult:
        commands = LinuxCommands(tmp_path)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(commands.run(["/bin/sleep", "0.3"], timeout=LONG))
            await asyncio.sleep(0)
            (file,) = (tmp_path / "commands").iterdir()
            _, started, _ = struct.unpack("=QQQ", file.read_bytes())
            earlier = file.with_name(file.name.rpartition("-")[0] + "-earlier")
            earlier.write_bytes(struct.pack("=QQQ", 0, started, _known_by([b"/bin/sleep", b"0.3"])))
            await commands.end_left()
        return running.result()

    assert asyncio.run(ask()).code == 0


def test_a_command_that_has_ended_is_over_though_what_it_left_behind_holds_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("x0tta6bl4.adapters.commands._LINGER", LONG)
    pid = tmp_path / "pid"

    async def ask() -> None:
        script = f"sleep 1000 & echo $! > {pid}"
        running = asyncio.ensure_future(LinuxCommands(tmp_path).run([SHELL, "-c", script], timeout=LONG))
        await asyncio.sleep(0)
        (file,) = (tmp_path / "commands").iterdir()
        assert file.read_bytes().strip(b"\0")
        await until(lambda: not file.read_bytes().strip(b"\0"))
        assert not running.done()
        os.kill(int(pid.read_text()), signal.SIGKILL)
        await running

    asyncio.run(ask())


def test_commands_that_ended_leave_nothing_written_down(tmp_path: Path) -> None:
    async def several() -> bytes:
        commands = LinuxCommands(tmp_path)
        await asyncio.gather(*(commands.run(["/bin/true"], timeout=LONG) for _ in range(5)))
        await commands.run(["/bin/sleep", "1000"], timeout=0.01)
        (file,) = (tmp_path / "commands").iterdir()
        return file.read_bytes()

    assert asyncio.run(several()).strip(b"\0") == b""


def test_a_folder_that_cannot_be_written_stops_no_command_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("in the way")

    async def twice() -> list[int | None]:
        commands = LinuxCommands(tmp_path / "state")
        return [(await commands.run(["/bin/true"], timeout=LONG)).code for _ in range(2)]

    with caplog.at_level(logging.WARNING):
        codes = asyncio.run(twice())

    assert codes == [0, 0]
    assert len(caplog.records) == 1


def test_what_cannot_be_ended_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    with killed(tmp_path, "tell $$; sleep 1000", pids=1) as daemon, monkeypatch.context() as patched:
        patched.setattr("x0tta6bl4.adapters.commands._KILL_WAIT", 0.05)
        patched.setattr(os, "kill", refuse)
        with pytest.raises(StepFailed, match=str(daemon.pids[0])):
            asyncio.run(LinuxCommands(daemon.state_dir).end_left())


# --- promises that the fake keeps too ---


class Bench(Protocol):
    """Makes the world do for either implementation what a test needs."""

    subject: Commands

    def program(self, name: str, *, code: int = 0, output: str = "", hangs: bool = False) -> str:
        """The path of a program that ends so, whatever it is told; or never."""
        ...

    async def until_begun(self, program: str) -> None: ...


class FakeBench:
    def __init__(self, folder: Path) -> None:
        self.fake = FakeCommands()
        self.subject: Commands = self.fake

    def program(self, name: str, *, code: int = 0, output: str = "", hangs: bool = False) -> str:
        path = f"/opt/{name}"
        self.fake.answer(path, code=code, output=output, seconds=FOREVER if hangs else 0.0)
        return path

    async def until_begun(self, program: str) -> None:
        await until(lambda: any(argv[0] == program for argv in self.fake.ran))


class RealBench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.subject: Commands = LinuxCommands()

    def program(self, name: str, *, code: int = 0, output: str = "", hangs: bool = False) -> str:
        path = self.folder / name
        path.with_suffix(".says").write_text(output)
        end = "exec sleep 1000" if hangs else f"cat {path}.says; exit {code}"
        path.write_text(f"#!/bin/sh\n: > {path}.begun\n{end}\n")
        path.chmod(0o755)
        return str(path)

    async def until_begun(self, program: str) -> None:
        await until(Path(f"{program}.begun").exists)


Scenario = Callable[[Bench], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=[RealBench, FakeBench], ids=["linux", "fake"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    return lambda scenario: asyncio.run(scenario(request.param(tmp_path)))


def test_either_tells_how_a_program_ended_and_what_it_said(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        good, bad = bench.program("good", output="fine\n"), bench.program("bad", code=3, output="no: é\n")
        results = [await bench.subject.run([path, "-x", "a b"], timeout=LONG) for path in (good, bad)]

        assert [(r.argv, r.code, r.output, r.truncated) for r in results] == [
            ((good, "-x", "a b"), 0, "fine\n", False),
            ((bad, "-x", "a b"), 3, "no: é\n", False),
        ]
        assert all(r.seconds >= 0 for r in results)

    play(scenario)


def test_either_cuts_output_at_the_limit_and_says_so(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        path = bench.program("long", output="12345é")
        results = [await bench.subject.run([path], timeout=LONG, limit=limit) for limit in (5, 6, 7)]

        assert [(r.output, r.truncated, r.code) for r in results] == [
            ("12345", True, 0),
            ("12345\N{REPLACEMENT CHARACTER}", True, 0),
            ("12345é", False, 0),
        ]

    play(scenario)


def test_either_has_no_code_for_what_ran_out_of_time(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        result = await bench.subject.run([bench.program("hangs", hangs=True)], timeout=0.02)

        assert result.code is None
        assert result.seconds >= 0.02

    play(scenario)


def test_either_passes_cancellation_on_and_runs_the_next_program(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        hangs, fine = bench.program("hangs", hangs=True), bench.program("fine", output="x")
        running = asyncio.ensure_future(bench.subject.run([hangs], timeout=LONG))
        await bench.until_begun(hangs)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        assert (await bench.subject.run([fine], timeout=LONG)).output == "x"

    play(scenario)


def test_either_runs_only_absolute_paths_that_are_there(play: Play, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        fine = bench.program("fine")
        argvs: list[list[str]] = [[], [""], ["sh", "-c", "true"], ["./sh"], [fine, "a\0b"]]
        for argv in argvs:
            with pytest.raises(StepRefused, match="not a command"):
                await bench.subject.run(argv, timeout=LONG)
        with pytest.raises(OSError, match="nothing"):
            await bench.subject.run([str(tmp_path / "nothing")], timeout=LONG)

    play(scenario)


def test_either_keeps_the_answers_of_many_programs_apart(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        paths = [bench.program(f"p{number}", code=number, output=f"{number}") for number in range(5)]
        results = await asyncio.gather(*(bench.subject.run([path], timeout=LONG) for path in paths))

        assert [(r.code, r.output) for r in results] == [(number, f"{number}") for number in range(5)]

    play(scenario)
