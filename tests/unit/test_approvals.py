"""A plan that waits for a person: who may answer and how, and that an old answer never meets a changed world."""

import asyncio
import json
import logging
import os
import re
from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from x0tta6bl4.adapters.messages import OutboundMessages
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.cli import approvals as command
from x0tta6bl4.executors.notify import PLUGIN as NOTIFY
from x0tta6bl4.executors.notify import Notify
from x0tta6bl4.kernel.errors import StepFailed
from x0tta6bl4.kernel.facts import Incident, IncidentState, Plan, Severity, Step
from x0tta6bl4.kernel.guard import CHAIN
from x0tta6bl4.kernel.health import HealthChecker
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.kernel.memory import Approval
from x0tta6bl4.kernel.plugin import Tools
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.observability.metrics import Metrics
from x0tta6bl4.observability.redaction import is_secret_name
from x0tta6bl4.ports.messages import AnswerLinks, Message
from x0tta6bl4.settings.model import ApprovalSettings, StatusSettings
from x0tta6bl4.status.access import Access
from x0tta6bl4.status.answers import hand_on
from x0tta6bl4.status.app import StatusApp
from x0tta6bl4.status.desk import Behind
from x0tta6bl4.status.face import Condition
from x0tta6bl4.status.links import KEY_BYTES, Links, kept_key
from x0tta6bl4.testing.virtual_time import run
from x0tta6bl4.testing.world import World

WORK = "http://127.0.0.1:1/work"
TOKEN = "the-operators-token"
ADDRESS = "http://127.0.0.1:8080/"
HOSTILE = "<script>alert(1)</script>&\"'"


def web(**more: Any) -> dict[str, Any]:
    return {"process": ["/bin/web"], "work": WORK, "mode": "approve", **more}


# -- an answer and the world ------------------------------------------------------------------------------------------


async def wanted(world: World) -> Approval:
    found = [a for a in await world.knowledge.approvals("wanted") if a.expires > world.clock.wall()]
    assert 1 == len(found)
    return found[0]


async def answer(world: World, approval: Approval, yes: bool = True, why: str = "looked at it") -> Approval:
    """As the command line does: through the store, which the daemon notices."""
    answered = await world.knowledge.answer_approval(approval.plan, yes, "oncall", why)
    world.database.others_wrote()
    assert answered is not None
    return answered


async def started_by_hand(world: World) -> None:
    for program in world.blueprint.programs:
        await world.processes.start(program)


async def said(world: World) -> str:
    return " | ".join(f"{d.check}: {d.sentence}" for d in await world.knowledge.decisions("web"))


Life = Callable[[World, MAPEK], Awaitable[None]]


def lived(story: Life, care: Mapping[str, Any] | None = None, **settings: Any) -> None:
    async def told() -> None:
        world = World({"web": web(**(care or {}))}, **settings)
        async with world.running() as loop:
            await story(world, loop)

    run(told())


def test_a_service_that_was_started_by_hand_just_before_the_answer_is_not_restarted() -> None:
    async def story(world: World, loop: MAPEK) -> None:
        world.kill("web")
        await asyncio.sleep(3)
        approval = await wanted(world)
        await asyncio.sleep(0.2)  # between two looks: nobody has seen yet that it runs
        await started_by_hand(world)
        assert await hand_on(loop, approval.plan, True, "oncall", "looked at it") is not None
        await asyncio.sleep(10)

        assert [] == await world.acts()
        assert "the symptom was gone" in await said(world)

    lived(story)


def test_an_approval_of_what_got_well_meanwhile_does_nothing_and_the_story_says_why() -> None:
    """Nobody has looked since it got well: it is looked at again before the step, and the journal says so."""

    async def story(world: World, loop: MAPEK) -> None:
        world.network.broken[WORK] = lambda: (500, 0.001)
        await asyncio.sleep(60)
        approval = await wanted(world)
        world.network.broken.clear()
        await asyncio.sleep(0.1)
        looked = len(world.network.asked)
        await answer(world, approval)
        await asyncio.sleep(2)
        assert looked < len(world.network.asked)
        await asyncio.sleep(60)

        (incident,) = await world.incidents()
        assert [] == await world.acts()
        assert (IncidentState.CLOSED, "recovered") == (incident.state, incident.ended)
        assert "precondition: the symptom was gone" in await said(world)
        story = await world.knowledge.story(incident.id)
        assert "approved by oncall: looked at it" in [e.text for e in story]
        assert any("the symptom was gone" in entry.text for entry in story)

    lived(story, monitors={"host": {"enabled": False}, "web.work": {"every": 10}})


def test_an_answer_after_the_fault_is_over_does_nothing() -> None:
    async def story(world: World, loop: MAPEK) -> None:
        world.kill("web")
        await asyncio.sleep(3)
        approval = await wanted(world)
        await started_by_hand(world)
        await asyncio.sleep(30)
        await answer(world, approval)
        await asyncio.sleep(60)

        (incident,) = await world.incidents()
        assert [] == await world.acts()
        assert (IncidentState.CLOSED, "recovered") == (incident.state, incident.ended)

    lived(story)


