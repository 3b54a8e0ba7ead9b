"""Learnt baselines in the daemon: what is unusual is told of each subject, and operators teach it what is not."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from pydantic import ValidationError

from x0tta6bl4.analyzers._series import Patterns, Rates, Seats
from x0tta6bl4.analyzers.baseline import Baseline, Baselines, Config
from x0tta6bl4.analyzers.host import Config as HostConfig
from x0tta6bl4.analyzers.host import HostAnalyzer
from x0tta6bl4.kernel.facts import Finding, Observation
from x0tta6bl4.kernel.judged import judged_of
from x0tta6bl4.kernel.lessons import Learner, Lesson, Matures, Progress
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.signals import Bands
from x0tta6bl4.kernel.subjects import Subject

DAY = 86400.0
STEP = 300.0
WALL = 1_700_000_000.0


@dataclass
class Days:
    """Time in a host's life: what its monitors say every five minutes, and what an analyzer makes of it."""

    analyzer: Baseline | HostAnalyzer
    sight: Sight = field(default_factory=lambda: Sight({"web": Subject("web"), "db": Subject("db")}))
    now: float = 0.0
    found: list[tuple[float, Finding]] = field(default_factory=list)

    def live(self, seconds: float, says: Callable[[float], Mapping[tuple[str, str], float]]) -> list[Finding]:
        """Until then; the findings of the last look."""
        last: list[Finding] = []
        until = self.now + seconds
        while self.now < until:
            self.now += STEP
            seen = [Observation("eyes", *series, value) for series, value in says(self.now).items()]
            self.sight.record(seen, self.now)
            last = self.look()
        return last

    def look(self, scope: frozenset[str] | None = None) -> list[Finding]:
        view = View(self.sight, self.now, scope, (), WALL + self.now)
        last = list(self.analyzer.analyze(view))
        self.found += [(self.now, finding) for finding in last]
        return last


def noise(seed: int = 7) -> Iterator[float]:
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.normal(0, 1, 256).tolist()


def steady(
    level: float = 100.0, spread: float = 2.0, seed: int = 7
) -> Callable[[float], Mapping[tuple[str, str], float]]:
    dice = noise(seed)
    return lambda now: {("web", "latency_ms"): level + spread * next(dice), ("db", "rows"): 50.0 + next(dice)}


def settled(config: Config | None = None) -> Days:
    days = Days(Baseline("baseline", config or Config()))
    days.live(4 * DAY, steady())
    days.found.clear()
    return days


def test_a_new_series_is_learnt_before_it_is_judged() -> None:
    days = Days(Baseline("baseline", Config()))
    days.live(0.5 * DAY, steady())
    days.live(0.2 * DAY, steady(500.0))

    assert days.found == []
    assert isinstance(days.analyzer, Baseline)
    assert Progress(2, 2) == days.analyzer.progress()


def test_a_value_far_from_where_it_usually_is_is_told_with_its_band_and_its_number() -> None:
    days = settled()
    (finding,) = days.live(STEP, steady(300.0))
    (judged,) = judged_of(finding.data)

    assert ("baseline", "web", "unusual", "info") == (
        finding.analyzer, finding.subject, finding.fault, finding.severity)  # fmt: skip
    assert judged.low is not None
    assert judged.high is not None
    assert 70 < judged.low < judged.high < 140 < judged.value
    assert judged.number >= judged.limit > 0
    assert "novelty" == judged.named
    assert judged.otherwise.startswith("latency_ms between ")
    assert ["latency_ms"] == [condition.metric for condition in finding.healthy_when]
    assert "latency_ms" == finding.data["causes"][0]["name"]
    assert "latency_ms" in finding.summary


def test_it_is_over_when_the_value_is_back_and_when_it_has_become_usual() -> None:
    back, new = settled(), settled(Config(longest=2 * 3600.0))
    for days in (back, new):
        days.live(STEP, steady(300.0))
    back.live(3 * STEP, steady(seed=8))
    new.live(3 * 3600.0, steady(300.0, seed=8))

    assert back.look() == []
    assert new.look() == []


