"""Judges, hashes and checks passwords, and says how often somebody may guess at one."""

import asyncio
import hmac
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise

from x0tta6bl4.kernel.errors import X0tError
from x0tta6bl4.status.limits import RateLimiter

SHORTEST = 12
LONGEST_BYTES = 72
"""bcrypt reads no further, so a longer password would be weaker than it looks."""
LONGEST_READ = 4 * LONGEST_BYTES
"""Characters; what is longer is too long however it is spelt."""
LONG_ENOUGH = 20
"""Characters from which on a password may be of few kinds: it is a sentence then."""
KINDS = 3
DISTINCT = 5
"""Fewer different characters than this are a pattern, however long."""
ROUNDS = 12
"""bcrypt's cost: some 0.25 s of one core for each try."""

COMMONEST = frozenset({
    "password", "passwort", "passwd", "pass", "letmein", "welcome", "admin", "administrator", "root", "iloveyou",
    "monkey", "dragon", "sunshine", "princess", "football", "baseball", "superman", "batman", "master", "hello",
    "freedom", "whatever", "trustno", "shadow", "michael", "secret", "changeme", "changeit", "default", "login",
    "access", "test", "testing", "guest", "user", "qwerty", "qwertz", "azerty", "asdf", "zxcvbn", "starwars",
    "computer", "internet", "server", "system", "temp", "temporary", "summer", "winter", "spring", "autumn",
    "operator", "oncall", "company", "monitor", "grafana", "prometheus", "passwordpassword",
    "correcthorsebatterystaple",
})  # fmt: skip
"""What is tried first, as it is left when the digits and signs round it are taken off."""
ROWS = ("1234567890", "qwertzuiop", "qwertyuiop", "asdfghjkl", "zxcvbnm", "yxcvbnm", "azertyuiop", "qsdfghjklm")
_LOOKALIKES = str.maketrans("013457@$!", "oieastasi")
_NEIGHBOURS = frozenset(pair for row in ROWS for line in (row, row[::-1]) for pair in pairwise(line))


class PasswordRefused(X0tError):
    """A password that will not do; ``broken`` has every rule that it breaks, as a sentence each."""

    def __init__(self, broken: Sequence[str]) -> None:
        self.broken = tuple(broken)
        super().__init__("; ".join(broken))


def broken_rules(password: str, name: str = "") -> list[str]:
    """Why it will not do, every reason at once; empty when it will."""
    text = _normal(password)
    lower = text.lower()
    told = []
    if len(text) < SHORTEST:
        told.append(f"it has {len(text)} characters and needs {SHORTEST}")
    if text and not text.isprintable():
        told.append("it has characters that cannot be typed, such as a line's end")
    elif len(_bytes(text) or b"") > LONGEST_BYTES:
        told.append(f"it is {len(_bytes(text) or b'')} bytes long, and only {LONGEST_BYTES} of them would count")
    if name and (lower == name.lower() or (len(name) > 3 and name.lower() in lower)):
        told.append("it contains the name")
    if _is_pattern(lower):
        told.append("it is a pattern: something repeated, or a row of the keyboard or the alphabet")
    if not COMMONEST.isdisjoint(_cores(lower)):
        told.append("it is one of the commonest, with something round it")
    if len(text) < LONG_ENOUGH and _kinds(text) < KINDS:
        told.append(
            f"it needs {KINDS} of the kinds lower case, upper case, digits and other signs, or {LONG_ENOUGH} characters"
        )
    return told


def _normal(password: str) -> str:
    """One spelling for what looks the same: keyboards differ in how they write an accent."""
    return unicodedata.normalize("NFKC", password)


def _bytes(text: str) -> bytes | None:
    """As it is hashed; None when it has what is no text."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return None


def _kinds(text: str) -> int:
    tests: Iterable[Callable[[str], bool]] = (
        str.islower,
        str.isupper,
        str.isdigit,
        lambda c: not c.isalnum(),
    )
    return sum(any(map(test, text)) for test in tests)


def _is_pattern(text: str) -> bool:
    size = len(text)
    if size < DISTINCT:
        return False
    if len(set(text)) < DISTINCT:
        return True
    if any((text[:width] * (size // width + 1))[:size] == text for width in range(1, size // 2 + 1)):
        return True
    pairs = list(pairwise(text))
    steps = sum(abs(ord(a) - ord(b)) <= 1 or (a, b) in _NEIGHBOURS for a, b in pairs)
    return steps >= 0.6 * len(pairs)


def _cores(text: str) -> set[str]:
    """What is left without the digits and signs round it, with lookalikes such as 0 for o read as letters."""
    signs = "".join({c for c in text if not c.isalpha()})
    return {text.strip(signs).translate(_LOOKALIKES), text.rstrip(signs).translate(_LOOKALIKES)}


class Passwords:
    """Hashes with bcrypt in a thread of its own, one at a time: a flood of tries costs one core and not all."""

    def __init__(self, rounds: int = ROUNDS) -> None:
        self._rounds = rounds

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        # One thread, also for those whose awaiter went away: what was begun is finished before the next.
        return ThreadPoolExecutor(1, thread_name_prefix="passwords")

    def hash_now(self, password: str) -> str:
        """Blocks for the time of one hash. PasswordRefused when bcrypt could not read all of it."""
        import bcrypt  # some MiB that nobody needs who never signs in

        data = _hashable(password)
        if data is None:
            raise PasswordRefused([f"it is empty, longer than {LONGEST_BYTES} bytes, or has characters that are none"])
        return bcrypt.hashpw(data, bcrypt.gensalt(self._rounds)).decode("ascii")

    def holds_now(self, password: str, kept: str | None) -> bool:
        """Blocks for the time of one hash, also when there is none to compare with or the password cannot be right."""
        import bcrypt

        data = _hashable(password)
        salt = bcrypt.gensalt(self._rounds)
        try:
            made = bcrypt.hashpw(data or b"-", kept.encode("utf-8", "replace") if kept else salt)
        except ValueError:  # what is kept is no hash: nobody's password fits it
            return False
        return kept is not None and data is not None and hmac.compare_digest(made, kept.encode("ascii"))

    async def hash(self, password: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.hash_now, password)

    async def holds(self, password: str, kept: str | None) -> bool:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.holds_now, password, kept)


def _hashable(password: str) -> bytes | None:
    if len(password) > LONGEST_READ:
        return None
    data = _bytes(_normal(password))
    return data if data and len(data) <= LONGEST_BYTES and b"\0" not in data else None


class Guesses:
    """Counts failures, and says how long to wait after too many. Success costs nothing, and time makes all good."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic, most: int = 4096) -> None:
        self._step = 60.0 / per_minute
        self._most = most
        self._clock = clock
        self._limiter = RateLimiter(per_minute, most, clock)
        self._until: dict[str, float] = {}
        """When the next guess is free, for those that have none left; the earliest stand first."""

    def wait(self, who: str) -> float:
        """Seconds until the next guess; 0 when it is free now."""
        return max(0.0, self._until.get(who, 0.0) - self._clock())

    def failed(self, who: str) -> float:
        """Counts one, and says how long to wait for the next."""
        now = self._clock()
        taken = self._limiter.take(who)
        self._until.pop(who, None)
        if taken.remaining == 0:
            # The bucket is full in ``full_in``; one guess fits as soon as it lacks less than a minute less one step.
            self._until[who] = now + max(0.0, taken.full_in + self._step - 60.0)
        while self._until and (len(self._until) > self._most or next(iter(self._until.values())) <= now):
            del self._until[next(iter(self._until))]
        return self.wait(who)
