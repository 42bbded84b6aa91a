"""Web pages of strangers: cross-site WebSockets, cross-site requests, DNS rebinding, against the real server.

A browser says in `Origin` whose page it is that asks, and no page can make it lie; so what is tried here is every way
in which a stranger's origin may look like ours.
"""

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.integration.client import connection
from tests.integration.system import Answer, System

# Origins of strangers, given the server's own host and port.
FOREIGN: dict[str, Callable[[str, int], str]] = {
    "another site": lambda host, port: "https://evil.example",
    "null: a sandboxed frame, a file": lambda host, port: "null",
    "nothing": lambda host, port: "",
    "another port": lambda host, port: f"http://{host}:{port + 1}",
    "no port": lambda host, port: f"http://{host}",
    "ours as a prefix": lambda host, port: f"http://{host}:{port}.evil.example",
    "ours as the beginning of a name": lambda host, port: f"http://{host}.evil.example:{port}",
    "ours as a suffix": lambda host, port: f"http://evil{host}:{port}",
    "ours as a user": lambda host, port: f"http://{host}:{port}@evil.example",
    "ours behind a user": lambda host, port: f"http://evil.example@{host}:{port}",
    "ours as a path": lambda host, port: f"http://evil.example/{host}:{port}",
    "ours with a path": lambda host, port: f"http://{host}:{port}/evil",
    "ours as a query": lambda host, port: f"http://evil.example?{host}:{port}",
    "ours as a fragment": lambda host, port: f"http://evil.example#{host}:{port}",
    "ours with a trailing dot": lambda host, port: f"http://{host}.:{port}",
    "ours by another name": lambda host, port: f"http://localhost:{port}",
    "ours in hexadecimal": lambda host, port: f"http://0x7f000001:{port}",
    "ours in IPv6": lambda host, port: f"http://[::ffff:7f00:1]:{port}",
    "IPv6 that is none": lambda host, port: f"http://[::1:{port}",
    "another scheme: ftp": lambda host, port: f"ftp://{host}:{port}",
    "another scheme: file": lambda host, port: f"file://{host}:{port}",
    "another scheme: an extension": lambda host, port: f"chrome-extension://{host}:{port}",
    "no scheme": lambda host, port: f"{host}:{port}",
    "two at once": lambda host, port: f"http://{host}:{port}, https://evil.example",
    "ours first, separated by a space": lambda host, port: f"http://{host}:{port} https://evil.example",
    "ours, encoded": lambda host, port: f"http://{host}%3a{port}",
    "not a word of it": lambda host, port: "http://",
}
OWN: dict[str, Callable[[str, int], str]] = {
    "ours": lambda host, port: f"http://{host}:{port}",
    "ours in upper case": lambda host, port: f"HTTP://{host.upper()}:{port}",
    "ours behind TLS": lambda host, port: f"https://{host}:{port}",
}


async def upgraded(system: System, headers: dict[str, str], username: str = "origin-ann") -> int:
    """The status of a handshake with these headers."""
    try:
        async with connection(system.ws, username, headers=headers):
            return 101
    except InvalidStatus as exc:
        return exc.response.status_code


@pytest.mark.parametrize("kind", FOREIGN)
async def test_pages_of_strangers_neither_connect_nor_write_nor_read(system: System, kind: str) -> None:
    origin = {"Origin": FOREIGN[kind]("127.0.0.1", system.port)}
    assert await upgraded(system, origin) == 403
    body = {"content": "written by a stranger's page"}
    for headers in (origin, {**origin, "Sec-Fetch-Site": "cross-site"}, {**origin, "Sec-Fetch-Site": "same-site"}):
        posted = system.post("/api/messages?username=origin-ann", body, headers)
        assert (posted.status, posted.error) == (403, "forbidden")
        read = system.get("/api/messages?username=origin-ann", headers)
        assert "access-control-allow-origin" not in read.headers
        assert read.headers["cross-origin-resource-policy"] == "same-origin"
    assert system.rows("select count(*) as n from messages where sender = 'origin-ann'")[0]["n"] == 0


@pytest.mark.parametrize("kind", OWN)
async def test_pages_of_ours_do(system: System, kind: str) -> None:
    origin = {"Origin": OWN[kind]("127.0.0.1", system.port)}
    assert await upgraded(system, origin, "own-ann") == 101
    assert system.post("/api/messages?username=own-ann", {"content": "hi"}, origin).status == 201


async def test_who_is_no_page_has_no_origin(system: System) -> None:
    assert await upgraded(system, {}, "none-ann") == 101
    assert system.post("/api/messages?username=none-ann", {"content": "hi"}).status == 201


