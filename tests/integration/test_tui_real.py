"""The terminal view in a real terminal over a real store: what is seen, what keys write, and how it leaves."""

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.kernel.facts import Answer, Incident, IncidentState, Plan, Severity, Step, Verdict
from x0tta6bl4.kernel.memory import SubjectState
from x0tta6bl4.knowledge.sqlite import Config, SqliteKnowledge, migrations

curses = pytest.importorskip("curses")

PATIENCE = 60.0
"""Seconds that something which must happen may take on a busy machine; nobody waits for it when all is well."""
PACE = 0.05
SIZE = (100, 30)
UP, DOWN, ENTER, ESC = "\x1b[A", "\x1b[B", "\r", "\x1b"
T = TypeVar("T")
SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z@`])")
OTHER = re.compile(r"\x1b(?:[()][A-Za-z0-9]|[=>78]|\]104\x07|M)")
HALF = re.compile(r"\x1b(?:\[[0-9;?]*|[()]|\][^\x07]*)?")


class Screen:
    """As much of a terminal as curses needs of an xterm: what stands where. What it does not know is a failure."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.cells = [[" "] * columns for _ in range(lines)]
        self.x = self.y = 0
        self.region = (0, lines)
        self.left = ""
        self.colours: set[str] = set()
        self.is_apart = False
        """On the second screen, so that the first one is as it was after leaving."""

    @property
    def text(self) -> str:
        return "\n".join("".join(row).rstrip() for row in self.cells)

    def feed(self, text: str) -> None:
        text = self.left + text
        self.left = ""
        at = 0
        while at < len(text):
            char = text[at]
            if char == "\x1b":
                found = SEQUENCE.match(text, at)
                if found is None:
                    other = OTHER.match(text, at)
                    if other is None and HALF.fullmatch(text, at):
                        self.left = text[at:]
                        return
                    assert other is not None, repr(text[at : at + 20])
                    if other[0] == "\x1bM":
                        if self.y == self.region[0]:
                            self._scroll(self.region[0], -1)
                        else:
                            self.y = max(0, self.y - 1)
                    at = other.end()
                    continue
                self._command(found[1], [int(n or 0) for n in found[2].split(";")], found[3])
                at = found.end()
                continue
            at += 1
            match char:
                case "\r":
                    self.x = 0
                case "\n":
                    if self.y == self.region[1] - 1:
                        self._scroll(self.region[0], 1)
                    else:
                        self.y = min(self.y + 1, self.lines - 1)
                case "\b":
                    self.x = max(0, self.x - 1)
                case "\x0f" | "\x07":
                    pass
                case _:
                    assert char.isprintable(), repr(char)
                    self._put(char)

    def _scroll(self, top: int, by: int) -> None:
        """Lines from there to the end of the region go up, or down where it is negative."""
        bottom = self.region[1]
        blank = [[" "] * self.columns for _ in range(abs(by))]
        kept = self.cells[top:bottom]
        self.cells[top:bottom] = [*kept[by:], *blank][: len(kept)] if by > 0 else [*blank, *kept][: len(kept)]

    def _put(self, char: str) -> None:
        if self.x >= self.columns:
            self.x = 0
            self.y = min(self.y + 1, self.lines - 1)
        self.cells[self.y][self.x] = char
        self.x += 1

    def _command(self, private: str, numbers: list[int], name: str) -> None:
        first = numbers[0]
        row = self.cells[self.y]
        match name:
            case "H":
                self.y = min(max(first, 1), self.lines) - 1
                self.x = min(max(numbers[1] if len(numbers) > 1 else 1, 1), self.columns) - 1
            case "d":
                self.y = min(max(first, 1), self.lines) - 1
            case "G" | "`":
                self.x = min(max(first, 1), self.columns) - 1
            case "A":
                self.y = max(0, self.y - max(1, first))
            case "B":
                self.y = min(self.lines - 1, self.y + max(1, first))
            case "C":
                self.x = min(self.columns - 1, self.x + max(1, first))
            case "D":
                self.x = max(0, self.x - max(1, first))
            case "K":
                begin, end = (0, self.x + 1) if first == 1 else (self.x, self.columns)
                row[begin:end] = [" "] * (end - begin)
            case "J":
                begin = 0 if first == 2 else self.y + 1
                if first == 0:
                    row[self.x :] = [" "] * (self.columns - self.x)
                for number in range(begin, self.lines):
                    self.cells[number] = [" "] * self.columns
            case "X":
                row[self.x : self.x + max(1, first)] = [" "] * min(max(1, first), self.columns - self.x)
            case "P":
                gone = max(1, first)
                row[:] = [*row[: self.x], *row[self.x + gone :], *[" "] * gone][: self.columns]
            case "@":
                row[:] = [*row[: self.x], *[" "] * max(1, first), *row[self.x :]][: self.columns]
            case "b":
                for _ in range(max(1, first)):
                    self._put(row[self.x - 1])
            case "m":
                self.colours |= {str(number) for number in numbers}
            case "h" | "l":
                if private and 1049 in numbers:
                    self.is_apart = name == "h"
            case "S" | "M":
                self._scroll(self.region[0] if name == "S" else self.y, max(1, first))
            case "T" | "L":
                self._scroll(self.region[0] if name == "T" else self.y, -max(1, first))
            case "r":
                self.region = (max(first, 1) - 1, (numbers[1] if len(numbers) > 1 else 0) or self.lines)
                self.x = self.y = 0
            case "t":
                pass
            case _:
                raise AssertionError(f"a terminal command that the test does not know: {name!r}")


