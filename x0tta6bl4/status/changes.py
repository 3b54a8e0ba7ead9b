"""Notes what people and their tools changed on purpose, so that what the numbers do next can be tied to it."""

import logging
from datetime import datetime
from typing import Annotated

from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.kernel.lessons import Alteration
from x0tta6bl4.runbooks.document import near
from x0tta6bl4.status.access import Scope
from x0tta6bl4.status.desk import Desk
from x0tta6bl4.status.problems import store_failing, unknown
from x0tta6bl4.status.reading import Moment
from x0tta6bl4.status.report import iso
from x0tta6bl4.status.routes import Asked, Gives, Name, Route, Said, Why, Words, answer, refused_for

log = logging.getLogger("x0tta6bl4.status.changes")

CHANGES = "/api/v1/changes"
MOST_TOLD = 1000
MOST_NAMES = 200
"""Names among which the nearest to an unknown one is looked for."""
AHEAD = 60.0
"""Seconds that a moment may lie in the future: the clock of whoever deploys is not ours."""


class ChangeSaid(Said):
    subject: Name
    """What was changed: a subject under care, or one that a monitor speaks of."""
    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")] = "deploy"
    """`deploy`, `config`, or another word."""
    detail: Why = ""
    """What a person would want to know of it: the version, the commit, the key that was set."""
    at: Moment | None = None
    """When it was done, as ISO 8601 with a time zone; else now."""


class ChangeWords(Words):
    subject: Name | None = None
    since: Moment | None = None
    """Done then or later: ISO 8601 with a time zone."""
    limit: int = Field(default=100, ge=1, le=MOST_TOLD)


class ChangeTold(TypedDict):
    id: int
    subject: str
    kind: str
    detail: str
    who: str
    at: str


class ChangesTold(TypedDict):
    changes: list[ChangeTold]


class Changes:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> list[Route]:
        return [
            Route(
                "GET",
                CHANGES,
                self._changes,
                "What was changed on purpose, as people and their tools noted it.",
                Scope.READ,
                "changes",
                words=ChangeWords,
                gives={200: Gives("Newest first.", ChangesTold)},
                refuses=(503,),
            ),
            Route(
                "POST",
                CHANGES,
                self._note,
                "Notes a deploy or another change: a step or drift of the numbers after it is tied to it.",
                Scope.OPERATE,
                "changes",
                said=ChangeSaid,
                gives={201: Gives("It is on disk, and the analyzers have heard of it.", ChangeTold)},
                refuses=(404, 503),
            ),
        ]

    async def _changes(self, asked: Asked) -> Response:
        words: ChangeWords = asked.words
        since = 0.0 if words.since is None else datetime.fromisoformat(words.since).timestamp()
        learnt = self.desk.face.loop.parts.knowledge.learnt
        try:
            found = await learnt.alterations(since, subject=words.subject, limit=words.limit)
        except StoreError as error:
            raise store_failing(error, "the changes cannot be read") from error
        return answer({"changes": [told(one) for one in reversed(found)]})

    async def _note(self, asked: Asked) -> Response:
        said: ChangeSaid = asked.said
        loop = self.desk.face.loop
        now = loop.parts.clock.wall()
        at = now if said.at is None else datetime.fromisoformat(said.at).timestamp()
        if at > now + AHEAD or at < 0:  # what is older than the clock would be noted, and never listed
            words = "lies in the future: note it when it was done" if at > now else "lies before 1970"
            mistake = {"where": "at", "message": words, "hint": ""}
            raise refused_for("BAD_CHANGE", "the body", [mistake])
        sight = loop.parts.sight
        # Whoever mistypes a name would believe a deploy noted that is tied to nothing.
        if said.subject not in sight.subjects and not sight.about(said.subject):
            known = sorted({*sight.subjects, *(series[0] for series in sight.columns().names)})[:MOST_NAMES]
            hint = near(said.subject, known)
            raise unknown("NO_SUCH_SUBJECT", f"nothing is called {said.subject!a}", [hint] if hint else [])
        noted = Alteration(said.subject, said.kind, said.detail, asked.who, min(at, now))
        try:
            noted = await loop.parts.knowledge.learnt.alter(noted)
        except StoreError as error:
            raise store_failing(error, "the change was not noted") from error
        log.info("a change was noted", extra={"subject": noted.subject, "kind": noted.kind, **asked.about()})
        await self.desk.heed()
        return answer(told(noted), 201)


def told(alteration: Alteration) -> ChangeTold:
    return {
        "id": alteration.id,
        "subject": alteration.subject,
        "kind": alteration.kind,
        "detail": alteration.detail,
        "who": alteration.who,
        "at": iso(alteration.at) or "",
    }
