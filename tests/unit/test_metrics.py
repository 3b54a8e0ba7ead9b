"""What Prometheus reads: declared, bounded, and the same however often it is read."""

import asyncio
import gzip
import logging
import math
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import CollectorRegistry
from prometheus_client.samples import Exemplar

from x0tta6bl4.kernel import facts
from x0tta6bl4.kernel.facts import trace_id_of
from x0tta6bl4.observability.exposition import OPENMETRICS, TEXT, TEXT_1
from x0tta6bl4.observability.metrics import METRICS, Declared, Metrics
from x0tta6bl4.ports.meter import Meter
from x0tta6bl4.testing.virtual_time import run
from x0tta6bl4.testing.world import World

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
HOSTILE = (
    'we"b',
    "two\nlines",
    "back\\slash\\",
    "\\n",
    '"} 1\n# EOF',
    "a,b={c}",
    "żółć 日本 🦊",
    "\r\t\x1b[0m",
    " ",
    "",
)
TRACE = "0af7651916cd43dd8448eb211c80319c"


def families(metrics: Metrics, accept: str | None = None) -> list[Metric]:
    page, kind = metrics.exposition(accept)
    return list((parse_openmetrics if kind == OPENMETRICS else parse_text)(page.decode()))


def samples(metrics: Metrics, accept: str | None = None) -> dict[str, float]:
    found = [sample for family in families(metrics, accept) for sample in family.samples]
    return {s.name + "".join(f",{k}={v}" for k, v in sorted(s.labels.items())): s.value for s in found}


def lines(metrics: Metrics, accept: str | None = None) -> list[str]:
    """Without what says something of the process, which lives on between two pages."""
    told = metrics.exposition(accept)[0].decode().split("\n")
    return [line for line in told if not line.startswith(("process_", "python_gc_"))]


def exemplars(metrics: Metrics) -> dict[str, Exemplar]:
    found = [sample for family in families(metrics, OPENMETRICS) for sample in family.samples if sample.exemplar]
    return {f"{s.name},le={s.labels['le']}": s.exemplar for s in found if s.exemplar}


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


def test_a_page_written_while_a_gauge_is_set_for_the_first_time_claims_no_zero() -> None:
    metrics, pages = Metrics("1", strict=True), []

    class Late:
        def __float__(self) -> float:
            pages.append(samples(metrics))
            return 1.0

    metrics.set("x0tta6bl4_paused", Late())  # type: ignore[arg-type]  # a moment between two bytecodes, made long

    assert math.isnan(pages[0]["x0tta6bl4_paused"])
    assert samples(metrics)["x0tta6bl4_paused"] == 1


@pytest.mark.parametrize("accept", [None, PROMETHEUS])
def test_a_scrape_changes_nothing(accept: str | None) -> None:
    metrics = Metrics("1", strict=True)
    metrics.count("x0tta6bl4_observations_total")
    metrics.observe("x0tta6bl4_api_latency_seconds", 0.1, exemplar={"trace_id": TRACE}, endpoint="/metrics")
    metrics.derive("x0tta6bl4_incidents_open", lambda: [({"severity": "major"}, 2)])

    assert lines(metrics, accept) == lines(metrics, accept)


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
        (PROMETHEUS_3, OPENMETRICS),
        ("text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1", TEXT_1),
        ("text/plain;version=1.0.0;q=0.1,text/plain;version=0.0.4;q=0.2", TEXT),
        ("image/png", TEXT),
    ],
)
def test_the_format_is_what_was_asked_for_and_parses(accept: str | None, expected: str) -> None:
    metrics = Metrics("1", strict=True)
    metrics.count("x0tta6bl4_findings_total", fault="dead")
    metrics.observe("x0tta6bl4_time_to_detect_seconds", 0.2)
    body, content_type = metrics.exposition(accept)

    assert content_type == expected
    assert body.decode().endswith("# EOF\n") is (expected == OPENMETRICS)
    assert samples(metrics, accept)["x0tta6bl4_findings_total,fault=dead"] == 1


