"""What changes after a deploy, a restart or an act of ours is tied to it; what merely goes on as always is not."""

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from x0tta6bl4.analyzers.change import MOST_EVENTS, MOST_WATCHED, Change, Config, affected, is_worse
from x0tta6bl4.kernel.facts import Condition, Finding, Observation, Occurrence, Severity
from x0tta6bl4.kernel.judged import judged_of
from x0tta6bl4.kernel.lessons import Alteration, Learner, Lesson
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.testing.virtual_time import run
from x0tta6bl4.testing.world import World

WALL = 1_700_000_000.0
HOUR = 3600.0
Numbers = Mapping[tuple[str, str], Callable[[float], float]]

SUBJECTS = {
    "web": Subject("web", depends_on=("db",), group="shop"),
    "db": Subject("db"),
    "cart": Subject("cart", group="shop"),
    "mail": Subject("mail"),
}


@dataclass
class Host:
    """A sight that goes on minute by minute, and an analyzer that looks at it."""

    numbers: dict[tuple[str, str], Callable[[float], float]]
    config: Config = field(default_factory=Config)
    now: float = 1000.0
    pace: float = 60.0
    offset: float = WALL

    def __post_init__(self) -> None:
        self.sight = Sight(SUBJECTS)
        self.analyzer = Change("change", self.config)
        self.random = Random(1)
        self.found: Sequence[Finding] = ()
        self.ever: list[Finding] = []

    def noise(self) -> float:
        return self.random.gauss(0.0, 1.0)

    def go(self, seconds: float, *occurrences: Occurrence) -> Sequence[Finding]:
        told = list(occurrences)
        for occurrence in told:
            self.sight.happened(occurrence, self.now)
        until = self.now + seconds
        while self.now < until:
            self.now += self.pace
            seen = [Observation("m", s, m, number(self.now), self.now) for (s, m), number in self.numbers.items()]
            self.sight.record([o for o in seen if o.value == o.value], self.now)
            self.look()
        return self.found

    def look(self, *subjects: str) -> Sequence[Finding]:
        scope = frozenset(subjects) or None
        view = View(self.sight, self.now, scope, self.sight.take_occurrences(scope), self.now + self.offset)
        self.found = self.analyzer.analyze(view)
        self.ever += self.found
        return self.found

    def deploy(self, subject: str = "web", kind: str = "deploy", ago: float = 0.0) -> Occurrence:
        return Occurrence("operators", subject, f"altered.{kind}", self.now - ago, "v2.3 (said by ci@cli)")

    def again(self, gap: float = 0.0) -> "Host":
        """Another life of the daemon, whose clock begins elsewhere."""
        kept = self.analyzer.learnt()
        other = Host(self.numbers, self.config, 50.0, self.pace, self.now + gap + self.offset - 50.0)
        other.analyzer.take_up(kept, self.now + gap + self.offset)
        moved = self.now + gap - 50.0
        other.numbers = {series: _moved(number, moved) for series, number in self.numbers.items()}
        return other


def _moved(number: Callable[[float], float], by: float) -> Callable[[float], float]:
    return lambda at: number(at + by)


def host(at: float = 4 * HOUR) -> tuple[Host, float]:
    """After four quiet hours; the number is the moment at which something may change."""
    the = Host({})
    begins = the.now + at
    the.numbers = {
        ("web", "work_seconds"): lambda now: 0.02 + 0.001 * the.noise(),
        ("web", "requests_per_second"): lambda now: 50.0 + 2 * the.noise(),
        ("web", "work_up"): lambda now: 1.0,
    }
    the.go(at)
    assert not the.ever
    return the, begins


def slower(the: Host, since: float, until: float = float("inf"), to: float = 0.15) -> None:
    the.numbers["web", "work_seconds"] = lambda now: (to if since < now <= until else 0.02) + 0.001 * the.noise()


