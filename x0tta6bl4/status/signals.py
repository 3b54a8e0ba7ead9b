"""Tells what the numbers did round an incident, as charts are drawn from: kept ones and those of this moment."""

from collections.abc import Sequence
from math import isfinite, isnan

from typing_extensions import TypedDict

from x0tta6bl4.kernel.facts import Incident, IncidentState
from x0tta6bl4.kernel.incidents import below
from x0tta6bl4.kernel.judged import judged_of
from x0tta6bl4.kernel.lessons import Alteration
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.kernel.memory import Entry, Signal
from x0tta6bl4.kernel.signals import Bands
from x0tta6bl4.kernel.supervise import Failure, guarded_call
from x0tta6bl4.status.report import iso

MOST_MARKS = 100
"""Marks of one incident; of one that was tried again for days, the first and the latest half."""
MOST_ALTERED = 20
"""Changes that were made on purpose which are told with one incident, the latest."""
ALTERED_BEFORE = 3600.0
"""Seconds before an incident from which on they are told with it."""
MOST_LEFT_OUT = 50
"""Names of metrics that are told to be left out."""
UNITS = {
    "up": "yes/no",
    "seconds": "seconds",
    "bytes": "bytes",
    "ratio": "ratio",
    "percent": "percent",
    "celsius": "celsius",
    "second": "per second",
    "total": "count",
}
"""What a metric is counted in, by the last word of its name."""


class SignalLimit(TypedDict):
    """What a value has to be when all is well."""

    op: str
    value: float


class Series(TypedDict):
    """One line of a chart."""

    subject: str
    metric: str
    unit: str
    """``yes/no``, ``seconds``, ``bytes``, ``ratio`` (1 is all), ``percent``, ``celsius``, ``per second``, ``count``, or
    empty where the metric's name does not say."""
    points: list[tuple[float, float | None]]
    """Seconds since the epoch and value, oldest first. A yes-or-no holds until the next point. Null: nothing was seen
    from then until the next point, so no line goes there, nor behind the last point."""
    limits: list[SignalLimit]
    band: list[tuple[float, float, float]] | None
    """Seconds since the epoch, lowest and highest usual value; null where nothing was learnt."""


class Mark(TypedDict):
    """A moment of the incident's story."""

    at: str
    kind: str
    """``altered``, ``onset``, ``found``, ``held``, ``denied``, ``asked``, ``answered``, ``begun``, ``ended``,
    ``verified`` or ``closed``."""
    text: str


Signals = TypedDict(
    "Signals",
    {
        "incident": str,
        "from": str,
        "to": str,
        "series": list[Series],
        "marks": list[Mark],
        "left_out": list[str],
    },
)
"""``left_out``: metrics of the incident's subject that are seen and not told here, because there was no room."""


async def signals(loop: MAPEK, incident: str) -> Signals | None:
    """None when there is no incident of that id."""
    knowledge, sight = loop.parts.knowledge, loop.parts.sight
    found = await knowledge.incident(incident)
    if found is None:
        return None
    told = [signal for signal in loop.keeping.so_far(incident, await knowledge.signals(incident)) if signal.points]
    wall = loop.parts.clock.wall()
    onset = found.onset_at or found.opened_at
    ends = [found.closed_at or onset] if found.state is IncidentState.CLOSED else [onset, wall]
    ats = [point[0] for signal in told for point in (signal.points[0], signal.points[-1])]
    shown = {signal.metric for signal in told if signal.subject == found.subject}
    seen = sorted({o.metric for o in sight.about(found.subject)} - shown)
    return {
        "incident": incident,
        "from": iso(min([found.opened_at, onset, *ats])) or "",
        "to": iso(max([*ends, *ats])) or "",
        "series": [
            {
                "subject": signal.subject,
                "metric": signal.metric,
                "unit": unit_of(signal.metric),
                "points": [(round(at, 3), None if isnan(value) else value) for at, value in signal.points],
                "limits": _limits(found, signal.subject, signal.metric),
                "band": _band_judged(found, signal)
                or _band(loop, signal.subject, signal.metric, signal.points[0][0], signal.points[-1][0]),
            }
            for signal in told
        ],
        "marks": marks(await knowledge.story(incident), await alterations_of(loop, found)),
        "left_out": seen[:MOST_LEFT_OUT],
    }


