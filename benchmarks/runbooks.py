"""Measures what durable runbooks cost: macrosteps a second on disk, resuming, memory, checking, and waiting.

    python -m benchmarks.runbooks [--only durable,resume,memory,check,waiting] [--rounds 5] [--folder FOLDER]

All of it goes the daemon's own way: the planner moves the incident, the knowledge store writes it with its moves into a
real file, and the real database forms the groups: whatever waits when a commit is over is the next one, with one fsync.
Nothing is counted before it is on disk. ``--folder`` says on which disk; a memory filesystem would prove nothing and is
refused. Exits with 1 when a goal is missed.
"""

import argparse
import asyncio
import gc
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import yaml

from benchmarks.ground import ROOT
from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase, _Job
from x0tta6bl4.kernel.facts import Condition, Finding, Incident, IncidentState, Message, Severity
from x0tta6bl4.kernel.loop import MAPEK, Parts
from x0tta6bl4.kernel.plugin import Advance, Situation
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.knowledge.sqlite import Config as KnowledgeConfig
from x0tta6bl4.knowledge.sqlite import SqliteKnowledge, migrations
from x0tta6bl4.planners.runbook import Config as RunbookConfig
from x0tta6bl4.planners.runbook import Runbooks
from x0tta6bl4.runbooks.document import read

EXAMPLE = ROOT / "tests" / "unit" / "runbooks" / "wg_link_loss.yaml"
OPEN = 10_000
"""Incidents that are open at once."""
GROUP = 64
"""Moves that share a commit: half of the incidents that move at once, for while these are written those are moved."""
STEPS = 8_000
"""Macrosteps of one round."""
EPOCH = 1

GOALS: Mapping[str, tuple[float, str]] = {
    "macrosteps a second, on disk": (10_000.0, "least"),
    "resume of 10,000, s": (0.5, "most"),
    "bytes of an open incident": (3_000.0, "most"),
    "10,000 open incidents, MB": (40.0, "most"),
    "load and check of 30 states, ms": (150.0, "most"),
    "CPU while 10,000 timers wait, % of a core more": (0.5, "most"),
}
Found = dict[str, float]
IN_A_ROW = 8
TOGETHER = f"{GROUP} incidents moved and written together, as the loop does, {IN_A_ROW} steps of each in a row"
MOVING = f"{2 * GROUP} incidents at once, {IN_A_ROW} steps of each in a row"
EVENTS = (("link.loss", {"loss": 0.9}), ("link.ok", {"loss": 0.0}))


def cared_for(number: int) -> Subject:
    return Subject(f"link-{number}", kind="link", mode="auto")


def incident_of(number: int, now: float) -> Incident:
    return Incident(
        id=f"inc-{number:016x}",
        subject=f"link-{number}",
        fault="link.loss",
        state=IncidentState.OPEN,
        severity=Severity.MAJOR,
        summary=f"link-{number} loses 40 % of its packets",
        opened_at=now,
        updated_at=now,
        onset_at=now,
        because=(f"link-{number} link_loss_ratio is 40 %",),
        healthy_when=(Condition("link_loss_ratio", "<", 0.02),),
        data={"node": f"node-{number}", "link": "wg0", "loss": 0.4},
    )


def planner_by(text: str) -> Runbooks:
    rules = [dict(book.source) for book in read(text, "runbook", prove=False)]
    return Runbooks("runbook", RunbookConfig(rules=rules, shipped=False))


def example() -> Runbooks:
    return planner_by(EXAMPLE.read_text(encoding="utf-8"))


def situation_of(subject: Subject) -> Situation:
    return Situation(subject, time.time(), monotonic=time.monotonic(), epoch=EPOCH)


def diagnosing(planner: Runbooks, number: int) -> Advance:
    """Opened, and its first action under way: two regions active, one activity, the deadline's timer."""
    advance = planner.plan(incident_of(number, time.time()), situation_of(cared_for(number)))
    assert advance is not None
    (plan,) = advance.plans
    return Advance(planner.begun(advance.incident, plan, EPOCH), advance.moves)


class Counted(SqliteDatabase):
    """The database, which also keeps how many works each commit had."""

    groups: list[int]

    def _serve_writes(self, jobs: list[_Job]) -> None:
        self.groups.append(len(jobs))
        super()._serve_writes(jobs)


async def store(folder: Path) -> tuple[Counted, SqliteKnowledge]:
    database = await Counted.open(folder / "knowledge.db", migrations())
    database.groups = []
    return database, SqliteKnowledge("store", KnowledgeConfig(), database, SystemClock())


async def at_once(count: int, work: Iterator[Coroutine[Any, Any, None]]) -> None:
    async def one() -> None:
        for each in work:
            await each

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())


