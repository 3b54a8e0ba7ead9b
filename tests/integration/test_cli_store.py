"""The command line over a real store: what a person is told, what is written, and with which exit code."""

import asyncio
import fcntl
import json
import os
import sqlite3
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from time import time
from typing import Any

import pytest

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.cli import main
from x0tta6bl4.cli.why import Case
from x0tta6bl4.cli.why import _case as case_of
from x0tta6bl4.kernel.facts import (
    Answer,
    Condition,
    Incident,
    IncidentState,
    Move,
    Outcome,
    Plan,
    Result,
    Severity,
    Step,
    Verdict,
)
from x0tta6bl4.kernel.memory import SubjectState
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.testing.virtual_time import run as run_in_virtual_time
from x0tta6bl4.testing.world import World

Output = pytest.CaptureFixture[str]
UP = (Condition("work_up", ">=", 1.0),)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("X0TTA6BL4_CONFIG", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "state"


def fill(state: Path, work: Callable[[SqliteKnowledge], Awaitable[Any]]) -> Any:
    async def filled() -> Any:
        database = await SqliteDatabase.open(state / "knowledge.db", migrations())
        try:
            return await work(SqliteKnowledge("store", Config(), database, SystemClock()))
        finally:
            await database.close()

    return asyncio.run(filled())


def incident(id: str = "inc-web-1", subject: str = "web", **more: Any) -> Incident:
    now = time()
    return replace(
        Incident(
            id,
            subject,
            "hung",
            IncidentState.OPEN,
            Severity.CRITICAL,
            f"{subject} does not answer",
            now - 90,
            now,
            onset_at=now - 90,
            because=("work_up is 0: no answer within 1.2 s (seen by web.work)",),
            healthy_when=UP,
        ),
        **more,
    )


def plan(of: Incident, id: str = "plan-1", action: str = "process.restart") -> Plan:
    step = Step(f"{id}.1", action, of.subject)
    return Plan(id, of.id, of.subject, of.fault, "hung", "restart", (step,), (of.summary, "rule hung v1, rung restart"))


def well(*names: str) -> list[SubjectState]:
    return [SubjectState(name, "well", time() - 300, "every probe says yes: work_up", time()) for name in names]


def ask(state: Path, *words: str) -> int:
    return main(["--state-dir", str(state), *words])


async def trouble(knowledge: SqliteKnowledge, verdict: Verdict) -> None:
    await knowledge.save_subjects(well("web", "db"))
    await knowledge.save_incident(incident())
    await knowledge.record_decision(plan(incident()), plan(incident()).steps[0], verdict, time())


def test_why_of_a_well_subject_says_so_and_since_when(state: Path, capsys: Output) -> None:
    fill(state, lambda k: k.save_subjects(well("web", "db")))

    assert ask(state, "why", "web") == 0
    out = capsys.readouterr().out
    assert "web is well since" in out and "5 min ago" in out and "Nothing is wrong with it" in out
    assert "No daemon runs: nothing is watched or healed now" in out


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (
            Verdict("backoff", Answer.HOLD, "2 tries in a row did not help", 240.0),
            ("HELD until", "in 4 min", "2 tries"),
        ),
        (
            Verdict("allowlist", Answer.DENY, "process.restart is not among guard.allow"),
            ("DENIED", "add process.restart to"),
        ),
        (Verdict("mode", Answer.HOLD, "waits for approval", 240.0), ("HELD until", "x0tta6bl4 approve plan-1")),
        (Verdict("kill switch", Answer.DENY, "auto_healing is off"), ("DENIED", "x0tta6bl4 flags auto_healing on")),
        (Verdict("maintenance", Answer.HOLD, "paused by oncall"), ("HELD:", "x0tta6bl4 resume")),
    ],
)
def test_why_not_names_the_check_its_reason_and_the_way_out(
    verdict: Verdict, told: tuple[str, ...], state: Path, capsys: Output
) -> None:
    if verdict.until is not None:  # told in seconds from now
        verdict = replace(verdict, until=time() + verdict.until)
    fill(state, lambda k: trouble(k, verdict))

    assert ask(state, "why", "web") == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in ("web is hung", "because work_up is 0", "process.restart on web", "Nothing was done", *told):
        assert words in out


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (
            Verdict("mode", Answer.DENY, "web is in mode suggest"),
            ("DENIED: web is in mode suggest", "do it yourself, or"),
        ),
        (Verdict("mode", Answer.HOLD, "waits for approval", 240.0), ("HELD until", "x0tta6bl4 approve plan-1")),
    ],
)
def test_a_person_who_was_told_of_the_verdict_does_not_hide_it(
    verdict: Verdict, told: tuple[str, ...], state: Path, capsys: Output
) -> None:
    wanted = plan(incident())
    if verdict.until is not None:
        verdict = replace(verdict, until=time() + verdict.until)

    async def asked(knowledge: SqliteKnowledge) -> None:
        await knowledge.save_plan(wanted)
        await trouble(knowledge, verdict)
        step = Step("plan-1-ask1.1", "notify.human", "web")
        await knowledge.record_intent(
            step, replace(wanted, id="plan-1-ask1", rung="ask", steps=(step,)), await knowledge.boot()
        )
        await knowledge.record_outcome(step.id, Outcome(step.id, Result.UNVERIFIED, "sent", time(), time() + 1))

    fill(state, asked)

    assert ask(state, "why", "web") == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "Planned by runbook hung, step restart (plan-1): process.restart on web",
        "The guard (mode): process.restart on web",
        "Nothing was done about it but to try and let people know.",
        *told,
    ):
        assert words in out

    over = incident(state=IncidentState.CLOSED, closed_at=time(), ended="recovered")
    fill(state, lambda k: k.save_incident(over))
    ask(state, "why", "web")
    out = " ".join(capsys.readouterr().out.split())
    assert "Last trouble: hung, recovered" in out and f"(mode): process.restart on web {told[0]}" in out


