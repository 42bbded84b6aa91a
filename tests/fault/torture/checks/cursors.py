"""Delivered and read, and the unread counts that follow from them."""

from collections import defaultdict
from collections.abc import Iterator

from tests.fault.torture.record import (
    Acked,
    Confirmed,
    Cursor,
    History,
    Opened,
    Reached,
    Receipt,
    Synced,
    Violation,
)

Place = tuple[str, str]  # (username, conversation)


def never_ahead(history: History) -> Iterator[Violation]:
    """Nobody counts as having received what no device of theirs has, or as having read what they never said so of."""
    received: defaultdict[Place, int] = defaultdict(int)
    read: defaultdict[Place, int] = defaultdict(int)
    for one in history.records:
        match one:
            case Reached():
                place = history.users[one.device], one.conversation
                received[place] = max(received[place], one.seq)
            case Confirmed() if one.what == "read":
                place = history.users[one.device], one.conversation
                read[place] = max(read[place], one.seq)
            case Acked():
                # Who writes has read so far.
                place = history.users[one.device], one.conversation
                read[place] = max(read[place], one.seq)
            case Receipt() | Synced():
                user = one.username if isinstance(one, Receipt) else history.users[one.device]
                yield from _ahead(user, one, received[user, one.conversation], read[user, one.conversation])
            case _:
                pass
    for cursor in history.cursors[-1] if history.cursors else ():
        place = cursor.username, cursor.conversation
        if cursor.conversation != "lobby" or place in received:
            yield from _ahead(cursor.username, cursor, received[place], read[place])


def _ahead(user: str, one: Receipt | Synced | Cursor, received: int, read: int) -> Iterator[Violation]:
    at = getattr(one, "at", -1.0)
    if one.delivered > received:
        text = f"{user} counts as having {one.conversation} to #{one.delivered}, but has #{received}: {one}"
        yield Violation("delivered ahead", text, one.conversation, one.delivered, user=user, at=at)
    # What was there before one came to the lobby counts as read.
    if one.read > read and one.conversation != "lobby":
        text = f"{user} counts as having read {one.conversation} to #{one.read}, but said #{read}: {one}"
        yield Violation("read ahead", text, one.conversation, one.read, user=user, at=at)


def never_back(history: History) -> Iterator[Violation]:
    """Cursors only grow: in the table, in a device's syncs, and in the receipts of a connection."""
    table: dict[Place, Cursor] = {}
    for look in history.cursors:
        for cursor in look:
            before = table.get((cursor.username, cursor.conversation))
            table[cursor.username, cursor.conversation] = cursor
            if before is not None and (cursor.delivered < before.delivered or cursor.read < before.read):
                text = f"the table had {before}, then {cursor}"
                yield Violation("a cursor went back", text, cursor.conversation, user=cursor.username)
    syncs: dict[tuple[str, str], Synced] = {}
    receipts: dict[tuple[str, str, str], Receipt] = {}
    for one in history.records:
        earlier: Synced | Receipt | None = None
        match one:
            case Opened():
                for key in [key for key in receipts if key[0] == one.device]:
                    del receipts[key]
            case Synced():
                earlier = syncs.get((one.device, one.conversation))
                syncs[one.device, one.conversation] = one
            case Receipt():
                earlier = receipts.get((one.device, one.conversation, one.username))
                receipts[one.device, one.conversation, one.username] = one
            case _:
                continue
        if isinstance(one, Synced | Receipt) and earlier is not None:
            if one.delivered < earlier.delivered or one.read < earlier.read:
                text = f"{one.device} was told {earlier}, then {one}"
                yield Violation("a cursor went back", text, one.conversation, user=history.users[one.device], at=one.at)


def unread_is_exact(history: History) -> Iterator[Violation]:
    """An unread count is the number of messages behind what is read, up to the end that the answer speaks of."""
    for one in history.records:
        if isinstance(one, Synced) and one.unread != max(0, one.last - one.read):
            text = f"{one.device} was told of {one.unread} unread, but read #{one.read} of #{one.last}: {one}"
            yield Violation("unread miscounted", text, one.conversation, user=history.users[one.device], at=one.at)
    read = {(one.username, one.conversation): one.read for one in (history.cursors[-1] if history.cursors else ())}
    for listed in history.listed:
        rows = history.conversations.get(listed.conversation, [])
        expected = sum(row.seq > read.get((listed.username, listed.conversation), 0) for row in rows)
        if listed.unread != expected:
            text = f"REST tells {listed.username} of {listed.unread} unread, but {expected} are: {listed}"
            yield Violation("unread miscounted", text, listed.conversation, user=listed.username)


def confirmed_is_counted(history: History) -> Iterator[Violation]:
    """Whoever ended connected and synced, and said so, counts as having everything; what was read last is read."""
    if not history.cursors:
        return
    table = {(one.username, one.conversation): one for one in history.cursors[-1]}
    last: dict[tuple[str, str, str], Confirmed] = {}
    settled = {end.name for end in history.ends if end.settled}
    calm = max((one.at for one in history.records if type(one).__name__ == "Calm"), default=0.0)
    for one in history.records:
        if isinstance(one, Confirmed) and one.device in settled and one.at >= calm:
            last[one.device, one.conversation, one.what] = one
    for one in last.values():
        user = history.users[one.device]
        cursor = table.get((user, one.conversation), Cursor(user, one.conversation, 0, 0))
        stored = cursor.read if one.what == "read" else cursor.delivered
        if stored < one.seq:
            text = f"{one.device} said {one.what} {one.conversation} #{one.seq} in the calm, the table has {cursor}"
            yield Violation("a confirmation was lost", text, one.conversation, one.seq, user=user, at=one.at)


CHECKS = (never_ahead, never_back, unread_is_exact, confirmed_is_counted)
