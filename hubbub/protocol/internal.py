"""What shards, broker and stores say to each other, as MessagePack arrays.

A *request* goes from a shard to the owner of a slot and is kept by the shard until its answer (or, for a
`Send`, its event) has come. A *range* carries a part of a slot's log from the owner to the shards. A
*signal* (typing, presence, receipts) carries no number, may be lost, and is repaired by its sender's
timers or by the next sync.
"""

from typing import Literal

import msgspec


class _Packed(msgspec.Struct, array_like=True, gc=False):
    pass


# --- requests: shard -> store -----------------------------------------------------------------------


class Send(_Packed, tag=1):
    """One message to be sequenced and stored. `key` is unique for (conversation, sender).

    `origin` names one life of one shard, in which `no` is unique.
    """

    origin: str
    no: int
    conversation: str
    sender: str
    recipient: str | None
    key: str
    content: str
    reply_to: int | None
    mentions: tuple[str, ...]
    resent: bool  # an earlier copy may have been stored: never refuse it as overloaded


class Cursor(_Packed):
    """How far a user has received and read a conversation (0: nothing new to say)."""

    username: str
    conversation: str
    delivered: int
    read: int


class MoveCursors(_Packed, tag=2):
    """Cumulative cursor movements; answered by `Done` once they are committed."""

    no: int
    cursors: list[Cursor]


class Sync(_Packed, tag=3):
    """What `username` misses, up to the log positions that the shard has reached.

    `have`: conversation -> seq held. `positions`: n by slot, 64 of them; rows past them are left out.
    """

    no: int
    username: str
    have: dict[str, int]
    positions: list[int]


class Backlog(_Packed, tag=4):
    """Undelivered messages, oldest first, for a client that holds no positions of its own.

    `after`: where the page before ended, by conversation; empty on the first.
    """

    no: int
    username: str
    after: dict[str, int]
    positions: list[int]


class ReadHistory(_Packed, tag=5):
    """A page of one conversation, see `messages.History`."""

    no: int
    conversation: str
    before: int | None
    after: int | None
    limit: int


class Replay(_Packed, tag=6):
    """The slot's log after n, as ranges addressed to the asking shard alone."""

    slot: int
    after: int


class Attend(_Packed, tag=7):
    """Presence of a shard's users in one slot; also the renewal of its lease.

    `version` counts the shard's changes in this slot. With `full`, `joined` is everybody; otherwise the
    step from `version - 1`, or nothing new when both lists are empty.
    """

    shard: str
    slot: int
    version: int
    joined: list[str]
    left: list[str]
    full: bool


class WhoIsOnline(_Packed, tag=8):
    """The online users of one slot; all of them, or those in `among`."""

    no: int
    slot: int
    among: list[str] | None


Request = Send | MoveCursors | Sync | Backlog | ReadHistory | Replay | Attend | WhoIsOnline


# --- replies: store -> shard ------------------------------------------------------------------------


class Refused(_Packed, tag=1):
    """The request will not be carried out. `code` is a name in `refusals.ErrorCode`."""

    no: int
    code: str
    message: str
    stored: Literal["no", "unknown"]
    retry_after_ms: int | None = None


class Known(_Packed, tag=2):
    """A key seen before with the same content: the original acknowledgement."""

    no: int
    id: int
    seq: int
    timestamp: str


class Done(_Packed, tag=3):
    """Carried out and committed."""

    no: int


class ConversationPage(_Packed):
    """One conversation's part of an answer: the events of ``(from_, to]`` as clients read them."""

    conversation: str
    from_: int
    to: int
    last_seq: int
    delivered_seq: int
    read_seq: int
    unread: int
    truncated: bool
    events: list[bytes]
    other: Cursor | None  # how far the other side of a direct conversation is


class SyncPage(_Packed, tag=4):
    """The answer to `Sync`."""

    no: int
    conversations: list[ConversationPage]


class BacklogPage(_Packed, tag=5):
    """The answer to `Backlog`. `more`: ask again, after these."""

    no: int
    conversations: list[ConversationPage]
    more: bool


class HistoryRows(_Packed, tag=6):
    """The answer to `ReadHistory`: the events of ``(from_, to]``, oldest first."""

    no: int
    from_: int
    to: int
    more: bool
    events: list[bytes]


class AttendAgain(_Packed, tag=7):
    """The owner does not hold this version of the shard's users: send all of them."""

    slot: int


class Online(_Packed, tag=8):
    """The answer to `WhoIsOnline`."""

    no: int
    users: list[str]


Reply = Refused | Known | Done | SyncPage | BacklogPage | HistoryRows | AttendAgain | Online


# --- the slot log: store -> broker -> shards --------------------------------------------------------


class LogEvent(_Packed):
    """One committed event. `payload` is the JSON that clients read, encoded once.

    `origin` and `no` are those of the `Send` it came from, so that its shard can answer the sender; an
    event read back from the table has an empty origin, and its sender's shard asks again.
    """

    id: int
    conversation: str
    seq: int
    timestamp: str
    origin: str
    no: int
    payload: bytes


class Entry(_Packed):
    """An event as the broker sees it: topics to match, and bytes (a `LogEvent`) it never opens."""

    topics: list[str]
    event: bytes


class Range(_Packed):
    """Slot's log from ``after`` (exclusive) to ``to``: here are those of its events that match.

    With ``after == to`` it covers nothing and is the watermark: the log has reached ``to``.
    `term` holds the database's epoch in its high 32 bits, so a newer epoch is a higher term.
    """

    slot: int
    term: int
    after: int
    to: int
    entries: list[Entry]


class Signal(_Packed):
    """Something unnumbered for the listeners of `topic`."""

    topic: str
    payload: bytes


TERM_BITS = 32


def epoch_of(term: int) -> int:
    """The database's incarnation that a wire term belongs to."""
    return term >> TERM_BITS


def wire_term(epoch: int, term: int) -> int:
    """A slot's term as it travels: comparable across epochs."""
    return (epoch << TERM_BITS) | term
