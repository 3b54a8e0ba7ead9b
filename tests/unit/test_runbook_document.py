"""Reading runbooks: what is meant is read, and every mistake is told with its line and the way out."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from x0tta6bl4.kernel.errors import ConfigError
from x0tta6bl4.kernel.facts import Incident, IncidentState, Severity
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.ports.processes import Program
from x0tta6bl4.runbooks.document import (
    DEEPEST,
    LARGEST,
    Expected,
    Runbook,
    Undo,
    computed,
    content_hash,
    draft,
    given,
    parse,
    read,
)
from x0tta6bl4.runbooks.shipped import files, shipped

RULE = """\
runbook: mine
version: 2
summary: Does what an old rule did.
trigger: {anomaly: hung, if: subject.kind == 'unit', subjects: [web*]}
initial: first
states:
  first:
    if: subject.cleanup
    do:
      - {action: cleanup.free, timeout: 30s}
      - action: service.stop
        args: {who: =subject.name, grace: 1s}
        timeout: 1m
        retry: {max: 2}
        undo: service.start
        on_unknown: probe
    expect: {within: 5s, hold: 1s}
    done: end
    failed: [{to: last, if: incident.passes > 0}, second]
  second:
    do: {action: service.reload}
    done: end
    failed: last
  last:
    do: {action: notify.human}
    done: end
    failed: end
  end: {final: true}
"""


def one(text: str) -> Runbook:
    (book,) = read(text, "mine.yaml", prove=False)
    return book


def mistakes(text: str, *, prove: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, "mine.yaml", prove=prove)
    return [str(problem) for problem in caught.value.problems]


def book(states: str, more: str = "") -> str:
    inside = "\n".join(f"  {line}" for line in states.strip().splitlines())
    return f"runbook: x\nsummary: s\ntrigger: {{anomaly: a}}\n{more}\nstates:\n{inside}\n  end: {{final: true}}\n"


def incident(**more: Any) -> Incident:
    told: dict[str, Any] = {
        "id": "inc-1", "subject": "web", "fault": "hung", "state": IncidentState.OPEN, "severity": Severity.MAJOR,
        "summary": "it hangs", "opened_at": 1.0, "updated_at": 1.0,
    }  # fmt: skip
    return Incident(**(told | more))


# -- what is meant is read ---------------------------------------------------------------------------------------------


def test_a_rule_of_the_first_format_is_a_runbook() -> None:
    found = one(RULE)
    first, second, last, end = found.nodes

    assert (found.name, found.version, found.initial) == ("mine", 2, "first")
    assert [(d.action, d.timeout, d.tries) for d in first.do] == [("cleanup.free", 30.0, 1), ("service.stop", 60.0, 2)]
    assert first.do[1].args == {"who": "=subject.name", "grace": "1s"}
    assert first.do[1].undo == Undo("service.start")
    assert first.expect == Expected(5.0, 1.0)
    assert [(b.to, b.guard) for b in first.failed] == [("last", "incident.passes > 0"), ("second", "")]
    assert second.expect == Expected(0.0, 3.0)
    assert last.expect is None
    assert end.kind == "final"


def test_what_ends_the_runbook_must_be_proved_and_what_leads_on_need_not() -> None:
    """Else a look at something would have to heal it, and a restart that ends it would need no proof."""
    found = one(
        book("""
