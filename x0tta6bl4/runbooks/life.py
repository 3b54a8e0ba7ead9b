"""The life of an incident on its runbook: each thing that happens is one macrostep, and what it asks for is kept."""

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from x0tta6bl4.kernel.facts import NOTHING, Attributes, Incident, Move, Step
from x0tta6bl4.kernel.memory import Kept, plain
from x0tta6bl4.kernel.plugin import Situation
from x0tta6bl4.runbooks.document import Runbook, given
from x0tta6bl4.statechart.core.content import Runtime
from x0tta6bl4.statechart.core.effect import Cancelled, Effect, Ended, Faulted, Logged, Sent, Started, Stopped
from x0tta6bl4.statechart.core.event import Event, catches
from x0tta6bl4.statechart.core.machine import Instance
from x0tta6bl4.statechart.persistence.serializer import Restorer, SnapshotError, restore, snapshot
from x0tta6bl4.statechart.runtime.executor import EndlessLoop, cancel, handle, new, observe, settle, start
from x0tta6bl4.statechart.types.base import EvaluationError

if TYPE_CHECKING:
    from x0tta6bl4.statechart.persistence.migrate import Migration

START, CLOSE, SEEN, MIGRATE = "$start", "$close", "$seen", "$migrate"
"""Macrosteps that the runtime itself makes."""
BUS = "#_bus"
LEFT = 8
"""Activities that a runbook left behind and might take up again: the latest so many are remembered."""
MOST_AT_ONCE, PACE, GRACE = 200.0, 1.0, 20.0
"""Macrosteps that a runbook may make in one go, and a second in the long run; and those that are left to one that was
told that it goes round in circles, for telling a human."""


@dataclass(frozen=True, slots=True)
class Read:
    """A place as a life takes it up, and leaves it."""

    place: Attributes
    instance: Instance | None = None
    """The chart's, where it is still there from the life before."""


@dataclass(frozen=True)
class Ending:
    """The runbook came to its end in this state; None: it was cancelled."""

    state: str | None
    result: Any