async def filled(knowledge: SqliteKnowledge, planner: Runbooks, count: int) -> list[Incident]:
    opened = [diagnosing(planner, number) for number in range(count)]
    await at_once(256, (knowledge.save_incident(advance.incident, advance.moves) for advance in opened))
    await knowledge.keep_books(planner.books())
    return [advance.incident for advance in opened]


# -- macrosteps on disk ------------------------------------------------------------------------------------------------


@dataclass
class Rounds:
    """What several rounds of the same took."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    def say(self, what: str) -> float:
        rates = [STEPS / seconds for seconds in self.wall]
        print(
            f"    {what}: median {statistics.median(rates):,.0f}/s of {len(rates)} rounds (from {min(rates):,.0f} to"
            f" {max(rates):,.0f}), CPU {statistics.median(self.cpu) / STEPS * 1e6:.0f} us each;"
            f" {statistics.mean(self.groups):.1f} to a commit,"
            f" {sum(self.wall) / len(self.groups) * 1e3:.2f} ms from one to the next"
        )
        return statistics.median(rates)


def durable(rounds: int, folder: Path) -> Found:
    async def measured() -> Found:
        planner = example()
        database, knowledge = await store(folder)
        try:
            kept = dict(enumerate(await filled(knowledge, planner, OPEN)))
            subjects = [cared_for(number) for number in range(OPEN)]
            numbers = cycle(kept)
            heard = 0

            def told(number: int, event: str, data: Mapping[str, Any]) -> Advance:
                nonlocal heard
                incident = kept[number]
                heard += 1
                message = Message(f"msg-{heard:016x}", incident.id, event, data, "monitor", time.time())
                advance = planner.tell(incident, message, situation_of(subjects[number]))
                assert len(advance.moves) == 1, advance
                kept[number] = advance.incident
                return advance

            async def moved(number: int, event: str, data: Mapping[str, Any]) -> None:
                advance = told(number, event, data)
                await knowledge.save_incident(advance.incident, advance.moves)

            what_of = {number: cycle(EVENTS) for number in kept}

            async def together(steps: list[tuple[int, str, Mapping[str, Any]]]) -> None:
                """Two groups at a time: one is made while the other is written."""
                groups = iter([steps[at : at + GROUP] for at in range(0, len(steps), GROUP)])

                async def one() -> None:
                    for group in groups:
                        changed = [told(*step) for step in group]
                        await knowledge.save_incidents([(made.incident, made.moves) for made in changed])

                await asyncio.gather(one(), one())

            ways: dict[str, tuple[int, int]] = {
                TOGETHER: (GROUP, IN_A_ROW),
                MOVING: (2 * GROUP, IN_A_ROW),
                f"{2 * GROUP} incidents at once, each step another incident's": (2 * GROUP, 1),
                f"512 incidents at once, {IN_A_ROW} steps of each in a row": (512, IN_A_ROW),
                "one after the other, a commit each": (1, IN_A_ROW),
            }
            taken = {way: Rounds() for way in ways}
            for _ in range(rounds):
                for way, (flight, in_a_row) in ways.items():
                    seen = taken[way]
                    steps = []
                    while len(steps) < STEPS:
                        moving = [next(numbers) for _ in range(min(flight, STEPS))]
                        steps += [(number, *next(what_of[number])) for _ in range(in_a_row) for number in moving]
                    del steps[STEPS:]
                    database.groups.clear()
                    gc.collect()
                    wall, cpu = time.perf_counter(), time.process_time()
                    if way == TOGETHER:
                        await together(steps)
                    else:
                        await at_once(flight, (moved(*step) for step in steps))
                    seen.wall.append(time.perf_counter() - wall)
                    seen.cpu.append(time.process_time() - cpu)
                    seen.groups += [count * GROUP for count in database.groups] if way == TOGETHER else database.groups
            print(
                f"macrosteps on disk: of {OPEN:,} open incidents of the example runbook; event, planner, incident and"
                f" move written in one transaction, synchronous=FULL, {STEPS:,} a round. A commit takes all that wait"
                " when the one before is over."
            )
            rates = {way: seen.say(way) for way, seen in taken.items()}
            # Afterwards the journal must have all of them: in their order, nothing twice, nothing missing.
            for number in (0, 1, OPEN // 2, OPEN - 1):
                moves = await knowledge.moves(kept[number].id)
                assert [move.number for move in moves] == list(range(1, len(moves) + 1)), moves
                assert len(moves) == kept[number].place["number"], (len(moves), kept[number].place)
            return {"macrosteps a second, on disk": rates[TOGETHER]}
        finally:
            await database.close()

    return asyncio.run(measured())


# -- resuming, memory --------------------------------------------------------------------------------------------------


def resume(rounds: int, folder: Path) -> Found:
    """Each round in a process of its own, as a daemon that has just begun."""

    async def prepared() -> None:
        database, knowledge = await store(folder)
        await filled(knowledge, example(), OPEN)
        await database.close()

    asyncio.run(prepared())
    wall, cpu, parts = [], [], []
    for _ in range(rounds):
        told = subprocess.check_output(
            [sys.executable, "-m", "benchmarks.runbooks", "--as-resumed", str(folder)], cwd=ROOT
        )
        found = json.loads(told)
        assert found["restored"] == OPEN, found
        wall.append(found["wall"])
        cpu.append(found["cpu"])
        parts.append(found["parts"])
    print(
        f"resume: {OPEN:,} open incidents, in a new process {rounds} times: median {statistics.median(wall):.2f} s,"
        f" longest {max(wall):.2f} s, CPU {statistics.median(cpu):.2f} s; of it "
        + ", ".join(f"{name} {statistics.median(p[name] for p in parts):.2f} s" for name in parts[0])
        + " (the first of them also looks through the whole file for damage)"
    )
    return {"resume of 10,000, s": statistics.median(wall)}


def resumed(folder: Path) -> dict[str, Any]:
    async def measured() -> dict[str, Any]:
        planner = example()
        _ = planner.runbooks[0].chart
        marks = [("", time.perf_counter())]
        cpu = time.process_time()
        database, knowledge = await store(folder)
        marks.append(("opening the store", time.perf_counter()))
        incidents = await knowledge.open_incidents()
        marks.append(("reading the incidents", time.perf_counter()))
        now, monotonic, restored = time.time(), time.monotonic(), 0
        for number, incident in enumerate(incidents):
            # A new life of the daemon: timers are taken over, what was begun is begun anew; nothing else happens.
            situation = Situation(cared_for(number), now, monotonic=monotonic, epoch=EPOCH + 1)
            life = planner._life(incident, situation)
            assert life is not None and life.is_begun
            restored += "diagnose" in life.states
        marks.append(("restoring their places", time.perf_counter()))
        cpu = time.process_time() - cpu
        await database.close()
        parts = {name: at - before for (name, at), (_, before) in zip(marks[1:], marks, strict=False)}
        return {"wall": sum(parts.values()), "cpu": cpu, "parts": parts, "restored": restored}

    return asyncio.run(measured())


def memory(folder: Path) -> Found:
    async def measured() -> tuple[float, float]:
        database, knowledge = await store(folder)
        try:
            planner = example()
            await filled(knowledge, planner, 100)  # what is made once for all of them is there before
            before = _traced()
            held = await filled(knowledge, planner, OPEN)
            moved = (_traced() - before) / OPEN
            del held
            before = _traced()
            loaded = await knowledge.open_incidents()
            await asyncio.sleep(0)  # until then the answer of the database is held by who woke this task
            read = (_traced() - before) / OPEN
            assert len(loaded) == OPEN
            return moved, read
        finally:
            await database.close()

    tracemalloc.start()
    try:
        moved, read = asyncio.run(measured())
    finally:
        tracemalloc.stop()
    print(
        f"memory of an open incident of the example runbook, with its place, of {OPEN:,}: {moved:,.0f} bytes as the"
        f" planner leaves it, {read:,.0f} as it is read from the store"
    )
    most = max(moved, read)
    return {"bytes of an open incident": most, "10,000 open incidents, MB": most * OPEN / 1e6}


def _traced() -> float:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


# -- checking ----------------------------------------------------------------------------------------------------------


def thirty_states() -> str:
    """A runbook of 30 states, as people write them: ten tries that differ, each with its check and its pause."""
    states: dict[str, Any] = {}
    tries = 9
    for number in range(tries):
        after = f"try{number + 1}" if number + 1 < tries else "tell"
        states[f"try{number}"] = {
            "do": {"action": "service.restart", "timeout": "20s"},
            "done": f"check{number}",
            "failed": [{"to": f"pause{number}", "if": "attempts < 3"}, {"to": after}],
            "enter": {"set": {"attempts": "attempts + 1"}},
        }
        states[f"check{number}"] = {
            "do": {"action": "service.reload", "timeout": "20s"},
            "done": "well",
            "failed": f"pause{number}",
            "on": {"operator.skip": after},
        }
        states[f"pause{number}"] = {"after": {"30s": after}, "on": {"operator.retry": f"try{number}"}}
    states["tell"] = {"do": {"action": "notify.human"}, "done": "told", "failed": "told"}
    states["told"] = {"final": True}
    states["well"] = {"final": True}
    assert len(states) == 30
    return yaml.safe_dump(
        {
            "runbook": "thirty",
            "version": 1,
            "summary": "Tries many things, one after the other, and tells a human at the end.",
            "trigger": {"anomaly": "hung"},
            "data": {"attempts": 0},
            "initial": "try0",
            "states": states,
        },
        sort_keys=False,
    )


def check(rounds: int) -> Found:
    found: dict[str, float] = {}
    for name, text in (("30 states", thirty_states()), ("the example", EXAMPLE.read_text(encoding="utf-8"))):
        wall, cpu = [], []
        for _ in range(rounds + 1):
            began, used = time.perf_counter(), time.process_time()
            (book,) = read(text, f"{name}.yaml")
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - used)
        states = sum(1 for _ in book.walk())
        print(
            f"load, lint and model check of {name} ({states} states), {rounds} times: median"
            f" {statistics.median(wall[1:]) * 1e3:.1f} ms, CPU {statistics.median(cpu[1:]) * 1e3:.1f} ms; the first"
            f" {wall[0] * 1e3:.1f} ms"
        )
        found[name] = statistics.median(wall[1:]) * 1e3
    return {"load and check of 30 states, ms": found["30 states"]}


# -- waiting -----------------------------------------------------------------------------------------------------------


class Standing:
    """An analyzer to which every link goes on losing packets."""

    name = "standing"

    def analyze(self, view: View) -> Sequence[Finding]:
        names = view.sight.subjects if view.scope is None else view.scope
        return [
            Finding(self.name, name, "link.loss", "loses packets", Severity.MAJOR, data={"node": name, "loss": 0.4})
            for name in names
        ]


WAITS = """
runbook: waits
version: 1
summary: Waits for a day.
trigger: {anomaly: link.loss}
initial: waiting
states:
  waiting: {after: {24h: told}}
  told: {final: true}
