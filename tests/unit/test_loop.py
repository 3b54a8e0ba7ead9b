"""The one loop: when it turns and about whom, what it does when a part of it fails, and how it begins and ends."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from x0tta6bl4.app import parts_of
from x0tta6bl4.kernel.bus import EventBus
from x0tta6bl4.kernel.errors import ProbeFailed, StepFailed, StoreError
from x0tta6bl4.kernel.events import Event
from x0tta6bl4.kernel.facts import (
    Finding,
    Incident,
    IncidentState,
    Observation,
    Occurrence,
    Result,
    Step,
)
from x0tta6bl4.kernel.lifecycle import State
from x0tta6bl4.kernel.loop import MAPEK, NOTICE_EVERY
from x0tta6bl4.kernel.plugin import Action, Effect, PluginConfig, Situation
from x0tta6bl4.kernel.respond import Catalogue
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.watching import Instance
from x0tta6bl4.observability.tracker import ExecutionTracker
from x0tta6bl4.testing.fakes import tools
from x0tta6bl4.testing.virtual_time import run
from x0tta6bl4.testing.world import World

WORK, DB = "http://127.0.0.1:1/work", "http://127.0.0.1:2/work"


def web(**more: Any) -> dict[str, Any]:
    return {"process": ["/bin/web"], "work": WORK, "mode": "auto", **more}


def db(**more: Any) -> dict[str, Any]:
    return {"process": ["/bin/db"], "work": DB, "mode": "auto", **more}


class Ticks:
    """A schedule whose ticks the test gives."""

    def __init__(self) -> None:
        self.tick: Callable[[], None] = lambda: None
        self.seconds = 0.0
        self.closed = False

    def every(self, seconds: float, call: Callable[[], None]) -> None:
        self.seconds, self.tick = seconds, call

    def close(self) -> None:
        self.closed = True


class Judge:
    """An analyzer that notes what it is asked and answers as told."""

    def __init__(self, name: str = "judge", answer: Callable[[View], Any] = lambda view: []) -> None:
        self.name = name
        self.answer = answer
        self.scopes: list[frozenset[str] | None] = []

    def analyze(self, view: View) -> Sequence[Finding]:
        self.scopes.append(view.scope)
        found: Sequence[Finding] = self.answer(view)
        return found


class Looker:
    """A monitor that does what it is told."""

    def __init__(self, name: str, look: Callable[[], Any]) -> None:
        self.name = name
        self.look = look
        self.looks = 0

    async def observe(self) -> Sequence[Observation]:
        self.looks += 1
        seen = self.look()
        if asyncio.iscoroutine(seen):
            seen = await seen
        return seen  # type: ignore[no-any-return]  # what a careless plugin gives back is the point


def build(world: World, instances: Iterable[Instance] = (), analyzers: Iterable[Judge] = (), **parts: Any) -> MAPEK:
    """The world's loop with more parts, or with others."""
    world.build()
    outside = tools(
        clock=world.clock,
        processes=world.processes,
        network=world.network,
        database=world.database,
        files=world.files,
        subjects=world.blueprint.subjects,
    )
    own = parts_of(
        world.blueprint,
        outside,
        sight=Sight(world.blueprint.subjects),
        flags=world.flags,
        bus=EventBus(),
        metrics=world.metrics,
    )
    own = replace(own, instances=[*own.instances, *instances], analyzers=[*own.analyzers, *analyzers], **parts)
    world.loop = MAPEK(own)
    return world.loop


@asynccontextmanager
async def alive(world: World, loop: MAPEK, started: bool = True) -> AsyncIterator[MAPEK]:
    if started:
        for program in world.blueprint.programs:
            await world.processes.start(program)
    task = asyncio.create_task(loop.start(), name="alive")
    try:
        await asyncio.sleep(1.0)
        yield loop
        assert not task.done(), task
        loop.stop()
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def now() -> float:
    return asyncio.get_running_loop().time()


# -- when it turns ---------------------------------------------------------------------------------------------------


