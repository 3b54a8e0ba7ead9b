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
    told = mistakes("""\
runbook: bad
sumary: has mistakes
trigger: {anomaly: hung, if: "subject.("}
initial: begn
states:
  begin: {do: service.restart, done: healed, failed: [{to: tel, if: "1 +"}]}
  tell: {do: {action: notify.human, args: {x: "="}}, done: told}
  healed: {final: true, done: begin}
  told: {final: true}
""")

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
    assert [t for t in told if "bad.summary: is missing" in t]


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
