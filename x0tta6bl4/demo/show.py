"""The demonstration: a real daemon, a real service, four real faults, and the clock running."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from x0tta6bl4.demo.breaker import ask, break_, free_port, wait_until_answers

CONFIG = """\
state_dir: state
lock_file: daemon.lock
logging: {{format: json}}
status: {{port: {status}}}
guard:
  allow: [process.*, cleanup.*]
subjects:
"""
SUBJECT = """\
  {name}:
    process:
      command: ["${{python}}", -m, x0tta6bl4.demo.victim, --port, "{port}", --folder, "${{config_dir}}/{name}"]
      on_exit: stop
    work: http://127.0.0.1:{port}/work
    mode: auto
    memory_limit: 100MiB
    cleanup:
      - {{folder: "${{config_dir}}/{name}/cache"}}
"""


@dataclass(frozen=True)
class Fault:
    name: str
    story: str
    cause: Callable[[int, int], None]
    """Breaks the service on a port, whose process has that pid."""
    victim: str = "sample"


def _kill(port: int, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


FAULTS = (
    Fault("killed", "SIGKILL to its process", _kill),
    Fault("hung", "it lives, but no handler answers any more", lambda port, pid: _break(port, "hang")),
    Fault(
        "leaking",
        "it takes 100 MiB of memory a second; the limit is 100 MiB",
        lambda port, pid: _break(port, "leak", mib_per_s=100, limit=400),
    ),
    Fault(
        "poisoned",
        "its cache is corrupt, so that every plain restart fails",
        lambda port, pid: _break(port, "poison", now=1),
        # One that was not restarted three times already: the daemon would not even try a fourth plain restart there.
        victim="sample-2",
    ),
)


def _break(port: int, kind: str, **how: float) -> None:
    break_(port, kind, **how)


class _Narrator:
    """Reads the daemon's log and says the parts of it that tell the story, with the time since the fault."""

    def __init__(self, log: IO[str]) -> None:
        self._began = time.monotonic()
        self._log = log
        self.outcomes: list[dict[str, Any]] = []
        self.quiet = True
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def begin(self) -> None:
        self.outcomes.clear()
        self._began = time.monotonic()
        self.quiet = False

    def _read(self) -> None:
        for line in self._log:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if not self.quiet:
                self._say(entry)
            if entry.get("event") == "outcome":
                self.outcomes.append(entry)

    def _say(self, entry: dict[str, Any]) -> None:
        event = entry.get("event")
        if event in ("incident opened", "incident opened again"):
            self._line("sees", entry.get("summary", ""))
        elif event == "acting":
            self._line("acts", f"{entry.get('action')}, by rule {entry.get('rule')}, rung {entry.get('rung')}")
        elif event == "holding back":
            self._line("holds", str(entry.get("reason", "")))
        elif event == "outcome" and entry.get("action") == "notify.human":
            self._line("tells", "a human")
        elif event == "outcome":
            self._line(
                "done" if entry.get("result") == "unverified" else str(entry.get("result")),
                str(entry.get("detail", "")),
            )

    def _line(self, word: str, text: str) -> None:
        print(f"  {time.monotonic() - self._began:7.2f} s  {word:<11}{text}", flush=True)


def _wait_verified(narrator: _Narrator, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if any(entry.get("result") == "verified" for entry in narrator.outcomes):
            return True
        time.sleep(0.02)
    return False


def main(argv: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(prog="x0tta6bl4 demo", description=__doc__)
    parser.add_argument(
        "faults", nargs="*", metavar="FAULT", help=f"which to show: {', '.join(f.name for f in FAULTS)}; default all"
    )
    wanted = parser.parse_args(list(argv)).faults
    unknown = [name for name in wanted if name not in {f.name for f in FAULTS}]
    if unknown:
        parser.error(f"there is no fault {unknown[0]!r}; there are: {', '.join(f.name for f in FAULTS)}")
    with tempfile.TemporaryDirectory(prefix="x0tta6bl4-demo-") as folder:
        return _show(Path(folder), [f for f in FAULTS if not wanted or f.name in wanted])


def _show(folder: Path, faults: Sequence[Fault]) -> int:
    ports = {name: free_port() for name in dict.fromkeys(fault.victim for fault in faults)}
    for name in ports:
        (folder / name).mkdir()
    config = folder / "x0tta6bl4.yaml"
    subjects = "".join(SUBJECT.format(name=name, port=port) for name, port in ports.items())
    config.write_text(CONFIG.format(status=free_port()) + subjects)
    places = " and ".join(f"{name} on port {port}" for name, port in ports.items())
    print(f"Small web services under the daemon's care: {places}. They are about to have a bad day.\n", flush=True)
    daemon = subprocess.Popen(
        [sys.executable, "-m", "x0tta6bl4", "run", "--config", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert daemon.stderr is not None
    narrator = _Narrator(daemon.stderr)
    heals: list[tuple[str, float | None]] = []
    try:
        for port in ports.values():
            wait_until_answers(port, time.monotonic(), timeout=30.0)
        time.sleep(1.5)  # let it be well for a moment, so that each fault begins from health
        for fault in faults:
            port = ports[fault.victim]
            pid = ask(port).pid
            if pid is None:
                print(f"{fault.name}: the service is not well, so this fault is not shown")
                heals.append((fault.name, None))
                continue
            print(f"{fault.name}: {fault.story}", flush=True)
            narrator.begin()
            began = time.monotonic()
            fault.cause(port, pid)
            try:
                seconds: float | None = wait_until_answers(port, began, other_than_pid=pid, timeout=60.0)
            except TimeoutError:
                seconds = None
            verified = seconds is not None and _wait_verified(narrator, 30.0)
            narrator.quiet = True
            heals.append((fault.name, seconds if verified else None))
            print(
                f"  {'':7}    => {f'answered again after {seconds:.2f} s' if seconds is not None else 'NOT HEALED'}"
                f"{'' if verified else ', but that was not proved'}\n",
                flush=True,
            )
            time.sleep(1.0)
    except KeyboardInterrupt:
        print("\nstopped")
    finally:
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    for name, seconds in heals:
        print(f"  {name:<10}{f'healed, answered after {seconds:6.2f} s' if seconds is not None else 'not healed'}")
    return 0 if len(heals) == len(faults) and all(s is not None for _, s in heals) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
