"""Telling a human: one message, one channel."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    subject: str
    """Who is in trouble."""
    title: str
    text: str
    severity: str
    incident: str
    at: float


class Messages(Protocol):
    """Each raises StepFailed with the channel's own words when the message was not taken over by it."""

    async def webhook(self, url: str, message: Message, token_file: str | None = None) -> None: ...

    async def mail(self, to: str, sender: str, server: str, message: Message) -> None: ...
