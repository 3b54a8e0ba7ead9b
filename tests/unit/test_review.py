"""What a hostile reading of the daemon found, each told as a story over virtual time or with the daemon's own parts."""

import asyncio
import socket
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from x0tta6bl4.app import Daemon, HostLock
from x0tta6bl4.kernel.errors import StepFailed, StoreError
from x0tta6bl4.kernel.facts import Incident, Observation, Plan, Result, Step
from x0tta6bl4.kernel.memory import Approval
from x0tta6bl4.kernel.plugin import Effect, Executor
from x0tta6bl4.kernel.watching import Instance
from x0tta6bl4.testing.virtual_time import run
from x0tta6bl4.testing.world import World

WORK = "http://127.0.0.1:1/work"
DB = "http://127.0.0.1:2/work"
NO_NAME = socket.gaierror(-2, "Name or service not known")


def web(**more: Any) -> dict[str, Any]:
    return {"process": ["/bin/web"], "work": WORK, "mode": "auto", **more}


def limits(**each: Mapping[str, Any]) -> dict[str, Any]:
    return {"usual": {"use": "threshold", "limits": each}}


ALWAYS = {"metric": "process_threads", "above": -1}
"""A limit that every process is beyond, for as long as it lives."""


async def told(world: World, subject: str = "web") -> int:
    return sum(a.action == "notify.human" for a in await world.actions(subject))


class Troubled:
    """The executor itself, but for its first acts, which fail."""

    def __init__(self, inner: Executor, failures: int) -> None:
        self.inner, self.failures = inner, failures
        self.name, self.actions = inner.name, inner.actions

    async def preview(self, step: Step) -> str:
        return await self.inner.preview(step)

    async def act(self, step: Step) -> Effect:
        if self.failures:
            self.failures -= 1
            raise StepFailed("the mail server is down")
        return await self.inner.act(step)


def test_a_dependency_that_is_only_watched_is_not_restarted_for_its_dependent() -> None:
    async def story() -> None:
        world = World(
            {
                "db": {"process": ["/bin/db"], "work": DB, "mode": "observe"},
                "web": web(depends_on=["db"], restart_dependencies=True),
            }
        )
        async with world.running():
            world.network.broken[WORK] = lambda: (500, 0.001)
            await asyncio.sleep(300)

            assert [a for a in await world.actions() if a.target == "db"] == []
            assert len(await world.acts("web")) > 3, "the rungs beside that one are still tried"
            assert await told(world) >= 1

    run(story())


def test_a_rung_that_is_not_allowed_keeps_nobody_from_the_rungs_behind_it() -> None:
    async def story() -> None:
        world = World({"web": web(cleanup=[{"folder": "/srv/web/cache"}])}, guard={"allow": ["process.*"]})
        async with world.running():
            broken = True
            world.network.broken[WORK] = lambda: (500 if broken else 200, 0.001)
            await asyncio.sleep(300)
            assert "cleanup.free" not in await world.acts()
            assert await told(world) >= 1

            broken = False
            await asyncio.sleep(60)
            assert not [i for i in await world.incidents() if i.closed_at is None]

    run(story())


def test_a_ladder_of_which_nothing_is_allowed_does_not_spin() -> None:
    async def story() -> None:
        world = World({"web": web()}, guard={"allow": ["cleanup.*"]})
        async with world.running() as loop:
            world.kill("web")
            await asyncio.sleep(5)
            before = loop.cycle_count
            await asyncio.sleep(60)

            assert loop.cycle_count - before <= 60 * 4
            assert await told(world) == 1
            assert await world.acts() == []

    run(story())


def test_another_incident_that_is_held_back_does_not_silence_the_next_one_of_the_subject() -> None:
    async def story() -> None:
        late = {"metric": "process_age_seconds", "above": 20, "fault": "late"}
        world = World({"web": web()}, analyzers=limits(first={**ALWAYS, "fault": "first"}, late=late))
        async with world.running():
            await asyncio.sleep(100)

            assert {i.fault for i in await world.incidents()} == {"first", "late"}
            assert await told(world) == 2

    run(story())


def test_another_standing_finding_of_the_subject_does_not_refute_a_heal_that_takes_its_time() -> None:
    async def story() -> None:
        world = World({"web": web()}, analyzers=limits(threads=ALWAYS))
        async with world.running():
            await asyncio.sleep(5)
            world.kill("web")
            ready = asyncio.get_running_loop().time() + 10
            world.network.broken[WORK] = lambda: (
                (200, 0.001) if asyncio.get_running_loop().time() > ready else (503, 0.001)
            )
            await asyncio.sleep(60)

            (act,) = [a for a in await world.actions() if a.disruptive]
            assert act.result is Result.VERIFIED

    run(story())


