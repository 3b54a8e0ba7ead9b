"""The systemd monitor, on scripted units and processes in virtual time."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Occurrence
from x0tta6bl4.monitors.systemd import PLUGIN, Config, SystemdUnit
from x0tta6bl4.ports.units import Unit
from x0tta6bl4.testing.fake_processes import FakeProcesses
from x0tta6bl4.testing.fakes import FAILED, RUNNING, STOPPED, FakeUnits, tools
from x0tta6bl4.testing.virtual_time import LoopClock, run

UNIT = "api.service"


class CountingUnits(FakeUnits):
    def __init__(self) -> None:
        super().__init__()
        self.journal_reads = 0

    async def stopped_on_purpose(self, unit: Unit) -> bool | None:
        self.journal_reads += 1
        return await super().stopped_on_purpose(unit)


def monitor(units: FakeUnits, processes: FakeProcesses | None = None) -> SystemdUnit:
    given = tools(clock=LoopClock(), units=units, processes=processes or FakeProcesses())
    built = PLUGIN.build("s", Config(subject="api", unit=UNIT), given)
    assert isinstance(built, SystemdUnit)
    return built


def look(units: FakeUnits) -> dict[str, tuple[float, str]]:
    seen = run(monitor(units).observe())
    assert {(o.source, o.subject) for o in seen} == {("s", "api")}
    return {o.metric: (o.value, o.detail) for o in seen}


@pytest.mark.parametrize(
    ("state", "changes", "up", "detail"),
    [
        (RUNNING, {}, 1, "active (running)"),
        (RUNNING, {"active_state": "reloading", "sub_state": "reload"}, 1, "reloading (reload)"),
        (RUNNING, {"active_state": "activating", "sub_state": "start-pre"}, 1, "activating (start-pre)"),
        (RUNNING, {"active_state": "activating", "sub_state": "auto-restart", "result": "exit-code"}, 0,
         "activating (auto-restart), result exit-code"),
        (RUNNING, {"active_state": "deactivating", "sub_state": "stop-sigterm"}, 0, "deactivating (stop-sigterm)"),
        (STOPPED, {}, 0, "inactive (dead)"),
        (STOPPED, {"load_state": "masked"}, 0, "inactive (dead), masked"),
        (FAILED, {"result": "oom-kill"}, 0, "failed (failed), result oom-kill"),
    ],
)  # fmt: skip
def test_a_unit_is_up_or_down_in_systemds_own_words(state: Unit, changes: Any, up: float, detail: str) -> None:
    units = FakeUnits()
    units.add(UNIT, state, **changes)

    assert look(units)["unit_up"] == (up, detail)


def test_a_failed_unit_and_its_restarts_are_reported() -> None:
    units = FakeUnits()
    units.add(UNIT, FAILED, restarts=5, restart_policy="on-failure")

    seen = look(units)

    assert seen["unit_failed"][0] == 1
    assert seen["unit_restarts"] == (5, "Restart=on-failure")
    assert seen["unit_stopped_on_purpose"][0] == 0, "whoever fails was not stopped"


def test_a_job_under_way_is_reported_by_its_type() -> None:
    units = FakeUnits()
    units.add(UNIT, RUNNING, active_state="deactivating", sub_state="stop-sigterm", job="stop")

    assert look(units)["unit_job"] == (1, "stop")
    assert look(FakeUnitsWith(RUNNING))["unit_job"] == (0, "")


def FakeUnitsWith(state: Unit, **changes: Any) -> FakeUnits:
    units = FakeUnits()
    units.add(UNIT, state, **changes)
    return units


@pytest.mark.parametrize(
    ("changes", "is_at_it"),
    [
        ({"active_state": "activating", "sub_state": "auto-restart"}, 1),
        ({"active_state": "activating", "sub_state": "auto-restart-queued"}, 1),
        ({"job": "restart"}, 1),
        ({"job": "start"}, 0),
        ({}, 0),
    ],
)
def test_systemds_own_healing_is_reported(changes: Any, is_at_it: float) -> None:
    assert look(FakeUnitsWith(RUNNING, **changes))["unit_auto_restart"][0] == is_at_it


@pytest.mark.parametrize(
    ("wish", "on_purpose", "words"),
    [(True, 1, "somebody stopped"), (None, 1, "taken for a wish"), (False, 0, "ended by itself")],
)
def test_a_clean_stop_is_a_wish_unless_the_journal_says_that_nobody_had_it(
    wish: bool | None, on_purpose: float, words: str
) -> None:
    units = FakeUnitsWith(STOPPED)
    units.wishes[UNIT] = wish

    value, detail = look(units)["unit_stopped_on_purpose"]

    assert value == on_purpose
    assert words in detail


def test_a_masked_unit_is_not_wanted_to_run() -> None:
    assert look(FakeUnitsWith(STOPPED, load_state="masked"))["unit_stopped_on_purpose"][0] == 1


def test_the_journal_is_read_once_for_one_stop_but_a_no_only_when_it_had_time_to_be_written() -> None:
    async def scene() -> None:
        units = CountingUnits()
        watched = monitor(units)
        clock = LoopClock()
        units.add(UNIT, STOPPED, inactive_since=clock.wall())
        units.wishes[UNIT] = False
        await watched.observe()
        units.wishes[UNIT] = True
        seen = {o.metric: o.value for o in await watched.observe()}
        assert seen["unit_stopped_on_purpose"] == 1, "the first answer came before the journal's entry"
        for _ in range(5):
            await asyncio.sleep(10)
            await watched.observe()
        assert units.journal_reads == 2

        units.add(UNIT, STOPPED, inactive_since=clock.wall())
        await watched.observe()
        assert units.journal_reads == 3, "another stop is another question"

    run(scene())


def test_a_stop_of_which_systemd_forgot_the_time_is_not_taken_for_the_one_before() -> None:
    async def scene() -> None:
        units = CountingUnits()
        watched = monitor(units)
        units.add(UNIT, STOPPED, inactive_since=0.0)
        units.wishes[UNIT] = True
        await watched.observe()
        await watched.observe()
        assert units.journal_reads == 1

        units.add(UNIT, RUNNING)
        await watched.observe()
        await asyncio.sleep(1)
        units.add(UNIT, STOPPED, inactive_since=0.0)
        units.wishes[UNIT] = False
        seen = {o.metric: o.value for o in await watched.observe()}
        assert seen["unit_stopped_on_purpose"] == 0
        units.wishes[UNIT] = True
        seen = {o.metric: o.value for o in await watched.observe()}
        assert seen["unit_stopped_on_purpose"] == 1, "the first answer came before the journal's entry"

    run(scene())


def test_a_unit_that_systemd_does_not_know_is_blindness() -> None:
    with pytest.raises(ProbeFailed, match=UNIT):
        look(FakeUnits())


def test_the_end_of_the_main_process_is_told_at_once_and_again_when_systemd_has_made_up_its_mind() -> None:
    async def scene() -> None:
        units, processes = FakeUnits(), FakeProcesses()
        process = processes.add("api")
        units.add(UNIT, RUNNING, main_pid=process.pid)
        watched = monitor(units, processes)
        told: list[Occurrence] = []
        task = asyncio.create_task(watched.watch(told.append))
        await watched.observe()
        await asyncio.sleep(3)
        processes.die(process)
        died = asyncio.get_running_loop().time()
        await asyncio.sleep(0.1)
        units.add(UNIT, RUNNING, active_state="activating", sub_state="auto-restart", result="signal", main_pid=0)
        await asyncio.sleep(0.2)

        assert [o.kind for o in told] == ["main process ended"] * 2
        assert [o.at - died for o in told] == [pytest.approx(0.0), pytest.approx(0.2)]
        first, second = ({seen.metric: seen.value for seen in o.observations} for o in told)
        assert (first["unit_up"], second["unit_up"], second["unit_auto_restart"]) == (1, 0, 1)
        await asyncio.sleep(60)
        pauses = [later.at - earlier.at for earlier, later in pairwise(told)]
        assert pauses[:4] == [pytest.approx(pause) for pause in (0.2, 0.4, 0.8, 1.6)], "others wait for it"
        assert max(pauses) == pytest.approx(10)

        successor = processes.add("api")
        units.add(UNIT, RUNNING, main_pid=successor.pid, restarts=1)
        await asyncio.sleep(30)
        told.clear()
        units.broken = ProbeFailed("no bus")
        processes.die(successor)
        await asyncio.sleep(30)

        assert told and f"process {successor.pid} of" in told[0].detail, "the next main process was followed"
        assert told[0].observations == () and "no bus" in told[0].detail, "its end is true without systemd's word"
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])

    run(scene())


def test_a_main_process_that_ended_before_it_could_be_watched_is_told_once() -> None:
    async def scene() -> None:
        units, processes = FakeUnits(), FakeProcesses()
        units.add(UNIT, RUNNING, main_pid=4242)
        watched = monitor(units, processes)
        told: list[Occurrence] = []
        task = asyncio.create_task(watched.watch(told.append))
        await watched.observe()
        await asyncio.sleep(0.1)
        units.add(UNIT, FAILED, main_pid=0)
        await asyncio.sleep(300)

        assert [{s.metric: s.value for s in o.observations}["unit_failed"] for o in told] == [0, 1]
        task.cancel()
        await asyncio.wait([task])

    run(scene())
