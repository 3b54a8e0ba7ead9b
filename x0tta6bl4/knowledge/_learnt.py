"""The part of the store for what analyzers have learnt, what they are taught, and what was changed on purpose."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from x0tta6bl4.kernel.facts import Attributes
from x0tta6bl4.kernel.lessons import Alteration, Lesson
from x0tta6bl4.kernel.memory import Encoder
from x0tta6bl4.ports.clock import Clock
from x0tta6bl4.ports.database import Database, Row, Transaction

MOST_KEPT = 10_000
"""Lessons that were taken, and alterations, that are remembered; the oldest go first."""

Append = Callable[[Transaction, float, str, str, Attributes], int]
"""Adds a link to the audit chain."""

_LESSON = (
    "SELECT kind, analyzer, incident, right, data, body, who, why, at, id, said, taken_at FROM lessons"  # every column
)
_ALTERATION = "SELECT subject, kind, detail, who, at, id FROM alterations"
_encode = Encoder(sort_keys=True).encode


class SqliteLearnt:
    """See ``kernel.lessons.LearntMemory``, whose promises these are."""

    def __init__(self, database: Database, clock: Clock, append: Append) -> None:
        self._database = database
        self._clock = clock
        self._append = append

    async def keep(self, analyzer: str, body: bytes) -> None:
        row = (analyzer, body, self._clock.wall())
        await self._database.write(
            lambda tx: tx.execute("INSERT OR REPLACE INTO learnt (analyzer, body, at) VALUES (?, ?, ?)", row)
        )

    async def kept(self, analyzer: str) -> tuple[bytes, float] | None:
        rows = await self._database.read("SELECT body, at FROM learnt WHERE analyzer = ?", (analyzer,))
        return (bytes(rows[0][0]), float(rows[0][1])) if rows else None

    async def teach(self, lesson: Lesson) -> Lesson:
        at = lesson.at or self._clock.wall()
        right = None if lesson.right is None else int(lesson.right)

        def teach(tx: Transaction) -> int:
            if lesson.kind == "verdict":
                tx.execute(
                    "DELETE FROM lessons WHERE kind = 'verdict' AND taken_at IS NULL AND incident = ? AND who = ?",
                    (lesson.incident, lesson.who),
                )
            tx.execute(
                "INSERT INTO lessons (kind, analyzer, incident, right, data, body, who, why, at, taken_at, said)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, '')",
                (
                    lesson.kind,
                    lesson.analyzer,
                    lesson.incident,
                    right,
                    _encode(dict(lesson.data)),
                    lesson.body,
                    lesson.who,
                    lesson.why,
                    at,
                ),
            )
            id = int(tx.query("SELECT max(id) FROM lessons")[0][0])
            about = {"analyzer": lesson.analyzer, "incident": lesson.incident, "right": lesson.right, "why": lesson.why}
            size = {"bytes": len(lesson.body)} if lesson.kind == "learnt" else {}
            self._append(tx, at, lesson.who, f"lesson.{lesson.kind}", {**about, **size})
            return id

        return replace(lesson, at=at, id=await self._database.write(teach))

    async def lessons(self, *, untaken: bool = True, incident: str | None = None, limit: int = 1000) -> list[Lesson]:
        rows = await self._database.read(
            f"{_LESSON} WHERE (? = 0 OR taken_at IS NULL) AND (? IS NULL OR incident = ?) ORDER BY id LIMIT ?",
            (int(untaken), incident, incident, limit),
        )
        return [_lesson(row) for row in rows]

    async def taken(self, lesson: int, said: str) -> None:
        at = self._clock.wall()

        def take(tx: Transaction) -> None:
            tx.execute("UPDATE lessons SET taken_at = ?, said = ?, body = x'' WHERE id = ?", (at, said, lesson))
            tx.execute("DELETE FROM lessons WHERE taken_at IS NOT NULL AND id <= ?", (lesson - MOST_KEPT,))

        await self._database.write(take)

    async def alter(self, alteration: Alteration) -> Alteration:
        told_at = self._clock.wall()

        def alter(tx: Transaction) -> int:
            tx.execute(
                "INSERT INTO alterations (subject, kind, detail, who, at, told_at) VALUES (?, ?, ?, ?, ?, ?)",
                (alteration.subject, alteration.kind, alteration.detail, alteration.who, alteration.at, told_at),
            )
            id = int(tx.query("SELECT max(id) FROM alterations")[0][0])
            tx.execute("DELETE FROM alterations WHERE id <= ?", (id - MOST_KEPT,))
            about = {"subject": alteration.subject, "detail": alteration.detail, "at": alteration.at}
            self._append(tx, told_at, alteration.who, f"alteration.{alteration.kind}", about)
            return id

        return replace(alteration, id=await self._database.write(alter))

    async def alterations(
        self, since: float = 0.0, after: int = 0, subject: str | None = None, limit: int = 1000
    ) -> list[Alteration]:
        rows: Sequence[Row] = await self._database.read(
            f"{_ALTERATION} WHERE at >= ? AND id > ? AND (? IS NULL OR subject = ?) ORDER BY id DESC LIMIT ?",
            (since, after, subject, subject, limit),
        )
        return [Alteration(*row) for row in reversed(rows)]


def _lesson(row: Row) -> Lesson:
    kind, analyzer, incident, right, data, body, who, why, at, id, said, taken_at = row
    heard = None if right is None else bool(right)
    return Lesson(
        kind, analyzer, incident, heard, json.loads(data), bytes(body), who, why, at, id, said=said, taken_at=taken_at
    )
