"""The daemon's memory: what was said to be remembered is, and comes back as it was."""

import asyncio
import contextlib
import json
import math
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.kernel.errors import StoreError, TamperedError
from x0tta6bl4.kernel.facts import (
    Answer,
    Condition,
    Expect,
    Finding,
    Incident,
    IncidentState,
    Observation,
    Occurrence,
    Outcome,
    Plan,
    Result,
    Severity,
    Step,
    Verdict,
)
from x0tta6bl4.kernel.memory import (
    Kept,
    Signal,
    SubjectState,
    finding_from,
    incident_from,
    outcome_from,
    plain,
    plan_from,
)
from x0tta6bl4.knowledge.sqlite import DECISIONS, FINDINGS, OUTPUT, PLUGIN, TABLES, Config, SqliteKnowledge, migrations

DAY = 86400.0


class Hands:
    """A clock whose hands the test moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - 1_699_999_000.0


@contextlib.asynccontextmanager
async def store(path: Path, clock: Hands | None = None) -> AsyncIterator[SqliteKnowledge]:
    database = await SqliteDatabase.open(path, migrations())
    try:
        yield SqliteKnowledge("memory", Config(), database, clock or Hands())
    finally:
        await database.close()


def incident(id: str = "inc-1", **more: Any) -> Incident:
    values: dict[str, Any] = {
        "subject": "web",
        "fault": "dead",
        "state": IncidentState.OPEN,
        "severity": Severity.MAJOR,
        "summary": "web does not answer",
        "opened_at": 1000.0,
        "updated_at": 1000.0,
        "because": ("refused",),
        "healthy_when": (Condition("http_up", "==", 1.0),),
        "data": {"port": 80},
    }
    return Incident(id, **(values | more))


def closed(id: str, at: float, **more: Any) -> Incident:
    return incident(
        id, state=IncidentState.CLOSED, opened_at=at - 10, closed_at=at, updated_at=at, ended="healed", **more
    )


def plan(id: str = "plan-1", of: str = "inc-1", target: str = "web") -> Plan:
    step = Step(f"{id}-a", "process.restart", target, {"grace": 3}, expect=Expect(10, 2))
    return Plan(id, of, "web", "dead", "service", "restart", (step,), ("it is dead",), "auto")


def outcome(step: str, result: Result = Result.VERIFIED, **more: Any) -> Outcome:
    return Outcome(step, result, "came back", 1001.0, 1005.0, **more)


# Facts as JSON

texts = st.text(st.characters(), max_size=8)
numbers = st.floats(allow_nan=False)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
datas = st.dictionaries(texts, jsons, max_size=3)
conditions = st.builds(Condition, texts, st.sampled_from(["<", "==", ">"]), numbers, texts)
observations = st.builds(Observation, texts, texts, texts, numbers, st.floats(0, 1e9), texts)
occurrences = st.builds(Occurrence, texts, texts, texts, st.floats(0, 1e9), texts, st.tuples(observations))
reasons = st.lists(texts, max_size=2).map(tuple)
signs = st.lists(conditions, max_size=2).map(tuple)
walls = st.floats(0, 4e9)
findings = st.builds(
    Finding,
    texts,
    texts,
    texts,
    texts,
    st.sampled_from(Severity),
    walls,
    st.lists(observations | occurrences, max_size=3).map(tuple),
    signs,
    datas,
)
incidents = st.builds(
    Incident,
    texts,
    texts,
    texts,
    st.sampled_from(IncidentState),
    st.sampled_from(Severity),
    texts,
    walls,
    walls,
    st.none() | walls,
    texts,
    st.integers(0, 9),
    texts,
    st.integers(0, 9),
    st.integers(0, 9),
    reasons,
    signs,
    datas,
)
expects = st.none() | st.builds(Expect, walls, walls)
steps = st.builds(Step, texts, texts, texts, datas, walls, expects, texts, texts)
plans = st.builds(
    Plan, texts, texts, texts, texts, texts, texts, st.lists(steps, max_size=2).map(tuple), reasons, texts
)
outcomes = st.builds(
    Outcome, texts, st.sampled_from(Result), texts, walls, walls, st.none() | walls, reasons, texts, datas
)


def there_and_back(fact: Any) -> Any:
    return json.loads(json.dumps(plain(fact), allow_nan=False))


@given(findings, incidents, plans, outcomes)
def test_facts_come_back_from_json_as_they_were(f: Finding, i: Incident, p: Plan, o: Outcome) -> None:
    assert finding_from(there_and_back(f)) == f
    assert incident_from(there_and_back(i)) == i
    assert plan_from(there_and_back(p)) == p
    assert outcome_from(there_and_back(o)) == o


def test_a_reading_that_is_no_number_survives() -> None:
    back = finding_from(there_and_back(Finding("a", "s", "f", "", because=(Observation("m", "s", "x", math.nan),))))

    assert isinstance(back.because[0], Observation)
    assert math.isnan(back.because[0].value)


def test_what_json_has_no_form_for_becomes_text() -> None:
    odd = {"set": {2, 1}, 3: Path("/x"), "bytes": (b"a",), "inf": math.inf}

    assert there_and_back(odd) == {"set": [1, 2], "3": "/x", "bytes": ["b'a'"], "inf": "inf"}


def test_what_is_kept_as_text_is_a_mapping_that_nobody_can_change() -> None:
    kept = Kept.of({"a": [1], "b": {"c": None}})
    kept["b"]["c"] = kept.read()["a"][0] = 2

    assert kept == {"a": [1], "b": {"c": None}} and kept == Kept('{"b": {"c": null}, "a": [1]}')
    assert kept != {"a": [1]} and kept and not Kept.of({})
    assert dict(kept) == {"a": [1], "b": {"c": None}} and plain(kept) == dict(kept)
    assert Kept.of(kept) is kept


# Incidents


def test_incidents_come_back_by_state_by_subject_and_page_by_page(tmp_path: Path) -> None:
    async def main() -> None:
        async with store(tmp_path / "k.db") as memory:
            mine = [incident(f"inc-{n}", opened_at=float(n // 2), subject="web" if n % 3 else "db") for n in range(9)]
            for one in mine:
                await memory.save_incident(one)
            await memory.save_incident(ended := replace(mine[0], state=IncidentState.CLOSED, closed_at=50.0))

            assert await memory.open_incidents() == mine[1:]
            assert await memory.incident("inc-0") == ended
            assert await memory.incident("inc-99") is None
            assert await memory.incidents(state=IncidentState.CLOSED) == [ended]
            assert [i.id for i in await memory.incidents(subject="db")] == ["inc-6", "inc-3", "inc-0"]
            pages, before = [], None
            while page := await memory.incidents(limit=2, before=before):
                pages += [i.id for i in page]
                before = page[-1].id
            assert pages == [f"inc-{n}" for n in reversed(range(9))]

    asyncio.run(main())


def test_a_relapse_finds_the_incident_closed_last(tmp_path: Path) -> None:
    async def main() -> None:
        async with store(tmp_path / "k.db") as memory:
            for one in (closed("a", 100.0), closed("b", 200.0), closed("c", 300.0, fault="hung"), incident("d")):
                await memory.save_incident(one)

            assert await memory.closed_since("web", "dead", 150.0) == closed("b", 200.0)
            assert await memory.closed_since("web", "dead", 201.0) is None

    asyncio.run(main())


def test_equal_findings_are_counted_and_only_so_many_others_are_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with store(tmp_path / "k.db") as memory:
            await memory.save_incident(incident())
            for number in range(FINDINGS + 20):
                await memory.add_finding("inc-1", Finding("a", "web", "dead", f"sign {number}"), 1000.0 + number)
            await memory.add_finding("inc-1", Finding("a", "web", "dead", "sign 0"), 5000.0)
            found = [e for e in await memory.story("inc-1") if e.kind == "found"]

            assert len(found) == FINDINGS
            assert (found[0].text, found[0].data["times"], found[0].data["last_at"]) == ("sign 0", 2, 5000.0)
            assert found[-1].text == f"sign {FINDINGS + 19}"

    asyncio.run(main())


def test_the_beginning_of_a_symptom_is_kept_in_wall_clock_time(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Hands()
        async with store(tmp_path / "k.db", clock) as memory:
            await memory.save_incident(incident())
            finding = Finding("a", "web", "dead", "x", since=clock.monotonic() - 7)
            await memory.add_finding("inc-1", finding, clock.wall())

            assert (await memory.story("inc-1"))[-1].data["since"] == clock.wall() - 7

    asyncio.run(main())


# The journal


def test_an_intent_brings_its_plan_and_incident_and_stays_unfinished_until_its_outcome(tmp_path: Path) -> None:
    async def main() -> None:
        path, clock = tmp_path / "k.db", Hands()
        async with store(path, clock) as memory:
            epoch = await memory.boot()
            busy = incident(state=IncidentState.RESPONDING)
            await memory.record_intent(plan().steps[0], plan(), epoch, incident=busy)
        async with store(path, clock) as memory:  # another life
            assert await memory.boot() == epoch + 1
            (left,) = await memory.unfinished()
            assert (left.step, left.plan, left.intent_at, left.epoch) == (plan().steps[0], plan(), clock.now, epoch)
            assert await memory.plan("plan-1") == plan()
            assert await memory.open_incidents() == [busy]
            await memory.record_outcome("plan-1-a", outcome("plan-1-a"), closed("inc-1", 2000.0))
            assert await memory.unfinished() == []
            assert await memory.open_incidents() == []

    asyncio.run(main())


def test_a_step_has_one_intent_and_its_first_outcome_stands(tmp_path: Path) -> None:
    async def main() -> None:
        async with store(tmp_path / "k.db") as memory:
            await memory.record_intent(plan().steps[0], plan(), 1)
            with pytest.raises(StoreError):
                await memory.record_intent(plan().steps[0], plan(), 1, incident=incident("other"))
            assert await memory.incident("other") is None
            with pytest.raises(StoreError, match="without ever having begun"):
                await memory.record_outcome("no", outcome("no"))
            await memory.record_outcome("plan-1-a", outcome("plan-1-a"))
            await memory.record_outcome("plan-1-a", outcome("plan-1-a"))
            with pytest.raises(StoreError, match="differently"):
                await memory.record_outcome("plan-1-a", outcome("plan-1-a", Result.FAILED))

            assert (await memory.actions_since(0))[0].result is Result.VERIFIED

    asyncio.run(main())


def test_budgets_are_counted_from_what_began_or_ended_since(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Hands()
        async with store(tmp_path / "k.db", clock) as memory:
            start = clock.now
            for number in range(4):
                clock.now = start + number
                one = plan(f"p{number}")
                await memory.record_intent(one.steps[0], one, 1, group="front", disruptive=number != 3)
                if number:
                    ended = replace(outcome(f"p{number}-a"), ended_at=start + (100 if number == 1 else number))
                    await memory.record_outcome(f"p{number}-a", ended)
            records = await memory.actions_since(start + 3)

            assert [r.step_id for r in records] == ["p0-a", "p1-a", "p3-a"]
            assert (records[0].result, records[0].ended_at) == (None, None)
            assert (records[1].at, records[1].ended_at, records[1].result) == (start + 1, start + 100, Result.VERIFIED)
            assert [(r.group, r.disruptive, r.rung, r.incident) for r in records[1:]] == [
                ("front", True, "restart", "inc-1"),
                ("front", False, "restart", "inc-1"),
            ]

    asyncio.run(main())


def test_of_what_an_action_printed_the_end_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with store(tmp_path / "k.db") as memory:
            await memory.save_incident(incident())
            await memory.record_intent(plan().steps[0], plan(), 1)
            await memory.record_outcome("plan-1-a", outcome("plan-1-a", output="x" * 9 * OUTPUT + "the reason"))
            told = next(e for e in await memory.story("inc-1") if e.kind == "outcome").data["output"]

            assert len(told) == OUTPUT
            assert told.endswith("the reason")

    asyncio.run(main())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=25))
def test_unfinished_are_exactly_the_intents_without_an_outcome(calls: list[tuple[int, bool]]) -> None:
    """Whatever the order, doubles and strays included, also with all of it under way at once and after a restart."""

    async def call(memory: SqliteKnowledge, number: int, is_intent: bool) -> bool:
        one = plan(f"p{number}")
        try:
            if is_intent:
                await memory.record_intent(one.steps[0], one, 1)
            else:
                await memory.record_outcome(one.steps[0].id, outcome(one.steps[0].id))
        except StoreError:
            return False
        return True

    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "k.db"
            async with store(path) as memory:
                taken = await asyncio.gather(*(call(memory, *one) for one in calls))
            begun: list[int] = []
            ended: set[int] = set()
            for (number, is_intent), was_taken in zip(calls, taken, strict=True):
                assert was_taken == ((number not in begun) if is_intent else (number in begun))
                if is_intent and was_taken:
                    begun.append(number)
                elif was_taken:
                    ended.add(number)
            async with store(path) as memory:
                assert [u.step.id for u in await memory.unfinished()] == [f"p{n}-a" for n in begun if n not in ended]

    asyncio.run(main())


JOURNAL = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_knowledge import plan, outcome, store
async def main():
    async with store(Path(sys.argv[1])) as memory:
        epoch = await memory.boot()
        async def act(n):
            one = plan(f"{epoch}-{n}")
            await memory.record_intent(one.steps[0], one, epoch)
            print("intent", one.steps[0].id, flush=True)
            await memory.record_outcome(one.steps[0].id, outcome(one.steps[0].id))
            print("outcome", one.steps[0].id, flush=True)
        n = 0
        while True:
            await asyncio.gather(*(act(n + i) for i in range(4)))
            n += 4
asyncio.run(main())
"""