def test_what_stays_where_it_went_is_told_once_more_without_signs_so_that_its_incident_ends() -> None:
    days = settled(Config(longest=2 * 3600.0))
    days.live(4 * 3600.0, steady(300.0))
    told = [finding for _, finding in days.found]

    assert all(finding.healthy_when for finding in told[:-1])
    assert ((), True) == (told[-1].healthy_when, told[-1].summary.endswith("by now it counts as usual"))


def test_a_new_process_that_is_smaller_than_the_old_one_is_not_unusual_and_a_larger_one_is() -> None:
    def life(level: float, age: float) -> Callable[[float], Mapping[tuple[str, str], float]]:
        dice = noise()
        return lambda now: {
            ("web", "process_rss_bytes"): level + next(dice),
            ("web", "process_age_seconds"): age,
        }

    found = {}
    for level, age in ((50.0, 3600.0), (50.0, 3 * DAY), (200.0, 3600.0)):
        days = Days(Baseline("baseline", Config()))
        days.live(4 * DAY, life(100.0, 9 * DAY))
        days.found.clear()
        days.live(3 * STEP, life(level, age))
        found[level, age] = bool(days.found)

    assert {(50.0, 3600.0): False, (50.0, 3 * DAY): True, (200.0, 3600.0): True} == found


def test_several_numbers_far_from_usual_for_minutes_are_a_warning_and_two_names_for_one_number_are_not() -> None:
    def three(factor: float, *moved: str) -> Callable[[float], Mapping[tuple[str, str], float]]:
        dice = noise()
        metrics = ("disk_free_bytes", "disk_free_ratio", "errors")
        return lambda now: {("web", m): (factor if m in moved else 1.0) * (100 + next(dice)) for m in metrics}

    said = []
    for moved in (("disk_free_bytes", "disk_free_ratio"), ("disk_free_ratio", "errors")):
        days = Days(Baseline("baseline", Config()))
        days.live(3 * DAY, three(1.0))
        (first,) = days.live(STEP, three(5.0, *moved))
        (later,) = days.live(2 * STEP, three(5.0, *moved))
        said.append((first.severity, later.severity))

    assert [("info", "info"), ("info", "warning")] == said


def test_a_woken_turn_tells_what_is_unusual_and_learns_nothing() -> None:
    days = settled()
    days.live(STEP, steady(300.0))
    before = days.analyzer.learnt()

    assert ["web"] == [finding.subject for finding in days.look(frozenset({"web"}))]
    assert days.look(frozenset({"db"})) == []
    assert before == days.analyzer.learnt()


def test_all_that_is_unusual_about_a_subject_is_one_finding() -> None:
    days = Days(Baseline("baseline", Config()))

    def two(factor: float) -> Callable[[float], Mapping[tuple[str, str], float]]:
        dice = noise()
        return lambda now: {("web", "a"): factor * (100 + next(dice)), ("web", "b"): factor * (200 + next(dice))}

    days.live(3 * DAY, two(1.0))
    (finding,) = days.live(STEP, two(4.0))
    judged = judged_of(finding.data)

    assert {"a", "b"} == {one.metric for one in judged}
    assert math.isclose(1.0, sum(one.share for one in judged), abs_tol=1e-6)
    assert "and 1 more" in finding.summary