def test_an_approval_is_not_taken_when_it_has_expired_and_the_step_is_asked_for_anew() -> None:
    async def story(world: World, loop: MAPEK) -> None:
        world.kill("web")
        await asyncio.sleep(3)
        approval = await wanted(world)
        # Else the loop would ask anew in the moment in which it expires.
        await world.knowledge.add_pause("web", approval.expires + 30, who="oncall")
        world.database.others_wrote()
        await asyncio.sleep(approval.expires - world.clock.wall() + 1.2)
        assert "expired" == (await answer(world, approval)).state
        await asyncio.sleep(70)

        again = await wanted(world)
        assert [] == await world.acts()
        assert (approval.plan, True) == (again.plan, again.expires > approval.expires)

    lived(story, guard={"approval_expires": 100})


def test_an_answer_that_expired_before_its_step_could_be_done_is_asked_for_again() -> None:
    async def story(world: World, loop: MAPEK) -> None:
        world.kill("web")
        await asyncio.sleep(3)
        approval = await wanted(world)
        await world.knowledge.add_pause("web", world.clock.wall() + 300, who="oncall")
        await answer(world, approval)
        await asyncio.sleep(380)

        assert [] == await world.acts()
        assert (await wanted(world)).expires > approval.expires

    lived(story, guard={"approval_expires": 100})


def test_an_approval_is_for_one_rung_only() -> None:
    async def story(world: World, loop: MAPEK) -> None:
        world.kill("web")
        await asyncio.sleep(3)
        first = await wanted(world)
        world.network.broken[WORK] = lambda: (500, 0.001)  # started, it does not work: the rung is refuted
        await answer(world, first)
        await asyncio.sleep(120)

        second = await wanted(world)
        assert first.plan != second.plan
        assert ["process.restart"] == await world.acts()
        assert "approved" == (await answer(world, first)).state  # once more, of what was done already
        await asyncio.sleep(120)
        assert ["process.restart"] == await world.acts()

    lived(story)


def test_an_approval_does_not_apply_to_a_relapse() -> None:
    async def story(world: World, loop: MAPEK) -> None:
        world.kill("web")
        await asyncio.sleep(3)
        approval = await wanted(world)
        await world.knowledge.add_pause("web", world.clock.wall() + 60, who="oncall")
        await answer(world, approval)
        await started_by_hand(world)
        await asyncio.sleep(30)
        assert IncidentState.CLOSED is (await world.incidents())[0].state
        world.kill("web")
        await asyncio.sleep(60)

        assert [] == await world.acts()
        assert approval.plan != (await wanted(world)).plan

    lived(story)


def test_the_first_answer_stands_whichever_it_is() -> None:
    async def story(world: World, loop: MAPEK) -> None:
        world.kill("web")
        await asyncio.sleep(3)
        approval = await wanted(world)
        assert "rejected" == (await answer(world, approval, yes=False, why="not now")).state
        again = await answer(world, approval)
        assert ("rejected", "not now") == (again.state, again.why)
        await asyncio.sleep(60)

        assert [] == await world.acts()
        assert "rejected by oncall: not now" in await said(world)

    lived(story)


def test_an_approval_given_twice_is_acted_on_once() -> None:
    async def story(world: World, loop: MAPEK) -> None:
        world.kill("web")
        await asyncio.sleep(3)
        approval = await wanted(world)
        await answer(world, approval)
        await answer(world, approval)
        await asyncio.sleep(60)
        await answer(world, approval)
        await asyncio.sleep(60)

        assert ["process.restart"] == await world.acts()

    lived(story)


@pytest.mark.parametrize("answered_while", ["stopped", "running again"])
def test_a_question_and_its_answer_outlive_the_daemon(answered_while: str) -> None:
    async def story() -> None:
        world = World({"web": web()})
        async with world.running():
            world.kill("web")
            await asyncio.sleep(3)
            approval = await wanted(world)
        world.crash()
        if answered_while == "stopped":
            await answer(world, approval)
        async with world.running(started=False):
            if answered_while == "running again":
                await asyncio.sleep(10)
                assert [] == await world.acts()
                assert approval == await wanted(world)
                await answer(world, approval)
            await world.until(lambda: world.processes.supervised("web") is not None, within=10)
            assert ["process.restart"] == await world.acts()

    run(story())


def test_an_approval_waits_for_the_end_of_a_pause() -> None:
    async def story(world: World, loop: MAPEK) -> None:
        world.kill("web")
        await asyncio.sleep(3)
        approval = await wanted(world)
        await world.knowledge.add_pause("web", world.clock.wall() + 60, who="oncall", reason="moving disks")
        await answer(world, approval)
        await asyncio.sleep(50)
        assert [] == await world.acts()
        assert "maintenance: paused by oncall" in await said(world)

        await asyncio.sleep(20)
        assert ["process.restart"] == await world.acts()

    lived(story)


def test_an_approval_does_not_turn_the_kill_switch() -> None:
    async def story(world: World, loop: MAPEK) -> None:
        world.kill("web")
        await asyncio.sleep(3)
        approval = await wanted(world)
        await world.knowledge.set_flag("auto_healing", False, "oncall")
        world.database.others_wrote()
        await asyncio.sleep(1)
        await answer(world, approval)
        await asyncio.sleep(600)

        assert [] == await world.acts()
        assert "kill switch: auto_healing is off" in await said(world)

    lived(story)


