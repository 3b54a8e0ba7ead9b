"""Asks the running daemon how things are at this moment, over its endpoint; silence is no answer, never a guess."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from x0tta6bl4.cli.places import Holder

TIMEOUT = 2.0
LARGEST = 16 << 20


@dataclass(frozen=True)
class Now:
    """One subject as the daemon sees it now."""

    name: str
    state: str
    since: float
    summary: str
    mode: str = ""
    at: float = 0.0
    """When it was seen so."""


@dataclass(frozen=True)
class Picture:
    subjects: tuple[Now, ...] = ()
    conditions: tuple[Mapping[str, Any], ...] = ()
    trouble: str = ""
    """Why the daemon could not be asked; then all of this is empty."""


def ask(daemon: Holder, now: float) -> Picture:
    """What the daemon's status page says, bounded in time and size."""
    if not daemon.url:
        return Picture(trouble="it tells of no endpoint")
    parts, place = urlsplit(daemon.url), f"{daemon.url.rstrip('/')}/status"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return Picture(trouble=f"cannot ask over {daemon.url}")
    connection = _connection(parts)
    headers = {"Accept": "application/json"}
    token = _token(daemon.state_dir)
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request("GET", "/status", headers=headers)
        reply = connection.getresponse()
        body = reply.read(LARGEST)
        if reply.status in (401, 403) and not token:
            return Picture(
                trouble=f"{place} wants to know who asks, and {daemon.state_dir}/operator.token cannot be read by this "
                "user; ask as the daemon's user"
            )
        if reply.status != 200:
            return Picture(trouble=f"{place} answers {reply.status}")
        told = json.loads(body)
        if told["pid"] != daemon.pid:
            return Picture(trouble=f"{daemon.url} is answered by another daemon (pid {told['pid']})")
        subjects = tuple(
            Now(
                str(s["name"]),
                str(s["state"]),
                datetime.fromisoformat(s["since"]).timestamp(),
                str(s["summary"]),
                str(s["mode"]),
                now,
            )
            for s in told["subjects"]
        )
        return Picture(subjects, tuple(told["conditions"]))
    except (OSError, http.client.HTTPException) as error:
        return Picture(trouble=f"{daemon.url} does not answer: {error}")
    except (ValueError, KeyError, TypeError) as error:
        return Picture(trouble=f"{place} does not answer as this version should: {error!r}")
    finally:
        connection.close()


def _connection(parts: SplitResult) -> http.client.HTTPConnection:
    assert parts.hostname is not None, "an address with a host"
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT)
    import ssl  # only where it is spoken

    # The daemon is known by its lock file and by its pid in the answer. Its certificate is made out to the name that
    # others know it by, not to the address that leads to it on this host.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(parts.hostname, parts.port or 443, timeout=TIMEOUT, context=context)


def _token(state_dir: Path) -> str:
    """Empty for who is not the daemon's user; reading may need none."""
    try:
        return (state_dir / "operator.token").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
