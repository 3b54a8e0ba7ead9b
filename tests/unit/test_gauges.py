"""Numbers that are read off a real loop: how long trouble has lasted, how often it came back, how often it looks."""

import time
from pathlib import Path

import pytest
from asking import Endpoint, Eyes, play


def numbers(endpoint: Endpoint, name: str) -> dict[str, float]:
    """Each series of that metric, by what stands between its braces."""
    page, _ = endpoint.face.metrics.exposition()
    found = {}
    for line in page.decode().splitlines():
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0] == name:
            found[series.removeprefix(name).strip("{}")] = float(value)
    return found


async def look(endpoint: Endpoint, web: float, later: float = 0.0) -> None:
    """One turn, so many seconds later, in which the service is seen to be up (1) or down (0)."""
    endpoint.clock.ahead += later
    (instance,) = endpoint.face.loop.parts.instances
    assert isinstance(instance.monitor, Eyes)
    instance.monitor.seen["web"] = web
    await endpoint.face.loop.run_cycle()


def test_there_is_an_oldest_incident_only_while_one_is_open(tmp_path: Path) -> None:
    name = "x0tta6bl4_incident_open_since_timestamp_seconds"

    async def story(endpoint: Endpoint) -> None:
        assert {} == numbers(endpoint, name)
        await look(endpoint, 0.0)
        (incident,) = endpoint.face.loop.incidents.open
        first = numbers(endpoint, name)
        await look(endpoint, 0.0, later=500)
        later = numbers(endpoint, name)
        await look(endpoint, 1.0, later=5)
        await look(endpoint, 1.0, later=5)

        assert {'severity="critical"': pytest.approx(incident.onset_at, abs=0.001)} == first
        assert time.time() - 60 < incident.onset_at <= time.time()
        assert first == later
        assert {} == numbers(endpoint, name)

    play(tmp_path, story)


def test_the_oldest_of_a_severity_is_told(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        onsets = {incident.onset_at for incident in endpoint.face.loop.incidents.open}

        assert 2 == len(onsets)
        assert {'severity="critical"': pytest.approx(min(onsets), abs=0.001)} == numbers(
            endpoint, "x0tta6bl4_incident_open_since_timestamp_seconds"
        )

    async def broken_one_after_the_other(endpoint: Endpoint) -> None:
        await look(endpoint, 0.0, later=40)
        await story(endpoint)

    play(tmp_path, broken_one_after_the_other, seen={"db": 0.0, "web": 1.0})


def test_trouble_that_comes_back_is_counted_by_its_subject(tmp_path: Path) -> None:
    name = "x0tta6bl4_incidents_reopened_total"

    async def story(endpoint: Endpoint) -> None:
        await look(endpoint, 0.0)
        assert {} == numbers(endpoint, name), "the first time it does not come back"
        for times in (1, 2):
            await look(endpoint, 1.0, later=5)
            await look(endpoint, 1.0, later=5)
            assert not endpoint.face.loop.incidents.open
            await look(endpoint, 0.0)
            await look(endpoint, 0.0)
            assert {'subject="web"': times} == numbers(endpoint, name)

    play(tmp_path, story)


def test_how_often_the_loop_looks_is_told(tmp_path: Path) -> None:
    async def story(endpoint: Endpoint) -> None:
        assert {"": 60.0} == numbers(endpoint, "x0tta6bl4_loop_interval_seconds")
        endpoint.face.loop.interval = 7.5
        assert {"": 7.5} == numbers(endpoint, "x0tta6bl4_loop_interval_seconds")

    play(tmp_path, story)