def test_a_step_after_a_deploy_is_a_finding_that_names_the_deploy_the_sizes_and_who_did_it() -> None:
    the, since = host()
    slower(the, since)
    deploy = the.deploy()

    (found,) = the.go(600, deploy)

    assert ("web", "changed", Severity.WARNING) == (found.subject, found.fault, found.severity)
    assert found.summary == "web: work_seconds rose from 0.02 to 0.15 (7.5×) since the deploy of web (v2.3)"
    (judged,) = judged_of(found.data)
    assert ("web", "work_seconds") == (judged.subject, judged.metric)
    assert judged.number > judged.limit >= 4 and judged.high is not None and 0.02 < judged.high < 0.15
    event = found.data["event"]
    assert ("deploy", "web", "ci@cli") == (event["kind"], event["subject"], event["who"])
    assert abs(event["at"] - (since + WALL)) < 0.01
    assert ("web", "deploy", 1.0) == tuple(found.data["causes"][0][key] for key in ("subject", "name", "share"))
    assert found.healthy_when == (Condition("work_seconds", "<=", judged.high),)
    assert since <= found.since <= since + 60
    assert any(isinstance(one, Occurrence) and one.kind == "deploy" for one in found.because)
    json.dumps(dict(found.data))


def test_it_is_found_within_minutes_by_what_the_traces_saw_between_the_turns() -> None:
    the, since = host()
    slower(the, since)
    the.sight.happened(the.deploy(), the.now)
    for _ in range(60):
        the.now += 5.0
        the.sight.record([Observation("m", "web", "work_seconds", 0.15 + 0.001 * the.noise(), the.now)], the.now)
        if (the.now - since) % 60 == 0:
            the.look()

    assert [f.subject for f in the.found] == ["web"]


def test_a_step_is_tied_to_the_latest_deploy_before_it_and_not_to_an_earlier_one() -> None:
    the, since = host()
    slower(the, since + 900.0)
    the.go(870, replace(the.deploy(), detail="v2.4 (said by ci@cli)"))
    the.go(900, replace(the.deploy(), detail="v3 (said by ci@cli)"))

    assert the.ever
    assert all("v3" in found.summary and "v2.4" not in found.summary for found in the.ever)


def test_nothing_changed_is_no_finding() -> None:
    the, _ = host()

    the.go(3 * HOUR, the.deploy())

    assert not the.ever


def test_a_step_that_comes_hours_after_the_deploy_or_before_it_is_not_tied_to_it() -> None:
    the, since = host()
    slower(the, since + 2 * HOUR)
    the.go(4 * HOUR, the.deploy())
    assert not the.ever

    the, since = host()
    slower(the, since + 900)
    the.go(1800)
    the.go(2 * HOUR, the.deploy())
    assert not the.ever, "it had risen a quarter of an hour before"


def test_a_rise_without_any_event_is_not_for_this_analyzer() -> None:
    the, since = host()
    slower(the, since)

    the.go(2 * HOUR)

    assert not the.ever


def test_it_is_over_when_it_went_back() -> None:
    the, since = host()
    slower(the, since, since + HOUR)
    assert the.go(1800, the.deploy())

    the.go(HOUR)

    assert not the.found


def test_what_stays_becomes_the_new_normal_and_is_said_to_be() -> None:
    the, since = host()
    slower(the, since)
    the.go(6 * HOUR - 600, the.deploy())
    assert [Severity.WARNING] == [f.severity for f in the.found]
    before = len(the.ever)

    the.go(1200)

    told = [f for f in the.ever[before:] if "new normal" in f.summary]
    assert len(told) == 1 and told[0].healthy_when == () and told[0].severity is Severity.INFO
    assert not the.found


def test_what_is_better_after_a_deploy_is_told_without_a_warning() -> None:
    the, since = host()
    slower(the, since, to=0.004)

    (found,) = the.go(900, the.deploy())

    assert found.severity is Severity.INFO and "fell from 0.02 to 0.004" in found.summary


def test_what_nobody_can_call_better_or_worse_is_told_without_a_warning() -> None:
    the, since = host()
    the.numbers["web", "requests_per_second"] = lambda now: (10.0 if now > since else 50.0) + the.noise()

    (found,) = the.go(900, the.deploy(kind="config"))

    assert found.severity is Severity.INFO and "since the config of web" in found.summary


def test_one_finding_tells_of_all_series_of_a_subject_the_worst_first() -> None:
    the, since = host()
    slower(the, since)
    the.numbers["web", "requests_per_second"] = lambda now: (5.0 if now > since else 50.0) + the.noise()
    (found,) = the.go(900, the.deploy())

    judged = judged_of(found.data)
    assert ["work_seconds", "requests_per_second"] == [one.metric for one in judged]
    assert sum(one.share for one in judged) == pytest.approx(1.0)
    assert ", and 1 more since" in found.summary


