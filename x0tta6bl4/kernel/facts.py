"""The facts that travel through a cycle: frozen, without behaviour, each with what it rests on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType
from typing import Any

Attributes = Mapping[str, Any]
NOTHING: Attributes = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Observation:
    """A number about a subject. A metric that ends in ``_up`` is a yes (1) or no (0), and a no wakes the loop
    at once.
    """

    source: str
    """The monitor instance that saw it."""
    subject: str
    metric: str
    value: float
    at: float = 0.0
    """Seconds of the monotonic clock; the kernel fills it in when the monitor did not."""
    detail: str = ""
    """What a person would want to know of it: the refused address, the unexpected status."""


@dataclass(frozen=True, slots=True)
class Lost(Observation):
    """What was seen of it before is not known any more. To whoever does not ask for this, ``value`` is no number."""

    value: float = math.nan


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something that happened. Wakes the loop for its subject."""

    source: str
    subject: str
    kind: str
    at: float = 0.0
    detail: str = ""
    observations: tuple[Observation, ...] = ()
    """What it says about the numbers, e.g. ``process_up`` is 0 now."""


def shown(metric: str, value: float) -> str:
    """The number as a person reads it, by the unit that the metric's name ends in."""
    if metric.endswith("_bytes"):
        return f"{value / 1048576:.1f} MiB" if value >= 1048576 else f"{value:.0f} bytes"
    if metric.endswith("_ratio"):
        return f"{value:.1%}"
    return f"{value:g}"


@dataclass(frozen=True, slots=True)
class Condition:
    """One observable sign of health: holds when the latest value of the metric compares so."""

    metric: str
    op: str
    """One of ``<``, ``<=``, ``>``, ``>=``, ``==``."""
    value: float
    subject: str = ""
    """Empty: the finding's own subject."""

    def __str__(self) -> str:
        return f"{self.subject + ' ' if self.subject else ''}{self.metric} {self.op} {shown(self.metric, self.value)}"


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    MAJOR = "major"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Finding:
    """A judgement: this subject has this fault, since then, because of these facts."""

    analyzer: str
    subject: str
    fault: str
    """One word: dead, hung, gray, leaking, filling, overloaded, blind, … Rules are chosen by it."""
    summary: str
    severity: Severity = Severity.WARNING
    since: float = 0.0
    """Monotonic seconds at which the symptom began, as far as the facts go back."""
    because: tuple[Observation | Occurrence, ...] = ()
    healthy_when: tuple[Condition, ...] = ()
    """The probe that failed, put as what it must say when all is well. Empty: nothing can prove a heal."""
    data: Attributes = field(default_factory=lambda: NOTHING)


class IncidentState(StrEnum):
    OPEN = "open"
    WAITING = "waiting"
    """Something it depends on is down; that one is healed first."""
    RESPONDING = "responding"
    ESCALATED = "escalated"
    """The ladder was walked to its end and a human was told. Still retried, slowly."""
    CLOSED = "closed"


def trace_id_of(incident: str) -> str:
    """The W3C trace id of the incident with this id: wherever it is told, it is the same, and nothing keeps it.

    The first half of the id's SHA-256, so that ``printf %s ID | sha256sum | cut -c1-32`` gives it too.
    """
    half = sha256(incident.encode()).digest()[:16]
    return f"{int.from_bytes(half) or 1:032x}"  # all zeros would be no trace id


@dataclass(frozen=True, slots=True)
class Incident:
    """All findings of one subject and fault, from the first to the proof that it is over."""

    id: str
    subject: str
    fault: str
    state: IncidentState
    severity: Severity
    summary: str
    opened_at: float
    """Wall-clock seconds, as are the other ``_at`` here: an incident outlives the process."""
    updated_at: float
    closed_at: float | None = None
    ended: str = ""
    """How it closed: ``healed`` (by us, verified), ``recovered`` (by itself or by others), ``aged out``, or ``merged``:
    it turned out to be a part of another, which ``part_of`` in its data names."""
    reopened: int = 0
    rung: str = ""
    """The state of its rule that comes next; empty: the first."""
    tries: int = 0
    """Tries on the present rung."""
    passes: int = 0
    """How often the whole ladder was walked without success."""
    because: tuple[str, ...] = ()
    healthy_when: tuple[Condition, ...] = ()
    data: Attributes = field(default_factory=lambda: NOTHING)
    onset_at: float = 0.0
    """When the present bout began: the same as ``opened_at`` unless it was opened again."""
    proved: bool = False
    """Its symptom is proved to be gone, and its runbook still tidies up: evidence alone does not close it."""
    unsettled: bool = False
    """Something that was done for it is still to be taken back: evidence alone does not close it."""
    place: Attributes = field(default_factory=lambda: NOTHING)
    """Where its runbook is: the planner's own record, in JSON's types. Nobody else reads or changes it."""


