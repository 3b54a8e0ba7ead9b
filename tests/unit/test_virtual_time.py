"""Virtual time: jumps when nothing else is to do, waits for what is real, and says when nothing can ever come."""

import asyncio
import os
import threading
import time

import pytest

from x0tta6bl4.testing.virtual_time import EPOCH, START, Deadlock, LoopClock, run


def test_years_of_sleep_pass_at_once_and_exactly() -> None:
    async def scene() -> list[tuple[str, float]]:
        woken: list[tuple[str, float]] = []

        async def sleep(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            woken.append((name, asyncio.get_running_loop().time() - START))

        await asyncio.gather(sleep("decade", 3.2e8), sleep("second", 1.0), sleep("hour", 3600.0))
        return woken

    assert run(scene()) == [("second", 1.0), ("hour", 3600.0), ("decade", pytest.approx(3.2e8))]


def test_timeouts_are_virtual_too() -> None:
    async def scene() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(scene(), start=5.0) == 65.0


def test_what_can_never_go_on_is_an_error_that_names_the_waiting() -> None:
    async def wait_for_nobody() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match=r"lonely at .*test_virtual_time\.py"):
        run(_named(wait_for_nobody()))


async def _named(waiting: object) -> None:
    task: asyncio.Task[None] = asyncio.create_task(waiting, name="lonely")  # type: ignore[arg-type]  # a coroutine
    await task


def test_threads_are_waited_for_before_time_goes_on() -> None:
    async def scene() -> tuple[str, float]:
        async with asyncio.timeout(0.001):
            word = await asyncio.to_thread(_slowly)
        return word, asyncio.get_running_loop().time()

    assert run(scene()) == ("done", START)


def _slowly() -> str:
    time.sleep(0.02)
    return "done"


def test_real_descriptors_are_heard() -> None:
    async def scene() -> bytes:
        reading, writing = os.pipe()
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[bytes] = loop.create_future()
        loop.add_reader(reading, lambda: heard.set_result(os.read(reading, 10)))
        writer = threading.Thread(target=os.write, args=(writing, b"hello"))
        writer.start()
        try:
            return await heard  # No timer runs: only the pipe can go on, and it is waited for really.
        finally:
            loop.remove_reader(reading)
            writer.join()
            os.close(reading)
            os.close(writing)

    assert run(scene()) == b"hello"


def test_time_passes_a_real_descriptor_that_has_nothing_to_say() -> None:
    async def scene() -> float:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            await asyncio.sleep(3600)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
        return asyncio.get_running_loop().time()

    assert run(scene()) >= START + 3600


def test_the_clock_goes_with_the_loop_and_the_wall_can_be_set() -> None:
    async def scene() -> None:
        clock = LoopClock()
        assert (clock.monotonic(), clock.wall()) == (START, EPOCH)
        await asyncio.sleep(30)
        assert (clock.monotonic(), clock.wall()) == (START + 30, EPOCH + 30)
        clock.set_wall(0.0)
        await asyncio.sleep(1)
        assert (clock.monotonic(), clock.wall()) == (START + 31, 1.0)

    run(scene())
