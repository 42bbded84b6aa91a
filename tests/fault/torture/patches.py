"""Faults for the real processes, put in before they start: what the torture must find.

Each is a function of the program's name (``store``, ``broker``, ``shards``) that changes the product's classes in that
process. Some slow a step down as well, so that what the fault needs happens in every run and not in one of a hundred.
"""

import asyncio
import itertools
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

# The window in which a fault that needs a crash at the right moment can be hit (seconds).
WINDOW = 0.1
# Somebody who hears what is not for them.
STRANGER = "u0"


def _foretell(batch: Any) -> list[Any] | None:
    """The rows that the database will answer with, if no key is known; None where a seq is not known."""
    from store.sequencer import StoredRow

    if any(row.seq is None for row in batch.rows):
        return None
    numbers: defaultdict[int, int] = defaultdict(int)
    ends: defaultdict[str, int] = defaultdict(int)
    rows = []
    for row in batch.rows:
        numbers[row.slot] += 1
        ends[row.conversation] += 1
        further = ends[row.conversation]
        seq, ordinal = row.seq + further, row.ordinal + further
        rows.append(StoredRow(row.i, (row.slot << 47) + row.n + numbers[row.slot], seq, ordinal, row.at, True, True))
    return rows


def _acknowledged_before_commit() -> None:
    from store import writer

    append = writer.Writer._append

    async def hurried(self: Any, conn: Any, batch: Any) -> None:
        rows = _foretell(batch)
        if rows is None:
            return await append(self, conn, batch)
        self._core.stored(batch, rows)
        self._flush()
        await asyncio.sleep(WINDOW)
        await conn.execute(writer._APPEND, [writer._encode(batch.rows).decode()], prepare=True, binary=True)

    writer.Writer._append = hurried  # type: ignore[method-assign]


def _published_before_commit() -> None:
    from hubbub.protocol.internal import Range
    from store import writer
    from store.events import entry, iso

    append = writer.Writer._append

    async def hurried(self: Any, conn: Any, batch: Any) -> None:
        sequencer = self._core.sequencer
        early: defaultdict[int, list[Any]] = defaultdict(list)
        for row in _foretell(batch) or ():
            event = sequencer._event(batch.waiting[row.i], row, iso(row.at))
            event.origin = ""
            early[batch.waiting[row.i].slot].append(entry(event))
        self._core.bus.publish(
            [
                Range(slot, sequencer.terms[slot], sequencer.last(slot), sequencer.last(slot) + len(entries), entries)
                for slot, entries in early.items()
            ]
        )
        await asyncio.sleep(WINDOW)
        await append(self, conn, batch)

    writer.Writer._append = hurried  # type: ignore[method-assign]


def _on_without_lock() -> None:
    from store.core import Store
    from store.writer import Writer

    append, take = Writer._append, Writer._take

    async def slow(self: Any, conn: Any, batch: Any) -> None:
        await conn.execute("select pg_sleep($1)", [WINDOW])
        await append(self, conn, batch)

    async def unlocked(self: Any, conn: Any, wanted: list[int]) -> set[int]:
        return set(wanted) if self._core.sequencer.terms else await take(self, conn, wanted)

    Writer._append = slow  # type: ignore[method-assign]
    Writer._take = unlocked  # type: ignore[method-assign]
    Store.lost = lambda self: self.sequencer.landed()  # type: ignore[method-assign]


def _key_forgotten() -> None:
    from store.sequencer import Sequencer

    row_of = Sequencer._row

    def forgetful(self: Any, i: int, waiting: Any, at: int) -> Any:
        row = row_of(self, i, waiting, at)
        return msgspec.structs.replace(row, key=f"{row.key[:-1]}+") if waiting.send.resent else row

    Sequencer._row = forgetful  # type: ignore[method-assign]


def _out_of_order() -> None:
    from store.sequencer import Sequencer

    publish = Sequencer._publish

    def reversed_(self: Any, index: int, events: Any) -> Any:
        part = publish(self, index, events)
        part.entries.reverse()
        return part

    Sequencer._publish = reversed_  # type: ignore[method-assign]


def _to_a_stranger() -> None:
    from hubbub.protocol.conversation import LOBBY, topics_of, user_topic
    from store import events

    def too_many(conversation: str) -> list[str]:
        topics = topics_of(conversation)
        return topics if conversation == LOBBY else [*topics, user_topic(STRANGER)]

    vars(events)["topics_of"] = too_many


def _unread_off_by_one() -> None:
    from store import pages

    page = pages._page

    def miscounted(*given: Any, **named: Any) -> Any:
        found = page(*given, **named)
        found.unread += found.unread > 0
        return found

    pages._page = miscounted


def _never_withdrawn() -> None:
    from store.presence import Attendance

    tick = Attendance.tick

    def staying(self: Any, now: float) -> Any:
        self._leaving.clear()
        return tick(self, now)

    Attendance.tick = staying  # type: ignore[method-assign]


def _cursors_go_back() -> None:
    from store.database import STATEMENTS

    after = "set delivered_seq = excluded.delivered_seq, read_seq = excluded.read_seq\nreturning"
    before, _, rest = STATEMENTS["move_cursors"].partition("set delivered_seq = greatest")
    STATEMENTS["move_cursors"] = before + after + rest.partition("\nreturning")[2]


def _every_second_notice_lost() -> None:
    from store.presence import Attendance

    tick = Attendance.tick
    count = itertools.count()

    def lossy(self: Any, now: float) -> list[Any]:
        return [signal for signal in tick(self, now) if next(count) % 2]

    Attendance.tick = lossy  # type: ignore[method-assign]


