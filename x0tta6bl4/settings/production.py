"""What must be true before the daemon may start in production; each unmet demand with the way to meet it."""

import ctypes.util
import importlib.util
from collections.abc import Callable
from ipaddress import ip_address

from x0tta6bl4.kernel.errors import Problem
from x0tta6bl4.settings.model import Settings

NEEDED = ("pydantic", "yaml", "structlog", "apscheduler", "psutil")


def liboqs_is_there() -> bool:
    """Both the C library and its Python binding. Looked for, never imported: that import would fetch and build it."""
    return ctypes.util.find_library("oqs") is not None and importlib.util.find_spec("oqs") is not None


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def production_checks(settings: Settings, has_liboqs: Callable[[], bool] = liboqs_is_there) -> list[Problem]:
    """Empty when the daemon may start. Outside production only what no environment allows is looked at."""
    problems = []
    if settings.in_production or settings.pqc.required or settings.flags.get("pqc_required", False):
        if settings.pqc.backend == "cryptography" and settings.in_production:
            problems.append(
                Problem(
                    "pqc.backend",
                    "production demands liboqs (got 'cryptography')",
                    hint="set it to liboqs, or unset X0TTA6BL4_PRODUCTION",
                )
            )
        if not has_liboqs():
            problems.append(
                Problem(
                    "pqc.backend",
                    "CRITICAL: LibOQS REQUIRED but not available!",
                    hint="install the C library liboqs and then `pip install liboqs-python>=0.14.1`",
                )
            )
    if settings.in_production:
        problems += [
            Problem("(installation)", f"the library {name} is not installed", hint="reinstall x0tta6bl4")
            for name in NEEDED
            if importlib.util.find_spec(name) is None
        ]
        if settings.logging.level == "DEBUG":
            problems.append(
                Problem("logging.level", "DEBUG is not for production: it writes every observation", hint="use INFO")
            )
    return problems
