"""Tornado's HTTP server with an `Entrance`."""

from collections.abc import Awaitable, Callable
from typing import Any

from tornado import httputil
from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from shards.entrance import Entrance
from shards.proxies import neighbourhood


class GuardedServer(HTTPServer):
    """Tells its entrance who comes, asks and leaves, and closes whom it names."""

    def initialize(  # type: ignore[override]  # Tornado's keywords
        self, *args: Any, entrance: Entrance, clock: Callable[[], float], **options: Any
    ) -> None:
        """Called by Tornado with the constructor's arguments; *clock*: monotonic seconds."""
        super().initialize(*args, **options)
        self._entrance = entrance
        self._clock = clock
        self._newcomers: set[IOStream] = set()

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Called by Tornado for every connection."""
        # A Unix socket's peer has no address.
        place = neighbourhood(address[0]) if isinstance(address, tuple) else ""
        self._close(self._entrance.came(stream, place, self._clock()))
        self._newcomers.add(stream)
        super().handle_stream(stream, address)

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> httputil.HTTPMessageDelegate:
        """Called by Tornado at a connection's beginning and behind each answer."""
        stream = _stream(server_conn)
        if stream in self._newcomers:
            self._newcomers.remove(stream)
        else:
            self._entrance.answered(stream, self._clock())
        return _Watched(
            super().start_request(server_conn, request_conn), lambda: self._entrance.asked(stream, self._clock())
        )

    def on_close(self, server_conn: object) -> None:
        """Called by Tornado, also when the connection has become a WebSocket."""
        stream = _stream(server_conn)
        self._newcomers.discard(stream)
        self._entrance.left(stream)
        super().on_close(server_conn)

    def tick(self) -> None:
        """Once a second."""
        for late in self._entrance.tick(self._clock()):
            self._close(late)

    @staticmethod
    def _close(stream: Any) -> None:
        if stream is not None:
            stream.close()


class _Watched(httputil.HTTPMessageDelegate):
    """Passes everything on; *asked* is called when the headers are complete."""

    def __init__(self, inner: httputil.HTTPMessageDelegate, asked: Callable[[], None]) -> None:
        self._inner = inner
        self._asked = asked

    def headers_received(
        self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> Awaitable[None] | None:
        """Called by Tornado."""
        self._asked()
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Called by Tornado."""
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        """Called by Tornado."""
        self._inner.finish()

    def on_connection_close(self) -> None:
        """Called by Tornado."""
        self._inner.on_connection_close()


def _stream(connection: object) -> IOStream:
    if not isinstance(connection, HTTP1ServerConnection):
        raise TypeError(f"served by {type(connection).__name__}")
    return connection.stream
