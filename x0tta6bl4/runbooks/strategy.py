"""Chooses which rung of a ladder is tried next: as it is written, or by what has led to verified health so far."""

import math
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from x0tta6bl4.kernel.memory import Feedback
from x0tta6bl4.kernel.plugin import is_reboot_class

Signature = tuple[str, str, str]
"""Fault, kind of subject, subject; as in ``Feedback``."""

MEMORY = 200
"""Tries of one rung that are looked at, the latest: what is older weighs next to nothing."""
FADE = 0.97
"""What a try weighs less for each newer one of its rung: an average over some thirty tries follows a truth that moves.
"""
HALF_LIFE = 60 * 86400.0
"""Seconds after which a try weighs half, though nothing newer is known: programs are deployed anew meanwhile."""
OF_KIND, OF_FAULT, OTHER_STAGE = 5.0, 3.0, 5.0
"""Tries of a subject's own that everything known of others of its kind weighs at most; of other kinds; and of tries
made at another stage, for what is tried after others failed meets the harder faults."""
PRIOR = 2.0
"""Tries of its own that the belief without any evidence weighs."""
CARE = 8.0
"""How much narrower than the evidence alone would have it is drawn. A service sees few equal faults, so trying things
out must pay soon: at 1 it costs a little more than it brings in most worlds of ``benchmarks/strategy.py``. What drawing
would seldom come to, an untried rung, has its audition instead."""
AUDITIONS = 2
"""Tries of a rung, wherever made, after which it is not tried ahead of its place unless it has helped. One may be bad
luck; a third costs as much as it finds."""
STEADY = 4.0
"""How much steadier tries are in their duration than waiting for chance: they spread by half their mean."""
FIRST, LATER = 0.6, 0.4
"""That belief: the author of a ladder puts first what is most likely to be right."""
LASTS, FAILS = 5.0, 30.0
"""Seconds that a try takes until it has healed, and until it is given up, as long as nothing was measured."""
HARM = 0.1
"""The share of tries that made things worse above which a rung is left for last."""


@dataclass(frozen=True, slots=True)
class Rung:
    name: str
    actions: tuple[str, ...]
    """The full names of what would be done, in order, as the journal will have them."""
    is_safety: bool = False
    """A step that makes the next ones safe. Never skipped, never before its place."""
    blast: str = "service"
    """How much is touched. Of ``host`` or more it is as a safety step: never explored."""

    @property
    def is_fixed(self) -> bool:
        return self.is_safety or is_reboot_class(self.blast)


@dataclass(frozen=True, slots=True)
class Choice:
    rung: str
    because: str


class Strategy(Protocol):
    """Pure: the same arguments give the same choice, so that a replayed incident goes the same way."""

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
        """One of the rungs that are left, in their written order. There must be one.

        ``trials``: what is known of the fault, in any order. ``after``: how many tries have failed in this incident.
        ``now``: wall-clock seconds by which evidence has aged; None: as of the latest.
        """
        ...


class Written:
    """The ladder's author decides."""

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
        return Choice(rungs[0].name, f"{rungs[0].name} comes next as it is written")


class Thompson:
    """Draws for each rung how likely and how fast it heals, from what is known, and takes the best chance per second.

    Trying one thing after another until one helps takes least time when they are tried in the order of chance divided
    by time. A rung of which little is known draws widely, so it is tried now and then; one that has been tried often
    draws what it has shown.

    What never had its turn, because the rungs before it do help in the end, is given one when that should pay.
    """

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
        open_rungs = admissible(rungs)
        if len(open_rungs) == 1:
            only = open_rungs[0]
            why = "is a safety step" if only.is_safety else "reaches far" if only.is_fixed else "is all that is left"
            return Choice(
                only.name, f"{only.name} {why} before anything further" if only.is_fixed else f"{only.name} {why}"
            )
        now = max((t.at for t in trials), default=0.0) if now is None else now
        known = {r.name: tally(signature, r, trials, after, now) for r in open_rungs}
        told = ", ".join(_words(r, known[r.name], signature) for r in open_rungs)
        harmful = [r for r in open_rungs if known[r.name].is_harmful]
        harmless = [r for r in open_rungs if not known[r.name].is_harmful]
        if harmful:
            told += f"; {', '.join(r.name for r in harmful)} made things worse and comes last"
        if not harmless or all(known[r.name].tries == 0 for r in harmless):
            chosen = (harmless or harmful)[0]
            return Choice(chosen.name, f"{told}: {chosen.name} as it is written")
        lasts = _mean([(t.heals, t.healing) for t in known.values()], LASTS)
        fails = _mean([(t.fails, t.failing) for t in known.values()], FAILS)
        best, best_rate = harmless[0], -1.0
        for number, rung in enumerate(harmless):
            # What was never seen to help is not drawn: its turn comes when those before it fail, or by audition.
            if number and not known[rung.name].healed:
                continue
            belief = FIRST if number == 0 else LATER
            rate = known[rung.name].draw(random.Random(f"{seed}/{rung.name}"), belief, lasts, fails)
            if rate > best_rate:  # not when equal: then it stays as it is written
                best, best_rate = rung, rate
        heard = next((r for r in harmless[1:] if known[r.name].tries < AUDITIONS), None)
        if heard and not after and known[best.name].leaves_room(best_rate, fails):
            return Choice(heard.name, f"{told}: {heard.name} tried out, for {best.name} heals slowly or seldom")
        return Choice(best.name, f"{told}: {best.name} drawn")


