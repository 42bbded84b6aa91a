"""Gives every message its place, one batch at a time. Pure: rows in, rows out, no database.

While one batch is being committed, what arrives waits; all of it is the next batch (group commit without
a timer). Nothing that a batch assumes is remembered before its commit has returned: memory changes in
`stored` alone, so that a lost commit leaves nothing to take back but the slots themselves.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from hubbub.protocol.conversation import event_id, slot_of
from hubbub.protocol.internal import Entry, Known, LogEvent, Range, Refused, Reply, Send, wire_term
from hubbub.protocol.refusals import ErrorCode
from store.events import Extra, entry, extra_of, iso, payload_of_send

RING_BYTES = 512 * 1024  # of one slot's newest events; 32 MB for all 64 when full
REPLAY_EVENTS = 1_000  # in one chunk of a replay
ENDS_MAX = 100_000  # conversations whose last numbers are remembered; the table knows the others

Key = tuple[str, str, str]


class InputRow(msgspec.Struct, frozen=True):
    """One row of the batch's JSON parameter, see `append_messages` in statements.sql."""

    i: int
    slot: int
    n: int
    conversation: str
    seq: int | None
    ordinal: int | None
    sender: str
    recipient: str | None
    key: str
    content: str
    extra: Extra | None
    at: int


class StoredRow(msgspec.Struct, frozen=True, array_like=True):
    """One row of the statement's result; `at` in unix milliseconds."""

    i: int
    id: int
    seq: int
    ordinal: int
    at: int
    fresh: bool
    same: bool


class Waiting:
    """A send and everybody who asked for it: ``(peer, origin, no)``."""

    __slots__ = ("askers", "send", "slot")

    def __init__(self, slot: int, send: Send, peer: bytes) -> None:
        self.slot = slot
        self.send = send
        self.askers = [(peer, send.origin, send.no)]


class Batch:
    """What is being committed: `rows` for the statement, in the order of `waiting`."""

    __slots__ = ("rows", "waiting")

    def __init__(self, waiting: list[Waiting], rows: list[InputRow]) -> None:
        self.waiting = waiting
        self.rows = rows


class _Slot:
    __slots__ = ("n", "ring", "ring_bytes", "term")

    def __init__(self, term: int, n: int) -> None:
        self.term = term
        self.n = n
        self.ring: deque[Entry] = deque()
        self.ring_bytes = 0