def test_what_cannot_be_seen_any_more_is_not_acted_on() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running() as loop:
            world.network.broken[WORK] = lambda: (500, 0.001)
            await asyncio.sleep(20)
            before = len(await world.acts())
            del world.network.owners[WORK]
            world.network.fail(WORK, NO_NAME)
            turns = loop.cycle_count
            await asyncio.sleep(300)

            assert len(await world.acts()) == before == 1
            assert "cannot see any more" in " ".join(d.sentence for d in await world.knowledge.decisions("web"))
            assert loop.cycle_count - turns < 300, "it spins"

    run(story())


def test_a_dependency_of_which_nothing_can_be_heard_does_not_keep_its_dependent_hung_for_ever() -> None:
    async def story() -> None:
        world = World({"db": {"work": DB, "mode": "auto"}, "web": web(depends_on=["db"])})
        world.network.answer(DB)
        async with world.running():
            await asyncio.sleep(5)
            world.network.fail(DB, NO_NAME)
            await asyncio.sleep(5)
            world.hang(WORK)
            await asyncio.sleep(60)

            assert (await world.acts("web"))[:1] == ["process.restart"]

    run(story())


def test_asking_again_when_an_approval_lapsed_is_a_message_of_its_own_in_the_journal() -> None:
    async def story() -> None:
        world = World({"web": web(mode="approve")})
        async with world.running() as loop:
            world.kill("web")
            for _ in range(5):
                await asyncio.sleep(1000)
                assert loop.standing.store_trouble == ""
            assert await told(world) >= 4
            (wanted,) = await world.knowledge.approvals("wanted")

            await world.knowledge.answer_approval(wanted.plan, True, "oncall", "go ahead")
            world.database.others_wrote()
            await world.until(lambda: world.processes.supervised("web") is not None, within=2)

    run(story())


def test_an_approval_that_the_journal_could_not_take_is_asked_for_when_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        world = World({"web": web(mode="approve")})
        async with world.running() as loop:
            ask, refusals = loop.parts.knowledge.want_approval, iter([StoreError("disk full")])

            async def want(plan: Plan, expires: float, why: str = "") -> Approval:
                for refusal in refusals:
                    raise refusal
                return await ask(plan, expires, why)

            monkeypatch.setattr(loop.parts.knowledge, "want_approval", want)
            world.kill("web")
            await asyncio.sleep(30)

            assert len(await world.knowledge.approvals("wanted")) == 1

    run(story())


def test_a_suggestion_whose_message_was_lost_is_told_again() -> None:
    async def story() -> None:
        world = World({"web": web(mode="suggest")})
        async with world.running() as loop:
            executors = dict(loop.responder.catalogue.executors)
            executors["notify"] = Troubled(executors["notify"], failures=1)
            object.__setattr__(loop.responder.catalogue, "executors", executors)
            world.kill("web")
            await asyncio.sleep(1000)

            assert [a.result for a in await world.actions()] == [Result.FAILED, Result.UNVERIFIED]

    run(story())


def test_when_a_budget_is_spent_a_human_hears_of_it_once() -> None:
    async def story() -> None:
        world = World({"web": web()}, guard={"per_target": {"count": 1, "window": 600}})
        async with world.running():
            world.kill("web")
            await asyncio.sleep(10)
            world.kill("web")
            await asyncio.sleep(20)

            assert await world.acts() == ["process.restart"]
            assert await told(world) == 1

    run(story())


def test_a_monitor_that_takes_one_look_at_a_time_is_never_asked_twice_at_once() -> None:
    class Slow:
        name = "slow"
        now = most = 0

        async def observe(self) -> Sequence[Observation]:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.4)
            self.now -= 1
            return [Observation("slow", "web", "slow_seconds", 0.4)]

    async def story() -> None:
        world, slow = World({"web": web()}), Slow()
        loop = world.build()
        loop.watching.instances += (Instance(slow, 0.5, 5.0),)
        loop.watching._by_name["slow"] = loop.watching.instances[-1]
        task = asyncio.create_task(loop.start())
        await asyncio.sleep(1)
        for _ in range(5):
            await loop.watching.look(["slow"])
        loop.stop()
        await task

        assert slow.most == 1

    run(story())


def test_a_monitor_that_takes_its_time_keeps_no_heal_waiting() -> None:
    class Slow:
        name = "slow"
        looks = 0

        async def observe(self) -> Sequence[Observation]:
            self.looks += 1
            await asyncio.sleep(9)
            return [Observation("slow", "web", "slow_seconds", 9.0)]

    async def story() -> None:
        world, slow = World({"web": web()}), Slow()
        loop = world.build()
        loop.watching.instances += (Instance(slow, None, 10.0),)
        for program in world.blueprint.programs:
            await world.processes.start(program)
        task = asyncio.create_task(loop.start())
        await asyncio.sleep(2)
        assert slow.looks == 1
        world.kill("web")
        assert await world.until(lambda: world.processes.supervised("web") is not None) < 0.1
        assert not loop.first_turn.is_set()
        await asyncio.sleep(10)
        assert loop.first_turn.is_set()
        assert world.loop.parts.sight.latest("web", "slow_seconds") is not None
        loop.stop()
        await task

    run(story())


