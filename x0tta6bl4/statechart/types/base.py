"""Values, the expressions over them, and the types that say which values a variable may have.

Expressions are a part of Python's expression grammar over JSON values. Each becomes one Python function, made from a
syntax tree in which every node was put by this module: a variable is an item of the data, a field is an item of a
mapping, never an attribute of an object, so that nothing outside the values can be reached. What can grow (``+``,
``*``, texts, numbers) is capped; there is nothing to loop, to name or to call a value with, so the work done is bounded
by the length of the source times the size of the values.
"""

import ast
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MappingProxyType
from typing import Any, Final

from x0tta6bl4.statechart.core.event import Event

SOURCE_CHARACTERS: Final = 4096
DEPTH: Final = 64
"""How deeply an expression may be nested."""
ELEMENTS: Final = 65_536
"""Characters of a text, or members of a list, that an expression may make."""
BITS: Final = 256
"""Of a whole number that an expression may make: room for an IPv6 address or a SHA-256, not for a tower of powers."""
VALUE_BYTES: Final = 262_144
"""Of a value that is assigned. Two lists that hold one another's likeness thirty levels deep are small in memory and a
gigabyte when they are written down or compared."""
VALUE_DEPTH: Final = 64

_BIGGEST: Final = 1 << BITS
_NUMBER_TEXT: Final = 80

Compiled = Callable[[dict[str, Any], Event | None, Any], Any]
"""Called with the data, the event and the instance."""
Assignment = Callable[[dict[str, Any], Any], None]


class ExpressionError(ValueError):
    """Refused before it was ever evaluated."""


class EvaluationError(Exception):
    """Failed on the values it was given."""

    event = "error.execution"


# --- values ---------------------------------------------------------------------------------------------------------


def byte_size(value: Any, limit: int = VALUE_BYTES) -> int:
    """About how long the value is as JSON; fails when that is over ``limit``, or when it is no JSON value.

    Costs no more than ``limit`` steps whatever the value is made of: one that contains itself runs into the limit, too.
    """
    kind = value.__class__
    if kind is bool or value is None:
        return 5
    if kind is int and -_BIGGEST < value < _BIGGEST:
        return 20
    if kind is str and len(value) <= limit and value.isascii():
        return len(value) + 2
    total = 0
    waiting: list[Iterator[Any]] = [iter((value,))]
    while waiting:
        for item in waiting[-1]:
            kind = item.__class__
            if kind is str:
                total += 2 + (len(item) if item.isascii() else _utf8(item))
            elif kind is int:
                total += 1 + item.bit_length() // 3
            elif kind is float:
                if not math.isfinite(item):
                    raise EvaluationError(f"{item} is no JSON value")
                total += 8
            elif kind is bool or item is None:
                total += 5
            elif kind is list or kind is dict:
                total += 2 + len(item)
                if len(waiting) > VALUE_DEPTH:
                    raise EvaluationError(f"a value is nested more than {VALUE_DEPTH} deep")
                waiting.append(_inside(item) if kind is dict else iter(item))
                break
            else:
                raise EvaluationError(f"a {kind.__name__} is no JSON value")
            if total > limit:
                break
        else:
            waiting.pop()
        if total > limit:
            raise EvaluationError(f"a value is larger than {limit} bytes")
    return total


def _inside(mapping: dict[Any, Any]) -> Iterator[Any]:
    for key, item in mapping.items():
        if key.__class__ is not str:
            raise EvaluationError(f"{key!r} is no key of a JSON mapping")
        yield key
        yield item


