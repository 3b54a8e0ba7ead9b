"""Which findings belong together: hints join the trouble that they came with, dependents what they depend on."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from math import isfinite
from typing import Any

from x0tta6bl4.kernel.facts import Attributes, Finding, Incident, IncidentState, Severity
from x0tta6bl4.kernel.incidents import JOINED, MERGED, SOFT, Incidents, Key, below, is_down, is_soft, with_others
from x0tta6bl4.kernel.judged import judged_data, judged_of
from x0tta6bl4.kernel.sight import View
from x0tta6bl4.kernel.subjects import Subject

BEFORE = 300.0
"""Seconds before the onset of trouble from which on a hint may belong to it; and between hints that share the host, or
a metric."""
FOLLOWS = 1800.0
"""Seconds between hints of one subject, one group, or of a subject and what it depends on: what is slow to be felt in
one number after the other is one trouble all the same."""
AFTERMATH = 300.0
"""Seconds that hints get to become usual again once the trouble they came with is over."""
LINGER = 60.0
"""Seconds for which a hint that was not found again still belongs where it belonged."""
HELD_BACK = 3.5
"""Seconds that a dependent's finding is kept back while what it depends on looks unwell and is not found to be so:
longer than most faults take to be found, and than the dependent gets to recover when it is well again."""
LOOK_AGAIN = 0.5
ALIKE = 3
"""Subjects of which the same metric is unusual at the same time: then it is one trouble, whoever depends on whom."""
STORM = 5
"""Subjects from which on they are told as one storm."""
TOGETHER = 60.0
"""Seconds between two faults of one storm of faults."""
NEAREST = 64
"""Of what a subject depends on, so many are looked at, nearest first: a bound for graphs that nobody has pictured."""
TOLD, CAUSES, MEMBER_SERIES = 64, 8, 2
"""Members and causes that an incident tells of, and series of each member; how many members there are is told beside.
"""
RANK = {Severity.INFO: 0, Severity.WARNING: 1, Severity.MAJOR: 2, Severity.CRITICAL: 3}
LOCAL = frozenset({"process", "unit", "watched", "host"})
"""Kinds of subjects that live on this host, and suffer with it."""


@dataclass(frozen=True)
class Folded:
    """What one turn's findings come to. Each finding that went in is in ``findings``, ``into`` or ``held``."""

    findings: tuple[Finding, ...]
    """What is to be an incident, with the others in its data."""
    into: Mapping[Key, Key]
    """What is no incident of its own -> of which it is a part."""
    held: frozenset[Key] = frozenset()
    """Dependents of something that is about to be found, or that has just become well."""
    merged: Mapping[Key, Key] = field(default_factory=dict)
    """Open incidents that turned out to be a part of another -> of which."""
    linked: tuple[Incident, ...] = ()
    """Incidents that nothing was found of in this turn, and that others joined; with these."""
    beside: Mapping[str, Finding] = field(default_factory=dict)
    """Subject -> what is found of it without being an incident of its own, the worst."""
    wake_at: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Member:
    subject: str
    fault: str
    summary: str
    since: float
    """By the clock on the wall: also incidents of earlier lives have it."""
    severity: Severity
    series: int
    """How many of its series are unusual."""
    strength: float
    """How clearly it was decided, 0 to 1."""
    about: str
    name: str
    why: str
    """The cause that it names itself, if it does: whose, which metric or fault, and why."""
    metrics: tuple[str, ...]
    is_soft: bool
    found_at: float
    """Monotonic seconds of the turn that found it last."""
    finding: Finding | None = None
    judged: tuple[Mapping[str, Any], ...] = ()
    """Its most telling series, as its data has them."""

    @property
    def key(self) -> Key:
        return self.subject, self.fault

    def told(self) -> dict[str, Any]:
        told = {"subject": self.subject, "fault": self.fault, "summary": self.summary, "since": round(self.since, 3)}
        return {**told, "judged": list(self.judged)} if self.judged else told


