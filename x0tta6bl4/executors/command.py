"""Runs the commands that the operator has written down, each with the few values that a rule may fill in.

Each is told which deed it is, so that it, or whoever it asks on another host, can let be what was carried out already
and what an earlier life of the daemon still asks for:

- ``X0TTA6BL4_KEY``: the deed. The same when it is done again because nobody knows whether it was done.
- ``X0TTA6BL4_ATTEMPT``: 1, or more when it did not help and is meant to be done once more.
- ``X0TTA6BL4_EPOCH``: the life of the daemon; it only grows. What has a lower one than was seen before is late.
- ``X0TTA6BL4_STEP``: this very start of it, by the id that the journal has. Never the same twice.
- ``X0TTA6BL4_INCIDENT``: what it is done for.
"""

import json
import posixpath
import re
import shlex
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model, field_validator, model_validator

from x0tta6bl4.executors._arguments import action_of, arguments_of, near, shown, subject_of
from x0tta6bl4.kernel.errors import StepFailed, StepRefused
from x0tta6bl4.kernel.facts import Step
from x0tta6bl4.kernel.plugin import Action, Effect, PluginConfig, executor
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.units import Seconds, Size
from x0tta6bl4.ports.commands import Commands, OutlivesTheDaemon

RUN_OTHERS = re.compile(
    r"(ba|da|z|k|mk|a|c|tc|fi|rba|pw|ya|xon)?sh|busybox|toybox"
    r"|(python|pypy|perl|ruby|node|nodejs|deno|bun|php|lua|luajit|tclsh|wish|guile|expect|[gmn]?awk|Rscript)[0-9.-]*"
    r"|sudo|su|doas|pkexec|run0|runuser|setpriv|capsh|env|xargs|parallel|nice|ionice|nohup|timeout|setsid|stdbuf|chrt"
    r"|taskset|flock|time|watch|script|strace|ltrace|gdb|ssh|chroot|nsenter|unshare|bwrap|systemd-run|start-stop-daemon"
    r"|at|batch|ld\.so|ld-linux.*|ld-musl.*",
    re.ASCII,
)
"""Programs that run what their arguments tell them to: behind one of them, a filled-in value could be a program."""
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
REAPED = 5.0
"""Seconds beyond its own timeout in which a command is killed with all it has started, and says so."""
TOLD = ("X0TTA6BL4_KEY", "X0TTA6BL4_ATTEMPT", "X0TTA6BL4_EPOCH", "X0TTA6BL4_STEP", "X0TTA6BL4_INCIDENT")
LONGEST = 1024
"""Characters of the longest value."""
TAIL = 600
"""Characters of a failed command's output that go into the message."""
LARGEST = 10**15
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]*", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,16}(\.[0-9]{1,9})?", re.ASCII)
_SLOT = re.compile(r"[a-z][a-z0-9_]{0,40}", re.ASCII)
_VERB = re.compile(r"[a-z][a-z0-9_-]{0,60}", re.ASCII)

_PARTS = re.compile(r"[/=]")

Piece = tuple[str, str]
"""Literal text, and the name of the slot behind it (empty: none)."""


def pieces_of(template: str) -> list[Piece]:
    """The parts of ``--unit={unit}``. ``{{`` and ``}}`` are braces. ValueError for anything but plain names in them."""
    found: list[Piece] = []
    for literal, name, spec, conversion in string.Formatter().parse(template):
        if name is not None and (spec or conversion or not _SLOT.fullmatch(name)):
            raise ValueError(f"{template!r}: a slot is a name in lower case between braces, and nothing else")
        found.append((literal, name or ""))
    return found


