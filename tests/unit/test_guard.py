"""The guard: each check with its sentence, their order, and that nothing lets more through than agreed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x0tta6bl4.kernel.facts import (
    Answer,
    Condition,
    Incident,
    IncidentState,
    Observation,
    Plan,
    Result,
    Severity,
    Step,
    Verdict,
)
from x0tta6bl4.kernel.flags import FeatureFlags
from x0tta6bl4.kernel.guard import CHAIN, Case, Guard, Ledger, Standing, backoff, decision, window_end
from x0tta6bl4.kernel.memory import ActionRecord, Approval, Pause
from x0tta6bl4.kernel.plugin import Action, PluginConfig
from x0tta6bl4.kernel.policy import GuardPolicy, Maintenance
from x0tta6bl4.kernel.sight import Sight
from x0tta6bl4.kernel.subjects import Mode, Subject

NOW = 1_750_000_000.0
RESTART = Action("restart", "restarts it", PluginConfig)
HUMAN = Action("human", "tells a human", PluginConfig, disruptive=False)
BERLIN = ZoneInfo("Europe/Berlin")


def policy(**more: Any) -> GuardPolicy:
    return GuardPolicy.model_validate({"allow": ["*"], **more})


def guard(*subjects: Subject, records: Sequence[ActionRecord] = (), **more: Any) -> Guard:
    known = {s.name: s for s in subjects or (Subject("web", mode="auto"),)}
    return Guard(policy(**more), FeatureFlags(), Ledger(records), Standing(), Sight(known))


def incident(subject: str = "web", signs: tuple[Condition, ...] = ()) -> Incident:
    return Incident(
        "inc-1", subject, "hung", IncidentState.OPEN, Severity.MAJOR, "it hangs", NOW - 5, NOW - 5, healthy_when=signs
    )


def case(
    the: Guard,
    subject: str = "web",
    target: str = "",
    action: str = "process.restart",
    wall: float = NOW,
    of: Incident | None = None,
    plan: str = "plan-1",
    number: int = 1,
    **more: Any,
) -> Case:
    target = target or subject
    step = Step(f"{plan}.{number}", action, target)
    kind = HUMAN if action == "notify.human" else RESTART
    whole = Plan(plan, "inc-1", subject, "hung", "rule", "restart", (step,), ("it hangs",))
    subjects = the.sight.subjects
    return Case(
        whole,
        step,
        kind,
        of or incident(subject),
        subjects.get(subject) or Subject(subject),
        subjects.get(target) or Subject(target),
        wall,
        **more,
    )


def record(
    at: float,
    result: Result | None = Result.VERIFIED,
    took: float = 1.0,
    target: str = "web",
    action: str = "process.restart",
    subject: str = "",
    step: str = "",
    **more: Any,
) -> ActionRecord:
    return ActionRecord(
        step or f"plan-{target}-{at}.1",
        subject or target,
        target,
        action,
        at,
        None if result is None else at + took,
        result,
        incident=more.pop("incident", "inc-1"),
        **more,
    )


def verdict(the: Guard, **more: Any) -> Verdict:
    return decision(the.judge(case(the, **more)))


def stopped_by(the: Guard, **more: Any) -> str:
    said = verdict(the, **more)
    return "" if said.answer is Answer.ALLOW else said.check


def test_nothing_against_it_means_that_every_check_was_asked_and_said_so() -> None:
    the = guard()
    said = the.judge(case(the))

    assert [v.check for v in said] == [name for name, _ in CHAIN]
    assert all(v.answer is Answer.ALLOW and v.sentence for v in said)
    assert decision(said) == Verdict("guard", Answer.ALLOW, "web is in mode auto")


def test_the_checks_stand_in_this_order() -> None:
    """Who reads `why` relies on it: the first reason is the one that an operator has to deal with first."""
    assert [name for name, _ in CHAIN] == [
        "kill switch",
        "precondition",
        "maintenance",
        "other healers",
        "allowlist",
        "mode",
        "backoff",
        "variety",
        "budget",
        "share",
        "storm brake",
        "circuit",
    ]


def test_the_first_check_that_stops_ends_the_chain_and_simulate_hears_them_all() -> None:
    the = guard(Subject("web", mode="observe"), allow=[])
    said = the.judge(case(the))
    everything = the.judge_all(case(the))

    assert said[-1].check == "allowlist"
    assert [v.check for v in everything] == [name for name, _ in CHAIN]
    assert [v.check for v in everything if v.answer is Answer.DENY] == ["allowlist", "mode"]


def test_the_kill_switch_stops_even_messages_and_says_how_to_switch_it_on() -> None:
    the = guard()
    the.flags.set("auto_healing", False)

    for action in ("process.restart", "notify.human"):
        said = verdict(the, action=action)
        assert (said.check, said.answer) == ("kill switch", Answer.DENY)
        assert "flags auto_healing on" in said.sentence


def test_what_cannot_be_journaled_is_not_done() -> None:
    the = guard()
    the.standing.store_trouble = "disk full"

    assert verdict(the).check == "kill switch"
    assert "disk full" in verdict(the).sentence


@pytest.mark.parametrize(("values", "stopped"), [((1.0, 1.0), True), ((1.0, 0.0), False), ((1.0, None), False)])
def test_a_symptom_counts_as_gone_only_when_every_sign_was_seen_to_be_well(
    values: tuple[float | None, ...], stopped: bool
) -> None:
    the = guard()
    signs = (Condition("process_up", ">=", 1), Condition("work_up", ">=", 1))
    the.sight.record(
        [Observation("m", "web", c.metric, v) for c, v in zip(signs, values, strict=True) if v is not None], 10.0
    )
    said = verdict(the, of=incident(signs=signs))

    assert (said.check == "precondition" and said.answer is Answer.DENY) is stopped
    if stopped:
        assert said.sentence == "the symptom is gone: process_up >= 1, work_up >= 1"


@pytest.mark.parametrize("target", ["web", "w*", "*", "db"])
def test_a_pause_on_the_subject_or_on_what_the_step_touches_holds_until_it_ends(target: str) -> None:
    the = guard(Subject("web", mode="auto"), Subject("db", mode="auto"))
    the.standing.pauses = (Pause("p1", target, "pause", "moving disks", "oncall", NOW - 5, NOW + 60),)
    said = verdict(the, target="db")

    assert (said.check, said.answer, said.until) == ("maintenance", Answer.HOLD, NOW + 60)
    assert "paused by oncall until" in said.sentence and said.sentence.endswith("moving disks")
    assert verdict(the, target="db", wall=NOW + 60).answer is Answer.ALLOW


def test_a_pause_of_somebody_else_is_no_reason() -> None:
    the = guard()
    the.standing.pauses = (Pause("p1", "db", "pause", "", "oncall", NOW - 5, NOW + 60),)

    assert verdict(the).answer is Answer.ALLOW


def window(**more: Any) -> Maintenance:
    return Maintenance.model_validate({"timezone": "Europe/Berlin", **more})


def at(text: str, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


def test_a_window_holds_for_the_subject_as_for_the_target() -> None:
    """People work on web: its probe fails, and nobody wants its database restarted for that."""
    single = {
        "targets": ["web"],
        "from": datetime.fromtimestamp(NOW - 5),
        "until": datetime.fromtimestamp(NOW + 5),
        "reason": "deploy",
    }
    the = guard(Subject("web", mode="auto"), Subject("db", mode="auto"), maintenance=[single])

    for target in ("web", "db"):
        said = verdict(the, target=target)
        assert (said.check, said.answer, said.until) == ("maintenance", Answer.HOLD, NOW + 5)
        assert said.sentence.startswith("maintenance window until") and said.sentence.endswith(": deploy")
    assert verdict(the, subject="db").answer is Answer.ALLOW


def test_a_single_window_is_open_from_its_first_moment_and_not_in_its_last() -> None:
    once = window(**{"from": "2030-01-31 22:00", "until": "2030-02-01 02:00"})

    assert window_end(once, at("2030-01-31 21:59:59")) is None
    assert window_end(once, at("2030-01-31 22:00")) == at("2030-02-01 02:00")
    assert window_end(once, at("2030-02-01 02:00")) is None


@pytest.mark.parametrize(
    ("moment", "end"),
    [
        ("2030-01-12 21:59", None),  # a Saturday
        ("2030-01-12 22:00", "2030-01-13 04:00"),
        ("2030-01-13 03:59", "2030-01-13 04:00"),  # Sunday morning belongs to Saturday's window
        ("2030-01-13 04:00", None),
        ("2030-01-13 23:00", None),  # Sunday has none of its own
        ("2030-01-12 03:00", None),  # nor had Friday
    ],
)
def test_a_weekly_window_across_midnight_belongs_to_the_day_it_begins_on(moment: str, end: str | None) -> None:
    weekly = window(days=["sat"], start="22:00", end="04:00")

    assert window_end(weekly, at(moment)) == (None if end is None else at(end))


def test_a_window_that_ends_when_it_begins_lasts_the_whole_day() -> None:
    weekly = window(days=["mon"], start="00:00", end="00:00")

    assert window_end(weekly, at("2030-01-14 12:00")) == at("2030-01-15 00:00")
    assert window_end(weekly, at("2030-01-15 00:00")) is None


def test_a_window_is_meant_in_its_time_zone() -> None:
    in_new_york = window(timezone="America/New_York", start="22:00", end="23:00")
    moment = datetime(2030, 1, 12, 22, 30, tzinfo=ZoneInfo("America/New_York"))

    assert window_end(in_new_york, moment.timestamp()) == moment.timestamp() + 1800
    assert window_end(window(start="22:00", end="23:00"), moment.timestamp()) is None


def test_a_window_over_the_night_in_which_the_clocks_change_lasts_as_long_as_the_clocks_say() -> None:
    weekly = window(start="01:00", end="05:00")
    spring, autumn = at("2030-03-31 01:30"), at("2030-10-27 01:30")

    assert window_end(weekly, spring) == spring + 2.5 * 3600
    assert window_end(weekly, autumn) == autumn + 4.5 * 3600


def test_an_end_in_the_hour_that_comes_twice_is_never_an_end_in_the_past() -> None:
    """A hold until a moment that is over would be looked at again without pause."""
    weekly = window(start="22:00", end="02:30")
    for minutes in range(0, 12 * 60, 5):
        moment = at("2030-10-26 20:00") + minutes * 60
        end = window_end(weekly, moment)
        assert end is None or end > moment


@given(
    st.integers(0, 7 * 24 * 60),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC"]),
    st.integers(0, 23),
    st.integers(0, 23),
    st.sets(st.sampled_from(["mon", "wed", "sat", "sun"]), min_size=1),
    st.sampled_from([1_900_000_000, at("2030-03-29 00:00"), at("2030-10-25 00:00"), at("2031-03-07 00:00")]),
)
def test_an_open_window_has_its_end_ahead_and_is_closed_right_after_unless_the_next_begins(
    minute: int, zone: str, start: int, end: int, days: set[str], base: float
) -> None:
    weekly = window(timezone=zone, start=f"{start}:00", end=f"{end}:00", days=sorted(days))
    moment = base + minute * 60.0
    ends = window_end(weekly, moment)
    if ends is None:
        return

    assert moment < ends <= moment + 25 * 3600
    after = window_end(weekly, ends)
    assert after is None or (start == end and after > ends)


@pytest.mark.parametrize(
    ("metric", "detail", "answer", "part"),
    [
        ("unit_job", "restart", Answer.HOLD, "systemd has a restart job for it under way"),
        ("unit_auto_restart", "2nd time", Answer.HOLD, "systemd's own Restart= is at it (2nd time)"),
        ("unit_stopped_on_purpose", "stopped by root", Answer.DENY, "stopped by root"),
    ],
)
def test_what_other_healers_do_is_left_to_them(metric: str, detail: str, answer: Answer, part: str) -> None:
    the = guard()
    the.sight.record([Observation("unit", "web", metric, 1.0, detail=detail)], 10.0)
    said = verdict(the)

    assert (said.check, said.answer, said.sentence) == ("other healers", answer, part)
    the.sight.record([Observation("unit", "web", metric, 0.0)], 11.0)
    assert verdict(the).answer is Answer.ALLOW


def test_what_is_not_on_the_allowlist_is_denied_and_told_where_to_permit_it() -> None:
    the = guard(allow=["process.start", "systemd.*"])
    said = verdict(the)

    assert (said.check, said.answer) == ("allowlist", Answer.DENY)
    assert said.sentence == "process.restart is not among guard.allow; add it there to permit it"
    assert verdict(the, action="systemd.restart").answer is Answer.ALLOW
    assert verdict(the, action="notify.human").answer is Answer.ALLOW


@pytest.mark.parametrize(
    ("mode", "answer", "part"),
    [
        ("auto", Answer.ALLOW, ""),
        ("observe", Answer.DENY, "only watched"),
        ("suggest", Answer.DENY, "would do process.restart on web"),
        ("approve", Answer.HOLD, "x0tta6bl4 approve plan-1"),
    ],
)
def test_the_mode_says_who_decides(mode: Any, answer: Answer, part: str) -> None:
    the = guard(Subject("web", mode=mode))
    said = verdict(the)

    assert said.answer is answer
    assert answer is Answer.ALLOW or (said.check == "mode" and part in said.sentence)


def test_a_human_is_told_in_every_mode_but_observe() -> None:
    modes: tuple[Mode, ...] = ("auto", "suggest", "approve")
    for mode in modes:
        the = guard(Subject("web", mode=mode))
        assert verdict(the, action="notify.human").answer is Answer.ALLOW
    the = guard(Subject("web", mode="observe"))
    assert verdict(the, action="notify.human").answer is Answer.DENY


@pytest.mark.parametrize(
    ("state", "answer", "part"),
    [
        ("wanted", Answer.HOLD, "waits for approval"),
        ("approved", Answer.ALLOW, ""),
        ("rejected", Answer.DENY, "rejected by oncall: not now"),
        ("expired", Answer.HOLD, "waits for approval"),
    ],
)
def test_an_answer_counts_for_the_plan_it_was_given_to(state: Any, answer: Answer, part: str) -> None:
    the = guard(Subject("web", mode="approve"))
    the.standing.approvals["plan-1"] = Approval("plan-1", state, "oncall", "not now", NOW, NOW + 60)
    said = verdict(the)

    assert said.answer is answer
    assert answer is Answer.ALLOW or part in said.sentence
    assert verdict(the, plan="plan-2").answer is Answer.HOLD


# -- backoff ---------------------------------------------------------------------------------------------------------


def unhelpful(count: int, end: float = NOW, target: str = "web") -> list[ActionRecord]:
    return [record(end - (count - n) * 0.01 - 0.01, Result.REFUTED, took=0.01, target=target) for n in range(count)]


def test_after_a_try_that_helped_nothing_is_waited_for() -> None:
    assert backoff(policy(), [*unhelpful(4), record(NOW, Result.VERIFIED)], NOW + 1, "x") == (0, 0.0)


@pytest.mark.parametrize("result", [Result.REFUTED, Result.FAILED, Result.UNVERIFIED, Result.REFUSED])
def test_each_try_that_did_not_help_doubles_the_wait_up_to_the_cap(result: Result) -> None:
    the = policy(backoff={"jitter": 0, "base": 1, "factor": 2, "cap": 10})
    waits = []
    for count in range(1, 8):
        tries, until = backoff(the, [replace(r, result=result) for r in unhelpful(count)], NOW, "x")
        assert tries == count
        waits.append(round(until - NOW, 0))

    assert waits == [1, 2, 4, 8, 10, 10, 10]


def test_what_was_only_simulated_or_is_under_way_costs_no_wait() -> None:
    rows = [replace(r, result=x) for r, x in zip(unhelpful(2), [None, Result.SIMULATED], strict=True)]

    assert backoff(policy(), rows, NOW, "x") == (0, 0.0)


def test_the_jitter_is_the_same_at_every_look_and_another_for_another_incident() -> None:
    rows = unhelpful(5)
    first = backoff(policy(), rows, NOW, "inc-1")

    assert all(backoff(policy(), rows, NOW + n / 10, "inc-1") == first for n in range(50))
    assert len({backoff(policy(), rows, NOW, f"inc-{n}")[1] for n in range(20)}) == 20


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(1, 50))
def test_the_wait_never_ends_for_good_and_never_passes_the_cap(count: int, jitter: float, factor: float) -> None:
    the = policy(backoff={"jitter": jitter, "factor": factor})
    rows = [record(NOW, Result.REFUTED, took=0, step=f"p{n}.1") for n in range(min(count, 300))]
    _, until = backoff(the, rows, NOW, "x")

    assert the.backoff.base * (1 - jitter) - 1e-6 <= until - NOW <= the.backoff.cap


def test_trouble_of_long_ago_is_forgiven_piece_by_piece() -> None:
    the = policy(backoff={"decay": 600, "jitter": 0})

    assert backoff(the, unhelpful(5), NOW + 599, "x")[0] == 5
    assert backoff(the, unhelpful(5), NOW + 601, "x")[0] == 4
    assert backoff(the, unhelpful(5), NOW + 3001, "x") == (0, 0.0)


def test_a_plan_of_several_steps_is_one_try() -> None:
    rows = [
        record(NOW, Result.UNVERIFIED, step="plan-a.1", action="cleanup.free"),
        record(NOW + 1, Result.REFUTED, step="plan-a.2"),
    ]

    assert backoff(policy(), rows, NOW + 2, "x")[0] == 1


def test_backoff_counts_for_the_target_whoever_asked_and_tells_how_often_it_was_tried() -> None:
    the = guard(Subject("web", mode="auto"), Subject("db", mode="auto"), records=unhelpful(3, target="db"))
    said = verdict(the, target="db")

    assert (said.check, said.answer) == ("backoff", Answer.HOLD)
    assert said.sentence.startswith("3 tries in a row did not help")
    assert said.until is not None and said.until > NOW
    assert stopped_by(the, target="db", wall=said.until) == ""
    assert verdict(the).answer is Answer.ALLOW
    assert verdict(the, target="db", action="notify.human").answer is Answer.ALLOW


# -- equal tries and reminders ---------------------------------------------------------------------------------------


def test_a_fourth_equal_try_in_a_row_is_held() -> None:
    rows = [record(NOW - 300 + 60 * n, Result.VERIFIED) for n in range(3)]
    the = guard(records=rows)
    said = verdict(the)

    assert (said.check, said.answer) == ("variety", Answer.HOLD)
    assert "process.restart was tried 3 times in a row" in said.sentence
    assert verdict(the, action="process.start").answer is Answer.ALLOW


def test_tries_with_a_calm_time_between_are_not_in_a_row() -> None:
    rows = [record(NOW - 700 * n, Result.VERIFIED) for n in (3, 2, 1)]

    assert verdict(guard(records=rows)).answer is Answer.ALLOW


def test_the_same_action_on_another_target_is_another_step() -> None:
    """The rung that restarts the database is a different step, though the verb is the same."""
    subjects = Subject("web", mode="auto"), Subject("db", mode="auto")
    rows = [record(NOW - 300 + 60 * n, Result.VERIFIED) for n in range(3)]
    the = guard(*subjects, records=rows)

    assert verdict(the, target="db").answer is Answer.ALLOW
    between = [*rows[:2], record(NOW - 150, Result.VERIFIED, target="db", subject="web"), rows[2]]
    assert verdict(guard(*subjects, records=between)).answer is Answer.ALLOW


def test_a_human_is_reminded_only_after_a_while() -> None:
    told = record(NOW - 100, Result.UNVERIFIED, action="notify.human", disruptive=False)
    the = guard(records=[told])
    said = verdict(the, action="notify.human")

    assert (said.check, said.until) == ("variety", NOW - 99 + 900)
    assert verdict(the, action="notify.human", wall=NOW + 801).answer is Answer.ALLOW


def test_a_human_hears_again_at_once_when_something_was_done_since() -> None:
    told = record(NOW - 100, Result.UNVERIFIED, action="notify.human", disruptive=False)
    done = record(NOW - 50, Result.REFUTED)

    assert verdict(guard(records=[told, done]), action="notify.human").answer is Answer.ALLOW


# -- budgets ---------------------------------------------------------------------------------------------------------

SPREAD: dict[str, Any] = {"backoff": {"base": 0.001, "cap": 0.001, "jitter": 0, "decay": 0.001}}


@pytest.mark.parametrize(
    ("which", "part"),
    [
        ("per_kind", "2 of 2 actions in 100 s are spent for process.restart"),
        ("per_group", "2 of 2 actions in 100 s are spent for group front"),
    ],
)
def test_a_spent_budget_holds_until_the_oldest_action_leaves_the_window(which: str, part: str) -> None:
    rows = [record(NOW - 90, group="front"), record(NOW - 10, group="front")]
    the = guard(
        Subject("web", mode="auto", group="front"), records=rows, **{which: {"count": 2, "window": 100}}, **SPREAD
    )
    said = verdict(the)

    assert (said.check, said.answer, said.sentence, said.until) == ("budget", Answer.HOLD, part, NOW + 10)
    assert verdict(the, wall=NOW + 10.001).answer is Answer.ALLOW
    assert verdict(the, action="notify.human").answer is Answer.ALLOW


def test_a_target_whose_budget_is_spent_is_treated_slowly_and_not_never() -> None:
    """Its trouble may be over by now: it must not stay down for the rest of the window."""
    rows = [record(NOW - 90), record(NOW - 10)]
    the = guard(
        records=rows,
        per_target={"count": 2, "window": 1000},
        backoff={"base": 0.001, "cap": 45, "jitter": 0, "decay": 0.001},
    )
    said = verdict(the)

    assert (said.check, said.answer, said.until) == ("budget", Answer.HOLD, NOW - 10 + 45)
    assert said.sentence == "2 of 2 actions in 1000 s are spent for web"
    assert stopped_by(the, wall=NOW + 34.9) == "budget"
    assert stopped_by(the, wall=NOW + 35.1) == ""


def test_budgets_of_others_are_not_touched() -> None:
    rows = [record(NOW - 10, target="db", group="back"), record(NOW - 5, target="db", group="back")]
    the = guard(
        Subject("web", mode="auto", group="front"),
        records=rows,
        per_target={"count": 2},
        per_group={"count": 2},
        **SPREAD,
    )

    assert verdict(the).answer is Answer.ALLOW


def test_messages_to_humans_spend_nothing() -> None:
    rows = [record(NOW - n, action="notify.human", disruptive=False) for n in range(1, 200)]

    assert verdict(guard(records=rows), action="process.restart").answer is Answer.ALLOW


def fleet(count: int, **more: Any) -> list[Subject]:
    return [Subject(f"web{n}", mode="auto", **more) for n in range(count)]


@pytest.mark.parametrize(("total", "limit"), [(1, 3), (10, 3), (12, 4), (100, 34)])
def test_only_a_share_of_the_fleet_is_in_treatment(total: int, limit: int) -> None:
    the = guard(*fleet(total))
    the.standing.in_treatment = {f"web{n + 1}": "" for n in range(limit - 1)}
    assert verdict(the, subject="web0").answer is Answer.ALLOW

    the.standing.in_treatment["another"] = ""
    said = verdict(the, subject="web0")
    assert (said.check, said.answer) == ("share", Answer.HOLD)
    assert said.sentence == f"{limit} of {total} subjects are in treatment; at most {limit} may be"


def test_one_at_a_time_in_a_group_and_the_message_says_who_is_being_treated() -> None:
    the = guard(*fleet(3, group="front"))
    the.standing.in_treatment = {"web1": "front"}
    said = verdict(the, subject="web0")

    assert (said.check, said.answer) == ("share", Answer.HOLD)
    assert said.sentence == "one at a time in group front: web1 is being treated"
    assert verdict(the, subject="web1").answer is Answer.ALLOW, "its own treatment is no obstacle to its next step"


def test_the_group_of_what_a_step_touches_counts_as_well() -> None:
    """Two replicas of a database must not be restarted at once, not even for the sake of two different services."""
    the = guard(
        Subject("web", mode="auto"), Subject("db1", mode="auto", group="db"), Subject("db2", mode="auto", group="db")
    )
    the.standing.in_treatment = {"db2": "db"}

    assert stopped_by(the, target="db1") == "share"


def test_a_plan_that_treats_two_of_its_group_is_not_held_by_itself() -> None:
    the = guard(Subject("web", mode="auto", group="shop"), Subject("db", mode="auto", group="shop"))
    the.standing.in_treatment = {"web": "shop", "db": "shop"}
    own = case(the, under_way=True, number=2)
    both = replace(own, plan=replace(own.plan, steps=(Step("plan-1.1", "process.restart", "db"), own.step)))

    assert decision(the.judge(both)).answer is Answer.ALLOW


def test_a_storm_puts_the_brake_on_for_a_while_and_then_lets_go() -> None:
    rows = [record(NOW - 40 + n, target=f"web{n}") for n in range(40)]
    the = guard(*fleet(50), records=rows)
    said = verdict(the, subject="web49")

    assert (said.check, said.answer, said.until) == ("storm brake", Answer.HOLD, NOW - 1 + 120)
    assert "40 actions within 60 s" in said.sentence
    assert stopped_by(the, subject="web49", wall=NOW + 118) == "storm brake"
    assert verdict(the, subject="web49", wall=NOW + 119.5).answer is Answer.ALLOW


def test_many_actions_spread_over_time_are_no_storm() -> None:
    rows = [record(NOW - 400 + 8 * n, target=f"web{n}") for n in range(50)]

    assert verdict(guard(*fleet(51), records=rows), subject="web50").answer is Answer.ALLOW


# -- the circuit -----------------------------------------------------------------------------------------------------


def failing(count: int = 5) -> list[ActionRecord]:
    return [record(NOW - 10 + n, Result.FAILED, took=0.5, target=f"t{n}") for n in range(count)]


def test_an_action_that_fails_everywhere_rests_and_then_exactly_one_tries() -> None:
    the = guard(records=failing())
    said = verdict(the)
    assert (said.check, said.answer, said.until) == ("circuit", Answer.HOLD, NOW - 6 + 0.5 + 60)
    assert said.sentence == "process.restart failed 5 times in a row on 5 targets"
    assert verdict(the, action="systemd.restart").answer is Answer.ALLOW

    later = NOW + 60
    assert verdict(the, wall=later).answer is Answer.ALLOW
    the.ledger.begun(record(later, None, step="trial.1", target="t9"))
    said = verdict(the, wall=later)
    assert (said.check, said.answer) == ("circuit", Answer.HOLD)
    assert said.sentence == "one process.restart is trying whether it works again"


@pytest.mark.parametrize(
    ("result", "open_again"), [(Result.FAILED, True), (Result.VERIFIED, False), (Result.REFUTED, False)]
)
def test_the_trial_says_whether_the_circuit_closes(result: Result, open_again: bool) -> None:
    the = guard(records=failing())
    later = NOW + 60
    the.ledger.begun(record(later, None, step="trial.1", target="t9"))
    the.ledger.ended("trial.1", result, later + 1)

    assert stopped_by(the, wall=later + 2) == ("circuit" if open_again else "")


def test_a_refusal_says_nothing_about_whether_the_action_works() -> None:
    """A unit that is not there, a switch thrown in the last moment: neither mends a broken tool."""
    rows = [*failing(), record(NOW - 1, Result.REFUSED, took=0, target="t9")]

    assert stopped_by(guard(records=rows)) == "circuit"


# -- what holds whatever happens -------------------------------------------------------------------------------------


class Try:
    def __init__(self, subject: int, wait: float, result: Result | None, restart: bool) -> None:
        self.subject, self.wait, self.result, self.restart = subject, wait, result, restart

    def __repr__(self) -> str:
        return f"Try({self.subject}, {self.wait:g}, {self.result}, {self.restart})"


tries = st.lists(
    st.builds(
        Try,
        st.integers(0, 4),
        st.one_of(st.floats(0, 5), st.floats(0, 400)),
        st.sampled_from([None, *Result]),
        st.booleans(),
    ),
    max_size=120,
)


def played(events: list[Try], **more: Any) -> list[ActionRecord]:
    """What was let through; the daemon is restarted now and then, with the journal as its only memory."""
    subjects = [Subject(f"web{n}", mode="auto", group="front" if n < 3 else "") for n in range(5)]
    journal: list[ActionRecord] = []
    the = guard(*subjects, **{**SPREAD, **more})
    wall = NOW
    for number, event in enumerate(events):
        wall += event.wait
        if event.restart:
            the = Guard(the.policy, the.flags, Ledger(journal), Standing(), the.sight)
        name = f"web{event.subject}"
        if decision(the.judge(case(the, subject=name, wall=wall))).answer is not Answer.ALLOW:
            continue
        done = record(wall, None, target=name, step=f"plan-{number}.1", group="front" if event.subject < 3 else "")
        the.ledger.begun(done)
        journal.append(done)
        if event.result is not None:
            the.ledger.ended(done.step_id, event.result, wall + 0.1)
            journal[-1] = replace(done, result=event.result, ended_at=wall + 0.1)
    return journal


def most_in(window: float, records: Sequence[ActionRecord], by: Callable[[ActionRecord], object]) -> int:
    most = 0
    for first in records:
        most = max(most, sum(by(r) == by(first) and first.at <= r.at < first.at + window for r in records))
    return most


@given(tries)
@settings(max_examples=60, deadline=None)
def test_no_sequence_of_actions_passes_a_budget(events: list[Try]) -> None:
    done = played(events, per_kind={"count": 7, "window": 200}, per_group={"count": 5, "window": 250})

    assert most_in(200, done, lambda r: r.action) <= 7
    assert most_in(250, [r for r in done if r.group], lambda r: r.group) <= 5


@given(tries)
@settings(max_examples=60, deadline=None)
def test_beyond_its_budget_a_target_is_treated_no_faster_than_the_longest_wait(events: list[Try]) -> None:
    slow = {"base": 0.001, "cap": 40, "jitter": 0, "decay": 0.001, "factor": 1}
    done = played(events, per_target={"count": 3, "window": 300}, backoff=slow)
    for target in {r.target for r in done}:
        own = [r.at for r in done if r.target == target]
        for number, at in enumerate(own):
            if sum(at - 300 <= before for before in own[:number]) >= 3:
                assert at - own[number - 1] >= 40


@given(tries)
@settings(max_examples=60, deadline=None)
def test_no_sequence_of_actions_passes_the_storm_brake_and_every_brake_lasts(events: list[Try]) -> None:
    done = played(events, storm={"count": 6, "window": 50, "cooldown": 100})

    assert most_in(50, done, lambda r: 0) <= 6
    for last in range(5, len(done) - 1):
        if done[last].at - done[last - 5].at <= 50:
            assert done[last + 1].at >= done[last].at + 100


@given(tries, st.floats(0, 5000))
@settings(max_examples=60, deadline=None)
def test_a_ledger_filled_from_the_journal_says_what_the_one_that_lived_through_it_says(
    events: list[Try], later: float
) -> None:
    subjects = [Subject(f"web{n}", mode="auto") for n in range(5)]
    lived, journal = Ledger(), []
    wall = NOW
    for number, event in enumerate(events):
        wall += max(event.wait, 0.001)  # two actions of one moment have no order to keep
        lived.begun(record(wall, None, target=f"web{event.subject}", step=f"plan-{number}.1"))
        journal.append(record(wall, event.result, took=0.1, target=f"web{event.subject}", step=f"plan-{number}.1"))
        if event.result is not None:
            lived.ended(f"plan-{number}.1", event.result, wall + 0.1)
    more: dict[str, Any] = {"per_target": {"count": 4}, "storm": {"count": 8}}
    before, after = guard(*subjects, **more), guard(*subjects, records=list(reversed(journal)), **more)
    before.ledger = lived
    for n in range(5):
        for action in ("process.restart", "notify.human"):
            ask: dict[str, Any] = {"subject": f"web{n}", "action": action, "wall": wall + later}
            assert before.judge_all(case(before, **ask)) == after.judge_all(case(after, **ask))


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-5000, 0)), max_size=80))
@settings(max_examples=60, deadline=None)
def test_a_clock_that_is_set_back_opens_no_budget(steps: list[tuple[float, float]]) -> None:
    """Counted in the time that truly passed: setting the wall clock back must not let more through."""
    the = guard(per_kind={"count": 3, "window": 300}, **SPREAD)
    wall = passed = NOW
    done: list[float] = []
    for number, (wait, back) in enumerate(steps):
        passed += wait
        wall += wait + (back if number % 3 == 0 else 0.0)
        the.ledger.not_after(wall)
        if decision(the.judge(case(the, wall=wall))).answer is Answer.ALLOW:
            the.ledger.begun(record(wall, None, step=f"plan-{number}.1"))
            the.ledger.ended(f"plan-{number}.1", Result.VERIFIED, wall)
            done.append(passed)

    assert all(sum(a <= b < a + 299.999 for b in done) <= 3 for a in done)


def test_a_clock_that_was_years_ahead_does_not_stop_healing_for_years() -> None:
    """A host that boots with a wrong clock, heals something and is then set right by NTP."""
    the = guard(records=unhelpful(2, end=NOW + 10 * 365 * 86400))
    assert verdict(the).answer is Answer.HOLD

    the.ledger.not_after(NOW)
    said = verdict(the)
    assert said.until is not None and said.until <= NOW + 45
    assert verdict(the, wall=NOW + 50).answer is Answer.ALLOW


def test_what_is_only_meant_counts_until_it_is_known_not_to_be_done() -> None:
    """Two that are judged in the same turn: the second must see the first, though nothing is written of it yet."""
    the = guard(per_kind={"count": 1})
    meant = record(NOW, None, step="plan-9.1", target="db")
    the.ledger.begun(meant)
    assert stopped_by(the) == "budget"

    the.ledger.never_begun("plan-9.1")
    assert verdict(the).answer is Answer.ALLOW


def test_the_ledger_forgets_what_is_older_than_a_day() -> None:
    ledger = Ledger([record(NOW - 90_000), record(NOW - 10)])
    ledger.begun(record(NOW))

    assert len(ledger) == 2
