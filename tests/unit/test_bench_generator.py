"""The benchmark must notice what is wrong: a generator that overlooks a lost message measures nothing.

The whole command runs against a small server, over real sockets, which makes one mistake when it is told to.
"""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from bench import compiler, load
from bench.measure import Result
from hubbub.protocol.messages import (
    Ack,
    Message,
    Received,
    Send,
    Synced,
    SyncedConversation,
    decode_command,
    encode_event,
)

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="the generator needs a C compiler")

MISTAKE_AT = 5  # the seq in a conversation at which the mistake is made


def same(payload: bytes) -> bytes:
    return payload


def reordered(payload: bytes) -> bytes:
    """The same object as another server might write it."""
    return json.dumps(dict(reversed(json.loads(payload).items())), separators=(",", ":")).encode()


async def frames(socket: ServerConnection) -> AsyncIterator[str | bytes]:
    """What the client says until it goes; the generator goes without a word."""
    with suppress(ConnectionClosed):
        while True:
            yield await socket.recv()


class Chat:
    """A server that keeps seqs in memory. `mistake`: what it does wrong, once, in `direct:bench-0:bench-1`."""

    def __init__(self, mistake: str = "", shape: Callable[[bytes], bytes] = same, numbered: bool = True) -> None:
        self.mistake, self.shape, self.numbered = mistake, shape, numbered
        self.seqs: dict[str, int] = {}
        self.online: dict[str, ServerConnection] = {}
        self.commands: list[Any] = []
        self.held: bytes | None = None
        self.held_of = ""

    async def serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        name = socket.request.path.partition("username=")[2]
        self.online[name] = socket
        if self.numbered:
            await self.say(socket, b'{"type":"welcome","username":"x"}')
        async for text in frames(socket):
            command = decode_command(text if isinstance(text, bytes) else text.encode())
            self.commands.append(command)
            match command:
                case Send():
                    await self.take(name, socket, command)
                case Received():
                    pass
                case _:
                    pages = [self.page(conversation, seq) for conversation, seq in self.seqs.items()]
                    # What a client without positions is shown of the past: it counts for nothing.
                    await self.say(socket, message("0" * 24, 3, "direct:bench-0:bench-1"))
                    await self.say(socket, encode_event(Synced(conversations=pages, epoch=1)))

    def page(self, conversation: str, seq: int) -> SyncedConversation:
        return SyncedConversation(
            conversation=conversation, from_=0, to=seq, last_seq=seq, delivered_seq=seq, read_seq=seq, unread=0
        )

    async def say(self, socket: ServerConnection, payload: bytes) -> None:
        with suppress(ConnectionClosed):
            await socket.send(self.shape(payload), text=True)

    async def take(self, sender: str, socket: ServerConnection, send: Send) -> None:
        lobby = send.recipient is None
        conversation = "lobby" if lobby else "direct:" + ":".join(sorted((sender, str(send.recipient))))
        seq = self.seqs.get(conversation, 0) + 1
        now = conversation in ("lobby", "direct:bench-0:bench-1") and seq >= MISTAKE_AT and self.mistake
        mistake = ""
        if now:
            # The one mistake that lasts: nothing more may come, so that only the end can tell.
            mistake, self.mistake = self.mistake, self.mistake if self.mistake == "lose all deliveries" else ""
        if mistake == "refuse":
            error = {"type": "error", "id": send.id, "code": "overloaded", "message": ""}
            await self.say(socket, json.dumps(error, separators=(",", ":")).encode())
            return
        if mistake == "goodbye":
            await self.say(socket, b'{"type":"goodbye","code":4000,"reason":"restarting"}')
        if mistake == "close":
            await socket.close(4001)
            return
        self.seqs[conversation] = seq
        event = message(send.content, seq, conversation)
        if mistake == "a stranger's":
            self.seqs[conversation] = seq = seq + 1
            event = message(send.content, seq, conversation)
        others = [s for n, s in self.online.items() if n != sender] if lobby else [self.online[str(send.recipient)]]
        if mistake == "a stranger's":
            for other in others:
                await self.say(other, message("f" * 24, seq - 1, conversation))
        if mistake == "swap":
            self.held, self.held_of = event, sender
        elif mistake not in ("lose a delivery", "lose all deliveries"):
            for other in others:
                await self.say(other, event)
                if mistake == "deliver twice":
                    await self.say(other, event)
                if self.held and sender == self.held_of:
                    await self.say(other, self.held)
                    self.held = None
        if mistake != "lose an ack":
            acknowledged = Ack(id=str(send.id), message_id=seq, conversation=conversation, seq=seq, timestamp="t")
            await self.say(socket, encode_event(acknowledged))
            if mistake == "ack twice":
                await self.say(socket, encode_event(acknowledged))


