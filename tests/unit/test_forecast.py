"""When something is foretold to be used up, how sure that is, and what grows every day and is no leak."""

import random
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import exp, isfinite, pi, sin, sqrt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from x0tta6bl4.analyzers import forecast
from x0tta6bl4.judgement.runway import DAYS, SLOTS, Runway
from x0tta6bl4.kernel.facts import Finding, Observation, Severity
from x0tta6bl4.kernel.judged import judged_of
from x0tta6bl4.kernel.lessons import Learner, Lesson
from x0tta6bl4.kernel.plugin import Alarmed
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.settings.plugins import choose
from x0tta6bl4.testing.fakes import tools

MIB = 1 << 20
LIMIT = 200 * MIB
HOUR, DAY = 3600.0, 86400.0
MIDNIGHT = 19_675 * DAY
"""A day's beginning by the clock on the wall."""


class Host:
    """A sight and two clocks; what is seen is judged whenever the test asks."""

    def __init__(self, *subjects: Subject, **config: Any) -> None:
        self.sight = Sight({s.name: s for s in subjects or (Subject("web", data={"memory_limit": LIMIT}),)})
        self.analyzer: Any = forecast.PLUGIN.build("judge", forecast.Config.model_validate(config), tools())
        self.now, self.offset = 1000.0, MIDNIGHT - 1000.0

    @property
    def wall(self) -> float:
        return self.now + self.offset

    def see(self, metric: str, value: float, subject: str = "web") -> None:
        self.sight.record([Observation("m", subject, metric, value)], self.now)

    def judge(self) -> Sequence[Finding]:
        found: Sequence[Finding] = self.analyzer.analyze(View(self.sight, self.now, None, wall=self.wall))
        return found

    def feed(
        self,
        value: Callable[[float], float],
        seconds: float,
        every: float = 0.5,
        metric: str = "process_rss_bytes",
        subject: str = "web",
        **more: float,
    ) -> list[tuple[float, Finding]]:
        """What is found while the series runs, with the seconds since it began."""
        began, told = self.now, []
        while self.now - began < seconds:
            passed = self.now - began
            self.see(metric, value(passed), subject)
            for name, number in more.items():
                self.see(name, number, subject)
            told += [(passed, f) for f in self.judge()]
            self.now += every
        return told

    def disk(self, used: Callable[[float], float], seconds: float, every: float = 60.0) -> list[tuple[float, Finding]]:
        return self.feed(lambda s: 1.0 - used(s), seconds, every, "disk_free_ratio", "/var")

    def again(self, gap: float = 600.0) -> "Host":
        """The daemon after a restart: its monotonic clock begins anew, and what was learnt is taken up."""
        other = Host(*self.sight.subjects.values())
        other.offset = self.wall + gap - other.now
        other.analyzer.take_up(self.analyzer.learnt(), self.wall)
        return other


def faults(told: Sequence[tuple[float, Finding]]) -> set[str]:
    return {finding.fault for _, finding in told}


# -- leaks -----------------------------------------------------------------------------------------------------------


def test_memory_at_its_limit_is_used_up() -> None:
    host = Host()
    host.see("process_rss_bytes", LIMIT)
    host.see("process_up", 1.0)
    (found,) = host.judge()

    assert (found.fault, found.severity) == ("exhausting-memory", Severity.MAJOR)
    assert found.summary == "web: memory is used up: 100% of 200 MiB"
    assert [str(c) for c in found.healthy_when] == ["process_rss_bytes < 200.0 MiB", "process_up >= 1"]
    (judged,) = judged_of(found.data)
    assert judged.decided == "share in use 1, a finding from 1 on"


def test_no_limit_is_no_judgement() -> None:
    assert Host(Subject("web")).feed(lambda s: s * 100 * MIB, 60) == []


