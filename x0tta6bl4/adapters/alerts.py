"""Takes alerts at the endpoint's door and keeps them for their reader: bounded, without copies, over every reload."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Literal

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.ports.alerts import Alert, Told
from x0tta6bl4.ports.clock import Clock

QUEUE = 1000
"""Notices that may wait for their reader. One more is refused, and the sender is told (503) to come again: it then
sends all of its notice anew, and what was taken before is known."""
REMEMBERED = 2000
"""Alerts whose latest notice is remembered. Past it the one that was told of longest ago is forgotten: should its
sender repeat it, it counts as new."""
LATE = 300.0
"""Seconds after a resolved notice in which a firing one with the same beginning is a copy that was long under way.
After them it fires again: a sender that lost sight of it for a while keeps its beginning."""

Received = Literal["taken", "known", "ignored"]


class Overflow(Exception):
    """The notice cannot be taken at the moment. Nothing was kept of it."""


class AlertInbox:
    def __init__(self, clock: Clock | None = None, *, queue: int = QUEUE, remembered: int = REMEMBERED) -> None:
        self._clock = clock or SystemClock()
        self._remembered = remembered
        self._waiting: asyncio.Queue[Told] = asyncio.Queue(queue)
        self._known: dict[str, Told] = {}
        """The latest notice by fingerprint, the one told longest ago first."""
        self._wants: Callable[[Alert], bool] | None = None

    @property
    def is_heard(self) -> bool:
        return self._wants is not None

    def offer(self, alert: Alert) -> Received:
        """Raises Overflow when it has to come again: there is no room, or nobody listens."""
        if self._wants is None:
            raise Overflow
        if not self._wants(alert):
            return "ignored"
        now = self._clock.monotonic()
        before = self._known.get(alert.fingerprint)
        if before is not None and _is_copy(alert, before, now):
            return "known"
        latest = before.alert if before is not None else None
        repeats = latest is not None and latest.firing and alert.firing and latest.starts_at == alert.starts_at
        told = Told(alert, now, is_new=not repeats)
        try:
            self._waiting.put_nowait(told)
        except asyncio.QueueFull:
            raise Overflow from None
        self._known.pop(alert.fingerprint, None)
        self._known[alert.fingerprint] = told
        if len(self._known) > self._remembered:
            del self._known[next(iter(self._known))]
        return "taken" if told.is_new else "known"

    def firing(self) -> Sequence[Told]:
        return [told for told in self._known.values() if told.alert.firing]

    async def listen(self, wants: Callable[[Alert], bool]) -> AsyncGenerator[Told, None]:
        if self._wants is not None:
            raise ProbeFailed(
                "another monitor listens to the alerts already", remedy="keep one monitor with `use: alerts`"
            )
        self._wants = wants
        try:
            while True:
                yield await self._waiting.get()
        finally:
            self._wants = None


def _is_copy(alert: Alert, before: Told, now: float) -> bool:
    """Whether it says nothing that is not known. That it still fires is no copy: its sender says so today as well."""
    latest = before.alert
    if alert.starts_at != latest.starts_at:
        return alert.starts_at < latest.starts_at
    if latest.firing:
        return False
    return not alert.firing or now - before.at < LATE
