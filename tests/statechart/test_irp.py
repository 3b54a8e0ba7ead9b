"""The W3C's conformance charts, and rules of SCXML 1.0 that those of them that are here leave out."""

import os
from pathlib import Path

import pytest

from x0tta6bl4.statechart.formats.session import Session, Sessions

HERE = Path(__file__).parent / "irp"
ELSEWHERE = os.environ.get("X0TTA6BL4_SCXML_CHARTS", "")
"""Another folder of charts to run as well. Those that need an HTTP processor are none of ours."""


def charts(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.rglob("test*.scxml")) if "sub" not in path.stem]
    return [path for path in found if "BasicHTTP" not in path.read_text("utf-8-sig")]


ALL = charts(HERE) + (charts(Path(ELSEWHERE)) if ELSEWHERE else [])


def run(document: str, base: Path = HERE, *, restore: bool = False) -> tuple[Sessions, Session]:
    sessions = Sessions(base, restore=restore)
    session = sessions.open(document)
    sessions.run(session)
    return sessions, session


@pytest.mark.parametrize("restore", [False, True], ids=["kept", "restored"])
@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_the_chart_passes(path: Path, restore: bool) -> None:
    _, session = run(path.read_text("utf-8-sig"), path.parent, restore=restore)

    assert session.final == "pass", session.log


def test_there_are_charts() -> None:
    assert len(charts(HERE)) == 110


def test_instances_really_are_thrown_away_and_rebuilt() -> None:
    restored = [run(path.read_text("utf-8-sig"), restore=True)[0].restored for path in charts(HERE)]

    assert sum(restored) > 50


# Rules. Each chart ends in `pass`, or it breaks the rule.

ENDS = '<final id="pass"/><final id="fail"/>'
CHILD = '<scxml version="1.0" datamodel="python">{}</scxml>'


def chart(body: str, data: str = "", attributes: str = "") -> str:
    model = f"<datamodel>{data}</datamodel>" if data else ""
    head = f'<scxml xmlns="http://www.w3.org/2005/07/scxml" version="1.0" datamodel="python" {attributes}>'
    return head + model + body + ENDS + "</scxml>"


def on_entry(content: str, ways: str, data: str = "", more: str = "") -> str:
    """A state that does something on entry, and ways out of it; 2 s later it has failed."""
    late = '<send event="late" delay="2s"/>'
    ways += '<transition event="late" target="fail"/>'
    return chart(f'<state id="s0"><onentry>{late}{content}</onentry>{more}{ways}</state>', data)


def way(event: str, to: str = "pass", cond: str = "") -> str:
    given = f' cond="{cond}"' if cond else ""
    return f'<transition event="{event}" target="{to}"{given}/>'


def invoking(child: str, ways: str, invoke: str = "", inside: str = "", data: str = "", content: str = "") -> str:
    body = f'<invoke type="scxml" id="kid" {invoke}>{inside}<content>{CHILD.format(child)}</content></invoke>'
    return on_entry(content, ways, data, body)


ERROR = way("error.execution") + way("*", "fail")
TO_PARENT = '<send event="{}" target="#_parent"/>'

