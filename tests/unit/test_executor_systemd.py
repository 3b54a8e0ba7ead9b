"""The systemd executor: what it asks of systemd, in which order, and which units it never touches."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from x0tta6bl4.executors.systemd import PLUGIN, Config, SystemdExecutor
from x0tta6bl4.kernel.errors import ProbeFailed, StepFailed, StepRefused
from x0tta6bl4.kernel.facts import Step
from x0tta6bl4.kernel.plugin import Tools
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.ports.units import Unit, Verb
from x0tta6bl4.testing.virtual_time import run


def unit(name: str, state: str = "active", **more: Any) -> Unit:
    whole = Unit(name, "loaded", state, "running" if state == "active" else "dead", "success", 0, 0, "no", 0, 0, "")
    return replace(whole, **more)


class ScriptedUnits:
    """systemd as far as these tests need it: verbs change the state, and ``stuck`` stops only for SIGKILL."""

    def __init__(self, *units: Unit, stuck: bool = False) -> None:
        self.units = {u.name: u for u in units}
        self.aliases: dict[str, str] = {}
        self.done: list[str] = []
        self.fails: dict[str, StepFailed] = {}
        self.stuck = stuck
        self.killed = asyncio.Event()

    async def show(self, names: Sequence[str]) -> Mapping[str, Unit]:
        return {n: self.units.get(self.aliases.get(n, n)) or unit(n, "inactive", load_state="not-found") for n in names}

    async def act(self, verb: Verb, name: str, timeout: float, signal: str | None = None) -> None:
        self.done.append(f"{verb} {name}" + (f" {signal}" if signal else ""))
        if verb in self.fails:
            raise self.fails[verb]
        if signal == "SIGKILL":
            self.killed.set()
        if verb in ("stop", "restart") and self.stuck:
            self.units[name] = replace(self.units[name], active_state="deactivating", sub_state="stop-sigterm")
            await self.killed.wait()
        after = {"start": "active", "restart": "active", "stop": "inactive", "reset-failed": "inactive"}
        if verb in after:
            self.units[name] = unit(name, after[verb])

    async def stopped_on_purpose(self, unit: Unit) -> bool | None:
        return None


def built(units: ScriptedUnits, name: object = "web.service", config: Config | None = None) -> SystemdExecutor:
    subjects = {"web": Subject("web", kind="unit", data={"unit": name}), "host": Subject("host")}
    tools = SimpleNamespace(units=units, subjects=subjects)
    return cast(SystemdExecutor, PLUGIN.build("systemd", config or Config(), cast(Tools, tools)))


def step(verb: str, target: str = "web", **args: object) -> Step:
    return Step("s1", f"systemd.{verb}", target, args, timeout=20.0)


def act(units: ScriptedUnits, asked: Step, name: object = "web.service") -> str:
    return run(built(units, name).act(asked)).detail


@pytest.mark.parametrize("written", ["web", "web.service"])
def test_a_running_unit_is_restarted_by_one_job(written: str) -> None:
    units = ScriptedUnits(unit("web.service"))
    said = act(units, step("restart"), written)
    assert ["restart web.service"] == units.done
    assert "restart of web.service is done; it was active (running)" == said


@pytest.mark.parametrize("result", ["start-limit-hit", "exit-code"])
def test_a_failed_unit_is_forgiven_before_it_is_started_and_that_is_said(result: str) -> None:
    """systemd often keeps the first failure's name although it is the start limit that holds the unit down."""
    units = ScriptedUnits(unit("web.service", "failed", sub_state="failed", result=result))
    said = act(units, step("restart"))
    assert ["reset-failed web.service", "restart web.service"] == units.done
    assert f"reset-failed of web.service first, because it was failed (failed, {result}); then restart is done" == said


def test_what_does_not_end_within_the_grace_is_killed_within_the_same_job() -> None:
    units = ScriptedUnits(unit("web.service"), stuck=True)
    said = act(units, step("restart", grace="2s"))
    assert ["restart web.service", "kill web.service SIGKILL"] == units.done
    assert said.endswith("what had not ended after 2 s was killed")
    assert "active" == units.units["web.service"].active_state


def test_what_ends_within_the_grace_is_not_killed() -> None:
    units = ScriptedUnits(unit("web.service"))
    act(units, step("restart", grace="5s"))
    assert ["restart web.service"] == units.done


def test_a_slow_start_is_not_killed_when_the_grace_is_over() -> None:
    class SlowStart(ScriptedUnits):
        async def act(self, verb: Verb, name: str, timeout: float, signal: str | None = None) -> None:
            self.done.append(verb)
            self.units[name] = replace(self.units[name], active_state="activating", sub_state="start")
            while self.shown < 2:  # looked at once before, and once when the grace was over
                await asyncio.sleep(0.5)

        shown = 0

        async def show(self, names: Sequence[str]) -> Mapping[str, Unit]:
            self.shown += 1
            return await super().show(names)

    units = SlowStart(unit("web.service"))
    act(units, step("restart", grace="1ms"))
    assert ["restart"] == units.done


def test_a_failure_comes_in_systemds_own_words_also_when_there_is_a_grace() -> None:
    no_grace: dict[str, object] = {}
    for args in (no_grace, {"grace": 1}):
        units = ScriptedUnits(unit("web.service"))
        units.fails["restart"] = StepFailed("Job for web.service failed")
        with pytest.raises(StepFailed, match=r"^Job for web.service failed$"):
            act(units, replace(step("restart"), args=args))


