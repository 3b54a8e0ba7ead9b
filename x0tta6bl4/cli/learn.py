"""Fills baselines from history: plays the past of series to the analyzer's own engine, and puts down the result."""

import asyncio
import os
import socket
import sys
import time
from argparse import Namespace
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import TextIOWrapper
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from x0tta6bl4.analyzers.baseline import Baselines
from x0tta6bl4.analyzers.baseline import Config as BaselineConfig
from x0tta6bl4.cli.display import Display, plural, printable, span
from x0tta6bl4.cli.exits import BAD, OK, Refusal, quoted
from x0tta6bl4.cli.exporters import host_queries, host_sees, hosts_of
from x0tta6bl4.cli.history import CsvHistory, Piece, PrometheusHistory, Wanted, in_order, moment, name_problem
from x0tta6bl4.cli.places import config_of, opened, overrides_of, place_of, who
from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.lessons import Lesson
from x0tta6bl4.kernel.sight import Columns
from x0tta6bl4.kernel.traces import Series
from x0tta6bl4.kernel.units import as_seconds
from x0tta6bl4.monitors.host import Config as HostConfig
from x0tta6bl4.monitors.prometheus import Config as PrometheusConfig
from x0tta6bl4.monitors.prometheus import MetricName, Query, QueryApi, headers_of, subject_problem, url_problem

MOST_TICKS = 25_000
"""Looks that ``--step auto`` allows for: two weeks at a minute, with room."""
SHOWN = 40
"""Series that the table has; JSON has all."""
ONE_ALARM = 3600.0
"""Seconds within which one alarm after another is the same one."""
TOLD_EVERY = 0.3, 15.0
"""Seconds between two words of progress: on a terminal, and elsewhere."""

SPAN = (("since", "14d"), ("until", "now"), ("step", "auto"))
"""Options that say which part of a Prometheus' past is learnt, and what they are when nobody says."""


@dataclass(frozen=True)
class Pupil:
    """The analyzer that is taught, as the configuration has it."""

    name: str
    config: BaselineConfig
    is_configured: bool


@dataclass
class Course:
    """What is learnt, and what was seen of each series on the way."""

    known: Baselines
    points: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    first: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    last: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    alarmed: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    said: dict[int, list[float]] = field(default_factory=dict)
    """Row -> when it would have been a finding."""
    turned_away: int = 0
    unwanted: set[Series] = field(default_factory=set)
    ticks: int = 0
    _names: list[Series] | None = None
    _columns: npt.NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))
    _wanted: list[Series] = field(default_factory=list)

    def take(self, piece: Piece) -> None:
        known = self.known
        if piece.names is not self._names:
            self._names = piece.names
            keep = [n for n, name in enumerate(piece.names) if self._wants(name)]
            self._columns, self._wanted = np.array(keep, np.intp), [piece.names[n] for n in keep]
        if not self._wanted:
            return
        values = piece.values[:, self._columns]
        for at, row in zip(piece.ats, values, strict=True):
            ats = array("d", [at]) * len(self._wanted)
            told = known.seats.values(Columns(self._wanted, array("d", row.tobytes()), ats), self._size, at)
            self.turned_away = max(self.turned_away, known.seats.turned_away)
            alarms = known.learn(told, at)
            self._count(told, alarms, at)
            self.ticks += 1

    def _wants(self, series: Series) -> bool:
        if self.known.wants_metric(series[1]) and self.known.wants_subject(series[0]):
            return True
        if len(self.unwanted) < 1000:
            self.unwanted.add(series)
        return False

    def _size(self) -> int:
        return self.known.engine.size

    def _count(self, told: npt.NDArray[np.float64], alarms: npt.NDArray[np.intp], at: float) -> None:
        if len(told) > len(self.points):
            more = 2 * len(told) - len(self.points)
            self.points = np.concatenate([self.points, np.zeros(more, np.int64)])
            self.first, self.last, self.alarmed = (
                np.concatenate([old, np.full(more, -np.inf)]) for old in (self.first, self.last, self.alarmed)
            )
        seen = np.flatnonzero(np.isfinite(told))
        self.points[seen] += 1
        self.last[seen] = at
        new = seen[self.first[seen] < 0]
        self.first[new] = at
        if len(alarms):
            for row in alarms[at - self.alarmed[alarms] > ONE_ALARM].tolist():
                self.said.setdefault(row, []).append(at)
            self.alarmed[alarms] = at

    def report(self) -> list[dict[str, Any]]:
        """Each series that was seen, those that would have said most first."""
        engine = self.known.engine
        learning = engine.learning()
        rows = []
        for (subject, metric), row in self.known.seats.row_of.items():
            if row < len(self.points) and self.points[row]:
                rows.append(
                    {
                        "subject": subject,
                        "metric": metric,
                        "since": float(self.first[row]),
                        "until": float(self.last[row]),
                        "points": int(self.points[row]),
                        "learning": bool(learning[row]),
                        "progress": round(float(engine.progress(row)), 3),
                        "alarms": self.said.get(row, []),
                    }
                )
        return sorted(rows, key=lambda row: (-len(row["alarms"]), row["subject"], row["metric"]))


