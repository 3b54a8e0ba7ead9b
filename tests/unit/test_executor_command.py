"""The command executor: what may be configured, what a value can never become, and what a real run ends as."""

import asyncio
import posixpath
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from x0tta6bl4.adapters.commands import LinuxCommands
from x0tta6bl4.executors.command import PLUGIN, CommandExecutor, Config, Slot
from x0tta6bl4.kernel.errors import StepFailed, StepRefused
from x0tta6bl4.kernel.facts import Step
from x0tta6bl4.kernel.plugin import Tools
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.ports.commands import CommandResult


class Recorded:
    """Runs nothing and remembers what it would have run."""

    def __init__(self, code: int | None = 0, output: str = "") -> None:
        self.code, self.output = code, output
        self.calls: list[tuple[tuple[str, ...], float, Mapping[str, str] | None]] = []

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        limit: int = 65536,
        env: Mapping[str, str] | None = None,
        input: bytes | None = None,
    ) -> CommandResult:
        self.calls.append((tuple(argv), timeout, env))
        return CommandResult(tuple(argv), self.code, self.output, False, 0.5)


def config(**commands: Mapping[str, object]) -> Config:
    return Config.model_validate({"commands": commands})


def built(chosen: Config, commands: Any = None, **data: object) -> CommandExecutor:
    tools = SimpleNamespace(commands=commands or Recorded(), subjects={"web": Subject("web", data=data)})
    return cast(CommandExecutor, PLUGIN.build("command", chosen, cast(Tools, tools)))


def step(verb: str, **args: object) -> Step:
    return Step("s1", f"command.{verb}", "web", args, timeout=20.0)


def argv_of(chosen: Config, asked: Step, **data: object) -> tuple[str, ...]:
    recorded = Recorded()
    asyncio.run(built(chosen, recorded, **data).act(asked))
    return recorded.calls[0][0]


def mistakes(**command: object) -> str:
    with pytest.raises(ValidationError) as caught:
        config(c=command)
    return str(caught.value)


# -- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["/bin/sh", "-c", "{x}"],
        ["/usr/bin/bash", "/tmp/{x}"],
        ["/usr/bin/dash"],
        ["/bin/busybox", "sh"],
        ["/usr/bin/python3.11", "-c", "print()"],
        ["/usr/bin/perl5.36", "-e", "1"],
        ["/usr/bin/gawk", "1"],
        ["/usr/bin/env", "ls"],
        ["/usr/bin/sudo", "/usr/bin/ls"],
        ["/usr/bin/xargs"],
        ["/usr/bin/timeout", "1", "ls"],
        ["/lib64/ld-linux-x86-64.so.2", "/bin/sh"],
        ["/usr/bin/systemd-run", "ls"],
        ["/usr/bin/nsenter", "ls"],
    ],
)
def test_programs_that_run_their_arguments_are_refused_at_configuration(argv: list[str]) -> None:
    slots: dict[str, object] = {"x": {}} if any("{x}" in word for word in argv) else {}
    assert "runs whatever its arguments say" in mistakes(argv=argv, slots=slots)


@pytest.mark.parametrize(
    "argv",
    [
        ["/bin/sh", "-c", "ls"],
        ["/bin/sh"],
        ["/bin/sh", "script.sh"],
        ["/usr/bin/sudo", "/bin/sh", "-c", "ls"],
        ["/bin/sh", "/opt/{x}"],
    ],
)
def test_an_interpreter_that_is_allowed_still_needs_a_fixed_script(argv: list[str]) -> None:
    slots: dict[str, object] = {"x": {}} if any("{x}" in word for word in argv) else {}
    assert "the absolute path of a script" in mistakes(argv=argv, slots=slots, allow_interpreter=True)


