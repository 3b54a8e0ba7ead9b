"""The ladder: rules are read with every mistake named, walked rung by rung, and never climbed for ever in silence."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from x0tta6bl4.kernel.errors import ConfigError
from x0tta6bl4.kernel.facts import Incident, IncidentState, Outcome, Plan, Result, Severity
from x0tta6bl4.kernel.plugin import Situation
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.planners.ladder import PLUGIN, Config, Ladder, compile_expression, read_rules, shipped_rules
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
    return Situation(subject, NOW, {s.name: s for s in (subject, *others)}, **more)


def ladder(*rules: Mapping[str, Any], **more: Any) -> Ladder:
    built: Any = PLUGIN.build("ladder", Config.model_validate({"rules": list(rules), **more}), tools())
    assert isinstance(built, Ladder)
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


def outcome(plan: Plan, result: Result) -> Outcome:
    return Outcome(plan.steps[-1].id, result, "", NOW, NOW)


def walk(the: Ladder, at: Incident, where: Situation, result: Result, rungs: int = 20) -> list[str]:
    """The rungs in their order when every step ends so, until the ladder was walked once."""
    walked = []
    for _ in range(rungs):
        plan = the.plan(at, where)
        assert plan is not None
        walked.append(plan.rung)
        tells = plan.steps[-1].action == "notify.human"
        at = the.after(at, plan, outcome(plan, Result.UNVERIFIED if tells else result), where)
        if at.passes:
            return walked
    raise AssertionError(f"no end after {walked}")


# -- expressions -----------------------------------------------------------------------------------------------------

NAMES = {
    "subject": {"name": "web", "cleanup": [1], "can": {"reload": True}, "limit": 5, "none": None},
    "incident": {"fault": "hung", "passes": 2},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("subject.name == 'web'", True),
        ("incident.passes >= 2 and subject.can.reload", True),
        ("not subject.can.restart", True),
        ("subject.nothing.at.all", None),
        ("subject.nothing < 3", False),
        ("'web' in subject.name", True),
        ("subject.limit > '3'", False),
        ("incident.fault in subject.none", False),
        ("subject.cleanup", [1]),
        ("1 == 1.0", True),
        ("incident.fault not in 'dead'", True),
        (" subject.limit ", 5),
        ("False or incident.passes == 2", True),
    ],
)
def test_an_expression_says(text: str, value: Any) -> None:
    assert compile_expression(text)(NAMES) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "subject.",
        "os.system('x')",
        "subject.name()",
        "subject['name']",
        "lambda: 1",
        "1 + 1",
        "[1]",
        "1 < 2 < 3",
        "subject.name if 1 else 2",
        "x := 1",
        "f'{subject}'",
        "-1",
        "b'x'",
        "...",
        "1j",
        "not " * 30 + "1",
        "(" * 300,
        "\0",
        "\ud800",
        "subject.name == 'a' and __import__('os')",
        "1 " * 300,
        "subject; incident",
        "*subject",
    ],
)
def test_what_is_no_comparison_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        compile_expression(text)


words = st.sampled_from(
    [
        "subject",
        "incident",
        ".",
        "name",
        "can",
        "==",
        "<",
        ">=",
        "in",
        "not",
        "and",
        "or",
        "(",
        ")",
        "'x'",
        "1",
        "2.5",
        "None",
        "True",
        "is",
        "if",
        "else",
        "lambda",
        "[",
        "]",
        "-",
        "!=",
        " ",
    ]
)


@given(st.one_of(st.text(max_size=60), st.lists(words, max_size=30).map(" ".join)))
@example("subject.name." + "a." * 200)
@settings(max_examples=400, deadline=None)
def test_whatever_is_written_is_refused_with_valueerror_or_can_be_evaluated(text: str) -> None:
    try:
        evaluate = compile_expression(text)
    except ValueError:
        return
    for names in (NAMES, {}, {"subject": None, "incident": 3}, {"subject": {"name": {}}, "incident": {"x": []}}):
        evaluate(names)


# -- reading rules ---------------------------------------------------------------------------------------------------


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_rules(text, "mine.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_the_shipped_rules_are_sound_and_every_one_of_them_ends_at_a_human() -> None:
    rules = shipped_rules()

    assert [r.runbook for r in rules] == ["dead", "hung", "gray", "exhausting", "filling", "tell"]
    for one in rules:
        telling = [s for s in one.states.values() if any(d.action == "notify.human" for d in s.do)]
        assert telling, one.runbook
        walked = walk(ladder(), incident(one.trigger.anomaly.replace("*", "x")), situation(), Result.REFUTED)
        assert walked[-1] == "tell", one.runbook


def test_every_mistake_of_a_rule_is_named_with_its_place() -> None:
    told = mistakes("""
