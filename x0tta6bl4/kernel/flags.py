"""The feature flags: five switches that an operator turns while the daemon runs, remembered and audited."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from x0tta6bl4.kernel.errors import ConfigError, Problem


@dataclass(frozen=True)
class Flag:
    name: str
    default: bool
    meaning: str


FLAGS: tuple[Flag, ...] = (
    Flag("auto_healing", True, "Acting at all. Off stops every action within a second; watching and judging go on."),
    Flag("pqc_required", False, "Refuse to start, and to link, without post-quantum cryptography."),
    Flag("mesh_auto_repair", False, "Let the daemon repair the mesh's topology."),
    Flag("monitoring_verbose", False, "Log every observation and every turn, not only what changed."),
    Flag("experimental_features", False, "Offer what is not finished."),
)
NAMES = tuple(flag.name for flag in FLAGS)

Changed = Callable[[str, bool], None]


class FeatureFlags:
    """The flags as they are now. Whoever stores them calls ``load``; whoever must react registers with
    ``on_change``.
    """

    def __init__(self, initial: Mapping[str, bool] | None = None) -> None:
        self._values = {flag.name: flag.default for flag in FLAGS}
        self._listeners: list[Changed] = []
        for name, value in (initial or {}).items():
            self._values[known_flag(name)] = value

    def is_enabled(self, name: str) -> bool:
        return self._values[known_flag(name)]

    def set(self, name: str, value: bool) -> bool:
        """Whether that changed anything. Listeners hear of changes only."""
        if not isinstance(value, bool):
            raise ConfigError([Problem(f"flags.{name}", f"must be true or false (got {value!r})")])
        if self._values[known_flag(name)] == value:
            return False
        self._values[name] = value
        for listener in tuple(self._listeners):
            listener(name, value)
        return True

    def load(self, values: Mapping[str, bool]) -> None:
        for name, value in values.items():
            if name in self._values:  # a name that a newer daemon stored is not ours to judge
                self.set(name, value)

    def on_change(self, listener: Changed) -> None:
        self._listeners.append(listener)

    def as_dict(self) -> dict[str, bool]:
        return dict(self._values)


def known_flag(name: str) -> str:
    """The name itself; ConfigError with the nearest valid one when there is no such flag."""
    if name in NAMES:
        return name
    near = get_close_matches(name, NAMES, n=1)
    raise ConfigError(
        [
            Problem(
                f"flags.{name}",
                "there is no such flag",
                hint=f"did you mean {near[0]}?" if near else f"there are: {', '.join(NAMES)}",
            )
        ],
        remedy="use one of the flags that `x0tta6bl4 flags` lists",
    )
