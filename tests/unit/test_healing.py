"""What the daemon does and leaves alone, told over virtual time with everything real but the host."""

import asyncio
import socket
from typing import Any

import pytest

from x0tta6bl4.kernel.errors import StepFailed
from x0tta6bl4.kernel.facts import IncidentState, Result
from x0tta6bl4.kernel.memory import Decision
from x0tta6bl4.testing.virtual_time import run
from x0tta6bl4.testing.world import World

WORK = "http://127.0.0.1:1/work"


def web(**more: Any) -> dict[str, Any]:
    return {"process": ["/bin/web"], "work": WORK, "mode": "auto", **more}


async def sentences(world: World, subject: str = "web") -> str:
    decisions: list[Decision] = await world.knowledge.decisions(subject)
    return " | ".join(f"{d.check}: {d.sentence}" for d in decisions)


def test_a_killed_service_is_started_at_once_and_the_heal_is_proved() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running():
            world.kill("web")
            seconds = await world.until(lambda: world.processes.supervised("web") is not None)
            await asyncio.sleep(5)
            (action,) = await world.actions()
            (incident,) = await world.incidents()

            assert seconds <= 0.05
            assert (action.action, action.result) == ("process.restart", Result.VERIFIED)
            assert (incident.fault, incident.state, incident.ended) == ("dead", IncidentState.CLOSED, "healed")

    run(story())


def test_a_hung_service_is_restarted_within_two_seconds() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running():
            first = world.processes.supervised("web")
            world.hang(WORK)
            seconds = await world.until(lambda: world.processes.supervised("web") not in (first, None))
            await asyncio.sleep(5)

            assert 1.2 <= seconds <= 1.9
            assert (await world.incidents())[0].fault == "hung"
            assert (await world.actions())[0].result is Result.VERIFIED

    run(story())


def test_a_service_that_hangs_again_one_second_after_its_restart_is_restarted_again_in_time() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running():
            first = world.processes.supervised("web")
            world.hang(WORK)
            await world.until(lambda: world.processes.supervised("web") not in (first, None))
            await asyncio.sleep(1.0)
            second = world.processes.supervised("web")
            world.hang(WORK)
            seconds = await world.until(lambda: world.processes.supervised("web") not in (second, None))

            assert seconds <= 2.0

    run(story())


def test_one_slow_request_among_good_ones_is_no_fault() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running():
            answers = iter([(200, 3.0)])
            world.network.broken[WORK] = lambda: next(answers, (200, 0.001))
            await asyncio.sleep(20)

            assert await world.acts() == []
            assert list(await world.incidents()) == []

    run(story())


def test_a_service_that_takes_twenty_seconds_to_start_is_given_them() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running():
            world.kill("web")
            born = asyncio.get_running_loop().time()
            world.network.broken[WORK] = lambda: (
                (200, 0.001) if asyncio.get_running_loop().time() - born > 20 else (503, 0.001)
            )
            await asyncio.sleep(40)
            (action,) = await world.actions()

            assert action.result is Result.VERIFIED

    run(story())


def test_in_mode_suggest_nothing_is_done_and_the_suggestion_is_told() -> None:
    async def story() -> None:
        world = World({"web": web(mode="suggest")})
        async with world.running():
            world.kill("web")
            await asyncio.sleep(30)

            assert await world.acts() == []
            assert [a.action for a in await world.actions()] == ["notify.human"]
            assert "would do process.restart on web" in await sentences(world)

    run(story())


def test_what_is_not_allowed_by_name_is_not_done() -> None:
    async def story() -> None:
        world = World({"web": web()}, guard={"allow": ["cleanup.*"]})
        async with world.running():
            world.kill("web")
            await asyncio.sleep(30)

            assert await world.acts() == []
            assert "guard.allow" in await sentences(world)

    run(story())


def test_the_kill_switch_thrown_from_outside_stops_all_acting_within_a_second() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running():
            await world.knowledge.set_flag("auto_healing", False, "oncall")
            world.database.others_wrote()
            await asyncio.sleep(0.9)
            world.kill("web")
            await asyncio.sleep(30)
            assert await world.acts() == []
            assert "auto_healing is off" in await sentences(world)

            await world.knowledge.set_flag("auto_healing", True, "oncall")
            world.database.others_wrote()
            await world.until(lambda: world.processes.supervised("web") is not None, within=2.0)

    run(story())


def test_a_paused_target_is_left_alone_until_the_pause_ends() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running():
            await world.knowledge.add_pause("web", world.clock.wall() + 60, who="oncall", reason="moving disks")
            world.database.others_wrote()
            await asyncio.sleep(0.5)
            world.kill("web")
            await asyncio.sleep(50)
            assert await world.acts() == []
            assert "moving disks" in await sentences(world)

            await world.until(lambda: world.processes.supervised("web") is not None, within=15)

    run(story())


