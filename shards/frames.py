"""WebSocket frames (RFC 6455), both ways: bytes in, bytes out; no sockets.

Outgoing frames are built once and shared by all sessions that get them. Incoming bytes are parsed in
bulk: whatever one read brought, all its frames at once.
"""

from collections.abc import Callable
from enum import IntEnum


class Opcode(IntEnum):
    """What a frame is."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


NORMAL = 1000
PROTOCOL_ERROR = 1002
INVALID_DATA = 1007
TOO_BIG = 1009
INTERNAL_ERROR = 1011

CONTROL_MAX = 125  # bytes of a control frame's payload
REASON_MAX = CONTROL_MAX - 2  # behind the close code

_TEXT_HEADERS = tuple(bytes((0x81, n)) for n in range(126))
_TEXT = Opcode.TEXT  # a name of its own: an enum's attribute costs four times as much to look up
_OPCODES = {opcode.value: opcode for opcode in Opcode}
# Codes that may stand in a close frame: those registered, and 3000-4999 for libraries and applications.
# 1004 is reserved; 1005, 1006 and 1015 are for local use and must not be sent.
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})


class ProtocolError(Exception):
    """The peer broke the protocol; `code` and `reason` are what the close frame says."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


# --- server to client: never masked ------------------------------------------------------------------


def text(payload: bytes) -> bytes:
    """A text message of UTF-8 *payload* in one frame."""
    size = len(payload)
    if size < 126:
        return _TEXT_HEADERS[size] + payload
    if size < 0x10000:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def ping(payload: bytes = b"") -> bytes:
    """A ping; *payload* has at most 125 bytes."""
    return _control(Opcode.PING, payload)


def pong(payload: bytes = b"") -> bytes:
    """A pong; *payload* has at most 125 bytes."""
    return _control(Opcode.PONG, payload)


def close(code: int | None = None, reason: str = "") -> bytes:
    """A close frame; a reason of more than 123 UTF-8 bytes is cut. Without *code* it has no payload."""
    if code is None:
        return _control(Opcode.CLOSE, b"")
    cut = reason.encode()[:REASON_MAX].decode(errors="ignore").encode()
    return _control(Opcode.CLOSE, code.to_bytes(2, "big") + cut)


def is_close(frame: bytes) -> bool:
    """Whether a whole outgoing frame is a close frame."""
    return frame[0] == 0x80 | Opcode.CLOSE


def _control(opcode: Opcode, payload: bytes) -> bytes:
    if len(payload) > CONTROL_MAX:
        raise ValueError(f"a control frame holds at most {CONTROL_MAX} bytes")
    return bytes((0x80 | opcode, len(payload))) + payload


# --- client to server --------------------------------------------------------------------------------


def xor_mask(mask: bytes, data: bytes) -> bytes:
    """*data* with the four bytes of *mask* applied over and over."""
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def close_code(payload: bytes) -> int | None:
    """The code in a close frame's payload that the parser let through; ``None`` when it has none."""
    return int.from_bytes(payload[:2], "big") if payload else None


