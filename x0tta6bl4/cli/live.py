"""Asks the running daemon how things are at this moment, over its endpoint; silence is no answer, never a guess."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

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
    parts = urlsplit(daemon.url)
    if parts.scheme != "http" or not parts.hostname:
        return Picture(trouble=f"cannot ask over {daemon.url}")
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT)
    try:
        connection.request("GET", "/status", headers={"Accept": "application/json"})
        reply = connection.getresponse()
        body = reply.read(LARGEST)
        if reply.status != 200:
            return Picture(trouble=f"{daemon.url}/status answers {reply.status}")
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
        return Picture(trouble=f"{daemon.url}/status does not answer as this version should: {error!r}")
    finally:
        connection.close()
