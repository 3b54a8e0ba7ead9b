"""What is asked for by name: checked before it is done, done once for one key, and told of truly after a death."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import TOKEN, Endpoint, Reply, Sent, play, problem

from x0tta6bl4.kernel.facts import Incident, IncidentState, Plan, Severity, Step
from x0tta6bl4.kernel.memory import Approval
from x0tta6bl4.status import commands as module
from x0tta6bl4.status.access import Scope
from x0tta6bl4.status.commands import COMMANDS, KEPT, Receipt, Receipts

NAMES = ["approve", "cycle", "pause", "reject", "reload", "reroute_mesh", "resume", "tell"]
DEAD = {"web": 0.0, "db": 1.0}
PAUSE = {"command": "pause", "params": {"target": "web", "for": "1h", "reason": "moving disks"}}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, too, what is soon done is answered at once."""
    monkeypatch.setattr(module, "ANSWER_WITHIN", 60.0)


async def command(endpoint: Endpoint, body: Any, key: str | None = None, **headers: Sent) -> Reply:
    return await endpoint.post(COMMANDS, body, **({} if key is None else {"idempotency_key": key}), **headers)


async def done(endpoint: Endpoint, name: str, key: str | None = None, **params: Any) -> Any:
    reply = await command(endpoint, {"command": name, "params": params}, key)
    assert 200 == reply.status, reply.text
    told = reply.json
    assert (name, "done", None) == (told["command"], told["state"], told["problem"])
    return told["result"]


async def pauses(endpoint: Endpoint) -> list[Any]:
    listed: list[Any] = (await endpoint.get("/api/v1/pauses")).json["pauses"]
    return listed


async def waiting(endpoint: Endpoint) -> Approval:
    """A plan that a person is asked about, for an incident that nobody else has looked at."""
    knowledge, now = endpoint.face.loop.parts.knowledge, endpoint.clock.wall()
    incident = Incident("inc-db", "db", "hung", IncidentState.OPEN, Severity.MAJOR, "it hangs", now, now)
    await knowledge.save_incident(incident)
    step = Step("step-1", "process.restart", "db", incident=incident.id)
    plan = Plan("plan-1", incident.id, "db", "hung", "service-down", "restart", (step,), ("it hangs",), "approve")
    await knowledge.save_plan(plan)
    return await knowledge.want_approval(plan, endpoint.clock.wall() + 600)


def open_one(endpoint: Endpoint) -> Incident:
    (incident,) = endpoint.face.loop.incidents.open
    return incident


async def rows(endpoint: Endpoint) -> dict[str, Any]:
    """Whatever a command could change; a cycle's own traces are not among it."""
    kept: dict[str, Any] = {
        name: await endpoint.database.read(f"SELECT * FROM {name}")
        for name in ("pauses", "approvals", "inbox", "flags", "audit", "commands")
    }
    return {**kept, "reloads": endpoint.face.reloads, "cycles": endpoint.face.loop.cycle_count}


# -- each of them ------------------------------------------------------------------------------------------------------