def test_both_formats_say_the_same() -> None:
    metrics = Metrics("1", strict=True)
    metrics.count("x0tta6bl4_steps_total", 0.1 + 0.2, action="a", result="b")
    metrics.set("x0tta6bl4_subject_up", 1e-300, subject="x")
    for value in (1e-9, 0.3, 1, 1e9):
        metrics.observe("x0tta6bl4_time_to_detect_seconds", value)
    metrics.derive("x0tta6bl4_condition", lambda: [({"code": "x", "severity": "y"}, 1)])

    def ours(accept: str) -> dict[str, float]:
        return {name: value for name, value in samples(metrics, accept).items() if name.startswith("x0tta6bl4_")}

    assert ours(TEXT) == ours(OPENMETRICS) == ours(TEXT_1)
    assert ours(TEXT)["x0tta6bl4_time_to_detect_seconds_bucket,le=0.3"] == 2


def test_openmetrics_knows_what_is_a_unit_and_what_is_only_information() -> None:
    by_name = {family.name: family for family in families(Metrics("1", strict=True), OPENMETRICS)}
    declared = {"x0tta6bl4_build": ("info", ""), "python": ("info", ""), "process_cpu_seconds": ("counter", "seconds")}
    declared |= {"x0tta6bl4_mapek_cycle_duration_seconds": ("histogram", "seconds"), "process_open_fds": ("gauge", "")}
    declared |= {"process_resident_memory_bytes": ("gauge", "bytes"), "x0tta6bl4_findings": ("counter", "")}

    assert {name: (by_name[name].type, by_name[name].unit) for name in declared} == declared


def test_a_help_text_is_read_as_it_was_written() -> None:
    told = 'Says "yes", C:\\new\nand goes on.'
    metrics = Metrics("1", strict=True, declared=(*METRICS, Declared("x0tta6bl4_told", "gauge", told)))
    for accept in (TEXT, OPENMETRICS):
        by_name = {family.name: family.documentation for family in families(metrics, accept)}

        assert by_name["x0tta6bl4_told"] == told
    assert b'told Says \\"yes\\", C:\\\\new\\nand goes on.\n' in metrics.exposition(OPENMETRICS)[0]


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_no_label_value_breaks_the_page(accept: str) -> None:
    metrics = Metrics("1", strict=True)
    for value in HOSTILE:
        metrics.set("x0tta6bl4_subject_up", 1, subject=value)
        metrics.observe("x0tta6bl4_api_latency_seconds", 0.1, endpoint=value)
    metrics.derive("x0tta6bl4_condition", lambda: [({"code": value, "severity": "x"}, 1) for value in HOSTILE])
    read = samples(metrics, accept)
    for value in HOSTILE:
        assert read[f"x0tta6bl4_subject_up,subject={value}"] == 1
        assert read[f"x0tta6bl4_api_latency_seconds_count,endpoint={value}"] == 1
        assert read[f"x0tta6bl4_condition,code={value},severity=x"] == 1


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_what_no_reader_could_read_is_written_otherwise_and_stays_one_series(accept: str) -> None:
    metrics = Metrics("1", strict=True)
    for value, shown in (("a\0b", "a␀b"), ("caf\udce9", "caf\\udce9"), ("x" * 300, "x" * 199 + "…")):
        metrics.set("x0tta6bl4_subject_up", 0, subject=value)
        metrics.set("x0tta6bl4_subject_up", 1, subject=value)
        page = metrics.exposition(accept)[0]

        assert samples(metrics, accept)[f"x0tta6bl4_subject_up,subject={shown}"] == 1
        assert b"\0" not in page
        metrics.forget(subject=value)
        assert f"x0tta6bl4_subject_up,subject={shown}" not in samples(metrics, accept)


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -0.0, 1e300, 5e-324, 2**53 + 1])
def test_every_number_is_read_as_it_was_set(accept: str, value: float) -> None:
    metrics = Metrics("1", strict=True)
    metrics.set("x0tta6bl4_subject_up", value, subject="x")
    read = samples(metrics, accept)["x0tta6bl4_subject_up,subject=x"]
    (written,) = re.findall(rb'\nx0tta6bl4_subject_up{subject="x"} (.*)\n', metrics.exposition(accept)[0])

    assert repr(float(value)) == repr(read)
    assert math.isfinite(value) or written in (b"+Inf", b"-Inf", b"NaN")


LABEL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
NUMBER = st.floats(allow_nan=False)
MEASURED = st.lists(st.floats(0, 1e6), max_size=20)


