"""Reads the past of many series in the order of time, from a Prometheus or from CSV files, piece by piece."""

import asyncio
import csv
import heapq
import math
import sys
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from x0tta6bl4.cli.exits import BAD, Refusal, quoted
from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.traces import Series
from x0tta6bl4.monitors.prometheus import Answer, Query, QueryApi, TooLong, sample, series_of, subject_named, written

MOST_STEPS = 10_000
"""Points of a series that one question asks for; a Prometheus gives 11,000 at most."""
CELLS = 120_000
"""Numbers that one piece should have, of all series together: some 30 MB while its text is taken apart."""
BODY_LIMIT = 32 << 20
FIRST_STEPS = 60
TRIES = 3
PAUSE = 1.0
"""Seconds before the second try; each further one waits three times as long."""
PATIENCE = 120.0
"""Seconds in which an answer must come."""
MOST_MISTAKES = 20
SORTED_IN_MEMORY = 4_000_000
"""Rows of a file without order that are put in order here; at 24 bytes each."""
TOGETHER = 30.0
"""Seconds by which values may lie apart and still be one look."""
LEAST_STEP = 1e-3
"""Seconds between two looks, at least."""
LONGEST_LINE = 1 << 16
"""Characters; a row has a hundred."""
LONGEST_NAME = 200
MILLISECONDS = 1e11
"""From here on a number is milliseconds since 1970, not seconds."""
LATEST = 86400.0
"""Seconds by which a time may lie ahead of this host's clock."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some looks at the same series: a row of ``values`` for each of ``ats``, NaN where nothing was seen."""

    names: list[Series]
    ats: Sequence[float]
    """Wall-clock seconds, rising."""
    values: npt.NDArray[np.float64]


Progress = Callable[[float], None]
"""Told the time up to which was read."""


# -- from a Prometheus -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for a metric, and of whom."""

    api: QueryApi
    metric: str
    query: Query


