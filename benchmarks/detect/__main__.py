"""Scores the detectors on recordings, on machines and on a made fleet, and says what they cost, beside their peers.

    python -m benchmarks.detect [--only nab,machines,fleet,cost,cut] [--share 1.0]
                                [--nab DIR] [--machines DIR] [--threshold T]

Run it with a Python that has river and scikit-learn; it says which are missing, and compares with those that are there.
The recordings are read from the folder that X0TTA6BL4_RECORDINGS names (beside the checkout by default); without them
those parts are skipped. ``--nab`` and ``--machines`` name folders with other files, on which nothing was ever tuned:
they are judged at the threshold that is best on the recordings, or at the given one.

Every detector has one set of settings and sees every sample once, in order. Exits with 1 when a goal is missed.
"""

import argparse
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy comes: one core is what is measured

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.detect import cost, fleet, machines, nab, peers, recordings
from benchmarks.detect.ours import OurNovelty, OurTogether
from benchmarks.detect.recordings import (
    Adaptive,
    Detector,
    Flags,
    Floats,
    Recorded,
    Recording,
    Watcher,
    Whole,
    WholeWatcher,
)

Found = dict[str, float]

AT_LEAST: Mapping[str, float] = {
    "nab: standard score": 75.0,
    "nab: % of windows found at 0.5 false a series-week": 80.0,
    "other files: standard score": 70.0,
    "machines: event-F1, SMD": 0.65,
    "machines: event-F1, ASD": 0.52,
    "machines: HitRate@100, all": 0.83,
    "other machines: event-F1, SMD": 0.65,
    "other machines: event-F1, ASD": 0.52,
    "other machines: HitRate@100, all": 0.83,
    "fleet: recall of incidents": fleet.RECALL,
}
AT_MOST: Mapping[str, float] = {
    "fleet: false alarms a series-week": fleet.BUDGET,
    "fleet: % of healthy points flagged, worst shape": 100 * fleet.FLAGGED,
    "cost: us a sample, 1,000 series": 0.2,
    "cost: us a sample, 10,000 series": 0.1,
    "cost: us a sample, 100,000 series": 0.1,
    "cost: bytes a series": 700.0,
    "cost: MiB over bare Python, 10,000 series": 50.0,
    "cost: snapshot of 10,000 series, s": 0.5,
    "cost: restore of 10,000 series, s": 0.5,
    "cost: us a sample, judged together": 0.3,
    "cut: scores that a later sample changes": 0.0,
    "cut: alarms that a later sample changes": 0.0,
    "cut: machine scores that a later row changes": 0.0,
}
FLEET, FLEET_OF_PEERS = 280, 56
SEEDS = (1, 2, 3)
"""The fleets that this project's figures are the mean of; its peers are tried on the first."""
CUT, ROUNDING = 0.6, 1e-6


def detectors() -> list[Callable[[], Detector | Whole]]:
    found: list[Callable[[], Detector | Whole]] = [OurNovelty, peers.ZScore]
    missing = peers.missing()
    if "river" not in missing:
        found.append(peers.HalfSpaceTrees)
    if "scikit-learn" not in missing:
        found += [lambda: peers.Forest(anew=False), lambda: peers.Forest(anew=True)]
    return [*found, peers.Always]


def watchers() -> list[Callable[[], Watcher | WholeWatcher]]:
    found: list[Callable[[], Watcher | WholeWatcher]] = [OurTogether, peers.Components, peers.ZScores]
    missing = peers.missing()
    if "river" not in missing:
        found.append(peers.MachineTrees)
    if "scikit-learn" not in missing:
        found.append(peers.MachineForest)
    return [*found, peers.MachineAlways]


def say(*words: str) -> None:
    print(*words, flush=True)


def absent() -> Found:
    say(f"    skipped: there are no recordings here ({recordings.PLACE} names the folder that holds them)")
    return {}


def about(one: Detector | Whole | Watcher | WholeWatcher, took: float) -> str:
    return f"    {one.name}: {one.about}; {took:.1f} s"


# -- recordings --------------------------------------------------------------------------------------------------------


