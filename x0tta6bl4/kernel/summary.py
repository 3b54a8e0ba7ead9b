"""How a subject is, in one word and one sentence: for the status page, the store and the command line."""

from dataclasses import dataclass

from x0tta6bl4.kernel.facts import IncidentState, Severity
from x0tta6bl4.kernel.incidents import Incidents, is_soft
from x0tta6bl4.kernel.sight import Sight

SIGNS = ("process_up", "unit_up", "health_up", "work_up")


@dataclass(frozen=True)
class Description:
    name: str
    state: str
    """``well``, ``unknown``, ``failing`` (a probe says no, no finding yet), ``treated``, or the fault's name."""
    since: float
    """Monotonic seconds."""
    summary: str


def describe(sight: Sight, incidents: Incidents, subject: str, now: float) -> Description:
    all_of_them = sorted(incidents.of_subject(subject), key=lambda i: i.opened_at)
    # What is merely worth noting is no trouble.
    open_ones = [i for i in all_of_them if i.severity is not Severity.INFO]
    for incident in open_ones:
        finding = incidents.finding(incident)
        since = finding.since if finding is not None and finding.since else now
        if incident.state is IncidentState.RESPONDING:
            return Description(subject, "treated", since, f"{incident.fault}: {incident.summary}")
        if finding is not None:
            return Description(subject, incident.fault, since, finding.summary)
    if open_ones:
        return Description(subject, "recovering", now, f"no longer found: {open_ones[0].summary}")
    beside = incidents.beside(subject)
    if beside is not None and not is_soft(beside[0].fault, beside[0].data):
        finding, whole = beside
        with_whom = ""
        if whole is not None:
            with_whom = f"; waits for {whole.subject} (incident {whole.id}: {whole.fault})"
        return Description(subject, finding.fault, finding.since or now, finding.summary + with_whom)
    streaks = [(metric, s) for metric in SIGNS if (s := sight.streak(subject, metric)) is not None]
    failing = [(metric, s) for metric, s in streaks if not s.up]
    if failing:
        metric, streak = failing[0]
        seen = sight.latest(subject, metric)
        return Description(subject, "failing", streak.since, f"{metric} says no: {seen.detail if seen else ''}")
    blind = [(name, why, since) for name, (why, whom, since) in sight.blind_instances.items() if subject in whom]
    if blind:
        return Description(subject, "unknown", blind[0][2], f"{blind[0][0]} cannot see: {blind[0][1]}")
    noted = [f"{i.fault}: {i.summary}" for i in all_of_them if incidents.finding(i) is not None]
    if beside is not None:
        noted.append(f"{beside[0].fault}: {beside[0].summary}")
    remark = f"; noted, {'; '.join(noted)}" if noted else ""
    if streaks:
        return Description(
            subject,
            "well",
            max(s.since for _, s in streaks),
            "every probe says yes: " + ", ".join(metric for metric, _ in streaks) + remark,
        )
    if sight.about(subject):
        found = f"noted, {'; '.join(noted)}" if noted else "nothing is found"
        return Description(subject, "well", now, f"{len(sight.about(subject))} series are read, {found}")
    return Description(subject, "unknown", now, "nothing has been seen of it yet")
