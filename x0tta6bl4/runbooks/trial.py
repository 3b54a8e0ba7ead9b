"""Tries a runbook on paper: answers its actions from a script, in virtual time, and says where it goes another way."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import create_model

from x0tta6bl4.kernel.errors import ConfigError, Problem
from x0tta6bl4.kernel.facts import Incident, IncidentState, Severity
from x0tta6bl4.kernel.plugin import PluginConfig
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.units import as_seconds, show_seconds
from x0tta6bl4.runbooks.catalogue import ActionSpec, Catalogue, check, resolved
from x0tta6bl4.runbooks.compile import BUS
from x0tta6bl4.runbooks.document import Path, Runbook, given, near, pages, shown
from x0tta6bl4.runbooks.life import going_on
from x0tta6bl4.statechart.core.content import Runtime
from x0tta6bl4.statechart.core.effect import Cancelled, Effect, Ended, Faulted, Logged, Sent, Started, Stopped
from x0tta6bl4.statechart.core.event import Event
from x0tta6bl4.statechart.core.machine import Chart, Instance
from x0tta6bl4.statechart.core.state import Definition, Kind, State
from x0tta6bl4.statechart.core.tables import bits
from x0tta6bl4.statechart.core.transition import Log, Transition
from x0tta6bl4.statechart.runtime.executor import handle, new, observe, start

TAKEN = "$taken"
"""The label by which a transition tells that it was taken."""
FILE_KEYS = ("runbook", "actions", "subject", "incident", "dependencies", "tests")
TEST_KEYS = ("test", "subject", "incident", "dependencies", "script", "end", "result")
STEPS = ("do", "rollback", "choose", "event", "wait", "know", "states", "emitted", "variables")
STEP_KEYS = (*STEPS, "args", "targets", "answer", "returns", "with")
SUBJECT_KEYS = ("name", "kind", "group", "can", "depends_on", "data")
INCIDENT_KEYS = ("fault", "severity", "summary", "reopened", "passes", "data")
ANSWERS = ("done", "verified", "refuted", "failed", "refused", "unverified", "unknown")
MOST_STEPS = 10_000
"""Actions that answer themselves, one after the other, before a runbook counts as going round in circles."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a script: what is expected to be going on, and what happens next."""

    number: int
    line: int
    says: Mapping[str, Any]

    def __str__(self) -> str:
        return f"step {self.number}"


@dataclass(frozen=True, slots=True)
class Trial:
    """One way through a runbook."""

    name: str
    runbook: str
    incident: Incident
    subject: Subject
    dependencies: Mapping[str, Subject]
    script: tuple[Step, ...]
    end: str | None
    """The final state; None: it must not have ended."""
    result: Any = None
    has_result: bool = False
    place: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Trials:
    """The tests of one file."""

    runbook: str
    tests: tuple[Trial, ...]
    actions: Mapping[str, ActionSpec] = field(default_factory=dict)
    """Stand-ins for actions that no executor here offers."""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    test: str
    step: str
    expected: str
    got: str
    place: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.place}:{self.line}: {self.test}: {self.step}: expected {self.expected}, got {self.got}"


@dataclass(frozen=True, slots=True)
class Report:
    """What came of the tests of one runbook."""

    runbook: str
    tests: int
    failures: tuple[Failure, ...]
    transitions: int
    never: tuple[str, ...]
    """Transitions that no test takes, in the order of the document."""


# -- reading -----------------------------------------------------------------------------------------------------------


def read(text: str, place: str) -> Trials:
    """A file of tests. ConfigError with every mistake in it and its line."""
    found, problems = pages(text, place)
    if problems:
        raise ConfigError(problems)
    reader = _Reader(place, found[0].lines if found else {})
    trials = reader.file(found[0].value if found else None)
    if len(found) > 1:
        reader.bad((), "holds a second document ('---'); a file of tests holds one")
    if reader.problems:
        raise ConfigError(reader.problems, remedy="mend the test")
    return trials


