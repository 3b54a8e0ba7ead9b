"""Reads runbooks as operators write them: strict YAML in, checked values out, every mistake at once with its line."""

import ast
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cached_property
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

import yaml

from x0tta6bl4.kernel.errors import ConfigError, Problem
from x0tta6bl4.kernel.facts import Incident
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.units import as_seconds
from x0tta6bl4.statechart.core.event import catches, descriptors
from x0tta6bl4.statechart.types.base import EvaluationError, ExpressionError, compile_expression, names_in

if TYPE_CHECKING:
    from x0tta6bl4.statechart.core.machine import Chart
    from x0tta6bl4.statechart.core.state import Definition
    from x0tta6bl4.statechart.persistence.validator import Problem as Finding

Path = tuple[str | int, ...]

LARGEST = 1 << 18
"""Bytes of one file. The largest runbook anybody can still read is a tenth of it."""
DEEPEST = 40
MOST_PROBLEMS = 50
LONGEST_WAIT = 366 * 86400.0
"""Seconds; a timer beyond it is a mistyped unit."""
MOST_TRIES = 3
MOST_STATES = 500
"""States of one runbook: whatever is beyond it was made by a program, and takes minutes to be walked through."""

SEEN = "seen"
"""The latest value of each of the subject's metrics. Fresh where a condition is waited for, and only there."""
GIVEN = ("incident", "subject", "last", SEEN)
"""Variables that every runbook has: what is wrong, what it is wrong with, how the latest action ended, what is seen."""
LENIENT = ("incident", "subject", SEEN)
"""What is not known of these is null: an operator asks for ``subject.cleanup`` where there may be none."""
PEOPLE = ("operator", "incident")
"""Families of events that people and the daemon send to every runbook, sooner or later."""
TELLS = "notify"
"""The family of actions that tell a human, and so prove nothing."""

BOOK_KEYS = (
    "runbook", "version", "summary", "severity", "trigger", "concurrency", "data", "initial", "deadline", "on",
    "states",
)  # fmt: skip
STATE_KEYS = (
    "summary", "do", "if", "expect", "on_resume", "ladder", "rollback", "done", "failed", "unknown", "on", "after",
    "always", "when", "enter", "exit", "states", "initial", "parallel", "history", "default", "final", "result",
    "safety",
)  # fmt: skip
WORK = ("do", "ladder", "rollback")
ANSWERS = ("done", "failed", "unknown")
MOVES = ("on", "after", "always", "when")
ALLOWED: Mapping[str, Collection[str]] = {
    "do": {"summary", "do", "if", "expect", "on_resume", *ANSWERS, *MOVES, "enter", "exit"},
    "rung": {"summary", "do", "if", "expect", "on_resume", "safety", *ANSWERS, *MOVES, "enter", "exit"},
    "ladder": {"summary", "ladder", "done", "failed", *MOVES, "enter", "exit"},
    "rollback": {"summary", "rollback", *ANSWERS, *MOVES, "enter", "exit"},
    "plain": {"summary", *MOVES, "enter", "exit"},
    "composite": {"summary", "states", "initial", *MOVES, "enter", "exit"},
    "parallel": {"summary", "states", "parallel", *MOVES, "enter", "exit"},
    "history": {"summary", "history", "default"},
    "final": {"summary", "final", "result", "enter"},
}
"""What may be said of each kind of state. Whatever else stands there would be ignored, so it is a mistake."""
_STATE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,79}")
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_]{0,78}[A-Za-z0-9])?")
_BOOK_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_ACTION = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_WORD = r"[A-Za-z$][A-Za-z0-9_$-]*(\.[A-Za-z0-9_$-]+)*(\.\*)?"
_EVENT = re.compile(rf"\*|{_WORD}( {_WORD})*")
_ASKED_STATE = re.compile(r"""\bIn\(\s*(?:"([^"]*)"|'([^']*)')\s*\)""")
_ASKS_TIME = re.compile(r"\bnow\s*\(")
_UNREAD = "incident"
"""Stands for an expression with a mistake: what it would have said is not known, so a guard may say either."""
_WAYS = frozenset({"never-entered", "waits", "no-end"})
"""What the walk through a runbook finds that may be a mere consequence of a way on that could not be read."""
_WALKED = _WAYS | {"endless", "shadowed"}
"""All that it finds."""


# -- what a runbook is, once it is read --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Undo:
    action: str
    args: Mapping[str, Any] = field(default_factory=dict)
    """Plain values; what the action itself returned is added when it is taken back."""


@dataclass(frozen=True, slots=True)
class Do:
    """One action of a state."""

    action: str
    """``executor.verb``; ``service.VERB`` is whatever controls the subject, ``dependency.VERB`` the same for each
    subject that it depends on."""
    args: Mapping[str, Any]
    timeout: float | None = None
    """Seconds; None: what the action itself may take."""
    tries: int = 1
    backoff: float = 0.0
    undo: Undo | None = None
    on_unknown: Literal["retry", "probe", "ask"] = "probe"

    @property
    def family(self) -> str:
        return self.action.partition(".")[0]

    @property
    def verb(self) -> str:
        return self.action.partition(".")[2]


@dataclass(frozen=True, slots=True)
class Expected:
    """How the incident's own probe proves the action: a yes ``within`` (0: the subject's start_timeout), for ``hold``
    seconds on end."""

    within: float = 0.0
    hold: float = 3.0


@dataclass(frozen=True, slots=True)
class Act:
    """Something done on the way: ``set`` a variable, ``raise`` or ``emit`` an event, ``log`` a value."""

    kind: Literal["set", "raise", "emit", "log"]
    name: str = ""
    value: Any = None
    """An expression when it is text, except of ``raise``; of ``emit`` a mapping of them."""


