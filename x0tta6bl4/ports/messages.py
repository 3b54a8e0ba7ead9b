"""Telling a human: one message, one channel."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Message:
    subject: str
    """Who is in trouble."""
    title: str
    text: str
    severity: str
    incident: str
    at: float
    plan: str = ""
    """The plan that waits for an answer; empty when nothing is asked."""
    expires: float | None = None
    """Wall-clock seconds until which it can be answered."""
    answer_url: str = ""
    """Where it can be answered. Whoever has it may answer, so it is for the receiver alone: no log, no journal."""
    key: str = ""
    """The same for each try to send it, so that a receiver can tell one that came twice."""
    trace: str = ""
    """The trace id that all about the incident shares: 32 hexadecimal digits."""


class Messages(Protocol):
    """Each raises StepFailed with the channel's own words when the message was not taken over by it."""

    async def webhook(self, url: str, message: Message, token_file: str | None = None) -> None: ...

    async def mail(self, to: str, sender: str, server: str, message: Message) -> None: ...


@runtime_checkable
class AnswerLinks(Protocol):
    """Messages that can carry a way to answer what they ask."""

    def answer_link(self, plan: str, expires: float) -> str:
        """An address that answers for this plan, this time, once; empty when nobody could reach one. Holds a secret."""
        ...
