"""Starts, stops, restarts and signals the programs that the daemon itself supervises."""

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from x0tta6bl4.executors._arguments import Signal, action_of, arguments_of, signal_name, subject_of
from x0tta6bl4.kernel.errors import StepFailed, StepRefused
from x0tta6bl4.kernel.facts import Step
from x0tta6bl4.kernel.plugin import Action, Effect, PluginConfig, executor
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.units import Seconds
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.processes import Processes, ProcessId, Program

NEARLY = 0.001
"""Seconds by which two readings of a clock may miss each other: a stop that took its whole grace ended by SIGKILL."""
SHOWN = 200
"""Characters of a command that are told to whoever decides about it."""


class Config(PluginConfig):
    """Nothing to set: what to run stands with each target."""


class RestartArgs(PluginConfig):
    grace: Seconds = 5.0
    """Seconds from the request to end until SIGKILL. Raised, more work is finished; lowered, a hung one goes sooner."""
    signal: Signal | None = None
    """Asks the main process by this signal instead of SIGTERM; for programs that end gracefully on QUIT or INT only."""


class OnOffArgs(RestartArgs):
    was_running: bool | None = None
    """Filled in when this takes a stop or a start back: one that changed nothing has nothing to be taken back."""


class SignalArgs(PluginConfig):
    signal: Signal
    """What to send to the main process, by number or by name: 1, HUP or SIGHUP."""


ACTIONS: tuple[Action, ...] = (
    Action(
        "start",
        "starts the program unless it runs",
        OnOffArgs,
        on_unknown="retry",
        undo="stop",
        blast="process",
        timeout=10.0,
    ),
    Action(
        "stop",
        "ends the program and all of its processes",
        OnOffArgs,
        on_unknown="retry",
        undo="start",
        blast="process",
    ),
    Action(
        "restart",
        "ends the program and all of its processes, then starts it anew",
        RestartArgs,
        blast="process",
        idempotent=False,
    ),
    Action(
        "signal",
        "sends a signal to the program's main process",
        SignalArgs,
        blast="process",
        idempotent=False,
        timeout=5.0,
    ),
)