def run(args: Namespace) -> int:
    return asyncio.run(_run(args, Display(args)))


async def _run(args: Namespace, display: Display) -> int:
    chosen = _chosen(args)
    pupil = pupil_of(chosen, args.analyzer)
    if not pupil.is_configured and not args.dry_run:
        raise Refusal(
            "no analyzer of this configuration learns baselines, so nobody would use what is learnt",
            remedy="add it with `analyzers: {baseline: {}}`, or look only, with --dry-run",
        )
    if args.csv and (args.prometheus or args.query):
        raise Refusal("--csv and --prometheus are two sources; learn from one after the other")
    given = [f"--{name}" for name, usual in SPAN if args.csv and getattr(args, name) != usual]
    if given:
        raise Refusal(f"{given[0]} is for --prometheus: from a file all that stands in it is learnt")
    notes: list[str] = []
    progress = Progress(args.output == "json")
    if args.csv:
        course, source = _from_csv(args, pupil, display, progress, notes)
    else:
        course, source = await _from_prometheus(args, pupil, display, chosen["monitors"], progress, notes)
    progress.end()
    rows = course.report()
    if course.turned_away:
        notes.append(f"{course.turned_away} series found no room; most_series is {pupil.config.most_series}")
    if not rows:
        if course.unwanted:
            raise Refusal(
                f"nothing was learnt: of the {len(course.unwanted)} series there, the analyzer "
                f"{pupil.name} wants none, such as {'/'.join(min(course.unwanted))}",
                BAD,
                remedy=f"see analyzers.{pupil.name}.metrics, .exclude and .subjects",
            )
        for note in notes:
            display.line(note)
        raise Refusal(f"nothing was learnt: {source} has no values for that time", BAD, remedy=_hint(args))
    if course.unwanted:
        some = ", ".join("/".join(series) for series in sorted(course.unwanted)[:3])
        notes.append(
            f"left out, as the analyzer {pupil.name} does not learn them: {len(course.unwanted)}, such as {some}"
        )
    if args.dry_run:
        taken = "Nothing was put down: this was a dry run."
    else:
        taken = await put_down(args, pupil, course.known.pack(), {"from": source, "series": len(rows)})
    _tell(display, pupil, course, rows, source, notes, taken, args.dry_run)
    return OK


def _hint(args: Namespace) -> str:
    if args.csv:
        return "does a header have rows below it?"
    return "ask for them in its own page first: do the queries give anything, and does it keep that long?"


def _chosen(args: Namespace) -> Mapping[str, Sequence[Any]]:
    from x0tta6bl4.app import read

    _, blueprint = read(config_of(args), os.environ, overrides_of(args))
    return blueprint.chosen


def pupil_of(chosen: Mapping[str, Sequence[Any]], wanted: str | None) -> Pupil:
    """The analyzer that is meant; Refusal when it is not clear which."""
    there = {one.name: one.config for one in chosen["analyzers"] if isinstance(one.config, BaselineConfig)}
    if wanted is not None and wanted not in there:
        names = f"there are: {', '.join(there)}" if there else "there is none"
        raise Refusal(f"no analyzer {quoted(wanted)} learns baselines; {names}")
    if wanted is None and len(there) > 1:
        raise Refusal(f"several analyzers learn baselines: {', '.join(there)}", remedy="say which with --analyzer NAME")
    if not there:
        return Pupil("baseline", BaselineConfig(), False)
    name = wanted or next(iter(there))
    return Pupil(name, there[name], True)


