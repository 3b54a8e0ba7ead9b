"""Asks a Prometheus, or whatever speaks its query API, for numbers and reports each series under a subject's name."""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

from pydantic import Field, StringConstraints, field_validator

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Lost, Observation
from x0tta6bl4.kernel.plugin import PluginConfig, monitor
from x0tta6bl4.ports.host import Host
from x0tta6bl4.ports.network import HttpReply, HttpRequest, Network

log = logging.getLogger("x0tta6bl4.monitors.prometheus")

MetricName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,79}$")]
LEFT_OUT = "series_left_out"
BYTES_A_SERIES = 2048
"""What a series may take of an answer; Prometheus writes some 200 bytes for one of usual labels."""
LONGEST_WORDS = 400
"""Characters of a server's own words that are told."""
LONGEST_SUBJECT = 200
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_SLOT = re.compile(r"\{([a-zA-Z_][a-zA-Z0-9_]*)\}")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e]*)")


class Query(PluginConfig):
    query: str = Field(min_length=1)
    """PromQL that gives a number for each series, such as ``sum by (job) (rate(http_requests_total[5m]))``. A counter
    is asked for by its ``rate()``: as it stands it says how long something ran, not how it is."""
    subject: str = "instance"
    """Under which name a series is reported: the name of one of its labels; a text with labels in braces, such as
    ``disk:{mountpoint}``; or ``=NAME`` for a fixed one, where the query gives a single series."""
    detail: str | None = None
    """A label whose value is told beside the number. Empty: none."""

    @field_validator("subject")
    @classmethod
    def _names_a_subject(cls, value: str) -> str:
        if problem := subject_problem(value):
            raise ValueError(problem)
        return value

    @field_validator("detail")
    @classmethod
    def _is_a_label(cls, value: str | None) -> str | None:
        if value is not None and not _LABEL.fullmatch(value):
            raise ValueError("should be the name of a label, such as device")
        return value


class Config(PluginConfig):
    url: str
    """Where its query API is, such as http://127.0.0.1:9090, or https://example.org/prometheus with a path."""
    queries: dict[MetricName, Query] = Field(min_length=1)
    """What is asked, by the metric's name here. A name that ends in ``_up`` stands for yes (1) or no (0), one in
    ``_total`` for what only rises: do not call a rate so. A query that fails blinds all of this monitor: put those
    that may fail into a monitor of their own."""
    most_series: int = Field(default=1000, ge=1, le=100_000)
    """Series that one query may give; what is beyond is left out, by name, and told as ``series_left_out``. Raised, a
    careless query costs more memory here and in every analyzer that learns."""
    token_file: str | None = Field(default=None, pattern="^/")
    """Absolute path of a file with the bearer token that the server wants. Read at each look. Empty: none is sent."""
    headers_file: str | None = Field(default=None, pattern="^/")
    """Absolute path of a file with headers to send, one ``Name: value`` a line, such as ``X-Scope-OrgID: shop`` or
    ``Authorization: Basic …``. Read at each look. Empty: only the usual ones."""
    verify_tls: bool = True
    """Whether the certificate must be valid for the name. Off, a stranger may answer in the server's place."""
    ca_file: str | None = Field(default=None, pattern="^/")
    """Absolute path of the certificates to trust. Empty: the system's."""

    @field_validator("url")
    @classmethod
    def _can_be_asked(cls, value: str) -> str:
        if problem := url_problem(value):
            raise ValueError(problem)
        return value