def test_an_approval_does_not_apply_when_the_same_rung_does_something_else_by_now() -> None:
    async def story() -> None:
        more = {
            "executors": {"systemd": {"enabled": False}, "command": {"commands": {"wipe": {"argv": ["/bin/wipe"]}}}}
        }
        before = World({"web": web()}, **more)
        async with before.running():
            before.kill("web")
            await asyncio.sleep(3)
            approval = await wanted(before)
            await answer(before, approval)
            await before.knowledge.add_pause("web", before.clock.wall() + 1, who="oncall")
        after = World({"web": web(commands={"restart": "wipe"})}, **more)
        after.database, after.processes = before.database, before.processes.successor()
        async with after.running(started=False):
            await asyncio.sleep(30)
            assert "command.wipe" not in await after.acts()
            assert {"command.wipe"} == {step.action for step in (await asked_about(after)).steps}

    async def asked_about(world: World) -> Plan:
        plan = await world.knowledge.plan((await wanted(world)).plan)
        assert plan is not None
        return plan

    run(story())


# -- links ------------------------------------------------------------------------------------------------------------


def links(url: str = "", key: bytes = b"k" * KEY_BYTES, address: str = ADDRESS) -> Links:
    return Links(key, lambda: address, url)


plans = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
times = st.floats(0, 1e11)


@given(plan=plans, other=plans, expires=times, later=times)
def test_a_link_holds_for_its_plan_and_its_time_and_for_nothing_else(
    plan: str, other: str, expires: float, later: float
) -> None:
    token = links().token(plan, expires)
    assert links().holds(token, plan, expires)
    assert (plan == other) == links().holds(token, other, expires)
    assert (expires == later) == links().holds(token, plan, later)
    assert not links(key=b"other" * 7).holds(token, plan, expires)


@given(st.text(max_size=80))
def test_nobody_guesses_a_link(token: str) -> None:
    assert not links().holds(token, "plan-1", 1.0)


def test_a_link_leads_where_people_reach_the_endpoint_and_there_is_none_where_nobody_does() -> None:
    at_home = links().to("plan-1", 5.0)
    assert f"{ADDRESS}api/v1/approvals/plan-1/answer?token={links().token('plan-1', 5.0)}" == at_home
    assert (
        links("https://heal.example.org/x/").to("p", 5.0).startswith("https://heal.example.org/x/api/v1/approvals/p/")
    )
    assert "" == links("https://heal.example.org/", address="").to("p", 5.0)
    assert "kkkk" not in repr(links())


