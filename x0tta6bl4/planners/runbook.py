"""Chooses by runbooks: each incident lives on a statechart, and what that waits for is what is done next."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from x0tta6bl4.kernel.errors import ConfigError
from x0tta6bl4.kernel.facts import (
    Attributes,
    Book,
    Expect,
    Incident,
    IncidentState,
    Message,
    Outcome,
    Plan,
    Result,
    Step,
)
from x0tta6bl4.kernel.memory import Kept, plain
from x0tta6bl4.kernel.plugin import USUAL_TIMEOUT, Advance, Blast, PluginConfig, Situation, planner
from x0tta6bl4.kernel.subjects import Subject, subject_of
from x0tta6bl4.runbooks.catalogue import ROLES, Resolved, resolved
from x0tta6bl4.runbooks.document import TELLS, Runbook, as_told, given, parse
from x0tta6bl4.runbooks.life import MIGRATE, Life, Read, begun_anew, plan_id
from x0tta6bl4.runbooks.shipped import shipped
from x0tta6bl4.runbooks.strategy import Rung, Strategy, Thompson, Written, with_kinds
from x0tta6bl4.statechart.core.content import Runtime
from x0tta6bl4.statechart.persistence.serializer import Restorer

TRIED = "tried "
TRIES_TOLD = 3
"""Tries that did not help which an incident tells of, the latest."""
REST = 45.0
"""Seconds before a runbook that ended without having done anything begins anew."""
ABORTED = 900.0
"""The same after a person called it off."""
BLASTS = get_args(Blast)
BROKEN = "$broken"
"""The activity of a plan that tells a human of a runbook that cannot go on."""
UNHEARD = 1.0
"""Seconds after which a human is told once more that a runbook is broken, if that was not even tried."""
WARM = 256
"""Incidents whose place is kept as it was left, so that the next event need not read it: those that move now."""
UNDO = "$undo"
"""The activity of a plan that takes back what did not help."""


class Config(PluginConfig):
    rules: list[dict[str, Any]] = Field(default_factory=list)
    """Runbooks of your own, asked before the shipped ones; each as in the files under ``config/runbooks``."""
    shipped: bool = True
    """Whether the shipped runbooks come behind yours. Without them, a fault no runbook speaks of is only shown."""
    equal_tries: int = Field(default=3, ge=1, le=3)
    """The same step at most so often in a row for one subject, over all of its incidents; then the next rung."""
    strategy: Literal["off", "learn"] = "off"
    """
    Which of the steps that a runbook offers side by side comes first: in written order (``off``), or the one that has
    brought back health soonest so far, tried in proportion to the chance that it is the best (``learn``).

    Learning needs many equal incidents to pay, and then heals sooner; it never goes past a step that is there for
    safety, and never tries one that takes a whole host before its turn.
    """

    @field_validator("rules")
    @classmethod
    def _are_runbooks(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            for number, raw in enumerate(value):
                _own(raw, number)
        except ConfigError as error:
            raise ValueError("; ".join(map(str, error.problems))) from error
        return value


class Runbooks:
    """See ``kernel.plugin.Planner``. Keeps nothing of an incident that is not in ``Incident.place`` too."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        own = [_own(raw, number) for number, raw in enumerate(config.rules)]
        self.runbooks: list[Runbook] = own + (shipped() if config.shipped else [])
        self._by_hash = {book.hash: book for book in self.runbooks}
        self._kept: dict[str, Book] = {}
        self._restorers: dict[str, Restorer] = {}
        """One for each version: they look each configuration of the chart up only once."""
        self._warm: dict[str, tuple[Attributes, Read]] = {}
        """What moved latest, by incident, beside the very place that it is read from: nothing that is not there too."""
        self.strategy: Strategy = Thompson() if config.strategy == "learn" else Written()

    @property
    def learns(self) -> bool:
        return self.config.strategy == "learn"

    # -- the shelf ---------------------------------------------------------------------------------------------------

    def books(self) -> Sequence[Book]:
        return [Book(book.hash, book.name, book.version, json.dumps(dict(book.source))) for book in self.runbooks]

    def adopt(self, books: Iterable[Book]) -> None:
        self._kept = {book.hash: book for book in books}

    def book(self, hash: str) -> Runbook | None:
        """The version of that content, in force or kept."""
        found = self._by_hash.get(hash)
        if found is None and (kept := self._kept.get(hash)) is not None:
            found, wrong = parse(json.loads(kept.source), f"{kept.name} v{kept.version}, as it was kept")
            if found is None:
                raise ConfigError(
                    wrong, remedy="this version of the daemon reads that runbook no more; migrate it first"
                )
            self._by_hash[hash] = found
        return found

    def runbook_for(self, incident: Incident, subject: Subject) -> Runbook | None:
        chosen = subject.rules.get(incident.fault)
        if chosen is not None:
            return next((book for book in self.runbooks if book.name == chosen), None)
        told = given(incident, subject)
        return next((book for book in self.runbooks if book.trigger.fits(told)), None)

    # -- the planner -------------------------------------------------------------------------------------------------

    def plan(self, incident: Incident, situation: Situation) -> Advance | None:
        read = self._read(incident)
        place = read.place
        rest = place.get("rest")
        if rest is not None and situation.now < rest:
            return self._resting(incident, situation, place)
        life = self._life(incident, situation, read)
        if life is None:
            return None
        if not life.is_begun:
            life.begin()
        else:
            life.ring()
            if any(life.book.chart.changes):
                life.look()
        for act in life.acts.values():
            begun = act.get("begun")
            if begun is not None and begun["epoch"] != situation.epoch:
                del act["begun"]  # of a life that died between two steps: nothing of it goes on
        while life.ending is None and not life.broken and self._answered(life):
            life.slow_down()
        return self._advance(life, ended_idle=life.ending is not None)

    def begun(self, incident: Incident, plan: Plan, epoch: int) -> Incident:
        return _with_act(incident, plan, {"plan": plan.id, "epoch": epoch})

    def not_begun(self, incident: Incident, plan: Plan) -> Incident:
        return _with_act(incident, plan, None)

    def after(self, incident: Incident, plan: Plan, outcomes: Sequence[Outcome], situation: Situation) -> Advance:
        read = self._read(incident)
        place = read.place
        if plan.activity == BROKEN:
            return Advance(replace(incident, place=Kept.of({**place, "broken": ""})))
        if plan.activity == UNDO and "rest" in place:
            left = [entry for entry in place.get("back", ()) if entry["of"] != plan.steps[0].undoes]
            return Advance(replace(incident, place=Kept.of({**place, "back": left})))
        life = self._life(incident, situation, read)
        if life is None or not life.is_begun:
            return Advance(incident)  # its runbook has ended meanwhile, or could not begin
        outcome = outcomes[-1]
        if plan.activity == UNDO:
            # What is not known to be taken back is taken back once more: an undo must bear that.
            of = plan.steps[0].undoes
            life.back = [
                {key: value for key, value in entry.items() if key != "begun"}
                for entry in life.back
                if entry["of"] != of or outcome.unknown
            ]
            if outcome.result in (Result.FAILED, Result.REFUSED):
                because = _with_try(life.incident.because, plan, outcome)
                life.incident = replace(life.incident, because=because)
            return self._advance(life)
        current = life.awaiting(plan.activity)
        act = life.acts.get(current)
        if act is not None:
            act.pop("begun", None)
        telling = plan.steps[-1].expect is None
        if act is not None and act["kind"] == "rollback":
            life.undo = [entry for entry in life.undo if entry["of"] != plan.steps[0].undoes]
            if outcome.result in (Result.FAILED, Result.REFUSED) or outcome.unknown:
                self._deliver(life, current, act, outcome)
            return self._advance(life)
        last = plan.steps[-1]
        if act is not None and outcome.unknown and last.on_unknown == "retry" and not last.action.startswith(TELLS):
            return self._advance(life)  # it may be done again, so it is: nobody need wonder whether it was
        helped = outcome.result is Result.VERIFIED or (telling and outcome.result is Result.UNVERIFIED)
        if not telling and not helped:
            life.failed += 1
            life.incident = replace(life.incident, because=_with_try(life.incident.because, plan, outcome))
        done = _undoable(plan, outcomes, act)
        if outcome.result is Result.REFUTED:
            life.back += reversed(done)
        else:
            life.undo += done
        if act is None:
            life.late(plan.activity, _answer(outcome))
            return self._advance(life)
        if outcome.result is Result.VERIFIED:
            life.is_proved = True
        tries = act.get("tries", 0) + 1
        retry = act["steps"][-1].get("retry") or {}
        if not helped and tries < retry.get("max", 1) and outcome.result is not Result.REFUSED and not outcome.unknown:
            act["tries"] = tries
            if retry.get("backoff"):
                act["not_before"] = situation.now + retry["backoff"]
        else:
            self._deliver(life, current, act, outcome)
        return self._advance(life)

    def tell(self, incident: Incident, message: Message, situation: Situation) -> Advance:
        life = self._life(incident, situation)
        if life is None:
            return Advance(incident, why="no runbook speaks of it")
        if message.event == MIGRATE:
            return self._migrated(life, message)
        if not life.is_begun:
            rests = incident.place.get("rest", 0.0) > situation.now and message.event != "operator.resume"
            if not message.id or rests:
                return Advance(incident, why="its runbook has ended, or has not begun yet")
            life.begin()
        data = message.data if isinstance(message.data, Mapping) else {"data": message.data}
        taken = life.event(message.event, {**data, "who": message.who}, message=message.id)
        if not taken and message.event == "operator.abort" and life.ending is None:
            life.end()
            return self._advance(life, rest=ABORTED)
        return self._advance(life, why="" if taken else f"nothing in its runbook listens to {message.event!r} now")

    def _migrated(self, life: Life, message: Message) -> Advance:
        """The incident goes on under another version of its runbook, where that can be; else it stays as it is."""
        if not life.is_begun:
            return Advance(life.incident, why="its runbook has ended; it begins anew with the version in force")
        why = life.migrate(self.book(message.data["to"]), message.data, message.who, message.id)
        return self._advance(life, why=f"its migration was refused: {why}" if why else "")

    def close(self, incident: Incident, situation: Situation) -> Advance:
        life = self._life(incident, situation)
        if life is None or not life.is_begun:
            return Advance(replace(incident, place=begun_anew(incident.place)))  # a rest is over with what it was for
        life.end()
        return Advance(
            replace(life.incident, place=life.place()), tuple(life.moves), said=tuple(life.said), left=tuple(life.left)
        )

    # -- inside --------------------------------------------------------------------------------------------------------

    def _read(self, incident: Incident) -> Read:
        """For one life: a second one from the same place reads it anew."""
        warm = self._warm.pop(incident.id, None)
        if warm is not None and warm[0] is incident.place:
            return warm[1]
        return Read(Kept.of(incident.place).read())

    def _life(self, incident: Incident, situation: Situation, read: Read | None = None) -> Life | None:
        read = read or self._read(incident)
        place = read.place
        if place.get("ended") is not None and not place.get("back"):
            place = begun_anew(place)  # an earlier bout's
        hash = place.get("book")
        try:
            book = self.book(hash) if hash else None
        except ConfigError:
            book = None  # this version of the daemon reads that runbook no more
        if book is None:
            place = begun_anew(place)
            book = self.runbook_for(incident, situation.subject)
        if book is None:
            return None
        restorer = self._restorers.get(book.hash)
        if restorer is None:
            restorer = self._restorers[book.hash] = Restorer(book.chart, Runtime())
        life = Life(book, incident, situation, read if place is read.place else Read(place), restorer)
        if life.is_begun and not life.is_readable():
            # Better from the beginning, whose every step looks before it acts, than not at all.
            life = Life(book, incident, situation, Read(begun_anew(place)), restorer)
            life.notes.append("its place could not be read by this version of the daemon; it begins anew")
        return life

    def _answered(self, life: Life) -> bool:
        """Gives one activity the answer that needs nobody else; whether there was one."""
        situation = life.situation
        for id, act in life.acts.items():
            if "answered" in act:
                self._say(life, id, act, act["answered"])
                return True
            if "begun" in act:
                continue
            if act["kind"] == "choose":
                self._choose(life, id, act)
                return True
            if act["kind"] == "rollback" and not life.undo and not life.goes_on():
                self._say(life, id, act, {"outcome": "verified", "detail": "there is nothing left to take back"})
                return True
            if act["kind"] == "act" and not act.get("tries"):
                why = self._unfit([do["action"] for do in act["steps"]], life.incident, situation)
                if why:
                    life.notes.append(f"{act['state']}: {why}")
                    self._say(life, id, act, {"outcome": "refused", "detail": why}, kinds=("failed",))
                    return True
        return False

    def _unfit(self, actions: Sequence[str], incident: Incident, situation: Situation) -> str:
        """Why they cannot be done for this subject, or would be once too often; empty when they can."""
        here = _here(actions, incident, situation)
        if not here:
            return f"does not apply to {situation.subject.name}"
        if (
            not actions[-1].startswith(f"{TELLS}.")
            and here[0].action == situation.latest_action
            and situation.latest_target in ("", here[0].target)
            and situation.equal_tries >= self.config.equal_tries
        ):
            return f"{here[0].action} was tried {situation.equal_tries} times in a row"
        return ""

    def _choose(self, life: Life, id: str, act: Mapping[str, Any]) -> None:
        rungs: list[Rung] = []
        left = set(act["left"])
        for rung in act["rungs"]:
            if rung["state"] not in left:
                continue
            if not act["open"].get(rung["state"], True):
                life.notes.append(f"{rung['state']}: its condition does not hold")
                continue
            why = self._unfit(rung["actions"], life.incident, life.situation)
            if why:
                life.notes.append(f"{rung['state']}: {why}")
                if rung["is_safety"]:
                    break  # what comes behind it is safe only when it was done
                continue
            actions = tuple(one.action for one in _here(rung["actions"], life.incident, life.situation))
            blast = _widest(actions, life.situation.blasts)
            rungs.append(Rung(rung["state"], actions, is_safety=rung["is_safety"], blast=blast))
        if not rungs:
            self._say(life, id, act, {"outcome": "refused", "detail": "no rung is left"}, kinds=("failed",))
            return
        incident, subject = life.incident, life.situation.subject
        kinds = {name: other.kind for name, other in life.situation.subjects.items()}
        choice = self.strategy.choose(
            (incident.fault, subject.kind, subject.name),
            rungs,
            with_kinds(life.situation.trials, kinds) if self.learns else (),
            f"{incident.id}/{incident.reopened}/{life.number}",
            after=life.failed,
            now=life.situation.now,
        )
        if choice.because:
            life.notes.append(choice.because)
        life.event(f"done.act.{act['state']}", {"rung": choice.rung, "because": choice.because}, invocation=id)

    def _deliver(self, life: Life, id: str, act: Mapping[str, Any], outcome: Outcome) -> None:
        self._say(life, id, act, _answer(outcome))

    @staticmethod
    def _say(life: Life, id: str, act: Mapping[str, Any], answer: Mapping[str, Any], kinds: Sequence[str] = ()) -> None:
        """A chart that has no branch for what is not known takes it as a failure."""
        for kind in kinds or _KINDS.get(answer["outcome"], ("failed",)):
            if life.event(f"{kind}.act.{act['state']}", dict(answer), invocation=id):
                return
        life.acts.pop(id, None)  # nothing in the chart takes the answer: it waits for something else

    def _advance(self, life: Life, *, ended_idle: bool = False, rest: float = 0.0, why: str = "") -> Advance:
        life.slow_down()
        incident, situation = life.incident, life.situation
        if life.broken:
            return self._given_up(life)
        plans: list[Plan] = []
        look_again: float | None = None
        if life.ending is not None and not life.back:
            place = dict(begun_anew(life.place()))
            if ended_idle or rest:
                place |= {"rest": situation.now + (rest or REST), "resting": rest or REST}
                look_again = rest or REST
            if life.is_proved:
                incident = replace(
                    incident,
                    state=IncidentState.CLOSED,
                    closed_at=situation.now,
                    updated_at=situation.now,
                    ended="healed",
                    proved=False,
                    unsettled=False,
                    rung="",
                    tries=0,
                    passes=0,
                    place=life.place(),
                )
            else:
                incident = replace(
                    incident,
                    rung="",
                    tries=0,
                    passes=incident.passes + 1,
                    state=IncidentState.ESCALATED,
                    place=place,
                )
            return Advance(
                incident,
                tuple(life.moves),
                (),
                look_again,
                tuple(life.said),
                tuple(life.left),
                tuple(life.resumed),
                why,
            )
        if life.back:
            begun = life.back[0].get("begun")
            if begun is None or begun["epoch"] != situation.epoch:
                plans = [self._undoing(life.book.name, incident, situation, life.back[0], UNDO, "undo")]
        else:
            for id, act in life.acts.items():
                if "begun" in act:
                    continue
                wait = act.get("not_before", 0.0) - situation.now
                if wait > 0:
                    pause = (act["steps"][-1].get("retry") or {}).get("backoff") or wait
                    if wait > pause:  # the clock was set back
                        wait, act["not_before"] = pause, situation.now + pause
                    look_again = wait if look_again is None else min(wait, look_again)
                elif act["kind"] == "act":
                    plans.append(self._plan(life, id, act))
                elif act["kind"] == "rollback" and life.undo and not life.goes_on():
                    plans.append(self._undoing(life.book.name, incident, situation, life.undo[-1], id, act["state"]))
        ring = life.next_ring()
        if ring is not None:
            look_again = ring if look_again is None else min(ring, look_again)
        first = next(iter(life.acts.values()), None)
        states = life.states
        kept, read = life.put_back()
        if isinstance(incident.place, Kept) and incident.place.text == kept.text:
            kept = incident.place  # the very same: who asks each turn finds it warm
        incident = replace(
            incident,
            rung=first["state"] if first is not None else ",".join(states),
            tries=first.get("tries", 0) if first is not None else 0,
            proved=life.is_proved,
            unsettled=bool(life.back) or any(act["kind"] == "rollback" and life.undo for act in life.acts.values()),
            place=kept,
        )
        while len(self._warm) >= WARM:
            del self._warm[next(iter(self._warm))]
        self._warm[incident.id] = kept, read
        if not plans and not why:
            why = f"its runbook {life.book.name} is at {', '.join(states)}"
        return Advance(
            incident,
            tuple(life.moves),
            tuple(plans),
            look_again,
            tuple(life.said),
            tuple(life.left),
            tuple(life.resumed),
            why,
        )

    def _given_up(self, life: Life) -> Advance:
        """The runbook cannot even say itself that it failed: a human is told, and it begins anew after a while."""
        why = f"the runbook {life.book.name} v{life.book.version} cannot go on: {life.broken}"
        incident, situation = life.incident, life.situation
        place = {
            **begun_anew(life.place()),
            "rest": situation.now + ABORTED,
            "resting": ABORTED,
            "broken": why,
            "name": life.book.name,
            "back": [*life.back, *reversed(life.undo)],
        }
        escalated = replace(
            incident,
            rung="",
            tries=0,
            passes=incident.passes + 1,
            state=IncidentState.ESCALATED,
            place=Kept.of(place),
        )
        told = (self._telling(escalated, situation, place),)
        return Advance(
            escalated,
            tuple(life.moves),
            told,
            UNHEARD,
            tuple(life.said),
            tuple(life.left),
            tuple(life.resumed),
            why,
        )

    def _resting(self, incident: Incident, situation: Situation, place: Mapping[str, Any]) -> Advance:
        """Until then it does nothing but tell a human, who may not have heard of it yet, that it is broken."""
        left = place["rest"] - situation.now
        if left > place.get("resting", left):
            left = place["resting"]  # the clock was set back
            incident = replace(incident, place=Kept.of({**place, "rest": situation.now + left}))
        why = f"its runbook has ended; it begins anew in {left:.0f} s"
        undone = [entry for entry in place.get("back", ()) if entry.get("begun", {}).get("epoch") != situation.epoch]
        if undone:
            taking_back = self._undoing(place["name"], incident, situation, undone[0], UNDO, "undo")
            return Advance(incident, plans=(taking_back,), look_again=UNHEARD)
        if not place.get("broken"):
            return Advance(incident, look_again=left, why=why)
        if place["resting"] - left < UNHEARD:
            return Advance(incident, look_again=UNHEARD, why=why)
        return Advance(incident, plans=(self._telling(incident, situation, place),), look_again=left)

    @staticmethod
    def _telling(incident: Incident, situation: Situation, place: Mapping[str, Any]) -> Plan:
        why = place["broken"]
        step = Step(
            id="",
            action=f"{TELLS}.human",
            target=incident.subject,
            timeout=20.0,
            expect=None,
            args={**_told(TELLS, incident), "text": f"{incident.summary}; {why}"},
            # Told again of the same breakdown, it is the same message; when it breaks down anew, it is another one.
            key=f"{incident.id}:{BROKEN}.{place.get('number', 0)}",
        )
        plan = plan_id(incident, BROKEN, 0, situation.done, (step,))
        return Plan(
            id=plan,
            incident=incident.id,
            subject=incident.subject,
            fault=incident.fault,
            rule=place["name"],
            rung=BROKEN,
            mode=situation.subject.mode,
            steps=(replace(step, id=f"{plan}.1"),),
            because=(incident.summary, why),
            activity=BROKEN,
        )

    def _plan(self, life: Life, id: str, act: Mapping[str, Any]) -> Plan:
        incident, situation, book = life.incident, life.situation, life.book
        asked = act.get("answers", id)
        steps = _steps(act, incident, situation, book.severity)
        plan = plan_id(incident, asked, act.get("tries", 0), situation.done, steps)
        return Plan(
            id=plan,
            incident=incident.id,
            subject=incident.subject,
            fault=incident.fault,
            rule=book.name,
            rung=act["state"],
            mode=situation.subject.mode,
            steps=tuple(
                replace(step, id=f"{plan}.{number}", attempt=act.get("tries", 0) + 1)
                for number, step in enumerate(steps, 1)
            ),
            because=(incident.summary, f"runbook {book.name} v{book.version}, step {act['state']}", *life.notes[-8:]),
            activity=asked,
            under_way=life.is_proved,
            **_bounds(life),
        )

    @staticmethod
    def _undoing(
        rule: str, incident: Incident, situation: Situation, entry: Mapping[str, Any], activity: str, rung: str
    ) -> Plan:
        step = Step(
            id="",
            action=entry["action"],
            target=entry["target"],
            args=entry["args"],
            # What takes longer to take back than to do has its own time for it.
            timeout=max(entry["timeout"], situation.timeouts.get(entry["action"], 0.0)),
            expect=None,
            undoes=entry["of"],
        )
        plan = plan_id(incident, f"{activity}/{entry['of']}", 0, situation.done, (step,))
        return Plan(
            id=plan,
            incident=incident.id,
            subject=incident.subject,
            fault=incident.fault,
            rule=rule,
            rung=rung,
            mode=situation.subject.mode,
            steps=(replace(step, id=f"{plan}.1"),),
            because=(incident.summary, f"takes back {entry['undoes']} on {entry['target']}"),
            activity=activity,
            under_way=True,
        )


