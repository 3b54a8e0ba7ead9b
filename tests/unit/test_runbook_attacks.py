"""What a hostile reading of the runbooks' life found, each told as a story over virtual time."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from x0tta6bl4.kernel.errors import ConfigError
from x0tta6bl4.kernel.facts import Incident, IncidentState, Message, Result, Severity, Step
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.kernel.plugin import Action, Effect, PluginConfig
from x0tta6bl4.kernel.respond import Catalogue
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.runbooks.document import MOST_STATES, given, read
from x0tta6bl4.runbooks.life import replayed
from x0tta6bl4.testing.virtual_time import run
from x0tta6bl4.testing.world import World

WORK = "http://127.0.0.1:1/work"


def web(**more: Any) -> dict[str, Any]:
    return {"process": ["/bin/web"], "work": WORK, "mode": "auto", **more}


def book(states: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A runbook for a service that answers with errors; ``end`` is its end."""
    return {
        "runbook": "mine",
        "summary": "what this test is about",
        "trigger": {"anomaly": "gray"},
        "states": {**states, "end": {"final": True}},
        **more,
    }


def pull(done: str = "end", failed: str = "end", **more: Any) -> dict[str, Any]:
    return {"do": {"action": "lever.pull", **more.pop("do", {})}, "done": done, "failed": failed, **more}


SOON = {"within": "2s", "hold": "1s"}


class Lever:
    """An executor whose actions take their time and do what the test says; ``done`` tells which ended."""

    name = "lever"

    def __init__(self, seconds: float = 0.0, data: Any = None, on_unknown: Any = "probe") -> None:
        self.actions = [
            Action("pull", "pulls it", PluginConfig, undo="push", on_unknown=on_unknown),
            Action("push", "pushes it back", PluginConfig),
            Action("turn", "turns it", PluginConfig),
            Action("look", "looks at it", PluginConfig, disruptive=False, blast="none"),
        ]
        self.seconds = seconds
        self.data = data or {}
        self.begun: list[str] = []
        self.done: list[str] = []

    async def preview(self, step: Step) -> str:
        return f"would {step.action}"

    async def act(self, step: Step) -> Effect:
        self.begun.append(step.action.partition(".")[2])
        await asyncio.sleep(self.seconds)
        self.done.append(step.action.partition(".")[2])
        return Effect(f"did {step.action}", data=self.data)


@asynccontextmanager
async def alive(world: World, lever: Lever | None = None, started: bool = True) -> AsyncIterator[MAPEK]:
    """A life of the daemon that has the lever, too; it ends without a word when the body does."""
    parts = world.build().parts
    executors = dict(parts.catalogue.executors)
    if lever is not None:
        executors["lever"] = lever
    world.loop = loop = MAPEK(replace(parts, catalogue=Catalogue(executors)))
    if started:
        for program in world.blueprint.programs:
            await world.processes.start(program)
    task = asyncio.create_task(loop.start(), name="alive")
    try:
        await asyncio.sleep(1.0)
        yield loop
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def break_it(world: World) -> None:
    world.network.broken[WORK] = lambda: (500, 0.001)


def mend(world: World) -> None:
    world.network.broken.pop(WORK, None)


async def say(world: World, event: str, **data: Any) -> None:
    (incident,) = [i for i in await world.incidents() if i.state is not IncidentState.CLOSED]
    await world.knowledge.send(incident.id, event, data, "oncall")
    world.database.others_wrote()


async def moves(world: World) -> list[str]:
    (incident,) = await world.incidents()
    return [move.event for move in await world.knowledge.moves(incident.id)]


async def journal_holds(world: World) -> None:
    """What is on disk is numbered without a gap and gives the same place when it is played again."""
    for incident in await world.incidents():
        told = await world.knowledge.moves(incident.id)
        assert [m.number for m in told] == list(range(1, len(told) + 1))
        planner: Any = world.loop.parts.planner
        if incident.place.get("chart"):
            assert not replayed(told, planner.book, incident)


TELL = {"do": "notify.human", "done": "end", "failed": "end"}
HELD = {
    "work": {
        "initial": "a",
        "on": {"operator.hold": "held"},
        "states": {"a": pull("end", "told", expect=SOON), "was": {"history": "deep", "default": "a"}},
    },
    "held": {"on": {"operator.resume": "was"}, "after": {"1h": "told"}},
    "told": TELL,
}


async def names(world: World) -> list[str]:
    return [action.action for action in await world.actions()]