@dataclass(slots=True)
class _Group:
    """One trouble: the finding that stands for it, which is its incident's, and the others."""

    key: Key
    is_soft: bool
    members: dict[Key, _Member] = field(default_factory=dict)
    """Of hints also the one that stands for it; of other trouble only those that joined it, also when they are gone."""
    incident: str = ""
    bout: int = 0
    began: float = 0.0
    """Wall-clock seconds at which it became a group: the oldest keeps its name."""
    over_at: float | None = None
    peak: Severity = Severity.INFO
    links: Attributes | None = None
    """None: they are to be worked out anew."""


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Something that is no hint, and is there or was until a moment ago."""

    key: Key
    since: float


class Correlation:
    """Belongs to the loop. Pure: it knows what it was handed in earlier turns, and what stands in the incidents' data;
    the same turns give the same answers, in whatever order the findings of a turn come.
    """

    def __init__(self) -> None:
        self._groups: dict[Key, _Group] = {}
        self._in: dict[Key, Key] = {}
        """Member -> its group."""
        self._held_since: dict[Key, float] = {}

    def fold(
        self,
        findings: Sequence[Finding],
        view: View,
        incidents: Incidents,
        *,
        complete: bool = True,
        is_treated: Callable[[Incident], bool] = lambda incident: False,
    ) -> Folded:
        """``complete``: no analyzer failed, so that silence means something. ``is_treated``: whether anything was done
        for an incident; such a one keeps its own story.
        """
        turn = _Turn(view, incidents, is_treated)
        for one in sorted(findings, key=_worst_first):
            if not is_soft(one.fault, one.data):
                turn.hard.setdefault((one.subject, one.fault), one)
        for one in sorted(findings, key=_worst_first):
            if (one.subject, one.fault) not in turn.hard:
                turn.soft.setdefault((one.subject, one.fault), one)
        self._catch_up(turn)
        self._expire(turn, complete)
        self._fold_dependents(turn)
        self._fold_hints(turn)
        kept = [f for f in findings if (f.subject, f.fault) in turn.out]
        told = [self._with_links(one, turn) for one in kept] + self._hints_told(turn)
        linked = self._linked({(one.subject, one.fault) for one in told}, turn)
        return Folded(
            tuple(sorted(told, key=lambda f: (f.subject, f.fault, f.analyzer))),
            turn.into,
            frozenset(turn.held),
            turn.merged,
            tuple(linked),
            turn.beside(),
            turn.wake_at,
        )

    # -- what is known from before ------------------------------------------------------------------------------------

    def _catch_up(self, turn: "_Turn") -> None:
        """Incidents open and close between turns, and outlive the daemon."""
        now, incidents = turn.view.now, turn.incidents
        for group in list(self._groups.values()):
            incident = incidents.get(*group.key)
            if incident is None:
                if group.over_at is None and (group.incident or group.key not in turn.hard):
                    group.over_at = now - turn.over_for(group.key)
                # Found anew, it is another bout, and who joined this one has nothing to do with that.
                is_past = group.over_at is not None and (now - group.over_at > AFTERMATH or group.key in turn.hard)
                if is_past and not group.is_soft:
                    self._forget(group)
            elif (
                group.is_soft or not group.incident or (incident.id, incident.reopened) == (group.incident, group.bout)
            ):
                group.incident, group.bout, group.over_at = incident.id, incident.reopened, None
            else:
                self._forget(group)  # of another bout
        for incident in incidents.open:
            key = incident.subject, incident.fault
            soft = is_soft(incident.fault, incident.data)
            if key not in self._groups and (soft or incident.data.get("together")):
                self._adopt(incident, soft, turn)

    def _adopt(self, incident: Incident, soft: bool, turn: "_Turn") -> None:
        """An earlier life of the daemon left it."""
        key = incident.subject, incident.fault
        self._in.pop(key, None)
        group = _Group(key, soft, {}, incident.id, incident.reopened, incident.opened_at, peak=incident.severity)
        self._groups[key] = group
        told = incident.data.get("together")
        for one in told if isinstance(told, list | tuple) else ():
            if (member := _member_told(one, turn.view.now)) is not None and member.key not in self._in:
                group.members[member.key] = member
                self._in[member.key] = key
        if soft:
            group.members[key] = _member_of_incident(incident, turn.view.now)
            self._in[key] = key
        group.links = {name: incident.data[name] for name in JOINED if name in incident.data}

    def _expire(self, turn: "_Turn", complete: bool) -> None:
        """Hints that are gone for a while belong nowhere any more."""
        view = turn.view
        for group in [g for g in self._groups.values() if g.is_soft]:
            for key, member in list(group.members.items()):
                is_gone = key not in turn.soft and view.now - member.found_at > LINGER
                if is_gone and complete and view.in_scope(member.subject):
                    del group.members[key]
                    del self._in[key]
                    group.links = None
            if not group.members:
                self._forget(group)
        for key in [k for k in self._held_since if k not in turn.hard and view.in_scope(k[0])]:
            del self._held_since[key]

    def _forget(self, group: _Group) -> None:
        self._groups.pop(group.key, None)
        for key in group.members:
            if self._in.get(key) == group.key:
                del self._in[key]

    def _group(self, key: Key, turn: "_Turn") -> _Group:
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(key, False, began=turn.wall)
            incident = turn.incidents.get(*key)
            if incident is not None:
                group.incident, group.bout = incident.id, incident.reopened
            elif key not in turn.out:  # it is over, and its hints are not yet
                group.over_at = turn.view.now - turn.over_for(key)
        return group

    def _join(self, group: _Group, member: _Member) -> None:
        elsewhere = self._groups.get(self._in.get(member.key, group.key))
        if elsewhere is not None and elsewhere is not group and elsewhere.members.pop(member.key, None) is not None:
            elsewhere.links = None
        before = group.members.get(member.key)
        group.members[member.key] = member
        self._in[member.key] = group.key
        if before is None or RANK[before.severity] != RANK[member.severity]:
            group.links = None

    # -- dependents of what is down ------------------------------------------------------------------------------------

    def _fold_dependents(self, turn: "_Turn") -> None:
        """What runs and does not answer because of something below it is no trouble of its own."""
        rooted: list[tuple[Key, Key]] = []
        for key, finding in sorted(turn.hard.items()):
            root = self._root_of(finding, turn)
            if root is None:
                turn.out.add(key)
            elif root == key:
                turn.held.add(key)
            else:
                rooted.append((key, root))
        roots = dict(rooted)
        for key, root in rooted:
            # Nothing stands for others that is a part of another itself.
            root = roots.get(root, root)
            if root in roots:
                turn.out.add(key)
                continue
            if root in turn.held:
                turn.held.add(key)
                continue
            self._held_since.pop(key, None)
            finding = turn.hard[key]
            self._absorb(key, self._group(root, turn))
            self._join(self._group(root, turn), _member_of(finding, turn))
            turn.into[key] = root
            if turn.incidents.get(*key) is not None:
                turn.merged[key] = root
        for key in turn.held:
            self._held_since.setdefault(key, turn.view.now)
        for key in (*turn.held, *turn.into):
            turn.wake_at[key[0]] = turn.view.now + LOOK_AGAIN

    def _root_of(self, finding: Finding, turn: "_Turn") -> Key | None:
        """What it is a part of; its own key while that is still to be seen; None: it stands for itself."""
        view, key = turn.view, (finding.subject, finding.fault)
        if not view.subject(finding.subject).depends_on or not _is_symptom(finding, view):
            return None
        own = turn.incidents.get(*key)
        if own is not None and turn.has_a_story(own):
            return None
        waits = turn.incidents.obstacle(finding.subject, finding, view)
        down = {
            name: where
            for name in turn.below(finding.subject)
            # In a circle nobody is the cause of all.
            if finding.subject not in turn.below(name) and (where := turn.down(name)) is not None
        }
        roots = [where for name, where in down.items() if down.keys().isdisjoint(turn.below(name))]
        if roots:
            return min(roots, key=lambda where: (turn.since(where), where))
        if not waits:
            return None
        group = self._groups.get(self._in.get(key, key))
        if group is not None and group.key != key and turn.incidents.get(*group.key) is not None:
            return group.key  # it is well again, and this one gets a moment to become so too
        if own is None and view.now - self._held_since.get(key, view.now) < HELD_BACK:
            return key
        return None

    def _absorb(self, key: Key, group: _Group) -> None:
        """What belonged to it belongs to where it belongs itself."""
        part = self._groups.get(key)
        if part is not None:
            for member in list(part.members.values()):
                self._join(group, member)
            self._forget(part)

    # -- hints ---------------------------------------------------------------------------------------------------------

    def _fold_hints(self, turn: "_Turn") -> None:
        if not turn.soft:
            return
        found = {key: _member_of(finding, turn) for key, finding in sorted(turn.soft.items())}
        explained = self._explained(found, turn)
        for key, root in explained.items():
            self._move(found[key], root, turn)
        left = {key: member for key, member in found.items() if key not in turn.into and key not in turn.held}
        for key, member in left.items():
            group = self._groups.get(self._in.get(key, key))
            if group is not None and group.is_soft:
                self._join(group, member)
        if any(key not in self._in for key in left):
            self._regroup(left, turn)

    def _explained(self, found: Mapping[Key, _Member], turn: "_Turn") -> dict[Key, Key]:
        """Which hints belong to trouble that is no hint. What stood for others takes those along."""
        troubles = _Troubles(turn)
        explained: dict[Key, Key] = {}
        for key, member in found.items():
            group = self._groups.get(self._in.get(key, key))
            if group is not None and not group.is_soft:
                if group.key in turn.held:
                    turn.held.add(key)
                else:
                    explained[key] = group.key
                continue
            own = turn.incidents.get(*key)
            if own is not None and turn.is_busy(own):
                continue
            trouble = troubles.near(member)
            if trouble is not None and (own is None or turn.is_open(trouble.key)):
                explained[key] = trouble.key
        for key in list(explained):
            group = self._groups.get(key)
            if group is not None and group.is_soft:
                for other, member in list(group.members.items()):
                    if other in found:
                        explained.setdefault(other, explained[key])
                    elif other != key:
                        self._move(member, explained[key], turn, is_found=False)
        return explained

    def _move(self, member: _Member, root: Key, turn: "_Turn", *, is_found: bool = True) -> None:
        before = self._groups.get(self._in.get(member.key, member.key))
        if before is not None and before.is_soft and before.key == member.key:
            self._forget(before)
        self._join(self._group(root, turn), member)
        if is_found:
            turn.into[member.key] = root
        if turn.incidents.get(*member.key) is not None:
            turn.merged[member.key] = root

    def _regroup(self, found: Mapping[Key, _Member], turn: "_Turn") -> None:
        """Hints that nothing explains, with those of before: each connected part is one."""
        known = {key: m for group in self._groups.values() if group.is_soft for key, m in group.members.items()}
        items = {**known, **found}
        sets = _Sets(items)
        for group in self._groups.values():
            if group.is_soft:
                sets.join(group.members)
        for one, other in _near(sorted(items.values(), key=lambda m: (m.since, m.key)), turn):
            sets.join((one, other))
        for part in sets.parts():
            groups = sorted(
                {g.key: g for key in part if (g := self._groups.get(self._in.get(key, key))) is not None}.values(),
                key=lambda g: (g.began, g.key),
            )
            if groups:
                group, *others = groups
            else:
                first = _ranked([items[key] for key in part], turn)[0][1].key
                group, others = _Group(first, True, began=turn.wall), []
                self._groups[first] = group
            for younger in others:
                self._forget(younger)
                if turn.incidents.get(*younger.key) is not None:
                    turn.merged[younger.key] = group.key
            for key in part:
                self._join(group, items[key])

    def _hints_told(self, turn: "_Turn") -> list[Finding]:
        """One finding for each trouble of hints, by the name under which it began."""
        told: list[Finding] = []
        for group in sorted((g for g in self._groups.values() if g.is_soft), key=lambda g: g.key):
            present = [key for key in group.members if key in turn.soft]
            if not present:
                # What this turn is not about is as it was: the incident must not end because a part was looked at.
                unseen = any(not turn.view.in_scope(m.subject) for m in group.members.values())
                if not (unseen and turn.view.in_scope(group.key[0]) and turn.incidents.get(*group.key)):
                    continue
            for key in present:
                if key != group.key:
                    turn.into[key] = group.key
            told.append(self._hint_told(group, turn))
        return told

    def _hint_told(self, group: _Group, turn: "_Turn") -> Finding:
        members = list(group.members.values())
        subjects = {m.subject for m in members}
        series = sum(m.series for m in members)
        worst = max([group.peak, *(m.severity for m in members)], key=RANK.__getitem__)
        if (len(subjects) >= 2 and series >= ALIKE) or len(subjects) >= STORM:
            worst = max(worst, Severity.WARNING, key=RANK.__getitem__)
        if worst is not group.peak:
            group.peak, group.links = worst, None  # it is not taken back: what comes and goes would tell a human twice
        head = group.members.get(group.key) or min(members, key=lambda m: (m.since, m.key))
        others = sorted((m for m in members if m.key != group.key), key=lambda m: (m.since, m.key))
        if group.links is None:
            group.links = _links(members, others, turn)
        finding = head.finding or Finding("kernel", *group.key, head.summary)
        summary = finding.summary
        first = min(members, key=lambda m: (m.since, m.key))
        if len(subjects) >= STORM:
            at = datetime.fromtimestamp(max(0.0, first.since)).astimezone().strftime("%H:%M:%S")
            summary = (
                f"storm: {series} series of {len(subjects)} subjects are unusual since {at}, "
                f"first {first.name} of {first.subject}"
            )
        elif others:
            summary = f"{summary}; together with {_names([m.subject for m in others if m.subject != head.subject])}"
            if subjects == {head.subject}:
                summary = f"{finding.summary}; it is {' and '.join(sorted({m.fault for m in others}))} as well"
        data = {name: value for name, value in finding.data.items() if not others or name not in JOINED}
        return replace(
            finding,
            subject=group.key[0],
            fault=group.key[1],
            severity=group.peak,
            summary=summary,
            since=turn.view.now - max(0.0, turn.wall - first.since),
            data=_with_cause({**data, **group.links}),
        )

    # -- what is told --------------------------------------------------------------------------------------------------

    def _with_links(self, finding: Finding, turn: "_Turn") -> Finding:
        key = finding.subject, finding.fault
        group = self._groups.get(key)
        if group is None or group.is_soft:
            data = _with_cause(finding.data)
            return finding if data is finding.data else replace(finding, data=data)
        if group.links is None:
            others = sorted(group.members.values(), key=lambda m: (m.since, m.key))
            group.links = _links([_member_of(finding, turn), *others], others, turn)
        return replace(finding, data={**finding.data, **group.links})

    def _linked(self, told: set[Key], turn: "_Turn") -> Iterator[Incident]:
        """Those whose own analyzer was not asked in this turn, and that others have joined."""
        for group in self._groups.values():
            if group.is_soft or group.links is not None or group.key in told:
                continue
            incident = turn.incidents.get(*group.key)
            if incident is None:
                continue
            own = _member_of_incident(incident, 0.0)
            others = sorted(group.members.values(), key=lambda m: (m.since, m.key))
            group.links = _links([own, *others], others, turn)
            data = {**{name: value for name, value in incident.data.items() if name not in JOINED}, **group.links}
            yield replace(incident, data=data, because=with_others(incident.because, data))


class _Turn:
    """What one fold works with."""

    def __init__(self, view: View, incidents: Incidents, is_treated: Callable[[Incident], bool]) -> None:
        self.view = view
        self.wall = view.wall
        self.incidents = incidents
        self.is_treated = is_treated
        self.hard: dict[Key, Finding] = {}
        self.soft: dict[Key, Finding] = {}
        self.out: set[Key] = set()
        self.into: dict[Key, Key] = {}
        self.held: set[Key] = set()
        self.merged: dict[Key, Key] = {}
        self.wake_at: dict[str, float] = {}
        self._below: dict[str, dict[str, None]] = {}
        self._down: dict[str, Key | None] = {}
        self._hard_of: dict[str, list[Key]] | None = None

    def below(self, name: str) -> Mapping[str, None]:
        """What it depends on, nearest first."""
        found = self._below.get(name)
        if found is None:
            found = self._below[name] = dict.fromkeys(below(self.view.sight.subjects, name, NEAREST))
        return found

    def down(self, name: str) -> Key | None:
        """The trouble that keeps it from answering, if there is one."""
        if name not in self._down:
            if self._hard_of is None:
                self._hard_of = {}
                for key in sorted(self.hard):
                    self._hard_of.setdefault(key[0], []).append(key)
            known = [
                (i.onset_at, (i.subject, i.fault))
                for i in self.incidents.of_subject(name)
                if not is_soft(i.fault, i.data) and is_down(i, self.view)
            ]
            found = [key for key in self._hard_of.get(name, ()) if is_down(self.hard[key], self.view)]
            self._down[name] = min(known)[1] if known else found[0] if found else None
        return self._down[name]

    def since(self, key: Key) -> float:
        """By the clock on the wall."""
        incident = self.incidents.get(*key)
        if incident is not None:
            return incident.onset_at or incident.opened_at
        return self.wall_of(self.hard[key].since)

    def is_open(self, key: Key) -> bool:
        """Whether it is an incident, or about to be one."""
        return key in self.out or self.incidents.get(*key) is not None

    def over_for(self, key: Key) -> float:
        """Seconds since it was closed."""
        closed = [i.closed_at or 0.0 for i in self.incidents.closed if (i.subject, i.fault) == key]
        return max(0.0, self.wall - max(closed, default=self.wall))

    def wall_of(self, monotonic: float) -> float:
        return self.wall - max(0.0, self.view.now - monotonic) if monotonic else self.wall

    def has_a_story(self, incident: Incident) -> bool:
        return (
            incident.state not in (IncidentState.OPEN, IncidentState.WAITING)
            or incident.passes > 0
            or incident.tries > 0
            or self.is_busy(incident)
        )

    def is_busy(self, incident: Incident) -> bool:
        """Whether its runbook has begun something, be it for a hint, that is not to be left in the middle."""
        return incident.proved or incident.unsettled or self.is_treated(incident)

    def is_host(self, name: str) -> bool:
        return (
            name == "host" or name.startswith(("disk:", "nic:")) or _kind(self.view.sight.subjects.get(name)) == "host"
        )

    def is_here(self, name: str) -> bool:
        return _kind(self.view.sight.subjects.get(name)) in LOCAL or self.is_host(name)

    def beside(self) -> dict[str, Finding]:
        """Of each subject the worst that is no incident of its own: trouble before hints."""
        found: dict[str, Finding] = {}
        for key in sorted({*self.into, *self.held}):
            finding = self.hard.get(key) or self.soft[key]
            before = found.get(key[0])
            if before is None or _worst_first(finding) < _worst_first(before):
                found[key[0]] = finding
        return found


class _Troubles:
    """Where the hints of a turn may belong, found by name: of each name the trouble that began first."""

    def __init__(self, turn: _Turn) -> None:
        self._turn = turn
        self._on: dict[str, _Trouble] = {}
        self._above: dict[str, _Trouble] = {}
        """Name -> trouble of something that depends on it."""
        self._group: dict[str, _Trouble] = {}
        self._host: _Trouble | None = None
        self._here: _Trouble | None = None
        for trouble in sorted(set(_troubles(turn)), key=lambda t: (t.since, t.key)):
            name = trouble.key[0]
            self._on.setdefault(name, trouble)
            for lower in turn.below(name):
                self._above.setdefault(lower, trouble)
            if group := turn.view.subject(name).group:
                self._group.setdefault(group, trouble)
            if turn.is_host(name):
                self._host = self._host or trouble
            if turn.is_here(name):
                self._here = self._here or trouble

    def near(self, hint: _Member) -> _Trouble | None:
        """The nearest that it can have come with."""
        turn, name = self._turn, hint.subject
        candidates = [
            self._on.get(name),
            *(self._on.get(below) for below in turn.below(name)),
            self._above.get(name),
            self._group.get(turn.view.subject(name).group),
            self._host if turn.is_here(name) else None,
            self._here if turn.is_host(name) else None,
        ]
        return next((t for t in candidates if t is not None and hint.since >= t.since - BEFORE), None)


def _troubles(turn: _Turn) -> Iterator[_Trouble]:
    for key in turn.out:
        yield _Trouble(key, turn.since(key))
    for incident in turn.incidents.open:
        key = incident.subject, incident.fault
        if key not in turn.into and key not in turn.held and not is_soft(incident.fault, incident.data):
            yield _Trouble(key, turn.since(key))
    for incident in turn.incidents.closed:
        key = incident.subject, incident.fault
        if (
            key not in turn.hard
            and not is_soft(incident.fault, incident.data)
            and incident.ended != MERGED
            and turn.wall - (incident.closed_at or 0.0) <= AFTERMATH
        ):
            yield _Trouble(key, incident.onset_at or incident.opened_at)


# -- hints among themselves --------------------------------------------------------------------------------------------


class _Sets:
    """Which belong together, directly or by way of others."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._parent: dict[Key, Key] = {key: key for key in keys}

    def _top(self, key: Key) -> Key:
        parent = self._parent
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    def join(self, keys: Iterable[Key]) -> None:
        for one, other in pairwise(keys):
            one, other = sorted((self._top(one), self._top(other)))
            self._parent[other] = one

    def parts(self) -> list[list[Key]]:
        parts: dict[Key, list[Key]] = {}
        for key in sorted(self._parent):
            parts.setdefault(self._top(key), []).append(key)
        return list(parts.values())


