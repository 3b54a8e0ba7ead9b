"""How the real processes adapter treats what misbehaves: runaways, deaf trees, floods, crashes of the daemon itself."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from x0tta6bl4.adapters.processes import LinuxProcesses
from x0tta6bl4.kernel.errors import ProbeFailed, StepFailed, StepRefused
from x0tta6bl4.ports.processes import ProcessId, Program

PATIENCE = 30.0
_DEAF = "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
_READY = "print('ready', os.getpid(), flush=True)\ntime.sleep(600)\n"


def python(name: str, code: str, **more: object) -> Program:
    return Program(name, (sys.executable, "-c", code), **more)  # type: ignore[arg-type]  # a test's shorthand


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await scenario()

    asyncio.run(bounded())


async def lines_of(subject: LinuxProcesses, name: str, count: int) -> list[str]:
    while len(lines := list(await subject.last_output(name, 1000))) < count:
        await asyncio.sleep(0.005)
    return lines


async def pids_from(subject: LinuxProcesses, name: str, count: int) -> list[int]:
    return [int(line.split()[1]) for line in await lines_of(subject, name, count)]


def is_there(pid: int) -> bool:
    """Alive, or dead and not collected by whoever should: init collects orphans when it gets to it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def our_children() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_tree_that_ignores_sigterm_is_killed_to_the_last(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        await subject.start(python("tree", _DEAF + "os.fork(); os.fork()\n" + _READY))
        pids = await pids_from(subject, "tree", 4)

        assert await subject.stop("tree", 0.05)
        assert [pid for pid in pids if is_there(pid)] == []
        assert (subject.exit_of("tree") or (None,))[0] == (-signal.SIGKILL)

    play(scenario)


def test_a_runaway_in_a_session_of_its_own_is_stopped_with_its_program(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        code = "import os, time\nif os.fork() == 0:\n os.setsid()\n if os.fork(): os._exit(0)\n" + _READY
        await subject.start(python("runaway", code))
        pids = await pids_from(subject, "runaway", 2)

        assert await subject.stop("runaway", 10.0)
        assert [pid for pid in pids if is_there(pid)] == []

    play(scenario)


def test_a_runaway_is_stopped_also_after_its_program_died(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        code = "import os, sys, time\nif os.fork(): sys.exit(3)\nos.setsid()\n" + _READY
        process = await subject.start(python("runaway", code))
        ended = asyncio.Event()
        subject.watch_exit(process, ended.set)
        await ended.wait()
        (pid,) = await pids_from(subject, "runaway", 1)

        assert subject.supervised("runaway") is None
        assert (subject.exit_of("runaway") or (None,))[0] == 3
        assert await subject.stop("runaway", 10.0)
        assert not is_there(pid)
        assert not await subject.stop("runaway", 10.0)

    play(scenario)


def test_a_worker_that_overwrote_its_environment_is_found_by_its_session(tmp_path: Path) -> None:
    """Servers that set their process title write over the environment; an exec with an empty one looks the same."""

    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        worker = "import os, time; print('ready', os.getpid(), flush=True); time.sleep(600)"
        code = (
            "import os, sys\nif os.fork(): sys.exit(0)\n"
            f"os.execve(sys.executable, [sys.executable, '-c', {worker!r}], {{}})"
        )
        await subject.start(python("pool", code))
        (pid,) = await pids_from(subject, "pool", 1)
        while subject.supervised("pool") is not None:
            await asyncio.sleep(0.005)

        assert await subject.stop("pool", 10.0)
        assert not is_there(pid)

    play(scenario)


def test_a_stopped_process_ends_by_sigterm(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        process = await subject.start(python("frozen", "import os, time\n" + _READY))
        await lines_of(subject, "frozen", 1)
        await subject.signal("frozen", signal.SIGSTOP)
        while (reading := await subject.read(process)) is not None and reading.state != "T":
            await asyncio.sleep(0.005)

        assert reading is not None
        assert await subject.stop("frozen", PATIENCE)
        assert (subject.exit_of("frozen") or (None,))[0] == (-signal.SIGTERM)

    play(scenario)


def test_another_daemons_program_of_the_same_name_is_left_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        ours, theirs = LinuxProcesses(tmp_path / "ours"), LinuxProcesses(tmp_path / "theirs")
        program = python("web", "import os, time\n" + _READY)
        their_process = await theirs.start(program)
        our_process = await ours.start(program)

        assert their_process != our_process
        assert await ours.stop("web", 10.0)
        assert not await ours.stop("web", 0.0)
        assert their_process == theirs.supervised("web")
        assert await theirs.stop("web", 10.0)

    play(scenario)


def test_a_dead_child_is_collected_though_nobody_asks(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        process = await subject.start(python("brief", "raise SystemExit(7)"))
        while process.pid in our_children():
            await asyncio.sleep(0.005)

        assert (subject.exit_of("brief") or (None,))[0] == 7

    play(scenario)


def test_asyncios_own_children_keep_their_exit_status(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        other = await asyncio.create_subprocess_exec(sys.executable, "-c", "import sys; sys.stdin.read(); sys.exit(5)",
                                                     stdin=subprocess.PIPE)  # fmt: skip
        await subject.start(python("web", "import os, time\n" + _READY))
        await subject.stop("web", 10.0)
        await other.communicate(b"")

        assert other.returncode == 5

    play(scenario)


def test_fifty_rounds_leave_no_descriptor_and_no_child(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        program = Program("round", ("/bin/sleep", "600"))
        await subject.start(program)
        await subject.stop("round", 10.0)
        fds, children = open_fds(), our_children()
        for _ in range(50):
            process = await subject.start(program)
            subject.watch_exit(process, lambda: None)
            subject.watch_exit(process, lambda: None).close()
            await subject.read(process)
            assert await subject.stop("round", 10.0)
        await asyncio.sleep(0)
        subject.close()

        assert fds == open_fds()
        assert children == our_children()

    play(scenario)


def test_closing_gives_back_all_descriptors_and_leaves_programs_running(tmp_path: Path) -> None:
    async def scenario() -> None:
        fds_before = open_fds()
        subject = LinuxProcesses(tmp_path)
        program = Program("web", ("/bin/sleep", "600"))
        process = await subject.start(program)
        subject.watch_exit(process, lambda: None)
        subject.close()
        subject.close()
        fds_after = open_fds()
        reading = await subject.read(process)
        successor = LinuxProcesses(tmp_path)

        assert fds_before == fds_after
        assert reading is not None
        assert await successor.stop("web", 10.0)
        successor.close()

    play(scenario)


def test_only_programs_that_shall_not_outlive_the_daemon_are_stopped_at_its_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        stays = await subject.start(Program("stays", ("/bin/sleep", "600")))
        goes = await subject.start(Program("goes", ("/bin/sleep", "600"), on_exit="stop"))
        await subject.aclose()

        assert await subject.read(goes) is None
        assert await subject.read(stays) is not None
        assert await LinuxProcesses(tmp_path).stop("stays", 10.0)

    play(scenario)


_DAEMON = """
import asyncio, os, signal, sys
from pathlib import Path
from x0tta6bl4.adapters import processes
from x0tta6bl4.ports.processes import Program

async def life():
    subject = processes.LinuxProcesses(Path(sys.argv[1]))
    if sys.argv[2] == "before the record":
        subject._write_record = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    await subject.start(Program("web", ("/bin/sleep", "600")))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(life())
"""


@pytest.mark.parametrize("moment", ["before the record", "after the record"])
@pytest.mark.parametrize("way", ["adopt", "start"])
def test_a_daemon_killed_at_any_moment_leaves_one_copy_that_is_taken_up(tmp_path: Path, moment: str, way: str) -> None:
    async def scenario() -> None:
        crash = subprocess.run([sys.executable, "-c", _DAEMON, str(tmp_path), moment], timeout=PATIENCE)
        subject = LinuxProcesses(tmp_path)
        program = Program("web", ("/bin/sleep", "600"))
        copies = [row.id for row in subject._tree("web")]
        record = tmp_path / "processes" / "web.json"
        was_recorded = record.exists()
        taken = (await subject.adopt([program]))["web"] if way == "adopt" else await subject.start(program)

        assert crash.returncode == -signal.SIGKILL
        assert (moment == "after the record") == was_recorded
        assert [taken] == copies
        assert copies == [row.id for row in subject._tree("web")]
        assert record.exists()
        assert await subject.stop("web", 10.0)
        assert not is_there(taken.pid)
        assert not record.exists()

    play(scenario)


def test_a_record_of_another_boot_or_process_adopts_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        first = LinuxProcesses(tmp_path, marker="first")
        program = Program("web", ("/bin/sleep", "600"))
        process = await first.start(program)
        path = tmp_path / "processes" / "web.json"
        record = json.loads(path.read_text())
        for lie in ({"boot": "another"}, {"started": process.started - 1}):
            path.write_text(json.dumps(record | lie))
            # Another marker, so that nothing but the record can lead to it.
            assert await LinuxProcesses(tmp_path, marker="second").adopt([program]) == {}
        for garbage in ("", "[]", "null", '{"pid": "x"}'):
            path.write_text(garbage)
            assert await LinuxProcesses(tmp_path, marker="second").adopt([program]) == {}
        await first.stop("web", 10.0)

    play(scenario)


def test_a_flood_of_output_is_cut_while_it_lasts_and_the_newest_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        limit = 64 << 10
        subject = LinuxProcesses(tmp_path, output_limit=limit)
        log = tmp_path / "output" / "flood.log"
        code = "import os\nn = 0\nwhile True:\n os.write(1, b'line %09d\\n' % n); n += 1"
        process = await subject.start(python("flood", code))
        while not log.exists() or log.stat().st_size <= limit:
            await asyncio.sleep(0.005)
        await subject.signal("flood", signal.SIGSTOP)
        while (reading := await subject.read(process)) is not None and reading.state != "T":
            await asyncio.sleep(0.005)
        newest = (await subject.last_output("flood", 1))[-1]
        subject._care["flood"].look_at = 0.0
        await subject.read(process)
        cut = log.stat().st_size
        kept = await subject.last_output("flood", 1 << 20)
        await subject.signal("flood", signal.SIGCONT)
        while log.stat().st_size == cut:
            await asyncio.sleep(0.005)
        await subject.stop("flood", 10.0)

        assert limit // 4 < cut <= limit // 2
        assert newest == kept[-1]
        assert kept[0].startswith("line ")
        assert len(kept[0]) == 14

    play(scenario)


def test_old_output_beyond_the_limit_is_cut_at_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path, output_limit=1000)
        log = tmp_path / "output" / "web.log"
        log.parent.mkdir()
        log.write_text("".join(f"{n:09d}\n" for n in range(1000)))
        await subject.start(python("web", "print('hello')"))
        while (last := await subject.last_output("web", 2))[-1] != "hello":
            await asyncio.sleep(0.005)

        assert last == ["000000999", "hello"]
        assert log.stat().st_size <= 506
        await subject.stop("web", 1.0)

    play(scenario)


def test_what_a_program_gets_and_what_it_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setenv("SECRET_OF_THE_DAEMON", "x")
        code = (
            "import json, os, signal\n"
            "ignored = [int(n) for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN]\n"
            "blocked = [int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, ())]\n"
            "stdin, leads = os.readlink('/proc/self/fd/0'), os.getsid(0) == os.getpid()\n"
            "fds = os.listdir('/proc/self/fd')\n"
            "print(json.dumps([dict(os.environ), os.getcwd(), leads, fds, stdin, ignored, blocked]))"
        )
        held = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(held, True)
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        subject = LinuxProcesses(tmp_path, marker="here")
        try:
            await subject.start(python("a/b", code, cwd="/", env={"MODE": "test"}))
            assert signal.SIG_IGN is signal.getsignal(signal.SIGHUP)
            assert signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            signal.signal(signal.SIGHUP, before)
            os.close(held)
        env, cwd, leads, fds, stdin, ignored, blocked = json.loads((await lines_of(subject, "a/b", 1))[0])
        await subject.stop("a/b", 1.0)

        assert "SECRET_OF_THE_DAEMON" not in env
        assert (env["MODE"], env["X0TTA6BL4_SUBJECT"], env["X0TTA6BL4_HOME"]) == ("test", "a/b", "here")
        assert cwd == "/"
        assert leads
        assert {"0", "1", "2", "3"} >= set(fds)
        assert stdin == "/dev/null"
        # What its own Python ignores, and nothing of ours.
        assert {int(signal.SIGPIPE), int(signal.SIGXFSZ)} == set(ignored)
        assert blocked == []
        assert (tmp_path / "output" / "a%2Fb.log").exists()

    play(scenario)


def test_what_cannot_be_started_is_refused_with_its_value_and_a_remedy(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        plain, orphan = tmp_path / "plain", tmp_path / "orphan"
        plain.write_text("no program")
        orphan.write_text("#!/no/such/interpreter\n")
        orphan.chmod(0o755)
        for argv in ((), ("sleep",), ("/no/such/program",), (str(tmp_path),), (str(plain),), (str(orphan),)):
            with pytest.raises(StepRefused) as refusal:
                await subject.start(Program("web", argv))
            assert (argv or ("",))[0] in str(refusal.value)
            assert refusal.value.remedy
        with pytest.raises(StepRefused):
            await subject.start(Program("web", ("/bin/sleep", "a\0b")))
        with pytest.raises(StepFailed, match="/no/such/folder") as failure:
            await subject.start(Program("web", ("/bin/sleep", "1"), cwd="/no/such/folder"))
        assert not isinstance(failure.value, StepRefused)
        assert subject.supervised("web") is None

    play(scenario)


def test_a_start_without_a_descriptor_left_fails_and_leaves_no_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        children = our_children()

        def no_descriptor(pid: int) -> int:
            raise OSError(24, "Too many open files")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "pidfd_open", no_descriptor)
            with pytest.raises(StepFailed, match="Too many open files"):
                await subject.start(Program("web", ("/bin/sleep", "600")))
            with pytest.raises(ProbeFailed, match="Too many open files"):
                subject.watch_exit(ProcessId(os.getpid(), 1), lambda: None)

        assert children == our_children()
        assert not await subject.stop("web", 0.0)

    play(scenario)


def test_a_full_disk_does_not_keep_a_service_down(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "mkdir", full)
            process = await subject.start(Program("web", ("/bin/sleep", "600"), env={}))
        assert not (tmp_path / "processes").exists()
        assert process == subject.supervised("web")
        assert {"web": process} == await LinuxProcesses(tmp_path).adopt([Program("web", ("/bin/sleep", "600"))])
        assert await subject.stop("web", 10.0)

    tmp_path.joinpath("output").mkdir()
    play(scenario)


def test_a_reading_tells_what_the_process_has(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        code = (
            "import os, resource, threading, time\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (77, 77))\n"
            "held = [os.open('/dev/null', 0) for _ in range(10)]; block = b'x' * (50 << 20)\n"
            "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
            "for _ in range(3):\n if os.fork() == 0: os._exit(0)\n"
            "threading.Thread(target=lambda: os.fork() and time.sleep(600) or os._exit(0), daemon=True).start()\n"
            "def children():\n"
            " lists = [open(f'/proc/self/task/{t}/children').read() for t in os.listdir('/proc/self/task')]\n"
            " return ' '.join(lists).split()\n"
            "while sum(') Z ' in open(f'/proc/{c}/stat').read() for c in children()) < 4: time.sleep(0.005)\n" + _READY
        )
        process = await subject.start(python("known", code))
        await lines_of(subject, "known", 1)
        reading = await subject.read(process)
        truth = len(os.listdir(f"/proc/{process.pid}/fd"))
        await subject.stop("known", 10.0)

        assert reading is not None
        assert truth == reading.fds
        assert reading.fd_limit == 77
        assert 50 << 20 < reading.rss < 500 << 20
        assert reading.threads >= 2
        assert reading.zombies == 4
        assert 0.0 < reading.cpu_seconds < PATIENCE
        assert 0.0 < reading.age < PATIENCE

    play(scenario)


def test_a_process_whose_main_thread_ended_first_is_not_taken_for_dead(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        code = (
            "import ctypes, os, threading, time\n"
            "def rest():\n time.sleep(0.05); print('ready', os.getpid(), flush=True); time.sleep(600)\n"
            "threading.Thread(target=rest).start()\n"
            "ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)\n"
        )
        process = await subject.start(python("headless", code))
        # The main thread took the interpreter's lock with it if it held it; what counts is the state it leaves.
        while (reading := await subject.read(process)) is not None and reading.state != "Z":
            await asyncio.sleep(0.005)

        assert reading is not None
        assert process == subject.supervised("headless")
        assert await subject.stop("headless", 0.0)
        assert await subject.read(process) is None

    play(scenario)


def test_a_thread_is_no_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        end = threading.Event()
        thread = threading.Thread(target=end.wait)
        thread.start()
        found = await subject.find_by_pid(thread.native_id or 0)
        ourselves = await subject.find_by_pid(os.getpid())
        end.set()
        thread.join()

        assert found is None
        assert ourselves is not None

    play(scenario)


def test_a_pid_file_older_than_the_process_names_its_predecessor(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        process = await subject.start(Program("web", ("/bin/sleep", "600")))
        path = tmp_path / "web.pid"
        path.write_text(f"  {process.pid}\nmore\n")
        fresh = await subject.find_by_pid_file(str(path))
        os.utime(path, (time.time() - 60, time.time() - 60))
        stale = await subject.find_by_pid_file(str(path))
        await subject.stop("web", 10.0)

        assert process == fresh
        assert stale is None

    play(scenario)


def test_a_pipe_in_place_of_a_pid_file_does_not_hold_the_daemon_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        os.mkfifo(tmp_path / "pipe")

        assert await LinuxProcesses(tmp_path).find_by_pid_file(str(tmp_path / "pipe")) is None

    play(scenario)


def test_zombies_are_counted_also_where_the_kernel_lists_no_children(tmp_path: Path) -> None:
    async def scenario() -> None:
        subject = LinuxProcesses(tmp_path)
        subject._lists_children = False
        code = "import os, time\nif os.fork() == 0: os._exit(0)\nos.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)\n"
        process = await subject.start(python("parent", code + _READY))
        await lines_of(subject, "parent", 1)
        reading = await subject.read(process)
        await subject.stop("parent", 10.0)

        assert reading is not None
        assert reading.zombies == 1

    play(scenario)
