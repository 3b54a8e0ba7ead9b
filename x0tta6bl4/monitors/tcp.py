"""Connects to a TCP port and reports whether and how fast the connection was taken."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from x0tta6bl4.kernel.facts import Observation
from x0tta6bl4.kernel.plugin import PluginConfig, monitor
from x0tta6bl4.kernel.units import Seconds
from x0tta6bl4.monitors.http import raise_if_blind
from x0tta6bl4.ports.network import Network


class Config(PluginConfig):
    subject: str = Field(min_length=1)
    """The name of what is connected to; observations are reported under it."""
    host: str = Field(default="127.0.0.1", min_length=1)
    """Name or address to connect to."""
    port: int = Field(ge=1, le=65535)
    """TCP port to connect to."""
    probe: Literal["health", "work"] = "work"
    """Which claim a taken connection supports. The kernel takes it for a hung program too, as long as its queue has
    room: where the service speaks HTTP, ask it a question instead."""
    within: Seconds = Field(default=1.2, gt=0, le=60)
    """Seconds in which the connection must be taken. Raised, a hung service is noticed later; lowered, a slow one is
    taken for a hung one."""


@dataclass(frozen=True)
class TcpProbe:
    name: str
    config: Config
    network: Network

    @property
    def subjects(self) -> Sequence[str]:
        return (self.config.subject,)

    async def observe(self) -> Sequence[Observation]:
        # As for HTTP: silence within this bound is what the probe is about, not blindness.
        limit = asyncio.timeout(self.config.within)
        try:
            async with limit:
                seconds = await self.network.tcp(self.config.host, self.config.port)
        except OSError as error:
            if limit.expired():
                return [self._number("up", 0.0, f"no answer within {self.config.within:g} s")]
            raise_if_blind(error)
            return [self._number("up", 0.0, str(error))]
        return [self._number("up", 1.0), self._number("seconds", seconds)]

    def _number(self, what: str, value: float, detail: str = "") -> Observation:
        return Observation(self.name, self.config.subject, f"{self.config.probe}_{what}", value, detail=detail)


PLUGIN = monitor(
    Config, lambda name, config, tools: TcpProbe(name, config, tools.network), every=0.5, timeout=10, overlap=6
)
