"""Moves instances from one version of a statechart to another: planned for every state they can be in, then done."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from x0tta6bl4.statechart.core.content import Runtime
from x0tta6bl4.statechart.core.effect import Sent
from x0tta6bl4.statechart.core.machine import Chart, Instance
from x0tta6bl4.statechart.core.tables import DefinitionError, bits
from x0tta6bl4.statechart.core.transition import Activity
from x0tta6bl4.statechart.persistence.model import Configuration, reachable
from x0tta6bl4.statechart.persistence.serializer import SnapshotError, restore, shown, snapshot, wrong_memory
from x0tta6bl4.statechart.persistence.validator import Problem
from x0tta6bl4.statechart.types.base import (
    EvaluationError,
    ExpressionError,
    compile_expression,
    duration_seconds,
    nearest,
)


class MigrationRefused(ValueError):
    """The instance stays what it is; the reasons, each with its place."""

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("; ".join(self.reasons))


@dataclass(frozen=True, slots=True)
class Migration:
    """The way from one version of a chart to another, as its author writes it."""

    to: str
    """Version or hash of the chart that it leads to."""
    from_version: str = ""
    from_hash: str = ""
    """Which instances it is for. Where both are given, both must fit; where neither is, it is for all of the chart."""
    states: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Where a state went that was active or is remembered; several, where one became states of several regions. What
    is not named keeps its name. A composite state that is named takes with it what is inside it and has no way of its
    own."""
    set: Mapping[str, str] = field(default_factory=dict)
    """Variable of the new chart -> expression over data and states as they were."""
    drop: tuple[str, ...] = ()
    """Variables that are forgotten."""
    refuse_if: str | None = None
    """An expression over data and states as they were; where it holds, the instance stays."""


def migration_from_json(plain: Any) -> Migration:
    """From ``{from: VERSION or {version, hash}, to, states: {OLD: NEW or [NEW…]}, data: {set, drop}, refuse_if}``.

    Raises ``MigrationRefused`` with everything that is wrong with it.
    """
    reading = _Reading()
    whole = reading.mapping(plain, "migration", ("from", "to", "states", "data", "refuse_if"))
    since = whole.get("from", {})
    since = reading.mapping(since, "from", ("version", "hash")) if type(since) is dict else {"version": since}
    data = reading.mapping(whole.get("data", {}), "data", ("set", "drop"))
    states = reading.mapping(whole.get("states", {}), "states", None)
    sets = reading.mapping(data.get("set", {}), "data.set", None)
    if "to" not in whole:
        reading.reasons.append("to: the version that the migration leads to must be given")
    made = Migration(
        to=reading.word(whole.get("to", ""), "to"),
        from_version=reading.word(since.get("version", ""), "from"),
        from_hash=reading.word(since.get("hash", ""), "from.hash"),
        states={
            old: tuple(reading.text(each, f"states.{old}") for each in (new if type(new) is list else [new]))
            for old, new in states.items()
        },
        set={name: reading.text(source, f"data.set.{name}") for name, source in sets.items()},
        drop=tuple(reading.text(each, "data.drop") for each in reading.list(data.get("drop", []), "data.drop")),
        refuse_if=None if whole.get("refuse_if") is None else reading.text(whole["refuse_if"], "refuse_if"),
    )
    if reading.reasons:
        raise MigrationRefused(reading.reasons)
    return made


class _Reading:
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def mapping(self, plain: Any, place: str, keys: Sequence[str] | None) -> dict[str, Any]:
        if type(plain) is not dict:
            self.reasons.append(f"{place}: expected a mapping, got {shown(plain)}")
            return {}
        for key in plain:
            if type(key) is not str or (keys is not None and key not in keys):
                near = nearest(str(key), keys or ()) or f"; there are: {', '.join(keys or ('texts',))}"
                self.reasons.append(f"{place}: no such key: {shown(key)}{near}")
        return {key: value for key, value in plain.items() if type(key) is str}

    def list(self, plain: Any, place: str) -> Sequence[Any]:
        if type(plain) is list:
            return plain
        self.reasons.append(f"{place}: expected a list, got {shown(plain)}")
        return ()

    def text(self, plain: Any, place: str) -> str:
        if type(plain) is str and plain:
            return plain
        self.reasons.append(f"{place}: expected a text, got {shown(plain)}")
        return ""

    def word(self, plain: Any, place: str) -> str:
        """Versions are written as numbers, too."""
        return str(plain) if type(plain) is int or plain == "" else self.text(plain, place)