def _utf8(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise EvaluationError("half of a surrogate pair is no text") from None


_PART_OF_DURATION = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*(ms|s|m|h|d|w)", re.ASCII)
_SECONDS_IN = MappingProxyType({"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0})
_LONGEST_WAIT = 3_155_760_000.0  # a century: beyond it dates cannot be reckoned with, and nobody means it


def duration_seconds(value: Any) -> float:
    """Seconds as they are, or a text such as ``5m``, ``1.5s``, ``1h30m``. Raises ValueError for anything else."""
    seconds: float | None = None
    if value.__class__ is float or value.__class__ is int:
        seconds = float(value) if value < _LONGEST_WAIT + 1 else math.inf
    elif value.__class__ is str and len(value) <= _NUMBER_TEXT:
        text = value.strip()
        parts = _PART_OF_DURATION.findall(text)
        if parts and "".join(_PART_OF_DURATION.sub("", text).split()) == "":
            seconds = sum(float(number) * _SECONDS_IN[unit] for number, unit in parts)
        elif re.fullmatch(r"[0-9]+\.?[0-9]*|\.[0-9]+", text, re.ASCII):
            seconds = float(text)
    if seconds is None or not 0 <= seconds <= _LONGEST_WAIT:
        raise ValueError(f"{_short(repr(value))} is no duration: write seconds, or for example 500ms, 30s, 5m, 1h30m")
    return seconds


def _short(text: str, most: int = 120) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or nothing."""
    from difflib import get_close_matches  # only to word a mistake

    found = get_close_matches(name, list(known), 1)
    return f"; did you mean {found[0]!r}?" if found else ""


# --- what a compiled expression calls ---------------------------------------------------------------------------------


def _number(value: Any) -> Any:
    kind = value.__class__
    if kind is int:
        if -_BIGGEST < value < _BIGGEST:
            return value
    elif kind is float:
        if math.isfinite(value):
            return value
    elif kind is bool:
        return value
    else:
        raise EvaluationError(f"a {kind.__name__} is no number")
    raise EvaluationError("the number is too large")


def _sized(value: Any) -> Any:
    """Around whatever puts values into others, so that nothing an expression makes can be passed on from event to event
    and doubled each time."""
    byte_size(value)
    return value


def _add(a: Any, b: Any) -> Any:
    kind = a.__class__
    if kind is str or kind is list:
        if b.__class__ is not kind:
            raise EvaluationError(f"cannot add a {b.__class__.__name__} to a {kind.__name__}")
        if len(a) + len(b) > ELEMENTS:
            raise EvaluationError(f"the result of + is longer than {ELEMENTS}")
        return a + b if kind is str else _sized(a + b)
    return _number(a + b)


def _subtract(a: Any, b: Any) -> Any:
    return _number(a - b)


def _multiply(a: Any, b: Any) -> Any:
    # Asked before, not after: 'x' * 10**9 must not be made.
    return _number(_number(a) * _number(b))


def _divide(a: Any, b: Any) -> Any:
    return _number(a / b)


def _floor_divide(a: Any, b: Any) -> Any:
    return _number(a // b)


def _modulo(a: Any, b: Any) -> Any:
    # A text on the left would be formatted, to any width that it asks for.
    return _number(_number(a) % _number(b))


def _item_of(value: Any, key: Any) -> Any:
    return value[key]


def _soft(value: Any, key: Any) -> Any:
    """A field of a variable that was declared lenient."""
    if value is None:
        return None
    return value.get(key) if value.__class__ is dict else value[key]


def _event_view(event: Event | None) -> Any:
    return None if event is None else _sized({name: getattr(event, name) for name in _EVENT_FIELDS})


def _now(instance: Any) -> Any:
    """Of what is being handled, as the host says it: no clock is read here, so that a replay gives the same."""
    if instance.runtime.now is None:
        raise EvaluationError("nobody says what time it is")
    return instance.runtime.now


def _io_processors(instance: Any) -> dict[str, Any]:
    here = {"location": f"#_scxml_{instance.id}"}
    return {"scxml": here, "http://www.w3.org/TR/scxml/#SCXMLEventProcessor": dict(here)}


def _of(value: Any, kind: type, what: str) -> Any:
    if value.__class__ is not kind:
        raise EvaluationError(f"{what}, not of a {value.__class__.__name__}")
    return value


def _list(value: Any) -> Any:
    return _of(value, list, "that is asked of a list")


def _dict(value: Any) -> Any:
    return _of(value, dict, "that is asked of a mapping")


def _text(value: Any) -> Any:
    return _of(value, str, "that is asked of a text")


def _len(value: Any) -> int:
    if value.__class__ not in (str, list, dict):
        raise EvaluationError(f"a {value.__class__.__name__} has no length")
    return len(value)


def _min(*values: Any) -> Any:
    return min(_list(values[0]) if len(values) == 1 else values)


def _max(*values: Any) -> Any:
    return max(_list(values[0]) if len(values) == 1 else values)


def _abs(value: Any) -> Any:
    return abs(_number(value))


def _round(value: Any, digits: Any = 0) -> Any:
    # round(1, -10**9) would work out that power of ten.
    if digits.__class__ is not int or not -15 <= digits <= 15:
        raise EvaluationError("round() takes between -15 and 15 digits")
    return _number(round(_number(value), digits) if digits else round(_number(value)))


def _sum(values: Any) -> Any:
    return _number(sum(_list(values)))


def _any(values: Any) -> bool:
    return any(_list(values))


def _all(values: Any) -> bool:
    return all(_list(values))


def _int(value: Any) -> Any:
    if value.__class__ is str:
        if len(value) > _NUMBER_TEXT:
            raise EvaluationError("the text is too long for a number")
        return _number(int(value))
    return int(_number(int(_number(value))))


def _float(value: Any) -> Any:
    if value.__class__ is str:
        if len(value) > _NUMBER_TEXT:
            raise EvaluationError("the text is too long for a number")
        return _number(float(value))
    return _number(float(_number(value)))


def _str(value: Any) -> str:
    kind = value.__class__
    if kind is str:
        return value  # type: ignore[no-any-return]  # a comparison of classes does not narrow Any
    if kind is int:
        return str(_number(value))
    byte_size(value, ELEMENTS)
    return json.dumps(value, ensure_ascii=False)


def _has(mapping: Any, key: Any) -> bool:
    return mapping.__class__ is dict and key in mapping


def _get(mapping: Any, key: Any, default: Any = None) -> Any:
    return _dict(mapping).get(key, default)


def _lower(text: Any) -> Any:
    return _text(text).lower()


def _upper(text: Any) -> Any:
    return _text(text).upper()


def _strip(text: Any) -> Any:
    return _text(text).strip()


def _is_a(value: Any, name: str) -> bool:
    """As Python has it, where a truth value is a whole number as well."""
    return isinstance(value, _CLASSES[name])


def _starts_with(text: Any, start: Any) -> Any:
    return _text(text).startswith(_text(start))


def _ends_with(text: Any, end: Any) -> Any:
    return _text(text).endswith(_text(end))


def _pop(values: Any) -> Any:
    return _list(values)[:-1]


def _without(values: Any, item: Any) -> list[Any]:
    return [value for value in _list(values) if value != item]


def _keys(mapping: Any) -> list[Any]:
    return list(_dict(mapping))


def _sorted(values: Any) -> list[Any]:
    return sorted(_list(values))


def _join(texts: Any, between: Any = ", ") -> Any:
    # Added up before anything is made: a long separator between many empty texts is gigabytes.
    if len(_text(between)) * len(_list(texts)) + sum(len(_text(text)) for text in texts) > ELEMENTS:
        raise EvaluationError(f"the result of join() is longer than {ELEMENTS}")
    return between.join(texts)


_FUNCTIONS: Final[Mapping[str, tuple[Callable[..., Any], int, int]]] = MappingProxyType(
    {  # name: the function, the fewest and the most values it takes
        "len": (_len, 1, 1),
        "min": (_min, 1, 64),
        "max": (_max, 1, 64),
        "abs": (_abs, 1, 1),
        "round": (_round, 1, 2),
        "sum": (_sum, 1, 1),
        "any": (_any, 1, 1),
        "all": (_all, 1, 1),
        "int": (_int, 1, 1),
        "float": (_float, 1, 1),
        "str": (_str, 1, 1),
        "bool": (bool, 1, 1),
        "has": (_has, 2, 2),
        "hasattr": (_has, 2, 2),  # as SCXML documents with a Python data model ask for it
        "get": (_get, 2, 3),
        "lower": (_lower, 1, 1),
        "upper": (_upper, 1, 1),
        "strip": (_strip, 1, 1),
        "startswith": (_starts_with, 2, 2),
        "endswith": (_ends_with, 2, 2),
        "pop": (_pop, 1, 1),
        "without": (_without, 2, 2),
        "keys": (_keys, 1, 1),
        "sorted": (_sorted, 1, 1),
        "join": (_join, 1, 2),
    }
)
FUNCTION_NAMES: Final = (*_FUNCTIONS, "now", "In")
_METHODS: Final = frozenset({"get", "startswith", "endswith", "lower", "upper", "strip", "keys"})
_CLASSES: Final[Mapping[str, type]] = MappingProxyType(
    {"bool": bool, "int": int, "float": float, "str": str, "list": list, "dict": dict}
)
_EVENT_FIELDS: Final = ("name", "type", "sendid", "origin", "origintype", "invokeid", "data")
_LITERALS: Final[Mapping[str, Any]] = MappingProxyType({"true": True, "false": False, "null": None})
_GIVEN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "_event": "event_view(event)",
        "result": "event.data",
        "_sessionid": "instance.id",
        "_name": "instance.chart.name",
        "_ioprocessors": "io_processors(instance)",
    }
)
GIVEN_NAMES: Final = tuple(_GIVEN)
"""What an expression may ask for without anybody having declared it."""


def _failed(error: Exception, source: str) -> EvaluationError:
    if isinstance(error, EvaluationError):
        why = str(error)
    elif isinstance(error, KeyError):
        why = f"there is no {_short(repr(error.args[0]))}"
    elif isinstance(error, IndexError):
        why = "there is nothing at that place of the list"
    elif isinstance(error, ZeroDivisionError):
        why = "division by zero"
    elif isinstance(error, AttributeError):
        why = "there is no event, or no instance, that this could be asked of"
    elif isinstance(error, RecursionError):
        why = "the values are nested too deeply"
    else:
        why = _short(str(error))
    return EvaluationError(f"`{_short(source)}`: {why}")


# All that the operations on JSON values, and the functions above, can raise. RecursionError: comparing two values that
# the host let grow too deep. MemoryError is not among them, because no operation can make anything large.
_FAILURES: Final = (
    EvaluationError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)

_SCOPE: Final[dict[str, Any]] = {
    "__builtins__": {},
    "FAILURES": _FAILURES,
    "failed": _failed,
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "floor_divide": _floor_divide,
    "modulo": _modulo,
    "item": _item_of,
    "sized": _sized,
    "soft": _soft,
    "event_view": _event_view,
    "is_a": _is_a,
    "io_processors": _io_processors,
    "now": _now,
    **{f"do_{name}": function for name, (function, _, _) in _FUNCTIONS.items()},
}
"""The globals of every compiled expression. A dict because functions want one; nobody writes to it."""

# --- expressions ------------------------------------------------------------------------------------------------------

_OPERATIONS: Final[Mapping[type[ast.operator], str]] = MappingProxyType(
    {
        ast.Add: "add",
        ast.Sub: "subtract",
        ast.Mult: "multiply",
        ast.Div: "divide",
        ast.FloorDiv: "floor_divide",
        ast.Mod: "modulo",
    }
)
_COMPARISONS: Final = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn)
_WORDS_FOR: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Lambda": "a function",
        "NamedExpr": "an assignment (`:=`)",
        "JoinedStr": "a format string",
        "Slice": "a slice",
        "Starred": "unpacking (`*`)",
        "GeneratorExp": "a generator",
        "ListComp": "a comprehension",
        "SetComp": "a comprehension",
        "DictComp": "a comprehension",
        "Set": "a set",
        "Await": "await",
    }
)


def _name(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())


def _call(function: str, *values: ast.expr) -> ast.expr:
    return ast.Call(_name(function), list(values), [])


def _item(value: ast.expr, key: ast.expr) -> ast.expr:
    return ast.Subscript(value, key, ast.Load())


def _parse(source: str) -> ast.expr:
    if source.__class__ is not str:
        raise ExpressionError(f"an expression is a text, not {_short(repr(source))}")
    text = source.strip()
    if not text:
        raise ExpressionError("an expression is empty")
    if len(text) > SOURCE_CHARACTERS:
        raise ExpressionError(f"an expression is longer than {SOURCE_CHARACTERS} characters: `{_short(text, 60)}`")
    try:
        # In brackets, so that it may go over several lines as YAML has them.
        tree = _tree(f"[{text}\n]", "eval").body
    except SyntaxError as error:
        raise ExpressionError(f"`{_short(text)}`: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        # ValueError: a NUL, half of a surrogate pair, a number of 4,300 digits. RecursionError and MemoryError are how
        # the parser says that the text is nested deeper than its stack.
        raise ExpressionError(f"{_short(repr(text), 60)}: {error or 'nested too deeply'}") from None
    if isinstance(tree, ast.ListComp):
        raise ExpressionError(f"`{_short(text)}`: a comprehension is not part of an expression")
    if not isinstance(tree, ast.List) or len(tree.elts) != 1:  # the text closed our bracket, or has commas
        raise ExpressionError(f"`{_short(text)}`: not one expression; a list is written in [ ]")
    return tree.elts[0]


class _Translation:
    """From the tree that the author wrote to the tree that is compiled: nothing of the first is in the second."""

    def __init__(
        self,
        source: str,
        rename: Mapping[str, str] | None = None,
        lenient: Collection[str] = (),
        names: Collection[str] | None = None,
    ) -> None:
        self.source = _short(source.strip())
        self.rename = rename or {}
        self.lenient = lenient
        self.names = names
        self.found: set[str] = set()
        self.depth = 0

    def refusal(self, why: str) -> ExpressionError:
        return ExpressionError(f"`{self.source}`: {why}")

    def __call__(self, node: ast.expr) -> ast.expr:
        self.depth += 1
        if self.depth > DEPTH:
            raise self.refusal(f"nested more than {DEPTH} deep")
        try:
            return self.translated(node)
        finally:
            self.depth -= 1

    def all(self, nodes: Iterable[ast.expr]) -> list[ast.expr]:
        return [self(node) for node in nodes]

    def translated(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.Constant(value=value):
                return ast.Constant(self.constant(value))
            case ast.Name(id=name):
                return self.variable(name)
            case ast.Attribute(value=value, attr=name):
                return self.field(value, name)
            case ast.Subscript(value=value, slice=key):
                translated = self(value)
                return self.below(value, translated, self(key))
            case ast.BoolOp(op=both, values=values):
                return ast.BoolOp(both, self.all(values))
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd() as sign, operand=value):
                return ast.UnaryOp(sign, self(value))
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATIONS:
                return _call(_OPERATIONS[type(operator)], self(left), self(right))
            case ast.BinOp():
                raise self.refusal("the operators are + - * / // %")
            case ast.Compare(left=left, ops=operators, comparators=others):
                for one, comparison, other in zip([left, *others], operators, others, strict=False):
                    if not isinstance(comparison, _COMPARISONS) and (
                        not _is_singleton(other) or isinstance(one, ast.Constant)
                    ):
                        raise self.refusal("`is` is for null, true and false; write == to compare")
                return ast.Compare(self.operand(left), operators, [self.operand(other) for other in others])
            case ast.IfExp(test=test, body=then, orelse=otherwise):
                return ast.IfExp(self(test), self(then), self(otherwise))
            case ast.List() | ast.Tuple() | ast.Dict():
                made = self.container(node)
                return made if all(isinstance(part, ast.Constant) for part in _parts(node)) else _call("sized", made)
            case ast.Call(func=function, args=values, keywords=[]):
                return self.call(function, values)
            case ast.Call():
                raise self.refusal("functions take their values in order, without names")
        word = type(node).__name__
        raise self.refusal(f"{_WORDS_FOR.get(word, word)} is not part of an expression")

    def container(self, node: ast.List | ast.Tuple | ast.Dict) -> ast.expr:
        parts = [self.operand(part) for part in _parts(node)]
        if isinstance(node, ast.Dict):
            return ast.Dict([self.key(key) for key in node.keys], parts)
        return ast.List(parts, ast.Load())

    def operand(self, node: ast.expr) -> ast.expr:
        """What is only looked at here, or measured by what it is put into, need not be measured itself."""
        if not isinstance(node, ast.List | ast.Tuple | ast.Dict):
            return self(node)
        self.depth += 1
        if self.depth > DEPTH:
            raise self.refusal(f"nested more than {DEPTH} deep")
        made = self.container(node)
        self.depth -= 1
        return made

    def constant(self, value: Any) -> Any:
        kind = value.__class__
        if kind not in (str, int, float, bool) and value is not None:
            raise self.refusal(f"{_short(repr(value), 40)} is no JSON value")
        try:
            byte_size(value)
            return _number(value) if kind in (int, float) else value
        except EvaluationError as error:
            raise self.refusal(str(error)) from None

    def variable(self, name: str) -> ast.expr:
        if name in _LITERALS:
            return ast.Constant(_LITERALS[name])
        # `result` is an ordinary word: where a chart has a variable of that name, it means that one.
        if name in _GIVEN and name not in self.rename:
            given: ast.expr = _tree(_GIVEN[name], "eval").body
            return given
        self.plain(name)
        self.found.add(name)
        if self.names is not None and name not in self.names:
            known = [*self.names, *GIVEN_NAMES]
            raise self.refusal(f"no variable is called {name!r}{nearest(name, known)}")
        return _item(_name("data"), ast.Constant(self.rename.get(name, name)))

    def plain(self, name: str) -> None:
        if name.startswith("__"):
            raise self.refusal(f"{name!r} is not a name of anything here")

    def field(self, value: ast.expr, name: str) -> ast.expr:
        self.plain(name)
        if isinstance(value, ast.Name) and value.id == "_event":
            if name == "raw":
                return ast.Constant(None)  # what came over no wire has no raw form
            if name not in _EVENT_FIELDS:
                raise self.refusal(f"an event has no {name!r}{nearest(name, _EVENT_FIELDS)}")
            # The one real attribute access; it is one of seven, and an Event's.
            return ast.Attribute(_name("event"), name, ast.Load())
        return self.below(value, self(value), ast.Constant(name))

    def below(self, value: ast.expr, translated: ast.expr, key: ast.expr) -> ast.expr:
        if not isinstance(translated, ast.Subscript | ast.Attribute | ast.Call):
            return _call("item", translated, key)  # the compiler prints warnings about what it sees in literals
        root = value
        while isinstance(root, ast.Attribute | ast.Subscript):
            root = root.value
        if isinstance(root, ast.Name) and root.id in self.lenient:
            return _call("soft", translated, key)
        return _item(translated, key)

    def key(self, key: ast.expr | None) -> ast.expr:
        if isinstance(key, ast.Constant) and key.value.__class__ is str:
            return ast.Constant(self.constant(key.value))
        raise self.refusal("the keys of a mapping are written as texts: {'name': 1}")

    def call(self, function: ast.expr, values: list[ast.expr]) -> ast.expr:
        match function:
            case ast.Name(id="In"):
                if len(values) != 1:
                    raise self.refusal("In() takes the name of a state")
                is_in = ast.Attribute(_name("instance"), "is_in", ast.Load())
                return ast.Call(is_in, [self(values[0])], [])
            case ast.Name(id="now"):
                if values:
                    raise self.refusal("now() takes no value")
                return _call("now", _name("instance"))
            case ast.Name(id="isinstance"):
                match values:
                    case [value, ast.Name(id=name)] if name in _CLASSES:
                        return _call("is_a", self(value), ast.Constant(name))
                raise self.refusal(f"isinstance() takes a value and one of {', '.join(_CLASSES)}")
            case ast.Name(id=name) if name in _FUNCTIONS:
                translated = self.all(values)
            case ast.Attribute(value=value, attr=name) if name in _METHODS:
                translated = [self(value), *self.all(values)]
            case ast.Name(id=name):
                raise self.refusal(f"there is no function {name!r}{nearest(name, FUNCTION_NAMES)}")
            case ast.Attribute(attr=name):
                raise self.refusal(f"a value has no method {name!r}; there are {', '.join(sorted(_METHODS))}")
            case _:
                raise self.refusal("a value cannot be called")
        _, fewest, most = _FUNCTIONS[name]
        if not fewest <= len(translated) <= most:
            raise self.refusal(f"{name}() takes {fewest if fewest == most else f'{fewest} to {most}'} values")
        return _call(f"do_{name}", *translated)


def _parts(node: ast.List | ast.Tuple | ast.Dict) -> list[ast.expr]:
    return node.values if isinstance(node, ast.Dict) else node.elts


def _is_singleton(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return node.value is None or node.value is True or node.value is False
    return isinstance(node, ast.Name) and node.id in _LITERALS


_FRAME: Final = """
def expression({parameters}):
    try:
        return BODY
    except FAILURES as error:
        raise failed(error, {source!r}) from error
"""


def _tree(text: str, mode: str) -> Any:
    """``ast.parse``. CPython 3.11 counts the depth of all threads' trees in one place, and takes two threads that
    parse at the same time for a broken tree: the same text again is then parsed well."""
    for _ in range(5):
        try:
            return ast.parse(text, "<expression>", mode)
        except SystemError:
            continue
    return ast.parse(text, "<expression>", mode)


def _function(parameters: str, source: str, body: ast.expr) -> FunctionType:
    """The one function; its ``try`` costs nothing while nothing fails."""
    module = _tree(_FRAME.format(parameters=parameters, source=_short(source.strip())), "exec")
    for node in ast.walk(module):
        if isinstance(node, ast.Return):
            node.value = body
    code = compile(ast.fix_missing_locations(module), "<expression>", "exec")
    return FunctionType(next(part for part in code.co_consts if isinstance(part, CodeType)), _SCOPE, "expression")


def compile_expression(
    source: str,
    *,
    rename: Mapping[str, str] | None = None,
    lenient: Collection[str] = (),
    names: Collection[str] | None = None,
) -> Compiled:
    """One function of data, event and instance. Refuses with ExpressionError; the function fails with EvaluationError
    and with nothing else.

    ``rename`` maps a variable to its key in the data. ``lenient`` names variables whose missing fields are null.
    Where ``names`` is given, other variables than these are refused.
    """
    tree = _parse(source)
    return _function("data, event, instance", source, _Translation(source, rename, lenient, names)(tree))


def names_in(source: str) -> set[str]:
    """The variables that an expression reads, without those that are always given."""
    translation = _Translation(source)
    translation(_parse(source))
    return translation.found


def readings_in(source: str) -> tuple[str, ...]:
    """The parts of an expression that are read from somewhere, as expressions: ``a > b.c and In('d')`` reads ``a``,
    ``b.c`` and ``In('d')``. For telling why it has the value that it has."""
    found: dict[str, None] = {}

    def visit(node: ast.AST) -> None:
        root = node
        while isinstance(root, ast.Attribute) or (
            isinstance(root, ast.Subscript) and isinstance(root.slice, ast.Constant)
        ):
            root = root.value
        if isinstance(root, ast.Name):
            if root.id not in _LITERALS:
                found[ast.unparse(node)] = None
            return
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("In", "now"):
                found[ast.unparse(node)] = None
                return
            parts: Iterable[ast.AST] = node.args
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            parts = (node.func.value, *node.args)
        else:
            parts = ast.iter_child_nodes(node)
        for part in parts:
            visit(part)

    visit(_parse(source))
    return tuple(found)


def root_of(location: str) -> str:
    """The variable that a location lies in; empty for what is none."""
    node = _parse(location)
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def compile_location(
    source: str, rename: Mapping[str, str] | None = None, *, names: Collection[str] | None = None
) -> Assignment:
    """What sets a variable, or a field below one (``a.b``, ``a['b']``, ``a[n]``).

    The variable must be there, and so must all but the last field. Containers on the way are copied, never changed, so
    that whoever holds the old value still has it. A list is not made longer. The value must be JSON of a bounded size.
    """
    path: list[ast.expr] = []
    node = _parse(source)
    translation = _Translation(source, rename, (), names)
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            translation.plain(node.attr)
            path.append(ast.Constant(node.attr))
        elif isinstance(node, ast.Subscript):
            path.append(translation(node.slice))
        else:
            raise translation.refusal("not a place to put a value: write a variable, or a field below one (a.b)")
        if len(path) > DEPTH:
            raise translation.refusal(f"nested more than {DEPTH} deep")
        node = node.value
    if not isinstance(translation(node), ast.Subscript) or (node.id in _GIVEN and node.id not in translation.rename):
        raise translation.refusal(f"{node.id!r} cannot be assigned to")
    variable = translation.rename.get(node.id, node.id)
    place = _short(source.strip())
    if not path:

        def assign(data: dict[str, Any], value: Any) -> None:
            if variable not in data:
                raise EvaluationError(f"`{place}`: there is no variable {node.id!r}")
            byte_size(value)
            data[variable] = value

        return assign
    keys = _function("data, event, instance", source, ast.List(path[::-1], ast.Load()))

    def assign_below(data: dict[str, Any], value: Any) -> None:
        if variable not in data:
            raise EvaluationError(f"`{place}`: there is no variable {node.id!r}")
        byte_size(value)
        data[variable] = _replaced(data[variable], keys(data, None, None), value, place)

    return assign_below


def _replaced(old: Any, path: list[Any], value: Any, place: str) -> Any:
    key, rest = path[0], path[1:]
    if old.__class__ is dict and key.__class__ is str:
        if rest and key not in old:
            raise EvaluationError(f"`{place}`: there is no {_short(repr(key))}")
        return {**old, key: _replaced(old[key], rest, value, place) if rest else value}
    if old.__class__ is list and key.__class__ is int:
        if not -len(old) <= key < len(old):
            raise EvaluationError(f"`{place}`: the list has {len(old)} members, none at {key}")
        copy = list(old)
        copy[key] = _replaced(old[key], rest, value, place) if rest else value
        return copy
    raise EvaluationError(f"`{place}`: a {old.__class__.__name__} has no place {_short(repr(key))}")


# --- types ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Extension:
    """A type that somebody named: JSON values of some other type, of which not all are good."""

    name: str
    check: Callable[[Any], str | None]
    """What is wrong with a value, as a sentence about it; None when nothing is."""
    of: str = "string"
    """The type that its values have, whatever is said about them besides."""
    parse: Callable[[Any], Any] | None = None
    """From what people write to what is reckoned with. Pure; ValueError says what is wrong."""
    show: Callable[[Any], str] | None = None
    """The way back, as text."""


@dataclass(frozen=True, slots=True)
class Type:
    """A set of JSON values. Records are closed: a field that was not declared is a mistake."""

    kind: str
    """``any``, ``boolean``, ``integer``, ``number``, ``string``, ``null``, ``list``, ``map``, ``record``, ``union``,
    ``extension``."""
    parts: "tuple[Type, ...]" = ()
    """Of a list or map what it holds, of a union its members, of an extension what it is made of."""
    fields: "tuple[tuple[str, Type, bool], ...]" = ()
    """Of a record: name, type, whether it must be there."""
    extension: Extension | None = field(default=None)

    def __str__(self) -> str:
        match self.kind:
            case "union":
                return " | ".join(map(str, self.parts))
            case "list" | "map":
                return f"{self.kind}[{self.parts[0]}]"
            case "record":
                fields = ", ".join(f"{name}{'' if must else '?'}: {kind}" for name, kind, must in self.fields)
                return f"record{{{fields}}}"
        return self.extension.name if self.extension else self.kind

    def check(self, value: Any) -> str | None:
        """What is wrong with the value, and where in it; None when it is one of these."""
        return self._wrong(value, "")

    def accepts(self, other: "Type") -> bool:
        """Whether every value of the other is one of these. Says no where it cannot tell."""
        if self.kind == "any" or self == other:
            return True
        if other.kind == "union":
            return all(self.accepts(part) for part in other.parts)
        if self.kind == "union":
            made_of = other.parts[0] if other.extension else other
            return any(part.accepts(other) for part in self.parts) or (made_of is not other and self.accepts(made_of))
        if other.extension is not None:
            if self.extension is not None:
                return self.extension.name == other.extension.name
            return self.accepts(other.parts[0])
        if self.kind == "number":
            return other.kind == "integer"
        if self.kind == "map" and other.kind == "record":
            return all(self.parts[0].accepts(kind) for _, kind, _ in other.fields)
        if self.kind != other.kind:
            return False
        if self.kind == "record":
            theirs = {name: (kind, must) for name, kind, must in other.fields}
            return set(theirs) <= {name for name, _, _ in self.fields} and all(
                kind.accepts(theirs[name][0]) and (theirs[name][1] or not must) if name in theirs else not must
                for name, kind, must in self.fields
            )
        return self.kind in ("list", "map") and self.parts[0].accepts(other.parts[0])

    def _wrong(self, value: Any, place: str) -> str | None:
        if self.extension is not None:
            if wrong := self.parts[0]._wrong(value, place):
                return wrong
            said = self.extension.check(value)
            return said and f"{place or 'the value'}: {said}"
        if self.kind == "union":
            if not any(part._wrong(value, place) is None for part in self.parts):
                return self._unlike(value, place)
            return None
        if self.kind == "any":
            try:
                byte_size(value)
            except EvaluationError as error:
                return f"{place or 'the value'}: {error}"
            return None
        if not _PLAIN[self.kind](value):
            return self._unlike(value, place)
        if self.kind == "list":
            return _first(self.parts[0]._wrong(item, f"{place}[{n}]") for n, item in enumerate(value))
        if self.kind == "map":
            return _first(self.parts[0]._wrong(item, f"{place}[{key!r}]") for key, item in value.items())
        if self.kind == "record":
            return self._wrong_fields(value, place)
        return None

    def _wrong_fields(self, value: dict[str, Any], place: str) -> str | None:
        known = {name for name, _, _ in self.fields}
        for name in value:
            if name not in known:
                return f"{place or 'the value'} has no field {_short(repr(name))}{nearest(name, known)}"
        for name, kind, must in self.fields:
            below = f"{place}.{name}" if place else name
            if name not in value:
                if must:
                    return f"{below} is missing"
            elif wrong := kind._wrong(value[name], below):
                return wrong
        return None

    def _unlike(self, value: Any, place: str) -> str:
        return f"{place or 'the value'} is {_short(repr(value), 60)}, not {self}"


def _first(wrongs: Iterable[str | None]) -> str | None:
    return next((wrong for wrong in wrongs if wrong), None)


def _is_mapping(value: Any) -> bool:
    return value.__class__ is dict and all(key.__class__ is str for key in value)


_PLAIN: Final[Mapping[str, Callable[[Any], bool]]] = MappingProxyType(
    {
        "boolean": lambda value: value.__class__ is bool,
        "integer": lambda value: value.__class__ is int,
        "number": lambda value: value.__class__ is int or (value.__class__ is float and math.isfinite(value)),
        "string": lambda value: value.__class__ is str,
        "null": lambda value: value is None,
        "list": lambda value: value.__class__ is list,
        "map": _is_mapping,
        "record": _is_mapping,
    }
)
_SIMPLE: Final = ("any", "boolean", "integer", "number", "string", "null")
_TOKEN = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_-]*|[][{}()|:?,])")


def parse_type(text: str, extensions: Mapping[str, Extension] | None = None) -> Type:
    """``list[integer | null]``, ``record{name: string, port?: integer}``, or the name of an extension."""
    return _TypeReader(text, extensions or {}).whole()


class _TypeReader:
    def __init__(self, text: str, extensions: Mapping[str, Extension]) -> None:
        self.text = text
        self.extensions = extensions
        self.tokens: list[str] = []
        self.depth = 0
        if len(text) > SOURCE_CHARACTERS:
            raise self.refusal(f"longer than {SOURCE_CHARACTERS} characters")
        at = 0
        while rest := text[at:].strip():
            found = _TOKEN.match(text, at)
            if found is None:
                raise self.refusal(f"{rest[0]!r} does not belong there")
            self.tokens.append(found[1])
            at = found.end()
        self.tokens.reverse()

    def refusal(self, why: str) -> ExpressionError:
        return ExpressionError(f"type `{_short(self.text)}`: {why}")

    def whole(self) -> Type:
        found = self.union()
        if self.tokens:
            raise self.refusal(f"{self.tokens[-1]!r} does not belong there")
        return found

    def next(self) -> str:
        if not self.tokens:
            raise self.refusal("it ends too early")
        return self.tokens.pop()

    def expect(self, wanted: str) -> None:
        if (token := self.next()) != wanted:
            raise self.refusal(f"{token!r} stands where {wanted!r} should")

    def taken(self, wanted: str) -> bool:
        if self.tokens and self.tokens[-1] == wanted:
            self.tokens.pop()
            return True
        return False

    def union(self) -> Type:
        self.depth += 1
        if self.depth > DEPTH:
            raise self.refusal(f"nested more than {DEPTH} deep")
        parts = [self.single()]
        while self.taken("|"):
            parts.append(self.single())
        self.depth -= 1
        return parts[0] if len(parts) == 1 else Type("union", tuple(dict.fromkeys(parts)))

    def single(self) -> Type:
        name = self.next()
        if name == "(":
            inside = self.union()
            self.expect(")")
            return inside
        if name in ("list", "map"):
            inside = Type("any")
            if self.taken("["):
                inside = self.union()
                self.expect("]")
            return Type(name, (inside,))
        if name == "record":
            self.expect("{")
            return self.record()
        if name in _SIMPLE:
            return Type(name)
        if extension := self.extensions.get(name):
            return Type("extension", (parse_type(extension.of),), extension=extension)
        known = [*_SIMPLE, "list", "map", "record", *self.extensions]
        raise self.refusal(f"no type is called {name!r}{nearest(name, known)}")

    def record(self) -> Type:
        fields: dict[str, tuple[str, Type, bool]] = {}
        while not self.taken("}"):
            name = self.next()
            if not (name[0].isalpha() or name[0] == "_"):
                raise self.refusal(f"{name!r} stands where a field should")
            if name in fields:
                raise self.refusal(f"the field {name!r} is there twice")
            must = not self.taken("?")
            self.expect(":")
            fields[name] = (name, self.union(), must)
            if not self.taken(","):
                self.expect("}")
                break
        return Type("record", (), tuple(fields.values()))
