"""Reads and writes statecharts as SCXML, the W3C's notation; its data model: Python expressions over JSON values.

What SCXML has no word for (choices, deferred events, typed variables ...) is written in a namespace of our own, so that
reading it back gives the same statechart, and another processor sees the nearest plain SCXML.
"""

import ast
import json
import math
import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from xml.parsers import expat

from x0tta6bl4.statechart.core.state import Definition, Kind, State, Variable
from x0tta6bl4.statechart.core.transition import (
    Activity,
    Assign,
    Block,
    Cancel,
    Content,
    ForEach,
    Guard,
    If,
    Log,
    Raise,
    Result,
    Send,
    Transition,
)
from x0tta6bl4.statechart.core.transition import (
    Kind as TransitionKind,
)

SCXML = "http://www.w3.org/2005/07/scxml"
OWN = "urn:x0tta6bl4:statechart"
DATA_MODELS = ("", "null", "python")
LONGEST = 4 << 20
"""Bytes of a document, and of each file it names."""
DEEPEST = 150
"""Elements inside each other: what reads them is recursive."""

_STATES = {"state", "parallel", "final", "history"}
_INSIDE = {
    "scxml": _STATES - {"history"} | {"datamodel", "script"},
    "state": _STATES | {"datamodel", "transition", "onentry", "onexit", "invoke", "initial"},
    "parallel": _STATES - {"final"} | {"datamodel", "transition", "onentry", "onexit", "invoke"},
    "final": {"onentry", "onexit", "donedata"},
    "history": {"transition"},
}
"""What SCXML lets stand in which state. What our statecharts have in other places is written in our namespace."""
_ANYWHERE = _INSIDE["state"] | {"donedata", "invariant"}
_HISTORIES: dict[str, Kind] = {"shallow": Kind.HISTORY, "deep": Kind.DEEP_HISTORY}
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Unsupported(ValueError):
    """A document, or a statechart, that cannot be taken over whole: what, and in which line."""


class Element:
    """One XML element with the line it starts in, for messages."""

    __slots__ = ("attributes", "children", "line", "pieces", "space", "tag")

    def __init__(self, space: str, tag: str, attributes: dict[tuple[str, str], str], line: int) -> None:
        self.space = space
        self.tag = tag
        self.attributes = attributes
        self.line = line
        self.children: list[Element] = []
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def refuse(self, why: str) -> Unsupported:
        return Unsupported(f"line {self.line}: <{self.tag}>: {why}")


def _split(name: str) -> tuple[str, str]:
    space, _, local = name.rpartition(" ")
    return space, local


def _parsed(text: str) -> Element:
    """The document as a tree. A document type declaration is refused: it is where entities come from, and with them
    files of this host and texts that grow without bound."""
    if len(text) > LONGEST or len(encoded := text.encode("utf-8", "surrogatepass")) > LONGEST:
        raise Unsupported(f"the document is longer than {LONGEST} bytes")
    parser = expat.ParserCreate("utf-8", " ")
    parser.buffer_text = True
    path: list[Element] = []
    found: list[Element] = []

    def doctype(*_: object) -> None:
        raise Unsupported(f"line {parser.CurrentLineNumber}: <!DOCTYPE>: document type declarations are not read")

    def opened(name: str, attributes: dict[str, str]) -> None:
        element = Element(*_split(name), {_split(k): v for k, v in attributes.items()}, parser.CurrentLineNumber)
        if len(path) >= DEEPEST:
            raise element.refuse(f"more than {DEEPEST} elements inside each other")
        (path[-1].children if path else found).append(element)
        path.append(element)

    def closed(_name: str) -> None:
        path.pop()

    def words(data: str) -> None:
        path[-1].pieces.append(data)

    parser.StartDoctypeDeclHandler = doctype
    parser.StartElementHandler = opened
    parser.EndElementHandler = closed
    parser.CharacterDataHandler = words
    try:
        parser.Parse(encoded, True)
    except expat.ExpatError as error:
        raise Unsupported(f"line {error.lineno}: no well-formed XML: {expat.ErrorString(error.code)}") from error
    return found[0]


def read(text: str, base: str | Path | None = ".", *, remark: Callable[[str], object] = lambda _: None) -> Definition:
    """The statechart of an SCXML document. Files it names are looked for below ``base``; None: none is read.

    An element that is not known is refused, an attribute that is not known is a ``remark``: the W3C's own conformance
    charts have misspelt ones, and mean them to be passed over.
    """
    return _Reader(None if base is None else Path(base), remark).document(_parsed(text))


