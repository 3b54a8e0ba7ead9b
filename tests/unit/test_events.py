"""Events: typed, frozen to the bottom, in order, and readable as JSON."""

import copy
import dataclasses
import json
import os
import threading
import time
from collections import OrderedDict, deque, namedtuple
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0tta6bl4.kernel import events
from x0tta6bl4.kernel.events import MAX_DEPTH, Event, EventType

SEED_TYPES = {
    "state_change",
    "system_start",
    "system_stop",
    "system_error",
    "user_command",
    "user_query",
    "task_create",
    "task_update",
    "task_complete",
    "task_cancel",
    "response_ready",
    "health_check",
    "health_status",
}


def is_frozen(value: Any) -> bool:
    if isinstance(value, Mapping):
        return isinstance(value, MappingProxyType) and all(is_frozen(item) for item in value.values())
    if isinstance(value, tuple):
        return all(is_frozen(item) for item in value)
    return not isinstance(value, list | set | bytearray | deque)


def test_the_seed_s_types_are_all_there() -> None:
    assert {kind.value for kind in EventType} >= SEED_TYPES


def test_a_string_becomes_its_type() -> None:
    assert EventType.USER_COMMAND is Event("user_command").event_type


def test_a_misspelt_type_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no event type is called 'user_comand'; the nearest is 'user_command'"):
        Event("user_comand")


def test_an_upper_case_or_dashed_type_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"the nearest is 'health_check'"):
        EventType("HEALTH-CHECK")


def test_a_type_near_nothing_lists_them_all_and_is_cut() -> None:
    with pytest.raises(ValueError) as caught:
        EventType("9" * 100_000)

    assert "state_change" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Event)])
def test_no_field_can_be_set_or_deleted(name: str) -> None:
    event = Event(EventType.FINDING)

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, name, "other")
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(event, name)


def test_nothing_can_be_hung_onto_an_event() -> None:
    with pytest.raises((AttributeError, TypeError)):
        Event(EventType.FINDING).extra = 1  # type: ignore[attr-defined]  # that is the point


def test_data_is_read_only_however_deep() -> None:
    event = Event(EventType.FINDING, {"a": {"b": [{"c": {1, 2}}, bytearray(b"x"), deque([[1]])]}})

    assert event.data == {"a": {"b": ({"c": frozenset({1, 2})}, b"x", ((1,),))}}
    assert is_frozen(event.data)
    with pytest.raises(TypeError):
        event.data["new"] = 1  # type: ignore[index]  # that is the point
    with pytest.raises(TypeError):
        event.data["a"]["b"][0]["c"] = 1


def test_what_the_caller_changes_later_does_not_show() -> None:
    inner: list[Any] = [1]
    data: dict[str, Any] = {"inner": inner, "view": OrderedDict(x=1).keys()}
    event = Event(EventType.FINDING, data)
    inner.append(2)
    data["more"] = 1

    assert event.data == {"inner": (1,), "view": ("x",)}


def test_a_read_only_view_of_the_caller_s_mapping_is_copied_too() -> None:
    mine = {"a": 1}
    event = Event(EventType.FINDING, MappingProxyType(mine))
    mine["a"] = 2

    assert event.data == {"a": 1}


def test_a_named_tuple_keeps_its_names() -> None:
    point = namedtuple("point", "x y")
    event = Event(EventType.FINDING, {"at": point([1], 2)})

    assert event.data["at"].x == (1,)


def test_data_that_contains_itself_is_refused() -> None:
    data: dict[str, Any] = {}
    data["self"] = data

    with pytest.raises(ValueError, match="contains itself"):
        Event(EventType.FINDING, data)


def test_the_deepest_allowed_data_is_taken_and_one_level_more_is_not() -> None:
    def nested(levels: int) -> dict[str, Any]:
        return {"in": nested(levels - 1)} if levels > 1 else {}

    assert json.loads(json.dumps(Event(EventType.FINDING, nested(MAX_DEPTH)).as_dict()))["data"] == nested(MAX_DEPTH)
    with pytest.raises(ValueError, match="deeper than"):
        Event(EventType.FINDING, nested(MAX_DEPTH + 1))


def test_data_must_be_a_mapping_with_strings_for_keys() -> None:
    with pytest.raises(TypeError, match="is a mapping, not list"):
        Event(EventType.FINDING, [("a", 1)])  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="are strings, not 1"):
        Event(EventType.FINDING, {1: "a"})  # type: ignore[dict-item]  # that is the point


