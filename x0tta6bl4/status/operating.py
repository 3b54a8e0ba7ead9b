"""Changes what operators may change while the daemon runs: flags, pauses, the configuration, the course of runbooks."""

import fnmatch
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import AfterValidator, ConfigDict, Field, RootModel, StrictBool, model_validator
from pydantic.config import JsonDict
from starlette.responses import Response
from typing_extensions import TypedDict

from x0tta6bl4.kernel.errors import ConfigError, Problem, StoreError
from x0tta6bl4.kernel.facts import Book, Incident, IncidentState
from x0tta6bl4.kernel.flags import FLAGS, known_flag
from x0tta6bl4.kernel.memory import Pause
from x0tta6bl4.kernel.units import as_seconds
from x0tta6bl4.runbooks.document import parse
from x0tta6bl4.runbooks.life import ABORT, LONGEST_EVENT, OWN, heard, is_heard, wrong_data, wrong_event
from x0tta6bl4.statechart.persistence.serializer import SnapshotError
from x0tta6bl4.status.access import Scope
from x0tta6bl4.status.desk import Desk
from x0tta6bl4.status.problems import Refusal, store_failing, unknown
from x0tta6bl4.status.report import iso
from x0tta6bl4.status.routes import Asked, Gives, Name, Route, Said, Why, answer, refused_for

log = logging.getLogger("x0tta6bl4.status.operating")

LONGEST_PAUSE = 366 * 86400.0
"""Seconds; whoever means longer wants another mode for the subject, or another configuration."""
MOST_PAUSES = 500
"""In force at once. Each is looked at before every step, and told with every status: a script gone wild must not."""


def _event(name: str) -> str:
    if wrong := wrong_event(name):
        raise ValueError(wrong)
    return name


def _data(data: dict[str, Any]) -> dict[str, Any]:
    if wrong := wrong_data(data):
        raise ValueError(wrong)
    return data


class Flags(RootModel[dict[str, StrictBool]]):
    """Flags by name, each on or off."""

    model_config = ConfigDict(
        json_schema_extra={
            "properties": {flag.name: {"type": "boolean", "description": flag.meaning} for flag in FLAGS},
            "additionalProperties": False,
            "minProperties": 1,
        }
    )


EVENT_SCHEMA: JsonDict = {
    "maxLength": LONGEST_EVENT,
    "pattern": r"^[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$",
    "not": {"pattern": rf"^({'|'.join(OWN)})(\.|$)"},
}


class EventSaid(Said):
    event: Annotated[str, Field(json_schema_extra=EVENT_SCHEMA), AfterValidator(_event)]
    """The name of an event that the incident's runbook listens to."""
    data: Annotated[dict[str, Any], AfterValidator(_data)] = Field(default_factory=dict)
    why: Why = ""


class PauseSaid(Said):
    target: Name
    """A subject, or a pattern of names; ``*`` is everything."""
    for_: str | None = Field(default=None, alias="for", max_length=50)
    """How long, such as 30m or 4h."""
    until: str | None = Field(default=None, max_length=50, json_schema_extra={"format": "date-time"})
    """Or its end, as ISO 8601 with a time zone."""
    reason: Why = ""
    kind: Literal["pause", "maintenance"] = "pause"

    @model_validator(mode="after")
    def _has_one_end(self) -> "PauseSaid":
        if (self.for_ is None) == (self.until is None):
            raise ValueError("say either `for` (such as 30m) or `until` (such as 2030-01-01T06:00:00Z)")
        return self

    def seconds(self, now: float) -> float:
        """How long from now. Raises ValueError."""
        if self.for_ is not None:
            lasting = as_seconds(self.for_)
        else:
            end = datetime.fromisoformat(self.until or "")
            if end.tzinfo is None:
                raise ValueError("needs a time zone, such as the Z at the end of 2030-01-01T06:00:00Z")
            lasting = end.timestamp() - now
        if not 0 < lasting <= LONGEST_PAUSE:
            raise ValueError("must end in the future, and within a year")
        return lasting


class ReloadSaid(Said):
    """There is nothing to be said."""


class PauseTold(TypedDict):
    id: str
    target: str
    kind: str
    reason: str
    who: str
    since: str
    until: str


class Pauses(TypedDict):
    pauses: list[PauseTold]


class Ended(TypedDict):
    target: str
    ended: int
    """How many pauses were put on exactly that target."""


class Reloaded(TypedDict):
    reloaded: bool
    timestamp: str


class Taken(TypedDict):
    message: str
    incident: str
    event: str
    blocked: str
    """What keeps the runbook from taking it now; empty: nothing."""


