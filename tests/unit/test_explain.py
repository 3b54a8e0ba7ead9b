"""Why something was done or not, as the endpoint tells it; the command line says the same from the same code."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from x0tta6bl4.kernel.facts import Answer, Condition, Incident, IncidentState, Plan, Severity, Step, Verdict
from x0tta6bl4.kernel.guard import CHAIN
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.kernel.memory import Decision
from x0tta6bl4.runbooks.score import BOUND
from x0tta6bl4.status.explain import LATEST, REMEDIES, ScoreBoard, Why, remedy, score, why
from x0tta6bl4.status.face import Condition as DaemonCondition
from x0tta6bl4.status.stories import Misasked, Unknown
from x0tta6bl4.testing.virtual_time import run
from x0tta6bl4.testing.world import World

WORK = "http://127.0.0.1:1/work"
Life = Callable[[World, MAPEK], Awaitable[None]]


def lived(life: Life, care: dict[str, Any] | None = None, **settings: Any) -> None:
    async def told() -> None:
        subjects = {"web": {"process": ["/bin/web"], "work": WORK, "mode": "auto", **(care or {})}}
        world = World(subjects, **settings)
        async with world.running() as loop:
            await life(world, loop)

    run(told())


async def asked(loop: MAPEK, target: str, *more: Any) -> Why:
    told = await why(loop, target, *more)
    TypeAdapter(Why).validate_python(told, strict=True)
    json.dumps(told, allow_nan=False)
    return told


def test_of_what_is_well_it_says_so_and_since_when() -> None:
    async def life(world: World, loop: MAPEK) -> None:
        told = await asked(loop, "web")
        assert told["now"] is not None and ("web", "well", "auto") == tuple(
            told["now"][key]  # type: ignore[literal-required]  # the three of them
            for key in ("name", "state", "mode")
        )
        assert [] == told["incidents"] and told["last_incident"] is None
        assert told["auto_healing"] and told["flags"]["auto_healing"]

    lived(life)


def test_of_what_was_healed_it_tells_what_was_done_and_how_that_was_proved() -> None:
    async def life(world: World, loop: MAPEK) -> None:
        world.kill("web")
        await asyncio.sleep(30)
        told = await asked(loop, "web")
        last = told["last_incident"]
        assert [] == told["incidents"] and last is not None
        assert "healed" == last["incident"]["ended"]
        (done,) = last["actions"]
        assert ("process.restart", "verified", "") == (done["action"], done["result"], done["approved_by"])
        assert done["proof"] and done["seconds"] is not None and done["runbook"] and done["rung"]
        assert last["stand"] is None or last["stand"]["trouble"] == ""
        of_one = await asked(loop, last["incident"]["id"])
        assert "web" == of_one["subject"] and last == of_one["incidents"][0]

    lived(life)


def test_of_what_is_held_back_it_names_the_check_and_the_way_out() -> None:
    async def life(world: World, loop: MAPEK) -> None:
        world.kill("web")
        await asyncio.sleep(5)
        (case,) = (await asked(loop, "web"))["incidents"]
        decision, plan = case["decision"], case["plan"]
        assert decision is not None and ("mode", "hold") == (decision["check"], decision["answer"])
        assert plan is not None and f"x0tta6bl4 approve {plan['id']}" in decision["remedy"]
        assert ["process.restart"] == [step["action"] for step in plan["steps"]]
        assert [("wanted", plan["id"])] == [(a["state"], a["plan"]) for a in case["approvals"]]
        assert all(done["only_asks"] for done in case["actions"])
        stand = case["stand"]
        assert stand is not None and stand["states"] == ["restart"] and stand["trouble"] == ""

        await world.knowledge.answer_approval(plan["id"], True, "oncall", "go on")
        world.database.others_wrote()
        await asyncio.sleep(20)
        last = (await asked(loop, "web"))["last_incident"]
        assert last is not None
        assert ["oncall"] == [done["approved_by"] for done in last["actions"] if not done["only_asks"]]

    lived(life, {"mode": "approve"})


def test_pauses_and_the_daemons_own_trouble_are_told_with_it() -> None:
    async def life(world: World, loop: MAPEK) -> None:
        until = world.clock.wall() + 600
        for target in ("w*", "db"):
            await world.knowledge.add_pause(target, until, who="oncall", reason="a deploy")
        world.database.others_wrote()
        await asyncio.sleep(2)
        trouble = DaemonCondition("journal", "The journal fails", "nothing is done", "critical", world.clock.wall())

        told = await asked(loop, "web", [trouble])

        assert [("w*", "oncall", "a deploy")] == [(p["target"], p["who"], p["reason"]) for p in told["pauses"]]
        assert ["journal"] == [c["code"] for c in told["conditions"]]
        world.kill("web")
        await asyncio.sleep(5)
        (case,) = (await asked(loop, "web"))["incidents"]
        assert case["decision"] is not None and "x0tta6bl4 resume" in case["decision"]["remedy"]
        await asyncio.sleep(600)
        assert [] == (await asked(loop, "web"))["pauses"]

    lived(life)


@pytest.mark.parametrize(("target", "near"), [("wbe", "web"), ("inc-000000000000zzzzzz", "")])
def test_an_unknown_target_is_named_with_the_nearest(target: str, near: str) -> None:
    async def life(world: World, loop: MAPEK) -> None:
        with pytest.raises(Unknown) as caught:
            await why(loop, target)
        assert target in caught.value.message and near in caught.value.remedy

    lived(life)


def test_what_is_watched_no_more_is_told_of_from_memory() -> None:
    async def life(world: World, loop: MAPEK) -> None:
        at = world.clock.wall() - 50
        early = Incident(
            "inc-1", "old", "dead", IncidentState.CLOSED, Severity.MAJOR, "gone", at, at, at + 9, "recovered"
        )
        back = replace(early, id="inc-0", opened_at=at - 99, closed_at=at + 30, reopened=1, onset_at=at + 20)
        for one in (early, back):
            await world.knowledge.save_incident(one)
        told = await asked(loop, "old")
        assert told["now"] is None and told["last_incident"] is not None
        assert "inc-0" == told["last_incident"]["incident"]["id"]  # closed last, though opened first

    lived(life)


def test_of_many_actions_the_latest_are_told_and_the_others_counted() -> None:
    async def life(world: World, loop: MAPEK) -> None:
        at = world.clock.wall()
        one = Incident(
            "inc-1", "old", "dead", IncidentState.CLOSED, Severity.MAJOR, "gone", at, at, at + 9, "recovered"
        )
        await world.knowledge.save_incident(one)
        for number in range(LATEST + 5):
            step = Step(f"plan-{number:03d}.1", "process.restart", "old")
            plan = Plan(f"plan-{number:03d}", one.id, "old", "dead", "service", "restart", (step,), ())
            await asyncio.sleep(0.01)
            await world.knowledge.record_intent(step, plan, loop.responder.epoch)
        last = (await asked(loop, "old"))["last_incident"]
        assert last is not None and 5 == last["earlier_actions"]
        assert [f"plan-{n:03d}" for n in range(5, LATEST + 5)] == [done["plan"] for done in last["actions"]]

    lived(life)


@pytest.mark.parametrize("check", [name for name, _ in CHAIN])
def test_every_check_of_the_guard_has_a_way_out(check: str) -> None:
    assert any(name == check for name, _ in REMEDIES), f"what can a person do about {check}?"


def test_a_remedy_names_what_it_is_about() -> None:
    decision = Decision("web", "inc-1", "plan-1", "plan-1.1", "allowlist", Answer.DENY, "no", action="process.restart")

    assert "add process.restart to guard.allow" in remedy(decision)
    assert "x0tta6bl4 why db" in remedy(
        replace(decision, check="dependency", answer=Answer.HOLD, sentence="waits for its dependency: db is dead")
    )
    assert "" == remedy(replace(decision, check="nobody"))


def test_the_score_is_told_with_every_case_it_rests_on() -> None:
    async def life(world: World, loop: MAPEK) -> None:
        knowledge, now = world.knowledge, world.clock.wall()
        for number in range(12):
            at = now - 9000 + number
            one = Incident(
                f"inc-{number}",
                "web",
                "hung",
                IncidentState.CLOSED,
                Severity.MAJOR,
                "web hangs",
                at,
                at,
                at + (2000 if number else 5),
                "recovered",
                onset_at=at,
                healthy_when=(Condition("work_up", ">=", 1.0),),
            )
            step = Step(f"plan-{number}.1", "process.restart", "web")
            plan = Plan(f"plan-{number}", one.id, "web", "hung", "service", "restart", (step,), (), mode="suggest")
            await knowledge.save_incident(one)
            await knowledge.save_plan(plan)
            verdict = Verdict("mode", Answer.DENY, "web is in mode suggest: would do process.restart")
            await knowledge.record_decision(plan, step, verdict, at + 1)

        told = await score(loop)
        TypeAdapter(ScoreBoard).validate_python(told, strict=True)

        (rule,) = json.loads(json.dumps(told, allow_nan=False))["rules"]
        assert ("service", 12, 11, 1, 0, 0) == tuple(
            rule[key] for key in ("rule", "suggestions", "right", "needless", "harmful", "unknown")
        )
        assert BOUND == told["bound"] and rule["missing"] and 12 == len(rule["cases"])
        assert rule["cases"][0]["at"].endswith("Z") and "mode" == rule["cases"][0]["stopped_by"]
        assert told["rules"] == (await score(loop, rule="service"))["rules"]
        with pytest.raises(Unknown, match="service"):
            await score(loop, rule="servce")
        with pytest.raises(Misasked, match="days"):
            await score(loop, days=0)
        assert [] == (await score(loop, days=0.01))["rules"]

    lived(life)
