"""What learns holds against bad input and hostile circumstances: names, clocks, stores, files and floods."""

import asyncio
import json
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from tests.unit.asking import Endpoint, play
from x0tta6bl4.adapters.clock import SystemClock
from x0tta6bl4.adapters.sqlite import SqliteDatabase
from x0tta6bl4.analyzers._series import Patterns, Seats, named
from x0tta6bl4.analyzers.baseline import Baseline, Baselines, Config
from x0tta6bl4.analyzers.change import Change, affected
from x0tta6bl4.analyzers.change import Config as ChangeConfig
from x0tta6bl4.analyzers.forecast import Config as ForecastConfig
from x0tta6bl4.analyzers.forecast import Forecast, Resource
from x0tta6bl4.cli.exits import Refusal
from x0tta6bl4.cli.history import LONGEST_LINE, CsvHistory
from x0tta6bl4.judgement import shifts, snapshots
from x0tta6bl4.judgement.novelty import Novelty, Settings
from x0tta6bl4.judgement.shifts import Pasts
from x0tta6bl4.kernel.errors import ProbeFailed, StoreError
from x0tta6bl4.kernel.facts import Finding, Lost, Observation
from x0tta6bl4.kernel.judged import judged_of
from x0tta6bl4.kernel.learning import Learning
from x0tta6bl4.kernel.lessons import Lesson
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.traces import Series
from x0tta6bl4.knowledge.sqlite import Config as StoreConfig
from x0tta6bl4.knowledge.sqlite import SqliteKnowledge, migrations
from x0tta6bl4.monitors.prometheus import Config as PrometheusConfig
from x0tta6bl4.monitors.prometheus import PrometheusMonitor, sample, subject_named
from x0tta6bl4.testing.fakes import FakeHost, FakeNetwork

DAY = 86400.0
WALL = 1_700_000_000.0


def taught(names: Sequence[Series], looks: int = 30, **settings: float) -> Baselines:
    """Baselines that have seen these series every five minutes."""
    known = Baselines(Config.model_validate({"learning": 300, **settings}))
    for k in range(looks):
        known.update(names, np.random.default_rng(k).normal(10, 1, len(names)), WALL + 300.0 * k)
    return known


# -- the store, and what people teach ----------------------------------------------------------------------------------


class Pupil:
    """Remembers what it was taught; what it keeps is the count."""

    def __init__(self, name: str, breaks: bool = False) -> None:
        self.name = name
        self.breaks = breaks
        self.heard: list[int] = []

    def learnt(self) -> bytes:
        if self.breaks:
            raise KeyError("it does not know")
        return json.dumps(self.heard).encode()

    def take_up(self, learnt: bytes, wall: float) -> None:
        self.heard = json.loads(learnt)

    def teach(self, lesson: Lesson) -> str:
        self.heard.append(lesson.id)
        return f"{self.name} heard it"

    def analyze(self, view: View) -> Sequence[Finding]:
        return []


async def store_in(folder: Path) -> tuple[SqliteDatabase, SqliteKnowledge]:
    database = await SqliteDatabase.open(folder / "knowledge.db", migrations())
    return database, SqliteKnowledge("store", StoreConfig(), database, SystemClock())


def learning_of(knowledge: SqliteKnowledge, *pupils: Pupil) -> Learning:
    return Learning(pupils, knowledge, SystemClock(), lambda: False)


async def full(*of_whatever: object) -> None:
    raise StoreError("the disk is full")


