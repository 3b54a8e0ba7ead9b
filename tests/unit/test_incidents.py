"""Incidents: findings become one story each, which ends when health was seen, and waits for what it depends on."""

from collections.abc import Mapping
from typing import Any

import pytest

from x0tta6bl4.kernel.facts import Condition, Finding, Incident, IncidentState, Observation, Severity
from x0tta6bl4.kernel.incidents import (
    ABSENT,
    AGE_OUT,
    DEPENDENCY_SETTLE,
    HINTED,
    REOPEN,
    SETTLE,
    Changes,
    Incidents,
)
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.testing.fakes import FakeClock

UP = (Condition("work_up", ">=", 1.0),)


class Story:
    """Incidents over a sight and a clock that the test moves."""

    def __init__(self, **depends_on: tuple[str, ...]) -> None:
        self.clock = FakeClock()
        self.sight = Sight({n: Subject(n, depends_on=on) for n, on in (depends_on or {"web": ()}).items()})
        self.incidents = Incidents(self.clock)

    @property
    def view(self) -> View:
        return View(self.sight, self.clock.monotonic())

    def see(self, subject: str = "web", metric: str = "work_up", value: float = 1.0) -> None:
        self.sight.record([Observation("m", subject, metric, value, detail="seen")], self.clock.monotonic())

    def take(self, *findings: Finding, after: float = 0.0, scope: frozenset[str] | None = None) -> Changes:
        self.clock.advance(after)
        return self.incidents.take(findings, View(self.sight, self.clock.monotonic(), scope))

    def found(self, subject: str = "web", fault: str = "hung", **more: Any) -> Finding:
        given: Mapping[str, Any] = {
            "analyzer": "a",
            "summary": f"{subject} is {fault}",
            "healthy_when": UP,
            "since": self.clock.monotonic(),
            **more,
        }
        return Finding(subject=subject, fault=fault, **given)

    def open(self, subject: str = "web", fault: str = "hung", **more: Any) -> Incident:
        (incident,) = self.take(self.found(subject, fault, **more)).opened
        return incident


def test_the_same_finding_again_is_the_same_incident_and_nothing_to_write() -> None:
    story = Story()
    incident = story.open()

    for _ in range(10):
        changes = story.take(story.found(), after=0.5)
        assert changes == Changes()
    assert [i.id for i in story.incidents.open] == [incident.id]


def test_another_fault_and_another_subject_are_other_incidents() -> None:
    story = Story(web=(), db=())
    story.take(story.found(), story.found(fault="gray"), story.found("db"))

    assert sorted((i.subject, i.fault) for i in story.incidents.open) == [
        ("db", "hung"),
        ("web", "gray"),
        ("web", "hung"),
    ]
    assert len({i.id for i in story.incidents.open}) == 3


def test_a_hint_that_nobody_speaks_of_any_more_is_over_though_its_sign_never_came_back() -> None:
    story = Story()
    hint = story.open(fault="unusual", healthy_when=(Condition("load", "<=", 1.0),))
    hung = story.open(fault="hung")
    story.see(metric="load", value=5.0)
    story.see(value=0.0)

    assert story.take(after=HINTED - 1).closed == ()
    (closed,) = story.take(after=2).closed
    assert (closed.id, closed.ended) == (hint.id, "aged out")
    assert [i.id for i in story.incidents.open] == [hung.id]


def test_two_analyzers_that_find_the_same_make_one_incident() -> None:
    story = Story()
    changes = story.take(story.found(), story.found(analyzer="b", summary="as b sees it"))

    assert len(changes.opened) == 1
    assert len(story.incidents.open) == 1


def test_a_worse_finding_is_written_at_once_and_another_wording_only_now_and_then() -> None:
    story = Story()
    story.open(severity=Severity.WARNING)
    (worse,) = story.take(story.found(severity=Severity.CRITICAL), after=1).changed
    assert worse.severity is Severity.CRITICAL

    assert story.take(story.found(severity=Severity.CRITICAL, summary="for 2 s"), after=1).changed == ()
    (later,) = story.take(story.found(severity=Severity.CRITICAL, summary="for 40 s"), after=40).changed
    assert later.summary == "for 40 s"


