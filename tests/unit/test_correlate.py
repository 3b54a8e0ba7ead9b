"""Correlation: what belongs together is one incident with a ranked cause, storms collapse, and nothing is lost."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x0tta6bl4.cli.live import Now
from x0tta6bl4.cli.picture import _caught_up
from x0tta6bl4.kernel.correlate import AFTERMATH, BEFORE, HELD_BACK, LINGER, Correlation, Folded, storm_of
from x0tta6bl4.kernel.errors import StepFailed
from x0tta6bl4.kernel.facts import NOTHING, Condition, Finding, Incident, IncidentState, Observation, Severity
from x0tta6bl4.kernel.incidents import ABSENT, Incidents, is_soft
from x0tta6bl4.kernel.judged import Judged, judged_data
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.kernel.memory import Milestones, SubjectState
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.summary import describe
from x0tta6bl4.status.explain import why
from x0tta6bl4.status.stories import summary_of
from x0tta6bl4.testing.fakes import FakeClock
from x0tta6bl4.testing.virtual_time import run
from x0tta6bl4.testing.world import World

UP = (Condition("work_up", ">=", 1.0),)
ALIVE = (Condition("process_up", ">=", 1.0), *UP)


class Story:
    """Correlation and incidents over a sight and a clock that the test moves."""

    def __init__(self, *subjects: Subject) -> None:
        self.clock = FakeClock()
        self.sight = Sight({s.name: s for s in subjects})
        self.incidents = Incidents(self.clock)
        self.correlation = Correlation()
        self.treated: set[str] = set()

    @property
    def view(self) -> View:
        return View(self.sight, self.clock.monotonic(), None, (), self.clock.wall())

    def see(self, subject: str, value: float, metric: str = "work_up") -> None:
        self.sight.record([Observation("m", subject, metric, value)], self.clock.monotonic())

    def turn(self, *findings: Finding, after: float = 0.0, scope: Sequence[str] | None = None) -> Folded:
        """As the loop does it."""
        self.clock.advance(after)
        view = replace(self.view, scope=None if scope is None else frozenset(scope))
        folded = self.correlation.fold(findings, view, self.incidents, is_treated=lambda i: i.id in self.treated)
        self.incidents.take(folded.findings, view, merging=folded.merged)
        self.incidents.stand_beside(folded.beside, folded.into, view)
        for incident in folded.linked:
            self.incidents.put(incident)
        for own, into in folded.merged.items():
            part, whole = self.incidents.get(*own), self.incidents.get(*into)
            if part is not None and whole is not None:
                self.incidents.merge(part, whole)
        return folded

    def ill(self, subject: str, fault: str = "gray", **more: Any) -> Finding:
        """It lives, and does not answer; and its probe says so."""
        gone = fault == "dead"
        self.see(subject, 0.0, "process_up" if gone else "work_up")
        given: Mapping[str, Any] = {
            "summary": f"{subject} is {fault}",
            "severity": Severity.CRITICAL,
            "since": self.clock.monotonic(),
            "healthy_when": ALIVE if gone else UP,
            **more,
        }
        return Finding("liveness", subject, fault, **given)

    def odd(self, subject: str, *metrics: str, fault: str = "unusual", **more: Any) -> Finding:
        judged = [Judged(subject, m, 9.0, 1.0, 2.0, 8.0, 4.0, "novelty") for m in metrics or ("work_seconds",)]
        given: Mapping[str, Any] = {
            "summary": f"{subject}: {', '.join(metrics) or 'work_seconds'} is unusual",
            "severity": Severity.INFO,
            "since": self.clock.monotonic(),
            "data": judged_data(judged),
            **more,
        }
        return Finding("baseline", subject, fault, **given)

    def only(self) -> Incident:
        (incident,) = self.incidents.open
        return incident

    def state(self, subject: str) -> tuple[str, str]:
        how = describe(self.sight, self.incidents, subject, self.clock.monotonic())
        return how.state, how.summary


def together(data: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(one["subject"], one["fault"]) for one in data.get("together", ())}


def shop(count: int = 3) -> Story:
    """A database, and services that need it."""
    return Story(Subject("db", "process"), *(Subject(f"web{n}", "process", depends_on=("db",)) for n in range(count)))


def closed(story: Story, subject: str) -> Incident:
    return next(i for i in story.incidents.closed if i.subject == subject)


# -- dependents ------------------------------------------------------------------------------------------------------


def test_dependents_of_what_is_down_are_one_incident_with_it() -> None:
    story = shop()
    folded = story.turn(story.ill("db", "dead"), *(story.ill(f"web{n}") for n in range(3)))
    incident = story.only()

    assert incident.subject == "db"
    assert together(incident.data) == {("web0", "gray"), ("web1", "gray"), ("web2", "gray")}
    assert incident.because[-1] == "together with it: web0 (gray), web1 (gray), web2 (gray)"
    assert incident.data["cause"] == incident.data["causes"][0]
    assert (incident.data["cause"]["subject"], incident.data["cause"]["name"]) == ("db", "dead")
    assert "3 of the others depend on it" in incident.data["cause"]["why"]
    assert sum(cause["share"] for cause in incident.data["causes"]) == pytest.approx(1.0, abs=0.01)
    assert folded.wake_at.keys() == {"web0", "web1", "web2"}, "they are looked at again"


def test_a_dependent_is_not_well_and_says_for_whom_it_waits() -> None:
    story = shop(1)
    story.turn(story.ill("db", "dead"), story.ill("web0"))
    state, summary = story.state("web0")

    assert state == "gray"
    assert summary == f"web0 is gray; waits for db (incident {story.only().id}: dead)"


def test_a_dependent_that_is_found_in_a_turn_of_its_own_joins_what_is_known() -> None:
    story = shop()
    story.turn(story.ill("db", "dead"), scope=["db"])
    folded = story.turn(story.ill("web0"), scope=["web0"])

    assert folded.findings == ()
    assert [i.subject for i in folded.linked] == ["db"]
    assert together(story.only().data) == {("web0", "gray")}
    assert story.only().because[-1] == "together with it: web0 (gray)"
    assert story.turn(story.ill("web0"), scope=["web0"]).linked == (), "nothing new to write"


def test_what_is_deepest_down_stands_for_all_above_it() -> None:
    story = Story(Subject("c"), Subject("b", depends_on=("c",)), Subject("a", depends_on=("b",)))
    story.turn(story.ill("a"), story.ill("b"), story.ill("c", "hung"))

    assert story.only().subject == "c"
    assert together(story.only().data) == {("a", "gray"), ("b", "gray")}


def test_a_circle_of_dependencies_loses_nothing() -> None:
    story = Story(Subject("a", depends_on=("b",)), Subject("b", depends_on=("a",)))
    folded = [story.turn(story.ill("a"), story.ill("b"), after=1.0) for _ in range(6)][-1]

    assert {f.subject for f in folded.findings} == {"a", "b"}


def test_a_dependent_that_is_gone_keeps_an_incident_of_its_own() -> None:
    """It is not started by its dependency's being well again."""
    story = shop(1)
    story.turn(story.ill("db", "dead"), story.ill("web0", "dead"))

    assert {i.subject for i in story.incidents.open} == {"db", "web0"}