def url_problem(url: str) -> str:
    """Why nothing can be asked there; empty when it can."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"should be a URL: {error}"
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or port == 0:
        return "should be http://HOST[:PORT][/PATH] or https://…, without a user: a password belongs into a file"
    if parts.query or parts.fragment:
        return "should end with the path: what is asked is put behind it"
    return ""


def subject_problem(pattern: str) -> str:
    """Why no subject can be named by it; empty when one can."""
    if pattern.startswith("="):
        return "" if pattern[1:].strip() else "should have the name behind the equals sign, such as =shop"
    if "{" in pattern or "}" in pattern:
        if re.search(r"[{}]", _SLOT.sub("", pattern)):
            return "should have labels in its braces, such as disk:{mountpoint}"
        return ""
    if not _LABEL.fullmatch(pattern):
        return "should be a label such as instance, a text such as disk:{mountpoint}, or =NAME for a fixed name"
    return ""


def fixed_subject(pattern: str) -> str | None:
    return pattern[1:] if pattern.startswith("=") else None


def subject_named(pattern: str, labels: Mapping[str, str]) -> str:
    """The subject that a series is about. ValueError, in words, when its labels do not tell."""
    if pattern.startswith("="):
        return pattern[1:]
    wanted = _SLOT.findall(pattern) or [pattern]
    for label in wanted:
        if not labels.get(label):
            there = ", ".join(sorted(name for name in labels if name != "__name__")) or "none"
            raise ValueError(f"the series {written(labels)} has no label {label!r}; its labels: {there}")
    name = _SLOT.sub(lambda slot: labels[slot[1]], pattern) if "{" in pattern else labels[pattern]
    return _plain(name[:LONGEST_SUBJECT])[:LONGEST_SUBJECT]


def _plain(text: str) -> str:
    """What cannot be shown, or stored, stands there by its code: anybody who is scraped may choose its labels."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def written(labels: Mapping[str, str]) -> str:
    """A series as Prometheus writes it, shortened."""
    inside = ", ".join(f'{name}="{value}"' for name, value in sorted(labels.items()) if name != "__name__")
    text = f"{labels.get('__name__', '')}{{{inside}}}"
    return text if len(text) <= LONGEST_WORDS else f"{text[:LONGEST_WORDS]}…"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the query API gave."""

    kind: str
    """``vector``, ``matrix``, ``scalar`` or ``string``."""
    result: list[Any]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class QueryApi:
    """A Prometheus, asked over HTTP."""

    network: Network
    url: str
    headers: Mapping[str, str]
    verify_tls: bool = True
    ca_file: str | None = None

    async def ask(self, query: str, *, body_limit: int) -> Answer:
        """What it is now. ProbeFailed when there was no answer, or it was a no."""
        return await self._get("query", {"query": query}, body_limit)

    async def ask_range(self, query: str, start: float, end: float, step: float, *, body_limit: int) -> Answer:
        """How it was from ``start`` to ``end``, both included."""
        asked = {"query": query, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        return await self._get("query_range", asked, body_limit)

    async def _get(self, what: str, asked: Mapping[str, str], body_limit: int) -> Answer:
        url = f"{self.url.rstrip('/')}/api/v1/{what}?{urlencode(asked)}"
        request = HttpRequest(
            url, headers=self.headers, body_limit=body_limit, verify_tls=self.verify_tls, ca_file=self.ca_file
        )
        try:
            reply = await self.network.http(request)
        except OSError as error:
            raise ProbeFailed(str(error) or "no answer") from error
        return read_answer(reply, self.url, asked["query"], body_limit)


class TooLong(ProbeFailed):
    """The answer has more bytes than were wanted: ask for less."""


def read_answer(reply: HttpReply, url: str, query: str, body_limit: int) -> Answer:
    """ProbeFailed in the server's own words where it gave some."""
    if len(reply.body) >= body_limit:
        raise TooLong(
            f"{url} answers {_short(query)!r} with more than {body_limit} bytes",
            remedy="narrow the query down, by labels or with sum by (…)",
        )
    try:
        told = json.loads(reply.body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or told.get("status") not in ("success", "error"):
        raise _foreign(reply, url)
    if told["status"] == "error":
        kind, words = told.get("errorType"), _short(str(told.get("error")))
        if kind == "bad_data":
            raise ProbeFailed(f"{url} does not take {_short(query)!r}: {words}", remedy="mend the query")
        details = {"kind": str(kind), "words": words}
        raise ProbeFailed(f"{url} could not answer {_short(query)!r}: {words} ({kind})", details=details)
    data = told.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("result"), list):
        raise _foreign(reply, url)
    warnings = told.get("warnings")
    return Answer(
        str(data.get("resultType")),
        data["result"],
        tuple(_short(str(one)) for one in warnings) if isinstance(warnings, list) else (),
    )


def _foreign(reply: HttpReply, url: str) -> ProbeFailed:
    """What came is not what a Prometheus says."""
    if reply.status in (401, 403):
        return ProbeFailed(
            f"{url} answers {reply.status}: it wants to know who asks, or does not allow it",
            remedy="set token_file, or headers_file with its Authorization",
        )
    if 300 <= reply.status < 400:
        there = reply.headers.get("location", "elsewhere")
        return ProbeFailed(f"{url} sends us on to {_short(there)}", remedy="set the url that answers itself")
    words = _short(reply.body[:LONGEST_WORDS].decode("utf-8", "replace"))
    return ProbeFailed(
        f"{url} answers {reply.status}, and not as a Prometheus does: {words!r}",
        remedy="is it the address of a Prometheus, with its path?",
    )


def _short(text: str) -> str:
    text = _plain(" ".join(text[: 8 * LONGEST_WORDS].split()))
    return text if len(text) <= LONGEST_WORDS else f"{text[:LONGEST_WORDS]}…"


def sample(pair: object) -> tuple[float, float]:
    """A moment and its number, as the API writes them. ValueError for anything else."""
    if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], str) and isinstance(pair[0], int | float):
        try:
            return float(pair[0]), float(pair[1])
        except OverflowError:
            pass  # a moment of hundreds of digits
    raise ValueError(f"not a sample: {_short(repr(pair))}")


