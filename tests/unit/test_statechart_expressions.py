"""Expressions compute on JSON values, say what is wrong with them, and cannot be made to do anything else."""

import json
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x0tta6bl4.statechart.core.event import Event
from x0tta6bl4.statechart.types.base import (
    BITS,
    ELEMENTS,
    EvaluationError,
    ExpressionError,
    byte_size,
    compile_expression,
    compile_location,
    duration_seconds,
    names_in,
)

INSTANCE = SimpleNamespace(id="i-7", chart=SimpleNamespace(name="link"), is_in=lambda name: name == "work")


def evaluate(source: str, data: dict[str, Any] | None = None, event: Event | None = None, **how: Any) -> Any:
    return compile_expression(source, **how)({} if data is None else data, event, INSTANCE)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("1 + 2 * 3 - 4", 3),
        ("7 // 2 + 7 % 2 + 6 / 4", 5.5),
        ("-(2 - 5)", 3),
        ("1 < n <= 3 and not off", True),
        ("n == 3 or nowhere", True),
        ("'yes' if on else 'no'", "yes"),
        ("on and\n  n > 2", True),
        ("[1, 'a', null, true, False, None]", [1, "a", None, True, False, None]),
        ("(1, 2)", [1, 2]),
        ("{'a': n, 'b': {'c': []}}", {"a": 3, "b": {"c": []}}),
        ("link.peer.name + '!'", "wg0!"),
        ("link['peer']['name'][0]", "w"),
        ("items[0] + items[-1]", 5),
        ("2 in items and 'peer' in link and 'g' in link.peer.name", True),
        ("9 not in items", True),
        ("nothing is null and nothing is not true", True),
        ("len(items) + len('abc') + len(link)", 8),
        ("[min(items), max(items), max(1, 2.5), abs(-2), sum(items)]", [1, 4, 2.5, 2, 9]),
        ("[round(2.6), round(3.14159, 2)]", [3, 3.14]),
        ("[any([0, 1]), all([0, 1]), bool('')]", [True, False, False]),
        ("[int('12'), int(3.9), float('1.5'), float(2)]", [12, 3, 1.5, 2.0]),
        ("str(n) + str(true) + str(null) + str('x') + str(1.5) + str([1, 'é'])", '3truenullx1.5[1, "é"]'),
        ("[has(link, 'peer'), has(link, 'x'), has(n, 'x')]", [True, False, False]),
        ("[get(link, 'x'), get(link, 'x', 7), link.get('x', 8)]", [None, 7, 8]),
        ("[lower('Ab'), upper('Ab'), startswith('ab', 'a'), 'ab'.endswith('b')]", ["ab", "AB", True, True]),
        ("[pop(items), without(items, 2), keys(link), sorted([2, 1])]", [[1, 2, 2], [1, 4], ["peer"], [1, 2]]),
        ("join(['a', 'b']) + join(['c', 'd'], '')", "a, bcd"),
        ("In('work') and not In('held')", True),
        ("[_name, _sessionid, _ioprocessors.scxml.location]", ["link", "i-7", "#_scxml_i-7"]),
    ],
)
def test_an_expression_has_the_value_that_it_looks_like(source: str, expected: Any) -> None:
    data = {
        "n": 3,
        "on": True,
        "off": False,
        "nothing": None,
        "items": [1, 2, 2, 4],
        "link": {"peer": {"name": "wg0"}},
    }
    before = json.dumps(data)

    assert expected == evaluate(source, data)
    assert before == json.dumps(data)


def test_the_event_is_seen_by_its_seven_fields_and_result_is_its_data() -> None:
    event = Event("link.loss", {"loss": 0.3, "path": ["a", "b"]}, sendid="s1", invokeid="act.3")

    assert "link.loss" == evaluate("_event.name", event=event)
    assert 0.6 == evaluate("_event.data.loss + result.loss", event=event)
    assert ["s1", "act.3", None, "external"] == evaluate(
        "[_event.sendid, _event.invokeid, _event.origin, _event.type]", event=event
    )
    assert evaluate("has(_event, 'data') and not has(_event, 'id') and _event != null", event=event)
    assert evaluate("_event is null and not _event")
    with pytest.raises(ExpressionError, match="an event has no 'nam'; did you mean 'name'"):
        compile_expression("_event.nam")
    with pytest.raises(EvaluationError, match="there is no event"):
        evaluate("_event.name == 'x'")


