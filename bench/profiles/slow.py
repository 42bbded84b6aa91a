"""*slow*: a hundred clients of a busy lobby never read a byte, and come back whenever they are thrown out."""

import asyncio
import random
import socket
from contextlib import suppress

from bench.profiles.crowd import Traffic
from bench.profiles.device import BACKOFF, backoff
from bench.profiles.outcome import Outcome, milliseconds
from bench.profiles.scene import Scene
from bench.server import Server

STALLED = 100
# The least a kernel gives: what is not read has to wait in the server.
RECEIVE_BUFFER = 4096
_LOOK_EVERY = 0.5


async def run(scene: Scene) -> Outcome:
    """First quiet, then with the stalled ones. Bounds: the others' p99 twice the quiet one, the shards' memory."""
    async with scene.crowd() as act:
        crowd = act.crowd
        traffic = Traffic(lobby=20, direct=0) if scene.tiny else Traffic(lobby=100, direct=0, content_bytes=4000)
        crowd.talk(traffic, senders=20)
        await asyncio.sleep(0.5 if scene.tiny else 5.0)
        quiet: list[float] = []
        crowd.time(quiet)
        scene.say(
            f"{traffic.lobby:g} messages of {traffic.content_bytes} bytes a second; quiet for {scene.seconds:g} s"
        )
        await asyncio.sleep(scene.seconds)
        before = _shards(act.observer.rss_mib)
        act.observer.rss_peak_mib.clear()
        stalled = [Stalled(scene.server, f"{crowd.run}s{i}", act.rng) for i in range(10 if scene.tiny else STALLED)]
        tasks = [asyncio.create_task(one.run()) for one in stalled]
        busy: list[float] = []
        by_second: list[int] = []
        scene.say(f"{len(stalled)} stalled clients join, {2 * scene.seconds:g} s")
        for _ in range(round(2 * scene.seconds)):
            second: list[float] = []
            crowd.time(second)
            await asyncio.sleep(1.0)
            busy += second
            by_second.append(round(milliseconds(second or busy, 990)))
        crowd.time(None)
        growth = _shards(act.observer.rss_peak_mib) - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        quiet_p99 = milliseconds(quiet, 990)
        found = await act.end(
            {
                "stalled": len(stalled),
                "thrown out": sum(one.ended for one in stalled),
                "quiet p50 ms": milliseconds(quiet, 500),
                "quiet p99 ms": quiet_p99,
                "beside stalled p50 ms": milliseconds(busy, 500),
                "beside stalled p99 ms": milliseconds(busy, 990),
                "p99 ratio": milliseconds(busy, 990) / quiet_p99,
                "shards grew MiB": growth,
            },
            {"p99 ratio": 2.0, "shards grew MiB": 100.0},
        )
        found.series["beside stalled p99 ms by second"] = by_second
        if not scene.tiny and not found.figures["thrown out"]:
            found.problems["no stalled client was thrown out"] = 1
        return found


class Stalled:
    """A client that shakes hands and then reads nothing; `ended`: how often the server gave it up.

    It backs off as every client shall, and since it never hears that it is synced, ever longer.
    """

    def __init__(self, server: Server, username: str, rng: random.Random) -> None:
        self.ended = 0
        self._server = server
        self._username = username
        self._rng = rng

    async def run(self) -> None:
        """Stall, for ever."""
        while True:
            with suppress(OSError), socket.socket() as plain:
                await self._stall(plain)
                self.ended += 1
            await asyncio.sleep(backoff(BACKOFF, self.ended + 1, self._rng))

    async def _stall(self, plain: socket.socket) -> None:
        server = self._server
        loop = asyncio.get_running_loop()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        plain.setblocking(False)
        await loop.sock_connect(plain, (server.host, server.port))
        # A plain client: it is served without having to say anything.
        request = (
            f"GET /ws?username={self._username} HTTP/1.1\r\nHost: {server.host}:{server.port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n"
        )
        await loop.sock_sendall(plain, request.encode())
        # Without reading, only the socket's error tells that the server has reset the connection.
        while not plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # noqa: ASYNC110 nothing wakes us
            await asyncio.sleep(_LOOK_EVERY)


def _shards(by_role: dict[str, float]) -> float:
    return sum(size for role, size in by_role.items() if role.startswith("shard-"))