look: {do: a.look, done: act, failed: act}
act: {do: a.act, done: end, failed: tell}
told: {do: a.act, expect: {hold: 9s}, done: look, failed: tell}
untold: {do: a.act, expect: null, done: end, failed: tell}
tell: {do: notify.human, done: end, failed: end}
""")
    )

    assert {n.name: n.expect for n in found.nodes if n.do} == {
        "look": None,
        "act": Expected(),
        "told": Expected(0.0, 9.0),
        "untold": None,
        "tell": None,
    }


def test_on_and_off_stay_words_and_true_and_false_do_not() -> None:
    found = one(book("a: {do: {action: n.h, args: {mode: on, off: no, real: true}}, done: end, failed: end}"))

    assert found.nodes[0].do[0].args == {"mode": "on", "off": "no", "real": True}


def test_several_runbooks_of_one_file_keep_their_order() -> None:
    text = book("a: {after: {1s: end}}")

    assert [b.name for b in read(f"{text}---\n{text.replace('runbook: x', 'runbook: y')}", "f", prove=False)] == [
        "x",
        "y",
    ]
    assert mistakes(f"{text}---\n{text}") == ["mine.yaml: x: is there twice in this file"]


def test_the_hash_is_of_what_is_said_and_not_of_how_it_is_laid_out() -> None:
    spaced = "# a comment\n" + RULE.replace("trigger: {anomaly: hung,", "trigger: {anomaly:    hung,")
    other = RULE.replace("initial: first", "initial: second")
    turned = {**one(RULE).source, "states": dict(reversed(one(RULE).source["states"].items()))}

    assert one(RULE).hash == one(spaced).hash
    assert one(RULE).hash != one(other).hash
    assert one(RULE).hash != content_hash(turned), "the order of states is a part of what is said"


def test_a_kept_source_gives_the_same_runbook_again() -> None:
    for found in shipped():
        again, wrong = parse(json.loads(json.dumps(found.source)), found.place)

        assert not wrong
        assert again is not None and again.hash == found.hash and again.definition == found.definition


# -- which incidents it is for ----------------------------------------------------------------------------------------


def test_a_trigger_is_for_faults_subjects_and_conditions() -> None:
    trigger = one(RULE).trigger

    def fits(fault: str = "hung", subject: Subject | None = None) -> bool:
        return trigger.fits(given(incident(fault=fault), subject or Subject("web1", kind="unit")))

    assert fits()
    assert not fits("dead")
    assert not fits(subject=Subject("db", kind="unit"))
    assert not fits(subject=Subject("web1", kind="process"))


def test_what_cannot_be_asked_is_not_so() -> None:
    found = one(book("a: {after: {1s: end}}").replace("{anomaly: a}", "{anomaly: [a, b*], if: incident.loss > 0.2}"))

    assert not found.trigger.fits(given(incident(fault="a"), Subject("web")))
    assert found.trigger.fits(given(incident(fault="bcd", data={"loss": 0.3}), Subject("web")))


def test_a_key_tells_instances_apart() -> None:
    found = one(book("a: {after: {1s: end}}").replace("{anomaly: a}", "{anomaly: a, key: incident.node + '/x'}"))

    assert found.trigger.key_of(given(incident(data={"node": "n1"}), Subject("web"))) == "n1/x"


def test_a_runbook_sees_json_and_never_an_object_of_the_daemon() -> None:
    data = {"program": Program(name="web", argv=("/bin/true",)), "cleanup": [{"folder": "/x"}], "unit": "web.service"}
    told = given(incident(data={"when": {1, 2}}), Subject("web", data=data, controller={"restart": "process.restart"}))

    assert told["subject"]["cleanup"] == [{"folder": "/x"}]
    assert "program" not in told["subject"] and "when" not in told["incident"]
    assert told["subject"]["can"] == {"restart": True}
    assert json.loads(json.dumps(told)) == told


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_every_mistake_is_told_at_once_with_its_line() -> None:
    told = mistakes(
        """\
runbook: bad
sumary: has mistakes
trigger: {anomaly: hung, if: "subject.("}
initial: begn
states:
  begin: {do: service.restart, done: healed, failed: [{to: tel, if: "1 +"}]}
  tell: {do: {action: notify.human, args: {x: "="}}, done: told}
  healed: {final: true, done: begin}
  told: {final: true}
""",
        prove=True,
    )

    for line, part in (
        (2, "bad.sumary: no such key (did you mean 'summary'?)"),
        (3, "bad.trigger.if"),
        (4, "bad.initial: there is no state 'begn'"),
        (6, "begin.failed.0.to: there is no state 'tel' (did you mean 'tell'?)"),
        (6, "begin.failed.0.if"),
        (6, "the last branch has a condition"),
        (7, "tell.failed: is missing"),
        (7, "tell.do.args.x"),
        (8, "healed.done: has no meaning"),
    ):
        assert [t for t in told if t.startswith(f"mine.yaml:{line}: ") and part in t], (line, part, told)
    # Nothing that only follows: the misspelt key, the misspelt state and the missing way are told once.
    assert len(told) == 9, told
    assert [t for t in told if "is never entered" in t or "summary: is missing" in t] == []


def test_what_the_walk_finds_is_told_beside_the_mistakes_that_have_nothing_to_do_with_it() -> None:
    told = mistakes(
        """\
