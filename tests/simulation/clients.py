"""The people: devices that follow the client's rule, and plain ones that only listen."""

import re
from typing import TYPE_CHECKING

import msgspec

from hubbub.protocol import messages
from hubbub.protocol.client import (
    Acknowledged,
    Applied,
    Client,
    Discarded,
    Rejected,
    Skipped,
    Started,
    conversation_of,
)
from hubbub.protocol.client import Stage as ClientStage
from hubbub.protocol.conversation import LOBBY
from tests.simulation.ledger import Ledger, Message, Violation
from tests.simulation.network import Stream
from tests.simulation.world import Node, World

if TYPE_CHECKING:
    from tests.simulation.nodes import ShardNode

_HANDSHAKE_SECONDS = 5.0
_SEND_ID = re.compile(rb'^\{"type":"send".*"id":"([^"]+)"')
_encode = msgspec.json.Encoder().encode


class Device(Node):
    """A connection and its renewal. Subclasses say what is done with what arrives."""

    syncing = True

    def __init__(self, world: World, name: str, username: str, shards: list["ShardNode"], ledger: Ledger) -> None:
        super().__init__(world, name)
        self.username = username
        self.ledger = ledger
        self.stream: Stream | None = None
        self.by_key: dict[str, Message] = {}
        self.period = 0.25
        self.reconnects = 0
        self._shards = shards
        self._attempt = 0

    def born(self) -> None:
        self.connect()
        self.ticked()

    # --- the connection -----------------------------------------------------------------------------

    def connect(self) -> None:
        """Try one of the shards."""
        if self.stream is not None:
            return
        self._attempt += 1
        world = self.world
        shard = world.rng.choice(self._shards)
        if shard.alive:
            world.push(world.now + world.delay(), shard, shard.accept, self, self._attempt)
            self.after(_HANDSHAKE_SECONDS, self.refused, self._attempt)
        else:
            self.after(world.delay(), self.refused, self._attempt)

    def refused(self, attempt: int) -> None:
        """No connection came of this attempt."""
        if attempt == self._attempt and self.stream is None:
            self._attempt += 1
            self.after(0.05 + 0.7 * self.world.rng.random(), self.connect)

    def opened(self, stream: Stream, attempt: int) -> None:
        """The handshake is done."""
        if attempt != self._attempt or self.stream is not None or not stream.client_open:
            stream.post_to_server("eof")
            stream.client_open = False
            return
        self._attempt += 1
        self.stream = stream
        if self.world.tracing:
            self.world.log(self.name, f"connected to {stream.shard.name}")
        self.connected()

    def leave(self, *, kindly: bool) -> None:
        """Close the connection; not *kindly*: the server finds out much later, and things get lost."""
        stream = self.stream
        if stream is None:
            return
        world = self.world
        if world.tracing:
            world.log(self.name, "leaves" if kindly else "loses its connection")
        stream.to_client.clear()
        if kindly:
            stream.post_to_server("eof")
        else:
            stream.lose(to_server=True, to_client=True)
            world.push(world.now + 5.0 * world.rng.random(), stream.shard, stream.shard.reset, stream)
        self.cut_off(stream)

    def cut_off(self, stream: Stream) -> None:
        """This side knows that the connection is gone."""
        stream.client_open = False
        if stream is not self.stream:
            return
        self.stream = None
        self.reconnects += 1
        self.disconnected()
        self.after(0.02 + 0.8 * self.world.rng.random(), self.connect)

    def pause(self, seconds: float) -> None:
        """Stop reading for a while."""
        stream = self.stream
        if stream is not None:
            stream.paused = True
            self.after(seconds, self.read_on)

    def read_on(self) -> None:
        """Read again."""
        stream = self.stream
        if stream is not None and stream.paused:
            stream.paused = False
            for _ in range(len(stream.to_client)):
                self.after(0.0, self.heard, stream)

    def heard(self, stream: Stream) -> None:
        """Something may have come."""
        if stream.paused or not stream.client_open or not stream.to_client:
            return
        kind, data = stream.to_client.popleft()
        if kind == "eof":
            if self.world.tracing:
                self.world.log(self.name, "was closed by the server")
            self.cut_off(stream)
        elif kind == "ping":
            stream.post_to_server("pong", data)
        elif stream is self.stream:
            if self.world.tracing and not data.startswith(b'{"type":"welcome"'):
                self.world.log(self.name, f"<- {data.decode()}")
            self.text(data)

    def post(self, data: bytes) -> None:
        """Write a command."""
        if self.stream is not None:
            if self.world.tracing:
                self.world.log(self.name, f"-> {data.decode()}")
            self.stream.post_to_server("text", data)

    # --- for subclasses -----------------------------------------------------------------------------

    def connected(self) -> None:
        """The connection is open."""

    def disconnected(self) -> None:
        """The connection is gone."""

    def text(self, data: bytes) -> None:
        """A message has come."""

    def ticked(self) -> None:
        """From time to time."""

    def say(self, recipient: str | None, content: str, key: str) -> None:
        """A person writes something."""

    @property
    def settled(self) -> bool:
        """Whether nothing is waited for."""
        return True

    def check(self) -> None:
        """Raise `Violation` unless everything that was to come has come."""

    def _note(self, recipient: str | None, content: str, key: str) -> Message:
        message = Message(self.username, conversation_of(self.username, recipient), key, content)
        self.ledger.said(message)
        return message