class Life:
    """One incident's runbook during one call: taken out of ``Incident.place``, moved on, and put back by ``place``.

    Pure: nothing outside is read or changed; the same place, events and situation give the same moves.
    """

    def __init__(
        self, book: Runbook, incident: Incident, situation: Situation, read: "Read", restorer: Restorer
    ) -> None:
        """``read``: the incident's own place, for this life alone, which changes what is in it."""
        place = read.place
        self.book = book
        self._restorer = restorer
        self.incident = incident
        self.situation = situation
        self.moves: list[Move] = []
        self.said: list[tuple[str, Attributes]] = []
        self.left: list[str] = []
        self.resumed: list[str] = []
        self.broken = ""
        """Why the runbook cannot go on, not even to its own state for errors."""
        ended = place.get("ended")
        self.ending: Ending | None = Ending(ended["state"], ended["result"]) if ended is not None else None
        self.number: int = place.get("number", 0)
        self.acts: dict[str, dict[str, Any]] = place.get("acts", {})
        """Activities that the chart waits for, by their id."""
        self.behind: dict[str, dict[str, Any]] = place.get("behind", {})
        """The last activity of each state that was left while it went on, for a return to it."""
        self.timers: dict[str, dict[str, Any]] = place.get("timers", {})
        self.undo: list[dict[str, Any]] = place.get("undo", [])
        """What was done and can be taken back, the latest last."""
        self.paused: dict[str, float | None] = place.get("paused", {})
        """Seconds that are left of timers that go on when a history leads back to their states; None: nothing is, they
        have come."""
        self.back: list[dict[str, Any]] = place.get("back", [])
        """What is to be taken back now, before anything else."""
        self.is_proved: bool = place.get("proved", False)
        """An action of this run was proved by the incident's own probe; what follows is tidying up."""
        self.failed: int = place.get("failed", 0)
        """Tries of this run that did not help."""
        self._paced: Mapping[str, Any] | None = place.get("pace")
        pace = self._paced or {"left": MOST_AT_ONCE, "at": situation.now, "warned": False}
        since = max(0.0, situation.now - pace["at"])  # a clock that was set back gives nothing
        left = min(MOST_AT_ONCE, pace["left"] + since * PACE)
        self._pace = {"left": left, "at": situation.now, "warned": pace["warned"] and left < MOST_AT_ONCE / 2}
        self.notes: list[str] = place.get("notes", [])
        """Why what comes next comes next, in sentences."""
        self._chart: Mapping[str, Any] | None = place.get("chart")
        self._thawed: Instance | None = read.instance
        self._queue: list[Event] = []
        self._is_draining = False

    @property
    def is_begun(self) -> bool:
        return self._chart is not None or self._thawed is not None

    def place(self) -> Kept:
        return Kept.of(self._told())

    def put_back(self) -> tuple[Kept, "Read"]:
        """The place, and the same as it is here, for a next life that comes soon. This one must not go on."""
        told = self._told()
        return Kept.of(told), Read(told, self._thawed)

    def _told(self) -> dict[str, Any]:
        """What is empty is left out."""
        told: dict[str, Any] = {
            "book": self.book.hash,
            "name": self.book.name,
            "version": self.book.version,
            "number": self.number,
            "chart": self._chart if self._thawed is None else snapshot(self._thawed, is_json=True),
        }
        kept = {
            "acts": self.acts,
            "behind": self.behind,
            "timers": self.timers,
            "paused": self.paused,
            "undo": self.undo,
            "back": self.back,
            "proved": self.is_proved,
            "failed": self.failed,
            "ended": None if self.ending is None else {"state": self.ending.state, "result": self.ending.result},
            "notes": self.notes,
            "pace": self._pace if self.moves else self._paced,
        }
        for key, value in kept.items():
            if value:
                told[key] = value
        return told

    def is_readable(self) -> bool:
        """Whether this version of the daemon can go on from the place."""
        try:
            self._instance()
        except SnapshotError:
            return False
        return True

    @property
    def states(self) -> tuple[str, ...]:
        return innermost(self._instance())

    # -- macrosteps ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        told = given(self.incident, self.situation.subject)
        instance = new(self.book.chart, self.incident.id, Runtime())
        self._thawed, self._chart = instance, None
        self._made(START, {**told, "book": self.book.hash}, lambda: _started(instance, told))

    def event(self, name: str, data: Any = None, *, invocation: str = "", message: str = "") -> bool:
        """Whether anything came of it. An event that nothing takes is journaled only if it consumes a message."""
        instance = self._instance()
        happened = Event(name, data, invokeid=invocation or None)
        return self._made(name, data, lambda: handle(instance, happened), invocation, message)

    def look(self) -> None:
        """Change events: conditions over what is seen of the subject that have become true, or are true no more."""
        instance = self._instance()
        seen = {name: value for name, value in self.situation.seen.items() if isfinite(value)}
        before = instance.when_bits
        probe = self._copy()
        _saw(probe, seen)
        if probe.when_bits != before or probe.runtime.effects or probe.mask != instance.mask:
            self._made(SEEN, seen, lambda: _saw(instance, seen))

    def migrate(self, book: Runbook | None, asked: Mapping[str, Any], who: str, message: str = "") -> str:
        """Goes on under another version of its runbook: ``asked`` says between which (from, to) and how (migration).

        Why it cannot, and then nothing has changed; empty when it did. Either way it is a move.
        """
        from x0tta6bl4.statechart.persistence.migrate import MigrationRefused, moved_timers

        told = {key: asked[key] for key in ("from", "to", "version", "migration")} | {"who": who}
        before = self._instance()
        try:
            if self.book.hash != asked["from"]:
                raise MigrationRefused([f"it is under v{self.book.version} ({self.book.hash}), not {asked['from']}"])
            if book is None:
                raise MigrationRefused([f"the daemon has not read v{asked['version']}: reload it, and migrate again"])
            way = way_between(self.book, book, asked["migration"])
            moved = _moved(before, book, way)
            acts = {id: _moved_act(act, id, moved) for id, act in self.acts.items()}
        except MigrationRefused as refused:
            self._made(MIGRATE, {**told, "refused": str(refused)}, lambda: False, message=message)
            return str(refused)
        rows = [{"id": id, "event": {"name": timer["event"]}, "timer": timer} for id, timer in self.timers.items()]
        kept = moved_timers(rows, self.book.chart, book.chart, way)
        self.timers = {row["id"]: {**row["timer"], "event": row["event"]["name"]} for row in kept}
        waiting = [{"id": id, "event": {"name": id}, "left": left} for id, left in self.paused.items()]
        moved_on = moved_timers(waiting, self.book.chart, book.chart, way)
        self.paused = {row["id"]: row["left"] for row in moved_on if row["id"] in book.pausing}
        self.behind = {
            state: {**act, "state": state}
            for before_, act in self.behind.items()
            if (state := way.states.get(before_, (before_,))[0]) in book.chart.ids
        }
        self.notes.append(f"moved from v{self.book.version} of its runbook to v{book.version} by {who}")
        self.acts, self.book, self._thawed = acts, book, moved
        waits = list(moved.runtime.effects)
        self._made(MIGRATE, told, lambda: _settled(moved, waits), message=message)
        return ""

    def end(self) -> None:
        """The incident is over: the chart may say goodbye, then it is cancelled."""
        instance = self._instance()
        if not instance.running:
            return
        self.event("incident.recovered")
        if instance.running:
            self._made(CLOSE, None, lambda: _cancelled(instance))
        self.acts.clear()
        self.timers.clear()
        self.paused.clear()

    def _made(self, name: str, data: Any, step: Callable[[], bool], invocation: str = "", message: str = "") -> bool:
        instance = self._instance()
        if not instance.running and name != START:
            return False
        instance.seq = self.number + 1
        instance.runtime.effects.clear()
        try:
            taken = step()
        except EndlessLoop as error:
            taken = False
            instance.runtime.effects[:] = [Faulted("the step", str(error))]
        effects = going_on(instance.runtime.effects, self.paused)
        instance.runtime.effects.clear()
        if not taken and not effects and not message:
            instance.seq = self.number
            return False
        self.number += 1
        self._pace["left"] -= 1.0
        for effect in effects:
            self._take(effect)
        self.moves.append(
            Move(
                incident=self.incident.id,
                number=self.number,
                at=self.situation.now,
                event=name,
                data=data,
                invocation=invocation,
                message=message,
                states=innermost(instance),
                taken=taken,
                effects=tuple(said for effect in effects if (said := _in_words(effect))),
            )
        )
        for effect in effects:
            if isinstance(effect, Faulted):
                self._faulted(name, effect)
        if not self._is_draining:  # what an event of the queue sends comes behind it, not inside it
            self._is_draining = True
            while self._queue and instance.running and self._pace["left"] > 0:
                waiting = self._queue.pop(0)
                self.event(waiting.name, waiting.data)
            self._queue.clear()
            self._is_draining = False
        return taken

    def slow_down(self) -> None:
        """One that goes round in circles is told so, as of any mistake of its own; one that goes on, is ended."""
        if self._pace["left"] > 0 or self.broken or self.ending is not None:
            return
        why = f"it goes round in circles: more than {MOST_AT_ONCE:g} moves in one go, or {PACE:g} a second"
        self._pace["left"] = GRACE
        if self._pace["warned"] or not self.event("error.execution", {"message": why, "event": ""}):
            self.broken = self.broken or why
        self._pace["warned"] = True

    def _faulted(self, name: str, fault: Faulted) -> None:
        """The step was taken back as if it had not been; the chart is told, and by its error state so is a human."""
        why = f"{fault.what}: {fault.why}"
        if name == START or name.startswith("error."):
            self.broken = f"at {name}: {why}"
        elif not self.event("error.execution", {"message": why, "event": name}):
            self.broken = why

    def _instance(self) -> Instance:
        if self._thawed is None:
            assert self._chart is not None, "the runbook has begun"
            # The book is the same by its content, so what differs in the compiled chart is our own newer version of it.
            self._thawed = self._restorer.restore({**self._chart, "hash": self.book.chart.hash})
        # The same that the move will say, so that it reads the same when it is played again.
        self._thawed.runtime.now = self.situation.now
        return self._thawed

    def _copy(self) -> Instance:
        return restore(self.book.chart, snapshot(self._instance()), at(self.situation.now))

    # -- what a macrostep asks for -------------------------------------------------------------------------------

    def _take(self, effect: Effect) -> None:
        match effect:
            case Started():
                self._begin_activity(effect)
            case Stopped(id, state):
                act = self.acts.pop(id, None)
                if act is not None:
                    self.left.append(act.get("answers", id))
                    self.behind.pop(state, None)
                    self.behind[state] = act | {"id": act.get("answers", id)}
                    while len(self.behind) > LEFT:
                        del self.behind[next(iter(self.behind))]
            case Sent(name, target, delay, id, data):
                if target == BUS:
                    self.said.append((name, data if isinstance(data, Mapping) else {"data": data}))
                elif delay > 0:
                    self.timers[id or f"{name}.{self.number}"] = {
                        "event": name,
                        "data": data,
                        "due": self.situation.now + delay,
                        "left": delay,
                        "armed": self.situation.monotonic,
                        "epoch": self.situation.epoch,
                    }
                else:
                    self._queue.append(Event(name, data))
            case Cancelled(id):
                timer = self.timers.pop(id, None)
                if id in self.book.pausing:
                    self.paused[id] = None if timer is None else max(0.0, self.remaining(timer))
            case Logged(label, value):
                self.said.append(("log", {"label": label, "value": value}))
            case Ended(state, result):
                self.ending = Ending(state, result)
                self.acts.clear()
                self.timers.clear()
                self.paused.clear()
            case _:
                pass  # Forwarded: no activity of ours listens; Faulted: the caller sees to it

    def _begin_activity(self, effect: Started) -> None:
        content = effect.content or {}
        act: dict[str, Any] = {"state": effect.state, "kind": effect.type, **content, **effect.parameters}
        before = self.behind.pop(effect.state, None)
        if before is not None and effect.resumed and content.get("on_resume", "adopt") == "adopt":
            # The state goes on with what was begun in it: what is being done already is not done a second time.
            act |= {key: before[key] for key in ("begun", "tries", "answered") if key in before}
            act["answers"] = before["id"]
            if before["id"] in self.left:
                self.left.remove(before["id"])
            self.resumed.append(before["id"])
        self.acts[effect.id] = act

    def awaiting(self, activity: str) -> str:
        """The activity that waits for this one's answer: itself, or the one that took it over; empty: nobody."""
        if activity in self.acts:
            return activity
        return next((id for id, act in self.acts.items() if act.get("answers") == activity), "")

    def goes_on(self) -> bool:
        """Whether something that was left behind is still being done: what became of it comes later."""
        acts = [act.get("begun") for act in self.behind.values()]
        return any(begun is not None and begun["epoch"] == self.situation.epoch for begun in acts)

    def late(self, activity: str, answer: Mapping[str, Any]) -> None:
        """An answer that nobody waits for any more: kept for a return to the state that asked for it."""
        for act in self.behind.values():
            if act.get("id") == activity:
                act["answered"] = dict(answer)
                act.pop("begun", None)

    # -- time ------------------------------------------------------------------------------------------------------

    def remaining(self, timer: dict[str, Any]) -> float:
        """Seconds until it fires. The wall clock counts only over a restart, and never for more than was left then."""
        if timer["epoch"] == self.situation.epoch:
            return float(timer["left"] - (self.situation.monotonic - timer["armed"]))
        return float(min(timer["left"], timer["due"] - self.situation.now))

    def ring(self) -> None:
        """Timers that are due, in the order in which they came due."""
        for timer in self.timers.values():
            if timer["epoch"] != self.situation.epoch:
                timer["left"] = self.remaining(timer)
                timer["armed"], timer["epoch"] = self.situation.monotonic, self.situation.epoch
        due = sorted((self.remaining(t), id) for id, t in self.timers.items() if self.remaining(t) <= 0)
        for _, id in due:
            timer_now = self.timers.pop(id, None)  # an earlier one may have taken it back
            if timer_now is not None:
                self.event(timer_now["event"], timer_now["data"])

    def next_ring(self) -> float | None:
        return min((max(0.0, self.remaining(t)) for t in self.timers.values()), default=None)