class Slot(PluginConfig):
    """What may be filled in at one place of a command. Whatever the type: no value begins with a dash, is empty, or
    holds a control character, and none becomes more than the argument, or the part of one, that it stands for."""

    type: Literal["word", "path", "number", "choice", "pattern"] = "word"
    """``word``: letters, digits and ``_ . : @ + -``. ``path``: an absolute path below one of ``roots``. ``number``:
    from ``min`` to ``max``. ``choice``: one of ``choices``. ``pattern``: matches the regular expression as a whole."""
    roots: list[str] = Field(default_factory=list)
    """Folders in which a path must lie once ``..`` and ``//`` are resolved. Symbolic links in them are not looked at:
    name folders in which only you can make links."""
    choices: list[str] = Field(default_factory=list)
    """The values of a choice."""
    pattern: str = ""
    """The regular expression of a pattern. Wider ones let more through."""
    min: float = Field(default=0, ge=0, lt=LARGEST)
    """The smallest number. Negative ones are not possible: they look like options."""
    max: float = Field(default=LARGEST - 1, ge=0, lt=LARGEST)
    """The largest number."""
    whole: bool = True
    """Whether a number must be a whole one."""
    default: str | int | float | None = None
    """The value when neither the step nor the target's data has one. Left out, the step is refused then."""

    @model_validator(mode="after")
    def _fits_its_type(self) -> "Slot":
        wrong: list[str] = []
        owners = {
            "roots": "path",
            "choices": "choice",
            "pattern": "pattern",
            "min": "number",
            "max": "number",
            "whole": "number",
        }
        wrong += [
            f"{key} is for the type {owner}"
            for key, owner in owners.items()
            if key in self.model_fields_set and self.type != owner
        ]
        for key in ("roots", "choices", "pattern"):
            if owners[key] == self.type and not getattr(self, key):
                wrong.append(f"a {self.type} needs {key}")
        for root in self.roots:
            if not root.startswith("/") or posixpath.normpath(root) != root or root.strip("/") == "":
                wrong.append(f"root {root!r} should be an absolute folder without '..' or a last slash, and not /")
        for choice in self.choices:
            wrong += [f"choice {choice!r} {why}" for why in _unfit(choice)]
        if self.min > self.max:
            wrong.append("min is above max")
        try:
            re.compile(self.pattern)
        except re.error as error:
            wrong.append(f"pattern {self.pattern!r} is no regular expression: {error}")
        if not wrong and self.default is not None:
            try:
                self.read(self.default)
            except ValueError as error:
                wrong.append(f"default {error}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def read(self, value: object) -> str:
        """The value as it goes into the command. ValueError, in words, when it may not."""
        if self.type == "number":
            return self._number(value)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST:
            value = str(value)
        if not isinstance(value, str):
            raise ValueError("should be text")
        for why in _unfit(value):
            raise ValueError(why)
        if self.type == "path":
            return self._path(value)
        if self.type == "word" and not _WORD.fullmatch(value):
            raise ValueError("should be a word of letters, digits and _ . : @ + -, beginning with a letter, digit or _")
        if self.type == "choice" and value not in self.choices:
            raise ValueError(f"should be one of {', '.join(self.choices)}{near(value, self.choices)}")
        if self.type == "pattern" and not re.fullmatch(self.pattern, value):
            raise ValueError(f"should match {self.pattern}")
        return value

    def _path(self, value: str) -> str:
        if not value.startswith("/"):
            raise ValueError("should be an absolute path")
        path = posixpath.normpath("/" + value.lstrip("/"))
        if not any(path.startswith(f"{root}/") for root in self.roots):
            raise ValueError(f"should lie below {' or '.join(self.roots)}")
        return path

    def _number(self, value: object) -> str:
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            number = Decimal(value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < LARGEST:
            number = abs(Decimal(repr(value)))  # -0.0 is not below 0, and yet begins with a dash
        else:
            raise ValueError("should be a number, and not a negative one")
        if self.whole and number != number.to_integral_value():
            raise ValueError("should be a whole number")
        if not self.min <= number <= self.max:
            raise ValueError(f"should be from {self.min:g} to {self.max:g}")
        return format(number.to_integral_value() if self.whole else number, "f")


def _unfit(value: str) -> list[str]:
    """Why a text can be no part of a command at all."""
    if not value:
        return ["should not be empty"]
    if len(value) > LONGEST:
        return [f"should have at most {LONGEST} characters"]
    if value.startswith("-"):
        return ["should not begin with '-', or it would be read as an option"]
    if not value.isprintable():
        return ["should not hold NUL, newlines, or other characters that cannot be printed"]
    return []


class Command(PluginConfig):
    argv: list[str] = Field(min_length=1)
    """The program, by its absolute path, and its arguments; ``{name}`` is a slot. No shell reads them."""
    slots: dict[str, Slot] = Field(default_factory=dict)
    """What may be filled in. A value comes from the step's arguments, else from the target's data, else from
    ``default``; a slot called ``target`` is the target's name when the step says nothing else."""
    timeout: Seconds = Field(default=30.0, gt=0)
    """Seconds after which it is killed with all it has started. The step's own timeout counts too."""
    output_limit: Size = Field(default=16384, ge=256, le=1 << 20)
    """Bytes of its output that are kept for the journal; what comes after them is dropped."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables, beside PATH and LANG. It gets no others but X0TTA6BL4_KEY, _ATTEMPT, _EPOCH, _STEP and
    _INCIDENT: the deed it is, so that what was done already under this key and attempt can be let be."""
    idempotent: bool = False
    """Whether twice is the same as once; then it may be repeated after the daemon died in the middle of it."""
    undo: str = ""
    """The command, by its name here, that takes it back."""
    result: Literal["text", "json"] = "text"
    """``json``: what it prints is one JSON object, whose fields a runbook finds as ``result.FIELD``."""
    disruptive: bool = True
    """Whether it changes anything. ``false`` takes it out of budgets, backoff and allowlist: for mere looking."""
    blast: Literal["process", "service", "host", "cluster"] = "service"
    """What can be hurt when it goes wrong. From ``host`` on it is never tried before its turn."""
    summary: str = ""
    """What it does, in a sentence for the journal."""
    subjects: list[str] = Field(default_factory=lambda: ["*"])
    """Names or shell patterns of the targets it may be run for."""
    allow_interpreter: bool = False
    """Permits a shell, an interpreter or a launcher such as sudo, provided that its first argument is the absolute path
    of a script. What that script makes of its arguments is then yours to watch."""

    @field_validator("env")
    @classmethod
    def _variables(cls, env: dict[str, str]) -> dict[str, str]:
        for key, value in env.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key, re.ASCII) or "\0" in value:
                raise ValueError(f"{key!r} cannot be set in an environment")
            if key in TOLD:
                raise ValueError(f"{key} is what the daemon itself tells the command")
        return env

    @model_validator(mode="after")
    def _is_safe(self) -> "Command":
        wrong: list[str] = []
        used: set[str] = set()
        for place, template in enumerate(self.argv):
            if "\0" in template:
                wrong.append(f"argv[{place}] holds a NUL character")
            try:
                pieces = pieces_of(template)
            except ValueError as error:
                wrong.append(f"argv[{place}]: {error}")
                continue
            used |= {name for _, name in pieces if name}
            wrong += self._path_slots(place, template, pieces)
        wrong += [
            f"argv uses {{{name}}}, which is not among the slots{near(name, self.slots)}"
            for name in sorted(used - set(self.slots))
        ]
        wrong += [f"slot {name} is not used in argv" for name in sorted(set(self.slots) - used)]
        wrong += [
            f"{name!r} cannot be a slot's name"
            for name in self.slots
            if not _SLOT.fullmatch(name) or hasattr(PluginConfig, name) or name.startswith("model_")
        ]
        wrong += self._program()
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _path_slots(self, place: int, template: str, pieces: Sequence[Piece]) -> list[str]:
        """A checked path stays what was checked only as a whole argument or as the whole value of an option."""
        if all(name not in self.slots or self.slots[name].type != "path" for _, name in pieces):
            return []
        before, name = pieces[0]
        if len(pieces) == 1 and name and (not before or before.endswith("=")):
            return []
        return [f"argv[{place}] {template!r}: a path is a whole argument, or all that comes after a '='"]

    def _program(self) -> list[str]:
        program = self.argv[0]
        if not program.startswith("/") or posixpath.normpath(program) != program or program == "/":
            return [f"argv[0] {program!r} should be the absolute path of a program"]
        if "{" in program or "}" in program:
            return [f"argv[0] {program!r} should have no slots"]
        if not _runs_others(program):
            return []
        if not self.allow_interpreter:
            return [
                f"{program} runs whatever its arguments say; name the program itself, "
                "or write a script and set allow_interpreter"
            ]
        script = self.argv[1] if len(self.argv) > 1 else ""
        if not script.startswith("/") or "{" in script or "}" in script or _runs_others(script):
            return [f"behind {program} there should be the absolute path of a script (argv[1] is {script!r})"]
        return []


def _runs_others(program: str) -> bool:
    return RUN_OTHERS.fullmatch(posixpath.basename(program)) is not None


class Config(PluginConfig):
    commands: dict[str, Command] = Field(default_factory=dict)
    """The commands by name; each becomes the action ``command.NAME``."""

    @model_validator(mode="after")
    def _names_fit(self) -> "Config":
        wrong = [
            f"{name!r} cannot be a command's name: lower case, digits, _ and -"
            for name in self.commands
            if not _VERB.fullmatch(name)
        ]
        for name, command in self.commands.items():
            back = self.commands.get(command.undo)
            if command.undo and back is None:
                wrong.append(
                    f"commands.{name}.undo: there is no command {command.undo!r}{near(command.undo, self.commands)}"
                )
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


@dataclass(frozen=True)
class CommandExecutor:
    name: str
    config: Config
    commands: Commands
    subjects: Mapping[str, Subject]
    actions: Sequence[Action]

    async def preview(self, step: Step) -> str:
        command, argv = self._read(step)
        return f"would run {shlex.join(argv)} (at most {min(command.timeout, step.timeout):g} s)"

    async def act(self, step: Step) -> Effect:
        command, argv = self._read(step)
        try:
            result = await self.commands.run(
                argv,
                timeout=min(command.timeout, step.timeout),
                limit=command.output_limit,
                env={**ENVIRONMENT, **command.env, **_told(step)},
            )
        except OSError as error:
            raise StepFailed(f"{argv[0]} could not be started: {error.strerror or error}") from error
        if result.code != 0:
            raise StepFailed(f"{shlex.join(argv)} {_ending(result.code, result.seconds)}{_said(result.output)}")
        cut = f"; its output was cut at {command.output_limit} bytes" if result.truncated else ""
        data = _object(argv, result.output) if command.result == "json" else {}
        return Effect(f"ran {shlex.join(argv)} in {result.seconds:.2f} s{cut}", output=result.output, data=data)

    async def end_left(self) -> None:
        if isinstance(self.commands, OutlivesTheDaemon):
            await self.commands.end_left()

    def _read(self, step: Step) -> tuple[Command, tuple[str, ...]]:
        action = action_of(step, self.actions)
        command = self.config.commands[action.verb]
        subject = subject_of(step, self.subjects)
        if not any(fnmatchcase(subject.name, pattern) for pattern in command.subjects):
            raise StepRefused(f"{step.action} is not for {subject.name}; it is for {', '.join(command.subjects)}")
        defaults = {key: slot.default for key, slot in command.slots.items()}
        known = {**defaults, "target": subject.name, **subject.data}
        also = {key: known[key] for key in command.slots if known.get(key) is not None}
        values = arguments_of(step, action.args, also)
        return command, tuple(self._filled(step, template, values) for template in command.argv)

    @staticmethod
    def _filled(step: Step, template: str, values: PluginConfig) -> str:
        argument = "".join(literal + (getattr(values, name) if name else "") for literal, name in pieces_of(template))
        # Looked for in the whole argument: two harmless values side by side can still make a way out of a folder.
        if ".." in _PARTS.split(argument) and ".." not in _PARTS.split(template):
            raise StepRefused(f"{step.action}: {template!r} would become {shown(argument)}, which leaves a folder")
        return argument


def _told(step: Step) -> dict[str, str]:
    return dict(zip(TOLD, (step.key, str(step.attempt), str(step.epoch), step.id, step.incident), strict=True))


def _object(argv: Sequence[str], output: str) -> dict[str, Any]:
    try:
        found = json.loads(output)
    except (ValueError, RecursionError) as error:
        raise StepFailed(f"{shlex.join(argv)} printed no JSON: {error}{_said(output)}") from error
    if not isinstance(found, dict):
        raise StepFailed(f"{shlex.join(argv)} printed JSON that is no object{_said(output)}")
    return found


def _ending(code: int | None, seconds: float) -> str:
    if code is None:
        return f"was killed after {seconds:.1f} s, because its time was up"
    return f"ended with code {code}" if code > 0 else f"was ended by signal {-code}"


def _said(output: str) -> str:
    text = output.strip()
    if not text:
        return " and said nothing"
    return f": {text}" if len(text) <= TAIL else f": …{text[-TAIL:]}"


def _arguments(name: str, config: Config) -> type[PluginConfig]:
    """What one command takes. A rule's ``grace``, and the slots of a command that it takes back, are let pass."""
    command = config.commands[name]
    fields: dict[str, Any] = {
        key: (Annotated[str, BeforeValidator(slot.read)], Field(description=f"A {slot.type} for {{{key}}}."))
        for key, slot in command.slots.items()
    }
    passed = {"grace", *(key for other in config.commands.values() if other.undo == name for key in other.slots)}
    for key in passed - set(fields):
        fields[key] = (Any, Field(default=None, description="Not used by this command."))
    return create_model(f"{name} arguments", __base__=PluginConfig, **fields)


def _build(name: str, config: Config, commands: Commands, subjects: Mapping[str, Subject]) -> CommandExecutor:
    actions = tuple(
        Action(
            verb,
            command.summary or f"runs {shown(' '.join(command.argv))}",
            _arguments(verb, config),
            disruptive=command.disruptive,
            on_unknown="retry" if command.idempotent else "probe",
            undo=command.undo,
            blast=command.blast if command.disruptive else "none",
            idempotent=command.idempotent or not command.disruptive,
            timeout=command.timeout + REAPED,
        )
        for verb, command in config.commands.items()
    )
    return CommandExecutor(name, config, commands, subjects, actions)


PLUGIN = executor(Config, lambda name, config, tools: _build(name, config, tools.commands, tools.subjects))
