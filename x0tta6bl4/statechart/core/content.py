"""Executable content as functions: what blocks of actions do to an instance, and what they ask of its host."""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any

from x0tta6bl4.statechart.core.effect import Cancelled, Effect, Logged, Sent, Started, Stopped
from x0tta6bl4.statechart.core.event import Event
from x0tta6bl4.statechart.core.transition import (
    Activity,
    Assign,
    Block,
    Call,
    Cancel,
    Content,
    ForEach,
    Guard,
    If,
    Log,
    Raise,
    Result,
    Send,
)
from x0tta6bl4.statechart.types.base import (
    EvaluationError,
    ExpressionError,
    Type,
    byte_size,
    compile_expression,
    compile_location,
    duration_seconds,
    root_of,
)

Compiled = Callable[[Any, Any, Any], Any]
Action = Callable[[dict[str, Any], Event | None, Any], None]
Operation = Callable[[Any], None]
"""One thing done in a microstep; takes the instance."""
OWN_PROCESSOR = frozenset(
    {"", "scxml", "http://www.w3.org/TR/scxml", "http://www.w3.org/TR/scxml/#SCXMLEventProcessor"}
)
INTERNAL = "#_internal"
ROUNDS = 100_000
"""Of all loops of one macrostep together: enough for any list, not for two long ones inside each other."""


class StepFailed(Exception):
    """What was tried, and why it could not be done: the macrostep has to be taken back."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why


class SendFailed(EvaluationError):
    """An event could not be sent; the error event carries the id it was to be sent under."""

    def __init__(self, message: str, sendid: str | None, event: str = "error.execution") -> None:
        super().__init__(message)
        self.sendid = sendid
        self.event = event


class Runtime:
    """What the macrostep under way needs and nothing that outlives it; one for all instances of a thread."""

    __slots__ = ("effects", "event", "made", "now", "queue", "reachable", "rounds", "starting", "steps")

    def __init__(self) -> None:
        self.queue: deque[Event] = deque()
        """Internal events."""
        self.event: Event | None = None
        self.now: float | None = None
        """Wall-clock seconds of what is being handled, which expressions ask for by ``now()``. Set by the host before
        each call; it is the host's to keep, where a journal is to be played again."""
        self.effects: list[Effect] = []
        """What was asked of the host, who reads and clears it after each call."""
        self.starting: dict[int, bool] = {}
        """States whose activities begin when the machine has come to rest -> whether a history led there."""
        self.made: dict[str, int] = {}
        self.rounds = 0
        """That loops have made in this macrostep."""
        self.steps: list[tuple[Event | None, Any]] | None = None
        """Give it a list to be told each microstep: the event, and the Plan that was followed. Read and clear it like
        the effects; what is taken back disappears from it."""
        self.reachable: Callable[[Any, str], bool] | None = None
        """Whether a target (of an instance) exists now; without it, every target is taken for reachable."""

    def fresh(self, name: str, instance: Any) -> str:
        """An id that is the same whenever the same step is done again."""
        count = self.made[name] = self.made.get(name, 0) + 1
        return f"{name}.{instance.seq}" if count == 1 else f"{name}.{instance.seq}.{count}"


def told(error: Exception) -> str:
    text = str(error)
    return text if isinstance(error, EvaluationError) and text else f"{type(error).__name__}: {text}"