def at(now: float | None) -> Runtime:
    """What steps made at that time are made with."""
    runtime = Runtime()
    runtime.now = now
    return runtime


def going_on(effects: Iterable[Effect], paused: dict[str, float | None]) -> list[Effect]:
    """The effects, with what is left of the timers that a history led back to instead of the whole. What was kept of
    them is forgotten: they go on, or their states were entered anew."""
    found: list[Effect] = []
    for effect in effects:
        if isinstance(effect, Sent) and effect.event in paused:
            left = paused.pop(effect.event)
            if effect.resumed:
                if left is None:
                    continue
                effect = replace(effect, delay=left)
        found.append(effect)
    return found


def innermost(instance: Instance) -> tuple[str, ...]:
    """The active states that have no active state inside them."""
    return instance.node.innermost


def _started(instance: Instance, told: dict[str, Any]) -> bool:
    start(instance, told)
    return True


def _saw(instance: Instance, seen: Mapping[str, float]) -> bool:
    instance.data["seen"] = dict(seen)
    return observe(instance)


def _cancelled(instance: Instance) -> bool:
    cancel(instance)
    return True


def _in_words(effect: Effect) -> str:
    match effect:
        case Started(id=id, type=kind, resumed=resumed):
            return f"{'goes on with' if resumed else 'wants'} {kind} {id}"
        case Stopped(id=id):
            return f"no longer wants {id}"
        case Sent(event=event, target=target, delay=delay):
            return f"tells {event}" if target == BUS else f"{event} in {delay:g} s" if delay else f"{event} next"
        case Cancelled(id=id):
            return f"not {id} any more"
        case Faulted(what=what, why=why):
            return f"was taken back: {what}: {why}"
        case Ended(state=state):
            return f"ends in {state}" if state else "is cancelled"
        case _:
            return ""


