"""One benchmark client, and the checks that every frame it receives must pass.

The generator shares the machine with the server, so the path of a frame is kept short: a prefix test
and two searches instead of a JSON decoder. What does not look as expected takes the slow path, which
decodes; a server that orders its fields differently is slower to measure, never measured wrongly.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from time import perf_counter
from urllib.parse import quote

import msgspec
import picows

from hubbub.protocol.conversation import LOBBY, direct

KEY_LENGTH = 24  # a run's 8 hex digits and 16 digits of a counter; the protocol wants 16 to 64
CONNECT_TIMEOUT = 60.0  # seconds; a connection storm may queue for long without being an error

_ACK = b'{"type":"ack","id":"'
_ACK_KEY = slice(len(_ACK), len(_ACK) + KEY_LENGTH)
_MESSAGE = b'{"type":"message",'
_CONVERSATION = b'"conversation":"'
_SEQ = b'","seq":'
_CONTENT = b'"content":"'
# A message to the lobby arrives once for each client: where its conversation and seq stand is looked up by
# its first bytes, which hold both, so that they are searched for once. It halves the cost of a frame.
_HEAD = 80
_HEADS_KEPT = 4096


class Tally:
    """What was sent, acknowledged and delivered in a run, and everything that was wrong with it.

    Every client sees each of its conversations' seqs without a hole, its own messages as
    acknowledgements. So a repeated, missing or misplaced delivery shows at once or in `settle`.
    """

    def __init__(self, run: str) -> None:
        if len(run) != 8:
            raise ValueError("a run's name has 8 characters")
        self._prefix = run.encode()
        self._keys = 0
        self.sending = False  # whether an answered send is followed by the next
        self.recording = False  # whether latencies are kept: between warm-up and the end of the window
        self.sent = 0
        self.acked = 0
        self.delivered = 0
        self.ack_seconds: list[float] = []
        self.delivery_seconds: list[float] = []
        self.sent_at: dict[bytes, float] = {}  # key -> perf_counter(), for the latency of deliveries
        self.tops: dict[bytes, int] = {}  # conversation -> highest acknowledged seq
        self.problems: Counter[str] = Counter()
        self.heads: dict[bytes, tuple[bytes, int, int]] = {}

    def next_key(self) -> bytes:
        """A key that no send of this or another run has."""
        self._keys += 1
        return b"%b%016d" % (self._prefix, self._keys)

    def settled(self, clients: Iterable["Client"]) -> bool:
        """Whether every send was answered and every acknowledged message has reached its recipients."""
        return all(not c.unanswered and not c.behind() for c in clients)

    def settle(self, clients: Iterable["Client"]) -> None:
        """Count what is still missing, once waiting for it makes no more sense."""
        for client in clients:
            self.problems["unacknowledged"] += len(client.unanswered)
            self.problems["missing"] += client.behind()
            self.problems["disconnected"] += client.closed

    @property
    def clean(self) -> bool:
        """Whether nothing at all was wrong."""
        return not any(self.problems.values())


class Client(picows.WSListener):
    """A connection that syncs, sends in a closed loop and checks all it is sent.

    `recipients`: whom it writes to in turn; ``None`` is the lobby. `timed`: whether the latency of the
    deliveries it receives is kept; with a thousand listeners to one message a sample of them is enough.
    """

    def __init__(self, tally: Tally, username: str, *, content_bytes: int = 100, timed: bool = True) -> None:
        if content_bytes < KEY_LENGTH:
            raise ValueError(f"the content carries a key of {KEY_LENGTH} bytes")
        self.username = username
        self.timed = timed
        self.closed = False
        self.unanswered: dict[bytes, float] = {}
        self.positions: dict[bytes, int] = {}
        self.welcomed: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.synced: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._tally = tally
        self._leaving = False
        self._live = False
        self._transport: picows.WSTransport | None = None
        self._padding = b"x" * (content_bytes - KEY_LENGTH) + b'"'
        self._tails: list[bytes] = []
        self._conversations: set[bytes] = set()
        self._turn = 0

    # --- the connection -----------------------------------------------------------------------------

    async def connect(self, url: str) -> None:
        """Open the WebSocket and wait for `welcome`. Raises `ConnectionError`, `TimeoutError` or `picows.WSError`."""
        await picows.ws_connect(
            lambda: self,
            f"{url}/ws?username={quote(self.username)}",
            extra_headers={"Sec-WebSocket-Protocol": "hubbub.v1"},
            websocket_handshake_timeout=CONNECT_TIMEOUT,
        )
        await asyncio.wait_for(self.welcomed, CONNECT_TIMEOUT)

    async def sync(self) -> None:
        """Say that this client keeps its own positions, and wait for `synced`."""
        self._send(b'{"type":"sync"}')
        await asyncio.wait_for(self.synced, CONNECT_TIMEOUT)

    def close(self) -> None:
        """Leave; what the server says from here on is no problem any more."""
        self._leaving = True
        if self._transport is not None:
            self._transport.disconnect()

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Keep the transport (picows calls this)."""
        self._transport = transport

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Note a connection lost against our will (picows calls this)."""
        self.closed = not self._leaving
        for future in (self.welcomed, self.synced):
            if not future.done():
                future.set_exception(ConnectionError(f"{self.username}: the server closed the connection"))
                future.exception()  # whoever waits still gets it; nobody waiting is no reason for a warning

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Take one frame (picows calls this)."""
        if frame.msg_type == picows.WSMsgType.TEXT:
            self.feed(frame.get_payload_as_bytes())
        elif frame.msg_type == picows.WSMsgType.CLOSE and not self._leaving:
            self._tally.problems[f"closed by the server with {frame.get_close_code()}"] += 1

    def _send(self, payload: bytes) -> None:
        if self._transport is not None:
            self._transport.send(picows.WSMsgType.TEXT, payload)

    # --- sending ------------------------------------------------------------------------------------

    def listen(self, conversation: str) -> None:
        """Expect every message of *conversation*."""
        self._conversations.add(conversation.encode())

    def write_to(self, recipients: list[str | None]) -> None:
        """Take turns among *recipients*; ``None`` is the lobby."""
        for name in recipients:
            self.listen(LOBBY if name is None else direct(self.username, name))
            self._tails.append(b"}" if name is None else b',"recipient":"%b"}' % name.encode())

    def send_next(self) -> None:
        """Send one message; with `Tally.sending` its answer sends the next."""
        key = self._tally.next_key()
        tail = self._tails[self._turn]
        self._turn = (self._turn + 1) % len(self._tails)
        now = perf_counter()
        self.unanswered[key] = now
        self._tally.sent_at[key] = now
        self._tally.sent += 1
        self._send(b'{"type":"send","id":"%b","content":"%b%b%b' % (key, key, self._padding, tail))

    # --- receiving ----------------------------------------------------------------------------------

    def behind(self) -> int:
        """How many acknowledged messages of its conversations have not reached this client."""
        tops = self._tally.tops
        return sum(max(0, tops.get(name, 0) - self.positions.get(name, 0)) for name in self._conversations)

    def feed(self, payload: bytes) -> None:
        """Take the text of one frame."""
        if payload.startswith(_ACK):
            conversation, seq, _ = _place(payload)
            if conversation:
                self._acked(payload[_ACK_KEY], conversation, seq)
                return
        elif payload.startswith(_MESSAGE):
            place = self._tally.heads.get(payload[:_HEAD])
            conversation, seq, end = place or self._place_and_keep(payload)
            if conversation:
                if not self._live:
                    return  # the past, before `synced`; its positions follow
                if self._advance(conversation, seq):
                    self._tally.delivered += 1
                    if self.timed:
                        at = payload.find(_CONTENT, end) + len(_CONTENT)
                        self._time(payload[at : at + KEY_LENGTH], conversation)
                return
        self._feed_slowly(payload)

    def _place_and_keep(self, payload: bytes) -> tuple[bytes, int, int]:
        place = _place(payload)
        if 0 < place[2] < _HEAD:
            heads = self._tally.heads
            if len(heads) >= _HEADS_KEPT:
                heads.clear()
            heads[payload[:_HEAD]] = place
        return place

    def _acked(self, key: bytes, conversation: bytes, seq: int) -> None:
        tally = self._tally
        sent_at = self.unanswered.pop(key, None)
        if sent_at is None:
            tally.problems["acknowledged twice or never sent"] += 1
            return
        tally.acked += 1
        if tally.recording:
            tally.ack_seconds.append(perf_counter() - sent_at)
        if seq > tally.tops.get(conversation, 0):
            tally.tops[conversation] = seq
        self._advance(conversation, seq)
        if tally.sending:
            self.send_next()

    def _advance(self, conversation: bytes, seq: int) -> bool:
        """Move the position as a client does; whether *seq* was new."""
        position = self.positions.get(conversation, 0)
        if seq <= position:
            self._tally.problems["delivered twice or out of order"] += 1
            return False
        if seq > position + 1:
            self._tally.problems["missing"] += seq - position - 1
        self.positions[conversation] = seq
        return True

    def _time(self, key: bytes, conversation: bytes) -> None:
        # A direct message has one recipient, so its entry is done with; the lobby's is asked for again.
        tally = self._tally
        sent_at = tally.sent_at.get(key) if conversation == b"lobby" else tally.sent_at.pop(key, None)
        if sent_at is None:
            tally.problems["delivered but not sent by us"] += 1
        elif tally.recording:
            tally.delivery_seconds.append(perf_counter() - sent_at)

    def _feed_slowly(self, payload: bytes) -> None:
        event = msgspec.json.decode(payload)
        match event["type"]:
            case "ack":
                self._acked(event["id"].encode(), event["conversation"].encode(), event["seq"])
            case "message":
                conversation = event["conversation"].encode()
                if self._live and self._advance(conversation, event["seq"]):
                    self._tally.delivered += 1
                    if self.timed:
                        self._time(event["content"][:KEY_LENGTH].encode(), conversation)
            case "welcome":
                _resolve(self.welcomed)
            case "synced":
                for known in event["conversations"]:
                    self.positions[known["conversation"].encode()] = known["to"]
                self._live = True
                _resolve(self.synced)
            case "error":
                self._refused(event)
            case "goodbye":
                self._tally.problems[f"goodbye {event['code']}"] += 1
            case _:
                pass  # receipts, presence and what later versions add

    def _refused(self, event: dict[str, object]) -> None:
        self._tally.problems[f"error {event['code']}"] += 1
        self.unanswered.pop(str(event.get("id", "")).encode(), None)
        if self._tally.sending and self._tails:
            # Keeps the number in flight up without hammering a server that has just said no.
            asyncio.get_running_loop().call_later(0.1, self._send_if_still_sending)

    def _send_if_still_sending(self) -> None:
        if self._tally.sending:
            self.send_next()


