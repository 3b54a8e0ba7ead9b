"""What every Alerts promises, asked of the fake and of the real inbox."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest

from x0tta6bl4.adapters.alerts import AlertInbox
from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.ports.alerts import Alert, Alerts, Told
from x0tta6bl4.testing.fakes import FakeAlerts, FakeClock

Tell = Callable[[Alert], object]


@pytest.fixture(params=["fake", "real"])
def both(request: pytest.FixtureRequest) -> tuple[Alerts, Tell, FakeClock]:
    clock = FakeClock()
    if request.param == "fake":
        fake = FakeAlerts(clock)
        return fake, fake.tell, clock
    inbox = AlertInbox(clock)
    return inbox, inbox.offer, clock


def alert(print_: str = "f", *, firing: bool = True, starts_at: float = 100.0) -> Alert:
    return Alert(print_, "A", firing, {"service": "web"}, {}, starts_at)


async def heard(alerts: Alerts, tell: Callable[[], object], number: int) -> list[Told]:
    """What a reader hears of what is told while he listens."""
    got: list[Told] = []

    async def read() -> None:
        async with aclosing(alerts.listen(lambda one: one.fingerprint != "unwanted")) as notices:
            async for told in notices:
                got.append(told)

    reading = asyncio.ensure_future(read())
    await asyncio.sleep(0)
    tell()
    for _ in range(number + 2):
        await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    return got


def test_what_is_told_is_heard_in_its_order_with_the_time(both: tuple[Alerts, Tell, FakeClock]) -> None:
    alerts, tell, clock = both

    def told() -> None:
        tell(alert("f"))
        clock.advance(5)
        tell(alert("g"))

    got = asyncio.run(heard(alerts, told, 2))

    assert [("f", 0.0, True), ("g", 5.0, True)] == [
        (one.alert.fingerprint, one.at - got[0].at, one.is_new) for one in got
    ]


def test_that_it_still_fires_is_heard_as_a_repetition(both: tuple[Alerts, Tell, FakeClock]) -> None:
    alerts, tell, _ = both
    got = asyncio.run(heard(alerts, lambda: [tell(alert()), tell(alert()), tell(alert(starts_at=200.0))], 3))

    assert [True, False, True] == [one.is_new for one in got]


def test_what_is_not_wanted_is_not_kept(both: tuple[Alerts, Tell, FakeClock]) -> None:
    alerts, tell, _ = both

    assert [] == asyncio.run(heard(alerts, lambda: tell(alert("unwanted")), 1))
    assert [] == list(alerts.firing())


def test_what_fires_is_kept_over_its_readers_until_it_is_over(both: tuple[Alerts, Tell, FakeClock]) -> None:
    alerts, tell, _ = both

    async def story() -> None:
        await heard(alerts, lambda: [tell(alert("f")), tell(alert("g"))], 2)
        assert ["f", "g"] == [one.alert.fingerprint for one in alerts.firing()]
        (over,) = await heard(alerts, lambda: tell(alert("f", firing=False)), 1)
        assert (True, False) == (over.is_new, over.alert.firing)
        assert ["g"] == [one.alert.fingerprint for one in alerts.firing()]

    asyncio.run(story())


def test_what_one_reader_left_the_next_one_hears(both: tuple[Alerts, Tell, FakeClock]) -> None:
    alerts, tell, _ = both

    async def story() -> None:
        first = alerts.listen(lambda one: True)
        reading = asyncio.ensure_future(anext(first))
        await asyncio.sleep(0)
        tell(alert("f"))
        tell(alert("g"))
        assert "f" == (await reading).alert.fingerprint
        await first.aclose()
        assert ["g"] == [one.alert.fingerprint for one in await heard(alerts, lambda: None, 1)]

    asyncio.run(story())


def test_there_is_one_reader_at_a_time(both: tuple[Alerts, Tell, FakeClock]) -> None:
    alerts, _, _ = both

    async def story() -> None:
        first = asyncio.ensure_future(anext(alerts.listen(lambda one: True)))
        await asyncio.sleep(0)
        with pytest.raises(ProbeFailed):
            await anext(alerts.listen(lambda one: True))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert [] == await heard(alerts, lambda: None, 0)

    asyncio.run(story())
