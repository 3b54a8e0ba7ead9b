"""What is seen: the latest of everything, how long each answer has stood, and what of it proves nothing."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from x0tta6bl4.kernel.facts import Condition, Observation, Occurrence
from x0tta6bl4.kernel.sight import RECENT, Sight, View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.testing.virtual_time import run

UP = Condition("work_up", ">=", 1.0)


def up(value: float, subject: str = "web", metric: str = "work_up") -> list[Observation]:
    return [Observation("m", subject, metric, value)]


def test_each_no_wakes_and_of_the_yeses_only_the_first_after_a_no() -> None:
    sight = Sight()
    woken = [sight.record(up(value), at) for at, value in enumerate([1, 1, 0, 0, 1, 1], 10)]

    assert woken == [set(), set(), {"web"}, {"web"}, {"web"}, set()]


def test_a_plain_number_wakes_nobody_until_somebody_asks_for_it() -> None:
    sight = Sight()
    seen = [Observation("m", "web", "load1", 5.0), Observation("m", "db", "load1", 5.0)]
    assert sight.record(seen, 10) == set()

    sight.alarm_on([Condition("load1", ">", 4.0, "db")])
    assert sight.record(seen, 11) == {"db"}
    sight.alarm_on([Condition("load1", ">", 4.0)])
    assert sight.record(seen, 12) == {"web", "db"}
    sight.alarm_on([])
    assert sight.record(seen, 13) == set()


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_a_streak_tells_how_the_answers_were(answers: list[bool]) -> None:
    sight = Sight()
    for at, yes in enumerate(answers):
        sight.record(up(float(yes)), float(at))
    streak = sight.streak("web", "work_up")
    assert streak is not None

    count = next((n for n, yes in enumerate(reversed(answers)) if yes != answers[-1]), len(answers))
    last = {yes: max((at for at, y in enumerate(answers) if y is yes), default=None) for yes in (True, False)}
    assert (streak.up, streak.count, streak.since) == (answers[-1], count, len(answers) - count)
    assert (streak.last_yes, streak.last_no) == (last[True], last[False])


def test_an_answer_to_an_older_question_never_replaces_that_to_a_newer_one() -> None:
    sight = Sight()
    sight.record(up(1), 10.0, asked=9.5)
    assert sight.record(up(0), 10.2, asked=9.0) == set()

    assert sight.latest("web", "work_up") == up(1)[0]
    assert sight.asked_at("web", "work_up") == 9.5


def test_a_sign_holds_only_by_a_question_that_was_asked_since() -> None:
    sight = Sight()
    assert sight.holds(UP, "web") is None
    sight.record(up(1), 10.0, asked=9.0)

    assert sight.holds(UP, "web") is True
    assert sight.holds(UP, "web", since=9.0) is True
    assert sight.holds(UP, "web", since=9.5) is None
    sight.record(up(0), 11.0)
    assert sight.holds(UP, "web") is False
    assert sight.holds(Condition("work_up", ">=", 1.0, "db"), "web") is None


def test_not_a_number_is_no_sign_of_health() -> None:
    sight = Sight()
    sight.record(up(float("nan")), 10.0)

    assert sight.holds(UP, "web") is False
    assert sight.streak("web", "work_up").up is False  # type: ignore[union-attr]  # it was seen


def test_an_occurrence_waits_for_a_turn_about_its_subject_and_old_ones_fall_out() -> None:
    sight = Sight()
    woken = sight.happened(Occurrence("m", "web", "ended", observations=tuple(up(0, metric="process_up"))), 10.0)
    sight.happened(Occurrence("m", "db", "oom"), 10.0)

    assert woken == {"web"}
    assert sight.latest("web", "process_up") is not None
    assert [o.subject for o in sight.take_occurrences(frozenset({"web"}))] == ["web"]
    assert sight.take_occurrences(frozenset({"web"})) == ()
    assert [o.subject for o in sight.take_occurrences(None)] == ["db"]
    for n in range(3 * RECENT):
        sight.happened(Occurrence("m", "web", f"{n}"), 11.0)
    assert len(sight.recent) == len(sight.take_occurrences(None)) == RECENT


def test_blindness_keeps_its_first_reason_until_it_is_over() -> None:
    sight = Sight()
    sight.blind("m", "refused", ["web"], 10.0)
    sight.blind("m", "still refused", ["web"], 11.0)
    assert sight.blind_instances == {"m": ("refused", ("web",), 10.0)}

    sight.sees_again("m")
    sight.sees_again("never blind")
    assert sight.blind_instances == {}


def test_what_is_forgotten_is_gone_everywhere() -> None:
    sight = Sight({"web": Subject("web"), "db": Subject("db")})
    sight.record([*up(1), *up(1, "db")], 10.0)
    sight.acted("web", 10.0)
    sight.forget(["web", "never seen"])

    assert (list(sight.subjects), len(sight), sight.acted_at("web"), sight.about("web")) == (["db"], 1, None, [])


def test_the_columns_are_names_and_values_in_the_same_order() -> None:
    sight = Sight()
    sight.record(
        [Observation("m", s, metric, value) for s, metric, value in [("a", "x", 1), ("a", "y", 2), ("b", "x", 3)]], 10.0
    )
    seen = sight.columns()
    some = sight.columns(lambda metric: metric == "y")

    assert dict(zip(seen.names, seen.values, strict=True)) == {("a", "x"): 1.0, ("a", "y"): 2.0, ("b", "x"): 3.0}
    assert list(seen.ats) == [10.0] * 3
    assert (some.names, list(some.values)) == ([("a", "y")], [2.0])


def test_a_view_shows_what_the_turn_is_about() -> None:
    sight = Sight({"web": Subject("web"), "db": Subject("db")})
    sight.record([*up(1), *up(0, "db"), *up(1, "host")], 10.0)
    everything, one = View(sight, 10.0), View(sight, 10.0, frozenset({"db", "gone"}))

    assert [s.name for s in everything.subjects] == ["web", "db"]
    assert [s.name for s in one.subjects] == ["db"]
    assert [o.subject for o in everything.select("work_up")] == ["web", "db", "host"]
    assert [o.subject for o in one.select("work_up")] == ["db"]
    assert (one.in_scope("web"), one.value("web", "work_up"), one.value("web", "none")) == (False, 1.0, None)
    assert one.subject("gone").mode == "suggest"


def test_who_waits_for_a_subject_hears_of_its_next_observation_and_of_a_judgement() -> None:
    async def story() -> None:
        sight = Sight()
        waiting = asyncio.create_task(sight.wait_changed("web"))
        await asyncio.sleep(0)
        sight.record(up(1, "db"), 10.0)
        await asyncio.sleep(0.1)
        assert not waiting.done()
        sight.record([Observation("m", "web", "load1", 1.0)], 10.0)
        await waiting
        again = asyncio.create_task(sight.wait_changed("web"))
        await asyncio.sleep(0)
        sight.nudge("web")
        await again
        assert sight._listeners == {}

    run(story())