@pytest.mark.parametrize(("mode", "answer"), [("suggest", Answer.DENY), ("approve", Answer.HOLD)])
def test_what_the_real_loop_tells_people_does_not_hide_what_it_wants(mode: str, answer: Answer) -> None:
    url = "http://127.0.0.1:1/work"
    world = World({"web": {"process": ["/bin/web"], "work": url, "mode": mode}})

    async def hung() -> Case:
        async with world.running():
            world.hang(url)
            for _ in range(120):
                await asyncio.sleep(1.0)
                if "notify.human" in [a.action for a in await world.actions()]:
                    break
            await asyncio.sleep(10.0)
            (found,) = await world.incidents()
            return await case_of(world.knowledge, found)

    case = run_in_virtual_time(hung())

    decision, wanted = case.latest_decision, case.latest_plan
    # In virtual time both have the same moment, so that it is no other plan is asked by itself.
    assert [(begun.data["action"], case.only_asks(begun)) for begun, _ in case.actions] == [("notify.human", True)]
    assert decision is not None and (decision.check, decision.answer) == ("mode", answer)
    assert wanted is not None and [step.action for step in wanted.steps] == ["process.restart"]


def test_a_rung_that_happens_to_be_called_ask_replaces_what_was_said_before(state: Path, capsys: Output) -> None:
    async def climbed(knowledge: SqliteKnowledge) -> None:
        await trouble(knowledge, Verdict("mode", Answer.DENY, "web is in mode suggest"))
        step = Step("plan-2.1", "notify.human", "web")
        own = replace(plan(incident(), "plan-2"), rung="ask", steps=(step,))
        await knowledge.record_intent(step, own, await knowledge.boot())

    fill(state, climbed)

    assert ask(state, "why", "web") == 0
    out = capsys.readouterr().out
    assert "step ask (plan-2)" in out and "DENIED" not in out


def test_an_abort_that_the_runbook_does_not_speak_of_is_told_as_calling_it_off(state: Path, capsys: Output) -> None:
    def move(number: int, event: str, *, taken: bool, **more: Any) -> Move:
        return Move("inc-web-1", number, time(), event, taken=taken, **more)

    async def aborted(knowledge: SqliteKnowledge) -> None:
        await knowledge.save_incident(incident())
        first = await knowledge.send("inc-web-1", "operator.abort", {}, "oncall@cli")
        other = await knowledge.send("inc-web-1", "operator.abort", {}, "oncall@cli")
        told = {"who": "oncall@cli"}
        moves = [
            move(1, "operator.abort", taken=False, data=told, message=first.id),
            move(2, "$seen", taken=False),
            move(3, "operator.abort", taken=False, data=told, message=other.id),
            move(4, "$close", taken=True),
        ]
        await knowledge.save_incident(incident(), moves)

    fill(state, aborted)

    for more in ((), ("--moves",)):
        ask(state, "incidents", "inc-web-1", *more)
        out = capsys.readouterr().out
        assert out.count("operator.abort by oncall@cli; nothing listened to it") == 1
        assert out.count("operator.abort by oncall@cli; its runbook is called off") == 1