def read_file(source: str, base: Path | None) -> str:
    """The text that ``src="file:..."`` names. Documents come from elsewhere, so nothing outside ``base`` is read."""
    if base is None:
        raise OSError(f"{source!r}: no files are read here")
    name = source.removeprefix("file:")
    path = (base / name.removeprefix("//")).resolve()
    if not path.is_relative_to(base.resolve()):
        raise OSError(f"{source!r} is not below {str(base)!r}")
    with path.open("rb") as file:
        data = file.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise OSError(f"{source!r} is longer than {LONGEST} bytes")
    return data.decode("utf-8-sig", "replace")


def literal(text: str) -> Any:
    """A value written as text: JSON, a Python literal, else the text itself with its white space made single."""
    text = text.strip()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return " ".join(text.split())
    return value if _is_json(value) else " ".join(text.split())


def _is_json(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(map(_is_json, value))
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_json(v) for k, v in value.items())
    return value is None or isinstance(value, bool | int | str)


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


class _Reader:
    def __init__(self, base: Path | None, remark: Callable[[str], object]) -> None:
        self.base = base
        self.remark = remark
        self.declared: set[str] = set()
        self.written: dict[str, None] = {}  # by scripts, in document order

    # What may stand where

    def attributes(self, element: Element, *known: str) -> dict[str, str]:
        """By name; ours with ``x:`` before it. Those of other namespaces are other programs' notes."""
        found: dict[str, str] = {}
        for (space, name), value in element.attributes.items():
            if space not in ("", OWN):
                continue
            key = f"x:{name}" if space else name
            if key in known:
                found[key] = value
            else:
                self.remark(f"line {element.line}: <{element.tag}>: the attribute {name!r} is not known")
        return found

    def required(self, element: Element, attributes: Mapping[str, str], name: str) -> str:
        if name not in attributes:
            raise element.refuse(f"the attribute {name!r} is missing")
        return attributes[name].strip()

    def one_of(self, element: Element, attributes: Mapping[str, str], *names: str) -> None:
        given = [n for n in names if n in attributes]
        if len(given) > 1:
            raise element.refuse(f"{' and '.join(map(repr, given))} exclude each other")

    def children(self, element: Element, known: Collection[str], own: Collection[str] = ()) -> Iterator[Element]:
        for child in element.children:
            if child.tag not in (own if child.space == OWN else known) or child.space not in ("", SCXML, OWN):
                raise child.refuse(f"not known inside <{element.tag}>")
            yield child

    # The document

    def document(self, element: Element) -> Definition:
        if element.tag != "scxml" or element.space not in ("", SCXML):
            raise element.refuse(f"the outermost element must be <scxml> of {SCXML}")
        known = ("name", "version", "datamodel", "binding", "initial")
        own = ("x:version", "x:scoping", "x:errors", "x:strict", "x:lenient", "x:summary", "x:chart-summary", "x:defer")
        at = self.attributes(element, *known, *own)
        if at.get("datamodel", "") not in DATA_MODELS:
            raise element.refuse(f"the data model {at['datamodel']!r} is not known; there is 'python'")
        binding: Literal["early", "late"] = "late" if at.get("binding", "early") == "late" else "early"
        if at.get("binding", "early") != binding:
            raise element.refuse(f"binding is 'early' or 'late', not {at['binding']!r}")
        scripts: list[Block] = []
        root = self.state(element, at, scripts)
        fresh = tuple(Variable(name) for name in self.written if name not in self.declared)
        if fresh:  # a script declares what it assigns to
            root = replace(root, variables=root.variables + fresh)
        return Definition(
            name=at.get("name", ""),
            root=root,
            version=at.get("x:version", "1"),
            binding=binding,
            scoping="local" if at.get("x:scoping") == "local" else "global",
            errors="rollback" if at.get("x:errors") == "rollback" else "event",
            strict=at.get("x:strict") == "true",
            lenient=tuple(at.get("x:lenient", "").split()),
            script=tuple(content for block in scripts for content in block),
            summary=at.get("x:chart-summary", ""),
        )

    def state(self, element: Element, at: Mapping[str, str], scripts: list[Block] | None = None) -> State:
        kind = self.kind(element, at)
        initial = tuple(at.get("initial", "").split())
        on_initial: Block = ()
        states: list[State] = []
        transitions: list[Transition] = []
        entry: list[Block] = []
        exit: list[Block] = []
        activities: list[Activity] = []
        variables: list[Variable] = []
        invariants: list[Guard] = []
        result: Result | None = None
        for child in self.children(element, _INSIDE[element.tag], _ANYWHERE):
            match child.tag:
                case "state" | "parallel" | "final" | "history":
                    states.append(self.state(child, self.state_attributes(child)))
                case "transition":
                    transitions.append(self.transition(child))
                case "onentry":
                    self.attributes(child)
                    entry.append(self.block(child))
                case "onexit":
                    self.attributes(child)
                    exit.append(self.block(child))
                case "invoke":
                    activities.append(self.invoke(child))
                case "datamodel":
                    self.attributes(child)
                    variables += [self.data(d) for d in self.children(child, {"data"})]
                case "invariant":
                    invariants.append(self.required(child, self.attributes(child, "cond"), "cond"))
                case "donedata":
                    result = self.donedata(child)
                case "script":
                    assert scripts is not None
                    scripts.append(self.script(child))
                case "initial":
                    if initial:
                        raise child.refuse("the attribute 'initial' says it already")
                    self.attributes(child)
                    ways = [self.transition(t) for t in self.children(child, {"transition"})]
                    if len(ways) != 1 or not ways[0].to or ways[0].event or ways[0].guard:
                        raise child.refuse("takes one transition with a target, without event or condition")
                    initial, on_initial = ways[0].to, ways[0].do
        return State(
            id=at.get("id", ""),
            kind=kind,
            states=tuple(states),
            initial=initial,
            on_initial=on_initial,
            transitions=tuple(transitions),
            entry=tuple(entry),
            exit=tuple(exit),
            activities=tuple(activities),
            variables=tuple(variables),
            invariants=tuple(invariants),
            defer=tuple(at.get("x:defer", "").split()),
            result=result,
            summary=at.get("x:summary", ""),
        )

    def state_attributes(self, element: Element) -> dict[str, str]:
        known = {"state": ("initial",), "history": ("type",)}.get(element.tag, ())
        return self.attributes(element, "id", "x:kind", "x:summary", "x:defer", *known)

    def kind(self, element: Element, at: Mapping[str, str]) -> Kind:
        if element.tag == "history":
            if at.get("type", "shallow") not in _HISTORIES:
                raise element.refuse(f"type is 'shallow' or 'deep', not {at['type']!r}")
            return _HISTORIES[at.get("type", "shallow")]
        if "x:kind" in at:
            try:
                return Kind(at["x:kind"])
            except ValueError:
                raise element.refuse(f"the kind {at['x:kind']!r} is not known") from None
        return Kind.STATE if element.tag == "scxml" else Kind(element.tag)

    def transition(self, element: Element) -> Transition:
        at = self.attributes(element, "event", "cond", "target", "type", "x:after", "x:when", "x:kind")
        to = tuple(at.get("target", "").split())
        if at.get("type", "external") not in ("internal", "external"):
            raise element.refuse(f"type is 'internal' or 'external', not {at['type']!r}")
        kind: TransitionKind = "external"
        if not to:
            kind = "internal"
        elif at.get("type") == "internal":
            kind = "local"
        after = at.get("x:after")
        return Transition(
            event=" ".join(at.get("event", "").split()),
            to=to,
            guard=at.get("cond", "").strip() or None,
            do=self.block(element),
            kind=kind,
            after=None if after is None else _number_or_text(after),
            when=at.get("x:when"),
        )

    def data(self, element: Element) -> Variable:
        at = self.attributes(element, "id", "src", "expr", "x:type")
        self.one_of(element, at, "src", "expr")
        name = self.required(element, at, "id")
        self.declared.add(name)
        kind = at.get("x:type", "any")
        if "expr" in at:
            return Variable(name, at["expr"].strip(), type=kind)
        if "src" in at:
            try:
                return Variable(name, value=literal(read_file(at["src"], self.base)), type=kind)
            except OSError:
                # The rules want the error when the variable gets its value, not now: so does what is no expression.
                return Variable(name, f"file not read: {at['src']}", type=kind)
        return Variable(name, value=self.value(element), type=kind)

    def value(self, element: Element) -> Any:
        """What stands between two tags: a document of its own (as text), a literal, or nothing."""
        if element.children:
            first = element.children[0]
            if len(element.children) > 1 or first.tag != "scxml" or first.space not in ("", SCXML):
                raise first.refuse(f"XML is no value here; inside <{element.tag}> there may be one <scxml>")
            return _text_of(first)
        return literal(element.text) if element.text.strip() else None

    def content(self, element: Element) -> tuple[Any, str | None]:
        at = self.attributes(element, "expr")
        if "expr" not in at:
            return self.value(element), None
        if element.children or element.text.strip():
            raise element.refuse("the attribute 'expr' and a content of its own exclude each other")
        return None, at["expr"].strip()

    def parameters(self, element: Element) -> Iterator[tuple[str, str]]:
        for child in element.children:
            if child.tag == "param":
                at = self.attributes(child, "name", "expr", "location")
                self.one_of(child, at, "expr", "location")
                if child.children:
                    raise child.children[0].refuse("not known inside <param>")
                source = at.get("expr", at.get("location"))
                if source is None:
                    raise child.refuse("one of the attributes 'expr' and 'location' is missing")
                yield self.required(child, at, "name"), source.strip()

    def donedata(self, element: Element) -> Result:
        self.attributes(element)
        parameters = tuple(self.parameters(element))
        value, expression = None, None
        for child in self.children(element, {"content", "param"}):
            if child.tag == "content":
                if parameters:
                    raise child.refuse("<content> and <param> exclude each other")
                value, expression = self.content(child)
        return Result(expression, parameters, value)

    def invoke(self, element: Element) -> Activity:
        pairs = (("type", "typeexpr"), ("src", "srcexpr"), ("id", "idlocation"))
        at = self.attributes(element, "namelist", "autoforward", *(n for pair in pairs for n in pair))
        for pair in pairs:
            self.one_of(element, at, *pair)
        names = at.get("namelist", "").split()
        parameters = (*((n, n) for n in names), *self.parameters(element))
        content, expression = None, None
        finalize: Block = ()
        for child in self.children(element, {"content", "param", "finalize"}):
            if child.tag == "content":
                content, expression = self.content(child)
            elif child.tag == "finalize":
                self.attributes(child)
                finalize = self.block(child) or self.taken_over(element, names)
        return Activity(
            type=at.get("type"),
            type_expression=at.get("typeexpr"),
            source=at.get("src"),
            source_expression=at.get("srcexpr"),
            id=at.get("id"),
            id_location=at.get("idlocation"),
            parameters=parameters,
            content=content,
            content_expression=expression,
            finalize=finalize,
            forward=at.get("autoforward") == "true",
        )

    def taken_over(self, element: Element, names: Iterable[str]) -> Block:
        """An empty <finalize>: what the event brings goes to the locations that the invocation was given."""
        pairs = [(n, n) for n in names]
        for child in element.children:
            where = child.attributes.get(("", "location"))
            if child.tag == "param" and where is not None:
                pairs.append((child.attributes[("", "name")], where.strip()))
        return tuple(
            If(((f"_event.data is not None and {name!r} in _event.data", (Assign(to, f"_event.data[{name!r}]"),)),))
            for name, to in pairs
        )

    # Executable content

    def block(self, element: Element) -> Block:
        done: list[Content] = []
        for child in element.children:
            done += self.contents(child, element)
        return tuple(done)

    def contents(self, element: Element, outer: Element) -> Block:
        if element.space not in ("", SCXML):
            raise element.refuse(f"not known inside <{outer.tag}>")
        match element.tag:
            case "raise":
                at = self.attributes(element, "event", "x:data")
                return (Raise(self.required(element, at, "event"), at.get("x:data")),)
            case "assign":
                at = self.attributes(element, "location", "expr")
                if "location" not in at:  # fails when it is reached, as any other place that does not exist
                    self.remark(f"line {element.line}: <assign>: the attribute 'location' is missing")
                to = at.get("location", "").strip()
                if "expr" in at:
                    return (Assign(to, at["expr"].strip()),)
                return (Assign(to, value=self.value(element)),)
            case "log":
                at = self.attributes(element, "label", "expr")
                return (Log(at.get("label", ""), at.get("expr")),)
            case "if":
                return (self.choice(element),)
            case "foreach":
                at = self.attributes(element, "array", "item", "index")
                item, array = self.required(element, at, "item"), self.required(element, at, "array")
                return (ForEach(array, item, at.get("index"), self.block(element)),)
            case "send":
                return (self.send(element),)
            case "cancel":
                at = self.attributes(element, "sendid", "sendidexpr")
                self.one_of(element, at, "sendid", "sendidexpr")
                if not at:
                    raise element.refuse("one of the attributes 'sendid' and 'sendidexpr' is missing")
                return (Cancel(at.get("sendid"), at.get("sendidexpr")),)
            case "script":
                return self.script(element)
        raise element.refuse(f"not known inside <{outer.tag}>")

    def choice(self, element: Element) -> If:
        branches: list[tuple[str | None, Block]] = []
        guard: str | None = self.required(element, self.attributes(element, "cond"), "cond")
        block: list[Content] = []
        for child in element.children:
            if child.tag in ("elseif", "else") and child.space in ("", SCXML):
                if guard is None:
                    raise child.refuse("after <else> there is no other way")
                branches.append((guard, tuple(block)))
                at = self.attributes(child, "cond")
                guard = self.required(child, at, "cond") if child.tag == "elseif" else None
                block = []
            else:
                block += self.contents(child, element)
        return If((*branches, (guard, tuple(block))))

    def send(self, element: Element) -> Send:
        pairs = (
            ("event", "eventexpr"),
            ("target", "targetexpr"),
            ("type", "typeexpr"),
            ("id", "idlocation"),
            ("delay", "delayexpr"),
        )
        at = self.attributes(element, "namelist", *(n for pair in pairs for n in pair))
        for pair in pairs:
            self.one_of(element, at, *pair)
        content, expression = None, None
        for child in self.children(element, {"content", "param"}):
            if child.tag == "content":
                content, expression = self.content(child)
        return Send(
            event=at.get("event"),
            event_expression=at.get("eventexpr"),
            target=at.get("target"),
            target_expression=at.get("targetexpr"),
            type=at.get("type"),
            type_expression=at.get("typeexpr"),
            id=at.get("id"),
            id_location=at.get("idlocation"),
            delay=at.get("delay"),
            delay_expression=at.get("delayexpr"),
            parameters=(*((n, n) for n in at.get("namelist", "").split()), *self.parameters(element)),
            content=content,
            content_expression=expression,
        )

    def script(self, element: Element) -> Block:
        """Assignments, one after another; nothing else is run."""
        at = self.attributes(element, "src")
        text = element.text
        if "src" in at:
            try:
                text = read_file(at["src"], self.base)
            except OSError as error:
                raise element.refuse(str(error)) from error
        try:
            statements = ast.parse(textwrap.dedent(text).strip()).body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise element.refuse(f"assignments were expected: {error}") from error
        done: list[Content] = []
        for statement in statements:
            match statement:
                case ast.Assign(targets=[ast.Name() | ast.Attribute() | ast.Subscript() as target], value=value):
                    expression = ast.unparse(value)
                case ast.AugAssign(target=target, op=op, value=value):
                    expression = ast.unparse(ast.BinOp(_as_value(target), op, value))
                case ast.Pass():
                    continue
                case _:
                    raise element.refuse(f"only assignments are done: {ast.unparse(statement)}")
            if isinstance(target, ast.Name):
                self.written[target.id] = None
            done.append(Assign(ast.unparse(target), expression))
        return tuple(done)


