"""The weeks of a made host: what is done to it shows in its numbers, and what a human hears is counted rightly."""

from dataclasses import replace

import numpy as np

from benchmarks.weeks import CALM_WEEKS, DAY, HOUR, MINUTE, WEEK, Daemon, Fault, Life, about, fault_at, host, is_right
from x0tta6bl4.kernel.facts import Incident, IncidentState, Severity
from x0tta6bl4.kernel.subjects import Subject

COLUMNS = {"web": 50.0, "db": 20.0}


def test_the_same_seed_makes_the_same_host_and_its_faults_come_after_the_calm_weeks() -> None:
    one, other, calm = host(3, seed=4), host(3, seed=4), host(3, seed=4, calm=True)

    assert np.array_equal(one.values, other.values, equal_nan=True)
    assert one.faults == other.faults and one.faults
    assert calm.faults == []
    assert min(fault.start for fault in one.faults) >= CALM_WEEKS * WEEK / MINUTE


def test_a_fault_shows_in_the_numbers_of_its_cause() -> None:
    life = host(4, seed=1)
    fault = next(fault for fault in life.faults if fault.kind == "slow db")
    seconds = life.values[:, life.names.index(("db", "work_seconds"))]
    before = np.median(seconds[fault.start - 60 : fault.start])

    assert np.median(seconds[fault.start : fault.stop]) > 3 * before


def test_what_is_heard_is_about_a_fault_its_aftermath_a_deploy_or_nothing() -> None:
    at = MINUTE * np.arange(10_000.0)
    life = Life(at, [], np.zeros((10_000, 0)), {}, [Fault("slow db", 100, 130, ("db",))], [(5000, "web", "deploy")])

    assert ["nothing", "fault", "fault", "aftermath", "nothing", "deploy", "nothing"] == [
        about(life, tick) for tick in (99, 100, 140, 141, 251, 5000, 5121)
    ]
    assert fault_at(life, 99) is None


def test_the_likeliest_cause_decides_and_without_any_the_subject_itself() -> None:
    fault = Fault("slow db", 0, 1, ("db",))
    incident = Incident("inc", "web", "unusual", IncidentState.OPEN, Severity.INFO, "", 0.0, 0.0)
    causes = [{"subject": "db"}, {"subject": "web"}]

    assert not is_right(incident, fault)
    assert is_right(replace(incident, data={"causes": causes}), fault)
    assert not is_right(replace(incident, data={"cause": causes[1], "causes": causes}), fault)


def test_a_fault_of_two_numbers_is_told_once_some_minutes_after_it_began_and_a_blip_never() -> None:
    random = np.random.default_rng(3)
    ticks = round(3 * DAY / MINUTE)
    names = [(name, metric) for name in COLUMNS for metric in ("latency_ms", "queue_items")]
    values = np.array([COLUMNS[name] for name, _ in names]) * (1 + 0.02 * random.normal(size=(ticks, len(names))))
    start, stop = ticks - 60, ticks - 30
    values[ticks - 600, :2] *= 8
    values[start:stop, :2] *= 8
    subjects = {name: Subject(name, "process") for name in COLUMNS}
    life = Life(
        MINUTE * np.arange(float(ticks)) + 30 * DAY, names, values, subjects, [Fault("x", start, stop, ("web",))]
    )
    heard = Daemon(life).run()

    assert [("web", "unusual")] == [(told.incident.subject, told.incident.fault) for told in heard.told]
    assert start + 3 <= heard.told[0].tick <= start + 0.25 * HOUR / MINUTE
