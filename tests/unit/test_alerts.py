"""Alerts that others send: taken once, healed by, and believed when they say that it is over."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0tta6bl4.adapters.alerts import LATE, QUEUE, AlertInbox, Overflow
from x0tta6bl4.analyzers.alerts import AlertAnalyzer
from x0tta6bl4.app import draw
from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Condition, IncidentState, Lost, Observation, Occurrence, Result, Severity
from x0tta6bl4.kernel.loop import MAPEK
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.monitors import alerts as module
from x0tta6bl4.monitors.alerts import AlertMonitor, Config
from x0tta6bl4.ports.alerts import Alert
from x0tta6bl4.settings.model import Settings, StatusSettings
from x0tta6bl4.status import alerting
from x0tta6bl4.status.access import Access
from x0tta6bl4.status.alerting import BODY_LIMIT, AlertSaid, Notice
from x0tta6bl4.status.app import StatusApp
from x0tta6bl4.status.desk import Behind
from x0tta6bl4.status.face import Face
from x0tta6bl4.status.problems import Refusal
from x0tta6bl4.status.routes import read_said
from x0tta6bl4.testing.fakes import FakeAlerts, FakeClock
from x0tta6bl4.testing.virtual_time import run
from x0tta6bl4.testing.world import World

NEVER = "0001-01-01T00:00:00Z"
WEB = {"process": ["/bin/web"], "mode": "auto"}
RUNBOOK = {
    "runbook": "errors-high",
    "summary": "Too many requests fail. Restart it.",
    "trigger": {"anomaly": "alert-high-error-rate"},
    "states": {
        "restart": {"do": "service.restart", "expect": {"within": "10m"}, "done": "healed", "failed": "tell"},
        "tell": {"do": "notify.human", "done": "told", "failed": "told"},
        "healed": {"final": True},
        "told": {"final": True},
    },
}


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")  # nanoseconds, as senders write


def said(status: str = "firing", **labels: str) -> dict[str, Any]:
    """One alert as Alertmanager sends it."""
    starts = 1e9
    labels = {"alertname": "HighErrorRate", "severity": "critical", "service": "web", **labels}
    return {
        "status": status,
        "labels": labels,
        "annotations": {"summary": "5 % of the requests fail"},
        "startsAt": at(starts),
        "endsAt": NEVER if status == "firing" else at(starts + 60),
        "generatorURL": "http://prometheus.example:9090/graph",
        "fingerprint": f"{abs(hash(tuple(sorted(labels.items())))):016x}"[:16],
    }


def notice(*alerts: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Around them, what Alertmanager 0.25 sends besides."""
    return {
        "receiver": "x0tta6bl4", "status": "firing", "alerts": list(alerts), "groupLabels": {"alertname": "x"},
        "commonLabels": {}, "commonAnnotations": {}, "externalURL": "http://alertmanager.example:9093", "version": "4",
        "groupKey": '{}:{alertname="x"}', "truncatedAlerts": 0, **more,
    }  # fmt: skip


@dataclass
class Daemon:
    """What the endpoint sees of a world."""

    world: World
    token: str = "the-operators-token"
    version: str = "test"
    started_at: float = 0.0

    @property
    def loop(self) -> MAPEK:
        return self.world.loop

    @property
    def metrics(self) -> Any:
        return self.world.metrics


