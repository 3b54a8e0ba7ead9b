"""Traces: what a series said in the last minutes, with every extreme of it, in room that is bounded."""

import math
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0tta6bl4.kernel.facts import Observation
from x0tta6bl4.kernel.sight import Sight
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.traces import (
    ALL_POINTS,
    BEHIND,
    LEARNT,
    MOST_POINTS,
    MOST_SERIES,
    NEW_PACE,
    SPAN,
    STRETCH,
    Share,
    Trace,
    Traces,
    thinned,
)

values = st.floats(-1e9, 1e9) | st.sampled_from([0.0, 1.0])
lines = st.lists(st.tuples(st.floats(0.01, 30.0), values), min_size=1, max_size=400)


def at_times(line: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    now, ats = 0.0, []
    for passed, _ in line:
        now += passed
        ats.append(now)
    return ats, [value for _, value in line]


def trace(room: int = MOST_POINTS) -> Trace:
    return Trace(Share(room))


def points(of: Trace) -> list[tuple[float, float]]:
    return list(zip(of.ats, of.values, strict=True))


# Thinning


@given(lines, st.integers(0, 200))
def test_of_a_thinned_line_the_ends_and_the_extremes_of_each_window_stay(
    line: list[tuple[float, float]], most: int
) -> None:
    ats, said = at_times(line)
    left_ats, left = thinned(ats, said, most)
    kept = list(zip(left_ats, left, strict=True))

    most = max(4, most)
    assert len(kept) <= most
    whole = iter(zip(ats, said, strict=True))
    assert all(point in whole for point in kept)  # in their order, none made up
    windows = most // 4
    width = (ats[-1] - ats[0]) / windows
    for window in range(windows):
        begin = ats[0] + window * width
        end = ats[0] + (window + 1) * width if window < windows - 1 else math.inf
        before = [value for at, value in zip(ats, said, strict=True) if begin <= at < end]
        after = [value for at, value in kept if begin <= at < end]
        if after:
            assert (min(after), max(after)) == (min(before), max(before))
        elif before:  # nothing but points between two of the same value: the line is there without them
            assert len(set(before)) == 1
    assert (kept[0], kept[-1]) == ((ats[0], said[0]), (ats[-1], said[-1]))
    assert (min(left), max(left)) == (min(said), max(said))


def joined(line: Iterable[tuple[float, float]]) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """What a chart draws a line between."""
    return [(a, b) for a, b in pairwise(line) if not math.isnan(a[1]) and not math.isnan(b[1])]


def seen(line: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    return [point for point in line if not math.isnan(point[1])]


@given(
    st.lists(st.floats(-1e9, 1e9) | st.sampled_from([0.0, 1.0, math.nan]), min_size=5, max_size=150),
    st.integers(0, 40),
)
def test_a_gap_stays_a_gap_however_thin_the_line_becomes(said: list[float], most: int) -> None:
    whole = list(zip(map(float, range(len(said))), said, strict=True))
    kept = list(zip(*thinned([at for at, _ in whole], said, most), strict=True))
    gaps = [at for at, value in whole if math.isnan(value)]

    assert len(kept) <= max(most, 9 if gaps else 4)
    left = iter(whole)
    assert all(any(point is other or point == other for other in left) for point in kept)  # none is made up
    for (before, _), (after, _) in pairwise(seen(kept)):
        is_gap = any(before < at < after for at in gaps)
        assert any(math.isnan(value) for at, value in kept if before < at < after) == is_gap
    assert math.isnan(kept[0][1]) == math.isnan(said[0])
    assert math.isnan(kept[-1][1]) == math.isnan(said[-1])
    if seen(whole):
        left_values, values = [v for _, v in seen(kept)], [v for _, v in seen(whole)]
        assert (min(left_values), max(left_values)) == (min(values), max(values))


@pytest.mark.parametrize("every", [7, 40, 100])
def test_gaps_take_their_room_from_that_of_the_points(every: int) -> None:
    ats = [float(n) for n in range(1000)]
    said = [math.nan if n % every == every - 1 else n * 37 % 101 for n in range(1000)]

    assert 20 < len(thinned(ats, said, 40)[0]) <= 40


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=300))
def test_a_yes_or_no_with_few_changes_loses_none_of_them(said: list[float]) -> None:
    ats = [float(n) for n in range(len(said))]
    changes = [(a, b) for a, b in pairwise(zip(ats, said, strict=True)) if a[1] != b[1]]
    left = thinned(ats, said, 2 * len(changes) + 2)
    kept = list(zip(*left, strict=True))

    assert [(a, b) for a, b in pairwise(kept) if a[1] != b[1]] == changes


