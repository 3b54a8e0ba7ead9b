"""Types say which JSON values a variable may have; extensions name more of them; hooks look on and change nothing."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0tta6bl4.statechart.extensions.hooks import FAULTS_KEPT, IN_A_ROW, Hooks, Point
from x0tta6bl4.statechart.types.base import ExpressionError, Type, parse_type
from x0tta6bl4.statechart.types.extensions import TypeExtensions

KNOWN = TypeExtensions()


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("any", [None, 1, "x", [{"a": None}]], [float("nan"), (1,), {1: 2}, object()]),
        ("boolean", [True, False], [0, "true", None]),
        ("integer", [0, -3, 1 << 80], [True, 1.0, "1", None]),
        ("number", [0, 1.5], [True, "1", float("inf"), float("nan")]),
        ("string", ["", "x"], [1, None, ["x"]]),
        ("null", [None], [0, False, ""]),
        ("list", [[], [1, "a"]], [{}, "ab", None]),
        ("list[integer]", [[], [1]], [[1, "a"], [True]]),
        ("map[number]", [{}, {"a": 1}], [{"a": "x"}, {1: 1}, []]),
        ("integer | null", [1, None], ["", 1.5]),
        ("list[integer | list[string]]", [[1, ["a"]], [[]]], [[[1]], ["a"]]),
        ("list[(integer | null)]", [[None]], [["a"]]),
        ("record{}", [{}], [{"a": 1}]),
        (
            "record{name: string, port?: integer | null,}",
            [{"name": "a"}, {"name": "a", "port": None}],
            [{}, {"name": 1}],
        ),
        ("duration", [30, "5m", 0.5], ["5 parsecs", -1, None, []]),
        ("size", [0, "64MiB", "1.5GB", "1024"], ["64 miles", -1, 1.5, "-3k", "9e9E", "99999999EiB"]),
        ("ip", ["10.0.0.7", "fd00::7"], ["10.0.0.256", "host", "", 7]),
        ("network", ["10.0.0.0/24", "fd00::/64"], ["10.0.0.1/24", "10.0.0.0/33", 7]),
        ("url", ["https://host.example:8443/a?b", "HTTP://h"], ["host/path", "http://", "https:// x", "a" * 3000, 1]),
        ("timestamp", [0, "2030-01-31T12:00:00Z", "2030-01-31T12:00:00+02:00"], ["2030-01-31T12:00:00", "soon", 1e300]),
        ("node-id", ["node-1", "a", "A.b_c"], ["", "-a", "a b", "a" * 200, "ä"]),
        ("list[ip]", [["10.0.0.1"]], [["x"]]),
    ],
)
def test_a_type_takes_its_values_and_no_others(text: str, good: list[Any], bad: list[Any]) -> None:
    wanted = parse_type(text, KNOWN)

    assert [None] * len(good) == [wanted.check(value) for value in good]
    assert [] == [value for value in bad if wanted.check(value) is None]


@pytest.mark.parametrize(
    ("text", "value", "said"),
    [
        ("integer", "x", "the value is 'x', not integer"),
        ("list[record{a: list[integer]}]", [{"a": [1]}, {"a": [1, None]}], "[1].a[1] is None, not integer"),
        ("map[map[string]]", {"x": {"y": 1}}, "['x']['y'] is 1, not string"),
        ("record{name: string}", {}, "name is missing"),
        ("record{peer: record{name: string}}", {"peer": {"nam": "a"}}, "peer has no field 'nam'; did you mean 'name'?"),
        ("record{wait: duration}", {"wait": "x"}, "wait: 'x' is no duration"),
        ("integer | null", "x", "the value is 'x', not integer | null"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, value: Any, said: str) -> None:
    wrong = parse_type(text, KNOWN).check(value)

    assert wrong is not None
    assert wrong.startswith(said)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it ends too early"),
        ("strng", "no type is called 'strng'; did you mean 'string'?"),
        ("list[", "it ends too early"),
        ("list[string", "it ends too early"),
        ("list[string}", "'}' stands where ']' should"),
        ("string string", "'string' does not belong there"),
        ("record{a string}", "'string' stands where ':' should"),
        ("record{a: string, a: integer}", "the field 'a' is there twice"),
        ("record{: string}", "':' stands where a field should"),
        ("integer |", "it ends too early"),
        ("int%", "'%' does not belong there"),
        ("(" * 200 + "any" + ")" * 200, "nested more than"),
        ("list[" * 500, "nested more than"),
        ("any|" * 2000 + "any", "longer than"),
    ],
)
def test_what_is_no_type_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ExpressionError) as refusal:
        parse_type(text)
    assert why in str(refusal.value)


@pytest.mark.parametrize(
    ("wider", "narrower"),
    [
        ("any", "record{a: string}"),
        ("number", "integer"),
        ("integer | null", "null"),
        ("number | null", "integer | null"),
        ("list[number]", "list[integer]"),
        ("map[number]", "record{a: integer, b?: number}"),
        ("record{a: number, b?: string}", "record{a: integer}"),
        ("record{a: number, b?: string}", "record{a: integer, b: string}"),
        ("string | number", "duration"),
        ("string", "ip"),
        ("list[string]", "list[url]"),
        ("ip", "ip"),
        ("ip | network", "network"),
    ],
)
def test_what_can_be_assigned_can_be_told_and_goes_one_way(wider: str, narrower: str) -> None:
    assert parse_type(wider, KNOWN).accepts(parse_type(narrower, KNOWN))
    assert wider == narrower or not parse_type(narrower, KNOWN).accepts(parse_type(wider, KNOWN))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("string", "integer"),
        ("ip", "network"),
        ("string", "duration"),
        ("record{a: string}", "record{a?: string}"),
        ("record{a: string}", "record{a: string, b: string}"),
        ("record{a: string}", "map[string]"),
        ("list[integer]", "list[integer | null]"),
        ("boolean", "integer"),
    ],
)
def test_what_cannot_be_assigned_is_told(one: str, other: str) -> None:
    assert not parse_type(one, KNOWN).accepts(parse_type(other, KNOWN))


NAMES = st.sampled_from(["any", "boolean", "integer", "number", "string", "null", "ip", "duration"])
TYPES = st.recursive(
    NAMES.map(lambda name: parse_type(name, KNOWN)),
    lambda inner: (
        st.builds(lambda t: Type("list", (t,)), inner)
        | st.builds(lambda t: Type("map", (t,)), inner)
        | st.lists(inner, min_size=2, max_size=3, unique=True).map(lambda ts: Type("union", tuple(ts)))
        | st.lists(st.tuples(inner, st.booleans()), max_size=2).map(
            lambda fields: Type(
                "record", (), tuple((name, t, must) for name, (t, must) in zip("ab", fields, strict=False))
            )
        )
    ),
    max_leaves=5,
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.5, "x", "10.0.0.1", "5m"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)


@given(TYPES, TYPES, VALUES)
def test_a_value_of_what_is_accepted_is_a_value_of_what_accepts(wider: Type, narrower: Type, value: Any) -> None:
    if wider.accepts(narrower) and narrower.check(value) is None:
        assert wider.check(value) is None


@given(TYPES)
def test_a_type_accepts_itself_and_is_what_it_is_written_as(kind: Type) -> None:
    assert kind.accepts(kind)
    again = parse_type(str(kind), KNOWN)
    assert again.accepts(kind)
    assert kind.accepts(again)


# --- extensions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("duration", "1h30m", 5400.0),
        ("size", "64MiB", 64 << 20),
        ("size", "1.5k", 1500),
        ("size", "9007199254740993", 9007199254740993),
        ("size", 9007199254740993, 9007199254740993),
        ("ip", "FD00:0:0::7", "fd00::7"),
        ("network", "fd00:0::/64", "fd00::/64"),
        ("url", "HTTPS://Host/A", "https://Host/A"),
        ("timestamp", "1970-01-02T00:00:00+00:00", 86_400.0),
        ("timestamp", 5, 5.0),
        ("node-id", "node-1", "node-1"),
    ],
)
def test_an_extension_says_what_a_value_amounts_to(name: str, written: Any, meant: Any) -> None:
    assert meant == KNOWN.convert(name, written)


@given(st.integers(0, 3000).map(lambda n: n / 4))
def test_a_duration_is_shown_so_that_it_reads_the_same(seconds: float) -> None:
    assert seconds == KNOWN.convert("duration", KNOWN.show("duration", seconds))


@given(st.integers(0, (1 << 63) - 1))
def test_a_size_is_shown_so_that_it_reads_the_same(size: int) -> None:
    assert size == KNOWN.convert("size", KNOWN.show("size", size))


def test_what_an_extension_refuses_is_refused_by_its_converter() -> None:
    with pytest.raises(ValueError, match=r"the value: '10\.0\.0\.300' is not an IP address"):
        KNOWN.convert("ip", "10.0.0.300")


def test_a_registered_type_is_known_to_its_own_registry_only() -> None:
    mine = TypeExtensions()
    mine.register(
        "even", lambda value: f"{value} is odd" if value % 2 else None, of="integer", parse=lambda value: value // 2
    )

    assert "the value: 3 is odd" == parse_type("even", mine).check(3)
    assert "the value is 'x', not integer" == parse_type("even", mine).check("x")
    assert 2 == mine.convert("even", 4)
    assert "4" == mine.show("even", 4)
    with pytest.raises(ExpressionError):
        parse_type("even", TypeExtensions())


@pytest.mark.parametrize(("name", "of"), [("ip", "string"), ("a b", "string"), ("mine", "strng"), ("", "string")])
def test_a_type_cannot_be_registered_twice_or_wrongly(name: str, of: str) -> None:
    with pytest.raises(ValueError):
        TypeExtensions().register(name, lambda value: None, of=of)


# --- hooks ------------------------------------------------------------------------------------------------------------


def test_hooks_are_called_in_their_order_with_what_is_known() -> None:
    hooks = Hooks()
    seen: list[tuple[str, Any]] = []
    hooks.add("entered", lambda known: seen.append(("second", known["state"])))
    hooks.add("entered", lambda known: seen.append(("third", known["state"])))
    hooks.add(Point.ENTERED, lambda known: seen.append(("first", known["state"])), order=-1)

    hooks.call(Point.ENTERED, instance=None, state="work")
    hooks.call(Point.EXITED, instance=None, state="work")

    assert [("first", "work"), ("second", "work"), ("third", "work")] == seen


def test_a_failing_hook_is_counted_and_its_siblings_are_called() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def fails(known: Mapping[str, Any]) -> None:
        raise ValueError("no")

    def fails_worse(known: Mapping[str, Any]) -> None:
        raise Unspeakable

    hooks = Hooks()
    seen: list[int] = []
    hooks.add(Point.TRANSITION, fails, name="bad")
    hooks.add(Point.TRANSITION, fails_worse, name="worse")
    hooks.add(Point.TRANSITION, lambda known: seen.append(1), name="good")

    hooks.call(Point.TRANSITION, instance=None)

    assert [1] == seen
    assert {"transition": {"bad": (1, 1), "worse": (1, 1), "good": (1, 0)}} == hooks.counts()
    assert [("bad", "ValueError: no"), ("worse", "Unspeakable")] == [(fault.name, fault.why) for fault in hooks.faults]


def test_what_a_hook_does_to_what_it_is_told_the_next_one_does_not_see() -> None:
    hooks = Hooks()
    seen: list[dict[str, Any]] = []
    hooks.add(Point.ENDED, lambda known: known.clear())  # type: ignore[attr-defined]  # a hook that breaks its promise
    hooks.add(Point.ENDED, lambda known: seen.append(dict(known)))

    hooks.call(Point.ENDED, result=1)

    assert [{"result": 1}] == seen


def test_a_hook_can_take_itself_away_while_it_is_called() -> None:
    hooks = Hooks()
    seen: list[int] = []
    hooks.add(Point.STARTED, lambda known: (seen.append(1), remove()))
    remove = hooks.add(Point.STARTED, lambda known: seen.append(2))

    hooks.call(Point.STARTED)
    hooks.call(Point.STARTED)
    remove()

    assert [1, 2, 1] == seen
    assert hooks.wants(Point.STARTED)
    assert not hooks.wants(Point.ENDED)


def test_a_hook_that_only_ever_fails_is_given_up_and_little_is_kept_of_it() -> None:
    hooks = Hooks()
    hooks.add(Point.FAULTED, lambda known: known["gone"], name="bad")

    for _ in range(IN_A_ROW + 5):
        hooks.call(Point.FAULTED)

    assert not hooks.wants(Point.FAULTED)
    assert FAULTS_KEPT == len(hooks.faults)
    assert "not called any more" in hooks.faults[-1].why


def test_an_unknown_point_is_refused() -> None:
    with pytest.raises(ValueError, match="enterd"):
        Hooks().add("enterd", lambda known: None)