def test_an_interpreter_with_a_script_is_possible_when_it_is_allowed() -> None:
    argv = ["/bin/sh", "/opt/mend.sh", "{unit}"]
    chosen = config(mend={"argv": argv, "slots": {"unit": {}}, "allow_interpreter": True})
    assert ("/bin/sh", "/opt/mend.sh", "web-1") == argv_of(chosen, step("mend", unit="web-1"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ({"argv": []}, "at least 1 item"),
        ({"argv": ["ls"]}, "should be the absolute path"),
        ({"argv": ["/bin/../bin/sh"]}, "should be the absolute path"),
        ({"argv": ["/bin/{x}"], "slots": {"x": {}}}, "should have no slots"),
        ({"argv": ["/bin/ls", "{unti}"], "slots": {"unit": {}}}, "did you mean 'unit'"),
        ({"argv": ["/bin/ls"], "slots": {"unit": {}}}, "slot unit is not used"),
        ({"argv": ["/bin/ls", "{x!r}"], "slots": {"x": {}}}, "a slot is a name"),
        ({"argv": ["/bin/ls", "{x.y}"], "slots": {"x": {}}}, "a slot is a name"),
        ({"argv": ["/bin/ls", "{x"], "slots": {"x": {}}}, "argv\\[1\\]"),
        ({"argv": ["/bin/ls", "a\0b"]}, "NUL"),
        ({"argv": ["/bin/ls", "{copy}"], "slots": {"copy": {}}}, "cannot be a slot's name"),
        ({"argv": ["/bin/ls", "/a{p}"], "slots": {"p": {"type": "path", "roots": ["/srv"]}}}, "a path is a whole"),
        ({"argv": ["/bin/ls", "{p}/x"], "slots": {"p": {"type": "path", "roots": ["/srv"]}}}, "a path is a whole"),
        ({"argv": ["/bin/ls", "{p}"], "slots": {"p": {"type": "path"}}}, "a path needs roots"),
        ({"argv": ["/bin/ls", "{p}"], "slots": {"p": {"type": "path", "roots": ["/"]}}}, "and not /"),
        ({"argv": ["/bin/ls", "{p}"], "slots": {"p": {"type": "path", "roots": ["/a/../b"]}}}, "without '..'"),
        ({"argv": ["/bin/ls", "{p}"], "slots": {"p": {"type": "choice", "choices": ["-rf"]}}}, "begin with '-'"),
        ({"argv": ["/bin/ls", "{p}"], "slots": {"p": {"type": "pattern", "pattern": "("}}}, "no regular expression"),
        ({"argv": ["/bin/ls", "{p}"], "slots": {"p": {"type": "number", "min": -1}}}, "greater than or equal to 0"),
        ({"argv": ["/bin/ls", "{p}"], "slots": {"p": {"type": "number", "default": "x"}}}, "default should be a num"),
        ({"argv": ["/bin/ls", "{p}"], "slots": {"p": {"roots": ["/srv"]}}}, "roots is for the type path"),
        ({"argv": ["/bin/ls"], "env": {"A=B": "1"}}, "cannot be set in an environment"),
        ({"argv": ["/bin/ls"], "env": {"X0TTA6BL4_KEY": "1"}}, "the daemon itself tells"),
        ({"argv": ["/bin/ls"], "shell": True}, "Extra inputs"),
        ({"argv": ["/bin/ls"], "undo": "d"}, "there is no command 'd'"),
    ],
)
def test_a_mistake_in_a_command_is_told_before_anything_starts(command: dict[str, object], words: str) -> None:
    assert words.replace("\\", "") in mistakes(**command)


def test_each_command_is_an_action_with_what_the_guard_must_know_of_it() -> None:
    chosen = config(
        block={"argv": ["/sbin/nft", "{address}"], "slots": {"address": {}}, "undo": "open", "idempotent": True},
        open={"argv": ["/sbin/nft", "flush"], "summary": "lets all in again"},
        look={"argv": ["/bin/ls"], "disruptive": False},
    )
    actions = {a.verb: a for a in built(chosen).actions}
    assert ["block", "open", "look"] == list(actions)
    assert ("open", "retry", True) == (actions["block"].undo, actions["block"].on_unknown, actions["block"].disruptive)
    assert ("", "probe") == (actions["open"].undo, actions["open"].on_unknown)
    assert "lets all in again" == actions["open"].summary
    assert not actions["look"].disruptive
    # The undoing step carries the arguments of the step it takes back.
    assert ("/sbin/nft", "flush") == argv_of(chosen, step("open", address="10.0.0.1", grace="1s"))


# -- values ---------------------------------------------------------------------------------------------------------

ARGV = [
    "/opt/tool",
    "{word}",
    "--word={word}",
    "/srv/x/{word}/y",
    "{path}",
    "--file={path}",
    "{number}",
    "n{number}n",
    "{choice}",
    "{pattern}",
    "--p={pattern}",
    "/srv/x/{pattern}",
    "{word}{number}",
    "{{literal}}",
]
SLOTS: Mapping[str, Mapping[str, object]] = {
    "word": {},
    "path": {"type": "path", "roots": ["/srv/data", "/var/cache/web"]},
    "number": {"type": "number", "max": 1000},
    "choice": {"type": "choice", "choices": ["fast", "slow"]},
    "pattern": {"type": "pattern", "pattern": r"(?s).*"},
}
GOOD: Mapping[str, object] = {
    "word": "web",
    "path": "/srv/data/a",
    "number": 7,
    "choice": "fast",
    "pattern": "abc",
}
NASTY = st.text(
    alphabet=st.sampled_from([*list("-./ab=;|&$`'\"\n\r\0\t {}*?~\\"), "\ud800", "\u2028", "é", "1"]), max_size=12
)
PATHS = st.lists(st.sampled_from(["srv", "data", "..", ".", "", "etc", "var", "cache", "web", "-x"]), max_size=8).map(
    lambda parts: f"/{'/'.join(parts)}"
)
VALUES = st.one_of(
    NASTY,
    PATHS,
    st.text(max_size=20),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.lists(st.text(max_size=3), max_size=2),
    st.sampled_from(["fast", "slow", "web", "/srv/data/x/../y"]),
)