def test_a_leak_is_foretold_before_it_hurts() -> None:
    told = Host().feed(lambda s: (40 + s) * MIB, 100)
    first, found = told[0]

    assert found.fault == "leaking-memory"
    assert found.severity is Severity.WARNING
    assert found.healthy_when == ()
    assert first < 30, "a rise of 5 % that lasted a sixth of what is left is enough"
    assert 100 < float(found.data["seconds_left"]) < 160
    assert faults(told) == {"leaking-memory"}
    for passed, one in told:
        assert one.data["earliest"] <= 160 - passed + 1 and one.data["latest"] >= 160 - passed - 1


def test_a_forecast_says_what_decided_and_what_would_have_been_well() -> None:
    told = Host().feed(lambda s: (40 + s / 5) * MIB, 400)
    _, found = told[-1]
    (judged,) = judged_of(found.data)

    assert found.summary.startswith("web: memory ends in about 7 min (")
    assert found.summary.endswith("at this pace: 60% of 200 MiB is used")
    assert (judged.metric, judged.named, judged.limit) == ("process_rss_bytes", "seconds until it is full", 900)
    assert judged.number == pytest.approx(400, rel=0.05)
    assert judged.high == pytest.approx(20 * MIB, abs=2 * MIB), "900 s before the end at this pace"
    assert "would have been no finding" in judged.otherwise
    assert found.data["per_hour"] == pytest.approx(720 * MIB, rel=0.05)
    assert 0 < found.data["confidence"] < 1
    assert found.data["days_known"] is False and "less than two days" in judged.why


def test_noise_hides_no_leak() -> None:
    rng = random.Random(4)
    told = Host().feed(lambda s: (40 + s / 6 + rng.gauss(0, 2)) * MIB, 900, every=2)

    assert faults(told) == {"leaking-memory"}
    assert told[0][0] < 500


def test_a_leak_under_the_teeth_of_a_garbage_collector_is_found() -> None:
    told = Host().feed(lambda s: (40 + s / 12 + 15 * ((s / 20) % 1)) * MIB, 1600, every=2)

    assert faults(told) == {"leaking-memory"}
    assert told[0][0] < 1400
    assert told[-1][1].data["seconds_left"] < 400


def test_a_slow_leak_that_has_hours_left_is_nobodys_concern_yet() -> None:
    assert Host().feed(lambda s: (40 + s / 100) * MIB, 1500, every=5) == []


def test_noise_is_no_leak() -> None:
    assert Host().feed(lambda s: (60 + 9 * ((s * 7) % 1)) * MIB, 300) == []


def test_wide_noise_is_no_leak() -> None:
    rng = random.Random(2)
    assert Host().feed(lambda s: (100 + rng.gauss(0, 15)) * MIB, 7200, every=5) == []


def test_a_sawtooth_is_no_leak_once_two_of_its_teeth_were_seen() -> None:
    told = Host().feed(lambda s: (60 + (s % 20) * 2) * MIB, 600)

    assert all(at <= 40 for at, _ in told)


def test_what_hovers_about_full_is_used_up_all_the_time_and_not_by_turns_about_to_be() -> None:
    rng = random.Random(5)
    limit = {"process_fds_limit": 1024.0, "process_age_seconds": 9 * DAY}
    told = Host().feed(
        lambda s: float(round(min(972.0, 100 + s / 14) + rng.gauss(0, 5))), 15_000, 60.0, "process_fds", **limit
    )
    faults = [finding.fault for _, finding in told]
    first = faults.index("exhausting-descriptors")

    assert {"exhausting-descriptors"} == set(faults[first:])
    assert [60.0] * (len(told) - 1 - first) == [
        round(b - a, 3) for (a, _), (b, _) in zip(told[first:], told[first + 1 :], strict=False)
    ]


