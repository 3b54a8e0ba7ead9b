"""Operating runbooks: what is said to them, how they are told of, played again and moved to another version."""

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.cli import main
from x0tta6bl4.cli.incidents import calm
from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.kernel.facts import Book, Incident, IncidentState, Message, Move, Outcome, Plan, Result, Severity
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.kernel.memory import Entry, plain
from x0tta6bl4.kernel.plugin import Advance, Situation
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.knowledge.sqlite import Config as StoreConfig
from x0tta6bl4.knowledge.sqlite import SqliteKnowledge, migrations
from x0tta6bl4.planners.runbook import PLUGIN, Config, Runbooks
from x0tta6bl4.runbooks.life import cannot_move, heard, is_heard, replayed, wrong_data, wrong_event
from x0tta6bl4.settings.model import StatusSettings
from x0tta6bl4.status.access import Access
from x0tta6bl4.status.app import StatusApp
from x0tta6bl4.status.desk import Behind
from x0tta6bl4.status.face import Face
from x0tta6bl4.testing.fakes import tools
from x0tta6bl4.testing.virtual_time import run
from x0tta6bl4.testing.world import World

Output = pytest.CaptureFixture[str]
NOW = 1_750_000_000.0
ID = "inc-0123456789abcdef"
WORK = "http://127.0.0.1:1/work"
PROCESS = {"restart": "process.restart", "start": "process.start", "stop": "process.stop"}
HELD = {"on": {"operator.resume": "was", "operator.retry": {"to": "work", "if": "tries < 3"}}, "after": {"24h": "end"}}


def first_version(**more: Any) -> dict[str, Any]:
    return {
        "runbook": "mine",
        "version": 1,
        "summary": "waits, then restarts",
        "trigger": {"anomaly": ["hung", "dead"]},
        "data": {"tries": 3},
        "initial": "work",
        "states": {
            "work": {
                "initial": "settle",
                "on": {"operator.hold": "held"},
                "states": {
                    "settle": {"after": {"30s": "restart"}},
                    "restart": {"do": {"action": "service.restart"}, "done": "end", "failed": "climb"},
                    "climb": {
                        "ladder": {
                            "soft": {"do": {"action": "service.restart", "args": {"grace": "1s"}}},
                            "firm": {"do": {"action": "service.stop"}},
                        },
                        "done": "end",
                        "failed": "end",
                    },
                    "was": {"history": "deep", "default": "settle"},
                },
            },
            "held": HELD,
            "end": {"final": True},
        },
        **more,
    }


def second_version() -> dict[str, Any]:
    """States are called otherwise, the wait is longer, and held incidents are looked after sooner."""
    return first_version(
        version=2,
        data={"tries": 3, "moved": "'no'"},
        states={
            "work": {
                "initial": "calm",
                "on": {"operator.hold": "held"},
                "states": {
                    "calm": {"after": {"60s": "again"}},
                    "again": {"do": {"action": "service.restart", "timeout": "7s"}, "done": "end", "failed": "stairs"},
                    "stairs": {
                        "ladder": {
                            "mild": {"do": {"action": "service.restart", "args": {"grace": "1s"}}},
                            "firm": {"do": {"action": "service.stop"}},
                        },
                        "done": "end",
                        "failed": "end",
                    },
                    "was": {"history": "deep", "default": "calm"},
                },
            },
            "held": HELD,
            "end": {"final": True},
        },
    )


STATES = {"settle": "calm", "restart": "again", "climb": "stairs", "climb.next": "stairs.next", "soft": "mild"}
BODY: dict[str, Any] = {"states": STATES, "data": {"set": {"moved": "'from one'"}}}


def planner(*rules: Mapping[str, Any]) -> Runbooks:
    built: Any = PLUGIN.build("runbook", Config.model_validate({"rules": list(rules), "shipped": False}), tools())
    assert isinstance(built, Runbooks)
    return built


def both() -> Runbooks:
    """The second version is in force, the first is kept for those that are under it."""
    the = planner(second_version())
    the.adopt(planner(first_version()).books())
    return the


def web() -> Subject:
    return Subject("web", kind="process", mode="auto", controller=PROCESS)


