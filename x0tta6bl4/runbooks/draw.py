"""Draws a runbook as a diagram, with the states marked that an incident is in."""

from collections.abc import Collection, Iterator
from dataclasses import replace

from x0tta6bl4.runbooks.compile import ERROR, ESCALATED, authored
from x0tta6bl4.runbooks.document import Runbook
from x0tta6bl4.statechart.core.state import State
from x0tta6bl4.statechart.core.transition import Activity, Assign, Content, Transition


def draw(book: Runbook, active: Collection[str] = ()) -> str:
    """Mermaid text, in the words of the runbook instead of those that it is compiled to."""
    from x0tta6bl4.statechart.formats.mermaid import draw as diagram

    definition = book.definition if {ERROR, ESCALATED} & {*active} else authored(book.definition)
    states = tuple(_readable(state) for state in definition.root.states)
    return diagram(replace(definition, root=replace(definition.root, states=states)), active=active)


def _readable(state: State) -> State:
    return replace(
        state,
        states=tuple(_readable(inner) for inner in state.states),
        on_initial=tuple(each for each in state.on_initial if not _is_bookkeeping(each)),
        transitions=tuple(_told(state, move) for move in state.transitions),
        activities=tuple(replace(activity, type=" and ".join(_doing(activity))) for activity in state.activities),
    )


def _doing(activity: Activity) -> Iterator[str]:
    match activity.type:
        case "act":
            yield from (step["action"] for step in activity.content["steps"])
        case "choose":
            yield "chooses what comes next"
        case _:
            yield "takes back what was done"


def _told(state: State, move: Transition) -> Transition:
    if any(activity.type == "choose" for activity in state.activities):
        return replace(move, event="chosen" if "done.act" in move.event else "nothing left", guard=None, do=())
    words = [word.removesuffix(f".act.{state.id}") for word in move.event.split()]
    return replace(
        move,
        event=" ".join(dict.fromkeys(words)),
        do=tuple(each for each in move.do if not _is_bookkeeping(each)),
    )


def _is_bookkeeping(content: Content) -> bool:
    """What every branch and every ladder does, and what says nothing about this one."""
    return content == Assign("last", "result") or (isinstance(content, Assign) and content.to.endswith("_"))
