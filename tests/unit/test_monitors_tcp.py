"""The TCP probe, on a scripted network in virtual time."""

import socket
from typing import Any

import pytest

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.monitors.tcp import PLUGIN, Config
from x0tta6bl4.testing.fakes import FOREVER, FakeNetwork, tools
from x0tta6bl4.testing.virtual_time import run


def look(network: FakeNetwork, **settings: Any) -> dict[str, tuple[float, str]]:
    config = Config(subject="db", host="db", port=5432, **settings)
    seen = run(PLUGIN.build("t", config, tools(network=network)).observe())
    assert {(o.source, o.subject) for o in seen} == {("t", "db")}
    return {o.metric: (o.value, o.detail) for o in seen}


def test_a_taken_connection_is_reported_with_its_time() -> None:
    network = FakeNetwork()
    network.answer("db:5432", seconds=0.1)

    assert look(network, probe="health") == {"health_up": (1, ""), "health_seconds": (0.1, "")}


def test_a_refused_connection_is_a_no() -> None:
    assert look(FakeNetwork()) == {"work_up": (0, "[Errno 111] db:5432 refused the connection")}


def test_silence_is_a_no() -> None:
    network = FakeNetwork()
    network.answer("db:5432", seconds=FOREVER)

    assert look(network, within=3) == {"work_up": (0, "no answer within 3 s")}


def test_a_name_that_cannot_be_resolved_is_blindness() -> None:
    network = FakeNetwork()
    network.fail("db:5432", socket.gaierror(socket.EAI_NONAME, "Name or service not known"))

    with pytest.raises(ProbeFailed):
        look(network)
