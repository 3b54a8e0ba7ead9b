"""Puts together how every subject is: from the running daemon where it answers, else from what the store last heard."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from x0tta6bl4.cli.display import Display, plural
from x0tta6bl4.cli.live import Now, Picture, ask
from x0tta6bl4.cli.places import Place
from x0tta6bl4.kernel.facts import Incident, IncidentState, Severity
from x0tta6bl4.kernel.flags import FLAGS
from x0tta6bl4.kernel.incidents import MERGED
from x0tta6bl4.kernel.memory import Knowledge, Pause


@dataclass(frozen=True)
class Seen:
    subjects: Sequence[Now]
    live: Picture | None
    """None: no daemon runs."""
    at: float | None
    """When it was seen so; None when nothing was ever seen."""
    is_live: bool

    def find(self, name: str) -> Now | None:
        return next((s for s in self.subjects if s.name == name), None)


async def seen(place: Place, knowledge: Knowledge, now: float) -> Seen:
    live = ask(place.daemon, now) if place.daemon is not None else None
    if live is not None and not live.trouble:
        return Seen(live.subjects, live, now, True)
    rows = await knowledge.subjects()
    latest = max((row.at for row in rows), default=None)
    # All are written in one go, so one that lags behind is not watched any more.
    rows = [row for row in rows if latest is not None and row.at > latest - 1]
    trouble = await knowledge.open_incidents()
    ended = await knowledge.incidents(IncidentState.CLOSED, limit=200)
    ended = sorted(ended, key=lambda i: i.closed_at or 0.0, reverse=True)  # not as they were opened: some came back
    current = [_caught_up(Now(r.name, r.state, r.since, r.summary, "", r.at), trouble, ended) for r in rows]
    return Seen(current, live, latest, False)


def _caught_up(row: Now, trouble: Sequence[Incident], ended: Sequence[Incident]) -> Now:
    """The rows are written once a cycle, incidents at once: what they tell of later is the newer truth."""
    for incident in trouble:
        is_trouble = incident.severity is not Severity.INFO  # else it is only noted
        if is_trouble and incident.subject == row.name and incident.updated_at > row.at:
            return replace(
                row,
                state=incident.fault,
                since=incident.onset_at or incident.opened_at,
                summary=incident.summary,
                at=incident.updated_at,
            )
    for incident in ended:  # the latest first
        over = incident.closed_at
        if (
            incident.subject == row.name
            and incident.ended != MERGED  # it is not over: it is another's
            and over is not None
            and over > row.since
            and (over > row.at or row.state == "well")
        ):
            summary = row.summary if row.state == "well" else f"{incident.fault} {incident.ended}"
            return replace(row, state="well", since=over, summary=summary, at=max(over, row.at))
    return row


SAID = frozenset({"healing-off", "paused"})
"""Conditions that every command tells from the store, which is never behind."""


def tell_conditions(display: Display, picture: Seen) -> None:
    """What is wrong with the daemon itself, as it tells."""
    for condition in picture.live.conditions if picture.live is not None else ():
        if condition.get("code") not in SAID:
            display.line(f"! {condition.get('title', '')}: {condition.get('meaning', '')}")


def tell_source(display: Display, place: Place, picture: Seen) -> None:
    """Whose word the picture is, and how old."""
    if picture.is_live:
        return
    if place.daemon is None:
        display.line(
            "No daemon runs: nothing is watched or healed now. Start it with `x0tta6bl4 run` or "
            "`systemctl start x0tta6bl4`."
        )
    else:
        assert picture.live is not None, "there is a daemon, so it was asked"
        display.line(f"The daemon (pid {place.daemon.pid}) could not be asked: {picture.live.trouble}.")
    if picture.at is not None:
        display.line(
            f"How everything is comes from the store; all of it was last looked at {display.when(picture.at)}."
        )


async def is_healing_on(knowledge: Knowledge) -> bool:
    default = next(flag.default for flag in FLAGS if flag.name == "auto_healing")
    return (await knowledge.flags()).get("auto_healing", default)


def pause_words(display: Display, pause: Pause) -> str:
    what = "everything is" if pause.target == "*" else f"{pause.target} is"
    kind = "in maintenance" if pause.kind == "maintenance" else "paused"
    why = f": {pause.reason}" if pause.reason else ""
    return (
        f"{what} {kind} by {pause.who} until {display.when(pause.until)}{why}; "
        f"`x0tta6bl4 resume '{pause.target}'` ends it"
    )


def watched_words(picture: Seen) -> str:
    names = sorted(s.name for s in picture.subjects)
    if not names:
        return "nothing is watched"
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return f"watched {'is' if len(names) == 1 else 'are'} {plural(len(names), 'subject')}: {shown}"
