"""What every Units promises, asked of the fake and of the real one, whose systemctl and journalctl are scripts here.

They keep each unit in a file and say what the true ones say. The true ones are asked where systemd is booted for it.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, get_args

import pytest

from x0tta6bl4.adapters.commands import LinuxCommands
from x0tta6bl4.adapters.systemd import SystemctlUnits
from x0tta6bl4.kernel.errors import ProbeFailed, StepFailed, StepRefused
from x0tta6bl4.ports.units import Unit, Units, Verb
from x0tta6bl4.testing.fakes import FakeUnits

RUNNING = Unit(
    "shop.service", "loaded", "active", "running", "success", 4242, 3, "on-failure", 1795183801.0, 1795183800.0, ""
)
STOPPED = replace(RUNNING, active_state="inactive", sub_state="dead", main_pid=0, inactive_since=1795183920.0)
FAILED = replace(STOPPED, active_state="failed", sub_state="failed", result="exit-code")
VERBS: tuple[Verb, ...] = get_args(Verb)
LONG = 60.0
"""Seconds that no test waits for."""

SYSTEMCTL = """\
#!/bin/sh
while [ $# -gt 0 ]; do
    case "$1" in
        --) shift; break ;;
        -*) ;;
        *) verb=$1 ;;
    esac
    shift
done
cd FOLDER/units || exit 1
unit=$1
now=$(date +%s)
become() {
    sed -i "s/^ActiveState=.*/ActiveState=$1/; s/^SubState=.*/SubState=$2/; s/^Result=.*/Result=success/; $3" "$unit"
}
tell() { echo "{\\"MESSAGE_ID\\": \\"$1\\", \\"JOB_TYPE\\": \\"$2\\"}" >> "../journal/$unit"; }
case "$verb" in
    list-jobs) cat ../jobs; exit ;;
    show)
        for name; do
            [ "$name" = "$unit" ] || echo
            [ -e "$name" ] && cat "$name" || printf '%s\\n' "Id=$name" LoadState=not-found \\
                ActiveState=inactive SubState=dead Result=success MainPID=0 NRestarts=0 Restart=no \\
                ActiveEnterTimestamp= InactiveEnterTimestamp=
        done
        exit ;;
esac
if [ -e "../trouble/$unit" ]; then cat "../trouble/$unit" >&2; rm "../trouble/$unit"; exit 1; fi
if [ ! -e "$unit" ]; then
    case "$verb" in
        start | restart | reload) echo "Failed to $verb $unit: Unit $unit not found." >&2 ;;
        stop) echo "Failed to stop $unit: Unit $unit not loaded." >&2 ;;
        *) echo "Failed to $verb unit $unit: Unit $unit not loaded." >&2 ;;
    esac
    exit 5
fi
is() { grep -q "^$1\\$" "$unit"; }
case "$verb" in
    start | restart)
        is LoadState=masked && { echo "Failed to $verb $unit: Unit $unit is masked." >&2; exit 1; }
        [ "$verb" = start ] && is ActiveState=active && exit
        become active running "s/^ActiveEnterTimestamp=.*/ActiveEnterTimestamp=@$now/"
        tell 7d4958e842da4a758f6c1cdc7b36dcc5 "$verb"
        tell 39f53479d3a045ac8e11786248231fbf "$verb" ;;
    stop)
        is ActiveState=active || exit 0
        become inactive dead "s/^MainPID=.*/MainPID=0/; s/^InactiveEnterTimestamp=.*/InactiveEnterTimestamp=@$now/"
        tell de5b426a63be47a7b6ac3eaac82e2f6f stop
        tell 9d1aaa27d60140bd96365438aad20286 stop ;;
    reload) is ActiveState=active || { echo "$unit is not active, cannot reload." >&2; exit 1; } ;;
    reset-failed) is ActiveState=failed && become inactive dead "s/^NRestarts=.*/NRestarts=0/" || true ;;
esac
"""
JOURNALCTL = """\
#!/bin/sh
cd FOLDER/journal || { echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1; }
for word; do
    case "$word" in
        UNIT=*) [ ! -e "${word#UNIT=}" ] || cat "${word#UNIT=}"; exit ;;
    esac
