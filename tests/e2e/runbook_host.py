"""Lives of a daemon that heals one link by a runbook, each in a process of its own that dies where it is told to."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.kernel import guard
from x0tta6bl4.kernel.bus import EventBus
from x0tta6bl4.kernel.events import Event, EventType
from x0tta6bl4.kernel.facts import Condition, Finding, Incident, Move, Observation, Outcome, Plan, Severity, Step
from x0tta6bl4.kernel.loop import MAPEK, Parts
from x0tta6bl4.kernel.plugin import Action, Effect, PluginConfig
from x0tta6bl4.kernel.policy import Backoff, GuardPolicy
from x0tta6bl4.kernel.respond import Catalogue, Responder
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.watching import Instance
from x0tta6bl4.knowledge import sqlite
from x0tta6bl4.knowledge.sqlite import SqliteKnowledge, migrations
from x0tta6bl4.planners.runbook import Config, Runbooks
from x0tta6bl4.ports.database import Row, Transaction
from x0tta6bl4.runbooks.document import read
from x0tta6bl4.testing.virtual_time import EPOCH, LoopClock, VirtualLoop

T = TypeVar("T")

CRASH_AT, HOLD_AT, BROKEN = "RUNBOOK_HOST_CRASH_AT", "RUNBOOK_HOST_HOLD_AT", "RUNBOOK_HOST_BROKEN"
HOLDS = ("restart", "reroute", "look", "replace", "told")
"""States in which a person says `hold`; the last of them does not listen."""
STUCK = 3
"""Exit status of a life in which the incident did not come to its end."""
PATIENCE = 200.0
"""Virtual seconds in which it must; undisturbed it takes a tenth of them."""
HELD_FOR = 3.0
"""Seconds from `hold` to `resume`: what was being done is over by then, and nobody waited for its proof."""
DOWN = 2.0
"""Seconds between a death and the next life."""
CURE = "link.replace"

RUNBOOK = """
runbook: link-loss
version: 1
summary: Look, restart, go round the link, take that back, tell a human, and replace the link when told to.
trigger: {anomaly: link-loss}
data: {again: 0}
initial: active
states:
  active:
    initial: diagnose
    on: {operator.hold: held}
    states:
      diagnose:
        do: {action: link.diagnose, on_unknown: retry}
        done: restart
        failed: rolling_back
        unknown: diagnose
      restart:
        do: {action: link.restart}
        expect: {within: 3s, hold: 1s}
        done: settle
        failed: settle
      settle: {after: {5s: reroute}}
      reroute:
        do: {action: link.reroute, undo: {action: link.reroute_undo}, on_unknown: ask}
        done: look
        failed: rolling_back
        unknown: rolling_back
      look:
        do: {action: link.look, on_unknown: retry}
        done: [{to: replace, if: again > 0}, {to: rolling_back}]
        failed: rolling_back
        unknown: look
      replace:
        do: {action: link.replace}
        expect: {within: 3s, hold: 1s}
        done: tidy_up
        failed: rolling_back
      was: {history: deep, default: diagnose}
  held:
    on: {operator.resume: was}
    after: {24h: rolling_back}
  tidy_up: {rollback: true, done: resolved, failed: left_over, unknown: left_over}
  left_over:
    do: {action: notify.human}
    done: resolved
    failed: resolved
    unknown: left_over
  rolling_back: {rollback: true, done: told, failed: told, unknown: told}
  told:
    enter: {emit: {event: incident.escalate, with: {again: again}}}
    do: {action: notify.human}
    done: asked
    failed: told
    unknown: told
  asked:
    on: {operator.again: {to: reroute, do: {set: {again: again + 1}}}}
    after: {24h: rolling_back}
  resolved: {final: true}
"""

SUBJECT = Subject("link", "link", mode="auto")
HEALTHY = Condition("link_up", ">=", 1.0)


def planner() -> Runbooks:
    (book,) = read(RUNBOOK, "the runbook of this test")
    return Runbooks("runbook", Config(rules=[dict(book.source)], shipped=False))


# -- where it dies -------------------------------------------------------------------------------------------------


class Deaths:
    """Every instant at which dying makes a difference, by name and number; one of them is the last."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop, wall: Callable[[float], float], at: str) -> None:
        self.passed: list[str] = []
        self._folder = folder
        self._loop = loop
        self._wall = wall
        self._at = at
        self._seen: Counter[str] = Counter()

    def may_come(self, what: str) -> None:
        self._seen[what] += 1
        point = f"{what} #{self._seen[what]}"
        self.passed.append(point)
        if point == self._at:
            (self._folder / "wall").write_text(str(self._wall(self._loop.time())))
            os.kill(os.getpid(), signal.SIGKILL)