def raise_error(instance: Any, error: Exception) -> None:
    """As SCXML has it: an error is an event, and the machine goes on."""
    instance.runtime.queue.append(
        Event(
            getattr(error, "event", "error.execution"),
            {"message": told(error)},
            "platform",
            sendid=getattr(error, "sendid", None),
        )
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where content stands: what it is called in messages, and the variables seen from there by their keys."""

    what: str
    keys: Mapping[str, str]

    def called(self, what: str) -> "Place":
        return Place(what, self.keys)


class _Here:
    """What a guard or action written in Python gets to see."""

    __slots__ = ("_instance", "data", "event")

    def __init__(self, instance: Any, data: dict[str, Any]) -> None:
        self._instance = instance
        self.data = data
        self.event: Event | None = instance.runtime.event

    def is_in(self, state: str) -> bool:
        return bool(self._instance.is_in(state))

    def send(self, name: str, data: Any = None) -> None:
        self._instance.runtime.queue.append(Event(name, data, "internal"))


class Compiler:
    """Turns expressions and content of one chart into functions, and gathers what is wrong with them."""

    def __init__(
        self, *, strict: bool, rollback: bool, local: bool, lenient: tuple[str, ...], types: Mapping[str, Type]
    ) -> None:
        self.strict = strict
        self.rollback = rollback
        self.local = local
        self.lenient = lenient
        self.types = types
        self.problems: list[str] = []
        self.callables = False
        """Functions may change values in place, in spite of what they are asked: rolling back needs deep copies."""
        self.writes = False
        """Whether anything but first values is ever assigned."""
        self.asks_time = False
        """Whether an expression may call ``now()``."""

    # Expressions

    def expression(self, source: str, place: Place) -> Compiled:
        self.asks_time = self.asks_time or "now" in source
        try:
            return compile_expression(
                source,
                rename={name: key for name, key in place.keys.items() if name != key},
                lenient=self.lenient,
                names=place.keys if self.strict else None,
            )
        except ExpressionError as error:
            return self._refused(f"{place.what}: {error}")

    def _refused(self, problem: str) -> Compiled:
        if self.strict:
            self.problems.append(problem)

        def fail(data: Any, event: Any, instance: Any) -> Any:
            raise EvaluationError(problem)

        return fail

    def optional(self, source: str | None, place: Place, otherwise: Any = None) -> Compiled:
        """The expression, or the literal that it stands in for."""
        if source is not None:
            return self.expression(source, place)
        return lambda data, event, instance: otherwise

    def guard(self, guard: Guard, place: Place) -> Compiled | None:
        if guard is None:
            return None
        if isinstance(guard, str):
            return self.expression(guard, place)
        return self._function(guard, place)

    def _function(self, function: Callable[[Any], Any], place: Place) -> Compiled:
        """Local variables are stored under keys of their own: a function sees them by name, in a mapping of its own,
        from which what it assigned is carried back."""
        self.callables = True
        own = {name: key for name, key in place.keys.items() if name != key}
        typed = [(name, key, self.types[key]) for name, key in place.keys.items() if key in self.types]

        def plain(data: Any, event: Any, instance: Any) -> Any:
            return function(_Here(instance, instance.data))

        def local(data: Any, event: Any, instance: Any) -> Any:
            before = {name: data[key] for name, key in place.keys.items() if key in data}
            seen = before.copy()
            answer = function(_Here(instance, seen))
            for name, value in seen.items():
                if name not in before or before[name] is not value:
                    data[own.get(name, name)] = value
            return answer

        call = local if own else plain
        if not typed:
            return call

        def checked(data: Any, event: Any, instance: Any) -> Any:
            before = {key: data.get(key) for _, key, _ in typed}
            answer = call(data, event, instance)
            for name, key, kind in typed:
                if key in data and data[key] is not before[key] and (wrong := kind.check(data[key])):
                    data[key] = before[key]
                    raise EvaluationError(f"{name}: {wrong}")
            return answer

        return checked

    # Content

    def block(self, block: Block, place: Place) -> tuple[Action, ...]:
        return tuple(self._action(content, place) for content in block)

    def operation(self, block: Block, place: Place) -> Operation | None:
        """The block as one operation: it ends at the first action that fails."""
        actions = self.block(block, place)
        if not actions:
            return None
        what = place.what

        def run(instance: Any) -> None:
            event = instance.runtime.event
            data = instance.data
            for action in actions:
                action(data, event, instance)

        return self.guarded(run, what)

    def guarded(self, run: Operation, what: str) -> Operation:
        """Foreign expressions and functions may fail in every way there is: that is the chart's failure."""
        if self.rollback:

            def strictly(instance: Any) -> None:
                try:
                    run(instance)
                except Exception as error:
                    raise StepFailed(what, told(error)) from error

            return strictly

        def leniently(instance: Any) -> None:
            try:
                run(instance)
            except Exception as error:  # noqa: BLE001 the author's own expression or function
                raise_error(instance, error)

        return leniently

    def _action(self, content: Content, place: Place) -> Action:
        match content:
            case Raise():
                return self._raise(content, place)
            case Assign():
                return self._assign(content, place)
            case Log():
                return self._log(content, place)
            case If():
                return self._if(content, place)
            case ForEach():
                return self._for_each(content, place)
            case Send():
                return self._send(content, place)
            case Cancel():
                return self._cancel(content, place)
            case Call():
                return self._call(content, place)

    def _raise(self, content: Raise, place: Place) -> Action:
        name, value = content.event, self.optional(content.data, place)

        def run(data: Any, event: Any, instance: Any) -> None:
            instance.runtime.queue.append(Event(name, value(data, event, instance), "internal"))

        return run

    def setter(self, location: str, place: Place) -> Callable[[Any, dict[str, Any], Any], None]:
        """Puts a value into a variable or below it, checks its type, and leaves the old one where it does not fit."""
        self.writes = True
        try:
            root = root_of(location)
            put = compile_location(
                location,
                {name: key for name, key in place.keys.items() if name != key},
                names=place.keys if self.strict else None,
            )
        except ExpressionError as error:
            fail = self._refused(f"{place.what}: {error}")

            def refuse(instance: Any, data: dict[str, Any], value: Any) -> None:
                fail(data, None, instance)

            return refuse
        key = place.keys.get(root, root)
        kind = self.types.get(key)
        if kind is None:

            def assign(instance: Any, data: dict[str, Any], value: Any) -> None:
                put(data, value)
                instance.dirty = True

            return assign
        known = kind

        def assign_checked(instance: Any, data: dict[str, Any], value: Any) -> None:
            before = data.get(key)
            put(data, value)
            if wrong := known.check(data[key]):
                data[key] = before
                raise EvaluationError(f"{root}: {wrong}")
            instance.dirty = True

        return assign_checked

    def _assign(self, content: Assign, place: Place) -> Action:
        value = content.value
        compute = None if content.expression is None else self.expression(content.expression, place)
        if compute is None and not isinstance(value, str | int | float | bool | None):

            def compute(data: Any, event: Any, instance: Any) -> Any:
                return copy.deepcopy(value)

        put = self.setter(content.to, place)
        get = compute if compute is not None else self.optional(None, place, value)

        def run(data: Any, event: Any, instance: Any) -> None:
            put(instance, data, get(data, event, instance))

        return run

    def _log(self, content: Log, place: Place) -> Action:
        label, value = content.label, self.optional(content.expression, place)

        def run(data: Any, event: Any, instance: Any) -> None:
            instance.runtime.effects.append(Logged(label, value(data, event, instance)))

        return run

    def _if(self, content: If, place: Place) -> Action:
        branches = [
            (None if guard is None else self.expression(guard, place), self.block(block, place))
            for guard, block in content.branches
        ]
        rollback = self.rollback

        def run(data: Any, event: Any, instance: Any) -> None:
            for guard, actions in branches:
                try:
                    holds = guard is None or guard(data, event, instance)
                except Exception as error:
                    if rollback:
                        raise
                    raise_error(instance, error)
                    holds = False
                if holds:
                    for action in actions:
                        action(data, event, instance)
                    return

        return run

    def _for_each(self, content: ForEach, place: Place) -> Action:
        array = self.expression(content.array, place)
        names = [content.item] if content.index is None else [content.item, content.index]
        for name in names:
            if not name.isidentifier() or iskeyword(name) or name.startswith("_"):
                fail = self._refused(f"{place.what}: foreach: {name!r} is no name for a variable")
                return lambda data, event, instance: fail(data, event, instance)
        loose = [name for name in names if name not in place.keys]
        inner = Place(place.what, {**place.keys, **{name: name for name in loose}})
        actions = self.block(content.do, inner)
        item = inner.keys[content.item]
        index = None if content.index is None else inner.keys[content.index]
        kinds = [
            (name, inner.keys[name], self.types[inner.keys[name]]) for name in names if inner.keys[name] in self.types
        ]
        self.writes = True
        forgotten = loose if self.local else []

        def run(data: Any, event: Any, instance: Any) -> None:
            values = array(data, event, instance)
            if not isinstance(values, list | tuple):
                raise EvaluationError(f"foreach needs a list, not {type(values).__name__}")
            instance.dirty = True
            try:
                for number, value in enumerate(tuple(values)):
                    instance.runtime.rounds += 1
                    if instance.runtime.rounds > ROUNDS:
                        raise EvaluationError(
                            f"the loops of this step have gone {ROUNDS} rounds; make the lists shorter"
                        )
                    byte_size(value)
                    data[item] = value
                    if index is not None:
                        data[index] = number
                    for name, key, kind in kinds:
                        if wrong := kind.check(data[key]):
                            raise EvaluationError(f"{name}: {wrong}")
                    for action in actions:
                        action(data, event, instance)
            finally:
                for name in forgotten:
                    data.pop(name, None)

        return run

    def parameters(self, parameters: Iterable[tuple[str, str]], place: Place) -> Compiled:
        """The mapping of them. Measured, as all that an expression puts together: an event whose data hold the last
        one's twice, again and again, would be short in memory and endless when it is written down."""
        computed = [(name, self.expression(source, place)) for name, source in parameters]
        if not computed:
            return lambda data, event, instance: {}

        def mapping(data: Any, event: Any, instance: Any) -> Any:
            made = {name: compute(data, event, instance) for name, compute in computed}
            byte_size(made)
            return made

        return mapping

    def _send(self, content: Send, place: Place) -> Action:
        kind = self.optional(content.type_expression, place, content.type)
        target_of = self.optional(content.target_expression, place, content.target)
        name_of = self.optional(content.event_expression, place, content.event)
        delay_of = self.optional(content.delay_expression, place, content.delay)
        parameters = self.parameters(content.parameters, place)
        body = self.optional(content.content_expression, place, content.content)
        has_body = content.content_expression is not None or content.content is not None
        keep_id = None if content.id_location is None else self.setter(content.id_location, place)
        given = content.id
        events = not self.rollback
        if content.delay is not None:
            try:
                duration_seconds(content.delay)
            except (EvaluationError, ValueError) as error:
                self._refused(f"{place.what}: delay {content.delay!r}: {error}")

        def run(data: Any, event: Any, instance: Any) -> None:
            runtime = instance.runtime
            sendid = given
            if keep_id is not None:
                sendid = runtime.fresh(f"send.{instance.id}", instance)
                keep_id(instance, data, sendid)
            try:
                processor, target = kind(data, event, instance), target_of(data, event, instance)
                name, wait = name_of(data, event, instance), delay_of(data, event, instance)
                delay = 0.0 if wait is None else duration_seconds(wait)
                value: Any = parameters(data, event, instance) or None
                if has_body:
                    value = body(data, event, instance)
            except Exception as error:
                # The author's own expressions; whoever waits for this event learns by its id that it will not come.
                raise SendFailed(told(error), sendid) from error
            if processor is not None and processor not in OWN_PROCESSOR:
                raise SendFailed(f"there is no way to send events of type {processor!r}", sendid)
            if name is not None and not isinstance(name, str):
                raise SendFailed(f"an event's name is a string, not {name!r}", sendid)
            if target is not None and (not isinstance(target, str) or (events and not target.startswith("#_"))):
                raise SendFailed(f"nothing can be sent to {target!r}", sendid)
            if target == INTERNAL:
                if delay:
                    raise SendFailed("an internal event cannot be delayed", sendid)
                runtime.queue.append(Event(name or "", value, "internal", sendid=sendid))
                return
            if target is not None and runtime.reachable is not None and not runtime.reachable(instance, target):
                raise SendFailed(f"{target} cannot be reached", sendid, "error.communication")
            runtime.effects.append(Sent(name or "", target, delay, sendid, value))

        return run

    def _cancel(self, content: Cancel, place: Place) -> Action:
        id_of = self.optional(content.id_expression, place, content.id)

        def run(data: Any, event: Any, instance: Any) -> None:
            instance.runtime.effects.append(Cancelled(str(id_of(data, event, instance))))

        return run

    def _call(self, content: Call, place: Place) -> Action:
        self.writes = True
        call = self._function(content.function, place)

        def run(data: Any, event: Any, instance: Any) -> None:
            instance.dirty = True
            call(data, event, instance)

        return run

    # Larger things

    def result(self, result: Result | None, place: Place) -> Compiled | None:
        if result is None:
            return None
        if result.expression is not None:
            return self.expression(result.expression, place)
        if result.parameters:
            return self.parameters(result.parameters, place)
        value = result.value
        return lambda data, event, instance: value

    def activity(self, activity: Activity, state: int, number: int, name: str, place: Place) -> "Begin":
        kind = self.optional(activity.type_expression, place, activity.type)
        source = self.optional(activity.source_expression, place, activity.source)
        parameters = self.parameters(activity.parameters, place)
        body = self.optional(activity.content_expression, place, activity.content)
        keep_id = None if activity.id_location is None else self.setter(activity.id_location, place)
        given = activity.id

        def run(instance: Any, resumed: bool) -> None:
            runtime = instance.runtime
            data, event = instance.data, runtime.event
            started = [kind(data, event, instance), source(data, event, instance)]
            values = parameters(data, event, instance)
            content = body(data, event, instance)
            id = given or runtime.fresh(name, instance)
            if keep_id is not None:
                keep_id(instance, data, id)
            if instance.activities is None:
                instance.activities = {}
            instance.activities[id] = (state, number)
            runtime.effects.append(Started(id, name, started[0], started[1], values, content, resumed))

        return run


Begin = Callable[[Any, bool], None]


def stopping(state: int, name: str) -> Operation:
    """Ends the activities of a state that is being left."""

    def run(instance: Any) -> None:
        running = instance.activities
        if running:
            for id in [id for id, (owner, _) in running.items() if owner == state]:
                del running[id]
                instance.runtime.effects.append(Stopped(id, name))
        instance.runtime.starting.pop(state, None)

    return run
