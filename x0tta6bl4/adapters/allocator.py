"""Gives memory back to the system that starting the daemon has used and that nothing needs any more."""

import ctypes


def give_back() -> None:
    """What the C library keeps for the next allocation; another C library than glibc has no such call, and no need."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
