"""``GET /ws`` up to the handshake's answer. Whatever is refused is refused here, in HTTP, and never upgraded."""

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from tornado import web
from tornado.iostream import IOStream
from tornado.websocket import WebSocketProtocol13

from hubbub.protocol.refusals import ErrorCode, Refusal
from shards.auth import Identity, KeyUnknown
from shards.connection import Connection
from shards.http import Context, Handler
from shards.wire import take_over

SUBPROTOCOL = "hubbub.v1"


class ChatSocket(Handler):
    """``GET /ws``. Whatever is refused is refused here, in HTTP, and never upgraded."""

    def get(self) -> Awaitable[None] | None:
        """Upgrade. Raises `Refusal`."""
        key = self._check_upgrade()
        self._check_origin()
        if not self.context.ready:
            raise Refusal(ErrorCode.UNAVAILABLE, "the server is not ready; try again", retry_after_ms=1000)
        offered = [name.strip() for name in self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        try:
            identity = self.identify_now(offered)
        except KeyUnknown:
            return self._get_later(key, offered)
        self._open(key, offered, identity)
        return None

    async def _get_later(self, key: str, offered: list[str]) -> None:
        # Only here there is something to wait for; a coroutine for each handshake would cost all of them.
        self._open(key, offered, await self.identify(offered))

    def _open(self, key: str, offered: list[str], identity: Identity) -> None:
        context = self.context
        syncing = SUBPROTOCOL in offered
        session = context.hub.open(
            identity.username,
            syncing=syncing,
            remote=self.request.remote_ip or "",
            expires_at=identity.expires_at,
            now=context.clock(),
            proof=identity,
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
        origin = self.request.headers.get("Origin")
        if origin is not None and not self.origin_allowed(origin):  # None: no browser
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


def socket_route(context: Context) -> tuple[str, type[web.RequestHandler], dict[str, Any]]:
    """The route of the WebSocket."""
    return (r"/ws", ChatSocket, {"context": context})
