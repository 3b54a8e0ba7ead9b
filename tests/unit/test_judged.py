"""Findings say in numbers how they came about: the series, its bounds, what decided, and what would have been well."""

import json
from collections.abc import Mapping, Sequence
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0tta6bl4.analyzers.alerts import AlertAnalyzer
from x0tta6bl4.analyzers.liveness import Config as LivenessConfig
from x0tta6bl4.analyzers.liveness import Liveness
from x0tta6bl4.analyzers.threshold import Config, Limit, Threshold
from x0tta6bl4.kernel.facts import Finding, Observation
from x0tta6bl4.kernel.judged import Judged, judged_data, judged_of
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.subjects import Subject


class Eyes:
    """What is seen, at moments that the test says."""

    def __init__(self, *names: str, start_timeout: float = 5.0) -> None:
        self.sight = Sight({name: Subject(name, kind="process", start_timeout=start_timeout) for name in names})

    def sees(self, at: float, subject: str, metric: str, value: float, detail: str = "") -> View:
        self.sight.record([Observation("eyes", subject, metric, value, at, detail)], at, at)
        return View(self.sight, at)


def only(findings: Sequence[Finding]) -> Judged:
    (finding,) = findings
    (judged,) = judged_of(json.loads(json.dumps(dict(finding.data))))
    return judged


# -- the words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("judged", "was", "usual", "otherwise"),
    [
        (Judged("a", "lag", 9.0, 1.0, 2.0), "9", "between 1 and 2", "lag between 1 and 2 would have been no finding"),
        (Judged("a", "lag", 9.0, 2.0, 2.0), "9", "about 2", "lag about 2 would have been no finding; it was 9"),
        (Judged("a", "x_ratio", 0.9, None, 0.5), "90.0%", "up to 50.0%", "x_ratio up to 50.0% would have been no"),
        (Judged("a", "work_up", 0.0, 1.0), "no", "yes", "work_up yes would have been no finding; it was no"),
        (Judged("a", "work_up", 0.0, 1.0, well="an answer"), "no", "yes", "an answer would have been no finding"),
        (Judged("a", "lag", 9.0), "9", "", ""),
    ],
)
def test_the_bounds_are_told_as_a_person_reads_them(judged: Judged, was: str, usual: str, otherwise: str) -> None:
    assert (was, usual) == (judged.was, judged.usual)
    assert judged.otherwise.startswith(otherwise) and bool(judged.otherwise) == bool(otherwise)


def test_the_number_stands_on_the_side_of_its_limit_on_which_it_is_a_finding() -> None:
    left = Judged("disk", "disk_free_bytes", 5e6, number=480.0, limit=900.0, named="seconds until it is full")
    value = Judged("a", "x_bytes", 209715200.0, None, 104857600.0, 209715200.0, 104857600.0, "x_bytes")

    assert "seconds until it is full 480, a finding up to 900" == left.decided
    assert "x_bytes 200.0 MiB, a finding from 100.0 MiB on" == value.decided
    assert (
        "novelty 12346, a finding from 4.5 on"
        == Judged("a", "b", 1, number=12345.6, limit=4.5, named="novelty").decided
    )
    assert "novelty 1.2, a finding from 4.5 on" == Judged("a", "b", 1, number=1.2, limit=4.5, named="novelty").short_of
    assert "" == Judged("a", "b", 1.0).decided == Judged("a", "b", 1.0).short_of


GOOD: Mapping[str, Any] = {"subject": "a", "metric": "b", "value": 1.0}


@pytest.mark.parametrize(
    "bad",
    [
        {"value": "1"},
        {"value": True},
        {"low": "x"},
        {"number": None},
        {"why": 3},
        {"subject": None},
        {"metric": 7},
        {"of_tomorrow": 1},
    ],
)
def test_what_is_not_ours_is_left_out_and_keeps_nothing_else_from_being_told(bad: Mapping[str, Any]) -> None:
    assert [Judged("a", "b", 1.0)] == judged_of({"judged": [{**GOOD, **bad}, GOOD, "nothing"]})


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)
    )
)
def test_whatever_stands_there_is_read_without_an_error(told: Any) -> None:
    assert [] == [one for one in judged_of({"judged": told}) if not isinstance(one, Judged)]


def test_bounds_that_are_none_are_left_out_and_the_rest_is_kept() -> None:
    (told,) = judged_data([Judged("a", "b", 1.0, -inf, nan)])["judged"]
    assert (None, None, 1.0) == (told["low"], told["high"], told["value"])


# -- a service ---------------------------------------------------------------------------------------------------------


def test_of_what_is_gone_it_says_that_a_process_that_runs_would_have_been_well() -> None:
    eyes, liveness = Eyes("web"), Liveness("liveness", LivenessConfig())
    liveness.analyze(eyes.sees(1.0, "web", "process_up", 1.0))
    judged = only(liveness.analyze(eyes.sees(2.0, "web", "process_up", 0.0, "exited with 1")))

    assert ("web", "process_up", "no", "yes") == (judged.subject, judged.metric, judged.was, judged.usual)
    assert "a process that runs would have been no finding" == judged.otherwise
    assert "looks that found it gone 1, a finding from 1 on" == judged.decided