async def test_an_unencrypted_page_is_a_stranger_to_an_encrypted_one(system: System) -> None:
    # Somebody on the wire can put a page there, and it would have ours as its host.
    port, token = system.port, {"Authorization": f"Bearer {system.token('tls-ann')}"}
    for proto, origin, status in (("https", "http", 403), ("https", "https", 101), ("http", "http", 101)):
        headers = {"X-Forwarded-Proto": proto, "Origin": f"{origin}://127.0.0.1:{port}", **token}
        assert await upgraded(system, headers, "tls-ann") == status, (proto, origin)


HOSTS = [
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1.evil.example:{port}",
    "localhost.evil.example",
    "localhost.:{port}",
    "127.0.0.1@evil.example",
    "[::1].evil.example",
    "0.0.0.0:{port}",
    "",
    "2130706433.evil:{port}",
]


@pytest.mark.parametrize("host", HOSTS)
async def test_a_name_that_was_made_to_point_here_gets_no_guest(system: System, host: str) -> None:
    # DNS rebinding: to the visitor's browser the stranger's page and we are one origin.
    host = host.format(port=system.port)
    origin = f"http://{host}"
    headers = {"Host": host, "Origin": origin, "Sec-Fetch-Site": "same-origin"}
    answer = system.get("/api/messages?username=rebound-ann", headers)
    assert answer.status in (400, 401), answer.body
    posted = request(system, "POST", "/api/messages?username=rebound-ann", b'{"content":"x"}', headers)
    assert posted.status in (400, 401)
    assert request(system, "GET", "/ws?username=rebound-ann", b"", {**headers, **UPGRADE}).status in (400, 401)


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
# What a page may send to anywhere without asking first: three types, and no header of ours.
SIMPLE: dict[str, tuple[str, bytes]] = {
    "text": ("text/plain", b'{"content":"forged"}'),
    "text with a charset": ("text/plain;charset=UTF-8", b'{"content":"forged"}'),
    "a form": ("application/x-www-form-urlencoded", b'{"content":"forged","x":"=1"}'),
    "a form with a file": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="content"\r\n\r\nforged\r\n--x--\r\n',
    ),
    "no type": ("", b'{"content":"forged"}'),
    "JSON among text": ("text/plain, application/json", b'{"content":"forged"}'),
    "JSON as a parameter": ("text/plain; x=application/json", b'{"content":"forged"}'),
    "another JSON": ("application/json+evil", b'{"content":"forged"}'),
}
WRITES = [
    "/api/messages?username=forged-ann",
    "/api/register",
    "/api/login",
    "/api/logout",
    "/api/token",
    "/api/password?username=forged-ann",
    "/api/revocations?username=forged-ann",
]


@pytest.mark.parametrize("kind", SIMPLE)
@pytest.mark.parametrize("path", WRITES)
def test_requests_that_browsers_send_unasked_write_nothing(system: System, path: str, kind: str) -> None:
    content_type, body = SIMPLE[kind]
    headers = {"Content-Type": content_type} if content_type else {}
    # Even of a browser that would leave the origin out.
    assert request(system, "POST", path, body, headers).status == 415
    assert request(system, "POST", path, body, {**headers, "Origin": "https://evil.example"}).status == 403
    assert request(system, "POST", path, body, {**headers, "Origin": "null"}).status == 403


def test_nothing_is_written_by_methods_that_follow_links(system: System) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
        for path in WRITES:
            answer = request(system, method, path, b"", {})
            assert answer.status in (200, 204, 405), (method, path)
    assert system.rows("select count(*) as n from messages where sender = 'forged-ann'")[0]["n"] == 0


def test_there_are_no_cookies_to_be_ridden_on(system: System) -> None:
    token = system.token("cookie-ann")
    for cookie in (f"token={token}", f"Authorization=Bearer {token}", "username=cookie-ann"):
        assert system.get("/api/me", {"Cookie": cookie}).status == 401
    for path in ("/", "/api/config", "/api/me?username=cookie-ann", "/healthz"):
        assert "set-cookie" not in system.get(path).headers


def test_preflights_of_strangers_are_not_allowed(system: System) -> None:
    asked = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, authorization",
    }
    answer = request(system, "OPTIONS", "/api/messages", b"", asked)
    assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-credentials" not in answer.headers


def request(system: System, method: str, path: str, body: bytes, headers: dict[str, Any]) -> Answer:
    """One request with exactly these headers (and a Host, where none is given)."""
    wire = http.client.HTTPConnection("127.0.0.1", system.port, timeout=15)
    try:
        wire.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            wire.putheader(name, value)
        wire.endheaders(body)
        answer = wire.getresponse()
        found = Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        if found.status >= 400 and found.body and method != "HEAD":
            assert "error" in json.loads(found.body)
        return found
    finally:
        wire.close()
