"""A stored message as clients read it, encoded once and never decoded again by us. Pure."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET

from hubbub.protocol import messages
from hubbub.protocol.conversation import topics_of
from hubbub.protocol.internal import Entry, LogEvent, Send
from hubbub.protocol.limits import SERVER_KEY

_pack = msgspec.msgpack.Encoder().encode


class Extra(msgspec.Struct, frozen=True, omit_defaults=True):
    """What few messages carry; the `extra` column."""

    reply_to: int | None = None
    mentions: tuple[str, ...] = ()


class Row(msgspec.Struct, frozen=True):
    """One row of `messages`; `at` in unix milliseconds."""

    id: int
    conversation: str
    seq: int
    ordinal: int
    sender: str
    recipient: str | None
    content: str
    client_key: str
    extra: dict[str, Any] | None
    at: int


@lru_cache(maxsize=64)
def iso(at: int) -> str:
    """Unix milliseconds as ISO 8601 in UTC. Cached: a batch has one time."""
    return f"{datetime.fromtimestamp(at // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{at % 1000:03d}Z"


def extra_of(send: Send) -> Extra | None:
    """The `extra` column of a send; None for most."""
    if send.reply_to is None and not send.mentions:
        return None
    return Extra(send.reply_to, send.mentions)


def payload_of_send(send: Send, event: int, seq: int, ordinal: int, timestamp: str) -> bytes:
    """The JSON of a message that was just stored."""
    return messages.encode_event(
        messages.Message(
            id=event,
            conversation=send.conversation,
            seq=seq,
            ordinal=ordinal,
            sender=send.sender,
            recipient=UNSET if send.recipient is None else send.recipient,
            content=send.content,
            timestamp=timestamp,
            reply_to=UNSET if send.reply_to is None else send.reply_to,
            mentions=list(send.mentions) if send.mentions else UNSET,
            client_id=UNSET if send.key.startswith(SERVER_KEY) else send.key,
        )
    )


def payload_of_row(row: Row) -> bytes:
    """The same JSON, from the table."""
    extra = row.extra or {}
    return messages.encode_event(
        messages.Message(
            id=row.id,
            conversation=row.conversation,
            seq=row.seq,
            ordinal=row.ordinal,
            sender=row.sender,
            recipient=UNSET if row.recipient is None else row.recipient,
            content=row.content,
            timestamp=iso(row.at),
            reply_to=extra.get("reply_to", UNSET),
            mentions=extra.get("mentions", UNSET),
            client_id=UNSET if row.client_key.startswith(SERVER_KEY) else row.client_key,
        )
    )


def entry(event: LogEvent) -> Entry:
    """An event of a slot's log as the broker routes it."""
    return Entry(topics_of(event.conversation), _pack(event))


def entry_of_row(row: Row) -> Entry:
    """An event read back from the table: its sender's request is no longer known."""
    return entry(LogEvent(row.id, row.conversation, row.seq, iso(row.at), "", 0, payload_of_row(row)))
