"""The command monitor, on scripted programs and on a real one."""

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from x0tta6bl4.adapters.commands import LinuxCommands
from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.monitors.command import MOST_NUMBERS, PLUGIN, Config, _numbers
from x0tta6bl4.testing.fakes import FOREVER, FakeCommands, tools
from x0tta6bl4.testing.virtual_time import run

CHECK = "/usr/lib/nagios/plugins/check_disk"


def look(commands: FakeCommands, **settings: Any) -> dict[str, tuple[float, str]]:
    config = Config(**{"subject": "disk", "argv": [CHECK, "-w", "10%"], **settings})
    seen = run(PLUGIN.build("c", config, tools(commands=commands)).observe())
    assert {(o.source, o.subject) for o in seen} == {("c", "disk")}
    return {o.metric: (o.value, o.detail) for o in seen}


@pytest.mark.parametrize(("code", "up", "warning"), [(0, 1, 0), (1, 1, 1), (2, 0, 0)])
def test_the_exit_code_is_the_answer_and_the_first_line_says_why(code: int, up: float, warning: float) -> None:
    commands = FakeCommands()
    commands.answer(CHECK, code=code, output="DISK: so it is | free=5GB;1;2\nmore words\n")

    seen = look(commands)

    assert seen["check_up"] == (up, "DISK: so it is")
    assert seen["check_warning"][0] == warning
    assert seen["check_free"] == (5 * 1024**3, "")
    assert commands.ran == [(CHECK, "-w", "10%")]


@pytest.mark.parametrize(("code", "words"), [(3, "does not know"), (127, "exited with 127"), (-11, "signal 11")])
def test_any_other_end_is_blindness(code: int, words: str) -> None:
    commands = FakeCommands()
    commands.answer(CHECK, code=code, output="UNKNOWN: no such disk")

    with pytest.raises(ProbeFailed, match=words) as failure:
        look(commands)

    assert "no such disk" in str(failure.value)


def test_a_check_that_hangs_is_blindness() -> None:
    commands = FakeCommands()
    commands.answer(CHECK, seconds=FOREVER)

    with pytest.raises(ProbeFailed, match="no answer within 7 s"):
        look(commands, within=7)


def test_a_check_that_is_not_there_is_blindness() -> None:
    with pytest.raises(FileNotFoundError):
        look(FakeCommands())


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("time=1.5s;;;0", {"check_time": 1.5}),
        ("time=250ms size=2KB load=0.7 used=93%;90;95;0;100 seen=12c", {
            "check_time": 0.25, "check_size": 2048, "check_load": 0.7, "check_used": 93, "check_seen": 12}),
        ("'free space'=4B 'it''s'=2", {"check_free_space": 4, "check_it_s": 2}),
        ("/var=10MB", {"check_var": 10 * 1024**2}),
        ("comma=1,5s negative=-2 power=1e3", {"check_comma": 1.5, "check_negative": -2, "check_power": 1000}),
        ("unknown=U broken=x words a=1", {"check_a": 1}),
        ("up=1 warning=1 link_up=1 ok=1", {"check_ok": 1}),
        ("twice=1 twice=2", {"check_twice": 1}),
        ("", {}),
    ],
)  # fmt: skip
def test_performance_data_become_numbers_in_seconds_and_bytes(text: str, numbers: dict[str, float]) -> None:
    assert dict(_numbers(text)) == pytest.approx(numbers)


def test_the_numbers_of_one_check_are_bounded() -> None:
    found = dict(_numbers(" ".join(f"n{number}={number}" for number in range(500))))

    assert len(found) == MOST_NUMBERS


@given(st.text())
def test_whatever_a_check_prints_the_numbers_are_sound(text: str) -> None:
    found = list(_numbers(text))

    assert len(found) <= MOST_NUMBERS
    assert len(dict(found)) == len(found)
    for metric, value in found:
        assert math.isfinite(value)
        assert metric.startswith("check_") and metric.isascii() and not metric.endswith("_up")
        assert metric not in ("check_up", "check_warning")


@pytest.mark.parametrize("argv", [[], ["check_disk"], ["/bin/true", "a\0b"], "/bin/true"])
def test_only_a_list_that_begins_with_an_absolute_path_is_a_command(argv: Any) -> None:
    with pytest.raises(ValidationError):
        Config(subject="disk", argv=argv)


def test_a_real_check_is_run_and_read(tmp_path: Path) -> None:
    script = tmp_path / "check"
    script.write_text("#!/bin/sh\necho \"WARN: $1 is slow | 'round trip'=20ms;10;50\"\nexit 1\n")
    script.chmod(0o755)
    config = Config(subject="link", argv=[str(script), "the link"])

    async def scene() -> dict[str, tuple[float, str]]:
        seen = await PLUGIN.build("c", config, tools(commands=LinuxCommands())).observe()
        return {o.metric: (o.value, o.detail) for o in seen}

    words = "WARN: the link is slow"
    assert asyncio.run(scene()) == {"check_up": (1, words), "check_warning": (1, words), "check_round_trip": (0.02, "")}
