"""x0tta6bl4: an autonomic self-healing daemon. The names here are what users and plugin authors import; no others last.

They are looked up when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.4.0"

_HOMES: dict[str, str] = {
    "Event": "kernel.events",
    "EventType": "kernel.events",
    "EventBus": "kernel.bus",
    "State": "kernel.lifecycle",
    "StateMachine": "kernel.lifecycle",
    "CancellationToken": "kernel.cancellation",
    "MAPEK": "kernel.loop",
    "Parts": "kernel.loop",
    "FeatureFlags": "kernel.flags",
    "HealthChecker": "kernel.health",
    "Observation": "kernel.facts",
    "Occurrence": "kernel.facts",
    "Condition": "kernel.facts",
    "Finding": "kernel.facts",
    "Incident": "kernel.facts",
    "Plan": "kernel.facts",
    "Step": "kernel.facts",
    "Outcome": "kernel.facts",
    "Result": "kernel.facts",
    "Severity": "kernel.facts",
    "View": "kernel.sight",
    "Subject": "kernel.subjects",
    "Action": "kernel.plugin",
    "Effect": "kernel.plugin",
    "PluginConfig": "kernel.plugin",
    "Situation": "kernel.plugin",
    "Tools": "kernel.plugin",
    "monitor": "kernel.plugin",
    "analyzer": "kernel.plugin",
    "planner": "kernel.plugin",
    "executor": "kernel.plugin",
    "knowledge": "kernel.plugin",
    "Seconds": "kernel.units",
    "Size": "kernel.units",
    "X0tError": "kernel.errors",
    "ConfigError": "kernel.errors",
    "ProbeFailed": "kernel.errors",
    "StepFailed": "kernel.errors",
    "StepRefused": "kernel.errors",
    "StoreError": "kernel.errors",
    "Clock": "ports.clock",
    "Commands": "ports.commands",
    "Database": "ports.database",
    "Files": "ports.files",
    "Host": "ports.host",
    "Messages": "ports.messages",
    "Network": "ports.network",
    "Processes": "ports.processes",
    "Units": "ports.units",
    "get_settings": "settings.load",
    "production_checks": "settings.production",
    "setup_logging": "observability.logging",
    "get_logger": "observability.logging",
    "log_stage": "observability.logging",
    "get_tracker": "observability.tracker",
    "get_memory_profiler": "observability.memory",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'x0tta6bl4' has no attribute {name!r}")
    value = getattr(import_module(f"x0tta6bl4.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


if TYPE_CHECKING:
    from x0tta6bl4.kernel.bus import EventBus as EventBus
    from x0tta6bl4.kernel.cancellation import CancellationToken as CancellationToken
    from x0tta6bl4.kernel.errors import ConfigError as ConfigError
    from x0tta6bl4.kernel.errors import ProbeFailed as ProbeFailed
    from x0tta6bl4.kernel.errors import StepFailed as StepFailed
    from x0tta6bl4.kernel.errors import StepRefused as StepRefused
    from x0tta6bl4.kernel.errors import StoreError as StoreError
    from x0tta6bl4.kernel.errors import X0tError as X0tError
    from x0tta6bl4.kernel.events import Event as Event
    from x0tta6bl4.kernel.events import EventType as EventType
    from x0tta6bl4.kernel.facts import Condition as Condition
    from x0tta6bl4.kernel.facts import Finding as Finding
    from x0tta6bl4.kernel.facts import Incident as Incident
    from x0tta6bl4.kernel.facts import Observation as Observation
    from x0tta6bl4.kernel.facts import Occurrence as Occurrence
    from x0tta6bl4.kernel.facts import Outcome as Outcome
    from x0tta6bl4.kernel.facts import Plan as Plan
    from x0tta6bl4.kernel.facts import Result as Result
    from x0tta6bl4.kernel.facts import Severity as Severity
    from x0tta6bl4.kernel.facts import Step as Step
    from x0tta6bl4.kernel.flags import FeatureFlags as FeatureFlags
    from x0tta6bl4.kernel.health import HealthChecker as HealthChecker
    from x0tta6bl4.kernel.lifecycle import State as State
    from x0tta6bl4.kernel.lifecycle import StateMachine as StateMachine
    from x0tta6bl4.kernel.loop import MAPEK as MAPEK
    from x0tta6bl4.kernel.loop import Parts as Parts
    from x0tta6bl4.kernel.plugin import Action as Action
    from x0tta6bl4.kernel.plugin import Effect as Effect
    from x0tta6bl4.kernel.plugin import PluginConfig as PluginConfig
    from x0tta6bl4.kernel.plugin import Situation as Situation
    from x0tta6bl4.kernel.plugin import Tools as Tools
    from x0tta6bl4.kernel.plugin import analyzer as analyzer
    from x0tta6bl4.kernel.plugin import executor as executor
    from x0tta6bl4.kernel.plugin import knowledge as knowledge
    from x0tta6bl4.kernel.plugin import monitor as monitor
    from x0tta6bl4.kernel.plugin import planner as planner
    from x0tta6bl4.kernel.sight import View as View
    from x0tta6bl4.kernel.subjects import Subject as Subject
    from x0tta6bl4.kernel.units import Seconds as Seconds
    from x0tta6bl4.kernel.units import Size as Size
    from x0tta6bl4.observability.logging import get_logger as get_logger
    from x0tta6bl4.observability.logging import log_stage as log_stage
    from x0tta6bl4.observability.logging import setup_logging as setup_logging
    from x0tta6bl4.observability.memory import get_memory_profiler as get_memory_profiler
    from x0tta6bl4.observability.tracker import get_tracker as get_tracker
    from x0tta6bl4.ports.clock import Clock as Clock
    from x0tta6bl4.ports.commands import Commands as Commands
    from x0tta6bl4.ports.database import Database as Database
    from x0tta6bl4.ports.files import Files as Files
    from x0tta6bl4.ports.host import Host as Host
    from x0tta6bl4.ports.messages import Messages as Messages
    from x0tta6bl4.ports.network import Network as Network
    from x0tta6bl4.ports.processes import Processes as Processes
    from x0tta6bl4.ports.units import Units as Units
    from x0tta6bl4.settings.load import get_settings as get_settings
    from x0tta6bl4.settings.production import production_checks as production_checks
