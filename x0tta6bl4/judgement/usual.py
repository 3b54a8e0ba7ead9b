"""Reads off what the novelty engine keeps of a series: what it usually shows at each hour, and how far it has swung."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from x0tta6bl4.judgement.novelty import FEATURES, HIGH, LOW, SIZE, Settings

Doubles = NDArray[np.float64]

MONDAY = 96
"""Hours from the beginning of 1970, a Thursday, to the Monday after it."""


@dataclass(frozen=True)
class Hourly:
    """One entry for each hour; NaN for those that were never seen."""

    usual: Doubles
    low: Doubles
    """Below this the value would be unusual for the hour, by that alone."""
    high: Doubles


@dataclass(frozen=True)
class Usual:
    day: Hourly
    """From midnight."""
    week: Hourly
    """From midnight between Sunday and Monday."""
    ranges: Mapping[str, tuple[float, float]]
    """The extremes of each feature, in the units of the values: of the level as it is, of the others as distances."""


def usual_of(snapshot: Mapping[str, NDArray[Any]], row: int, settings: Settings = Settings()) -> Usual:  # noqa: B008
    """What ``Novelty.snapshot`` has of that row."""
    numbers = snapshot["numbers"][:, row].astype(np.float64)
    anchor, scale = (float(part) for part in snapshot["doubles"][:2, row])
    scale = scale or 1.0
    limit = float(snapshot["limits"][row])
    many = len(FEATURES)
    lows, highs = numbers[LOW : LOW + many], numbers[HIGH : HIGH + many]

    def hourly(kept: NDArray[Any], feature: str) -> Hourly:
        at = FEATURES.index(feature)
        least = max(highs[at] - lows[at], numbers[SIZE] * settings.least_change)
        margin = limit * least / max(settings.weights[at], 1e-9)
        usual = anchor + kept[:, row].astype(np.float64) / scale
        return Hourly(usual, usual + (lows[at] - margin) / scale, usual + (highs[at] + margin) / scale)

    ranges = {name: (lows[at] / scale, highs[at] / scale) for at, name in enumerate(FEATURES)}
    with np.errstate(over="ignore"):
        level = [float(np.sinh(end) / settings.level_bend * numbers[SIZE] / scale) for end in (lows[0], highs[0])]
    ranges[FEATURES[0]] = (level[0], level[1])
    week = hourly(snapshot["week"], "hour of the week")
    return Usual(
        hourly(snapshot["day"], "hour of the day"),
        Hourly(*(np.roll(part, -MONDAY) for part in (week.usual, week.low, week.high))),
        ranges,
    )