# One series


@given(lines, st.integers(40, MOST_POINTS))
def test_a_trace_is_bounded_and_has_the_latest_and_the_extremes_of_its_span(
    line: list[tuple[float, float]], room: int
) -> None:
    one = trace(room)
    ats, said = at_times(line)
    for at, value in zip(ats, said, strict=True):
        one.take(at, value, at)
    young = [value for at, value in zip(ats, said, strict=True) if at >= ats[-1] - SPAN]
    left = [value for at, value in seen(points(one)) if at >= ats[-1] - SPAN]

    assert len(one.ats) <= room
    assert points(one)[-1] == (ats[-1], said[-1])
    assert (min(left), max(left)) == (min(young), max(young))
    assert list(one.ats) == sorted(one.ats)


def test_a_no_of_half_a_second_is_seen_ten_minutes_later() -> None:
    one = trace()
    for tick in range(1200):
        one.take(tick * 0.5, 0.0 if tick == 10 else 1.0, tick * 0.5)

    assert [(at, value) for at, value in points(one) if 4.0 <= at <= 6.0] == [(4.5, 1.0), (5.0, 0.0), (5.5, 1.0)]


def test_what_stays_the_same_costs_little() -> None:
    one = trace()
    for tick in range(200):
        one.take(tick * 0.5, 1.0, tick * 0.5)

    assert len(one.ats) < 15
    assert max(later - before for before, later in pairwise(one.ats)) <= STRETCH


def test_near_now_a_noisy_series_has_a_point_each_second_and_its_latest_peak() -> None:
    one = trace()
    for tick in range(6000):  # ten minutes, ten looks a second
        one.take(tick * 0.1, 1000.0 if tick == 5990 else tick % 7, tick * 0.1)
    ats, said = one.since(600 - 30)

    assert max(later - before for before, later in pairwise(ats)) <= 2.5
    assert max(said) == 1000.0
    assert one.ats[0] < 60


def test_what_is_seen_once_a_minute_goes_further_back_than_the_span() -> None:
    one = trace()
    for minute in range(100):
        one.take(minute * 60.0, float(minute), minute * 60.0)

    assert points(one) == [(minute * 60.0, float(minute)) for minute in range(100)]


def test_what_cannot_be_drawn_is_a_gap_and_takes_no_room_for_good() -> None:
    one = trace(40)
    for at in range(100):
        one.take(float(at), math.nan if at % 2 else float(at), float(at))
    one.take(100.0, math.inf, 100.0)
    told = list(zip(*one.since(90.0), strict=True))

    assert not joined(told)
    assert not any(math.isinf(value) for _, value in told)
    assert [at for at, value in told if math.isnan(value)][-1] == 99.0  # two in a row are one
    assert seen(told)[-1] == (98.0, 98.0)
    assert len(one.ats) <= 40


def test_what_is_no_number_is_the_monitors_mistake_and_leaves_the_trace_whole() -> None:
    one = trace()
    one.take(1.0, 5.0, 1.0)
    with pytest.raises(TypeError):
        one.take(2.0, "5", 2.0)  # type: ignore[arg-type]  # a foreign monitor may say anything
    one.take(3.0, 6.0, 3.0)

    assert points(one) == [(1.0, 5.0), (3.0, 6.0)]


# Times in which nothing was seen


def looked(one: Trace, ats: Iterable[float], value: float | None = None) -> None:
    for at in ats:
        one.take(at, at % 7 if value is None else value, at)