def replayed(moves: Iterable[Move], book_of: Callable[[str], Runbook | None], incident: Incident) -> list[str]:
    """What differs when the journal is played again from its last beginning. Empty: it gives the same place."""
    from x0tta6bl4.statechart.persistence.migrate import MigrationRefused

    moves = list(moves)
    wrong: list[str] = []
    instance: Instance | None = None
    book: Runbook | None = None
    for index, move in enumerate(moves):
        if move.event == START:
            book = book_of(_begun_under(moves[index:], incident))
            if book is None:
                return [f"the version of the runbook under which move {move.number} was made is not kept any more"]
            instance = new(book.chart, incident.id, Runtime())
        if instance is None or book is None:
            continue  # what came before was let go of by age
        instance.seq = move.number
        instance.runtime.now = move.at
        instance.runtime.effects.clear()
        if move.event == MIGRATE and move.taken:
            to = book_of(move.data["to"])
            if to is None:
                return [*wrong, f"the version of the runbook to which move {move.number} leads is not kept any more"]
            try:
                instance = _moved(instance, to, way_between(book, to, move.data["migration"]))
            except MigrationRefused as refused:
                return [*wrong, f"move {move.number} ({move.event}) is refused when it is made again: {refused}"]
            instance.seq, book = move.number, to
            settle(instance)
        elif move.event != MIGRATE:
            _play(instance, move)
        if innermost(instance) != move.states:
            wrong.append(
                f"move {move.number} ({move.event}) leads to {', '.join(innermost(instance)) or 'the end'},"
                f" the journal says {', '.join(move.states) or 'the end'}"
            )
    if instance is not None and not wrong and (chart := incident.place.get("chart")) is not None:
        again = snapshot(instance)
        # The book is the same by its content; how it compiles may be a newer version's of ours.
        wrong += [
            f"{key} differs at the end" for key in again if key not in ("seq", "hash") and again[key] != chart.get(key)
        ]
    return wrong


