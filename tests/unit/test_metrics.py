"""What Prometheus reads: declared, bounded, and the same however often it is read."""

import logging
import math
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from x0tta6bl4.observability.metrics import METRICS, OPENMETRICS, TEXT, Declared, Metrics
from x0tta6bl4.ports.meter import Meter

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def samples(metrics: Metrics) -> dict[str, float]:
    text = metrics.exposition()[0].decode()
    found = [sample for family in parse_text(text) for sample in family.samples]
    return {s.name + "".join(f",{k}={v}" for k, v in sorted(s.labels.items())): s.value for s in found}


def test_it_is_what_the_kernel_asks_for() -> None:
    meter: Meter = Metrics("1.0", strict=True)
    meter.count("x0tta6bl4_findings_total", fault="dead")
    meter.count("x0tta6bl4_observations_total", 5)
    meter.observe("x0tta6bl4_mapek_cycle_duration_seconds", 0.2, phase="monitor")
    meter.set("x0tta6bl4_subject_up", 1, subject="web")


def test_what_was_counted_is_what_is_read() -> None:
    metrics = Metrics("3.3.0", strict=True)
    metrics.count("x0tta6bl4_mapek_cycles_total", trigger="wake", result="ok")
    metrics.count("x0tta6bl4_mapek_cycles_total", result="ok", trigger="wake")
    metrics.observe("x0tta6bl4_mapek_cycle_duration_seconds", 0.2, phase="monitor")
    metrics.set("x0tta6bl4_subject_up", 1, subject='we"b\n')
    metrics.set("x0tta6bl4_subject_up", 0, subject='we"b\n')
    read = samples(metrics)

    assert read["x0tta6bl4_build_info,version=3.3.0"] == 1
    assert read["x0tta6bl4_mapek_cycles_total,result=ok,trigger=wake"] == 2
    assert read["x0tta6bl4_mapek_cycle_duration_seconds_bucket,le=0.1,phase=monitor"] == 0
    assert read["x0tta6bl4_mapek_cycle_duration_seconds_bucket,le=0.25,phase=monitor"] == 1
    assert read["x0tta6bl4_mapek_cycle_duration_seconds_sum,phase=monitor"] == pytest.approx(0.2)
    assert read['x0tta6bl4_subject_up,subject=we"b\n'] == 0
    assert read["process_resident_memory_bytes"] > 0
    assert any(name.startswith("python_info") for name in read)
    assert not any("_created" in name for name in read)


def test_a_gauge_that_nobody_has_set_claims_nothing() -> None:
    metrics = Metrics("1", strict=True)

    assert "x0tta6bl4_config_last_reload_successful" not in samples(metrics)
    metrics.set("x0tta6bl4_config_last_reload_successful", 0)
    assert samples(metrics)["x0tta6bl4_config_last_reload_successful"] == 0


@pytest.mark.parametrize("accept", [None, PROMETHEUS])
def test_a_scrape_changes_nothing(accept: str | None) -> None:
    metrics = Metrics("1", strict=True)
    metrics.count("x0tta6bl4_journal_writes_total")
    metrics.observe("x0tta6bl4_api_latency_seconds", 0.1, endpoint="/metrics")

    def ours() -> list[str]:
        lines = metrics.exposition(accept)[0].decode().splitlines()
        return [line for line in lines if not line.startswith("process_")]

    assert ours() == ours()


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        (PROMETHEUS, OPENMETRICS),
        ("application/openmetrics-text", OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"; charset=utf-8', OPENMETRICS),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.9", TEXT),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=much;;=,,", TEXT),
    ],
)
def test_the_format_is_what_was_asked_for_and_parses(accept: str | None, expected: str) -> None:
    metrics = Metrics("1", strict=True)
    metrics.count("x0tta6bl4_findings_total", fault="dead")
    metrics.observe("x0tta6bl4_time_to_detect_seconds", 0.2)
    body, content_type = metrics.exposition(accept)
    families = list((parse_openmetrics if expected == OPENMETRICS else parse_text)(body.decode()))

    assert content_type == expected
    assert body.decode().endswith("# EOF\n") is (expected == OPENMETRICS)
    assert any(sample.name == "x0tta6bl4_findings_total" for family in families for sample in family.samples)


def test_two_daemons_in_one_process_count_apart_and_leave_the_global_registry_alone() -> None:
    before = {family.name for family in REGISTRY.collect()}
    one, other = Metrics("1", strict=True), Metrics("1", strict=True)
    one.count("x0tta6bl4_observations_total")

    assert samples(one)["x0tta6bl4_observations_total"] == 1
    assert samples(other)["x0tta6bl4_observations_total"] == 0
    assert {family.name for family in REGISTRY.collect()} == before


def wrong(metrics: Metrics, number: int) -> None:
    (
        lambda: metrics.count("x0tta6bl4_unheard_of_total"),
        lambda: metrics.count("x0tta6bl4_findings_total"),
        lambda: metrics.count("x0tta6bl4_findings_total", fault="dead", more="x"),
        lambda: metrics.count("x0tta6bl4_findings_total", kind="dead"),
        lambda: metrics.count("x0tta6bl4_observations_total", more="x"),
        lambda: metrics.set("x0tta6bl4_findings_total", 1, fault="dead"),
        lambda: metrics.count("x0tta6bl4_observations_total", -1),
        lambda: metrics.count("x0tta6bl4_observations_total", math.nan),
        lambda: metrics.observe("x0tta6bl4_time_to_detect_seconds", math.inf),
    )[number]()