class PrometheusHistory:
    """What queries gave over a span of time. What the servers warn of gathers in ``warnings``."""

    def __init__(
        self,
        queries: Sequence[Wanted],
        since: float,
        until: float,
        step: float,
        keep: Callable[[Series], bool] = lambda series: True,
        say: Callable[[str], None] = lambda words: None,
    ) -> None:
        """``keep``: which of the series are wanted."""
        self._queries = queries
        self._step = step
        self._first = math.ceil(since / step)
        self._last = math.floor(until / step)
        self._keep = keep
        self._say = say
        self.warnings: dict[str, None] = {}
        self._gave: set[int] = set()

    @property
    def empty(self) -> list[str]:
        """The metrics of which there was not a single value."""
        gave = {one.metric for number, one in enumerate(self._queries) if number in self._gave}
        return sorted({one.metric for one in self._queries} - gave)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Refusal in the server's words when it cannot go on."""
        at, steps, names = self._first, FIRST_STEPS, list[Series]()
        while at <= self._last:
            count = min(steps, self._last - at + 1)
            try:
                piece = await self._piece(at, count)
            except TooLong as error:
                if count == 1:
                    raise Refusal(
                        f"even a single moment is too much: {error.message}", BAD, remedy=error.remedy
                    ) from error
                steps = max(1, count // 4)
                continue
            if piece.names == names:
                piece = Piece(names, piece.ats, piece.values)  # the same list is known again at once
            names = piece.names
            if names:
                yield piece
            at += count
            steps = max(1, min(MOST_STEPS, 8 * count, CELLS // max(1, len(names))))

    async def _piece(self, first: int, count: int) -> Piece:
        ats = np.arange(first, first + count) * self._step
        columns: dict[Series, npt.NDArray[np.float64]] = {}
        for number, one in enumerate(self._queries):
            answer = await self._ask(one, float(ats[0]), float(ats[-1]))
            self.warnings.update(dict.fromkeys(answer.warnings))
            if answer.result:
                self._gave.add(number)
            try:
                self._take(one.metric, one.query, answer, first, count, columns)
            except ValueError as error:
                raise Refusal(f"the query for {one.metric}: {error}") from error
        names = sorted(name for name, column in columns.items() if not np.isnan(column).all())
        values = np.stack([columns[name] for name in names], axis=1) if names else np.empty((count, 0))
        return Piece(names, ats.tolist(), values)

    def _take(
        self,
        metric: str,
        query: Query,
        answer: Answer,
        first: int,
        count: int,
        columns: dict[Series, npt.NDArray[np.float64]],
    ) -> None:
        for labels, pairs in series_of(answer, "values"):
            # A range of a single number comes as one series without labels.
            series = (subject_named(query.subject, labels), metric)
            if not self._keep(series):
                continue
            ats, values = _numbers(pairs)
            rows = np.rint(ats / self._step).astype(np.int64) - first
            if len(rows) and (rows.min() < 0 or rows.max() >= count):
                raise ValueError(f"the series {written(labels)} has values outside of what was asked for")
            column = columns.get(series)
            if column is None:
                column = columns[series] = np.full(count, np.nan)
            elif not np.isnan(column[rows]).all():
                raise ValueError(
                    f"more than one series is called {series[0]!r} at the same time, one of them {written(labels)}; "
                    "add labels to the subject, or sum by (…)"
                )
            column[rows] = np.where(np.isfinite(values), values, np.nan)

    async def _ask(self, wanted: Wanted, start: float, end: float) -> Answer:
        """What is only busy, or away for a moment, is asked again."""
        pause = PAUSE
        for left in reversed(range(TRIES)):
            try:
                async with asyncio.timeout(PATIENCE):
                    return await wanted.api.ask_range(wanted.query.query, start, end, self._step, body_limit=BODY_LIMIT)
            except TimeoutError:
                trouble, words = None, f"{wanted.api.url} gave no answer within {PATIENCE:g} s"
            except TooLong:
                raise
            except ProbeFailed as error:
                if "too many samples" in str(error.details.get("words")):
                    raise TooLong(error.message, remedy=error.remedy) from error
                trouble, words = error, str(error)
                if not _may_pass(error):
                    break
            if left:
                self._say(f"{words}; once more in {pause:g} s")
                await asyncio.sleep(pause)
                pause *= 3
        raise Refusal(words, BAD) from trouble


def _numbers(pairs: list[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Moments and numbers. ValueError, in words, where one is neither."""
    try:
        # All at once, for there may be millions; what does not fit is looked at one by one, for its words.
        ats, texts = zip(*pairs, strict=True) if pairs else ((), ())
        return np.array(ats, np.float64), np.array(list(map(float, texts)))
    except (TypeError, ValueError, OverflowError):
        read = [sample(pair) for pair in pairs]
        return np.array([at for at, _ in read]), np.array([value for _, value in read])


def _may_pass(error: ProbeFailed) -> bool:
    return isinstance(error.__cause__, OSError) or error.details.get("kind") in ("timeout", "unavailable", "internal")


# -- from CSV files ----------------------------------------------------------------------------------------------------

Row = tuple[float, Series, float]


class _TooLong(Exception):
    """A line that does not end."""


class _Unsorted(Exception):
    """Told by the file whose rows are not in the order of time."""

    def __init__(self, path: str, line: int) -> None:
        super().__init__(path)
        self.path = path
        self.line = line


class Mistakes(Refusal):
    """What is wrong in the files, line by line; nothing was learnt."""

    def __init__(self, found: Sequence[str], more: bool) -> None:
        rest = f"\nand more; only the first {len(found)} are told" if more else ""
        super().__init__("\n".join(found) + rest, BAD, remedy="nothing was learnt")

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}"


class CsvHistory:
    """The rows of files, merged by their times. The order within a file is found out while it is read."""

    def __init__(
        self, paths: Sequence[str], series: Series | None, zone: ZoneInfo, now: float, stdin: IO[str] | None = None
    ) -> None:
        """``series``: whose values they are, for files with two columns. ``zone``: of times that do not say theirs."""
        self._paths = list(dict.fromkeys(paths))
        self._series = series
        self._zone = zone
        self._latest = now + LATEST
        self._stdin = stdin if stdin is not None else sys.stdin
        self._names: dict[Series, Series] = {}
        self._mistakes: list[str] = []
        self._to_sort: set[str] = set()
        self.rows = 0
        self.repeated = 0
        """Rows left out, because their series had a value at that time already."""

    def unsorted(self, error: _Unsorted) -> None:
        """From now on that file is put in order first. Refusal where it cannot be."""
        remedy = "put them in order first, such as with: sort -t, -k1,1"
        if error.path == "-":
            raise Refusal(
                f"-:{error.line}: the times go back, and standard input is read only once", BAD, remedy=remedy
            )
        self._to_sort.add(error.path)

    def pieces(self) -> Iterator[Piece]:
        """Each piece is one look. Raises ``_Unsorted`` when a file has to be sorted: begin anew then."""
        self.rows = self.repeated = 0
        self._mistakes.clear()
        yield from self._looks(heapq.merge(*map(self._file, self._paths), key=lambda row: row[0]))
        if self._mistakes:
            raise Mistakes(self._mistakes, False)

    def _looks(self, rows: Iterable[Row]) -> Iterator[Piece]:
        """Values belong to one look until a series comes again, or too much time has passed."""
        look: dict[Series, tuple[float, float]] = {}
        began = at = told = 0.0
        names: list[Series] = []
        for time, series, value in rows:
            self.rows += 1
            before = look.get(series)
            if before is not None and before[0] == time:
                self.repeated += 1  # files that overlap; the first one counts
                continue
            if look and (before is not None or time - began > TOGETHER):
                told = max(at, told + LEAST_STEP)
                piece = _look(look, told, names)
                names = piece.names
                yield piece
                look = {}
            if not look:
                began = time
            at = time
            look[series] = (time, value)
        if look:
            yield _look(look, max(at, told + LEAST_STEP), names)

    def _file(self, path: str) -> Iterator[Row]:
        rows = self._read(path, self._stdin) if path == "-" else self._opened(path)
        return self._sorted(path, rows) if path in self._to_sort else self._in_order(path, rows)

    def _opened(self, path: str) -> Iterator[tuple[int, Row]]:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                yield from self._read(path, file)
        except OSError as error:
            raise Refusal(f"{path} cannot be read: {error.strerror}", BAD) from error

    def _in_order(self, path: str, rows: Iterator[tuple[int, Row]]) -> Iterator[Row]:
        before = -math.inf
        for line, row in rows:
            if row[0] < before:
                raise _Unsorted(path, line)
            before = row[0]
            yield row

    def _sorted(self, path: str, rows: Iterator[tuple[int, Row]]) -> Iterator[Row]:
        times, values, which = array("d"), array("d"), array("q")
        known: dict[Series, int] = {}
        for _, (time, series, value) in rows:
            if len(times) >= SORTED_IN_MEMORY:
                raise Refusal(
                    f"{path} is not in the order of time and has more than {SORTED_IN_MEMORY} rows",
                    BAD,
                    remedy="put them in order first, such as with: sort -t, -k1,1",
                )
            times.append(time)
            values.append(value)
            which.append(known.setdefault(series, len(known)))
        names = list(known)
        for number in np.argsort(np.frombuffer(times), kind="stable").tolist() if times else ():
            yield times[number], names[which[number]], values[number]

    def _read(self, path: str, file: IO[str]) -> Iterator[tuple[int, Row]]:
        reader = csv.reader(_lines(file), strict=True)
        columns: tuple[int, int, int, int] | None = None
        needed = 0
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                break
            except (csv.Error, _TooLong) as error:
                self._mistake(path, reader.line_num + isinstance(error, _TooLong), f"is no CSV: {error}")
                return  # where a quote is open, what follows cannot be told apart
            if not fields or (len(fields) == 1 and not fields[0].strip()):
                continue
            if columns is None:
                columns = self._head(path, fields)
                needed = 1 + max(columns)
                continue
            if len(fields) < needed:
                self._mistake(path, reader.line_num, f"has {len(fields)} of {needed} columns")
                continue
            try:
                row = self._row(fields, columns)
            except ValueError as error:
                self._mistake(path, reader.line_num, str(error))
                continue
            if row is not None:
                yield reader.line_num, row
        if columns is None:
            self._mistake(path, 1, "has no header, and no rows; it should begin with time,subject,metric,value")

    def _head(self, path: str, fields: Sequence[str]) -> tuple[int, int, int, int]:
        """Where the columns stand; -1 for those that are not there."""
        names = [field.lstrip("\ufeff").strip().lower() for field in fields]
        places = {name: number for number, name in reversed(list(enumerate(names)))}
        time = places.get("time", places.get("timestamp", -1))
        found = (time, places.get("subject", -1), places.get("metric", -1), places.get("value", -1))
        if found[0] < 0 or found[3] < 0:
            raise Refusal(
                f"{path}:1: should be a header such as time,subject,metric,value, not {quoted(','.join(fields))}", BAD
            )
        if self._series is None and (found[1] < 0 or found[2] < 0):
            raise Refusal(
                f"{path}:1: has no column {'subject' if found[1] < 0 else 'metric'}",
                BAD,
                remedy="say whose values they are with --subject-name NAME --metric NAME",
            )
        if self._series is not None:
            found = (found[0], -1, -1, found[3])
        return found

    def _row(self, fields: Sequence[str], columns: tuple[int, int, int, int]) -> Row | None:
        """None for a value that is not there."""
        time = self._time(fields[columns[0]].strip())
        if columns[1] < 0:
            assert self._series is not None
            series = self._series
        else:
            told = (fields[columns[1]].strip(), fields[columns[2]].strip())
            known = self._names.get(told)
            if known is None:
                for name, what in zip(told, ("subject", "metric"), strict=True):
                    if problem := name_problem(name):
                        raise ValueError(f"the {what} {problem}")
                known = self._names[told] = told
            series = known
        text = fields[columns[3]].strip()
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"{quoted(text)} is no number") from None
        return (time, series, value) if math.isfinite(value) else None

    def _time(self, text: str) -> float:
        try:
            time = float(text)
        except ValueError:
            time = moment(text, self._zone)
        if not 0 < time <= self._latest:
            if MILLISECONDS <= time <= 1000 * self._latest:
                raise ValueError(f"{quoted(text)} seems to be milliseconds; seconds since 1970 are wanted")
            raise ValueError(f"{quoted(text)} is no time between 1970 and now")
        return time

    def _mistake(self, path: str, line: int, words: str) -> None:
        self._mistakes.append(f"{path}:{line}: {words}")
        if len(self._mistakes) >= MOST_MISTAKES:
            raise Mistakes(self._mistakes, True)


def _lines(file: IO[str]) -> Iterator[str]:
    """Line by line, and never more of one than can be sense: a device, or a picture, may have none that ends."""
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE and not line.endswith("\n"):
            raise _TooLong(f"a line has more than {LONGEST_LINE} characters")
        yield line


def _look(look: Mapping[Series, tuple[float, float]], at: float, before: list[Series]) -> Piece:
    names = list(look)
    if names == before:
        names = before
    return Piece(names, [at], np.array([[value for _, value in look.values()]]))


def name_problem(name: str) -> str:
    """Why no subject or metric can be called so; empty when one can."""
    if not name:
        return "has no name"
    if len(name) > LONGEST_NAME:
        return f"{quoted(name)} is too long a name"
    return "" if name.isprintable() else f"{quoted(name)} has signs that cannot be shown"


def moment(text: str, zone: ZoneInfo) -> float:
    """Wall-clock seconds of an RFC 3339 time. ValueError for anything else."""
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{quoted(text)} is no time; write 2026-01-31T08:00:00Z, or seconds since 1970") from None


def in_order(history: CsvHistory, begin: Callable[[], Callable[[Piece], None]]) -> None:
    """Plays the rows; ``begin`` gives what takes them, anew when a file turns out to be without order."""
    while True:
        take = begin()
        try:
            for piece in history.pieces():
                take(piece)
        except _Unsorted as unsorted:
            history.unsorted(unsorted)
        else:
            return
