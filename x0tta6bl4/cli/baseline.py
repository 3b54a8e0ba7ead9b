"""Shows what is usual for each series, as the daemon keeps it, and carries it to other hosts and back."""

import asyncio
import glob
import os
import shutil
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from typing import Any

from x0tta6bl4.analyzers.baseline import Baselines
from x0tta6bl4.analyzers.baseline import Config as BaselineConfig
from x0tta6bl4.cli.chart import Column, drawn, narrowed, svg, widened
from x0tta6bl4.cli.display import WIDTH, Display, plural, span
from x0tta6bl4.cli.exits import BAD, OK, USAGE, Refusal, quoted
from x0tta6bl4.cli.learn import Pupil, pupil_of, put_down
from x0tta6bl4.cli.places import config_of, opened, overrides_of, place_of, who
from x0tta6bl4.judgement.usual import Hourly, Usual, usual_of
from x0tta6bl4.kernel.errors import ConfigError
from x0tta6bl4.kernel.facts import shown
from x0tta6bl4.kernel.judged import all_judged_of, judged_of
from x0tta6bl4.kernel.lessons import Lesson
from x0tta6bl4.kernel.traces import Series

LATELY = 7 * 86400.0
INCIDENTS_READ = 5000
LARGEST_FILE = 1 << 30
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True)
class Kept:
    """What an analyzer has learnt, as the store has it."""

    pupil: Pupil
    known: Baselines
    body: bytes
    at: float
    waiting: int
    """Lessons that the daemon has not taken yet."""
    alarms: Mapping[Series, int]
    """Incidents of the last week that tell of a series."""
    verdicts: Mapping[Series, tuple[int, int]]
    """How often a person called a finding right, and how often a false alarm."""

    @property
    def names(self) -> dict[str, Series]:
        """``SUBJECT/METRIC`` and what it stands for."""
        return {"/".join(series): series for series in sorted(self.known.seats.row_of)}


def show(args: Namespace) -> int:
    return asyncio.run(_show(args, Display(args)))


def export_(args: Namespace) -> int:
    return asyncio.run(_export(args, Display(args)))


def import_(args: Namespace) -> int:
    return asyncio.run(_import(args, Display(args)))


def forget(args: Namespace) -> int:
    return asyncio.run(_forget(args, Display(args)))


# -- show --------------------------------------------------------------------------------------------------------------


async def _show(args: Namespace, display: Display) -> int:
    kept = await _kept(args, display)
    names = kept.names
    wanted = _matching(names, [args.series]) if args.series is not None else list(names)
    if len(wanted) == 1 and args.series is not None:
        return _one(kept, names[wanted[0]], display, args.svg)
    if args.svg is not None:
        raise Refusal(f"--svg draws a single series, and {len(wanted)} are meant; name one")
    shown_rows = wanted[: args.limit]
    rows = [_row(kept, names[name]) for name in shown_rows]
    if display.as_json:
        display.json(
            {
                "analyzer": kept.pupil.name,
                "kept_at": kept.at,
                "count": len(wanted),
                "lessons_waiting": kept.waiting,
                "series": rows,
            }
        )
        return OK
    display.table(
        ("SERIES", "STATE", "VALUE", "USUAL NOW", "LIMIT", "ALARMS", "WHAT PEOPLE SAID"),
        [
            (
                f"{row['subject']}/{row['metric']}",
                _state(row),
                _told(row["metric"], row["value"]),
                _band(row["metric"], row["low"], row["high"]),
                f"{row['limit']:.3g}",
                str(row["alarms"]),
                _said(row),
            )
            for row in rows
        ],
    )
    if len(wanted) > len(rows):
        display.line(f"and {len(wanted) - len(rows)} more; --limit {len(wanted)} shows them")
    display.line()
    young = sum(map(bool, kept.known.engine.learning()[[kept.known.seats.row_of[names[name]] for name in wanted]]))
    display.line(f"{len(wanted)} series, {young} of them still learning. {_age(kept, display)}")
    return OK