@pytest.mark.parametrize("fault", ["exhausting-memory", "certificate-expiring", "blind"])
def test_trouble_of_a_dependent_that_its_dependency_cannot_make_is_its_own(fault: str) -> None:
    story = shop(1)
    sign = (Condition("process_rss_bytes", "<", 100.0),)
    story.see("web0", 200.0, "process_rss_bytes")
    story.turn(story.ill("db", "dead"), Finding("a", "web0", fault, "its own", healthy_when=sign))

    assert {(i.subject, i.fault) for i in story.incidents.open} == {("db", "dead"), ("web0", fault)}


def test_a_dependent_that_was_first_is_merged_when_the_root_is_found() -> None:
    story = shop(1)
    story.see("db", 1.0)
    story.turn(story.ill("web0", since=story.clock.monotonic() - 1.0))
    own = story.only()
    assert own.subject == "web0"
    story.turn(story.ill("db", "dead"), story.ill("web0"), after=1.0)
    whole, part = story.only(), closed(story, "web0")

    assert (whole.subject, together(whole.data)) == ("db", {("web0", "gray")})
    assert (part.id, part.state, part.ended) == (own.id, IncidentState.CLOSED, "merged")
    assert part.data["part_of"] == {"incident": whole.id, "subject": "db", "fault": "dead"}
    assert part.because[-1] == f"it is a part of {whole.id}: db is dead"


def test_a_dependent_for_which_something_was_done_keeps_its_own_story() -> None:
    story = shop(2)
    story.see("db", 1.0)
    story.clock.advance(0.1)
    story.turn(*(story.ill(f"web{n}", since=story.clock.monotonic() - 1.0) for n in range(2)))
    first, second = story.incidents.open
    story.treated.add(first.id)
    story.incidents.put(replace(second, state=IncidentState.RESPONDING))
    story.turn(story.ill("db", "dead"), story.ill("web0"), story.ill("web1"), after=1.0)

    assert {i.subject for i in story.incidents.open} == {"db", "web0", "web1"}


