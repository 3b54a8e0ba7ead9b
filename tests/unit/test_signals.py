"""The signals round an incident: what the numbers did before, during and after, also when the daemon was restarted."""

import asyncio
import json
import logging
import math
from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any

import pytest
from pydantic import TypeAdapter

from x0tta6bl4.kernel.facts import Condition, Finding, Incident, IncidentState, Observation, Severity
from x0tta6bl4.kernel.incidents import Incidents
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.kernel.memory import Entry, Signal
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.signals import (
    BEFORE,
    EVERY,
    MOST_SERIES,
    PATIENCE,
    SOON,
    TOGETHER,
    Keeping,
)
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.traces import BEHIND
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.status.signals import MOST_MARKS, Series, Signals, marks, signals, unit_of
from x0tta6bl4.testing.memory_database import MemoryDatabase
from x0tta6bl4.testing.virtual_time import EPOCH, START, LoopClock, run
from x0tta6bl4.testing.world import World

WORK = "http://127.0.0.1:1/work"


def web(**more: Any) -> dict[str, Any]:
    return {"process": ["/bin/web"], "work": WORK, "mode": "auto", **more}


async def only(world: World) -> Incident:
    (incident,) = await world.incidents()
    return incident


async def told(loop: MAPEK, id: str) -> Signals:
    found = await signals(loop, id)
    assert found is not None
    assert json.loads(json.dumps(TypeAdapter(Signals).validate_python(found))) == json.loads(json.dumps(found))
    return found


def of(found: Signals, metric: str) -> Series:
    (series,) = [one for one in found["series"] if one["metric"] == metric]
    return series


def between(series: Series, since: float, until: float) -> list[float]:
    return [value for at, value in series["points"] if since <= at <= until and value is not None]


def gaps(series: Series) -> list[tuple[float, float]]:
    """From the last that was seen before each until the first after it; infinite where there is none."""
    line = [(-math.inf, None), *series["points"], (math.inf, None)]
    return [(line[n - 1][0], line[n + 1][0]) for n in range(1, len(line) - 1) if line[n][1] is None]


# A whole incident


def test_the_signals_of_a_heal_tell_what_was_before_during_and_after_it() -> None:
    async def story() -> None:
        world = World({"web": web()})
        slower = count()
        world.network.broken[WORK] = lambda: (200, 0.01 + next(slower) % 5 / 1000)
        async with world.running() as loop:
            await asyncio.sleep(400)
            world.kill("web")
            await asyncio.sleep(30)
            incident = await only(world)
            found = await told(loop, incident.id)
            onset, closed = incident.onset_at, incident.closed_at
            up = of(found, "process_up")

            assert closed is not None
            assert set(between(up, onset - BEFORE, onset - 0.01)) == {1.0}
            assert 0.0 in between(up, onset - 0.01, onset + 1)
            assert set(between(up, closed, closed + 60)) == {1.0}
            assert up["points"][-1][0] > closed + 20
            assert (up["unit"], up["band"]) == ("yes/no", None)
            assert up["limits"] == [{"op": ">=", "value": 1.0}]
            assert len(set(between(of(found, "work_seconds"), onset - 60, onset))) >= 5
            assert of(found, "work_seconds")["unit"] == "seconds"
            kinds = [mark["kind"] for mark in found["marks"]]
            assert kinds == ["onset", "found", "begun", "verified", "ended", "closed"]
            assert "process.restart on web: verified" in found["marks"][4]["text"]
            assert found["from"] < found["marks"][0]["at"] < found["to"]
            assert len(found["series"]) <= MOST_SERIES
            assert {one["metric"] for one in found["series"]}.isdisjoint(found["left_out"])

    run(story())


def test_after_a_restart_of_the_daemon_the_signals_of_a_closed_incident_are_there() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running():
            await asyncio.sleep(100)
            world.kill("web")
            await asyncio.sleep(30)
        async with world.running(started=False) as loop:
            incident = await only(world)
            found = await told(loop, incident.id)
            up = of(found, "process_up")

            assert incident.state is IncidentState.CLOSED
            assert 0.0 in between(up, incident.onset_at - 0.01, incident.onset_at + 1)
            assert up["points"][0][0] < incident.onset_at - 90
            assert "closed" in [mark["kind"] for mark in found["marks"]]

    run(story())