def _near(items: Sequence[_Member], turn: _Turn) -> Iterator[tuple[Key, Key]]:
    """Pairs that belong together; ``items`` by the time at which they began."""
    by_subject: dict[str, list[_Member]] = {}
    by_group: dict[str, list[_Member]] = {}
    by_metric: dict[str, list[_Member]] = {}
    on_host: list[_Member] = []
    for item in items:
        by_subject.setdefault(item.subject, []).append(item)
        if group := turn.view.subject(item.subject).group:
            by_group.setdefault(group, []).append(item)
        for metric in item.metrics:
            by_metric.setdefault(metric, []).append(item)
        if turn.is_host(item.subject):
            on_host.append(item)
    for row in (*by_subject.values(), *by_group.values()):
        yield from ((a.key, b.key) for a, b in pairwise(row) if b.since - a.since <= FOLLOWS)
    for item in items:
        for name in turn.below(item.subject):
            yield from ((item.key, o.key) for o in by_subject.get(name, ()) if abs(o.since - item.since) <= FOLLOWS)
    first = 0
    for item in items if on_host else ():
        while first < len(on_host) - 1 and on_host[first].since < item.since - BEFORE:
            first += 1
        if turn.is_here(item.subject) and abs(on_host[first].since - item.since) <= BEFORE:
            yield item.key, on_host[first].key
    for row in by_metric.values():
        yield from _alike(row)


