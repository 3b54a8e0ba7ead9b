"""Asks systemd about its units and bids it change them, in its own words, through systemctl and journalctl."""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from x0tta6bl4.kernel.errors import ProbeFailed, StepFailed, StepRefused
from x0tta6bl4.ports.commands import CommandResult, Commands
from x0tta6bl4.ports.units import Unit, Verb

_PATH = "/usr/bin:/bin"
# TZ and LC_ALL: timestamps come in one form, whatever the host speaks. (--timestamp=unix is younger than many hosts.)
_ENVIRONMENT = {"PATH": _PATH, "LC_ALL": "C.UTF-8", "TZ": "UTC", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}
_QUESTION_TIMEOUT = 20.0
_PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,Result,MainPID,NRestarts,Restart,ActiveEnterTimestamp,InactiveEnterTimestamp,Job"
)
_KINDS = "service|socket|timer|mount|automount|swap|target|path|slice|scope|device"
# No globs, which systemctl would expand; no bare template (name@.service), which makes it answer nothing at all.
_NAME = re.compile(rf"[A-Za-z0-9:_.\\@-]{{1,200}}(?<!@)\.(?:{_KINDS})", re.ASCII)
_SIGNAL = re.compile(r"(?:SIG)?[A-Z][A-Z0-9]{1,9}(?:[+-][0-9]{1,2})?|[1-9][0-9]?", re.ASCII)
_TIME = re.compile(r"(?:[A-Z][a-z]{2} )?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?) UTC", re.ASCII)

_NOT_HERE = "systemd is not running here"
_NOT_HERE_REMEDY = "let the daemon start and watch the processes itself, or run it on a host that systemd has booted"
_DENIED = re.compile(r"access denied|interactive authentication required|permission denied|not authorized", re.I)
_DENIED_REMEDY = "install the polkit rule shipped in systemd/ and name the unit in it"
_HOPELESS = re.compile(
    r"not found|not loaded|is masked|operation refused|not applicable|not a valid|no such file", re.I
)

# Message ids of systemd's own catalog.
_STOP_BEGUN = "de5b426a63be47a7b6ac3eaac82e2f6f"
_STOP_ENDED = "9d1aaa27d60140bd96365438aad20286"
_START_BEGUN = "7d4958e842da4a758f6c1cdc7b36dcc5"
_START_ENDED = "39f53479d3a045ac8e11786248231fbf"


def is_journal_readable(folders: Sequence[str] = ("/run/log/journal", "/var/log/journal")) -> bool:
    """Whether there is a system journal and we may read it. (journalctl itself says nothing and waits.)"""
    for folder in folders:
        try:
            machines = os.listdir(folder)
        except OSError:
            continue
        if any(os.access(f"{folder}/{machine}/system.journal", os.R_OK) for machine in machines):
            return True
    return False


