"""What the kernel asks of its memory: the protocol every knowledge store keeps, and the records it gives back."""

import json
import math
from collections.abc import Callable, Collection, ItemsView, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, Protocol

from x0tta6bl4.kernel.facts import (
    NOTHING,
    Answer,
    Attributes,
    Book,
    Condition,
    Expect,
    Finding,
    Incident,
    IncidentState,
    Message,
    Move,
    Observation,
    Occurrence,
    Outcome,
    Plan,
    Result,
    Severity,
    Step,
    Verdict,
)
from x0tta6bl4.kernel.lessons import LearntMemory


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """One action as the journal has it: what budgets, backoff and brakes are counted from."""

    step_id: str
    subject: str
    target: str
    action: str
    at: float
    ended_at: float | None = None
    result: Result | None = None
    """None: it is under way, or the daemon died in the middle of it."""
    incident: str = ""
    rung: str = ""
    group: str = ""
    disruptive: bool = True
    unknown: bool = False
    """It has an outcome, and that is that nobody knows whether it was done."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An intent without an outcome: whether it was done is not known."""

    step: Step
    plan: Plan
    intent_at: float
    epoch: int
    """The life of the daemon in which it was meant to be done."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One verdict of the guard on one step, at the moment it became the verdict."""

    subject: str
    incident: str
    plan: str
    step: str
    check: str
    answer: Answer
    sentence: str
    until: float | None = None
    at: float = 0.0
    action: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is done to matching targets until then."""

    id: str
    target: str
    """A name or a pattern of names; ``*`` is everything."""
    kind: Literal["pause", "maintenance"]
    reason: str
    who: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Feedback:
    """How one try of a rung went, whoever says so: the one form in which anything is learnt from."""

    signature: tuple[str, str, str]
    """Fault, kind of subject, subject."""
    rung: tuple[str, ...]
    """The rung's actions, in order."""
    seconds: float | None
    """From the onset to verified health; None: it was not seen to help (the time is censored)."""
    verified: bool
    harmful: bool
    source: Literal["outcome", "operator", "mesh"]
    at: float
    weight: float = 1.0
    """Tries that it counts as; 0: it speaks of something that was suggested and not done."""
    spent: float = 0.0
    """Seconds that the try itself took, helpful or not; 0: nobody measured."""
    after: int = 0
    """How many tries of the bout had failed before it: what is tried second meets the harder faults."""
    incident: str = ""


ApprovalState = Literal["wanted", "approved", "rejected", "expired"]


@dataclass(frozen=True, slots=True)
class Approval:
    plan: str
    state: ApprovalState
    who: str
    why: str
    at: float
    expires: float
    """Wall-clock seconds after which nobody can answer any more."""
    incident: str = ""


@dataclass(frozen=True, slots=True)
class SubjectState:
    """A subject as it was last seen, for those who ask while no daemon runs."""

    name: str
    state: str
    since: float
    summary: str
    at: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a story."""

    at: float
    kind: str
    """``opened``, ``found``, ``moved``, ``planned``, ``decided``, ``approval``, ``intent``, ``outcome``, ``closed``.

    ``moved`` is a step of the incident's runbook; its data tell the event, the states it led to and what it asked for.
    """
    text: str
    data: Attributes = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One link of the audit chain."""

    seq: int
    at: float
    who: str
    what: str
    data: Attributes
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One rung tried in one incident, as the journal has it: its steps taken together."""

    incident: str
    subject: str
    fault: str
    rule: str
    rung: str
    actions: tuple[str, ...]
    """The names of all actions that were planned, in order; a try that broke off has them too."""
    onset_at: float | None
    """When the bout began in which it was tried; None when the incident came back since and that is forgotten."""
    begun_at: float
    ended_at: float
    verified_at: float | None
    result: Result
    """Of the last step that was taken; that a refuted one was taken back is not what this tells."""
    after: int = 0
    """How many tries had failed before it in the same bout."""
    stuck: bool = False
    """Taking it back was tried, and failed."""
    harmed: tuple[str, ...] = ()
    """Incidents of other subjects that began during it, during no other try, and did not pass by themselves."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which incidents are asked for. What is None is not asked about."""

    states: frozenset[IncidentState] | None = None
    subject: str | None = None
    fault: str | None = None
    severity: Severity | None = None
    since: float | None = None
    """Opened at that time or later."""
    until: float | None = None
    """Opened before that time."""


