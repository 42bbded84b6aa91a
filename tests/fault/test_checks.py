"""Each kind of violation is found in a history made by hand, and a good history passes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hubbub.protocol.client import Applied
from hubbub.protocol.conversation import event_id, slot_of
from tests.fault.torture.checks import processes, verdict
from tests.fault.torture.checks.presence import SETTLED_AFTER
from tests.fault.torture.operations import OPERATIONS, checks_of
from tests.fault.torture.record import (
    Acked,
    Arrived,
    Calm,
    Confirmed,
    Cursor,
    End,
    History,
    Listed,
    Opened,
    Overheard,
    Page,
    Posted,
    Reached,
    Receipt,
    Record,
    Refused,
    Roll,
    Row,
    Said,
    Sample,
    Synced,
)

PAIR = "direct:ann:bob"
CHECKS = checks_of(OPERATIONS) + processes.CHECKS


def key(n: int) -> str:
    """The key of the n-th message."""
    return f"key-{n:012}"


def row(n: int, **changes: Any) -> Row:
    """The n-th message of the pair: ann's to bob."""
    return Row(event_id(slot_of(PAIR), n), PAIR, n, n, "ann", "bob", key(n), f"text {n}")._replace(**changes)


def applied(n: int) -> Applied:
    """It, as bob applied it."""
    one = row(n)
    return Applied(PAIR, n, one.id, "ann", "bob", one.content, "", n, one.key)


def story(n: int, at: float) -> list[Record]:
    """ann says it, bob gets it."""
    one = row(n)
    return [
        Said(at, "ann/1", one.key, PAIR, one.content),
        Posted(at, "ann/1", one.key, one.content),
        Acked(at + 0.1, "ann/1", 1, one.key, one.content, PAIR, n, one.id, False, True),
        Reached(at + 0.1, "ann/1", PAIR, n),
        Arrived(at + 0.2, "bob/2", 1, PAIR, n, one.id, True),
        Reached(at + 0.2, "bob/2", PAIR, n),
        Confirmed(at + 0.3, "bob/2", "received", PAIR, n),
        Receipt(at + 0.5, "ann/1", 1, PAIR, "bob", n, n - 1),
        Confirmed(at + 0.6, "bob/2", "read", PAIR, n),
        Receipt(at + 0.8, "ann/1", 1, PAIR, "bob", n, n),
    ]


def good() -> History:
    """Three messages of ann's, which bob received and read."""
    begin: list[Record] = [
        Opened(0.0, "ann/1", 1, "shard-0"),
        Opened(0.0, "bob/2", 1, "shard-1"),
        Synced(0.1, "bob/2", 1, "lobby", 0, 0, 0, 0, 0),
    ]
    return History(
        records=[*begin, *story(1, 1.0), *story(2, 2.0), Calm(3.0, 1), *story(3, 4.0)],
        ends=[
            End("ann/1", "ann", True, {PAIR: [applied(n)._replace(ordinal=None) for n in (1, 2, 3)]}, {PAIR: 0}),
            End("bob/2", "bob", True, {PAIR: [applied(n) for n in (1, 2, 3)]}, {PAIR: 0}),
        ],
        rows=[row(1), row(2), row(3)],
        cursors=[[Cursor("bob", PAIR, 1, 1)], [Cursor("bob", PAIR, 3, 3), Cursor("ann", PAIR, 3, 3)]],
        pages=[Page("bob", PAIR, [(n, row(n).id, row(n).content) for n in (1, 2, 3)])],
        listed=[Listed("bob", PAIR, 0, 3)],
        rolls=[Roll(40.0, 3.0, "REST", frozenset({"ann", "bob"}), frozenset({"ann", "bob"}))],
        samples=[Sample(3.0, "store", 7, 60.0, 20, 0), Sample(33.0, "store", 7, 70.0, 22, 0)],
    )


def test_a_good_history_passes() -> None:
    assert list(verdict(good(), CHECKS)) == []


def without(kind: type, history: History, **like: Any) -> History:
    """The history without the records of a kind that are like that."""
    kept = [
        one
        for one in history.records
        if not (isinstance(one, kind) and all(getattr(one, name) == value for name, value in like.items()))
    ]
    return replace(history, records=kept)


def more(history: History, *records: Record) -> History:
    """With something more at the end."""
    return replace(history, records=[*history.records, *records])


def _unacknowledged(history: History) -> History:
    return without(Acked, history, key=key(3))


def _shorter(history: History) -> History:
    """The table ends with the second message."""
    return replace(history, rows=[row(1), row(2)], listed=[])


