"""Requests that are not what they seem, on a bare socket: smuggled, injected, climbing out of the folder; bombs."""

import asyncio
import gzip
import re
import socket
import zlib

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.integration.healthy import healthy
from tests.integration.raw import frame, raw
from tests.integration.system import System

STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
# Seconds behind an answer in which another one would have come: it is written in the same turn of the loop.
QUIET = 0.4
# A request that must never be answered, since nobody sent it as one.
SMUGGLED = b"GET /api/me?username=smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def exchange(system: System, data: bytes) -> tuple[list[int], bytes]:
    """Send *data*; the statuses of all answers until the server closes or falls silent, and what came."""
    got = b""
    with socket.create_connection(("127.0.0.1", system.port), timeout=15) as wire:
        try:
            wire.sendall(data)
            while part := wire.recv(65536):
                got += part
                wire.settimeout(QUIET)
        except (ConnectionResetError, BrokenPipeError, TimeoutError):
            pass  # it had enough before we had said all, or waits for more
    return [int(status) for status in STATUS.findall(got)], got


def post(*headers: bytes, body: bytes = b"") -> bytes:
    """A POST with these header lines."""
    lines = [b"POST /api/login HTTP/1.1", b"Host: 127.0.0.1", b"Content-Type: application/json", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


SMUGGLING = {
    "CL and TE": post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "TE and CL": post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED),
    "two lengths": post(b"Content-Length: 0", b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED),
    "a list of lengths": post(b"Content-Length: 0, %d" % len(SMUGGLED), body=SMUGGLED),
    "a length with a sign": post(b"Content-Length: +0", body=SMUGGLED),
    "a negative length": post(b"Content-Length: -1", body=SMUGGLED),
    "a length in hexadecimal": post(b"Content-Length: 0x0", body=SMUGGLED),
    "a length with an underscore": post(b"Content-Length: 1_0", body=SMUGGLED),
    "a length in other digits": post("Content-Length: \u0660".encode(), body=SMUGGLED),
    "TE with another coding": post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "TE that is not chunked": post(b"Transfer-Encoding: identity", body=SMUGGLED),
    "TE behind a tab": post(b"Transfer-Encoding:\tx-chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "TE twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: x", body=b"0\r\n\r\n" + SMUGGLED),
    "a space before the colon": post(b"Content-Length : 0", body=SMUGGLED),
    "a folded header": post(b"Content-Length:", b" 0", body=SMUGGLED),
    "a chunk's size with a sign": post(b"Transfer-Encoding: chunked", body=b"+0\r\n\r\n" + SMUGGLED),
    "a chunk's size with an underscore": post(b"Transfer-Encoding: chunked", body=b"0_0\r\n\r\n" + SMUGGLED),
    "a chunk longer than it says": post(b"Transfer-Encoding: chunked", body=b"1\r\n{}}}\r\n0\r\n\r\n" + SMUGGLED),
    "a chunk of 2**64": post(b"Transfer-Encoding: chunked", body=b"10000000000000000\r\n" + SMUGGLED),
    "a bare carriage return": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\rX: y\r\n\r\n",
    "a NUL in a header": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\0b\r\n\r\n",
    "a header without a name": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n: x\r\n\r\n",
    "a header without a colon": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nnonsense\r\n\r\n",
    "a header that begins folded": b"GET /healthz HTTP/1.1\r\n Host: 127.0.0.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "an absolute URI to another host": b"GET http://evil.example/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer x\r\n\r\n",
    "headers of 100 KB": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X-Filler: " + b"x" * 100_000 + b"\r\n\r\n",
    "ten thousand headers": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    "a path of 100 KB": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a body of 100 MB that is announced": post(b"Content-Length: 104857600", body=b"{" * 1000),
}


@pytest.mark.parametrize("kind", SMUGGLING)
def test_what_is_not_plainly_one_request_is_refused(system: System, kind: str) -> None:
    statuses, got = exchange(system, SMUGGLING[kind])
    assert len(statuses) <= 1, "something that nobody asked was answered"
    assert all(400 <= status < 500 for status in statuses), got[:300]
    assert b"smuggled" not in got
    assert b"Traceback" not in got
    assert exchange(system, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")[0] == [200]


def get(path: bytes, *headers: bytes) -> bytes:
    """A GET with these header lines."""
    return b"\r\n".join([b"GET %s HTTP/1.1" % path, b"Host: 127.0.0.1", b"Connection: close", *headers]) + b"\r\n\r\n"


PATHS = [
    b"/../pyproject.toml",
    b"/%2e%2e/pyproject.toml",
    b"/..%2fpyproject.toml",
    b"/%2e%2e%2fpyproject.toml",
    b"/vendor/../../pyproject.toml",
    b"/vendor/..%2f..%2fpyproject.toml",
    b"/....//pyproject.toml",
    b"//etc/passwd",
    b"/%2fetc%2fpasswd",
    b"/etc/passwd",
    b"/..%5cpyproject.toml",
    b"/%252e%252e/pyproject.toml",
    b"/app.js%00.html",
    b"/app.js%00",
    b"/%00",
    b"/app.js/",
    b"/app.js%0d%0aX-Injected:%20yes",
    b"/vendor",
    b"/vendor/",
    b"/.git/config",
    b"/index.html/..%2f..%2f",
    b"/%c0%ae%c0%ae/pyproject.toml",
    b"/..;/pyproject.toml",
    b"/~root",
    b"/%ff",
    b"/CON",
    b"/sw.js?x=../../../etc/passwd%00",
    b"/manifest.webmanifest%20",
    b"/" + b"../" * 40 + b"etc/passwd",
]


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_no_path_leads_out_of_the_page(system: System, path: bytes) -> None:
    statuses, got = exchange(system, get(path))
    head, _, body = got.partition(b"\r\n\r\n")
    expected = [200] if path.startswith(b"/sw.js?") else [404]
    assert statuses == expected or statuses == [400], got[:300]
    assert b"[project]" not in body and b"root:" not in body
    assert b"X-Injected" not in head


INJECTED = ["x\r\nX-Injected: yes", "x\nX-Injected: yes", "x\r\n\r\n<script>alert(1)</script>", "x\u2028y", "x\0y"]


@pytest.mark.parametrize("value", INJECTED, ids=ascii)
def test_no_value_becomes_a_header(system: System, value: str) -> None:
    quoted = "".join(f"%{byte:02x}" for byte in value.encode()).encode()
    for path in (
        b"/api/me?username=" + quoted,
        b"/api/messages?username=ann&with=" + quoted,
        b"/" + quoted,
        b"/api/conversations/" + quoted + b"/messages?username=ann",
        b"/api/" + quoted + b"?x=" + quoted,
    ):
        statuses, got = exchange(system, get(path))
        head, _, body = got.partition(b"\r\n\r\n")
        assert len(statuses) == 1 and 400 <= statuses[0] < 500
        assert b"\nX-Injected" not in head
        assert b"<script>" not in body or b"application/json" in head
    for header in (
        b"Authorization: Bearer ",
        b"Sec-WebSocket-Protocol: hubbub.v1, bearer.",
        b"X-Forwarded-For: ",
        b"Origin: ",
        b"X-Request-Id: ",
        b"Idempotency-Key: ",
    ):
        _, got = exchange(system, get(b"/api/me?username=ann", header + quoted))
        assert b"\nX-Injected" not in got


def test_no_log_line_is_forged(system: System) -> None:
    quoted = b"%0a%7b%22event%22%3a%22forged%22%7d"
    exchange(system, get(b"/api/me?username=" + quoted))
    exchange(system, get(b"/" + quoted, b'User-Agent: x"}'))
    exchange(system, get(b"/nothing-here", b"X-Forwarded-For: 1.2.3.4"))
    lines = [line for i in range(system.shards) for line in system.log(f"shard-{i}")]
    assert not [line for line in lines if line["event"] == "forged"]
    assert [line for line in lines if line["event"] == "request"], "refused requests are logged"


# --- bombs --------------------------------------------------------------------------------------------


async def test_no_compression_is_agreed_on(system: System) -> None:
    async with connect(f"{system.ws}?username=bomb-ann", compression="deflate", proxy=None) as socket:
        assert not socket.protocol.extensions
        assert "Sec-WebSocket-Extensions" not in (socket.response.headers if socket.response else {})
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()  # the welcome
            squeezed = zlib.compress(b'{"content":"' + b"x" * 1_000_000 + b'"}')
            mask = b"\0\0\0\0"
            frame = bytes((0xC1, 0xFE)) + len(squeezed).to_bytes(2, "big") + mask + squeezed
            socket.transport.write(frame)
            while True:
                await asyncio.wait_for(socket.recv(), 10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1002, "a compressed frame breaks the protocol"


def test_compressed_bodies_are_not_unpacked(system: System) -> None:
    bomb = gzip.compress(b'{"username":"' + b"x" * 10_000_000 + b'"}')
    assert len(bomb) < 20_000
    for coding in (b"gzip", b"deflate", b"br", b"gzip, gzip"):
        headers = b"Content-Encoding: %s" % coding
        statuses, _ = exchange(
            system, post(headers, b"Content-Length: %d" % len(bomb), b"Connection: close", body=bomb)
        )
        assert statuses == [400]


@pytest.mark.parametrize(
    "text",
    [
        b'{"content":' * 5_000,
        b"[" * 60_000,
        b'{"content":"' + b"\\u0000" * 10_000 + b'"}',
        b"9" * 60_000,
        b'{"have":{' + b",".join(b'"direct:a:%d":1' % i for i in range(2_500)) + b'},"type":"sync"}',
    ],
    ids=["nested objects", "nested lists", "escapes", "a long number", "many names"],
)
async def test_json_that_is_a_bomb_is_refused_at_once(system: System, text: bytes) -> None:
    async with healthy(system, "bomb"), raw(system.port, "bomb-ben") as ben:
        await ben.take("welcome")
        for _ in range(3):
            ben.send(frame(0x1, text))
            error = await ben.take("error")
            assert error["code"] in ("bad_request", "too_large")