def test_local_names_are_keys_of_their_own_in_the_data_and_a_variable_called_result_is_meant_where_there_is_one() -> (
    None
):
    data = {"s.count": 4, "result": 9}

    assert 4 == evaluate("count", data, rename={"count": "s.count"})
    assert 9 == evaluate("result", data, Event("e", 1), rename={"result": "result"})
    assert 1 == evaluate("result", data, Event("e", 1))


def test_missing_fields_are_null_for_lenient_variables_only() -> None:
    data = {"last": {"a": None}, "firm": {}}

    assert [None, None] == evaluate("[last.x, last.a.b['c']]", data, lenient=["last"])
    assert evaluate("result.x is null", {}, Event("e", {}), lenient=["result"])
    with pytest.raises(EvaluationError, match=r"`firm\.x`: there is no 'x'"):
        evaluate("firm.x", data, lenient=["last"])
    with pytest.raises(EvaluationError, match="there is no 'gone'"):
        evaluate("gone.x", data, lenient=["last"])


def test_unknown_variables_are_refused_with_the_nearest_name() -> None:
    assert 1 == evaluate("attempts", {"attempts": 1}, names={"attempts"})
    with pytest.raises(ExpressionError, match="no variable is called 'atempts'; did you mean 'attempts'"):
        compile_expression("atempts < 3", names={"attempts", "cause"})
    with pytest.raises(ExpressionError, match="no variable is called '_evnt'; did you mean '_event'"):
        compile_expression("_evnt.name == ''", names={"attempts"})
    with pytest.raises(ExpressionError, match=r"no function 'lenn'; did you mean 'len'"):
        compile_expression("lenn(x)")


def test_names_in_tells_the_variables_without_what_is_always_given() -> None:
    assert {"a", "b", "c"} == names_in("a.x + b[c] + len(_event.name) + result.d and In('e') and true")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("n > 'x'", "not supported between"),
        ("null < 1", "not supported between"),
        ("n + 'x'", "unsupported operand"),
        ("'x' + n", "cannot add a int to a str"),
        ("1 / 0", "division by zero"),
        ("1 % 0", "division by zero"),
        ("1 // 0.0", "division by zero"),
        ("n.x", "not subscriptable"),
        ("gone", "there is no 'gone'"),
        ("link.gone", "there is no 'gone'"),
        ("items[9]", "nothing at that place"),
        ("items['x']", "indices must be integers"),
        ("1['a']", "not subscriptable"),
        ("link[[]]", "unhashable"),
        ("n in 5", "not iterable"),
        ("'x' * 3", "a str is no number"),
        ("'%d' % 3", "a str is no number"),
        ("items * 3", "a list is no number"),
        ("int('x')", "invalid literal"),
        ("float('nan')", "too large"),
        ("float('inf')", "too large"),
        ("float('-1e999')", "too large"),
        ("1e308 * 10", "too large"),
        ("1e308 + 1e308", "too large"),
        ("-1e308 - 1e308", "too large"),
        ("1e308 / 1e-10", "too large"),
        ("1e308 // 1e-10", "too large"),
        ("sum([1e308, 1e308])", "too large"),
        ("min([])", "empty"),
        ("sorted([1, 'a'])", "not supported between"),
        ("len(3)", "a int has no length"),
        ("join([1])", "asked of a text"),
        ("pop('abc')", "asked of a list"),
    ],
)
def test_what_fails_on_its_values_says_why_and_quotes_the_source(source: str, why: str) -> None:
    compiled = compile_expression(source)

    with pytest.raises(EvaluationError) as failure:
        compiled({"n": 1, "items": [1], "link": {}}, None, INSTANCE)
    assert str(failure.value).startswith(f"`{source}`: ")
    assert why in str(failure.value)
    assert "error.execution" == failure.value.event


# --- attacks ----------------------------------------------------------------------------------------------------------


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def _bushy(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value, value]
    return value


