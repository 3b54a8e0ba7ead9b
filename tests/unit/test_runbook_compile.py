"""From runbook to statechart: what an operator wrote is what the machine does, step by step."""

from typing import Any

from x0tta6bl4.runbooks.compile import ERROR, ESCALATED, authored, literal
from x0tta6bl4.runbooks.document import Runbook, read
from x0tta6bl4.runbooks.draw import draw
from x0tta6bl4.runbooks.shipped import shipped
from x0tta6bl4.statechart.core.content import Runtime
from x0tta6bl4.statechart.core.effect import Effect, Ended, Faulted, Logged, Sent, Started, Stopped
from x0tta6bl4.statechart.core.event import Event
from x0tta6bl4.statechart.persistence.serializer import definition_from_json, definition_to_json
from x0tta6bl4.statechart.runtime.executor import handle, new, start
from x0tta6bl4.statechart.types.base import compile_expression

GIVEN = {"incident": {"node": "n1", "loss": 0.3}, "subject": {"name": "web", "can": {}}}


def one(states: str, more: str = "") -> Runbook:
    inside = "\n".join(f"  {line}" for line in states.strip().splitlines())
    head = f"runbook: x\nversion: 7\nsummary: s\ntrigger: {{anomaly: a}}\n{more}\n"
    text = f"{head}states:\n{inside}\n  end: {{final: true}}\n"
    (book,) = read(text, "x.yaml", prove=False)
    return book


class Played:
    """A runbook that was begun, and what it asked for."""

    def __init__(self, book: Runbook, **told: Any) -> None:
        self.instance = new(book.chart, "inc-1", Runtime())
        self.effects: list[Effect] = []
        start(self.instance, {**GIVEN, **told})
        self._gather()

    def tell(self, name: str, data: Any = None) -> "Played":
        self.effects.clear()
        handle(self.instance, Event(name, data))
        self._gather()
        for fault in self.of(Faulted):
            # As the daemon does: the step was taken back whole, and the chart is told of it.
            handle(self.instance, Event("error.execution", {"message": f"{fault.what}: {fault.why}", "event": name}))
            self._gather()
        return self

    def _gather(self) -> None:
        self.effects += self.instance.runtime.effects
        self.instance.runtime.effects.clear()

    def of(self, kind: type[Any]) -> list[Any]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    @property
    def at(self) -> str:
        return self.instance.configuration[-1]


# -- actions -----------------------------------------------------------------------------------------------------------


def test_an_action_becomes_an_activity_with_all_that_the_host_needs() -> None:
    book = one("""
a:
  do:
    - {action: x.look, args: {node: incident.node, grace: 1s, count: 3}, timeout: 5s, on_unknown: retry}
    - {action: x.act, retry: {max: 2, backoff: 3s}, undo: {action: x.back, args: {hard: true}}}
  expect: {within: 7s, hold: 1s}
  on_resume: restart
  done: end
  failed: end
""")
    (started,) = Played(book).of(Started)

    assert (started.state, started.type) == ("a", "act")
    assert started.parameters == {"args": [{"node": "n1", "grace": "1s", "count": 3}, {}]}
    assert started.content == {
        "steps": [
            {
                "action": "x.look", "timeout": 5.0, "retry": {"max": 1, "backoff": 0.0}, "undo": None,
                "on_unknown": "retry",
            },
            {
                "action": "x.act", "timeout": None, "retry": {"max": 2, "backoff": 3.0},
                "undo": {"action": "x.back", "args": {"hard": True}}, "on_unknown": "probe",
            },
        ],
        "expect": {"within": 7.0, "hold": 1.0},
        "on_resume": "restart",
    }  # fmt: skip


def test_branches_see_the_result_and_what_comes_later_sees_the_last_one() -> None:
    book = one("""
a:
  do: x.look
  done: [{to: b, if: result.loss > 0.1, do: {set: {seen_loss: result.loss}}}, end]
  failed: end
b: {do: {action: x.act, args: {loss: last.loss, twice: "=seen_loss * 2"}}, done: end, failed: end}
""", "data: {seen_loss: 0}")  # fmt: skip

    (started,) = Played(book).tell("done.act.a", {"outcome": "unverified", "loss": 0.5}).of(Started)
    assert started.parameters == {"args": [{"loss": 0.5, "twice": 1.0}]}
    assert [e.state for e in Played(book).tell("done.act.a", {"outcome": "unverified", "loss": 0.0}).of(Ended)] == [
        "end"
    ]