@settings(deadline=None)
@given(
    counts=st.dictionaries(LABEL, st.floats(0, 1e300)),
    gauges=st.dictionaries(st.tuples(LABEL, LABEL), NUMBER),
    measured=st.dictionaries(LABEL, MEASURED, max_size=5),
    buckets=st.lists(st.floats(0, 1e5), unique=True, min_size=1, max_size=6).map(sorted),
)
@example(counts={}, gauges={("\\", '"'): math.inf}, measured={'"': [0.0]}, buckets=[0.0])
def test_what_is_written_is_what_is_read(
    counts: dict[str, float], gauges: dict[tuple[str, str], float], measured: dict[str, list[float]], buckets: Any
) -> None:
    declared = (
        Declared("x0tta6bl4_build_info", "gauge", "Version.", ("version",)),
        Declared("c_total", "counter", "Counts.", ("l",), most=10**6),
        Declared("g", "gauge", "Gauges.", ("l", "m"), most=10**6),
        Declared("h", "histogram", "Measured.", ("l",), tuple(buckets), most=10**6),
    )
    metrics = Metrics("1", strict=True, declared=declared)
    expected: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}

    def expect(name: str, value: float, **labels: str) -> None:
        expected[name, frozenset(labels.items())] = value

    expect("x0tta6bl4_build_info", 1, version="1")
    for label, value in counts.items():
        metrics.count("c_total", value, l=label)
        expect("c_total", value, l=label)
    for (one, other), value in gauges.items():
        metrics.set("g", value, l=one, m=other)
        expect("g", value, l=one, m=other)
    for label, values in measured.items():
        total = 0.0
        for value in values:
            metrics.observe("h", value, exemplar={"trace_id": TRACE}, l=label)
            total += value
        if not values:
            continue
        for bound in (*buckets, math.inf):
            le = "+Inf" if bound == math.inf else repr(float(bound))
            expect("h_bucket", sum(value <= bound for value in values), l=label, le=le)
        expect("h_count", len(values), l=label)
        expect("h_sum", total, l=label)
    for parse, accept in ((parse_text, TEXT), (parse_openmetrics, OPENMETRICS)):
        page = metrics.exposition(accept)[0].decode()
        read = [s for family in parse(page) for s in family.samples if not s.name.startswith(("process_", "python_"))]

        assert {(s.name, frozenset(s.labels.items())): s.value for s in read} == expected
        assert len(read) == len(expected)


def test_promtool_finds_nothing_to_say_about_the_page() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; it comes with Prometheus")
    metrics = Metrics("1", strict=True)
    metrics.derive("x0tta6bl4_budget_left", lambda: [({"budget": "target", "name": HOSTILE[0]}, 1)])
    for one in METRICS:
        labels = dict.fromkeys(one.labels, HOSTILE[1])
        if one.kind == "counter":
            metrics.count(one.name, **labels)
        elif one.kind == "histogram":
            metrics.observe(one.name, 0.1, **labels)
        elif one.name != "x0tta6bl4_budget_left":
            metrics.set(one.name, 1, **labels)
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=metrics.exposition()[0], capture_output=True, timeout=60, check=False
    )

    assert (checked.returncode, checked.stdout.decode(), checked.stderr.decode()) == (0, "", "")


def test_the_process_is_told_by_the_names_that_dashboards_know() -> None:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    theirs = {family.name: family for family in registry.collect()}
    ours = {f.name: f for f in families(Metrics("1", strict=True)) if f.name.startswith(("process_", "python_"))}

    def value(of: Mapping[str, Metric], name: str) -> float:
        return of[name].samples[0].value

    assert set(ours) - set(theirs) == {"process_threads"}
    assert set(theirs) <= set(ours)
    for name, family in theirs.items():
        assert ours[name].type == family.type
        assert {s.name for s in ours[name].samples} == {s.name for s in family.samples}
        assert [s.labels for s in ours[name].samples] == [s.labels for s in family.samples]
    for name in ("process_start_time_seconds", "process_max_fds", "python_info"):
        assert value(ours, name) == pytest.approx(value(theirs, name))
    for name in ("process_resident_memory_bytes", "process_virtual_memory_bytes", "process_cpu_seconds"):
        assert value(ours, name) == pytest.approx(value(theirs, name), rel=0.5)
    assert 1 <= value(ours, "process_threads") < 1000
    assert 3 <= value(ours, "process_open_fds") <= value(ours, "process_max_fds")


