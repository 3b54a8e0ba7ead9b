"""Kills the daemon with SIGKILL at any instant of its work, again and again, and judges from outside what came of it.

    python benchmarks/crash.py [--rounds 100] [--seed 1] [--hosts 6]

Each round breaks the supervised sample service (killed, hung, or eating memory), kills the daemon at a random instant
of noticing, planning, acting or proving, in some rounds once more while it takes up what was left, and starts it again.
The rule that heals has two steps: a command that leaves a line with the time of each execution in a file, then the
restart. So every deed leaves a mark in the world, and the marks are held against the journal:

1. nothing is repeated blindly: each deed has an intent of its own that is older than the deed; what was interrupted got
   its outcome, by a look, before anything else was begun; there are never two copies of the service;
2. nothing is lost: the service is well in the end, each intent has an outcome, each incident is closed, and whatever
   was on disk when the daemon died is there unchanged;
3. the journal as it lay there at the moment of death opens, passes SQLite's own check, holds its audit chain, and can
   be exported.

Exits with 1 when any of it is not so.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.demo.breaker import ask, break_, free_port
from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations

DAEMON = (
    sys.executable,
    "-c",
    "import pathlib, sys; from x0tta6bl4 import app; app.run(pathlib.Path(sys.argv[1]), {})",
)
KINDS = ("kill", "hang", "memory")
TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 60.0
"""Seconds in which all must be well again; a healthy daemon needs three to ten, a crowded machine more."""
AIM_WITHIN = 10.0
ROUNDING = 0.05
"""Seconds by which the start of a process, told in ticks since the boot, may seem to lie before its cause."""

TRACE = """#!/bin/sh
date +%s.%N >> {file}
sleep 0.15
"""
"""The deed comes first and its end later, so that many daemons die between the two: it was done, and nobody knows."""

CONFIG = """\
state_dir: state
lock_file: lock
logging: {{format: json}}
status: {{enabled: false}}
guard:
  allow: ["process.*", "command.*"]
  per_target: {{count: 100000}}
  per_kind: {{count: 100000}}
  storm: {{count: 100000}}
  backoff: {{base: 100ms, cap: 1s}}
executors:
  command: {{commands: {{trace: {{argv: ["{script}"]}}}}}}
subjects:
  sample:
    process:
      command: ["${{python}}", -m, x0tta6bl4.demo.victim, --port, "{port}"]
      on_exit: stop
    work: http://127.0.0.1:{port}/work
    mode: auto
    memory_limit: 80MiB
    start_timeout: 5s
runbooks:
  - runbook: traced
    summary: Leaves a mark, then restarts.
    trigger: {{anomaly: "*", if: subject.can.restart}}
    initial: restart
    states:
      restart:
        do:
          - {{action: command.trace}}
          - {{action: service.restart, args: {{grace: 200ms}}, timeout: 60s}}
        done: healed
        failed: tell
      tell: {{do: {{action: notify.human}}, done: told, failed: told}}
      healed: {{final: true}}
      told: {{final: true}}
"""


@dataclass(frozen=True)
class Aim:
    """The instant at which to kill: so many seconds after the daemon says something, or after the break."""

    after: str
    """``break``, ``boot`` (the daemon was just started), or an event and an action of the daemon's own log."""
    least: float
    most: float

    def draw(self, chance: random.Random) -> float:
        return chance.uniform(self.least, self.most)


AIMS: tuple[tuple[int, Aim], ...] = (
    (40, Aim("break", 0.0, 4.5)),
    (10, Aim("incident opened", 0.0, 0.03)),
    (15, Aim("acting command.trace", 0.0, 0.25)),
    (15, Aim("acting process.restart", 0.0, 0.4)),
    (10, Aim("acting process.restart", 0.4, 3.5)),
    (5, Aim("outcome command.trace", 0.0, 0.02)),
    (5, Aim("outcome process.restart", 0.0, 0.02)),
)
"""Half of the instants are even chance; the others look for the milliseconds between two writes."""
AGAIN = Aim("boot", 0.2, 2.5)
"""A second death, while what the first left behind is taken up."""


@dataclass(frozen=True)
class Round:
    kind: str
    aim: Aim
    delay: float
    again: float | None


def draw_rounds(count: int, seed: int, aims: Sequence[tuple[int, Aim]] = AIMS, again: float = 0.3) -> list[Round]:
    chance = random.Random(seed)
    rounds = []
    for number in range(count):
        aim = chance.choices([a for _, a in aims], [w for w, _ in aims])[0]
        rounds.append(
            Round(
                KINDS[number % len(KINDS)],
                aim,
                aim.draw(chance),
                AGAIN.draw(chance) if chance.random() < again else None,
            )
        )
    return rounds