def test_the_incident_of_a_subject_that_was_taken_out_of_the_configuration_does_not_stay_open() -> None:
    async def story() -> None:
        db = {"process": ["/bin/db"], "work": DB}
        before = World({"web": web(mode="suggest"), "db": db})
        async with before.running():
            before.kill("web")
            await asyncio.sleep(5)
        after = World({"db": db})
        after.database, after.processes = before.database, before.processes
        async with after.running(started=False) as loop:
            assert [i.subject for i in loop.incidents.open] == ["web"]
            await asyncio.sleep(180)
            loop._due()
            await asyncio.sleep(1)

            assert [i.ended for i in await after.incidents()] == ["aged out"]

    run(story())


def test_a_stop_begins_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running() as loop:
            gate = asyncio.Event()

            async def slow_look(plan: Plan, incident: Incident) -> bool:
                return await gate.wait()

            world.kill("web")
            monkeypatch.setattr(loop.responder, "_still_needed", slow_look)
            await asyncio.sleep(0.5)
            assert loop.standing.in_treatment
            loop.stop()
            await asyncio.sleep(0.1)
            gate.set()
            await asyncio.sleep(1)

            assert await world.actions() == []

    run(story())


# -- the daemon around the loop ----------------------------------------------------------------------------------------

QUIET = """
status: {enabled: false}
state_dir: state
lock_file: state/daemon.lock
monitors: {host: {enabled: false}}
"""


async def _until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.02)


def test_a_log_file_that_cannot_be_opened_is_a_mistake_of_the_reload_and_not_the_end(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(QUIET)

    async def story() -> None:
        daemon = Daemon(file)
        life = asyncio.create_task(daemon.run())
        await _until(lambda: life.done() or (daemon._loop is not None and daemon.loop.first_turn.is_set()))
        first = daemon.loop
        file.write_text(QUIET + "logging: {file: /nonexistent/folder/x.log}\n")
        problems = await daemon.reload()

        assert "logging.file" in problems[0]
        assert daemon.loop is first
        assert not life.done()
        daemon.stop()
        await life

    asyncio.run(story())


def test_what_a_reload_mended_is_no_longer_called_blind(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(QUIET + f"subjects: {{web: {{log: {{path: {tmp_path}, patterns: {{e: e}}}}}}}}\n")

    async def story() -> None:
        daemon = Daemon(file)
        life = asyncio.create_task(daemon.run())
        await _until(lambda: bool(daemon.sight.blind_instances))
        before = daemon.loop
        (tmp_path / "a.log").write_text("")
        file.write_text(QUIET + f"subjects: {{web: {{log: {{path: {tmp_path}/a.log, patterns: {{e: e}}}}}}}}\n")

        assert await daemon.reload() == ()
        await _until(lambda: daemon.loop is not before and daemon.loop.first_turn.is_set())
        assert not daemon.sight.blind_instances
        daemon.stop()
        await life

    asyncio.run(story())


def test_what_is_paused_is_not_started_by_a_start_of_the_daemon(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        QUIET
        + "subjects: {nap: {process: [/bin/sleep, '60'], on_exit: stop, mode: auto}}\n".replace(
            "process: [/bin/sleep, '60'], on_exit: stop", "process: {command: [/bin/sleep, '60'], on_exit: stop}"
        )
    )

    async def life_of(pause: bool) -> bool:
        daemon = Daemon(file)
        life = asyncio.create_task(daemon.run())
        await _until(lambda: daemon._loop is not None and daemon.loop.first_turn.is_set())
        assert daemon._processes is not None
        runs = daemon._processes.supervised("nap") is not None
        if pause:
            await daemon.loop.parts.knowledge.add_pause("nap", daemon.started_at + 3600, who="oncall")
        daemon.stop()
        await life
        return runs

    async def story() -> None:
        assert await life_of(pause=True)
        assert not await life_of(pause=False)

    asyncio.run(story())


def test_the_folder_of_the_lock_is_made_for_its_user_alone(tmp_path: Path) -> None:
    lock = HostLock(tmp_path / "state" / "daemon.lock")
    lock.take({"pid": 1})
    lock.release()

    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_an_endpoint_that_ends_badly_is_a_condition_and_healing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("the server fell over")

    monkeypatch.setattr("x0tta6bl4.status.endpoint.serve", broken)
    file = tmp_path / "c.yaml"
    file.write_text(QUIET.replace("enabled: false}\nstate", "enabled: true}\nstate"))

    async def story() -> None:
        daemon = Daemon(file)
        life = asyncio.create_task(daemon.run())
        await _until(lambda: life.done() or (daemon._loop is not None and daemon.loop.first_turn.is_set()))

        assert not life.done()
        assert "the server fell over" in " ".join(c.meaning for c in daemon.conditions())
        daemon.stop()
        await life

    asyncio.run(story())
