"""``GET /ws`` up to the handshake's answer. Whatever is refused is refused here, in HTTP, and never upgraded."""

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from tornado import web
from tornado.iostream import IOStream
from tornado.websocket import WebSocketProtocol13

from hubbub.protocol.refusals import ErrorCode, Refusal
from shards.connection import Connection
from shards.http import Context, Handler
from shards.wire import take_over

SUBPROTOCOL = "hubbub.v1"


class ChatSocket(Handler):
    """``GET /ws``. Whatever is refused is refused here, in HTTP, and never upgraded."""

    def get(self) -> None:
        """Upgrade. Raises `Refusal`."""
        context = self.context
        key = self._check_upgrade()
        self._check_origin()
        if not context.hub.ready:
            raise Refusal(ErrorCode.UNAVAILABLE, "the server is not ready; try again", retry_after_ms=1000)
        offered = [name.strip() for name in self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        identity = self.identify(offered)
        syncing = SUBPROTOCOL in offered
        session = context.hub.open(
            identity.username,
            syncing=syncing,
            remote=self.request.remote_ip or "",
            expires_at=identity.expires_at,
            now=context.clock(),
        )
        try:
            # The token among the offered subprotocols is never given back: answers end up in logs.
            if syncing:
                self.set_header("Sec-WebSocket-Protocol", SUBPROTOCOL)
            taken = take_over(self._upgrade(key))
        except BaseException:
            context.hub.close(session, context.clock())
            raise
        if taken is None:
            context.hub.close(session, context.clock())
        else:
            wire, early = taken
            Connection(context, wire, session).start(early)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Called by Tornado."""
        if status_code == 426:
            self.set_header("Upgrade", "websocket")
            self.set_header("Sec-WebSocket-Version", "13")
        super().write_error(status_code, **kwargs)

    def _check_upgrade(self) -> str:
        headers = self.request.headers
        connection = [part.strip().lower() for part in headers.get("Connection", "").split(",")]
        if (
            self.request.version != "HTTP/1.1"
            or headers.get("Upgrade", "").lower() != "websocket"
            or "upgrade" not in connection
            or headers.get("Sec-WebSocket-Version") != "13"
        ):
            raise web.HTTPError(426)
        key = headers.get("Sec-WebSocket-Key", "")
        with suppress(Base64Error, ValueError):
            if len(b64decode(key, validate=True)) == 16:
                return key
        raise Refusal(ErrorCode.BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64")

    def _check_origin(self) -> None:
        headers = self.request.headers
        origin = headers.get("Origin")
        if origin is None or headers.get("Sec-Fetch-Site") == "same-origin":
            return  # no browser; or the browser itself says so, and no page can make it lie
        if not origin_allowed(origin, headers.get("Host", ""), self.context.allowed_origins):
            text = f"pages of {origin[:200]!r} may not connect; the setting allowed_origins lists those that may"
            raise Refusal(ErrorCode.FORBIDDEN, text)

    def _upgrade(self, key: str) -> IOStream:
        self.clear_header("Content-Type")
        self.clear_header("Content-Security-Policy")
        self.set_status(101)
        self.set_header("Upgrade", "websocket")
        self.set_header("Connection", "Upgrade")
        self.set_header("Sec-WebSocket-Accept", WebSocketProtocol13.compute_accept_value(key))
        self.finish()
        return self.detach()


def origin_allowed(origin: str, host: str, allowed: Sequence[str]) -> bool:
    """Whether a page of *origin* may connect to *host*: its own server's pages may, and those in *allowed*."""
    origin = origin.lower()
    try:
        same = urlsplit(origin).netloc == host.lower()
    except ValueError:
        return False
    return (same and bool(host)) or "*" in allowed or origin in allowed


def socket_route(context: Context) -> tuple[str, type[web.RequestHandler], dict[str, Any]]:
    """The route of the WebSocket."""
    return (r"/ws", ChatSocket, {"context": context})