def test_a_forecast_that_wavers_is_one_story_and_ends_when_something_has_gone_back() -> None:
    """A restless leak of five hours in a process that collects its garbage, read once a minute."""
    rng = random.Random(7)
    period = rng.uniform(1200, 5400)
    host = Host()
    host.feed(lambda s: (72 + 16 * (s % period / period) + rng.gauss(0, 0.16)) * MIB, 3 * DAY, 60.0)
    told = host.feed(
        lambda s: (72 + s * 112 / 18_180 + 16 * ((s + 3 * DAY) % period / period) + rng.gauss(0, 2)) * MIB,
        18_180,
        60.0,
    )
    times = [at for at, finding in told if finding.fault == "leaking-memory"]
    host.see("process_rss_bytes", 72 * MIB)

    assert len(times) > 3
    assert max(b - a for a, b in pairwise(times)) <= 61
    assert host.judge() == []


def test_a_process_that_is_warm_and_then_stays_so_is_no_leak_for_long() -> None:
    told = Host().feed(lambda s: min(120.0, 20 + s * 10) * MIB, 600)

    assert all(at < 60 for at, _ in told)


@pytest.mark.parametrize("every", [1.0, 30.0, 300.0])
def test_a_step_is_no_leak(every: float) -> None:
    """A cache that was filled once."""
    host = Host()
    assert host.feed(lambda s: (40 if s < 7200 else 150) * MIB, 4 * HOUR, every) == []


def test_a_glitch_is_no_leak() -> None:
    assert Host().feed(lambda s: (190 if s % 300 == 150 else 60) * MIB, 3600, every=1) == []


@pytest.mark.parametrize(("every", "hours"), [(1.0, 1), (60.0, 1), (300.0, 3)])
def test_a_leak_is_found_however_seldom_it_is_looked_at(every: float, hours: float) -> None:
    """Times are in time, not in samples."""
    whole = hours * HOUR
    told = Host().feed(lambda s: (40 + 160 * s / whole) * MIB, whole, every)

    assert faults(told) >= {"leaking-memory"}
    assert whole - 1200 < told[0][0] < whole - 500


def test_missing_readings_are_no_values_and_do_not_end_a_forecast() -> None:
    rng = random.Random(5)
    host, told = Host(), []
    for second in range(140):
        if rng.random() < 0.4:
            host.see("process_rss_bytes", (40 + second) * MIB)
        told += [(second, f) for f in host.judge()]
        host.now += 1
    assert told[0][0] < 60
    assert all(abs(f.data["seconds_left"] - (160 - at)) < 12 for at, f in told)


def test_what_is_no_number_is_no_reading() -> None:
    host = Host()
    host.feed(lambda s: (40 + s) * MIB, 40)
    host.see("process_rss_bytes", float("nan"))
    assert host.judge() == []
    host.now += 1
    assert faults(host.feed(lambda s: (81 + s) * MIB, 5)) == {"leaking-memory"}


def test_a_forecast_is_made_from_what_was_seen_and_not_from_how_often_it_was_judged() -> None:
    """Woken turns look at the same old number again and again: that is no new point of the line."""
    host = Host()
    for used in (50, 80):
        host.see("process_rss_bytes", used * MIB)
        for _ in range(60):
            assert host.judge() == [], "two numbers make no line"
            host.now += 0.5


def test_another_process_is_another_line() -> None:
    host = Host()
    host.feed(lambda s: (40 + s) * MIB, 60, process_age_seconds=500.0)
    host.sight.acted("web", host.now)
    host.now += 0.1

    assert host.feed(lambda s: 30 * MIB + s, 60) == []


def test_what_was_asked_before_our_own_action_ended_is_not_judged() -> None:
    host = Host()
    assert faults(host.feed(lambda s: (40 + s) * MIB, 60)) == {"leaking-memory"}
    host.sight.acted("web", host.now)

    assert host.judge() == []


def test_a_restart_by_others_is_seen_by_the_age_of_the_process() -> None:
    host = Host()
    host.feed(lambda s: (40 + s / 2) * MIB, 60)
    began = host.now
    while host.now - began < 60:
        host.see("process_age_seconds", host.now - began)
        host.see("process_rss_bytes", 45 * MIB)
        assert host.judge() == []
        host.now += 0.5


