"""Checks what every plugin promises, whoever wrote it: ``check_plugin`` gives the promises that one does not keep.

For a test of your own package::

    def test_the_plugin_keeps_the_contract():
        assert check_plugin(my_module.PLUGIN, my_module, lambda: {"subject": "api"}) == []

What the plugin is *for* needs a test of its own; ``x0tta6bl4.testing.fakes`` has the outside for it.
"""

import asyncio
import functools
import inspect
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from x0tta6bl4.kernel.errors import ConfigError, ProbeFailed, StepFailed, StepRefused, StoreError
from x0tta6bl4.kernel.facts import (
    Condition,
    Finding,
    Incident,
    IncidentState,
    Observation,
    Outcome,
    Plan,
    Result,
    Severity,
    Step,
)
from x0tta6bl4.kernel.memory import Knowledge, plain
from x0tta6bl4.kernel.plugin import FAMILIES, AnyPlugin, PluginConfig, Situation, Tools, Watcher
from x0tta6bl4.kernel.sight import Sight, View
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.supervise import Failure, guarded
from x0tta6bl4.ports.alerts import Alerts
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.commands import Commands
from x0tta6bl4.ports.database import Database
from x0tta6bl4.ports.files import Files
from x0tta6bl4.ports.host import Host
from x0tta6bl4.ports.messages import Messages
from x0tta6bl4.ports.network import HttpRequest, Network
from x0tta6bl4.ports.processes import Processes, ProcessId, Program
from x0tta6bl4.ports.units import Units
from x0tta6bl4.testing.fakes import FakeClock, FakeFiles, FakeUnits, tools
from x0tta6bl4.testing.virtual_time import EPOCH, Deadlock, LoopClock, run

PORTS: Mapping[str, type] = {
    "clock": Clock,
    "host": Host,
    "processes": Processes,
    "units": Units,
    "commands": Commands,
    "network": Network,
    "files": Files,
    "messages": Messages,
    "alerts": Alerts,
    "database": Database,
}
DOING = frozenset(
    {
        "processes.start", "processes.stop", "processes.signal", "processes.kill", "processes.adopt",
        "units.act", "commands.run", "files.delete", "messages.webhook", "messages.mail", "database.write",
    }
)  # fmt: skip
"""What changes the world, or may: the rest of the ports only looks."""
TURNS = 50
"""Turns of the event loop in which something that waits for nothing must have come to its end."""
SUBJECT = "api"
SUBJECTS: Mapping[str, Subject] = {
    SUBJECT: Subject(
        SUBJECT,
        kind="process",
        mode="auto",
        depends_on=("db",),
        controller={"restart": "process.restart"},
        data={
            "program": Program(SUBJECT, ("/usr/bin/api",)),
            "unit": "api.service",
            "cleanup": [{"folder": "/var/cache/api"}],
        },
    ),
    "db": Subject("db", kind="unit", mode="auto", data={"unit": "db.service"}),
    "host": Subject("host", kind="host", mode="auto"),
}


class Touched(Exception):
    """A port was used where nothing may be touched."""


class UntouchedTools:
    """``tools`` has ports whose every call raises Touched; ``uses`` has the calls, swallowed ones too.

    With ``may_look`` the calls that only look go to a world of fakes.
    """

    def __init__(self, *, may_look: bool = False) -> None:
        self.uses: list[str] = []
        units, files = FakeUnits(), FakeFiles()
        for name in ("api.service", "db.service"):
            units.add(name, main_pid=4242)
        files.add("/var/cache/api/old.bin", 1 << 20)
        clock = LoopClock() if may_look else FakeClock()
        world = tools(clock=clock, units=units, files=files, subjects=SUBJECTS)
        ports: dict[str, Any] = {
            name: _Untouched(name, self.uses, getattr(world, name) if may_look else None) for name in PORTS
        }
        self.tools = Tools(**ports, subjects=SUBJECTS)


class _Untouched:
    def __init__(self, port: str, uses: list[str], behind: object | None) -> None:
        self._port = port
        self._uses = uses
        self._behind = behind

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("__"):
            raise AttributeError(method)
        call = f"{self._port}.{method}"

        def use(*args: Any, **kwargs: Any) -> Any:
            if self._behind is None or call in DOING or _changes_by_http(call, args):
                self._uses.append(call)
                raise Touched(f"{call} was used")
            return getattr(self._behind, method)(*args, **kwargs)

        return use