def told_of(detector: Detector | Whole, several: Mapping[str, Recording]) -> dict[str, Floats]:
    values, at = recordings.together(several)
    learn = np.array([one.learn for one in several.values()])
    found = recordings.scores(detector, values, at, learn)
    return {name: found[: len(one.values), column] for column, (name, one) in enumerate(several.items())}


def on_recordings(given: argparse.Namespace) -> Found:
    place = recordings.folder()
    if place is None and given.nab is None:
        return absent()
    known = {} if place is None else recordings.nab(place / "nab")
    others = {} if given.nab is None else recordings.nab(given.nab)
    if given.nab is not None and not known and given.threshold is None:
        raise SystemExit(f"--nab {given.nab}: without recordings there is no threshold; give one with --threshold")
    found: Found = {}
    remarks = []
    for name, files in (("recordings", known), ("other files", others)):
        if files:
            weeks = sum(one.weeks for one in files.values())
            windows = sum(len(one.windows) for one in files.values())
            say(f"    {name}: {len(files)} files, {windows} windows, {weeks:.1f} series-weeks that are scored")
    say(f"\n    {'':26}  standard few false few missed  held out   found false  at  0.1 and 0.5 false a series-week")
    for make in detectors():
        detector, began = make(), time.monotonic()
        ours = isinstance(detector, OurNovelty)
        limit = given.threshold if ours else None  # every detector has a scale of its own
        if known:
            scores = told_of(detector, known)
            best = [nab.result(known, scores, profile) for profile in nab.PROFILES]
            windows = best[0].windows
            low, high = (nab.recall_within(known, scores, budget)[0] for budget in (0.1, 0.5))
            say(
                f"    {detector.name:26}  {best[0].score:8.1f}  {best[1].score:8.1f}   {best[2].score:8.1f}"
                f"  {nab.crossed(known, scores):8.1f}  {best[0].found:3}/{windows} {best[0].false:5}"
                f"     {low:3}/{windows} {high:3}/{windows}   best at {best[0].threshold:.4g}"
            )
            if limit is not None:
                one = nab.result(known, scores, threshold=limit)
                say(f"    {'  at the given threshold':26}  {one.score:8.1f}{one.found:35}/{windows} {one.false:5}")
            if ours:
                found["nab: standard score"] = best[0].score
                found["nab: % of windows found at 0.5 false a series-week"] = 100 * high / max(1, windows)
            limit = best[0].threshold if limit is None else limit
        if others and limit is not None:
            told = told_of(make(), others)
            one, top = nab.result(others, told, threshold=limit), nab.result(others, told)
            profiles = [nab.result(others, told, profile, limit).score for profile in nab.PROFILES]
            say(
                f"    {'  on the other files':26}  {profiles[0]:8.1f}  {profiles[1]:8.1f}   {profiles[2]:8.1f}"
                f"  {'':8}  {one.found:3}/{one.windows} {one.false:5}   at {limit:.4g}; best {top.score:.1f}"
            )
            if ours:
                found["other files: standard score"] = one.score
        remarks.append(about(detector, time.monotonic() - began))
    say("\n" + "\n".join(remarks))
    say("    held out: every file at the threshold that is best for all the others. False: each detection counts.")
    return found


# -- machines ----------------------------------------------------------------------------------------------------------


def _hits(several: Sequence[machines.Watched]) -> float:
    every = [hit for one in several for hit in one.hits]
    return sum(every) / len(every) if every else float("nan")