def test_restarts_that_end_a_leak_do_not_make_it_usual() -> None:
    """A process that is restarted at its limit each time goes back, but not by itself."""
    host = Host()
    for _ in range(6):
        told = host.feed(lambda s: (40 + s / 4) * MIB, 600, every=2)
        assert faults(told) == {"leaking-memory"}
        host.sight.acted("web", host.now)
        host.now += 1


def test_descriptors_are_judged_by_the_limit_of_the_process_itself() -> None:
    host = Host(Subject("web"))
    told = host.feed(lambda s: 100 + 5 * s, 190, metric="process_fds", process_fds_limit=1024.0)

    assert told[0][1].fault == "leaking-descriptors"
    assert told[-1][1].fault == "exhausting-descriptors"
    assert str(told[-1][1].healthy_when[0]) == "process_fds < 972.8"


# -- disks, the host and what was named ------------------------------------------------------------------------------


def test_a_disk_that_fills_is_foretold_and_one_that_is_full_is_told() -> None:
    told = Host(Subject("/var")).disk(lambda s: 0.5 + s / 2000, 1000, every=10)

    (_, first), (_, last) = told[0], told[-1]
    assert (first.fault, first.severity) == ("filling-space", Severity.WARNING)
    assert first.data["used"] < 0.62
    assert last.severity is Severity.MAJOR
    assert [str(c) for c in last.healthy_when] == ["disk_free_ratio > 5.0%"]


def test_a_disk_that_is_nearly_full_and_stays_so_is_no_forecast() -> None:
    assert Host(Subject("/var")).disk(lambda s: 0.94, DAY, every=60) == []


def test_a_disk_that_fills_over_days_is_told_hours_before() -> None:
    told = Host(Subject("/var")).disk(lambda s: 0.2 + 0.8 * s / (3 * DAY), 3 * DAY - 5 * HOUR, every=120)
    assert told == [], "there is more than a day's work until then"
    host = Host(Subject("/var"), disk_lead="12h")
    told = host.disk(lambda s: 0.2 + 0.8 * s / (3 * DAY), 3 * DAY - 5 * HOUR, every=120)

    first, found = told[0]
    assert 3 * DAY - first == pytest.approx(12 * HOUR, rel=0.1)
    assert found.data["days_known"] is True
    assert "space ends in about 12 h (" in found.summary


def test_swap_that_runs_full_is_foretold_and_swap_that_is_full_is_not() -> None:
    host = Host(Subject("host"))
    told = host.feed(lambda s: 0.1 + s / 400, 300, 2, "swap_used_ratio", "host")

    assert faults(told) == {"filling-swap"}
    assert Host(Subject("host")).feed(lambda s: 0.99, 7200, 30, "swap_used_ratio", "host") == []


def test_the_hosts_memory_is_foretold_under_the_name_it_has_when_it_is_gone() -> None:
    told = Host(Subject("host")).feed(lambda s: 0.9 - s / 400, 350, 2, "memory_available_ratio", "host")

    assert faults(told) == {"host-memory"}
    assert {f.severity for _, f in told} == {Severity.WARNING, Severity.MAJOR}


def test_a_queue_that_was_named_is_foretold_by_its_own_capacity() -> None:
    resources = {"orders": {"metric": "queue_length", "full_metric": "queue_capacity", "subjects": ["w*"]}}
    host = Host(Subject("web"), Subject("other"), resources=resources)
    assert host.feed(lambda s: 100 + 10 * s, 20, metric="queue_length") == [], "its capacity is not known"
    host.now += HOUR
    assert host.feed(lambda s: 100 + 4 * s, 100, 1, "queue_length", "other", queue_capacity=1000) == []
    told = host.feed(lambda s: 100 + 4 * s, 224, 1, "queue_length", queue_capacity=1000)

    assert faults(told) == {"filling-orders"}
    assert "web: orders ends in about" in told[0][1].summary
    assert told[-1][1].severity is Severity.MAJOR
    assert str(told[-1][1].healthy_when[0]) == "queue_length < 950"