class SyncingDevice(Device):
    """Follows the rule: `hubbub.protocol.client`."""

    def __init__(self, world: World, name: str, username: str, shards: list["ShardNode"], ledger: Ledger) -> None:
        super().__init__(world, name, username, shards, ledger)
        self.rule = Client(key=_no_key)
        self.starts: dict[str, int] = {}
        self.reached: dict[str, int] = {}

    def connected(self) -> None:
        self.rule.connected(self.world.now)

    def disconnected(self) -> None:
        self.rule.disconnected()

    def text(self, data: bytes) -> None:
        if data.startswith(b'{"type":"error"'):
            error = messages.decode_event(data)
            if isinstance(error, messages.Error) and error.stored == "no" and error.id in self.by_key:
                self.ledger.refused(self.by_key[str(error.id)])
        self.rule.event(data, self.world.now)
        self._after()

    def ticked(self) -> None:
        self.rule.tick(self.world.now)
        if self.rule.stalled(self.world.now):
            self.ledger.stats["stalled"] += 1
            self.leave(kindly=False)
        self._after()
        self.after(self.period, self.ticked)

    def say(self, recipient: str | None, content: str, key: str) -> None:
        self.by_key[key] = self._note(recipient, content, key)
        self.rule.send(content, recipient, self.world.now, key)
        self._after()

    def read(self) -> None:
        """A person looks at everything."""
        for conversation in self.reached:
            self.rule.read(conversation)
        self._after()

    def resync(self) -> None:
        """Sync again on the open connection."""
        if self.rule.stage is ClientStage.LIVE:
            self.rule.sync(self.world.now)
            self._after()

    def forget(self) -> None:
        """The device is wiped; a new one takes its place."""
        self.leave(kindly=True)
        self.rule = Client(key=_no_key)
        self.starts, self.reached = {}, {}

    def _after(self) -> None:
        rule = self.rule
        if rule.out:
            out, rule.out = rule.out, []
            for data in out:
                found = _SEND_ID.match(data)
                if found is not None:
                    self.ledger.posts[self.by_key[found[1].decode()]] += 1
                self.post(data)
        if rule.news:
            all_news, rule.news = rule.news, []
            for news in all_news:
                self._learn(news)

    def _learn(self, news: object) -> None:
        ledger, user = self.ledger, self.username
        match news:
            case Applied():
                ledger.check_event(user, news)
                if self.reached[news.conversation] + 1 != news.seq:
                    raise Violation(f"order: {self.name} applied {news} after #{self.reached[news.conversation]}")
                self.reached[news.conversation] = news.seq
                ledger.received(user, news.conversation, news.seq)
            case Started(conversation, seq):
                if conversation in self.reached:
                    raise Violation(f"order: {self.name} began {conversation} twice")
                self.starts[conversation] = self.reached[conversation] = seq
                ledger.skipped(user, conversation, 0, seq)
            case Skipped(conversation, after, to):
                if self.reached[conversation] != after:
                    raise Violation(f"order: {self.name} skips {news} at #{self.reached[conversation]}")
                self.reached[conversation] = to
                ledger.skipped(user, conversation, after, to)
                ledger.stats["skips"] += 1
            case Acknowledged(key, ack):
                ledger.acked(self.by_key[key], ack)
            case Rejected(_, error):
                ledger.stats[f"rejected {error.code}"] += 1
            case Discarded():
                raise Violation(f"epoch: {self.name} was told of another epoch")

    @property
    def settled(self) -> bool:
        return self.rule.settled

    def check(self) -> None:
        database = self.ledger.database
        for conversation in database.rows:
            user_part = conversation == LOBBY or self.username in conversation.split(":")[1:]
            if user_part and self.reached.get(conversation, 0) != database.end(conversation):
                has = self.reached.get(conversation)
                raise Violation(f"lost: {self.name} has {conversation} up to {has} of {database.end(conversation)}")


