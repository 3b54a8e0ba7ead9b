"""Makes and checks the links with which a person answers, from a message, for a plan that waits for approval."""

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

KEY_BYTES = 32


@dataclass(frozen=True)
class Links:
    """Addresses that answer for one plan, until one moment, once.

    Nothing is kept for them: a link holds while the question it was made for, known by plan and expiry, is open.
    """

    key: bytes = field(repr=False)
    address: Callable[[], str]
    """The endpoint's own, with a slash at its end; empty while it is closed."""
    url: str = ""
    """Where people reach it from outside, with a slash at its end; empty: at its own address."""

    def to(self, plan: str, expires: float) -> str:
        """Empty when nobody could reach it."""
        address = self.address()
        if not address:
            return ""
        return f"{self.url or address}api/v1/approvals/{quote(plan, safe='')}/answer?token={self.token(plan, expires)}"

    def token(self, plan: str, expires: float) -> str:
        return hmac.new(self.key, f"{plan}\n{expires!r}".encode(), hashlib.sha256).hexdigest()

    def holds(self, token: str, plan: str, expires: float) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token(plan, expires).encode())

    @property
    def host(self) -> str:
        """The name under which people outside know the endpoint; empty when it has none."""
        return urlsplit(self.url).hostname or ""


def kept_key(path: Path) -> bytes:
    """The key that is kept there, or a new one; links outlive the daemon that sent them. Raises OSError.

    One that others could have read, or that is no key, is replaced: links sent before do not hold any more.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return _new_key(path)
    with os.fdopen(fd, "rb") as file:
        about = os.fstat(fd)
        key = file.read(KEY_BYTES + 1)
    is_ours = stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid() and not about.st_mode & 0o077
    return key if is_ours and len(key) == KEY_BYTES else _new_key(path)


def _new_key(path: Path) -> bytes:
    key = secrets.token_bytes(KEY_BYTES)
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return key
