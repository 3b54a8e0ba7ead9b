"""Which metrics there are: those that a real daemon was seen to export, and those that only trouble brings."""

import re
from collections.abc import Iterable

from x0tta6bl4.observability.metrics import METRICS

from .promql import rules

BY_PROMETHEUS = {"up", "scrape_duration_seconds", "scrape_samples_scraped", "ALERTS"}
"""Made by Prometheus itself for every target and alert."""
ON_TARGETS = {"job", "instance", "exported_instance", "le", "alertname", "alertstate", "severity"}
"""Labels that come from the scrape and from the rules."""

RARE = {
    "x0tta6bl4_tls_certificate_expiry_timestamp_seconds": "is there with TLS only, which this daemon has not",
    "x0tta6bl4_stream_readers_dropped_total": "needs a reader that takes nothing until its buffers are full",
    "x0tta6bl4_plugin_failures_total": "needs an analyzer or a planner that raises; ours are not known to",
    "x0tta6bl4_meter_errors_total": "would be a mistake in the daemon itself",
}
"""What no honest day of a daemon brings, and why. It has to be declared all the same."""


def declared() -> dict[str, set[str]]:
    """Metric as it is exported -> its labels."""
    found: dict[str, set[str]] = {}
    for one in METRICS:
        endings = ("_bucket", "_sum", "_count") if one.kind == "histogram" else ("",)
        found |= {one.name + ending: set(one.labels) for ending in endings}
    return found


def sampled(pages: Iterable[str]) -> set[str]:
    """The names that have at least one sample on one of the pages: a name in a comment is no number."""
    return {
        match[0]
        for page in pages
        for line in page.splitlines()
        if not line.startswith("#") and (match := re.match(r"[a-zA-Z_:][\w:]*", line))
    }


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def unknown(used: Iterable[str], pages: Iterable[str]) -> set[str]:
    """Names that nobody exports, records or makes."""
    rare = set(RARE) & set(declared())
    return set(used) - sampled(pages) - recorded() - BY_PROMETHEUS - rare
