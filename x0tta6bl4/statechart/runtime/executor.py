"""Runs instances: one event, one macrostep, from rest to rest; or back to where it was, when something failed."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from x0tta6bl4.statechart.core.content import Runtime, StepFailed, raise_error, told
from x0tta6bl4.statechart.core.effect import Ended, Faulted, Forwarded, Stopped
from x0tta6bl4.statechart.core.event import Event, catches
from x0tta6bl4.statechart.core.machine import Chart, Instance, Plan, Selection
from x0tta6bl4.statechart.core.region import FINAL
from x0tta6bl4.statechart.core.tables import Edge, bits, give, outcome
from x0tta6bl4.statechart.types.base import nearest

__all__ = [
    "DEFERRED",
    "MICROSTEPS",
    "EndlessLoop",
    "Instance",
    "Runtime",
    "cancel",
    "handle",
    "new",
    "observe",
    "settle",
    "start",
]

MICROSTEPS = 10_000
"""Of one macrostep. Whoever needs more is going round in a circle."""
DEFERRED = 1_000
"""Events that may wait in one instance."""


class EndlessLoop(Exception):
    """A macrostep found no rest. It was taken back."""


def new(chart: Chart, id: str, runtime: Runtime) -> Instance:
    return Instance(chart, id, runtime)


def start(instance: Instance, override: Mapping[str, Any] | None = None) -> None:
    """Gives the variables their values (``override`` comes before what the chart says) and enters the first states."""
    if instance.mask:
        raise ValueError(f"{instance!r} was started before")
    chart, runtime = instance.chart, instance.runtime
    plan = chart.start_plan()
    if plan.plain and runtime.steps is None and not (override or chart.firsts or chart.script):
        instance.node = plan.node
        instance.mask = plan.node.mask
        instance.running = instance.dirty = True
        return
    given = _accepted(chart, override or {})
    saved = _Saved(instance)
    runtime.made.clear()
    runtime.event = None
    instance.running = True
    try:
        rollback = chart.rollback
        for first in chart.firsts:
            if first.key in given:
                instance.data[first.key] = given[first.key]
            else:
                give(first, instance, rollback)
        instance.dirty = True
        if chart.script is not None:
            chart.script(instance)
        _follow(instance, plan)
        _settle(instance)
    except StepFailed as failure:
        saved.restore(instance)
        instance.running = False
        runtime.effects.append(Faulted(failure.what, failure.why))
    except EndlessLoop as loop:
        saved.restore(instance)
        instance.running = False
        if not chart.rollback:
            raise
        runtime.effects.append(Faulted("the start", str(loop)))
    else:
        if instance.deferred:
            _recall(instance, 0)


def handle(instance: Instance, event: Event) -> bool:
    """One external event. True if a transition was taken, for it or for what it caused; False if nothing has changed,
    but that it may have been deferred, or may have failed (which ``Faulted`` tells)."""
    if not instance.running:
        return False
    node = instance.node
    selection = node.select.get(event.name)
    if selection is None:
        selection = instance.chart.selection(node, event.name)
    if not (instance.activities or instance.deferred):
        if isinstance(selection, dict):
            # Which plan it is depends on what was remembered, and on nothing else.
            memory = instance.history
            selection = selection.get(memory) or instance.chart.remembering(node, selection, event.name, memory)
        if isinstance(selection, Plan):
            if selection.plain and instance.runtime.steps is None:
                instance.node = target = selection.node
                instance.mask = target.mask
                if selection.history is not None:
                    instance.history = selection.history
                elif selection.updates:
                    _remember(instance, selection)
                return True
        elif selection is False and not node.defers:
            return False
    instance.runtime.made.clear()
    known = len(instance.deferred)
    taken = _external(instance, event, selection)
    if taken and instance.deferred:
        _recall(instance, known if instance.node is node else 0)
    return taken


def settle(instance: Instance) -> bool:
    """Takes what can be taken without any event: after a chart was exchanged. True if anything was."""
    if not instance.running:
        return False
    instance.runtime.event = None
    instance.runtime.made.clear()
    taken = _step(instance, lambda: False)
    if taken and instance.deferred:
        _recall(instance, 0)
    return taken


def observe(instance: Instance) -> bool:
    """Asks the change events of the active states; those that became true since they were asked last happen now.

    One that was true already when its state was entered has become true, too: nobody waits for ever for what is there.
    Returns whether a transition was taken; then data may have changed, and it should be asked again.
    """
    changes = instance.node.changes
    if not instance.running or not changes:
        return False
    runtime = instance.runtime
    events: list[Event] = []
    now = instance.when_bits
    for change in changes:
        try:
            holds = bool(change.expression(instance.data, None, instance))
        except Exception as error:  # noqa: BLE001 the author's own expression
            holds = False
            if instance.chart.rollback:
                runtime.effects.append(Faulted(change.event, told(error)))
            else:
                events.append(Event("error.execution", {"message": told(error)}, "platform"))
        if not holds:
            now &= ~change.bit
        elif not now & change.bit:
            now |= change.bit
            events.append(Event(change.event, None, "platform"))
    instance.when_bits = now
    if not events:
        return False
    node = instance.node

    def happen() -> bool:
        runtime.queue.extend(events)
        return False

    runtime.event = None
    runtime.made.clear()
    known = len(instance.deferred)
    taken = _step(instance, happen)
    if taken and instance.deferred:
        _recall(instance, known if instance.node is node else 0)
    return taken


def cancel(instance: Instance) -> None:
    """Ends it from outside: what was entered is exited. An exit that fails is told and does not hold up the others."""
    if instance.running:
        instance.runtime.made.clear()
        instance.running = False
        instance.runtime.event = None
        _finish(instance, None, stubborn=True)


# One macrostep


class _Saved:
    """What a macrostep may change, as it was before."""

    __slots__ = (
        "activities",
        "data",
        "deferred",
        "dirty",
        "effects",
        "history",
        "node",
        "running",
        "steps",
        "when_bits",
    )

    def __init__(self, instance: Instance) -> None:
        chart, runtime = instance.chart, instance.runtime
        self.node = instance.node
        self.history = instance.history
        data = instance.data
        # Assignments copy the way to what they change, so a copy of the top is enough. Functions may do as they like.
        self.data = copy.deepcopy(data) if chart.callables else data.copy() if chart.has_data else data
        self.running = instance.running
        self.activities = instance.activities and instance.activities.copy()
        self.deferred = instance.deferred
        self.when_bits = instance.when_bits
        self.dirty = instance.dirty
        self.effects = len(runtime.effects)
        runtime.rounds = 0
        self.steps = 0 if runtime.steps is None else len(runtime.steps)
        runtime.queue.clear()
        runtime.starting.clear()

    def restore(self, instance: Instance) -> None:
        runtime = instance.runtime
        instance.node = self.node
        instance.mask = self.node.mask
        instance.history = self.history
        instance.data = self.data
        instance.running = self.running
        instance.activities = self.activities
        instance.deferred = self.deferred
        instance.when_bits = self.when_bits
        instance.dirty = self.dirty
        runtime.queue.clear()
        runtime.starting.clear()
        del runtime.effects[self.effects :]
        if runtime.steps is not None:
            del runtime.steps[self.steps :]


def _step(instance: Instance, begin: Callable[[], bool]) -> bool:
    """From rest to rest, or not at all."""
    saved = _Saved(instance)
    try:
        taken = begin()
        return _settle(instance) or taken
    except StepFailed as failure:
        saved.restore(instance)
        instance.runtime.effects.append(Faulted(failure.what, failure.why))
        return False
    except EndlessLoop as loop:
        saved.restore(instance)
        if not instance.chart.rollback:
            raise
        instance.runtime.effects.append(Faulted("the macrostep", str(loop)))
        return False


def _external(instance: Instance, event: Event, selection: Selection, *, recalled: bool = False) -> bool:
    def begin() -> bool:
        instance.runtime.event = event
        # Activities have seen a recalled event when it came.
        told = not recalled and bool(instance.activities) and _tell_activities(instance, event)
        plan = _chosen(instance, selection, event, event.name)
        if plan is not None:
            _follow(instance, plan)
            return True
        _deferred(instance, event)
        return told

    return _step(instance, begin)


def _tell_activities(instance: Instance, event: Event) -> bool:
    """Hands the event on to activities that want every one; true when one of them had to look at its own first."""
    chart, runtime = instance.chart, instance.runtime
    activities = instance.activities or {}
    finalized = False
    owner = None if event.invokeid is None else activities.get(event.invokeid)
    if owner is not None:
        finalize = chart.activities[owner[0]][owner[1]][2]
        if finalize is not None:
            finalize(instance)
            finalized = True
    for id, (state, number) in activities.items():
        if chart.activities[state][number][0].forward:
            runtime.effects.append(Forwarded(id, event))
    return finalized


def _deferred(instance: Instance, event: Event) -> bool:
    """Keeps an event that nothing took, if an active state wants it kept."""
    if not instance.node.defers or not catches(instance.node.defers, event.name):
        return False
    if len(instance.deferred) >= DEFERRED:
        instance.runtime.effects.append(Faulted(f"deferring {event.name}", f"{DEFERRED} events are waiting already"))
        return False
    instance.deferred = (*instance.deferred, event)
    return True


def _recall(instance: Instance, known: int) -> None:
    """Offers what waits, oldest first, to the configuration as it is now, and again whenever one has changed it.

    The first ``known`` were offered to it before. What was deferred on the way here was not, even where the way led
    back to where it began.
    """
    kept: list[Event] = list(instance.deferred[:known])
    waiting = list(instance.deferred[known:])
    effects = instance.runtime.effects
    count = 0
    while waiting and instance.running:
        count += 1
        if count > MICROSTEPS:
            why = f"no rest after {MICROSTEPS} of them; active: {', '.join(instance.configuration)}"
            effects.append(Faulted("recalling deferred events", why))
            break
        event = waiting.pop(0)
        node = instance.node
        instance.deferred = ()
        selection = node.select.get(event.name)
        if selection is None:
            selection = instance.chart.selection(node, event.name)
        if selection is False and catches(node.defers, event.name):
            kept.append(event)
            continue
        try:
            taken = _external(instance, event, selection, recalled=True)
        except EndlessLoop as loop:
            # Its own step was taken back. The one that it follows was taken, and the others still wait.
            effects.append(Faulted(f"the recalled event {event.name}", str(loop)))
            taken = False
        again = instance.deferred  # itself, or what was raised on the way
        if taken and instance.node is not node:
            waiting = [*kept, *waiting, *again]
            kept = []
        elif taken:
            waiting += again
        else:
            kept += again
    instance.deferred = (*kept, *waiting) if instance.running else ()


def _chosen(instance: Instance, selection: Selection, event: Event | None, name: str | None) -> Plan | None:
    """What is really done, now that guards and memory can be asked. ``name`` is that of the event which was selected
    for: None, when transitions without event were, whatever event went before."""
    if isinstance(selection, Plan):
        return selection
    if isinstance(selection, bool):
        return None
    memory = instance.history
    if isinstance(selection, dict):
        return selection.get(memory) or instance.chart.remembering(instance.node, selection, name, memory)
    edges: list[Edge] = []
    data = instance.data
    for several in selection:
        for edge in several:
            guard = edge.guard
            if guard is not None:
                try:
                    if not guard(data, event, instance):
                        continue
                except Exception as error:
                    # The author's own expression or function: false in SCXML, a failed step elsewhere.
                    if instance.chart.rollback:
                        raise StepFailed(f"guard of {edge.label}", told(error)) from error
                    raise_error(instance, error)
                    continue
            if edge not in edges:
                edges.append(edge)
            break
    if not edges:
        return None
    key = tuple(edges)
    return instance.node.plans.get(key) or instance.chart.plan(instance.node, key, memory)


def _remember(instance: Instance, plan: Plan) -> None:
    history = list(instance.history)
    for k, states in plan.updates:
        history[k] = states
    instance.history = tuple(history)


def _follow(instance: Instance, plan: Plan) -> None:
    runtime = instance.runtime
    if runtime.steps is not None:
        runtime.steps.append((runtime.event, plan))
    for mask, operation in plan.operations:
        instance.mask = mask
        operation(instance)
    instance.node = node = plan.node
    instance.mask = node.mask
    if plan.history is not None:
        instance.history = plan.history
    elif plan.updates:
        _remember(instance, plan)
    if plan.changed:
        instance.when_bits &= ~plan.changed
    for state, resumed in plan.starts:
        runtime.starting[state] = resumed
    if plan.end is not None:
        instance.running = False
        _finish(instance, plan.end)


def _settle(instance: Instance) -> bool:
    """Microsteps until nothing is left to do: first those without event, then those for internal events."""
    runtime, chart = instance.runtime, instance.chart
    queue = runtime.queue
    taken = False
    checked = False
    count = 0
    while instance.running:
        count += 1
        if count > MICROSTEPS:
            raise EndlessLoop(f"no rest after {MICROSTEPS} microsteps; active: {', '.join(instance.configuration)}")
        node = instance.node
        if node.restless:
            selection = node.eventless
            if selection is None:
                selection = chart.selection(node, None)
            plan = _chosen(instance, selection, runtime.event, None)
            if plan is not None:
                _follow(instance, plan)
                taken = True
                continue
        if queue:
            event = runtime.event = queue.popleft()
            selection = node.select.get(event.name)
            if selection is None:
                selection = chart.selection(node, event.name)
            if selection is not False:
                plan = _chosen(instance, selection, event, event.name)
                if plan is not None:
                    _follow(instance, plan)
                    taken = True
                    continue
            if node.defers and event.type == "internal":
                _deferred(instance, event)
            continue
        if runtime.starting:
            _begin_activities(instance)
            continue
        if not node.invariants or checked:
            break
        checked = not chart.rollback  # an event told once is enough; it would be told for ever
        _check(instance)
        if not queue:
            break
    return taken


def _check(instance: Instance) -> None:
    """The invariants of the states that the machine has come to rest in."""
    rollback = instance.chart.rollback
    for what, invariant in instance.node.invariants:
        try:
            broken = None if invariant(instance.data, instance.runtime.event, instance) else ValueError("does not hold")
        except Exception as error:  # noqa: BLE001 the author's own expression or function
            broken = ValueError(told(error))
        if broken is not None:
            if rollback:
                raise StepFailed(what, str(broken))
            raise_error(instance, broken)


def _begin_activities(instance: Instance) -> None:
    runtime, chart = instance.runtime, instance.chart
    starting = sorted(runtime.starting.items())
    runtime.starting.clear()
    for state, resumed in starting:
        if state and not instance.mask >> state & 1:
            continue
        for activity, begin, _ in chart.activities[state]:
            try:
                begin(instance, resumed)
            except Exception as error:
                # The author's own expressions.
                if chart.rollback:
                    what = f"activity {activity.id or activity.type} of {chart.names[state]!r}"
                    raise StepFailed(what, told(error)) from error
                raise_error(instance, error)


def _finish(instance: Instance, end: int | None, *, stubborn: bool = False) -> None:
    """The end: everything is exited, innermost first, but nothing by a terminate state. The configuration stays to be
    looked at."""
    chart, runtime = instance.chart, instance.runtime
    result = None
    if end is None or chart.kinds[end] == FINAL:
        active = instance.mask
        for state in (*sorted(bits(active), reverse=True), 0):
            for operation in chart.exit[state]:
                try:
                    operation(instance)
                except StepFailed as failure:
                    if not stubborn:
                        raise
                    runtime.effects.append(Faulted(failure.what, failure.why))
            instance.mask &= ~(1 << state)  # In() sees each state leave
            if state == end:
                result = outcome(chart.results[end], instance, f"result of {chart.names[end]!r}", chart.rollback)
        instance.mask = active
    for id, (state, _) in (instance.activities or {}).items():
        runtime.effects.append(Stopped(id, chart.names[state]))
    instance.activities = None
    instance.deferred = ()
    runtime.queue.clear()
    runtime.starting.clear()
    runtime.effects.append(Ended(None if end is None else chart.names[end], result))


def _accepted(chart: Chart, override: Mapping[str, Any]) -> dict[str, Any]:
    """What is handed over at the start, by key."""
    given: dict[str, Any] = {}
    known = {first.name: first for first in chart.firsts}
    for name, value in override.items():
        first = known.get(name)
        if first is None:
            if chart.definition.strict:
                raise ValueError(f"{chart.name}: there is no variable {name!r}{nearest(name, known)}")
            continue
        kind = chart.types.get(first.key)
        if kind is not None and (wrong := kind.check(value)):
            raise ValueError(f"{chart.name}: variable {name!r}: {wrong}")
        given[first.key] = value
    return given