def test_an_incident_began_when_the_symptom_did_and_tells_what_it_rests_on() -> None:
    story = Story()
    story.clock.advance(100)
    incident = story.open(
        since=story.clock.monotonic() - 2.5, because=(Observation("probe", "web", "work_up", 0.0, detail="refused"),)
    )

    assert incident.opened_at == pytest.approx(story.clock.wall() - 2.5)
    assert incident.because == ("work_up is 0: refused (seen by probe)",)


def test_health_on_end_closes_it_as_recovered_and_one_good_answer_does_not() -> None:
    story = Story()
    story.see(value=0)
    story.open()
    story.see()
    changes = story.take(after=0)
    assert changes.closed == ()
    assert changes.wake_at == {"web": pytest.approx(story.clock.monotonic() + SETTLE)}

    story.see(value=0)
    assert story.take(after=SETTLE + 1).closed == ()
    story.see()
    assert story.take(after=1).closed == ()
    (closed,) = story.take(after=SETTLE).closed
    assert (closed.ended, closed.state, closed.closed_at) == ("recovered", IncidentState.CLOSED, story.clock.wall())
    assert story.incidents.open == ()


def test_a_finding_in_between_starts_the_settling_anew() -> None:
    story = Story()
    story.open()
    story.see()
    story.take()
    story.take(story.found(), after=SETTLE - 0.5)
    assert story.take(after=1).closed == ()
    assert story.take(after=SETTLE).closed != ()


def test_not_to_be_seen_is_not_to_be_well() -> None:
    story = Story()
    story.open()

    assert story.take(after=3600).closed == ()


def test_an_incident_that_nobody_speaks_of_for_a_day_ages_out_and_one_that_fails_does_not() -> None:
    story = Story(web=(), db=())
    story.open("web")
    story.open("db")
    story.see("db", value=0)
    assert story.take(after=AGE_OUT).closed == ()

    (closed,) = story.take(after=1).closed
    assert (closed.subject, closed.ended) == ("web", "aged out")


def test_without_a_probe_it_is_over_when_it_was_not_found_for_a_while() -> None:
    story = Story()
    story.open(healthy_when=())
    assert story.take(after=ABSENT - 1).wake_at == {"web": pytest.approx(story.clock.monotonic() + 1)}

    assert [i.ended for i in story.take(after=1).closed] == ["recovered"]


def test_a_turn_about_others_ends_nothing() -> None:
    story = Story(web=(), db=())
    story.open()
    story.see()
    for _ in range(5):
        assert story.take(after=10, scope=frozenset({"db"})) == Changes()
    assert story.incidents.finding(story.incidents.open[0]) is not None


def test_what_is_being_treated_is_ended_by_its_treatment_only() -> None:
    story = Story()
    incident = story.open()
    story.incidents.put(
        Incident(**{**{f: getattr(incident, f) for f in Incident.__slots__}, "state": IncidentState.RESPONDING})
    )
    story.see()

    assert story.take(after=1).closed == () == story.take(after=60).closed


def end(story: Story) -> Incident:
    story.see()
    story.take()
    (closed,) = story.take(after=SETTLE).closed
    return closed


def test_the_same_fault_soon_after_is_the_old_incident_again() -> None:
    story = Story()
    first = story.open()
    end(story)
    story.clock.advance(REOPEN - 1)
    again = story.open(summary="once more")

    assert (again.id, again.reopened, again.state, again.closed_at, again.ended) == (
        first.id,
        1,
        IncidentState.OPEN,
        None,
        "",
    )
    assert again.opened_at == first.opened_at < again.onset_at
    assert again.summary == "once more"


def test_the_same_fault_long_after_is_a_new_incident() -> None:
    story = Story()
    first = story.open()
    end(story)
    story.clock.advance(REOPEN + 1)

    assert story.open().id != first.id


def test_another_life_of_the_daemon_takes_up_what_is_open_and_reopens_what_was_closed_just_before() -> None:
    story = Story(web=(), db=())
    held = story.open("web")
    story.open("db")
    story.see("db")
    story.take()
    (closed,) = story.take(story.found("web"), after=SETTLE).closed
    second = Incidents(story.clock)
    second.load(
        [Incident(**{**{f: getattr(held, f) for f in Incident.__slots__}, "state": IncidentState.RESPONDING})], [closed]
    )

    assert [(i.id, i.state) for i in second.open] == [(held.id, IncidentState.OPEN)]
    (again,) = second.take([story.found("db")], story.view).opened
    assert (again.id, again.reopened) == (closed.id, 1)