_KINDS: Mapping[str, tuple[str, ...]] = {"verified": ("done",), "done": ("done",), "unknown": ("unknown", "failed")}


def _bounds(life: Life) -> dict[str, Any]:
    """What the runbook bounds beside what the guard does."""
    book, told = life.book, given(life.incident, life.situation.subject)
    bounds = book.concurrency
    limits: list[tuple[str, int]] = []
    if bounds.per_runbook is not None:
        limits.append((f"runbook {book.name}", bounds.per_runbook))
    if bounds.per_target is not None:
        limits.append((f"runbook {book.name} on {bounds.target_of(told)}", bounds.per_target))
    key = book.trigger.key_of(told)
    return {"limits": tuple(limits), "key": f"{book.name}: {key}" if key else ""}


def _own(raw: Mapping[str, Any], number: int) -> Runbook:
    book, wrong = parse(dict(raw), f"planners rules[{number}]")
    if book is None:
        raise ConfigError(wrong)
    return book


def _answer(outcome: Outcome) -> dict[str, Any]:
    """What the chart is told of an outcome: a step that proves nothing by itself is done when it went through."""
    told = outcome.result.value
    if outcome.unknown:
        told = "unknown"
    elif outcome.result is Result.UNVERIFIED:
        told = "done"
    return {**as_told(plain(outcome.data)), "outcome": told, "detail": as_told(outcome.detail)}