def test_a_drift_that_begins_with_a_deploy_is_found() -> None:
    the, since = host()
    the.numbers["web", "queue"] = lambda now: 100 + the.noise()
    the.go(2 * HOUR)
    since = the.now
    the.numbers["web", "queue"] = lambda now: 100 + the.noise() + 0.02 * max(0.0, now - since)

    the.go(2 * HOUR, the.deploy())

    assert {"web"} == {f.subject for f in the.ever}
    assert {"queue"} == {one.metric for f in the.ever for one in judged_of(f.data)}


def process(the: Host, since: float, rss: Callable[[float], float]) -> None:
    the.numbers["web", "process_age_seconds"] = lambda now: now - since if now >= since else now + 5000.0
    the.numbers["web", "process_rss_bytes"] = rss


def test_a_restart_is_noticed_by_the_age_of_the_process_and_what_is_worse_since_is_tied_to_it() -> None:
    the, _ = host()
    begins = the.now + 3 * HOUR
    process(the, begins, lambda now: 3e8 + 1e6 * the.noise())
    slower(the, begins)

    the.go(3 * HOUR + 900)

    (found,) = the.found
    assert "since the restart of web" in found.summary
    assert "restart" == found.data["event"]["kind"]


def test_a_service_that_merely_restarted_and_grows_to_where_it_was_is_no_finding() -> None:
    the, _ = host()
    begins = the.now + 3 * HOUR

    def rss(now: float) -> float:
        age = now - begins
        return (3e8 if age < 0 else 3e8 * min(1.0, 0.1 + age / 5000)) + 1e6 * the.noise()

    process(the, begins, rss)
    cold = the.numbers["web", "work_seconds"]
    the.numbers["web", "work_seconds"] = lambda now: cold(now) + (0.5 if begins < now <= begins + 60 else 0.0)
    the.go(3 * HOUR)

    ended = Occurrence("proc", "web", "process ended", the.now, "pid 7 was killed by SIGKILL")
    the.go(3 * HOUR, ended)

    assert not the.ever


@pytest.mark.parametrize(("level", "is_found"), [(26.0, False), (60.0, True)])
def test_a_new_process_that_needs_a_little_more_is_none_and_one_that_needs_much_more_is(
    level: float, is_found: bool
) -> None:
    the, _ = host()
    begins = the.now + 3 * HOUR
    process(the, begins, lambda now: 3e8)
    the.numbers["web", "process_fds"] = lambda now: 20.0 if now < begins else level

    the.go(4 * HOUR)

    assert is_found == bool(the.found)


def test_what_got_better_by_a_restart_is_no_finding() -> None:
    the, _ = host()
    begins = the.now + 3 * HOUR
    process(the, begins, lambda now: 3e8)
    slower(the, begins, to=0.004)

    the.go(5 * HOUR)

    assert not the.ever


def test_a_restart_beside_a_deploy_is_a_part_of_it() -> None:
    the, _ = host()
    begins = the.now + 3 * HOUR
    process(the, begins + 60, lambda now: 3e8)
    slower(the, begins)
    the.go(3 * HOUR)

    (found,) = the.go(1200, the.deploy())

    assert "deploy" == found.data["event"]["kind"]
    assert 1 == len(the.analyzer._events)


def test_what_the_daemon_did_itself_is_an_event_too() -> None:
    the, since = host()
    slower(the, since)
    the.sight.acting("web")
    the.sight.acted("web", the.now + 1)

    (found,) = the.go(900)

    assert "since this daemon acted on web" in found.summary and "act" == found.data["event"]["kind"]


def test_dependents_and_the_group_are_looked_at_too_and_the_cause_is_named() -> None:
    the, since = host()
    for name in ("cart", "mail", "db"):
        the.numbers[name, "work_seconds"] = lambda now: 0.02 + 0.001 * the.noise()
    the.go(2 * HOUR)
    since = the.now
    for name in ("web", "cart", "mail", "db"):
        the.numbers[name, "work_seconds"] = lambda now: (0.2 if now > since else 0.02) + 0.001 * the.noise()

    the.go(900, the.deploy("db"))

    assert {"db", "web", "cart"} >= {f.subject for f in the.found} >= {"db", "web"}
    (web,) = [f for f in the.found if f.subject == "web"]
    assert "db" == web.data["causes"][0]["subject"] and "the deploy of db" in web.summary
    assert "mail" not in {f.subject for f in the.found}
    assert ["db", "web"] == affected(SUBJECTS, "db") and ["web", "cart"] == affected(SUBJECTS, "web")


