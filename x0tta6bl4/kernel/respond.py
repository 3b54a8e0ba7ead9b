"""Carries one plan out: asks the guard, writes the intent, acts, and lets the probe that failed say how it ended."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

from x0tta6bl4.kernel.errors import StepRefused
from x0tta6bl4.kernel.facts import (
    Answer,
    Condition,
    Expect,
    Incident,
    IncidentState,
    Move,
    Outcome,
    Plan,
    Result,
    Step,
    Verdict,
    shown,
    trace_id_of,
)
from x0tta6bl4.kernel.guard import Case, Guard, decision
from x0tta6bl4.kernel.incidents import Incidents
from x0tta6bl4.kernel.memory import ActionRecord, Knowledge
from x0tta6bl4.kernel.plugin import Action, Advance, Effect, Executor, Planner, Situation
from x0tta6bl4.kernel.sight import Sight
from x0tta6bl4.kernel.subjects import subject_of
from x0tta6bl4.kernel.supervise import Failure, guarded
from x0tta6bl4.kernel.watching import Watching
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.commands import OutlivesTheDaemon
from x0tta6bl4.ports.meter import Meter

log = logging.getLogger("x0tta6bl4.kernel.respond")

FRESH = 1.0
"""Seconds: an older look does not count as the precondition's; it is taken anew just before acting."""
FIRST_LOOKS = (0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3)
"""Pauses between the looks right after an action, so that the moment of recovery is known better than the probe's pace.
"""
SLOW_LOOK = 1.0
"""Seconds between looks during a proof by a probe that has no fast pace of its own."""


@dataclass(frozen=True)
class Catalogue:
    """Every action that the configured executors offer, by its full name."""

    executors: Mapping[str, Executor]

    def find(self, name: str) -> tuple[Executor, Action]:
        executor_name, _, verb = name.partition(".")
        executor = self.executors.get(executor_name)
        if executor is not None:
            for action in executor.actions:
                if action.verb == verb:
                    return executor, action
        offered = sorted(f"{e}.{a.verb}" for e, x in self.executors.items() for a in x.actions)
        raise StepRefused(f"no action is called {name!r}", remedy=f"there are: {', '.join(offered) or 'none'}")

    @cached_property
    def blasts(self) -> Mapping[str, str]:
        """How far each action reaches."""
        return {f"{e}.{a.verb}": a.blast for e, x in self.executors.items() for a in x.actions}

    @cached_property
    def timeouts(self) -> Mapping[str, float]:
        """How long each may take when its runbook does not say."""
        return {f"{e}.{a.verb}": a.timeout for e, x in self.executors.items() for a in x.actions}

    def is_disruptive(self, name: str) -> bool:
        """What is not known counts as disruptive."""
        try:
            return self.find(name)[1].disruptive
        except StepRefused:
            return True


class StoppedUnproved(Exception):
    """The daemon stops while a proof is waited for. The intent stands without an outcome; the next life looks first."""


