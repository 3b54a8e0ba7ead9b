"""Reports the one-minute load average, as /proc/loadavg gives it."""

from collections.abc import Sequence
from dataclasses import dataclass

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Observation
from x0tta6bl4.kernel.plugin import PluginConfig, monitor
from x0tta6bl4.ports.host import Host


class Config(PluginConfig):
    subject: str = "cpu"
    """The name under which the number is reported."""
    per_core: bool = True
    """Divide by the number of cores, so that 1.0 means fully busy on any machine; the metric is load1_per_core then."""


@dataclass(frozen=True)
class LoadAverage:
    name: str
    config: Config
    host: Host

    @property
    def subjects(self) -> Sequence[str]:
        return (self.config.subject,)

    async def observe(self) -> Sequence[Observation]:
        text = await self.host.read_text("/proc/loadavg")
        try:
            load = float(text.split()[0])
        except (IndexError, ValueError) as error:
            raise ProbeFailed(f"unexpected /proc/loadavg: {text!r}") from error
        if not self.config.per_core:
            return [Observation(self.name, self.config.subject, "load1", load)]
        # Not every architecture's /proc/cpuinfo has a line for each core; this file always counts them.
        text = await self.host.read_text("/sys/devices/system/cpu/online")
        return [Observation(self.name, self.config.subject, "load1_per_core", load / _count(text))]


def _count(cores: str) -> int:
    """How many numbers a list such as ``0-3,6`` names."""
    try:
        ranges = [part.split("-") for part in cores.strip().split(",")]
        count = sum(int(ends[-1]) - int(ends[0]) + 1 for ends in ranges)
    except ValueError as error:
        raise ProbeFailed(f"unexpected /sys/devices/system/cpu/online: {cores!r}") from error
    if count < 1:
        raise ProbeFailed(f"unexpected /sys/devices/system/cpu/online: {cores!r}")
    return count


PLUGIN = monitor(Config, lambda name, config, tools: LoadAverage(name, config, tools.host), every=30)