@dataclass
class Sender:
    world: World
    statuses: list[int] = field(default_factory=list)

    async def post(self, body: Any, **headers: str | None) -> Any:
        world = self.world
        access = Access(world.database, world.knowledge.audit, world.clock, lambda: b"k" * 32)
        behind = Behind(world.database, access, alerts=world.alerts)
        app = StatusApp(cast(Face, Daemon(world)), StatusSettings(rate_limit_per_minute=1), behind)
        given = {
            "host": "127.0.0.1", "content-type": "application/json", "authorization": f"Bearer {Daemon.token}",
            "user-agent": "Alertmanager/0.25.0", **headers,
        }  # fmt: skip
        scope: dict[str, Any] = {
            "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": "/api/v1/alerts",
            "raw_path": b"/api/v1/alerts", "query_string": b"", "root_path": "", "client": ("127.0.0.1", 5),
            "server": None, "headers": [(k.encode(), v.encode()) for k, v in given.items() if v is not None],
        }  # fmt: skip
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": raw, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        self.statuses.append(sent[0]["status"])
        self.headers = dict(sent[0]["headers"])
        return json.loads(sent[1]["body"])

    async def tell(self, *alerts: Mapping[str, Any]) -> tuple[int, int, int]:
        told = await self.post(notice(*alerts))
        assert 200 == self.statuses[-1], told
        return told["taken"], told["known"], told["ignored"]

    async def refused(self, body: Any, status: int, **headers: str | None) -> Any:
        told = await self.post(body, **headers)
        assert status == self.statuses[-1], told
        return told["error"]

    def received(self) -> dict[str, float]:
        page = self.world.metrics.exposition()[0].decode()
        rows = [line for line in page.splitlines() if line.startswith("x0tta6bl4_alerts_received_total{")]
        return {row.split('"')[1]: float(row.split()[1]) for row in rows}


def hearing(**more: Any) -> World:
    monitors = {"host": {"enabled": False}, "alerts": {"use": "alerts", **more.pop("alerts", {})}}
    subjects = more.pop("subjects", {"web": WEB})
    return World(subjects, monitors=monitors, analyzers={"alerts": {"use": "alerts"}}, runbooks=[RUNBOOK], **more)


def lived(story: Callable[[Sender], Awaitable[None]], **more: Any) -> None:
    async def whole() -> None:
        world = hearing(**more)
        async with world.running():
            await story(Sender(world))

    run(whole())


def open_incidents(sender: Sender) -> list[tuple[str, str]]:
    return [(incident.subject, incident.fault) for incident in sender.world.loop.incidents.open]


# -- a heal ------------------------------------------------------------------------------------------------------------


def test_an_alert_is_healed_by_and_the_heal_is_proved_by_the_resolved_notice_alone() -> None:
    async def story(sender: Sender) -> None:
        world = sender.world
        first = world.processes.supervised("web")
        assert (1, 0, 0) == await sender.tell(said())
        await world.until(lambda: world.processes.supervised("web") not in (first, None), within=5)
        (incident,) = world.loop.incidents.open
        assert ("alert-high-error-rate", Severity.CRITICAL) == (incident.fault, incident.severity)
        assert incident.summary == "web: HighErrorRate: 5 % of the requests fail"
        await asyncio.sleep(300)
        assert IncidentState.RESPONDING == world.loop.incidents.open[0].state, "nobody has said that it is over"
        assert (0, 1, 0) == await sender.tell(said())
        await asyncio.sleep(200)
        assert (1, 0, 0) == await sender.tell(said("resolved"))
        await asyncio.sleep(5)

        (action,) = await world.actions()
        (incident,) = await world.incidents()
        assert ("process.restart", Result.VERIFIED) == (action.action, action.result)
        assert (IncidentState.CLOSED, "healed") == (incident.state, incident.ended)
        assert {"taken": 2.0, "known": 1.0} == sender.received()

    lived(story)


def test_an_alert_that_is_not_resolved_in_time_refutes_the_heal_and_a_human_is_told() -> None:
    async def story(sender: Sender) -> None:
        await sender.tell(said())
        await asyncio.sleep(595)
        assert [None] == [action.result for action in await sender.world.actions()]
        await asyncio.sleep(10)
        restart, told, *_ = await sender.world.actions()
        assert ("process.restart", Result.REFUTED) == (restart.action, restart.result)
        assert "notify.human" == told.action
        assert [("web", "alert-high-error-rate")] == open_incidents(sender)

    lived(story)


def test_what_is_resolved_while_it_is_being_healed_counts_for_the_proof() -> None:
    async def story(sender: Sender) -> None:
        world, first = sender.world, sender.world.processes.supervised("web")
        await sender.tell(said())
        await world.until(lambda: world.processes.supervised("web") != first, within=5)
        await sender.tell(said("resolved"))
        await asyncio.sleep(10)
        assert [Result.VERIFIED] == [action.result for action in await world.actions()]

    lived(story)