@pytest.mark.parametrize("value", [None, 1.0])
def test_the_time_a_process_is_dead_for_is_a_gap_just_behind_its_last_sign(value: float | None) -> None:
    one = trace()
    looked(one, (n * 0.5 for n in range(100)), value)
    looked(one, (64.5 + n * 0.5 for n in range(20)), value)
    told = points(one)
    gap = next(n for n, (_, said) in enumerate(told) if math.isnan(said))

    assert len(told) == len(seen(told)) + 1
    assert [at for at, _ in told[gap - 1 : gap + 2]] == [49.5, 49.5 + BEHIND, 64.5]


@given(
    st.lists(st.tuples(st.integers(2, 60), st.floats(3.0, 60.0)), min_size=1, max_size=30),
    st.integers(48, MOST_POINTS),
    st.booleans(),
)
def test_no_line_is_drawn_over_a_gap_and_all_else_is_joined_however_long_ago(
    bouts: list[tuple[int, float]], room: int, is_still: bool
) -> None:
    one, now, gaps = trace(room), 0.0, list[float]()
    for looks, dead in [(LEARNT + 1, 5.0), *bouts]:
        looked(one, (now + n * 0.5 for n in range(looks)), 1.0 if is_still else None)
        now += (looks - 1) * 0.5
        gaps.append(now)
        now += dead
    looked(one, [now])
    told = points(one)

    assert len(told) <= room
    for (before, _), (after, _) in pairwise(seen(told)):
        is_gap = any(before <= at < after for at in gaps)
        assert any(math.isnan(value) for at, value in told if before < at < after) == is_gap


@given(st.floats(0.02, 900.0), st.lists(st.floats(1.0, 3.9), min_size=1, max_size=200))
def test_what_is_seen_seldom_or_out_of_step_has_no_gap(pace: float, paces: list[float]) -> None:
    one, now = trace(), 0.0
    for times in paces:
        now += pace * times
        one.take(now, now, now)

    assert seen(points(one)) == points(one)


@given(st.lists(st.floats(0.001, 1.4), min_size=20, max_size=200))
def test_looks_that_overlap_have_no_gap(times: list[float]) -> None:
    sight = Sight()
    looks = sorted((n * 0.5 + took, n * 0.5) for n, took in enumerate(times))
    for at, asked in looks:
        sight.record([Observation("m", "web", "work_seconds", at)], at, asked)
    found = sight.trace("web", "work_seconds")

    assert found is not None
    assert seen(points(found)) == points(found)


def test_an_answer_that_took_long_is_no_gap_for_it_was_looked_at_all_the_while() -> None:
    sight, now = Sight(), 0.0
    for look in range(60):
        took = 5.0 if look % 20 == 19 else 0.01
        sight.record([Observation("m", "web", "work_up", float(took < 1))], now + took, now)
        now += took + 0.5
    found = sight.trace("web", "work_up")

    assert found is not None
    assert seen(points(found)) == points(found)


def test_a_slow_monitor_may_begin_out_of_its_pace_and_look_often_for_a_while() -> None:
    one = trace()
    looked(one, [0.0, 0.2, 1.3, *(60.0 * n for n in range(1, 20))])
    looked(one, (1140.0 + 0.5 * n for n in range(1, 8)))  # for a proof
    looked(one, (1144.0 + 2.0 * n for n in range(28)))
    looked(one, (60.0 * n for n in range(21, 30)))

    assert seen(points(one)) == points(one)


def test_a_service_that_dies_again_and_again_has_a_gap_each_time() -> None:
    one = trace()
    for bout in range(20):
        looked(one, (bout * 30.0 + n * 0.5 for n in range(30)))

    assert sum(math.isnan(value) for value in one.values) == 19


def test_after_a_few_looks_at_a_slower_pace_it_is_the_usual_one() -> None:
    one = trace()
    looked(one, (n * 0.5 for n in range(100)))
    looked(one, (60.0 + n * 10.0 for n in range(50)))
    late = [at for at, value in points(one) if math.isnan(value)]

    assert len(late) == NEW_PACE - 1
    assert max(late) < 60.0 + NEW_PACE * 10.0


