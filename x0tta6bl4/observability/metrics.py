"""The daemon's numbers as Prometheus reads them: each declared once, here, and exported by a registry of its own."""

import logging
import math
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from x0tta6bl4.kernel.supervise import Failure, guarded_call
from x0tta6bl4.observability import exposition
from x0tta6bl4.observability.exposition import OPENMETRICS, TEXT, Kind
from x0tta6bl4.observability.process import OwnProcess, Samples

LABEL_LENGTH = 200
"""Characters of a label's value; a longer one is cut."""

_CYCLE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_DETECT = (0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60, 300)
_RECOVER = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
_LATENCY = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric. ``most``: series it may have; an operator's typing errors and attackers' paths end there."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    most: int = 500


METRICS: tuple[Declared, ...] = (
    Declared("x0tta6bl4_build_info", "gauge", "Always 1; the label says what runs.", ("version",)),
    Declared(
        "x0tta6bl4_mapek_cycles_total",
        "counter",
        "Cycles of the loop, by what began and what ended them.",
        ("trigger", "result"),
    ),
    Declared(
        "x0tta6bl4_mapek_cycle_duration_seconds",
        "histogram",
        "How long a cycle and its phases took.",
        ("phase",),
        _CYCLE,
    ),
    Declared("x0tta6bl4_mapek_overruns_total", "counter", "Cycles that were due while another still ran."),
    Declared("x0tta6bl4_observations_total", "counter", "Numbers that monitors have read."),
    Declared(
        "x0tta6bl4_probe_failures_total", "counter", "Looks of a monitor that saw nothing.", ("instance",), most=2000
    ),
    Declared(
        "x0tta6bl4_plugin_failures_total", "counter", "Failures of a plugin, by kind.", ("instance", "kind"), most=2000
    ),
    Declared("x0tta6bl4_findings_total", "counter", "Judgements that a subject has a fault.", ("fault",)),
    Declared("x0tta6bl4_incidents_open", "gauge", "Incidents that are not closed, by severity.", ("severity",)),
    Declared(
        "x0tta6bl4_incident_open_since_timestamp_seconds",
        "gauge",
        "Onset of the oldest incident that is not closed, by severity.",
        ("severity",),
    ),
    Declared("x0tta6bl4_incidents_opened_total", "counter", "Incidents opened.", ("fault",)),
    Declared(
        "x0tta6bl4_incidents_reopened_total",
        "counter",
        "Incidents opened again soon after they were closed, or were proved to be over.",
        ("subject",),
        most=10_000,
    ),
    Declared("x0tta6bl4_incidents_closed_total", "counter", "Incidents closed, by how they ended.", ("fault", "ended")),
    Declared(
        "x0tta6bl4_steps_total",
        "counter",
        "Actions by how they ended; only verified ones are heals.",
        ("action", "result"),
    ),
    Declared("x0tta6bl4_guard_decisions_total", "counter", "Answers of the guard's checks.", ("check", "answer")),
    Declared("x0tta6bl4_approvals_waiting", "gauge", "Plans that wait for a person's answer."),
    Declared(
        "x0tta6bl4_budget_left",
        "gauge",
        "Actions that a budget still allows, by the kind of budget and whose it is.",
        ("budget", "name"),
        most=2000,
    ),
    Declared(
        "x0tta6bl4_self_healing_mttr_seconds",
        "histogram",
        "From the onset of a fault to its verified heal.",
        ("fault",),
        _RECOVER,
    ),
    Declared("x0tta6bl4_time_to_detect_seconds", "histogram", "From the onset of a fault to its finding.", (), _DETECT),
    Declared(
        "x0tta6bl4_subject_up",
        "gauge",
        "1 while the subject's probes succeed, 0 while one fails.",
        ("subject",),
        most=10_000,
    ),
    Declared("x0tta6bl4_feature_flag", "gauge", "1 while the flag is on.", ("flag",)),
    Declared(
        "x0tta6bl4_config_last_reload_successful",
        "gauge",
        "Whether the last reading of the configuration was taken over.",
    ),
    Declared(
        "x0tta6bl4_config_last_reload_success_timestamp_seconds", "gauge", "When a configuration was last taken over."
    ),
    Declared("x0tta6bl4_events_dropped_total", "counter", "Events that found a full queue."),
    Declared(
        "x0tta6bl4_api_latency_seconds",
        "histogram",
        "How long an answer of the API took.",
        ("endpoint",),
        _LATENCY,
        most=200,
    ),
    Declared("x0tta6bl4_http_requests_total", "counter", "Requests to the API.", ("endpoint", "code"), most=2000),
    Declared("x0tta6bl4_stream_readers", "gauge", "Readers of the stream of events.", ("transport",)),
    Declared(
        "x0tta6bl4_stream_readers_dropped_total", "counter", "Readers of the stream that were let go.", ("reason",)
    ),
    Declared("x0tta6bl4_sign_ins_total", "counter", "Operators' attempts to sign in, by how they ended.", ("result",)),
    Declared(
        "x0tta6bl4_alerts_received_total", "counter", "Alerts that others sent, by what was made of them.", ("result",)
    ),
    Declared("x0tta6bl4_tls_certificate_expiry_timestamp_seconds", "gauge", "When the endpoint's certificate expires."),
    Declared(
        "x0tta6bl4_baselines", "gauge", "What analyzers know: learnt, or too young to be judged.", ("analyzer", "state")
    ),
    Declared(
        "x0tta6bl4_series_turned_away",
        "gauge",
        "Series that found no room with an analyzer that learns.",
        ("analyzer",),
    ),
    Declared("x0tta6bl4_journal_failing", "gauge", "1 while the journal cannot be written; nothing is done then."),
    Declared(
        "x0tta6bl4_loop_last_progress_timestamp_seconds", "gauge", "When a turn of the loop last came to its end."
    ),
    Declared("x0tta6bl4_loop_interval_seconds", "gauge", "From one turn about everything to the next."),
    Declared("x0tta6bl4_event_loop_lag_seconds", "gauge", "How much later than asked the event loop came to a timer."),
    Declared(
        "x0tta6bl4_condition",
        "gauge",
        "1 for each thing about the daemon itself that an operator should know, while it lasts.",
        ("code", "severity"),
    ),
    Declared("x0tta6bl4_paused", "gauge", "Pauses in force; 0 means that actions are not held."),
    Declared("x0tta6bl4_meter_errors_total", "counter", "Numbers that could not be counted as they came.", ("reason",)),
)
"""``instance`` is a plugin's name in the configuration; when scraped it becomes ``exported_instance``."""