def on_machines(given: argparse.Namespace) -> Found:
    place = recordings.folder()
    if place is None:
        return absent()
    known = recordings.machines(place / "multivariate")
    if given.share < 1:
        names = dict.fromkeys(one.family for one in known)
        kept = {name: [one for one in known if one.family == name] for name in names}
        known = [one for several in kept.values() for one in several[: max(2, round(len(several) * given.share))]]
    others: list[Recorded] = [] if given.machines is None else recordings.machines(given.machines)
    found: Found = {}
    remarks = []
    say(f"    {len(known)} machines, {sum(len(machines.spans(one.label)) for one in known)} events")
    say(f"\n    {'':26}  {'':3}  events and time: best (recall, prec.)  held out   alarms: best  HitRate@100")
    for make in watchers():
        watcher, began = make(), time.monotonic()
        ours = isinstance(watcher, OurTogether)
        watched = [machines.watch(watcher, one) for one in known]
        strange = [machines.watch(watcher, one) for one in others]
        took = time.monotonic() - began
        for family in (*dict.fromkeys(one.family for one in known), "all"):
            these = [one for one in watched if family in ("all", one.machine.family)]
            best, out, alarms = machines.timed(these), machines.held_out(these), machines.best_alarmed(these)
            say(
                f"    {watcher.name if family == 'SMD' else '':26}  {family:3}  {best.f1:21.3f}"
                f" ({best.recall:.2f}, {best.precision:.2f})  {out.f1:8.3f}  {alarms.f1:13.3f}"
                + ("" if np.isnan(_hits(these)) else f"  {_hits(these):11.3f}")
            )
            apart = [one for one in strange if family in ("all", one.machine.family)]
            if apart:
                one = machines.timed(apart, best.threshold)
                say(
                    f"    {'  on the other machines':26}  {family:3}  {one.f1:21.3f}"
                    f" ({one.recall:.2f}, {one.precision:.2f})  {'':8}"
                    f"  {machines.alarmed(apart, alarms.threshold).f1:13.3f}"
                    + ("" if np.isnan(_hits(apart)) else f"  {_hits(apart):11.3f}")
                )
            if ours and family == "all":
                found["machines: HitRate@100, all"] = _hits(these)
                if apart:
                    found["other machines: HitRate@100, all"] = _hits(apart)
            elif ours:
                found[f"machines: event-F1, {family}"] = out.f1
                if apart:
                    found[f"other machines: event-F1, {family}"] = one.f1
        remarks.append(about(watcher, took))
    say("\n" + "\n".join(remarks))
    say("    best: one threshold for all machines of the line. held out: each at the one that is best for the others.")
    return found


# -- the fleet ---------------------------------------------------------------------------------------------------------


def run_fleet(detector: Detector | Whole, made: fleet.Fleet) -> tuple[Floats, Flags | None]:
    """Scores, and the alarms of a detector that decides itself what is one."""
    if isinstance(detector, Whole):
        learn = np.full(len(made.shapes), made.judged)
        return recordings.scores(detector, made.rates(), made.at, learn), None
    scores = np.zeros(made.values.shape)
    if not isinstance(detector, Adaptive):
        detector.start(len(made.shapes))
        for tick, row in enumerate(made.rates()):
            scores[tick] = detector.step(row, float(made.at[tick]))
        return scores, None
    flagged = np.zeros(made.values.shape, bool)
    detector.start(len(made.shapes), made.counters)
    for tick, row in enumerate(made.values):
        scores[tick] = detector.step(row, float(made.at[tick]))
        flagged[tick] = detector.alarms()
    return scores, flagged