def test_a_resolved_alert_is_no_second_trigger_and_one_that_ends_by_itself_is_no_heal() -> None:
    async def story(sender: Sender) -> None:
        await sender.tell(said())
        await asyncio.sleep(30)
        await sender.tell(said("resolved"))
        await asyncio.sleep(5)
        (incident,) = await sender.world.incidents()
        assert ("recovered", []) == (incident.ended, await sender.world.acts())
        assert (0, 1, 0) == await sender.tell(said("resolved"))
        assert (0, 1, 0) == await sender.tell(said()), "a copy that was long under way"
        await asyncio.sleep(30)
        assert [] == open_incidents(sender)

    lived(story, subjects={"web": {**WEB, "mode": "observe"}})


def test_of_several_alerts_of_one_name_all_must_be_over_and_the_worst_says_how_bad_it_is() -> None:
    async def story(sender: Sender) -> None:
        low, high = {"path": "/a", "severity": "info"}, {"path": "/b", "severity": "page"}
        assert (2, 0, 0) == await sender.tell(said(**low), said(**high))
        await asyncio.sleep(1)
        (incident,) = sender.world.loop.incidents.open
        assert (Severity.CRITICAL, True) == (incident.severity, "(and 1 more of that name)" in incident.summary)
        await sender.tell(said("resolved", **high))
        await asyncio.sleep(60)
        assert 1 == len(open_incidents(sender))
        await sender.tell(said("resolved", **low))
        await asyncio.sleep(5)
        assert [] == open_incidents(sender)

    lived(story, subjects={"web": {**WEB, "mode": "observe"}})


def test_an_alert_that_nobody_repeats_is_unknown_after_a_while_and_neither_acted_on_nor_called_healed() -> None:
    async def story(sender: Sender) -> None:
        world = sender.world
        await sender.tell(said())
        await asyncio.sleep(720)
        before, (incident,) = await world.acts(), world.loop.incidents.open
        assert [None] == [world.loop.parts.sight.holds(sign, "web") for sign in incident.healthy_when]
        await asyncio.sleep(1800)
        assert before == await world.acts()
        assert 1 == len(open_incidents(sender)), "unknown is not resolved"
        await sender.tell(said("resolved"))
        await asyncio.sleep(5)
        assert [] == open_incidents(sender)

    lived(story, alerts={"stale_after": "10m"})


def test_an_alert_that_is_repeated_in_time_goes_on() -> None:
    async def story(sender: Sender) -> None:
        for _ in range(5):
            await sender.tell(said())
            await asyncio.sleep(500)
        assert sender.world.loop.parts.sight.latest("web", "alert_high_error_rate_up") is not None

    lived(story, alerts={"stale_after": "10m"}, subjects={"web": {**WEB, "mode": "observe"}})


def test_a_daemon_that_is_started_again_does_nothing_about_an_alert_until_it_is_told_of_it() -> None:
    async def whole() -> None:
        world = hearing()
        async with world.running():
            sender = Sender(world)
            await sender.tell(said())
            await asyncio.sleep(700)
            done = await world.acts()
            assert done
        world.crash()
        async with world.running():
            await asyncio.sleep(1800)
            assert done == await world.acts()
            assert 1 == len(open_incidents(sender))
            assert (1, 0, 0) == await sender.tell(said("resolved")), "that it is over it believes at once"
            await asyncio.sleep(5)
            assert [] == open_incidents(sender)

    run(whole())


def test_an_alert_on_a_dependency_keeps_nobody_from_being_healed() -> None:
    async def story(sender: Sender) -> None:
        world = sender.world
        await sender.tell(said(service="db", alertname="CertificateSoon"))
        await asyncio.sleep(1)
        world.kill("web")
        assert await world.until(lambda: world.processes.supervised("web") is not None, within=5) < 1

    subjects = {"web": {**WEB, "depends_on": ["db"]}, "db": {"process": ["/bin/db"], "mode": "observe"}}
    lived(story, subjects=subjects)