def _begun_under(moves: Sequence[Move], incident: Incident) -> str:
    """Of the beginning that is the first of them. Older journals do not say it: there it is what was left first."""
    start, *more = moves
    told = start.data.get("book") if isinstance(start.data, Mapping) else None
    if told is None:
        for move in more:
            if move.event == START:
                break
            if move.event == MIGRATE and move.taken:
                told = move.data["from"]
                break
    return str(told or incident.place.get("book", ""))


def _play(instance: Instance, move: Move) -> None:
    if move.event == START:
        start(instance, {key: value for key, value in move.data.items() if key != "book"})
    elif move.event == CLOSE:
        cancel(instance)
    elif move.event == SEEN:
        _saw(instance, move.data)
    else:
        handle(instance, Event(move.event, move.data, invokeid=move.invocation or None))


# -- from one version to another ---------------------------------------------------------------------------------------
# What it needs is fetched where it is asked for: most daemons never move an incident, and it brings the model checker.


def cannot_move(incident: Incident, old: Runbook, book: Runbook, body: Mapping[str, Any], now: float) -> str:
    """Why the incident could not go on under that version as it is now; empty: it could. Nothing is changed."""
    from x0tta6bl4.statechart.persistence.migrate import MigrationRefused

    chart = incident.place.get("chart")
    if chart is None or incident.place.get("ended") is not None:
        return "its runbook has ended"
    try:
        instance = restore(old.chart, {**chart, "hash": old.chart.hash}, at(now))
        moved = _moved(instance, book, way_between(old, book, body))
        for id, act in incident.place.get("acts", {}).items():
            _moved_act(act, id, moved)
    except (SnapshotError, MigrationRefused) as error:
        return str(error)
    return ""


