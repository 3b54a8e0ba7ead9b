"""Measures how long real faults last under the daemon at its defaults, from the break to the first good answer.

    python -m benchmarks.mttr [--kinds kill,hang,...] [--share 1.0]

Honesty: the daemon's own protections count equal tries and budgets over ten minutes. A victim is therefore broken three
times at most, each kind of fault has a fresh daemon with enough victims, and one fault is over before the next begins;
what is measured is healing, not waiting for a budget. Faults come at random moments relative to the probes.
"""

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.ground import Ground, Site, end_on_sigterm, longest_row
from x0tta6bl4.demo.breaker import break_, state, wait_until_answers

MIB = 1 << 20
LIMIT_MIB = 100
TRIES = 3
"""Times that one victim is broken: a fourth equal try in ten minutes would go by way of a human."""
PATIENCE = 30.0
HOLD = 6.0
"""Seconds until the proof of a heal and the end of its incident are surely over."""

Broken = Callable[[Ground, str], float]


def kill(ground: Ground, name: str) -> float:
    began = time.monotonic()
    pid = break_(ground.ports[name], "kill")
    return wait_until_answers(ground.ports[name], began, pid, PATIENCE)


def hang(ground: Ground, name: str) -> float:
    pid = break_(ground.ports[name], "hang")
    # The break is in force when it is answered, and a good answer was there until then.
    return wait_until_answers(ground.ports[name], time.monotonic(), pid, PATIENCE)


def stop(ground: Ground, name: str) -> float:
    pid = break_(ground.ports[name], "stop")
    return wait_until_answers(ground.ports[name], time.monotonic(), pid, PATIENCE)


def again(broken: Broken) -> Broken:
    def twice(ground: Ground, name: str) -> float:
        broken(ground, name)
        # About 1 s: exactly so long would always meet the probes at the same moment of their pace.
        time.sleep(random.uniform(0.75, 1.25))
        return broken(ground, name)

    return twice


def memory(ground: Ground, name: str) -> float:
    """From the moment at which resident memory passes the limit, as /proc has it, not from the leak's beginning."""
    pid = ground.pid(name)
    with open(f"/proc/{pid}/statm", "rb", buffering=0) as statm:
        break_(ground.ports[name], "leak", mib_per_s=random.uniform(50, 150), limit=400)
        give_up = time.monotonic() + PATIENCE
        passed = None
        while passed is None:
            statm.seek(0)
            try:
                words = statm.read().split()
            except ProcessLookupError:
                words = []
            now = time.monotonic()
            if not words:
                raise AssertionError(f"{name} was restarted before its memory passed the limit")
            if int(words[1]) * 4096 >= LIMIT_MIB * MIB:
                passed = now
            elif now >= give_up:
                raise TimeoutError(f"{name} leaks too slowly: {state(ground.ports[name])}")
            else:
                time.sleep(0.002)
    return wait_until_answers(ground.ports[name], passed, pid, PATIENCE)


@dataclass(frozen=True)
class Kind:
    name: str
    what: str
    broken: Broken
    count: int
    restarts: int
    """Restarts that one measurement costs."""
    median: float
    worst: float = math.inf


KINDS = (
    Kind("kill", "SIGKILL", kill, 20, 1, median=0.3, worst=1.0),
    Kind("hang", "the handler hangs", hang, 20, 1, median=2.0),
    Kind("hang-again", "hangs 1 s after the restart that healed a hang", again(hang), 10, 2, median=2.0),
    Kind("stop-again", "SIGSTOP, 1 s after the restart that healed one", again(stop), 10, 2, median=2.0),
    Kind("memory", f"resident memory passes {LIMIT_MIB} MiB", memory, 20, 1, median=1.0),
)


def measure(kind: Kind, share: float) -> tuple[list[float], list[str]]:
    """Seconds of each fault, and what was wrong beside the times."""
    count = max(2, round(kind.count * share))
    each = TRIES // kind.restarts
    names = [f"victim-{number}" for number in range(math.ceil(count / each))]
    sites = [Site(name, subject={"memory_limit": f"{LIMIT_MIB}MiB"} if kind.broken is memory else {}) for name in names]
    taken: list[float] = []
    with Ground(*sites) as ground:
        rested: dict[str, float] = {}
        for number in range(count):
            name = names[number % len(names)]
            gap = random.uniform(1.0, 5.0)
            ground.sleep(max(gap, rested.get(name, 0.0) + HOLD - time.monotonic()))
            taken.append(kind.broken(ground, name))
            rested[name] = time.monotonic()
            print(f"  {kind.name} {number + 1}/{count}: {taken[-1]:.3f} s", file=sys.stderr, flush=True)
        ground.sleep(HOLD)
        acts = [act for act in ground.acts() if act.disruptive]
        wrong = []
        if len(acts) != count * kind.restarts:
            wrong.append(f"{len(acts)} actions for {count * kind.restarts} faults")
        wrong += [
            f"{act.target}: {act.action} ended {act.result}"
            for act in acts
            if act.result != "verified" and kind.restarts == 1
        ]
        if (row := longest_row(acts)) > TRIES:
            wrong.append(f"{row} equal tries in a row")
        wrong += [f"{story.subject} is still {story.fault}" for story in ground.stories() if story.closed_at is None]
        wrong += ground.complaints()
    return taken, wrong


def percentile(values: list[float], share: float) -> float:
    """The nearest rank: a value that was measured."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Times how long faults last under the daemon at its defaults.")
    parser.add_argument("--kinds", default=",".join(kind.name for kind in KINDS), help="which, by name and comma")
    parser.add_argument("--share", type=float, default=1.0, help="part of the usual number of faults, such as 0.2")
    given = parser.parse_args()
    wanted = given.kinds.split(",")
    if unknown := set(wanted) - {kind.name for kind in KINDS}:
        parser.error(f"no such kinds: {', '.join(sorted(unknown))}; there are {', '.join(k.name for k in KINDS)}")
    end_on_sigterm()
    missed = False
    lines = [f"{'kind':<12} {'n':>3} {'min':>7} {'median':>7} {'p95':>7} {'max':>7}  target"]
    for kind in KINDS:
        if kind.name not in wanted:
            continue
        print(f"{kind.name}: {kind.what}", file=sys.stderr, flush=True)
        taken, wrong = measure(kind, given.share)
        median = statistics.median(taken)
        met = median <= kind.median and max(taken) <= kind.worst and not wrong
        missed |= not met
        target = f"median <= {kind.median:g} s" + (f", worst <= {kind.worst:g} s" if kind.worst < math.inf else "")
        numbers = " ".join(f"{s:>7.3f}" for s in (min(taken), median, percentile(taken, 0.95), max(taken)))
        lines.append(f"{kind.name:<12} {len(taken):>3} {numbers}  {target}: {'met' if met else 'MISSED'}")
        lines += [f"{'':<12} wrong: {sentence}" for sentence in wrong]
    print("Seconds from the break (memory: from passing the limit) to the first good answer of a new process.")
    print("At most three faults a victim and a fresh daemon a kind, so that no budget of the guard is in the way.")
    print("\n".join(lines))
    print("all targets met" if not missed else "a target was MISSED")
    return int(missed)


if __name__ == "__main__":
    try:
        code = main()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
