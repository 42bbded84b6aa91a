"""The page: the files of ``webclient/`` at ``/``, compressed once, under a policy that lets nothing else in."""

import gzip
import hashlib
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from tornado import web

from shards.http import Context, Reader

# 'self' covers the WebSocket to the same host and port. No inline script or style, no frames, no plugins; strings
# never become HTML or code. The one Trusted Types policy passes the service worker's address.
_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    "require-trusted-types-for 'script'; trusted-types hubbub-worker"
)
# Fixed here, since what the operating system believes about .js differs, and with nosniff it must be right.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json; charset=utf-8",
    ".woff2": "font/woff2",
}
_ALREADY_SMALL = (".png", ".ico", ".woff2")


class _File(NamedTuple):
    stamp: tuple[int, int]  # time and size on the disk: an edited page shows at once
    plain: bytes
    packed: bytes | None
    tag: str


class Files:
    """The page's files in memory, read again when they have changed."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._files: dict[str, _File] = {}

    def find(self, path: str) -> _File | None:
        """The file at *path* below the root; None for what is not there or is no part of a page."""
        place = self._root / (path or "index.html")
        kind = place.suffix
        if kind not in _TYPES or "\0" in path or not place.resolve().is_relative_to(self._root):
            return None
        try:
            status = place.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            file = self._files.get(path)
            if file is None or file.stamp != stamp:
                plain = place.read_bytes()
                packed = None if kind in _ALREADY_SMALL else gzip.compress(plain, 9, mtime=0)
                file = _File(stamp, plain, packed, hashlib.sha256(plain).hexdigest()[:20])
                self._files[path] = file
        except OSError:
            return None
        return file


class Page(Reader):
    """Serves the kinds of file named above and nothing else."""

    def initialize(self, context: Context, files: Files) -> None:  # type: ignore[override]  # Tornado's keywords
        super().initialize(context)
        self.files = files

    def get(self, path: str) -> None:
        """A file, whole: ours are small, and none is sent in parts."""
        file = self.files.find(path)
        if file is None:
            raise web.HTTPError(HTTPStatus.NOT_FOUND)
        packed = file.packed if "gzip" in self.request.headers.get("Accept-Encoding", "") else None
        tag = f'"{file.tag}{"-gzip" if packed is not None else ""}"'
        self.set_header("Etag", tag)
        self.set_header("Cache-Control", "no-cache")  # keep it, but ask whether it is still the same
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")
        self.set_header("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
        self.set_header("X-Frame-Options", "DENY")
        self.set_header("Vary", "Accept-Encoding")
        if self.request.headers.get("If-None-Match") == tag:
            self.set_status(HTTPStatus.NOT_MODIFIED)
            self.finish()
            return
        self.set_header("Content-Type", _TYPES[Path(path or "index.html").suffix])
        if packed is not None:
            self.set_header("Content-Encoding", "gzip")
        self.finish(file.plain if packed is None else packed)


def page_route(context: Context) -> tuple[str, type[web.RequestHandler], dict[str, Any]]:
    """The route of everything that no other route took; it goes last."""
    return (r"/(.*)", Page, {"context": context, "files": Files(context.webclient)})
