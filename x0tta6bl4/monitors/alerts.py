"""Hears the alerts that Alertmanager or Grafana sends to the endpoint, and reports whether they fire, and for whom.

An alert is known by its notices alone: it fires from the first until one says that it is resolved. Asked in between,
the monitor says again what it was told last. An alert that its sender does not repeat is not known any more after
``stale_after``, which is not the same as resolved. When the daemon starts it knows of none until they are repeated.
That nobody sends anything looks to it as if nothing fired.
"""

import asyncio
import logging
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Lost, Observation, Occurrence, Severity
from x0tta6bl4.kernel.plugin import PluginConfig, monitor
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.units import Seconds
from x0tta6bl4.ports.alerts import Alert, Alerts, Told
from x0tta6bl4.ports.clock import Clock

log = logging.getLogger("x0tta6bl4.monitors.alerts")

MOST = 1000
"""Pairs of subject and alert that are known at a time. Senders may write what they like into an alert's name."""
AT_ONCE = 100
"""Notices that are heard before others on the event loop have their turn."""
LONGEST_NAME = 80
SHOWN = 200
WORDS = ("summary", "description", "message")
"""Annotations that say what it is about; the first that is there is shown."""
GRADES = tuple(Severity)
"""``alert_…_severity`` is a place in this row."""


Grade = Literal["info", "warning", "major", "critical"]
USUAL: Mapping[str, Grade] = {
    "critical": "critical",
    "page": "critical",
    "error": "major",
    "warning": "warning",
    "info": "info",
}


class Config(PluginConfig):
    subject_labels: list[str] = Field(default=["subject", "service", "job", "instance"], min_length=1, max_length=20)
    """Labels that may name the subject, asked in this order. The first one counts whose value is the name of a subject
    under care, with or without a port behind it; an alert without such a label is ignored."""
    only: list[str] = ["*"]
    """Names of alerts that are heard, or shell patterns. Fewer keep alerts away that nobody wants to act on."""
    never: list[str] = []
    """Names of alerts that are not heard, or shell patterns, whatever ``only`` says."""
    severities: dict[str, Grade] = dict(USUAL)
    """What the words of the label ``severity`` mean here. Given, it takes the place of the usual ones."""
    severity: Grade = "warning"
    """How bad an alert is whose label ``severity`` is missing, or not among ``severities``."""
    stale_after: Seconds = Field(default=16200.0, ge=1)
    """Seconds after which an alert that was not repeated counts as unknown: longer than the sender's repeat_interval,
    which is 4h by default. Shorter forgets alerts that still fire; longer keeps incidents of alerts that were silenced,
    or whose sender is gone, in treatment for longer."""


@dataclass
class _Series:
    """One alert of one subject. Several may fire under one name, told apart by their other labels."""

    subject: str
    stem: str
    latest: Told
    firing: dict[str, Told] = field(default_factory=dict)


