"""Numbers that are not counted but read off the daemon when the metrics are written out; that changes nothing."""

from collections import Counter
from collections.abc import Iterable, Mapping

from x0tta6bl4.kernel.facts import Severity
from x0tta6bl4.kernel.lessons import Matures, Progress
from x0tta6bl4.status.face import Face
from x0tta6bl4.status.report import budgets

Gauge = Iterable[tuple[Mapping[str, str], float]]


def derive_gauges(face: Face) -> None:
    """The face is asked anew each time: a reload may have replaced the loop."""

    def open_incidents() -> Gauge:
        found = Counter(incident.severity for incident in face.loop.incidents.open)
        return [({"severity": severity.value}, float(found[severity])) for severity in Severity]

    def open_since() -> Gauge:
        oldest: dict[Severity, float] = {}
        for one in face.loop.incidents.open:
            onset = one.onset_at or one.opened_at
            oldest[one.severity] = min(onset, oldest.get(one.severity, onset))
        return [({"severity": severity.value}, round(onset, 3)) for severity, onset in oldest.items()]

    def conditions() -> Gauge:
        # Several may be of one kind; that there is one is what the number says.
        kinds = {(one.code, one.severity) for one in face.conditions()}
        return [({"code": code, "severity": severity}, 1.0) for code, severity in sorted(kinds)]

    def budgets_left() -> Gauge:
        return [
            ({"budget": budget, "name": name}, float(spent["left"]))
            for budget, told in budgets(face.loop).items()
            for name, spent in told["spent"].items()
        ]

    def approvals_waiting() -> Gauge:
        wall = face.loop.parts.clock.wall()
        waiting = sum(a.state == "wanted" and a.expires > wall for a in face.loop.standing.approvals.values())
        return [({}, float(waiting))]

    def last_progress() -> Gauge:
        loop, clock = face.loop, face.loop.parts.clock
        # Two clocks are never read at the same instant: what is below a millisecond is not true.
        return [({}, round(clock.wall() - (clock.monotonic() - loop.last_progress), 3))]

    def interval() -> Gauge:
        return [({}, face.loop.interval)]

    def journal_failing() -> Gauge:
        return [({}, float(bool(face.loop.standing.store_trouble)))]

    def learners() -> list[tuple[str, Progress]]:
        return [(one.name, one.progress()) for one in face.loop.parts.analyzers if isinstance(one, Matures)]

    def learnt() -> Gauge:
        return [
            ({"analyzer": name, "state": state}, float(count))
            for name, how in learners()
            for state, count in (("learnt", how.known - how.learning), ("learning", how.learning))
        ]

    def turned_away() -> Gauge:
        return [({"analyzer": name}, float(how.turned_away)) for name, how in learners()]

    for name, read in (
        ("x0tta6bl4_incidents_open", open_incidents),
        ("x0tta6bl4_incident_open_since_timestamp_seconds", open_since),
        ("x0tta6bl4_condition", conditions),
        ("x0tta6bl4_budget_left", budgets_left),
        ("x0tta6bl4_approvals_waiting", approvals_waiting),
        ("x0tta6bl4_loop_last_progress_timestamp_seconds", last_progress),
        ("x0tta6bl4_loop_interval_seconds", interval),
        ("x0tta6bl4_journal_failing", journal_failing),
        ("x0tta6bl4_baselines", learnt),
        ("x0tta6bl4_series_turned_away", turned_away),
    ):
        face.metrics.derive(name, read)
