"""Judges many metrics of one subject together: odd in many small ways is odd, and the oddest metrics are why.

Every metric is seen in four ways: its level, its jump since the sample before, its drift (short against long average)
and its restlessness (the logarithm of how far it strays from its long average). What is usual in each way is a mean and
a spread that forget in days. The *strangeness* of a sample in one way is by how many spreads it is farther off than
three, and never more than seventeen.

**What a score means.** The sum of the strangeness of all metrics of the subject in all four ways, divided by the number
of metrics that are learnt plus eight; the eight are there so that each of three metrics must be odder than each of
forty. Around 1 the alarm begins for a subject that is usually quiet. A score does not depend on the units of the
metrics, hardly on how many there are, nor on how often they are read.

**What a limit means.** The larger of two. One is where all subjects begin (0.85), a tenth more after alarms that nobody
judged, and times more for a subject that is restless: not one that has many short alarms, those may all be right, but
one that spends much of its time odd. The other is twice the score that the subject reaches at this time on most days.
No incident makes its subject deaf, since it counts only while it is new, and for this time of the day hardly before it
comes again on the next.

What it does not do: notice one odd metric among hundreds (the judge of single series does), a metric that stands still
for an hour, or a gradual change that takes much longer than a day. What comes at the same time night after night is
expected within a week, whether it is a job or a fault; and a subject that bursts at random all week is heard only when
it is much odder than its bursts. By its scores alone that cannot be told from one with long incidents every other day,
so neither can the second be heard for long.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

WEEK = 7 * 86400.0
WAYS = ("level", "jump", "drift", "restlessness")
"""In which ways a metric can be odd; ``Together.way`` says which was the oddest."""
LARGEST = 1e100
"""Larger values are taken for this one: their squares must not overflow."""
TINY = 1e-200
"""Keeps divisions defined where a metric has never moved."""
TIMES = 96
"""Into so many parts the day is cut to learn what is usual when: the shorter, the less is expected beside a job."""
BLOCK = 1024
"""So many metrics are worked on at once: what they need then stays in the processor's cache."""

# What is kept of a metric: one line of the state each. The last eight are bookkeeping.
ONCE, NOW, BEFORE, SHORT, LONG, BUSY, CALM, WIDEST = range(8)
MEAN = slice(8, 12)
SQUARE = slice(12, 16)
PART, CAUSE, WAY, LEARNT, SEEN, EVERY, BORN, COUNT = range(16, 24)
LINES = 24

# What is kept of a group.
GROUP = np.dtype(
    [
        ("members", np.int64),
        ("score", np.float64),
        ("raised", np.float64),  # its limit, as a multiple of where all begin
        ("habits", np.float32, TIMES),  # the score it usually reaches at each time of the day
        ("before", np.float32, TIMES),  # and the highest when it was last that time
        ("last", np.float64),  # when something was seen of it
        ("ready_at", np.float64),  # since when enough is learnt
        ("onset", np.float64),  # when its latest alarm began,
        ("hot_at", np.float64),  # when it was last in alarm,
        ("loudest", np.float64),  # its highest score at this time, below 0 if nothing was seen
        ("noise", np.float64),  # by how much its scores are above the start on average, if not expected
        ("owed", np.bool_),  # and whether it has not raised the limit yet
        ("ready", np.bool_),
        ("hot", np.bool_),
    ]
)
NAMES = tuple(GROUP.names or ())
FRESH = np.array(
    [(0, 0, 1, np.zeros(TIMES), np.zeros(TIMES), -np.inf, np.inf, -np.inf, -np.inf, -1, 0, False, False, False)],
    GROUP,
)


