"""How monitors are run: each at its pace, within its bounds, and its blindness told once."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Observation, Occurrence
from x0tta6bl4.kernel.sight import Sight
from x0tta6bl4.kernel.watching import RESTART_PAUSE, Instance, Watching
from x0tta6bl4.observability.metrics import Metrics
from x0tta6bl4.testing.virtual_time import LoopClock, run


class Looker:
    """Notes when it is asked and how many at once; takes so long and answers so."""

    subjects = ("web",)

    def __init__(self, name: str = "m", seconds: float = 0.0, answer: Callable[[], Any] = list) -> None:
        self.name = name
        self.seconds = seconds
        self.answer = answer
        self.begun: list[float] = []
        self.at_once = self.most = 0

    async def observe(self) -> Sequence[Observation]:
        self.begun.append(asyncio.get_running_loop().time())
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(self.seconds)
            seen: Sequence[Observation] = self.answer()
            return seen
        finally:
            self.at_once -= 1


class Scene:
    def __init__(self, *instances: Instance) -> None:
        self.sight = Sight()
        self.woken: list[set[str]] = []
        self.watching = Watching(
            instances,
            self.sight,
            LoopClock(),
            lambda names: self.woken.append(set(names)),
            Metrics("test", strict=True),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Watching]:
        task = asyncio.create_task(self.watching.run())
        try:
            yield self.watching
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def fails() -> Any:
    raise ProbeFailed("cannot see a thing")


def test_each_looks_at_its_own_pace() -> None:
    async def story() -> None:
        fast, slow, never = Looker("fast"), Looker("slow"), Looker("never")
        scene = Scene(Instance(fast, 0.5, 1.0), Instance(slow, 3.0, 1.0), Instance(never, None, 1.0))
        async with scene.running():
            await asyncio.sleep(60.1)

        assert (len(fast.begun), len(slow.begun), len(never.begun)) == (121, 21, 0)
        assert fast.begun[-1] - fast.begun[0] == pytest.approx(60.0), "no drift"

    run(story())


def test_instances_of_one_pace_look_together() -> None:
    async def story() -> None:
        one, other = Looker("one"), Looker("other")
        async with Scene(Instance(one, 0.5, 1.0), Instance(other, 0.5, 1.0)).running():
            await asyncio.sleep(10)

        assert one.begun == other.begun

    run(story())


@pytest.mark.parametrize(("overlap", "most"), [(1, 1), (3, 3), (6, 5)])
def test_no_more_looks_are_under_way_than_the_monitor_allows(overlap: int, most: int) -> None:
    """Each takes 2.2 s, and one is due each half second."""

    async def story() -> None:
        slow = Looker(seconds=2.2)
        instance = Instance(slow, 0.5, 10.0, overlap)
        async with Scene(instance).running():
            await asyncio.sleep(30)

        assert slow.most == most
        assert (instance.skipped > 0) is (overlap < most or overlap < 5)

    run(story())


def test_a_look_asked_for_in_between_waits_for_its_place_and_begins_after_the_asking() -> None:
    """A proof needs an answer to a question of its own; a monitor that takes one at a time is given one at a time."""

    async def story() -> None:
        slow = Looker(seconds=0.4)
        async with Scene(Instance(slow, 1.0, 10.0)).running() as watching:
            await asyncio.sleep(3.1)
            asked = asyncio.get_running_loop().time()
            await asyncio.gather(watching.look(["m"]), watching.look(["m", "m"]))

            assert slow.most == 1
            assert [at for at in slow.begun if at > asked]

    run(story())


def test_after_the_machine_slept_it_goes_on_and_does_not_catch_up() -> None:
    async def story() -> None:
        looker = Looker()
        async with Scene(Instance(looker, 0.5, 1.0)).running():
            await asyncio.sleep(5.1)
            before = len(looker.begun)
            asyncio.get_running_loop().jump(3600)  # type: ignore[attr-defined]  # the loop of virtual time
            await asyncio.sleep(1.0)

        assert len(looker.begun) - before <= 4

    run(story())


def test_the_cycle_asks_the_slow_ones_and_without_a_loop_beside_it_everybody() -> None:
    async def story() -> None:
        fast, slow = Looker("fast"), Looker("slow")
        scene = Scene(Instance(fast, 0.5, 1.0), Instance(slow, None, 1.0))
        for _ in range(3):
            await scene.watching.look_all()
            await asyncio.sleep(100)
        assert (len(fast.begun), len(slow.begun)) == (3, 3)

        async with scene.running():
            await asyncio.sleep(0.1)
            for _ in range(3):
                await scene.watching.look_all()
        assert (len(fast.begun), len(slow.begun)) == (4, 6)

    run(story())


@pytest.mark.parametrize("looker", [Looker(answer=fails), Looker(seconds=9.0)])
def test_blindness_is_told_once_with_whom_it_concerns_and_its_end_as_well(
    looker: Looker, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        scene = Scene(Instance(looker, 0.5, 1.0))
        async with scene.running():
            await asyncio.sleep(30)
            ((why, whom, _),) = scene.sight.blind_instances.values()
            assert why in ("cannot see a thing", "took longer than 1 s")
            assert whom == ("web",)
            assert scene.woken == [{"m", "web"}]

            looker.answer, looker.seconds = list, 0.0
            await asyncio.sleep(3)
            assert not scene.sight.blind_instances
            assert scene.woken == [{"m", "web"}] * 2
        told = [r.getMessage() for r in caplog.records]
        assert told == ["cannot see", "sees again"]

    caplog.set_level(logging.INFO)
    run(story())


def test_what_is_seen_says_when_it_was_asked_for() -> None:
    async def story() -> None:
        scene = Scene(Instance(Looker(seconds=0.3, answer=lambda: [Observation("m", "web", "work_up", 0.0)]), 1.0, 5.0))
        async with scene.running():
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(0.5)

        assert scene.sight.asked_at("web", "work_up") == pytest.approx(began)
        assert scene.sight.seen_at("web", "work_up") == pytest.approx(began + 0.3)
        assert scene.woken == [{"web"}]

    run(story())


class Watcher(Looker):
    def __init__(self, lives: list[float]) -> None:
        super().__init__("w")
        self.lives = lives
        self.watched: list[float] = []

    async def watch(self, report: Callable[[Occurrence], None]) -> None:
        self.watched.append(asyncio.get_running_loop().time())
        report(Occurrence("w", "web", "hello"))
        await asyncio.sleep(self.lives.pop(0) if self.lives else 10_000)
        raise OSError("gone")


def test_a_watcher_is_started_again_after_a_pause_and_what_it_reports_wakes() -> None:
    async def story() -> None:
        watcher = Watcher([0.0, 60.0])
        scene = Scene(Instance(watcher, None, 1.0))
        async with scene.running():
            await asyncio.sleep(100)
            first, second, third = watcher.watched

            assert second - first == pytest.approx(RESTART_PAUSE)
            assert third - second == pytest.approx(60 + RESTART_PAUSE)
            assert scene.woken.count({"web"}) == 3
            await scene.watching.look_all()
            assert not scene.sight.blind_instances, "it watches again for long enough"

    run(story())


def test_stopping_stops_everything_under_way() -> None:
    async def story() -> None:
        slow = Looker(seconds=500.0)
        async with Scene(Instance(slow, 0.5, 1000.0, 6)).running():
            await asyncio.sleep(10)
            assert slow.at_once == 6
        assert slow.at_once == 0

    run(story())
