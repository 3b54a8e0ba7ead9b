"""Tells how much memory the daemon takes, and who in it takes it."""

import gc
import linecache
import marshal
import os
import resource
import sys
import tracemalloc
from collections import defaultdict
from pathlib import Path
from typing import Any

_MIB = 1024 * 1024
# What pstats reads: (file, line, function) -> (primitive calls, calls, own time, cumulative time, callers).
_Entries = dict[tuple[str, int, str], tuple[int, int, float, float, dict[Any, Any]]]


class MemoryProfiler:
    """Holds nothing itself: the kernel knows the totals, and tracemalloc, while it traces, the places.

    Tracing costs about as much time and memory again as the allocations it watches; it is for looking into a leak.
    """

    def get_memory_stats(self) -> dict[str, float]:
        """Resident memory in MiB, now and at its highest, as the kernel counts it; ``traced_mb`` while tracing."""
        lines = Path("/proc/self/status").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS:", "VmHWM:"))}
        current = sizes["VmRSS"] / 1024
        # Some sandboxed kernels leave VmHWM out; the accounting of getrusage is the same number.
        peak = sizes.get("VmHWM", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024
        stats = {"current_mb": current, "peak_mb": max(peak, current)}
        if tracemalloc.is_tracing():
            traced, traced_peak = tracemalloc.get_traced_memory()
            stats |= {"traced_mb": traced / _MIB, "traced_peak_mb": traced_peak / _MIB}
        return stats

    def start_tracing(self, frames: int = 1) -> None:
        """From now on every allocation is remembered with its place; what was allocated before stays unknown."""
        if not tracemalloc.is_tracing():
            tracemalloc.start(frames)

    def stop_tracing(self) -> None:
        tracemalloc.stop()

    def dump_stats(self, path: str | os.PathLike[str]) -> None:
        """Writes what ``python -m pstats PATH`` opens: the "time" is MiB, the "calls" are live allocations.

        While tracing, by the line that allocated; otherwise by the type of the objects that the garbage collector knows
        (containers and instances, without the texts and numbers in them). Blocks for as long as a look at all takes.
        """
        entries = self._by_line() if tracemalloc.is_tracing() else self._by_type()
        with open(path, "wb") as file:
            marshal.dump(entries, file)

    def top(self, n: int = 10) -> list[dict[str, Any]]:
        """The n biggest entries of ``dump_stats``, biggest first."""
        entries = self._by_line() if tracemalloc.is_tracing() else self._by_type()
        biggest = sorted(entries.items(), key=lambda entry: entry[1][2], reverse=True)[:n]
        return [
            {"file": file, "line": line, "what": what, "size_mb": size, "count": count}
            for (file, line, what), (_, count, size, _, _) in biggest
        ]

    def _by_line(self) -> _Entries:
        entries: _Entries = {}
        for statistic in tracemalloc.take_snapshot().statistics("lineno"):
            frame = statistic.traceback[0]
            source = linecache.getline(frame.filename, frame.lineno).strip()[:80]
            size = statistic.size / _MIB
            entries[frame.filename, frame.lineno, source] = (statistic.count, statistic.count, size, size, {})
        return entries

    def _by_type(self) -> _Entries:
        census: defaultdict[type, list[int]] = defaultdict(lambda: [0, 0])
        for thing in gc.get_objects():
            # type(), not __class__: a weak proxy would speak for an object that may be gone.
            entry = census[type(thing)]
            entry[0] += 1
            entry[1] += sys.getsizeof(thing, 0)
        entries: _Entries = {}
        for kind, (count, size) in census.items():
            key = (kind.__module__ if isinstance(kind.__module__, str) else "?", 0, kind.__qualname__)
            # Two classes of one name are one line of the report.
            before = entries.get(key, (0, 0, 0.0, 0.0, {}))
            total = before[2] + size / _MIB
            entries[key] = (before[0] + count, before[1] + count, total, total, {})
        return entries


def get_memory_profiler() -> MemoryProfiler:
    """A new one each time: what it reads belongs to the process, not to it."""
    return MemoryProfiler()