def _alike(row: Sequence[_Member]) -> Iterator[tuple[Key, Key]]:
    """Neighbours within each stretch of time in which enough subjects have it."""
    subjects: Counter[str] = Counter()
    first = 0
    joined_to = 0
    for last, item in enumerate(row):
        subjects[item.subject] += 1
        while item.since - row[first].since > BEFORE:
            gone = row[first].subject
            subjects[gone] -= 1
            if not subjects[gone]:
                del subjects[gone]
            first += 1
        if len(subjects) >= ALIKE:
            for at in range(max(first, joined_to), last):
                yield row[at].key, row[at + 1].key
            joined_to = last


def storms(incidents: Incidents, opened: Sequence[Incident]) -> list[Incident]:
    """Those of the open ones that from now on are told of as one storm with the newly opened; with its name.

    Each of them is treated for itself. Nothing but the time says that they belong together: so a human hears of all
    of them in one message, and no more is made of it.
    """
    new = {i.id for i in opened}
    troubles = sorted((i for i in incidents.open if not is_soft(i.fault, i.data)), key=_begun)
    if not new or len({i.subject for i in troubles}) < STORM:
        return []
    found: list[Incident] = []
    begins = [
        0,
        *(at for at in range(1, len(troubles)) if troubles[at].onset_at - troubles[at - 1].onset_at > TOGETHER),
    ]
    for begin, end in pairwise([*begins, len(troubles)]):
        row = troubles[begin:end]
        if new.isdisjoint(i.id for i in row) or len({i.subject for i in row}) < STORM:
            continue
        name = next((known for i in row if (known := storm_of(i))), row[0].id)
        found += [replace(i, data={**i.data, "storm": {"incident": name}}) for i in row if not storm_of(i)]
    return found


