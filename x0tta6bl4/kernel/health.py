"""The daemon's own health: named checks of its parts, in the shapes that people and scrapers ask for."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from x0tta6bl4.kernel.supervise import Failure, guarded_call

Component = Mapping[str, Any]
"""``status`` (ok, degraded, failing or "not configured") and whatever numbers belong to it."""
Check = Callable[[], Component]

USUAL = ("pqc", "mesh", "database")
"""Parts that are always asked about; one that nobody registered is "not configured", never assumed to be fine."""


class HealthChecker:
    """Asks every registered part. A check must be quick and must not block; one that raises is a failing part."""

    def __init__(
        self, checks: Mapping[str, Check] | None = None, api_latency: Callable[[], float | None] | None = None
    ) -> None:
        self._checks = dict(checks or {})
        self._api_latency = api_latency

    def register(self, name: str, check: Check) -> None:
        self._checks[name] = check

    def components(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for name in dict.fromkeys([*USUAL, *self._checks]):
            check = self._checks.get(name)
            if check is None:
                found[name] = {"status": "not configured"}
                continue
            part = guarded_call(check)
            if isinstance(part, Failure):
                found[name] = {"status": "failing", "detail": f"{part.error}: {part.message}"}
            elif isinstance(part, Mapping) and "status" in part:
                found[name] = dict(part)
            else:
                found[name] = {"status": "failing", "detail": "its check does not say how it is"}
        latency = self._api_latency() if self._api_latency is not None else None
        found["api"] = {"status": "ok", "latency_p95_ms": None if latency is None else round(latency * 1000, 3)}
        return found

    def overall(self, components: Mapping[str, Component]) -> Literal["healthy", "degraded"]:
        bad = any(part.get("status") in ("failing", "degraded") for part in components.values())
        return "degraded" if bad else "healthy"

    def check_all(self) -> dict[str, Any]:
        """Every part in one word, and the API's latency."""
        components = self.components()
        checks: dict[str, Any] = {n: part["status"] for n, part in components.items() if n != "api"}
        checks["api_latency_ms"] = components["api"]["latency_p95_ms"]
        return {"status": self.overall(components), "checks": checks}