class FrameParser:
    """Turns a client's bytes into complete messages and control frames.

    Memory is bounded: what is kept between two calls is less than one frame (a header of 14 bytes and
    *max_message* bytes) and the fragments of one message (*max_message* bytes).
    """

    __slots__ = ("_fragments", "_kind", "_mask", "_max", "_need", "_rest", "closed", "error")

    def __init__(self, max_message: int, mask: Callable[[bytes, bytes], bytes] = xor_mask) -> None:
        self._max = max_message
        self._mask = mask
        self._rest: bytearray | None = None  # the beginning of a frame
        self._need = 0  # how long `_rest` must be before another look at it is worth while
        self._kind: Opcode | None = None  # of the message whose fragments are gathered
        self._fragments: bytearray | None = None
        self.closed = False  # a close frame was returned; what follows it is ignored (section 1.4)
        self.error: ProtocolError | None = None

    @property
    def held(self) -> int:
        """Bytes kept for later calls."""
        return len(self._rest or b"") + len(self._fragments or b"")

    def feed(self, data: bytes) -> list[tuple[Opcode, bytes]]:
        """The messages (`TEXT`, `BINARY`) and control frames that *data* completes, in order.

        A broken rule sets `error`; what was valid before it is still returned by that call. After that,
        a further call raises the error.
        """
        if self.error is not None:
            raise self.error
        if self.closed:
            return []
        rest = self._rest
        if rest is not None:
            rest += data
            if len(rest) < self._need:
                return []
            data = bytes(rest)
            self._rest = None
        found: list[tuple[Opcode, bytes]] = []
        try:
            used = self._parse(data, found)
        except ProtocolError as exc:
            self.error = exc
            self._fragments = None
            return found
        if self.closed:
            self._fragments = None
        elif used < len(data):
            self._rest = bytearray(data[used:])
        return found

    def _parse(self, data: bytes, found: list[tuple[Opcode, bytes]]) -> int:
        """Append to *found*; return how many bytes of *data* were whole frames. Raises `ProtocolError`."""
        mask = self._mask
        total = len(data)
        at = 0
        while total - at >= 2:
            first = data[at]
            second = data[at + 1]
            if not second & 0x80:
                raise ProtocolError(PROTOCOL_ERROR, "a client's frames must be masked")
            size = second & 0x7F
            start = 0
            # A whole text message of under 64 KB, which nearly every frame is: no other rule applies to it.
            if first == 0x81 and self._kind is None:
                if size < 126:
                    start = at + 6
                elif size == 126 and total - at >= 4:
                    size = data[at + 2] << 8 | data[at + 3]
                    start = at + 8 if size > 125 else 0
            if not start:
                start = self._check_header(data, at)
                if not start:
                    return at
                if size > 125:
                    size = int.from_bytes(data[at + 2 : start - 4], "big")
            if size > self._max and not first & 0x08:
                raise ProtocolError(TOO_BIG, f"a message may have {self._max} bytes")
            end = start + size
            if end > total:
                self._need = end - at
                return at
            payload = mask(data[start - 4 : start], data[start:end])
            at = end
            if first == 0x81:
                found.append((_TEXT, payload if payload.isascii() else _check_text(payload)))
            elif first & 0x08:
                opcode = _OPCODES[first & 0x0F]
                if opcode is Opcode.CLOSE:
                    _check_close(payload)
                    found.append((opcode, payload))
                    self.closed = True
                    return at
                found.append((opcode, payload))
            else:
                self._take_fragment(first, payload, found)
        self._need = 2
        return at

    def _check_header(self, data: bytes, at: int) -> int:
        """Apply every rule about a header; return where its payload starts, 0 when the length is not here yet."""
        first = data[at]
        size = data[at + 1] & 0x7F
        if first & 0x70:
            raise ProtocolError(PROTOCOL_ERROR, "reserved bits are set, and no extension was agreed on")
        opcode = _OPCODES.get(first & 0x0F)
        if opcode is None:
            raise ProtocolError(PROTOCOL_ERROR, f"opcode {first & 0x0F} is reserved")
        if opcode & 0x08:
            if not first & 0x80:
                raise ProtocolError(PROTOCOL_ERROR, "a control frame must not be fragmented")
            if size > CONTROL_MAX:
                raise ProtocolError(PROTOCOL_ERROR, f"a control frame holds at most {CONTROL_MAX} bytes")
        elif opcode is Opcode.CONTINUATION:
            if self._kind is None:
                raise ProtocolError(PROTOCOL_ERROR, "a continuation frame with nothing to continue")
        elif self._kind is not None:
            raise ProtocolError(PROTOCOL_ERROR, "a new message before the last one's final fragment")
        start = at + 2
        if size > 125:
            start += 2 if size == 126 else 8
            if start > len(data):
                self._need = start - at
                return 0
            size = int.from_bytes(data[at + 2 : start], "big")
            if size < 126 or (start - at == 10 and size < 0x10000):
                raise ProtocolError(PROTOCOL_ERROR, "a length must be encoded in the fewest bytes")
            if size >> 63:
                raise ProtocolError(PROTOCOL_ERROR, "the highest bit of a length must be 0")
        if opcode is Opcode.CONTINUATION and size + len(self._fragments or b"") > self._max:
            raise ProtocolError(TOO_BIG, f"a message may have {self._max} bytes")
        return start + 4

    def _take_fragment(self, first: int, payload: bytes, found: list[tuple[Opcode, bytes]]) -> None:
        """A data frame that is no whole text message."""
        opcode = _OPCODES[first & 0x0F]
        final = bool(first & 0x80)
        if opcode is not Opcode.CONTINUATION:
            if final:
                found.append((opcode, payload))
            else:
                self._kind = opcode
                self._fragments = bytearray(payload)
            return
        gathered, kind = self._fragments, self._kind
        if gathered is None or kind is None:
            raise AssertionError("the header of a stray continuation frame was let through")
        gathered += payload
        if final:
            self._kind = self._fragments = None
            message = bytes(gathered)
            found.append((kind, _check_text(message) if kind is Opcode.TEXT else message))


def _check_text(payload: bytes) -> bytes:
    try:
        payload.decode()
    except UnicodeDecodeError:
        raise ProtocolError(INVALID_DATA, "a text message must be UTF-8") from None
    return payload


def _check_close(payload: bytes) -> None:
    if not payload:
        return
    if len(payload) == 1:
        raise ProtocolError(PROTOCOL_ERROR, "a close frame's code has two bytes")
    code = int.from_bytes(payload[:2], "big")
    if code not in _CLOSE_CODES and not 3000 <= code <= 4999:
        raise ProtocolError(PROTOCOL_ERROR, f"{code} must not stand in a close frame")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolError(INVALID_DATA, "a close reason must be UTF-8") from None
