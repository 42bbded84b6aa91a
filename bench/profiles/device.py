"""One user's only device: the reference client on a connection that is cut, refused and made again.

The rule of `hubbub.protocol.client` decides what is applied and what is sent again; here bytes are moved, and what
happened is told to the `Ledger` (the promise) and the `Meter` (the times).
"""

import asyncio
import random
import socket
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from urllib.parse import quote

import picows

from bench.profiles.ledger import Ledger
from hubbub.protocol import client as rule
from hubbub.protocol import messages

# A storm may queue for long without being an error; the server gives up its own requests after ten seconds.
HANDSHAKE_TIMEOUT = 15.0
# In place of the time of a message that had to wait for its sender's next connection: it measures no server.
INTERRUPTED = 0.0
# Until a welcome says better.
BACKOFF = messages.ReconnectTimes(min_ms=200, max_ms=10_000)
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: closing sends RST and leaves no TIME_WAIT behind
_ERROR = b'{"type":"error"'
_GOODBYE = b'{"type":"goodbye"'
_WELCOME = b'{"type":"welcome"'


@dataclass
class Replay:
    """One reconnect: *began* (perf_counter) with the first attempt, *seconds* to synced with all missed applied."""

    began: float
    seconds: float
    attempts: int
    missed: int


@dataclass
class Meter:
    """Times and counts of a whole crowd, in seconds."""

    replays: list[Replay] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)  # when each connection was welcomed
    failed: Counter[str] = field(default_factory=Counter)  # connection attempts that came to nothing
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)  # sends: (code, what was said of `stored`)
    closed: Counter[int] = field(default_factory=Counter)  # by the server, by code


