"""One connection between a real socket and a hub that only takes notes."""

import asyncio
import json
import random
import struct
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import jwt
import msgspec
import pytest
import structlog
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from hubbub.protocol import messages
from hubbub.protocol.limits import Limits
from hubbub.protocol.refusals import CloseCode, ErrorCode, Refusal
from shards import connection, frames, handshake, http
from shards.session import Session
from tests.builders import authenticator

SECRET = b"k" * 32
KEY = b"\x05\x06\x07\x08"
LIMITS = Limits(frame_bytes=5000, outbox_bytes=200_000)


class NotingHub:
    """Answers each text with ``echo:`` and itself, and remembers what it was told."""

    def __init__(self) -> None:
        self.ready = True
        self.full: Refusal | None = None
        self.dirty: dict[Session, None] = {}
        self.outbox = SimpleNamespace(closes=Counter())
        self.sessions: list[Session] = []
        self.closed: list[Session] = []
        self.received: list[bytes] = []
        self.pongs: list[bytes] = []
        self.slowed: list[Session] = []
        self.fail = False

    def open(self, username, *, syncing, remote, expires_at, now, proof=None):
        if self.full is not None:
            raise self.full
        given = {"syncing": syncing, "remote": remote, "expires_at": expires_at, "limits": LIMITS, "now": now}
        session = Session(f"s{len(self.sessions)}", username, **given)
        self.sessions.append(session)
        self.say(session, b"welcome " + username.encode())
        return session

    def say(self, session, *payloads):
        session.out += [frames.text(payload) for payload in payloads]
        self.dirty[session] = None

    def receive(self, session, data, now):
        if self.fail:
            raise RuntimeError("a fault of ours")
        self.received.append(data)
        self.say(session, b"echo:" + data)

    def pong(self, session, payload, now):
        self.pongs.append(payload)

    def bye(self, session, code):
        self.say(session, b"goodbye")
        session.out.append(frames.close(int(code), code.reason))
        session.closing = code

    def slow(self, session):
        self.slowed.append(session)
        self.bye(session, CloseCode.SLOW_CONSUMER)

    def close(self, session, now):
        self.dirty.pop(session, None)
        self.closed.append(session)


def flush(hub: NotingHub) -> None:
    connection.flush(hub)  # type: ignore[arg-type]