def _changes_by_http(call: str, args: Sequence[Any]) -> bool:
    asks = call == "network.http" and args and isinstance(args[0], HttpRequest)
    return bool(asks) and args[0].method not in ("GET", "HEAD")


class _Dead:
    """A port on a host that gives no answer but this error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("__"):
            raise AttributeError(method)

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise self._error

        return fail


class _Hanging:
    """A port that takes every question and never answers one. What does not wait gives the most hopeful answer."""

    def __init__(self, protocol: type) -> None:
        self._protocol = protocol

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("__") or not hasattr(self._protocol, method):
            raise AttributeError(method)
        if inspect.iscoroutinefunction(getattr(self._protocol, method)):
            return _hang
        if method in ("follow", "follow_journal", "listen"):
            return _hanging_lines
        answers = {"supervised": ProcessId(4242, 1), "watch_exit": _NoWatch(), "changed_by_others": False, "firing": ()}
        return lambda *args, **kwargs: answers.get(method)


class _NoWatch:
    def close(self) -> None:
        return None


async def _hang(*args: Any, **kwargs: Any) -> Any:
    await asyncio.get_running_loop().create_future()


async def _hanging_lines(*args: Any, **kwargs: Any) -> AsyncGenerator[str, None]:
    await asyncio.get_running_loop().create_future()
    yield ""


def check_plugin(
    plugin: AnyPlugin,
    module: ModuleType,
    make_config: Callable[[], Mapping[str, Any]] | None = None,
    *,
    steps: Sequence[Step] = (),
) -> list[str]:
    """The promises that are not kept, a sentence each; empty when all are.

    ``make_config`` gives the settings of a smallest instance; without it an empty section must do. ``steps`` are
    examples for an executor's verbs that take arguments. Runs event loops of its own: call it from synchronous code.
    """
    wrong = [*_declaration(plugin, module), *_settings(plugin.config, plugin.config.__name__)]
    values = dict(make_config() if make_config is not None else {})
    try:
        config = plugin.config.model_validate(values)
    except ValidationError as error:
        return [*wrong, f"the smallest configuration {values!r} is not accepted: {error}"]
    wrong += _unknown_key(plugin, values)
    name = module.__name__.rpartition(".")[2]
    wrong += _building(plugin, name, config)
    if wrong:
        return wrong
    if plugin.family == "executors":
        return _executor(plugin, name, config, steps)
    checks = {"monitors": _monitor, "analyzers": _analyzer, "planners": _planner, "knowledge": _knowledge}
    return checks[plugin.family](plugin, name, config)


# All families


def _declaration(plugin: AnyPlugin, module: ModuleType) -> Iterator[str]:
    if getattr(module, "PLUGIN", None) is not plugin:
        yield f"{module.__name__} does not declare this plugin under the name PLUGIN"
    if plugin.family not in FAMILIES:
        yield f"there is no family {plugin.family!r}"
    first, _, _ = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    if not first:
        yield f"{module.__name__} has no docstring: one sentence that says what it is for"
    elif not first.endswith(".") or re.search(r"[.!?]\s+[A-Z]", first):
        yield f"{module.__name__}'s docstring should begin with exactly one sentence: {first!r}"
    if not issubclass(plugin.config, PluginConfig):
        yield f"{plugin.config.__name__} should be a PluginConfig"
    for bound, value in (("every", plugin.every), ("timeout", plugin.timeout), ("overlap", plugin.overlap)):
        if value is not None and value <= 0:
            yield f"{bound} should be positive, not {value!r}"


def _settings(model: type[BaseModel], where: str) -> Iterator[str]:
    if model.model_config.get("extra") != "forbid":
        yield f"{where} takes keys it does not know: it should forbid them"
    for key, field in model.model_fields.items():
        if not (field.description or "").strip():
            yield f"{where}.{key} is not explained: write a docstring under it"
        for part in _models_in(field.annotation):
            yield from _settings(part, f"{where}.{key}")


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _unknown_key(plugin: AnyPlugin, values: Mapping[str, Any]) -> Iterator[str]:
    try:
        plugin.config.model_validate({**values, "no_such_key_at_all": 1})
    except ValidationError:
        return
    yield f"{plugin.config.__name__} swallows an unknown key"


def _building(plugin: AnyPlugin, name: str, config: PluginConfig) -> Iterator[str]:
    untouched = UntouchedTools()
    try:
        built = plugin.build(name, config, untouched.tools)
    except Touched as error:
        yield f"building touches the outside: {error}"
        return
    except (ConfigError, StoreError) as error:
        yield f"the smallest instance cannot be built: {error}"
        return
    if untouched.uses:
        yield f"building touches the outside: {', '.join(untouched.uses)}"
    if plugin.family != "knowledge" and getattr(built, "name", None) != name:
        yield f"the instance does not bear the name it was given: {getattr(built, 'name', None)!r} instead of {name!r}"


# Monitors


def _monitor(plugin: AnyPlugin, name: str, config: PluginConfig) -> list[str]:
    wrong: list[str] = []
    errors = (OSError(5, "Input/output error"), ProbeFailed("nothing can be seen"), PermissionError(13, "not allowed"))
    for error in errors:
        wrong += _in_virtual_time(_on_dead_host(plugin, name, config, error), f"on a dead host ({error!r})")
    wrong += _in_virtual_time(_cancelled_look(plugin, name, config), "when a look is cancelled")
    return list(dict.fromkeys(wrong))


def _in_virtual_time(check: Any, when: str) -> list[str]:
    try:
        found: list[str] = run(check)
    except Deadlock as error:
        return [f"{when} it waits for something that never comes: {error}"]
    return found


def _tools_of(port: Callable[[str, type], object]) -> Tools:
    ports: dict[str, Any] = {name: port(name, protocol) for name, protocol in PORTS.items() if name != "clock"}
    return Tools(clock=LoopClock(), subjects=SUBJECTS, **ports)


async def _on_dead_host(plugin: AnyPlugin, name: str, config: PluginConfig, error: Exception) -> list[str]:
    instance = plugin.build(name, config, _tools_of(lambda *_: _Dead(error)))
    wrong = []
    if isinstance(instance, Watcher):
        watching = asyncio.ensure_future(
            instance.watch(lambda occurrence: wrong.append(f"on a dead host watch() reports {occurrence.kind!r}"))
        )
        await asyncio.wait([watching], timeout=60.0)
        if not await _ends_when_cancelled(watching):
            return ["watch() swallows its cancellation"]
        if not watching.cancelled() and (failure := watching.exception()) is not None:
            wrong += _unexpected(failure, "watch()")
    seen = await guarded(instance.observe, 3600.0)
    if isinstance(seen, Failure):
        if seen.timed_out:
            wrong.append("on a dead host observe() neither fails nor ends")
        else:
            wrong += _unexpected(seen.exception, "observe()")
    elif not seen or not all(_is_answer(observation, error) for observation in seen):
        wrong.append(f"on a dead host observe() returns {list(seen[:2]) or 'nothing'} instead of failing")
    return wrong


def _is_answer(seen: Observation, error: Exception) -> bool:
    """A refused connection is what a probe of it was sent to see: no, in the outside's own words. Nothing else is."""
    words = error.strerror if isinstance(error, OSError) else None
    return seen.metric.endswith("_up") and seen.value == 0 and words is not None and words in seen.detail


