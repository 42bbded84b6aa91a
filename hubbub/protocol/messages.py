"""What a client and the server say to each other: one small type for each message.

A WebSocket text frame holds one JSON object; `type` tells them apart. Clients ignore what they do not
know; the server refuses unknown fields and types, since a misspelt `recipient` must not broadcast a
private message.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from hubbub.protocol.limits import HISTORY_MAX, KEY_MAX, KEY_MIN, MENTIONS_MAX, SYNC_HAVE_MAX, WATCH_MAX
from hubbub.protocol.refusals import ErrorCode, Refusal

Key = Annotated[str, Meta(min_length=KEY_MIN, max_length=KEY_MAX)]
CommandId = Annotated[str, Meta(min_length=1, max_length=KEY_MAX)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Seq = Annotated[int, Meta(ge=0, le=2**53)]
# What became of a message whose send was refused; speaks of this attempt only.
Stored = Literal["no", "unknown"]


class _Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    pass


# --- client to server -------------------------------------------------------------------------------


class Send(_Command, frozen=True, kw_only=True, tag="send"):
    """Say something to one user, or with neither `recipient` nor `room` to everybody."""

    content: str
    recipient: Name | None = None
    room: Name | None = None
    id: Key | None = None
    reply_to: Seq | None = None
    mentions: Annotated[tuple[Name, ...], Meta(max_length=MENTIONS_MAX)] = ()


class Sync(_Command, frozen=True, kw_only=True, tag="sync"):
    """Ask for everything after the positions that this device holds."""

    have: Annotated[dict[Name, Seq], Meta(max_length=SYNC_HAVE_MAX)] = {}
    epoch: int | None = None
    more: bool = False  # another sync command follows; answer them together
    id: CommandId | None = None


class Received(_Command, frozen=True, kw_only=True, tag="received"):
    """Everything in `conversation` up to `seq` has arrived."""

    conversation: Name
    seq: Seq
    id: CommandId | None = None


class Read(_Command, frozen=True, kw_only=True, tag="read"):
    """Everything in `conversation` up to `seq` was seen by a person."""

    conversation: Name
    seq: Seq
    id: CommandId | None = None


class History(_Command, frozen=True, kw_only=True, tag="history"):
    """A page of a conversation: the newest, the one before a seq, or the one after it."""

    conversation: Name
    before: Seq | None = None
    after: Seq | None = None
    limit: Annotated[int, Meta(ge=1, le=HISTORY_MAX)] = 50
    id: CommandId | None = None


class Typing(_Command, frozen=True, kw_only=True, tag="typing"):
    """Tell the other side that a person is typing. Never stored."""

    recipient: Name | None = None
    room: Name | None = None
    on: bool = True
    id: CommandId | None = None


class Watch(_Command, frozen=True, kw_only=True, tag="watch"):
    """Whose presence to hear of; replaces the list before. `lobby`: everybody's, aggregated."""

    users: Annotated[tuple[Name, ...], Meta(max_length=WATCH_MAX)] = ()
    lobby: bool = False
    id: CommandId | None = None


class Token(_Command, frozen=True, kw_only=True, tag="token"):
    """A fresh token for the same user, before the present one expires."""

    token: str
    id: CommandId | None = None


class Ping(_Command, frozen=True, kw_only=True, tag="ping"):
    """Answered by `pong`."""

    id: CommandId | None = None


Command = Send | Sync | Received | Read | History | Typing | Watch | Token | Ping

# What decoding raises for bytes that are not what they should be.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_send_decoder: msgspec.json.Decoder[Send] = msgspec.json.Decoder(Send)


class _Id(msgspec.Struct):
    id: str | None = None


class _Tag(msgspec.Struct):
    type: str | None = None


def decode_command(data: bytes) -> Command:
    """Decode and check what a client sent; `type` defaults to ``send``.

    Raises `Refusal` (`bad_request`) with a text that names the field at fault.
    """
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError as exc:
        if _has_type(data):
            raise Refusal(ErrorCode.BAD_REQUEST, str(exc)) from exc
    except _UNREADABLE as exc:
        raise Refusal(ErrorCode.BAD_REQUEST, f"not a JSON object: {exc}") from exc
    try:
        return _send_decoder.decode(data)
    except msgspec.ValidationError as exc:
        raise Refusal(ErrorCode.BAD_REQUEST, str(exc)) from exc
    except _UNREADABLE as exc:
        raise Refusal(ErrorCode.BAD_REQUEST, f"not a JSON object: {exc}") from exc


def _has_type(data: bytes) -> bool:
    try:
        return msgspec.json.decode(data, type=_Tag).type is not None
    except msgspec.ValidationError:
        return True
    except _UNREADABLE:
        return False  # the decoder of a send will say so too