def test_what_was_kept_within_a_quarter_of_a_minute_outlives_a_death_without_a_word() -> None:
    async def story() -> None:
        world = World({"web": web(mode="suggest")})
        loop = world.build()
        for program in world.blueprint.programs:
            await world.processes.start(program)
        task = asyncio.create_task(loop.start())
        await asyncio.sleep(100)
        world.kill("web")
        await asyncio.sleep(SOON + 2)
        incident = await only(world)
        assert await world.knowledge.signals(incident.id)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        world.crash()
        async with world.running(started=False) as loop:
            await asyncio.sleep(EVERY)
            up = of(await told(loop, incident.id), "process_up")

            assert set(between(up, EPOCH, incident.onset_at - 0.01)) == {1.0}
            assert set(between(up, incident.onset_at, incident.onset_at + 1000)) == {0.0}
            assert up["points"][-1][0] > incident.onset_at + SOON + EVERY
            assert [at for at, _ in up["points"]] == sorted({at for at, _ in up["points"]})

    run(story())


def test_an_incident_that_stays_open_is_told_from_before_its_onset_until_now_in_bounded_room() -> None:
    async def story() -> None:
        world = World({"web": web(mode="suggest")})
        jumps = count()
        world.network.broken[WORK] = lambda: (503, 0.01 + next(jumps) % 97 / 1000)
        async with world.running() as loop:
            await asyncio.sleep(2400)
            incident = await only(world)
            found = await told(loop, incident.id)
            seconds = of(found, "work_seconds")
            kept = await world.knowledge.signals(incident.id)

            assert loop.parts.clock.wall() - EVERY < max(s.points[-1][0] for s in kept)
            assert all(len(one["points"]) <= 600 for one in found["series"])
            assert seconds["points"][0][0] < incident.onset_at + 5
            assert seconds["points"][-1][0] > loop.parts.clock.wall() - 2
            near = between(seconds, incident.onset_at, incident.onset_at + 60)
            assert len(near) > 60  # the beginning is not lost in the hours after it

    run(story())


def test_while_a_process_is_dead_its_memory_is_not_drawn_and_what_answers_no_is() -> None:
    async def story() -> None:
        world = World({"web": web(mode="suggest")})
        async with world.running() as loop:
            await asyncio.sleep(100)
            world.kill("web")
            died = loop.parts.clock.wall()
            await asyncio.sleep(20)
            now = loop.parts.clock.wall()
            while_dead = await told(loop, (await only(world)).id)
            assert died - 2 < of(while_dead, "process_rss_bytes")["points"][-1][0] < died + 1
            assert of(while_dead, "process_up")["points"][-1][0] > now - 2

            for program in world.blueprint.programs:
                await world.processes.start(program)
            again = loop.parts.clock.wall()
            await asyncio.sleep(EVERY + 20)
            incident = await only(world)
            kept = await world.knowledge.signals(incident.id)
            assert any(math.isnan(value) for one in kept for _, value in one.points)
            await asyncio.sleep(200)  # long enough for all of it to be kept, and what is in memory to be thinned
            found = await told(loop, incident.id)
            assert incident.state is IncidentState.CLOSED

            (gap,) = gaps(of(found, "process_rss_bytes"))
            assert died - 2 < gap[0] < died + 1
            assert again - 0.1 < gap[1] < again + 2
            assert gaps(of(found, "process_up")) == []
            assert set(between(of(found, "process_up"), died + 2, again - 1)) == {0.0}

    run(story())


def test_the_time_in_which_the_daemon_was_down_is_a_gap() -> None:
    async def story() -> None:
        world = World({"web": web(mode="suggest")})
        async with world.running():
            await asyncio.sleep(100)
            world.kill("web")
            await asyncio.sleep(30)
        await asyncio.sleep(20)
        async with world.running(started=False) as loop:
            await asyncio.sleep(5)
            kept_by_both = []
            for _ in range(2):
                up = of(await told(loop, (await only(world)).id), "process_up")
                kept_by_both.append([after - before for before, after in gaps(up)])
                await asyncio.sleep(EVERY + 10)

            assert kept_by_both == [[pytest.approx(20, abs=1.5)]] * 2

    run(story())


