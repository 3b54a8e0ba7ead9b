"""Answers those who ask whether the daemon is well: health, liveness, readiness, metrics, and the whole status."""

import asyncio
import re
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from starlette.datastructures import QueryParams
from starlette.responses import Response
from typing_extensions import TypedDict

from x0tta6bl4.status.access import Scope
from x0tta6bl4.status.desk import Desk
from x0tta6bl4.status.problems import Refusal, to_json
from x0tta6bl4.status.report import Status, iso, report
from x0tta6bl4.status.routes import JSON, Asked, Gives, Route, answer

GZIP_LEVEL = 1
"""Numbers shrink to a tenth at the first level already; the others cost several times the CPU."""


class Health(TypedDict):
    status: Literal["healthy", "degraded"]
    timestamp: str
    components: dict[str, dict[str, Any]]
    version: str


@dataclass(frozen=True, slots=True)
class _Health:
    """One answer to /health, and what it was made of."""

    signs: tuple[object, ...]
    asked_at: float
    components: dict[str, dict[str, Any]]
    second: int
    is_healthy: bool
    body: bytes


class Probes:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._kept: _Health | None = None
        self._scraping = asyncio.Lock()

    def routes(self) -> list[Route]:
        words = Gives("As Kubernetes words it: `ok`, or a line for each check.", media="text/plain")
        checks = {200: words, 503: Gives("A check has failed.", media="text/plain")}
        health = {200: Gives("Alive.", Health), 503: Gives("Asked with `strict=1`, and degraded.", Health)}
        page = Gives(
            "The metrics, in the format that was asked for.",
            media="text/plain",
            also=["application/openmetrics-text"],
        )
        return [
            Route("GET", "/health", self.health, "How the daemon and its parts are.", gives=health, is_limited=False),
            Route("GET", "/livez", self.livez, "Whether it answers at all.", gives=checks, is_limited=False),
            Route("GET", "/readyz", self.readyz, "Whether it does its work.", gives=checks, is_limited=False),
            Route(
                "GET",
                "/metrics",
                self.metrics,
                "The numbers for Prometheus: text, or OpenMetrics with exemplars.",
                needs=None if self.desk.settings.metrics_open else Scope.READ,
                gives={200: page},
                refuses=(404,),
                is_counted=False,
                is_limited=False,
            ),
            Route(
                "GET",
                "/status",
                self.status,
                "Everything about the daemon and what it cares for.",
                needs=Scope.READ,
                gives={200: Gives("The report.", Status)},
            ),
        ]

    async def health(self, asked: Asked) -> Response:
        signs, second = self._signs(), int(time.time())
        kept = self._kept
        if kept is None or kept.second != second or kept.signs != signs:
            kept = self._kept = self._look(signs, second)
        is_strict = bool(asked.connection["query_string"]) and asked.query.get("strict", "").lower() in ("1", "true")
        return Response(kept.body, 503 if is_strict and not kept.is_healthy else 200, media_type=JSON)

    def _signs(self) -> tuple[object, ...]:
        """What matters most and costs nothing to see: when it changes, no older answer is given."""
        loop = self.desk.face.loop
        return loop, loop.status, loop.standing.store_trouble

    def _look(self, signs: tuple[object, ...], second: int) -> _Health:
        """The parts are asked as often as the settings say; the body is new each second, for its timestamp."""
        face, now, kept = self.desk.face, time.monotonic(), self._kept
        if kept is not None and kept.signs == signs and now - kept.asked_at < self.desk.settings.health_check_interval:
            components, asked_at = kept.components, kept.asked_at
        else:
            components, asked_at = face.health.components(), now
        overall = face.health.overall(components)
        body = to_json(
            {
                "status": overall,
                "timestamp": iso(second, "seconds"),
                "components": components,
                "version": face.version,
            }
        )
        return _Health(signs, asked_at, components, second, overall == "healthy", body)

    async def livez(self, asked: Asked) -> Response:
        """That it answers is all there is to know: a restart mends no dependency."""
        return _checks("livez", {"ping": ""}, asked.query)

    async def readyz(self, asked: Asked) -> Response:
        loop = self.desk.face.loop
        return _checks(
            "readyz",
            {
                "loop-running": "" if loop.status == "running" else f"the loop is {loop.status}",
                "first-cycle": "" if loop.first_turn.is_set() else "no cycle has ended yet",
                "store": loop.standing.store_trouble,
            },
            asked.query,
        )

    async def metrics(self, asked: Asked) -> Response:
        metrics = self.desk.face.metrics
        if not (self.desk.settings.metrics_enabled and metrics.enabled):
            raise Refusal(
                404,
                "METRICS_DISABLED",
                "metrics are switched off",
                suggestions=["set METRICS_ENABLED=true or status.metrics_enabled: true"],
            )
        accept = asked.headers.get(b"accept", b"").decode("latin-1")
        is_packed = _takes_gzip(asked.headers.get(b"accept-encoding", b"").decode("latin-1"))

        derived = metrics.derived()  # here, where what it reads belongs

        def written() -> tuple[bytes, str]:
            page, kind = metrics.exposition(accept, derived)
            return (_packed(page) if is_packed else page), kind

        # One at a time: many scrapers at once must not take all threads from the rest of the daemon.
        async with self._scraping:
            page, kind = await asyncio.to_thread(written)
        headers = {"content-type": kind, "vary": "Accept, Accept-Encoding"}
        if is_packed:
            headers["content-encoding"] = "gzip"
        return Response(page, headers=headers)

    async def status(self, asked: Asked) -> Response:
        desk = self.desk
        return answer(await report(desk.face, desk.cpu, desk.connections(), desk.listening))


def _packed(page: bytes) -> bytes:
    packer = zlib.compressobj(level=GZIP_LEVEL, wbits=31)
    return packer.compress(page) + packer.flush()


def _checks(name: str, checks: Mapping[str, str], query: QueryParams) -> Response:
    """As Kubernetes words it. A check with a reason has failed, unless it was excluded."""
    excluded = set(query.getlist("exclude")) if query else set()
    failed = [check for check, reason in checks.items() if reason and check not in excluded]
    lines = [
        f"[+]{check} excluded: ok"
        if check in excluded
        else f"[-]{check} failed: {reason}"
        if reason
        else f"[+]{check} ok"
        for check, reason in checks.items()
    ]
    if unknown := sorted(excluded - checks.keys()):
        quoted = ", ".join(ascii(one[:100]) for one in unknown[:20])
        lines.append(f"warn: some health checks cannot be excluded: no matches for {quoted}")
    lines.append(f"{name} check {'failed' if failed else 'passed'}")
    if not failed and "verbose" not in query:
        lines = ["ok"]
    return Response("\n".join(lines) + "\n", 503 if failed else 200, media_type="text/plain")


def _takes_gzip(accept_encoding: str) -> bool:
    weights = {}
    for offer in accept_encoding.lower().split(","):
        coding, *parameters = (part.strip() for part in offer.split(";"))
        weight = next((p[2:].strip() for p in parameters if p.startswith("q=")), "1")
        weights[coding] = re.fullmatch(r"0?\.?0*", weight) is None
    return weights.get("gzip", weights.get("*", False))
