"""Judges how long memory, disks, inodes and descriptors will last, and says so before they are used up."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import Field

from x0tta6bl4.kernel.facts import Condition, Finding, Observation, Severity
from x0tta6bl4.kernel.plugin import PluginConfig, analyzer
from x0tta6bl4.kernel.sight import View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.units import Seconds


class Config(PluginConfig):
    lead: Seconds = Field(default=900.0, gt=0)
    """Seconds before the end at which it becomes a finding. More gives more time and more false alarms."""
    least_rise: float = Field(default=0.05, ge=0, le=1)
    """Share of the whole by which a series must have moved before a forecast is made from it: less is noise."""
    full: float = Field(default=0.95, gt=0, le=1)
    """Share in use from which it is a finding whatever the trend."""
    window: Seconds = Field(default=600.0, gt=0)
    """Seconds of the past from which the trend is taken. Longer is steadier and slower to see a change."""


@dataclass(frozen=True)
class _Store:
    """Something finite: how much of it is used, and how much there is."""

    subject: str
    resource: str
    seen: Observation
    used: float
    whole: float
    sign: Condition
    """What must be observed again when it is well: for processes below the limit, for disks above what is needed."""
    fault: str
    unit: str


@dataclass
class _Past:
    points: deque[tuple[float, float]] = field(default_factory=deque)


class Exhaustion:
    """A straight line through the recent past of each store. Keeps one point a step of the window, not every one."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._past: dict[tuple[str, str], _Past] = {}

    def alarms(self, subjects: Mapping[str, Subject]) -> Sequence[Condition]:
        """A process in the last third of its memory is judged whenever it is read: a fast leak has no minute left."""
        memory = [
            Condition("process_rss_bytes", ">=", 0.66 * float(limit), name)
            for name, subject in subjects.items()
            if (limit := subject.data.get("memory_limit"))
        ]
        return [*memory, Condition("process_fds_ratio", ">=", 0.66)]

    def analyze(self, view: View) -> Sequence[Finding]:
        return [finding for store in self._stores(view) if (finding := self._judge(store, view)) is not None]

    def _stores(self, view: View) -> Iterator[_Store]:
        full = self.config.full
        for seen in view.select("process_rss_bytes"):
            limit = view.subject(seen.subject).data.get("memory_limit")
            if limit:
                yield _Store(
                    seen.subject,
                    "memory",
                    seen,
                    seen.value,
                    float(limit),
                    Condition("process_rss_bytes", "<", float(limit)),
                    "exhausting-memory",
                    "bytes",
                )
        for seen in view.select("process_fds"):
            limit = view.value(seen.subject, "process_fds_limit")
            if limit:
                yield _Store(
                    seen.subject,
                    "descriptors",
                    seen,
                    seen.value,
                    limit,
                    Condition("process_fds", "<", full * limit),
                    "exhausting-descriptors",
                    "descriptors",
                )
        for metric, resource in (("disk_free_ratio", "space"), ("inodes_free_ratio", "inodes")):
            for seen in view.select(metric):
                yield _Store(
                    seen.subject,
                    resource,
                    seen,
                    1.0 - seen.value,
                    1.0,
                    Condition(metric, ">", 1.0 - full),
                    f"filling-{resource}",
                    "of it",
                )
        for seen in view.select("memory_available_ratio"):
            yield _Store(
                seen.subject,
                "memory",
                seen,
                1.0 - seen.value,
                1.0,
                Condition("memory_available_ratio", ">", 1.0 - full),
                "host-memory",
                "of it",
            )

    def _judge(self, store: _Store, view: View) -> Finding | None:
        past = self._past.setdefault((store.subject, store.resource), _Past())
        started = view.sight.acted_at(store.subject)
        age = view.value(store.subject, "process_age_seconds")
        born = max(started or 0.0, view.now - age if age is not None and store.resource != "space" else 0.0)
        points = past.points
        while points and (points[0][0] < view.now - self.config.window or points[0][0] < born):
            points.popleft()
        if points and store.used < points[-1][1] * 0.5:
            points.clear()  # it was emptied, or it is another process: the line begins anew
        # 120 points a window keep a thousand series small, and steps between them still last for fast leaks.
        if not points or view.now - points[-1][0] >= min(self.config.window / 120, 0.4):
            points.append((view.now, store.used))
            if len(points) > 240:
                for index in range(len(points) - 2, 0, -2):
                    del points[index]
        asked = view.sight.asked_at(store.subject, store.seen.metric)
        if started is not None and (asked is None or asked < started):
            return None
        share = store.used / store.whole
        process = store.fault.startswith("exhausting")
        over = share >= (1.0 if store.resource == "memory" and process else self.config.full)
        left = None if over else self._time_left(store, view.now)
        if not over and (left is None or left > self.config.lead):
            return None
        summary = (
            f"{store.subject}: {store.resource} is used up: {share:.0%} of {_size(store)}"
            if over
            else f"{store.subject}: {store.resource} ends in {_span(left)} at this pace: {share:.0%} of "
            f"{_size(store)} is used"
        )
        return Finding(
            analyzer=self.name,
            subject=store.subject,
            fault=store.fault if over or not process else f"leaking-{store.resource}",
            severity=Severity.MAJOR if over else Severity.WARNING,
            since=view.now if not points else points[0][0] if not over else view.now,
            summary=summary,
            because=(store.seen,),
            # What is foretold has not come: every sign of health is there still, and would say that nothing is the
            # matter. Such an incident is over when the forecast is.
            healthy_when=(store.sign, *self._life(store, view)) if over else (),
            data={
                "resource": store.resource,
                "used": store.used,
                "whole": store.whole,
                **({"seconds_left": round(left)} if left is not None else {}),
            },
        )

    @staticmethod
    def _life(store: _Store, view: View) -> Iterator[Condition]:
        """A process that is gone uses no memory either, which is no heal: it must live and work as well."""
        for metric in ("process_up", "work_up", "health_up"):
            if view.latest(store.subject, metric) is not None:
                yield Condition(metric, ">=", 1.0)

    def _time_left(self, store: _Store, now: float) -> float | None:
        """Seconds until the line meets the whole; None when there is no line worth the name."""
        points = self._past[store.subject, store.resource].points
        if len(points) < 8 or points[-1][0] - points[0][0] < 3.0:
            return None
        if points[-1][1] - points[0][1] < self.config.least_rise * store.whole:
            return None
        count = len(points)
        mean_at = sum(at for at, _ in points) / count
        mean_used = sum(used for _, used in points) / count
        spread = sum((at - mean_at) ** 2 for at, _ in points)
        slope = sum((at - mean_at) * (used - mean_used) for at, used in points) / spread if spread else 0.0
        total = sum((used - mean_used) ** 2 for _, used in points)
        fit = slope * slope * spread / total if total else 0.0
        if slope <= 0 or fit < 0.8:
            return None  # it rises and falls: a sawtooth is not a leak
        return max(0.0, (store.whole - points[-1][1]) / slope)


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _size(store: _Store) -> str:
    return (
        f"{store.whole / 1048576:.0f} MiB"
        if store.unit == "bytes"
        else f"{store.whole:g} {store.unit}"
        if store.unit != "of it"
        else "the whole"
    )


PLUGIN = analyzer(Config, lambda name, config, tools: Exhaustion(name, config))