def unit_of(metric: str) -> str:
    """As the metric's name tells it; a total of seconds is seconds."""
    name = metric.removesuffix("_total")
    return UNITS.get(name.rpartition("_")[2], "count" if name != metric else "")


def _limits(incident: Incident, subject: str, metric: str) -> list[SignalLimit]:
    return [
        {"op": condition.op, "value": condition.value}
        for condition in dict.fromkeys(incident.healthy_when)
        if ((condition.subject or incident.subject), condition.metric) == (subject, metric)
    ]


def _band_judged(incident: Incident, signal: Signal) -> list[tuple[float, float, float]] | None:
    """What it was judged by when it was found: what is learnt since then is another."""
    for one in judged_of(incident.data):
        if (one.subject, one.metric) != (signal.subject, signal.metric) or one.low is None or one.high is None:
            continue
        values = [value for _, value in signal.points if not isnan(value)]
        if unit_of(one.metric) == "count" or not values or not min(values) <= one.value <= max(values):
            return None  # a counter is judged by its pace, and its chart shows the count
        return [(signal.points[0][0], one.low, one.high), (signal.points[-1][0], one.low, one.high)]
    return None


def _band(
    loop: MAPEK, subject: str, metric: str, since: float, until: float
) -> list[tuple[float, float, float]] | None:
    """Of the first analyzer that has learnt anything about the series. One that fails has learnt nothing."""
    offset = loop.parts.clock.wall() - loop.parts.clock.monotonic()
    for analyzer in loop.parts.analyzers:
        if not isinstance(analyzer, Bands):
            continue

        def learnt(analyzer: Bands = analyzer) -> list[tuple[float, float, float]]:
            found = analyzer.band(subject, metric, since - offset, until - offset)
            return [(at + offset, low, high) for at, low, high in found if isfinite(at) and isfinite(high - low)]

        band = guarded_call(learnt)
        if band and not isinstance(band, Failure):
            return band
    return None


async def alterations_of(loop: MAPEK, incident: Incident) -> list[Alteration]:
    """What was changed on purpose about its subject, or what that depends on, shortly before it or while it lasted.

    Oldest first. Raises StoreError.
    """
    names = {incident.subject, *below(loop.parts.sight.subjects, incident.subject)}
    since = min(incident.opened_at, incident.onset_at or incident.opened_at) - ALTERED_BEFORE
    until = incident.closed_at if incident.closed_at is not None else loop.parts.clock.wall()
    found = await loop.parts.knowledge.learnt.alterations(since)
    return sorted((one for one in found if one.subject in names and one.at <= until), key=lambda one: one.at)


def altered_words(alteration: Alteration) -> str:
    detail = f": {alteration.detail}" if alteration.detail else ""
    return f"{alteration.kind} of {alteration.subject}{detail} (noted by {alteration.who})"


def marks(story: Sequence[Entry], altered: Sequence[Alteration] = ()) -> list[Mark]:
    """The story's moments, in order. A decision that was taken before, and a finding beside the first, are no news."""
    told: list[tuple[float, str, str]] = [(one.at, "altered", altered_words(one)) for one in altered[-MOST_ALTERED:]]
    said: set[object] = set()
    for entry in story:
        kind = _KINDS.get(entry.kind, "")
        if entry.kind == "opened":
            said.discard("found")
        elif entry.kind == "found":
            kind = kind if "found" not in said else ""
            said.add("found")
        elif entry.kind == "decided":
            answer, check = entry.data["answer"], entry.data["check"]
            kind = {"hold": "held", "deny": "denied"}.get(answer, "") if (answer, check) not in said else ""
            said.add((answer, check))
        elif entry.kind == "approval":
            kind = "asked" if entry.data["state"] == "wanted" else "answered"
        if kind:
            told.append((entry.at, kind, entry.text))
        verified_at = entry.data.get("verified_at") if entry.kind == "outcome" else None
        if verified_at is not None:
            told.append((verified_at, "verified", f"{entry.data['action']} on {entry.data['target']} has helped"))
    told.sort(key=lambda mark: mark[0])
    if len(told) > MOST_MARKS:
        told = [*told[: MOST_MARKS // 2], *told[-(MOST_MARKS // 2) :]]
    return [{"at": iso(at) or "", "kind": kind, "text": text} for at, kind, text in told]


_KINDS = {"opened": "onset", "found": "found", "intent": "begun", "outcome": "ended", "closed": "closed"}
