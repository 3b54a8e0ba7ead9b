"""A chart is read for mistakes before it runs; then every state it can get into is looked at."""

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_charts import World, random_definition

from x0tta6bl4.statechart.core.content import Runtime
from x0tta6bl4.statechart.core.machine import Chart
from x0tta6bl4.statechart.core.state import Definition, Kind, State, Variable
from x0tta6bl4.statechart.core.transition import (
    Activity,
    Assign,
    Call,
    Cancel,
    ForEach,
    If,
    Log,
    Raise,
    Result,
    Send,
    Transition,
)
from x0tta6bl4.statechart.persistence.model import reachable
from x0tta6bl4.statechart.persistence.serializer import snapshot
from x0tta6bl4.statechart.persistence.validator import Report, check
from x0tta6bl4.statechart.runtime import executor
from x0tta6bl4.statechart.runtime.executor import EndlessLoop, handle, new, observe, start


@pytest.fixture(autouse=True, scope="module")
def _random_charts_that_go_round_in_a_circle_are_stopped_soon() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "MICROSTEPS", 200)
        yield


def chart(*states: State, transitions: tuple[Transition, ...] = (), **keys: object) -> Definition:
    root = {key: keys.pop(key) for key in ("variables", "kind", "initial", "invariants", "entry") if key in keys}
    return Definition("book", State(states=states, transitions=transitions, **root), **keys)  # type: ignore[arg-type]  # as given


def told(report: Report, rule: str | None = None) -> list[str]:
    return [str(problem) for problem in report.problems if rule in (None, problem.rule)]


def to(event: str, target: str, guard: str | None = None) -> Transition:
    return Transition(event, (target,), guard)


END = State("end", Kind.FINAL)


def test_a_sound_chart_has_no_problems():
    report = check(chart(State("a", transitions=(Transition("go", ("end",)),)), END))

    assert [] == told(report)
    assert report.ok
    assert report.complete


# --- words and targets ---


def test_all_mistakes_are_told_at_once_with_place_value_and_remedy():
    report = check(
        chart(
            State("work", transitions=(Transition("go", ("wrok",)), Transition("a..b", ("end",)))),
            State("work", transitions=(Transition("x", (), after="5 parsecs"),)),
            END,
        )
    )

    assert [
        "state 'work': another state has the same id; rename one of them",
        "state 'work': transition 1 (go -> wrok): there is no state 'wrok'; did you mean 'work'?",
        "state 'work': transition 2 (a..b -> end): 'a..b' is no event descriptor; write it like 'a.b', 'a.*' or '*'",
        "state 'work': transition 1 (after 5 parsecs): has more than one of event, after and when; "
        "make a transition of each",
    ] == told(report)[:4]
    assert len(report.problems) == 5
    assert told(report)[4].startswith("state 'work': transition 1 (after 5 parsecs): after: '5 parsecs' is no duration")
    assert not report.ok
    assert not report.complete


PAIR = State(
    "both",
    Kind.PARALLEL,
    (
        State("left", states=(State("l1"), State("l2"))),
        State("right", states=(State("r1"), State("r2"))),
    ),
)