HOSTILE: dict[str, Any] = {
    "x": {"a": 1},
    "big": 10**70,
    "huge": 1 << 100_000,
    "digits": "9" * 100_000,
    "text": "y" * ELEMENTS,
    "items": [0] * ELEMENTS,
    "texts": [""] * ELEMENTS,
    "deep": _nested(50_000),
    "deep2": _nested(50_000),
    "bush": _bushy(40),
}
REFUSED = [
    "__import__('os').system('true')",
    "x.__class__.__mro__[1].__subclasses__()",
    "x.__class__",
    "(1).__class__.__bases__",
    "__builtins__",
    "__builtins__['eval']",
    "x.\uff3f\uff3fclass\uff3f\uff3f",  # becomes __class__ when it is normalised
    "\uff3f\uff3fimport\uff3f\uff3f('os')",
    "_event.__class__",
    "_event.data.__init__.__globals__",
    "In.__globals__['x']",
    "len.__self__.eval('1')",
    "getattr(x, '__class__')",
    "eval('1')",
    "exec('1')",
    "open('/etc/hostname')",
    "globals()",
    "type(x)",
    "'{0.__class__}'.format(x)",
    "'%s'.__mod__(x)",
    "f'{x.__class__}'",
    "f'{1:1000000000}'",
    "b'x'",
    "1j",
    "...",
    "(y := 10)",
    "lambda: 1",
    "(lambda: x)()",
    "[c for c in items]",
    "(c for c in items)",
    "c for c in items",
    "{c for c in items}",
    "{c: c for c in items}",
    "{1, 2}",
    "[*items, *items]",
    "{**x, **x}",
    "max(*items)",
    "sorted(items, key=len)",
    "items[::2]",
    "text[0:9]",
    "10 ** 10 ** 10",
    "1 << 1000000000",
    "1 >> 1",
    "~1",
    "1 | 2",
    "x @ x",
    "x.get('a')('b')",
    "x['a']()",
    "text.ljust(1000000000)",
    "text.join(items)",
    "'a'.replace('a', text)",
    "text.encode()",
    "await x",
    "yield",
    "import os",
    "x = 1",
    "x; x",
    "x) or (x",
    "x] + [x",
    "x], [x",
    "x][0",
    "1, 2",
    "9" * 200,
    "1e999",
    "-" * 4000 + "1",
    "not " * 900 + "x",
    "(" * 2000 + ")" * 2000,
    "[" * 1500,
    "+".join("x" * 1500),
    "x" + ".a" * 1500,
    "x" + "[0]" * 1300,
    "len(" * 800 + "x" + ")" * 800,
    "x if x else " * 300 + "x",
    "{'a':" * 700 + "1" + "}" * 700,
    "'" + "a" * 5000 + "'",
    "'\\ud800'",
    "'\ud800'",
    "x\x00",
    "",
    "   ",
    "#",
    "max()",
    "In()",
    "round(1, 2, 3)",
    "5 is 5",
    "x is 5",
    "{1: 2}",
    "{x: 2}",
]
FAILING = [
    "big * big",
    " * ".join(["big"] * 60),
    "huge * huge",
    "huge + 1",
    "huge - 1",
    "huge // 3",
    "huge % 7",
    "huge / 3",
    "str(huge)",
    "abs(huge)",
    "float(huge)",
    "int(digits)",
    "float(digits)",
    "int('1' + digits)",
    "round(5, -1000000000)",
    "round(5, 1000000000)",
    "round(1.5, huge)",
    "'x' * 1000000000",
    "1000000000 * 'x'",
    "[0] * 1000000000",
    "items * 2",
    "'%1000000000d' % 1",
    "'%*d' % 1000000000",
    "text + text",
    "items + items",
    "text + text + text + text",
    "join(texts, text)",
    "join([text, text])",
    "deep == deep2",
    "deep < deep2",
    "deep in [deep2]",
    "without([deep], deep2)",
    "str(deep)",
    "str(bush)",
    "str([bush, bush])",
    "str(items)",
    "sum(texts)",
    "sum([items])",
    "int(1e308)",
]


@pytest.mark.parametrize("source", REFUSED, ids=lambda s: ascii(s[:40]))
def test_an_attack_on_the_grammar_is_refused_before_it_is_evaluated(source: str) -> None:
    with pytest.raises(ExpressionError):
        compile_expression(source)


@pytest.mark.parametrize("source", FAILING, ids=lambda s: s[:40])
def test_an_attack_on_memory_or_time_fails_and_takes_neither(source: str) -> None:
    compiled = compile_expression(source)
    tracemalloc.start()
    try:
        with pytest.raises(EvaluationError):
            compiled(HOSTILE, None, INSTANCE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 << 20


def test_the_compiler_has_nothing_to_warn_about(recwarn: pytest.WarningsRecorder) -> None:
    for source in ("1['a']", "null[0]", "(-1)[0]", "[1]['a']", "'a'.b", "(1 if true else 2).x", "(not x)[0]", "{}[0]"):
        with pytest.raises(EvaluationError):
            compile_expression(source)(HOSTILE, None, INSTANCE)

    assert [] == [str(one.message) for one in recwarn]


def test_names_of_python_are_ordinary_words_for_fields_and_variables() -> None:
    assert [1, 2, 3] == evaluate("[x.get, len, x.items]", {"x": {"get": 1, "items": 3}, "len": 2})


def test_a_compiled_expression_reaches_no_builtins() -> None:
    compiled: Any = compile_expression("x.a > 1")

    assert {} == compiled.__globals__["__builtins__"]
    assert {"FAILURES", "failed"} == set(compiled.__code__.co_names)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)
