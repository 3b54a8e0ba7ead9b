"""Trials on paper: the shipped runbooks take every way that they have, and a wrong runbook does not pass its tests."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import create_model

from x0tta6bl4.analyzers.threshold import Limit
from x0tta6bl4.kernel.errors import ConfigError
from x0tta6bl4.kernel.plugin import PluginConfig
from x0tta6bl4.runbooks.catalogue import ActionSpec
from x0tta6bl4.runbooks.document import Runbook, parse
from x0tta6bl4.runbooks.document import read as read_books
from x0tta6bl4.runbooks.shipped import files, folder, shipped
from x0tta6bl4.runbooks.trial import Report, Trials, read, run

HERE = Path(__file__).parent / "runbooks"
BOOKS = {book.name: book for book in shipped()}
TESTS = folder() / "tests"


def trials_of(name: str) -> Trials:
    path = TESTS / f"{name}.yaml"
    return read(path.read_text(encoding="utf-8"), path.name)


def one(states: str, more: str = "") -> Runbook:
    (book,) = read_books(
        f"runbook: x\nsummary: s\ntrigger: {{anomaly: a}}\n{more}\nstates: {{{states}, end: {{final: true}}}}",
        "x.yaml",
        prove=False,
    )
    return book


def tried(book: Runbook, script: str, end: str = "end") -> Report:
    text = f"runbook: x\ntests:\n  - test: t\n    incident: {{fault: a}}\n    script: {script}\n"
    return run([read(text + (f"    end: {end}\n" if end else ""), "t.yaml")], book)


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hold", "after"), [("restart", "10s"), ("pause", "6s")])
def test_a_timer_pauses_in_a_test_as_it_does_in_the_daemon(hold: str, after: str) -> None:
    book = one(
        "work: {on: {operator.hold: held}, states: {a: {after: {10s: {to: end, hold: HOLD}}},"
        " was: {history: deep, default: a}}}, held: {on: {operator.resume: was}}".replace("HOLD", hold)
    )
    held = "{wait: 4s}, {event: operator.hold}, {wait: 1h, states: held}, {event: operator.resume}"
    short = f"{float(after[:-1]) - 0.5}s"

    assert tried(book, f"[{held}, {{wait: {short}, states: a}}]", end="").failures == ()
    assert tried(book, f"[{held}, {{wait: {after}}}]").failures == ()


def test_the_time_of_a_test_begins_at_nothing() -> None:
    book = one("a: {after: {5s: {do: {set: {at: now()}}}, 8s: end}}", "data: {at: 0}")

    assert tried(book, "[{wait: 6s, variables: {at: 5}}, {wait: 2s}]").failures == ()


# -- the shipped ones --------------------------------------------------------------------------------------------------


def test_there_are_tests_of_every_shipped_runbook_and_of_nothing_else() -> None:
    assert sorted(p.stem for p in TESTS.glob("*.yaml")) == sorted(BOOKS) == sorted(p.stem for p in files())


@pytest.mark.parametrize("name", sorted(BOOKS))
def test_a_shipped_runbook_does_what_its_tests_say_and_every_way_of_it_is_tested(name: str) -> None:
    trials = trials_of(name)
    report = run([trials], BOOKS[name])

    assert trials.runbook == name
    assert [str(failure) for failure in report.failures] == []
    assert report.never == ()


def test_the_catch_all_is_asked_last_and_the_crash_loop_before_the_service_that_is_down() -> None:
    names = [book.name for book in shipped()]

    assert names[-1] == "tell"
    assert names.index("crash-loop") < names.index("service-down")


def test_every_way_of_a_shipped_runbook_ends_at_a_proof_or_at_a_human() -> None:
    for book in shipped():
        assert any(do.action == "notify.human" for node in book.walk() for do in node.do), book.name
        for node in book.walk():
            ends = [b.to for b in (*node.done, *node.failed, *node.unknown) if b.to == "healed"]
            assert not ends or node.expect is not None or node.kind == "ladder", (book.name, node.name)
            if node.kind == "ladder":
                assert all(rung.expect is not None for rung in node.nodes), (book.name, node.name)


def test_what_no_analyzer_finds_by_itself_is_found_by_what_the_runbook_shows() -> None:
    """The comment in the file is what an operator copies: it must be a limit that the threshold analyzer takes."""
    for name in ("dependency-down", "dns-failing", "node-unreachable"):
        lines = (folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        shown = [line[2:] for line in lines if line.startswith("# ")]
        example = yaml.safe_load("\n".join(shown[shown.index("  analyzers:") :]))
        (analyzer,) = example["analyzers"].values()
        (limit,) = analyzer["limits"].values()

        assert analyzer["use"] == "threshold"
        assert Limit.model_validate(limit).fault == BOOKS[name].trigger.anomalies[0]


# -- a wrong runbook does not pass -------------------------------------------------------------------------------------


def spoiled(name: str, change: Any) -> Runbook:
    source = yaml.safe_load((folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    change(source["states"])
    book, wrong = parse(source)
    assert book is not None, wrong
    return book


def _set(path: str, value: Any) -> Any:
    def change(states: Any) -> None:
        *steps, last = path.split("/")
        for step in steps:
            states = states[step]
        states[last] = value

    return change


def _turned(states: Any) -> None:
    states["treat"]["ladder"] = dict(reversed(states["treat"]["ladder"].items()))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("service-down", _turned),
        ("service-down", _set("treat/done", "told")),
        ("service-down", _set("treat/failed", "told")),
        ("service-down", _set("treat/ladder/restart/do/args", {"grace": "9s"})),
        ("service-down", _set("treat/ladder/restart/do/action", "service.stop")),
        ("service-down", _set("treat/ladder/clean/if", "true")),
        ("service-down", _set("treat/ladder/restart/expect", None)),
        ("service-gray", _set("treat/ladder/reload/if", "false")),
        ("crash-loop", _set("tell/failed", "told")),
        ("leaking", _set("restart/failed", "told")),
        ("host-overloaded", _set("watch/after", {"9m": "remind"})),
        ("dependency-down", _set("dependency/do/action", "service.restart")),
        ("dns-failing", _set("reload/do/action", "service.restart")),
        ("node-unreachable", _set("wait/after", {"3m": "tell"})),
    ],
)
def test_a_runbook_that_was_changed_for_the_worse_fails_its_tests(name: str, change: Any) -> None:
    assert run([trials_of(name)], spoiled(name, change)).failures


def test_what_is_tested_no_more_is_told() -> None:
    trials = trials_of("service-down")
    fewer = Trials(trials.runbook, trials.tests[:1], trials.actions, trials.place)

    assert "tell: done -> told" in run([fewer], BOOKS["service-down"]).never


# -- the large example -------------------------------------------------------------------------------------------------


def test_a_large_runbook_with_regions_history_rollback_and_deadline_is_played_as_written() -> None:
    (book,) = read_books((HERE / "wg_link_loss.yaml").read_text(encoding="utf-8"), "wg_link_loss.yaml", prove=False)
    report = run([read((HERE / "wg_link_loss_tests.yaml").read_text(encoding="utf-8"), "t.yaml")], book)

    assert [str(failure) for failure in report.failures] == []
    assert report.tests == 7


# -- what a failure says -----------------------------------------------------------------------------------------------

PLAIN = "a: {do: {action: x.act, args: {n: 1}}, done: b, failed: end}, b: {after: {5s: end}}"


@pytest.mark.parametrize(
    ("script", "end", "step", "expected", "got"),
    [
        ("[{do: x.other}]", "end", "step 1", "x.other", "x.act in a"),
        ("[{do: x.act, args: {n: 2}}]", "end", "step 1", "the arguments [{'n': 2}]", "[{'n': 1}]"),
        ("[{do: x.act, answer: verified}]", "end", "step 1", "an action that is proved", "nothing proves"),
        ("[{do: x.act, answer: done}, {wait: 4s}]", "end", "the end", "the end, end", "a timer of 1s in b"),
        ("[{do: x.act, answer: done, states: a}]", "end", "step 1", "the states a", "b"),
        ("[{do: x.act, answer: failed}, {event: x}]", "end", "step 2", "a runbook that goes on", "ended in end"),
        ("[{do: x.act, answer: failed}]", "", "the end", "a runbook that goes on", "the end, end"),
        ("[{choose: a}]", "end", "step 1", "a choice among rungs", "x.act in a"),
        ("[{rollback: done}]", "end", "step 1", "a rollback", "x.act in a"),
        ("[{emitted: note}]", "end", "step 1", "the event note", "none"),
        ("[{states: a, variables: {last: 3}}]", "end", "step 1", "last to be 3", "None"),
    ],
)
def test_a_failure_says_at_which_step_what_was_expected_and_what_came(
    script: str, end: str, step: str, expected: str, got: str
) -> None:
    (failure,) = tried(one(PLAIN), script, end).failures

    assert (failure.test, failure.step, failure.place) == ("t", step, "t.yaml")
    assert expected in failure.expected and got in failure.got
    assert str(failure).startswith(f"t.yaml:{failure.line}: t: {step}: expected ")


def test_an_incident_that_the_runbook_is_not_for_fails_the_test() -> None:
    text = "runbook: x\ntests: [{test: t, incident: {fault: other}, script: []}]"
    (failure,) = run([read(text, "t.yaml")], one(PLAIN)).failures

    assert "that it is not for" in failure.got


def test_an_action_that_the_tests_own_catalogue_lacks_fails() -> None:
    text = "runbook: x\nactions: {x.look: {}}\ntests: [{test: t, incident: {fault: a}, script: [{do: x.act}]}]"

    assert "there is no action 'x.act'" in str(run([read(text, "t.yaml")], one(PLAIN)).failures[0])


def test_stand_ins_come_beside_what_the_executors_offer_and_before_it() -> None:
    book = one(
        "a: {do: {action: x.look, args: {deep: 1}}, done: b, failed: b}, b: {do: notify.human, done: end, failed: end}"
    )
    offered = {
        "notify.human": ActionSpec("notify.human"),
        "x.look": ActionSpec("x.look", create_model("none", __base__=PluginConfig)),
    }
    script = "script: [{do: x.look, answer: done}, {do: notify.human, answer: done}], end: end"

    def failures(actions: str) -> list[str]:
        text = f"runbook: x\nactions: {actions}\ntests: [{{test: t, incident: {{fault: a}}, {script}}}]"
        return list(map(str, run([read(text, "t.yaml")], book, offered).failures))

    assert failures("{x.look: {args: [deep]}}") == []
    assert "no such argument of x.look" in failures("{y.other: {}}")[0]


def test_a_runbook_that_fails_itself_is_seen_where_it_goes() -> None:
    book = one("a: {do: x.look, done: [{to: b, if: result.loss > 1}, end], failed: end}, b: {after: {1s: end}}")
    script = "[{do: x.look, answer: done, states: $error}, {do: notify.human, answer: done}]"

    assert tried(book, script, "$escalated").failures == ()
    (failure,) = tried(book, "[{do: x.look, answer: done}]", "end").failures
    assert "it failed itself: guard of" in failure.got and "loss" in failure.got


def test_what_becomes_known_moves_a_runbook_on() -> None:
    book = one("a: {when: {seen.loss > 0.5: end}}")

    assert tried(book, "[{know: {seen: {loss: 0.1}}, states: a}, {know: {seen: {loss: 0.9}}}]").failures == ()


def test_a_runbook_that_goes_round_in_circles_is_stopped() -> None:
    book = one("a: {do: service.reload, done: end, failed: b}, b: {do: service.reload, done: end, failed: a}")
    (failure,) = tried(book, "[{states: a}]").failures

    assert "circles" in failure.got


def test_timers_ring_in_the_order_in_which_they_are_due() -> None:
    book = one("a: {after: {5s: {do: {set: {n: n + 1}}}, 3s: {do: {set: {n: n * 10}}}, 1m: end}}", "data: {n: 1}")

    assert tried(book, "[{wait: 10s, variables: {n: 11}}, {wait: 50s}]").failures == ()


# -- mistakes in tests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("tests: []", "runbook: is missing"),
        ("runbook: x", "tests: is missing"),
        ("runbook: x\ntests: {}", "should be a list"),
        ("runbook: x\ntets: []\ntests: []", "t.yaml:2: tets: no such key (did you mean 'tests'?)"),
        ("runbook: x\ntests:\n- {test: t, script: []}", "incident.fault: is missing"),
        ("runbook: x\nincident: {fault: a}\ntests:\n- {test: t, script: [{}]}", "says nothing"),
        (
            "runbook: x\nincident: {fault: a}\ntests:\n- {test: t, script: [{do: x, answr: done}]}",
            "did you mean 'answer'?",
        ),
        (
            "runbook: x\nincident: {fault: a}\ntests:\n- {test: t, script: [{do: x, answer: dune}]}",
            "did you mean 'done'?",
        ),
        ("runbook: x\nincident: {fault: a}\ntests:\n- {test: t, script: [{wait: soon}]}", "should be a duration"),
        ("runbook: x\nincident: {fault: a}\ntests:\n- {test: t, script: [{do: x, wait: 1s}]}", "make a step of each"),
        ("runbook: x\nincident: {fault: a, severity: bad}\ntests:\n- {test: t, script: []}", "should be one of info"),
        ("runbook: x\nactions: {a.b: {blast: moon}}\ntests: []", "should be one of none, process"),
        ("runbook: x\ntests: []\n---\nrunbook: y", "a second document"),
        ("", "runbook: is missing"),
        ("runbook: [", "is no YAML"),
    ],
)
def test_a_mistake_in_a_test_is_told_with_its_line(text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, "t.yaml")

    assert part in str(caught.value)
