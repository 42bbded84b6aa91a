"""The table: bytes that a client sends, and what RFC 6455 (and our limit) makes of them.

The sections are numbered as in the Autobahn testsuite, which a reader may know; every case is written anew for a
server that does not echo. What shows that a message arrived is the command ``ping``: its answer carries its `id`.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from hubbub.protocol.limits import Limits
from shards.frames import Opcode
from tests.conformance import utf8
from tests.integration.raw import frame

LIMIT = Limits().frame_bytes
CONTINUATION, TEXT, BINARY = Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG
# The answer to a message that is no command.
REFUSED = None


@dataclass(frozen=True)
class Case:
    """`answers`: of each message in order the `id` that comes back, or `REFUSED`. `pings`: the payloads of all pings;
    the last must be answered, others may (section 5.5.3). `closed`: the code in the server's close frame, 1005 for
    none in it; None: the connection stays open. `broken`: it was the server who gave up."""

    name: str
    data: bytes
    answers: tuple[str | None, ...] = ()
    pings: tuple[bytes, ...] = ()
    closed: int | None = None
    broken: bool = False


def command(name: str = "here", size: int = 0) -> bytes:
    """A command that is answered, padded to *size* bytes with blanks."""
    return json.dumps({"type": "ping", "id": name}, ensure_ascii=False).encode().ljust(size)


def say(name: str = "here") -> bytes:
    """The command in a frame."""
    return frame(TEXT, command(name))


def pieces(payload: bytes, size: int, opcode: int = TEXT, between: bytes = b"") -> bytes:
    """A message in fragments of *size* bytes, with *between* between any two."""
    parts = [payload[i : i + size] for i in range(0, len(payload), size)] or [b""]
    sent = [frame(CONTINUATION if i else opcode, one, final=i == len(parts) - 1) for i, one in enumerate(parts)]
    return between.join(sent)


def good(name: str, data: bytes, *answers: str | None, pings: tuple[bytes, ...] = ()) -> Case:
    """The connection stays open."""
    return Case(name, data, answers, pings)


def bad(name: str, code: int, data: bytes, *answers: str | None) -> Case:
    """The server gives up with *code*; what comes behind has no effect."""
    return Case(name, data + say("behind"), answers, closed=code, broken=True)


def left(name: str, code: int, data: bytes, *answers: str | None) -> Case:
    """The client closes, and the server confirms with the same code; what comes behind has no effect."""
    return Case(name, data, answers, closed=code)


def framing() -> Iterator[Case]:
    for kind in (TEXT, BINARY):
        yield good(f"an empty message, {kind.name}", frame(kind), REFUSED)
        for size in (40, 124, 125, 126, 127, 128, 65534, 65535, LIMIT):
            yield good(f"{size} bytes, {kind.name}", frame(kind, command("n", size)), "n")
    for mask in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1", b"    "):
        yield good(f"masked with {mask.hex()}", frame(TEXT, command(), mask=mask), "here")
    yield bad("not masked", 1002, frame(TEXT, command(), masked=False))
    yield bad("an unmasked frame after a masked one", 1002, say() + frame(TEXT, command(), masked=False), "here")
    for size, form in ((0, 126), (125, 126), (0, 127), (125, 127), (126, 127), (65535, 127)):
        yield bad(f"{size} bytes, their number in the form of {form}", 1002, frame(TEXT, bytes(size), form=form))
    yield bad("the highest bit of a length", 1002, frame(TEXT, size=1 << 63))


def pings() -> Iterator[Case]:
    for payload in (b"", b"a", bytes(range(100, 225)), b"\xff\xfe\0", "Grüße".encode()):
        yield good(f"a ping of {len(payload)} bytes", frame(PING, payload), pings=(payload,))
    yield bad("a ping of 126 bytes", 1002, frame(PING, bytes(126)))
    yield bad("a ping of 65536 bytes", 1002, frame(PING, bytes(65536)))
    for payload in (b"", b"h", b"d", bytes(125)):
        yield good(f"an unasked pong of {len(payload)} bytes", frame(PONG, payload) + say(), "here")
    yield bad("a pong of 126 bytes", 1002, frame(PONG, bytes(126)))
    yield good("a pong, a ping", frame(PONG, b"x") + frame(PING, b"y"), pings=(b"y",))
    many = tuple(b"%d" % i for i in range(500))
    yield good("500 pings", b"".join(frame(PING, one) for one in many), pings=many)
    yield good("a ping behind a message", say() + frame(PING, b"p"), "here", pings=(b"p",))


def reserved_bits() -> Iterator[Case]:
    for bits in range(1, 8):
        for kind in (TEXT, BINARY, CLOSE, PING, PONG):
            yield bad(f"reserved bits {bits}, {kind.name}", 1002, frame(kind | bits << 4))
        yield bad(f"reserved bits {bits} after a message", 1002, say() + frame(TEXT | bits << 4, command()), "here")
    fragment = frame(TEXT, command(), final=False)
    yield bad("a reserved bit on a continuation", 1002, fragment + frame(CONTINUATION | 0x40))


def opcodes() -> Iterator[Case]:
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        yield bad(f"opcode {opcode}", 1002, frame(opcode))
        yield bad(f"opcode {opcode} with a payload", 1002, frame(opcode, b"payload"))
        yield bad(f"opcode {opcode} after a message", 1002, say() + frame(opcode), "here")
        yield bad(f"opcode {opcode} among fragments", 1002, frame(TEXT, b"{", final=False) + frame(opcode))


def fragmentation() -> Iterator[Case]:
    ping = frame(PING, b"between")
    whole = command("whole")
    for kind in (TEXT, BINARY):
        for size in (1, 2, 7):
            yield good(f"fragments of {size}, {kind.name}", pieces(whole, size, kind), "whole")
            between = pieces(whole, size, kind, ping)
            yield good(f"fragments of {size} with pings, {kind.name}", between, "whole", pings=(b"between",))
    yield good("fragments with pongs", pieces(whole, 3, between=frame(PONG, b"between")), "whole")
    first, last = frame(TEXT, whole, final=False), frame(CONTINUATION)
    yield good(
        "empty fragments around", frame(TEXT, final=False) + frame(CONTINUATION, whole, final=False) + last, "whole"
    )
    yield good("200 empty fragments", first + frame(CONTINUATION, final=False) * 200 + last, "whole")
    yield good("nothing but empty fragments", frame(TEXT, final=False) + last, REFUSED)
    yield good("two fragmented messages", pieces(command("a"), 4) + pieces(command("b"), 4), "a", "b")
    yield bad("a fragmented ping", 1002, frame(PING, b"p", final=False))
    yield bad("a fragmented pong", 1002, frame(PONG, b"p", final=False))
    yield bad("a fragmented close", 1002, frame(CLOSE, final=False))
    yield bad("a fragmented ping among fragments", 1002, first + frame(PING, final=False))
    for final in (True, False):
        yield bad(f"a continuation of nothing, final: {final}", 1002, frame(CONTINUATION, whole, final=final))
        stray = say("one") + frame(CONTINUATION, whole, final=final)
        yield bad(f"a continuation after a whole message, final: {final}", 1002, stray, "one")
        for kind in (TEXT, BINARY):
            inside = first + frame(kind, whole, final=final)
            yield bad(f"a new message among fragments, {kind.name}, final: {final}", 1002, inside)
    yield bad("a continuation after the final fragment", 1002, pieces(whole, 5) + frame(CONTINUATION), "whole")
    yield good("nothing behind a first fragment", first)


def texts() -> Iterator[Case]:
    for name, text in utf8.VALID.items():
        payload = command(text)
        yield good(name, frame(TEXT, payload), text)
        yield good(f"{name}, an octet in each fragment", pieces(payload, 1), text)
    for name, octets in utf8.INVALID.items():
        payload = command("@").replace(b"@", octets)
        yield bad(name, 1007, frame(TEXT, payload))
        yield bad(f"{name}, alone", 1007, frame(TEXT, octets))
        yield bad(f"{name}, an octet in each fragment", 1007, pieces(payload, 1))
    broken = utf8.INVALID["the surrogate U+D800"]
    # We judge a message when it is whole, as section 8.1 allows; a peer that never ends it gains nothing.
    yield good(
        "what is no UTF-8 yet is not judged", frame(TEXT, broken, final=False) + frame(PING, b"?"), pings=(b"?",)
    )
    yield good("a binary message is no text", frame(BINARY, broken), REFUSED)


def closes() -> Iterator[Case]:
    behind = say("behind")
    yield left("a close without a code", 1005, frame(CLOSE) + behind)
    yield bad("a close of one byte", 1002, frame(CLOSE, b"\x03"))
    for size in (1, 122, 123):
        yield left(f"a reason of {size} bytes", 1000, frame(CLOSE, struct.pack("!H", 1000) + b"r" * size))
    yield bad("a reason of 124 bytes", 1002, frame(CLOSE, struct.pack("!H", 1000) + b"r" * 124))
    for name, octets in utf8.INVALID.items():
        yield bad(f"as a reason: {name}", 1007, frame(CLOSE, (struct.pack("!H", 1000) + octets)[:125]))
    yield left("a reason of many scripts", 1000, frame(CLOSE, struct.pack("!H", 1000) + "κόσμε 🌍".encode()))
    for code in (*range(1000, 1004), *range(1007, 1015), 3000, 3001, 3999, 4000, 4001, 4500, 4999):
        yield left(f"code {code}", code, frame(CLOSE, struct.pack("!H", code)) + behind)
    for code in (0, 1, 125, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 5001, 32768, 65535):
        yield bad(f"code {code}", 1002, frame(CLOSE, struct.pack("!H", code)))
    normal = frame(CLOSE, struct.pack("!H", 1000))
    for name, then in {
        "a ping": frame(PING),
        "another close": frame(CLOSE, struct.pack("!H", 1001)),
        "what breaks every rule": b"\xff" * 200,
        "a frame that never ends": frame(TEXT, size=LIMIT),
    }.items():
        yield left(f"{name} behind a close", 1000, normal + then)
    yield left("a message before a close", 1000, say() + normal, "here")
    yield left("a close among fragments", 1000, frame(TEXT, b"{", final=False) + normal)
    yield left("a full message before a close", 1000, frame(TEXT, command("n", LIMIT)) + normal, "n")


def sizes() -> Iterator[Case]:
    full = command("full", LIMIT)
    for kind in (TEXT, BINARY):
        for size in (64, 256, 1024, 4096, 16384, LIMIT - 1):
            yield good(f"the largest in fragments of {size}, {kind.name}", pieces(full, size, kind), "full")
        yield bad(f"a byte too many, {kind.name}", 1009, frame(kind, full + b" "))
        yield bad(f"a byte too many in the last fragment, {kind.name}", 1009, pieces(full + b" ", 16384, kind))
        for size in (LIMIT + 1, 2**31, 2**32, 2**63 - 1):
            yield bad(f"a header that announces {size}, {kind.name}", 1009, frame(kind, size=size))
    fragment = frame(TEXT, full[:-1], final=False)
    for size in (2, 2**32, 2**63 - 1):
        yield bad(f"a continuation that announces {size}", 1009, fragment + frame(CONTINUATION, size=size))
    yield good("100 messages at once", b"".join(say(str(i)) for i in range(100)), *map(str, range(100)))


def misc() -> Iterator[Case]:
    yield good("nothing at all", b"")
    yield good("half a header", b"\x81")
    yield good("a header without its mask", frame(TEXT, size=5))
    yield bad("a TLS client's greeting", 1002, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
    yield bad("an HTTP request", 1002, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    text = command("fragmented by a library", 65_000)
    yield good(
        "fragmented at 1300 bytes with pings",
        pieces(text, 1300, between=frame(PING)),
        json.loads(text)["id"],
        pings=(b"",),
    )
    yield good("no JSON, then a command", frame(TEXT, b"hello?") + say(), REFUSED, "here")


SECTIONS = {
    "1 framing": framing,
    "2 pings and pongs": pings,
    "3 reserved bits": reserved_bits,
    "4 opcodes": opcodes,
    "5 fragmentation": fragmentation,
    "6 UTF-8": texts,
    "7 closes": closes,
    "9 sizes": sizes,
    "10 miscellaneous": misc,
}