def _as_value(target: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(target), mode="eval").body


# Writing


def _escaped(text: str, *, attribute: bool = False) -> str:
    if bad := _NO_XML.search(text):
        raise Unsupported(f"the character {bad[0]!r} cannot stand in XML: {text!r}")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")
    return text.replace('"', "&quot;").replace("\n", "&#10;").replace("\t", "&#9;") if attribute else text


def _text_of(element: Element, step: str = "") -> str:
    """An element as a document of its own. Comments, the prefixes' names and the white space between elements are
    lost, nothing else. With a ``step`` each element has a line of its own, indented by so much."""
    prefixes = {SCXML: "", "": ""}
    between = "\n" if step else ""

    def name(space: str, tag: str) -> str:
        if space not in prefixes:
            prefixes[space] = "x:" if space == OWN else f"n{len(prefixes)}:"
        return prefixes[space] + tag

    def draw(e: Element, before: str) -> str:
        given = "".join(f' {name(*k)}="{_escaped(v, attribute=True)}"' for k, v in e.attributes.items())
        text = _escaped(e.text) if not e.children or e.text.strip() else ""
        lines = [draw(child, before + step) for child in e.children]
        tag = name(e.space, e.tag)
        if lines:
            return f"{before}<{tag}{given}>{text}{between}{between.join(lines)}{between}{before}</{tag}>"
        return f"{before}<{tag}{given}>{text}</{tag}>" if text else f"{before}<{tag}{given}/>"

    drawn = draw(element, "")
    head = f"<{name(element.space, element.tag)}"
    spaces = "".join(f' xmlns:{p[:-1]}="{_escaped(s, attribute=True)}"' for s, p in prefixes.items() if p)
    return f'{head} xmlns="{SCXML}"{spaces}{drawn[len(head) :]}'