def test_the_key_is_the_owners_alone_and_outlives_the_daemon(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        key = kept_key(tmp_path / "approval.key")
    finally:
        os.umask(before)
    assert (KEY_BYTES, 0o600) == (len(key), (tmp_path / "approval.key").stat().st_mode & 0o777)
    assert key == kept_key(tmp_path / "approval.key")
    assert ["approval.key"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize("spoil", ["readable", "short", "long"])
def test_a_key_that_others_may_know_or_that_is_none_is_replaced(tmp_path: Path, spoil: str) -> None:
    file = tmp_path / "approval.key"
    key = kept_key(file)
    if spoil == "readable":
        file.chmod(0o640)
    else:
        file.write_bytes(key[:-1] if spoil == "short" else key + b"x")
    renewed = kept_key(file)

    assert key != renewed
    assert (renewed, 0o600) == (file.read_bytes(), file.stat().st_mode & 0o777)


def test_a_key_is_not_read_through_a_link_to_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"e" * KEY_BYTES)
    (tmp_path / "approval.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"symbolic|ELOOP|Too many"):
        kept_key(tmp_path / "approval.key")


@pytest.mark.parametrize("url", ["http://heal.example.org", "heal.example.org", "https://", "ftp://h/", "https://a@b/",
                                 "https://h/?a=b", "https://h/#x", "javascript:alert(1)"])  # fmt: skip
def test_an_address_over_which_a_link_would_leak_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        ApprovalSettings(url=url)


def test_an_address_is_kept_with_a_slash_at_its_end() -> None:
    assert "https://heal.example.org/" == ApprovalSettings(url="https://heal.example.org").url
    assert "http://localhost:8080/x/" == ApprovalSettings(url="http://localhost:8080/x").url


# -- the message ------------------------------------------------------------------------------------------------------


class Outbox:
    """Channels that remember, fail, or repeat what they were sent."""

    def __init__(self, made: Links | None) -> None:
        self.sent: list[Message] = []
        self.repeats = False
        self._links = made

    def answer_link(self, plan: str, expires: float) -> str:
        return self._links.to(plan, expires) if self._links is not None else ""

    async def webhook(self, url: str, message: Message, token_file: str | None = None) -> None:
        self.sent.append(message)
        if self.repeats:
            raise StepFailed(f"answered 400: {message.text[-300:]} {message.answer_url[-20:]}")

    async def mail(self, to: str, sender: str, server: str, message: Message) -> None:
        self.sent.append(message)


EXPIRES = 1_700_000_900.0
LINK = links().to("plan-1", EXPIRES)
SECRET = LINK.rpartition("=")[2]


def notifier(outbox: Outbox, **settings: Any) -> Notify:
    clock = SimpleNamespace(wall=lambda: 1_700_000_000.0, monotonic=lambda: 100.0)
    tools = SimpleNamespace(messages=outbox, commands=None, clock=clock)
    return cast(Notify, NOTIFY.build("notify", NOTIFY.config.model_validate(settings), cast(Tools, tools)))


HOOK = {"webhook": {"url": "https://chat.example.org/hook"}}


def question(plan: str = "plan-1", **more: Any) -> Step:
    args = {
        "title": "web: dead",
        "text": "web is dead.",
        "incident": "i1",
        "reasons": ["process_up is 0"],
        "plan": plan,
        "expires": EXPIRES,
        "steps": ["process.restart on web"],
        **more,
    }
    return Step(f"{plan}-ask.1", "notify.human", "web", args, timeout=20.0, expect=None)


def test_a_question_carries_the_steps_the_reasons_the_time_and_every_way_to_answer() -> None:
    outbox = Outbox(links())
    run(notifier(outbox, **HOOK).act(question()))

    (message,) = outbox.sent
    assert ("plan-1", EXPIRES, LINK) == (message.plan, message.expires, message.answer_url)
    for part in ("web is dead.", "- process_up is 0", "Would be done: process.restart on web", "(for 15 min)",
                 "x0tta6bl4 approve plan-1", "x0tta6bl4 reject plan-1", LINK):  # fmt: skip
        assert part in message.text


def test_a_message_that_asks_nothing_has_no_link() -> None:
    outbox = Outbox(links())
    run(notifier(outbox, **HOOK).act(question(plan="")))

    assert ("", None) == (outbox.sent[0].answer_url, re.search("approve|answer", outbox.sent[0].text))


def test_a_question_without_an_endpoint_tells_of_the_command_line() -> None:
    outbox = Outbox(None)
    run(notifier(outbox, **HOOK).act(question()))

    assert "x0tta6bl4 approve plan-1" in outbox.sent[0].text
    assert "http" not in outbox.sent[0].text


def test_each_question_is_sent_and_the_same_one_not_twice() -> None:
    """The next rung is another question, however soon after the first it comes."""

    async def story() -> None:
        outbox = Outbox(links())
        notify = notifier(outbox, **HOOK)
        for step in (question(), question(), question("plan-2"), question(expires=EXPIRES + 900.0)):
            await notify.act(step)
        assert ["plan-1", "plan-2", "plan-1"] == [message.plan for message in outbox.sent]

    run(story())


def test_neither_a_failure_nor_the_log_tells_the_link(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    outbox = Outbox(links())
    outbox.repeats = True
    with pytest.raises(StepFailed) as failed:
        run(notifier(outbox, **HOOK).act(question()))

    told = str(failed.value) + "".join(json.dumps(vars(record), default=str) for record in caplog.records)
    assert "[hidden]" in told
    assert not [run for run in re.findall(r"[0-9a-f]{8,}", told) if run in SECRET]
    assert "plan-1" in told


def test_the_webhook_and_the_adapter_agree_on_who_makes_links() -> None:
    assert isinstance(OutboundMessages(), AnswerLinks)
    assert LINK == OutboundMessages(links=links().to).answer_link("plan-1", EXPIRES)
    assert "" == OutboundMessages().answer_link("plan-1", EXPIRES)


# -- over HTTP --------------------------------------------------------------------------------------------------------


class Face:
    version = "9.8.7"
    started_at = 0.0
    token = TOKEN

    def __init__(self, world: World) -> None:
        self._world = world
        self.health = HealthChecker({})

    @property
    def loop(self) -> MAPEK:
        return self._world.loop

    @property
    def metrics(self) -> Metrics:
        return self._world.metrics

    def conditions(self) -> Sequence[Condition]:
        return []

    def describe(self) -> Mapping[str, Any]:
        return {}

    async def reload(self) -> Sequence[str]:
        return []

    async def set_flag(self, name: str, value: bool, who: str) -> None:
        raise AssertionError("nobody asked for that")


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Client:
    """Asks the application as a server would hand it over."""

    world: World
    app: StatusApp
    access: Access
    links: Links = field(default_factory=links)

    async def ask(
        self, method: str, target: str, body: bytes = b"", *, token: str | None = TOKEN, **headers: str
    ) -> Reply:
        path, _, query = target.partition("?")
        told = {"host": "127.0.0.1:8080", **{k.replace("_", "-"): v for k, v in headers.items()}}
        if token is not None:
            told["authorization"] = f"Bearer {token}"
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in told.items()],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8080),
        }
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        names = [k for k, _ in sent[0]["headers"]]
        assert len(set(names)) == len(names)
        return Reply(
            sent[0]["status"],
            {k.decode("latin-1"): v.decode("latin-1") for k, v in sent[0]["headers"]},
            sent[1].get("body", b""),
        )

    async def get(self, target: str, **more: Any) -> Reply:
        return await self.ask("GET", target, **more)

    async def post(self, target: str, value: Any, **more: Any) -> Reply:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return await self.ask("POST", target, body, **{"content_type": "application/json", **more})

    async def form(self, target: str, values: Mapping[str, str], **more: Any) -> Reply:
        browser = {
            "content_type": "application/x-www-form-urlencoded",
            "accept": "text/html,*/*;q=0.8",
            "origin": "null",
            "sec_fetch_site": "same-origin",
        }
        return await self.ask("POST", target, urlencode(values).encode(), **{"token": None, **browser, **more})

    def link(self, approval: Approval) -> str:
        parts = urlsplit(self.links.to(approval.plan, approval.expires))
        return f"{parts.path}?{parts.query}"