def test_a_false_alarm_quietens_the_series_at_once_and_a_right_one_does_not() -> None:
    wrong, right = settled(), settled()
    says = {}
    for days, is_right in ((wrong, False), (right, True)):
        (finding,) = days.live(STEP, steady(300.0))
        assert isinstance(days.analyzer, Learner)
        says[is_right] = days.analyzer.teach(Lesson("verdict", right=is_right, data=finding.data, who="oncall"))
    limits = [judged_of(days.found[0][1].data)[0].limit for days in (wrong, right)]
    now = [
        float(days.analyzer.known.engine.limits[0]) for days in (wrong, right) if isinstance(days.analyzer, Baseline)
    ]

    assert [()] == [finding.healthy_when for finding in wrong.look()], "its incident has nothing to wait for any more"
    assert wrong.look() == []
    assert ["web"] == [finding.subject for finding in right.look()]
    assert now[0] > judged_of(wrong.found[0][1].data)[0].number > limits[0]
    assert now[1] <= limits[1] * 1.0001
    assert "web latency_ms is unusual from a novelty of" in says[False]


def test_the_last_word_on_an_incident_is_the_one_that_counts() -> None:
    once, often = settled(), settled()
    (finding,) = once.live(STEP, steady(300.0))
    often.live(STEP, steady(300.0))

    def say(days: Days, *words: bool) -> float:
        for right in words:
            days.analyzer.teach(Lesson("verdict", right=right, incident="inc-1", data=finding.data, who="oncall"))
        assert isinstance(days.analyzer, Baseline)
        return float(days.analyzer.known.engine.limits[0])

    assert say(once, True) == pytest.approx(say(often, False, False, True, True))


def test_learning_from_history_keeps_what_people_said() -> None:
    days, elsewhere = settled(), settled()
    (finding,) = days.live(STEP, steady(300.0))
    days.analyzer.teach(Lesson("verdict", right=False, data=finding.data, who="oncall"))
    assert isinstance(days.analyzer, Baseline)
    before = days.analyzer.known.engine.limits.tolist()
    days.analyzer.teach(Lesson("learnt", body=elsewhere.analyzer.learnt(), who="oncall", at=WALL + days.now))

    assert before == pytest.approx(days.analyzer.known.engine.limits.tolist())
    assert before[0] > 1.0


def test_the_band_of_a_share_lies_between_nothing_and_all() -> None:
    days, dice = Days(Baseline("baseline", Config())), noise()
    days.live(3 * DAY, lambda now: {("web", "busy_ratio"): min(1.0, max(0.0, 0.03 + 0.02 * next(dice)))})
    assert isinstance(days.analyzer, Baseline)
    ((_, low, high), _) = days.analyzer.band("web", "busy_ratio", 1.0, 2.0)
    (near,) = days.analyzer.nearest("web")

    assert 0.0 <= low < high <= 1.0
    assert (low, high) == (near.low, near.high)


def test_a_lesson_about_others_changes_nothing() -> None:
    days = settled()
    before = days.analyzer.learnt()

    assert "" == days.analyzer.teach(Lesson("verdict", right=False, data={"judged": [{"nix": 1}]}, who="oncall"))
    assert "" == days.analyzer.teach(Lesson("learnt", who="oncall"))
    assert before == days.analyzer.learnt()


def test_what_was_learnt_is_known_to_the_next_life_and_to_others() -> None:
    first = settled()
    later, shared = Days(Baseline("baseline", Config())), Days(Baseline("baseline", Config()))
    later.analyzer.take_up(first.analyzer.learnt(), WALL)
    said = shared.analyzer.teach(Lesson("learnt", body=first.analyzer.learnt(), who="oncall"))
    for days in (later, shared):
        days.now = first.now

    assert "baseline took over what was learnt of 2 series" == said
    for days in (first, later, shared):
        (finding,) = days.live(STEP, steady(300.0))
        assert "web" == finding.subject


def test_one_series_of_many_can_be_shared_and_forgotten() -> None:
    days = settled()
    assert isinstance(days.analyzer, Baseline)
    known = Baselines(Config())
    taken = known.merge(days.analyzer.known.pack([("db", "rows")]))
    said = days.analyzer.teach(Lesson("learnt", data={"forget": ["web/*"]}, who="oncall"))

    assert [("db", "rows")] == taken == list(known.seats.row_of)
    assert "baseline begins anew with 1 series" == said
    assert Progress(1, 0) == days.analyzer.progress()


