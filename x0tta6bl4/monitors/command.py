"""Runs a check command that speaks as Nagios plugins do and reports its answer, its words and its numbers."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import Field, field_validator

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Observation
from x0tta6bl4.kernel.plugin import PluginConfig, monitor
from x0tta6bl4.kernel.units import Seconds
from x0tta6bl4.ports.commands import CommandResult, Commands

OK, WARNING, CRITICAL = 0, 1, 2
MOST_NUMBERS = 20
SHOWN = 300
RESERVED = frozenset({"check_up", "check_warning"})
SCALE = {
    "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9,
    "B": 1.0, "KB": 1024.0, "MB": 1024.0**2, "GB": 1024.0**3, "TB": 1024.0**4,
}  # fmt: skip
"""Units of measure that become seconds or bytes. Any other (%, c, none) leaves the number as it is."""
# 'label'=1.5ms;warn;crit;min;max, where a quote within the label is doubled.
_NUMBER = re.compile(r"\s*(?:'((?:[^']|'')+)'|([^\s'=]+))=([^\s;]*)(?:;\S*)?")
_VALUE = re.compile(r"([-+]?[0-9]*[.,]?[0-9]+(?:[eE][-+]?[0-9]+)?)([a-zA-Z%]*)")


class Config(PluginConfig):
    subject: str = Field(min_length=1)
    """The name of what is checked; observations are reported under it."""
    argv: list[str] = Field(min_length=1)
    """The command and its arguments; the first is an absolute path. No shell reads it. It runs with the daemon's
    rights, and being named here is what allows it."""
    within: Seconds = Field(default=25.0, gt=0)
    """Seconds after which the command is ended and nothing was seen. Raised, a hanging check is noticed later; lowered,
    slow ones never tell. Keep it below the monitor's ``timeout``, which knows less of what it cuts off."""

    @field_validator("argv")
    @classmethod
    def _begins_with_a_path(cls, value: list[str]) -> list[str]:
        if not value[0].startswith("/"):
            raise ValueError(f"should begin with the absolute path of a program, not {value[0]!r}")
        if any("\0" in word for word in value):
            raise ValueError("should have no zero byte in it")
        return value


@dataclass(frozen=True)
class CommandCheck:
    name: str
    config: Config
    commands: Commands

    @property
    def subjects(self) -> Sequence[str]:
        return (self.config.subject,)

    async def observe(self) -> Sequence[Observation]:
        result = await self.commands.run(self.config.argv, timeout=self.config.within)
        line = result.output.strip().partition("\n")[0]
        words, _, numbers = line.partition("|")
        detail = words.strip()[:SHOWN]
        if result.code not in (OK, WARNING, CRITICAL):
            raise ProbeFailed(_why(result, self.config.within, detail))
        seen = [
            self._number("check_up", result.code != CRITICAL, detail),
            self._number("check_warning", result.code == WARNING, detail),
        ]
        seen += [self._number(metric, value, "") for metric, value in _numbers(numbers)]
        return seen

    def _number(self, metric: str, value: float, detail: str) -> Observation:
        return Observation(self.name, self.config.subject, metric, float(value), detail=detail)


def _why(result: CommandResult, within: float, detail: str) -> str:
    command = result.argv[0]
    if result.code is None:
        why = f"{command} gave no answer within {within:g} s"
    elif result.code < 0:
        why = f"{command} was killed by signal {-result.code}"
    elif result.code == 3:
        why = f"{command} says it does not know"
    else:
        why = f"{command} exited with {result.code}, which no check does (0 to 3)"
    return f"{why}: {detail}" if detail else why


def _numbers(text: str) -> Iterator[tuple[str, float]]:
    """The performance data, at most so many; what is no number is left out, as is the second of one name."""
    known = set(RESERVED)
    for match in _NUMBER.finditer(text):
        label = (match[1] or match[2]).replace("''", "'")
        value = _VALUE.fullmatch(match[3])
        name = re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")[:60]
        metric = f"check_{name}"
        if value is None or not name or metric in known or metric.endswith("_up"):
            continue  # Names ending in _up are answers of yes or no; a command's is its exit code alone.
        number = float(value[1].replace(",", ".")) * SCALE.get(value[2], 1.0)
        if math.isfinite(number):
            known.add(metric)
            yield metric, number
        if len(known) - len(RESERVED) >= MOST_NUMBERS:
            return


PLUGIN = monitor(Config, lambda name, config, tools: CommandCheck(name, config, tools.commands), timeout=30)
