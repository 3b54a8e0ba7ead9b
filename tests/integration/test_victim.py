"""The sample service does to itself what it says, in real processes: healing it would prove nothing otherwise."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from x0tta6bl4.demo import victim as victim_module
from x0tta6bl4.demo.breaker import ask, break_, free_port, mend, state, wait_until_answers

ROOT = Path(victim_module.__file__).parents[2]
PATIENCE = 20.0
"""How long something that must happen may take on a busy machine; nobody waits for it when all is well."""


class Started:
    """One victim: its port, its process, its folder."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path, began: float) -> None:
        self.process = process
        self.port = port
        self.folder = folder
        self.began = began

    @property
    def proc(self) -> Path:
        return Path("/proc") / str(self.process.pid)

    def status_line(self, name: str) -> str:
        lines = (self.proc / "status").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(name + ":"))

    def rss_mib(self) -> float:
        return int(self.status_line("VmRSS").split()[0]) / 1024

    def fds(self) -> int:
        return len(os.listdir(self.proc / "fd"))

    def cpu_seconds(self) -> float:
        fields = (self.proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def output(self) -> str:
        return (self.folder.parent / "output").read_text(errors="replace")

    def ended(self) -> int:
        return self.process.wait(PATIENCE)


Start = Callable[..., Started]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as closing:

        def start(*more: str, port: int | None = None, wait: bool = True, argv: tuple[str, ...] = ()) -> Started:
            port = port or free_port()
            folder = tmp_path / "folder"
            output = closing.enter_context(open(tmp_path / "output", "ab"))
            began = time.monotonic()
            process = subprocess.Popen(
                [
                    sys.executable,
                    *(argv or ("-m", "x0tta6bl4.demo.victim")),
                    *("--port", str(port), "--folder", str(folder)),
                    *more,
                ],
                env={"PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=output,
            )
            closing.callback(process.wait)
            closing.callback(process.kill)
            if wait:
                wait_until_answers(port, began, timeout=PATIENCE, path="/health")
            return Started(process, port, folder, began)

        yield start


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def answers_well(victim: Started) -> bool:
    return ask(victim.port, timeout=PATIENCE)[:2] == (200, victim.process.pid)


def is_silent(victim: Started) -> bool:
    """Lives, and lets every request run into its timeout."""
    silent = all(ask(victim.port, path, 0.1).status is None for path in ("/health", "/work", "/state"))
    return silent and victim.process.poll() is None


def test_it_answers_with_its_pid_and_says_how_to_break_it(start: Start) -> None:
    victim = start()

    assert ask(victim.port, "/health", PATIENCE)[:2] == (200, victim.process.pid)
    assert answers_well(victim)
    assert ask(victim.port, "/nowhere", PATIENCE).status == 404
    assert {"broken": {}, "files": []}.items() <= state(victim.port).items()
    with socket.create_connection(("127.0.0.1", victim.port)) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        page = connection.makefile("rb").read().decode()
    assert all(f"/break/{kind}" in page for kind in victim_module.KINDS)


def test_it_is_reached_through_loopback_only(start: Start) -> None:
    victim = start()
    local = f"0100007F:{victim.port:04X}"
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line]

    assert [local] == [address for address in listening if address.endswith(f":{victim.port:04X}")]


def test_one_connection_carries_many_requests(start: Start) -> None:
    victim = start()
    with socket.create_connection(("127.0.0.1", victim.port), timeout=PATIENCE) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"GET /work HTTP/1.0\r\n\r\n")
        received = connection.makefile("rb").read()

    assert received.count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize(
    "request_, status",
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /break/kill HTTP/1.1\r\n\r\n", b"405"),
        (b"POST /break/kill HTTP/1.1\r\nOrigin: http://elsewhere\r\n\r\n", b"403"),
        (b"POST /break/kill HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 17000, b"431"),
    ],
)
def test_a_bad_request_is_answered_and_breaks_nothing(start: Start, request_: bytes, status: bytes) -> None:
    victim = start()
    with socket.create_connection(("127.0.0.1", victim.port), timeout=PATIENCE) as connection:
        connection.sendall(request_)
        received = connection.recv(100)

    assert status == received.split()[1]
    assert answers_well(victim)


