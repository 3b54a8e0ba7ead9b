"""Telling a human, with a real web server and a real mail server at the other end."""

import asyncio
import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from x0tta6bl4.adapters.messages import OutboundMessages
from x0tta6bl4.kernel.errors import StepFailed, StepRefused
from x0tta6bl4.ports.messages import Message, Messages

MESSAGE = Message("checkout", "is dead", "It was restarted three times.\n.\nNo luck.", "critical", "i-7", 1795183801.0)


class Hook(HTTPServer):
    """Remembers what it was sent and answers what it was told to."""

    status = 200
    words = b"thanks"
    retry_after = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.heard: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?room=1"


class Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(self.server.status)
        if self.server.retry_after:
            self.send_header("Retry-After", self.server.retry_after)
        self.end_headers()
        self.wfile.write(self.server.words)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def post(url: str, token_file: str | None = None) -> None:
    messages: Messages = OutboundMessages(timeout=30)
    asyncio.run(messages.webhook(url, MESSAGE, token_file))


def test_a_webhook_gets_the_whole_message(hook: Hook) -> None:
    post(hook.url)
    path, headers, body = hook.heard[0]

    assert path == "/hook?room=1"
    assert headers["content-type"] == "application/json"
    assert "authorization" not in headers
    assert json.loads(body) == {
        "subject": "checkout",
        "title": "is dead",
        "text": MESSAGE.text,
        "severity": "critical",
        "incident": "i-7",
        "at": 1795183801.0,
    }


def test_a_webhook_can_tell_a_message_that_came_twice_and_to_which_trace_it_belongs(hook: Hook) -> None:
    message = replace(MESSAGE, key="i-7/3/tell", trace="ab" * 16)
    for _ in range(2):
        asyncio.run(OutboundMessages(timeout=30).webhook(hook.url, message))

    keys, traces = zip(*((h["idempotency-key"], h["traceparent"]) for _, h, _ in hook.heard), strict=True)
    assert {"i-7/3/tell"} == set(keys)
    assert all(re.fullmatch(r"00-(ab){16}-[0-9a-f]{16}-00", trace) for trace in traces)
    assert traces[0] != traces[1]
    post(hook.url)
    assert {"idempotency-key", "traceparent"}.isdisjoint(hook.heard[-1][1])


def test_a_webhook_gets_its_token_from_the_file(hook: Hook, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    post(hook.url, str(tmp_path / "token"))

    assert hook.heard[0][1]["authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("text", ["", "two words", "a\nX-Smuggled: yes", None])
def test_without_a_usable_token_nothing_is_sent(hook: Hook, tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "token").write_text(text)
    with pytest.raises(StepRefused, match="token"):
        post(hook.url, str(tmp_path / "token"))

    assert hook.heard == []


def test_a_token_is_not_sent_unencrypted_to_another_host(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    with pytest.raises(StepRefused, match=r"the token for hooks.invalid is not sent unencrypted; use https"):
        post("http://hooks.invalid/", str(tmp_path / "token"))


@pytest.mark.parametrize("status", [302, 404, 500])
def test_an_answer_that_is_no_yes_is_a_failure_in_the_channels_words(hook: Hook, status: int) -> None:
    hook.status, hook.words = status, b"no such room " + b"x" * 10_000
    with pytest.raises(StepFailed, match=rf"127\.0\.0\.1 answered {status} .*: no such room x+") as caught:
        post(hook.url)

    assert len(str(caught.value)) < 500
    assert caught.value.delay is None


def test_a_webhook_may_say_when_to_come_back(hook: Hook) -> None:
    hook.status, hook.retry_after = 429, "17"
    with pytest.raises(StepFailed) as caught:
        post(hook.url)

    assert caught.value.delay == 17


def test_a_webhook_that_is_not_there_is_a_failure() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]

    with pytest.raises(StepFailed, match=r"127\.0\.0\.1 did not take the message: .*refused"):
        post(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("url", ["hook", "ftp://127.0.0.1/", "https://", "http://127.0.0.1:x/"])
def test_what_is_no_webhook_is_refused(url: str) -> None:
    with pytest.raises(StepRefused, match="not a webhook"):
        post(url)


class Sink:
    """A mail server that keeps what it is given."""

    def __init__(self, refuse: str = "") -> None:
        self.refuse = refuse
        self.commands: list[str] = []
        self.mail = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(b"220 sink\r\n")
            while line := (await reader.readline()).decode().strip():
                self.commands.append(line)
                verb = line.split()[0].upper()
                if verb == self.refuse:
                    writer.write(b"550 not for the likes of you\r\n")
                elif verb == "DATA":
                    writer.write(b"354 go on\r\n")
                    self.mail = await reader.readuntil(b"\r\n.\r\n")
                    writer.write(b"250 kept\r\n")
                elif verb == "QUIT":
                    writer.write(b"221 bye\r\n")
                    break
                else:
                    writer.write(b"250 fine\r\n")
            writer.close()


def mail(sink: Sink, to: str = "ops@example.org", sender: str = "x0@example.org", message: Message = MESSAGE) -> None:
    async def send() -> None:
        server = await asyncio.start_server(sink.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            await OutboundMessages(timeout=30).mail(to, sender, f"127.0.0.1:{port}", message)
        finally:
            server.close()

    asyncio.run(send())


def test_a_mail_arrives_whole() -> None:
    sink = Sink()
    mail(sink)
    body = sink.mail.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n.")
    got = message_from_bytes(body, policy=policy.default)

    assert isinstance(got, EmailMessage)
    assert {"mail FROM:<x0@example.org>", "rcpt TO:<ops@example.org>"} <= {
        cmd.split(" size=")[0] for cmd in sink.commands
    }
    assert got["Subject"] == "[critical] checkout: is dead"
    assert got["Auto-Submitted"] == "auto-generated"
    assert got.get_content().replace("\r\n", "\n") == f"{MESSAGE.text}\n\nIncident: i-7\n"


def test_a_title_of_several_lines_becomes_one() -> None:
    sink = Sink()
    mail(sink, message=Message("a", "b\r\nBcc: everyone@example.org", "c", "info", "i", 1.0))

    assert b"Subject: [info] a: b Bcc: everyone@example.org\r\n" in sink.mail
    assert not any("everyone" in command for command in sink.commands)


@pytest.mark.parametrize("verb", ["EHLO", "MAIL", "RCPT", "DATA"])
def test_a_mail_that_is_not_taken_is_a_failure_in_the_servers_words(verb: str) -> None:
    sink = Sink(refuse=verb)
    if verb == "EHLO":
        # A server of the old kind: it is greeted the old way, and takes the mail.
        mail(sink)
        assert b"Subject" in sink.mail
        return
    with pytest.raises(StepFailed, match="not for the likes of you"):
        mail(sink)


@pytest.mark.parametrize(("to", "sender"), [("a@b\nBcc: c@d", "x@y"), ("a@b", "x@y\r\nX: z")])
def test_addresses_of_several_lines_are_refused(to: str, sender: str) -> None:
    sink = Sink()
    with pytest.raises(StepRefused, match="not a mail"):
        mail(sink, to=to, sender=sender)

    assert sink.commands == []


@pytest.mark.parametrize("server", ["", "host:port", "host:0", ":25"])
def test_what_is_no_mail_server_is_refused(server: str) -> None:
    with pytest.raises(StepRefused, match="not a mail server"):
        asyncio.run(OutboundMessages().mail("a@b", "x@y", server, MESSAGE))
