"""What every client of Prometheus tells of the process it lives in, by the names that dashboards know."""

import gc
import os
import platform
import resource
from collections.abc import Iterable, Mapping

Samples = Iterable[tuple[Mapping[str, str], float]]
"""Labels and value of each series of one metric."""


class OwnProcess:
    """Reads what the kernel and the interpreter count anyway; any thread may ask. What cannot be read is left out."""

    def __init__(self) -> None:
        self._page = resource.getpagesize()
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._booted = _booted()
        version, (major, minor, patch) = platform.python_version(), platform.python_version_tuple()
        self._python = {
            "implementation": platform.python_implementation(),
            "major": major,
            "minor": minor,
            "patchlevel": patch,
            "version": version,
        }

    def read(self) -> dict[str, Samples]:
        """By the name of the metric."""
        generations = [({"generation": str(at)}, stats) for at, stats in enumerate(gc.get_stats())]
        told: dict[str, Samples] = {
            "python_info": [(self._python, 1.0)],
            "python_gc_objects_collected_total": [(labels, stats["collected"]) for labels, stats in generations],
            "python_gc_objects_uncollectable_total": [
                (labels, stats["uncollectable"]) for labels, stats in generations
            ],
            "python_gc_collections_total": [(labels, stats["collections"]) for labels, stats in generations],
        }
        try:
            told |= {name: [({}, value)] for name, value in self._of_the_kernel().items()}
        except OSError:
            pass  # no /proc, or one that hides even our own process
        return told

    def _of_the_kernel(self) -> dict[str, float]:
        with open("/proc/self/stat", "rb") as file:
            # The name in parentheses may have anything in it; what follows the last one are numbers (proc(5)).
            fields = file.read().rpartition(b")")[2].split()
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        told = {
            "process_cpu_seconds_total": (int(fields[11]) + int(fields[12])) / self._ticks,
            "process_threads": float(fields[17]),
            "process_virtual_memory_bytes": float(fields[20]),
            "process_resident_memory_bytes": float(fields[21]) * self._page,
            "process_max_fds": float("inf") if most == resource.RLIM_INFINITY else float(most),
            "process_open_fds": float(len(os.listdir("/proc/self/fd"))),
        }
        if self._booted is not None:
            told["process_start_time_seconds"] = self._booted + int(fields[19]) / self._ticks
        return told


def _booted() -> float | None:
    """Wall-clock seconds at which the machine started, by which the kernel counts when a process did."""
    try:
        with open("/proc/stat", "rb") as file:
            return next((float(line.split()[1]) for line in file if line.startswith(b"btime ")), None)
    except OSError:
        return None
