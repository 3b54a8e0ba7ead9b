"""The contract checks find what they are there to find: each plugin here breaks one promise, and one keeps all."""

import asyncio
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from x0tta6bl4.kernel.errors import ProbeFailed, StepRefused
from x0tta6bl4.kernel.facts import Finding, Observation, Occurrence, Step
from x0tta6bl4.kernel.plugin import (
    Action,
    AnyPlugin,
    Effect,
    PluginConfig,
    Tools,
    analyzer,
    executor,
    monitor,
)
from x0tta6bl4.kernel.sight import View
from x0tta6bl4.testing.contract import Touched, check_plugin


class Config(PluginConfig):
    path: str = "/proc/loadavg"
    """The file to read."""


class Good:
    def __init__(self, name: str, tools: Tools) -> None:
        self.name = name
        self.tools = tools

    async def observe(self) -> Sequence[Observation]:
        return [Observation(self.name, "cpu", "load1", float(len(await self.tools.host.read_text("/proc/loadavg"))))]


def checked(plugin: AnyPlugin, docstring: str = "Reports a number.", **more: Any) -> list[str]:
    module = ModuleType("outside.plugin", docstring)
    vars(module)["PLUGIN"] = plugin
    return check_plugin(plugin, module, **more)


def of_class(monitor_class: Callable[[str, Tools], Any], config: type[PluginConfig] = Config) -> AnyPlugin:
    return monitor(config, lambda name, _, tools: monitor_class(name, tools))


def test_a_plugin_that_keeps_all_promises_breaks_none() -> None:
    assert checked(of_class(Good)) == []


@pytest.mark.parametrize("docstring", ["", "reports a number", "Reports a number. And then another one."])
def test_a_module_that_does_not_say_in_one_sentence_what_it_is_for(docstring: str) -> None:
    (wrong,) = checked(of_class(Good), docstring)

    assert "docstring" in wrong


def test_a_module_that_declares_nothing() -> None:
    (wrong,) = check_plugin(of_class(Good), ModuleType("outside", "Reports a number."))

    assert "PLUGIN" in wrong


def test_settings_without_explanation_or_with_room_for_typing_errors() -> None:
    class Part(BaseModel):
        depth: int = 1

    class Silent(PluginConfig):
        part: Part = Part()
        """A part."""
        loud: bool = False

    wrong = checked(of_class(Good, Silent))

    assert [w.split()[0] for w in wrong] == ["Silent.part", "Silent.part.depth", "Silent.loud"]


def test_settings_that_cannot_do_with_what_was_called_the_smallest() -> None:
    class Demanding(PluginConfig):
        host: str
        """Whom to ask."""

    (wrong,) = checked(of_class(Good, Demanding))
    assert "smallest configuration" in wrong
    assert checked(of_class(Good, Demanding), make_config=lambda: {"host": "db"}) == []


def test_a_building_that_reads_the_clock_or_swallows_that_it_may_not_touch() -> None:
    class Early(Good):
        def __init__(self, name: str, tools: Tools) -> None:
            super().__init__(name, tools)
            tools.clock.monotonic()

    class Sly(Good):
        def __init__(self, name: str, tools: Tools) -> None:
            super().__init__(name, tools)
            try:
                tools.processes.supervised("api")
            except Touched:
                pass

    assert "clock.monotonic" in checked(of_class(Early))[0]
    assert "processes.supervised" in checked(of_class(Sly))[0]


def test_an_instance_that_goes_by_another_name() -> None:
    class Vain(Good):
        def __init__(self, name: str, tools: Tools) -> None:
            super().__init__("best", tools)

    assert "name" in checked(of_class(Vain))[0]


def test_a_monitor_that_invents_a_number_on_a_dead_host() -> None:
    class Inventor(Good):
        async def observe(self) -> Sequence[Observation]:
            try:
                return await super().observe()
            except (OSError, ProbeFailed) as error:
                return [Observation(self.name, "cpu", "load1", 50.0, detail=str(error))]

    class Optimist(Inventor):
        async def observe(self) -> Sequence[Observation]:
            return []

    class Pessimist(Inventor):
        async def observe(self) -> Sequence[Observation]:
            return [Observation(self.name, "cpu", "load_up", 0.0, detail="it must be down")]

    for liar in (Inventor, Optimist, Pessimist):
        assert any("instead of failing" in wrong for wrong in checked(of_class(liar))), liar.__name__


