"""Asks the running daemon how things are at this moment, over its endpoint; silence is no answer, never a guess."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

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
    learning: tuple[str, ...] = ()
    """What is too young to be judged, a sentence for each analyzer."""
    trouble: str = ""
    """Why the daemon could not be asked; then all of this is empty."""


class _NoAnswer(Exception):
    """Why the daemon could not be asked, in words."""


def ask(daemon: Holder, now: float) -> Picture:
    """What the daemon's status page says, bounded in time and size."""
    try:
        told = _got(daemon, "/status")
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
        learning = tuple(_learning(name, how) for name, how in told.get("learning", {}).items() if how["learning"])
        return Picture(subjects, tuple(told["conditions"]), learning)
    except _NoAnswer as reason:
        return Picture(trouble=str(reason))
    except (ValueError, KeyError, TypeError) as error:
        place = f"{daemon.url.rstrip('/')}/status"
        return Picture(trouble=f"{place} does not answer as this version should: {error!r}")


def nearest(daemon: Holder, subject: str) -> list[Mapping[str, Any]]:
    """The series of a well subject that are nearest to a finding: what is learnt is in the daemon's memory.

    Empty too where it cannot be asked: whoever asks for its status is told why.
    """
    try:
        told = _got(daemon, f"/api/v1/why/{quote(subject, safe='')}")
    except _NoAnswer:
        return []
    found = told.get("nearest") if isinstance(told, Mapping) else None
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _got(daemon: Holder, path: str) -> Any:
    if not daemon.url:
        raise _NoAnswer("it tells of no endpoint")
    parts, place = urlsplit(daemon.url), f"{daemon.url.rstrip('/')}{path}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _NoAnswer(f"cannot ask over {daemon.url}")
    connection = _connection(parts)
    headers = {"Accept": "application/json"}
    token = _token(daemon.state_dir)
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        body = reply.read(LARGEST)
        if reply.status in (401, 403) and not token:
            raise _NoAnswer(
                f"{place} wants to know who asks, and {daemon.state_dir}/operator.token cannot be read by this "
                "user; ask as the daemon's user"
            )
        if reply.status != 200:
            raise _NoAnswer(f"{place} answers {reply.status}")
        return json.loads(body)
    except (OSError, http.client.HTTPException) as error:
        raise _NoAnswer(f"{daemon.url} does not answer: {error}") from error
    except ValueError as error:
        raise _NoAnswer(f"{place} does not answer as this version should: {error!r}") from error
    finally:
        connection.close()


def _learning(name: str, how: Mapping[str, int]) -> str:
    return f"{name} is learning: {how['learning']} of {how['known']} are too young to be judged"


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