def test_why_tells_what_was_done_with_its_outcome_and_proof(state: Path, capsys: Output) -> None:
    async def healed(knowledge: SqliteKnowledge) -> None:
        await knowledge.save_subjects(well("web"))
        steps, began = plan(incident()), time()
        await knowledge.record_intent(steps.steps[0], steps, 1, incident=incident())
        outcome = Outcome(
            "plan-1.1",
            Result.VERIFIED,
            "started pid 7; proved by work_up >= 1 for 3 s",
            began,
            time() + 3,
            verified_at=began + 0.2,
            because=("work_up is 1: answered 200 (seen by web.work)",),
            output="up\n",
        )
        await knowledge.record_outcome(
            "plan-1.1", outcome, incident(state=IncidentState.CLOSED, closed_at=time() + 3, ended="healed")
        )

    fill(state, healed)

    assert ask(state, "why", "web") == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "Last trouble: hung, healed after 90 s",
        "(hung/restart): VERIFIED after",
        "started pid 7",
        "proof: work_up is 1: answered 200",
        "| up",
        "x0tta6bl4 incidents inc-web-1",
    ):
        assert words in out


def test_a_target_that_is_not_there_gets_the_nearest_and_what_is_watched(state: Path, capsys: Output) -> None:
    fill(state, lambda k: k.save_subjects(well("web", "db")))

    assert ask(state, "why", "wbe") == 2
    err = capsys.readouterr().err
    assert "did you mean 'web'?" in err and "watched are 2 subjects: db, web" in err


def test_a_subject_that_is_watched_no_more_is_not_shown_as_well(state: Path, capsys: Output) -> None:
    async def renamed(knowledge: SqliteKnowledge) -> None:
        await knowledge.save_subjects([replace(well("old")[0], at=time() - 3600)])
        await knowledge.save_subjects(well("web"))

    fill(state, renamed)

    ask(state, "--output", "json", "status")
    assert [s["name"] for s in json.loads(capsys.readouterr().out)["subjects"]] == ["web"]


def test_incidents_lists_the_open_ones_and_with_all_the_others(state: Path, capsys: Output) -> None:
    async def two(knowledge: SqliteKnowledge) -> None:
        await knowledge.save_incident(incident())
        await knowledge.save_incident(
            incident("inc-db-2", "db", state=IncidentState.CLOSED, closed_at=time(), ended="healed")
        )

    fill(state, two)

    def listed(*words: str) -> list[str]:
        assert ask(state, "--output", "json", "incidents", *words) == 0
        return sorted(i["id"] for i in json.loads(capsys.readouterr().out)["incidents"])

    assert listed() == ["inc-web-1"]
    assert listed("--all") == ["inc-db-2", "inc-web-1"]
    assert listed("--all", "--subject", "db") == ["inc-db-2"]
    assert ask(state, "incidents", "--subject", "dbb") == 2
    assert "'db'" in capsys.readouterr().err


def test_the_story_of_an_incident_is_found_by_a_part_of_its_id(state: Path, capsys: Output) -> None:
    fill(state, lambda k: trouble(k, Verdict("allowlist", Answer.DENY, "is not allowed")))

    assert ask(state, "incidents", "web-1") == 0
    out = capsys.readouterr().out
    assert "opened" in out and "deny by allowlist: is not allowed" in " ".join(out.split())
    assert ask(state, "incidents", "web") == 0  # the only one that has it in its id
    capsys.readouterr()
    fill(state, lambda k: k.save_incident(incident("inc-web-2")))
    assert ask(state, "incidents", "web") == 2
    err = capsys.readouterr().err
    assert "inc-web-1" in err and "inc-web-2" in err


