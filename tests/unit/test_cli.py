"""The command line: every command explains itself, nonsense gets one clear line, and the exit codes hold."""

import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import x0tta6bl4.cli.version
from x0tta6bl4.cli import main
from x0tta6bl4.cli.completion import bash, fish, paths, words_at, zsh
from x0tta6bl4.cli.config import reference_text
from x0tta6bl4.cli.display import WIDTH, Display, ago, printable, span
from x0tta6bl4.cli.exits import MEANINGS, Refusal
from x0tta6bl4.cli.grammar import build
from x0tta6bl4.kernel.errors import AlreadyRunning, ConfigError, Problem, StoreError, TamperedError, X0tError
from x0tta6bl4.settings.load import load

COMMANDS = {" ".join(path): parser for path, parser in paths(build())}
EXPLAINED = sorted(name for name in COMMANDS if name not in ("demo", "demo-service"))
READERS = (
    ["status"],
    ["incidents"],
    ["incidents", "inc-1"],
    ["why", "web"],
    ["approve", "plan-1"],
    ["pause", "web", "--for", "1m"],
    ["resume"],
    ["flags"],
    ["flags", "auto_healing", "off"],
    ["audit", "show"],
    ["audit", "verify"],
)
Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def nothing_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("X0TTA6BL4_CONFIG", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def config(folder: Path, text: str) -> str:
    file = folder / "x.yaml"
    file.write_text(f"state_dir: {folder / 'state'}\nlock_file: {folder / 'lock'}\n{text}", encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_command_explains_itself_and_its_exit_codes(name: str, capsys: Output) -> None:
    assert main([*name.split(), "--help"]) == 0

    text = capsys.readouterr().out
    assert all(meaning in text for meaning in MEANINGS.values())


def test_the_command_line_costs_no_library_until_a_command_needs_it() -> None:
    code = (
        "import sys; from x0tta6bl4.cli import main; main(['version']);"
        "print([m for m in ('pydantic', 'yaml', 'starlette', 'uvicorn', 'structlog', 'psutil', 'asyncio', 'sqlite3')"
        " if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["statsu"], "did you mean status?"),
        (["frobnicate"], "there are: run, validate"),
        ([], "COMMAND"),
        (["why"], "TARGET"),
        (["pause"], "--for"),
        (["pause", "--for", "banana"], "a duration such as"),
        (["pause", "--for", "0s"], "longer than nothing"),
        (["incidents", "--limit", "-1"], "whole number"),
        (["flags", "auto_heeling"], "did you mean auto_healing?"),
        (["--output", "xml", "status"], "table, json"),
        (["run", "--set", "nonsense"], "KEY=VALUE"),
        (["validate", "--set", ".a=1"], "KEY=VALUE"),
        (["why", "web", "extra"], "extra"),
    ],
)
def test_nonsense_gets_one_line_with_the_way_out(words: list[str], told: str, capsys: Output) -> None:
    assert main(words) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert len(captured.err.strip().splitlines()) == 1


@pytest.mark.parametrize("words", READERS)
def test_without_a_store_it_says_so_and_makes_none(words: list[str], tmp_path: Path, capsys: Output) -> None:
    folder = tmp_path / "none"

    assert main(["--state-dir", str(folder), *words]) == 3

    captured = capsys.readouterr()
    assert "x0tta6bl4 run" in captured.err and str(folder) in captured.err
    assert not folder.exists()


def _raise(error: BaseException) -> Callable[[object], int]:
    def run(args: object) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (AlreadyRunning("another"), 75),
        (ConfigError([Problem("a", "is wrong", "f.yaml", 3)]), 78),
        (ConfigError("is wrong"), 78),
        (PermissionError(13, "Permission denied", "/root/x"), 77),
        (StoreError("broken"), 3),
        (TamperedError("broken"), 1),
        (Refusal("no", 2), 2),
        (X0tError("no"), 1),
        (OSError(28, "No space left on device"), 1),
        (ExceptionGroup("tasks", [ExceptionGroup("inner", [StoreError("broken")])]), 3),
    ],
)
def test_errors_end_in_their_exit_code_and_not_in_a_traceback(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(x0tta6bl4.cli.version, "run", _raise(error))

    assert main(["version"]) == code
    assert code in MEANINGS
    assert "Traceback" not in capsys.readouterr().err


def test_our_own_mistakes_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x0tta6bl4.cli.version, "run", _raise(ExceptionGroup("tasks", [ValueError("a bug")])))

    with pytest.raises(ExceptionGroup):
        main(["version"])


