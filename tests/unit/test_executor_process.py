"""The process executor: what it does to programs in the daemon's care, and what it says of it."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from x0tta6bl4.adapters.processes import LinuxProcesses
from x0tta6bl4.executors.process import PLUGIN, Config, ProcessExecutor
from x0tta6bl4.kernel.errors import StepFailed, StepRefused
from x0tta6bl4.kernel.facts import Step
from x0tta6bl4.kernel.plugin import Tools
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.ports.processes import Program
from x0tta6bl4.testing.fake_processes import FakeProcesses
from x0tta6bl4.testing.virtual_time import LoopClock, run

WEB = Program("web", ("/usr/bin/web", "--port", "1"))


def built(processes: Any, subjects: Mapping[str, Subject] | None = None) -> ProcessExecutor:
    known = {"web": Subject("web", data={"program": WEB})} if subjects is None else subjects
    tools = SimpleNamespace(processes=processes, subjects=known, clock=LoopClock())
    return cast(ProcessExecutor, PLUGIN.build("process", Config(), cast(Tools, tools)))


def step(verb: str, target: str = "web", **args: object) -> Step:
    return Step("s1", f"process.{verb}", target, args)


def test_a_restart_ends_the_old_process_and_starts_a_new_one_and_names_both() -> None:
    async def story() -> None:
        fake = FakeProcesses()
        old = await fake.start(WEB)
        effect = await built(fake).act(step("restart", grace="1s"))
        new = fake.supervised("web")
        assert new is not None and new != old
        assert f"stopped pid {old.pid} (by SIGTERM after 0 s), started pid {new.pid} in 0 s" == effect.detail

    run(story())


def test_one_that_does_not_listen_is_said_to_have_been_killed() -> None:
    async def story() -> None:
        fake = FakeProcesses()
        fake.hang_from_start("web")
        old = await fake.start(WEB)
        effect = await built(fake).act(step("restart", grace="200ms"))
        assert f"stopped pid {old.pid} (by SIGKILL after 0.2 s), started pid " in effect.detail
        assert (old, 9) in fake.sent

    run(story())


def test_a_restart_of_what_does_not_run_just_starts_it() -> None:
    async def story() -> None:
        fake = FakeProcesses()
        effect = await built(fake).act(step("restart"))
        assert effect.detail.startswith("web did not run, started pid ")

    run(story())


def test_when_the_old_one_cannot_be_stopped_no_second_one_is_started() -> None:
    class Immortal(FakeProcesses):
        async def stop(self, name: str, grace: float) -> bool:
            raise StepFailed("pid 1000 hangs inside the kernel")

    async def story() -> None:
        fake = Immortal()
        await fake.start(WEB)
        with pytest.raises(StepFailed, match=r"not started anew.*hangs inside the kernel"):
            await built(fake).act(step("restart"))
        assert ["web"] == fake.started

    run(story())


def test_a_failed_start_after_the_stop_says_that_the_old_one_is_gone_and_stays_a_refusal() -> None:
    async def story() -> None:
        fake = FakeProcesses()
        old = await fake.start(WEB)
        fake.fail_start("web", StepRefused("no such program", remedy="install it"))
        with pytest.raises(StepRefused) as caught:
            await built(fake).act(step("restart"))
        assert f"stopped pid {old.pid}" in caught.value.message and "no such program" in caught.value.message
        assert "install it" == caught.value.remedy

    run(story())


def test_starting_twice_and_stopping_twice_leave_the_same_as_once() -> None:
    async def story() -> None:
        fake = FakeProcesses()
        process = built(fake)
        await process.act(step("start"))
        first = fake.supervised("web")
        assert "web already runs as pid" in (await process.act(step("start"))).detail
        assert first == fake.supervised("web") and ["web"] == fake.started
        await process.act(step("stop"))
        assert "web does not run" == (await process.act(step("stop"))).detail
        assert fake.supervised("web") is None

    run(story())


def test_a_start_finds_the_process_of_an_earlier_daemon() -> None:
    async def story() -> None:
        fake = FakeProcesses()
        old = await fake.start(WEB)
        heir = fake.successor()
        effect = await built(heir).act(step("start"))
        assert f"web already runs as pid {old.pid}" == effect.detail

    run(story())


@pytest.mark.parametrize("runs_before", [True, False])
@pytest.mark.parametrize("verb", ["start", "stop"])
def test_the_undo_of_a_start_or_stop_restores_what_was(verb: str, runs_before: bool) -> None:
    async def story() -> None:
        fake = FakeProcesses()
        process = built(fake)
        if runs_before:
            await fake.start(WEB)
        done = step(verb, grace=1)
        effect = await process.act(done)
        undo = next(a.undo for a in process.actions if a.verb == verb)
        await process.act(step(undo, **{**done.args, **effect.data}))
        assert runs_before == (fake.supervised("web") is not None)

    run(story())


@pytest.mark.parametrize("given", ["HUP", "SIGHUP", "hup", 1, "1"])
def test_a_signal_goes_to_the_main_process_by_number_or_by_name(given: object) -> None:
    async def story() -> None:
        fake = FakeProcesses()
        old = await fake.start(WEB)
        effect = await built(fake).act(step("signal", signal=given))
        assert [(old, 1)] == fake.sent
        assert f"sent SIGHUP to pid {old.pid}" == effect.detail

    run(story())


def test_a_signal_to_nobody_is_a_failure() -> None:
    with pytest.raises(StepFailed, match="web does not run"):
        run(built(FakeProcesses()).act(step("signal", signal="HUP")))


def test_the_grace_counts_once_also_when_it_is_asked_by_a_signal_of_its_own() -> None:
    async def story() -> None:
        fake = FakeProcesses()
        fake.hang_from_start("web")
        old = await fake.start(WEB)
        effect = await built(fake).act(step("stop", signal="QUIT", grace="3s"))
        assert f"stopped pid {old.pid} (by SIGKILL after 3 s)" == effect.detail
        assert (3, 9) == (fake.sent[0][1], fake.sent[-1][1])

    run(story())


def test_a_program_may_be_asked_to_end_by_a_signal_of_its_own() -> None:
    async def story() -> None:
        fake = FakeProcesses()
        old = await fake.start(WEB)
        effect = await built(fake).act(step("stop", signal="QUIT"))
        assert [(old, 3)] == fake.sent
        assert f"stopped pid {old.pid} (by SIGQUIT after 0 s)" == effect.detail

    run(story())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (step("restart", graze=1), "no argument 'graze'; did you mean 'grace'"),
        (step("restart", grace="soon"), "grace should be a duration.*'soon'"),
        (step("restart", grace=-1), "grace"),
        (step("signal"), "signal is missing"),
        (step("signal", signal="HPU"), "did you mean 'HUP'.*'HPU'"),
        (step("signal", signal=True), "should be a signal"),
        (step("signal", signal=0), "should be a signal"),
        (step("restrat"), "did you mean 'restart'"),
        (step("restart", target="wbe"), "'wbe' is not under care; did you mean 'web'"),
        (step("restart", target="host"), "host is no program"),
    ],
)
def test_a_mistake_is_refused_with_its_place_before_anything_is_touched(asked: Step, words: str) -> None:
    async def story() -> None:
        fake = FakeProcesses()
        await fake.start(WEB)
        process = built(fake, {"web": Subject("web", data={"program": WEB}), "host": Subject("host")})
        for call in (process.preview, process.act):
            with pytest.raises(StepRefused, match=words):
                await call(asked)
        assert [] == fake.sent

    run(story())


def test_a_preview_touches_nothing_and_says_what_would_be_done() -> None:
    async def story() -> None:
        fake = FakeProcesses()
        process = built(fake)
        assert "would start /usr/bin/web --port 1" == await process.preview(step("restart"))
        old = await fake.start(WEB)
        said = [await process.preview(step(verb)) for verb in ("start", "stop", "restart")]
        said.append(await process.preview(step("signal", signal=1)))
        assert "would find that web (pid 1000) already runs" == said[0]
        assert "would stop web (pid 1000) by SIGTERM, after 5 s by SIGKILL, and start /usr/bin/web --port 1" == said[2]
        assert "would send SIGHUP to web (pid 1000)" == said[3]
        assert old == fake.supervised("web") and [] == fake.sent

    run(story())


def test_the_program_is_read_when_it_is_acted_on() -> None:
    """A reload of the configuration changes what the next step starts."""

    async def story() -> None:
        fake = FakeProcesses()
        subjects: dict[str, Subject] = {}
        process = built(fake, subjects)
        subjects["web"] = Subject("web", data={"program": WEB})
        await process.act(step("start"))
        assert ["web"] == fake.started

    run(story())


def test_a_real_program_is_restarted_with_its_children(tmp_path: Path) -> None:
    async def story() -> None:
        nap = "import time; time.sleep(600)"
        script = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {nap!r}]); {nap}"
        program = Program("nap", (sys.executable, "-c", script), on_exit="stop")
        processes = LinuxProcesses(tmp_path)
        process = built(processes, {"nap": Subject("nap", data={"program": program})})
        try:
            await process.act(step("start", "nap"))
            old = processes.supervised("nap")
            effect = await process.act(step("restart", "nap", grace=5))
            new = processes.supervised("nap")
            assert old is not None and new is not None and old != new
            assert await processes.find_by_pid(old.pid) is None
            assert f"stopped pid {old.pid} (by SIG" in effect.detail and f"started pid {new.pid}" in effect.detail
            assert "already runs" in (await process.act(step("start", "nap"))).detail
        finally:
            await processes.stop("nap", 0)
            processes.close()

    asyncio.run(story())