# -- waiting for what it depends on ----------------------------------------------------------------------------------


def failing(story: Story, subject: str) -> Incident:
    story.see(subject, value=0)
    return story.open(subject)


def waits(story: Story, subject: str) -> str:
    incident = next(i for i in story.incidents.of_subject(subject))
    return story.incidents.waits_for(incident, story.view)


def test_what_depends_on_a_failing_one_waits_and_says_for_whom() -> None:
    story = Story(db=(), web=("db",))
    below = failing(story, "db")
    failing(story, "web")

    assert waits(story, "web") == f"waits for its dependency: db is hung (incident {below.id})"
    assert waits(story, "db") == ""


def test_waiting_goes_all_the_way_down() -> None:
    """a needs b, b needs c, and c is down: neither b nor a is restarted, also where b looks well by itself."""
    story = Story(c=(), b=("c",), a=("b",))
    story.see("b")
    failing(story, "c")
    failing(story, "a")
    story.clock.advance(0.1)
    story.see("b")
    assert waits(story, "a").startswith("waits for its dependency: c is hung")

    failing(story, "b")
    assert waits(story, "a") and waits(story, "b") and not waits(story, "c")


def test_a_circle_of_dependencies_does_not_hang_the_daemon() -> None:
    story = Story(a=("b",), b=("a",))
    failing(story, "a")

    assert isinstance(waits(story, "a"), str)


def test_a_dependency_whose_probe_fails_is_waited_for_before_it_is_an_incident() -> None:
    story = Story(db=(), web=("db",))
    failing(story, "web")
    story.see("db", value=0)

    assert waits(story, "web") == "waits for its dependency: db does not look well either (work_up)"


def test_a_dependency_that_says_nothing_since_the_trouble_began_is_waited_for() -> None:
    story = Story(db=(), web=("db",))
    story.see("db")
    story.clock.advance(1)
    failing(story, "web")
    assert waits(story, "web") == "waits for its dependency: db has not answered since this began"

    story.clock.advance(0.1)
    story.see("db")
    assert waits(story, "web").startswith("gives itself")


def test_after_the_dependency_is_well_again_the_dependent_gets_a_moment_for_itself() -> None:
    story = Story(db=(), web=("db",))
    failing(story, "db")
    failing(story, "web")
    assert waits(story, "web")
    story.clock.advance(1)
    story.see("db")
    assert waits(story, "web") == f"gives itself {DEPENDENCY_SETTLE:g} s to recover now that db is well again"

    story.clock.advance(DEPENDENCY_SETTLE)
    assert waits(story, "web") == ""


@pytest.mark.parametrize("fault", ["leaking-memory", "exhausting-memory", "zombies", "certificate-expiring", "blind"])
def test_trouble_of_a_dependency_that_keeps_it_from_nothing_delays_no_heal(fault: str) -> None:
    """A database that leaks, and answers: a web server that dies meanwhile is started at once."""
    story = Story(db=(), web=("db",))
    story.see("db")
    sign = () if fault in ("leaking-memory", "blind") else (Condition("process_rss_bytes", "<", 100.0), *UP)
    story.see("db", "process_rss_bytes", 200.0)
    story.open("db", fault, healthy_when=sign)
    story.see("web", value=0)
    story.take(story.found("db", fault, healthy_when=sign), story.found("web", since=story.clock.monotonic()))
    story.clock.advance(0.01)
    story.see("db")

    assert waits(story, "web") == ""


def test_a_dependency_that_is_being_acted_on_is_waited_for() -> None:
    story = Story(db=(), web=("db",))
    story.see("db")
    story.open("db", "exhausting-memory", healthy_when=(Condition("process_rss_bytes", "<", 100.0), *UP))
    failing(story, "web")
    story.sight.acting("db")

    assert "db" in waits(story, "web")


def test_a_dead_process_is_not_kept_waiting_by_a_dependency_that_is_asked_seldom() -> None:
    """It is gone, whatever its dependency says at its next look half a minute from now."""
    story = Story(db=(), web=("db",))
    story.see("db")
    story.clock.advance(10)
    story.see("web", "process_up", 0)
    story.open("web", "dead")

    assert waits(story, "web") == ""
