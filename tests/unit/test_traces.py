"""Traces: what a series said in the last minutes, with every extreme of it, in room that is bounded."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0tta6bl4.kernel.facts import Observation
from x0tta6bl4.kernel.sight import Sight
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.traces import (
    ALL_POINTS,
    MOST_POINTS,
    MOST_SERIES,
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


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=300))
def test_a_yes_or_no_with_few_changes_loses_none_of_them(said: list[float]) -> None:
    ats = [float(n) for n in range(len(said))]
    changes = [(a, b) for a, b in pairwise(zip(ats, said, strict=True)) if a[1] != b[1]]
    left = thinned(ats, said, 2 * len(changes) + 2)
    kept = list(zip(*left, strict=True))

    assert [(a, b) for a, b in pairwise(kept) if a[1] != b[1]] == changes


# One series


@given(lines, st.integers(16, MOST_POINTS))
def test_a_trace_is_bounded_and_has_the_latest_and_the_extremes_of_its_span(
    line: list[tuple[float, float]], room: int
) -> None:
    one = trace(room)
    ats, said = at_times(line)
    for at, value in zip(ats, said, strict=True):
        one.take(at, value)
    young = [value for at, value in zip(ats, said, strict=True) if at >= ats[-1] - SPAN]
    left = [value for at, value in points(one) if at >= ats[-1] - SPAN]

    assert len(one.ats) <= room
    assert points(one)[-1] == (ats[-1], said[-1])
    assert (min(left), max(left)) == (min(young), max(young))
    assert list(one.ats) == sorted(one.ats)


def test_a_no_of_half_a_second_is_seen_ten_minutes_later() -> None:
    one = trace()
    for tick in range(1200):
        one.take(tick * 0.5, 0.0 if tick == 10 else 1.0)

    assert [(at, value) for at, value in points(one) if 4.0 <= at <= 6.0] == [(4.5, 1.0), (5.0, 0.0), (5.5, 1.0)]


def test_what_stays_the_same_costs_little_and_a_gap_can_be_told_from_it() -> None:
    one = trace()
    for tick in range(100):
        one.take(tick * 0.5, 1.0)
    for tick in range(100):
        one.take(200 + tick * 0.5, 1.0)
    apart = [later - before for before, later in pairwise(one.ats)]

    assert len(one.ats) < 15
    assert [passed for passed in apart if passed > STRETCH] == [200 - 49.5]


def test_near_now_a_noisy_series_has_a_point_each_second_and_its_latest_peak() -> None:
    one = trace()
    for tick in range(6000):  # ten minutes, ten looks a second
        one.take(tick * 0.1, 1000.0 if tick == 5990 else tick % 7)
    ats, said = one.since(600 - 30)

    assert max(later - before for before, later in pairwise(ats)) <= 2.5
    assert max(said) == 1000.0
    assert one.ats[0] < 60


def test_what_is_seen_once_a_minute_goes_further_back_than_the_span() -> None:
    one = trace()
    for minute in range(100):
        one.take(minute * 60.0, float(minute))

    assert points(one) == [(minute * 60.0, float(minute)) for minute in range(100)]


def test_what_cannot_be_drawn_is_not_told_and_takes_no_room_for_good() -> None:
    one = trace(16)
    for at in range(100):
        one.take(float(at), math.nan if at % 2 else float(at))
    one.take(100.0, math.inf)

    assert all(map(math.isfinite, one.since(0.0)[1]))
    assert one.since(90.0)[0][-1] == 98.0
    assert len(one.ats) <= 16


def test_what_is_no_number_is_the_monitors_mistake_and_leaves_the_trace_whole() -> None:
    one = trace()
    one.take(1.0, 5.0)
    with pytest.raises(TypeError):
        one.take(2.0, "5")  # type: ignore[arg-type]  # a foreign monitor may say anything
    one.take(3.0, 6.0)

    assert points(one) == [(1.0, 5.0), (3.0, 6.0)]


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
            one.take(float(at), float(at % 7))

    assert sum(len(one.ats) for one in many if one) <= ALL_POINTS


def test_a_stranger_gives_its_place_to_one_under_care_at_once_and_to_another_when_it_is_gone() -> None:
    traces = Traces(most=1)
    first = traces.begin(("pod1", "m"), named=False, now=0.0)
    assert first is not None
    first.take(0.0, 1.0)
    assert traces.begin(("pod2", "m"), named=False, now=SPAN - 1) is None

    second = traces.begin(("pod3", "m"), named=False, now=SPAN + 1)
    assert second is not None
    assert traces.begin(("web", "m"), named=True, now=SPAN + 2) is not None
    assert traces.begin(("db", "m"), named=True, now=SPAN + 2) is None
    first.take(SPAN + 3, 1.0)
    second.take(SPAN + 3, 1.0)
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
