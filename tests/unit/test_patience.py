"""A step that was given its time gets it; one that was not is judged by the first word that it did not help."""

import asyncio
from typing import Any

import pytest

from x0tta6bl4.kernel.facts import Result
from x0tta6bl4.testing.virtual_time import run
from x0tta6bl4.testing.world import World

WORK = "http://127.0.0.1:1/work"
SLOW = {
    "use": "threshold",
    "limits": {"slow": {"metric": "work_seconds", "above": 0.3, "clear": 0.1, "fault": "slow"}},
}
"""Stands as long as the last answer was slow: it is found anew in every turn, also right after an action."""


def patient(expect: dict[str, Any] | None) -> dict[str, Any]:
    first: dict[str, Any] = {"do": {"action": "service.restart"}, "done": "end", "failed": "tell"}
    return {
        "runbook": "patient",
        "summary": "Restarts, and gives it time.",
        "trigger": {"anomaly": "slow"},
        "initial": "first",
        "states": {
            "first": first | ({"expect": expect} if expect is not None else {}),
            "tell": {"do": {"action": "notify.human"}, "done": "end", "failed": "end"},
            "end": {"final": True},
        },
    }


@pytest.mark.parametrize(
    ("expect", "result"),
    [
        pytest.param({"within": "8s", "hold": "1s"}, Result.VERIFIED, id="given its time"),
        pytest.param(None, Result.REFUTED, id="given none"),
    ],
)
def test_what_works_after_three_seconds_is_proved_where_it_was_given_eight(
    expect: dict[str, Any] | None, result: Result
) -> None:
    async def story() -> None:
        world = World(
            {"web": {"process": ["/bin/web"], "work": WORK, "mode": "auto"}},
            runbooks=[patient(expect)],
            analyzers={"limits": SLOW},
        )
        async with world.running() as loop:
            world.network.broken[WORK] = lambda: (200, 0.5)
            await world.until(lambda: bool(loop.standing.in_treatment))
            await asyncio.sleep(3)
            world.network.broken.clear()
            await asyncio.sleep(10)
            first = next(action for action in await world.actions("web") if action.disruptive)

            assert (first.action, first.result) == ("process.restart", result)

    run(story())
