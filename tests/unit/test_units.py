"""systemd's units and its notification socket, with a systemctl that says what the true one says."""

import asyncio
import json
import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from x0tta6bl4.adapters.commands import LinuxCommands
from x0tta6bl4.adapters.sdnotify import notify
from x0tta6bl4.adapters.systemd import SystemctlUnits, is_journal_readable
from x0tta6bl4.kernel.errors import ProbeFailed, StepFailed, StepRefused
from x0tta6bl4.ports.units import Unit, Units

SHOWN = """\
Id=shop.service
LoadState=loaded
ActiveState=failed
SubState=failed
Result=exit-code
MainPID=0
NRestarts=5
Restart=on-failure
ActiveEnterTimestamp=Fri 2026-11-20 14:10:01 UTC
InactiveEnterTimestamp=Fri 2026-11-20 14:12:00 UTC
Job=4711

Id=gone.service
LoadState=not-found
ActiveState=inactive
SubState=dead
Result=success
MainPID=0
NRestarts=0
Restart=no
ActiveEnterTimestamp=
InactiveEnterTimestamp=n/a

Id=data.mount
LoadState=loaded
ActiveState=active
SubState=mounted
Result=success
ActiveEnterTimestamp=@1795183801
InactiveEnterTimestamp=
"""

UNIT = Unit("shop.service", "loaded", "inactive", "dead", "success", 0, 0, "no", 1795183801.0, 1795183920.0, "")


def program(folder: Path, name: str, script: str) -> str:
    path = folder / name
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {folder}/{name}.asked\n{script}\n')
    path.chmod(0o755)
    return str(path)


def asked(folder: Path, name: str = "systemctl") -> list[str]:
    try:
        return (folder / f"{name}.asked").read_text().splitlines()
    except FileNotFoundError:
        return []


def units(folder: Path, *, systemctl: str = "exit 99", journalctl: str = "exit 99") -> SystemctlUnits:
    return SystemctlUnits(
        LinuxCommands(),
        systemctl=program(folder, "systemctl", systemctl),
        journalctl=program(folder, "journalctl", journalctl),
        booted=str(folder),
    )


def test_all_units_are_shown_with_one_question(tmp_path: Path) -> None:
    (tmp_path / "shown").write_text(SHOWN)
    port: Units = units(
        tmp_path,
        systemctl=f'case "$*" in *jobs*) echo "4711 shop.service restart waiting";; *) cat {tmp_path}/shown;; esac',
    )
    shown = asyncio.run(port.show(["shop", "gone.service", "data.mount"]))

    assert shown["shop"] == Unit(
        name="shop.service",
        load_state="loaded",
        active_state="failed",
        sub_state="failed",
        result="exit-code",
        main_pid=0,
        restarts=5,
        restart_policy="on-failure",
        active_since=1795183801.0,
        inactive_since=1795183920.0,
        job="restart",
    )
    assert (shown["gone.service"].load_state, shown["gone.service"].active_since) == ("not-found", 0.0)
    assert (shown["data.mount"].main_pid, shown["data.mount"].active_since) == (0, 1795183801.0)
    assert asked(tmp_path)[0].split(" -- ")[1] == "shop.service gone.service data.mount"
    assert len(asked(tmp_path)) == 2


def test_nothing_is_asked_about_no_units(tmp_path: Path) -> None:
    assert asyncio.run(units(tmp_path).show([])) == {}
    assert asked(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "--force.service",
        "a b",
        "a;b.service",
        "*.service",
        "../x.service",
        "x@",
        "x@.service",
        "x.service\n",
        "x" * 300,
    ],
)
def test_what_cannot_be_a_units_name_never_reaches_systemctl(tmp_path: Path, name: str) -> None:
    port = units(tmp_path)
    if name == "--force.service":
        # A name may begin with a dash (-.mount is the root); behind `--` it is no option.
        with pytest.raises(ProbeFailed):
            asyncio.run(port.show([name]))
        assert asked(tmp_path)[0].endswith(" -- --force.service")
        return
    with pytest.raises(ProbeFailed, match="not the name of a unit"):
        asyncio.run(port.show([name]))
    with pytest.raises(StepRefused, match="not the name of a unit"):
        asyncio.run(port.act("restart", name, 10))
    assert asked(tmp_path) == []