Talk = Callable[[Client, Approval], Awaitable[None]]


def asked(talk: Talk, url: str = "", **settings: Any) -> None:
    """A dead service for which a person was asked, and a client of the daemon's endpoint."""

    async def story(world: World, loop: MAPEK) -> None:
        world.kill("web")
        await asyncio.sleep(3)
        made = links(url)
        access = Access(world.database, world.knowledge.audit, world.clock, lambda: b"k" * 32)
        behind = Behind(world.database, access, links=made)
        app = StatusApp(Face(world), StatusSettings(rate_limit_per_minute=10_000), behind)
        await talk(Client(world, app, access, made), await wanted(world))

    lived(story, **settings)


def refused(reply: Reply, status: int, code: str) -> Any:
    assert (status, "application/problem+json") == (reply.status, reply.headers["content-type"])
    assert code == reply.json["error"]["code"]
    return reply.json["error"]


APPROVALS = "/api/v1/approvals"


def test_what_waits_is_listed_and_told_with_all_that_speaks_for_and_against_it() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        listed = (await client.get(APPROVALS)).json["approvals"]
        assert [(approval.plan, "wanted", "web", "dead", ["process.restart on web"])] == [
            (a["plan"], a["state"], a["subject"], a["fault"], a["steps"]) for a in listed
        ]
        told = (await client.get(f"{APPROVALS}/{approval.plan}")).json
        (step,) = told["steps"]
        assert ("process.restart", "web") == (step["action"], step["target"])
        assert "web" in step["preview"]
        assert any("process_up is 0" in reason for reason in told["incident"]["because"])
        plan = await client.world.knowledge.plan(approval.plan)
        assert plan is not None and list(plan.because) == told["reasons"] != []
        assert ["hold"] == [v["answer"] for v in told["guard"] if v["check"] == "mode"]
        assert [name for name, _ in CHAIN] == [v["check"] for v in told["guard"]]
        assert [("mode", "hold")] == [(d["check"], d["answer"]) for d in told["decided"]]
        assert "" == told["moot"]

    asked(talk)


def test_the_list_can_be_of_one_state() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        for state, count in (("wanted", 1), ("approved", 0), ("expired", 0)):
            assert count == len((await client.get(f"{APPROVALS}?state={state}")).json["approvals"])
        refused(await client.get(f"{APPROVALS}?state=open"), 422, "BAD_QUERY")
        await client.world.knowledge.add_pause("web", approval.expires + 60, who="oncall")
        client.world.database.others_wrote()
        await asyncio.sleep(approval.expires - client.world.clock.wall() + 1)
        # The turn that writes it down has not come yet; who asks is told the truth.
        assert ["wanted"] == [a.state for a in await client.world.knowledge.approvals()]
        (told,) = (await client.get(f"{APPROVALS}?state=expired")).json["approvals"]
        assert (approval.plan, "expired") == (told["plan"], told["state"])
        assert [] == (await client.get(f"{APPROVALS}?state=wanted")).json["approvals"]

    asked(talk, guard={"approval_expires": 30})


def test_an_approval_over_http_is_acted_on_at_once_and_audited_with_the_name() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        target = f"{APPROVALS}/{approval.plan}"
        await asyncio.sleep(0.23)  # between two looks, so that nothing but the answer wakes the loop
        reply = await client.post(target, {"answer": "approve", "who": "oncall", "why": "go  ahead"})
        assert (200, "approved", "oncall (api)", "go ahead") == (
            reply.status,
            *(reply.json[key] for key in ("state", "who", "why")),
        )
        await client.world.until(lambda: client.world.processes.supervised("web") is not None, within=0.02)
        await asyncio.sleep(10)
        assert ["process.restart"] == await client.world.acts()
        assert "approved by oncall (api) (go ahead)" in await said(client.world)
        (row,) = [r for r in await client.world.knowledge.audit_trail() if r.what == "approval.approved"]
        assert ("oncall (api)", approval.plan, "go ahead") == (row.who, row.data["plan"], row.data["why"])

    asked(talk)


def test_a_rejection_over_http_stands_and_nothing_is_done() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        target = f"{APPROVALS}/{approval.plan}"
        assert "operator (api)" == (await client.post(target, {"answer": "reject"})).json["who"]
        error = refused(await client.post(target, {"answer": "approve"}), 409, "APPROVAL_ANSWERED")
        assert ("rejected", "operator (api)") == tuple(error["details"]["approval"][key] for key in ("state", "who"))
        refused(await client.post(target, {"answer": "reject"}), 409, "APPROVAL_ANSWERED")
        await asyncio.sleep(60)
        assert [] == await client.world.acts()
        assert "rejected by operator (api)" in await said(client.world)

    asked(talk)


