"""Series by their names: which row of an engine each has, when it was last seen, and who has to make room."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from x0tta6bl4.kernel.sight import Columns, View
from x0tta6bl4.kernel.traces import Series

Rows = npt.NDArray[np.intp]
Numbers = npt.NDArray[np.float64]

YOUNG = 120.0
"""Seconds after the start of a process, or an act of ours, in which its numbers are those of a start."""
GROWN = 86400.0
"""Seconds in which a process may still be on its way to the size that it has later."""
GROWS = re.compile(r"process_(rss_bytes|fds|fds_ratio|threads)|.*(heap|cache|resident|memory_used).*")
"""What begins small with every new process, and ends up where its load takes it."""
COUNTERS = ("*_total", "process_cpu_seconds", "unit_restarts")
"""What only rises, until it begins anew: its rate is judged. Others, such as ``jobs_count``, may be of either kind."""
FORGOTTEN, FORGOTTEN_YOUNG = 14 * 86400.0, 3600.0
"""Seconds unseen after which a series is forgotten: one that was learnt, and one that was not yet."""
SWEEP_EVERY = 600.0
"""Seconds between two looks for series that are not seen any more."""
SLEPT = 86400.0
"""Seconds between two such looks after which the clock must have been set, or the host was asleep."""
PRESSED = 86400.0
"""Seconds unseen after which a series makes room for a new one, where there is none left."""
_MAGIC = re.compile(r"[*?[]")
_ESCAPED = re.compile(r"\[([*?[])\]")


class Patterns:
    """Which names are meant: one of these shell patterns, and none of those. What was asked once is known."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self._include = tuple(include)
        self._exclude = tuple(exclude)
        self._known: dict[str, bool] = {}

    def __call__(self, name: str) -> bool:
        known = self._known.get(name)
        if known is None:
            if len(self._known) > 10_000:  # names that are made up anew each time must not fill the memory
                self._known.clear()
            known = self._known[name] = any(fnmatchcase(name, p) for p in self._include) and not any(
                fnmatchcase(name, p) for p in self._exclude
            )
        return known


def named(patterns: Iterable[str], series: Iterable[Series]) -> list[Series]:
    """Those of the series whose ``SUBJECT/METRIC`` one of the patterns means. Ten thousand whole names are looked up,
    not tried one after the other.
    """
    whole: set[str] = set()
    others: list[str] = []
    for pattern in patterns:
        if _MAGIC.search(_ESCAPED.sub("", pattern)):
            others.append(pattern)
        else:
            whole.add(_ESCAPED.sub(r"\1", pattern))
    meant = Patterns(others, ())
    return [one for one in series if (name := f"{one[0]}/{one[1]}") in whole or (others and meant(name))]


def is_young(view: View, subject: str) -> bool:
    """Whether it has only just begun, or we do something to it: its numbers say that, and nothing else."""
    sight = view.sight
    if sight.is_acted_on(subject):
        return True
    acted, age = sight.acted_at(subject), view.value(subject, "process_age_seconds")
    return (acted is not None and view.now - acted < YOUNG) or (age is not None and age < YOUNG)


def is_born_small(view: View, subject: str, metric: str, value: float, low: float | None) -> bool:
    """Whether it is less than usual of what every process begins with little of: a restart, and nothing strange."""
    if low is None or not value < low or GROWS.fullmatch(metric) is None:
        return False
    age = view.value(subject, "process_age_seconds")
    return age is not None and age < GROWN