class AlertMonitor:
    def __init__(
        self, name: str, config: Config, clock: Clock, alerts: Alerts, subjects: Mapping[str, Subject]
    ) -> None:
        self.name = name
        self.config = config
        self._clock = clock
        self._alerts = alerts
        self._subjects = subjects
        self._series: dict[tuple[str, str], _Series] = {}
        self._severities = {word.lower(): grade for word, grade in config.severities.items()}
        self._unheard: set[tuple[str, str]] = set()
        """What was heard before a reload and is not to be heard any more."""
        self._trouble = ""
        self._is_full = False

    async def observe(self) -> Sequence[Observation]:
        """What was told last, as it stands: nobody can be asked."""
        if self._trouble:
            raise ProbeFailed(self._trouble)
        now = self._clock.monotonic()
        unheard, self._unheard = self._unheard - self._series.keys(), set()
        seen: list[Observation] = [
            Lost(self.name, subject, metric) for subject, stem in sorted(unheard) for metric in _metrics(stem)
        ]
        for key, series in list(self._series.items()):
            lost = [print_ for print_, told in series.firing.items() if self._is_stale(told, now)]
            for print_ in lost:
                del series.firing[print_]
            if series.firing or not (lost or self._is_stale(series.latest, now)):
                seen += self._numbers(series)
            else:
                del self._series[key]
                seen += (Lost(self.name, series.subject, metric) for metric in _metrics(series.stem))
        return seen

    async def watch(self, report: Callable[[Occurrence], None]) -> None:
        self._trouble = ""
        try:
            self._take_up(self._alerts.firing())
            async with aclosing(self._alerts.listen(self._wants)) as notices:
                number = 0
                async for told in notices:
                    number += 1
                    if number % AT_ONCE == 0:
                        await asyncio.sleep(0)  # where many wait, the next is there at once
                    if (series := self._heard(told)) is not None:
                        report(self._said(told, series))
        except (ProbeFailed, OSError) as error:
            self._trouble = str(error)
            raise

    def _take_up(self, firing: Sequence[Told]) -> None:
        """What fired before a reload still does: asked, we say so."""
        self._series.clear()
        for told in firing:
            if self._wants(told.alert):
                self._heard(told)
            elif (key := self._key(told.alert)) is not None:
                self._unheard.add(key)

    def _is_stale(self, told: Told, now: float) -> bool:
        return now - told.at > self.config.stale_after

    def _wants(self, alert: Alert) -> bool:
        name, key = alert.name, self._key(alert)
        if key is None or not any(fnmatchcase(name, pattern) for pattern in self.config.only):
            return False
        if any(fnmatchcase(name, pattern) for pattern in self.config.never):
            return False
        is_full = key not in self._series and len(self._series) >= MOST
        if is_full and not self._is_full:
            log.warning(
                "more alerts than can be kept; new ones are ignored", extra={"instance": self.name, "most": MOST}
            )
        self._is_full = is_full
        return not is_full

    def _key(self, alert: Alert) -> tuple[str, str] | None:
        """Subject and stem of the metric; None when it speaks of nobody here."""
        stem = _stem(alert.name)
        for label in self.config.subject_labels if stem else ():
            value = alert.labels.get(label, "")
            host, _, port = value.rpartition(":")
            for subject in (value, host if port.isdigit() else value):
                if subject in self._subjects:
                    return subject, stem
        return None

    def _heard(self, told: Told) -> _Series | None:
        key = self._key(told.alert)
        if key is None:
            return None  # it was left by a reader that had other subjects
        series = self._series.setdefault(key, _Series(*key, told))
        series.latest = told
        series.firing.pop(told.alert.fingerprint, None)
        if told.alert.firing:
            series.firing[told.alert.fingerprint] = told
        return series

    def _said(self, told: Told, series: _Series) -> Occurrence:
        kind = "alert resolved" if not told.alert.firing else "alert firing" if told.is_new else "alert repeated"
        return Occurrence(self.name, series.subject, kind, told.at, _words(told.alert), tuple(self._numbers(series)))

    def _numbers(self, series: _Series) -> list[Observation]:
        up, severity = _metrics(series.stem)
        if not series.firing:
            alert = series.latest.alert
            return [Observation(self.name, series.subject, up, 1.0, detail=f"{_words(alert)} (resolved)")]
        worst = max(series.firing.values(), key=lambda told: self._grade(told.alert)).alert
        more = len(series.firing) - 1
        detail = _words(worst) + (f" (and {more} more of that name)" if more else "")
        return [
            Observation(self.name, series.subject, up, 0.0, detail=detail),
            Observation(self.name, series.subject, severity, float(self._grade(worst))),
        ]

    def _grade(self, alert: Alert) -> int:
        word = alert.labels.get("severity", "").lower()
        return GRADES.index(Severity(self._severities.get(word, self.config.severity)))


def _stem(name: str) -> str:
    """``HighErrorRate`` is ``high_error_rate``; empty when nothing of it can stand in a metric's name."""
    plain = unicodedata.normalize("NFKD", name[:LONGEST_NAME]).encode("ascii", "ignore").decode("ascii")
    parted = re.sub(r"([a-z0-9])([A-Z])|([A-Z])([A-Z][a-z])", r"\1\3_\2\4", plain)
    return re.sub(r"[^a-z0-9]+", "_", parted.lower()).strip("_")


def _metrics(stem: str) -> tuple[str, str]:
    return f"alert_{stem}_up", f"alert_{stem}_severity"


def _words(alert: Alert) -> str:
    """On one line and bounded: it is shown in terminals, pages and messages."""
    text = next((alert.annotations[word] for word in WORDS if alert.annotations.get(word)), "")
    line = " ".join(f"{alert.name}: {text}".split()).rstrip(":")
    shown = "".join(sign for sign in line if sign.isprintable())
    return shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…"


PLUGIN = monitor(
    Config, lambda name, config, tools: AlertMonitor(name, config, tools.clock, tools.alerts, tools.subjects)
)
