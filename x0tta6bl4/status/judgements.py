"""Tells how something was judged: by which series, from what cause, with what else, and what people said of it."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

from typing_extensions import TypedDict

from x0tta6bl4.kernel.correlate import CAUSES, TOLD, storm_of
from x0tta6bl4.kernel.facts import Incident
from x0tta6bl4.kernel.judged import MOST, Judged, is_yes_or_no, judged_of
from x0tta6bl4.kernel.lessons import Lesson
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.kernel.memory import Entry, Knowledge
from x0tta6bl4.kernel.signals import Nearness
from x0tta6bl4.kernel.supervise import Failure, guarded_call
from x0tta6bl4.status.report import iso
from x0tta6bl4.status.signals import unit_of

NEAREST = 3
"""Series of a well subject that are told, those nearest to a finding."""
UNHEARD = "no analyzer has heard it yet"


class SeriesTold(TypedDict):
    """One series, and where it is usual or well."""

    subject: str
    metric: str
    unit: str
    """As in the incident's signals."""
    value: float | None
    low: float | None
    high: float | None
    """Between which values it would have been usual, or well; null: no bound on that side."""
    number: float | None
    """What decides."""
    limit: float | None
    named: str
    """What that number is, in words."""
    share: float | None
    """Its part in the decision, from 0 to 1."""
    why: str
    was: str
    """The value as a person reads it."""
    usual: str
    """The bounds as a person reads them; empty: none."""
    decided: str
    """The number against its limit, in a sentence."""


class SeriesJudged(SeriesTold):
    """One series of a finding."""

    otherwise: str
    """What would have been no finding, in a sentence; empty: nobody can say."""


class CauseTold(TypedDict):
    subject: str
    name: str
    """A metric, a fault, or a kind of change."""
    share: float | None
    """How likely, from 0 to 1, against the others."""
    why: str


class MemberTold(TypedDict):
    """What was found as well, and is no incident of its own."""

    subject: str
    fault: str
    summary: str
    since: str | None


class PartOf(TypedDict):
    """The incident that it turned out to be a part of."""

    incident: str
    subject: str
    fault: str


class FindingVerdict(TypedDict):
    """A person's word on what was found."""

    incident: str
    right: bool
    who: str
    why: str
    at: str
    said: str
    """What the analyzers made of it; empty: none has heard it yet."""


class HowJudged(TypedDict):
    """In numbers; all of it is empty where nothing is told of it."""

    series: list[SeriesJudged]
    """The most telling first."""
    more_series: int
    """How many there were beside those."""
    causes: list[CauseTold]
    """The likeliest first."""
    together: list[MemberTold]
    more_together: int
    part_of: PartOf | None
    storm: str
    """The incident that stands for the storm of faults it came in; empty: none."""
    verdicts: list[FindingVerdict]
    """Oldest first."""


def how_judged(incident: Incident, verdicts: Iterable[Lesson] = ()) -> HowJudged:
    """What is in an incident's data may be of another version or of somebody else's making: what is not understood is
    left out.
    """
    data = incident.data
    series = judged_of(data)[:MOST]
    together = [member for one in _rows(data.get("together"))[:TOLD] if (member := _member(one)) is not None]
    causes = [cause for one in _rows(data.get("causes"))[:CAUSES] if (cause := _cause(one)) is not None]
    return {
        "series": [{**told_series(one), "otherwise": one.otherwise} for one in series],
        "more_series": max(0, _count(data.get("judged_count")) - len(series)) if series else 0,
        "causes": causes,
        "together": together,
        "more_together": max(0, _count(data.get("together_count")) - len(together)) if together else 0,
        "part_of": _part_of(data.get("part_of")),
        "storm": storm_of(incident),
        "verdicts": [told_verdict(lesson) for lesson in verdicts],
    }


def told_series(one: Judged) -> SeriesTold:
    return {
        "subject": one.subject,
        "metric": one.metric,
        "unit": "yes/no" if is_yes_or_no(one.metric) else unit_of(one.metric),
        "value": _number(one.value),
        "low": _number(one.low),
        "high": _number(one.high),
        "number": _number(one.number),
        "limit": _number(one.limit),
        "named": one.named,
        "share": _number(one.share),
        "why": one.why,
        "was": one.was,
        "usual": one.usual,
        "decided": one.decided,
    }


def nearest(loop: MAPEK, subject: str) -> list[SeriesTold]:
    """How far from a finding a subject is about which there is none, by the analyzers that can say so."""
    found: list[Judged] = []
    for analyzer in loop.parts.analyzers:
        if not isinstance(analyzer, Nearness):
            continue

        def near(analyzer: Nearness = analyzer) -> list[Judged]:
            return list(analyzer.nearest(subject, NEAREST))

        told = guarded_call(near)
        if not isinstance(told, Failure):
            found += told
    found.sort(key=lambda one: -_nearness(one))
    return [{**told_series(one), "decided": one.short_of} for one in found[:NEAREST]]


def _nearness(one: Judged) -> float:
    near = one.number / one.limit if one.limit > 0 else 0.0
    return near if isfinite(near) else 0.0


async def verdicts_on(knowledge: Knowledge, incident: str) -> list[Lesson]:
    """Oldest first. Raises StoreError."""
    return [one for one in await knowledge.learnt.lessons(untaken=False, incident=incident) if one.right is not None]


def told_verdict(lesson: Lesson) -> FindingVerdict:
    return {
        "incident": lesson.incident,
        "right": bool(lesson.right),
        "who": lesson.who,
        "why": lesson.why,
        "at": iso(lesson.at) or "",
        "said": lesson.said,
    }


def verdict_words(lesson: Lesson) -> str:
    why = f": {lesson.why}" if lesson.why else ""
    word = "it was right" if lesson.right else "it was a false alarm"
    return f"{word}, says {lesson.who}{why} ({lesson.said or UNHEARD})"


def with_verdicts(story: Sequence[Entry], verdicts: Iterable[Lesson]) -> list[Entry]:
    """The story, with what people said of the finding in its place."""
    told = list(story)
    for one in verdicts:
        data = {"right": bool(one.right), "who": one.who, "why": one.why, "said": one.said}
        told.insert(
            bisect_right(told, one.at, key=lambda entry: entry.at), Entry(one.at, "verdict", verdict_words(one), data)
        )
    return told


def _rows(told: Any) -> list[Mapping[str, Any]]:
    return [one for one in told if isinstance(one, Mapping)] if isinstance(told, list | tuple) else []


def _member(one: Mapping[str, Any]) -> MemberTold | None:
    subject, fault, since = one.get("subject"), one.get("fault"), _number(one.get("since"))
    if not isinstance(subject, str) or not isinstance(fault, str):
        return None
    return {
        "subject": subject,
        "fault": fault,
        "summary": str(one.get("summary") or ""),
        "since": None if since is None else iso(since),
    }


def _cause(one: Mapping[str, Any]) -> CauseTold | None:
    subject, name = one.get("subject"), one.get("name")
    if not isinstance(subject, str) or not isinstance(name, str):
        return None
    return {"subject": subject, "name": name, "share": _number(one.get("share")), "why": str(one.get("why") or "")}


def _part_of(told: Any) -> PartOf | None:
    if not isinstance(told, Mapping) or not isinstance(told.get("incident"), str):
        return None
    return {
        "incident": told["incident"],
        "subject": str(told.get("subject") or ""),
        "fault": str(told.get("fault") or ""),
    }


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