@dataclass(frozen=True, slots=True)
class Milestones:
    """Moments of an incident that stand beside it, and not in it."""

    found_at: float | None = None
    """When an analyzer first said so."""
    verified_at: tuple[float, ...] = ()
    """When the healthy signs came back after something that was done about it, in order of time."""


@dataclass(frozen=True, slots=True)
class Course:
    """How one incident went, in the few numbers that sums are made of."""

    id: str
    fault: str
    state: IncidentState
    ended: str
    opened_at: float
    found_at: float | None
    onset_at: float
    """Of the latest bout; when it was opened, where there was but one."""
    verified_at: float | None
    """When the latest bout was proved to be over by what was done about it."""


@dataclass(frozen=True, slots=True)
class Deed:
    """An action with what people ask about it afterwards."""

    record: ActionRecord
    plan: str
    rule: str
    detail: str
    """How it ended, in words; empty while it is under way."""
    verified_at: float | None


Place = tuple[float, str]
"""Where something stands in an order that nothing later changes: its time, then its id."""

Opinion = Literal["helped", "useless", "harmful"]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What would have been done about an incident, and all that is known of what happened instead."""

    incident: Incident
    rule: str
    rung: str
    actions: tuple[str, ...]
    target: str
    at: float
    check: str
    """What kept it from being done: ``mode`` or ``allowlist``."""
    within: float
    """Seconds in which it would have had to prove itself."""
    found: tuple[tuple[float, Severity], ...] = ()
    """When something was found of it first, and how severe that was."""
    beside: tuple[Incident, ...] = ()
    """Other incidents that were opened while it was open."""
    trials: tuple[Trial, ...] = ()
    """What was done about it after all."""
    opinions: tuple[Opinion, ...] = ()
    """What people said of it."""


@dataclass(frozen=True, slots=True)
class Signal:
    """What one series said round an incident, for a chart: thinned, but with its extremes."""

    subject: str
    metric: str
    points: tuple[tuple[float, float], ...]
    """Wall-clock seconds and a finite value, oldest first; NaN where a time begins in which nothing was seen."""


@dataclass(frozen=True, slots=True)
class Retained:
    """How much ``retain`` let go of."""

    incidents: int = 0
    decisions: int = 0
    audit: int = 0


@dataclass(frozen=True, slots=True)
class Imported:
    taken: Mapping[str, int] = field(default_factory=dict)
    """Table -> rows."""
    skipped: tuple[str, ...] = ()
    """What was left out and why, a sentence each."""


class Knowledge(Protocol):
    """The memory of the daemon. Built without touching anything.

    What a method writes is on disk when it returns, all of it or none. Each method may raise StoreError: then nothing
    was remembered, or nobody can say, and the caller must not act. ``TamperedError`` is one of them. Times are
    wall-clock seconds. Several processes may hold the same memory; each sees what the others finished.
    """

    @property
    def learnt(self) -> LearntMemory:
        """What analyzers have learnt and are taught, and what was changed on purpose. No export holds it."""
        ...

    async def boot(self) -> int:
        """Begins another life of the daemon; its number, greater than every one before."""
        ...

    def changed_by_others(self) -> bool:
        """Whether another process has written since the last call. Costs microseconds; for asking each second."""
        ...

    def version(self) -> tuple[int, int]:
        """While it stays the same, so does everything that is remembered. Costs microseconds; for asking before each
        reading. See ``Database.version``.
        """
        ...

    async def save_incident(self, incident: Incident, moves: Sequence[Move] = ()) -> None:
        """With the moves of its runbook that led there, and without the messages that they consumed, in one
        transaction. A move that is there already stays as it is; another one of the same number is a StoreError.
        """
        ...

    async def open_incidents(self) -> list[Incident]:
        """Every one that is not closed, oldest first."""
        ...

    async def incident(self, id: str) -> Incident | None: ...

    async def incidents(
        self,
        state: IncidentState | None = None,
        subject: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[Incident]:
        """Newest first. ``before``: the id of the last one of the page before."""
        ...

    async def find_incidents(
        self, wanted: Wanted, *, limit: int, before: Place | None = None, without: Collection[str] = ()
    ) -> list[Incident]:
        """Newest first, by opening and then by id. ``before``: the place of the last one of the page before; an
        incident keeps its place for ever. ``without``: ids of those that the caller knows better.
        """
        ...

    async def incident_ids(self, part: str = "", limit: int = 10_000) -> list[str]:
        """The ids that have this as a part of them, newest first."""
        ...

    async def incident_subjects(self) -> list[str]:
        """Everything that ever had an incident, as far as is remembered."""
        ...

    async def milestones(self, incidents: Sequence[str]) -> Mapping[str, Milestones]:
        """Of each of these incidents, also of those that nothing is known of."""
        ...

    async def courses(self, since: float, *, limit: int, before: Place | None = None) -> list[Course]:
        """Of the incidents that were opened since, newest first, as ``find_incidents`` orders them."""
        ...

    async def closed_since(self, subject: str, fault: str, at: float) -> Incident | None:
        """The one that was closed last, at that time or later: what a relapse reopens."""
        ...

    async def closed_last(self, subject: str) -> Incident | None:
        """The one about this subject that was closed last. Not the one opened last: an older one may have come back
        since.
        """
        ...

    async def save_incidents(self, changed: Sequence[tuple[Incident, Sequence[Move]]]) -> None:
        """Many at once, in one transaction: all of them or none."""
        ...

    async def moves(self, incident: str) -> list[Move]:
        """Every macrostep of its runbook, in order."""
        ...

    async def send(self, incident: str, event: str, data: Any, who: str) -> Message:
        """Puts an event into the incident's inbox. Audited."""
        ...

    async def inbox(self) -> list[Message]:
        """What waits to be taken, oldest first."""
        ...

    async def drop_message(self, id: str) -> None:
        """It came too late for anybody to take it."""
        ...

    async def keep_books(self, books: Sequence[Book]) -> None:
        """Versions of runbooks that incidents may be under; those that are there stay."""
        ...

    async def books(self) -> list[Book]: ...

    async def add_finding(self, incident: str, finding: Finding, wall: float) -> None:
        """Equal findings (analyzer and summary) are counted, not kept twice; the number kept is bounded."""
        ...

    async def save_plan(self, plan: Plan) -> None: ...

    async def plan(self, id: str) -> Plan | None: ...

    async def plans(self, incident: str, limit: int | None = None) -> list[Plan]:
        """The latest so many about an incident that were begun or that a person was asked about, oldest first."""
        ...

    async def record_intent(
        self,
        step: Step,
        plan: Plan,
        epoch: int,
        *,
        group: str = "",
        disruptive: bool = True,
        incident: Incident | None = None,
        moves: Sequence[Move] = (),
    ) -> None:
        """Comes before the action. With the plan, and the incident and its moves if given, in one transaction.

        A step has one intent in its life: a second one is a StoreError. So is an intent of a life of the daemon that
        another one has followed: whoever was taken for dead must not act any more.
        """
        ...

    async def record_outcome(
        self, step: str, outcome: Outcome, incident: Incident | None = None, moves: Sequence[Move] = ()
    ) -> None:
        """Comes after the action; with the changed incident and its moves, if given, in one transaction.

        The first outcome of a step stands: the same once more does nothing, another one, or one of a step that was
        never meant to be done, is a StoreError.
        """
        ...

    async def unfinished(self) -> list[Unfinished]:
        """Every intent without an outcome, oldest first."""
        ...

    async def actions_since(self, wall: float) -> list[ActionRecord]:
        """Every action that was begun or has ended since, or has not ended; in the order they were begun."""
        ...

    async def deeds(self, subject: str | None = None, *, limit: int, before: Place | None = None) -> list[Deed]:
        """Actions about a subject or on it as a target, or all, newest first, by beginning and then by id of the step.

        ``before``: the place of the last one of the page before.
        """
        ...

    async def results(self, since: float) -> Mapping[Result | None, int]:
        """How many actions that were begun since ended how; None: not yet."""
        ...

    async def record_decision(self, plan: Plan, step: Step, verdict: Verdict, wall: float) -> bool:
        """False, and nothing is written, when it says the same of the same action as the incident's latest one."""
        ...

    async def decisions(self, subject: str, limit: int = 100) -> list[Decision]:
        """Newest first."""
        ...

    async def latest_decisions(self, incidents: Sequence[str]) -> Mapping[str, Decision]:
        """Incident -> what was decided about it last; without those about which nothing was."""
        ...

    async def history(self, subject: str, limit: int = 100) -> list[Entry]:
        """The latest so many entries about a subject, in order of time."""
        ...

    async def story(self, incident: str, latest: int | None = None) -> list[Entry]:
        """Everything about an incident, in order of time; empty when there is none of that id. ``latest``: of each
        kind only so many rows, the latest.
        """
        ...

    async def keep_signals(self, incident: str, signals: Sequence[Signal]) -> None:
        """In place of those that are kept of it. Nothing is when there is no incident of that id. Kept to the
        millisecond, what is no whole number to six digits, and all of it for as long as the incident is.
        """
        ...

    async def signals(self, incident: str) -> list[Signal]:
        """As they were kept, in that order."""
        ...

    async def trials(self, fault: str, since: float, limit: int = 500) -> list[Trial]:
        """What was tried against a fault and has ended, oldest first; beyond ``limit`` steps only the latest.

        Steps that prove nothing, such as telling a human, and what was refused before it was done, are no tries.
        """
        ...

    async def add_feedback(self, feedback: Feedback, who: str, why: str = "") -> None:
        """Keeps what a person or another node says. The same voice about the same rung of the same incident is heard
        once: the later word stands. Audited. Outcomes are not kept here: the journal has them.
        """
        ...

    async def feedback(self, fault: str, since: float, limit: int = 500) -> list[Feedback]:
        """All that is known of tries against a fault, oldest first: what people and other nodes said, and what the
        journal's tries proved, except where a person spoke about that very try.
        """
        ...

    async def suggestions(self, since: float, rule: str | None = None, limit: int = 1000) -> list[Suggestion]:
        """What would have been done and was not, because of the mode or the allowlist; each once a bout,
        oldest first, the latest ``limit``.
        """
        ...

    async def flags(self) -> Mapping[str, bool]:
        """Those that somebody has set. The others have their defaults, which are not kept here."""
        ...

    async def set_flag(self, name: str, value: bool, who: str) -> bool | None:
        """The value before; None when nobody had set it. Audited."""
        ...

    async def pauses(self) -> list[Pause]:
        """Those in force now."""
        ...

    async def add_pause(
        self,
        target: str,
        until: float,
        *,
        who: str,
        reason: str = "",
        kind: Literal["pause", "maintenance"] = "pause",
    ) -> Pause:
        """From now on. Audited."""
        ...

    async def remove_pause(self, target: str, who: str) -> int:
        """Ends all pauses put on exactly that target or pattern; how many there were. Audited."""
        ...

    async def want_approval(self, plan: Plan, expires: float, why: str = "") -> Approval:
        """Asks people. One that was asked for before is given back as it stands; one that expired,
        or was answered so long ago that it would have expired by now, is asked for anew."""
        ...

    async def answer_approval(self, plan: str, approve: bool, who: str, why: str = "") -> Approval | None:
        """The approval as it stands afterwards; None when nobody asked. Audited.

        Only one that is still wanted, has not expired and whose incident is not over takes the answer; look at
        ``state`` to see whether it did.
        """
        ...

    async def approvals(
        self, state: ApprovalState | None = None, limit: int = 100, incident: str | None = None
    ) -> list[Approval]:
        """Newest first."""
        ...

    async def expire_approvals(self, now: float) -> list[Approval]:
        """Those whose time ran out, or whose incident ended, without an answer; each told of once."""
        ...

    async def save_subjects(self, subjects: Sequence[SubjectState]) -> None: ...

    async def subjects(self) -> list[SubjectState]: ...

    async def remember(self, key: str, value: Any) -> None:
        """A small thing in JSON's types. Keys that begin with ``audit.`` are the store's own."""
        ...

    async def recall(self, key: str) -> Any:
        """None when it was never remembered."""
        ...

    async def audit(self, who: str, what: str, data: Attributes = NOTHING) -> int:
        """Adds a link to the chain; its number."""
        ...

    async def audit_trail(self, limit: int = 100, before: int | None = None) -> list[AuditRow]:
        """Newest first. ``before``: the number of the last one of the page before."""
        ...

    async def verify_audit(self) -> int:
        """How many links hold, which is all of them. Raises TamperedError with ``seq``, the first that does not."""
        ...

    async def retain(self, now: float, days: float, max_rows: int) -> Retained:
        """Lets go of what is older, or more, than that. Open incidents and unfinished steps stay.

        The audit chain stays verifiable: it goes on from a kept anchor. A part that does not hold is never let go of.
        """
        ...

    async def export(self, write_line: Callable[[str], None]) -> None:
        """Everything that was remembered before the call, a JSON object a line."""
        ...

    async def import_(self, lines: Iterable[str], who: str) -> Imported:
        """What ``export`` wrote. All or nothing; audited.

        Into an empty memory everything is taken. Otherwise only incidents of unknown id are, with all that belongs to
        them. StoreError for an unknown version, a truncated or damaged file; TamperedError for a broken chain.
        """
        ...


