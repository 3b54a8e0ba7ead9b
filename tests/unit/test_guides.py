"""What the guides show is true: their code is run, their runbooks are proved and tested, their commands exist."""

import ast
import contextlib
import io
import re
import shlex
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import x0tta6bl4.statechart
from x0tta6bl4 import cli
from x0tta6bl4.app import read as read_settings
from x0tta6bl4.cli.grammar import build
from x0tta6bl4.cli.score import WORD
from x0tta6bl4.kernel.errors import ConfigError
from x0tta6bl4.planners.runbook import ABORTED, REST, Config, Runbooks
from x0tta6bl4.runbooks import document, trial
from x0tta6bl4.runbooks.life import way_between
from x0tta6bl4.statechart.core.state import Kind
from x0tta6bl4.statechart.extensions.hooks import Point
from x0tta6bl4.statechart.extensions.sandbox import SandboxUnavailable
from x0tta6bl4.statechart.persistence.migrate import plan
from x0tta6bl4.statechart.runtime.monitor import Level
from x0tta6bl4.statechart.types.base import FUNCTION_NAMES
from x0tta6bl4.statechart.types.extensions import TypeExtensions
from x0tta6bl4.testing.fakes import tools

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "x0tta6bl4" / "statechart" / "README.md"
RUNBOOKS = ROOT / "config" / "runbooks" / "README.md"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    words: str
    """What stands behind the fence: the language, and for whom it is."""
    text: str
    line: int
    """Of its first line, in the page."""

    @property
    def file(self) -> str:
        """What a block that is a file is called in its first line; empty: it is none."""
        found = re.match(r"# (\S+\.yaml)\n", self.text)
        return found[1] if found else ""