def at(seconds: float = 0.0, epoch: int = 1) -> Situation:
    subject = web()
    return Situation(subject, NOW + seconds, {"web": subject}, monotonic=100.0 + seconds, epoch=epoch)


def incident(id: str = ID, subject: str = "web", **more: Any) -> Incident:
    return Incident(id, subject, "hung", IncidentState.OPEN, Severity.MAJOR, "it hangs", NOW, NOW, **more)


@dataclass
class Walk:
    """An incident on its way, with the journal of it."""

    the: Runbooks = field(default_factory=lambda: planner(first_version()))
    now: Incident = field(default_factory=incident)
    moves: list[Move] = field(default_factory=list)
    plans: tuple[Plan, ...] = ()
    count: int = 0

    def _took(self, advance: Advance | None) -> Advance:
        assert advance is not None
        self.now, self.plans = advance.incident, advance.plans
        self.moves += advance.moves
        return advance

    def look(self, seconds: float = 0.0) -> Advance:
        return self._took(self.the.plan(self.now, at(seconds)))

    def begin(self, seconds: float = 0.0) -> Plan:
        (plan,) = self.plans
        self.now = self.the.begun(self.now, plan, 1)
        return plan

    def end(self, plan: Plan, result: Result, seconds: float = 0.0) -> Advance:
        outcome = Outcome(plan.steps[-1].id, result, "as it was", NOW, NOW)
        return self._took(self.the.after(self.now, plan, [outcome], at(seconds)))

    def tell(self, event: str, data: Any = None, seconds: float = 0.0) -> Advance:
        self.count += 1
        message = Message(f"msg-{self.count}", self.now.id, event, data or {}, "oncall@cli", NOW)
        return self._took(self.the.tell(self.now, message, at(seconds)))

    def migrate(self, seconds: float = 0.0, **more: Any) -> Advance:
        old, new = planner(first_version()).runbooks[0], planner(second_version()).runbooks[0]
        told = {"from": old.hash, "to": new.hash, "version": 2, "migration": BODY, **more}
        self.the = both()
        return self.tell("$migrate", told, seconds)

    @property
    def states(self) -> tuple[str, ...]:
        return self.moves[-1].states

    @property
    def book(self) -> tuple[str, int]:
        return self.now.place["book"], self.now.place["version"]


def under_way() -> tuple[Walk, Plan]:
    walk = Walk()
    walk.look()
    walk.look(31.0)
    return walk, walk.begin()


# -- migrations -------------------------------------------------------------------------------------------------------


def test_a_waiting_incident_goes_on_under_the_new_version_with_the_time_it_had_left() -> None:
    walk = Walk()
    walk.look()
    walk.migrate(10.0)

    assert walk.states == ("calm",)
    assert walk.book == (both().runbooks[0].hash, 2)
    assert walk.moves[-1].message == "msg-1"
    assert walk.look(29.0).plans == ()
    assert [p.rung for p in walk.look(31.0).plans] == ["again"]
    assert walk.plans[0].steps[0].timeout == 7.0
    assert not replayed(walk.moves, walk.the.book, walk.now)


def test_what_is_done_meanwhile_answers_under_the_new_version_and_is_not_begun_again() -> None:
    walk, plan = under_way()
    moved = walk.migrate(32.0)

    assert moved.plans == () and moved.left == () and walk.states == ("again",)
    assert walk.look(33.0).plans == ()
    walk.end(plan, Result.REFUTED, 40.0)
    assert [p.rung for p in walk.look(41.0).plans] == ["mild"]
    assert not replayed(walk.moves, walk.the.book, walk.now)


def test_what_is_not_begun_is_asked_for_as_the_new_version_has_it() -> None:
    walk = Walk()
    walk.look()
    assert walk.look(31.0).plans[0].steps[0].timeout == 30.0
    walk.migrate(32.0)

    assert [step.timeout for plan in walk.look(33.0).plans for step in plan.steps] == [7.0]


def test_a_ladder_remembers_which_rungs_were_tried() -> None:
    walk, plan = under_way()
    walk.end(plan, Result.FAILED, 32.0)
    assert [p.rung for p in walk.look(33.0).plans] == ["soft"]
    soft = walk.begin()
    walk.migrate(34.0)
    walk.end(soft, Result.FAILED, 35.0)

    assert [p.rung for p in walk.look(36.0).plans] == ["firm"]
    assert not replayed(walk.moves, walk.the.book, walk.now)