class Sequencer:
    """The slots this store owns, what waits to be stored in them, and their newest events.

    `replies` collects ``(peer, reply)``; the caller empties it.
    """

    def __init__(self, *, queue_max: int, batch_max: int) -> None:
        self.replies: list[tuple[bytes, Reply]] = []
        self.refused = 0
        self.epoch = 0
        self._queue_max = queue_max
        self._batch_max = batch_max
        self._slots: dict[int, _Slot] = {}
        self._queue: deque[Waiting] = deque()
        self._by_key: dict[Key, Waiting] = {}
        self._ends: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._flying: Batch | None = None

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def terms(self) -> dict[int, int]:
        """The owned slots with their wire terms."""
        return {index: slot.term for index, slot in self._slots.items()}

    def owns(self, slot: int) -> bool:
        """Whether this store is the slot's writer, as far as it knows."""
        return slot in self._slots

    def last(self, slot: int) -> int:
        """The n of an owned slot's newest event."""
        return self._slots[slot].n

    def take(self, epoch: int, owned: Iterable[tuple[int, int, int]]) -> None:
        """Own these ``(slot, term, last n)`` from now on."""
        self.epoch = epoch
        for index, term, n in owned:
            self._slots[index] = _Slot(wire_term(epoch, term), n)

    def lose(self) -> None:
        """The session with the locks is gone: own nothing, answer nothing; shards will ask the next owner."""
        self._slots.clear()
        self._queue.clear()
        self._by_key.clear()
        self._ends.clear()
        self._flying = None

    def watermarks(self) -> list[Range]:
        """How far each owned slot's log has come."""
        return [Range(index, slot.term, slot.n, slot.n, []) for index, slot in self._slots.items()]

    def offer(self, peer: bytes, send: Send) -> None:
        """A send to be stored. Without its slot it is dropped: it will be sent to the owner."""
        slot = slot_of(send.conversation)
        if slot not in self._slots:
            return
        key = (send.conversation, send.sender, send.key)
        waiting = self._by_key.get(key)
        if waiting is not None:
            self._merge(waiting, peer, send)
        elif len(self._queue) < self._queue_max:
            waiting = Waiting(slot, send, peer)
            self._by_key[key] = waiting
            self._queue.append(waiting)
        elif not send.resent:
            # Of a send that comes again an earlier copy may be stored: silence, not "no".
            text = "the store has too much to write; try again"
            self._refuse(peer, send.no, ErrorCode.OVERLOADED, text, 1000)

    def batch(self, at: int) -> Batch | None:
        """What waits, as the next batch, or None. One may be under way at a time; *at*: unix ms."""
        if self._flying is not None or not self._queue:
            return None
        count = min(len(self._queue), self._batch_max)
        waiting = [self._queue.popleft() for _ in range(count)]
        self._flying = Batch(waiting, [self._row(i, one, at) for i, one in enumerate(waiting)])
        return self._flying

    def singles(self, batch: Batch) -> Iterator[Batch]:
        """A batch that PostgreSQL refused for its content, as batches of one.

        Each is made when it is asked for, on the numbers that the one before has left.
        """
        for one in batch.waiting:
            yield Batch([one], [self._row(0, one, batch.rows[0].at)])

    def stored(self, batch: Batch, rows: list[StoredRow]) -> list[Range]:
        """The commit returned: remember, answer the repeated, and return what is to be published."""
        fresh: dict[int, list[LogEvent]] = {}
        for row in sorted(rows, key=lambda row: row.id):
            waiting = batch.waiting[row.i]
            timestamp = iso(row.at)
            if row.fresh:
                fresh.setdefault(waiting.slot, []).append(self._event(waiting, row, timestamp))
                self._remember(waiting.send.conversation, row.seq, row.ordinal)
                self._answer_known(waiting.askers[1:], row, timestamp)
            elif row.same:
                self._answer_known(waiting.askers, row, timestamp)
            else:
                for peer, _, no in waiting.askers:
                    self._refuse_conflict(peer, no)
            self._forget(waiting)
        if len(batch.waiting) != len(rows):
            raise RuntimeError(f"{len(batch.waiting)} rows were written, {len(rows)} came back")
        return [self._publish(index, events) for index, events in fresh.items()]

    def refuse_content(self, batch: Batch, why: str) -> None:
        """PostgreSQL will not store this one message."""
        for waiting in batch.waiting:
            for peer, _, no in waiting.askers:
                self._refuse(peer, no, ErrorCode.BAD_REQUEST, f"the database refused the message: {why}", None)
            self._forget(waiting)

    def landed(self) -> None:
        """The batch under way is done with; the next may start."""
        self._flying = None

    def replay(self, index: int, after: int) -> Range | None:
        """A chunk of the slot's log from memory; None where memory does not reach back so far."""
        slot = self._slots[index]
        first = slot.n - len(slot.ring)
        if after < first:
            return None
        entries = list(islice(slot.ring, after - first, after - first + REPLAY_EVENTS))
        return Range(index, slot.term, min(after, slot.n), min(after + len(entries), slot.n), entries)

    def replayed(self, index: int, after: int, to: int, entries: list[Entry]) -> Range | None:
        """A chunk of the slot's log that was read from the table; None if the slot is lost meanwhile."""
        slot = self._slots.get(index)
        return None if slot is None else Range(index, slot.term, after, to, entries)

    def _row(self, i: int, waiting: Waiting, at: int) -> InputRow:
        send = waiting.send
        seq, ordinal = self._ends.get(send.conversation, (None, None))
        return InputRow(
            i,
            waiting.slot,
            self._slots[waiting.slot].n,
            send.conversation,
            seq,
            ordinal,
            send.sender,
            send.recipient,
            send.key,
            send.content,
            extra_of(send),
            at,
        )

    def _merge(self, waiting: Waiting, peer: bytes, send: Send) -> None:
        first = waiting.send
        if (first.content, first.reply_to, first.mentions) != (send.content, send.reply_to, send.mentions):
            # Which of the two is the message is for the table to say: the first may be refused by it, the second
            # may be what it holds. So this one is dropped, and its shard asks again when the first is settled.
            return
        for i, (_, origin, no) in enumerate(waiting.askers):
            if (origin, no) == (send.origin, send.no):
                waiting.askers[i] = (peer, origin, no)  # the same request, perhaps over a newer link
                return
        waiting.askers.append((peer, send.origin, send.no))

    def _event(self, waiting: Waiting, row: StoredRow, timestamp: str) -> LogEvent:
        send = waiting.send
        _, origin, no = waiting.askers[0]
        payload = payload_of_send(send, row.id, row.seq, row.ordinal, timestamp)
        return LogEvent(row.id, send.conversation, row.seq, timestamp, origin, no, payload)

    def _publish(self, index: int, events: list[LogEvent]) -> Range:
        slot = self._slots[index]
        after = slot.n
        slot.n += len(events)
        if events[0].id != event_id(index, after + 1) or events[-1].id != event_id(index, slot.n):
            raise RuntimeError(f"slot {index}: the table numbered otherwise than its owner after {after}")
        entries = [entry(event) for event in events]
        slot.ring.extend(entries)
        slot.ring_bytes += sum(len(one.event) for one in entries)
        while slot.ring_bytes > RING_BYTES:
            slot.ring_bytes -= len(slot.ring.popleft().event)
        return Range(index, slot.term, after, slot.n, entries)

    def _remember(self, conversation: str, seq: int, ordinal: int) -> None:
        self._ends[conversation] = (seq, ordinal)
        self._ends.move_to_end(conversation)
        if len(self._ends) > ENDS_MAX:
            self._ends.popitem(last=False)

    def _forget(self, waiting: Waiting) -> None:
        send = waiting.send
        self._by_key.pop((send.conversation, send.sender, send.key), None)

    def _answer_known(self, askers: list[tuple[bytes, str, int]], row: StoredRow, timestamp: str) -> None:
        self.replies += [(peer, Known(no, row.id, row.seq, timestamp)) for peer, _, no in askers]

    def _refuse_conflict(self, peer: bytes, no: int) -> None:
        self._refuse(peer, no, ErrorCode.CONFLICT, "this id was used for another message of yours", None)

    def _refuse(self, peer: bytes, no: int, code: ErrorCode, message: str, retry_after_ms: int | None) -> None:
        self.refused += 1
        self.replies.append((peer, Refused(no, code.name, message, "no", retry_after_ms)))