@pytest.mark.parametrize("body", [b"", b"nothing of ours", b"x0ttaLRN" + b"\x00" * 40])
def test_what_cannot_be_read_is_refused_and_changes_nothing(body: bytes) -> None:
    days, host = settled(), settled_host()
    for analyzer in (days.analyzer, host.analyzer):
        before = analyzer.learnt()
        with pytest.raises(ValueError, match=r"\w"):
            analyzer.take_up(body, WALL)

        assert before == analyzer.learnt()


def test_what_a_host_learnt_is_no_baseline_and_the_other_way_round() -> None:
    days, host = settled(), settled_host()
    with pytest.raises(ValueError, match="was not learnt by a baseline"):
        days.analyzer.take_up(host.analyzer.learnt(), WALL)
    with pytest.raises(ValueError, match="was not learnt by a judge of hosts"):
        host.analyzer.take_up(days.analyzer.learnt(), WALL)


def test_numbers_of_a_process_that_has_just_begun_are_neither_learnt_nor_judged() -> None:
    days = settled()
    wild, calm = steady(900.0), steady(seed=9)
    days.live(STEP, lambda now: {**wild(now), ("web", "process_age_seconds"): 30.0})

    assert days.look() == []
    days.live(STEP, lambda now: {**calm(now), ("web", "process_age_seconds"): 330.0})
    assert days.found == []


def test_counters_are_judged_by_their_rate_and_a_restart_is_no_spike() -> None:
    days = Days(Baseline("baseline", Config()))
    dice, total = noise(), [0.0]

    def counting(rate: float) -> Callable[[float], Mapping[tuple[str, str], float]]:
        def says(now: float) -> Mapping[tuple[str, str], float]:
            total[0] += STEP * (rate + next(dice) * 0.1)
            return {("web", "requests_total"): total[0]}

        return says

    days.live(3 * DAY, counting(10.0))
    total[0] = 0.0
    days.live(0.2 * DAY, counting(10.0))
    quiet = list(days.found)
    found = days.live(2 * STEP, counting(40.0))

    assert quiet == []
    (judged,) = judged_of(found[0].data)
    assert 30 < judged.value < 50
    assert isinstance(days.analyzer, Baseline)
    assert days.analyzer.band("web", "requests_total", 0, 1) == ()


def test_yes_or_no_answers_and_running_clocks_have_no_baseline() -> None:
    known = Baselines(Config())
    names = [("web", "process_up"), ("web", "process_age_seconds"), ("x", "tls_seconds_left"), ("web", "load1")]
    known.update(names, [1.0] * 4, WALL)

    assert [("web", "load1")] == list(known.seats.row_of)


def test_a_chart_gets_the_band_of_a_series_that_is_learnt() -> None:
    days = settled()
    assert isinstance(days.analyzer, Bands)
    band = days.analyzer.band("web", "latency_ms", 1.0, 2.0)

    assert [1.0, 2.0] == [at for at, _, _ in band]
    assert all(70 < low < 100 < high < 130 for _, low, high in band)
    assert days.analyzer.band("web", "nix", 1.0, 2.0) == ()


def test_who_is_well_can_be_asked_how_far_it_is_from_a_finding() -> None:
    days = settled()
    assert isinstance(days.analyzer, Baseline)
    (near,) = days.analyzer.nearest("web")

    assert ("web", "latency_ms") == (near.subject, near.metric)
    assert near.number < near.limit
    assert days.analyzer.nearest("nobody") == []


def test_series_that_come_and_go_by_the_thousand_leave_nothing_behind() -> None:
    known = Baselines(Config(most_series=500))
    for hour in range(60):
        names = [(f"pod-{hour}-{n}", "cpu") for n in range(100)]
        known.update(names, np.arange(100.0), WALL + hour * 3600.0)
        known.sweep(WALL + hour * 3600.0)

    assert len(known.seats) <= 300
    assert known.engine.nbytes < 600 * 1024


