"""What analyzers learn over their lives: what they are taught from outside, and the memory that keeps it."""

from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from x0tta6bl4.kernel.facts import NOTHING, Attributes, Incident


@dataclass(frozen=True, slots=True)
class Lesson:
    """Something that an analyzer is to learn from outside."""

    kind: Literal["verdict", "learnt"]
    analyzer: str = ""
    """The instance it is for; empty: whoever can use it."""
    incident: str = ""
    right: bool | None = None
    """A person's word: the finding was right, or a false alarm."""
    data: Attributes = field(default_factory=lambda: NOTHING)
    """What was found, as the incident has it; see ``kernel.judged``. Of what was learnt elsewhere: where from."""
    body: bytes = b""
    """What was learnt elsewhere, in the analyzer's own form."""
    who: str = ""
    why: str = ""
    at: float = 0.0
    """Wall-clock seconds."""
    id: int = 0
    said: str = ""
    """What came of it."""
    taken_at: float | None = None


def verdict_on(incident: Incident, right: bool, who: str, why: str) -> Lesson:
    """The lesson that a person's word on an incident's finding is."""
    return Lesson("verdict", incident=incident.id, right=right, data=incident.data, who=who, why=why)


@dataclass(frozen=True, slots=True)
class Alteration:
    """Something that people or their tools changed on purpose, which may show in the numbers."""

    subject: str
    kind: str
    """``deploy``, ``config``, or another word."""
    detail: str
    who: str
    at: float
    """Wall-clock seconds at which it was done."""
    id: int = 0


@runtime_checkable
class Learner(Protocol):
    """An analyzer whose judgement rests on what it saw in earlier lives."""

    @property
    def name(self) -> str: ...

    def learnt(self) -> bytes:
        """All it knows, in a form of its own. Tens of milliseconds for ten thousand series."""
        ...

    def take_up(self, learnt: bytes, wall: float) -> None:
        """What an earlier life knew, before the first look. ValueError, in words, when it cannot be read."""
        ...

    def teach(self, lesson: Lesson) -> str:
        """Takes a lesson in; says in a sentence what came of it, or nothing where it was none for this analyzer."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an analyzer has come in learning what is usual."""

    known: int
    """What it judges, one by one: series, or subjects as a whole."""
    learning: int
    """Those of them that are too young to be judged."""
    turned_away: int = 0
    """Series that found no room at its latest look."""


@runtime_checkable
class Matures(Protocol):
    """An analyzer that judges nothing before it was learnt."""

    @property
    def name(self) -> str: ...

    def progress(self) -> Progress: ...


class LearntMemory(Protocol):
    """The part of the knowledge that learning needs. The promises of ``kernel.memory.Knowledge`` hold."""

    async def keep(self, analyzer: str, body: bytes) -> None:
        """In place of what it knew before."""
        ...

    async def kept(self, analyzer: str) -> tuple[bytes, float] | None:
        """What it knew, and when that was kept."""
        ...

    async def teach(self, lesson: Lesson) -> Lesson:
        """Puts a lesson down for the daemon, which takes it within a second, or when it starts. Audited.

        A verdict of the same person on the same incident replaces the one before, if nobody took that yet.
        """
        ...

    async def lessons(self, *, untaken: bool = True, incident: str | None = None, limit: int = 1000) -> list[Lesson]:
        """Oldest first."""
        ...

    async def taken(self, lesson: int, said: str) -> None:
        """The lesson was taken; its body is let go of."""
        ...

    async def alter(self, alteration: Alteration) -> Alteration:
        """Notes what was changed on purpose. Audited."""
        ...

    async def alterations(
        self, since: float = 0.0, after: int = 0, subject: str | None = None, limit: int = 1000
    ) -> list[Alteration]:
        """Done since then, and noted after the one of that number; the latest ``limit``, oldest first."""
        ...
