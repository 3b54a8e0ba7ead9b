"""Scores a detector on recordings as the Numenta Anomaly Benchmark does, and by what an operator asks: found, false.

A window is worth something from its first detection on, the earlier the more; every detection outside of one costs, the
more the further it is behind the last window. The sum over all files is put on a scale on which silence has 0 and
whoever finds each window at its first sample, and nothing else, has 100.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.detect.recordings import Floats, Numbers, Recording


@dataclass(frozen=True)
class Profile:
    """What a false detection and a window that was missed cost, when a window that was found is worth 1."""

    name: str
    false: float
    missed: float


STANDARD = Profile("standard", 0.11, 1.0)
PROFILES = (STANDARD, Profile("few false", 0.22, 1.0), Profile("few missed", 0.11, 2.0))


def _worth(place: Floats) -> Floats:
    """The benchmark's sigmoid: near 1 at the left edge of a window (-1), 0 at its right (0), -1 far behind it."""
    found = 2 / (1 + np.exp(5 * np.minimum(place, 10))) - 1
    return np.where(place > 3, -1.0, found)


FULL = float(_worth(np.array([-1.0]))[0])


@dataclass(frozen=True)
class Sweep:
    """What happens to one file while the threshold falls past each of ``limits`` (falling)."""

    limits: Floats
    gains: Floats
    """By how much the sum changes at each."""
    finds: NDArray[np.intp]
    """1 where a window is found for the first time."""
    false: NDArray[np.intp]
    """1 for each detection outside of the windows."""
    windows: int


def sweep(one: Recording, scores: Numbers, profile: Profile = STANDARD) -> Sweep:
    if len(scores) != len(one.values):
        raise ValueError(f"{one.name} has {len(one.values)} samples, and {len(scores)} were scored")
    scores = np.asarray(scores, dtype=np.float64)
    if np.isnan(scores).any():
        raise ValueError(f"{one.name}: sample {int(np.isnan(scores).argmax())} has no score but NaN")
    limits, gains, finds, false = [], [], [], []
    outside = np.arange(len(scores)) >= one.learn
    cost = np.full(len(scores), -1.0)
    for begin, end in one.windows:
        behind = np.arange(end + 1, len(scores))
        cost[behind] = _worth((behind - end) / max(1.0, float(end - begin)))
    for begin, end in one.windows:
        outside[begin : end + 1] = False
        inside = np.arange(max(begin, one.learn), end + 1)
        if not len(inside):
            continue
        # With a falling threshold the first detection moves left, from one record of the window to the one before.
        told = scores[inside]
        record = np.concatenate([[True], told[1:] > np.maximum.accumulate(told)[:-1]])
        worth = _worth(-(end - inside[record] + 1) / float(end - begin + 1)) / FULL
        limits.append(told[record])
        gains.append(worth - np.append(worth[1:], -profile.missed))
        finds.append(np.append(np.zeros(len(worth) - 1, np.intp), 1))
        false.append(np.zeros(len(worth), np.intp))
    limits.append(scores[outside])
    gains.append(profile.false * cost[outside])
    finds.append(np.zeros(int(outside.sum()), np.intp))
    false.append(np.ones(int(outside.sum()), np.intp))
    order = np.argsort(-np.concatenate(limits), kind="stable")
    return Sweep(
        np.concatenate(limits)[order],
        np.concatenate(gains)[order],
        np.concatenate(finds)[order],
        np.concatenate(false)[order],
        len(finds) - 1,
    )


@dataclass(frozen=True)
class Result:
    score: float
    threshold: float
    found: int
    windows: int
    false: int


def _pooled(sweeps: Iterable[Sweep], profile: Profile) -> tuple[Floats, Floats, Floats, Floats, int]:
    """Thresholds, and at each of them the score, the windows found and the false detections, over all files."""
    several = list(sweeps)
    limits = np.concatenate([one.limits for one in several])
    order = np.argsort(-limits, kind="stable")
    limits = limits[order]
    last = np.append(limits[1:] != limits[:-1], True)
    windows = sum(one.windows for one in several)

    def summed(parts: Sequence[NDArray[np.generic]]) -> Floats:
        return np.concatenate([[0.0], np.cumsum(np.concatenate(parts)[order])[last]])

    whole = windows * (1 + profile.missed)
    score = 100 * summed([one.gains for one in several]) / whole if windows else summed([one.gains for one in several])
    found, false = summed([one.finds for one in several]), summed([one.false for one in several])
    return np.concatenate([[np.inf], limits[last]]), score, found, false, windows


def result(
    recordings: Mapping[str, Recording],
    scores: Mapping[str, Numbers],
    profile: Profile = STANDARD,
    threshold: float | None = None,
) -> Result:
    """At one threshold for all files: the given one, or the best there is."""
    limits, score, found, false, windows = _pooled(
        (sweep(one, scores[name], profile) for name, one in recordings.items()), profile
    )
    place = int(np.argmax(score)) if threshold is None else int(np.nonzero(limits >= threshold)[0][-1])
    used = float(limits[place]) if threshold is None else threshold
    return Result(float(score[place]), used, int(found[place]), windows, int(false[place]))


def recall_within(
    recordings: Mapping[str, Recording], scores: Mapping[str, Numbers], budget: float
) -> tuple[int, int, float]:
    """Windows found, of how many, and the threshold, at so many false detections per series and week."""
    limits, _, found, false, windows = _pooled((sweep(one, scores[name]) for name, one in recordings.items()), STANDARD)
    place = int(np.nonzero(false <= budget * sum(one.weeks for one in recordings.values()))[0][-1])
    return int(found[place]), windows, float(limits[place])


def crossed(
    recordings: Mapping[str, Recording],
    scores: Mapping[str, Numbers],
    folds: int | None = None,
    profile: Profile = STANDARD,
) -> float:
    """The score when every file (or fold of files) is judged by the threshold that is best for the others."""
    names = list(recordings)
    sweeps = [sweep(recordings[name], scores[name], profile) for name in names]
    every = np.unique(np.concatenate([one.limits for one in sweeps]))[::-1]
    fold = np.arange(len(names)) % (folds or len(names))
    sums = np.zeros((int(fold.max()) + 1, len(every)))
    for number, one in enumerate(sweeps):
        np.add.at(sums[fold[number]], np.searchsorted(-every, -one.limits), one.gains)
    sums = np.concatenate([np.zeros((len(sums), 1)), np.cumsum(sums, axis=1)], axis=1)
    others = sums.sum(axis=0) - sums
    kept = sum(float(own[int(np.argmax(other))]) for own, other in zip(sums, others, strict=True))
    return 100 * kept / (sum(one.windows for one in sweeps) * (1 + profile.missed))