def test_nobody_is_forgotten_because_the_daemon_was_off_for_a_month() -> None:
    first, later = settled(), Days(Baseline("baseline", Config()))
    later.analyzer.take_up(first.analyzer.learnt(), WALL)
    taught = Days(Baseline("baseline", Config()))
    taught.analyzer.teach(Lesson("learnt", body=first.analyzer.learnt(), who="oncall", at=WALL + first.now + 30 * DAY))
    for days in (later, taught):
        days.now = first.now + 30 * DAY
        days.live(STEP, lambda now: {("web", "other"): 1.0})
        days.live(DAY, lambda now: {("web", "other"): 1.0})
        assert isinstance(days.analyzer, Baseline)
        known = set(days.analyzer.known.seats.row_of)
        days.live(14 * DAY, lambda now: {("web", "other"): 1.0})

        assert {("web", "latency_ms"), ("db", "rows"), ("web", "other")} == known
        assert [("web", "other")] == list(days.analyzer.known.seats.row_of)


def test_beyond_its_room_series_are_left_out_and_counted() -> None:
    known = Baselines(Config(most_series=10))
    known.update([("a", f"m{n}") for n in range(25)], [1.0] * 25, WALL)

    assert (10, 15) == (len(known.seats), known.seats.turned_away)


def test_midnight_is_that_of_the_time_zone() -> None:
    known = Baselines(Config(timezone="Asia/Kolkata"))

    assert 5.5 * 3600 == known.local(WALL) - WALL
    with pytest.raises(ValidationError, match="is no time zone"):
        Config(timezone="Mars/Olympus")


# Many numbers of one subject


def odd(much: float, seed: int = 3) -> Callable[[float], Mapping[tuple[str, str], float]]:
    dice = noise(seed)
    return lambda now: {("web", f"m{n}"): 100.0 + next(dice) + (much if n < 4 else 0.0) for n in range(10)}


def settled_host(config: HostConfig | None = None) -> Days:
    days = Days(HostAnalyzer("host", config or HostConfig()))
    days.live(4 * DAY, odd(0.0))
    days.found.clear()
    return days


def test_a_subject_that_is_odd_in_many_ways_is_told_with_the_share_of_each() -> None:
    days = settled_host()
    found = days.live(4 * STEP, odd(12.0))
    judged = judged_of(found[0].data)

    assert [("host", "web", "strange", "warning")] == [(f.analyzer, f.subject, f.fault, f.severity) for f in found]
    assert {"m0", "m1", "m2", "m3"} == {one.metric for one in judged[:4]}
    assert sum(one.share for one in judged) == pytest.approx(1.0, abs=0.05)
    assert judged[0].number >= judged[0].limit
    assert {"m0", "m1", "m2", "m3"} == {cause["name"] for cause in found[0].data["causes"][:4]}


def test_a_strange_subject_ends_when_it_is_as_usual_and_a_verdict_quietens_it() -> None:
    ended, judged = settled_host(), settled_host()
    for days in (ended, judged):
        days.live(4 * STEP, odd(12.0))
    ended.live(8 * STEP, odd(0.0, seed=5))
    said = judged.analyzer.teach(Lesson("verdict", right=False, data=judged.found[-1][1].data, who="oncall"))

    assert ended.look() == []
    assert judged.look() == []
    assert said.startswith("web is strange from ")


def test_one_number_that_is_odd_for_a_moment_does_not_make_its_subject_strange() -> None:
    def one(much: float) -> Callable[[float], Mapping[tuple[str, str], float]]:
        dice = noise(3)
        return lambda now: {("web", f"m{n}"): 100.0 + next(dice) + (much if n == 0 else 0.0) for n in range(4)}

    days = Days(HostAnalyzer("host", HostConfig()))
    days.live(4 * DAY, one(0.0))
    days.found.clear()
    at_once = days.live(STEP, one(500.0))
    at_last = days.live(STEP, one(500.0))

    assert at_once == []
    assert [("strange", days.now - STEP)] == [(finding.fault, finding.since) for finding in at_last]


