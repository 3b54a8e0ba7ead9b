"""Runs SCXML sessions that invoke and write to each other, under virtual time: for trials, it acts on nothing."""

import heapq
import json
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from x0tta6bl4.statechart.core.content import OWN_PROCESSOR, Runtime
from x0tta6bl4.statechart.core.effect import (
    Cancelled,
    Effect,
    Ended,
    Forwarded,
    Logged,
    Sent,
    Started,
    Stopped,
)
from x0tta6bl4.statechart.core.event import Event
from x0tta6bl4.statechart.core.machine import Chart, Instance
from x0tta6bl4.statechart.core.state import Definition
from x0tta6bl4.statechart.core.tables import DefinitionError
from x0tta6bl4.statechart.formats.scxml import Unsupported, read, read_file
from x0tta6bl4.statechart.runtime.executor import cancel, handle, new, start

PROCESSOR = "http://www.w3.org/TR/scxml/#SCXMLEventProcessor"
INVOKED = OWN_PROCESSOR | {"http://www.w3.org/TR/scxml/"}
"""Types of invocations that are statecharts themselves."""


class Session:
    """One running statechart, and what came of it."""

    __slots__ = ("cancelled", "children", "ended", "final", "instance", "invokeid", "log", "parent", "result")

    def __init__(self, instance: Instance, parent: "Session | None" = None, invokeid: str | None = None) -> None:
        self.instance = instance
        self.parent = parent
        self.invokeid = invokeid
        self.children: dict[str, Session] = {}
        self.cancelled = False
        """By its parent, which wants to hear nothing of it any more."""
        self.ended = False
        self.final: str | None = None
        """The state it ended in; None when it was cancelled."""
        self.result: Any = None
        self.log: list[tuple[str, Any]] = []

    @property
    def id(self) -> str:
        return self.instance.id