async def put_down(args: Namespace, pupil: Pupil, body: bytes, data: Mapping[str, Any]) -> str:
    """Leaves the lesson in the store; says when it will be taken."""
    place = place_of(args)
    async with opened(place, create=True) as knowledge:
        await knowledge.learnt.teach(Lesson("learnt", pupil.name, data=data, body=body, who=who()))
    if place.daemon is not None:
        return f"The daemon (pid {place.daemon.pid}) takes it over now, in place of what it knew of these series."
    return "The daemon takes it over when it starts, in place of what it knew of these series."


# -- where from --------------------------------------------------------------------------------------------------------


def _from_csv(
    args: Namespace, pupil: Pupil, display: Display, progress: "Progress", notes: list[str]
) -> tuple[Course, str]:
    if (args.subject_name is None) != (args.metric is None):
        raise Refusal("--subject-name and --metric go together: they say whose values a file of two columns has")
    series = None
    if args.subject_name is not None:
        for name, option in ((args.subject_name, "--subject-name"), (args.metric, "--metric")):
            if problem := name_problem(name):
                raise Refusal(f"{option} {problem}")
        series = (args.subject_name, args.metric)
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no text are a mistake of their line
    history = CsvHistory(args.csv, series, ZoneInfo(pupil.config.timezone), display.now)
    course = Course(Baselines(pupil.config))

    def begin() -> Callable[[Piece], None]:
        nonlocal course
        course = Course(Baselines(pupil.config))

        def take(piece: Piece) -> None:
            course.take(piece)
            progress.say(lambda: f"{history.rows} rows, up to {display.clock(piece.ats[-1])}")

        return take

    in_order(history, begin)
    if history.repeated:
        notes.append(f"{plural(history.repeated, 'row')} left out: their series had a value at that time already")
    names = ", ".join("standard input" if path == "-" else path for path in args.csv[:3])
    return course, names + (" and more" if len(args.csv) > 3 else "")


async def _from_prometheus(
    args: Namespace,
    pupil: Pupil,
    display: Display,
    monitors: Sequence[Any],
    progress: "Progress",
    notes: list[str],
) -> tuple[Course, str]:
    zone = ZoneInfo(pupil.config.timezone)
    until = _moment(args.until, "--until", display.now, zone)
    since = _moment(args.since, "--since", until, zone)
    if not since < until <= display.now + 1:
        raise Refusal(f"--since {args.since} to --until {args.until} is no time that has passed")
    step = _step(args.step, until - since, pupil.config.every)
    wanted, sees = await _wanted(args, monitors, notes)
    course = Course(Baselines(pupil.config))
    history = PrometheusHistory(wanted, since, until, step, sees, progress.note)
    async for piece in history.pieces():
        course.take(piece)
        share = (piece.ats[-1] - since) / (until - since)
        progress.say(partial("{:4.0%}, {} series".format, share, len(piece.names)))
    urls = dict.fromkeys(one.api.url for one in wanted)
    notes += [f"the server warns: {warning}" for warning in history.warnings]
    if history.empty:
        notes.append(f"without any value: {', '.join(history.empty)}")
    notes.append(f"asked at steps of {span(step)}")
    return course, " and ".join(urls)


def _moment(text: str, option: str, before: float, zone: ZoneInfo) -> float:
    """A time, or how long before."""
    if text == "now":
        return before
    try:
        return before - as_seconds(text)
    except ValueError:
        pass
    try:
        return moment(text, zone)
    except ValueError:
        raise Refusal(
            f"{option} {quoted(text)} should be now, a time ago such as 14d, or 2026-01-31T08:00:00Z"
        ) from None


