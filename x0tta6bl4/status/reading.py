"""What can be read beside the status: incidents with their stories, why, the history of actions, sums and scores."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field
from starlette.responses import Response

from x0tta6bl4.kernel.facts import Severity
from x0tta6bl4.status import explain, stories
from x0tta6bl4.status.access import Scope
from x0tta6bl4.status.desk import Desk
from x0tta6bl4.status.problems import unknown
from x0tta6bl4.status.routes import JSON, Asked, Gives, Name, Route, Words, answer
from x0tta6bl4.status.signals import Signals, signals

INCIDENTS = "/api/v1/incidents"


def _moment(text: str) -> str:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError("should be ISO 8601, such as 2030-01-01T06:00:00Z") from error
    if at.tzinfo is None:
        raise ValueError("needs a time zone, such as the Z at the end of 2030-01-01T06:00:00Z")
    return text


Moment = Annotated[str, Field(max_length=50, json_schema_extra={"format": "date-time"}), AfterValidator(_moment)]
Cursor = Annotated[str, Field(max_length=stories.LONGEST)]


class IncidentWords(Words):
    state: stories.StateWord | None = None
    """`open` is all that are not closed."""
    subject: Name | None = None
    fault: Name | None = None
    severity: Severity | None = None
    since: Moment | None = None
    """Opened then or later: ISO 8601 with a time zone."""
    until: Moment | None = None
    """Opened before then."""
    limit: int = Field(default=50, ge=1, le=stories.PAGE)
    cursor: Cursor | None = None
    """What the page before gave as `next`."""


class StoryWords(Words):
    all_moves: bool = False
    """Also the moves that the runbook made by itself, such as which rung comes next."""


class HistoryWords(Words):
    subject: Name | None = None
    limit: int = Field(default=50, ge=1, le=stories.PAGE)
    before: Cursor | None = None
    """What the page before gave as `next`."""


class DaysWords(Words):
    days: float = Field(default=7.0, gt=0, le=stories.DAYS, allow_inf_nan=False)


class ScoreWords(Words):
    days: float = Field(default=30.0, gt=0, le=stories.DAYS, allow_inf_nan=False)
    rule: Name | None = None


def _seconds(moment: str | None) -> float | None:
    return None if moment is None else datetime.fromisoformat(moment).timestamp()


class Reading:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> list[Route]:
        incidents = {
            200: Gives("A page of them, newest first.", stories.Page, headers={"ETag": "Of this answer."}),
            304: Gives("Nothing has changed since."),
        }
        overview = {
            200: Gives("The sums.", stories.Overview, headers={"ETag": "Of this answer."}),
            304: Gives("Nothing has changed since."),
        }
        return [
            Route(
                "GET",
                INCIDENTS,
                self._incidents,
                "Incidents, filtered and page by page.",
                Scope.READ,
                "incidents",
                words=IncidentWords,
                gives=incidents,
                refuses=(503,),
            ),
            Route(
                "GET",
                INCIDENTS + "/{id}",
                self._incident,
                "One incident with its whole story.",
                Scope.READ,
                "incidents",
                words=StoryWords,
                gives={200: Gives("The story.", stories.Story)},
                refuses=(404, 503),
            ),
            Route(
                "GET",
                INCIDENTS + "/{id}/signals",
                self._signals,
                "What the numbers did round an incident.",
                Scope.READ,
                "incidents",
                gives={200: Gives("The series, with the limits they were judged by.", Signals)},
                refuses=(404, 503),
            ),
            Route(
                "GET",
                "/api/v1/why/{target}",
                self._why,
                "Why something was done about a subject or an incident, or was not.",
                Scope.READ,
                "incidents",
                gives={200: Gives("How it is, what was decided, and what a person can do.", explain.Why)},
                refuses=(404, 503),
            ),
            Route(
                "GET",
                "/api/v1/history",
                self._history,
                "What was done, newest first.",
                Scope.READ,
                "incidents",
                words=HistoryWords,
                gives={200: Gives("Actions.", stories.History)},
                refuses=(503,),
            ),
            Route(
                "GET",
                "/api/v1/summary",
                self._summary,
                "How soon trouble was noticed and healed.",
                Scope.READ,
                "figures",
                words=DaysWords,
                gives=overview,
                refuses=(503,),
            ),
            Route(
                "GET",
                "/api/v1/score",
                self._score,
                "What was only suggested, held against what then happened.",
                Scope.READ,
                "figures",
                words=ScoreWords,
                gives={200: Gives("The score of each rule.", explain.ScoreBoard)},
                refuses=(404, 503),
            ),
        ]

    async def _incidents(self, asked: Asked) -> Response:
        words: IncidentWords = asked.words
        found = await self.desk.listing.incidents(
            self.desk.face.loop,
            state=words.state,
            subject=words.subject,
            fault=words.fault,
            severity=None if words.severity is None else words.severity.value,
            since=_seconds(words.since),
            until=_seconds(words.until),
            limit=words.limit,
            cursor=words.cursor,
        )
        return _kept(asked, found)

    async def _incident(self, asked: Asked) -> Response:
        return answer(await stories.story(self.desk.face.loop, asked.params["id"], all_moves=asked.words.all_moves))

    async def _signals(self, asked: Asked) -> Response:
        found = await signals(self.desk.face.loop, asked.params["id"])
        if found is None:
            raise unknown("NO_SUCH_INCIDENT", f"there is no incident {asked.params['id'][:100]!a}")
        return answer(found)

    async def _why(self, asked: Asked) -> Response:
        face = self.desk.face
        return answer(await explain.why(face.loop, asked.params["target"], face.conditions()))

    async def _history(self, asked: Asked) -> Response:
        words: HistoryWords = asked.words
        return answer(
            await stories.history(self.desk.face.loop, subject=words.subject, limit=words.limit, before=words.before)
        )

    async def _summary(self, asked: Asked) -> Response:
        return _kept(asked, await self.desk.listing.summary(self.desk.face.loop, asked.words.days))

    async def _score(self, asked: Asked) -> Response:
        return answer(await explain.score(self.desk.face.loop, asked.words.days, asked.words.rule))


def _kept(asked: Asked, found: stories.Encoded) -> Response:
    headers = {"etag": found.etag, "cache-control": "no-cache"}
    if asked.headers.get(b"if-none-match", b"").decode("latin-1") == found.etag:
        return Response(status_code=304, headers=headers)
    return Response(found.body, headers=headers, media_type=JSON)