def test_a_held_incident_comes_back_to_where_it_was_under_its_new_name() -> None:
    walk, plan = under_way()
    walk.tell("operator.hold", seconds=32.0)
    walk.migrate(33.0)
    assert walk.states == ("held",)
    walk.tell("operator.resume", seconds=34.0)

    assert walk.states == ("again",)
    assert walk.look(35.0).plans == ()  # what was begun under the old version goes on
    assert walk.end(plan, Result.VERIFIED, 36.0).incident.ended == "healed"


def test_a_refused_one_is_told_so_and_stays_what_it_is() -> None:
    walk = Walk()
    before = walk.look().incident.place.items()
    said = walk.migrate(1.0, migration={**BODY, "refuse_if": "In('settle')"})

    assert "refuse_if" in said.why
    last = walk.moves[-1]
    assert (last.taken, last.message, last.states) == (False, "msg-1", ("settle",))
    assert "refuse_if" in last.data["refused"]
    after = dict(walk.now.place.items())
    stays = ("book", "version", "name", "acts", "timers", "undo", "back", "notes")
    assert {key: after.get(key) for key in stays} == {key: dict(before).get(key) for key in stays}
    assert {**after["chart"], "seq": 1} == dict(before)["chart"]
    assert not replayed(walk.moves, walk.the.book, walk.now)
    assert [p.rung for p in walk.look(31.0).plans] == ["restart"]


def test_a_migration_from_another_version_or_to_one_nobody_has_read_is_refused() -> None:
    walk = Walk()
    walk.look()
    assert "not 0000" in walk.migrate(1.0, **{"from": "0000"}).why
    assert "reload it" in walk.migrate(2.0, to="1111").why
    assert [move.taken for move in walk.moves] == [True, False, False]


def test_a_second_migration_of_one_that_has_moved_is_refused() -> None:
    walk = Walk()
    walk.look()
    walk.migrate(1.0)
    place = dict(walk.now.place.items())
    walk.migrate(2.0)

    assert not walk.moves[-1].taken
    assert walk.book == (place["book"], 2)


def test_replay_notices_a_journal_that_was_changed() -> None:
    walk, plan = under_way()
    walk.migrate(32.0)
    walk.end(plan, Result.REFUTED, 40.0)
    number = next(i for i, move in enumerate(walk.moves) if move.event == "$migrate")
    forged = [*walk.moves]
    forged[number] = replace(forged[number], states=("calm",))
    assert "leads to again, the journal says calm" in replayed(forged, walk.the.book, walk.now)[0]
    assert "not kept any more" in replayed(walk.moves, planner().book, walk.now)[0]

    gone = [*walk.moves]
    del gone[number]
    assert replayed(gone, walk.the.book, walk.now)


def test_the_dry_run_says_what_the_planner_would() -> None:
    old, new = planner(first_version()).runbooks[0], both().runbooks[0]
    walk = Walk()
    assert cannot_move(walk.now, old, new, BODY, NOW) == "its runbook has ended"
    walk.look()
    assert cannot_move(walk.now, old, new, BODY, NOW) == ""
    assert "settle" in cannot_move(walk.now, old, new, {"data": BODY["data"]}, NOW)
    assert cannot_move(walk.now, old, new, {**BODY, "refuse_if": "tries == 3"}, NOW)


# -- what may be said -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event", ["", "two words", "$migrate", "done.act.restart", "after.x.0", "a..b", "a" * 101, "ü"]
)
def test_what_is_no_event_or_is_the_runbooks_own_cannot_be_sent(event: str) -> None:
    assert wrong_event(event)


def test_operators_and_own_events_can_be_sent() -> None:
    assert [wrong_event(e) for e in ("operator.hold", "link.loss", "go", "policy.freeze-1")] == [""] * 4


def test_data_is_bounded_in_size_and_depth_and_is_json() -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]

    assert wrong_data({"a": [1, "x", None]}) == ""
    assert "65536" in wrong_data({"a": "x" * 65536})
    assert "deeper" in wrong_data({"a": deep})
    assert wrong_data({"a": float("nan")})