def test_a_host_is_known_to_the_next_life() -> None:
    first, later = settled_host(), Days(HostAnalyzer("host", HostConfig()))
    later.analyzer.take_up(first.analyzer.learnt(), WALL)
    later.now = first.now

    assert isinstance(later.analyzer, HostAnalyzer)
    assert Progress(1, 0) == later.analyzer.progress()
    assert ["web"] == [finding.subject for finding in later.live(4 * STEP, odd(12.0))]


def test_a_subject_of_few_numbers_is_not_judged_as_a_whole() -> None:
    days = Days(HostAnalyzer("host", HostConfig()))
    days.live(DAY, steady())

    assert isinstance(days.analyzer, HostAnalyzer)
    assert Progress(0, 0) == days.analyzer.progress()


def test_subjects_that_go_make_room_for_others() -> None:
    analyzer = HostAnalyzer("host", HostConfig(most_series=100))
    days = Days(analyzer)
    for hour in range(40):
        days.sight = Sight()
        days.live(3600.0, lambda now, hour=hour: {(f"pod-{hour}", f"m{n}"): float(n) for n in range(10)})  # type: ignore[misc]

    assert len(analyzer.seats) <= 100
    assert analyzer.progress().known <= 10
    assert set(range(len(analyzer._subject_of))) >= {0}


# Names and rows


def test_a_name_is_wanted_by_one_of_its_patterns_and_none_of_those_against_it() -> None:
    wants = Patterns(["cpu*", "load1"], ["cpu_steal*"])

    assert [True, True, False, False] == [wants(name) for name in ("cpu_busy", "load1", "load5", "cpu_steal_ratio")]
    for n in range(20_000):
        wants(f"name-{n}")
    assert wants("cpu_busy")


def test_rates_are_of_what_counts_up_and_say_nothing_after_a_fall() -> None:
    sight, rates = Sight(), Rates(Patterns(["*_total"], []))
    told: list[Sequence[float]] = []
    for at, value in ((0.0, 10.0), (10.0, 30.0), (10.0, 30.0), (20.0, 5.0), (30.0, 15.0)):
        sight.record([Observation("m", "a", "x_total", value), Observation("m", "a", "y", value)], at)
        told.append(list(rates.of(sight.columns()).values))

    assert [[True, False], [False, False], [True, False], [True, False], [False, False]] == [
        [math.isnan(value) for value in values] for values in told
    ]
    assert (2.0, 30.0) == (told[1][0], told[1][1])
    assert 1.0 == rates.latest("a", "x_total")
    assert rates.latest("a", "y") is None


def test_seats_give_each_new_value_once() -> None:
    sight, count = Sight(), [0]

    def add(names: Sequence[tuple[str, str]]) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
        count[0] += len(names)
        return np.arange(count[0] - len(names), count[0])

    seats = Seats(add, lambda rows: None, 10)
    sight.record([Observation("m", "a", "x", 1.0)], 5.0)
    first = seats.values(sight.columns(), lambda: count[0], WALL)
    again = seats.values(sight.columns(), lambda: count[0], WALL + 1)
    sight.record([Observation("m", "a", "x", 2.0), Observation("m", "b", "x", 3.0)], 6.0)
    third = seats.values(sight.columns(), lambda: count[0], WALL + 2)

    assert [1.0] == first.tolist()
    assert math.isnan(again[0])
    assert [2.0, 3.0] == third.tolist()


def learners() -> Iterator[object]:
    yield Baseline("baseline", Config())
    yield HostAnalyzer("host", HostConfig())


def test_an_analyzer_that_knows_nothing_keeps_nothing() -> None:
    for analyzer in learners():
        assert isinstance(analyzer, Learner)
        assert isinstance(analyzer, Matures)
        assert (b"", Progress(0, 0)) == (analyzer.learnt(), analyzer.progress())
