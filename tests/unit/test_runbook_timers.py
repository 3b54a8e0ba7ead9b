"""Timers of runbooks over crashes of the whole daemon: what is left of a paused one is on disk with its move."""

import asyncio

from x0tta6bl4.kernel.facts import Incident
from x0tta6bl4.runbooks.document import parse
from x0tta6bl4.runbooks.life import replayed
from x0tta6bl4.testing.virtual_time import run
from x0tta6bl4.testing.world import World

URL = "http://web/work"
BOOK = {
    "runbook": "patient",
    "summary": "Waits before it asks for help.",
    "trigger": {"anomaly": "hung"},
    "data": {"begun": "now()", "waited": 0},
    "states": {
        "work": {
            "on": {"operator.hold": "held"},
            "states": {
                "settle": {
                    "after": {"100s": {"to": "tell", "hold": "pause", "do": {"set": {"waited": "now() - begun"}}}}
                },
                "was": {"history": "deep", "default": "settle"},
            },
        },
        "held": {"on": {"operator.resume": "was"}, "after": {"1d": "tell"}},
        "tell": {"do": "notify.human", "done": "watched", "failed": "watched"},
        "watched": {"after": {"1d": "end"}},
        "end": {"final": True},
    },
}


async def open_one(world: World) -> Incident:
    (incident,) = await world.knowledge.open_incidents()
    return incident


async def said(world: World, event: str) -> None:
    await world.knowledge.send((await open_one(world)).id, event, {}, "oncall")
    world.database.others_wrote()
    await asyncio.sleep(5.0)


def test_a_paused_timer_survives_crashes_while_it_runs_and_while_it_is_held() -> None:
    world = World({"web": {"process": ["/bin/web"], "work": URL, "mode": "auto"}}, runbooks=[BOOK])

    async def life(seconds: float) -> asyncio.Task[None]:
        task = asyncio.create_task(world.build().start())
        await asyncio.sleep(seconds)
        return task

    async def death(life: asyncio.Task[None]) -> None:
        life.cancel()  # as SIGKILL would: what is not on disk is gone
        await asyncio.gather(life, return_exceptions=True)
        world.crash()
        await world.processes.adopt(world.blueprint.programs)

    async def main() -> None:
        for program in world.blueprint.programs:
            await world.processes.start(program)
        first = await life(1.0)
        world.hang(URL)
        await asyncio.sleep(60.0)
        began = (await open_one(world)).place["chart"]["data"]["begun"]
        await death(first)
        second = await life(1.0)  # the timer goes on with what is left of it
        await said(world, "operator.hold")
        incident = await open_one(world)
        held_at = (await world.knowledge.moves(incident.id))[-1].at
        paused = incident.place["paused"]["after.settle.0"]
        assert 0.0 < paused <= 100.0 - (held_at - began) + 0.001
        await death(second)
        await asyncio.sleep(1000.0)
        third = await life(1.0)
        assert (await open_one(world)).place["paused"]["after.settle.0"] == paused
        await said(world, "operator.resume")
        resumed = (await world.knowledge.moves(incident.id))[-1]
        assert resumed.event == "operator.resume"
        await death(third)
        fourth = await life(100.0)
        incident, moves = await open_one(world), await world.knowledge.moves(incident.id)
        rung = next(move for move in moves if move.event == "after.settle.0")
        assert paused <= rung.at - resumed.at < paused + 2.0
        assert incident.place["chart"]["data"]["waited"] == rung.at - began
        book, _ = parse(BOOK)
        assert replayed(moves, lambda hash: book, incident) == []
        await death(fourth)

    run(main())