def test_a_flood_is_taken_and_the_loop_goes_on() -> None:
    async def story(sender: Sender) -> None:
        world = sender.world
        assert (150, 0, 0) == await sender.tell(*(said(alertname=f"Flood{n}") for n in range(150)))
        world.kill("web")
        await world.until(lambda: world.processes.supervised("web") is not None, within=5)
        await asyncio.sleep(1)
        assert 150 == sum(fault.startswith("alert-flood") for _, fault in open_incidents(sender))

    lived(story)


# -- the door ----------------------------------------------------------------------------------------------------------


def test_without_a_monitor_the_sender_is_told_which_lines_are_missing() -> None:
    async def whole() -> None:
        world = World({"web": WEB})
        async with world.running():
            sender = Sender(world)
            error = await sender.refused(notice(said()), 404)
            assert "ALERTS_NOT_WANTED" == error["code"]
            assert {"monitors: {alerts: {use: alerts}}", "analyzers: {alerts: {use: alerts}}"} <= {
                *error["suggestions"]
            }
            assert {"refused": 1.0} == sender.received()

    run(whole())


def test_while_the_loop_does_not_run_the_sender_is_told_to_come_again() -> None:
    async def whole() -> None:
        world = hearing()
        world.build()
        sender = Sender(world)
        assert "ALERTS_NOT_HEARD" == (await sender.refused(notice(said()), 503))["code"]
        assert b"5" == sender.headers[b"retry-after"]
        async with world.running():
            assert (1, 0, 0) == await Sender(world).tell(said())

    run(whole())


def test_when_there_is_no_room_what_was_taken_is_known_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(sender: Sender) -> None:
        alerts = [said(path=str(number)) for number in range(QUEUE + 50)]
        with monkeypatch.context() as patch:
            patch.setattr(alerting, "IN_A_ROW", QUEUE * 2)  # nobody has his turn in between
            error = await sender.refused(notice(*alerts), 503)
        assert ("ALERTS_OVERFLOW", b"5") == (error["code"], sender.headers[b"retry-after"])
        assert {"taken": QUEUE, "known": 0, "ignored": 0, "truncated": 0} == error["details"]
        await asyncio.sleep(5)
        assert (50, QUEUE, 0) == await sender.tell(*alerts)
        assert {"taken": QUEUE + 50.0, "known": float(QUEUE), "refused": 50.0} == sender.received()

    lived(story)


def test_who_may_not_operate_tells_nothing_and_nobody_is_ever_limited() -> None:
    async def story(sender: Sender) -> None:
        await sender.refused(notice(said()), 401, authorization=None)
        await sender.refused(notice(said()), 401, authorization="Bearer x0k_000000000000_wrong")
        for _ in range(20):
            await sender.tell(said())
        assert [200] * 20 == sender.statuses[2:]

    lived(story)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400), (b"\xff", 400), ({}, 422), ([], 422), ({"alerts": {}}, 422), ({"alerts": [1]}, 422),
        (notice({**said(), "status": "pending"}), 422), (notice({**said(), "labels": {"a": 1}}), 422),
        (notice({**said(), "startsAt": "yesterday"}), 422),
        (notice({**said(), "startsAt": "2030-01-01T00:00:00"}), 422),
        (notice({**said(), "startsAt": 17}), 422), (notice({**said(), "startsAt": None}), 422),
        (notice({k: v for k, v in said().items() if k != "labels"}), 422), (notice(truncatedAlerts=-1), 422),
        (b" " * (BODY_LIMIT + 1), 413),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_for_good(body: Any, status: int) -> None:
    async def story(sender: Sender) -> None:
        await sender.refused(body, status)
        assert {} == sender.received()

    lived(story)