class _Reader:
    def __init__(self, place: str, lines: Mapping[Path, int]) -> None:
        self.place = place
        self.lines = lines
        self.problems: list[Problem] = []

    def bad(self, path: Path, message: str, hint: str = "") -> None:
        where = ".".join(map(str, path)) or "the whole file"
        self.problems.append(Problem(where, message, self.place, self.line(path), hint))

    def line(self, path: Path) -> int:
        return next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 1)

    def mapping(self, value: Any, path: Path, keys: Sequence[str] | None) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.bad(path, f"should be a mapping (got {shown(value)})")
            return {}
        for key in value:
            if keys is not None and key not in keys:
                self.bad((*path, key), "no such key", near(str(key), keys))
        return {str(key): inner for key, inner in value.items() if keys is None or key in keys}

    def file(self, value: Any) -> Trials:
        raw = self.mapping(value, (), FILE_KEYS)
        for key in ("runbook", "tests"):
            if key not in raw:
                self.bad((key,), "is missing")
        actions = {
            name: self.stub(name, inner, ("actions", name))
            for name, inner in self.mapping(raw.get("actions"), ("actions",), None).items()
        }
        entries = raw.get("tests")
        if not isinstance(entries, list):
            if "tests" in raw:
                self.bad(("tests",), f"should be a list of tests (got {shown(entries)})")
            entries = []
        tests = tuple(self.test(entry, raw, ("tests", number)) for number, entry in enumerate(entries))
        return Trials(str(raw.get("runbook", "")), tests, actions, self.place)

    def stub(self, name: str, value: Any, path: Path) -> ActionSpec:
        raw = self.mapping(value, path, ("args", "blast", "on_unknown", "idempotent", "undo"))
        args = raw.get("args", [])
        if not isinstance(args, list):
            self.bad((*path, "args"), "should be a list of names")
            args = []
        fields: dict[str, Any] = {str(arg): (Any, None) for arg in args}
        for key, valid in (
            ("blast", ("none", "process", "service", "host", "cluster")),
            ("on_unknown", ("retry", "probe", "ask")),
        ):
            if key in raw and raw[key] not in valid:
                self.bad((*path, key), f"should be one of {', '.join(valid)} (got {shown(raw[key])})")
        return ActionSpec(
            name,
            create_model(f"{name} arguments", __base__=PluginConfig, **fields),
            idempotent=raw.get("idempotent", True) is True,
            undo=str(raw.get("undo", "")),
            on_unknown=raw.get("on_unknown", "probe"),
            blast=raw.get("blast", "service"),
        )

    def test(self, value: Any, file: Mapping[str, Any], path: Path) -> Trial:
        raw = self.mapping(value, path, TEST_KEYS)
        for key in ("test", "script"):
            if key not in raw:
                self.bad((*path, key), "is missing")
        subject = self.both(file, raw, "subject", path, SUBJECT_KEYS)
        below = self.both(file, raw, "dependencies", path, None)
        dependencies = {
            name: self.subject({"name": name, **self.mapping(inner, (*path, "dependencies", name), SUBJECT_KEYS)}, path)
            for name, inner in below.items()
        }
        steps = raw.get("script", [])
        if not isinstance(steps, list):
            self.bad((*path, "script"), "should be a list of steps")
            steps = []
        return Trial(
            name=str(raw.get("test", "")),
            runbook=str(file.get("runbook", "")),
            incident=self.incident(self.both(file, raw, "incident", path, INCIDENT_KEYS), subject, path),
            subject=self.subject({"depends_on": list(dependencies), **subject}, path),
            dependencies=dependencies,
            script=tuple(self.step(n, step, (*path, "script", n - 1)) for n, step in enumerate(steps, 1)),
            end=None if raw.get("end") is None else str(raw["end"]),
            result=raw.get("result"),
            has_result="result" in raw,
            place=self.place,
            line=self.line(path),
        )

    def both(
        self, file: Mapping[str, Any], test: Mapping[str, Any], key: str, path: Path, keys: Sequence[str] | None
    ) -> dict[str, Any]:
        """What stands at the top is for all tests; what a test says itself counts more."""
        return {**self.mapping(file.get(key), (key,), keys), **self.mapping(test.get(key), (*path, key), keys)}

    def subject(self, raw: Mapping[str, Any], path: Path) -> Subject:
        can = raw.get("can", [])
        controller = can if isinstance(can, Mapping) else {verb: f"process.{verb}" for verb in can}
        return Subject(
            name=str(raw.get("name", "web")),
            kind=str(raw.get("kind", "process")),
            group=str(raw.get("group", "")),
            depends_on=tuple(map(str, raw.get("depends_on", ()))),
            controller={str(verb): str(action) for verb, action in controller.items()},
            data=self.mapping(raw.get("data"), (*path, "subject", "data"), None),
        )

    def incident(self, raw: Mapping[str, Any], subject: Mapping[str, Any], path: Path) -> Incident:
        here = (*path, "incident")
        if "fault" not in raw:
            self.bad((*here, "fault"), "is missing: what is wrong?")
        severity = raw.get("severity", "major")
        if severity not in list(Severity):
            self.bad((*here, "severity"), f"should be one of {', '.join(Severity)} (got {shown(severity)})")
            severity = "major"
        return Incident(
            id="inc-of-a-test",
            subject=str(subject.get("name", "web")),
            fault=str(raw.get("fault", "")),
            state=IncidentState.OPEN,
            severity=Severity(severity),
            summary=str(raw.get("summary", "")),
            opened_at=0.0,
            updated_at=0.0,
            reopened=int(raw.get("reopened", 0)),
            passes=int(raw.get("passes", 0)),
            data=self.mapping(raw.get("data"), (*here, "data"), None),
        )

    def step(self, number: int, value: Any, path: Path) -> Step:
        raw = self.mapping(value, path, STEP_KEYS)
        if not any(key in raw for key in STEPS):
            self.bad(path, f"says nothing; it should have one of {', '.join(STEPS)}")
        if raw.get("answer", "done") not in ANSWERS:
            self.bad((*path, "answer"), f"should be one of {', '.join(ANSWERS)}", near(str(raw["answer"]), ANSWERS))
        if "wait" in raw:
            try:
                as_seconds(raw["wait"])
            except ValueError as error:
                self.bad((*path, "wait"), f"{error} (got {shown(raw['wait'])})")
        happens = [key for key in ("do", "rollback", "event", "wait", "know", "choose") if key in raw]
        if len(happens) > 1:
            self.bad(path, f"says {' and '.join(happens)}; make a step of each")
        return Step(number, self.line(path), raw)


