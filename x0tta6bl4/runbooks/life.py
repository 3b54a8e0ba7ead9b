"""The life of an incident on its runbook: each thing that happens is one macrostep, and what it asks for is kept."""

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from x0tta6bl4.kernel.facts import NOTHING, Attributes, Incident, Move, Step
from x0tta6bl4.kernel.memory import plain
from x0tta6bl4.kernel.plugin import Situation
from x0tta6bl4.runbooks.document import Runbook, given
from x0tta6bl4.statechart.core.content import Runtime
from x0tta6bl4.statechart.core.effect import Cancelled, Effect, Ended, Faulted, Logged, Sent, Started, Stopped
from x0tta6bl4.statechart.core.event import Event
from x0tta6bl4.statechart.core.machine import Instance
from x0tta6bl4.statechart.core.tables import bits
from x0tta6bl4.statechart.persistence.serializer import SnapshotError, restore, snapshot
from x0tta6bl4.statechart.runtime.executor import EndlessLoop, cancel, handle, new, observe, start

START, CLOSE, SEEN, MIGRATE = "$start", "$close", "$seen", "$migrate"
"""Macrosteps that the runtime itself makes."""
BUS = "#_bus"
LEFT = 8
"""Activities that a runbook left behind and might take up again: the latest so many are remembered."""


@dataclass(frozen=True)
class Ending:
    """The runbook came to its end in this state; None: it was cancelled."""

    state: str | None
    result: Any


class Life:
    """One incident's runbook during one call: taken out of ``Incident.place``, moved on, and put back by ``place``.

    Pure: nothing outside is read or changed; the same place, events and situation give the same moves.
    """

    def __init__(self, book: Runbook, incident: Incident, situation: Situation) -> None:
        self.book = book
        self.incident = incident
        self.situation = situation
        self.moves: list[Move] = []
        self.said: list[tuple[str, Attributes]] = []
        self.left: list[str] = []
        self.broken = ""
        """Why the runbook cannot go on, not even to its own state for errors."""
        place = incident.place
        ended = place.get("ended")
        self.ending: Ending | None = Ending(ended["state"], ended["result"]) if ended is not None else None
        self.number: int = place.get("number", 0)
        self.acts: dict[str, dict[str, Any]] = {id: dict(act) for id, act in place.get("acts", {}).items()}
        """Activities that the chart waits for, by their id."""
        self.behind: dict[str, dict[str, Any]] = {s: dict(act) for s, act in place.get("behind", {}).items()}
        """The last activity of each state that was left while it went on, for a return to it."""
        self.timers: dict[str, dict[str, Any]] = {id: dict(t) for id, t in place.get("timers", {}).items()}
        self.undo: list[dict[str, Any]] = list(place.get("undo", ()))
        """What was done and can be taken back, the latest last."""
        self.back: list[dict[str, Any]] = list(place.get("back", ()))
        """What is to be taken back now, before anything else."""
        self.is_proved: bool = place.get("proved", False)
        """An action of this run was proved by the incident's own probe; what follows is tidying up."""
        self.failed: int = place.get("failed", 0)
        """Tries of this run that did not help."""
        self.notes: list[str] = list(place.get("notes", ()))
        """Why what comes next comes next, in sentences."""
        self._chart: Mapping[str, Any] | None = place.get("chart")
        self._thawed: Instance | None = None
        self._queue: list[Event] = []

    @property
    def is_begun(self) -> bool:
        return self._chart is not None or self._thawed is not None

    def place(self) -> Mapping[str, Any]:
        """In JSON's types; what is empty is left out."""
        told: dict[str, Any] = {
            "book": self.book.hash,
            "name": self.book.name,
            "version": self.book.version,
            "number": self.number,
            "chart": self._chart if self._thawed is None else snapshot(self._thawed),
        }
        kept = {
            "acts": self.acts,
            "behind": self.behind,
            "timers": self.timers,
            "undo": self.undo,
            "back": self.back,
            "proved": self.is_proved,
            "failed": self.failed,
            "ended": None if self.ending is None else {"state": self.ending.state, "result": self.ending.result},
            "notes": self.notes,
        }
        return told | {key: value for key, value in kept.items() if value}

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
        self._made(START, told, lambda: _started(instance, told))

    def event(self, name: str, data: Any = None, *, invocation: str = "", message: str = "") -> bool:
        """Whether anything came of it. An event that nothing takes is journaled only if it consumes a message."""
        instance = self._instance()
        happened = Event(name, data, invokeid=invocation or None)
        return self._made(name, data, lambda: handle(instance, happened), invocation, message)

    def look(self) -> None:
        """Change events: conditions over what is seen of the subject that have become true, or are true no more."""
        instance = self._instance()
        seen = {name: value for name, value in self.situation.seen.items() if value == value}
        before = instance.when_bits
        probe = self._copy()
        _saw(probe, seen)
        if probe.when_bits != before or probe.runtime.effects or probe.mask != instance.mask:
            self._made(SEEN, seen, lambda: _saw(instance, seen))

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
        effects = list(instance.runtime.effects)
        instance.runtime.effects.clear()
        if not taken and not effects and not message:
            instance.seq = self.number
            return False
        self.number += 1
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
        while self._queue and instance.running:
            waiting = self._queue.pop(0)
            self.event(waiting.name, waiting.data)
        return taken

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
            self._thawed = restore(self.book.chart, {**self._chart, "hash": self.book.chart.hash}, Runtime())
        return self._thawed

    def _copy(self) -> Instance:
        return restore(self.book.chart, snapshot(self._instance()), Runtime())

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
                self.timers.pop(id, None)
            case Logged(label, value):
                self.said.append(("log", {"label": label, "value": value}))
            case Ended(state, result):
                self.ending = Ending(state, result)
                self.acts.clear()
                self.timers.clear()
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
        self.acts[effect.id] = act

    def awaiting(self, activity: str) -> str:
        """The activity that waits for this one's answer: itself, or the one that took it over; empty: nobody."""
        if activity in self.acts:
            return activity
        return next((id for id, act in self.acts.items() if act.get("answers") == activity), "")

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