def _begun(incident: Incident) -> tuple[float, str, str]:
    return incident.onset_at, incident.subject, incident.fault


def storm(incidents: Incidents, name: str) -> list[Incident]:
    """Those of it that are open, in the order in which they began."""
    return sorted((i for i in incidents.open if storm_of(i) == name), key=_begun)


def storm_of(incident: Incident) -> str:
    """The incident that stands for the storm it belongs to, itself perhaps, open or closed; empty: none."""
    told = incident.data.get("storm")
    return str(told.get("incident", "")) if isinstance(told, Mapping) else ""


# -- causes ------------------------------------------------------------------------------------------------------------


def _links(members: Sequence[_Member], others: Sequence[_Member], turn: _Turn) -> Attributes:
    """What the one that stands for all of them tells of the others. Nothing, where there are none."""
    if not others:
        return {}
    ranked = _ranked(members, turn)
    told = ranked[:CAUSES]
    total = sum(score for score, _, _ in ranked) or 1.0
    return {
        "together": [member.told() for member in others[:TOLD]],
        "together_count": len(others),
        "causes": [
            {"subject": m.about, "name": m.name, "share": round(score / total, 3), "why": why} for score, m, why in told
        ],
        "cause": {"subject": told[0][1].about, "name": told[0][1].name, "share": round(told[0][0] / total, 3)}
        | {"why": told[0][2]},
    }


