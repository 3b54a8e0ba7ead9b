"""What can be set, with its type, its default and what changes when it is changed.

Plugins' own keys are not here: the sections of the five families are kept as they were written, and each plugin's class
checks its own part. Durations are seconds inside and ``500ms``, ``5s``, ``2m``, ``1h``, ``1d`` in the file.
"""

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
)

from x0tta6bl4.kernel.errors import ConfigError, Problem
from x0tta6bl4.kernel.flags import NAMES as FLAG_NAMES
from x0tta6bl4.kernel.policy import GuardPolicy, Positive, Section, lower
from x0tta6bl4.kernel.units import Seconds


def _usable_path(value: Path) -> Path:
    if "\0" in str(value):
        raise ValueError("a path cannot hold a NUL character")
    try:
        return value.expanduser()
    except RuntimeError as error:
        raise ValueError("begins with '~', but this user has no home folder") from error


def _no_empty_path(value: object) -> object:
    if value == "":
        raise ValueError("a path cannot be empty; leave the key out, or write null")
    return value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _none_is_empty(value: object) -> object:
    return {} if value is None else value


def _web_origin(value: str) -> str:
    if not re.fullmatch(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", value):
        raise ValueError("should be scheme, host and port without a path, such as http://localhost:3000")
    return value


def _bind_host(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:%-]+", value):
        raise ValueError("should be an address or a host name without port, such as 127.0.0.1 or ::1")
    return value


def _reachable_url(value: str) -> str:
    """Where people find the endpoint. A link that answers is not sent over a wire that others can read."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or "@" in value:
        raise ValueError("should be scheme, host and path alone, such as https://heal.example.org/")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError("should begin with https://, for whoever reads a link on its way may answer with it")
    return value.rstrip("/") + "/"


def _flag_name(value: str) -> str:
    if value not in FLAG_NAMES:
        raise ValueError("no such flag; there are: " + ", ".join(FLAG_NAMES))
    return value


AnyPath = Annotated[Path, BeforeValidator(_no_empty_path), AfterValidator(_usable_path)]
Port = Annotated[int, Field(ge=0, le=65535)]
Entries = dict[str, Annotated[dict[str, Any], BeforeValidator(_none_is_empty)]]


class MapekSettings(Section):
    """The loop itself."""

    enabled: bool = True
    """Whether the loop runs. Off: the endpoint answers, nothing is looked at and nothing is healed."""
    interval: Seconds = Field(default=60.0, gt=0)
    """
    Seconds between two full turns of the loop.

    Raised, faults that wake nobody by themselves are found later; lowered, the daemon costs more CPU. Fast probes and
    occurrences wake the loop whatever stands here, so it seldom needs a change.
    """
    timeout: Seconds = Field(default=30.0, gt=0)
    """
    Seconds that one phase of a turn may take before what has not answered is cut off.

    Raised, one hanging plugin delays the others' turn longer; lowered, slow but sound sources are reported as blind.
    """
    anomaly_threshold: float = Field(default=2.0, gt=0)
    """
    How far from what was learnt of it something must be to be a finding, for the analyzers ``baseline`` and ``host``.

    2 is the measure that they are tuned at; their thresholds grow in proportion. Raised, real faults are found later or
    not at all; lowered, healthy noise is reported more often.
    """


def _network(value: str) -> str:
    try:
        return str(ip_network(value, strict=False))
    except ValueError as error:
        raise ValueError("should be an address or a network, such as 10.0.0.5 or 10.0.0.0/8") from error


class TlsSettings(Section):
    """The certificate with which the endpoint speaks HTTPS. Both files are read again when they change."""

    certificate: AnyPath
    """The certificate and what leads to its root, in PEM, the own one first. Replace it together with its key."""
    key: AnyPath
    """Its private key, in PEM and without a passphrase. Whoever can read it can pass for this daemon."""


class ApiKeySettings(Section):
    """A key for the API that somebody else keeps, such as systemd or Kubernetes."""

    file: AnyPath
    """The file that holds it: at least 32 characters in one line. Read again when it changes."""
    scope: Literal["read", "operate", "admin"] = "read"
    """What it may do: only look; also answer, pause and tell; or also set flags and reload."""


class StatusSettings(Section):
    """The HTTP endpoint: health, metrics, status, API."""

    enabled: bool = True
    """Whether the endpoint is opened. Off: no health checks, metrics or API from outside; healing goes on."""
    host: Annotated[str, AfterValidator(_bind_host)] = "127.0.0.1"
    """
    Address to listen on.

    Anything but loopback shows the API to the network. The daemon refuses to start so until there is a key or an
    operator: ``x0tta6bl4 keys create``, ``x0tta6bl4 operators add`` or ``status.api_keys``.
    """
    port: Port = 8080
    """TCP port to listen on; 0 takes any free one. Change it when another program has the port."""
    workers: Positive = 1
    """
    Processes that answer HTTP. There is one, whatever stands here: it answers thousands of requests a second.

    More are understood, so that a configuration that asks for them is taken, and change nothing.
    """
    tls: TlsSettings | None = None
    """HTTPS on the port itself. Empty: plain HTTP, for loopback or behind a proxy that ends TLS."""
    local_read: bool = True
    """
    Whether who asks from this very host may read without a key.

    Off: every user and program of the host needs one, too. Turn it off behind a proxy on the same host that adds no
    header such as X-Forwarded-For: whoever comes through it looks local. With such a header nobody does.
    """
    api_keys: dict[str, ApiKeySettings] = {}
    """Keys that stand in files, by a name of yours, beside those that ``x0tta6bl4 keys`` makes."""
    trusted_proxies: list[Annotated[str, AfterValidator(_network)]] = []
    """
    Addresses or networks of proxies whose X-Forwarded-For is believed, for limits and the log.

    Empty: whatever comes through a proxy counts as one client, also for sign-ins. Too wide, and clients can choose whom
    they are taken for.
    """
    https_only: bool = False
    """
    Whether plain HTTP is sent away to HTTPS. Turn it on behind a proxy that ends TLS; without one nobody gets in.

    The proxy says so by X-Forwarded-Proto, and is believed on this host and where ``trusted_proxies`` names it.
    """
    rate_limit_per_minute: Positive = 100
    """
    Requests per minute from one address before it is told to wait. Probes, scrapes and the page's files do not count.

    A key that was made with a rate of its own has that one. Raised, one client can take more of the CPU; lowered,
    dashboards that ask often are turned away.
    """
    cors_origins: list[Annotated[str, AfterValidator(_web_origin)]] = [
        "http://localhost:3000",
        "http://localhost:8000",
        "http://127.0.0.1:3000",
        "http://127.0.0.1:8000",
    ]
    """Web pages that may call the API from a browser. Each one more can act with its visitor's rights."""
    prometheus_port: Port | None = None
    """A second port for metrics alone. Empty: they are on the endpoint's port, at /metrics. 9090 is Prometheus' own."""
    metrics_enabled: bool = True
    """Whether metrics are kept and served. Off saves a little memory and leaves dashboards and alerts blind."""
    metrics_open: bool = False
    """
    Whether everybody who reaches the port may read the metrics. Off: neighbours on this host, and who shows a key.

    On, names of services and their troubles are seen by whoever can reach the port.
    """
    health_check_interval: Seconds = Field(default=30.0, gt=0)
    """
    Seconds for which the answer of the health checks is kept.

    Raised, /health tells of a broken part later; lowered, the checks cost more CPU.
    """


class ApprovalSettings(Section):
    """How people answer for steps that wait for approval, beside the command line and the API."""

    links: bool = True
    """
    Whether a message that asks for approval carries a link that answers it, once, until it expires.

    Whoever can read the channel and reach the endpoint may answer then. Off: only the command line and the API do.
    """
    url: Annotated[str, AfterValidator(_reachable_url)] | None = None
    """
    Where people reach the endpoint from outside, such as a proxy's https:// address. Read when the daemon starts.

    Empty: links lead to the endpoint's own address, which only this host can reach.
    """


class LoggingSettings(Section):
    """What the daemon writes about its own work."""

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)] = "INFO"
    """
    The least severity that is written.

    DEBUG writes every observation and can fill a disk; above WARNING the log no longer tells what was healed.
    """
    format: Annotated[
        Literal["json", "text"], BeforeValidator(lambda value: "text" if lower(value) == "console" else lower(value))
    ] = "json"
    """``json`` for machines, one object a line; ``text`` for people at a terminal (``console`` means the same)."""
    file: AnyPath | None = None
    """A file to write to, rotated by size. Empty: standard error, where systemd and container runtimes collect it."""

    @property
    def LOG_LEVEL(self) -> str:
        return self.level


