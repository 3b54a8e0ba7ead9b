"""Takes people's answers to what waits for approval: over the API, and by the link in a message."""

import logging
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl

from pydantic import Field
from starlette.responses import Response

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.kernel.memory import Approval, plain
from x0tta6bl4.status import answers
from x0tta6bl4.status.access import Scope
from x0tta6bl4.status.desk import Desk
from x0tta6bl4.status.page import note, question
from x0tta6bl4.status.problems import CSP_FORM, Refusal, store_failing, unknown
from x0tta6bl4.status.routes import HTML, Asked, Gives, Route, Said, Who, Why, Words, answer, read_said, refused_for

log = logging.getLogger("x0tta6bl4.status.approvals")

APPROVALS = "/api/v1/approvals"
EXAMPLE = '{"answer": "approve", "why": "looked at it"}'


class ApprovalWords(Words):
    state: Literal["wanted", "approved", "rejected", "expired"] | None = None
    """Only those; without it all."""


class AnswerSaid(Said):
    answer: Literal["approve", "reject"]
    who: Who = ""
    """Who answers, where the key does not say it."""
    why: Why = ""


class LinkSaid(AnswerSaid):
    token: str = Field(default="", max_length=200)
    """The one in the link."""


class Approvals:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> list[Route]:
        one = {200: Gives("The question, and how it stands.", answers.Question)}
        routes = [
            Route(
                "GET",
                APPROVALS,
                self._list,
                "What was asked, newest first.",
                Scope.READ,
                "approvals",
                words=ApprovalWords,
                gives={200: Gives("Questions.", answers.Questions)},
                refuses=(503,),
            ),
            Route(
                "GET",
                APPROVALS + "/{plan}",
                self._one,
                "One question with all that speaks for and against it.",
                Scope.READ,
                "approvals",
                gives={200: Gives("The question.", answers.QuestionTold)},
                refuses=(404, 503),
            ),
            Route(
                "POST",
                APPROVALS + "/{plan}",
                self._answer,
                "Approves or rejects exactly the steps that were shown.",
                Scope.OPERATE,
                "approvals",
                said=AnswerSaid,
                gives=one,
                refuses=(404, 409, 503),
            ),
        ]
        if self.desk.behind.links is not None:
            no_link, no_store = Gives("The link does not hold.", media=HTML), Gives("The store fails.", media=HTML)
            not_taken = {status: Gives("Why it was not taken.", media=HTML) for status in (400, 409, 413, 415, 422)}
            routes += [
                Route(
                    "GET",
                    APPROVALS + "/{plan}/answer",
                    self._link,
                    "Shows the question that a link in a message was made for; changes nothing.",
                    group="approvals",
                    gives={200: Gives("A page for people.", media=HTML), 403: no_link, 503: no_store},
                    refuses=(403, 404, 503),
                ),
                Route(
                    "POST",
                    APPROVALS + "/{plan}/answer",
                    self._answer_link,
                    "Answers it, once, with the token of the link.",
                    group="approvals",
                    gives={
                        200: Gives("The question, and how it stands.", answers.Question, also=[HTML]),
                        403: no_link,
                        503: no_store,
                        **not_taken,
                    },
                    takes={"application/json": LinkSaid, "application/x-www-form-urlencoded": LinkSaid},
                    refuses=(403, 404, 409, 503),
                ),
            ]
        return routes

    async def _list(self, asked: Asked) -> Response:
        try:
            told = await answers.listed(self.desk.face.loop, asked.words.state or "")
        except StoreError as error:
            raise store_failing(error, "the approvals cannot be read") from error
        return answer({"approvals": told})

    async def _one(self, asked: Asked) -> Response:
        try:
            told = await answers.detail(self.desk.face.loop, await self._approval_of(asked.params["plan"]))
        except StoreError as error:
            raise store_failing(error, "the approval cannot be read") from error
        return answer(told)

    async def _approval_of(self, plan: str) -> Approval:
        loop = self.desk.face.loop
        approval = await answers.approval_of(loop.parts.knowledge, plan)
        if approval is None:
            raise unknown(
                "NO_SUCH_PLAN",
                f"nobody was asked about a plan {plan[:100]!a}",
                [f"GET {APPROVALS}?state=wanted tells which plans wait"],
            )
        return answers.as_it_stands(approval, loop.parts.clock.wall())

    async def _answer(self, asked: Asked) -> Response:
        return answer(await self.answer(asked, asked.params["plan"], asked.said))

    async def answer(self, asked: Asked, plan: str, said: AnswerSaid) -> answers.Question:
        # The token of the state directory is nobody's own: whoever holds it may say who he is.
        name = said.who if asked.caller.kind == "token" and said.who else asked.caller.name
        return await self._hand_on(asked, plan, said, f"{name} ({asked.caller.way})")

    async def question_of(self, plan: str) -> tuple[Approval, answers.Question, str]:
        """As it stands: the approval, what is told of it, and why no answer counts any more, if so."""
        loop = self.desk.face.loop
        try:
            approval = await self._approval_of(plan)
            told = answers.summary(approval, await loop.parts.knowledge.plan(plan))
            return approval, told, await answers.whether_moot(loop, approval)
        except StoreError as error:
            raise store_failing(error, "the approval cannot be read") from error

    async def _hand_on(
        self, asked: Asked, plan: str, said: AnswerSaid, who: str, token: str | None = None
    ) -> answers.Question:
        """The approval as it stands when the answer was taken; else the Refusal says how it stands."""
        loop = self.desk.face.loop
        try:
            async with self.desk.answering:
                approval = await self._approval_of(plan) if token is None else await self._by_link(plan, token)
                planned = await loop.parts.knowledge.plan(plan)
                must_be_open(approval, answers.summary(approval, planned), await answers.whether_moot(loop, approval))
                answered = await answers.hand_on(loop, plan, said.answer == "approve", who, said.why)
                wanted = "approved" if said.answer == "approve" else "rejected"
                if answered is None or (answered.state, answered.who) != (wanted, who):
                    # Between the look and the answer somebody at the command line was quicker, or the time was up.
                    stands = answers.as_it_stands(answered or approval, loop.parts.clock.wall())
                    must_be_open(stands, answers.summary(stands, planned), "it is gone")
        except StoreError as error:
            raise store_failing(error, "the answer was not taken") from error
        assert answered is not None, "what is gone was refused above"
        log.info("approval answered", extra={"plan": plan, "answer": answered.state, **asked.about(), "who": who})
        return answers.summary(answered, planned)

    # -- by link -----------------------------------------------------------------------------------------------------

    async def _by_link(self, plan: str, token: str) -> Approval:
        """The approval that the link was made for. A wrong token learns nothing, not even whether there is a plan."""
        links, loop = self.desk.behind.links, self.desk.face.loop
        assert links is not None, "the route is there only with links"
        approval = await answers.approval_of(loop.parts.knowledge, plan)
        # A plan that is not there costs the same comparison.
        expires = approval.expires if approval is not None else 0.0
        if links.holds(token, plan, expires) and approval is not None:
            return answers.as_it_stands(approval, loop.parts.clock.wall())
        raise Refusal(
            403,
            "BAD_LINK",
            "this link answers nothing, or not any more",
            suggestions=["a newer message may have a newer link", f"`x0tta6bl4 approve {plan[:100]}` answers too"],
        )

    async def _link(self, asked: Asked) -> Response:
        """Shows the question and changes nothing: what opens every link in a message must not answer it."""
        token = asked.query.get("token", "")
        try:
            approval = await self._by_link(asked.params["plan"], token)
            told = await answers.detail(self.desk.face.loop, approval)
        except StoreError as error:
            return told_to(asked, store_failing(error, "the question cannot be read"))
        except Refusal as refusal:
            return told_to(asked, refusal)
        is_open = approval.state == "wanted" and not told["moot"]
        text = "".join(question(told, token if is_open else ""))
        return Response(
            text.encode("utf-8", "replace"),
            headers={"content-security-policy": CSP_FORM} if is_open else None,
            media_type=HTML,
        )

    async def _answer_link(self, asked: Asked) -> Response:
        try:
            if not self.desk.door.is_ours(asked, is_null_nobody=False):
                # The token is what keeps strangers out; this keeps out a page of theirs that has come by one.
                raise Refusal(403, "CROSS_SITE", "a page of another site cannot answer")
            given = await _form_or_json(asked)
            token = given.pop("token", None) or asked.query.get("token", "")
            if not isinstance(token, str):
                raise _bad("token", "must be text")
            said: AnswerSaid = read_said(AnswerSaid, given, "BAD_BODY", EXAMPLE)
            told = await self._hand_on(asked, asked.params["plan"], said, f"{said.who or 'unnamed'} (link)", token)
        except Refusal as refusal:
            return told_to(asked, refusal)
        if not asked.reads_pages:
            return answer(plain(told))
        then = (
            "The other checks of the guard still count, and the fault is looked at once more before anything is done."
            if said.answer == "approve"
            else "It is left to people now."
        )
        text = "".join(note(f"{told['state'].capitalize()}: {', '.join(told['steps'])}", [then]))
        return Response(text.encode("utf-8", "replace"), media_type=HTML)