def test_the_page_packs_well() -> None:
    metrics = Metrics("1", strict=True)
    for number in range(1000):
        metrics.set("x0tta6bl4_subject_up", 1, subject=f"namespace/service-{number}")
    page = metrics.exposition()[0]

    assert gzip.decompress(gzip.compress(page, 4)) == page
    assert len(gzip.compress(page, 4)) < len(page) / 5


def test_two_daemons_in_one_process_count_apart() -> None:
    one, other = Metrics("1", strict=True), Metrics("1", strict=True)
    one.count("x0tta6bl4_observations_total")

    assert samples(one)["x0tta6bl4_observations_total"] == 1
    assert samples(other)["x0tta6bl4_observations_total"] == 0


def test_an_exemplar_stands_at_the_bucket_of_its_number_and_only_in_openmetrics() -> None:
    metrics = Metrics("1", strict=True)
    name, before = "x0tta6bl4_time_to_detect_seconds", time.time()
    metrics.observe(name, 0.15, exemplar={"trace_id": TRACE})
    metrics.observe(name, 0.2)
    metrics.observe(name, 0.25, exemplar={"trace_id": "old"})
    metrics.observe(name, 0.26, exemplar={"trace_id": "new"})
    metrics.observe(name, 1e6, exemplar={"trace_id": "beyond"})
    found = exemplars(metrics)

    assert {key: (one.labels, one.value) for key, one in found.items()} == {
        f"{name}_bucket,le=0.2": ({"trace_id": TRACE}, 0.15),
        f"{name}_bucket,le=0.3": ({"trace_id": "new"}, 0.26),
        f"{name}_bucket,le=+Inf": ({"trace_id": "beyond"}, 1e6),
    }
    assert all(before - 1 <= float(one.timestamp) <= time.time() + 1 for one in found.values())
    assert TRACE.encode() not in metrics.exposition()[0]
    assert samples(metrics)[f"{name}_count"] == samples(metrics, OPENMETRICS)[f"{name}_count"] == 5


@pytest.mark.parametrize("value", HOSTILE)
def test_no_exemplar_breaks_the_page(value: str) -> None:
    metrics = Metrics("1", strict=True)
    # This parser takes an escaped quote for the end of the text, so that only an even number of them comes out whole.
    even = value.replace('"', '""')
    metrics.observe("x0tta6bl4_time_to_detect_seconds", 0.01, exemplar={"trace_id": TRACE, "span": even})

    assert exemplars(metrics)["x0tta6bl4_time_to_detect_seconds_bucket,le=0.05"].labels["span"] == even


@pytest.mark.parametrize(("value", "written"), [('we"b\\', 'we\\"b\\\\'), ("a\0b", "a␀b"), ("\udce9", "\\\\udce9")])
def test_what_is_special_in_an_exemplar_is_escaped(value: str, written: str) -> None:
    metrics = Metrics("1", strict=True)
    metrics.observe("x0tta6bl4_time_to_detect_seconds", 0.01, exemplar={"trace_id": value})

    assert f' # {{trace_id="{written}"}} 0.01 ' in metrics.exposition(OPENMETRICS)[0].decode()


@pytest.mark.parametrize("exemplar", [{"trace_id": "x" * 121}, {"a-b": "x"}, {"": "x"}, {"ż": "x"}, {"1a": "x"}])
def test_an_exemplar_that_cannot_be_written_costs_the_exemplar_and_not_the_number(exemplar: dict[str, str]) -> None:
    metrics, name = Metrics("1"), "x0tta6bl4_time_to_detect_seconds"
    metrics.observe(name, 0.01, exemplar={"trace_id": "x" * 120})
    metrics.observe(name, 0.01, exemplar=exemplar)

    assert samples(metrics, OPENMETRICS)[f"{name}_count"] == 2
    assert exemplars(metrics)[f"{name}_bucket,le=0.05"].labels == {"trace_id": "x" * 120}
    assert samples(metrics)["x0tta6bl4_meter_errors_total,reason=exemplar"] == 1
    with pytest.raises(ValueError, match="exemplar"):
        Metrics("1", strict=True).observe(name, 0.01, exemplar=exemplar)


