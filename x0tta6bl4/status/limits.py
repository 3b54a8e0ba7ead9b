"""Says how often one client may ask: a token bucket for each, kept as a single number."""

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Taken:
    """What a limiter said to one request. ``retry_after`` is 0 when it may pass."""

    remaining: int
    full_in: float
    retry_after: float


class RateLimiter:
    """A token bucket for each client, kept as the one time at which it will be full again (GCRA).

    A bucket that is full is the same as one never heard of, so those are dropped; at ``most`` buckets the one that was
    used longest ago makes room.
    """

    def __init__(self, per_minute: int, most: int = 4096, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._most = most
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, client: str, per_minute: int = 0) -> Taken:
        """``per_minute``: this client's own rate; it must be the same at each request of his."""
        now, step = self._clock(), 60.0 / (per_minute or self.per_minute)
        before = max(self._full_at.pop(client, now), now)
        after = before + step
        late = after - now - 60.0
        # The sum of many steps is not exactly their product: a hair more is not one request more.
        is_over = late > 1e-6
        self._full_at[client] = before if is_over else after
        self._tidy(now)
        if is_over:
            return Taken(0, before - now, late)
        return Taken(int((60.0 - (after - now)) / step + 1e-6), after - now, 0.0)

    def _tidy(self, now: float) -> None:
        # The longest unused stand first. Two at a time is faster than new ones come in.
        for _ in range(2):
            oldest = next(iter(self._full_at))
            if self._full_at[oldest] > now and len(self._full_at) <= self._most:
                return
            del self._full_at[oldest]
            if not self._full_at:
                return


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@lru_cache(maxsize=512)
def address_of(text: str) -> Address | None:
    """An IPv4 address in the clothes of IPv6 is that IPv4 address; None for what is no address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_loopback(text: str) -> bool:
    address = address_of(text)
    return address is not None and address.is_loopback


@lru_cache(maxsize=512)
def client_key(address: str) -> str:
    """Whom a limit counts for: an IPv4 address, or the IPv6 network that one customer usually has."""
    parsed = address_of(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Address(int(parsed) >> 64 << 64))
    return address if parsed is None else str(parsed)
