"""Cursor movements on their way to the table: merged, written once a second, then shown. Pure."""

import msgspec

from hubbub.protocol.conversation import parties, user_topic
from hubbub.protocol.internal import Cursor, Done, MoveCursors, Reply, Signal
from hubbub.protocol.messages import Receipt, encode_event


class Movement(msgspec.Struct, frozen=True):
    """One row of the JSON parameter of `move_cursors`."""

    username: str
    conversation: str
    delivered: int
    read: int


class CursorBatch:
    """Movements being written, and who waits for that: ``(peer, no)``."""

    __slots__ = ("askers", "rows")

    def __init__(self, rows: list[Movement], askers: list[tuple[bytes, int]]) -> None:
        self.rows = rows
        self.askers = askers

    def replies(self) -> list[tuple[bytes, Reply]]:
        """The answers once it is committed."""
        return [(peer, Done(no)) for peer, no in self.askers]


class Cursors:
    """Gathers movements between two writes; all of them only grow, so merging loses nothing."""

    def __init__(self) -> None:
        self._moves: dict[tuple[str, str], tuple[int, int]] = {}
        self._askers: list[tuple[bytes, int]] = []

    def __len__(self) -> int:
        return len(self._moves)

    def offer(self, peer: bytes, request: MoveCursors) -> None:
        """Movements that a shard reports."""
        for cursor in request.cursors:
            self.move(cursor.username, cursor.conversation, cursor.delivered, cursor.read)
        self._askers.append((peer, request.no))

    def move(self, username: str, conversation: str, delivered: int, read: int) -> None:
        """*username* has received and read so far; nobody waits for this one."""
        before = self._moves.get((username, conversation), (0, 0))
        self._moves[username, conversation] = (max(before[0], delivered), max(before[1], read))

    def batch(self) -> CursorBatch | None:
        """What has gathered, or None."""
        if not self._moves and not self._askers:
            return None
        rows = [Movement(user, conversation, *move) for (user, conversation), move in self._moves.items()]
        batch = CursorBatch(rows, self._askers)
        self._moves = {}
        self._askers = []
        return batch

    def lose(self) -> None:
        """The slots have another owner; shards will report to it."""
        self._moves = {}
        self._askers = []


def receipts(moved: list[Cursor]) -> list[Signal]:
    """What both sides of a direct conversation are shown of a cursor that was written."""
    signals: list[Signal] = []
    for cursor in moved:
        pair = parties(cursor.conversation)
        if pair is not None:
            receipt = Receipt(
                conversation=cursor.conversation,
                username=cursor.username,
                delivered_seq=cursor.delivered,
                read_seq=cursor.read,
            )
            payload = encode_event(receipt)
            signals += [Signal(user_topic(user), payload) for user in dict.fromkeys(pair)]
    return signals
