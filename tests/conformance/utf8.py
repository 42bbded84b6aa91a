"""Octets that are UTF-8 by RFC 3629, and octets that are not: every way that there is, each with its boundaries."""


def _encoded(number: int, size: int) -> bytes:
    """*number* in *size* octets by the old scheme of UTF-8, whether or not it is allowed."""
    rest = [0x80 | number >> 6 * i & 0x3F for i in range(size - 1)]
    return bytes((0xFF << 8 - size & 0xFF | number >> 6 * (size - 1), *reversed(rest)))


# By the number of octets: how many bits they hold.
_BITS = {2: 11, 3: 16, 4: 21, 5: 26, 6: 31}

VALID = {
    "text: many scripts": "κόσμε, Grüße, 你好, שלום, 🌍",
    "text: the last of one octet": "\x7f",
    "text: the first of two octets": "\u0080",
    "text: the last of two octets": "\u07ff",
    "text: the first of three octets": "\u0800",
    "text: the last before the surrogates": "\ud7ff",
    "text: the first after the surrogates": "\ue000",
    "text: the replacement character": "\ufffd",
    "text: the first of four octets": "\U00010000",
    "text: the last of all": "\U0010ffff",
    "text: 63 characters of four octets": "\U0001f30d" * 63,
    # Noncharacters may be interchanged (Unicode's corrigendum 9).
    **{f"text: the noncharacter U+{n:04X}": chr(n) for n in (0xFDD0, 0xFFFE, 0xFFFF)},
    **{f"text: the noncharacter U+{n:04X}": chr(n) for p in range(1, 16) for n in (p << 16 | 0xFFFE, p << 16 | 0xFFFF)},
}

INVALID = {
    "the continuation 80 alone": b"\x80",
    "the continuation BF alone": b"\xbf",
    **{f"{n} continuations": (b"\x80\xbf" * n)[:n] for n in range(2, 8)},
    "all continuations": bytes(range(0x80, 0xC0)),
    **{f"the start {start:02X} alone": bytes((start, 0x20)) for start in range(0xC0, 0xFE)},
    **{f"the first of {n} octets, the last missing": _encoded(1 << _BITS.get(n - 1, 7), n)[:-1] for n in _BITS},
    **{f"the last of {n} octets, the last missing": _encoded((1 << _BITS[n]) - 1, n)[:-1] for n in _BITS},
    "unfinished ones in a row": b"".join(_encoded(1 << _BITS.get(n - 1, 7), n)[:-1] for n in _BITS),
    "FE": b"\xfe",
    "FF": b"\xff",
    "FE FE FF FF": b"\xfe\xfe\xff\xff",
    **{f"a slash in {n} octets": _encoded(0x2F, n) for n in _BITS},
    **{f"U+0000 in {n} octets": _encoded(0, n) for n in _BITS},
    **{f"the largest overlong in {n} octets": _encoded((1 << _BITS.get(n - 1, 7)) - 1, n) for n in _BITS},
    **{f"the surrogate U+{n:04X}": _encoded(n, 3) for n in (0xD800, 0xDB7F, 0xDB80, 0xDBFF, 0xDC00, 0xDF80, 0xDFFF)},
    **{
        f"the surrogates U+{a:04X} U+{b:04X}": _encoded(a, 3) + _encoded(b, 3)
        for a in (0xD800, 0xDB7F, 0xDB80, 0xDBFF)
        for b in (0xDC00, 0xDFFF)
    },
    "U+110000, past the last": _encoded(0x110000, 4),
    "U+1FFFFF, the last of four octets": _encoded(0x1FFFFF, 4),
    "U+200000, the first of five octets": _encoded(0x200000, 5),
    "U+3FFFFFF, the last of five octets": _encoded(0x3FFFFFF, 5),
    "U+4000000, the first of six octets": _encoded(0x4000000, 6),
    "U+7FFFFFFF, the last of six octets": _encoded(0x7FFFFFFF, 6),
    "good text around a bad octet": "κόσμε".encode() + b"\xff" + "κόσμε".encode(),
    "good text before a surrogate": "κόσμε".encode() + b"\xed\xa0\x80" + b"edited",
}