def _made(tag: str, attributes: Mapping[str, str | None], *children: Element, text: str = "") -> Element:
    """A tag or an attribute with ``x:`` before it is of our namespace; attributes that are None are left out."""

    def named(word: str) -> tuple[str, str]:
        return (OWN, word[2:]) if word.startswith("x:") else ("", word)

    element = Element(*named(tag), {named(k): v for k, v in attributes.items() if v is not None}, 0)
    element.children += children
    element.pieces.append(text)
    return element


def write(definition: Definition) -> str:
    """The statechart as an SCXML document. What is a function of Python's own (a guard, ``Call``) cannot be written."""
    d, root = definition, definition.root
    at = {
        "version": "1.0",
        "datamodel": "python",
        "name": d.name or None,
        "binding": "late" if d.binding == "late" else None,
        "initial": None if root.on_initial else " ".join(root.initial) or None,
        "x:version": d.version if d.version != "1" else None,
        "x:scoping": "local" if d.scoping == "local" else None,
        "x:errors": "rollback" if d.errors == "rollback" else None,
        "x:strict": "true" if d.strict else None,
        "x:lenient": " ".join(d.lenient) or None,
        "x:summary": root.summary or None,
        "x:chart-summary": d.summary or None,
        "x:defer": " ".join(root.defer) or None,
    }
    parts = list(_parts(root, "scxml"))
    if d.script:
        parts.insert(0, _made("script", {}, text="\n".join(map(_statement, d.script))))
    return _text_of(_made("scxml", at, *parts), "  ") + "\n"


