"""Knows the keys that others keep in files, such as systemd or Kubernetes, and follows them when they change."""

import hashlib
import hmac
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from x0tta6bl4.status.access import Caller, Scope

log = logging.getLogger("x0tta6bl4.status.filekeys")

SHORTEST, LONGEST = 32, 512
"""Characters of a key. A shorter one could be guessed."""


class FileKeys:
    def __init__(self, files: Mapping[str, tuple[Path, Scope]]) -> None:
        """Raises OSError or ValueError, naming the file, for one that holds no key."""
        self._files = dict(files)
        self._known: dict[str, tuple[bytes, Scope]] = {}
        self._stamps: dict[str, tuple[int, int, int]] = {}
        for name, (path, scope) in self._files.items():
            self._stamps[name] = _stamp(path)
            self._known[name] = digest_in(path), scope

    def __bool__(self) -> bool:
        return bool(self._files)

    def find(self, shown: str) -> Caller | None:
        digest = hashlib.sha256(shown.encode("utf-8", "replace")).digest()
        for name, (kept, scope) in self._known.items():
            if hmac.compare_digest(digest, kept):
                return Caller("key", name, scope, _id(name))
        return None

    def look(self) -> list[str]:
        """Takes over what has changed, and tells the ids of the keys that hold no more as they were.

        A file that cannot be read any more lets nobody in.
        """
        changed = []
        for name, (path, scope) in self._files.items():
            try:
                stamp = _stamp(path)
                if stamp == self._stamps.get(name):
                    continue
                before, self._known[name] = self._known.get(name), (digest_in(path), scope)
            except (OSError, ValueError) as error:
                if self._known.pop(name, None) is not None:
                    changed.append(_id(name))
                    log.error("a key is not accepted any more", extra={"key": name, "reason": str(error)})
                self._stamps.pop(name, None)
            else:
                self._stamps[name] = stamp
                if before not in (None, self._known[name]):
                    changed.append(_id(name))
                log.info("a key was read anew", extra={"key": name})
        return changed


def _id(name: str) -> str:
    return f"file:{name}"


def _stamp(path: Path) -> tuple[int, int, int]:
    about = os.stat(path)
    return about.st_mtime_ns, about.st_size, about.st_ino


def digest_in(path: Path) -> bytes:
    text = path.read_bytes()[: LONGEST + 2].strip()
    if not SHORTEST <= len(text) <= LONGEST or not text.isascii() or b" " in text or b"\n" in text:
        raise ValueError(f"{path} holds no key: one line of {SHORTEST} to {LONGEST} characters without blanks")
    return hashlib.sha256(text).digest()
