"""The client's rule, as one class without a socket: what makes delivery exactly once.

Whoever owns the connection feeds it (`connected`, `event`, `tick`, `disconnected`), writes what gathers
in `out`, and reads what gathers in `news`. In each conversation the rule is one line: a seq at or below
the position is dropped, the next one is applied, a higher one waits until `history` has filled the hole.
"""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import msgspec

from hubbub.protocol import messages
from hubbub.protocol.conversation import LOBBY, direct
from hubbub.protocol.limits import HISTORY_MAX, SYNC_HAVE_MAX

# An unanswered send goes out again on the same connection (seconds). The server gives up after ten.
RESEND_AFTER = 5.0
# A hole is asked for again; a handshake or a sync that takes longer is no longer believed in.
ASK_AGAIN = 12.0
STALLED_AFTER = 15.0
# `received` at most this often, for all conversations together.
RECEIVED_EVERY = 0.1
_RETRY = 1.0


class Applied(NamedTuple):
    """The next event of its conversation. An own message that was only acknowledged has no ordinal."""

    conversation: str
    seq: int
    id: int
    sender: str
    recipient: str | None
    content: str
    timestamp: str
    ordinal: int | None
    key: str | None


class Started(NamedTuple):
    """From now on *conversation* is followed, from behind *seq*; older events are there on demand."""

    conversation: str
    seq: int


class Skipped(NamedTuple):
    """The server has cut ``(after, to]`` from its answer; these events are there on demand."""

    conversation: str
    after: int
    to: int


class Acknowledged(NamedTuple):
    """The message with this key is stored."""

    key: str
    ack: messages.Ack


class Rejected(NamedTuple):
    """The message with this key will not be stored by sending it again."""

    key: str
    error: messages.Error


class Discarded(NamedTuple):
    """The server holds other data than before: everything that was applied is void."""

    epoch: int


News = Applied | Started | Skipped | Acknowledged | Rejected | Discarded


class Stage(Enum):
    """How far a connection is."""

    OFFLINE = "offline"
    GREETING = "greeting"  # waits for `welcome`
    SYNCING = "syncing"  # waits for `synced`
    LIVE = "live"


class _Conversation:
    __slots__ = ("asked", "asked_at", "confirmed", "held", "name", "position", "wanted")

    def __init__(self, name: str) -> None:
        self.name = name
        self.position: int | None = None
        self.wanted = 0  # the highest seq that is known to exist
        self.held: dict[int, Applied] = {}
        self.asked: str | None = None  # id of the history command under way
        self.asked_at = 0.0
        self.confirmed = 0


class _Pending:
    __slots__ = ("command", "due", "encoded")

    def __init__(self, command: messages.Send) -> None:
        self.command = command
        self.encoded = _encode(command)
        self.due = 0.0


_encode = msgspec.json.Encoder().encode