def _statement(content: Content) -> str:
    if not isinstance(content, Assign):
        raise Unsupported(f"the script of a statechart can be written if it only assigns: {content!r}")
    return f"{content.to} = {repr(content.value) if content.expression is None else f'({content.expression})'}"


def _state(state: State) -> Element:
    tag, kind = str(state.kind), None
    if state.kind in _HISTORIES.values():
        tag = "history"
    elif state.kind is Kind.TERMINATE:
        tag, kind = "final", "terminate"
    elif tag not in _STATES:
        tag, kind = "state", tag
    at = {
        "id": state.id or None,
        "type": {k: name for name, k in _HISTORIES.items()}.get(state.kind),
        "initial": None if state.on_initial else " ".join(state.initial) or None,
        "x:kind": kind,
        "x:defer": " ".join(state.defer) or None,
        "x:summary": state.summary or None,
    }
    return _made(tag, at, *_parts(state, tag))


def _parts(state: State, inside: str) -> Iterator[Element]:
    for part in _plain_parts(state):
        if part.tag not in _INSIDE[inside]:
            part.space = OWN
        yield part


def _plain_parts(state: State) -> Iterator[Element]:
    if state.variables:
        yield _made("datamodel", {}, *map(_variable, state.variables))
    for invariant in state.invariants:
        yield _made("x:invariant", {"cond": _guard(invariant)})
    if state.on_initial:
        targets = state.initial or tuple(s.id for s in state.states[:1])
        if not all(targets):
            raise Unsupported(f"state {state.id!r}: its first state needs an id, because something is done on the way")
        yield _made("initial", {}, _transition(Transition(to=targets, do=state.on_initial)))
    for tag, blocks in (("onentry", state.entry), ("onexit", state.exit)):
        for block in blocks:
            yield _made(tag, {}, *_block(block))
    yield from map(_transition, state.transitions)
    yield from map(_activity, state.activities)
    yield from map(_state, state.states)
    if (result := state.result) is not None:
        yield _made("donedata", {}, *_payload(result.parameters, result.value, result.expression))