class Operating:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> list[Route]:
        flags = {200: Gives("All flags.", dict[str, bool])}
        return [
            Route(
                "GET", "/api/v1/config/features", self._flags, "The feature flags.", Scope.READ, "config", gives=flags
            ),
            Route(
                "POST",
                "/api/v1/config/features",
                self._set_flags,
                "Sets flags; all or none. `auto_healing` is the kill switch.",
                Scope.ADMIN,
                "config",
                takes={"application/json": Flags},
                gives=flags,
                refuses=(503,),
            ),
            Route(
                "POST",
                "/-/reload",
                self._reload,
                "Reads the configuration again; with a mistake in it the old one stays.",
                Scope.ADMIN,
                "config",
                said=ReloadSaid,
                is_body_needed=False,
                gives={200: Gives("It is in force.", Reloaded)},
            ),
            Route(
                "GET",
                "/api/v1/pauses",
                self._pauses,
                "The pauses in force.",
                Scope.READ,
                "pauses",
                gives={200: Gives("Those in force.", Pauses)},
                refuses=(503,),
            ),
            Route(
                "POST",
                "/api/v1/pauses",
                self._pause,
                "Keeps the daemon's hands off a target until then. Watching goes on.",
                Scope.OPERATE,
                "pauses",
                said=PauseSaid,
                gives={201: Gives("From now on.", PauseTold, headers={"Location": "The pause's own path."})},
                refuses=(404, 409, 503),
            ),
            Route(
                "DELETE",
                "/api/v1/pauses/{target}",
                self._resume,
                "Ends the pauses put on exactly that target or pattern.",
                Scope.OPERATE,
                "pauses",
                gives={200: Gives("It is healed again as its mode says.", Ended)},
                refuses=(404, 503),
            ),
            Route(
                "POST",
                "/api/v1/incidents/{id}/events",
                self._send_event,
                "An event for the incident's runbook, taken once, in the loop's next turn.",
                Scope.OPERATE,
                "incidents",
                said=EventSaid,
                gives={202: Gives("It is on disk, and waits to be taken.", Taken)},
                refuses=(404, 409, 503),
            ),
        ]

    # -- flags -----------------------------------------------------------------------------------------------------

    async def _flags(self, asked: Asked) -> Response:
        return answer(self.desk.face.loop.parts.flags.as_dict())

    async def _set_flags(self, asked: Asked) -> Response:
        wanted = flags_in(await asked.json())
        await self.set_flags(asked, wanted)
        return answer(self.desk.face.loop.parts.flags.as_dict())

    async def set_flags(self, asked: Asked, wanted: Mapping[str, bool]) -> None:
        for name, value in wanted.items():
            try:
                await self.desk.face.set_flag(name, value, f"{asked.who} from {asked.client}")
            except ConfigError as error:
                raise _wrong_flags(error.problems or [Problem(f"flags.{name}", error.message)]) from error
            except StoreError as error:
                raise store_failing(error, f"{name} was not set") from error
            log.info("flag set", extra={"flag": name, "value": value, **asked.about()})
        await self.desk.heed()

    # -- the configuration -----------------------------------------------------------------------------------------

    async def _reload(self, asked: Asked) -> Response:
        return answer(await self.reload(asked))

    async def reload(self, asked: Asked) -> Reloaded:
        log.info("reload asked for", extra=asked.about())
        async with self.desk.changing:
            mistakes = await self.desk.face.reload()
        if mistakes:
            number = f"{len(mistakes)} mistake{'s' * (len(mistakes) != 1)}"
            raise Refusal(
                422,
                "CONFIG_INVALID",
                f"the configuration has {number}; the old one stays in force",
                details={"mistakes": list(mistakes)},
                suggestions=["`x0tta6bl4 validate FILE` checks it without starting anything"],
            )
        return {"reloaded": True, "timestamp": iso(time.time()) or ""}

    # -- pauses ----------------------------------------------------------------------------------------------------

    async def _pauses(self, asked: Asked) -> Response:
        try:
            found = await self.desk.face.loop.parts.knowledge.pauses()
        except StoreError as error:
            raise store_failing(error, "the pauses cannot be read") from error
        return answer({"pauses": [told(pause) for pause in found]})

    async def _pause(self, asked: Asked) -> Response:
        made = await self.pause(asked, asked.said)
        return answer(made, 201, {"location": f"/api/v1/pauses/{quote(made['target'], safe='')}"})

    def check_pause(self, said: PauseSaid) -> float:
        """Until when, in seconds since the epoch; a Refusal when that cannot be."""
        loop = self.desk.face.loop
        now = loop.parts.clock.wall()
        try:
            lasting = said.seconds(now)
        except ValueError as error:
            where = "for" if said.for_ is not None else "until"
            raise refused_for("BAD_PAUSE", "the body", [{"where": where, "message": str(error), "hint": ""}]) from error
        known = {*loop.parts.sight.subjects, *(incident.subject for incident in loop.incidents.open)}
        # Whoever mistypes a name would believe something paused that is not.
        # fnmatch's own matching would keep each pattern that was ever asked for.
        fits = re.compile(fnmatch.translate(said.target)).match
        if said.target != "*" and not any(map(fits, known)):
            raise unknown(
                "NO_SUCH_TARGET",
                f"nothing is called {said.target!a}, nor matches it",
                ["there are: " + ", ".join(sorted(known)[:20])] if known else [],
            )
        return now + lasting

    async def pause(self, asked: Asked, said: PauseSaid) -> PauseTold:
        until, loop = self.check_pause(said), self.desk.face.loop
        try:
            if len(await loop.parts.knowledge.pauses()) >= MOST_PAUSES:
                raise Refusal(
                    409,
                    "TOO_MANY_PAUSES",
                    f"{MOST_PAUSES} pauses are in force already",
                    suggestions=["end some of them, or pause a pattern such as `*` once"],
                )
            made = await loop.parts.knowledge.add_pause(
                said.target, until, who=asked.who, reason=said.reason, kind=said.kind
            )
        except StoreError as error:
            raise store_failing(error, "nothing was paused") from error
        log.info("paused", extra={"target": said.target, "until": iso(until), **asked.about()})
        await self.desk.heed()
        return told(made)

    async def _resume(self, asked: Asked) -> Response:
        return answer(await self.resume(asked, asked.params["target"]))

    async def resume(self, asked: Asked, target: str) -> Ended:
        loop = self.desk.face.loop
        try:
            count = await loop.parts.knowledge.remove_pause(target, asked.who)
            if not count:
                there = sorted({pause.target for pause in await loop.parts.knowledge.pauses()})
                raise unknown(
                    "NOT_PAUSED",
                    f"nothing is paused under the name {target!a}",
                    [f"paused: {', '.join(there)}" if there else "nothing is paused at all"],
                )
        except StoreError as error:
            raise store_failing(error, "the pause was not ended") from error
        log.info("resumed", extra={"target": target, **asked.about()})
        await self.desk.heed()
        return {"target": target, "ended": count}

    # -- events for runbooks -----------------------------------------------------------------------------------------

    async def _send_event(self, asked: Asked) -> Response:
        return answer(await self.send_event(asked, asked.params["id"], asked.said), 202)

    async def find_hearer(self, id: str, said: EventSaid) -> tuple[Incident, str]:
        """The incident, and what keeps its runbook from taking the event now."""
        loop = self.desk.face.loop
        try:
            incident = await self.desk.incident(id)
            if incident.state is IncidentState.CLOSED:
                raise Refusal(409, "INCIDENT_OVER", f"it is over ({incident.ended or 'closed'}): nobody listens")
            return incident, _whether_heard(said.event, incident, await loop.parts.knowledge.books())
        except StoreError as error:
            raise store_failing(error, "the incident cannot be read") from error

    async def send_event(self, asked: Asked, id: str, said: EventSaid) -> Taken:
        incident, blocked = await self.find_hearer(id, said)
        loop, data = self.desk.face.loop, {**said.data, "why": said.why} if said.why else dict(said.data)
        try:
            message = await loop.parts.knowledge.send(incident.id, said.event, data, asked.who)
        except StoreError as error:
            raise store_failing(error, "the event was not taken down") from error
        log.info(
            "event taken down",
            extra={"event": said.event, "incident": incident.id, "message_id": message.id, **asked.about()},
        )
        await self.desk.heed()
        loop.wake({incident.subject})
        return {"message": message.id, "incident": incident.id, "event": said.event, "blocked": blocked}