def test_answers_at_once_are_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(client: Client, approval: Approval) -> None:
        knowledge = client.world.knowledge
        write = knowledge.answer_approval

        async def slowly(*given: Any) -> Approval | None:
            await asyncio.sleep(0.01)  # as a disk takes
            return await write(*given)

        monkeypatch.setattr(knowledge, "answer_approval", slowly)
        target = f"{APPROVALS}/{approval.plan}"
        replies = await asyncio.gather(*(client.post(target, {"answer": "approve"}) for _ in range(5)))
        assert [200, 409, 409, 409, 409] == sorted(reply.status for reply in replies)

    asked(talk)


def test_an_answer_that_comes_too_late_is_told_so_and_changes_nothing() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        await client.world.knowledge.add_pause("web", approval.expires + 600, who="oncall")  # nobody asks anew
        client.world.database.others_wrote()
        link = client.link(approval)
        await asyncio.sleep(approval.expires - client.world.clock.wall())
        target = f"{APPROVALS}/{approval.plan}"
        error = refused(await client.post(target, {"answer": "approve"}), 409, "APPROVAL_EXPIRED")
        assert "expired" == error["details"]["approval"]["state"]
        refused(await client.post(link, {"answer": "approve"}, token=None), 409, "APPROVAL_EXPIRED")
        page = await client.get(link, token=None)
        assert (False, True) == ("<form" in page.text, "Too late" in page.text)
        await asyncio.sleep(500)
        assert [] == await client.world.acts()

    asked(talk, guard={"approval_expires": 100})


def test_the_link_of_a_question_that_was_asked_anew_answers_the_new_one_not() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        await asyncio.sleep(approval.expires - client.world.clock.wall() + 1)
        again = await wanted(client.world)
        assert approval.plan == again.plan
        refused(await client.post(client.link(approval), {"answer": "approve"}, token=None), 403, "BAD_LINK")
        assert 200 == (await client.post(client.link(again), {"answer": "approve"}, token=None)).status

    asked(talk, guard={"approval_expires": 100})


def test_an_answer_to_what_is_over_is_refused() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        await started_by_hand(client.world)
        await asyncio.sleep(30)
        error = refused(await client.post(f"{APPROVALS}/{approval.plan}", {"answer": "approve"}), 409, "APPROVAL_MOOT")
        assert "the incident is over (recovered)" in error["message"]
        page = await client.get(client.link(approval), accept="text/html", token=None)
        assert (200, False, True) == (page.status, "<form" in page.text, "None is needed any more" in page.text)

    asked(talk)


def test_without_a_key_neighbours_may_look_and_nobody_answers() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        target = f"{APPROVALS}/{approval.plan}"
        refused(await client.post(target, {"answer": "approve"}, token=None), 401, "UNAUTHORIZED")
        assert [200, 200] == [(await client.get(one, token=None)).status for one in (APPROVALS, target)]
        for wrong in ("", "wrong", client.links.token(approval.plan, approval.expires)):
            refused(await client.get(APPROVALS, token=wrong), 401, "UNAUTHORIZED")
            refused(await client.get(target, token=wrong), 401, "UNAUTHORIZED")
            refused(await client.post(target, {"answer": "approve"}, token=wrong), 401, "UNAUTHORIZED")
        for one in (APPROVALS, target, f"{APPROVALS}/plan-9"):
            refused(await client.get(one, token=None, x_forwarded_for="192.0.2.7"), 401, "UNAUTHORIZED")
        refused(await client.get(f"{APPROVALS}/plan-9"), 404, "NO_SUCH_PLAN")
        refused(await client.post(f"{APPROVALS}/plan-9", {"answer": "approve"}), 404, "NO_SUCH_PLAN")
        assert approval == await wanted(client.world)

    asked(talk)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"answer": "yes"},
        {"answer": True},
        {"answer": "approve", "plan": "plan-2"},
        {"answer": "approve", "who": 7},
        {"answer": "approve", "who": "x" * 101},
        {"answer": "approve", "who": "on\u202ecall"},
        {"answer": "approve", "why": "\ud800"},
        {"answer": "approve", "why": "\x1b[2J"},
        {"answer": "approve", "why": "x" * 1001},
    ],
)
def test_a_body_that_is_no_answer_is_refused_with_every_mistake(body: Any) -> None:
    async def talk(client: Client, approval: Approval) -> None:
        for target, token in ((f"{APPROVALS}/{approval.plan}", TOKEN), (client.link(approval), None)):
            error = refused(await client.post(target, body, token=token), 422, "BAD_BODY")
            assert error["details"]["mistakes"]
        assert approval == await wanted(client.world)

    asked(talk)


def test_a_store_that_fails_is_told_as_the_daemons_trouble() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        client.world.database.broken = "no space left"
        target = f"{APPROVALS}/{approval.plan}"
        refused(await client.post(target, {"answer": "approve"}), 503, "STORE_FAILING")
        refused(await client.get(APPROVALS), 503, "STORE_FAILING")
        refused(await client.get(target), 503, "STORE_FAILING")
        refused(await client.get(client.link(approval), token=None), 503, "STORE_FAILING")
        client.world.database.broken = ""
        assert approval == await wanted(client.world)

    asked(talk)