async def _form_or_json(asked: Asked) -> dict[str, Any]:
    if asked.content_type != b"application/x-www-form-urlencoded":
        body = await asked.json()
        if not isinstance(body, dict):
            raise _bad("", "must be an object")
        return dict(body)
    try:
        pairs = parse_qsl(
            (await asked.body()).decode("ascii"), keep_blank_values=True, max_num_fields=8, errors="strict"
        )
    except ValueError as error:
        raise Refusal(400, "BAD_FORM", "the body is no form") from error
    if len({name for name, _ in pairs}) != len(pairs):
        raise _bad("the form", "says something twice")
    return dict(pairs)


def _bad(where: str, message: str) -> Refusal:
    return refused_for("BAD_BODY", "the body", [{"where": where, "message": message, "hint": ""}], EXAMPLE)


def must_be_open(approval: Approval, told: Mapping[str, Any], moot: str) -> None:
    if approval.state == "wanted" and not moot:
        return
    code, message = {
        "wanted": ("APPROVAL_MOOT", moot),
        "expired": ("APPROVAL_EXPIRED", f"it expired {told['expires']}; if the fault is still there, it is asked anew"),
    }.get(approval.state, ("APPROVAL_ANSWERED", f"it was {approval.state} before, by {approval.who}; that stands"))
    raise Refusal(409, code, message, details={"approval": plain(told)})


def told_to(asked: Asked, refusal: Refusal) -> Response:
    """A refusal in the words of who asked: a person with a browser cannot read the other kind."""
    if not asked.reads_pages:
        raise refusal
    text = "".join(note(refusal.message, refusal.suggestions))
    response = Response(text.encode("utf-8", "replace"), refusal.status, media_type=HTML)
    response.raw_headers += refusal.headers
    return response
