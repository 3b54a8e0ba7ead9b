"""Acts on the units that systemd keeps for our targets, and never on those that the host itself stands on."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast

from pydantic import Field

from x0tta6bl4.executors._arguments import Signal, action_of, arguments_of, signal_name, subject_of
from x0tta6bl4.kernel.errors import ProbeFailed, StepFailed, StepRefused
from x0tta6bl4.kernel.facts import Step
from x0tta6bl4.kernel.plugin import Action, Effect, PluginConfig, executor
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.units import Seconds
from x0tta6bl4.ports.units import Unit, Units, Verb

KINDS = (".service", ".socket", ".timer", ".path")
"""The kinds of units that can be restarted without taking others down; all others are the host's own business."""
OTHER_KINDS = (".target", ".slice", ".scope", ".mount", ".automount", ".swap", ".device", ".snapshot")
NEVER = (
    "x0tta6bl4.service",
    "x0tta6bl4@*.service",  # the daemon would cut off the branch it sits on
    "dbus.*",
    "dbus-broker.*",
    "dbus-org.freedesktop.*",
    "messagebus.*",
    "init.*",
    "systemd-*",
    "user@*",
    "user-runtime-dir@*",
    "emergency.*",
    "rescue.*",
    "initrd-*",
    "plymouth-*",
    "polkit.*",
    "cryptsetup*",
    "lvm2-*",
    "multipathd.*",
)
BEARABLE = ("systemd-resolved.service", "systemd-timesyncd.service")
"""Those of systemd's own services that can be restarted without anybody noticing."""
_NAME = re.compile(r"[A-Za-z0-9:_.@\\][A-Za-z0-9:_.@\\-]{0,254}", re.ASCII)
RUNNING = ("active", "activating", "reloading")


class Config(PluginConfig):
    never: list[str] = Field(default_factory=list)
    """Units, or shell patterns of units, that are never acted on; beside those the host stands on, which never are."""


class RestartArgs(PluginConfig):
    grace: Seconds | None = None
    """Seconds until what has not ended is killed. Left out, the unit's own TimeoutStopSec= decides: 90 s as a rule."""


class OnOffArgs(RestartArgs):
    was_active: bool | None = None
    """Filled in when this takes a stop or a start back: one that changed nothing has nothing to be taken back."""


class ReloadArgs(PluginConfig):
    pass


class KillArgs(PluginConfig):
    signal: Signal = 15
    """What all processes of the unit get, by number or by name: 1, HUP or SIGHUP."""


JOB = 95.0
"""Seconds of one job: systemd itself gives up starting, reloading and asking to stop after 90 s, where neither the unit
nor the host says otherwise."""
CALL = 10.0
"""Seconds of what is done as soon as systemd has heard of it."""
ACTIONS: tuple[Action, ...] = (
    Action("start", "starts the unit unless it is active", OnOffArgs, on_unknown="retry", undo="stop", timeout=JOB),
    Action("stop", "stops the unit", OnOffArgs, on_unknown="retry", undo="start", timeout=JOB),
    Action("restart", "stops the unit if it is active, and starts it", RestartArgs, idempotent=False, timeout=2 * JOB),
    Action("reload", "asks the unit to read its configuration again", ReloadArgs, on_unknown="retry", timeout=JOB),
    Action("kill", "sends a signal to the unit's processes", KillArgs, idempotent=False, timeout=CALL),
    Action(
        "reset-failed",
        "makes systemd forget the unit's failures and its start limit",
        ReloadArgs,
        on_unknown="retry",
        blast="process",
        timeout=CALL,
    ),
)


