"""What a plugin is: the protocol of each phase, the ports it may be handed, and how a module declares itself."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict

from x0tta6bl4.kernel.facts import (
    NOTHING,
    Attributes,
    Book,
    Condition,
    Finding,
    Incident,
    Message,
    Move,
    Observation,
    Occurrence,
    Outcome,
    Plan,
    Step,
)
from x0tta6bl4.kernel.memory import Feedback, Knowledge
from x0tta6bl4.kernel.sight import View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.ports.alerts import Alerts
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.commands import Commands
from x0tta6bl4.ports.database import Database
from x0tta6bl4.ports.files import Files
from x0tta6bl4.ports.host import Host
from x0tta6bl4.ports.messages import Messages
from x0tta6bl4.ports.network import Network
from x0tta6bl4.ports.processes import Processes
from x0tta6bl4.ports.units import Units

Family = Literal["monitors", "analyzers", "planners", "executors", "knowledge"]
Blast = Literal["none", "process", "service", "host", "cluster"]
SMALL: frozenset[str] = frozenset({"none", "process", "service"})
USUAL_TIMEOUT = 30.0
"""Seconds that an action may take when neither a runbook nor its executor says anything else."""
FAMILIES: tuple[Family, ...] = ("monitors", "analyzers", "planners", "executors", "knowledge")


def is_reboot_class(blast: str) -> bool:
    """Whether so much can be hurt that an action counts as a reboot. What is not known does."""
    return blast not in SMALL


class PluginConfig(BaseModel):
    """A plugin's own settings: unknown keys are errors, the docstring under each setting is its manual."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


@dataclass(frozen=True)
class Tools:
    """The ports of this daemon. A plugin's factory picks what it needs; its class never sees the rest."""

    clock: Clock
    host: Host
    processes: Processes
    units: Units
    commands: Commands
    network: Network
    files: Files
    messages: Messages
    alerts: Alerts
    database: Database | None = None
    subjects: Mapping[str, Subject] = field(default_factory=dict)


class Monitor(Protocol):
    """Looks, never judges. Built without touching anything."""

    @property
    def name(self) -> str: ...

    async def observe(self) -> Sequence[Observation]:
        """One look. Raises ProbeFailed (or OSError) when it cannot see; never guesses. The kernel bounds and repeats
        it.

        May be called again before the call before has returned, when its instance allows overlapping looks.
        """
        ...


@runtime_checkable
class Watcher(Protocol):
    """A monitor that is told of things the moment they happen."""

    async def watch(self, report: Callable[[Occurrence], None]) -> None:
        """Runs until cancelled, or raises; the kernel starts it again after a pause. ``report`` never blocks."""
        ...


@runtime_checkable
class SpeaksOf(Protocol):
    """A monitor that knows beforehand which subjects it sees, so that its blindness can be told of them."""

    @property
    def subjects(self) -> Sequence[str]: ...


class Analyzer(Protocol):
    """Judges. Pure: the same views in the same order give the same findings; no I/O, no clock but ``view.now``."""

    @property
    def name(self) -> str: ...

    def analyze(self, view: View) -> Sequence[Finding]:
        """All findings that are true now about the subjects in ``view.scope`` (None: about all)."""
        ...


@runtime_checkable
class Alarmed(Protocol):
    """An analyzer that knows at which numbers it wants to judge at once, not at the next turn of the schedule."""

    def alarms(self, subjects: Mapping[str, Subject]) -> Sequence[Condition]:
        """Asked once when the loop starts. A condition without a subject is for all of them."""
        ...


@dataclass(frozen=True)
class Situation:
    """What a planner may look at beside the incident."""

    subject: Subject
    now: float
    subjects: Mapping[str, Subject] = field(default_factory=dict)
    equal_tries: int = 0
    """How often in a row the latest step was taken for this subject."""
    latest_action: str = ""
    latest_target: str = ""
    """What the latest step was done to; empty: not known."""
    done: int = 0
    """Disruptive steps begun for the incident so far: what tells two tries of one rung apart."""
    monotonic: float = 0.0
    epoch: int = 0
    """The life of the daemon: monotonic times of another one mean nothing."""
    seen: Mapping[str, float] = field(default_factory=dict)
    """The latest value of each of the subject's metrics."""
    trials: Sequence[Feedback] = ()
    """How earlier tries went, of this fault."""
    blasts: Mapping[str, str] = field(default_factory=dict)
    """How far each action reaches, by its full name."""
    timeouts: Mapping[str, float] = field(default_factory=dict)
    """Seconds that each may take when its runbook does not say, by its full name."""


@dataclass(frozen=True)
class Advance:
    """What a planner made of something: the incident afterwards, and what is to be done and said about it."""

    incident: Incident
    moves: tuple[Move, ...] = ()
    plans: tuple[Plan, ...] = ()
    """What it waits for, each independent of the others."""
    look_again: float | None = None
    """Seconds until it wants to be asked again though nothing happened; None: never."""
    said: tuple[tuple[str, Attributes], ...] = ()
    """Events for whoever listens: name and data."""
    left: tuple[str, ...] = ()
    """Activities that are not wanted any more: what is done for them is ended as soon as that can be."""
    resumed: tuple[str, ...] = ()
    """Activities that were not wanted for a while and are again."""
    why: str = ""
    """Why there is nothing to do, where there is nothing."""