@pytest.mark.parametrize(
    ("states", "rule", "message"),
    [
        ((State("a", states=(State("b"),), initial=("c",)), State("c")), "initial", "initial 'c' is not inside it"),
        ((State("a", states=(State("b"),), initial=("x",)),), "target", "there is no state 'x'"),
        ((State("a", initial=("a",)),), "initial", "but it has no states"),
        ((State("a", states=(State("h", Kind.HISTORY, transitions=(Transition(to=("a",)),)),)),), "initial", "nothing"),
        ((State("h", Kind.HISTORY), State("a")), "default", "needs exactly one transition"),
        (
            (State("a", states=(State("b"), State("h", Kind.HISTORY, transitions=(to("", "c"),)))), State("c")),
            "default",
            "its target 'c' is not inside state 'a'",
        ),
        ((State("a"), State("c", Kind.CHOICE)), "default", "needs a last transition without a guard"),
        (
            (State("a"), State("c", Kind.JUNCTION, transitions=(Transition(to=("a",), guard="1 > 0"),))),
            "default",
            "has no way out without a guard",
        ),
        (
            (State("a"), State("c", Kind.CHOICE, transitions=(Transition("e", ("a",)),))),
            "kind",
            "does not wait in a choice",
        ),
        ((State("a", Kind.FINAL, transitions=(Transition("e", ("a",)),)),), "final", "cannot be left"),
        ((State("a", Kind.FINAL, (State("b"),)),), "kind", "cannot have states of its own"),
        ((State("a", Kind.TERMINATE, transitions=(Transition(to=("a",)),)), State("b")), "kind", "nothing comes after"),
        ((State("a"), State("j", Kind.JOIN, transitions=(Transition(to=("a",)),))), "default", "no transition leads"),
        ((State("a", result=Result("1")),), "final", "only a final state has a result"),
        ((State("a", Kind.PARALLEL),), "region", "needs regions"),
        ((State("a", Kind.PARALLEL, (END, State("b"))),), "region", "region 'end' is a final state"),
        ((PAIR, State("s", transitions=(Transition("e", ("l1", "l2")),))), "target", "cannot be active together"),
        ((PAIR, State("s", transitions=(Transition("e", ("l1", "left")),))), "target", "cannot be active together"),
        ((State("a", transitions=(Transition(do=(Raise("x"),)),)),), "endless", "taken for ever"),
        ((State("a", transitions=(Transition(to=("a",)),)),), "endless", "back to its own state"),
        ((State("a", transitions=(Transition("a.*b"),)),), "event", "'a.*b' is no event descriptor"),
        ((State("a", defer=("..",)),), "event", "defer: '..' is no event descriptor"),
        ((State("a", transitions=(to("e", "a", "nmae > 1"),), variables=(Variable("name"),)),), "expression", "'name'"),
        ((State("a", transitions=(Transition("e", guard="In('b')"),)),), "expression", "there is no state 'b'"),
        ((State("a", transitions=(Transition("e", guard="1 +"),)),), "expression", "`1 +`"),
        ((State("a", transitions=(Transition(when="nothing"),)),), "expression", "'nothing'"),
        ((State("a", transitions=(Transition(after="=later"),)),), "expression", "'later'"),
        ((State("a", transitions=(Transition(after=-3),)),), "delay", "-3"),
        ((State("a", variables=(Variable("x", type="list[sting]"),)),), "type", "no type"),
        ((State("a", variables=(Variable("x", value="y", type="integer"),)),), "type", "its first value is not"),
        ((State("a", variables=(Variable("x"), Variable("x"))),), "variable", "declared twice"),
        ((State("a", variables=(Variable("_event"),)),), "variable", "no usable name"),
        ((State("a", invariants=("missing",)),), "expression", "'missing'"),
        ((State("a", activities=(Activity(parameters=(("p", "missing"),)),)),), "expression", "activity: p: "),
        ((State("a", entry=((Assign("x", "1"),),)),), "expression", "entry: set: "),
        ((State("a", entry=((Assign("_name", "1"),),)),), "expression", "'_name' cannot be assigned"),
        ((State("a", entry=((If((("q", ()), (None, (Log(expression="r"),)))),),)),), "expression", "log: "),
        ((State("a", entry=((ForEach("[1]", "i", do=(Log("", "i"), Log("", "k"))),),)),), "expression", "'k'"),
        ((State("a", entry=((Send("e", delay="soon"),),)),), "delay", "'soon'"),
        ((State("a", entry=((Send("e f"),),)),), "event", "'e f' is no event name"),
        ((State("a", entry=((Cancel(id_expression="w"),),)),), "expression", "cancel: id: "),
        ((State("a b"),), "id", "must not contain blanks"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_rule(states: tuple[State, ...], rule: str, message: str):
    report = check(chart(*states))

    assert [text for text in told(report, rule) if message in text], told(report)


def test_a_variable_of_a_state_is_not_known_outside_it_unless_the_chart_says_so():
    states = (
        State("a", variables=(Variable("x", value=1),), transitions=(Transition("go", ("b",), guard="x > 0"),)),
        State("b", transitions=(Transition("go", ("a",), guard="x > 0"),)),
    )

    assert ["state 'b': transition 1 (go -> a): if"] == [
        t[:38].rstrip(":") for t in told(check(chart(*states)), "expression")
    ]
    assert [] == told(check(chart(*states, scoping="global")), "expression")


def test_what_a_chart_that_is_not_strict_cannot_compile_is_a_warning():
    report = check(chart(State("a", transitions=(Transition("go", ("end",), guard="1 +"),)), END, strict=False))

    assert ["warning"] == [problem.level for problem in report.problems]
    assert report.ok


def test_functions_are_taken_as_they_are():
    report = check(chart(State("a", transitions=(Transition("e", ("end",), lambda scope: True, (Call(print),)),)), END))

    assert [] == told(report)


# --- every state it can get into ---

NEVER = (
    "is never taken: its event does not come while the state is active, or its guard never holds; "
    "remove it, or raise or send the event"
)


def act(id: str, *transitions: Transition, **keys: object) -> State:
    """A state that waits for an activity, whose answers are ``done.act.ID`` and ``failed.act.ID``."""
    named = tuple(
        Transition(f"{t.event}.act.{id}" if t.event in ("done", "failed", "unknown") else t.event, t.to, t.guard, t.do)
        for t in transitions
    )
    return State(id, transitions=named, activities=(Activity("act"),), **keys)  # type: ignore[arg-type]  # as given


def link_loss(**changed: State) -> Definition:
    """A mesh link that loses packets: repaired in one region, watched in another; held, resumed, rolled back."""
    repair = State(
        "repair",
        states=(
            act(
                "diagnose",
                to("done", "rekey", "result.age > 180"),
                to("done", "reroute", "result.peer_up == false"),
                to("done", "restart"),
                to("failed", "gave_up"),
            ),
            act("rekey", to("done", "verify"), to("failed", "reroute"), to("unknown", "verify")),
            act(
                "restart",
                to("done", "verify"),
                to("failed", "restart", "attempts < 2"),
                to("failed", "reroute"),
                to("unknown", "verify"),
            ),
            act("reroute", to("done", "verify"), to("failed", "gave_up"), to("unknown", "gave_up")),
            State(
                "verify",
                states=(
                    State("settle", transitions=(Transition(to=("probing",), after="5s"),)),
                    act(
                        "probing",
                        to("done", "repaired", "result.loss < 0.02"),
                        to("done", "reroute", "via == '' and attempts >= 2"),
                        to("done", "restart", "attempts < 2"),
                        to("done", "gave_up"),
                        to("failed", "gave_up"),
                    ),
                ),
            ),
            State("gave_up", entry=((Raise("repair.gave_up"),),)),
            State("repaired", Kind.FINAL),
        ),
    )
    watch = State(
        "watch",
        states=(
            State("calm", transitions=(to("link.loss", "noisy", "_event.data.loss > 0.5"),)),
            State(
                "noisy",
                transitions=(to("link.ok", "calm"), Transition(after="2m", do=(Send("worse", target="#_bus"),))),
            ),
        ),
    )
    work = State(
        "work",
        Kind.PARALLEL,
        (repair, watch),
        transitions=(to("repair.gave_up", "rolling_back"), to("done.state.repair", "resolved")),
    )
    was = State("was", Kind.DEEP_HISTORY, transitions=(Transition(to=("work",)),))
    states = {
        "active": State(
            "active",
            states=(work, was),
            transitions=(
                to("operator.hold", "held"),
                to("operator.abort", "rolling_back"),
                to("policy.freeze", "held"),
                Transition(to=("rolling_back",), after="15m"),
            ),
        ),
        "held": State(
            "held",
            transitions=(
                to("operator.resume", "was"),
                to("operator.abort", "rolling_back"),
                Transition(to=("escalated",), after="24h"),
            ),
        ),
        "rolling_back": State(
            "rolling_back",
            states=(
                State("next", transitions=(to("", "undoing", "len(undo) > 0"), to("", "undone"))),
                act("undoing", to("done", "popped"), to("failed", "undone"), to("unknown", "undone")),
                State("popped", transitions=(Transition(to=("next",), do=(Assign("undo", "pop(undo)"),)),)),
                State("undone", entry=((Raise("rollback.done"),),)),
            ),
            transitions=(Transition("operator.hold", do=(Log("not held"),)), to("rollback.done", "escalated")),
        ),
        "escalated": State(
            "escalated",
            transitions=(
                to("operator.close", "closed"),
                to("link.ok", "closed"),
                Transition(to=("closed",), after="24h"),
            ),
        ),
        "resolved": State("resolved", Kind.FINAL),
        "closed": State("closed", Kind.FINAL),
    }
    data = (Variable("attempts", value=0), Variable("via", value=""), Variable("undo", value=[]))
    return Definition("link-loss", State(states=tuple((states | changed).values()), variables=data))


def test_a_whole_runbook_is_found_sound():
    report = check(link_loss(), people=())

    assert [] == told(report)
    assert report.complete
    assert 100 < report.states < 1000
    assert report.edges > report.states


def test_a_state_that_waits_for_nothing_that_comes_by_itself_is_told_with_the_shortest_way_there():
    forgotten = State("held", transitions=(to("operator.resume", "was"),))

    report = check(link_loss(held=forgotten), people=())

    assert (
        "chart: in 'held' it waits with neither a timer nor an activity nor an event that people send; add `after`, "
        "or a way out [operator.hold]" in told(report, "waits")
    )
    assert [] == told(check(link_loss(held=forgotten), people=("operator",)))
    assert [] == told(check(link_loss(held=forgotten)))


def test_what_cannot_end_is_told_with_the_shortest_way_there():
    loop = State("held", transitions=(Transition(to=("held",), after="24h"),))

    (problem,) = check(link_loss(held=loop), people=()).problems

    assert "no-end" == problem.rule
    assert "in 'held' no end can be reached (nor from " in problem.what
    assert ("operator.hold",) == tuple(step.event for step in problem.path or ())


def test_a_chart_without_an_end_is_not_blamed_for_it_unless_it_must_end():
    toggle = chart(State("on", transitions=(to("push", "off"),)), State("off", transitions=(to("push", "on"),)))

    assert [] == told(check(toggle))
    assert [
        "chart: in 'on' no end can be reached (nor from 1 more that it can rest in); add a way to a final state []"
    ] == (told(check(toggle, must_end=True)))


def test_a_counterexample_names_the_answers_of_guards():
    states = (
        State("a", transitions=(to("go", "b", "x > 1"), to("go", "end"))),
        State("b", transitions=(to("", "c", "y"), to("go", "end"))),
        State("c"),
        END,
    )

    report = check(chart(*states, variables=(Variable("x", value=0), Variable("y", value=False))))

    assert [
        "chart: in 'c' no end can be reached; add a way to a final state [go (`x > 1` holds, `y` holds)]",
        "chart: in 'c' it waits with neither a timer nor an activity nor any event; add `after`, or a way out "
        "[go (`x > 1` holds, `y` holds)]",
    ] == told(report)


def test_a_guard_that_asks_only_for_states_is_answered_exactly():
    regions = (
        State(
            "l",
            states=(
                State("l1", transitions=(to("go", "l2", "In('r2')"),)),
                State("l2", transitions=(to("", "end", "In('r1')"),)),
            ),
        ),
        State("r", states=(State("r1"), State("r2"))),
    )

    report = check(chart(State("p", Kind.PARALLEL, regions), END))

    assert [
        f"state 'l1': transition 1 (go -> l2): {NEVER} []",
        "state 'l2': is never entered; add a transition to it or remove it",
        "state 'r2': is never entered; add a transition to it or remove it",
        "state 'end': is never entered; add a transition to it or remove it",
    ] == [text for text in told(report) if "never" in text]


def test_a_transition_behind_one_that_asks_nothing_is_told():
    states = (State("a", transitions=(to("go.*", "end"), to("go.fast", "a", "1 > 0"), to("stop", "a"))), END)

    assert [
        "state 'a': transition 2 (go.fast -> a): is never taken: transition 1 (go.*) takes the same and asks nothing "
        "before it; move this one up or remove it []"
    ] == told(check(chart(*states)))


def test_a_transition_that_inner_ones_never_leave_anything_for_is_told():
    inner = (State("b", transitions=(to("go", "c"),)), State("c", transitions=(to("go", "end"),)))
    states = (State("a", states=inner, transitions=(to("go", "d"),)), State("d", transitions=(to("x", "end"),)), END)

    assert [
        "state 'a': transition 1 (go -> d): is never taken: state 'b': transition 1 (go -> c) is further in and takes "
        "the same before it; give that one a guard or remove this one []"
    ] == told(check(chart(*states)), "shadowed")


def test_regions_whose_transitions_exclude_each_other_are_told():
    left = State("l", transitions=(to("go", "x", "fast"),))
    right = State("r", transitions=(to("go", "y"),))
    states = (
        State("p", Kind.PARALLEL, (left, right)),
        State("x", transitions=(to("go", "end"),)),
        State("y", transitions=(to("go", "end"),)),
        END,
    )

    (problem,) = check(chart(*states, variables=(Variable("fast", value=True),))).problems

    assert ("conflict", "warning", "state 'l': transition 1 (go -> x)") == (problem.rule, problem.level, problem.where)
    assert "can be enabled together with state 'r': transition 1 (go -> y)" in problem.what
    assert ["go (`fast` holds)"] == list(map(str, problem.path or ()))


def test_regions_whose_transitions_stay_inside_them_do_not_exclude_each_other():
    regions = (
        State("l", states=(State("l1", transitions=(to("go", "l2"),)), State("l2"))),
        State("r", states=(State("r1", transitions=(to("go", "r2"),)), State("r2"))),
    )

    assert [] == told(check(chart(State("p", Kind.PARALLEL, regions))), "conflict")


def test_an_inner_transition_that_comes_before_an_outer_one_is_no_conflict():
    inner = State("l", states=(State("l1", transitions=(to("go", "l2"),)), State("l2", transitions=(to("x", "end"),))))
    outer = State("p", Kind.PARALLEL, (inner, State("r")), transitions=(to("go", "end"),))

    assert [] == told(check(chart(outer, END)))


def test_what_goes_on_for_ever_without_any_event_is_told():
    states = (
        State("a", transitions=(to("go", "b"),)),
        State("b", transitions=(to("", "c", "x"), to("next", "end"))),
        State("c", transitions=(to("", "d"),)),
        State("d", transitions=(to("", "c"),)),
        END,
    )

    (problem,) = check(chart(*states, variables=(Variable("x", value=True),))).problems

    assert "endless" == problem.rule
    assert problem.what.startswith("never comes to rest in 'c'")
    assert ["go (`x` holds)"] == list(map(str, problem.path or ()))


def test_a_loop_that_a_guard_can_end_is_none_for_ever():
    states = (
        State("a", transitions=(to("", "b", "x > 0"), to("go", "end"))),
        State("b", transitions=(to("", "a"),)),
        END,
    )

    assert [] == told(check(chart(*states, variables=(Variable("x", value=1),))))


def test_raised_events_and_completion_are_exact():
    work = State(
        "work",
        states=(State("w", transitions=(Transition("go", ("done",), do=(Raise("note"),)),)), State("done", Kind.FINAL)),
        transitions=(to("done.state.work", "late"), to("note", "early")),
    )

    report = check(
        chart(work, State("early", transitions=(to("x", "end"),)), State("late", transitions=(to("x", "end"),)), END)
    )

    # `note` was raised before the completion, and is taken before it.
    assert [
        f"state 'work': transition 1 (done.state.work -> late): {NEVER} []",
        "state 'late': is never entered; add a transition to it or remove it",
    ] == told(report)


def test_both_ways_of_a_branch_that_raises_are_looked_at():
    entry = (If((("x > 1", (Raise("big"),)), (None, (Raise("small"),)))),)
    states = (
        State("a", transitions=(to("go", "b"),)),
        State("b", entry=(entry,), transitions=(to("big", "end"), to("small", "stuck"))),
        State("stuck"),
        END,
    )

    (first, *_) = told(check(chart(*states, variables=(Variable("x", value=0),))), "no-end")

    assert "[go (`x > 1` does not hold)]" in first


def test_deferred_events_come_back_where_they_can_be_taken():
    states = (
        State("busy", transitions=(to("ready", "free"),), defer=("ask",)),
        State("free", transitions=(to("ask", "answered"),)),
        State("answered", transitions=(to("bye", "end"),)),
        END,
    )

    found, complete = reachable(chart(*states))

    assert complete
    assert {("busy",): ["", "ask"], ("free",): [""], ("answered",): [""]} == {
        states: [" ".join(c.deferred) for c in found if c.states == states] for states in {c.states for c in found}
    }
    (answered,) = [c for c in found if c.states == ("answered",)]
    assert ["ask", "ready"] == sorted(map(str, answered.path))


def test_an_answer_comes_only_while_its_activity_runs():
    states = (
        act("first", to("done", "second"), Transition("hold", ("held",))),
        act("second", to("done", "end")),
        State("held", transitions=(to("done.act.first", "second"), Transition(to=("end",), after="1h"))),
        END,
    )

    assert [f"state 'held': transition 1 (done.act.first -> second): {NEVER} [hold]"] == told(
        check(chart(*states), people=())
    )


def test_the_limit_is_told_when_it_is_hit():
    report = check(link_loss(), limit=50)

    assert not report.complete
    assert ["chart: has more than 50 states to rest in; not all of them were looked at"] == told(report)
    assert report.ok


def test_a_junction_a_fork_and_a_join_are_looked_through():
    regions = (
        State("l", states=(State("l1", transitions=(to("go", "l2"),)), State("l2", transitions=(to("", "j"),)))),
        State("r", states=(State("r1", transitions=(to("go", "r2"),)), State("r2", transitions=(to("", "j"),)))),
    )
    states = (
        State("a", transitions=(to("start", "k"),)),
        State("k", Kind.JUNCTION, transitions=(to("", "end", "x"), Transition(to=("l1", "r1")))),
        State("p", Kind.PARALLEL, regions),
        State("j", Kind.JOIN, transitions=(to("", "end"),)),
        END,
    )

    report = check(chart(*states, variables=(Variable("x", value=False),)))

    assert [] == told(report)
    assert (3, True) == (report.states, report.complete)


# --- the model and the engine ---


@given(st.integers(0, 2**32))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_wherever_an_instance_comes_to_rest_the_model_was_there(seed: int):
    random = Random(seed)
    definition = random_definition(random)
    found, complete = reachable(definition, limit=300)
    if not complete:
        return
    known = {(c.states, tuple(sorted(c.history.items())), c.deferred) for c in found}
    instance = new(Chart(definition), "i-1", Runtime())
    world = World()
    try:
        start(instance)
        world.told(instance.runtime.effects)
        for event in world.events(random, 15):
            plain = snapshot(instance)
            history = tuple(sorted((name, tuple(states)) for name, states in plain["history"].items()))
            waiting = tuple(dict.fromkeys(event["name"] for event in plain["deferred"]))
            assert not instance.running or (instance.configuration, history, waiting) in known
            instance.runtime.effects.clear()
            instance.seq += 1
            handle(instance, event)
            observe(instance)
            world.told(instance.runtime.effects)
    except EndlessLoop:
        return
