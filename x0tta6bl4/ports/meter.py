"""Counting and timing, as the kernel does it: names and labels go out, nothing comes back."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol


class Meter(Protocol):
    """Never blocks, never raises. Names are full Prometheus names, base units, each declared once in observability.

    Name and number come by position: a label may be called ``name`` as well.
    """

    def count(self, name: str, amount: float = 1.0, /, **labels: str) -> None: ...

    def observe(self, name: str, value: float, /, exemplar: Mapping[str, str] | None = None, **labels: str) -> None:
        """``exemplar``: what leads from the number to the case behind it, e.g. a trace id; never a label."""
        ...

    def set(self, name: str, value: float, /, **labels: str) -> None: ...


class Stages(Protocol):
    """The execution tracker: who spent how long on what."""

    def track_stage(self, stage: str, name: str, thread_id: str) -> AbstractContextManager[object]: ...

    def track_substage(self, stage: str, name: str) -> AbstractContextManager[object]: ...


class NoMeter:
    """Counts nothing, for a loop that nobody scrapes."""

    def count(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        return None

    def observe(self, name: str, value: float, /, exemplar: Mapping[str, str] | None = None, **labels: str) -> None:
        return None

    def set(self, name: str, value: float, /, **labels: str) -> None:
        return None
