"""Measures what the daemon itself costs: memory, idle CPU, its start, a cycle, its endpoint, its kill switch.

    python -m benchmarks.resources [--only memory,idle,start,cycle,health,switch,imports] [--seconds 60] [--targets 10]

The daemon runs at its defaults with so many sample services in its care, each watched by its process and by a question
every half a second, with the endpoint open. Numbers come from /proc, from the notify socket and from clients that are
processes of their own. Exits with 1 when a number misses its goal.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from benchmarks.ground import ROOT, Ports, end_on_sigterm
from x0tta6bl4 import __version__
from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.analyzers.baseline import Baseline
from x0tta6bl4.analyzers.baseline import Config as BaselineConfig
from x0tta6bl4.analyzers.change import Change
from x0tta6bl4.analyzers.change import Config as ChangeConfig
from x0tta6bl4.analyzers.forecast import Config as ForecastConfig
from x0tta6bl4.analyzers.forecast import Forecast
from x0tta6bl4.analyzers.host import Config as HostConfig
from x0tta6bl4.analyzers.host import HostAnalyzer
from x0tta6bl4.analyzers.liveness import Config as LivenessConfig
from x0tta6bl4.analyzers.liveness import Liveness
from x0tta6bl4.analyzers.threshold import Config as ThresholdConfig
from x0tta6bl4.analyzers.threshold import Limit, Threshold
from x0tta6bl4.demo import breaker
from x0tta6bl4.kernel.facts import Observation
from x0tta6bl4.kernel.loop import MAPEK, Parts
from x0tta6bl4.kernel.sight import Sight
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.watching import Instance
from x0tta6bl4.knowledge.sqlite import Config as KnowledgeConfig
from x0tta6bl4.knowledge.sqlite import SqliteKnowledge, migrations
from x0tta6bl4.observability.metrics import Metrics
from x0tta6bl4.planners.runbook import Config as RunbookConfig
from x0tta6bl4.planners.runbook import Runbooks

TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20
PATIENCE = 30.0
LEARN = ("baseline", "host", "change")
"""The analyzers that keep what they learn in numpy's arrays."""
GOALS: Mapping[str, float] = {
    "memory: RSS, MiB": 80.0,
    "memory without the analyzers that learn: RSS, MiB": 64.0,
    "idle: CPU, % of a core": 0.5,
    "start: exec to READY, s": 1.5,
    "cycle: 10,000 samples, ms": 100.0,
    "cycle: 10,000 samples that are learnt from, ms": 100.0,
    "health: p95 of 50 clients, ms": 10.0,
    "switch: until nothing new is done, s": 1.0,
}


