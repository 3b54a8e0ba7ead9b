"""What is under care: each subject with what the daemon must know to judge and to treat it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from x0tta6bl4.kernel.facts import NOTHING, Attributes

Mode = Literal["observe", "suggest", "approve", "auto"]
MODES: tuple[Mode, ...] = ("observe", "suggest", "approve", "auto")


@dataclass(frozen=True)
class Subject:
    name: str
    kind: str = "thing"
    """``process`` (we supervise it), ``unit`` (systemd does), ``watched`` (somebody else started it), ``host``,
    ``thing``.
    """
    mode: Mode = "suggest"
    group: str = ""
    depends_on: tuple[str, ...] = ()
    start_timeout: float = 30.0
    """Seconds that a start may take before silence counts as a fault."""
    controller: Mapping[str, str] = field(default_factory=dict)
    """Which action answers ``service.restart`` and its like here, e.g. ``{"restart": "systemd.restart"}``."""
    rules: Mapping[str, str] = field(default_factory=dict)
    """The rule for a fault, where the operator chose one by name."""
    data: Attributes = field(default_factory=lambda: NOTHING)
    """What its monitors and executors were told of it: unit, program, folder, memory_limit, …"""


def subject_of(subjects: Mapping[str, Subject], name: str) -> Subject:
    """The subject of that name; for one that only a monitor speaks of, the cautious defaults."""
    return subjects.get(name) or Subject(name)
