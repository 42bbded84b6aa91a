"""What a target is, and the words that several of them need."""

from random import Random
from typing import Protocol


class Target(Protocol):
    """Something that reads bytes. `check` is deterministic: the same bytes, the same judgement."""

    def seeds(self) -> list[bytes]:
        """Inputs as real peers send them."""

    def generate(self, rng: Random) -> bytes:
        """An input that gets far: well formed but for a few things."""

    def check(self, data: bytes) -> None:
        """Feed it. Raises `AssertionError`, or whatever else a defect raises."""


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    """*data* with one to four things done to it; *other* is what may be spliced in."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        at = rng.randrange(len(found) + 1)
        length = min(rng.choice((1, 1, 2, 4, 8, 30)), len(found) - at)
        match rng.randrange(8):
            case 0 if found:
                found[at % len(found)] ^= 1 << rng.randrange(8)
            case 1 if found:
                found[at % len(found)] = rng.choice(INTERESTING)
            case 2:
                del found[at : at + length]
            case 3:
                found[at:at] = found[at : at + length] * rng.choice((1, 1, 2, 50))
            case 4:
                found[at:at] = rng.randbytes(length or 1)
            case 5:
                start = rng.randrange(len(other) + 1)
                found[at : at + length] = other[start : start + rng.choice((1, 4, 20, 1000))]
            case 6:
                found[at : at + length] = rng.choice(TOKENS)
            case _:
                del found[at:]
    return bytes(found)


# Ends of ranges and what encodings give a meaning to.
INTERESTING = (0, 1, 9, 10, 13, 0x20, 0x22, 0x2F, 0x7B, 0x7D, 0x7E, 0x7F, 0x80, 0x81, 0x88, 0xC0, 0xED, 0xFE, 0xFF)
TOKENS = (
    b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"9223372036854775807", b"9223372036854775808",
    b"18446744073709551616", b"9" * 5000, b'""', b"{}", b"[]", b"[" * 2000, b'"\\ud800"', b"\\u0000", b"\0", b"\xff",
    b"\xed\xa0\x80", b"\xc0\x80", "\U0001f30d".encode(), "\uff4e\uff4b".encode(), b"\r\n", b"\r\n\r\n", b"lobby",
    b"direct:al:bob", b"direct:al:al", b"direct::", b"..", b"%00", b"%2e%2e%2f",
)  # fmt: skip


class Records:
    """Bytes as a list of records, such that any bytes are one: three bytes of head (a number, and a length)."""

    @staticmethod
    def pack(records: list[tuple[int, bytes]]) -> bytes:
        """The bytes of ``(number, payload)`` records; of a payload the first 64 KB."""
        cut = [(number, payload[:0xFFFF]) for number, payload in records]
        return b"".join(bytes((number,)) + len(payload).to_bytes(2, "big") + payload for number, payload in cut)

    @staticmethod
    def unpack(data: bytes) -> list[tuple[int, bytes]]:
        """The other way round; a record that says more than is there gets what is there."""
        found = []
        while len(data) >= 3:
            end = 3 + int.from_bytes(data[1:3], "big")
            found.append((data[0], data[3:end]))
            data = data[end:]
        return found