WORDS = (
    "a b x _event result true null 0 1 2.5 1e308 -3 'a' '' . , ( ) [ ] { } : + - * / // % < <= == != in not and or if "
    "else is len( min( max( abs( round( sum( any( all( int( float( str( bool( has( get( lower( upper( pop( without( "
    "keys( sorted( join( .get( .startswith( .a .b ['a'] [0] _event.data _event.name"
)
UNARY = "len min max abs round sum any all int float str bool lower upper pop keys sorted join"


def _either_json_or_refused(source: str, data: dict[str, Any]) -> None:
    try:
        value = evaluate(source, data, Event("e", data.get("a")))
    except (ExpressionError, EvaluationError):
        return
    json.dumps(value, allow_nan=False)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_refused_or_makes_json(source: str) -> None:
    _either_json_or_refused(source, {"a": 1, "b": "x", "x": {"a": [1]}})


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=12), VALUES, VALUES)
def test_any_heap_of_words_is_refused_or_makes_json(words: list[str], a: Any, b: Any) -> None:
    _either_json_or_refused(" ".join(words), {"a": a, "b": b, "x": {"a": a, "b": [b]}})


def _trees() -> st.SearchStrategy[str]:
    leaf = st.sampled_from(
        ["a", "b", "x.a", "x.b[0]", "result", "1", "0.5", "1e308", "'k'", "null", "true", "[]", "{}"]
    )

    def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        operators = st.sampled_from(["+", "-", "*", "/", "//", "%", "<", "==", "in", "and", "or", ">="])
        functions = st.sampled_from(UNARY.split())
        return (
            st.tuples(inner, operators, inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})")
            | st.tuples(functions, inner).map(lambda p: f"{p[0]}({p[1]})")
            | st.tuples(inner, inner, inner).map(lambda p: f"({p[0]} if {p[1]} else {p[2]})")
            | st.tuples(inner, inner).map(lambda p: f"[{p[0]}, {p[1]}]")
            | st.tuples(inner, inner).map(lambda p: f"{p[0]}[{p[1]}]")
        )

    return st.recursive(leaf, grown, max_leaves=8)


@settings(max_examples=400, deadline=None)
@given(_trees(), VALUES, VALUES)
def test_any_well_formed_expression_makes_json_or_fails_as_it_should(source: str, a: Any, b: Any) -> None:
    compiled = compile_expression(source)
    try:
        value = compiled({"a": a, "b": b, "x": {"a": a, "b": [b]}}, Event("e", a), INSTANCE)
    except EvaluationError:
        return
    json.dumps(value, allow_nan=False)


# --- places -----------------------------------------------------------------------------------------------------------


def test_assigning_copies_what_is_on_the_way_and_leaves_the_old_value_alone() -> None:
    old = {"a": {"b": [1, {"c": 2}]}, "n": 1}
    data = dict(old)
    before = json.dumps(old)

    compile_location("a.b[n].c")(data, 5)
    compile_location("a['new']")(data, "x")
    compile_location("n")(data, 2)

    assert {"a": {"b": [1, {"c": 5}], "new": "x"}, "n": 2} == data
    assert before == json.dumps(old)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("gone", "there is no variable 'gone'"),
        ("gone.x", "there is no variable 'gone'"),
        ("a.gone.x", "there is no 'gone'"),
        ("items[2]", "the list has 2 members, none at 2"),
        ("items['x']", "a list has no place 'x'"),
        ("n.x", "a int has no place 'x'"),
        ("a[1]", "a dict has no place 1"),
        ("a[gone]", "there is no 'gone'"),
    ],
)
def test_a_place_that_is_not_there_cannot_be_assigned_to(place: str, why: str) -> None:
    data: dict[str, Any] = {"a": {}, "items": [1, 2], "n": 1}
    before = json.dumps(data)

    with pytest.raises(EvaluationError, match=why):
        compile_location(place)(data, 1)
    assert before == json.dumps(data)