class Daemon:
    """The daemon with its services, in a folder of its own; behind the context nothing of it is left."""

    def __init__(self, targets: int, prelude: Sequence[str] = (), *, learns: bool = True) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="x0t-resources-")
        self.folder = Path(self._scratch.name).resolve()
        ports = Ports()
        self.ports = [ports.take() for _ in range(targets)]
        self.status_port = ports.take()
        self.process: subprocess.Popen[bytes] | None = None
        self._prelude = prelude or (sys.executable, "-m", "x0tta6bl4")
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._notified.bind(str(self.folder / "notify"))
        subjects = {
            f"service{number}": {
                "process": {
                    "command": ["${python}", "-m", "x0tta6bl4.demo.victim", "--port", str(port)],
                    "cwd": str(ROOT),
                    "on_exit": "stop",
                },
                "work": f"http://127.0.0.1:{port}/work",
                "mode": "auto",
            }
            for number, port in enumerate(self.ports)
        }
        (self.folder / "daemon.yaml").write_text(
            yaml.safe_dump(
                {
                    "state_dir": "state",
                    "lock_file": "lock",
                    "status": {"port": self.status_port},
                    "guard": {"allow": ["process.*"]},
                    "subjects": subjects,
                    "analyzers": {} if learns else {name: {"enabled": False} for name in LEARN},
                }
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._notified.close()
        self._scratch.cleanup()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> float:
        """Seconds from exec to READY, which is sent when the first full cycle is over."""
        began = time.monotonic()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._prelude, "run", "--config", str(self.folder / "daemon.yaml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
                env={**os.environ, "NOTIFY_SOCKET": str(self.folder / "notify")},
            )
        while True:
            self._notified.settimeout(max(0.01, began + PATIENCE - time.monotonic()))
            try:
                said = self._notified.recv(4096)
            except TimeoutError:
                raise SystemExit(f"the daemon was not ready within {PATIENCE:g} s:\n{self.log()}") from None
            if b"READY=1" in said:
                return time.monotonic() - began

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def tell(self, flag: str, value: bool) -> None:
        """As the command line does it: from this process, through the store."""

        async def told() -> None:
            database = await SqliteDatabase.open(self.folder / "state" / "knowledge.db", migrations(), check=False)
            try:
                knowledge = SqliteKnowledge("outside", KnowledgeConfig(), database, SystemClock())
                await knowledge.set_flag(flag, value, "bench")
            finally:
                await database.close()

        asyncio.run(told())


def _cpu(pid: int) -> dict[str, float]:
    """CPU seconds so far, by thread: where it goes is asked of the kernel, which is not in the way of it."""
    seconds: dict[str, float] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        # In nanoseconds; the ticks of `stat` are too coarse for a thread that hardly runs.
        seconds[f"{name} {task.name}"] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return seconds


def _switches(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def _memory(pid: int) -> dict[str, float]:
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, amount = line.split()[:2]
        found[name.rstrip(":")] = int(amount) / 1024
    return {
        "RSS": found["Rss"],
        "PSS": found["Pss"],
        "USS": found["Private_Clean"] + found["Private_Dirty"],
        "of it file pages": found["Rss"] - found["Anonymous"],
    }


# -- what is measured --------------------------------------------------------------------------------------------------

Found = dict[str, float]
Say = Callable[[str], None]


def idle(targets: int, seconds: float, say: Say) -> Found:
    with Daemon(targets) as daemon:
        daemon.start()
        time.sleep(5.0)
        before, switches, began = _cpu(daemon.pid), _switches(daemon.pid), time.monotonic()
        time.sleep(seconds)
        after, passed = _cpu(daemon.pid), time.monotonic() - began
        share = {name: (used - before.get(name, 0.0)) / passed * 100 for name, used in after.items()}
        looks = targets * 2 * 2 * passed
        total = sum(share.values())
        say(
            f"idle CPU over {passed:.0f} s with {targets} targets: {total:.2f} % of a core,"
            f" {total / 100 * passed / looks * 1e6 if looks else 0:.0f} µs a look all told,"
            f" {(_switches(daemon.pid) - switches) / passed:.0f} context switches a second"
        )
        for name, part in sorted(share.items(), key=lambda item: -item[1]):
            say(f"    {part:5.2f} %  {name.rpartition(' ')[0]}")
        memory = _memory(daemon.pid)
        say(f"memory after {seconds + 5:.0f} s: " + ", ".join(f"{name} {mib:.1f} MiB" for name, mib in memory.items()))
    with Daemon(targets, learns=False) as daemon:
        daemon.start()
        time.sleep(min(seconds, 20.0))
        lean = _memory(daemon.pid)
    say("memory without them that learn: " + ", ".join(f"{name} {mib:.1f} MiB" for name, mib in lean.items()))
    return {
        "memory: RSS, MiB": memory["RSS"],
        "memory without the analyzers that learn: RSS, MiB": lean["RSS"],
        "idle: CPU, % of a core": total,
    }


def start(targets: int, times: int, say: Say) -> Found:
    seconds = []
    for _ in range(times):
        with Daemon(targets) as daemon:
            seconds.append(daemon.start())
    say(
        f"start from exec to READY with {targets} targets, {times} times: median {statistics.median(seconds):.2f} s,"
        f" longest {max(seconds):.2f} s"
    )
    return {"start: exec to READY, s": statistics.median(seconds)}


class _Many:
    """A monitor that has a lot to say."""

    name = "many"

    def __init__(self, subjects: int, metrics: int) -> None:
        self._subjects, self._metrics, self._round = subjects, metrics, 0

    async def observe(self) -> Sequence[Observation]:
        self._round += 1
        return [
            Observation("many", f"subject{s}", f"series{m}", float((s * m + self._round) % 100))
            for s in range(self._subjects)
            for m in range(self._metrics)
        ]


class _Phases(Metrics):
    """The daemon's own meter, which also keeps how long each phase took."""

    def __init__(self) -> None:
        super().__init__(__version__)
        self.phases: dict[str, list[float]] = {}

    def observe(self, name: str, value: float, **labels: str) -> None:
        super().observe(name, value, **labels)
        if name == "x0tta6bl4_mapek_cycle_duration_seconds":
            self.phases.setdefault(labels["phase"], []).append(value)


class _Hurried(SystemClock):
    """A minute passes from one turn to the next, without anybody waiting for it."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    def wall(self) -> float:
        return super().wall() + self.ahead


def cycle(times: int, say: Say) -> Found:
    """The real loop over the real store: 10,000 series of 1,000 subjects; one series in ten has a limit."""
    found = {"cycle: 10,000 samples, ms": _cycle(times, say, learns=False)}
    say("the same, with a baseline learnt of each series, each subject judged as a whole, and followed for changes:")
    return {**found, "cycle: 10,000 samples that are learnt from, ms": _cycle(times, say, learns=True)}


def _cycle(times: int, say: Say, *, learns: bool) -> float:
    async def run(folder: str) -> _Phases:
        database = await SqliteDatabase.open(Path(folder) / "knowledge.db", migrations())
        try:
            clock, meter = _Hurried(), _Phases()
            limits = {
                "a": Limit(metric="series3", above=200.0),
                "b": Limit(metric="series7", below=-1.0, subjects=["subject1*"]),
            }
            loop = MAPEK(
                Parts(
                    clock=clock,
                    knowledge=SqliteKnowledge("store", KnowledgeConfig(), database, clock),
                    planner=Runbooks("runbook", RunbookConfig()),
                    instances=[Instance(_Many(1000, 10), None, 10.0)],
                    analyzers=[
                        Liveness("liveness", LivenessConfig()),
                        Forecast("forecast", ForecastConfig()),
                        Threshold("threshold", ThresholdConfig(limits=limits)),
                        *(
                            (
                                Baseline("baseline", BaselineConfig()),
                                HostAnalyzer("host", HostConfig()),
                                Change("change", ChangeConfig()),
                            )
                            if learns
                            else ()
                        ),
                    ],
                    sight=Sight({f"subject{s}": Subject(f"subject{s}") for s in range(1000)}),
                    meter=meter,
                )
            )
            for _ in range(times + 1):
                turn = await loop.run_cycle()
                assert turn.result == "ok" and not turn.findings, turn
                clock.ahead += 60.0
            return meter
        finally:
            await database.close()

    with tempfile.TemporaryDirectory(prefix="x0t-cycle-") as folder:
        phases = asyncio.run(run(folder)).phases
    total = phases["total"][1:]
    say(
        f"a cycle over 10,000 samples of 1,000 subjects, {times} times: median {statistics.median(total) * 1e3:.1f} ms,"
        f" p95 {_quantile(total, 0.95) * 1e3:.1f} ms, the first {phases['total'][0] * 1e3:.1f} ms"
    )
    say(
        "    "
        + ", ".join(
            f"{name} {statistics.median(took[1:]) * 1e3:.1f} ms" for name, took in phases.items() if name != "total"
        )
    )
    return statistics.median(total) * 1e3


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def _clients(port: int, path: str, clients: int, seconds: float, pace: float, keep: bool) -> dict[str, Any]:
    """What so many clients met, each asking every ``pace`` seconds (0: at once again)."""
    took: list[float] = []
    bad = 0
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    question = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    ).encode()

    async def one(number: int) -> None:
        nonlocal bad
        pipe: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        due = loop.time() + pace * number / clients
        while due < until:
            await asyncio.sleep(max(0.0, due - loop.time()))
            began = loop.time()
            try:
                if pipe is None:
                    pipe = await asyncio.open_connection("127.0.0.1", port)
                reader, writer = pipe
                writer.write(question)
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
                await reader.readexactly(length)
                bad += not head.startswith(b"HTTP/1.1 200")
                took.append(loop.time() - began)
            except (OSError, asyncio.IncompleteReadError):
                bad += 1
                keep_it = False
            else:
                keep_it = keep
            if not keep_it and pipe is not None:
                pipe[1].close()
                pipe = None
            due = max(due + pace, loop.time())

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(one(number))
    return {
        "count": len(took),
        "bad": bad,
        "p50": _quantile(took, 0.5),
        "p95": _quantile(took, 0.95),
        "p99": _quantile(took, 0.99),
        "max": max(took),
    }


def health(targets: int, seconds: float, say: Say) -> Found:
    """In a process of its own, so that the clients' work is not the server's; the kernel gives each a core."""
    found: Found = {}
    with Daemon(targets) as daemon:
        daemon.start()
        time.sleep(2.0)
        for words, pace, keep in (
            ("10 a second each, connections kept", 0.1, True),
            ("10 a second each, a new connection each", 0.1, False),
            ("as fast as they can, connections kept", 0.0, True),
            ("as fast as they can, a new connection each", 0.0, False),
        ):
            told = json.loads(
                subprocess.check_output(
                    [
                        sys.executable,
                        "-m",
                        "benchmarks.resources",
                        "--as-clients",
                        json.dumps([daemon.status_port, "/health", 50, seconds, pace, keep]),
                    ],
                    cwd=ROOT,
                )
            )
            say(
                f"/health by 50 clients, {words}: p50 {told['p50'] * 1e3:.2f} ms, p95 {told['p95'] * 1e3:.2f} ms,"
                f" p99 {told['p99'] * 1e3:.2f} ms, {told['count'] / seconds:.0f} a second, {told['bad']} failed"
            )
            if pace:
                key = "health: p95 of 50 clients, ms"
                found[key] = max(found.get(key, 0.0), told["p95"] * 1e3 if not told["bad"] else float("inf"))
    return found


def switch(times: int, say: Say) -> Found:
    """The flag is set by another process; then a fault comes, sooner and sooner after it, and must be left alone."""
    late: list[float] = []
    with Daemon(1) as daemon:
        daemon.start()
        time.sleep(2.0)
        for _ in range(times):
            began = time.monotonic()
            daemon.tell("auto_healing", False)
            told = time.monotonic()
            while _flag(daemon) != 0.0:
                if time.monotonic() - told > PATIENCE:
                    raise SystemExit("the daemon never noticed the flag")
            late.append(time.monotonic() - began)
            daemon.tell("auto_healing", True)
            while _flag(daemon) != 1.0:
                time.sleep(0.01)
            time.sleep(0.37)
        daemon.tell("auto_healing", False)
        time.sleep(max(late))
        before = breaker.ask(daemon.ports[0], timeout=2.0).pid
        with suppress(OSError):
            breaker.break_(daemon.ports[0], "kill")
        time.sleep(3.0)
        if breaker.ask(daemon.ports[0]).status is not None:
            say("the service was healed although the switch was off")
            return {"switch: until nothing new is done, s": float("inf")}
        daemon.tell("auto_healing", True)
        back = breaker.wait_until_answers(daemon.ports[0], time.monotonic(), before)
    say(
        f"kill switch, set by another process, {times} times: median {statistics.median(late):.2f} s, longest"
        f" {max(late):.2f} s; a dead service was left alone while it was off, and healed {back:.2f} s after it was on"
    )
    return {"switch: until nothing new is done, s": max(late)}


def _flag(daemon: Daemon) -> float:
    with socket.create_connection(("127.0.0.1", daemon.status_port), 5.0) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        page = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    name = 'x0tta6bl4_feature_flag{flag="auto_healing"}'
    line = next((line for line in page.splitlines() if line.startswith(name)), "")
    return float(line.rpartition(" ")[2] or "nan")


HOOK = """
import atexit, builtins, collections, json, os, sys, time
page, own, spent, stack = os.sysconf("SC_PAGE_SIZE"), collections.Counter(), collections.Counter(), []
real = builtins.__import__
def rss():
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * page
def hooked(name, globals=None, locals=None, fromlist=(), level=0):
    if level or name in sys.modules and not fromlist:
        package = (globals or {}).get("__package__", "") if level else name
    else:
        package = name
    before, began = rss(), time.perf_counter()
    stack.append([0, 0.0])
    try:
        return real(name, globals, locals, fromlist, level)
    finally:
        grown, took = rss() - before, time.perf_counter() - began
        inner = stack.pop()
        room = package.split(".")[0]
        own[room] += grown - inner[0]
        spent[room] += took - inner[1]
        if stack:
            stack[-1][0] += grown
            stack[-1][1] += took
start = rss()
builtins.__import__ = hooked
def tell():
    rows = [[name, own[name], spent[name]] for name in own]
    open(os.environ["X0T_IMPORTS"], "w").write(json.dumps({"start": start, "end": rss(), "rows": rows}))
atexit.register(tell)
sys.argv = ["x0tta6bl4", *sys.argv[1:]]
from x0tta6bl4.cli import main
raise SystemExit(main())
"""


def imports(targets: int, say: Say) -> Found:
    """What each package adds to the resident memory when it is imported, in the order in which the daemon does it."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        os.environ["X0T_IMPORTS"] = file.name
        with Daemon(targets, prelude=(sys.executable, "-c", HOOK)) as daemon:
            daemon.start()
        told = json.loads(Path(file.name).read_text())
    say(
        f"memory by package (at its import, without what it imports itself): bare interpreter"
        f" {told['start'] / MIB:.1f} MiB, at the end {told['end'] / MIB:.1f} MiB"
    )
    for name, grown, took in sorted(told["rows"], key=lambda row: -row[1])[:25]:
        say(f"    {grown / MIB:6.2f} MiB  {took * 1e3:6.1f} ms  {name}")
    return {}


# -- all of it ---------------------------------------------------------------------------------------------------------

PARTS = ("start", "idle", "cycle", "health", "switch", "imports")


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="what to measure (memory is part of idle)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the idle daemon is watched")
    parser.add_argument("--targets", type=int, default=10)
    parser.add_argument("--as-clients", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.as_clients:
        print(json.dumps(asyncio.run(_clients(*json.loads(given.as_clients)))))
        return 0
    end_on_sigterm()
    wanted = {"idle" if part == "memory" else part for part in given.only.split(",")}
    if unknown := wanted - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    measures: Mapping[str, Callable[[], Found]] = {
        "start": lambda: start(given.targets, 5, print),
        "idle": lambda: idle(given.targets, given.seconds, print),
        "cycle": lambda: cycle(30, print),
        "health": lambda: health(given.targets, 5.0, print),
        "switch": lambda: switch(10, print),
        "imports": lambda: imports(given.targets, print),
    }
    found: Found = {}
    for part in PARTS:
        if part in wanted:
            found |= measures[part]()
            sys.stdout.flush()
    print()
    for name, value in found.items():
        print(f"{'met   ' if value <= GOALS[name] else 'MISSED'}  {name}: {value:.2f} (goal {GOALS[name]:g})")
    return 1 if any(value > GOALS[name] for name, value in found.items()) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