def test_a_lesson_counts_as_taken_only_when_what_it_taught_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two, the daemon hears it again in its next life."""

    async def story() -> None:
        database, knowledge = await store_in(tmp_path)
        pupil, order = Pupil("pupil"), list[str]()
        keep, taken = knowledge.learnt.keep, knowledge.learnt.taken

        async def kept(analyzer: str, body: bytes) -> None:
            order.append(f"kept {body.decode()}")
            await keep(analyzer, body)

        async def took(lesson: int, said: str) -> None:
            order.append(f"taken {lesson}")
            await taken(lesson, said)

        monkeypatch.setattr(knowledge.learnt, "keep", kept)
        monkeypatch.setattr(knowledge.learnt, "taken", took)
        await knowledge.learnt.teach(Lesson("learnt", body=b"x", who="oncall"))
        await learning_of(knowledge, pupil).hear()
        await database.close()

        assert ["kept [1]", "taken 1"] == order

    asyncio.run(story())


@pytest.mark.parametrize("what", ["keep", "taken"])
def test_a_full_disk_loses_no_lesson_and_teaches_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async def story() -> None:
        database, knowledge = await store_in(tmp_path)
        pupil = Pupil("pupil")
        learning = learning_of(knowledge, pupil)
        await knowledge.learnt.teach(Lesson("verdict", incident="inc-1", right=True, who="oncall"))
        with monkeypatch.context() as broken:
            broken.setattr(knowledge.learnt, what, full)
            for _ in range(3):
                try:
                    await learning.hear()
                except StoreError:
                    assert "taken" == what
        waiting = await knowledge.learnt.lessons()
        count = await learning.hear()
        (lesson,) = await knowledge.learnt.lessons(untaken=False)
        await database.close()

        assert 1 == len(waiting)
        assert 1 == count
        assert [lesson.id] == pupil.heard
        assert "pupil heard it" == lesson.said

    asyncio.run(story())


def test_two_who_are_told_of_a_lesson_at_the_same_time_teach_it_once(tmp_path: Path) -> None:
    async def story() -> None:
        database, knowledge = await store_in(tmp_path)
        pupil = Pupil("pupil")
        learning = learning_of(knowledge, pupil)
        for number in range(30):
            await knowledge.learnt.teach(Lesson("verdict", incident=f"inc-{number}", right=False, who="oncall"))
        counts = await asyncio.gather(*(learning.hear() for _ in range(4)))
        await database.close()

        assert list(range(1, 31)) == pupil.heard
        assert 30 == sum(counts)

    asyncio.run(story())


def test_an_analyzer_that_cannot_say_what_it_knows_keeps_none_of_the_others_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        database, knowledge = await store_in(tmp_path)
        learning = learning_of(knowledge, Pupil("bad", breaks=True), Pupil("good"))
        await knowledge.learnt.teach(Lesson("verdict", incident="inc-1", right=False, who="oncall"))
        await learning.hear()
        await learning.keep_all()
        kept = await knowledge.learnt.kept("good")
        waiting = await knowledge.learnt.lessons()
        await database.close()

        assert kept is not None
        assert b"[1]" == kept[0]
        assert [] == waiting

    asyncio.run(story())
    assert 1 == caplog.text.count("what was learnt cannot be kept")


def test_what_a_verdict_tells_that_is_no_number_teaches_nothing_and_hides_nothing_else() -> None:
    analyzer = Baseline("baseline", Config())
    names = [("web", "odd0"), ("web", "odd1"), ("web", "odd2"), ("web", "well")]
    analyzer.known.update(names, [1.0, 1.0, 1.0, 2.0], WALL)
    judged = [
        {"subject": "web", "metric": f"odd{n}", "value": 1.0, "named": "novelty", "number": odd}
        for n, odd in enumerate((float("nan"), -1.0, float("inf")))
    ]
    judged.append({"subject": "web", "metric": "well", "value": 1.0, "named": "novelty", "number": 0.5})
    said = analyzer.teach(Lesson("verdict", right=False, data={"judged": judged}))
    before = analyzer.known.engine.limits.tolist()

    assert 3 == said.count("has no novelty to learn from")
    assert "web well is unusual from a novelty of 0.55 on" in said
    assert "" == analyzer.teach(Lesson("verdict", data={"judged": judged})), "a word that says neither is none"
    assert before == analyzer.known.engine.limits.tolist()


@pytest.mark.parametrize("field", ["value", "number", "limit", "low"])
def test_a_number_that_is_too_large_to_be_one_is_not_ours(field: str) -> None:
    one = {"subject": "web", "metric": "rss_bytes", "value": 1.0, "named": "novelty"}

    assert 1 == len(judged_of({"judged": [{**one, field: 10**30}]}))
    assert [] == judged_of({"judged": [{**one, field: 10**400}]})


@pytest.mark.parametrize("judged", [5, [{"x": 1}], [{"subject": [1], "metric": 2, "value": 1.0}], None])
def test_a_verdict_whose_data_is_no_judgement_teaches_the_change_analyzer_nothing(judged: object) -> None:
    change = Change("change", ChangeConfig())

    assert "" == change.teach(Lesson("verdict", right=False, data={"event": {"kind": 1}, "judged": judged}))


# -- snapshots ---------------------------------------------------------------------------------------------------------


def framed(body: bytes) -> bytes:
    squeezed = zlib.compress(body, 1)
    head = struct.pack("<8sHQI", snapshots.MAGIC, snapshots.VERSION, len(body), zlib.crc32(squeezed))
    return head + squeezed


@pytest.mark.parametrize(
    "words",
    [
        b"[" * 200_000,
        b"{}",
        b"[]",
        b'{"header":{},"arrays":5}',
        b'{"header":{},"arrays":[["a","int8",[1e99]]]}',
        json.dumps({"header": {}, "arrays": [["a", "int8", [2**70]]]}).encode(),
        b"\xff",
    ],
)
def test_a_snapshot_whose_description_is_crafted_is_refused_in_words(words: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        snapshots.unpack(framed(struct.pack("<I", len(words)) + words))


def test_a_snapshot_that_says_it_is_huge_is_refused_before_it_is_opened() -> None:
    squeezed = zlib.compress(bytes(1 << 20), 9)
    head = struct.pack("<8sHQI", snapshots.MAGIC, snapshots.VERSION, 1 << 40, zlib.crc32(squeezed))
    tracemalloc.start()
    with pytest.raises(ValueError, match="are not believed"):
        snapshots.unpack(head + squeezed)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 1 << 20


def test_a_snapshot_cut_off_anywhere_or_with_a_bit_turned_over_is_refused() -> None:
    body = taught([("web", "load")]).pack()
    rng = np.random.default_rng(1)
    for at in (*range(0, len(body), 7), len(body) - 1):
        with pytest.raises(ValueError):
            Baselines(Config()).merge(body[:at])
    for _ in range(300):
        broken = bytearray(body)
        broken[rng.integers(len(body))] ^= 1 << int(rng.integers(8))
        with pytest.raises(ValueError):
            Baselines(Config()).merge(bytes(broken))


NAMES = [("a", "x"), ("b", "y"), ("c/d", "z")]
SPOILT = {
    "a name twice": ({"series": [["a", "x"], ["a", "x"], ["c/d", "z"]]}, {}),
    "fewer names": ({"series": [["a", "x"]]}, {}),
    "names that are none": ({"series": [["a"], [1, 2], "x"]}, {}),
    "nothing about when they were seen": ({}, {"seats.seen": None}),
    "too little about when they were seen": ({}, {"seats.seen": np.zeros(1)}),
    "rows that are not there": ({}, {"seats.rows": np.array([0, 1, 9])}),
    "rows below the first": ({}, {"seats.rows": np.array([0, 1, -1])}),
    "rows that are no numbers": ({}, {"seats.rows": np.array([0.0, np.nan, 2.0])}),
    "rows in a square": ({}, {"seats.rows": np.zeros((3, 1), np.int64)}),
    "no limits": ({}, {"limits": None}),
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_does_not_fit_together_is_refused_and_nothing_of_it_is_taken(how: str) -> None:
    arrays, header = snapshots.unpack(taught(NAMES).pack())
    changed, spoilt = SPOILT[how]
    arrays = {name: array for name, array in {**arrays, **spoilt}.items() if array is not None}
    known = taught([("mine", "m")])
    with pytest.raises(ValueError):
        known.merge(snapshots.pack(arrays, {**header, **changed}))

    assert [("mine", "m")] == list(known.seats.row_of)
    assert 1 == len(known.engine)


@pytest.mark.parametrize(
    ("name", "value"), [("numbers", np.nan), ("doubles", np.nan), ("limits", np.inf), ("day", np.inf), ("doubles", -1)]
)
def test_one_damaged_series_costs_none_of_the_others(name: str, value: float) -> None:
    arrays, header = snapshots.unpack(taught(NAMES).pack())
    arrays[name][..., 1] = value
    known = Baselines(Config(learning=300))
    taken = known.merge(snapshots.pack(arrays, header))
    known.update(NAMES, [1.0, 2.0, 3.0], WALL + DAY)
    again = Baselines(Config())
    again.merge(known.pack())

    assert [("a", "x"), ("c/d", "z")] == taken
    assert 1 == known.damaged
    assert set(NAMES) == set(again.seats.row_of), "the next life reads all of it"


def test_every_number_that_a_machine_can_hold_leaves_the_engine_with_numbers() -> None:
    odd = [0.0, -0.0, 1e308, -1.79e308, 5e-324, 1e-310, np.nan, np.inf, -np.inf, 1e300, 65504.0, 1e39, 3.4e38, 1.0]
    rng = np.random.default_rng(3)
    engine = Novelty(Settings(learning=301.0))
    engine.add(120, rng.random(120) < 0.3)
    pools = [rng.choice(odd, int(rng.integers(1, 6))) for _ in range(120)]
    at = 0.0
    for _ in range(250):
        at += float(rng.choice([0, 1, 60, 300, 3600, -DAY, 3e7, -3e7], p=[0.1, 0.2, 0.2, 0.2, 0.2, 0.04, 0.03, 0.03]))
        scores = engine.update(np.array([rng.choice(pool) for pool in pools]), at)

        assert np.isfinite(scores).all()
        assert np.isfinite([engine.explain(row).score for row in engine.alarms()[:3].tolist()]).all()
    assert np.isfinite(engine.snapshot()["numbers"]).all()


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a\ud800b", "a\x1b[31mb", "a\nb", "a\x00b", "\u202eb", "\x1b" * 500])
def test_a_label_cannot_put_into_a_subject_what_cannot_be_shown_or_stored(name: str) -> None:
    subject = subject_named("instance", {"instance": name})

    assert subject.isprintable()
    assert subject.encode()
    assert len(subject) <= 200


def test_two_labels_that_differ_in_what_cannot_be_shown_stay_two_subjects() -> None:
    found = {subject_named("instance", {"instance": name}) for name in ("a", "a\x00", "a\x01", "a\ud800")}

    assert 4 == len(found)


def test_a_moment_of_hundreds_of_digits_is_no_sample() -> None:
    with pytest.raises(ValueError, match="not a sample"):
        sample([10**400, "1"])


def test_an_answer_in_words_of_the_server_is_told_without_its_terminal_codes() -> None:
    network = FakeNetwork()
    config = PrometheusConfig.model_validate({"url": "http://127.0.0.1:9090", "queries": {"m": {"query": "up"}}})
    body = json.dumps({"status": "error", "errorType": "bad_data", "error": "\x1b[2J oh \ud800 no"}).encode()
    network.answer("http://127.0.0.1:9090/api/v1/query?query=up", body=body)
    with pytest.raises(ProbeFailed) as failed:
        asyncio.run(PrometheusMonitor("prom", config, FakeHost(), network).observe())

    assert str(failed.value).isprintable()
    assert "oh" in str(failed.value)


STRANGE = ["web", "a/b/c", "[x]*?", "a\ud800", "x" * 70_000, "", "n\n'\"\x00"]


def test_what_is_kept_of_strange_names_is_read_by_the_next_life() -> None:
    names = [(name, "load") for name in STRANGE]
    again = Baselines(Config())
    again.merge(taught(names).pack())
    forecast = Forecast("forecast", ForecastConfig())
    sight = Sight()
    for k in range(20):
        sight.record([Observation("eyes", name, "disk_free_ratio", 0.9 - k / 100) for name in STRANGE], 60.0 * k)
        forecast.analyze(View(sight, 60.0 * k, None, (), WALL + 60.0 * k))
    later = Forecast("forecast", ForecastConfig())
    later.take_up(forecast.learnt(), WALL)

    assert set(names) == set(again.seats.row_of)
    assert {name for name in STRANGE if len(name) < 70_000} == {subject for subject, _ in later._runways}


def test_names_with_the_signs_of_patterns_are_forgotten_as_they_stand() -> None:
    series = [("[x]*", "m"), ("x*", "m"), ("a", "m1"), ("b", "m1")]

    assert [("[x]*", "m")] == named(["[[]x][*]/m"], series)
    assert [("a", "m1"), ("b", "m1")] == named(["*/m1"], series)
    assert [("a", "m1")] == named(["a/m1", "nothing/there"], series)
    assert [] == named([], series)


# -- floods, and clocks ------------------------------------------------------------------------------------------------


def best_of(call: Callable[[], object], tries: int = 3) -> float:
    """Seconds of the quickest try: the others were disturbed."""
    found = []
    for _ in range(tries):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return min(found)


def test_forgetting_every_name_costs_about_as_much_for_each_however_many_there_are() -> None:
    def seconds(count: int) -> float:
        series = [(f"subject-{n}", "metric") for n in range(count)]
        patterns = ["/".join(one) for one in series]
        return best_of(lambda: named(patterns, series))

    assert seconds(4000) < 60 * seconds(400), "ten times as many took more than sixty times as long"


def test_all_series_that_are_unusual_at_once_are_explained_as_each_would_be_alone() -> None:
    engine = Novelty(Settings(learning=301.0))
    rows = engine.add(200)
    rng = np.random.default_rng(5)
    for k in range(60):
        engine.update(rng.normal(10, 1, 200), 300.0 * k)
    engine.update(np.where(np.arange(200) % 2, 40.0 + np.arange(200), 10.0), 300.0 * 60)
    found = engine.explain_all(rows)

    assert 90 <= len(engine.alarms())
    for row, one in zip(rows.tolist(), found, strict=True):
        alone = engine.explain(row)
        assert (alone.alarm, alone.feature, alone.at) == (one.alarm, one.feature, one.at)
        np.testing.assert_allclose([one.low, one.high, one.value], [alone.low, alone.high, alone.value], rtol=1e-9)


def test_a_thousand_alarms_are_explained_for_much_less_than_a_thousand_times_one() -> None:
    engine = Novelty(Settings(learning=301.0))
    rows = engine.add(1000)
    rng = np.random.default_rng(5)
    for k in range(40):
        engine.update(rng.normal(10, 1, 1000), 300.0 * k)
    engine.update(np.full(1000, 90.0), 300.0 * 40)
    one, all_of_them = best_of(lambda: engine.explain(7), 5), best_of(lambda: engine.explain_all(rows))

    assert 900 <= len(engine.alarms())
    assert all_of_them < 300 * one


def test_where_there_is_no_room_the_longest_unseen_makes_it() -> None:
    known = Baselines(Config(most_series=3, learning=300))
    old, new = [("old", f"m{n}") for n in range(3)], [("new", f"m{n}") for n in range(2)]
    known.update(old, [1.0, 1.0, 1.0], WALL)
    known.sweep(WALL)
    for k in range(30):
        known.update(old[2:], [1.0], WALL + 7200.0 * k)
    known.update(new, [1.0, 1.0], WALL + 3600.0)
    early = set(known.seats.row_of)
    known.update([*old[2:], *new], [1.0, 1.0, 1.0], WALL + 2.5 * DAY)

    assert set(old) == early, "an hour is not long enough"
    assert {old[2], *new} == set(known.seats.row_of)
    assert 3 == len(known.engine)


def test_what_an_earlier_life_knew_makes_no_room_before_anybody_could_see_it() -> None:
    kept = taught(NAMES).pack()
    known = Baselines(Config(most_series=3))
    known.merge(kept)
    known.update([("new", "m")], [1.0], WALL + 10 * DAY)

    assert set(NAMES) == set(known.seats.row_of)
    assert 1 == known.seats.turned_away


@pytest.mark.parametrize("jump", [-3650 * DAY, -DAY, 366 * DAY, 20_000 * DAY])
def test_a_clock_that_is_set_makes_nothing_forgotten(jump: float) -> None:
    """A host without a clock of its own begins in 1970, and is told the time after a minute."""
    known = taught(NAMES)
    begins = WALL + 20_000.0
    for minute in range(20):
        known.update(NAMES, [10.0, 10.0, 10.0], begins + 60.0 * minute)
        known.sweep(begins + 60.0 * minute)
    for minute in range(30):
        wall = begins + 1200.0 + jump + 60.0 * minute
        known.update(NAMES[:1], [10.0], wall)  # the others are asked for more rarely
        known.sweep(wall)

    assert set(NAMES) == set(known.seats.row_of)


def test_series_that_are_gone_for_a_fortnight_go_for_all_that() -> None:
    known = taught(NAMES)
    for hour in range(15 * 24):
        known.update(NAMES[:1], [10.0], WALL + 20_000.0 + 3600.0 * hour)
        known.sweep(WALL + 20_000.0 + 3600.0 * hour)

    assert NAMES[:1] == list(known.seats.row_of)


def test_seats_and_engine_agree_after_thousands_came_and_went() -> None:
    rng = np.random.default_rng(2)
    known = Baselines(Config(most_series=150, learning=300))
    for k in range(150):
        names = [(f"pod-{n}", "cpu") for n in rng.integers(0, 120 + 5 * k, 100)]
        names = list(dict.fromkeys(names))
        known.update(names, np.arange(float(len(names))), WALL + 3000.0 * k)
        known.sweep(WALL + 3000.0 * k)

        assert len(known.engine) == len(known.seats) <= 150
        assert len(set(known.seats.row_of.values())) == len(known.seats)


def test_the_change_analyzer_has_room_for_so_many_series_and_gives_it_to_who_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shifts, "MOST_SERIES", 50)
    pasts = Pasts()

    def take(names: Sequence[Series], at: float) -> None:
        pasts.take(names, [1.0] * len(names), [at] * len(names), at, WALL + at)

    crowd = [(f"pod-{n}", "cpu") for n in range(80)]
    take(crowd, 0.0)
    take(crowd, 60.0)
    first = [name in pasts for name in crowd]
    take(crowd[40:], 60.0 + 2 * shifts.PRESSED)

    assert 50 == sum(first)
    assert all(first[:50])
    assert all(name in pasts for name in crowd[40:])
    assert 40 <= len(pasts) <= 50


def test_queues_that_come_and_go_by_the_thousand_are_not_kept_for_a_fortnight_each() -> None:
    resources = {"queue": Resource(metric="depth", full=100)}
    forecast, sight = Forecast("forecast", ForecastConfig(resources=resources)), Sight()
    for k in range(96):
        now = 900.0 * k
        sight.record([Lost("eyes", f"q-{k - 1}-{n}", "depth") for n in range(20)], now)
        seen = [Observation("eyes", f"q-{k}-{n}", "depth", 5.0) for n in range(20)]
        sight.record([*seen, Observation("eyes", "stays", "depth", 5.0)], now)
        forecast.analyze(View(sight, now, None, (), WALL + now))

    assert len(forecast._runways) <= 20 * 4 * 4
    assert ("stays", "queue") in forecast._runways


def test_a_deploy_of_what_thousands_depend_on_is_not_squared_in_cost() -> None:
    def seconds(count: int) -> float:
        subjects = {name: Subject(name, depends_on=("db",)) for name in (f"s{n}" for n in range(count))}
        subjects["db"] = Subject("db")
        return best_of(lambda: affected(subjects, "db"))

    assert seconds(3000) < 60 * seconds(300)


def test_dependents_come_nearest_first_and_a_ring_of_them_has_an_end() -> None:
    subjects = {
        "db": Subject("db", depends_on=("web",), group="shop"),
        "api": Subject("api", depends_on=("db", "db")),
        "web": Subject("web", depends_on=("api",)),
        "mail": Subject("mail", group="shop"),
    }

    assert ["db", "api", "web", "mail"] == affected(subjects, "db")


# -- what is kept of changes -------------------------------------------------------------------------------------------


def past() -> Pasts:
    pasts = Pasts()
    for k in range(400):
        at = 60.0 * k
        pasts.take([("a", "x"), ("b", "y")], [10.0 + k % 5, 5.0 + k % 3], [at, at], at, WALL + at)
    return pasts


def test_bits_that_fall_over_in_what_is_kept_of_changes_are_refused_or_harmless() -> None:
    body = past().kept(0.0)
    rng = np.random.default_rng(4)
    read = 0
    for at in range(0, len(body), 5):
        with pytest.raises(ValueError):
            Pasts().take_up(body[:at], 0.0)
    for _ in range(1500):
        broken = bytearray(body)
        broken[rng.integers(len(body))] ^= 1 << int(rng.integers(8))
        pasts = Pasts()
        try:
            pasts.take_up(bytes(broken), 0.0)
        except ValueError:
            continue
        read += 1
        with np.errstate(all="ignore"):
            for k in range(401, 415):
                pasts.take([("a", "x"), ("b", "y")], [10.0, 5.0], [60.0 * k] * 2, 60.0 * k, WALL + 60.0 * k)
            for series in (("a", "x"), ("b", "y")):
                pasts.before(series, 24_600.0, WALL)

    assert read > 100


@pytest.mark.parametrize(
    "told",
    [
        b"[]",
        b'{"version":1}',
        b'{"version":1,"pasts":"","events":[],"watches":[],"known":[],"began":{}}',
        b"[" * 99_999,
        b'{"version":1,"pasts":5,"events":[],"watches":[],"known":[],"began":[]}',
        b"\xff\x00",
        b"1e999",
    ],
)
def test_what_is_kept_of_changes_and_is_none_is_refused_in_words(told: bytes) -> None:
    with pytest.raises(ValueError):
        Change("change", ChangeConfig()).take_up(told, WALL)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_whose_line_never_ends_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "endless.csv"
    path.write_bytes(b"time,subject,metric,value\n" + b"1" * (1 << 24))
    history = CsvHistory([str(path)], None, ZoneInfo("UTC"), WALL)
    tracemalloc.start()
    with pytest.raises(Refusal, match="2: is no CSV: a line has more than"):
        list(history.pieces())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 1 << 22


def test_the_longest_line_that_makes_sense_is_read(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    rest = "," + "x" * (LONGEST_LINE // 2)
    path.write_text(f"time,subject,metric,value,more\n1600000000,web,load,5{rest}\n")
    (piece,) = CsvHistory([str(path)], None, ZoneInfo("UTC"), WALL).pieces()

    assert [("web", "load")] == piece.names


def test_seats_read_nothing_that_is_not_theirs() -> None:
    with pytest.raises(ValueError, match="missing or do not fit"):
        Seats.read({}, {"series": []})
    assert Patterns(["*"], [])("anything")


@pytest.mark.parametrize(
    ("moment", "words"),
    [("0001-01-01T00:00:00Z", "lies before 1970"), ("9999-12-31T23:59:59Z", "lies in the future")],
)
def test_a_change_of_another_age_is_refused_over_the_api(tmp_path: Path, moment: str, words: str) -> None:
    async def story(endpoint: Endpoint) -> None:
        reply = await endpoint.post("/api/v1/changes", {"subject": "web", "at": moment})

        assert 422 == reply.status
        assert words in reply.text
        assert [] == (await endpoint.get("/api/v1/changes")).json["changes"]

    play(tmp_path, story, {"web": 1.0})
