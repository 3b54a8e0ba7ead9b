"""Says how long something finite will last: its trend with a confidence band, and what its earlier days explain.

A runway knows one series of shares in use, from 0 to 1, and times; it knows nothing of what the shares are of. It keeps
two memories. The recent one is dense for the last seconds and ever thinner into the past, so that one bounded list
serves leaks of seconds and of days. The coarse one is the lowest and the highest share of each hour of two weeks, and
the last few teeth: rises that went back by themselves. Growth that these have shown before, and that went back each
time, is no leak.
"""

import struct
import sys
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from math import ceil, erf, exp, inf, log, sqrt
from statistics import median

LEAST_POINTS = 8
"""Points without which there is no line."""
CLOSEST = 0.4
"""Seconds between two points at least: closer ones cost room and say nothing new."""
THINNING = 16
"""Points lie no closer to each other than this part of their age, once there are many."""
ROOM = 224
"""Points at which the older ones are thinned. Thinned, a fortnight has about 200."""
KEPT = 16
"""Points that are kept though they are older than the reach: what is read every five minutes has a line as well."""
OLDEST = 16
"""How many times the reach these may be old."""
BLOCKS = 16
"""Stretches of equal time that one line is drawn through; each is the median of its points."""
LEAST_BLOCKS = 6
"""Fewer have a gap between them that a line would only guess at."""
SHORTEST = 3.0
"""Seconds of the shortest stretch of time that a line is drawn through."""
Z = 1.645
"""Standard deviations on either side that hold 90 % of what may come."""

SOON, OFTEN = 180.0, 6.0
"""A growth is believed to go on for six times as long as it has lasted, if its end is that near (seconds)."""
EBBS = 0.158
"""How that number falls where there is more time to wait and see: it is 3 for an end in four hours."""

FAINTER = 0.1
"""By which part of itself the band grows for each time that the end is as far away as the growth has lasted."""
GRAIN = 0.03
"""Part of the time left that no band is narrower than: the numbers are no finer."""
CLEAR = 1.5
"""So many times the width of its noise a growth must have risen."""
RISES = 1.3
"""So many times what rose before in as long a time, a short growth must have risen to be told from its past."""

TOOTH = 0.025
"""Share of the whole that a rise and its return have at least; less is noise."""
TEETH = 12
"""Teeth that are remembered."""
WITNESSES = 2
"""Teeth, or days, that must have shown a growth and its end before it counts as usual."""
STEEPER = 2.0
"""A growth so many times as steep as the usual ones is another one."""
BEYOND = 0.25
"""Part of a usual rise by which a growth may go beyond it before it is another one."""

HOUR = 3600
DAYS = 14
SLOTS = DAYS * 24
UNSEEN = 0xFFFF
FINEST = 0xFFFE
"""Shares are kept as so many parts of the whole."""
KNOWN_HOURS = 40
"""Hours, of those of two days and later, that must have been seen before the days are known."""

_HEAD = struct.Struct("<qHB")
_TOOTH = struct.Struct("<fffq")


@dataclass(frozen=True, slots=True)
class Outlook:
    """When it will be used up if it goes on like this. Seconds count from the moment that was asked about."""

    likely: float
    earliest: float
    latest: float
    """The end comes between these two in nine cases of ten. The latest may be infinite."""
    slope: float
    """Share of the whole a second."""
    confidence: float
    """How sure it is that the end comes within the lead, from 0 to 1."""
    since: float
    """From when on the growth was looked at."""


@dataclass(frozen=True, slots=True)
class Line:
    """A robust line through the recent past, and how sure it is."""

    slope: float
    low: float
    high: float
    """The slope lies between these two in nine cases of ten."""
    level: float
    """Where the line is at its end."""
    above: float
    """How far above the line its peaks reached."""
    peaks: float
    """How far above it they will reach: those of noise come again, where those of a bend do not."""
    width: float
    """From the lowest point under the line to the highest above it."""
    wander: float
    """By how much the share strays from its line in a second of walking at random, as a standard deviation."""
    span: float