def test_a_turn_that_comes_due_while_the_last_one_runs_is_counted_and_made_up_for_once() -> None:
    async def story() -> None:
        world, ticks, slow = World({"web": web()}), Ticks(), asyncio.Event()
        loop = build(world, [Instance(Looker("slow", lambda: wait_for(slow)), None, 100.0)], schedule=ticks)
        async with alive(world, loop):
            for _ in range(3):
                ticks.tick()
            assert (loop.cycle_count, loop.overruns) == (1, 3)
            assert ticks.seconds == 60.0

            slow.set()
            await asyncio.sleep(0.1)
            assert (loop.cycle_count, loop.overruns) == (2, 3)
            ticks.tick()
            await asyncio.sleep(0.1)
            assert (loop.cycle_count, loop.overruns) == (3, 3)
        assert ticks.closed

    run(story())


async def wait_for(event: asyncio.Event) -> Sequence[Observation]:
    await event.wait()
    return []


def test_an_approval_that_expires_during_a_turn_is_no_overrun() -> None:
    async def story() -> None:
        world = World({"web": web(mode="approve")}, guard={"approval_expires": 5})
        ticks = Ticks()
        async with alive(world, build(world, schedule=ticks)) as loop:
            world.kill("web")
            await asyncio.sleep(2)
            for program in world.blueprint.programs:
                await world.processes.start(program)  # somebody starts it by hand; the question is left unanswered
            await asyncio.sleep(20)
            ticks.tick()
            await asyncio.sleep(1)

            assert [a.state for a in await world.knowledge.approvals()] == ["expired"]
            assert loop.overruns == 0

    run(story())


def test_a_turn_that_takes_too_long_is_cut_off_told_and_followed_by_the_next() -> None:
    async def story() -> None:
        world, ticks = World({"web": web()}), Ticks()
        never = Looker("never", lambda: wait_for(asyncio.Event()))
        loop = build(world, [Instance(never, None, 1000.0)], schedule=ticks)
        async with alive(world, loop):
            await asyncio.sleep(30)
            assert loop.timeouts == 1
            assert loop.last_turn is not None and loop.last_turn.result == "timeout"
            assert State.ERROR in [t.to_state for t in loop.lifecycle.history]
            assert loop.lifecycle.current_state is State.IDLE

            world.kill("web")  # the turns that something wakes do not ask the slow one
            assert await world.until(lambda: world.processes.supervised("web") is not None) < 0.1

    run(story())


def test_a_woken_turn_is_about_the_subjects_concerned_and_many_calls_are_one_turn() -> None:
    async def story() -> None:
        world, judge = World({"web": web(), "db": db()}), Judge()
        async with alive(world, build(world, analyzers=[judge])) as loop:
            judge.scopes.clear()
            before = loop.cycle_count
            for _ in range(100):
                loop.wake({"web"})
                loop.wake({"db"})
            await asyncio.sleep(0.01)

            assert loop.cycle_count == before + 1
            assert judge.scopes == [frozenset({"web", "db"})]
            loop.wake({"db"})
            await asyncio.sleep(0.01)
            assert judge.scopes[-1] == frozenset({"db"})

    run(story())


def test_a_healthy_host_is_turned_about_only_when_it_is_due() -> None:
    async def story() -> None:
        world, ticks = World({"web": web(), "db": db()}), Ticks()
        async with alive(world, build(world, schedule=ticks)) as loop:
            before = loop.cycle_count
            await asyncio.sleep(300)

            assert loop.cycle_count == before

    run(story())


def test_of_two_wishes_for_a_later_look_the_earlier_counts() -> None:
    async def story() -> None:
        world, judge = World({"web": web()}), Judge()
        async with alive(world, build(world, analyzers=[judge])) as loop:
            judge.scopes.clear()
            began = now()
            loop.wake_at("web", began + 5)
            loop.wake_at("web", began + 2)
            loop.wake_at("web", began + 9)
            await world.until(lambda: bool(judge.scopes))

            assert 2.0 <= now() - began <= 2.05
            await asyncio.sleep(20)
            assert judge.scopes == [frozenset({"web"})]

    run(story())