def test_what_is_not_known_is_a_failure_unless_there_is_a_branch_for_it() -> None:
    plain = one("a: {do: x.act, done: end, failed: b}\nb: {after: {1s: end}}")
    told = one("a: {do: x.act, done: end, failed: end, unknown: b}\nb: {after: {1s: end}}")

    assert Played(plain).tell("unknown.act.a", {"outcome": "unverified"}).at == "b"
    assert Played(told).tell("unknown.act.a", {"outcome": "unverified"}).at == "b"
    assert Played(told).tell("failed.act.a", {"outcome": "failed"}).of(Ended)


def test_where_a_precondition_does_not_hold_nothing_is_begun() -> None:
    book = one("a: {if: subject.can.reload, do: x.act, done: end, failed: b}\nb: {after: {1s: end}}")

    skipped = Played(book)
    assert skipped.at == "b" and not skipped.of(Started)
    assert [s.state for s in Played(book, subject={"can": {"reload": True}}).of(Started)] == ["a"]


def test_leaving_a_state_stops_what_is_done_in_it() -> None:
    book = one("a: {do: x.act, done: end, failed: end, on: {operator.abort: b}}\nb: {after: {1s: end}}")

    assert [s.state for s in Played(book).tell("operator.abort").of(Stopped)] == ["a"]


# -- ladders ---------------------------------------------------------------------------------------------------------

LADDER = """
l:
  ladder:
    mild: {if: subject.can.reload, do: x.mild}
    firm: {do: x.firm, safety: true}
    last: {do: x.last, done: told, failed: told}
  done: end
  failed: told
told: {after: {1s: end}}
"""


def test_a_ladder_asks_which_rung_comes_next_and_forgets_the_one_that_was_taken() -> None:
    played = Played(one(LADDER))
    (choice,) = played.of(Started)

    assert (choice.state, choice.type) == ("l.next", "choose")
    assert [(r["state"], r["actions"], r["is_safety"]) for r in choice.content["rungs"]] == [
        ("mild", ["x.mild"], False),
        ("firm", ["x.firm"], True),
        ("last", ["x.last"], False),
    ]
    assert choice.parameters == {
        "left": ["mild", "firm", "last"],
        "open": {"mild": False, "firm": True, "last": True},
    }
    (last,) = played.tell("done.act.l.next", {"rung": "last", "because": "it is open"}).of(Started)
    assert last.content["expect"] is None
    assert Played(one(LADDER)).tell("done.act.l.next", {"rung": "mild", "because": ""}).of(Started)[0].content[
        "expect"
    ] == {"within": 0.0, "hold": 3.0}


def test_a_safety_step_heals_nothing_leads_on_when_it_is_done_and_ends_the_ladder_when_it_is_not() -> None:
    played = Played(one(LADDER))
    (firm,) = played.tell("done.act.l.next", {"rung": "firm", "because": "its turn"}).of(Started)
    assert firm.content["expect"] is None
    (again,) = played.tell("done.act.firm", {"outcome": "done"}).of(Started)
    assert (again.type, again.parameters["left"]) == ("choose", ["mild", "last"])

    played = Played(one(LADDER)).tell("done.act.l.next", {"rung": "firm", "because": "its turn"})
    assert played.tell("failed.act.firm", {"outcome": "failed"}).at == "told"


def test_a_ladder_ends_where_its_rungs_or_itself_say() -> None:
    book = one(LADDER)

    def at(rung: str) -> Played:
        return Played(book).tell("done.act.l.next", {"rung": rung, "because": ""})

    assert at("mild").tell("done.act.mild", {"outcome": "verified"}).of(Ended)
    assert at("last").tell("done.act.last", {"outcome": "unverified"}).at == "told"
    assert Played(book).tell("failed.act.l.next", {"outcome": "failed"}).at == "told"


def test_a_ladder_that_was_held_goes_on_with_the_rungs_that_are_left() -> None:
    book = one("""
active:
  on: {operator.hold: held}
  states:
    l: {ladder: {one: {do: x.one}, two: {do: x.two}}, done: end, failed: end}
    was: {history: deep, default: l}
held: {on: {operator.resume: was}}
""")
    played = Played(book).tell("done.act.l.next", {"rung": "one", "because": ""}).tell("operator.hold")

    assert played.tell("operator.resume").at == "one"
    (choice,) = played.tell("failed.act.one", {"outcome": "failed"}).of(Started)
    assert choice.parameters["left"] == ["two"]


