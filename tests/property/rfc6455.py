"""RFC 6455 for a server, sections 5 and 7.4, read off line by line: slow, and no line of it shared with the parser."""

import struct

Result = tuple[list[tuple[int, bytes]], int | None]


class Broken(Exception):
    pass


def model(data: bytes, limit: int) -> Result:
    """The messages and control frames in *data*, one frame after the other, and the code of the rule it breaks."""
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
            if not control and length + (len(message[1]) if opcode == 0 and message else 0) > limit:
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
