"""Drawings: everything is in them, nothing in a name can break them, and the active states are marked."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0tta6bl4.statechart.core.state import Definition, Kind, State
from x0tta6bl4.statechart.core.transition import Activity, Assign, Send, Transition
from x0tta6bl4.statechart.formats.mermaid import draw, safe

DOOR = Definition(
    "door",
    State(
        states=(
            State(
                "closed",
                entry=((Assign("n", "n + 1"),),),
                transitions=(
                    Transition("open", ("opened",), guard="n < 3", do=(Send("creak"),)),
                    Transition("knock", ()),
                ),
            ),
            State(
                "opened",
                initial=("wide",),
                on_initial=(Send("draught"),),
                activities=(Activity(type="air"),),
                states=(
                    State("ajar", transitions=(Transition("push", ("wide",)),)),
                    State(
                        "wide", transitions=(Transition(to=("ajar",), after=5.0), Transition(to=("ajar",), when="cold"))
                    ),
                    State("was", Kind.DEEP_HISTORY),
                ),
                transitions=(Transition("shut", ("asked",)), Transition("again", ("was",))),
            ),
            State(
                "asked", Kind.CHOICE, transitions=(Transition(to=("closed",), guard="ok"), Transition(to=("broken",)))
            ),
            State(
                "broken",
                Kind.PARALLEL,
                states=(
                    State("hinge", states=(State("hinge.done", Kind.FINAL),)),
                    State("lock", states=(State("lock.a", transitions=(Transition(to=("both",)),)), State("lock.b"))),
                ),
            ),
            State("both", Kind.JOIN, transitions=(Transition(to=("gone",)),)),
            State("gone", Kind.FINAL),
        ),
        transitions=(Transition("burn", ("hinge.done", "lock.b")),),
    ),
)

DRAWN = """\
stateDiagram-v2
    state "anywhere" as s0
    [*] --> s1
    state "closed" as s1
    s1 : entry / n = n + 1
    s1 : knock
    state "opened" as s2 {
        [*] --> s4 : / send draught
        state "ajar" as s3
        state "wide" as s4
        state "H*" as s5
        s3 --> s4 : push
        s4 --> s3 : after 5s
        s4 --> s3 : when cold
    }
    note right of s2
        do / air
    end note
    state s6 <<choice>>
    state "broken" as s7 {
        state "hinge" as s8 {
            [*] --> s9
            state "hinge.done" as s9
            s9 --> [*]
        }
        --
        state "lock" as s10 {
            [*] --> s11
            state "lock.a" as s11
            state "lock.b" as s12
        }
    }
    state s13 <<join>>
    state "gone" as s14
    s14 --> [*]
    state f1 <<fork>>
    s0 --> f1 : burn
    f1 --> s9
    f1 --> s12
    s1 --> s2 : open [n #60; 3] / send creak
    s2 --> s6 : shut
    s2 --> s5 : again
    s6 --> s1 : [ok]
    s6 --> s7 : [else]
    s11 --> s13
    s13 --> s14
    classDef active fill:#2f7d4f,color:#ffffff,stroke:#184a2c,stroke-width:3px
    classDef pseudo fill:#e4e4e4,color:#333333,stroke:#888888,stroke-dasharray:3
    class s5 pseudo
    class s2,s4 active
"""


def test_a_chart_is_drawn_whole_with_its_active_states() -> None:
    assert draw(DOOR, ("opened", "wide")) == DRAWN


def test_nothing_is_marked_when_nothing_is_active() -> None:
    assert not re.search(r"^ *class .* active$", draw(DOOR), re.MULTILINE)


def test_an_active_state_that_does_not_exist_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="'ajarr'"):
        draw(DOOR, ("ajarr",))


@pytest.mark.parametrize(
    "name", ['say "end"', "a --> b", "x : y", "{", "}", "%% no", "end note", "state", "[*]", "é<b>", "a;b#c"]
)
def test_no_name_can_break_the_drawing(name: str) -> None:
    state = State(name, entry=((Assign("v", f"'{name}'"),),), transitions=(Transition(name, (name,), guard=name),))
    plain = State("n", entry=((Assign("v", "'n'"),),), transitions=(Transition("n", ("n",), guard="n"),))
    drawn, expected = (draw(Definition("d", State(states=(s,)))).splitlines() for s in (state, plain))

    assert len(drawn) == len(expected)
    for line in drawn[:-2]:
        label = re.fullmatch(
            r' *(stateDiagram-v2|\[\*\] --> s1|state "([^"]*)" as s1|s1 : (.*)|s1 --> s1 : (.*))', line
        )
        assert label, line
        for text in label.groups()[1:]:
            assert not re.search(r"[\"{}<>%:]|--|;(?<!#\d;)(?<!#\d\d;)(?<!#\d{3};)", text or "")


@given(st.text())
def test_a_safe_text_says_the_same(text: str) -> None:
    shown = re.sub(r"#(\d+);", lambda found: chr(int(found[1])), safe(text))

    assert shown == " ".join(text.split())


def test_states_that_are_the_same_object_are_drawn_as_two() -> None:
    twin = State()
    drawn = draw(Definition("d", State(states=(twin, twin))))

    assert 'state "(no name)" as s1' in drawn
    assert 'state "(no name)" as s2' in drawn
