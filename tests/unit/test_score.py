"""What was only suggested, judged by what then happened, and when acting is proposed."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.cli import main
from x0tta6bl4.kernel.facts import (
    Answer,
    Condition,
    Expect,
    Finding,
    Incident,
    IncidentState,
    Outcome,
    Plan,
    Result,
    Severity,
    Step,
    Verdict,
)
from x0tta6bl4.kernel.flags import FeatureFlags
from x0tta6bl4.kernel.guard import Case, Guard, Ledger, Standing
from x0tta6bl4.kernel.memory import Suggestion, Trial
from x0tta6bl4.kernel.plugin import Action, PluginConfig
from x0tta6bl4.kernel.policy import GuardPolicy
from x0tta6bl4.kernel.sight import Sight
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.runbooks.score import BOUND, LEAST, LONG, Judgement, judge, scores, spotless_needed, wilson

T = 1_700_000_000.0
RESTART = ("process.restart",)
Output = pytest.CaptureFixture[str]


def incident(id: str = "inc-1", subject: str = "web", fault: str = "hung", **more: Any) -> Incident:
    values: dict[str, Any] = {
        "state": IncidentState.OPEN,
        "severity": Severity.MAJOR,
        "summary": f"{subject} is {fault}",
        "opened_at": T,
        "onset_at": T,
        "updated_at": T,
        "healthy_when": (Condition("work_up", ">=", 1.0),),
    }
    return Incident(id, subject, fault, **(values | more))


def over(after: float, ended: str = "recovered", **more: Any) -> Incident:
    return incident(state=IncidentState.CLOSED, closed_at=T + after, ended=ended, **more)


def suggestion(about: Incident, **more: Any) -> Suggestion:
    values: dict[str, Any] = {"at": T + 1, "check": "mode", "within": 30.0}
    return Suggestion(about, "service", "restart", RESTART, about.subject, **(values | more))


def trial(result: Result, **more: Any) -> Trial:
    values: dict[str, Any] = {
        "begun_at": T + 5,
        "ended_at": T + 12,
        "verified_at": T + 9 if result is Result.VERIFIED else None,
        "result": result,
    }
    return Trial("inc-1", "web", "hung", "service", "restart", RESTART, T, **(values | more))


R, N, H, U = Judgement.RIGHT, Judgement.NEEDLESS, Judgement.HARMFUL, Judgement.UNKNOWN


@pytest.mark.parametrize(
    ("told", "judgement", "words"),
    [
        (suggestion(over(20)), N, "well again by itself 19 s later"),
        (suggestion(over(20, fault="dead")), N, "by itself"),
        (suggestion(over(100, fault="dead")), R, "somebody started it, 99 s later"),
        (suggestion(over(100)), U, "nothing tells why"),
        (
            suggestion(over(100), beside=(replace(over(60, fault="dead"), id="inc-2", opened_at=T + 50),)),
            R,
            "somebody restarted it (inc-2)",
        ),
        (suggestion(over(LONG + 2)), R, f"lasted {LONG + 1:.0f} s more"),
        (suggestion(over(100, severity=Severity.CRITICAL), found=((T, Severity.MAJOR),)), R, "became critical"),
        (
            suggestion(over(100), found=((T, Severity.WARNING), (T + 50, Severity.MAJOR))),
            R,
            "became major",
        ),
        (suggestion(over(100), found=((T, Severity.MAJOR), (T + 50, Severity.WARNING))), U, "nothing tells why"),
        (
            suggestion(over(100), beside=(replace(over(110, subject="api"), id="inc-2", opened_at=T + 50),)),
            R,
            "took api with it",
        ),
        (
            suggestion(over(100), beside=(replace(over(400, subject="api"), id="inc-2", opened_at=T + 50),)),
            U,
            "nothing tells why",
        ),
        (
            suggestion(over(100), beside=(replace(over(110, subject="api"), id="inc-2", opened_at=T + 5),)),
            U,
            "nothing tells why",
        ),
        (suggestion(over(9000, "aged out")), U, "nobody saw"),
        (suggestion(over(9000, "merged")), U, "a part of another incident"),
        (suggestion(over(100, "healed")), U, "something else"),
        (suggestion(over(12, "healed"), trials=(trial(Result.VERIFIED),)), R, "done after all, and helped"),
        (suggestion(incident(), trials=(trial(Result.REFUTED),)), N, "did not help"),
        (suggestion(incident(), trials=(trial(Result.VERIFIED, harmed=("inc-9",)),)), H, "inc-9 came of it"),
        (suggestion(incident(), trials=(trial(Result.REFUTED, stuck=True),)), H, "could not be taken back"),
        (suggestion(over(12, "healed"), trials=(trial(Result.VERIFIED, begun_at=T - 5),)), U, "something else"),
        (suggestion(over(20), opinions=("helped", "harmful")), H, "a person says: harmful"),
        (suggestion(over(20), opinions=("helped",)), R, "a person says: helped"),
        (suggestion(incident(opened_at=T - 99, onset_at=T + 50)), U, "came back since"),
        (suggestion(incident()), U, "not over"),
    ],
)
def test_a_suggestion_is_judged_by_what_then_happened(told: Suggestion, judgement: Judgement, words: str) -> None:
    judged = judge(told, T + 60)

    assert judged.judgement is judgement, judged.why
    assert words in judged.why


def test_what_is_still_wrong_after_long_should_have_been_done() -> None:
    assert judge(suggestion(incident()), T + LONG).judgement is U
    assert judge(suggestion(incident()), T + LONG + 2).judgement is R


@given(st.integers(0, 500), st.integers(0, 500))
def test_the_bound_lies_below_the_share_and_rises_with_every_right_case(right: int, wrong: int) -> None:
    of = right + wrong

    assert 0.0 <= wilson(right, of) <= (right / of if of else 0.0)
    assert wilson(right + 1, of + 1) > wilson(right, of)


@given(st.integers(0, 200), st.integers(0, 20))
def test_what_is_said_to_be_missing_is_exactly_that(right: int, wrong: int) -> None:
    more = spotless_needed(right, right + wrong)

    assert right + wrong + more >= LEAST
    assert wilson(right + more, right + wrong + more) >= BOUND
    assert more == 0 or right + wrong + more - 1 < LEAST or wilson(right + more - 1, right + wrong + more - 1) < BOUND


def many(count: int, subject: str = "web", **more: Any) -> list[Suggestion]:
    return [suggestion(over(900, subject=subject, id=f"inc-{subject}-{n}"), **more) for n in range(count)]


def test_acting_is_proposed_with_the_lines_to_write_once_there_is_enough_evidence() -> None:
    (score,) = scores(many(25), T + 1000)

    assert score.missing == ""
    assert score.bound >= BOUND
    assert score.proposals[0].lines == (
        "subjects:",
        "  web:",
        "    mode: auto",
        "guard:",
        "  allow:",
        "    - process.restart",
    )


def test_one_case_too_few_says_how_many_are_missing_and_proposes_nothing() -> None:
    (score,) = scores(many(24), T + 1000)

    assert score.missing.startswith("1 more judged cases, all right")
    assert score.proposals == ()


def test_unknown_cases_count_for_nothing() -> None:
    (score,) = scores([*many(24), *(replace(s, at=T - 1) for s in many(50, "api"))], T + 1000)

    assert score.counts[U] == 50
    assert score.proposals == ()


def test_a_single_harm_forbids_any_proposal() -> None:
    (score,) = scores([*many(200), suggestion(over(20), opinions=("harmful",))], T + 1000)

    assert "mend the rule" in score.missing
    assert score.proposals == ()


def test_a_subject_on_which_another_rule_was_wrong_is_not_proposed() -> None:
    wrong = replace(suggestion(over(5, subject="web")), rule="other")
    found = {s.rule: s for s in scores([*many(30), *many(1, "api"), wrong], T + 1000)}

    assert [p.subject for p in found["service"].proposals] == ["api"]


def test_what_is_done_to_a_dependency_needs_its_mode_too() -> None:
    (score,) = scores([replace(s, target="db") for s in many(25)], T + 1000)

    assert score.proposals[0].lines[:5] == ("subjects:", "  db:", "    mode: auto", "  web:", "    mode: auto")


# Over a real store, through the command line


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("X0TTA6BL4_CONFIG", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "state"


def fill(state: Path, work: Callable[[SqliteKnowledge], Awaitable[Any]]) -> Any:
    async def filled() -> Any:
        database = await SqliteDatabase.open(state / "knowledge.db", migrations())
        try:
            return await work(SqliteKnowledge("store", Config(), database, SystemClock()))
        finally:
            await database.close()

    return asyncio.run(filled())


def ask(state: Path, capsys: Output, *words: str) -> tuple[int, Any]:
    code = main(["--state-dir", str(state), "--output", "json", *words])
    printed = capsys.readouterr()
    return code, json.loads(printed.out) if code == 0 else printed.err


def plan_of(about: Incident, mode: str = "suggest") -> Plan:
    step = Step(f"plan-{about.id}.1", "process.restart", about.subject, expect=Expect(20, 3))
    return Plan(f"plan-{about.id}", about.id, about.subject, about.fault, "service", "restart", (step,), (), mode)


def verdict_of_the_guard(about: Incident, plan: Plan, allow: list[str]) -> Verdict:
    subject = Subject(about.subject, mode="suggest")
    guard = Guard(
        GuardPolicy(allow=allow),
        FeatureFlags(),
        Ledger(),
        Standing(),
        Sight({about.subject: subject}),
    )
    case = Case(plan, plan.steps[0], Action("restart", "restarts it", PluginConfig), about, subject, subject, time())
    return guard.judge(case)[-1]


@pytest.mark.parametrize(("allow", "check"), [(["process.*"], "mode"), ([], "allowlist")])
def test_what_the_guard_only_lets_be_suggested_is_found_again(
    state: Path, capsys: Output, allow: list[str], check: str
) -> None:
    now = time()
    about = incident(opened_at=now - 60, onset_at=now - 60, updated_at=now - 60)

    async def remember(knowledge: SqliteKnowledge) -> None:
        plan = plan_of(about)
        verdict = verdict_of_the_guard(about, plan, allow)
        assert (verdict.check, verdict.answer) == (check, Answer.DENY)
        await knowledge.save_incident(about)
        await knowledge.add_finding(about.id, Finding("liveness", "web", "hung", "no answer", Severity.MAJOR), now - 60)
        await knowledge.save_plan(plan)
        await knowledge.record_decision(plan, plan.steps[0], verdict, now - 50)
        await knowledge.record_decision(plan, plan.steps[0], Verdict("backoff", Answer.HOLD, "waits"), now - 40)
        await knowledge.record_decision(plan, plan.steps[0], verdict, now - 30)
        await knowledge.save_incident(
            replace(about, state=IncidentState.CLOSED, closed_at=now - 45, ended="recovered", updated_at=now - 45)
        )

    fill(state, remember)

    code, told = ask(state, capsys, "score")
    assert code == 0
    (rule,) = told["rules"]
    assert (rule["rule"], rule["suggestions"], rule["needless"], rule["right"]) == ("service", 1, 1, 0)
    (case,) = rule["cases"]
    assert (case["at"], case["stopped_by"], case["subject"]) == (now - 50, check, "web")
    assert rule["missing"]
    assert rule["proposals"] == []


def suggested(knowledge: SqliteKnowledge, about: Incident, at: float, sentence: str, mode: str = "suggest") -> Any:
    async def remember() -> None:
        plan = plan_of(about, mode)
        await knowledge.save_incident(about)
        await knowledge.save_plan(plan)
        await knowledge.record_decision(plan, plan.steps[0], Verdict("mode", Answer.DENY, sentence), at)

    return remember()


SUGGESTED = "web is in mode suggest: would do process.restart on web"


@pytest.mark.parametrize(
    "sentence",
    ["web is in mode observe: it is only watched", "rejected by operator@cli", "rejected by oncall: not now"],
)
def test_what_nobody_suggested_is_not_scored(state: Path, capsys: Output, sentence: str) -> None:
    fill(state, lambda knowledge: suggested(knowledge, incident(opened_at=time()), time(), sentence))

    assert ask(state, capsys, "score")[1]["rules"] == []


def test_the_score_tells_people_the_evidence_and_the_lines_to_write(state: Path, capsys: Output) -> None:
    now = time()

    async def remember(knowledge: SqliteKnowledge) -> None:
        for number in range(25):
            began = now - 50_000 + number * 1000
            about = replace(over(0), id=f"inc-{number:04}", opened_at=began, onset_at=began, closed_at=began + 600)
            await suggested(knowledge, about, began + 1, SUGGESTED)

    fill(state, remember)

    assert main(["--state-dir", str(state), "score"]) == 0
    shown = capsys.readouterr().out
    assert "it lasted 599 s more without it" in " ".join(shown.split())  # lines break where a date makes them longer
    assert "and 15 earlier ones" in shown
    assert "      subjects:\n        web:\n          mode: auto\n      guard:\n        allow:\n" in shown
    assert ask(state, capsys, "score", "--since", "1h")[1]["rules"] == []
    assert ask(state, capsys, "score", "--rule", "service")[1]["rules"][0]["right"] == 25


def test_a_rule_that_is_mistyped_is_refused_with_the_nearest(state: Path, capsys: Output) -> None:
    fill(state, lambda knowledge: suggested(knowledge, incident(opened_at=time()), time(), SUGGESTED))

    code, said = ask(state, capsys, "score", "--rule", "servce")
    assert code == 2
    assert "service" in said


def test_a_persons_word_about_a_suggestion_decides_the_score(state: Path, capsys: Output) -> None:
    fill(state, lambda knowledge: suggested(knowledge, incident("inc-abc", opened_at=time()), time(), SUGGESTED))
    assert ask(state, capsys, "score")[1]["rules"][0]["unknown"] == 1

    code, told = ask(state, capsys, "feedback", "abc", "helped", "--why", "did it myself, it helped")
    assert code == 0
    assert told["feedback"]["weight"] == 0
    assert ask(state, capsys, "score")[1]["rules"][0]["right"] == 1
    trail = ask(state, capsys, "audit", "show")[1]
    assert "did it myself" in json.dumps(trail)


def test_a_persons_word_about_a_try_is_taken_down_as_evidence(state: Path, capsys: Output) -> None:
    now = time()
    about = incident("inc-abc", opened_at=now - 60, onset_at=now - 60)

    async def remember(knowledge: SqliteKnowledge) -> None:
        plan = plan_of(about, "auto")
        step = plan.steps[0]
        await knowledge.save_incident(about)
        await knowledge.record_intent(step, plan, 1)
        await knowledge.record_outcome(
            step.id, Outcome(step.id, Result.VERIFIED, "", now, now + 3, verified_at=now + 1)
        )

    fill(state, remember)

    assert main(["--state-dir", str(state), "feedback", "inc-abc", "harmful"]) == 0
    assert "process.restart made things worse" in capsys.readouterr().out
    (said,) = fill(state, lambda knowledge: knowledge.feedback("hung", now - 100))
    assert (said.source, said.verified, said.harmful, said.rung, said.weight) == ("operator", False, True, RESTART, 2.0)


def tried(
    knowledge: SqliteKnowledge, about: Incident, id: str, at: float, *ended: tuple[str, Result | None]
) -> Awaitable[None]:
    """A plan of these actions, each with its end; None: it was never begun."""
    last = len(ended)
    steps = tuple(
        Step(f"{id}.{n}", action, about.subject, expect=Expect(20, 3) if n == last else None)
        for n, (action, _) in enumerate(ended, 1)
    )
    plan = Plan(id, about.id, about.subject, about.fault, "service", "clean", steps, (), "auto")

    async def remember() -> None:
        await knowledge.save_plan(plan)
        for step, (_, result) in zip(steps, ended, strict=True):
            if result is not None:
                await knowledge.record_intent(step, plan, 1)
                await knowledge.record_outcome(step.id, Outcome(step.id, result, "", at, at))

    return remember()


@pytest.mark.parametrize(
    ("tries", "opinion", "rung", "shown"),
    [
        (  # the first failed, so the second was never done; what was done is the restart before
            [[("process.restart", Result.REFUTED)], [("cleanup.free", Result.FAILED), ("process.restart", None)]],
            "helped",
            ("process.restart",),
            "process.restart helped (inc-abc).\nIt does not speak of what came to nothing: cleanup.free failed; "
            "process.restart was not done.\n",
        ),
        (
            [[("cleanup.free", Result.UNVERIFIED), ("process.restart", Result.FAILED)]],
            "helped",
            ("cleanup.free",),
            "cleanup.free helped (inc-abc).\nIt does not speak of what came to nothing: process.restart failed.\n",
        ),
        (
            [[("cleanup.free", Result.FAILED), ("process.restart", None)]],
            "harmful",
            ("cleanup.free",),
            "cleanup.free made things worse (inc-abc).\nIt does not speak of what came to nothing: "
            "process.restart was not done.\n",
        ),
        (
            [[("cleanup.free", Result.UNVERIFIED), ("process.restart", Result.VERIFIED)]],
            "helped",
            ("cleanup.free", "process.restart"),
            "cleanup.free and process.restart helped (inc-abc).\n",
        ),
    ],
)
def test_a_persons_word_is_about_what_was_really_done(
    tries: list[list[tuple[str, Result | None]]],
    opinion: str,
    rung: tuple[str, ...],
    shown: str,
    state: Path,
    capsys: Output,
) -> None:
    now = time()
    about = incident("inc-abc", opened_at=now - 60, onset_at=now - 60)

    async def remember(knowledge: SqliteKnowledge) -> None:
        await knowledge.save_incident(about)
        for number, ended in enumerate(tries):
            await tried(knowledge, about, f"plan-{number}", now + number, *ended)

    fill(state, remember)

    assert main(["--state-dir", str(state), "feedback", "inc-abc", opinion]) == 0
    assert capsys.readouterr().out == f"Taken down: {shown}"
    said = [f for f in fill(state, lambda knowledge: knowledge.feedback("hung", now - 100)) if f.source == "operator"]
    assert [f.rung for f in said] == [rung]


def test_what_only_failed_cannot_have_helped(state: Path, capsys: Output) -> None:
    now = time()
    about = incident("inc-abc", opened_at=now - 60, onset_at=now - 60)

    async def remember(knowledge: SqliteKnowledge) -> None:
        await knowledge.save_incident(about)
        await tried(knowledge, about, "plan-0", now, ("cleanup.free", Result.FAILED), ("process.restart", None))

    fill(state, remember)

    code, said = ask(state, capsys, "feedback", "inc-abc", "helped")
    assert code == 2 and "nothing that was tried about inc-abc was done" in said
    assert fill(state, lambda knowledge: knowledge.audit_trail()) == []


def test_there_is_nothing_to_say_about_what_was_neither_done_nor_suggested(state: Path, capsys: Output) -> None:
    fill(state, lambda knowledge: knowledge.save_incident(incident("inc-abc")))

    code, said = ask(state, capsys, "feedback", "inc-abc", "helped")
    assert code == 2
    assert "nothing to judge" in said