def test_approve_is_written_with_who_and_why_and_stands(
    state: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "oncall")

    async def wanted(knowledge: SqliteKnowledge) -> None:
        await knowledge.save_incident(incident())
        await knowledge.want_approval(plan(incident()), time() + 900)
        await knowledge.want_approval(plan(incident(), "plan-2"), time() - 1)

    fill(state, wanted)

    assert ask(state, "approve", "plan-1", "--why", "looked at it") == 0
    approval = next(a for a in fill(state, lambda k: k.approvals()) if a.plan == "plan-1")
    assert (approval.state, approval.who, approval.why) == ("approved", "oncall@cli", "looked at it")
    capsys.readouterr()
    assert ask(state, "reject", "plan-1") == 1
    assert "was approved before, by oncall@cli" in capsys.readouterr().out
    assert ask(state, "approve", "plan-2") == 1
    assert "Too late" in capsys.readouterr().out
    assert ask(state, "approve", "plan-3") == 2


def test_pause_and_resume_are_written_and_a_mistyped_target_is_not(state: Path, capsys: Output) -> None:
    fill(state, lambda k: k.save_subjects(well("web", "db")))

    assert ask(state, "pause", "wbe", "--for", "30m") == 2
    assert "did you mean 'web'?" in capsys.readouterr().err
    assert ask(state, "pause", "w*", "--for", "30m", "--reason", "deploy", "--maintenance") == 0
    (pause,) = fill(state, lambda k: k.pauses())
    assert (pause.target, pause.kind, pause.reason) == ("w*", "maintenance", "deploy")
    assert 1790 < pause.until - time() <= 1800
    ask(state, "why", "web")
    assert "in maintenance by" in capsys.readouterr().out
    assert ask(state, "resume", "web") == 2
    assert ask(state, "resume") == 0
    assert fill(state, lambda k: k.pauses()) == []
    assert ask(state, "resume") == 0


def test_resume_of_what_is_not_paused_says_so_and_what_is(state: Path, capsys: Output) -> None:
    fill(state, lambda k: k.save_subjects(well("web")))

    assert ask(state, "resume", "nope") == 2
    assert "nothing is paused under the name 'nope'; nothing is paused at all" in capsys.readouterr().err
    assert ask(state, "pause", "web", "--for", "30m") == 0
    assert ask(state, "resume", "nope") == 2
    assert "nothing is paused under the name 'nope'; paused: web" in capsys.readouterr().err
    assert len(fill(state, lambda k: k.pauses())) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("why",),
        ("why", "web"),
        ("incidents",),
        ("incidents", "--subject"),
        ("resume",),
        ("approve",),
        ("pause", "--for", "1h"),
        ("pause", "--for"),
        ("flags",),
        (),
    ],
)
@pytest.mark.parametrize("letter", ["a", "a ", "\x1b"])
def test_a_whole_file_given_by_mistake_is_not_said_back(
    letter: str, words: tuple[str, ...], state: Path, capsys: Output
) -> None:
    fill(state, lambda k: k.save_subjects(well("web")))

    assert ask(state, *words, letter * 100_000) == 2
    assert len(capsys.readouterr().err) < 1500


def test_flags_are_shown_turned_and_audited(state: Path, capsys: Output) -> None:
    fill(state, lambda k: k.save_subjects(well("web")))

    assert ask(state, "--output", "json", "flags", "auto_healing") == 0
    assert json.loads(capsys.readouterr().out)["flags"][0]["from"] == "default"
    assert ask(state, "flags", "auto_healing", "off") == 0
    assert "was on, is off now" in capsys.readouterr().out
    assert fill(state, lambda k: k.flags()) == {"auto_healing": False}
    ask(state, "why", "web")
    assert "auto_healing is off" in capsys.readouterr().out
    assert ask(state, "audit") == 0
    assert "flag.set" in capsys.readouterr().out


def test_audit_verify_finds_what_was_changed_behind_our_back(state: Path, capsys: Output) -> None:
    fill(state, lambda k: k.set_flag("auto_healing", False, "oncall"))

    assert ask(state, "audit", "verify") == 0
    with sqlite3.connect(state / "knowledge.db") as connection:
        connection.execute("UPDATE audit SET who = 'intruder'")
    connection.close()
    capsys.readouterr()
    assert ask(state, "--output", "json", "audit", "verify") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["holds"], told["broken_at"]) == (False, 1)