def _here(actions: Sequence[str], incident: Incident, situation: Situation) -> list[Resolved]:
    """What they come to for this subject; empty when there is one that nothing here can do."""
    found: list[Resolved] = []
    for action in actions:
        one = resolved(action, situation.subject, situation.subjects, incident.fault)
        if not one:
            return []
        found += one
    return found


def _steps(act: Mapping[str, Any], incident: Incident, situation: Situation, severity: str) -> list[Step]:
    """Empty when the subject has nothing that could do what the activity asks for."""
    steps: list[Step] = []
    subject = situation.subject
    expect: Mapping[str, Any] | None = act["expect"]
    written: Sequence[Mapping[str, Any]] = act["steps"]
    values: Sequence[Mapping[str, Any]] = act.get("args") or [{}] * len(written)
    for number, do in enumerate(written):
        last = number == len(written) - 1
        family = do["action"].partition(".")[0]
        undo = do.get("undo") or {}
        here = resolved(do["action"], subject, situation.subjects, incident.fault)
        if not here:
            return []
        for one in here:
            steps.append(
                Step(
                    id="",
                    action=one.action,
                    target=one.target,
                    timeout=do["timeout"] or situation.timeouts.get(one.action, USUAL_TIMEOUT),
                    on_unknown=do["on_unknown"],
                    args={**_told(family, incident, severity), **values[number]},
                    undo=_taking_back(undo.get("action", ""), one.target, situation),
                    expect=Expect(
                        expect["within"] or subject.start_timeout, expect["hold"], patient=bool(expect["within"])
                    )
                    if expect is not None and last and one is here[-1]
                    else None,
                )
            )
    return steps