def test_a_break_that_makes_no_sense_is_refused_with_a_sentence(start: Start) -> None:
    victim = start()

    with pytest.raises(ValueError, match=r"404.*cannot break like 'explode'; can: kill"):
        break_(victim.port, "explode")
    with pytest.raises(ValueError, match=r"400.*no parameter 'speed'; it has: mib_per_s, limit"):
        break_(victim.port, "leak", speed=3)
    with pytest.raises(ValueError, match=r"400.*whole number"):
        break_(victim.port, "slow", times=0.5)
    with pytest.raises(ValueError, match=r"400.*must be a number"):
        break_(victim.port, "slow", seconds=float("nan"))
    with pytest.raises(ValueError, match=r"400.*exit code"):
        break_(victim.port, "exit", code=256)
    assert state(victim.port)["broken"] == {}


def test_it_runs_by_its_file_and_ends_at_once_on_sigterm(start: Start) -> None:
    victim = start(argv=(str(victim_module.__file__),))
    victim.process.terminate()

    assert victim.ended() == -signal.SIGTERM


def test_a_second_one_on_the_same_port_says_so_and_ends(start: Start) -> None:
    first = start()
    second = start(port=first.port, wait=False)

    assert second.ended() == 1
    assert f"FATAL: cannot serve on 127.0.0.1:{first.port}" in second.output()


@pytest.mark.parametrize("words", [[], ["--port", "x"], ["--port", "1", "--colour", "red"], ["--port"]])
def test_a_wrong_command_line_ends_with_the_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert victim_module.main(words) == 2
    assert "usage:" in capsys.readouterr().err


def test_kill_and_exit_end_it_and_its_port_can_be_taken_at_once(start: Start) -> None:
    victim = start()
    assert victim.process.pid == break_(victim.port, "kill")
    assert ask(victim.port).status is None
    assert victim.ended() == -signal.SIGKILL

    again = start(port=victim.port)
    break_(again.port, "exit", code=7)
    assert again.ended() == 7


@pytest.mark.parametrize("kind", ["hang", "lock"])
def test_a_hung_one_lives_and_answers_nothing(start: Start, kind: str) -> None:
    victim = start()
    break_(victim.port, kind)

    assert is_silent(victim)


def test_a_hung_one_takes_a_bounded_number_of_connections(start: Start) -> None:
    victim = start()
    before = victim.fds()
    break_(victim.port, "hang")
    with ExitStack() as closing:
        for _ in range(victim_module.CONNECTIONS + 10):
            connection = closing.enter_context(socket.create_connection(("127.0.0.1", victim.port), PATIENCE))
            connection.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        wait_for(lambda: victim.fds() - before >= victim_module.CONNECTIONS)

        assert victim.fds() - before == victim_module.CONNECTIONS


def test_a_stopped_one_answers_nothing_until_it_is_continued(start: Start) -> None:
    victim = start()
    break_(victim.port, "stop")
    wait_for(lambda: victim.status_line("State").startswith("T"))
    assert is_silent(victim)

    victim.process.send_signal(signal.SIGCONT)
    assert answers_well(victim)


def test_a_gray_one_is_healthy_and_of_no_use(start: Start) -> None:
    victim = start()
    break_(victim.port, "gray")
    assert ask(victim.port, "/health", PATIENCE).status == 200
    assert ask(victim.port, "/work", PATIENCE).status == 500

    mend(victim.port)
    assert answers_well(victim)


def test_a_leak_is_resident_memory_up_to_its_limit_and_mending_gives_it_back(start: Start) -> None:
    victim = start()
    before = victim.rss_mib()
    break_(victim.port, "leak", mib_per_s=400, limit=80)
    wait_for(lambda: state(victim.port)["held"]["mib"] == 80)
    assert 78 <= victim.rss_mib() - before <= 100
    assert answers_well(victim)

    mend(victim.port)
    assert victim.rss_mib() - before <= 20


def test_descriptors_leak_up_to_the_limit_and_mending_closes_them(start: Start) -> None:
    victim = start()
    before = victim.fds()
    break_(victim.port, "fds", per_s=5000, limit=300)
    wait_for(lambda: victim.fds() >= before + 300)
    assert answers_well(victim)

    mend(victim.port)
    assert victim.fds() < before + 50