def test_a_ladder_that_is_entered_again_begins_with_all_of_its_rungs() -> None:
    book = one("l: {ladder: {one: {do: x.one}}, done: end, failed: rest}\nrest: {on: {again: l, stop: end}}")
    played = Played(book).tell("done.act.l.next", {"rung": "one", "because": ""})
    played.tell("failed.act.one", {"outcome": "failed"}).tell("failed.act.l.next", {"outcome": "failed"})

    (choice,) = played.tell("again").of(Started)
    assert choice.parameters["left"] == ["one"]


# -- the rest of the words --------------------------------------------------------------------------------------------


def test_taking_back_is_the_hosts_and_the_chart_waits_for_it() -> None:
    book = one("a: {rollback: true, done: end, failed: b}\nb: {after: {1s: end}}")
    played = Played(book)

    assert [(s.state, s.type) for s in played.of(Started)] == [("a", "rollback")]
    assert played.tell("failed.act.a", {"outcome": "failed"}).at == "b"


def test_times_events_and_messages_become_effects() -> None:
    book = one("""
a:
  enter:
    - set: {n: n + 1}
      log: "'entered ' + str(n)"
    - emit: {event: incident.note, with: {n: n, plain: 3, who: incident.node}}
  after: {90s: end}
""", "data: {n: 1}")  # fmt: skip
    played = Played(book)
    note, timer = played.of(Sent)

    assert [logged.value for logged in played.of(Logged)] == ["entered 2"]
    assert (note.event, note.target, note.data) == ("incident.note", "#_bus", {"n": 2, "plain": 3, "who": "n1"})
    assert timer.delay == 90.0
    assert [e.state for e in played.tell(timer.event).of(Ended)] == ["end"]


def test_a_deadline_holds_wherever_the_incident_is() -> None:
    book = one(
        "a: {do: x.act, done: end, failed: b}\nb: {after: {9h: end}}\nc: {after: {1s: end}}", "deadline: {15m: c}"
    )
    played = Played(book)
    (timer,) = played.of(Sent)

    assert timer.delay == 900.0
    assert played.tell("failed.act.a", {"outcome": "failed"}).at == "b"
    assert played.tell(timer.event).at == "c"


def test_a_final_state_hands_over_its_result() -> None:
    book = one("a: {do: x.act, done: good, failed: end}\ngood: {final: true, result: \"{'by': last.detail}\"}")
    (ended,) = Played(book).tell("done.act.a", {"outcome": "verified", "detail": "x"}).of(Ended)

    assert (ended.state, ended.result) == ("good", {"by": "x"})


# -- what nobody thought of --------------------------------------------------------------------------------------------


def test_an_expression_that_fails_is_told_to_a_human_and_never_passed_over() -> None:
    """The guard asks for what the action did not return: silently false, it would lead to the wrong branch."""
    book = one("a: {do: x.look, done: [{to: end, if: result.loss > 1}, b], failed: end}\nb: {after: {1s: end}}")
    played = Played(book).tell("done.act.a", {"outcome": "unverified"})
    (telling,) = [s for s in played.of(Started) if s.state == ERROR]

    assert played.at == ERROR
    assert telling.content["steps"][0]["action"] == "notify.human"
    assert "error.execution" in telling.parameters["args"][0]["text"]
    assert "loss" in telling.parameters["args"][0]["text"]
    (ended,) = played.tell(f"failed.act.{ERROR}", {"outcome": "failed"}).of(Ended)
    assert ended.state == ESCALATED and ended.result["outcome"] == "error"


def test_an_author_who_takes_errors_gets_them() -> None:
    states = "a: {do: x.look, done: [{to: end, if: result.loss > 1}, a], failed: end}\nb: {after: {1s: end}}"
    played = Played(one(states, "on: {error: b}"))

    assert played.tell("done.act.a", {"outcome": "unverified"}).at == "b"
    assert ERROR not in played.instance.chart.names


# -- values -----------------------------------------------------------------------------------------------------------


def test_a_plain_value_survives_being_written_as_an_expression() -> None:
    value = {"a": [1, -2.5, None, True, 'it\'s \\ "so"\n'], "b": {"c": []}}

    assert compile_expression(literal(value))({}, None, None) == value


def test_the_definitions_of_runbooks_can_be_kept() -> None:
    for book in shipped():
        assert definition_from_json(definition_to_json(book.definition)) == book.definition


def test_a_drawing_speaks_the_words_of_the_runbook() -> None:
    text = draw(one(LADDER), ["firm"])

    assert "do / x.firm" in text and "chosen" in text and "class" in text
    assert ERROR not in text and "left_l_" not in text
    assert ERROR not in {state.id for state in authored(one(LADDER).definition).root.states}
