"""What analyzers learn outlives the daemon, and what people say of a finding reaches them."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.asking import Endpoint, play
from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.kernel.facts import Finding, Incident, IncidentState, Severity
from x0tta6bl4.kernel.judged import MOST, Judged, judged_data, judged_of
from x0tta6bl4.kernel.learning import Learning
from x0tta6bl4.kernel.lessons import Alteration, Learner, Lesson
from x0tta6bl4.kernel.loop import MAPEK, Parts
from x0tta6bl4.kernel.sight import View
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.planners.runbook import Config as RunbookConfig
from x0tta6bl4.planners.runbook import Runbooks


class Counts:
    """Learns how often it looked, and what it was told."""

    def __init__(self, name: str = "counts") -> None:
        self.name = name
        self.looks = 0
        self.before: tuple[int, float] | None = None
        self.heard: list[Lesson] = []
        self.occurrences: list[str] = []
        self.refuses = ""

    def analyze(self, view: View) -> Sequence[Finding]:
        self.looks += 1
        self.occurrences += [f"{o.subject} {o.kind} {o.detail}" for o in view.occurrences]
        return []

    def learnt(self) -> bytes:
        return json.dumps({"looks": self.looks}).encode()

    def take_up(self, learnt: bytes, wall: float) -> None:
        self.before = (json.loads(learnt)["looks"], wall)

    def teach(self, lesson: Lesson) -> str:
        if self.refuses:
            raise ValueError(self.refuses)
        self.heard.append(lesson)
        return f"{self.name} heard that it was {'right' if lesson.right else 'wrong'}"


async def store_in(folder: Path) -> tuple[SqliteDatabase, SqliteKnowledge]:
    database = await SqliteDatabase.open(folder / "knowledge.db", migrations())
    return database, SqliteKnowledge("store", Config(), database, SystemClock())


def loop_over(knowledge: SqliteKnowledge, *analyzers: Counts) -> MAPEK:
    planner = Runbooks("runbook", RunbookConfig())
    return MAPEK(Parts(SystemClock(), knowledge, planner, analyzers=analyzers))


def test_the_next_life_knows_what_this_one_learnt(tmp_path: Path) -> None:
    async def story() -> None:
        database, knowledge = await store_in(tmp_path)
        first, second = Counts(), Counts()
        await loop_over(knowledge, first).run_cycle()
        await loop_over(knowledge, second).run_cycle()
        await database.close()

        assert first.before is None
        assert second.before is not None
        assert 1 == second.before[0]

    asyncio.run(story())


def test_what_cannot_be_read_is_told_and_learnt_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        database, knowledge = await store_in(tmp_path)
        await knowledge.learnt.keep("counts", b"\x00 nothing of ours")
        counts = Counts()
        await loop_over(knowledge, counts).run_cycle()
        await database.close()

        assert counts.before is None
        assert 1 == counts.looks

    asyncio.run(story())
    assert "what was learnt cannot be read; it is learnt anew" in caplog.text


def test_a_lesson_is_taken_once_and_says_what_came_of_it(tmp_path: Path) -> None:
    async def story() -> None:
        database, knowledge = await store_in(tmp_path)
        counts, other = Counts(), Counts("other")
        loop = loop_over(knowledge, counts, other)
        await loop.run_cycle()
        lesson = await knowledge.learnt.teach(Lesson("verdict", "counts", "inc-1", False, {"a": 1}, who="oncall"))
        await loop.refresh()
        await loop.refresh()
        (taken,) = await knowledge.learnt.lessons(untaken=False)
        await database.close()

        assert [lesson.id] == [heard.id for heard in counts.heard]
        assert {"a": 1} == dict(counts.heard[0].data)
        assert other.heard == []
        assert "counts heard that it was wrong" == taken.said
        assert taken.taken_at is not None

    asyncio.run(story())


def test_a_learner_that_fails_at_a_lesson_is_no_end_of_it(tmp_path: Path) -> None:
    async def story() -> None:
        database, knowledge = await store_in(tmp_path)
        bad, good = Counts("bad"), Counts("good")
        bad.refuses = "it cannot be read"
        learning = Learning([bad, good, object()], knowledge, SystemClock(), lambda: False)
        await knowledge.learnt.teach(Lesson("learnt", body=b"x" * 10, who="oncall"))
        count = await learning.hear()
        (taken,) = await knowledge.learnt.lessons(untaken=False)
        await database.close()

        assert 1 == count
        assert "bad could not use it: it cannot be read; good heard that it was wrong" == taken.said
        assert b"x" * 10 == good.heard[0].body
        assert taken.body == b"", "it is let go of once it is taken"

    asyncio.run(story())


def test_the_same_persons_word_on_an_incident_counts_once(tmp_path: Path) -> None:
    async def story() -> None:
        database, knowledge = await store_in(tmp_path)
        learnt = knowledge.learnt
        await learnt.teach(Lesson("verdict", incident="inc-1", right=True, who="oncall"))
        await learnt.teach(Lesson("verdict", incident="inc-1", right=False, who="oncall", why="a backup"))
        await learnt.teach(Lesson("verdict", incident="inc-2", right=True, who="oncall"))
        found = await learnt.lessons()
        mine = await learnt.lessons(incident="inc-1")
        trail = [row.what for row in await knowledge.audit_trail()]
        await database.close()

        assert [("inc-1", False, "a backup"), ("inc-2", True, "")] == [
            (one.incident, one.right, one.why) for one in found
        ]
        assert ["inc-1"] == [one.incident for one in mine]
        assert ["lesson.verdict"] * 3 == trail

    asyncio.run(story())


def test_a_store_that_takes_nothing_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full:
        @property
        def learnt(self) -> "Full":
            return self

        async def keep(self, analyzer: str, body: bytes) -> None:
            raise StoreError("the disk is full")

    async def story() -> None:
        learning = Learning([Counts()], Full(), SystemClock(), lambda: False)  # type: ignore[arg-type]  # only keeps
        await learning.keep_all()
        await learning.keep_all()

    asyncio.run(story())
    assert 1 == caplog.text.count("what was learnt cannot be kept")


def test_what_was_changed_on_purpose_is_an_occurrence_for_the_analyzers(tmp_path: Path) -> None:
    async def story() -> None:
        database, knowledge = await store_in(tmp_path)
        counts = Counts()
        loop = loop_over(knowledge, counts)
        now = SystemClock().wall()
        await knowledge.learnt.alter(Alteration("web", "deploy", "v1", "ci", now - 7200))
        await knowledge.learnt.alter(Alteration("web", "deploy", "v2", "ci", now - 60))
        await loop.run_cycle()
        await knowledge.learnt.alter(Alteration("db", "config", "", "oncall", now - 7200))
        await loop.refresh()
        await loop.refresh()
        await loop.run_cycle()
        told = await knowledge.learnt.alterations(subject="web")
        await database.close()

        assert ["web altered.deploy v2 (said by ci)", "db altered.config said by oncall"] == counts.occurrences
        assert ["v1", "v2"] == [one.detail for one in told]

    asyncio.run(story())


def test_a_verdict_over_the_api_is_heard_at_once(tmp_path: Path) -> None:
    counts = Counts()

    async def story(endpoint: Endpoint) -> None:
        loop = endpoint.face.loop
        loop.learning._learners.append(counts)
        judged = Judged("db", "latency_seconds", 3.0, 0.1, 0.4, 2.0, 1.0, "novelty")
        now = endpoint.clock.wall()
        incident = Incident("inc-db", "db", "unusual", IncidentState.OPEN, Severity.INFO, "slow", now - 9, now - 9,
                            data=judged_data([judged]))  # fmt: skip
        await loop.parts.knowledge.save_incident(incident)
        reply = await endpoint.post("/api/v1/incidents/inc-db/verdicts", {"right": False, "why": "a backup"})
        listed = await endpoint.get("/api/v1/incidents/inc-db/verdicts")

        assert 201 == reply.status
        assert "counts heard that it was wrong" == reply.json["said"]
        assert [reply.json] == listed.json["verdicts"]
        assert [judged] == judged_of(counts.heard[0].data)

    play(tmp_path, story)
    assert isinstance(counts, Learner)


def test_what_was_judged_survives_its_journey_and_says_what_would_have_been_well() -> None:
    low, both = Judged("a", "x_bytes", 1.0, 2097152.0), Judged("a", "y_ratio", 0.9, 0.1, 0.4, 3.0, 1.5, "novelty")
    read = judged_of(json.loads(json.dumps({**judged_data([low, both])})))

    assert [low, both] == read
    assert "x_bytes from 2.0 MiB on would have been no finding; it was 1 bytes" == low.otherwise
    assert "y_ratio between 10.0% and 40.0% would have been no finding; it was 90.0%" == both.otherwise
    assert "novelty 3, a finding from 1.5 on" == both.decided


def test_more_series_than_are_told_are_counted_and_bounds_that_are_none_left_out() -> None:
    many = [Judged("a", f"m{n}", 1.0, float("-inf"), float("inf")) for n in range(MOST + 5)]
    data = judged_data(many)

    assert (MOST, MOST + 5) == (len(judged_of(data)), data["judged_count"])
    assert (None, None) == (judged_of(data)[0].low, judged_of(data)[0].high)
    assert judged_of({"judged": [{"nix": 1}, "text", 3]}) == judged_of({}) == []