def test_an_export_comes_back_whole_in_another_place(state: Path, tmp_path: Path, capsys: Output) -> None:
    fill(state, lambda k: trouble(k, Verdict("allowlist", Answer.DENY, "is not allowed")))
    fill(state, lambda k: k.set_flag("auto_healing", False, "oncall"))
    file, other = tmp_path / "all.jsonl", tmp_path / "other"

    assert ask(state, "audit", "export", str(file)) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert ask(other, "audit", "import", str(file)) == 0
    assert ask(other, "audit", "verify") == 0
    capsys.readouterr()
    ask(other, "--output", "json", "why", "web")
    assert json.loads(capsys.readouterr().out)["incidents"][0]["decision"]["check"] == "allowlist"


def test_what_is_no_export_is_refused_and_makes_no_store(state: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "noise").write_bytes(b"\xff\xfe\x00noise\n")

    assert ask(state, "audit", "import", "noise") == 3
    assert "no export" in capsys.readouterr().err
    assert ask(state, "audit", "import", "nothing") == 1
    assert "nothing: no such file" in capsys.readouterr().err
    assert not state.exists()


def test_a_store_of_another_user_is_told_with_the_way_in(
    state: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(state, lambda k: k.save_subjects(well("web")))
    monkeypatch.setattr(os, "access", lambda *_: False)

    assert ask(state, "why", "web") == 77
    assert "sudo -u" in capsys.readouterr().err


# -- with a daemon's lock and face -------------------------------------------------------------------------------------


@contextmanager
def daemon(state: Path, told: Any = None, pid: int | None = None) -> Iterator[None]:
    """Its lock, truly held, and its endpoint, answering with ``told``; None: no endpoint."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(told).encode()
            self.send_response(200 if self.path == "/status" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        with (state / "daemon.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            face = {"url": f"http://127.0.0.1:{server.server_port}/"} if told is not None else {}
            json.dump(
                {"pid": pid or os.getpid(), "since": "today", "config": "x", "state_dir": str(state), **face}, lock
            )
            lock.flush()
            yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def face(**states: str) -> Any:
    since = datetime.fromtimestamp(time() - 7200, UTC).isoformat()
    return {
        "pid": os.getpid(),
        "conditions": [],
        "subjects": [
            {"name": name, "state": state, "since": since, "summary": "seen live", "mode": "auto"}
            for name, state in states.items()
        ],
    }


def test_the_living_daemon_is_asked_before_the_store(state: Path, capsys: Output) -> None:
    fill(state, lambda k: k.save_subjects(well("web")))

    with daemon(state, face(web="hung")):
        assert ask(state, "status") == 1
        assert "seen live" in capsys.readouterr().out
        assert ask(state, "why", "web") == 0
        out = capsys.readouterr().out
        assert "web is hung since" in out and "2 h ago" in out and "in mode auto" in out
    with daemon(state, face(web="well")):
        assert ask(state, "status") == 0


def test_a_daemon_that_cannot_be_asked_is_told_and_the_store_serves(state: Path, capsys: Output) -> None:
    fill(state, lambda k: k.save_subjects(well("web")))

    for told in (None, {"subjects": 3}, {**face(web="hung"), "pid": 1}):
        with daemon(state, told):
            assert ask(state, "status") == 0
            out = capsys.readouterr().out
            assert "could not be asked" in out and "comes from the store" in out and "every probe says yes" in out


def test_what_a_killed_daemon_left_is_no_daemon(state: Path, capsys: Output) -> None:
    fill(state, lambda k: k.save_subjects(well("web")))
    for pid in (os.getpid(), 2**22 + 1):  # a number used again, and one that is nobody's
        told = {"pid": pid, "since": "", "config": "", "state_dir": str(state)}
        (state / "daemon.lock").write_text(json.dumps(told))

        assert ask(state, "status") == 3
        assert "No daemon runs" in capsys.readouterr().out


def test_incidents_are_newer_than_the_rows_of_the_last_cycle(state: Path, capsys: Output) -> None:
    async def later(knowledge: SqliteKnowledge) -> None:
        await knowledge.save_subjects([replace(row, at=time() - 50) for row in well("web", "db")])
        await knowledge.save_incident(incident())
        await knowledge.save_incident(
            incident("inc-db-1", "db", state=IncidentState.CLOSED, closed_at=time() - 5, ended="healed")
        )

    fill(state, later)

    ask(state, "--output", "json", "status")
    shown = {s["name"]: s for s in json.loads(capsys.readouterr().out)["subjects"]}
    assert shown["web"]["state"] == "hung"
    assert shown["db"]["state"] == "well" and time() - shown["db"]["since"] < 60


# -- looking at the real host ------------------------------------------------------------------------------------------


def config(folder: Path, text: str) -> str:
    file = folder / "x.yaml"
    file.write_text(f"state_dir: {folder / 'state'}\nlock_file: {folder / 'lock'}\nstatus: {{enabled: false}}\n{text}")
    return str(file)


SERVICE = """
guard: {{allow: [process.*]}}
subjects:
  web:
    process: [{python}, -c, "import pathlib, time; pathlib.Path('{mark}').touch(); time.sleep(60)"]
    mode: {mode}
"""


def test_simulate_says_all_of_it_and_does_none_of_it(state: Path, tmp_path: Path, capsys: Output) -> None:
    mark = tmp_path / "started"
    file = config(tmp_path, SERVICE.format(python=sys.executable, mark=mark, mode="auto"))

    assert main(["--config", file, "--output", "json", "simulate", "--for", "600ms"]) == 0

    outlook = json.loads(capsys.readouterr().out)["outlook"]
    assert [(f["subject"], f["fault"]) for f in outlook["findings"]] == [("web", "dead")]
    (step,) = outlook["answers"][0]["steps"]
    assert (step["step"]["action"], step["outcome"]) == ("process.restart", "simulated")
    assert [v["check"] for v in step["verdicts"]][:3] == ["kill switch", "precondition", "maintenance"]
    assert {v["answer"] for v in step["verdicts"]} == {"allow"}
    assert not mark.exists() and not state.exists()


def test_simulate_counts_with_what_people_said_and_writes_nothing_there(
    state: Path, tmp_path: Path, capsys: Output
) -> None:
    file = config(tmp_path, SERVICE.format(python=sys.executable, mark=tmp_path / "started", mode="auto"))

    async def said(knowledge: SqliteKnowledge) -> None:
        await knowledge.add_pause("web", time() + 600, who="oncall@cli", reason="deploy")
        await knowledge.set_flag("auto_healing", False, "oncall@cli")

    fill(state, said)
    before = fill(state, lambda k: k.audit_trail())

    assert main(["--config", file, "simulate", "--for", "600ms"]) == 0

    out = " ".join(capsys.readouterr().out.split())
    assert "kill switch deny auto_healing is off" in out
    assert "maintenance hold paused by oncall@cli" in out
    assert "outcome: simulated; it would not be done, by kill switch" in out
    assert fill(state, lambda k: k.audit_trail()) == before
    assert fill(state, lambda k: k.incidents()) == [] and not (tmp_path / "started").exists()


def test_doctor_finds_what_is_missing_and_how_to_mend_it(state: Path, tmp_path: Path, capsys: Output) -> None:
    file = config(tmp_path, "subjects: {web: {process: [/no/such/program]}}\n")

    assert main(["--config", file, "doctor"]) == 1
    out = capsys.readouterr().out
    assert "there is no /no/such/program" in out and "mend the path" in out
    assert not state.exists()


def test_stand_ins_of_a_runbooks_tests_hide_no_action_that_is_there(
    state: Path, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "{runbook: mine, version: 1, summary: s, trigger: {anomaly: hung}, states: {"
        "a: {do: {action: my.thing}, done: end, failed: tell}, tell: {do: notify.human, done: end, failed: end},"
        " end: {final: true}}}"
    )
    test = (
        "{runbook: mine.yaml, actions: {STUB: {}}, tests: [{test: t, incident: {fault: hung}, end: end,"
        " script: [{do: my.thing, answer: failed}, {do: notify.human, answer: done}]}]}"
    )

    for stub, code in (("my.thing", 0), ("my.other", 1)):
        file = tmp_path / "tests.yaml"
        file.write_text(test.replace("STUB", stub))
        assert main(["--state-dir", str(state), "runbook", "test", str(file)]) == code
        out = capsys.readouterr().out
        assert "no action 'notify.human'" not in out
        assert ("there is no action 'my.thing'" in out) == bool(code)


def test_a_lock_that_another_daemon_holds_is_told_with_its_holder(state: Path, tmp_path: Path, capsys: Output) -> None:
    file = config(tmp_path, SERVICE.format(python=sys.executable, mark=tmp_path / "started", mode="auto"))
    elsewhere = tmp_path / "elsewhere"
    lock = tmp_path / "lock"

    def doctor_of_lock() -> Any:
        main(["--config", file, "--output", "json", "doctor"])
        return next(c for c in json.loads(capsys.readouterr().out)["checks"] if c["what"] == "lock")

    lock.write_text(json.dumps({"pid": os.getpid(), "since": "today", "config": "x", "state_dir": "y"}))
    assert doctor_of_lock()["status"] == "ok"  # it was left by one that was killed
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.truncate()
        assert "has not said who it is" in doctor_of_lock()["says"]
        json.dump({"pid": 4711, "since": "today", "config": "other.yaml", "state_dir": str(elsewhere)}, held)
        held.flush()

        told = doctor_of_lock()
        assert told["status"] == "missing"
        assert f"another daemon holds {lock}: pid 4711" in told["says"] and "other.yaml" in told["says"]
        assert main(["--config", file, "simulate", "--for", "600ms"]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert f"Another daemon holds {lock}: pid 4711" in out and "No daemon runs" not in out
    with lock.open("r+") as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody who looked has kept it
    assert main(["--config", file, "simulate", "--for", "600ms"]) == 0
    assert "No daemon runs." in capsys.readouterr().out


LIMITS = """
subjects:
  web: {work: "tcp://127.0.0.1:9"}
  job: {process: [/bin/sleep, "60"]}
monitors: {load: {use: load_average, subject: cpu}}
analyzers:
  mine:
    use: threshold
    limits:
      good: {metric: load1_per_core, above: 1e9}
      typo: {metric: laod1_per_core, above: 1}
      later: {metric: process_busy, above: 1e9, subjects: [job]}
      whose: {metric: load1_per_core, above: 1e9, subjects: [wbe]}
"""


def test_a_limit_on_what_nobody_reports_is_named_with_what_is_near(
    state: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("x0tta6bl4.cli.doctor.LOOK", 0.6)
    file = config(tmp_path, LIMITS)

    assert main(["--config", file, "--output", "json", "doctor"]) in (0, 1)
    told = {c["what"]: c for c in json.loads(capsys.readouterr().out)["checks"]}

    typo, whose = told["analyzers.mine.limits.typo"], told["analyzers.mine.limits.whose"]
    assert typo["status"] == whose["status"] == "warning"
    assert "no monitor reported laod1_per_core" in typo["says"] and "near it: load1_per_core" in typo["says"]
    assert "load1_per_core is reported of cpu" in whose["says"] and "not of wbe" in whose["says"]
    assert told["limits"]["says"].startswith("2 limits of 4 are")
    assert main(["validate", file]) == 0
    assert "`x0tta6bl4 doctor` does" in capsys.readouterr().out


def test_the_metrics_of_a_subject_are_listed(
    state: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("x0tta6bl4.cli.doctor.LOOK", 0.6)
    file = config(tmp_path, LIMITS)

    assert main(["--config", file, "why", "cpu", "--metrics"]) == 0
    assert any(line.startswith("load1_per_core ") for line in capsys.readouterr().out.splitlines())
    assert main(["--config", file, "--output", "json", "why", "web", "--metrics"]) == 0
    assert {m["metric"] for m in json.loads(capsys.readouterr().out)["metrics"]} >= {"work_up"}
    assert main(["--config", file, "why", "wbe", "--metrics"]) == 2
    assert "did you mean 'web'?" in capsys.readouterr().err
    assert not state.exists()


def test_doctor_is_content_with_a_host_that_has_all(state: Path, tmp_path: Path, capsys: Output) -> None:
    file = config(tmp_path, SERVICE.format(python=sys.executable, mark=tmp_path / "started", mode="auto"))

    assert main(["--config", file, "--output", "json", "doctor"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] and {c["what"] for c in told["checks"]} >= {
        "python",
        "pidfd",
        "state",
        "disk",
        "lock",
        "endpoint",
    }
    assert not (tmp_path / "started").exists()