def plan(old: Chart, new: Chart, migration: Migration, *, limit: int = 20_000) -> tuple[Problem, ...]:
    """What stands in the way, for every configuration that an instance of the old chart can rest in.

    Empty: each of them has its place in the new chart, with the activities that may be running in it. Whether an
    instance's values fit is seen when it is moved; whether their types do, here.
    """
    problems = [Problem("identity", "migration", reason) for reason in _wrong_charts(old, new, migration)]
    problems += _wrong_words(old, new, migration)
    if problems:
        return tuple(problems)
    found, complete = reachable(old.definition, limit=limit)
    seen: set[str] = set()
    for configuration in found:
        for reason in _Move(old, new, migration).check(configuration):
            if reason not in seen:
                seen.add(reason)
                problems.append(Problem("migration", "migration", reason, path=configuration.path))
    if not complete:
        what = f"the old chart has more than {limit} states to rest in; not all of them were looked at"
        problems.append(Problem("limit", "migration", what, "warning"))
    return tuple(problems)


def apply(instance: Instance, new: Chart, migration: Migration, runtime: Runtime) -> Instance:
    """An instance of the new chart in the mapped state, its activities running under their ids; the old one is left as
    it was. Nothing is entered or exited. Raises ``MigrationRefused``.

    Timers are the host's: what it has goes through ``moved_timers``; what begins to wait with the move is asked for as
    ``Sent`` effects.
    """
    old = instance.chart
    reasons = _wrong_charts(old, new, migration)
    if not instance.running:
        reasons.append("it has ended")
    reasons += [str(problem) for problem in _wrong_words(old, new, migration)]
    if reasons:
        raise MigrationRefused(reasons)
    if migration.refuse_if is not None and _value(migration.refuse_if, "refuse_if", instance):
        raise MigrationRefused([f"refuse_if: `{migration.refuse_if}` holds"])
    move = _Move(old, new, migration)
    try:
        kept = snapshot(instance)
        kept["states"] = list(move.states(kept["states"]))
        kept["history"] = {name: list(states) for name, states in move.histories(kept["history"])}
        kept["activities"] = {
            id: list(move.activity(id, state, number)) for id, (state, number) in kept["activities"].items()
        }
        kept["when"] = list(move.changes(kept["when"]))
        kept["version"], kept["hash"] = new.version, new.hash
        if move.reasons:
            raise MigrationRefused(move.reasons)
        kept["data"] = move.data(kept["data"], instance)
        moved = restore(new, kept, runtime)
        _begin_waits(moved, move)
    except (SnapshotError, EvaluationError) as error:
        raise MigrationRefused([str(error)]) from error
    moved.dirty = True
    return moved


def _begin_waits(instance: Instance, move: "_Move") -> None:
    """Sends the time events of active states that nothing waited for under the old chart."""
    chart = instance.chart
    going_on = {
        f"after.{target}.{number}"
        for name in move.before
        for number, transition in enumerate(move.old.states[_number(move.old, name)].transitions)
        if transition.after is not None
        for target in move.waits(name, number)
    }
    begun = []
    for state in (0, *bits(instance.mask)):
        for number, transition in enumerate(chart.states[state].transitions):
            event, after = f"after.{chart.names[state]}.{number}", transition.after
            if after is not None and event not in going_on:
                if isinstance(after, str) and after.startswith("="):
                    after = _asked(after[1:], chart, state, instance)
                begun.append(Sent(event, None, duration_seconds(after), event, None))
    instance.runtime.effects.extend(begun)


def moved_timers(
    rows: Iterable[Mapping[str, Any]], old: Chart, new: Chart, migration: Migration
) -> list[Mapping[str, Any]]:
    """The timers of an instance that is moved, as ``Timers.snapshot`` wrote them: those of ``after`` transitions under
    the names of their new states, without those that have no place there. What is new was sent by ``apply``."""
    move = _Move(old, new, migration)
    kept: list[Mapping[str, Any]] = []
    taken: set[str] = set()
    for row in rows:
        found = _after(old, row["event"]["name"])
        if found is None:
            kept.append(row)
            continue
        for state in move.waits(*found):
            name = f"after.{state}.{found[1]}"
            # Where two states become one, the earlier of their timers is its.
            if name not in taken:
                taken.add(name)
                kept.append({**row, "id": name, "event": {**row["event"], "name": name}})
    return kept


def _number(chart: Chart, name: str) -> int:
    """Of a state; of the chart itself, if no state is called so: time and change events name it so, too."""
    return chart.ids.get(name, 0)


def _after(chart: Chart, event: str) -> tuple[str, int] | None:
    """State and number of the transition that such an event belongs to."""
    word, _, rest = event.partition(".")
    state, _, number = rest.rpartition(".")
    if word != "after" or not (state in chart.ids or state == chart.names[0]) or not number.isdecimal():
        return None
    return (state, int(number)) if _has(chart, state, int(number), "after") else None


def _has(chart: Chart, state: str, number: int, trigger: str) -> bool:
    transitions = chart.states[_number(chart, state)].transitions
    return number < len(transitions) and getattr(transitions[number], trigger) is not None


