"""How the exchange is packed into ZeroMQ messages: one byte for the kind, then one packed batch.

One message with one packed list beats a multipart of hundreds of frames several times over, so every
kind has a fixed, small number of frames. Bodies are opaque to the broker but for `RANGES` (topics are
matched, events stay bytes) and `SIGNALS`.
"""

import msgspec

from hubbub.protocol.internal import LogEvent, Range, Reply, Request, Send, Signal, trace_of

VERSION = 1

# peer -> broker
HELLO = b"H"  # [Hello]
PING = b"P"  # [number of messages sent on this link before it]; answered alike
SUBSCRIBE = b"S"  # [Subscribe]
OWN = b"O"  # [dict slot -> term]
REQUESTS = b"Q"  # [a byte for each request: its slot, list[Request]]; to a store: [asker, list[Request]]
REPLIES = b"R"  # [asker, list[Reply]]; to a shard: [list[Reply]]
RANGES = b"L"  # [list[Range]]
REPLAYED = b"T"  # [asker, list[Range]]; to a shard it goes on as RANGES
SIGNALS = b"E"  # [list[Signal]]
# broker -> peer, beside the above
WELCOME = b"W"  # []
SUBSCRIBED = b"s"  # [number]
AGAIN = b"A"  # []: the broker does not know you
REFUSED = b"X"  # [text]: another version of the exchange

# What the decoders below (and frames that are not there) raise for bytes that are not what they should be.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, IndexError)

SHARD = "shard"
STORE = "store"


class Hello(msgspec.Struct, array_like=True):
    """Who a peer is, and everything that must be in force before it hears a range."""

    version: int
    role: str
    name: str
    topics: list[str]
    terms: dict[int, int]


class Subscribe(msgspec.Struct, array_like=True):
    """A numbered change of topics."""

    no: int
    add: list[str]
    remove: list[str]


encode = msgspec.msgpack.Encoder().encode

decode_hello = msgspec.msgpack.Decoder(Hello).decode
decode_subscribe = msgspec.msgpack.Decoder(Subscribe).decode
decode_terms = msgspec.msgpack.Decoder(dict[int, int]).decode
decode_number = msgspec.msgpack.Decoder(int).decode
decode_raw_list = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
decode_requests = msgspec.msgpack.Decoder(list[Request]).decode
decode_replies = msgspec.msgpack.Decoder(list[Reply]).decode
decode_ranges = msgspec.msgpack.Decoder(list[Range]).decode
decode_signals = msgspec.msgpack.Decoder(list[Signal]).decode
decode_log_event = msgspec.msgpack.Decoder(LogEvent).decode


def traces(frames: list[bytes]) -> tuple[str, list[str]]:
    """What a peer sent, and the `trace_of` each message in it: for a broker that tells them, and only then."""
    try:
        if frames[0] == REQUESTS:
            requests = decode_requests(frames[2])
            return "request", [trace_of(one.origin, one.no) for one in requests if isinstance(one, Send)]
        if frames[0] == RANGES:
            events = [decode_log_event(entry.event) for part in decode_ranges(frames[1]) for entry in part.entries]
            return "event", [trace_of(event.origin, event.no) for event in events if event.origin]
    except UNREADABLE:
        pass  # the router says so
    return "", []