@pytest.mark.parametrize(
    "place",
    ["", "1", "a + b", "f(a)", "_event", "_event.data", "result", "_sessionid", "a.__class__", "true", "a[0:1]"],
)
def test_what_is_no_place_is_refused(place: str) -> None:
    with pytest.raises(ExpressionError):
        compile_location(place)


def test_a_local_variable_is_assigned_under_its_own_key() -> None:
    data = {"s.a": {"b": 1}, "a": 0}

    compile_location("a.b", {"a": "s.a"})(data, 2)

    assert {"s.a": {"b": 2}, "a": 0} == data


def test_a_value_that_doubles_with_every_assignment_is_stopped_before_it_is_large() -> None:
    doubled = compile_expression("[x, x]")
    assign = compile_location("x")
    data: dict[str, Any] = {"x": []}

    with pytest.raises(EvaluationError, match="larger than"):
        for _ in range(100):
            assign(data, doubled(data, None, INSTANCE))
    assert byte_size(data["x"]) < 1 << 20


@pytest.mark.parametrize(
    "source", ["[_event.data, _event.data]", "{'a': [result], 'b': result}", "_event", "result + result"]
)
def test_a_value_that_is_passed_on_from_event_to_event_is_stopped_before_it_is_large(source: str) -> None:
    again = compile_expression(source)
    event = Event("again", [1])

    with pytest.raises(EvaluationError, match=r"larger than|nested more than|longer than"):
        for _ in range(1000):
            event = Event("again", again({}, event, INSTANCE))


def test_a_list_of_few_but_large_members_does_not_grow_without_bound_either() -> None:
    row = [[0] * 60_000]

    assert 2 == len(evaluate("row + row", {"row": row}))
    with pytest.raises(EvaluationError, match="larger than"):
        evaluate("row + row + row", {"row": row})


# --- sizes and durations ----------------------------------------------------------------------------------------------


@given(VALUES)
def test_the_size_of_a_value_is_near_the_length_of_its_json(value: Any) -> None:
    length = len(json.dumps(value, ensure_ascii=False).encode())

    assert length / 6 - 8 <= byte_size(value) <= 8 * length + 20


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), (1,), {1: 2}, b"", object(), {"a": {1}}, "\ud800", _nested(1000), _bushy(60)],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_json_value_of_a_sane_size_has_no_size(value: Any) -> None:
    with pytest.raises(EvaluationError):
        byte_size(value)


def test_a_value_that_contains_itself_has_no_size() -> None:
    circle: list[Any] = []
    circle.append(circle)

    with pytest.raises(EvaluationError):
        byte_size(circle)


def test_the_largest_whole_number_is_as_long_as_said() -> None:
    assert (1 << BITS) - 1 == evaluate("x + 1", {"x": (1 << BITS) - 2})
    with pytest.raises(EvaluationError, match="too large"):
        evaluate("x + 1", {"x": (1 << BITS) - 1})


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (30, 30),
        (0, 0),
        (1.5, 1.5),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("250ms", 0.25),
        ("5m", 300),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("1w", 604_800),
        (" 10 s ", 10),
        ("7", 7),
        ("1h 5s", 3605),
    ],
)
def test_a_duration_is_seconds_however_it_is_written(written: Any, seconds: float) -> None:
    assert seconds == duration_seconds(written)


@pytest.mark.parametrize(
    "written",
    [
        -1,
        "",
        "s",
        "5x",
        "1s!",
        "-3s",
        None,
        True,
        [],
        float("nan"),
        float("inf"),
        10**400,
        "9" * 100,
        "1e5s",
        "٣s",
        "5000w9w" * 9,
    ],
)
def test_what_is_no_duration_is_refused(written: Any) -> None:
    with pytest.raises(ValueError, match="no duration"):
        duration_seconds(written)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("isinstance(a, int)", True),
        ("isinstance(t, str) and not isinstance(t, list)", True),
        ("isinstance(d, dict)", True),
        ("' x '.strip()", "x"),
        ("t.upper() == 'TEXT'", True),
        ("_event.raw", None),
    ],
)
def test_what_charts_of_others_ask_for_is_there(source: str, value: Any) -> None:
    data: dict[str, Any] = {"a": 1, "t": "text", "d": {}}

    assert compile_expression(source)(data, None, None) == value


@pytest.mark.parametrize("source", ["isinstance(a, type)", "isinstance(a, (int, str))", "isinstance(a)", "isinstance"])
def test_a_kind_is_asked_for_by_its_plain_name_only(source: str) -> None:
    with pytest.raises(ExpressionError):
        compile_expression(source, names={"a"})
