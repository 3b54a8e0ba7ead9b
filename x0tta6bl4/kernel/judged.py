"""How a finding came about in numbers: the series, where it usually is, what decided, and what would have been well."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from x0tta6bl4.kernel.facts import Attributes, shown

MOST = 8
"""Series that one finding tells of, the most telling first; the count of all of them is told beside."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One series of a finding."""

    subject: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    """Between which values it would have been usual, or well; None: on that side there is no bound."""
    number: float = 0.0
    """What decided."""
    limit: float = 0.0
    """From which value of the number on it is a finding."""
    named: str = ""
    """What the number is, in words: ``novelty``, ``seconds until it is full``, …"""
    share: float = 1.0
    """Its part in the decision; those of one finding add up to about 1."""
    why: str = ""
    """What about it is telling: ``level``, ``hour of the day``, …"""

    @property
    def otherwise(self) -> str:
        """What would have had to be different, in a sentence."""
        metric, value = self.metric, shown(self.metric, self.value)
        if self.low is not None and self.high is not None:
            bounds = f"between {shown(metric, self.low)} and {shown(metric, self.high)}"
        elif self.high is not None:
            bounds = f"up to {shown(metric, self.high)}"
        elif self.low is not None:
            bounds = f"from {shown(metric, self.low)} on"
        else:
            return ""
        return f"{metric} {bounds} would have been no finding; it was {value}"

    @property
    def decided(self) -> str:
        """The number against its limit."""
        if not self.named:
            return ""
        return f"{self.named} {self.number:.3g}, a finding from {self.limit:.3g} on"


def judged_data(judged: Iterable[Judged]) -> Attributes:
    """As it goes into a finding's ``data``."""
    all_of_them = list(judged)
    return {"judged": [_finite(asdict(one)) for one in all_of_them[:MOST]], "judged_count": len(all_of_them)}


def judged_of(data: Attributes) -> list[Judged]:
    """What a finding's or an incident's data tells, also after a journey through the store; others' is left out."""
    told = data.get("judged")
    found: list[Judged] = []
    for one in told if isinstance(told, list | tuple) else ():
        if isinstance(one, Mapping):
            try:
                found.append(Judged(**one))
            except TypeError:  # of another version: it is not ours to guess
                continue
    return found


def _finite(one: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: a bound that is none is left out."""
    return {
        key: None if isinstance(value, float) and not isfinite(value) and key in ("low", "high") else value
        for key, value in one.items()
    }