def test_in_mode_approve_a_person_decides_and_the_symptom_is_looked_at_again() -> None:
    async def story() -> None:
        world = World({"web": web(mode="approve")})
        async with world.running():
            world.kill("web")
            await asyncio.sleep(3)
            (wanted,) = await world.knowledge.approvals("wanted")
            assert await world.acts() == []

            await world.knowledge.answer_approval(wanted.plan, True, "oncall", "go ahead")
            world.database.others_wrote()
            await world.until(lambda: world.processes.supervised("web") is not None, within=2)
            assert await world.acts() == ["process.restart"]

    run(story())


def test_an_approval_that_nobody_gave_expires_and_is_asked_for_anew() -> None:
    async def story() -> None:
        world = World({"web": web(mode="approve")}, guard={"approval_expires": 100})
        async with world.running():
            world.kill("web")
            await asyncio.sleep(3)
            (first,) = await world.knowledge.approvals("wanted")
            await asyncio.sleep(200)
            (again,) = await world.knowledge.approvals("wanted")

            assert again.expires > first.expires
            assert await world.acts() == []

    run(story())


def test_a_rejected_plan_is_not_done() -> None:
    async def story() -> None:
        world = World({"web": web(mode="approve")})
        async with world.running():
            world.kill("web")
            await asyncio.sleep(3)
            (wanted,) = await world.knowledge.approvals("wanted")
            await world.knowledge.answer_approval(wanted.plan, False, "oncall", "it is being replaced")
            world.database.others_wrote()
            await asyncio.sleep(60)

            assert await world.acts() == []
            assert "rejected by oncall: it is being replaced" in await sentences(world)

    run(story())


def rows(actions: list[str]) -> int:
    """The longest row of equal tries."""
    longest = count = 0
    for before, now in zip(["", *actions], actions, strict=False):
        count = count + 1 if now == before else 1
        longest = max(longest, count)
    return longest


def test_a_service_that_no_restart_cures_reaches_a_human_and_is_never_given_up() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running():
            broken = StepFailed("exits at once")
            world.processes.fail_start("web", broken, times=10_000)
            world.kill("web")
            await asyncio.sleep(1800)
            actions = [a.action for a in await world.actions()]
            assert "notify.human" in actions
            assert rows(actions) <= 3
            assert len(actions) < 120, "it spins"

            world.processes._failures.clear()
            seconds = await world.until(lambda: world.processes.supervised("web") is not None)
            await asyncio.sleep(5)
            assert seconds <= 60
            assert (await world.incidents())[0].ended == "healed"

    run(story())


def test_a_step_that_did_not_help_is_followed_by_a_different_one() -> None:
    async def story() -> None:
        world = World({"web": web(cleanup=[{"folder": "/srv/web/cache"}])})
        async with world.running():
            world.files.add("/srv/web/cache/index", 4096)
            world.network.broken[WORK] = lambda: (500, 0.001)
            await asyncio.sleep(300)
            acts = await world.acts()

            assert acts[:4] == ["process.restart", "process.restart", "cleanup.free", "process.restart"]

    run(story())


def test_when_what_all_depend_on_is_down_only_that_is_healed() -> None:
    async def story() -> None:
        urls = {f"web{n}": f"http://127.0.0.1:{n}/work" for n in range(10, 20)}
        db = "http://127.0.0.1:2/work"
        world = World(
            {"db": web(work=db)}
            | {name: web(work=url, depends_on=["db"], process=[f"/bin/{name}"]) for name, url in urls.items()}
        )
        async with world.running():
            world.hang(db)
            stuck = world.processes.supervised("db")
            for url in urls.values():
                world.network.broken[url] = lambda: (
                    (503, 0.001) if world.processes.supervised("db") in (stuck, None) else (200, 0.001)
                )
            await asyncio.sleep(60)
            actions = await world.actions()

            assert {a.target for a in actions} == {"db"}
            assert len(actions) == 1
            assert all(i.state is IncidentState.CLOSED for i in await world.incidents())

    run(story())


def test_ten_services_killed_at_once_are_all_healed_and_only_a_share_at_a_time() -> None:
    async def story() -> None:
        world = World(
            {f"web{n}": web(work=f"http://127.0.0.1:{n}/work", process=[f"/bin/web{n}"]) for n in range(10, 20)}
        )
        async with world.running() as loop:
            most, standing = 0, loop.standing
            for name in world.blueprint.subjects:
                world.kill(name)
            for _ in range(300):
                await asyncio.sleep(0.01)
                most = max(most, len(standing.in_treatment.keys() - standing.recovering))
            assert all(world.processes.supervised(name) for name in world.blueprint.subjects)
            await asyncio.sleep(20)
            assert 1 <= most <= 3
            assert len(await world.acts()) == 10

    run(story())


