"""Times the daemon's stages and sub-stages: who spent how long on what, and what failed."""

import functools
import re
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar, Token
from hashlib import blake2b
from types import TracebackType
from typing import Any

PARTS = 64
"""Stages kept of one thread, and sub-stages kept of one stage; what comes after is counted only."""
IDS = 1024
"""Different stage ids with statistics. Ids are constants of the code; a program that invents them meets this bound."""

_STAGE_ID = re.compile(r"(?:[A-Z][A-Z0-9]*\.)?(?:[0-9]+(?:\.[0-9]+)*_)?[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*")

_thread_id: ContextVar[str | None] = ContextVar("x0tta6bl4_thread_id", default=None)


def is_stage_id(text: str) -> bool:
    """Whether it reads ``{SEQUENCE}_{DESCRIPTIVE_NAME}``: 2.1_L1_CACHE_LOOKUP, ET.1_START, REDIS.GET_OPERATION.

    The tracker itself takes any id: a badly named stage is better than an untimed one.
    """
    return ("." in text or text[:1].isdigit()) and _STAGE_ID.fullmatch(text) is not None


def current_thread_id() -> str | None:
    """The thread of work (a cycle, a request) that this code runs for; nothing to do with the system's threads."""
    return _thread_id.get()


def bind_thread_id(thread_id: str | None) -> Token[str | None]:
    """Correlates what this task and its children log and time from now on. Entering a stage with an id does it too."""
    return _thread_id.set(thread_id)


def unbind_thread_id(token: Token[str | None]) -> None:
    _thread_id.reset(token)


class _Part:
    """A stage or a sub-stage while it runs, and what is remembered of it afterwards."""

    __slots__ = (
        "_bound",
        "_outer",
        "_parent",
        "_tracker",
        "dropped",
        "ended",
        "error",
        "id",
        "kept",
        "name",
        "parts",
        "started",
        "thread_id",
    )  # fmt: skip

    def __init__(self, tracker: "ExecutionTracker", stage: str, name: str, thread_id: str | None, sub: bool) -> None:
        self._tracker = tracker
        self.id = stage
        self.name = name
        self.thread_id = thread_id
        self.started = self.ended = 0.0
        self.error = ""
        self.kept = False
        self.parts: list[_Part] = []
        self.dropped = 0
        self._bound: Token[str | None] | None = None
        self._outer: Token[_Part | None] | None = None
        self._parent: _Part | None = None
        if sub:
            # The stage of this context, not just any open one: tasks interleave, and to_thread takes the context along.
            current = _current.get()
            self._parent = current if current is not None and current._tracker is tracker else None
            if self._parent is not None:
                self.thread_id = self._parent.thread_id
        else:
            self.thread_id = thread_id if thread_id is not None else _thread_id.get()

    def __enter__(self) -> "_Part":
        self._outer = _current.set(self)
        if self._parent is None and self.thread_id is not None:
            self._bound = _thread_id.set(self.thread_id)
        self.started = self._tracker.clock()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.ended = self._tracker.clock()
        try:
            if self._outer is not None:
                _current.reset(self._outer)
            if self._bound is not None:
                _thread_id.reset(self._bound)
        except ValueError:
            # A generator that is finalised elsewhere ends in a foreign context, where there is nothing to take back.
            pass
        # Held while filed: neither the context's tokens nor the parent may keep other stages alive.
        self._outer = self._bound = None
        if kind is not None:
            self.error = kind.__name__
        self._tracker._file(self, self._parent)
        self._parent = None

    def as_dict(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "stage": self.id,
            "name": self.name,
            "duration_ms": (self.ended - self.started) * 1000,
            "success": not self.error,
        }
        if self.error:
            told["error"] = self.error
        if self.parts:
            told["substages"] = [part.as_dict() for part in self.parts]
        if self.dropped:
            told["substages_dropped"] = self.dropped
        return told


_current: ContextVar[_Part | None] = ContextVar("x0tta6bl4_stage", default=None)


