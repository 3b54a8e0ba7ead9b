"""The commands about keys, operators and sessions: what is told, what is kept, and what nonsense gets."""

import asyncio
import fcntl
import io
import json
import os
import re
import stat
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import x0tta6bl4.cli.operators as operators_module
from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.cli import main
from x0tta6bl4.cli.exits import BAD, NO_STORE, OK, PERMISSION, USAGE
from x0tta6bl4.cli.grammar import SCOPES, build
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.status.access import FRESH, Access, Scope, SignedIn
from x0tta6bl4.status.passwords import Passwords

Output = pytest.CaptureFixture[str]
PASSWORD = "Tall-Ships.Sail-West"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("X0TTA6BL4_CONFIG", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    # The cost of a hash is tested elsewhere.
    monkeypatch.setattr(Passwords.__init__, "__defaults__", (4,))
    return tmp_path / "state"


def say(state: Path, *words: str) -> int:
    return main(["--state-dir", str(state), *words])


def told(state: Path, capsys: Output, *words: str) -> Any:
    capsys.readouterr()
    assert say(state, "--output", "json", *words) == OK
    return json.loads(capsys.readouterr().out)


def ask(state: Path, work: Callable[[Access], Awaitable[Any]]) -> Any:
    async def asked() -> Any:
        database = await SqliteDatabase.open(state / "knowledge.db", migrations(), check=False)
        try:
            knowledge = SqliteKnowledge("store", Config(), database, SystemClock())
            return await work(Access(database, knowledge.audit, SystemClock(), lambda: b"k" * 32, Passwords(4)))
        finally:
            await database.close()

    return asyncio.run(asked())


def typed(monkeypatch: pytest.MonkeyPatch, *passwords: str) -> None:
    left = list(passwords)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(operators_module, "getpass", lambda prompt: left.pop(0))


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def with_operator(state: Path, name: str = "oncall") -> None:
    state.mkdir(exist_ok=True)
    ask(state, lambda access: access.add_operator(name, PASSWORD, Scope.OPERATE, "root@cli"))


def sign_in(state: Path, name: str = "oncall") -> SignedIn:
    signed = ask(state, lambda access: access.sign_in(name, PASSWORD, "192.0.2.7", "Browser/1.0"))
    assert isinstance(signed, SignedIn)
    return signed


# -- keys --------------------------------------------------------------------------------------------------------------


def test_the_first_key_is_made_before_any_daemon_ran_and_works(state: Path, capsys: Output) -> None:
    assert say(state, "keys", "create", "deploy", "--scope", "operate", "--per-minute", "600", "--expires", "90d") == OK
    out = capsys.readouterr().out
    text = re.search(r"x0k_\S+", out)
    assert (
        text is not None and "operate" in out and "600 requests" in out and "in 90 days" in out and "this once" in out
    )

    caller = ask(state, lambda access: access.by_key(text[0]))
    assert (caller.name, caller.scope, caller.per_minute) == ("deploy", Scope.OPERATE, 600)
    assert stat.S_IMODE((state / "knowledge.db").stat().st_mode) == 0o600
    secret = text[0].split("_", 2)[2]
    for words in (["keys", "list"], ["audit", "show"]):
        assert say(state, *words) == OK
        shown = capsys.readouterr().out
        assert "deploy" in shown and secret not in shown
    assert all(secret.encode() not in file.read_bytes() for file in state.iterdir() if file.is_file())


def test_a_key_is_replaced_and_revoked(state: Path, capsys: Output) -> None:
    first = told(state, capsys, "keys", "create", "deploy", "--scope", "read")
    second = told(state, capsys, "keys", "rotate", "deploy", "--overlap", "1h")
    assert second["before"]["id"] == first["about"]["id"]
    assert second["before"]["expires_at"] == pytest.approx(second["about"]["created_at"] + 3600)
    assert say(state, "keys", "rotate", "deploy") == USAGE
    assert f"keys revoke {first['about']['id']}" in capsys.readouterr().err

    assert say(state, "keys", "revoke", first["about"]["id"]) == OK
    assert ask(state, lambda access: access.by_key(first["key"])) is None
    assert ask(state, lambda access: access.by_key(second["key"])) is not None
    assert told(state, capsys, "keys", "revoke", "deploy")["revoked"][0]["id"] == second["about"]["id"]
    assert {key["state"] for key in told(state, capsys, "keys", "list")["keys"]} == {"revoked"}
    assert "hash" not in told(state, capsys, "keys", "list")["keys"][0]
    what = [row["what"] for row in told(state, capsys, "audit", "show")["audit"]]
    assert what == ["key.revoked", "key.revoked", "key.rotated", "key.created"]


def test_a_key_is_given_up_within_the_time_that_a_running_daemon_needs(state: Path, capsys: Output) -> None:
    told(state, capsys, "keys", "create", "deploy", "--scope", "read")
    with (state / "daemon.lock").open("w+") as lock:
        about = {"pid": os.getpid(), "since": "now", "config": "x", "state_dir": str(state)}
        lock.write(json.dumps(about))
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = monotonic()
        assert say(state, "keys", "revoke", "deploy") == OK
        assert monotonic() - began >= FRESH
        assert "from now on" in capsys.readouterr().out


def test_without_any_there_is_a_word_what_to_do(state: Path, capsys: Output) -> None:
    with_operator(state)
    ask(state, lambda access: access.remove_operator("oncall", "root@cli"))
    for words, hint in (("keys", "keys create"), ("operators", "operators add"), ("sessions", "Nobody is signed in")):
        assert say(state, words, "list") == OK
        assert hint in capsys.readouterr().out


# -- operators ---------------------------------------------------------------------------------------------------------


def test_an_operator_is_added_at_a_terminal_and_can_sign_in(
    state: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, PASSWORD, PASSWORD)
    assert say(state, "operators", "add", "oncall", "--scope", "admin") == OK
    assert "oncall can sign in" in capsys.readouterr().out
    assert sign_in(state).caller.scope is Scope.ADMIN
    listed = told(state, capsys, "operators", "list")["operators"]
    assert [(o["name"], o["scope"], o["sessions"]) for o in listed] == [("oncall", "admin", 1)]
    assert say(state, "operators", "list") == OK
    for output in (json.dumps(listed), capsys.readouterr().out):
        assert "$2b$" not in output and PASSWORD not in output


@pytest.mark.parametrize("data", [PASSWORD.encode(), PASSWORD.encode() + b"\n", PASSWORD.encode() + b"\r\n"])
def test_a_password_comes_from_a_file_or_from_standard_input(
    data: bytes, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped(monkeypatch, data)
    assert say(state, "operators", "add", "oncall", "--scope", "read", "--password-file", "-") == OK
    assert sign_in(state).caller.name == "oncall"
    file = tmp_path / "password"
    file.write_bytes(data.replace(b"West", b"East"))
    assert say(state, "operators", "password", "oncall", "--password-file", str(file)) == OK
    signed = ask(state, lambda access: access.sign_in("oncall", "Tall-Ships.Sail-East", "127.0.0.1"))
    assert signed.caller.name == "oncall"


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"two\nlines\n", b"\xff\xfe\x00", b"x" * 10_000, b"short\n", b"oncall-oncall-1A\n", b"\0" * 20]
)
def test_what_is_no_good_password_adds_nobody(
    data: bytes, state: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped(monkeypatch, data)
    assert say(state, "operators", "add", "oncall", "--scope", "read", "--password-file", "-") == USAGE
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.strip().splitlines()) == 1
    assert ask(state, lambda access: access.operators()) == []