def _unexpected(failure: BaseException, what: str) -> list[str]:
    if isinstance(failure, (ProbeFailed, OSError)):
        return []
    return [f"on a dead host {what} raises {failure!r}: a monitor that cannot see raises ProbeFailed or OSError"]


async def _cancelled_look(plugin: AnyPlugin, name: str, config: PluginConfig) -> list[str]:
    instance = plugin.build(name, config, _tools_of(lambda _, protocol: _Hanging(protocol)))
    wrong = []
    if not await _passes_cancellation(instance.observe()):
        wrong.append("observe() swallows its cancellation")
    if isinstance(instance, Watcher) and not await _passes_cancellation(instance.watch(lambda _: None)):
        wrong.append("watch() swallows its cancellation")
    return wrong


async def _passes_cancellation(call: Awaitable[Any]) -> bool:
    """True also for a call that came to its end without waiting for anything."""
    task = asyncio.ensure_future(call)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    if task.done():
        if not task.cancelled():
            task.exception()  # Looked at, so that nobody warns of it.
        return True
    return await _ends_when_cancelled(task) and task.cancelled()


async def _ends_when_cancelled(task: "asyncio.Future[Any]") -> bool:
    task.cancel()
    for _ in range(TURNS):
        if task.done():
            return True
        await asyncio.sleep(0)
    return False