@dataclass(frozen=True, slots=True)
class Move:
    """One macrostep of an incident's runbook, as it is journaled. Replaying them gives the place again."""

    incident: str
    number: int
    at: float
    """Wall-clock seconds."""
    event: str
    data: Any = None
    invocation: str = ""
    """The activity that the event is an answer of."""
    message: str = ""
    """The message in the inbox that it consumes."""
    states: tuple[str, ...] = ()
    """The innermost states afterwards."""
    taken: bool = True
    """Whether anything came of it."""
    effects: tuple[str, ...] = ()
    """What it asked for, in words."""


@dataclass(frozen=True, slots=True)
class Message:
    """An event that somebody outside sent to an incident's runbook, waiting to be taken."""

    id: str
    incident: str
    event: str
    data: Any
    who: str
    at: float


@dataclass(frozen=True, slots=True)
class Book:
    """A version of a runbook, by its content. Incidents stay with the version that they were opened under."""

    hash: str
    name: str
    version: int
    source: str


@dataclass(frozen=True, slots=True)
class Expect:
    """How a step proves itself: the incident's healthy signs within ``within`` seconds, and then for ``hold``
    on end.
    """

    within: float = 30.0
    hold: float = 3.0
    patient: bool = False
    """The time was given on purpose: that the fault still stands says nothing before it is over."""


@dataclass(frozen=True, slots=True)
class Step:
    """One action on one target."""

    id: str
    action: str
    """``executor.verb``, e.g. ``process.restart``."""
    target: str
    args: Attributes = field(default_factory=lambda: NOTHING)
    timeout: float = 30.0
    expect: Expect | None = Expect()
    """None: the step proves nothing by itself (telling a human)."""
    undo: str = ""
    """The action that takes it back, where there is one."""
    undoes: str = ""
    """The step that it takes back itself."""
    on_unknown: str = "probe"
    """What to do when the daemon died in the middle: ``retry``, ``probe`` or ``ask``."""
    incident: str = ""
    key: str = ""
    """The same for each time that this very deed is asked for, above all when it is done again because a daemon died
    in the middle of it: whoever has carried it out under this key and ``attempt`` may let it be. The kernel sets it."""
    attempt: int = 1
    """Tries of it that are meant as such: the first is known not to have helped, and it is to be done once more."""
    epoch: int = 0
    """The life of the daemon that does it. Whoever has heard of a later one need not listen to this."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rule would do next about an incident."""

    id: str
    incident: str
    subject: str
    fault: str
    rule: str
    rung: str
    steps: tuple[Step, ...]
    because: tuple[str, ...]
    mode: str = "suggest"
    activity: str = ""
    """The activity of the runbook that it answers; empty: none."""
    under_way: bool = False
    """It finishes what was begun, or takes it back: the symptom may be gone already, and waiting would help nobody."""
    limits: tuple[tuple[str, int], ...] = ()
    """Names of what the rule bounds, and how many plans at a time may count to each."""
    key: str = ""
    """Of all open incidents that are the same trouble by the rule's own word, only the first is treated."""


class Answer(StrEnum):
    ALLOW = "allow"
    HOLD = "hold"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check's answer to one step, in a sentence an operator can act on."""

    check: str
    answer: Answer
    sentence: str
    until: float | None = None
    """Wall-clock seconds until which a hold lasts; None when nobody can say."""


class Result(StrEnum):
    VERIFIED = "verified"
    REFUTED = "refuted"
    UNVERIFIED = "unverified"
    SIMULATED = "simulated"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended, and what says so."""

    step: str
    result: Result
    detail: str
    started_at: float
    ended_at: float
    verified_at: float | None = None
    """Wall-clock seconds at which the healthy signs came back (the hold time counts from here)."""
    because: tuple[str, ...] = ()
    output: str = ""
    data: Attributes = field(default_factory=lambda: NOTHING)
    unknown: bool = False
    """Whether it was done at all is not known: the daemon ended, or the probe went blind, in the middle of it."""
