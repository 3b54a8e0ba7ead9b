"""Where the recordings are, and the one shape in which every detector is shown them."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.floating]

ROOT = Path(__file__).resolve().parents[2]
PLACE = "X0TTA6BL4_RECORDINGS"
MINUTE = 60.0
ASKED = {"machine": MINUTE, "omi": 5 * MINUTE}
"""Seconds between the rows of a machine, by how its file is called: SMD and ASD say so, their files do not."""
SETS = {"machine": "SMD", "omi": "ASD"}


# -- what a detector is ------------------------------------------------------------------------------------------------


class Detector(Protocol):
    """Judges every series alone, tick by tick, and never looks ahead. A fresh one is made for every recording."""

    name: str
    about: str
    """Version and settings, for the reader of the tables."""

    def start(self, series: int, counters: Flags | None = None) -> None:
        """Forgets all and makes ready for so many; ``counters`` are running totals, if it says that it takes them."""

    def step(self, values: Floats, at: float | Floats) -> Numbers:
        """One tick: the score of every series, the higher the stranger; NaN was not seen. May reuse what it returns."""


@runtime_checkable
class Adaptive(Protocol):
    """A detector that decides itself what is an alarm, and can be given counters as they are scraped."""

    def alarms(self) -> Flags:
        """Which series raise an alarm at this tick."""


@runtime_checkable
class Whole(Protocol):
    """A detector that is faster with a whole series at once, and that looks ahead as little as the others."""

    name: str
    about: str

    def judge(self, values: Floats, at: Floats, learn: int) -> Numbers:
        """The score of every sample of one series; the first ``learn`` are for learning and are not counted."""


class Watcher(Protocol):
    """Judges many metrics of one machine together."""

    name: str
    about: str

    def start(self, learned: Floats, step: float) -> None:
        """Forgets all, then learns from rows that come before those it is asked about."""

    def step(self, values: Floats) -> float:
        """One row: the score of the machine."""

    def contributions(self) -> Numbers:
        """What each metric had to do with the latest score; only their order and sums are used."""


@runtime_checkable
class WholeWatcher(Protocol):
    """One that is faster with all rows at once, looks ahead as little as the others, and names no causes."""

    name: str
    about: str

    def whole(self, learned: Floats, values: Floats) -> Numbers:
        """The score of every row."""


def scores(detector: Detector | Whole, values: Floats, at: Floats, learn: NDArray[np.intp]) -> NDArray[np.float64]:
    """All scores of the series in the columns of ``values``; ``at`` has a column for each as well, or none."""
    found = np.zeros(values.shape)
    if isinstance(detector, Whole):
        for column in range(values.shape[1]):
            there = np.isfinite(values[:, column])
            when = at[:, column] if at.ndim > 1 else at
            seen = int(there[: learn[column]].sum())
            found[there, column] = detector.judge(values[there, column], when[there], seen)
        return found
    detector.start(values.shape[1])
    for tick, row in enumerate(values):
        found[tick] = detector.step(row, at[tick] if at.ndim > 1 else float(at[tick]))
    return found


# -- where they are ----------------------------------------------------------------------------------------------------


def folder() -> Path | None:
    """The folder that holds ``nab`` and ``multivariate``, or nothing when there is none here."""
    told = os.environ.get(PLACE)
    here = Path(told) if told else ROOT.parent / "shared" / "data" / "detect"
    if told and not here.is_dir():
        raise SystemExit(f"{PLACE} says {told!r}, and that is not a folder: name the one that holds nab/")
    return here if here.is_dir() else None


@dataclass(frozen=True)
class Recording:
    """One file of the Numenta benchmark, with its labelled windows as first and last sample."""

    name: str
    at: Floats
    values: Floats
    windows: Sequence[tuple[int, int]]

    @property
    def learn(self) -> int:
        """So many samples at its start are not scored."""
        return int(min(0.15 * len(self.values), 750))

    @property
    def weeks(self) -> float:
        return float(self.at[-1] - self.at[self.learn]) / 604800


def _seconds(text: str) -> float:
    return float(int(datetime.fromisoformat(text.strip()).replace(tzinfo=UTC).timestamp()))


def nab(root: Path) -> dict[str, Recording]:
    """All files below ``root`` that have labels."""
    labels = root / "labels" / "combined_windows.json"
    if not labels.is_file():
        raise SystemExit(f"{root} has no labels/combined_windows.json: name a folder with data/ and labels/")
    found = {}
    for name, windows in sorted(json.loads(labels.read_text()).items()):
        path = root / "data" / name
        if not path.is_file():
            continue
        rows = [line.split(",") for line in path.read_text().splitlines()[1:] if line.strip()]
        at = np.array([_seconds(row[0]) for row in rows])
        first: dict[float, int] = {}
        for number, second in enumerate(at.tolist()):
            first.setdefault(second, number)
        spans = [(first[_seconds(begin)], first[_seconds(end)]) for begin, end in windows]
        found[name] = Recording(name, at, np.array([float(row[1]) for row in rows]), spans)
    if not found:
        raise SystemExit(f"none of the files that {labels} names is below {root / 'data'}")
    return found


def together(recordings: Mapping[str, Recording]) -> tuple[Floats, Floats]:
    """All files side by side, as a daemon would see them; one that is over goes on as missing."""
    longest = max(len(one.values) for one in recordings.values())
    values = np.full((longest, len(recordings)), np.nan)
    at = np.empty((longest, len(recordings)))
    for column, one in enumerate(recordings.values()):
        count = len(one.values)
        values[:count, column], at[:count, column] = one.values, one.at
        at[count:, column] = one.at[-1] + 300.0 * np.arange(1, longest - count + 1)
    return values, at


@dataclass(frozen=True)
class Recorded:
    """A machine: rows to learn from, rows to judge, and which of them belong to an event."""

    name: str
    family: str
    step: float
    learned: Floats
    values: Floats
    label: Flags
    causes: Sequence[tuple[int, int, Sequence[int]]]
    """First and last row of an event, and the metrics that an expert named for it."""


def machines(root: Path) -> list[Recorded]:
    found = []
    for path in sorted(root.glob("*.npz")):
        kind = path.stem.split("-")[0]
        if kind not in SETS:
            raise SystemExit(f"{path} is of no set that is known: its name begins with none of {', '.join(SETS)}")
        with np.load(path) as kept:
            causes = [(int(begin), int(end), list(named)) for begin, end, named in json.loads(str(kept["causes"]))]
            found.append(
                Recorded(
                    path.stem,
                    SETS[kind],
                    ASKED[kind],
                    kept["train"].astype(np.float64),
                    kept["test"].astype(np.float64),
                    kept["label"].astype(bool),
                    causes,
                )
            )
    return found