def innermost(instance: Instance) -> tuple[str, ...]:
    """The active states that have no active state inside them."""
    chart = instance.chart
    return tuple(chart.names[n] for n in bits(instance.mask & chart.atomic))


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
    wrong: list[str] = []
    instance: Instance | None = None
    for move in moves:
        if move.event == START:
            book = book_of(incident.place.get("book", ""))
            if book is None:
                return ["the version of the runbook that it is under is not kept any more"]
            instance = new(book.chart, incident.id, Runtime())
        if instance is None:
            continue  # what came before was let go of by age
        instance.seq = move.number
        instance.runtime.effects.clear()
        _play(instance, move)
        if innermost(instance) != move.states:
            wrong.append(
                f"move {move.number} ({move.event}) leads to {', '.join(innermost(instance)) or 'the end'},"
                f" the journal says {', '.join(move.states) or 'the end'}"
            )
    if instance is not None and not wrong and (chart := incident.place.get("chart")) is not None:
        again = snapshot(instance)
        wrong += [f"{key} differs at the end" for key in again if key != "seq" and again[key] != chart.get(key)]
    return wrong


def _play(instance: Instance, move: Move) -> None:
    if move.event == START:
        start(instance, dict(move.data))
    elif move.event == CLOSE:
        cancel(instance)
    elif move.event == SEEN:
        _saw(instance, move.data)
    else:
        handle(instance, Event(move.event, move.data, invokeid=move.invocation or None))


def begun_anew(place: Attributes) -> Attributes:
    """A place from which the runbook begins again; its moves go on being counted."""
    return {"number": place["number"]} if place.get("number") else NOTHING


def plan_id(incident: Incident, activity: str, tries: int, done: int, steps: Iterable[Step]) -> str:
    """The same for the same steps of the same story, so that an approval finds the plan it was given to.

    Another one as soon as something was done: a rung may be tried again, and each try has an intent of its own. And
    another one when the same words mean something else by now: nobody has approved that.
    """
    what = [(step.action, step.target, plain(step.args) if step.expect is not None else None) for step in steps]
    place = f"{incident.id}/{incident.reopened}/{incident.passes}/{activity}/{tries}/{done}/{json.dumps(what)}"
    return f"plan-{incident.id[-8:]}-{zlib.crc32(place.encode()):08x}"


__all__ = ["Ending", "Life", "begun_anew", "innermost", "plan_id", "replayed"]
