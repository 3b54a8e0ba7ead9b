"""One line for one event, wherever it came from; and no line is worth a fault in the daemon."""

import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from x0tta6bl4.observability.logging import (
    bind_thread_id,
    get_logger,
    log_stage,
    setup_logging,
    stop_logging,
    unbind_thread_id,
)
from x0tta6bl4.observability.tracker import ExecutionTracker


@pytest.fixture(autouse=True)
def _logging_taken_back() -> Iterator[None]:
    yield
    stop_logging()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_the_documented_example_works_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(level=logging.INFO)
    logger = logging.getLogger("x0tta6bl4")
    logger.info("Started", extra={"service": "core", "version": "3.3.0"})
    line = json.loads(capsys.readouterr().err)

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    assert line == {"level": "info", "logger": "x0tta6bl4", "event": "Started", "service": "core", "version": "3.3.0"}


def test_stdlib_and_structlog_loggers_come_out_the_same() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream)
    logging.getLogger("x0tta6bl4.kernel").warning("late by %d s", 3, extra={"subject": "web"})
    get_logger("x0tta6bl4.kernel").warning("late by %d s", 3, subject="web")
    first, second = lines(stream)
    del first["timestamp"], second["timestamp"]

    assert first == second
    assert first["event"] == "late by 3 s"


def test_secrets_are_taken_out_of_fields_messages_and_tracebacks() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream)
    logger = get_logger("x0tta6bl4")
    logger.info(
        "mail to intruder@example.com",
        user_email="intruder@example.com",
        authorization="Bearer hunter2",
        a=[{"token": "hunter2"}],
    )
    try:
        raise ValueError("password=hunter2")
    except ValueError:
        logger.exception("failed")
        logging.getLogger("x0tta6bl4").exception("failed")

    assert "hunter2" not in stream.getvalue()
    assert "intruder@" not in stream.getvalue()
    assert [("ValueError: password=[REDACTED:secret]" in line["exception"]) for line in lines(stream)[1:]] == [
        True,
        True,
    ]


def test_a_level_below_the_set_one_prints_nothing() -> None:
    stream = io.StringIO()
    setup_logging(level="WARNING", stream=stream)
    get_logger("x0tta6bl4.a").info("chatter")
    logging.getLogger("x0tta6bl4.a").info("chatter")

    assert stream.getvalue() == ""


def test_setting_up_again_replaces_and_never_doubles() -> None:
    old, new = io.StringIO(), io.StringIO()
    root_before = list(logging.getLogger().handlers)
    setup_logging(stream=old)
    setup_logging(stream=new)
    get_logger().info("once")

    assert old.getvalue() == ""
    assert len(lines(new)) == 1
    assert logging.getLogger().handlers == root_before


def test_a_foreign_handler_on_our_logger_stays() -> None:
    theirs = logging.NullHandler()
    ours = logging.getLogger("x0tta6bl4")
    ours.addHandler(theirs)
    try:
        setup_logging(stream=io.StringIO())
        stop_logging()

        assert theirs in ours.handlers
        assert ours.propagate
    finally:
        ours.removeHandler(theirs)


@pytest.mark.parametrize("settings", [{"level": "LOUD"}, {"format": "xml"}, {"file": "/nonexistent/x.log"}])
def test_a_wrong_setting_is_an_error_and_changes_nothing(settings: dict[str, Any]) -> None:
    stream = io.StringIO()
    setup_logging(stream=stream)
    with pytest.raises((ValueError, OSError)):
        setup_logging(**settings)
    get_logger().info("still here")

    assert [line["event"] for line in lines(stream)] == ["still here"]


def test_warnings_and_the_libraries_of_the_daemon_use_the_same_lines_and_are_quiet() -> None:
    stream = io.StringIO()
    setup_logging(level=logging.DEBUG, stream=stream)
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("apscheduler.scheduler").error("missed")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old way", stacklevel=1)

    assert [line["logger"] for line in lines(stream)] == ["apscheduler.scheduler", "py.warnings"]


def test_no_field_is_lost_to_a_name_that_the_line_itself_uses() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream)
    get_logger().info("said", level=3, logger="mine", timestamp=1)
    logging.getLogger("x0tta6bl4").info("said", extra={"event": "theirs", "level": 3})
    first, second = lines(stream)

    assert (first["event"], first["level"], first["level_"], first["logger_"], first["timestamp_"]) == (
        "said",
        "info",
        3,
        "mine",
        1,
    )
    assert (second["event"], second["event_"], second["level_"]) == ("said", "theirs", 3)


def test_every_line_is_json_whatever_is_in_it() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream)
    get_logger().info(
        "x\ny", nan=float("nan"), deep={"inf": [float("inf")]}, odd={(1, 2): object()}, lone="\ud800", b=b"\xff"
    )

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    assert len(stream.getvalue().splitlines()) == 1
    assert json.loads(stream.getvalue(), parse_constant=refuse)["event"] == "x\ny"


def test_text_is_one_readable_line_that_nobody_can_forge() -> None:
    stream = io.StringIO()
    setup_logging(format="text", stream=stream)
    get_logger("x0tta6bl4.loop").info("bad\n2025 info x0tta6bl4: forged \x1b[2J", path="a b", n=3, url="http://x")
    line = stream.getvalue()

    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert line.endswith(
        'info     x0tta6bl4.loop: bad\\n2025 info x0tta6bl4: forged \\x1b[2J path="a b" n=3 url=http://x\n'
    )


