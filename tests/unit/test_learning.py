"""The daemon learns which step heals soonest, says what it rests on, and stays within what the runbook allows."""

import asyncio
from typing import Any

from x0tta6bl4.kernel.memory import Feedback
from x0tta6bl4.testing.virtual_time import EPOCH, run
from x0tta6bl4.testing.world import World

WORK = "http://127.0.0.1:1/work"


def world(strategy: str) -> World:
    return World(
        {"web": {"process": ["/bin/web"], "work": WORK, "mode": "auto", "commands": {"reload": "command.hup"}}},
        executors={
            "systemd": {"enabled": False},
            "command": {"commands": {"hup": {"argv": ["/bin/true"], "summary": "tells it to read its settings"}}},
        },
        planners={"runbook": {"strategy": strategy}},
    )


def told(helped: bool, action: str, incident: str) -> Feedback:
    signature = ("gray", "process", "web")
    seconds = 3.0 if helped else None
    return Feedback(signature, (action,), seconds, helped, False, "operator", EPOCH, spent=20.0, incident=incident)


async def first_step(strategy: str) -> tuple[list[str], str]:
    """What is done first about a service that answers wrongly, after restarts have helped and reloads have not."""
    the = world(strategy)
    async with the.running() as loop:
        for number in range(10):
            await the.knowledge.add_feedback(told(False, "command.hup", f"inc-{number}"), "oncall")
            await the.knowledge.add_feedback(told(True, "process.restart", f"inc-{number}"), "oncall")
        await loop._learn(["gray"])
        the.network.broken[WORK] = lambda: (500, 0.001)
        await asyncio.sleep(20)
        story = " | ".join(entry.text for entry in await the.knowledge.history("web"))
        plans: list[Any] = [entry.data for entry in await the.knowledge.history("web") if entry.kind == "planned"]
        because = " | ".join(str(plan["because"]) for plan in plans)
        return await the.acts("web"), f"{story} {because}"


def test_what_healed_comes_before_what_did_not_and_the_counts_are_told() -> None:
    acts, story = run(first_step("learn"))

    assert acts[0] == "process.restart", story
    assert "10 of 10 healed" in story and "0 of 10" in story


def test_switched_off_the_written_order_counts() -> None:
    acts, _ = run(first_step("off"))

    assert acts[0] == "command.hup"


def test_what_the_daemon_proved_itself_is_learnt_from_as_well() -> None:
    async def story() -> None:
        the = world("learn")
        async with the.running() as loop:
            the.kill("web")
            await the.until(lambda: the.processes.supervised("web") is not None)
            await asyncio.sleep(10)
            (tried,) = loop.trials["dead"]

            assert tried.verified and tried.source == "outcome"
            assert tried.rung == ("process.restart",)

    run(story())