def on_fleet(given: argparse.Namespace) -> Found:
    def sized(count: int) -> int:
        share: float = given.share
        return max(1, round(count * share / len(fleet.SHAPES))) * len(fleet.SHAPES)

    whole, small = fleet.make(sized(FLEET)), fleet.make(sized(FLEET_OF_PEERS))
    found: Found = {}
    remarks = []
    for name, made in (("fleet", whole), ("its first part", small)):
        say(
            f"    {name}: {len(made.shapes)} series of {len(fleet.SHAPES)} shapes every {made.step:g} s,"
            f" {len(made.incidents)} incidents in {made.weeks:.0f} series-weeks after two weeks of learning"
        )
    kinds = sorted({one.kind for one in whole.incidents})
    say(f"\n    {'':26} {'series':>6}  recall  false a week   " + "  ".join(f"{kind:>7}" for kind in kinds))

    def row(name: str, made: fleet.Fleet, score: fleet.Score) -> None:
        of = "  ".join("{:>3}/{:<3}".format(*score.found.get(kind, (0, 0))) for kind in kinds)
        say(f"    {name:26} {len(made.shapes):6}  {score.recall:6.3f}  {score.false_a_week:12.3f}   {of}")

    for make in detectors():
        detector, began = make(), time.monotonic()
        made = small if isinstance(detector, Whole) else whole
        scores, flagged = run_fleet(detector, made)
        if flagged is not None:
            several = [fleet.score(made, flagged)]
            row(detector.name, made, several[0])
            lengths = fleet.by_length(made, flagged)
            row("  its first part", small, fleet.score(small, flagged[:, : len(small.shapes)]))
            for seed in SEEDS[1:]:
                other = fleet.make(len(made.shapes), seed=seed)
                _, flags = run_fleet(make(), other)
                assert flags is not None
                several.append(fleet.score(other, flags))
                row(f"  another fleet ({seed})", other, several[-1])
            shapes = {
                shape: (
                    statistics.fmean(one.false[shape] for one in several),
                    100 * statistics.fmean(one.flagged[shape] for one in several),
                )
                for shape in fleet.SHAPES
            }
            found["fleet: recall of incidents"] = statistics.fmean(one.recall for one in several)
            found["fleet: false alarms a series-week"] = statistics.fmean(one.false_a_week for one in several)
            found["fleet: % of healthy points flagged, worst shape"] = max(share for _, share in shapes.values())
        limit, best = fleet.best(made, scores)
        row(f"  best limit {limit:.3g}" if flagged is not None else detector.name, made, best)
        remarks.append(about(detector, time.monotonic() - began))
    say(f"\n    {OurNovelty.name}, all fleets: {'false a week':>12}  {'% flagged':>9}")
    for shape, (false, share) in shapes.items():
        say(f"    {shape:30} {false:12.3f}  {share:9.4f}")
    say("    incidents found by length: " + ", ".join(f"{told} {hits}/{of}" for told, hits, of in lengths))
    say("\n" + "\n".join(remarks))
    say(f"    Peers: the best single threshold with at most {fleet.BUDGET} false alarms a series-week.")
    return found


# -- cost and cuts -----------------------------------------------------------------------------------------------------


def of_cost(given: argparse.Namespace) -> Found:
    bare, found = cost.bare(), Found()
    say(f"    bare Python: {bare['Rss']:.1f} MiB RSS, {bare['Pss']:.1f} PSS")
    say(f"\n    {'':26} {'series':>7}  us a sample (median; some missing)  bytes a series  MiB over bare: RSS   PSS")
    for name, label in (("novelty", OurNovelty.name), ("together", OurTogether.name), ("zscore", peers.ZScore.name)):
        for count in cost.SIZES if name == "novelty" else (10_000,):
            one = cost.child(name, count)
            rss, pss = one["Rss MiB"] - bare["Rss"], one["Pss MiB"] - bare["Pss"]
            say(
                f"    {label:26} {count:7,}  {one['us a sample']:11.4f} ({one['median us a sample']:.4f};"
                f" {one['us a sample, some missing']:.4f})  {one['bytes a series']:22.0f}"
                f"  {rss:18.1f} {pss:5.1f}"
            )
            if name == "novelty":
                found[f"cost: us a sample, {count:,} series"] = one["us a sample"]
            if name == "together":
                found["cost: us a sample, judged together"] = one["us a sample"]
            if name == "novelty" and count == 10_000:
                found["cost: bytes a series"] = one["bytes a series"]
                found["cost: MiB over bare Python, 10,000 series"] = rss
                found["cost: snapshot of 10,000 series, s"] = one["snapshot s"]
                found["cost: restore of 10,000 series, s"] = one["restore s"]
            if "snapshot s" in one and count == 10_000:
                say(
                    f"    {'  snapshot':26} {one['snapshot s']:.3f} s, {one['snapshot bytes a series']:.0f} bytes a"
                    f" series; restored in {one['restore s']:.3f} s, after which scores differ by"
                    f" {one['scores differ after restore by']:.2g}"
                )
    if not peers.missing():
        for name, (took, held) in cost.foreign().items():
            say(f"    {name:26} {1:7}  {took:11.2f}{'':17}  {held:22.0f}   judged as the samples come")
    return found


def _changed(whole: Floats, part: Floats) -> int:
    """Beyond the rounding of 32 bits, in which neighbours of one array may differ by the order they are added in."""
    return int((np.abs(whole[: len(part)] - part) > ROUNDING * (1 + np.abs(part))).sum())


