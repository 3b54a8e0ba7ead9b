"""Of many who look at once only a few ask the store at a time: a heal must not stand behind all of them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from asking import Endpoint, play

from x0tta6bl4.status import stories
from x0tta6bl4.status.app import LOOKING_AT_ONCE


def test_only_a_few_look_at_once_all_are_answered_and_probes_do_not_wait_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, most, go = 0, 0, asyncio.Event()

    async def history(*_: object, **__: object) -> Any:
        nonlocal looking, most
        looking += 1
        most = max(most, looking)
        await go.wait()
        looking -= 1
        return {"actions": [], "next": None}

    monkeypatch.setattr(stories, "history", history)

    async def story(endpoint: Endpoint) -> None:
        asked = [asyncio.create_task(endpoint.get("/api/v1/history")) for _ in range(5 * LOOKING_AT_ONCE)]
        while endpoint.app._busy < len(asked):
            await asyncio.sleep(0)
        assert 200 == (await endpoint.get("/livez")).status
        assert 200 == (await endpoint.post("/-/reload", {})).status
        go.set()
        assert {200} == {reply.status for reply in await asyncio.gather(*asked)}
        assert LOOKING_AT_ONCE == most
        assert 0 == looking

    play(tmp_path, story)