class PqcSettings(Section):
    """Post-quantum cryptography for the links between nodes."""

    backend: Annotated[Literal["auto", "liboqs", "cryptography"], BeforeValidator(lower)] = "auto"
    """
    The library that does it. ``auto`` takes liboqs when its C library is installed, else ``cryptography``.

    Production demands liboqs. There is no backend that pretends: with none, there are no links.
    """
    required: bool = False
    """Whether the daemon refuses to start without a working backend. Production refuses in any case."""


class EventSettings(Section):
    """The bus on which parts of the daemon tell each other what happened."""

    max_queue_size: Positive = 1000
    """
    Events that may wait to be handled; one more is refused and counted.

    Raised, a storm of events takes more memory; lowered, short bursts lose events.
    """
    history_size: Positive = 100
    """Events remembered for the API to show. Raised, it costs memory; lowered, the history reaches back less far."""


class RedisSettings(Section):
    """The Redis server that nodes share, where one is used."""

    host: Annotated[str, AfterValidator(_bind_host)] = "localhost"
    """Name or address of the server, without port."""

    @property
    def REDIS_HOST(self) -> str:
        return self.host


class LlmSettings(Section):
    """The adviser that may explain an incident in words. It never acts."""

    openai_api_key_file: AnyPath | None = None
    """The file that holds the key for an OpenAI-compatible service. Whoever can read that file can spend its money."""
    openai_api_key: SecretStr | None = Field(default=None, repr=False)
    """The key itself, from the environment only; it is refused in files and options, where others can read it."""

    @property
    def OPENAI_API_KEY(self) -> str | None:
        """The key, read anew each time so that a renewed file counts. ConfigError when the file cannot be read."""
        if self.openai_api_key is not None:
            return self.openai_api_key.get_secret_value()
        if self.openai_api_key_file is None:
            return None
        try:
            return self.openai_api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            place = str(self.openai_api_key_file)
            raise ConfigError([Problem("llm.openai_api_key_file", f"cannot be read: {why}", place)]) from error


