"""Keeps the endpoint's certificate: loads it, and takes over a new one without a restart when its files change."""

import logging
import os
import ssl
from asyncio.sslproto import SSLProtocol
from pathlib import Path

from x0tta6bl4.adapters.network import certificate_expiry

log = logging.getLogger("x0tta6bl4.status.tls")

HANDSHAKE_WITHIN = 10.0
"""Seconds for a client to agree on how to speak."""

# For each connection, asyncio sets aside what it may read at once. Its 256 KiB would be hundreds of MiB for a crowd of
# clients that need not even have said who they are; one record of TLS has 16 KiB at most.
SSLProtocol.max_size = 16 * 1024


class Certificate:
    """One TLS context for all connections. New ones see a new certificate; those that are open keep theirs."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises OSError, with the file and the reason, when they cannot be used."""
        self._files = (certificate, key)
        self._stamp = self._now()
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._load(self.context)
        self.expires = self._expiry()
        """Wall-clock seconds."""
        self.trouble = ""
        """Why the files on disk are not in use; empty: they are."""

    def look(self) -> bool:
        """Whether new files were taken over just now."""
        stamp = self._now()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            # On a context of its own first: half of a new pair must not spoil the one in use.
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            self._load(self.context)
            self.expires = self._expiry()
        except OSError as error:
            self.trouble = str(error)
            log.error("the new certificate cannot be used; the old one stays", extra={"reason": self.trouble})
            return False
        self.trouble = ""
        log.info("a new certificate is in use", extra={"certificate": str(self._files[0])})
        return True

    def _now(self) -> tuple[tuple[int, int, int] | None, ...]:
        stamps: list[tuple[int, int, int] | None] = []
        for path in self._files:
            try:
                about = os.stat(path)
            except OSError:
                stamps.append(None)
            else:
                stamps.append((about.st_mtime_ns, about.st_size, about.st_ino))
        return tuple(stamps)

    def _load(self, context: ssl.SSLContext) -> None:
        certificate, key = self._files
        for path in self._files:
            with open(path, "rb"):  # what OpenSSL says of a missing file does not name it
                pass

        def no_passphrase() -> str:
            raise ValueError("asks for a passphrase, and nobody is there to type it")

        try:
            context.load_cert_chain(certificate, key, no_passphrase)
        except (ssl.SSLError, ValueError) as error:
            why = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
            raise OSError(f"{certificate} and {key} cannot be used together: {why}") from error

    def _expiry(self) -> float | None:
        text = self._files[0].read_text(encoding="ascii", errors="replace")
        begin, end = text.find(ssl.PEM_HEADER), text.find(ssl.PEM_FOOTER)
        if begin < 0 or end < 0:
            return None
        try:
            return certificate_expiry(ssl.PEM_cert_to_DER_cert(text[begin : end + len(ssl.PEM_FOOTER)]))
        except (OSError, ValueError):
            return None  # OpenSSL has read it, so it is one; only its date is not known
