"""Incidents as the endpoint tells them: page by page, one with its whole story, what was done, and the sums of it."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.kernel.facts import (
    Answer,
    Condition,
    Finding,
    Incident,
    IncidentState,
    Move,
    Observation,
    Outcome,
    Plan,
    Result,
    Severity,
    Step,
    Verdict,
    trace_id_of,
)
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.kernel.memory import Entry
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.status.stories import (
    LINES,
    PAGE,
    Encoded,
    History,
    Listing,
    Misasked,
    Overview,
    Page,
    Story,
    Unknown,
    history,
    incidents_page,
    place_of,
    spread,
    story,
    summary,
    timeline,
)
from x0tta6bl4.testing.memory_database import MemoryDatabase
from x0tta6bl4.testing.virtual_time import run
from x0tta6bl4.testing.world import World

WORK = "http://127.0.0.1:1/work"
T = 1_700_000_000.0
OPEN, CLOSED = IncidentState.OPEN, IncidentState.CLOSED


def incident(number: int, **more: Any) -> Incident:
    values: dict[str, Any] = {
        "subject": f"svc-{number % 7}",
        "fault": ("dead", "hung", "gray")[number % 3],
        "state": CLOSED,
        "severity": tuple(Severity)[number % 4],
        "summary": "does not answer",
        "opened_at": T + number,
        "onset_at": T + number,
        "updated_at": T + number + 9,
        "healthy_when": (Condition("work_up", ">=", 1.0),),
    }
    values |= more
    if values["state"] is CLOSED:
        values.setdefault("closed_at", values["opened_at"] + 9)
        values.setdefault("ended", "healed")
    return Incident(f"inc-{number:06d}", **values)


def checked(kind: Any, told: Any) -> Any:
    """What is told has the shape that is promised, and JSON can hold it."""
    TypeAdapter(kind).validate_python(told, strict=True)
    return json.loads(json.dumps(told, allow_nan=False))


Work = Callable[[MAPEK, SqliteDatabase], Awaitable[None]]


def on_disk(folder: Path, work: Work) -> None:
    """A loop that does not run, over a real file."""

    async def worked() -> None:
        world = World({"web": {"process": ["/bin/web"], "work": WORK}})
        database = await SqliteDatabase.open(folder / "knowledge.db", migrations())
        world.database = database  # type: ignore[assignment]
        try:
            await work(world.build(), database)
        finally:
            await database.close()

    asyncio.run(worked())


def in_memory(work: Callable[[World, MAPEK], Awaitable[None]]) -> None:
    async def worked() -> None:
        world = World({"web": {"process": ["/bin/web"], "work": WORK}})
        await work(world, world.build())

    run(worked())


def ids(page: Page) -> list[str]:
    return [told["id"] for told in page["incidents"]]


async def every_page(loop: MAPEK, **asked: Any) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = await incidents_page(loop, **asked, cursor=cursor)
        assert len(page["incidents"]) <= asked.get("limit", 50)
        found += ids(page)
        cursor = page["next"]
        if cursor is None:
            return found


# -- whether anything has changed --------------------------------------------------------------------------------------


def test_the_version_rises_with_every_commit_and_takes_nothing_from_the_loop(tmp_path: Path) -> None:
    async def work(loop: MAPEK, database: SqliteDatabase) -> None:
        knowledge = loop.parts.knowledge
        at_first = knowledge.version()
        await knowledge.incidents()
        assert at_first == knowledge.version()

        await knowledge.remember("key", 1)
        after_ours = knowledge.version()
        assert after_ours != at_first and not knowledge.changed_by_others()

        other = await SqliteDatabase.open(tmp_path / "knowledge.db", migrations(), check=False)
        await SqliteKnowledge("other", Config(), other, SystemClock()).remember("key", 2)
        await other.close()
        after_theirs = knowledge.version()
        assert after_theirs != after_ours and after_theirs == knowledge.version()
        assert knowledge.changed_by_others() and not knowledge.changed_by_others()
        assert after_theirs == knowledge.version()

    on_disk(tmp_path, work)


# -- the list ----------------------------------------------------------------------------------------------------------


def test_ten_thousand_incidents_are_each_passed_once_though_others_come_go_and_come_back(tmp_path: Path) -> None:
    async def work(loop: MAPEK, database: SqliteDatabase) -> None:
        knowledge = loop.parts.knowledge
        there = [incident(n, opened_at=T + n // 3) for n in range(10_000)]  # three of the same moment
        for at in range(0, len(there), 500):
            await knowledge.save_incidents([(i, ()) for i in there[at : at + 500]])

        passed: list[str] = []
        cursor, number = None, 0
        while True:
            page = await incidents_page(loop, limit=PAGE, cursor=cursor)
            passed += ids(page)
            # A new one in front, one whose trouble began long ago, and one that comes back.
            number += 1
            for new in (T + 90_000 + number, T + 5.5 + number):
                await knowledge.save_incident(incident(20_000 + 2 * number + (new > T + 50_000), opened_at=new))
            back = replace(there[number * 37], state=OPEN, closed_at=None, ended="", reopened=1, onset_at=T + 99_999)
            await knowledge.save_incident(back)
            loop.incidents.put(back)
            cursor = page["next"]
            if cursor is None:
                break

        old = [id for id in passed if id < "inc-020000"]
        assert 10_000 == len(old) and sorted(old) == sorted(i.id for i in there)
        assert len(passed) == len(set(passed))
        assert number > 50
        assert old == [i.id for i in sorted(there, key=lambda i: (i.opened_at, i.id), reverse=True)]

    on_disk(tmp_path, work)


STATES = ("open", "waiting", "responding", "escalated", "closed")
moments = st.one_of(st.none(), st.integers(-2, 82).map(lambda n: T + n))


@given(
    seed=st.integers(0, 1000),
    state=st.sampled_from((None, *STATES)),
    subject=st.sampled_from((None, "svc-0", "svc-1", "nobody")),
    fault=st.sampled_from((None, "dead", "hung", "none")),
    severity=st.sampled_from((None, "info", "warning", "critical")),
    since=moments,
    until=moments,
    limit=st.integers(1, 30),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_filter_lets_through_what_fits_and_nothing_else(
    seed: int,
    state: str | None,
    subject: str | None,
    fault: str | None,
    severity: str | None,
    since: float | None,
    until: float | None,
    limit: int,
) -> None:
    """Also where the loop knows more than the disk: opened, changed or closed, and not written yet."""

    async def work(world: World, loop: MAPEK) -> None:
        dice = random.Random(seed)
        newest: dict[str, Incident] = {}
        pairs: set[tuple[str, str]] = set()
        for number in range(80):
            stored = incident(number, state=dice.choice((CLOSED, CLOSED, *IncidentState)))
            newest[stored.id] = stored
            is_stored = dice.random() < 0.9
            if is_stored:
                await world.knowledge.save_incident(stored)
            fate = dice.random()
            # The loop has at most one open, or lately closed, of each subject and fault.
            if (stored.subject, stored.fault) in pairs or (fate > 0.4 and is_stored):
                if not is_stored:
                    del newest[stored.id]
                continue
            pairs.add((stored.subject, stored.fault))
            known = replace(stored, severity=dice.choice(tuple(Severity)) if fate < 0.2 else stored.severity)
            if fate < 0.2:
                known = replace(known, state=dice.choice(tuple(IncidentState)[:-1]), closed_at=None, ended="")
            elif stored.state is not CLOSED:
                known = replace(known, state=CLOSED, closed_at=stored.opened_at + 1, ended="recovered")
            if known.state is CLOSED and not is_stored:
                del newest[stored.id]  # what was closed before it was ever written is told of when it is
                continue
            loop.incidents.put(known)
            newest[known.id] = known

        def wanted(one: Incident) -> bool:
            return (
                (
                    state is None
                    or (state == "open" and one.state is not CLOSED)
                    or (state != "open" and one.state == state)
                )
                and (subject is None or one.subject == subject)
                and (fault is None or one.fault == fault)
                and (severity is None or one.severity == severity)
                and (since is None or one.opened_at >= since)
                and (until is None or one.opened_at < until)
            )

        asked: Any = {"state": state, "subject": subject, "fault": fault, "severity": severity}
        asked |= {"since": since, "until": until, "limit": limit}
        found = await every_page(loop, **asked)

        expected = sorted(filter(wanted, newest.values()), key=lambda i: (i.opened_at, i.id), reverse=True)
        assert [i.id for i in expected] == found
        page = await incidents_page(loop, limit=PAGE)
        assert sum(i.state is not CLOSED for i in newest.values()) == page["open"]
        assert {told["id"]: told["state"] for told in page["incidents"]} == {i.id: i.state for i in newest.values()}

    in_memory(work)


def test_what_an_incident_is_summed_up_as() -> None:
    async def work(world: World, loop: MAPEK) -> None:
        knowledge = world.knowledge
        healed = incident(1, reopened=1, onset_at=T + 100, closed_at=T + 130)
        passed, lost = incident(2, ended="recovered"), incident(3, ended="aged out")
        going = incident(4, state=IncidentState.ESCALATED, tries=2, rung="restart")
        await knowledge.boot()
        for one in (healed, passed, lost, going):
            await knowledge.save_incident(one)
            await knowledge.add_finding(
                one.id, Finding("liveness", one.subject, one.fault, "gone"), one.opened_at + 0.5
            )
        for number, verified in enumerate((T + 50, T + 120, T + 125)):  # the first in an earlier bout
            await done(knowledge, healed, number, T + 45 + number, Result.VERIFIED, verified)
        step = Step("plan-x.1", "process.restart", going.subject)
        plan = Plan("plan-x", going.id, going.subject, going.fault, "service", "restart", (step,), ())
        for answer, sentence in ((Answer.ALLOW, "go"), (Answer.HOLD, "not before noon")):
            await knowledge.record_decision(plan, step, Verdict("backoff", answer, sentence, T + 60), T + 10)

        page = checked(Page, await incidents_page(loop))
        told = {one["id"]: one for one in page["incidents"]}

        assert (0.5, 25.0) == (told[healed.id]["seconds_to_detect"], told[healed.id]["seconds_to_recover"])
        assert 9.0 == told[passed.id]["seconds_to_recover"]
        assert told[lost.id]["seconds_to_recover"] is None
        assert told[going.id]["seconds_to_recover"] is None and told[going.id]["closed_at"] is None
        assert {
            "at": "2023-11-14T22:13:30.000Z",
            "check": "backoff",
            "answer": "hold",
            "sentence": "not before noon",
            "until": "2023-11-14T22:14:20.000Z",
            "action": "process.restart",
        } == told[going.id]["decision"]
        assert told[healed.id]["decision"] is None
        assert 1 == page["open"]

    in_memory(work)


async def done(
    knowledge: Any, about: Incident, number: int, at: float, result: Result | None, verified: float | None = None
) -> None:
    id = f"plan-{about.id}-{number:03d}"
    step = Step(f"{id}.1", "process.restart", about.subject)
    plan = Plan(id, about.id, about.subject, about.fault, "service", "restart", (step,), ("because",))
    await knowledge.record_intent(step, plan, await epoch_of(knowledge))
    await knowledge._database.write(lambda tx: tx.execute("UPDATE steps SET intent_at = ? WHERE id = ?", (at, step.id)))
    if result is not None:
        ended = verified if verified is not None else at + 1
        await knowledge.record_outcome(
            step.id, Outcome(step.id, result, "as seen", at, ended, verified, output="one\ntwo\npassword=hunter2")
        )


async def epoch_of(knowledge: Any) -> int:
    return int((await knowledge._database.read("SELECT max(epoch) FROM epochs"))[0][0])


@given(
    st.one_of(st.text(max_size=300), st.binary(max_size=60).map(lambda b: b.hex()), st.just("WzEsMl0"), st.just("W10"))
)
@settings(deadline=None)
def test_a_cursor_that_no_page_gave_is_refused_in_words(nonsense: str) -> None:
    with pytest.raises(Misasked) as caught:
        place_of(nonsense, "cursor")
    assert {"parameter": "cursor"} == caught.value.details
    assert "next" in caught.value.remedy


@pytest.mark.parametrize(
    ("asked", "parameter"),
    [
        ({"state": "opne"}, "state"),
        ({"severity": "severe"}, "severity"),
        ({"limit": 0}, "limit"),
        ({"limit": PAGE + 1}, "limit"),
        ({"since": float("nan")}, "since"),
        ({"cursor": "zzz"}, "cursor"),
    ],
)
def test_what_cannot_be_asked_is_named(asked: Mapping[str, Any], parameter: str) -> None:
    async def work(world: World, loop: MAPEK) -> None:
        with pytest.raises(Misasked) as caught:
            await incidents_page(loop, **asked)
        assert parameter == caught.value.details["parameter"] and caught.value.message.startswith(parameter)

    in_memory(work)


# -- kept answers ------------------------------------------------------------------------------------------------------


class Counted(MemoryDatabase):
    """Counts what is read of it."""

    def __init__(self) -> None:
        super().__init__(migrations())
        self.reads = 0

    async def read(self, sql: str, values: Any = ()) -> Any:
        self.reads += 1
        await asyncio.sleep(0.001)  # as long as it takes others to ask the same
        return await super().read(sql, values)


def counted(work: Callable[[World, MAPEK, Counted], Awaitable[None]]) -> None:
    async def worked() -> None:
        world = World({"web": {"process": ["/bin/web"], "work": WORK}})
        database = world.database = Counted()
        loop = world.build()
        for number in range(5):
            await world.knowledge.save_incident(incident(number))
        database.reads = 0
        await work(world, loop, database)

    run(worked())


def test_an_answer_is_kept_until_something_it_tells_of_has_changed() -> None:
    async def work(world: World, loop: MAPEK, database: Counted) -> None:
        listing = Listing()
        first = await listing.incidents(loop, limit=10)
        reads = database.reads
        assert first is await listing.incidents(loop, limit=10)
        assert reads == database.reads

        async def is_new(before: Encoded) -> Encoded:
            after = await listing.incidents(loop, limit=10)
            assert after.etag != before.etag and after.body != before.body
            return after

        await world.knowledge.save_incident(incident(5))  # we wrote
        second = await is_new(first)
        opened = incident(6, state=OPEN, updated_at=T)  # nobody wrote, and the loop knows more
        loop.incidents.put(opened)
        third = await is_new(second)
        loop.incidents.put(replace(opened, summary="it is worse"))
        fourth = await is_new(third)
        world.database._connection.execute("DELETE FROM incidents WHERE id = ?", (incident(5).id,))
        world.database.others_wrote()
        fifth = await is_new(fourth)
        await world.knowledge.remember("what has nothing to do with it", 1)
        sixth = await listing.incidents(loop, limit=10)
        assert sixth is not fifth and sixth.etag == fifth.etag
        assert json.loads(sixth.body) == await incidents_page(loop, limit=10)

    counted(work)


def test_two_hundred_who_ask_at_once_cost_as_much_as_one() -> None:
    async def work(world: World, loop: MAPEK, database: Counted) -> None:
        listing = Listing()
        await listing.incidents(loop)
        alone, database.reads = database.reads, 0
        await world.knowledge.remember("key", 1)

        told = await asyncio.gather(*(listing.incidents(loop) for _ in range(200)))

        assert alone == database.reads
        assert 1 == len(set(map(id, told)))

    counted(work)


def test_nobody_is_told_what_was_before_the_asking_though_the_store_changes_all_the_time() -> None:
    async def work(world: World, loop: MAPEK, database: Counted) -> None:
        listing = Listing()
        written = 4

        async def write() -> None:
            nonlocal written
            for number in range(5, 45):
                await world.knowledge.save_incident(incident(number))
                written = number
                await asyncio.sleep(0.0007)

        async def ask(delay: float) -> None:
            await asyncio.sleep(delay)
            at_least = written
            body = json.loads((await listing.incidents(loop, limit=PAGE)).body)
            assert incident(at_least).id in ids(body)

        await asyncio.gather(write(), *(ask(n * 0.0003) for n in range(100)))

    counted(work)


def test_one_who_goes_away_while_it_is_made_leaves_the_others_their_answer() -> None:
    async def work(world: World, loop: MAPEK, database: Counted) -> None:
        listing = Listing()
        first = asyncio.ensure_future(listing.incidents(loop))
        second = asyncio.ensure_future(listing.incidents(loop))
        await asyncio.sleep(0.0005)
        first.cancel()

        assert 5 == len(json.loads((await second).body)["incidents"])
        assert not listing._making

    counted(work)


def test_kept_answers_are_bounded_in_number_and_in_bytes() -> None:
    async def work(world: World, loop: MAPEK, database: Counted) -> None:
        few, small = Listing(bodies=3), Listing(room=4000)
        for limit in range(1, 6):
            await few.incidents(loop, limit=limit)
            await small.incidents(loop, limit=limit)
        assert 3 == len(few._kept) and sum(len(e.body) for e in few._kept.values()) == few._taken
        assert 0 < small._taken <= 4000
        reads = database.reads
        await few.incidents(loop, limit=5)
        assert reads == database.reads
        await few.incidents(loop, limit=1)
        assert reads < database.reads

    counted(work)


# -- one incident ------------------------------------------------------------------------------------------------------


def test_the_story_of_a_heal_goes_from_what_was_seen_to_its_end() -> None:
    async def healed() -> None:
        world = World({"web": {"process": ["/bin/web"], "work": WORK, "mode": "auto"}})
        async with world.running() as loop:
            world.kill("web")
            await asyncio.sleep(30)
            (found,) = await world.incidents()
            told = checked(Story, await story(loop, found.id))
            phases = [line["phase"] for line in told["timeline"]]
            wanted = ("seen", "judged", "planned", "allowed", "done", "verified", "closed")
            places = [phases.index(phase) for phase in wanted]
            assert places == sorted(places), phases
            assert "moved" in phases and "" == told["left_out"]
            assert trace_id_of(found.id) == told["trace_id"]
            assert found.place["name"] == told["book"]["name"] and told["book"]["path"]
            assert ["process.restart"] == [step["action"] for plan in told["plans"] for step in plan["steps"]]
            assert "healed" == told["ended"] and told["because"] == list(found.because)
            judged = next(line for line in told["timeline"] if line["phase"] == "judged")
            assert "(told by" in judged["data"]["because"][0] or "(seen by" in judged["data"]["because"][0]
            every = checked(Story, await story(loop, found.id, all_moves=True))
            assert len(every["timeline"]) > len(told["timeline"])

    run(healed())


def test_the_story_of_an_approval_tells_who_was_asked_and_who_answered() -> None:
    async def answered() -> None:
        world = World({"web": {"process": ["/bin/web"], "work": WORK, "mode": "approve"}})
        async with world.running() as loop:
            world.kill("web")
            await asyncio.sleep(5)
            (found,) = await world.incidents()
            before = checked(Story, await story(loop, found.id))
            phases = [line["phase"] for line in before["timeline"]]
            assert "held" in phases and "asked" in phases and "answered" not in phases
            assert ["wanted"] == [a["state"] for a in before["approvals"]]
            await world.knowledge.answer_approval(before["approvals"][0]["plan"], True, "oncall", "go on")
            world.database.others_wrote()
            await asyncio.sleep(20)
            after = checked(Story, await story(loop, found.id))
            phases = [line["phase"] for line in after["timeline"]]
            assert phases.index("answered") < phases.index("verified") and "asked" not in phases
            assert [("approved", "oncall")] == [(a["state"], a["who"]) for a in after["approvals"]]

    run(answered())


def test_a_question_whose_time_ran_out_is_told_as_expired_though_nobody_has_written_that() -> None:
    entry = Entry(T, "approval", "wanted: it was asked", {"state": "wanted", "expires": T + 10, "plan": "plan-1"})

    assert ["asked"] == [line["phase"] for line in timeline([entry], T + 5)]
    (line,) = timeline([entry], T + 10)
    assert ("expired: it was asked", "expired", "asked") == (line["text"], line["data"]["state"], line["phase"])


def test_nothing_is_told_as_done_before_it_was_allowed() -> None:
    """A turn begins a step and then writes down that it was let through, a few milliseconds later."""
    allow = {"check": "guard", "answer": "allow", "sentence": "shop is in mode auto", "until": None}
    hold = {**allow, "check": "backoff", "answer": "hold"}
    entries = [
        Entry(T, "decided", "hold", {**hold, "plan": "plan-1"}),
        Entry(T + 0.001, "planned", "a plan", {"plan": "plan-1"}),
        Entry(T + 20, "intent", "begun", {"plan": "plan-1"}),
        Entry(T + 20.005, "decided", "allow", {**allow, "plan": "plan-1"}),
        Entry(T + 20.006, "decided", "allow another", {**allow, "plan": "plan-2"}),
        Entry(T + 60, "intent", "begun again", {"plan": "plan-1"}),
        Entry(T + 62, "decided", "hold again", {**hold, "plan": "plan-1"}),
    ]

    told = [line["text"] for line in timeline(entries, T + 90)]

    assert ["a plan", "hold", "allow", "begun", "allow another", "begun again", "hold again"] == told


def test_what_is_said_again_right_away_is_counted_and_nothing_else_is() -> None:
    def held(at: float, sentence: str) -> Entry:
        said = {"check": "backoff", "answer": "hold", "sentence": sentence, "until": at + 5}
        return Entry(at, "decided", f"hold by backoff: {sentence}", said)

    lines = timeline([held(T, "a"), held(T + 1, "a"), held(T + 2, "b"), held(T + 3, "a")], T + 9)

    assert [("a", 2), ("b", 1), ("a", 1)] == [(line["text"][-1], line["times"]) for line in lines]
    assert ("2023-11-14T22:13:20.000Z", "2023-11-14T22:13:21.000Z") == (lines[0]["at"], lines[0]["last_at"])
    assert "2023-11-14T22:13:26.000Z" == lines[0]["data"]["until"]


def test_a_story_too_long_to_tell_says_what_it_leaves_out_and_has_no_gap() -> None:
    async def work(world: World, loop: MAPEK) -> None:
        knowledge = world.knowledge
        await knowledge.boot()
        one = incident(1, state=OPEN)
        moves = [Move(one.id, n, T + 10 + n, "tick", states=(f"s{n}",)) for n in range(3 * LINES)]
        await knowledge.save_incident(one, moves)
        for number in range(40):
            await done(knowledge, one, number, T + 20 + number * 30, Result.FAILED)

        told = checked(Story, await story(loop, one.id, all_moves=True))

        lines = told["timeline"]
        assert len(lines) <= LINES + 1 and "seen" == lines[0]["phase"]
        shown = [line["data"]["number"] for line in lines if line["kind"] == "moved"]
        assert list(range(shown[0], 3 * LINES)) == shown
        assert lines[1]["at"] in told["left_out"] and one.id in told["left_out"]
        assert all(line["at"] >= lines[1]["at"] for line in lines[1:])
        assert all(line["data"]["output"][:2] == ["one", "two"] for line in lines if line["kind"] == "outcome")
        assert "hunter2" not in json.dumps(told)

    in_memory(work)


def test_an_unknown_incident_is_named_with_the_nearest() -> None:
    async def work(world: World, loop: MAPEK) -> None:
        await world.knowledge.save_incident(incident(1))
        loop.incidents.put(incident(2, state=OPEN))
        assert "inc-000002" == (await story(loop, "inc-000002"))["id"]
        with pytest.raises(Unknown) as caught:
            await story(loop, "inc-000003" + "x" * 500)
        assert len(caught.value.message) < 300
        with pytest.raises(Unknown, match=r"did you mean 'inc-00000[12]'"):
            await story(loop, "inc-000003")

    in_memory(work)


# -- what was done, and the sums ---------------------------------------------------------------------------------------


def test_history_goes_back_action_by_action(tmp_path: Path) -> None:
    async def work(loop: MAPEK, database: SqliteDatabase) -> None:
        knowledge = loop.parts.knowledge
        await knowledge.boot()
        for number in range(25):
            one = incident(number)
            await knowledge.save_incident(one)
            ended = (Result.VERIFIED, Result.FAILED, None)[number % 3]
            await done(knowledge, one, number, T + number // 2, ended, T + number + 30 if number % 3 == 0 else None)

        seen: list[Any] = []
        before = None
        while True:
            page = checked(History, await history(loop, limit=4, before=before))
            seen += page["actions"]
            before = page["next"]
            if before is None:
                break
        assert 25 == len({one["step"] for one in seen}) == len(seen)
        assert [one["at"] for one in seen] == sorted((one["at"] for one in seen), reverse=True)
        assert {"verified", "failed", None} == {one["result"] for one in seen}
        first = next(one for one in seen if one["incident"] == "inc-000000")
        assert (30.0, "process.restart on svc-0: verified: as seen") == (first["seconds"], first["sentence"])
        mine = checked(History, await history(loop, subject="svc-3", limit=PAGE))["actions"]
        assert mine == [one for one in seen if one["subject"] == "svc-3"] and mine
        with pytest.raises(Misasked, match="before"):
            await history(loop, before="!")

    on_disk(tmp_path, work)


def test_the_sums_are_of_what_was_opened_within_the_days(tmp_path: Path) -> None:
    async def work(loop: MAPEK, database: SqliteDatabase) -> None:
        knowledge, now = loop.parts.knowledge, loop.parts.clock.wall()
        await knowledge.boot()
        for number in range(20):
            at = now - 3600 - number
            ended = ("healed", "recovered")[number >= 15]
            one = incident(
                number, fault=("dead", "hung")[number % 2], opened_at=at, onset_at=at, ended=ended, closed_at=at + 60
            )
            await knowledge.save_incident(one)
            await knowledge.add_finding(one.id, Finding("a", one.subject, one.fault, "gone"), at + number)
            if number < 15:
                await done(knowledge, one, number, at + 1, Result.VERIFIED, at + 10 + number)
        await knowledge.save_incident(incident(77, opened_at=now - 60, onset_at=now - 60, state=OPEN))
        await knowledge.save_incident(incident(99, opened_at=now - 9 * 86400, onset_at=now - 9 * 86400))

        told = checked(Overview, await summary(loop, 7))

        assert 21 == told["incidents"] and {"healed": 15, "open": 1, "recovered": 5} == told["ended"]
        assert {"count": 20, "median_seconds": 9.5, "p95_seconds": 18.0} == told["mttd"]
        assert {"count": 15, "median_seconds": 17.0, "p95_seconds": 24.0} == told["mttr"]
        assert {"verified": 15} == told["steps"]
        assert {"dead": 10, "hung": 10} == {f: s["mttd"]["count"] for f, s in told["by_fault"].items() if f != "gray"}
        assert "" == told["left_out"]
        assert 22 == (await summary(loop, 30))["incidents"]
        for days in (0, -1, 1e9, float("nan")):
            with pytest.raises(Misasked, match="days"):
                await summary(loop, days)
        first = await (listing := Listing()).summary(loop, 7)
        assert first is await listing.summary(loop, 7) and json.loads(first.body)["mttr"] == told["mttr"]

    on_disk(tmp_path, work)


@given(st.lists(st.floats(-5, 1e6), max_size=50))
def test_a_spread_lies_within_its_values(values: list[float]) -> None:
    told = spread(values)

    assert len(values) == told["count"]
    if values:
        least, most = max(0.0, min(values)) - 0.001, max(0.0, max(values)) + 0.001
        assert told["median_seconds"] is not None and told["p95_seconds"] is not None
        assert least <= told["median_seconds"] <= told["p95_seconds"] + 0.001 <= most + 0.001


def test_observations_are_told_as_the_incident_words_them() -> None:
    fact = Observation("web.work", "web", "used_ratio", 0.5, 1.0, "half full")
    entry = Entry(
        T,
        "found",
        "filling",
        {
            "because": [{"metric": fact.metric, "value": fact.value, "detail": fact.detail, "source": fact.source}],
            "times": 4,
            "last_at": T + 9,
            "since": T - 1,
        },
    )

    (line,) = timeline([entry], T + 20)

    assert ["used_ratio is 50.0%: half full (seen by web.work)"] == line["data"]["because"]
    assert 4 == line["times"] and "2023-11-14T22:13:29.000Z" == line["last_at"]
