"""Shows what a command found: lines, tables and times for people, JSON for programs."""

import json
import os
import shutil
import sys
import textwrap
import time
from argparse import Namespace
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from x0tta6bl4.kernel.memory import plain

WIDTH = 100
"""Columns, where nobody says how wide the terminal is."""
NARROWEST = 24
"""Columns that a table's last one keeps, as long as those in the middle can be cut."""
LEAST = 12
"""Columns that a table's last one keeps, however narrow the terminal is."""
_COLOURS = {"good": "32", "bad": "31", "doubtful": "33", "strong": "1", "faint": "2"}
_GOOD = frozenset({"well", "verified", "allow", "ok", "healed", "recovered", "on", "approved", "auto"})
_DOUBTFUL = frozenset(
    {
        "unknown",
        "hold",
        "treated",
        "recovering",
        "unverified",
        "waiting",
        "wanted",
        "warning",
        "simulated",
        "expired",
        "aged out",
        "merged",
        "suggest",
        "approve",
        "observe",
    }
)


class Display:
    """One command's output. Whatever comes from outside is stripped of what a terminal could take for a command."""

    def __init__(self, args: Namespace) -> None:
        self.as_json: bool = args.output == "json"
        self.now = time.time()
        terminal = sys.stdout.isatty()
        self._terminal = terminal
        self._colours = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._width = max(60, shutil.get_terminal_size((WIDTH, 24)).columns) if terminal else WIDTH

    def json(self, value: Any) -> None:
        print(json.dumps(plain(value), indent=2))

    def line(self, text: str = "", indent: int = 0) -> None:
        """One paragraph, wrapped; continuation lines are indented by two more."""
        print(
            textwrap.fill(
                printable(text),
                self._width,
                initial_indent=" " * indent,
                subsequent_indent=" " * (indent + 2),
                break_on_hyphens=False,
            )
            if text
            else ""
        )

    def head(self, text: str) -> None:
        print(self._coloured(printable(text), "strong"))

    def state(self, name: str, state: str, rest: str) -> None:
        """A headline whose one word tells good from bad."""
        print(f"{self._coloured(printable(name), 'strong')} is {self.word(state)}{printable(rest)}")

    def word(self, word: str) -> str:
        low = word.lower()
        kind = "good" if low in _GOOD else "doubtful" if low in _DOUBTFUL else "bad"
        return self._coloured(printable(word), kind)

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[str]], states: int | None = None) -> None:
        """Columns as wide as they need; the last takes what is left and wraps. ``states``: the column to colour.

        The first column is what other commands are given, so it is cut last. Into a pipe nothing is cut or wrapped:
        one row is one line there.
        """
        cells = [[printable(cell) for cell in row] for row in rows]
        widths = [max(len(row[number]) for row in (titles, *cells)) for number in range(len(titles) - 1)]
        whole = max([self._width, *(sum(map(len, row)) + sum(widths) + 2 * len(row) for row in cells)])
        width = self._width if self._terminal else whole
        room = width - NARROWEST - 2 * len(widths)
        while len(widths) > 1 and sum(widths) > room and max(widths[1:]) > 10:
            widths[widths.index(max(widths[1:]), 1)] -= 1
        if widths and sum(widths) > width - LEAST - 2 * len(widths):
            widths[0] = max(LEAST, width - LEAST - 2 * len(widths) - sum(widths[1:]))
        left = max(LEAST, width - sum(widths) - 2 * len(widths))
        for number, row in enumerate([list(titles), *cells]):
            parts = [_cut(cell, width) for cell, width in zip(row, widths, strict=False)]
            last = textwrap.wrap(row[-1], left, break_on_hyphens=False) or [""]
            padded = [part.ljust(width) for part, width in zip(parts, widths, strict=True)]
            if number == 0:
                print(self._coloured("  ".join([*padded, last[0]]).rstrip(), "faint"))
                continue
            if states is not None and states < len(padded):
                padded[states] = self.word(parts[states]) + " " * (widths[states] - len(parts[states]))
            print("  ".join([*padded, last[0]]).rstrip())
            for more in last[1:]:
                print(" " * (sum(widths) + 2 * len(widths)) + more)

    def clock(self, at: float) -> str:
        """Local time; the date only when it is not today's."""
        moment = datetime.fromtimestamp(at)
        today = datetime.fromtimestamp(self.now).date()
        return moment.strftime("%H:%M:%S" if moment.date() == today else "%Y-%m-%d %H:%M:%S")

    def ago(self, at: float) -> str:
        return ago(self.now - at)

    def when(self, at: float) -> str:
        return f"{self.clock(at)} ({self.ago(at)})"

    def _coloured(self, text: str, kind: str) -> str:
        return f"\033[{_COLOURS[kind]}m{text}\033[0m" if self._colours and text else text


def printable(text: str) -> str:
    """On one line, with everything escaped that a terminal could take for a command."""
    spaced = " ".join(text.split("\n"))
    return "".join(c if c.isprintable() else " " if c == "\t" else c.encode("unicode_escape").decode() for c in spaced)


def ago(seconds: float) -> str:
    if abs(seconds) < 1:
        return "now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def span(seconds: float) -> str:
    """How long, in the one unit that says it best."""
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    for limit, size, unit in ((100, 1, "s"), (100 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"
