"""Runs the monitors: each at its own pace and in its own failure domain, and tells when one has gone blind."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from x0tta6bl4.kernel.facts import Occurrence
from x0tta6bl4.kernel.plugin import Monitor, SpeaksOf, Watcher
from x0tta6bl4.kernel.sight import Sight
from x0tta6bl4.kernel.supervise import Failure, guarded
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.meter import Meter

log = logging.getLogger("x0tta6bl4.kernel.watching")

LOOK_AGAIN = 0.01
"""Seconds between two questions whether a monitor that takes one look at a time is free."""
RESTART_PAUSE = 5.0
"""Seconds before a watcher that ended is started again."""


def until_next(every: float, now: float) -> float:
    """Seconds until the clock's next multiple of that pace.

    All that recurs stands on one grid, so that the machine is woken once for it and not once for each. After a sleep
    of the machine the next multiple comes next: nothing is caught up on.
    """
    return max(every - now % every, 0.001)


@dataclass(eq=False)
class Instance:
    """A monitor with the name, pace and bounds that the configuration gave it."""

    monitor: Monitor
    every: float | None
    timeout: float | None
    overlap: int = 1
    in_flight: int = 0
    is_deaf: bool = False
    """It cannot be told of events: it may see, but not as soon as it should."""
    skipped: int = 0
    failing_since: float | None = None
    failure: str = ""
    looked_at: float | None = None

    @property
    def name(self) -> str:
        return self.monitor.name

    @property
    def subjects(self) -> Sequence[str]:
        return self.monitor.subjects if isinstance(self.monitor, SpeaksOf) else ()


class Watching:
    """Fast monitors run here, beside the cycle; the cycle asks for the slow ones when it turns."""

    def __init__(
        self,
        instances: Iterable[Instance],
        sight: Sight,
        clock: Clock,
        wake: Callable[[set[str]], None],
        meter: Meter,
    ) -> None:
        self.instances = tuple(instances)
        self._by_name = {i.name: i for i in self.instances}
        self._sight = sight
        self._clock = clock
        self._wake = wake
        self._meter = meter
        self._is_running = False

    async def run(self) -> None:
        """Until cancelled. All instances of one pace share a tick: one wake-up of the machine instead of many."""
        self._is_running = True
        try:
            await self._run()
        finally:
            self._is_running = False

    async def _run(self) -> None:
        paces: dict[float, list[Instance]] = {}
        for instance in self.instances:
            if instance.every is not None:
                paces.setdefault(instance.every, []).append(instance)
        async with asyncio.TaskGroup() as group:
            for every, instances in paces.items():
                group.create_task(self._tick(every, instances, group), name=f"every-{every:g}s")
            for instance in self.instances:
                if isinstance(instance.monitor, Watcher):
                    group.create_task(self._watch(instance, instance.monitor), name=f"watch-{instance.name}")

    async def _tick(self, every: float, instances: Sequence[Instance], group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for instance in instances:
                if instance.in_flight < instance.overlap:
                    group.create_task(self._look_if_free(instance), name=instance.name)
                else:
                    instance.skipped += 1
            await asyncio.sleep(until_next(every, loop.time()))

    async def _watch(self, instance: Instance, watcher: Watcher) -> None:
        loop = asyncio.get_running_loop()
        while True:
            steady = loop.call_later(RESTART_PAUSE, self._hears_again, instance)
            try:
                ended = await guarded(lambda: watcher.watch(self.report), None)
            finally:
                steady.cancel()
            instance.is_deaf = True
            why = ended.message if isinstance(ended, Failure) else "it stopped watching"
            self._failed(instance, f"cannot be told of events: {why}", "watch")
            await asyncio.sleep(RESTART_PAUSE)

    def _hears_again(self, instance: Instance) -> None:
        instance.is_deaf = False

    def report(self, occurrence: Occurrence) -> None:
        self._wake(self._sight.happened(occurrence, self._clock.monotonic()))

    async def look_all(self) -> None:
        """The cycle's own look: every instance that has no pace of its own, and while none has, every one."""
        slow = [i for i in self.instances if i.every is None or i.looked_at is None or not self._is_running]
        await self._look_many(slow)

    async def look(self, names: Iterable[str]) -> None:
        """A look at once by the named instances, for a precondition or a proof."""
        await self._look_many([i for n in sorted(set(names)) if (i := self._by_name.get(n)) is not None])

    async def _look_many(self, instances: Sequence[Instance]) -> None:
        if not instances:
            return
        async with asyncio.TaskGroup() as group:
            for instance in instances:
                group.create_task(self._look_in_turn(instance), name=instance.name)

    async def _look_if_free(self, instance: Instance) -> None:
        if instance.in_flight < instance.overlap:  # since the tick, somebody else may have begun to look
            await self._look(instance)
        else:
            instance.skipped += 1

    async def _look_in_turn(self, instance: Instance) -> None:
        # Bounded by that look's own timeout. Rare and short, and an Event would belong to the first event loop it met.
        while instance.in_flight >= instance.overlap:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN)
        await self._look(instance)

    async def _look(self, instance: Instance) -> None:
        asked = self._clock.monotonic()
        instance.in_flight += 1
        try:
            # Taking it in is a part of the look: what is no observation is the monitor's failure and nobody else's.
            seen = await guarded(lambda: self._take_in(instance, asked), instance.timeout)
        finally:
            instance.in_flight -= 1
        now = instance.looked_at = self._clock.monotonic()
        if isinstance(seen, Failure):
            self._failed(instance, seen.message, "timeout" if seen.timed_out else seen.error)
            return
        if instance.failing_since is not None and not instance.is_deaf:
            self._sight.sees_again(instance.name)
            log.info("sees again", extra={"instance": instance.name, "seconds": round(now - instance.failing_since, 3)})
            instance.failing_since = None
            self._wake({instance.name, *instance.subjects})
        if seen:
            self._wake(seen)

    async def _take_in(self, instance: Instance, asked: float) -> set[str]:
        """The subjects that deserve a turn at once."""
        seen = await instance.monitor.observe()
        self._meter.count("x0tta6bl4_observations_total", len(seen))
        return self._sight.record(seen, self._clock.monotonic(), asked)

    def _failed(self, instance: Instance, message: str, kind: str) -> None:
        """Reported once, however long it lasts; a condition in between."""
        now = self._clock.monotonic()
        instance.failure = message
        self._meter.count("x0tta6bl4_probe_failures_total", instance=instance.name)
        if instance.failing_since is None:
            instance.failing_since = now
            self._sight.blind(instance.name, message, instance.subjects, now)
            log.warning("cannot see", extra={"instance": instance.name, "kind": kind, "reason": message})
            self._wake({instance.name, *instance.subjects})