class _Window:
    """The last so many durations of one stage id, and how often it ran and failed in all."""

    __slots__ = ("count", "errors", "next", "samples", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.samples = array("d")
        self.next = 0
        self.count = 0
        self.errors = 0

    def add(self, seconds: float) -> None:
        if len(self.samples) < self.size:
            self.samples.append(seconds)
        else:
            self.samples[self.next] = seconds
            self.next = (self.next + 1) % self.size

    def as_dict(self) -> dict[str, float | int | None]:
        ordered = sorted(self.samples)

        def at(share: float) -> float | None:
            if not ordered:
                return None
            place = share * (len(ordered) - 1)
            below = int(place)
            above = min(below + 1, len(ordered) - 1)
            return (ordered[below] + (ordered[above] - ordered[below]) * (place - below)) * 1000

        return {
            "count": self.count,
            "sampled": len(ordered),
            "errors": self.errors,
            "p50_ms": at(0.5),
            "p95_ms": at(0.95),
            "p99_ms": at(0.99),
            "min_ms": at(0.0),
            "max_ms": at(1.0),
        }


class _Thread:
    __slots__ = ("dropped", "stages")

    def __init__(self) -> None:
        self.stages: list[_Part] = []
        self.dropped = 0


class ExecutionTracker:
    """Stages by thread of work, and statistics by stage id. For tasks and threads alike; bounded in memory.

    ``sampling`` is the share of thread ids whose stages are kept: a hash of the id decides, so all stages of one thread
    are kept or none, on every node alike. A stage that fails or is cancelled is always kept, and every run is counted.
    """

    def __init__(
        self,
        sampling: float = 1.0,
        max_threads: int = 1000,
        max_samples: int = 512,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not 0.0 <= sampling <= 1.0:
            raise ValueError(f"sampling is a share between 0 and 1, not {sampling!r}")
        if max_threads < 1 or max_samples < 1:
            raise ValueError(f"max_threads and max_samples are at least 1, not {max_threads!r} and {max_samples!r}")
        self.sampling = sampling
        self.clock = clock
        self._max_threads = max_threads
        self._max_samples = max_samples
        self._threads: OrderedDict[str, _Thread] = OrderedDict()
        self._windows: dict[str, _Window] = {}
        self._lock = threading.Lock()

    def track_stage(self, stage: str, name: str, thread_id: str | None = None) -> _Part:
        """Times the block. Without a thread id it is the bound one's; without any, it counts in the statistics only."""
        return _Part(self, stage, name, thread_id, sub=False)

    def track_substage(self, stage: str, name: str) -> _Part:
        """Times the block as a part of the stage it runs in; outside of any, it counts in the statistics only."""
        return _Part(self, stage, name, None, sub=True)

    def is_sampled(self, thread_id: str) -> bool:
        if self.sampling >= 1.0:
            return True
        digest = blake2b(thread_id.encode(errors="surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.sampling * 2**64

    def _file(self, part: _Part, parent: _Part | None) -> None:
        sampled = part.thread_id is None or self.is_sampled(part.thread_id)
        with self._lock:
            window = self._windows.get(part.id)
            if window is None and len(self._windows) < IDS:
                window = self._windows[part.id] = _Window(self._max_samples)
            if window is not None:
                window.count += 1
                window.errors += bool(part.error)
                if sampled:
                    window.add(part.ended - part.started)
            if not (sampled or part.error or part.kept):
                return
            if parent is not None:
                # What holds a failed part is kept with it, or nobody would see where it failed.
                parent.kept = True
                if len(parent.parts) < PARTS:
                    parent.parts.append(part)
                else:
                    parent.dropped += 1
            elif part.thread_id is not None:
                self._keep(part, part.thread_id)

    def _keep(self, part: _Part, thread_id: str) -> None:
        thread = self._threads.get(thread_id)
        if thread is None:
            thread = self._threads[thread_id] = _Thread()
            if len(self._threads) > self._max_threads:
                self._threads.popitem(last=False)
        else:
            self._threads.move_to_end(thread_id)
        if len(thread.stages) < PARTS:
            thread.stages.append(part)
        else:
            thread.dropped += 1

    def get_execution_summary(self, thread_id: str) -> dict[str, Any]:
        """What the thread's finished stages took and how they ended, in the order in which they began.

        ``total_duration_ms`` is the time in which at least one of them ran: nested and parallel ones count once.
        ``success`` is None when nothing is known of the thread. ``failed_stages`` names stages; a sub-stage whose
        failure was caught shows below its stage.
        """
        with self._lock:
            thread = self._threads.get(thread_id)
            stages = sorted(thread.stages, key=lambda part: part.started) if thread is not None else []
            dropped = thread.dropped if thread is not None else 0
            shown = [part.as_dict() for part in stages]
        total = 0.0
        until = float("-inf")
        for part in stages:
            total += max(0.0, part.ended - max(part.started, until))
            until = max(until, part.ended)
        failed = [part.id for part in stages if part.error]
        return {
            "thread_id": thread_id,
            "total_duration_ms": total * 1000,
            "stage_count": len(stages) + dropped,
            "stages": shown,
            "success": not failed if stages else None,
            "failed_stages": failed,
        }

    def get_stage_statistics(self, stage: str) -> dict[str, float | int | None]:
        """Of a stage or sub-stage id: runs and errors since the start, and how long the last sampled runs took.

        The percentiles, minimum and maximum are those of a sliding window of ``max_samples`` runs, None without any.
        """
        with self._lock:
            window = self._windows.get(stage)
            return (window if window is not None else _Window(1)).as_dict()

    def all_statistics(self) -> dict[str, dict[str, float | int | None]]:
        with self._lock:
            return {stage: window.as_dict() for stage, window in sorted(self._windows.items())}

    def clear_thread_data(self, thread_id: str) -> None:
        """Forgets the thread's stages; the statistics stay. Without it, the oldest threads make room for new ones."""
        with self._lock:
            self._threads.pop(thread_id, None)


@functools.cache
def get_tracker() -> ExecutionTracker:
    """The process's own tracker, for code that nobody hands one to.

    The one singleton of the project: timing has to reach places that are handed nothing, as a tracer's does. What is
    handed a tracker uses that.
    """
    return ExecutionTracker()