# -- trying ------------------------------------------------------------------------------------------------------------


def run(trials: Iterable[Trials], book: Runbook, offered: Catalogue | None = None) -> Report:
    """All tests of one runbook, and which of its transitions none of them took. ``offered``: what the executors can do;
    stand-ins come beside it, and before it where the names are the same."""
    definition, labels = _marked(book.definition)
    chart = Chart(definition)
    failures: list[Failure] = []
    taken: set[str] = set()
    count = 0
    for file in trials:
        if file.actions:
            failures += [
                Failure(p.where, "the runbook's actions", "what the test's `actions` say", p.message, file.place, 1)
                for p in check(book, {**(offered or {}), **file.actions})
            ]
        for test in file.tests:
            count += 1
            attempt = _Attempt(test, book, chart)
            failures += attempt.failures()
            taken |= attempt.taken
    never = tuple(label for tag, label in labels.items() if tag not in taken)
    return Report(book.name, count, tuple(failures), len(labels), never)


class _Differs(Exception):
    """The runbook does not do what the step says."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(expected, got)
        self.expected = expected
        self.got = got


class _Attempt:
    """One test, played."""

    def __init__(self, test: Trial, book: Runbook, chart: Chart) -> None:
        self.test = test
        self.book = book
        self.instance: Instance = new(chart, test.incident.id, Runtime())
        self.now = 0.0
        self.taken: set[str] = set()
        self.running: dict[str, Started] = {}
        self.timers: list[tuple[float, int, Sent]] = []
        self.paused: dict[str, float | None] = {}
        """What is left of timers that wait for a return to their states; None: they have come."""
        self.waiting: list[Event] = []
        self.emitted: list[tuple[str, Any]] = []
        self.faults: list[str] = []
        """What of the runbook itself failed on the way."""
        self.ended: Ended | None = None
        self._armed = 0

    def failures(self) -> list[Failure]:
        told = given(self.test.incident, self.test.subject)
        self.instance.runtime.now = self.now
        step: Step | None = None
        try:
            if not self.book.trigger.fits(told):
                raise _Differs("an incident that the runbook is for", f"one that it is not for ({told['incident']})")
            start(self.instance, told)
            self._happened("$start")
            for step, following in zip(self.test.script, [*self.test.script[1:], None], strict=True):
                if step.number == 1 and "choose" not in step.says:
                    self._settle()
                self._play(step.says)
                if following is None or "choose" not in following.says:
                    self._settle()
                self._compare(step.says)
            step = None
            if not self.test.script:
                self._settle()
            self._compare_end()
        except _Differs as differs:
            where = "the end" if step is None else str(step)
            line = self.test.line if step is None else step.line
            return [Failure(self.test.name, where, differs.expected, differs.got, self.test.place, line)]
        return []

    # what happens

    def _play(self, says: Mapping[str, Any]) -> None:
        if "do" in says:
            self._act(says)
        elif "rollback" in says:
            found = self._one("rollback", "a rollback")
            self._answer(found, {"done": "done", "unknown": "unknown"}.get(str(says["rollback"]), "failed"), "", {})
        elif "choose" in says:
            self._choose(self._one("choose", "a choice among rungs"), str(says["choose"]))
        elif "event" in says:
            self._tell(Event(str(says["event"]), says.get("with")))
        elif "know" in says:
            for name, values in (says["know"] or {}).items():
                self.instance.data[name] = {**(self.instance.data.get(name) or {}), **values}
            observe(self.instance)
            self._happened("know")
        elif "wait" in says:
            self._wait(as_seconds(says["wait"]))

    def _act(self, says: Mapping[str, Any]) -> None:
        wanted = says["do"] if isinstance(says["do"], list) else [says["do"]]
        found = next((act for act in self.running.values() if act.type == "act" and self._is(act, wanted)), None)
        if found is None:
            raise _Differs(" and ".join(map(str, wanted)), self._going_on())
        args = found.parameters.get("args") or []
        expected = says.get("args")
        if expected is not None:
            expected = expected if isinstance(expected, list) else [expected]
            if args != expected:
                raise _Differs(f"the arguments {expected}", f"{args}")
        if "targets" in says and (got := [r.target for r in self._resolved(found)]) != says["targets"]:
            raise _Differs(f"the targets {says['targets']}", f"{got}")
        answer = says.get("answer")
        if answer is None:
            return
        proves = found.content["expect"] is not None
        if answer == "verified" and not proves:
            raise _Differs("an action that is proved", f"{wanted[-1]}, which nothing proves (answer: done)")
        good = ("verified", "done") if proves else ("done", "unverified")
        outcome = {"done": "verified" if proves else "unverified", "unknown": "unverified"}.get(answer, answer)
        word = "unknown" if answer == "unknown" else "done" if answer in good else "failed"
        self._answer(found, word, outcome, says.get("returns") or {})

    def _answer(self, act: Started, word: str, outcome: str, returned: Mapping[str, Any]) -> None:
        data = {
            "outcome": outcome or ("verified" if word == "done" else "failed"),
            "detail": f"it was {word}",
            **returned,
        }
        self.running.pop(act.id, None)
        self._tell(Event(f"{word}.act.{act.state}", data, invokeid=act.id))

    def _settle(self) -> None:
        """Choices are made in written order where the script does not say, and what cannot be done here is refused."""
        for _ in range(MOST_STEPS):
            choice = next((act for act in self.running.values() if act.type == "choose"), None)
            if choice is not None:
                self._choose(choice, None)
                continue
            refused = next((a for a in self.running.values() if a.type == "act" and not self._resolved(a)), None)
            if refused is None:
                return
            self._answer(refused, "failed", "refused", {"detail": f"{self.test.subject.name} has nothing that does it"})
        raise _Differs("a runbook that comes to rest", f"one that goes round in circles in {self._states()}")

    def _choose(self, choice: Started, wanted: str | None) -> None:
        left, is_open = choice.parameters["left"], choice.parameters["open"]
        rungs = [
            rung["state"]
            for rung in choice.content["rungs"]
            if rung["state"] in left
            and is_open[rung["state"]]
            and all(
                resolved(a, self.test.subject, self.test.dependencies, self.test.incident.fault)
                for a in rung["actions"]
            )
        ]
        if wanted is not None and wanted not in rungs:
            raise _Differs(f"the rung {wanted}", f"a choice of {', '.join(rungs) or 'nothing'}")
        self.running.pop(choice.id, None)
        if rungs:
            data = {"rung": wanted or rungs[0], "because": "the test chose"}
            self._tell(Event(f"done.act.{choice.state}", data, invokeid=choice.id))
        else:
            data = {"outcome": "failed", "detail": "nothing is left"}
            self._tell(Event(f"failed.act.{choice.state}", data, invokeid=choice.id))

    def _wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.timers and min(self.timers)[0] <= until:
            timer = min(self.timers)
            self.timers.remove(timer)
            self._at(timer[0])
            self._tell(Event(timer[2].event, timer[2].data))
        self._at(until)

    def _at(self, now: float) -> None:
        """Time in a test begins at 0, also for expressions."""
        self.now = self.instance.runtime.now = now

    def _tell(self, event: Event) -> None:
        if self.ended is not None:
            raise _Differs("a runbook that goes on", f"one that has ended in {self.ended.state}")
        handle(self.instance, event)
        self._happened(event.name)

    def _happened(self, name: str) -> None:
        effects = going_on(self.instance.runtime.effects, self.paused)
        self.instance.runtime.effects.clear()
        for effect in effects:
            self._take(effect)
        for fault in effects:
            if isinstance(fault, Faulted):
                # The step was taken back whole, and the chart is told of it, as the daemon does.
                why = f"{fault.what}: {fault.why}"
                if name == "$start" or name.startswith("error."):
                    raise _Differs("a runbook that can take its own failures", f"a failure at {name}: {why}")
                self.faults.append(why)
                self._tell(Event("error.execution", {"message": why, "event": name}))
        while self.waiting and self.ended is None:
            self._tell(self.waiting.pop(0))

    def _take(self, effect: Effect) -> None:
        match effect:
            case Logged(label, value) if label == TAKEN:
                self.taken.add(value)
            case Started():
                self.running[effect.id] = effect
            case Stopped(id):
                self.running.pop(id, None)
            case Sent(event, target, _, _, data) if target == BUS:
                self.emitted.append((event, data))
            case Sent(event, _, delay, _, data) if delay <= 0:
                self.waiting.append(Event(event, data))
            case Sent(_, _, delay):
                self._armed += 1
                self.timers.append((self.now + delay, self._armed, effect))
            case Cancelled(id):
                if id in self.book.pausing:
                    self.paused[id] = next((due - self.now for due, _, sent in self.timers if sent.id == id), None)
                self.timers = [timer for timer in self.timers if timer[2].id != id]
            case Ended():
                self.ended = effect
                self.running.clear()
                self.timers.clear()
            case _:
                pass  # Forwarded: nothing here listens; Faulted: the caller sees to it

    # what is looked at

    def _one(self, kind: str, words: str) -> Started:
        for act in self.running.values():
            if act.type == kind:
                return act
        raise _Differs(words, self._going_on())

    def _resolved(self, act: Started) -> list[Any]:
        """Every action of it as it would really be done; none at all when one of them has nothing that does it."""
        found = [
            resolved(step["action"], self.test.subject, self.test.dependencies, self.test.incident.fault)
            for step in act.content["steps"]
        ]
        return [one for each in found for one in each] if all(found) else []

    def _is(self, act: Started, wanted: Sequence[Any]) -> bool:
        written = [step["action"] for step in act.content["steps"]]
        return list(wanted) in (written, [one.action for one in self._resolved(act)])

    def _going_on(self) -> str:
        failed = f" (it failed itself: {'; '.join(self.faults)})" if self.faults else ""
        return self._now() + failed

    def _now(self) -> str:
        if self.ended is not None:
            return f"the end, {self.ended.state}"
        acts = [
            " and ".join(step["action"] for step in act.content["steps"]) if act.type == "act" else str(act.type)
            for act in self.running.values()
        ]
        waits = [f"a timer of {show_seconds(due - self.now)}" for due, _, _ in sorted(self.timers)]
        return f"{', '.join([*acts, *waits]) or 'nothing'} in {self._states()}"

    def _states(self) -> str:
        chart, mask = self.instance.chart, self.instance.mask
        inner = [n for n in bits(mask) if not any(mask >> child & 1 for child in chart.children[n])]
        return ", ".join(chart.names[n] for n in inner) or "no state"

    def _compare(self, says: Mapping[str, Any]) -> None:
        if "states" in says:
            wanted = says["states"] if isinstance(says["states"], list) else [says["states"]]
            active = self.instance.configuration if self.ended is None else (str(self.ended.state),)
            if not set(wanted) <= set(active):
                raise _Differs(f"the states {', '.join(wanted)}", self._states() if self.ended is None else active[0])
        if "emitted" in says:
            found = [data for event, data in self.emitted if event == says["emitted"]]
            if not found or ("with" in says and says["with"] not in found):
                told = f" with {says['with']}" if "with" in says else ""
                raise _Differs(f"the event {says['emitted']}{told}", f"{self.emitted or 'none'}")
        for name, value in (says.get("variables") or {}).items():
            if (got := self.instance.data.get(name)) != value:
                raise _Differs(f"{name} to be {value!r}", repr(got))

    def _compare_end(self) -> None:
        test = self.test
        if test.end is None:
            if self.ended is not None:
                raise _Differs("a runbook that goes on (the test names no end)", f"the end, {self.ended.state}")
        elif self.ended is None or self.ended.state != test.end:
            raise _Differs(f"the end, {test.end}", self._going_on())
        if test.has_result and self.ended is not None and self.ended.result != test.result:
            raise _Differs(f"the result {test.result!r}", repr(self.ended.result))


# -- which transitions are taken -------------------------------------------------------------------------------------


def _marked(definition: Definition) -> tuple[Definition, dict[str, str]]:
    """The definition with transitions that tell when they are taken, and the words for each of them.

    What was not written by the runbook's author, the states for its own failures, is not counted.
    """
    labels: dict[str, str] = {}
    return replace(definition, root=_told(definition.root, labels)), labels


def _told(state: State, labels: dict[str, str]) -> State:
    if state.id.startswith("$") or state.kind in (Kind.HISTORY, Kind.DEEP_HISTORY):
        return state
    moves = tuple(_telling(state, number, move, labels) for number, move in enumerate(state.transitions))
    return replace(state, transitions=moves, states=tuple(_told(inner, labels) for inner in state.states))


def _telling(state: State, number: int, move: Transition, labels: dict[str, str]) -> Transition:
    if any(target.startswith("$") for target in move.to):
        return move
    tag = f"{state.id}#{number}"
    labels[tag] = " ".join(_words(state, move))
    return replace(move, do=(Log(TAKEN, repr(tag)), *move.do))


def _words(state: State, move: Transition) -> Iterator[str]:
    yield f"{state.id or 'everywhere'}:"
    if move.after is not None:
        yield f"after {move.after}"
    elif move.when is not None:
        yield f"when {move.when}"
    else:
        yield " or ".join(word.removesuffix(f".act.{state.id}") for word in move.event.split()) or "always"
    if move.guard is not None:
        yield f"if {move.guard}"
    yield f"-> {', '.join(move.to)}" if move.to else "-> (stays)"