class Device(picows.WSListener):
    """A user who stays away after a loss for as long as the server or `cut` says, else backs off with full jitter.

    *deliveries* and *acks*, where set, collect seconds: of what was sent while this device was live.
    """

    def __init__(self, url: str, username: str, ledger: Ledger, meter: Meter, rng: random.Random) -> None:
        self.username = username
        self.shard = ""
        self.core = rule.Client(lambda: "")  # every send brings its key
        self.deliveries: list[float] | None = None
        self.acks: list[float] | None = None
        self.connections = 0
        self.eager = False  # the first attempt after a loss is made at once
        self._url = f"{url}/ws?username={quote(username)}"
        self._ledger = ledger
        self._meter = meter
        self._rng = rng
        self._ends: dict[str, int] = {}
        self._transport: picows.WSTransport | None = None
        self._gone: asyncio.Future[None] | None = None
        self._backoff = BACKOFF
        self._attempts = 0
        self._away: float | None = None
        self._began: float | None = None
        self._live_since = 0.0
        self._missed = 0
        self._leaving = False

    @property
    def live(self) -> bool:
        """Whether it is synced."""
        return self.core.stage is rule.Stage.LIVE

    # --- what a person and the network do -----------------------------------------------------------

    def say(self, key: str, content: str, recipient: str | None) -> None:
        """Send a message; it is sent until it is acknowledged."""
        now = perf_counter()
        self._ledger.sent[key] = now if self.live else INTERRUPTED
        self.core.send(content, recipient, now, key)
        self._flush()

    def tick(self) -> None:
        """What is due by the clock."""
        now = perf_counter()
        if self.core.stalled(now):
            self._meter.failed[f"stalled {self.core.stage.value}"] += 1
            self.cut(None)
            return
        self.core.tick(now)
        self._flush()

    def cut(self, away: float | None) -> None:
        """Break the TCP connection without a word, half of the time by RST, and stay away for *away* seconds."""
        if self._transport is None:
            return
        self._away = away
        if self._rng.random() < 0.5:
            with suppress(OSError):
                plain = self._transport.underlying_transport.get_extra_info("socket")
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.underlying_transport.abort()

    def leave(self) -> None:
        """Go for good."""
        self._leaving = True
        if self._transport is not None:
            self._transport.underlying_transport.abort()

    async def run(self) -> None:
        """Connect, and again after each loss, until `leave`."""
        while not self._leaving:
            if self._began is None:
                self._began = perf_counter()
            self._gone = asyncio.get_running_loop().create_future()
            try:
                await picows.ws_connect(
                    lambda: self,
                    self._url,
                    extra_headers={"Sec-WebSocket-Protocol": "hubbub.v1"},
                    websocket_handshake_timeout=HANDSHAKE_TIMEOUT,
                    # Its transports watch descriptors as the shards do, and uvloop then never tells of a reset right
                    # behind data: a client would go on believing in a shard that was killed.
                    use_aiofastnet=False,
                )
                await self._gone
            except (OSError, TimeoutError, picows.WSError) as exc:
                response = exc.response if isinstance(exc, picows.WSInvalidStatusError) else None
                self._meter.failed[type(exc).__name__ if response is None else f"HTTP {int(response.status)}"] += 1
            if not self._leaving:
                await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        """Seconds until the next attempt."""
        away, self._away = self._away, None
        self._attempts += 1
        if away is not None:
            return away
        if self.eager and self._attempts == 1:
            return 0.0
        return backoff(self._backoff, self._attempts, self._rng)

    # --- the connection -----------------------------------------------------------------------------

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """The handshake is done (picows calls this)."""
        self._transport = transport
        self.core.connected(perf_counter())

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """The connection is gone (picows calls this)."""
        if transport is not self._transport:
            return
        self._transport = None
        self._ledger.sent |= dict.fromkeys(self.core.pending, INTERRUPTED)
        self.core.disconnected()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Take one frame (picows calls this)."""
        if frame.msg_type == picows.WSMsgType.TEXT:
            self.feed(frame.get_payload_as_bytes(), perf_counter())
        elif frame.msg_type == picows.WSMsgType.CLOSE:
            self._meter.closed[_code(frame)] += 1
            transport.underlying_transport.abort()

    def feed(self, payload: bytes, now: float) -> None:
        """Take the text of one frame."""
        if payload.startswith((_ERROR, _GOODBYE, _WELCOME)):
            self._note(payload, now)
        core = self.core
        core.event(payload, now)
        if core.out:
            self._flush()
        if core.news:
            for news in core.news:
                self._learn(news, now)
            core.news.clear()
        if self._began is not None and core.stage is rule.Stage.LIVE:
            if self.connections > 1:
                self._meter.replays.append(Replay(self._began, now - self._began, self._attempts, self._missed))
            self._began = None
            self._attempts = self._missed = 0
            self._live_since = now

    def _note(self, payload: bytes, now: float) -> None:
        event = messages.decode_event(payload)
        if isinstance(event, messages.Error):
            if isinstance(event.stored, str):
                self._meter.refused[event.code, event.stored] += 1
        elif isinstance(event, messages.Welcome):
            self.connections += 1
            self.shard = event.session.partition(".")[0]
            self._backoff = event.reconnect
            self._meter.opened.append(now)
        elif isinstance(event, messages.Goodbye) and isinstance(event.reconnect_after_ms, int):
            self._away = event.reconnect_after_ms / 1000

    def _learn(self, news: rule.News, now: float) -> None:
        ledger = self._ledger
        match news:
            case rule.Applied():
                name = news.conversation
                ledger.apply(self.username, name, self._ends.get(name, 0), news.seq, news.key)
                self._ends[name] = news.seq
                if self._began is not None:
                    self._missed += 1
                elif self.deliveries is not None and news.key is not None and news.sender != self.username:
                    sent_at = ledger.sent.get(news.key, 0.0)
                    if sent_at > self._live_since:
                        self.deliveries.append(now - sent_at)
            case rule.Acknowledged():
                ledger.acknowledge(news.key, news.ack.conversation, news.ack.seq)
                sent_at = ledger.sent[news.key]
                if self.acks is not None and sent_at > self._live_since:
                    self.acks.append(now - sent_at)
            case rule.Started():
                self._ends[news.conversation] = news.seq
            case rule.Skipped():
                ledger.complain("lost", f"{self.username} was not told {news}", news.to - news.after)
                self._ends[news.conversation] = news.to
            case rule.Rejected():
                ledger.complain("refused", f"{self.username} was told {news.error}")
            case rule.Discarded():
                ledger.complain("lost", f"{self.username} had to discard everything: {news}")

    def _flush(self) -> None:
        core = self.core
        if self._transport is not None:
            for command in core.out:
                self._transport.send(picows.WSMsgType.TEXT, command)
        core.out.clear()


def backoff(times: messages.ReconnectTimes, attempt: int, rng: random.Random) -> float:
    """Seconds before the next attempt, by full jitter within bounds that double with each."""
    bound = min(times.max_ms, times.min_ms << min(attempt, 30))
    return (times.min_ms + rng.random() * (bound - times.min_ms)) / 1000


def _code(frame: picows.WSFrame) -> int:
    code = frame.get_close_code()
    return 1005 if code is None else int(code.value if isinstance(code, picows.WSCloseCode) else code)