def _row(kept: Kept, series: Series) -> dict[str, Any]:
    engine = kept.known.engine
    row = kept.known.seats.row_of[series]
    told = engine.explain(row)
    right, wrong = kept.verdicts.get(series, (0, 0))
    is_learning = bool(engine.learning()[row])
    return {
        "subject": series[0],
        "metric": series[1],
        "learning": is_learning,
        "progress": round(float(engine.progress(row)), 3),
        "value": _finite(told.value),
        "low": None if is_learning else _finite(told.low),
        "high": None if is_learning else _finite(told.high),
        "limit": round(float(engine.limits[row]), 6),
        "alarms": kept.alarms.get(series, 0),
        "right": right,
        "false_alarms": wrong,
    }


def _one(kept: Kept, series: Series, display: Display, picture: str | None) -> int:
    row = _row(kept, series)
    at = kept.known.seats.row_of[series]
    usual = usual_of(kept.known.engine.snapshot(), at, kept.known.engine.settings)
    name, metric = "/".join(series), series[1]
    if picture is not None:
        _draw(picture, name, metric, usual)
    if display.as_json:
        display.json(
            {
                "analyzer": kept.pupil.name,
                "kept_at": kept.at,
                "timezone": kept.pupil.config.timezone,
                **row,
                "budget_per_week": kept.pupil.config.budget,
                "sensitivity": kept.pupil.config.sensitivity,
                "hours_of_day": _hours(usual.day),
                "hours_of_week": _hours(usual.week),
                "features": {
                    feature: {"low": _finite(low), "high": _finite(high)}
                    for feature, (low, high) in usual.ranges.items()
                },
            }
        )
        return OK
    display.head(name)
    display.line(f"{_state(row)}. {_age(kept, display)}", 2)
    display.line(f"value {_told(metric, row['value'])}, usual at that time {_band(metric, row['low'], row['high'])}", 2)
    usual_limit = kept.known.engine.settings.base
    moved = "" if abs(row["limit"] / usual_limit - 1) < 0.01 else f" (others begin with {usual_limit:.3g})"
    display.line(
        f"a finding from a novelty of {row['limit']:.3g} on{moved}; "
        f"it may be wrong {kept.pupil.config.budget:g} times a week before that rises",
        2,
    )
    display.line(
        f"{plural(row['alarms'], 'incident')} within {span(LATELY)}; people said: {_said(row) or 'nothing'}", 2
    )
    zone = kept.pupil.config.timezone
    _chart(display, f"by hour of the day ({zone})", metric, usual.day, _day_marks(), 24)
    _chart(display, f"by hour of the week ({zone})", metric, usual.week, _week_marks(), 168)
    display.line()
    display.table(
        ("SEEN THROUGH", "BETWEEN"),
        [(feature, _span(metric, feature, ends)) for feature, ends in usual.ranges.items()],
    )
    if picture is not None:
        display.line(f"Drawn into {picture}.")
    return OK


