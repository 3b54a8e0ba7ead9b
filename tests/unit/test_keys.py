"""Which deed a command is told to be, over crashes and retries; and that what a dead daemon began is ended first."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, cast

from x0tta6bl4.executors.command import CommandExecutor
from x0tta6bl4.kernel.errors import StepFailed
from x0tta6bl4.kernel.facts import Expect, Result, Step
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.kernel.memory import step_from
from x0tta6bl4.ports.commands import CommandResult
from x0tta6bl4.testing.virtual_time import run
from x0tta6bl4.testing.world import World

WORK = "http://127.0.0.1:1/work"
TOLD = ("KEY", "ATTEMPT", "EPOCH", "STEP", "INCIDENT")
FOREVER = 1000.0


class Programs:
    """Runs what the test says. What a daemon left running goes on until it is ended, if it can be."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, str]]] = []
        self.does: Callable[[str], float] = lambda program: 0.1
        """Seconds that a program takes, once it has done what it does."""
        self.codes: list[int] = []
        self.left_over = 0
        self.can_end = True
        self.ends: list[int] = []
        """How many programs had been started whenever an earlier life's were asked to be ended."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        limit: int = 65536,
        env: Mapping[str, str] | None = None,
        input: bytes | None = None,
    ) -> CommandResult:
        program = argv[0].rpartition("/")[2]
        self.told.append((program, {key: (env or {})[f"X0TTA6BL4_{key}"] for key in TOLD}))
        self.left_over += 1
        await asyncio.sleep(self.does(program))
        self.left_over -= 1
        return CommandResult(tuple(argv), self.codes.pop(0) if self.codes else 0, "", False, 0.1)

    async def end_left(self) -> None:
        self.ends.append(len(self.told))
        if not self.can_end:
            raise StepFailed("commands of an earlier life of the daemon are still running: 4711")
        self.left_over = 0

    def of(self, program: str) -> list[dict[str, str]]:
        return [told for name, told in self.told if name == program]


class Host(World):
    """Its service hangs until a program mends it. The programs go on when the daemon dies, as real ones do."""

    def __init__(self, states: Mapping[str, Any], **commands: Mapping[str, Any]) -> None:
        self.programs = Programs()
        book = {
            "runbook": "mend",
            "summary": "mends it",
            "trigger": {"anomaly": "hung"},
            "states": {**states, "over": {"final": True}},
        }
        super().__init__(
            {"web": {"process": ["/bin/web"], "work": WORK, "mode": "auto"}},
            runbooks=[book],
            planners={"runbook": {"shipped": False}},
            executors={
                "systemd": {"enabled": False},
                "command": {"commands": {name: {"argv": [f"/opt/{name}"], **more} for name, more in commands.items()}},
            },
        )

    def build(self) -> MAPEK:
        loop = super().build()
        executors = cast(dict[str, Any], loop.parts.catalogue.executors)
        executors["command"] = replace(cast(CommandExecutor, executors["command"]), commands=self.programs)
        return loop

    def mended(self, program: str) -> float:
        self.network.broken.pop(WORK, None)
        return 0.1

    async def dies_during_a(self, program: str) -> None:
        """A first life, in which the program is started and the daemon killed before it ends."""
        loop = self.build()
        for each in self.blueprint.programs:
            await self.processes.start(each)
        life = asyncio.create_task(loop.start())
        await asyncio.sleep(1.0)
        self.hang(WORK)
        await self.until(lambda: bool(self.programs.of(program)))
        life.cancel()  # as SIGKILL would: nothing more is written, and the program goes on
        await asyncio.gather(life, return_exceptions=True)
        self.crash()
        await self.processes.adopt(self.blueprint.programs)


def mends(*, proof: Mapping[str, Any] | None, **do: Any) -> dict[str, Any]:
    return {"first": {"do": {"action": "command.mend", **do}, "expect": proof, "done": "over", "failed": "over"}}


def test_done_again_after_a_crash_it_is_the_same_deed_of_a_later_life() -> None:
    async def story() -> None:
        host = Host(mends(proof=None, on_unknown="retry"), mend={"idempotent": True})
        host.programs.does = lambda program: FOREVER
        await host.dies_during_a("mend")
        host.programs.does = host.mended
        async with host.running(started=False):
            await asyncio.sleep(60)
            first, second = host.programs.of("mend")[:2]
            journaled = [
                step_from(json.loads(body))
                for (body,) in await host.database.read("SELECT step FROM steps ORDER BY rowid")
            ]
            (incident,) = await host.incidents()

        assert first["KEY"] == second["KEY"] == f"{incident.id}:first.1"
        assert first["INCIDENT"] == second["INCIDENT"] == incident.id
        assert (first["ATTEMPT"], second["ATTEMPT"]) == ("1", "1")
        assert int(second["EPOCH"]) > int(first["EPOCH"]) > 0
        assert first["STEP"] != second["STEP"]
        assert [(s.id, s.key, str(s.attempt), str(s.epoch), s.incident) for s in journaled[:2]] == [
            (t["STEP"], t["KEY"], t["ATTEMPT"], t["EPOCH"], t["INCIDENT"]) for t in (first, second)
        ]

    run(story())


def test_done_once_more_on_purpose_it_is_the_next_attempt_at_the_same_deed() -> None:
    async def story() -> None:
        host = Host(mends(proof={"hold": "1s"}, retry={"max": 2}), mend={})
        host.programs.codes = [1, 0]
        host.programs.does = lambda program: host.mended(program) if len(host.programs.told) == 2 else 0.1
        async with host.running():
            host.hang(WORK)
            await asyncio.sleep(60)

        first, second = host.programs.of("mend")
        assert first["KEY"] == second["KEY"]
        assert (first["ATTEMPT"], second["ATTEMPT"]) == ("1", "2")
        assert first["EPOCH"] == second["EPOCH"]

    run(story())


def test_each_deed_has_a_key_of_its_own() -> None:
    """The actions of a list, the same state entered again, and what takes an action back."""

    async def story() -> None:
        states = {
            "both": {"do": ["command.drain", "command.flush"], "expect": None, "done": "again", "failed": "over"},
            "again": {"do": "command.flush", "expect": None, "done": "back", "failed": "over"},
            "back": {"rollback": True, "done": "over", "failed": "over"},
        }
        host = Host(states, drain={"undo": "fill"}, flush={}, fill={})
        async with host.running():
            host.hang(WORK)
            await host.until(lambda: bool(host.programs.of("fill")))

        keys = [told["KEY"] for _, told in host.programs.told[:4]]
        drained = host.programs.told[0][1]
        assert [name for name, _ in host.programs.told[:4]] == ["drain", "flush", "flush", "fill"]
        assert len(set(keys)) == 4
        assert keys[1] == f"{keys[0]}:2"
        assert keys[3] == f"{drained['INCIDENT']}:undo:{drained['STEP']}"

    run(story())


def test_what_an_earlier_life_began_is_ended_before_its_step_is_settled() -> None:
    async def story() -> None:
        host = Host(mends(proof={"hold": "1s"}, on_unknown="retry"), mend={"idempotent": True})
        host.programs.does = lambda program: FOREVER
        await host.dies_during_a("mend")
        assert host.programs.left_over == 1

        beside: list[int] = []

        def begins(program: str) -> float:
            beside.append(host.programs.left_over)
            return host.mended(program)

        host.programs.does = begins
        async with host.running(started=False):
            await asyncio.sleep(60)

        assert host.programs.ends == [1], "once, and before anything else was begun"
        assert beside and set(beside) == {1}, "each alone"

    run(story())


def test_what_cannot_be_ended_is_not_known_to_be_over_whatever_is_seen() -> None:
    async def story() -> None:
        state = {"do": "command.mend", "done": "over", "failed": "over", "unknown": "over"}
        host = Host({"first": state}, mend={})
        host.programs.does = lambda program: FOREVER
        await host.dies_during_a("mend")
        host.programs.can_end = False
        host.mended("by somebody else")
        async with host.running(started=False):
            await asyncio.sleep(30)
            action = (await host.actions())[0]
            ((said,),) = await host.database.read("SELECT outcome FROM steps ORDER BY rowid LIMIT 1")

        assert (action.result, action.unknown) == (Result.UNVERIFIED, True)
        assert "it may still be going on" in said and "4711" in said

    run(story())


def test_a_step_of_an_older_journal_has_no_key_and_is_read() -> None:
    old = {
        key: value
        for key, value in asdict(Step("s1", "command.mend", "web", {}, expect=Expect(3.0, 1.0))).items()
        if key not in ("key", "attempt", "epoch", "incident")
    }

    assert step_from(old) == Step("s1", "command.mend", "web", expect=Expect(3.0, 1.0))