def test_a_gap_between_what_is_kept_and_what_was_seen_since_is_told_and_kept_as_null() -> None:
    async def story() -> None:
        clock, sight = LoopClock(), Sight()
        store, one = _Store(clock), _incident(1)
        await store.save_incident(one)
        keeping = Keeping(sight, Incidents(clock), store, clock, lambda: False)
        keeping.opened(one)
        for _ in range(3):
            for tick in range(40):
                sight.record([Observation("m", one.subject, "process_rss_bytes", float(tick))], clock.monotonic())
                await asyncio.sleep(0.5)
            await keeping.keep_all()  # nothing is seen now
            await asyncio.sleep(15)
        (kept,) = await store.signals(one.id)
        (so_far,) = keeping.so_far(one.id, [kept])
        ((body,),) = await store._database.read("SELECT body FROM signals")

        for signal in (kept, so_far):
            gap = [at - EPOCH for at, value in signal.points if math.isnan(value)]
            assert gap == pytest.approx([19.5 + BEHIND, 54.5 + BEHIND])
            assert [value for _, value in signal.points if not math.isnan(value)] == [n * 1.0 for n in range(40)] * 3
        assert json.loads(body)[2].count(None) == 2
        assert "NaN" not in body

    run(story())


def test_a_gap_stands_between_two_numbers_and_only_once() -> None:
    async def story() -> None:
        clock, sight = LoopClock(), Sight()
        store, one = _Store(clock), _incident(1)
        await store.save_incident(one)
        keeping = Keeping(sight, Incidents(clock), store, clock, lambda: False)
        keeping.opened(one)
        for value in (math.nan, 1.0, math.nan, math.nan, 2.0):
            sight.record([Observation("m", one.subject, "load1", value)], clock.monotonic())
            await asyncio.sleep(0.5)
            await keeping.keep_all()
        (kept,) = await store.signals(one.id)

        assert [(at - EPOCH, str(value)) for at, value in kept.points] == [(0.5, "1.0"), (1.0, "nan"), (2.0, "2.0")]

    run(story())


def test_an_hour_of_crashes_is_told_in_bounded_room_with_no_line_over_any() -> None:
    async def story() -> None:
        clock, sight = LoopClock(), Sight()
        store, one = _Store(clock), _incident(1)
        await store.save_incident(one)
        keeping = Keeping(sight, Incidents(clock), store, clock, lambda: False)
        keeping.opened(one)
        task = asyncio.create_task(keeping.run())
        for _ in range(240):
            for tick in range(10):
                seen = Observation("m", one.subject, "process_rss_bytes", tick * 7 % 5 * 1.0)
                sight.record([seen], clock.monotonic())
                await asyncio.sleep(0.5)
            await asyncio.sleep(10)
        (told_of,) = keeping.so_far(one.id, await store.signals(one.id))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        assert len(told_of.points) <= 600
        for (before, a), (after, b) in pairwise(told_of.points):
            assert after - before < 6 or math.isnan(a) or math.isnan(b)

    run(story())


def test_a_clock_that_is_set_back_in_the_middle_breaks_nothing() -> None:
    async def story() -> None:
        world = World({"web": web(mode="suggest")})
        async with world.running() as loop:
            await asyncio.sleep(100)
            world.kill("web")
            await asyncio.sleep(SOON + 5)
            before = world.clock.wall()
            world.clock.set_wall(before - 3600)
            await asyncio.sleep(2 * EVERY)
            incident = await only(world)
            found = await told(loop, incident.id)
            up = of(found, "process_up")

            assert [at for at, _ in up["points"]] == sorted(at for at, _ in up["points"])
            assert between(up, before - 60, before)  # as they were kept
            assert between(up, before - 3600 + EVERY, before - 3000)  # by the clock as it is now
            assert found["from"] < found["to"]
            await world.processes.start(world.blueprint.programs[0])
            await asyncio.sleep(60)
            assert (await only(world)).state is IncidentState.CLOSED
            assert of(await told(loop, incident.id), "process_up")["points"][-1][1] in (0.0, 1.0)

    run(story())


# In nobody's way


def test_while_something_is_healed_nothing_is_kept_and_afterwards_it_is_all_there() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running() as loop:
            await asyncio.sleep(60)
            world.network.broken[WORK] = lambda: (500, 0.001)
            knowledge, while_healing, treated = world.knowledge, list[bool](), 0
            keep = knowledge.keep_signals

            async def watched(incident: str, signals: Sequence[Signal]) -> None:
                while_healing.append(bool(loop.standing.in_treatment))
                await keep(incident, signals)

            knowledge.keep_signals = watched  # type: ignore[method-assign]  # only to see when it is called
            for _ in range(200):
                treated += bool(loop.standing.in_treatment)
                await asyncio.sleep(0.5)
            del world.network.broken[WORK]
            await asyncio.sleep(EVERY)
            kept = await knowledge.signals((await only(world)).id)

            assert treated * 0.5 > SOON
            assert set(while_healing) == {False}
            assert min(at for s in kept for at, _ in s.points) < (await only(world)).onset_at

    run(story())


