"""The scorers of the detectors, on cases whose result is worked out by hand, and the fleet they are tried on."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.detect import cost, fleet, machines, nab, peers, recordings
from benchmarks.detect.__main__ import AT_LEAST, AT_MOST, PARTS, main, run_fleet, verdict
from benchmarks.detect.recordings import ROOT, Flags, Floats, Numbers, Recorded, Recording

FIVE = 300.0


def recording(count: int, windows: Sequence[tuple[int, int]], name: str = "one.csv") -> Recording:
    return Recording(name, FIVE * np.arange(count), np.zeros(count), windows)


def fired(count: int, *at: int) -> Floats:
    found = np.zeros(count)
    found[list(at)] = 1.0
    return found


def sigmoid(place: float) -> float:
    return 2 / (1 + math.exp(5 * place)) - 1


# -- the benchmark's score ---------------------------------------------------------------------------------------------


def test_who_finds_each_window_at_its_first_sample_and_nothing_else_has_100() -> None:
    one = recording(1000, [(300, 399), (600, 699)])

    for profile in nab.PROFILES:
        found = nab.result({"one": one}, {"one": fired(1000, 300, 600)}, profile, threshold=0.5)

        assert 100.0 == pytest.approx(found.score)
        assert (2, 2, 0) == (found.found, found.windows, found.false)


def test_who_is_silent_has_0() -> None:
    one = recording(1000, [(300, 399), (600, 699)])

    for profile in nab.PROFILES:
        found = nab.result({"one": one}, {"one": np.zeros(1000)}, profile, threshold=0.5)

        assert (0.0, 0, 0) == (found.score, found.found, found.false)


def test_a_late_detection_is_worth_what_the_sigmoid_says() -> None:
    """Of 100 samples, the one at 30 stands at 0.7 before the right edge."""
    one = recording(1000, [(300, 399)])

    found = nab.result({"one": one}, {"one": fired(1000, 330)}, threshold=0.5)

    worth = sigmoid(-0.7) / sigmoid(-1.0)
    assert 100 * (worth + 1) / 2 == pytest.approx(found.score)
    assert found.score < 100


def test_only_the_earliest_detection_in_a_window_counts() -> None:
    one = recording(1000, [(300, 399)])

    alone = nab.result({"one": one}, {"one": fired(1000, 330)}, threshold=0.5)
    often = nab.result({"one": one}, {"one": fired(1000, 330, 331, 360, 399)}, threshold=0.5)

    assert alone == often


def test_a_false_detection_costs_by_how_far_behind_the_window_it_is() -> None:
    """The window is 100 samples wide: 99 behind its end is one width, and before it there was none."""
    one = recording(1000, [(300, 399)])

    def cost(at: int, profile: nab.Profile = nab.STANDARD) -> float:
        whole = 1 + profile.missed
        return 100 - nab.result({"one": one}, {"one": fired(1000, 300, at)}, profile, threshold=0.5).score * whole / 2

    assert 100 * -sigmoid(1.0) * 0.11 / 2 == pytest.approx(cost(399 + 99))
    assert 100 * -sigmoid(9 / 99) * 0.11 / 2 == pytest.approx(cost(399 + 9))
    assert 100 * 0.11 / 2 == pytest.approx(cost(200))
    assert 100 * 0.11 / 2 == pytest.approx(cost(999))
    assert 2 * cost(999) == pytest.approx(cost(999, nab.PROFILES[1]))


def test_the_part_for_learning_is_not_scored() -> None:
    one = recording(1000, [(300, 399)])

    found = nab.result({"one": one}, {"one": fired(1000, 10, 149, 300)}, threshold=0.5)

    assert 150 == one.learn
    assert 100.0 == pytest.approx(found.score)
    assert 1 == nab.result({"one": one}, {"one": fired(1000, 150, 300)}, threshold=0.5).false
    assert 750 == recording(20000, []).learn


def test_who_always_fires_is_worth_no_more_than_silence() -> None:
    """It finds every window at once, and pays for every other sample."""
    one = recording(1000, [(300, 399)])

    found = nab.result({"one": one}, {"one": np.ones(1000)}, threshold=0.5)

    assert (1, 750) == (found.found, found.false)
    assert found.score < 0
    assert 0.0 == nab.result({"one": one}, {"one": np.ones(1000)}).score


def test_the_best_threshold_is_the_best_of_all_that_could_be_tried() -> None:
    random = np.random.default_rng(5)
    several = {name: recording(400, [(150, 180), (250, 300)], name) for name in "abc"}
    scores: dict[str, Numbers] = {name: np.round(random.uniform(size=400) ** 4, 2) for name in several}
    tried = [*np.unique(np.concatenate(list(scores.values()))).tolist(), 2.0]

    for profile in nab.PROFILES:
        by_hand = [nab.result(several, scores, profile, limit) for limit in tried]
        found = nab.result(several, scores, profile)

        assert max(one.score for one in by_hand) == pytest.approx(found.score)
        assert found in by_hand or found.threshold == math.inf


def test_the_recall_is_that_of_the_lowest_threshold_within_the_budget() -> None:
    """Ten weeks; a false detection at 0.9, the second window at 0.8, and three more false ones at 0.7."""
    count = 20160 + 750
    one = recording(count, [(5000, 5100), (9000, 9100)])
    scores = np.zeros(count)
    scores[[5000, 2000, 9050]] = 1.0, 0.9, 0.8
    scores[[12000, 13000, 14000]] = 0.7

    assert 10.0 == pytest.approx(one.weeks, rel=1e-3)
    assert (1, 2, 1.0) == nab.recall_within({"one": one}, {"one": scores}, 0.05)
    assert (2, 2, 0.8) == nab.recall_within({"one": one}, {"one": scores}, 0.15)


def test_held_out_takes_the_threshold_from_the_other_files() -> None:
    """Each file alone is perfect at a threshold of its own, and wrong at that of the other."""
    several = {name: recording(1000, [(300, 399)], name) for name in "ab"}
    loud, low = fired(1000, 300), 0.1 * fired(1000, 300)
    loud[500:900] = 0.5

    crossed = nab.crossed(several, {"a": loud, "b": low})

    best = nab.result(several, {"a": loud, "b": low}).score
    at_low = nab.result({"a": several["a"]}, {"a": loud}, threshold=0.1).score
    at_loud = nab.result({"b": several["b"]}, {"b": low}, threshold=1.0).score
    assert (at_low + at_loud) / 2 == pytest.approx(crossed)
    assert crossed < best
    assert 100.0 == pytest.approx(nab.crossed(several, {"a": fired(1000, 300), "b": fired(1000, 300)}))


def test_scores_that_do_not_fit_a_recording_are_refused_with_its_name() -> None:
    one = recording(1000, [(300, 399)])

    with pytest.raises(ValueError, match=r"one\.csv has 1000 samples, and 999 were scored"):
        nab.result({"one": one}, {"one": np.zeros(999)})
    with pytest.raises(ValueError, match=r"one\.csv: sample 7 has no score but NaN"):
        nab.result({"one": one}, {"one": np.where(np.arange(1000) == 7, np.nan, 0.0)})


# -- the files ---------------------------------------------------------------------------------------------------------


def test_recordings_are_read_with_their_windows_and_those_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "labels").mkdir()
    rows = [f"2014-04-01 00:{5 * number:02}:00,{number}" for number in range(10)]
    (tmp_path / "data" / "a.csv").write_text("timestamp,value\n" + "\n".join(rows) + "\n")
    windows = [["2014-04-01 00:20:00.000000", "2014-04-01 00:30:00.000000"]]
    (tmp_path / "labels" / "combined_windows.json").write_text(json.dumps({"a.csv": windows, "kept back.csv": []}))

    found = recordings.nab(tmp_path)

    assert ["a.csv"] == list(found)
    assert [(4, 6)] == found["a.csv"].windows
    assert 300.0 == found["a.csv"].at[1] - found["a.csv"].at[0]
    assert 9.0 == found["a.csv"].values[-1]


def test_a_folder_without_labels_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no labels/combined_windows\.json: name a folder with data/ and labels/"):
        recordings.nab(tmp_path)


def test_a_place_for_recordings_that_is_no_folder_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(recordings.PLACE, str(tmp_path / "nowhere"))

    with pytest.raises(SystemExit, match=r"nowhere.* is not a folder: name the one that holds nab/"):
        recordings.folder()


def test_every_detector_sees_only_what_is_there_and_nothing_after_it() -> None:
    """The peer that takes a whole series gets it without its holes; the others get NaN. Neither looks ahead."""
    random = np.random.default_rng(2)
    values = random.normal(size=(600, 2))
    values[100:140, 1] = np.nan
    values[300, 0] = 30.0
    at, learn = FIVE * np.arange(600), np.array([90, 90])

    found = recordings.scores(peers.ZScore(), values, at, learn)
    again = recordings.scores(peers.ZScore(), values[:400], at[:400], learn)

    assert 300 == found[50:, 0].argmax() + 50
    assert not found[100:140, 1].any()
    assert (found[:400] == again).all()

    class Length:
        name = about = "length"

        def judge(self, values: Floats, at: Floats, learn: int) -> Numbers:
            assert np.isfinite(values).all() and len(values) == len(at)
            return np.full(len(values), float(learn))

    values[10:20, 1] = np.nan
    whole = recordings.scores(Length(), values, at, learn)
    assert (90.0, 80.0, 0.0) == (whole[0, 0], whole[0, 1], whole[15, 1])


def test_the_features_of_the_peers_look_only_back() -> None:
    found = peers.features(np.array([1.0, 2.0, 6.0]))

    assert [[1, 0, 0], [2, 1, 0.5], [6, 4, 3]] == found.tolist()
    assert 94.5 == peers.features(np.arange(100.0))[99, 0] - peers.features(np.arange(100.0))[99, 2] + 1


# -- machines ----------------------------------------------------------------------------------------------------------


def watched(scores: Sequence[float], label: Sequence[int], name: str = "m", step: float = 60.0) -> machines.Watched:
    rows = np.zeros((len(scores), 3))
    machine = Recorded(name, "SMD", step, rows, rows, np.array(label, bool), ())
    return machines.Watched(machine, np.array(scores, dtype=np.float64))


def test_events_and_time_are_counted_without_point_adjustment() -> None:
    """Two events, one found by one of its four rows; three rows are flagged, one of them inside."""
    one = watched([0, 9, 0, 0, 0, 0, 9, 9, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0, 1, 1])

    found = machines.timed([one], threshold=5)

    assert (0.5, pytest.approx(1 / 3)) == (found.recall, found.precision)
    assert 0.4 == pytest.approx(found.f1)


def test_the_best_threshold_of_events_is_the_best_that_could_be_tried() -> None:
    random = np.random.default_rng(3)
    label = np.zeros(300, int)
    label[40:60] = label[150:155] = label[220:260] = 1
    several = [watched(np.round(random.uniform(size=300) + 0.3 * label, 2).tolist(), label.tolist()) for _ in range(3)]

    by_hand = []
    for limit in np.unique(np.concatenate([one.scores for one in several])):
        flagged = [one.scores >= limit for one in several]
        recall = sum(rows[a:b].any() for rows in flagged for a, b in ((40, 60), (150, 155), (220, 260))) / 9
        precision = sum((rows & (label == 1)).sum() for rows in flagged) / sum(rows.sum() for rows in flagged)
        by_hand.append(2 * recall * precision / max(1e-12, recall + precision))

    assert max(by_hand) == pytest.approx(machines.timed(several).f1)


def test_who_always_fires_does_well_in_neither_measure() -> None:
    label = [0] * 1000 + [1] * 20 + [0] * 1000
    one = watched([1.0] * 2020, label)

    assert machines.timed([one]).f1 == pytest.approx(2 * (20 / 2020) / (1 + 20 / 2020))
    assert machines.best_alarmed([one]).precision == pytest.approx(1 / (1 + 2000 * 60 // 3600))


def test_rows_within_ten_minutes_are_one_alarm_and_one_that_touches_an_event_is_not_false() -> None:
    label = np.zeros(200, bool)
    label[100:110] = True

    def false(*rows: int) -> int:
        flagged = np.zeros(200, bool)
        flagged[list(rows)] = True
        return machines.false_alarms(flagged, label, 60.0)

    assert 0 == false()
    assert 1 == false(10, 12, 22)
    assert 2 == false(10, 21)
    assert 0 == false(105)
    assert 0 == false(95, 105)
    assert 1 == false(80, 105)
    assert 1 == false(*range(40, 106))


def test_held_out_machines_are_judged_at_the_threshold_of_the_others() -> None:
    quiet = watched([0, 1, 0, 0], [0, 1, 0, 0], "quiet")
    loud = watched([5, 9, 5, 5], [0, 1, 0, 0], "loud")

    assert 1.0 == machines.timed([quiet]).f1 == machines.timed([loud]).f1
    found = machines.held_out([quiet, loud])

    # At 9 the quiet one is silent; at 1 all four rows of the loud one are flagged, of which one is right.
    assert (0.5, 0.25) == (found.recall, found.precision)


def test_a_hit_is_a_cause_among_as_many_of_the_first_as_there_are_causes() -> None:
    contributions = np.array([0.1, 5.0, 3.0, 4.0])

    assert 1.0 == machines.hit_rate(contributions, [1])
    assert 0.5 == machines.hit_rate(contributions, [1, 2])
    assert 1.0 == machines.hit_rate(contributions, [2, 3, 1])
    assert 0.0 == machines.hit_rate(contributions, [0])


def test_a_watcher_learns_first_and_is_asked_for_causes_over_the_whole_event() -> None:
    random = np.random.default_rng(4)
    every = random.normal(size=(600, 1)) + 0.1 * random.normal(size=(600, 4))
    learned, rows = every[:500], every[500:]
    rows[50:55, 2] += 12
    label = np.zeros(100, bool)
    label[50:55] = True
    machine = Recorded("m", "SMD", 60.0, learned, rows, label, [(50, 54, [2])])

    for make in (peers.Components, peers.ZScores):
        found = machines.watch(make(), machine)

        assert [1.0] == found.hits
        assert 1.0 == machines.timed([found]).recall
    assert [0.0] == machines.watch(peers.MachineAlways(), machine).hits


# -- the fleet ---------------------------------------------------------------------------------------------------------


def test_a_fleet_is_the_same_again_and_a_small_one_is_the_first_part_of_a_large_one() -> None:
    one, same, large = fleet.make(14, weeks=3), fleet.make(14, weeks=3), fleet.make(28, weeks=3)
    other = fleet.make(14, weeks=3, seed=2)

    assert one.values.tobytes() == same.values.tobytes()
    assert one.incidents == same.incidents
    assert one.values.tobytes() == np.ascontiguousarray(large.values[:, :14]).tobytes()
    assert list(one.incidents) == [incident for incident in large.incidents if incident.series < 14]
    assert one.values.tobytes() != other.values.tobytes()


@pytest.fixture(scope="module")
def made() -> fleet.Fleet:
    return fleet.make(112)


def test_the_incidents_are_written_down_as_they_were_done_and_nothing_else_was(made: fleet.Fleet) -> None:
    """Against the same fleet without them."""
    calm = fleet.make(112, calm=True)
    differs = made.rates() != calm.rates()
    differs &= np.isfinite(made.rates())

    assert set(fleet.ALL) == {one.kind for one in made.incidents}
    assert not calm.incidents and calm.quiet[made.judged :].all()
    for one in made.incidents:
        where = np.s_[one.start : one.stop, one.series]
        there = np.isfinite(made.rates()[where])
        inside, healthy = made.rates()[where][there], calm.rates()[where][there]
        assert made.judged <= one.start < one.stop <= len(made.at)
        assert not made.quiet[where].any()
        assert differs[where].any()
        differs[where] = False
        if one.kind == "drop":
            assert not inside.any()
        elif one.kind == "stuck":
            assert np.ptp(inside) <= 1e-6 * np.abs(inside).max()
        elif one.kind == "noise":
            assert inside.std() > healthy.std()
        else:
            assert 4 <= abs(one.size) <= 24
            assert (np.sign(inside - healthy) == np.sign(one.size)).mean() > 0.9
    # A total that is counted on from another rate keeps a rounding of its last digits, and nothing more.
    left = np.abs(made.rates()[differs] / calm.rates()[differs] - 1)
    assert not len(left) or left.max() < 1e-6


def test_every_shape_is_there_and_is_quiet_for_two_weeks(made: fleet.Fleet) -> None:
    assert set(fleet.SHAPES) == set(made.shapes)
    assert not made.quiet[: made.judged].any()
    assert 14 * fleet.DAY == made.judged * made.step
    assert 0 == sum(one.start < made.judged for one in made.incidents)
    assert np.isnan(made.values[:, [shape == "gappy" for shape in made.shapes]]).any()
    assert not np.isnan(made.values[:, [shape != "gappy" for shape in made.shapes]]).any()


def test_counters_only_grow_but_where_they_begin_anew_and_their_rate_is_missing_there(made: fleet.Fleet) -> None:
    grown = np.diff(made.values[:, made.counters], axis=0)
    fallen = grown < 0

    assert 0 < fallen.sum() < 10 * made.counters.sum()
    assert np.isnan(made.rates()[1:, made.counters][fallen]).all()
    assert np.isfinite(made.rates()[1:, made.counters][~fallen]).all()


def test_who_marks_the_incidents_and_nothing_else_is_perfect(made: fleet.Fleet) -> None:
    flagged = np.zeros(made.values.shape, bool)
    for one in made.incidents:
        flagged[one.stop - 1, one.series] = True

    found = fleet.score(made, flagged)

    assert (1.0, 0.0) == (found.recall, found.false_a_week)
    assert {0.0} == set(found.flagged.values())
    assert len(made.incidents) == sum(of for _, of in found.found.values())


def test_who_always_fires_is_wrong_every_hour_and_who_is_silent_finds_nothing(made: fleet.Fleet) -> None:
    always = fleet.score(made, np.ones(made.values.shape, bool))
    silent = fleet.score(made, np.zeros(made.values.shape, bool))

    assert 1.0 == always.recall
    assert 168 == pytest.approx(always.false_a_week, rel=0.01)
    assert {1.0} == set(always.flagged.values())
    assert (0.0, 0.0) == (silent.recall, silent.false_a_week)


def test_an_alarm_covers_an_hour_and_a_deploy_excuses_one(made: fleet.Fleet) -> None:
    series = made.shapes.index("gaussian")
    calm = np.nonzero(made.quiet[:, series])[0]
    tick = int(next(one for one in calm if made.quiet[one : one + 40, series].all()))

    def false(row: int, *ticks: int) -> float:
        flagged = np.zeros(made.values.shape, bool)
        flagged[list(ticks), row] = True
        return round(fleet.score(made, flagged).false_a_week * made.weeks, 6)

    assert 1 == false(series, tick)
    assert 1 == false(series, tick, tick + 3, tick + 11)
    assert 2 == false(series, tick, tick + 12)
    row, deploy = next(one for one in made.deploys if made.quiet[one[1] : one[1] + 80, one[0]].all())
    assert 0 == false(row, deploy + 1)
    assert 1 == false(row, deploy + 1, deploy + 30)
    assert 1 == false(row, deploy + 75)


def test_the_best_single_threshold_stays_within_the_budget_and_is_the_lowest(made: fleet.Fleet) -> None:
    random = np.random.default_rng(6)
    scores = random.uniform(size=made.values.shape)
    for one in made.incidents[::2]:
        scores[one.start, one.series] = 2.0

    limit, found = fleet.best(made, scores)

    assert found.false_a_week <= fleet.BUDGET
    assert found.recall >= 0.5
    lower = np.sort(scores[made.quiet & (scores < limit)])[-60]
    assert fleet.score(made, scores >= lower).false_a_week > fleet.BUDGET


def test_flags_that_do_not_fit_the_fleet_are_refused(made: fleet.Fleet) -> None:
    with pytest.raises(ValueError, match=r"the fleet has \(12096, 112\) ticks and series, and \(3, 4\) were flagged"):
        fleet.score(made, np.zeros((3, 4), bool))


class Marks:
    """Says what it is told to: flags wherever the value is above 50, and gets the counters as they are scraped."""

    name = about = "marks"

    def start(self, series: int, counters: Flags | None = None) -> None:
        assert counters is not None and counters.sum()
        self._seen = np.zeros(series)

    def step(self, values: Floats, at: float | Floats) -> Numbers:
        self._seen = values
        return values

    def alarms(self) -> Flags:
        return self._seen > 50


def test_a_detector_that_decides_itself_is_asked_at_every_tick_and_sees_the_counters(made: fleet.Fleet) -> None:
    scores, flagged = run_fleet(Marks(), made)

    assert flagged is not None
    assert ((made.values > 50) == flagged).all()
    assert (scores[:, made.counters] == made.values[:, made.counters]).all()
    assert run_fleet(peers.Always(), made)[1] is None


# -- the verdict -------------------------------------------------------------------------------------------------------


def test_a_goal_that_is_missed_is_named_and_makes_the_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    most, least = "cut: scores that a later sample changes", "nab: standard score"

    assert [most] == verdict({least: AT_LEAST[least], most: 1.0})
    assert [least] == verdict({least: AT_LEAST[least] - 0.1, most: AT_MOST[most]})
    assert [] == verdict({})
    told = capsys.readouterr().out
    assert "MISSED  nab: standard score: 74.9 (goal: at least 75)" in told
    assert "met     nab: standard score: 75 (goal: at least 75)" in told


def test_without_recordings_their_parts_say_so_and_are_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recordings, "folder", lambda: None)

    assert 0 == main(["--only", "nab,machines"])
    assert 2 == capsys.readouterr().out.count(f"skipped: there are no recordings here ({recordings.PLACE} names")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "nab,nap"], "--only: there is no part 'nap'; there are: " + ", ".join(PARTS)),
        (["--share", "0"], "--share 0: is a part of all, more than 0 and at most 1"),
    ],
)
def test_what_was_asked_wrongly_is_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)

    assert said in capsys.readouterr().err


def test_other_files_need_a_threshold_when_there_are_no_recordings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "data" / "a.csv").write_text("timestamp,value\n2014-04-01 00:00:00,1\n2014-04-01 00:05:00,1\n")
    (tmp_path / "labels" / "combined_windows.json").write_text('{"a.csv": []}')
    monkeypatch.setattr(recordings, "folder", lambda: None)

    with pytest.raises(SystemExit, match="there is no threshold; give one with --threshold"):
        main(["--only", "nab", "--nab", str(tmp_path)])


def test_the_cost_of_an_engine_is_measured_in_a_process_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from benchmarks.detect import cost; print(cost.measure('zscore', 50, warm=120))"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=True,
    )

    assert "'bytes a series': 32.0" in done.stdout
    assert {"Rss": 2.0, "Pss": 1.0} == cost.memory(
        "55-7f ---p 0 [rollup]\nRss:  2048 kB\nPss:  1024 kB\nPss_Anon: 9 kB\n"
    )
    assert cost.bare()["Rss"] >= cost.bare()["Pss"] > 1