def way_between(old: Runbook, book: Runbook, body: Mapping[str, Any]) -> "Migration":
    """What an operator wrote, between the charts that both versions compile to. Raises MigrationRefused.

    The variables that the compiler makes are its own matter: a ladder that goes on under another name takes what was
    tried with it, and what belongs to one that is gone is forgotten.
    """
    from x0tta6bl4.runbooks.compile import left_of
    from x0tta6bl4.statechart.persistence.migrate import migration_from_json

    plain_ = {key: body[key] for key in ("states", "data", "refuse_if") if body.get(key) is not None}
    way = migration_from_json({**plain_, "from": {"hash": old.chart.hash}, "to": book.chart.hash})
    before, after = _made_here(old), _made_here(book)
    values = {
        left_of(to[0]): left_of(state)
        for state, to in way.states.items()
        if to and left_of(state) in before and left_of(to[0]) in after
    }
    gone = [name for name in before if name not in after and name not in way.drop]
    return replace(way, set={**values, **way.set}, drop=(*way.drop, *gone))


def _made_here(book: Runbook) -> list[str]:
    """Variables of the chart that no author wrote."""
    return [each.name for each in book.definition.root.variables if each.name.endswith("_")]


def _moved(instance: Instance, book: Runbook, way: "Migration") -> Instance:
    """Raises MigrationRefused. The rungs that a ladder has not tried yet go by their new names."""
    from x0tta6bl4.statechart.persistence.migrate import apply

    moved = apply(instance, book.chart, way, at(instance.runtime.now))
    for name in _made_here(book):
        left = moved.data.get(name)
        if isinstance(left, list):
            renamed = [way.states.get(rung, (rung,))[0] for rung in left]
            moved.data[name] = [rung for rung in renamed if rung in book.chart.ids]
    return moved


def _moved_act(act: Mapping[str, Any], id: str, moved: Instance) -> dict[str, Any]:
    """What is done already goes on as it was asked for; what is not begun is asked for as the new version has it."""
    from x0tta6bl4.statechart.persistence.migrate import MigrationRefused

    where = (moved.activities or {}).get(id)
    if where is None:
        raise MigrationRefused([f"what {act['state']!r} asks for has no place in the new version"])
    state, number = where
    told = {**act, "state": moved.chart.names[state]}
    if "begun" in act or "answered" in act:
        return told
    scratch = restore(moved.chart, snapshot(moved), at(moved.runtime.now))
    try:
        moved.chart.activities[state][number][1](scratch, False)
    except EvaluationError as error:
        raise MigrationRefused([f"{moved.chart.names[state]}: {error}"]) from error
    (asked,) = (effect for effect in scratch.runtime.effects if isinstance(effect, Started))
    kept = {key: act[key] for key in ("tries", "not_before", "answers") if key in act}
    return {"state": asked.state, "kind": asked.type, **(asked.content or {}), **asked.parameters, **kept}


def _settled(instance: Instance, waits: Iterable[Effect]) -> bool:
    """What begins to wait with the move, then what the new version does at once in such a state."""
    instance.runtime.effects.extend(waits)
    settle(instance)
    return True


