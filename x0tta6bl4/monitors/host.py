"""Reports the host's vital numbers: CPU, memory, descriptors, pressure, and every disk and network interface."""

import errno
from collections.abc import Sequence
from fnmatch import fnmatchcase

from pydantic import Field

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Observation
from x0tta6bl4.kernel.plugin import PluginConfig, monitor
from x0tta6bl4.kernel.units import Seconds
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.host import Disk, Host, Nic, Vitals

NO_PRESSURE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EOPNOTSUPP})
"""What opening or reading /proc/pressure says where the kernel was built or started without it."""


class Patterns(PluginConfig):
    include: list[str] = ["*"]
    """Shell patterns of the names to report; empty reports none at all."""
    exclude: list[str] = []
    """Shell patterns of the names to leave out of those."""

    def __contains__(self, name: str) -> bool:
        return any(fnmatchcase(name, p) for p in self.include) and not any(fnmatchcase(name, p) for p in self.exclude)


class Config(PluginConfig):
    subject: str = Field(default="host", min_length=1)
    """The name of the host's own numbers. Disks are ``disk:/mount`` and interfaces ``nic:name`` in any case."""
    pressure: bool = True
    """Whether to report pressure stall information, where the kernel has it. Off saves three small files a look, and
    overload can no longer be told from failure."""
    disks: Patterns = Patterns(exclude=["/snap/*", "/run/*"])
    """Mount points to report. Images that are full and read-only by nature belong into ``exclude``."""
    nics: Patterns = Patterns(exclude=["lo", "veth*", "cali*", "lxc*"])
    """Network interfaces to report. Those that come and go with containers belong into ``exclude``."""
    disks_every: Seconds = Field(default=30.0, ge=0)
    """Seconds between two looks at disks and interfaces. Raised, a disk that fills up is noticed later; lowered, each
    look costs more: every filesystem is asked."""


class HostMonitor:
    def __init__(self, name: str, config: Config, clock: Clock, host: Host) -> None:
        self.name = name
        self.config = config
        self._clock = clock
        self._host = host
        self._has_looked = False
        self._parts_at = float("-inf")
        self._nics: dict[str, tuple[float, int, int]] = {}

    @property
    def subjects(self) -> Sequence[str]:
        return (self.config.subject,)

    async def observe(self) -> Sequence[Observation]:
        seen = self._vitals(await self._host.vitals())
        if self.config.pressure:
            for resource, kinds in (("cpu", ("some",)), ("memory", ("some", "full")), ("io", ("some", "full"))):
                seen += await self._pressure(resource, kinds)
        now = self._clock.monotonic()
        if now - self._parts_at >= self.config.disks_every:
            # Before the looks: a filesystem that hangs blinds one look in so many seconds, and not every one.
            self._parts_at = now
            for disk in await self._host.disks():
                if disk.mount in self.config.disks:
                    seen += self._disk(disk)
            nics = [nic for nic in await self._host.nics() if nic.name in self.config.nics]
            for nic in nics:
                seen += self._nic(nic)
            self._nics = {nic.name: self._nics[nic.name] for nic in nics}
        return seen

    def _vitals(self, vitals: Vitals) -> list[Observation]:
        if vitals.cores < 1 or vitals.memory_total < 1 or vitals.fds_max < 1:
            raise ProbeFailed(f"the host's numbers cannot be: {vitals}")
        seen = [
            self._number("load1", vitals.load1),
            self._number("load1_per_core", vitals.load1 / vitals.cores),
            self._number("memory_total_bytes", vitals.memory_total),
            self._number("memory_available_bytes", vitals.memory_available),
            self._number("memory_available_ratio", vitals.memory_available / vitals.memory_total),
            self._number("fds_used_ratio", vitals.fds_used / vitals.fds_max),
        ]
        if self._has_looked:
            seen.append(self._number("cpu_busy_ratio", vitals.cpu_busy))
        self._has_looked = True  # The first reading has none before it, and its 0 is no measurement.
        if vitals.swap_total > 0:
            seen.append(self._number("swap_used_ratio", vitals.swap_used / vitals.swap_total))
        return seen

    async def _pressure(self, resource: str, kinds: Sequence[str]) -> list[Observation]:
        path = f"/proc/pressure/{resource}"
        try:
            text = await self._host.read_text(path)
        except OSError as error:
            if error.errno in NO_PRESSURE:
                return []
            raise
        # some avg10=0.12 avg60=0.05 avg300=0.01 total=123456
        found: dict[str, float] = {}
        try:
            for line in text.splitlines():
                kind, average, *_ = line.split()
                label, _, percent = average.partition("=")
                if label != "avg10":
                    raise ValueError(label)
                found[kind] = float(percent) / 100
            return [self._number(f"psi_{resource}_{kind}_ratio", found[kind]) for kind in kinds]
        except (ValueError, KeyError) as error:
            raise ProbeFailed(f"unexpected {path}: {text!r}") from error

    def _disk(self, disk: Disk) -> list[Observation]:
        subject = f"disk:{disk.mount}"
        seen = [
            Observation(self.name, subject, "disk_free_bytes", disk.free, detail=disk.device),
            Observation(self.name, subject, "disk_read_only", float(disk.read_only), detail=disk.device),
        ]
        if disk.total > 0:
            seen.append(Observation(self.name, subject, "disk_free_ratio", disk.free / disk.total))
        if disk.inodes_total > 0:  # btrfs and others make inodes as they are needed, and count none.
            seen.append(Observation(self.name, subject, "inodes_free_ratio", disk.inodes_free / disk.inodes_total))
        return seen

    def _nic(self, nic: Nic) -> list[Observation]:
        now = self._clock.monotonic()
        errors, drops = nic.errors_in + nic.errors_out, nic.drops_in + nic.drops_out
        before = self._nics.get(nic.name)
        self._nics[nic.name] = (now, errors, drops)
        # Counters that went back belong to a card that was reset, or to another one of the same name.
        if before is None or now <= before[0] or errors < before[1] or drops < before[2]:
            return []
        subject, passed = f"nic:{nic.name}", now - before[0]
        return [
            Observation(self.name, subject, "nic_errors_per_second", (errors - before[1]) / passed),
            Observation(self.name, subject, "nic_drops_per_second", (drops - before[2]) / passed),
        ]

    def _number(self, metric: str, value: float) -> Observation:
        return Observation(self.name, self.config.subject, metric, value)


PLUGIN = monitor(
    Config, lambda name, config, tools: HostMonitor(name, config, tools.clock, tools.host), every=5, timeout=5
)
