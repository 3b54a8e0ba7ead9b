"""Hierarchical statecharts: definitions, compiled tables, run-to-completion, snapshots. Usable alone.

A definition is a value, a machine runs it. A pump that needs a rest when it gets too warm, and counts its starts:

>>> from x0tta6bl4.statechart import Assign, Definition, Machine, State, Transition, Variable
>>> pump = Definition(
...     "pump",
...     State(
...         variables=(Variable("starts", value=0, type="integer"), Variable("limit", value=80)),
...         states=(
...             State("off", transitions=(Transition("start", ("on",)),)),
...             State(
...                 "on",
...                 entry=((Assign("starts", "starts + 1"),),),
...                 states=(
...                     State("running", transitions=(Transition("warm", ("resting",), "result > limit"),)),
...                     State("resting", transitions=(Transition(after="5m", to=("running",)),)),
...                 ),
...                 transitions=(Transition("stop", ("off",)),),
...             ),
...         ),
...     ),
... )
>>> now = 0.0
>>> machine = Machine(pump, clock=lambda: now).start(limit=90)
>>> machine.send("start"), machine.configuration
(True, ('on', 'running'))
>>> machine.send("warm", 85), machine.send("warm", 95), machine.configuration
(False, True, ('on', 'resting'))
>>> machine.advance()  # seconds until something is due
300.0
>>> now = 300.0
>>> machine.advance(), machine.configuration
(None, ('on', 'running'))
>>> machine.send("stop"), machine.configuration, machine.data["starts"]
(True, ('off',), 1)

A chart that cannot work is refused, with everything that is wrong with it:

>>> Machine(Definition("odd", State(states=(State("a", transitions=(Transition("go", ("off",), "x > 1"),)),))))
Traceback (most recent call last):
    ...
x0tta6bl4.statechart.core.tables.DefinitionError: state 'a': a transition leads to 'off', which is no state
transition a -> off on go: `x > 1`: no variable is called 'x'
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from x0tta6bl4.statechart.core.effect import (
        Cancelled,
        Effect,
        Ended,
        Faulted,
        Forwarded,
        Logged,
        Sent,
        Started,
        Stopped,
    )
    from x0tta6bl4.statechart.core.event import Event, EventQueue, Priority
    from x0tta6bl4.statechart.core.machine import Chart, Instance, UnsafeModification, modified
    from x0tta6bl4.statechart.core.region import region_status
    from x0tta6bl4.statechart.core.state import Definition, Kind, State, Variable
    from x0tta6bl4.statechart.core.tables import DefinitionError
    from x0tta6bl4.statechart.core.transition import (
        Activity,
        Assign,
        Call,
        Cancel,
        ForEach,
        If,
        Log,
        Raise,
        Result,
        Scope,
        Send,
        Transition,
    )
    from x0tta6bl4.statechart.runtime.executor import (
        EndlessLoop,
        Runtime,
        cancel,
        handle,
        new,
        observe,
        settle,
        start,
    )
    from x0tta6bl4.statechart.runtime.machine import Machine, QueueFull

__all__ = [
    "Activity",
    "Assign",
    "Call",
    "Cancel",
    "Cancelled",
    "Chart",
    "Definition",
    "DefinitionError",
    "Effect",
    "Ended",
    "EndlessLoop",
    "Event",
    "EventQueue",
    "Faulted",
    "ForEach",
    "Forwarded",
    "If",
    "Instance",
    "Kind",
    "Log",
    "Logged",
    "Machine",
    "Priority",
    "QueueFull",
    "Raise",
    "Result",
    "Runtime",
    "Scope",
    "Send",
    "Sent",
    "Started",
    "State",
    "Stopped",
    "Transition",
    "UnsafeModification",
    "Variable",
    "cancel",
    "handle",
    "modified",
    "new",
    "observe",
    "region_status",
    "settle",
    "start",
]

_ROOMS = ("core.effect", "core.event", "core.state", "core.transition", "core.tables", "core.region", "core.machine")
_RUNNING = ("runtime.executor", "runtime.machine")


def __getattr__(name: str) -> Any:
    """Names are fetched when they are asked for: who only reads a definition does not pay for what runs it."""
    if name in __all__:
        from importlib import import_module

        for room in (*_ROOMS, *_RUNNING):
            found = getattr(import_module(f"{__name__}.{room}"), name, None)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
