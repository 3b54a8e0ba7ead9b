"""`x0tta6bl4 changed` over a real store: what is noted, what is refused and with which code, and what is listed."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from time import time
from typing import Any

import pytest

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.cli import main
from x0tta6bl4.cli.changed import moment
from x0tta6bl4.cli.exits import NO_STORE, OK, USAGE, Refusal
from x0tta6bl4.kernel.memory import SubjectState
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations

Output = pytest.CaptureFixture[str]
NOW = datetime(2026, 3, 4, 15, 30, 0).timestamp()


def on(state: Path, work: Callable[[SqliteKnowledge], Awaitable[Any]]) -> Any:
    async def done() -> Any:
        database = await SqliteDatabase.open(state / "knowledge.db", migrations())
        try:
            return await work(SqliteKnowledge("store", Config(), database, SystemClock()))
        finally:
            await database.close()

    return asyncio.run(done())


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("X0TTA6BL4_CONFIG", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "state"
    seen = [SubjectState(name, "well", time() - 300, "", time()) for name in ("web", "db")]
    on(folder, lambda k: k.save_subjects(seen))
    return folder


def ask(state: Path, *words: str) -> int:
    return main(["--state-dir", str(state), *words])


def test_a_deploy_is_noted_with_who_and_when_and_listed(state: Path, capsys: Output) -> None:
    assert OK == ask(state, "changed", "web", "--detail", "v2.3", "--at", "5m", "ago")
    out = capsys.readouterr().out
    assert "Noted: the deploy of web (v2.3)" in out and "5 min ago" in out and "No daemon runs" in out

    (noted,) = on(state, lambda k: k.learnt.alterations())
    assert ("web", "deploy", "v2.3") == (noted.subject, noted.kind, noted.detail)
    assert noted.who.endswith("@cli") and abs(time() - 300 - noted.at) < 30

    assert OK == ask(state, "changed", "db", "--kind", "config", "--output", "json")
    assert "config" == json.loads(capsys.readouterr().out)["change"]["kind"]
    assert OK == ask(state, "changed")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["SUBJECT", "KIND", "WHEN", "WHO", "WHAT"]
    assert lines[1].startswith("db ") and lines[2].startswith("web ") and lines[2].endswith("v2.3")
    assert OK == ask(state, "changed", "--limit", "1", "--output", "json")
    assert ["db"] == [one["subject"] for one in json.loads(capsys.readouterr().out)["changes"]]


def test_nothing_noted_yet_says_how_to(state: Path, capsys: Output) -> None:
    assert OK == ask(state, "changed")
    assert "No change was noted yet" in capsys.readouterr().out


def test_one_of_long_ago_is_said_to_be_tied_to_nothing(state: Path, capsys: Output) -> None:
    assert OK == ask(state, "changed", "web", "--at", "3h ago")
    assert "too long ago to tie anything to it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("wbe",), "there is no subject 'wbe'; did you mean 'web'?"),
        (("web", "--kind", "Two Words"), "should be a word in lower case"),
        (("web", "--at", "someday"), "--at 'someday' is no moment"),
        (("web", "--at", "2999-01-01"), "lies in the future"),
        (("web", "--at", "999d ago"), "more than a year ago"),
        (("web", "--detail", "\x1b[31m"), "characters that can be shown"),
        (("--detail", "v2"), "--detail is about one change: of which subject?"),
    ],
)
def test_a_mistake_is_told_with_code_two_and_nothing_is_noted(
    state: Path, capsys: Output, words: tuple[str, ...], told: str
) -> None:
    assert USAGE == ask(state, "changed", *words)
    assert told in capsys.readouterr().err
    assert [] == on(state, lambda k: k.learnt.alterations())


def test_without_a_store_there_is_nothing_to_note_in(state: Path, capsys: Output) -> None:
    assert NO_STORE == ask(state / "elsewhere", "changed", "web")
    assert "there is no store" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("5m ago", NOW - 300), ("90", NOW - 90), ("1h", NOW - 3600), ("14:05", NOW - 85 * 60),
        ("15:29:59", NOW - 1), ("16:00", NOW - 84600), ("2026-03-04T15:00", NOW - 1800),
        ("2026-03-04 15:00:30", NOW - 1770), (datetime.fromtimestamp(NOW - 60).astimezone().isoformat(), NOW - 60),
    ],
)  # fmt: skip
def test_a_moment_is_read_as_people_say_it(text: str, wanted: float) -> None:
    assert wanted == pytest.approx(moment(text, NOW))


@pytest.mark.parametrize("text", ["", "ago", "25:00", "14:60", "2026-02-30", "-5m", "inf", "nan", "9" * 99, "1:2:3:4"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(Refusal):
        moment(text, NOW)