# -- by link ----------------------------------------------------------------------------------------------------------


class Form(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[dict[str, str | None]] = []
        self.fields: dict[str, str] = {}
        self.answers: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.tags.add(tag)
        if tag == "form":
            self.forms.append(told)
        if tag == "input":
            self.fields[told["name"] or ""] = told.get("value") or ""
        if tag == "button":
            self.answers.append(told["value"] or "")


def test_opening_the_link_shows_the_question_and_answers_nothing() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        link = client.link(approval)
        for method in ("GET", "HEAD", "OPTIONS"):
            for _ in range(3):
                assert (await client.ask(method, link, token=None, accept="text/html")).status in (200, 204)
        refused(await client.ask("PUT", link, token=None), 405, "METHOD_NOT_ALLOWED")
        assert approval == await wanted(client.world)

        page = await client.get(link, token=None)
        told = Form(page.text)
        assert [{"method": "post", "action": "answer", "autocomplete": "off"}] == told.forms
        assert ["approve", "reject"] == told.answers
        assert client.links.token(approval.plan, approval.expires) == told.fields["token"]
        assert not {"script", "img", "iframe"} & told.tags
        assert "process.restart on web" in page.text
        assert ("no-referrer", "no-store", "DENY") == tuple(
            page.headers[name] for name in ("referrer-policy", "cache-control", "x-frame-options")
        )
        policy = page.headers["content-security-policy"]
        assert "form-action 'self'" in policy and "frame-ancestors 'none'" in policy and "script-src" not in policy

    asked(talk)


def test_a_button_answers_once() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        link = client.link(approval)
        path = link.partition("?")[0]
        token = Form((await client.get(link, token=None)).text).fields["token"]
        reply = await client.form(path, {"token": token, "who": "oncall", "why": "", "answer": "approve"})
        assert (200, True) == (reply.status, "Approved: process.restart on web" in reply.text)
        (approved,) = await client.world.knowledge.approvals("approved")
        assert ("oncall (link)", "") == (approved.who, approved.why)
        await client.world.until(lambda: client.world.processes.supervised("web") is not None, within=1)

        again = await client.form(path, {"token": token, "answer": "reject"})
        assert (409, True) == (again.status, "was approved before, by oncall (link)" in again.text)
        refused(await client.post(link, {"answer": "reject"}, token=None), 409, "APPROVAL_ANSWERED")
        shown = await client.get(link, token=None)
        assert (200, False, True) == (shown.status, "<form" in shown.text, "approved by oncall (link)" in shown.text)
        assert "form-action 'none'" in shown.headers["content-security-policy"]

    asked(talk)


def test_a_program_answers_by_the_link_without_the_operators_token() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        reply = await client.post(client.link(approval), {"answer": "reject", "why": "no"}, token=None)
        assert (200, "rejected", "unnamed (link)") == (reply.status, reply.json["state"], reply.json["who"])

    asked(talk)


def test_a_wrong_link_answers_nothing_and_does_not_tell_which_plans_there_are() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        right = client.links.token(approval.plan, approval.expires)
        bodies = set()
        for plan, token in (
            (approval.plan, ""),
            (approval.plan, right[:-1]),
            (approval.plan, right + "0"),
            (approval.plan, right.upper()),
            (approval.plan, client.links.token(approval.plan, approval.expires + 1)),
            (approval.plan, links(key=b"x" * 32).token(approval.plan, approval.expires)),
            ("plan-9", right),
            ("plan-9", client.links.token("plan-9", approval.expires)),
        ):
            target = f"{APPROVALS}/{plan}/answer?token={token}"
            bodies.add(refused(await client.get(target, token=None), 403, "BAD_LINK")["message"])
            refused(await client.post(target, {"answer": "approve"}, token=None), 403, "BAD_LINK")
            page = await client.form(target.partition("?")[0], {"token": token, "answer": "approve"})
            assert (403, True) == (page.status, "answers nothing" in page.text)
            assert right not in page.text
        assert 1 == len(bodies)
        assert approval == await wanted(client.world)

    asked(talk)


def test_a_page_of_another_site_answers_nothing_even_with_the_token() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        path, _, query = client.link(approval).partition("?token=")
        given = {"token": query, "answer": "approve"}
        for headers in (
            {"sec_fetch_site": "cross-site"},
            {"sec_fetch_site": "same-site"},
            {"origin": "https://evil.example"},
            {"origin": "http://127.0.0.1:8081"},
            {"origin": "garbage"},
            {"origin": "https://heal.example.org.evil.example"},
        ):
            reply = await client.form(path, given, **headers)
            assert (403, True) == (reply.status, "another site" in reply.text), headers
        assert approval == await wanted(client.world)
        good = await client.form(path, given, host="heal.example.org", origin="https://heal.example.org")
        assert 200 == good.status

    asked(talk, url="https://heal.example.org/")


def test_what_is_no_form_is_refused() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        path, _, token = client.link(approval).partition("?token=")
        kind = {"content_type": "application/x-www-form-urlencoded", "token": None}
        refused(await client.post(path, b"\xff\xfe", **kind), 400, "BAD_FORM")
        refused(await client.post(path, b"a=%ff", **kind), 400, "BAD_FORM")
        refused(await client.post(path, b"&".join([b"a=b"] * 9), **kind), 400, "BAD_FORM")
        twice = f"token={token}&answer=reject&answer=approve".encode()
        refused(await client.post(path, twice, **kind), 422, "BAD_BODY")
        plain = {"content_type": "text/plain", "token": None}
        refused(await client.post(path, f"token={token}&answer=approve".encode(), **plain), 415, "NOT_JSON")
        assert approval == await wanted(client.world)

    asked(talk)


def test_there_are_no_links_to_answer_with_when_they_are_off() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        behind = Behind(client.world.database, client.access)
        client.app = StatusApp(Face(client.world), StatusSettings(), behind)
        refused(await client.get(client.link(approval), token=None), 404, "NOT_FOUND")
        refused(await client.post(client.link(approval), {"answer": "approve"}, token=None), 404, "NOT_FOUND")
        client.app = StatusApp(
            Face(client.world), StatusSettings(), replace(behind, links=client.links), only=["/metrics"]
        )
        refused(await client.get(client.link(approval), token=None), 404, "NOT_FOUND")
        refused(await client.get(f"{APPROVALS}/{approval.plan}"), 404, "NOT_FOUND")

    asked(talk)


def test_no_host_but_our_own_may_be_named_with_a_link() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        link = client.link(approval)
        assert 200 == (await client.get(link, token=None)).status
        assert 421 == (await client.get(link, token=None, host="evil.example")).status
        assert 421 == (await client.get(link, token=None, host=".")).status

    asked(talk)


def test_texts_from_outside_are_shown_as_texts() -> None:
    async def talk(client: Client, approval: Approval) -> None:
        plan = await client.world.knowledge.plan(approval.plan)
        assert plan is not None
        await client.world.knowledge.save_plan(Plan(**{**{n: getattr(plan, n) for n in plan.__slots__},
                                                       "because": (HOSTILE,)}))  # fmt: skip
        page = await client.get(client.link(approval), token=None)
        assert 200 == page.status
        assert "script" not in Form(page.text).tags
        assert "&lt;script&gt;" in page.text

    asked(talk)


def test_no_token_is_logged_whatever_becomes_of_the_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def talk(client: Client, approval: Approval) -> None:
        link = client.link(approval)
        await client.get(link, token=None)
        await client.post(link, b"{", token=None)
        client.world.database.broken = "no space left"
        await client.post(link, {"answer": "approve"}, token=None)
        client.world.database.broken = ""
        await client.post(link, {"answer": "approve"}, token=None)
        token = client.links.token(approval.plan, approval.expires)
        assert token not in "".join(json.dumps(vars(record), default=str) for record in caplog.records)
        assert "approval answered" in [record.getMessage() for record in caplog.records]
        journal = json.dumps([entry.text for entry in await client.world.knowledge.history("web")])
        assert token not in journal
        assert token not in client.world.metrics.exposition("")[0].decode()

    asked(talk)
    assert is_secret_name("token")  # so that the daemon's own logger would hide one all the same


# -- at the command line ----------------------------------------------------------------------------------------------


def listed(folder: Path, capsys: pytest.CaptureFixture[str], output: str) -> str:
    args = Namespace(output=output, config=None, state_dir=str(folder), set=[])
    assert 0 == command.listed(args)
    return capsys.readouterr().out


def test_the_command_line_lists_what_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("X0TTA6BL4_CONFIG", raising=False)

    async def fill(ask: bool) -> None:
        database = await SqliteDatabase.open(tmp_path / "knowledge.db", migrations())
        clock = SimpleNamespace(wall=lambda: 4e9, monotonic=lambda: 0.0)
        knowledge = SqliteKnowledge("store", Config(), database, cast(Any, clock))
        if ask:
            incident = Incident("i1", "web", "dead", IncidentState.OPEN, Severity.MAJOR, "web is dead", 4e9, 4e9)
            await knowledge.save_incident(incident)
            step = Step("plan-1.1", "process.restart", "web")
            plan = Plan("plan-1", "i1", "web", "dead", "dead", "restart", (step,), ("web is dead",))
            await knowledge.want_approval(plan, 4e9 + 900, "web is dead")
        await database.close()

    asyncio.run(fill(ask=False))
    assert "Nothing waits for approval." in listed(tmp_path, capsys, "table")
    assert {"approvals": [], "daemon": None} == json.loads(listed(tmp_path, capsys, "json"))

    asyncio.run(fill(ask=True))
    table = listed(tmp_path, capsys, "table")
    for part in ("plan-1", "web", "process.restart on web", "web is dead", "x0tta6bl4 approve plan-1"):
        assert part in table
    (told,) = json.loads(listed(tmp_path, capsys, "json"))["approvals"]
    assert ("plan-1", "wanted", "process.restart") == (told["plan"], told["state"], told["steps"][0]["action"])
