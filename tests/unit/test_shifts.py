"""Steps and drifts after a moment: found where there are some, and not where a series is merely as it always is."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from x0tta6bl4.judgement.shifts import (
    BLOCK,
    FORGET_AFTER,
    KEPT,
    Before,
    Floats,
    Pasts,
    Shift,
    before_read,
    before_told,
    drift,
    limit_for,
    step,
)

NAME = ("web", "work_seconds")
DAY = 86400.0
START = 10 * DAY
Shape = Callable[[Floats], Floats]


def noisy(level: float, spread: float, seed: int = 1) -> Shape:
    return lambda ats: level + spread * np.random.default_rng(seed).standard_normal(len(ats))


def told(shape: Shape, seconds: float, pace: float = 60.0, pasts: Pasts | None = None) -> tuple[Pasts, float]:
    """Pasts that have seen the shape for so long, and the time by then."""
    pasts = Pasts() if pasts is None else pasts
    ats = START + np.arange(0.0, seconds, pace)
    for at, value in zip(ats.tolist(), shape(ats).tolist(), strict=True):
        pasts.take([NAME], [value], [at], at, at)
    return pasts, START + seconds


def before(shape: Shape, seconds: float = 6 * 3600.0, pace: float = 60.0) -> tuple[Before, float]:
    pasts, at = told(shape, seconds, pace)
    found = pasts.before(NAME, at, at)
    assert found is not None
    return found, at


def after(was: Before, at: float, shape: Shape, seconds: float = 1800.0, pace: float = 60.0) -> Shift | None:
    ats = at + np.arange(-300.0, seconds, pace)
    return step(was, ats, shape(ats), at, at + 120.0, 1800.0, 1, 5.0)


def test_a_step_with_the_moment_is_found_with_its_sizes() -> None:
    was, at = before(noisy(0.02, 0.002))

    found = after(was, at, lambda ats: noisy(0.02, 0.002, 2)(ats) + 0.13 * (ats > at), 420.0)

    assert found is not None and found.kind == "step" and found.rises
    assert abs(found.level - 0.15) < 0.005 and abs(was.level - 0.02) < 0.002
    assert found.onset == at
    assert found.low < 0.02 < found.high < 0.15
    assert found.number >= found.limit > 5.0


def test_a_fall_is_found_as_well() -> None:
    was, at = before(noisy(100.0, 2.0))

    found = after(was, at, lambda ats: noisy(100.0, 2.0, 2)(ats) - 50.0 * (ats > at))

    assert found is not None and not found.rises
    assert found.low > found.level


@pytest.mark.parametrize("delay", [60.0, 600.0, 1500.0])
def test_the_onset_is_told_where_the_step_is(delay: float) -> None:
    was, at = before(noisy(10.0, 1.0))

    found = after(was, at, lambda ats: noisy(10.0, 1.0, 2)(ats) + 30.0 * (ats > at + delay), 3000.0)

    assert found is not None
    assert abs(found.onset - at - delay) <= 120.0


def test_a_step_long_after_the_moment_has_nothing_to_do_with_it() -> None:
    was, at = before(noisy(10.0, 1.0))

    assert after(was, at, lambda ats: noisy(10.0, 1.0, 2)(ats) + 30.0 * (ats > at + 2400.0), 3600.0) is None


@pytest.mark.parametrize("earlier", [120.0, 400.0, 1200.0, 2400.0])
def test_a_step_before_the_moment_was_not_made_by_it(earlier: float) -> None:
    def shape(ats: Floats) -> Floats:
        return np.asarray(noisy(10.0, 1.0)(ats) + 30.0 * (ats > START + 6 * 3600.0 - earlier))

    was, at = before(shape)

    assert after(was, at, lambda ats: noisy(40.0, 1.0, 2)(ats) - 30.0 * (ats <= at - earlier)) is None


def test_a_single_wild_value_is_no_step() -> None:
    was, at = before(noisy(10.0, 1.0))

    assert after(was, at, lambda ats: noisy(10.0, 1.0, 2)(ats) + 10_000.0 * (np.abs(ats - at - 300.0) < 1)) is None


def test_what_comes_and_goes_is_no_step() -> None:
    was, at = before(noisy(10.0, 1.0))

    assert after(was, at, lambda ats: noisy(10.0, 1.0, 2)(ats) + 20.0 * (np.arange(len(ats)) % 2)) is None


def test_values_that_have_not_settled_are_not_looked_at() -> None:
    was, at = before(noisy(10.0, 1.0))

    assert after(was, at, lambda ats: noisy(10.0, 1.0, 2)(ats) + 90.0 * ((ats > at) & (ats <= at + 120.0))) is None


def test_a_series_that_goes_on_as_it_went_has_not_changed() -> None:
    def steady(ats: Floats) -> Floats:
        return np.asarray(noisy(0.0, 0.5)(ats) + (ats - START) * 0.01)

    was, at = before(steady, 3 * 3600.0)
    ats = at + np.arange(150.0, 7000.0, BLOCK)

    assert after(was, at, steady, 3600.0) is None
    assert drift(was, ats, steady(ats), at, 1, 5.0) is None


def test_a_slope_that_was_not_there_is_a_drift() -> None:
    was, at = before(noisy(200.0, 2.0))
    ats = at + np.arange(150.0, 5400.0, BLOCK)

    found = drift(was, ats, 200.0 + (ats - at) * 0.03, at, 1, 5.0)

    assert found is not None and found.kind == "drift" and found.rises


def test_a_step_is_no_drift() -> None:
    was, at = before(noisy(200.0, 2.0))
    ats = at + np.arange(150.0, 6000.0, BLOCK)

    assert drift(was, ats, np.where(ats > at + 3000.0, 300.0, 200.0), at, 1, 5.0) is None


def test_memory_that_grows_from_nothing_to_where_it_was_is_no_drift() -> None:
    was, at = before(noisy(300.0, 3.0))
    ats = at + np.arange(150.0, 5400.0, BLOCK)

    assert drift(was, ats, 20.0 + (ats - at) * 0.05, at, 1, 5.0) is None


def test_a_job_of_each_day_is_not_blamed_on_what_came_before_it() -> None:
    def job(ats: Floats) -> Floats:
        return np.asarray(noisy(10.0, 0.5)(ats) + 40.0 * ((ats % DAY) // 3600 == 9))

    def without(ats: Floats) -> Floats:
        return noisy(10.0, 0.5)(ats)

    seconds = 2 * DAY + 8 * 3600.0 + 3000.0  # ten minutes before the third day's job
    (was, at), (other, _) = before(job, seconds), before(without, seconds)

    assert after(was, at, job, 3000.0) is None
    assert after(other, at, job, 3000.0) is not None, "in a series that never did so, it is a step"


def test_a_wild_series_needs_a_larger_step_than_a_calm_one() -> None:
    calm, at = before(noisy(100.0, 1.0))
    saw, _ = before(lambda ats: 100.0 + 40.0 * ((ats / 1700.0) % 1.0))

    def moved(ats: Floats) -> Floats:
        return noisy(130.0, 1.0, 2)(ats) - 30.0 * (ats <= at)

    assert after(calm, at, moved) is not None
    assert after(saw, at, moved) is None


def test_a_constant_series_has_changed_when_it_stands_elsewhere() -> None:
    was, at = before(lambda ats: np.full(len(ats), 8.0))

    assert after(was, at, lambda ats: np.where(ats > at, 16.0, 8.0)) is not None
    assert after(was, at, lambda ats: np.full(len(ats), 8.0)) is None


@pytest.mark.parametrize("pace", [1.0, 15.0, 60.0, 300.0])
def test_the_same_step_is_found_however_often_the_series_is_seen(pace: float) -> None:
    was, at = before(noisy(10.0, 0.5), 4 * 3600.0, pace)

    found = after(was, at, lambda ats: noisy(10.0, 0.5, 2)(ats) + 20.0 * (ats > at), 1500.0, pace)

    assert found is not None and abs(found.level - 30.0) < 1.0
    assert after(was, at, noisy(10.0, 0.5, 3), 1500.0, pace) is None


def test_more_is_asked_where_many_series_are_looked_at_and_where_little_is_known() -> None:
    assert limit_for(5.0, 1, 1000) < limit_for(5.0, 100, 1000) < limit_for(5.0, 100, 10) < limit_for(5.0, 100, 4)


def test_nothing_is_said_of_a_series_that_is_hardly_known() -> None:
    pasts, at = told(noisy(10.0, 1.0), 900.0)

    assert pasts.before(NAME, at, at) is None
    assert pasts.before(("web", "unknown"), at, at) is None


def test_what_it_was_can_be_asked_for_later() -> None:
    pasts, at = told(noisy(10.0, 1.0), 4 * 3600.0)
    then = pasts.before(NAME, at, at)
    for late in np.arange(at, at + 3000.0, 60.0).tolist():
        pasts.take([NAME], [90.0], [late], late, late)

    now = pasts.before(NAME, at, at)

    assert now is not None and then is not None
    assert now.level == pytest.approx(then.level, abs=0.2) and now.latest == pytest.approx(then.latest, abs=0.5)


def test_a_counter_counts_by_its_pace_and_may_begin_anew() -> None:
    def counted(ats: Floats) -> Floats:
        return np.asarray((ats - START) * 3.0 % 20_000.0)  # each time it is at zero its process began anew

    pasts, at = told(counted, 4 * 3600.0, pasts=Pasts(lambda metric: True))
    was = pasts.before(NAME, at, at)

    assert was is not None
    assert was.level == pytest.approx(3.0)


def test_an_earlier_value_is_not_counted_twice() -> None:
    pasts = Pasts()
    for now in np.arange(START, START + 3600.0, 15.0).tolist():
        pasts.take([NAME], [5.0], [now - now % 300.0], now, now)
    was = pasts.before(NAME, START + 3600.0, 0.0)

    assert was is not None and was.noise == 0.0


def test_all_is_as_before_after_a_restart_and_the_gap_is_one() -> None:
    pasts, at = told(noisy(10.0, 1.0), 5 * 3600.0)
    was = pasts.before(NAME, at, at)
    kept = pasts.kept(1000.0)
    again = Pasts()
    again.take_up(kept, 1000.0)
    same = again.before(NAME, at, at)
    assert was is not None and same is not None
    assert same.level == pytest.approx(was.level) and same.scale == pytest.approx(was.scale)
    assert same.blocks == was.blocks

    late = at + 1800.0  # by another clock, half an hour later
    other = Pasts()
    other.take_up(kept, 1000.0 + 5e5)
    other.take([NAME], [10.0], [late - 5e5], late - 5e5, late)
    ats, means = other.means(NAME, late - 5e5 - 1500.0, late - 5e5)

    assert len(ats) >= 4 and all(map(math.isnan, means[-3:]))
    found = other.before(NAME, at - 5e5, at)
    assert found is not None and found.level == pytest.approx(was.level, abs=0.5)


def test_what_is_kept_can_be_cut_off_or_be_of_others_and_is_refused_in_words() -> None:
    pasts, _ = told(noisy(10.0, 1.0), 3600.0)
    kept = pasts.kept(0.0)

    for wrong, words in ((kept[:-3], "should take"), (b"{}", "not what this version"), (kept[:9], "not what")):
        with pytest.raises(ValueError, match=words):
            Pasts().take_up(wrong, 0.0)


def test_series_that_are_gone_make_room_for_others() -> None:
    pasts = Pasts()
    now = START
    for turn in range(20):
        names = [(f"pod-{turn}-{n}", "x") for n in range(500)]
        for _ in range(3):
            now += DAY / 8
            pasts.take(names, [1.0] * 500, [now] * 500, now, now)
    rows = len(pasts._counters)

    assert len(pasts) <= 500 * (1 + math.ceil(FORGET_AFTER / (3 * DAY / 8)))
    assert rows < 500 * 6


def test_after_a_restart_nothing_may_be_seen_at_first() -> None:
    pasts, at = told(noisy(10.0, 1.0), 5 * 3600.0)
    again = Pasts()
    again.take_up(pasts.kept(0.0), 0.0)

    again.take([], [], [], at + 10.0, at + 10.0)

    assert NAME in again and again.before(NAME, at, at) is not None


def test_a_series_takes_less_than_four_hundred_bytes() -> None:
    pasts = Pasts()
    names = [(f"s{n}", "x") for n in range(10_000)]
    pasts.take(names, [1.0] * len(names), [START] * len(names), START, START)
    size = sum(state.nbytes for state in pasts._states.values()) + sum(count.nbytes for count in pasts._counts.values())
    size += pasts._means.nbytes + pasts._day.nbytes + pasts._counters.nbytes

    assert size / len(pasts._counters) < 400


def test_someone_who_knows_better_makes_it_wider() -> None:
    pasts, at = told(noisy(10.0, 1.0), 4 * 3600.0)
    found = pasts.widen(NAME, 8.0)
    was = pasts.before(NAME, at, at)

    assert found and not pasts.widen(("web", "unknown"), 8.0)
    assert was is not None and was.scale == pytest.approx(8.0)


def test_what_was_before_goes_through_json() -> None:
    was, _ = before(noisy(10.0, 1.0))

    same = before_read(before_told(was))

    assert repr(was) == repr(same)
    with pytest.raises(ValueError, match="24 hours"):
        before_read({**before_told(was), "day": [1.0]})


def test_the_means_go_back_as_far_as_they_are_kept() -> None:
    pasts, at = told(noisy(10.0, 1.0), 6 * 3600.0)
    ats, means = pasts.means(NAME, START, at)

    assert len(ats) == len(means) == KEPT - 1
    assert np.isfinite(means).all()
