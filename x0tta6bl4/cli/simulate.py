"""Looks and judges as the daemon would, for a few seconds and in a process of its own, and says what it would do."""

import asyncio
import contextlib
import logging
import os
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from x0tta6bl4.adapters.processes import LinuxProcesses
from x0tta6bl4.cli.display import Display, plural
from x0tta6bl4.cli.exits import OK
from x0tta6bl4.cli.places import Place, config_of, held_by, opened, overrides_of, place_of
from x0tta6bl4.kernel.errors import StepRefused
from x0tta6bl4.kernel.facts import (
    Answer,
    Book,
    Finding,
    Incident,
    IncidentState,
    Observation,
    Plan,
    Result,
    Step,
    Verdict,
)
from x0tta6bl4.kernel.flags import FeatureFlags
from x0tta6bl4.kernel.guard import Guard, Ledger, Standing, decision
from x0tta6bl4.kernel.incidents import REOPEN
from x0tta6bl4.kernel.loop import MAPEK, Turn
from x0tta6bl4.kernel.memory import ActionRecord, Knowledge
from x0tta6bl4.kernel.plugin import Action, Effect, Executor
from x0tta6bl4.kernel.respond import Catalogue
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.summary import Description, describe
from x0tta6bl4.kernel.supervise import Failure, guarded
from x0tta6bl4.ports.processes import ProcessId, Program

if TYPE_CHECKING:
    from x0tta6bl4.app import Blueprint

PAUSE = 0.5
"""Seconds between two turns. The daemon would be woken by what it sees; nobody wakes anybody here."""
BOUNDLESS = 1 << 62
"""Bytes: the output of programs that the daemon keeps is the daemon's to trim."""
NO_ACTING = "this is a simulation: nothing is done"


class OnlyLooking(LinuxProcesses):
    """Knows the daemon's programs by their records, and cannot touch them."""

    async def start(self, program: Program) -> ProcessId:
        raise StepRefused(NO_ACTING)

    async def stop(self, name: str, grace: float) -> bool:
        raise StepRefused(NO_ACTING)

    async def signal(self, name: str, number: int) -> bool:
        raise StepRefused(NO_ACTING)

    async def kill(self, process: ProcessId, number: int) -> bool:
        raise StepRefused(NO_ACTING)


@dataclass(frozen=True)
class Muzzled:
    """An executor that can say what it would do and cannot do it."""

    inner: Executor

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def actions(self) -> Sequence[Action]:
        return self.inner.actions

    async def preview(self, step: Step) -> str:
        return await self.inner.preview(step)

    async def act(self, step: Step) -> Effect:
        raise StepRefused(NO_ACTING)


@dataclass(frozen=True)
class Said:
    """What the real store knows and the judgement must count with."""

    flags: dict[str, bool] = field(default_factory=dict)
    standing: Standing = field(default_factory=Standing)
    actions: Sequence[ActionRecord] = ()
    incidents: Sequence[Incident] = ()
    books: Sequence[Book] = ()


@dataclass(frozen=True)
class Judged:
    """One step that would come next, with every check's answer."""

    step: Step
    preview: str
    verdicts: tuple[Verdict, ...]
    outcome: Result = Result.SIMULATED

    @property
    def verdict(self) -> Verdict:
        return decision(self.verdicts)


@dataclass(frozen=True)
class Answered:
    incident: Incident
    plan: Plan | None
    reason: str
    """Why there is no plan; empty when there is one."""
    steps: tuple[Judged, ...] = ()


@dataclass(frozen=True)
class Outlook:
    subjects: tuple[Description, ...]
    findings: tuple[Finding, ...]
    answers: tuple[Answered, ...]
    seen: tuple[Observation, ...] = ()
    """The latest value of everything that a monitor reported."""
    blind: tuple[tuple[str, str], ...] = ()
    """Monitors that could not look, each with the reason."""