def test_a_large_group_and_what_other_senders_add_is_taken() -> None:
    async def story(sender: Sender) -> None:
        large = notice(*(said(path=f"{n}{'x' * 300}") for n in range(900)), truncatedAlerts=7)
        assert 512 * 1024 < len(json.dumps(large)) < BODY_LIMIT
        told = await sender.post(large)
        assert {"taken": 900, "known": 0, "ignored": 0, "truncated": 7} == told
        grafana = {
            **said(path="/g"), "values": {"B": 22.2}, "valueString": "[ var='B' ]", "silenceURL": "https://g.example",
            "dashboardURL": "", "panelURL": "", "imageURL": "https://g.example/image.png", "orgId": 1,
        }  # fmt: skip
        body = notice(grafana, version="1", orgId=1, title="[FIRING:1]", state="alerting", message="**Firing**")
        assert 1 == (await sender.post(body))["taken"]
        bare = {"status": "firing", "labels": {"alertname": "A", "service": "web"}, "startsAt": at(1e9)}
        assert 1 == (await sender.post({"alerts": [bare]}))["taken"]
        assert 1 == (await sender.post({"alerts": [bare]}))["known"], "its labels make it the same"

    lived(story)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=10,
)
words = st.dictionaries(st.text(max_size=12), st.text(max_size=20), max_size=4)
moments = st.datetimes(timezones=st.timezones()).map(datetime.isoformat) | st.just(NEVER)
good = st.fixed_dictionaries(
    {"status": st.sampled_from(["firing", "resolved"]), "labels": words, "startsAt": moments},
    optional={"annotations": words, "endsAt": moments, "fingerprint": st.text(max_size=70), "nix": anything},
)
spoilt = st.tuples(good, st.sampled_from(["status", "labels", "startsAt", "annotations", "endsAt"]), anything).map(
    lambda drawn: {**drawn[0], drawn[1]: drawn[2]}
)


@given(st.lists(good, max_size=4), words)
def test_every_well_formed_notice_is_read(alerts: list[Any], more: dict[str, str]) -> None:
    body = {**{f"x{name}": text for name, text in more.items()}, "alerts": alerts}
    read = [one.alert() for one in read_said(Notice, json.loads(json.dumps(body))).alerts]
    assert [one["status"] == "firing" for one in alerts] == [alert.firing for alert in read]
    assert all(0 < len(alert.fingerprint) <= 64 for alert in read)


@given(st.fixed_dictionaries({"alerts": st.lists(spoilt, max_size=2) | anything}) | anything)
def test_whatever_is_sent_is_read_or_refused_in_words(body: Any) -> None:
    try:
        notice = read_said(Notice, json.loads(json.dumps(body)))
    except Refusal as refusal:
        assert 422 == refusal.status
    else:
        for one in notice.alerts:
            one.alert()


# -- the inbox ---------------------------------------------------------------------------------------------------------


@dataclass
class Reading:
    """An inbox with somebody who listens."""

    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.inbox = AlertInbox(self.clock, remembered=3)
        self.told = self.inbox.listen(lambda alert: alert.name != "unwanted")

    async def take(self, *alerts: Alert) -> list[str]:
        reading = asyncio.ensure_future(anext(self.told))
        await asyncio.sleep(0)
        received: list[str] = [self.inbox.offer(alert) for alert in alerts]
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        self.told = self.inbox.listen(lambda alert: alert.name != "unwanted")
        return received


def made(starts: float = 100.0, firing: bool = True, print_: str = "f", **more: Any) -> Alert:
    return Alert(print_, more.pop("name", "A"), firing, more or {"service": "web"}, {}, starts)


def test_a_notice_counts_once_whichever_way_it_came() -> None:
    async def story() -> None:
        reading = Reading()
        fires, over = made(), made(firing=False)
        assert ["taken", "known"] == await reading.take(fires, fires)
        assert ["taken", "known", "known"] == await reading.take(over, over, fires)
        assert ["taken", "known"] == await reading.take(made(200.0), over), "an old end does not end what fires anew"
        assert ["ignored"] == await reading.take(made(name="unwanted"))
        assert [200.0] == [told.alert.starts_at for told in reading.inbox.firing()]

    asyncio.run(story())


