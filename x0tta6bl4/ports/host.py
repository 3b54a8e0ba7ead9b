"""The host: its vital numbers and the text files in which the kernel reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Vitals:
    """One reading of the whole host. Ratios run from 0 to 1; sizes are bytes."""

    cores: int
    cpu_busy: float
    """Share of CPU time that was not idle since the reading before; 0 at the very first one."""
    load1: float
    load5: float
    load15: float
    memory_total: int
    memory_available: int
    swap_total: int
    swap_used: int
    fds_used: int
    fds_max: int
    boot_time: float


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted filesystem that holds files (no pseudo filesystems)."""

    mount: str
    device: str
    total: int
    free: int
    """Bytes an unprivileged process may still write."""
    inodes_total: int
    inodes_free: int
    read_only: bool


@dataclass(frozen=True, slots=True)
class Nic:
    """A network interface: counters since boot."""

    name: str
    is_up: bool
    errors_in: int
    errors_out: int
    drops_in: int
    drops_out: int


class Host(Protocol):
    """Readings never invent: what cannot be read raises ``ProbeFailed`` or ``OSError``, it is never guessed."""

    async def read_text(self, path: str) -> str:
        """The whole of a small text file, such as /proc/loadavg. OSError when it cannot be read."""
        ...

    async def vitals(self) -> Vitals: ...

    async def disks(self) -> Sequence[Disk]: ...

    async def nics(self) -> Sequence[Nic]: ...