@dataclass(frozen=True)
class Settings:
    """All times are in seconds, and are floored at a number of samples where samples are rare."""

    grain: float = 60.0
    """Samples that come more often than this are averaged over it. Raise it when subjects that are read every second
    alarm at blips; lower it to see shorter ones."""
    fast: float = 180.0
    """The short average. Floored at three samples."""
    slow: float = 3600.0
    """The long average, from which drift and restlessness are measured. Floored at sixteen samples."""
    stir: float = 480.0
    """Over how long restlessness is felt. Floored at eight samples."""
    calm: float = 30000.0
    """What restlessness is compared with. Floored at sixty-four samples."""
    memory: float = 2 * 86400.0
    """After this a new habit weighs more than the old one. Longer is quieter over weekends, and slower to take a
    lasting change for usual. Floored at 576 samples."""
    wide: float = 14 * 86400.0
    """How long the widest stray of a metric is remembered, so that one that sleeps for days does not wake as a
    sensation."""
    learning: float = 86400.0
    """A metric counts once it was followed for so long. Less than a day takes the daily rhythm for a fault."""
    samples: int = 200
    """... and was seen so many times."""
    gap: float = 1800.0
    """After a silence this long (and of three usual intervals) averages and jumps begin anew; what is usual stays."""
    sigmas: float = 3.0
    """So many spreads off is still nothing. Raise it for fewer and surer findings."""
    most: float = 20.0
    """So many spreads off is as strange as it gets: one broken metric must not outvote forty."""
    blame: float = 1.75
    """From how many spreads on a metric is named among the causes. Lower than ``sigmas``, since one that is a little
    odd while its subject is very odd belongs to it."""
    clip: float = 40.0
    """What strays farther (in spreads) is learnt as if it strayed so far, and no sample may widen a spread by much more
    than a quarter, which is less where samples are rare: a glitch widens little, a lasting change does."""
    still: float = 1 / 300
    """The least spread, as a share of the level: a metric that never moved must move by about one percent to be odd."""
    sensitivity: float = 2.0
    """Scales every limit: 4 alarms at twice the score, 1 at half of it."""
    start: float = 0.85
    """The limit all subjects begin with, and come back to. Raise it for fewer and surer alarms of quiet subjects."""
    budget: float = 0.1
    """Alarms a week that a subject may have without its limit being raised for good: so often what one alarm added to
    it is taken away again."""
    step: float = 1.1
    """By how much alarms that nobody judged raise their subject's limit when they are over. Many raise it no more than
    one: a dozen real incidents a week must not make deaf to the next."""
    restless: float = 0.0017
    """A subject is restless whose scores are on average above ``start`` by this share of it, what is expected and what
    lasts not counted: for 43 minutes a week beyond ``loud``. Raise it where subjects are heard too little that have
    incidents of an hour every few days; lower it where those that burst at random are a nuisance."""
    steep: float = 6.0
    """The limit of a restless subject rises with this power of its restlessness. So steep because hosts that burst at
    random are hardly twice as restless as those with a dozen short incidents a week."""
    ceiling: float = 8.0
    """Restlessness never raises a limit above so many times its start, and no higher score is taken for usual at a time
    of the day. A verdict may raise it above."""
    loud: float = 0.4
    """What is above the start by more than this share of it counts as if it were by this much: restlessness is how much
    of its time a subject is odd, not how odd."""
    news: float = 1800.0
    """So long an alarm counts, from its beginning, for restlessness and for what is usual at its time of the day; what
    lasts longer is an incident, not a habit."""
    habit_room: float = 2.0
    """A limit is never under so many times the score that the subject usually reaches at this time of the day (a
    quarter of an hour). Raise it where nightly jobs still alarm, lower it to hear faults that fall together with
    them."""
    habit_rise: float = 0.2
    """By which share of what is missing the usual score of a time rises in a day on which it was reached again: a
    nightly job is expected after its fourth or fifth night."""
    habit_fall: float = 0.1
    """By which share it falls on a day without: a job that rests over the weekend is still expected on Monday."""
    young: float = 5 * 86400.0
    """How fast the limit of a subject comes down from twice its start: one that was followed for a day is known as far
    as a day goes."""
    merge: float = 1800.0
    """Alarms with less than this between them are one."""
    fade: float = 4 * WEEK
    """How long it takes until what a verdict has raised is forgotten; restlessness takes half of it."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{each.name}: must be a finite number above 0 (got {value!r})")
        if self.step <= 1:
            raise ValueError(f"step: must be above 1, or no alarm ever teaches anything (got {self.step!r})")
        for name, share in (("habit_rise", self.habit_rise), ("habit_fall", self.habit_fall)):
            if share > 1:
                raise ValueError(f"{name}: is a share, and must be 1 at most (got {share!r})")
        if self.ceiling < 1:
            raise ValueError(f"ceiling: must be 1 or more, or limits end below their start (got {self.ceiling!r})")
        if self.most <= self.sigmas:
            raise ValueError(
                f"most: must be above sigmas ({self.sigmas!r}), or nothing is ever odd (got {self.most!r})"
            )


class Together:
    """Follows metrics (rows) of subjects (groups); both come and go.

    Not safe for several threads. Group numbers should be small and dense: arrays are indexed by them.
    """

    def __init__(self, settings: Settings = Settings()) -> None:
        self.settings = settings
        self.size = 0
        """Rows handed out so far, the free ones among them: the length of what ``update`` takes."""
        self._state: Floats = np.zeros((LINES, 0))
        self._group: Rows = np.zeros(0, np.intp)
        self._alive = np.zeros(0, np.bool_)
        self._free: list[int] = []
        self._groups = np.zeros(0, GROUP)
        self._at = -math.inf

    def __len__(self) -> int:
        return int(self._alive[: self.size].sum())

    @property
    def scores(self) -> Floats:
        """By group: how odd it is, see the top of this module. The engine's own; the next update changes it."""
        scores: Floats = self._groups["score"]
        return scores

    @property
    def limits(self) -> Floats:
        """By group: the score from which on it is an alarm, at this time of the day."""
        its, groups = self.settings, self._groups
        young = 1 + np.exp(-np.maximum(self._at - groups["ready_at"], 0.0) / its.young)
        limits: Floats = np.maximum(its.start * groups["raised"] * self._restless(), self._expected(self._at))
        limits *= young * (its.sensitivity / 2)
        return limits

    def _restless(self) -> Floats:
        """By group: by how much its restlessness raises its limit."""
        its = self.settings
        restless: Floats = np.clip((self._groups["noise"] / its.restless) ** its.steep, 1.0, its.ceiling)
        return restless

    def _expected(self, at: float) -> Floats:
        """By group: up to which score is usual at this time of the day."""
        expected: Floats = self.settings.habit_room * self._groups["habits"][:, _time_of_day(at)].astype(np.float64)
        return expected

    @property
    def nbytes(self) -> int:
        """What is kept, in bytes."""
        return self._state.nbytes + self._group.nbytes + self._alive.nbytes + self._groups.nbytes

    # Coming and going

    def add(self, group: int, count: int) -> Rows:
        """Rows for so many new metrics of this group. Rows that were dropped are handed out again."""
        if group < 0:
            raise ValueError(f"group: must be 0 or more (got {group})")
        if count < 0:
            raise ValueError(f"count: must be 0 or more (got {count})")
        again, self._free = self._free[:count], self._free[count:]
        more = count - len(again)
        rows = np.array([*again, *range(self.size, self.size + more)], np.intp)
        self.size += more
        self._make_room(group + 1)
        self._state[:, rows] = 0.0
        self._group[rows] = group
        self._alive[rows] = True
        self._groups["members"][group] += count
        return rows

    def _make_room(self, groups: int) -> None:
        if self.size > len(self._group):
            room = max(self.size, min(2 * len(self._group), len(self._group) + 8 * BLOCK), 64)
            state = np.zeros((LINES, room))
            state[:, : self._state.shape[1]] = self._state
            self._state = state
            self._group = np.concatenate([self._group, np.zeros(room - len(self._group), np.intp)])
            self._alive = np.concatenate([self._alive, np.zeros(room - len(self._alive), np.bool_)])
        if groups > len(self._groups):
            self._groups = np.concatenate([self._groups, np.repeat(FRESH, groups - len(self._groups))])

    def drop(self, rows: ArrayLike) -> None:
        """Forget these metrics. A group without any is forgotten with its limit."""
        gone = np.unique(np.asarray(rows, np.intp))
        for row in gone:
            self._known(int(row))
        self._groups["members"] -= np.bincount(self._group[gone], minlength=len(self._groups))
        self._state[:, gone] = 0.0
        self._alive[gone] = False
        self._free = sorted({*self._free, *gone.tolist()})
        touched = np.unique(self._group[gone])
        self._group[gone] = 0
        self._groups[touched[self._groups["members"][touched] == 0]] = FRESH

    def _known(self, row: int) -> int:
        if not (0 <= row < self.size and self._alive[row]):
            raise ValueError(f"row {row}: no metric is followed under this number; use those that add() gave")
        return row

    # One tick

    def update(self, values: ArrayLike, at: float) -> None:
        """Take what was seen at one moment: a value for each row (``size`` of them), NaN where nothing was seen.

        ``at``: seconds since any fixed moment. A clock that stands or goes back is taken for one that went on as usual.
        """
        seen_values = np.asarray(values, np.float64)
        if seen_values.shape != (self.size,):
            raise ValueError(f"values: expected one for each of {self.size} rows (got shape {seen_values.shape})")
        if not math.isfinite(at):
            raise ValueError(f"at: must be a finite number of seconds (got {at!r})")
        seen = np.isfinite(seen_values)
        seen &= self._alive[: self.size]
        for start in range(0, self.size, BLOCK):
            part = slice(start, min(start + BLOCK, self.size))
            here = seen[part]
            if here.all():
                self._look(self._state[:, part], seen_values[part], at)
            elif 2 * np.count_nonzero(here) > len(here):  # put back the few is faster than to pick out the many
                few = start + np.flatnonzero(~here)
                state = self._state[:, few]
                self._look(self._state[:, part], np.where(here, seen_values[part], self._state[NOW, part]), at)
                self._state[:, few] = state
            elif here.any():
                some = start + np.flatnonzero(here)
                state = self._state[:, some]
                self._look(state, seen_values[some], at)
                self._state[:, some] = state
        self._sum_up(seen, at)

    def _look(self, s: Floats, values: Floats, at: float) -> None:
        """Learn one sample of each metric in ``s``, and note how strange it was."""
        its = self.settings
        raw = np.clip(values, -LARGEST, LARGEST)
        mean, square = s[MEAN], s[SQUARE]
        new = s[COUNT] == 0
        any_new = bool(new.any())
        if any_new:
            s[ONCE : LONG + 1, new] = raw[new]
            mean[0, new] = raw[new]
            s[SEEN, new] = s[BORN, new] = at
        passed = at - s[SEEN]
        np.copyto(passed, s[EVERY], where=passed <= 0)
        late = passed > np.maximum(its.gap, 3 * s[EVERY])
        every = np.minimum(passed, 3 * s[EVERY])
        every -= s[EVERY]
        every *= 0.125
        s[EVERY] += every
        np.copyto(s[EVERY], passed, where=s[EVERY] == 0)

        youth = 1 / (s[COUNT] + 1)
        dt: Floats | float = float(passed[0]) if passed.min() == passed.max() else passed

        def pace(time: float, floor: int) -> Floats:
            """How much of a new sample goes into an average of this time: more while the average is young."""
            share: Floats = np.maximum(np.minimum(dt / (dt + time), 1 / (1 + floor)), youth)
            return share

        share = pace(its.memory, 576)
        still = its.still * np.abs(mean[0])
        least = 0.02 * s[WIDEST]
        least += still
        least += TINY
        spread = np.sqrt(square)
        spread[:3] += least
        spread[3] += 0.05

        # What is out of reach is taken for what is just within it, or a glitch would deafen the averages for days. What
        # was always zero has no spread to measure a reach by: the second time that it is something else gives it one.
        reach = spread * np.clip(np.sqrt(0.6 / share), 8.0, its.clip)
        never = square[0] == 0
        if never.any():
            strays = never & (np.abs(raw - mean[0]) > reach[0])
            reach[:3, never] = np.maximum(reach[:3, never], np.abs(s[ONCE] - mean[0])[never])
            s[ONCE, strays] = raw[strays]
        x = np.minimum(np.maximum(raw, mean[0] - reach[0]), mean[0] + reach[0])
        if late.any():
            s[NOW : LONG + 1, late] = x[late]

        grain = np.minimum(dt / its.grain, 1.0)
        now = s[NOW]
        now += grain * (x - now)
        astray = np.abs(now - s[LONG])
        astray -= its.sigmas * still
        np.maximum(astray, 0.0, out=astray)
        s[SHORT] += pace(its.fast, 3) * (now - s[SHORT])
        s[LONG] += pace(its.slow, 16) * (now - s[LONG])
        s[BUSY] += pace(its.stir, 8) * (astray - s[BUSY])
        s[CALM] += pace(its.calm, 64) * (astray - s[CALM])
        off = np.empty((4, len(x)))
        off[0] = now
        np.subtract(now, s[BEFORE], out=off[1])
        np.subtract(s[SHORT], s[LONG], out=off[2])
        np.log(s[BUSY] + 0.05 * s[CALM] + least, out=off[3])
        if any_new:
            mean[3, new] = off[3, new]
        off -= mean
        odd = np.abs(off)
        odd /= spread
        np.minimum(odd, its.most, out=odd)

        s[BEFORE] += grain * (now - s[BEFORE])
        np.clip(off, -reach, reach, out=off)
        s[WIDEST] *= 1 - np.minimum(dt / its.wide, 1.0)
        np.maximum(s[WIDEST], np.abs(off[0]), out=s[WIDEST])
        mean += share * off
        off *= off
        off *= share
        square += off
        square *= 1 - share

        s[COUNT] += 1
        s[SEEN] = at
        np.minimum(s[BORN], at, out=s[BORN])
        s[LEARNT] = (s[COUNT] > its.samples) & (at - s[BORN] >= its.learning)
        s[WAY] = odd.argmax(axis=0)
        odd -= its.blame
        blame = np.maximum(odd, 0.0).sum(axis=0)
        blame *= s[LEARNT]
        s[CAUSE] += np.minimum(dt / (dt + its.grain), 0.5) * (blame - s[CAUSE])
        odd -= its.sigmas - its.blame
        np.maximum(odd, 0.0, out=odd)
        odd.sum(axis=0, out=s[PART])
        s[PART] *= s[LEARNT]

    def _fresh(self, at: float) -> NDArray[np.bool_]:
        """Which metrics still count: those that were seen no longer ago than they usually are."""
        state = self._state[:, : self.size]
        fresh: NDArray[np.bool_] = (at - state[SEEN] <= 1.5 * state[EVERY]) & (state[COUNT] > 0)
        return fresh

    def _sum_up(self, seen: NDArray[np.bool_], at: float) -> None:
        """Scores and alarms of the groups of which something was seen."""
        its, groups = self.settings, self._groups
        state, group = self._state[:, : self.size], self._group[: self.size]
        part, learnt_rows = state[PART], state[LEARNT]
        if seen.all():
            counted = groups["members"]
        else:
            fresh = seen | self._fresh(at)
            part, learnt_rows = part * fresh, learnt_rows * fresh
            counted = np.bincount(group, fresh, len(groups))
        learnt = np.bincount(group, learnt_rows, len(groups))
        raw = np.bincount(group, part, len(groups)) / (learnt + 8)
        told = np.bincount(group, seen, len(groups)) > 0
        passed = np.clip(at - groups["last"], 0.0, its.gap)

        # A little smoothing: one tick alone says less than two.
        share = np.minimum(passed / (passed + its.grain * 3 / 7), 0.7)
        groups["score"] += np.where(told, share * (raw - groups["score"]), 0.0)
        groups["score"][counted == 0] = 0.0
        groups["last"][told] = at
        ready = groups["ready"]
        np.copyto(ready, learnt >= np.minimum(8, (groups["members"] + 1) // 2), where=told)
        ready &= (counted > 0) & (learnt > 0)
        np.copyto(groups["ready_at"], at, where=ready & (groups["ready_at"] > at))
        self._hear(np.where(told & ready, passed, 0.0), at)
        self._alarm(told, at)
        self._relax(np.where(told, passed, 0.0))

    def _hear(self, passed: Floats, at: float) -> None:
        """Learn how loud each group usually is, at this time of the day and at all."""
        its, groups, was = self.settings, self._groups, _time_of_day(self._at)
        if was != _time_of_day(at):
            loudest, before, habit = groups["loudest"], groups["before"][:, was], groups["habits"][:, was]
            told = groups["ready"] & (loudest >= 0)
            # What came only once may have been an incident: the last time must have been nearly as loud.
            more = np.minimum(loudest, 1.25 * np.maximum(before, habit)) - habit
            habit += np.where(told, np.where(more > 0, its.habit_rise, its.habit_fall) * more, 0.0)
            np.copyto(before, loudest, where=told, casting="same_kind")
            groups["loudest"] = -1.0
        self._at = at
        score = groups["score"]
        stale = (at - groups["hot_at"] <= its.merge) & (at - groups["onset"] > its.news)
        heard = np.where(stale, 0.0, np.minimum(score, its.ceiling))
        np.copyto(groups["loudest"], np.maximum(groups["loudest"], heard), where=passed > 0)
        odd = np.clip(score / its.start - 1, 0.0, its.loud)
        odd[stale | (score <= self._expected(at))] = 0.0
        known = np.clip(at - groups["ready_at"], WEEK, its.fade / 2)
        groups["noise"] += passed / (passed + known) * (odd - groups["noise"])

    def _alarm(self, told: NDArray[np.bool_], at: float) -> None:
        """Note which groups are in alarm; those that are over and nobody has judged raise their limits a little."""
        its, groups = self.settings, self._groups
        for name in ("hot_at", "onset"):  # a clock set back must not stop the counting of alarms
            np.minimum(groups[name], at, out=groups[name])
        limits, owed = self.limits, groups["owed"]
        groups["hot"] = hot = groups["ready"] & (groups["score"] >= limits)
        hot = hot & told
        begun = hot & (at - groups["hot_at"] > its.merge)
        over = owed & told & (at - groups["hot_at"] > its.merge)
        raised = groups["raised"]
        np.copyto(raised, np.maximum(raised, np.minimum(its.step * raised, its.step)), where=over)
        owed[over] = False
        groups["onset"][begun] = at
        owed |= begun
        groups["hot_at"][hot] = at

    def _relax(self, passed: Floats) -> None:
        """Let limits go back to their start, as fast as the budget of alarms would drive them up."""
        its, groups = self.settings, self._groups
        high, step = np.log(groups["raised"]), math.log(its.step)
        slide = step * its.budget / WEEK * passed
        above = np.maximum(high - step, 0.0) * np.minimum(passed / its.fade, 1.0)
        groups["raised"] = np.exp(
            np.where(high > 0, np.maximum(high - slide - above, 0.0), np.minimum(high + slide, 0.0))
        )

    # What came of it

    def alarms(self) -> Rows:
        """The groups whose latest score reached their limit; never one that is still learning or silent."""
        return np.flatnonzero(self._groups["hot"])

    def learning(self) -> NDArray[np.bool_]:
        """By group: is too little of it learnt (half of its metrics, or eight) for an alarm?"""
        learning: NDArray[np.bool_] = (self._groups["members"] > 0) & ~self._groups["ready"]
        return learning

    def progress(self, group: int) -> float:
        """How far the learning of a group's metrics has come, from 0 to 1, on average."""
        rows = self._rows_of(group)
        state = self._state[:, rows]
        age = np.minimum(
            (state[SEEN] - state[BORN]) / self.settings.learning, state[COUNT] / (self.settings.samples + 1)
        )
        return float(np.minimum(age, 1.0).mean())

    def contributions(self, group: int) -> list[tuple[int, float]]:
        """Which metrics make the group odd, the most telling first, and what share of it is each one's.

        The last samples count, the latest most, and metrics beyond ``Settings.blame`` spreads. Empty: none is odd.
        """
        rows = self._rows_of(group)
        last = float(self._groups["last"][group])
        if not math.isfinite(last):
            return []
        cause = self._state[CAUSE, rows] * self._fresh(last)[rows]
        total = cause.sum()
        if total < 1e-9:
            return []
        order = np.argsort(-cause, kind="stable")
        return [(int(rows[i]), float(cause[i] / total)) for i in order if cause[i] > 1e-9 * total]

    def causes(self) -> Floats:
        """By row: how odd it was in the last samples, what ``contributions`` rests on. A copy."""
        return self._state[CAUSE, : self.size].copy()

    def way(self, row: int) -> str:
        """In which of the ``WAYS`` the latest sample of this metric was the oddest."""
        return WAYS[int(self._state[WAY, self._known(row)])]

    def usual(self, row: int) -> tuple[float, float]:
        """Between which values this metric is usual; not a number if it was never seen."""
        state = self._state[:, self._known(row)]
        if state[COUNT] == 0:
            return math.nan, math.nan
        level = float(state[MEAN.start])
        least = 0.02 * state[WIDEST] + self.settings.still * abs(level)
        reach = self.settings.sigmas * float(math.sqrt(state[SQUARE.start]) + least)
        return level - reach, level + reach

    def _rows_of(self, group: int) -> Rows:
        if not (0 <= group < len(self._groups) and self._groups["members"][group]):
            raise ValueError(f"group {group}: no metric of it is followed; add() makes some")
        return np.flatnonzero(self._alive[: self.size] & (self._group[: self.size] == group))

    def judge(self, group: int, right: bool, score: float) -> None:
        """An operator says whether the alarm with this score was right.

        A false one puts the group's limit above that score at once, however high. A right one takes back what raised
        the limit, down to just below that score, and never under half of the start.
        """
        self._rows_of(group)
        if not (math.isfinite(score) and score >= 0):
            raise ValueError(f"score: must be the finite score of the alarm that was judged (got {score!r})")
        said = score / (self.settings.sensitivity / 2)
        its = self._groups[group]
        start, now = self.settings.start, float(its["raised"])
        if right:
            young = 1 + math.exp(-max(self._at - float(its["ready_at"]), 0.0) / self.settings.young)
            enough = max(0.5 * start, 0.9 * said / young)
            calm = self.settings.restless * max(enough / start, 1.0) ** (1 / self.settings.steep)
            its["noise"] = min(float(its["noise"]), calm)
            its["raised"] = min(now, enough / (start * float(self._restless()[group])))
            np.minimum(its["habits"], enough / self.settings.habit_room, out=its["habits"])
        else:
            its["raised"] = max(now, 1.1 * said / (start * float(self._restless()[group])))
        its["owed"] = False

    # Keeping it

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """All that was learnt, as copies. What passes until it is restored is a gap in which nothing was seen."""
        kept: dict[str, NDArray[Any]] = {
            "metrics": self._state[:, : self.size].copy(),
            "group": self._group[: self.size].astype(np.int32),
            "alive": self._alive[: self.size].copy(),
            "clock": np.array([self._at]),
        }
        return kept | {f"groups.{name}": self._groups[name].copy() for name in NAMES}

    def restore(self, kept: Mapping[str, NDArray[Any]]) -> None:
        """Take over a snapshot in place of all that is known now.

        One that does not fit raises ValueError, and changes nothing.
        """
        wanted = self.snapshot()
        if missing := sorted(wanted.keys() - kept.keys()):
            raise ValueError(f"snapshot: lacks {', '.join(missing)}; it was not made by this engine, so learn anew")
        rows, numbers = kept["group"].shape[:1], kept["groups.score"].shape[:1]
        for name, like in wanted.items():
            here = kept[name]
            first = (LINES, *rows) if name == "metrics" else (1,) if name == "clock" else rows
            shape = (*numbers, *like.shape[1:]) if name.startswith("groups.") else first
            if here.shape != shape or here.dtype.kind != like.dtype.kind:
                raise ValueError(
                    f"snapshot: {name} is {here.dtype} {here.shape}, expected {like.dtype} {shape}; "
                    "it is damaged or of another version, so learn anew"
                )
        group, alive, metrics = kept["group"].astype(np.intp), kept["alive"].copy(), kept["metrics"].astype(np.float64)
        groups = np.repeat(FRESH, len(kept["groups.score"]))
        for name in NAMES:
            groups[name] = kept[f"groups.{name}"]
        if len(group) and not 0 <= group.min() <= group.max() < len(groups):
            raise ValueError(
                f"snapshot: group names numbers outside 0 to {len(groups) - 1}; it is damaged, so learn anew"
            )
        members = np.bincount(group[alive], minlength=len(groups))
        if (members != groups["members"]).any():
            raise ValueError("snapshot: groups.members does not agree with group; it is damaged, so learn anew")
        if not (np.isfinite(metrics).all() and np.isfinite(groups["score"] + groups["noise"]).all()):
            raise ValueError("snapshot: metrics or scores hold what is no number; it is damaged, so learn anew")
        if not ((groups["raised"] > 0).all() and (groups["habits"] >= 0).all() and (groups["noise"] >= 0).all()):
            raise ValueError("snapshot: a limit is not above 0; it is damaged, so learn anew")
        self._state, self.size, self._group, self._alive, self._groups = metrics, len(group), group, alive, groups
        self._free = np.flatnonzero(~alive).tolist()
        self._at = float(kept["clock"][0])


def _time_of_day(at: float) -> int:
    """Which of the ``TIMES`` of the day it is, by whatever clock the caller counts with."""
    return int(at % 86400 // (86400 // TIMES)) if math.isfinite(at) else 0