def test_of_silence_it_says_how_long_it_was_and_how_long_it_may_be() -> None:
    eyes, liveness = Eyes("web"), Liveness("liveness", LivenessConfig(silent_for=1.2))
    liveness.analyze(eyes.sees(1.0, "web", "work_up", 1.0))
    assert [] == list(liveness.analyze(eyes.sees(2.0, "web", "work_up", 0.0, "no answer within 1 s")))
    judged = only(liveness.analyze(eyes.sees(2.5, "web", "work_up", 0.0, "no answer within 1 s")))

    assert "a good answer within 1.2 s would have been no finding" == judged.otherwise
    assert "seconds without a good answer 1.5, a finding from 1.2 on" == judged.decided


def test_of_wrong_answers_it_says_how_many_there_were() -> None:
    eyes, liveness = Eyes("web"), Liveness("liveness", LivenessConfig(failures=3, failing_for=0.9))
    liveness.analyze(eyes.sees(1.0, "web", "work_up", 1.0))
    for at in (2.0, 2.5):
        assert [] == list(liveness.analyze(eyes.sees(at, "web", "work_up", 0.0, "status 500")))
    judged = only(liveness.analyze(eyes.sees(3.0, "web", "work_up", 0.0, "status 500")))

    assert "wrong answers in a row 3, a finding from 3 on" == judged.decided
    assert "a good answer among 3 in a row, or within 0.9 s, would have been no finding" == judged.otherwise


def test_of_what_never_answered_since_its_start_the_time_it_has_for_that_is_the_limit() -> None:
    eyes, liveness = Eyes("web", start_timeout=5.0), Liveness("liveness", LivenessConfig())
    assert [] == list(liveness.analyze(eyes.sees(100.0, "web", "work_up", 0.0, "no answer within 1 s")))
    assert [] == list(liveness.analyze(eyes.sees(104.9, "web", "work_up", 0.0, "no answer within 1 s")))
    judged = only(liveness.analyze(eyes.sees(105.5, "web", "work_up", 0.0, "no answer within 1 s")))

    assert "a good answer within 5 s of its start would have been no finding" == judged.otherwise
    assert judged.number >= judged.limit == 5.0


# -- limits ------------------------------------------------------------------------------------------------------------


def threshold(**limit: Any) -> Threshold:
    return Threshold("limits", Config(limits={"lag": Limit(metric="lag", **limit)}, flaps=2, flap_window=60))


def test_a_limit_is_the_bound_and_the_value_decides() -> None:
    eyes = Eyes("db")
    high = only(threshold(above=5).analyze(eyes.sees(1.0, "db", "lag", 7.0)))
    low = only(threshold(below=9, clear=10).analyze(eyes.sees(2.0, "db", "lag", 7.0)))

    assert (None, 5.0, "lag up to 5 would have been no finding; it was 7") == (high.low, high.high, high.otherwise)
    assert "lag 7, a finding from 5 on" == high.decided
    assert (9.0, None, "lag 7, a finding up to 9") == (low.low, low.high, low.decided)
    assert "above the limit lag" == high.why and "below the limit lag" == low.why


def test_what_is_on_its_way_back_is_judged_by_where_it_would_be_well() -> None:
    eyes, limits = Eyes("db"), threshold(above=5, clear=3)
    limits.analyze(eyes.sees(1.0, "db", "lag", 7.0))
    judged = only(limits.analyze(eyes.sees(2.0, "db", "lag", 4.0)))

    assert "lag up to 3 would have been no finding; it was 4" == judged.otherwise
    assert "not back from the limit lag yet" == judged.why


def test_where_it_has_to_last_the_time_decides() -> None:
    eyes, limits = Eyes("db"), threshold(above=5, lasting=30)
    assert [] == list(limits.analyze(eyes.sees(1.0, "db", "lag", 7.0)))
    judged = only(limits.analyze(eyes.sees(41.0, "db", "lag", 7.0)))

    assert "seconds above 5 40, a finding from 30 on" == judged.decided
    assert "lag no longer than 30 s above 5 would have been no finding" == judged.otherwise


def test_where_it_goes_there_and_back_the_crossings_decide() -> None:
    eyes, limits = Eyes("db"), threshold(above=5)
    findings: Sequence[Finding] = []
    for at in range(5):
        findings = limits.analyze(eyes.sees(float(at), "db", "lag", 7.0 if at % 2 == 0 else 1.0))
    assert findings
    judged = only(limits.analyze(eyes.sees(6.0, "db", "lag", 1.0)))

    assert "crossings of 5 within 60 s 3, a finding from 2 on" == judged.decided
    assert "fewer than 2 crossings of 5 within 60 s would have been no finding" == judged.otherwise


def test_an_alert_of_others_would_be_none_by_their_word() -> None:
    judged = only(AlertAnalyzer("alerts").analyze(Eyes("db").sees(1.0, "db", "alert_disk_slow_up", 0.0)))

    assert "the word of whoever raised it that disk-slow is over would have been no finding" == judged.otherwise
    assert "no" == judged.was and "disk-slow" in judged.why
