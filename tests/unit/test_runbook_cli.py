"""The command `runbook`: what it tells of runbooks, as words and as JSON, and how it ends."""

import asyncio
import json
from pathlib import Path

import pytest

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.cli import main
from x0tta6bl4.kernel.facts import Book, Incident, IncidentState, Severity
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations
from x0tta6bl4.runbooks.shipped import folder, shipped

Output = pytest.CaptureFixture[str]
GOOD = """\
runbook: mine
summary: Restarts, then tells.
trigger: {anomaly: dead}
states:
  restart: {do: {action: service.restart, args: {grace: 1s}}, done: end, failed: tell}
  tell: {do: notify.human, done: end, failed: end}
  end: {final: true}
"""
TESTS = """\
runbook: mine.yaml
incident: {fault: dead}
subject: {can: [restart]}
tests:
  - test: a restart is enough
    script: [{do: service.restart, answer: verified}]
    end: end
"""


@pytest.fixture(autouse=True)
def nothing_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("X0TTA6BL4_CONFIG", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))


def told(capsys: Output, *words: str, code: int = 0) -> str:
    assert main(list(words)) == code

    return capsys.readouterr().out


def refused(capsys: Output, *words: str, code: int) -> str:
    assert main(list(words)) == code

    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


# -- validate ----------------------------------------------------------------------------------------------------------


def test_a_sound_runbook_is_said_to_be_so(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)

    assert told(capsys, "runbook", "validate", "mine.yaml").startswith("OK: mine v1 (")
    answer = json.loads(told(capsys, "--output", "json", "runbook", "validate", "mine.yaml"))
    assert answer["ok"] and answer["runbooks"][0]["states"] == ["restart", "tell", "end"]


def test_the_shipped_runbooks_are_valid(capsys: Output) -> None:
    assert len(told(capsys, "runbook", "validate", str(folder())).split("OK: ")) == 1 + len(shipped())


def test_every_mistake_of_every_file_is_told_with_its_line(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "a.yaml").write_text(GOOD.replace("failed: tell", "failed: tel"))
    (tmp_path / "b.yaml").write_text(GOOD.replace("service.restart", "service.restrat"))
    (tmp_path / "c.yaml").write_text("")
    text = refused(capsys, "runbook", "validate", "a.yaml", "b.yaml", "c.yaml", code=78)

    assert "a.yaml:5: mine.states.restart.failed: there is no state 'tel' (did you mean 'tell'?)" in text
    assert "b.yaml: mine.restart.do: there is no action 'service.restrat' (did you mean 'service.restart'?)" in text
    assert "c.yaml: the whole file: has no runbook in it" in text
    answer = json.loads(told(capsys, "--output", "json", "runbook", "validate", "a.yaml", code=78))
    assert not answer["ok"] and answer["problems"][0]["line"] == 5


EVERYTHING = """\
runbook: mine
summary: Has a mistake of each kind.
trigger: {anomaly: dead}
states:
  restart: {do: {action: service.restrat}, done: end, failed: tel}
  tell: {do: {action: process.signal, args: {signal: 1000}, on_unknown: ask}, done: end, failed: end}
  lonely: {do: notify.human, done: end, failed: end}
  end: {final: true}
"""
WANTED = (
    "mine.states.restart.failed: there is no state 'tel' (did you mean 'tell'?)",
    "mine.states.tell.unknown: is missing",
    "mine: state 'lonely': is never entered",
    "mine.restart.do: there is no action 'service.restrat'",
    "mine.tell.do.args.signal: ",
)


def test_a_mistake_of_one_kind_hides_none_of_another(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "mine.yaml").write_text(EVERYTHING)
    (tmp_path / "x.yaml").write_text("runbooks: [mine.yaml]\n")
    for words in (("runbook", "validate", "mine.yaml"), ("validate", "x.yaml")):
        text = refused(capsys, *words, code=78)
        mistakes = [line for line in text.splitlines() if "mine." in line]

        assert [wanted for wanted in WANTED if wanted not in text] == [], words
        assert len(mistakes) == len(WANTED), mistakes


