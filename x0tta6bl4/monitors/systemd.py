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
EVERY = 10.0
SETTLE = 0.2
"""Seconds after a main process's end at which systemd is asked once more; then at growing pauses, if need be."""
SETTLED = ("active", "inactive", "failed")
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
        self._in_transit = False
        self._down_since: float | None = None
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
        self._in_transit = unit.job != "" or unit.active_state not in SETTLED
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
        told = 0
        while True:
            self._changed.clear()
            pid = self._main_pid
            process = await self._processes.find_by_pid(pid) if pid else None
            if process is None and pid in (0, told):
                await self._changed.wait()
            elif process is None or await self._has_ended(process):  # None: it ended since systemd named it
                told = pid
                await self._follow(report, pid)

    async def _follow(self, report: Callable[[Occurrence], None], pid: int) -> None:
        """Tells of the end, and goes on asking until systemd has done about it what it will do.

        systemd hears of the end when we do, so its first answer may be the state from before. While its own restart is
        under way there is no main process to wait for, and whoever holds back for it waits for our next answer.
        """
        how = f"main process {pid} of {self.config.unit} ended"
        began, pause = self._clock.monotonic(), SETTLE
        await self._tell(report, how)
        while True:
            await asyncio.sleep(pause)
            age = self._clock.monotonic() - began
            await self._tell(report, f"{how} {age:.1f} s ago")
            if self._main_pid not in (0, pid):
                return  # the next one
            if not self._in_transit and (self._main_pid == 0 or age >= EVERY):
                return
            pause = min(2 * pause, EVERY)

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
        self._in_transit = False  # unless systemd says otherwise now
        try:
            seen = await self.observe()
        except (ProbeFailed, OSError) as error:
            # The end is true whether or not systemd can be asked about it.
            how = f"{how}; systemd cannot be asked: {error}"
        report(Occurrence(self.name, self.config.subject, ENDED, self._clock.monotonic(), how, tuple(seen)))

    async def _stopped_on_purpose(self, unit: Unit) -> tuple[bool, str]:
        if unit.active_state != "inactive":
            self._down_since = None
            return False, ""
        if self._down_since is None:
            self._down_since = self._clock.wall()
        if unit.load_state == "masked":
            return True, f"{unit.name} is masked: somebody does not want it to run"
        if unit.result != "success" or unit.job != "":
            return False, ""
        wished: bool | None
        since = unit.inactive_since or self._down_since  # a unit that nothing refers to is forgotten with all its times
        if self._wish is not None and self._wish[0] == since:
            wished = self._wish[1]  # The same stop as at the look before: reading the journal again tells nothing new.
        else:
            wished = await self._units.stopped_on_purpose(unit)
            # A "no" may be a journal that is not yet written: it is believed for good once it has had the time to be.
            if wished or (wished is not None and self._clock.wall() - since >= JOURNAL_DELAY):
                self._wish = (since, wished)
        if wished is None:
            # Better to leave a service down that somebody may have stopped than to fight them over it.
            how = "was stopped cleanly" if unit.active_since else "is down and not known to have run since the boot"
            return True, f"{unit.name} {how}; the journal cannot say by whose will, so it is taken for a wish"
        return wished, f"somebody stopped {unit.name} (systemctl stop)" if wished else f"{unit.name} ended by itself"

    def _number(self, metric: str, value: float, detail: str) -> Observation:
        return Observation(self.name, self.config.subject, metric, float(value), detail=detail)


PLUGIN = monitor(
    Config,
    lambda name, config, tools: SystemdUnit(name, config, tools.clock, tools.units, tools.processes),
    every=EVERY,
    timeout=5,
)