def test_a_woken_turn_tells_of_its_own_subjects_only() -> None:
    the, since = host()
    slower(the, since)
    the.go(900, the.deploy())

    assert ["web"] == [f.subject for f in the.look("web")]
    assert [] == list(the.look("mail"))


def test_a_deploy_that_is_told_late_is_judged_by_what_was_before_it() -> None:
    the, since = host()
    slower(the, since)
    the.go(1500)
    assert not the.ever

    the.go(60, the.deploy(ago=1500))

    assert ["web"] == [f.subject for f in the.found]
    assert "from 0.02 to 0.15" in the.found[0].summary


def test_the_same_deploy_told_again_by_the_next_life_is_one() -> None:
    the, since = host()
    slower(the, since)
    deploy = the.deploy()
    the.go(900, deploy)
    other = the.again(30)
    moved = Occurrence("operators", "web", deploy.kind, deploy.at + the.offset - other.offset, deploy.detail)

    other.go(120, moved)

    assert 1 == len(other.analyzer._events)


def test_a_finding_outlives_the_daemon_and_ends_when_it_went_back() -> None:
    the, since = host()
    slower(the, since, since + 2 * HOUR)
    (before,) = the.go(900, the.deploy())
    assert isinstance(the.analyzer, Learner)
    other = the.again(300)

    (found,) = other.go(300)
    assert (before.summary, before.healthy_when) == (found.summary, found.healthy_when)
    assert abs(found.data["event"]["at"] - before.data["event"]["at"]) < 0.01
    assert not other.go(2 * HOUR)


def test_a_deploy_just_before_the_daemon_ended_is_judged_by_the_next_life() -> None:
    the, since = host()
    slower(the, since + 100)
    the.go(60, the.deploy())
    other = the.again(30)

    other.go(900)

    assert ["web"] == [f.subject for f in other.found]


@pytest.mark.parametrize("wrong", [b"", b"{}", b"[1]", b"nix", b'{"version":2}', b'{"version":1,"pasts":"AAAA"}'])
def test_what_cannot_be_read_is_refused_in_words_and_nothing_is_lost(wrong: bytes) -> None:
    the, since = host()
    slower(the, since)
    with pytest.raises(ValueError):
        the.analyzer.take_up(wrong, the.now)

    assert the.go(900, the.deploy())


def test_a_false_alarm_ends_it_and_the_same_again_is_none() -> None:
    the, since = host()
    slower(the, since, since + 3000)
    (found,) = the.go(1800, the.deploy())

    said = the.analyzer.teach(Lesson("verdict", right=False, data=found.data))

    assert "work_seconds" in said
    assert not the.look()
    the.go(4 * HOUR)
    again = the.now
    slower(the, again)
    assert not the.go(HOUR, the.deploy())


def test_other_lessons_are_not_for_it() -> None:
    the, since = host()
    slower(the, since)
    (found,) = the.go(900, the.deploy())

    assert "" == the.analyzer.teach(Lesson("verdict", right=False, data={"judged": []}))
    assert "" == the.analyzer.teach(Lesson("learnt", body=b"x"))
    assert the.analyzer.teach(Lesson("verdict", right=True, data=found.data))
    assert the.look()


def test_a_counter_is_judged_by_its_pace_and_its_count_proves_nothing() -> None:
    the, _ = host()
    begins = the.now + 3 * HOUR
    the.numbers["web", "errors_total"] = lambda now: 0.1 * now + 3.0 * max(0.0, now - begins)
    the.go(3 * HOUR)

    (found,) = the.go(1200, the.deploy())

    assert "errors_total rose from 0.1 to 3.1 a second (31×)" in found.summary
    assert found.healthy_when == ()


def test_events_without_end_are_bounded_and_those_that_showed_something_stay() -> None:
    the, since = host()
    slower(the, since)
    the.go(600, the.deploy())
    for number in range(3 * MOST_EVENTS):
        the.go(the.pace, the.deploy("cart" if number % 2 else "mail", f"k{number}"))

    assert len(the.analyzer._events) <= MOST_EVENTS
    assert ["web"] == [f.subject for f in the.found]


def test_the_series_of_an_event_are_bounded_its_own_subject_first() -> None:
    the, _ = host()
    for number in range(MOST_WATCHED):
        the.numbers["cart", f"n{number}_errors"] = lambda now: 1.0
    the.go(HOUR)
    the.go(60, the.deploy("mail"), the.deploy("web"))

    assert MOST_WATCHED == len(the.analyzer._watches)
    assert {"work_seconds", "requests_per_second"} == {
        w.series[1] for w in the.analyzer._watches if w.series[0] == "web"
    }


