"""Bytes on an open WebSocket of a running shard: what the parser says must be what the shard does."""

import json
import socket
from itertools import count
from random import Random

from hubbub.protocol.limits import Limits
from hubbub.protocol.refusals import CloseCode
from shards.frames import FrameParser, Opcode
from tests.fuzz.target import TOKENS
from tests.fuzz.targets.commands import Commands
from tests.fuzz.targets.frames import Frames
from tests.integration.raw import frame
from tests.integration.system import System

PATIENCE = 10.0
LIMIT = Limits().frame_bytes
FAREWELL = frame(Opcode.CLOSE, (1000).to_bytes(2, "big"), mask=b"bye!")
_USERS = 1000  # names in turn: a user may have a few connections, and the last of a name may not have ended yet


class Streams:
    """The first two bytes seed the split, the rest is sent behind the handshake."""

    def __init__(self, system: System) -> None:
        self._port = system.port
        self._commands = Commands()
        self._names = count()

    def seeds(self) -> list[bytes]:
        """The parser's seeds, and a chat."""
        chat = b"".join(frame(Opcode.TEXT, line, mask=b"chat") for line in self._commands.seeds()[:-1])
        return [b"\0\0" + chat, *(b"\0\0" + seed[5:] for seed in Frames().seeds())]

    def generate(self, rng: Random) -> bytes:
        """Frames that fit together and commands, in pieces."""
        if rng.random() < 0.5:
            return rng.randbytes(2) + Frames().generate(rng)[5:]
        lines = self._commands.generate(rng).split(b"\n")
        stream = b"".join(frame(Opcode.TEXT, line, final=rng.random() < 0.9, mask=rng.randbytes(4)) for line in lines)
        return rng.randbytes(2) + stream + (rng.choice(TOKENS) if rng.random() < 0.3 else b"")

    def check(self, data: bytes) -> None:
        """See `Target`."""
        rng, stream = Random(data[:2]), data[2:]
        parser = FrameParser(LIMIT)
        parser.feed(stream)
        expected = {1000}
        if parser.error is not None:
            expected = {parser.error.code}
        elif parser.closed:
            expected = {
                code_of(payload) for opcode, payload in FrameParser(LIMIT).feed(stream) if opcode is Opcode.CLOSE
            }
        elif parser.feed(FAREWELL) == [] or not parser.closed:
            expected = set()  # the farewell is taken for the rest of a frame: nothing is to be said
        code, events = self._converse(stream, rng, ending=bool(expected))
        flooded = {int(CloseCode.PROTOCOL_VIOLATION), int(CloseCode.INVALID_TOKEN)}
        if not expected:
            assert code is None or code in flooded, (code, events[-2:])
        else:
            assert code in expected | flooded, (code, expected, events[-2:])
        assert events[0]["type"] == "welcome"
        assert not any(event.get("code") == "internal" for event in events)

    def _converse(self, stream: bytes, rng: Random, *, ending: bool) -> tuple[int | None, list[dict[str, object]]]:
        """Say it and hear the answer to the end: the close frame's code (None: there was none) and the events."""
        name = f"fuzz-{next(self._names) % _USERS}"
        with socket.create_connection(("127.0.0.1", self._port), PATIENCE) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(
                f"GET /ws?username={name} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            heard = b""
            while b"\r\n\r\n" not in heard:
                piece = connection.recv(1 << 16)
                assert piece, heard
                heard += piece
            head, _, heard = heard.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 "), head
            cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.choice((0, 0, 1, 3))))
            try:
                for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
                    connection.sendall(stream[start:end])
                if ending:
                    connection.sendall(FAREWELL)
                else:
                    connection.shutdown(socket.SHUT_WR)
            except ConnectionError:
                pass  # it has heard enough; what it said is still to be read
            try:
                while True:
                    code, events, over = read(heard)
                    if over:
                        return code, events
                    piece = connection.recv(1 << 16)
                    if not piece:
                        return code, events
                    heard += piece
            except ConnectionError:
                return read(heard)[:2]


def read(heard: bytes) -> tuple[int | None, list[dict[str, object]], bool]:
    """What a server said, as far as it is here: the code of its close frame, its events, whether it said goodbye."""
    events: list[dict[str, object]] = []
    while len(heard) >= 2:
        assert heard[0] & 0x80 and not heard[1] & 0x80, "a server neither fragments nor masks"
        start = {126: 4, 127: 10}.get(heard[1], 2)
        size = heard[1] if start == 2 else int.from_bytes(heard[2:start], "big")
        if len(heard) < start + size:
            break
        payload, opcode, heard = heard[start : start + size], heard[0] & 15, heard[start + size :]
        if opcode == Opcode.TEXT:
            events.append(json.loads(payload))
        elif opcode == Opcode.CLOSE:
            assert heard == b"", "nothing follows a close frame"
            return code_of(payload), events, True
    return None, events, False


def code_of(payload: bytes) -> int:
    """The code of a close frame; 1005 without one."""
    return int.from_bytes(payload[:2], "big") if payload else 1005
