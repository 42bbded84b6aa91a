"""The default engine: ZeroMQ sockets on the event loop.

pyzmq's own asyncio sockets cost several times what these do: a plain socket whose descriptor is watched
by the loop and that is drained until it would block. The descriptor is edge-triggered, so it is drained
after every send as well.
"""

import asyncio
import hmac
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.utils import z85

from hubbub.bus.link import Link, LinkState

# Batches that wait on one link. At 500 batches a second this is ten seconds of stall, past any patience;
# a peer that cannot take more is cut off and starts over.
HIGH_WATER = 5_000
# Messages handled before other sockets get their turn.
_DRAIN_MAX = 256
_TICK = 0.1
# As plain numbers: pyzmq's flags are enums, and combining those for each frame is a tenth of the broker's time.
_LAST = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)


class BusConfigurationError(Exception):
    """An address or a key that cannot be used; says what to do."""


class Curve(NamedTuple):
    """CURVE keys for tcp, in Z85: the peers' public key, one's own secret key, for peers the broker's public key."""

    peer: bytes
    secret: bytes
    broker: bytes


def load_curve(url: str, curve_dir: Path, *, broker: bool) -> Curve | None:
    """The keys for *url*; None for ipc, which needs none. Raises `BusConfigurationError`."""
    if not url.startswith("tcp://"):
        return None
    names = ("peer.public", "broker.secret") if broker else ("peer.public", "peer.secret", "broker.public")
    try:
        keys = [(curve_dir / name).read_bytes().strip() for name in names]
    except OSError as exc:
        raise BusConfigurationError(
            f"{url} needs CURVE keys: cannot read {exc.filename}: {exc.strerror}. Make them with `hubbub keys`"
        ) from exc
    for name, key in zip(names, keys, strict=True):
        if len(key) != 40:
            raise BusConfigurationError(f"{curve_dir / name} is no CURVE key. Make new ones with `hubbub keys`")
    return Curve(keys[0], keys[1], b"" if broker else keys[2])


def _send(socket: zmq.Socket[bytes], frames: list[bytes]) -> None:
    """One message, all of it or nothing. Raises `zmq.Again`."""
    for frame in frames[:-1]:
        socket.send(frame, _MORE)
    socket.send(frames[-1], _LAST)


class _Watched:
    """A socket drained by the loop."""

    def __init__(self, socket: zmq.Socket[bytes], receive: Callable[[list[bytes]], None]) -> None:
        self.socket = socket
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._closed = False
        self._loop.add_reader(socket.fileno(), self._drain)
        self.soon()

    def soon(self) -> None:
        """Look at the socket again in this turn of the loop: its descriptor may not tell."""
        if not self._scheduled and not self._closed:
            self._scheduled = True
            self._loop.call_soon(self._again)

    def close(self) -> None:
        """Forget what is queued and let go."""
        self._closed = True
        self._loop.remove_reader(self.socket.fileno())
        self.socket.close(0)

    def _again(self) -> None:
        self._scheduled = False
        self._drain()

    def _drain(self) -> None:
        for _ in range(_DRAIN_MAX):
            if self._closed:
                return
            try:
                frames = self.socket.recv_multipart(_LAST)
            except zmq.Again:
                return
            self._receive(frames)
        self.soon()


class _Gate:
    """Answers the question of ZeroMQ (ZAP, its RFC 27) whether the owner of a CURVE key may connect: one key may.

    Without it, CURVE lets everybody in who knows the broker's public key.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", peer: bytes) -> None:
        self._key = z85.decode(peer)
        socket = context.socket(zmq.REP)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind("inproc://zeromq.zap.01")
        self._watched = _Watched(socket, self._receive)

    def close(self) -> None:
        """Let go."""
        self._watched.close()

    def _receive(self, frames: list[bytes]) -> None:
        version, request, _domain, _address, _identity, mechanism, *credentials = frames
        known = mechanism == b"CURVE" and hmac.compare_digest(credentials[0], self._key)
        verdict = [b"200", b"OK"] if known else [b"400", b"unknown key"]
        _send(self._watched.socket, [version, request, *verdict, b"", b""])


class Peer:
    """A shard's or a store's end: a DEALER that is replaced whenever its link breaks.

    *link* is given `send`; `after` is called after each message and each tick, to end the turn.
    """

    def __init__(
        self, url: str, curve: Curve | None, make_link: Callable[[Callable[[list[bytes]], bool]], Link]
    ) -> None:
        self._url = url
        self._curve = curve
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._watched: _Watched | None = None
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self.after: Callable[[], None] = lambda: None
        self.reconnects = -1
        self.link = make_link(self._send)

    async def run(self) -> None:
        """Keep the link alive; for ever."""
        try:
            while True:
                now = self._loop.time()
                self.link.tick(now)
                if self.link.state is LinkState.BROKEN:
                    self._open(now)
                self.after()
                await asyncio.sleep(_TICK)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the socket."""
        if self._watched is not None:
            self._watched.close()
            self._watched = None

    def _open(self, now: float) -> None:
        self.close()
        self.reconnects += 1
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        # A random identity for each link: the broker must not take a new link for the old one.
        socket.setsockopt(zmq.ROUTING_ID, b"\x01" + os.urandom(8))
        socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
        socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        if self._curve is not None:
            socket.setsockopt(zmq.CURVE_SERVERKEY, self._curve.broker)
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self._curve.peer)
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._curve.secret)
        socket.connect(self._url)
        self._watched = _Watched(socket, self._receive)
        self.link.opened(now)

    def _send(self, frames: list[bytes]) -> bool:
        if self._watched is None:
            return False
        try:
            _send(self._watched.socket, frames)
        except zmq.Again:
            return False
        self._watched.soon()
        return True

    def _receive(self, frames: list[bytes]) -> None:
        self.link.receive(frames, self._loop.time())
        self.after()


class BrokerSocket:
    """The broker's end: a ROUTER. `send` returns False when the peer cannot take a message."""

    def __init__(self, url: str, curve: Curve | None, receive: Callable[[bytes, list[bytes]], None]) -> None:
        self._receive_from = receive
        # A context of its own, for the gate's address is one for each context.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate = None if curve is None else _Gate(self._context, curve.peer)
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
        socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
        if curve is not None:
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.CURVE_SECRETKEY, curve.secret)
        path = url.removeprefix("ipc://")
        if path != url:
            # The lock on the generation is held, so whoever bound this before is gone.
            Path(path).unlink(missing_ok=True)
        try:
            socket.bind(url)
        except zmq.ZMQError as exc:
            socket.close(0)
            if self._gate is not None:
                self._gate.close()
            self._context.term()
            raise BusConfigurationError(f"cannot listen on {url}: {exc}") from exc
        self._watched = _Watched(socket, self._receive)

    def send(self, peer: bytes, frames: list[bytes]) -> bool:
        """Queue one message for *peer*; False: its queue is full or it is gone."""
        try:
            _send(self._watched.socket, [peer, *frames])
        except (zmq.Again, zmq.ZMQError):
            return False
        self._watched.soon()
        return True

    def close(self) -> None:
        """Let go."""
        self._watched.close()
        if self._gate is not None:
            self._gate.close()
        self._context.term()

    def _receive(self, frames: list[bytes]) -> None:
        self._receive_from(frames[0], frames[1:])
