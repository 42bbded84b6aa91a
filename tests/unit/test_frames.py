"""Every frame-level rule of RFC 6455 for a server, one by one."""

import struct

import pytest

from shards import frames
from shards.frames import FrameParser, Opcode, ProtocolError

MAX = 70_000
KEY = b"\x01\x02\x03\x04"


def client(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True, form: int = 0):
    """A client's frame. *form* 126 or 127 forces that encoding of the length."""
    size = len(payload)
    form = form or (size if size < 126 else 126 if size < 0x10000 else 127)
    head = bytes(((0x80 if fin else 0) | rsv << 4 | opcode, (0x80 if masked else 0) | form))
    head += struct.pack("!H", size) if form == 126 else struct.pack("!Q", size) if form == 127 else b""
    return head + (KEY + frames.xor_mask(KEY, payload) if masked else payload)


def parse(data: bytes, limit: int = MAX) -> tuple[list[tuple[Opcode, bytes]], int | None]:
    parser = FrameParser(limit)
    found = parser.feed(data)
    return found, parser.error.code if parser.error else None


@pytest.mark.parametrize("size", [0, 1, 3, 4, 125, 126, 127, 65535, 65536, 70_000])
def test_every_length_of_a_text_message(size):
    assert parse(client(1, b"a" * size)) == ([(Opcode.TEXT, b"a" * size)], None)


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_outgoing_text_is_readable(size):
    frame = frames.text(b"b" * size)
    assert frame[0] == 0x81
    assert not frame[1] & 0x80, "a server must not mask"
    header = {126: 4, 127: 10}.get(frame[1], 2)
    length = frame[1] if header == 2 else int.from_bytes(frame[2:header], "big")
    assert length == size == len(frame) - header


def test_outgoing_control_frames():
    assert frames.ping(b"x") == b"\x89\x01x"
    assert frames.pong() == b"\x8a\x00"
    assert frames.close() == b"\x88\x00"
    assert frames.close(4001, "slow") == b"\x88\x06\x0f\xa1slow"
    assert frames.is_close(frames.close(1000))
    assert not frames.is_close(frames.text(b"\x88"))
    with pytest.raises(ValueError, match="125"):
        frames.ping(b"x" * 126)


def test_a_long_close_reason_is_cut_between_characters():
    frame = frames.close(1000, "é" * 100)
    assert frame[1] == 2 + 122
    assert frame[4:].decode() == "é" * 61


@pytest.mark.parametrize("size", [0, 1, 5, 8, 1000])
def test_masking_twice_gives_the_original(size):
    data = bytes(i % 256 for i in range(size))
    assert frames.xor_mask(KEY, frames.xor_mask(KEY, data)) == data


def test_many_frames_in_one_read():
    data = b"".join(client(1, b"%d" % i) for i in range(500))
    assert parse(data) == ([(Opcode.TEXT, b"%d" % i) for i in range(500)], None)


def test_binary_need_not_be_utf8():
    assert parse(client(2, b"\xff\xfe")) == ([(Opcode.BINARY, b"\xff\xfe")], None)


def test_fragments_with_control_frames_between_them():
    data = client(1, b"a", fin=False) + client(9, b"p") + client(0, b"b", fin=False) + client(10) + client(0, b"c")
    expected = [(Opcode.PING, b"p"), (Opcode.PONG, b""), (Opcode.TEXT, b"abc")]
    assert parse(data + client(1, b"d")) == ([*expected, (Opcode.TEXT, b"d")], None)


def test_a_character_may_be_split_over_fragments():
    first, second = "é".encode()[:1], "é".encode()[1:]
    assert parse(client(1, first, fin=False) + client(0, second)) == ([(Opcode.TEXT, "é".encode())], None)