def _ranked(members: Sequence[_Member], turn: _Turn) -> list[tuple[float, _Member, str]]:
    """Most likely cause first: what the others depend on, what began first, what is worst, what was decided clearest.

    The weights say that being needed by all others counts as much as beginning first and being the worst together.
    """
    subjects = {m.subject for m in members}
    above: Counter[str] = Counter()
    here = sum(turn.is_here(name) for name in subjects)
    for name in subjects:
        above.update(below for below in turn.below(name) if below in subjects)
    first, last = min(m.since for m in members), max(m.since for m in members)
    ranked = []
    for m in members:
        # The host carries whatever runs on it.
        needed = here - 1 if turn.is_host(m.subject) and here > 1 else above[m.subject]
        early = (last - m.since) / (last - first) if last > first else 1.0
        score = 4.0 * needed / max(1, len(subjects) - 1) + 2.0 * early + 2.0 * RANK[m.severity] / 3.0 + m.strength
        if m.fault == "changed":
            score += 2.0  # somebody did something just before
        why = []
        if needed:
            what = "runs on it" if turn.is_host(m.subject) else "depends on it"
            why.append(f"{needed} of the others {what if needed == 1 else what.replace('s ', ' ', 1)}")
        if len(members) > 1:
            why.append("it began first" if m.since == first else f"it began {m.since - first:.0f} s after the first")
        if not m.is_soft:
            why.append(f"it is {m.fault}")
        why.append(m.why)
        ranked.append((score, m, ", ".join(filter(None, why))))
    ranked.sort(key=lambda row: (-row[0], row[1].since, row[1].key))
    return ranked