class Client:
    """One device of one user.

    *key* makes a new unique key (16 to 64 characters) for each send. The caller empties `out` (commands
    to be written, in order) and `news`. Positions and unacknowledged sends outlive connections.
    """

    def __init__(self, key: Callable[[], str]) -> None:
        self.out: list[bytes] = []
        self.news: list[News] = []
        self.stage = Stage.OFFLINE
        self.username = ""
        self.epoch: int | None = None
        self._key = key
        self._conversations: dict[str, _Conversation] = {}
        self._pending: dict[str, _Pending] = {}
        self._since = 0.0
        self._serial = 0
        self._sync: str | None = None
        self._sync_due = 0.0
        self._confirmed_at = -RECEIVED_EVERY

    @property
    def pending(self) -> list[str]:
        """Keys of the messages that wait for their acknowledgement."""
        return list(self._pending)

    @property
    def settled(self) -> bool:
        """Whether the connection is live, nothing waits and no hole is open."""
        if self.stage is not Stage.LIVE or self._pending:
            return False
        return all(one.wanted <= (one.position or 0) for one in self._conversations.values())

    def position(self, conversation: str) -> int | None:
        """The seq applied last; None for a conversation never heard of."""
        found = self._conversations.get(conversation)
        return None if found is None else found.position

    def stalled(self, now: float) -> bool:
        """Whether the connection should be given up: the server takes too long to begin."""
        return self.stage in (Stage.GREETING, Stage.SYNCING) and now - self._since > STALLED_AFTER

    # --- what a person does -------------------------------------------------------------------------

    def send(self, content: str, recipient: str | None, now: float, key: str | None = None) -> str:
        """Say something; it is sent until it is acknowledged. Returns its key."""
        key = self._key() if key is None else key
        pending = self._pending[key] = _Pending(messages.Send(content=content, recipient=recipient, id=key))
        if self.stage in (Stage.SYNCING, Stage.LIVE):
            self._post(pending, now)
        return key

    def read(self, conversation: str) -> None:
        """A person has seen everything that is applied in *conversation*."""
        found = self._conversations.get(conversation)
        if found is not None and found.position and self.stage is Stage.LIVE:
            self.out.append(_encode(messages.Read(conversation=conversation, seq=found.position)))

    def sync(self, now: float) -> None:
        """Ask for everything after the positions held; `connected` leads here by itself."""
        if self.stage not in (Stage.GREETING, Stage.LIVE):
            return
        self.stage = Stage.SYNCING
        self._since = now
        self._sync = self._next_id("sync")
        have = {one.name: one.position for one in self._conversations.values() if one.position is not None}
        names = list(have)
        while True:
            part, names = names[:SYNC_HAVE_MAX], names[SYNC_HAVE_MAX:]
            positions = {name: have[name] for name in part}
            self.out.append(_encode(messages.Sync(have=positions, epoch=self.epoch, more=bool(names), id=self._sync)))
            if not names:
                return

    # --- the connection -----------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """The WebSocket is open; `welcome` will come."""
        self.stage = Stage.GREETING
        self._since = now

    def disconnected(self) -> None:
        """The connection is gone; what was not applied will be synced."""
        self.stage = Stage.OFFLINE
        self.out.clear()
        self._sync = None
        for one in self._conversations.values():
            one.held.clear()
            one.wanted = 0
            one.asked = None

    def event(self, data: bytes, now: float) -> None:
        """One text message of the server. Raises `msgspec.ValidationError`."""
        event = messages.decode_event(data)
        match event:
            case messages.Message():
                found = self._conversation(event.conversation)
                self._arrived(found, event.seq, _applied(event), now)
            case messages.Ack():
                self._acked(event, now)
            case messages.Synced():
                if self.stage is Stage.SYNCING and event.id == self._sync:
                    self._synced(event, now)
            case messages.HistoryPage():
                self._history(event, now)
            case messages.Error():
                self._error(event, now)
            case messages.Welcome():
                if self.stage is Stage.GREETING:
                    self.username = event.username
                    self._become(event.epoch)
                    self.sync(now)
                    for pending in self._pending.values():
                        self._post(pending, now)
            case _:
                pass  # typing, presence, receipts: nothing that has to be kept

    def tick(self, now: float) -> None:
        """What is due; ten times a second is often enough."""
        if self.stage not in (Stage.SYNCING, Stage.LIVE):
            return
        for pending in self._pending.values():
            if pending.due <= now:
                self._post(pending, now)
        if self.stage is not Stage.LIVE:
            if self._sync is None and self._sync_due <= now:
                self.stage = Stage.LIVE
                self.sync(now)
            return
        confirm = now - self._confirmed_at >= RECEIVED_EVERY
        for one in self._conversations.values():
            if one.asked is not None and now - one.asked_at >= ASK_AGAIN:
                one.asked = None
                self._drain(one, now)
            if confirm and one.position is not None and one.position > one.confirmed:
                one.confirmed = one.position
                self._confirmed_at = now
                self.out.append(_encode(messages.Received(conversation=one.name, seq=one.position)))

    # --- inside -------------------------------------------------------------------------------------

    def _next_id(self, what: str) -> str:
        self._serial += 1
        return f"{what}-{self._serial}"

    def _conversation(self, name: str) -> _Conversation:
        found = self._conversations.get(name)
        if found is None:
            found = self._conversations[name] = _Conversation(name)
            if self.stage is Stage.LIVE:
                self._start(found, 0)  # one that the last sync did not list begins with this event
        return found

    def _start(self, one: _Conversation, position: int) -> None:
        one.position = position
        self.news.append(Started(one.name, position))

    def _become(self, epoch: int) -> None:
        if self.epoch is not None and self.epoch != epoch:
            self._conversations.clear()
            self.news.append(Discarded(epoch))
        self.epoch = epoch

    def _post(self, pending: _Pending, now: float) -> None:
        pending.due = now + RESEND_AFTER
        self.out.append(pending.encoded)

    def _arrived(self, one: _Conversation, seq: int, event: Applied | None, now: float) -> None:
        position = one.position
        if position is not None:
            if seq <= position:
                return
            if seq == position + 1 and event is not None and not one.held:
                one.position = seq
                self.news.append(event)
                return
        one.wanted = max(one.wanted, seq)
        if event is not None:
            one.held[seq] = event
        if self.stage is Stage.LIVE:
            self._drain(one, now)

    def _drain(self, one: _Conversation, now: float) -> None:
        """Apply what continues the position; ask for what is missing before the rest."""
        position = one.position or 0
        while (event := one.held.pop(position + 1, None)) is not None:
            position += 1
            self.news.append(event)
        one.position = position
        if one.held:
            one.held = {seq: event for seq, event in one.held.items() if seq > position}
        if one.wanted > position and one.asked is None and self.stage is Stage.LIVE:
            one.asked = self._next_id("history")
            one.asked_at = now
            self.out.append(
                _encode(messages.History(conversation=one.name, after=position, limit=HISTORY_MAX, id=one.asked))
            )

    def _cover(self, one: _Conversation, to: int) -> None:
        """Everything up to *to* is held: what is not there does not exist."""
        position = one.position or 0
        for seq in sorted(one.held):
            if seq > to:
                break
            event = one.held.pop(seq)
            if seq > position:
                self.news.append(event)
        one.position = max(position, to)

    def _acked(self, ack: messages.Ack, now: float) -> None:
        key = ack.id if isinstance(ack.id, str) else ""
        pending = self._pending.pop(key, None)
        event = None
        if pending is not None:
            self.news.append(Acknowledged(key, ack))
            command = pending.command
            event = Applied(
                ack.conversation,
                ack.seq,
                ack.message_id,
                self.username,
                command.recipient,
                command.content,
                ack.timestamp,
                None,
                key,
            )
        # On the connection that sent it, the acknowledgement stands in the place of the message.
        self._arrived(self._conversation(ack.conversation), ack.seq, event, now)

    def _synced(self, event: messages.Synced, now: float) -> None:
        if event.epoch != self.epoch:
            self._become(event.epoch)
            self.stage = Stage.LIVE
            self.sync(now)
            return
        self.stage = Stage.LIVE
        for part in event.conversations:
            one = self._conversations.get(part.conversation)
            if one is None:
                one = self._conversations[part.conversation] = _Conversation(part.conversation)
            if one.position is None:
                self._start(one, part.from_)
            elif part.from_ > one.position:
                self.news.append(Skipped(one.name, one.position, part.from_))
                one.position = part.from_
            self._cover(one, part.to)
            one.confirmed = part.delivered_seq
        for one in self._conversations.values():
            if one.position is None:
                self._start(one, 0)
            self._drain(one, now)

    def _history(self, page: messages.HistoryPage, now: float) -> None:
        one = self._conversations.get(page.conversation)
        if one is None or one.asked is None or page.id != one.asked:
            return
        one.asked = None
        position = one.position or 0
        if page.from_ <= position:
            for raw in page.events:
                event = messages.decode_event(bytes(raw))
                if isinstance(event, messages.Message) and event.seq > position:
                    one.held[event.seq] = _applied(event)
            self._cover(one, page.to)
        self._drain(one, now)

    def _error(self, error: messages.Error, now: float) -> None:
        wait = error.retry_after_ms / 1000 if isinstance(error.retry_after_ms, int) else _RETRY
        if error.id == self._sync and self._sync is not None:
            self._sync = None
            self._sync_due = now + wait
            return
        pending = self._pending.get(error.id) if isinstance(error.id, str) else None
        if pending is not None:
            if error.temporary:
                pending.due = now + wait
            else:
                del self._pending[str(error.id)]
                self.news.append(Rejected(str(error.id), error))
            return
        for one in self._conversations.values():
            if one.asked is not None and one.asked == error.id:
                one.asked_at = now - ASK_AGAIN + wait


def _applied(event: messages.Message) -> Applied:
    return Applied(
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


def conversation_of(username: str, recipient: str | None) -> str:
    """Where *username*'s message to *recipient* belongs; without one: the lobby."""
    return LOBBY if recipient is None else direct(username, recipient)
