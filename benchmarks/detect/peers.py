"""What a user would take instead: each with the settings that its documentation recommends, and no look ahead.

Those that take several features of a series are given three (`features`), for on the value alone they do worse on the
recordings. Times and costs are theirs as they come from the registry; none is patched.
"""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.detect.recordings import Flags, Floats, Numbers

DAY = 86400.0
WINDOW = 12
"""Samples whose mean is the third feature."""


def features(values: Floats) -> Floats:
    """The value, what it has changed by since the last one, and how far it is from the mean of the last twelve."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - WINDOW)
    means = (sums[ends] - sums[begins]) / (ends - begins)
    return np.column_stack([values, np.diff(values, prepend=values[:1]), values - means])


class ZScore:
    """How many standard deviations from an exponentially weighted mean: what is written in an afternoon."""

    name = "EW z-score"
    about = "mean and variance decay within a day, at least 100 samples; numpy"

    def start(self, series: int, counters: Flags | None = None) -> None:
        self.seen = np.zeros(series)
        self.last = np.full(series, np.nan)
        self.mean = np.zeros(series)
        self.variance = np.zeros(series)

    def step(self, values: Floats, at: float | Floats) -> Numbers:
        there = np.isfinite(values)
        self.seen += there
        passed = np.nan_to_num(at - self.last)
        self.last = np.where(there, at, self.last)
        away = np.where(there, values - self.mean, 0.0)
        # A standard deviation of nothing would make the smallest change of a constant infinitely strange.
        scores = np.abs(away) / (np.sqrt(self.variance) + 1e-3 * np.abs(self.mean) + 1e-12)
        share = np.clip(passed / DAY, 1 / np.maximum(1, self.seen), 1.0)
        share = np.where(there, np.minimum(share, np.maximum(0.01, 1 / np.maximum(1, self.seen))), 0.0)
        self.mean += share * away
        self.variance = (1 - share) * (self.variance + share * away * away)
        return np.where(self.seen > 1, scores, 0.0) * there


class HalfSpaceTrees:
    """river's online isolation trees, one forest a series, behind its own scaler, as its documentation shows them."""

    name = "river HalfSpaceTrees"

    def __init__(self) -> None:
        from river import anomaly, compose, preprocessing

        self._make = lambda: compose.Pipeline(preprocessing.MinMaxScaler(), anomaly.HalfSpaceTrees(seed=42))
        version = importlib.metadata.version("river")
        self.about = f"river {version}, 10 trees of height 8, window 250, MinMaxScaler, three features"

    def judge(self, values: Floats, at: Floats, learn: int) -> Numbers:
        model: Any = self._make()
        found = np.zeros(len(values))
        for number, row in enumerate(features(values).tolist()):
            told = dict(enumerate(row))
            found[number] = model.score_one(told)
            model.learn_one(told)
        return found


class Forest:
    """scikit-learn's IsolationForest, fitted to the part for learning, or again every week to the last two."""

    def __init__(self, anew: bool) -> None:
        from sklearn.ensemble import IsolationForest

        self._make = lambda: IsolationForest(n_estimators=100, random_state=42)
        self._anew = anew
        self.name = "IsolationForest, weekly" if anew else "IsolationForest"
        version = importlib.metadata.version("scikit-learn")
        when = "every week to the last two" if anew else "to the part for learning"
        self.about = f"scikit-learn {version}, 100 trees, fitted {when}, three features"

    def judge(self, values: Floats, at: Floats, learn: int) -> Numbers:
        told, found = features(values), np.zeros(len(values))
        begin = max(2, learn)
        while begin < len(values):
            end = int(np.searchsorted(at, at[begin] + 7 * DAY)) if self._anew else len(values)
            end = max(end, begin + 1)
            first = int(np.searchsorted(at, at[begin] - 14 * DAY)) if self._anew else 0
            model: Any = self._make().fit(told[min(first, begin - 2) : begin])
            found[begin:end] = -model.score_samples(told[begin:end])
            begin = end
        return found


# -- machines ----------------------------------------------------------------------------------------------------------


