"""Writes instances and definitions down as plain JSON, and reads them back without trusting a word of it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from reprlib import Repr
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from x0tta6bl4.statechart.core.content import INTERNAL, Runtime
from x0tta6bl4.statechart.core.event import Event, Priority, catches, descriptors
from x0tta6bl4.statechart.core.machine import Chart, Instance, Node
from x0tta6bl4.statechart.core.region import COMPOUND, DEEP_HISTORY, PARALLEL, TERMINATE
from x0tta6bl4.statechart.core.state import Definition, Kind, State
from x0tta6bl4.statechart.core.tables import DefinitionError, bits
from x0tta6bl4.statechart.core.transition import Call, Content, ForEach, If, Raise, Send
from x0tta6bl4.statechart.types.base import ExpressionError, nearest, parse_type

FORMAT = 2
"""What ``snapshot`` writes. Format 1 knew neither deferred events nor change events nor numbered activities."""


class SnapshotError(ValueError):
    """A snapshot that cannot be adopted: the place in it, the value, and what would be right."""


# --- JSON ---


def shown(value: Any) -> str:
    """A value as messages quote it: short, whatever it is."""
    quoting = Repr()
    quoting.maxlevel, quoting.maxstring, quoting.maxother = 3, 60, 60
    return quoting.repr(value)


def not_json(value: Any, depth: int = 0) -> str | None:
    """Where in a value and why it is not JSON, as the end of a sentence that begins with its name; None when it is.

    Stricter than what ``json`` lets pass: a number as key or a tuple would come back as something else.
    """
    kind = value.__class__
    if kind is str or kind is int or kind is bool or value is None:
        return None
    if kind is float:
        return None if value - value == 0 else f" is {value}, which JSON does not have"
    if depth > 100:
        return " is nested more than 100 deep"
    if kind is list:
        for index, each in enumerate(value):
            if each.__class__ is not str and (wrong := not_json(each, depth + 1)) is not None:
                return f"[{index}]{wrong}"
        return None
    if kind is dict:
        for key, each in value.items():
            if key.__class__ is not str:
                return f" has the key {shown(key)}, which is no text"
            if each.__class__ is not str and (wrong := not_json(each, depth + 1)) is not None:
                return f".{key}{wrong}"
        return None
    return f" is {shown(value)}, a {kind.__name__} and no JSON value"


# Sorted keys: the same instance is the same text, however its data came about, so that texts can be compared.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


# --- snapshots ---


def snapshot(instance: Instance, timers: Iterable[Mapping[str, Any]] = (), *, is_json: bool = False) -> dict[str, Any]:
    """Everything that outlives a macrostep, as JSON values; states by their names. ``timers`` are rows of
    ``Timers.snapshot``: they travel along, and go back to ``Timers.restore`` by whoever keeps the timers.

    The data are not copied: who keeps a snapshot for longer than until the next step keeps its text. ``is_json``: the
    caller knows that they hold nothing else, as where only expressions and parsed events ever assigned to them.
    """
    chart, node, names = instance.chart, instance.node, instance.chart.names
    data = instance.data
    if not is_json and data and (wrong := not_json(data)) is not None:
        raise SnapshotError(f"data{wrong}")
    return {
        "format": FORMAT,
        "chart": chart.name,
        "version": chart.version,
        "hash": chart.hash,
        "id": instance.id,
        "running": instance.running,
        "seq": instance.seq,
        "states": list(node.names),
        "history": {
            names[chart.histories[k]]: [names[n] for n in bits(mask)] for k, mask in enumerate(instance.history) if mask
        },
        "data": data,
        "activities": {
            # The chart's own stand under no name: a state may be called like the chart.
            id: [names[state] if state else "", number]
            for id, (state, number) in (instance.activities or {}).items()
        },
        "deferred": [_event_to_json(event, f"deferred[{k}]") for k, event in enumerate(instance.deferred)],
        "when": [change.event for change in node.changes if instance.when_bits & change.bit],
        "timers": [dict(row) for row in timers],
    }


def encode(instance: Instance, timers: Iterable[Mapping[str, Any]] = ()) -> str:
    """The snapshot as text; the same state of the same instance is always the same text."""
    try:
        return _ENCODER.encode(snapshot(instance, timers))
    except (TypeError, ValueError) as error:
        if isinstance(error, SnapshotError):
            raise
        raise SnapshotError(f"timers: {error}") from error


def decode(chart: Chart, text: str | bytes, runtime: Runtime) -> Instance:
    """The other way; many instances are decoded faster by one ``Restorer``."""
    return Restorer(chart, runtime).decode(text)


def restore(chart: Chart, plain: Any, runtime: Runtime) -> Instance:
    """An instance that goes on as the one of the snapshot would have. Nothing is entered, no effect is asked for.

    Raises ``SnapshotError`` naming the place and the value of whatever is not as it must be; then there is no instance.
    """
    return Restorer(chart, runtime).restore(plain)


_KEYS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "format": int,
        "chart": str,
        "version": str,
        "hash": str,
        "id": str,
        "running": bool,
        "seq": int,
        "states": list,
        "history": dict,
        "data": dict,
        "activities": dict,
        "deferred": list,
        "when": list,
        "timers": list,
    }
)
_WORDS: Mapping[Any, str] = MappingProxyType(
    {
        str: "a text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        list: "a list",
        dict: "a mapping",
        NoneType: "nothing",
    }
)


class Restorer:
    """Restores any number of instances of one chart, and looks each configuration up only once."""

    MOST = 4096
    """Configurations kept; a chart with more of them pays for the lookup."""

    def __init__(self, chart: Chart, runtime: Runtime) -> None:
        self.chart = chart
        self.runtime = runtime
        self._nodes: dict[tuple[str, ...], tuple[Node, frozenset[str]]] = {}

    def decode(self, text: str | bytes) -> Instance:
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SnapshotError(f"snapshot: no JSON: {error}") from error
        return self.restore(plain)

    def restore(self, plain: Any) -> Instance:
        plain = _current(plain)
        self._check_identity(plain)
        chart = self.chart
        instance = Instance(chart, plain["id"], self.runtime)
        instance.running, instance.seq = plain["running"], plain["seq"]
        node, keys = self._node(plain["states"], instance.running)
        instance.node, instance.mask = node, node.mask
        data = plain["data"]
        if data:
            self._check_data(data, keys)
            instance.data = data.copy()
        elif keys and instance.running:
            raise SnapshotError(f"data: {min(keys)!r} is missing")
        if plain["history"]:
            instance.history = self._history(plain["history"])
        if plain["activities"]:
            instance.activities = self._activities(plain["activities"], node)
        if plain["deferred"]:
            instance.deferred = tuple(_event_from_json(e, f"deferred[{k}]") for k, e in enumerate(plain["deferred"]))
        if plain["when"]:
            instance.when_bits = self._when(plain["when"], node)
        for k, row in enumerate(plain["timers"]):
            _check_timer(row, f"timers[{k}]")
        return instance

    def _check_identity(self, plain: dict[str, Any]) -> None:
        chart = self.chart
        if plain["chart"] != chart.name:
            raise SnapshotError(f"chart: {plain['chart']!r} is another chart; this is {chart.name!r}")
        if plain["hash"] != chart.hash or plain["version"] != chart.version:
            raise SnapshotError(
                f"hash: {plain['hash']!r} (version {plain['version']!r}) is not this chart's, {chart.hash!r} "
                f"(version {chart.version!r}); restore it with its own, or migrate it"
            )

    def _node(self, states: list[Any], running: bool) -> tuple[Node, frozenset[str]]:
        """The configuration, and the variables that are there in it for certain."""
        try:
            key = tuple(states) if running else ()
            found = self._nodes.get(key) if running else None
        except TypeError:
            found = None
        if found is None:
            for k, name in enumerate(states):
                self._state(name, f"states[{k}]")
            node = self.chart.node(self._running(states) if running else self._ended(states))
            found = (node, self._certain(node))
            if running and len(self._nodes) < self.MOST:
                self._nodes[key] = found
        return found

    def _running(self, states: list[str]) -> int:
        try:
            return self.chart.configuration(states)
        except DefinitionError as error:
            raise SnapshotError(f"states: {shown(states)} cannot be active together: {error.problems[0]}") from error

    def _ended(self, states: list[str]) -> int:
        """What was active when the machine ended, perhaps in the middle of an entry: nothing is asked of it but that
        each state lies in the one before."""
        mask = sum(1 << self.chart.ids[name] for name in set(states))
        for n in bits(mask):
            parent = self.chart.parents[n]
            if self.chart.kinds[n] > TERMINATE or (parent and not mask >> parent & 1):
                raise SnapshotError(f"states: {self.chart.names[n]!r} cannot be active without what it lies in")
        return mask

    def _state(self, name: Any, place: str) -> int:
        found = self.chart.ids.get(name) if name.__class__ is str else None
        if found is None:
            near = nearest(name, self.chart.ids) if name.__class__ is str else ""
            raise SnapshotError(f"{place}: the chart has no state {shown(name)}{near}")
        return found

    def _certain(self, node: Node) -> frozenset[str]:
        if not node.mask:
            return frozenset()
        chart = self.chart
        local = (first.key for n in bits(node.mask) for first in chart.local_firsts.get(n, ()))
        return frozenset((*(first.key for first in chart.firsts), *local))

    def _check_data(self, data: dict[str, Any], keys: frozenset[str]) -> None:
        chart = self.chart
        wrong = not_json(data)
        if wrong is not None:
            raise SnapshotError(f"data{wrong}")
        if not chart.has_data:
            raise SnapshotError(f"data: the chart has no variables, and there is {min(data)!r}")
        if not keys <= data.keys():
            raise SnapshotError(f"data: {min(keys - data.keys())!r} is missing")
        for key, kind in chart.types.items():
            value = data.get(key)
            # Null is also the value of a variable that was not given one yet, whatever its type.
            if value is not None and (wrong := kind.check(value)):
                raise SnapshotError(f"data: {key!r} {wrong}")

    def _history(self, plain: dict[str, Any]) -> tuple[int, ...]:
        chart = self.chart
        history = list(chart.no_history)
        for name, states in plain.items():
            place = f"history.{name}"
            index = chart.history_index.get(self._state(name, "history"))
            if index is None:
                raise SnapshotError(f"history: {name!r} is a {chart.states[chart.ids[name]].kind} and no history")
            _check_type(states, list, place)
            found = [self._state(state, f"{place}[{k}]") for k, state in enumerate(states)]
            history[index] = sum(1 << n for n in set(found))
            if wrong := wrong_memory(chart, chart.histories[index], history[index]):
                raise SnapshotError(f"{place}: {wrong}")
        return tuple(history)

    def _activities(self, plain: dict[str, Any], node: Node) -> dict[str, tuple[int, int]]:
        running: dict[str, tuple[int, int]] = {}
        for id, owner in plain.items():
            place = f"activities.{id}"
            if owner.__class__ is not list or len(owner) != 2 or owner[1].__class__ is not int:
                raise SnapshotError(f"{place}: expected a state and a number, got {shown(owner)}")
            state = self._state(owner[0], place) if owner[0] != "" else 0
            if not 0 <= owner[1] < len(self.chart.activities[state]):
                raise SnapshotError(f"{place}: state {owner[0]!r} has no activity {owner[1]}")
            if state and not node.mask >> state & 1:
                raise SnapshotError(f"{place}: state {owner[0]!r} is not active")
            running[id] = (state, owner[1])
        return running

    def _when(self, plain: list[Any], node: Node) -> int:
        bits_of = {change.event: change.bit for change in node.changes}
        seen = 0
        for k, event in enumerate(plain):
            if event.__class__ is not str or event not in bits_of:
                raise SnapshotError(f"when[{k}]: no active state waits for {shown(event)}")
            seen |= bits_of[event]
        return seen


def wrong_memory(chart: Chart, history: int, mask: int) -> str | None:
    """Why this is nothing that a history can remember; None when it is."""
    parent = chart.parents[history]
    outside = mask & ~chart.descendants[parent]
    if outside:
        return (
            f"{chart.names[next(bits(outside))]!r} does not lie in {chart.names[parent]!r}, of which it is the history"
        )
    deep = chart.kinds[history] == DEEP_HISTORY
    closed = mask
    for n in bits(mask):
        if deep and not chart.atomic >> n & 1:
            return f"{chart.names[n]!r} has states of its own; a deep history remembers the innermost ones"
        for above in chart.ancestors[n]:
            if above == parent:
                break
            if not deep:
                return f"{chart.names[n]!r} is not directly in {chart.names[parent]!r}"
            closed |= 1 << above
    for n in (parent, *(bits(closed) if deep else ())):
        active = [chart.names[child] for child in chart.children[n] if closed >> child & 1]
        if chart.kinds[n] == PARALLEL and len(active) != len(chart.children[n]):
            return f"not all regions of {chart.names[n]!r} are in it"
        if chart.kinds[n] == COMPOUND and len(active) != 1:
            return f"of {chart.names[n]!r} exactly one state was active, not {', '.join(active) or 'none'}"
    return None


# --- parts of snapshots ---


def _check_type(value: Any, wanted: type[Any], place: str) -> None:
    if value.__class__ is not wanted:
        raise SnapshotError(f"{place}: expected {_WORDS[wanted]}, got {shown(value)}")


_EVENT: Mapping[str, Any] = MappingProxyType(
    {
        "data": None,
        "type": "external",
        "sendid": None,
        "origin": None,
        "origintype": None,
        "invokeid": None,
        "priority": 1,
        "id": "",
    }
)


def _event_to_json(event: Event, place: str) -> dict[str, Any]:
    wrong = not_json(event.data)
    if wrong is not None:
        raise SnapshotError(f"{place}.data{wrong}")
    plain: dict[str, Any] = {"name": event.name}
    for key, usual in _EVENT.items():
        value = int(event.priority) if key == "priority" else getattr(event, key)
        if value != usual:
            plain[key] = value
    return plain


def _event_from_json(plain: Any, place: str) -> Event:
    _check_type(plain, dict, place)
    for key, value in plain.items():
        if key not in _EVENT and key != "name":
            raise SnapshotError(f"{place}: no such key: {shown(key)}{nearest(str(key), _EVENT)}")
        if key == "data":
            if (wrong := not_json(value)) is not None:
                raise SnapshotError(f"{place}.data{wrong}")
        elif not (value is None and key in _EVENT and _EVENT[key] is None):
            _check_type(value, int if key == "priority" else str, f"{place}.{key}")
    if not plain.get("name"):
        raise SnapshotError(f"{place}.name: an event needs one")
    if plain.get("priority", 1) not in list(Priority):
        raise SnapshotError(
            f"{place}.priority: {plain['priority']} is none of {', '.join(map(str, map(int, Priority)))}"
        )
    given = {key: value for key, value in plain.items() if key not in ("name", "priority")}
    return Event(plain["name"], priority=Priority(plain.get("priority", 1)), **given)


def _check_timer(row: Any, place: str) -> None:
    _check_type(row, dict, place)
    for key in ("instance", "id"):
        _check_type(row.get(key), str, f"{place}.{key}")
    for key in ("at", "remaining"):
        if row.get(key).__class__ not in (int, float) or row[key] - row[key] != 0:
            raise SnapshotError(f"{place}.{key}: expected a number of seconds, got {shown(row.get(key))}")
    _event_from_json(row.get("event"), f"{place}.event")


# --- formats ---


def upgrade(plain: Any) -> dict[str, Any]:
    """A snapshot of format 1 as one of format 2. Then a state had one activity, which is the first one now."""
    old = _shaped(plain, 1)
    return _ordered(
        {
            **old,
            "format": 2,
            "activities": {id: [state, 0] for id, state in old["activities"].items()},
            "deferred": [],
            "when": [],
        }
    )


def downgrade(plain: Any) -> dict[str, Any]:
    """A snapshot of format 2 as one of format 1, for a daemon that is older than it; refused where it would forget."""
    new = _shaped(plain, 2)
    owners: set[str] = set()
    for id, owner in new["activities"].items():
        if owner.__class__ is not list or len(owner) != 2 or owner[1] != 0 or owner[0] in owners:
            raise SnapshotError(f"activities.{id}: format 1 has one activity a state, this is {shown(owner)}")
        owners.add(owner[0])
    for key, what in (("deferred", "deferred events"), ("when", "change events")):
        if new[key]:
            raise SnapshotError(f"{key}: format 1 has no {what}, this is {shown(new[key])}")
    kept = {key: value for key, value in new.items() if key not in ("deferred", "when")}
    return {**kept, "format": 1, "activities": {id: owner[0] for id, owner in new["activities"].items()}}


def _current(plain: Any) -> dict[str, Any]:
    if plain.__class__ is dict and plain.get("format") == 1 and plain["format"].__class__ is int:
        return upgrade(plain)
    return _shaped(plain, FORMAT)


def _ordered(plain: dict[str, Any]) -> dict[str, Any]:
    return {key: plain[key] for key in _KEYS}


def _shaped(plain: Any, wanted: int) -> dict[str, Any]:
    """A mapping that has exactly the keys of its format, with values of the right types."""
    _check_type(plain, dict, "snapshot")
    number = plain.get("format")
    if number.__class__ is not int or number != wanted:
        raise SnapshotError(f"format: expected {wanted}, got {shown(number)}; it may be of a later version")
    expected = _KEYS.keys() if wanted == FORMAT else _KEYS.keys() - {"deferred", "when"}
    if plain.keys() != expected:
        for key in plain.keys() - expected:
            raise SnapshotError(f"snapshot: no such key: {shown(key)}{nearest(str(key), _KEYS)}")
        raise SnapshotError(f"snapshot: {min(expected - plain.keys())!r} is missing")
    for key, value in plain.items():
        if value.__class__ is not _KEYS[key]:
            _check_type(value, _KEYS[key], key)
    return cast(dict[str, Any], plain)


# --- definitions ---


def definition_to_json(definition: Definition) -> dict[str, Any]:
    """The definition as plain JSON; what has its default is left out, so that a field of tomorrow changes no hash.

    Raises ``DefinitionError`` with the places of everything that JSON cannot hold: functions, above all.
    """
    problems: list[str] = []
    plain = _fields_to_json(definition, "chart", problems)
    if problems:
        raise DefinitionError(tuple(problems))
    return plain


def _fields_to_json(item: Any, place: str, problems: list[str]) -> dict[str, Any]:
    # People look for a state by its id, not by the numbers of its ancestors.
    place = f"state {item.id!r}" if isinstance(item, State) and item.id else place
    plain: dict[str, Any] = {}
    for field in fields(item):
        value = getattr(item, field.name)
        if value != field.default or type(value) is not type(field.default):
            plain[field.name] = _value_to_json(value, f"{place}: {field.name}", problems)
    return plain


def _value_to_json(value: Any, place: str, problems: list[str]) -> Any:
    if isinstance(value, Call) or callable(value):
        function = value.function if isinstance(value, Call) else value
        name = getattr(function, "__qualname__", repr(function))
        problems.append(f"{place}: {name} is a Python function; only expressions can be written down")
        return None
    if is_dataclass(value):
        plain = _fields_to_json(value, place, problems)
        return {"action": type(value).__name__.lower(), **plain} if isinstance(value, get_args(Content)) else plain
    if type(value) is tuple:
        return [_value_to_json(each, f"{place}[{index}]", problems) for index, each in enumerate(value)]
    if isinstance(value, Kind):
        return str(value)
    wrong = not_json(value)
    if wrong is not None:
        problems.append(f"{place}{wrong}")
    return value


def definition_from_json(plain: Any) -> Definition:
    """The other way. Raises ``DefinitionError`` naming every unknown key and every value of the wrong type."""
    reading = _Reading()
    definition = reading.made(Definition, plain, "chart", 0)
    if reading.problems:
        raise DefinitionError(tuple(reading.problems))
    return cast(Definition, definition)


class _Reading:
    """Reads along the annotations of the dataclasses, so that a new field needs no second description here."""

    DEPTH = 64
    """States in states and branches in branches; deeper ones would end in a ``RecursionError`` somewhere else."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._hints: dict[type[Any], dict[str, Any]] = {}
        self._contents = {each.__name__.lower(): each for each in get_args(Content) if each is not Call}

    def made(self, cls: type[Any], plain: Any, place: str, depth: int) -> Any:
        if type(plain) is not dict or depth > self.DEPTH:
            expected = f"at most {self.DEPTH} levels" if depth > self.DEPTH else "a mapping"
            self.problems.append(f"{place}: expected {expected}, got {shown(plain)}")
            return None
        if cls is State and type(plain.get("id")) is str and plain["id"]:
            place = f"state {plain['id']!r}"
        hints = self._hints.get(cls) or self._hints.setdefault(cls, get_type_hints(cls))
        for key in plain:
            if key not in hints:
                self.problems.append(f"{place}: no such key: {shown(key)}{nearest(str(key), hints)}")
        missing = [
            each.name
            for each in fields(cls)
            if each.name not in plain and each.default is each.default_factory is MISSING
        ]
        if missing:
            self.problems.append(f"{place}: {', '.join(missing)} must be given")
            return None
        found = {k: self.value(hints[k], v, f"{place}: {k}", depth + 1) for k, v in plain.items() if k in hints}
        return cls(**found)

    def value(self, wanted: Any, plain: Any, place: str, depth: int) -> Any:
        if wanted is Any:
            return plain
        origin, parts = get_origin(wanted), get_args(wanted)
        if origin is tuple:
            return self.sequence(parts, plain, place, depth)
        if origin is Literal:
            if plain not in parts:
                self.problems.append(f"{place}: {shown(plain)} is none of {', '.join(parts)}")
            return plain
        if wanted is Kind:
            if plain in list(Kind):
                return Kind(plain)
            self.problems.append(f"{place}: {shown(plain)} is none of {', '.join(Kind)}")
            return Kind.STATE
        if wanted == Content:
            return self.content(plain, place, depth)
        choices = parts if origin in (Union, UnionType) else (wanted,)
        for choice in choices:
            if is_dataclass(choice) and plain is not None:
                return self.made(cast(type[Any], choice), plain, place, depth)
            if type(plain) is choice or (choice is float and type(plain) is int):
                return plain
        names = [_WORDS[choice] for choice in choices if choice in _WORDS]
        self.problems.append(f"{place}: expected {' or '.join(names)}, got {shown(plain)}")
        return plain

    def sequence(self, parts: tuple[Any, ...], plain: Any, place: str, depth: int) -> tuple[Any, ...]:
        each = parts[:1] * len(plain) if type(plain) is list and parts[-1] is Ellipsis else parts
        if type(plain) is not list or len(plain) != len(each):
            expected = "a list" if parts[-1] is Ellipsis else f"a list of {len(parts)}"
            self.problems.append(f"{place}: expected {expected}, got {shown(plain)}")
            return ()
        return tuple(
            self.value(part, value, f"{place}[{index}]", depth)
            for index, (part, value) in enumerate(zip(each, plain, strict=True))
        )

    def content(self, plain: Any, place: str, depth: int) -> Any:
        word = plain.get("action") if type(plain) is dict else None
        cls = self._contents.get(word) if type(word) is str else None
        if cls is None:
            words = ", ".join(self._contents)
            self.problems.append(f"{place}: expected an action called one of {words}, got {shown(plain)}")
            return None
        return self.made(cls, {k: v for k, v in plain.items() if k != "action"}, place, depth)