def test_a_store_that_cannot_keep_them_disturbs_nobody_and_gets_them_later(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        world = World({"web": web(mode="suggest")})
        async with world.running() as loop:
            await asyncio.sleep(50)
            world.kill("web")
            await asyncio.sleep(5)
            incident = await only(world)
            world.database.broken = "the disk is full"
            await loop.keeping.keep_all()
            assert loop.standing.store_trouble == ""
            world.database.broken = ""
            await asyncio.sleep(SOON + EVERY + 5)

            assert await world.knowledge.signals(incident.id)
            assert loop.keeping.so_far(incident.id, [])

    with caplog.at_level(logging.WARNING):
        run(story())
    assert [record for record in caplog.records if record.name == "x0tta6bl4.kernel.signals"] == []


class _Store(SqliteKnowledge):
    """Counts whose signals were kept, in order."""

    def __init__(self, clock: LoopClock) -> None:
        super().__init__("store", Config(), MemoryDatabase(migrations()), clock)
        self.kept: list[str] = []

    async def keep_signals(self, incident: str, signals: Sequence[Signal]) -> None:
        self.kept.append(incident)
        await super().keep_signals(incident, signals)


def _incident(number: int, **more: Any) -> Incident:
    return Incident(
        f"inc{number}",
        f"web{number}",
        "dead",
        IncidentState.OPEN,
        Severity.CRITICAL,
        "x",
        EPOCH,
        EPOCH,
        onset_at=EPOCH,
        **more,
    )


def test_of_many_incidents_a_few_are_kept_at_a_time_and_those_that_ended_first() -> None:
    async def story() -> None:
        clock, sight, busy = LoopClock(), Sight(), [True]
        store = _Store(clock)
        keeping = Keeping(sight, Incidents(clock), store, clock, lambda: busy[0])
        many = [_incident(number) for number in range(30)]
        sight.record([Observation("m", one.subject, "process_up", 0.0) for one in many], clock.monotonic())
        for one in many:
            await store.save_incident(one)
            keeping.opened(one)
        task = asyncio.create_task(keeping.run())
        await asyncio.sleep(SOON + 5)
        assert store.kept == []  # something is being healed

        keeping.closed(many[17])
        busy[0] = False
        await asyncio.sleep(1.5)
        assert 1 <= len(store.kept) <= 2 * TOGETHER
        assert store.kept[0] == "inc17"
        await asyncio.sleep(10)
        assert set(store.kept) == {one.id for one in many}

        busy[0] = True
        done = len(store.kept)
        await asyncio.sleep(EVERY + PATIENCE - 20)
        assert len(store.kept) == done
        await asyncio.sleep(40)
        assert len(store.kept) > done  # the traces go back no further
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(story())


def test_after_a_reload_nothing_is_kept_twice_and_nothing_is_missed() -> None:
    async def story() -> None:
        clock, sight = LoopClock(), Sight()
        store, one = _Store(clock), _incident(1)
        await store.save_incident(one)
        for _ in range(3):  # each life of the loop has a memory of its own, over the same sight
            keeping = Keeping(sight, Incidents(clock), store, clock, lambda: False)
            keeping.opened(one)
            for tick in range(20):
                sight.record([Observation("m", one.subject, "work_seconds", tick % 5 / 10)], clock.monotonic())
                await asyncio.sleep(0.5)
            await keeping.keep_all()
        (kept,) = await store.signals(one.id)

        assert [at - EPOCH for at, _ in kept.points] == pytest.approx([n * 0.5 for n in range(60)])
        assert [value for _, value in kept.points] == [n % 5 / 10 for n in range(20)] * 3

    run(story())


def test_what_ends_while_it_is_being_kept_is_kept_once_more_at_once() -> None:
    async def story() -> None:
        clock, sight = LoopClock(), Sight()
        store, one = _Store(clock), _incident(1)
        await store.save_incident(one)
        keeping = Keeping(sight, Incidents(clock), store, clock, lambda: False)
        sight.record([Observation("m", one.subject, "work_up", 0.0)], clock.monotonic())
        read = store.signals

        async def slow(incident: str) -> list[Signal]:
            await asyncio.sleep(0.5)
            return await read(incident)

        store.signals = slow  # type: ignore[method-assign]  # so that something can happen meanwhile
        keeping.opened(one)
        task = asyncio.create_task(keeping.run())
        await asyncio.sleep(SOON + 0.2)
        sight.record([Observation("m", one.subject, "work_up", 1.0)], clock.monotonic())
        keeping.closed(one)
        await asyncio.sleep(3)
        (kept,) = await read(one.id)

        assert len(store.kept) == 2
        assert kept.points[-1][1] == 1.0
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(story())


def test_what_can_never_be_kept_is_let_go_of(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        clock, sight = LoopClock(), Sight()
        database = MemoryDatabase(migrations())
        keeping = Keeping(
            sight, Incidents(clock), SqliteKnowledge("s", Config(), database, clock), clock, lambda: False
        )
        sight.record([Observation("m", "web1", "work_up", 0.0)], clock.monotonic())
        database.broken = "the disk is full"
        task = asyncio.create_task(keeping.run())
        keeping.opened(_incident(1))
        await asyncio.sleep(100)
        keeping.closed(_incident(1))
        assert keeping.so_far("inc1", [])
        await asyncio.sleep(1000)
        assert keeping.so_far("inc1", []) == []
        loop: Any = asyncio.get_running_loop()
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with caplog.at_level(logging.DEBUG, logger="x0tta6bl4.kernel.signals"):
        run(story())
    mine = [record.levelname for record in caplog.records if record.name == "x0tta6bl4.kernel.signals"]
    assert mine == ["DEBUG"]  # once, however often it was tried


def test_without_incidents_nothing_wakes_up() -> None:
    async def story() -> None:
        clock = LoopClock()
        keeping = Keeping(Sight(), Incidents(clock), _Store(clock), clock, lambda: False)
        task = asyncio.create_task(keeping.run())
        await asyncio.sleep(0)
        loop: Any = asyncio.get_running_loop()
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]
        keeping.opened(_incident(1))
        keeping.closed(_incident(1))
        await asyncio.sleep(1000)
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(story())


# Which series


def test_what_it_is_judged_by_comes_first_then_what_answers_yes_or_no_then_what_moves() -> None:
    async def story() -> None:
        clock = LoopClock()
        sight = Sight({"web": Subject("web")})
        incidents = Incidents(clock)
        store = _Store(clock)
        keeping = Keeping(sight, incidents, store, clock, lambda: False)
        for at in range(10):
            still = [Observation("m", "web", f"still{n}", 1.0) for n in range(10)]
            moving = [Observation("m", "web", f"moving{n}", float(at)) for n in range(9)]
            ups = [Observation("m", "web", "work_up", 1.0), Observation("m", "disk", "disk_free_ratio", 0.1)]
            sight.record([*still, *moving, *ups], START + at)
        finding = Finding(
            "a",
            "web",
            "filling",
            "x",
            because=(Observation("m", "web", "still7", 1.0),),
            healthy_when=(Condition("disk_free_ratio", ">", 0.2, "disk"),),
        )
        (opened,) = incidents.take([finding], View(sight, clock.monotonic())).opened
        await store.save_incident(opened)
        keeping.opened(opened)
        await keeping.keep_all()
        kept = [(one.subject, one.metric) for one in await store.signals(opened.id)]

        assert kept[:3] == [("disk", "disk_free_ratio"), ("web", "still7"), ("web", "work_up")]
        assert kept[3:] == [("web", f"moving{n}") for n in range(9)]

    run(story())


def test_twenty_metrics_are_told_as_left_out_beyond_the_room() -> None:
    async def story() -> None:
        world = World({"web": web(mode="suggest")})
        async with world.running() as loop:
            seen = [Observation("m", "web", f"extra{n}_ratio", float(n)) for n in range(20)]
            loop.parts.sight.record(seen, loop.parts.clock.monotonic())
            world.kill("web")
            await asyncio.sleep(5)
            found = await told(loop, (await only(world)).id)

            assert len(found["series"]) == MOST_SERIES
            assert "extra19_ratio" in found["left_out"]
            assert of(found, "process_up")["points"]

    run(story())


def test_an_incident_that_comes_back_has_both_bouts() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running() as loop:
            await asyncio.sleep(100)
            world.kill("web")
            await asyncio.sleep(250)
            world.kill("web")
            await asyncio.sleep(200)
            incident = await only(world)
            found = await told(loop, incident.id)
            noes = {at for at, value in of(found, "process_up")["points"] if value == 0.0}

            assert incident.reopened == 1
            assert max(noes) - min(noes) > 240
            assert [mark["kind"] for mark in found["marks"]].count("onset") == 2

    run(story())


def test_there_are_none_of_an_incident_that_is_not_there() -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running() as loop:
            assert await signals(loop, "inc-nothing") is None

    run(story())


# Learnt bands


class Learnt:
    """An analyzer that knows what is usual, and one way of failing to say so."""

    def __init__(self, name: str, wrong: bool = False) -> None:
        self.name = name
        self.wrong = wrong
        self.asked: list[tuple[str, float, float]] = []

    def analyze(self, view: View) -> Sequence[Finding]:
        return []

    def band(self, subject: str, metric: str, since: float, until: float) -> Sequence[tuple[float, float, float]]:
        if self.wrong:
            raise LookupError("nothing was learnt yet")
        self.asked.append((metric, since, until))
        if metric != "work_seconds":
            return []
        return [(since, 0.001, 0.002), (until, 0.001, float("nan")), (until, 0.001, 0.003)]


def test_an_analyzer_that_has_learnt_a_band_is_asked_for_it() -> None:
    async def story() -> None:
        world = World({"web": web(mode="suggest")})
        slower = count()
        world.network.broken[WORK] = lambda: (200, 0.01 + next(slower) % 5 / 1000)
        async with world.running() as loop:
            learnt = Learnt("learnt")
            loop.parts.analyzers = [*loop.parts.analyzers, Learnt("wrong", wrong=True), learnt]
            await asyncio.sleep(50)
            world.kill("web")
            await asyncio.sleep(10)
            found = await told(loop, (await only(world)).id)
            seconds = of(found, "work_seconds")
            band = seconds["band"]
            since, until = next((since, until) for metric, since, until in learnt.asked if metric == "work_seconds")

            assert band is not None
            assert [(low, high) for _, low, high in band] == [(0.001, 0.002), (0.001, 0.003)]
            ends = [seconds["points"][0][0], seconds["points"][-1][0]]
            assert [at for at, _, _ in band] == pytest.approx(ends, abs=0.01)
            assert START <= since < until <= loop.parts.clock.monotonic()
            assert of(found, "process_up")["band"] is None

    run(story())


# Words


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("work_up", "yes/no"),
        ("work_seconds", "seconds"),
        ("process_cpu_seconds_total", "seconds"),
        ("process_rss_bytes", "bytes"),
        ("disk_free_ratio", "ratio"),
        ("nic_errors_per_second", "per second"),
        ("log_skipped_total", "count"),
        ("load1", ""),
    ],
)
def test_the_unit_is_in_the_name(metric: str, unit: str) -> None:
    assert unit_of(metric) == unit