def of_cuts(given: argparse.Namespace) -> Found:
    """What is said of a sample must not depend on what comes after it."""
    made = fleet.make(max(1, round(4 * given.share)) * len(fleet.SHAPES), weeks=3)
    scores, flagged = run_fleet(OurNovelty(), made)
    cut = int(CUT * len(made.at))
    short = fleet.Fleet(
        made.at[:cut],
        made.values[:cut],
        made.counters,
        made.shapes,
        made.incidents,
        made.deploys,
        made.judged,
        made.quiet[:cut],
    )
    again, flags = run_fleet(OurNovelty(), short)
    assert flagged is not None and flags is not None
    say(f"    fleet of {len(made.shapes)}: {cut:,} of {len(made.at):,} ticks judged anew")
    found = {
        "cut: scores that a later sample changes": float(_changed(scores, again)),
        "cut: alarms that a later sample changes": float((flagged[:cut] != flags).sum()),
    }
    place = recordings.folder()
    if place is None:
        absent()
        return found
    files = recordings.nab(place / "nab")
    told = told_of(OurNovelty(), files)
    parts = {
        name: Recording(name, one.at[:cut], one.values[:cut], ())
        for name, one in files.items()
        for cut in (int(CUT * len(one.values)),)
    }
    found["cut: scores that a later sample changes"] += sum(
        _changed(told[name], scored) for name, scored in told_of(OurNovelty(), parts).items()
    )
    say(f"    recordings: {sum(len(one.values) for one in parts.values()):,} samples judged anew")
    changed = rows = 0
    first = {one.family: one for one in reversed(recordings.machines(place / "multivariate"))}
    for one in first.values():
        begin, end = len(one.learned) // 2, int(CUT * len(one.values)) // 2
        short_one = Recorded(one.name, one.family, one.step, one.learned[:begin], one.values[: 2 * end], one.label, ())
        cut_one = Recorded(one.name, one.family, one.step, one.learned[:begin], one.values[:end], one.label, ())
        changed += _changed(
            machines.watch(OurTogether(), short_one).scores, machines.watch(OurTogether(), cut_one).scores
        )
        rows += end
    say(f"    machines: {rows:,} rows judged anew")
    return {**found, "cut: machine scores that a later row changes": float(changed)}


PARTS: Mapping[str, Callable[[argparse.Namespace], Found]] = {
    "nab": on_recordings,
    "machines": on_machines,
    "fleet": on_fleet,
    "cost": of_cost,
    "cut": of_cuts,
}


def verdict(found: Mapping[str, float]) -> list[str]:
    """Prints each goal and what was reached; returns those that were missed."""
    missed = []
    for name, value in found.items():
        if name in AT_LEAST:
            met, goal = value >= AT_LEAST[name], f"at least {AT_LEAST[name]:g}"
        else:
            met, goal = value <= AT_MOST[name], f"at most {AT_MOST[name]:g}"
        say(f"{'met   ' if met else 'MISSED'}  {name}: {value:.4g} (goal: {goal})")
        missed += [] if met else [name]
    return missed


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PARTS), help="which parts, with commas between")
    parser.add_argument("--share", type=float, default=1.0, help="this much of the fleet and of the machines")
    parser.add_argument("--nab", type=Path, metavar="DIR", help="other files: a folder with data/ and labels/")
    parser.add_argument("--machines", type=Path, metavar="DIR", help="other machines: a folder of .npz files")
    parser.add_argument("--threshold", type=float, help="of this project's detector, for the recordings and the others")
    given = parser.parse_args(words)
    wanted = given.only.split(",")
    if unknown := [part for part in wanted if part not in PARTS]:
        parser.error(f"--only: there is no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    if not 0 < given.share <= 1:
        parser.error(f"--share {given.share:g}: is a part of all, more than 0 and at most 1")
    for library in peers.missing():
        say(f"missing: {library}, which is compared with (requirements/peers.txt)")
    found: Found = {}
    for part in wanted:
        say(f"\n{part}")
        began = time.monotonic()
        found |= PARTS[part](given)
        say(f"    ({time.monotonic() - began:.0f} s)")
    if given.share < 1:
        say(f"\nwith {given.share:g} of all the figures are rough, and the goals are those of the whole")
    say("")
    return 1 if verdict(found) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
