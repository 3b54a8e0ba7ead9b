"""What is written as SCXML is read back as the same; and what may be in a document that comes from elsewhere."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from x0tta6bl4.statechart.formats.scxml import DEEPEST, LONGEST, OWN, SCXML, Unsupported, literal, read, write
from x0tta6bl4.statechart.formats.session import Sessions

CHARTS = sorted((Path(__file__).parent / "irp").glob("*.scxml"))


def document(inside: str, attributes: str = "") -> str:
    return f'<scxml xmlns="{SCXML}" xmlns:x="{OWN}" version="1.0" {attributes}>\n{inside}</scxml>'


@pytest.mark.parametrize("path", CHARTS, ids=lambda path: path.stem)
def test_a_chart_that_was_written_is_the_same_and_does_the_same(path: Path) -> None:
    definition = read(path.read_text(), path.parent)
    written = write(definition)
    again = read(written, None)  # files it named are part of it by now
    sessions = Sessions(path.parent)
    session = sessions.open(again)
    sessions.run(session)

    assert again == definition
    assert write(again) == written
    assert session.final == ("pass" if "sub" not in path.stem else "final")


EVERYTHING = Definition(
    name="every-thing",
    version="7",
    binding="late",
    scoping="local",
    errors="rollback",
    strict=True,
    lenient=("a", "b"),
    summary='All there is, with <angles> & "quotes".',
    script=(Assign("v", "1 + 1"),),
    root=State(
        summary="The root.",
        initial=("one",),
        on_initial=(Log("here"),),
        transitions=(Transition("stop", ("end",)),),
        entry=((Log("", "'in'"),),),
        exit=((Log("out", "'<&>\"'"),),),
        activities=(Activity(type="job"),),
        variables=(Variable("v", value={"a": [1, None, "x  y"]}, type="record{a: any}"), Variable("w", "v.a")),
        invariants=("w != 3",),
        defer=("later", "b.*"),
        states=(
            State(
                "one",
                summary="First.",
                defer=("x",),
                variables=(Variable("n", value="21"), Variable("m", value=21), Variable("o"), Variable("p", value="")),
                transitions=(
                    Transition("go", ("two", "three"), guard="n < 3", kind="external"),
                    Transition(
                        "stay", (), do=(Raise("r", "1"), Cancel(id="c"), Cancel(id_expression="'c'")), kind="internal"
                    ),
                    Transition("in", ("inner",), kind="local"),
                    Transition(to=("end",), after=1.5),
                    Transition(to=("end",), after="5m"),
                    Transition(to=("end",), after="=n + 1"),
                    Transition(to=("end",), when="n > 9"),
                ),
                states=(
                    State("way-in", Kind.ENTRY, transitions=(Transition(to=("inner",)),)),
                    State("inner"),
                    State("h", Kind.HISTORY, transitions=(Transition(to=("inner",), do=(Log("h"),)),)),
                    State("hh", Kind.DEEP_HISTORY),
                    State("c", Kind.CHOICE, transitions=(Transition(to=("inner",), guard="n"), Transition(to=("f",)))),
                    State("j", Kind.JUNCTION, transitions=(Transition(to=("inner",)),)),
                    State("way-out", Kind.EXIT, transitions=(Transition(to=("end",)),)),
                    State("f", Kind.FINAL, result=Result(parameters=(("k", "n"),))),
                    State("t", Kind.TERMINATE),
                ),
            ),
            State(
                "p",
                Kind.PARALLEL,
                states=(
                    State(
                        "two",
                        entry=(
                            (
                                Send(event="e", delay=2.5, id="c", parameters=(("a", "n"),)),
                                Send(event_expression="'e'", target="#_parent", type="scxml", content={"b": "<x/>"}),
                                Send(
                                    "e",
                                    target_expression="v",
                                    type_expression="v",
                                    id_location="v",
                                    delay_expression="'1s'",
                                ),
                                Send("e", content_expression="[n]"),
                                ForEach("[1]", "i", "k", (Assign("v", value=[True]),)),
                                If((("n", (Log("a"),)), ("m", ()), (None, (Assign("v.a", value=None),)))),
                            ),
                            (Assign("v", value="two  blanks"), Assign("v", value="\n"), Assign("v", value="None")),
                        ),
                    ),
                    State(
                        "three",
                        activities=(
                            Activity(
                                type_expression="'job'",
                                source_expression="'s'",
                                id_location="v",
                                parameters=(("a", "1"),),
                                finalize=(Assign("v", "1"),),
                                forward=True,
                            ),
                            Activity(type="scxml", source="file:x.scxml", id="k", content_expression="v"),
                        ),
                    ),
                ),
            ),
            State("end", Kind.FINAL, result=Result(value={"outcome": "done"}), exit=((Log("x"),),)),
            State("join", Kind.JOIN, transitions=(Transition(to=("end",)),)),
        ),
    ),
)


def test_everything_a_statechart_can_say_is_written_and_read() -> None:
    expected = replace(EVERYTHING, script=(Assign("v", "1 + 1"),))
    delay = "2.5s"  # SCXML wants a unit
    states = list(expected.root.states)
    two = states[1].states[0]
    send = two.entry[0][0]
    assert isinstance(send, Send)
    entry = ((replace(send, delay=delay), *two.entry[0][1:]), two.entry[1])
    states[1] = replace(states[1], states=(replace(two, entry=entry), states[1].states[1]))

    assert read(write(EVERYTHING)) == replace(expected, root=replace(expected.root, states=tuple(states)))


def test_another_processor_sees_plain_scxml_where_there_is_a_word_for_it() -> None:
    plain = Definition("p", State(states=(State("a"),)), scoping="global", errors="event", strict=False)

    assert "x:" not in write(plain)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_value_comes_back(value: Any) -> None:
    root = State(variables=(Variable("v", value=value),), states=(State("a"),))

    assert read(write(Definition("p", root))).root.variables == root.variables


@given(st.text(st.characters(codec="utf-8")))
def test_any_name_and_expression_comes_back_or_is_refused(text: str) -> None:
    definition = Definition(
        text.strip(), State(states=(State("a", summary=text, transitions=(Transition(guard="x"),)),))
    )
    try:
        written = write(definition)
    except Unsupported as error:
        assert "cannot stand in XML" in str(error)
        return
    again = read(written)

    assert again.root.states[0].summary == text
    assert again.name == text.strip()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1,\n 2]", [1, 2]),
        ('{"a": null}', {"a": None}),
        ("{'a': None, 'b': True}", {"a": None, "b": True}),
        ("(1, 2)", "(1, 2)"),
        ("21", 21),
        ("'x'", "x"),
        ("1e999", "1e999"),
        ("NaN", "NaN"),
        ("{1: 2}", "{1: 2}"),
        (" some   words ", "some words"),
        ("[" * 5000, "[" * 5000),
        ("__import__('os')", "__import__('os')"),
    ],
)
def test_a_text_is_a_value_if_it_can_be_one(text: str, value: Any) -> None:
    assert literal(text) == value


def test_functions_are_not_written() -> None:
    called = State("a", entry=((Call(lambda scope: None),),))
    guarded = State("a", transitions=(Transition(guard=lambda scope: True),))
    for state in (called, guarded):
        with pytest.raises(Unsupported, match="function"):
            write(Definition("p", State(states=(state,))))


# What is refused


@pytest.mark.parametrize(
    ("inside", "line", "element"),
    [
        ('<state id="a">\n<sate id="b"/></state>', 3, "sate"),
        ('<state id="a"><onentry>\n\n<launch/></onentry></state>', 4, "launch"),
        ("<final><transition/></final>", 2, "transition"),
        ('<parallel id="p"><final/></parallel>', 2, "final"),
        ('<state id="a"><other xmlns="urn:other"/></state>', 2, "other"),
        ("<state><onentry><raise/></onentry></state>", 2, "raise"),
        ("<state><onentry><cancel/></onentry></state>", 2, "cancel"),
        ("<state><onentry><if cond='1'><else/><elseif cond='2'/></if></onentry></state>", 2, "elseif"),
        ("<state><onentry><if/></onentry></state>", 2, "if"),
        ("<state><onentry><foreach item='i'/></onentry></state>", 2, "foreach"),
        ("<state><onentry><send event='a' eventexpr='b'/></onentry></state>", 2, "send"),
        ("<state><onentry><send><param name='x'/></send></onentry></state>", 2, "param"),
        ("<state><onentry><send><content expr='1'>2</content></send></onentry></state>", 2, "content"),
        ("<state><onentry><send><content><books/></content></send></onentry></state>", 2, "books"),
        ("<state><onentry>\n<script>import os</script></onentry></state>", 3, "script"),
        ("<script>f(1)</script>", 2, "script"),
        ("<script>a = b = 1</script>", 2, "script"),
        ("<script src='file:none.py'/>", 2, "script"),
        ("<datamodel><data/></datamodel>", 2, "data"),
        ("<state initial='b'><initial><transition target='b'/></initial><state id='b'/></state>", 2, "initial"),
        ("<state><initial><transition event='e' target='b'/></initial><state id='b'/></state>", 2, "initial"),
        ("<state><history type='long'/></state>", 2, "history"),
        ("<state x:kind='sponge'/>", 2, "state"),
        ("<state><transition type='sideways' target='b'/></state>", 2, "transition"),
    ],
)
def test_what_is_not_known_is_refused_with_its_element_and_line(inside: str, line: int, element: str) -> None:
    with pytest.raises(Unsupported, match=rf"^line {line}: <{element}>: "):
        read(document(inside))


@pytest.mark.parametrize("attributes", ["datamodel='ecmascript'", "datamodel='xpath'", "binding='soon'"])
def test_another_data_model_is_refused(attributes: str) -> None:
    with pytest.raises(Unsupported, match="<scxml>"):
        read(document("<state/>", attributes))


def test_a_misspelt_attribute_is_remarked() -> None:
    remarks: list[str] = []
    read(document('<state id="a"><transition\n event="e" codn="x"/></state>'), remark=remarks.append)

    assert remarks == ["line 2: <transition>: the attribute 'codn' is not known"]


BOMB = '<!DOCTYPE scxml [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE scxml [<!ENTITY a SYSTEM "file:///etc/hostname">]>'
ELSEWHERE = '<!DOCTYPE scxml SYSTEM "http://example.org/scxml.dtd">'


@pytest.mark.parametrize("declaration", [BOMB, OUTSIDE, ELSEWHERE])
def test_a_document_type_is_refused_before_anything_is_made_of_it(declaration: str) -> None:
    with pytest.raises(Unsupported, match="line 1: <!DOCTYPE>"):
        read(declaration + document("<state id='&b;'/>"))


def test_a_document_has_bounds() -> None:
    with pytest.raises(Unsupported, match="inside each other"):
        read(document("<state>" * (DEEPEST + 1) + "</state>" * (DEEPEST + 1)))
    with pytest.raises(Unsupported, match="longer than"):
        read(document("<!--" + " " * LONGEST + "--><state/>"))


@pytest.mark.parametrize(
    "text", ["", "<", "<scxml>", "<html/>", "plain", "<scxml/><scxml/>", '<a xmlns="urn:x"/>', "\ud800"]
)
def test_what_is_no_scxml_is_refused(text: str) -> None:
    with pytest.raises(Unsupported):
        read(text)


@given(st.text())
def test_reading_never_fails_in_another_way(text: str) -> None:
    for written in (text, document(f"<state id='a'>{text}</state>"), document(f"<script>{text}</script>")):
        try:
            read(written, None)
        except Unsupported:
            pass


def test_files_are_read_below_the_base_only(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.txt").write_text("1")
    (tmp_path / "inside" / "open.txt").write_text("[1, 2]")
    (tmp_path / "inside" / "link.txt").symlink_to(tmp_path / "secret.txt")

    def first(source: str, base: Path | None) -> Variable:
        return read(document(f"<datamodel><data id='v' src='{source}'/></datamodel>"), base).root.variables[0]

    inside = tmp_path / "inside"

    assert first("file:open.txt", inside).value == [1, 2]
    for source in ("file:../secret.txt", f"file:{tmp_path}/secret.txt", "file:link.txt", "file:none.txt"):
        variable = first(source, inside)
        assert variable.value is None
        assert variable.expression is not None  # it fails when the variable is to get its value
    assert first("file:open.txt", None).value is None