def _with_cause(data: Attributes) -> Attributes:
    """The likeliest of its causes by itself, for runbooks; the same where it names none."""
    causes = _causes(data)
    if not causes or data.get("cause") == causes[0]:
        return data
    return {**data, "cause": causes[0]}


def _causes(data: Attributes) -> list[Mapping[str, Any]]:
    told = data.get("causes")
    return [one for one in told if isinstance(one, Mapping)] if isinstance(told, list | tuple) else []


# -- members -----------------------------------------------------------------------------------------------------------


def _member_of(finding: Finding, turn: _Turn) -> _Member:
    judged = judged_of(finding.data)
    top = max(judged, key=lambda j: j.share, default=None)
    strength = 0.5
    if top is not None and top.limit > 0 and isfinite(top.number) and top.number > 0:
        strength = top.number / (top.number + top.limit)
    causes = _causes(finding.data)
    own = causes[0] if causes else {}
    counted = finding.data.get("judged_count")
    return _Member(
        finding.subject,
        finding.fault,
        finding.summary,
        turn.wall_of(finding.since),
        finding.severity,
        counted if isinstance(counted, int) and counted > 0 else max(1, len(judged)),
        strength,
        str(own.get("subject") or finding.subject),
        str(own.get("name") or (top.metric if top is not None else finding.fault)),
        str(own.get("why") or ""),
        tuple(dict.fromkeys(j.metric for j in judged)),
        is_soft(finding.fault, finding.data),
        turn.view.now,
        finding,
        tuple(judged_data(judged[:MEMBER_SERIES])["judged"]),
    )