class ThreadedLoop(VirtualLoop):
    """Virtual time that stands still while the database's own threads work."""

    busy = 0

    @property
    def waits_for_threads(self) -> bool:
        return self.busy > 0 or super().waits_for_threads

    @contextmanager
    def thread(self) -> Iterator[None]:
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1


class Disk:
    """The real database, with a place to die before and after each commit."""

    def __init__(self, inner: SqliteDatabase, loop: ThreadedLoop, deaths: Deaths | None) -> None:
        self._inner = inner
        self._loop = loop
        self._deaths = deaths

    async def read(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        with self._loop.thread():
            return await self._inner.read(sql, values)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        name = getattr(work, "__qualname__", "").split(".")[1]
        deaths = self._deaths

        def worked(tx: Transaction) -> T:
            done = work(tx)
            if deaths is not None:
                deaths.may_come(f"before {name}")
            return done

        with self._loop.thread():
            done = await self._inner.write(worked)
        if deaths is not None:
            deaths.may_come(f"after {name}")
        return done

    def changed_by_others(self) -> bool:
        return self._inner.changed_by_others()


# -- the world -----------------------------------------------------------------------------------------------------


class World:
    """A file of deeds, each on disk before the daemon can know that it was done."""

    def __init__(self, folder: Path, deaths: Deaths) -> None:
        self._path = folder / "world"
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._deaths = deaths

    def do(self, step: Step) -> None:
        self._deaths.may_come(f"before the deed {step.action}")
        os.write(self._file, f"{step.id} {step.action}\n".encode())
        os.fsync(self._file)
        self._deaths.may_come(f"after the deed {step.action}")

    def is_cured(self) -> bool:
        return CURE in self._path.read_text().split()


class Hand:
    """An executor whose every verb is one line in the world."""

    def __init__(self, name: str, world: World, actions: Sequence[Action]) -> None:
        self.name = name
        self.actions = actions
        self._world = world

    async def preview(self, step: Step) -> str:
        return f"would do {step.action}"

    async def act(self, step: Step) -> Effect:
        await asyncio.sleep(0.6)
        self._world.do(step)
        await asyncio.sleep(0.6)
        return Effect(f"did {step.action}")


def looks(verb: str) -> Action:
    return Action(verb, "looks", PluginConfig, disruptive=False, on_unknown="retry", blast="none")


LINK = (
    looks("diagnose"),
    looks("look"),
    Action("restart", "restarts", PluginConfig),
    Action("reroute", "goes round", PluginConfig, on_unknown="ask", undo="reroute_undo", idempotent=False),
    Action("reroute_undo", "goes straight again", PluginConfig),
    Action("replace", "replaces", PluginConfig),
)
HUMAN = (Action("human", "tells", PluginConfig, disruptive=False, blast="none"),)


class Eye:
    name = "eye"

    def __init__(self, world: World) -> None:
        self._world = world

    async def observe(self) -> Sequence[Observation]:
        return [Observation("eye", SUBJECT.name, HEALTHY.metric, float(self._world.is_cured()))]


class Judge:
    name = "judge"

    def analyze(self, view: View) -> Sequence[Finding]:
        seen = view.latest(SUBJECT.name, HEALTHY.metric)
        if not view.in_scope(SUBJECT.name) or seen is None or seen.value:
            return []
        summary = "the link loses packets"
        return [Finding(self.name, SUBJECT.name, "link-loss", summary, Severity.MAJOR, seen.at, (seen,), (HEALTHY,))]


async def operator(knowledge: SqliteKnowledge, clock: LoopClock, hold_at: str) -> None:
    """Holds the runbook once in the middle of an action, lets it go on, approves, and says `again` when told.

    Knows nothing but what the journal says: people outlive the daemon. Returns when the incident is over.
    """
    while True:
        await asyncio.sleep(0.25)
        incidents = await knowledge.incidents()
        if incidents and all(incident.state == "closed" for incident in incidents):
            return
        for approval in await knowledge.approvals("wanted"):
            await knowledge.answer_approval(approval.plan, True, "oncall", "it may be done again")
        for incident in incidents:
            # Asked in this order: with nothing left in the inbox, what was said before is in these moves.
            waiting = await knowledge.inbox()
            moves = await knowledge.moves(incident.id)
            event = _next_word(moves, clock.wall(), hold_at) if moves and not waiting else ""
            if event:
                await knowledge.send(incident.id, event, {}, "oncall")


def _next_word(moves: Sequence[Move], now: float, hold_at: str) -> str:
    (state, *_) = moves[-1].states or ("",)
    if state == hold_at and not any(move.event == "operator.hold" for move in moves):
        return "operator.hold"
    if state == "held" and now - moves[-1].at < HELD_FOR:
        return ""
    return {"held": "operator.resume", "asked": "operator.again"}.get(state, "")


# -- one life ------------------------------------------------------------------------------------------------------


def live(folder: Path, plans: Runbooks) -> int:
    sabotage(os.environ.get(BROKEN, ""))
    wall_file = folder / "wall"
    wall = float(wall_file.read_text()) + DOWN if wall_file.exists() else EPOCH
    clock = LoopClock(wall)
    loop = ThreadedLoop()
    begun = loop.time()
    deaths = Deaths(folder, loop, lambda now: wall + now - begun, os.environ.get(CRASH_AT, ""))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        status = runner.run(_live(folder, plans, clock, loop, deaths, os.environ.get(HOLD_AT, HOLDS[0])))
    wall_file.write_text(str(wall + loop.time() - begun))
    (folder / "points").write_text(json.dumps(deaths.passed))
    return status


async def _live(
    folder: Path, plans: Runbooks, clock: LoopClock, loop: ThreadedLoop, deaths: Deaths, hold_at: str
) -> int:
    world = World(folder, deaths)
    ours = await SqliteDatabase.open(folder / "db", migrations())
    theirs = await SqliteDatabase.open(folder / "db", migrations(), check=False)
    bus = EventBus()
    bus.subscribe(EventType.RUNBOOK, lambda event: _heard(folder, event))
    parts = Parts(
        clock=clock,
        knowledge=SqliteKnowledge("sqlite", sqlite.Config(), Disk(ours, loop, deaths), clock),
        planner=plans,
        instances=[Instance(Eye(world), every=0.5, timeout=5.0)],
        analyzers=[Judge()],
        catalogue=Catalogue({"link": Hand("link", world, LINK), "notify": Hand("notify", world, HUMAN)}),
        sight=Sight({SUBJECT.name: SUBJECT}),
        policy=GuardPolicy(mode="auto", allow=["*"], remind_every=0.5, backoff=Backoff(base=0.5, cap=2.0, jitter=0.0)),
        bus=bus,
    )
    daemon = MAPEK(parts)
    running = asyncio.create_task(daemon.start(), name="daemon")
    try:
        async with asyncio.timeout(PATIENCE):
            await operator(SqliteKnowledge("outside", sqlite.Config(), Disk(theirs, loop, None), clock), clock, hold_at)
        status = 0
    except TimeoutError:
        status = STUCK
    daemon.stop()
    await running
    with loop.thread():
        await ours.close()
        await theirs.close()
    return status


def _heard(folder: Path, event: Event) -> None:
    with (folder / "bus").open("a") as heard:
        heard.write(f"{event.data['event']}\n")


# -- broken on purpose -----------------------------------------------------------------------------------------------


def sabotage(how: str) -> None:
    if how:
        SABOTAGES[how]()


def acts_before_the_intent() -> None:
    intend, end = SqliteKnowledge.record_intent, SqliteKnowledge.record_outcome
    kept: dict[str, tuple[tuple[Any, ...], Mapping[str, Any]]] = {}

    async def later(self: SqliteKnowledge, step: Step, *values: Any, **more: Any) -> None:
        kept[step.id] = (step, *values), more

    async def both(self: SqliteKnowledge, step: str, *values: Any) -> None:
        if step in kept:
            meant, more = kept.pop(step)
            await intend(self, *meant, **more)
        await end(self, step, *values)

    _replace(SqliteKnowledge, "record_intent", later)
    _replace(SqliteKnowledge, "record_outcome", both)


def repeats_blindly() -> None:
    settle = Responder.settle_unknown

    async def again(self: Responder, step: Step, incident: Incident, intent_at: float) -> Outcome:
        executor, _ = self.catalogue.find(step.action)
        await executor.act(step)
        return await settle(self, step, incident, intent_at)

    _replace(Responder, "settle_unknown", again)


def takes_the_unknown_for_done() -> None:
    settle = Responder.settle_unknown

    async def sure(self: Responder, step: Step, incident: Incident, intent_at: float) -> Outcome:
        return replace(await settle(self, step, incident, intent_at), unknown=False)

    _replace(Responder, "settle_unknown", sure)


def asks_nobody() -> None:
    _replace(guard, "_may_have_been_done", lambda guard, case: "")


def empties_the_inbox_apart() -> None:
    save = sqlite._save_incidents

    class KeepsInbox:
        def __init__(self, tx: Transaction) -> None:
            self.query = tx.query
            self.execute = tx.execute
            self._execute_many = tx.execute_many

        def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
            if not sql.startswith("DELETE FROM inbox"):
                self._execute_many(sql, rows)

    _replace(sqlite, "_save_incidents", lambda tx, made: save(KeepsInbox(tx), made))

    def then_dropped(name: str, moves_of: Callable[..., Sequence[Move]]) -> None:
        write = getattr(SqliteKnowledge, name)

        async def apart(self: SqliteKnowledge, *values: Any, **more: Any) -> None:
            await write(self, *values, **more)
            for move in moves_of(*values, **more):
                if move.message:
                    await self.drop_message(move.message)

        _replace(SqliteKnowledge, name, apart)

    then_dropped("save_incident", lambda incident, moves=(): moves)
    then_dropped("save_incidents", lambda changed: [move for _, moves in changed for move in moves])
    then_dropped("record_intent", lambda *values, moves=(), **more: moves)
    then_dropped("record_outcome", lambda step, outcome, incident=None, moves=(): moves)


def moves_after_the_outcome() -> None:
    end = SqliteKnowledge.record_outcome

    async def apart(
        self: SqliteKnowledge, step: str, outcome: Outcome, incident: Incident | None = None, moves: Sequence[Move] = ()
    ) -> None:
        await end(self, step, outcome)
        if incident is not None:
            await self.save_incident(incident, moves)

    _replace(SqliteKnowledge, "record_outcome", apart)


def moves_without_the_incident() -> None:
    """The intent takes the moves along and leaves the place to whoever writes the incident next."""
    intend = SqliteKnowledge.record_intent

    async def alone(
        self: SqliteKnowledge,
        step: Step,
        plan: Plan,
        epoch: int,
        *,
        incident: Incident | None = None,
        moves: Sequence[Move] = (),
        **more: Any,
    ) -> None:
        before = None if incident is None else await self.incident(incident.id)
        await intend(self, step, plan, epoch, incident=before or incident, moves=moves, **more)

    _replace(SqliteKnowledge, "record_intent", alone)


def _replace(owner: Any, name: str, by: Any) -> None:
    setattr(owner, name, by)


SABOTAGES: Mapping[str, Callable[[], None]] = {
    "acts before the intent": acts_before_the_intent,
    "repeats blindly": repeats_blindly,
    "takes the unknown for done": takes_the_unknown_for_done,
    "asks nobody": asks_nobody,
    "empties the inbox in a transaction of its own": empties_the_inbox_apart,
    "writes outcome and moves in two transactions": moves_after_the_outcome,
    "writes moves without the incident": moves_without_the_incident,
}


# -- many lives ----------------------------------------------------------------------------------------------------


def serve() -> None:
    """Each line on the input is a life: folder, where it dies, where it is held, how it is broken. Says how it ended.

    Forked, because the imports cost more than a life does; nothing runs here that a fork could tear apart.
    """
    plans = planner()
    for line in sys.stdin:
        folder, at, hold_at, broken = json.loads(line)
        child = os.fork()
        if child == 0:
            os.environ |= {CRASH_AT: at, HOLD_AT: hold_at, BROKEN: broken}
            status = 70
            try:
                with (Path(folder) / "said").open("a") as said:
                    os.dup2(said.fileno(), 2)
                status = live(Path(folder), plans)
            finally:
                sys.stderr.flush()
                if sys.exc_info()[0] is not None:
                    sys.excepthook(*sys.exc_info())
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