@pytest.mark.parametrize(
    ("metric", "rises", "worse"),
    [
        ("work_seconds", True, True), ("work_seconds", False, False), ("disk_free_bytes", False, True),
        ("memory_available_ratio", True, False), ("log_errors_per_minute", True, True), ("load1", True, True),
        ("requests_per_second", True, None), ("process_rss_bytes", True, True), ("cache_hits", False, True),
        ("queue_depth", True, True), ("log_lines_per_minute", True, None), ("nic_drops_per_second", True, True),
    ],
)  # fmt: skip
def test_worse_is_read_off_the_name(metric: str, rises: bool, worse: bool | None) -> None:
    assert worse is is_worse(metric, rises)


def quiet_series(random: Random) -> Iterable[tuple[str, Callable[[float], float]]]:
    yield "constant_errors", lambda now: 8.0
    yield "gaussian_errors", lambda now: 10 + random.gauss(0, 1)
    yield "bursty_errors", lambda now: random.lognormvariate(0, 0.8)
    yield "sawtooth_errors", lambda now: 50 + 40 * (now / 2700 % 1)
    yield "sparse_errors", lambda now: float(random.random() < 0.05) * 3


def test_quiet_series_of_every_shape_are_hardly_ever_blamed_on_a_deploy() -> None:
    blamed = looked = 0
    for seed in range(4):
        the = Host({("web", name): number for name, number in quiet_series(Random(seed))})
        the.go(12 * HOUR)
        for _ in range(6):
            the.go(3 * HOUR, the.deploy())
            blamed += len({one.metric for f in the.ever for one in judged_of(f.data)})
            looked += len(the.numbers)
            the.ever.clear()

    assert looked == 120
    assert blamed <= 2


RECORDINGS = Path(os.environ.get("X0TTA6BL4_RECORDINGS") or Path(__file__).parents[3] / "shared/data/detect")


def test_real_machines_are_hardly_ever_blamed_on_a_deploy_that_never_was() -> None:
    """On all of them together: single machines, whose own numbers step about every day, are blamed more often."""
    files = sorted((RECORDINGS / "multivariate").glob("*.npz"))
    if not files:
        pytest.skip(f"the recordings are not at {RECORDINGS} (X0TTA6BL4_RECORDINGS names their folder)")
    deploys = blamed = 0
    for path in files:
        pace = 60.0 if path.stem.startswith("machine") else 300.0
        with np.load(path) as told:
            rows = told["train"][: int(2 * 24 * HOUR / pace)]
        the = Host({}, pace=pace)
        the.numbers = {("web", f"m{n}_errors"): _recorded(rows[:, n], pace) for n in range(rows.shape[1])}
        the.go(24 * HOUR)
        for _ in range(8):
            the.ever.clear()
            the.go(3 * HOUR, the.deploy())
            deploys += 1
            blamed += bool(the.ever)

    assert deploys == 8 * len(files)
    assert blamed <= 0.06 * deploys


def _recorded(column: "np.ndarray[Any, Any]", pace: float) -> Callable[[float], float]:
    return lambda now: float(column[round((now - 1000) / pace) - 1])


def test_the_whole_daemon_ties_a_slower_service_to_the_change_that_was_noted() -> None:
    work = "http://127.0.0.1:1/work"

    async def story() -> None:
        the = World(
            {"web": {"process": ["/bin/web"], "work": work, "mode": "observe"}},
            monitors={"host": {"enabled": False}},
            analyzers={"change": {}},
        )
        async with the.running() as loop:

            async def minutes(count: int) -> None:
                for _ in range(count):
                    await asyncio.sleep(60)
                    await loop.run_cycle()

            await minutes(40)
            await the.knowledge.learnt.alter(Alteration("web", "deploy", "v2.3", "ci", the.clock.wall()))
            the.network.broken[work] = lambda: (200, 0.2)
            await loop.refresh()
            await minutes(8)
            (incident,) = [i for i in loop.incidents.open if i.fault == "changed"]

            assert "work_seconds rose from 0.001 to 0.2" in incident.summary and "v2.3" in incident.summary
            assert "deploy" == incident.data["event"]["kind"]
            the.network.broken.clear()
            await minutes(4)

            assert not [i for i in loop.incidents.open if i.fault == "changed"]

    run(story())
