"""Carries events from whoever notices something in the daemon to whoever wants to know; neither waits for the other."""

import asyncio
import inspect
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from types import MappingProxyType

from x0tta6bl4.kernel.events import Event, EventType
from x0tta6bl4.kernel.supervise import Failure, guarded

Handler = Callable[[Event], object]
"""May be a plain function, a coroutine function, or anything callable; an awaitable result is awaited."""

# A handler that never really waits would keep the event loop to itself for a whole full queue.
_TURN = 16

log = logging.getLogger("x0tta6bl4.kernel.bus")


class Subscription:
    """One handler's place at the bus: its queue and its figures. Calling it ends it; a second call does nothing."""

    __slots__ = (
        "_bus",
        "_ended",
        "_failing_since",
        "_full",
        "_queue",
        "_streak",
        "_wake",
        "delivered",
        "event_type",
        "failed",
        "handler",
        "missed",
        "timed_out",
    )

    def __init__(self, bus: "EventBus", event_type: EventType | None, handler: Handler) -> None:
        self._bus = bus
        self.event_type = event_type
        """None: all of them."""
        self.handler = handler
        self.delivered = 0
        """Events that the handler took and ended well with."""
        self.failed = 0
        """Events on which it raised or ran out of time."""
        self.timed_out = 0
        """Those of the failed that ran out of time."""
        self.missed = 0
        """Events it never saw to the end, because its queue was full or the bus was cancelled in the middle of one."""
        self._queue: deque[Event] = deque()
        self._wake: asyncio.Event | None = None
        self._ended = False
        self._full = False
        self._streak = 0
        self._failing_since = 0.0

    @property
    def name(self) -> str:
        inner = getattr(self.handler, "func", self.handler)  # what a partial stands for
        return str(getattr(inner, "__qualname__", type(inner).__qualname__))

    @property
    def queued(self) -> int:
        return len(self._queue)

    def __call__(self) -> None:
        self._bus._end(self)

    def __repr__(self) -> str:
        return f"<Subscription {self.name} to {self.event_type or 'all'}>"


