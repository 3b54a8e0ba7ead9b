"""What every Host promises, asked of this machine and of the fake alike."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn, Protocol

import psutil
import pytest

from x0tta6bl4.adapters import host as adapter
from x0tta6bl4.adapters.host import LinuxHost
from x0tta6bl4.ports.host import Host
from x0tta6bl4.testing.fakes import FakeHost


class Bench(Protocol):
    """Makes the world do for either implementation what a test needs."""

    subject: Host
    folder: str

    def write(self, path: str, text: str) -> None: ...

    def spoil(self, error: OSError) -> None:
        """From here on whatever the kernel is asked ends in this error."""
        ...


class FakeBench:
    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.fake = FakeHost()
        self.subject: Host = self.fake
        self.folder = "/srv"

    def write(self, path: str, text: str) -> None:
        self.fake.texts[path] = text

    def spoil(self, error: OSError) -> None:
        self.fake.broken = error


class RealBench:
    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.subject: Host = LinuxHost()
        self.folder = str(folder)
        self.patch = patch

    def write(self, path: str, text: str) -> None:
        Path(path).write_text(text)

    def spoil(self, error: OSError) -> None:
        def fail(*args: object, **more: object) -> NoReturn:
            raise error

        self.patch.setattr(adapter, "_read", fail)
        self.patch.setattr(psutil, "net_if_stats", fail)


Scenario = Callable[[Bench], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=[RealBench, FakeBench], ids=["linux", "fake"])
def play(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    return lambda scenario: asyncio.run(scenario(request.param(tmp_path, monkeypatch)))


READINGS: dict[str, Callable[[Host], Awaitable[object]]] = {
    "read_text": lambda host: host.read_text("/proc/loadavg"),
    "vitals": lambda host: host.vitals(),
    "disks": lambda host: host.disks(),
    "nics": lambda host: host.nics(),
}


def test_a_text_is_read_whole_and_as_it_is_now(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        path = f"{bench.folder}/numbers"
        for text in ("1 2\n3\n", "", "4 é\n"):
            bench.write(path, text)
            assert text == await bench.subject.read_text(path)

        assert len((await bench.subject.read_text("/proc/loadavg")).split()) == 5

    play(scenario)


def test_a_text_that_is_not_there_is_an_oserror_that_names_it(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        for path in (f"{bench.folder}/none", "/proc/none"):
            with pytest.raises(OSError, match="none"):
                await bench.subject.read_text(path)

    play(scenario)


def test_vitals_are_such_as_a_host_can_have(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        vitals = await bench.subject.vitals()

        assert vitals.cores >= 1
        assert min(vitals.load1, vitals.load5, vitals.load15) >= 0
        assert 0 < vitals.memory_available <= vitals.memory_total
        assert 0 <= vitals.swap_used <= vitals.swap_total
        assert 0 < vitals.fds_used <= vitals.fds_max
        assert vitals.boot_time > 1e9

    play(scenario)


def test_the_first_reading_has_no_share_of_the_cpu_and_later_ones_have(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        shares = [(await bench.subject.vitals()).cpu_busy for _ in range(4)]

        assert shares[0] == 0
        assert all(0 <= share <= 1 for share in shares)

    play(scenario)


def test_a_disk_is_told_once_and_holds_no_more_than_it_can(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        disks = await bench.subject.disks()

        assert len({disk.device for disk in disks}) == len({disk.mount for disk in disks}) == len(disks)
        for disk in disks:
            assert disk.mount.startswith("/")
            assert 0 <= disk.free <= disk.total
            assert 0 <= disk.inodes_free <= disk.inodes_total

    play(scenario)


def test_an_interface_is_told_once_and_its_counters_do_not_go_back(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        before = {nic.name: nic for nic in await bench.subject.nics()}
        after = await bench.subject.nics()

        assert len({nic.name for nic in after}) == len(after)
        for nic in after:
            old = before.get(nic.name)
            if old is not None:
                assert nic.errors_in >= old.errors_in >= 0
                assert nic.errors_out >= old.errors_out >= 0
                assert nic.drops_in >= old.drops_in >= 0
                assert nic.drops_out >= old.drops_out >= 0

    play(scenario)


@pytest.mark.parametrize("reading", READINGS)
def test_what_cannot_be_read_is_never_guessed(play: Play, reading: str) -> None:
    async def scenario(bench: Bench) -> None:
        await READINGS[reading](bench.subject)
        bench.spoil(OSError(5, "Input/output error"))
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                await READINGS[reading](bench.subject)

    play(scenario)
