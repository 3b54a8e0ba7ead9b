"""What the handlers of the endpoint share: the daemon's face, the settings, and who keeps keys, links and streams."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from x0tta6bl4.adapters.alerts import AlertInbox
from x0tta6bl4.kernel.errors import StoreError, X0tError
from x0tta6bl4.kernel.facts import Incident
from x0tta6bl4.ports.database import Database
from x0tta6bl4.status.access import Access
from x0tta6bl4.status.door import Door, DoorSettings
from x0tta6bl4.status.face import Face
from x0tta6bl4.status.filekeys import FileKeys
from x0tta6bl4.status.links import Links
from x0tta6bl4.status.problems import Refusal, store_failing, unknown
from x0tta6bl4.status.report import CpuUse, Listening
from x0tta6bl4.status.routes import refused_for
from x0tta6bl4.status.stories import Listing, Misasked, Unknown
from x0tta6bl4.status.stream import Stream
from x0tta6bl4.status.tls import Certificate


class EndpointSettings(DoorSettings, Protocol):
    """What the endpoint must know of the settings; ``settings.model.StatusSettings`` has it."""

    @property
    def port(self) -> int: ...

    @property
    def prometheus_port(self) -> int | None: ...

    @property
    def metrics_enabled(self) -> bool: ...

    @property
    def metrics_open(self) -> bool: ...

    @property
    def health_check_interval(self) -> float: ...


@dataclass(frozen=True)
class Behind:
    """What the endpoint stands on, beside the daemon's face."""

    database: Database
    access: Access
    keys: FileKeys = field(default_factory=lambda: FileKeys({}))
    links: Links | None = None
    """None: no message carries a link that answers."""
    certificate: Certificate | None = None
    """None: plain HTTP."""
    alerts: AlertInbox = field(default_factory=AlertInbox)


@dataclass
class Desk:
    face: Face
    settings: EndpointSettings
    behind: Behind
    door: Door
    stream: Stream
    connections: Callable[[], int] = lambda: 0
    listening: Listening = field(default_factory=Listening)
    cpu: CpuUse = field(default_factory=CpuUse)
    listing: Listing = field(default_factory=Listing)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the configuration is read anew: one after the other."""
    answering: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held from the look at a question to the answer: of two at once, one is told that it came too late."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def keep(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """What goes on behind an answer; it ends with the endpoint at the latest."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def heed(self) -> None:
        """The loop looks at what other processes have written; this was its own."""
        try:
            await self.face.loop.refresh()
        except StoreError:
            pass  # it is on disk: the loop finds it as soon as the store can be read again

    async def incident(self, id: str) -> Incident:
        """A Refusal when there is none; may raise StoreError."""
        loop = self.face.loop
        # An incident of the loop's own is newer than the one on disk.
        found = next((i for i in loop.incidents.open if i.id == id), None) or await loop.parts.knowledge.incident(id)
        if found is None:
            raise unknown("NO_SUCH_INCIDENT", f"there is no incident {id[:100]!a}")
        return found

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def in_words(error: BaseException | None) -> Refusal | None:
    """The answer for what whoever is asked raises; None: nobody foresaw it."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, StoreError):
        return store_failing(error, "it cannot be read")
    suggestions = [error.remedy] if isinstance(error, X0tError) and error.remedy else []
    if isinstance(error, Unknown):
        return unknown("UNKNOWN", error.message, suggestions)
    if isinstance(error, Misasked):
        return refused_for(
            "BAD_QUERY",
            "the query",
            [{"where": str(error.details["parameter"]), "message": error.message, "hint": error.remedy}],
        )
    return None
