"""Tells a human what the daemon could not heal, over each of the channels that the operator has set up."""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from urllib.parse import quote, urlsplit

from pydantic import Field, field_validator

from x0tta6bl4.executors._arguments import action_of, arguments_of
from x0tta6bl4.kernel.errors import StepFailed
from x0tta6bl4.kernel.facts import Severity, Step, trace_id_of
from x0tta6bl4.kernel.plugin import Action, Effect, PluginConfig, executor
from x0tta6bl4.kernel.units import Seconds
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.commands import Commands
from x0tta6bl4.ports.messages import AnswerLinks, Message, Messages

log = logging.getLogger("x0tta6bl4.executors.notify")

SHARE = 0.9
"""The part of the step's time that one channel may use: the rest is for saying which one did not answer."""
REMEMBERED = 1000
"""Incidents of which it is known when a human was last told; the one told longest ago is forgotten for one more."""


class Webhook(PluginConfig):
    url: str
    """Where the message is posted to, as JSON. It may hold a secret, so only its host is ever shown."""
    token_file: str | None = None
    """A file with the token that the receiver asks for. Read anew each time, so a renewed one counts."""

    @field_validator("url")
    @classmethod
    def _is_web(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("should begin with http:// or https:// and a host")
        return url


class Mail(PluginConfig):
    to: str
    """Who gets it."""
    sender: str = "x0tta6bl4@localhost"
    """Whom it comes from; many servers take mail from known senders only."""
    server: str = "localhost"
    """The mail server, as host or host:port."""

    @field_validator("to", "sender")
    @classmethod
    def _is_address(cls, address: str) -> str:
        if not address.isprintable() or " " in address or not address.strip("@") or address.count("@") != 1:
            raise ValueError("should be one mail address")
        return address


class NotifyCommand(PluginConfig):
    argv: list[str] = Field(min_length=1)
    """The program, by its absolute path, and its arguments. The message comes as JSON on its standard input."""

    @field_validator("argv")
    @classmethod
    def _is_absolute(cls, argv: list[str]) -> list[str]:
        if not argv[0].startswith("/") or any("\0" in word for word in argv):
            raise ValueError("should begin with the absolute path of a program")
        return argv


class Config(PluginConfig):
    webhook: Webhook | None = None
    """Posts the message to a web address."""
    mail: Mail | None = None
    """Sends it by mail."""
    command: NotifyCommand | None = None
    """Hands it to a program of yours."""
    remind_every: Seconds = Field(default=900.0, ge=0)
    """Seconds before a human is told of the same incident again. Raised, a night's incident is told once; lowered, it
    nags. A restart of the daemon forgets when it last told, so that one message more may come."""


class HumanArgs(PluginConfig):
    title: str = Field(min_length=1, max_length=500)
    """What it is, in a few words."""
    text: str = Field(default="", max_length=20000)
    """What is known of it."""
    incident: str = ""
    """The incident it is about; messages of one incident are sent at most every ``remind_every``."""
    severity: Severity = Severity.WARNING
    """How bad it is: info, warning, major or critical."""
    reasons: list[str] = Field(default_factory=list)
    """What the judgement rests on."""
    plan: str = Field(default="", max_length=200)
    """The plan that waits for an answer; empty: nothing is asked. Each question is sent, whatever was told before."""
    expires: float | None = None
    """Wall-clock seconds until which it can be answered."""
    steps: list[str] = Field(default_factory=list)
    """What would be done, an action a line."""


@dataclass(frozen=True)
class Channel:
    label: str
    send: Callable[[Message, Sequence[str], float], Awaitable[None]]


@dataclass
class Notify:
    name: str
    config: Config
    messages: Messages
    commands: Commands
    clock: Clock
    actions: Sequence[Action] = (
        Action(
            "human",
            "tells a human by every channel that is set up",
            HumanArgs,
            disruptive=False,
            on_unknown="retry",
            blast="none",
            timeout=20.0,
        ),
    )
    _told: dict[str, float] = field(default_factory=dict)
    """Monotonic seconds at which a human was last told, by incident; the latest one last."""

    async def preview(self, step: Step) -> str:
        args = self._read(step)
        since = self._since(step, args)
        if since is not None:
            return f"would be recorded, not sent again: last sent {_ago(since)} ago"
        channels = self._channels()
        if not channels:
            return f"would only write to the log, because no channel is configured: {args.title}"
        return f"would tell a human by {' and by '.join(c.label for c in channels)}: {args.title}"

    async def act(self, step: Step) -> Effect:
        args = self._read(step)
        channels = self._channels()
        since = self._since(step, args)
        if since is not None:
            how = "sent again: last sent" if channels else "written to the log again: last written"
            return Effect(f"recorded, not {how} {_ago(since)} ago")
        if not channels:
            self._log(step, args)
            self._remember(step, args)
            return Effect("no channel is configured, so nobody was sent anything: it is in the log only")
        link = self._link(args)
        message = Message(
            step.target,
            args.title,
            _text(args, link, self.clock.wall()),
            args.severity.value,
            args.incident,
            self.clock.wall(),
            args.plan,
            args.expires,
            link,
            quote(step.key, safe="/:._-"),
            trace_id_of(args.incident) if args.incident else "",
        )
        limit = step.timeout * SHARE
        tried = await asyncio.gather(*(_tried(c, message, args.reasons, limit) for c in channels))
        # What a channel says of its failure goes into the journal, and some repeat what they were sent.
        failures = [_without_secret(failure, link) for failure in tried]
        failed = [failure for failure in failures if failure]
        if len(failed) == len(channels):
            self._log(step, args)  # the last place where somebody may come upon it
            raise StepFailed(f"no human could be told; {'; '.join(failed)}")
        self._remember(step, args)
        reached = " and by ".join(c.label for c, failure in zip(channels, failures, strict=True) if not failure)
        return Effect("; ".join([f"told a human by {reached}", *(f"but not by {failure}" for failure in failed)]))

    def _link(self, args: HumanArgs) -> str:
        """Made only now, and kept nowhere: the step's arguments lie in the journal."""
        if not args.plan or args.expires is None or not isinstance(self.messages, AnswerLinks):
            return ""
        return self.messages.answer_link(args.plan, args.expires)

    def _read(self, step: Step) -> HumanArgs:
        action_of(step, self.actions)
        return arguments_of(step, HumanArgs)

    def _log(self, step: Step, args: HumanArgs) -> None:
        log.warning(
            "a human is needed: %s",
            args.title,
            extra={
                "subject": step.target,
                "incident": args.incident,
                "severity": args.severity.value,
                "text": args.text,
                "reasons": list(args.reasons),
                **({"plan": args.plan, "expires": args.expires, "steps": list(args.steps)} if args.plan else {}),
            },
        )

    def _since(self, step: Step, args: HumanArgs) -> float | None:
        """Seconds since a human was told of it, when that was not long ago."""
        at = self._told.get(_about(step, args))
        since = None if at is None else self.clock.monotonic() - at
        return since if since is not None and since < self.config.remind_every else None

    def _remember(self, step: Step, args: HumanArgs) -> None:
        about = _about(step, args)
        self._told.pop(about, None)
        self._told[about] = self.clock.monotonic()
        if len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]

    def _channels(self) -> list[Channel]:
        channels: list[Channel] = []
        webhook, mail, command = self.config.webhook, self.config.mail, self.config.command
        if webhook is not None:
            channels.append(
                Channel(
                    f"webhook {urlsplit(webhook.url).hostname}",
                    lambda message, reasons, limit: self.messages.webhook(webhook.url, message, webhook.token_file),
                )
            )
        if mail is not None:
            channels.append(
                Channel(
                    f"mail to {mail.to}",
                    lambda message, reasons, limit: self.messages.mail(mail.to, mail.sender, mail.server, message),
                )
            )
        if command is not None:
            channels.append(
                Channel(
                    f"command {command.argv[0]}",
                    lambda message, reasons, limit: self._run(command.argv, message, reasons, limit),
                )
            )
        return channels

    async def _run(self, argv: Sequence[str], message: Message, reasons: Sequence[str], limit: float) -> None:
        told = {**asdict(message), "reasons": list(reasons)}
        if not message.plan:
            for name in ("plan", "expires", "answer_url"):
                del told[name]
        result = await self.commands.run(argv, timeout=limit, limit=4096, input=json.dumps(told).encode())
        if result.code is None:
            raise StepFailed(f"was killed after {result.seconds:.1f} s")
        if result.code != 0:
            raise StepFailed(f"ended with code {result.code}: {result.output.strip()[-300:] or 'it said nothing'}")