def command_id(data: bytes) -> str | None:
    """The `id` of a command that could not be decoded, so that its refusal can be matched to it."""
    try:
        found = msgspec.json.decode(data, type=_Id).id
    except _UNREADABLE:
        return None
    return found if found is None or len(found) <= KEY_MAX else None


# --- server to client -------------------------------------------------------------------------------


class _Event(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    pass


class WelcomeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the server grants this session."""

    content_bytes: int
    rate: float
    burst: int
    in_flight: int


class PingTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How often the server pings and how long it waits for life, in milliseconds."""

    interval_ms: int
    timeout_ms: int


class ReconnectTimes(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of a client's full-jitter backoff, in milliseconds."""

    min_ms: int
    max_ms: int


class Welcome(_Event, frozen=True, kw_only=True, tag="welcome"):
    """The first message of a connection."""

    username: str
    session: str
    server_time: str
    epoch: int
    limits: WelcomeLimits
    ping: PingTimes
    reconnect: ReconnectTimes
    token_expires_at: str | UnsetType = UNSET
    id: str | UnsetType = UNSET


class Ack(_Event, frozen=True, kw_only=True, tag="ack"):
    """The message is committed. Never sent before."""

    id: str | UnsetType = UNSET
    message_id: int
    conversation: str
    seq: int
    timestamp: str
    duplicate: bool = False


class Message(_Event, frozen=True, kw_only=True, tag="message"):
    """One message, as every recipient reads it."""

    id: int
    conversation: str
    seq: int
    ordinal: int
    sender: str
    recipient: str | UnsetType = UNSET
    content: str
    timestamp: str
    reply_to: int | UnsetType = UNSET
    mentions: list[str] | UnsetType = UNSET
    client_id: str | UnsetType = UNSET


class Receipt(_Event, frozen=True, kw_only=True, tag="receipt"):
    """How far `username` has received and read `conversation`."""

    conversation: str
    username: str
    delivered_seq: int
    read_seq: int


class SyncedConversation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"from_": "from"}):
    """Everything in ``(from, to]`` that exists for this user has been sent."""

    conversation: str
    from_: int
    to: int
    last_seq: int
    delivered_seq: int
    read_seq: int
    unread: int
    truncated: bool = False


class Synced(_Event, frozen=True, kw_only=True, tag="synced"):
    """The end of the answer to `sync`."""

    conversations: list[SyncedConversation]
    epoch: int
    id: str | UnsetType = UNSET


class HistoryPage(_Event, frozen=True, kw_only=True, tag="history", rename={"from_": "from"}):
    """The events of ``(from, to]``, oldest first. `more`: there is more in the direction asked."""

    conversation: str
    from_: int
    to: int
    events: list[msgspec.Raw]
    more: bool
    id: str | UnsetType = UNSET


class TypingNotice(_Event, frozen=True, kw_only=True, tag="typing"):
    """`username` is typing (or has stopped)."""

    username: str
    conversation: str
    on: bool


class Presence(_Event, frozen=True, kw_only=True, tag="presence"):
    """Who came and went: name to state. `more`: too many changed to list them; ask
    ``GET /api/users/online``."""

    users: dict[str, Literal["online", "offline"]]
    more: bool = False
    id: str | UnsetType = UNSET


class Pong(_Event, frozen=True, kw_only=True, tag="pong"):
    """The answer to `ping`."""

    server_time: str
    id: str | UnsetType = UNSET


class Error(_Event, frozen=True, kw_only=True, tag="error"):
    """A command was refused. For a `send`, `stored` says whether the attempt left a message behind."""

    code: str
    message: str
    temporary: bool
    id: str | UnsetType = UNSET
    stored: Stored | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET


class Goodbye(_Event, frozen=True, kw_only=True, tag="goodbye"):
    """Before a close that the server chose."""

    code: int
    reason: str
    reconnect_after_ms: int | UnsetType = UNSET


Event = Welcome | Ack | Message | Receipt | Synced | HistoryPage | TypingNotice | Presence | Pong | Error | Goodbye

_encoder = msgspec.json.Encoder()
_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def encode_event(event: Event) -> bytes:
    """An event as the JSON that clients read."""
    return _encoder.encode(event)


def decode_event(data: bytes | str) -> Event:
    """The other way round, for clients written in Python. Raises `msgspec.ValidationError`."""
    return _event_decoder.decode(data)


def refusal_event(refusal: Refusal, command: str | None, stored: Stored | None = None) -> Error:
    """The error object for *refusal*."""
    return Error(
        code=refusal.code.word,
        message=refusal.message,
        temporary=refusal.code.temporary,
        id=UNSET if command is None else command,
        stored=UNSET if stored is None else stored,
        retry_after_ms=UNSET if refusal.retry_after_ms is None else refusal.retry_after_ms,
    )
