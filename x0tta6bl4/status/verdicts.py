"""Takes down what people say of a finding, right or a false alarm, and has the analyzers learn from it at once."""

import logging

from pydantic import StrictBool
from starlette.responses import Response
from typing_extensions import TypedDict

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.kernel.facts import Incident
from x0tta6bl4.kernel.lessons import Lesson
from x0tta6bl4.status.access import Scope
from x0tta6bl4.status.desk import Desk
from x0tta6bl4.status.judgements import FindingVerdict, told_verdict, verdicts_on
from x0tta6bl4.status.problems import store_failing, unknown
from x0tta6bl4.status.routes import Asked, Gives, Route, Said, Why, answer

log = logging.getLogger("x0tta6bl4.status.verdicts")


class VerdictSaid(Said):
    right: StrictBool
    """True: it was worth telling. False: it was a false alarm."""
    why: Why = ""


class Verdicts(TypedDict):
    verdicts: list[FindingVerdict]


class Judging:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> list[Route]:
        return [
            Route(
                "POST",
                "/api/v1/incidents/{id}/verdicts",
                self._judge,
                "Says whether what was found was right. Analyzers that learn take it to heart at once.",
                Scope.OPERATE,
                "incidents",
                said=VerdictSaid,
                gives={201: Gives("Taken down, with what came of it.", FindingVerdict)},
                refuses=(404, 503),
            ),
            Route(
                "GET",
                "/api/v1/incidents/{id}/verdicts",
                self._verdicts,
                "What people said of the incident's finding.",
                Scope.READ,
                "incidents",
                gives={200: Gives("Oldest first.", Verdicts)},
                refuses=(404, 503),
            ),
        ]

    async def _judge(self, asked: Asked) -> Response:
        said: VerdictSaid = asked.said
        learnt = self.desk.face.loop.parts.knowledge.learnt
        try:
            incident = await self._incident(asked.params["id"])
            lesson = await learnt.teach(verdict(incident, said.right, asked.who, said.why))
        except StoreError as error:
            raise store_failing(error, "the verdict was not taken down") from error
        log.info("verdict", extra={"incident": incident.id, "right": said.right, **asked.about()})
        try:
            await self.desk.face.loop.refresh()
            taken = [one for one in await learnt.lessons(untaken=False, incident=incident.id) if one.id == lesson.id]
        except StoreError:
            taken = []  # it is on disk: the loop finds it as soon as the store can be read again
        self.desk.face.loop.wake({incident.subject})
        return answer(told_verdict(taken[0] if taken else lesson), 201)

    async def _verdicts(self, asked: Asked) -> Response:
        knowledge = self.desk.face.loop.parts.knowledge
        try:
            incident = await self._incident(asked.params["id"])
            found = await verdicts_on(knowledge, incident.id)
        except StoreError as error:
            raise store_failing(error, "the verdicts cannot be read") from error
        return answer({"verdicts": [told_verdict(lesson) for lesson in found]})

    async def _incident(self, id: str) -> Incident:
        loop = self.desk.face.loop
        # An incident of the loop's own is newer than the one on disk.
        incident = next((i for i in loop.incidents.open if i.id == id), None) or await loop.parts.knowledge.incident(id)
        if incident is None:
            raise unknown("NO_SUCH_INCIDENT", f"there is no incident {id[:100]!a}")
        return incident


def verdict(incident: Incident, right: bool, who: str, why: str) -> Lesson:
    """The lesson that a person's word on an incident's finding is."""
    return Lesson("verdict", incident=incident.id, right=right, data=incident.data, who=who, why=why)