@given(slot=st.sampled_from(sorted(SLOTS)), value=VALUES)
@example(slot="number", value=-0.0)
@example(slot="pattern", value="../../etc")
@settings(deadline=None)
def test_no_value_becomes_another_argument_an_option_or_a_path_outside_its_roots(slot: str, value: object) -> None:
    chosen = config(c={"argv": ARGV, "slots": SLOTS})
    recorded = Recorded()
    tool = built(chosen, recorded)
    try:
        asyncio.run(tool.act(step("c", **{**GOOD, slot: value})))
    except StepRefused:
        assert [] == recorded.calls
        return
    argv = recorded.calls[0][0]
    assert len(ARGV) == len(argv)
    assert "/opt/tool" == argv[0]
    for template, argument in zip(ARGV, argv, strict=True):
        assert argument and argument.isprintable()
        argument.encode()
        assert template.startswith("-") == argument.startswith("-")
        if template.startswith("/srv/x/"):
            assert f"{posixpath.normpath(argument)}/".startswith("/srv/x/")
    for path in (argv[4], argv[5].removeprefix("--file=")):
        assert posixpath.normpath(path) == path
        assert path.startswith(("/srv/data/", "/var/cache/web/"))
    assert "{literal}" == argv[-1]


@given(parts=st.lists(st.sampled_from(["srv", "data", "..", ".", "", "etc", "b"]), max_size=8))
@settings(deadline=None)
def test_a_path_is_accepted_exactly_when_it_truly_lies_below_a_root(parts: list[str]) -> None:
    path = f"/{'/'.join(parts)}"
    below = posixpath.normpath(f"/{path.lstrip('/')}").startswith("/srv/data/")
    slot = Slot(type="path", roots=["/srv/data"])
    try:
        accepted: str | None = slot.read(path)
    except ValueError:
        accepted = None
    assert below == (accepted is not None)


@given(value=st.one_of(st.integers(), st.floats()), whole=st.booleans())
@example(value=-0.0, whole=False)
@settings(deadline=None)
def test_a_number_is_written_in_plain_digits(value: float, whole: bool) -> None:
    slot = Slot(type="number", max=10**12, whole=whole)
    try:
        text = slot.read(value)
    except ValueError:
        assert not (0 <= value <= 10**12 and (not whole or value == int(value)))
        return
    assert float(value) == float(text)
    assert set(text) <= set("0123456789.")


def test_two_values_side_by_side_do_not_make_a_way_out() -> None:
    slots = {"a": {"type": "pattern", "pattern": "[.]"}, "b": {"type": "pattern", "pattern": "[.]"}}
    chosen = config(c={"argv": ["/opt/tool", "/srv/{a}{b}"], "slots": slots})
    with pytest.raises(StepRefused, match="leaves a folder"):
        argv_of(chosen, step("c", a=".", b="."))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"word": "-rf"}, "word should not begin with '-'.*'-rf'"),
        ({"word": "a b"}, "word should be a word"),
        ({"path": "/srv/data/../../etc/passwd"}, "path should lie below /srv/data or /var/cache/web"),
        ({"number": 1001}, "number should be from 0 to 1000"),
        ({"choice": "fsat"}, "choice should be one of fast, slow; did you mean 'fast'"),
        ({"wrod": "x"}, "no argument 'wrod'; did you mean 'word'"),
    ],
)
def test_a_refused_value_is_told_with_its_place(args: dict[str, object], words: str) -> None:
    chosen = config(c={"argv": ARGV, "slots": SLOTS})
    for call in (built(chosen).preview, built(chosen).act):
        with pytest.raises(StepRefused, match=words):
            asyncio.run(call(step("c", **{**GOOD, **args})))


