"""What every Messages promises, asked of the fake and of the real one, with servers of our own at the other end."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

import pytest

from x0tta6bl4.adapters.messages import OutboundMessages
from x0tta6bl4.kernel.errors import StepFailed
from x0tta6bl4.ports.messages import Message, Messages
from x0tta6bl4.testing.fakes import FakeMessages

MESSAGE = Message("checkout", "is dead", "It was restarted three times.\nNo luck.", "critical", "i-7", 1795183801.0)
SENDER = "daemon@example.org"


class Bench(Protocol):
    """Makes the world do for either implementation what a test needs."""

    subject: Messages
    url: str
    server: str

    async def begin(self) -> None: ...

    async def end(self) -> None: ...

    def refuse(self, words: str) -> None:
        """Both channels take nothing any more, and say so; with no words they take messages again."""
        ...

    @property
    def posted(self) -> list[Message]: ...

    @property
    def mailed(self) -> list[str]:
        """To whom."""
        ...


class FakeBench:
    url = "https://chat.example.org/hook"
    server = "mail.example.org:25"

    def __init__(self) -> None:
        self.fake = FakeMessages()
        self.subject: Messages = self.fake

    async def begin(self) -> None:
        pass

    async def end(self) -> None:
        pass

    def refuse(self, words: str) -> None:
        self.fake.broken = StepFailed(f"the channel answered: {words}") if words else None

    @property
    def posted(self) -> list[Message]:
        return [message for where, message in self.fake.sent if where == self.url]

    @property
    def mailed(self) -> list[str]:
        return [where for where, _ in self.fake.sent if where != self.url]


class RealBench:
    def __init__(self) -> None:
        self.subject: Messages = OutboundMessages(timeout=60)
        self.words = ""
        self.posted: list[Message] = []
        self.mailed: list[str] = []

    async def begin(self) -> None:
        self.hook = await asyncio.start_server(self._hook, "127.0.0.1", 0)
        self.post_office = await asyncio.start_server(self._post_office, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.hook.sockets[0].getsockname()[1]}/hook"
        self.server = f"127.0.0.1:{self.post_office.sockets[0].getsockname()[1]}"

    async def end(self) -> None:
        self.hook.close()
        self.post_office.close()

    def refuse(self, words: str) -> None:
        self.words = words

    async def _hook(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = next(line.split(":")[1] for line in head.splitlines() if line.startswith("content-length:"))
        body = await reader.readexactly(int(size))
        if not self.words:
            self.posted.append(Message(**json.loads(body)))
        status = "503 Service Unavailable" if self.words else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{self.words}".encode())
        writer.close()

    async def _post_office(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        to = ""
        while line := (await reader.readline()).decode().strip():
            verb = line[:4].upper()
            if verb == "RCPT" and self.words:
                writer.write(f"550 {self.words}\r\n".encode())
            elif verb == "DATA":
                writer.write(b"354 go on\r\n")
                await reader.readuntil(b"\r\n.\r\n")
                self.mailed.append(to)
                writer.write(b"250 kept\r\n")
            elif verb == "QUIT":
                writer.write(b"221 bye\r\n")
                break
            else:
                to = line.partition("<")[2].partition(">")[0] if verb == "RCPT" else to
                writer.write(b"250 fine\r\n")
        writer.close()


Scenario = Callable[[Bench], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=[RealBench, FakeBench], ids=["outbound", "fake"])
def play(request: pytest.FixtureRequest) -> Play:
    async def whole(scenario: Scenario) -> None:
        bench = request.param()
        await bench.begin()
        try:
            await scenario(bench)
        finally:
            await bench.end()

    return lambda scenario: asyncio.run(whole(scenario))


def test_each_message_arrives_whole_once_and_in_order(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        messages = [replace(MESSAGE, title=title) for title in ("is slow", "is dead", "lives ☀")]
        for message in messages:
            await bench.subject.webhook(bench.url, message)

        assert bench.posted == messages
        assert bench.mailed == []

    play(scenario)


def test_a_mail_reaches_whom_it_is_for_and_nobody_else(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        for to in ("ops@example.org", "night@example.org"):
            await bench.subject.mail(to, SENDER, bench.server, MESSAGE)

        assert bench.mailed == ["ops@example.org", "night@example.org"]
        assert bench.posted == []

    play(scenario)


def test_what_the_channel_did_not_take_is_a_failure_in_its_own_words(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.refuse("no such room")
        with pytest.raises(StepFailed, match="no such room"):
            await bench.subject.webhook(bench.url, MESSAGE)
        with pytest.raises(StepFailed, match="no such room"):
            await bench.subject.mail("ops@example.org", SENDER, bench.server, MESSAGE)
        assert (bench.posted, bench.mailed) == ([], [])

        bench.refuse("")
        await bench.subject.webhook(bench.url, MESSAGE)
        await bench.subject.mail("ops@example.org", SENDER, bench.server, MESSAGE)
        assert (bench.posted, bench.mailed) == ([MESSAGE], ["ops@example.org"])

    play(scenario)


def test_what_is_no_channel_takes_nothing(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        for url in ("", "chat", "ftp://chat.example.org/hook"):
            with pytest.raises(StepFailed, match="not a webhook"):
                await bench.subject.webhook(url, MESSAGE)
        for to, sender in (("ops@example.org\nBcc: all@example.org", SENDER), ("ops@example.org", f"{SENDER}\r\nX: y")):
            with pytest.raises(StepFailed, match="not a mail"):
                await bench.subject.mail(to, sender, bench.server, MESSAGE)

        assert (bench.posted, bench.mailed) == ([], [])

    play(scenario)