def test_every_broken_rule_is_told_at_once(state: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "abc1", "abc1")
    assert say(state, "operators", "add", "oncall", "--scope", "read") == USAGE
    err = capsys.readouterr().err
    assert "needs 12" in err and "kinds" in err and "abc1" not in err


def test_two_that_differ_and_none_at_all_change_nothing(
    state: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, PASSWORD, PASSWORD + "!")
    assert say(state, "operators", "add", "oncall", "--scope", "read") == USAGE
    assert "not the same" in capsys.readouterr().err

    def gone(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(operators_module, "getpass", gone)
    assert say(state, "operators", "add", "oncall", "--scope", "read") == USAGE
    assert "nothing was changed" in capsys.readouterr().err
    piped(monkeypatch, b"")
    assert say(state, "operators", "add", "oncall", "--scope", "read") == USAGE
    assert "--password-file" in capsys.readouterr().err
    assert ask(state, lambda access: access.operators()) == []


def test_nobody_types_a_password_for_a_name_that_cannot_be(
    state: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_operator(state)
    typed(monkeypatch)  # asking would fail
    assert say(state, "operators", "add", "oncall", "--scope", "read") == USAGE
    assert "already" in capsys.readouterr().err
    assert say(state, "operators", "password", "onkall") == USAGE
    assert "did you mean 'oncall'?" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["scope", "oncall", "admin"], ["remove", "oncall"], ["password", "oncall"]])
