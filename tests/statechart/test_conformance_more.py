"""Assertions of the W3C's test plan for SCXML 1.0 as charts of our own, each ended by the rule it is about."""

import pytest
from test_irp import chart, on_entry, run, way

MODEL = '<data id="a" expr="0"/><data id="b" expr="0"/><data id="l">[1, 2, 3]</data>'
INTO = '<assign location="{}" expr="{}"/>'
KID = '<scxml version="1.0" datamodel="python"{}>{}</scxml>'


def adding(to: str, what: str = "1") -> str:
    return INTO.format(to, f"{to} + {what}")


def then(cond: str) -> str:
    """A last state that looks at what has been reckoned."""
    return f'<state id="look"><transition cond="{cond}" target="pass"/><transition target="fail"/></state>'


def invoked(child: str, ways: str, inside: str = "", attributes: str = "", data: str = "", head: str = "") -> str:
    body = f"<content>{KID.format(head, child)}</content>"
    return on_entry("", ways, data, f'<invoke type="scxml" id="kid" {attributes}>{inside}{body}</invoke>')


def answering(data: str = "", cond: str = "True") -> str:
    """A child that tells its parent whether the condition holds in it."""
    return (
        f'<datamodel>{data}</datamodel><state id="c0"><transition cond="{cond}" target="yes"/>'
        '<transition target="no"/></state>'
        '<final id="yes"><onentry><send event="yes" target="#_parent"/></onentry></final>'
        '<final id="no"><onentry><send event="no" target="#_parent"/></onentry></final>'
    )


ANSWER = way("yes") + way("no", "fail")
FAILS = way("error.execution") + way("*", "fail")