def _ends(history: History, *numbers: int, settled: bool = True, user: str = "bob") -> History:
    """What bob's device applied."""
    return replace(
        history, ends=[history.ends[0], End("bob/2", user, settled, {PAIR: [applied(n) for n in numbers]}, {PAIR: 0})]
    )


def _reorder(history: History) -> History:
    """The rows of the first and the third message have changed places."""
    one, three = row(1), row(3)
    first = row(1, key=three.key, content=three.content)
    return replace(history, rows=[first, row(2), row(3, key=one.key, content=one.content)])


Break = Callable[[History], History]
BROKEN: dict[str, tuple[str, Break]] = {
    "an acknowledged message is not in the table": ("acknowledged and lost", _shorter),
    "an acknowledgement names another place": (
        "acknowledged and lost",
        lambda h: more(h, Acked(9.0, "ann/1", 1, key(1), "text 1", PAIR, 2, row(2).id, True, False)),
    ),
    "what was refused as not stored is stored": (
        "refused and stored",
        lambda h: more(_unacknowledged(h), Refused(9.0, "ann/1", key(3), "text 3", "overloaded", "no", True)),
    ),
    "what had to be refused is stored": (
        "stored against the rules",
        lambda h: replace(h, secrets=frozenset({"text 2"})),
    ),
    "a message is stored under two keys": (
        "stored twice",
        lambda h: replace(h, rows=[*h.rows, row(4, content="text 3")]),
    ),
    "a row that nobody said": ("stored and never said", lambda h: replace(h, rows=[*h.rows, row(4)])),
    "a hole in the seqs": ("a hole in the numbers", lambda h: replace(h, rows=[row(1), row(2), row(3, seq=4)])),
    "a hole in the ordinals": ("a hole in the numbers", lambda h: replace(h, rows=[row(1), row(2), row(3, ordinal=4)])),
    "a hole in the log": (
        "a hole in the log",
        lambda h: replace(h, rows=[row(1), row(2), row(3, id=event_id(slot_of(PAIR), 4))]),
    ),
    "an id in another slot": (
        "another's slot",
        lambda h: replace(h, rows=[row(1), row(2), row(3, id=event_id(slot_of(PAIR) + 1, 1))]),
    ),
    "ids in another order than seqs": (
        "ids go back",
        lambda h: replace(h, rows=[row(1), row(2, id=row(3).id), row(3, id=row(2).id)]),
    ),
    "said later, placed earlier": ("earlier than what came before", _reorder),
    "a device without the last message": ("lost on the way", lambda h: _ends(h, 1, 2)),
    "a device without one in the middle": ("lost on the way", lambda h: _ends(h, 1, 3)),
    "a device that applied one twice": ("applied twice", lambda h: _ends(h, 1, 2, 2, 3)),
    "a device that applied them in another order": ("another order", lambda h: _ends(h, 2, 1, 3)),
    "a device that applied more than there is": ("shown and not stored", lambda h: _ends(_shorter(h), 1, 2, 3)),
    "a stranger is sent a message": (
        "shown to a stranger",
        lambda h: more(
            replace(h, ends=[*h.ends, End("eve/3", "eve", True, {}, {})]),
            Arrived(9.0, "eve/3", 1, PAIR, 1, row(1).id, True),
        ),
    ),
    "a stranger overhears typing": (
        "shown to a stranger",
        lambda h: more(
            replace(h, ends=[*h.ends, End("eve/3", "eve", True, {}, {})]), Overheard(9.0, "eve/3", "typing", PAIR)
        ),
    ),
    "a phantom arrives": (
        "shown and not stored",
        lambda h: more(h, Arrived(9.0, "bob/2", 1, PAIR, 4, row(4).id, True)),
    ),
    "a live connection is left out": ("a gap in the stream", lambda h: without(Arrived, h, seq=2)),
    "a live connection is sent one twice": (
        "sent twice",
        lambda h: more(h, Arrived(9.0, "bob/2", 1, PAIR, 3, row(3).id, True)),
    ),
    "REST in another order": (
        "another order",
        lambda h: replace(h, pages=[Page("bob", PAIR, list(reversed(h.pages[0].events)))]),
    ),
    "REST without the end": ("another order", lambda h: replace(h, pages=[Page("bob", PAIR, h.pages[0].events[:2])])),
    "delivered ahead in a receipt": (
        "delivered ahead",
        lambda h: more(h, Receipt(9.0, "ann/1", 1, PAIR, "bob", 4, 3)),
    ),
    "delivered ahead in the table": (
        "delivered ahead",
        lambda h: replace(h, cursors=[*h.cursors, [Cursor("bob", PAIR, 4, 3), Cursor("ann", PAIR, 3, 3)]]),
    ),
    "delivered before it arrived": (
        "delivered ahead",
        lambda h: replace(h, records=[*h.records[:3], Receipt(0.5, "ann/1", 1, PAIR, "bob", 1, 0), *h.records[3:]]),
    ),
    "read ahead": ("read ahead", lambda h: without(Confirmed, h, what="read", seq=3)),
    "a cursor goes back in the table": (
        "a cursor went back",
        lambda h: replace(h, cursors=[[Cursor("bob", PAIR, 3, 2)], [Cursor("bob", PAIR, 2, 2)], *h.cursors]),
    ),
    "a receipt goes back": ("a cursor went back", lambda h: more(h, Receipt(9.0, "ann/1", 1, PAIR, "bob", 3, 2))),
    "a sync goes back": (
        "a cursor went back",
        lambda h: more(
            h,
            Synced(9.0, "bob/2", 1, PAIR, 3, 3, 3, 3, 0),
            Synced(9.5, "bob/2", 1, PAIR, 3, 3, 3, 2, 1),
        ),
    ),
    "a sync miscounts the unread": (
        "unread miscounted",
        lambda h: more(h, Synced(9.0, "bob/2", 1, PAIR, 3, 3, 3, 2, 2)),
    ),
    "REST miscounts the unread": ("unread miscounted", lambda h: replace(h, listed=[Listed("bob", PAIR, 1, 3)])),
    "a confirmation is lost": (
        "a confirmation was lost",
        lambda h: replace(h, cursors=[[Cursor("bob", PAIR, 3, 2), Cursor("ann", PAIR, 3, 3)]]),
    ),
    "somebody who left is shown as here": (
        "presence is wrong",
        lambda h: replace(h, rolls=[Roll(SETTLED_AFTER + 4, 3.0, "REST", frozenset({"ann"}), frozenset())]),
    ),
    "somebody who is here is not shown": (
        "presence is wrong",
        lambda h: replace(h, rolls=[Roll(SETTLED_AFTER + 4, 3.0, "bob/2", frozenset(), frozenset({"ann"}))]),
    ),
    "a process that grows": (
        "memory without bound",
        lambda h: replace(h, samples=[*h.samples, Sample(63.0, "store", 7, 160.0, 22, 0)]),
    ),
    "descriptors that are not closed": (
        "descriptors leak",
        lambda h: replace(h, samples=[*h.samples, Sample(63.0, "store", 7, 60.0, 60, 0)]),
    ),
    "a program that does not come back": (
        "did not come back",
        lambda h: replace(h, troubles=["shard-1 is not running"]),
    ),
}