def told(pause: Pause) -> PauseTold:
    return {
        "id": pause.id,
        "target": pause.target,
        "kind": pause.kind,
        "reason": pause.reason,
        "who": pause.who,
        "since": iso(pause.since) or "",
        "until": iso(pause.until) or "",
    }


def flags_in(body: Any) -> dict[str, bool]:
    """The flags to set, or a Refusal with every mistake: then none is set."""
    if not isinstance(body, dict) or not body:
        raise Refusal(
            422, "NO_FLAGS", "the body must be an object of flags", suggestions=['for example {"auto_healing": true}']
        )
    problems: list[Problem] = []
    for name, value in body.items():
        try:
            known_flag(name)
        except ConfigError as error:
            problems += error.problems
        else:
            if not isinstance(value, bool):
                problems.append(Problem(f"flags.{name}", "must be true or false"))
    if problems:
        raise _wrong_flags(problems)
    return body


def _wrong_flags(problems: Sequence[Problem]) -> Refusal:
    told = [{"where": p.where[:200], "message": p.message, "hint": p.hint or ""} for p in problems]
    return refused_for("INVALID_FLAGS", "the body", told)


def _whether_heard(event: str, incident: Incident, books: Sequence[Book]) -> str:
    """What keeps its runbook from taking the event now; empty: nothing. Refusal when it never listens to it."""
    kept = next((book for book in books if book.hash == incident.place.get("book")), None)
    if kept is None or incident.place.get("ended") is not None:
        return ""
    book, _ = parse(json.loads(kept.source), kept.name)
    try:
        words = heard(book, incident, time.time()) if book is not None else {}
    except SnapshotError:
        return ""  # the daemon begins it anew, and nobody knows yet where that leads
    found = is_heard(event, words) if words else ""
    if found is None and event != ABORT:
        raise Refusal(
            422,
            "UNKNOWN_EVENT",
            f"nothing in {kept.name} v{kept.version} ever listens to {event!a}",
            details={"hears": words},
            suggestions=["it listens to " + ", ".join([*words, ABORT])],
        )
    return found or ""