BROKEN = {
    "not masked": (client(1, b"hi", masked=False), 1002),
    "control frame not masked": (client(9, b"", masked=False), 1002),
    "rsv1": (client(1, b"hi", rsv=4), 1002),
    "rsv2": (client(1, b"hi", rsv=2), 1002),
    "rsv3 on a control frame": (client(9, b"hi", rsv=1), 1002),
    **{f"reserved opcode {op}": (client(op), 1002) for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "fragmented ping": (client(9, fin=False), 1002),
    "fragmented close": (client(8, fin=False), 1002),
    "long ping": (client(9, b"x" * 126), 1002),
    "long close": (client(8, b"\x03\xe8" + b"x" * 200), 1002),
    "continuation of nothing": (client(0, b"x"), 1002),
    "continuation after a whole message": (client(1, b"x") + client(0, b"x"), 1002),
    "text inside fragments": (client(1, b"x", fin=False) + client(1, b"x"), 1002),
    "first fragment inside fragments": (client(2, b"x", fin=False) + client(2, b"x", fin=False), 1002),
    "16-bit length for 125": (client(1, b"x" * 125, form=126), 1002),
    "16-bit length for 0 on binary": (client(2, b"", form=126), 1002),
    "64-bit length for 65535": (client(1, b"x" * 65535, form=127), 1002),
    "highest bit of the length": (b"\x81\xff" + b"\x80" + bytes(6) + b"\x01" + KEY, 1002),
    "not UTF-8": (client(1, b"\xff"), 1007),
    "surrogate": (client(1, b"\xed\xa0\x80"), 1007),
    "overlong": (client(1, b"\xc0\xaf"), 1007),
    "truncated UTF-8": (client(1, b"abc\xe2\x82"), 1007),
    "not UTF-8 over fragments": (client(1, b"\xe2", fin=False) + client(0, b"\x28\xa1"), 1007),
    "close of one byte": (client(8, b"\x03"), 1002),
    "close reason not UTF-8": (client(8, b"\x03\xe8\xff"), 1007),
    **{
        f"close code {code}": (client(8, struct.pack("!H", code)), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule(name):
    data, code = BROKEN[name]
    good = client(2, b"before")
    found, error = parse(good + data + client(1, b"after"))
    assert error == code
    assert (Opcode.BINARY, b"before") in found, "what was valid before the error is still handled"
    assert (Opcode.TEXT, b"after") not in found


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4000, 4999])
def test_close_codes_that_may_be_sent(code):
    payload = struct.pack("!H", code) + "tschüß".encode()
    assert parse(client(8, payload)) == ([(Opcode.CLOSE, payload)], None)
    assert frames.close_code(payload) == code


def test_a_close_without_a_code():
    assert parse(client(8)) == ([(Opcode.CLOSE, b"")], None)
    assert frames.close_code(b"") is None


def test_nothing_counts_after_a_close():
    parser = FrameParser(MAX)
    assert parser.feed(client(8) + b"garbage") == [(Opcode.CLOSE, b"")]
    assert parser.closed
    assert parser.error is None
    assert parser.feed(b"\xff" * 100) == []
    assert parser.held == 0


@pytest.mark.parametrize("head", [b"\x81\xff" + struct.pack("!Q", 100_000_000), b"\x81\xfe" + struct.pack("!H", 1001)])
def test_a_declared_size_is_refused_before_the_body_is_read(head):
    parser = FrameParser(1000)
    parser.feed(head[:1])
    parser.feed(head[1:])
    assert parser.error is not None
    assert parser.error.code == 1009
    assert parser.held == 0


def test_fragments_count_together_before_the_last_is_read():
    parser = FrameParser(1000)
    parser.feed(client(1, b"x" * 600, fin=False))
    parser.feed(client(0, b"x" * 401)[:4])
    assert parser.error is not None
    assert parser.error.code == 1009


def test_empty_fragments_take_no_memory():
    parser = FrameParser(1000)
    parser.feed(client(1, b"ab", fin=False))
    for _ in range(10_000):
        parser.feed(client(0, b"", fin=False))
    assert parser.held == 2


def test_a_small_limit_does_not_forbid_control_frames():
    assert parse(client(9, b"x" * 100), limit=10) == ([(Opcode.PING, b"x" * 100)], None)


def test_a_parser_that_failed_stays_failed():
    parser = FrameParser(MAX)
    parser.feed(client(3))
    with pytest.raises(ProtocolError, match="1002 opcode 3 is reserved"):
        parser.feed(client(1, b"x"))
