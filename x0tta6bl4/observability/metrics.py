"""The daemon's numbers as Prometheus reads them: each declared once, here, and exported by a registry of its own."""

import logging
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    # At run time it is imported by the Metrics that count: it costs 5 MiB, and a loop that nobody scrapes needs none.
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.metrics_core import Metric

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Kind = Literal["counter", "gauge", "histogram"]

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
    Declared("x0tta6bl4_incidents_open", "gauge", "Incidents that are not closed."),
    Declared("x0tta6bl4_incidents_opened_total", "counter", "Incidents opened.", ("fault",)),
    Declared("x0tta6bl4_incidents_closed_total", "counter", "Incidents closed, by how they ended.", ("fault", "ended")),
    Declared(
        "x0tta6bl4_steps_total",
        "counter",
        "Actions by how they ended; only verified ones are heals.",
        ("action", "result"),
    ),
    Declared("x0tta6bl4_guard_decisions_total", "counter", "Answers of the guard's checks.", ("check", "answer")),
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
    Declared("x0tta6bl4_journal_writes_total", "counter", "Commits to the journal."),
    Declared("x0tta6bl4_paused", "gauge", "Pauses in force; 0 means that actions are not held."),
    Declared("x0tta6bl4_meter_errors_total", "counter", "Numbers that could not be counted as they came.", ("reason",)),
)
"""``instance`` is a plugin's name in the configuration; when scraped it becomes ``exported_instance``."""


_log = logging.getLogger("x0tta6bl4.observability.metrics")


class _Family:
    """A declared metric and its series. A gauge is exported from its first ``set`` on: a zero before would be a lie."""

    __slots__ = ("children", "declared", "metric")

    def __init__(self, declared: Declared, metric: "Counter | Gauge | Histogram | None") -> None:
        self.declared = declared
        self.metric = metric
        self.children: dict[tuple[str, ...], Counter | Gauge | Histogram] = {}