# -- what is seen from outside -----------------------------------------------------------------------------------------


@dataclass
class Copies:
    """Every process that has borne one host's marker."""

    started: dict[tuple[int, int], float] = field(default_factory=dict)
    """(pid, start in ticks) -> wall-clock seconds of the start."""
    alive: set[tuple[int, int]] = field(default_factory=set)
    most: int = 0


class Watcher:
    """Looks through /proc all the time for the supervised services; the only witness that the daemon cannot talk to."""

    def __init__(self) -> None:
        self._homes: dict[bytes, Copies] = {}
        self._mine: dict[int, tuple[int, Copies]] = {}
        self._others: dict[int, int] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def follow(self, state_dir: Path) -> Copies:
        stat = state_dir.stat()
        copies = Copies()
        with self._lock:
            self._homes[f"\0X0TTA6BL4_HOME={stat.st_dev:x}:{stat.st_ino:x}\0".encode()] = copies
        return copies

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run, name="watcher")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self.look()

    def look(self) -> None:
        with self._lock:
            pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
            for gone in (self._mine.keys() | self._others.keys()) - set(pids):
                self._mine.pop(gone, None)
                self._others.pop(gone, None)
            for copies in self._homes.values():
                copies.alive.clear()
            for pid in pids:
                self._look_at(pid)
            for copies in self._homes.values():
                copies.most = max(copies.most, len(copies.alive))

    def _look_at(self, pid: int) -> None:
        if self._others.get(pid, 0) >= 50:  # between fork and exec it does not bear its marker yet
            return
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            environment = b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return
        known = self._mine.get(pid)
        copies = known[1] if known is not None else next((c for h, c in self._homes.items() if h in environment), None)
        if copies is None:
            self._others[pid] = self._others.get(pid, 0) + 1
            return
        if fields[0] in b"ZX":
            return
        key = pid, int(fields[19])
        self._mine[pid] = key[1], copies
        copies.started.setdefault(key, self._boot + key[1] / TICKS)
        copies.alive.add(key)


@dataclass
class Life:
    """One process of the daemon."""

    begun: float
    had_service: bool
    """Whether the service was running when it began: only when not, the daemon may start it without an incident."""
    ended: float = float("inf")