runbook: bad
summary: has mistakes
trigger: {anomaly: hung, if: "subject.("}
initial: begn
states:
  begin: {do: {action: service.restart}, done: healed, failed: [{to: tel, if: "1 +"}]}
  idle: {done: tell, failed: tell}
  tell: {do: {action: notify.human, args: {x: "="}}, done: told}
  healed: {final: true, done: begin}
  told: {final: true}
""")
    for part in (
        "there is no state 'begn'",
        "there is no state 'tel'; did you mean 'tell'?",
        "the last branch has a condition",
        "'1 +' is no expression",
        "idle: has nothing to do",
        "tell.failed: where does it go?",
        "a final state does nothing",
        "trigger",
        "'subject.('",
        "tell: '' is no expression",
    ):
        assert [line for line in told if part in line], (part, told)
    assert all(line.startswith("mine.yaml: bad: ") for line in told)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{runbook: x", "is no YAML"),
        ("just text", "mine.yaml"),
        ("runbook: x\n", "summary: Field required"),
        ("runbook: x\nsumary: y\n", "sumary: Extra inputs are not permitted"),
        ("- a\n- b\n", "mine.yaml"),
    ],
)
def test_what_is_no_rule_is_a_mistake_and_never_a_crash(text: str, part: str) -> None:
    assert any(part in line for line in mistakes(text))


def test_a_place_in_broken_yaml_is_told_by_its_line() -> None:
    assert mistakes("runbook: x\nsummary: [\n")[0].startswith("mine.yaml:3: ")


@pytest.mark.parametrize(
    "wrong",
    [
        {"retry": {"max": 4}},
        {"retry": {"max": 0}},
        {"timeout": "0s"},
        {"timeout": "x"},
        {"on_unknown": "guess"},
        {"verb": "x"},
    ],
)
def test_a_step_out_of_bounds_is_refused(wrong: dict[str, Any]) -> None:
    bad = rule()
    bad["states"]["first"]["do"].update(wrong)

    with pytest.raises(ValueError):
        Config.model_validate({"rules": [bad]})


def test_a_rule_without_an_end_is_refused() -> None:
    circle = rule(
        states={
            "first": {"do": {"action": "notify.human"}, "done": "second", "failed": "second"},
            "second": {"do": {"action": "notify.human"}, "done": "first", "failed": "first"},
            "end": {"final": True},
        }
    )

    with pytest.raises(ValueError, match="no end can be reached from it"):
        Config.model_validate({"rules": [circle]})


def test_a_rule_that_goes_on_after_the_proof_is_refused() -> None:
    """The incident is over then: what stands behind it would never be done, and its author would wait for it."""
    wrong = rule(
        states={
            "first": {"do": {"action": "service.restart"}, "done": "second", "failed": "end"},
            "second": {"do": {"action": "notify.human"}, "done": "end", "failed": "end"},
            "end": {"final": True},
        }
    )

    with pytest.raises(ValueError, match="'second' must be final"):
        Config.model_validate({"rules": [wrong]})


def test_a_mistake_in_a_rule_of_ones_own_is_found_when_the_configuration_is_checked() -> None:
    """Not when the daemon starts: `validate` only looks at settings and builds no planner."""
    with pytest.raises(ValueError, match="there is no state 'nowhere'"):
        Config.model_validate({"rules": [rule(initial="nowhere")]})


def test_on_and_off_stay_words_and_true_and_false_do_not() -> None:
    (one,) = read_rules(
        """