def _member_of_incident(incident: Incident, found_at: float) -> _Member:
    """For one that no analyzer was asked about since the daemon began, or in this turn."""
    soft = is_soft(incident.fault, incident.data)
    return _Member(
        incident.subject,
        incident.fault,
        incident.summary,
        incident.onset_at or incident.opened_at,
        incident.severity,
        1,
        0.5,
        incident.subject,
        incident.fault,
        "",
        (),
        soft,
        found_at,
    )


def _member_told(told: Any, found_at: float) -> _Member | None:
    """As an incident's data has it, also after a journey through the store; None for what is nothing of ours."""
    if not isinstance(told, Mapping):
        return None
    subject, fault, since = told.get("subject"), told.get("fault"), told.get("since")
    if not isinstance(subject, str) or not isinstance(fault, str) or not isinstance(since, int | float):
        return None
    summary = str(told.get("summary", ""))
    soft = fault in SOFT
    severity = Severity.INFO if soft else Severity.WARNING
    judged = tuple(judged_data(judged_of(told)[:MEMBER_SERIES])["judged"])
    return _Member(
        subject, fault, summary, float(since), severity, 1, 0.5, subject, fault, "", (), soft, found_at, judged=judged
    )


# -- small words -------------------------------------------------------------------------------------------------------


def _is_symptom(finding: Finding, view: View) -> bool:
    """Whether it runs, and does not answer as it should: what it depends on can be the whole of the reason.

    What is gone has to be started again in any case.
    """
    if finding.fault == "dependency-down":
        return True
    failing = {c.metric for c in finding.healthy_when if view.sight.holds(c, finding.subject) is False}
    return bool(failing) and failing <= {"work_up", "health_up"}


def _worst_first(finding: Finding) -> tuple[bool, int, float, str, str, str, str]:
    soft = is_soft(finding.fault, finding.data)
    return (
        soft,
        -RANK[finding.severity],
        finding.since,
        finding.subject,
        finding.fault,
        finding.analyzer,
        finding.summary,
    )


def _kind(subject: Subject | None) -> str:
    return "" if subject is None else subject.kind


def _names(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - 3} more" if len(distinct) > 3 else ""
    return ", ".join(distinct[:3]) + more