def _place(payload: bytes) -> tuple[bytes, int, int]:
    """Conversation, seq and where the seq ends; an empty conversation when they do not stand side by side."""
    start = payload.find(_CONVERSATION) + len(_CONVERSATION)
    middle = payload.find(_SEQ, start)
    if middle < 0 or start < len(_CONVERSATION):
        return b"", 0, 0
    end = payload.find(b",", middle + len(_SEQ))
    return payload[start:middle], int(payload[middle + len(_SEQ) : end]), end


def _resolve(future: "asyncio.Future[float]") -> None:
    if not future.done():
        future.set_result(perf_counter())


async def open_all(
    clients: list[Client],
    url: str,
    *,
    concurrency: int,
    sync: bool = True,
    progress: Callable[[int], None] | None = None,
) -> list[tuple[float, float]]:
    """Connect all *clients*, *concurrency* at a time.

    Returns for each the seconds to `welcome` and to `synced` (equal without *sync*), from the moment its
    TCP connection was begun.
    """
    queue = iter(clients)
    times: list[tuple[float, float]] = []

    async def work() -> None:
        for client in queue:
            began = perf_counter()
            await client.connect(url)
            welcomed = client.welcomed.result()
            if sync:
                await client.sync()
            times.append((welcomed - began, perf_counter() - began if sync else welcomed - began))
            if progress is not None and len(times) % 1000 == 0:
                progress(len(times))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(clients))):
            group.create_task(work())
    return times