def test_a_dependent_that_stays_ill_opens_its_own_when_the_root_is_well() -> None:
    story = shop(1)
    story.turn(story.ill("db", "dead"), story.ill("web0"))
    story.incidents.put(replace(story.only(), state=IncidentState.CLOSED, ended="healed", closed_at=story.clock.wall()))
    story.see("db", 1.0, "process_up")
    story.see("db", 1.0)
    story.turn(story.ill("web0", since=story.clock.monotonic() - 5.0), after=0.5)
    assert story.incidents.open == (), "it gets a moment to recover by itself"
    for _ in range(5):
        story.see("db", 1.0)
        story.turn(story.ill("web0", since=story.clock.monotonic() - 5.0), after=1.0)

    assert (story.only().subject, story.only().reopened) == ("web0", 0)


def test_what_was_merged_and_goes_on_is_a_story_of_its_own() -> None:
    story = shop(1)
    story.see("db", 1.0)
    began = story.clock.monotonic()
    story.turn(story.ill("web0", since=began - 1.0))
    own = story.only()
    story.turn(story.ill("db", "dead"), story.ill("web0"), after=1.0)
    story.incidents.put(replace(story.only(), state=IncidentState.CLOSED, ended="healed", closed_at=story.clock.wall()))
    story.see("db", 1.0, "process_up")
    for _ in range(6):
        story.see("db", 1.0)
        story.turn(story.ill("web0", since=began), after=1.0)

    assert story.only().id != own.id and story.only().reopened == 0


def test_a_dependent_of_something_that_only_looks_unwell_is_kept_back_for_a_moment_and_not_for_ever() -> None:
    story = shop(1)
    story.see("db", 0.0)
    folded = story.turn(story.ill("web0"))
    assert (folded.findings, folded.held) == ((), {("web0", "gray")})
    assert story.state("web0")[0] == "gray", "and nobody is told that it is well"

    seconds = 0.0
    while not story.incidents.open:
        story.turn(story.ill("web0"), after=0.5)
        seconds += 0.5
        assert seconds <= HELD_BACK
    assert story.only().subject == "web0"


def test_who_joined_an_earlier_bout_does_not_belong_to_the_next() -> None:
    story = shop(1)
    story.turn(story.ill("db", "dead"), story.ill("web0"))
    story.incidents.put(replace(story.only(), state=IncidentState.CLOSED, ended="healed", closed_at=story.clock.wall()))
    story.turn(after=10)
    story.turn(story.ill("db", "dead"), after=10)

    assert story.only().reopened == 1
    assert "together" not in story.only().data


# -- hints and trouble -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hint", ["web", "db", "mate", "host", "disk:/"])
def test_a_hint_near_trouble_belongs_to_it(hint: str) -> None:
    story = Story(
        Subject("db", "process"),
        Subject("web", "process", depends_on=("db",), group="shop"),
        Subject("mate", "thing", group="shop"),
    )
    story.turn(story.ill("web", "dead"), story.odd(hint))

    assert story.only().fault == "dead"
    assert together(story.only().data) == {(hint, "unusual")}


def test_a_hint_far_from_trouble_is_its_own() -> None:
    story = Story(Subject("web", "process"), Subject("elsewhere", "thing"), Subject("printer", "thing", group="print"))
    story.turn(story.ill("web", "dead"), story.odd("elsewhere", "a"), story.odd("printer", "b"))

    assert {i.subject for i in story.incidents.open} == {"web", "elsewhere", "printer"}


def test_services_are_not_near_each_other_because_they_need_the_same() -> None:
    story = shop(2)
    story.turn(story.ill("web0", "dead"), story.odd("web1"))

    assert {i.subject for i in story.incidents.open} == {"web0", "web1"}


@pytest.mark.parametrize(("before", "joined"), [(BEFORE - 1, True), (BEFORE + 1, False)])
def test_a_hint_belongs_to_trouble_that_followed_soon_and_not_to_later_one(before: float, joined: bool) -> None:
    story = Story(Subject("web", "process"))
    began = story.clock.monotonic()
    story.turn(story.odd("web"))
    hint = story.only()
    story.clock.advance(before)
    story.turn(story.ill("web", "hung"), story.odd("web", since=began))

    assert (len(story.incidents.open) == 1) is joined
    if joined:
        assert (closed(story, "web").id, closed(story, "web").ended) == (hint.id, "merged")
        assert together(story.only().data) == {("web", "unusual")}


