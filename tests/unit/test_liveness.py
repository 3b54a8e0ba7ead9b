"""The liveness analyzer names a fault by what was asked when, and leaves a start its time."""

from x0tta6bl4.analyzers.liveness import PLUGIN, Liveness
from x0tta6bl4.kernel.facts import Finding, Observation
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.subjects import Subject

SILENT = "no answer within 1.2 s"


class Watched:
    """One service, and what is seen of it at which moment."""

    def __init__(self, start_timeout: float = 30.0) -> None:
        self.sight = Sight({"web": Subject("web", mode="auto", start_timeout=start_timeout)})
        self.analyzer = PLUGIN.build("liveness", PLUGIN.config(), None)  # type: ignore[arg-type]  # it takes no tools
        assert isinstance(self.analyzer, Liveness)

    def sees(self, metric: str, value: float, at: float, asked: float | None = None, detail: str = "") -> None:
        self.sight.record([Observation("probe", "web", metric, value, detail=detail)], at, asked)

    def alive(self, at: float, age: float) -> None:
        self.sees("process_up", 1.0, at)
        self.sees("process_age_seconds", age, at)

    def judged(self, now: float) -> list[Finding]:
        return list(self.analyzer.analyze(View(self.sight, now)))


def test_a_service_silent_to_both_probes_is_hung_although_its_health_is_heard_of_later() -> None:
    web = Watched()
    web.alive(100.0, age=1000.0)
    web.sees("work_up", 1.0, 100.01, asked=100.0)
    web.sees("health_up", 1.0, 100.01, asked=100.0)
    web.sees("work_up", 0.0, 101.7, asked=100.5, detail=SILENT)  # and the same of health comes a moment later

    assert ["hung"] == [finding.fault for finding in web.judged(101.7)]


def test_a_service_that_calls_itself_healthy_after_its_work_fell_silent_is_gray() -> None:
    web = Watched()
    web.alive(100.0, age=1000.0)
    web.sees("work_up", 1.0, 100.01, asked=100.0)
    web.sees("health_up", 1.0, 101.51, asked=101.5)
    web.sees("work_up", 0.0, 101.7, asked=100.5, detail=SILENT)

    assert ["gray"] == [finding.fault for finding in web.judged(101.7)]


def test_work_that_is_not_ready_yet_is_no_fault_of_a_service_that_already_calls_itself_healthy() -> None:
    web = Watched(start_timeout=30.0)
    web.alive(100.0, age=1.0)
    for second in range(60):
        web.sees("health_up", 1.0, 100.0 + second)
        web.sees("work_up", 0.0, 100.0 + second, detail="answered 503")

        expected = ["gray"] if 1.0 + second >= 30.0 else []
        assert expected == [finding.fault for finding in web.judged(100.0 + second)], second


def test_work_that_was_ready_once_gets_no_second_start_time() -> None:
    web = Watched(start_timeout=30.0)
    web.alive(100.0, age=1.0)
    web.sees("health_up", 1.0, 100.1)
    web.sees("work_up", 1.0, 100.1)
    for second in (101.0, 101.5, 102.0):
        web.sees("work_up", 0.0, second, detail="answered 503")
        web.sees("health_up", 1.0, second)

    assert ["gray"] == [finding.fault for finding in web.judged(102.0)]