"""


def waiting(seconds: float, folder: Path) -> Found:
    """The real loop over so many incidents whose runbooks wait for a time, and over none."""

    async def measured(count: int) -> tuple[float, float, int]:
        database, knowledge = await store(folder / str(count))
        subjects = {subject.name: subject for subject in map(cared_for, range(count))}
        loop = MAPEK(
            Parts(
                clock=SystemClock(),
                knowledge=knowledge,
                planner=planner_by(WAITS),
                analyzers=[Standing()],
                sight=Sight(subjects),
                close=database.close,
            ),
            timeout=120.0,
        )
        running = asyncio.create_task(loop.start(), name="loop")
        await loop.first_turn.wait()
        await asyncio.sleep(1.0)
        turns, began, used = loop.cycle_count, time.monotonic(), time.process_time()
        assert len(loop.incidents.open) == count
        await asyncio.sleep(seconds)
        share = (time.process_time() - used) / (time.monotonic() - began) * 100
        turns = loop.cycle_count - turns
        used = time.process_time()
        await loop.run_cycle()
        turn = time.process_time() - used
        loop.stop()
        await running
        return share, turn, turns

    empty, _, _ = asyncio.run(measured(0))
    share, turn, turns = asyncio.run(measured(OPEN))
    print(
        f"waiting: CPU of the loop over {seconds:.0f} s with {OPEN:,} incidents whose runbooks wait for a day"
        f" {share:.2f} % of a core and {turns} turns, with none {empty:.2f} %; a turn about all of them"
        f" {turn * 1e3:.0f} ms of CPU"
    )
    return {"CPU while 10,000 timers wait, % of a core more": max(0.0, share - empty)}


# -- all of it ---------------------------------------------------------------------------------------------------------

PARTS = ("durable", "resume", "memory", "check", "waiting")


def is_on_disk(folder: Path) -> bool:
    told = subprocess.check_output(["stat", "--file-system", "--format=%T", str(folder)], text=True)
    return told.strip() not in ("tmpfs", "ramfs")


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="what to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the waiting loop is watched")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="on the disk to be measured")
    parser.add_argument("--as-resumed", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.as_resumed:
        print(json.dumps(resumed(Path(given.as_resumed))))
        return 0
    wanted = given.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    if not is_on_disk(Path(given.folder)):
        parser.error(f"{given.folder} is in memory: name a --folder on a disk")
    logging.disable(logging.CRITICAL)  # the loop would tell of each of its incidents
    measures: Mapping[str, Callable[[Path], Found]] = {
        "durable": lambda folder: durable(given.rounds, folder),
        "resume": lambda folder: resume(given.rounds, folder),
        "memory": memory,
        "check": lambda folder: check(given.rounds),
        "waiting": lambda folder: waiting(given.seconds, folder),
    }
    found: Found = {}
    for part in wanted:
        with tempfile.TemporaryDirectory(prefix="x0t-runbooks-", dir=given.folder) as folder:
            found |= measures[part](Path(folder))
    missed = False
    for name, value in found.items():
        goal, kind = GOALS[name]
        met = value >= goal if kind == "least" else value <= goal
        missed |= not met
        print(f"{'met   ' if met else 'MISSED'}  {name}: {value:,.2f} (goal: at {kind} {goal:,g})")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