@pytest.mark.parametrize(
    "answer", ["Id=a.service", SHOWN, "Id=a.service\nLoadState=x\nActiveState=x\nSubState=x\nMainPID=many", ""]
)
def test_an_answer_that_does_not_fit_the_question_is_not_guessed_at(tmp_path: Path, answer: str) -> None:
    (tmp_path / "shown").write_text(answer)

    with pytest.raises(ProbeFailed):
        asyncio.run(units(tmp_path, systemctl=f"cat {tmp_path}/shown").show(["a"]))


def test_without_systemd_every_question_says_so(tmp_path: Path) -> None:
    port = SystemctlUnits(LinuxCommands(), booted=str(tmp_path / "no"))

    with pytest.raises(ProbeFailed, match="systemd is not running here; let the daemon"):
        asyncio.run(port.show(["a"]))
    with pytest.raises(StepRefused, match="systemd is not running here"):
        asyncio.run(port.act("start", "a", 10))
    assert asyncio.run(port.stopped_on_purpose(UNIT)) is None


@pytest.mark.parametrize(
    ("verb", "signal", "words"),
    [
        ("restart", None, "--no-ask-password restart -- shop.service"),
        ("reset-failed", None, "--no-ask-password reset-failed -- shop.service"),
        ("kill", "SIGHUP", "--no-ask-password kill --signal=SIGHUP -- shop.service"),
        ("kill", None, "--no-ask-password kill --signal=SIGTERM -- shop.service"),
    ],
)
def test_a_verb_reaches_systemctl_as_it_is(tmp_path: Path, verb: str, signal: str | None, words: str) -> None:
    asyncio.run(units(tmp_path, systemctl="exit 0").act(verb, "shop", 10, signal))  # type: ignore[arg-type]  # one of the verbs

    assert asked(tmp_path) == [words]


def test_a_signal_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepRefused, match="not a signal"):
        asyncio.run(units(tmp_path).act("kill", "shop", 10, "HUP --force"))


@pytest.mark.parametrize(
    ("words", "error", "remedy"),
    [
        ("Failed to restart shop.service: Access denied", StepRefused, "polkit rule"),
        ("Failed to stop shop.service: Interactive authentication required.", StepRefused, "polkit rule"),
        ("Failed to restart shop.service: Unit shop.service not found.", StepRefused, ""),
        ("Failed to start shop.service: Unit shop.service is masked.", StepRefused, ""),
        ("Job for shop.service failed because the control process exited with error code.", StepFailed, ""),
        ("Failed to restart shop.service: Connection timed out", StepFailed, ""),
    ],
)
def test_a_verb_that_failed_is_told_in_systemds_words(
    tmp_path: Path, words: str, error: type[StepFailed], remedy: str
) -> None:
    with pytest.raises(StepFailed) as caught:
        asyncio.run(units(tmp_path, systemctl=f"echo '{words}' >&2; exit 1").act("restart", "shop", 10))

    assert type(caught.value) is error
    assert caught.value.message == words
    assert remedy in caught.value.remedy


def test_a_verb_that_takes_too_long_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match=r"not done with `stop shop.service` after 0.05 s"):
        asyncio.run(units(tmp_path, systemctl="exec sleep 1000").act("stop", "shop", 0.05))


STOP_BEGUN, STOP_ENDED = "de5b426a63be47a7b6ac3eaac82e2f6f", "9d1aaa27d60140bd96365438aad20286"
START_BEGUN, START_ENDED = "7d4958e842da4a758f6c1cdc7b36dcc5", "39f53479d3a045ac8e11786248231fbf"
STARTED = [(START_BEGUN, "start"), (START_ENDED, "start")]


