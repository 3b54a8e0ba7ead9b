"""HTTPS on real sockets: a certificate from files is renewed without a restart, and kept when only half is new."""

import asyncio
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from asking import OPERATOR, PASSWORD, Endpoint, play

from x0tta6bl4.settings.model import StatusSettings
from x0tta6bl4.status import endpoint as endpoint_module
from x0tta6bl4.status.access import Scope
from x0tta6bl4.status.endpoint import serve
from x0tta6bl4.status.tls import Certificate

PATIENCE = 30.0
"""Seconds that something which must happen may take on a busy machine; nobody waits for it when all is well."""
EXPIRY = "x0tta6bl4_tls_certificate_expiry_timestamp_seconds"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes certificates, is missing")


def made(folder: Path, name: str, days: int = 30, passphrase: str = "") -> tuple[Path, Path]:
    """A certificate for this host, signed by itself, and its key."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         *(["-passout", f"pass:{passphrase}"] if passphrase else ["-nodes"]),
         "-days", str(days), "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    return certificate, key


@dataclass
class Heard:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    name: str
    """Of whom the certificate was made for."""
    until: float

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


@dataclass
class Files:
    """Where the daemon's certificate and key lie."""

    folder: Path

    def __post_init__(self) -> None:
        self.certificate, self.key = self.folder / "tls.crt", self.folder / "tls.key"

    def put(self, certificate: Path | None, key: Path | None) -> None:
        """As renewers do: each file in one move."""
        for source, target in ((certificate, self.certificate), (key, self.key)):
            if source is not None:
                draft = target.with_suffix(".new")
                shutil.copy(source, draft)
                os.replace(draft, target)


@dataclass
class Served:
    address: str
    trusted: ssl.SSLContext

    @property
    def port(self) -> int:
        port = urlsplit(self.address).port
        assert port is not None
        return port

    def trust(self, certificate: Path) -> None:
        self.trusted.load_verify_locations(certificate)

    async def ask(self, path: str, method: str = "GET", body: Any = None, port: int | None = None) -> Heard:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port or self.port, ssl=self.trusted, server_hostname="localhost"
        )
        try:
            sent = b"" if body is None else json.dumps(body).encode()
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n" if sent else ""
            writer.write(head.encode() + b"\r\n" + sent)
            answer = await asyncio.wait_for(reader.read(), PATIENCE)
            shown: Any = writer.get_extra_info("peercert")
        finally:
            writer.close()
        first, _, content = answer.partition(b"\r\n\r\n")
        line, *lines = first.decode("latin-1").split("\r\n")
        headers = [(k.lower(), v.strip()) for k, _, v in (one.partition(":") for one in lines)]
        name = dict(pair for part in shown["subject"] for pair in part)["commonName"]
        return Heard(int(line.split()[1]), headers, content, name, ssl.cert_time_to_seconds(shown["notAfter"]))

    async def trouble(self) -> str:
        return str(json.loads((await self.ask("/status")).body)["listening"]["trouble"])


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await holds():
            await asyncio.sleep(0.05)


