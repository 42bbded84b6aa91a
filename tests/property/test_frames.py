"""Any bytes, in any pieces: the same result as a slow model that reads the whole input at once."""

import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shards.frames import FrameParser, Opcode, ProtocolError, xor_mask

LIMIT = 300
HEADER_MAX = 14
Result = tuple[list[tuple[int, bytes]], int | None]


class Broken(Exception):
    pass


def model(data: bytes) -> Result:
    """RFC 6455 sections 5 and 7.4 read off line by line, one frame after the other."""
    found: list[tuple[int, bytes]] = []
    message: tuple[int, bytes] | None = None
    try:
        while len(data) >= 2:
            fin, rsv, opcode = data[0] >> 7, data[0] >> 4 & 7, data[0] & 15
            masked, length = data[1] >> 7, data[1] & 127
            control = opcode in (8, 9, 10)
            if not masked or rsv or opcode not in (0, 1, 2, 8, 9, 10):
                raise Broken(1002)
            if control and (not fin or length > 125):
                raise Broken(1002)
            if opcode == 0 and message is None:
                raise Broken(1002)
            if opcode in (1, 2) and message is not None:
                raise Broken(1002)
            data_at = 2
            if length > 125:
                form, data_at = ("!H", 4) if length == 126 else ("!Q", 10)
                if len(data) < data_at:
                    break
                (length,) = struct.unpack(form, data[2:data_at])
                if length < (126 if form == "!H" else 65536) or length >= 2**63:
                    raise Broken(1002)
            if not control and length + (len(message[1]) if opcode == 0 and message else 0) > LIMIT:
                raise Broken(1009)
            if len(data) < data_at + 4 + length:
                break
            key = data[data_at : data_at + 4]
            body = bytes(b ^ key[i % 4] for i, b in enumerate(data[data_at + 4 : data_at + 4 + length]))
            data = data[data_at + 4 + length :]
            if opcode == 8:
                found.append((8, checked_close(body)))
                return found, None
            if control:
                found.append((opcode, body))
                continue
            message = (opcode, body) if message is None else (message[0], message[1] + body)
            if fin:
                if message[0] == 1:
                    checked_text(message[1])
                found.append(message)
                message = None
    except Broken as exc:
        return found, exc.args[0]
    return found, None


def checked_text(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError:
        raise Broken(1007) from None


def checked_close(body: bytes) -> bytes:
    if len(body) == 1:
        raise Broken(1002)
    if body:
        code = struct.unpack("!H", body[:2])[0]
        if not (code in (1000, 1001, 1002, 1003) or 1007 <= code <= 1014 or 3000 <= code < 5000):
            raise Broken(1002)
        checked_text(body[2:])
    return body


def in_pieces(data: bytes, cuts: list[int]) -> Result:
    parser = FrameParser(LIMIT)
    found: list[tuple[int, bytes]] = []
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        if parser.error is not None:
            break
        found += parser.feed(data[start:end])
        assert parser.held <= LIMIT + LIMIT + HEADER_MAX, "memory is bounded"
    return found, parser.error.code if parser.error else None


@st.composite
def frame(draw: st.DrawFn, opcodes: st.SearchStrategy[int], payloads: st.SearchStrategy[bytes]) -> bytes:
    payload = draw(payloads)
    key = draw(st.binary(min_size=4, max_size=4))
    first = draw(opcodes) | draw(st.sampled_from([0x80, 0x80, 0x80, 0x00]))
    size = len(payload)
    head = bytes((first, 0x80 | (size if size < 126 else 126)))
    return head + (b"" if size < 126 else struct.pack("!H", size)) + key + xor_mask(key, payload)


PAYLOADS = st.one_of(
    st.binary(max_size=8),
    st.text("aé€😀\x00", max_size=40).map(str.encode),
    st.integers(0, LIMIT + 20).map(lambda n: b"x" * n),
    st.integers(990, 5010).map(lambda n: struct.pack("!H", n)),
)
LIKELY = frame(st.sampled_from([0, 0, 1, 1, 2, 8, 9, 10, 3, 0x41]), PAYLOADS)
STREAMS = st.lists(st.one_of(LIKELY, LIKELY, LIKELY, st.binary(max_size=4)), max_size=12).map(b"".join)
CUTS = st.lists(st.integers(0, 5000), max_size=30)


@given(STREAMS, CUTS)
def test_frames_in_any_pieces(data, cuts):
    assert in_pieces(data, cuts) == model(data)


@given(STREAMS)
def test_one_byte_at_a_time(data):
    assert in_pieces(data, list(range(len(data)))) == model(data)


@given(st.binary(max_size=200), CUTS)
def test_any_garbage(data, cuts):
    assert in_pieces(data, cuts) == model(data)


@given(STREAMS, st.binary(max_size=50))
def test_after_an_error_there_is_only_that_error(data, more):
    parser = FrameParser(LIMIT)
    parser.feed(data)
    try:
        again = parser.feed(more)
    except ProtocolError as exc:
        assert exc is parser.error
    else:
        assert all(isinstance(opcode, Opcode) for opcode, _ in again)


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_masking_is_the_rfc_formula(data, key):
    assert xor_mask(key, data) == bytes(b ^ key[i % 4] for i, b in enumerate(data))