_PROCESS: tuple[Declared, ...] = (
    Declared(
        "python_info",
        "gauge",
        "Python platform information",
        ("implementation", "major", "minor", "patchlevel", "version"),
    ),
    Declared("python_gc_objects_collected_total", "counter", "Objects collected during gc", ("generation",)),
    Declared(
        "python_gc_objects_uncollectable_total", "counter", "Uncollectable objects found during GC", ("generation",)
    ),
    Declared(
        "python_gc_collections_total", "counter", "Number of times this generation was collected", ("generation",)
    ),
    Declared("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds."),
    Declared("process_threads", "gauge", "Number of OS threads in the process."),
    Declared("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes."),
    Declared("process_resident_memory_bytes", "gauge", "Resident memory size in bytes."),
    Declared("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds."),
    Declared("process_open_fds", "gauge", "Number of open file descriptors."),
    Declared("process_max_fds", "gauge", "Maximum number of open file descriptors."),
)

_log = logging.getLogger("x0tta6bl4.observability.metrics")

Derived = Mapping[str, Mapping[str, float]]
"""By metric: the value of each series, under the text that stands before it."""


class _Number:
    """A series of a counter or a gauge."""

    __slots__ = ("prefix", "value")

    def __init__(self, declared: Declared, labelled: str) -> None:
        self.prefix = exposition.prefix(declared.name, labelled)
        # A page may be written between the making of a gauge's series and its first value: a zero there could alarm.
        self.value = math.nan if declared.kind == "gauge" else 0.0


class _Histogram:
    """A series of a histogram."""

    __slots__ = ("buckets", "counts", "exemplars", "labelled", "total")

    def __init__(self, declared: Declared, labelled: str) -> None:
        self.labelled = labelled
        self.buckets = declared.buckets
        self.counts = [0] * (len(declared.buckets) + 1)
        self.total = 0.0
        self.exemplars: dict[int, str] = {}
        """By bucket: the latest, as it is written."""


S = TypeVar("S", _Number, _Histogram)


class _Family(Generic[S]):
    """A declared metric and its series. A gauge is exported from its first ``set`` on: a zero before would be a lie."""

    __slots__ = ("declared", "new", "series", "upto")

    def __init__(self, declared: Declared, new: Callable[[Declared, str], S]) -> None:
        self.declared = declared
        self.new: Callable[[Declared, str], S] = new
        self.series: dict[tuple[str, ...], S] = {}
        self.upto = exposition.bounds(declared.buckets)
        if declared.kind != "gauge" and not declared.labels:
            self.series[()] = new(declared, "")