class ZScores:
    """The sum of squared z-scores of all metrics against a day's exponentially weighted mean."""

    name = "EW z-scores, summed"
    about = "mean and variance decay within a day; a z is cut at 20; numpy"

    def start(self, learned: Floats, step: float) -> None:
        self._one, self._step, self._now = ZScore(), step, 0.0
        self._one.start(learned.shape[1])
        self._z = np.zeros(learned.shape[1])
        for row in learned:
            self.step(row)

    def step(self, values: Floats) -> float:
        self._now += self._step
        self._z = np.square(np.minimum(self._one.step(values, self._now), 20.0))
        return float(self._z.sum())

    def contributions(self) -> Numbers:
        return self._z


class Components:
    """PCA: what the components that explain nine tenths of the learned rows leave over."""

    name = "PCA"
    about = "90 % of the variance of the rows to learn from; standardised, cut at 20; squared rest; numpy"

    def start(self, learned: Floats, step: float) -> None:
        self._mean, self._spread = learned.mean(axis=0), learned.std(axis=0) + 1e-3
        _, sizes, axes = np.linalg.svd((learned - self._mean) / self._spread, full_matrices=False)
        explained = np.cumsum(sizes**2) / np.sum(sizes**2)
        self._axes = axes[: min(int(np.searchsorted(explained, 0.9)) + 1, len(axes) - 1)]
        self._rest = np.zeros(learned.shape[1])

    def step(self, values: Floats) -> float:
        told = np.clip((values - self._mean) / self._spread, -20, 20)
        self._rest = np.square(told - (told @ self._axes.T) @ self._axes)
        return float(self._rest.sum())

    def contributions(self) -> Numbers:
        return self._rest


class MachineForest:
    """IsolationForest over all metrics of a machine, fitted to the rows to learn from. It names no causes."""

    name = "IsolationForest"

    def __init__(self) -> None:
        from sklearn.ensemble import IsolationForest

        self._make = lambda: IsolationForest(n_estimators=100, random_state=42)
        self.about = (
            f"scikit-learn {importlib.metadata.version('scikit-learn')}, 100 trees, fitted to the rows to learn"
        )

    def whole(self, learned: Floats, values: Floats) -> Numbers:
        model: Any = self._make().fit(learned)
        return np.asarray(-model.score_samples(values), dtype=np.float64)


class MachineTrees:
    """HalfSpaceTrees over all metrics of a machine, online, after the last of the rows to learn. It names no causes."""

    name = "river HalfSpaceTrees"
    LEARNED = 2000

    def __init__(self) -> None:
        from river import anomaly, compose, preprocessing

        self._make = lambda: compose.Pipeline(preprocessing.MinMaxScaler(), anomaly.HalfSpaceTrees(seed=42))
        version = importlib.metadata.version("river")
        self.about = (
            f"river {version}, 10 trees of height 8, window 250, MinMaxScaler, the last {self.LEARNED} rows first"
        )

    def whole(self, learned: Floats, values: Floats) -> Numbers:
        model: Any = self._make()
        found = np.zeros(len(values))
        for row in learned[-self.LEARNED :].tolist():
            model.learn_one(dict(enumerate(row)))
        for number, row in enumerate(values.tolist()):
            told = dict(enumerate(row))
            found[number] = model.score_one(told)
            model.learn_one(told)
        return found


class Always:
    """Fires at everything: whatever measure likes it is no measure."""

    name = "always fires"
    about = "the same score for every sample"

    def start(self, series: int, counters: Flags | None = None) -> None:
        self._scores = np.ones(series)

    def step(self, values: Floats, at: float | Floats) -> Numbers:
        return self._scores


class MachineAlways:
    name, about = Always.name, Always.about

    def start(self, learned: Floats, step: float) -> None:
        self._scores = np.ones(learned.shape[1])

    def step(self, values: Floats) -> float:
        return 1.0

    def contributions(self) -> Numbers:
        return self._scores


def missing() -> Sequence[str]:
    """The libraries that are compared with and are not here."""
    found = []
    for library in ("river", "scikit-learn"):
        try:
            importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found.append(library)
    return found