def test_hints_get_a_while_to_become_usual_again_and_then_are_their_own() -> None:
    story = Story(Subject("web", "process"))
    began = story.clock.monotonic()
    story.turn(story.ill("web", "dead"), story.odd("web"))
    story.incidents.put(replace(story.only(), state=IncidentState.CLOSED, ended="healed", closed_at=story.clock.wall()))
    for _ in range(int(AFTERMATH / 60)):
        story.turn(story.odd("web", since=began), after=60)
        assert story.incidents.open == ()
    story.turn(story.odd("web", since=began), after=60)

    assert (story.only().fault, story.only().reopened) == ("unusual", 0)


def test_a_hint_that_begins_in_the_aftermath_belongs_to_what_is_over() -> None:
    story = Story(Subject("web", "process"))
    story.turn(story.ill("web", "dead"))
    story.incidents.put(replace(story.only(), state=IncidentState.CLOSED, ended="healed", closed_at=story.clock.wall()))
    folded = story.turn(story.odd("web"), after=20)
    assert (folded.findings, folded.into) == ((), {("web", "unusual"): ("web", "dead")})

    began = story.clock.monotonic()
    story.turn(story.odd("web", since=began), after=AFTERMATH)
    assert story.only().fault == "unusual"


def test_what_stood_for_a_storm_takes_the_storm_along() -> None:
    """Unusual first, dead a minute later: the others were unusual because of it, whoever depends on whom."""
    story = Story(Subject("db"), *(Subject(f"s{n}", depends_on=("db",)) for n in range(6)))
    began = story.clock.monotonic()
    odd = [story.odd("db"), *(story.odd(f"s{n}") for n in range(6))]
    story.turn(*odd)
    assert story.only().subject == "db"
    story.turn(story.ill("db", "dead"), *(replace(f, since=began) for f in odd), after=60)

    assert (story.only().fault, len(story.only().data["together"])) == ("dead", 7)
    assert closed(story, "db").ended == "merged"


def test_a_finding_says_itself_that_it_is_soft() -> None:
    story = Story(Subject("web", "process"))
    story.turn(story.ill("web", "dead"), story.odd("web", fault="flapping", data={"soft": True}))

    assert together(story.only().data) == {("web", "flapping")}


def test_what_is_only_noted_leaves_its_subject_well_with_a_remark() -> None:
    story = Story(Subject("web", "process"))
    story.see("web", 1.0)
    story.turn(story.odd("web"))
    state, summary = story.state("web")
    assert state == "well"
    assert summary.endswith("noted, unusual: web: work_seconds is unusual")

    story.turn(story.odd("web", severity=Severity.WARNING))
    assert story.state("web")[0] == "unusual"


# -- hints among themselves --------------------------------------------------------------------------------------------


def test_hints_that_belong_together_are_one_finding_of_the_likely_cause() -> None:
    story = shop(2)
    story.turn(story.odd("web0", "work_seconds"), story.odd("web1", "failures"), story.odd("db", "work_seconds"))
    incident = story.only()

    assert (incident.subject, incident.severity) == ("db", Severity.WARNING)
    assert together(incident.data) == {("web0", "unusual"), ("web1", "unusual")}
    assert incident.data["cause"]["name"] == "work_seconds"
    assert incident.summary == "db: work_seconds is unusual; together with web0, web1"


def test_what_the_others_need_is_a_likelier_cause_than_what_was_noticed_first() -> None:
    story = shop(3)
    began = story.clock.monotonic()
    story.turn(story.odd("db"), *(story.odd(f"web{n}", since=began - 5.0) for n in range(3)))
    causes = story.only().data["causes"]

    assert [cause["subject"] for cause in causes] == ["db", "web0", "web1", "web2"]
    assert causes[0]["why"] == "3 of the others depend on it, it began 5 s after the first"
    assert causes[1]["why"] == "it began first"


def test_one_subject_alone_is_not_worth_a_message_however_many_series_it_has() -> None:
    story = Story(Subject("web"))
    story.turn(story.odd("web", *(f"m{n}" for n in range(8))))

    assert story.only().severity is Severity.INFO