def test_a_cancelled_restart_leaves_no_task_behind() -> None:
    async def story() -> None:
        units = ScriptedUnits(unit("web.service"), stuck=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(20):
                await built(units).act(step("restart", grace="1h"))
        assert {asyncio.current_task()} == asyncio.all_tasks()

    run(story())


def test_starting_what_is_active_and_stopping_what_is_not_change_nothing() -> None:
    units = ScriptedUnits(unit("web.service"))
    assert "web.service is active already" == act(units, step("start"))
    units = ScriptedUnits(unit("web.service", "inactive"))
    assert "web.service is not active" == act(units, step("stop"))
    assert [] == units.done


@pytest.mark.parametrize("before", ["active", "inactive"])
@pytest.mark.parametrize("verb", ["start", "stop"])
def test_the_undo_of_a_start_or_stop_restores_what_was(verb: str, before: str) -> None:
    async def story() -> None:
        units = ScriptedUnits(unit("web.service", before))
        systemd = built(units)
        done = step(verb, grace=1)
        effect = await systemd.act(done)
        undo = next(a.undo for a in systemd.actions if a.verb == verb)
        await systemd.act(step(undo, **{**done.args, **effect.data}))
        assert before == units.units["web.service"].active_state

    run(story())


def test_a_signal_goes_to_the_units_processes() -> None:
    units = ScriptedUnits(unit("web.service"))
    act(units, step("kill", signal=10))
    act(units, step("kill"))
    assert ["kill web.service SIGUSR1", "kill web.service SIGTERM"] == units.done


def test_reload_and_reset_failed_are_passed_on() -> None:
    units = ScriptedUnits(unit("web.service"))
    act(units, step("reload"))
    act(units, step("reset-failed"))
    assert ["reload web.service", "reset-failed web.service"] == units.done


@pytest.mark.parametrize(
    "name",
    [
        "dbus",
        "dbus.service",
        "dbus-broker.service",
        "dbus.socket",
        "dbus-org.freedesktop.login1.service",
        "x0tta6bl4",
        "x0tta6bl4.service",
        "systemd-journald.service",
        "systemd-logind",
        "systemd-udevd.service",
        "user@1000.service",
        "multi-user.target",
        "system.slice",
        "-.mount",
        "-.slice",
        "home.mount",
        "init.scope",
        "dev-sda1.swap",
        "web*.service",
        "w?b.service",
        "web[1].service",
        "--all",
        "-web.service",
        "web.service\n",
        "a b.service",
        "../web",
        "",
    ],
)
def test_units_that_the_host_stands_on_and_names_that_are_none_are_refused(name: str) -> None:
    for verb in ("restart", "stop", "kill"):
        units = ScriptedUnits(unit(name))
        for call in (built(units, name).act, built(units, name).preview):
            with pytest.raises(StepRefused):
                run(call(step(verb)))
        assert [] == units.done


def test_an_alias_of_a_vital_unit_is_refused_by_its_true_name() -> None:
    units = ScriptedUnits(unit("systemd-logind.service"))
    units.aliases["sessions.service"] = "systemd-logind.service"
    with pytest.raises(StepRefused, match=r"stands on systemd-logind\.service"):
        act(units, step("restart"), "sessions.service")
    assert [] == units.done


def test_the_operator_can_name_more_units_that_are_never_touched() -> None:
    units = ScriptedUnits(unit("postgresql@main.service"))
    systemd = built(units, "postgresql@main.service", Config(never=["postgresql@*"]))
    with pytest.raises(StepRefused, match="never acted on"):
        run(systemd.act(step("restart")))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (step("restart", "host"), "host has no unit"),
        (step("restart", "wbe"), "did you mean 'web'"),
        (step("kill", signal="TREM"), "did you mean 'TERM'"),
        (step("reload", grace=1), "no argument 'grace'"),
        (step("reset-faild"), "did you mean 'reset-failed'"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_touched(asked: Step, words: str) -> None:
    units = ScriptedUnits(unit("web.service"))
    with pytest.raises(StepRefused, match=words):
        act(units, asked)
    assert [] == units.done


def test_units_that_are_not_there_or_masked_are_refused() -> None:
    with pytest.raises(StepRefused, match=r"systemd has no unit web\.service"):
        act(ScriptedUnits(), step("restart"))
    with pytest.raises(StepRefused, match="masked"):
        act(ScriptedUnits(unit("web.service", "inactive", load_state="masked")), step("start"))


def test_a_silent_systemd_is_a_failed_step() -> None:
    class Silent(ScriptedUnits):
        async def show(self, names: Sequence[str]) -> Mapping[str, Unit]:
            raise ProbeFailed("systemd is not running here")

    with pytest.raises(StepFailed, match="not running here"):
        act(Silent(), step("restart"))


def test_a_preview_says_what_would_be_done_and_does_not_do_it() -> None:
    units = ScriptedUnits(unit("web.service", "failed", sub_state="failed", result="exit-code"))
    said = run(built(units).preview(step("restart", grace=2)))
    assert (
        "would reset-failed and restart web.service, and kill after 2 s what has not ended; "
        "it is failed (failed, exit-code)" == said
    )
    assert [] == units.done
