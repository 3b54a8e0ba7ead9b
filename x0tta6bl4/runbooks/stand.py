"""Says where an incident stands on its runbook: what it does and waits for, until when, and what it listens to."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from x0tta6bl4.kernel.errors import ConfigError
from x0tta6bl4.kernel.facts import Incident, IncidentState, Message
from x0tta6bl4.kernel.memory import Knowledge
from x0tta6bl4.runbooks.document import Runbook, parse
from x0tta6bl4.runbooks.life import heard
from x0tta6bl4.statechart.persistence.serializer import SnapshotError


@dataclass(frozen=True)
class Waiting:
    """A timer that runs."""

    what: str
    at: float
    """Wall-clock seconds."""
    leads_to: tuple[str, ...] = ()


@dataclass(frozen=True)
class Doing:
    state: str
    what: str
    under_way: bool
    tries: int = 0
    not_before: float = 0.0


@dataclass(frozen=True)
class Stand:
    """The place of an incident on its runbook, as people and programs are told of it."""

    runbook: str
    version: int
    hash: str
    states: tuple[str, ...] = ()
    ended: bool = False
    doing: tuple[Doing, ...] = ()
    timers: tuple[Waiting, ...] = ()
    taking_back: tuple[str, ...] = ()
    can_take_back: tuple[str, ...] = ()
    begins_anew_at: float | None = None
    notes: tuple[str, ...] = ()
    inbox: tuple[Message, ...] = ()
    """Events that nobody has taken yet."""
    hears: Mapping[str, str] = field(default_factory=dict)
    """Event from outside -> what keeps it from being taken now; empty: nothing."""
    trouble: str = ""
    """Why no more can be said of it."""


async def stand_of(knowledge: Knowledge, incident: Incident, now: float) -> Stand | None:
    """None: it has never been on a runbook, or its place says nothing any more. ``now``: wall-clock seconds."""
    place = dict(incident.place.items())
    waits = tuple(m for m in await knowledge.inbox() if m.incident == incident.id)
    rest = place.get("rest")
    if not place.get("book"):
        if rest is None and not waits:
            return None
        return Stand("", 0, "", ended=True, begins_anew_at=rest, inbox=waits)
    stand = Stand(
        runbook=str(place.get("name")),
        version=int(place.get("version", 0)),
        hash=str(place["book"]),
        ended=place.get("ended") is not None,
        doing=tuple(_doing(act) for act in place.get("acts", {}).values()),
        taking_back=tuple(f"{entry['undoes']} on {entry['target']}" for entry in place.get("back", ())),
        can_take_back=tuple(f"{entry['undoes']} on {entry['target']}" for entry in place.get("undo", ())),
        begins_anew_at=rest,
        notes=tuple(place.get("notes", ())),
        inbox=waits,
    )
    try:
        book = (await kept(knowledge))(stand.hash)
        if book is None:
            return replace(stand, trouble=f"v{stand.version} ({stand.hash}) of it is not kept")
        return replace(
            stand,
            states=_innermost(book, place.get("chart") or {}),
            timers=tuple(sorted((_timer(book, t) for t in place.get("timers", {}).values()), key=lambda w: w.at)),
            hears={} if stand.ended or incident.state is IncidentState.CLOSED else heard(book, incident, now),
        )
    except (ConfigError, SnapshotError) as error:
        return replace(stand, trouble=f"this version of the daemon cannot read it: {error}")


async def kept(knowledge: Knowledge) -> Callable[[str], Runbook | None]:
    """Runbooks by their hash, as the store has them; ConfigError for one that this version cannot read any more."""
    books = {book.hash: book for book in await knowledge.books()}
    read: dict[str, Runbook] = {}

    def by_hash(hash: str) -> Runbook | None:
        book = books.get(hash)
        if book is None or hash in read:
            return read.get(hash)
        found, wrong = parse(json.loads(book.source), f"{book.name} v{book.version}, as it was kept")
        if found is None:
            raise ConfigError(wrong, remedy="this version of the daemon cannot read that runbook any more")
        read[hash] = found
        return found

    return by_hash


def _innermost(book: Runbook, chart: Mapping[str, Any]) -> tuple[str, ...]:
    ids, parents = book.chart.ids, book.chart.parents
    active = [name for name in chart.get("states", ()) if name in ids]
    around = {parents[ids[name]] for name in active}
    return tuple(name for name in active if ids[name] not in around)


def _doing(act: Mapping[str, Any]) -> Doing:
    match act["kind"]:
        case "act":
            what = " and ".join(step["action"] for step in act["steps"])
        case "rollback":
            what = "taking back what was done"
        case _:
            what = "choosing what comes next"
    return Doing(act["state"], what, "begun" in act, act.get("tries", 0), act.get("not_before", 0.0))


def _timer(book: Runbook, timer: Mapping[str, Any]) -> Waiting:
    state, _, number = str(timer["event"]).removeprefix("after.").rpartition(".")
    chart = book.chart
    at = float(timer["due"])
    if not str(timer["event"]).startswith("after.") or not number.isdecimal():
        return Waiting(timer["event"], at)
    transitions = chart.states[chart.ids.get(state, 0)].transitions
    leads_to = transitions[int(number)].to if int(number) < len(transitions) else ()
    return Waiting(state if state in chart.ids else "the runbook's deadline", at, leads_to)