class Host:
    """A daemon with its own folder, port and service; many of them share the machine without knowing of each other."""

    def __init__(self, folder: Path, watcher: Watcher, daemon: Sequence[str] = DAEMON) -> None:
        self.folder = folder
        self.port = free_port()
        self.marks = folder / "marks"
        self.lives: list[Life] = []
        self.phases: Counter[str] = Counter()
        self._daemon = daemon
        self._process: subprocess.Popen[bytes] | None = None
        self._said: list[str] = []
        self._heard = threading.Condition()
        self._kept: dict[str, Any] = {}
        (folder / "state").mkdir(parents=True)
        script = folder / "trace"
        script.write_text(TRACE.format(file=self.marks))
        script.chmod(0o755)
        self.marks.touch()
        (folder / "config.yaml").write_text(CONFIG.format(script=script, port=self.port))
        self._watcher = watcher
        self.copies = watcher.follow(folder / "state")

    @property
    def database(self) -> Path:
        return self.folder / "state" / "knowledge.db"

    def start(self) -> None:
        self._watcher.look()
        self.lives.append(Life(time.time(), bool(self.copies.alive)))
        self._said.clear()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._daemon, str(self.folder / "config.yaml")], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
            )
            threading.Thread(target=self._listen, args=(self._process, log.name), daemon=True).start()

    def _listen(self, process: subprocess.Popen[bytes], log: str) -> None:
        assert process.stderr is not None
        with process.stderr as said, open(log, "ab") as file:
            for line in said:
                file.write(line)
                file.flush()
                try:
                    told = json.loads(line)
                    words = f"{told['event']} {told.get('action', '')}".strip()
                except (ValueError, KeyError):
                    continue
                with self._heard:
                    self._said.append(words)
                    self._heard.notify_all()

    def wait_said(self, words: str, timeout: float) -> bool:
        """By their beginning: an incident is opened, or opened again."""
        with self._heard:
            return self._heard.wait_for(lambda: any(said.startswith(words) for said in self._said), timeout)

    def forget_said(self) -> None:
        with self._heard:
            self._said.clear()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.lives[-1].ended = time.time()

    def stop(self) -> int:
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self.lives[-1].ended = time.time()

    def put_away(self) -> None:
        """Nothing of a host that failed its check may outlive it."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._watcher.look()
        for pid, _ in self.copies.alive:
            os.kill(pid, signal.SIGKILL)

    # -- one round --

    def break_service(self, kind: str) -> None:
        if kind == "memory":
            break_(self.port, "leak", mib_per_s=400, limit=130)
        else:
            break_(self.port, kind)

    def wait_well(self) -> str:
        """Empty when all is well; else what was missing when the patience was over."""
        until = time.monotonic() + PATIENCE
        missing = "nothing was looked at"
        while time.monotonic() < until:
            missing = self._missing()
            if not missing:
                return ""
            time.sleep(0.05)
        return missing

    def _missing(self) -> str:
        answer = ask(self.port, timeout=1.0)
        if answer.status != 200:
            return f"the service does not answer ({answer})"
        journal = self.journal()
        if max(journal["epochs"].values(), default=0.0) < self.lives[-1].begun:
            return "the daemon has not begun its loop"
        if left := [i for i in journal["incidents"].values() if i["state"] != "closed"]:
            return f"incident {left[0]['id']} ({left[0]['fault']}) is {left[0]['state']}"
        if open_steps := [s for s in journal["steps"].values() if s["result"] is None]:
            return f"step {open_steps[0]['id']} has no outcome"
        return ""

    def journal(self) -> dict[str, Any]:
        return _read(f"file:{self.database}?mode=ro")

    def look_at_remains(self) -> list[str]:
        """What lies on disk while the daemon is dead. Looked at in a copy: to open it in place would mend it."""
        wrong: list[str] = []
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            for suffix in ("", "-wal"):
                source = Path(f"{self.database}{suffix}")
                if source.exists():
                    shutil.copy(source, Path(place) / f"knowledge.db{suffix}")
            copy = Path(place) / "knowledge.db"
            if not copy.exists():
                self.phases["before there was a journal"] += 1
                return []
            try:
                wrong += asyncio.run(_is_readable(copy))
            except StoreError as error:
                return [f"the journal cannot be read: {error}"]
            journal = _read(f"file:{copy}?mode=ro")
        wrong += _lost(self._kept, journal)
        self._kept = journal
        self.phases[_phase(journal)] += 1
        return wrong

    # -- the judgement --

    def judge(self) -> list[str]:
        journal = self.journal()
        wrong = _lost(self._kept, journal)
        wrong += [f"{self.copies.most} copies of the service ran at once"] if self.copies.most > 1 else []
        output = self.folder / "state" / "output" / "sample.log"
        if output.exists() and "cannot serve" in output.read_text(errors="replace"):
            wrong.append("a second copy of the service tried to start: its log says that the port was taken")
        steps = sorted(journal["steps"].values(), key=lambda s: s["intent_at"])
        wrong += self._judge_interrupted(journal, steps)
        wrong += self._judge_marks(steps)
        wrong += self._judge_starts(steps)
        return wrong

    def _life_of(self, step: Mapping[str, Any]) -> tuple[Life, bool]:
        """The life that meant the step, and whether it died before it knew the outcome."""
        life = next(one for one in reversed(self.lives) if one.begun <= step["intent_at"])
        return life, step["ended_at"] is None or step["ended_at"] > life.ended

    def _judge_interrupted(self, journal: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        for step in steps:
            life, interrupted = self._life_of(step)
            if not interrupted:
                continue
            name = f"step {step['id']} ({step['action']})"
            if step["result"] is None:
                yield f"{name} was interrupted and never got an outcome"
                continue
            later = [at for epoch, at in journal["epochs"].items() if epoch > step["epoch"]]
            if not later or step["ended_at"] < min(later):
                yield f"{name} was interrupted, and its outcome is not from a later life"
            detail = json.loads(step["outcome"])["detail"]
            if "before the outcome was written" not in detail:
                yield f"{name} was interrupted, and its outcome does not say so: {detail}"
            for other in steps:
                if life.ended < other["intent_at"] < step["ended_at"] and other["subject"] == step["subject"]:
                    yield f"{other['action']} was begun before anybody had looked what became of {name}"

    def _windows(self, steps: Sequence[Mapping[str, Any]], action: str) -> list[tuple[float, float, Mapping[str, Any]]]:
        """From when until when each deed of that kind may have come."""
        windows = []
        for step in steps:
            if step["action"] == action:
                life, interrupted = self._life_of(step)
                # What a daemon had begun when it died may still come about a moment later: a program that was forked.
                windows.append((step["intent_at"], life.ended + 0.15 if interrupted else step["ended_at"], step))
        return windows

    def _judge_marks(self, steps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        windows = self._windows(steps, "command.trace")
        found: Counter[str] = Counter()
        for line in self.marks.read_text().split():
            at = float(line)
            of = [step["id"] for begin, end, step in windows if begin <= at <= end]
            if not of:
                yield f"the command was executed at {at:.3f} and no intent speaks of it"
            found.update(of[-1:])
        for _, _, step in windows:
            times = found[step["id"]]
            if times > 1:
                yield f"the command of step {step['id']} was executed {times} times"
            if times == 0 and not self._life_of(step)[1] and step["result"] == "unverified":
                yield f"the command of step {step['id']} is said to have been executed, and was not"

    def _judge_starts(self, steps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        windows = self._windows(steps, "process.restart")
        found: Counter[str] = Counter()
        at_boot: Counter[float] = Counter()
        for (pid, _), at in sorted(self.copies.started.items(), key=lambda item: item[1]):
            of = [step["id"] for begin, end, step in windows if begin - ROUNDING <= at <= end]
            if of:
                found.update(of[-1:])
                continue
            life = next((one for one in reversed(self.lives) if one.begun - ROUNDING <= at), None)
            before = [s for s in steps if life is not None and life.begun <= s["intent_at"] <= at]
            if life is None or life.had_service or before:
                yield f"the service was started at {at:.3f} (pid {pid}) and no intent speaks of it"
            else:
                at_boot[life.begun] += 1
        yield from (f"step {id} started the service {times} times" for id, times in found.items() if times > 1)
        yield from (
            f"the daemon started the service {times} times at its own start" for times in at_boot.values() if times > 1
        )


def _read(uri: str) -> dict[str, Any]:
    with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row

        def rows(table: str, key: str) -> dict[Any, dict[str, Any]]:
            try:
                return {row[key]: dict(row) for row in connection.execute(f"SELECT * FROM {table}")}
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):  # the daemon died before it had made them
                    return {}
                raise

        return {
            "steps": rows("steps", "id"),
            "incidents": rows("incidents", "id"),
            "plans": rows("plans", "id"),
            "audit": rows("audit", "seq"),
            "epochs": {epoch: row["at"] for epoch, row in rows("epochs", "epoch").items()},
        }


async def _is_readable(path: Path) -> list[str]:
    wrong: list[str] = []
    database = await SqliteDatabase.open(path, migrations())
    try:
        verdict = (await database.read("PRAGMA integrity_check"))[0][0]
        if verdict != "ok":
            wrong.append(f"the journal is damaged: {verdict}")
        knowledge = SqliteKnowledge("store", Config(), database, SystemClock())
        await knowledge.verify_audit()
        lines: list[str] = []
        await knowledge.export(lines.append)
        if json.loads(lines[-1]) != {"kind": "end", "rows": len(lines) - 2}:
            wrong.append(f"the export does not end as it should: {lines[-1]}")
    finally:
        await database.close()
    return wrong


def _lost(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What was on disk at one death and is not, or is otherwise, at the next."""
    wrong = []
    for table in ("incidents", "plans", "audit", "epochs"):
        gone = before.get(table, {}).keys() - after[table].keys()
        wrong += [f"{table}: {key} was there and is lost" for key in gone]
    for id, step in before.get("steps", {}).items():
        now = after["steps"].get(id)
        if now is None:
            wrong.append(f"step {id} was there and is lost")
        elif now["step"] != step["step"] or (step["outcome"] is not None and now["outcome"] != step["outcome"]):
            wrong.append(f"step {id} was changed after its end")
    return wrong


