"""Any bytes, in any pieces: the same result as a slow model that reads the whole input at once."""

import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shards.frames import FrameParser, Opcode, ProtocolError, xor_mask
from tests.property.rfc6455 import Result, model

LIMIT = 300
HEADER_MAX = 14


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
    assert in_pieces(data, cuts) == model(data, LIMIT)


@given(STREAMS)
def test_one_byte_at_a_time(data):
    assert in_pieces(data, list(range(len(data)))) == model(data, LIMIT)


@given(st.binary(max_size=200), CUTS)
def test_any_garbage(data, cuts):
    assert in_pieces(data, cuts) == model(data, LIMIT)


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
