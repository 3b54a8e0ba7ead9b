"""Streams over real sockets: whose key or session has ended does not go on reading, however it was ended."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from asking import OPERATOR, PASSWORD, Endpoint, play

from x0tta6bl4.settings.model import StatusSettings
from x0tta6bl4.status import streaming
from x0tta6bl4.status.access import Access, Scope
from x0tta6bl4.status.endpoint import serve
from x0tta6bl4.status.filekeys import FileKeys

PATIENCE = 30.0
"""Seconds that something which must happen may take on a busy machine; nobody waits for it when all is well."""


async def reading(port: int, credential: str, kept: list[asyncio.StreamWriter]) -> asyncio.StreamReader:
    """``kept``: a connection is closed as soon as nobody holds its writer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    kept.append(writer)
    shown = f"Authorization: Bearer {credential}\r\n" if credential else ""
    writer.write(f"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{shown}\r\n".encode())
    assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
    return reader


def test_a_stream_ends_with_the_key_or_session_that_it_was_opened_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "LOOK_EVERY", 0.0)
    file = tmp_path / "ci.key"
    file.write_text("k" * 40)

    async def story(endpoint: Endpoint) -> None:
        access = endpoint.access
        revoked, other = (
            await access.create_key("gone", Scope.READ, "root@cli"),
            await endpoint.key(Scope.READ, "stays"),
        )
        await access.add_operator(OPERATOR, PASSWORD, Scope.READ, "root@cli")
        signed_in = await access.sign_in(OPERATOR, PASSWORD, "127.0.0.1")
        behind = replace(endpoint.behind, keys=FileKeys({"ci": (file, Scope.READ)}))
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        settings = StatusSettings(port=0)
        task = asyncio.create_task(serve(endpoint.face, settings, behind, lambda where, _: told.set_result(where)))
        port = urlsplit(await told).port
        assert port is not None
        writers: list[asyncio.StreamWriter] = []
        by_key, by_session, by_file, stays, local = [
            await reading(port, shown, writers) for shown in (revoked.text, signed_in.access, "k" * 40, other, "")
        ]
        # As another process does it: nothing in the daemon's memory knows of it.
        elsewhere = Access(endpoint.database, _unheard, endpoint.clock, lambda: b"")
        await elsewhere.revoke_keys("gone", "root@cli")
        await elsewhere.end_sessions("root@cli")
        draft = tmp_path / "draft"
        draft.write_text("n" * 40)
        os.replace(draft, file)
        async with asyncio.timeout(PATIENCE):
            for ended in (by_key, by_session):
                assert (await ended.read()).endswith(b": the key or the session does not hold any more\n\n")
            assert (await by_file.read()).endswith(b": the key was changed\n\n")
        assert not stays.at_eof() and not local.at_eof()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await stays.read()).endswith(b": the daemon stops\n\n"), "it was left alone until then"
        assert (await local.read()).endswith(b": the daemon stops\n\n")
        for writer in writers:
            writer.close()

    play(tmp_path, story)


async def _unheard(who: str, what: str, data: object) -> int:
    return 0
