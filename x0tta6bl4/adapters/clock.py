"""Reads the machine's two clocks for the daemon: the people's one and the one that never jumps."""

import time


class SystemClock:
    def wall(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        # asyncio's loop.time() is this very clock, so deadlines and facts can be compared.
        return time.monotonic()
