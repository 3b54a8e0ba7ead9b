"""A statechart that runs by itself: its queue, its timers, its hooks and its account, without a host around it."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from x0tta6bl4.statechart.core.content import Runtime
from x0tta6bl4.statechart.core.effect import Cancelled, Effect, Ended, Faulted, Sent
from x0tta6bl4.statechart.core.event import Event, EventQueue, Priority
from x0tta6bl4.statechart.core.machine import Chart, Instance, Plan, UnsafeModification, modified
from x0tta6bl4.statechart.core.state import Definition
from x0tta6bl4.statechart.core.tables import bits
from x0tta6bl4.statechart.runtime.executor import MICROSTEPS, EndlessLoop, cancel, handle, observe, settle, start
from x0tta6bl4.statechart.runtime.scheduler import Timers, TooManyTimers

if TYPE_CHECKING:
    from x0tta6bl4.statechart.extensions.hooks import Hooks, Point
    from x0tta6bl4.statechart.runtime.monitor import Monitor


class QueueFull(RuntimeError):
    """So many events wait that this one was not taken."""


class Machine:
    """Belongs to one thread. Events that are sent while a step is under way, by its own actions or by hooks, wait until
    it is over; ``send`` then returns None, otherwise whether a transition was taken.

    ``outside`` is handed every effect that is not the machine's own business: events for other targets, activities,
    log lines, faults, the end. It should not raise: the step is over by then, and what else it asked for would be lost.
    """

    def __init__(
        self,
        chart: Chart | Definition,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        hooks: "Hooks | None" = None,
        monitor: "Monitor | None" = None,
        outside: Callable[[Effect], None] | None = None,
        id: str = "",
    ) -> None:
        self.chart = chart if isinstance(chart, Chart) else Chart(chart)
        self.runtime = Runtime()
        self.instance = Instance(self.chart, id or self.chart.name, self.runtime)
        self.fault: Faulted | None = None
        """Why the latest step was taken back, if it was."""
        self.ended: Ended | None = None
        self._clock = clock
        self._wall = wall
        self._timers = Timers(clock)
        self._queue = EventQueue()
        self._waiting = False
        """Perhaps something is in the queue; asked with every event, so it has to be cheap."""
        self._hooks = hooks
        self._monitor = monitor
        self._outside = outside
        self._busy = False
        if monitor is not None:
            monitor.watch(self.runtime)
        if hooks is not None:
            self.runtime.steps = []

    # What it is like

    @property
    def id(self) -> str:
        return self.instance.id

    @property
    def configuration(self) -> tuple[str, ...]:
        """Ids of the active states, in document order; after the end, of those it ended in."""
        return self.instance.node.names

    @property
    def data(self) -> Mapping[str, Any]:
        return self.instance.data

    @property
    def done(self) -> bool:
        return self.instance.mask != 0 and not self.instance.running

    @property
    def result(self) -> Any:
        """What the final state handed over; None before the end."""
        return None if self.ended is None else self.ended.result

    def is_in(self, state: str) -> bool:
        return self.instance.is_in(state)

    # What happens to it

    def start(self, **data: Any) -> Self:
        """``data``: variables of the chart that begin with another value than it says."""
        self._idle("started")
        self._busy = True
        try:
            self.instance.seq += 1
            self.runtime.now = self._wall()
            start(self.instance, data)
            self._call("started")
            self._after(None, True)
        finally:
            self._busy = False
        self._drain()
        return self

    def send(
        self,
        name: str,
        data: Any = None,
        *,
        priority: Priority = Priority.NORMAL,
        delay: float = 0.0,
        id: str = "",
    ) -> bool | None:
        """``id`` names the event while it waits, so that ``cancel`` finds it."""
        event = Event(name, data, priority=priority, id=id)
        if delay > 0:
            self._timers.arm(self.id, id, delay, event)
            return None
        return self.post(event)

    def post(self, event: Event) -> bool | None:
        """The same with an event that has more to say, such as the id of the activity that it comes from."""
        if self._busy:
            self._put(event)
            return None
        if not self.instance.mask:
            raise RuntimeError(f"{self.id!r} was not started{f' ({self.fault.why})' if self.fault else ''}")
        if self._waiting:  # left over, because a step raised
            self._drain()
        self._busy = True
        try:
            taken = self._one(event)
        finally:
            self._busy = False
        if self._waiting:
            self._drain()
        return taken

    def cancel(self, id: str) -> bool:
        """Takes back events that still wait under this id, in the queue or for their time."""
        waiting = self._queue.cancel(id)
        return bool(self._timers.cancel(self.id, id)) or waiting

    def advance(self) -> float | None:
        """Lets happen what is due. Returns the seconds until there is more to do; None: nothing waits."""
        if not self._busy:
            due = self._timers.due(most=1)
            while due:
                self.post(due[0].event)
                due = self._timers.due(most=1)
        return self._timers.seconds_left()

    def observe(self) -> bool:
        """Asks the change events again. Needed only when something they depend on changed from outside."""
        self._idle("observed")
        self._busy = True
        try:
            taken = self._changes()
        finally:
            self._busy = False
        self._drain()
        return taken

    def stop(self) -> None:
        """Ends it from outside; what was entered is exited."""
        self._idle("stopped")
        if self.instance.running:
            self._busy = True
            try:
                self.runtime.now = self._wall()
                cancel(self.instance)
                self._after(None, True)
            finally:
                self._busy = False

    # What it is turned into

    def modify(self, chart: Chart | Definition) -> None:
        """Goes on under another chart, from the same place, or raises UnsafeModification and goes on as before.

        Time events that are new to an active state begin now, those that are no more are taken back, the others keep
        their deadline. Activities that are new to an active state begin when it is entered next.
        """
        self._idle("modified")
        chart = chart if isinstance(chart, Chart) else Chart(chart)
        before = self.instance
        self._busy = True
        try:
            self.runtime.now = self._wall()
            instance = modified(before, chart)
            armed = {name: arm for n in (0, *bits(instance.mask)) for name, arm in chart.afters[n]}
            there = {name for n in (0, *bits(before.mask)) for name, _ in before.chart.afters[n]}
            if instance.running:
                instance.seq += 1
                for name, arm in armed.items():
                    if name not in there:
                        arm(instance)
                try:
                    settle(instance)
                except EndlessLoop as loop:
                    self._forget()
                    raise UnsafeModification([str(loop)]) from loop
            faults = [effect for effect in self.runtime.effects if isinstance(effect, Faulted)]
            if faults:
                self._forget()
                raise UnsafeModification([f"{fault.what}: {fault.why}" for fault in faults])
            self.chart, self.instance = chart, instance
            for name in there - armed.keys():
                self.cancel(name)
            self._after(None, True)
            self._call("modified", chart=chart)
        finally:
            self._busy = False
        self._drain()

    def snapshot(self) -> dict[str, Any]:
        """All of it as JSON values, at rest."""
        from x0tta6bl4.statechart.persistence import serializer  # only who keeps machines needs it

        self._idle("written down")
        return serializer.snapshot(self.instance, timers=self._timers.snapshot(self._wall(), self.id))

    def restore(self, snapshot: Mapping[str, Any]) -> Self:
        """Becomes what was written down, instead of being started. Timers that were due meanwhile are due now."""
        from x0tta6bl4.statechart.persistence import serializer

        self._idle("restored")
        instance = serializer.restore(self.chart, snapshot, self.runtime)
        # What waited for the life that ends here is no concern of the one that goes on.
        self._timers.drop(self.id)
        self._queue = EventQueue(self._queue.limit)
        self._waiting = False
        self.instance, self.fault, self.ended = instance, None, None
        self._timers.restore(snapshot.get("timers", ()), self._wall())
        self._call("restored")
        return self

    # What it has to say for itself

    def explain(self) -> Any:
        """Why it is where it is. Knows what happened since it was given its monitor."""
        return self._account().explain(self.instance)

    def why_not(self, target: str) -> Any:
        """Why a state is not entered, or an event does nothing."""
        return self._account().why_not(self.instance, target)

    def _account(self) -> "Monitor":
        if self._monitor is None:
            from x0tta6bl4.statechart.runtime.monitor import Monitor

            self._monitor = Monitor()
            self._monitor.watch(self.runtime)
        return self._monitor

    # One step

    def _idle(self, what: str) -> None:
        if self._busy:
            raise RuntimeError(
                f"{self.id!r} cannot be {what} while a step is under way; do it when `send` has returned"
            )

    def _put(self, event: Event) -> None:
        if not self._queue.put(event):
            raise QueueFull(f"{len(self._queue)} events wait for {self.id!r}; {event.name!r} was not taken")
        self._waiting = True

    def _drain(self) -> None:
        """What was sent meanwhile. An end to it must come: a machine that keeps sending to itself is a loop."""
        if self._busy:
            return
        count = 0
        self._busy = True
        try:
            while (event := self._queue.take()) is not None:
                count += 1
                if count > MICROSTEPS:
                    raise EndlessLoop(f"{self.id!r} has sent itself {MICROSTEPS} events in a row; next: {event.name!r}")
                self._one(event)
            self._waiting = False
        finally:
            self._busy = False

    def _one(self, event: Event) -> bool:
        if self._hooks is not None:
            self._call("before_event", event=event)
        self.fault = None
        instance = self.instance
        instance.seq += 1
        if self.chart.content.asks_time:
            self.runtime.now = self._wall()
        taken = handle(instance, event)
        self._after(event, taken)
        return taken

    def _after(self, event: Event | None, taken: bool) -> None:
        if self.runtime.effects or self.runtime.steps is not None:
            self._tell(event, taken)
        if self.instance.node.changes and self.instance.running:
            self._changes()

    def _changes(self) -> bool:
        """Change events until none is left. Data that a step has changed may make the next one true."""
        instance = self.instance
        if self.chart.content.asks_time:
            self.runtime.now = self._wall()
        for count in range(MICROSTEPS):
            instance.seq += 1
            taken = observe(instance)
            self._tell(None, taken)
            if not taken:
                return count > 0
        raise EndlessLoop(f"change events of {self.id!r} cause one another without end")

    def _forget(self) -> None:
        self.runtime.effects.clear()
        if self.runtime.steps is not None:
            self.runtime.steps.clear()

    def _tell(self, event: Event | None, taken: bool) -> None:
        runtime = self.runtime
        effects = runtime.effects[:]
        steps = () if runtime.steps is None else tuple(runtime.steps)
        if self._monitor is not None:
            self._monitor.record(self.instance, event, self._clock(), taken)
        self._forget()
        if self._hooks is not None:
            for cause, plan in steps:
                self._call_step(self._hooks, cause, plan)
        full: Exception | None = None
        for effect in effects:
            match effect:
                case Sent(target=None):
                    try:
                        self._later(effect)
                    except (QueueFull, TooManyTimers) as error:
                        full = error  # the other effects first: the step that asked for them has been taken
                case Cancelled():
                    self.cancel(effect.id)
                    continue
                case Faulted():
                    self.fault = effect
                    self._call("faulted", fault=effect, event=event)
                case Ended():
                    self.ended = effect
                    self._timers.drop(self.id)
                    self._queue = EventQueue(self._queue.limit)
                    self._call("ended", end=effect)
            if self._outside is not None and not (isinstance(effect, Sent) and effect.target is None):
                self._outside(effect)
        if event is not None:
            self._call("after_event", event=event, taken=taken)
        if full is not None:
            raise full

    def _later(self, sent: Sent) -> None:
        event = Event(sent.event, sent.data, sendid=sent.id, id=sent.id or "")
        if sent.delay > 0:
            self._timers.arm(self.id, event.id, sent.delay, event)
        else:
            self._put(event)

    def _call(self, point: str, **known: Any) -> None:
        if self._hooks is not None:
            self._hooks.call(_point(point), instance=self.instance, **known)

    def _call_step(self, hooks: "Hooks", event: Event | None, plan: Plan) -> None:
        names = self.chart.names
        for n in plan.exits:
            hooks.call(_point("exited"), instance=self.instance, state=names[n], event=event)
        for edge in plan.edges:
            hooks.call(_point("transition"), instance=self.instance, transition=edge, event=event)
        for n in plan.enters:
            hooks.call(_point("entered"), instance=self.instance, state=names[n], event=event)


def _point(name: str) -> "Point":
    from x0tta6bl4.statechart.extensions.hooks import Point  # there is one already, when there are hooks

    return Point(name)
