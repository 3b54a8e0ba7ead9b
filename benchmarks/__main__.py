"""Prints every number that README claims: `python -m benchmarks`, or `python -m benchmarks mttr` for one part."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence

PARTS = {
    "mttr": "how long faults last",
    "campaign": "what it does, and leaves alone, in many kinds of trouble",
    "crash": "killed at random instants in the middle of its work",
    "statechart": "how fast the statechart engine is, beside others",
    "strategy": "what choosing by experience is worth",
    "sandbox": "what locking foreign code up costs",
    "resources": "what it costs",
    "face": "what the endpoint costs, and that healing goes on beneath a crowd",
    "runbooks": "durable incidents: how many, how fast, how small",
    "detect": "what the detectors find, what they cry wolf about, and what they cost, beside others",
    "weeks": "what a human hears of a host in six weeks, and what it was about",
}
BESIDE_PEERS = ("statechart", "detect")


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which: {', '.join(PARTS)}; default all")
    wanted = parser.parse_args(words).parts or list(PARTS)
    unknown = [part for part in wanted if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    failed = []
    for part in wanted:
        print(f"\n== {part}: {PARTS[part]}", flush=True)
        began = time.monotonic()
        # Each in a process of its own, so that what one leaves in memory is not measured in the next.
        # These engines need no library but numpy, so their parts run where those are that they are compared with.
        python = os.environ.get("X0TTA6BL4_PEERS", sys.executable) if part in BESIDE_PEERS else sys.executable
        code = subprocess.run([python, "-m", f"benchmarks.{part}"], check=False).returncode
        print(
            f"-- {part} took {time.monotonic() - began:.0f} s{f', and missed a target (exit {code})' if code else ''}"
        )
        if code:
            failed.append(part)
    print(f"\nmissed: {', '.join(failed)}" if failed else "\nall targets reached")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
