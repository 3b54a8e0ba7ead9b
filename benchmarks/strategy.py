"""Lets simulated incidents be healed in written order, by what worked best so far, and by Thompson sampling.

    python -m benchmarks.strategy [--seeds 24] [--incidents 400] [--first 1000]

What is simulated is the world: causes, and how likely, how fast and how harmfully each rung cures them. What chooses is
the daemon's own code, fed with what the daemon would have seen. The same incident has the same luck under every
strategy, so that what differs is the choice. When every rung has failed a person heals it, after ten minutes.

A harmful action causes a further incident on another subject, drawn from the same world and healed by the same
strategy, which may do harm again. The time to recovery of an incident is its own and that of all it led to.

Nothing was tuned on the seeds that are reported: those below ``TUNED`` were for that, and are refused unless asked for.

Exits with 1 when the claim does not hold: Thompson sampling recovers sooner than the written order and than greed, in
the geometric mean over all worlds, and acts harmfully no more often than either.
"""

import argparse
import math
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from x0tta6bl4.kernel.memory import Feedback
from x0tta6bl4.runbooks.strategy import (
    FAILS,
    FIRST,
    LASTS,
    LATER,
    PRIOR,
    Choice,
    Rung,
    Signature,
    Strategy,
    Thompson,
    Written,
    admissible,
    tally,
)

HUMAN = 600.0
TUNED = 1000
"""The first seed that no constant of any strategy was ever chosen by."""
KEPT = 500
"""Tries that the knowledge store hands out at most."""
DAY = 86400.0


@dataclass(frozen=True)
class Cure:
    """What one rung does to one cause."""

    heals: float
    seconds: float
    """Median until it has healed."""
    wasted: float = 20.0
    """Median until it is given up."""
    harms: float = 0.0


@dataclass(frozen=True)
class World:
    name: str
    rungs: tuple[str, ...]
    truth: Callable[[float, str], Mapping[str, Cure]]
    """How far the run has come (0 to 1), and the cause -> the rungs' cures."""
    unlike: str = ""
    """A cause that one of the subjects has for itself; empty: all are alike."""
    causes: Mapping[str, float] = field(default_factory=lambda: {"": 1.0})
    faults: int = 1
    subjects: int = 4
    every: float = 3600.0


@dataclass(frozen=True)
class Run:
    """Sums over all incidents of one life."""

    incidents: int
    """Those that nobody caused."""
    seconds: float
    """Onset to recovery, the incidents that harmful actions caused included."""
    own: float
    """The same without them."""
    harms: int
    caused: int
    """Harmful actions in incidents that nobody caused."""

    @property
    def mean(self) -> float:
        return self.seconds / self.incidents

    def mean_if(self, lasts: float) -> float:
        """Mean time to recovery if what a harmful action leads to lasted that long all told."""
        return (self.own + lasts * self.caused) / self.incidents


class Greedy:
    """The best chance per second of all time so far; what was never tried comes after that."""

    def choose(
        self,
        signature: Signature,
        rungs: Sequence[Rung],
        trials: Sequence[Feedback],
        seed: str,
        *,
        after: int = 0,
        now: float | None = None,
    ) -> Choice:
        def rate(rung: Rung) -> float:
            mine = [t for t in trials if t.rung == rung.actions]
            return sum(t.verified for t in mine) / (sum(t.spent for t in mine) or math.inf)

        best = max(admissible(rungs), key=rate)
        return Choice(best.name, "best so far")


class Informed:
    """Greed with all that Thompson sampling knows, harm included; it only never tries what looks second best."""

    def choose(
        self,
        signature: Signature,
        rungs: Sequence[Rung],
        trials: Sequence[Feedback],
        seed: str,
        *,
        after: int = 0,
        now: float | None = None,
    ) -> Choice:
        known = {r.name: tally(signature, r, trials, after, now or 0.0) for r in admissible(rungs)}

        def rate(rung: Rung) -> tuple[bool, float]:
            mine, belief = known[rung.name], FIRST if rung is rungs[0] else LATER
            heals = (mine.heals + PRIOR * belief) / (mine.heals + mine.fails + PRIOR)
            takes = (mine.healing + PRIOR * LASTS) / (mine.heals + PRIOR)
            wastes = (mine.failing + PRIOR * FAILS) / (mine.fails + PRIOR)
            return not mine.is_harmful, heals / (heals * takes + (1 - heals) * wastes)

        best = max(admissible(rungs), key=rate)
        return Choice(best.name, "best so far")