runbook: bad
summary: has mistakes of every kind
trigger: {anomaly: hung, if: now() > 3}
states:
  begin: {do: {action: x.y, on_unknown: ask, timeout: soon}, done: healed, faild: tel}
  tell: {do: notify.human, done: told, failed: [{to: told, if: reslt.x}, told]}
  lonely: {do: notify.human, done: stuck, failed: stuck}
  stuck: {on: {x: told}}
  healed: {final: true}
  told: {final: true}
""",
        prove=True,
    )

    assert [t.split(": ", 1)[1] for t in sorted(told, key=lambda t: (int(t.split(":")[1]), t))] == [
        "bad.trigger.if: 'now() > 3': before the runbook has begun there is neither a state nor an event that now() is"
        " of",
        "bad.states.begin.do.timeout: should be a duration such as 500ms, 5s, 2m, 1h, 1d or a number of seconds"
        " (got 'soon')",
        "bad.states.begin.faild: no such key (did you mean 'failed'?)",
        "bad.states.begin.failed: there is no state 'tel' (did you mean 'tell'?)",
        "bad.states.begin.unknown: is missing: an action with on_unknown: ask is never repeated by itself (say where to"
        " go when nobody knows whether it was done)",
        "bad.states.tell.failed.0.if: 'reslt.x': unknown name 'reslt' (there are: incident, last, subject)",
        "bad: state 'lonely': is never entered; add a transition to it or remove it",
        "bad: state 'stuck': is never entered; add a transition to it or remove it",
    ]


@pytest.mark.parametrize(
    "states",
    [
        "a: {do: x.y, done: b, failed: nowhere_at_all}, b: {on: {x: end}}, c: {after: {1s: end}}",
        "a: {do: x.y, failed: end}, c: {after: {1s: end}}",
        "a: {always: {to: nowhere_at_all}}, c: {after: {1s: end}}",
        "a: {after: {1s: b}}, b: {states: {c: {after: {1s: end}}, h: {history: deep, default: zzz}}}",
        "a: {do: x.y, done: [end, c], failed: end}, c: {after: {1s: end}}",
        "a: {do: [], done: end, failed: end}",
        "a: {on: {'a b*': end}}, c: {after: {1s: end}}",
        "a: {after: {1s: end}, enter: {raise: '*'}}, c: {on: {x: end}}",
        "a: {when: {incident.: end}, after: {1h: end}}",
        "a: {on: {operator.x: {to: end, if: In('b')}}}",
    ],
)
def test_what_only_follows_from_a_mistake_is_not_told(states: str) -> None:
    told = mistakes(
        f"runbook: x\nsummary: s\ntrigger: {{anomaly: hung}}\nstates: {{{states}, end: {{final: true}}}}\n", prove=True
    )

    assert len(told) == 1, told


def test_a_state_of_which_a_guard_asks_has_to_be_there() -> None:
    (told,) = mistakes(book("a: {after: {1s: {to: end, if: In('ned')}, 2s: end}}"))

    assert "there is no state 'ned' (did you mean 'end'?)" in told


@pytest.mark.parametrize("key", ["done", "failed", "unknown"])
def test_the_answer_before_is_not_taken_for_the_one_that_has_just_come(key: str) -> None:
    ways = {"done": "end", "failed": "end", "unknown": "end"} | {key: "[{to: end, if: last.outcome == 'done'}, end]"}
    do = ", ".join(f"{name}: {to}" for name, to in ways.items())
    (told,) = mistakes(book(f"a: {{do: x.y, {do}}}"))

    assert f"a.{key}.0.if: \"last.outcome == 'done'\": `last` is still how the action before" in told
    assert told.endswith("(write `result`, which is what this one answered)")


@pytest.mark.parametrize(
    "states",
    [
        "a: {do: x.y, if: last is null, done: end, failed: end}",  # the precondition comes before any answer
        "a: {rollback: true, done: [{to: end, if: last.outcome == 'done'}, end], failed: end}",
        "a: {ladder: {b: {do: x.y}}, done: end, failed: [{to: end, if: last.outcome == 'failed'}, end]}",
        "a: {do: x.y, done: [{to: end, if: result.outcome == 'done'}, end], failed: end}",
    ],
)
def test_where_the_answer_before_is_what_is_meant_it_may_be_asked(states: str) -> None:
    assert read(book(states), "mine.yaml")


def test_in_a_ladder_with_a_safety_step_the_answer_before_is_no_answer_of_it() -> None:
    ladder = "ladder: {b: {do: x.y, safety: true}, c: {do: x.z}}, done: end"
    told = mistakes(book(f"a: {{{ladder}, failed: [{{to: end, if: last.outcome == 'failed'}}, end]}}"))

    assert len(told) == 1 and "`last` is still" in told[0]


@pytest.mark.parametrize(
    ("anomaly", "states", "is_sound"),
    [
        ("hung", "a: {on: {operator.go: end}}", True),
        ("hung", "a: {on: {incident.recovered: end}}", True),
        ("hung", "a: {on: {hung: end}}", True),
        ("link.loss", "a: {on: {link: end}}", True),
        ("'filling*'", "a: {on: {filling-disk: end}}", True),
        ("hung", "a: {on: {'*': end}}", True),
        ("hung", "a: {on: {drained: end}, after: {1h: end}}", True),
        ("hung", "a: {on: {drained: end}}\ndeadline: {1h: end}", True),
        ("hung", "a: {on: {b: c}, after: {1s: {do: {raise: b}}}}, c: {after: {1s: end}}", True),
        ("hung", "a: {on: {drained: end}}", False),
        ("'*'", "a: {on: {drained: end}}", False),
        ("hung", "a: {on: {hungry: end}}", False),
        ("hung", "a: {when: {seen.sick == 0: end}}", False),
    ],
)
def test_who_waits_for_an_event_that_nobody_is_bound_to_send_needs_a_time(
    anomaly: str, states: str, is_sound: bool
) -> None:
    states, _, more = states.partition("\n")
    text = (
        f"runbook: x\nsummary: s\ntrigger: {{anomaly: {anomaly}}}\n{more}\nstates: {{{states}, end: {{final: true}}}}\n"
    )
    if is_sound:
        assert read(text, "mine.yaml")
    else:
        (told,) = mistakes(text, prove=True)
        assert "in 'a' it waits with neither a timer nor an activity nor an event that people send" in told


@pytest.mark.parametrize(
    ("states", "part"),
    [
        ("a: {after: {1s: {to: end, hold: pause}}}", "no history leads back to this state"),
        ("a: {after: {1s: {to: end, hold: paus}}}", "did you mean 'pause'?"),
        ("a: {after: {1s: [{to: end, if: true, hold: pause}, {to: end, hold: restart}]}}", "is one timer"),
        ("a: {on: {operator.x: {to: end, hold: pause}}}", "no such key"),
    ],
)
def test_a_timer_pauses_only_where_it_can_go_on(states: str, part: str) -> None:
    told = mistakes(book(states))

    assert [line for line in told if part in line], told


def test_a_deadline_never_pauses() -> None:
    assert "no such key" in mistakes(book("a: {after: {1s: end}}") + "deadline: {1h: {to: end, hold: pause}}\n")[0]


@pytest.mark.parametrize(
    ("states", "part"),
    [
        ("a: {do: restart, done: end, failed: end}", "should be executor.verb"),
        ("a: {do: [], done: end, failed: end}", "does nothing"),
        ("a: {do: x.y, retry: 2, done: end, failed: end}", "no such key"),
        ("a: {do: {action: x.y, retry: {max: 4}}, done: end, failed: end}", "a whole number from 1 to 3"),
        ("a: {do: {action: x.y, timeout: soon}, done: end, failed: end}", "should be a duration"),
        ("a: {do: {action: x.y, timeout: 0s}, done: end, failed: end}", "between 0.001 s"),
        ("a: {do: {action: x.y, on_unknown: prob}, done: end, failed: end}", "did you mean 'probe'?"),
        ("a: {do: {action: x.y, on_unknown: ask}, done: end, failed: end}", "a.unknown: is missing"),
        ("a: {do: x.y, done: end, failed: []}", "leads nowhere"),
        ("a: {do: x.y, done: [end, a], failed: end}", "none behind it is ever taken"),
        ("a: {do: x.y, done: {do: {log: 1}}, failed: end}", "needs `to`"),
        ("a: {do: x.y, if: incdent.x, done: end, failed: end}", "did you mean 'incident'?"),
        ("a: {do: x.y, if: result.x, done: end, failed: end}", "there is no result here"),
        ("a: {do: x.y, if: true, done: end, failed: [{to: a, if: result.x}, end]}", "there is none"),
        ("a: {do: {action: x.y, args: {n: incidnt.node}}, done: end, failed: end}", "looks like an expression"),
        ("a: {do: {action: x.y, undo: {action: x.z, args: {n: =last}}}, done: end, failed: end}", "plain values"),
        ("a: {ladder: {}, done: end, failed: end}", "has no rung"),
        ("a: {ladder: {b: {after: {1s: end}}}, done: end, failed: end}", "b.do: is missing"),
        ("a: {ladder: {b: {do: x.y}}, done: end}", "a.failed: is missing"),
        ("a-b: {ladder: {b: {do: x.y}}, done: end, failed: end}", "a ladder's name"),
        ("a: {rollback: true, done: end}", "a.failed: is missing"),
        ("a: {rollback: yes, done: end, failed: end}", "should be true or false"),
        ("a: {do: x.y, ladder: {b: {do: x.y}}, done: end, failed: end}", "a state does one of them"),
        ("a: {parallel: true, states: {b: {}}, after: {1s: end}}", "needs at least two"),
        ("a: {states: {b: {}}, initial: c, after: {1s: end}}", "there is no state 'c' in it"),
        ("a: {states: {a: {}}, after: {1s: end}}", "there is a state 'a' already"),
        ("a: {history: flat, default: end}", "should be one of shallow, deep"),
        ("a: {history: deep}", "a.default: there is no state nothing"),
        ("a: {after: {}, on: {}, whn: {}}", "did you mean 'when'?"),
        ("a: {after: {5 parsecs: end}}", "should be a duration"),
        ("a: {after: {9999d: end}}", "a year"),
        ("a: {after: {=datum: end}}", "unknown name 'datum'"),
        ("a: {always: {do: {log: 1}}}", "again and again"),
        ("a: {on: {'a b*': end}}", "no name of an event"),
        ("a: {on: {x: {}}}", "leads nowhere and does nothing"),
        ("a: {when: {subject.: end}}", "subject."),
        ("a: {enter: {set: {nope: 1}}, after: {1s: end}}", "is no variable of this runbook"),
        ("a: {enter: {set: {incident: 1}}, after: {1s: end}}", "is no variable of this runbook"),
        ("a: {enter: {raise: '*'}, after: {1s: end}}", "one event's name"),
        ("a: {enter: {emit: {with: {}}}, after: {1s: end}}", "an event's name"),
        ("a: {enter: {shout: 1}, after: {1s: end}}", "no such key"),
        ("a: {final: true, do: x.y}", "has no meaning for a state with final"),
        ("9a: {after: {1s: end}}", "begins with a letter"),
        ("a: just text", "a mapping that describes a state"),
    ],
)
def test_a_mistake_in_a_state_is_told_with_the_way_out(states: str, part: str) -> None:
    told = mistakes(book(states))

    assert any(part in line for line in told), told
    assert all(line.startswith("mine.yaml:") for line in told)


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ("data: {last: 1}", "cannot be a variable's name"),
        ("data: {left_: 1}", "cannot be a variable's name"),
        ("data: {a: b}", "unknown name 'b'"),
        ("severity: bad", "should be one of info, warning, major, critical"),
        ("version: 1.5", "a whole number"),
        ("deadline: {15m: nowhere}", "there is no state 'nowhere'"),
        ("deadline: {15m: {do: {log: 1}}}", "leads nowhere"),
        ("concurrency: {per_target: {max: 0}}", "a whole number"),
        ("concurrency: {per_hour: 1}", "no such key"),
        ("on: {x: nowhere}", "there is no state 'nowhere'"),
    ],
)
def test_a_mistake_at_the_top_is_told_with_the_way_out(more: str, part: str) -> None:
    told = mistakes(book("a: {after: {1s: end}}", more))

    assert any(part in line for line in told), told


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{runbook: x", "is no YAML"),
        ("just text", "should be a mapping"),
        ("- a\n- b\n", "should be a mapping"),
        ("runbook: x\nrunbook: y\n", "mine.yaml:2: the whole file: 'runbook' is there twice, first in line 1"),
        ("runbook: &a x\nsummary: *a\n", "an anchor (&a)"),
        ("runbook: *a\n", "an alias (*a)"),
        ("a: &x 1\nrunbook: *x\n", "an alias (*x)"),
        ("runbook: !!python/object:os.system x\n", "a tag"),
        ("<<: {a: 1}\n", "merge keys"),
        ("? [a, b]\n: c\n", "a key is one word"),
        ("runbook: x\n\x07", "is no YAML"),
        ("a: " + "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "is nested deeper"),
        ("# " + "x" * LARGEST, "is larger than"),
        ("runbook: x\nsummary: s\ntrigger: {anomaly: a}\nstates: {a: {after: {1s: a}}}\n", "has no end"),
    ],
)
def test_what_is_no_runbook_is_a_mistake_and_never_a_crash(text: str, part: str) -> None:
    told = mistakes(text)

    assert any(part in line for line in told), told


def test_an_empty_file_has_no_runbooks() -> None:
    assert read("# nothing yet\n", "mine.yaml") == []


# -- expressions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("incident.node", "incident.node"),
        ("=1 + 1", "1 + 1"),
        ("'x' + subject.name", "'x' + subject.name"),
        ("1s", None),
        ("HUP", None),
        ("10", None),
        ("restart now", None),
        ("node.incident", None),
        ("incident.node and other", None),
    ],
)
def test_an_argument_is_evaluated_when_it_speaks_of_variables_and_of_nothing_else(
    text: str, source: str | None
) -> None:
    assert computed(text, {"incident", "subject"}) == source


# -- what only shows when all ways are walked ------------------------------------------------------------------------


def test_the_shipped_runbooks_are_sound() -> None:
    for file in files():
        assert read(file.read_text(encoding="utf-8"), file.name)


def test_the_large_example_is_sound() -> None:
    path = Path(__file__).parent / "runbooks" / "wg_link_loss.yaml"
    (found,) = read(path.read_text(encoding="utf-8"), path.name)

    assert (found.name, found.version, found.severity) == ("wg-link-loss", 3, "major")
    assert found.concurrency.per_runbook == 20 and found.concurrency.target == "incident.node"
    assert "was" in found.chart.names and "$error" in found.chart.names


def test_a_state_that_waits_for_nothing_is_refused_with_the_way_into_it() -> None:
    told = mistakes(book("a: {do: x.y, done: end, failed: stuck}\nstuck: {}"), prove=True)

    assert any("'stuck'" in line and "failed.act.a" in line for line in told), told


def test_a_state_that_nothing_leads_to_is_refused() -> None:
    told = mistakes(
        book("a: {do: x.y, done: end, failed: end}\nforgotten: {do: x.y, done: end, failed: end}"), prove=True
    )

    assert told[0].startswith("mine.yaml:7: x: state 'forgotten': is never entered"), told


def test_states_from_which_no_end_can_be_reached_are_refused() -> None:
    told = mistakes(book("a: {do: x.y, done: end, failed: b}\nb: {after: {1s: c}}\nc: {after: {1s: b}}"), prove=True)

    assert any("'b'" in line or "'c'" in line for line in told), told


# -- nothing crashes it ------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        "runbook: x\n", "summary: s\n", "trigger:", "{anomaly: a}", "states:", "\n  a: ", "{final: true}", "do: ",
        "x.y",
        "[", "]", "{", "}", ", ", ": ", "\n", "  ", "- ", "&a ", "*a ", "!!x ", "'", '"', "on", "ladder: ", "after: ",
        "1s: a", "if: ", "subject.x", "null", "---\n", "done: a", "failed: a", "\t", "#", "|", "%",
    ]
)  # fmt: skip


@drawn(st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=40).map("".join)))
@settings(max_examples=300, deadline=None)
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    try:
        books = read(text, "f", prove=False)
    except ConfigError as error:
        assert error.problems
        return
    for found in books:
        assert found.definition.name


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["a", "end", "x.y", "1s"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "do", "to", "if"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@drawn(st.data())
@settings(max_examples=300, deadline=None)
def test_a_sound_runbook_with_one_value_replaced_is_read_or_refused(data: st.DataObject) -> None:
    source: Any = yaml.safe_load(RULE)
    spots: list[tuple[Any, Any]] = []
    waiting = [source]
    while waiting:
        here = waiting.pop()
        for key, inner in here.items() if isinstance(here, dict) else enumerate(here):
            spots.append((here, key))
            if isinstance(inner, dict | list):
                waiting.append(inner)
    where, key = data.draw(st.sampled_from(spots), label="place")
    where[key] = data.draw(JSON)
    found, wrong = parse(source)

    assert (found is None) == bool(wrong)
    if found is not None:
        assert found.chart.names
    drafted, told = draft(source)  # and walked through, as far as it can be made out

    assert [*told][: len(wrong)] == [*wrong] and (drafted is not None or told)
