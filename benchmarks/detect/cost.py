"""What judging costs: time a sample, bytes a series, memory over bare Python, and how long a snapshot takes.

Each figure comes from a process of its own (`python -m benchmarks.detect.cost novelty 10000`), so that nothing of one
is in the memory of another. Time is CPU time: the mean over some hours of ticks, with the turns of the hour in it, of
the best of three rounds. Memory is what the kernel says of the whole process.
"""

import json
import os
import pickle
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detect.recordings import ROOT, Floats

MIB = 1 << 20
STEP, BEGIN = 300.0, 1_700_000_000.0
TICKS, ROUNDS, WARM = 48, 3, 1200
METRICS = 20
"""Of each subject, where many are judged together."""
SIZES = (1_000, 10_000, 100_000)

BARE = "print(open('/proc/self/smaps_rollup').read())"


def memory(text: str) -> dict[str, float]:
    """RSS and PSS in MiB, from the words of the kernel."""
    told = (line.split() for line in text.splitlines())
    return {line[0].rstrip(":"): int(line[1]) / 1024 for line in told if line and line[0] in ("Rss:", "Pss:")}


def values(tick: int, count: int) -> Floats:
    """A tick of series that go with the day and are not quite smooth; made without a library that would be measured."""
    rows = np.arange(count, dtype=np.float64)
    noise = np.mod(rows * 0.7548776662466927 + (tick + 1) * 0.5698402909980532 * (1 + rows % 97), 1.0)
    return np.asarray((10 + rows % 1000) * (1.5 + np.sin(tick * STEP / 86400 * 6.283 + rows)) + noise)


def _novelty(count: int) -> tuple[Any, Callable[[Floats, float], object]]:
    from x0tta6bl4.judgement.novelty import Novelty

    engine = Novelty()
    engine.add(count)
    return engine, engine.update


def _together(count: int) -> tuple[Any, Callable[[Floats, float], object]]:
    from x0tta6bl4.judgement.together import Together

    engine = Together()
    for group in range(count // METRICS):
        engine.add(group, METRICS)
    return engine, engine.update


def _zscore(count: int) -> tuple[Any, Callable[[Floats, float], object]]:
    from benchmarks.detect.peers import ZScore

    engine = ZScore()
    engine.start(count)
    return engine, engine.step


ENGINES: Mapping[str, Callable[[int], tuple[Any, Callable[[Floats, float], object]]]] = {
    "novelty": _novelty,
    "together": _together,
    "zscore": _zscore,
}


def measure(name: str, count: int, warm: int = WARM) -> dict[str, float]:
    """In this process: all that there is to know of one engine with so many series."""
    engine, update = ENGINES[name](count)
    tick = 0
    learning = getattr(engine, "learning", lambda: np.zeros(1, bool))
    while tick < 110 or (tick < warm and tick % 24) or (tick < warm and bool(np.asarray(learning()).any())):
        update(values(tick, count), BEGIN + tick * STEP)
        tick += 1
    found = {"warm ticks": float(tick)}
    found |= {f"{kind} MiB": amount for kind, amount in memory(Path("/proc/self/smaps_rollup").read_text()).items()}
    rounds: list[float] = []
    gappy: list[float] = []
    for number in range(2 * ROUNDS):
        took = 0.0
        for _ in range(TICKS):
            told = values(tick, count)
            if number % 2:
                told[tick % 100 :: 100] = np.nan
            began = time.process_time()
            update(told, BEGIN + tick * STEP)
            took += time.process_time() - began
            tick += 1
        (gappy if number % 2 else rounds).append(took / TICKS / count * 1e6)
    found |= {"us a sample": min(rounds), "median us a sample": statistics.median(rounds)}
    found["us a sample, some missing"] = min(gappy)
    arrays = [one.nbytes for one in vars(engine).values() if isinstance(one, np.ndarray)]
    found["bytes a series"] = getattr(engine, "nbytes", sum(arrays)) / count
    if hasattr(engine, "snapshot"):
        found |= _snapshot(engine, name, update, tick, count)
    return found


def _snapshot(
    engine: Any, name: str, update: Callable[[Floats, float], object], tick: int, count: int
) -> dict[str, float]:
    from x0tta6bl4.judgement import snapshots

    kept, back = [], []
    again = None
    for _ in range(ROUNDS):
        began = time.perf_counter()
        packed = snapshots.pack(engine.snapshot(), {"of": name})
        kept.append(time.perf_counter() - began)
        again = type(engine)()
        began = time.perf_counter()
        again.restore(snapshots.unpack(packed)[0])
        back.append(time.perf_counter() - began)
    assert again is not None
    told, at = values(tick, count), BEGIN + tick * STEP
    update(told, at)
    again.update(told, at)
    away = np.abs(np.asarray(engine.scores, np.float64) - np.asarray(again.scores, np.float64)).max()
    return {
        "snapshot s": min(kept),
        "restore s": min(back),
        "snapshot bytes a series": len(packed) / count,
        "scores differ after restore by": float(away),
    }


def child(name: str, count: int) -> dict[str, float]:
    """The same, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.detect.cost", name, str(count)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        raise SystemExit(f"measuring {name} with {count} series ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def bare() -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", BARE], check=True, capture_output=True, text=True)
    return memory(done.stdout)


def _held(make: Callable[[], object]) -> float:
    """Bytes that the allocator gave away for what ``make`` returns."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = make()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    del kept
    return float(held)


def foreign() -> dict[str, tuple[float, float]]:
    """Of the peers that need a library: microseconds a sample when it is judged as it comes, and bytes a series."""
    from river import anomaly, compose, preprocessing
    from sklearn.ensemble import IsolationForest

    from benchmarks.detect.peers import features

    rows = features(values(0, 2000)).tolist()

    def trees() -> Any:
        model = compose.Pipeline(preprocessing.MinMaxScaler(), anomaly.HalfSpaceTrees(seed=42))
        for row in rows[:300]:
            model.learn_one(dict(enumerate(row)))
        return model

    model = trees()
    began = time.process_time()
    for row in rows:
        told = dict(enumerate(row))
        model.score_one(told)
        model.learn_one(told)
    took = (time.process_time() - began) / len(rows) * 1e6
    found = {"river HalfSpaceTrees": (took, _held(trees))}
    forest = IsolationForest(n_estimators=100, random_state=42).fit(rows)
    began = time.process_time()
    for row in rows[:40]:
        forest.score_samples([row])
    found["IsolationForest"] = ((time.process_time() - began) / 40 * 1e6, float(len(pickle.dumps(forest))))
    return found


def main(words: Sequence[str]) -> int:
    name, count = words[0], int(words[1])
    print(json.dumps(measure(name, count)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
