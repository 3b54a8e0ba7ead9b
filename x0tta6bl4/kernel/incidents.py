"""Incidents: findings of one subject and fault gathered into one story, from the first sign to the proof of its end."""

import secrets
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from x0tta6bl4.kernel.facts import Attributes, Finding, Incident, IncidentState, Move, Observation, shown
from x0tta6bl4.kernel.sight import View
from x0tta6bl4.kernel.subjects import Subject, subject_of
from x0tta6bl4.ports.clock import Clock

Key = tuple[str, str]

SOFT = frozenset({"unusual", "strange", "changed"})
"""Faults that only hint at something: nobody treats them. A finding with ``soft`` in its data is one as well."""
HINTED = 1800.0
"""Seconds without a word from its analyzer after which a hint is nobody's any more, whatever its sign says: what was
unusual to an earlier life of the daemon may have become usual."""
SETTLE = 3.0
"""Seconds of health on end after which an incident that nobody treated has recovered."""
ABSENT = 30.0
"""The same for incidents that no probe can prove: so long without a finding."""
REOPEN = 600.0
"""Seconds within which the same fault is the old incident again, not a new one."""
AGE_OUT = 24 * 3600.0
"""Seconds without any word, good or bad, after which an open incident is closed as nobody's any more."""
GONE = 120.0
"""The same for a subject that is under care no longer and of which no monitor speaks: an edit took it out."""
DEPENDENCY_SETTLE = 3.0
"""Seconds that a dependent gets to recover by itself once what it depends on is well again."""
MERGED = "merged"
"""How an incident ended that turned out to be a part of another."""
WITH = "together with it: "
MENTIONED = 5
"""Of what belongs to an incident, so many are named among its reasons; its data has the others."""
JOINED = ("together", "together_count", "causes", "cause")
"""What in the data of a finding says what else belongs to it."""
STAYS = ("part_of", "storm")
"""What in an incident's data does not come from its finding, and stays when that is told anew."""


def is_soft(fault: str, data: Attributes) -> bool:
    return fault in SOFT or data.get("soft") is True


@dataclass(frozen=True)
class Changes:
    opened: tuple[Incident, ...] = ()
    changed: tuple[Incident, ...] = ()
    closed: tuple[Incident, ...] = ()
    relapsed: tuple[Incident, ...] = ()
    """Those of the opened that were proved well, and were only being tidied up after; as they were."""
    wake_at: Mapping[str, float] = field(default_factory=dict)
    """Subject -> monotonic time at which it deserves another look, even if nothing happens."""
    linked: tuple[Incident, ...] = ()
    """Those of which nothing is different but what belongs to them."""