def test_the_same_metric_of_three_subjects_at_once_is_one_trouble_and_of_two_it_is_chance() -> None:
    story = Story()
    story.turn(story.odd("a", "latency"), story.odd("b", "latency"))
    assert len(story.incidents.open) == 2

    story = Story()
    began = story.clock.monotonic()
    story.turn(*(story.odd(name, "latency") for name in "abc"))
    assert (len(story.incidents.open), story.only().severity) == (1, Severity.WARNING)

    story = Story()
    story.turn(
        *(story.odd(name, "latency", since=began + at) for name, at in (("a", -2000.0), ("b", -1000.0), ("c", 0)))
    )
    assert len(story.incidents.open) == 3


def test_a_storm_is_one_incident_that_says_how_large_it_is() -> None:
    story = Story()
    story.turn(*(story.odd(f"s{n:02}", "latency", "errors") for n in range(40)))
    incident = story.only()

    assert incident.summary.startswith("storm: 80 series of 40 subjects are unusual since ")
    assert incident.summary.endswith(", first latency of s00")
    assert (incident.severity, incident.data["together_count"]) == (Severity.WARNING, 39)


def test_a_trouble_of_hints_keeps_its_name_while_anything_of_it_goes_on() -> None:
    story = shop(2)
    began = story.clock.monotonic()
    story.turn(story.odd("web0"))
    first = story.only()
    for present in (("db", "web0"), ("db",), ("db", "web1"), ("web1",), ("web0",)):
        for _ in range(3):
            story.turn(*(story.odd(name, since=began) for name in present), after=LINGER / 2)
            assert (story.only().id, story.only().reopened) == (first.id, 0)


def test_its_severity_does_not_go_up_and_down_with_its_members() -> None:
    story = shop(3)
    began = story.clock.monotonic()
    story.turn(*(story.odd(name, since=began) for name in ("db", "web0", "web1")))
    assert story.only().severity is Severity.WARNING
    story.turn(story.odd("db", since=began), after=LINGER + 1)
    story.turn(story.odd("db", since=began), after=LINGER + 1)

    assert story.only().severity is Severity.WARNING


def test_a_turn_about_one_subject_does_not_end_what_the_others_go_on_with() -> None:
    story = shop(2)
    began = story.clock.monotonic()
    everything = [story.odd("db"), story.odd("web0")]
    story.turn(*everything)
    for _ in range(6):
        story.turn(scope=["db"], after=ABSENT / 2)
    assert (story.only().subject, story.only().reopened) == ("db", 0)
    story.turn(after=1)
    story.turn(after=ABSENT + LINGER)
    assert story.incidents.open == ()
    assert closed(story, "db").ended == "recovered"
    assert began > 0


def test_two_troubles_that_turn_out_to_be_one_become_the_older() -> None:
    story = Story(Subject("c"), Subject("b", depends_on=("c",)), Subject("a", depends_on=("b",)))
    began = story.clock.monotonic()
    story.turn(story.odd("a", "x"))
    story.turn(story.odd("a", "x", since=began), story.odd("c", "y"), after=10)
    assert len(story.incidents.open) == 1, "a depends on c by way of b"

    story = Story(Subject("c"), Subject("b", group="g"), Subject("a", group="g", depends_on=("c",)))
    began = story.clock.monotonic()
    story.turn(story.odd("b", "x"))
    story.turn(story.odd("b", "x", since=began), story.odd("c", "y"), after=10)
    assert len(story.incidents.open) == 2
    older = next(i for i in story.incidents.open if i.subject == "b")
    story.turn(
        *(story.odd(n, m, since=began + at) for n, m, at in (("b", "x", 0), ("c", "y", 10), ("a", "z", 20))), after=20
    )
    assert story.only().id == older.id
    assert closed(story, "c").ended == "merged"


def test_a_new_life_of_the_daemon_goes_on_with_what_the_incidents_tell() -> None:
    story = shop(2)
    began = story.clock.monotonic()
    story.turn(story.ill("db", "dead"), story.ill("web0"), scope=["db", "web0"])
    story.turn(story.ill("db", "dead", since=began), story.ill("web0"), story.odd("web1"))
    wanted = together(story.only().data)
    incident = story.only()
    story.correlation, story.incidents = Correlation(), Incidents(story.clock)
    story.incidents.load([incident])
    folded = story.turn(story.ill("db", "dead", since=began), after=1)

    assert together(story.only().data) == wanted == {("web0", "gray"), ("web1", "unusual")}
    assert story.only().id == incident.id
    assert folded.merged == {}