def test_the_trace_id_of_an_incident_is_always_the_same_and_a_valid_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [trace_id_of(f"inc-{number}") for number in range(1000)]

    assert ids == [trace_id_of(f"inc-{number}") for number in range(1000)]
    assert len(set(ids)) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
    assert trace_id_of("abc") == "ba7816bf8f01cfea414140de5dae2223"

    class Zeros:
        def __init__(self, _: bytes) -> None:
            pass

        def digest(self) -> bytes:
            return bytes(32)

    monkeypatch.setattr(facts, "sha256", Zeros)
    assert trace_id_of("abc") == "0" * 31 + "1"


def test_a_heal_is_found_by_its_exemplars() -> None:
    async def story() -> None:
        world = World({"web": {"process": ["/bin/web"], "work": "http://127.0.0.1:1/work", "mode": "auto"}})
        async with world.running() as loop:
            world.kill("web")
            await world.until(lambda: world.processes.supervised("web") is not None)
            await asyncio.sleep(5)
            (incident,) = await world.incidents()
            turn = loop.last_turn
            found = exemplars(world.metrics)
            traces = {name.partition("_bucket")[0]: one.labels["trace_id"] for name, one in found.items()}

            assert incident.ended == "healed"
            assert traces["x0tta6bl4_self_healing_mttr_seconds"] == trace_id_of(incident.id)
            assert traces["x0tta6bl4_time_to_detect_seconds"] == trace_id_of(incident.id)
            assert turn is not None
            assert re.fullmatch("[0-9a-f]{32}", turn.trace_id)
            drawn = [
                (sample.labels["phase"], sample.exemplar.labels["trace_id"])
                for family in families(world.metrics, OPENMETRICS)
                for sample in family.samples
                if "cycle_duration" in sample.name and sample.exemplar
            ]
            assert {"monitor", "analyze", "plan", "execute", "knowledge", "total"} == {phase for phase, _ in drawn}
            assert ("total", turn.trace_id) in drawn
            assert ("analyze", turn.trace_id) in drawn

    run(story())


def test_a_derived_gauge_is_what_it_is_when_the_page_is_written() -> None:
    metrics, name = Metrics("1", strict=True), "x0tta6bl4_incidents_open"
    open_now = {"major": 1}
    metrics.derive(name, lambda: [({"severity": severity}, count) for severity, count in open_now.items()])
    assert samples(metrics)[f"{name},severity=major"] == 1
    open_now.update(major=3, critical=2)
    assert samples(metrics)[f"{name},severity=major"] == 3
    del open_now["major"]
    read = samples(metrics, OPENMETRICS)

    assert read[f"{name},severity=critical"] == 2
    assert f"{name},severity=major" not in read
    metrics.derive(name, list)
    assert not any(key.startswith(name) and "opened" not in key for key in samples(metrics))


def test_what_was_derived_on_the_event_loop_is_not_read_again_where_the_page_is_written() -> None:
    metrics, readers = Metrics("1", strict=True), []

    def read() -> list[tuple[dict[str, str], float]]:
        readers.append(threading.current_thread())
        return [({}, 7.0)]

    metrics.derive("x0tta6bl4_approvals_waiting", read)
    derived = metrics.derived()
    pages: list[bytes] = []
    writer = threading.Thread(target=lambda: pages.append(metrics.exposition(None, derived)[0]))
    writer.start()
    writer.join()

    assert b"\nx0tta6bl4_approvals_waiting 7.0\n" in pages[0]
    assert readers == [threading.current_thread()]


def raising() -> list[tuple[dict[str, str], float]]:
    raise RuntimeError("the loop is being built anew")


