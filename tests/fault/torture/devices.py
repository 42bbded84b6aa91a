"""A client that writes down everything it does and is told."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import msgspec

from hubbub.protocol import client as rule
from hubbub.protocol import messages
from tests.fault.torture import record
from tests.fault.torture.record import History
from tests.integration.client import Device, new_key

# Unacknowledged messages of one device beyond which it says nothing new.
UNDER_WAY = 4
_WATCH = "watch"  # the id of the command, and so of its answer


class Clock:
    """Seconds since the run began, and the history that it dates."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.history = History()

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    def write(self, make: Callable[..., record.Record], *values: object) -> None:
        """Put ``make(now, *values)`` into the history."""
        self.history.records.append(make(time.monotonic() - self.began, *values))


class Witness(Device):
    """A `Device` with a name, which leaves and comes back, and whose every step is in the history."""

    def __init__(
        self,
        ws: str,
        username: str,
        name: str,
        *,
        clock: Clock,
        patience: float,
        rng: random.Random,
        who_is_online: Callable[[], Awaitable[set[str]]],
    ) -> None:
        self.name = name
        self.contents: dict[str, str] = {}  # key -> what was said under it last, on this device
        self.watched: tuple[str, ...] = ()
        self.around: dict[str, bool] = {}  # who of the watched is said to be online
        self.watching_all = False
        self.everybody: set[str] | None = None  # who is said to be online, for one that watches all; None: not known
        self._who_is_online = who_is_online
        self._question: asyncio.Task[None] | None = None
        self._clock = clock
        self._write_down = clock.write
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._retired = False
        super().__init__(ws, username, patience=patience, rng=rng)

    @property
    def here(self) -> bool:
        """Whether it wants to be connected."""
        return self._wanted.is_set()

    @property
    def free(self) -> bool:
        """Whether it may say something new."""
        return len(self.core.pending) < UNDER_WAY

    def say(self, content: str, recipient: str | None, key: str | None = None) -> str:
        """Say something, under a key that may have been used before; its key."""
        key = key or new_key()
        conversation = rule.conversation_of(self.username, recipient)
        self.contents[key] = content
        self._write_down(record.Said, self.name, key, conversation, content)
        self.core.send(content, recipient, time.monotonic(), key)
        self._flush()
        return key

    def read(self, conversation: str) -> None:
        """A person has seen what is applied there."""
        self.core.read(conversation)
        self._flush()

    def watch(self, users: tuple[str, ...], *, everybody: bool = False) -> None:
        """Ask for the presence of *users*, or of everybody as well, on every connection from now on."""
        self.watched, self.watching_all = users, everybody
        self._ask_for_presence()

    def typing(self, recipient: str) -> None:
        """Tell *recipient* that a person is typing."""
        self._command(messages.Typing(recipient=recipient))

    def pry(self, conversation: str) -> None:
        """Ask for a conversation, whether it is ours or not."""
        self._command(messages.History(conversation=conversation, limit=5, id=f"pry-{new_key()}"))

    def leave(self) -> None:
        """Go offline, as a telephone in a tunnel does."""
        self._wanted.clear()
        self.cut()

    def come_back(self) -> None:
        """Want to be connected again."""
        if not self._retired:
            self._wanted.set()

    def retire(self) -> None:
        """Go offline and never come back: what this device remembers is lost."""
        self._retired = True
        self.leave()

    # --- what a device does by itself, written down -------------------------------------------------------

    async def _until_wanted(self) -> None:
        await self._wanted.wait()

    def _command(self, command: messages.Command) -> None:
        if self.core.stage is rule.Stage.LIVE:
            self.core.out.append(msgspec.json.encode(command))
            self._flush()

    def _ask_for_presence(self) -> None:
        self.around.clear()
        self.everybody = None
        self._write_down(record.Watching, self.name, self.watched)
        self._command(messages.Watch(users=self.watched, lobby=self.watching_all, id=_WATCH))

    def _presence(self, event: messages.Presence) -> None:
        users = {name: state == "online" for name, state in event.users.items()}
        self._write_down(record.Presence, self.name, tuple(users.items()))
        for name, there in users.items():
            if name in self.watched:
                self.around[name] = there
            if self.everybody is not None:
                (self.everybody.add if there else self.everybody.discard)(name)
        if self.watching_all and (event.more or event.id == _WATCH):
            self.everybody = None
            if self._question is not None:
                self._question.cancel()
            self._question = asyncio.create_task(self._ask_for_all(), name="who is online")

    async def _ask_for_all(self) -> None:
        """As a client does: the list by HTTP, and what it is told meanwhile on top of it."""
        heard = len(self._clock.history.records)
        users = await self._who_is_online()
        for one in self._clock.history.records[heard:]:
            if isinstance(one, record.Presence) and one.device == self.name:
                for name, there in one.users:
                    (users.add if there else users.discard)(name)
        self.everybody = users

    def _flush(self) -> None:
        if self._out is not None:
            for encoded in self.core.out:
                match messages.decode_command(encoded):
                    case messages.Send() as send:
                        self._write_down(record.Posted, self.name, str(send.id), send.content)
                    case messages.Received() as said:
                        self._write_down(record.Confirmed, self.name, "received", said.conversation, said.seq)
                    case messages.Read() as said:
                        self._write_down(record.Confirmed, self.name, "read", said.conversation, said.seq)
                    case _:
                        pass
        super()._flush()

    def _take(self, data: bytes) -> messages.Event:
        live = self.core.stage is rule.Stage.LIVE
        connection = self.counts["connections"]
        event = messages.decode_event(data)
        match event:
            case messages.Message():
                place = event.conversation, event.seq, event.id
                self._write_down(record.Arrived, self.name, connection, *place, live)
            case messages.Ack():
                self._acked(event, connection, live)
            case messages.Error() if isinstance(event.stored, str):
                key = str(event.id)
                said = self.name, key, self.contents.get(key, ""), event.code, event.stored, event.temporary
                self._write_down(record.Refused, *said)
            case messages.HistoryPage():
                self._write_down(record.Overheard, self.name, "history", event.conversation)
            case messages.TypingNotice():
                self._write_down(record.Overheard, self.name, "typing", event.conversation)
            case messages.Receipt():
                whose = event.conversation, event.username
                self._write_down(record.Receipt, self.name, connection, *whose, event.delivered_seq, event.read_seq)
            case messages.Presence():
                self._presence(event)
            case _:
                pass
        super()._take(data)
        if isinstance(event, messages.Welcome):
            self._write_down(record.Opened, self.name, self.counts["connections"], self.shard)
        elif isinstance(event, messages.Synced):
            self._synced(event, connection)
            if self.watched or self.watching_all:
                self._ask_for_presence()
        return event

    def _acked(self, ack: messages.Ack, connection: int, live: bool) -> None:
        key = str(ack.id)
        place = ack.conversation, ack.seq, ack.message_id, ack.duplicate
        asked = key in self.core.pending
        self._write_down(record.Acked, self.name, connection, key, self.contents.get(key, ""), *place, asked, live)

    def _synced(self, event: messages.Synced, connection: int) -> None:
        for one in event.conversations:
            self._write_down(record.Reached, self.name, one.conversation, self.core.position(one.conversation) or 0)
            place = one.conversation, one.to, one.last_seq, one.delivered_seq, one.read_seq, one.unread
            self._write_down(record.Synced, self.name, connection, *place)

    def _note(self, news: rule.News) -> None:
        match news:
            case rule.Applied() | rule.Started():
                self._write_down(record.Reached, self.name, news.conversation, news.seq)
            case rule.Skipped():
                self._write_down(record.Reached, self.name, news.conversation, news.to)
            case _:
                pass
        super()._note(news)

    def _disconnected(self) -> None:
        self.everybody = None
        self._write_down(record.Closed, self.name, self.counts["connections"])
