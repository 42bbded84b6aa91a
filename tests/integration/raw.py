"""A WebSocket client that does what no library would: answers nothing by itself, breaks every rule it is told to."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shards.frames import Opcode, xor_mask
from tests.integration.client import TAKE_SECONDS


class Raw:
    """One connection after the handshake; frames are ``(opcode, payload)``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.writer.write(data)

    def say(self, /, **command: Any) -> None:
        """A command in a text frame."""
        self.writer.write(frame(Opcode.TEXT, json.dumps(command).encode()))

    async def read(self) -> tuple[Opcode, bytes]:
        """The next frame. Raises `EOFError` or `OSError` when there is none, `TimeoutError` when none comes."""
        async with asyncio.timeout(TAKE_SECONDS):
            first, size = await self._reader.readexactly(2)
            assert first & 0x80, "the server never fragments"
            assert not size & 0x80, "the server never masks"
            if size == 126:
                size = int.from_bytes(await self._reader.readexactly(2), "big")
            elif size == 127:
                size = int.from_bytes(await self._reader.readexactly(8), "big")
            return Opcode(first & 0x0F), await self._reader.readexactly(size)

    async def take(self, kind: str) -> dict[str, Any]:
        """The next event of type *kind*; all else is passed over."""
        while True:
            opcode, payload = await self.read()
            if opcode is Opcode.TEXT:
                event: dict[str, Any] = json.loads(payload)
                if event["type"] == kind:
                    return event

    async def end(self) -> tuple[list[dict[str, Any]], int | None]:
        """Read to the end: the events, and the code of the close frame that the server sent."""
        events: list[dict[str, Any]] = []
        code: int | None = None
        try:
            while True:
                opcode, payload = await self.read()
                assert code is None, "nothing may follow a close frame"
                if opcode is Opcode.TEXT:
                    events.append(json.loads(payload))
                elif opcode is Opcode.CLOSE:
                    code = int.from_bytes(payload[:2], "big")
                    self.writer.write(frame(Opcode.CLOSE, payload[:2]))
        except (EOFError, ConnectionError):
            return events, code


def frame(opcode: int, payload: bytes, *, masked: bool = True, size: int | None = None) -> bytes:
    """A client's frame. *size*: the length that the header claims."""
    size = len(payload) if size is None else size
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes((0x80 | opcode, bit | size))
    elif size < 0x10000:
        head = bytes((0x80 | opcode, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, bit | 127)) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + xor_mask(mask, payload)


@asynccontextmanager
async def raw(port: int, username: str, *, receive_buffer: int | None = None) -> AsyncIterator[Raw]:
    """Connect as a guest; *receive_buffer*: bytes that the kernel may keep for a client that does not read."""
    plain = socket.socket()
    if receive_buffer is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=2**16 if receive_buffer is None else 2**10)
    try:
        writer.write(
            f"GET /ws?username={username} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            "\r\n".encode()
        )
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()