def test_one_service_on_which_every_restart_fails_does_not_keep_the_others_down() -> None:
    async def story() -> None:
        world = World({"bad": web(work="http://127.0.0.1:8/work", process=["/bin/bad"]), "web": web()})
        async with world.running():
            world.processes.fail_start("bad", StepFailed("exits at once"), times=10_000)
            world.kill("bad")
            await asyncio.sleep(60)
            world.kill("web")
            await world.until(lambda: world.processes.supervised("web") is not None, within=1.0)

    run(story())


def test_a_daemon_that_dies_between_intent_and_outcome_looks_before_it_decides() -> None:
    async def story() -> None:
        world = World({"web": web()})
        loop = world.build()
        for program in world.blueprint.programs:
            await world.processes.start(program)
        life = asyncio.create_task(loop.start())
        await asyncio.sleep(1)
        world.kill("web")
        await world.until(lambda: world.processes.supervised("web") is not None)
        life.cancel()  # as SIGKILL would: the step is done, its outcome was never written
        await asyncio.gather(life, return_exceptions=True)
        (left,) = await world.knowledge.unfinished()
        running = world.processes.supervised("web")
        world.crash()
        await world.processes.adopt(world.blueprint.programs)

        async with world.running(started=False):
            await asyncio.sleep(30)
            (action,) = await world.actions()
            assert action.step_id == left.step.id
            assert action.result is Result.VERIFIED
            assert world.processes.supervised("web") == running
            assert await world.knowledge.unfinished() == []

    run(story())


def test_a_restart_of_the_daemon_forgives_no_backoff() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running():
            world.processes.fail_start("web", StepFailed("exits at once"), times=10_000)
            world.kill("web")
            await asyncio.sleep(120)
        before = len(await world.acts())
        for _ in range(5):
            async with world.running(started=False):
                await asyncio.sleep(1.0)
        assert len(await world.acts()) <= before + 1

    run(story())


def test_when_the_journal_cannot_be_written_nothing_is_done_until_it_can() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running():
            world.database.broken = "disk full"
            world.kill("web")
            await asyncio.sleep(30)
            assert world.processes.supervised("web") is None

            world.database.broken = ""
            await world.until(lambda: world.processes.supervised("web") is not None, within=15)

    run(story())


def test_a_monitor_that_cannot_see_makes_the_subject_unknown_and_is_itself_a_finding() -> None:
    async def story() -> None:
        world = World({"web": {"work": WORK, "mode": "auto"}})
        async with world.running() as loop:
            world.network.fail(WORK, socket.gaierror(-2, "Name or service not known"))
            await asyncio.sleep(30)
            (incident,) = [i for i in await world.incidents() if i.fault == "blind"]
            assert incident.subject == "web.work"
            assert await world.acts() == []

            world.network.answer(WORK)
            await asyncio.sleep(60)
            assert not loop.parts.sight.blind_instances
            assert all(i.state is IncidentState.CLOSED for i in await world.incidents())

    run(story())


def test_a_service_that_healed_itself_is_not_touched() -> None:
    async def story() -> None:
        world = World({"web": web(mode="approve")})
        async with world.running():
            until = asyncio.get_running_loop().time() + 10
            world.network.broken[WORK] = lambda: (
                (500, 0.001) if asyncio.get_running_loop().time() < until else (200, 0.001)
            )
            await asyncio.sleep(60)
            (incident,) = await world.incidents()

            assert await world.acts() == []
            assert incident.ended == "recovered"

    run(story())


@pytest.mark.parametrize("down", [0.3, 0.6])
def test_a_probe_that_flaps_for_moments_is_damped(down: float) -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running():
            world.network.broken[WORK] = lambda: (
                (503, 0.001) if asyncio.get_running_loop().time() % 2.0 < down else (200, 0.001)
            )
            await asyncio.sleep(300)

            assert await world.acts() == []

    run(story())


def test_of_a_group_the_next_is_treated_when_the_one_before_is_proved() -> None:
    async def story() -> None:
        world = World(
            {
                f"web{n}": web(work=f"http://127.0.0.1:{n}/work", process=[f"/bin/web{n}"], group="front")
                for n in range(10, 13)
            }
        )
        async with world.running() as loop:
            most = 0
            for name in world.blueprint.subjects:
                world.kill(name)
            for _ in range(3000):
                await asyncio.sleep(0.01)
                most = max(most, len(loop.standing.in_treatment))

            assert all(world.processes.supervised(name) for name in world.blueprint.subjects)
            assert most == 1

    run(story())