def test_without_descriptors_left_it_takes_no_connection_and_burns_nothing(start: Start) -> None:
    victim = start()
    with socket.create_connection(("127.0.0.1", victim.port), timeout=PATIENCE) as opened_before:
        opened_before.sendall(b"POST /break/fds?per_s=5000&nofile=40 HTTP/1.1\r\n\r\n")
        assert b"200 OK" in opened_before.recv(4096)
        wait_for(lambda: victim.fds() >= 39)  # a waiting accept holds one back, which the next asker gets
        ask(victim.port, timeout=1.0)
        assert victim.fds() == 40
        used = victim.cpu_seconds()
        assert is_silent(victim)
        assert victim.cpu_seconds() - used <= 0.15  # of the 0.3 s that the three asks took

        opened_before.sendall(b"POST /mend HTTP/1.1\r\n\r\n")
        assert b"200 OK" in opened_before.recv(4096)
    assert answers_well(victim)


def test_threads_leak_up_to_the_limit_and_mending_ends_them(start: Start) -> None:
    victim = start()
    break_(victim.port, "threads", per_s=2000, limit=150)
    wait_for(lambda: int(victim.status_line("Threads")) >= 150)
    assert answers_well(victim)

    mend(victim.port)
    wait_for(lambda: int(victim.status_line("Threads")) < 20)


def test_slow_holds_up_the_next_answers_only(start: Start) -> None:
    victim = start()
    break_(victim.port, "slow", seconds=600, times=2)
    assert state(victim.port)["broken"]["slow"] == {"seconds": 600, "times": 2}

    assert [ask(victim.port, path, 0.1).status for path in ("/work", "/health")] == [None, None]
    assert answers_well(victim)
    assert state(victim.port)["broken"] == {}


def test_a_stall_holds_up_everything_and_passes(start: Start) -> None:
    victim = start()
    began = time.monotonic()
    break_(victim.port, "stall", seconds=0.5)
    assert ask(victim.port, "/state", PATIENCE).status == 200
    assert time.monotonic() - began >= 0.5

    assert state(victim.port)["broken"] == {}
    assert answers_well(victim)


def test_a_closed_door_refuses_and_can_be_reopened_by_whoever_is_inside(start: Start) -> None:
    victim = start()
    with socket.create_connection(("127.0.0.1", victim.port), timeout=PATIENCE) as inside:
        inside.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        inside.recv(4096)
        break_(victim.port, "refuse")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", victim.port))
        assert victim.process.poll() is None

        inside.sendall(b"POST /mend HTTP/1.1\r\n\r\n")
        assert b'"mended": ["refuse"]' in inside.recv(4096)
    assert answers_well(victim)


def test_in_a_crashloop_every_start_serves_and_dies_until_the_file_is_gone(start: Start) -> None:
    victim = start()
    break_(victim.port, "crashloop", after=0.3)
    assert state(victim.port)["files"] == ["crashloop"]
    assert answers_well(victim)
    break_(victim.port, "kill")
    victim.ended()

    assert [start(port=victim.port, wait=False).ended() for _ in range(2)] == [1, 1]
    assert f"as {victim.folder / 'crashloop'} says" in victim.output()
    (victim.folder / "crashloop").unlink()
    healed = start(port=victim.port)
    assert {"broken": {}, "files": []}.items() <= state(healed.port).items()


def test_a_poisoned_cache_lets_no_start_succeed_until_the_file_is_gone(start: Start) -> None:
    victim = start()
    break_(victim.port, "poison", now=1)
    assert victim.ended() == 3
    cache = victim.folder / "cache" / "index"

    assert [start(port=victim.port, wait=False).ended() for _ in range(2)] == [3, 3]
    assert victim.output().count(f"FATAL: cache file {cache} is corrupt") == 2
    cache.unlink()
    assert answers_well(start(port=victim.port))