@pytest.mark.parametrize(
    "read",
    [
        raising,
        lambda: [({"severity": "x"}, 1.0), ({"fault": "x"}, 1.0)],
        lambda: [({"severity": "x", "fault": "y"}, 1.0)],
        lambda: [({"severity": "x"}, "many")],
        lambda: [({"severity": str(number)}, 1.0) for number in range(501)],
        lambda: iter([(None, None)]),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_gauge_that_cannot_be_derived_is_left_out_and_told(
    read: Any, strict: bool, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics("1", strict=strict)
    metrics.derive("x0tta6bl4_incidents_open", read)
    metrics.derive("x0tta6bl4_approvals_waiting", lambda: [({}, 1)])
    with caplog.at_level(logging.ERROR, logger="x0tta6bl4"):
        samples(metrics)
        told = samples(metrics)

    assert not any(name.startswith("x0tta6bl4_incidents_open,") for name in told)
    assert told["x0tta6bl4_approvals_waiting"] == 1
    assert told["x0tta6bl4_meter_errors_total,reason=derived"] == 2
    assert len(caplog.records) == 1


def test_a_derived_gauge_cannot_be_set_as_well() -> None:
    metrics = Metrics("1", strict=True)
    metrics.set("x0tta6bl4_approvals_waiting", 5)
    metrics.derive("x0tta6bl4_approvals_waiting", lambda: [({}, 1)])

    assert samples(metrics)["x0tta6bl4_approvals_waiting"] == 1
    with pytest.raises(ValueError, match="derived"):
        metrics.set("x0tta6bl4_approvals_waiting", 5)
    for name in ("x0tta6bl4_findings_total", "x0tta6bl4_unheard_of"):
        with pytest.raises(ValueError, match=name):
            metrics.derive(name, list)


def test_a_label_may_be_called_as_the_parameters_are() -> None:
    metrics = Metrics("1", strict=True)
    metrics.set("x0tta6bl4_budget_left", 3, name="web", budget="target")

    assert samples(metrics)["x0tta6bl4_budget_left,budget=target,name=web"] == 3
    metrics.forget(name="web")
    assert "x0tta6bl4_budget_left,budget=target,name=web" not in samples(metrics)


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
        lambda: metrics.observe("x0tta6bl4_time_to_detect_seconds", -0.1),
    )[number]()


@pytest.mark.parametrize("number", range(10))
def test_a_mistake_raises_in_tests(number: int) -> None:
    with pytest.raises(ValueError, match="x0tta6bl4_"):
        wrong(Metrics("1", strict=True), number)


@pytest.mark.parametrize("number", range(10))
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


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns so often that what is not kept together comes apart."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_it_counts_right_from_many_threads_while_it_is_read(hasty: None) -> None:
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


def test_no_page_shows_a_histogram_half_way(hasty: None) -> None:
    declared = (METRICS[0], Declared("h_seconds", "histogram", "Halves.", ("l",), (0.5, 2)))
    metrics, over = Metrics("1", strict=True, declared=declared), threading.Event()
    observed = [0, 0, 0]

    def work(number: int) -> None:
        while not over.is_set():
            metrics.observe("h_seconds", 1.0, l=str(observed[number] % 100))
            observed[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        pages = [metrics.exposition()[0] for _ in range(200)]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    pages.append(metrics.exposition()[0])
    numbers = [[float(value) for value in re.findall(rb"^h_seconds_\w+{.*} (.*)$", page, re.M)] for page in pages]
    told = [row[at : at + 5] for row in numbers for at in range(0, len(row), 5)]

    assert all(row == [0, row[4], row[4], row[4], row[4]] for row in told)
    assert sum(numbers[-1][4::5]) == sum(observed)


def test_switched_off_it_counts_nothing_and_no_library_is_needed_for_a_page() -> None:
    code = (
        "import sys\n"
        "from x0tta6bl4.observability.metrics import Metrics\n"
        "m = Metrics('1', enabled=False, strict=True)\n"
        "m.count('nonsense'); m.observe('nonsense', 1.0); m.set('nonsense', 1.0); m.forget(subject='x')\n"
        "m.derive('nonsense', list)\n"
        "assert m.p95('nonsense') is None and m.exposition('*/*')[0] == b'' and m.derived() == {}\n"
        "on = Metrics('1', strict=True)\n"
        "assert on.exposition('*/*')[0] and on.exposition('application/openmetrics-text')[0]\n"
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
        assert re.fullmatch("[a-z][a-z0-9_]*", one.name)
        assert not re.search(
            "_(ms|millis|milliseconds|minutes|hours|kb|mb|percent|count|sum|bucket|created)(_|$)", one.name
        )
        assert "timestamp" not in one.name or one.name.endswith("_timestamp_seconds")
        assert not one.name.endswith("_info") or one.kind == "gauge"
        assert all(re.fullmatch("[a-z][a-z_]*", label) for label in one.labels)
        assert not {"le", "quantile", "job", "exported_instance"} & set(one.labels)
        assert list(one.buckets) == sorted({bound for bound in one.buckets if bound > 0})
    families = [one.name.removesuffix("_total").removesuffix("_info") for one in METRICS]

    assert len(set(families)) == len(METRICS)