def run(args: Namespace) -> int:
    with quiet():
        return asyncio.run(_run(args, Display(args)))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The loop's own log would tell of incidents as if they were the daemon's."""
    log = logging.getLogger("x0tta6bl4")
    before, log.disabled = log.level, False
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)


async def drawn(args: Namespace) -> tuple[Place, "Blueprint"]:
    """What is configured, over the store that is meant."""
    from x0tta6bl4.app import read

    _, blueprint = await asyncio.to_thread(read, config_of(args), os.environ, overrides_of(args))
    place = place_of(args)
    if not args.set and place.state_dir != blueprint.places.state_dir:
        # Nothing was said of a place, and a daemon runs from another one: its own word counts.
        blueprint = replace(blueprint, places=replace(blueprint.places, state_dir=place.state_dir))
    elif place.state_dir != blueprint.places.state_dir:
        place = Place(blueprint.places.state_dir, None)
    return place, blueprint


async def _run(args: Namespace, display: Display) -> int:
    place, blueprint = await drawn(args)
    said = await _said(place, display.now)
    outlook = await look(blueprint, said, args.seconds)
    if display.as_json:
        display.json(
            {
                "outlook": outlook,
                "daemon": place.daemon,
                "counted_with_store": str(place.store) if place.store.exists() else None,
            }
        )
    else:
        _tell(display, place, blueprint, outlook, args.seconds)
    return OK


async def _said(place: Place, now: float) -> Said:
    """From the daemon's store, which is only read. Without one there is nothing to count with."""
    if not place.store.exists():
        return Said()
    async with opened(place) as knowledge:
        recent = [
            i
            for i in await knowledge.incidents(IncidentState.CLOSED, limit=1000)
            if now - (i.closed_at or 0.0) < REOPEN
        ]
        return Said(
            dict(await knowledge.flags()),
            Standing(tuple(await knowledge.pauses()), {a.plan: a for a in await knowledge.approvals(limit=1000)}),
            await knowledge.actions_since(now - 86400.0),
            [*await knowledge.open_incidents(), *recent],
            await knowledge.books(),
        )


async def look(blueprint: "Blueprint", said: Said, seconds: float) -> Outlook:
    """Turns of the real loop over a memory of their own, with the kill switch thrown and executors that cannot act."""
    from x0tta6bl4 import __version__
    from x0tta6bl4.app import LaterDatabase, parts_of, tools_of
    from x0tta6bl4.kernel.bus import EventBus
    from x0tta6bl4.observability.metrics import Metrics

    clock = asyncio.get_running_loop().time
    with tempfile.TemporaryDirectory(prefix="x0tta6bl4-simulate-") as folder:
        database = LaterDatabase(Path(folder) / "knowledge.db")
        processes = OnlyLooking(blueprint.places.state_dir, output_limit=BOUNDLESS)
        await database.open()
        try:
            if blueprint.programs and blueprint.places.state_dir.is_dir():
                await processes.adopt(blueprint.programs)
            parts = parts_of(
                blueprint,
                tools_of(blueprint, database, processes),
                sight=Sight(blueprint.subjects),
                flags=FeatureFlags({"auto_healing": False}),
                bus=EventBus(),
                metrics=Metrics(__version__, enabled=False),
            )
            muzzled = {name: Muzzled(executor) for name, executor in parts.catalogue.executors.items()}
            parts = replace(parts, catalogue=Catalogue(muzzled))
            await parts.knowledge.keep_books(said.books)
            await _remember(parts.knowledge, said.incidents)
            loop = MAPEK(parts, interval=blueprint.settings.mapek.interval, timeout=max(30.0, seconds))
            watching = asyncio.create_task(loop.watching.run(), name="watching")
            try:
                until = clock() + seconds
                turn = await loop.run_cycle()
                loop.guard.ledger = Ledger(said.actions)
                while clock() < until:
                    await asyncio.sleep(min(PAUSE, max(0.0, until - clock())))
                    turn = await loop.run_cycle()
            finally:
                watching.cancel()
                await asyncio.wait([watching])
            return await _outlook(blueprint, said, loop, turn)
        finally:
            processes.close()
            await database.close()


async def _remember(knowledge: Knowledge, incidents: Sequence[Incident]) -> None:
    """Where the daemon's open incidents are on their runbooks, so that the next step is the true one."""
    for incident in incidents:
        await knowledge.save_incident(incident)


async def _outlook(blueprint: "Blueprint", said: Said, loop: MAPEK, turn: Turn) -> Outlook:
    flags = FeatureFlags(blueprint.settings.flags)
    flags.load(said.flags)
    sight, now = loop.parts.sight, loop.parts.clock.monotonic()
    guard = Guard(loop.parts.policy, flags, Ledger(said.actions), said.standing, sight)
    answers = []
    for plan, incident, verdicts in (*turn.decisions, *_still_open(loop, said)):
        if plan is None:
            answers.append(Answered(incident, None, decision(verdicts).sentence))
        else:
            steps = tuple([await _judged(loop, guard, plan, step, incident) for step in plan.steps])
            answers.append(Answered(incident, plan, "", steps))
    names = sorted({*sight.subjects, *(f.subject for f in turn.findings)})
    wall = loop.parts.clock.wall()
    subjects = []
    for name in names:
        how = describe(sight, loop.incidents, name, now)
        if how.state == "recovering" and (ill := [i for i in loop.incidents.of_subject(name) if _is_ill(sight, i)]):
            how = replace(how, state=ill[0].fault, summary=f"incident {ill[0].id} is open, and its probe still says no")
        subjects.append(replace(how, since=wall - max(0.0, now - how.since)))
    seen = tuple(o for metric in sorted(sight.metrics()) for o in sight.of_metric(metric))
    blind = tuple((instance, reason) for instance, (reason, _, _) in sorted(sight.blind_instances.items()))
    return Outlook(tuple(subjects), turn.findings, tuple(answers), seen, blind)


