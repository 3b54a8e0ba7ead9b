"""Takes the alerts that Alertmanager, or Grafana, sends, for the monitor that listens to them."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from itertools import islice
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from starlette.responses import Response
from typing_extensions import TypedDict

from x0tta6bl4.adapters.alerts import Overflow
from x0tta6bl4.monitors.alerts import AlertMonitor
from x0tta6bl4.ports.alerts import Alert
from x0tta6bl4.status.access import Scope
from x0tta6bl4.status.desk import Desk
from x0tta6bl4.status.problems import Raw, Refusal
from x0tta6bl4.status.routes import JSON, Asked, Gives, Route, answer, read_said

log = logging.getLogger("x0tta6bl4.status.alerting")

BODY_LIMIT = 1024 * 1024
"""Bytes: a group of some thousand alerts. ``max_alerts`` of the sender's receiver bounds it on that side."""
IN_A_ROW = 50
"""Alerts that are taken before others on the event loop have their turn."""
LABELS = 64
ANNOTATIONS = 16
LONGEST = 500
"""Characters of a label or an annotation that are kept."""
RECEIVED = "x0tta6bl4_alerts_received_total"
AGAIN: Raw = (b"retry-after", b"5")


def _moment(text: object) -> float:
    """Seconds since 1970. Senders write nanoseconds, and the year 1 for what has not come yet."""
    if not isinstance(text, str):
        raise ValueError("should be a time such as 2030-01-01T06:00:00Z")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("should be a time such as 2030-01-01T06:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("needs a time zone, such as the Z at the end of 2030-01-01T06:00:00Z")
    return moment.timestamp()


Moment = Annotated[float, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})]
HEARD = ConfigDict(extra="ignore", frozen=True, strict=True, use_attribute_docstrings=True)
"""Senders may say more than is read here: Grafana does, and the next version of Alertmanager may."""


class AlertSaid(BaseModel):
    model_config = HEARD

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    """``alertname``, ``severity``, and the labels that say whose alert it is."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """``summary``, ``description`` or ``message`` is shown."""
    startsAt: Moment
    endsAt: Moment | None = None
    """When it was resolved; in the year 1 while it fires."""
    generatorURL: str = ""
    fingerprint: str = ""
    """The same for the same labels; made of them where it is missing."""

    def alert(self) -> Alert:
        return Alert(
            fingerprint=self.fingerprint[:64] or _fingerprint(self.labels),
            name=self.labels.get("alertname", "")[:LONGEST],
            firing=self.status == "firing",
            labels=_short(self.labels, LABELS),
            annotations=_short(self.annotations, ANNOTATIONS),
            starts_at=self.startsAt,
            ends_at=self.endsAt if self.endsAt is not None and self.endsAt > 0 else None,
            source=self.generatorURL[:LONGEST],
        )


class Notice(BaseModel):
    """A notice in Alertmanager's format, version 4. Members that are not named here are not read."""

    model_config = HEARD

    alerts: list[AlertSaid]
    truncatedAlerts: int = Field(default=0, ge=0)
    """How many more there are that were left out."""


class Receipt(TypedDict):
    taken: int
    """New here, or resolved: on their way to the monitor."""
    known: int
    """Told before. That one still fires is noted."""
    ignored: int
    """Of nobody under care, or not to be heard by the monitor's settings."""
    truncated: int
    """Left out by the sender, and so not known here."""


class Alerting:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> list[Route]:
        return [
            Route(
                "POST",
                "/api/v1/alerts",
                self._notice,
                "Alerts from Alertmanager (`webhook_configs`) or Grafana, for the daemon to heal by.",
                Scope.OPERATE,
                "alerts",
                takes={JSON: Notice},
                gives={200: Gives("All of them are dealt with. The same notice may be sent again.", Receipt)},
                # What is refused with 4xx, 429 among it, Alertmanager does not send again before its group's interval.
                refuses=(404, 503),
                is_limited=False,
            )
        ]

    async def _notice(self, asked: Asked) -> Response:
        notice: Notice = read_said(Notice, await asked.json(limit=BODY_LIMIT))
        inbox, count = self.desk.behind.alerts, self.desk.face.metrics.count
        if (refusal := self._not_heard()) is not None:
            count(RECEIVED, len(notice.alerts), result="refused")
            raise refusal
        told: Receipt = {"taken": 0, "known": 0, "ignored": 0, "truncated": notice.truncatedAlerts}
        for number, said in enumerate(notice.alerts, 1):
            try:
                received = inbox.offer(said.alert())
            except Overflow:
                count(RECEIVED, len(notice.alerts) - number + 1, result="refused")
                log.warning("alerts could not be taken", extra={**asked.about(), **told})
                raise Refusal(
                    503,
                    "ALERTS_OVERFLOW",
                    f"no room for {len(notice.alerts) - number + 1} of {len(notice.alerts)} alerts at the moment",
                    details=told,
                    suggestions=["send the same again: what was taken is known then"],
                    headers=[AGAIN],
                ) from None
            told[received] += 1
            count(RECEIVED, result=received)
            if number % IN_A_ROW == 0:
                await asyncio.sleep(0)  # healing goes first, and whoever listens makes room
        log.info("alerts told", extra={**asked.about(), **told})
        return answer(told)

    def _not_heard(self) -> Refusal | None:
        """Why nobody can take an alert now. Only what a person has to change is no reason to send it again."""
        if self.desk.behind.alerts.is_heard:
            return None
        if not any(isinstance(i.monitor, AlertMonitor) for i in self.desk.face.loop.parts.instances):
            return Refusal(
                404,
                "ALERTS_NOT_WANTED",
                "no monitor of this daemon listens to alerts",
                suggestions=[
                    "add to the configuration and reload:",
                    "monitors: {alerts: {use: alerts}}",
                    "analyzers: {alerts: {use: alerts}}",
                ],
            )
        return Refusal(
            503,
            "ALERTS_NOT_HEARD",
            "the monitor that listens to alerts does not run at the moment",
            suggestions=["send the same again", "`x0tta6bl4 status` says whether the loop runs and what cannot see"],
            headers=[AGAIN],
        )


def _short(words: Mapping[str, str], most: int) -> dict[str, str]:
    return {name[:LONGEST]: text[:LONGEST] for name, text in islice(words.items(), most)}


def _fingerprint(labels: Mapping[str, str]) -> str:
    return sha256(repr(sorted(labels.items())).encode()).hexdigest()[:16]
