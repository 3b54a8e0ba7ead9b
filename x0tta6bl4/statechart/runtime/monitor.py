"""Says of an instance how it came to be where it is, what keeps it from going elsewhere, and how much it has done.

It looks on: an instance without a monitor runs the same. Whoever drives instances calls ``record`` after each
macrostep, before the effects are cleared.
"""

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from x0tta6bl4.statechart.core.content import Runtime
from x0tta6bl4.statechart.core.effect import Ended, Faulted
from x0tta6bl4.statechart.core.event import Event, catches
from x0tta6bl4.statechart.core.machine import Chart, Instance
from x0tta6bl4.statechart.core.tables import Edge, bits
from x0tta6bl4.statechart.types.base import Compiled, EvaluationError, compile_expression, nearest, readings_in

SHOWN = 80
"""Characters of a value in an explanation."""


class Level(IntEnum):
    """How much is kept. Each has what the one before it has."""

    MINIMAL = 0
    """Counts of events, steps and faults. Costs an addition or two."""
    NORMAL = 1
    """The newest steps, from which ``explain`` answers."""
    DETAILED = 2
    """How often each transition was taken, and the events that changed nothing."""
    DEBUG = 3
    """With each step the event's data and the variables after it: remembers what may be secret."""


@dataclass(frozen=True, slots=True)
class Step:
    """One microstep, or an event that changed nothing (then nothing was taken, exited or entered)."""

    instance: str
    at: float
    event: str | None
    taken: tuple[str, ...] = ()
    exited: tuple[str, ...] = ()
    entered: tuple[str, ...] = ()
    fault: str = ""
    event_data: Any = None
    variables: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Entered:
    """How an active state came to be active. Without ``at``, that is longer ago than what is remembered."""

    state: str
    at: float | None = None
    event: str | None = None
    transition: str = ""

    def __str__(self) -> str:
        if self.at is None:
            return f"{self.state!r}: entered before what is remembered begins"
        by = "without an event" if self.event is None else f"by {self.event!r}"
        return f"{self.state!r}: since {self.at:.3f}, {by}, through {self.transition}"


@dataclass(frozen=True, slots=True)
class Blocked:
    """A transition that is not taken, and why. An empty ``transition``: it is no matter of one."""

    transition: str
    reason: str

    def __str__(self) -> str:
        return f"{self.transition}: {self.reason}" if self.transition else self.reason


class Monitor:
    """One for any number of instances; what it keeps is bounded, whatever they do."""

    def __init__(self, level: Level = Level.NORMAL, *, trace: int = 1024) -> None:
        self.level = level
        self.events = 0
        self.taken = 0
        """Events for which a transition was taken."""
        self.faults = 0
        self.ended = 0
        self.microsteps = 0
        """Counted from ``NORMAL`` on, as is all that follows."""
        self.transitions: Counter[tuple[str, str]] = Counter()
        """(Chart, transition) -> how often it was taken."""
        self._trace: deque[Step] = deque(maxlen=trace)

    def watch(self, runtime: Runtime) -> None:
        """Has the engine say what it does. Where nobody asks for steps, it takes a shorter way."""
        runtime.steps = [] if self.level >= Level.NORMAL else None

    def record(self, instance: Instance, event: Event | None, at: float, taken: bool) -> None:
        """One macrostep, for ``event`` (None: the start, or a change event), at the host's time ``at``."""
        if event is not None:
            self.events += 1
            self.taken += taken
        fault = ""
        for effect in instance.runtime.effects:
            if isinstance(effect, Faulted):
                self.faults += 1
                fault = f"{effect.what}: {effect.why}"
            elif isinstance(effect, Ended):
                self.ended += 1
        steps = instance.runtime.steps
        if not steps:
            if fault or (event is not None and self.level >= Level.DETAILED and not taken):
                name = None if event is None else event.name
                self._keep(instance, Step(instance.id, at, name, fault=fault), event)
            return
        if self.level < Level.NORMAL:  # somebody else has asked for the steps
            return
        for cause, plan in steps:
            self.microsteps += 1
            chart = plan.node.chart
            if self.level >= Level.DETAILED:
                for edge in plan.edges:
                    self.transitions[chart.name, edge.label] += 1
            step = Step(
                instance.id,
                at,
                None if cause is None else cause.name,
                tuple(edge.label for edge in plan.edges),
                tuple(chart.names[n] for n in plan.exits),
                tuple(chart.names[n] for n in plan.enters),
            )
            self._keep(instance, step, cause)
        steps.clear()

    def _keep(self, instance: Instance, step: Step, event: Event | None) -> None:
        if self.level >= Level.DEBUG:
            # Values are replaced, never changed in place, so that a copy of the top stays what it was.
            step = Step(
                step.instance,
                step.at,
                step.event,
                step.taken,
                step.exited,
                step.entered,
                step.fault,
                None if event is None else event.data,
                dict(instance.data),
            )
        if self.level >= Level.NORMAL:
            self._trace.append(step)

    def trace(self, instance: Instance | None = None) -> Iterator[Step]:
        """Oldest first."""
        return (step for step in tuple(self._trace) if instance is None or step.instance == instance.id)

    def counts(self) -> dict[str, int]:
        return {
            "events": self.events,
            "taken": self.taken,
            "faults": self.faults,
            "ended": self.ended,
            "microsteps": self.microsteps,
        }

    def explain(self, instance: Instance) -> list[Entered]:
        """Why it is here: of each active state, outermost first, when and by what it was entered."""
        missing = dict.fromkeys(instance.configuration)
        found: dict[str, Entered] = {}
        for step in reversed(self._trace):
            if not missing:
                break
            if step.instance == instance.id:
                for state in step.entered:
                    if state in missing:
                        del missing[state]
                        found[state] = Entered(state, step.at, step.event, " and ".join(step.taken))
        return [found.get(state) or Entered(state) for state in instance.configuration]

    def why_not(self, instance: Instance, what: str | Event) -> list[Blocked]:
        return why_not(instance, what)


