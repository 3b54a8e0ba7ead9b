"""The planner by runbooks: which one is asked, what it does next, and that nothing is climbed for ever in silence."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x0tta6bl4.kernel.facts import Book, Incident, IncidentState, Message, Outcome, Plan, Result, Severity
from x0tta6bl4.kernel.memory import Feedback, Kept
from x0tta6bl4.kernel.plugin import USUAL_TIMEOUT, Advance, Situation
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.planners.runbook import PLUGIN, Config, Runbooks
from x0tta6bl4.runbooks.life import replayed
from x0tta6bl4.testing.fakes import tools

NOW = 1_750_000_000.0
PROCESS = {"restart": "process.restart", "start": "process.start", "stop": "process.stop"}


def incident(fault: str = "hung", subject: str = "web", **more: Any) -> Incident:
    return Incident(
        "inc-0123456789abcdef", subject, fault, IncidentState.OPEN, Severity.MAJOR, "it hangs", NOW, NOW, **more
    )


def web(**more: Any) -> Subject:
    return Subject("web", **{"kind": "process", "mode": "auto", "controller": PROCESS, **more})


def situation(subject: Subject | None = None, *others: Subject, **more: Any) -> Situation:
    subject = subject or web()
    return Situation(subject, **{"now": NOW, "subjects": {s.name: s for s in (subject, *others)}, **more})


def planner(*rules: Mapping[str, Any], **more: Any) -> Runbooks:
    built: Any = PLUGIN.build("runbook", Config.model_validate({"rules": list(rules), **more}), tools())
    assert isinstance(built, Runbooks)
    return built


def rule(name: str = "mine", anomaly: str = "hung", **more: Any) -> dict[str, Any]:
    return {
        "runbook": name,
        "summary": "does something",
        "trigger": {"anomaly": anomaly},
        "initial": "first",
        "states": {
            "first": {"do": {"action": "service.restart"}, "done": "end", "failed": "end"},
            "end": {"final": True},
        },
        **more,
    }


def outcome(plan: Plan, result: Result, **more: Any) -> Outcome:
    return Outcome(plan.steps[-1].id, result, "", NOW, NOW, **more)


def planned(the: Runbooks, at: Incident, where: Situation) -> tuple[Advance, Plan]:
    advance = the.plan(at, where)
    assert advance is not None
    (plan,) = advance.plans
    return advance, plan


def plan_of(the: Runbooks, at: Incident, where: Situation) -> Plan:
    return planned(the, at, where)[1]


def walk(the: Runbooks, at: Incident, where: Situation, result: Result, rungs: int = 20) -> list[str]:
    """The rungs in their order when every step ends so, until the runbook came to its end once."""
    walked = []
    for _ in range(rungs):
        advance, plan = planned(the, at, where)
        walked.append(plan.rung)
        tells = plan.steps[-1].action == "notify.human"
        at = the.after(advance.incident, plan, [outcome(plan, Result.UNVERIFIED if tells else result)], where).incident
        if at.passes:
            return walked
    raise AssertionError(f"no end after {walked}")


def chosen(the: Runbooks, fault: str = "hung", subject: Subject | None = None) -> str:
    found = the.runbook_for(incident(fault), subject or web())
    return found.name if found else ""


def test_own_rules_are_asked_before_the_shipped_ones_in_their_order() -> None:
    the = planner(rule("first"), rule("second"))

    assert chosen(the) == "first"
    assert chosen(the, "dead") == "service-down"
    assert chosen(the, "never-heard-of") == "tell"


def test_without_the_shipped_rules_a_fault_no_rule_speaks_of_is_only_shown() -> None:
    the = planner(rule(), shipped=False)

    assert chosen(the, "dead") == ""
    assert the.plan(incident("dead"), situation()) is None


def test_a_rule_is_for_certain_faults_subjects_and_conditions() -> None:
    the = planner(
        rule("globs", trigger={"anomaly": "exhaust*", "subjects": ["db*"]}),
        rule("asks", trigger={"anomaly": "hung", "if": "subject.kind == 'unit'"}),
        shipped=False,
    )

    assert chosen(the, "exhausting-memory") == ""
    assert chosen(the, "exhausting-memory", Subject("db1")) == "globs"
    assert chosen(the, "hung") == ""
    assert chosen(the, "hung", web(kind="unit")) == "asks"


def test_a_subject_may_name_its_rule_and_then_no_other_counts() -> None:
    the = planner(rule("first"), rule("special", "other"))

    assert chosen(the, "hung", web(rules={"hung": "special"})) == "special"
    assert chosen(the, "hung", web(rules={"hung": "gone"})) == ""


# -- climbing --------------------------------------------------------------------------------------------------------


def test_the_first_rung_does_what_controls_the_subject() -> None:
    plan = plan_of(planner(), incident(), situation())

    (step,) = plan.steps
    assert (plan.rule, plan.rung, plan.mode) == ("service-hung", "restart", "auto")
    assert (step.action, step.target, step.args, step.timeout) == ("process.restart", "web", {"grace": "200ms"}, 60.0)
    assert step.expect is not None and (step.expect.within, step.expect.hold) == (30.0, 3.0)
    assert plan.because[:2] == ("it hangs", "runbook service-hung v1, step restart")
    unit = plan_of(planner(), incident(), situation(web(kind="unit", controller={"restart": "systemd.restart"})))
    assert unit.steps[0].action == "systemd.restart"


def test_a_failing_ladder_is_walked_to_the_human_and_rungs_that_do_not_apply_are_left_out() -> None:
    the = planner()

    assert walk(the, incident(), situation(), Result.REFUTED) == ["restart", "restart", "tell"]
    cleaning = web(data={"cleanup": [{"folder": "/x"}]})
    assert walk(the, incident(), situation(cleaning), Result.REFUTED) == ["restart", "restart", "clean", "tell"]
    below = Subject("db", controller=PROCESS)
    all_of_it = web(data={"cleanup": [{}], "restart_dependencies": True}, depends_on=("db",))
    assert walk(the, incident(), situation(all_of_it, below), Result.FAILED) == [
        "restart",
        "restart",
        "clean",
        "dependency",
        "tell",
    ]
    assert walk(the, incident("gray"), situation(web(controller={**PROCESS, "reload": "command.hup"})), Result.REFUTED)[
        :2
    ] == ["reload", "restart"]


def test_what_has_no_controller_goes_straight_to_the_human() -> None:
    assert walk(planner(), incident("dead"), situation(web(controller={})), Result.REFUTED) == ["tell"]


def test_a_refusal_is_not_tried_again_on_the_same_rung() -> None:
    assert walk(planner(), incident(), situation(), Result.REFUSED) == ["restart", "tell"]


def test_the_rung_with_dependencies_treats_them_first_and_is_proved_by_its_last_step() -> None:
    subject = web(data={"restart_dependencies": True}, depends_on=("db", "gone"))
    below = Subject("db", controller={"restart": "systemd.restart"})
    tried = {"equal_tries": 3, "latest_action": "process.restart", "latest_target": "web"}
    plan = plan_of(planner(), incident(), situation(subject, below, **tried))

    assert plan.rung == "dependency"
    assert [(s.action, s.target, s.expect is not None) for s in plan.steps] == [
        ("systemd.restart", "db", False),
        ("process.restart", "web", True),
    ]
    assert [s.id for s in plan.steps] == [f"{plan.id}.1", f"{plan.id}.2"]


def test_after_as_many_equal_tries_as_allowed_the_next_rung_comes() -> None:
    the = planner()
    tried: dict[str, Any] = {"equal_tries": 3, "latest_action": "process.restart", "latest_target": "web"}
    plan = plan_of(the, incident(), situation(**tried))
    assert plan.rung == "tell"
    assert "restart: process.restart was tried 3 times in a row" in plan.because

    other = plan_of(the, incident(), situation(equal_tries=3, latest_action="process.start"))
    assert other.rung == "restart"


def test_a_rung_that_does_something_else_first_is_no_equal_try() -> None:
    the = planner()
    tried: dict[str, Any] = {"equal_tries": 3, "latest_action": "process.restart", "latest_target": "web"}
    assert plan_of(the, incident(), situation(web(data={"cleanup": [{}]}), **tried)).rung == "clean"

    subject = web(data={"restart_dependencies": True}, depends_on=("db",))
    assert plan_of(the, incident(), situation(subject, Subject("db", controller=PROCESS), **tried)).rung == "dependency"


def test_after_a_pass_it_begins_again_and_says_so() -> None:
    the, where = planner(), situation(web(controller={}))
    advance, plan = planned(the, incident("dead"), where)
    assert plan.rung == "tell"
    after = the.after(advance.incident, plan, [outcome(plan, Result.UNVERIFIED)], where).incident

    assert (after.state, after.rung, after.tries, after.passes) == (IncidentState.ESCALATED, "", 0, 1)
    again = plan_of(the, after, where)
    assert again.rung == "tell"
    assert again.id != plan.id


def test_a_plan_has_the_same_name_until_something_was_done() -> None:
    """So that an approval finds the plan it was given to, and a second try has an intent of its own."""
    the = planner()

    def name(at: Incident, **more: Any) -> str:
        return plan_of(the, at, situation(**more)).id

    first = name(incident())
    assert name(replace(incident(), summary="still hangs", severity=Severity.CRITICAL)) == first
    advance, plan = planned(the, incident(), situation())
    assert name(advance.incident) == first
    tried = the.after(advance.incident, plan, [outcome(plan, Result.REFUTED)], situation()).incident
    assert (tried.rung, tried.tries) == ("restart", 1)
    others = {name(tried), name(incident(passes=1)), name(incident(reopened=1)), name(incident(), done=1)}
    assert len({first, *others}) == 5


def test_an_incident_stays_with_the_version_it_began_under() -> None:
    old, new = planner(rule()), planner(rule(version=2, summary="does it otherwise"))
    begun = planned(old, incident(), situation())[0].incident
    new.adopt(old.books())

    assert "runbook mine v1, step first" in plan_of(new, begun, situation()).because
    assert "runbook mine v2, step first" in plan_of(new, incident(), situation()).because


def test_of_a_version_that_nobody_kept_it_begins_anew_with_the_one_in_force() -> None:
    begun = planned(planner(rule()), incident(), situation())[0].incident

    plan = plan_of(planner(rule(version=2)), begun, situation())

    assert "runbook mine v2, step first" in plan.because


def test_branches_and_arguments_are_decided_over_the_incident() -> None:
    branching = rule(
        states={
            "first": {
                "do": {"action": "service.restart", "args": {"who": "=subject.name", "plain": "x"}},
                "done": "end",
                "failed": [{"to": "last", "if": "incident.passes > 0"}, "second"],
            },
            "second": {"do": {"action": "service.stop"}, "done": "end", "failed": "end"},
            "last": {"do": {"action": "notify.human"}, "done": "end", "failed": "end"},
            "end": {"final": True},
        }
    )
    the, where = planner(branching), situation()

    def second(at: Incident) -> str:
        advance, plan = planned(the, at, where)
        assert plan.steps[0].args == {"who": "web", "plain": "x"}
        return the.after(advance.incident, plan, [outcome(plan, Result.REFUTED)], where).incident.rung

    assert second(incident()) == "second"
    assert second(incident(passes=1)) == "last"


def test_what_takes_a_step_back_is_found_as_the_step_itself_is() -> None:
    undoing = rule()
    undoing["states"]["first"]["do"] = {"action": "service.stop", "undo": "service.start"}

    assert plan_of(planner(undoing), incident(), situation()).steps[0].undo == "process.start"


def test_a_message_to_a_human_says_what_it_is_about() -> None:
    plan = plan_of(planner(rule("tell", "over*", states=TELL), shipped=False), over(), situation())

    (step,) = plan.steps
    assert step.expect is None
    assert step.args == {
        "title": "web: overloaded",
        "text": "it hangs",
        "incident": "inc-0123456789abcdef",
        "severity": "major",
        "reasons": ["cpu is busy"],
    }


TELL = {
    "first": {"do": {"action": "notify.human"}, "done": "end", "failed": "end"},
    "end": {"final": True},
}


def over() -> Incident:
    return incident("overloaded", because=("cpu is busy",))


@given(
    st.lists(st.sampled_from(list(Result)), max_size=40),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["dead", "hung", "gray", "exhausting-memory", "filling-space", "anything"]),
)
@settings(max_examples=60, deadline=None)
def test_whatever_becomes_of_the_steps_there_is_always_a_next_one_and_the_journal_gives_the_same_place(
    results: list[Result], cleanup: bool, below: bool, fault: str
) -> None:
    data: dict[str, Any] = {"cleanup": [{}]} if cleanup else {}
    subject = web(data={**data, "restart_dependencies": below}, depends_on=("db",))
    where = situation(subject, Subject("db", controller=PROCESS))
    the, at, moves = planner(), incident(fault), []
    for result in results:
        advance, plan = planned(the, at, where)
        moves += advance.moves
        begun = the.begun(advance.incident, plan, where.epoch)
        after = the.after(begun, plan, [outcome(plan, result)], where)
        moves += after.moves
        if after.incident.state is IncidentState.CLOSED:
            assert result is Result.VERIFIED
            break
        assert after.incident.passes > at.passes or after.incident.place != at.place
        at = after.incident
        if at.place.get("chart"):
            assert not replayed(moves, the.book, at)
    assert [m.number for m in moves] == list(range(1, len(moves) + 1))


@given(st.lists(st.sampled_from(["operator.hold", "operator.resume", "nothing", "tick"]), max_size=12))
@settings(max_examples=60, deadline=None)
def test_what_moved_a_moment_ago_goes_on_as_what_is_read_anew_and_what_is_thrown_away_leaves_no_trace(
    events: list[str],
) -> None:
    the, where = planner(waiting()), situation(monotonic=100.0)
    first = the.plan(incident(), where)
    assert first is not None
    at = first.incident
    for number, event in enumerate(events):
        where = replace(where, monotonic=where.monotonic + 3.0, now=where.now + 3.0)
        message = Message(f"m{number}", at.id, event, {}, "oncall", where.now)
        thrown_away = the.tell(at, Message("other", at.id, "operator.hold", {}, "oncall", where.now), where)
        assert thrown_away.incident.place != {}
        fresh = planner(waiting())
        moved = [p.plan(at, where) if event == "tick" else p.tell(at, message, where) for p in (the, fresh)]
        again = the.plan(at, where) if event == "tick" else the.tell(at, message, where)

        assert moved[0] == moved[1] == again
        at = moved[0].incident if moved[0] is not None else at


# -- what waits ------------------------------------------------------------------------------------------------------


def waiting() -> dict[str, Any]:
    return rule(
        deadline={"15m": "told"},
        initial="work",
        states={
            "work": {
                "initial": "settle",
                "on": {"operator.hold": "held"},
                "states": {
                    "settle": {"after": {"5s": "first"}},
                    "first": {"do": {"action": "service.restart", "undo": "service.start"}, "done": "end",
                              "failed": "settle"},
                    "was": {"history": "deep", "default": "settle"},
                },
            },
            "held": {"on": {"operator.resume": "was", "operator.abort": "told"}},
            "told": {"rollback": True, "done": "end", "failed": "end"},
            "end": {"final": True},
        },
    )  # fmt: skip


def say(event: str, **data: Any) -> Message:
    return Message(f"msg-{event}", "inc-0123456789abcdef", event, data, "oncall", NOW)


def test_a_timer_waits_its_time_and_a_restart_of_the_daemon_takes_none_of_it_away() -> None:
    the = planner(waiting())
    advance = the.plan(incident(), situation(monotonic=100.0, epoch=1))
    assert advance is not None and not advance.plans
    assert advance.look_again == 5.0

    early = the.plan(advance.incident, situation(monotonic=104.0, epoch=1, now=NOW + 86400))
    assert early is not None and early.look_again == 1.0 and not early.plans  # the wall clock was set; nothing is due

    later = the.plan(advance.incident, situation(monotonic=3.0, epoch=2, now=NOW + 2))
    assert later is not None and later.look_again == 3.0  # another life, another monotonic clock
    back = the.plan(advance.incident, situation(monotonic=3.0, epoch=2, now=NOW - 86400))
    assert back is not None and back.look_again == 5.0  # a clock set back a day makes nobody wait for a day
    due = the.plan(later.incident, situation(monotonic=6.5, epoch=2, now=NOW + 2))
    assert due is not None and [p.rung for p in due.plans] == ["first"]


def test_a_hold_keeps_what_is_begun_and_a_return_takes_its_answer_and_does_it_no_second_time() -> None:
    the, where = planner(waiting()), situation(monotonic=100.0, epoch=1)
    advance = the.plan(incident(), where)
    assert advance is not None
    advance, plan = planned(the, advance.incident, situation(monotonic=106.0, epoch=1))
    begun = the.begun(advance.incident, plan, 1)
    assert the.plan(begun, where).plans == ()  # type: ignore[union-attr]  # it has a runbook

    held = the.tell(begun, say("operator.hold"), where)
    assert held.left == (plan.activity,)
    assert held.moves[-1].message == "msg-operator.hold" and held.moves[-1].states == ("held",)
    resumed = the.tell(held.incident, say("operator.resume"), where)
    assert resumed.left == () and not the.plan(resumed.incident, where).plans  # type: ignore[union-attr]
    done = the.after(resumed.incident, plan, [outcome(plan, Result.VERIFIED)], where)
    assert (done.incident.state, done.incident.ended) == (IncidentState.CLOSED, "healed")

    late = the.after(held.incident, plan, [outcome(plan, Result.REFUTED)], where)  # the answer comes while it is held
    assert late.moves == ()
    back = the.tell(late.incident, say("operator.resume"), where)
    now = the.plan(back.incident, where)
    assert now is not None and now.moves[-1].event == "failed.act.first" and not now.plans[0].activity.startswith("x")


def test_what_was_done_is_taken_back_newest_first_one_journaled_step_at_a_time() -> None:
    the, where = planner(waiting()), situation(monotonic=100.0, epoch=1)
    at = incident()
    advance = the.plan(at, where)
    assert advance is not None
    advance, plan = planned(the, advance.incident, situation(monotonic=106.0, epoch=1))
    plan = replace(plan, steps=(replace(plan.steps[0], id="s1"),))
    unknown = the.after(
        the.begun(advance.incident, plan, 1), plan, [outcome(plan, Result.UNVERIFIED, unknown=True)], where
    ).incident
    held = the.tell(unknown, say("operator.hold"), where).incident
    aborted = the.tell(held, say("operator.abort"), where).incident
    back, undoing = planned(the, aborted, where)

    assert undoing.under_way
    assert [(s.action, s.target, s.undoes, s.expect) for s in undoing.steps] == [("process.start", "web", "s1", None)]
    undone = the.after(the.begun(back.incident, undoing, 1), undoing, [outcome(undoing, Result.UNVERIFIED)], where)
    assert undone.incident.passes == 0
    ended = the.plan(undone.incident, where)
    assert ended is not None and ended.incident.passes == 1 and not ended.plans


def test_an_action_may_take_as_long_as_its_executor_says_where_the_runbook_says_nothing() -> None:
    where = situation(timeouts={"process.restart": 17.0})

    assert plan_of(planner(rule()), incident(), where).steps[0].timeout == 17.0
    assert plan_of(planner(rule()), incident(), situation()).steps[0].timeout == USUAL_TIMEOUT
    said = rule()
    said["states"]["first"]["do"]["timeout"] = "5s"
    assert plan_of(planner(said), incident(), where).steps[0].timeout == 5.0


def holding(after: Any, **more: Any) -> dict[str, Any]:
    return rule(
        initial="work",
        states={
            "work": {
                "on": {"operator.hold": "held"},
                "states": {"settle": {"after": after, **more}, "was": {"history": "deep", "default": "settle"}},
            },
            "held": {"on": {"operator.resume": "was", "operator.again": "work"}},
            "end": {"final": True},
        },
    )


def left(the: Runbooks, at: Incident, where: Situation) -> tuple[Incident, float | None]:
    advance = the.plan(at, where)
    assert advance is not None
    return advance.incident, advance.look_again


def moment(seconds: float, epoch: int = 1) -> Situation:
    """So long after the beginning; each life of the daemon has a monotonic clock of its own."""
    return situation(monotonic=1000.0 * epoch + seconds, now=NOW + seconds, epoch=epoch)


@pytest.mark.parametrize(("hold", "remains"), [("restart", 10.0), ("pause", 6.0)])
def test_a_timer_that_pauses_goes_on_with_what_was_left_of_it_also_after_a_restart(hold: str, remains: float) -> None:
    rules = holding({"10s": {"to": "end", "hold": hold}})
    the = planner(rules)
    at, wait = left(the, incident(), moment(0))
    assert wait == 10.0
    held = the.tell(at, say("operator.hold"), moment(4))
    assert left(the, held.incident, moment(100))[1] is None  # held, nothing runs

    kept = replace(held.incident, place=Kept(held.incident.place.text))  # as the database has it
    other = planner(rules)  # and another life of the daemon, which knows nothing else
    resumed = other.tell(kept, say("operator.resume"), moment(300, epoch=2))
    assert left(other, resumed.incident, moment(300, epoch=2))[1] == remains
    assert f"after.settle.0 in {remains:g} s" in resumed.moves[-1].effects
    early = other.plan(resumed.incident, moment(300 + remains - 0.5, epoch=2))
    assert early is not None and not early.moves
    again = replace(resumed.incident, place=Kept(resumed.incident.place.text))  # it died once more while it waited
    due = planner(rules).plan(again, moment(300 + remains + 0.5, epoch=3))
    assert due is not None and [m.event for m in due.moves] == ["after.settle.0"]

    moves = [*the.plan(incident(), moment(0)).moves, *held.moves, *resumed.moves]  # type: ignore[union-attr]  # as above
    book = the.runbook_for(incident(), web())
    assert replayed(moves, lambda hash: book, resumed.incident) == []


def test_a_paused_timer_pauses_as_often_as_it_is_held_and_a_new_entry_begins_it_anew() -> None:
    the = planner(holding({"10s": {"to": "end", "hold": "pause"}}))
    at, _ = left(the, incident(), moment(0))
    for second, remains in ((3, 7.0), (105, 5.0), (207, 1.0)):
        at = the.tell(at, say("operator.hold"), moment(second)).incident
        at = the.tell(at, say("operator.resume"), moment(second // 100 * 100 + 103)).incident
        assert left(the, at, moment(second // 100 * 100 + 103))[1] == remains

    at = the.tell(at, say("operator.hold"), moment(303.5)).incident
    at = the.tell(at, say("operator.again"), moment(400)).incident  # by the door, not by the history
    assert left(the, at, moment(400))[1] == 10.0
    assert "paused" not in at.place


def test_a_timer_that_has_come_does_not_come_again_when_what_it_pauses_for_is_over() -> None:
    after = {"2s": {"do": {"emit": "still.here"}, "hold": "pause"}, "60s": "end"}
    the = planner(holding(after))
    at, _ = left(the, incident(), moment(0))
    rung = the.plan(at, moment(3))
    assert rung is not None and [name for name, _ in rung.said] == ["still.here"]
    at = the.tell(rung.incident, say("operator.hold"), moment(4)).incident
    at = the.tell(at, say("operator.resume"), moment(5)).incident

    assert left(the, at, moment(5))[1] == 60.0  # the one that begins anew, and nothing before it
    assert the.plan(at, moment(64)).said == ()  # type: ignore[union-attr]  # it has a runbook


def test_the_time_in_an_expression_is_that_of_what_happens_and_the_same_when_it_is_played_again() -> None:
    rules = holding(
        {"=600 - (now() - since)": "end"},
        on={"operator.note": {"do": {"set": {"noted": "now()"}}}},
        when={"now() > since + 50 and seen.work_up == 0": "end"},
    ) | {"data": {"since": "now()", "noted": 0}}
    the = planner(rules)
    first = the.plan(incident(), moment(0))
    assert first is not None and first.look_again == 600.0
    held = the.tell(first.incident, say("operator.hold"), moment(30))
    resumed = the.tell(held.incident, say("operator.resume"), moment(40))
    assert left(the, resumed.incident, moment(40))[1] == 560.0
    noted = the.tell(resumed.incident, say("operator.note"), moment(41.25))
    moves = [*first.moves, *held.moves, *resumed.moves, *noted.moves]
    book = the.runbook_for(incident(), web())

    assert noted.incident.place["chart"]["data"]["since"] == NOW
    assert noted.incident.place["chart"]["data"]["noted"] == NOW + 41.25
    assert replayed(moves, lambda hash: book, noted.incident) == []
    moved = [replace(move, at=move.at + 1) for move in moves]
    assert replayed(moved, lambda hash: book, noted.incident) == ["data differs at the end"]
    seen = replace(moment(45), seen={"work_up": 0.0})
    assert the.plan(noted.incident, seen).moves == ()  # type: ignore[union-attr]  # it has a runbook
    later = the.plan(noted.incident, replace(moment(51), seen={"work_up": 0.0}))
    assert later is not None and later.moves[-1].event == "$seen"


def test_an_event_that_nothing_listens_to_is_told_so_and_consumed() -> None:
    the, where = planner(waiting()), situation()
    told = the.tell(incident(), say("operator.dance"), where)

    assert told.why == "nothing in its runbook listens to 'operator.dance' now"
    assert [(m.event, m.taken, m.message) for m in told.moves] == [
        ("$start", True, ""),
        ("operator.dance", False, "msg-operator.dance"),
    ]


def test_an_aborted_runbook_rests_before_it_begins_anew() -> None:
    the, where = planner(), situation()
    advance, _ = planned(the, incident(), where)
    aborted = the.tell(advance.incident, say("operator.abort"), where).incident

    resting = the.plan(aborted, where)
    assert resting is not None and not resting.plans and "begins anew" in resting.why
    again = the.plan(aborted, situation(now=NOW + 901))
    assert again is not None and [p.rung for p in again.plans] == ["restart"]


def test_what_failed_in_the_runbook_itself_is_told_to_a_human() -> None:
    broken = rule()
    broken["states"]["first"]["failed"] = [{"to": "end", "if": "result.loss > 3"}, {"to": "end"}]
    the, where = planner(broken), situation()
    advance, plan = planned(the, incident(), where)
    after = the.after(advance.incident, plan, [outcome(plan, Result.REFUTED)], where)
    told = plan_of(the, after.incident, where)

    assert told.steps[0].action == "notify.human"
    assert "loss" in told.steps[0].args["text"]


def test_a_runbook_that_cannot_even_begin_is_told_to_a_human_and_rests() -> None:
    the, where = planner(rule(data={"half": "incident.passes / 0"})), situation()
    advance = the.plan(incident(), where)

    assert advance is not None
    (plan,) = advance.plans
    assert plan.steps[0].action == "notify.human" and "cannot go on" in plan.steps[0].args["text"]
    resting = the.plan(advance.incident, where)
    assert resting is not None and not resting.plans
    told = the.after(advance.incident, plan, [outcome(plan, Result.UNVERIFIED)], where)
    assert told.incident.passes == 1


def test_where_it_is_allowed_to_learn_what_heals_soonest_comes_first_and_the_counts_are_told() -> None:
    subject = web(data={"cleanup": [{}]})
    trials = [
        Feedback(("hung", "process", "web"), ("process.restart",), None, False, False, "outcome", NOW - n, spent=30.0)
        for n in range(20)
    ] + [
        Feedback(("hung", "process", "web"), ("cleanup.free", "process.restart"), 4.0, True, False, "outcome",
                 NOW - n, spent=4.0)
        for n in range(20)
    ]  # fmt: skip
    where = situation(subject, trials=trials, blasts={"process.restart": "process", "cleanup.free": "service"})

    written = plan_of(planner(), incident(), where)
    learnt = plan_of(planner(strategy="learn"), incident(), where)

    assert written.rung == "restart"
    assert learnt.rung == "clean"
    assert any("0 of 20" in reason and "20 of 20" in reason for reason in learnt.because), learnt.because


def test_the_books_are_kept_as_they_were_written() -> None:
    the = planner(rule())
    (mine,) = [book for book in the.books() if book.name == "mine"]

    assert isinstance(mine, Book) and mine.version == 1
    other = planner(shipped=False)
    other.adopt([mine])
    found = other.book(mine.hash)
    assert found is not None and found.hash == mine.hash


def drained(**rung: Any) -> dict[str, Any]:
    ladder = {
        "drain": {"do": {"action": "service.reload"}, "safety": True, **rung},
        "wipe": {"do": {"action": "service.restart"}},
    }
    states = {
        "treat": {"ladder": ladder, "done": "end", "failed": "tell"},
        "tell": {"do": {"action": "notify.human"}, "done": "end", "failed": "end"},
        "end": {"final": True},
    }
    return rule(initial="treat", states=states)


def test_what_is_safe_only_after_a_step_that_cannot_be_done_here_is_not_done() -> None:
    plan = plan_of(planner(drained()), incident(), situation())

    assert plan.rung == "tell"
    assert "drain: does not apply to web" in plan.because


def test_a_safety_step_whose_condition_does_not_hold_is_not_needed() -> None:
    assert plan_of(planner(drained(**{"if": "subject.can.reload"})), incident(), situation()).rung == "wipe"


def test_what_an_analyzer_finds_later_is_an_event_by_the_name_of_the_fault() -> None:
    listening = waiting()
    listening["states"]["work"]["on"]["hung"] = {"to": "told", "if": "_event.data.severity == 'critical'"}
    the, where = planner(listening), situation()
    begun = the.plan(incident(), where)
    assert begun is not None

    same = the.tell(begun.incident, Message("", "inc-0123456789abcdef", "hung", {"severity": "major"}, "d", NOW), where)
    assert same.moves == ()
    worse = the.tell(
        begun.incident, Message("", "inc-0123456789abcdef", "hung", {"severity": "critical"}, "d", NOW), where
    )
    assert [(m.event, m.states) for m in worse.moves] == [("hung", ("told",))]