class Responder:
    """One plan at a time a subject; many subjects at once. Everything it decides on is handed to it."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        guard: Guard,
        incidents: Incidents,
        sight: Sight,
        watching: Watching,
        knowledge: Knowledge,
        planner: Planner,
        clock: Clock,
        meter: Meter,
        told: Callable[[str, str, Mapping[str, object]], None],
        said: Callable[[Incident, Advance], None] = lambda incident, advance: None,
        eased: Callable[[], None] = lambda: None,
        epoch: int = 0,
    ) -> None:
        self.catalogue = catalogue
        self._guard = guard
        self._incidents = incidents
        self._sight = sight
        self._watching = watching
        self._knowledge = knowledge
        self._planner = planner
        self._clock = clock
        self._meter = meter
        self._told = told
        self._said = said
        self._eased = eased
        self.epoch = epoch
        self._carried = 0
        self._left: set[tuple[str, str]] = set()
        self.under_way: Counter[str] = Counter()
        """How many plans are being carried out, by incident: it is responded to until the last of them has ended."""
        self.stopping = asyncio.Event()
        """Set when the loop is asked to end: what is being done is finished, what is being proved is left to look at.
        """

    def case(self, plan: Plan, step: Step, incident: Incident, *, under_way: bool = False) -> Case:
        """``under_way``: a later step of a plan that was let through; its earlier ones may have cured the symptom."""
        _, action = self.catalogue.find(step.action)
        subjects = self._sight.subjects
        under_way = under_way or plan.under_way
        return Case(
            plan,
            step,
            action,
            replace(incident, healthy_when=()) if under_way else incident,
            subject_of(subjects, plan.subject),
            subject_of(subjects, step.target),
            self._clock.wall(),
            under_way,
        )

    def judge(self, plan: Plan, incident: Incident) -> tuple[Verdict, ...]:
        """The verdicts on the plan's first step; a step that no executor offers is denied, never skipped."""
        try:
            return self._guard.judge(self.case(plan, plan.steps[0], incident))
        except StepRefused as refused:
            return (Verdict("catalogue", Answer.DENY, str(refused)),)

    async def carry_out(self, plan: Plan, incident: Incident, situation: Callable[[], Situation]) -> Advance | None:
        """Steps in their order until one does not end as it should; then the incident moves on, once.

        None when the symptom was gone before anything was done.
        """
        outcomes: list[Outcome] = []
        for number, step in enumerate(plan.steps):
            last = number == len(plan.steps) - 1
            if number:  # the first was judged by the loop a moment ago
                try:
                    verdict = decision(self._guard.judge(self.case(plan, step, incident, under_way=True)))
                except StepRefused as refused:
                    verdict = Verdict("catalogue", Answer.DENY, str(refused))
                if verdict.answer is not Answer.ALLOW:
                    await self._knowledge.record_decision(plan, step, verdict, self._clock.wall())
                    now = self._clock.wall()
                    outcomes.append(Outcome(step.id, Result.REFUSED, f"{verdict.check}: {verdict.sentence}", now, now))
                    return await self.moved_on(plan, incident, outcomes, situation, None)
                self.mean(plan, step)
            outcome = await self._take(plan, step, incident, prove=last)
            if outcome is None:
                return None
            outcomes.append(outcome)
            if last or outcome.result not in (Result.VERIFIED, Result.UNVERIFIED):
                return await self.moved_on(plan, incident, outcomes, situation, step)
            await self._record(step, outcome)
            self._announce(outcome, incident, plan, step)
        raise AssertionError("a plan has at least one step")

    def once(self, plan: Plan) -> Plan:
        """The plan as it is carried out: with steps of their own, and with what their actions say of themselves.

        A plan is the same as long as its story is, so that an approval finds it; but a step is meant once in its life,
        and a plan may be carried out again when the daemon died between two writes.
        """
        self._carried += 1
        once = f"{plan.id}-{self.epoch}.{self._carried}"
        steps = []
        for number, step in enumerate(plan.steps, 1):
            step = replace(
                step, id=f"{once}.{number}", key=_key(plan, step, number), epoch=self.epoch, incident=plan.incident
            )
            with suppress(StepRefused):  # one that no executor offers stops the plan when its turn comes
                executor, action = self.catalogue.find(step.action)
                back = step.undo or (f"{executor.name}.{action.undo}" if action.undo and not step.undoes else "")
                # What changes nothing cannot be what helped, and may be done again when nobody knows whether it was.
                expect = step.expect if action.disruptive else None
                said = {step.on_unknown, action.on_unknown if action.disruptive else "retry"}
                unsure = "ask" if "ask" in said else "retry" if "retry" in said else "probe"
                # What takes something back is told all that is known of it, and picks what it asks for.
                asks = action.args.model_fields
                args = {k: v for k, v in step.args.items() if k in asks} if step.undoes else step.args
                step = replace(step, undo=back, expect=expect, on_unknown=unsure, args=args)
            steps.append(step)
        return replace(plan, steps=tuple(steps))

    def leave(self, incident: str, activities: Iterable[str]) -> None:
        """Their states were left: acts that go on are finished, proofs are not waited for any more."""
        self._left.update((incident, activity) for activity in activities)

    def resume(self, incident: str, activities: Iterable[str]) -> None:
        """They are waited for again, or are over: nothing of them is given up."""
        self._left.difference_update((incident, activity) for activity in activities)

    def mean(self, plan: Plan, step: Step) -> None:
        """It was allowed and counts from here: what is judged before its intent is written must see it."""
        group = subject_of(self._sight.subjects, step.target).group
        self._guard.ledger.begun(
            ActionRecord(
                step_id=step.id,
                incident=plan.incident,
                subject=plan.subject,
                target=step.target,
                action=step.action,
                group=group,
                rung=plan.rung,
                at=self._clock.wall(),
                disruptive=self.catalogue.is_disruptive(step.action),
            )
        )

    async def say(self, plan: Plan, incident: Incident) -> None:
        """Tells a human, beside whatever else is done about the incident."""
        step = plan.steps[0]
        outcome = await self._take(plan, step, incident, prove=False)
        assert outcome is not None, "what disturbs nobody is done whether or not the symptom is gone"
        await self._record(step, outcome)
        self._announce(outcome, incident, plan, step)
        question = step.args.get("plan")
        if question is not None and outcome.result is Result.UNVERIFIED:
            self._guard.standing.asked.add(question)

    async def moved_on(
        self,
        plan: Plan,
        incident: Incident,
        outcomes: Sequence[Outcome],
        situation: Callable[[], Situation],
        step: Step | None,
    ) -> Advance:
        """The outcome and what it means for the incident, in one transaction. ``step``: the one it is the outcome of;
        None when that was never begun.
        """
        outcome = outcomes[-1]
        current = self._incidents.get(incident.subject, incident.fault)
        if current is None or current.id != incident.id:
            if step is not None:  # it was closed meanwhile
                await self._record(step, outcome)
                self._announce(outcome, incident, plan, step)
            return Advance(incident)
        advance = self._planner.after(current, plan, outcomes, situation())
        moved = advance.incident
        if moved.state is IncidentState.RESPONDING and self.under_way[incident.id] <= 1:
            moved = replace(moved, state=IncidentState.ESCALATED if moved.passes else IncidentState.OPEN)
            advance = replace(advance, incident=moved)
        # Before anything is waited for: whoever looks at the incident meanwhile must find it moved on already.
        self._incidents.put(moved, advance.moves)
        self._said(moved, advance)
        moves = self._incidents.unsaved(moved.id)
        if step is None:
            await self._knowledge.save_incident(moved, moves)
        else:
            await self._record(step, outcome, moved, moves)
        self._incidents.saved(moves)
        if step is not None:
            self._announce(outcome, incident, plan, step)
        if outcome.result is Result.VERIFIED and plan.steps[-1].expect is not None:
            self._meter.observe(
                "x0tta6bl4_self_healing_mttr_seconds",
                max(0.0, (outcome.verified_at or self._clock.wall()) - incident.onset_at),
                exemplar={"trace_id": trace_id_of(incident.id)},
                fault=incident.fault,
            )
        return advance

    async def _take(self, plan: Plan, step: Step, incident: Incident, *, prove: bool) -> Outcome | None:
        """One step from intent to outcome; None when the symptom was gone before anything was done."""
        executor, action = self.catalogue.find(step.action)
        is_begun = False
        try:
            if action.disruptive and not plan.under_way and not await self._still_needed(plan, incident):
                gone = Verdict(
                    "precondition",
                    Answer.DENY,
                    "the symptom was gone, or could not be seen any more, when it was looked at again",
                )
                await self._knowledge.record_decision(plan, step, gone, self._clock.wall())
                self._told(
                    "decision",
                    incident.subject,
                    {
                        "incident": incident.id,
                        "plan": plan.id,
                        "action": step.action,
                        "target": step.target,
                        "check": gone.check,
                        "answer": "deny",
                        "sentence": gone.sentence,
                        "until": None,
                    },
                )
                return None
            if self.stopping.is_set():
                raise StoppedUnproved  # nothing new is begun
            started = self._clock.wall()
            current = self._incidents.known(incident)
            moves = self._incidents.unsaved(incident.id)
            await self._knowledge.record_intent(
                step,
                plan,
                self.epoch,
                group=subject_of(self._sight.subjects, step.target).group,
                disruptive=action.disruptive,
                incident=current,
                moves=moves,
            )
            self._incidents.saved(moves)
            is_begun = True
        finally:
            if not is_begun:
                self._guard.ledger.never_begun(step.id)
        self.mean(plan, step)
        if not self._guard.flags.is_enabled("auto_healing"):
            # The switch was thrown while the intent was being written.
            return Outcome(step.id, Result.REFUSED, "auto_healing was switched off", started, self._clock.wall())
        self._told(
            "step",
            incident.subject,
            {
                "step": step.id,
                "action": step.action,
                "target": step.target,
                "state": "begun",
                "incident": incident.id,
                "rung": plan.rung,
            },
        )
        if action.disruptive:
            log.warning(
                "acting",
                extra={
                    "action": step.action,
                    "target": step.target,
                    "incident": incident.id,
                    "rule": plan.rule,
                    "rung": plan.rung,
                    "because": incident.summary,
                },
            )
        concerned = {step.target, incident.subject} if action.disruptive else set()
        for name in concerned:
            self._sight.acting(name)
        try:
            effect = await guarded(lambda: executor.act(step), step.timeout)
        finally:
            acted_at = self._clock.monotonic()
            for name in concerned:
                self._sight.acted(name, acted_at)
        for name in concerned:
            self._sight.began_anew(name, acted_at if isinstance(effect, Effect) else None)
        if isinstance(effect, Failure):
            result = Result.REFUSED if isinstance(effect.exception, StepRefused) else Result.FAILED
            outcome = Outcome(step.id, result, effect.message, started, self._clock.wall())
        elif step.expect is None:
            outcome = Outcome(
                step.id,
                Result.UNVERIFIED,
                effect.detail,
                started,
                self._clock.wall(),
                output=effect.output,
                data=effect.data,
            )
        elif not prove:
            outcome = Outcome(
                step.id,
                Result.UNVERIFIED,
                f"{effect.detail}; the plan's last step proves it",
                started,
                self._clock.wall(),
                output=effect.output,
                data=effect.data,
            )
        else:
            outcome = await self.prove(plan, step, incident, acted_at, started, effect)
            if outcome.result is not Result.VERIFIED:
                for name in concerned:  # what did not help within its time is not starting any more
                    self._sight.began_anew(name, None)
        return outcome

    async def _record(
        self, step: Step, outcome: Outcome, incident: Incident | None = None, moves: Sequence[Move] = ()
    ) -> None:
        await self._knowledge.record_outcome(step.id, outcome, incident, moves)
        self._guard.ledger.ended(step.id, outcome.result, outcome.ended_at, unknown=outcome.unknown)

    def _announce(self, outcome: Outcome, incident: Incident, plan: Plan, step: Step) -> None:
        self._meter.count("x0tta6bl4_steps_total", action=step.action, result=outcome.result.value)
        log.info(
            "outcome",
            extra={
                "action": step.action,
                "target": step.target,
                "result": outcome.result.value,
                "detail": outcome.detail,
                "incident": incident.id,
                **({"seconds_down": round(outcome.verified_at - incident.onset_at, 3)} if outcome.verified_at else {}),
            },
        )
        self._told(
            "step",
            incident.subject,
            {
                "step": step.id,
                "action": step.action,
                "target": step.target,
                "state": outcome.result.value,
                "detail": outcome.detail,
                "incident": incident.id,
                "rung": plan.rung,
                "seconds": round((outcome.verified_at or outcome.ended_at) - outcome.started_at, 3),
            },
        )

    async def _still_needed(self, plan: Plan, incident: Incident) -> bool:
        """Reads the symptom again unless it was read a moment ago. Without a probe: the finding must stand."""
        if not incident.healthy_when:
            return self._incidents.finding(incident) is not None
        now = self._clock.monotonic()
        # Whoever approved saw the world of then; what was asked before the answer says nothing about the one of now.
        approval = self._guard.standing.approvals.get(plan.id)
        answered = now - max(0.0, self._clock.wall() - approval.at) if approval is not None else 0.0
        old = []
        for condition in incident.healthy_when:
            subject = condition.subject or incident.subject
            at = self._sight.seen_at(subject, condition.metric)
            asked = self._sight.asked_at(subject, condition.metric)
            if at is None or now - at > FRESH or asked is None or asked < answered:
                seen = self._sight.latest(subject, condition.metric)
                if seen is not None:
                    old.append(seen.source)
        if old:
            await self._watching.look(old)
        # Something must say no now. What was seen long ago by a monitor that has gone blind since says nothing.
        since = self._clock.monotonic() - FRESH
        return any(
            not self._sight.holds(c, incident.subject)
            and ((at := self._sight.seen_at(c.subject or incident.subject, c.metric)) is None or at >= since)
            for c in incident.healthy_when
        )

    async def prove(
        self, plan: Plan, step: Step, incident: Incident, acted_at: float, started: float, effect: Effect
    ) -> Outcome:
        """Waits for the healthy signs, by looks begun after the action, and for the hold time on end."""
        expect = step.expect or Expect()
        if not incident.healthy_when:
            return Outcome(
                step.id,
                Result.UNVERIFIED,
                f"{effect.detail}; no probe can say whether it helped",
                started,
                self._clock.wall(),
                output=effect.output,
                data=effect.data,
            )
        result, detail, verified_at, reasons = await self._proof(
            incident, expect, acted_at, lambda: (incident.id, plan.activity) in self._left
        )
        return Outcome(
            step.id,
            result,
            f"{effect.detail}; {detail}",
            started,
            self._clock.wall(),
            verified_at=verified_at,
            because=reasons,
            output=effect.output,
            data=effect.data,
            unknown=result is Result.UNVERIFIED,
        )

    async def _proof(
        self, incident: Incident, expect: Expect, acted_at: float, is_left: Callable[[], bool] = lambda: False
    ) -> tuple[Result, str, float | None, tuple[str, ...]]:
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self._keep_looking(incident), name=f"proof-{incident.subject}")
            try:
                judged = await self._judge_proof(incident, expect, acted_at, is_left)
            finally:
                looking.cancel()
        if judged is None:
            raise StoppedUnproved
        return judged

    async def _judge_proof(
        self, incident: Incident, expect: Expect, acted_at: float, is_left: Callable[[], bool]
    ) -> tuple[Result, str, float | None, tuple[str, ...]] | None:
        """None when the daemon stops before anything is proved."""
        deadline = acted_at + expect.within
        well_since: float | None = None
        verified_at: float | None = None
        while not self.stopping.is_set():
            if is_left():
                return Result.UNVERIFIED, "its runbook went on without waiting for the proof", None, ()
            now = self._clock.monotonic()
            signs = [self._sight.holds(c, incident.subject, since=acted_at) for c in incident.healthy_when]
            if all(signs):
                if well_since is None:
                    well_since, verified_at = now, self._clock.wall()
                    self._guard.standing.recovering.add(incident.subject)
                    self._eased()
                if now - well_since >= expect.hold:
                    proof = f"proved by {', '.join(map(str, incident.healthy_when))} for {expect.hold:g} s"
                    return Result.VERIFIED, proof, verified_at, self._evidence(incident)
                next_look = well_since + expect.hold
            else:
                well_since = verified_at = None
                self._guard.standing.recovering.discard(incident.subject)
                again = self._incidents.found_again(incident, acted_at)
                if expect.patient:  # what stands is given its time; what has begun anew since is an answer
                    again = [finding for finding in again if finding.since > acted_at]
                if again:
                    return Result.REFUTED, f"did not help: {again[0].summary}", None, self._evidence(incident)
                if now >= deadline:
                    if None in signs and False not in signs:
                        return Result.UNVERIFIED, f"nothing was seen of it within {expect.within:g} s", None, ()
                    return Result.REFUTED, f"not well within {expect.within:g} s", None, self._evidence(incident)
                next_look = deadline
            # Woken by each observation and judgement; a stop is noticed within a quarter of a second.
            try:
                async with asyncio.timeout(min(max(0.0, next_look - now), 0.25)):
                    await self._sight.wait_changed(incident.subject)
            except TimeoutError:
                pass
        return None

    async def _keep_looking(self, incident: Incident) -> None:
        """Often at first, so that the moment of recovery is known; then where the probe has no fast pace of its own."""
        for pause in FIRST_LOOKS:
            await asyncio.sleep(pause)
            await self._watching.look(self._sources(incident.healthy_when, incident.subject))
        while True:
            await asyncio.sleep(SLOW_LOOK)
            now = self._clock.monotonic()
            slow = [
                c
                for c in incident.healthy_when
                if (at := self._sight.seen_at(c.subject or incident.subject, c.metric)) is None or now - at >= SLOW_LOOK
            ]
            await self._watching.look(self._sources(slow, incident.subject))

    def _sources(self, conditions: Sequence[Condition], subject: str) -> list[str]:
        return [
            seen.source for c in conditions if (seen := self._sight.latest(c.subject or subject, c.metric)) is not None
        ]

    def _evidence(self, incident: Incident) -> tuple[str, ...]:
        told = []
        for condition in incident.healthy_when:
            seen = self._sight.latest(condition.subject or incident.subject, condition.metric)
            if seen is not None:
                told.append(
                    f"{seen.metric} is {shown(seen.metric, seen.value)}"
                    + (f": {seen.detail}" if seen.detail else "")
                    + f" (seen by {seen.source})"
                )
        return tuple(told)

    async def settle_unknown(self, step: Step, incident: Incident, intent_at: float) -> Outcome:
        """A step whose outcome died with the daemon: nothing is repeated before the world was asked."""
        still = await self._end_left(step)
        now = self._clock.wall()
        ask = step.on_unknown == "ask" or self._asks(step.action)
        if still:
            outcome = Outcome(
                step.id,
                Result.UNVERIFIED,
                f"the daemon ended before the outcome was written, and it may still be going on: {still}",
                intent_at,
                now,
                unknown=True,
            )
        elif step.expect is None or not incident.healthy_when or ask:
            outcome = Outcome(
                step.id,
                Result.UNVERIFIED,
                "the daemon ended before the outcome was written; whether it was done is not known"
                + (", and it must not be done twice: a human has to look" if ask else ""),
                intent_at,
                now,
                unknown=True,
            )
        else:
            result, detail, verified_at, reasons = await self._proof(
                incident, replace(step.expect, within=min(step.expect.within, 10.0)), self._clock.monotonic()
            )
            outcome = Outcome(
                step.id,
                result,
                f"the daemon ended before the outcome was written; looked again: {detail}",
                intent_at,
                self._clock.wall(),
                verified_at=verified_at,
                because=reasons,
                unknown=result is Result.UNVERIFIED,
            )
        return outcome

    async def settled(self, step: Step, outcome: Outcome) -> None:
        """Of a step that was no part of a runbook: only the outcome is kept."""
        await self._record(step, outcome)

    async def _end_left(self, step: Step) -> str:
        """Why what an earlier life began for the step may still be going on; empty when nothing of it is."""
        try:
            executor, _ = self.catalogue.find(step.action)
        except StepRefused:
            return ""  # that executor is no longer configured; nobody else knows what it began
        if not isinstance(executor, OutlivesTheDaemon):
            return ""
        ended = await guarded(executor.end_left, None)
        return ended.message if isinstance(ended, Failure) else ""

    def _asks(self, action: str) -> bool:
        try:
            return self.catalogue.find(action)[1].on_unknown == "ask"
        except StepRefused:
            return False  # that executor is no longer configured; looking harms nothing


def _key(plan: Plan, step: Step, number: int) -> str:
    """One deed, one key: of an activity, of its later steps, of taking back that very step, or of a plan of no activity
    (a question to a human).
    """
    if step.undoes:
        return f"{plan.incident}:undo:{step.undoes}"
    key = step.key or f"{plan.incident}:{plan.activity or plan.id}"
    return key if number == 1 else f"{key}:{number}"