# --- versions of a chart ---


@dataclass(frozen=True, slots=True)
class Compatibility:
    level: Literal["exact", "compatible", "needs-migration", "breaking"]
    """``exact``: the same chart. ``compatible``: whatever state an instance is in, the new chart has it, so an empty
    migration will do. ``needs-migration``: somebody has to say where some states or values go. ``breaking``: what
    others rely on is gone, the chart's name or an event that they send."""
    reasons: tuple[str, ...] = ()


def compatibility(old: Definition, new: Definition) -> Compatibility:
    """What it takes to bring instances of one version of a chart to another, and why."""
    if old == new:
        return Compatibility("exact")
    broken, moved = _broken(old, new), _moved(old, new)
    if broken:
        return Compatibility("breaking", (*broken, *moved))
    return Compatibility("needs-migration", moved) if moved else Compatibility("compatible")


def _broken(old: Definition, new: Definition) -> tuple[str, ...]:
    reasons = [] if old.name == new.name else [f"the chart is called {new.name!r} and was called {old.name!r}"]
    if old.scoping != new.scoping:
        reasons.append(f"variables are {new.scoping} and were {old.scoping}")
    caught = _descriptors(new)
    own = _own_events(old)
    reasons += [
        f"the event {name!r} is not taken any more"
        for name in _descriptors(old)
        if name not in own and not name.startswith(("done.", "error")) and not catches(caught, name)
    ]
    return tuple(reasons)