def test_a_pause_begins_and_ends(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        made = await done(endpoint, "pause", target="web", reason="moving disks", **{"for": "1h"})
        assert ("web", "moving disks", "operator (api)") == (made["target"], made["reason"], made["who"])
        assert [made] == await pauses(endpoint)
        assert {"target": "web", "ended": 1} == await done(endpoint, "resume", target="web")
        assert [] == await pauses(endpoint)
        problem(await command(endpoint, {"command": "resume", "params": {"target": "web"}}), 404, "NOT_PAUSED")
        body = {"command": "pause", "params": {"target": "wbe", "for": "1h"}}
        assert "web" in problem(await command(endpoint, body), 404, "NO_SUCH_TARGET")["suggestions"][0]

    play(tmp_path, story)


def test_a_cycle_runs_when_the_loop_does(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        before = endpoint.face.loop.cycle_count
        told = await done(endpoint, "cycle")
        assert ("ok", 1) == (told["result"], told["findings"])
        assert "ok" == (await done(endpoint, "cycle", subjects=["db"]))["result"]
        assert endpoint.face.loop.cycle_count >= before + 2
        body = {"command": "cycle", "params": {"subjects": ["db", "nix"]}}
        assert "'nix'" in problem(await command(endpoint, body), 404, "NO_SUCH_TARGET")["message"]

    play(tmp_path, story, DEAD, is_running=True)


def test_there_is_no_cycle_while_the_loop_stands(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        before = endpoint.face.loop.cycle_count
        problem(await command(endpoint, {"command": "cycle"}), 409, "LOOP_NOT_RUNNING")
        assert before == endpoint.face.loop.cycle_count

    play(tmp_path, story)


@pytest.mark.parametrize(("name", "state"), [("approve", "approved"), ("reject", "rejected")])
def test_a_plan_that_waits_is_answered_once(tmp_path: Path, name: str, state: str) -> None:
    async def story(endpoint: Endpoint) -> None:
        asked = await waiting(endpoint)
        told = await done(endpoint, name, plan=asked.plan, why="looked at it")
        assert (asked.plan, state, "operator (api)", "looked at it") == tuple(
            told[key] for key in ("plan", "state", "who", "why")
        )
        for again in ("approve", "reject"):
            body = {"command": again, "params": {"plan": asked.plan}}
            problem(await command(endpoint, body), 409, "APPROVAL_ANSWERED")
        (kept,) = await endpoint.face.loop.parts.knowledge.approvals()
        assert (state, "looked at it") == (kept.state, kept.why)
        problem(await command(endpoint, {"command": name, "params": {"plan": "nix"}}), 404, "NO_SUCH_PLAN")

    play(tmp_path, story, DEAD)


def test_a_runbook_is_told_what_it_listens_to(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        incident, knowledge = open_one(endpoint), endpoint.face.loop.parts.knowledge
        told = await done(endpoint, "tell", incident=incident.id, event="operator.hold", data={"n": 1}, why="looking")
        (message,) = [m for m in await knowledge.inbox() if m.id == told["message"]]
        assert (incident.id, "operator.hold", {"n": 1, "why": "looking"}, "operator (api)") == (
            message.incident,
            message.event,
            dict(message.data),
            message.who,
        )
        over = replace(incident, id="inc-over", state=IncidentState.CLOSED, ended="recovered")
        await knowledge.save_incident(over)
        for id, event, status, code in (
            ("inc-nix", "operator.hold", 404, "NO_SUCH_INCIDENT"),
            ("inc-over", "operator.hold", 409, "INCIDENT_OVER"),
            (incident.id, "$migrate", 422, "BAD_PARAMS"),
        ):
            body = {"command": "tell", "params": {"incident": id, "event": event}}
            problem(await command(endpoint, body), status, code)
        assert 1 == len(await knowledge.inbox())

    play(tmp_path, story, DEAD)


def test_a_reload_is_for_administrators(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        key, read = await endpoint.key(Scope.OPERATE, "operate"), await endpoint.key(Scope.READ, "read")
        body = {"command": "reload"}
        for more in ({}, {"dry_run": True}):
            reply = await command(endpoint, {**body, **more}, authorization=f"Bearer {key}")
            assert "admin" in problem(reply, 403, "FORBIDDEN")["message"]
        problem(await command(endpoint, body, authorization=f"Bearer {read}"), 403, "FORBIDDEN")
        problem(await command(endpoint, body, authorization=None), 401, "UNAUTHORIZED")
        assert 0 == endpoint.face.reloads
        assert (await done(endpoint, "reload"))["reloaded"]
        endpoint.face.mistakes = ["mapk: no such section"]
        error = problem(await command(endpoint, body), 422, "CONFIG_INVALID")
        assert (["mapk: no such section"], 2) == (error["details"]["mistakes"], endpoint.face.reloads)

    play(tmp_path, story)


def test_where_there_is_no_mesh_nothing_is_rerouted(tmp_path: Path) -> None:
    """No mesh links, so nothing is pretended: whoever sends it is told that it cannot be done here."""
    body = {
        "command": "reroute_mesh",
        "params": {"source": "node-1", "destination": "node-5", "path": ["node-1", "node-3", "node-5"]},
        "timeout_seconds": 10,
    }

    async def story(endpoint: Endpoint) -> None:
        assert "no mesh" in problem(await command(endpoint, body), 409, "NO_MESH")["message"]
        problem(await command(endpoint, {**body, "dry_run": True}), 409, "NO_MESH")
        problem(await command(endpoint, body, "a-key"), 409, "NO_MESH")
        for path in (["node-3", "node-5"], ["node-1", "node-3"], ["node-1"], []):
            wrong = {**body, "params": {**body["params"], "path": path}}  # type: ignore[dict-item]  # a mapping it is
            problem(await command(endpoint, wrong), 422, "BAD_PARAMS")

    play(tmp_path, story)


# -- what cannot be done -----------------------------------------------------------------------------------------------


def test_what_nobody_knows_is_answered_with_what_is_known_and_the_nearest(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        error = problem(await command(endpoint, {"command": "pasue", "params": {"x": 1}}), 422, "UNKNOWN_COMMAND")
        assert (["did you mean pause?"], NAMES) == (error["suggestions"], sorted(error["details"]["known"]))
        assert all(error["details"]["known"].values()), "each with a sentence"
        error = problem(await command(endpoint, {"command": "\u202e<b>\x00"}), 422, "UNKNOWN_COMMAND")
        assert error["message"].isprintable() and error["message"].isascii()
        assert all(name in error["suggestions"][0] for name in NAMES)
        problem(await command(endpoint, {"command": ""}), 422, "UNKNOWN_COMMAND")

    play(tmp_path, story)


def test_every_mistake_is_told_at_once_and_nothing_is_done(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        before = await rows(endpoint)
        body = {"command": 1, "parms": {}, "timeout_seconds": 0, "dry_run": "yes"}
        error = problem(await command(endpoint, body), 422, "BAD_BODY")
        assert {"command", "parms", "timeout_seconds", "dry_run"} == {m["where"] for m in error["details"]["mistakes"]}
        assert "did you mean params?" in error["suggestions"]
        wrong_ones: list[Any] = [[], "pause", {"command": "pause", "params": []}, {"command": "x" * 101}]
        wrong_ones += [{**PAUSE, "timeout_seconds": seconds} for seconds in (301, -1, "10", True, None)]
        for wrong in wrong_ones:
            problem(await command(endpoint, wrong), 422, "BAD_BODY")
        params = {"targt": "web", "reason": 7, "kind": "break"}
        error = problem(await command(endpoint, {"command": "pause", "params": params}), 422, "BAD_PARAMS")
        assert {"target", "targt", "reason", "kind"} == {m["where"] for m in error["details"]["mistakes"]}
        assert "did you mean target?" in error["suggestions"]
        for name in set(NAMES) - {"reload", "cycle"}:
            problem(await command(endpoint, {"command": name}), 422, "BAD_PARAMS")
        for name in NAMES:
            problem(await command(endpoint, {"command": name, "params": {"nix": 1}}), 422, "BAD_PARAMS")
        problem(await command(endpoint, b"{"), 400, "BAD_JSON")
        assert before == await rows(endpoint)

    play(tmp_path, story)


def test_trying_it_out_says_what_would_be_done_and_changes_nothing(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        await endpoint.face.loop.parts.knowledge.add_pause("db", endpoint.clock.wall() + 600, who="oncall")
        asked, incident = await waiting(endpoint), open_one(endpoint)
        before = await rows(endpoint)
        for name, params, part in (
            ("pause", {"target": "web", "for": "1h"}, "nothing is done to web until 20"),
            ("resume", {"target": "db"}, "the pauses on db end"),
            ("approve", {"plan": asked.plan}, "process.restart on db"),
            ("reject", {"plan": asked.plan}, "process.restart on db"),
            ("tell", {"incident": incident.id, "event": "operator.hold"}, f"the runbook of {incident.id}"),
            ("reload", {}, "the configuration is read again"),
        ):
            for _ in range(2):
                reply = await command(endpoint, {"command": name, "params": params, "dry_run": True}, f"key-{name}")
                told = reply.json
                assert (200, name, "would run") == (reply.status, told["command"], told["state"]), reply.text
                assert ("", None, None, None) == tuple(told[k] for k in ("id", "result", "accepted_at", "ended_at"))
                assert part in told["says"]
        assert before == await rows(endpoint)
        # What could not be done is told just as well.
        for name, params, status, code in (
            ("pause", {"target": "nix", "for": "1h"}, 404, "NO_SUCH_TARGET"),
            ("pause", {"target": "web", "for": "-1h"}, 422, "BAD_PAUSE"),
            ("approve", {"plan": "nix"}, 404, "NO_SUCH_PLAN"),
            ("cycle", {}, 409, "LOOP_NOT_RUNNING"),
        ):
            problem(await command(endpoint, {"command": name, "params": params, "dry_run": True}), status, code)
        assert before == await rows(endpoint)

    play(tmp_path, story, DEAD)


# -- once for one key --------------------------------------------------------------------------------------------------


def test_the_same_key_gets_the_same_answer_and_nothing_is_done_twice(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        first = await command(endpoint, PAUSE, "k-1")
        again = await command(endpoint, PAUSE, "k-1")
        assert (200, "") == (first.status, first["idempotency-replayed"])
        assert (200, "true", first.json) == (again.status, again["idempotency-replayed"], again.json)
        assert 1 == len(await pauses(endpoint))
        # In another order, and with what would have been taken all the same, it is the same command.
        turned = {"timeout_seconds": 10.0, "params": dict(reversed(PAUSE["params"].items())), "command": "pause"}  # type: ignore[attr-defined]  # a mapping it is
        assert first.json == (await command(endpoint, turned, "k-1")).json
        await done(endpoint, "pause", "k-2", **PAUSE["params"])  # type: ignore[arg-type]  # a mapping it is
        assert 2 == len(await pauses(endpoint))

    play(tmp_path, story)


def test_what_the_first_one_did_is_not_in_the_way_of_its_answer(tmp_path: Path) -> None:
    """Whoever did not hear the answer to an approval asks again, and must not be told that somebody was quicker."""

    async def story(endpoint: Endpoint) -> None:
        asked = await waiting(endpoint)
        body = {"command": "approve", "params": {"plan": asked.plan}}
        first, again = await command(endpoint, body, "k"), await command(endpoint, body, "k")
        assert (200, 200, "true", first.json) == (first.status, again.status, again["idempotency-replayed"], again.json)
        body = {"command": "resume", "params": {"target": "web"}}
        await done(endpoint, "pause", target="web", **{"for": "1h"})
        first, again = await command(endpoint, body, "r"), await command(endpoint, body, "r")
        assert (200, first.json) == (again.status, again.json)

    play(tmp_path, story, DEAD)


def test_a_key_that_was_used_for_something_else_is_refused(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        await command(endpoint, PAUSE, "k")
        for other in (
            {**PAUSE, "params": {**PAUSE["params"], "target": "db"}},  # type: ignore[dict-item]  # a mapping it is
            {**PAUSE, "timeout_seconds": 11},
            {"command": "resume", "params": {"target": "web"}},
        ):
            error = problem(await command(endpoint, other, "k"), 422, "KEY_REUSED")
            assert "pause" in error["message"]
        assert ["web"] == [pause["target"] for pause in await pauses(endpoint)]

    play(tmp_path, story, DEAD)


def test_a_key_is_its_callers_own(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        one, two = await endpoint.key(Scope.OPERATE, "one"), await endpoint.key(Scope.OPERATE, "two")
        ids = set()
        for shown in (one, two, TOKEN):
            reply = await command(endpoint, PAUSE, "same", authorization=f"Bearer {shown}")
            assert (200, "") == (reply.status, reply["idempotency-replayed"])
            ids.add(reply.json["id"])
        assert (3, 3) == (len(ids), len(await pauses(endpoint)))
        # Nor does anybody learn that another used it for something else.
        body = {"command": "resume", "params": {"target": "web"}}
        three = await endpoint.key(Scope.OPERATE, "three")
        assert 200 == (await command(endpoint, body, "same", authorization=f"Bearer {three}")).status

    play(tmp_path, story)


@pytest.mark.parametrize("key", ["x" * 201, "two words", "caf\u00e9", "a\tb"])
def test_what_is_no_key_is_refused(tmp_path: Path, key: str) -> None:
    async def story(endpoint: Endpoint) -> None:
        problem(await command(endpoint, PAUSE, key), 400, "BAD_KEY")
        assert [] == await pauses(endpoint)

    play(tmp_path, story)


def test_ten_at_once_with_one_key_are_one(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        replies = await asyncio.gather(*(command(endpoint, PAUSE, "k") for _ in range(10)))
        assert {200, 202} >= {reply.status for reply in replies}
        assert 1 == len({reply.json["id"] for reply in replies}) == len(await pauses(endpoint))
        assert 9 == sum(reply["idempotency-replayed"] == "true" for reply in replies)

    play(tmp_path, story)


def test_the_answer_outlives_the_daemon_for_a_day(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        first = await command(endpoint, PAUSE, "k")
        failed = await command(endpoint, {"command": "resume", "params": {"target": "db"}}, "f")
        problem(failed, 404, "NOT_PAUSED")
        later = endpoint.again()
        again = await command(later, PAUSE, "k")
        assert (200, "true", first.json) == (again.status, again["idempotency-replayed"], again.json)
        told = await command(later, {"command": "resume", "params": {"target": "db"}}, "f")
        assert (404, "true", "application/problem+json") == (
            told.status,
            told["idempotency-replayed"],
            told["content-type"],
        )
        assert failed.json == told.json
        assert first.json == (await later.get(f"{COMMANDS}/{first.json['id']}")).json
        problem(await command(later, {**PAUSE, "timeout_seconds": 9}, "k"), 422, "KEY_REUSED")
        assert 1 == len(await pauses(endpoint))

        endpoint.clock.ahead = KEPT + 1
        fresh = await command(later, PAUSE, "k")
        assert (200, "") == (fresh.status, fresh["idempotency-replayed"])
        assert first.json["id"] != fresh.json["id"]
        problem(await later.get(f"{COMMANDS}/{first.json['id']}"), 404, "NO_SUCH_COMMAND")

    play(tmp_path, story, DEAD)


# -- long ones ---------------------------------------------------------------------------------------------------------


def test_a_long_one_gets_an_address_at_which_to_ask_how_it_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.01)

    async def story(endpoint: Endpoint) -> None:
        face = endpoint.face
        face.may_reload.clear()
        reply = await command(endpoint, {"command": "reload"}, "k")
        place = f"{COMMANDS}/{reply.json['id']}"
        assert (202, place, "running") == (reply.status, reply["location"], reply.json["state"])
        assert (None, None) == (reply.json["result"], reply.json["ended_at"])
        again = await command(endpoint, {"command": "reload"}, "k")
        assert (202, place, "true") == (again.status, again["location"], again["idempotency-replayed"])
        looked = await endpoint.get(place)
        assert (200, "running", reply.json["id"]) == (looked.status, looked.json["state"], looked.json["id"])
        face.may_reload.set()
        while (told := (await endpoint.get(place)).json)["state"] == "running":
            await asyncio.sleep(0.01)
        assert ("done", True, None) == (told["state"], told["result"]["reloaded"], told["problem"])
        assert told["accepted_at"] <= told["ended_at"]
        ended = await command(endpoint, {"command": "reload"}, "k")
        assert (200, "true", told) == (ended.status, ended["idempotency-replayed"], ended.json)
        assert 1 == face.reloads

    play(tmp_path, story)


def test_what_takes_longer_than_it_may_has_failed(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        endpoint.face.may_reload.clear()
        body = {"command": "reload", "timeout_seconds": 0.05}
        reply = await command(endpoint, body, "k")
        while reply.status == 202:  # on a slow machine the time is over before its end is on the disk
            await asyncio.sleep(0.01)
            reply = await command(endpoint, body, "k")
        told = reply.json["error"]
        assert (409, "COMMAND_FAILED") == (reply.status, told["code"])
        assert "reload" in told["message"]
        again = await command(endpoint, body, "k")
        assert (409, "true", 1) == (again.status, again["idempotency-replayed"], endpoint.face.reloads)
        (row,) = await endpoint.database.read("SELECT id FROM commands")
        looked = (await endpoint.get(f"{COMMANDS}/{row[0]}")).json
        assert ("failed", "COMMAND_FAILED") == (looked["state"], looked["problem"]["error"]["code"])

    play(tmp_path, story)


def test_one_that_the_daemon_died_over_is_told_as_unknown_and_not_done_again(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        first = await command(endpoint, PAUSE, "k")
        # As the disk is when the daemon dies between the beginning and the end.
        await endpoint.database.write(
            lambda t: t.execute("UPDATE commands SET ended_at = NULL, status = NULL, body = NULL")
        )
        later = endpoint.again()
        told = await command(later, PAUSE, "k")
        assert (200, "unknown", "true") == (told.status, told.json["state"], told["idempotency-replayed"])
        assert "look before" in told.json["says"]
        assert "unknown" == (await later.get(f"{COMMANDS}/{first.json['id']}")).json["state"]
        assert 1 == len(await pauses(endpoint))

    play(tmp_path, story)


def test_only_so_many_are_under_way_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.001)
    monkeypatch.setattr(module, "UNDER_WAY", 3)

    async def story(endpoint: Endpoint) -> None:
        endpoint.face.may_reload.clear()
        assert [202] * 3 == [(await command(endpoint, {"command": "reload"})).status for _ in range(3)]
        reply = await command(endpoint, PAUSE)
        problem(reply, 503, "OVERLOADED")
        assert "2" == reply["retry-after"]
        assert [] == await pauses(endpoint)
        endpoint.face.may_reload.set()
        while (await command(endpoint, PAUSE, "k")).status == 503:
            await asyncio.sleep(0.01)
        while not await pauses(endpoint):
            await asyncio.sleep(0.01)
        assert 1 == len(await pauses(endpoint))

    play(tmp_path, story)


def test_what_is_under_way_ends_with_the_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.001)

    async def story(endpoint: Endpoint) -> None:
        endpoint.face.may_reload.clear()
        reply = await command(endpoint, {"command": "reload"}, "k")
        assert 202 == reply.status
        await endpoint.app.desk.close()
        told = await endpoint.again().get(reply["location"])
        assert (200, "unknown") == (told.status, told.json["state"])

    play(tmp_path, story)


def test_a_command_that_cannot_be_taken_down_is_not_done(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        await endpoint.database.close()
        for key in (None, "k"):
            problem(await command(endpoint, {"command": "reload"}, key), 503, "STORE_FAILING")
        assert 0 == endpoint.face.reloads

    play(tmp_path, story)


def test_what_nobody_asked_for_is_not_found(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        for id in ("cmd-nix", "x" * 200, "%00", "..", "' OR 1=1 --"):
            problem(await endpoint.get(f"{COMMANDS}/{id}"), 404, "NO_SUCH_COMMAND")
        problem(await endpoint.get(f"{COMMANDS}/{'x' * 201}"), 404, "NOT_FOUND")
        endpoint.peer = "192.0.2.7"
        problem(await endpoint.get(f"{COMMANDS}/cmd-nix"), 401, "UNAUTHORIZED")

    play(tmp_path, story)


def test_of_two_receipts_for_one_key_the_first_stands(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        receipts, now = Receipts(endpoint.database), endpoint.clock.wall()
        first, second = (Receipt(f"cmd-{n}", "key:a", "k", "d", "pause", "life", now) for n in (1, 2))
        assert first is await receipts.take(first)
        assert first == await receipts.take(second) == await receipts.find(second)
        assert await receipts.get("cmd-2") is None
        without = [Receipt(f"cmd-{n}", "key:a", "", "d", "pause", "life", now) for n in (3, 4)]
        assert without == [await receipts.take(one) for one in without], "without a key each is a command of its own"

    play(tmp_path, story)