def test_a_change_of_a_person_ends_the_sessions(
    words: list[str], state: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_operator(state)
    sign_in(state)
    typed(monkeypatch, "Quiet.Harbour-7-Lamps", "Quiet.Harbour-7-Lamps")
    assert told(state, capsys, "operators", *words) == {"operator": "oncall", "sessions_ended": 1}
    assert told(state, capsys, "sessions", "list") == {"sessions": []}


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_sessions_are_listed_and_ended(state: Path, capsys: Output) -> None:
    for name in ("oncall", "second"):
        with_operator(state, name)
    signed = [sign_in(state, name) for name in ("oncall", "oncall", "oncall", "second")]
    listed = told(state, capsys, "sessions", "list", "--operator", "oncall")["sessions"]
    assert {one["id"] for one in listed} == {one.caller.id for one in signed[:3]}
    assert listed[0]["client"] == "192.0.2.7" and listed[0]["agent"] == "Browser/1.0"
    assert not {"current", "previous"} & listed[0].keys()
    assert say(state, "sessions", "list") == OK
    shown = capsys.readouterr().out
    assert all(one.caller.id in shown and one.refresh not in shown for one in signed)

    assert told(state, capsys, "sessions", "end", signed[0].caller.id[:12]) == {"ended": 1}
    assert told(state, capsys, "sessions", "end", "--operator", "oncall") == {"ended": 2}
    assert told(state, capsys, "sessions", "end", "--all") == {"ended": 1}
    assert told(state, capsys, "sessions", "end", "--all") == {"ended": 0}


def test_an_id_that_fits_more_than_one_ends_none(state: Path, capsys: Output) -> None:
    with_operator(state)
    for _ in range(17):
        sign_in(state)  # sixteen digits: two of them begin alike
    ids = [one["id"] for one in told(state, capsys, "sessions", "list")["sessions"]]
    first = next(id[0] for id in ids if sum(other.startswith(id[0]) for other in ids) > 1)
    for wanted in (first, "", "zz", "x" * 5000):
        assert say(state, "sessions", "end", wanted) == USAGE
        assert "sessions list" in capsys.readouterr().err
    assert len(told(state, capsys, "sessions", "list")["sessions"]) == 17


# -- nonsense ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["keys"], "WHAT"),
        (["keys", "creat", "x"], "did you mean create?"),
        (["keys", "create", "x"], "--scope"),
        (["keys", "create", "x", "--scope", "root"], "read, operate, admin"),
        (["keys", "create", "x", "--scope", "read", "--per-minute", "0"], "whole number"),
        (["keys", "create", "x", "--scope", "read", "--per-minute", "many"], "whole number"),
        (["keys", "create", "x", "--scope", "read", "--expires", "0s"], "longer than nothing"),
        (["keys", "create", "x", "--scope", "read", "--expires", "soon"], "a duration"),
        (["keys", "rotate", "x", "--overlap", "-1h"], "--overlap"),
        (["keys", "create", "Upper", "--scope", "read"], "a-z"),
        (["keys", "create", "", "--scope", "read"], "a-z"),
        (["keys", "create", "x" * 5000, "--scope", "read"], "a-z"),
        (["keys", "create", "\x1b[2J", "--scope", "read"], "a-z"),
        (["keys", "create", "0123456789ab", "--scope", "read"], "id of a key"),
        (["keys", "rotate", "deplyo"], "did you mean 'deploy'?"),
        (["keys", "revoke", "deplyo"], "did you mean 'deploy'?"),
        (["keys", "revoke", ""], "called ''"),
        (["keys", "revoke", "x" * 5000], "5000 characters"),
        (["operators", "add", "A B", "--scope", "read", "--password-file", "good"], "a-z"),
        (["operators", "add", "x"], "--scope"),
        (["operators", "scope", "oncall", "owner"], "read, operate, admin"),
        (["operators", "scope", "nobody", "read"], "no operator 'nobody'"),
        (["operators", "remove", "nobody"], "no operator 'nobody'"),
        (["operators", "password", "nobody", "--password-file", "good"], "no operator 'nobody'"),
        (["sessions", "end"], "--all"),
        (["sessions", "end", "aa", "--all"], "--all"),
        (["sessions", "end", "--all", "--operator", "oncall"], "--all"),
        (["sessions", "end", "--operator", "nobody"], "no operator 'nobody'"),
        (["sessions", "list", "--operator", "nobody"], "no operator 'nobody'"),
    ],
)
def test_nonsense_gets_one_line_and_changes_nothing(
    words: list[str], hint: str, state: Path, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "good").write_text(PASSWORD)
    with_operator(state)
    sign_in(state)
    told(state, capsys, "keys", "create", "deploy", "--scope", "read")
    before = told(state, capsys, "audit", "show")

    assert say(state, *words) == USAGE
    captured = capsys.readouterr()
    assert captured.out == "" and hint in captured.err
    assert len(captured.err.strip().splitlines()) == 1 and captured.err.strip().isprintable()
    assert len(captured.err) < 600
    assert told(state, capsys, "audit", "show") == before