class Incidents:
    """The open ones, and those closed a short while ago. Owned by the loop; durable through the knowledge it
    writes to.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[Key, Incident] = {}
        self._of: dict[str, dict[str, None]] = {}
        """Subject -> the faults of its open incidents, oldest first: who asks for one asks in every turn."""
        self._closed: dict[Key, Incident] = {}
        self._well_since: dict[str, float] = {}
        self._last_found: dict[str, float] = {}
        self._findings: dict[Key, Finding] = {}
        self._found_at: dict[Key, float] = {}
        self._dependency_down: dict[str, float] = {}
        self._beside: dict[str, tuple[Finding, Key | None]] = {}
        """Subject -> what is found of it that is no incident of its own, and of which it is a part."""
        self._moves: dict[str, dict[int, Move]] = {}

    def load(self, incidents: Iterable[Incident], closed: Iterable[Incident] = ()) -> None:
        """Takes up what an earlier life of the daemon left open."""
        now = self._clock.monotonic()
        for incident in incidents:
            state = IncidentState.OPEN if incident.state is IncidentState.RESPONDING else incident.state
            self._keep(replace(incident, state=state))
            self._last_found[incident.id] = now
        for incident in closed:
            self._closed[incident.subject, incident.fault] = incident

    @property
    def open(self) -> Sequence[Incident]:
        return tuple(self._open.values())

    @property
    def closed(self) -> Iterable[Incident]:
        """Those that were closed a short while ago."""
        return self._closed.values()

    def get(self, subject: str, fault: str) -> Incident | None:
        return self._open.get((subject, fault))

    def known(self, incident: Incident) -> Incident:
        """That incident as it is by now, open or closed."""
        key = (incident.subject, incident.fault)
        return next(
            (i for i in (self._open.get(key), self._closed.get(key)) if i is not None and i.id == incident.id), incident
        )

    def of_subject(self, subject: str) -> list[Incident]:
        return [self._open[subject, fault] for fault in self._of.get(subject, ())]

    def finding(self, incident: Incident) -> Finding | None:
        """What is found of it now; None when no analyzer said so at the last look."""
        return self._findings.get((incident.subject, incident.fault))

    def found_again(self, incident: Incident, since: float) -> list[Finding]:
        """What turns later than that moment have found that says it is not over: the fault, or another by its signs."""
        signs = set(incident.healthy_when)
        return [
            f
            for (name, fault), f in self._findings.items()
            if name == incident.subject
            and self._found_at.get((name, fault), since) > since
            and (fault == incident.fault or not signs.isdisjoint(f.healthy_when))
        ]

    def put(self, incident: Incident, moves: Iterable[Move] = ()) -> None:
        """The incident has moved on, by these moves of its runbook: they are kept until they are on disk."""
        key = (incident.subject, incident.fault)
        for move in moves:
            self._moves.setdefault(incident.id, {})[move.number] = move
        if incident.state is IncidentState.CLOSED:
            self._open.pop(key, None)
            mine = self._of.get(incident.subject, {})
            mine.pop(incident.fault, None)
            if not mine:
                self._of.pop(incident.subject, None)
            self._closed[key] = incident
            self._findings.pop(key, None)
            self._found_at.pop(key, None)
            self._well_since.pop(incident.id, None)
            self._last_found.pop(incident.id, None)
        else:
            self._keep(incident)

    def merge(self, incident: Incident, into: Incident) -> Incident:
        """It turned out to be a part of another one, whose story goes on for both."""
        wall = self._clock.wall()
        part_of = {"incident": into.id, "subject": into.subject, "fault": into.fault}
        merged = replace(
            incident,
            state=IncidentState.CLOSED,
            closed_at=wall,
            updated_at=wall,
            ended=MERGED,
            rung="",
            tries=0,
            because=(*incident.because, f"it is a part of {into.id}: {into.subject} is {into.fault}"),
            data={**incident.data, "part_of": part_of},
        )
        self.put(merged)
        return merged

    def stand_beside(self, found: Mapping[str, Finding], into: Mapping[Key, Key], view: View) -> None:
        """What this turn found that is no incident of its own; what it was not about is as it was."""
        for name in [name for name in self._beside if view.in_scope(name)]:
            del self._beside[name]
        for name, finding in found.items():
            self._beside[name] = finding, into.get((finding.subject, finding.fault))

    def beside(self, subject: str) -> tuple[Finding, Incident | None] | None:
        """What is found of it that is no incident of its own, and the open one that it is a part of."""
        found = self._beside.get(subject)
        if found is None:
            return None
        finding, into = found
        return finding, None if into is None else self._open.get(into)

    def _keep(self, incident: Incident) -> None:
        self._open[incident.subject, incident.fault] = incident
        self._of.setdefault(incident.subject, {})[incident.fault] = None

    def unsaved(self, incident: str) -> tuple[Move, ...]:
        """Its moves that the journal has not got yet, in order."""
        return tuple(move for _, move in sorted(self._moves.get(incident, {}).items()))

    def saved(self, moves: Iterable[Move]) -> None:
        for move in moves:
            mine = self._moves.get(move.incident, {})
            mine.pop(move.number, None)
            if not mine:
                self._moves.pop(move.incident, None)

    def take(
        self, findings: Sequence[Finding], view: View, *, complete: bool = True, merging: Collection[Key] = ()
    ) -> Changes:
        """One turn's findings. What is in scope and was not found again is looked at for its end.

        Not ``complete``: an analyzer failed, so that its silence about what no probe can prove means nothing.
        ``merging``: open ones that were found, and are about to be merged into others.
        """
        now, wall = view.now, self._clock.wall()
        opened: list[Incident] = []
        changed: list[Incident] = []
        closed: list[Incident] = []
        relapsed: list[Incident] = []
        linked: list[Incident] = []
        wake_at: dict[str, float] = {}
        found: set[Key] = set()
        for finding in findings:
            key = (finding.subject, finding.fault)
            found.add(key)
            self._findings[key] = finding
            self._found_at[key] = now
            incident = self._open.get(key)
            if incident is None:
                incident = self._opened(finding, wall)
                opened.append(incident)
            elif _came_back(incident, view):
                # Whatever its runbook still tidies up or waits for, it is down again: that comes first.
                relapsed.append(incident)
                incident = self._again(incident, finding, wall)
                opened.append(incident)
            else:
                fresh = _updated(incident, finding, wall)
                if fresh is not incident:
                    changed.append(fresh)
                elif _is_linked_anew(incident, finding, wall):
                    fresh = _relinked(incident, finding.data, wall)
                    linked.append(fresh)
                incident = fresh
            self._keep(incident)
            self._last_found[incident.id] = now
            self._well_since.pop(incident.id, None)
        for key, incident in list(self._open.items()):
            if key in found or key in merging or not view.in_scope(incident.subject):
                continue
            self._findings.pop(key, None)
            if incident.state is IncidentState.RESPONDING or incident.proved or incident.unsettled:
                continue
            if not complete and not incident.healthy_when:
                self._last_found[incident.id] = now
            ended, look_again = self._ended(incident, view)
            if ended:
                done = replace(
                    incident, state=IncidentState.CLOSED, closed_at=wall, updated_at=wall, ended=ended, rung="", tries=0
                )
                self.put(done)
                closed.append(done)
            elif look_again is not None:
                wake_at[incident.subject] = min(look_again, wake_at.get(incident.subject, look_again))
        for key, old in list(self._closed.items()):
            if wall - (old.closed_at or 0) > REOPEN:
                del self._closed[key]
        return Changes(tuple(opened), tuple(changed), tuple(closed), tuple(relapsed), wake_at, tuple(linked))

    def _opened(self, finding: Finding, wall: float) -> Incident:
        before = self._closed.pop((finding.subject, finding.fault), None)
        # What was a part of another and goes on without it has come back from nowhere: it is a story of its own.
        if before is not None and before.ended != MERGED and wall - (before.closed_at or 0) <= REOPEN:
            return self._again(before, finding, wall)
        onset = self._onset(finding, wall)
        return Incident(
            id=f"inc-{int(wall * 1000):012x}{secrets.token_hex(3)}",
            subject=finding.subject,
            fault=finding.fault,
            state=IncidentState.OPEN,
            severity=finding.severity,
            summary=finding.summary,
            opened_at=onset,
            onset_at=onset,
            updated_at=wall,
            because=_reasons(finding),
            healthy_when=finding.healthy_when,
            data=finding.data,
        )

    def _again(self, before: Incident, finding: Finding, wall: float) -> Incident:
        return replace(
            before,
            state=IncidentState.OPEN,
            closed_at=None,
            ended="",
            proved=False,
            unsettled=False,
            reopened=before.reopened + 1,
            onset_at=self._onset(finding, wall),
            severity=finding.severity,
            summary=finding.summary,
            because=_reasons(finding),
            healthy_when=finding.healthy_when,
            data=finding.data,
            updated_at=wall,
        )

    def _onset(self, finding: Finding, wall: float) -> float:
        return min(wall, wall - (self._clock.monotonic() - finding.since)) if finding.since else wall

    def _ended(self, incident: Incident, view: View) -> tuple[str, float | None]:
        now, id = view.now, incident.id
        if not incident.healthy_when:
            absent_until = self._last_found.setdefault(id, now) + ABSENT
            return ("recovered", None) if now >= absent_until else ("", absent_until)
        if is_soft(incident.fault, incident.data) and now - self._last_found.setdefault(id, now) > HINTED:
            return "aged out", None
        signs = [view.sight.holds(c, incident.subject) for c in incident.healthy_when]
        if all(signs):
            well_until = self._well_since.setdefault(id, now) + SETTLE
            return ("recovered", None) if now >= well_until else ("", well_until)
        self._well_since.pop(id, None)
        if None in signs and False not in signs:
            silent = now - self._last_found.setdefault(id, now)
            if silent > (AGE_OUT if self._is_known(incident.subject, view) else GONE):
                return "aged out", None
        return "", None

    @staticmethod
    def _is_known(subject: str, view: View) -> bool:
        return subject in view.sight.subjects or bool(view.sight.about(subject))

    def waits_for(self, incident: Incident, view: View) -> str:
        """The sentence saying which dependency must be well first; empty when none is in the way."""
        return self.obstacle(incident.subject, self.finding(incident), view)

    def obstacle(self, subject: str, finding: Finding | None, view: View) -> str:
        """The same for what was found of a subject, whether it is an incident or not."""
        now = view.now
        for name in below(view.sight.subjects, subject):
            trouble = ""
            down = [i for i in self.of_subject(name) if is_down(i, view)]
            if down:
                trouble = f"{name} is {down[0].fault} (incident {down[0].id})"
            elif view.sight.is_acted_on(name):
                trouble = f"something is being done to {name}"
            else:
                # Its own probe may fail already while its analyzer still counts: the dependent must not win that race.
                failing = [
                    m
                    for m in ("process_up", "unit_up", "health_up", "work_up")
                    if (s := view.sight.streak(name, m)) is not None and not s.up
                ]
                if failing:
                    trouble = f"{name} does not look well either ({', '.join(failing)})"
                else:
                    trouble = self._unheard(name, finding, view)
            if trouble:
                self._dependency_down[name] = now
                return f"waits for its dependency: {trouble}"
            since = self._dependency_down.get(name)
            if since is not None and now - since < DEPENDENCY_SETTLE:
                return f"gives itself {DEPENDENCY_SETTLE:g} s to recover now that {name} is well again"
        return ""

    @staticmethod
    def _unheard(name: str, finding: Finding | None, view: View) -> str:
        """A dependency that hangs is silent before it is found to hang: it must have answered since the
        trouble began.
        """
        # One that has gone blind will not hear of it again: that is no reason to leave the dependent down for ever.
        asked = [
            s
            for m in ("work_up", "health_up")
            if (s := view.sight.streak(name, m)) is not None
            and (seen := view.latest(name, m)) is not None
            and seen.source not in view.sight.blind_instances
        ]
        if finding is None or finding.fault == "dead" or not asked:
            return ""  # what is gone is gone, whatever others say at their next look
        heard = max((s.last_yes for s in asked if s.last_yes is not None), default=None)
        if heard is not None and heard > finding.since:
            return ""
        return f"{name} has not answered since this began"


def _came_back(incident: Incident, view: View) -> bool:
    """Whether what was proved to be over is not: not while something is being done, which has a proof of its own."""
    return (
        incident.proved
        and incident.state is not IncidentState.RESPONDING
        and any(view.sight.holds(c, incident.subject) is False for c in incident.healthy_when)
    )


def below(subjects: Mapping[str, Subject], name: str, most: int | None = None) -> list[str]:
    """What it depends on, nearest first, and what that depends on; ``most`` of them."""
    found: dict[str, None] = {}
    queue = deque(subject_of(subjects, name).depends_on)
    while queue and (most is None or len(found) < most):
        one = queue.popleft()
        if one != name and one not in found:
            found[one] = None
            queue += subject_of(subjects, one).depends_on
    return list(found)


def is_down(trouble: Incident | Finding, view: View) -> bool:
    """Whether it keeps its subject from answering: a leak, or a certificate that expires, does not.

    What others alert on may be anything: our own probes say whether it answers.
    """
    return trouble.fault not in ("blind", "overloaded") and any(
        c.metric.endswith("_up") and not c.metric.startswith("alert_") and not view.sight.holds(c, trouble.subject)
        for c in trouble.healthy_when
    )


def _reasons(finding: Finding) -> tuple[str, ...]:
    reasons = []
    for fact in finding.because:
        if isinstance(fact, Observation):
            reasons.append(
                f"{fact.metric} is {shown(fact.metric, fact.value)}"
                + (f": {fact.detail}" if fact.detail else "")
                + f" (seen by {fact.source})"
            )
        else:
            reasons.append(f"{fact.kind}" + (f": {fact.detail}" if fact.detail else "") + f" (told by {fact.source})")
    return with_others(reasons, finding.data)


def with_others(because: Iterable[str], data: Attributes) -> tuple[str, ...]:
    """The reasons, with what else belongs to it in one line; that line of before is replaced."""
    reasons = [reason for reason in because if not reason.startswith(WITH)]
    told = data.get("together")
    if isinstance(told, list | tuple) and told:
        count = data.get("together_count", len(told))
        names = [f"{one['subject']} ({one['fault']})" for one in told[:MENTIONED]]
        more = f" and {count - len(names)} more" if count > len(names) else ""
        reasons.append(WITH + ", ".join(names) + more)
    return tuple(reasons)


def _relinked(incident: Incident, data: Attributes, wall: float) -> Incident:
    """What belongs to it is told anew; all else stays as it is."""
    kept = {name: value for name, value in incident.data.items() if name not in JOINED}
    joined = {name: data[name] for name in JOINED if name in data}
    fresh = {**kept, **joined}
    return replace(incident, data=fresh, because=with_others(incident.because, fresh), updated_at=wall)


def _is_linked_anew(incident: Incident, finding: Finding, wall: float) -> bool:
    """Who belongs to it is told at once; that the causes weigh otherwise than before, only now and then."""
    before, after = incident.data, finding.data
    if before.get("together") != after.get("together"):
        return True
    return before.get("causes") != after.get("causes") and wall - incident.updated_at >= 30


def _updated(incident: Incident, finding: Finding, wall: float) -> Incident:
    """The same object when nothing that matters has changed, so that nothing is written for it."""
    worse = finding.severity != incident.severity
    if (
        not worse
        and finding.healthy_when == incident.healthy_when
        and (finding.summary == incident.summary or wall - incident.updated_at < 30)
    ):
        return incident
    return replace(
        incident,
        severity=finding.severity,
        summary=finding.summary,
        because=_reasons(finding),
        healthy_when=finding.healthy_when,
        data={**finding.data, **{name: incident.data[name] for name in STAYS if name in incident.data}},
        updated_at=wall,
    )