def _phase(journal: Mapping[str, Any]) -> str:
    """Where the daemon was when it died, as far as the journal knows."""
    unfinished = [s for s in journal["steps"].values() if s["result"] is None]
    if unfinished:
        return f"in the middle of {unfinished[-1]['action']}"
    incidents = [i for i in journal["incidents"].values() if i["state"] != "closed"]
    if not incidents:
        return "with nothing open"
    steps = [s for s in journal["steps"].values() if s["ended_at"] >= json.loads(incidents[-1]["body"])["onset_at"]]
    return "between two writes, after an outcome" if steps else "with an incident and no step yet"


async def _leave_audit(path: Path, number: int) -> None:
    """As the command line would, from another process, while the daemon runs: so that there is a chain to hold."""
    database = await SqliteDatabase.open(path, migrations(), check=False)
    try:
        await SqliteKnowledge("store", Config(), database, SystemClock()).audit("crash", "round", {"number": number})
    finally:
        await database.close()


# -- all of it ---------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    rounds: int = 0
    deaths: int = 0
    wrong: list[str] = field(default_factory=list)
    phases: Counter[str] = field(default_factory=Counter)
    looked_up: int = 0
    """Steps whose daemon died in the middle of them, settled by a later one."""
    deeds: int = 0
    """Executions of the command and starts of the service, as the world saw them."""
    seconds: float = 0.0


