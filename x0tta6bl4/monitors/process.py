"""Reports whether a process lives and what it uses, and tells of its end the moment it comes."""

import asyncio
import re
import signal
from collections.abc import Callable, Sequence
from typing import Self

from pydantic import Field, field_validator, model_validator

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Observation, Occurrence
from x0tta6bl4.kernel.plugin import PluginConfig, monitor
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.processes import Processes, ProcessId, ProcessReading
from x0tta6bl4.ports.units import Units

SEARCH_EVERY = 5.0
"""Seconds between two searches by command line: each walks all of /proc, some milliseconds on a busy host."""
ASK_EVERY = 1.0
"""Seconds between two questions to systemd for a main process that is not there."""
REREAD_EVERY = 5.0
"""Seconds after which a pid file is read again while its process lives: a successor may have taken over."""
SHORTEST = 0.1
"""Seconds of process time between two looks below which its share of the CPU would be mostly rounding (10 ms ticks)."""
ENDED = "process ended"


class Config(PluginConfig):
    subject: str = Field(min_length=1)
    """The name of what this process is; observations are reported under it."""
    program: str | None = None
    """The name of a program that the daemon itself supervises."""
    pid_file: str | None = Field(default=None, pattern="^/")
    """Absolute path of the file in which the process keeps its number."""
    match: str | None = Field(default=None, min_length=1)
    """A regular expression for the command line; the oldest match counts. The costliest way, and up to 5 s slower to
    see a successor: prefer one of the others where there is a choice."""
    unit: str | None = Field(default=None, min_length=1)
    """The systemd unit whose main process it is, such as nginx.service."""

    @field_validator("match")
    @classmethod
    def _is_expression(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"should be a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        given = [key for key in ("program", "pid_file", "match", "unit") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"should have exactly one of program, pid_file, match and unit, not {given or 'none'}")
        return self


class ProcessMonitor:
    """Looks again for the process only when the one it knows is gone, so a usual look is one reading of one pid."""

    def __init__(self, name: str, config: Config, clock: Clock, processes: Processes, units: Units) -> None:
        self.name = name
        self.config = config
        self._clock = clock
        self._processes = processes
        self._units = units
        self._process: ProcessId | None = None
        self._looked_at = float("-inf")
        self._before: tuple[ProcessId, float, float] | None = None
        self._latest: dict[str, Observation] = {}
        self._changed = asyncio.Event()

    @property
    def subjects(self) -> Sequence[str]:
        return (self.config.subject,)

    async def observe(self) -> Sequence[Observation]:
        """Empty when the process is known to be gone and it is too early to look for another: nothing new was seen."""
        known = self._process
        if known is not None and not self._is_to_be_sought():
            reading = await self._processes.read(known)
            if reading is not None:
                return self._seen(reading)
            if self._process == known:
                self._process = None
        if not self._may_seek():
            # A source that is asked seldom. That the one we knew is gone is news all the same.
            return () if known is None else [self._down(f"pid {known.pid} is gone")]
        self._looked_at = self._clock.monotonic()
        found, why = await self._seek()
        reading = None if found is None else await self._processes.read(found)
        if found is None or reading is None:
            self._follow(None)
            return [self._down(why)]
        self._follow(found)
        return self._seen(reading)

    async def watch(self, report: Callable[[Occurrence], None]) -> None:
        while True:
            process = self._process
            self._changed.clear()
            if process is None:
                await self._changed.wait()
                continue
            ended = False

            def on_exit() -> None:
                nonlocal ended
                ended = True
                self._changed.set()

            watch = self._processes.watch_exit(process, on_exit)
            try:
                while not ended and self._process in (process, None):
                    await self._changed.wait()
                    self._changed.clear()
            finally:
                watch.close()
            if ended:
                report(self._end_of(process))

    def _end_of(self, process: ProcessId) -> Occurrence:
        how = f"pid {process.pid} ended"
        if self.config.program is not None and (words := self._exit_words(self.config.program)):
            how = f"pid {process.pid} {words}"
        if self.config.program is not None:
            running = self._processes.supervised(self.config.program)
            if running not in (process, None):
                self._process = running  # restarted before we came to tell: what ended is nobody's fault any more
        has_successor = self._process not in (process, None)
        if not has_successor:
            self._process = None
        # A look may have met the next process before we came to tell of this one's end: then it is not down any more.
        down = () if has_successor else (self._down(f"no process: {how}"),)
        return Occurrence(self.name, self.config.subject, ENDED, self._clock.monotonic(), how, down)

    def _is_to_be_sought(self) -> bool:
        return self.config.pid_file is not None and self._clock.monotonic() - self._looked_at >= REREAD_EVERY

    def _may_seek(self) -> bool:
        pause = SEARCH_EVERY if self.config.match is not None else ASK_EVERY if self.config.unit is not None else 0.0
        return pause == 0.0 or self._clock.monotonic() - self._looked_at >= pause

    async def _seek(self) -> tuple[ProcessId | None, str]:
        """The process, or what to say when there is none."""
        config = self.config
        if config.program is not None:
            words = self._exit_words(config.program)
            return self._processes.supervised(config.program), f"no process: {words or 'it does not run in our care'}"
        if config.pid_file is not None:
            found = await self._processes.find_by_pid_file(config.pid_file)
            return found, f"pid file {config.pid_file} names no live process"
        if config.match is not None:
            several = await self._processes.find_by_command(config.match)
            return (several[0] if several else None), f"no process: no command line matches {config.match!r}"
        assert config.unit is not None
        return await self._seek_main(config.unit)

    async def _seek_main(self, name: str) -> tuple[ProcessId | None, str]:
        unit = (await self._units.show([name])).get(name)
        if unit is None or unit.load_state == "not-found":
            raise ProbeFailed(f"systemd knows no unit {name}", remedy="mend its name, or install it")
        if unit.main_pid == 0:
            if unit.active_state == "active":
                raise ProbeFailed(
                    f"{name} is {unit.active_state} ({unit.sub_state}) and has no main process to look at",
                    remedy="watch it with the systemd monitor alone, or by pid_file or match",
                )
            return None, f"no process: {name} is {unit.active_state} ({unit.sub_state}), result {unit.result}"
        found = await self._processes.find_by_pid(unit.main_pid)
        return found, f"no process: main pid {unit.main_pid} of {name} is gone"

    def _exit_words(self, program: str) -> str:
        ended = self._processes.exit_of(program)
        if ended is None:
            return ""
        code = ended[0]
        if code is None:
            return "ended, and its status was for another parent"
        if code >= 0:
            return f"exited with {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"

    def _follow(self, process: ProcessId | None) -> None:
        if process != self._process:
            self._process = process
            self._changed.set()

    def _down(self, why: str) -> Observation:
        self._before = None
        return Observation(self.name, self.config.subject, "process_up", 0.0, detail=why)

    def _seen(self, reading: ProcessReading) -> Sequence[Observation]:
        process = reading.id
        seen = [
            self._number("process_up", 1.0, process),
            self._number("process_rss_bytes", reading.rss),
            self._number("process_threads", reading.threads),
            self._number("process_cpu_seconds", reading.cpu_seconds),
            self._number("process_age_seconds", reading.age),
            self._number("process_zombies", reading.zombies),
            self._number("process_stopped", reading.state == "T"),
        ]
        if reading.fds is not None:
            seen.append(self._number("process_fds", reading.fds))
        if reading.fd_limit is not None:
            seen.append(self._number("process_fds_limit", reading.fd_limit))
            if reading.fds is not None and reading.fd_limit:
                seen.append(self._number("process_fds_ratio", reading.fds / reading.fd_limit))
        before = self._before
        if before is None or before[0] != process:
            self._before = (process, reading.age, reading.cpu_seconds)
        elif (passed := reading.age - before[1]) >= SHORTEST:
            # Between two readings the process's own age is the truest measure of time: it was read with the numbers.
            self._before = (process, reading.age, reading.cpu_seconds)
            seen.append(self._number("process_busy", max(0.0, reading.cpu_seconds - before[2]) / passed))
        return seen

    def _number(self, metric: str, value: float, process: ProcessId | None = None) -> Observation:
        # Most numbers are the same as half a second ago, and an observation is frozen: the one from then will do.
        latest = self._latest.get(metric)
        detail = "" if process is None else f"pid {process.pid}"
        if latest is None or latest.value != value or latest.detail != detail:
            latest = self._latest[metric] = Observation(
                self.name, self.config.subject, metric, float(value), detail=detail
            )
        return latest


PLUGIN = monitor(
    Config,
    lambda name, config, tools: ProcessMonitor(name, config, tools.clock, tools.processes, tools.units),
    every=0.5,
    timeout=2,
)
