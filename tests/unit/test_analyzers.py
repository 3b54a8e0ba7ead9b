"""What the shipped analyzers call a fault, and, more important, what they do not."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x0tta6bl4.analyzers import liveness, threshold
from x0tta6bl4.kernel.facts import Finding, Observation, Severity
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.testing.fakes import tools

MIB = 1 << 20
SILENT = "no answer within 1.2 s"
REFUSED = "Connection refused"


class Host:
    """A sight and a clock; what is seen is judged whenever the test asks."""

    def __init__(self, plugin: Any, *subjects: Subject, **config: Any) -> None:
        known = subjects or (Subject("web"),)
        self.sight = Sight({s.name: s for s in known})
        self.analyzer = plugin.build("judge", plugin.config.model_validate(config), tools())
        self.now = 1000.0

    def see(
        self, metric: str, value: float, detail: str = "", subject: str = "web", asked: float | None = None
    ) -> None:
        self.sight.record([Observation("m", subject, metric, value, detail=detail)], self.now, asked)

    def judge(self, after: float = 0.0, scope: frozenset[str] | None = None) -> Sequence[Finding]:
        self.now += after
        found: Sequence[Finding] = self.analyzer.analyze(View(self.sight, self.now, scope))
        return found

    def fault(self, after: float = 0.0) -> str:
        found = self.judge(after)
        assert len(found) <= 1, found
        return found[0].fault if found else ""

    def well(self, seconds: float = 5.0, *metrics: str, every: float = 0.5, subject: str = "web") -> None:
        for _ in range(int(seconds / every)):
            for metric in metrics or ("process_up", "work_up"):
                self.see(metric, 1.0, subject=subject)
            self.judge()
            self.now += every


def alive(*subjects: Subject, **config: Any) -> Host:
    return Host(liveness.PLUGIN, *subjects, **config)


# -- liveness --------------------------------------------------------------------------------------------------------


def test_what_answers_is_no_fault_and_what_was_never_seen_is_none_either() -> None:
    host = alive()
    assert host.judge() == []
    host.well()
    assert host.judge() == []


def test_an_ended_process_is_dead_at_the_first_word() -> None:
    host = alive()
    host.well()
    host.see("process_up", 0.0, "pid 5 was killed by SIGKILL")
    (found,) = host.judge()

    assert (found.fault, found.severity, found.since) == ("dead", Severity.CRITICAL, host.now)
    assert found.summary == "web is dead: pid 5 was killed by SIGKILL"
    assert [str(c) for c in found.healthy_when] == ["process_up >= 1", "work_up >= 1"]


def silence(host: Host, seconds: float, subject: str = "web") -> str:
    """Questions go unanswered from now on: each is known to be so 1.2 s after it was asked."""
    asked, began, fault = host.now, host.now, ""
    while host.now - began < seconds:
        host.now = asked + 1.2
        host.see("work_up", 0.0, SILENT, subject, asked=asked)
        fault = next((f.fault for f in host.judge() if f.subject == subject), fault)
        asked += 0.5
    return fault


def test_silence_of_a_living_process_is_a_hang_at_the_first_unanswered_question() -> None:
    host = alive()
    host.well()
    began = host.now

    assert silence(host, 1.0) == "hung"
    assert host.now - began == pytest.approx(1.2)
    (found,) = host.judge()
    assert found.since == pytest.approx(began - 0.5)
    assert "last good answer 1.7 s ago" in found.summary


def test_one_slow_answer_among_good_ones_is_nothing() -> None:
    host = alive()
    host.well()
    slow = host.now
    host.well(1.2)
    host.see("work_up", 0.0, SILENT, asked=slow)
    assert host.judge() == []


@pytest.mark.parametrize("detail", [REFUSED, "answered 500"])
def test_wrong_answers_must_be_some_and_last_a_while(detail: str) -> None:
    host = alive()
    host.well(35)
    for _ in range(3):
        assert host.fault() == ""
        host.see("work_up", 0.0, detail)
        host.now += 0.45
    assert host.fault() in ("gray", "hung")


def test_wrong_answers_faster_than_they_count_are_waited_out() -> None:
    host = alive()
    host.well(35)
    for _ in range(10):
        host.see("work_up", 0.0, "answered 500")
        host.now += 0.01
    assert host.fault() == ""
    assert host.fault(after=1.0) != ""


def answers(host: Host, status: float) -> None:
    for _ in range(4):
        host.sight.record(
            [
                Observation("m", "web", "work_up", 0.0, detail=f"answered {status:g}"),
                Observation("m", "web", "work_status", status),
            ],
            host.now,
        )
        host.now += 0.5


def test_answers_with_an_error_are_gray() -> None:
    host = alive()
    host.well(35)
    answers(host, 500)

    assert host.fault() == "gray"
    assert host.judge()[0].severity is Severity.MAJOR


def test_health_that_says_yes_while_work_says_no_is_gray() -> None:
    host = alive()
    host.well(35, "process_up", "work_up", "health_up")
    for _ in range(4):
        host.see("work_up", 0.0, REFUSED)
        host.now += 0.1
        host.see("health_up", 1.0)
        host.now += 0.4
    assert host.fault() == "gray"


def test_refused_by_a_living_process_is_hung_and_without_one_it_is_out_of_reach() -> None:
    host, without = alive(), alive()
    host.well(35)
    without.well(35, "work_up")
    for one in (host, without):
        for _ in range(4):
            one.see("work_up", 0.0, REFUSED)
            one.now += 0.5
    assert host.fault() == "hung"
    assert without.fault() == "dead"
    assert "cannot be reached" in without.judge()[0].summary


def test_a_slow_starter_is_given_its_time_and_no_more() -> None:
    host = alive(Subject("web", start_timeout=20))
    faults: dict[float, str] = {}
    born = host.now
    while host.now - born < 25:
        host.see("process_up", 1.0)
        host.see("process_age_seconds", host.now - born)
        host.see("work_up", 0.0, REFUSED)
        faults[host.now - born] = host.fault()
        host.now += 0.5

    assert {fault for at, fault in faults.items() if at < 20} == {""}
    assert {fault for at, fault in faults.items() if at >= 20.5} == {"hung"}


def test_what_was_silent_before_anybody_looked_is_not_said_to_have_answered_ever() -> None:
    """The daemon starts beside a service that hangs for minutes already: nothing is known of them."""
    host = alive()
    for _ in range(6):
        host.see("process_up", 1.0)
        host.see("process_age_seconds", 500.0 + host.now - 1000)
        host.see("work_up", 0.0, SILENT, asked=host.now - 1.2)
        host.now += 0.5
    (found,) = host.judge()

    assert found.fault == "hung"
    assert "last good answer" not in found.summary
    assert found.since >= 998, "no fact goes back further than our first look"


def test_an_answer_to_a_question_of_before_the_action_says_nothing_about_after_it() -> None:
    host = alive()
    host.well()
    asked = host.now
    host.sight.acting("web")
    host.see("process_up", 0.0, "stopped")
    assert host.judge() == [], "what is seen during the action is our own doing"
    host.now += 1.0
    host.sight.acted("web", host.now)
    host.see("work_up", 0.0, SILENT, asked=asked)

    assert host.judge() == []
    host.see("process_up", 0.0, "exited with 3")
    assert host.fault() == "dead"


PRESSED = {"psi_cpu_some_ratio": 0.9}


def crowd(count: int = 4, **more: Any) -> Host:
    host = alive(*(Subject(f"web{n}", **more) for n in range(count)))
    for _ in range(80):
        for n in range(count):
            host.see("work_up", 1.0, subject=f"web{n}")
            host.see("work_seconds", 0.01, subject=f"web{n}")
            host.see("process_up", 1.0, subject=f"web{n}")
        host.judge()
        host.now += 0.5
    return host


def pressed(host: Host, slow: Sequence[str], seconds: float = 2.0) -> None:
    for metric, value in PRESSED.items():
        host.see(metric, value, subject="host")
    for name in slow:
        host.see("work_seconds", seconds, subject=name)


def faults(host: Host) -> dict[str, str]:
    return {f.subject: f.fault for f in host.judge()}


def test_when_the_host_is_pressed_and_the_others_are_slow_too_it_is_overload() -> None:
    host = crowd()
    pressed(host, ["web1", "web2"])

    assert silence(host, 1.0, "web0") == "overloaded"
    found = next(f for f in host.judge() if f.subject == "web0")
    assert found.severity is Severity.WARNING
    assert "cpu pressure is 90% and 2 of 3 others are slow too" in found.summary


def test_a_pressed_host_is_no_excuse_for_the_only_one_that_is_silent() -> None:
    host = crowd()
    pressed(host, [])
    assert silence(host, 1.0, "web0") == "hung"


def test_slow_others_are_no_excuse_on_a_host_at_rest() -> None:
    host = crowd()
    for n in (1, 2, 3):
        host.see("work_seconds", 2.0, subject=f"web{n}")
    assert silence(host, 1.0, "web0") == "hung"


def test_a_busy_process_on_a_pressed_host_is_overloaded_by_its_own_work() -> None:
    host = crowd()
    pressed(host, [])
    host.see("process_busy", 0.9, subject="web0")
    assert silence(host, 1.0, "web0") == "overloaded"

    idle = crowd()
    pressed(idle, [])
    idle.see("process_busy", 0.0, subject="web0")
    assert silence(idle, 1.0, "web0") == "hung", "a hung handler burns nothing"


def test_overload_is_an_excuse_for_so_long_only() -> None:
    host = crowd()
    pressed(host, ["web1", "web2", "web3"])
    assert silence(host, 50, "web0") == "overloaded"
    assert silence(host, 20, "web0") == "hung"


def test_those_that_are_slow_because_they_need_it_are_no_witnesses_for_its_innocence() -> None:
    """The database hangs, and everybody who asks it is slow: that is not overload, that is the database."""
    names = [f"web{n}" for n in range(3)]
    host = alive(Subject("db"), *(Subject(n, depends_on=("db",)) for n in names))
    for _ in range(80):
        for name in ("db", *names):
            host.see("work_up", 1.0, subject=name)
            host.see("work_seconds", 0.01, subject=name)
            host.see("process_up", 1.0, subject=name)
        host.judge()
        host.now += 0.5
    pressed(host, names)

    assert silence(host, 1.0, "db") == "hung"


def test_a_turn_about_one_subject_judges_that_one() -> None:
    host = alive(Subject("web"), Subject("db"))
    for name in ("web", "db"):
        host.see("process_up", 0.0, subject=name)

    assert [f.subject for f in host.judge(scope=frozenset({"db"}))] == ["db"]


# -- thresholds ------------------------------------------------------------------------------------------------------


def limited(**limit: Any) -> Host:
    more = {k: limit.pop(k) for k in ("flaps", "flap_window") if k in limit}
    return Host(threshold.PLUGIN, limits={"mine": {"metric": "load1", **limit}}, **more)


def test_a_number_beyond_its_limit_is_a_finding_that_says_what_would_be_well() -> None:
    host = limited(above=4, clear=3, severity="major")
    host.see("load1", 4.0)
    assert host.judge() == []
    host.see("load1", 4.5)
    (found,) = host.judge()

    assert (found.fault, found.severity) == ("high-load1", Severity.MAJOR)
    assert found.summary == "web: load1 is 4.5, above 4 (mine)"
    assert [str(c) for c in found.healthy_when] == ["load1 <= 3"]
    told = {key: value for key, value in found.data.items() if not key.startswith("judged")}
    assert told == {"metric": "load1", "value": 4.5, "limit": 4.0, "name": "mine"}


def test_too_low_is_a_fault_where_the_limit_is_a_lower_one() -> None:
    host = limited(below=0.1, clear=0.2, fault="starved")
    host.see("load1", 0.05)
    assert host.fault() == "starved"
    host.see("load1", 0.15)
    assert host.fault() == "starved"
    host.see("load1", 0.2)
    assert host.fault() == ""


def test_a_peak_shorter_than_it_must_last_is_nothing() -> None:
    host = limited(above=4, lasting="10s")
    host.see("load1", 9)
    assert host.fault() == ""
    assert host.fault(after=9.9) == ""
    host.see("load1", 3)
    assert host.fault() == ""
    host.see("load1", 9)
    assert host.fault() == ""
    assert host.fault(after=5) == ""
    (found,) = host.judge(after=5)
    assert found.since == pytest.approx(host.now - 10)


def test_between_the_limit_and_where_it_is_clear_it_stays_as_it_was() -> None:
    host = limited(above=4, clear=2)
    host.see("load1", 3)
    assert host.fault() == ""
    host.see("load1", 5)
    assert host.fault() != ""
    host.see("load1", 3)
    assert host.fault() != ""
    host.see("load1", 2)
    assert host.fault() == ""


def test_a_series_that_flaps_stays_a_finding_until_it_has_calmed_down() -> None:
    host = limited(above=4, flaps=5, flap_window=300)
    for n in range(5):
        host.see("load1", 5)
        assert host.fault() != ""
        host.see("load1", 1)
        assert (host.fault(after=10) == "") is (n < 4)
    assert "it crossed 5 times in 300 s" in host.judge()[0].summary
    assert host.fault(after=240) != ""
    assert host.fault(after=20) == ""


def test_a_limit_is_for_the_subjects_it_names() -> None:
    host = Host(
        threshold.PLUGIN,
        Subject("web"),
        Subject("db"),
        limits={"mine": {"metric": "load1", "above": 1, "subjects": ["d*"]}},
    )
    for name in ("web", "db"):
        host.see("load1", 2, subject=name)

    assert [f.subject for f in host.judge()] == ["db"]


@pytest.mark.parametrize("wrong", [{}, {"above": 1, "below": 2}, {"above": 1, "clear": 2}, {"below": 1, "clear": 0.5}])
def test_a_limit_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        limited(**wrong)


@given(st.lists(st.floats(-10, 10), max_size=60))
@settings(max_examples=100, deadline=None)
def test_the_same_numbers_in_the_same_order_give_the_same_findings(values: list[float]) -> None:
    def told() -> list[Sequence[Finding]]:
        host = limited(above=4, clear=2, lasting=2)
        rows = []
        for value in values:
            host.see("load1", value)
            rows.append(host.judge(after=1))
        return rows

    assert told() == told()