# Analyzers


_BAD_DAY: Mapping[str, Mapping[str, float]] = {
    SUBJECT: {
        "process_up": 1, "process_rss_bytes": 4e9, "process_fds": 1020, "process_fds_limit": 1024,
        "process_threads": 5000, "process_cpu_seconds": 900, "process_age_seconds": 1000, "process_zombies": 500,
        "process_busy": 1.0, "process_stopped": 0, "health_up": 1, "health_seconds": 0.01, "health_status": 200,
        "work_up": 0, "work_seconds": 0.02, "work_status": 503, "tls_seconds_left": 60, "check_up": 0,
        "log_lines_per_minute": 9000, "log_skipped_total": 10,
        "alert_high_error_rate_up": 0, "alert_high_error_rate_severity": 3,
    },
    "db": {
        "process_up": 0, "unit_up": 0, "unit_failed": 1, "unit_restarts": 9, "unit_job": 0, "unit_auto_restart": 0,
        "unit_stopped_on_purpose": 0, "work_up": 0,
    },
    "host": {
        "cpu_busy_ratio": 0.99, "load1": 40, "load1_per_core": 10, "memory_available_bytes": 1e6,
        "memory_available_ratio": 0.001, "memory_total_bytes": 1e9, "swap_used_ratio": 0.99, "fds_used_ratio": 0.99,
        "psi_cpu_some_ratio": 0.1, "psi_memory_some_ratio": 0.1, "psi_memory_full_ratio": 0.1,
        "psi_io_some_ratio": 0.1, "psi_io_full_ratio": 0.1,
    },
    "disk:/": {"disk_free_bytes": 1e3, "disk_free_ratio": 0.0001, "inodes_free_ratio": 0.0001, "disk_read_only": 1},
    "nic:eth0": {"nic_errors_per_second": 500, "nic_drops_per_second": 500},
}  # fmt: skip
"""Much that can be wrong at once, so that most analyzers have something to say."""


def bad_day(seconds: float = 120.0) -> Iterator[View]:
    """The same views each time: a minute that grows worse, with everything that the shipped monitors report."""
    sight = Sight(SUBJECTS)
    start = 1000.0
    for tick in range(int(seconds)):
        now = start + tick
        worse = (tick + 1) / seconds
        for subject, numbers in _BAD_DAY.items():
            is_early = tick < seconds / 4
            sight.record(
                [
                    Observation("contract", subject, metric, _at(metric, value, worse, is_early), now)
                    for metric, value in numbers.items()
                ],
                now,
            )
        yield View(sight, now)


def _at(metric: str, value: float, worse: float, is_early: bool) -> float:
    if metric.endswith("_up"):
        return 1.0 if is_early else value
    return value * worse if metric.endswith(("_bytes", "_total", "_seconds")) else value


def _analyzer(plugin: AnyPlugin, name: str, config: PluginConfig) -> list[str]:
    wrong: list[str] = []
    untouched = UntouchedTools()
    one, other = (plugin.build(name, config, untouched.tools) for _ in range(2))
    nothing = list(one.analyze(View(Sight(), 1000.0)))
    if nothing:
        wrong.append(f"it finds something where there is nothing: {nothing[0]!r}")
    one = plugin.build(name, config, untouched.tools)
    for view, same in zip(bad_day(), bad_day(), strict=True):
        before = _content(view.sight)
        found, again = list(one.analyze(view)), list(other.analyze(same))
        if found != again:
            wrong.append(f"two fresh instances judge the same facts differently: {found!r} and {again!r}")
        if _content(view.sight) != before:
            wrong.append("analyze() changes what it looks at")
        wrong += [_broken(finding, name) for finding in found if _broken(finding, name)]
        if wrong:
            break
    if untouched.uses:
        wrong.append(f"it touches the outside: {', '.join(sorted(set(untouched.uses)))}")
    return wrong


