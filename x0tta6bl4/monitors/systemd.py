"""Reports what systemd says of a unit, whether systemd is at it already, and whether somebody stopped it on purpose."""

import asyncio
from collections.abc import Callable, Sequence

from pydantic import Field

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Observation, Occurrence
from x0tta6bl4.kernel.plugin import PluginConfig, monitor
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.processes import Processes, ProcessId
from x0tta6bl4.ports.units import Unit, Units

ENDED = "main process ended"
SETTLE = 0.2
"""Seconds after a main process's end at which systemd is asked once more."""
JOURNAL_DELAY = 5.0
"""Seconds within which a stop is surely in the journal."""
RUNNING = frozenset({"active", "reloading", "refreshing", "activating"})


class Config(PluginConfig):
    subject: str = Field(min_length=1)
    """The name of what the unit runs; observations are reported under it."""
    unit: str = Field(pattern=r"^[^\s/]+\.[a-z]+$")
    """The unit's full name, such as nginx.service."""


class SystemdUnit:
    def __init__(self, name: str, config: Config, clock: Clock, units: Units, processes: Processes) -> None:
        self.name = name
        self.config = config
        self._clock = clock
        self._units = units
        self._processes = processes
        self._main_pid = 0
        self._changed = asyncio.Event()
        self._wish: tuple[float, bool] | None = None

    @property
    def subjects(self) -> Sequence[str]:
        return (self.config.subject,)

    async def observe(self) -> Sequence[Observation]:
        name = self.config.unit
        unit = (await self._units.show([name])).get(name)
        if unit is None or unit.load_state == "not-found":
            raise ProbeFailed(f"systemd knows no unit {name}", remedy="mend its name, or install it")
        if unit.main_pid != self._main_pid:
            self._main_pid = unit.main_pid
            self._changed.set()
        state = f"{unit.active_state} ({unit.sub_state})"
        if unit.result != "success":
            state += f", result {unit.result}"
        if unit.load_state != "loaded":
            state += f", {unit.load_state}"
        is_auto_restart = unit.sub_state.startswith("auto-restart")
        is_up = unit.active_state in RUNNING and not is_auto_restart
        is_at_it = is_auto_restart or unit.job in ("restart", "try-restart")
        on_purpose, wish = await self._stopped_on_purpose(unit)
        return [
            self._number("unit_up", is_up, state),
            self._number("unit_failed", unit.active_state == "failed", state),
            self._number("unit_restarts", unit.restarts, f"Restart={unit.restart_policy}"),
            self._number("unit_job", unit.job != "", unit.job),
            self._number("unit_auto_restart", is_at_it, state if is_at_it else ""),
            self._number("unit_stopped_on_purpose", on_purpose, wish),
        ]

    async def watch(self, report: Callable[[Occurrence], None]) -> None:
        while True:
            self._changed.clear()
            process = await self._processes.find_by_pid(self._main_pid) if self._main_pid else None
            if process is None:
                await self._changed.wait()
            elif await self._has_ended(process):
                how = f"main process {process.pid} of {self.config.unit} ended"
                await self._tell(report, how)
                # systemd hears of the end when we do, so its first answer may be the state from before, and what it
                # does about it takes it some milliseconds: an answer this soon after is worth a question of its own.
                await asyncio.sleep(SETTLE)
                await self._tell(report, f"{how} {SETTLE:g} s ago")

    async def _has_ended(self, process: ProcessId) -> bool:
        """True at the end of the process; False when systemd calls another one the main process before that."""
        ended = False

        def on_exit() -> None:
            nonlocal ended
            ended = True
            self._changed.set()

        watch = self._processes.watch_exit(process, on_exit)
        try:
            while not ended and self._main_pid in (process.pid, 0):
                await self._changed.wait()
                self._changed.clear()
        finally:
            watch.close()
        return ended

    async def _tell(self, report: Callable[[Occurrence], None], how: str) -> None:
        seen: Sequence[Observation] = ()
        try:
            seen = await self.observe()
        except (ProbeFailed, OSError) as error:
            # The end is true whether or not systemd can be asked about it.
            how = f"{how}; systemd cannot be asked: {error}"
        report(Occurrence(self.name, self.config.subject, ENDED, self._clock.monotonic(), how, tuple(seen)))

    async def _stopped_on_purpose(self, unit: Unit) -> tuple[bool, str]:
        if unit.active_state != "inactive":
            return False, ""
        if unit.load_state == "masked":
            return True, f"{unit.name} is masked: somebody does not want it to run"
        if unit.result != "success" or unit.job != "":
            return False, ""
        wished: bool | None
        if self._wish is not None and self._wish[0] == unit.inactive_since:
            wished = self._wish[1]  # The same stop as at the look before: reading the journal again tells nothing new.
        else:
            wished = await self._units.stopped_on_purpose(unit)
            # A "no" may be a journal that is not yet written: it is believed for good once it has had the time to be.
            if wished or (wished is not None and self._clock.wall() - unit.inactive_since >= JOURNAL_DELAY):
                self._wish = (unit.inactive_since, wished)
        if wished is None:
            # Better to leave a service down that somebody may have stopped than to fight them over it.
            return True, f"{unit.name} was stopped cleanly; the journal cannot say by whom, so it is taken for a wish"
        return wished, f"somebody stopped {unit.name} (systemctl stop)" if wished else f"{unit.name} ended by itself"

    def _number(self, metric: str, value: float, detail: str) -> Observation:
        return Observation(self.name, self.config.subject, metric, float(value), detail=detail)


PLUGIN = monitor(
    Config,
    lambda name, config, tools: SystemdUnit(name, config, tools.clock, tools.units, tools.processes),
    every=10,
    timeout=5,
)