class PlainDevice(Device):
    """Websocat: says something, and shows what comes. Answers pings, knows no positions."""

    syncing = False

    def __init__(self, world: World, name: str, username: str, shards: list["ShardNode"], ledger: Ledger) -> None:
        super().__init__(world, name, username, shards, ledger)
        self.pending: dict[str, bytes] = {}
        self._own: set[tuple[str, int]] = set()  # acknowledged on this connection
        self._last: dict[str, int] = {}

    def connected(self) -> None:
        for key, data in self.pending.items():
            self.ledger.posts[self.by_key[key]] += 1
            self.post(data)

    def disconnected(self) -> None:
        self._own = set()
        self._last = {}

    def say(self, recipient: str | None, content: str, key: str) -> None:
        if self.stream is None:
            return
        message = self._note(recipient, content, key)
        command = {"content": content} if recipient is None else {"content": content, "recipient": recipient}
        if key:
            command["id"] = key
        data = _encode(command)
        self.ledger.posts[message] += 1
        if key:
            self.by_key[key] = message
            self.pending[key] = data
        self.post(data)

    def text(self, data: bytes) -> None:
        event = messages.decode_event(data)
        if isinstance(event, messages.Message):
            self._shown(event)
        elif isinstance(event, messages.Ack):
            self._own.add((event.conversation, event.seq))
            self.ledger.received(self.username, event.conversation, event.seq)
            key = event.id if isinstance(event.id, str) else ""
            self.pending.pop(key, None)
            if key:
                self.ledger.acked(self.by_key[key], event)
        elif isinstance(event, messages.Error) and isinstance(event.id, str) and event.id in self.by_key:
            if event.stored == "no":
                self.ledger.refused(self.by_key[event.id])
            if event.temporary:
                self.after(1.0, self._again, event.id)
            else:
                self.pending.pop(event.id, None)

    def _again(self, key: str) -> None:
        if key in self.pending and self.stream is not None:
            self.ledger.posts[self.by_key[key]] += 1
            self.post(self.pending[key])

    def _shown(self, event: messages.Message) -> None:
        conversation, seq = event.conversation, event.seq
        last = self._last.get(conversation)
        if last is not None:
            if seq <= last:
                raise Violation(f"order: {self.name} was shown {conversation} #{seq} after #{last} on one connection")
            for missed in range(last + 1, seq):
                if not self._known(conversation, missed):
                    raise Violation(f"hole: {self.name} was shown {conversation} #{seq}, but not #{missed}")
        self._last[conversation] = seq
        self.ledger.check_event(
            self.username, Applied(conversation, seq, event.id, event.sender, None, event.content, "", None, None)
        )
        self.ledger.received(self.username, conversation, seq)

    def _known(self, conversation: str, seq: int) -> bool:
        # What was confirmed by another device, or late by an earlier connection, no backlog brings again.
        return (conversation, seq) in self._own or self.ledger.has(self.username, conversation, seq)

    @property
    def settled(self) -> bool:
        return self.stream is not None and not self.pending

    def check(self) -> None:
        database = self.ledger.database
        for conversation, last in self._last.items():
            end = database.end(conversation)
            for seq in range(last + 1, end + 1):
                if not self._known(conversation, seq):
                    raise Violation(f"lost: {self.name} was shown {conversation} up to {last} of {end} only")


def _no_key() -> str:
    raise AssertionError("the simulator gives every message its key")
