"""The host monitor, on a scripted host."""

import asyncio
import errno
from dataclasses import replace
from typing import Any

import pytest

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Observation
from x0tta6bl4.kernel.plugin import Monitor
from x0tta6bl4.monitors import load_average
from x0tta6bl4.monitors.host import PLUGIN, Config, Patterns
from x0tta6bl4.testing.fakes import DISK, NIC, VITALS, FakeClock, FakeHost, tools


def monitor(host: FakeHost, clock: FakeClock | None = None, **settings: Any) -> Monitor:
    return PLUGIN.build("h", Config(**settings), tools(host=host, clock=clock or FakeClock()))


def look(watched: Monitor) -> dict[tuple[str, str], float]:
    seen: list[Observation] = list(asyncio.run(watched.observe()))
    assert len({(o.subject, o.metric) for o in seen}) == len(seen)
    return {(o.subject, o.metric): o.value for o in seen}


def test_the_hosts_numbers_are_reported() -> None:
    host = FakeHost()
    host.vital_numbers = replace(
        VITALS, cores=4, load1=2.0, memory_total=1000, memory_available=250, swap_total=100, swap_used=50,
        fds_used=10, fds_max=1000,
    )  # fmt: skip

    seen = {metric: value for (subject, metric), value in look(monitor(host)).items() if subject == "host"}

    assert seen == {
        "load1": 2.0, "load1_per_core": 0.5, "memory_total_bytes": 1000, "memory_available_bytes": 250,
        "memory_available_ratio": 0.25, "swap_used_ratio": 0.5, "fds_used_ratio": 0.01, "psi_cpu_some_ratio": 0,
        "psi_memory_some_ratio": 0, "psi_memory_full_ratio": 0, "psi_io_some_ratio": 0, "psi_io_full_ratio": 0,
    }  # fmt: skip


def test_the_cpus_share_is_not_reported_before_there_is_one() -> None:
    watched = monitor(FakeHost())

    assert ("host", "cpu_busy_ratio") not in look(watched)
    assert look(watched)["host", "cpu_busy_ratio"] == VITALS.cpu_busy


def test_a_host_without_swap_has_no_share_of_it_used() -> None:
    host = FakeHost()
    host.vital_numbers = replace(VITALS, swap_total=0, swap_used=0)

    assert ("host", "swap_used_ratio") not in look(monitor(host))


def test_pressure_is_a_share_from_0_to_1() -> None:
    host = FakeHost()
    host.texts["/proc/pressure/memory"] = (
        "some avg10=12.50 avg60=1.00 avg300=0.10 total=9\nfull avg10=6.25 avg60=0.00 avg300=0.00 total=1\n"
    )

    seen = look(monitor(host))

    assert (seen["host", "psi_memory_some_ratio"], seen["host", "psi_memory_full_ratio"]) == (0.125, 0.0625)


@pytest.mark.parametrize("reason", [None, OSError(errno.EOPNOTSUPP, "Operation not supported")])
def test_a_kernel_without_pressure_numbers_has_none_and_the_rest_is_reported(reason: OSError | None) -> None:
    class Old(FakeHost):
        async def read_text(self, path: str) -> str:
            if reason is not None:
                raise reason
            return await super().read_text(path)

    host = Old()
    host.texts.clear()

    seen = look(monitor(host))

    assert not [metric for _, metric in seen if metric.startswith("psi_")]
    assert seen["host", "load1"] == VITALS.load1


@pytest.mark.parametrize("text", ["", "some avg60=1 avg10=2", "some avg10=much", "full avg10=0.00 avg60=0.00"])
def test_pressure_that_cannot_be_understood_is_blindness(text: str) -> None:
    host = FakeHost()
    host.texts["/proc/pressure/cpu"] = text

    with pytest.raises(ProbeFailed, match="/proc/pressure/cpu"):
        look(monitor(host))


