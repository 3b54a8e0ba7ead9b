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
from typing import TYPE_CHECKING, Any, Literal

import yaml

from x0tta6bl4.kernel.errors import ConfigError, Problem
from x0tta6bl4.kernel.facts import Incident
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.units import as_seconds
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
    timeout: float = 30.0
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
        return "" if not self.key else str(asked(expression(self.key), given, default=""))

    @cached_property
    def _guard(self) -> Callable[..., Any] | None:
        return expression(self.guard) if self.guard else None


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many instances may act at once; None: as many as the guard allows."""

    per_runbook: int | None = None
    per_key: int = 1
    per_target: int | None = None
    target: str = "subject.name"
    """The expression that says what ``per_target`` counts."""


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
    found, problems = pages(text, place)
    books: list[Runbook] = []
    for page in found:
        if page.value is None:
            continue
        book, wrong = parse(page.value, place, page.lines)
        problems += wrong
        if book is not None:
            problems += proved(book, page.lines) if prove else ()
            books.append(book)
    names = [book.name for book in books]
    problems += [
        Problem(name, "is there twice in this file", place)
        for name in dict.fromkeys(n for n in names if names.count(n) > 1)
    ]
    if problems:
        raise ConfigError(problems[:MOST_PROBLEMS], remedy="`x0tta6bl4 runbook validate FILE` checks a runbook alone")
    return books


def parse(
    value: Any, place: str = "", lines: Mapping[Path, int] | None = None
) -> tuple[Runbook | None, Sequence[Problem]]:
    """One runbook from plain values; None when it has mistakes. Without lines, as when it stands in the settings."""
    parser = _Parser(value, place, lines or {})
    book = parser.book()
    return (None, parser.problems) if parser.problems else (book, ())


def proved(book: Runbook, lines: Mapping[Path, int] | None = None) -> list[Problem]:
    """What only shows when all ways through it are walked: waits for ever, ends out of reach, ways never taken."""
    from x0tta6bl4.runbooks.compile import authored
    from x0tta6bl4.statechart.core.tables import DefinitionError
    from x0tta6bl4.statechart.persistence.validator import check

    try:
        report = check(authored(book.definition), must_end=True)
    except DefinitionError as error:
        found = [("", problem) for problem in error.problems]
    else:
        found = [(problem.where, str(problem)) for problem in report.problems if _counts(problem)]
    return [Problem(book.name, message, book.place, _line_of(where, lines or {})) for where, message in found]


def _counts(problem: "Finding") -> bool:
    """A state that nothing leads to is only odd in a chart; in a runbook a step was forgotten."""
    return problem.level == "error" or problem.rule == "never-entered"


def _line_of(where: str, lines: Mapping[Path, int]) -> int:
    """Of the state that a sentence is about; a ladder's choice is a part of the ladder."""
    state = re.search(r"state '([^']+?)(?:\.next)?'", where)
    named = state[1] if state else ""
    return next(
        (line for path, line in lines.items() if path[-1] == named and len(path) > 1), lines.get(("states",), 0)
    )


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
        self.lines = lines
        self.problems: list[Problem] = []
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

    # kinds of values

    def mapping(self, value: Any, path: Path, keys: Collection[str] | None, what: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            self.bad(path, f"should be {what} (got {shown(value)})")
            return {}
        found: dict[str, Any] = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                self.bad((*path, str(key)), "a key should be text")
            elif keys is not None and key not in keys:
                self.bad((*path, key), "no such key", near(key, keys))
            else:
                found[key] = inner
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

    def expression(self, value: Any, path: Path, *, names: Collection[str] | None = None, answer: bool = False) -> str:
        """Text that can be evaluated over the runbook's variables; ``answer``: also over what an action answered."""
        if isinstance(value, bool):
            return str(value)
        text = self.text(value, path, "an expression")
        if not text:
            return "True"
        known = set(self.names if names is None else names)
        try:
            used = names_in(text)
        except ExpressionError as error:
            self.bad(path, str(error))
            return "True"
        if not answer and mentions(text, "result"):
            self.bad(
                path, f"{text!r}: there is no result here; it is what an action answered, in done, failed, unknown"
            )
            return "True"
        if SEEN in used - known:
            self.bad(path, f"{text!r}: {SEEN} is kept for `when`", "wait for the condition with a `when` instead")
            used.discard(SEEN)
        unknown = sorted(used - known)
        for name in unknown:
            self.bad(path, f"{text!r}: unknown name {name!r}", near(name, known))
        if not unknown:
            try:
                compile_expression(text, lenient=LENIENT, names=known)
            except ExpressionError as error:
                self.bad(path, str(error))
        return text.strip()

    def value_of(self, value: Any, path: Path, *, answer: bool = False) -> Any:
        """Where texts are expressions and all else is itself."""
        return self.expression(value, path, answer=answer) if isinstance(value, str) else value

    # the parts of a runbook

    def book(self) -> Runbook | None:
        raw = self.mapping(self.value, (), BOOK_KEYS, "a mapping with the keys runbook, summary, trigger and states")
        if not raw:
            return None
        for key in ("runbook", "summary", "trigger", "states"):
            if key not in raw:
                self.bad((key,), "is missing")
        name = self.text(raw.get("runbook", "?"), ("runbook",), "a name")
        if name and name != "?" and not _BOOK_NAME.fullmatch(name):
            self.bad(("runbook",), f"a name has lower case, digits and . _ - (got {name!r})")
        data = self.mapping(raw.get("data", {}), ("data",), None, "a mapping of names")
        for key in data:
            if not _NAME.fullmatch(key) or key in (*GIVEN, "result", "true", "false", "null", "In"):
                self.bad(("data", key), "cannot be a variable's name: letters, digits and _ inside, none given")
            self.names.add(key)
        states = self.mapping(raw.get("states", {}), ("states",), None, "a mapping of states")
        self.collect(states, ("states",))
        if len(self.states) > MOST_STATES:
            self.bad(("states",), f"has {len(self.states)} states; at most {MOST_STATES} are read")
            return None
        self.tops = set(states)
        if "states" in raw and not states:
            self.bad(("states",), "has no state")
        initial = raw.get("initial", next(iter(states), ""))
        if states and (not isinstance(initial, str) or initial not in states):
            self.bad(("initial",), f"there is no state {shown(initial)} at the top", near(str(initial), states))
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
            deadline=self.timers(raw["deadline"], ("deadline",)) if "deadline" in raw else (),
            moves=self.moves(raw, (), ("on",)),
            source=_copied(self.value),
            place=self.place,
        )
        for move in book.deadline:
            if not move.branch.to:
                self.bad(("deadline",), "leads nowhere: write deadline: {15m: STATE}")
        if states and not self.finals & self.tops:
            self.bad(("states",), "has no end: one state at the top needs final: true")
        return book

    def initial_value(self, value: Any, path: Path) -> Any:
        return self.expression(value, path, names=("incident", "subject")) if isinstance(value, str) else value

    def collect(self, states: Mapping[str, Any], path: Path) -> None:
        """All names first, so that every mention can be checked on the way."""
        for name, raw in states.items():
            here = (*path, name)
            if not _STATE_NAME.fullmatch(str(name)):
                self.bad(here, "a state's name has letters, digits, _ and -, and begins with a letter")
            elif name in self.states:
                self.bad(here, f"there is a state {name!r} already, in line {self._line(self.states[name])}")
            self.states[name] = here
            if not isinstance(raw, Mapping):
                continue
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
            guard=self.expression(raw["if"], (*path, "if"), names=both) if "if" in raw else "",
            subjects=self.patterns(subjects, (*path, "subjects")),
            key=self.expression(raw["key"], (*path, "key"), names=both) if "key" in raw else "",
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
                target = self.expression(inner["key"], (*path, "per_target", "key"), names=("incident", "subject"))
        return Concurrency(
            per_runbook=self.count(raw["per_runbook"], (*path, "per_runbook"), 10_000)
            if "per_runbook" in raw
            else None,
            per_key=self.count(raw.get("per_key", 1), (*path, "per_key"), 1),
            per_target=most,
            target=target,
        )

    def node(self, name: str, value: Any, path: Path, *, is_rung: bool = False) -> Node:
        raw = self.mapping(value if value is not None else {}, path, STATE_KEYS, "a mapping that describes a state")
        kind = "rung" if is_rung else self.kind(raw, path)
        for key in raw:
            if key not in ALLOWED[kind]:
                told = (
                    "a rung of a ladder" if kind == "rung" else f"a state with {kind}" if kind in raw else "this state"
                )
                self.bad(
                    (*path, key), f"has no meaning for {told}", f"there it may say {', '.join(sorted(ALLOWED[kind]))}"
                )
        nodes: tuple[Node, ...] = ()
        if kind in ("composite", "parallel"):
            inner = self.mapping(raw["states"], (*path, "states"), None, "a mapping of states")
            nodes = tuple(self.node(key, state, (*path, "states", key)) for key, state in inner.items())
            if len(nodes) < (2 if kind == "parallel" else 1):
                self.bad((*path, "states"), "needs at least two states (regions)" if kind == "parallel" else "is empty")
            if "initial" in raw and raw["initial"] not in list(inner):
                self.bad(
                    (*path, "initial"),
                    f"there is no state {shown(raw['initial'])} in it",
                    near(str(raw["initial"]), inner),
                )
        if kind == "ladder":
            inner = self.mapping(raw["ladder"], (*path, "ladder"), None, "a mapping of rungs")
            nodes = tuple(self.node(key, rung, (*path, "ladder", key), is_rung=True) for key, rung in inner.items())
            if not nodes:
                self.bad((*path, "ladder"), "has no rung")
            if "-" in name:
                self.bad(path, "a ladder's name has letters, digits and _ only: what is left of it is kept under it")
        do = self.actions(raw.get("do"), (*path, "do")) if kind in ("do", "rung") else ()
        if kind == "rung" and "do" not in raw:
            self.bad((*path, "do"), "is missing: what is done on this rung?")
        guard = self.expression(raw["if"], (*path, "if")) if "if" in raw else ""
        answers = {key: self.branches(raw[key], (*path, key), answer=True) for key in ANSWERS if key in raw}
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
            default=self.target(raw.get("default"), (*path, "default")) if kind == "history" else "",
        )
        return self.proof(node, raw)

    def kind(self, raw: Mapping[str, Any], path: Path) -> str:
        work = [key for key in WORK if raw.get(key) not in (None, False)]
        if len(work) > 1:
            self.bad(path, f"says {' and '.join(work)}; a state does one of them")
        for key in ("final", "parallel", "rollback"):
            if key in raw:
                self.boolean(raw[key], (*path, key))
        if raw.get("final") is True:
            return "final"
        if "history" in raw:
            return "history"
        if work:
            return work[0]
        if "states" in raw:
            return "parallel" if raw.get("parallel") is True else "composite"
        if "parallel" in raw:
            self.bad((*path, "parallel"), "a parallel state needs states, its regions")
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
                    self.bad((*path, key), "is missing: where does it go then?")
        for key, branches in answers.items():
            for number, branch in enumerate(branches):
                if not branch.to:
                    self.bad((*path, key), "a branch here needs `to`, or the state would wait for ever")
                if not branch.guard and number < len(branches) - 1:
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
            action=self.named(raw.get("action", "notify.human"), (*path, "action")),
            args={key: self.argument(inner, (*path, "args", key)) for key, inner in args.items()},
            timeout=self.seconds(raw.get("timeout", 30.0), (*path, "timeout"), least=0.001),
            tries=self.count(retry.get("max", 1), (*path, "retry", "max"), MOST_TRIES),
            backoff=self.seconds(retry.get("backoff", 0.0), (*path, "retry", "backoff")),
            undo=self.undo(raw["undo"], (*path, "undo")) if raw.get("undo") else None,
            on_unknown=self.choice(raw.get("on_unknown", "probe"), (*path, "on_unknown"), ("probe", "retry", "ask")),
        )

    def named(self, value: Any, path: Path) -> str:
        name = self.text(value, path, "executor.verb")
        if name and not _ACTION.fullmatch(name):
            self.bad(path, f"should be executor.verb, such as service.restart (got {shown(name)})")
        return name

    def argument(self, value: Any, path: Path) -> Any:
        """Checked here, evaluated when the action begins; see ``computed`` for which texts are."""
        if not isinstance(value, str):
            return value
        if value.startswith("="):
            self.expression(value[1:], path)
            return value
        if computed(value, self.names) is None and (root := _root_of(value)) is not None:
            close = get_close_matches(root, self.names, n=1, cutoff=0.8)
            if close:
                self.bad(
                    path,
                    f"{value!r} looks like an expression over {close[0]!r}, but {root!r} is unknown",
                    f"if it is meant as text, write \"='{value}'\"",
                )
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
        return Undo(self.named(raw.get("action", "notify.human"), (*path, "action")), args)

    def expected(self, value: Any, path: Path) -> Expected | None:
        if value is None:
            return None
        raw = self.mapping(value, path, ("within", "hold"), "within and hold, or nothing where nothing is to be proved")
        return Expected(
            within=self.seconds(raw.get("within", 0.0), (*path, "within")),
            hold=self.seconds(raw.get("hold", 3.0), (*path, "hold")),
        )

    def branches(self, value: Any, path: Path, *, answer: bool = False) -> tuple[Branch, ...]:
        entries = value if isinstance(value, list) else [value]
        if not entries:
            self.bad(path, "leads nowhere")
        return tuple(
            self.branch(entry, (*path, number) if isinstance(value, list) else path, answer=answer)
            for number, entry in enumerate(entries)
        )

    def branch(self, value: Any, path: Path, *, answer: bool) -> Branch:
        if isinstance(value, str):
            return Branch(self.target(value, path))
        raw = self.mapping(value, path, ("to", "if", "do"), "a state, or a mapping with to, if and do")
        if isinstance(value, Mapping) and "to" not in raw and "do" not in raw:
            self.bad(path, "leads nowhere and does nothing")
        return Branch(
            to=self.target(raw["to"], (*path, "to")) if "to" in raw else "",
            guard=self.expression(raw["if"], (*path, "if"), answer=answer) if "if" in raw else "",
            acts=self.acts(raw.get("do", []), (*path, "do"), answer=answer),
        )

    def target(self, value: Any, path: Path) -> str:
        if not isinstance(value, str) or value not in self.states:
            self.bad(path, f"there is no state {shown(value)}", near(str(value), self.states))
            return ""
        return value

    def moves(self, raw: Mapping[str, Any], path: Path, kinds: Sequence[str]) -> tuple[Move, ...]:
        found: list[Move] = []
        for key, value in raw.items():
            here = (*path, key)
            if key not in kinds:
                continue
            if key == "after":
                found += self.timers(value, here)
            elif key == "always":
                for branch in self.branches(value, here):
                    if not branch.to:
                        self.bad(here, "needs `to`: without one it would be done again and again")
                    found.append(Move("always", "", branch))
            elif key == "on":
                for event, inner in self.mapping(value, here, None, "a mapping of events").items():
                    if not _EVENT.fullmatch(event):
                        self.bad((*here, event), "is no name of an event: words with dots between them, or *")
                    found += [Move("on", event, branch) for branch in self.branches(inner, (*here, event))]
            elif key == "when":
                for condition, inner in self.mapping(value, here, None, "a mapping of conditions").items():
                    self.expression(condition, (*here, condition), names={*self.names, SEEN})
                    found += [Move("when", condition, branch) for branch in self.branches(inner, (*here, condition))]
        return tuple(found)

    def timers(self, value: Any, path: Path) -> tuple[Move, ...]:
        found: list[Move] = []
        for time, inner in self.mapping(value, path, None, "a mapping such as {5m: STATE}").items():
            here = (*path, time)
            if time.startswith("="):
                self.expression(time[1:], here)
                key = time
            else:
                key = repr(self.seconds(time, here))
            found += [Move("after", key, branch) for branch in self.branches(inner, here)]
        return tuple(found)

    def acts(self, value: Any, path: Path, *, answer: bool = False) -> tuple[Act, ...]:
        found: list[Act] = []
        for number, entry in enumerate(value if isinstance(value, list) else [value]):
            here = (*path, number) if isinstance(value, list) else path
            kinds = ("set", "raise", "emit", "log")
            for kind, inner in self.mapping(entry, here, kinds, "a mapping with set, raise, emit or log").items():
                found += self.act(kind, inner, (*here, kind), answer=answer)
        return tuple(found)

    def act(self, kind: str, value: Any, path: Path, *, answer: bool) -> Iterator[Act]:
        if kind == "set":
            for name, inner in self.mapping(value, path, None, "a mapping of variables").items():
                if name not in self.names - {*GIVEN}:
                    self.bad((*path, name), "is no variable of this runbook", near(name, self.names - {*GIVEN}))
                yield Act("set", name, self.value_of(inner, (*path, name), answer=answer))
        elif kind == "log":
            yield Act("log", value=self.value_of(value, path, answer=answer))
        elif kind == "raise":
            yield Act("raise", self.event(value, path))
        else:
            raw = self.mapping(
                {"event": value} if isinstance(value, str) else value, path, ("event", "with"), "an event"
            )
            told = self.mapping(raw.get("with", {}), (*path, "with"), None, "a mapping")
            values = {key: self.value_of(inner, (*path, "with", key), answer=answer) for key, inner in told.items()}
            yield Act("emit", self.event(raw.get("event"), (*path, "event")), values)

    def event(self, value: Any, path: Path) -> str:
        name = self.text(value, path, "an event's name")
        if name and (not _EVENT.fullmatch(name) or "*" in name or " " in name):
            self.bad(path, f"should be one event's name, words with dots between them (got {shown(name)})")
        return name


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