def test_actions_are_those_of_the_configuration(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD.replace("service.restart, args: {grace: 1s}", "command.fix"))
    (tmp_path / "x.yaml").write_text("executors: {command: {commands: {fix: {argv: [/bin/true]}}}}\n")

    assert "there is no action 'command.fix'" in refused(capsys, "runbook", "validate", "mine.yaml", code=78)
    assert told(capsys, "--config", "x.yaml", "runbook", "validate", "mine.yaml").startswith("OK: mine")


@pytest.mark.parametrize("command", ["validate", "test", "draw"])
def test_what_is_not_there_is_said_to_be_so(command: str, capsys: Output) -> None:
    assert "there is no file or folder 'nowhere.yaml'" in refused(capsys, "runbook", command, "nowhere.yaml", code=2)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_folder_without_runbooks_is_said_to_be_so(command: str, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "empty").mkdir()

    assert "there is no *.yaml in the folder empty" in refused(capsys, "runbook", command, "empty", code=2)


def test_what_is_no_text_is_a_mistake(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")

    assert "is not UTF-8 text" in refused(capsys, "runbook", "validate", "x.yaml", code=78)


# -- draw --------------------------------------------------------------------------------------------------------------


def test_a_runbook_is_drawn_by_its_name_or_its_file(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)

    assert told(capsys, "runbook", "draw", "service-down").startswith("stateDiagram-v2\n")
    text = told(capsys, "runbook", "draw", "mine.yaml")
    assert "service.restart" in text and "notify.human" in text
    assert json.loads(told(capsys, "--output", "json", "runbook", "draw", "tell"))["mermaid"].startswith("stateDiagram")


def test_a_name_that_is_nearly_right_is_suggested(capsys: Output) -> None:
    assert "did you mean 'service-down'?" in refused(capsys, "runbook", "draw", "service-dwon", code=2)


def test_nothing_to_draw_is_a_mistake(capsys: Output) -> None:
    assert "which runbook?" in refused(capsys, "runbook", "draw", code=2)


def keep(state: Path, place: dict[str, object]) -> None:
    async def write() -> None:
        state.mkdir()
        database = await SqliteDatabase.open(state / "knowledge.db", migrations())
        knowledge = SqliteKnowledge("store", Config(), database, SystemClock())
        book = next(book for book in shipped() if book.name == "service-down")
        await knowledge.keep_books([Book(book.hash, book.name, book.version, json.dumps(dict(book.source)))])
        await knowledge.save_incident(
            Incident(
                id="inc-0123456789abcdef", subject="web", fault="dead", state=IncidentState.OPEN,
                severity=Severity.MAJOR, summary="it is gone", opened_at=1.0, updated_at=1.0,
                place={key: book.hash if value == "HASH" else value for key, value in place.items()},
            )
        )  # fmt: skip
        await database.close()

    asyncio.run(write())


def test_an_incident_is_drawn_on_its_runbook_with_its_states_marked(tmp_path: Path, capsys: Output) -> None:
    keep(
        tmp_path / "s",
        {"book": "HASH", "name": "service-down", "chart": {"states": ["service-down", "treat", "clean"]}},
    )
    words = ("--state-dir", "s", "--output", "json", "runbook", "draw", "--incident", "0123")
    answer = json.loads(told(capsys, *words))

    assert answer["active"] == ["treat", "clean"]
    assert answer["runbook"]["name"] == "service-down"
    assert any(line.strip().startswith("class ") and "active" in line for line in answer["mermaid"].splitlines())


@pytest.mark.parametrize(
    ("place", "words", "code", "part"),
    [
        ({}, [], 1, "is on no runbook now"),
        ({"book": "other", "name": "gone"}, [], 1, "the version of gone"),
        ({"book": "HASH"}, ["tell"], 2, "is on the runbook service-down, not on tell"),
    ],
)
def test_an_incident_that_cannot_be_drawn_says_why(
    place: dict[str, object], words: list[str], code: int, part: str, tmp_path: Path, capsys: Output
) -> None:
    keep(tmp_path / "s", place)

    assert part in refused(capsys, "--state-dir", "s", "runbook", "draw", *words, "--incident", "inc-0123", code=code)


# -- test --------------------------------------------------------------------------------------------------------------


def test_the_shipped_tests_pass_and_take_every_way(capsys: Output) -> None:
    text = told(capsys, "runbook", "test")

    assert " 0 failed." in text and "no test takes" not in text
    assert all(book.name in text for book in shipped())


def test_tests_of_ones_own_find_the_runbook_beside_them_and_tell_what_they_leave_out(
    tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    (tmp_path / "tests.yaml").write_text(TESTS)
    text = told(capsys, "runbook", "test", "tests.yaml")

    assert "1 test, 0 failed." in text
    assert "mine: no test takes tell: done -> end" in text


def test_a_test_that_fails_says_where_and_ends_with_one(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    (tmp_path / "tests.yaml").write_text(TESTS.replace("answer: verified", "answer: refuted"))
    text = " ".join(told(capsys, "runbook", "test", "tests.yaml", code=1).split())

    assert "tests.yaml:5: a restart is enough: the end: expected the end, end, got notify.human in tell" in text
    answer = json.loads(told(capsys, "--output", "json", "runbook", "test", "tests.yaml", code=1))
    assert not answer["ok"] and answer["reports"][0]["failures"][0]["got"] == "notify.human in tell"


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        (TESTS.replace("mine.yaml", "gone.yaml"), 78, "there is no file 'gone.yaml'"),
        (TESTS.replace("mine.yaml", "service-dwon"), 2, "did you mean 'service-down'?"),
        (TESTS.replace("tests:", "tets:"), 78, "did you mean 'tests'?"),
        (GOOD, 78, "no such key"),
    ],
)
def test_a_mistake_in_a_test_is_told(text: str, code: int, part: str, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "tests.yaml").write_text(text)

    assert part in refused(capsys, "runbook", "test", "tests.yaml", code=code)


# -- list --------------------------------------------------------------------------------------------------------------


def test_ones_own_runbooks_are_listed_before_the_shipped_ones(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    (tmp_path / "x.yaml").write_text(f"runbooks: [{tmp_path / 'mine.yaml'}]\n")
    names = [line.split()[0] for line in told(capsys, "--config", "x.yaml", "runbook", "list").splitlines() if line]

    assert names[:2] == ["RUNBOOK", "mine"]
    answer = json.loads(told(capsys, "--config", "x.yaml", "--output", "json", "runbook", "list"))
    assert [book["name"] for book in answer["runbooks"]] == ["mine", *(book.name for book in shipped())]


def test_a_configuration_with_mistakes_does_not_hide_the_shipped_ones(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "x.yaml").write_text("gurad: {}\n")

    assert main(["--config", "x.yaml", "runbook", "list"]) == 0
    captured = capsys.readouterr()
    assert "service-down" in captured.out and "has mistakes" in captured.err


def test_the_actions_that_a_runbook_may_ask_for_are_told(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "x.yaml").write_text("subjects: {}\n")
    out = told(capsys, "--config", "x.yaml", "runbook", "actions")
    assert "process.restart" in out and "dependency.VERB" in out

    answer = json.loads(told(capsys, "--config", "x.yaml", "--output", "json", "runbook", "actions"))
    (restart,) = [action for action in answer["actions"] if action["action"] == "process.restart"]
    assert (restart["blast"], restart["read_only"], restart["on_unknown"]) == ("process", False, "probe")
    assert (restart["reboot_class"], restart["timeout"]) == (False, 30.0)
    assert set(restart["args"]["properties"]) == {"grace", "signal"}