def _broken(finding: Finding, name: str) -> str:
    if not (finding.subject and finding.fault and finding.summary):
        return f"a finding needs subject, fault and summary: {finding!r}"
    if finding.analyzer != name:
        return f"a finding bears the name {finding.analyzer!r} instead of the instance's, {name!r}"
    return ""


def _content(sight: Sight) -> object:
    seen = sight.columns()
    streaks = [repr(sight.streak(*series)) for series in seen.names]
    details = [sight.latest(*series) for series in seen.names]
    return (
        seen.names, seen.values.tolist(), streaks, details, list(sight.recent), dict(sight.blind_instances),
        dict(sight.subjects),
    )  # fmt: skip


# Planners


def _incidents() -> list[Incident]:
    faults = (
        "dead", "hung", "gray", "overloaded", "leaking", "filling", "blind", "exhausting-memory",
        "exhausting-descriptors", "no-such-fault",
    )  # fmt: skip
    return [
        Incident(
            id=f"incident-{subject}-{fault}",
            subject=subject,
            fault=fault,
            state=IncidentState.OPEN,
            severity=Severity.CRITICAL,
            summary=f"{subject} is {fault}",
            opened_at=EPOCH,
            updated_at=EPOCH,
            because=("work_up is 0",),
            healthy_when=(Condition("work_up", ">=", 1.0),),
            data={"device": "disk"},
        )
        for subject in SUBJECTS
        for fault in faults
    ]


def _planner(plugin: AnyPlugin, name: str, config: PluginConfig) -> list[str]:
    wrong: list[str] = []
    untouched = UntouchedTools()
    for incident in _incidents():
        situation = Situation(SUBJECTS[incident.subject], EPOCH, SUBJECTS)
        before = plain((incident, SUBJECTS))
        one, other = (plugin.build(name, config, untouched.tools) for _ in range(2))
        wrong += _ladder(one, other, incident, situation)
        if plain((incident, SUBJECTS)) != before:
            wrong.append(f"plan() or after() changes what it is given ({incident.fault})")
    if untouched.uses:
        wrong.append(f"it touches the outside: {', '.join(sorted(set(untouched.uses)))}")
    return list(dict.fromkeys(wrong))


def _ladder(one: Any, other: Any, incident: Incident, situation: Situation) -> Iterator[str]:
    """Goes on as an incident would whose every step is refuted."""
    for _ in range(10):
        advance, again = one.plan(incident, situation), other.plan(incident, situation)
        if advance != again:
            yield f"two fresh instances plan differently for {incident.fault}: {advance!r} and {again!r}"
        if advance is None or not advance.plans:
            return
        if one.plan(advance.incident, situation) != other.plan(advance.incident, situation):
            yield f"two fresh instances go on differently with {incident.fault}"
        kept = plain(advance.incident.place)
        if json.loads(json.dumps(kept)) != kept or plain(kept) != dict(advance.incident.place):
            yield f"Incident.place should hold JSON's types only: {advance.incident.place!r}"
        incident = advance.incident
        for plan in advance.plans:
            yield from _broken_plan(plan, incident)
            begun = one.begun(incident, plan, situation.epoch)
            if one.not_begun(begun, plan) != incident:
                yield f"not_begun() does not give back what begun() was given, for {plan.rung!r}"
            told = one.plan(begun, situation)
            if told is not None and any(p.activity == plan.activity for p in told.plans):
                yield f"{plan.rung!r} is planned a second time while it is being carried out"
        plan = advance.plans[0]
        outcome = Outcome(plan.steps[-1].id if plan.steps else "", Result.REFUTED, "no better", EPOCH, EPOCH + 1)
        after, again_after = (p.after(incident, plan, [outcome], situation) for p in (one, other))
        if after != again_after:
            yield f"two fresh instances go on differently after {plan.rung!r} of {plan.rule!r}"
        if after.incident.id != incident.id:
            yield "after() makes another incident of the one it is given"
        incident = after.incident


def _broken_plan(plan: Plan, incident: Incident) -> Iterator[str]:
    if (plan.incident, plan.subject, plan.fault) != (incident.id, incident.subject, incident.fault):
        yield f"a plan is not about the incident it was made for: {plan!r}"
    if len({step.id for step in plan.steps}) != len(plan.steps):
        yield f"two steps of a plan have one id: {plan!r}"
    for step in plan.steps:
        if not re.fullmatch(r"[a-z0-9_-]+\.[a-z0-9_-]+", step.action):
            yield f"a step's action should be executor.verb, not {step.action!r}"


