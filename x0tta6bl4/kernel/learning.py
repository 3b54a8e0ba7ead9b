"""Keeps what analyzers have learnt over restarts, and takes to them what people and other nodes teach."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from x0tta6bl4.kernel.errors import StoreError
from x0tta6bl4.kernel.lessons import Learner
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
        """A lesson was taken that is not kept yet."""
        self._fails = False

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
        if not self._learners:
            return 0
        lessons = await self._knowledge.learnt.lessons()
        for lesson in lessons:
            said: list[str] = []
            for learner in self._learners:
                if lesson.analyzer in ("", learner.name):
                    taught = guarded_call(partial(learner.teach, lesson))
                    if isinstance(taught, Failure):
                        said.append(f"{learner.name} could not use it: {taught.message}")
                    elif taught:
                        said.append(taught)
            sentence = "; ".join(said) or "no analyzer learns from it"
            await self._knowledge.learnt.taken(lesson.id, sentence)
            self._is_new = True
            log.info("a lesson was taken", extra={"who": lesson.who, "incident": lesson.incident, "outcome": sentence})
        return len(lessons)

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

    async def keep_all(self) -> None:
        """What each has learnt until now. A store that does not take it is told once, and tried again."""
        self._kept_at = self._clock.monotonic()
        self._is_new = False
        for learner in self._learners:
            kept = await guarded(partial(self._keep, learner), None)
            if isinstance(kept, Failure):
                if not self._fails:
                    ours = not isinstance(kept.exception, StoreError)
                    log.log(
                        logging.ERROR if ours else logging.WARNING,
                        "what was learnt cannot be kept",
                        exc_info=kept.exception if ours else None,
                        extra={"instance": learner.name, "reason": kept.message},
                    )
                self._fails = True
                return
        self._fails = False

    async def _keep(self, learner: Learner) -> None:
        body = learner.learnt()
        if body:
            await self._knowledge.learnt.keep(learner.name, body)