class Metrics:
    """The ``Meter`` of the daemon. Safe from any thread.

    A name or label that is not declared is a mistake of ours: with ``strict`` (the tests) it raises; otherwise it is
    counted in ``x0tta6bl4_meter_errors_total`` and logged once, for a number is not worth a cycle.
    """

    def __init__(
        self,
        version: str,
        *,
        enabled: bool = True,
        strict: bool = False,
        declared: Sequence[Declared] = METRICS,
    ) -> None:
        self.enabled = enabled
        self._strict = strict
        self._lock = threading.Lock()
        self._told: set[tuple[str, str]] = set()
        self._declared = tuple(declared) if enabled else ()
        self._counters = {one.name: _Family(one, _Number) for one in self._declared if one.kind == "counter"}
        self._gauges = {one.name: _Family(one, _Number) for one in self._declared if one.kind == "gauge"}
        self._histograms = {one.name: _Family(one, _Histogram) for one in self._declared if one.kind == "histogram"}
        self._reads: dict[str, tuple[Declared, Callable[[], Samples]]] = {}
        if enabled:
            self._process = OwnProcess()
            self.set("x0tta6bl4_build_info", 1, version=version)

    def count(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        if not self.enabled:
            return
        if not 0 <= amount < math.inf:
            self._problem("value", name, f"{amount!r} cannot be added to a counter")
            return
        series = self._series(self._counters, "counter", name, labels)
        if series is not None:
            with self._lock:
                series.value += amount

    def observe(self, name: str, value: float, /, exemplar: Mapping[str, str] | None = None, **labels: str) -> None:
        """The latest exemplar of each bucket is kept; only OpenMetrics has a place for it."""
        if not self.enabled:
            return
        if not 0 <= value < math.inf:  # all of them measure times, and a sum that falls is no counter
            self._problem("value", name, f"{value!r} is no measurement")
            return
        series = self._series(self._histograms, "histogram", name, labels)
        if series is None:
            return
        at = bisect_left(series.buckets, value)
        text = self._exemplar(name, exemplar, value) if exemplar else ""
        with self._lock:
            series.counts[at] += 1
            series.total += value
            if text:
                series.exemplars[at] = text

    def set(self, name: str, value: float, /, **labels: str) -> None:
        if not self.enabled:
            return
        series = self._series(self._gauges, "gauge", name, labels)
        if series is not None:
            series.value = float(value)

    def derive(self, name: str, read: Callable[[], Samples]) -> None:
        """From now on the gauge is what ``read`` tells when a page is written: labels and value of each series.

        ``read`` neither waits nor blocks. What it raises costs the page this one gauge, and is counted and logged as
        other mistakes are. A later call for the same name takes the place of this one.
        """
        if not self.enabled:
            return
        family = self._gauges.pop(name, None)
        if family is None and name not in self._reads:
            self._problem("unknown", name, "no gauge of that name is declared")
            return
        declared = family.declared if family is not None else self._reads[name][0]
        self._reads[name] = declared, read

    def forget(self, **labels: str) -> None:
        """Drops all series with these label values, e.g. ``forget(subject="web")`` when web is no longer in care."""
        if not labels:
            return
        with self._lock:
            for families in (self._counters, self._gauges, self._histograms):
                for family in families.values():
                    for values in _carrying(family.declared, family.series, labels):
                        del family.series[values]

    def quantile(self, name: str, share: float, **labels: str) -> float | None:
        """Estimated from a histogram's buckets since the start, over all series that carry the labels given.

        Linear within a bucket, as Prometheus' histogram_quantile has it; beyond the last bound it is that bound. None
        when nothing was observed.
        """
        family = self._histograms.get(name)
        if family is None:
            return None
        buckets = family.declared.buckets
        with self._lock:
            found = [family.series[values].counts for values in _carrying(family.declared, family.series, labels)]
            counts: list[int] = [sum(column) for column in zip(*found, strict=True)]
        rank = share * sum(counts)
        below, upto = 0.0, 0
        for bound, count in zip(buckets, counts, strict=False):
            if count and upto + count >= rank:
                return below + (bound - below) * (rank - upto) / count
            below, upto = bound, upto + count
        return below if any(counts) else None

    def p95(self, name: str, **labels: str) -> float | None:
        return self.quantile(name, 0.95, **labels)

    def derived(self) -> Derived:
        """What the gauges of ``derive`` are now. It belongs to the event loop's thread, as what they read does."""
        told: dict[str, Mapping[str, float]] = {}
        for declared, read in tuple(self._reads.values()):
            found = guarded_call(partial(_told_by, declared, read))
            if isinstance(found, Failure):
                self._problem("derived", declared.name, f"{found.error}: {found.message}")
            else:
                told[declared.name] = found
        return told

    def exposition(self, accept: str | None = None, derived: Derived | None = None) -> tuple[bytes, str]:
        """The page and its content type. Changes nothing; with thousands of series it belongs in a thread.

        In a thread it is to be given what ``derived`` told on the event loop; without, it asks for itself.
        """
        if not self.enabled:
            return b"", TEXT
        derived = self.derived() if derived is None else derived
        form = exposition.negotiated(accept or "")
        openmetrics = form == OPENMETRICS
        page: list[str] = []
        for one in self._declared:
            page.append(exposition.head(one.name, one.kind, one.help, openmetrics=openmetrics))
            numbers = self._counters.get(one.name) or self._gauges.get(one.name)
            if numbers is not None:
                page += [f"{s.prefix}{exposition.number(s.value)}\n" for s in tuple(numbers.series.values())]
            elif one.name in self._histograms:
                page += self._histogram_lines(self._histograms[one.name], openmetrics=openmetrics)
            else:
                page += _lines(derived.get(one.name, {}))
        told = self._process.read()
        for one in _PROCESS:
            if one.name in told:
                page.append(exposition.head(one.name, one.kind, one.help, openmetrics=openmetrics))
                page += _lines(_told_by(one, partial(told.__getitem__, one.name)))
        if openmetrics:
            page.append("# EOF\n")
        return "".join(page).encode(), form

    def _histogram_lines(self, family: _Family[_Histogram], *, openmetrics: bool) -> list[str]:
        page: list[str] = []
        for series in tuple(family.series.values()):
            with self._lock:
                counts, total = series.counts.copy(), series.total
                exemplars = series.exemplars.copy() if openmetrics else {}
            page += exposition.histogram(family.declared.name, series.labelled, family.upto, counts, total, exemplars)
        return page

    def _series(self, families: Mapping[str, _Family[S]], kind: Kind, name: str, labels: Mapping[str, str]) -> S | None:
        family = families.get(name)
        if family is None:
            self._problem("unknown", name, f"no {kind} of that name is declared that is not derived")
            return None
        names = family.declared.labels
        if tuple(labels) == names:
            values = tuple(labels.values())
        elif len(labels) == len(names) and all(label in labels for label in names):
            values = tuple([labels[label] for label in names])
        else:
            self._problem("labels", name, f"has the labels {names}, not {tuple(labels)}")
            return None
        series = family.series.get(values)
        return series if series is not None else self._new_series(family, values)

    def _new_series(self, family: _Family[S], values: tuple[str, ...]) -> S | None:
        declared = family.declared
        # The key and the series are the same bounded texts, or a flood of long values would fill the keys.
        values = tuple(map(_bounded, values))
        with self._lock:
            series = family.series.get(values)
            if series is None and len(family.series) < declared.most:
                series = family.series[values] = family.new(declared, exposition.pairs(declared.labels, values))
        if series is None:
            self._problem("series", declared.name, f"has {declared.most} series; no new one is counted")
        return series

    def _exemplar(self, name: str, labels: Mapping[str, str], value: float) -> str:
        try:
            return exposition.exemplar(labels, value, time.time())
        except ValueError as error:
            self._problem("exemplar", name, str(error))
            return ""

    def _problem(self, reason: str, name: str, message: str) -> None:
        # More series than allowed is the world's doing, and a gauge that cannot be derived must not break the page.
        if self._strict and reason not in ("series", "derived"):
            raise ValueError(f"{name}: {message}")
        with self._lock:
            new = (reason, name) not in self._told and len(self._told) < 100
            if new:
                self._told.add((reason, name))
        if new:
            _log.error("metric not counted", extra={"metric": name, "reason": reason, "detail": message})
        if name != "x0tta6bl4_meter_errors_total":
            self.count("x0tta6bl4_meter_errors_total", reason=reason)


def _told_by(declared: Declared, read: Callable[[], Samples]) -> dict[str, float]:
    """All that was read, or ValueError: a part of it would be taken for the whole."""
    told: dict[str, float] = {}
    for labels, value in read():
        if labels.keys() != set(declared.labels):
            raise ValueError(f"it has the labels {declared.labels}, not {tuple(labels)}")
        values = [_bounded(labels[label]) for label in declared.labels]
        told[exposition.prefix(declared.name, exposition.pairs(declared.labels, values))] = float(value)
    if len(told) > declared.most:
        raise ValueError(f"{len(told)} series were read; it may have {declared.most}")
    return told


def _lines(told: Mapping[str, float]) -> list[str]:
    return [f"{prefix}{exposition.number(value)}\n" for prefix, value in told.items()]


def _carrying(
    declared: Declared, series: Mapping[tuple[str, ...], object], labels: Mapping[str, str]
) -> list[tuple[str, ...]]:
    """The keys of the series that carry these labels with these values."""
    if not labels.keys() <= set(declared.labels):
        return []
    wanted = [(declared.labels.index(label), _bounded(value)) for label, value in labels.items()]
    return [values for values in series if all(values[at] == value for at, value in wanted)]


def _bounded(value: str) -> str:
    value = exposition.readable(str(value))
    return value if len(value) <= LABEL_LENGTH else value[: LABEL_LENGTH - 1] + "…"