def _is_ill(sight: Sight, incident: Incident) -> bool:
    return any(sight.holds(condition, incident.subject) is False for condition in incident.healthy_when)


def _still_open(loop: MAPEK, said: Said) -> Iterator[tuple[Plan | None, Incident, tuple[Verdict, ...]]]:
    """The daemon's open incidents that a few seconds are too short to find anew, while their probes still say no."""
    sight, clock = loop.parts.sight, loop.parts.clock
    known = {incident.id for incident in said.incidents}
    view = View(sight, clock.monotonic())
    for incident in loop.incidents.open:
        if incident.id not in known or loop.incidents.finding(incident) is not None or not _is_ill(sight, incident):
            continue
        waits = loop.incidents.waits_for(incident, view)
        advance = None if waits else loop.parts.planner.plan(incident, loop.situation(incident))
        why = waits or (advance.why if advance is not None else f"no rule speaks of {incident.fault!r}")
        verdicts = (Verdict("planner", Answer.HOLD, why),)
        for plan in advance.plans if advance is not None and advance.plans else (None,):
            yield plan, incident, verdicts


async def _judged(loop: MAPEK, guard: Guard, plan: Plan, step: Step, incident: Incident) -> Judged:
    try:
        case = loop.responder.case(plan, step, incident)
        executor, _ = loop.parts.catalogue.find(step.action)
    except StepRefused as refused:
        return Judged(step, "", (Verdict("catalogue", Answer.DENY, str(refused)),))
    said = await guarded(lambda: executor.preview(step), step.timeout)
    preview = f"cannot be done: {said.message}" if isinstance(said, Failure) else said
    return Judged(step, preview, guard.judge_all(case))


def _tell(display: Display, place: Place, blueprint: "Blueprint", outlook: Outlook, seconds: float) -> None:
    display.head(f"Simulated: looked for {seconds:g} s, nothing was done.")
    if place.daemon is None and any(
        program.name in {f.subject for f in outlook.findings} for program in blueprint.programs
    ):
        from x0tta6bl4.app import lock_file_of

        lock = lock_file_of(blueprint.settings, blueprint.places.config_dir)
        holder = held_by(lock)
        display.line(
            (f"Another daemon holds {lock}: {holder}. This one cannot begin" if holder else "No daemon runs")
            + ". When it begins it starts the programs it supervises, before it judges them."
        )
    display.line()
    if outlook.subjects:
        display.table(("SUBJECT", "STATE", "WHAT"), [(s.name, s.state, s.summary) for s in outlook.subjects], states=1)
    else:
        display.line("Nothing is under care.")
    for finding in outlook.findings:
        display.line()
        display.head(f"Found: {finding.subject} is {finding.fault} ({finding.severity.value}, by {finding.analyzer})")
        display.line(finding.summary, 2)
        told = [
            a for a in outlook.answers if (a.incident.subject, a.incident.fault) == (finding.subject, finding.fault)
        ]
        if not told:
            display.line("Something worse about the same subject comes first.", 2)
        for answer in told:
            _tell_answer(display, answer)
    found = {(f.subject, f.fault) for f in outlook.findings}
    for answer in outlook.answers:
        if (answer.incident.subject, answer.incident.fault) not in found:
            display.line()
            display.head(f"Still open: {answer.incident.subject} is {answer.incident.fault} ({answer.incident.id})")
            display.line(answer.incident.summary, 2)
            _tell_answer(display, answer)
    if not outlook.findings and not outlook.answers:
        display.line()
        display.line("Nothing was found, so nothing would be done.")


def _tell_answer(display: Display, answer: Answered) -> None:
    if answer.plan is None:
        display.line(f"No plan: {answer.reason}", 2)
        return
    display.line(f"Plan: rule {answer.plan.rule}, rung {answer.plan.rung}, {plural(len(answer.steps), 'step')}", 2)
    for judged in answer.steps:
        display.line(f"{judged.step.action} on {judged.step.target}: {judged.preview}", 2)
        display.table(
            ("    CHECK", "ANSWER", "BECAUSE"),
            [
                (
                    f"    {v.check}",
                    v.answer.value,
                    v.sentence + (f" (until {display.when(v.until)})" if v.until else ""),
                )
                for v in judged.verdicts
            ],
            states=1,
        )
        verdict = judged.verdict
        would = {"allow": "it would be done", "hold": "it would wait", "deny": "it would not be done"}[
            verdict.answer.value
        ]
        display.line(
            f"outcome: {judged.outcome.value}; {would}"
            + ("" if verdict.answer is Answer.ALLOW else f", by {verdict.check}"),
            4,
        )