# -- going round in circles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "states",
    [
        pytest.param(
            {"a": pull("end", "b"), "b": {"do": "lever.turn", "done": "end", "failed": "a"}}, id="what nobody allows"
        ),
        pytest.param(
            {
                "a": {"do": "dependency.restart", "done": "end", "failed": "b"},
                "b": {"do": "dependency.restart", "done": "end", "failed": "a"},
            },
            id="what nothing here can do",
        ),
        pytest.param({"a": {"after": {"0s": "b"}, "on": {"x": "end"}}, "b": {"after": {"0s": "a"}}}, id="no time"),
        pytest.param({"a": {"after": {"1ms": "b"}, "on": {"x": "end"}}, "b": {"after": {"1ms": "a"}}}, id="hardly any"),
        pytest.param(
            {
                "a": {"do": "lever.look", "expect": None, "done": "b", "failed": "end"},
                "b": {"do": "lever.look", "expect": None, "done": "a", "failed": "end"},
            },
            id="only looking",
        ),
    ],
)
def test_a_runbook_that_goes_round_in_circles_is_bounded_and_a_human_hears_of_it(states: Mapping[str, Any]) -> None:
    async def story() -> None:
        world = World({"web": web()}, guard={"allow": ["process.*"]}, runbooks=[book(states)])
        async with alive(world, Lever(seconds=0.01)) as loop:
            break_it(world)
            await asyncio.sleep(600)
            told = [a for a in await world.actions() if a.action == "notify.human"]

            assert 1 <= len(told) <= 2
            assert len(await moves(world)) <= 320
            assert loop.cycle_count <= 2000
            await journal_holds(world)

    run(story())


def test_a_runbook_may_look_every_few_seconds_for_as_long_as_it_takes() -> None:
    """A look is no message to a human, so nothing spaces it out; and it is no try that could be one too many."""
    waiting = {
        "look": {"do": "lever.look", "expect": None, "done": "pause", "failed": "end"},
        "pause": {"after": {"5s": "look"}},
    }

    async def story() -> None:
        world, lever = World({"web": web()}, runbooks=[book(waiting)]), Lever()
        async with alive(world, lever):
            break_it(world)
            await asyncio.sleep(600)

            assert len(lever.done) >= 110
            assert "notify.human" not in await names(world)

    run(story())


def test_to_look_in_between_makes_no_other_step_of_the_same_one() -> None:
    looking = {
        "a": pull("end", "look", expect=SOON),
        "look": {"do": "lever.look", "expect": None, "done": "a", "failed": "a"},
    }

    async def story() -> None:
        world, lever = World({"web": web()}, runbooks=[book(looking)]), Lever()
        lever.actions[0] = replace(lever.actions[0], undo="")
        async with alive(world, lever):
            break_it(world)
            await asyncio.sleep(300)
            steps = [name for name in await names(world) if name != "lever.look"]

            assert steps[:4] == ["lever.pull", "lever.pull", "lever.pull", "notify.human"]

    run(story())


def test_a_runbook_that_fails_in_its_own_handler_of_failures_is_told_to_a_human() -> None:
    branching = [{"to": "end", "if": "result.loss > 3"}, "told"]
    states = {"a": {**pull("end", expect=SOON), "failed": branching}, "told": TELL}
    worse = {"error.execution": {"to": "told", "do": {"set": {"half": "1 / 0"}}}}

    async def story() -> None:
        world = World({"web": web()}, runbooks=[book(states, data={"half": 0}, on=worse)])
        async with alive(world, Lever()):
            break_it(world)
            await asyncio.sleep(120)
            told = [s for s in await world.knowledge.story((await world.incidents())[0].id) if s.kind == "intent"]

            assert (await names(world))[-1] == "notify.human"
            assert len(told) == 3  # it was pulled, pushed back, and told; and then it rests
            await journal_holds(world)

    run(story())


# -- while something is being done -----------------------------------------------------------------------------------


def test_a_hold_and_a_return_while_the_act_goes_on_still_wait_for_its_proof() -> None:
    async def story() -> None:
        world, lever = World({"web": web()}, runbooks=[book(HELD)]), Lever(seconds=5.0)
        async with alive(world, lever):
            break_it(world)
            await world.until(lambda: bool(lever.begun))
            await say(world, "operator.hold")
            await asyncio.sleep(1)
            await say(world, "operator.resume")
            await asyncio.sleep(1)
            mend(world)
            await asyncio.sleep(20)
            (incident,) = await world.incidents()
            (action,) = await world.actions()

            assert (incident.state, incident.ended) == (IncidentState.CLOSED, "healed")
            assert action.result is Result.VERIFIED
            await journal_holds(world)

    run(story())


