"""What happens inside the daemon, told to whoever listens: the kinds of events, and the event itself."""

import math
import os
import threading
import time
from collections.abc import ItemsView, KeysView, Mapping, MutableSequence, ValuesView
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from enum import Enum, StrEnum
from types import MappingProxyType, NoneType
from typing import Any, Self

MAX_DEPTH = 32
"""Levels of nesting that an event's data may have. Nobody reads deeper, and data that contains itself ends here."""

_NO_DATA: Mapping[str, Any] = MappingProxyType({})


class EventType(StrEnum):
    STATE_CHANGE = "state_change"
    SYSTEM_START = "system_start"
    SYSTEM_STOP = "system_stop"
    SYSTEM_ERROR = "system_error"
    USER_COMMAND = "user_command"
    USER_QUERY = "user_query"
    TASK_CREATE = "task_create"
    TASK_UPDATE = "task_update"
    TASK_COMPLETE = "task_complete"
    TASK_CANCEL = "task_cancel"
    RESPONSE_READY = "response_ready"
    HEALTH_CHECK = "health_check"
    HEALTH_STATUS = "health_status"
    OCCURRENCE = "occurrence"
    FINDING = "finding"
    INCIDENT = "incident"
    DECISION = "decision"
    STEP = "step"
    RUNBOOK = "runbook"
    FLAG_CHANGE = "flag_change"
    CONFIG_CHANGE = "config_change"
    CONDITION = "condition"
    PAUSE = "pause"
    APPROVAL = "approval"

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        import difflib  # only a mistake needs it

        # Cut: the value may come from a request's body, and the search for the nearest grows with its length.
        said = str(value)[:64]
        near = difflib.get_close_matches(said.lower().replace("-", "_"), [kind.value for kind in cls], n=1)
        hint = f"the nearest is {near[0]!r}" if near else f"there are: {', '.join(cls)}"
        raise ValueError(f"no event type is called {said!r}; {hint}")


@dataclass(frozen=True, slots=True, init=False)
class Event:
    """Something that happened, once and for all: neither it nor its data can be changed afterwards.

    Mappings, lists and sets in ``data`` are copied into read-only ones, however deep they lie; what is neither of these
    nor a plain value is carried as it is, so put only things into an event that do not change. Two events are equal
    when all their fields are; the hash is that of the id alone, because data need not be hashable.
    """

    event_type: EventType
    data: Mapping[str, Any]
    source: str
    """Who tells it."""
    event_id: str
    """Sorts by time of creation; within one process no two events compare the wrong way round."""
    timestamp: datetime
    """Aware, and in UTC."""

    def __init__(
        self,
        event_type: EventType | str,
        data: Mapping[str, Any] = _NO_DATA,
        source: str = "",
        event_id: str | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        keep = object.__setattr__
        keep(self, "event_type", event_type if type(event_type) is EventType else EventType(event_type))
        keep(self, "data", _frozen_data(data))
        if not isinstance(source, str):
            raise TypeError(f"an event's source is a string, not {type(source).__name__}")
        keep(self, "source", source)
        if event_id is None:
            event_id = _next_id()
        elif not isinstance(event_id, str) or not event_id:
            raise TypeError(f"an event's id is a string that is not empty, not {event_id!r}")
        keep(self, "event_id", event_id)
        keep(self, "timestamp", datetime.now(UTC) if timestamp is None else _in_utc(timestamp))

    def __hash__(self) -> int:
        return hash(self.event_id)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def as_dict(self) -> dict[str, Any]:
        """For API bodies, streams and records: ``json.dumps`` takes it as it is, also in its strict form."""
        return {
            "event_id": self.event_id,
            "event_type": self.event_type.value,
            "source": self.source,
            "timestamp": self.timestamp.isoformat(),
            "data": _jsonable(self.data, MAX_DEPTH),
        }


_PLAIN = frozenset({str, int, float, bool, NoneType, bytes, datetime})


def _frozen_data(data: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise TypeError(f"an event's data is a mapping, not {type(data).__name__}")
    if not data:
        return _NO_DATA
    for key in data:
        if not isinstance(key, str):
            raise TypeError(f"the keys of an event's data are strings, not {key!r}")
    frozen: Mapping[str, Any] = _frozen(data, MAX_DEPTH)
    return frozen


def _frozen(value: Any, depth: int) -> Any:
    if type(value) in _PLAIN or isinstance(value, str | bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, AbstractSet) and not isinstance(value, KeysView | ItemsView):
        # Its members are hashable, so whatever they are, they already promise not to change.
        return frozenset(value)
    if not isinstance(value, Mapping | MutableSequence | tuple | KeysView | ItemsView | ValuesView):
        return value
    if depth == 0:
        raise ValueError(f"an event's data is nested deeper than {MAX_DEPTH} levels, or contains itself")
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(item, depth - 1) for key, item in value.items()})
    items = tuple([_frozen(item, depth - 1) for item in value])
    named = getattr(type(value), "_make", None) if isinstance(value, tuple) else None
    return items if named is None else named(items)


def _in_utc(moment: datetime) -> datetime:
    if not isinstance(moment, datetime):
        raise TypeError(f"an event's timestamp is a datetime, not {type(moment).__name__}")
    if moment.utcoffset() is None:
        raise ValueError(f"an event's timestamp needs a time zone: {moment.isoformat()} has none")
    return moment.astimezone(UTC)


def _jsonable(value: Any, depth: int) -> Any:
    if isinstance(value, Enum):
        return _jsonable(value.value, depth)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # JSON has no word for these; a string is read by every client, and null would say "nothing was seen".
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime | date | time_of_day):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if depth >= 0:
        if isinstance(value, Mapping):
            return {str(_jsonable(key, -1)): _jsonable(item, depth - 1) for key, item in value.items()}
        if isinstance(value, frozenset | set):
            return sorted((_jsonable(item, depth - 1) for item in value), key=repr)
        if isinstance(value, tuple | list):
            return [_jsonable(item, depth - 1) for item in value]
        if is_dataclass(value) and not isinstance(value, type):
            return {field.name: _jsonable(getattr(value, field.name), depth - 1) for field in fields(value)}
    return str(value)


_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(high + low for high in _DIGITS for low in _DIGITS)
_SHIFTS = tuple(range(120, -1, -10))
_RANDOM_BITS = 80


class _Ids:
    """Makes ids of 48 bits of milliseconds and 80 bits of chance, as 26 digits to the base of 32.

    Within one millisecond, or when somebody set the clock back, the next id is the last one plus a random bit more:
    still in order, and two processes forked from one another do not make the same ids.
    """

    __slots__ = ("_last", "_lock")

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def __call__(self) -> str:
        milliseconds = time.time_ns() // 1_000_000
        chance = int.from_bytes(os.urandom(10), "big")
        with self._lock:
            if milliseconds > self._last >> _RANDOM_BITS:
                # The highest bit stays free, so that what is added later does not run into the next millisecond.
                value = milliseconds << _RANDOM_BITS | chance >> 1
            else:
                value = self._last + 1 + (chance & 0xFFFF_FFFF)
            self._last = value
        return "evt_" + "".join([_PAIRS[value >> shift & 1023] for shift in _SHIFTS])


# The one thing here that two daemons in one process share, on purpose: order within a process needs a common memory of
# the last id, and nothing but that order can be seen of it.
_next_id = _Ids()