def _variable(variable: Variable) -> Element:
    at = {"id": variable.name, "expr": variable.expression, "x:type": variable.type if variable.type != "any" else None}
    if variable.expression is not None or variable.value is None:
        return _made("data", at)
    return _with_value("data", at, variable.value)


def _guard(guard: Guard) -> str | None:
    if guard is None or isinstance(guard, str):
        return guard
    raise Unsupported(f"a guard that is a function of Python cannot be written: {guard!r}")


def _transition(transition: Transition) -> Element:
    t = transition
    at = {
        "event": t.event or None,
        "cond": _guard(t.guard),
        "target": " ".join(t.to) or None,
        "type": "internal" if t.kind == "local" and t.to else None,
        "x:after": None if t.after is None else str(t.after),
        "x:when": t.when,
    }
    return _made("transition", at, *_block(t.do))


def _activity(activity: Activity) -> Element:
    a = activity
    if not (a.source is None or isinstance(a.source, str)):
        raise Unsupported(f"an activity's source must be a text to be written: {a.source!r}")
    at = {
        "type": a.type,
        "typeexpr": a.type_expression,
        "src": a.source,
        "srcexpr": a.source_expression,
        "id": a.id,
        "idlocation": a.id_location,
        "autoforward": "true" if a.forward else None,
    }
    finalize = [_made("finalize", {}, *_block(a.finalize))] if a.finalize else []
    return _made("invoke", at, *_payload(a.parameters, a.content, a.content_expression), *finalize)


