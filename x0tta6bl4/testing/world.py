"""A whole daemon in virtual time: the real loop, plugins, rules and store over a scripted host."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from x0tta6bl4.adapters.alerts import AlertInbox
from x0tta6bl4.app import Blueprint, draw, parts_of
from x0tta6bl4.kernel.bus import EventBus
from x0tta6bl4.kernel.facts import Incident
from x0tta6bl4.kernel.flags import FeatureFlags
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.kernel.memory import ActionRecord, Knowledge
from x0tta6bl4.kernel.sight import Sight
from x0tta6bl4.knowledge.sqlite import migrations
from x0tta6bl4.observability.metrics import Metrics
from x0tta6bl4.ports.network import HttpReply
from x0tta6bl4.settings.model import Settings
from x0tta6bl4.testing.fake_processes import FakeProcesses
from x0tta6bl4.testing.fakes import FakeFiles, FakeNetwork, tools
from x0tta6bl4.testing.memory_database import MemoryDatabase
from x0tta6bl4.testing.virtual_time import LoopClock


class _Services(FakeNetwork):
    """A service answers on its URL as long as its process lives, unless the test says otherwise."""

    def __init__(self, processes: Callable[[], FakeProcesses]) -> None:
        super().__init__()
        self._processes = processes
        self.owners: dict[str, str] = {}
        self.broken: dict[str, Callable[[], tuple[int, float]]] = {}

    async def _ask(self, where: str) -> HttpReply:
        owner = self.owners.get(where)
        if owner is None:
            return await super()._ask(where)
        self.asked.append(where)
        if self._processes().supervised(owner) is None:
            raise ConnectionRefusedError(111, f"{where} refused the connection")
        status, seconds = self.broken.get(where, lambda: (200, 0.001))()
        await asyncio.sleep(seconds)
        return HttpReply(status, {}, b"", seconds, None)


class World:
    """One host. ``subjects`` are written as in a configuration; the programs are started before the loop is."""

    def __init__(self, subjects: Mapping[str, Mapping[str, Any]], **settings: Any) -> None:
        self.settings = Settings.model_validate(
            {
                "subjects": subjects,
                "guard": {"allow": ["*"], **settings.pop("guard", {})},
                "monitors": {"host": {"enabled": False}},
                "executors": {"systemd": {"enabled": False}},
                **settings,
            }
        )
        self.blueprint: Blueprint
        self.blueprint, problems = draw(self.settings.model_copy(update={"state_dir": Path("/nowhere")}), None)
        assert not problems, problems
        self.database = MemoryDatabase(migrations())
        self.processes = FakeProcesses()
        self.network = _Services(lambda: self.processes)
        for name, care in subjects.items():
            for probe in ("work", "health"):
                if probe in care and "process" in care:
                    self.network.owners[care[probe]] = name
        self.files = FakeFiles()
        self.clock = LoopClock()
        self.metrics = Metrics("test", strict=True)
        self.flags = FeatureFlags()
        self.alerts: AlertInbox
        self.loop: MAPEK

    def build(self) -> MAPEK:
        """A new life of the daemon over the same host and the same memory."""
        self.alerts = AlertInbox(self.clock)
        sight = Sight(self.blueprint.subjects)
        outside = tools(
            clock=self.clock,
            processes=self.processes,
            network=self.network,
            database=self.database,
            files=self.files,
            alerts=self.alerts,
            subjects=self.blueprint.subjects,
        )
        parts = parts_of(self.blueprint, outside, sight=sight, flags=self.flags, bus=EventBus(), metrics=self.metrics)
        self.loop = MAPEK(parts)
        return self.loop

    @asynccontextmanager
    async def running(self, started: bool = True) -> AsyncIterator[MAPEK]:
        loop = self.build()
        if started:
            for program in self.blueprint.programs:
                await self.processes.start(program)
        task = asyncio.create_task(loop.start(), name="world")
        try:
            await asyncio.sleep(1.0)
            yield loop
            loop.stop()
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def crash(self) -> None:
        """The daemon is gone without a word; the host goes on."""
        self.processes = self.processes.successor()

    def kill(self, name: str) -> None:
        process = self.processes.supervised(name)
        assert process is not None, f"{name} does not run"
        self.processes.die(process, -9)

    def hang(self, url: str) -> None:
        """Until the process is another one, nothing is answered."""
        owner = self.network.owners[url]
        stuck = self.processes.supervised(owner)
        self.network.broken[url] = lambda: (200, 3600.0 if self.processes.supervised(owner) == stuck else 0.001)

    @property
    def knowledge(self) -> Knowledge:
        return self.loop.parts.knowledge

    async def actions(self, subject: str | None = None) -> list[ActionRecord]:
        return [a for a in await self.knowledge.actions_since(0.0) if subject in (None, a.subject)]

    async def acts(self, subject: str | None = None) -> list[str]:
        """Names of what was done, in order; messages to humans left out."""
        return [a.action for a in await self.actions(subject) if a.disruptive]

    async def incidents(self) -> Sequence[Incident]:
        return await self.knowledge.incidents()

    async def until(self, holds: Callable[[], bool], within: float = 120.0) -> float:
        """Seconds of virtual time until it holds; fails the test when it does not in time."""
        began = asyncio.get_running_loop().time()
        while not holds():
            if asyncio.get_running_loop().time() - began > within:
                raise AssertionError(f"did not come true within {within:g} s")
            await asyncio.sleep(0.01)
        return asyncio.get_running_loop().time() - began
