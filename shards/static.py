"""The page: the files of ``webclient/`` at ``/``, under a policy that lets nothing else in."""

import os
from http import HTTPStatus
from pathlib import PurePath
from typing import Any

from tornado import web

from shards.http import Context, Handler

# 'self' covers the WebSocket to the same host and port. No inline script or style, no frames, no plugins.
_POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
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
    ".woff2": "font/woff2",
}


class Page(Handler, web.StaticFileHandler):
    """Serves the kinds of file named above and nothing else."""

    def initialize(self, context: Context) -> None:  # type: ignore[override]  # the path comes with the context
        """Called by Tornado with the route's arguments."""
        Handler.initialize(self, context)
        web.StaticFileHandler.initialize(self, str(context.webclient), default_filename="index.html")

    def prepare(self) -> None:
        """Called by Tornado. Our files are small: none is sent in parts, so none of the errors that brings."""
        self.request.headers.pop("Range", None)

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        """Called by Tornado; it refuses what is outside of *root*."""
        path = super().validate_absolute_path(root, absolute_path)
        if path is not None and PurePath(path).suffix not in _TYPES:
            raise web.HTTPError(HTTPStatus.NOT_FOUND)
        return path

    def get_content_type(self) -> str:
        """Called by Tornado."""
        return _TYPES[PurePath(self.absolute_path or "").suffix]

    def compute_etag(self) -> str | None:
        """Called by Tornado. From the file's time and size, so that an edited page shows at once."""
        found = os.stat(self.absolute_path or "")
        return f'"{found.st_mtime_ns:x}-{found.st_size:x}"'

    def set_extra_headers(self, path: str) -> None:
        """Called by Tornado. ``no-cache``: keep it, but ask whether it is still the same."""
        self.set_header("Accept-Ranges", "none")
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Content-Security-Policy", _POLICY)


def page_route(context: Context) -> tuple[str, type[web.RequestHandler], dict[str, Any]]:
    """The route of everything that no other route took; it goes last."""
    return (r"/(.*)", Page, {"context": context})
