"""Frees disk space by the rules of a target: old files by name, in the folders named for it only."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import Field, ValidationError, field_validator

from x0tta6bl4.executors._arguments import action_of, arguments_of, shown, subject_of
from x0tta6bl4.kernel.errors import ProbeFailed, StepFailed, StepRefused
from x0tta6bl4.kernel.facts import Step
from x0tta6bl4.kernel.plugin import Action, Effect, PluginConfig, executor
from x0tta6bl4.kernel.subjects import Subject
from x0tta6bl4.kernel.units import Seconds, Size, show_bytes
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.files import FileInfo, Files
from x0tta6bl4.ports.host import Host

TREES = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sbin", "/sys", "/usr")
"""Nothing in them is ever cleaned up."""
THEMSELVES = (
    "/",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/snap",
    "/srv",
    "/var",
    "/var/lib",
    "/var/spool",
)
"""Folders below them may be cleaned up, they may not."""
LISTED = 50
"""Paths that are told one by one; the rest is counted."""


class Config(PluginConfig):
    """Nothing to set: what may go stands with each target, under ``cleanup``."""


class FreeArgs(PluginConfig):
    pass


class CleanupRule(PluginConfig):
    folder: str
    """The folder, by its absolute path. Folders that the host stands on are refused."""
    pattern: str = Field(default="*", min_length=1)
    """Names of the files that may go, as a shell pattern. Narrower ones spare more."""
    keep: int = Field(default=0, ge=0)
    """So many of the newest of them stay, whatever their age."""
    older_than: Seconds = 0.0
    """Seconds for which a file must have been left unchanged. Lower ones take files that are still being written."""
    max_bytes: Size | None = None
    """Once so many bytes are free, the rest stays. Left out, all that may go goes."""
    until_free: float | None = Field(default=None, gt=0, le=1)
    """Once this share of the filesystem is free, the rest stays."""

    @field_validator("folder")
    @classmethod
    def _is_no_pillar(cls, folder: str) -> str:
        path = folder.rstrip("/") or "/"
        if "\0" in folder or not folder.startswith("/") or posixpath.normpath(path) != path:
            raise ValueError("should be an absolute path without '..'")
        if (
            path in THEMSELVES
            or posixpath.dirname(path) == "/home"
            or any(path == tree or path.startswith(f"{tree}/") for tree in TREES)
        ):
            raise ValueError("is a folder that the host or its people stand on; name one below that holds what may go")
        return path

    @field_validator("pattern")
    @classmethod
    def _is_a_name(cls, pattern: str) -> str:
        if "/" in pattern or "\0" in pattern:
            raise ValueError("is about names, not paths; put the path into folder")
        return pattern


@dataclass(frozen=True)
class Choice:
    """What one rule lets go, oldest first, and how many bytes of that are enough."""

    rule: CleanupRule
    files: tuple[FileInfo, ...] = ()
    spared: frozenset[str] = frozenset()
    """Paths that it is about and does not let go."""
    enough: int | None = None
    trouble: str = ""


@dataclass(frozen=True)
class Cleanup:
    """Which files go is decided from one look. Where two rules are about one file, it goes only if both let it go.

    Does not notice that a deleted file is still held open by somebody, so that its bytes are not free yet.
    """

    name: str
    files: Files
    host: Host
    subjects: Mapping[str, Subject]
    clock: Clock
    actions: Sequence[Action] = (
        Action(
            "free",
            "deletes the files that the target's cleanup rules allow",
            FreeArgs,
            on_unknown="retry",
            timeout=60.0,  # a folder of a hundred thousand files, one after the other
        ),
    )

    async def preview(self, step: Step) -> str:
        choices = await self._choose(step)
        going = _bounded(choices)
        if not going:
            return f"would find {_nothing(choices)}"
        total = sum(file.size for _, file in going)
        return f"would delete {_files(len(going))} ({show_bytes(total)}): {_listed([f.path for _, f in going], ', ')}"

    async def act(self, step: Step) -> Effect:
        choices = await self._choose(step)
        gone: list[str] = []
        left: list[str] = []
        freed: dict[int, int] = {}
        seen: set[str] = set()
        for number, choice in enumerate(choices):
            for file in choice.files:
                if file.path in seen:
                    continue
                if choice.enough is not None and freed.get(number, 0) >= choice.enough:
                    break
                seen.add(file.path)
                try:
                    freed[number] = freed.get(number, 0) + await self.files.delete(choice.rule.folder, file.path)
                except (StepFailed, OSError) as error:
                    left.append(f"{file.path}: {error}")
                else:
                    gone.append(file.path)
        notes = [choice.trouble for choice in choices if choice.trouble]
        if left:
            notes.append(f"{_files(len(left))} could not be deleted, such as {left[0]}")
        if not gone:
            raise StepFailed("; ".join(notes) if left else _nothing(choices))
        total = sum(freed.values())
        folders = ", ".join(dict.fromkeys(c.rule.folder for n, c in enumerate(choices) if n in freed))
        return Effect(
            "; ".join([f"deleted {_files(len(gone))} in {folders}, {show_bytes(total)}", *notes]),
            output=_listed(gone, "\n"),
            data={"files": len(gone), "bytes": total},
        )

    async def _choose(self, step: Step) -> list[Choice]:
        arguments_of(step, action_of(step, self.actions).args)
        # All of them are read before the first is looked at: a mistake in one stops the step as a whole.
        rules = _rules(step, subject_of(step, self.subjects))
        choices = [await self._candidates(rule) for rule in rules]
        spared = frozenset[str]().union(*(choice.spared for choice in choices))
        return [replace(choice, files=tuple(f for f in choice.files if f.path not in spared)) for choice in choices]

    async def _candidates(self, rule: CleanupRule) -> Choice:
        try:
            found = await self.files.list(rule.folder, rule.pattern)
        except (ProbeFailed, StepFailed, OSError) as error:
            return Choice(rule, trouble=f"{rule.folder}: {error}")
        # Equal times are told apart by name, so that preview and act choose the same files.
        by_age = sorted(found, key=lambda file: (file.modified, file.path))
        now = self.clock.wall()
        going = [f for f in by_age[: max(0, len(by_age) - rule.keep)] if now - f.modified >= rule.older_than]
        spared = frozenset(f.path for f in by_age) - {f.path for f in going}
        try:
            return Choice(rule, tuple(going), spared, await self._enough(rule))
        except (ProbeFailed, OSError) as error:
            return Choice(rule, spared=spared, trouble=f"{rule.folder}: {error}")

    async def _enough(self, rule: CleanupRule) -> int | None:
        bounds = [] if rule.max_bytes is None else [rule.max_bytes]
        if rule.until_free is not None:
            holding = [
                disk for disk in await self.host.disks() if f"{rule.folder}/".startswith(f"{disk.mount.rstrip('/')}/")
            ]
            if not holding:
                raise ProbeFailed("the filesystem it is on is not known, so how much to free is not either")
            disk = max(holding, key=lambda disk: len(disk.mount))
            bounds.append(max(0, int(disk.total * rule.until_free) - disk.free))
        return min(bounds, default=None)


def _bounded(choices: Sequence[Choice]) -> list[tuple[CleanupRule, FileInfo]]:
    """The files that would go if each gave back what it is said to hold."""
    going: list[tuple[CleanupRule, FileInfo]] = []
    seen: set[str] = set()
    for choice in choices:
        freed = 0
        for file in choice.files:
            if file.path in seen:
                continue
            if choice.enough is not None and freed >= choice.enough:
                break
            seen.add(file.path)
            freed += file.size
            going.append((choice.rule, file))
    return going


def _rules(step: Step, subject: Subject) -> list[CleanupRule]:
    written = subject.data.get("cleanup")
    if not written or isinstance(written, str | Mapping) or not isinstance(written, Sequence):
        raise StepRefused(
            f"{step.action}: {subject.name} has no cleanup rules", remedy="name folders under the target's `cleanup`"
        )
    rules: list[CleanupRule] = []
    wrong: list[str] = []
    for number, entry in enumerate(written):
        if not isinstance(entry, Mapping):
            wrong.append(f"cleanup[{number}] should have a folder (got {shown(entry)})")
            continue
        try:
            rules.append(CleanupRule.model_validate({key: value for key, value in entry.items() if value is not None}))
        except ValidationError as error:
            wrong += [
                f"cleanup[{number}].{'.'.join(map(str, m['loc']))} {m['msg'].removeprefix('Value error, ')} "
                f"(got {shown(m['input'])})"
                for m in error.errors(include_url=False)
            ]
    if wrong:
        raise StepRefused(f"{step.action}: {subject.name}: {'; '.join(wrong)}")
    return rules


def _nothing(choices: Sequence[Choice]) -> str:
    folders = ", ".join(dict.fromkeys(choice.rule.folder for choice in choices))
    trouble = [choice.trouble for choice in choices if choice.trouble]
    return "; ".join([f"nothing to free in {folders}", *trouble])


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _listed(paths: Sequence[str], between: str) -> str:
    rest = [f"and {len(paths) - LISTED} more"] if len(paths) > LISTED else []
    return between.join([*paths[:LISTED], *rest])


PLUGIN = executor(
    Config, lambda name, config, tools: Cleanup(name, tools.files, tools.host, tools.subjects, tools.clock)
)