def test_what_fires_again_with_its_old_beginning_is_heard_when_it_can_be_no_copy_any_more() -> None:
    async def story() -> None:
        reading = Reading()
        await reading.take(made(), made(firing=False))
        reading.clock.advance(LATE - 1)
        assert ["known"] == await reading.take(made())
        reading.clock.advance(1)
        assert ["taken"] == await reading.take(made())

    asyncio.run(story())


def test_one_for_whom_there_is_no_room_leaves_no_trace() -> None:
    async def story() -> None:
        inbox = AlertInbox(FakeClock(), queue=1)
        with pytest.raises(Overflow):
            inbox.offer(made())
        told = inbox.listen(lambda alert: True)
        reading = asyncio.ensure_future(anext(told))
        await asyncio.sleep(0)
        assert "taken" == inbox.offer(made(print_="f"))
        with pytest.raises(Overflow):
            inbox.offer(made(print_="g"))
        assert ["f"] == [one.alert.fingerprint for one in inbox.firing()]
        assert "f" == (await reading).alert.fingerprint
        assert "taken" == inbox.offer(made(print_="g"))
        await told.aclose()
        assert not inbox.is_heard

    asyncio.run(story())


def test_no_more_alerts_are_remembered_than_there_is_room_for() -> None:
    async def story() -> None:
        reading = Reading()
        await reading.take(*(made(print_=str(number)) for number in range(5)))
        assert ["2", "3", "4"] == [told.alert.fingerprint for told in reading.inbox.firing()]

    asyncio.run(story())


# -- the monitor and the analyzer --------------------------------------------------------------------------------------


@dataclass
class Hearing:
    """A monitor with an inbox, and what it reports."""

    config: Config = field(default_factory=Config)
    subjects: tuple[str, ...] = ("web", "db")

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.alerts = FakeAlerts(self.clock)
        self.heard: list[Occurrence] = []
        self.prints = count()

    async def hear(self, *alerts: Alert) -> tuple[AlertMonitor, list[bool]]:
        monitor = AlertMonitor(
            "alerts", self.config, self.clock, self.alerts, {name: Subject(name) for name in self.subjects}
        )
        watching = asyncio.ensure_future(monitor.watch(self.heard.append))
        await asyncio.sleep(0)
        wanted = [self.alerts.tell(alert) for alert in alerts]
        for _ in range(2 * len(alerts) + 2):
            await asyncio.sleep(0)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        return monitor, wanted

    def labelled(self, alertname: str = "A", **labels: str) -> Alert:
        return Alert(str(next(self.prints)), alertname, True, labels, {}, 100.0)


@pytest.mark.parametrize(
    ("labels", "subject"),
    [
        ({"subject": "web", "service": "db"}, "web"),
        ({"subject": "nix", "service": "db"}, "db"),
        ({"job": "web", "instance": "db:9100"}, "web"),
        ({"instance": "db:9100"}, "db"),
        ({"instance": "db:x"}, None),
        ({"instance": ":9100"}, None),
        ({"namespace": "web"}, None),
        ({}, None),
    ],
)
def test_the_first_label_whose_value_is_under_care_names_the_subject(
    labels: dict[str, str], subject: str | None
) -> None:
    hearing = Hearing()
    _, wanted = asyncio.run(hearing.hear(hearing.labelled(**labels)))
    assert ([subject is not None], [subject] if subject else []) == (wanted, [one.subject for one in hearing.heard])


def test_only_the_alerts_that_are_to_be_heard_are() -> None:
    hearing = Hearing(Config(only=["Web*", "Disk*"], never=["*Soon"]))
    names = ["WebSlow", "DiskFull", "DiskFullSoon", "Other", "!!!"]
    _, wanted = asyncio.run(hearing.hear(*(hearing.labelled(name, service="web") for name in names)))
    assert [True, True, False, False, False] == wanted


def test_no_more_pairs_of_subject_and_alert_are_known_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    hearing = Hearing()

    async def story() -> list[bool]:
        monitor, _ = await hearing.hear(*(hearing.labelled(f"A{n}", service="web") for n in range(3)))
        _, wanted = await hearing.hear(*(hearing.labelled(f"A{n}", service="web") for n in range(1, 5)))
        assert 6 == len(await monitor.observe())
        return wanted

    assert [True, True, False, False] == asyncio.run(story())


