"""Connections that are slow, or too many: each is closed after a while, and nobody else notices."""

import asyncio
import os
import re
import time
from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidStatus

from shards.entrance import ARRIVING_SECONDS
from tests.integration.client import Connection, connection
from tests.integration.healthy import healthy
from tests.integration.system import System, running

CALLERS, FROM_ONE_ADDRESS = 50, 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A server with room for few, whose clients come through a proxy."""
    env = {
        "HUBBUB_LIMIT_HTTP_CONNECTIONS": str(CALLERS),
        "HUBBUB_LIMIT_SESSIONS_PER_ADDRESS": str(FROM_ONE_ADDRESS),
        "HUBBUB_GUESTS": "always",
        "HUBBUB_TRUSTED_PROXIES": "127.0.0.1",
    }
    with running(tmp_path_factory.mktemp("floods"), env=env) as system:
        yield system


def displaced(system: System) -> float:
    """How many HTTP connections made room for others."""
    shown = system.get("/metrics").body.decode()
    return sum(map(float, re.findall(r"^hubbub_shard_http_displaced_total{.*} (\S+)$", shown, re.MULTILINE)))


SLOW = {
    "nothing": (b"", b""),
    "a request line, byte by byte": (b"", b"GET /healthz HTTP/1.1"),
    "headers, byte by byte": (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ", b"z" * 100),
    "a handshake that never ends": (b"GET /ws?username=slow HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: ", b"websocket"),
    "a body, byte by byte": (
        b"POST /api/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n",
        b"{" * 80,
    ),
}


async def lifetime(system: System, first: bytes, rest: bytes) -> float:
    """Seconds until the server closes a connection that says *first* at once and of *rest* a byte in a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", system.port)
    begun = time.monotonic()
    try:
        writer.write(first)
        left = list(rest)
        while True:
            try:
                async with asyncio.timeout(1.0):
                    await reader.read()
                return time.monotonic() - begun
            except TimeoutError:
                if left:
                    writer.write(bytes([left.pop(0)]))
            except ConnectionError:
                return time.monotonic() - begun
    finally:
        writer.transport.abort()


async def test_slow_connections_are_closed_and_hold_nobody_up(server: System) -> None:
    async with healthy(server, "slowloris"):
        lives = await asyncio.gather(*[lifetime(server, *slow) for slow in SLOW.values()])
    for kind, seconds in zip(SLOW, lives, strict=True):
        assert ARRIVING_SECONDS - 1 <= seconds <= ARRIVING_SECONDS + 10, kind


async def test_a_flood_of_connections_displaces_itself(server: System) -> None:
    def files() -> int:
        return max(len(os.listdir(f"/proc/{server.pid(f'shard-{i}')}/fd")) for i in range(server.shards))

    before = files()
    flood: list[asyncio.StreamWriter] = []
    try:
        async with healthy(server, "flood"):
            for i in range(12 * CALLERS):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(b"GET / HTTP/1.1\r\nHost: ")
                flood.append(writer)
                if i % 50 == 49:
                    assert (await asyncio.to_thread(server.get, "/healthz")).status == 200
                    async with connection(server.ws, f"flood-{i}") as one:
                        await one.settled()
            assert files() <= before + CALLERS + 10
        await asyncio.to_thread(server.until, lambda: displaced(server) > 12 * CALLERS - 3 * CALLERS, 10, "counted")
    finally:
        for writer in flood:
            writer.transport.abort()


async def test_sessions_of_one_address_are_bounded(server: System) -> None:
    opened: list[Connection] = []
    near, far = ({"X-Forwarded-For": f"192.0.2.{i}"} for i in (1, 2))
    try:
        with pytest.raises(InvalidStatus) as refused:
            for i in range(server.shards * FROM_ONE_ADDRESS + 1):
                opened.append(await Connection.open(server.ws, f"near-{i}", headers=near))
        assert refused.value.response.status_code == 429
        assert FROM_ONE_ADDRESS <= len(opened) <= server.shards * FROM_ONE_ADDRESS
        opened.append(await Connection.open(server.ws, "far", headers=far))
        # What stands left of the last proxy's word is the client's own invention, and gets it nothing.
        with pytest.raises(InvalidStatus):
            for i in range(server.shards * FROM_ONE_ADDRESS + 1):
                lie = {"X-Forwarded-For": f"198.51.100.{i}, 192.0.2.1"}
                opened.append(await Connection.open(server.ws, f"liar-{i}", headers=lie))
    finally:
        for one in opened:
            await one.close()
