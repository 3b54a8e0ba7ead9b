"""The engines of this project as the scorers want to see them: nothing is set but what a daemon sets by default."""

import numpy as np

from benchmarks.detect.recordings import Flags, Floats, Numbers
from x0tta6bl4 import __version__
from x0tta6bl4.judgement.novelty import Novelty
from x0tta6bl4.judgement.together import Together


class OurNovelty:
    """Every series alone; decides itself what is an alarm."""

    name = "x0tta6bl4 baseline"
    about = f"x0tta6bl4 {__version__}, judgement.novelty at its defaults"

    def start(self, series: int, counters: Flags | None = None) -> None:
        self.engine = Novelty()
        self.rows = self.engine.add(series, False if counters is None else counters)
        self._values = np.full(int(self.rows.max()) + 1, np.nan)

    def step(self, values: Floats, at: float | Floats) -> Numbers:
        if isinstance(at, np.ndarray):
            when = np.full(len(self._values), at[0])
            when[self.rows] = at
            at = when
        self._values[self.rows] = values
        return self.engine.update(self._values, at)[self.rows]

    def alarms(self) -> Flags:
        found = np.zeros(len(self._values), bool)
        found[self.engine.alarms()] = True
        return found[self.rows]


class OurTogether:
    """All metrics of a machine as one subject."""

    name = "x0tta6bl4 host"
    about = f"x0tta6bl4 {__version__}, judgement.together at its defaults"

    def start(self, learned: Floats, step: float) -> None:
        self.engine, self._step, self._now = Together(), step, 1_700_000_000.0
        self.rows = self.engine.add(0, learned.shape[1])
        self._values = np.full(int(self.rows.max()) + 1, np.nan)
        self._place = {int(row): number for number, row in enumerate(self.rows)}
        for row in learned:
            self.step(row)

    def step(self, values: Floats) -> float:
        self._now += self._step
        self._values[self.rows] = values
        self.engine.update(self._values, self._now)
        return float(self.engine.scores[0])

    def contributions(self) -> Numbers:
        found = np.zeros(len(self.rows))
        score = float(self.engine.scores[0])
        for row, share in self.engine.contributions(0):
            found[self._place[row]] = share * score
        return found