# Executors


def _executor(plugin: AnyPlugin, name: str, config: PluginConfig, steps: Sequence[Step] = ()) -> list[str]:
    wrong: list[str] = []
    instance = plugin.build(name, config, UntouchedTools().tools)
    verbs = [action.verb for action in instance.actions]
    if len(set(verbs)) != len(verbs):
        wrong.append(f"two of its actions have one verb: {verbs}")
    for action in instance.actions:
        if not action.summary.strip():
            wrong.append(f"{action.verb} has no summary")
        if action.undo and action.undo not in verbs:
            wrong.append(f"{action.verb} is undone by {action.undo!r}, which is none of its verbs")
        wrong += _settings(action.args, f"{action.verb}'s arguments")
    examples = [*steps, *(Step(f"step-{verb}", f"{name}.{verb}", SUBJECT) for verb in verbs)]
    for step in examples:
        wrong += _in_virtual_time(_previewed(plugin, name, config, step), f"previewing {step.action}")
        wrong += _in_virtual_time(_cancelled_step(plugin, name, config, step), f"when {step.action} is cancelled")
    wrong += _in_virtual_time(_unknown_verb(plugin, name, config), "given an unknown verb")
    return list(dict.fromkeys(wrong))


async def _previewed(plugin: AnyPlugin, name: str, config: PluginConfig, step: Step) -> list[str]:
    looking = UntouchedTools(may_look=True)
    instance = plugin.build(name, config, looking.tools)
    wrong: list[str] = []
    words = await guarded(lambda: instance.preview(step), 3600.0)
    if isinstance(words, Failure):
        # Refusing is an answer, and being unable to look is one; what was touched stands in looking.uses.
        if not isinstance(words.exception, (StepFailed, ProbeFailed, OSError, Touched)) or words.timed_out:
            wrong.append(f"preview of {step.action} ends with {words.error}: {words.message}")
    elif not isinstance(words, str) or not words.strip():
        wrong.append(f"preview of {step.action} says nothing: {words!r}")
    if looking.uses:
        wrong.append(f"preview of {step.action} touches the world: {', '.join(looking.uses)}")
    return wrong


async def _cancelled_step(plugin: AnyPlugin, name: str, config: PluginConfig, step: Step) -> list[str]:
    instance = plugin.build(name, config, _tools_of(lambda _, protocol: _Hanging(protocol)))
    passes = await _passes_cancellation(instance.act(step))
    return [] if passes else [f"act() swallows its cancellation ({step.action})"]


async def _unknown_verb(plugin: AnyPlugin, name: str, config: PluginConfig) -> list[str]:
    wrong: list[str] = []
    untouched = UntouchedTools()
    instance = plugin.build(name, config, untouched.tools)
    step = Step("step-unknown", f"{name}.no-such-verb", SUBJECT)
    for what, call in (("preview()", instance.preview), ("act()", instance.act)):
        answer = await guarded(functools.partial(call, step), 3600.0)
        if not isinstance(answer, Failure):
            wrong.append(f"{what} takes an unknown verb")
        elif not isinstance(answer.exception, StepRefused):
            wrong.append(f"{what} answers an unknown verb with {answer.exception!r} instead of StepRefused")
    return wrong


# Knowledge


def _knowledge(plugin: AnyPlugin, name: str, config: PluginConfig) -> list[str]:
    """That it has what the protocol asks for; what it must *do* is tested with a store, not with a fake of one."""
    instance = plugin.build(name, config, UntouchedTools().tools)
    wrong = []
    for method, promised in inspect.getmembers(Knowledge, inspect.isfunction):
        if method.startswith("__"):
            continue
        kept = getattr(instance, method, None)
        if not callable(kept):
            wrong.append(f"it has no {method}()")
        elif inspect.iscoroutinefunction(promised) != inspect.iscoroutinefunction(kept):
            wrong.append(f"{method}() should {'' if inspect.iscoroutinefunction(promised) else 'not '}be a coroutine")
    return wrong
