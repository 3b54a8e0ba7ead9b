"""Judges numbers against limits that an operator set: for how long, with hysteresis, and damped when they flap."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field, model_validator

from x0tta6bl4.kernel.facts import Condition, Finding, Observation, Severity, shown
from x0tta6bl4.kernel.judged import Judged, judged_data
from x0tta6bl4.kernel.plugin import PluginConfig, analyzer
from x0tta6bl4.kernel.sight import View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.units import Seconds, Size


class Limit(PluginConfig):
    metric: str
    """The series to judge, e.g. ``psi_memory_full_ratio``."""
    subjects: list[str] = Field(default_factory=lambda: ["*"])
    """Whose series, as shell patterns."""
    above: Size | float | None = None
    """Too high from here on; sizes such as 100MiB are understood."""
    below: Size | float | None = None
    """Too low from here on."""
    clear: Size | float | None = None
    """The value at which it is well again (hysteresis); without it, the limit itself. Further away flaps less and
    stays longer in alarm."""
    lasting: Seconds = Field(default=0.0, ge=0)
    """Seconds on end that it must be beyond the limit. Longer forgives peaks and finds faults later."""
    fault: str = ""
    """The fault's name, by which a rule is chosen; without it ``high-METRIC`` or ``low-METRIC``."""
    severity: Literal["info", "warning", "major", "critical"] = "warning"
    """How bad it is: the worst open incident of a subject is treated first."""

    @model_validator(mode="after")
    def _sensible(self) -> "Limit":
        if (self.above is None) == (self.below is None):
            raise ValueError(f"give either above or below for {self.metric!r}")
        if self.clear is not None:
            if self.above is not None and self.clear > self.above:
                raise ValueError(f"clear ({self.clear:g}) must not lie above the limit ({self.above:g})")
            if self.below is not None and self.clear < self.below:
                raise ValueError(f"clear ({self.clear:g}) must not lie below the limit ({self.below:g})")
        return self


class Config(PluginConfig):
    limits: dict[str, Limit] = Field(default_factory=dict)
    """The limits, each under a name of your choice."""
    flaps: int = Field(default=5, ge=2)
    """Crossings within ``flap_window`` that make a series flapping: then the finding stays until it has calmed down."""
    flap_window: Seconds = Field(default=300.0, gt=0)
    """Seconds over which crossings are counted. Longer calls more series flapping and keeps them so for longer."""


@dataclass
class _State:
    beyond_since: float | None = None
    active: bool = False
    crossings: deque[float] = field(default_factory=deque)


class Threshold:
    """Stateful only in what each series has done lately; the same views in the same order give the same findings."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._states: dict[tuple[str, str], _State] = {}

    def alarms(self, subjects: Mapping[str, Subject]) -> Sequence[Condition]:
        return [
            Condition(limit.metric, ">" if limit.above is not None else "<", float(bound))
            for limit in self.config.limits.values()
            if (bound := limit.above if limit.above is not None else limit.below) is not None
        ]

    def analyze(self, view: View) -> Sequence[Finding]:
        findings = []
        for name, limit in self.config.limits.items():
            for seen in view.select(limit.metric):
                if any(fnmatchcase(seen.subject, pattern) for pattern in limit.subjects):
                    finding = self._judge(name, limit, seen, view.now)
                    if finding is not None:
                        findings.append(finding)
        return findings

    def _judge(self, name: str, limit: Limit, seen: Observation, now: float) -> Finding | None:
        state = self._states.setdefault((name, seen.subject), _State())
        high = limit.above is not None
        bound, clear = _bounds(limit)
        beyond = seen.value > bound if high else seen.value < bound
        if state.active and not beyond:
            beyond = seen.value > clear if high else seen.value < clear
        while state.crossings and now - state.crossings[0] > self.config.flap_window:
            state.crossings.popleft()
        if beyond:
            if state.beyond_since is None:
                state.beyond_since = now
                state.crossings.append(now)
        else:
            state.beyond_since = None
        flapping = len(state.crossings) >= self.config.flaps
        lasted = state.beyond_since is not None and now - state.beyond_since >= limit.lasting
        state.active = lasted or (state.active and flapping)
        if not state.active:
            return None
        since = state.beyond_since if state.beyond_since is not None else state.crossings[-1]
        word, sign = ("above", "<=") if high else ("below", ">=")
        fault = limit.fault or f"{'high' if high else 'low'}-{limit.metric}"
        flaps = f"; it crossed {len(state.crossings)} times in {self.config.flap_window:g} s" if flapping else ""
        return Finding(
            analyzer=self.name,
            subject=seen.subject,
            fault=fault,
            severity=Severity(limit.severity),
            since=since,
            summary=f"{seen.subject}: {limit.metric} is {seen.value:g}, {word} {bound:g} ({name}){flaps}",
            because=(seen,),
            healthy_when=(Condition(limit.metric, sign, clear),),
            data={
                "metric": limit.metric,
                "value": seen.value,
                "limit": bound,
                "name": name,
                **judged_data([self._judged(name, limit, seen, state, now)]),
            },
        )

    def _judged(self, name: str, limit: Limit, seen: Observation, state: _State, now: float) -> Judged:
        """What decided is the value, or for how long it was beyond the limit, or how often it went there and back."""
        metric, high = limit.metric, limit.above is not None
        bound, clear = _bounds(limit)
        is_beyond = seen.value > bound if high else seen.value < bound
        edge = bound if is_beyond else clear  # on its way back it has to come further than it went
        word, at = "above" if high else "below", shown(metric, bound)
        lasted = None if state.beyond_since is None else now - state.beyond_since
        number, at_most, named, well = seen.value, edge, metric, ""
        why = f"{word} the limit {name}" if is_beyond else f"not back from the limit {name} yet"
        if lasted is None or lasted < limit.lasting:
            number, at_most = float(len(state.crossings)), float(self.config.flaps)
            named = f"crossings of {at} within {self.config.flap_window:g} s"
            why = f"it goes beyond the limit {name} and back"
            well = f"fewer than {self.config.flaps} {named}"
        elif is_beyond and limit.lasting:
            number, at_most, named = lasted, limit.lasting, f"seconds {word} {at}"
            well = f"{metric} no longer than {limit.lasting:g} s {word} {at}"
        low, top = (None, edge) if high else (edge, None)
        return Judged(seen.subject, metric, seen.value, low, top, number, at_most, named, why=why, well=well)


def _bounds(limit: Limit) -> tuple[float, float]:
    """The limit, and where it is well again."""
    bound = limit.above if limit.above is not None else limit.below
    assert bound is not None, "the configuration gives one of the two"
    return float(bound), float(limit.clear if limit.clear is not None else bound)


PLUGIN = analyzer(Config, lambda name, config, tools: Threshold(name, config))