def _payload(parameters: Iterable[tuple[str, str]], value: Any, expression: str | None) -> Iterator[Element]:
    for name, source in parameters:
        yield _made("param", {"name": name, "expr": source})
    if expression is not None:
        yield _made("content", {"expr": expression})
    elif value is not None:
        yield _with_value("content", {}, value)


def _with_value(tag: str, attributes: Mapping[str, str | None], value: Any) -> Element:
    """The element with that between its tags for which ``_Reader.value`` gives the value back."""
    if isinstance(value, str) and value.startswith("<"):
        try:
            inner = _parsed(value)
        except Unsupported:
            pass  # a text like any other
        else:
            if inner.tag == "scxml" and inner.space in ("", SCXML):
                return _made(tag, attributes, inner)
    if not _is_json(value):
        raise Unsupported(f"only JSON values can be written: {value!r}")
    plain = isinstance(value, str) and value and not _NO_XML.search(value) and literal(value) == value
    return _made(tag, attributes, text=value if plain else json.dumps(value))


def _block(block: Block) -> Iterator[Element]:
    return map(_content, block)


def _content(content: Content) -> Element:
    match content:
        case Raise(event, data):
            return _made("raise", {"event": event, "x:data": data})
        case Assign(to, None, value):
            return _with_value("assign", {"location": to}, value)
        case Assign(to, expression):
            return _made("assign", {"location": to, "expr": expression})
        case Log(label, expression):
            return _made("log", {"label": label or None, "expr": expression})
        case If(branches):
            return _branches(branches)
        case ForEach(array, item, index, do):
            return _made("foreach", {"array": array, "item": item, "index": index}, *_block(do))
        case Send() as send:
            return _send(send)
        case Cancel(id, expression):
            return _made("cancel", {"sendid": id, "sendidexpr": expression})
    raise Unsupported(f"a function of Python's own cannot be written: {content!r}")


def _send(send: Send) -> Element:
    delay = send.delay if send.delay is None or isinstance(send.delay, str) else f"{Decimal(repr(send.delay)):f}s"
    at = {
        "event": send.event,
        "eventexpr": send.event_expression,
        "target": send.target,
        "targetexpr": send.target_expression,
        "type": send.type,
        "typeexpr": send.type_expression,
        "id": send.id,
        "idlocation": send.id_location,
        "delay": delay,
        "delayexpr": send.delay_expression,
    }
    return _made("send", at, *_payload(send.parameters, send.content, send.content_expression))


def _branches(branches: tuple[tuple[str | None, Block], ...]) -> Element:
    guards = [guard for guard, _ in branches]
    if not branches or None in guards[:-1] or guards[0] is None:
        raise Unsupported("an <if> has a condition first, and what is done else last")
    drawn = _made("if", {"cond": guards[0]}, *_block(branches[0][1]))
    for guard, block in branches[1:]:
        drawn.children += [_made("else" if guard is None else "elseif", {"cond": guard}), *_block(block)]
    return drawn