class Rates:
    """Turns what counts up into how fast it does. A count that falls has begun anew, and says nothing once."""

    def __init__(self, is_counter: Patterns) -> None:
        self._is_counter = is_counter
        self._last: dict[Series, tuple[float, float]] = {}
        self._rates: dict[Series, float] = {}

    def of(self, seen: Columns) -> Columns:
        counters = [n for n, (_, metric) in enumerate(seen.names) if self._is_counter(metric)]
        if not counters:
            return seen
        values = seen.values[:]
        last: dict[Series, tuple[float, float]] = {}
        for n in counters:
            series, value, at = seen.names[n], seen.values[n], seen.ats[n]
            before = self._last.get(series)
            if before is not None and at <= before[0]:
                last[series] = before
                values[n] = math.nan
                continue
            last[series] = (at, value)
            rate = math.nan if before is None or value < before[1] else (value - before[1]) / (at - before[0])
            values[n] = self._rates[series] = rate
        self._last = last
        self._rates = {series: rate for series, rate in self._rates.items() if series in last}
        return Columns(seen.names, values, seen.ats)

    def latest(self, subject: str, metric: str) -> float | None:
        """None when it is no counter, or nothing can be said."""
        rate = self._rates.get((subject, metric))
        return rate if rate is not None and rate == rate else None