def test_it_is_told_what_a_runbook_listens_to_and_what_is_in_the_way() -> None:
    walk = Walk()
    walk.look()
    book = walk.the.runbooks[0]
    words = heard(book, walk.now, NOW)

    assert words == {"operator.hold": "", "operator.resume": "only in held", "operator.retry": "only in held"}
    walk.tell("operator.hold", seconds=1.0)
    words = heard(book, walk.now, NOW)
    assert words["operator.hold"] == "only in work" and words["operator.resume"] == ""
    assert "tries < 3" in words["operator.retry"]
    assert is_heard("operator.dance", words) is None
    assert is_heard("operator.resume.later", words) == ""


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("X0TTA6BL4_CONFIG", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    (tmp_path / "x.yaml").write_text("state_dir: state\nrules_dirs: [books]\n")
    (tmp_path / "books").mkdir()


def in_store(work: Callable[[SqliteKnowledge], Awaitable[Any]]) -> Any:
    async def opened() -> Any:
        Path("state").mkdir(exist_ok=True)
        database = await SqliteDatabase.open(Path("state/knowledge.db"), migrations())
        try:
            return await work(SqliteKnowledge("store", StoreConfig(), database, SystemClock()))
        finally:
            await database.close()

    return asyncio.run(opened())


def keep(*walks: Walk, books: tuple[Mapping[str, Any], ...] = ()) -> None:
    async def write(knowledge: SqliteKnowledge) -> None:
        for the in (*(walk.the for walk in walks), *map(planner, books)):
            await knowledge.keep_books([*the.books(), *the._kept.values()])
        for walk in walks:
            await knowledge.save_incident(walk.now, [m for m in walk.moves if m.incident == walk.now.id])

    in_store(write)


def told(capsys: Output, *words: str, code: int = 0) -> str:
    assert main(["--config", "x.yaml", *words]) == code, capsys.readouterr()
    return " ".join(capsys.readouterr().out.split())


def refused(capsys: Output, *words: str, code: int = 2) -> str:
    assert main(["--config", "x.yaml", *words]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def inbox() -> list[Message]:
    found: list[Message] = in_store(lambda knowledge: knowledge.inbox())
    return found


def test_an_event_is_put_into_the_inbox_with_who_and_why(capsys: Output) -> None:
    walk = Walk()
    walk.look()
    keep(walk)
    said = told(capsys, "tell", "0123", "operator.hold", "--data", "loss=0.5", "host=a", "--why", "looking at it")

    assert "Sent operator.hold" in said and "No daemon runs: it waits" in said
    (message,) = inbox()
    assert (message.incident, message.event) == (ID, "operator.hold")
    assert message.data == {"loss": 0.5, "host": "a", "why": "looking at it"}
    assert message.who.endswith("@cli")
    trail = in_store(lambda knowledge: knowledge.audit_trail())
    assert (trail[0].what, trail[0].who) == ("runbook.event", message.who)
    story = told(capsys, "incidents", ID)
    assert "operator.hold by" in story and "waits to be taken" in story


def test_an_event_that_comes_too_early_is_sent_and_told_so(capsys: Output) -> None:
    walk = Walk()
    walk.look()
    keep(walk)

    assert "nothing takes it now: only in held" in told(capsys, "tell", ID, "operator.resume")
    assert "called off" in told(capsys, "tell", ID, "operator.abort")
    assert [m.event for m in inbox()] == ["operator.resume", "operator.abort"]


def test_without_an_event_it_lists_what_is_listened_to(capsys: Output) -> None:
    walk = Walk()
    walk.look()
    keep(walk)
    said = told(capsys, "tell", ID)

    assert "It is on the runbook mine v1" in said and "at settle" in said
    assert "operator.hold yes" in said and "operator.resume no only in held" in said
    answer = json.loads(told(capsys, "--output", "json", "tell", ID))
    assert answer["hears"]["operator.abort"] == "" and answer["stand"]["states"] == ["settle"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("tell", "inc-none", "operator.hold"), "there is no incident"),
        (("tell", "inc-", "operator.hold"), "is a part of 2 incidents"),
        (("tell", ID, "operator.dance"), "ever listens to 'operator.dance'"),
        (("tell", ID, "operator.hodl"), "did you mean 'operator.hold'?"),
        (("tell", ID, "hold it"), "an event is one word"),
        (("tell", ID, "done.act.restart"), "are the runbook's own"),
        (("tell", ID, "$migrate"), "an event is one word"),
        (("tell", ID, "operator.hold", "--data", "{bad"), "is not JSON"),
        (("tell", ID, "operator.hold", "--data", "[1]"), "must be an object"),
        (("tell", ID, "operator.hold", "--data", '{"a": NaN}'), "is not JSON"),
        (("tell", ID, "operator.hold", "--data", "a"), "should be KEY=VALUE"),
        (("tell", ID, "operator.hold", "--data", "a=1", "a=2"), "twice"),
        (("tell", ID, "operator.hold", "--data", "a=" + "[" * 9000), None),
        (("tell", ID, "operator.hold", "--data", "a=" + "x" * 65537), "at most 65536"),
        (("tell", ID, "operator.hold", "--why", "x" * 1001), "more than 1000"),
        (("tell", ID, "--data", "a=1"), "which event?"),
        (("incidents", "--moves"), "which one?"),
    ],
)
def test_nonsense_is_refused_in_words_and_nothing_is_sent(
    words: tuple[str, ...], says: str | None, capsys: Output
) -> None:
    walk = Walk()
    walk.look()
    keep(walk, Walk(now=incident("inc-fedcba9876543210", "db")))

    if says is None:  # what is no JSON is text
        told(capsys, *words)
        return
    assert says in refused(capsys, *words)
    assert inbox() == []


