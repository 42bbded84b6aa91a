"""How far users have received and read, on its way to the store.

A client that says `received` is believed. For one that never did on this connection, a WebSocket ping
is written behind the messages and its pong taken as delivery: a half-open socket answers none.
"""

from functools import partial

from hubbub.protocol.conversation import slot_of
from hubbub.protocol.internal import Cursor, MoveCursors, Refused, Reply
from hubbub.protocol.limits import CURSOR_EVERY
from shards import frames
from shards.outbox import Outbox
from shards.requests import Requests
from shards.session import Session, Stage

MARKER = b"d"
_FLUSH_EVERY = 0.1


class Confirmations:
    """Merges cursor movements and passes them on ten times a second."""

    def __init__(self, outbox: Outbox, requests: Requests) -> None:
        self._outbox = outbox
        self._requests = requests
        self._moves: dict[tuple[str, str], Cursor] = {}
        self._open: dict[Session, None] = {}
        self._flushed = 0.0
        self._pinged = 0.0

    def move(self, username: str, conversation: str, *, delivered: int = 0, read: int = 0) -> None:
        """*username* has received (read) *conversation* up to these seqs; 0 says nothing."""
        cursor = self._moves.get((username, conversation))
        if cursor is None:
            self._moves[username, conversation] = Cursor(username, conversation, delivered, read)
        else:
            cursor.delivered = max(cursor.delivered, delivered)
            cursor.read = max(cursor.read, read)

    def spoke(self, session: Session, conversation: str, seq: int) -> None:
        """The session's own message is stored. Who writes has read so far, but only once it has arrived."""
        if session.own is None:
            session.own = {}
        session.own[conversation] = max(seq, session.own.get(conversation, 0))

    def confirm(self, session: Session, conversation: str, seq: int) -> None:
        """The client has everything up to *seq*."""
        own = session.own.get(conversation, 0) if session.own else 0
        if session.own and 0 < own <= seq:
            del session.own[conversation]
            self.move(session.username, conversation, delivered=seq, read=own)
        else:
            self.move(session.username, conversation, delivered=seq)

    def wrote(self, session: Session, conversation: str, seq: int) -> None:
        """An event went out to a session that does not acknowledge by itself."""
        if session.unconfirmed is None:
            session.unconfirmed = {}
            self._open[session] = None
        # What was held comes after the past, though it was noted before it.
        session.unconfirmed[conversation] = max(seq, session.unconfirmed.get(conversation, 0))

    def pong(self, session: Session, payload: bytes) -> None:
        """The client answered a ping: everything written before it has arrived."""
        marked = session.marked
        if payload != MARKER or marked is None:
            return
        session.marked = None
        if not session.acknowledges:
            for conversation, seq in marked.items():
                self.confirm(session, conversation, seq)

    def acknowledges(self, session: Session) -> None:
        """The client says `received` itself: no more pings for delivery."""
        session.acknowledges = True
        session.unconfirmed = session.marked = None
        self._open.pop(session, None)

    def forget(self, session: Session) -> None:
        """The connection is gone; what it did not confirm counts as undelivered."""
        self._open.pop(session, None)

    def lost(self, session: Session) -> None:
        """What is held for the session will not be written: no pong may speak of it."""
        self.forget(session)
        session.unconfirmed = None
        if session.held is not None and frames.ping(MARKER) in session.held:
            session.marked = None

    def tick(self, now: float) -> None:
        """Write the pings that are due, pass on the movements that have gathered."""
        if now - self._pinged >= CURSOR_EVERY:
            self._pinged = now
            waiting, self._open = self._open, {}
            for session in waiting:
                self._ping(session)
        if self._moves and now - self._flushed >= _FLUSH_EVERY:
            self._flushed = now
            moves, self._moves = self._moves, {}
            by_slot: dict[int, list[Cursor]] = {}
            for (_, conversation), cursor in moves.items():
                by_slot.setdefault(slot_of(conversation), []).append(cursor)
            for slot, cursors in by_slot.items():
                no = self._requests.next_no()
                self._requests.add(slot, no, MoveCursors(no, cursors), now, partial(self._answered, cursors))

    def _answered(self, cursors: list[Cursor], reply: Reply) -> None:
        if isinstance(reply, Refused):
            # No store could write them in time; nobody else will report them again.
            for cursor in cursors:
                self.move(cursor.username, cursor.conversation, delivered=cursor.delivered, read=cursor.read)

    def _ping(self, session: Session) -> None:
        if session.stage is Stage.CLOSED:
            return
        if session.marked is not None:
            self._open[session] = None  # one ping at a time; the rest goes with the next
            return
        session.marked, session.unconfirmed = session.unconfirmed, None
        # Behind what is held: a pong must not speak of messages that have not been written.
        self._outbox.in_order(session, frames.ping(MARKER))