def test_one_that_was_late_does_not_hide_a_death_soon_after_it() -> None:
    one = trace()
    looked(one, (n * 0.5 for n in range(100)))
    looked(one, (51.4 + n * 0.5 for n in range(20)))
    looked(one, (66.0 + n * 0.5 for n in range(20)))

    assert [at for at, value in points(one) if math.isnan(value)] == [pytest.approx(60.9 + BEHIND)]


def test_a_gap_longer_than_the_span_in_a_full_trace_is_bounded_and_told() -> None:
    for looks in range(45, 52):
        one = trace(48)
        looked(one, (n * 0.5 for n in range(looks)))
        looked(one, [SPAN * 3])

        assert len(one.ats) <= 48
        assert points(one)[-1] == (SPAN * 3, SPAN * 3 % 7)
        assert not joined(points(one)[-2:])


# All of them


def test_twenty_thousand_series_are_bounded_and_those_under_care_come_first() -> None:
    cared = [Subject(f"cared{n}") for n in range(100)]
    sight = Sight({subject.name: subject for subject in cared})
    strangers = [Observation("m", f"pod{n}", f"metric{m}", 1.0) for n in range(2000) for m in range(10)]
    ours = [Observation("m", subject.name, f"metric{m}", 1.0) for subject in cared for m in range(10)]
    for at in range(300):
        sight.record((strangers if at < 10 else strangers[:1000]) + (ours if at else []), float(at) * 10)
    traced = [sight.trace(o.subject, o.metric) for o in (*strangers, *ours)]
    kept = [one for one in traced if one is not None and one.ats]

    assert all(sight.trace(o.subject, o.metric) is not None for o in ours)
    assert len(kept) <= MOST_SERIES
    assert sum(len(one.ats) for one in kept) <= ALL_POINTS


def test_noise_on_every_series_stays_within_the_room_of_all() -> None:
    traces = Traces()
    many = [traces.begin(("web", f"m{n}"), named=True, now=0.0) for n in range(MOST_SERIES)]
    assert traces.begin(("web", "one more"), named=True, now=0.0) is None
    for at in range(150):
        for one in many:
            assert one is not None
            one.take(float(at), float(at % 7), float(at))

    assert sum(len(one.ats) for one in many if one) <= ALL_POINTS


def test_a_stranger_gives_its_place_to_one_under_care_at_once_and_to_another_when_it_is_gone() -> None:
    traces = Traces(most=1)
    first = traces.begin(("pod1", "m"), named=False, now=0.0)
    assert first is not None
    first.take(0.0, 1.0, 0.0)
    assert traces.begin(("pod2", "m"), named=False, now=SPAN - 1) is None

    second = traces.begin(("pod3", "m"), named=False, now=SPAN + 1)
    assert second is not None
    assert traces.begin(("web", "m"), named=True, now=SPAN + 2) is not None
    assert traces.begin(("db", "m"), named=True, now=SPAN + 2) is None
    first.take(SPAN + 3, 1.0, SPAN + 3)
    second.take(SPAN + 3, 1.0, SPAN + 3)
    assert (len(first.ats), len(second.ats), len(traces)) == (0, 0, 1)


def test_what_is_forgotten_makes_room() -> None:
    sight = Sight({"web": Subject("web")})
    seen = [Observation("m", "web", f"metric{n}", 1.0) for n in range(MOST_SERIES + 1)]
    sight.record(seen, 1.0)
    assert sight.trace("web", f"metric{MOST_SERIES}") is None
    sight.forget(["web"])
    sight.record(seen[1:], 2.0)

    assert all(sight.trace("web", f"metric{n}") is not None for n in range(1, MOST_SERIES + 1))


def test_an_answer_to_an_older_question_is_no_point() -> None:
    sight = Sight()
    sight.record([Observation("m", "web", "work_up", 1.0)], 10.0, asked=9.5)
    sight.record([Observation("m", "web", "work_up", 0.0)], 10.2, asked=9.0)
    found = sight.trace("web", "work_up")

    assert found is not None
    assert points(found) == [(10.0, 1.0)]
