"""The WebSocket parser: the same bytes in any pieces, the same result as a slow model; memory bounded."""

from random import Random

from tornado.speedups import websocket_mask

from shards.frames import FrameParser, Opcode, ProtocolError, xor_mask
from tests.fuzz.target import TOKENS
from tests.integration.raw import frame
from tests.property.rfc6455 import model

LIMITS = (0, 20, 300, 65536)
HEADER_MAX = 14
OPCODES = (0, 0, 1, 1, 1, 2, 8, 9, 10, 3, 11, 0x41, 0x2A)
# Sizes at which the encoding of a length or a limit changes, and the payloads of those.
SIZES = (0, 1, 2, 19, 20, 21, 124, 125, 126, 127, 299, 300, 301, 400)
HUGE = (65535, 65536, 65537)

Result = tuple[list[tuple[int, bytes]], int | None]


class Frames:
    """The first byte chooses the limit and the mask function, the next four seed the split, the rest is the stream."""

    def seeds(self) -> list[bytes]:
        """A chat, a close, fragments with a ping."""
        text = frame(1, b'{"content":"hi"}', mask=b"mask")
        close = frame(8, b"\x03\xe8bye", mask=b"mask")
        parts = frame(1, b"\xc3", final=False, mask=b"mask") + frame(9, b"p", mask=b"mask") + frame(0, b"\xa9")
        return [bytes((n,)) + b"seed" + stream for n in range(8) for stream in (text + close, parts + text)]

    def generate(self, rng: Random) -> bytes:
        """Mostly frames that fit together."""
        stream = b"".join(self._frame(rng) for _ in range(rng.choice((1, 2, 5, 12))))
        return rng.randbytes(5) + stream

    def check(self, data: bytes) -> None:
        """See `Target`."""
        if len(data) < 5:
            return
        limit, apply = LIMITS[data[0] & 3], (websocket_mask, xor_mask)[data[0] >> 2 & 1]
        rng, stream = Random(data[1:5]), data[5:]
        expected = model(stream, limit)
        assert fed([stream], limit, apply) == expected
        cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.randrange(8)))
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        assert fed(pieces, limit, apply) == expected
        if len(stream) < 200:
            assert fed([stream[i : i + 1] for i in range(len(stream))], limit, apply) == expected

    @staticmethod
    def _frame(rng: Random) -> bytes:
        size = rng.choice(SIZES) if rng.random() < 0.98 else rng.choice(HUGE)
        payload = rng.choice(
            (rng.randbytes(size) if size < 500 else bytes(size), b"x" * size, rng.choice(TOKENS)[:400])
        )
        opcode = rng.choice(OPCODES)
        if opcode == Opcode.CLOSE and rng.random() < 0.8:
            payload = rng.choice((999, 1000, 1001, 1005, 1014, 2999, 3000, 4999, 5000)).to_bytes(2, "big") + payload
        rare = rng.random()
        return frame(
            opcode,
            payload,
            final=rng.random() < 0.7,
            masked=rng.random() < 0.98,
            size=rng.choice((*SIZES, *HUGE, 1 << 32, 1 << 63)) if rare < 0.03 else None,
            form=127 if 0.03 < rare < 0.05 else None,
            mask=rng.randbytes(4),
        )


def fed(pieces: list[bytes], limit: int, apply: object) -> Result:
    """What the parser makes of *pieces*."""
    parser = FrameParser(limit, apply)  # type: ignore[arg-type]
    found: list[tuple[int, bytes]] = []
    for piece in pieces:
        if parser.error is not None:
            try:
                parser.feed(piece)
            except ProtocolError as exc:
                assert exc is parser.error
                break
            raise AssertionError("a parser that failed goes on")
        found += parser.feed(piece)
        assert parser.held <= 2 * max(limit, 125) + HEADER_MAX, "memory is bounded"
    assert not parser.closed or parser.held == 0
    return found, None if parser.error is None else parser.error.code
