"""Names of conversations, topics and slots, and the numbers made of them.

A *conversation* is the unit of order: ``lobby``, or ``direct:<a>:<b>`` with the two usernames sorted.
A *slot* is one of 64 logs; each conversation lives in exactly one, each slot has one writer at a time.
A *topic* is what a session listens to: ``lobby``, ``user.<name>``, ``presence.<name>``.
"""

import re
import unicodedata
from zlib import crc32

SLOTS = 64
# An event's id is slot * 2**47 + n. With 64 slots the largest id is below 2**53, so it survives
# JavaScript's numbers, and one slot's log is one range of the id index.
SLOT_SHIFT = 47
LOBBY = "lobby"
LOBBY_TOPIC = "lobby"
PRESENCE_TOPIC = "presence"

# Letters and digits of any script, and the signs that mail addresses and handles use. Neither ':'
# (it separates the parts of a conversation's name) nor control characters nor spaces.
_USERNAME = re.compile(r"[\w.@+-]{1,64}")


class InvalidName(ValueError):
    """A username or conversation name that breaks the rules; its text is fit for the user's eyes."""


def check_username(name: str) -> str:
    """Return *name* unchanged, or raise `InvalidName`.

    A name that differs from its own NFKC form is refused rather than silently changed: two spellings
    that look alike must not be two people.
    """
    if not _USERNAME.fullmatch(name):
        raise InvalidName("a username has 1 to 64 letters, digits or any of . _ - @ +")
    if unicodedata.normalize("NFKC", name) != name:
        raise InvalidName("a username must be in Unicode's NFKC form")
    return name


def direct(a: str, b: str) -> str:
    """The conversation of two users, the same whoever asks."""
    return f"direct:{a}:{b}" if a <= b else f"direct:{b}:{a}"


def parties(conversation: str) -> tuple[str, str] | None:
    """The two users of a direct conversation, ``None`` for the lobby.

    Raises `InvalidName` for anything that is not the canonical name of a conversation.
    """
    if conversation == LOBBY:
        return None
    kind, _, rest = conversation.partition(":")
    a, colon, b = rest.partition(":")
    if kind != "direct" or not colon or not _USERNAME.fullmatch(a) or not _USERNAME.fullmatch(b) or a > b:
        raise InvalidName(f"{conversation[:200]!r} is not a conversation; use 'lobby' or 'direct:<a>:<b>', sorted")
    return a, b


def may_read(username: str, conversation: str) -> bool:
    """Whether *username* takes part in *conversation*. Raises `InvalidName`."""
    pair = parties(conversation)
    return pair is None or username in pair


def slot_of(conversation: str) -> int:
    """The slot that orders *conversation*, 0 … 63."""
    return crc32(conversation.encode()) % SLOTS


def user_slot(username: str) -> int:
    """The slot whose owner keeps *username*'s presence, 0 … 63."""
    return crc32(b"user:" + username.encode()) % SLOTS


def user_topic(username: str) -> str:
    """The topic of everything addressed to *username*."""
    return "user." + username


def presence_topic(username: str) -> str:
    """The topic of *username*'s coming and going."""
    return "presence." + username


def topics_of(conversation: str) -> list[str]:
    """The topics whose listeners receive an event of *conversation*."""
    if conversation == LOBBY:
        return [LOBBY_TOPIC]
    _, a, b = conversation.split(":")
    return [user_topic(a)] if a == b else [user_topic(a), user_topic(b)]


def event_id(slot: int, n: int) -> int:
    """The id of the *n*-th event (from 1) in *slot*'s log."""
    return (slot << SLOT_SHIFT) + n


def split_id(event: int) -> tuple[int, int]:
    """The ``(slot, n)`` of an event's id."""
    return event >> SLOT_SHIFT, event & ((1 << SLOT_SHIFT) - 1)