def message(content: str, seq: int, conversation: str) -> bytes:
    return encode_event(
        Message(id=seq, conversation=conversation, seq=seq, ordinal=seq, sender="x", content=content, timestamp="t")
    )


Run = Callable[..., "asyncio.Future[tuple[int, Result]]"]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the command against a server; its exit status and result."""
    monkeypatch.setattr("bench.load.DRAIN_SECONDS", 0.3)

    async def against(server: str, scenario: str, *words: str) -> tuple[int, Result]:
        given = [scenario, "--url", server, "--warmup", "0.1", "--seconds", "0.3", "--pid", str(os.getpid())]
        status = await asyncio.to_thread(load.main, [*given, *words])
        return status, msgspec.json.decode(capfd.readouterr().out, type=Result)

    return against


@asynccontextmanager
async def listening(chat: Chat) -> AsyncIterator[str]:
    subprotocols = ["hubbub.v1"] if chat.numbered else None
    async with serve(chat.serve, "127.0.0.1", 0, subprotocols=subprotocols, compression=None) as server:  # type: ignore[arg-type]
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("shape", [same, reordered])
async def test_a_clean_run_and_another_that_begins_where_it_ended(
    run: Callable[..., Any], shape: Callable[[bytes], bytes]
) -> None:
    chat = Chat(shape=shape)
    async with listening(chat) as url:
        for _ in range(2):
            status, found = await run(url, "direct", "--clients", "4")
            assert (status, found.problems) == (0, {})
            assert found.acks > 0 and found.deliveries > 0 and found.generator_cpu_us > 0
            assert found.latency_ms["ack"].samples == found.acks
            assert 0 < found.latency_ms["delivery"].p50 <= found.latency_ms["delivery"].max < 1000
            assert "total" in found.cpu_us_per_message
    sends = [command for command in chat.commands if isinstance(command, Send)]
    assert len(sends) == sum(chat.seqs.values()) == len({send.id for send in sends})
    assert all(len(send.content) == 100 and send.content.startswith(str(send.id)) for send in sends)
    assert {send.recipient for send in sends} == {f"bench-{i}" for i in range(4)}


async def test_the_lobby_everybody_to_everybody_and_one_alone(run: Callable[..., Any]) -> None:
    chat = Chat()
    async with listening(chat) as url:
        status, found = await run(url, "broadcast", "--clients", "5", "--senders", "2")
        assert (status, found.problems) == (0, {})
        assert found.deliveries == pytest.approx(4 * found.acks, rel=0.2)
        status, found = await run(url, "direct", "--clients", "4", "--partners", "all", "--in-flight", "2")
        assert (status, found.problems) == (0, {})
        assert len(chat.seqs) == 1 + 6
        status, found = await run(url, "connect", "--clients", "5")
        assert (status, found.problems, set(found.connects_per_second)) == (0, {}, {"welcome", "synced"})
        status, found = await run(url, "idle", "--clients", "5", "--concurrency", "3")
        assert (status, found.problems) == (0, {})


async def test_received_is_said_for_what_has_come(run: Callable[..., Any]) -> None:
    chat = Chat()
    async with listening(chat) as url:
        status, found = await run(url, "direct", "--clients", "2", "--received", "50")
    assert (status, found.problems) == (0, {})
    confirmed = [command for command in chat.commands if isinstance(command, Received)]
    assert len(confirmed) >= 4
    assert {command.conversation for command in confirmed} == {"direct:bench-0:bench-1"}
    assert max(command.seq for command in confirmed) <= chat.seqs["direct:bench-0:bench-1"]


@pytest.mark.parametrize("shape", [same, reordered])
@pytest.mark.parametrize(
    ("mistake", "problems"),
    [
        ("lose an ack", {"unacknowledged": 1, "missing": 1}),  # its own message is a hole for its sender
        ("ack twice", {"acknowledged twice or never sent": 1}),
        ("lose a delivery", {"missing": 1}),
        ("deliver twice", {"delivered twice or out of order": 1}),
        ("swap", {"missing": 1, "delivered twice or out of order": 1}),
        ("refuse", {"error overloaded": 1}),
        ("goodbye", {"goodbye 4000": 1}),
    ],
)
async def test_one_mistake(
    run: Callable[..., Any], mistake: str, problems: dict[str, int], shape: Callable[[bytes], bytes]
) -> None:
    async with listening(Chat(mistake, shape)) as url:
        status, found = await run(url, "direct", "--clients", "2", "--in-flight", "2")
    assert (status, found.clean, found.problems) == (1, False, problems)


async def test_losses_that_only_the_end_shows(run: Callable[..., Any]) -> None:
    async with listening(Chat("lose all deliveries")) as url:
        status, found = await run(url, "direct", "--clients", "2")
    assert (status, set(found.problems)) == (1, {"missing"})


async def test_messages_of_others(run: Callable[..., Any]) -> None:
    async with listening(Chat("a stranger's")) as url:
        status, found = await run(url, "direct", "--clients", "2", "--in-flight", "1")
    assert status == 1
    assert found.problems["delivered but not sent by us"] == 1


async def test_a_connection_that_is_lost(run: Callable[..., Any]) -> None:
    async with listening(Chat("close")) as url:
        status, found = await run(url, "direct", "--clients", "4")
    assert status == 1
    assert (found.problems["closed by the server with 4001"], found.problems["disconnected"]) == (1, 1)


@pytest.mark.parametrize(
    ("mistake", "problems"),
    [
        ("", {}),
        ("lose a delivery", {"missing": 1}),
        ("deliver twice", {"delivered twice": 1}),
        ("swap", {"changed order": 1}),
        ("lose an ack", {"unacknowledged": 1}),
    ],
)
@pytest.mark.parametrize("scenario", ["direct", "broadcast"])
async def test_servers_that_do_not_number(
    run: Callable[..., Any], scenario: str, mistake: str, problems: dict[str, int]
) -> None:
    # Two, so that a mistake has one listener, and the other sender goes on where an acknowledgement is lost.
    async with listening(Chat(mistake, numbered=False)) as url:
        status, found = await run(url, scenario, "--clients", "2", "--senders", "2", "--protocol", "plain")
    assert (status, found.problems) == (1 if problems else 0, problems)


async def test_socketio(run: Callable[..., Any]) -> None:
    online: dict[str, ServerConnection] = {}
    pongs = 0

    async def chat(socket: ServerConnection) -> None:
        nonlocal pongs
        assert socket.request is not None and "EIO=4&transport=websocket" in socket.request.path
        online[socket.request.path.partition("username=")[2]] = socket
        await socket.send('0{"sid":"a","pingInterval":25000}')
        assert await socket.recv() == "40"
        await socket.send('40{"sid":"b"}')
        await socket.send("2")
        async for packet in frames(socket):
            if packet == "3":
                pongs += 1
                continue
            assert isinstance(packet, str) and packet.startswith("42")
            number, _, rest = packet[2:].partition("[")
            name, sent = json.loads("[" + rest)
            assert name == "send"
            await online[sent["recipient"]].send("42" + json.dumps(["message", sent], separators=(",", ":")))
            await socket.send(f"43{number}[]")

    async with serve(chat, "127.0.0.1", 0, compression=None) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        status, found = await run(url, "direct", "--clients", "4", "--protocol", "socketio")
    assert (status, found.problems, pongs) == (0, {}, 4)
    assert found.acks > 0


async def test_a_server_that_refuses(capfd: pytest.CaptureFixture[str]) -> None:
    async with serve(Chat().serve, "127.0.0.1", 0, process_request=lambda c, _: c.respond(503, "full\n")) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await asyncio.to_thread(load.main, ["latency", "--url", url]) == 2
    assert "the server refuses: HTTP/1.1 503" in capfd.readouterr().err


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert load.main(["latency"]) == 2
    assert "apt-get install gcc" in capfd.readouterr().err


def test_programs_are_compiled_once_and_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "answer.c"
    source.write_text("int main(void) { return 7; }\n")
    program = compiler.program("answer", [source])
    assert subprocess.run([program], check=False).returncode == 7
    made = program.stat().st_mtime_ns
    assert compiler.program("answer", [source]) == program and program.stat().st_mtime_ns == made
    source.write_text("int main(void) { return 8; }\n")
    assert subprocess.run([compiler.program("answer", [source])], check=False).returncode == 8
    source.write_text("int main(void) { return undeclared; }\n")
    with pytest.raises(compiler.CompilerError, match="undeclared"):
        compiler.program("answer", [source])