def test_the_causes_that_an_analyzer_names_itself_are_kept() -> None:
    story = Story(Subject("web"))
    causes = [{"subject": "web", "name": "deploy", "share": 1.0, "why": "it was done 2 min before"}]
    story.turn(story.odd("web", fault="changed", data={"causes": causes}))
    assert story.only().data["cause"] == causes[0]

    story.turn(story.odd("web", fault="changed", data={"causes": causes}), story.odd("web", "latency"), after=1)
    cause = story.only().data["cause"]
    assert (cause["name"], story.only().fault) == ("deploy", "changed")
    assert cause["why"].endswith("it was done 2 min before")


def test_silence_of_a_failing_analyzer_ends_nothing() -> None:
    story = shop(2)
    story.turn(story.odd("db"), story.odd("web0"))
    story.clock.advance(LINGER + 1)
    story.correlation.fold((), story.view, story.incidents, complete=False)
    folded = story.turn(story.odd("web0"))

    assert folded.into == {("web0", "unusual"): ("db", "unusual")}


# -- laws ------------------------------------------------------------------------------------------------------------

NAMES = ("db", "cache", "web0", "web1", "web2", "job", "host", "disk:/", "far0", "far1")
HARD = ("dead", "gray", "hung", "exhausting-memory", "blind")
HINTS = ("unusual", "strange", "changed")


def fleet() -> Story:
    return Story(
        Subject("db", "process"),
        Subject("cache", "process", depends_on=("db",)),
        *(Subject(f"web{n}", "process", depends_on=("cache", "db"), group="shop") for n in range(3)),
        Subject("job", "unit", depends_on=("web0",)),
        Subject("far0", "thing"),
        Subject("far1", "thing", depends_on=("far0",)),
    )


found = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(HARD + HINTS), st.sampled_from((0.0, 10.0, 200.0, 1000.0))),
    max_size=14,
    unique_by=lambda row: row[:2],
)


def findings_of(story: Story, row: Sequence[tuple[str, str, float]]) -> list[Finding]:
    made = []
    for subject, fault, ago in row:
        since = story.clock.monotonic() - ago
        if fault in ("exhausting-memory", "blind"):
            story.see(subject, 200.0, "process_rss_bytes")
            signs = (Condition("process_rss_bytes", "<", 100.0), *UP)
            made.append(Finding("a", subject, fault, fault, Severity.MAJOR, since, healthy_when=signs))
        else:
            make = story.odd if fault in HINTS else story.ill
            made.append(make(subject, fault=fault, since=since))
    return made


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(found, st.sampled_from((0.5, 5.0, 70.0))), min_size=1, max_size=4), st.randoms())
def test_every_finding_is_an_incident_or_belongs_to_one_and_order_changes_nothing(
    turns: list[tuple[list[tuple[str, str, float]], float]], dice: random.Random
) -> None:
    one, other = fleet(), fleet()
    for row, after in turns:
        one.clock.advance(after)
        other.clock.advance(after)
        made = findings_of(one, row)
        shuffled = findings_of(other, row)
        dice.shuffle(shuffled)
        folded, again = one.turn(*made), other.turn(*shuffled)

        assert folded.findings == again.findings and folded.into == again.into and folded.held == again.held
        keys = {(f.subject, f.fault) for f in made}
        out = [(f.subject, f.fault) for f in folded.findings]
        assert len(out) == len(set(out))
        places = [set(out) & keys, set(folded.into), set(folded.held)]
        assert set.union(*places) == keys
        assert sum(map(len, places)) == len(keys), "in one place each"
        for part, whole in folded.into.items():
            assert whole not in folded.into and whole not in folded.held and whole != part
        members = [key for f in folded.findings for key in together(f.data)]
        assert len(members) == len(set(members)), "nothing belongs to two"
        for key, whole in folded.into.items():
            told = next((f for f in folded.findings if (f.subject, f.fault) == whole), None)
            incident = one.incidents.get(*whole)
            if told is not None or incident is not None:
                assert key in together(told.data if told is not None else incident.data if incident else {})
        for f in made:
            hopeless = f.fault in ("dead", "exhausting-memory", "blind")
            if hopeless or (f.fault in HARD and f.subject not in ("cache", "web0", "web1", "web2", "job", "far1")):
                assert (f.subject, f.fault) in out, "what has to be treated is never put away"