def test_an_occurrence_is_shown_to_one_turn_and_only_to_one_about_its_subject() -> None:
    async def story() -> None:
        seen: list[tuple[Occurrence, ...]] = []
        world = World({"web": web(), "db": db()})
        judge = Judge(answer=lambda view: [seen.append(view.occurrences)][:0])  # type: ignore[func-returns-value]  # cut off
        async with alive(world, build(world, analyzers=[judge])) as loop:
            seen.clear()
            loop.watching.report(Occurrence("m", "web", "oom"))
            await asyncio.sleep(0.01)
            loop.wake({"web", "db"})
            await asyncio.sleep(0.01)

            assert [[o.kind for o in turn] for turn in seen] == [["oom"], []]

    run(story())


# -- what fails ------------------------------------------------------------------------------------------------------


def list_of_nothing(view: View) -> list[Finding]:
    return []


def raising(error: Exception) -> Callable[[View], Any]:
    def answer(view: View) -> Any:
        raise error

    return answer


@pytest.mark.parametrize(
    "answer", [raising(ZeroDivisionError("oops")), lambda view: None, lambda view: [42], lambda view: 42]
)
def test_an_analyzer_that_fails_is_reported_once_and_its_siblings_go_on(
    answer: Callable[[View], Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        world = World({"web": web()})
        bad = Judge("bad", answer)
        async with alive(world, build(world, analyzers=[bad])) as loop:
            for _ in range(5):
                world.kill("web")
                await world.until(lambda: world.processes.supervised("web") is not None, within=5)
                await asyncio.sleep(700)
            told = [r for r in caplog.records if r.getMessage() == "an analyzer fails"]
            assert len(told) == 1 and told[0].__dict__["instance"] == "bad"
            assert loop.last_turn is not None and loop.last_turn.result == "ok"

            bad.answer = list_of_nothing
            loop.wake({"web"})
            await asyncio.sleep(0.01)
            assert [r for r in caplog.records if r.getMessage() == "an analyzer works again"]

    caplog.set_level(logging.INFO)
    run(story())


@pytest.mark.parametrize(
    "look",
    [
        lambda: (_ for _ in ()).throw(ProbeFailed("no")),
        lambda: 1 / 0,
        lambda: None,
        lambda: [None],
        lambda: 42,
        lambda: [Observation("odd", "x", "x_up", None)],  # type: ignore[arg-type]  # a plugin without types
    ],
)
def test_a_monitor_that_fails_is_a_condition_and_its_siblings_go_on(
    look: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        world = World({"web": web()})
        odd = Looker("odd", look)
        async with alive(world, build(world, [Instance(odd, 0.5, 1.0)])) as loop:
            await asyncio.sleep(20)
            assert "odd" in loop.parts.sight.blind_instances
            assert odd.looks > 30, "it is tried again"
            assert len([r for r in caplog.records if r.getMessage() == "cannot see"]) == 1
            assert [i.fault for i in await world.incidents()] == ["blind"]

            world.kill("web")
            assert await world.until(lambda: world.processes.supervised("web") is not None) < 0.1
            odd.look = list
            await asyncio.sleep(60)
            assert not loop.parts.sight.blind_instances
            assert all(i.state is IncidentState.CLOSED for i in await world.incidents())

    caplog.set_level(logging.INFO)
    run(story())


class Teller(Looker):
    """A monitor that can also be told of things, and whose telling ends as the test says."""

    def __init__(self, name: str, watch: Callable[[Callable[[Occurrence], None]], Any]) -> None:
        super().__init__(name, list)
        self._watch = watch
        self.begun: list[float] = []

    async def watch(self, report: Callable[[Occurrence], None]) -> None:
        self.begun.append(now())
        await self._watch(report)


def test_a_watcher_that_ends_is_started_again_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async def ends(report: Callable[[Occurrence], None]) -> None:
            raise OSError("the journal is gone")

        world = World({"web": web()})
        teller = Teller("teller", ends)
        async with alive(world, build(world, [Instance(teller, 0.5, 1.0)])) as loop:
            await asyncio.sleep(60)
            assert len(teller.begun) >= 12
            assert all(b - a >= 5 for a, b in zip(teller.begun, teller.begun[1:], strict=False))
            assert len([r for r in caplog.records if r.getMessage() == "cannot see"]) == 1, "it looks in between"
            assert "teller" in loop.parts.sight.blind_instances

            async def lasts(report: Callable[[Occurrence], None]) -> None:
                await asyncio.Event().wait()

            teller._watch = lasts
            await asyncio.sleep(60)
            assert "teller" not in loop.parts.sight.blind_instances
            assert len([r for r in caplog.records if r.getMessage() == "sees again"]) == 1

    caplog.set_level(logging.INFO)
    run(story())


class Broken:
    """A planner that fails about one subject."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def plan(self, incident: Incident, situation: Situation) -> Any:
        if incident.subject == "db":
            raise KeyError("no such rung")
        return self.inner.plan(incident, situation)


def test_a_planner_that_fails_about_one_incident_still_plans_the_others() -> None:
    async def story() -> None:
        world = World({"web": web(), "db": db()})
        loop = build(world)
        loop.parts.planner = loop.responder._planner = Broken(loop.parts.planner)
        async with alive(world, loop):
            world.kill("db")
            world.kill("web")
            await world.until(lambda: world.processes.supervised("web") is not None, within=5)
            assert world.processes.supervised("db") is None
            sentences = [d.sentence for d in await world.knowledge.decisions("db")]
            assert any("no such rung" in s for s in sentences), sentences

    run(story())


def test_while_the_store_fails_incidents_are_kept_and_written_when_it_works_again() -> None:
    async def story() -> None:
        world = World({"web": web(mode="suggest")})
        async with world.running():
            world.database.broken = "disk full"
            world.kill("web")
            await asyncio.sleep(10)
            world.database.broken = ""
            await asyncio.sleep(10)
            assert [(i.fault, i.state) for i in await world.incidents()] == [("dead", IncidentState.OPEN)]

            world.database.broken = "disk full"
            for program in world.blueprint.programs:
                await world.processes.start(program)
            await asyncio.sleep(20)
            world.database.broken = ""
            await asyncio.sleep(10)
            assert [(i.fault, i.ended) for i in await world.incidents()] == [("dead", "recovered")]

    run(story())


def test_an_outcome_that_could_not_be_written_is_found_out_as_soon_as_the_store_works_again() -> None:
    """The action was done; that nobody could note how it ended must neither repeat it blindly nor stop healing."""

    async def story() -> None:
        world = World({"web": web()})
        async with world.running():
            world.processes.start_delay = 0.5
            world.kill("web")
            await asyncio.sleep(0.3)
            assert len(await world.knowledge.unfinished()) == 1
            world.database.broken = "disk full"
            await asyncio.sleep(20)
            running = world.processes.supervised("web")
            assert running is not None
            world.database.broken = ""
            await asyncio.sleep(20)

            assert await world.knowledge.unfinished() == []
            assert world.processes.supervised("web") == running
            assert all(i.state is IncidentState.CLOSED for i in await world.incidents())
            world.kill("web")
            await world.until(lambda: world.processes.supervised("web") not in (None, running), within=20)

    run(story())


def test_what_the_journal_refused_once_is_not_refused_for_ever() -> None:
    """The same rung is tried again after its outcome was lost: a new try, with an intent of its own."""

    async def story() -> None:
        world = World({"web": web()})
        async with world.running():
            world.processes.fail_start("web", StepFailed("exits at once"), times=3)
            world.processes.start_delay = 0.5
            world.kill("web")
            await asyncio.sleep(0.3)
            world.database.broken = "disk full"
            await asyncio.sleep(5)
            world.database.broken = ""
            await world.until(lambda: world.processes.supervised("web") is not None, within=120)
            await asyncio.sleep(10)

            assert world.loop.standing.store_trouble == ""
            assert (await world.incidents())[0].ended == "healed"

    run(story())


# -- one at a time, and no more than agreed --------------------------------------------------------------------------


def test_what_is_allowed_in_one_turn_counts_when_the_next_is_judged() -> None:
    """Twelve die at the same moment; a budget of two is a budget of two."""

    async def story() -> None:
        names = [f"web{n}" for n in range(12)]
        world = World(
            {n: web(process=[f"/bin/{n}"], work=f"http://127.0.0.1:{i + 10}/work") for i, n in enumerate(names)},
            guard={"per_kind": {"count": 2, "window": 100}, "share": {"max": 1.0}},
        )
        async with world.running():
            for name in names:
                world.kill(name)
            await asyncio.sleep(50)
            assert len(await world.acts()) == 2

            await asyncio.sleep(100)
            assert len(await world.acts()) == 4

    run(story())


def test_the_storm_brake_holds_against_a_storm_of_one_moment() -> None:
    async def story() -> None:
        names = [f"web{n}" for n in range(30)]
        world = World(
            {n: web(process=[f"/bin/{n}"], work=f"http://127.0.0.1:{i + 10}/work") for i, n in enumerate(names)},
            guard={"storm": {"count": 5, "window": 60, "cooldown": 120}, "share": {"max": 1.0}},
        )
        async with world.running():
            for name in names:
                world.kill(name)
            await asyncio.sleep(100)

            assert len(await world.acts()) == 5

    run(story())


def test_what_it_depends_on_is_restarted_with_it_where_the_operator_wants_that() -> None:
    """Both are of one group, and the verb was tried before: neither may keep the rung from being what it says."""

    async def story() -> None:
        world = World({"db": db(group="shop"), "web": web(depends_on=["db"], group="shop", restart_dependencies=True)})
        async with world.running():
            first = world.processes.supervised("db")
            world.network.broken[WORK] = lambda: (500 if world.processes.supervised("db") == first else 200, 0.001)
            await asyncio.sleep(200)
            done = [(a.action, a.target, a.result) for a in await world.actions("web") if a.disruptive]

            assert done[-2:] == [
                ("process.restart", "db", Result.UNVERIFIED),
                ("process.restart", "web", Result.VERIFIED),
            ]
            assert len(done) == 4

    run(story())


# -- begin and end ---------------------------------------------------------------------------------------------------


def test_one_cycle_alone_heals_and_waits_for_the_proof() -> None:
    async def story() -> None:
        world = World({"web": web()})
        loop = world.build()
        for program in world.blueprint.programs:
            await world.processes.start(program)
        calm = await loop.run_cycle()
        assert (calm.number, calm.findings, calm.result) == (1, (), "ok")
        assert loop.status == "stopped"

        world.kill("web")
        await asyncio.sleep(5)
        turn = await loop.run_cycle()
        assert [f.fault for f in turn.findings] == ["dead"]
        assert len(turn.responses) == 1
        assert world.processes.supervised("web") is not None
        (incident,) = await world.incidents()
        assert (incident.state, incident.ended) == (IncidentState.CLOSED, "healed")

    run(story())


def test_one_cycle_about_one_subject_leaves_the_others_alone() -> None:
    async def story() -> None:
        world = World({"web": web(), "db": db()})
        async with world.running() as loop:
            turn = await loop.run_cycle(["db"])

            assert (turn.scope, turn.trigger) == (frozenset({"db"}), "call")

    run(story())


def test_it_cannot_be_started_twice_at_a_time_but_again_after_it_ended() -> None:
    async def story() -> None:
        world = World({"web": web()})
        loop = world.build()
        for program in world.blueprint.programs:
            await world.processes.start(program)
        async with alive(world, loop, started=False):
            assert loop.status == "running"
            with pytest.raises(RuntimeError, match="running already"):
                await loop.start()
        assert loop.status == "stopped"
        assert loop.lifecycle.current_state is State.STOPPED

        async with alive(world, loop, started=False):
            world.kill("web")
            await world.until(lambda: world.processes.supervised("web") is not None, within=1)

    run(story())


def test_a_stop_during_an_action_lets_it_finish() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running() as loop:
            world.processes.start_delay = 7.0
            world.kill("web")
            await asyncio.sleep(1.0)
            assert world.processes.supervised("web") is None
            began = now()
            loop.stop()
            await world.until(lambda: loop.status == "stopped", within=20)

            assert world.processes.supervised("web") is not None
            assert 5.5 <= now() - began <= 6.5, "and does not wait for the proof"

    run(story())


def test_a_stop_during_a_proof_leaves_the_intent_and_the_next_life_looks() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running() as loop:
            world.kill("web")
            await world.until(lambda: world.processes.supervised("web") is not None)
            running = world.processes.supervised("web")
            loop.stop()
            await world.until(lambda: loop.status == "stopped", within=1)
        assert len(await world.knowledge.unfinished()) == 1

        async with world.running(started=False):
            await asyncio.sleep(10)
            (action,) = await world.actions()
            assert action.result is Result.VERIFIED
            assert world.processes.supervised("web") == running
            assert (await world.incidents())[0].ended == "healed"

    run(story())


def test_the_same_loop_started_again_takes_up_what_it_left() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running() as loop:
            world.kill("web")
            await world.until(lambda: world.processes.supervised("web") is not None)
            loop.stop()
            await world.until(lambda: loop.status == "stopped", within=1)
        async with alive(world, loop, started=False):
            await asyncio.sleep(10)
            assert await world.knowledge.unfinished() == []
            assert loop.incidents.open == ()

    run(story())


def test_a_second_loop_over_the_same_store_and_sight_goes_on_where_the_first_ended() -> None:
    """As a reload does it: the processes run on, nothing is forgotten, nothing is done twice."""

    async def story() -> None:
        world = World({"web": web()})
        first = build(world)
        async with alive(world, first):
            world.processes.fail_start("web", StepFailed("exits at once"), times=10_000)
            world.kill("web")
            await asyncio.sleep(30)
        acts = len(await world.acts())
        (incident,) = await world.incidents()
        second = MAPEK(replace(first.parts, bus=EventBus()))
        async with alive(world, second, started=False):
            (same,) = await world.incidents()
            assert same.id == incident.id
            assert len(await world.acts()) <= acts + 1

            world.processes._failures.clear()
            await world.until(lambda: world.processes.supervised("web") is not None, within=60)

    run(story())


def test_a_lost_message_to_a_human_does_not_move_the_incident_and_the_approval_still_counts() -> None:
    async def story() -> None:
        world = World(
            {"web": web(mode="approve")},
            executors={"systemd": {"enabled": False}, "notify": {"webhook": {"url": "https://example.org/hook"}}},
        )
        loop = world.build()
        for program in world.blueprint.programs:
            await world.processes.start(program)
        loop.parts.catalogue.executors["notify"].messages.webhook = hang  # type: ignore[attr-defined]  # a slow server
        life = asyncio.create_task(loop.start())
        await asyncio.sleep(1)
        world.kill("web")
        await asyncio.sleep(3)
        (wanted,) = await world.knowledge.approvals("wanted")
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        assert [left.step.action for left in await world.knowledge.unfinished()] == ["notify.human"]
        await world.knowledge.answer_approval(wanted.plan, True, "oncall", "go ahead")

        async with world.running(started=False):
            await world.until(lambda: world.processes.supervised("web") is not None, within=20)
            assert await world.acts() == ["process.restart"]

    run(story())


async def hang(*_: object) -> None:
    await asyncio.Event().wait()


# -- switches and stages ---------------------------------------------------------------------------------------------


def test_the_switch_thrown_between_the_intent_and_the_act_still_counts() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running() as loop:
            knowledge: Any = loop.parts.knowledge
            write = knowledge.record_intent

            async def slowly(*args: Any, **more: Any) -> None:
                await write(*args, **more)
                loop.parts.flags.set("auto_healing", False)

            knowledge.record_intent = slowly
            world.kill("web")
            await asyncio.sleep(10)
            (action,) = await world.actions()

            assert world.processes.started == ["web"], "only the start of before"
            assert action.result is Result.REFUSED

    run(story())


def test_flags_that_others_set_are_noticed_at_once() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running() as loop:
            await world.knowledge.set_flag("monitoring_verbose", True, "oncall")
            world.database.others_wrote()
            assert await world.until(lambda: loop.parts.flags.is_enabled("monitoring_verbose")) <= NOTICE_EVERY + 0.02

    run(story())


def test_each_turn_is_tracked_in_its_five_stages() -> None:
    async def story() -> None:
        world, tracker = World({"web": web()}), ExecutionTracker()
        loop = build(world, stages=tracker)
        await loop.run_cycle()
        summary = tracker.get_execution_summary("cycle-1")

        assert [stage["stage"] for stage in summary["stages"]] == [
            "1.0_MONITOR",
            "2.0_ANALYZE",
            "3.0_PLAN",
            "4.0_EXECUTE",
            "5.0_KNOWLEDGE",
        ]

    run(story())


# -- steps of a plan -------------------------------------------------------------------------------------------------


class Lever:
    """An executor with an action that helps nobody and one that takes it back."""

    name = "lever"

    def __init__(self, on_unknown: Any = "probe", seconds: float = 0.0) -> None:
        self.actions = [
            Action("pull", "pulls it", PluginConfig, undo="push", on_unknown=on_unknown),
            Action("push", "pushes it back", PluginConfig),
        ]
        self.done: list[str] = []
        self.seconds = seconds

    async def preview(self, step: Step) -> str:
        return f"would {step.action}"

    async def act(self, step: Step) -> Effect:
        self.done.append(step.action)
        await asyncio.sleep(self.seconds)
        return Effect(f"did {step.action}", data={"from": 1})


def pulling(world: World, lever: Lever) -> MAPEK:
    loop = build(world)
    catalogue = Catalogue({**loop.parts.catalogue.executors, "lever": lever})
    world.loop = MAPEK(replace(loop.parts, catalogue=catalogue))
    return world.loop


LEVER = [
    {
        "runbook": "pull",
        "summary": "pulls the lever",
        "trigger": {"anomaly": "gray"},
        "initial": "pull",
        "states": {
            "pull": {
                "do": {"action": "lever.pull"},
                "expect": {"within": "5s", "hold": "1s"},
                "done": "end",
                "failed": "tell",
            },
            "tell": {"do": {"action": "notify.human"}, "done": "end", "failed": "end"},
            "end": {"final": True},
        },
    }
]


def test_a_step_that_did_not_help_and_can_be_taken_back_is_taken_back_and_journaled() -> None:
    async def story() -> None:
        world, lever = World({"web": web()}, runbooks=LEVER), Lever()
        async with alive(world, pulling(world, lever)):
            world.network.broken[WORK] = lambda: (500, 0.001)
            await asyncio.sleep(60)
            actions = [(a.action, a.result) for a in await world.actions()]

            assert lever.done[:2] == ["lever.pull", "lever.push"]
            assert actions[:2] == [("lever.pull", Result.REFUTED), ("lever.push", Result.UNVERIFIED)]

    run(story())


def test_what_is_not_allowed_by_name_is_not_done_as_an_undo_either() -> None:
    async def story() -> None:
        world, lever = World({"web": web()}, runbooks=LEVER, guard={"allow": ["lever.pull"]}), Lever()
        async with alive(world, pulling(world, lever)):
            world.network.broken[WORK] = lambda: (500, 0.001)
            await asyncio.sleep(60)

            assert set(lever.done) == {"lever.pull"}
            assert any("guard.allow" in d.sentence for d in await world.knowledge.decisions("web"))

    run(story())


def test_a_step_that_must_not_be_done_twice_is_left_to_a_human_after_a_crash() -> None:
    async def story() -> None:
        world, lever = World({"web": web()}, runbooks=LEVER), Lever("ask", seconds=1.0)
        loop = pulling(world, lever)
        for program in world.blueprint.programs:
            await world.processes.start(program)
        life = asyncio.create_task(loop.start())
        await asyncio.sleep(1)
        world.network.broken[WORK] = lambda: (500, 0.001)
        await world.until(lambda: bool(lever.done))
        (incident,) = await world.incidents()
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        after = Lever("ask")
        async with alive(world, pulling(world, after), started=False):
            await asyncio.sleep(40)
            first, told = (await world.actions())[:2]
            assert (first.action, first.result) == ("lever.pull", Result.UNVERIFIED)
            assert "a human has to look" in " ".join(e.text for e in await world.knowledge.story(incident.id))
            assert told.action == "notify.human"

    run(story())


def test_a_rule_that_comes_back_to_a_rung_begins_a_new_try_each_time() -> None:
    rule = [
        {
            "runbook": "round",
            "summary": "pulls and pushes until it helps",
            "trigger": {"anomaly": "gray"},
            "initial": "pull",
            "states": {
                "pull": {
                    "do": {"action": "lever.pull"},
                    "expect": {"within": "2s", "hold": "1s"},
                    "done": "end",
                    "failed": "push",
                },
                "push": {
                    "do": {"action": "lever.push"},
                    "expect": {"within": "2s", "hold": "1s"},
                    "done": "end",
                    "failed": "pull",
                },
                "end": {"final": True},
            },
        }
    ]

    async def story() -> None:
        world, lever = World({"web": web()}, runbooks=rule), Lever()
        lever.actions[0] = replace(lever.actions[0], undo="")
        async with alive(world, pulling(world, lever)) as loop:
            world.network.broken[WORK] = lambda: (500, 0.001)
            await asyncio.sleep(240)

            assert lever.done[:5] == ["lever.pull", "lever.push", "lever.pull", "lever.push", "lever.pull"]
            assert loop.standing.store_trouble == ""

    run(story())


# -- what it says ----------------------------------------------------------------------------------------------------


def test_what_happens_to_an_incident_is_told_on_the_bus_in_order() -> None:
    async def story() -> None:
        world, told = World({"web": web()}), []
        loop = build(world)

        async def hear(event: Event) -> None:
            if event.event_type.value in ("incident", "step"):
                told.append((event.event_type.value, event.data["state"]))

        loop.parts.bus.subscribe(None, hear)
        async with alive(world, loop):
            world.kill("web")
            await asyncio.sleep(10)

        assert told == [("incident", "open"), ("step", "begun"), ("step", "verified"), ("incident", "closed")]

    run(story())


def test_the_lifecycle_goes_through_the_phases_and_comes_to_rest() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running() as loop:
            world.kill("web")
            await asyncio.sleep(10)
            states = [t.to_state for t in loop.lifecycle.history]

            assert State.RESPONDING in states
            assert State.ERROR not in states
            assert loop.lifecycle.current_state is State.IDLE

    run(story())


def test_a_forecast_reaches_a_human_before_the_end_comes() -> None:
    async def story() -> None:
        disk = {"free": 0.5}
        world = World({"web": web()})

        def look() -> Sequence[Observation]:
            disk["free"] -= 0.0005
            return [Observation("disk", "web", "disk_free_ratio", disk["free"])]

        ticks = Ticks()
        async with alive(world, build(world, [Instance(Looker("disk", look), None, 1.0)], schedule=ticks)):
            for _ in range(300):
                ticks.tick()
                await asyncio.sleep(1.0)
            actions = [a.action for a in await world.actions()]

            assert "notify.human" in actions, [d.sentence for d in await world.knowledge.decisions("web")]
            assert disk["free"] > 0.3

    run(story())


def test_incidents_are_written_together_and_one_that_is_refused_keeps_no_other_from_the_disk() -> None:
    async def story() -> None:
        world = World({name: web(mode="suggest") for name in ("a", "b", "c")})
        async with world.running():
            together: list[int] = []
            real = world.knowledge.save_incidents

            async def counted(changed: Any) -> None:
                together.append(len(changed))
                if any(incident.subject == "b" for incident, _ in changed):
                    raise StoreError("this one is refused")
                await real(changed)

            world.knowledge.save_incidents = counted  # type: ignore[method-assign]  # one row is refused
            for name in ("a", "b", "c"):
                world.kill(name)
            await asyncio.sleep(0.01)
            await asyncio.sleep(2)
            assert max(together) >= 2, together
            assert {incident.subject for incident in await world.incidents()} == {"a", "c"}

            world.knowledge.save_incidents = real  # type: ignore[method-assign]  # and is taken again
            await asyncio.sleep(70)
            assert {incident.subject for incident in await world.incidents()} == {"a", "b", "c"}

    run(story())
