"""Tells a human what happened, by webhook or by mail."""

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from x0tta6bl4.kernel.errors import StepFailed, StepRefused
from x0tta6bl4.ports.messages import Message

_NEAR = ("localhost", "127.0.0.1", "::1")


class OutboundMessages:
    """Bounded by ``timeout`` for each wait on the other side, because a thread that sends cannot be cancelled.

    ``links`` gives the address at which a plan can be answered; without it messages tell of the command line only.
    """

    def __init__(self, *, timeout: float = 10.0, links: Callable[[str, float], str] | None = None) -> None:
        self._timeout = timeout
        self._links = links

    def answer_link(self, plan: str, expires: float) -> str:
        return self._links(plan, expires) if self._links is not None else ""

    async def webhook(self, url: str, message: Message, token_file: str | None = None) -> None:
        await asyncio.to_thread(_post, url, message, token_file, self._timeout)

    async def mail(self, to: str, sender: str, server: str, message: Message) -> None:
        await asyncio.to_thread(_mail, to, sender, server, message, self._timeout)


def _post(url: str, message: Message, token_file: str | None, timeout: float) -> None:
    from http.client import HTTPConnection, HTTPException, HTTPSConnection
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise StepRefused(f"not a webhook: {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise StepRefused(f"not a webhook: {url!r}", remedy="it must begin with https:// or http://")
    headers = {"Content-Type": "application/json", "User-Agent": "x0tta6bl4"}
    if message.key:
        headers["Idempotency-Key"] = message.key
    if message.trace:
        headers["Traceparent"] = f"00-{message.trace}-{secrets.token_hex(8)}-00"
    if token_file is not None:
        if parts.scheme != "https" and host not in _NEAR:
            raise StepRefused(f"the token for {host} is not sent unencrypted", remedy="use https://")
        headers["Authorization"] = f"Bearer {_token(token_file)}"
    connection = (HTTPSConnection if parts.scheme == "https" else HTTPConnection)(host, port, timeout=timeout)
    try:
        connection.request(
            "POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), _body(message), headers
        )
        with connection.getresponse() as reply:
            words = reply.read(300).decode(errors="replace").strip()
    except (OSError, HTTPException, ValueError) as error:
        raise StepFailed(f"{host} did not take the message: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if not 200 <= reply.status < 300:
        wait = reply.headers.get("Retry-After", "")
        raise StepFailed(
            f"{host} answered {reply.status} {reply.reason}: {words or 'without a word'}",
            delay=float(wait) if wait.isascii() and wait.isdecimal() and len(wait) < 6 else None,
        )


def _token(file: str) -> str:
    try:
        token = Path(file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StepRefused(f"the token file {file} cannot be read: {error}") from error
    if not token or any(not "!" <= sign <= "~" for sign in token):
        raise StepRefused(f"the token file {file} holds no token", remedy="it must be one line without spaces")
    return token


def _body(message: Message) -> bytes:
    told: dict[str, Any] = {
        "subject": message.subject,
        "title": message.title,
        "text": message.text,
        "severity": message.severity,
        "incident": message.incident,
        "at": message.at,
    }
    if message.plan:
        told |= {"plan": message.plan, "expires": message.expires, "answer_url": message.answer_url}
    return json.dumps(told).encode()


def _mail(to: str, sender: str, server: str, message: Message, timeout: float) -> None:
    import smtplib
    import ssl
    from email.message import EmailMessage
    from email.utils import formatdate, make_msgid

    host, port = _host_and_port(server)
    mail = EmailMessage()
    try:
        mail["From"], mail["To"] = sender, to
        mail["Subject"] = " ".join(f"[{message.severity}] {message.subject}: {message.title}".split())
        mail["Date"] = formatdate(message.at or time.time())
        mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2] or None)
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(f"{message.text}\n\nIncident: {message.incident}\n")
    except ValueError as error:
        raise StepRefused(f"not a mail from {sender!r} to {to!r}: {error}") from error
    try:
        with smtplib.SMTP(host, port, timeout=timeout) as smtp:
            smtp.ehlo_or_helo_if_needed()
            # A relay on this very host often has a certificate that nobody signed, and nobody in between.
            if smtp.has_extn("starttls") and host not in _NEAR:
                smtp.starttls(context=ssl.create_default_context())
            refused = smtp.send_message(mail)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise StepFailed(f"{server} did not take the mail: {error or type(error).__name__}") from error
    if refused:
        raise StepFailed(f"{server} did not take the mail for {', '.join(refused)}")


def _host_and_port(server: str) -> tuple[str, int]:
    host, colon, port = server.rpartition(":")
    if not colon or "]" in port or (":" in host and not host.startswith("[")):
        host, port = server, "25"
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536) or not host:
        raise StepRefused(f"not a mail server: {server!r}", remedy="write HOST or HOST:PORT")
    return host.strip("[]"), int(port)