@dataclass(frozen=True, slots=True)
class Branch:
    to: str = ""
    guard: str = ""
    acts: tuple[Act, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """One way on that waits for something: an event, a time, nothing, or a condition."""

    kind: Literal["on", "after", "always", "when"]
    key: str
    """The event, the condition, or the time: seconds as text, or ``=EXPRESSION``."""
    branch: Branch
    hold: Literal["restart", "pause"] = "restart"
    """Of a time: whether it begins anew when a history leads back to its state, or goes on with what was left."""


@dataclass(frozen=True, slots=True)
class Node:
    """One state of a runbook."""

    name: str
    kind: str
    """A key of ``ALLOWED``."""
    summary: str = ""
    do: tuple[Do, ...] = ()
    guard: str = ""
    """The precondition of what it does."""
    expect: Expected | None = None
    on_resume: Literal["adopt", "restart"] = "adopt"
    safety: bool = False
    done: tuple[Branch, ...] = ()
    failed: tuple[Branch, ...] = ()
    unknown: tuple[Branch, ...] = ()
    moves: tuple[Move, ...] = ()
    enter: tuple[Act, ...] = ()
    exit: tuple[Act, ...] = ()
    nodes: tuple["Node", ...] = ()
    """Its states, or the rungs of its ladder."""
    initial: str = ""
    depth: Literal["", "shallow", "deep"] = ""
    default: str = ""
    result: Any = None


@dataclass(frozen=True)
class Trigger:
    anomalies: tuple[str, ...]
    """Faults, as analyzers name them; shell patterns are allowed."""
    guard: str = ""
    """Over ``subject`` and ``incident``."""
    subjects: tuple[str, ...] = ("*",)
    key: str = ""
    """An expression; one open instance for each value of it. Empty: one for each incident."""

    def fits(self, given: Mapping[str, Any]) -> bool:
        """Whether the runbook is for an incident, told as ``given`` tells it. What cannot be asked is not so."""
        if not any(fnmatchcase(str(given["incident"].get("fault")), wanted) for wanted in self.anomalies):
            return False
        if not any(fnmatchcase(str(given["subject"].get("name")), wanted) for wanted in self.subjects):
            return False
        return self._guard is None or bool(asked(self._guard, given, default=False))

    def key_of(self, given: Mapping[str, Any]) -> str:
        """Empty where the incident itself is the key."""
        return "" if self._key is None else str(asked(self._key, given, default=""))

    @cached_property
    def _key(self) -> Callable[..., Any] | None:
        return expression(self.key) if self.key else None

    @cached_property
    def _guard(self) -> Callable[..., Any] | None:
        return expression(self.guard) if self.guard else None


@dataclass(frozen=True)
class Concurrency:
    """How many instances may act at once; None: as many as the guard allows."""

    per_runbook: int | None = None
    per_key: int = 1
    per_target: int | None = None
    target: str = "subject.name"
    """The expression that says what ``per_target`` counts."""

    def target_of(self, given: Mapping[str, Any]) -> str:
        """What it says of an incident; the subject where it says nothing."""
        return str(asked(self._target, given, default=given["subject"]["name"]))

    @cached_property
    def _target(self) -> Callable[..., Any]:
        return expression(self.target)


@dataclass(frozen=True)
class Runbook:
    name: str
    version: int
    summary: str
    trigger: Trigger
    nodes: tuple[Node, ...]
    initial: str
    severity: str = ""
    concurrency: Concurrency = Concurrency()
    data: Mapping[str, Any] = field(default_factory=dict)
    deadline: tuple[Move, ...] = ()
    moves: tuple[Move, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    """As it was written, in plain values: what is kept beside an incident that runs on it."""
    place: str = ""
    """The file, for messages."""

    @cached_property
    def hash(self) -> str:
        """Names this very text, whatever its layout and comments. The order of states counts, it is told apart."""
        return content_hash(self.source)

    @cached_property
    def definition(self) -> "Definition":
        from x0tta6bl4.runbooks.compile import definition

        return definition(self)

    @cached_property
    def pausing(self) -> frozenset[str]:
        """The time events, by their names in the chart, that go on with what was left of them."""
        if not any(move.hold == "pause" for node in self.walk() for move in node.moves):
            return frozenset()
        from x0tta6bl4.runbooks.compile import pausing

        return pausing(self)

    @cached_property
    def chart(self) -> "Chart":
        from x0tta6bl4.statechart.core.machine import Chart

        return Chart(self.definition)

    def walk(self) -> Iterator[Node]:
        """Every state and rung, in the order of the document."""
        return walk(self.nodes)


def walk(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from walk(node.nodes)


def content_hash(source: Mapping[str, Any]) -> str:
    text = json.dumps(source, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def given(incident: Incident, subject: Subject) -> dict[str, Any]:
    """The variables ``incident`` and ``subject`` as a runbook sees them: JSON values only."""
    return {
        "incident": {
            **_plain(incident.data),
            "id": incident.id,
            "fault": incident.fault,
            "severity": incident.severity.value,
            "summary": as_told(incident.summary),
            "reopened": incident.reopened,
            "passes": incident.passes,
            "tries": incident.tries,
        },
        "subject": {
            **_plain(subject.data),
            "name": subject.name,
            "kind": subject.kind,
            "group": subject.group,
            "depends_on": list(subject.depends_on),
            "can": dict.fromkeys(subject.controller, True),
        },
    }


def as_told(value: Any) -> Any:
    """As a chart takes it: JSON, and texts that are text, whatever bytes they were read from."""
    return json.loads(json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"))


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is no JSON, such as the program that a supervised process is started by."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        try:
            found[key] = as_told(value)
        except (TypeError, ValueError, RecursionError):
            continue
    return found


def expression(text: str) -> Callable[..., Any]:
    """Compiled, with what is not known of the incident and the subject being null."""
    return compile_expression(text, lenient=LENIENT)


def asked(compiled: Callable[..., Any], data: Mapping[str, Any], *, default: Any) -> Any:
    """Its value over plain data, outside of any machine; the default where it has none."""
    try:
        return compiled(dict(data), None, None)
    except EvaluationError:
        return default


# -- reading -----------------------------------------------------------------------------------------------------------


def read(text: str, place: str, *, prove: bool = True) -> list[Runbook]:
    """The runbooks of one file (``---`` between them). ConfigError with every mistake in it and its line.

    ``prove`` also explores each of them as a state machine; only what was proved already may go without.
    """
    books, problems = drafts(text, place, prove=prove)
    if problems:
        raise ConfigError(problems, remedy="`x0tta6bl4 runbook validate FILE` checks a runbook alone")
    return books


def drafts(text: str, place: str, *, prove: bool = True) -> tuple[list[Runbook], list[Problem]]:
    """The runbooks of one file as far as they can be made out, and every mistake in it. Without one, they are sound;
    with any, they are there to be checked further and not to be run."""
    found, problems = pages(text, place)
    books: list[Runbook] = []
    for page in found:
        if page.value is None:
            continue
        book, wrong = draft(page.value, place, page.lines, prove=prove)
        problems += wrong
        if book is not None:
            books.append(book)
    names = [book.name for book in books]
    problems += [
        Problem(name, "is there twice in this file", place)
        for name in dict.fromkeys(n for n in names if names.count(n) > 1)
    ]
    return books, problems[:MOST_PROBLEMS]


def draft(
    value: Any, place: str = "", lines: Mapping[Path, int] | None = None, *, prove: bool = True
) -> tuple[Runbook | None, list[Problem]]:
    """One runbook from plain values as far as it can be made out, and every mistake in it. Where a mistake leaves open
    which ways there are, what might only follow from it is not told."""
    parser = _Parser(value, place, lines or {})
    book = parser.book()
    problems = list(parser.problems)
    if book is not None and prove and not (problems and parser.is_shapeless):
        problems += _walked(book, parser.lines, parser.hidden if problems else None)
    return book, problems


def parse(
    value: Any, place: str = "", lines: Mapping[Path, int] | None = None
) -> tuple[Runbook | None, Sequence[Problem]]:
    """One runbook from plain values; None when it has mistakes. Without lines, as when it stands in the settings."""
    book, problems = draft(value, place, lines, prove=False)
    return (None, problems) if problems else (book, ())


def _walked(book: Runbook, lines: Mapping[Path, int], hidden: Collection[str] | None) -> Iterator[Problem]:
    """What only shows when all ways through it are walked: waits for ever, ends out of reach, ways never taken.

    ``hidden``: rules that cannot be asked of a draft; None: it is none. What the definition says of a draft before any
    walk has been said already, with its line, or comes of that.
    """
    from x0tta6bl4.runbooks.compile import authored
    from x0tta6bl4.statechart.core.tables import DefinitionError
    from x0tta6bl4.statechart.persistence.validator import check

    try:
        report = check(authored(book.definition), must_end=True, people=(*PEOPLE, *_faults_heard(book)))
    except DefinitionError as error:
        if hidden is None:
            yield from (Problem(book.name, message, book.place, _line_of(message, lines)) for message in error.problems)
        return
    for problem in report.problems:
        if _counts(problem) and (hidden is None or (problem.rule in _WALKED and problem.rule not in hidden)):
            yield Problem(book.name, str(problem), book.place, _line_of(str(problem), lines))


def _faults_heard(book: Runbook) -> list[str]:
    """The events among those listened to that are the runbook's own faults: the daemon tells it when they are found
    again. A trigger for every fault names none."""
    words = [word for node in book.walk() for move in node.moves if move.kind == "on" for word in descriptors(move.key)]
    words += [word for move in book.moves for word in descriptors(move.key)]
    faults = [fault for fault in book.trigger.anomalies if fault.strip("*")]
    return [
        word
        for word in dict.fromkeys(words)
        if word != "*" and any(fnmatchcase(word, fault) or catches((word,), fault) for fault in faults)
    ]


def _counts(problem: "Finding") -> bool:
    """A state that nothing leads to is only odd in a chart; in a runbook a step was forgotten."""
    return problem.level == "error" or problem.rule == "never-entered"


def _line_of(where: str, lines: Mapping[Path, int]) -> int:
    """Of the state that a sentence is about; a ladder's choice is a part of the ladder."""
    state = re.search(r"(?:state|\bin) '([^']+?)(?:\.next)?'", where)
    named = state[1] if state else ""
    return next(
        (line for path, line in lines.items() if path[-1] == named and len(path) > 1), lines.get(("states",), 0)
    )


def _endless(value: Any, path: Path = ()) -> Iterator[Path]:
    """Where numbers stand that are infinite, or none: no expression can say them, and no journal keeps them."""
    if isinstance(value, float) and not isfinite(value):
        yield path
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _endless(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _endless(inner, (*path, number))


@dataclass
class Page:
    """One YAML document: its plain value, and the line on which each part of it stands."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)


@dataclass
class _Open:
    """A mapping or a list that is being read."""

    value: Any
    path: Path
    key: str | None = None
    """Of a mapping: the key whose value comes next."""


def pages(text: str, place: str) -> tuple[list[Page], list[Problem]]:
    """The documents of a text and what is wrong with it as YAML. Depth is bounded before anything recurses."""
    if len(text) > LARGEST:
        return [], [Problem("the whole file", f"is larger than {LARGEST >> 10} KiB", place)]
    reader = _Reader(place)
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if not reader.take(event):
                break
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        words = getattr(error, "problem", None) or "it holds what no text file may hold"
        reader.problems.append(Problem("the whole file", f"is no YAML: {words}", place, mark.line + 1 if mark else 0))
    return reader.pages, reader.problems


class _Reader:
    """Takes YAML's 1.2 words only: ``on`` is a word. No anchors, aliases, tags or keys that stand twice."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.pages: list[Page] = []
        self.problems: list[Problem] = []
        self._open: list[_Open] = []

    def take(self, event: Any) -> bool:
        """Whether it makes sense to go on."""
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self.pages.append(Page())
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
        elif isinstance(event, yaml.AliasEvent):
            return self._wrong(f"an alias (*{event.anchor}) is not read; write out what it stands for", line, stop=True)
        elif isinstance(event, yaml.NodeEvent):
            if event.anchor is not None:
                self._wrong(f"an anchor (&{event.anchor}) is not read; write things out where they are needed", line)
            if (tag := getattr(event, "tag", None)) is not None:
                self._wrong(f"a tag ({tag}) is not read; put a text that begins with '!' in quotes", line)
            return self._node(event, line)
        return True

    def _node(self, event: Any, line: int) -> bool:
        top = self._open[-1] if self._open else None
        if top is not None and isinstance(top.value, dict) and top.key is None:
            return self._key(top, event, line)
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event.value) if event.style in (None, "") else event.value
        else:
            value = {} if isinstance(event, yaml.MappingStartEvent) else []
        path = self._put(top, value, line)
        if not isinstance(event, yaml.ScalarEvent):
            if len(self._open) >= DEEPEST:
                return self._wrong(f"is nested deeper than {DEEPEST} levels", line, stop=True)
            self._open.append(_Open(value, path))
        return True

    def _key(self, top: _Open, event: Any, line: int) -> bool:
        if not isinstance(event, yaml.ScalarEvent):
            return self._wrong("a key is one word or text, no list or mapping", line, stop=True)
        key = top.key = event.value
        if key in top.value:
            first = self.pages[-1].lines.get((*top.path, key), 0)
            return self._wrong(f"{key!r} is there twice, first in line {first}", line, stop=True)
        if key == "<<":
            self._wrong("merge keys (<<) are not read; write the values out", line)
        self.pages[-1].lines[(*top.path, key)] = line
        return True

    def _put(self, top: _Open | None, value: Any, line: int) -> Path:
        page = self.pages[-1]
        path: Path = ()
        if top is None:
            page.value = value
        elif isinstance(top.value, list):
            path = (*top.path, len(top.value))
            top.value.append(value)
            page.lines[path] = line
        else:
            assert top.key is not None, "a value comes behind its key"
            path = (*top.path, top.key)
            top.value[top.key] = value
            top.key = None
        return path

    def _wrong(self, message: str, line: int, *, stop: bool = False) -> bool:
        where = ".".join(map(str, self._open[-1].path)) if self._open else ""
        self.problems.append(Problem(where or "the whole file", message, self.place, line))
        return not stop and len(self.problems) < MOST_PROBLEMS


_WORDS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]{1,2})?")


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if len(text) <= 40 and _FLOAT.fullmatch(text) else text


# -- checking ----------------------------------------------------------------------------------------------------------


class _Parser:
    """Goes through one runbook once, from the top, and notes every mistake with its place."""

    def __init__(self, value: Any, place: str, lines: Mapping[Path, int]) -> None:
        self.value = value
        self.place = place
        self.lines = dict(lines)
        self.problems: list[Problem] = []
        self.hidden: set[str] = set()
        """Rules of the walk through it that a mistake has made unanswerable."""
        self.is_shapeless = False
        """It cannot even be told apart which states there are."""
        self.misnamed: set[str] = set()
        """Variables whose names cannot be: said once, where they are made."""
        name = value.get("runbook") if isinstance(value, Mapping) else None
        self.name = name if isinstance(name, str) and name else "?"
        self.states: dict[str, Path] = {}
        self.finals: set[str] = set()
        self.tops: set[str] = set()
        self.names: set[str] = {*GIVEN} - {SEEN}

    def bad(self, path: Path, message: str, hint: str = "") -> None:
        if len(self.problems) < MOST_PROBLEMS:
            where = ".".join([self.name, *map(str, path)])
            self.problems.append(Problem(where, message, self.place, self._line(path), hint))

    def _line(self, path: Path) -> int:
        """Of that value, or of the nearest one around it: a single branch is read as a list of one."""
        for length in range(len(path), 0, -1):
            if (line := self.lines.get(path[:length])) is not None:
                return line
        return min(self.lines.values(), default=0)

    def lost(self, path: Path, message: str, hint: str = "") -> None:
        """A mistake that leaves open which ways on there are."""
        self.hidden |= _WAYS
        self.bad(path, message, hint)

    # kinds of values

    def mapping(
        self, value: Any, path: Path, keys: Collection[str] | None, what: str, *, leads: bool = False
    ) -> dict[str, Any]:
        """``leads``: ways on are in it. A key that is misspelt is read as what is meant."""
        bad = self.lost if leads else self.bad
        if not isinstance(value, Mapping):
            bad(path, f"should be {what} (got {shown(value)})")
            return {}
        found: dict[str, Any] = {}
        meant = _meant(value, keys)
        for key, inner in value.items():
            if not isinstance(key, str):
                bad((*path, str(key)), "a key should be text")
            elif keys is None or key in keys:
                found[key] = inner
            elif key in meant:
                self.bad((*path, key), "no such key", near(key, keys))
                self.lines[(*path, meant[key])] = self._line((*path, key))
                found[meant[key]] = inner
            else:
                bad((*path, key), "no such key", near(key, keys))
        return found

    def text(self, value: Any, path: Path, what: str = "text") -> str:
        if not isinstance(value, str) or not value.strip():
            self.bad(path, f"should be {what} (got {shown(value)})")
            return ""
        return value

    def seconds(self, value: Any, path: Path, *, least: float = 0.0) -> float:
        try:
            seconds = as_seconds(value)
        except ValueError as error:
            self.bad(path, f"{error} (got {shown(value)})")
            return max(least, 1.0)
        if not least <= seconds <= LONGEST_WAIT:
            self.bad(path, f"should be between {least:g} s and a year (got {shown(value)})")
            return max(least, 1.0)
        return seconds

    def count(self, value: Any, path: Path, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            self.bad(path, f"should be a whole number from 1 to {most} (got {shown(value)})")
            return 1
        return value

    def boolean(self, value: Any, path: Path) -> bool:
        if not isinstance(value, bool):
            self.bad(path, f"should be true or false (got {shown(value)})")
        return value is True

    def choice(self, value: Any, path: Path, choices: Sequence[str]) -> Any:
        if value not in choices:
            self.bad(path, f"should be one of {', '.join(choices)} (got {shown(value)})", near(str(value), choices))
            return choices[0]
        return value

    def expression(
        self,
        value: Any,
        path: Path,
        *,
        names: Collection[str] | None = None,
        answer: bool = False,
        before: bool = False,
    ) -> str:
        """Text that can be evaluated over the runbook's variables; ``answer``: also over what an action answered;
        ``before``: it is asked before the runbook has begun."""
        if isinstance(value, bool):
            return str(value)
        text = self.text(value, path, "an expression")
        if not text:
            return _UNREAD
        known = set(self.names if names is None else names)
        try:
            used = names_in(text)
        except ExpressionError as error:
            self.bad(path, str(error))
            return _UNREAD
        if not answer and mentions(text, "result"):
            self.bad(
                path, f"{text!r}: there is no result here; it is what an action answered, in done, failed, unknown"
            )
            return _UNREAD
        if before and (_ASKS_TIME.search(text) or mentions(text, "In")):
            self.bad(
                path, f"{text!r}: before the runbook has begun there is neither a state nor an event that now() is of"
            )
            return _UNREAD
        lost = [state for state in map("".join, _ASKED_STATE.findall(text)) if not self.is_state(state)]
        for state in lost:
            self.bad(path, f"{text!r}: there is no state {state!r}", near(state, self.states))
        if SEEN in used - known:
            self.bad(path, f"{text!r}: {SEEN} is kept for `when`", "wait for the condition with a `when` instead")
            return _UNREAD
        unknown = sorted(used - known)
        for name in unknown:
            self.bad(path, f"{text!r}: unknown name {name!r}", near(name, known))
        if unknown or lost or used & self.misnamed:
            return _UNREAD
        try:
            compile_expression(text, lenient=LENIENT, names=known)
        except ExpressionError as error:
            self.bad(path, str(error))
            return _UNREAD
        return text.strip()

    def is_state(self, name: str) -> bool:
        """A ladder's choice is one too, and those for the runbook's own failures."""
        return name.removesuffix(".next") in self.states or name.startswith("$")

    def value_of(self, value: Any, path: Path, *, answer: bool = False) -> Any:
        """Where texts are expressions and all else is itself."""
        return self.expression(value, path, answer=answer) if isinstance(value, str) else value

    # the parts of a runbook

    def book(self) -> Runbook | None:
        what = "a mapping with the keys runbook, summary, trigger and states"
        raw = self.mapping(self.value, (), BOOK_KEYS, what, leads=True)
        if not raw:
            return None
        for key in ("runbook", "summary", "trigger", "states"):
            if key not in raw:
                self.bad((key,), "is missing")
        for path in _endless(raw):
            self.lost(path, "should be a number that ends; YAML's .inf and .nan are none")
        name = self.text(raw.get("runbook", "?"), ("runbook",), "a name")
        if name and name != "?" and not _BOOK_NAME.fullmatch(name):
            self.bad(("runbook",), f"a name has lower case, digits and . _ - (got {name!r})")
        data = self.mapping(raw.get("data", {}), ("data",), None, "a mapping of names")
        for key in data:
            if not _NAME.fullmatch(key) or key in (*GIVEN, "result", "true", "false", "null", "In"):
                self.bad(("data", key), "cannot be a variable's name: letters, digits and _ inside, none given")
                self.misnamed |= {key} - {*GIVEN}
            self.names.add(key)
        data = {key: value for key, value in data.items() if key not in (*GIVEN, *self.misnamed)}
        states = self.mapping(raw.get("states", {}), ("states",), None, "a mapping of states", leads=True)
        self.collect(states, ("states",))
        if len(self.states) > MOST_STATES:
            self.bad(("states",), f"has {len(self.states)} states; at most {MOST_STATES} are read")
            return None
        self.tops = set(states)
        if "states" in raw and not states:
            self.bad(("states",), "has no state")
        initial = raw.get("initial", next(iter(states), ""))
        if states and (not isinstance(initial, str) or initial not in states):
            self.lost(("initial",), f"there is no state {shown(initial)} at the top", near(str(initial), states))
            initial = next(iter(states))
        book = Runbook(
            name=name,
            version=self.count(raw.get("version", 1), ("version",), 1_000_000),
            summary=self.text(raw.get("summary", "?"), ("summary",), "a sentence"),
            severity=self.choice(raw["severity"], ("severity",), ("info", "warning", "major", "critical"))
            if "severity" in raw
            else "",
            trigger=self.trigger(raw.get("trigger", {"anomaly": "*"})),
            concurrency=self.concurrency(raw.get("concurrency", {})),
            data={key: self.initial_value(value, ("data", key)) for key, value in data.items()},
            nodes=tuple(self.node(key, state, ("states", key)) for key, state in states.items()),
            initial=str(initial),
            deadline=self.timers(raw["deadline"], ("deadline",), is_deadline=True) if "deadline" in raw else (),
            moves=self.moves(raw, (), ("on",)),
            source=_copied(self.value),
            place=self.place,
        )
        for move in book.deadline:
            if not move.branch.to:
                self.lost(("deadline",), "leads nowhere: write deadline: {15m: STATE}")
        if states and not self.finals & self.tops:
            self.hidden.add("no-end")
            self.bad(("states",), "has no end: one state at the top needs final: true")
        self.paused(book.nodes, is_deep=False)
        return replace(book, nodes=_mended(book.nodes)) if self.problems else book

    def paused(self, nodes: Sequence[Node], *, is_deep: bool) -> None:
        """What waits where no history leads back to would never go on."""
        depths = {node.depth for node in nodes}
        is_deep = is_deep or "deep" in depths
        for node in nodes:
            if not (is_deep or "shallow" in depths) and any(move.hold == "pause" for move in node.moves):
                self.bad(
                    (*self.states[node.name], "after"),
                    "hold: pause has no meaning: no history leads back to this state",
                )
            self.paused(node.nodes, is_deep=is_deep)

    def initial_value(self, value: Any, path: Path) -> Any:
        return self.expression(value, path, names=("incident", "subject")) if isinstance(value, str) else value

    def collect(self, states: Mapping[str, Any], path: Path) -> None:
        """All names first, so that every mention can be checked on the way."""
        for name, raw in states.items():
            here = (*path, name)
            if not _STATE_NAME.fullmatch(str(name)):
                self.is_shapeless = True
                self.bad(here, "a state's name has letters, digits, _ and -, and begins with a letter")
            elif name in self.states:
                self.is_shapeless = True
                self.bad(here, f"there is a state {name!r} already, in line {self._line(self.states[name])}")
            self.states[name] = here
            if not isinstance(raw, Mapping):
                continue
            meant = _meant(raw, STATE_KEYS)
            raw = {meant.get(key, key): inner for key, inner in raw.items()}
            if raw.get("final") is True:
                self.finals.add(name)
            for key in ("states", "ladder"):
                if isinstance(raw.get(key), Mapping):
                    self.collect(raw[key], (*here, key))

    def trigger(self, value: Any) -> Trigger:
        path: Path = ("trigger",)
        raw = self.mapping(value, path, ("anomaly", "if", "subjects", "key"), "a mapping with anomaly")
        anomalies = raw.get("anomaly", "*")
        if "anomaly" not in raw:
            self.bad((*path, "anomaly"), "is missing: which fault is it for?")
        subjects = raw.get("subjects", "*")
        both = ("incident", "subject")
        return Trigger(
            anomalies=self.patterns(anomalies, (*path, "anomaly")),
            guard=self.expression(raw["if"], (*path, "if"), names=both, before=True) if "if" in raw else "",
            subjects=self.patterns(subjects, (*path, "subjects")),
            key=self.expression(raw["key"], (*path, "key"), names=both, before=True) if "key" in raw else "",
        )

    def patterns(self, value: Any, path: Path) -> tuple[str, ...]:
        entries = value if isinstance(value, list) else [value]
        if not entries:
            self.bad(path, "names nothing")
        return tuple(self.text(entry, (*path, n), "a name or pattern") for n, entry in enumerate(entries))

    def concurrency(self, value: Any) -> Concurrency:
        path: Path = ("concurrency",)
        raw = self.mapping(value, path, ("per_runbook", "per_target", "per_key"), "a mapping")
        target, most = "subject.name", None
        if "per_target" in raw:
            inner = raw["per_target"] if isinstance(raw["per_target"], Mapping) else {"max": raw["per_target"]}
            inner = self.mapping(inner, (*path, "per_target"), ("key", "max"), "a number, or key and max")
            most = self.count(inner.get("max", 1), (*path, "per_target", "max"), 10_000)
            if "key" in inner:
                both = ("incident", "subject")
                target = self.expression(inner["key"], (*path, "per_target", "key"), names=both, before=True)
        return Concurrency(
            per_runbook=self.count(raw["per_runbook"], (*path, "per_runbook"), 10_000)
            if "per_runbook" in raw
            else None,
            per_key=self.count(raw.get("per_key", 1), (*path, "per_key"), 1),
            per_target=most,
            target=target,
        )

    def node(self, name: str, value: Any, path: Path, *, is_rung: bool = False) -> Node:
        what = "a mapping that describes a state"
        raw = self.mapping(value if value is not None else {}, path, STATE_KEYS, what, leads=True)
        kind = "rung" if is_rung else self.kind(raw, path)
        for key in raw:
            if key not in ALLOWED[kind]:
                told = (
                    "a rung of a ladder" if kind == "rung" else f"a state with {kind}" if kind in raw else "this state"
                )
                self.lost(
                    (*path, key), f"has no meaning for {told}", f"there it may say {', '.join(sorted(ALLOWED[kind]))}"
                )
        nodes: tuple[Node, ...] = ()
        if kind in ("composite", "parallel"):
            inner = self.mapping(raw["states"], (*path, "states"), None, "a mapping of states", leads=True)
            nodes = tuple(self.node(key, state, (*path, "states", key)) for key, state in inner.items())
            if len(nodes) < (2 if kind == "parallel" else 1):
                self.lost(
                    (*path, "states"), "needs at least two states (regions)" if kind == "parallel" else "is empty"
                )
            if kind == "parallel" and any(node.kind == "final" for node in nodes):
                self.is_shapeless = True
                self.bad((*path, "states"), "a region has states of its own, one of which may be final")
            if "initial" in raw and raw["initial"] not in list(inner):
                self.lost(
                    (*path, "initial"),
                    f"there is no state {shown(raw['initial'])} in it",
                    near(str(raw["initial"]), inner),
                )
                del raw["initial"]
        if kind == "ladder":
            inner = self.mapping(raw["ladder"], (*path, "ladder"), None, "a mapping of rungs", leads=True)
            nodes = tuple(self.node(key, rung, (*path, "ladder", key), is_rung=True) for key, rung in inner.items())
            if not nodes:
                self.lost((*path, "ladder"), "has no rung")
            if "-" in name:
                self.is_shapeless = True
                self.bad(path, "a ladder's name has letters, digits and _ only: what is left of it is kept under it")
        do = self.actions(raw["do"], (*path, "do")) if kind in ("do", "rung") and "do" in raw else ()
        if kind == "rung" and "do" not in raw:
            self.lost((*path, "do"), "is missing: what is done on this rung?")
        guard = self.expression(raw["if"], (*path, "if")) if "if" in raw else ""
        answers = {
            key: self.branches(raw[key], (*path, key), answer=True, is_stale=_is_stale(kind, key, nodes))
            for key in ANSWERS
            if key in raw
        }
        self.answered(kind, raw, answers, path, do)
        node = Node(
            name=name,
            kind=kind,
            summary=self.text(raw["summary"], (*path, "summary"), "a sentence") if "summary" in raw else "",
            do=do,
            guard=guard,
            on_resume=self.choice(raw.get("on_resume", "adopt"), (*path, "on_resume"), ("adopt", "restart")),
            safety=self.boolean(raw.get("safety", False), (*path, "safety")),
            done=answers.get("done", ()),
            failed=answers.get("failed", ()),
            unknown=answers.get("unknown", ()),
            moves=self.moves(raw, path, MOVES),
            enter=self.acts(raw.get("enter", []), (*path, "enter")),
            exit=self.acts(raw.get("exit", []), (*path, "exit")),
            nodes=nodes,
            initial=str(raw.get("initial", "")),
            result=self.value_of(raw.get("result"), (*path, "result")),
            expect=self.expected(raw.get("expect"), (*path, "expect")),
            depth=self.choice(raw["history"], (*path, "history"), ("shallow", "deep")) if kind == "history" else "",
            default=self.default(raw.get("default"), path) if kind == "history" else "",
        )
        return self.proof(node, raw)

    def default(self, value: Any, path: Path) -> str:
        target = self.target(value, (*path, "default"))
        around = path[:-1]
        if target and self.states[target][: len(around)] != around:
            self.lost((*path, "default"), f"{target!r} is not inside the state that the history is of")
            return ""
        return target

    def kind(self, raw: Mapping[str, Any], path: Path) -> str:
        work = [key for key in WORK if raw.get(key) not in (None, False)]
        if len(work) > 1:
            self.lost(path, f"says {' and '.join(work)}; a state does one of them")
        for key in ("final", "parallel", "rollback"):
            if key in raw and not isinstance(raw[key], bool):
                self.lost((*path, key), f"should be true or false (got {shown(raw[key])})")
        if raw.get("final") is True:
            return "final"
        if "history" in raw:
            return "history"
        if work:
            return work[0]
        if "states" in raw:
            return "parallel" if raw.get("parallel") is True else "composite"
        if "parallel" in raw:
            self.lost((*path, "parallel"), "a parallel state needs states, its regions")
        if "do" in raw or "ladder" in raw:
            return "do" if "do" in raw else "ladder"
        return "plain"

    def answered(
        self, kind: str, raw: Mapping[str, Any], answers: Mapping[str, Sequence[Branch]], path: Path, do: Sequence[Do]
    ) -> None:
        """Whatever an action answers, there is a way on."""
        if kind in ("do", "ladder", "rollback"):
            for key in ("done", "failed"):
                if key not in raw:
                    self.lost((*path, key), "is missing: where does it go then?")
        for key, branches in answers.items():
            for number, branch in enumerate(branches):
                if not branch.to and not self.is_lost(raw[key], number):
                    self.lost((*path, key), "a branch here needs `to`, or the state would wait for ever")
                if not branch.guard and number < len(branches) - 1:
                    self.hidden |= {"shadowed", "never-entered"}
                    self.bad(
                        (*path, key), f"the branch to {branch.to!r} has no condition, so none behind it is ever taken"
                    )
            if branches and branches[-1].guard:
                self.bad((*path, key), "the last branch has a condition; nothing is left if it is false")
        if "if" in raw and kind == "do" and any(_speaks_of_result(branch) for branch in answers.get("failed", ())):
            self.bad(
                (*path, "failed"), "speaks of the result, but where `if` is false nothing was done and there is none"
            )
        if any(step.on_unknown == "ask" for step in do) and "unknown" not in raw:
            self.bad(
                (*path, "unknown"),
                "is missing: an action with on_unknown: ask is never repeated by itself",
                "say where to go when nobody knows whether it was done",
            )

    def proof(self, node: Node, raw: Mapping[str, Any]) -> Node:
        """Where nothing is said of it: what ends the runbook must be proved; what leads on to more need not be."""
        if node.kind == "ladder":
            ends = self._ends(node.done)
            rungs = tuple(
                rung
                if "expect" in (raw["ladder"].get(rung.name) or {})
                or rung.done
                or rung.safety  # it makes the next one safe; it heals nothing
                or not _provable(rung.do)
                else replace(rung, expect=Expected() if ends else None)
                for rung in node.nodes
            )
            return replace(node, nodes=rungs)
        if node.do and "expect" not in raw and node.done and _provable(node.do) and self._ends(node.done):
            return replace(node, expect=Expected())
        return node

    def _ends(self, branches: Sequence[Branch]) -> bool:
        return all(branch.to in self.finals and branch.to in self.tops for branch in branches)

    def actions(self, value: Any, path: Path) -> tuple[Do, ...]:
        entries = value if isinstance(value, list) else [value]
        if not entries:
            self.bad(path, "does nothing")
            return (Do("", {}),)
        return tuple(
            self.action(entry, (*path, number) if isinstance(value, list) else path)
            for number, entry in enumerate(entries)
        )

    def action(self, value: Any, path: Path) -> Do:
        keys = ("action", "args", "timeout", "retry", "undo", "on_unknown")
        raw = self.mapping({"action": value} if isinstance(value, str) else value, path, keys, "an action, or a list")
        if "action" not in raw and isinstance(value, Mapping):
            self.bad((*path, "action"), "is missing: what is to be done?")
        retry = raw.get("retry", {})
        retry = self.mapping(
            {"max": retry} if isinstance(retry, int) else retry, (*path, "retry"), ("max", "backoff"), "max and backoff"
        )
        args = self.mapping(raw.get("args", {}), (*path, "args"), None, "a mapping of arguments")
        return Do(
            action=self.named(raw["action"], (*path, "action")) if "action" in raw else "",
            args={key: self.argument(inner, (*path, "args", key)) for key, inner in args.items()},
            timeout=self.seconds(raw["timeout"], (*path, "timeout"), least=0.001) if "timeout" in raw else None,
            tries=self.count(retry.get("max", 1), (*path, "retry", "max"), MOST_TRIES),
            backoff=self.seconds(retry.get("backoff", 0.0), (*path, "retry", "backoff")),
            undo=self.undo(raw["undo"], (*path, "undo")) if raw.get("undo") else None,
            on_unknown=self.choice(raw.get("on_unknown", "probe"), (*path, "on_unknown"), ("probe", "retry", "ask")),
        )

    def named(self, value: Any, path: Path) -> str:
        """Empty where it is no name, which was told then."""
        name = self.text(value, path, "executor.verb")
        if name and not _ACTION.fullmatch(name):
            self.bad(path, f"should be executor.verb, such as service.restart (got {shown(name)})")
            return ""
        return name

    def argument(self, value: Any, path: Path) -> Any:
        """Checked here, evaluated when the action begins; see ``computed`` for which texts are."""
        if not isinstance(value, str):
            return value
        if value.startswith("="):
            return f"={self.expression(value[1:], path)}"
        if computed(value, self.names) is None and (root := _root_of(value)) is not None:
            close = get_close_matches(root, self.names, n=1, cutoff=0.8)
            if close:
                self.bad(
                    path,
                    f"{value!r} looks like an expression over {close[0]!r}, but {root!r} is unknown",
                    f"if it is meant as text, write \"='{value}'\"",
                )
                return f"={_UNREAD}"
        return value

    def undo(self, value: Any, path: Path) -> Undo:
        raw = self.mapping(
            {"action": value} if isinstance(value, str) else value, path, ("action", "args"), "an action"
        )
        args = self.mapping(raw.get("args", {}), (*path, "args"), None, "a mapping of arguments")
        for key, inner in args.items():
            if isinstance(inner, str) and inner.startswith("="):
                self.bad(
                    (*path, "args", key), "what takes an action back gets plain values and what the action returned"
                )
        if "action" not in raw:
            self.bad((*path, "action"), "is missing")
        return Undo(self.named(raw["action"], (*path, "action")) if "action" in raw else "", args)

    def expected(self, value: Any, path: Path) -> Expected | None:
        if value is None:
            return None
        raw = self.mapping(value, path, ("within", "hold"), "within and hold, or nothing where nothing is to be proved")
        return Expected(
            within=self.seconds(raw.get("within", 0.0), (*path, "within")),
            hold=self.seconds(raw.get("hold", 3.0), (*path, "hold")),
        )

    def branches(
        self, value: Any, path: Path, *, answer: bool = False, is_stale: bool = False, also: Sequence[str] = ()
    ) -> tuple[Branch, ...]:
        entries = value if isinstance(value, list) else [value]
        if not entries:
            self.lost(path, "leads nowhere")
        return tuple(
            self.branch(entry, (*path, number) if isinstance(value, list) else path, answer, is_stale, also)
            for number, entry in enumerate(entries)
        )

    def branch(self, value: Any, path: Path, answer: bool, is_stale: bool, also: Sequence[str]) -> Branch:
        if isinstance(value, str):
            return Branch(self.target(value, path))
        keys = ("to", "if", "do", *also)
        raw = self.mapping(value, path, keys, f"a state, or a mapping with {', '.join(keys)}", leads=True)
        if isinstance(value, Mapping) and "to" not in raw and "do" not in raw:
            self.lost(path, "leads nowhere and does nothing")
        guard = self.expression(raw["if"], (*path, "if"), answer=answer) if "if" in raw else ""
        if is_stale and mentions(guard, "last"):
            self.bad(
                (*path, "if"),
                f"{guard!r}: `last` is still how the action before this one ended",
                "write `result`, which is what this one answered",
            )
            guard = _UNREAD
        return Branch(
            to=self.target(raw["to"], (*path, "to")) if "to" in raw else "",
            guard=guard,
            acts=self.acts(raw.get("do", []), (*path, "do"), answer=answer),
        )

    def target(self, value: Any, path: Path) -> str:
        """The state that is meant, where one is nearly called so; empty where none is."""
        if isinstance(value, str) and value in self.states:
            return value
        meant = get_close_matches(str(value)[:80], sorted(self.states), n=1)
        (self.bad if meant else self.lost)(path, f"there is no state {shown(value)}", near(str(value), self.states))
        return meant[0] if meant else ""

    def moves(self, raw: Mapping[str, Any], path: Path, kinds: Sequence[str]) -> tuple[Move, ...]:
        found: list[Move] = []
        for key, value in raw.items():
            here = (*path, key)
            if key not in kinds:
                continue
            if key == "after":
                found += self.timers(value, here)
            elif key == "always":
                for number, branch in enumerate(self.branches(value, here)):
                    if not branch.to and not self.is_lost(value, number):
                        self.lost(here, "needs `to`: without one it would be done again and again")
                    found.append(Move("always", "", branch))
            elif key == "on":
                for event, inner in self.mapping(value, here, None, "a mapping of events", leads=True).items():
                    if not _EVENT.fullmatch(event):
                        self.lost((*here, event), "is no name of an event: words with dots between them, or *")
                        event = PEOPLE[0]
                    found += [Move("on", event, branch) for branch in self.branches(inner, (*here, event))]
            elif key == "when":
                for condition, inner in self.mapping(value, here, None, "a mapping of conditions", leads=True).items():
                    asked_ = self.expression(condition, (*here, condition), names={*self.names, SEEN})
                    found += [Move("when", asked_, branch) for branch in self.branches(inner, (*here, condition))]
        return tuple(found)

    def is_lost(self, value: Any, number: int) -> bool:
        """Whether a branch without a target had one that does not exist, or could not be read: that was told."""
        entry = value[number] if isinstance(value, list) else value
        return not isinstance(entry, Mapping) or "to" in entry or "do" not in entry

    def timers(self, value: Any, path: Path, *, is_deadline: bool = False) -> tuple[Move, ...]:
        found: list[Move] = []
        for time, inner in self.mapping(value, path, None, "a mapping such as {5m: STATE}", leads=True).items():
            here = (*path, time)
            key = f"={self.expression(time[1:], here)}" if time.startswith("=") else repr(self.seconds(time, here))
            hold: Literal["restart", "pause"] = "restart" if is_deadline else self.hold(inner, here)
            also = () if is_deadline else ("hold",)
            found += [Move("after", key, branch, hold) for branch in self.branches(inner, here, also=also)]
        return tuple(found)

    def hold(self, value: Any, path: Path) -> Any:
        """Of a timer, which is one however many ways on it has."""
        entries = value if isinstance(value, list) else [value]
        said = [entry["hold"] for entry in entries if isinstance(entry, Mapping) and "hold" in entry]
        if any(each != said[0] for each in said):
            self.bad(path, "is one timer: it pauses while its state is held, or begins anew")
        return self.choice(said[0], (*path, "hold"), ("restart", "pause")) if said else "restart"

    def acts(self, value: Any, path: Path, *, answer: bool = False) -> tuple[Act, ...]:
        found: list[Act] = []
        for number, entry in enumerate(value if isinstance(value, list) else [value]):
            here = (*path, number) if isinstance(value, list) else path
            kinds = ("set", "raise", "emit", "log")
            what = "a mapping with set, raise, emit or log"
            for kind, inner in self.mapping(entry, here, kinds, what, leads=True).items():
                found += self.act(kind, inner, (*here, kind), answer=answer)
        return tuple(found)

    def act(self, kind: str, value: Any, path: Path, *, answer: bool) -> Iterator[Act]:
        if kind == "set":
            for name, inner in self.mapping(value, path, None, "a mapping of variables").items():
                if name not in self.names - {*GIVEN}:
                    self.bad((*path, name), "is no variable of this runbook", near(name, self.names - {*GIVEN}))
                given_ = self.value_of(inner, (*path, name), answer=answer)
                if name in self.names - {*GIVEN} - self.misnamed:
                    yield Act("set", name, given_)
        elif kind == "log":
            yield Act("log", value=self.value_of(value, path, answer=answer))
        elif kind == "raise":
            if event := self.event(value, path):
                yield Act("raise", event)
        else:
            raw = self.mapping(
                {"event": value} if isinstance(value, str) else value, path, ("event", "with"), "an event"
            )
            told = self.mapping(raw.get("with", {}), (*path, "with"), None, "a mapping")
            values = {key: self.value_of(inner, (*path, "with", key), answer=answer) for key, inner in told.items()}
            if event := self.event(raw.get("event"), (*path, "event")):
                yield Act("emit", event, values)

    def event(self, value: Any, path: Path) -> str:
        name = self.text(value, path, "an event's name")
        if name and (not _EVENT.fullmatch(name) or "*" in name or " " in name):
            self.lost(path, f"should be one event's name, words with dots between them (got {shown(name)})")
            return ""
        if not name:
            self.hidden |= _WAYS
        return name


def _meant(raw: Mapping[Any, Any], keys: Collection[str] | None) -> dict[str, str]:
    """Keys that there are not -> those that are meant, as far as that can be made out."""
    found: dict[str, str] = {}
    if keys is None:
        return found
    for key in raw:
        if isinstance(key, str) and key not in keys:
            free = [each for each in keys if each not in raw and each not in found.values()]
            for each in get_close_matches(key[:80], free, n=1, cutoff=0.8):
                found[key] = each
    return found


def _is_stale(kind: str, key: str, rungs: Sequence[Node]) -> bool:
    """Whether `last` is of the action before when the ways on from an action are asked. A rollback has no answer of an
    action, and neither has a ladder on which nothing is left: there it is of what was done last."""
    if kind == "ladder":
        return key == "done" or any(rung.safety for rung in rungs)
    return kind in ("do", "rung")


def _mended(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Without the parts of which no chart can be made. They were told of."""
    inside = next((node.name for node in nodes if node.kind != "history"), "")
    found = []
    for node in nodes:
        if node.kind == "history" and not node.default:
            if not inside:
                continue
            node = replace(node, default=inside)
        if node.kind in ("composite", "parallel", "ladder") and not node.nodes:
            node = replace(node, kind="plain")
        done, failed, unknown = (
            tuple(branch for branch in branches if branch.to) for branches in (node.done, node.failed, node.unknown)
        )
        moves = tuple(move for move in node.moves if move.branch.to or move.kind != "always")
        inner = _mended(node.nodes)
        found.append(replace(node, done=done, failed=failed, unknown=unknown, moves=moves, nodes=inner))
    return tuple(found)


def _provable(do: Sequence[Do]) -> bool:
    return bool(do) and do[-1].family != TELLS


def _speaks_of_result(branch: Branch) -> bool:
    texts = [branch.guard, *(act.value for act in branch.acts if isinstance(act.value, str))]
    texts += [
        v for act in branch.acts if isinstance(act.value, Mapping) for v in act.value.values() if isinstance(v, str)
    ]
    return any(mentions(text, "result") for text in texts)


def mentions(text: str, name: str) -> bool:
    """Whether an expression speaks of it; no expression speaks of nothing."""
    try:
        tree = ast.parse(f"[{text.strip()}\n]", mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))


def computed(text: str, names: Collection[str]) -> str | None:
    """The expression that an argument's text is, or None when it is only text.

    ``=…`` always is one. Else it is when it can be read as one and speaks of at least one variable and of nothing else:
    ``incident.node`` is evaluated, ``1s``, ``HUP`` and ``restart now`` are what they are.
    """
    if text.startswith("="):
        return text[1:].strip()
    try:
        used = names_in(text)
    except ExpressionError:
        return None
    return text.strip() if used and used <= set(names) else None


def _root_of(text: str) -> str | None:
    """The first name of ``a.b`` or ``a.b > 1``; None for words, which nobody means as expressions."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            return node.value.id
    return None


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list | tuple) else value


def near(word: str, names: Iterable[str]) -> str:
    """A hint at the name that is meant, or at all of them when they are few."""
    valid = sorted(names)
    found = get_close_matches(word[:80], valid, n=1)
    if found:
        return f"did you mean {found[0]!r}?"
    return f"there are: {', '.join(valid)}" if 0 < len(valid) <= 24 else ""


def shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