@dataclass(frozen=True, slots=True)
class Tally:
    """What is known of one rung. Times are summed, so that seldom long tries count as they are felt."""

    heals: float = 0.0
    fails: float = 0.0
    healing: float = 0.0
    """Seconds that the tries took which healed."""
    failing: float = 0.0
    harms: float = 0.0
    tries: int = 0
    """As they were, without weights: for people. The same for the next three."""
    healed: int = 0
    own: int = 0
    harmed: int = 0
    median: float | None = None

    @property
    def is_harmful(self) -> bool:
        return self.harms > HARM * (self.heals + self.fails + PRIOR)

    def leaves_room(self, rate: float, fails: float) -> bool:
        """Whether trying out what is unknown should pay.

        A fault that came so many times will come about as many times again, and each is then healed sooner if the
        unknown turns out as a rung commonly does. Against that stands one failure, ``fails`` seconds, if it does not.
        """
        saved = max(0.0, 1 / rate - LASTS)
        return (self.heals + self.fails) * LATER * saved > (1 - LATER) * fails

    def draw(self, chance: random.Random, belief: float, lasts: float, fails: float) -> float:
        """Chance of healing per second, from what may be true."""
        heals, fails_ = self.heals + PRIOR * belief, self.fails + PRIOR * (1 - belief)
        healing = chance.betavariate(CARE * heals, CARE * fails_)
        took_to_heal = _drawn_mean(chance, self.heals, self.healing, lasts)
        took_to_fail = _drawn_mean(chance, self.fails, self.failing, fails)
        return healing / (healing * took_to_heal + (1 - healing) * took_to_fail)


def admissible(rungs: Sequence[Rung]) -> Sequence[Rung]:
    """Those among which may be chosen: up to the first that is fixed, or that one alone when it comes first."""
    if not rungs:
        raise ValueError("no rung is left to choose from")
    fixed = next((number for number, rung in enumerate(rungs) if rung.is_fixed), len(rungs))
    return rungs[: max(1, fixed)]


def tally(signature: Signature, rung: Rung, trials: Iterable[Feedback], after: int, now: float) -> Tally:
    """Every try counts once, by its nearness; however much is known of others, a few tries of its own outweigh it."""
    fault, kind, subject = signature
    mine = [t for t in trials if t.rung == rung.actions and t.signature[0] == fault and t.weight > 0]
    mine = sorted(mine, key=lambda t: t.at, reverse=True)[:MEMORY]
    groups: dict[tuple[float, bool], list[Feedback]] = {}
    for trial in mine:
        _, its_kind, its_subject = trial.signature
        # Another node's service of the same name is another service.
        is_own = its_subject == subject and trial.source != "mesh"
        cap = math.inf if is_own else OF_KIND if kind and its_kind == kind else OF_FAULT
        groups.setdefault((cap, (trial.after > 0) == (after > 0)), []).append(trial)
    heals = fails = healing = failing = harms = 0.0
    for (cap, same_stage), group in groups.items():
        weights = [t.weight * FADE**newer * 0.5 ** (max(0.0, now - t.at) / HALF_LIFE) for newer, t in enumerate(group)]
        limit = cap if same_stage else min(cap, OTHER_STAGE)
        scale = 1.0 if math.isinf(limit) else limit / (limit + sum(weights))
        for trial, weight in zip(group, weights, strict=True):
            share = weight * scale
            # What nobody measured takes the usual time, so that it says nothing about time.
            if trial.verified:
                heals, healing = heals + share, healing + share * (trial.spent or LASTS)
            else:
                fails, failing = fails + share, failing + share * (trial.spent or FAILS)
            harms += share * trial.harmful
    times = [t.seconds if t.seconds is not None else t.spent for t in mine if t.verified]
    return Tally(
        heals,
        fails,
        healing,
        failing,
        harms,
        tries=len(mine),
        healed=sum(t.verified for t in mine),
        own=sum(t.signature[2] == subject and t.source != "mesh" for t in mine),
        harmed=sum(t.harmful for t in mine),
        median=statistics.median(times) if times else None,
    )


def with_kinds(trials: Iterable[Feedback], kinds: Mapping[str, str]) -> list[Feedback]:
    """The journal knows subjects only; what kind each is stands in the configuration."""
    return [
        replace(t, signature=(t.signature[0], t.signature[1] or kinds.get(t.signature[2], ""), t.signature[2]))
        for t in trials
    ]


def _drawn_mean(chance: random.Random, count: float, seconds: float, usual: float) -> float:
    """A mean duration that may be true. The spread of the mean falls with the number of times that were seen."""
    shape = CARE * STEADY * (count + PRIOR)
    return (seconds + PRIOR * usual) / (count + PRIOR) * shape / chance.gammavariate(shape + 1.0, 1.0)


def _mean(sums: Iterable[tuple[float, float]], usual: float) -> float:
    """Over all rungs together: what to expect of one that was never timed."""
    counts, seconds = 0.0, 0.0
    for count, took in sums:
        counts, seconds = counts + count, seconds + took
    return (seconds + usual) / (counts + 1.0)


def _words(rung: Rung, known: Tally, signature: Signature) -> str:
    if not known.tries:
        return f"{rung.name} never tried"
    notes = [] if known.median is None else [f"median {known.median:.1f} s"]
    if known.own < known.tries:
        notes.append(f"{known.own} of them on {signature[2]}")
    if known.harmed:
        notes.append(f"{known.harmed} made things worse")
    more = f" ({'; '.join(notes)})" if notes else ""
    return f"{rung.name} {known.healed} of {known.tries} healed{more}"