done
echo '{"_BOOT_ID": "b007"}'
"""


class Bench(Protocol):
    """Makes the world do for either implementation what a test needs."""

    subject: Units

    def put(self, unit: Unit) -> None: ...

    def fail_next(self, name: str, words: str) -> None:
        """The next job for that unit fails, and systemd says so."""
        ...

    def end_by_itself(self, name: str) -> None: ...

    def hide_journal(self) -> None: ...

    def without_systemd(self) -> None: ...


class FakeBench:
    def __init__(self, folder: Path) -> None:
        self.fake = FakeUnits()
        self.subject: Units = self.fake

    def put(self, unit: Unit) -> None:
        self.fake.add(unit.name, unit)
        self.fake.wishes.setdefault(unit.name, False)

    def fail_next(self, name: str, words: str) -> None:
        self.fake.fail(name, StepFailed(words))

    def end_by_itself(self, name: str) -> None:
        self.fake.add(name, FAILED)

    def hide_journal(self) -> None:
        self.fake.wishes.clear()

    def without_systemd(self) -> None:
        self.fake.broken = ProbeFailed("systemd is not running here")


class RealBench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("units", "journal", "trouble"):
            (folder / name).mkdir()
        (folder / "jobs").touch()
        self.subject: Units = self._units(str(folder))

    def _units(self, booted: str) -> SystemctlUnits:
        programs = {"systemctl": SYSTEMCTL, "journalctl": JOURNALCTL}
        for name, script in programs.items():
            (self.folder / name).write_text(script.replace("FOLDER", str(self.folder)))
            (self.folder / name).chmod(0o755)
        paths = {name: str(self.folder / name) for name in programs}
        return SystemctlUnits(LinuxCommands(), booted=booted, **paths)

    def put(self, unit: Unit) -> None:
        shown = [
            f"Id={unit.name}",
            f"LoadState={unit.load_state}",
            f"ActiveState={unit.active_state}",
            f"SubState={unit.sub_state}",
            f"Result={unit.result}",
            f"MainPID={unit.main_pid}",
            f"NRestarts={unit.restarts}",
            f"Restart={unit.restart_policy}",
            f"ActiveEnterTimestamp=@{unit.active_since:.0f}",
            f"InactiveEnterTimestamp=@{unit.inactive_since:.0f}",
        ]
        if unit.job:
            shown.append("Job=7")
            (self.folder / "jobs").write_text(f"7 {unit.name} {unit.job} running\n")
        (self.folder / "units" / unit.name).write_text("\n".join([*shown, ""]))

    def fail_next(self, name: str, words: str) -> None:
        (self.folder / "trouble" / name).write_text(f"{words}\n")

    def end_by_itself(self, name: str) -> None:
        self.put(replace(FAILED, name=name))

    def hide_journal(self) -> None:
        (self.folder / "journal").rename(self.folder / "hidden")

    def without_systemd(self) -> None:
        self.subject = self._units(str(self.folder / "not-booted"))


Scenario = Callable[[Bench], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=[RealBench, FakeBench], ids=["systemctl", "fake"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    return lambda scenario: asyncio.run(scenario(request.param(tmp_path)))


async def shown(bench: Bench, name: str) -> Unit:
    return (await bench.subject.show([name]))[name]


def test_each_unit_is_told_whole_under_the_name_it_was_asked_by(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        timer = replace(STOPPED, name="shop.timer", result="", restarts=0, restart_policy="")
        for unit in (RUNNING, timer):
            bench.put(unit)

        assert await bench.subject.show(["shop", "shop.timer"]) == {"shop": RUNNING, "shop.timer": timer}
        assert await bench.subject.show([]) == {}

    play(scenario)


def test_unknown_units_come_back_as_not_found_beside_the_others(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.put(RUNNING)
        units = await bench.subject.show(["gone.service", "shop.service", "missing"])
        facts = {name: (unit.name, unit.load_state, unit.active_since) for name, unit in units.items()}

        assert facts == {
            "gone.service": ("gone.service", "not-found", 0.0),
            "shop.service": ("shop.service", "loaded", RUNNING.active_since),
            "missing": ("missing.service", "not-found", 0.0),
        }

    play(scenario)


def test_a_job_under_way_is_told_by_its_type(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.put(replace(RUNNING, active_state="deactivating", sub_state="stop-sigterm", job="stop"))
        bench.put(replace(RUNNING, name="idle.service"))
        units = await bench.subject.show(["shop.service", "idle.service"])

        assert [unit.job for unit in units.values()] == ["stop", ""]

    play(scenario)


def test_a_job_is_done_when_its_call_returns(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.put(replace(FAILED, active_since=0.0))
        story: list[tuple[str, str, str]] = []
        verbs: tuple[Verb, ...] = ("reset-failed", "start", "stop", "restart")
        for verb in verbs:
            await bench.subject.act(verb, "shop", LONG)
            unit = await shown(bench, "shop")
            story.append((unit.active_state, unit.sub_state, unit.result))

        assert story == [
            ("inactive", "dead", "success"),
            ("active", "running", "success"),
            ("inactive", "dead", "success"),
            ("active", "running", "success"),
        ]
        assert (await shown(bench, "shop")).active_since > 0

    play(scenario)


def test_what_is_so_already_is_left_as_it_is(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        cases: list[tuple[Verb, Unit]] = [
            ("start", RUNNING),
            ("stop", STOPPED),
            ("stop", FAILED),
            ("reset-failed", RUNNING),
        ]
        for verb, unit in cases:
            bench.put(unit)
            await bench.subject.act(verb, "shop.service", LONG)

            assert await shown(bench, "shop.service") == unit, verb

    play(scenario)


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_not_there_can_not_be_acted_on_and_trying_again_is_no_use(play: Play, verb: Verb) -> None:
    async def scenario(bench: Bench) -> None:
        with pytest.raises(StepRefused, match=r"gone\.service"):
            await bench.subject.act(verb, "gone", LONG)

        assert (await shown(bench, "gone")).load_state == "not-found"

    play(scenario)


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_a_masked_unit_is_refused(play: Play, verb: Verb) -> None:
    async def scenario(bench: Bench) -> None:
        unit = replace(STOPPED, load_state="masked")
        bench.put(unit)
        with pytest.raises(StepRefused, match=r"shop\.service is masked"):
            await bench.subject.act(verb, "shop", LONG)

        assert await shown(bench, "shop") == unit

    play(scenario)


def test_what_failed_may_be_tried_again_and_is_told_in_systemds_words(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.put(FAILED)
        words = "Job for shop.service failed because the control process exited with error code."
        bench.fail_next("shop.service", words)
        with pytest.raises(StepFailed) as caught:
            await bench.subject.act("start", "shop", LONG)

        assert (type(caught.value), caught.value.message) == (StepFailed, words)
        assert await shown(bench, "shop") == FAILED
        await bench.subject.act("start", "shop", LONG)
        assert (await shown(bench, "shop")).active_state == "active"
        await bench.subject.act("stop", "shop", LONG)
        with pytest.raises(StepFailed, match="not active, cannot reload") as reload:
            await bench.subject.act("reload", "shop", LONG)
        assert type(reload.value) is StepFailed

    play(scenario)


def test_a_stop_that_was_asked_for_is_told_from_an_end(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.put(RUNNING)
        answers = [await bench.subject.stopped_on_purpose(RUNNING)]
        await bench.subject.act("stop", "shop", LONG)
        answers.append(await bench.subject.stopped_on_purpose(await shown(bench, "shop")))
        await bench.subject.act("start", "shop", LONG)
        bench.end_by_itself("shop.service")
        answers.append(await bench.subject.stopped_on_purpose(await shown(bench, "shop")))
        # It is stopped already: nobody's wish is carried out by asking for it.
        await bench.subject.act("stop", "shop", LONG)
        answers.append(await bench.subject.stopped_on_purpose(await shown(bench, "shop")))

        assert answers == [False, True, False, False]

    play(scenario)


def test_without_a_journal_nobody_knows_who_stopped_it(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.put(RUNNING)
        await bench.subject.act("stop", "shop", LONG)
        bench.hide_journal()

        assert await bench.subject.stopped_on_purpose(await shown(bench, "shop")) is None

    play(scenario)


def test_where_systemd_is_not_nothing_is_claimed(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.put(RUNNING)
        bench.without_systemd()
        with pytest.raises(ProbeFailed, match="not running here"):
            await bench.subject.show(["shop"])
        for verb in VERBS:
            with pytest.raises(StepFailed, match="not running here"):
                await bench.subject.act(verb, "shop", LONG)

        assert await bench.subject.stopped_on_purpose(RUNNING) is None

    play(scenario)
