"""Reads the vital numbers of the host the daemon runs on."""

import asyncio
import os
import re
from collections.abc import Iterator, Sequence

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.ports.host import Disk, Nic, Vitals

_TEXT_LIMIT = 1024 * 1024
# Images: always full, never written.
_IMAGES = frozenset({"squashfs", "iso9660", "udf", "erofs", "cramfs", "romfs"})

# How the kernel writes a blank, a tab, a line feed and a backslash in a path.
_OCTAL = re.compile(r"\\([0-7]{3})")


class LinuxHost:
    def __init__(self) -> None:
        self._cpu: tuple[float, float] | None = None
        self._busy = 0.0
        self._asking: asyncio.Future[Sequence[Disk]] | None = None

    async def read_text(self, path: str) -> str:
        # The kernel's own files are made on the spot; any other may lie on a disk that hangs.
        if path.startswith(("/proc/", "/sys/")):
            return _read(path)
        return await asyncio.to_thread(_read, path)

    async def vitals(self) -> Vitals:
        import psutil

        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        load1, load5, load15 = os.getloadavg()
        text = _read("/proc/sys/fs/file-nr")
        try:
            fds_used, _, fds_max = map(int, text.split())
        except ValueError as error:
            raise ProbeFailed(f"unexpected /proc/sys/fs/file-nr: {text!r}") from error
        return Vitals(
            cores=psutil.cpu_count() or os.cpu_count() or 1,
            cpu_busy=self._cpu_busy(),
            load1=load1,
            load5=load5,
            load15=load15,
            memory_total=memory.total,
            memory_available=memory.available,
            swap_total=swap.total,
            swap_used=swap.used,
            fds_used=fds_used,
            fds_max=fds_max,
            boot_time=psutil.boot_time(),
        )

    def _cpu_busy(self) -> float:
        # Not psutil.cpu_percent(): its last reading belongs to the whole process, ours to this instance.
        import psutil

        times = psutil.cpu_times()
        idle = times.idle + times.iowait
        # The guests' time is already part of user and nice.
        total = sum(times) - times.guest - times.guest_nice
        if self._cpu is not None and total > self._cpu[1]:
            self._busy = min(1.0, max(0.0, 1 - (idle - self._cpu[0]) / (total - self._cpu[1])))
        self._cpu = (idle, total)
        return self._busy

    async def disks(self) -> Sequence[Disk]:
        if self._asking is not None and not self._asking.done():
            # Each further question would hang in a thread of its own until none is left for anybody.
            raise ProbeFailed("the disks have not answered the question before this one", remedy="see `dmesg`")
        self._asking = asyncio.get_running_loop().run_in_executor(None, _disks)
        self._asking.add_done_callback(_look_at)
        return await asyncio.shield(self._asking)

    async def nics(self) -> Sequence[Nic]:
        import psutil

        states = psutil.net_if_stats()
        return [
            Nic(name, states[name].isup, io.errin, io.errout, io.dropin, io.dropout)
            for name, io in sorted(psutil.net_io_counters(pernic=True, nowrap=False).items())
            if name != "lo" and name in states
        ]


def _look_at(asked: "asyncio.Future[Sequence[Disk]]") -> None:
    if not asked.cancelled():
        asked.exception()  # Told to whoever still waits; nobody may.


def _read(path: str) -> str:
    with open(path, "rb") as file:
        data = file.read(_TEXT_LIMIT + 1)
    if len(data) > _TEXT_LIMIT:
        raise ProbeFailed(f"{path} is longer than {_TEXT_LIMIT} bytes")
    return data.decode(errors="replace")


def _disks() -> Sequence[Disk]:
    import psutil

    read_only = dict(_read_only_filesystems(_read("/proc/self/mountinfo")))
    disks: dict[str, Disk] = {}
    # The shortest mount point first: it is the one people know a filesystem by.
    for part in sorted(psutil.disk_partitions(all=False), key=lambda part: (len(part.mountpoint), part.mountpoint)):
        if part.device in disks or part.fstype in _IMAGES:
            continue
        try:
            space = os.statvfs(part.mountpoint)
        except (FileNotFoundError, PermissionError):
            continue  # Unmounted meanwhile, or below a folder that is not ours to enter.
        if space.f_blocks == 0:
            continue
        disks[part.device] = Disk(
            mount=part.mountpoint,
            device=part.device,
            total=space.f_blocks * space.f_frsize,
            free=space.f_bavail * space.f_frsize,
            inodes_total=space.f_files,
            inodes_free=space.f_favail,
            read_only=read_only.get(part.mountpoint, False),
        )
    return list(disks.values())


def _read_only_filesystems(mountinfo: str) -> Iterator[tuple[str, bool]]:
    """By mount point, whether the filesystem itself is read-only.

    Not whether the mount is: under ProtectSystem= every mount is read-only for the daemon, however well the disk is.
    """
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        mount, options = before.split(" "), after.split(" ")
        if dash and len(mount) > 4 and len(options) > 2:
            yield _OCTAL.sub(lambda code: chr(int(code[1], 8)), mount[4]), "ro" in options[2].split(",")
