"""What was once seen of a real service that broke is judged again: the same findings, the same first step, no others.

The recordings were made by ``tests/recordings/record.py`` with the real monitors; nothing was healed meanwhile. The
replay is analyze and plan on paper: no loop, no clock but the recorded one.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from x0tta6bl4.app import draw
from x0tta6bl4.kernel.facts import Finding, IncidentState, Observation, Occurrence
from x0tta6bl4.kernel.incidents import Incidents
from x0tta6bl4.kernel.plugin import Situation
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.settings.model import Settings
from x0tta6bl4.testing.fakes import FakeClock, tools

FOLDER = Path(__file__).parents[1] / "recordings"
RECORDINGS = sorted(FOLDER.glob("*.jsonl"))
START = 1000.0


@dataclass
class Replay:
    """Looks go in as they came; after each that wakes anybody, and at its end, the whole is judged."""

    file: Path
    findings: list[tuple[float, Finding]] = field(default_factory=list)
    """With the seconds since it was broken at which they were judged."""
    plans: list[tuple[float, list[str]]] = field(default_factory=list)
    waited: set[str] = field(default_factory=set)

    def run(self) -> "Replay":
        header, *lines = map(json.loads, self.file.read_text(encoding="utf-8").splitlines())
        self.header = header
        settings = Settings.model_validate({"subjects": header["subjects"], "state_dir": "/nowhere"})
        blueprint, problems = draw(settings, None)
        assert not problems, problems
        outside = tools(subjects=blueprint.subjects)
        self.analyzers = [c.plugin.build(c.name, c.config, outside) for c in blueprint.chosen["analyzers"]]
        (chosen,) = blueprint.chosen["planners"]
        self.planner = chosen.plugin.build(chosen.name, chosen.config, outside)
        self.sight, self.clock = Sight(blueprint.subjects), FakeClock(START)
        self.sight.alarm_on([c for a in self.analyzers if hasattr(a, "alarms") for c in a.alarms(blueprint.subjects)])
        self.incidents = Incidents(self.clock)
        for line in lines:
            self.clock.advance(START + line["at"] - self.clock.monotonic())
            woken = self._take_in(line)
            if woken:
                self._turn(frozenset(woken))
        self._turn(None)
        return self

    def _take_in(self, line: dict[str, Any]) -> set[str]:
        now = START + line["at"]
        seen = tuple(
            Observation(source, subject, metric, value, detail="".join(detail))
            for source, subject, metric, value, *detail in line["seen"]
        )
        if "happened" in line:
            source, subject, kind, how = line["happened"]
            return self.sight.happened(Occurrence(source, subject, kind, now, how, seen), now)
        return self.sight.record(seen, now, START + line["asked"])

    def _turn(self, scope: frozenset[str] | None) -> None:
        now = self.clock.monotonic()
        view = View(self.sight, now, scope, self.sight.take_occurrences(scope))
        found = [f for analyzer in self.analyzers for f in analyzer.analyze(view)]
        since = now - START - self.header["broken_at"]
        self.findings += [(since, f) for f in found]
        self.incidents.take(found, view)
        for incident in self.incidents.open:
            if self.incidents.finding(incident) is None or incident.state is IncidentState.RESPONDING:
                continue
            if self.incidents.waits_for(incident, view):
                self.waited.add(incident.subject)
                continue
            subject = self.sight.subjects[incident.subject]
            advance = self.planner.plan(incident, Situation(subject, self.clock.wall(), self.sight.subjects))
            assert advance is not None
            self.plans += [(since, [f"{step.action} {step.target}" for step in plan.steps]) for plan in advance.plans]


EACH = pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in RECORDINGS])


def test_there_are_recordings() -> None:
    assert len(RECORDINGS) >= 4


@EACH
def test_a_recorded_incident_is_judged_as_it_should_be(file: Path) -> None:
    replay = Replay(file).run()
    expect = replay.header["expect"]
    if not expect["fault"]:
        assert replay.findings == []
        return
    subject, fault = expect["subject"], expect["fault"]
    at = [when for when, f in replay.findings if (f.subject, f.fault) == (subject, fault)]

    assert at, {(f.subject, f.fault) for _, f in replay.findings}
    assert 0 <= at[0] <= expect["within"]
    assert all(when >= 0 for when, _ in replay.findings), "nothing before it was broken"
    assert {f.fault for _, f in replay.findings if f.subject == subject} == {fault}, "and no other word for it"
    assert replay.plans[0][1] == expect["plan"]


@EACH
def test_what_fails_only_because_of_its_dependency_is_never_planned_for(file: Path) -> None:
    replay = Replay(file).run()
    subject = replay.header["expect"]["subject"]

    assert {step.split()[1] for _, steps in replay.plans for step in steps} <= {subject}


@EACH
def test_judging_the_same_again_says_the_same(file: Path) -> None:
    assert Replay(file).run().findings == Replay(file).run().findings