RULES = {
    "foreach refuses what is no list": on_entry(
        '<foreach array="v" item="x"/><raise event="on"/>', ERROR, '<data id="v" expr="7"/>'
    ),
    "foreach refuses what is no name": on_entry(
        '<foreach array="[1]" item="continue"/><raise event="on"/>', ERROR, '<data id="v" expr="7"/>'
    ),
    "foreach goes through a copy": on_entry(
        '<foreach array="l" item="x"><assign location="l" expr="l + [9]"/><assign location="n" expr="n + 1"/></foreach>'
        '<raise event="on"/>',
        way("on", cond="n == 2 and len(l) == 4") + way("*", "fail"),
        '<data id="l">[1, 2]</data><data id="n" expr="0"/>',
    ),
    "foreach ends at the first error, and so does its block": on_entry(
        '<foreach array="[1, 2]" item="x"><assign location="n" expr="n + 1"/><assign location="n" expr="no"/></foreach>'
        '<raise event="on"/>',
        way("error.execution", cond="n == 1") + way("*", "fail"),
        '<data id="n" expr="0"/>',
    ),
    "foreach declares its item and index": on_entry(
        '<foreach array="[5]" item="x" index="i"/><raise event="on"/>', way("on", cond="x == 5 and i == 0")
    ),
    "a send of an unknown type fails": on_entry('<send event="e" type="27"/><raise event="on"/>', ERROR),
    "a send to no target fails": on_entry('<send event="e" target="baz"/><raise event="on"/>', ERROR),
    "a failed send tells its id": on_entry(
        '<send id="mine" event="e" target="baz"/>', way("error.execution", cond="_event.sendid == 'mine'")
    ),
    "a failed send tells the id that was made": on_entry(
        '<send idlocation="v" event="e" target="baz"/>',
        way("error.execution", cond="v and _event.sendid == v"),
        '<data id="v"/>',
    ),
    "errors come from the platform": on_entry(
        '<send event="e" target="baz"/>', way("error", cond="_event.type == 'platform'") + way("*", "fail")
    ),
    "a session that does not exist cannot be reached": on_entry(
        '<send event="e" target="#_scxml_nobody"/><raise event="on"/>', way("error.communication") + way("*", "fail")
    ),
    "an invocation that does not exist cannot be reached": on_entry(
        '<send event="e" target="#_nobody"/><raise event="on"/>', way("error.communication") + way("*", "fail")
    ),
    "who was not invoked has no parent": on_entry(
        '<send event="e" target="#_parent"/><raise event="on"/>', way("error.communication") + way("*", "fail")
    ),
    "a wrong delay fails": on_entry('<send event="e" delayexpr="\'soon\'"/><raise event="on"/>', ERROR),
    "a wrong event expression fails": on_entry('<send eventexpr="return"/><raise event="on"/>', ERROR),
    "a wrong target expression fails": on_entry('<send event="e" targetexpr="no"/><raise event="on"/>', ERROR),
    "a wrong type expression fails": on_entry('<send event="e" typeexpr="no"/><raise event="on"/>', ERROR),
    "a wrong parameter keeps the event back": on_entry(
        '<send event="e"><param name="p" expr="no"/></send>', way("e", "fail") + way("error.execution", "s1")
    ).removesuffix("</scxml>")
    + '<state id="s1"><transition event="late" target="pass"/><transition event="*" target="fail"/></state></scxml>',
    "a parameter's location is an expression": on_entry(
        '<send event="e"><param name="p" location="v"/></send>',
        way("e", cond="_event.data.p == 3"),
        '<data id="v" expr="3"/>',
    ),
    "names, parameters and expressions travel together": on_entry(
        '<send event="e" namelist="v w"><param name="p" expr="v + w"/></send>',
        way("e", cond="_event.data.v == 1 and _event.data.w == 2 and _event.data.p == 3"),
        '<data id="v" expr="1"/><data id="w" expr="2"/>',
    ),
    "content may be an expression": on_entry(
        '<send event="e"><content expr="[v, 2]"/></send>',
        way("e", cond="_event.data == [1, 2]"),
        '<data id="v" expr="1"/>',
    ),
    "white space in a text is made single": on_entry(
        '<send event="e"><content>\n  this  is\n a text </content></send>',
        way("e", cond="_event.data == 'this is a text'"),
    ),
    "JSON between the tags is a value": on_entry(
        '<send event="e"><content>{"a": [1, null, true]}</content></send>',
        way("e", cond="_event.data.a == [1, None, True]"),
    ),
    "an internal target goes before the queue outside": on_entry(
        '<send event="out"/><send event="in" target="#_internal"/>',
        way("out", "fail") + way("in", cond="_event.type == 'internal'"),
    ),
    "ids that were made differ": on_entry(
        '<send event="e" idlocation="v"/><send event="e" idlocation="w"/>',
        way("e", cond="v != w"),
        '<data id="v"/><data id="w"/>',
    ),
    "only what bears the id is cancelled": on_entry(
        '<send id="x" event="x" delay="1s"/><send id="y" event="y" delay="1.5s"/><cancel sendidexpr="\'x\'"/>',
        way("x", "fail") + way("y"),
    ),
    "a cancel of nothing is no error": on_entry(
        '<cancel sendid="none"/><raise event="on"/>', way("error", "fail") + way("on")
    ),
    "delayed events come in the order of their times": on_entry(
        '<send event="second" delay="1.5s"/><send event="first" delay="500ms"/>', way("second", "fail") + way("first")
    ),
    **{
        f"{name} cannot be assigned to": on_entry(
            f'<assign location="v" expr="{name}"/><assign location="{name}" expr="\'other\'"/><raise event="on"/>',
            way("error.execution", cond=same) + way("*", "fail"),
            '<data id="v"/>',
        )
        for name, same in (
            ("_sessionid", "_sessionid == v"),
            ("_name", "_name == v"),
            ("_ioprocessors", "_ioprocessors == v"),
            ("_event", "_event.name == 'error.execution'"),
        )
    },
    "a field of a system variable cannot be assigned to": on_entry(
        '<assign location="_event.name" expr="\'other\'"/><raise event="on"/>', ERROR
    ),
    "a place that does not exist cannot be assigned to": on_entry(
        '<assign location="foo.bar.baz " expr="1"/><raise event="on"/>', ERROR
    ),
    "a first value that fails is an error, and can be mended": chart(
        '<state id="s0"><transition event="error.execution" target="s1"/><transition event="*" target="fail"/></state>'
        '<state id="s1"><onentry><assign location="v" expr="1"/></onentry><transition cond="v == 1" target="pass"/>'
        '<transition target="fail"/></state>',
        '<data id="v" expr="return"/>',
    ),
    "with late binding there is no value before its state": chart(
        '<state id="s0"><onentry><assign location="v" expr="w"/></onentry>'
        '<transition event="error.execution" target="s1"/><transition target="fail" event="*"/></state>'
        '<state id="s1"><datamodel><data id="w" expr="1"/></datamodel><onentry><assign location="v" expr="w"/>'
        '</onentry><transition cond="v == 1" target="pass"/><transition target="fail"/></state>',
        '<data id="v"/>',
        'binding="late"',
    ),
    "with early binding it is there from the start": chart(
        '<state id="s0"><transition cond="w == 1" target="pass"/><transition target="fail"/></state>'
        '<state id="s1"><datamodel><data id="w" expr="1"/></datamodel></state>',
    ),
    "a condition that fails is an error and false": on_entry(
        '<if cond="no"><raise event="wrong"/><else/><raise event="on"/></if>',
        way("wrong", "fail") + '<transition event="error.execution"/>' + way("on"),
    ),
    "a guard that fails is an error and false": on_entry(
        '<raise event="e"/>', '<transition event="e" cond="no" target="fail"/>' + way("error.execution")
    ),
    "an error ends its block and no other": chart(
        '<state id="s0"><onentry><assign location="no" expr="1"/><assign location="v" expr="9"/></onentry>'
        '<onentry><assign location="v" expr="v + 1"/></onentry>'
        '<transition cond="v == 1" target="pass"/><transition target="fail"/></state>',
        '<data id="v" expr="0"/>',
    ),
    "descriptors are prefixes of whole words": on_entry(
        '<raise event="foobar"/><raise event="foo.bar"/>',
        way("foo.bar.baz bar", "fail") + way("xyz foo.*", cond="True") + way("foo", "fail"),
    ),
    "a trailing dot says nothing": on_entry('<raise event="foo.zoo"/>', way("foo.") + way("*", "fail")),
    "the last event stays known to eventless transitions": chart(
        '<state id="s0"><onentry><raise event="e"/></onentry><transition event="e" target="s1"/></state>'
        '<state id="s1"><transition cond="_event.name == \'e\'" target="pass"/><transition target="fail"/></state>'
    ),
    "a raised event has neither origin nor ids": on_entry(
        '<raise event="e"/>',
        way(
            "e",
            cond="not _event.origin and not _event.origintype and not _event.sendid and not _event.invokeid "
            "and _event.data is None and _event.type == 'internal'",
        ),
    ),
    "a sent event says where to answer": on_entry(
        '<send event="e"/>',
        '<transition event="e" cond="_event.type == \'external\'"><send event="answer" targetexpr="_event.origin" '
        'typeexpr="_event.origintype"/></transition>' + way("answer") + way("*", "fail"),
    ),
    "one can write to oneself by one's address": on_entry(
        '<send event="e" targetexpr="_ioprocessors[\'http://www.w3.org/TR/scxml/#SCXMLEventProcessor\'].location"/>',
        way("e"),
    ),
    "a final state's data may fail": on_entry(
        "",
        '<transition event="error.execution" target="s1"/>',
        more='<final id="f"><donedata><content expr="no"/></donedata></final>',
    ).removesuffix("</scxml>")
    + '<state id="s1"><transition event="done.state.s0" cond="_event.data is None" target="pass"/></state></scxml>',
    "a final state hands over its data": on_entry(
        "",
        way("done.state.s0", cond="_event.data.p == 2"),
        '<data id="v" expr="1"/>',
        '<final id="f"><donedata><param name="p" expr="v + 1"/></donedata></final>',
    ),
    "a parallel state is done after its last region": chart(
        '<parallel id="p"><state id="a"><final id="fa"/></state><state id="b"><state id="b1"><transition '
        'event="done.state.a" target="fb"/></state><final id="fb"/></state>'
        '<transition event="done.state.b" target="s1"/><transition event="done.state.p" target="fail"/></parallel>'
        '<state id="s1"><transition event="done.state.p" target="pass"/><transition event="*" target="fail"/></state>'
    ),
    "an initial transition acts between its state and the first one inside": chart(
        '<state id="s0"><onentry><assign location="v" expr="v + [1]"/></onentry><initial><transition target="s1">'
        '<assign location="v" expr="v + [2]"/></transition></initial><state id="s1"><onentry><assign location="v" '
        'expr="v + [3]"/></onentry><transition cond="v == [1, 2, 3]" target="pass"/><transition target="fail"/></state>'
        "</state>",
        '<data id="v">[]</data>',
    ),
    "a history without a memory takes its default, with what it does": chart(
        '<state id="s0"><transition target="h"/></state><state id="s1"><history id="h" type="deep">'
        '<transition target="s12">'
        '<assign location="v" expr="v + 1"/></transition></history><state id="s11"><transition target="fail"/></state>'
        '<state id="s12"><transition cond="v == 1" target="pass"/></state></state>',
        '<data id="v" expr="0"/>',
    ),
    "a history enters nothing that was not left": chart(
        '<state id="p"><history id="h" type="deep"><transition target="a"/></history>'
        '<transition event="out" target="r"/><state id="q"><onentry><assign location="v" expr="v + 1"/></onentry>'
        '<onexit><assign location="w" expr="w + 1"/></onexit><state id="a"><onentry><raise event="out"/>'
        '</onentry><transition event="again" target="h"/></state></state></state>'
        '<state id="r"><onentry><assign location="n" expr="n + 1"/></onentry>'
        '<transition cond="n == 3 and v == w" target="pass"/><transition cond="n == 3" target="fail"/>'
        '<transition target="h"><raise event="again"/></transition></state>',
        '<data id="v" expr="0"/><data id="w" expr="0"/><data id="n" expr="0"/>',
    ),
    "an internal transition of a parallel state leaves it": chart(
        '<parallel id="p"><onexit><assign location="v" expr="v + 1"/></onexit><onentry><raise event="e"/></onentry>'
        '<transition event="e" type="internal" target="a1" cond="v == 0"/>'
        '<transition event="e" cond="v == 1" target="pass"/>'
        '<state id="a"><state id="a1"/></state><state id="b"/></parallel>',
        '<data id="v" expr="0"/>',
    ),
    "a script assigns, line by line": chart(
        "<script>\n  a = 1\n  b = a + 1\n  b += 1\n</script>"
        '<state id="s0"><transition cond="b == 3" target="pass"/><transition target="fail"/></state>'
    ),
    # Invocations
    "an invocation ends with its own data": invoking(
        '<final id="f"><donedata><content expr="7"/></donedata></final>',
        way("done.invoke.kid", cond="_event.data == 7 and _event.invokeid == 'kid'"),
    ),
    "parameters take the place of first values": invoking(
        '<datamodel><data id="v" expr="1"/></datamodel><state id="a"><transition cond="v == 5" target="b"/></state>'
        '<final id="b"/>',
        way("done.invoke.kid"),
        inside='<param name="v" expr="5"/>',
    ),
    "a parameter that the child does not know is not there": invoking(
        '<datamodel><data id="w" expr="1"/></datamodel><state id="a"><onentry><assign location="w" expr="v"/></onentry>'
        '<transition event="error.execution" target="b"/></state><final id="b"/>',
        way("done.invoke.kid"),
        inside='<param name="v" expr="5"/>',
    ),
    "a name list takes the place of first values": invoking(
        '<datamodel><data id="v" expr="1"/></datamodel><state id="a"><transition cond="v == 6" target="b"/></state>'
        '<final id="b"/>',
        way("done.invoke.kid"),
        'namelist="v"',
        data='<data id="v" expr="6"/>',
    ),
    "a wrong name list begins nothing": invoking(
        '<state id="a"><onentry>' + TO_PARENT.format("begun") + "</onentry></state>",
        '<transition event="error.execution" target="s1"/>' + way("begun", "fail"),
        'namelist="nothing"',
    ).removesuffix("</scxml>")
    + '<state id="s1"><onentry><send event="quiet" delay="1s"/></onentry><transition event="quiet" target="pass"/>'
    '<transition event="*" target="fail"/></state></scxml>',
    "an invocation of an unknown type fails": on_entry("", way("error.execution"), more='<invoke type="27"/>'),
    "a document that is not there fails": on_entry(
        "", way("error.communication"), more='<invoke type="scxml" src="file:no.scxml"/>'
    ),
    "a document outside the folder is not read": on_entry(
        "", way("error.communication"), more='<invoke type="scxml" src="file:../test_irp.py"/>'
    ),
    "a document that is none fails": on_entry(
        "", way("error.execution"), more='<invoke type="scxml"><content expr="\'nonsense\'"/></invoke>'
    ),
    "a content expression that fails begins nothing": on_entry(
        "", way("error.execution"), more='<invoke type="scxml"><content expr="no"/></invoke>'
    ),
    "a document may be kept in a variable": on_entry(
        f'<assign location="v">{CHILD.format("<final/>")}</assign>',
        way("done.invoke"),
        '<data id="v"/>',
        '<invoke type="http://www.w3.org/TR/scxml/"><content expr="v"/></invoke>',
    ),
    "an id that was made begins with the state's": on_entry(
        "",
        way("done.invoke", cond="v == _event.invokeid and v.startswith('s0.')"),
        '<data id="v"/>',
        f'<invoke type="scxml" idlocation="v"><content>{CHILD.format("<final/>")}</content></invoke>',
    ),
    "an invocation and its parent know each other": invoking(
        '<state id="a"><onentry>'
        + TO_PARENT.format("hello")
        + '</onentry><transition event="back" target="b"/></state><final id="b"/>',
        '<transition event="hello" cond="_event.invokeid == \'kid\'"><send event="back" target="#_kid"/></transition>'
        + way("done.invoke.kid")
        + way("*", "fail"),
    ),
    "every event is forwarded to who wants it, unchanged": invoking(
        '<state id="a"><transition event="e" cond="_event.data.p == 1" target="b"/></state><final id="b"/>',
        '<transition event="e"/>' + way("done.invoke.kid") + way("late", "fail"),
        'autoforward="true"',
        content='<send event="e" delay="1s"><param name="p" expr="1"/></send>',
    ),
    "nothing is forwarded to who does not ask": invoking(
        '<state id="a"><transition event="e" target="b"/></state><final id="b"/>',
        way("done.invoke.kid", "fail") + way("quiet"),
        content='<send event="e" delay="100ms"/><send event="quiet" delay="1s"/>',
    ),
    "finalize comes before the transitions": invoking(
        '<state id="a"><onentry><send event="e" target="#_parent"><param name="p" expr="3"/></send></onentry></state>',
        way("e", cond="v == 3"),
        inside='<finalize><assign location="v" expr="_event.data.p"/></finalize>',
        data='<data id="v"/>',
    ),
    "an empty finalize takes over what has the same names": invoking(
        '<state id="a"><onentry><send event="e" target="#_parent"><param name="v" expr="3"/><param name="w" expr="4"/>'
        "</send></onentry></state>",
        way("e", cond="v == 3 and w == 0"),
        'namelist="v"',
        "<finalize/>",
        '<data id="v" expr="1"/><data id="w" expr="0"/>',
    ),
    "finalize is not asked for others' events": invoking(
        '<state id="a"/>',
        way("e", cond="v == 1"),
        inside='<finalize><assign location="v" expr="2"/></finalize>',
        data='<data id="v" expr="1"/>',
        content='<send event="e"/>',
    ),
    "who is left is cancelled, and is heard no more": chart(
        '<state id="s0"><onentry><send event="go" delay="500ms"/></onentry><invoke type="scxml"><content>'
        + CHILD.format('<state id="a"><onexit>' + TO_PARENT.format("bye") + "</onexit></state>")
        + '</content></invoke><transition event="go" target="s1"/><transition event="*" target="fail"/></state>'
        '<state id="s1"><onentry><send event="quiet" delay="1s"/></onentry><transition event="quiet" target="pass"/>'
        '<transition event="*" target="fail"/></state>'
    ),
    "what is left before the machine rests is not begun": chart(
        '<state id="s0"><invoke type="scxml"><content>'
        + CHILD.format('<state id="a"><onentry>' + TO_PARENT.format("begun") + "</onentry></state>")
        + '</content></invoke><transition target="s1"/></state>'
        '<state id="s1"><onentry><send event="quiet" delay="1s"/></onentry><transition event="quiet" target="pass"/>'
        '<transition event="*" target="fail"/></state>'
    ),
    "a delayed event of a session that has ended does not come": invoking(
        '<state id="a"><onentry><send event="e" target="#_parent" delay="500ms"/></onentry>'
        '<transition target="b"/></state>'
        '<final id="b"/>',
        '<transition event="done.invoke"><send event="quiet" delay="1s"/></transition>'
        + way("quiet")
        + way("e", "fail"),
    ),
    "cancelling reaches into no other session": invoking(
        '<state id="a"><onentry><send id="x" event="e" delay="500ms"/>' + TO_PARENT.format("ready") + "</onentry>"
        '<transition event="e" target="b"/></state><final id="b"/>',
        '<transition event="ready"><cancel sendid="x"/></transition>' + way("done.invoke"),
    ),
    "what an invocation has said comes before its end": invoking(
        '<state id="a"><onentry>'
        + TO_PARENT.format("e")
        + '</onentry><transition target="b"/></state><final id="b"><onentry>'
        + TO_PARENT.format("f")
        + "</onentry></final>",
        '<transition event="e"><assign location="v" expr="v + [1]"/></transition>'
        '<transition event="f"><assign location="v" expr="v + [2]"/></transition>'
        + way("done.invoke", cond="v == [1, 2]"),
        data='<data id="v">[]</data>',
    ),
}


@pytest.mark.parametrize("restore", [False, True], ids=["kept", "restored"])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_kept(rule: str, restore: bool) -> None:
    _, session = run(RULES[rule], restore=restore)

    assert session.final == "pass", (session.instance.configuration, session.instance.data)