class _Exported:
    """The registry as it is written out. Creation times are left out: a second series for each, read by nobody here."""

    def __init__(self, registry: "CollectorRegistry") -> None:
        self._registry = registry

    def collect(self) -> "Iterator[Metric]":
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


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
        self._families: dict[str, _Family] = {}
        self._told: set[tuple[str, str]] = set()
        self._registry: CollectorRegistry | None = None
        if enabled:
            self._declare(declared)
            self.set("x0tta6bl4_build_info", 1, version=version)

    def _declare(self, declared: Sequence[Declared]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram
        from prometheus_client.platform_collector import PlatformCollector
        from prometheus_client.process_collector import ProcessCollector

        self._registry = registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        for one in declared:
            metric: Counter | Histogram | None = None
            if one.kind == "counter":
                metric = Counter(one.name, one.help, one.labels, registry=registry)
            elif one.kind == "histogram":
                metric = Histogram(one.name, one.help, one.labels, buckets=one.buckets, registry=registry)
            self._families[one.name] = _Family(one, metric)

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        if not self.enabled:
            return
        if not 0 <= amount < math.inf:
            self._problem("value", name, f"{amount!r} cannot be added to a counter")
            return
        child = self._child("counter", name, labels)
        if child is not None:
            child.inc(amount)  # type: ignore[union-attr]  # _child has compared the kind

    def observe(self, name: str, value: float, **labels: str) -> None:
        if not self.enabled:
            return
        if not math.isfinite(value):
            self._problem("value", name, f"{value!r} is no measurement")
            return
        child = self._child("histogram", name, labels)
        if child is not None:
            child.observe(value)  # type: ignore[union-attr]  # _child has compared the kind

    def set(self, name: str, value: float, **labels: str) -> None:
        if not self.enabled:
            return
        child = self._child("gauge", name, labels)
        if child is not None:
            child.set(value)  # type: ignore[union-attr]  # _child has compared the kind

    def forget(self, **labels: str) -> None:
        """Drops all series with these label values, e.g. ``forget(subject="web")`` when web is no longer in care."""
        with self._lock:
            for family in self._families.values():
                names = family.declared.labels
                if family.metric is None or not labels or not set(labels) <= set(names):
                    continue
                wanted = {names.index(label): _bounded(value) for label, value in labels.items()}
                for values in [v for v in family.children if all(v[at] == value for at, value in wanted.items())]:
                    del family.children[values]
                    family.metric.remove(*values)

    def quantile(self, name: str, share: float, **labels: str) -> float | None:
        """Estimated from a histogram's buckets since the start, over all series that carry the labels given.

        Linear within a bucket, as Prometheus' histogram_quantile has it; beyond the last bound it is that bound. None
        when nothing was observed.
        """
        family = self._families.get(name)
        if family is None or family.metric is None or family.declared.kind != "histogram":
            return None
        counts: dict[float, float] = {}
        for metric in family.metric.collect():
            for sample in metric.samples:
                if sample.name.endswith("_bucket") and all(sample.labels.get(k) == v for k, v in labels.items()):
                    bound = float(sample.labels["le"])
                    counts[bound] = counts.get(bound, 0.0) + sample.value
        total = counts.get(math.inf, 0.0)
        if total == 0:
            return None
        rank = share * total
        below, before = 0.0, 0.0
        for bound, upto in sorted(counts.items()):
            if upto >= rank and upto > before:
                if bound == math.inf:
                    break
                return below + (bound - below) * (rank - before) / (upto - before)
            if bound != math.inf:
                below = bound
            before = upto
        return below

    def p95(self, name: str, **labels: str) -> float | None:
        return self.quantile(name, 0.95, **labels)

    def exposition(self, accept: str | None = None) -> tuple[bytes, str]:
        """The page and its content type. Changes nothing; with thousands of series it belongs in a thread."""
        if self._registry is None:
            return b"", TEXT
        exported = _Exported(self._registry)
        if _prefers_openmetrics(accept or ""):
            from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

            return openmetrics(exported), OPENMETRICS  # type: ignore[no-untyped-call]  # the library has no types there
        from prometheus_client.exposition import generate_latest

        return generate_latest(exported), TEXT

    def _child(self, kind: Kind, name: str, labels: dict[str, str]) -> "Counter | Gauge | Histogram | None":
        family = self._families.get(name)
        if family is None or family.declared.kind != kind:
            self._problem("unknown", name, f"no {kind} of that name is declared")
            return None
        try:
            values = tuple([labels[label] for label in family.declared.labels])
        except KeyError:
            values = ()
        if len(values) != len(labels) or len(values) != len(family.declared.labels):
            self._problem("labels", name, f"has the labels {family.declared.labels}, not {tuple(labels)}")
            return None
        child = family.children.get(values)
        return child if child is not None else self._new_child(family, values)

    def _new_child(self, family: _Family, values: tuple[str, ...]) -> "Counter | Gauge | Histogram | None":
        declared = family.declared
        # The key and the series are the same bounded texts, or a flood of long values would fill the keys.
        values = tuple(map(_bounded, values))
        with self._lock:
            if family.metric is None:
                from prometheus_client import Gauge

                family.metric = Gauge(declared.name, declared.help, declared.labels, registry=self._registry)
            child = family.children.get(values)
            if child is None and len(family.children) < declared.most:
                child = family.children[values] = family.metric.labels(*values) if values else family.metric
        if child is None:
            self._problem("series", declared.name, f"has {declared.most} series; no new one is counted")
        return child

    def _problem(self, reason: str, name: str, message: str) -> None:
        # More series than allowed is the world's doing, not a mistake in the code.
        if self._strict and reason != "series":
            raise ValueError(f"{name}: {message}")
        with self._lock:
            new = (reason, name) not in self._told and len(self._told) < 100
            if new:
                self._told.add((reason, name))
        if new:
            _log.error("metric not counted", extra={"metric": name, "reason": reason, "detail": message})
        if name != "x0tta6bl4_meter_errors_total":
            self.count("x0tta6bl4_meter_errors_total", reason=reason)


def _bounded(value: str) -> str:
    value = str(value)
    return value if len(value) <= LABEL_LENGTH else value[: LABEL_LENGTH - 1] + "…"


def _prefers_openmetrics(accept: str) -> bool:
    """Whether the Accept header ranks OpenMetrics 1.0 at least as high as the plain text format."""
    best = {"openmetrics": 0.0, "text": 0.0}
    for offer in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in offer.split(";"))
        given = dict(parameter.partition("=")[::2] for parameter in parameters)
        try:
            weight = float(given.get("q", "1"))
        except ValueError:
            weight = 0.0
        version = given.get("version", "").strip('"')
        if kind == "application/openmetrics-text" and version in ("", "1.0.0"):
            best["openmetrics"] = max(best["openmetrics"], weight)
        elif kind in ("text/plain", "text/*", "*/*"):
            best["text"] = max(best["text"], weight)
    return best["openmetrics"] > 0 and best["openmetrics"] >= best["text"]