def line_through(ats: "array[float]", shares: "array[float]", first: int) -> Line | None:
    """The median of all slopes between blocks of the points from ``first`` on; None when there are too few of them.

    Neither a glitch nor the teeth of a garbage collector bend such a line. Its band is that of Kendall's rank
    statistic, widened where neighbouring residuals resemble each other, because then fewer blocks say something new.
    """
    begin, end = ats[first], ats[-1]
    span = end - begin
    if len(ats) - first < LEAST_POINTS or span < SHORTEST:
        return None
    times, values = _blocks(ats, shares, first, begin, span)
    count = len(values)
    if count < LEAST_BLOCKS:
        return None
    slopes = sorted((values[j] - values[i]) / (times[j] - times[i]) for i in range(count) for j in range(i + 1, count))
    slope = median(slopes)
    half = count // 2
    late = median(
        (values[j] - values[i]) / (times[j] - times[i]) for i in range(half, count) for j in range(i + 1, count)
    )
    offset = median(value - slope * at for at, value in zip(times, values, strict=True))
    rest = [value - slope * at - offset for at, value in zip(times, values, strict=True)]
    alike = _alike(rest)
    widened = sqrt((1 + alike) / (1 - alike))
    reach = Z * sqrt(count * (count - 1) * (2 * count + 5) / 18) * widened
    pairs = len(slopes)
    low = slopes[max(0, int((pairs - reach) / 2))]
    high = slopes[min(pairs - 1, ceil((pairs + reach) / 2))]
    if late < low:  # it bends: what it does now counts, and that it goes on bending is as likely
        slope, low = late, min(low, late - (slope - late))
    elif late > slope + 2 * (high - slope):
        slope, high = late, max(high, late + (late - slope))
    steps = [
        (values[k + 1] - values[k] - slope * (times[k + 1] - times[k])) / sqrt(times[k + 1] - times[k])
        for k in range(count - 1)
    ]
    wander = min(1.0, 2 * alike) * sqrt(sum(step * step for step in steps) / len(steps))
    quarter = max(3, count // 4)
    level = slope * end + median(
        value - slope * at for at, value in zip(times[-quarter:], values[-quarter:], strict=True)
    )
    strays = [shares[k] - (level + slope * (ats[k] - end)) for k in range(first, len(ats))]
    above = max(0.0, max(strays))
    return Line(slope, low, high, level, above, 0.5 * above * (1 - alike), max(strays) - min(strays), wander, span)


def _blocks(
    ats: "array[float]", shares: "array[float]", first: int, begin: float, span: float
) -> tuple[list[float], list[float]]:
    times: list[float] = []
    values: list[float] = []
    start, last = first, len(ats)
    for number in range(BLOCKS):
        stop = bisect_left(ats, begin + span * (number + 1) / BLOCKS, start, last) if number < BLOCKS - 1 else last
        if stop > start:
            times.append(sum(ats[start:stop]) / (stop - start))
            values.append(median(shares[start:stop]))
        start = stop
    return times, values


def _alike(rest: list[float]) -> float:
    """How much neighbouring residuals resemble each other, from 0 to 0.9. A short series makes it seem less."""
    total = sum(one * one for one in rest)
    if total <= 0.0:
        return 0.0
    found = sum(rest[k] * rest[k + 1] for k in range(len(rest) - 1)) / total
    return min(0.9, max(0.0, found + 2.0 / len(rest) if found > 0 else 0.0))


class Runway:
    """What is known of one series."""

    __slots__ = (
        "_ats", "_cached", "_forced", "_highs", "_hour", "_known", "_lows", "_shares", "_teeth", "_tooth",
        "is_announced", "reach",
    )  # fmt: skip

    def __init__(self, reach: float) -> None:
        self.reach = reach
        """Seconds of the past that lines are drawn through."""
        self.is_announced = False
        """Its end was foretold at the last look: it is taken back less easily than it is said."""
        self._ats = array("d")
        self._shares = array("f")
        self._hour: int | None = None
        """The latest hour of which anything is known, counted from the epoch."""
        self._known = 0
        """Hours of the last fortnight that were seen."""
        self._lows = array("H")
        self._highs = array("H")
        self._forced = 0
        """A bit for each slot of an hour in which it was emptied by force: what it would have done is not known."""
        self._teeth: list[tuple[float, float, float, int]] = []
        """Lowest and highest share, seconds of the rise, and the hour in which it had gone back."""
        self._tooth: tuple[float, float, float, float] | None = None
        """The one that grows now: lowest share, its time, highest share, its time."""
        self._cached: tuple[float, float, float, Outlook | None] | None = None

    # -- taking in -----------------------------------------------------------------------------------------------------

    def take(self, at: float, share: float, wall: float) -> None:
        """A reading, newer than the ones before; ``wall``: the same moment by the clock on the wall."""
        share = min(max(share, 0.0), 1.0)
        hour = int(wall // HOUR)
        self._note(hour, share)
        self._grow(at, share, hour)
        ats = self._ats
        if ats and at - ats[-1] < CLOSEST:
            return
        ats.append(at)
        self._shares.append(share)
        if len(ats) > ROOM or ats[0] < at - 1.5 * self.reach:
            self._thin(at)

    def begin_anew(self, at: float, wall: float) -> None:
        """It was emptied by force, or belongs to another process: what was seen before that moment is another line."""
        ats = self._ats
        if not ats or ats[0] >= at:
            return
        gone = bisect_left(ats, at)
        del ats[:gone], self._shares[:gone]
        self._tooth = None
        self._cached = None
        self.is_announced = False
        hour = int(wall // HOUR)
        if self._hour is not None and hour > self._hour - SLOTS:
            self._move_to(hour)
            self._forced |= 1 << hour % SLOTS

    @property
    def seen_at(self) -> float | None:
        """When the latest point was seen."""
        return self._ats[-1] if self._ats else None

    @property
    def hour(self) -> int | None:
        return self._hour

    @property
    def hours_known(self) -> int:
        """Hours of the last fortnight that were seen."""
        return self._known

    @property
    def knows_days(self) -> bool:
        """Whether two days were seen, so that growth by the hour of the day can be told from a leak."""
        return self._known >= KNOWN_HOURS

    def _note(self, hour: int, share: float) -> None:
        self._move_to(hour)
        slot = hour % SLOTS
        kept = round(share * FINEST)
        if self._lows[slot] == UNSEEN:
            self._lows[slot] = self._highs[slot] = kept
            self._known = SLOTS - self._lows.count(UNSEEN)
        elif kept < self._lows[slot]:
            self._lows[slot] = kept
        elif kept > self._highs[slot]:
            self._highs[slot] = kept

    def _move_to(self, hour: int) -> None:
        """Makes place for that hour; the hours that were missed are not known."""
        if not self._lows:
            self._lows = array("H", [UNSEEN]) * SLOTS
            self._highs = array("H", [UNSEEN]) * SLOTS
        newest = self._hour
        if newest is None or not -SLOTS < hour - newest < SLOTS:  # also when the clock was set by years
            for slot in range(SLOTS):
                self._lows[slot] = self._highs[slot] = UNSEEN
            self._forced = 0
            self._hour = hour
            return
        for missed in range(newest + 1, hour + 1):
            slot = missed % SLOTS
            self._lows[slot] = self._highs[slot] = UNSEEN
            self._forced &= ~(1 << slot)
        self._hour = max(newest, hour)

    def _grow(self, at: float, share: float, hour: int) -> None:
        tooth = self._tooth
        if tooth is None:
            self._tooth = (share, at, share, at)
            return
        low, low_at, high, high_at = tooth
        if share < low:
            low, low_at, high, high_at = share, at, share, at
        elif share > high:
            high, high_at = share, at
            if high - low < TOOTH / 2:
                low_at = at  # it lies still: the rise has not begun
        elif high - share >= max(TOOTH, 0.5 * (high - low)):
            self._teeth.append((low, high, high_at - low_at, hour))
            del self._teeth[:-TEETH]
            low, low_at, high, high_at = share, at, share, at
        self._tooth = (low, low_at, high, high_at)

    def _thin(self, now: float) -> None:
        ats, shares = self._ats, self._shares
        count = len(ats)
        first = bisect_left(ats, now - self.reach)
        if count - first < KEPT:
            first = bisect_left(ats, now - OLDEST * self.reach, max(0, count - KEPT))
        kept_ats, kept_shares = array("d"), array("f")
        before = -inf
        thins = count > ROOM
        for k in range(first, count):
            if not thins or k == count - 1 or ats[k] - before >= (now - ats[k]) / THINNING:
                before = ats[k]
                kept_ats.append(before)
                kept_shares.append(shares[k])
        self._ats, self._shares = kept_ats, kept_shares

    # -- judging -------------------------------------------------------------------------------------------------------

    def outlook(self, now: float, wall: float, lead: float, least_rise: float, sure: float) -> Outlook | None:
        """The end, if it is likely to come within ``lead`` seconds and that is at least as ``sure``; None otherwise.

        Growth that earlier teeth or days explain gives None as well.
        """
        if len(self._ats) < LEAST_POINTS:
            self.is_announced = False
            return None
        latest_at = self._ats[-1]
        cached = self._cached
        if cached is not None and cached[:3] == (latest_at, lead, sure):
            found = cached[3]
        else:
            found = self._look(wall, lead, least_rise, sure)
            self._cached = (latest_at, lead, sure, found)
        self.is_announced = found is not None
        if found is None:
            return None
        passed = max(0.0, now - latest_at)
        return Outlook(
            max(0.0, found.likely - passed),
            max(0.0, found.earliest - passed),
            max(0.0, found.latest - passed),
            found.slope,
            found.confidence,
            found.since,
        )

    def _look(self, wall: float, lead: float, least_rise: float, sure: float) -> Outlook | None:
        ats, shares = self._ats, self._shares
        if max(shares) - min(shares) < least_rise:
            return None
        # What was said is taken back when it is clearly not so any more, not at the first doubt.
        held = 1.3 if self.is_announced else 1.0
        enough = sure - 0.3 if self.is_announced else sure
        end = ats[-1]
        span = min(end - ats[0], OLDEST * self.reach)
        before = -1
        while span >= SHORTEST:
            first = bisect_left(ats, end - span)
            if len(ats) - first < LEAST_POINTS:
                break
            found = self._over(first, lead * held, least_rise / held, held) if first != before else None
            if (
                found is not None
                and found.confidence >= enough
                and (self.is_announced or not self._rose_before(first, found))
                and not self._is_usual(found, wall, lead)
            ):
                return found  # the longest growth there is: a shorter one is more of an accident
            before = first
            span /= 2
        return None

    def _over(self, first: int, lead: float, least_rise: float, held: float) -> Outlook | None:
        """What the points from there on say by themselves."""
        ats, shares = self._ats, self._shares
        part = max(2, (len(ats) - first) // 4)
        rough = sum(shares[-part:]) / part - sum(shares[first : first + part]) / part
        if rough < 0.4 * least_rise or (1.0 - max(shares[-part:])) * (ats[-1] - ats[first]) > 4 * rough * lead:
            return None
        line = line_through(ats, shares, first)
        if line is None or line.slope <= 0 or line.slope * line.span < max(least_rise, CLEAR * line.width / held):
            return None
        # Its peaks meet the whole first. Where it strays up and down, so does the moment of the end.
        room = max(0.0, 1.0 - line.level)
        likely = max(0.0, room - line.peaks) / line.slope
        if likely > lead or likely > held * _may_last(likely) * line.span:
            return None
        strays = Z * line.wander * sqrt(max(likely, 1.0))
        # The further it is from what was seen, the less is known: the band opens with the distance.
        opens = FAINTER * likely / line.span
        grain = (ats[-1] - ats[-2]) + GRAIN * likely
        earliest = max(0.0, room - line.above - strays) / (line.high * (1 + opens)) - grain
        latest = (room + strays) / line.low * (1 + opens) + grain if line.low > 0 else inf
        needed = max(0.0, room - line.peaks) / lead
        doubt = sqrt(((line.high - line.low) / (2 * Z)) ** 2 + (line.wander / sqrt(max(lead, 1.0))) ** 2)
        sureness = 1.0 if doubt <= 0 else 0.5 * (1 + erf((line.slope - needed) / doubt / sqrt(2)))
        return Outlook(
            likely, max(0.0, min(earliest, likely)), max(latest, likely), line.slope, min(0.99, sureness), ats[first]
        )

    def _rose_before(self, first: int, found: Outlook) -> bool:
        """Whether about as much rose in about as long a time before, and that was not its end: it goes up and down."""
        ats, shares = self._ats, self._shares
        span = ats[-1] - ats[first]
        most = found.slope * span / RISES
        low = 0
        for k in range(1, first):
            while ats[k] - ats[low] > 1.5 * span:
                low += 1
            if low < k and shares[k] - min(shares[low:k]) >= most:
                return True
        return False

    def _is_usual(self, found: Outlook, wall: float, lead: float) -> bool:
        return self._is_a_tooth(found) or self._was_there(found, wall) or self._is_of_the_day(found, wall, lead)

    def _is_a_tooth(self, found: Outlook) -> bool:
        """Whether it has risen like this before, as long and as far, and gone back by itself."""
        if self._tooth is None:
            return False
        low, low_at, high, high_at = self._tooth
        end = self._ats[-1]
        if found.since < low_at - 0.25 * (end - found.since):
            return False  # over several teeth: these are in the line's band
        risen, lasted = high - low, max(high_at - low_at, CLOSEST)
        heights = [
            top - bottom
            for bottom, top, seconds, _ in self._teeth
            if (1 + BEYOND) * (top - bottom) >= risen
            and 1.5 * seconds >= lasted
            and STEEPER * (top - bottom) >= found.slope * seconds
        ]
        return len(heights) >= WITNESSES and low + median(heights) < 1.0

    def _was_there(self, found: Outlook, wall: float) -> bool:
        """Whether it was as high as now before, got there as steeply, and came back: often enough to be its habit."""
        if self._hour is None:
            return False
        share, now = self._shares[-1], int((wall - (self._ats[-1] - found.since)) // HOUR)
        risen = found.slope * (self._ats[-1] - found.since)
        ground = share - risen
        top, bottom = share - BEYOND * risen, ground + BEYOND * risen
        times, is_up, steepest = 0, False, 0.0
        for hour in range(self._hour - SLOTS + 1, now):
            one = self._at(hour)
            if one is None or self._forced >> (hour % SLOTS) & 1:
                is_up, steepest = False, 0.0
                continue
            low, high = one
            steepest = max(steepest, self._rise_in(hour))
            if high >= top:
                is_up = True
            if is_up and low <= bottom:
                if STEEPER * steepest >= min(risen, found.slope * HOUR):
                    times += 1
                is_up, steepest = False, 0.0
        return times >= WITNESSES

    def _is_of_the_day(self, found: Outlook, wall: float, lead: float) -> bool:
        """Whether the same hours of earlier days showed such growth, it went back, and today's will end in time."""
        if self._hour is None:
            return False
        now = int(wall // HOUR)
        ahead = max(1, ceil(lead / HOUR))
        behind = 2 + int((self._ats[-1] - found.since) // HOUR)
        share = self._shares[-1]
        tops: list[float] = []
        for day in range(1, DAYS):
            then = now - 24 * day
            if then - behind <= self._hour - SLOTS:
                break
            top = self._top_of_the_day(then - behind, then, ahead, share, found.slope, now)
            if top is not None:
                tops.append(top)
        return len(tops) >= WITNESSES and median(tops) < 1.0

    def _top_of_the_day(self, begin: int, then: int, ahead: int, share: float, slope: float, now: int) -> float | None:
        """Where the growth would end today if it went as it did around that hour; None if it was not like this."""
        until = min(then + 24, now)
        hours = [self._at(hour) for hour in range(begin, until)]
        if sum(one is not None for one in hours) < 0.75 * len(hours):
            return None
        if any(self._forced >> (hour % SLOTS) & 1 for hour in range(begin, until)):
            return None
        near = [(hour, one) for hour, one in zip(range(begin, until), hours, strict=True) if one is not None]
        rising = [(hour, one) for hour, one in near if hour <= then + ahead]
        if not rising:
            return None
        peak_hour, (_, peak) = max(rising, key=lambda item: item[1][1])
        ground = min(one[0] for hour, one in rising if hour <= peak_hour)
        rise = peak - ground
        after = [one[0] for hour, one in near if hour > peak_hour]
        if rise < TOOTH or not after or min(after) > peak - 0.5 * rise:
            return None
        if slope * HOUR > STEEPER * max(self._rise_in(hour) for hour, _ in rising):
            return None
        higher = 0.0
        past, today = self._at(then - 1), self._at(now - 1)
        if past is not None and today is not None:
            higher = max(0.0, (sum(today) - sum(past)) / 2)
        if share > peak + higher + BEYOND * rise:
            return None
        return peak + higher

    def _at(self, hour: int) -> tuple[float, float] | None:
        """Lowest and highest share of that hour."""
        slot = hour % SLOTS
        if self._lows[slot] == UNSEEN:
            return None
        return self._lows[slot] / FINEST, self._highs[slot] / FINEST

    def _rise_in(self, hour: int) -> float:
        """The most that can have risen in that hour. One that goes lower than the hour before may have fallen only."""
        one, before = self._at(hour), self._at(hour - 1)
        if one is None or before is None:
            return 0.0
        rise = one[1] - one[0]
        return min(rise, before[1] - before[0]) if one[0] < before[0] - TOOTH else rise

    # -- keeping -------------------------------------------------------------------------------------------------------

    def pack(self) -> bytes:
        """The coarse memory. The recent one is worth nothing after a gap."""
        hours = SLOTS if self._hour is not None else 0
        return b"".join(
            (
                _HEAD.pack(self._hour or 0, hours, len(self._teeth)),
                *(_TOOTH.pack(*tooth) for tooth in self._teeth),
                self._forced.to_bytes(SLOTS // 8, "little") if hours else b"",
                _little(self._lows).tobytes(),
                _little(self._highs).tobytes(),
            )
        )

    def unpack(self, packed: bytes) -> None:
        """Takes up what an earlier life packed. ValueError when it is not that."""
        if len(packed) < _HEAD.size:
            raise ValueError("it ends in the middle of a series")
        hour, hours, teeth = _HEAD.unpack_from(packed)
        place = _HEAD.size
        if hours not in (0, SLOTS) or teeth > TEETH:
            raise ValueError(f"a series has {hours} hours and {teeth} teeth; there are 0 or {SLOTS}, and up to {TEETH}")
        if len(packed) != place + teeth * _TOOTH.size + hours // 8 + 4 * hours:
            raise ValueError("it ends in the middle of a series")
        kept = [_TOOTH.unpack_from(packed, place + k * _TOOTH.size) for k in range(teeth)]
        place += teeth * _TOOTH.size
        if any(not (0 <= low <= high <= 1 and 0 <= seconds < inf) for low, high, seconds, _ in kept):
            raise ValueError("a tooth lies outside of the whole")
        self._teeth = kept
        if hours:
            self._hour = hour
            self._forced = int.from_bytes(packed[place : place + SLOTS // 8], "little")
            place += SLOTS // 8
            self._lows = _little(array("H", packed[place : place + 2 * SLOTS]))
            self._highs = _little(array("H", packed[place + 2 * SLOTS :]))
            self._known = SLOTS - self._lows.count(UNSEEN)


def _little(kept: "array[int]") -> "array[int]":
    """With the lower byte first, or back: what was kept is read on other machines, too."""
    if sys.byteorder == "little":
        return kept
    turned = kept[:]
    turned.byteswap()
    return turned


def _may_last(left: float) -> float:
    """How many times as long as it has lasted a growth is believed to go on, if it would then be at its end."""
    near = min(1.0, SOON / max(left, 1e-9))
    return OFTEN * exp(EBBS * log(near))