@pytest.mark.parametrize(
    ("word", "grade"), [("critical", 3), ("PAGE", 3), ("error", 2), ("warning", 1), ("info", 0), ("odd", 2), (None, 2)]
)
def test_the_senders_word_says_how_bad_it_is(word: str | None, grade: int) -> None:
    hearing = Hearing(Config(severity="major"))
    asyncio.run(hearing.hear(hearing.labelled(service="web", **({} if word is None else {"severity": word}))))
    ((_, severity),) = [one.observations for one in hearing.heard]
    assert ("alert_a_severity", grade) == (severity.metric, severity.value)


def test_words_of_ones_own_say_how_bad_it_is_in_any_spelling() -> None:
    hearing = Hearing(Config(severities={"P1": "critical"}))
    asyncio.run(hearing.hear(hearing.labelled(service="web", severity="p1")))
    assert 3.0 == hearing.heard[0].observations[1].value


def test_what_is_not_to_be_heard_any_more_after_a_reload_is_let_go_of() -> None:
    async def story() -> None:
        hearing = Hearing()
        await hearing.hear(hearing.labelled("A", service="web"), hearing.labelled("B", service="web"))
        hearing.config = Config(never=["A"])
        monitor, _ = await hearing.hear()
        assert [
            ("alert_a_up", True),
            ("alert_a_severity", True),
            ("alert_b_up", False),
            ("alert_b_severity", False),
        ] == [(seen.metric, isinstance(seen, Lost)) for seen in await monitor.observe()]
        assert {"alert_b_up", "alert_b_severity"} == {seen.metric for seen in await monitor.observe()}

    asyncio.run(story())


def test_what_went_stale_during_a_reload_is_unknown() -> None:
    async def story() -> None:
        hearing = Hearing()
        await hearing.hear(hearing.labelled(service="web"))
        hearing.clock.advance(hearing.config.stale_after + 1)
        monitor, _ = await hearing.hear()
        assert [Lost, Lost] == [type(seen) for seen in await monitor.observe()]

    asyncio.run(story())


@given(st.text(max_size=100))
def test_every_name_gives_a_metric_that_the_analyzer_knows_or_is_left_alone(name: str) -> None:
    hearing = Hearing()
    monitor, (wanted,) = asyncio.run(hearing.hear(hearing.labelled(name, service="web")))
    sight = Sight({"web": Subject("web")})
    sight.record(asyncio.run(_observed(monitor)), 10.0)
    found = AlertAnalyzer("alerts").analyze(View(sight, 10.0))
    assert wanted == bool(found)
    assert all(one.fault.removeprefix("alert-").replace("-", "").isalnum() and one.fault.isascii() for one in found)


async def _observed(monitor: AlertMonitor) -> list[Observation]:
    return list(await monitor.observe())


@given(st.text())
def test_what_people_read_of_it_is_one_bounded_line(text: str) -> None:
    hearing = Hearing()
    alert = replace(hearing.labelled("High\nErrors\x1b[31m", service="web"), annotations={"description": text})
    asyncio.run(hearing.hear(alert))
    (said,) = hearing.heard
    assert said.detail.startswith("High Errors[31m")
    assert len(said.detail) <= module.SHOWN
    assert said.detail.isprintable()


def test_what_fires_is_known_over_a_reload_and_said_when_asked() -> None:
    async def story() -> None:
        hearing = Hearing()
        one, two = hearing.labelled(service="web"), hearing.labelled(service="web")
        await hearing.hear(one, two)
        hearing.heard.clear()
        monitor, _ = await hearing.hear(replace(one, firing=False))
        (said,) = hearing.heard
        assert ("alert resolved", 0.0) == (said.kind, said.observations[0].value), "the other one still fires"
        assert [("alert_a_up", 0.0), ("alert_a_severity", 1.0)] == [
            (seen.metric, seen.value) for seen in await monitor.observe()
        ]
        other, _ = await hearing.hear(replace(two, firing=False))
        assert [("alert_a_up", 1.0)] == [(seen.metric, seen.value) for seen in await other.observe()]
        hearing.clock.advance(hearing.config.stale_after + 1)
        assert [Lost, Lost] == [type(seen) for seen in await other.observe()]
        assert [] == list(await other.observe())

    asyncio.run(story())


