"""Reads the operator's YAML into plain values and remembers on which line each of them stands.

The dialect is YAML 1.2's core schema with the traps taken out: ``on``, ``yes`` and ``off`` are words; a number with a
leading zero stays text (a file mode must not become another number); no tags, anchors, aliases or merge keys; no key
twice. It works on parser events instead of composed nodes: depth is bounded before any recursion can happen.
"""

import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from x0tta6bl4.kernel.errors import Problem

KeyPath = tuple[str | int, ...]

LARGEST_FILE = 1 << 20
"""Bytes. A megabyte of settings is a file given by mistake; reading it stays well under a second."""
DEEPEST = 32
MOST_PROBLEMS = 50
"""Mistakes listed per file; after so many it is probably not a configuration at all."""
LONGEST_NUMBER = 64

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FORBIDDEN = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_OTHER_BASE = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))

_PLAIN_SENTENCES = (
    ("mapping values are not allowed", "a ':' stands where none may; quote the text, or mend the indentation"),
    ("could not find expected ':'", "a key has no ':' after it"),
    ("did not find expected key", "a key is missing here, or the indentation does not fit the lines above"),
    ("did not find expected '-' indicator", "the indentation of this list does not fit; each item begins with '-'"),
    ("did not find expected ',' or ']'", "a list in [brackets] lacks a ',' or its ']'"),
    ("did not find expected ',' or '}'", "a mapping in {braces} lacks a ',' or its '}'"),
    ("found unexpected end of stream", "a quote is opened and never closed"),
    ("did not find expected node content", "a value is missing, or a bracket is never closed"),
    ("block sequence entries are not allowed", "a list cannot begin here; put it on a line of its own"),
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from: a file with line and column, or the name of a variable or an option."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Document:
    """Plain values, the origin of each of them by its path, and what is wrong with the text they came from."""

    value: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    is_complete: bool = True
    """False when reading stopped in the middle, so that what is missing here may only be unread."""


def printable(text: str) -> str:
    """The text with everything escaped that a terminal could take for a command or cannot encode."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def dotted(path: Sequence[str | int]) -> str:
    return printable(".".join(map(str, path)))


def read(path: Path) -> Document:
    """The document in one file. What cannot be read is a problem in it, never an exception."""
    name = printable(str(path))
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            return _unreadable(name, f"this is {kind}, not a configuration file")
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        return _unreadable(name, f"cannot be read: {error.strerror or type(error).__name__}")
    except ValueError:
        return _unreadable(name, "this cannot be the name of a file")
    return parse(data, name)


def parse(data: bytes, name: str) -> Document:
    """The document in these bytes, which must be a mapping at its top. Never raises, whatever the bytes are."""
    if len(data) > LARGEST_FILE:
        return _unreadable(name, f"is larger than {LARGEST_FILE >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _unreadable(name, "is not UTF-8 text", data.count(b"\n", 0, error.start) + 1)
    reader = _Reader(name)
    value = reader.read(text)
    if value is None:
        value = {}
    elif not isinstance(value, dict):
        problem = Problem("the whole file", "should be 'key: value' lines, sections at the top", name, 1)
        return Document(problems=(*reader.problems, problem), is_complete=False)
    return Document(value, reader.origins, tuple(reader.problems), reader.is_complete)


def parse_value(text: str, source: str) -> tuple[Any, Sequence[Problem]]:
    """One value as it could stand after a ``key:``, from a place without lines, such as a variable. Never raises."""
    if len(text) > LARGEST_FILE:
        return None, [Problem("the value", f"is larger than {LARGEST_FILE >> 20} MiB", source)]
    reader = _Reader(source)
    value = reader.read(text)
    return value, reader.problems


def nest(path: Sequence[str], value: Any, origin: Origin) -> Document:
    """A document that holds one value at one path."""
    whole = value
    origins: dict[KeyPath, Origin] = {}
    for depth in range(len(path), 0, -1):
        origins[tuple(path[:depth])] = origin
        whole = {path[depth - 1]: whole}
    for inner in _paths_below(value, tuple(path)):
        origins[inner] = origin
    return Document(whole, origins)


def merge(under: Document, over: Document) -> Document:
    """Both in one: mappings merge deep; a scalar, a list or an unlike kind in ``over`` replaces what was under it."""
    origins = dict(under.origins)
    value = _laid(under.value, over.value, (), origins, over.origins)
    problems = under.problems + over.problems
    return Document(value, origins, problems, under.is_complete and over.is_complete)


def _laid(
    under: Mapping[str, Any],
    over: Mapping[str, Any],
    path: KeyPath,
    origins: dict[KeyPath, Origin],
    new_origins: Mapping[KeyPath, Origin],
) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        here = (*path, key)
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            result[key] = _laid(old, value, here, origins, new_origins)
            continue
        for gone in _paths_below(old, here):
            origins.pop(gone, None)
        for new in (here, *_paths_below(value, here)):
            if new in new_origins:
                origins[new] = new_origins[new]
        result[key] = value
    return result


def _paths_below(value: Any, path: KeyPath) -> list[KeyPath]:
    found: list[KeyPath] = []
    open_ends: list[tuple[KeyPath, Any]] = [(path, value)]
    while open_ends:
        here, node = open_ends.pop()
        if isinstance(node, dict):
            inner = [((*here, key), child) for key, child in node.items()]
        elif isinstance(node, list):
            inner = [((*here, number), child) for number, child in enumerate(node)]
        else:
            continue
        found += [below for below, _ in inner]
        open_ends += inner
    return found


def _unreadable(name: str, message: str, line: int = 0) -> Document:
    return Document(problems=(Problem("the whole file", message, name, line),), is_complete=False)


def _scalar(text: str) -> Any:
    if text in _NULLS:
        return None
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > LONGEST_NUMBER:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


class _Stop(Exception):
    """The rest of the text makes no sense to go on with; the reason is among the problems already."""


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come yet."""

    value: dict[str, Any] | list[Any]
    path: KeyPath
    key: str | None = None
    first_lines: dict[str, int] = field(default_factory=dict)


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self.origins: dict[KeyPath, Origin] = {}
        self.is_complete = True
        self._stack: list[_Open] = []
        self._root: Any = None
        self._documents = 0

    def read(self, text: str) -> Any:
        try:
            bad = _FORBIDDEN.search(text)
            if bad:
                line = text.count("\n", 0, bad.start()) + 1
                self._stop(f"there is a control character ({printable(bad[0])}) in this line", line)
            for event in yaml.parse(text, Loader=_LOADER):
                self._take(event)
        except _Stop:
            self.is_complete = False
        except yaml.MarkedYAMLError as error:
            self.is_complete = False
            self._report_syntax(error, text)
        except yaml.YAMLError:
            # The reader's own errors have no line; what they complain of was looked for above.
            self.is_complete = False
            self._report("this is not text that YAML can hold", 0)
        return self._root

    def _take(self, event: Any) -> None:
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._stop("a second document ('---') begins here; a file holds one", line)
        elif isinstance(event, yaml.AliasEvent):
            self._report("aliases (*name) are not used here; quote a text that begins with '*'", line)
            self._put(None, event, is_plain=False)
        elif isinstance(event, yaml.NodeEvent):
            if event.anchor is not None:
                self._report("anchors (&name) are not used here; write the value out where it is needed", line)
            if getattr(event, "tag", None) is not None:
                self._report("tags (!name) are not used here; quote a text that begins with '!'", line)
            self._take_node(event, line)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._stack.pop()

    def _take_node(self, event: Any, line: int) -> None:
        if isinstance(event, yaml.ScalarEvent):
            is_plain = event.style in (None, "")
            if self._stack and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None:
                self._take_key(event, line, is_plain)
            else:
                self._put(_scalar(event.value) if is_plain else event.value, event, is_plain)
            return
        if len(self._stack) >= DEEPEST:
            self._stop(f"is nested deeper than {DEEPEST} levels", line)
        value: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        path = self._put(value, event, is_plain=False)
        self._stack.append(_Open(value, path))

    def _take_key(self, event: Any, line: int, is_plain: bool) -> None:
        top = self._stack[-1]
        key = event.value
        if is_plain and key == "<<":
            self._report("merge keys (<<) are not used here; write the values out", line)
        elif key == "":
            self._report("there is a ':' without a key before it", line)
        elif key in top.first_lines:
            self._report(f"is there twice; first in line {top.first_lines[key]}", line, (*top.path, key))
        else:
            top.first_lines[key] = line
        top.key = key
        self.origins[(*top.path, key)] = Origin(self.name, line, event.start_mark.column + 1)

    def _put(self, value: Any, event: Any, is_plain: bool) -> KeyPath:
        if not self._stack:
            self._root = value
            return ()
        top = self._stack[-1]
        mark = event.start_mark
        if isinstance(top.value, list):
            path: KeyPath = (*top.path, len(top.value))
            top.value.append(value)
            self.origins[path] = Origin(self.name, mark.line + 1, mark.column + 1)
            return path
        if top.key is None:
            self._stop("a key should be one word, not a list, a mapping or an alias", mark.line + 1)
        path = (*top.path, top.key)
        top.value[top.key] = value
        top.key = None
        return path

    def _report(self, message: str, line: int, path: KeyPath | None = None) -> None:
        where = path if path is not None else self._path_now()
        self.problems.append(Problem(dotted(where) or "the whole file", message, self.name, line))
        if len(self.problems) >= MOST_PROBLEMS:
            raise _Stop

    def _stop(self, message: str, line: int) -> NoReturn:
        self._report(message, line)
        raise _Stop

    def _path_now(self) -> KeyPath:
        if not self._stack:
            return ()
        top = self._stack[-1]
        if isinstance(top.value, list):
            return (*top.path, len(top.value))
        return top.path if top.key is None else (*top.path, top.key)

    def _report_syntax(self, error: yaml.MarkedYAMLError, text: str) -> None:
        mark = error.problem_mark or error.context_mark
        line = mark.line if mark else 0
        words = error.problem or "the text makes no sense"
        lines = text.splitlines()
        shown = lines[line] if line < len(lines) else ""
        margin = shown[: len(shown) - len(shown.lstrip())]
        message = f"this is not YAML: {words}"
        for start, sentence in _PLAIN_SENTENCES:
            if words.startswith(start):
                message = sentence
        if "\t" in margin:
            message = "the line is indented with a tab; YAML wants spaces"
        elif words.startswith("found character that cannot start any token"):
            column = mark.column if mark else 0
            message = f"a value cannot begin with {shown[column : column + 1]!r}; put it in quotes"
        # Reporting may raise the stop for too many problems, which reading has reached anyway.
        try:
            self._report(message, line + 1)
        except _Stop:
            pass