def _chart(
    display: Display, words: str, metric: str, hourly: Hourly, marks: Sequence[tuple[int, str]], hours: int
) -> None:
    columns = _columns(hourly)
    display.line()
    known = sum(isfinite(middle) for _, middle, _ in columns)
    display.line(f"{words}: {known} of {hours} hours seen" + ("; the band is shaded" if known else ""), 2)
    if not known:
        return
    room = max(24, (shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH) - 16)
    each = max(1, min(4, room // hours))
    fitted = widened(columns, each) if each > 1 else narrowed(columns, room)
    blocks = (sys.stdout.encoding or "").lower().startswith("utf")
    lines = drawn(fitted, lambda value: _told(metric, value), blocks=blocks)
    for line in lines:
        print(line)
    margin = max(line.index("│" if blocks else "|") for line in lines) + 1
    scale = [" "] * (len(fitted) + 4)
    for at, mark in marks:
        place = at * len(fitted) // hours
        scale[place : place + len(mark)] = mark
    print((" " * margin + "".join(scale)).rstrip())


def _draw(path: str, name: str, metric: str, usual: Usual) -> None:
    text = svg(
        name,
        [
            ("by hour of the day", _columns(usual.day), _day_marks()),
            ("by hour of the week", _columns(usual.week), _week_marks()),
        ],
        lambda value: _told(metric, value),
    )
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refusal(f"{path} cannot be written: {error.strerror}", BAD) from error


def _columns(hourly: Hourly) -> list[Column]:
    return list(zip(hourly.low.tolist(), hourly.usual.tolist(), hourly.high.tolist(), strict=True))


def _hours(hourly: Hourly) -> list[dict[str, float | None]]:
    return [
        {"low": _finite(low), "usual": _finite(middle), "high": _finite(high)} for low, middle, high in _columns(hourly)
    ]


def _day_marks() -> list[tuple[int, str]]:
    return [(hour, f"{hour:02}") for hour in (0, 6, 12, 18)]


def _week_marks() -> list[tuple[int, str]]:
    return [(24 * number, day) for number, day in enumerate(DAYS)]


def _state(row: Mapping[str, Any]) -> str:
    return f"learning {row['progress']:.0%}" if row["learning"] else "learnt"


def _said(row: Mapping[str, Any]) -> str:
    told = [f"{row['right']} right"] if row["right"] else []
    return ", ".join([*told, *([plural(row["false_alarms"], "false alarm")] if row["false_alarms"] else [])])


def _told(metric: str, value: float | None) -> str:
    return "-" if value is None or not isfinite(value) else _rounded(metric, value)


def _rounded(metric: str, value: float) -> str:
    return shown(metric, value if metric.endswith(("_bytes", "_ratio")) else float(f"{value:.4g}"))


def _band(metric: str, low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{_told(metric, low)} to {_told(metric, high)}"


def _span(metric: str, feature: str, ends: tuple[float, float]) -> str:
    """A level as it is; the others are distances, from a mean or from what the hour usually shows."""
    sign = "" if feature == "level" else "+"
    low, high = (f"{sign if end > 0 else ''}{_told(metric, end)}" for end in ends)
    return f"{low} and {high}"


def _finite(value: float) -> float | None:
    return float(value) if isfinite(value) else None


def _age(kept: Kept, display: Display) -> str:
    waits = f", and {plural(kept.waiting, 'lesson')} waits for it" if kept.waiting == 1 else ""
    waits = f", and {plural(kept.waiting, 'lesson')} wait for it" if kept.waiting > 1 else waits
    return f"As the daemon kept it {display.when(kept.at)}{waits}."


# -- what the store has ------------------------------------------------------------------------------------------------


def _pupil(args: Namespace) -> Pupil:
    """Also with mistakes in the configuration: looking needs none of it."""
    from x0tta6bl4.app import read

    try:
        _, blueprint = read(config_of(args), os.environ, overrides_of(args))
    except ConfigError:
        return Pupil(args.analyzer or "baseline", BaselineConfig(), False)
    return pupil_of(blueprint.chosen, args.analyzer)


async def _kept(args: Namespace, display: Display) -> Kept:
    place = place_of(args)
    pupil = await asyncio.to_thread(_pupil, args)
    async with opened(place) as knowledge:
        found = await knowledge.learnt.kept(pupil.name)
        lessons = await knowledge.learnt.lessons(untaken=False, limit=100_000)
        incidents = await knowledge.incidents(limit=INCIDENTS_READ)
    waiting = sum(one.kind == "learnt" and one.taken_at is None and one.analyzer == pupil.name for one in lessons)
    if found is None:
        raise Refusal(
            f"nothing that the analyzer {pupil.name} learnt is kept yet"
            + (f"; {plural(waiting, 'lesson')} for the daemon when it starts" if waiting else ""),
            BAD,
            remedy="the daemon keeps it every 15 minutes, and when it stops; `x0tta6bl4 learn` fills it from history",
        )
    body, at = found
    alarms: Counter[Series] = Counter()
    for incident in incidents:
        if incident.opened_at >= display.now - LATELY:
            alarms.update({(one.subject, one.metric) for one in judged_of(incident.data) if one.named == "novelty"})
    verdicts: dict[Series, tuple[int, int]] = {}
    for lesson in lessons:
        if lesson.kind == "verdict" and lesson.right is not None:
            for one in all_judged_of(lesson.data):
                right, wrong = verdicts.get((one.subject, one.metric), (0, 0))
                verdicts[one.subject, one.metric] = (right + lesson.right, wrong + (not lesson.right))
    return Kept(pupil, _read(pupil, body, f"what is kept for {pupil.name}"), body, at, waiting, alarms, verdicts)


def _read(pupil: Pupil, body: bytes, what: str) -> Baselines:
    known = Baselines(pupil.config)
    try:
        known.merge(body)
    except ValueError as error:
        raise Refusal(f"{what} cannot be used: {error}", BAD) from error
    return known


def _matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that are meant, in order. Refusal with the nearest ones for a pattern that fits none."""
    from x0tta6bl4.settings.mistakes import nearest

    there = list(names)
    found: dict[str, None] = {}
    for pattern in patterns:
        meant = [name for name in there if name == pattern]
        meant = meant or [name for name in there if fnmatchcase(name, pattern)]
        meant = meant or [name for name in there if fnmatchcase(name, f"{pattern}/*")]
        if not meant:
            hint = nearest(pattern, there) or (f"there are {len(there)}" if there else "there is none at all")
            raise Refusal(f"no series is called {quoted(pattern)}; {hint}", USAGE)
        found.update(dict.fromkeys(meant))
    return [name for name in there if name in found]


# -- from host to host -------------------------------------------------------------------------------------------------


async def _export(args: Namespace, display: Display) -> int:
    kept = await _kept(args, display)
    names = kept.names
    wanted = _matching(names, args.series) if args.series else list(names)
    body = kept.known.pack([names[name] for name in wanted])
    if args.archive == "-":
        sys.stdout.buffer.write(body)
        return OK
    # Beside it first: a file of that name is whole or not there.
    target = Path(args.archive)
    draft = target.with_name(target.name + ".part")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    if display.as_json:
        display.json({"file": str(target), "series": len(wanted), "bytes": len(body)})
    else:
        display.line(f"What was learnt of {len(wanted)} series is written to {target} ({len(body)} bytes).")
    return OK


async def _import(args: Namespace, display: Display) -> int:
    body = await asyncio.to_thread(_bytes_of, args.archive)
    pupil = await asyncio.to_thread(_pupil, args)
    if not pupil.is_configured:
        raise Refusal(
            "no analyzer of this configuration learns baselines, so nobody would use them",
            remedy="add it with `analyzers: {baseline: {}}`",
        )
    known = _read(pupil, body, args.archive)
    names = {"/".join(series): series for series in sorted(known.seats.row_of)}
    wanted = _matching(names, args.series) if args.series else list(names)
    if not wanted:
        raise Refusal(f"{args.archive} has no series in it", BAD)
    packed = known.pack([names[name] for name in wanted])
    taken = await put_down(args, pupil, packed, {"from": args.archive, "series": len(wanted)})
    left = known.seats.turned_away
    if display.as_json:
        display.json({"file": args.archive, "series": len(wanted), "no_room": left, "damaged": known.damaged})
        return OK
    display.line(f"What {args.archive} has of {len(wanted)} series was put down. {taken}")
    if left:
        display.line(f"{left} more found no room; most_series is {pupil.config.most_series}", 2)
    if known.damaged:
        display.line(f"{known.damaged} more are damaged, and were left out", 2)
    return OK


def _bytes_of(archive: str) -> bytes:
    try:
        if archive == "-":
            body = sys.stdin.buffer.read(LARGEST_FILE + 1)
        else:
            with open(archive, "rb") as file:
                body = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise Refusal(f"{archive} cannot be read: {error.strerror}", BAD) from error
    if len(body) > LARGEST_FILE:
        raise Refusal(f"{archive} has more than {LARGEST_FILE} bytes, as no export has", BAD)
    return body


async def _forget(args: Namespace, display: Display) -> int:
    kept = await _kept(args, display)
    wanted = _matching(kept.names, args.series)
    place = place_of(args)
    async with opened(place) as knowledge:
        await knowledge.learnt.teach(
            Lesson("learnt", kept.pupil.name, data={"forget": [glob.escape(name) for name in wanted]}, who=who())
        )
    if display.as_json:
        display.json({"forget": wanted})
    else:
        when = "now" if place.daemon is not None else "when it starts"
        display.line(
            f"The daemon begins anew with {len(wanted)} series {when}: {', '.join(wanted[:10])}"
            + (" and more." if len(wanted) > 10 else ".")
        )
    return OK