def plain(value: Any) -> Any:
    """The value in JSON's own types. What JSON has no form for becomes its text; NaN and the infinities do too."""
    kind = value.__class__
    if kind is str or kind is int or value is None or kind is bool:  # most of all values, so asked first
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    return str(value)


class Encoder(json.JSONEncoder):
    """JSON as it is kept: without blanks, and with what is not JSON put ``plain``.

    Its engine is made once, not for each text: texts here are short, and making it takes as long as writing one.
    """

    def __init__(self, *, sort_keys: bool = False) -> None:
        super().__init__(separators=(",", ":"), default=plain, sort_keys=sort_keys)
        made = getattr(json.encoder, "c_make_encoder", None)  # an interpreter may have no engine in C
        text = json.encoder.encode_basestring_ascii
        self._engine = made and made(None, plain, text, None, ":", ",", sort_keys, False, True)

    def encode(self, o: Any) -> str:
        return "".join(self._engine(o, 0)) if self._engine else super().encode(o)


_PLAIN = Encoder()


class Kept(Mapping[str, Any]):
    """A mapping in JSON's types that is kept as its text, and read anew whenever it is asked.

    As text it takes a tenth of the memory, nobody can change it by accident, and writing it down costs nothing more.
    Who wants more than one thing of it calls ``read`` once.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> "Kept":
        return value if isinstance(value, cls) else cls(_PLAIN.encode(value))

    def read(self) -> dict[str, Any]:
        """The reader's own: what is done to it changes nothing here."""
        found = json.loads(self.text)
        if not isinstance(found, dict):
            raise ValueError(f"expected a mapping, got {self.text[:80]!r}")
        return found

    def __getitem__(self, key: str) -> Any:
        return self.read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.read())

    def __len__(self) -> int:
        return len(self.read())

    def __bool__(self) -> bool:
        return self.text != "{}"

    def items(self) -> ItemsView[str, Any]:
        return self.read().items()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Kept) and self.text == other.text:
            return True
        return isinstance(other, Mapping) and self.read() == dict(other.items())

    __hash__ = None  # type: ignore[assignment]  # as of every mapping; a class that says how it is equal must say so

    def __repr__(self) -> str:
        return f"Kept({self.text})"