def test_a_value_comes_from_the_step_then_the_targets_data_then_the_default_and_is_always_checked() -> None:
    slots = {"unit": {"default": "d"}, "target": {}}
    chosen = config(c={"argv": ["/opt/tool", "{unit}", "{target}"], "slots": slots})
    assert ("/opt/tool", "mine", "web") == argv_of(chosen, step("c", unit="mine"), unit="data")
    assert ("/opt/tool", "data", "web") == argv_of(chosen, step("c"), unit="data")
    assert ("/opt/tool", "d", "web") == argv_of(chosen, step("c"))
    with pytest.raises(StepRefused, match="begin with '-'"):
        argv_of(chosen, step("c"), unit="--all")
    with pytest.raises(StepRefused, match="unit is missing"):
        argv_of(config(c={"argv": ["/opt/tool", "{unit}"], "slots": {"unit": {}}}), step("c"))


def test_a_command_is_only_run_for_its_subjects() -> None:
    with pytest.raises(StepRefused, match="is not for web; it is for db-"):
        argv_of(config(c={"argv": ["/opt/tool"], "subjects": ["db-*"]}), step("c"))


def test_the_shorter_of_the_two_timeouts_counts() -> None:
    recorded = Recorded()
    tool = built(config(a={"argv": ["/opt/a"], "timeout": "5s"}, b={"argv": ["/opt/b"], "timeout": "1h"}), recorded)
    asyncio.run(tool.act(step("a")))
    asyncio.run(tool.act(step("b")))
    assert [5.0, 20.0] == [call[1] for call in recorded.calls]


def test_a_preview_shows_the_line_and_runs_nothing() -> None:
    recorded = Recorded()
    tool = built(config(c={"argv": ["/opt/tool", "a b", "{w}"], "slots": {"w": {}}}), recorded)
    assert "would run /opt/tool 'a b' x (at most 20 s)" == asyncio.run(tool.preview(step("c", w="x")))
    assert [] == recorded.calls


# -- real programs --------------------------------------------------------------------------------------------------


def script(tmp_path: Path, body: str) -> list[str]:
    file = tmp_path / "script.py"
    file.write_text(body)
    return [sys.executable, str(file)]


def real(tmp_path: Path, body: str, *more: str, **chosen: object) -> CommandExecutor:
    argv = [*script(tmp_path, body), *more]
    return built(config(c={"argv": argv, "allow_interpreter": True, **chosen}), LinuxCommands())


def test_a_real_command_gets_its_arguments_as_they_are_and_a_small_environment(tmp_path: Path) -> None:
    tool = real(
        tmp_path,
        "import os, sys; print(sys.argv[1:], sorted(k for k in os.environ if k != 'LC_CTYPE'))",
        "$HOME;ls",
        "{w}",
        slots={"w": {}},
        env={"A": "1"},
    )
    effect = asyncio.run(tool.act(step("c", w="x")))
    told = [f"X0TTA6BL4_{name}" for name in ("ATTEMPT", "EPOCH", "INCIDENT", "KEY", "STEP")]
    assert f"['$HOME;ls', 'x'] {['A', 'LANG', 'PATH', *told]}" == effect.output.strip()


def test_a_real_command_is_told_which_deed_it_is(tmp_path: Path) -> None:
    body = "import os; print(*(os.environ[f'X0TTA6BL4_{k}'] for k in ('KEY', 'ATTEMPT', 'EPOCH', 'STEP', 'INCIDENT')))"
    asked = replace(step("c"), key="inc-1:mend.3", attempt=2, epoch=7, incident="inc-1")

    effect = asyncio.run(real(tmp_path, body).act(asked))

    assert effect.output == "inc-1:mend.3 2 7 s1 inc-1\n"


def test_a_code_other_than_zero_is_a_failure_with_the_end_of_the_output(tmp_path: Path) -> None:
    tool = real(tmp_path, "print('first' + 'x' * 5000 + 'the last words'); raise SystemExit(3)")
    with pytest.raises(StepFailed, match=r"ended with code 3: …x+the last words") as caught:
        asyncio.run(tool.act(step("c")))
    assert len(caught.value.message) < 1000


def test_one_that_takes_too_long_is_killed_and_that_is_said(tmp_path: Path) -> None:
    tool = real(tmp_path, "import time; time.sleep(600)", timeout="50ms")
    with pytest.raises(StepFailed, match="because its time was up"):
        asyncio.run(tool.act(step("c")))


def test_its_output_is_bounded(tmp_path: Path) -> None:
    tool = real(tmp_path, "print('x' * 100000)", output_limit=1000)
    effect = asyncio.run(tool.act(step("c")))
    assert 1000 == len(effect.output)
    assert effect.detail.endswith("its output was cut at 1000 bytes")


def test_a_program_that_is_not_there_is_a_failure() -> None:
    tool = built(config(c={"argv": ["/nonexistent/tool"]}), LinuxCommands())
    with pytest.raises(StepFailed, match="/nonexistent/tool could not be started"):
        asyncio.run(tool.act(step("c")))