class Client:
    """A WebSocket client that can misbehave."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body: dict[str, object] = {}

    def send(self, payload: bytes, opcode: int = 1, *, fin: bool = True) -> None:
        self.writer.write(self.frame(payload, opcode, fin=fin))

    @staticmethod
    def frame(payload: bytes, opcode: int = 1, *, fin: bool = True) -> bytes:
        size = len(payload)
        length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + struct.pack("!H", size)
        return bytes(((0x80 if fin else 0) | opcode,)) + length + KEY + frames.xor_mask(KEY, payload)

    async def get(self) -> tuple[int, bytes]:
        first, size = await self.reader.readexactly(2)
        assert first & 0x80
        assert not size & 0x80
        if size > 125:
            size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
        return first & 0x0F, await self.reader.readexactly(size)

    async def rest(self) -> list[tuple[int, bytes]]:
        """Every frame up to the end of the stream, which must come between two frames."""
        found = []
        while True:
            try:
                found.append(await self.get())
            except asyncio.IncompleteReadError as exc:
                assert exc.partial == b""
                return found


class System:
    def __init__(self, tmp_path: Path, origins: tuple[str, ...] = ()) -> None:
        self.hub = NotingHub()
        self.log = structlog.testing.CapturingLogger()
        self.clients: list[Client] = []
        auth = authenticator(SECRET)
        ticker = connection.Ticker(asyncio.get_running_loop(), lambda: flush(self.hub))
        self.wake = ticker.wake
        context = http.Context(
            hub=self.hub,  # type: ignore[arg-type]
            authenticator=auth,
            limits=LIMITS,
            allowed_origins=origins,
            clock=time.monotonic,
            wake=ticker.wake,
            metrics=None,
            webclient=tmp_path,
            log=self.log,
            access_loaded=lambda: True,
        )
        self.server = HTTPServer(web.Application([handshake.socket_route(context)]), **http.SERVER_OPTIONS)
        sockets = bind_sockets(0, "127.0.0.1")
        self.port = sockets[0].getsockname()[1]
        self.server.add_sockets(sockets)

    async def connect(self, path="/ws?username=alice", *, behind=b"", receive_buffer=None, **headers) -> Client:
        given = {
            "Host": f"127.0.0.1:{self.port}",
            "Upgrade": "websocket",
            "Connection": "keep-alive, Upgrade",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "13",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        lines = [f"{name}: {value}" for name, value in given.items() if value is not None]
        limit = {"limit": receive_buffer} if receive_buffer else {}
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **limit)
        client = Client(reader, writer)
        self.clients.append(client)
        writer.write("\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode() + behind)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        client.status = int(head[0].split()[1])
        client.headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
        if client.status != 101:
            client.body = json.loads(await reader.readexactly(int(client.headers["content-length"])))
        return client

    async def opened(self, **more) -> tuple[Client, Session]:
        client = await self.connect(**more)
        assert client.status == 101
        assert await client.get() == (1, b"welcome alice")
        return client, self.hub.sessions[-1]

    async def until(self, condition) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.002)


@pytest.fixture
async def system(tmp_path):
    system = System(tmp_path)
    yield system
    for client in system.clients:
        client.writer.transport.abort()
    system.server.stop()
    await system.until(lambda: len(system.hub.closed) == len(system.hub.sessions))
    assert len(set(system.hub.closed)) == len(system.hub.closed), "closed once and no more"
    await system.server.close_all_connections()


def close_frame(code: int, reason: str = "") -> tuple[int, bytes]:
    return 8, struct.pack("!H", code) + reason.encode()


# --- the handshake -----------------------------------------------------------------------------------


async def test_a_plain_guest(system):
    client, session = await system.opened()
    assert client.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert client.headers["server"] == "Hubbub"
    assert "sec-websocket-protocol" not in client.headers
    assert not session.syncing
    assert session.remote == "127.0.0.1"


async def test_a_token_among_the_subprotocols_is_never_given_back(system):
    token = jwt.encode({"sub": "alice", "exp": int(time.time()) + 60}, SECRET, "HS256")
    client = await system.connect("/ws", Sec_WebSocket_Protocol=f"hubbub.v1, bearer.{token}")
    assert client.status == 101
    assert client.headers["sec-websocket-protocol"] == "hubbub.v1"
    assert token not in str(client.headers)
    assert token not in str(system.log.calls)
    assert system.hub.sessions[0].syncing
    assert system.hub.sessions[0].expires_at is not None


@pytest.mark.parametrize(
    ("status", "code", "request_"),
    [
        (401, "unauthorized", {"path": "/ws"}),
        (401, "unauthorized", {"path": "/ws?username=a:b"}),
        (401, "unauthorized", {"Authorization": "Bearer x.y.z"}),
        (403, "forbidden", {"Origin": "https://evil.example"}),
        (403, "forbidden", {"Origin": "null"}),
        (403, "forbidden", {"Origin": "http://[bad"}),
        (403, "forbidden", {"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"}),
        (426, "bad_request", {"Upgrade": None}),
        (426, "bad_request", {"Connection": "close"}),
        (426, "bad_request", {"Sec_WebSocket_Version": "8"}),
        (400, "bad_request", {"Sec_WebSocket_Key": "short"}),
        (400, "bad_request", {"Sec_WebSocket_Key": "ä" * 16}),
    ],
)
async def test_a_refused_handshake(system, status, code, request_):
    client = await system.connect(**request_)
    assert (client.status, client.body["error"]["code"]) == (status, code)
    assert client.body["error"]["message"]
    assert not system.hub.sessions
    assert ("www-authenticate" in client.headers) == (status == 401)


async def test_a_server_that_cannot_take_anybody(system):
    system.hub.ready = False
    client = await system.connect()
    assert (client.status, client.headers["retry-after"]) == (503, "1")
    system.hub.ready = True
    system.hub.full = Refusal(ErrorCode.RATE_LIMITED, "too many", retry_after_ms=5001)
    client = await system.connect()
    assert (client.status, client.headers["retry-after"]) == (429, "6")
    assert client.body["error"] == {
        "code": "rate_limited",
        "message": "too many",
        "temporary": True,
        "retry_after_ms": 5001,
    }


async def test_origins(system):
    host = f"127.0.0.1:{system.port}"
    assert (await system.connect(Origin=f"http://{host}")).status == 101
    assert (await system.connect(Origin="https://proxied.example", Sec_Fetch_Site="same-origin")).status == 101
    allowed = ("https://chat.example",)
    assert http.origin_allowed("https://Chat.Example", host, allowed)
    assert not http.origin_allowed("http://chat.example", host, allowed)
    assert not http.origin_allowed("", "", ())
    assert http.origin_allowed("https://any.example", host, ("*",))


# --- in ----------------------------------------------------------------------------------------------


async def test_frames_right_behind_the_handshake(system):
    client = await system.connect(behind=Client.frame(b"early"))
    assert [await client.get(), await client.get()] == [(1, b"welcome alice"), (1, b"echo:early")]


async def test_many_frames_in_one_segment(system):
    client, _ = await system.opened()
    client.writer.write(b"".join(Client.frame(b"%d" % i) for i in range(300)))
    assert [await client.get() for _ in range(300)] == [(1, b"echo:%d" % i) for i in range(300)]


async def test_a_frame_in_single_bytes(system):
    client, _ = await system.opened()
    client.writer.get_extra_info("socket").setsockopt(6, 1, 1)
    for byte in Client.frame(b"drip"):
        client.writer.write(bytes((byte,)))
        await asyncio.sleep(0)
    assert await client.get() == (1, b"echo:drip")


async def test_pings_and_pongs(system):
    client, _ = await system.opened()
    client.send(b"one", 9)
    assert await client.get() == (10, b"one")
    client.writer.write(Client.frame(b"two", 9) + Client.frame(b"x") + Client.frame(b"three", 9))
    assert [await client.get(), await client.get()] == [(1, b"echo:x"), (10, b"three")]
    client.send(b"d", 10)
    await system.until(lambda: system.hub.pongs == [b"d"])


async def test_a_client_says_goodbye(system):
    client, _ = await system.opened()
    client.writer.write(Client.frame(b"last") + Client.frame(struct.pack("!H", 1000), 8) + b"garbage")
    assert await client.rest() == [(1, b"echo:last"), close_frame(1000)]
    await system.until(lambda: system.log.calls[-1].args == ("left",))
    left = system.log.calls[-1].kwargs
    assert (left["user"], left["code"], left["by"]) == ("alice", 1000, "client")


async def test_a_client_that_vanishes(system):
    client, session = await system.opened()
    other, _ = await system.opened()
    client.writer.transport.abort()
    await system.until(lambda: system.hub.closed == [session])
    other.send(b"still here")
    assert await other.get() == (1, b"echo:still here")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x02hi", 1002),
        (b"\x81\xff" + struct.pack("!Q", 100_000_000), 1009),
        (Client.frame(b"x" * 3000, fin=False) + Client.frame(b"x" * 3000, 0), 1009),
        (Client.frame(b"\xff"), 1007),
        (b"GET / HTTP/1.1\r\n\r\n", 1002),
    ],
)
async def test_a_broken_rule(system, data, code):
    client, session = await system.opened()
    other, _ = await system.opened()
    client.writer.write(Client.frame(b"good") + data)
    assert await client.get() == (1, b"echo:good")
    kind, goodbye = await client.get()
    assert kind == 1
    event = messages.decode_event(goodbye)
    assert isinstance(event, messages.Goodbye)
    assert event.code == CloseCode.PROTOCOL_VIOLATION
    kind, payload = await client.get()
    assert (kind, frames.close_code(payload)) == (8, code)
    assert system.hub.closed == [session], "at once: what is still to be read is nobody's"
    system.hub.say(session, b"too late")
    client.writer.write(b"\x00" * 100_000 + Client.frame(b"ignored"))
    assert system.hub.received == [b"good"]
    other.send(b"healthy")
    assert await other.get() == (1, b"echo:healthy")


async def test_a_fault_of_ours_ends_one_session(system):
    client, session = await system.opened()
    other, _ = await system.opened()
    system.hub.fail = True
    client.send(b"boom")
    _, goodbye = await client.get()
    assert msgspec.json.decode(goodbye)["code"] == CloseCode.RESTARTING
    assert b"fault of ours" not in goodbye
    assert (await client.get()) == close_frame(1011, "internal error")
    system.hub.fail = False
    other.send(b"healthy")
    assert await other.get() == (1, b"echo:healthy")
    assert system.hub.closed == [session]


# --- out ---------------------------------------------------------------------------------------------


async def test_nothing_follows_a_close_frame(system, monkeypatch):
    monkeypatch.setattr(connection, "CLOSE_WAIT", 0.05)
    client, session = await system.opened()
    system.hub.bye(session, CloseCode.RESTARTING)
    system.hub.say(session, b"too late")
    system.wake()
    client.send(b"ignored")
    reason = CloseCode.RESTARTING.reason
    assert await client.rest() == [(1, b"goodbye"), close_frame(4000, reason)], "the server hangs up by itself"
    assert system.hub.received == []
    await system.until(lambda: system.hub.closed == [session])
    assert system.log.calls[-1].kwargs["code"] == 4000


async def test_an_answered_close_ends_the_connection_at_once(system, monkeypatch):
    monkeypatch.setattr(connection, "CLOSE_WAIT", 60.0)
    client, session = await system.opened()
    system.hub.bye(session, CloseCode.RESTARTING)
    system.wake()
    assert [(await client.get())[0], (await client.get())[0]] == [1, 8]
    client.send(struct.pack("!H", 4000), 8)
    assert await client.rest() == []


async def test_closes_that_cross(system):
    client, session = await system.opened()
    system.hub.bye(session, CloseCode.TOKEN_EXPIRED)  # waits for the end of a tick
    client.send(b"", 8)
    assert await client.rest() == [(1, b"goodbye"), close_frame(4002, CloseCode.TOKEN_EXPIRED.reason)]


async def test_an_answer_beyond_the_bound_arrives_whole(system):
    client, session = await system.opened(receive_buffer=1000)
    sent = [random.Random(i).randbytes(3000) for i in range(2000)]  # 6 MB: no socket takes it at once
    system.hub.say(session, *sent)
    system.wake()
    await system.until(lambda: session.unsent > LIMITS.outbox_bytes)
    system.hub.say(session, b"behind it")
    system.wake()
    assert [payload for _, payload in [await client.get() for _ in range(2001)]] == [*sent, b"behind it"]
    await system.until(lambda: session.unsent == 0)
    client.send(b"more")
    assert await client.get() == (1, b"echo:more")
    assert not system.hub.slowed


async def test_a_goodbye_behind_what_waits_still_brings_all_of_it(system, monkeypatch):
    monkeypatch.setattr(connection, "CLOSE_WAIT", 60.0)
    monkeypatch.setattr(connection, "UNSENT_WAIT", 60.0)
    client, session = await system.opened(receive_buffer=1000)
    sent = [b"%04d" % i * 1000 for i in range(2000)]
    system.hub.say(session, *sent)
    system.wake()
    await system.until(lambda: session.unsent > LIMITS.outbox_bytes)
    client.send(b"", 8)
    await system.until(lambda: system.hub.closed == [session])
    found = await asyncio.wait_for(client.rest(), 5)
    assert found == [*((1, payload) for payload in sent), (8, b"")], "and then TCP ends at once"


async def stop_reading(system) -> tuple[Client, Session, list[bytes]]:
    """A client that reads nothing while more and more is said to it, until the hub hears of it."""
    client, session = await system.opened(receive_buffer=1000)
    sent: list[bytes] = []
    for i in range(10_000):
        sent.append(b"%05d" % i * 1000)
        system.hub.say(session, sent[-1])
        flush(system.hub)
        assert session.unsent <= LIMITS.outbox_bytes + 2 * 5010, "memory is bounded"
        if system.hub.slowed:
            break
        await asyncio.sleep(0)
    assert system.hub.slowed == [session]
    return client, session, sent


async def test_a_slow_client_is_told_and_what_was_queued_is_dropped_between_frames(system, monkeypatch):
    monkeypatch.setattr(connection, "CLOSE_WAIT", 0.05)
    client, session, sent = await stop_reading(system)
    assert session.unsent < 3 * 5010
    found = await asyncio.wait_for(client.rest(), 5)
    assert found[-2:] == [(1, b"goodbye"), close_frame(4001, CloseCode.SLOW_CONSUMER.reason)]
    texts = [payload for _, payload in found[:-2]]
    assert texts == sent[: len(texts)], "whole frames, in order, without a hole"
    assert len(texts) < len(sent)


async def test_a_client_that_never_reads_is_cut_off(system, monkeypatch):
    monkeypatch.setattr(connection, "UNSENT_WAIT", 0.05)
    other, _ = await system.opened()
    _, session, _ = await stop_reading(system)
    other.send(b"healthy")
    assert await other.get() == (1, b"echo:healthy")
    await system.until(lambda: system.hub.closed == [session])


async def test_a_ping_flood_of_a_client_that_does_not_read_is_bounded(system):
    client, session = await system.opened(receive_buffer=1000)
    flood = Client.frame(b"p" * 125, 9) * 100

    async def pour() -> None:
        while not session.closing:
            client.writer.write(flood)
            await client.writer.drain()

    task = asyncio.create_task(pour())
    for _ in range(500):
        assert session.unsent <= LIMITS.outbox_bytes + 1000
        await asyncio.sleep(0)
    task.cancel()