class SystemctlUnits:
    def __init__(
        self,
        commands: Commands,
        *,
        systemctl: str | None = None,
        journalctl: str | None = None,
        booted: str = "/run/systemd/system",
    ) -> None:
        """``booted``: the folder that exists exactly when systemd is process 1, by sd_booted(3)."""
        self._commands = commands
        self._systemctl = systemctl
        self._journalctl = journalctl
        self._booted = booted

    async def show(self, names: Sequence[str]) -> Mapping[str, Unit]:
        """ProbeFailed when systemd does not run here or does not answer."""
        asked: dict[str, str] = {}
        for name in names:
            full = _full_name(name)
            if full is None:
                raise ProbeFailed(f"not the name of a unit: {name!r}")
            asked[name] = full
        if not asked:
            return {}
        result = await self._ask("show", f"--property={_PROPERTIES}", "--", *asked.values())
        blocks = [_fields(block) for block in result.output.split("\n\n") if block.strip()]
        if len(blocks) != len(asked):
            raise ProbeFailed(f"systemctl told of {len(blocks)} units when asked for {len(asked)}: {_words(result)}")
        jobs: Mapping[str, str] = {}
        if any(block.get("Job", "0") not in ("", "0") for block in blocks):
            jobs = _jobs((await self._ask("list-jobs", "--no-legend", "--plain")).output)
        try:
            return {name: _unit(block, jobs) for name, block in zip(asked, blocks, strict=True)}
        except (KeyError, ValueError) as error:
            raise ProbeFailed(f"unexpected answer of systemctl: {error}: {_words(result)}") from error

    async def act(self, verb: Verb, name: str, timeout: float, signal: str | None = None) -> None:
        full = _full_name(name)
        if full is None:
            raise StepRefused(f"not the name of a unit: {name!r}")
        argv = ["--no-ask-password", verb]
        if verb == "kill":
            if signal is not None and not _SIGNAL.fullmatch(signal):
                raise StepRefused(f"not a signal: {signal!r}")
            argv.append(f"--signal={signal or 'SIGTERM'}")
        program = self._program(self._systemctl, "systemctl")
        if program is None or not os.path.isdir(self._booted):
            raise StepRefused(_NOT_HERE, remedy=_NOT_HERE_REMEDY)
        try:
            result = await self._commands.run([program, *argv, "--", full], timeout=timeout, env=_ENVIRONMENT)
        except OSError as error:
            raise StepFailed(f"{program} cannot be started: {error.strerror or error}") from error
        if result.code == 0:
            return
        if result.code is None:
            raise StepFailed(f"systemd had not done with `{verb} {full}` after {timeout:g} s; it goes on with the job")
        words = _words(result)
        # 4: insufficient privilege, by the exit codes that systemctl(1) takes from the LSB; there is no better sign.
        if _DENIED.search(words):
            raise StepRefused(words, remedy=_DENIED_REMEDY)
        raise (StepRefused if _HOPELESS.search(words) else StepFailed)(words)

    async def stopped_on_purpose(self, unit: Unit) -> bool | None:
        """Whether the last job that systemd carried out on it since it became active was a stop.

        Jobs that systemd made by itself (PartOf=, Conflicts=, a shutdown) are stops as well: its will counts too.
        """
        program = self._program(self._journalctl, "journalctl")
        if program is None or not os.path.isdir(self._booted):
            return None
        # Its last word tells which boot this is. (`--boot` asks the kernel, whose answer is another one in a sandbox
        # within a container.) Only this boot counts: a unit that nothing refers to is forgotten when it stops, with the
        # time at which it became active.
        latest = await self._journal(program, "--lines=1", "_PID=1")
        if not latest:
            return None
        # Only process 1 may speak of its jobs: _PID= is set by the journal, anybody may send the other fields.
        fields = ["_PID=1", f"_BOOT_ID={latest[0].get('_BOOT_ID', '')}", f"UNIT={unit.name}"]
        fields += [f"MESSAGE_ID={which}" for which in (_STOP_BEGUN, _STOP_ENDED, _START_BEGUN, _START_ENDED)]
        found = await self._journal(program, f"--since=@{int(unit.active_since)}", "--lines=50", *fields)
        if found is None:
            return None
        if not found:
            # It was active, and no job ended that. One of which nothing is known at all may as well be unwanted.
            return False if unit.active_since else None
        last = found[-1]
        return last.get("MESSAGE_ID") in (_STOP_BEGUN, _STOP_ENDED) and last.get("JOB_TYPE") == "stop"

    async def _journal(self, program: str, *argv: str) -> list[dict[str, object]] | None:
        try:
            result = await self._commands.run(
                [program, "--quiet", "--no-pager", "--output=json", "--output-fields=MESSAGE_ID,JOB_TYPE", *argv],
                timeout=_QUESTION_TIMEOUT,
                env=_ENVIRONMENT,
            )
        except OSError:
            return None
        if result.code != 0 or result.truncated:
            return None
        try:
            records = [json.loads(line) for line in result.output.splitlines() if line]
        except ValueError:
            return None
        return [record for record in records if isinstance(record, dict)]

    async def _ask(self, *argv: str) -> CommandResult:
        program = self._program(self._systemctl, "systemctl")
        if program is None or not os.path.isdir(self._booted):
            raise ProbeFailed(_NOT_HERE, remedy=_NOT_HERE_REMEDY)
        try:
            result = await self._commands.run(
                [program, "--no-pager", *argv], timeout=_QUESTION_TIMEOUT, limit=4 * 1024 * 1024, env=_ENVIRONMENT
            )
        except OSError as error:
            raise ProbeFailed(f"{program} cannot be started: {error.strerror or error}") from error
        if result.code is None:
            raise ProbeFailed(f"systemd did not answer `systemctl {argv[0]}` within {_QUESTION_TIMEOUT:g} s")
        if result.code != 0 or result.truncated:
            raise ProbeFailed(_words(result))
        return result

    def _program(self, given: str | None, name: str) -> str | None:
        return given or shutil.which(name, path=_PATH)


def _full_name(name: str) -> str | None:
    """The name with its kind (.service when none is given), or None when no unit can be called so."""
    full = name if re.search(rf"\.(?:{_KINDS})\Z", name) else f"{name}.service"
    return full if _NAME.fullmatch(full) else None


def _words(result: CommandResult) -> str:
    """What systemctl said, on one line and bounded."""
    return " ".join(result.output.split())[:300] or f"systemctl ended with code {result.code} without a word"


def _fields(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def _unit(fields: Mapping[str, str], jobs: Mapping[str, str]) -> Unit:
    return Unit(
        name=fields["Id"],
        load_state=fields["LoadState"],
        active_state=fields["ActiveState"],
        sub_state=fields["SubState"],
        # What is no service has none of these four.
        result=fields.get("Result", ""),
        main_pid=int(fields.get("MainPID") or 0),
        restarts=int(fields.get("NRestarts") or 0),
        restart_policy=fields.get("Restart", ""),
        active_since=_seconds(fields.get("ActiveEnterTimestamp", "")),
        inactive_since=_seconds(fields.get("InactiveEnterTimestamp", "")),
        job=jobs.get(fields.get("Job", ""), ""),
    )


def _seconds(text: str) -> float:
    if text in ("", "n/a", "0"):
        return 0.0
    if text.startswith("@"):
        return float(text[1:])
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"no timestamp: {text!r}")
    return datetime.fromisoformat(match[1]).replace(tzinfo=UTC).timestamp()


def _jobs(output: str) -> Mapping[str, str]:
    """The type of each job by its number."""
    rows = (line.split() for line in output.splitlines())
    return {row[0]: row[2] for row in rows if len(row) >= 4}
