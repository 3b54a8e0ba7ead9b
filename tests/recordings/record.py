"""Records what the real monitors see of the sample service while it breaks, for the daemon's judgement to be replayed.

    python tests/recordings/record.py [STORY...]

Nothing is healed while it records. Each story becomes one ``STORY.jsonl`` beside this file: a first line that says what
was under care, when it was broken and what is expected of the judgement, and then a line for each look and occurrence
with its times in seconds. To be repeated when the monitors change; what is expected stands here and is not recorded.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.processes import LinuxProcesses
from x0tta6bl4.app import LaterDatabase, draw, parts_of, tools_of
from x0tta6bl4.demo.breaker import break_, free_port, wait_until_answers
from x0tta6bl4.kernel.bus import EventBus
from x0tta6bl4.kernel.facts import Observation, Occurrence
from x0tta6bl4.kernel.flags import FeatureFlags
from x0tta6bl4.kernel.plugin import Monitor, SpeaksOf, Watcher
from x0tta6bl4.kernel.sight import Sight
from x0tta6bl4.kernel.watching import Instance, Watching
from x0tta6bl4.observability.metrics import Metrics
from x0tta6bl4.ports.meter import NoMeter
from x0tta6bl4.settings.model import Settings

HERE = Path(__file__).parent
CALM = 4.0
"""Seconds of health at the beginning of each story."""


@dataclass(frozen=True)
class Story:
    about: str
    kind: str
    """What the victim is asked to do to itself."""
    seconds: float
    """How long it is watched after that."""
    expect: dict[str, Any]
    broken: str = "web"
    params: dict[str, float] = field(default_factory=dict)
    care: dict[str, dict[str, Any]] = field(default_factory=lambda: {"web": {}})


def found(fault: str, within: float, plan: Sequence[str], subject: str = "web") -> dict[str, Any]:
    """What must be found of the subject, in how many seconds, and which steps come first; of others nothing."""
    return {"subject": subject, "fault": fault, "within": within, "plan": list(plan)}


NOTHING: dict[str, Any] = {"subject": "", "fault": "", "within": 0.0, "plan": []}
STORIES = {
    "kill": Story("The process is killed.", "kill", 3.0, found("dead", 0.3, ["process.restart web"])),
    "hang": Story("It lives and answers nothing any more.", "hang", 5.0, found("hung", 2.0, ["process.restart web"])),
    "gray": Story(
        "Its health says yes while its work fails.", "gray", 5.0, found("gray", 2.0, ["process.restart web"])
    ),
    "refuse": Story("It lives and takes no connection.", "refuse", 5.0, found("hung", 2.5, ["process.restart web"])),
    "slow-once": Story("One answer of many takes three seconds.", "slow", 8.0, NOTHING),
    "flap": Story("For moments it answers 503.", "flap", 20.0, NOTHING, params={"period": 2, "down": 0.3}),
    # Judged at each look from two thirds of the limit on; then eight points make a line.
    "leak": Story(
        "Its memory grows towards its limit.",
        "leak",
        22.0,
        found("leaking-memory", 22.0, ["notify.human web"]),
        params={"mib_per_s": 3, "limit": 400},
        care={"web": {"memory_limit": "80MiB"}},
    ),
    "dependency": Story(
        "What it depends on hangs; only that is to be treated.",
        "hang",
        6.0,
        found("hung", 2.0, ["process.restart db"], "db"),
        broken="db",
        care={"db": {}, "web": {"depends_on": ["db"]}},
    ),
}


@dataclass
class Recorder:
    """A monitor that is looked through and writes down what it shows."""

    monitor: Monitor
    write: Callable[[dict[str, Any]], None]
    now: Callable[[], float]

    @property
    def name(self) -> str:
        return self.monitor.name

    @property
    def subjects(self) -> Sequence[str]:
        return self.monitor.subjects if isinstance(self.monitor, SpeaksOf) else ()

    async def observe(self) -> Sequence[Observation]:
        asked = self.now()
        seen = await self.monitor.observe()
        # Of the host only how busy it is: its disks and interfaces are nobody's business, and decide nothing here.
        kept = [o for o in seen if o.subject != "host" or o.metric.startswith("psi_")]
        told = [o for o in kept if o.subject in ("host", *self.subjects)]
        self.write({"asked": asked, "at": self.now(), "seen": [as_row(o) for o in told]})
        return seen

    async def watch(self, report: Callable[[Occurrence], None]) -> None:
        if not isinstance(self.monitor, Watcher):
            await asyncio.Event().wait()
        assert isinstance(self.monitor, Watcher)

        def heard(occurrence: Occurrence) -> None:
            self.write(
                {
                    "at": self.now(),
                    "happened": [occurrence.source, occurrence.subject, occurrence.kind, occurrence.detail],
                    "seen": [as_row(o) for o in occurrence.observations],
                }
            )
            report(occurrence)

        await self.monitor.watch(heard)


def as_row(seen: Observation) -> list[Any]:
    return [seen.source, seen.subject, seen.metric, seen.value, *([seen.detail] if seen.detail else [])]


async def record(name: str, story: Story) -> None:
    ports = {subject: free_port() for subject in story.care}
    subjects: dict[str, dict[str, Any]] = {}
    for subject, care in story.care.items():
        below = [w for on in care.get("depends_on", []) for w in ("--depends-on", f"127.0.0.1:{ports[on]}")]
        base = f"http://127.0.0.1:{ports[subject]}"
        subjects[subject] = {
            "mode": "auto",
            "work": f"{base}/work",
            "health": f"{base}/health",
            **care,
            "process": [sys.executable, "-m", "x0tta6bl4.demo.victim", "--port", str(ports[subject]), *below],
        }
    lines: list[dict[str, Any]] = []
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root = str(Path(__file__).parents[2])
        for care in subjects.values():
            care["process"] = {"command": care["process"], "env": {"PYTHONPATH": root}}
        settings = Settings.model_validate({"subjects": subjects, "state_dir": folder})
        blueprint, problems = draw(settings, None)
        assert not problems, problems
        processes = LinuxProcesses(folder)
        stack.push_async_callback(processes.aclose)
        tools = tools_of(blueprint, LaterDatabase(folder / "unopened"), processes)
        for program in blueprint.programs:
            await processes.start(program)
            stack.push_async_callback(processes.stop, program.name, 0.1)
            await asyncio.to_thread(wait_until_answers, ports[program.name], clock.monotonic(), path="/health")
        parts = parts_of(blueprint, tools, sight=Sight(), flags=FeatureFlags(), bus=EventBus(), metrics=Metrics("test"))
        began = clock.monotonic()

        def now() -> float:
            return round(clock.monotonic() - began, 4)

        instances = [
            Instance(Recorder(i.monitor, lines.append, now), i.every, i.timeout, i.overlap) for i in parts.instances
        ]
        watching = Watching(instances, parts.sight, clock, lambda names: None, NoMeter())
        running = asyncio.create_task(watching.run())
        await watching.look_all()
        await asyncio.sleep(CALM)
        await watching.look_all()
        broken_at = now()
        await asyncio.to_thread(break_, ports[story.broken], story.kind, **story.params)
        await asyncio.sleep(story.seconds)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    header = {
        "about": story.about,
        "broken_at": broken_at,
        "expect": story.expect,
        "subjects": {
            subject: {
                "mode": "auto",
                "process": ["/bin/sample"],
                "work": f"http://{subject}/work",
                "health": f"http://{subject}/health",
                **care,
            }
            for subject, care in story.care.items()
        },
    }
    with open(HERE / f"{name}.jsonl", "w", encoding="utf-8") as file:
        for line in (header, *sorted(lines, key=lambda line: line["at"])):
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
    print(f"{name}: {len(lines)} lines")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or STORIES:
        asyncio.run(record(chosen, STORIES[chosen]))