@pytest.mark.parametrize("more", [{}, {"full": 20}])
def test_a_pool_that_drains_is_foretold(more: dict[str, float]) -> None:
    """Without a word on how much there is when nothing is used, it is the most that was seen."""
    host = Host(resources={"pool": {"metric": "connections_free", "empties_at": 0, **more}})
    told = host.feed(lambda s: 20 - s / 30, 595, 1, "connections_free")

    assert faults(told) == {"draining-pool"}
    first, found = told[0]
    assert found.data["seconds_left"] == pytest.approx(600 - first, rel=0.1)
    (judged,) = judged_of(found.data)
    assert judged.named == "seconds until none is left" and judged.low is not None and judged.high is None
    assert str(told[-1][1].healthy_when[0]) == "connections_free > 1"


@pytest.mark.parametrize(
    ("resource", "sentence"),
    [
        ({"metric": "q"}, "when is 'q' used up? Give full, full_metric or empties_at"),
        ({"metric": "q", "full": 5, "full_metric": "c"}, "give either full or full_metric for 'q', not both"),
        ({"metric": "q", "full": 5, "empties_at": 5}, "full (5) must lie above empties_at (5)"),
        ({"metric": "q", "full": 0}, "full (0) must lie above 0 (0)"),
        ({"metric": "q", "ful": 5}, "Extra inputs are not permitted"),
    ],
)
def test_a_resource_that_cannot_be_judged_is_refused(resource: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as error:
        forecast.Config.model_validate({"resources": {"queue": resource}})
    assert sentence in str(error.value)


def test_what_was_named_is_judged_at_once_when_it_is_used_up() -> None:
    resources = {
        "queue": {"metric": "queue_length", "full": 1000},
        "pool": {"metric": "free", "full": 21, "empties_at": 1},
    }
    host = Host(resources=resources)
    assert isinstance(host.analyzer, Alarmed)
    alarms = [str(c) for c in host.analyzer.alarms(host.sight.subjects)]

    assert alarms == [
        "web process_rss_bytes >= 132.0 MiB",
        "process_fds_ratio >= 66.0%",
        "queue_length >= 950",
        "free <= 2",
    ]


@pytest.mark.parametrize("entry", [{"use": "exhaustion"}, {}, {"enabled": False}])
def test_who_still_asks_for_exhaustion_is_told_what_took_its_place(entry: dict[str, Any]) -> None:
    name = "mine" if "use" in entry else "exhaustion"
    chosen, (problem,) = choose("analyzers", {name: entry})

    assert not chosen
    assert "no analyzer is called 'exhaustion' any more; 'forecast' took its place" in str(problem)


# -- days ------------------------------------------------------------------------------------------------------------


def office(seconds: float) -> float:
    """Rises steeply in the morning, falls in the evening, from Monday to Friday."""
    hour, day = seconds / HOUR % 24, seconds // DAY % 7
    rise = 1 / (1 + exp(-(hour - 9) / 0.4)) - 1 / (1 + exp(-(hour - 18) / 0.6))
    return 0.3 + (0.5 if day < 5 else 0.05) * rise


def rotated(seconds: float) -> float:
    """A log that grows by day and is rotated at two in the morning."""
    return 0.25 + 0.6 * ((seconds - 2 * HOUR) % DAY) / DAY


def wave(seconds: float) -> float:
    return 0.5 + 0.35 * sin(2 * pi * seconds / DAY)


def stairs(seconds: float) -> float:
    """A cache that is cleaned every three hours."""
    return 0.3 + 0.5 * (seconds / (3 * HOUR) % 1)


EVERY_DAY = pytest.mark.parametrize("shape", [office, rotated, wave, stairs])


@EVERY_DAY
def test_what_comes_and_goes_every_day_is_no_leak(shape: Callable[[float], float]) -> None:
    rng = random.Random(1)
    host = Host(Subject("/var"))

    assert host.disk(lambda s: shape(s) + rng.gauss(0, 0.002), 9 * DAY, every=300) == []


@EVERY_DAY
def test_a_leak_on_top_of_what_comes_and_goes_every_day_is_found(shape: Callable[[float], float]) -> None:
    host, began = Host(Subject("/var")), 4 * DAY + 4 * HOUR
    assert host.disk(shape, began, every=300) == []
    told = host.disk(lambda s: min(0.94, shape(began + s) + s / (3 * HOUR)), 2.5 * HOUR, every=60)

    assert faults(told) == {"filling-space"}
    assert told[0][1].data["used"] < 0.88
    assert told[0][1].data["seconds_left"] > 900


def test_a_slow_leak_that_lifts_the_days_is_found_when_a_day_will_not_fit_any_more() -> None:
    """Each day's growth is as ever, but it begins higher each morning."""
    host = Host(Subject("/var"))

    def lifted(seconds: float) -> float:
        return 0.7 * office(seconds % DAY) + 0.12 * (seconds // DAY)

    assert host.disk(lifted, 4 * DAY, every=300) == []
    told = host.disk(lambda s: lifted(4 * DAY + s), 12 * HOUR, every=300)
    foretold = [(at, found) for at, found in told if found.severity is Severity.WARNING]

    assert faults(told) == {"filling-space"}
    assert foretold[0][0] < told[-1][0] - HOUR
    assert foretold[0][1].data["used"] < 0.85


def test_a_real_fill_up_is_found_on_the_first_day_as_well() -> None:
    host = Host(Subject("/var"))
    assert host.disk(lambda s: 0.4, HOUR, every=30) == []
    told = host.disk(lambda s: 0.4 + s / 1500, 800, every=30)

    assert faults(told) == {"filling-space"}
    assert told[0][0] < 400
    (judged,) = judged_of(told[0][1].data)
    assert judged.limit == 900


def test_the_days_survive_a_restart_of_the_daemon() -> None:
    host = Host(Subject("/var"))
    host.disk(office, 3 * DAY, every=300)
    after = host.again()
    began = 3 * DAY + 600

    assert isinstance(after.analyzer, Learner)
    assert after.disk(lambda s: office(began + s), 20 * HOUR, every=300) == []
    fresh = Host(Subject("/var"), disk_lead="4h")
    fresh.offset = after.offset
    assert fresh.analyzer.learnt() != after.analyzer.learnt()


def test_a_gap_is_missing_time_and_no_growth() -> None:
    """Down for ten hours, and back with twice as much in use: what rose meanwhile is not known to be a trend."""
    host = Host(Subject("/var"))
    host.disk(lambda s: 0.3, 3 * DAY, every=300)
    after = host.again(gap=10 * HOUR)
    assert after.disk(lambda s: 0.6, 5 * HOUR, every=60) == []
    host.now += 10 * HOUR
    assert host.disk(lambda s: 0.6, 5 * HOUR, every=60) == []


def test_a_clock_that_is_set_by_years_forgets_the_days_and_nothing_breaks() -> None:
    runway = Runway(900)
    for hour in range(60):
        runway.take(hour * HOUR, 0.3, MIDNIGHT + hour * HOUR)
    assert runway.knows_days
    runway.take(61 * HOUR, 0.3, MIDNIGHT + 4000 * DAY)
    assert not runway.knows_days
    runway.take(62 * HOUR, 0.3, MIDNIGHT)
    assert runway.hour == MIDNIGHT // HOUR


# -- learning --------------------------------------------------------------------------------------------------------


def verdict(finding: Finding, right: bool, at: float) -> Lesson:
    return Lesson("verdict", "judge", "inc-1", right, finding.data, at=at)


def test_a_false_alarm_asks_for_twice_the_pace_next_time_and_a_right_one_takes_that_back() -> None:
    def slope_at_first_finding(host: Host) -> float:
        for hundredths in range(5, 100):
            host.sight.acted("web", host.now)
            host.now += 1
            if told := host.feed(lambda s, h=hundredths: (100 + s * h / 100) * MIB, 300, every=5):
                assert told[0][1].fault == "leaking-memory"
                return hundredths / 100
        raise AssertionError("nothing was found")

    host = Host()
    usual = slope_at_first_finding(host)
    told = host.feed(lambda s: (100 + s) * MIB, 60)
    said = host.analyzer.teach(verdict(told[-1][1], False, host.wall))
    assert "memory of web must run out 2 times as soon" in said
    careful = slope_at_first_finding(host)
    assert careful >= 1.5 * usual
    assert slope_at_first_finding(host.again()) == pytest.approx(careful, rel=0.1), "a restart forgets no lesson"
    assert host.analyzer.teach(verdict(told[-1][1], True, host.wall)) == "memory of web is announced as usual"
    assert slope_at_first_finding(host) == usual


def test_a_lesson_about_something_else_teaches_nothing() -> None:
    host = Host()
    host.see("process_rss_bytes", LIMIT)
    (over,) = host.judge()

    assert "nothing is learnt" in host.analyzer.teach(verdict(over, False, host.wall))
    assert host.analyzer.teach(Lesson("verdict", right=False, data={"metric": "load1"})) == ""
    assert host.analyzer.teach(Lesson("learnt", body=b"what others know")) == ""


def test_carefulness_ends_after_a_fortnight() -> None:
    host = Host()
    told = host.feed(lambda s: (40 + s) * MIB, 60)
    for _ in range(9):
        said = host.analyzer.teach(verdict(told[-1][1], False, host.wall))
    assert "8 times" in said
    before = host.analyzer.learnt()
    host.sight.forget(["web"])
    host.now += 15 * DAY
    host.judge()

    assert len(host.analyzer.learnt()) < len(before), "neither the lesson nor the series is kept any longer"


def test_what_was_learnt_comes_back_as_it_was() -> None:
    host = Host(resources={"pool": {"metric": "free", "empties_at": 0}})
    host.feed(lambda s: (60 + 40 * (s / HOUR % 1)) * MIB, 30 * HOUR, every=300, free=10.0)
    kept = host.analyzer.learnt()
    other = Host(resources={"pool": {"metric": "free", "empties_at": 0}})
    other.analyzer.take_up(kept, host.wall)

    assert other.analyzer.learnt() == kept
    with pytest.raises(ValueError, match="does not begin as"):
        other.analyzer.take_up(b"{}", host.wall)
    for cut in range(len(forecast.MAGIC) + 1, len(kept), 97):
        with pytest.raises(ValueError, match="ends in the middle"):
            other.analyzer.take_up(kept[:cut], host.wall)
    assert other.analyzer.learnt() == kept, "what cannot be read changes nothing"


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_whatever_bytes_were_kept_they_are_read_or_refused(kept: bytes) -> None:
    host = Host()
    for body in (kept, forecast.MAGIC + kept):
        try:
            host.analyzer.take_up(body, host.wall)
        except ValueError as error:
            assert str(error)
        host.see("process_rss_bytes", 50 * MIB)
        host.judge()


def test_a_series_needs_little_room_whatever_it_did() -> None:
    rng = random.Random(3)
    runways = []
    tracemalloc.start()
    for _ in range(20):
        runway = Runway(4 * HOUR)
        for second in range(0, int(2 * DAY), 60):
            runway.take(second, rng.random(), MIDNIGHT + second)
        runways.append(runway)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert size / len(runways) < 8192
    assert len(runways[0].pack()) < 4 * SLOTS + 2 * DAYS * 24


# -- whatever comes --------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=80), st.floats(0.1, 60))
@settings(max_examples=60, deadline=None)
def test_whatever_a_series_does_the_judgement_is_finite_and_never_negative(values: list[float], every: float) -> None:
    host = Host(Subject("web"))
    for value in values:
        host.see("disk_free_ratio", value)
        for found in host.judge():
            assert 0 <= found.data.get("seconds_left", 0) <= 1.4 * 900
            assert found.data.get("earliest", 0) <= found.data.get("seconds_left", 0)
            assert found.since <= host.now
            assert all(isfinite(one.number) for one in judged_of(found.data))
        host.now += every


@given(st.lists(st.floats(0, 0.9), min_size=10, max_size=80), st.floats(0.5, 600), st.floats(0, 0.001))
@settings(max_examples=60, deadline=None)
def test_what_falls_or_stays_is_never_found(values: list[float], every: float, noise: float) -> None:
    host = Host(Subject("web"))
    for number, value in enumerate(sorted(values, reverse=True)):
        host.see("disk_free_ratio", 1.0 - value + noise * (number % 2))
        assert host.judge() == []
        host.now += every


def leaks(kind: str, rng: random.Random, life: float) -> list[float]:
    """Shares every second until all is used, from 0.2 on, of a leak that takes about that long."""
    pace, walked, shares = 0.8 / life, 0.0, []
    spread, tooth, period = rng.uniform(0.002, 0.02), rng.uniform(0.02, 0.1), rng.uniform(life / 60, life / 12)
    while not shares or shares[-1] < 1.0:
        second = len(shares) + 1
        line = 0.2 + pace * second
        if kind == "linear":
            shares.append(line + rng.gauss(0, spread))
        elif kind == "wandering":
            memory = exp(-50 / life)
            walked = memory * walked + rng.gauss(0, 2 * spread * sqrt(1 - memory * memory))
            shares.append(line + walked)
        elif kind == "in portions":
            walked += 0.01 * rng.expovariate(1) if rng.random() < 100 * pace else 0.0
            shares.append(0.2 + walked)
        else:
            shares.append(line + tooth * (second / period % 1))
    return shares


@pytest.mark.parametrize("kind", ["linear", "wandering", "in portions", "collected"])
def test_the_band_holds_the_truth_in_most_cases(kind: str) -> None:
    """Calibration: nine of ten is what it says; random walks make that a little less."""
    rng = random.Random(11)
    inside = judged = 0
    for _ in range(16):
        runway, shares = Runway(900), leaks(kind, rng, rng.uniform(150, 600))
        found_before = False
        for second, share in enumerate(shares[:-1]):
            runway.take(second, share, 0.0)
            if second % 5:
                continue
            found = runway.outlook(second, 0.0, 900, 0.05, 0.8)
            if found is not None and (not found_before or second % 25 == 0):
                truth = len(shares) - 1 - second
                judged += 1
                inside += found.earliest <= truth <= found.latest
            found_before = found is not None
    assert judged >= 16 * 4
    assert inside / judged >= 0.85


def test_the_confidence_rises_as_a_leak_goes_on() -> None:
    rng = random.Random(7)
    runway, found = Runway(900), []
    for second in range(400):
        runway.take(second, 0.2 + second / 600 + rng.gauss(0, 0.02), 0.0)
        one = runway.outlook(second, 0.0, 900, 0.05, 0.8)
        if one is not None:
            found.append(one)
    widths = [one.latest - one.earliest for one in found]

    assert found[-1].confidence > 0.95
    assert widths[-1] < widths[0] / 4
    assert all(one.earliest <= one.likely <= one.latest for one in found)
    assert all(later.since >= earlier.since - 1 for earlier, later in pairwise(found))
