"""How a finding came about in numbers: the series, where it usually is, what decided, and what would have been well."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
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
    well: str = ""
    """What would have been no finding, where its bounds alone do not say it: ``a good answer within 1.2 s``."""

    @property
    def was(self) -> str:
        """Its value as a person reads it."""
        return _told(self.metric, self.value)

    @property
    def usual(self) -> str:
        """Where it would have been usual, or well; empty: nowhere in particular."""
        low, high = (None if bound is None else _told(self.metric, bound) for bound in (self.low, self.high))
        if low is not None and high is not None:
            return f"between {low} and {high}" if low != high else f"about {low}"
        if high is not None:
            return f"up to {high}"
        if low is None:
            return ""
        return low if is_yes_or_no(self.metric) else f"from {low} on"

    @property
    def otherwise(self) -> str:
        """What would have had to be different, in a sentence."""
        bounds = self.usual
        if self.well:
            return f"{self.well} would have been no finding"
        return f"{self.metric} {bounds} would have been no finding; it was {self.was}" if bounds else ""

    @property
    def decided(self) -> str:
        """The number against its limit, on whichever side of it the number is."""
        if not self.named:
            return ""
        number, limit = self._numbers()
        side = f"from {limit} on" if self.number >= self.limit else f"up to {limit}"
        return f"{self.named} {number}, a finding {side}"

    @property
    def short_of(self) -> str:
        """How far the number of a series that was not found is from its limit."""
        if not self.named:
            return ""
        number, limit = self._numbers()
        return f"{self.named} {number}, a finding from {limit} on"

    def _numbers(self) -> tuple[str, str]:
        """As they are read: where the value itself decided, in its own unit."""
        if self.named == self.metric:
            return _told(self.metric, self.number), _told(self.metric, self.limit)
        return _number(self.number), _number(self.limit)


FIELDS = tuple(field.name for field in fields(Judged))
WORDS, BOUNDS, NUMBERS = ("named", "why", "well"), ("low", "high"), ("value", "number", "limit", "share")


def judged_data(judged: Iterable[Judged]) -> Attributes:
    """As it goes into a finding's ``data``."""
    all_of_them = list(judged)
    return {"judged": [_plain(one) for one in all_of_them[:MOST]], "judged_count": len(all_of_them)}


def causes_of(judged: Iterable[Judged]) -> list[dict[str, Any]]:
    """The same series as likely causes, for a finding that rests on its series alone."""
    return [
        {"subject": one.subject, "name": one.metric, "share": round(one.share, 3), "why": one.why}
        for one in list(judged)[:MOST]
    ]


def judged_of(data: Attributes) -> list[Judged]:
    """What a finding's or an incident's data tells, also after a journey through the store; others' is left out."""
    told = data.get("judged")
    found: list[Judged] = []
    for one in told if isinstance(told, list | tuple) else ():
        if isinstance(one, Mapping) and _is_ours(one):
            found.append(Judged(**one))
    return found


def all_judged_of(data: Attributes) -> list[Judged]:
    """The same with what is told of those that were found together with it: a word on an incident is about them all."""
    members = data.get("together")
    found = judged_of(data)
    for member in members if isinstance(members, list | tuple) else ():
        if isinstance(member, Mapping):
            found += judged_of(member)
    return list({(one.subject, one.metric, one.named): one for one in reversed(found)}.values())[::-1]


def is_yes_or_no(metric: str) -> bool:
    return metric.endswith("_up") or metric == "sees"


def _told(metric: str, value: float) -> str:
    if is_yes_or_no(metric):
        return "yes" if value >= 0.5 else "no"
    return shown(metric, value)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 or not isfinite(value) else f"{value:.0f}"


def _plain(judged: Judged) -> dict[str, Any]:
    """JSON knows no infinity: a bound that is none is left out."""
    told = {name: getattr(judged, name) for name in FIELDS}
    return told | {name: None for name in BOUNDS if told[name] is not None and not isfinite(told[name])}


def _is_ours(one: Mapping[str, Any]) -> bool:
    """What another version, or somebody else's analyzer, has put there is not ours to guess."""
    return (
        isinstance(one.get("subject"), str)
        and isinstance(one.get("metric"), str)
        and _is_number(one.get("value"))
        and all(one.get(name) is None or _is_number(one[name]) for name in BOUNDS)
        and all(_is_number(one.get(name, 0.0)) for name in NUMBERS)
        and all(isinstance(one.get(name, ""), str) for name in WORDS)
        and all(name in FIELDS for name in one)
    )


def _is_number(value: object) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < 1 << 1023  # JSON has larger ones, and a number of ours has not
    return isinstance(value, float)
