"""Writes numbers down as Prometheus reads them: its text format, and OpenMetrics with exemplars where it is asked for.

What is written for a series is joined from texts that were made when the series was: a page of a thousand takes less
than a millisecond, and no library.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Literal

TEXT = "text/plain; version=0.0.4; charset=utf-8"
TEXT_1 = "text/plain; version=1.0.0; charset=utf-8"
"""The same page: what the newer version adds are names that have to be quoted, and no name here has to."""
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Kind = Literal["counter", "gauge", "histogram"]

EXEMPLAR_LENGTH = 128
"""Characters of all names and values of an exemplar's labels; a scraper refuses the whole page for a longer one."""

_UNITS = frozenset({"seconds", "bytes", "ratio", "celsius", "meters", "volts", "amperes", "joules", "grams"})
_SPECIAL = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}


def head(name: str, kind: Kind, help: str, *, openmetrics: bool) -> str:
    """The lines over the series of a metric. OpenMetrics names the family, without what its samples' names end in."""
    told = help.replace("\\", "\\\\").replace("\n", "\\n")
    if not openmetrics:
        return f"# HELP {name} {told}\n# TYPE {name} {kind}\n"
    family, typed = name, str(kind)
    if kind == "counter":
        family = name.removesuffix("_total")
    elif kind == "gauge" and name.endswith("_info"):
        family, typed = name.removesuffix("_info"), "info"
    unit = family.rpartition("_")[2]
    measured = f"# UNIT {family} {unit}\n" if unit in _UNITS else ""
    told = told.replace('"', '\\"')
    return f"# TYPE {family} {typed}\n{measured}# HELP {family} {told}\n"


def readable(value: str) -> str:
    """The text without what would make the page unreadable: a NUL ends it for Prometheus, a surrogate is no UTF-8."""
    if value.isprintable():
        return value
    return value.replace("\0", "␀").encode("utf-8", "backslashreplace").decode()


def pairs(labels: Iterable[str], values: Iterable[str]) -> str:
    """``a="1",b="2"``: by name, so that a series is always written alike."""
    return ",".join([f'{label}="{_escaped(value)}"' for label, value in sorted(zip(labels, values, strict=True))])


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def prefix(name: str, labelled: str) -> str:
    """All of a sample's line that stands before its value."""
    return f"{name}{{{labelled}}} " if labelled else f"{name} "


def number(value: float) -> str:
    text = repr(value)
    return text if text[-1] not in "fn" else _SPECIAL[text]


def bounds(buckets: Sequence[float]) -> list[str]:
    """What the lines of a histogram's buckets have in common in all its series."""
    return [f'le="{number(float(bound))}"}} ' for bound in buckets] + ['le="+Inf"} ']


def histogram(
    name: str,
    labelled: str,
    upto: Sequence[str],
    counts: Sequence[int],
    total: float,
    exemplars: Mapping[int, str],
) -> Iterator[str]:
    """The lines of one series. ``upto``: what ``bounds`` gave; ``counts``: of each bucket by itself."""
    before = f"{name}_bucket{{{labelled}{',' if labelled else ''}"
    seen = 0
    for at, seen in enumerate(accumulate(counts)):
        yield f"{before}{upto[at]}{seen}.0{exemplars.get(at, '')}\n"
    yield f"{prefix(name + '_count', labelled)}{seen}.0\n{prefix(name + '_sum', labelled)}{number(total)}\n"


def exemplar(labels: Mapping[str, str], value: float, at: float) -> str:
    """What follows the count of the bucket that the value fell into. ValueError for labels that cannot be written."""
    texts = [readable(text) for text in labels.values()]
    length = sum(map(len, labels)) + sum(map(len, texts))
    if length > EXEMPLAR_LENGTH:
        raise ValueError(f"the exemplar has {length} characters; {EXEMPLAR_LENGTH} are allowed")
    for label in labels:
        if not (label.isidentifier() and label.isascii()):
            raise ValueError(f"an exemplar's label cannot be called {label!r}")
    return f" # {{{pairs(labels, texts)}}} {number(value)} {at:.3f}"


def negotiated(accept: str) -> str:
    """The content type that the Accept header ranks highest; of equals the richer one, and the plain text at worst."""
    ranks = {OPENMETRICS: 0.0, TEXT_1: 0.0, TEXT: 1e-9}
    for offer in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in offer.split(";"))
        given = dict(parameter.partition("=")[::2] for parameter in parameters)
        try:
            weight = float(given.get("q", "1"))
        except ValueError:
            continue
        version = given.get("version", "").strip('"')
        if kind == "application/openmetrics-text" and version in ("", "1.0.0"):
            form = OPENMETRICS
        elif kind == "text/plain" and version == "1.0.0":
            form = TEXT_1
        elif kind in ("text/plain", "text/*", "*/*"):
            form = TEXT
        else:
            continue
        ranks[form] = max(ranks[form], weight)
    return max(ranks, key=lambda form: ranks[form])
