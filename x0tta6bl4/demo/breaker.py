"""Asks, breaks and times the sample service, for whoever shows or measures how the daemon heals it."""

import json
import random
import socket
import time
from typing import Any, NamedTuple

HOST = "127.0.0.1"


class Answer(NamedTuple):
    status: int | None
    """None: no whole answer in time, for whatever reason."""
    pid: int | None
    """Who answered, when the answer says so."""
    seconds: float


def ask(port: int, path: str = "/work", timeout: float = 0.25) -> Answer:
    """One GET on a connection of its own. The timeout bounds the whole of it; nothing is raised for a bad answer."""
    began = time.monotonic()
    try:
        status, body = _exchange(port, "GET", path, timeout)
    except OSError:
        return Answer(None, None, time.monotonic() - began)
    seconds = time.monotonic() - began
    try:
        pid = json.loads(body)["pid"]
    except (ValueError, KeyError, TypeError):
        return Answer(status, None, seconds)
    return Answer(status, pid if isinstance(pid, int) else None, seconds)


def break_(port: int, kind: str, **params: float) -> int:
    """Breaks the victim and gives its pid. ValueError with the victim's words when it would not.

    Returns when the break is in force: from then on nothing answers that should not. Only a `stop` comes
    microseconds after.
    """
    query = "&".join(f"{name}={float(value)!r}" for name, value in params.items())
    pid = _control(port, f"/break/{kind}?{query}")["pid"]
    assert isinstance(pid, int)
    return pid


def mend(port: int) -> None:
    _control(port, "/mend")


def state(port: int) -> dict[str, Any]:
    return _control(port, "/state", "GET")


def wait_until_answers(
    port: int, since: float, other_than_pid: int | None = None, timeout: float = 30.0, path: str = "/work"
) -> float:
    """Seconds from ``since`` (monotonic) to the first 200 of another process, asked for about every 10 ms.

    TimeoutError, with what came last, when there was none ``timeout`` seconds after the call.
    """
    give_up = time.monotonic() + timeout
    while True:
        answer = ask(port, path)
        now = time.monotonic()
        if answer.status == 200 and (other_than_pid is None or answer.pid not in (None, other_than_pid)):
            return now - since
        if now >= give_up:
            raise TimeoutError(f"port {port} had no good answer within {timeout:g} s; the last was {answer}")
        time.sleep(max(0.0, 0.01 - answer.seconds))


def free_port() -> int:
    """A loopback port that nobody uses now, from below those that the kernel gives to outgoing connections.

    From among those, a client that keeps asking a dead port would sooner or later be given that very port, connect
    to itself, and keep the restarted victim from listening.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        lowest, highest = map(int, file.read().split())
    below = range(max(1024, lowest - 20000), lowest)
    choices = below if len(below) >= 1000 else range(min(highest + 1, 60000), 65536)
    for port in random.sample(choices, min(len(choices), 200)):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port found from {choices[0]} to {choices[-1]}")


def _control(port: int, target: str, method: str = "POST") -> dict[str, Any]:
    status, body = _exchange(port, method, target, timeout=10.0)
    answer: dict[str, Any] = json.loads(body)
    if status != 200:
        raise ValueError(f"{target}: {status}: {answer['error']}")
    return answer


def _exchange(port: int, method: str, target: str, timeout: float) -> tuple[int, bytes]:
    """Reads to the end of the connection, which for a victim that dies is its death. OSError for anything less."""
    deadline = time.monotonic() + timeout
    received = b""
    with socket.socket() as connection:
        connection.settimeout(timeout)
        connection.connect((HOST, port))
        request = f"{method} {target} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode("ascii"))
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no whole answer in time")
            connection.settimeout(left)
            more = connection.recv(65536)
            if not more:
                break
            received += more
    head, end, body = received.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if not end or len(words) < 3 or not words[1].isdigit():
        raise ConnectionError(f"not an answer: {received[:80]!r}")
    return int(words[1]), body
