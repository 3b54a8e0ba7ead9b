"""The notify executor: who is told, how often, and that nothing is claimed that did not happen."""

import asyncio
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import ValidationError

from x0tta6bl4.adapters.commands import LinuxCommands
from x0tta6bl4.executors.notify import PLUGIN, REMEMBERED, Config, Notify
from x0tta6bl4.kernel.errors import StepFailed, StepRefused
from x0tta6bl4.kernel.facts import Step, trace_id_of
from x0tta6bl4.kernel.plugin import Tools
from x0tta6bl4.ports.messages import Message
from x0tta6bl4.testing.virtual_time import run

WEBHOOK = {"url": "https://chat.example.org/hooks/s3cret", "token_file": "/run/token"}
MAIL = {"to": "ops@example.org", "sender": "daemon@example.org", "server": "mail.example.org:25"}


class HandClock:
    def __init__(self) -> None:
        self.now = 100.0

    def wall(self) -> float:
        return 1_700_000_000.0

    def monotonic(self) -> float:
        return self.now


class Outbox:
    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.fails: dict[str, Exception] = {}
        self.hangs: set[str] = set()

    async def webhook(self, url: str, message: Message, token_file: str | None = None) -> None:
        await self._send("webhook", f"{url} {token_file}", message)

    async def mail(self, to: str, sender: str, server: str, message: Message) -> None:
        await self._send("mail", f"{to} {sender} {server}", message)

    async def _send(self, kind: str, where: str, message: Message) -> None:
        if kind in self.hangs:
            await asyncio.Event().wait()
        if kind in self.fails:
            raise self.fails[kind]
        self.sent.append((where, message))


def built(outbox: Outbox | None = None, clock: HandClock | None = None, **settings: Any) -> Notify:
    tools = SimpleNamespace(messages=outbox or Outbox(), commands=LinuxCommands(), clock=clock or HandClock())
    return cast(Notify, PLUGIN.build("notify", Config.model_validate(settings), cast(Tools, tools)))


def step(*, timeout: float = 20.0, **more: Any) -> Step:
    args = {
        "title": "web: hung",
        "text": "no answer",
        "incident": "i1",
        "severity": "major",
        "reasons": ["probe said so"],
    }
    return Step("s1", "notify.human", "web", {**args, **more}, timeout=timeout)


def test_a_message_goes_out_by_every_channel_with_what_the_judgement_rests_on() -> None:
    outbox = Outbox()
    effect = run(built(outbox, webhook=WEBHOOK, mail=MAIL).act(step()))
    assert "told a human by webhook chat.example.org and by mail to ops@example.org" == effect.detail
    assert [
        "https://chat.example.org/hooks/s3cret /run/token",
        "ops@example.org daemon@example.org mail.example.org:25",
    ] == [where for where, _ in outbox.sent]
    expected = Message(
        "web", "web: hung", "no answer\n- probe said so", "major", "i1", 1_700_000_000.0, trace=trace_id_of("i1")
    )
    assert expected == outbox.sent[0][1]


def test_each_try_of_a_step_sends_the_same_key() -> None:
    outbox = Outbox()
    notifier = built(outbox, webhook=WEBHOOK)
    for attempt in (0, 1):
        run(notifier.act(replace(step(), key="i1/3/tell", attempt=attempt)))
    assert {"i1/3/tell"} == {message.key for _, message in outbox.sent}


def test_a_program_gets_the_message_as_json_on_its_input(tmp_path: Path) -> None:
    script = tmp_path / "tell.py"
    script.write_text(f"import sys; open({str(tmp_path / 'got')!r}, 'w').write(sys.stdin.read())")
    effect = asyncio.run(built(command={"argv": [sys.executable, str(script)]}).act(step()))
    assert f"told a human by command {sys.executable}" == effect.detail
    got = json.loads((tmp_path / "got").read_text())
    told = [got[key] for key in ("subject", "title", "incident", "reasons")]
    assert ["web", "web: hung", "i1", ["probe said so"]] == told


def test_a_program_that_fails_is_a_failed_channel(tmp_path: Path) -> None:
    script = tmp_path / "tell.py"
    script.write_text("raise SystemExit('no paper')")
    with pytest.raises(StepFailed, match="ended with code 1: no paper"):
        asyncio.run(built(command={"argv": [sys.executable, str(script)]}).act(step()))


def test_a_program_that_is_not_there_is_a_failed_channel() -> None:
    with pytest.raises(StepFailed, match="command /nonexistent/tell: "):
        asyncio.run(built(command={"argv": ["/nonexistent/tell"]}).act(step()))


