"""The core of a store: what each request leads to. No sockets, no clock, no database.

Writes go through the sequencer and come back by `stored`; reads are handed out in `reads` and come back
by `answer`. `flush` passes on what a tick produced.
"""

from hubbub.bus.interface import Bus
from hubbub.protocol.conversation import split_id, user_slot
from hubbub.protocol.internal import (
    AddAccount,
    Attend,
    Backlog,
    Cursor,
    DropRefresh,
    FindAccount,
    FindUsers,
    KeepRefresh,
    ListConversations,
    MoveCursors,
    Online,
    Range,
    ReadAccess,
    ReadHistory,
    Replay,
    Reply,
    Request,
    Revoke,
    Search,
    Send,
    SetPassword,
    Signal,
    Steps,
    SwapRefresh,
    Sync,
    WhoIsOnline,
    trace_of,
)
from hubbub.protocol.limits import WATERMARK_EVERY, Limits
from store.cursors import CursorBatch, Cursors, receipts
from store.events import Row, entry_of_row
from store.presence import Attendance
from store.sequencer import Batch, Sequencer, StoredRow

Lookup = (
    ReadAccess
    | FindAccount
    | AddAccount
    | SetPassword
    | KeepRefresh
    | SwapRefresh
    | DropRefresh
    | Revoke
    | ListConversations
    | Search
    | FindUsers
)
Read = Sync | Backlog | ReadHistory | Replay | Lookup


class Store:
    """One store's decisions; a `hubbub.bus.interface.Handler`. *steps* is told of each message's way through it."""

    def __init__(self, limits: Limits, steps: Steps | None = None) -> None:
        self.sequencer = Sequencer(queue_max=limits.store_queue, batch_max=limits.batch)
        self.presence = Attendance()
        self.cursors = Cursors()
        self.reads: list[tuple[bytes, Read]] = []
        self.stored_messages = 0
        self.duplicates = 0
        self.replays = 0
        self._reads_max = limits.store_queue
        self._steps = steps
        self._replies: list[tuple[bytes, Reply]] = self.sequencer.replies
        self._signals: list[Signal] = []
        self._ranges: list[Range] = []
        self._replayed: list[tuple[bytes, Range]] = []
        self._bus: Bus | None = None
        self._marked = 0.0

    def connect(self, bus: Bus) -> None:
        """The exchange to speak through; once, before anything else."""
        self._bus = bus

    @property
    def bus(self) -> Bus:
        """The exchange."""
        if self._bus is None:
            raise RuntimeError("Store.connect was not called")
        return self._bus

    # --- the bus ------------------------------------------------------------------------------------

    def linked(self, now: float) -> None:
        """See `Handler.linked`. The hello named the slots; shards learn at once where their logs are."""
        self._ranges += self.sequencer.watermarks()

    def requests(self, peer: bytes, requests: list[Request], now: float) -> None:
        """See `Handler.requests`."""
        for request in requests:
            match request:
                case Send():
                    if self._steps is not None:
                        self._steps("sequencing", trace_of(request.origin, request.no))
                    self.sequencer.offer(peer, request)
                case MoveCursors():
                    self.cursors.offer(peer, request)
                case Attend():
                    if self.sequencer.owns(request.slot):
                        again = self.presence.attend(request, now)
                        if again is not None:
                            self._replies.append((peer, again))
                case WhoIsOnline():
                    if self.sequencer.owns(request.slot):
                        users = self.presence.online(request.slot, request.among)
                        self._replies.append((peer, Online(request.no, users)))
                case Replay():
                    self._replay(peer, request)
                case _:
                    # A read that finds the queue full is dropped; its shard asks again.
                    if len(self.reads) < self._reads_max:
                        self.reads.append((peer, request))

    def subscribed(self, no: int, now: float) -> None:
        """See `Handler.subscribed`. A store listens to no topic."""

    def ranges(self, ranges: list[Range], now: float) -> None:
        """See `Handler.ranges`. A store follows no log."""

    def replies(self, replies: list[Reply], now: float) -> None:
        """See `Handler.replies`. A store asks nobody."""

    def signals(self, signals: list[Signal], now: float) -> None:
        """See `Handler.signals`. A store listens to no topic."""

    # --- the database -------------------------------------------------------------------------------

    def taken(self, epoch: int, owned: list[tuple[int, int, int]]) -> None:
        """This store's session holds the locks of these ``(slot, term, last n)``, terms committed."""
        self.sequencer.take(epoch, owned)
        self.bus.own(self.sequencer.terms)
        self._ranges += self.sequencer.watermarks()

    def lost(self) -> None:
        """The session is gone, and every slot with it."""
        self.presence.lose(list(self.sequencer.terms))
        self.sequencer.lose()
        self.cursors.lose()
        self._ranges.clear()
        self.bus.own({})

    def committing(self, batch: Batch) -> None:
        """The batch goes to the database."""
        self._tell("committing", batch)

    def stored(self, batch: Batch, rows: list[StoredRow]) -> None:
        """The batch is committed."""
        self._tell("committed", batch)
        for row in rows:
            if row.fresh:
                self.stored_messages += 1
            else:
                self.duplicates += 1
        self._ranges += self.sequencer.stored(batch, rows)

    def moved(self, batch: CursorBatch, cursors: list[Cursor]) -> None:
        """Cursor movements are committed; *cursors* are those that grew."""
        self._replies += batch.replies()
        self._signals += receipts(cursors)

    def answer(self, peer: bytes, reply: Reply) -> None:
        """A read is answered."""
        self._replies.append((peer, reply))

    def answer_replay(self, peer: bytes, request: Replay, to: int, rows: list[Row], limit: int) -> None:
        """A chunk of a slot's log was read from the table, up to n = *to* unless it is cut at *limit*."""
        if len(rows) == limit:
            to = split_id(rows[-1].id)[1]
        part = self.sequencer.replayed(request.slot, request.after, to, [entry_of_row(row) for row in rows])
        if part is not None:
            self._replayed.append((peer, part))

    def is_online(self, username: str) -> bool:
        """Whether the user is here now; known to the owner of the user's slot."""
        return bool(self.presence.online(user_slot(username), [username]))

    # --- time ---------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Ten times a second."""
        self._signals += self.presence.tick(now)
        if now - self._marked >= WATERMARK_EVERY:
            self._marked = now
            self._ranges += self.sequencer.watermarks()

    def flush(self) -> None:
        """Pass on what this tick produced. What the bus cannot take is lost, noticed and asked for again."""
        bus = self.bus
        if self._ranges:
            bus.publish(self._ranges)
            self._ranges.clear()
        for peer, part in self._replayed:
            bus.publish_to(peer, [part])
        self._replayed.clear()
        if self._replies:
            by_peer: dict[bytes, list[Reply]] = {}
            for peer, reply in self._replies:
                by_peer.setdefault(peer, []).append(reply)
            self._replies.clear()
            for peer, replies in by_peer.items():
                bus.reply(peer, replies)
        if self._signals:
            bus.signal(self._signals)
            self._signals.clear()

    def _tell(self, step: str, batch: Batch) -> None:
        if self._steps is not None:
            for waiting in batch.waiting:
                self._steps(step, trace_of(waiting.send.origin, waiting.send.no))

    def _replay(self, peer: bytes, request: Replay) -> None:
        if not self.sequencer.owns(request.slot):
            return
        self.replays += 1
        part = self.sequencer.replay(request.slot, request.after)
        if part is not None:
            self._replayed.append((peer, part))
        elif len(self.reads) < self._reads_max:
            self.reads.append((peer, request))
