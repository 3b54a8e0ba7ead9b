"""The log monitor, on scripted files and journal in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Occurrence
from x0tta6bl4.monitors.log import PLUGIN, Config, LogMonitor, _LastMinute
from x0tta6bl4.testing.fakes import FakeFiles, tools
from x0tta6bl4.testing.virtual_time import LoopClock, run

PATH = "/var/log/api.log"
Scene = Callable[[LogMonitor, FakeFiles, list[Occurrence]], Awaitable[None]]


def play(scene: Scene, files: FakeFiles | None = None, **settings: Any) -> None:
    async def stage() -> None:
        here = files or FakeFiles()
        values = {"subject": "api", "patterns": {"error": "ERROR"}, **(settings or {"path": PATH})}
        watched = PLUGIN.build("l", Config(**values), tools(clock=LoopClock(), files=here))
        assert isinstance(watched, LogMonitor)
        told: list[Occurrence] = []
        task = asyncio.create_task(watched.watch(told.append))
        await asyncio.sleep(0.5)
        try:
            await scene(watched, here, told)
        finally:
            task.cancel()
            await asyncio.wait([task])

    run(stage())


async def numbers(watched: LogMonitor) -> dict[str, float]:
    return {o.metric: o.value for o in await watched.observe()}


def test_lines_are_counted_over_the_last_minute() -> None:
    async def scene(watched: LogMonitor, files: FakeFiles, told: list[Occurrence]) -> None:
        for line in ("all is well", "ERROR one", "ERROR two"):
            files.write_line(PATH, line)
        await asyncio.sleep(1)
        expected = {"log_lines_per_minute": 3, "log_error_per_minute": 2, "log_skipped_total": 0}
        assert await numbers(watched) == expected
        await asyncio.sleep(50)
        assert await numbers(watched) == expected
        await asyncio.sleep(10)
        assert await numbers(watched) == dict.fromkeys(expected, 0)

    play(scene)


def test_a_matching_line_is_told_at_once_and_its_like_once_a_second() -> None:
    async def scene(watched: LogMonitor, files: FakeFiles, told: list[Occurrence]) -> None:
        for number in range(5):
            files.write_line(PATH, f"ERROR {number}\n")
        await asyncio.sleep(0)
        await asyncio.sleep(1.0)
        files.write_line(PATH, "fine")
        files.write_line(PATH, "ERROR again")
        await asyncio.sleep(1.0)

        assert [(o.kind, o.subject, o.detail) for o in told] == [
            ("log error", "api", "ERROR 0"),
            ("log error", "api", "ERROR again (and 4 like it before)"),
        ]
        assert [o.value for o in told[1].observations] == [6]

    play(scene)


def test_a_units_journal_can_be_read_instead() -> None:
    async def scene(watched: LogMonitor, files: FakeFiles, told: list[Occurrence]) -> None:
        files.write_message("db.service", "ERROR not ours")
        files.write_message("api.service", "ERROR ours")
        await asyncio.sleep(1)
        assert [o.detail for o in told] == ["ERROR ours"]

    play(scene, unit="api.service")


def test_in_a_flood_lines_are_counted_but_not_matched() -> None:
    async def scene(watched: LogMonitor, files: FakeFiles, told: list[Occurrence]) -> None:
        for _ in range(5000):
            files.write_line(PATH, "ERROR of many")
        await asyncio.sleep(0.1)
        seen = await numbers(watched)
        assert seen == {"log_lines_per_minute": 5000, "log_error_per_minute": 2000, "log_skipped_total": 3000}
        assert len(told) == 1
        await asyncio.sleep(1)
        files.write_line(PATH, "ERROR after it")
        await asyncio.sleep(0.1)
        assert (await numbers(watched))["log_error_per_minute"] == 2001, "the next second is matched again"

    play(scene)


def test_a_flood_leaves_others_their_turn() -> None:
    async def scene(watched: LogMonitor, files: FakeFiles, told: list[Occurrence]) -> None:
        turns = 0
        for _ in range(5000):
            files.write_line(PATH, "x")
        while (await numbers(watched))["log_lines_per_minute"] < 5000:
            turns += 1
            await asyncio.sleep(0)
        assert turns > 10

    play(scene)


def test_a_log_that_cannot_be_followed_is_blindness() -> None:
    files = FakeFiles()
    files.has_journal = False

    async def scene(watched: LogMonitor, files: FakeFiles, told: list[Occurrence]) -> None:
        with pytest.raises(ProbeFailed, match=r"api\.service"):
            await watched.observe()

    play(scene, files, unit="api.service")


def test_reading_goes_on_after_trouble_when_it_is_started_again() -> None:
    async def scene() -> None:
        files = FakeFiles()
        config = Config(subject="api", path=PATH, patterns={"error": "ERROR"})
        watched = PLUGIN.build("l", config, tools(clock=LoopClock(), files=files))
        assert isinstance(watched, LogMonitor)
        task = asyncio.create_task(watched.watch(lambda _: None))
        await asyncio.sleep(1)
        files.write_line(PATH, "ERROR")
        files.fail_followers(PATH, OSError(5, "Input/output error"))
        await asyncio.wait([task])
        assert isinstance(task.exception(), OSError)
        with pytest.raises(ProbeFailed, match="Input/output"):
            await watched.observe()

        again = asyncio.create_task(watched.watch(lambda _: None))
        await asyncio.sleep(1)
        assert (await numbers(watched))["log_error_per_minute"] == 1
        again.cancel()
        await asyncio.wait([again])

    run(scene())


@pytest.mark.parametrize(
    "settings",
    [{}, {"path": PATH, "unit": "a.service"}, {"path": PATH, "patterns": {"bad": "("}},
     {"path": PATH, "patterns": {"Not A Name": "x"}}, {"path": PATH, "patterns": {"lines": "x"}},
     {"path": PATH, "patterns": {"is_up": "x"}}],
)  # fmt: skip
def test_a_configuration_that_cannot_be_read_along_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config(subject="api", **settings)


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 3)), max_size=40))
def test_the_last_minute_holds_exactly_what_came_in_it(steps: list[tuple[int, int]]) -> None:
    counted, events, now = _LastMinute(), [], 1000
    for pause, lines in steps:
        now += pause
        counted.advance(now)
        for _ in range(lines):
            counted.add()
            events.append(now)

    assert counted.total == sum(now - 60 < at for at in events)