def series_of(answer: Answer, key: str) -> Iterator[tuple[dict[str, str], Any]]:
    """The labels of each series and what stands under ``key``. ValueError, in words, for what has no numbers."""
    for one in answer.result:
        labels = one.get("metric") if isinstance(one, dict) else None
        if not isinstance(labels, dict):
            raise ValueError(f"not a series: {_short(repr(one))}")
        if key not in one:
            if "histogram" in one or "histograms" in one:
                raise ValueError("gives histograms, not numbers; put histogram_quantile(…) around it")
            raise ValueError(f"a series without a {key}: {_short(repr(one))}")
        yield {str(name): str(value) for name, value in labels.items()}, one[key]


async def headers_of(host: Host, token_file: str | None, headers_file: str | None) -> dict[str, str]:
    """What tells the server who asks. ProbeFailed, without the secret, when a file has none."""
    found: dict[str, str] = {}
    if headers_file is not None:
        for number, line in enumerate((await _text(host, headers_file)).splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            match = _HEADER.fullmatch(line.rstrip())
            if match is None:
                raise ProbeFailed(f"{headers_file}:{number} is no header", remedy="write one `Name: value` a line")
            found[match[1]] = match[2]
    if token_file is not None:
        token = (await _text(host, token_file)).strip()
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ProbeFailed(f"{token_file} should have the token in it, in one line and nothing else")
        found["Authorization"] = f"Bearer {token}"
    return found


async def _text(host: Host, path: str) -> str:
    try:
        return await host.read_text(path)
    except UnicodeDecodeError as error:
        raise ProbeFailed(f"{path} is no text") from error
    except OSError as error:
        raise ProbeFailed(f"{path} cannot be read: {error.strerror or error}") from error


class PrometheusMonitor:
    def __init__(self, name: str, config: Config, host: Host, network: Network) -> None:
        self.name = name
        self.config = config
        self._host = host
        self._network = network
        self._told_of: frozenset[str] = frozenset()
        self._before: dict[tuple[str, str], None] = {}

    @property
    def subjects(self) -> Sequence[str]:
        fixed = (fixed_subject(query.subject) for query in self.config.queries.values())
        return tuple(dict.fromkeys(name for name in fixed if name is not None))

    async def observe(self) -> Sequence[Observation]:
        config = self.config
        headers = await headers_of(self._host, config.token_file, config.headers_file)
        api = QueryApi(self._network, config.url, headers, config.verify_tls, config.ca_file)
        seen: list[Observation] = []
        cut: dict[str, int] = {}
        for metric, query in config.queries.items():
            answer = await api.ask(query.query, body_limit=65536 + BYTES_A_SERIES * config.most_series)
            try:
                found = self._read(metric, query, answer)
            except ValueError as error:
                raise ProbeFailed(f"the query for {metric}: {error}") from error
            if len(found) > config.most_series:
                cut[metric] = len(found) - config.most_series
                found = sorted(found, key=lambda one: one.subject)[: config.most_series]  # the same ones every time
            seen += [one for one in found if math.isfinite(one.value)]
        # What the server has no number for is not as it was: an old number would go on being judged.
        now = dict.fromkeys((one.subject, one.metric) for one in seen)
        gone = [Lost(self.name, *series) for series in self._before if series not in now]
        self._before = now
        return [*seen, *gone, self._left_out(cut)]

    def _read(self, metric: str, query: Query, answer: Answer) -> list[Observation]:
        if answer.kind == "scalar":
            name = fixed_subject(query.subject)
            if name is None:
                raise ValueError("gives a single number without labels; name its subject, as in subject: =shop")
            return [Observation(self.name, name, metric, sample(answer.result)[1])]
        if answer.kind != "vector":
            raise ValueError(f"gives a {answer.kind} where one number a series is wanted; rate(…) makes one of a range")
        found: dict[str, Observation] = {}
        for labels, pair in series_of(answer, "value"):
            subject = subject_named(query.subject, labels)
            if subject in found:
                raise ValueError(
                    f"more than one series is called {subject!r}, one of them {written(labels)}; "
                    "add labels to the subject, or sum by (…)"
                )
            detail = _short(labels.get(query.detail, "")) if query.detail else ""
            found[subject] = Observation(self.name, subject, metric, sample(pair)[1], detail=detail)
        return list(found.values())

    def _left_out(self, cut: Mapping[str, int]) -> Observation:
        words = ", ".join(f"{count} of {metric}" for metric, count in cut.items())
        if fresh := frozenset(cut) - self._told_of:
            log.warning(
                "a query gives more series than are taken; the rest is left out",
                extra={"instance": self.name, "metrics": sorted(fresh), "most_series": self.config.most_series},
            )
        self._told_of = frozenset(cut)
        return Observation(self.name, self.name, LEFT_OUT, float(sum(cut.values())), detail=words)


PLUGIN = monitor(
    Config,
    lambda name, config, tools: PrometheusMonitor(name, config, tools.host, tools.network),
    every=30,
    timeout=20,
)