def why_not(instance: Instance, what: str | Event) -> list[Blocked]:
    """What stands between an instance and a state (by its name), or between an event and its doing anything.

    Every transition that could do it is named with what it waits for or lacks, the nearest first. An empty list: the
    state is active, or the event would be taken by each transition that is for it. With an Event instead of its name,
    guards are asked with its data.
    """
    chart = instance.chart
    if not instance.running:
        return [Blocked("", "the machine has ended" if instance.mask else "the machine was not started")]
    if isinstance(what, str) and what in chart.ids:
        return _why_not_state(instance, chart.ids[what])
    event = Event(what) if isinstance(what, str) else what
    edges = [edge for edge in _edges(chart) if edge.events is not None and catches(edge.events, event.name)]
    if edges:
        return _why_not_event(instance, event, edges, given=not isinstance(what, str))
    known = [*chart.ids, *(word for edge in _edges(chart) for word in edge.events or ())]
    return [
        Blocked("", f"{event.name!r} is no state, and no transition is for such an event{nearest(event.name, known)}")
    ]


def _edges(chart: Chart) -> Iterator[Edge]:
    for edges in chart.edges:
        yield from edges


def _why_not_state(instance: Instance, state: int) -> list[Blocked]:
    chart = instance.chart
    if instance.mask >> state & 1:
        return []
    blocked: list[Blocked] = []
    farther: list[Blocked] = []
    for edge in _edges(chart):
        # Only where it would lead is asked; no part of the plan is carried out.
        if state not in chart.plan(instance.node, (edge,), instance.history).enters:
            continue
        if reason := _inactive(instance, edge):
            farther.append(Blocked(edge.label, reason))
        elif edge.events is None:
            reason = _guarded(instance, edge, None, given=True) or _outdone(instance, edge, None)
            blocked.append(Blocked(edge.label, reason or "could be taken, and will be with the next step"))
        else:
            blocked += [Blocked(edge.label, reason) for reason in _waits(instance, edge)]
    return [*blocked, *farther] or [Blocked("", f"no transition leads to {chart.names[state]!r}")]


def _waits(instance: Instance, edge: Edge) -> Iterator[str]:
    definition = edge.definition
    for word in edge.events or ():
        if definition.after is not None and word.startswith("after."):
            waits = f"waits until {definition.after} after {instance.chart.names[edge.source]!r} was entered"
        elif definition.when is not None and word.startswith("when."):
            waits = f"waits until `{definition.when}` becomes true{_values(instance, edge, definition.when, None)}"
        else:
            waits = f"waits for event {word!r}"
        event = Event(word)
        lacks = _guarded(instance, edge, event, given=False) or _outdone(instance, edge, event)
        yield f"{waits}; {lacks}" if lacks else waits