# -- what is said to it from outside -----------------------------------------------------------------------------------

_EVENT = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
LONGEST_EVENT = 100
OWN = ("done", "failed", "unknown", "error", "after", "when")
"""Families of events that a runbook's own activities, mistakes and timers make: nobody else may say them."""
ABORT = "operator.abort"
"""Taken by every runbook: one that does not listen to it is called off."""
MOST_SAID = 64 * 1024
"""Bytes of what is told with an event, as JSON."""
DEEPEST_SAID = 32


def wrong_event(event: str) -> str:
    """Why nobody outside may send it; empty when they may."""
    if len(event) > LONGEST_EVENT:
        return f"an event has at most {LONGEST_EVENT} characters"
    if not _EVENT.fullmatch(event):
        return "an event is one word, or words joined by dots, such as operator.hold"
    if event.split(".")[0] in OWN:
        return f"events that begin with {event.split('.')[0]} are the runbook's own; they cannot be sent"
    return ""


def wrong_data(data: Any) -> str:
    """Why it cannot be told with an event; empty when it can."""
    if not _is_shallow(data, DEEPEST_SAID):
        return f"it is nested deeper than {DEEPEST_SAID} levels"
    try:
        size = len(json.dumps(data, allow_nan=False))
    except ValueError:
        return "a number in it is no JSON number"
    return f"it has {size} bytes as JSON; at most {MOST_SAID} are taken" if size > MOST_SAID else ""


def _is_shallow(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(each, levels - 1) for each in inner)


def heard(book: Runbook, incident: Incident, now: float) -> dict[str, str]:
    """Every event from outside that its runbook speaks of -> what keeps it from being taken now; empty: nothing."""
    from x0tta6bl4.statechart.runtime.monitor import why_not

    chart = incident.place.get("chart")
    if chart is None:
        return {}
    instance = restore(book.chart, {**chart, "hash": book.chart.hash}, at(now))
    found: dict[str, str] = {}
    edges = [edge for several in book.chart.edges for edge in several if edge.events]
    for word in dict.fromkeys(word for edge in edges for word in edge.events or ()):
        if wrong_event(word) and word != "*":
            continue
        concerned = [edge for edge in edges if catches(edge.events or (), word)]
        blocked = why_not(instance, Event(word) if word == "*" or word in book.chart.ids else word)
        inside = [b.reason for b in blocked if not b.reason.startswith("source ")]
        where = dict.fromkeys(book.chart.names[edge.source] for edge in concerned)
        if len(blocked) < len(concerned):
            found[word] = ""
        else:
            found[word] = inside[0] if inside else f"only in {' or '.join(where)}"
    return found


def is_heard(event: str, words: Mapping[str, str]) -> str | None:
    """What keeps the event from being taken now, empty: nothing; None when the runbook never speaks of it."""
    reasons = [reason for word, reason in words.items() if catches((word,), event)]
    if not reasons:
        return None
    return "" if "" in reasons else reasons[0]


def begun_anew(place: Attributes) -> Attributes:
    """A place from which the runbook begins again; its moves go on being counted."""
    kept = {key: place[key] for key in ("number", "pace") if place.get(key)}
    return kept or NOTHING


def plan_id(incident: Incident, activity: str, tries: int, done: int, steps: Iterable[Step]) -> str:
    """The same for the same steps of the same story, so that an approval finds the plan it was given to.

    Another one as soon as something was done: a rung may be tried again, and each try has an intent of its own. And
    another one when the same words mean something else by now: nobody has approved that.
    """
    what = [(step.action, step.target, plain(step.args) if step.expect is not None else None) for step in steps]
    place = f"{incident.id}/{incident.reopened}/{incident.passes}/{activity}/{tries}/{done}/{json.dumps(what)}"
    return f"plan-{incident.id[-8:]}-{zlib.crc32(place.encode()):08x}"


__all__ = [
    "Ending",
    "Life",
    "begun_anew",
    "cannot_move",
    "heard",
    "innermost",
    "is_heard",
    "plan_id",
    "replayed",
    "way_between",
    "wrong_data",
    "wrong_event",
]