def test_one_that_is_over_listens_no_more(capsys: Output) -> None:
    walk, plan = under_way()
    walk.end(plan, Result.VERIFIED, 40.0)
    keep(walk)

    assert "is over (healed)" in refused(capsys, "tell", ID, "operator.hold", code=1)
    assert "It was on the runbook mine v1" in told(capsys, "incidents", ID)


def test_the_story_is_calm_unless_the_moves_are_asked_for(capsys: Output) -> None:
    walk, plan = under_way()
    walk.end(plan, Result.FAILED, 32.0)
    walk.look(33.0)
    keep(walk)
    said = told(capsys, "incidents", ID)

    assert "at soft" in said
    assert "its runbook begins; now at settle; waits 30s in settle" in said
    assert "time is up for settle; now at restart" in said
    assert "restart did not help; now choosing in climb" in said
    assert "done.act" not in said and "chosen" not in said
    every = told(capsys, "incidents", ID, "--moves")
    assert "done.act.climb.next: chosen: soft; now at soft" in every and "wants act soft" in every


def test_what_a_runbook_only_says_to_itself_is_left_out() -> None:
    def entry(kind: str, **data: Any) -> Entry:
        return Entry(NOW, kind, "", data)

    start = entry("moved", event="$start", states=["a"], taken=True)
    gone = [
        entry("moved", event="done.act.l.next", states=["a"], taken=True),
        entry("moved", event="$seen", states=["a"], taken=True),
        entry("moved", event="$close", states=[], taken=True),
        entry("decided", check="runbook"),
    ]
    stays = [
        start,
        entry("moved", event="$seen", states=["b"], taken=True),
        entry("decided", check="mode"),
        entry("moved", event="operator.x", states=["b"], taken=False),
    ]

    assert calm([start, *gone[:2], *stays[1:], *gone[2:]]) == stays


def test_why_tells_the_version_the_states_and_the_time_that_is_left(capsys: Output) -> None:
    walk = Walk()
    walk.look()
    keep(walk)
    said = told(capsys, "why", ID)

    assert f"It is on the runbook mine v1 ({walk.book[0]}), at settle." in said
    assert "settle: time is up" in said and "then to restart" in said
    assert "listens to operator.hold" in said
    answer = json.loads(told(capsys, "--output", "json", "why", ID))
    (case,) = answer["incidents"]
    assert case["stand"]["timers"][0]["leads_to"] == ["restart"]