async def _tried(channel: Channel, message: Message, reasons: Sequence[str], limit: float) -> str:
    """Empty when the channel took the message, else which one it was and why not.

    Each has its own bound, against the custom that the caller alone bounds: one that hangs must not turn the message
    that another has delivered into a failure.
    """
    try:
        async with asyncio.timeout(limit):
            await channel.send(message, reasons, limit)
    except TimeoutError:
        return f"{channel.label}: no answer within {limit:g} s"
    except (StepFailed, OSError) as error:
        return f"{channel.label}: {error}"
    return ""


def _text(args: HumanArgs, link: str, wall: float) -> str:
    lines = [args.text, *(f"- {reason}" for reason in args.reasons)]
    if args.plan:
        lines += ["", *(f"Would be done: {step}" for step in args.steps)]
        if args.expires is not None:
            until = datetime.fromtimestamp(args.expires).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
            lines.append(f"It waits for an answer until {until} (for {_ago(max(0.0, args.expires - wall))}):")
        else:
            lines.append("It waits for an answer:")
        lines += [
            f"  x0tta6bl4 approve {args.plan} --why REASON",
            f"  x0tta6bl4 reject {args.plan} --why REASON",
        ]
        if link:
            lines.append(f"  or with this link, which answers once; whoever has it can: {link}")
    return "\n".join(lines).strip()


def _without_secret(said: str, link: str) -> str:
    """Also a part of the link's token: what a channel repeats may have been cut."""
    token = link.rpartition("=")[2]
    if not token:
        return said
    return re.sub(r"[0-9a-f]{8,}", lambda run: "[hidden]" if run[0] in token or token in run[0] else run[0], said)


def _about(step: Step, args: HumanArgs) -> str:
    if args.plan:
        return f"{args.incident} {args.plan} {args.expires}"  # another question is news, however soon it comes
    return args.incident or f"{step.target}: {args.title}"


def _ago(seconds: float) -> str:
    return f"{int(seconds // 60)} min" if seconds >= 60 else f"{int(seconds)} s"


PLUGIN = executor(Config, lambda name, config, tools: Notify(name, config, tools.messages, tools.commands, tools.clock))
