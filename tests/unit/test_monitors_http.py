"""The HTTP probe: on a scripted network in virtual time, and on a real server."""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from x0tta6bl4.adapters.network import AsyncNetwork
from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.kernel.facts import Observation
from x0tta6bl4.kernel.plugin import Monitor
from x0tta6bl4.monitors.http import PLUGIN, Config
from x0tta6bl4.testing.fakes import FOREVER, FakeNetwork, tools
from x0tta6bl4.testing.virtual_time import EPOCH, LoopClock, run

URL = "http://api:8080/work"


def probe(network: Any, **settings: Any) -> Monitor:
    config = Config(**{"subject": "api", "url": URL, **settings})
    return PLUGIN.build("h", config, tools(clock=LoopClock(), network=network))


def told(seen: Sequence[Observation]) -> dict[str, tuple[float, str]]:
    assert {(o.source, o.subject) for o in seen} == {("h", "api")}
    return {o.metric: (o.value, o.detail) for o in seen}


def test_a_good_answer_is_reported_with_its_time_and_status() -> None:
    network = FakeNetwork()
    network.answer(URL, 204, seconds=0.25)

    seen = run(probe(network).observe())

    assert told(seen) == {"work_up": (1, "answered 204"), "work_seconds": (0.25, ""), "work_status": (204, "")}


def test_the_probe_it_is_names_its_metrics() -> None:
    network = FakeNetwork()
    network.answer(URL)

    assert set(told(run(probe(network, probe="health").observe()))) == {"health_up", "health_seconds", "health_status"}


@pytest.mark.parametrize(
    ("status", "expected", "up"),
    [(200, [], 1), (399, [], 1), (400, [], 0), (503, [], 0), (503, [503], 1), (200, [503], 0)],
)
def test_a_status_counts_as_the_operator_said(status: int, expected: list[int], up: float) -> None:
    network = FakeNetwork()
    network.answer(URL, status)

    seen = told(run(probe(network, expect_status=expected).observe()))

    assert seen["work_up"] == (up, f"answered {status}")
    assert seen["work_status"][0] == status, "it answered, and that is reported whatever it is worth"


def test_a_body_without_what_must_be_in_it_is_no_good_answer() -> None:
    network = FakeNetwork()
    network.answer(URL, body=b'{"status": "degraded"}')

    assert told(run(probe(network, expect_body='"status": *"ok"').observe()))["work_up"][0] == 0
    assert told(run(probe(network, expect_body="degraded").observe()))["work_up"][0] == 1


def test_silence_is_a_no_and_not_blindness() -> None:
    network = FakeNetwork()
    network.answer(URL, seconds=FOREVER)

    async def scene() -> tuple[Sequence[Observation], float]:
        seen = await probe(network).observe()
        return seen, asyncio.get_running_loop().time()

    seen, ended = run(scene(), start=100.0)

    assert told(seen) == {"work_up": (0, "no answer within 1.2 s")}
    assert ended == pytest.approx(101.2)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "api:8080 refused the connection"),
        ConnectionResetError(errno.ECONNRESET, "api:8080 reset the connection"),
        TimeoutError(errno.ETIMEDOUT, "api:8080 did not answer the kernel's tries to connect"),
        OSError("api:8080 answered no HTTP"),
    ],
)
def test_what_the_service_does_wrong_is_a_no_in_the_networks_words(error: OSError) -> None:
    network = FakeNetwork()
    network.fail(URL, error)

    assert told(run(probe(network).observe())) == {"work_up": (0, str(error))}


def _caused(error: OSError, cause: Exception) -> OSError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        _caused(OSError("api cannot be resolved"), socket.gaierror(socket.EAI_NONAME, "Name or service not known")),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"),
        _caused(OSError("the CA file /ca.pem cannot be read"), FileNotFoundError(2, "No such file or directory")),
    ],
)
def test_what_is_our_own_trouble_or_the_resolvers_is_blindness(error: OSError) -> None:
    network = FakeNetwork()
    network.fail(URL, error)

    with pytest.raises(ProbeFailed):
        run(probe(network).observe())


def test_a_certificates_rest_of_life_is_reported() -> None:
    network = FakeNetwork()
    network.answer("https://api/", tls_expires_at=EPOCH + 86400.0)

    assert told(run(probe(network, url="https://api/").observe()))["tls_seconds_left"][0] == pytest.approx(86400.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "ftp://api/"}, {"url": "http:///work"}, {"url": "http://me@api/"}, {"url": "http+unix://app"},
        {"url": "http://api:99999/"}, {"expect_status": [99]}, {"expect_body": "("}, {"within": 0}, {"probe": "ping"},
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_asked_is_refused_before_the_start(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config(**{"subject": "api", "url": URL, **settings})


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def at_a_real_server(handler: Handler, **settings: Any) -> dict[str, tuple[float, str]]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return told(await probe(AsyncNetwork(), url=f"http://127.0.0.1:{port}/work", **settings).observe())


def test_a_real_server_that_answers_is_up() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
        writer.close()

    seen = asyncio.run(at_a_real_server(answer, expect_body="^done$", within=30))

    assert seen["work_up"] == (1, "answered 200")
    assert seen["work_seconds"][0] > 0


def test_a_real_server_that_takes_the_question_and_keeps_silent_is_down() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the asker has given up
        writer.close()

    assert asyncio.run(at_a_real_server(swallow, within=0.05)) == {"work_up": (0, "no answer within 0.05 s")}


def test_a_real_port_where_nobody_listens_is_down() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can begin to listen there meanwhile
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"

        seen = told(asyncio.run(_real_look(url)))

    assert seen["work_up"][0] == 0
    assert "refused the connection" in seen["work_up"][1]


async def _real_look(url: str) -> Sequence[Observation]:
    return await probe(AsyncNetwork(), url=url, within=30).observe()
