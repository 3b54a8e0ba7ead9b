"""Keeps what analyzers have learnt over restarts, and takes to them what people and other nodes teach."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.kernel.lessons import Learner, Lesson
from x0tta6bl4.kernel.memory import Knowledge
from x0tta6bl4.kernel.supervise import Failure, guarded, guarded_call
from x0tta6bl4.kernel.watching import until_next
from x0tta6bl4.ports.clock import Clock

log = logging.getLogger("x0tta6bl4.kernel.learning")

LOOK_EVERY = 5.0
"""Seconds between two looks at whether something is to be kept."""
KEEP_EVERY = 900.0
"""Seconds after which what was learnt is kept: so much is lost at most when the power fails. A stop keeps it too."""
FIRST = 90.0
"""The same where nothing was ever kept: who has just installed it wants to see something."""
PATIENCE = 120.0
"""Seconds that keeping waits while something is being healed."""
AT_ONCE = 20
"""Lessons that are read together: each may bring megabytes that were learnt elsewhere."""


class Learning:
    """Follows the analyzers that learn. The loop tells it when something was said, and of its end."""

    def __init__(
        self, analyzers: Sequence[object], knowledge: Knowledge, clock: Clock, is_busy: Callable[[], bool]
    ) -> None:
        self._learners = [analyzer for analyzer in analyzers if isinstance(analyzer, Learner)]
        self._knowledge = knowledge
        self._clock = clock
        self._is_busy = is_busy
        self._kept_at = clock.monotonic()
        self._is_new = False
        """A lesson was taught that is not kept yet."""
        self._failing: set[str] = set()
        """Whose keeping failed last time; empty text: the store's."""
        self._hearing = asyncio.Lock()
        self._said: dict[tuple[int, float], str] = {}
        """What came of lessons that were taught and that the store still has for untaken: none is taught twice."""

    async def take_up(self) -> None:
        """Hands each what an earlier life knew. What cannot be read is told, and learnt anew."""
        is_any_new = False
        for learner in self._learners:
            kept = await self._knowledge.learnt.kept(learner.name)
            if kept is None:
                is_any_new = True
                continue
            body, at = kept
            read = guarded_call(partial(learner.take_up, body, at))
            if isinstance(read, Failure):
                log.warning(
                    "what was learnt cannot be read; it is learnt anew",
                    extra={"instance": learner.name, "reason": read.message},
                )
        early = KEEP_EVERY - FIRST if is_any_new else 0.0
        self._kept_at = self._clock.monotonic() - early

    async def hear(self) -> int:
        """Takes the lessons that wait; how many there were."""
        count = 0
        async with self._hearing:  # whoever else is told of the same lesson must not teach it once more meanwhile
            while self._learners and (lessons := await self._knowledge.learnt.lessons(limit=AT_ONCE)):
                said, self._said = self._said, {}
                for lesson in lessons:
                    key = (lesson.id, lesson.at)
                    if key not in said:
                        said[key] = self._taught(lesson)
                        self._is_new = True
                    self._said[key] = said[key]
                # Kept first, then taken: a daemon that is killed in between hears the lesson again in its next life.
                if self._is_new and not await self.keep_all():
                    break
                for lesson in lessons:
                    sentence = self._said[lesson.id, lesson.at]
                    await self._knowledge.learnt.taken(lesson.id, sentence)
                    del self._said[lesson.id, lesson.at]
                    count += 1
                    about = {"who": lesson.who, "incident": lesson.incident, "outcome": sentence}
                    log.info("a lesson was taken", extra=about)
        return count

    def _taught(self, lesson: Lesson) -> str:
        said: list[str] = []
        for learner in self._learners:
            if lesson.analyzer in ("", learner.name):
                taught = guarded_call(partial(learner.teach, lesson))
                if isinstance(taught, Failure):
                    said.append(f"{learner.name} could not use it: {taught.message}")
                elif taught:
                    said.append(taught)
        return "; ".join(said) or "no analyzer learns from it"

    async def run(self) -> None:
        """Beside the work, and not while something is being healed."""
        while self._learners:
            await asyncio.sleep(until_next(LOOK_EVERY, self._clock.monotonic()))
            waited = self._clock.monotonic() - self._kept_at
            if waited < KEEP_EVERY and not self._is_new:
                continue
            if self._is_busy() and waited < KEEP_EVERY + PATIENCE:
                continue
            await self.keep_all()

    async def keep_all(self) -> bool:
        """What each has learnt until now; False when the store does not take it, which is told once, and tried again.

        An analyzer that cannot say what it knows keeps none of the others from it.
        """
        self._kept_at = self._clock.monotonic()
        was_new, self._is_new = self._is_new, False
        failing: set[str] = set()
        for learner in self._learners:
            kept = await guarded(partial(self._keep, learner), None)
            if not isinstance(kept, Failure):
                continue
            ours = not isinstance(kept.exception, StoreError)
            whose = learner.name if ours else ""
            failing.add(whose)
            if whose not in self._failing:
                log.log(
                    logging.ERROR if ours else logging.WARNING,
                    "what was learnt cannot be kept",
                    exc_info=kept.exception if ours else None,
                    extra={"instance": learner.name, "reason": kept.message},
                )
            if not ours:
                self._is_new = was_new
                break
        self._failing = failing
        return "" not in failing

    async def _keep(self, learner: Learner) -> None:
        body = learner.learnt()
        if body:
            await self._knowledge.learnt.keep(learner.name, body)