def test_a_monitor_that_fails_in_a_way_nobody_expects_or_not_at_all() -> None:
    class Clumsy(Good):
        async def observe(self) -> Sequence[Observation]:
            try:
                return await super().observe()
            except (OSError, ProbeFailed) as error:
                raise KeyError("load") from error

    class Stubborn(Good):
        async def observe(self) -> Sequence[Observation]:
            while True:
                try:
                    return await super().observe()
                except (OSError, ProbeFailed):
                    await asyncio.sleep(1)

    assert any("KeyError" in wrong for wrong in checked(of_class(Clumsy)))
    assert any("neither fails nor ends" in wrong for wrong in checked(of_class(Stubborn)))


def test_a_look_or_a_watch_that_swallows_its_cancellation() -> None:
    class Deaf(Good):
        async def observe(self) -> Sequence[Observation]:
            try:
                return await super().observe()
            except asyncio.CancelledError:
                return []

    class DeafWatcher(Good):
        async def watch(self, report: Callable[[Occurrence], None]) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

    assert checked(of_class(Deaf)) == ["observe() swallows its cancellation"]
    assert "watch() swallows its cancellation" in checked(of_class(DeafWatcher))


class Judge:
    found: ClassVar[int] = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def analyze(self, view: View) -> Sequence[Finding]:
        return [Finding(self.name, s.name, "dead", f"{s.name} is dead") for s in view.subjects]


class NoConfig(PluginConfig):
    """Nothing to set."""


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("none", None),
        ("ghosts", "where there is nothing"),
        ("moody", "differently"),
        ("meddler", "changes what it looks at"),
        ("borrowed", "bears the name"),
    ],
)
def test_an_analyzer_that_is_not_pure(fault: str, words: str | None) -> None:
    moods = iter(range(10**6))

    class Odd(Judge):
        def analyze(self, view: View) -> Sequence[Finding]:
            found = list(super().analyze(view))
            if fault == "ghosts":
                found.append(Finding(self.name, "ghost", "dead", "a ghost is dead"))
            elif fault == "moody":
                found.append(Finding(self.name, "api", "mood", f"mood {next(moods)}")) if found else None
            elif fault == "meddler":
                view.sight.blind(self.name, "I say so", ["api"], view.now)
            elif fault == "borrowed":
                found = [Finding("somebody", f.subject, f.fault, f.summary) for f in found]
            return found

    wrong = checked(analyzer(NoConfig, lambda name, config, tools: Odd(name)))

    assert (wrong == []) if words is None else any(words in w for w in wrong)


class KillArgs(PluginConfig):
    force: bool = False
    """Whether to insist."""


class Hand:
    """Ends processes. The variants break a promise each."""

    def __init__(self, name: str, tools: Tools, fault: str) -> None:
        self.name = name
        self.tools = tools
        self.fault = fault
        summary = "" if fault == "wordless" else "ends it"
        self.actions = (Action("kill", summary, KillArgs, undo="revive" if fault == "hopeful" else ""),)

    async def preview(self, step: Step) -> str:
        self._check(step)
        if self.fault == "hasty":
            await self.tools.processes.stop(step.target, 0.0)
        running = self.tools.processes.supervised(step.target)
        return "" if self.fault == "mute" else f"would end {running}"

    async def act(self, step: Step) -> Effect:
        self._check(step)
        try:
            await self.tools.processes.stop(step.target, 1.0)
        except asyncio.CancelledError:
            if self.fault != "deaf":
                raise
        return Effect("ended it")

    def _check(self, step: Step) -> None:
        if step.action != f"{self.name}.kill" and self.fault != "willing":
            raise StepRefused(f"there is no verb {step.action}")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("none", None),
        ("wordless", "no summary"),
        ("hopeful", "undone by"),
        ("hasty", "touches the world: processes.stop"),
        ("mute", "says nothing"),
        ("deaf", "act() swallows its cancellation"),
        ("willing", "answers an unknown verb with"),
    ],
)
def test_an_executor_that_does_what_it_should_not(fault: str, words: str | None) -> None:
    wrong = checked(executor(NoConfig, lambda name, config, tools: Hand(name, tools, fault)))

    assert (wrong == []) if words is None else any(words in w for w in wrong), wrong