@dataclass(frozen=True)
class ProcessExecutor:
    name: str
    processes: Processes
    subjects: Mapping[str, Subject]
    clock: Clock
    actions: Sequence[Action] = ACTIONS

    async def preview(self, step: Step) -> str:
        verb, program, args = self._read(step)
        running = self.processes.supervised(program.name)
        what = f"{program.name} (pid {running.pid})" if running else program.name
        if isinstance(args, SignalArgs):
            return (
                f"would send {signal_name(args.signal)} to {what}"
                if running
                else f"would fail: {what} does not run, so nobody gets {signal_name(args.signal)}"
            )
        first = "SIGTERM" if args.signal is None else signal_name(args.signal)
        stop = f"stop {what} by {first}, after {args.grace:g} s by SIGKILL"
        if verb == "restart":
            return f"would {stop}, and start {_shown(program)}" if running else f"would start {_shown(program)}"
        if verb == "stop":
            if args.was_running is False:
                return f"would leave {what} alone: it was not running before"
            return f"would {stop}" if running else f"would find that {what} does not run"
        if args.was_running is False:
            return f"would leave {what} stopped: it was not running before"
        return f"would find that {what} already runs" if running else f"would start {_shown(program)}"

    async def act(self, step: Step) -> Effect:
        verb, program, args = self._read(step)
        if isinstance(args, SignalArgs):
            return await self._signal(program, args.signal)
        if verb == "restart":
            return await self._restart(program, args)
        if verb == "stop":
            return await self._stop_only(program, args)
        return await self._start_only(program, args)

    def _read(self, step: Step) -> tuple[str, Program, OnOffArgs | SignalArgs]:
        action = action_of(step, self.actions)
        subject = subject_of(step, self.subjects)
        program = subject.data.get("program")
        if not isinstance(program, Program):
            raise StepRefused(
                f"{step.action}: {subject.name} is no program that the daemon supervises",
                remedy="give the target a command, or another executor",
            )
        checked = arguments_of(step, action.args)
        if isinstance(checked, SignalArgs):
            return action.verb, program, checked
        return action.verb, program, OnOffArgs.model_construct(**dict(checked))

    async def _signal(self, program: Program, number: int) -> Effect:
        running = self.processes.supervised(program.name)
        if running is None or not await self.processes.signal(program.name, number):
            raise StepFailed(f"{program.name} does not run, so nobody got {signal_name(number)}")
        return Effect(f"sent {signal_name(number)} to pid {running.pid}")

    async def _start_only(self, program: Program, args: OnOffArgs) -> Effect:
        if args.was_running is False:
            return Effect(f"left {program.name} stopped: it was not running before")
        running = self.processes.supervised(program.name)
        if running is None:  # One that an earlier daemon started is found only by looking for it.
            running = (await self.processes.adopt([program])).get(program.name)
        if running is not None:
            return Effect(f"{program.name} already runs as pid {running.pid}", data={"was_running": True})
        return Effect(await self._start(program), data={"was_running": False})

    async def _stop_only(self, program: Program, args: OnOffArgs) -> Effect:
        if args.was_running is True:
            return Effect(f"left {program.name} running: it ran before")
        stopped = await self._stop(program, args)
        if not stopped:
            return Effect(f"{program.name} does not run", data={"was_running": False})
        return Effect(stopped, data={"was_running": True})

    async def _restart(self, program: Program, args: OnOffArgs) -> Effect:
        try:
            stopped = await self._stop(program, args) or f"{program.name} did not run"
        except StepFailed as error:
            # Two of one program do more harm than one that hangs.
            raise _told_again(
                error, f"not started anew, because the old one could not be stopped: {error.message}"
            ) from error
        try:
            started = await self._start(program)
        except StepFailed as error:
            raise _told_again(error, f"{stopped}, but it could not be started: {error.message}") from error
        return Effect(f"{stopped}, {started}")

    async def _start(self, program: Program) -> str:
        begun = self.clock.monotonic()
        process = await self.processes.start(program)
        return f"started pid {process.pid} in {_seconds(self.clock.monotonic() - begun)}"

    async def _stop(self, program: Program, args: OnOffArgs) -> str:
        """What was stopped and how; empty when nothing was running."""
        running = self.processes.supervised(program.name)
        begun = self.clock.monotonic()
        went = (
            running is not None
            and args.signal is not None
            and await self._ask(program, running, args.signal, args.grace)
        )
        left = max(0.0, args.grace - (self.clock.monotonic() - begun))
        # Also after it went by itself: its children may be there still.
        found = await self.processes.stop(program.name, left)
        seconds = self.clock.monotonic() - begun
        if not found and not went:
            return ""
        if found and seconds >= args.grace - NEARLY:
            by = "SIGKILL"
        elif went and args.signal is not None:
            by = signal_name(args.signal)
        else:
            by = "SIGTERM"
        who = f"pid {running.pid}" if running is not None else f"what was left of {program.name}"
        return f"stopped {who} (by {by} after {_seconds(seconds)})"

    async def _ask(self, program: Program, process: ProcessId, number: int, grace: float) -> bool:
        """Whether the main process ended upon the signal within its grace."""
        ended = asyncio.Event()
        watch = self.processes.watch_exit(process, ended.set)
        try:
            if not await self.processes.signal(program.name, number):
                return False
            async with asyncio.timeout(grace):
                await ended.wait()
            return True
        except TimeoutError:
            return False
        finally:
            watch.close()


def _told_again(error: StepFailed, message: str) -> StepFailed:
    kind = StepRefused if isinstance(error, StepRefused) else StepFailed
    return kind(message, delay=error.delay, details=error.details, remedy=error.remedy or None)


def _seconds(seconds: float) -> str:
    return f"{round(seconds, 2):g} s"


def _shown(program: Program) -> str:
    """The command as a person would type it; its beginning, when it is long."""
    text = shlex.join(program.argv)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


PLUGIN = executor(
    Config, lambda name, config, tools: ProcessExecutor(name, tools.processes, tools.subjects, tools.clock)
)