@pytest.mark.parametrize(("kind", "broken"), BROKEN.values(), ids=BROKEN)
def test_a_violation_is_found(kind: str, broken: Break) -> None:
    kinds = {violation.kind for violation in verdict(broken(good()), CHECKS)}
    assert kind in kinds


def test_presence_has_time_to_settle() -> None:
    """What is wrong before the stated time is no violation."""
    roll = Roll(SETTLED_AFTER - 1 + 3.0, 3.0, "REST", frozenset({"ann"}), frozenset())
    assert list(verdict(replace(good(), rolls=[roll]), CHECKS)) == []


def test_an_acknowledgement_of_a_copy_stands_outside_the_order() -> None:
    """A repeated send may be answered before the live stream has come so far, and the message still comes."""
    history = good()
    copy = Acked(4.05, "bob/2", 1, key(3), "", PAIR, 3, row(3).id, True, False)
    at = next(i for i, one in enumerate(history.records) if isinstance(one, Posted) and one.key == key(3)) + 1
    records = [*history.records[:at], copy, *history.records[at:]]
    assert list(verdict(replace(history, records=records), CHECKS)) == []


def test_an_acknowledgement_may_come_before_the_sync() -> None:
    """What was said at once on a new connection is answered at once; the sync covers it."""
    history = good()
    early = Acked(8.5, "ann/1", 2, key(3), "text 3", PAIR, 3, row(3).id, True, True, live=False)
    begin: list[Record] = [Opened(8.0, "ann/1", 2, "shard-1"), early, Synced(9.0, "ann/1", 2, PAIR, 3, 3, 3, 3, 0)]
    assert list(verdict(more(history, *begin), CHECKS)) == []


def test_what_was_never_answered_may_be_stored_or_not() -> None:
    history = replace(_unacknowledged(good()), cursors=[[Cursor("bob", PAIR, 3, 3), Cursor("ann", PAIR, 3, 2)]])
    assert list(verdict(history, CHECKS)) == []
