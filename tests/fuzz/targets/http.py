"""Bytes on the port of a running server, where it expects HTTP: an answer below 500, or 503 with its time, or none."""

import re
import socket
from random import Random

from tests.fuzz.target import TOKENS, mutate
from tests.integration.system import System

# How long the server may be silent when it takes what came for the beginning of something.
SILENCE = 0.1
PATIENCE = 10.0
# Nobody but us writes such a header, so one in an answer was injected.
CANARY = b"X-Canary"

# Where a body ends depends on the method; the next answer begins like this, whatever stands between.
STATUS_LINE = re.compile(rb"HTTP/1\.[01] \d{3} [A-Z]")

METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"DELETE", b"CONNECT", b"TRACE", b"get", b"G\0T", b"")
PATHS = (
    b"/",
    b"/ws",
    b"/ws?username=al",
    b"/healthz",
    b"/readyz",
    b"/metrics",
    b"/client.js",
    b"/../../etc/passwd",
    b"*",
    b"/%2e%2e/%2e%2e/etc/passwd",
    b"/vendor/../client.js",
    b"//client.js",
    b"/client.js%00.txt",
    b"/%ff",
    b"/%0d%0aX-Canary:1",
    b"/api/messages?username=al",
    b"/api/messages?username=al&with=bob&limit=5",
    b"/api/messages?username=al&before=x",
    b"/api/conversations?username=al",
    b"/api/users/online?username=al",
    b"/api/search?username=al&q=hello+%22two",
    b"/api/search?username=al&q=%5B",
    b"/api/users?username=al&q=a%25",
    b"/api/openapi.json",
    b"/api/login",
    b"/api/accounts",
    b"http://127.0.0.1/",
    b"/?" + b"a=1&" * 500,
    b"/" + b"x" * 9000,
    b"/%F0%9F%8C%8D",
)
HEADERS = (
    b"Host: 127.0.0.1",
    b"Host: localhost",
    b"Host: evil.example",
    b"Host:",
    b"Connection: close",
    b"Connection: Upgrade",
    b"Connection: keep-alive, Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Version: 8",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Key: x",
    b"Sec-WebSocket-Protocol: hubbub.v1, bearer.x",
    b"Sec-WebSocket-Extensions: permessage-deflate",
    b"Origin: http://127.0.0.1",
    b"Origin: null",
    b"Origin: http://[",
    b"Authorization: Bearer a.b.c",
    b"Authorization: Basic YTpi",
    b"Authorization: Bearer " + b"x" * 9000,
    b"Range: bytes=0-1",
    b"Range: bytes=-1,5-,x",
    b"If-None-Match: *",
    b"If-Modified-Since: yesterday",
    b"If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT",
    b"Accept-Encoding: gzip, br",
    b"Content-Type: application/json",
    b"Content-Type: multipart/form-data; boundary=",
    b"Content-Type: application/x-www-form-urlencoded; charset=x",
    b"Content-Length: 2",
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: 1, 1",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip",
    b"Expect: 100-continue",
    b"X-Forwarded-For: 1.2.3.4",
    b"X-Real-Ip: x",
    b"Forwarded: for=x",
    b"Cookie: a=\xff; b",
    b"Idempotency-Key: 0123456789abcdef",
    b"A" * 9000 + b": 1",
    b"No colon",
    b": no name",
    b" folded: 1",
    b"X: \0\r\n y",
)
BODIES = (
    b"",
    b"{}",
    b"[]",
    b'{"content":"hi"}',
    b'{"content":"hi","recipient":"bob"}',
    b'{"username":"al","password":"x"}',
    b"5\r\nhello\r\n0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"-1\r\n",
    b"0\r\n" + CANARY + b": 1\r\n\r\n",
    b"\xff" * 100,
)


class Requests:
    """What one connection says before a last, well formed request."""

    def __init__(self, system: System) -> None:
        self._port = system.port

    def seeds(self) -> list[bytes]:
        """A request for each address."""
        return [b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" for path in PATHS]

    def generate(self, rng: Random) -> bytes:
        """A request or several, pipelined."""
        return b"".join(self._request(rng) for _ in range(rng.choice((1, 1, 1, 2, 4))))

    def check(self, data: bytes) -> None:
        """See `Target`."""
        last = b"\r\n\r\nGET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        answer = exchange(self._port, data + last)
        for status, headers in answers_in(answer):
            assert status < 500 or (status == 503 and b"retry-after:" in headers.lower()), (status, headers)
            assert CANARY.lower() not in headers.lower(), headers
        assert b"Traceback" not in answer

    @staticmethod
    def _request(rng: Random) -> bytes:
        method, path = rng.choice(METHODS[:3] if rng.random() < 0.8 else METHODS), rng.choice(PATHS)
        version = (
            b"HTTP/1.1" if rng.random() < 0.9 else rng.choice((b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"", b"http/1.1"))
        )
        lines = [b" ".join((method, path, version)), HEADERS[0], *rng.sample(HEADERS, rng.randrange(8))]
        body = rng.choice(BODIES)
        if rng.random() < 0.5:
            lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
        end = b"\r\n" if rng.random() < 0.95 else rng.choice((b"\n", b"\r", b"\r\r\n"))
        whole = end.join(lines) + end + end + body
        return mutate(rng, whole, rng.choice(TOKENS)) if rng.random() < 0.4 else whole


def exchange(port: int, data: bytes) -> bytes:
    """Everything the server says to *data*, until it hangs up or has been silent for a while."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        found = b""
        try:
            connection.sendall(data)
            connection.settimeout(SILENCE)
            while len(found) < 1 << 20:
                piece = connection.recv(1 << 16)
                if not piece:
                    break
                found += piece
        except (TimeoutError, ConnectionError):
            pass  # it waits for more, or has heard enough
        return found


def answers_in(answer: bytes) -> list[tuple[int, bytes]]:
    """The status and the head of each answer."""
    heads = [answer[one.start() :].partition(b"\r\n\r\n")[0] for one in STATUS_LINE.finditer(answer)]
    return [(int(head.split()[1]), head) for head in heads]
