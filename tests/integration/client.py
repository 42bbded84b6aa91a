"""Clients for tests before the real system.

`Connection` is one WebSocket, with everything that came on it. `Device` keeps the client's rule
(`hubbub.protocol.client`) over as many connections as it takes.
"""

import asyncio
import json
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from hubbub.protocol import client as rule
from hubbub.protocol import messages
from hubbub.protocol.limits import HISTORY_MAX

TAKE_SECONDS = 15.0
SYNCING = "hubbub.v1"


class NothingCame(AssertionError):
    """What a test waits for did not come; says what came instead."""


class Connection:
    """One WebSocket: JSON objects out, JSON objects in."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []  # everything, in order
        self._unread: list[dict[str, Any]] = []
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read(), name="test client")

    @classmethod
    async def open(
        cls,
        ws: str,
        username: str | None = None,
        *,
        token: str | None = None,
        syncing: bool = False,
        protocols: Sequence[str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """Connect to *ws* as a guest, or with a token in the header. Raises `InvalidStatus` when refused.

        *syncing* offers the subprotocol of clients that hold positions, *protocols* others in its place.
        """
        offered = [SYNCING] if syncing else protocols
        socket = await connect(
            ws if username is None else f"{ws}?username={quote(username)}",
            additional_headers={**(headers or {}), **({} if token is None else {"Authorization": f"Bearer {token}"})},
            subprotocols=None if offered is None else [Subprotocol(name) for name in offered],
            compression=None,
            proxy=None,
            ping_interval=None,
            max_size=None,
            max_queue=None,
            open_timeout=20,
            close_timeout=5,
        )
        return cls(socket)

    async def say(self, content: str, recipient: str | None = None, **fields: Any) -> dict[str, Any]:
        """Send a message with a key of its own; its acknowledgement."""
        command: dict[str, Any] = {"type": "send", "id": new_key(), "content": content, **fields}
        if recipient is not None:
            command["recipient"] = recipient
        return await self.ask("ack", **command)

    async def ask(self, answer: str, /, **command: Any) -> dict[str, Any]:
        """Send a command with an `id`, and wait for its answer of type *answer*."""
        command.setdefault("id", f"ask-{uuid.uuid4().hex}")
        await self.send(**command)
        return await self.take(answer, id=command["id"])

    async def send(self, /, **command: Any) -> None:
        """Write a command."""
        await self.socket.send(json.dumps(command))

    async def take(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The first unread event of type *kind* with these *fields*; those before it stay unread.

        Raises `NothingCame`.
        """
        event = await self.peek(kind, **fields)
        self._unread.remove(event)
        return event

    async def peek(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The same, and it stays unread. Raises `NothingCame`."""
        try:
            async with asyncio.timeout(TAKE_SECONDS):
                while True:
                    self._news.clear()
                    for event in self._unread:
                        if event["type"] == kind and all(event.get(name) == value for name, value in fields.items()):
                            return event
                    if self._reader.done():
                        break
                    await self._news.wait()
        except TimeoutError:
            pass
        state = f"closed with {self.socket.close_code}" if self._reader.done() else "open"
        raise NothingCame(f"no {kind} with {fields}; the connection is {state} and said {self.heard}")

    def unread(self, kind: str) -> list[dict[str, Any]]:
        """Take all that came and was not taken, of one type."""
        found = [event for event in self._unread if event["type"] == kind]
        self._unread = [event for event in self._unread if event["type"] != kind]
        return found

    async def settled(self) -> None:
        """Return when all that this session was to be told before now has been told."""
        await self.ask("pong", type="ping")

    async def closed(self) -> tuple[int | None, str | None]:
        """Wait until the server has closed; its code and reason."""
        async with asyncio.timeout(TAKE_SECONDS):
            await asyncio.wait([self._reader])
        return self.socket.close_code, self.socket.close_reason

    async def close(self) -> None:
        """Close and wait for the end."""
        await self.socket.close()
        await asyncio.wait([self._reader])

    def cut(self) -> None:
        """Break the connection without a word, as a network does."""
        self.socket.transport.abort()

    async def _read(self) -> None:
        with suppress(ConnectionClosed):
            async for text in self.socket:
                event = json.loads(text)
                self.heard.append(event)
                self._unread.append(event)
                self._news.set()
        self._news.set()


@asynccontextmanager
async def connection(ws: str, username: str | None = None, **options: Any) -> AsyncIterator[Connection]:
    """A `Connection` that has had its welcome, closed at the end."""
    opened = await Connection.open(ws, username, **options)
    try:
        await opened.take("welcome")
        yield opened
    finally:
        await opened.close()


async def open_on(ws: str, username: str, wanted: Callable[[str], bool], **options: Any) -> Connection:
    """A `Connection` to a shard that is *wanted* (its name: ``shard-0``): the kernel chooses, so one tries.

    Its welcome is unread.
    """
    while True:
        opened = await Connection.open(ws, username, **options)
        if wanted(shard_of(await opened.peek("welcome"))):
            return opened
        await opened.close()


def shard_of(welcome: dict[str, Any]) -> str:
    """The name of the shard that a session is on: ``shard-0.<its life>-<number>`` is the session's id."""
    return str(welcome["session"]).partition(".")[0]


def new_key() -> str:
    """A key for a message."""
    return uuid.uuid4().hex


@dataclass
class _Gap:
    """What a sync cut off: the events of ``(after, to]``, asked for at *due*."""

    conversation: str
    after: int
    to: int
    due: float = 0.0


class Device:
    """One device of one user that wants to be connected, until `close`.

    It follows `hubbub.protocol.client.Client`, asks by itself for what a sync cut off, and keeps what it
    applied: `applied` by conversation, in the order of the conversation's history.
    """

    def __init__(self, ws: str, username: str, *, patience: float = 20.0, rng: random.Random | None = None) -> None:
        self.username = username
        self.core = rule.Client(new_key)
        self.applied: defaultdict[str, list[rule.Applied]] = defaultdict(list)
        self.from_seq: dict[str, int] = {}  # where `applied` begins
        self.acknowledged: dict[str, messages.Ack] = {}
        self.rejected: list[messages.Error] = []
        self.counts: Counter[str] = Counter()
        self.shard = ""
        self._ws = f"{ws}?username={quote(username)}"
        self._patience = patience
        self._rng = rng or random.Random()
        self._socket: ClientConnection | None = None
        self._out: asyncio.Queue[bytes] | None = None
        self._sent: set[str] = set()
        self._gaps: dict[str, _Gap] = {}  # by the id of the history command
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"device of {username}")

    @property
    def settled(self) -> bool:
        """Connected, synced, nothing unacknowledged, nothing missing."""
        return self.core.settled and not self._gaps

    def send(self, content: str, recipient: str | None = None) -> str:
        """Say something; it goes out until it is acknowledged. Returns its key."""
        key = self.core.send(content, recipient, time.monotonic())
        self._flush()
        return key

    async def outcome(self, key: str) -> messages.Ack | None:
        """Wait for the acknowledgement of *key*; None: it was refused for good."""
        while key in self.core.pending:
            await self.changed()
        return self.acknowledged.get(key)

    async def changed(self) -> None:
        """Wait until something has happened here. Raises what ended the device, if anything did."""
        if self._task.done():
            await self._task
        self._changed.clear()
        await self._changed.wait()

    async def until_settled(self, seconds: float = 60.0) -> None:
        """Wait for `settled`. Raises `TimeoutError`."""
        async with asyncio.timeout(seconds):
            while not self.settled:
                await self.changed()

    def forget(self, conversation: str) -> None:
        """Let go of what was applied; later events follow what was there."""
        kept = self.applied[conversation]
        if kept:
            self.from_seq[conversation] = kept[-1].seq
            kept.clear()

    def cut(self) -> None:
        """Break the connection without a word, as a network does; the device comes back by itself."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def close(self) -> None:
        """Disconnect for good. Raises what ended the device before, if anything did."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            await self._task

    async def _run(self) -> None:
        try:
            while True:
                wait_ms = await self._one_connection()
                await asyncio.sleep((self._rng.uniform(0, 300) if wait_ms is None else wait_ms) / 1000)
        finally:
            self._changed.set()

    async def _one_connection(self) -> float | None:
        """Until it ends; for a goodbye the milliseconds until the reconnect."""
        wait_ms: float | None = None
        half = self._patience / 2
        try:
            async with connect(
                self._ws,
                subprotocols=[Subprotocol(SYNCING)],
                compression=None,
                proxy=None,
                ping_interval=half,
                ping_timeout=half,
                max_size=None,
                max_queue=None,
                open_timeout=5,
                close_timeout=0.5,
            ) as socket:
                self._socket, self._out = socket, asyncio.Queue()
                self.core.connected(time.monotonic())
                helpers = [asyncio.create_task(work) for work in (self._tick(socket), self._write(socket, self._out))]
                try:
                    async for text in socket:
                        event = self._take(text.encode() if isinstance(text, str) else text)
                        if isinstance(event, messages.Goodbye):
                            wait_ms = event.reconnect_after_ms if isinstance(event.reconnect_after_ms, int) else 0.0
                finally:
                    for helper in helpers:
                        helper.cancel()
                    await asyncio.wait(helpers)
        except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed):
            self.counts["broken connections"] += 1
        finally:
            self._socket = self._out = None
            self.core.disconnected()
            for gap in self._gaps.values():
                gap.due = 0.0
            self._changed.set()
        return wait_ms

    async def _tick(self, socket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(0.1)
            now = time.monotonic()
            self.core.tick(now)
            for command, gap in self._gaps.items():
                if gap.due <= now and self.core.stage is rule.Stage.LIVE:
                    gap.due = now + rule.ASK_AGAIN
                    ask = messages.History(
                        conversation=gap.conversation, after=gap.after, limit=HISTORY_MAX, id=command
                    )
                    self.core.out.append(msgspec.json.encode(ask))
            self._flush()
            if self.core.stalled(now):
                socket.transport.abort()

    async def _write(self, socket: ClientConnection, out: "asyncio.Queue[bytes]") -> None:
        with suppress(ConnectionClosed):
            while True:
                await socket.send(await out.get(), text=True)

    def _flush(self) -> None:
        if self._out is None:
            return
        for command in self.core.out:
            decoded = messages.decode_command(command)
            if isinstance(decoded, messages.Send):
                key = str(decoded.id)
                self.counts["resent"] += key in self._sent
                self._sent.add(key)
            self._out.put_nowait(command)
        self.core.out.clear()

    def _take(self, data: bytes) -> messages.Event:
        event = messages.decode_event(data)
        match event:
            case messages.HistoryPage() if event.id in self._gaps:
                self._fill(event)
            case messages.Error() if event.id in self._gaps:
                self._gaps[str(event.id)].due = time.monotonic() + 1.0
            case _:
                self.core.event(data, time.monotonic())
        if isinstance(event, messages.Welcome):
            self.counts["connections"] += 1
            self.shard = event.session.partition(".")[0]
        if isinstance(event, messages.Goodbye):
            self.counts[f"goodbye {event.code}"] += 1
        for news in self.core.news:
            self._note(news)
        self.core.news.clear()
        self._flush()
        self._changed.set()
        return event

    def _note(self, news: rule.News) -> None:
        match news:
            case rule.Applied():
                self.applied[news.conversation].append(news)
            case rule.Started():
                self.from_seq[news.conversation] = news.seq
            case rule.Skipped():
                self.counts["truncated"] += 1
                self._gaps[f"gap-{new_key()}"] = _Gap(news.conversation, news.after, news.to)
            case rule.Acknowledged():
                self.acknowledged[news.key] = news.ack
                self.counts["duplicate acks"] += news.ack.duplicate
            case rule.Rejected():
                self.rejected.append(news.error)
            case rule.Discarded():
                self.applied.clear()
                self.from_seq.clear()
                self._gaps.clear()

    def _fill(self, page: messages.HistoryPage) -> None:
        """What a sync cut off goes before what was applied since."""
        gap = self._gaps.pop(str(page.id))
        found = [messages.decode_event(bytes(raw)) for raw in page.events]
        part = [_applied(one) for one in found if isinstance(one, messages.Message) and one.seq <= gap.to]
        kept = self.applied[gap.conversation]
        at = next((i for i, one in enumerate(kept) if one.seq > gap.after), len(kept))
        kept[at:at] = part
        if page.to < gap.to:
            self._gaps[f"gap-{new_key()}"] = _Gap(gap.conversation, page.to, gap.to)


def _applied(event: messages.Message) -> rule.Applied:
    return rule.Applied(
        event.conversation,
        event.seq,
        event.id,
        event.sender,
        event.recipient if isinstance(event.recipient, str) else None,
        event.content,
        event.timestamp,
        event.ordinal,
        event.client_id if isinstance(event.client_id, str) else None,
    )