def test_a_source_or_id_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="source"):
        Event(EventType.FINDING, source=None)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="id"):
        Event(EventType.FINDING, event_id="")


def test_ids_sort_in_the_order_of_creation_and_are_all_different() -> None:
    ids = [Event(EventType.FINDING).event_id for _ in range(5000)]

    assert ids == sorted(ids)
    assert len(ids) == len(set(ids))
    assert all(len(each) == 30 and each.startswith("evt_") for each in ids)


def test_ids_stay_in_order_within_one_millisecond_and_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5_000_000_000_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: now)
    make = events._Ids()
    ids = [make() for _ in range(1000)]
    now -= 3_600_000_000_000
    ids += [make() for _ in range(1000)]

    assert ids == sorted(set(ids))
    now += 7_200_000_000_000
    assert ids[-1] < make()


def test_even_the_highest_chance_leaves_room_within_the_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda size: b"\xff" * size)
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    make = events._Ids()
    ids = [make() for _ in range(1000)]

    assert ids == sorted(set(ids))
    assert len({each[:14] for each in ids}) == 1


def test_ids_made_by_many_threads_at_once_are_all_different() -> None:
    make = events._Ids()
    made: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda mine=mine: mine.extend(make() for _ in range(2000))) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({each for mine in made for each in mine}) == 8000
    assert all(mine == sorted(mine) for mine in made)


def test_the_timestamp_is_aware_utc_and_now() -> None:
    before = datetime.now(UTC)
    event = Event(EventType.FINDING)

    assert before <= event.timestamp <= datetime.now(UTC)
    assert UTC is event.timestamp.tzinfo


def test_another_zone_is_turned_into_utc_and_none_is_refused() -> None:
    event = Event(EventType.FINDING, timestamp=datetime(2024, 1, 1, 3, tzinfo=timezone(timedelta(hours=3))))

    assert event.timestamp.isoformat() == "2024-01-01T00:00:00+00:00"
    with pytest.raises(ValueError, match="needs a time zone"):
        Event(EventType.FINDING, timestamp=datetime(2024, 1, 1))


def test_equal_fields_make_equal_events_with_one_hash() -> None:
    at = datetime(2024, 1, 1, tzinfo=UTC)
    one = Event(EventType.STEP, {"a": [1]}, "me", "evt_1", at)
    other = Event("step", {"a": [1]}, "me", "evt_1", at)

    assert one == other
    assert len({one, other}) == 1
    assert one != dataclasses.replace(one, data={"a": [2]})
    assert Event(EventType.STEP) != Event(EventType.STEP)


def test_a_copy_of_an_event_is_the_event() -> None:
    event = Event(EventType.STEP, {"a": [1]})

    assert copy.deepcopy(event) is event
    assert copy.copy(event) is event


def test_as_dict_is_strict_json_of_everything_a_fact_may_carry() -> None:
    @dataclasses.dataclass(frozen=True)
    class Fact:
        value: float
        because: tuple[str, ...]

    event = Event(
        EventType.FINDING,
        {
            "fact": Fact(float("nan"), ("x",)),
            "kind": EventType.STEP,
            "set": {"b", "a"},
            "raw": b"\x01\xff",
            "at": datetime(2024, 1, 1, tzinfo=UTC),
            "took": timedelta(seconds=2),
            "path": Path("/proc"),
            "error": ValueError("bad"),
            "keys": {1: "one", EventType.STEP: "step"},
        },
        event_id="evt_1",
        timestamp=datetime(2024, 1, 1, tzinfo=UTC),
    )

    assert json.loads(json.dumps(event.as_dict(), allow_nan=False)) == {
        "event_id": "evt_1",
        "event_type": "finding",
        "source": "",
        "timestamp": "2024-01-01T00:00:00+00:00",
        "data": {
            "fact": {"value": "nan", "because": ["x"]},
            "kind": "step",
            "set": ["a", "b"],
            "raw": "01ff",
            "at": "2024-01-01T00:00:00+00:00",
            "took": 2.0,
            "path": "/proc",
            "error": "ValueError: bad",
            "keys": {"1": "one", "step": "step"},
        },
    }


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_any_json_is_frozen_and_comes_back_unchanged(data: dict[str, Any]) -> None:
    event = Event(EventType.USER_COMMAND, data)

    assert is_frozen(event.data)
    assert data == json.loads(json.dumps(event.as_dict(), allow_nan=False))["data"]
