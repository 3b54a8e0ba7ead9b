"""Puts together how every subject is: from the running daemon where it answers, else from what the store last heard."""

from collections.abc import Sequence
from dataclasses import dataclass

from x0tta6bl4.cli.display import Display, plural
from x0tta6bl4.cli.live import Now, Picture, ask
from x0tta6bl4.cli.places import Place
from x0tta6bl4.kernel.flags import FLAGS
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
    current = [Now(r.name, r.state, r.since, r.summary, "", r.at) for r in rows if latest is not None and r.at > latest - 1]
    return Seen(current, live, latest, False)


def tell_source(display: Display, place: Place, picture: Seen) -> None:
    """Whose word the picture is, and how old."""
    if picture.is_live:
        return
    if place.daemon is None:
        display.line("No daemon runs: nothing is watched or healed now. Start it with `x0tta6bl4 run` or "
                     "`systemctl start x0tta6bl4`.")
    else:
        assert picture.live is not None, "there is a daemon, so it was asked"
        display.line(f"The daemon (pid {place.daemon.pid}) runs, but could not be asked: {picture.live.trouble}.")
    if picture.at is not None:
        display.line(f"What follows is from the store, as it was {display.ago(picture.at)}, at {display.clock(picture.at)}.")


async def is_healing_on(knowledge: Knowledge) -> bool:
    default = next(flag.default for flag in FLAGS if flag.name == "auto_healing")
    return (await knowledge.flags()).get("auto_healing", default)


def pause_words(display: Display, pause: Pause) -> str:
    what = "everything is" if pause.target == "*" else f"{pause.target} is"
    kind = "in maintenance" if pause.kind == "maintenance" else "paused"
    why = f": {pause.reason}" if pause.reason else ""
    return (f"{what} {kind} by {pause.who} until {display.when(pause.until)}{why}; "
            f"`x0tta6bl4 resume '{pause.target}'` ends it")


def watched_words(picture: Seen) -> str:
    names = sorted(s.name for s in picture.subjects)
    if not names:
        return "nothing is watched"
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return f"watched {'is' if len(names) == 1 else 'are'} {plural(len(names), 'subject')}: {shown}"