def test_a_password_file_that_is_not_there_is_said(state: Path, capsys: Output) -> None:
    words = ["operators", "add", "oncall", "--scope", "read", "--password-file", "missing"]
    assert say(state, *words) == BAD
    assert "missing: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["keys", "list"],
        ["keys", "rotate", "x"],
        ["keys", "revoke", "x"],
        ["operators", "list"],
        ["operators", "remove", "x"],
        ["operators", "scope", "x", "read"],
        ["operators", "password", "x"],
        ["sessions", "list"],
        ["sessions", "end", "--all"],
    ],
)
def test_only_what_makes_somebody_makes_a_store(words: list[str], state: Path, capsys: Output) -> None:
    assert say(state, *words) == NO_STORE
    assert not state.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can own another user's folder")
def test_root_makes_no_store_that_the_daemon_could_not_open(state: Path, capsys: Output) -> None:
    state.mkdir()
    os.chown(state, 65534, 65534)
    assert say(state, "keys", "create", "x", "--scope", "read") == PERMISSION
    assert "sudo -u" in capsys.readouterr().err
    assert list(state.iterdir()) == []


def test_the_scopes_that_can_be_said_are_those_there_are() -> None:
    assert list(SCOPES) == [str(scope) for scope in Scope]


def test_help_shows_them_beside_each_other() -> None:
    text = build().format_help()
    places = [text.index(f"\n    {name} ") for name in ("keys", "operators", "sessions", "audit")]
    assert places == sorted(places)
    assert text[places[0] : places[-1]].count("\n    ") == 3