def test_without_a_channel_it_is_written_to_the_log_and_said_to_be_only_there(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        effect = run(built().act(step()))
    assert "no channel is configured, so nobody was sent anything: it is in the log only" == effect.detail
    assert ["a human is needed: web: hung"] == [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_one_of_two_channels_is_enough_and_the_other_is_named() -> None:
    outbox = Outbox()
    outbox.fails["mail"] = StepFailed("mail.example.org does not know ops")
    effect = run(built(outbox, webhook=WEBHOOK, mail=MAIL).act(step()))
    assert (
        "told a human by webhook chat.example.org; but not by mail to ops@example.org: "
        "mail.example.org does not know ops" == effect.detail
    )


def test_a_channel_that_hangs_does_not_undo_what_another_delivered() -> None:
    outbox = Outbox()
    outbox.hangs.add("webhook")
    effect = run(built(outbox, webhook=WEBHOOK, mail=MAIL).act(step(timeout=20)))
    assert (
        "told a human by mail to ops@example.org; but not by webhook chat.example.org: no answer within 18 s"
        == effect.detail
    )


def test_when_all_channels_fail_each_is_named_and_the_log_has_it(caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox()
    outbox.fails = {"webhook": OSError("refused"), "mail": StepRefused("the token file is empty")}
    notify = built(outbox, webhook=WEBHOOK, mail=MAIL)
    with caplog.at_level(logging.WARNING), pytest.raises(StepFailed) as caught:
        run(notify.act(step()))
    assert (
        "no human could be told; webhook chat.example.org: refused; "
        "mail to ops@example.org: the token file is empty" == caught.value.message
    )
    assert "s3cret" not in caught.value.message
    assert ["a human is needed: web: hung"] == [r.getMessage() for r in caplog.records]
    # What nobody got is not held back the next time.
    outbox.fails = {}
    assert "told a human" in run(notify.act(step())).detail


def test_the_same_incident_is_sent_again_only_after_a_while() -> None:
    outbox, clock = Outbox(), HandClock()
    notify = built(outbox, clock, mail=MAIL, remind_every="15m")
    run(notify.act(step()))
    clock.now += 125
    assert "would be recorded, not sent again: last sent 2 min ago" == run(notify.preview(step()))
    assert "recorded, not sent again: last sent 2 min ago" == run(notify.act(step())).detail
    run(notify.act(step(incident="i2")))
    assert ["i1", "i2"] == [m.incident for _, m in outbox.sent]
    clock.now += 775
    run(notify.act(step()))
    assert ["i1", "i2", "i1"] == [m.incident for _, m in outbox.sent]


def test_the_log_is_not_flooded_either(caplog: pytest.LogCaptureFixture) -> None:
    notify = built()
    with caplog.at_level(logging.WARNING):
        run(notify.act(step()))
        effect = run(notify.act(step()))
    assert 1 == len(caplog.records)
    assert "recorded, not written to the log again: last written 0 s ago" == effect.detail


def test_what_it_remembers_is_bounded() -> None:
    async def story() -> None:
        outbox = Outbox()
        notify = built(outbox, mail=MAIL)
        for number in range(REMEMBERED + 1):
            await notify.act(step(incident=f"i{number}"))
        assert "not sent again" in (await notify.act(step(incident="i1"))).detail
        assert "told a human" in (await notify.act(step(incident="i0"))).detail

    run(story())


def test_a_preview_sends_and_remembers_nothing() -> None:
    outbox = Outbox()
    notify = built(outbox, mail=MAIL)
    assert "would tell a human by mail to ops@example.org: web: hung" == run(notify.preview(step()))
    assert [] == outbox.sent
    assert "told a human" in run(notify.act(step())).detail


def test_it_is_not_disruptive_and_may_be_repeated() -> None:
    (human,) = built().actions
    assert not human.disruptive
    assert ("human", "retry") == (human.verb, human.on_unknown)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"titel": "x"}, "did you mean 'title'"),
        ({"title": ""}, "title"),
        ({"severity": "bad"}, "severity .*'bad'"),
        ({"reasons": "one"}, "reasons"),
    ],
)
def test_a_mistake_in_the_arguments_is_refused(wrong: dict[str, Any], words: str) -> None:
    outbox = Outbox()
    with pytest.raises(StepRefused, match=words):
        run(built(outbox, mail=MAIL).act(step(**wrong)))
    assert [] == outbox.sent


@pytest.mark.parametrize(
    "settings",
    [
        {"webhook": {"url": "ftp://x"}},
        {"webhook": {"url": "https://"}},
        {"mail": {"to": "ops"}},
        {"mail": {"to": "a@b\nBcc: c@d"}},
        {"command": {"argv": ["tell"]}},
        {"command": {"argv": []}},
        {"sms": {}},
    ],
)
def test_a_channel_that_cannot_work_is_refused_at_configuration(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(settings)
