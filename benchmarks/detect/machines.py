"""Scores who watches many metrics of one machine together: events found, time wrongly flagged, causes named.

Nothing is point-adjusted: to flag one row of an event does not make the others flagged. Two measures are told, both
with one threshold for all machines:

- **F1 of events and time**: recall is the share of the labelled events of which at least one row is flagged; precision
  is, of all the rows that are flagged, the share inside events.
- **F1 of alarms**: rows that are flagged within ten minutes of one another are one alarm. One that touches no event is
  false, and so is each full hour that any alarm spends outside of events, so who always fires is wrong all the time.
  Precision is the events that were found, of those and the false alarms together.

Causes: for an event with k causes named by experts, HitRate@100 is the share of them among the first k of the
detector's ranking, which is by the sum of the contributions over the rows of the event.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.detect.recordings import Flags, Floats, Numbers, Recorded, Watcher, WholeWatcher

MERGED, LONG = 600.0, 3600.0
STEPS = 240
"""How many thresholds are tried where each has to be walked."""


@dataclass(frozen=True)
class F1:
    f1: float
    recall: float
    precision: float
    threshold: float = 0.0


@dataclass
class Watched:
    """What a detector said about one machine."""

    machine: Recorded
    scores: Floats
    hits: list[float] = field(default_factory=list)
    """HitRate@100 of each event."""


def spans(flags: Flags) -> list[tuple[int, int]]:
    """First row and the one after the last of every stretch."""
    edges = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    starts, stops = np.nonzero(edges == 1)[0], np.nonzero(edges == -1)[0]
    return [(int(begin), int(end)) for begin, end in zip(starts, stops, strict=True)]


def hit_rate(contributions: Numbers, causes: Sequence[int]) -> float:
    """The share of the causes among as many of the metrics that contributed most."""
    ranking = np.argsort(-np.asarray(contributions), kind="stable")[: len(causes)]
    return len(set(ranking.tolist()) & set(causes)) / len(causes)


def watch(watcher: Watcher | WholeWatcher, machine: Recorded) -> Watched:
    if isinstance(watcher, WholeWatcher):
        return Watched(machine, np.asarray(watcher.whole(machine.learned, machine.values), dtype=np.float64))
    watcher.start(machine.learned, machine.step)
    found = Watched(machine, np.zeros(len(machine.values)))
    told = np.zeros(len(machine.values), bool)
    for begin, end, _ in machine.causes:
        told[begin : end + 1] = True
    contributed: dict[int, Numbers] = {}
    for row, values in enumerate(machine.values):
        found.scores[row] = watcher.step(values)
        if told[row]:
            contributed[row] = np.array(watcher.contributions(), dtype=np.float64)
    for begin, end, named in machine.causes:
        rows = [contributed[row] for row in range(begin, min(end + 1, len(machine.values)))]
        found.hits.append(hit_rate(np.sum(rows, axis=0), named))
    return found


# -- events and time ---------------------------------------------------------------------------------------------------


def _tally(several: Sequence[Watched]) -> tuple[Floats, Floats, Floats, Floats, int]:
    """Falling thresholds, and at each: events found, rows flagged inside of events, rows flagged; and all events."""
    scores = np.concatenate([one.scores for one in several])
    inside = np.concatenate([one.machine.label for one in several])
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    limits = scores[order][last]
    highest = [one.scores[begin:end].max() for one in several for begin, end in spans(one.machine.label)]
    found = np.searchsorted(np.sort(-np.array(highest)), -limits, side="right")
    right = np.cumsum(inside[order])[last]
    flagged = np.nonzero(last)[0].astype(np.float64) + 1
    return limits, found.astype(np.float64), right.astype(np.float64), flagged, len(highest)


def timed(several: Sequence[Watched], threshold: float | None = None) -> F1:
    """The F1 of events and time, at this threshold or at the best one."""
    limits, found, right, flagged, events = _tally(several)
    recall, precision = found / max(1, events), right / flagged
    f1 = 2 * recall * precision / np.maximum(recall + precision, 1e-12)
    if threshold is None:
        place = int(np.argmax(f1))
    else:
        reached = np.nonzero(limits >= threshold)[0]
        if not len(reached):
            return F1(0.0, 0.0, 0.0, threshold)
        place = int(reached[-1])
    return F1(float(f1[place]), float(recall[place]), float(precision[place]), float(limits[place]))


# -- alarms ------------------------------------------------------------------------------------------------------------


def false_alarms(flagged: Flags, label: Flags, step: float) -> int:
    """Alarms that touch no event, and one more for each full hour that an alarm spends outside of events."""
    false, rows, gap = 0, np.nonzero(flagged)[0], MERGED / step
    if not len(rows):
        return 0
    cuts = np.nonzero(np.diff(rows) > gap)[0] + 1
    for alarm in np.split(rows, cuts):
        inside = label[alarm]
        outside = float((~inside).sum()) * step
        false += int(not inside.any()) + int(outside // LONG)
    return false


def alarmed(several: Sequence[Watched], threshold: float) -> F1:
    """The F1 of alarms at this threshold."""
    false = found = events = 0
    for one in several:
        flagged = one.scores >= threshold
        labelled = spans(one.machine.label)
        events += len(labelled)
        found += sum(bool(flagged[begin:end].any()) for begin, end in labelled)
        false += false_alarms(flagged, one.machine.label, one.machine.step)
    recall, precision = found / max(1, events), found / max(1, found + false)
    return F1(2 * recall * precision / max(recall + precision, 1e-12), recall, precision, threshold)


def best_alarmed(several: Sequence[Watched]) -> F1:
    """At the best of some thresholds, closer to one another where few rows are flagged."""
    every = np.concatenate([one.scores for one in several])
    shares = np.concatenate([np.logspace(-5, np.log10(0.4), STEPS - 1), [1.0]])
    limits: NDArray[np.float64] = np.unique(np.quantile(every, 1 - shares, method="higher"))
    return max((alarmed(several, float(limit)) for limit in limits), key=lambda one: one.f1)


# -- a threshold from elsewhere ----------------------------------------------------------------------------------------


def held_out(several: Sequence[Watched]) -> F1:
    """Events and time, each machine at the threshold that is best for the others; all of them counted together."""
    events = found = right = flagged = 0
    for number, one in enumerate(several):
        limit = timed([*several[:number], *several[number + 1 :]]).threshold
        rows = one.scores >= limit
        labelled = spans(one.machine.label)
        events += len(labelled)
        found += sum(bool(rows[begin:end].any()) for begin, end in labelled)
        right += int((rows & one.machine.label).sum())
        flagged += int(rows.sum())
    recall, precision = found / max(1, events), right / max(1, flagged)
    return F1(2 * recall * precision / max(recall + precision, 1e-12), recall, precision)