def test_a_journal_that_was_kept_is_played_again(capsys: Output) -> None:
    walk, plan = under_way()
    walk.migrate(32.0)
    walk.end(plan, Result.FAILED, 33.0)
    walk.look(34.0)
    keep(walk)

    said = told(capsys, "runbook", "replay", ID)
    assert "OK: played again, each of" in said and "$migrate again" in said
    answer = json.loads(told(capsys, "--output", "json", "runbook", "replay", ID))
    assert answer["ok"] and [m["number"] for m in answer["moves"]] == list(range(1, len(walk.moves) + 1))


def test_a_place_that_the_journal_does_not_give_is_told_and_is_an_error(capsys: Output) -> None:
    walk = Walk()
    walk.look()
    earlier = walk.now
    walk.look(31.0)
    keep(walk)
    in_store(lambda knowledge: knowledge.save_incident(earlier))

    assert "WRONG: states differs at the end" in told(capsys, "runbook", "replay", ID, code=1)


def test_an_incident_without_moves_has_nothing_to_replay(capsys: Output) -> None:
    keep(Walk())
    assert "was never on a runbook" in told(capsys, "runbook", "replay", ID)


def test_the_diagram_marks_where_the_incident_is(capsys: Output) -> None:
    walk = Walk()
    walk.look()
    walk.migrate(1.0)
    keep(walk)
    answer = json.loads(told(capsys, "--output", "json", "runbook", "draw", "--incident", ID))

    assert answer["active"] == ["work", "calm"] and answer["runbook"]["version"] == 2
    (name,) = [line.split()[-1] for line in answer["mermaid"].splitlines() if '"calm' in line]
    assert name in answer["mermaid"].partition("class s1,")[2].split()[0].split(",")


# -- runbook migrate --------------------------------------------------------------------------------------------------


def migration(**more: Any) -> None:
    whole = {"runbook": "mine", "from": 1, "to": 2, **BODY, **more}
    Path("way.yaml").write_text(yaml.safe_dump({k: v for k, v in whole.items() if v is not None}, sort_keys=False))


def test_a_dry_run_lists_who_can_move_and_changes_nothing(capsys: Output) -> None:
    walk, held = Walk(), Walk(now=incident("inc-fedcba9876543210", "db"))
    walk.look()
    held.look()
    held.tell("operator.hold", seconds=1.0)
    keep(walk, held, books=(second_version(),))
    migration(refuse_if="In('held')")
    said = told(capsys, "runbook", "migrate", "way.yaml", code=1)

    assert f"{ID} web yes" in said
    assert "db no refuse_if: `In('held')` holds" in said
    assert "--apply moves 1 incident" in said
    assert inbox() == []


def test_applied_it_is_sent_to_those_that_can_move(capsys: Output) -> None:
    walk = Walk()
    walk.look()
    keep(walk)
    Path("books/mine.yaml").write_text(yaml.safe_dump(second_version(), sort_keys=False))
    migration()
    said = told(capsys, "runbook", "migrate", "way.yaml", "--apply")

    assert "No daemon runs: they move when one runs" in said
    (message,) = inbox()
    the = both()
    moved = the.tell(walk.now, message, at(5.0))
    assert moved.incident.place["version"] == 2
    assert moved.moves[-1].message == message.id
    books = in_store(lambda knowledge: knowledge.books())
    assert {2, 1} == {book.version for book in books if book.name == "mine"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"states": {"settle": "clam"}}, "no state 'clam'"),
        ({"states": {}}, "no place in the new chart"),
        ({"form": 1}, "there is no such key; did you mean 'from'?"),
        ({"from": None}, "from: is missing"),
        ({"to": 7}, "there is no 7 of mine; known are v1"),
        ({"to": 1}, "is the version that the migration is from"),
        ({"data": {"set": {"moved": "nope +"}}}, "data.set.moved"),
        ({"refuse_if": "unheard"}, "unheard"),
        ({"from": [1]}, "should be a name, a version or a hash"),
    ],
)
def test_a_migration_with_mistakes_is_refused_whole(more: Mapping[str, Any], says: str, capsys: Output) -> None:
    walk = Walk()
    walk.look()
    keep(walk, books=(second_version(),))
    migration(**more)

    assert says in refused(capsys, "runbook", "migrate", "way.yaml", "--apply", code=78)
    assert inbox() == []