def blocks(page: Path, *words: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\S[^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    all_ = [Block(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in found]
    return [block for block in all_ if not words or block.words in words]


# -- code ------------------------------------------------------------------------------------------------------------


def differences(python: list[Block], space: dict[str, Any]) -> Iterator[str]:
    """Runs one statement after the other; what it prints has to stand behind it in lines that begin with ``#>``."""
    for block in python:
        lines = block.text.splitlines()
        statements = ast.parse(block.text).body
        for statement, following in zip(statements, [*statements[1:], None], strict=True):
            assert statement.end_lineno is not None
            end = len(lines) if following is None else following.lineno - 1
            wanted = [line[2:].strip() for line in lines[statement.end_lineno : end] if line.startswith("#>")]
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile(ast.Module([statement], []), f"the block at line {block.line}", "exec"), space)
            if (got := [line.strip() for line in said.getvalue().splitlines()]) != wanted:
                yield f"line {block.line + statement.lineno - 1}: the page says {wanted}, it printed {got}"


def test_the_code_of_the_engines_guide_does_what_the_guide_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    python = blocks(ENGINE, "python")
    try:
        wrong = list(differences(python, {"__name__": "guide"}))
    except SandboxUnavailable as why:
        pytest.skip(f"everything before the sandbox is true; this machine cannot lock foreign code up: {why}")

    assert not wrong, "\n".join(wrong)
    assert len(python) > 20


def test_a_guide_that_says_something_else_is_caught() -> None:
    right, wrong = Block("python", "x = 1\nprint(x)\n#> 1\n", 10), Block("python", "\nprint(x)\n#> 2\nx = 3\n", 20)

    assert list(differences([right], {})) == []
    assert list(differences([right, wrong], {})) == ["line 21: the page says ['2'], it printed ['1']"]
    assert list(differences([Block("python", "print(1)\n", 1)], {})) == ["line 1: the page says [], it printed ['1']"]


@pytest.mark.parametrize(
    "words",
    [
        [f"`Kind.{kind.name}`" for kind in Kind],
        [f"`{point.value}`" for point in Point],
        [f"`{level.name}`" for level in Level],
        [f"`{name}`" for name in TypeExtensions()],
    ],
    ids=["kinds", "hooks", "levels", "types"],
)
def test_the_engines_guide_leaves_out_nothing_that_there_is(words: list[str]) -> None:
    page = ENGINE.read_text(encoding="utf-8")

    assert [word for word in words if word not in page] == []


@pytest.mark.parametrize("page", [ENGINE, RUNBOOKS], ids=["engine", "runbooks"])
def test_the_guides_name_every_function_of_expressions(page: Path) -> None:
    """In the list that begins with ``len``; ``hasattr`` is there for documents from elsewhere."""
    (listed,) = re.findall(r"`(len [^`]+)`", page.read_text(encoding="utf-8"))

    assert {*FUNCTION_NAMES} - {"In", "hasattr"} == {*listed.split()}


def test_the_engines_guide_speaks_of_every_action_that_there_is() -> None:
    page = ENGINE.read_text(encoding="utf-8")
    actions = {part.__name__ for part in x0tta6bl4.statechart.core.transition.Content.__args__}

    assert {name for name in actions if f"`{name}`" not in page} == set()


# -- runbooks --------------------------------------------------------------------------------------------------------

FRAME = """\
runbook: example
summary: What the page shows a part of.
trigger: {{anomaly: "*"}}
data: {{attempts: 0, max_attempts: 3, note: "''"}}
states:
"""


def framed(fragment: str) -> str:
    """States of an example as a whole runbook, with the ends that they lead to."""
    ends = [end for end in ("healed", "told") if re.search(rf"\b{end}\b", fragment)]
    states = [*fragment.splitlines(), *(f"{end}: {{final: true}}" for end in ends)]
    return FRAME.format() + "\n".join(f"  {line}" for line in states) + "\n"


def files(folder: Path) -> Path:
    """Every file of the page, as a reader would have it."""
    for block in blocks(RUNBOOKS, "yaml"):
        path = folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    return folder


def kind_of(block: Block) -> str:
    if block.file.startswith("runbooks/"):
        return "tests" if "/tests/" in block.file else "runbook"
    return "migration" if re.search(r"^from:", block.text, re.MULTILINE) else "settings"


def of(kind: str) -> list[Block]:
    return [block for block in blocks(RUNBOOKS, "yaml") if kind_of(block) == kind]


def named(blocks_: list[Block]) -> list[Any]:
    return [pytest.param(block, id=block.file or f"line {block.line}") for block in blocks_]


def test_every_example_of_the_runbooks_guide_is_of_a_kind_that_is_checked() -> None:
    found = blocks(RUNBOOKS)

    assert {block.words for block in found} == {"yaml", "yaml states", "console"}
    assert [block.line for block in found if block.words == "yaml" and not block.file] == []
    assert all(of(kind) for kind in ("runbook", "tests", "migration", "settings"))


@pytest.mark.parametrize("block", named(of("runbook")))
def test_a_runbook_of_the_guide_is_sound(block: Block) -> None:
    (book,) = document.read(block.text, block.file)

    assert Path(block.file).stem == book.name


@pytest.mark.parametrize("block", named(blocks(RUNBOOKS, "yaml states")))
def test_a_part_of_a_runbook_that_the_guide_shows_is_sound(block: Block) -> None:
    assert document.read(framed(block.text), f"the block at line {block.line}")


def test_a_part_that_is_not_sound_is_caught() -> None:
    with pytest.raises(ConfigError, match="no such key"):
        document.read(framed("a: {do: x.y, done: healed, failed: healed, dne: told}"), "page")
    with pytest.raises(ConfigError, match="it waits with neither"):
        document.read(framed("a: {on: {b: {do: {log: note}}}}\nb: {after: {1s: healed}}"), "page")


@pytest.mark.parametrize("block", named(of("tests")))
def test_the_tests_of_the_guide_pass(block: Block, tmp_path: Path) -> None:
    """And take every way of their runbook but the patience of a whole working day."""
    place = files(tmp_path) / block.file
    trials = trial.read(block.text, block.file)
    (book,) = document.read((place.parent / trials.runbook).read_text(encoding="utf-8"), trials.runbook)
    report = trial.run([trials], book)

    assert [str(failure) for failure in report.failures] == []
    assert {*report.never} <= {"held: after 4h -> tell"}


@pytest.mark.parametrize("block", named(of("settings")))
def test_the_settings_of_the_guide_are_valid(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files(tmp_path))
    loaded, blueprint = read_settings(tmp_path / block.file, {})
    (planner,) = blueprint.chosen["planners"]
    built = planner.plugin.build(planner.name, planner.config, tools())

    assert isinstance(built, Runbooks)
    assert built.runbooks[0].name == ("shop-hung" if loaded.settings.runbooks else "certificate-expiring")
    assert built.learns == ("learn" in block.text)


def test_the_migration_of_the_guide_has_a_place_for_every_state_and_needs_to_say_so() -> None:
    (block,) = of("migration")
    body: Mapping[str, Any] = document.pages(block.text, block.file)[0][0].value
    books = {(b.name, b.version): b for each in of("runbook") for b in document.read(each.text, each.file)}
    old, new = books[body["runbook"], body["from"]], books[body["runbook"], body["to"]]

    assert plan(old.chart, new.chart, way_between(old, new, body)) == ()
    assert plan(old.chart, new.chart, way_between(old, new, {})) != ()


KEYS = {
    "runbook": document.BOOK_KEYS,
    "trigger": ("anomaly", "subjects", "if", "key", "per_runbook", "per_target", "per_key"),
    "states": document.STATE_KEYS,
    "variables": document.GIVEN,
    "tests": (*trial.FILE_KEYS, *trial.TEST_KEYS, *trial.STEP_KEYS, *trial.SUBJECT_KEYS, *trial.INCIDENT_KEYS),
    "answers": trial.ANSWERS,
    "actions": ("action", "args", "timeout", "retry", "max", "backoff", "undo", "on_unknown", "within", "hold"),
    "branches": ("to", "if", "do", "hold", "set", "raise", "emit", "log"),
}


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_the_runbooks_guide_explains_every_key(keys: tuple[str, ...]) -> None:
    """In its words, between backticks: an example alone explains nothing."""
    prose = re.sub(r"^```.*?^```$", "", RUNBOOKS.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)

    assert sorted({key for key in keys if f"`{key}`" not in prose}) == []


def test_the_figures_of_the_runbooks_guide_are_those_of_the_code() -> None:
    page = " ".join(RUNBOOKS.read_text(encoding="utf-8").split())

    assert f"rests {REST:g} seconds" in page
    assert (ABORTED, WORD, Config().equal_tries) == (900.0, 2.0, 3)
    assert all(words in page for words in ("a quarter of an hour", "Counts as two tries", "three times in a row"))
    assert f"up to {document.MOST_TRIES}:" in page
    assert f"`hold` {document.Expected().hold:g}s" in page


# -- commands and links ------------------------------------------------------------------------------------------------


def commands(page: Path) -> list[list[str]]:
    """What is typed behind each ``$``, without what the shell takes for itself."""
    lines = [line[2:] for block in blocks(page, "console") for line in block.text.splitlines() if line[:2] == "$ "]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("words", [pytest.param(w, id=" ".join(w)) for w in commands(RUNBOOKS) if w[0] == "x0tta6bl4"])
def test_a_command_of_the_guide_is_one(words: list[str]) -> None:
    asked = build().parse_args(words[1:])

    assert isinstance(asked, Namespace) and asked.command == words[1]


OFFLINE = [w[1:] for w in commands(RUNBOOKS) if w[:2] == ["x0tta6bl4", "runbook"] and w[2] in ("validate", "test")]


@pytest.mark.parametrize("words", [pytest.param(words, id=" ".join(words)) for words in OFFLINE if len(words) > 2])
def test_a_command_about_the_guides_own_files_finds_nothing_wrong(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files(tmp_path))
    monkeypatch.delenv("X0TTA6BL4_CONFIG", raising=False)
    code = cli.main(words)

    assert (code, capsys.readouterr().err) == (0, "")


@pytest.mark.parametrize("page", [ENGINE, RUNBOOKS], ids=["engine", "runbooks"])
def test_every_link_of_a_guide_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, heading = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        text = re.sub(r"^```.*?^```$", "", target.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not heading or heading in anchors, link
