"""Small makers of what the processes say to each other, and a bus and a handler that take notes."""

import time
from collections.abc import Sequence
from typing import Any

from hubbub.bus.batch import decode_log_event
from hubbub.protocol.conversation import LOBBY, direct, event_id, slot_of
from hubbub.protocol.internal import AccessPage, AccessRule, LogEvent, Range, Reply, Request, Send, Signal, wire_term
from shards.access import AccessList
from shards.auth import Authenticator, Claims
from shards.keys import KeyRing, secret_keys
from store.events import entry

LOBBY_SLOT = slot_of(LOBBY)


def authenticator(secret: bytes, *rules: AccessRule, **changes: Any) -> Authenticator:
    """One with a single secret, on loopback, that knows the access list's *rules*."""
    access = AccessList(time.time)
    access.apply(AccessPage(1, 1, len(rules), list(rules), False))
    given: dict[str, Any] = {"guests": "loopback", "bound_to_loopback": True, "token_in_query": False, **changes}
    claims = given.pop("claims", Claims())
    ring = given.pop("ring", None) or KeyRing(secret_keys(secret))
    return Authenticator(ring, access, claims=claims, **given)


def send(
    no: int,
    sender: str = "al",
    recipient: str | None = None,
    content: str = "hi",
    *,
    key: str | None = None,
    origin: str = "s0.1",
    reply_to: int | None = None,
    mentions: tuple[str, ...] = (),
    resent: bool = False,
) -> Send:
    """A `Send` as a shard makes it; its key follows from *no*."""
    conversation = LOBBY if recipient is None else direct(sender, recipient)
    key = f"key-{no:012}" if key is None else key
    return Send(origin, no, conversation, sender, recipient, key, content, reply_to, mentions, resent)


def event(
    n: int, conversation: str = LOBBY, *, seq: int | None = None, origin: str = "", no: int = 0, payload: bytes = b""
) -> LogEvent:
    """The n-th event of the conversation's slot. Its payload tells its id, unless another is given."""
    number = event_id(slot_of(conversation), n)
    payload = payload or b'{"id":%d}' % number
    return LogEvent(number, conversation, n if seq is None else seq, "2026-01-01T00:00:00.000Z", origin, no, payload)


def part(
    after: int,
    to: int,
    conversation: str = LOBBY,
    *,
    term: int = 1,
    epoch: int = 1,
    only: Sequence[int] | None = None,
) -> Range:
    """The log of the conversation's slot in ``(after, to]``, all of it in that conversation; *only*: filtered."""
    numbers = range(after + 1, to + 1) if only is None else only
    entries = [entry(event(n, conversation)) for n in numbers]
    return Range(slot_of(conversation), wire_term(epoch, term), after, to, entries)


def mark(n: int, conversation: str = LOBBY, *, term: int = 1, epoch: int = 1) -> Range:
    """A watermark."""
    return part(n, n, conversation, term=term, epoch=epoch)


def numbers(ranges: Sequence[Range | None]) -> list[tuple[int, int, list[int]]]:
    """``(after, to, ids of the events)`` of each range."""
    return [(one.after, one.to, [decode_log_event(e.event).id for e in one.entries]) for one in ranges if one]


class NotingBus:
    """A `hubbub.bus.interface.Bus` that keeps what it is given. With `takes` false its queue is full."""

    def __init__(self) -> None:
        self.up = True
        self.takes = True
        self.subscriptions: list[tuple[list[str], list[str]]] = []
        self.requested: list[tuple[int, Any]] = []
        self.replied: list[tuple[bytes, Any]] = []
        self.published: list[Range] = []
        self.replayed: list[tuple[bytes, Range]] = []
        self.signalled: list[Signal] = []
        self.owned: list[dict[int, int]] = []

    def subscribe(self, add: Sequence[str], remove: Sequence[str]) -> int:
        self.subscriptions.append((list(add), list(remove)))
        return len(self.subscriptions)

    def request(self, requests: Sequence[tuple[int, Request]]) -> bool:
        self.requested += requests if self.takes else []
        return self.takes

    def reply(self, peer: bytes, replies: Sequence[Reply]) -> bool:
        self.replied += [(peer, reply) for reply in replies] if self.takes else []
        return self.takes

    def publish(self, ranges: Sequence[Range]) -> bool:
        self.published += ranges if self.takes else []
        return self.takes

    def publish_to(self, peer: bytes, ranges: Sequence[Range]) -> bool:
        self.replayed += [(peer, one) for one in ranges] if self.takes else []
        return self.takes

    def signal(self, signals: Sequence[Signal]) -> bool:
        self.signalled += signals if self.takes else []
        return self.takes

    def own(self, terms: dict[int, int]) -> bool:
        self.owned.append(dict(terms))
        return self.takes


class NotingHandler:
    """A `hubbub.bus.interface.Handler` that keeps what it is told, all of it in order in `story`."""

    def __init__(self) -> None:
        self.story: list[tuple[str, Any]] = []

    def of(self, kind: str) -> list[Any]:
        """What was told of one kind, in order; lists of things are joined."""
        found: list[Any] = []
        for told, what in self.story:
            if told == kind:
                found += what if isinstance(what, list) else [what]
        return found

    def linked(self, now: float) -> None:
        self.story.append(("linked", None))

    def subscribed(self, no: int, now: float) -> None:
        self.story.append(("subscribed", no))

    def ranges(self, ranges: list[Range], now: float) -> None:
        self.story.append(("ranges", ranges))

    def requests(self, peer: bytes, requests: list[Request], now: float) -> None:
        self.story.append(("requests", [(peer, request) for request in requests]))

    def replies(self, replies: list[Reply], now: float) -> None:
        self.story.append(("replies", replies))

    def signals(self, signals: list[Signal], now: float) -> None:
        self.story.append(("signals", signals))