def _step(text: str, length: float, every: float) -> float:
    if text != "auto":
        try:
            step = as_seconds(text)
        except ValueError as error:
            raise Refusal(f"--step {quoted(text)} {error}, or auto") from error
        if step < 1:
            raise Refusal(f"--step {text} should be 1s or more")
        return step
    wanted = max(every, length / MOST_TICKS)
    return wanted if wanted <= every else 60.0 * -(-wanted // 60.0)


async def _wanted(
    args: Namespace, monitors: Sequence[Any], notes: list[str]
) -> tuple[list[Wanted], Callable[[Series], bool]]:
    """What is asked of whom, and which of the series that come are wanted."""
    from x0tta6bl4.adapters.host import LinuxHost
    from x0tta6bl4.adapters.network import AsyncNetwork

    network, host = AsyncNetwork(), LinuxHost()
    if args.prometheus is not None and (problem := url_problem(args.prometheus)):
        raise Refusal(f"--prometheus {quoted(args.prometheus)} {problem}")

    async def api_at(url: str, like: PrometheusConfig | None) -> QueryApi:
        given = (args.token_file, args.headers_file, args.ca_file)
        files = given if any(given) or like is None else (like.token_file, like.headers_file, like.ca_file)
        try:
            headers = await headers_of(host, *files[:2])
        except ProbeFailed as error:
            raise Refusal(str(error), BAD) from error
        return QueryApi(network, url, headers, like is None or like.verify_tls, files[2])

    asked: dict[str, PrometheusConfig] = {}
    for one in monitors:
        if isinstance(one.config, PrometheusConfig):
            asked[one.name] = one.config
    if args.prometheus is None and not asked:
        raise Refusal(
            "no prometheus monitor is configured, and no other source was named",
            remedy="say --prometheus URL, or --csv FILE",
        )
    apis = {}
    for name, config in asked.items():
        same = args.prometheus is None or config.url.rstrip("/") == args.prometheus.rstrip("/")
        apis[name] = await api_at(args.prometheus or config.url, config if same else None)
    first = next(iter(apis.values())) if apis else await api_at(args.prometheus, None)
    if args.query:
        return [Wanted(first, metric, query) for metric, query in map(_query, args.query)], lambda series: True
    found = [
        Wanted(apis[name], metric, query) for name, config in asked.items() for metric, query in config.queries.items()
    ]
    hosts = [one.config for one in monitors if isinstance(one.config, HostConfig)]
    known = {one.metric for one in found}
    of_host = await _of_host(first, hosts, args.instance, notes)
    found += [one for one in of_host if one.metric not in known]
    others = sorted(one.name for one in monitors if not isinstance(one.config, PrometheusConfig | HostConfig))
    if others:
        some = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        notes.append(
            f"not covered: what {some} saw. This daemon's own /metrics tell of its work, not the numbers that it "
            "observes; what Prometheus knows of them otherwise is learnt with --query METRIC=PROMQL --subject =NAME"
        )
    if not found:
        raise Refusal("; ".join(["there is nothing to ask for", *notes]), remedy="say --query METRIC=PROMQL")
    return found, lambda series: all(host_sees(config, series[0]) for config in hosts)


async def _of_host(api: QueryApi, hosts: Sequence[HostConfig], instance: str | None, notes: list[str]) -> list[Wanted]:
    """This host's numbers as node_exporter kept them, if one did."""
    if not hosts:
        return []
    try:
        there = await hosts_of(api)
    except ProbeFailed as error:
        raise Refusal(str(error), BAD) from error
    ours = socket.gethostname()
    names = [one for one, _ in there]
    if instance is not None:
        if instance not in names:
            raise Refusal(
                f"no node_exporter is scraped there as {quoted(instance)}; there are: {', '.join(names[:20]) or 'none'}"
            )
    else:
        same = [one for one, name in there if name.partition(".")[0] == ours.partition(".")[0]]
        if len(same) != 1:
            what = "more than one" if same else "none"
            listed = ", ".join(f"{one} ({name})" for one, name in there[:10])
            notes.append(
                f"the host's own numbers are not covered: of the node_exporters there {what} says that it is on {ours}"
                + (f"; name one with --instance: {listed}" if there else "")
            )
            return []
        instance = same[0]
    found = [Wanted(api, metric, query) for config in hosts for metric, query in host_queries(config, instance)]
    notes.append(f"the host's own numbers are learnt from node_exporter at {instance}")
    return found


def _query(told: Sequence[str | None]) -> tuple[str, Query]:
    """``METRIC=PROMQL`` and what names the subject."""
    from pydantic import TypeAdapter, ValidationError

    text, subject = told
    metric, equals, promql = str(text).partition("=")
    if not equals or not promql.strip():
        raise Refusal(f"--query {quoted(str(text))} should be METRIC=PROMQL, such as load1=node_load1")
    try:
        TypeAdapter(MetricName).validate_python(metric)
    except ValidationError:
        raise Refusal(f"--query {quoted(metric)} is no name of a metric: small letters, digits and _") from None
    if subject is not None and (problem := subject_problem(subject)):
        raise Refusal(f"--subject {quoted(subject)} {problem}")
    return metric, Query(query=promql, **({} if subject is None else {"subject": subject}))


# -- what is told ------------------------------------------------------------------------------------------------------


class Progress:
    """Tells on standard error how far it is; quietly where nobody watches."""

    def __init__(self, is_quiet: bool) -> None:
        self._terminal = sys.stderr.isatty()
        self._every = TOLD_EVERY[0] if self._terminal else TOLD_EVERY[1]
        self._is_quiet = is_quiet and not self._terminal
        self._at = time.monotonic()
        self._length = 0

    def say(self, words: Callable[[], str]) -> None:
        now = time.monotonic()
        if self._is_quiet or now - self._at < self._every:
            return
        self._at = now
        self._write(words())

    def note(self, words: str) -> None:
        self.end()
        print(f"x0tta6bl4: {printable(words)}", file=sys.stderr)

    def end(self) -> None:
        if self._length:
            print("\r" + " " * self._length + "\r", end="", file=sys.stderr, flush=True)
            self._length = 0

    def _write(self, words: str) -> None:
        if self._terminal:
            print(f"\r{words.ljust(self._length)}", end="", file=sys.stderr, flush=True)
            self._length = max(self._length, len(words))
        else:
            print(f"x0tta6bl4: learning: {words}", file=sys.stderr)


def _late(row: Mapping[str, Any]) -> int:
    """Alarms in the second half of what was seen, when most of it is learnt."""
    middle = (row["since"] + row["until"]) / 2
    return sum(at > middle for at in row["alarms"])


def _tell(
    display: Display,
    pupil: Pupil,
    course: Course,
    rows: Sequence[Mapping[str, Any]],
    source: str,
    notes: Sequence[str],
    taken: str,
    is_dry: bool,
) -> None:
    since, until = min(row["since"] for row in rows), max(row["until"] for row in rows)
    young = sum(row["learning"] for row in rows)
    alarms = sum(len(row["alarms"]) for row in rows)
    late = sum(_late(row) for row in rows)
    weeks = sum(row["until"] - row["since"] for row in rows) / (7 * 86400.0)
    if display.as_json:
        display.json(
            {
                "analyzer": pupil.name,
                "source": source,
                "since": since,
                "until": until,
                "looks": course.ticks,
                "series": rows,
                "alarms": alarms,
                "notes": list(notes),
                "put_down": not is_dry,
            }
        )
        return
    display.table(
        ("SERIES", "SINCE", "UNTIL", "POINTS", "STATE", "WOULD HAVE SAID SOMETHING"),
        [
            (
                f"{row['subject']}/{row['metric']}",
                display.clock(row["since"]),
                display.clock(row["until"]),
                str(row["points"]),
                f"learning {row['progress']:.0%}" if row["learning"] else "learnt",
                f"{plural(len(row['alarms']), 'time')}, {_late(row)} of them late" if row["alarms"] else "never",
            )
            for row in rows[:SHOWN]
        ],
    )
    if len(rows) > SHOWN:
        display.line(f"and {len(rows) - SHOWN} more; --output json has them all")
    display.line()
    display.line(
        f"{len(rows)} series of {source}, {display.clock(since)} to {display.clock(until)}: "
        f"{len(rows) - young} learnt, {young} still learning. It would have said "
        f"something {plural(alarms, 'time')}, {late} of them in the second half of each series"
        + (f": {2 * late / weeks:.2g} a week and series." if weeks > 0.01 else ".")
    )
    for note in notes:
        display.line(note, 2)
    display.line(taken)