@pytest.mark.parametrize("seconds", [1.0, 6.0], ids=["during the proof", "during the act"])
def test_what_a_deadline_finds_half_done_is_taken_back(seconds: float) -> None:
    """The rollback waits for what still goes on: else it would find nothing to take back, and nobody would later."""
    states = {
        "a": pull("end", "end", expect={"within": "30s", "hold": "1s"}),
        "back": {"rollback": True, "done": "told", "failed": "told"},
        "told": TELL,
    }

    async def story() -> None:
        world, lever = World({"web": web()}, runbooks=[book(states, deadline={"3s": "back"})]), Lever(seconds)
        async with alive(world, lever):
            break_it(world)
            await world.until(lambda: bool(lever.begun))
            await asyncio.sleep(2 * seconds + 6)

            assert lever.done == ["pull", "push"]
            assert (await moves(world))[:3] == ["$start", "after.mine.0", "done.act.back"]
            await journal_holds(world)

    run(story())


def test_one_region_tells_a_human_while_another_restarts_and_the_incident_stays_responded_to() -> None:
    both = {
        "both": {
            "parallel": True,
            "states": {
                "one": {"initial": "a", "states": {"a": pull("a2", "a2", expect=SOON), "a2": {}}},
                "two": {"initial": "b", "states": {"b": {**TELL, "done": "b2", "failed": "b2"}, "b2": {}}},
            },
            "after": {"1h": "end"},
        }
    }

    async def story() -> None:
        world, lever = World({"web": web()}, runbooks=[book(both)]), Lever(seconds=8.0)
        async with alive(world, lever) as loop:
            break_it(world)
            await world.until(lambda: bool(lever.begun))
            mend(world)  # it gets well by itself while the lever is pulled: that is for the proof to say
            await asyncio.sleep(6)

            assert "notify.human" in await names(world)
            assert [i.state for i in loop.incidents.open] == [IncidentState.RESPONDING]
            await asyncio.sleep(10)
            assert Result.VERIFIED in [a.result for a in await world.actions()]
            await journal_holds(world)

    run(story())


def test_a_service_that_falls_down_again_while_its_runbook_tidies_up_is_treated_again() -> None:
    states = {"a": pull("tidy", "told", expect=SOON), "tidy": {"after": {"1h": "end"}}, "told": TELL}

    async def story() -> None:
        world, lever = World({"web": web()}, runbooks=[book(states)]), Lever()
        async with alive(world, lever) as loop:
            break_it(world)
            await world.until(lambda: bool(lever.done))
            mend(world)
            await asyncio.sleep(10)
            assert [i.proved for i in loop.incidents.open] == [True]
            break_it(world)
            await world.until(lambda: len(lever.begun) > 1, within=60)
            mend(world)
            await asyncio.sleep(10)
            (incident,) = await world.incidents()

            assert lever.done == ["pull", "pull"]
            assert (incident.reopened, incident.proved) == (1, True)
            await journal_holds(world)

    run(story())


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_clock_that_is_set_a_day_keeps_no_retry_waiting_for_a_day(jump: float) -> None:
    states = {"a": pull("end", "told", expect=SOON, do={"retry": {"max": 3, "backoff": "10s"}}), "told": TELL}

    async def story() -> None:
        world, lever = World({"web": web()}, runbooks=[book(states)]), Lever()
        async with alive(world, lever):
            break_it(world)
            await world.until(lambda: "push" in lever.done)
            world.clock.set_wall(world.clock.wall() + jump)
            await asyncio.sleep(120)

            assert lever.done.count("pull") >= 2

    run(story())


def test_a_clock_that_is_set_back_a_day_lets_no_runbook_rest_for_a_day() -> None:
    async def story() -> None:
        world = World({"web": web()}, runbooks=[book({"a": {"after": {"1s": "end"}}})])
        async with alive(world):
            break_it(world)
            await asyncio.sleep(10)
            world.clock.set_wall(world.clock.wall() - 86400)
            await asyncio.sleep(120)

            assert (await moves(world)).count("$start") >= 2

    run(story())


# -- the journal -----------------------------------------------------------------------------------------------------


def test_a_disk_that_fails_while_a_message_is_let_go_of_costs_no_incident_its_end() -> None:
    async def story() -> None:
        world = World({"web": web()}, runbooks=[book({"a": pull()})], guard={"allow": []})
        async with alive(world, Lever()) as loop:
            break_it(world)
            await asyncio.sleep(5)
            await world.knowledge.send("inc-of-nobody", "operator.hold", {}, "oncall")
            world.database.others_wrote()
            await world.until(lambda: not loop._inbox)
            stray = Message("msg-stray", "inc-of-nobody", "operator.hold", {}, "oncall", 0.0)
            mend(world)
            world.database.broken = "a disk error"
            while loop.incidents.open:
                loop._inbox[stray.id] = stray
                loop.wake({"web"})
                await asyncio.sleep(0.1)
            world.database.broken = ""
            await asyncio.sleep(10)

            assert [i.state for i in await world.incidents()] == [IncidentState.CLOSED]

    run(story())


