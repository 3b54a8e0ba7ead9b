"""Takes down what people say of a finding, right or a false alarm, and has the analyzers learn from it at once."""

import logging

from pydantic import StrictBool
from starlette.responses import Response
from typing_extensions import TypedDict

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.kernel.lessons import verdict_on
from x0tta6bl4.status.access import Scope
from x0tta6bl4.status.desk import Desk
from x0tta6bl4.status.judgements import FindingVerdict, told_verdict, verdicts_on
from x0tta6bl4.status.problems import store_failing
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
            incident = await self.desk.incident(asked.params["id"])
            lesson = await learnt.teach(verdict_on(incident, said.right, asked.who, said.why))
        except StoreError as error:
            raise store_failing(error, "the verdict was not taken down") from error
        log.info("verdict", extra={"incident": incident.id, "right": said.right, **asked.about()})
        await self.desk.heed()
        try:
            taken = [one for one in await learnt.lessons(untaken=False, incident=incident.id) if one.id == lesson.id]
        except StoreError:
            taken = []  # it is on disk all the same
        self.desk.face.loop.wake({incident.subject})
        return answer(told_verdict(taken[0] if taken else lesson), 201)

    async def _verdicts(self, asked: Asked) -> Response:
        knowledge = self.desk.face.loop.parts.knowledge
        try:
            incident = await self.desk.incident(asked.params["id"])
            found = await verdicts_on(knowledge, incident.id)
        except StoreError as error:
            raise store_failing(error, "the verdicts cannot be read") from error
        return answer({"verdicts": [told_verdict(lesson) for lesson in found]})