def test_the_same_turns_give_the_same_again() -> None:
    def told() -> list[Folded]:
        story, dice = fleet(), random.Random(7)
        folded = []
        for _ in range(30):
            story.clock.advance(dice.choice((1.0, 30.0)))
            row = {(dice.choice(NAMES), dice.choice(HARD + HINTS)): 5.0 for _ in range(8)}
            folded.append(story.turn(*findings_of(story, [(*key, ago) for key, ago in row.items()])))
        return folded

    strip = [[(f.findings, f.into, f.held, dict(f.merged)) for f in each] for each in (told(), told())]
    assert strip[0] == strip[1]


class Counted(dict[str, Subject]):
    """Subjects that count how often anybody asks for one."""

    asked = 0

    def get(self, name: str, default: Any = None) -> Any:
        self.asked += 1
        return super().get(name, default)


def work_for(count: int) -> int:
    """How often the graph is looked at for a turn of so many findings, in a tree of services with a storm in it."""
    story = Story()
    story.sight.subjects = Counted(
        {f"s{n}": Subject(f"s{n}", "process", depends_on=(f"s{(n - 1) // 2}",) if n else (), group=f"g{n % 50}")
         for n in range(count)}
    )  # fmt: skip
    made = [story.odd(f"s{n}", "latency") if n % 2 else story.ill(f"s{n}", "dead") for n in range(count)]
    asking = story.sight.subjects
    assert isinstance(asking, Counted)
    asking.asked = 0
    story.turn(*made)
    return asking.asked


def test_a_thousand_findings_in_one_turn_are_little_work() -> None:
    small, large = work_for(250), work_for(1000)

    assert large < 60 * 1000
    assert large < 6 * small, "four times as many findings, not sixteen times the work"


# -- in the loop -------------------------------------------------------------------------------------------------------


class Hints:
    """An analyzer that says what the test wants."""

    name = "hints"

    def __init__(self) -> None:
        self.odd: Mapping[str, float] = {}
        """Subject -> since when."""

    def analyze(self, view: View) -> Sequence[Finding]:
        return [
            Finding(
                self.name,
                subject,
                "unusual",
                f"{subject} is odd",
                Severity.INFO,
                since,
                data=judged_data([Judged(subject, "latency", 9.0, 1.0, 2.0, 8.0, 4.0, "novelty")]),
            )
            for subject, since in self.odd.items()
            if view.in_scope(subject)
        ]


def listening(loop: MAPEK) -> Hints:
    hints = Hints()
    loop.parts.analyzers = [*loop.parts.analyzers, hints]
    return hints


def service(number: int, **more: Any) -> dict[str, Any]:
    return {"process": [f"/bin/v{number}"], "work": f"http://127.0.0.1:{number}/work", "mode": "auto", **more}


def calls(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("a human is needed")]


def test_a_database_that_dies_with_twenty_dependents_is_one_incident_and_nothing_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        services = {f"v{n}": service(n, depends_on=["db"]) for n in range(100, 120)}
        world = World({"db": service(1)} | services)
        async with world.running() as loop:
            answers = False
            for number in (1, *range(100, 120)):
                url = service(number)["work"]
                world.network.broken[url] = lambda: (200 if answers else 503, 0.001)
            world.kill("db")
            await asyncio.sleep(8)
            (incident,) = loop.incidents.open
            assert incident.subject == "db"
            assert len(together(incident.data)) == 20
            how = describe(loop.parts.sight, loop.incidents, "v100", loop.parts.clock.monotonic())
            assert how.state == "gray" and f"waits for db (incident {incident.id}" in how.summary
            told = await why(loop, "v100")
            assert [case["incident"]["id"] for case in told["incidents"]] == [incident.id]
            answers = True
            await world.until(lambda: not loop.incidents.open, within=30)
            await asyncio.sleep(30)

            assert {a.target for a in await world.actions() if a.disruptive} == {"db"}
            assert [(i.subject, i.ended) for i in await world.incidents()] == [("db", "healed")]
            assert len(calls(caplog)) <= 1

    run(story())


def test_a_hint_before_trouble_is_merged_into_it_in_the_store_as_well() -> None:
    async def story() -> None:
        world = World({"web": service(1)})
        async with world.running() as loop:
            hints = listening(loop)
            hints.odd = {"web": loop.parts.clock.monotonic()}
            await loop.run_cycle()
            (hint,) = loop.incidents.open
            assert (hint.fault, hint.severity) == ("unusual", Severity.INFO)
            await asyncio.sleep(ABSENT + 10)
            world.hang("http://127.0.0.1:1/work")
            await world.until(lambda: any(i.fault == "hung" for i in loop.incidents.open))
            await loop.run_cycle()
            hints.odd = {}
            await asyncio.sleep(60)
            kept = {i.fault: i for i in await world.incidents()}

            assert (kept["unusual"].ended, kept["hung"].ended) == ("merged", "healed")
            assert kept["unusual"].data["part_of"]["incident"] == kept["hung"].id
            assert together(kept["hung"].data) == {("web", "unusual")}
            assert loop.incidents.open == ()
            told = summary_of(kept["unusual"], Milestones(), None)
            assert (told["ended"], told["seconds_to_recover"]) == ("merged", None), "it is no time to recovery"
            closed_total = [
                line for line in world.metrics.exposition()[0].decode().splitlines() if "closed_total{" in line
            ]
            assert any('ended="merged"' in line and 'fault="unusual"' in line for line in closed_total)

    run(story())


