"""Serves the page: a handful of small files, read once, packed once, and nothing from elsewhere."""

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files

from starlette.responses import Response

from x0tta6bl4.status.page import STYLE
from x0tta6bl4.status.routes import Asked, Handler, Route

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class File:
    kind: str
    packed: bytes
    """As gzip: every browser takes that, and what does not is unpacked for."""
    tag: str


class Static:
    """The shell of the dashboard holds no data: whoever may not read gets an empty one, and the sign-in."""

    def __init__(self) -> None:
        self._files: dict[str, File] = {"style.css": _file("style.css", STYLE.encode())}
        for entry in files("x0tta6bl4.status").joinpath("web").iterdir():
            if any(entry.name.endswith(suffix) for suffix in KINDS):
                self._files[entry.name] = _file(entry.name, entry.read_bytes())

    def routes(self) -> list[Route]:
        routes = [Route("GET", f"/{name}", self._of(name), "", is_free=True, is_hidden=True) for name in self._files]
        return [*routes, Route("GET", "/", self._of("index.html"), "", is_free=True, is_hidden=True)]

    def _of(self, name: str) -> Handler:
        file = self._files[name]

        async def give(asked: Asked) -> Response:
            headers = {"etag": file.tag, "cache-control": "no-cache", "vary": "Accept-Encoding"}
            if asked.headers.get(b"if-none-match", b"").decode("latin-1") == file.tag:
                return Response(status_code=304, headers=headers)
            if b"gzip" in asked.headers.get(b"accept-encoding", b""):
                headers["content-encoding"] = "gzip"
                return Response(file.packed, headers=headers, media_type=file.kind)
            return Response(gzip.decompress(file.packed), headers=headers, media_type=file.kind)

        return give


def _file(name: str, content: bytes) -> File:
    kind = KINDS[name[name.rindex(".") :]]
    return File(kind, gzip.compress(content, 9, mtime=0), f'"{hashlib.sha256(content).hexdigest()[:16]}"')