@pytest.mark.slow
def test_a_daemon_killed_at_any_moment_forgets_no_acknowledged_intent_or_outcome(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    told: list[list[str]] = []
    for life in range(10):
        daemon = subprocess.Popen(
            [sys.executable, "-c", JOURNAL, str(path), os.path.dirname(__file__)], stdout=subprocess.PIPE, text=True
        )
        assert daemon.stdout is not None
        told += [daemon.stdout.readline().split() for _ in range(1 + life * 5)]
        daemon.kill()
        told += [line.split() for line in daemon.stdout if line.endswith("\n")]
        daemon.wait()
        daemon.stdout.close()

    async def main() -> None:
        async with store(path) as memory:
            known = {record.step_id: record.result for record in await memory.actions_since(0)}
            left = {u.step.id for u in await memory.unfinished()}
            assert {id for word, id in told if word == "intent"} <= set(known)
            assert not {id for word, id in told if word == "outcome"} & left
            assert left == {id for id, result in known.items() if result is None}
            assert await memory.boot() == 11

    asyncio.run(main())


# Why


def test_a_decision_is_written_when_it_changes(tmp_path: Path) -> None:
    async def main() -> None:
        async with store(tmp_path / "k.db") as memory:
            step = plan().steps[0]
            hold = Verdict("backoff", Answer.HOLD, "wait", 1030.0)
            allow = Verdict("circuit", Answer.ALLOW, "nothing against it")
            written = [
                await memory.record_decision(plan(), step, verdict, float(at))
                for at, verdict in enumerate([hold, hold, allow, allow, hold])
            ]
            assert written == [True, False, True, False, True]
            latest = (await memory.decisions("web"))[0]
            assert (latest.check, latest.answer, latest.until, latest.at) == ("backoff", Answer.HOLD, 1030.0, 4.0)
            for at in range(2 * DECISIONS):
                await memory.record_decision(plan(), step, Verdict("mode", Answer.DENY, str(at)), float(at))
            kept = await memory.decisions("web", limit=10 * DECISIONS)
            assert len(kept) == DECISIONS
            assert kept[0].sentence == str(2 * DECISIONS - 1)

    asyncio.run(main())


def test_a_story_tells_everything_in_order_of_time_and_history_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Hands()
        async with store(tmp_path / "k.db", clock) as memory:
            start, step = clock.now, plan(target="db").steps[0]
            first = incident(opened_at=start, updated_at=start)
            await memory.save_incident(first)
            await memory.add_finding("inc-1", Finding("reachable", "web", "dead", "refused"), start + 1)
            clock.now = start + 2
            await memory.want_approval(plan(target="db"), start + 99)
            clock.now = start + 3
            hold = Verdict("mode", Answer.HOLD, "asks")
            await memory.record_decision(plan(target="db"), step, hold, clock.now)
            clock.now = start + 4
            await memory.answer_approval("plan-1", True, "oncall", "go on")
            clock.now = start + 5
            await memory.record_intent(step, plan(target="db"), 1)
            await memory.record_outcome(
                step.id,
                replace(outcome(step.id), started_at=start + 5, ended_at=start + 6),
                replace(first, state=IncidentState.CLOSED, closed_at=start + 7, ended="healed"),
            )
            story = await memory.story("inc-1")

            assert [e.kind for e in story] == [
                "opened",
                "found",
                "planned",
                "decided",
                "approval",
                "intent",
                "outcome",
                "closed",
            ]
            assert [e.at for e in story] == sorted(e.at for e in story)
            assert "oncall: go on" in story[4].text
            assert story[6].text == "process.restart on db: verified: came back"
            assert await memory.history("web") == story
            assert await memory.history("web", 3) == story[-3:]
            assert [e.kind for e in await memory.history("db")] == ["intent", "outcome"]
            assert await memory.story("inc-0") == []

    asyncio.run(main())


# What people say


def test_flags_pauses_and_answers_are_kept_and_audited(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Hands()
        async with store(tmp_path / "k.db", clock) as memory:
            assert await memory.flags() == {}
            assert await memory.set_flag("auto_healing", False, "oncall") is None
            assert await memory.set_flag("auto_healing", True, "intruder") is False
            assert await memory.flags() == {"auto_healing": True}

            short = await memory.add_pause("web-*", clock.now + 60, who="oncall", reason="deploy", kind="maintenance")
            always = await memory.add_pause("*", math.inf, who="intruder")
            assert await memory.pauses() == [short, always]
            clock.now += 60
            assert await memory.pauses() == [always]
            assert math.isfinite(always.until)
            assert await memory.remove_pause("*", "oncall") == 1
            assert await memory.remove_pause("*", "oncall") == 0
            assert await memory.pauses() == []

            wanted = await memory.want_approval(plan(), clock.now + 60, "costly")
            assert await memory.want_approval(plan(), clock.now + 999) == wanted
            assert await memory.approvals("wanted") == [wanted]
            yes = await memory.answer_approval("plan-1", True, "oncall")
            assert yes is not None
            assert (yes.state, yes.who) == ("approved", "oncall")
            assert await memory.answer_approval("plan-1", False, "intruder") == yes
            assert await memory.answer_approval("plan-9", True, "intruder") is None

            rows = await memory.audit_trail()
            trail = [(row.who, row.what, row.data.get("from"), row.data.get("to")) for row in rows]
            assert trail == [
                ("oncall", "approval.approved", None, None),
                ("oncall", "pause.ended", None, None),
                ("intruder", "pause.begun", None, None),
                ("oncall", "maintenance.begun", None, None),
                ("intruder", "flag.set", False, True),
                ("oncall", "flag.set", None, False),
            ]
            assert await memory.verify_audit() == 6

    asyncio.run(main())


def test_an_approval_that_nobody_answered_expires_and_cannot_be_answered_then(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Hands()
        async with store(tmp_path / "k.db", clock) as memory:
            for id in ("a", "b"):
                await memory.want_approval(plan(id), clock.now + 60)
            assert await memory.expire_approvals(clock.now + 59) == []
            clock.now += 60
            late = await memory.answer_approval("a", True, "oncall")
            assert late is not None
            assert late.state == "expired"
            assert [(a.plan, a.state) for a in await memory.expire_approvals(clock.now)] == [("b", "expired")]
            assert await memory.expire_approvals(clock.now) == []
            assert {a.state for a in await memory.approvals()} == {"expired"}

    asyncio.run(main())


def test_subjects_and_small_things_are_remembered_as_they_were_told_last(tmp_path: Path) -> None:
    async def main() -> None:
        async with store(tmp_path / "k.db") as memory:
            await memory.save_subjects([SubjectState("web", "down", 1.0, "x", 2.0), SubjectState("db", "up", 0, "", 2)])
            await memory.save_subjects([SubjectState("web", "up", 3.0, "", 4.0)])
            latest = [SubjectState("db", "up", 0, "", 2), SubjectState("web", "up", 3.0, "", 4.0)]
            assert await memory.subjects() == latest
            assert await memory.recall("brake") is None
            await memory.remember("brake", {"until": 1.5})
            await memory.remember("brake", {"until": 2.5, "why": ["storm"]})
            assert await memory.recall("brake") == {"until": 2.5, "why": ["storm"]}
            with pytest.raises(StoreError):
                await memory.remember("audit.head", 0)

    asyncio.run(main())


# Signals

lines_of_points = st.lists(
    st.tuples(st.floats(0, 4e9), st.floats(allow_nan=False, allow_infinity=False)), max_size=30
).map(lambda points: tuple(sorted(points)))


@given(lines_of_points)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_signals_come_back_as_they_were_kept_as_near_as_a_chart_needs(points: tuple[tuple[float, float], ...]) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with store(Path(folder) / "k.db") as memory:
                await memory.save_incident(incident())
                await memory.keep_signals("inc-1", [Signal("web", "work_seconds", points)])
                (found,) = await memory.signals("inc-1")

                assert [at for at, _ in found.points] == pytest.approx([at for at, _ in points], abs=0.00051)
                assert [value for _, value in found.points] == pytest.approx([v for _, v in points], rel=1e-5)

    asyncio.run(main())


def test_signals_are_replaced_by_newer_ones_and_kept_of_no_incident_that_is_not_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with store(tmp_path / "k.db") as memory:
            await memory.save_incident(incident())
            up, seconds = Signal("web", "work_up", ((1.5, 1.0), (2.25, 0.0))), Signal("web", "work_seconds", ())
            rss = Signal("web", "process_rss_bytes", ((1.0, 123456789012.0), (2.0, 0.00012345)))
            await memory.keep_signals("inc-1", [up, seconds])
            await memory.keep_signals("inc-1", [rss, up])
            await memory.keep_signals("inc-nowhere", [up])

            assert await memory.signals("inc-1") == [rss, up]
            assert await memory.signals("inc-nowhere") == []

    asyncio.run(main())


def test_signals_go_with_their_incident_and_with_its_export(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Hands()
        up = [Signal("web", "work_up", ((1.5, 1.0), (2.25, 0.0)))]
        async with store(tmp_path / "a.db", clock) as a, store(tmp_path / "b.db", clock) as b:
            for one in (closed("old", clock.now - 100 * DAY), closed("new", clock.now), incident("open")):
                await a.save_incident(one)
                await a.keep_signals(one.id, up)
            await a.retain(clock.now, 90, 100)
            assert [await a.signals(id) for id in ("old", "new", "open")] == [[], up, up]

            await b.save_incident(incident("open", summary="ours"))
            lines = await exported(a)
            taken = await b.import_(lines, "oncall")
            assert taken.taken == {"incidents": 1, "signals": 1}
            assert [await b.signals(id) for id in ("new", "open")] == [up, []]
            for wrong in (
                "[0,[],[NaN]]",
                "[0,[1],[1]]",
                "[0,[],[1e999]]",
                '["x",[],[1]]',
                "[1" + "0" * 400 + ",[],[1]]",
            ):
                spoilt = [line.replace("[1500,[750],[1,0]]", wrong) for line in lines]
                with pytest.raises(StoreError, match="cannot be read"):
                    await b.import_(spoilt, "oncall")

    asyncio.run(main())


def test_an_export_of_before_there_were_signals_is_taken(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Hands()
        async with store(tmp_path / "a.db", clock) as a, store(tmp_path / "b.db", clock) as b:
            await fill(a, clock)
            first, *rest = await exported(a)
            await b.import_([json.dumps({**json.loads(first), "version": 2}), *rest], "oncall")

            assert await b.story("2") == await a.story("2")

    asyncio.run(main())


# Letting go and carrying on


def test_retention_lets_go_of_old_closed_incidents_with_all_that_is_theirs(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Hands()
        async with store(tmp_path / "k.db", clock) as memory:
            now = clock.now
            clock.now = now - 100 * DAY
            for id, one in (
                ("old", closed("old", clock.now)),
                ("open", incident("open", opened_at=clock.now)),
                ("doubtful", closed("doubtful", clock.now)),
            ):
                await memory.save_incident(one)
                await memory.add_finding(id, Finding("a", "web", "dead", "x"), clock.now)
                mine = plan(f"p-{id}", id)
                await memory.want_approval(mine, clock.now)
                await memory.record_decision(mine, mine.steps[0], Verdict("mode", Answer.HOLD, "x"), clock.now)
                await memory.record_intent(mine.steps[0], mine, 1)
                if id != "doubtful":
                    ended = replace(outcome(mine.steps[0].id), ended_at=clock.now)
                    await memory.record_outcome(mine.steps[0].id, ended)
            clock.now = now
            for number in range(6):
                await memory.save_incident(closed(f"new-{number}", now - 10 + number))
            gone = await memory.retain(now, 90, 5)

            assert gone.incidents == 4
            assert {i.id for i in await memory.incidents()} == {"open", "doubtful", "new-3", "new-4", "new-5"}
            assert await memory.story("old") == []
            assert await memory.plan("p-old") is None
            assert [e.kind for e in await memory.story("open")] == ["opened", "found", "decided"]
            assert [u.plan.incident for u in await memory.unfinished()] == ["doubtful"]
            assert (await memory.retain(now, 90, 5)).incidents == 0

    asyncio.run(main())


async def fill(memory: SqliteKnowledge, clock: Hands, prefix: str = "", count: int = 3) -> None:
    await memory.boot()
    for number in range(count):
        id = f"{prefix}{number}"
        mine = plan(f"p{id}", id)
        await memory.save_incident(incident(id, opened_at=float(number)))
        await memory.add_finding(id, Finding("a", "web", "dead", "é\ud800"), clock.now)
        await memory.want_approval(mine, clock.now + 60)
        await memory.record_decision(mine, mine.steps[0], Verdict("mode", Answer.HOLD, "asks"), clock.now)
        await memory.answer_approval(mine.id, True, "oncall")
        await memory.record_intent(mine.steps[0], mine, 1)
        if number:
            await memory.record_outcome(mine.steps[0].id, outcome(mine.steps[0].id))
    await memory.set_flag("auto_healing", False, "oncall")
    await memory.add_pause("*", clock.now + 60, who="oncall")
    await memory.save_subjects([SubjectState("web", "up", 3.0, "", 4.0)])
    await memory.remember("brake", {"until": 1.5})


async def exported(memory: SqliteKnowledge) -> list[str]:
    lines: list[str] = []
    await memory.export(lines.append)
    return lines


def test_an_export_holds_every_table_but_those_that_let_people_in() -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        for _, script in migrations():
            database.executescript(script)
        made = {
            name: tuple(
                row[1]
                for row in database.execute(f"PRAGMA table_info({name})")
                if (name, row[1]) != ("decisions", "id")
            )
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if not name.startswith("sqlite_")
        }

    # Keys, operators and their sessions are secrets of one host; what was asked of it by name is over within a day.
    # What was learnt is shared in a form of its own; the audit trail tells who taught it what, and what was altered.
    left_out = {"keys", "operators", "sessions", "commands", "learnt", "lessons", "alterations"}
    assert left_out <= made.keys()
    assert {name: columns for name, columns in made.items() if name not in left_out} == dict(TABLES)


def test_an_export_taken_into_an_empty_memory_is_the_same_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("x0tta6bl4.knowledge.sqlite.BATCH", 7)

    async def main() -> None:
        clock = Hands()
        async with store(tmp_path / "a.db", clock) as a, store(tmp_path / "b.db", clock) as b:
            await fill(a, clock, count=20)  # some pages of it
            await a.retain(clock.now, 90, 15)  # also with a beginning that was let go of
            await a.set_flag("auto_healing", True, "intruder")
            lines = await exported(a)
            taken = await b.import_(lines, "oncall")

            assert taken.skipped == ()
            assert await b.open_incidents() == await a.open_incidents()
            assert await b.unfinished() == await a.unfinished()
            assert await b.story("7") == await a.story("7")
            assert await b.flags() == await a.flags()
            assert await b.pauses() == await a.pauses()
            assert await b.recall("brake") == {"until": 1.5}
            assert await b.boot() == 2
            (told, *rest) = await b.audit_trail()
            assert (told.who, told.what) == ("oncall", "import")
            assert rest == await a.audit_trail()
            assert await b.verify_audit() == await a.verify_audit() + 1
            changed = set(lines) ^ set(await exported(b))
            assert {json.loads(line)["kind"] for line in changed} == {"x0tta6bl4.knowledge", "epochs", "audit", "end"}
            assert len(changed) == 2 + 1 + 1 + 2  # each export's first and last line, the boot, the import

    asyncio.run(main())


def test_an_import_into_a_used_memory_takes_unknown_incidents_and_says_what_it_left_out(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Hands()
        async with store(tmp_path / "a.db", clock) as a, store(tmp_path / "b.db", clock) as b:
            await fill(a, clock)
            await fill(b, clock, "b")
            await b.save_incident(incident("1", summary="ours"))
            taken = await b.import_(await exported(a), "oncall")

            tables = ("incidents", "findings", "plans", "steps", "decisions", "approvals")
            assert taken.taken == dict.fromkeys(tables, 2)
            assert "1 of 3 incidents: known here already" in taken.skipped
            assert "5 of 5 audit: this store has its own chain" in taken.skipped
            ours = await b.incident("1")
            assert ours is not None
            assert ours.summary == "ours"
            assert await b.story("2") == await a.story("2")
            assert (await b.import_(await exported(a), "oncall")).taken == {}
            assert await b.verify_audit() == 5 + 2

    asyncio.run(main())


def cut(lines: list[str]) -> list[str]:
    return lines[:-2]


def other_version(lines: list[str]) -> list[str]:
    return [json.dumps({**json.loads(lines[0]), "version": 99}), *lines[1:]]


def foreign(lines: list[str]) -> list[str]:
    return ['{"kind": "shopping"}', *lines]


def garbled(lines: list[str]) -> list[str]:
    return [*lines[:3], lines[3].replace('"', "", 1), *lines[4:]]


def unreadable_body(lines: list[str]) -> list[str]:
    return [line.replace('\\"state\\":\\"open\\"', '\\"state\\":\\"shut\\"') for line in lines]


def unknown_table(lines: list[str]) -> list[str]:
    return [*lines[:3], '{"kind":"sqlite_master","row":[1]}', *lines[3:]]


def nothing(lines: list[str]) -> list[str]:
    return []


@pytest.mark.parametrize("spoil", [cut, other_version, foreign, garbled, unreadable_body, unknown_table, nothing])
def test_a_spoilt_export_is_refused_and_nothing_of_it_is_taken(tmp_path: Path, spoil: Any) -> None:
    async def main() -> None:
        clock = Hands()
        async with store(tmp_path / "a.db", clock) as a, store(tmp_path / "b.db", clock) as b:
            await fill(a, clock)
            lines = await exported(a)
            with pytest.raises(StoreError) as caught:
                await b.import_(spoil(lines), "oncall")
            assert not isinstance(caught.value, TamperedError)
            assert await b.incidents() == []
            assert await b.audit_trail() == []
            await b.import_(lines, "oncall")

    asyncio.run(main())


def test_an_import_is_done_whole_or_not_at_all(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Hands()
        async with store(tmp_path / "a.db", clock) as a, store(tmp_path / "b.db", clock) as b:
            await fill(a, clock)
            await b.record_intent(plan("p2", "other").steps[0], plan("p2", "other"), 1)  # the same step, another story
            before = await exported(b)
            with pytest.raises(StoreError, match="UNIQUE"):
                await b.import_(await exported(a), "oncall")
            assert await exported(b) == before

    asyncio.run(main())


def test_it_is_a_plugin_with_settings_that_can_be_left_out() -> None:
    assert PLUGIN.family == "knowledge"
    assert (Config().retention_days, Config().max_incidents) == (90.0, 10_000)
