"""A connected TCP socket on the event loop, with nothing between: one system call to read, one to write.

Tornado's stream costs a future, two callbacks and a second `recv` for each read, more than everything else
that a short message costs. So after the handshake its socket is taken from it. TLS ends at a proxy.
"""

import asyncio
import socket
import struct
from collections.abc import Callable

from tornado.iostream import IOStream

# One read's buffer: allocated for each read and cut to size, so not larger than what a client usually has to say.
READ_SIZE = 16 * 1024
# What the kernel may keep of what it has not sent yet; megabytes of a client that reads nothing would else pass for
# read, and its next page fetched, and of thousands it would be gigabytes. What is under way to a client that reads
# quickly does not count.
KERNEL_UNSENT = 128 * 1024
_UNSENT_OPTION: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # Linux and, by Python's version, macOS
# struct linger {on, 0 s}: close() then drops what the kernel still holds and resets the connection.
_RESET = struct.pack("ii", 1, 0)


class Wire:
    """A non-blocking socket. *on_data* is called with what arrives, *on_lost* once, with the error or None."""

    __slots__ = ("_broken", "_loop", "_on_data", "_on_lost", "_socket", "_writing")

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = sock
        self._on_data: Callable[[bytes], None] | None = None
        self._on_lost: Callable[[OSError | None], None] | None = None
        self._writing = False
        self._broken = False  # a write has failed, and `on_lost` is about to be called

    @property
    def closed(self) -> bool:
        """Whether the socket is gone."""
        return self._socket is None

    def start(self, on_data: Callable[[bytes], None], on_lost: Callable[[OSError | None], None]) -> None:
        """Begin to read."""
        self._on_data, self._on_lost = on_data, on_lost
        if self._socket is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if _UNSENT_OPTION is not None:
                self._socket.setsockopt(socket.IPPROTO_TCP, _UNSENT_OPTION, KERNEL_UNSENT)
            self._loop.add_reader(self._socket, self._readable)

    def send(self, data: bytes) -> int:
        """Write what the kernel takes of *data* now; the number of bytes. A broken connection takes nothing, and
        `on_lost` is called later."""
        if self._socket is None or self._broken:
            return 0
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as exc:
            self._broken = True
            self._loop.call_soon(self._lose, exc)
            return 0

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call *callback* once, when the kernel takes more."""
        # A broken connection never takes more. And of a peer that spoke and reset at once uvloop has given us the
        # words, closed its watch for the reset, and raises `RuntimeError` when it is asked to watch again.
        if self._socket is None or self._broken:
            return
        self._writing = True

        def writable() -> None:
            if self._socket is not None:
                self._writing = False
                self._loop.remove_writer(self._socket)
                callback()

        self._loop.add_writer(self._socket, writable)

    def close(self, *, reset: bool = False) -> None:
        """Close the socket; with *reset*, drop what the kernel still holds. `on_lost` is called later."""
        if self._socket is not None:
            if reset:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._loop.call_soon(self._lose, None)

    def _readable(self) -> None:
        sock, on_data = self._socket, self._on_data
        if sock is None or on_data is None:
            return
        try:
            data = sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._lose(exc)
            return
        if data:
            on_data(data)
        else:
            self._lose(None)

    def _lose(self, error: OSError | None) -> None:
        sock, on_lost = self._socket, self._on_lost
        if sock is None:
            return
        self._socket = self._on_data = self._on_lost = None
        self._loop.remove_reader(sock)
        if self._writing:
            self._loop.remove_writer(sock)
        sock.close()
        if on_lost is not None:
            on_lost(error)


def take_over(stream: IOStream) -> tuple[Wire, bytes] | None:
    """The socket of Tornado's *stream*, which is done with it, and what it had read already; None if it is closed."""
    if stream.closed():
        return None
    early = b""
    # Only where there is something: asking a stream that has nothing makes it watch the socket, and the loop's
    # watch would begin, end and begin again in one turn.
    if stream._read_buffer_size:
        early = stream.read_bytes(READ_SIZE, partial=True).result()  # type: ignore[attr-defined]
    stream.io_loop.remove_handler(stream.fileno())
    return Wire(stream.socket), early
