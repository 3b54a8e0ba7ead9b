"""Keeping the daemon's hands off something over HTTP: with an end, under a name that exists, told and taken back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from asking import TOKEN, Endpoint, play, problem, signed_in
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.status import operating as module
from x0tta6bl4.status.access import Scope
from x0tta6bl4.status.operating import LONGEST_PAUSE

PAUSES = "/api/v1/pauses"
SEEN = {"web-1": 1.0, "web-2": 1.0, "db": 1.0}


async def listed(endpoint: Endpoint) -> list[Any]:
    pauses: list[Any] = (await endpoint.get(PAUSES)).json["pauses"]
    return pauses


def moment(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def test_a_pause_is_made_with_its_end_listed_and_ended(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        now = datetime.now(UTC)
        reply = await endpoint.post(PAUSES, {"target": "db", "for": "90m", "reason": "  moving   disks "})
        made = reply.json
        assert (201, f"{PAUSES}/db") == (reply.status, reply["location"])
        assert ("db", "pause", "moving disks", "operator (api)") == tuple(
            made[key] for key in ("target", "kind", "reason", "who")
        )
        since, until = moment(made["since"]), moment(made["until"])
        assert abs((until - since).total_seconds() - 5400) < 1
        assert abs((since - now).total_seconds()) < 60
        assert [made] == await listed(endpoint)
        assert [made["id"]] == [pause.id for pause in endpoint.face.loop.standing.pauses], "the loop heeds it at once"

        reply = await endpoint.delete(reply["location"])
        assert (200, {"target": "db", "ended": 1}) == (reply.status, reply.json)
        assert [] == await listed(endpoint) == list(endpoint.face.loop.standing.pauses)
        error = problem(await endpoint.delete(f"{PAUSES}/db"), 404, "NOT_PAUSED")
        assert ["nothing is paused at all"] == error["suggestions"]

    play(tmp_path, story, SEEN)


def test_a_name_with_a_slash_can_be_resumed(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        reply = await endpoint.post(PAUSES, {"target": "disk:/var", "for": "1h"})
        assert (201, f"{PAUSES}/disk%3A%2Fvar") == (reply.status, reply["location"])

        reply = await endpoint.delete(reply["location"])
        assert (200, {"target": "disk:/var", "ended": 1}) == (reply.status, reply.json)
        assert [] == await listed(endpoint)

    play(tmp_path, story, {"disk:/var": 1.0})


def test_an_end_can_be_a_moment_in_any_time_zone(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        end = (datetime.now(UTC) + timedelta(hours=2)).replace(microsecond=0)
        there = end + timedelta(hours=2)
        for text in (end.isoformat().replace("+00:00", "Z"), there.isoformat().replace("+00:00", "+02:00")):
            reply = await endpoint.post(PAUSES, {"target": "db", "until": text, "kind": "maintenance"})
            assert (201, "maintenance", end) == (reply.status, reply.json["kind"], moment(reply.json["until"]))
        assert {"target": "db", "ended": 2} == (await endpoint.delete(f"{PAUSES}/db")).json, "both are on that name"

    play(tmp_path, story, SEEN)


def test_a_moment_without_a_time_zone_could_be_any(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        soon = (datetime.now() + timedelta(days=30)).isoformat()
        error = problem(await endpoint.post(PAUSES, {"target": "db", "until": soon}), 422, "BAD_PAUSE")
        assert "time zone" in error["message"]
        assert [] == await listed(endpoint)

    play(tmp_path, story, SEEN)


@pytest.mark.parametrize("target", ["*", "web-*", "web-?", "w[e]b-1", "db"])
def test_a_pattern_pauses_what_it_matches_and_ends_under_its_own_name(tmp_path: Path, target: str) -> None:
    async def story(endpoint: Endpoint) -> None:
        reply = await endpoint.post(PAUSES, {"target": target, "for": "1h"})
        assert 201 == reply.status, reply.text
        assert unquote(reply["location"]) == f"{PAUSES}/{target}"
        assert not set("?[] ") & set(reply["location"])
        if target != "web-1":
            error = problem(await endpoint.delete(f"{PAUSES}/web-1"), 404, "NOT_PAUSED")
            assert [f"paused: {target}"] == error["suggestions"]
        assert {"target": target, "ended": 1} == (await endpoint.delete(reply["location"])).json
        assert [] == await listed(endpoint)

    play(tmp_path, story, SEEN)


@pytest.mark.parametrize("target", ["dbb", "web", "DB", "web-3", "x*", "db ", "**/db", "[", "d\u0432"])
def test_who_mistypes_a_name_is_told_and_believes_nothing_paused(tmp_path: Path, target: str) -> None:
    async def story(endpoint: Endpoint) -> None:
        error = problem(await endpoint.post(PAUSES, {"target": target, "for": "1h"}), 404, "NO_SUCH_TARGET")
        assert "db, web-1, web-2" in error["suggestions"][0]
        assert error["message"].isascii()
        assert [] == await listed(endpoint)

    play(tmp_path, story, SEEN)


@pytest.mark.parametrize(("body", "code", "where"), [
    ({}, "BAD_BODY", "target"),
    ({"target": "db"}, "BAD_BODY", ""),
    ({"target": "db", "for": "1h", "until": "2030-01-01T00:00:00Z"}, "BAD_BODY", ""),
    ({"target": "", "for": "1h"}, "BAD_BODY", "target"),
    ({"target": "d\u202eb", "for": "1h"}, "BAD_BODY", "target"),
    ({"target": "db\n", "for": "1h"}, "BAD_BODY", "target"),
    ({"target": 7, "for": "1h"}, "BAD_BODY", "target"),
    ({"target": "x" * 201, "for": "1h"}, "BAD_BODY", "target"),
    ({"target": "db", "for": 3600}, "BAD_BODY", "for"),
    ({"target": "db", "for_": "1h"}, "BAD_BODY", "for_"),
    ({"target": "db", "for": "1h", "kind": "holiday"}, "BAD_BODY", "kind"),
    ({"target": "db", "for": "1h", "reason": "\x1b[2J"}, "BAD_BODY", "reason"),
    ({"target": "db", "for": "1h", "reason": "x" * 1001}, "BAD_BODY", "reason"),
    ({"target": "db", "for": "1h", "who": "somebody"}, "BAD_BODY", "who"),
    ({"target": "db", "for": ""}, "BAD_PAUSE", "for"),
    ({"target": "db", "for": "soon"}, "BAD_PAUSE", "for"),
    ({"target": "db", "for": "0s"}, "BAD_PAUSE", "for"),
    ({"target": "db", "for": "-1h"}, "BAD_PAUSE", "for"),
    ({"target": "db", "for": "367d"}, "BAD_PAUSE", "for"),
    ({"target": "db", "for": "inf"}, "BAD_PAUSE", "for"),
    ({"target": "db", "for": "nan"}, "BAD_PAUSE", "for"),
    ({"target": "db", "until": "tomorrow"}, "BAD_PAUSE", "until"),
    ({"target": "db", "until": "2030-01-01T00:00:00"}, "BAD_PAUSE", "until"),
    ({"target": "db", "until": "2020-01-01T00:00:00Z"}, "BAD_PAUSE", "until"),
    ({"target": "db", "until": "9999-12-31T23:59:59Z"}, "BAD_PAUSE", "until"),
    ({"target": "db", "until": "0001-01-01T00:00:00+23:59"}, "BAD_PAUSE", "until"),
])  # fmt: skip
def test_what_has_no_end_or_no_sense_is_refused_with_the_place(
    tmp_path: Path, body: dict[str, Any], code: str, where: str
) -> None:
    async def story(endpoint: Endpoint) -> None:
        error = problem(await endpoint.post(PAUSES, body), 422, code)
        assert where in [mistake["where"] for mistake in error["details"]["mistakes"]]
        assert [] == await listed(endpoint)

    play(tmp_path, story, SEEN)


def test_there_are_not_more_pauses_than_anybody_can_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PAUSES", 2)

    async def story(endpoint: Endpoint) -> None:
        body = {"target": "db", "for": "1h"}
        assert [201, 201] == [(await endpoint.post(PAUSES, body)).status for _ in range(2)]
        problem(await endpoint.post(PAUSES, body), 409, "TOO_MANY_PAUSES")
        assert 200 == (await endpoint.delete(f"{PAUSES}/db")).status
        assert 201 == (await endpoint.post(PAUSES, body)).status

    play(tmp_path, story, SEEN)


@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ends=st.lists(
        st.dictionaries(st.sampled_from(["for", "until"]), st.text(max_size=30) | st.datetimes().map(str), min_size=1),
        min_size=1,
        max_size=10,
    )
)
def test_no_end_makes_it_our_mistake(tmp_path: Path, ends: list[dict[str, str]]) -> None:
    async def story(endpoint: Endpoint) -> None:
        for end in ends:
            reply = await endpoint.post(PAUSES, {"target": "db", **end})
            assert reply.status in (201, 422), reply.text
            if reply.status == 201:
                lasts = moment(reply.json["until"]) - moment(reply.json["since"])
                assert 0 <= lasts.total_seconds() <= LONGEST_PAUSE + 1

    play(tmp_path, story, SEEN)


def test_a_pause_that_is_over_is_listed_no_more(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        await endpoint.post(PAUSES, {"target": "db", "for": "1m"})
        await endpoint.post(PAUSES, {"target": "web-1", "for": "2m"})
        endpoint.clock.ahead = 61
        assert ["web-1"] == [pause["target"] for pause in await listed(endpoint)]

    play(tmp_path, story, SEEN)


def test_it_is_kept_who_paused_and_who_went_on(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        key, browser = await endpoint.key(Scope.OPERATE, "deploys"), await signed_in(endpoint)
        body = {"target": "db", "for": "1h"}
        told = {
            "deploys (api)": (await endpoint.post(PAUSES, body, authorization=f"Bearer {key}")).json["who"],
            "oncall (page)": (await browser.ask("POST", PAUSES, body)).json["who"],
            "operator (api)": (await endpoint.post(PAUSES, body)).json["who"],
        }
        assert list(told) == list(told.values())
        assert 3 == (await browser.ask("DELETE", f"{PAUSES}/db")).json["ended"]
        trail = await endpoint.face.loop.parts.knowledge.audit_trail(100)
        seen = [(row.who, row.what) for row in trail]
        for who in told:
            assert (who, "pause.begun") in seen
        assert ("oncall (page)", "pause.ended") in seen

    play(tmp_path, story, SEEN)


def test_readers_see_the_pauses_and_change_none(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        await endpoint.post(PAUSES, {"target": "db", "for": "1h"})
        key = await endpoint.key(Scope.READ)
        for headers, status in (({"authorization": None}, 401), ({"authorization": f"Bearer {key}"}, 403)):
            assert 1 == len((await endpoint.send("GET", PAUSES, **headers)).json["pauses"])
            reply = await endpoint.post(PAUSES, {"target": "*", "for": "1h"}, **headers)
            assert status == reply.status
            assert status == (await endpoint.delete(f"{PAUSES}/db", **headers)).status
        assert ["db"] == [pause["target"] for pause in await listed(endpoint)]
        endpoint.peer = "192.0.2.7"
        problem(await endpoint.get(PAUSES), 401, "UNAUTHORIZED")

    play(tmp_path, story, SEEN)


def test_what_the_store_does_not_take_is_no_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(endpoint: Endpoint) -> None:
        async def failing(*given: Any, **more: Any) -> Any:
            raise StoreError("no space left")

        knowledge = endpoint.face.loop.parts.knowledge
        for name in ("add_pause", "remove_pause", "pauses"):
            monkeypatch.setattr(knowledge, name, failing)
        for reply in (
            await endpoint.post(PAUSES, {"target": "db", "for": "1h"}),
            await endpoint.delete(f"{PAUSES}/db"),
            await endpoint.get(PAUSES, authorization=f"Bearer {TOKEN}"),
        ):
            error = problem(reply, 503, "STORE_FAILING")
            assert "no space left" in error["message"]
            assert reply["retry-after"]

    play(tmp_path, story, SEEN)