def _taking_back(undo: str, target: str, situation: Situation) -> str:
    """The action that takes back a step on that very target; empty: none does."""
    family, _, verb = undo.partition(".")
    return subject_of(situation.subjects, target).controller.get(verb, "") if family in ROLES else undo


def _widest(actions: Sequence[str], blasts: Mapping[str, str]) -> str:
    """How far the farthest of them reaches; what nobody says of reaches far."""
    reached = [blasts.get(action, BLASTS[-1]) for action in actions]
    return str(max(reached, key=lambda blast: BLASTS.index(blast) if blast in BLASTS else len(BLASTS)))


def _undoable(plan: Plan, outcomes: Sequence[Outcome], act: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What of the plan was done, or may have been, and has something that takes it back; in the order it was done."""
    ended = {outcome.step: outcome for outcome in outcomes}
    written = act.get("steps", ()) if act is not None else ()
    found: list[dict[str, Any]] = []
    for number, step in enumerate(plan.steps):
        outcome = ended.get(step.id)
        if not step.undo or outcome is None or outcome.result in (Result.FAILED, Result.REFUSED, Result.SIMULATED):
            continue
        undo = (written[number].get("undo") or {}) if number < len(written) == len(plan.steps) else {}
        found.append(
            {
                "of": step.id,
                "undoes": step.action,
                "action": step.undo,
                "target": step.target,
                "args": {**step.args, **plain(outcome.data), **(undo.get("args") or {})},
                "timeout": step.timeout,
            }
        )
    return found


def _with_act(incident: Incident, plan: Plan, begun: Mapping[str, Any] | None) -> Incident:
    place = Kept.of(incident.place).read()
    if plan.activity == UNDO:
        back = [
            {key: value for key, value in entry.items() if key != "begun"}
            | ({"begun": dict(begun)} if begun is not None and entry["of"] == plan.steps[0].undoes else {})
            for entry in place.get("back", ())
        ]
        return replace(incident, place=Kept.of({**place, "back": back}))
    acts = place.get("acts", {})
    behind = next((act for act in place.get("behind", {}).values() if act["id"] == plan.activity), None)
    if behind is not None:  # a step that goes on though its state was left
        behind.pop("begun", None)
        if begun is not None:
            behind["begun"] = dict(begun)
        return replace(incident, place=Kept.of(place))
    id = plan.activity if plan.activity in acts else ""
    id = id or next((key for key, act in acts.items() if act.get("answers") == plan.activity), "")
    if not id:
        return incident
    act = {key: value for key, value in acts[id].items() if key != "begun"}
    if begun is not None:
        act["begun"] = dict(begun)
    return replace(incident, place=Kept.of({**place, "acts": {**acts, id: act}}))


def _with_try(because: Sequence[str], plan: Plan, outcome: Outcome) -> tuple[str, ...]:
    """Beside what was seen, the last tries: what a step failed of is often all that a human needs to know."""
    tries = [reason for reason in because if reason.startswith(TRIED)]
    step = next((s for s in plan.steps if s.id == outcome.step), plan.steps[-1])
    tried = f"{TRIED}{step.action} on {step.target}: {outcome.result.value}: {outcome.detail}"
    others = [reason for reason in because if not reason.startswith(TRIED)]
    return (*others, *[t for t in tries if t != tried][1 - TRIES_TOLD :], tried)


def _told(family: str, incident: Incident, severity: str = "") -> dict[str, Any]:
    """What a message to a human has to say."""
    if family != TELLS:
        return {}
    return {
        "title": f"{incident.subject}: {incident.fault}",
        "text": incident.summary,
        "incident": incident.id,
        "severity": severity or incident.severity.value,
        "reasons": list(incident.because),
    }


PLUGIN = planner(Config, lambda name, config, tools: Runbooks(name, config))