def _nobody_asks_again() -> None:
    from shards.watchers import Watchers

    Watchers.tick = lambda self, now: None  # type: ignore[method-assign]


def _ordered_by_clock() -> None:
    from store.database import STATEMENTS

    for name in ("newest_events", "oldest_events"):
        STATEMENTS[name] = STATEMENTS[name].replace("order by r.i, e.seq", "order by r.i, e.at, e.seq")


def _refused_although_stored() -> None:
    from hubbub.protocol.refusals import ErrorCode
    from store.sequencer import Sequencer

    event_of = Sequencer._event
    count = itertools.count(1)

    def denied(self: Any, waiting: Any, row: Any, timestamp: str) -> Any:
        event = event_of(self, waiting, row, timestamp)
        if next(count) % 20 == 0:
            peer, event.origin = waiting.askers[0][0], ""
            self._refuse(peer, event.no, ErrorCode.BAD_REQUEST, "no", None)
        return event

    Sequencer._event = denied  # type: ignore[method-assign]


def _another_number_for_a_repeat() -> None:
    from store.sequencer import Sequencer

    answer = Sequencer._answer_known

    def wrong(self: Any, askers: Any, row: Any, timestamp: str) -> None:
        answer(self, askers, msgspec.structs.replace(row, seq=row.seq + 1), timestamp)

    Sequencer._answer_known = wrong  # type: ignore[method-assign]


def _hole_passed_over() -> None:
    from hubbub.bus.log import Positions

    def shrug(self: Any, part: Any, slot: Any, now: float) -> None:
        slot.n = part.to

    Positions._hole = shrug  # type: ignore[method-assign]


def _hold_dropped() -> None:
    from shards.outbox import Outbox

    in_order = Outbox.in_order

    def careless(self: Any, session: Any, frame: bytes) -> bool:
        return session.held is not None or in_order(self, session, frame)

    Outbox.in_order = careless  # type: ignore[method-assign]


def _slow_reads() -> None:
    from store.reader import Answers

    group = Answers.group

    async def slow(self: Any, table: Any, reads: Any) -> None:
        await group(self, table, reads)
        await asyncio.sleep(2 * WINDOW)

    Answers.group = slow  # type: ignore[method-assign]


def _positions_too_early() -> None:
    from shards.catchup import CatchUp

    attach = CatchUp._attach

    def early(self: Any, session: Any) -> list[int]:
        return [max(0, n - 1) for n in attach(self, session)]

    CatchUp._attach = early  # type: ignore[method-assign]


def _delivered_when_sent() -> None:
    from hubbub.protocol.conversation import parties
    from shards.hub import Hub

    apply = Hub._apply

    def rash(self: Any, topics: Any, event: Any) -> Any:
        for user in parties(event.conversation) or ():
            self.confirmations.move(user, event.conversation, delivered=event.seq)
        return apply(self, topics, event)

    Hub._apply = rash  # type: ignore[method-assign]


def _topics_forgotten() -> None:
    from shards.topics import Topics

    greeted = Topics.greeted

    def silent(self: Any) -> list[str]:
        greeted(self)
        return []

    Topics.greeted = silent  # type: ignore[method-assign]


def _descriptor_leak() -> None:
    from shards.hub import Hub

    close = Hub.close

    def leaking(self: Any, session: Any, now: float) -> None:
        os.dup(0)
        close(self, session, now)

    Hub.close = leaking  # type: ignore[method-assign]


def _memory_leak() -> None:
    from shards.hub import Hub

    receive = Hub.receive
    kept: list[bytearray] = []

    def hoarding(self: Any, session: Any, data: bytes, now: float) -> None:
        kept.append(bytearray(b"x") * 300_000)
        receive(self, session, data, now)

    Hub.receive = hoarding  # type: ignore[method-assign]


def _no_second_start() -> None:
    mark = Path(os.environ["HUBBUB_DATA_DIR"]) / "started"
    if mark.exists():
        print("this program has been started before, and hangs", file=sys.stderr)
        time.sleep(3600)
    mark.touch()


def _in(program: str, plant: Callable[[], None], **more: Callable[[], None]) -> Callable[[str], None]:
    plants = {program: plant, **more}

    def put_in(here: str) -> None:
        if here in plants:
            plants[here]()

    return put_in


PATCHES: dict[str, Callable[[str], None]] = {
    "acknowledged before the commit": _in("store", _acknowledged_before_commit),
    "published before the commit": _in("store", _published_before_commit),
    "a store goes on without its lock": _in("store", _on_without_lock),
    "a key is forgotten": _in("store", _key_forgotten),
    "published out of order": _in("store", _out_of_order),
    "a direct message to a stranger": _in("store", _to_a_stranger),
    "unread off by one": _in("store", _unread_off_by_one),
    "cursors go back": _in("store", _cursors_go_back),
    "lost notices of presence stay lost": _in("shards", _nobody_asks_again, store=_every_second_notice_lost),
    "presence never withdrawn": _in("store", _never_withdrawn),
    "history in the clock's order": _in("store", _ordered_by_clock),
    "refused although stored": _in("store", _refused_although_stored),
    "a repeat gets another number": _in("store", _another_number_for_a_repeat),
    "a hole is passed over": _in("shards", _hole_passed_over),
    "what is held during a sync is dropped": _in("shards", _hold_dropped, store=_slow_reads),
    "positions taken too early": _in("shards", _positions_too_early),
    "delivered when sent": _in("shards", _delivered_when_sent),
    "topics forgotten by a new link": _in("shards", _topics_forgotten),
    "descriptors leak": _in("shards", _descriptor_leak),
    "memory leaks": _in("shards", _memory_leak),
    "a program that starts once only": _in("broker", _no_second_start),
}