CHARTS = {
    # Executable content
    "144 raised events come in the order in which they were raised": on_entry(
        '<raise event="one"/><raise event="two"/>',
        way("one", "s1") + way("*", "fail"),
    ).replace("<final", '<state id="s1">' + way("two") + way("*", "fail") + "</state><final", 1),
    "147 the first branch that holds, and no other": on_entry(
        '<if cond="a == 1"><raise event="if"/><elseif cond="a == 0"/><raise event="elseif"/>'
        '<elseif cond="True"/><raise event="late"/><else/><raise event="else"/></if>',
        way("elseif") + way("*", "fail"),
        MODEL,
    ),
    "148 else, where nothing holds": on_entry(
        '<if cond="a"><raise event="if"/><elseif cond="b"/><raise event="elseif"/><else/><raise event="else"/></if>',
        way("else") + way("*", "fail"),
        MODEL,
    ),
    "149 nothing, where nothing holds and there is no else": on_entry(
        '<if cond="a"><raise event="if"/><elseif cond="b"/><raise event="elseif"/></if><raise event="after"/>',
        way("after") + way("*", "fail"),
        MODEL,
    ),
    "150 foreach declares what it needs": on_entry(
        '<foreach array="l" item="Var4" index="Var5"/><raise event="on"/>',
        way("on", cond="Var4 == 3 and Var5 == 2") + way("*", "fail"),
        MODEL,
    ),
    "152 a wrong array and a wrong item are errors, and nothing of the body is done": on_entry(
        '<foreach array="return" item="x"><assign location="a" expr="1"/></foreach>',
        '<transition event="error.execution" target="s1"/>' + way("*", "fail"),
        MODEL,
    ).replace(
        "<final",
        '<state id="s1"><onentry><foreach array="l" item="\'continue\'">'
        + adding("a")
        + "</foreach></onentry>"
        + way("error.execution", "pass", "a == 0")
        + way("*", "fail")
        + "</state><final",
        1,
    ),
    "153 foreach goes from the first to the last": on_entry(
        '<foreach array="l" item="x"><if cond="a &lt; x">'
        + INTO.format("a", "x")
        + "<else/>"
        + INTO.format("b", "1")
        + '</if></foreach><raise event="on"/>',
        way("on", cond="a == 3 and b == 0") + way("*", "fail"),
        MODEL,
    ),
    "525 foreach looks at the list as it was": on_entry(
        '<foreach array="l" item="x"><assign location="l" expr="l + [4]"/>' + adding("a") + "</foreach>",
        "<transition cond=\"a == 3 and l == [1, 2, 3, 4, 4, 4]\" target='pass'/><transition target='fail'/>",
        MODEL,
    ),
    "159 what fails keeps back what follows": on_entry(
        '<send event="thisWillFail" target="baz"/>' + adding("a"),
        '<transition cond="a == 1" target="fail"/><transition target="pass"/>',
        MODEL,
    ),
    "457 numbers, texts, mappings and null are no lists": chart(
        '<state id="s0">'
        + "".join(
            f'<onentry><foreach array="{wrong}" item="x">{adding("a")}</foreach>'
            f'<assign location="b" expr="1"/></onentry>'
            for wrong in ("7", "'abc'", "{'x': 1}", "None")
        )
        + "<onentry>"
        + INTO.format("l", "[]")
        + "</onentry>"
        + '<transition event="error.execution"><assign location="l" expr="l + [_event.type]"/></transition>'
        + '<transition cond="len(l) == 4 and a == 0 and b == 0" target="pass"/>'
        + way("*", "fail")
        + "</state>",
        MODEL,
    ),
    # Sending
    "175 a delay may be reckoned": on_entry(
        '<assign location="a" expr="\'1s\'"/><send event="slow" delayexpr="a"/><send event="quick" delay="0.5s"/>',
        way("slow", "fail") + way("quick"),
        MODEL,
    ),
    "178 of parameters of one name one arrives, and its raw form may be asked for": on_entry(
        '<send event="e"><param name="p" expr="2"/><param name="p" expr="3"/></send>',
        '<transition event="e" target="look"><log label="raw" expr="_event.raw"/>'
        + INTO.format("a", "_event.data.p")
        + "</transition>"
        + way("*", "fail"),
        MODEL,
    ).replace("<final", then("a in [2, 3]") + "<final", 1),
    "189 the internal queue is served first": on_entry(
        '<send event="out"/><send event="in" target="#_internal"/>', way("in") + way("out", "fail")
    ),
    "190 a session may be written to by its name": on_entry(
        '<assign location="a" expr="\'#_scxml_\' + _sessionid"/>'
        '<send event="out" targetexpr="a"/><raise event=\'in\'/>',
        way("in", "s1") + way("out", "fail"),
        MODEL,
    ).replace("<final", '<state id="s1">' + way("out") + way("*", "fail") + "</state><final", 1),
    "193 a typed send goes through the external queue": on_entry(
        '<send event="in"/><send event="out" type="http://www.w3.org/TR/scxml/#SCXMLEventProcessor"/>'
        '<raise event="first"/>',
        way("first", "s1") + way("*", "fail"),
    ).replace(
        "<final",
        '<state id="s1">' + way("in", "s2") + way("out", "fail") + "</state>"
        '<state id="s2">' + way("out") + way("*", "fail") + "</state><final",
        1,
    ),
    "194 an illegal target is an error of execution": on_entry(
        '<send event="e" target="!invalid"/><raise event="on"/>', FAILS
    ),
    "199 an unknown type is an error of execution": on_entry('<send event="e" type="27"/><raise event="on"/>', FAILS),
    "208 a cancelled event does not come": on_entry(
        '<send id="x" event="one" delay="0.5s"/><send event="two" delay="1s"/><cancel sendid="x"/>',
        way("two") + way("*", "fail"),
    ),
    "210 what is to be cancelled may be reckoned": on_entry(
        "<assign location=\"a\" expr=\"'x'\"/><send id='x' event='one' delay='0.5s'/>"
        "<send event='two' delay='1s'/><cancel sendidexpr=\"a\"/>",
        way("two") + way("*", "fail"),
        MODEL,
    ),
    "a cancel whose expression fails is an error": on_entry(
        '<cancel sendidexpr="return"/><raise event="on"/>', way("error.execution") + way("on", "fail")
    ),
    "553 a name list with an unknown name sends nothing": on_entry(
        '<send event="e" namelist="nobody"/><send event="quiet" delay="1s"/>',
        way("e", "fail") + '<transition event="error.execution" target="s1"/>',
    ).replace(
        "<final", '<state id="s1"><transition event="late" target="pass"/>' + way("e", "fail") + "</state><final", 1
    ),
    "354 names, parameters and content are the event's data": on_entry(
        '<send event="e" namelist="a"><param name="p" expr="2"/></send>',
        '<transition event="e" cond="_event.data[\'a\'] == 0 and _event.data.get(\'p\') == 2" target="s1"/>',
        MODEL,
    ).replace(
        "<final",
        '<state id="s1"><onentry><send event="f"><content>foo</content></send></onentry>'
        + way("f", cond="_event.data == 'foo'")
        + way("*", "fail")
        + "</state><final",
        1,
    ),
    "560 parameters become fields": on_entry(
        '<send event="e"><param name="x" expr="1"/></send>', way("e", cond="_event.data['x'] == 1") + way("*", "fail")
    ),
    "562 the white space of a text is made single": on_entry(
        "<send event='e'><content>\n\n  this is a \n  string\n</content></send>",
        way("e", cond="_event.data == 'this is a string'") + way("*", "fail"),
    ),
    "578 JSON becomes a value": on_entry(
        '<send event="e"><content>{ "productName" : "bar", "size" : 27 }</content></send>',
        way("e", cond="_event.data['productName'] == 'bar' and _event.data.size + 1 == 28") + way("*", "fail"),
    ),
    # Data
    "276 values given by who invokes come first": invoked(
        answering('<data id="v" expr="0"/>', "v == 1"), ANSWER, '<param name="v" expr="1"/>'
    ),
    "277 a value that fails leaves the variable to be assigned": chart(
        '<state id="s0"><transition event="error.execution" cond="not v" target="s1"/>' + way("*", "fail") + "</state>"
        '<state id="s1"><onentry><assign location="v" expr="1"/></onentry>'
        '<transition cond="v == 1" target="pass"/><transition event="*" target="fail"/></state>',
        '<data id="v" expr="return"/>',
    ),
    "287 a place that is there can be assigned to": on_entry(
        INTO.format("a", "5"), '<transition cond="a == 5" target="pass"/><transition target="fail"/>', MODEL
    ),
    "302 a script of the document is done before its first state": chart(
        "<script>\nVar1 = 1\n</script>"
        '<state id="s0"><transition cond="Var1 == 1" target="pass"/><transition target="fail"/></state>'
    ),
    "303 a script is done where it stands": on_entry(
        INTO.format("a", "1") + "<script>a = a + 1\nl = l + [a]</script>" + INTO.format("b", "a"),
        '<transition cond="b == 2 and l == [1, 2, 3, 2]" target="pass"/><transition target="fail"/>',
        MODEL,
    ),
    "a script reaches below a variable": on_entry(
        "<script>d['x'] = d['x'] + 1\nd.y = [1]\nd['y'][0] += 4</script>",
        '<transition cond="d == {\'x\': 2, \'y\': [5]}" target="pass"/><transition target="fail"/>',
        '<data id="d">{"x": 1}</data>',
    ),
    "307 late variables are not there before their state, early ones are null or set": chart(
        '<state id="s0"><onentry><log label="v" expr="v"/></onentry>' + way("error.execution", "s1") + "</state>"
        '<state id="s1"><datamodel><data id="v" expr="1"/></datamodel>'
        '<transition cond="v == 1" target="pass"/><transition target="fail"/></state>',
        "",
        'binding="late"',
    ),
    "312 an assignment of what cannot be reckoned": on_entry(
        INTO.format("a", "return") + '<raise event="on"/>', FAILS, MODEL
    ),
    "313 a wrong expression harms nobody before it is reached": chart(
        '<state id="s0"><onentry><raise event="foo"/></onentry>' + way("foo", "s1") + way("*", "fail") + "</state>"
        '<state id="s1"><onentry><assign location="a" expr="1 = 1"/></onentry>' + FAILS + "</state>",
        MODEL,
    ),
    "321 the session has a name": on_entry(
        INTO.format("a", "_sessionid"), '<transition cond="a" target="pass"/><transition target="fail"/>', MODEL
    ),
    "322 the session's name stays": on_entry(
        INTO.format("a", "_sessionid") + INTO.format("_sessionid", "'otherName'") + '<raise event="on"/>',
        way("error.execution", cond="_sessionid == a") + way("*", "fail"),
        MODEL,
    ),
    "325 the ways to write to it are known": on_entry(
        INTO.format("a", "_ioprocessors"),
        "<transition cond=\"'scxml' in a and isinstance(a, dict)\" target='pass'/><transition target='fail'/>",
        MODEL,
    ),
    "569 the ways to write to it have locations": on_entry(
        "", "<transition cond=\"_ioprocessors['scxml'].location\" target='pass'/><transition target='fail'/>"
    ),
    "329 nothing of the system can be changed, in part or whole": on_entry(
        '<raise event="foo"/>',
        '<transition event="foo" target="s1">' + INTO.format("a", "_event.name") + "</transition>",
        MODEL,
    ).replace(
        "<final",
        '<state id="s1"><onentry><assign location="_event" expr="27"/></onentry><onentry>'
        '<assign location="_event.name" expr="\'x\'"/></onentry><onentry><assign location="_ioprocessors[\'scxml\']" '
        'expr="1"/></onentry><transition event="error.execution" target="s2"/>' + way("*", "fail") + "</state>"
        '<state id="s2"><transition event="error.execution" target="s3"/><transition event="*" target="fail"/></state>'
        '<state id="s3"><transition event="error.execution" cond="a == \'foo\'" target="pass"/>'
        '<transition event="*" target="fail"/></state><final',
        1,
    ),
    "337 an internal event comes from nowhere": on_entry(
        '<raise event="foo"/>',
        way("foo", cond="_event.origin is None and _event.origintype is None and _event.raw is None")
        + way("*", "fail"),
    ),
    "339 what was not invoked has no invokeid": on_entry(
        '<send event="e"/>', way("e", cond="not _event.invokeid") + way("*", "fail")
    ),
    "342 an event has the name that was reckoned for it": on_entry(
        INTO.format("a", "'foo.' + 'bar'") + '<send eventexpr="a"/>',
        way("foo", cond="_event.name == a and _event.name.startswith('foo.')") + way("*", "fail"),
        MODEL,
    ),
    "352 what came from a chart says so": on_entry(
        '<send event="e"/>', way("e", cond="'#SCXMLEventProcessor' in _event.origintype") + way("*", "fail")
    ),
    "446 between the tags of a variable there is a value": on_entry(
        "",
        '<transition cond="isinstance(l, list) and len(l) == 3 and sum(l) == 6" target="pass"/>'
        '<transition target="fail"/>',
        MODEL,
    ),
    "460 what was assigned is a copy": on_entry(
        INTO.format("a", "l") + INTO.format("l[0]", "9") + INTO.format("b", "[l, l]") + INTO.format("b[0][1]", "7"),
        '<transition cond="a == [1, 2, 3] and l == [9, 2, 3] and b == [[9, 7, 3], [9, 2, 3]]" target="pass"/>'
        '<transition target="fail"/>',
        MODEL,
    ),
    "unlike values are not equal, and cannot be ordered": on_entry(
        '<if cond="a != \'0\' and l != 3 and None != 0 and not (a == \'\')"><assign location="b" expr="1"/></if>'
        '<if cond="a &lt; \'x\'"><raise event="wrong"/></if>',
        way("error.execution", cond="b == 1") + way("*", "fail"),
        MODEL,
    ),
    "488 a parameter of a final state that fails leaves nothing of it": on_entry(
        "",
        '<transition event="error.execution" target="s1"/>' + way("done.state", "fail"),
        more='<final id="f"><donedata><param name="p" expr="nobody"/></donedata></final>',
    ).replace(
        '<final id="pass"',
        '<state id="s1"><transition event="done.state.s0" cond="_event.data is None or not _event.data" target="pass"/>'
        '</state><final id="pass"',
        1,
    ),
    "527 a final state's content may be reckoned": on_entry(
        "",
        way("done.state.s0", cond="_event.data == 'foo'") + way("*", "fail"),
        more="<final id='f'><donedata><content expr=\"'foo'\"/></donedata></final>",
    ),
    "529 or written": on_entry(
        "",
        way("done.state.s0", cond="_event.data == 21") + way("*", "fail"),
        more="<final id='f'><donedata><content>21</content></donedata></final>",
    ),
    "550 early variables are reckoned even in states that are never entered": chart(
        '<state id="s0"><transition cond="v == 2" target="pass"/><transition target="fail"/></state>'
        '<state id="never"><datamodel><data id="v" expr="1 + 1"/></datamodel></state>',
        "",
        'binding="early"',
    ),
    # Order
    "355 the first state in the document comes first": chart(
        '<state id="s0"><transition target="pass"/></state><state id="s1"><transition target="fail"/></state>'
    ),
    "576 a document may begin in several regions": chart(
        '<state id="s0"><transition event="*" target="fail"/><parallel id="p">'
        '<state id="r1" initial="r11"><state id="r11"><transition target="fail"/></state>'
        '<state id="r12"><onentry><raise event="in"/></onentry></state></state>'
        '<state id="r2" initial="r21"><state id="r21"><transition target="fail"/></state><state id="r22">'
        '<transition event="in" cond="In(\'r12\')" target="pass"/></state></state></parallel></state>',
        "",
        'initial="r12 r22"',
    ),
    "376 blocks of an entry fail each for itself": chart(
        '<state id="s0"><onentry><send event="e" target="baz"/>'
        + adding("a", "10")
        + "</onentry><onentry>"
        + adding("a")
        + '</onentry><transition cond="a == 1" target="pass"/><transition target="fail"/></state>',
        MODEL,
    ),
    "378 and so do those of an exit": chart(
        '<state id="s0"><onexit><send event="e" target="baz"/>'
        + adding("a", "10")
        + "</onexit><onexit>"
        + adding("a")
        + '</onexit><transition target="look"/></state>'
        + then("a == 1"),
        MODEL,
    ),
    "388 each history remembers its own depth": chart(
        '<state id="s0" initial="s012"><onentry>' + adding("a") + "</onentry>"
        '<history id="deep" type="deep"><transition target="s02"/></history>'
        '<history id="flat"><transition target="s02"/></history>'
        '<state id="s01" initial="s011"><state id="s011"><onentry><raise event="in011"/></onentry></state>'
        '<state id="s012"><onentry><raise event="in012"/></onentry></state></state>'
        '<state id="s02"><onentry><raise event="in02"/></onentry></state>'
        '<transition event="in012" cond="a == 1" target="s1"/><transition event="in012" cond="a == 2" target="s2"/>'
        '<transition event="in011" cond="a == 3" target="pass"/><transition event="*" target="fail"/></state>'
        '<state id="s1"><transition target="deep"/></state><state id="s2"><transition target="flat"/></state>',
        MODEL,
    ),
    "396 the name in the event is the name that matches": on_entry(
        '<raise event="foo"/>', way("foo", cond="_event.name == 'foo'") + way("*", "fail")
    ),
    "409 a state is left before its ancestors are": chart(
        '<state id="s0"><onentry><send event="late" delay="1s"/></onentry><onexit>'
        '<if cond="In(\'s011\')"><raise event="wrong"/></if></onexit>'
        "<state id=\"s01\"><onexit><if cond=\"In('s0') and not In('s011')\">"
        '<assign location="a" expr="1"/></if></onexit>'
        '<state id="s011"><transition target="s1"/></state></state></state>'
        '<state id="s1"><onentry><raise event="end"/></onentry>'
        + way("end", cond="a == 1")
        + way("*", "fail")
        + "</state>",
        MODEL,
    ),
    "411 a state is active while it is entered": chart(
        '<state id="s0"><onentry><if cond="In(\'s01\')"><raise event="early"/></if></onentry>'
        '<transition event="early" target="fail"/><transition event="in" target="pass"/>'
        '<state id="s01"><onentry><if cond="In(\'s01\')"><raise event="in"/></if></onentry></state></state>'
    ),
    "412 outer entry, initial content, inner entry": chart(
        '<state id="s0"><onentry><raise event="e1"/></onentry><initial><transition target="s01"><raise event="e2"/>'
        '</transition></initial><state id="s01"><onentry><raise event="e3"/></onentry>'
        + way("e1", "s02")
        + way("*", "fail")
        + '</state><state id="s02">'
        + way("e2", "s03")
        + way("*", "fail")
        + '</state><state id="s03">'
        + way("e3")
        + way("*", "fail")
        + "</state></state>"
    ),
    "417 a parallel state is done when all of its regions are": chart(
        '<parallel id="p"><state id="r1"><state id="r11"><transition event="go" target="f1"/></state>'
        '<final id="f1"/></state><state id="r2"><onentry><raise event="go"/></onentry><state id="r21">'
        '<transition event="done.state.r1" target="f2"/></state><final id="f2"/></state>'
        + way("done.state.p")
        + "</parallel>"
    ),
    "423 the outer queue is asked again until something is taken": chart(
        '<state id="s0"><onentry><send event="e1"/><send event="e2" delay="1s"/><raise event="in"/></onentry>'
        + way("in", "s1")
        + way("*", "fail")
        + '</state><state id="s1"><transition event="e2" target="pass"/></state>'
    ),
    "436 the null data model has In()": chart(
        '<parallel id="p"><state id="r1"><transition cond="In(\'r2\')" target="pass"/>'
        '</state><state id="r2"/></parallel>'
    ).replace('datamodel="python"', 'datamodel="null"'),
    "495 an event that was sent comes after one that was raised": on_entry(
        '<send event="out"/><raise event="in"/>', way("out", "fail") + way("in")
    ),
    "503 a transition without a target leaves nothing": chart(
        '<state id="s0"><onexit>' + adding("a") + '</onexit><onentry><raise event="foo"/><raise event="bar"/></onentry>'
        '<transition event="foo">'
        + adding("b")
        + '</transition><transition event="bar" target="look"/></state>'
        + then("a == 1 and b == 1"),
        MODEL,
    ),
    "505 an internal transition leaves what is inside": chart(
        '<state id="s1"><onentry><raise event="foo"/><raise event="bar"/></onentry><onexit>' + adding("a") + "</onexit>"
        '<transition event="foo" type="internal" target="s11">' + adding("b") + "</transition>"
        '<transition event="bar" target="look"/><state id="s11"><onexit>'
        + adding("b", "10")
        + "</onexit></state></state>"
        + then("a == 1 and b == 21"),
        MODEL,
    ),
    "533 unless its source is parallel": chart(
        '<parallel id="p"><onexit>'
        + adding("a")
        + '</onexit><onentry><raise event="foo"/><raise event="bar"/></onentry>'
        '<transition event="foo" type="internal" target="r1">' + adding("b") + "</transition>"
        '<transition event="bar" target="look"/><state id="r1"/><state id="r2"/></parallel>'
        + then("a == 2 and b == 1"),
        MODEL,
    ),
    "579 what a history does comes after the entry of its parent and its initial content": chart(
        '<state id="s0"><transition target="h"/></state><state id="s1"><onentry><raise event="e1"/></onentry>'
        '<initial><transition target="s12"><raise event="wrong"/></transition></initial>'
        '<history id="h"><transition target="s11"><raise event="e2"/></transition></history>'
        '<state id="s11"><onentry><raise event="e3"/></onentry>' + way("e1", "s12") + way("*", "fail") + "</state>"
        '<state id="s12">'
        + way("e2", "s13")
        + way("*", "fail")
        + '</state><state id="s13">'
        + way("e3")
        + way("*", "fail")
        + "</state></state>"
    ),
    # Invoking
    "192 a child is reached by its id": invoked(
        '<state id="c"><onentry><send event="up" target="#_parent"/></onentry><transition event="down" target="f"/>'
        '<transition event="*" target="n"/></state><final id="f"><onentry>'
        '<send event="got" target="#_parent"/></onentry>'
        '</final><final id="n"/>',
        '<transition event="up"><send event="down" target="#_kid"/></transition>'
        + way("got")
        + way("done.invoke", "fail"),
    ),
    "226 a child may be given parameters": invoked(
        answering('<data id="x" expr="0"/>', "x == 1"), ANSWER, '<param name="x" expr="a + 1"/>', data=MODEL
    ),
    "230 what is forwarded is the same event": invoked(
        '<state id="c"><onentry><send event="ready" target="#_parent"/></onentry>'
        "<transition event=\"e\" cond=\"_event.name == 'e' and _event.type == 'external' and _event.data == {'x': 1}\" "
        'target="f"/></state><final id="f"/>',
        '<transition event="ready"><send event="e"><param name="x" expr="1"/></send></transition>'
        '<transition event="e"/>' + way("done.invoke.kid") + way("late", "fail"),
        attributes='autoforward="true"',
    ),
    "234 only the invocation that an event is of gets to look at it": chart(
        '<parallel id="p"><onentry><send event="late" delay="2s"/></onentry><transition event="late" target="fail"/>'
        '<state id="r1"><invoke type="scxml"><content>'
        + KID.format(
            "",
            '<final id="f"><onentry><send event="e" target="#_parent"><param name="x" expr="2"/>'
            "</send></onentry></final>",
        )
        + '</content><finalize><assign location="a" expr="_event.data[\'x\']"/></finalize></invoke>'
        '<transition event="e" target="look"/></state><state id="r2"><invoke type="scxml"><content>'
        + KID.format("", '<state id="s"/>')
        + '</content><finalize><assign location="b" expr="_event.data.x"/></finalize></invoke></state></parallel>'
        + then("a == 2 and b == 0"),
        MODEL,
    ),
    "235 the end of an invocation says whose": invoked(
        '<final id="f"/>', way("done.invoke.kid", cond="_event.invokeid == 'kid'") + way("*", "fail")
    ),
    "237 an invocation that was left ends, and says nothing": chart(
        '<state id="s0"><onentry><send event="t1" delay="0.5s"/><send event="t2" delay="2s"/></onentry>'
        '<invoke type="scxml"><content>'
        + KID.format(
            "",
            '<state id="c"><onentry><send event="x" delay="1s"/></onentry>' + way("x", "f") + '</state><final id="f"/>',
        )
        + '</content></invoke><transition event="t1" target="s1"/></state><state id="s1">'
        '<transition event="done.invoke" target="fail"/><transition event="t2" target="pass"/></state>'
    ),
    "240 name lists and parameters are the same to the child": invoked(
        answering('<data id="a" expr="5"/><data id="x" expr="0"/>', "a == 0 and x == 1"),
        ANSWER,
        '<param name="x" expr="1"/>',
        'namelist="a"',
        data=MODEL,
    ),
    "244 a name that the child does not have is passed over": invoked(
        answering("", "In('c0')"), ANSWER, attributes='namelist="a"', data=MODEL
    ),
    "247 the end of an invocation is told": invoked('<final id="f"/>', way("done.invoke") + way("late", "fail")),
    "250 a cancelled child still does what it does on its way out": chart(
        '<state id="s0"><onentry><send event="go" delay="0.5s"/></onentry><invoke type="scxml"><content>'
        + KID.format("", '<state id="c"><onexit><log label="out" expr="1"/></onexit></state>')
        + '</content></invoke><transition event="go" target="pass"/></state>'
    ),
    "530 the document may be kept in a variable": chart(
        '<state id="s0"><onentry><assign location="a">' + KID.format("", "<final/>") + "</assign></onentry>"
        '<invoke type="scxml"><content expr="a"/></invoke>' + way("done.invoke") + way("*", "fail") + "</state>",
        MODEL,
    ),
    "554 an invocation whose parameters fail is not begun": chart(
        '<state id="s0"><onentry><send event="t" delay="1s"/></onentry><invoke type="scxml" namelist="nobody"><content>'
        + KID.format("", "<final/>")
        + "</content></invoke>"
        + way("done.invoke", "fail")
        + way("t")
        + "</state>"
    ),
    "an empty branch ends nothing, and lines may be broken": on_entry(
        '<if cond="a == 0"><else/><raise event="wrong"/></if><assign location="b" expr="\n  a\n  + 1\n"/>',
        '<transition cond="\n b == 1\n" target="pass"/><transition target="fail"/>',
        MODEL,
    ),
}


@pytest.mark.parametrize("restore", [False, True], ids=["kept", "restored"])
@pytest.mark.parametrize("rule", CHARTS)
def test_a_chart_of_the_plan_passes(rule: str, restore: bool) -> None:
    _, session = run(CHARTS[rule], restore=restore)

    assert session.final == "pass", (session.instance.configuration, session.instance.data, session.log)