@asynccontextmanager
async def served(endpoint: Endpoint, files: Files, **settings: Any) -> AsyncIterator[Served]:
    told: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
    behind = replace(endpoint.behind, certificate=Certificate(files.certificate, files.key))
    asked = StatusSettings(port=0, rate_limit_per_minute=100_000, **settings)
    task = asyncio.create_task(serve(endpoint.face, asked, behind, lambda where, why: told.set_result((where, why))))
    try:
        address, trouble = await told
        assert "" == trouble
        trusted = ssl.create_default_context()
        trusted.load_verify_locations(files.certificate)
        yield Served(address, trusted)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_it_speaks_https_and_nothing_else_and_says_so(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.put(*made(tmp_path, "first"))

    async def story(endpoint: Endpoint) -> None:
        async with served(endpoint, files) as daemon:
            assert daemon.address == f"https://127.0.0.1:{daemon.port}/"
            heard = await daemon.ask("/livez")
            assert (200, b"ok\n", "first") == (heard.status, heard.body, heard.name)
            assert ["max-age=31536000"] == heard.all("strict-transport-security")
            told = json.loads((await daemon.ask("/status")).body)["listening"]
            assert (daemon.address, "") == (told["address"], told["trouble"])
            # Whoever does not know the certificate does not go on, and hurts nobody by it.
            with pytest.raises(ssl.SSLCertVerificationError):
                await Served(daemon.address, ssl.create_default_context()).ask("/livez")
            reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            try:
                plain = await asyncio.wait_for(reader.read(), PATIENCE)
            except ConnectionError:
                plain = b""
            writer.close()
            assert b"HTTP/" not in plain
            assert 200 == (await daemon.ask("/livez")).status

    play(tmp_path, story)


def test_a_sign_in_over_it_gets_cookies_that_stay_with_it(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.put(*made(tmp_path, "first"))

    async def story(endpoint: Endpoint) -> None:
        await endpoint.access.add_operator(OPERATOR, PASSWORD, Scope.READ, "root@cli")
        async with served(endpoint, files) as daemon:
            heard = await daemon.ask("/api/v1/session", "POST", {"name": OPERATOR, "password": PASSWORD})
            cookies = heard.all("set-cookie")
            assert (200, 3) == (heard.status, len(cookies))
            assert all(line.startswith("__Host-x0_") and line.endswith("Secure") for line in cookies)

    play(tmp_path, story)


def test_a_renewed_certificate_is_taken_over_without_a_restart(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.put(*made(tmp_path, "first", days=5))
    second = made(tmp_path, "second", days=60)

    async def story(endpoint: Endpoint) -> None:
        async with served(endpoint, files) as daemon:
            daemon.trust(second[0])
            first = await daemon.ask("/livez")
            # A connection that is open goes on under the certificate it began with.
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", daemon.port, ssl=daemon.trusted, server_hostname="localhost"
            )
            files.put(*second)

            async def is_new() -> bool:
                return (await daemon.ask("/livez")).name == "second"

            await until(is_new)
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b"HTTP/1.1 200" in await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
            renewed = await daemon.ask("/metrics")
            assert renewed.until > first.until + 50 * 86400

            async def is_told() -> bool:
                page = (await daemon.ask("/metrics")).body.decode()
                (line,) = [line for line in page.splitlines() if line.startswith(EXPIRY + " ")]
                return float(line.split()[1]) == renewed.until

            await until(is_told)
            assert "" == await daemon.trouble()

    play(tmp_path, story)


def test_half_of_a_new_pair_leaves_the_old_one_in_use_and_is_told(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.put(*made(tmp_path, "first"))
    second = made(tmp_path, "second")

    async def story(endpoint: Endpoint) -> None:
        async with served(endpoint, files) as daemon:
            daemon.trust(second[0])
            assert "" == await daemon.trouble()
            files.put(second[0], None)

            async def has_trouble() -> bool:
                return await daemon.trouble() != ""

            await until(has_trouble)
            assert str(files.certificate) in await daemon.trouble()
            assert "first" == (await daemon.ask("/livez")).name
            files.certificate.unlink()

            async def is_missed() -> bool:
                return "No such file" in await daemon.trouble()

            await until(is_missed)
            assert "first" == (await daemon.ask("/livez")).name
            files.put(*second)

            async def is_well() -> bool:
                return await daemon.trouble() == "" and (await daemon.ask("/livez")).name == "second"

            await until(is_well)

    play(tmp_path, story)


def test_the_second_port_speaks_https_too(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.put(*made(tmp_path, "first"))

    async def story(endpoint: Endpoint) -> None:
        async with served(endpoint, files, prometheus_port=0) as daemon:
            where = json.loads((await daemon.ask("/status")).body)["listening"]["metrics"]
            parts = urlsplit(where)
            assert ("https", "/metrics") == (parts.scheme, parts.path)
            heard = await daemon.ask("/metrics", port=parts.port)
            assert (200, True) == (heard.status, b"x0tta6bl4_build_info" in heard.body)

    play(tmp_path, story)


def test_a_client_that_never_agrees_on_anything_keeps_nobody_waiting(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.put(*made(tmp_path, "first"))

    async def story(endpoint: Endpoint) -> None:
        async with served(endpoint, files) as daemon:
            silent = [await asyncio.open_connection("127.0.0.1", daemon.port) for _ in range(20)]
            rude = [await asyncio.open_connection("127.0.0.1", daemon.port) for _ in range(5)]
            for _, writer in rude:
                writer.write(b"\x16\x03\x01\xff\xff" + b"\x00" * 100)
            assert 200 == (await daemon.ask("/livez")).status
            for _, writer in (*silent, *rude):
                writer.close()
            assert 200 == (await daemon.ask("/livez")).status

    play(tmp_path, story)


def test_who_does_not_agree_takes_no_place_from_others_and_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(tmp_path)
    files.put(*made(tmp_path, "first"))
    monkeypatch.setattr(endpoint_module, "CONNECTIONS", 8)

    async def story(endpoint: Endpoint) -> None:
        async with served(endpoint, files) as daemon:
            silent = [await asyncio.open_connection("127.0.0.1", daemon.port) for _ in range(40)]
            assert 200 == (await daemon.ask("/livez")).status
            told = json.loads((await daemon.ask("/status")).body)
            assert told["connections"] <= 9, "each is counted, and who took longest has made room"
            monkeypatch.setattr(endpoint_module, "HANDSHAKE_WITHIN", 0.2)
            late = await asyncio.open_connection("127.0.0.1", daemon.port)
            assert b"" == await asyncio.wait_for(late[0].read(), PATIENCE)
            for _, writer in (*silent, late):
                writer.close()

    play(tmp_path, story)


def test_a_second_port_that_is_taken_is_still_told_while_the_certificate_is_well(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.put(*made(tmp_path, "first"))

    async def story(endpoint: Endpoint) -> None:
        async with await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0) as other:
            port = other.sockets[0].getsockname()[1]
            async with served(endpoint, files, prometheus_port=port) as daemon:
                await asyncio.sleep(1.2)  # the certificate is looked at once a second
                assert f"port {port} on 127.0.0.1 is in use" in await daemon.trouble()

    play(tmp_path, story)


def test_files_that_cannot_be_used_are_named_with_the_reason(tmp_path: Path) -> None:
    first, second = made(tmp_path, "first"), made(tmp_path, "second")
    locked = made(tmp_path, "locked", passphrase="a passphrase")
    with pytest.raises(OSError, match=r"nix\.crt"):
        Certificate(tmp_path / "nix.crt", first[1])
    with pytest.raises(OSError, match=r"nix\.key"):
        Certificate(first[0], tmp_path / "nix.key")
    with pytest.raises(OSError, match="cannot be used together"):
        Certificate(first[0], second[1])
    with pytest.raises(OSError, match="asks for a passphrase"):
        Certificate(*locked)
    empty = tmp_path / "empty"
    empty.touch()
    for pair in ((empty, first[1]), (first[0], empty), (first[1], first[0])):
        with pytest.raises(OSError, match="cannot be used together"):
            Certificate(*pair)


def test_nothing_is_read_again_as_long_as_nothing_has_changed(tmp_path: Path) -> None:
    files = Files(tmp_path)
    first, second = made(tmp_path, "first"), made(tmp_path, "second", days=60)
    files.put(*first)
    certificate = Certificate(files.certificate, files.key)
    began = certificate.expires
    assert ssl.TLSVersion.TLSv1_2 == certificate.context.minimum_version
    assert not certificate.look()
    files.put(second[0], None)
    assert not certificate.look()
    assert ("cannot be used together" in certificate.trouble, began) == (True, certificate.expires)
    assert not certificate.look(), "and it is not logged each second"
    files.put(None, second[1])
    assert certificate.look()
    assert "" == certificate.trouble
    assert certificate.expires is not None and began is not None and certificate.expires > began
    assert not certificate.look()