@dataclass(frozen=True)
class SystemdExecutor:
    name: str
    config: Config
    units: Units
    subjects: Mapping[str, Subject]
    actions: Sequence[Action] = ACTIONS

    async def preview(self, step: Step) -> str:
        action, args, unit = await self._read(step)
        name, verb = unit.name, action.verb
        if isinstance(args, OnOffArgs):
            idle = self._nothing_to_do(verb, args, unit)
            if idle is not None:
                return f"would do nothing: {idle.detail}"
        kill = (
            f", and kill after {args.grace:g} s what has not ended"
            if (isinstance(args, RestartArgs) and args.grace is not None and verb != "start")
            else ""
        )
        by = f" with {signal_name(args.signal)}" if isinstance(args, KillArgs) else ""
        reset = "reset-failed and " if verb in ("start", "restart") and unit.active_state == "failed" else ""
        return f"would {reset}{verb} {name}{by}{kill}; it is {_state(unit)}"

    async def act(self, step: Step) -> Effect:
        action, args, unit = await self._read(step)
        name, verb = unit.name, cast(Verb, action.verb)
        if isinstance(args, KillArgs):
            await self.units.act("kill", name, step.timeout, signal=signal_name(args.signal))
            return Effect(f"sent {signal_name(args.signal)} to the processes of {name}")
        data: dict[str, bool] = {}
        if isinstance(args, OnOffArgs):
            idle = self._nothing_to_do(verb, args, unit)
            if idle is not None:
                return idle
            data = {"was_active": unit.active_state in RUNNING}
        said = f"{verb} of {name} is done; it was {_state(unit)}"
        if verb in ("start", "restart") and unit.active_state == "failed":
            # Also when the result is another than start-limit-hit: systemd keeps the first failure's name there, and
            # refuses to start the unit all the same.
            await self.units.act("reset-failed", name, step.timeout)
            said = f"reset-failed of {name} first, because it was {_state(unit)}; then {verb} is done"
        if isinstance(args, RestartArgs) and args.grace is not None and verb in ("stop", "restart"):
            if await self._with_grace(verb, name, args.grace, step.timeout):
                said += f"; what had not ended after {args.grace:g} s was killed"
        else:
            await self.units.act(verb, name, step.timeout)
        return Effect(said, data=data)

    async def _with_grace(self, verb: Verb, name: str, grace: float, timeout: float) -> bool:
        """Whether SIGKILL was needed. One job all the way: a daemon that dies between a stop and a start of its own
        would leave the unit down, as if somebody had wanted it so."""
        job = asyncio.create_task(self.units.act(verb, name, timeout), name=f"systemd {verb} {name}")
        killed = False
        try:
            await asyncio.wait([job], timeout=grace)
            # Only while it is still stopping: the kill must not reach the successor.
            if not job.done() and (await self._show(name)).active_state == "deactivating" and not job.done():
                await self.units.act("kill", name, timeout, signal="SIGKILL")
                killed = True
            await job
        finally:
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)
        return killed

    @staticmethod
    def _nothing_to_do(verb: str, args: OnOffArgs, unit: Unit) -> Effect | None:
        if verb == "start":
            if args.was_active is False:
                return Effect(f"left {unit.name} stopped: it was not active before")
            if unit.active_state == "active":
                return Effect(f"{unit.name} is active already", data={"was_active": True})
        elif args.was_active is True:
            return Effect(f"left {unit.name} active: it was so before")
        elif unit.active_state in ("inactive", "failed"):
            return Effect(f"{unit.name} is not active", data={"was_active": False})
        return None

    async def _read(self, step: Step) -> tuple[Action, PluginConfig, Unit]:
        action = action_of(step, self.actions)
        args = arguments_of(step, action.args)
        subject = subject_of(step, self.subjects)
        name = subject.data.get("unit")
        if not isinstance(name, str) or not name:
            raise StepRefused(f"{step.action}: {subject.name} has no unit", remedy="name it in the target, as `unit`")
        name = name if name.endswith(KINDS + OTHER_KINDS) else f"{name}.service"
        self._refuse_vital(step, name)
        unit = await self._show(name)
        # systemd answers with the unit's own name, so that an alias of a vital one is found out here.
        self._refuse_vital(step, unit.name)
        if unit.load_state == "not-found":
            raise StepRefused(f"{step.action}: systemd has no unit {name}", remedy="is it installed?")
        if unit.load_state == "masked" and action.verb != "stop":
            raise StepRefused(f"{step.action}: {name} is masked", remedy=f"`systemctl unmask {name}` permits it again")
        return action, args, unit

    async def _show(self, name: str) -> Unit:
        try:
            shown = await self.units.show([name])
        except ProbeFailed as error:
            raise StepFailed(error.message, remedy=error.remedy or None) from error
        if name not in shown:
            raise StepRefused(f"systemd says nothing of {name}")
        return shown[name]

    def _refuse_vital(self, step: Step, name: str) -> None:
        # systemctl reads *, ? and [ as patterns over all units, and a leading dash as an option.
        if not name.startswith("-.") and not _NAME.fullmatch(name):
            raise StepRefused(f"{step.action}: {name!r} is no unit's name")
        if any(fnmatchcase(name, pattern) for pattern in self.config.never):
            raise StepRefused(f"{step.action}: {name} is among those that are never acted on")
        if not name.endswith(KINDS) or (name not in BEARABLE and any(fnmatchcase(name, pattern) for pattern in NEVER)):
            raise StepRefused(f"{step.action}: the host or the daemon stands on {name}; it is left alone")


def _state(unit: Unit) -> str:
    why = f", {unit.result}" if unit.result not in ("", "success") else ""
    return f"{unit.active_state} ({unit.sub_state}{why})"


PLUGIN = executor(Config, lambda name, config, tools: SystemdExecutor(name, config, tools.units, tools.subjects))