def test_text_keeps_a_traceback_readable() -> None:
    stream = io.StringIO()
    setup_logging(format="console", stream=stream)
    try:
        raise ValueError("wrong")
    except ValueError:
        get_logger().exception("failed")

    assert stream.getvalue().splitlines()[-1] == "ValueError: wrong"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colours_are_for_terminals_that_want_them(
    terminal: bool, no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal() if terminal else io.StringIO()
    setup_logging(format="text", stream=stream)
    get_logger().error("seen")

    assert ("\x1b[31m" in stream.getvalue()) is coloured


@pytest.mark.parametrize("named", [True, False])
def test_the_journal_gets_priorities_instead_of_timestamps(named: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only when the stream truly is the journal's socket: the variable alone is inherited by everything."""
    reader, writer = socket.socketpair()
    with reader, writer, os.fdopen(os.dup(writer.fileno()), "w") as stream:
        status = os.fstat(writer.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}" if named else f"{status.st_dev}:1")
        setup_logging(format="text", stream=stream)
        get_logger("x0tta6bl4.a").debug("unseen")
        try:
            raise ValueError("wrong")
        except ValueError:
            get_logger("x0tta6bl4.a").exception("failed")
        get_logger("x0tta6bl4.a").warning("late")
        stop_logging()
        received = reader.recv(65536).decode().splitlines()

    if named:
        assert received[0] == "<3>error    x0tta6bl4.a: failed"
        assert received[-1] == "<4>warning  x0tta6bl4.a: late"
        assert all(line.startswith("<3>") for line in received[:-1])
    else:
        assert not any(line.startswith("<") for line in received)


def test_a_broken_pipe_never_reaches_the_one_who_logs() -> None:
    read, write = os.pipe()
    stream = os.fdopen(write, "w")
    setup_logging(stream=stream)
    get_logger().info("heard")
    os.close(read)
    get_logger().info("unheard")
    logging.getLogger("x0tta6bl4").info("unheard")
    stop_logging()
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_closed_stream_never_reaches_the_one_who_logs() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream)
    stream.close()
    get_logger().info("unheard")


class Full(io.StringIO):
    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_lost_lines_are_counted_and_told_when_there_is_room_again() -> None:
    stream = Full()
    setup_logging(stream=stream)
    stream.full = True
    get_logger().info("lost")
    get_logger().info("lost")
    stream.full = False
    get_logger().info("back")
    get_logger().info("on")

    assert [line["event"] for line in lines(stream)] == ["back", "2 log lines were lost here", "on"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_never_reaches_the_one_who_logs() -> None:
    setup_logging(file="/dev/full", stream=io.StringIO())
    get_logger().info("x" * 100)
    stop_logging()


def test_a_log_call_with_wrong_arguments_is_reported_with_its_place() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream)
    logging.getLogger("x0tta6bl4").info("%d of %d", "three")
    (line,) = lines(stream)

    assert line["event"] == "a log call could not be written"
    assert line["message_"] == "%d of %d"
    assert __file__ in line["place"]


def test_the_file_is_private_rotates_and_has_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("x0tta6bl4.observability.logging.FILE_BYTES", 500)
    path = tmp_path / "app.log"
    stream = io.StringIO()
    before = os.umask(0o022)
    try:
        setup_logging(file=path, stream=stream)
        for number in range(20):
            get_logger().info("line", number=number)
        stop_logging()
    finally:
        os.umask(before)
    files = sorted(tmp_path.iterdir())
    kept = [json.loads(line) for file in files for line in file.read_text().splitlines()]

    assert path.stat().st_mode & 0o777 == 0o640
    assert len(files) > 2
    assert all(file.stat().st_size < 700 for file in files)
    assert sorted(line["number"] for line in kept) == list(range(20))
    assert len(lines(stream)) == 20


def test_log_stage_names_the_stage() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream)
    log_stage(get_logger("somebody.elses.plugin"), "2.1_L1_CACHE_LOOKUP", "Cache hit", level="warning", cache_key="k")
    (line,) = lines(stream)
    del line["timestamp"]

    assert line == {
        "level": "warning",
        "logger": "x0tta6bl4.somebody.elses.plugin",
        "event": "Cache hit",
        "stage": "2.1_L1_CACHE_LOOKUP",
        "cache_key": "k",
    }


def test_lines_are_correlated_by_the_thread_id_of_their_context() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream)
    logger, stdlib = get_logger(), logging.getLogger("x0tta6bl4")
    token = bind_thread_id("cycle-7")
    logger.info("bound")
    stdlib.info("bound")
    with ExecutionTracker().track_stage("1.0_MONITOR", "Monitor", "cycle-8"):
        logger.info("in a stage")
    other = threading.Thread(target=logger.info, args=("elsewhere",))
    other.start()
    other.join()
    logger.info("explicit", thread_id="mine")
    unbind_thread_id(token)
    logger.info("unbound")

    assert [line.get("thread_id") for line in lines(stream)] == ["cycle-7", "cycle-7", "cycle-8", None, "mine", None]


def test_importing_it_brings_no_rich_along() -> None:
    code = (
        "import sys, x0tta6bl4.observability.logging as l\n"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'rich'], 'rich was imported'\n"
        "import importlib.util; importlib.util.find_spec('rich')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