def test_two_monitors_do_not_share_the_alerts() -> None:
    async def story() -> None:
        inbox, monitors = AlertInbox(FakeClock()), []
        for name in ("one", "two"):
            monitor = AlertMonitor(name, Config(), FakeClock(), inbox, {"web": Subject("web")})
            monitors.append((monitor, asyncio.ensure_future(monitor.watch(lambda _: None))))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(ProbeFailed, match="another monitor listens"):
            await monitors[1][0].observe()
        assert [] == list(await monitors[0][0].observe())
        for _, task in monitors:
            task.cancel()
        await asyncio.gather(*(task for _, task in monitors), return_exceptions=True)

    asyncio.run(story())


def test_the_analyzer_finds_what_fires_since_it_fires_and_knows_when_it_is_over() -> None:
    sight = Sight({"web": Subject("web"), "db": Subject("db")})
    for at_, value in ((10.0, 1.0), (20.0, 0.0), (30.0, 0.0)):
        sight.record([Observation("alerts", "web", "alert_high_error_rate_up", value, detail="HighErrorRate: so")], at_)
    sight.record([Observation("alerts", "web", "alert_high_error_rate_severity", 2.0)], 30.0)
    sight.record([Observation("alerts", "db", "alert_high_error_rate_up", 1.0)], 30.0)
    (found,) = AlertAnalyzer("alerts").analyze(View(sight, 40.0))
    assert ("web", "alert-high-error-rate", "web: HighErrorRate: so", Severity.MAJOR, 20.0) == (
        found.subject, found.fault, found.summary, found.severity, found.since,
    )  # fmt: skip
    assert (Condition("alert_high_error_rate_up", ">=", 1.0),) == found.healthy_when
    assert [] == list(AlertAnalyzer("alerts").analyze(View(sight, 40.0, frozenset({"db"}))))
    sight.record([Lost("alerts", "web", "alert_high_error_rate_up")], 50.0)
    assert [] == list(AlertAnalyzer("alerts").analyze(View(sight, 50.0)))


def test_the_schema_of_an_alert_is_open() -> None:
    assert "additionalProperties" not in AlertSaid.model_json_schema()
    assert "date-time" == AlertSaid.model_json_schema()["properties"]["startsAt"]["format"]


def test_what_is_lost_is_unknown_and_begins_anew_when_it_is_seen_again() -> None:
    sight = Sight({"web": Subject("web")})
    sign = Condition("alert_a_up", ">=", 1.0)
    assert set() == sight.record([Lost("alerts", "web", "alert_a_up")], 1.0), "what was never known is no news"
    sight.record([Observation("alerts", "web", "alert_a_up", 0.0), Observation("alerts", "db", "alert_a_up", 1.0)], 2.0)
    assert {"web"} == sight.record([Lost("alerts", "web", "alert_a_up")], 3.0)
    assert (None, True) == (sight.holds(sign, "web"), sight.holds(sign, "db"))
    assert (None, None) == (sight.streak("web", "alert_a_up"), sight.trace("web", "alert_a_up"))
    sight.record([Lost("alerts", "db", "alert_a_up")], 3.0)
    assert () == tuple(sight.metrics())
    sight.record([Observation("alerts", "web", "alert_a_up", 0.0)], 4.0)
    streak = sight.streak("web", "alert_a_up")
    assert streak is not None
    assert 4.0 == streak.since


def test_alerts_without_an_endpoint_are_a_mistake_in_the_configuration() -> None:
    settings = {"monitors": {"told": {"use": "alerts"}}, "status": {"enabled": False}}
    _, problems = draw(Settings.model_validate(settings), None)
    assert ["monitors.told"] == [problem.where for problem in problems]