class Planner(Protocol):
    """Chooses. Pure, as an analyzer is: everything it knows of an incident is in ``Incident.place``."""

    @property
    def name(self) -> str: ...

    @property
    def learns(self) -> bool:
        """Whether it looks at ``Situation.trials``: else nobody need gather them."""
        ...

    def plan(self, incident: Incident, situation: Situation) -> Advance | None:
        """Brings the incident up to now (first look, timers that are due) and says what to do next.

        None when no rule speaks of this incident.
        """
        ...

    def begun(self, incident: Incident, plan: Plan, epoch: int) -> Incident:
        """The plan was let through and is being carried out from now on, in that life of the daemon."""
        ...

    def not_begun(self, incident: Incident, plan: Plan) -> Incident:
        """It was let through and did not come to it: what it was for is still wanted."""
        ...

    def after(self, incident: Incident, plan: Plan, outcomes: Sequence[Outcome], situation: Situation) -> Advance:
        """A plan has ended, with the outcomes of the steps that were taken. Called once for each."""
        ...

    def tell(self, incident: Incident, message: Message, situation: Situation) -> Advance:
        """Something was said to the incident's rule from outside."""
        ...

    def close(self, incident: Incident, situation: Situation) -> Advance:
        """The incident is over: what its rule still waits for is let go of."""
        ...

    def books(self) -> Sequence[Book]:
        """The rules in force, for the journal to keep."""
        ...

    def adopt(self, books: Iterable[Book]) -> None:
        """The rules that were ever kept: open incidents go on with the version that they began with."""
        ...


@dataclass(frozen=True)
class Action:
    """One verb of an executor, as the guard and the journal need to know it."""

    verb: str
    summary: str
    args: type[PluginConfig]
    disruptive: bool = True
    """Whether it changes the world. Telling a human does not: budgets, backoff and allowlist are not for it."""
    on_unknown: Literal["retry", "probe", "ask"] = "probe"
    undo: str = ""
    """The verb that takes it back, where there is one."""
    blast: Blast = "service"
    """What can be hurt when it goes wrong: ``none`` only looks or tells; from ``host`` on it is like a reboot."""
    idempotent: bool = True
    """Whether twice leaves the same as once, with no harm in between."""
    timeout: float = USUAL_TIMEOUT
    """Seconds that it may take by itself when its arguments and its runbook say nothing else; proof not included."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What an action did, in words for the journal. Whether it *helped* is not for the executor to say."""

    detail: str
    output: str = ""
    data: Attributes = field(default_factory=lambda: NOTHING)


class Executor(Protocol):
    """Acts. Each call does one thing once; waiting for the effect, retrying and judging are the kernel's."""

    @property
    def name(self) -> str: ...

    @property
    def actions(self) -> Sequence[Action]: ...

    async def preview(self, step: Step) -> str:
        """What ``act`` would do, in a sentence. Touches nothing. Raises StepRefused when ``act`` would."""
        ...

    async def act(self, step: Step) -> Effect:
        """Does it. Raises StepFailed or StepRefused. Done twice it leaves the same state as done once."""
        ...


Config = TypeVar("Config", bound=PluginConfig)
Built = TypeVar("Built", covariant=True)


@dataclass(frozen=True)
class Plugin(Generic[Config, Built]):
    """A module's declaration of itself, under the name ``PLUGIN``."""

    family: Family
    config: type[Config]
    build: Callable[[str, Config, Tools], Built]
    every: float | None = None
    """Monitors: seconds between looks when the configuration says nothing. None: once a cycle."""
    timeout: float | None = 5.0
    """Monitors: seconds after which a look is cut off when the configuration says nothing. None: it bounds itself."""
    overlap: int = 1
    """Monitors: how many looks may be under way at once."""


def monitor(
    config: type[Config],
    build: Callable[[str, Config, Tools], Monitor],
    *,
    every: float | None = None,
    timeout: float | None = 5.0,
    overlap: int = 1,
) -> Plugin[Config, Monitor]:
    return Plugin("monitors", config, build, every, timeout, overlap)


def analyzer(config: type[Config], build: Callable[[str, Config, Tools], Analyzer]) -> Plugin[Config, Analyzer]:
    return Plugin("analyzers", config, build)


def planner(config: type[Config], build: Callable[[str, Config, Tools], Planner]) -> Plugin[Config, Planner]:
    return Plugin("planners", config, build)


def executor(config: type[Config], build: Callable[[str, Config, Tools], Executor]) -> Plugin[Config, Executor]:
    return Plugin("executors", config, build)


def knowledge(config: type[Config], build: Callable[[str, Config, Tools], Knowledge]) -> Plugin[Config, Knowledge]:
    return Plugin("knowledge", config, build)


AnyPlugin = Plugin[Any, Any]