def _why_not_event(instance: Instance, event: Event, edges: Iterable[Edge], given: bool) -> list[Blocked]:
    blocked: list[Blocked] = []
    for edge in edges:
        reason = _inactive(instance, edge) or _guarded(instance, edge, event, given) or _outdone(instance, edge, event)
        if reason:
            blocked.append(Blocked(edge.label, reason))
    return blocked


def _inactive(instance: Instance, edge: Edge) -> str:
    chart = instance.chart
    missing = (1 << edge.source if edge.source else 0) | edge.need
    names = [repr(chart.names[n]) for n in bits(missing & ~instance.mask)]
    return f"source {' and '.join(names)} not active" if names else ""


def _asked(instance: Instance, edge: Edge, event: Event | None) -> bool:
    """Whether the guard holds. A function of the author's own sees the event by way of the runtime."""
    if edge.guard is None:
        return True
    runtime = instance.runtime
    before, runtime.event = runtime.event, event
    try:
        return bool(edge.guard(instance.data, event, instance))
    finally:
        runtime.event = before


def _guarded(instance: Instance, edge: Edge, event: Event | None, given: bool) -> str:
    """What is wrong with its guard; empty: nothing. ``given``: the event is a real one, whose data count."""
    guard = edge.definition.guard
    source = guard if isinstance(guard, str) else None
    if source is not None and not given and event is not None:
        readings = readings_in(source)
        if any(_is_of_event(reading) and reading != "_event.name" for reading in readings):
            return f"guard `{source}` depends on the event's data{_values(instance, edge, source, None)}"
    called = f"`{source}`" if source is not None else getattr(guard, "__qualname__", "") or "on the way"
    try:
        if _asked(instance, edge, event):
            return ""
        if source is None:
            return f"guard {called} is false"
        if _expression(instance, edge, source)(instance.data, event, instance):
            return f"guard {called} is true, but one behind it on the way is false"
    except Exception as error:  # noqa: BLE001 the author's own expression or function
        return f"guard {called} fails: {error}"
    return f"guard {called} is false{_values(instance, edge, source, event)}"


def _outdone(instance: Instance, edge: Edge, event: Event | None) -> str:
    """The transition that would be taken in its place, for it could be taken itself."""
    chart = instance.chart
    chosen: dict[Edge, None] = {}
    over: dict[Edge, None] = {}
    for several in chart.candidates(instance.mask, None if event is None else event.name):
        for candidate in several:
            try:
                holds = _asked(instance, candidate, event)
            except Exception as error:  # noqa: BLE001 the author's own expression or function
                if chart.rollback:
                    return f"the guard of {candidate.label} fails, and with it the whole step: {error}"
                continue
            if holds:
                chosen[candidate] = None
                if edge in several and candidate is not edge:
                    over[candidate] = None
                elif candidate is not edge and _is_before(chart, candidate, edge):
                    over[candidate] = None  # the one that asks nothing ends the list before ours comes
                break
    if edge in chosen:
        plan = chart.plan(instance.node, tuple(chosen), instance.history)
        if edge in plan.edges:
            return ""
        return f"gives way to {' and '.join(other.label for other in plan.edges)}"
    if not over:
        return ""
    where = "inner" if any(other.source != edge.source for other in over) else "earlier"
    return f"shadowed by {where} transition {' and '.join(other.label for other in over)}"


def _is_before(chart: Chart, one: Edge, other: Edge) -> bool:
    return one.source == other.source or bool(chart.descendants[other.source] >> one.source & 1)


def _is_of_event(reading: str) -> bool:
    return reading.split(".")[0].split("[")[0] in ("_event", "result")


def _expression(instance: Instance, edge: Edge, source: str) -> Compiled:
    """As it is compiled where the transition stands."""
    keys = instance.chart.places[edge.source].keys
    renamed = {name: key for name, key in keys.items() if name != key}
    return compile_expression(source, rename=renamed, lenient=instance.chart.definition.lenient)


def _values(instance: Instance, edge: Edge, source: str, event: Event | None) -> str:
    """``: a = 1, b.c = 'x'``: what an expression has read."""
    told = [
        f"{reading} = {_shown(instance, edge, reading, event)}"
        for reading in readings_in(source)
        if event is not None or not _is_of_event(reading)
    ]
    return f": {', '.join(told)}" if told else ""


def _shown(instance: Instance, edge: Edge, reading: str, event: Event | None) -> str:
    try:
        value = _expression(instance, edge, reading)(instance.data, event, instance)
    except EvaluationError:
        return "(missing)"
    text = repr(value) if value.__class__ is not bool and value is not None else json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