runbook: words
summary: s
trigger: {anomaly: x}
initial: a
states: {a: {do: {action: n.h, args: {mode: on, other: off, real: true}}, done: e, failed: e}, e: {final: true}}
""",
        "mine.yaml",
    )

    assert one.states["a"].do[0].args == {"mode": "on", "other": "off", "real": True}


def test_several_rules_of_one_file_keep_their_order() -> None:
    one = "runbook: {}\nsummary: s\ntrigger: {{anomaly: x}}\ninitial: a\nstates: {{a: {{final: true}}}}\n"

    assert [r.runbook for r in read_rules(f"{one.format('p')}---\n{one.format('q')}---\n", "f")] == ["p", "q"]


# -- which rule ------------------------------------------------------------------------------------------------------


def chosen(the: Ladder, fault: str = "hung", subject: Subject | None = None) -> str:
    found = the.rule_for(incident(fault), subject or web())
    return found.runbook if found else ""


def test_own_rules_are_asked_before_the_shipped_ones_in_their_order() -> None:
    the = ladder(rule("first"), rule("second"))

    assert chosen(the) == "first"
    assert chosen(the, "dead") == "dead"
    assert chosen(the, "never-heard-of") == "tell"


def test_without_the_shipped_rules_a_fault_no_rule_speaks_of_is_only_shown() -> None:
    the = ladder(rule(), shipped=False)

    assert chosen(the, "dead") == ""
    assert the.plan(incident("dead"), situation()) is None


def test_a_rule_is_for_certain_faults_subjects_and_conditions() -> None:
    the = ladder(
        rule("globs", trigger={"anomaly": "exhaust*", "subjects": ["db*"]}),
        rule("asks", trigger={"anomaly": "hung", "if": "subject.kind == 'unit'"}),
        shipped=False,
    )

    assert chosen(the, "exhausting-memory") == ""
    assert chosen(the, "exhausting-memory", Subject("db1")) == "globs"
    assert chosen(the, "hung") == ""
    assert chosen(the, "hung", web(kind="unit")) == "asks"


def test_a_subject_may_name_its_rule_and_then_no_other_counts() -> None:
    the = ladder(rule("first"), rule("special", "other"))

    assert chosen(the, "hung", web(rules={"hung": "special"})) == "special"
    assert chosen(the, "hung", web(rules={"hung": "gone"})) == ""


# -- climbing --------------------------------------------------------------------------------------------------------


def test_the_first_rung_does_what_controls_the_subject() -> None:
    plan = ladder().plan(incident(), situation())

    assert plan is not None
    (step,) = plan.steps
    assert (plan.rule, plan.rung, plan.mode) == ("hung", "restart", "auto")
    assert (step.action, step.target, step.args, step.timeout) == ("process.restart", "web", {"grace": "200ms"}, 60.0)
    assert step.expect is not None and (step.expect.within, step.expect.hold) == (30.0, 3.0)
    assert plan.because == ("it hangs", "rule hung v1, rung restart")
    unit = ladder().plan(incident(), situation(web(kind="unit", controller={"restart": "systemd.restart"})))
    assert unit is not None and unit.steps[0].action == "systemd.restart"


def test_a_failing_ladder_is_walked_to_the_human_and_rungs_that_do_not_apply_are_left_out() -> None:
    the = ladder()

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
    assert walk(ladder(), incident("dead"), situation(web(controller={})), Result.REFUTED) == ["tell"]


def test_a_refusal_is_not_tried_again_on_the_same_rung() -> None:
    assert walk(ladder(), incident(), situation(), Result.REFUSED) == ["restart", "tell"]


def test_the_rung_with_dependencies_treats_them_first_and_is_proved_by_its_last_step() -> None:
    subject = web(data={"restart_dependencies": True}, depends_on=("db", "gone"))
    below = Subject("db", controller={"restart": "systemd.restart"})
    plan = ladder().plan(incident(rung="dependency"), situation(subject, below))

    assert plan is not None
    assert [(s.action, s.target, s.expect is not None) for s in plan.steps] == [
        ("systemd.restart", "db", False),
        ("process.restart", "web", True),
    ]
    assert [s.id for s in plan.steps] == [f"{plan.id}.1", f"{plan.id}.2"]


def test_after_as_many_equal_tries_as_allowed_the_next_rung_comes() -> None:
    the = ladder()
    tried: dict[str, Any] = {"equal_tries": 3, "latest_action": "process.restart", "latest_target": "web"}
    plan = the.plan(incident(), situation(**tried))
    assert plan is not None and plan.rung == "tell"
    assert "process.restart was tried 3 times in a row" in plan.because

    other = the.plan(incident(), situation(equal_tries=3, latest_action="process.start"))
    assert other is not None and other.rung == "restart"


def test_a_rung_that_does_something_else_first_is_no_equal_try() -> None:
    the = ladder()
    tried: dict[str, Any] = {"equal_tries": 3, "latest_action": "process.restart", "latest_target": "web"}
    cleaned = the.plan(incident(), situation(web(data={"cleanup": [{}]}), **tried))
    assert cleaned is not None and cleaned.rung == "clean"

    subject = web(data={"restart_dependencies": True}, depends_on=("db",))
    below = the.plan(incident(), situation(subject, Subject("db", controller=PROCESS), **tried))
    assert below is not None and below.rung == "dependency"


def test_after_a_pass_it_begins_again_and_says_so() -> None:
    the, at, where = ladder(), incident(rung="tell"), situation()
    plan = the.plan(at, where)
    assert plan is not None
    after = the.after(at, plan, outcome(plan, Result.UNVERIFIED), where)

    assert (after.state, after.rung, after.tries, after.passes) == (IncidentState.ESCALATED, "", 0, 1)
    again = the.plan(after, where)
    assert again is not None and again.rung == "restart"
    assert again.id != the.plan(at, where).id  # type: ignore[union-attr]  # it was planned a moment ago


def test_a_plan_has_the_same_name_until_something_was_done() -> None:
    """So that an approval finds the plan it was given to, and a second try has an intent of its own."""
    the = ladder()

    def name(at: Incident, **more: Any) -> str:
        plan = the.plan(at, situation(**more))
        assert plan is not None
        return plan.id

    first = name(incident())
    assert name(replace(incident(), summary="still hangs", severity=Severity.CRITICAL)) == first
    assert (
        len(
            {
                first,
                name(incident(tries=1)),
                name(incident(passes=1)),
                name(incident(reopened=1)),
                name(incident(rung="tell")),
                name(incident(), done=1),
            }
        )
        == 6
    )


def test_a_rung_that_the_rule_no_longer_has_begins_at_the_first() -> None:
    plan = ladder().plan(incident(rung="of-yesterday"), situation())

    assert plan is not None and plan.rung == "restart"


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
    the, where = ladder(branching), situation()
    plan = the.plan(incident(), where)
    assert plan is not None and plan.steps[0].args == {"who": "web", "plain": "x"}

    assert the.after(incident(), plan, outcome(plan, Result.REFUTED), where).rung == "second"
    assert the.after(incident(passes=1), plan, outcome(plan, Result.REFUTED), where).rung == "last"


def test_what_takes_a_step_back_is_found_as_the_step_itself_is() -> None:
    undoing = rule()
    undoing["states"]["first"]["do"] = {"action": "service.stop", "undo": "service.start"}
    plan = ladder(undoing).plan(incident(), situation())

    assert plan is not None and plan.steps[0].undo == "process.start"


def test_a_message_to_a_human_says_what_it_is_about() -> None:
    plan = ladder().plan(incident("overloaded", because=("cpu is busy",)), situation())

    assert plan is not None
    (step,) = plan.steps
    assert step.expect is None
    assert step.args == {
        "title": "web: overloaded",
        "text": "it hangs",
        "incident": "inc-0123456789abcdef",
        "severity": "major",
        "reasons": ["cpu is busy"],
    }


@given(
    st.lists(st.sampled_from(list(Result)), max_size=40),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["dead", "hung", "gray", "exhausting-memory", "filling-space", "anything"]),
)
@settings(max_examples=100, deadline=None)
def test_whatever_becomes_of_the_steps_the_ladder_always_has_a_next_rung(
    results: list[Result], cleanup: bool, below: bool, fault: str
) -> None:
    data: dict[str, Any] = {"cleanup": [{}]} if cleanup else {}
    where = situation(
        web(data={**data, "restart_dependencies": below}, depends_on=("db",)), Subject("db", controller=PROCESS)
    )
    the, at = ladder(), incident(fault)
    for result in results:
        plan = the.plan(at, where)
        assert plan is not None and plan.steps
        after = the.after(at, plan, outcome(plan, result), where)
        assert (after.passes, after.tries) > (at.passes, 0) or after.rung != at.rung or after.tries > at.tries
        at = after
