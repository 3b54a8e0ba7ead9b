"""What is learnt from: tries as the journal has them, and what people and other nodes say of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.kernel.facts import Condition, Expect, Incident, IncidentState, Outcome, Plan, Result, Severity, Step
from x0tta6bl4.kernel.memory import Feedback, Trial, evidence_of
from x0tta6bl4.knowledge.sqlite import PASSING, Config, SqliteKnowledge, migrations

T = 1_700_000_000.0
RESTART = "process.restart"


class Hands:
    """A clock whose hands the test moves."""

    def __init__(self) -> None:
        self.now = T

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - T


class Bench:
    def __init__(self, knowledge: SqliteKnowledge, clock: Hands) -> None:
        self.knowledge = knowledge
        self.clock = clock

    async def opened(self, id: str, at: float, subject: str = "web", fault: str = "dead", **more: Any) -> Incident:
        values: dict[str, Any] = {
            "state": IncidentState.OPEN,
            "severity": Severity.MAJOR,
            "summary": f"{subject} is {fault}",
            "opened_at": T + at,
            "onset_at": T + at,
            "updated_at": T + at,
            "healthy_when": (Condition("work_up", ">=", 1.0),),
        } | more
        incident = Incident(id, subject, fault, **values)
        await self.knowledge.save_incident(incident)
        return incident

    async def closed(self, incident: Incident, at: float, ended: str = "recovered") -> Incident:
        done = replace(incident, state=IncidentState.CLOSED, closed_at=T + at, updated_at=T + at, ended=ended)
        await self.knowledge.save_incident(done)
        return done

    async def tried(
        self,
        incident: Incident,
        id: str,
        begun: float,
        ended: float,
        result: Result = Result.VERIFIED,
        actions: tuple[str, ...] = (RESTART,),
        taken: int | None = None,
        proves: bool = True,
        undoes: str = "",
    ) -> Plan:
        """All steps but the last end at once and prove nothing by themselves."""
        steps = tuple(
            Step(
                f"{id}-1.1.{n}",
                action,
                incident.subject,
                expect=Expect(30, 3) if proves and n == len(actions) else None,
                undoes=undoes,
            )
            for n, action in enumerate(actions, 1)
        )
        plan = Plan(id, incident.id, incident.subject, incident.fault, "service", "restart", steps, ())
        for number, step in enumerate(steps[:taken], 1):
            self.clock.now = T + begun
            await self.knowledge.record_intent(step, plan, 1)
            is_last = number == len(steps[:taken])
            said = result if is_last else Result.UNVERIFIED
            outcome = Outcome(
                step.id,
                said,
                "",
                T + begun,
                T + (ended if is_last else begun),
                verified_at=T + ended - 3 if said is Result.VERIFIED else None,
            )
            await self.knowledge.record_outcome(step.id, outcome)
        return plan

    async def trials(self, fault: str = "dead") -> list[Trial]:
        return await self.knowledge.trials(fault, T - 1000)

    async def feedback(self) -> list[Feedback]:
        return await self.knowledge.feedback("dead", T - 1000)


@contextlib.asynccontextmanager
async def bench(path: Path) -> AsyncIterator[Bench]:
    database = await SqliteDatabase.open(path / "knowledge.db", migrations())
    clock = Hands()
    try:
        yield Bench(SqliteKnowledge("memory", Config(), database, clock), clock)
    finally:
        await database.close()


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[Bench], Awaitable[None]]], None]:
    def played(scene: Callable[[Bench], Awaitable[None]]) -> None:
        async def main() -> None:
            async with bench(tmp_path) as one:
                await scene(one)

        asyncio.run(main())

    return played


Play = Callable[[Callable[[Bench], Awaitable[None]]], None]


def test_a_try_is_told_from_its_onset_to_verified_health(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        incident = await bench.opened("inc-1", 0)
        await bench.tried(incident, "plan-1", 2, 9, actions=("cleanup.free", RESTART))

        (trial,) = await bench.trials()
        assert trial == Trial(
            "inc-1", "web", "dead", "service", "restart", ("cleanup.free", RESTART),
            T, T + 2, T + 9, T + 6, Result.VERIFIED,
        )  # fmt: skip
        (feedback,) = await bench.feedback()
        assert (feedback.seconds, feedback.spent) == (6.0, 4.0)
        assert feedback.signature == ("dead", "", "web")
        assert feedback.rung == ("cleanup.free", RESTART)
        assert feedback.verified
        assert not feedback.harmful

    play(scene)


def test_a_try_that_did_not_help_has_no_time_to_health(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        incident = await bench.opened("inc-1", 0)
        await bench.tried(incident, "plan-1", 2, 32, Result.REFUTED)
        await bench.tried(incident, "plan-2", 40, 50)

        first, second = await bench.feedback()
        assert (first.verified, first.seconds, first.spent, first.after) == (False, None, 30.0, 0)
        assert (second.verified, second.seconds, second.spent, second.after) == (True, 47.0, 7.0, 1)

    play(scene)


def test_a_try_that_broke_off_has_the_actions_that_were_planned(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        incident = await bench.opened("inc-1", 0)
        await bench.tried(incident, "plan-1", 1, 2, Result.FAILED, actions=("cleanup.free", RESTART), taken=1)

        (trial,) = await bench.trials()
        assert trial.actions == ("cleanup.free", RESTART)
        assert trial.result is Result.FAILED

    play(scene)


def test_telling_a_human_and_what_was_refused_are_no_tries(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        incident = await bench.opened("inc-1", 0)
        await bench.tried(incident, "plan-1", 1, 2, Result.UNVERIFIED, actions=("notify.human",), proves=False)
        await bench.tried(incident, "plan-2", 3, 4, Result.REFUSED)

        assert await bench.trials() == []

    play(scene)


def test_what_nobody_saw_the_end_of_is_a_try_and_no_evidence(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        incident = await bench.opened("inc-1", 0)
        await bench.tried(incident, "plan-1", 1, 2, Result.UNVERIFIED)

        (trial,) = await bench.trials()
        assert evidence_of(trial) is None
        assert await bench.feedback() == []

    play(scene)


def test_a_try_under_way_is_not_told_yet(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        incident = await bench.opened("inc-1", 0)
        step = Step("plan-1-1.1.1", RESTART, "web")
        plan = Plan("plan-1", incident.id, "web", "dead", "service", "restart", (step,), ())
        await bench.knowledge.record_intent(step, plan, 1)

        assert await bench.trials() == []

    play(scene)


def test_tries_of_other_faults_are_not_told(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        incident = await bench.opened("inc-1", 0, fault="hung")
        await bench.tried(incident, "plan-1", 1, 5)

        assert await bench.trials("dead") == []
        assert len(await bench.trials("hung")) == 1

    play(scene)


def test_the_time_to_health_of_a_forgotten_bout_is_not_invented(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        incident = await bench.opened("inc-1", 0)
        await bench.tried(incident, "plan-1", 2, 9)
        await bench.knowledge.save_incident(replace(incident, reopened=1, onset_at=T + 100))

        (feedback,) = await bench.feedback()
        assert (feedback.verified, feedback.seconds, feedback.spent) == (True, None, 4.0)

    play(scene)


def test_lasting_trouble_that_began_elsewhere_during_a_try_is_held_against_it(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        incident = await bench.opened("inc-1", 0)
        await bench.tried(incident, "plan-1", 2, 20)
        await bench.opened("inc-2", 10, subject="db")

        assert (await bench.trials())[0].harmed == ("inc-2",)
        assert (await bench.feedback())[0].harmful

    play(scene)


@pytest.mark.parametrize(
    ("at", "subject", "closed_at", "why"),
    [
        (1, "db", None, "it began before"),
        (21, "db", None, "it began after"),
        (10, "web", None, "it is the same subject's"),
        (10, "db", 20 + PASSING, "it passed by itself"),
    ],
)
def test_trouble_that_is_not_its_doing_is_not_held_against_a_try(
    play: Play, at: float, subject: str, closed_at: float | None, why: str
) -> None:
    async def scene(bench: Bench) -> None:
        incident = await bench.opened("inc-1", 0)
        await bench.tried(incident, "plan-1", 2, 20)
        other = await bench.opened("inc-2", at, subject=subject, fault="hung")
        if closed_at is not None:
            await bench.closed(other, closed_at)

        assert (await bench.trials())[0].harmed == (), why

    play(scene)


def test_when_several_things_were_done_at_once_nobody_can_say_which_did_harm(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        await bench.tried(await bench.opened("inc-1", 0), "plan-1", 2, 20)
        await bench.tried(await bench.opened("inc-2", 0, subject="api"), "plan-2", 2, 20)
        await bench.opened("inc-3", 10, subject="db")

        assert [t.harmed for t in await bench.trials()] == [(), ()]

    play(scene)


def test_what_could_not_be_taken_back_is_harm_and_what_could_is_not(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        incident = await bench.opened("inc-1", 0)
        for number, ended in enumerate((Result.UNVERIFIED, Result.FAILED)):
            id = f"plan-{number}"
            await bench.tried(incident, id, number * 100 + 1, number * 100 + 30, Result.REFUTED)
            await bench.tried(
                incident, f"back-{number}", number * 100 + 31, number * 100 + 32, ended,
                actions=("route.undo",), proves=False, undoes=f"{id}-1.1.1",
            )  # fmt: skip

        assert [t.stuck for t in await bench.trials()] == [False, True]
        assert [f.harmful for f in await bench.feedback()] == [False, True]

    play(scene)


def said(incident: str, **more: Any) -> Feedback:
    values: dict[str, Any] = {
        "signature": ("dead", "", "web"),
        "rung": (RESTART,),
        "seconds": None,
        "verified": False,
        "harmful": False,
        "source": "operator",
        "at": T,
        "weight": 2.0,
        "incident": incident,
    }
    return Feedback(**(values | more))


def test_a_persons_word_stands_in_for_what_the_probe_said_of_that_try_alone(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        incident = await bench.opened("inc-1", 0)
        await bench.tried(incident, "plan-1", 1, 5, Result.REFUTED)
        await bench.tried(incident, "plan-2", 11, 15)
        await bench.tried(await bench.opened("inc-2", 20), "plan-3", 21, 25)
        word = said("inc-1", harmful=True, at=T + 15)
        await bench.knowledge.add_feedback(word, "oncall", "the cache was lost")

        told = await bench.feedback()
        assert [(f.incident, f.source, f.verified) for f in told] == [
            ("inc-1", "outcome", False),
            ("inc-1", "operator", False),
            ("inc-2", "outcome", True),
        ]
        assert told[1] == word

    play(scene)


def test_the_later_word_of_one_voice_stands_and_each_is_audited(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        await bench.knowledge.add_feedback(said("inc-1"), "oncall")
        await bench.knowledge.add_feedback(said("inc-1", verified=True), "oncall", "looked again")
        await bench.knowledge.add_feedback(said("inc-1", harmful=True), "operator")

        assert sorted((f.verified, f.harmful) for f in await bench.feedback()) == [(False, True), (True, False)]
        rows = await bench.knowledge.audit_trail()
        assert [(r.who, r.what) for r in rows] == [
            ("operator", "feedback.operator"),
            ("oncall", "feedback.operator"),
            ("oncall", "feedback.operator"),
        ]
        assert rows[1].data["why"] == "looked again"
        assert await bench.knowledge.verify_audit() == 3

    play(scene)


def test_another_nodes_word_is_kept_and_its_clock_is_not_trusted(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        word = said("inc-far", source="mesh", signature=("dead", "unit", "db"), weight=0.5, at=T + 9e6)
        await bench.knowledge.add_feedback(word, "node-b")

        assert await bench.feedback() == [replace(word, at=T)]

    play(scene)


@pytest.mark.parametrize(
    "wrong", [{"source": "outcome"}, {"weight": 3.0}, {"weight": float("nan")}, {"seconds": -1.0}, {"spent": 1e9}]
)
def test_what_makes_no_sense_is_not_kept(play: Play, wrong: dict[str, Any]) -> None:
    async def scene(bench: Bench) -> None:
        with pytest.raises(StoreError):
            await bench.knowledge.add_feedback(said("inc-1", **wrong), "node-b")

        assert await bench.feedback() == []
        assert await bench.knowledge.audit_trail() == []

    play(scene)


def test_a_word_about_what_was_only_suggested_is_no_evidence(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        await bench.knowledge.add_feedback(said("inc-1", weight=0.0), "oncall")

        assert await bench.feedback() == []

    play(scene)


def test_feedback_is_let_go_of_with_its_time_and_its_number_is_bounded(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        for number in range(5):
            bench.clock.now = T + number
            await bench.knowledge.add_feedback(said(f"far-{number}", source="mesh", at=T + number), "node-b")

        await bench.knowledge.retain(T + 10, 1, 3)
        assert [f.incident for f in await bench.feedback()] == ["far-2", "far-3", "far-4"]
        await bench.knowledge.retain(T + 3 * 86400, 1, 3)
        assert await bench.feedback() == []

    play(scene)


def test_feedback_goes_into_an_export_and_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        lines: list[str] = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        async with bench(tmp_path / "a") as one, bench(tmp_path / "b") as other:
            await one.knowledge.add_feedback(said("inc-1", seconds=4.5, verified=True), "oncall", "saw it")
            await one.knowledge.export(lines.append)
            await other.knowledge.import_(lines, "operator")

            assert await other.feedback() == await one.feedback() != []

    asyncio.run(main())