def worlds(seed: int) -> list[World]:
    """The same for all seeds, but for those drawn by lot."""

    def always(cures: Mapping[str, Cure]) -> Callable[[float, str], Mapping[str, Cure]]:
        return lambda progress, cause: cures

    three = ("restart", "clean", "redeploy")
    right = {"restart": Cure(0.85, 4), "clean": Cure(0.6, 12, 25), "redeploy": Cure(0.7, 40, 60)}
    last = {"restart": Cure(0.1, 4), "clean": Cure(0.2, 12, 25), "redeploy": Cure(0.9, 20, 40)}
    harmful = {
        "restart": Cure(0.5, 5),
        "flush": Cure(0.75, 3, harms=0.3),
        "redeploy": Cure(0.8, 15, 30),
    }
    equal = {"restart": Cure(0.6, 8), "clean": Cure(0.6, 8), "redeploy": Cure(0.62, 8)}
    early = {"restart": Cure(0.9, 4), "clean": Cure(0.3, 10), "redeploy": Cure(0.5, 40, 60)}
    late = {"restart": Cure(0.1, 4), "clean": Cure(0.9, 10), "redeploy": Cure(0.5, 40, 60)}
    slow = {"restart": Cure(0.95, 45, 60), "clean": Cure(0.3, 12, 25), "reload": Cure(0.9, 3, 15)}
    sure = {"restart": Cure(1.0, 45), "clean": Cure(0.3, 12, 25), "reload": Cure(0.9, 3, 15)}
    only = {"restart": Cure(1.0, 45), "clean": Cure(0.3, 12, 25), "reload": Cure(0.2, 30, 60)}
    unlucky = {"restart": Cure(0.7, 4), "redeploy": Cure(0.97, 20, 40)}
    mended = {"restart": Cure(0.9, 30, 40), "clean": Cure(0.9, 5)}
    unmended = {"restart": Cure(0.9, 30, 40), "clean": Cure(0.1, 5)}
    by_cause = {
        "crash": {"restart": Cure(0.95, 3), "clean": Cure(0.95, 9), "redeploy": Cure(0.95, 30)},
        "full disk": {"restart": Cure(0.02, 3), "clean": Cure(0.95, 9), "redeploy": Cure(0.1, 30, 45)},
    }
    lot, moved = by_lot(random.Random(f"lot/{seed}")), by_lot(random.Random(f"moved/{seed}"))
    return [
        World("the written order is right", three, always(right)),
        World("the last rung is best", three, always(last)),
        World("one rung is harmful", ("restart", "flush", "redeploy"), always(harmful)),
        World("the truth changes", three, lambda progress, cause: early if progress < 0.5 else late),
        World("the first heals, slowly", ("restart", "clean", "reload"), always(slow)),
        World("the first always heals, slowly", ("restart", "clean", "reload"), always(sure)),
        World("so it does, and is the best", ("restart", "clean", "reload"), always(only)),
        World("the best may fail at first", ("restart", "redeploy"), always(unlucky)),
        World("a later rung is mended", three[:2], lambda progress, cause: unmended if progress < 0.5 else mended),
        World(
            "one subject is unlike the rest",
            three,
            lambda progress, cause: last if cause == "other" else right,
            unlike="other",
        ),
        World("rare faults", three, always(last), faults=40, every=DAY / 2),
        World("rare faults, order right", three, always(right), faults=40, every=DAY / 2),
        World("nearly equal", three, always(equal)),
        World("hidden causes", three, lambda progress, cause: by_cause[cause], causes={"crash": 0.4, "full disk": 0.6}),
        World("drawn by lot", tuple(lot), always(lot)),
        World("drawn by lot, twice", tuple(lot), lambda progress, cause: lot if progress < 0.5 else moved),
    ]


def by_lot(chance: random.Random) -> Mapping[str, Cure]:
    """Four rungs as may be; one in five does harm. Their author knew their worth roughly, and nothing of the harm."""
    cures = []
    for _ in range(4):
        seconds = math.exp(chance.uniform(math.log(2), math.log(60)))
        heals, wasted = chance.betavariate(1.2, 0.8), max(15.0, 1.5 * seconds)
        harms = chance.uniform(0.05, 0.5) if chance.random() < 0.2 else 0.0
        worth = heals / (heals * seconds + (1 - heals) * wasted) * math.exp(chance.gauss(0, 1))
        cures.append((worth, Cure(heals, seconds, wasted, harms)))
    cures.sort(key=lambda pair: pair[0], reverse=True)
    return {f"rung-{number}": cure for number, (_, cure) in enumerate(cures)}


