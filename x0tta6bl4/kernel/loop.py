"""The one loop: monitor, analyze, plan, execute over knowledge, on a schedule and whenever something happens."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points

from x0tta6bl4.kernel.bus import EventBus
from x0tta6bl4.kernel.correlate import Correlation, Folded, storm, storm_of, storms
from x0tta6bl4.kernel.errors import ConfigError, StoreError, TamperedError
from x0tta6bl4.kernel.events import Event, EventType
from x0tta6bl4.kernel.facts import (
    Answer,
    Finding,
    Incident,
    IncidentState,
    Message,
    Observation,
    Occurrence,
    Outcome,
    Plan,
    Result,
    Severity,
    Step,
    Verdict,
    trace_id_of,
)
from x0tta6bl4.kernel.flags import FeatureFlags
from x0tta6bl4.kernel.guard import Guard, Ledger, Standing, decision
from x0tta6bl4.kernel.incidents import REOPEN, Changes, Incidents
from x0tta6bl4.kernel.judged import Judged, judged_data
from x0tta6bl4.kernel.learning import Learning
from x0tta6bl4.kernel.lifecycle import State, StateMachine
from x0tta6bl4.kernel.memory import Feedback, Knowledge, Pause, SubjectState, Unfinished, plain
from x0tta6bl4.kernel.plugin import Advance, Alarmed, Analyzer, Planner, Situation
from x0tta6bl4.kernel.policy import GuardPolicy
from x0tta6bl4.kernel.respond import Catalogue, Responder, StoppedUnproved
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.signals import Keeping
from x0tta6bl4.kernel.subjects import subject_of
from x0tta6bl4.kernel.summary import Description, describe
from x0tta6bl4.kernel.supervise import Failure, guarded
from x0tta6bl4.kernel.watching import Instance, Watching, until_next
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.meter import Meter, NoMeter, Stages
from x0tta6bl4.ports.schedule import Schedule

log = logging.getLogger("x0tta6bl4.kernel.loop")

NOTICE_EVERY = 0.5
"""Seconds between looks at what other processes (the command line) wrote: the bound on how late a kill switch works."""
BLIND_AFTER = 2.0
"""Seconds of blindness before it is a finding; one look that failed is a hiccup."""
QUICK = 0.05
"""Seconds in which a turn about everything mostly is over, and has done for those who were woken as well."""
LATER = 5.0
"""Seconds after which a hold without an end of its own is looked at again."""
STORE_RETRY = 2.0
ALTERED_BEFORE = 3600.0
"""Seconds before a start of the daemon from which on alterations are told to the analyzers: later ones show still."""
STORM_NAMED = 50
"""Subjects of a storm that a message names."""
SAVED_TOGETHER = 64
"""Incidents written in one transaction: enough that the commit no longer counts, few enough that nobody waits long."""
LEARNT_FROM = 180 * 86400.0
"""Seconds: how far back the tries lie from which a planner learns."""
FORBIDDEN = ("allowlist", "catalogue")
"""Checks whose denial no time and no person at the keyboard changes: only another configuration does."""
TOLD = ("mode", "budget", "storm brake", "circuit")
"""Checks that stop a step and leave it to a person, who has to hear of it."""
ASKING = "ask"
"""The rung of a plan that only asks or tells a human, beside the ladder."""
RANK = {Severity.CRITICAL: 0, Severity.MAJOR: 1, Severity.WARNING: 2, Severity.INFO: 3}


@dataclass
class Parts:
    """What the loop is made of. Everything that could be otherwise is handed in here."""

    clock: Clock
    knowledge: Knowledge
    planner: Planner
    instances: Sequence[Instance] = ()
    analyzers: Sequence[Analyzer] = ()
    catalogue: Catalogue = field(default_factory=lambda: Catalogue({}))
    sight: Sight = field(default_factory=Sight)
    policy: GuardPolicy = field(default_factory=GuardPolicy)
    flags: FeatureFlags = field(default_factory=FeatureFlags)
    bus: EventBus = field(default_factory=EventBus)
    schedule: Schedule | None = None
    meter: Meter = field(default_factory=NoMeter)
    stages: Stages | None = None
    open: Callable[[], Awaitable[None]] | None = None
    """Opens what could not be opened while building (the database); called once, before the first turn."""
    close: Callable[[], Awaitable[None]] | None = None
    retention_days: float = 90.0
    retention_incidents: int = 10000


@dataclass(frozen=True)
class Turn:
    """What one cycle saw and decided."""

    number: int
    trigger: str
    scope: frozenset[str] | None
    findings: tuple[Finding, ...] = ()
    decisions: tuple[tuple[Plan | None, Incident, tuple[Verdict, ...]], ...] = ()
    responses: tuple[str, ...] = ()
    seconds: float = 0.0
    result: str = "ok"
    trace_id: str = ""
    """Drawn for each turn; its durations and log lines carry it."""


class MAPEK:
    """Monitor, Analyze, Plan, Execute over Knowledge.

    Without parts it runs what the installed package says a host needs (entry point ``x0tta6bl4.loop``): it watches and
    suggests. ``await run_cycle()`` is one turn with all that comes of it; ``await start()`` goes on until ``stop()``.
    """

    def __init__(self, parts: Parts | None = None, *, interval: float = 60.0, timeout: float = 30.0) -> None:
        self.parts = parts if parts is not None else _installed_parts()
        self.interval = interval
        self.timeout = timeout
        self.cycle_count = 0
        self.overruns = 0
        self.timeouts = 0
        self.last_turn: Turn | None = None
        self.last_progress = self.parts.clock.monotonic()
        """Monotonic time at which a turn last ended: what the watchdog is fed by."""
        self.lifecycle = StateMachine(State.STOPPED, bus=self.parts.bus, clock=self.parts.clock)
        self.standing = Standing()
        self.incidents = Incidents(self.parts.clock)
        self.correlation = Correlation()
        self.watching = Watching(self.parts.instances, self.parts.sight, self.parts.clock, self.wake, self.parts.meter)
        self.guard = Guard(self.parts.policy, self.parts.flags, Ledger(), self.standing, self.parts.sight)
        self.responder = Responder(
            catalogue=self.parts.catalogue,
            guard=self.guard,
            incidents=self.incidents,
            sight=self.parts.sight,
            watching=self.watching,
            knowledge=self.parts.knowledge,
            planner=self.parts.planner,
            clock=self.parts.clock,
            meter=self.parts.meter,
            told=self._tell,
            said=self._say,
            eased=self._wake_held,
        )
        self.keeping = Keeping(
            self.parts.sight,
            self.incidents,
            self.parts.knowledge,
            self.parts.clock,
            lambda: bool(self.standing.in_treatment),
        )
        self.learning = Learning(
            self.parts.analyzers,
            self.parts.knowledge,
            self.parts.clock,
            lambda: bool(self.standing.in_treatment),
        )
        self._altered: int | None = None
        """The number of the latest alteration that was told to the analyzers; None: none was read yet."""
        self._told_standing: tuple[Mapping[str, bool], Mapping[str, Pause], Mapping[str, str]] | None = None
        """Flags, pauses and the states of approvals, as they were told last."""
        self.first_turn = asyncio.Event()
        self._status = "stopped"
        self._ready = False
        self._group: asyncio.TaskGroup | None = None
        self._stop = asyncio.Event()
        self._woken = asyncio.Event()
        self._wanted: set[str] = set()
        self._all_due = False
        self._turning = asyncio.Lock()
        """Held for the whole of a turn about everything."""
        self._judging = asyncio.Lock()
        """Held from what was seen to what is done about it, in every turn."""
        self._timers: dict[str, tuple[float, asyncio.TimerHandle]] = {}
        self._treated: dict[str, asyncio.Task[None]] = {}
        self._held: set[str] = set()
        self._failing_analyzers: set[str] = set()
        self._told_decisions: dict[str, tuple[str, str, str]] = {}
        self._told_incidents: dict[str, tuple[object, ...]] = {}
        self._told_subjects: dict[str, str] = {}
        """Name -> the state that was told last."""
        self.trials: dict[str, list[Feedback]] = {}
        """What is known of earlier tries, by fault."""
        self._unlearnt: set[str] = set()
        """Faults of which something new is known that was not read yet."""
        self._inbox: dict[str, Message] = {}
        """What people said to runbooks and no runbook has heard yet, by the message's id."""
        self._heard: set[str] = set()
        self._unsaved: dict[str, Incident] = {}
        """Incidents that the journal could not take yet."""

    @property
    def status(self) -> str:
        """``stopped``, ``running`` or ``stopping``."""
        return self._status

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Runs until ``stop()`` or cancellation; returns when every response under way has written its outcome."""
        if self._status != "stopped":
            raise RuntimeError(f"the loop is {self._status} already")
        self._stop.clear()
        self.responder.stopping.clear()
        self._status = "running"
        try:
            unfinished = await self._prepare()
            async with asyncio.TaskGroup() as group:
                self._group = group
                beside = [group.create_task(self.parts.bus.process_events(), name="bus")]
                # Before anything can wake a turn: it would treat an incident whose last step nobody has looked at yet.
                for left in unfinished:
                    await self._take_up(left)
                beside += [
                    group.create_task(self.watching.run(), name="watching"),
                    group.create_task(self._turns(), name="turns"),
                    group.create_task(self._notice(), name="notice"),
                    group.create_task(self.keeping.run(), name="signals"),
                    group.create_task(self.learning.run(), name="learning"),
                ]
                if self.parts.schedule is not None:
                    self.parts.schedule.every(self.interval, self._due)
                self._due()
                await self._stop.wait()
                self._status = "stopping"
                self._close_timers()
                for task in beside[1:]:
                    task.cancel()
                # What is being done is brought to its end: a restart cut in the middle would leave the service down.
                # What is only being proved is left as an intent without an outcome, which the next life looks at.
                self.responder.stopping.set()
                await asyncio.gather(*self._treated.values(), return_exceptions=True)
                await self.keeping.keep_all()
                await self.learning.keep_all()
                beside[0].cancel()
        finally:
            self._group = None
            self._status = "stopped"
            self._ready = False  # what was left unproved is taken up anew, also by this object
            if self.parts.schedule is not None:
                self.parts.schedule.close()
            self.lifecycle.transition_to(State.STOPPED, "stopped", force=True)
            if self.parts.close is not None:
                await self.parts.close()

    def stop(self) -> None:
        """Asks the loop to end; ``start()`` returns when it has."""
        self._stop.set()

    async def run_cycle(self, subjects: Iterable[str] | None = None) -> Turn:
        """One turn: about the named subjects, or about everything. On its own it also waits for what it started."""
        unfinished = await self._prepare()
        scope = None if subjects is None else frozenset(subjects)
        if self._group is not None:
            return await self._turn(scope, "call")
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for left in unfinished:
                    await self._take_up(left)
                turn = await self._turn(scope, "call")
                await asyncio.gather(*self._treated.values(), return_exceptions=True)
                await self.keeping.keep_all()
                await self.learning.keep_all()
            finally:
                self._group = None
                self._close_timers()
        return turn

    async def _prepare(self) -> list[Unfinished]:
        """Takes up what an earlier life left; returns the steps whose outcome died with it."""
        if self._ready:
            return []
        if self.parts.open is not None:
            await self.parts.open()
        self._ready = True
        knowledge, wall = self.parts.knowledge, self.parts.clock.wall()
        self.responder.epoch = await knowledge.boot()
        closed = [
            i
            for i in await knowledge.incidents(IncidentState.CLOSED, limit=1000)
            if wall - (i.closed_at or 0.0) < REOPEN
        ]
        self.incidents.load(await knowledge.open_incidents(), closed)
        for incident in self.incidents.open:
            self.keeping.opened(incident)
        self.parts.planner.adopt(await knowledge.books())
        await knowledge.keep_books(self.parts.planner.books())
        self.guard.ledger = Ledger(await knowledge.actions_since(wall - 86400.0))
        await self.learning.take_up()
        await self.refresh()
        sight = self.parts.sight
        sight.alarm_on([c for a in self.parts.analyzers if isinstance(a, Alarmed) for c in a.alarms(sight.subjects)])
        await self._learn({i.fault for i in (*self.incidents.open, *closed)})
        self.lifecycle.transition_to(State.IDLE, "started", force=True)
        return await knowledge.unfinished()

    async def refresh(self) -> None:
        """What people said through the store: flags, pauses, approvals."""
        knowledge = self.parts.knowledge
        self.parts.flags.load(await knowledge.flags())
        self.standing.pauses = tuple(await knowledge.pauses())
        self.standing.approvals = {a.plan: a for a in await knowledge.approvals(limit=1000)}
        self.standing.asked &= self.standing.approvals.keys()
        messages = await knowledge.inbox()
        # One that was heard may still stand there: the move that took it is being written, or was after the reading.
        self._heard &= {message.id for message in messages}
        self._inbox = {message.id: message for message in messages if message.id not in self._heard}
        await self.learning.hear()
        await self._hear_of_alterations()
        self.parts.meter.set("x0tta6bl4_paused", float(len(self.standing.pauses)))
        for name, value in self.parts.flags.as_dict().items():
            self.parts.meter.set("x0tta6bl4_feature_flag", float(value), flag=name)
        self._tell_changes()

    async def _hear_of_alterations(self) -> None:
        """What was changed on purpose is an occurrence of its subject, also when it was done a while ago."""
        clock = self.parts.clock
        wall, now = clock.wall(), clock.monotonic()
        since = wall - ALTERED_BEFORE if self._altered is None else 0.0
        for one in await self.parts.knowledge.learnt.alterations(since, self._altered or 0):
            self._altered = one.id
            said = f"{one.detail} (said by {one.who})" if one.detail else f"said by {one.who}"
            told = Occurrence("operators", one.subject, f"altered.{one.kind}", now - max(0.0, wall - one.at), said)
            self.wake(self.parts.sight.happened(told, now))
        self._altered = self._altered or 0

    def _tell_changes(self) -> None:
        """What people have changed since this was told last, whichever way they did it."""
        flags, pauses = self.parts.flags.as_dict(), {pause.id: pause for pause in self.standing.pauses}
        states = {plan: approval.state for plan, approval in self.standing.approvals.items()}
        before, self._told_standing = self._told_standing, (flags, pauses, states)
        if before is None:
            return  # what was so before this life began is no news
        for name, value in flags.items():
            if before[0].get(name) != value:
                self._tell("flag_change", "", {"flag": name, "value": value})
        for id, pause in {**before[1], **pauses}.items():
            if (id in pauses) != (id in before[1]):
                about = {"target": pause.target, "until": pause.until, "who": pause.who, "reason": pause.reason}
                self._tell("pause", pause.target, {**about, "state": "begun" if id in pauses else "ended"})
        for plan, state in states.items():
            if before[2].get(plan) != state:
                approval = self.standing.approvals[plan]
                about = {"plan": plan, "incident": approval.incident, "who": approval.who, "why": approval.why}
                self._tell("approval", "", {**about, "state": state, "expires": approval.expires})

    async def _learn(self, faults: Iterable[str]) -> None:
        """What is known of earlier tries, for a planner that asks. Read beside the work, never in front of a heal."""
        if self.parts.planner.learns:
            since = self.parts.clock.wall() - LEARNT_FROM
            for fault in faults:
                self.trials[fault] = await self.parts.knowledge.feedback(fault, since)

    async def _notice(self) -> None:
        while True:
            await asyncio.sleep(until_next(NOTICE_EVERY, self.parts.clock.monotonic()))
            try:
                if self.standing.store_trouble:
                    await asyncio.sleep(STORE_RETRY)
                    await self.parts.knowledge.remember("store.trouble", None)
                    for left in await self.parts.knowledge.unfinished():
                        if not any(key.startswith(f"{left.plan.incident}/") for key in self._treated):
                            await self._take_up(left)
                    await self.refresh()  # the switch may have been thrown meanwhile: known before anything is done
                    log.info("the journal can be written again", extra={"was": self.standing.store_trouble})
                    self._tell("condition", "journal", {"state": "ok", "reason": ""})
                    self.standing.store_trouble = ""
                    self._due()
                if self.parts.knowledge.changed_by_others():
                    await self.refresh()
                    await self._learn(tuple(self.trials))  # somebody may have said how something went
                    self.wake({i.subject for i in self.incidents.open} or {"*"})
            except StoreError as error:
                self._store_failed(error)

    def _store_failed(self, error: StoreError) -> None:
        """Reported once; nothing is done until the journal can be written again."""
        if not self.standing.store_trouble:
            log.error("the journal cannot be written; acting stops", extra={"reason": str(error)})
            self._tell("condition", "journal", {"state": "failing", "reason": str(error)})
        self.standing.store_trouble = error.message

    # -- waking --------------------------------------------------------------------------------------------------

    def wake(self, subjects: Iterable[str]) -> None:
        """Asks for a turn about these subjects now. Many calls before it comes are one turn."""
        self._wanted.update(subjects)
        self._woken.set()

    def _wake_held(self) -> None:
        """Something that others were held back for is over."""
        held, self._held = self._held, set()
        self.wake(held)

    def wake_at(self, subject: str, when: float) -> None:
        """Asks for a turn about the subject at a time of the monotonic clock; the earliest wish counts."""
        if self._group is None or self._status == "stopping":
            return
        before = self._timers.get(subject)
        if before is not None:
            if before[0] <= when:
                return
            before[1].cancel()
        self._timers[subject] = (when, asyncio.get_running_loop().call_at(when, self._timer_rang, subject))

    def _timer_rang(self, subject: str) -> None:
        self._timers.pop(subject, None)
        self.wake({subject})

    def _close_timers(self) -> None:
        for _, handle in self._timers.values():
            handle.cancel()
        self._timers.clear()

    def _due(self) -> None:
        """The schedule's call. One that comes while the last one still waits or runs is an overrun, not a queue."""
        if self._all_due or self._turning.locked():
            self.overruns += 1
            self.parts.meter.count("x0tta6bl4_mapek_overruns_total")
        self._all_due = True
        self._woken.set()

    async def _turns(self) -> None:
        """A monitor that takes its time keeps a turn about everything, and nobody who is woken meanwhile, waiting."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._woken.wait()
                self._woken.clear()
                if self._all_due and not self._turning.locked():
                    self._all_due = False
                    whole = group.create_task(self._try_turn(None, "schedule"), name="whole-turn")
                    await asyncio.wait([whole], timeout=QUICK)
                    if self._wanted or self._all_due:
                        self._woken.set()
                elif self._wanted:
                    wanted, self._wanted = self._wanted, set()
                    await self._try_turn(frozenset(wanted), "wake")

    async def _try_turn(self, scope: frozenset[str] | None, trigger: str) -> None:
        turn = await guarded(lambda: self._turn(scope, trigger), None)
        if isinstance(turn, Failure):
            # A mistake of our own must not end the daemon: it is told loudly, and the next turn is another try.
            log.error("the turn failed", exc_info=turn.exception, extra={"reason": turn.message})
            self.parts.meter.count("x0tta6bl4_mapek_cycles_total", trigger=trigger, result="error")
            self.lifecycle.transition_to(State.ERROR, turn.message, force=True)
            self.lifecycle.transition_to(State.IDLE, "goes on")
            await asyncio.sleep(0.1)
        if self._all_due:
            self._woken.set()  # it came due while this one ran

    # -- one turn ------------------------------------------------------------------------------------------------

    async def _turn(self, scope: frozenset[str] | None, trigger: str) -> Turn:
        async with self._turning if scope is None else nullcontext():
            began = self.parts.clock.monotonic()
            self.cycle_count += 1
            number = self.cycle_count
            thread = f"cycle-{number}"
            self.lifecycle.transition_to(State.PROCESSING, trigger)
            draft = Turn(number, trigger, scope, trace_id=os.urandom(16).hex())
            try:
                async with asyncio.timeout(self.timeout) as limit:
                    draft = await self._phases(draft, thread)
            except TimeoutError:
                if not limit.expired():
                    raise
                self.timeouts += 1
                draft = replace(draft, result="timeout")
                log.error(
                    "the turn took too long and was cut off",
                    extra={"cycle": number, "timeout": self.timeout, "trace_id": draft.trace_id},
                )
                self.lifecycle.transition_to(State.PROCESSING, trigger)
                self.lifecycle.transition_to(State.ERROR, f"longer than {self.timeout:g} s")
            self._came_to_rest()
            self._tell_changes()
            ended = self.parts.clock.monotonic()
            self.last_progress = ended
            turn = replace(draft, seconds=ended - began)
            self.last_turn = turn
            if scope is None:
                self.first_turn.set()
            self.parts.meter.count("x0tta6bl4_mapek_cycles_total", trigger=trigger, result=turn.result)
            self.parts.meter.observe(
                "x0tta6bl4_mapek_cycle_duration_seconds",
                turn.seconds,
                exemplar={"trace_id": turn.trace_id},
                phase="total",
            )
            if self.parts.flags.is_enabled("monitoring_verbose"):
                log.info(
                    "turn",
                    extra={
                        "cycle": number,
                        "trigger": trigger,
                        "findings": len(turn.findings),
                        "seconds": round(turn.seconds, 4),
                        "trace_id": turn.trace_id,
                    },
                )
            return turn

    def _came_to_rest(self) -> None:
        if self._treated:
            if self.lifecycle.current_state is State.ERROR:
                self.lifecycle.transition_to(State.IDLE, "goes on")
                self.lifecycle.transition_to(State.PROCESSING, "goes on")
            self.lifecycle.transition_to(State.RESPONDING, f"responding to {', '.join(sorted(self._treated))}")
        else:
            self.lifecycle.transition_to(State.IDLE, "turn over")

    def _stage(self, stage: str, thread: str) -> AbstractContextManager[object]:
        return self.parts.stages.track_stage(stage, stage[4:].title(), thread) if self.parts.stages else nullcontext()

    async def _phases(self, draft: Turn, thread: str) -> Turn:
        clock, scope = self.parts.clock, draft.scope
        timed: dict[str, float] = {}

        def mark(phase: str, since: float) -> float:
            now = clock.monotonic()
            timed[phase] = now - since
            return now

        at = clock.monotonic()
        with self._stage("1.0_MONITOR", thread):
            if scope is None:
                await self.watching.look_all()
        at = mark("monitor", at)
        async with self._judging:
            if scope is None:
                self._wanted.clear()  # whatever woke somebody until now is in what was seen
            self.lifecycle.transition_to(State.PROCESSING, draft.trigger)
            return await self._judge_and_act(draft, thread, timed, mark, at)

    async def _judge_and_act(
        self, draft: Turn, thread: str, timed: dict[str, float], mark: Callable[[str, float], float], at: float
    ) -> Turn:
        parts, clock, scope = self.parts, self.parts.clock, draft.scope
        self.guard.ledger.not_after(clock.wall())
        view = View(parts.sight, clock.monotonic(), scope, parts.sight.take_occurrences(scope), clock.wall())
        with self._stage("2.0_ANALYZE", thread):
            findings = await self._analyze(view)
            complete = not self._failing_analyzers
            folded = self.correlation.fold(
                findings, view, self.incidents, complete=complete, is_treated=self._is_treated
            )
            changes = self.incidents.take(folded.findings, view, complete=complete, merging=folded.merged)
            changes = self._correlated(folded, changes, view)
            for over in changes.relapsed:
                await self._relapsed(over)
            for over in changes.closed:
                await self._let_go(over)
            for incident in changes.changed:
                await self._worsened(incident)
            for finding in findings:
                parts.sight.nudge(finding.subject)
        at = mark("analyze", at)
        with self._stage("3.0_PLAN", thread):
            for message in tuple(self._inbox.values()):
                await self._hear(message)
            planned = [draft for incident in self._to_plan(view) for draft in await self._planned(incident, view)]
        at = mark("plan", at)
        with self._stage("4.0_EXECUTE", thread):
            # One after another, so that what is begun for one counts when the next is judged. The journal is written
            # by the responses themselves, before they act; what follows here may be slow.
            drafts: list[tuple[Plan | None, Incident, tuple[Verdict, ...]]] = []
            responses: list[str] = []
            for plan, incident, verdicts in planned:
                if incident.subject in self.standing.in_treatment and (plan is None or self._is_disruptive(plan)):
                    continue  # by a plan for a worse incident of the same subject; one that is held back stops no other
                if plan is not None:
                    verdicts = self._judge(plan, incident, view)
                    if _is_forbidden(plan, decision(verdicts)):
                        self._pass_over(plan, incident, decision(verdicts))
                    if decision(verdicts).answer is Answer.ALLOW and self._respond(plan, incident):
                        responses.append(plan.id)
                if verdicts:
                    drafts.append((plan, incident, verdicts))
        at = mark("execute", at)
        with self._stage("5.0_KNOWLEDGE", thread):
            try:
                await self._remember(view, changes, drafts)
            except StoreError as error:
                self._store_failed(error)
        mark("knowledge", at)
        for subject, when in changes.wake_at.items():
            self.wake_at(subject, when)
        trace = {"trace_id": draft.trace_id}
        for phase, seconds in timed.items():
            parts.meter.observe("x0tta6bl4_mapek_cycle_duration_seconds", seconds, exemplar=trace, phase=phase)
        return replace(draft, findings=tuple(findings), decisions=tuple(drafts), responses=tuple(responses))

    async def _analyze(self, view: View) -> list[Finding]:
        findings: list[Finding] = []
        for analyzer in self.parts.analyzers:

            async def judged(analyzer: Analyzer = analyzer) -> Sequence[Finding]:
                return [f for f in analyzer.analyze(view) if not self._is_our_own_doing(f)]

            found = await guarded(judged, None)
            if isinstance(found, Failure):
                self.parts.meter.count("x0tta6bl4_plugin_failures_total", instance=analyzer.name, kind=found.error)
                if analyzer.name not in self._failing_analyzers:
                    self._failing_analyzers.add(analyzer.name)
                    log.error(
                        "an analyzer fails",
                        exc_info=found.exception,
                        extra={"instance": analyzer.name, "reason": found.message},
                    )
                continue
            if analyzer.name in self._failing_analyzers:
                self._failing_analyzers.discard(analyzer.name)
                log.info("an analyzer works again", extra={"instance": analyzer.name})
            findings.extend(found)
        findings.extend(self._blindness(view))
        for finding in findings:
            self.parts.meter.count("x0tta6bl4_findings_total", fault=finding.fault)
        return findings

    def _correlated(self, folded: Folded, changes: Changes, view: View) -> Changes:
        """What belongs together is one incident: those that were another before end in it."""
        incidents = self.incidents
        incidents.stand_beside(folded.beside, folded.into, view)
        linked = {incident.id: incident for incident in changes.linked}
        for incident in folded.linked:
            known = incidents.get(incident.subject, incident.fault)
            if known is not None and known.id == incident.id:
                incidents.put(incident)
                linked[incident.id] = incident
        merged: list[Incident] = []
        for own, into in folded.merged.items():
            part, whole = incidents.get(*own), incidents.get(*into)
            if part is not None and whole is not None:
                merged.append(incidents.merge(part, whole))
        for incident in storms(incidents, changes.opened):
            incidents.put(incident)
            linked[incident.id] = incident
        wake_at = dict(changes.wake_at)
        for subject, when in folded.wake_at.items():
            wake_at[subject] = min(when, wake_at.get(subject, when))
        return Changes(
            tuple(map(incidents.known, changes.opened)),
            tuple(map(incidents.known, changes.changed)),
            (*changes.closed, *merged),
            changes.relapsed,
            wake_at,
            tuple(map(incidents.known, linked.values())),
        )

    def _is_treated(self, incident: Incident) -> bool:
        """Whether anything was done about it, or is being done."""
        return self.guard.ledger.done_for(incident.id) > 0 or any(
            key.startswith(f"{incident.id}/") for key in self._treated
        )

    def _is_our_own_doing(self, finding: Finding) -> bool:
        """What is seen during an action, and what was asked before it ended, says nothing about how it is now."""
        sight = self.parts.sight
        if sight.is_acted_on(finding.subject):
            return True
        acted = sight.acted_at(finding.subject)
        asked = [sight.asked_at(o.subject, o.metric) for o in finding.because if isinstance(o, Observation)]
        return acted is not None and bool(asked) and all(at is not None and at < acted for at in asked)

    def _blindness(self, view: View) -> list[Finding]:
        found = []
        for instance, (reason, subjects, since) in self.parts.sight.blind_instances.items():
            if not view.in_scope(instance):
                continue
            if view.now - since < BLIND_AFTER:
                self.wake_at(instance, since + BLIND_AFTER)
                continue
            whom = f"; nothing is known of {', '.join(subjects)} through it" if subjects else ""
            found.append(
                Finding(
                    analyzer="kernel",
                    subject=instance,
                    fault="blind",
                    severity=Severity.WARNING,
                    since=since,
                    summary=f"the monitor {instance} cannot see: {reason}{whom}",
                    because=(Observation(instance, instance, "sees", 0.0, since, reason),),
                    data=judged_data([_blind(instance, view.now - since)]),
                )
            )
        return found

    def _to_plan(self, view: View) -> list[Incident]:
        """Worst first; subjects in treatment are left to it."""
        scope = view.scope
        if scope is not None:
            # Who waits for a subject in scope is concerned as well.
            scope = scope | {n for n, s in view.sight.subjects.items() if any(d in view.scope for d in s.depends_on)}  # type: ignore[operator]  # narrowed above
        return sorted(
            (i for i in self.incidents.open if scope is None or i.subject in scope),
            key=lambda i: (RANK[i.severity], i.opened_at),
        )

    def situation(self, incident: Incident) -> Situation:
        """What the planner may look at about it now."""
        subjects, ledger = self.parts.sight.subjects, self.guard.ledger
        subject, wall = incident.subject, self.parts.clock.wall()
        latest, equal = ledger.equal_tries(subject, wall, self.parts.policy.backoff.decay)
        return Situation(
            subject_of(subjects, subject),
            wall,
            subjects,
            equal,
            latest,
            ledger.latest_target(subject),
            ledger.done_for(incident.id),
            self.parts.clock.monotonic(),
            self.responder.epoch,
            {o.metric: o.value for o in self.parts.sight.about(subject)},
            self.trials.get(incident.fault, ()),
            self.parts.catalogue.blasts,
            self.parts.catalogue.timeouts,
        )

    async def _planned(self, incident: Incident, view: View) -> list[tuple[Plan | None, Incident, tuple[Verdict, ...]]]:
        """A planner that fails about one incident fails about that one only."""

        async def planned() -> list[tuple[Plan | None, Incident, tuple[Verdict, ...]]]:
            return self._plan(incident, view)

        found = await guarded(planned, None)
        if not isinstance(found, Failure):
            return found
        self._planner_failed(incident, found)
        failing = Verdict("planner", Answer.DENY, f"the planner fails: {found.error}: {found.message}")
        return [(None, incident, (failing,))]

    async def _ask_planner(self, incident: Incident, ask: Callable[[Planner, Situation], Advance]) -> Advance | None:
        """None when it fails, which is told."""

        async def asked() -> Advance:
            return ask(self.parts.planner, self.situation(incident))

        advance = await guarded(asked, None)
        if isinstance(advance, Failure):
            self._planner_failed(incident, advance)
            return None
        return advance

    def _planner_failed(self, incident: Incident, failure: Failure) -> None:
        self.parts.meter.count("x0tta6bl4_plugin_failures_total", instance=self.parts.planner.name, kind=failure.error)
        if self._told_decisions.get(incident.id, ("",))[0] != "planner":
            log.error(
                "the planner fails",
                exc_info=failure.exception,
                extra={"subject": incident.subject, "incident": incident.id, "reason": failure.message},
            )

    def _plan(self, incident: Incident, view: View) -> list[tuple[Plan | None, Incident, tuple[Verdict, ...]]]:
        """Each plan that may be judged now; where there is none, the reason."""
        is_seen = self.incidents.finding(incident) is not None
        is_busy = incident.state is IncidentState.RESPONDING or incident.subject in self.standing.in_treatment
        waits = self.incidents.waits_for(incident, view) if is_seen and not is_busy and not incident.proved else ""
        if waits:
            waiting = replace(incident, state=IncidentState.WAITING)
            self.incidents.put(waiting)
            self.wake_at(incident.subject, view.now + 0.5)
            return [(None, waiting, (Verdict("dependency", Answer.HOLD, waits),))]
        if not is_seen and not incident.place:
            return []
        if incident.state is IncidentState.WAITING:
            incident = replace(incident, state=IncidentState.OPEN)
            self.incidents.put(incident)
        advance = self.parts.planner.plan(incident, self.situation(incident))
        if advance is None:
            return [
                (
                    None,
                    incident,
                    (Verdict("planner", Answer.DENY, f"no rule says what to do about {incident.fault!r}"),),
                )
            ]
        incident = self._advanced(incident, advance)
        if incident.state is IncidentState.CLOSED:
            return []
        if incident.state is IncidentState.RESPONDING or incident.subject in self.standing.in_treatment:
            # A human is told meanwhile, where another part of the runbook wants that: it disturbs nobody.
            return [(plan, incident, ()) for plan in advance.plans if not self._is_disruptive(plan)]
        if not (is_seen or incident.proved):
            # What is not found any more is about to end by itself; its runbook's timers run on. What that was about
            # to take back is taken back before: afterwards nobody would.
            return [(plan, incident, ()) for plan in advance.plans if plan.under_way]
        if not advance.plans:
            return [(None, incident, (Verdict("runbook", Answer.HOLD, advance.why),))] if advance.why else []
        for plan in advance.plans:
            if plan.key:
                owner = self.standing.owners.setdefault(plan.key, incident.id)
                if all(other.id != owner for other in self.incidents.open):
                    self.standing.owners[plan.key] = incident.id
        return [(plan, incident, ()) for plan in advance.plans]

    def _advanced(self, incident: Incident, advance: Advance) -> Incident:
        """Takes over what the planner made of an incident; it is written with whatever is written next about it."""
        moved = advance.incident
        if advance.moves or moved != incident:
            self.incidents.put(moved, advance.moves)
            self._unsaved[moved.id] = moved
        self.responder.resume(moved.id, advance.resumed)
        if advance.left:
            self.responder.leave(moved.id, [a for a in advance.left if f"{moved.id}/{a}" in self._treated])
            self.parts.sight.nudge(moved.subject)
        if advance.look_again is not None:
            self.wake_at(moved.subject, self.parts.clock.monotonic() + max(0.02, advance.look_again))
        self._say(moved, advance)
        if moved.state is IncidentState.CLOSED:
            self._closed(moved)
        return moved

    def _say(self, incident: Incident, advance: Advance) -> None:
        """What the runbook had to tell, before it is written that it did: killed in between, it is told once more."""
        for name, data in advance.said:
            about = {"incident": incident.id, "subject": incident.subject}
            if name == "log":
                log.info("runbook", extra={**about, **data})
            else:
                log.info("runbook tells", extra={**about, "event": name})
                self._tell("runbook", incident.subject, {"incident": incident.id, "event": name, "data": dict(data)})

    async def _worsened(self, incident: Incident) -> None:
        """What an analyzer finds later is an event for the runbook, by the name of the fault; most listen to none."""
        if not incident.place:
            return
        found = {**incident.data, "severity": incident.severity.value, "summary": incident.summary}
        message = Message("", incident.id, incident.fault, plain(found), "daemon", incident.updated_at)

        advance = await self._ask_planner(incident, lambda planner, now: planner.tell(incident, message, now))
        if advance is not None and advance.moves:
            self._advanced(incident, advance)

    async def _hear(self, message: Message) -> None:
        """What somebody said to an incident's runbook is taken by it, with the next write about the incident."""
        del self._inbox[message.id]
        self._heard.add(message.id)
        incident = next((i for i in self.incidents.open if i.id == message.incident), None)
        if incident is None:
            log.warning("an event came for an incident that is over", extra={"incident": message.incident})
            await self._drop(message)
            return

        advance = await self._ask_planner(incident, lambda planner, now: planner.tell(incident, message, now))
        if advance is None:
            return
        log.info(
            "an event was sent to a runbook",
            extra={
                "incident": incident.id,
                "event": message.event,
                "who": message.who,
                "outcome": advance.why or "taken",
            },
        )
        self._advanced(incident, advance)
        if not any(move.message == message.id for move in advance.moves):
            await self._drop(message)  # no runbook is there to hear it

    async def _drop(self, message: Message) -> None:
        try:
            await self.parts.knowledge.drop_message(message.id)
        except StoreError as error:  # it is read again when the journal can be written; the turn goes on
            self._store_failed(error)

    async def _let_go(self, incident: Incident) -> None:
        """The incident ended by itself: its runbook is told, and what it waits for is let go of."""

        advance = await self._ask_planner(incident, lambda planner, now: planner.close(incident, now))
        if advance is not None:
            self.incidents.put(advance.incident, advance.moves)

    async def _relapsed(self, before: Incident) -> None:
        """What was proved well is found again while its runbook tidied up: that run is over, and healed it once."""
        self._closed(replace(before, ended="healed", closed_at=self.parts.clock.wall()))
        await self._let_go(self.incidents.known(before))

    def _judge(self, plan: Plan, incident: Incident, view: View) -> tuple[Verdict, ...]:
        verdicts = self.responder.judge(plan, incident)
        verdict = decision(verdicts)
        if verdict.answer is Answer.HOLD:
            now, wall = view.now, self.parts.clock.wall()
            until = now + max(0.02, verdict.until - wall) if verdict.until is not None else now + LATER
            self._held.add(incident.subject)
            self.wake_at(incident.subject, until)
        return verdicts

    def _pass_over(self, plan: Plan, incident: Incident, verdict: Verdict) -> None:
        """A rung that nobody allows would keep the incident from the rungs behind it, and from a human, for ever."""
        now = self.parts.clock.wall()
        refused = Outcome(plan.steps[0].id, Result.REFUSED, f"{verdict.check}: {verdict.sentence}", now, now)
        advance = self.parts.planner.after(incident, plan, [refused], self.situation(incident))
        # At the top it waits, and does not begin the same walk again; but one that is broken has to say so.
        if advance.incident.passes == incident.passes or advance.plans:
            state = incident.state
            self._advanced(incident, replace(advance, incident=replace(advance.incident, state=state)))
            self.wake({incident.subject})

    def _respond(self, plan: Plan, incident: Incident) -> bool:
        # Telling a human occupies nobody: a slow mail server must not keep a restart waiting.
        concerned = {plan.subject, *(step.target for step in plan.steps)} if self._is_disruptive(plan) else set()
        if concerned & self.standing.in_treatment.keys():
            self.wake_at(plan.subject, self.parts.clock.monotonic() + 0.5)
            return False
        if f"{incident.id}/{plan.activity}" in self._treated:
            return False
        incident = self.incidents.known(incident)
        incident = self.parts.planner.begun(incident, plan, self.responder.epoch)
        self.incidents.put(replace(incident, state=IncidentState.RESPONDING))
        plan = self.responder.once(self._of_a_storm(plan, incident))
        self.responder.mean(plan, plan.steps[0])
        self._treat(incident, self._carry_out(plan, incident), concerned, plan)
        return True

    def _is_disruptive(self, plan: Plan) -> bool:
        """The plan was allowed, so its first action is one there is; a later one that is not stops the plan itself."""
        return any(self.parts.catalogue.is_disruptive(step.action) for step in plan.steps)

    def _treat(self, incident: Incident, work: Awaitable[None], concerned: set[str], plan: Plan, key: str = "") -> None:
        subject = incident.subject
        key = key or f"{incident.id}/{plan.activity}"
        assert self._group is not None, "responses belong to the running loop"
        for name in concerned:
            self.standing.in_treatment[name] = subject_of(self.parts.sight.subjects, name).group
        self.standing.at_work.update(name for name, _ in plan.limits)
        under_way = self.responder.under_way
        under_way[incident.id] += plan.rung != ASKING

        async def treated() -> None:
            try:
                ended = await guarded(lambda: work, None)
            finally:
                for name in concerned:
                    self.standing.in_treatment.pop(name, None)
                if concerned:
                    self.standing.recovering.discard(subject)
                self.standing.at_work.subtract(name for name, _ in plan.limits)
                under_way[incident.id] -= plan.rung != ASKING
                if not under_way[incident.id]:
                    del under_way[incident.id]
                self._treated.pop(key, None)
                self.responder.resume(incident.id, [plan.activity])
            if isinstance(ended, Failure) and isinstance(ended.exception, StoppedUnproved):
                return
            if isinstance(ended, Failure):
                if isinstance(ended.exception, StoreError):
                    self._store_failed(ended.exception)
                else:
                    log.error(
                        "a response failed",
                        exc_info=ended.exception,
                        extra={"subject": subject, "reason": ended.message},
                    )
                self._not_begun(incident, plan, under_way[incident.id])
                # Not at once: a mistake of our own would turn the loop as fast as it can go.
                self.wake_at(subject, self.parts.clock.monotonic() + LATER)
                concerned.discard(subject)
            if not self._treated and self.lifecycle.current_state is State.RESPONDING:
                self.lifecycle.transition_to(State.IDLE, "responses over")
            self._wake_held()
            self.wake(concerned if isinstance(ended, Failure) else {subject} | concerned)

        self._treated[key] = self._group.create_task(treated(), name=f"treat-{subject}")

    def _not_begun(self, incident: Incident, plan: Plan, others: int) -> None:
        """``others``: how many plans are being carried out for the incident beside this one."""
        left = self.incidents.get(incident.subject, incident.fault)
        if left is not None:
            left = self.parts.planner.not_begun(left, plan)
            state = IncidentState.OPEN if left.state is IncidentState.RESPONDING and not others else left.state
            self.incidents.put(replace(left, state=state))

    async def _carry_out(self, plan: Plan, incident: Incident) -> None:
        responding = replace(incident, state=IncidentState.RESPONDING)
        advance = await self.responder.carry_out(plan, responding, lambda: self.situation(incident))
        if advance is None:
            self._not_begun(incident, plan, self.responder.under_way[incident.id] - 1)
        else:
            self._followed(advance)

    def _followed(self, advance: Advance) -> None:
        """A response has moved the incident on and written it; what else comes of it."""
        self._unlearnt.add(advance.incident.fault)
        self._advanced(advance.incident, replace(advance, moves=(), said=()))  # said and written by the responder

    async def _take_up(self, left: Unfinished) -> None:
        """A step with an intent and no outcome, of an earlier life: looked at before anything is decided."""
        incident = await self.parts.knowledge.incident(left.plan.incident)
        if incident is None:
            raise StoreError(f"step {left.step.id} belongs to incident {left.plan.incident}, which is not there")
        log.warning(
            "a step has an intent and no outcome; looking before deciding",
            extra={"step": left.step.id, "action": left.step.action, "target": left.step.target},
        )
        current = self.incidents.get(incident.subject, incident.fault) or incident
        current = self.parts.planner.begun(current, left.plan, self.responder.epoch)
        self.incidents.put(replace(current, state=IncidentState.RESPONDING, closed_at=None))
        self._treat(current, self._settle(left, current), {left.plan.subject, left.step.target}, left.plan)

    async def _settle(self, left: Unfinished, incident: Incident) -> None:
        await self.watching.look_all()  # the monitors have only just begun
        outcome = await self.responder.settle_unknown(left.step, incident, left.intent_at)
        self._tell(
            "step",
            incident.subject,
            {
                "step": left.step.id,
                "action": left.step.action,
                "target": left.step.target,
                "state": outcome.result.value,
                "detail": outcome.detail,
                "incident": incident.id,
                "rung": left.plan.rung,
            },
        )
        if left.plan.rung == ASKING:  # it was no rung of the ladder: whoever approves meanwhile approves that one
            await self.responder.settled(left.step, outcome)
            current = self.incidents.get(incident.subject, incident.fault)
            if current is not None and current.state is IncidentState.RESPONDING:
                self.incidents.put(replace(current, state=IncidentState.OPEN))
            return
        advance = await self.responder.moved_on(
            left.plan, incident, [outcome], lambda: self.situation(incident), left.step
        )
        self._followed(advance)

    # -- knowledge -----------------------------------------------------------------------------------------------

    async def _remember(
        self,
        view: View,
        changes: Changes,
        drafts: Sequence[tuple[Plan | None, Incident, tuple[Verdict, ...]]],
    ) -> None:
        opened, changed, closed = changes.opened, changes.changed, changes.closed
        knowledge, wall = self.parts.knowledge, self.parts.clock.wall()
        for incident in opened:
            self.parts.meter.count("x0tta6bl4_incidents_opened_total", fault=incident.fault)
            if incident.reopened:
                self.parts.meter.count("x0tta6bl4_incidents_reopened_total", subject=incident.subject)
            self.parts.meter.observe(
                "x0tta6bl4_time_to_detect_seconds",
                max(0.0, wall - incident.onset_at),
                exemplar={"trace_id": trace_id_of(incident.id)},
            )
            log.warning(
                "incident opened" if not incident.reopened else "incident opened again",
                extra={
                    "incident": incident.id,
                    "subject": incident.subject,
                    "fault": incident.fault,
                    "summary": incident.summary,
                },
            )
            self._tell_incident(incident)
            self.keeping.opened(incident)
        unlearnt, self._unlearnt = self._unlearnt | {i.fault for i in (*opened, *closed)}, set()
        await self._learn(unlearnt)
        self._unsaved |= {incident.id: incident for incident in (*changes.linked, *opened, *changed, *closed)}
        unsaved = tuple(self._unsaved.values())
        for at in range(0, len(unsaved), SAVED_TOGETHER):
            await self._save(unsaved[at : at + SAVED_TOGETHER])
        for incident in changed:
            self._tell_incident(self.incidents.known(incident))
        for incident in closed:
            self._closed(incident)
        for incident in (*opened, *changed):
            finding = self.incidents.finding(incident)
            if finding is not None:
                await knowledge.add_finding(incident.id, finding, wall)
        for plan, incident, verdicts in drafts:
            await self._decided(plan, incident, verdicts)
        rows = self._describe(view)
        if view.scope is None:
            await knowledge.save_subjects(
                [SubjectState(r.name, r.state, wall - (view.now - r.since), r.summary, wall) for r in rows]
            )
            for row in rows:
                self.parts.meter.set("x0tta6bl4_subject_up", float(row.state == "well"), subject=row.name)
            for expired in await knowledge.expire_approvals(wall):
                self.standing.approvals[expired.plan] = expired
                self.wake({i.subject for i in self.incidents.open if i.id == expired.incident})
            if self.cycle_count % 60 == 1:
                await self._retain(wall)

    def _describe(self, view: View) -> list[Description]:
        """How those are that the turn was about; a change is told."""
        subjects = view.sight.subjects
        names = sorted(subjects if view.scope is None else view.scope & subjects.keys())
        rows = [describe(view.sight, self.incidents, name, view.now) for name in names]
        for row in rows:
            before = self._told_subjects.get(row.name)
            self._told_subjects[row.name] = row.state
            if before is not None and before != row.state:  # how it was found at first is no news
                self._tell("health_status", row.name, {"state": row.state, "before": before, "summary": row.summary})
        return rows

    async def _save(self, incidents: Sequence[Incident]) -> None:
        """Together, for a commit costs more than what is in it; each by itself where one of them is refused."""
        changed = [(self.incidents.known(incident), self.incidents.unsaved(incident.id)) for incident in incidents]
        try:
            await self.parts.knowledge.save_incidents(changed)
        except StoreError:
            if len(incidents) == 1:
                raise
            refusal: StoreError | None = None
            for incident in incidents:
                try:
                    await self._save([incident])
                except StoreError as error:
                    refusal = refusal or error
            if refusal is not None:
                raise refusal from None
            return
        for incident, (_, moves) in zip(incidents, changed, strict=True):
            self.incidents.saved(moves)
            if self._unsaved.get(incident.id) is incident:
                del self._unsaved[incident.id]

    async def _retain(self, wall: float) -> None:
        try:
            await self.parts.knowledge.retain(wall, self.parts.retention_days, self.parts.retention_incidents)
        except TamperedError as error:
            # Healing needs the journal, not the past of the audit: it goes on, and what was tampered with is kept.
            log.error("the audit trail does not hold; nothing of it is let go", extra={"reason": str(error)})
            self._tell("condition", "audit", {"state": "tampered", "reason": str(error)})

    def _closed(self, incident: Incident) -> None:
        self.parts.meter.count("x0tta6bl4_incidents_closed_total", fault=incident.fault, ended=incident.ended)
        self._told_decisions.pop(incident.id, None)
        self.keeping.closed(incident)
        log.info(
            "incident closed",
            extra={
                "incident": incident.id,
                "subject": incident.subject,
                "fault": incident.fault,
                "ended": incident.ended,
                "seconds": round((incident.closed_at or 0.0) - incident.onset_at, 3),
            },
        )
        self._tell_incident(incident)

    def _tell_incident(self, incident: Incident) -> None:
        """Whenever something about it is different that people look at."""
        told = (incident.state, incident.severity, incident.summary, incident.reopened, incident.tries, incident.rung)
        if self._told_incidents.get(incident.id) == told:
            return
        self._told_incidents[incident.id] = told
        if incident.state is IncidentState.CLOSED:
            del self._told_incidents[incident.id]
        self._tell(
            "incident",
            incident.subject,
            {
                "incident": incident.id,
                "state": incident.state.value,
                "fault": incident.fault,
                "severity": incident.severity.value,
                "summary": incident.summary,
                "reopened": incident.reopened,
                "tries": incident.tries,
                "rung": incident.rung,
                "onset": incident.onset_at,
                "ended": incident.ended,
            },
        )

    async def _decided(self, plan: Plan | None, incident: Incident, verdicts: tuple[Verdict, ...]) -> None:
        """Said and written when it changes; a decision that stands is not repeated."""
        verdict = decision(verdicts)
        approval = self.standing.approvals.get(plan.id) if plan is not None else None
        lapsed = approval is not None and (
            approval.state == "expired"
            or (approval.state in ("wanted", "approved", "rejected") and approval.expires <= self.parts.clock.wall())
        )
        if lapsed:
            self._told_decisions.pop(incident.id, None)
        if (
            plan is not None
            and verdict.check == "mode"
            and verdict.answer is Answer.HOLD
            and (approval is None or lapsed)
        ):
            await self.parts.knowledge.expire_approvals(self.parts.clock.wall())
            self.standing.approvals[plan.id] = await self.parts.knowledge.want_approval(
                plan, self.parts.clock.wall() + self.parts.policy.approval_expires, "; ".join(plan.because[:3])
            )
        if (
            plan is not None
            and verdict.check in TOLD
            and verdict.answer is not Answer.ALLOW
            and not _is_forbidden(plan, verdict)
        ):
            self._let_know(plan, incident, verdict)  # each time: the guard spaces it out, and a lost one is sent anew
        said = (verdict.check, verdict.answer.value, plan.id if plan else "")
        if self._told_decisions.get(incident.id) == said:
            return
        knowledge, wall = self.parts.knowledge, self.parts.clock.wall()
        if plan is not None and verdict.answer is not Answer.ALLOW:
            await knowledge.save_plan(plan)
        nothing = Plan("", incident.id, incident.subject, incident.fault, "", "", (_NO_STEP,), ())
        await knowledge.record_decision(plan or nothing, (plan or nothing).steps[0], verdict, wall)
        # Not before: what the journal could not take is said again at the next turn, an approval above all.
        self._told_decisions[incident.id] = said
        self.parts.meter.count("x0tta6bl4_guard_decisions_total", check=verdict.check, answer=verdict.answer.value)
        if verdict.answer is not Answer.ALLOW:
            log.info(
                "not acting" if verdict.answer is Answer.DENY else "holding back",
                extra={
                    "subject": incident.subject,
                    "incident": incident.id,
                    "check": verdict.check,
                    "reason": verdict.sentence,
                },
            )
        self._tell(
            "decision",
            incident.subject,
            {
                "incident": incident.id,
                "plan": plan.id if plan else None,
                "action": plan.steps[0].action if plan else None,
                "target": plan.steps[0].target if plan else None,
                "check": verdict.check,
                "answer": verdict.answer.value,
                "sentence": verdict.sentence,
                "until": verdict.until,
            },
        )

    def _let_know(self, plan: Plan, incident: Incident, verdict: Verdict) -> None:
        """Where a person is to decide or to act, a person hears of it; the same channel and journal as any step."""
        id = f"{plan.id}-ask{int(self.parts.clock.wall() * 1000):x}"  # each message has an intent of its own
        step = Step(
            id=f"{id}.1",
            action="notify.human",
            target=incident.subject,
            timeout=20.0,
            expect=None,
            args={
                "title": f"{incident.subject}: {incident.fault}",
                "incident": incident.id,
                "text": f"{incident.summary}. {verdict.sentence}",
                "severity": incident.severity.value,
                "reasons": list(incident.because),
                **self._question(plan, verdict),
            },
        )
        asking = replace(plan, id=id, rung=ASKING, steps=(step,), activity="", limits=(), key="")
        asking = self._of_a_storm(asking, incident)
        verdicts = self.responder.judge(asking, incident)
        key = f"{incident.id}/ask"
        if decision(verdicts).answer is Answer.ALLOW and key not in self._treated and self._group is not None:
            self._treat(incident, self.responder.say(self.responder.once(asking), incident), set(), asking, key)

    def _of_a_storm(self, plan: Plan, incident: Incident) -> Plan:
        """Of many that fell ill at once a human hears in one message: those after it say that it was sent already.

        A question is sent all the same: each plan has an answer of its own.
        """
        name = storm_of(incident)
        if not name or not any(step.action.startswith("notify.") for step in plan.steps):
            return plan
        all_of_them = storm(self.incidents, name)
        subjects = list(dict.fromkeys(i.subject for i in all_of_them))
        if len(subjects) < 2:
            return plan
        first = all_of_them[0]
        told = {
            "incident": name,
            "title": f"storm: {len(subjects)} subjects are in trouble, first {first.subject}: {first.fault}",
        }
        names = ", ".join(subjects[:STORM_NAMED]) + (" …" if len(subjects) > STORM_NAMED else "")
        return replace(
            plan,
            steps=tuple(
                replace(
                    step, args={**step.args, **told, "text": f"{step.args.get('text', '')}\nAt once: {names}".strip()}
                )
                if step.action.startswith("notify.") and not step.args.get("plan")
                else step
                for step in plan.steps
            ),
        )

    def _question(self, plan: Plan, verdict: Verdict) -> Mapping[str, object]:
        """What a person needs to answer. How to answer is the channel's to add: a link has no place in the journal."""
        approval = self.standing.approvals.get(plan.id)
        if verdict.check != "mode" or verdict.answer is not Answer.HOLD or approval is None:
            return {}
        steps = [f"{step.action} on {step.target}" for step in plan.steps]
        return {"plan": plan.id, "expires": approval.expires, "steps": steps}

    def _tell(self, what: str, subject: str, data: Mapping[str, object]) -> None:
        if not self.parts.bus.publish_nowait(Event(EventType(what), data={"subject": subject, **data}, source="loop")):
            self.parts.meter.count("x0tta6bl4_events_dropped_total")


def _blind(instance: str, seconds: float) -> Judged:
    well = f"a look that succeeds within {BLIND_AFTER:g} s"
    named = "seconds without a look that succeeded"
    return Judged(instance, "sees", 0.0, 1.0, None, seconds, BLIND_AFTER, named, why="it cannot look", well=well)


def _is_forbidden(plan: Plan, verdict: Verdict) -> bool:
    """Whether the rung itself is what may not be done; a subject that is not to be treated at all is another matter."""
    elsewhere = verdict.check == "mode" and plan.steps[0].target != plan.subject
    return verdict.answer is Answer.DENY and (verdict.check in FORBIDDEN or elsewhere)


def _installed_parts() -> Parts:
    for point in entry_points(group="x0tta6bl4.loop"):
        if point.name == "host":
            parts = point.load()()
            assert isinstance(parts, Parts)
            return parts
    raise ConfigError(
        "MAPEK() without parts needs the installed package", remedy="install it (`pip install -e .`), or hand parts in"
    )


_NO_STEP = Step("", "", "")