def test_a_slow_start_outlives_the_process_until_it_is_mended(start: Start) -> None:
    victim = start()
    break_(victim.port, "slowstart", seconds=0.6, now=1)
    assert victim.ended() == 1

    slow = start(port=victim.port)
    assert time.monotonic() - slow.began >= 0.6
    mend(slow.port)
    assert list(victim.folder.glob("slowstart")) == []


def test_an_empty_file_made_by_hand_means_the_default(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "crashloop").touch()

    assert start(wait=False).ended() == 1
    assert "dies 0.5 s after its start" in (tmp_path / "output").read_text()


def test_a_start_delay_is_kept(start: Start) -> None:
    victim = start("--start-delay", "0.3")

    assert time.monotonic() - victim.began >= 0.3


def test_without_a_folder_what_outlives_the_process_is_refused() -> None:
    with pytest.raises(victim_module.Refused, match="--folder"):
        victim_module.Folder(None).write("crashloop", "1")


def test_a_busy_one_burns_cpu_and_answers(start: Start) -> None:
    victim = start()
    before = victim.cpu_seconds()
    break_(victim.port, "busy")
    wait_for(lambda: victim.cpu_seconds() - before >= 0.3)
    assert answers_well(victim)

    mend(victim.port)
    assert state(victim.port)["broken"] == {}


def test_a_log_flood_is_many_lines_and_ends_when_mended(start: Start) -> None:
    victim = start()
    break_(victim.port, "logflood", lines_per_s=5000)
    wait_for(lambda: victim.output().count("\n") >= 500)
    mend(victim.port)

    after = victim.output().count("\n")
    assert answers_well(victim)
    assert after == victim.output().count("\n")


def test_a_flapping_one_is_down_and_up_by_turns(start: Start) -> None:
    victim = start()
    break_(victim.port, "flap", period=0.2, down=0.1)
    for status in (503, 200, 503):
        wait_for(lambda status=status: ask(victim.port, "/health", PATIENCE).status == status)  # type: ignore[misc]  # a default binds the loop's value


def test_zombies_are_real_and_mending_collects_them(start: Start) -> None:
    victim = start()

    def zombies() -> int:
        children = (victim.proc / "task" / str(victim.process.pid) / "children").read_text().split()
        stats = [Path("/proc", child, "stat") for child in children]
        return sum(stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z" for stat in stats)

    break_(victim.port, "zombies", n=5)
    wait_for(lambda: zombies() == 5)
    mend(victim.port)
    assert zombies() == 0


def test_one_that_ignores_sigterm_goes_on_until_mended(start: Start) -> None:
    victim = start()
    break_(victim.port, "ignore-term")
    victim.process.terminate()
    assert answers_well(victim)

    mend(victim.port)
    victim.process.terminate()
    assert victim.ended() == -signal.SIGTERM


def test_its_work_needs_what_it_depends_on_and_its_health_does_not(start: Start) -> None:
    dependency = start()
    victim = start("--depends-on", f"127.0.0.1:{dependency.port}")
    assert answers_well(victim)

    break_(dependency.port, "kill")
    dependency.ended()
    assert ask(victim.port, timeout=PATIENCE).status == 503
    assert ask(victim.port, "/health", PATIENCE).status == 200


def test_waiting_for_another_process_is_not_content_with_the_old_one(start: Start) -> None:
    victim = start()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=str(victim.process.pid)):
        wait_until_answers(victim.port, began, other_than_pid=victim.process.pid, timeout=0.05)
    with pytest.raises(TimeoutError):
        wait_until_answers(free_port(), began, timeout=0.05)

    assert wait_until_answers(victim.port, began, other_than_pid=victim.process.pid + 1, timeout=PATIENCE) > 0


def test_a_free_port_is_never_one_that_outgoing_connections_get() -> None:
    lowest, highest = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())

    assert not any(lowest <= free_port() <= highest for _ in range(50))


def test_every_answer_in_json_is_json(start: Start) -> None:
    victim = start()
    with socket.create_connection(("127.0.0.1", victim.port), timeout=PATIENCE) as connection:
        for path in ("/health", "/work", "/state", "/nowhere"):
            connection.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
            head, _, body = connection.recv(4096).partition(b"\r\n\r\n")
            assert b"application/json" in head
            assert victim.process.pid == json.loads(body)["pid"]