def play(host: Host, rounds: Sequence[Round], told: Callable[[str], None], stop: threading.Event) -> Report:
    """One host's rounds, until the first that goes wrong."""
    report = Report()
    try:
        host.start()
        wrong = _not_well(host, "after the first start")
        for number, one in enumerate(rounds):
            if wrong or stop.is_set():
                break
            asyncio.run(_leave_audit(host.database, number))
            host.forget_said()
            host.break_service(one.kind)
            if one.aim.after != "break":
                # It may have good reasons to do something else, or to wait: then it dies while it waits.
                host.wait_said(one.aim.after, AIM_WITHIN)
            time.sleep(one.delay)
            host.kill()
            report.deaths += 1
            wrong += host.look_at_remains()
            host.start()
            if one.again is not None:
                time.sleep(one.again)
                host.kill()
                report.deaths += 1
                wrong += host.look_at_remains()
                host.start()
            wrong += _not_well(host, f"after {one}")
            wrong += host.judge()
            report.rounds += 1
            told(
                f"{one.kind}, {one.aim.after} + {one.delay:.3f} s{' and again' if one.again else ''}: "
                f"{'; '.join(wrong) or 'well'}"
            )
        if not wrong:
            code = host.stop()
            wrong += [f"the last daemon ended with {code}"] if code else []
            wrong += host.look_at_remains()
            wrong += host.judge()
        report.wrong = list(dict.fromkeys(wrong))
        report.phases = host.phases
        report.looked_up = sum(host._life_of(s)[1] for s in host.journal()["steps"].values())
        report.deeds = len(host.marks.read_text().split()) + len(host.copies.started)
    finally:
        host.put_away()
    return report


def _not_well(host: Host, when: str) -> list[str]:
    missing = host.wait_well()
    return [f"not well within {PATIENCE:g} s {when}: {missing}"] if missing else []


def crash(
    folder: Path,
    rounds: Sequence[Round],
    *,
    hosts: int = 6,
    daemon: Sequence[str] = DAEMON,
    told: Callable[[str], None] = lambda line: None,
) -> Report:
    """Plays the rounds on so many hosts side by side; the first that goes wrong ends them all."""
    began = time.monotonic()
    watcher, stop, whole = Watcher(), threading.Event(), Report()

    def one(number: int) -> Report:
        host = Host(folder / f"host{number}", watcher, daemon)
        report = play(host, rounds[number::hosts], lambda line: told(f"host{number}: {line}"), stop)
        if report.wrong:
            stop.set()
        return report

    with watcher.watching(), ThreadPoolExecutor(hosts) as pool:
        for report in pool.map(one, range(hosts)):
            whole.rounds += report.rounds
            whole.deaths += report.deaths
            whole.wrong += report.wrong
            whole.phases += report.phases
            whole.looked_up += report.looked_up
            whole.deeds += report.deeds
    whole.seconds = time.monotonic() - began
    return whole


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hosts", type=int, default=6, help="daemons killed side by side")
    parser.add_argument("--keep", type=Path, help="folder for what is left; default: a temporary one")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="crash-") as scratch:
        folder = given.keep or Path(scratch)
        report = crash(folder, draw_rounds(given.rounds, given.seed), hosts=min(given.hosts, given.rounds), told=print)
    print(f"\n{report.deaths} deaths in {report.rounds} rounds (seed {given.seed}), {report.seconds:.0f} s")
    for phase, times in report.phases.most_common():
        print(f"  {times:4}  died {phase}")
    print(f"  {report.looked_up:4}  interrupted steps settled by a look; {report.deeds} deeds seen in the world")
    verdict = [f"WRONG: {line}" for line in report.wrong]
    print("\n".join(verdict) or "nothing repeated blindly, nothing lost, all readable")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
