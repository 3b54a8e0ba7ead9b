"""Measures what locking foreign code up costs, against a plain child process in the same run.

    python -m benchmarks.sandbox [--starts 30] [--calls 3000]

Both children speak the same protocol and run the same function; the plain one has no limits, no locks, and a parent
that believes it. They take turns, so that whatever else the machine does happens to both. Exits with 1 when the sandbox
costs more than it may, as a ratio: absolute times are the machine's.
"""

import argparse
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from json import dumps, loads
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from x0tta6bl4.statechart.extensions.sandbox import Bounds, Sandbox, SandboxUnavailable

START_AT_MOST = 1.6
"""Times a plain start: the locks need ctypes and some forty system calls."""
CALL_AT_MOST = 2.0
"""Times a plain call: the deadline, the bounds and the check of what came back."""
MEMORY_AT_MOST = 20.0
"""MiB that the idle child keeps resident."""
PLUGIN = "def is_warm(data, event):\n    return data['celsius'] > 30 and data['place'] == 'rack'\n"
ARGUMENTS: tuple[Any, ...] = ({"celsius": 31, "place": "rack", "since": 12.5}, {"name": "reading", "data": None})
PLAIN = """
import json, os, struct, sys
from importlib import import_module
sys.path.append(sys.argv[2])
channel = int(sys.argv[1])
while head := os.read(channel, 4):
    name, arguments = json.loads(os.read(channel, struct.unpack(">I", head)[0]))
    module, function = name.split(":")
    body = json.dumps(getattr(import_module(module), function)(*arguments)).encode()
    os.write(channel, struct.pack(">I", len(body)) + body)
"""


class Plain:
    """A child without locks and its trusting parent."""

    def __init__(self, home: str) -> None:
        self.channel, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-S", "-B", "-u", "-c", PLAIN, str(theirs.fileno()), home],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.channel.close()
        self.process.wait()

    def call(self, function: str, *arguments: Any) -> Any:
        body = dumps((function, arguments)).encode()
        self.channel.sendall(struct.pack(">I", len(body)) + body)
        (length,) = struct.unpack(">I", self.channel.recv(4))
        return loads(self.channel.recv(length))


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    if work() is not True:
        raise RuntimeError("a child gave a wrong answer: nothing that follows would mean anything")
    return time.perf_counter() - began


def first_answer(make: Callable[[], Plain | Sandbox]) -> float:
    """Seconds to it; closing is not counted."""
    began = time.perf_counter()
    with make() as child:
        child.call("plugin:is_warm", *ARGUMENTS)
        return time.perf_counter() - began


def resident(pid: int) -> float:
    """MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has ended")


def report(what: str, plain: Sequence[float], locked: Sequence[float], unit: str, scale: float, most: float) -> bool:
    ours, theirs = statistics.median(locked) * scale, statistics.median(plain) * scale
    ratio = ours / theirs
    late = sorted(locked)[int(len(locked) * 0.99)] * scale
    print(
        f"{what:24} plain {theirs:8.1f} {unit}   sandbox {ours:8.1f} {unit} (p99 {late:.1f})   "
        f"x {ratio:.2f}, at most {most:g}: {'reached' if ratio <= most else 'MISSED'}"
    )
    return ratio <= most


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sandbox", description=__doc__)
    parser.add_argument("--starts", type=int, default=30)
    parser.add_argument("--calls", type=int, default=3_000)
    options = parser.parse_args(words)
    bounds = Bounds(timeout=30.0)
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "plugin.py").write_text(PLUGIN)
        starts: tuple[list[float], list[float]] = ([], [])
        calls: tuple[list[float], list[float]] = ([], [])
        try:
            for _ in range(options.starts):
                starts[0].append(first_answer(lambda: Plain(home)))
                starts[1].append(first_answer(lambda: Sandbox(home, bounds=bounds)))
        except SandboxUnavailable as error:
            print(error)
            return 1
        with Plain(home) as plain, Sandbox(home, bounds=bounds) as sandbox:
            for _ in range(options.calls):
                calls[0].append(timed(lambda: plain.call("plugin:is_warm", *ARGUMENTS)))
                calls[1].append(timed(lambda: sandbox.call("plugin:is_warm", *ARGUMENTS)))
            assert sandbox.pid
            size, plain_size = resident(sandbox.pid), resident(plain.process.pid)
            print(f"kernel {os.uname().release}, {os.uname().machine}; locks: {', '.join(sandbox.holds)}")
            for part, why in sandbox.lacks.items():
                print(f"not held: {part}: {why}")
    reached = [
        report("start to first answer", *starts, "ms", 1e3, START_AT_MOST),
        report("warm call", *calls, "us", 1e6, CALL_AT_MOST),
        size <= MEMORY_AT_MOST,
    ]
    print(
        f"{'resident memory':24} plain {plain_size:8.1f} MiB  sandbox {size:8.1f} MiB, at most {MEMORY_AT_MOST:g}: "
        f"{'reached' if reached[-1] else 'MISSED'}"
    )
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