def evidence_of(trial: Trial) -> Feedback | None:
    """What a try proves about its rung; None when nobody could see how it ended."""
    if trial.result not in (Result.VERIFIED, Result.REFUTED, Result.FAILED):
        return None
    verified = trial.result is Result.VERIFIED
    ended_at = trial.verified_at if verified and trial.verified_at is not None else trial.ended_at
    known = verified and trial.onset_at is not None
    return Feedback(
        signature=(trial.fault, "", trial.subject),
        rung=trial.actions,
        seconds=max(0.0, ended_at - (trial.onset_at or 0.0)) if known else None,
        verified=verified,
        harmful=trial.stuck or bool(trial.harmed),
        source="outcome",
        at=trial.ended_at,
        spent=max(0.0, ended_at - trial.begun_at),
        after=trial.after,
        incident=trial.incident,
    )


Plain = Mapping[str, Any]


def condition_from(plain: Plain) -> Condition:
    return Condition(**{**plain, "value": float(plain["value"])})


def observation_from(plain: Plain) -> Observation:
    return Observation(**{**plain, "value": float(plain["value"])})


def occurrence_from(plain: Plain) -> Occurrence:
    return Occurrence(**{**plain, "observations": tuple(map(observation_from, plain["observations"]))})


def finding_from(plain: Plain) -> Finding:
    return Finding(
        **{
            **plain,
            "severity": Severity(plain["severity"]),
            "because": tuple(observation_from(b) if "metric" in b else occurrence_from(b) for b in plain["because"]),
            "healthy_when": tuple(map(condition_from, plain["healthy_when"])),
        }
    )


def incident_from(plain: Plain) -> Incident:
    return Incident(
        **{
            **plain,
            "state": IncidentState(plain["state"]),
            "severity": Severity(plain["severity"]),
            "because": tuple(plain["because"]),
            "healthy_when": tuple(map(condition_from, plain["healthy_when"])),
        }
    )


def step_from(plain: Plain) -> Step:
    return Step(**{**plain, "expect": None if plain["expect"] is None else Expect(**plain["expect"])})


def plan_from(plain: Plain) -> Plan:
    return Plan(
        **{
            **plain,
            "steps": tuple(map(step_from, plain["steps"])),
            "because": tuple(plain["because"]),
            "limits": tuple((what, most) for what, most in plain.get("limits", ())),
        }
    )


def outcome_from(plain: Plain) -> Outcome:
    return Outcome(**{**plain, "result": Result(plain["result"]), "because": tuple(plain["because"])})
