"""Finds a fault in every alert that others say is firing, and takes their word that it is over for the proof."""

import re
from collections.abc import Sequence

from x0tta6bl4.kernel.facts import Condition, Finding, Severity
from x0tta6bl4.kernel.judged import Judged, judged_data
from x0tta6bl4.kernel.plugin import PluginConfig, analyzer
from x0tta6bl4.kernel.sight import View

METRIC = re.compile(r"alert_([a-z0-9_]+)_up")
GRADES = tuple(Severity)


class Config(PluginConfig):
    """Nothing to set: which alerts are heard, and how bad they are, is told to the monitor."""


class AlertAnalyzer:
    def __init__(self, name: str) -> None:
        self.name = name

    def analyze(self, view: View) -> Sequence[Finding]:
        findings = []
        for metric in view.sight.metrics():
            match = METRIC.fullmatch(metric)
            if match is None:
                continue
            for seen in view.select(metric):
                if seen.value >= 0.5:
                    continue
                streak = view.streak(seen.subject, metric)
                grade = view.value(seen.subject, f"alert_{match[1]}_severity")
                alert = match[1].replace("_", "-")
                judged = Judged(
                    seen.subject,
                    metric,
                    seen.value,
                    low=1.0,
                    why=f"others tell that the alert {alert} is firing",
                    well=f"the word of whoever raised it that {alert} is over",
                )
                findings.append(
                    Finding(
                        analyzer=self.name,
                        subject=seen.subject,
                        fault=f"alert-{alert}",
                        summary=f"{seen.subject}: {seen.detail or alert}",
                        severity=_severity(grade),
                        since=streak.since if streak is not None else seen.at,
                        because=(seen,),
                        healthy_when=(Condition(metric, ">=", 1.0),),
                        data={"alert": alert, **judged_data([judged])},
                    )
                )
        return findings


def _severity(grade: float | None) -> Severity:
    """What another monitor than ours has seen under such a name comes without a grade."""
    return GRADES[min(max(int(grade), 0), len(GRADES) - 1)] if grade is not None else Severity.WARNING


PLUGIN = analyzer(Config, lambda name, config, tools: AlertAnalyzer(name))