def test_forty_unusual_subjects_are_one_incident_and_one_message(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        world = World({"web": service(1)})
        async with world.running() as loop:
            hints = listening(loop)
            hints.odd = dict.fromkeys((f"v{n}" for n in range(40)), loop.parts.clock.monotonic())
            for _ in range(20):
                await loop.run_cycle()
                await asyncio.sleep(60)
            (incident,) = loop.incidents.open
            assert incident.summary.startswith("storm: 40 series of 40 subjects")
            assert len(calls(caplog)) == 1
            hints.odd = {}
            await loop.run_cycle()
            await asyncio.sleep(120)
            await loop.run_cycle()
            assert [(i.ended) for i in await world.incidents()] == ["recovered"]

    run(story())


def test_what_is_only_noted_tells_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        world = World({"web": service(1)})
        async with world.running() as loop:
            hints = listening(loop)
            hints.odd = {"web": loop.parts.clock.monotonic()}
            for _ in range(10):
                await loop.run_cycle()
                await asyncio.sleep(60)
            assert len(loop.incidents.open) == 1
            assert calls(caplog) == []
            how = describe(loop.parts.sight, loop.incidents, "web", loop.parts.clock.monotonic())
            assert how.state == "well"

    run(story())


def test_many_that_fall_ill_at_once_keep_their_treatment_and_one_message_names_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        names = [f"v{n}" for n in range(100, 130)]
        world = World({f"v{n}": service(n) for n in range(100, 130)})
        async with world.running() as loop:
            for name in names:
                world.processes.fail_start(name, StepFailed("exits at once"), times=10_000)
                world.kill(name)
            await asyncio.sleep(60)
            storms = {storm_of(i) for i in loop.incidents.open}
            assert len(loop.incidents.open) == 30
            assert len(storms) == 1 and storms <= {i.id for i in loop.incidents.open}
            assert len(calls(caplog)) == 1, calls(caplog)
            assert calls(caplog)[0].startswith("a human is needed: storm: 30 subjects are in trouble, first v100: dead")
            (told,) = [r for r in caplog.records if r.getMessage().startswith("a human is needed")]
            assert all(name in str(told.__dict__["text"]) for name in names)

    run(story())


def test_whoever_has_only_the_store_is_not_told_that_what_was_merged_or_noted_is_over_or_ill() -> None:
    async def story() -> None:
        world = World({"web": service(1), "db": service(2)})
        async with world.running() as loop:
            hints = listening(loop)
            hints.odd = {"web": loop.parts.clock.monotonic()}
            await loop.run_cycle()
            wall = loop.parts.clock.wall()
            part = Incident(
                "inc-1", "db", "gray", IncidentState.CLOSED, Severity.MAJOR, "ill", wall, wall, wall, "merged"
            )
            rows = [
                SubjectState("web", "well", wall - 9, "yes", wall - 1),
                SubjectState("db", "gray", wall - 9, "no", wall),
            ]
            current = [
                _caught_up(Now(r.name, r.state, r.since, r.summary, "", r.at), loop.incidents.open, [part])
                for r in rows
            ]
            assert [row.state for row in current] == ["well", "gray"]

    run(story())


def test_a_few_that_fall_ill_one_after_the_other_are_no_storm(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        world = World({f"v{n}": service(n, mode="observe") for n in range(100, 105)})
        async with world.running() as loop:
            for name in world.blueprint.subjects:
                world.kill(name)
                await asyncio.sleep(65)
            assert {storm_of(i) for i in loop.incidents.open} == {""}

    run(story())


def test_soft_faults_are_the_ones_that_nobody_treats() -> None:
    assert [is_soft(f, NOTHING) for f in ("unusual", "strange", "changed", "dead", "leaking-memory")] == [
        True,
        True,
        True,
        False,
        False,
    ]