def _descriptors(definition: Definition) -> tuple[str, ...]:
    """Each word once, in the order in which the chart has them."""
    words = (
        w for each, _ in _every_state(definition.root, None) for t in each.transitions for w in descriptors(t.event)
    )
    return tuple(dict.fromkeys(words))


def _own_events(definition: Definition) -> set[str]:
    """What the chart raises itself, and the answers of its activities: nobody outside relies on their names."""
    own = set(raised(definition))
    activities = {each.id for each, _ in _every_state(definition.root, None) if each.activities}
    own |= {word for word in _descriptors(definition) if any(word.endswith(f".{id}") for id in activities)}
    return own


def raised(definition: Definition) -> Iterator[str]:
    """The names of the internal events that the chart raises."""
    blocks = [definition.script]
    for state, _ in _every_state(definition.root, None):
        blocks += [state.on_initial, *state.entry, *state.exit, *(t.do for t in state.transitions)]
    while blocks:
        for item in blocks.pop():
            if isinstance(item, Raise) or (
                isinstance(item, Send) and item.target == INTERNAL and item.event is not None
            ):
                yield cast(str, item.event)
            elif isinstance(item, If):
                blocks += [inner for _, inner in item.branches]
            elif isinstance(item, ForEach):
                blocks.append(item.do)