class Seats:
    """Gives each series a row, and takes it back when the series is gone for long."""

    def __init__(
        self,
        add: Callable[[Sequence[Series]], Rows],
        drop: Callable[[Rows], None],
        most: int,
    ) -> None:
        self._add = add
        self._drop = drop
        self._most = most
        self.row_of: dict[Series, int] = {}
        self._names: list[Series] = []
        self._rows: Rows = np.empty(0, np.intp)
        self._mask: npt.NDArray[np.bool_] = np.empty(0, np.bool_)
        self._seen = np.zeros(0)
        """Row -> when it was last looked at, by the clock that the caller uses."""
        self._taken = np.zeros(0)
        """Row -> the monotonic time of its latest value that was taken."""
        self._swept_at: float | None = None
        self.turned_away = 0
        """Series of the latest look that found no room."""

    def __len__(self) -> int:
        return len(self.row_of)

    def values(self, seen: Columns, size: Callable[[], int], wall: float) -> Numbers:
        """The values by row, for those that are new since the look before; NaN for all others."""
        if seen.names != self._names:
            self._place(seen.names, wall)
        count = size()
        self._grow(count)
        values = np.full(count, np.nan)
        if len(seen.names):
            rows = self._rows
            told = np.frombuffer(seen.values)[self._mask]
            ats = np.frombuffer(seen.ats)[self._mask]
            values[rows] = np.where(ats > self._taken[rows], told, np.nan)
            self._taken[rows] = ats
            self._seen[rows] = wall
        return values

    def seat(self, names: Sequence[Series], wall: float, *, is_seen: bool = False) -> Rows:
        """The rows of these; those that have none get one as far as there is room, and -1 where there is not."""
        new = list(dict.fromkeys(name for name in names if name not in self.row_of))
        room = max(0, self._most - len(self.row_of))
        if len(new) > room and self.row_of and self._swept_at is not None:
            room += self._make_room(len(new) - room, names, wall)
        self.turned_away = max(0, len(new) - room)
        if new := new[:room]:
            rows = self._add(new)
            self.row_of.update(zip(new, rows.tolist(), strict=True))
            self._grow(int(rows.max()) + 1)
            self._seen[rows] = wall
            self._taken[rows] = -np.inf
        seats = np.array([self.row_of.get(name, -1) for name in names], np.intp)
        if is_seen:
            self._seen[seats[seats >= 0]] = wall
        return seats

    def _make_room(self, wanted: int, names: Iterable[Series], wall: float) -> int:
        """Those that were not seen for longest go, as far as that is long enough; how many went. Never before the first
        sweep: what an earlier life knew was not seen while nobody looked.
        """
        there, rows = list(self.row_of), np.fromiter(self.row_of.values(), np.intp, len(self.row_of))
        unseen = wall - self._seen[rows]
        due = np.flatnonzero(unseen > PRESSED)
        if not len(due):
            return 0
        needed = set(names)
        oldest = [there[n] for n in due[np.argsort(-unseen[due], kind="stable")].tolist() if there[n] not in needed]
        return len(self.let_go(oldest[:wanted]))

    def saw(self, rows: Rows, wall: Numbers | float) -> None:
        """They were seen at that time."""
        self._seen[rows] = wall

    def sweep(self, wall: float, is_learning: Callable[[Rows], npt.NDArray[np.bool_]]) -> list[Series]:
        """Lets go of those that were not seen for long, the sooner where little was learnt of them; tells which."""
        passed = 0.0 if self._swept_at is None else wall - self._swept_at
        if self._swept_at is not None and 0 <= passed < SWEEP_EVERY:
            return []
        is_first, self._swept_at = self._swept_at is None, wall
        if is_first:
            self._seen[:] = wall  # nobody was seen while nobody looked: their time begins with this life
            return []
        if not 0 <= passed <= SLEPT:
            # The clock was set, or the host slept. Nobody looked for so long, and nobody is forgotten for it.
            before = self._seen < wall - SWEEP_EVERY if passed > 0 else self._seen > wall
            self._seen[before] = np.minimum(self._seen[before] + passed, wall)
        names = list(self.row_of)
        rows = np.fromiter(self.row_of.values(), np.intp, len(names))
        self._grow(int(rows.max()) + 1 if len(rows) else 0)
        gone = wall - self._seen[rows] > np.where(is_learning(rows), FORGOTTEN_YOUNG, FORGOTTEN)
        return self.let_go([name for name, is_gone in zip(names, gone.tolist(), strict=True) if is_gone])

    def let_go(self, names: Iterable[Series]) -> list[Series]:
        gone = [name for name in names if name in self.row_of]
        if gone:
            self._drop(np.array([self.row_of.pop(name) for name in gone], np.intp))
            self._names = []
        return gone

    def _place(self, names: Sequence[Series], wall: float) -> None:
        rows = self.seat(names, wall)
        self._mask = rows >= 0
        self._rows = rows[self._mask]
        self._names = list(names)

    def _grow(self, count: int) -> None:
        if count > len(self._seen):
            more = count + count // 4 + 64 - len(self._seen)
            self._seen = np.concatenate([self._seen, np.zeros(more)])
            self._taken = np.concatenate([self._taken, np.full(more, -np.inf)])

    # What an earlier life knew

    def told(self) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, object]]:
        """When each was seen, and the names with their rows, for keeping."""
        names = list(self.row_of)
        rows = np.fromiter(self.row_of.values(), np.int64, len(names))
        return {"seats.rows": rows, "seats.seen": self._seen[rows]}, {"series": names}

    def take_up(self, names: Sequence[Series], rows: Rows, seen: Numbers) -> None:
        """Those of an earlier life, whose rows an engine has taken up."""
        if len(seen) != len(names):
            raise ValueError("not all series say when they were seen")
        self.row_of = dict(zip(names, rows.tolist(), strict=True))
        self._names = []
        self._grow(int(rows.max()) + 1 if len(rows) else 0)
        self._seen[rows] = seen
        self._taken[rows] = -np.inf

    @staticmethod
    def read(arrays: Mapping[str, npt.NDArray[np.generic]], header: Mapping[str, object]) -> tuple[list[Series], Rows]:
        """Names and rows that were told; ValueError when they do not fit together."""
        names = header.get("series")
        rows = arrays.get("seats.rows")
        if not isinstance(names, list) or rows is None or rows.shape != (len(names),) or rows.dtype.kind not in "iu":
            raise ValueError("the names of the series are missing or do not fit")
        seen = arrays.get("seats.seen")
        if seen is None or seen.shape != rows.shape:
            raise ValueError("not all series say when they were seen")
        series: list[Series] = []
        for name in names:
            if not isinstance(name, list | tuple) or len(name) != 2 or not all(isinstance(part, str) for part in name):
                raise ValueError(f"{json.dumps(name)[:80]} is no series")
            series.append((name[0], name[1]))
        if len(set(series)) < len(series):
            raise ValueError("a series is there more than once")
        return series, rows.astype(np.intp)
