"""A runbook under way, killed at each instant that matters, is neither lost nor done twice; and who does is found."""

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import count, pairwise, repeat
from pathlib import Path
from queue import SimpleQueue

import pytest
from runbook_host import CURE, HOLDS, SABOTAGES, STUCK, planner

from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.ports.database import Row, Transaction
from x0tta6bl4.runbooks.life import replayed
from x0tta6bl4.testing.fakes import FakeClock
from x0tta6bl4.testing.virtual_time import EPOCH

HOST = Path(__file__).with_name("runbook_host.py")
HOSTS = 2
PLANNER = planner()
TAKING_BACK = ("rolling_back", "tidy_up", "undo")
"""Rungs that may take several steps for one activity: one for each thing to take back."""
REACHED = 0.9
"""The part of the points at which a life must really have ended: the database's threads are not in virtual time, and
a turn more or less moves a few of the points."""
CANNOT_BE_SEEN = ("link.reroute", "link.reroute_undo")
"""Of these no look can tell whether they were done."""


# -- lives -----------------------------------------------------------------------------------------------------------


class Hosts:
    """Processes that let lives be lived, each one at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._free: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        self._all: list[subprocess.Popen[str]] = []
        self._pool = ThreadPoolExecutor(HOSTS)
        self._number = count()
        for _ in range(HOSTS):
            host = subprocess.Popen(
                [sys.executable, str(HOST)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self._all.append(host)
            self._free.put(host)

    def live(self, folder: Path, at: str, hold_at: str, broken: str) -> int:
        """Its exit status; the negative number of a signal."""
        host = self._free.get()
        try:
            assert host.stdin is not None and host.stdout is not None
            host.stdin.write(json.dumps([str(folder), at, hold_at, broken]) + "\n")
            host.stdin.flush()
            return int(host.stdout.readline())
        finally:
            self._free.put(host)

    def story(self, deaths: Sequence[str] = (), hold_at: str = HOLDS[0], broken: str = "") -> "Story":
        return Story(self, self.folder(), deaths, hold_at, broken)

    def folder(self) -> Path:
        folder = self._root / str(next(self._number))
        folder.mkdir()
        return folder

    def stories(
        self,
        all_deaths: Sequence[Sequence[str]],
        holds: Iterable[str] = repeat(HOLDS[0]),
        broken: Iterable[str] = repeat(""),
    ) -> "list[Story]":
        return list(self._pool.map(self.story, all_deaths, holds, broken))

    def close(self) -> None:
        self._pool.shutdown()
        for host in self._all:
            assert host.stdin is not None and host.stdout is not None
            host.stdin.close()
            host.wait()
            host.stdout.close()


class Story:
    """One incident over several lives: what died where, and everything that is wrong with what is left."""

    def __init__(
        self, hosts: Hosts, folder: Path, deaths: Sequence[str] = (), hold_at: str = HOLDS[0], broken: str = ""
    ) -> None:
        self.folder = folder
        self.deaths: list[str] = []
        self.wrong: list[str] = []
        cut_off: list[str] = []
        for at in (*deaths, ""):
            status = hosts.live(folder, at, hold_at, broken)
            if status != -signal.SIGKILL:
                if status:
                    self.wrong.append("the incident does not end" if status == STUCK else f"ended with {status}")
                break
            self.deaths.append(at)
            wrong, unfinished = asyncio.run(left_by_a_death(folder))
            self.wrong += wrong
            cut_off += unfinished
        self.wrong += asyncio.run(left_by_the_last(folder, cut_off))

    @property
    def points(self) -> list[str]:
        """Where its last life could have died."""
        return list(json.loads((self.folder / "points").read_text()))

    @property
    def deeds(self) -> list[str]:
        return [action for _, action in deeds_of(self.folder)]

    def __str__(self) -> str:
        said = (self.folder / "said").read_text()[-2000:]
        return f"killed {', '.join(self.deaths)}:\n  " + "\n  ".join(dict.fromkeys(self.wrong)) + f"\n{said}"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    made = Hosts(tmp_path_factory.mktemp("stories"))
    try:
        yield made
    finally:
        made.close()


def deeds_of(folder: Path) -> list[tuple[str, str]]:
    world = folder / "world"
    if not world.exists():
        return []
    return [(id, action) for id, action in (line.split() for line in world.read_text().splitlines())]


# -- what must hold --------------------------------------------------------------------------------------------------


async def left_by_a_death(folder: Path) -> tuple[list[str], list[str]]:
    """What is wrong with the store and the world in that moment already; and the steps in whose middle it came."""
    async with store(folder) as (database, knowledge):
        unfinished = [left.step.id for left in await knowledge.unfinished()]
        return await _always(folder, database, knowledge), unfinished


async def left_by_the_last(folder: Path, cut_off: Collection[str]) -> list[str]:
    async with store(folder) as (database, knowledge):
        always = await _always(folder, database, knowledge)
        return always + await _at_the_end(folder, database, knowledge, cut_off)


@asynccontextmanager
async def store(folder: Path) -> AsyncIterator[tuple[SqliteDatabase, SqliteKnowledge]]:
    database = await SqliteDatabase.open(folder / "db", migrations(), check=False)
    try:
        yield database, SqliteKnowledge("sqlite", Config(), database, FakeClock())
    finally:
        await database.close()


async def _always(folder: Path, database: SqliteDatabase, knowledge: SqliteKnowledge) -> list[str]:
    wrong: list[str] = []
    deeds = deeds_of(folder)
    intents: dict[str, str] = dict(await database.read("SELECT id, action FROM steps"))
    wrong += [f"{action} was done without an intent ({id})" for id, action in deeds if intents.get(id) != action]
    wrong += [f"{action} was done {n} times as one step" for (_, action), n in Counter(deeds).items() if n > 1]
    for incident in await knowledge.incidents():
        moves = await knowledge.moves(incident.id)
        if [move.number for move in moves] != list(range(1, len(moves) + 1)):
            wrong.append("moves are missing")
        if incident.place.get("number", 0) != len(moves):
            wrong.append(f"its place is behind move {incident.place.get('number', 0)}, the journal at {len(moves)}")
        wrong += replayed(moves, PLANNER.book, incident)
    taken = Counter(m for (m,) in await database.read("SELECT message FROM moves WHERE message <> ''"))
    waiting = [message.id for message in await knowledge.inbox()]
    over = {i.id for i in await knowledge.incidents() if i.state == "closed"}
    sent = [row.data for row in await knowledge.audit_trail(limit=10_000) if row.what == "runbook.event"]
    for told in sent:
        times = taken[told["message"]] + waiting.count(told["message"])
        if times != 1 and not (times == 0 and told["incident"] in over):
            wrong.append(f"{told['event']} was taken, or waits to be, {times} times")
    wrong += await _done_again(database)
    await knowledge.verify_audit()
    return wrong


async def _done_again(database: SqliteDatabase) -> list[str]:
    """One activity of the runbook is one step; what takes back is one step for each thing that it takes back.

    What only looks is done again when nobody knows how it ended.
    """
    tried: Counter[tuple[str, str]] = Counter()
    for body, step, rung, outcome in await database.read(
        "SELECT plans.body, steps.step, steps.rung, steps.outcome FROM steps JOIN plans ON plans.id = steps.plan"
    ):
        activity, undoes = json.loads(body).get("activity"), json.loads(step).get("undoes")
        looks_again = json.loads(step)["on_unknown"] == "retry" and json.loads(outcome or "{}").get("unknown")
        if activity and not looks_again:
            tried[rung, undoes if rung in TAKING_BACK else activity] += 1
    return [f"{rung} was tried {times} times for one activity" for (rung, _), times in tried.items() if times > 1]


async def _at_the_end(
    folder: Path, database: SqliteDatabase, knowledge: SqliteKnowledge, cut_off: Collection[str]
) -> list[str]:
    """``cut_off``: the steps in whose middle a life was ended."""
    wrong: list[str] = []
    deeds = deeds_of(folder)
    done = [action for _, action in deeds]
    incidents = await knowledge.incidents()
    if [incident.state for incident in incidents] != ["closed"] or CURE not in done:
        wrong.append(f"the incident is {', '.join(incident.state for incident in incidents)}")
    if await knowledge.unfinished():
        wrong.append("a step has no outcome")
    if await knowledge.inbox():
        wrong.append("a message was left")
    steps = await database.read("SELECT id, action, intent_at, outcome, plan FROM steps ORDER BY intent_at, rowid")
    outcomes = {id: json.loads(outcome or "{}") for id, _, _, outcome, _ in steps}
    told_at = [at for id, action, at, _, _ in steps if action == "notify.human" and (id, action) in deeds]
    for id, action, at, _, _ in steps:
        if id not in cut_off or action not in CANNOT_BE_SEEN:
            continue
        if not outcomes[id].get("unknown"):
            wrong.append(f"{action} ({id}) may have been done or not, and is said to be {outcomes[id].get('result')}")
        # The outcome says so in any case. A symptom that is gone takes the question, and so the message, with it.
        if incidents[0].ended != "recovered" and not any(told > at for told in told_at):
            wrong.append(f"{action} ({id}) may have been done or not, and nobody was told")
    approved = {plan for (plan,) in await database.read("SELECT plan FROM approvals WHERE state = 'approved'")}
    asking = [(id, plan) for id, action, _, _, plan in steps if action == "link.reroute"]
    for (before, _), (_, plan) in pairwise(asking):
        if before in cut_off and plan not in approved:
            wrong.append("link.reroute was done again, and nobody had said that it may be")
    taken_back = {json.loads(step)["undoes"] for (step,) in await database.read(
        "SELECT step FROM steps WHERE action = 'link.reroute_undo' AND outcome IS NOT NULL"
    )}  # fmt: skip
    wrong += [f"{id} was never taken back" for id, action in deeds if action == "link.reroute" and id not in taken_back]
    if "notify.human" not in done:
        wrong.append("no human was ever told")
    escalated = await database.read("SELECT count(*) FROM moves WHERE effects LIKE '%tells incident.escalate%'")
    if not escalated[0][0]:
        wrong.append("it was never escalated")
    if not (folder / "bus").exists():
        wrong.append("nobody who listens heard of the escalation")
    return wrong


# -- the tests -------------------------------------------------------------------------------------------------------


def said(stories: Sequence[Story]) -> str:
    return "\n".join(str(story) for story in stories if story.wrong)


def everywhere(hosts: Hosts, hold_at: str = HOLDS[0]) -> list[str]:
    """Every point at which an undisturbed life may be ended."""
    whole = hosts.story(hold_at=hold_at)

    assert not whole.wrong, said([whole])
    return whole.points


@pytest.mark.slow
def test_killed_at_one_of_five_points_a_runbook_loses_nothing_and_repeats_nothing(hosts: Hosts) -> None:
    points = everywhere(hosts)

    stories = hosts.stories([[at] for at in points[::5]])

    assert not any(story.wrong for story in stories), said(stories)
    assert sum(bool(story.deaths) for story in stories) >= REACHED * len(points[::5])


FOUND_OUT = {
    # Where a death shows it, the first of them that does. Real threads write: what stands on disk at one point beside
    # the intent is not the same in every run.
    "acts before the intent": ("after the deed link.reroute #1", "was done without an intent"),
    "repeats blindly": ("after the deed link.restart #1", "was done 2 times as one step"),
    "takes the unknown for done": ("after the deed link.reroute #1", "is said to be unverified"),
    "asks nobody": ("after the deed link.reroute #1", "nobody had said that it may be"),
    "empties the inbox in a transaction of its own": ("before drop_message #1", "or waits to be, 2 times"),
    "writes outcome and moves in two transactions": ("after record_outcome #3", "was tried 2 times"),
    "writes moves without the incident": (
        "before the deed link.reroute #1, after record_intent #7, before the deed link.reroute #2",
        "its place is behind move",
    ),
}


@pytest.mark.parametrize("broken", SABOTAGES)
def test_a_daemon_that_is_broken_on_purpose_is_found_out(hosts: Hosts, broken: str) -> None:
    places, words = FOUND_OUT[broken]
    for at in places.split(", "):
        whole, found = hosts.stories([[at]] * 2, broken=["", broken])

        assert not whole.wrong, said([whole])
        assert found.deaths == [at], str(found)
        if any(words in wrong for wrong in found.wrong):
            return
    raise AssertionError(f"nobody found it out: {found}")


@pytest.mark.slow
def test_killed_at_every_point_a_runbook_loses_nothing_and_repeats_nothing(hosts: Hosts) -> None:
    points = everywhere(hosts)

    stories = hosts.stories([[at] for at in points])

    assert not any(story.wrong for story in stories), said(stories)
    assert sum(bool(story.deaths) for story in stories) >= REACHED * len(points)


@pytest.mark.slow
@pytest.mark.parametrize("hold_at", HOLDS[1:])
def test_wherever_a_person_holds_it_nothing_is_lost_or_repeated(hosts: Hosts, hold_at: str) -> None:
    points = everywhere(hosts, hold_at)[::4]

    stories = hosts.stories([[at] for at in points], repeat(hold_at))

    assert not any(story.wrong for story in stories), said(stories)
    assert sum(bool(story.deaths) for story in stories) >= REACHED * len(points)


@pytest.mark.slow
def test_killed_three_times_anywhere_a_runbook_loses_nothing_and_repeats_nothing(hosts: Hosts) -> None:
    points, chance = everywhere(hosts), random.Random(7)

    stories = hosts.stories([chance.sample(points, 3) for _ in range(40)], chance.choices(HOLDS, k=40))

    assert not any(story.wrong for story in stories), said(stories)
    assert any(len(story.deaths) == 3 for story in stories)


# -- stores of an earlier version --------------------------------------------------------------------------------------

ONSET = EPOCH - 60.0
OLD_INCIDENT = {
    "id": "inc-0197741f0f40a1b2c3", "subject": "link", "fault": "link-loss", "state": "responding",
    "severity": "major", "summary": "the link loses packets", "opened_at": ONSET, "updated_at": ONSET + 2.0,
    "closed_at": None, "ended": "", "reopened": 0, "rung": "restart", "tries": 1, "passes": 0,
    "because": ["link_up is 0 (seen by eye)"],
    "healthy_when": [{"metric": "link_up", "op": ">=", "value": 1.0, "subject": ""}], "data": {}, "onset_at": ONSET,
}  # fmt: skip
"""As the version before runbooks wrote it: no place, and a rung that no chart knows."""
OLD_STEP = {
    "id": "plan-40a1b2c3-0badcafe.1", "action": "link.restart", "target": "link", "args": {}, "timeout": 30.0,
    "expect": {"within": 3.0, "hold": 1.0}, "undo": "", "on_unknown": "probe",
}  # fmt: skip
OLD_PLAN = {
    "id": "plan-40a1b2c3-0badcafe", "incident": OLD_INCIDENT["id"], "subject": "link", "fault": "link-loss",
    "rule": "link-loss", "rung": "restart", "steps": [OLD_STEP], "because": ["the link loses packets"], "mode": "auto",
}  # fmt: skip


async def leave_an_old_store(folder: Path, *, in_the_middle: bool) -> None:
    database = await SqliteDatabase.open(folder / "db", migrations()[:1])

    def write(tx: Transaction) -> None:
        tx.execute("INSERT INTO epochs (epoch, at) VALUES (1, ?)", (ONSET,))
        tx.execute(
            "INSERT INTO incidents (id, subject, fault, state, opened_at, updated_at, closed_at, body)"
            " VALUES (?, 'link', 'link-loss', 'responding', ?, ?, NULL, ?)",
            (OLD_INCIDENT["id"], ONSET, ONSET + 2.0, json.dumps(OLD_INCIDENT)),
        )
        if in_the_middle:
            tx.execute(
                "INSERT INTO plans (id, incident, subject, at, body) VALUES (?, ?, 'link', ?, ?)",
                (OLD_PLAN["id"], OLD_INCIDENT["id"], ONSET + 2.0, json.dumps(OLD_PLAN)),
            )
            tx.execute(
                "INSERT INTO steps (id, plan, incident, subject, action, target, target_group, disruptive, rung, rule,"
                " intent_at, epoch, step) VALUES (?, ?, ?, 'link', 'link.restart', 'link', '', 1, 'restart',"
                " 'link-loss', ?, 1, ?)",
                (OLD_STEP["id"], OLD_PLAN["id"], OLD_INCIDENT["id"], ONSET + 2.0, json.dumps(OLD_STEP)),
            )

    await database.write(write)
    await database.close()
    if in_the_middle:
        (folder / "world").write_text(f"{OLD_STEP['id']} link.restart\n")


@pytest.mark.parametrize("in_the_middle", [True, False], ids=["in the middle of a step", "between two steps"])
def test_what_the_version_before_runbooks_left_open_is_migrated_and_healed(hosts: Hosts, in_the_middle: bool) -> None:
    folder = hosts.folder()
    asyncio.run(leave_an_old_store(folder, in_the_middle=in_the_middle))

    story = Story(hosts, folder)

    assert not story.wrong, str(story)
    assert asyncio.run(read(folder, "SELECT id, state FROM incidents")) == [(OLD_INCIDENT["id"], "closed")]
    looked_up = asyncio.run(read(folder, "SELECT id, result FROM steps WHERE epoch = 1"))
    assert looked_up == ([(OLD_STEP["id"], "refuted")] if in_the_middle else [])


async def read(folder: Path, sql: str) -> list[Row]:
    async with store(folder) as (database, _):
        return await database.read(sql)