def test_a_decision_that_stands_is_one_mark_and_so_are_the_findings_of_a_bout() -> None:
    def decided(at: float, answer: str, check: str = "mode") -> Entry:
        return Entry(at, "decided", f"{answer} by {check}", {"answer": answer, "check": check})

    story = [
        Entry(1.0, "opened", "dead", {}),
        Entry(1.5, "found", "web is dead", {}),
        Entry(1.6, "found", "web is very dead", {}),
        decided(2.0, "hold"),
        decided(3.0, "hold"),
        decided(4.0, "deny", "budget"),
        decided(5.0, "allow"),
        Entry(6.0, "approval", "wanted", {"state": "wanted"}),
        Entry(7.0, "approval", "approved by oncall", {"state": "approved"}),
        Entry(8.0, "moved", "now at wait", {}),
        Entry(9.0, "opened", "dead again", {}),
        Entry(9.5, "found", "web is dead", {}),
    ]
    kinds = [mark["kind"] for mark in marks(story)]

    assert kinds == ["onset", "found", "held", "denied", "asked", "answered", "onset", "found"]


def test_of_an_endless_story_the_first_and_the_latest_marks_are_told() -> None:
    story = [Entry(float(n), "intent", f"try {n}", {}) for n in range(1000)]
    texts = [mark["text"] for mark in marks(story)]

    assert len(texts) == MOST_MARKS
    assert (texts[0], texts[-1]) == ("try 0", "try 999")
