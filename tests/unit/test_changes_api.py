"""Noting over HTTP what was changed on purpose: who may, what is asked of it, and where it shows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asking import Endpoint, play, problem

from x0tta6bl4.kernel.facts import Incident, IncidentState, Severity
from x0tta6bl4.kernel.lessons import Alteration
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.status.access import Scope

CHANGES = "/api/v1/changes"
SEEN = {"web": 1.0, "db": 1.0}
DEAD = {"web": 0.0, "db": 1.0}


async def listed(endpoint: Endpoint, query: str = "") -> list[Any]:
    found: list[Any] = (await endpoint.get(CHANGES + query)).json["changes"]
    return found


def at(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def test_a_change_is_noted_listed_and_told_to_the_analyzers(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        then = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
        reply = await endpoint.post(CHANGES, {"subject": "web", "detail": "  v2.3 \n of the shop ", "at": at(then)})
        made = reply.json
        assert 201 == reply.status, reply.text
        assert ("web", "deploy", "v2.3 of the shop", "operator (api)") == tuple(
            made[key] for key in ("subject", "kind", "detail", "who")
        )
        assert then == datetime.fromisoformat(made["at"])
        assert [made] == await listed(endpoint)
        (told,) = [o for o in endpoint.face.loop.parts.sight.recent if o.kind == "altered.deploy"]
        assert ("web", "v2.3 of the shop (said by operator (api))") == (told.subject, told.detail)
        assert 299 < endpoint.clock.monotonic() - told.at < 330

        now = (await endpoint.post(CHANGES, {"subject": "db", "kind": "config"})).json
        assert [now, made] == await listed(endpoint), "the newest first"
        assert [made] == await listed(endpoint, "?subject=web")
        assert [now] == await listed(endpoint, f"?since={at(then + timedelta(minutes=1))}")
        assert [now] == await listed(endpoint, "?limit=1")

    play(tmp_path, story, SEEN)


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ({}, "subject"),
        ({"subject": ""}, "subject"),
        ({"subject": 3}, "subject"),
        ({"subject": "web", "kind": "Two words"}, "kind"),
        ({"subject": "web", "kind": "x" * 41}, "kind"),
        ({"subject": "web", "detail": "\x1b[31m"}, "detail"),
        ({"subject": "web", "detail": "x" * 1001}, "detail"),
        ({"subject": "web", "at": "soon"}, "at"),
        ({"subject": "web", "at": "2020-01-01T00:00:00"}, "at"),
        ({"subject": "web", "when": "2020-01-01T00:00:00Z"}, "when"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_nothing_is_noted(tmp_path: Path, said: Any, where: str) -> None:
    async def story(endpoint: Endpoint) -> None:
        error = problem(await endpoint.post(CHANGES, said), 422, "BAD_BODY")
        assert where in [one["where"] for one in error["details"]["mistakes"]]
        assert [] == await listed(endpoint)

    play(tmp_path, story, SEEN)


def test_what_will_be_done_is_not_noted_before(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        soon = at(datetime.now(UTC) + timedelta(minutes=10))
        error = problem(await endpoint.post(CHANGES, {"subject": "web", "at": soon}), 422, "BAD_CHANGE")
        assert "future" in error["message"]
        assert [] == await listed(endpoint)

    play(tmp_path, story, SEEN)


def test_a_mistyped_subject_is_refused_with_the_nearest(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        error = problem(await endpoint.post(CHANGES, {"subject": "wbe"}), 404, "NO_SUCH_SUBJECT")
        assert ["did you mean 'web'?"] == error["suggestions"]
        assert [] == await listed(endpoint)

    play(tmp_path, story, SEEN)


def test_who_may_only_read_reads(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        key = f"Bearer {await endpoint.key(Scope.READ)}"
        assert 403 == (await endpoint.post(CHANGES, {"subject": "web"}, authorization=key)).status
        assert 401 == (await endpoint.post(CHANGES, {"subject": "web"}, authorization=None)).status
        assert 200 == (await endpoint.get(CHANGES, authorization=key)).status
        assert [] == await listed(endpoint)

    play(tmp_path, story, SEEN)


def test_a_store_that_does_not_answer_is_said_to(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        await endpoint.database.close()
        assert 503 == (await endpoint.post(CHANGES, {"subject": "web"})).status
        assert 503 == (await endpoint.get(CHANGES)).status

    play(tmp_path, story, SEEN)


def test_an_incident_tells_of_changes_about_its_subject_and_what_that_depends_on(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        loop, wall = endpoint.face.loop, endpoint.clock.wall()
        subjects, learnt = loop.parts.sight.subjects, loop.parts.knowledge.learnt
        subjects["web"] = replace(subjects["web"], depends_on=("db",))
        subjects["db"] = replace(subjects["db"], depends_on=("disk",))
        subjects["disk"], subjects["mail"] = Subject("disk"), Subject("mail")
        (incident,) = loop.incidents.open
        for subject, detail, seconds in (
            ("web", "too old", -7200.0),
            ("web", "v2.3", -600.0),
            ("mail", "another's", -500.0),
            ("disk", "grown", -400.0),
        ):
            await learnt.alter(Alteration(subject, "deploy", detail, "ci", wall + seconds))
        wanted = ["deploy of web: v2.3 (noted by ci)", "deploy of disk: grown (noted by ci)"]

        marks = (await endpoint.get(f"/api/v1/incidents/{incident.id}/signals")).json["marks"]
        told = (await endpoint.get(f"/api/v1/incidents/{incident.id}")).json["timeline"]

        assert wanted == [mark["text"] for mark in marks if mark["kind"] == "altered"]
        assert ["altered", "altered", "onset"] == [mark["kind"] for mark in marks][:3], "in the order of their times"
        lines = [line for line in told if line["kind"] == "altered"]
        assert wanted == [line["text"] for line in lines] and told[:2] == lines
        assert {"subject": "web", "change": "deploy", "detail": "v2.3", "who": "ci"} == lines[0]["data"]

    play(tmp_path, story, DEAD)


def test_what_was_changed_after_the_end_of_an_incident_is_not_told_with_it(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        knowledge, wall = endpoint.face.loop.parts.knowledge, endpoint.clock.wall()
        hung = Incident("inc-over", "db", "hung", IncidentState.CLOSED, Severity.WARNING, "it hung", wall - 900, wall)
        over = replace(hung, closed_at=wall - 600, ended="recovered")
        await knowledge.save_incident(over)
        for detail, seconds in (("during", -700.0), ("after", -60.0)):
            await knowledge.learnt.alter(Alteration("db", "config", detail, "ci", wall + seconds))

        marks = (await endpoint.get("/api/v1/incidents/inc-over/signals")).json["marks"]

        assert ["config of db: during (noted by ci)"] == [one["text"] for one in marks if one["kind"] == "altered"]

    play(tmp_path, story, SEEN)
