"""What shards, broker and stores say to each other, as MessagePack arrays.

A *request* goes from a shard to the owner of a slot and is kept by the shard until its answer (or, for a
`Send`, its event) has come. A *range* carries a part of a slot's log from the owner to the shards. A
*signal* (typing, presence, receipts) carries no number, may be lost, and is repaired by its sender's
timers or by the next sync.
"""

from typing import Literal, Protocol

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


class ListConversations(_Packed, tag=9):
    """A user's conversations, newest activity first; `before`: the `next` of the page before."""

    no: int
    username: str
    before: str | None
    limit: int


class Search(_Packed, tag=10):
    """Messages that `username` may read and that match `query`, newest first, in one conversation or all.

    `before`: the `next` of the page before.
    """

    no: int
    username: str
    query: str
    conversation: str | None
    before: str | None
    limit: int


class FindUsers(_Packed, tag=11):
    """Users known by name (accounts, and whoever was here) that begin with `prefix`, whatever the case."""

    no: int
    prefix: str
    limit: int


class ReadAccess(_Packed, tag=12):
    """The access list's changes after version `after`: accounts and revocations."""

    no: int
    after: int


class FindAccount(_Packed, tag=13):
    """One account with its password's hash."""

    no: int
    username: str


class AddAccount(_Packed, tag=14):
    """Make an account; refused as `CONFLICT` for a name that is in use. The same again is the same account."""

    no: int
    username: str
    password_hash: str


class SetPassword(_Packed, tag=15):
    """Replace a password and void all refresh tokens and every token issued before a time (unix seconds).

    Without `before` it is the same password hashed anew, and nothing is void.
    """

    no: int
    username: str
    password_hash: str
    before: float | None


class KeepRefresh(_Packed, tag=16):
    """Remember a refresh token by its SHA-256. `expires`: unix seconds."""

    no: int
    username: str
    token_hash: bytes
    family: str
    expires: int


class SwapRefresh(_Packed, tag=17):
    """Replace a refresh token by its successor. The same again is the same swap."""

    no: int
    token_hash: bytes
    new_hash: bytes
    expires: int


class DropRefresh(_Packed, tag=18):
    """Void a refresh token and its family."""

    no: int
    token_hash: bytes


class Revoke(_Packed, tag=19):
    """Void one token by its id, or every token of a user that was issued before a time (unix seconds).

    `expires`: when the revocation itself may be forgotten, since the token would have expired.
    """

    no: int
    token_id: str | None
    username: str | None
    before: float
    expires: int | None


Request = (
    Send
    | MoveCursors
    | Sync
    | Backlog
    | ReadHistory
    | Replay
    | Attend
    | WhoIsOnline
    | ListConversations
    | Search
    | FindUsers
    | ReadAccess
    | FindAccount
    | AddAccount
    | SetPassword
    | KeepRefresh
    | SwapRefresh
    | DropRefresh
    | Revoke
)


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


class ListedConversation(_Packed):
    """One row of a user's list. `last`: the newest event as clients read it, empty if there is none."""

    conversation: str
    last_seq: int
    delivered_seq: int
    read_seq: int
    unread: int
    last: bytes


class ConversationList(_Packed, tag=9):
    """The answer to `ListConversations`; `next`: what to give as `before` for more."""

    no: int
    conversations: list[ListedConversation]
    next: str | None


class Found(_Packed, tag=10):
    """The answer to `Search`: events as clients read them; `next`: what to give as `before` for more."""

    no: int
    messages: list[bytes]
    next: str | None


class Users(_Packed, tag=11):
    """The answer to `FindUsers`."""

    no: int
    users: list[str]


class AccessRule(_Packed):
    """One line of the access list.

    `kind`: ``account`` (`subject` is its name, `role` what it is, `void` whether it is disabled), ``token``
    (`subject` is a token's id, void until `expires`) or ``user`` (`subject`'s tokens issued before `before`
    are void). Times are unix seconds.
    """

    kind: Literal["account", "token", "user"]
    subject: str
    role: str = "member"
    void: bool = False
    before: float = 0.0
    expires: int = 0


class AccessPage(_Packed, tag=12):
    """The answer to `ReadAccess`: what changed in ``(after, to]``; `more`: ask again after `to`.

    `epoch` is the database's: another one than before means that versions begin anew.
    """

    no: int
    epoch: int
    to: int
    rules: list[AccessRule]
    more: bool


class AccountFound(_Packed, tag=13):
    """The answer to `FindAccount`; an empty hash: there is no such account."""

    no: int
    username: str
    password_hash: str
    role: str
    disabled: bool


class RefreshSwapped(_Packed, tag=14):
    """The answer to `SwapRefresh`: whose token it was."""

    no: int
    username: str
    role: str


Reply = (
    Refused
    | Known
    | Done
    | SyncPage
    | BacklogPage
    | HistoryRows
    | AttendAgain
    | Online
    | ConversationList
    | Found
    | Users
    | AccessPage
    | AccountFound
    | RefreshSwapped
)


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


def trace_of(origin: str, no: int) -> str:
    """The id under which every process tells a message's steps (`Steps`): its origin and number there."""
    return f"{origin}#{no}"


class Steps(Protocol):
    """Told of each message's steps through a process, for logs and spans: the *step*, the message's `trace_of`, and
    how many seconds *ago* it was."""

    def __call__(self, step: str, trace: str, ago: float = 0.0) -> None: ...


TERM_BITS = 32


def epoch_of(term: int) -> int:
    """The database's incarnation that a wire term belongs to."""
    return term >> TERM_BITS


def wire_term(epoch: int, term: int) -> int:
    """A slot's term as it travels: comparable across epochs."""
    return (epoch << TERM_BITS) | term