@dataclass(frozen=True)
class Incident:
    fault: str
    subject: str
    cause: str
    luck: Mapping[str, tuple[float, float, float]]
    """Drawn for all rungs beforehand: it belongs to the incident, whatever is chosen."""


def incident(world: World, seed: int, name: str, elsewhere: str = "") -> Incident:
    """``elsewhere``: the subject that it does not befall."""
    chance = random.Random(f"{world.name}/{seed}/{name}")
    subjects = [s for s in (f"service-{number}" for number in range(world.subjects)) if s != elsewhere]
    fault, subject = f"fault-{chance.randrange(world.faults)}", chance.choice(subjects)
    cause = chance.choices(list(world.causes), list(world.causes.values()))[0]
    if world.unlike and subject == "service-0":
        cause = world.unlike
    return Incident(
        fault, subject, cause, {rung: (chance.random(), chance.gauss(0, 0.3), chance.random()) for rung in world.rungs}
    )


def run(world: World, strategy: Strategy, seed: int, incidents: int) -> Run:
    trials: dict[str, list[Feedback]] = {}
    seconds = own = 0.0
    harms = caused = 0
    for number in range(incidents):
        cures_of, began = partial(world.truth, number / incidents), number * world.every
        waiting = [(str(number), incident(world, seed, str(number)), began)]
        while waiting:
            name, now, at = waiting.pop(0)
            cures = cures_of(now.cause)
            left, elapsed = list(world.rungs), 0.0
            known = trials.setdefault(now.fault, [])
            while left:
                after = len(world.rungs) - len(left)
                choice = strategy.choose(
                    (now.fault, "process", now.subject),
                    [Rung(rung, (rung,)) for rung in left],
                    known,
                    f"{seed}/{name}/{len(left)}",
                    after=after,
                    now=at,
                )
                cure = cures[choice.rung]
                heals, pace, harm = now.luck[choice.rung]
                is_healed, is_harmful = heals < cure.heals, harm < cure.harms
                spent = (cure.seconds if is_healed else cure.wasted) * math.exp(pace)
                elapsed += spent
                known.append(
                    Feedback(
                        (now.fault, "process", now.subject),
                        (choice.rung,),
                        elapsed if is_healed else None,
                        is_healed,
                        is_harmful,
                        "outcome",
                        at + elapsed,
                        spent=spent,
                        after=after,
                    )
                )
                del known[:-KEPT]
                if is_harmful:
                    harms += 1
                    caused += at == began
                    further = f"{name}.{choice.rung}"
                    waiting.append((further, incident(world, seed, further, now.subject), at + elapsed))
                if is_healed:
                    break
                left.remove(choice.rung)
            else:
                elapsed += HUMAN
            seconds += elapsed
            own += elapsed * (at == began)
    return Run(incidents, seconds, own, harms, caused)


STRATEGIES: Mapping[str, Callable[[], Strategy]] = {
    "written": Written,
    "greedy": Greedy,
    "informed": Informed,
    "thompson": Thompson,
}
CLAIMED = ("written", "greedy")
"""What it is claimed to beat. Against informed greed it is shown what trying things out costs and brings by itself."""

Runs = Mapping[str, Sequence[Run]]
"""By strategy, one run a seed."""


def compare(seeds: Sequence[int], incidents: int) -> dict[str, Runs]:
    """By the world's name."""
    found: dict[str, dict[str, list[Run]]] = {}
    for seed in seeds:
        for world in worlds(seed):
            for name, strategy in STRATEGIES.items():
                runs = found.setdefault(world.name, {}).setdefault(name, [])
                runs.append(run(world, strategy(), seed, incidents))
    return {name: by_strategy for name, by_strategy in found.items()}


def mean(runs: Sequence[Run]) -> float:
    return statistics.fmean(r.mean for r in runs)


def ratio(found: Runs, other: str) -> float:
    """Thompson's mean time to recovery over the other's, paired by seed."""
    return statistics.geometric_mean(a.mean / b.mean for a, b in zip(found["thompson"], found[other], strict=True))


def overall(found: Mapping[str, Runs], other: str) -> float:
    return statistics.geometric_mean(ratio(runs, other) for runs in found.values())