def _wrong_charts(old: Chart, new: Chart, migration: Migration) -> list[str]:
    reasons = []
    if old.name != new.name:
        reasons.append(f"chart {old.name!r} cannot become {new.name!r}")
    if migration.from_version not in ("", old.version) or migration.from_hash not in ("", old.hash):
        wanted = migration.from_version or migration.from_hash
        reasons.append(f"from: it is for {wanted!r}, this is {old.version!r} ({old.hash})")
    if migration.to not in (new.version, new.hash):
        reasons.append(f"to: it leads to {migration.to!r}, the new chart is {new.version!r} ({new.hash})")
    return reasons


def _wrong_words(old: Chart, new: Chart, migration: Migration) -> Iterator[Problem]:
    """What can be said without any instance."""
    for name, targets in migration.states.items():
        where = f"states.{name}"
        if name not in old.ids:
            yield Problem("target", where, f"the old chart has no state {name!r}{nearest(name, old.ids)}")
        for target in targets:
            if target not in new.ids:
                yield Problem("target", where, f"the new chart has no state {target!r}{nearest(target, new.ids)}")
        if not targets:
            yield Problem("target", where, "leads nowhere; name a state of the new chart")
    before, after = _keys(old), _keys(new)
    for name in migration.drop:
        if name not in before:
            yield Problem("variable", "data.drop", f"the old chart has no variable {name!r}{nearest(name, before)}")
    for name, source in migration.set.items():
        if name not in after:
            yield Problem("variable", "data.set", f"the new chart has no variable {name!r}{nearest(name, after)}")
        yield from _uncompilable(source, f"data.set.{name}", old)
    if migration.refuse_if is not None:
        yield from _uncompilable(migration.refuse_if, "refuse_if", old)
    for name, (owner, short) in before.items():
        found = _variable(name, old.names[owner], short, migration, after)
        if found is None and name not in migration.drop:
            yield Problem("variable", "data", f"the new chart has no variable {name!r}; drop it")
        elif found is not None and found not in migration.set and name not in migration.drop:
            wanted, given = new.types.get(found), old.types.get(name)
            if wanted is not None and given is not None and not wanted.accepts(given):
                yield Problem("type", "data", f"{name!r} was {given} and becomes {wanted}; set or drop it")


def _uncompilable(source: str, where: str, chart: Chart) -> Iterator[Problem]:
    try:
        compile_expression(source, lenient=chart.definition.lenient, names=chart.places[0].keys)
    except ExpressionError as error:
        yield Problem("expression", where, str(error))


def _asked(source: str, chart: Chart, state: int, instance: Instance) -> Any:
    """The value of an expression that stands in a state of the chart."""
    keys = chart.places[state].keys
    renamed = {name: key for name, key in keys.items() if name != key}
    compiled = compile_expression(source, rename=renamed, lenient=chart.definition.lenient, names=keys)
    return compiled(instance.data, None, instance)


def _value(source: str, where: str, instance: Instance) -> Any:
    try:
        return _asked(source, instance.chart, 0, instance)
    except (ExpressionError, EvaluationError) as error:
        raise MigrationRefused([f"{where}: {error}"]) from error


def _keys(chart: Chart) -> dict[str, tuple[int, str]]:
    """Key of each variable in the data -> the number of the state that it belongs to, and its name."""
    return {
        chart.places[number].keys[variable.name]: (number, variable.name)
        for number in range(chart.size)
        for variable in chart.states[number].variables
    }


def _variable(key: str, owner: str, name: str, migration: Migration, after: Mapping[str, Any]) -> str | None:
    """Where a variable is kept in the new chart: what belongs to a state alone moves with it."""
    if key != name:
        for target in migration.states.get(owner, ()):
            if f"{target}.{name}" in after:
                return f"{target}.{name}"
    return key if key in after else None


