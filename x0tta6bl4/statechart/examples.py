"""Charts to look at and to try things on; the first is the daemon's own small machine, with operators in mind."""

from x0tta6bl4.statechart.core.state import Definition, State
from x0tta6bl4.statechart.core.transition import Transition

STARK = {
    "idle": ("processing", "stopped"),
    "processing": ("responding", "error", "idle", "stopped"),
    "responding": ("idle", "error", "stopped"),
    "error": ("idle", "stopped"),
    "stopped": ("idle",),
}
"""Where one may go from each state without force."""


def stark_chart() -> Definition:
    """Idle, processing, responding, error, stopped: ``go.STATE`` moves along the table only; the operator's ``$force``
    ``{to, reason, who}`` moves to any of the five states, and to nothing else."""
    forced = tuple(
        Transition("$force", (state,), f"get(result, 'to') == '{state}' and get(result, 'who', '') != ''")
        for state in STARK
    )
    states = tuple(
        State(state, transitions=tuple(Transition(f"go.{other}", (other,)) for other in others))
        for state, others in STARK.items()
    )
    return Definition("stark", State(states=states, transitions=forced), summary="What a worker is busy with.")
