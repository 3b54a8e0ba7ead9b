"""The host adapter, held against what the kernel says of this very machine."""

import asyncio
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from x0tta6bl4.adapters import host as adapter
from x0tta6bl4.adapters.host import LinuxHost
from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.ports.host import Disk, Host


def test_vitals_are_those_of_this_machine() -> None:
    host: Host = LinuxHost()
    vitals = asyncio.run(host.vitals())
    lines = Path("/proc/meminfo").read_text().splitlines()
    meminfo = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}

    assert vitals.cores == len(os.sched_getaffinity(0)) or vitals.cores == os.cpu_count()
    assert vitals.memory_total == meminfo["MemTotal"]
    assert 0 < vitals.memory_available <= vitals.memory_total
    assert vitals.swap_total == meminfo["SwapTotal"]
    assert 0 < vitals.fds_used < vitals.fds_max
    assert f"\nbtime {vitals.boot_time:.0f}\n" in Path("/proc/stat").read_text()
    assert vitals.load1 >= 0


def test_business_is_the_share_since_the_reading_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Times(tuple[float, ...]):
        idle = property(lambda self: self[2])
        iowait = property(lambda self: self[3])
        guest = property(lambda self: self[4])
        guest_nice = property(lambda self: self[5])

    # user (guests included), system, idle, iowait, guest, guest_nice
    readings = [
        (100, 50, 800, 50, 40, 0),
        (130, 70, 830, 70, 60, 0),
        (130, 70, 830, 70, 60, 0),
        (140, 70, 830, 70, 60, 0),
    ]
    remaining = iter(readings)
    monkeypatch.setattr(psutil, "cpu_times", lambda: Times(next(remaining)))

    async def read() -> list[float]:
        host = LinuxHost()
        return [(await host.vitals()).cpu_busy for _ in readings]

    # Half of the time was busy; then no time passed at all, which says nothing new; then all of it was.
    assert asyncio.run(read()) == [0.0, 0.5, 0.5, 1.0]


def test_two_hosts_do_not_share_their_readings() -> None:
    async def read() -> float:
        await LinuxHost().vitals()
        return (await LinuxHost().vitals()).cpu_busy

    assert asyncio.run(read()) == 0


def test_the_root_filesystem_is_among_the_disks_with_its_true_size() -> None:
    disks = asyncio.run(LinuxHost().disks())
    if not any(part.mountpoint == "/" for part in psutil.disk_partitions(all=False)):
        pytest.skip("the root of this machine is no real filesystem (an overlay, perhaps)")
    root = next(disk for disk in disks if disk.mount == "/")
    space = os.statvfs("/")

    assert root.total == space.f_blocks * space.f_frsize
    assert 0 < root.free <= root.total
    assert root.inodes_total == space.f_files
    assert len({disk.device for disk in disks}) == len(disks)


def partition(device: str, mountpoint: str, fstype: str = "ext4") -> SimpleNamespace:
    return SimpleNamespace(device=device, mountpoint=mountpoint, fstype=fstype, opts="rw")


def test_a_device_is_counted_once_and_images_and_vanished_mounts_never(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bind").mkdir()
    parts = [
        partition("/dev/a", str(tmp_path / "bind")),
        partition("/dev/a", str(tmp_path)),
        partition("/dev/loop0", str(tmp_path), "squashfs"),
        partition("/dev/gone", str(tmp_path / "gone")),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: parts)

    assert [disk.mount for disk in asyncio.run(LinuxHost().disks())] == [str(tmp_path)]


def test_read_only_is_said_of_the_filesystem_and_not_of_the_mount() -> None:
    mountinfo = (
        "36 35 98:0 / /hardened ro,noatime shared:1 - ext4 /dev/a rw,errors=remount-ro\n"
        "37 35 98:1 / /broken rw,noatime - ext4 /dev/b ro,errors=remount-ro\n"
        "38 35 98:2 / /with\\040blank rw shared:2 master:1 - xfs /dev/c ro\n"
        "nonsense\n"
    )

    assert dict(adapter._read_only_filesystems(mountinfo)) == {"/hardened": False, "/broken": True, "/with blank": True}


def test_while_the_disks_hang_no_further_thread_is_given_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, calls = threading.Event(), []

    def hang() -> list[Disk]:
        calls.append(1)
        answer.wait()
        return []

    monkeypatch.setattr(adapter, "_disks", hang)

    async def ask() -> None:
        host = LinuxHost()
        try:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(host.disks(), 0.01)
            for _ in range(3):
                with pytest.raises(ProbeFailed, match="have not answered"):
                    await host.disks()
        finally:
            answer.set()
        while host._asking is not None and not host._asking.done():
            await asyncio.sleep(0)
        assert await host.disks() == []

    asyncio.run(ask())

    assert len(calls) == 2


def test_interfaces_come_with_their_counters_and_without_loopback() -> None:
    nics = {nic.name: nic for nic in asyncio.run(LinuxHost().nics())}
    folder = Path("/sys/class/net")
    expected = {path.name for path in folder.iterdir() if (path / "statistics").is_dir()} - {"lo"}

    assert set(nics) == expected
    for name, nic in nics.items():
        # Counters only grow; what was read before is not more than what is read now.
        assert nic.errors_in <= int((folder / name / "statistics" / "rx_errors").read_text())
        assert nic.drops_out <= int((folder / name / "statistics" / "tx_dropped").read_text())


def test_texts_are_read_whole_or_not_at_all(tmp_path: Path) -> None:
    host = LinuxHost()
    (tmp_path / "small").write_bytes(b"a\xffb\n")
    (tmp_path / "large").write_bytes(b"x" * (1024 * 1024 + 1))

    assert asyncio.run(host.read_text("/proc/loadavg")).count(" ") == 4
    assert asyncio.run(host.read_text(str(tmp_path / "small"))) == "a\N{REPLACEMENT CHARACTER}b\n"
    with pytest.raises(ProbeFailed, match="longer than"):
        asyncio.run(host.read_text(str(tmp_path / "large")))
    for missing in ("/proc/nothing", str(tmp_path / "nothing")):
        with pytest.raises(FileNotFoundError, match="nothing"):
            asyncio.run(host.read_text(missing))


def test_a_kernel_file_of_another_shape_is_not_guessed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_read", lambda path: "garbage")

    with pytest.raises(ProbeFailed, match="unexpected /proc/sys/fs/file-nr: 'garbage'"):
        asyncio.run(LinuxHost().vitals())