def test_a_message_is_taken_once_even_if_the_inbox_was_read_before_it_was_written() -> None:
    async def story() -> None:
        world, lever = World({"web": web()}, runbooks=[book(HELD)]), Lever(seconds=3.0)
        async with alive(world, lever) as loop:
            break_it(world)
            await world.until(lambda: bool(lever.begun))
            (incident,) = loop.incidents.open
            message = await world.knowledge.send(incident.id, "operator.hold", {}, "oncall")
            world.database.others_wrote()
            await asyncio.sleep(5)
            assert await world.knowledge.inbox() == []
            knowledge: Any = world.knowledge
            real = knowledge.inbox

            async def stale() -> list[Message]:
                return [message]

            knowledge.inbox = stale
            world.database.others_wrote()
            await asyncio.sleep(2)
            knowledge.inbox = real
            await asyncio.sleep(10)

            assert loop.standing.store_trouble == ""
            assert (await moves(world)).count("operator.hold") == 1

    run(story())


@pytest.mark.parametrize("well", [True, False])
def test_an_outcome_that_the_journal_could_not_take_is_taken_once_when_it_can(well: bool) -> None:
    states = {
        "a": pull("end", "back", expect=SOON),
        "back": {"rollback": True, "done": "told", "failed": "told"},
        "told": TELL,
    }

    async def story() -> None:
        world, lever = World({"web": web()}, runbooks=[book(states)]), Lever(seconds=2.0)
        async with alive(world, lever):
            break_it(world)
            await world.until(lambda: bool(lever.begun))
            world.database.broken = "a disk error"
            if well:
                mend(world)
            await asyncio.sleep(30)
            assert lever.done == ["pull"]
            world.database.broken = ""
            await asyncio.sleep(30)

            assert lever.done[:2] == (["pull"] if well else ["pull", "push"])
            assert (await moves(world)).count("done.act.a") == (1 if well else 0)
            await journal_holds(world)

    run(story())


@pytest.mark.parametrize("when", [3.0, 5.0, 7.5], ids=["act", "proof", "undo"])
def test_a_daemon_that_dies_anywhere_on_the_way_takes_back_what_did_not_help(when: float) -> None:
    states = {
        "a": pull("end", "back", expect=SOON),
        "back": {"rollback": True, "done": "told", "failed": "told"},
        "told": TELL,
    }

    async def story() -> None:
        world, lever = World({"web": web()}, runbooks=[book(states)]), Lever(seconds=2.0)
        async with alive(world, lever):
            break_it(world)
            await asyncio.sleep(when)
        after = Lever(seconds=2.0)
        async with alive(world, after, started=False):
            await asyncio.sleep(60)
            done = [name for name in await names(world) if name != "notify.human"]

            assert done[:2] == ["lever.pull", "lever.push"]
            assert "notify.human" in await names(world)
            await journal_holds(world)

    run(story())


# -- what others hand in ---------------------------------------------------------------------------------------------


def test_what_an_action_answers_may_be_anything_and_breaks_nothing() -> None:
    strange = {"nan": float("nan"), "pair": (1, 2), "bytes": b"x", "set": {1}, "half": "\ud800", 7: None}
    states = {"a": pull("told", "told"), "told": TELL}

    async def story() -> None:
        world, lever = World({"web": web()}, runbooks=[book(states)]), Lever(data=strange)
        async with alive(world, lever):
            break_it(world)
            await asyncio.sleep(60)

            assert (await moves(world))[:3] == ["$start", "done.act.a", "done.act.told"]
            await journal_holds(world)

    run(story())


def test_what_is_found_may_be_nested_without_end_or_no_text() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"in": deep}
    incident = Incident(
        "inc-1",
        "web",
        "gray",
        IncidentState.OPEN,
        Severity.MAJOR,
        "",
        0.0,
        0.0,
        data={"deep": deep, "loss": 0.5, "line": "\ud800"},
    )
    told = given(incident, Subject("web"))["incident"]

    assert (told["loss"], told["line"], "deep" in told) == (0.5, "?", False)
    while deep:
        deep = deep.pop("in", {})  # let go of it level by level, as the interpreter itself would not


def test_a_runbook_of_more_states_than_anybody_could_have_written_is_refused_before_it_is_walked_through() -> None:
    def long(states: int) -> str:
        lines = [f"  s{n}: {{after: {{1s: s{n + 1}}}}}" for n in range(states - 1)]
        head = "runbook: long\nsummary: very long\ntrigger: {anomaly: gray}\nstates:"
        return "\n".join([head, *lines, f"  s{states - 1}: {{final: true}}"])

    with pytest.raises(ConfigError, match="7000 states"):
        read(long(7000), "long.yaml")
    assert len(read(long(MOST_STATES), "long.yaml")) == 1