@pytest.mark.parametrize("number", range(9))
def test_a_mistake_raises_in_tests(number: int) -> None:
    with pytest.raises(ValueError, match="x0tta6bl4_"):
        wrong(Metrics("1", strict=True), number)


@pytest.mark.parametrize("number", range(9))
def test_a_mistake_in_production_is_counted_and_logged_once(number: int, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics("1")
    with caplog.at_level(logging.ERROR, logger="x0tta6bl4"):
        for _ in range(3):
            wrong(metrics, number)
    errors = {
        name: value for name, value in samples(metrics).items() if name.startswith("x0tta6bl4_meter_errors_total")
    }

    assert list(errors.values()) == [3]
    assert len(caplog.records) == 1
    assert samples(metrics)["x0tta6bl4_observations_total"] == 0


def test_a_flood_of_label_values_ends_at_the_bound() -> None:
    declared = (*METRICS, Declared("x0tta6bl4_flood_total", "counter", "A flood.", ("path",), most=5))
    metrics = Metrics("1", strict=True, declared=declared)
    for number in range(20):
        metrics.count("x0tta6bl4_flood_total", path=f"/{number}" + "x" * 5000)
        metrics.count("x0tta6bl4_flood_total", path="/0" + "x" * 5000)
    read = {name: value for name, value in samples(metrics).items() if "flood" in name}

    assert len(read) == 5
    assert max(map(len, read)) < 300
    assert max(read.values()) == 21
    assert samples(metrics)["x0tta6bl4_meter_errors_total,reason=series"] == 15


def test_a_removed_subject_leaves_no_series_behind() -> None:
    metrics = Metrics("1", strict=True)
    for subject in ("web", "db"):
        metrics.set("x0tta6bl4_subject_up", 1, subject=subject)
    metrics.count("x0tta6bl4_plugin_failures_total", instance="web", kind="timeout")
    metrics.forget(subject="web")
    metrics.forget(subject="never seen")
    metrics.forget()
    read = samples(metrics)

    assert "x0tta6bl4_subject_up,subject=web" not in read
    assert read["x0tta6bl4_subject_up,subject=db"] == 1
    assert read["x0tta6bl4_plugin_failures_total,instance=web,kind=timeout"] == 1
    metrics.set("x0tta6bl4_subject_up", 0, subject="web")
    assert samples(metrics)["x0tta6bl4_subject_up,subject=web"] == 0


def test_the_p95_is_read_from_the_buckets() -> None:
    metrics = Metrics("1", strict=True)
    name = "x0tta6bl4_api_latency_seconds"

    assert metrics.p95(name) is None
    for number in range(100):
        metrics.observe(name, 0.02 if number < 90 else 0.2, endpoint="/health" if number % 2 else "/status")
    assert 0.1 < (metrics.p95(name) or 0) < 0.25
    assert metrics.quantile(name, 0.45) == pytest.approx(0.0175)
    assert metrics.p95(name, endpoint="/nothing") is None
    assert metrics.p95("x0tta6bl4_findings_total") is None
    metrics.observe(name, 99, endpoint="/slow")
    assert metrics.p95(name, endpoint="/slow") == 10


@settings(deadline=None)
@given(values=st.lists(st.floats(0, 9), min_size=1, max_size=80), share=st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    metrics = Metrics("1", strict=True)
    for value in values:
        metrics.observe("x0tta6bl4_api_latency_seconds", value, endpoint="/")
    bounds = next(one.buckets for one in METRICS if one.name == "x0tta6bl4_api_latency_seconds")
    true = sorted(values)[math.ceil(share * len(values)) - 1]
    upper = min(bound for bound in bounds if bound >= true)
    lower = max([bound for bound in bounds if bound < upper], default=0)
    estimate = metrics.quantile("x0tta6bl4_api_latency_seconds", share)

    assert estimate is not None
    assert lower - 1e-9 <= estimate <= upper + 1e-9


def test_it_counts_right_from_many_threads_while_it_is_read() -> None:
    metrics = Metrics("1", strict=True)

    def work(number: int) -> None:
        for turn in range(500):
            metrics.count("x0tta6bl4_findings_total", fault=f"f{turn % 7}")
            metrics.set("x0tta6bl4_subject_up", 1, subject=f"{number}-{turn % 50}")
            if turn % 100 == 0:
                metrics.exposition()
                metrics.forget(subject=f"{number}-1")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(value for name, value in samples(metrics).items() if name.startswith("x0tta6bl4_findings_total")) == 2000


def test_switched_off_it_counts_nothing_and_loads_nothing() -> None:
    code = (
        "import sys\n"
        "from x0tta6bl4.observability.metrics import Metrics\n"
        "m = Metrics('1', enabled=False, strict=True)\n"
        "m.count('nonsense'); m.observe('nonsense', 1.0); m.set('nonsense', 1.0); m.forget(subject='x')\n"
        "assert m.p95('nonsense') is None and m.exposition('*/*')[0] == b''\n"
        "assert 'prometheus_client' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_declared_name_follows_the_conventions() -> None:
    for one in METRICS:
        assert one.name.startswith("x0tta6bl4_")
        assert one.name.endswith("_total") is (one.kind == "counter")
        assert (one.kind == "histogram") is bool(one.buckets)
        assert one.kind != "histogram" or one.name.endswith("_seconds")
        assert one.help.endswith(".")
    assert len({one.name for one in METRICS}) == len(METRICS)
