"""What the clients have seen, told against the table: the promise, checked."""

from collections import Counter
from itertools import pairwise
from typing import NamedTuple

from hubbub.protocol import messages
from hubbub.protocol.client import Applied
from hubbub.protocol.conversation import may_read
from tests.simulation.database import Database


class Violation(Exception):
    """The promise was broken."""


class Message(NamedTuple):
    """Something a user said: unique content, and the key it was sent under ("" if the server made one)."""

    user: str
    conversation: str
    key: str
    content: str


class Ledger:
    """Everything that clients were told, from their side of the wire."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.sent: dict[Message, None] = {}
        self.posts: Counter[Message] = Counter()
        self.noes: Counter[Message] = Counter()
        self.acks: list[tuple[Message, messages.Ack]] = []
        self.stats: Counter[str] = Counter()
        self._got: dict[tuple[str, str], set[int]] = {}
        self._reached: dict[tuple[str, str], int] = {}
        self._acked: set[Message] = set()
        self._moved: dict[tuple[str, str], int] = {}
        database.on_cursor = self.cursor_moved

    # --- while it happens ---------------------------------------------------------------------------

    def said(self, message: Message) -> None:
        """A user said something."""
        self.sent[message] = None
        self.stats["messages"] += 1

    def acked(self, message: Message, ack: messages.Ack) -> None:
        """It was acknowledged: from now on it must be in the table."""
        self.acks.append((message, ack))
        self._acked.add(message)
        self.stats["acks"] += 1
        self._check_ack(message, ack)

    def refused(self, message: Message) -> None:
        """An attempt was answered with ``stored: no``; if all were, it must not be in the table."""
        self.noes[message] += 1
        if message in self._acked:
            return
        row = self.database.keys.get((message.conversation, message.user, message.key))
        if self.noes[message] >= self.posts[message] and row is not None and row.content == message.content:
            raise Violation(f"refusal: refused as not stored, but it is: {message}")

    def received(self, user: str, conversation: str, seq: int) -> None:
        """A device of *user* has received (and applied) an event."""
        if not may_read(user, conversation):
            raise Violation(f"secret: {user} was sent {conversation} #{seq}")
        got = self._got.get((user, conversation))
        if got is None:
            got = self._got[user, conversation] = set()
        got.add(seq)
        self.stats["deliveries"] += 1

    def has(self, user: str, conversation: str, seq: int) -> bool:
        """Whether a device of *user* has it."""
        return seq in self._got.get((user, conversation), ())

    def skipped(self, user: str, conversation: str, after: int, to: int) -> None:
        """A device of *user* was told that ``(after, to]`` is to be fetched on demand."""
        self._got.setdefault((user, conversation), set()).update(range(after + 1, to + 1))

    def check_event(self, user: str, event: Applied) -> None:
        """What a device was shown must be the row of the table."""
        rows = self.database.rows.get(event.conversation, ())
        row = rows[event.seq - 1] if 0 < event.seq <= len(rows) else None
        if row is None or (row.id, row.sender, row.content) != (event.id, event.sender, event.content):
            raise Violation(f"content: {user} was shown {event}, the table has {row}")

    def cursor_moved(self, user: str, conversation: str, delivered: int) -> None:
        """A cursor was committed: everything up to it must have reached a device of its user."""
        place = user, conversation
        got = self._got.get(place, set())
        if delivered < self._moved.get(place, 0):
            raise Violation(f"cursor: {user}'s in {conversation} went back to {delivered}")
        self._moved[place] = delivered
        reached = max(self._reached.get(place, 0), self.database.first_contact[place])
        while reached + 1 in got:
            reached += 1
        self._reached[place] = reached
        if delivered > reached:
            raise Violation(
                f"cursor: {user} counts as having {conversation} up to {delivered}, but has no #{reached + 1}"
            )

    # --- at the end ---------------------------------------------------------------------------------

    def check_table(self) -> None:
        """Numbers without holes, nothing stored twice, nothing that was never said."""
        database = self.database
        for slot, log in database.logs.items():
            if [row.id for row in log] != [(slot << 47) + 1 + i for i in range(len(log))]:
                raise Violation(f"table: slot {slot} has holes: {[row.id for row in log]}")
        said = {message.content: message for message in self.sent}
        stored: dict[str, int] = {}
        for conversation, rows in database.rows.items():
            if any(row.seq != i or row.ordinal != i for i, row in enumerate(rows, 1)):
                raise Violation(f"table: {conversation} has holes")
            if any(a.id >= b.id for a, b in pairwise(rows)):
                raise Violation(f"table: {conversation}: the order of seq and of the log differ")
            for row in rows:
                message = said.get(row.content)
                if message is None or (message.user, message.conversation) != (row.sender, row.conversation):
                    raise Violation(f"table: nobody said {row}")
                if message.key not in ("", row.key):
                    raise Violation(f"table: {row} was sent under the key {message.key}")
                stored[row.content] = stored.get(row.content, 0) + 1
                if stored[row.content] > 1:
                    raise Violation(f"table: stored twice: {row}")
        for message, ack in self.acks:
            self._check_ack(message, ack)
        for message, noes in self.noes.items():
            if message not in self._acked and noes >= self.posts[message] and message.content in stored:
                raise Violation(f"refusal: refused as not stored, but it is: {message}")

    def _check_ack(self, message: Message, ack: messages.Ack) -> None:
        rows = self.database.rows.get(message.conversation, ())
        row = rows[ack.seq - 1] if 0 < ack.seq <= len(rows) else None
        if (
            row is None
            or (row.id, row.conversation, row.sender, row.content)
            != (
                ack.message_id,
                ack.conversation,
                message.user,
                message.content,
            )
            or (message.key and row.key != message.key)
        ):
            raise Violation(f"ack: acknowledged {message} as {ack}, the table has {row}")

    def check_received(self, user: str) -> None:
        """Between them, the devices of *user* have everything since first contact."""
        for (owner, conversation), start in self.database.first_contact.items():
            if owner != user:
                continue
            got = self._got.get((user, conversation), set())
            for seq in range(start + 1, self.database.end(conversation) + 1):
                if seq not in got:
                    raise Violation(f"lost: {user} never got {conversation} #{seq}")
