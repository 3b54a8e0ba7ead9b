"""Regions of parallel states: when they are complete, and how they stand, for people to read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from x0tta6bl4.statechart.core.tables import Tables

# What a state is, as the tables number it. Up to TERMINATE they can be active; the others only lead somewhere.
ATOMIC, COMPOUND, PARALLEL, FINAL, CHOICE, TERMINATE, HISTORY, DEEP_HISTORY, ENTRY, JUNCTION, EXIT, JOIN = range(12)

Status = Literal["inactive", "active", "completed"]


def is_complete(kinds: Sequence[int], children: Sequence[Sequence[int]], state: int, mask: int) -> bool:
    """Whether a composite state has come to its end: a final child is active, or each of its regions is complete."""
    if kinds[state] == PARALLEL:
        return all(is_complete(kinds, children, child, mask) for child in children[state])
    return any(kinds[child] == FINAL and mask >> child & 1 for child in children[state])


def region_status(instance: Any) -> dict[str, dict[str, Status]]:
    """Each parallel state -> each of its regions -> how it stands."""
    chart: Tables = instance.chart
    mask: int = instance.mask

    def status(region: int) -> Status:
        if not mask >> region & 1:
            return "inactive"
        return "completed" if is_complete(chart.kinds, chart.children, region, mask) else "active"

    return {
        chart.names[state]: {chart.names[region]: status(region) for region in chart.children[state]}
        for state, kind in enumerate(chart.kinds)
        if kind == PARALLEL
    }