def test_each_disk_is_a_subject_of_its_own() -> None:
    host = FakeHost()
    host.disk_list = [
        replace(DISK, mount="/data", total=100, free=5, inodes_total=10, inodes_free=1, read_only=True),
        replace(DISK, mount="/btrfs", inodes_total=0, inodes_free=0),
        replace(DISK, mount="/snap/core/1", total=10, free=0, read_only=True),
    ]

    seen = look(monitor(host))

    assert {metric: v for (subject, metric), v in seen.items() if subject == "disk:/data"} == {
        "disk_free_bytes": 5, "disk_free_ratio": 0.05, "inodes_free_ratio": 0.1, "disk_read_only": 1,
    }  # fmt: skip
    assert ("disk:/btrfs", "disk_free_ratio") in seen and ("disk:/btrfs", "inodes_free_ratio") not in seen
    assert not [subject for subject, _ in seen if subject.startswith("disk:/snap")]


def test_disks_are_chosen_by_the_operators_patterns() -> None:
    host = FakeHost()
    host.disk_list = [replace(DISK, mount=mount) for mount in ("/", "/data/a", "/data/b")]

    seen = look(monitor(host, disks=Patterns(include=["/data/*"], exclude=["*/b"])))

    assert {subject for subject, _ in seen if subject.startswith("disk:")} == {"disk:/data/a"}


def test_disks_and_interfaces_are_looked_at_seldom() -> None:
    clock = FakeClock()
    watched = monitor(FakeHost(), clock)
    looks = []
    for _ in range(13):
        looks.append(("disk:/", "disk_free_ratio") in look(watched))
        clock.advance(5.0)

    assert [number for number, has_disks in enumerate(looks) if has_disks] == [0, 6, 12]


def test_a_disk_that_cannot_be_read_blinds_one_look_and_not_the_next() -> None:
    class Stuck(FakeHost):
        async def disks(self) -> Any:
            raise OSError(errno.EIO, "Input/output error")

    clock = FakeClock()
    watched = monitor(Stuck(), clock)

    with pytest.raises(OSError, match="Input/output"):
        look(watched)
    clock.advance(5.0)
    assert look(watched)["host", "load1"] == VITALS.load1


def test_an_interfaces_errors_are_rates_between_two_looks_and_none_come_of_a_reset() -> None:
    host, clock = FakeHost(), FakeClock()
    watched = monitor(host, clock, disks_every=10)
    rates = []
    for errors, drops in ((100, 7), (160, 27), (5, 30), (5, 40)):
        host.nic_list = [replace(NIC, errors_in=errors, drops_out=drops), replace(NIC, name="veth1", errors_in=errors)]
        seen = look(watched)
        rates.append(tuple(seen.get(("nic:eth0", f"nic_{what}_per_second")) for what in ("errors", "drops")))
        assert not [subject for subject, _ in seen if subject == "nic:veth1"]
        clock.advance(10.0)

    assert rates == [(None, None), (6.0, 2.0), (None, None), (0.0, 1.0)]


def test_numbers_that_cannot_be_are_blindness() -> None:
    host = FakeHost()
    host.vital_numbers = replace(VITALS, memory_total=0)

    with pytest.raises(ProbeFailed):
        look(monitor(host))


@pytest.mark.parametrize(
    ("cores", "per_core", "expected"),
    [("0-3\n", True, ("load1_per_core", 0.1)), ("0,2-4\n", True, ("load1_per_core", 0.1)), ("", False, ("load1", 0.4))],
)
def test_the_load_average_is_divided_by_the_cores_that_are_there(
    cores: str, per_core: bool, expected: tuple[str, float]
) -> None:
    host = FakeHost()
    host.texts["/sys/devices/system/cpu/online"] = cores
    config = load_average.Config(per_core=per_core)

    (seen,) = asyncio.run(load_average.LoadAverage("l", config, host).observe())

    assert (seen.metric, seen.value) == expected


@pytest.mark.parametrize(
    ("path", "text"),
    [("/proc/loadavg", "garbage"), ("/proc/loadavg", ""), ("/sys/devices/system/cpu/online", "many")],
)
def test_a_load_average_that_cannot_be_understood_is_blindness(path: str, text: str) -> None:
    host = FakeHost()
    host.texts[path] = text

    with pytest.raises(ProbeFailed, match=path):
        asyncio.run(load_average.LoadAverage("l", load_average.Config(), host).observe())