class EventBus:
    """Bounded queue in, one bounded queue per subscription out.

    Publishing never waits: when the queue is full the event is refused, counted and said so. While
    ``process_events`` runs, each subscription has a task of its own: it gets its events in order, one after the other,
    and a slow or failing one delays and loses nothing but its own. When a subscription's queue (as long as the bus's
    own) is full, the newest event is left out for it alone and counted as missed.

    Only a handler that blocks the event loop delays the others; nothing here can prevent that. Belongs to the event
    loop's thread; from another one go through ``loop.call_soon_threadsafe``.
    """

    def __init__(
        self,
        max_queue_size: int = 1000,
        history_size: int = 100,
        handler_timeout: float | None = 5.0,
    ) -> None:
        """``handler_timeout``: seconds a handler may take for one event; None: as long as it likes."""
        if max_queue_size < 1:
            raise ValueError(f"max_queue_size must be at least 1, is {max_queue_size}")
        if history_size < 0:
            raise ValueError(f"history_size must not be negative, is {history_size}")
        if handler_timeout is not None and not handler_timeout > 0:
            raise ValueError(f"handler_timeout must be more than 0 seconds, or None; is {handler_timeout}")
        self._max = max_queue_size
        self._timeout = handler_timeout
        self._queue: deque[Event] = deque()
        self._history: deque[Event] = deque(maxlen=history_size)
        # Replaced, never changed: a handler may subscribe or unsubscribe while an event is being handed round.
        self._subscriptions: dict[EventType | None, tuple[Subscription, ...]] = {}
        self._dropped: Counter[EventType] = Counter()
        self._missed: Counter[EventType] = Counter()
        self._failed = 0
        self._refusing = False
        self._pending = 0
        """Events in the queue, in those of the subscriptions, and in the hands of handlers."""
        self._drains: set[asyncio.Future[bool]] = set()
        self._running = False
        self._stopping = False
        self._group: asyncio.TaskGroup | None = None
        self._wake: asyncio.Event | None = None

    # -- publishing

    async def publish(self, event: Event) -> bool:
        """False when the queue is full and the event was dropped. Does not wait."""
        return self.publish_nowait(event)

    def publish_nowait(self, event: Event) -> bool:
        """As ``publish``, from where nothing can be awaited. Needs no running event loop."""
        if not isinstance(event, Event):
            raise TypeError(f"only an Event can be published, not {type(event).__name__}")
        if len(self._queue) >= self._max:
            self._dropped[event.event_type] += 1
            if not self._refusing:
                self._refusing = True
                log.warning(
                    "the event queue of %d is full; events are dropped, this one is %s",
                    self._max,
                    event.event_type.value,
                )
            return False
        self._queue.append(event)
        self._history.append(event)
        self._pending += 1
        if self._wake is not None:
            self._wake.set()
        return True

    @property
    def queue_size(self) -> int:
        """Events accepted and not yet handed to the subscriptions."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        return len(self._queue) >= self._max

    @property
    def dropped(self) -> int:
        """Events refused because the queue was full: publish said False."""
        return self._dropped.total()

    @property
    def dropped_by_type(self) -> Mapping[EventType, int]:
        return MappingProxyType(dict(self._dropped))

    @property
    def missed(self) -> int:
        """Deliveries left out: an event that two subscriptions had no room for counts twice."""
        return self._missed.total()

    @property
    def missed_by_type(self) -> Mapping[EventType, int]:
        return MappingProxyType(dict(self._missed))

    @property
    def failed(self) -> int:
        """Calls of handlers that raised or ran out of time."""
        return self._failed

    def get_history(self, limit: int | None = None) -> list[Event]:
        """The latest accepted events, oldest first; no more than ``limit`` of them (0: none, None: all kept)."""
        if limit is None:
            return list(self._history)
        if limit < 0:
            raise ValueError(f"limit must not be negative, is {limit}")
        return list(self._history)[max(0, len(self._history) - limit) :]

    # -- subscribing

    def subscribe(self, event_type: EventType | str | None, handler: Handler) -> Subscription:
        """Hands every event of this type (None: every event) to the handler from now on; call the result to end that.

        A handler subscribed twice is called twice. Events still queued when it subscribes reach it too.
        """
        if not callable(handler):
            raise TypeError(f"a handler is something to call, not {handler!r}")
        kind = None if event_type is None else EventType(event_type)
        subscription = Subscription(self, kind, handler)
        self._subscriptions[kind] = (*self._subscriptions.get(kind, ()), subscription)
        self._start(subscription)
        return subscription

    def unsubscribe(self, event_type: EventType | str | None, handler: Handler) -> bool:
        """Ends the oldest such subscription; False when there is none."""
        kind = None if event_type is None else EventType(event_type)
        for subscription in self._subscriptions.get(kind, ()):
            if subscription.handler == handler:
                self._end(subscription)
                return True
        return False

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        return tuple(each for some in self._subscriptions.values() for each in some)

    def _end(self, subscription: Subscription) -> None:
        """No call begins after this one; one that is under way is let finish."""
        if subscription._ended:
            return
        subscription._ended = True
        kind = subscription.event_type
        rest = tuple(each for each in self._subscriptions[kind] if each is not subscription)
        if rest:
            self._subscriptions[kind] = rest
        else:
            del self._subscriptions[kind]
        unseen = len(subscription._queue)
        subscription._queue.clear()
        if subscription._wake is not None:
            subscription._wake.set()
        self._settle(unseen)

    # -- processing

    async def process_events(self) -> None:
        """Hands events round until cancelled or stopped. What is then still queued waits for the next run."""
        if self._running:
            raise RuntimeError("this bus is processing its events already")
        self._running = True
        try:
            async with asyncio.TaskGroup() as group:
                self._group, self._wake = group, asyncio.Event()
                try:
                    for subscription in self.subscriptions:
                        self._start(subscription)
                    await self._hand_round(self._wake)
                finally:
                    # Before the group closes: it takes no new tasks then.
                    self._group = self._wake = None
                    self._wake_all()
        finally:
            self._running = self._stopping = False
            for subscription in self.subscriptions:
                subscription._wake = None
            self._end_drains(False)

    def stop(self) -> None:
        """Ends ``process_events`` as soon as the handlers under way are done; ``drain`` first to lose no event.

        Called before processing began it ends the next run at once, so that a stop on the heels of a start holds.
        """
        self._stopping = True
        if self._wake is not None:
            self._wake.set()
        self._wake_all()

    async def drain(self, timeout: float | None = None) -> bool:
        """True once nothing is queued and no handler is at work; False when the time is up or processing ended first.

        Does not process anything itself: without ``process_events`` it waits for one. A handler that waits for this
        waits for itself.
        """
        if self._pending == 0:
            return True
        drained: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._drains.add(drained)
        try:
            async with asyncio.timeout(timeout):
                return await drained
        except TimeoutError:
            return False
        finally:
            self._drains.discard(drained)

    async def _hand_round(self, wake: asyncio.Event) -> None:
        while not self._stopping:
            while self._queue:
                event = self._queue.popleft()
                for subscription in self._subscriptions.get(event.event_type, ()):
                    self._enqueue(subscription, event)
                for subscription in self._subscriptions.get(None, ()):
                    self._enqueue(subscription, event)
                self._settle(1)
            if self._refusing:
                # Only now, with room for all: a queue at its brim would say so at every second event.
                self._refusing = False
                log.info("the event queue has room again; %d events were dropped so far", self.dropped)
            wake.clear()
            await wake.wait()

    def _enqueue(self, subscription: Subscription, event: Event) -> None:
        if len(subscription._queue) >= self._max:
            self._miss(subscription, event)
            if not subscription._full:
                subscription._full = True
                log.warning(
                    "handler %s is too slow: its queue of %d is full and it misses events", subscription.name, self._max
                )
            return
        subscription._queue.append(event)
        self._pending += 1
        if subscription._wake is not None:
            subscription._wake.set()

    def _start(self, subscription: Subscription) -> None:
        if self._group is not None and not self._stopping:
            subscription._wake = asyncio.Event()
            self._group.create_task(self._serve(subscription, subscription._wake), name=f"bus: {subscription.name}")

    async def _serve(self, subscription: Subscription, wake: asyncio.Event) -> None:
        served = 0
        while not (self._group is None or self._stopping or subscription._ended):
            if not subscription._queue:
                if subscription._full:
                    subscription._full = False
                    log.info(
                        "handler %s has caught up; it missed %d events so far", subscription.name, subscription.missed
                    )
                wake.clear()
                await wake.wait()
                continue
            await self._deliver(subscription, subscription._queue.popleft())
            served += 1
            if served % _TURN == 0:
                await asyncio.sleep(0)

    async def _deliver(self, subscription: Subscription, event: Event) -> None:
        async def call() -> None:
            answer = subscription.handler(event)
            if inspect.isawaitable(answer):
                await answer

        ended = False
        try:
            failure = await guarded(call, self._timeout)
            ended = True
        finally:
            if not ended:
                self._miss(subscription, event)
            self._settle(1)
        if failure is None:
            self._went_well(subscription)
        else:
            self._went_wrong(subscription, event, failure)

    def _went_well(self, subscription: Subscription) -> None:
        subscription.delivered += 1
        if subscription._streak:
            log.info(
                "handler %s works again, after %d failures in %.1f s",
                subscription.name,
                subscription._streak,
                asyncio.get_running_loop().time() - subscription._failing_since,
            )
            subscription._streak = 0

    def _went_wrong(self, subscription: Subscription, event: Event, failure: Failure) -> None:
        self._failed += 1
        subscription.failed += 1
        subscription.timed_out += failure.timed_out
        subscription._streak += 1
        if subscription._streak == 1:
            subscription._failing_since = asyncio.get_running_loop().time()
            log.error(
                "handler %s fails on %s %s: %s: %s; said once until it works again",
                subscription.name,
                event.event_type.value,
                event.event_id,
                failure.error,
                failure.message,
                exc_info=failure.exception,
            )

    def _miss(self, subscription: Subscription, event: Event) -> None:
        subscription.missed += 1
        self._missed[event.event_type] += 1

    def _settle(self, count: int) -> None:
        self._pending -= count
        if self._pending == 0:
            self._end_drains(True)

    def _end_drains(self, answer: bool) -> None:
        for drained in self._drains:
            if not drained.done():
                drained.set_result(answer)

    def _wake_all(self) -> None:
        for subscription in self.subscriptions:
            if subscription._wake is not None:
                subscription._wake.set()