@pytest.mark.parametrize(
    ("story", "answer"),
    [
        ([*STARTED, (STOP_BEGUN, "stop"), (STOP_ENDED, "stop")], True),
        ([*STARTED, (STOP_BEGUN, "stop")], True),
        (STARTED, False),
        ([*STARTED, (STOP_BEGUN, "stop"), (STOP_ENDED, "restart"), (START_BEGUN, "start")], False),
        ([*STARTED, (STOP_BEGUN, "stop"), (STOP_ENDED, "restart")], False),
        ([(STOP_BEGUN, "stop"), (STOP_ENDED, "stop"), *STARTED], False),
    ],
)
def test_a_stop_is_on_purpose_when_it_was_the_last_job(
    tmp_path: Path, story: list[tuple[str, str]], answer: bool
) -> None:
    records = [json.dumps({"MESSAGE_ID": message, "JOB_TYPE": job}) for message, job in story]
    (tmp_path / "journal").write_text("".join(f"{record}\n" for record in records))
    latest = json.dumps({"_BOOT_ID": "b007"})
    script = f"""case "$*" in *UNIT=*) cat {tmp_path}/journal;; *) echo '{latest}';; esac"""
    port = units(tmp_path, journalctl=script)

    assert asyncio.run(port.stopped_on_purpose(UNIT)) is answer
    assert "--since=@1795183801" in asked(tmp_path, "journalctl")[1]
    assert "_PID=1 _BOOT_ID=b007 UNIT=shop.service" in asked(tmp_path, "journalctl")[1]


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        ("echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1", None),
        ("exit 0", None),
        ("echo garbage", None),
        # Nothing of this unit, though the rest of the journal can be read.
        ("""case "$*" in *UNIT=*) ;; *) echo '{"MESSAGE_ID": null}';; esac""", False),
    ],
)
def test_a_journal_that_cannot_be_read_gives_no_answer(tmp_path: Path, script: str, answer: bool | None) -> None:
    assert asyncio.run(units(tmp_path, journalctl=script).stopped_on_purpose(UNIT)) is answer


def test_a_unit_of_which_neither_systemd_nor_the_journal_knows_anything_may_be_unwanted(tmp_path: Path) -> None:
    script = """case "$*" in *UNIT=*) ;; *) echo '{"_BOOT_ID": "b007"}';; esac"""
    never = replace(UNIT, active_since=0.0, inactive_since=0.0)
    assert asyncio.run(units(tmp_path, journalctl=script).stopped_on_purpose(never)) is None


def test_a_journal_is_there_when_its_file_can_be_read(tmp_path: Path) -> None:
    folders = (str(tmp_path / "missing"), str(tmp_path))
    (tmp_path / "0123").mkdir()
    before = is_journal_readable(folders)
    (tmp_path / "0123" / "system.journal").touch()

    assert (before, is_journal_readable(folders)) == (False, True)


@pytest.mark.skipif(not os.path.isdir("/run/systemd/system"), reason="systemd is not process 1 of this machine")
def test_the_true_systemd_is_understood() -> None:
    assert shutil.which("systemctl")
    shown = asyncio.run(SystemctlUnits(LinuxCommands()).show(["-.mount", "x0tta6bl4-no-such-unit.service"]))

    assert shown["-.mount"].active_state == "active"
    assert shown["-.mount"].active_since > 0
    assert shown["x0tta6bl4-no-such-unit.service"].load_state == "not-found"


# --- the notification socket ---


@pytest.mark.parametrize("abstract", [False, True])
def test_a_notification_reaches_the_service_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"@x0tta6bl4-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)

        assert notify("READY=1\nSTATUS=all is well")
        assert manager.recv(100) == b"READY=1\nSTATUS=all is well"


def test_without_a_service_manager_nobody_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not notify("READY=1")


def test_a_service_manager_that_does_not_listen_does_not_hold_up_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        told = [notify("WATCHDOG=1") for _ in range(5000)]

    assert told[0]
    assert not told[-1]