def _every_state(state: State, parent: State | None) -> Iterator[tuple[State, State | None]]:
    yield state, parent
    for child in state.states:
        yield from _every_state(child, state)


def _shape(state: State) -> str:
    """What a state is to a configuration."""
    rests = [each for each in state.states if each.kind in (Kind.STATE, Kind.PARALLEL, Kind.FINAL)]
    return "composite" if state.kind is Kind.STATE and rests else str(state.kind)


_CAN_BE_SAVED = (Kind.STATE, Kind.PARALLEL, Kind.FINAL, Kind.HISTORY, Kind.DEEP_HISTORY)


def _moved(old: Definition, new: Definition) -> tuple[str, ...]:
    reasons: list[str] = []
    later = {state.id: (state, parent) for state, parent in _every_state(new.root, None) if state.id or parent is None}
    for state, parent in _every_state(old.root, None):
        if state.kind not in _CAN_BE_SAVED or (parent is not None and not state.id):
            continue
        if state.id not in later:
            reasons.append(f"state {state.id!r} is gone: say where its instances go")
            continue
        found, above = later[state.id]
        where = f"state {state.id!r}" if parent is not None else "the chart"
        if _shape(state) != _shape(found):
            reasons.append(f"{where} is {_shape(found)} and was {_shape(state)}")
        elif state.kind is Kind.PARALLEL and (regions := _new_regions(state, found)):
            reasons.append(f"{where} has new regions ({regions}): say in which of their states instances are")
        if parent is not None and above is not None and parent.id != above.id:
            reasons.append(f"{where} is in {above.id or 'the chart'!r} and was in {parent.id or 'the chart'!r}")
        kept = found.activities[: len(state.activities)]
        if [a.type for a in kept] != [a.type for a in state.activities]:
            reasons.append(f"{where} has other activities: one that runs would be lost")
        reasons += _retyped(state, found, where)
    return tuple(reasons)


def _new_regions(old: State, new: State) -> str:
    before = {each.id for each in old.states}
    return ", ".join(repr(each.id) for each in new.states if _shape(each) in _CAN_HOLD and each.id not in before)


_CAN_HOLD = ("composite", Kind.STATE, Kind.PARALLEL)


def _retyped(old: State, new: State, where: str) -> Iterator[str]:
    later = {variable.name: variable.type for variable in new.variables}
    for variable in old.variables:
        wanted = later.get(variable.name)
        if wanted is None:
            yield f"{where} has no variable {variable.name!r} any more: set or drop it"
        elif wanted not in (variable.type, "any") and not _accepts(wanted, variable.type):
            yield f"{where}: {variable.name!r} is {wanted} and was {variable.type}"


def _accepts(wanted: str, given: str) -> bool:
    try:
        return parse_type(wanted).accepts(parse_type(given))
    except ExpressionError:
        # A registered name stands in it: only the same text is surely the same type.
        return False