def test_a_reader_that_goes_away_is_no_error_message() -> None:
    command = [sys.executable, "-m", "x0tta6bl4", "config", "reference"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()

    assert process.wait() == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_validate_tells_every_mistake_with_its_place(tmp_path: Path, capsys: Output) -> None:
    file = config(tmp_path, "guard: {mode: atuo}\nmonitors:\n  load: {use: load_averge}\n")

    assert main(["validate", file]) == 78

    err = capsys.readouterr().err
    assert f"{file}:3: guard.mode" in err and "auto" in err
    assert f"{file}:5: monitors.load.use" in err and "load_average" in err
    assert not (tmp_path / "state").exists()


def test_validate_says_what_would_be_watched_and_how(tmp_path: Path, capsys: Output) -> None:
    file = config(tmp_path, "guard: {allow: [process.*]}\nsubjects:\n  web: {work: 'tcp://127.0.0.1:9', mode: auto}\n")

    assert main(["validate", file]) == 0

    out = capsys.readouterr().out
    assert out.startswith("OK")
    assert any(line.split()[:3] == ["web", "thing", "auto"] for line in out.splitlines())
    assert "process.*" in out


def test_config_show_tells_where_each_value_comes_from(tmp_path: Path, capsys: Output) -> None:
    file = config(tmp_path, "guard: {equal_tries: 2}\n")

    assert main(["config", "show", "--origin", "--set", "mapek.interval=5s", "--output", "json", file]) == 0

    out = capsys.readouterr().out
    assert '"key": "guard.equal_tries",\n      "value": "2",\n' + f'      "origin": "{file}:3"' in out
    assert '"value": "5s",\n      "origin": "option mapek.interval"' in out


def test_the_reference_changes_no_default_and_has_every_plugin(tmp_path: Path) -> None:
    text = reference_text()
    file = tmp_path / "reference.yaml"
    file.write_text(text, encoding="utf-8")

    assert load(file, {"STATE_DIRECTORY": "/x"}, {}).settings == load(None, {"STATE_DIRECTORY": "/x"}, {}).settings
    for wanted in ("#     use: http", "retention_days", "#   use: sqlite", "memory_limit"):
        assert wanted in text


@pytest.mark.parametrize("shell", [bash, zsh, fish])
def test_completion_knows_every_command_and_option(shell: Callable[[ArgumentParser], str]) -> None:
    text = shell(build())

    for parser in COMMANDS.values():
        for word, _ in words_at(parser):
            assert word.lstrip("-") in text


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["st"], "status"),
        (["--output", ""], "table json"),
        (["--output", "json", "au"], "audit"),
        (["config", "re"], "reference"),
        (["completion", "f"], "fish"),
        (["why", "--out"], "--output"),
        (["validate", "x."], "x.yaml"),
    ],
)
def test_bash_completes(words: list[str], found: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").touch()
    script = bash(build()) + '\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _x0tta6bl4; echo "${COMPREPLY[*]}"\n'
    argv = ["bash", "-c", script, "bash", "x0tta6bl4", *words]

    assert subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path).stdout == found + "\n"


@given(
    rows=st.lists(st.tuples(st.text(max_size=60), st.text(max_size=200), st.text(max_size=300)), min_size=1, max_size=5)
)
def test_no_table_is_wider_than_a_terminal_and_none_commands_it(rows: list[tuple[str, str, str]]) -> None:
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words: lines.append(" ".join(map(str, words))))
        patch.setattr("sys.stdout.isatty", lambda: True)
        patch.setenv("NO_COLOR", "1")
        patch.setenv("COLUMNS", str(WIDTH))
        Display(build().parse_args(["status"])).table(("A", "B", "C"), rows, states=1)

    assert all(len(line) <= WIDTH and line.isprintable() for line in lines)


def test_a_table_in_a_pipe_is_one_whole_line_a_row(capsys: Output) -> None:
    rows = [("inc-" + "0" * 18, "s" * 80, "w " * 200), ("inc-1", "s", "short")]
    Display(build().parse_args(["status"])).table(("ID", "SUBJECT", "WHAT"), rows)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["ID", rows[0][0], "inc-1"]


def test_what_comes_from_outside_cannot_command_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\x9b") == r"a\x1b[2Jb c\x9b"


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    args = build().parse_args(["status"])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    assert "\033[31m" in Display(args).word("dead")
    monkeypatch.setenv("NO_COLOR", "1")
    assert Display(args).word("dead") == "dead"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "now"),
        (3.2, "3.2 s ago"),
        (59, "59 s ago"),
        (180, "3 min ago"),
        (-240, "in 4 min"),
        (7200, "2 h ago"),
        (3 * 86400, "3 days ago"),
    ],
)
def test_times_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert ago(seconds) == words


@given(st.floats(min_value=0, max_value=1e9))
def test_a_span_never_rounds_to_another_unit(seconds: float) -> None:
    number, unit = span(seconds).split()

    size = {"s": 1, "min": 60, "h": 3600, "days": 86400}[unit]
    assert abs(float(number) * size - seconds) <= 0.51 * size


def test_options_count_before_and_behind_the_command() -> None:
    parse = build().parse_args

    assert parse(["--output", "json", "status"]).output == "json"
    assert parse(["status", "--output", "json"]).output == "json"
    assert parse(["status"]).output == "table"
    assert parse(["--output", "json", "audit", "verify"]).output == "json"
    assert parse(["demo", "--fast", "-x", "--help"]).words == ["--fast", "-x", "--help"]


def test_it_is_a_program_and_a_module() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "x0tta6bl4", "version"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "NO_COLOR": "1"},
    )

    assert ended.stdout.startswith("x0tta6bl4 ")