class Seat:
    """A person at a terminal in which the view runs."""

    def __init__(self, process: "subprocess.Popen[bytes]", master: int, size: tuple[int, int]) -> None:
        self.process = process
        self.master = master
        self.screen = Screen(*size)
        self.raw = ""

    def look(self, seconds: float = PACE) -> str:
        """What stands on the screen now."""
        while select.select([self.master], [], [], seconds)[0]:
            try:
                told = os.read(self.master, 65536)
            except OSError:  # so it is when nobody holds the other end any more
                break
            if not told:
                break
            text = told.decode(errors="replace")
            self.raw += text
            self.screen.feed(text)
            seconds = 0.0
        return self.screen.text

    def sees(self, *wanted: str, without: str = "") -> str:
        deadline = time.monotonic() + PATIENCE
        while True:
            text = self.look()
            if all(words in text for words in wanted) and not (without and without in text) and text == self.look():
                return text  # and it is painted to its end
            assert time.monotonic() < deadline and self.process.poll() is None, f"no {wanted} in:\n{text}"

    def types(self, *keys: str) -> None:
        for key in keys:
            os.write(self.master, key.encode())
            if key == ESC:
                time.sleep(0.2)  # alone it is a key; with what follows at once it would be the begin of another

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
        self.screen = Screen(columns, lines)

    def modes(self) -> list[Any]:
        return termios.tcgetattr(self.master)[:4]

    def left(self) -> int:
        """Its exit code, once it has ended."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            self.look()
            assert time.monotonic() < deadline, self.screen.text
        self.look()
        assert self.process.returncode is not None
        return self.process.returncode


@contextmanager
def seated(
    state: Path, *words: str, size: tuple[int, int] = SIZE, env: Mapping[str, str] | None = None
) -> Iterator[Seat]:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", size[1], size[0], 0, 0))
    known = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "LC_ALL", "LINES", "COLUMNS", "PYTHONUTF8")}
    process = subprocess.Popen(
        [sys.executable, "-m", "x0tta6bl4", "--state-dir", str(state), "tui", *words],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=state.parent,
        env={**known, "TERM": "xterm-256color", "LANG": "C.UTF-8", **(env or {})},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    seat = Seat(process, master, size)
    try:
        yield seat
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(master)


def fill(state: Path, work: Callable[[SqliteKnowledge], Awaitable[T]]) -> T:
    async def filled() -> T:
        database = await SqliteDatabase.open(state / "knowledge.db", migrations())
        try:
            return await work(SqliteKnowledge("store", Config(), database, SystemClock()))
        finally:
            await database.close()

    return asyncio.run(filled())


def incident(subject: str = "web", **more: Any) -> Incident:
    now = time.time()
    return replace(
        Incident(
            f"inc-{subject}-1",
            subject,
            "hung",
            IncidentState.OPEN,
            Severity.CRITICAL,
            f"{subject} does not answer",
            now - 90,
            now,
            onset_at=now - 90,
            because=("work_up is 0: no answer within 1.2 s (seen by web.work)",),
        ),
        **more,
    )


def plan(of: Incident) -> Plan:
    step = Step(f"plan-{of.subject}.1", "process.restart", of.subject)
    return Plan(f"plan-{of.subject}", of.id, of.subject, of.fault, "hung", "restart", (step,), ("it hangs",))


def subject(name: str, state: str = "well", summary: str = "every probe says yes: work_up") -> SubjectState:
    return SubjectState(name, state, time.time() - 300, summary, time.time())


async def trouble(knowledge: SqliteKnowledge) -> None:
    """What a daemon leaves behind: one service hung, and a person asked about it."""
    found = incident()
    await knowledge.save_subjects([subject("web", "hung", "web does not answer"), subject("db"), subject("cache")])
    await knowledge.save_incident(found)
    await knowledge.save_plan(plan(found))
    verdict = Verdict("mode", Answer.HOLD, "waits for a person's approval", time.time() + 600)
    await knowledge.record_decision(plan(found), plan(found).steps[0], verdict, time.time())
    await knowledge.want_approval(plan(found), time.time() + 600, "mode approve")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    fill(folder, trouble)
    return folder


def test_everything_is_seen_and_q_leaves_the_terminal_as_it_was(state: Path) -> None:
    with seated(state) as seat:
        before = seat.modes()
        text = seat.sees("Waiting for your answer (1)", "Open incidents (1)", "Watched (3)")
        assert "x0tta6bl4: 1 of 3 is not well when last seen, 1 open incident" in text
        assert "No daemon runs" in text and "process.restart on web" in text
        assert "held" in text and "(mode" in text and "waits for a person's approval" in text
        assert "─" in text and seat.screen.is_apart and {"31", "32"} <= seat.screen.colours
        watched = re.findall(r"^[> ] (\w+) +(\w+) +5 min ago", text, re.MULTILINE)
        assert watched == [("web", "hung"), ("cache", "well"), ("db", "well")]

        seat.types("q")
        assert seat.left() == 0
        assert seat.modes() == before and not seat.screen.is_apart


def test_an_approval_is_given_with_its_reason_and_stands_in_the_store(state: Path) -> None:
    with seated(state) as seat:
        seat.sees("Waiting for your answer (1)")
        seat.types("a")
        seat.sees("Approve process.restart on web (plan-web)?", "Why (may stay empty)")
        seat.types("seen it myself", ENTER)
        seat.sees("Approved: process.restart on web", without="Waiting for your answer")
        seat.types("q")
        assert seat.left() == 0

    (found,) = fill(state, lambda k: k.approvals())
    assert (found.state, found.why) == ("approved", "seen it myself")
    assert found.who.endswith("@cli")


def test_a_rejection_that_is_left_is_none_and_one_that_is_confirmed_is(state: Path) -> None:
    with seated(state) as seat:
        seat.sees("Waiting for your answer (1)")
        seat.types("x")
        seat.sees("Reject process.restart on web")
        seat.types(ESC)
        seat.sees("filter", without="Reject")
        (found,) = fill(state, lambda k: k.approvals())
        assert found.state == "wanted"

        seat.types("x", ENTER)
        seat.sees("Rejected: process.restart on web")
    (found,) = fill(state, lambda k: k.approvals())
    assert found.state == "rejected"


def test_an_answer_that_somebody_else_was_quicker_with_is_told_as_such(state: Path) -> None:
    with seated(state) as seat:
        seat.sees("Waiting for your answer (1)")
        seat.types("a")
        seat.sees("Approve process.restart")
        fill(state, lambda k: k.answer_approval("plan-web", False, "oncall@cli"))
        seat.types(ENTER)
        seat.sees("plan-web was rejected before, by oncall@cli")


def test_a_pause_lands_in_the_store_and_is_ended_again(state: Path) -> None:
    with seated(state) as seat:
        seat.sees("Waiting for your answer (1)")
        seat.types("p")
        seat.sees("Pause what", ": web")
        seat.types(ENTER, "soon", ENTER)
        seat.sees("a duration such as")
        seat.types("\x15", "30m", ENTER, "deploy", ENTER)
        seat.sees("From now on web is paused", "Pauses (1)", "ends in 30 min: deploy")
        (found,) = fill(state, lambda k: k.pauses())
        assert (found.target, found.reason) == ("web", "deploy")
        assert found.until == pytest.approx(time.time() + 1800, abs=PATIENCE)

        seat.types("u")
        seat.sees("End every pause on web?")
        seat.types(ENTER)
        seat.sees("1 pause on web ended", without="Pauses (1)")
    assert fill(state, lambda k: k.pauses()) == []


def test_a_pause_of_what_is_not_there_is_refused_in_the_words_of_the_command(state: Path) -> None:
    with seated(state) as seat:
        seat.sees("Waiting for your answer (1)")
        seat.types("p", "\x15", "wbe", ENTER, "5m", ENTER, ENTER)
        seat.sees("there is no subject 'wbe'", "did you mean 'web'?")
    assert fill(state, lambda k: k.pauses()) == []


def test_an_incident_is_told_with_its_story(state: Path) -> None:
    with seated(state, size=(90, 40)) as seat:
        seat.sees("Waiting for your answer (1)")
        seat.types(DOWN, ENTER)
        text = seat.sees("web is hung", "because work_up is 0", "WHEN", "opened", "decided", "approval")
        assert "The guard (mode): process.restart on web HELD until" in text
        assert "what to do:" in text

        seat.types(ESC)
        seat.sees("Watched (3)", without="WHEN")


def test_what_others_write_appears_by_itself_and_the_choice_stays(state: Path) -> None:
    with seated(state) as seat:
        seat.sees("> web")
        seat.types("G")
        seat.sees("> db")
        fill(state, lambda k: k.save_incident(incident("cache")))
        text = seat.sees("Open incidents (2)", "cache does not answer")
        assert "> db" in text


def test_it_follows_the_size_of_the_terminal(state: Path) -> None:
    with seated(state) as seat:
        seat.sees("Waiting for your answer (1)")
        for columns, lines in ((40, 10), (160, 50), (60, 12)):
            seat.resize(columns, lines)
            text = seat.sees("1 of 3 is not well", "> web", "? help", "q quit")
            assert ("(times need 60 columns)" in text) == (columns < 60)
            assert ("every probe says yes: work_up" in text) == (columns > 60)
            assert ("waits for a person's approval" in text) == (lines >= 16)
        seat.resize(30, 6)
        seat.sees("This terminal has 30x6; 40x10")
        seat.resize(*SIZE)
        seat.sees("Watched (3)")
        seat.types("q")
        assert seat.left() == 0


@pytest.mark.parametrize(
    ("how", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)],
)
def test_every_end_gives_the_terminal_back(how: signal.Signals, code: int, state: Path) -> None:
    with seated(state) as seat:
        before = seat.modes()
        seat.sees("Watched (3)")
        assert seat.modes() != before
        if how is signal.SIGINT:
            seat.types("\x03")
        else:
            seat.process.send_signal(how)
        assert seat.left() == code
        assert seat.modes() == before and not seat.screen.is_apart
        assert "Traceback" not in seat.raw


def test_our_own_mistake_gives_the_terminal_back_before_it_is_told(state: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import x0tta6bl4.cli.screen as s\n"
        "def broken(*a): raise ValueError('a bug')\n"
        "s.overall = broken\n"  # drawing asks it
    )
    with seated(state, env={"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}) as seat:
        before = seat.modes()
        assert seat.left() == 1
        assert seat.modes() == before and not seat.screen.is_apart
        assert seat.raw.rindex("ValueError: a bug") > seat.raw.rindex("\x1b[?1049l")


def test_it_stops_and_goes_on_as_every_program_does(state: Path) -> None:
    with seated(state) as seat:
        before = seat.modes()
        seat.sees("Watched (3)")
        deadline = time.monotonic() + PATIENCE
        while _state_of(seat.process.pid) != "T":
            seat.types("\x1a")  # Ctrl-Z; curses hears none while it paints
            heard_by = time.monotonic() + 5.0  # a second one while the first is on its way would stop it again later
            while _state_of(seat.process.pid) != "T" and time.monotonic() < heard_by:
                seat.look()
            assert time.monotonic() < deadline
        while seat.modes() != before or seat.screen.is_apart:
            seat.look()  # what it wrote last may still be on its way through the terminal
            assert time.monotonic() < deadline

        seat.screen = Screen(*SIZE)
        seat.process.send_signal(signal.SIGCONT)
        seat.sees("Watched (3)", "? help")
        assert seat.screen.is_apart
        seat.types("/", "cac", ENTER)
        seat.sees("> cache", without="db")


def _state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_terminal_that_goes_away_ends_it(state: Path) -> None:
    with seated(state) as seat:
        seat.sees("Watched (3)")
        kept = os.dup(seat.master)
        os.close(seat.master)
        os.close(kept)
        seat.master = os.open(os.devnull, os.O_RDONLY)
        assert seat.process.wait(PATIENCE) == 129


def test_names_cannot_command_the_terminal(tmp_path: Path) -> None:
    evil = "a\x1b[2J\x1b]0;t\x07\u202eb\u200b漢字e\u0301\u0301\u0301\u0301👍\udc80"

    async def work(knowledge: SqliteKnowledge) -> None:
        await knowledge.save_subjects([subject(evil, "hung", evil * 20), subject("db")])
        await knowledge.save_incident(incident("db", summary=f"{evil}\r\n{evil}"))

    fill(tmp_path / "state", work)
    with seated(tmp_path / "state") as seat:
        text = seat.sees("Watched (2)", "漢字", r"\x1b[2J")
        assert "db" in text
    assert "\x1b]0" not in seat.raw and "\u202e" not in seat.raw and "\u200b" not in seat.raw


@pytest.mark.parametrize(
    ("env", "colours", "rule"),
    [
        ({"NO_COLOR": "1"}, False, "──"),
        ({"TERM": "vt100"}, False, "──"),
        ({"LC_ALL": "C"}, True, "--"),
        ({"LANG": "C"}, True, "--"),
        ({"LANG": "de_DE.UTF-8"}, True, "──"),
    ],
)
def test_it_asks_no_more_of_a_terminal_than_it_has(
    env: dict[str, str], colours: bool, rule: str, tmp_path: Path
) -> None:
    fill(tmp_path / "state", lambda k: k.save_subjects([subject("wéb", "hung")]))
    with seated(tmp_path / "state", env=env) as seat:
        text = seat.sees(f"{rule} Watched (1)", "hung")
        assert ("31" in seat.screen.colours) == colours
        assert ("w?b" if rule == "--" else "wéb") in text


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"TERM": "dumb"}, "cannot be drawn on"),
        ({"TERM": "nonesuch"}, "'nonesuch' is not known"),
    ],
)
def test_a_terminal_that_cannot_show_it_is_told_what_can(env: dict[str, str], words: str, state: Path) -> None:
    with seated(state, env=env) as seat:
        assert seat.left() == 2
        assert words in seat.raw and "x0tta6bl4 status" in seat.raw


@pytest.mark.parametrize("words", [(), ("--output", "json")])
def test_without_a_terminal_it_names_what_works_there(words: tuple[str, ...], state: Path) -> None:
    command = [sys.executable, "-m", "x0tta6bl4", "--state-dir", str(state), "tui", *words]
    ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "x0tta6bl4 status" in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_a_store_that_cannot_be_read_any_more_is_told_and_what_was_seen_stays(state: Path) -> None:
    with seated(state) as seat:
        seat.sees("> web")
        fill(state, lambda k: k.remember("x", 1))
        database = state / "knowledge.db"
        with database.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (database.stat().st_size - 4096))
        text = seat.sees("This is not read anew")
        assert "Watched (3)" in text
        seat.types("q")
        assert seat.left() == 0


@pytest.mark.slow
def test_a_daemon_is_shown_live_answers_reach_it_and_its_death_is_noticed(tmp_path: Path) -> None:
    config, state = tmp_path / "x.yaml", tmp_path / "state"
    # The program says where it is, so that what a killed daemon leaves behind is found.
    program = [sys.executable, "-c", "import time; time.sleep(3600)", str(tmp_path)]
    config.write_text(
        json.dumps(  # JSON is YAML
            {
                "state_dir": str(state),
                "lock_file": str(tmp_path / "lock"),
                "status": {"port": 0},
                "guard": {"allow": ["process.*"]},
                "subjects": {
                    "web": {
                        "process": {"command": program, "on_exit": "stop"},
                        "work": "tcp://127.0.0.1:1",
                        "start_timeout": "500ms",
                        "mode": "approve",
                    }
                },
                "monitors": {"host": {"enabled": False}},
                "executors": {"systemd": {"enabled": False}},
            }
        )
    )
    with (tmp_path / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "x0tta6bl4", "--config", str(config), "run"], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not (state / "knowledge.db").exists() or '"url": "http' not in _text(tmp_path / "lock"):
            assert time.monotonic() < deadline and daemon.poll() is None, _text(tmp_path / "log")
            time.sleep(PACE)
        with seated(state, "--config", str(config)) as seat:
            seat.sees(f"daemon pid {daemon.pid}, live", "Waiting for your answer (1)")
            seat.types("a", "go", ENTER)
            seat.sees("Approved:", without="Waiting for your answer")
            fill(state, _until_done)
            daemon.kill()
            daemon.wait()
            seat.sees("No daemon runs: nothing is watched or healed now", "when last seen")
            seat.types("q")
            assert seat.left() == 0
    finally:
        if daemon.poll() is None:
            daemon.kill()
        daemon.wait()
        _end_programs(tmp_path)


async def _until_done(knowledge: SqliteKnowledge) -> None:
    """The daemon itself has acted on the answer."""
    async with asyncio.timeout(PATIENCE):
        while not any(a.action.startswith("process.") for a in await knowledge.actions_since(0.0)):
            await asyncio.sleep(PACE)


def _end_programs(folder: Path) -> None:
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = line.read_bytes().split(b"\0")
            if str(folder).encode() in words and b"-c" in words:
                os.kill(int(line.parent.name), signal.SIGKILL)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