class Settings(Section):
    """All that can be set. An empty file is a working and harmless configuration."""

    environment: Annotated[Literal["production", "staging", "development"], BeforeValidator(lower)] = "development"
    """Where this daemon runs. ``production`` turns on every check that refuses to start in an unsafe state."""
    production: bool = False
    """Demands what ``environment: production`` demands, under any name of the environment."""
    state_dir: AnyPath | None = None
    """
    The folder for what must be remembered: journal, baselines, budgets, flags.

    Empty: $STATE_DIRECTORY when systemd sets it, else /var/lib/x0tta6bl4 for root, else ~/.local/state/x0tta6bl4.
    """
    lock_file: AnyPath | None = None
    """
    The file whose lock says that this host has its loop; a second daemon says who holds it and exits.

    Empty: ``$RUNTIME_DIRECTORY/daemon.lock`` when systemd sets it, /run/x0tta6bl4.lock for root, else
    ``state_dir/daemon.lock``. Two daemons with different lock files would heal against each other.
    """
    mapek: MapekSettings = MapekSettings()
    """The loop itself."""
    status: StatusSettings = StatusSettings()
    """The HTTP endpoint: health, metrics, status, API."""
    approvals: ApprovalSettings = ApprovalSettings()
    """How people answer for steps that wait for approval, beside the command line and the API."""
    logging: LoggingSettings = LoggingSettings()
    """What the daemon writes about its own work."""
    pqc: PqcSettings = PqcSettings()
    """Post-quantum cryptography for the links between nodes."""
    events: EventSettings = EventSettings()
    """The bus on which parts of the daemon tell each other what happened."""
    flags: dict[Annotated[str, AfterValidator(_flag_name)], bool] = {}
    """
    First values of the feature flags auto_healing, pqc_required, mesh_auto_repair, monitoring_verbose and
    experimental_features. What was switched while running is remembered and counts more.
    """
    redis: RedisSettings = RedisSettings()
    """The Redis server that nodes share, where one is used."""
    llm: LlmSettings = LlmSettings()
    """The adviser that may explain an incident in words."""
    guard: GuardPolicy = GuardPolicy()
    """What the daemon may do, how much of it, and when not."""
    subjects: Entries = {}
    """What is under care, by name: services, disks, the host, with what they depend on."""
    monitors: Entries = {}
    """What looks, by a name of your choice; ``use`` names the plugin."""
    analyzers: Entries = {}
    """What judges, by a name of your choice; ``use`` names the plugin."""
    planners: Entries = {}
    """What chooses remedies, by a name of your choice; ``use`` names the plugin."""
    executors: Entries = {}
    """What acts, by a name of your choice; ``use`` names the plugin."""
    knowledge: dict[str, Any] = {}
    """What is remembered and where."""
    rules_dirs: list[AnyPath] = []
    """Folders whose rules are read beside the built-in ones, in this order."""
    runbooks: list[Any] = []
    """Runbooks: files or folders to read them from, or runbooks written out here."""

    @property
    def in_production(self) -> bool:
        return self.production or self.environment == "production"