def test_two_texts_of_one_version_are_told_apart_by_their_hash(capsys: Output) -> None:
    walk = Walk()
    walk.look()
    other = second_version() | {"summary": "the same version, another text"}
    keep(walk, books=(second_version(), other))
    migration()
    assert "there are 2 texts of v2; give the hash" in refused(capsys, "runbook", "migrate", "way.yaml", code=78)
    migration(to=planner(other).runbooks[0].hash)
    assert "--apply moves 1 incident" in told(capsys, "runbook", "migrate", "way.yaml")


def test_a_migration_of_an_unknown_runbook_or_file_is_refused(capsys: Output) -> None:
    keep(Walk())
    assert "there is no file or folder" in refused(capsys, "runbook", "migrate", "nowhere.yaml")
    Path("way.yaml").write_text("- 1\n")
    assert "should be a mapping" in refused(capsys, "runbook", "migrate", "way.yaml", code=78)
    migration(runbook="mien")
    assert "there is no runbook 'mien'; did you mean 'mine'?" in refused(capsys, "runbook", "migrate", "way.yaml")


# -- the running daemon -----------------------------------------------------------------------------------------------


@dataclass
class Daemon:
    world: World
    token: str = "the-operators-token"
    version: str = "test"
    started_at: float = 0.0

    @property
    def loop(self) -> MAPEK:
        return self.world.loop

    @property
    def metrics(self) -> Any:
        return self.world.metrics


def lived(story: Callable[[World, MAPEK, str], Awaitable[None]]) -> None:
    """A service that is dead, whose runbook waits before it does anything."""

    async def whole() -> None:
        world = World(
            {"web": {"process": ["/bin/web"], "work": WORK, "mode": "auto"}},
            planners={"runbook": {"rules": [first_version()], "shipped": False}},
        )
        async with world.running() as loop:
            world.kill("web")
            await asyncio.sleep(5)
            (open_,) = loop.incidents.open
            await story(world, loop, open_.id)

    run(whole())