class Sessions:
    """All sessions that can reach each other. Events are handled in the order in which they came to pass."""

    def __init__(self, base: str | Path | None = ".", *, restore: bool = False) -> None:
        self.base = None if base is None else Path(base)
        self.restore = restore
        """Throw every instance away before each event and go on with what was written down of it."""
        self.restored = 0
        self.now = 0.0
        self._runtime = Runtime()
        self._runtime.reachable = self._is_reachable
        self._sessions: dict[str, Session] = {}
        self._ready: deque[tuple[Session, Event]] = deque()
        self._later: list[tuple[float, int, Session, Sent]] = []
        self._count = 0

    def open(self, chart: str | Definition | Chart, parameters: Mapping[str, Any] | None = None) -> Session:
        """Starts a session from a document or a definition; ``parameters`` take the place of its first values."""
        return self._open(chart, parameters, None, None)

    def send(self, session: Session, name: str, data: Any = None) -> None:
        """An event from outside; handled by ``run``."""
        self._ready.append((session, Event(name, data)))

    def run(self, until: Session | None = None, *, seconds: float = 60.0, events: int = 100_000) -> bool:
        """Handles events, and lets time pass for those to come, until the session has ended or nothing is left to do.

        False: so many seconds or events were not enough.
        """
        end = self.now + seconds
        while until is None or not until.ended:
            if self._ready:
                if events <= 0:
                    return False
                events -= 1
                self._handle(*self._ready.popleft())
            elif self._later:
                if self._later[0][0] > end:
                    return False
                self.now, _, session, sent = heapq.heappop(self._later)
                self._deliver(session, sent)
            else:
                return until is None
        return True

    def _handle(self, session: Session, event: Event) -> None:
        if session.ended:
            return
        if self.restore:
            self._rebuild(session)
        session.instance.seq += 1
        handle(session.instance, event)
        self._follow(session)

    def _rebuild(self, session: Session) -> None:
        # Not at module level: sessions that are never restored need none of it.
        from x0tta6bl4.statechart.persistence.serializer import restore, snapshot

        old = session.instance
        session.instance = restore(old.chart, json.loads(json.dumps(snapshot(old))), self._runtime)
        self.restored += 1

    # Beginnings and ends

    def _open(
        self,
        chart: str | Definition | Chart,
        parameters: Mapping[str, Any] | None,
        parent: Session | None,
        invokeid: str | None,
    ) -> Session:
        if isinstance(chart, str):
            chart = Chart(read(chart, self.base))
        elif isinstance(chart, Definition):
            chart = Chart(chart)
        self._count += 1
        session = Session(new(chart, f"session{self._count}", self._runtime), parent, invokeid)
        self._sessions[session.id] = session
        if parent is not None and invokeid is not None:
            parent.children[invokeid] = session
        start(session.instance, dict(parameters or {}))
        self._follow(session)
        return session

    def _cancel(self, session: Session) -> None:
        """What it does on its way out still happens, but its parent hears nothing of it."""
        session.cancelled = True
        cancel(session.instance)
        self._follow(session)

    def _end(self, session: Session, ended: Ended) -> None:
        session.ended, session.final, session.result = True, ended.state, ended.result
        del self._sessions[session.id]
        for child in list(session.children.values()):
            self._cancel(child)
        parent = session.parent
        if parent is not None and session.invokeid is not None and not session.cancelled:
            del parent.children[session.invokeid]
            name = f"done.invoke.{session.invokeid}"
            self._ready.append((parent, Event(name, ended.result, invokeid=session.invokeid)))

    # Effects

    def _follow(self, session: Session) -> None:
        effects = self._runtime.effects[:]
        self._runtime.effects.clear()
        errors: list[Event] = []
        for effect in effects:
            errors += self._effect(session, effect)
        # What could not be done belongs to the step that asked for it: it comes before all that waits outside.
        self._ready.extendleft((session, error) for error in reversed(errors))

    def _effect(self, session: Session, effect: Effect) -> Iterator[Event]:
        match effect:
            case Sent():
                if effect.delay:
                    self._count += 1
                    heapq.heappush(self._later, (self.now + effect.delay, self._count, session, effect))
                else:
                    self._deliver(session, effect)
            case Cancelled(id):
                self._later = [entry for entry in self._later if entry[2] is not session or entry[3].id != id]
                heapq.heapify(self._later)
            case Started():
                try:
                    self._invoke(session, effect)
                except OSError as error:
                    yield _error("error.communication", error)
                except (Unsupported, DefinitionError) as error:
                    yield _error("error.execution", error)
            case Stopped(id):
                if id in session.children:
                    self._cancel(session.children.pop(id))
            case Forwarded(id, event):
                # What this host itself tells the session is no event from outside.
                if id in session.children and event.type != "platform":
                    self._ready.append((session.children[id], event))
            case Logged(label, value):
                session.log.append((label, value))
            case Ended():
                self._end(session, effect)

    def _invoke(self, session: Session, started: Started) -> None:
        if (started.type or "") not in INVOKED:
            raise Unsupported(f"no activities of type {started.type!r} are known here")
        text = started.content
        if text is None:
            text = read_file(str(started.source), self.base)
        if not isinstance(text, str):
            raise Unsupported(f"an SCXML document was to be invoked, not {text!r}")
        self._open(text, started.parameters, session, started.id)

    # Ways between sessions

    def _is_reachable(self, instance: Instance, target: str) -> bool:
        sender = self._sessions.get(instance.id)
        return sender is not None and self._receiver(sender, target) is not None

    def _receiver(self, sender: Session, target: str | None) -> Session | None:
        if not target:
            return sender
        if target == "#_parent":
            found = sender.parent
        elif target.startswith("#_scxml_"):
            found = self._sessions.get(target.removeprefix("#_scxml_"))
        else:
            found = sender.children.get(target.removeprefix("#_"))
        return None if sender.cancelled and found is sender.parent else found

    def _deliver(self, sender: Session, sent: Sent) -> None:
        if sender.ended and sent.delay:
            return  # what a session has delayed ends with it
        receiver = self._receiver(sender, sent.target)
        if receiver is None:
            error = Event("error.communication", None, "platform", sendid=sent.id)
            self._ready.appendleft((sender, error))
            return
        event = Event(
            sent.event,
            sent.data,
            sendid=sent.id,
            origin=f"#_scxml_{sender.id}",
            origintype=PROCESSOR,
            invokeid=sender.invokeid if receiver is sender.parent else None,
        )
        self._ready.append((receiver, event))


def _error(name: str, error: Exception) -> Event:
    return Event(name, {"message": str(error)}, "platform")