class _Move:
    """Where the parts of an instance go; what has no place is a reason."""

    def __init__(self, old: Chart, new: Chart, migration: Migration) -> None:
        self.old = old
        self.new = new
        self.migration = migration
        self.reasons: list[str] = []
        self.before: tuple[str, ...] = ()
        self._active: tuple[str, ...] = ()
        self._taken: set[tuple[str, int]] = set()

    def check(self, configuration: Configuration) -> list[str]:
        self.reasons = []
        self._taken = set()
        self.states(configuration.states)
        for _ in self.histories(configuration.history):
            pass
        for name in ("", *configuration.states):
            for number in range(len(self.old.states[_number(self.old, name)].activities)):
                self.activity(f"activity {number} of {name!r}", name, number)
        return self.reasons

    def own_targets(self, name: str) -> tuple[str, ...]:
        """The states of the new chart that one of the old chart becomes; its timers and activities go with it."""
        if name not in self.old.ids:  # the chart itself
            return (self.new.names[0],)
        return self.migration.states.get(name, (name,) if name in self.new.ids else ())

    def targets(self, name: str) -> tuple[str, ...]:
        """The same; a state that has no way of its own goes where the nearest one around it goes."""
        found = self.own_targets(name)
        if found:
            return found
        for above in self.old.ancestors[self.old.ids[name]]:
            written = self.migration.states.get(self.old.names[above])
            if written is not None:
                return written
        return ()

    def states(self, active: Sequence[str]) -> tuple[str, ...]:
        """The innermost states decide; those around them follow from where they are in the new chart."""
        self.before = (self.old.names[0], *active)
        parents = {self.old.parents[self.old.ids[name]] for name in active}
        moved: set[int] = set()
        for name in active:
            if self.old.ids[name] in parents:
                continue
            targets = self.targets(name)
            if not targets:
                self.reasons.append(f"state {name!r} has no place in the new chart; say under 'states' where it goes")
            for target in targets:
                moved |= {self.new.ids[target], *self.new.ancestors[self.new.ids[target]]}
        names = tuple(self.new.names[number] for number in sorted(moved - {0}))
        if not self.reasons:
            try:
                self.new.configuration(names)
            except DefinitionError as error:
                inner = ", ".join(name for name in active if self.old.ids[name] not in parents)
                why = "; ".join(error.problems)
                self.reasons.append(f"{inner} becomes {', '.join(names)}, in which the new chart cannot be: {why}")
        self._active = names
        return names

    def histories(self, remembered: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, tuple[str, ...]]]:
        for history, states in remembered.items():
            # A history that is gone, or nobody goes back to, needs no memory.
            for target in self.own_targets(history):
                moved = tuple(dict.fromkeys(new for name in states for new in self.targets(name)))
                lost = [name for name in states if not self.targets(name)]
                if lost:
                    self.reasons.append(
                        f"history {history!r} remembers {lost[0]!r}, which has no place in the new chart"
                    )
                    continue
                number = self.new.ids[target]
                if number not in self.new.history_index:
                    self.reasons.append(f"history {history!r} becomes {target!r}, which is no history")
                    continue
                wrong = wrong_memory(self.new, number, sum(1 << self.new.ids[name] for name in moved))
                if wrong is not None:
                    self.reasons.append(f"history {history!r} would remember what {target!r} cannot: {wrong}")
                    continue
                yield target, moved

    def activity(self, id: str, state: str, number: int) -> tuple[str, int]:
        had = self.old.states[_number(self.old, state)].activities[number]
        for target in self.own_targets(state) if state else ("",):
            there = self.new.states[_number(self.new, target)].activities
            is_there = (target in self._active or not state) and number < len(there) and _same_kind(had, there[number])
            if is_there and (target, number) not in self._taken:
                self._taken.add((target, number))
                return target, number
        where = f"state {state!r}" if state else "the chart"
        self.reasons.append(f"{id} may be running in {where}, and nothing that it becomes has the same")
        return state, number

    def waits(self, state: str, number: int) -> tuple[str, ...]:
        return tuple(each for each in self.own_targets(state) if _has(self.new, each, number, "after"))

    def changes(self, seen: Iterable[str]) -> Iterator[str]:
        """Change events of conditions that hold already, so that they are not told a second time."""
        for event in seen:
            state, _, number = event.removeprefix("when.").rpartition(".")
            for target in self.own_targets(state):
                if target in (self.new.names[0], *self._active) and _has(self.new, target, int(number), "when"):
                    yield f"when.{target}.{number}"

    def data(self, values: Mapping[str, Any], instance: Instance) -> dict[str, Any]:
        """What the variables of the new chart begin with: what is set, else what they had, else their first values."""
        before, after = _keys(self.old), _keys(self.new)
        data: dict[str, Any] = {}
        for key, value in values.items():
            found: str | None = key
            if key in before:
                owner, name = before[key]
                found = _variable(key, self.old.names[owner], name, self.migration, after)
            if found is not None and key not in self.migration.drop:
                data[found] = value
        for name, source in self.migration.set.items():
            data[name] = _value(source, f"data.set.{name}", instance)
        moved = Instance(self.new, instance.id, instance.runtime)
        moved.mask, moved.data = self.new.configuration(self._active), data
        firsts = [*self.new.firsts]
        for state in bits(moved.mask):
            firsts += self.new.local_firsts.get(state, ())
        for first in firsts:
            if first.key not in data:
                data[first.key] = first.value(moved)
        gone = {key for key, (owner, name) in after.items() if key != name and not moved.mask >> owner & 1}
        return {key: value for key, value in data.items() if key not in gone}


def _same_kind(one: Activity, other: Activity) -> bool:
    return (one.type, one.type_expression) == (other.type, other.type_expression)
