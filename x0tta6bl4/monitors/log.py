"""Reads along in a log and reports how often lines of each wanted pattern come, and the first of them at once."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Observation, Occurrence
from x0tta6bl4.kernel.plugin import PluginConfig, monitor
from x0tta6bl4.kernel.units import Seconds
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.files import Files

MOST_A_SECOND = 2000
"""Lines of one second that are held against the patterns. In a flood the others are counted and no more: it must not
cost the daemon its CPU, nor the service the healing it needs."""
LONGEST = 4096
"""Characters of a line that are held against the patterns."""
SHOWN = 200
MINUTE = 60
TAKEN = frozenset({"lines", "skipped"})

PatternName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class Config(PluginConfig):
    subject: str = Field(min_length=1)
    """The name of what writes the log; observations are reported under it."""
    path: str | None = Field(default=None, pattern="^/")
    """Absolute path of the log file. It may be rotated, and need not be there yet."""
    unit: str | None = Field(default=None, min_length=1)
    """The systemd unit whose messages are read in the journal, instead of a file."""
    patterns: dict[PatternName, str] = Field(default={}, max_length=32)
    """Name -> regular expression that is looked for in each line. Each one more costs CPU for every line."""
    report_every: Seconds = Field(default=1.0, ge=0.1)
    """Seconds between two occurrences of one pattern. Raised, a repeated trouble wakes the loop less often; lowered,
    more often. Lines in between are counted all the same."""

    @field_validator("patterns")
    @classmethod
    def _are_expressions(cls, value: dict[str, str]) -> dict[str, str]:
        for name, pattern in value.items():
            if name in TAKEN or name.endswith("_up"):
                raise ValueError(f"{name}: is taken, or looks like an answer of yes or no; choose another name")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name}: should be a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.path is None) == (self.unit is None):
            raise ValueError("should have exactly one of path and unit")
        return self


class _LastMinute:
    """A count of the last sixty seconds, in steps of one."""

    def __init__(self) -> None:
        self._counts = [0] * MINUTE
        self._second = 0
        self.total = 0

    def advance(self, second: int) -> None:
        for passed in range(self._second + 1, min(second, self._second + MINUTE) + 1):
            self.total -= self._counts[passed % MINUTE]
            self._counts[passed % MINUTE] = 0
        self._second = max(second, self._second)

    def add(self) -> None:
        self._counts[self._second % MINUTE] += 1
        self.total += 1


class _Pattern:
    def __init__(self, name: str, expression: str) -> None:
        self.name = name
        self.search = re.compile(expression).search
        self.minute = _LastMinute()
        self.reported_at = float("-inf")
        self.unreported = 0


class LogMonitor:
    """In its first minute the counts are of what was read so far."""

    def __init__(self, name: str, config: Config, clock: Clock, files: Files) -> None:
        self.name = name
        self.config = config
        self._clock = clock
        self._files = files
        self._patterns = [_Pattern(name, expression) for name, expression in config.patterns.items()]
        self._lines = _LastMinute()
        self._skipped = 0
        self._second = 0
        self._this_second = 0
        self._is_following = False
        self._trouble = ""

    @property
    def subjects(self) -> Sequence[str]:
        return (self.config.subject,)

    async def observe(self) -> Sequence[Observation]:
        if self._trouble:
            raise ProbeFailed(self._trouble)
        if not self._is_following:
            return ()  # The watching begins beside the looking, and nothing was seen yet.
        self._advance()
        return [
            self._number("log_lines_per_minute", self._lines.total),
            self._number("log_skipped_total", self._skipped),
            *(self._number(f"log_{p.name}_per_minute", p.minute.total) for p in self._patterns),
        ]

    async def watch(self, report: Callable[[Occurrence], None]) -> None:
        source = self.config.path or f"the journal of {self.config.unit}"
        self._trouble = ""
        try:
            lines = self._follow()
            self._is_following = True
            async for line in lines:
                self._advance()
                self._this_second += 1
                self._lines.add()
                if self._this_second > MOST_A_SECOND:
                    self._skipped += 1
                elif self._patterns:
                    self._match(line[:LONGEST], report)
                if self._this_second % 256 == 0:
                    # A source that has many lines ready may never wait: others on this event loop must have their turn.
                    await asyncio.sleep(0)
            self._trouble = f"{source}: there was nothing more to follow"
        except (ProbeFailed, OSError) as error:
            self._trouble = f"{source}: {error}"
            raise
        finally:
            self._is_following = False

    def _follow(self) -> AsyncIterator[str]:
        if self.config.path is not None:
            return self._files.follow(self.config.path)
        return self._files.follow_journal(self.config.unit)

    def _advance(self) -> None:
        second = int(self._clock.monotonic())
        if second == self._second:
            return
        self._second = second
        self._this_second = 0
        self._lines.advance(second)
        for pattern in self._patterns:
            pattern.minute.advance(second)

    def _match(self, line: str, report: Callable[[Occurrence], None]) -> None:
        for pattern in self._patterns:
            if not pattern.search(line):
                continue
            pattern.minute.add()
            now = self._clock.monotonic()
            if now - pattern.reported_at < self.config.report_every:
                pattern.unreported += 1
                continue
            detail = line.strip()[:SHOWN]
            if pattern.unreported:
                detail += f" (and {pattern.unreported} like it before)"
            pattern.reported_at = now
            pattern.unreported = 0
            rate = self._number(f"log_{pattern.name}_per_minute", pattern.minute.total)
            report(Occurrence(self.name, self.config.subject, f"log {pattern.name}", now, detail, (rate,)))

    def _number(self, metric: str, value: float) -> Observation:
        return Observation(self.name, self.config.subject, metric, float(value))


PLUGIN = monitor(Config, lambda name, config, tools: LogMonitor(name, config, tools.clock, tools.files), every=5)