async def ask(world: World, id: str, body: Any, *, token: str = Daemon.token) -> tuple[int, Any]:
    access = Access(world.database, world.knowledge.audit, world.clock, lambda: b"k" * 32)
    settings = StatusSettings(rate_limit_per_minute=10_000)
    app = StatusApp(cast(Face, Daemon(world)), settings, Behind(world.database, access))
    path = f"/api/v1/incidents/{id}/events"
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"host": "127.0.0.1", "content-type": "application/json", "authorization": f"Bearer {token}"}
    scope: dict[str, Any] = {
        "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 5), "server": None,
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_an_event_over_http_is_taken_by_the_running_loop() -> None:
    async def story(world: World, loop: MAPEK, id: str) -> None:
        status, said = await ask(world, id, {"event": "operator.hold", "data": {"n": 1}, "why": "looking"})
        assert (status, said["blocked"], said["incident"]) == (202, "", id)
        await asyncio.sleep(1)

        last = (await world.knowledge.moves(id))[-1]
        assert (last.event, last.states, last.message) == ("operator.hold", ("held",), said["message"])
        assert last.data == {"n": 1, "why": "looking", "who": "operator (api)"}
        assert await world.knowledge.inbox() == []
        texts = [e.text for e in await world.knowledge.story(id)]
        assert any(t.startswith("operator.hold by operator (api) (looking); now at held") for t in texts)

    lived(story)


def test_what_cannot_be_sent_over_http_is_refused_and_leaves_nothing_behind() -> None:
    async def story(world: World, loop: MAPEK, id: str) -> None:
        async def code(body: Any, to: str = id, **more: Any) -> tuple[int, str]:
            status, said = await ask(world, to, body, **more)
            return status, said["error"]["code"]

        hold = {"event": "operator.hold"}
        assert await code(hold, token="wrong") == (401, "UNAUTHORIZED")
        assert await code(hold, to="inc-none") == (404, "NO_SUCH_INCIDENT")
        assert await code({"event": "operator.dance"}) == (422, "UNKNOWN_EVENT")
        wrong_ones: list[Any] = [{}, [], *({"event": e} for e in (1, "two words", "$migrate", "done.act.x"))]
        wrong_ones += [{**hold, **more} for more in ({"data": [1]}, {"more": 1}, {"why": 1}, {"why": "x" * 1001})]
        for wrong in wrong_ones:
            assert await code(wrong) == (422, "BAD_BODY"), wrong
        assert await code(b'{"event": "operator.hold", "data": {"a": NaN}}') == (400, "BAD_JSON")
        assert await code(b"{bad") == (400, "BAD_JSON")
        assert await code({**hold, "data": {"a": "x" * 70_000}}) == (413, "BODY_TOO_LARGE")
        assert await world.knowledge.inbox() == []
        closed = replace(loop.incidents.open[0], id="inc-over", state=IncidentState.CLOSED, ended="healed")
        await world.knowledge.save_incident(closed)
        assert await code(hold, to="inc-over") == (409, "INCIDENT_OVER")

    lived(story)


def test_the_message_of_a_migration_goes_in_the_transaction_of_its_move_or_not_at_all() -> None:
    walk = Walk()
    walk.look()
    keep(walk)
    message = in_store(lambda knowledge: knowledge.send(ID, "$migrate", {}, "oncall@cli"))
    walk.count = -1
    moved = walk.migrate(5.0)
    moves = [replace(move, message=message.id) for move in moved.moves]

    def on_disk() -> tuple[int, int, int]:
        kept = in_store(lambda knowledge: knowledge.incident(ID))
        return kept.place["version"], len(in_store(lambda knowledge: knowledge.moves(ID))), len(inbox())

    def outside(sql: str) -> None:
        with sqlite3.connect("state/knowledge.db") as connection:
            connection.execute(sql)
        connection.close()

    outside("CREATE TRIGGER stop BEFORE DELETE ON inbox BEGIN SELECT RAISE(ABORT, 'the power is gone'); END")
    with pytest.raises(StoreError):
        in_store(lambda knowledge: knowledge.save_incident(moved.incident, moves))
    assert on_disk() == (1, 1, 1)
    outside("DROP TRIGGER stop")
    in_store(lambda knowledge: knowledge.save_incident(moved.incident, moves))

    assert on_disk() == (2, 2, 0)


def test_a_running_daemon_migrates_once_though_the_first_write_of_it_fails() -> None:
    async def story(world: World, loop: MAPEK, id: str) -> None:
        the = cast(Runbooks, loop.parts.planner)
        old, new = the.runbooks[0], both().runbooks[0]
        await world.knowledge.keep_books([Book(new.hash, new.name, new.version, json.dumps(dict(new.source)))])
        the.adopt(await world.knowledge.books())
        asked = {"from": old.hash, "to": new.hash, "version": 2, "migration": BODY}
        await world.knowledge.send(id, "$migrate", asked, "oncall@cli")
        real = world.knowledge.save_incidents
        failed: list[tuple[int, int]] = []

        async def breaks(changed: Sequence[tuple[Incident, Sequence[Move]]]) -> None:
            if any(move.event == "$migrate" for _, moves in changed for move in moves) and not failed:
                kept = await world.knowledge.incident(id)
                assert kept is not None
                failed.append((kept.place["version"], len(await world.knowledge.inbox())))
                raise StoreError("the disk is full")
            await real(changed)

        world.knowledge.save_incidents = breaks  # type: ignore[method-assign]  # one write fails
        world.database.others_wrote()
        await asyncio.sleep(20)

        assert failed == [(1, 1)]
        kept = await world.knowledge.incident(id)
        assert kept is not None and kept.place["version"] == 2
        assert await world.knowledge.inbox() == []
        moves = await world.knowledge.moves(id)
        assert [move.event for move in moves].count("$migrate") == 1
        assert not replayed(moves, the.book, kept)

    lived(story)


def test_entries_of_moves_say_in_words_what_their_data_say() -> None:
    async def story(world: World, loop: MAPEK, id: str) -> None:
        moved = [e for e in await world.knowledge.story(id) if e.kind == "moved"]
        assert [e.data["event"] for e in moved] == [m.event for m in await world.knowledge.moves(id)]
        assert moved[0].text.startswith("its runbook begins; now at settle")
        assert plain(moved[0].data)["states"] == ["settle"]
        assert not [e for e in await world.knowledge.history("web") if e.kind == "moved"]

    lived(story)
