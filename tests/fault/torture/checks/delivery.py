"""What each client was given, against the table and against every other client."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from hubbub.protocol.client import Applied
from hubbub.protocol.conversation import may_read
from tests.fault.torture.record import (
    Acked,
    Arrived,
    Closed,
    End,
    History,
    Opened,
    Overheard,
    Receipt,
    Row,
    Synced,
    Violation,
)


def applied_is_the_table(history: History) -> Iterator[Violation]:
    """Each device applied its conversations as the table has them: everything, once, in that order, nothing else."""
    for end in history.ends:
        for name, applied in end.applied.items():
            rows = [row for row in history.conversations.get(name, []) if row.seq > end.from_seq.get(name, 0)]
            yield from _compare(end, name, applied, rows)


def _compare(end: End, name: str, applied: list[Applied], rows: list[Row]) -> Iterator[Violation]:
    expected = iter(rows)
    seen: set[int] = set()
    all_of_them = {one.seq for one in applied}
    for one in applied:
        row = next(expected, None)
        if row is not None and _same(one, row):
            seen.add(one.seq)
            continue
        if one.seq in seen:
            kind, text = "applied twice", f"{end.name} applied {name} #{one.seq} twice"
        elif row is None:
            kind, text = "shown and not stored", f"{end.name} was shown {one}, which the table does not have"
        elif one.seq > row.seq and row.seq not in all_of_them:
            kind, text = "lost on the way", f"{end.name} went on with {name} #{one.seq} without #{row.seq}"
        else:
            kind, text = "another order", f"{end.name} was shown {one} in the place of {row}"
        yield Violation(kind, text, name, one.seq, user=end.username, device=end.name)
        return


def everything_arrived(history: History) -> Iterator[Violation]:
    """A device that ended connected and synced has its conversations to their ends."""
    for end in history.ends:
        if not end.settled:
            continue
        for name, rows in history.conversations.items():
            if not may_read(end.username, name):
                continue
            applied = end.applied.get(name)
            reached = applied[-1].seq if applied else end.from_seq.get(name, 0)
            if reached < rows[-1].seq:
                text = f"{end.name} is connected and synced, and has {name} to #{reached} of #{rows[-1].seq}"
                yield Violation("lost on the way", text, name, reached + 1, user=end.username, device=end.name)


def _same(one: Applied, row: Row) -> bool:
    """Whether it is the row. An own message that was only acknowledged has no ordinal."""
    return (one.seq, one.id, one.sender, one.recipient, one.content, one.key) == (
        row.seq,
        row.id,
        row.sender,
        row.recipient,
        row.content,
        row.key,
    ) and one.ordinal in (None, row.ordinal)


def nobody_overhears(history: History) -> Iterator[Violation]:
    """Whatever names a conversation comes only to those who take part in it."""
    for one in history.records:
        if isinstance(one, Arrived | Acked | Receipt | Synced | Overheard):
            user = history.users[one.device]
            if not may_read(user, one.conversation):
                seq = one.seq if isinstance(one, Arrived | Acked) else 0
                text = f"{one.device} was sent {one}"
                yield Violation("shown to a stranger", text, one.conversation, seq, user=user, at=one.at)


def arrived_is_the_table(history: History) -> Iterator[Violation]:
    """Every message that came in, whatever became of it at the client, is the row of that place."""
    for one in history.records:
        if isinstance(one, Arrived):
            row = history.by_place.get((one.conversation, one.seq))
            if row is None or row.id != one.id:
                text = f"{one.device} was sent {one.conversation} #{one.seq} with id {one.id}, the table has {row}"
                yield Violation("shown and not stored", text, one.conversation, one.seq, device=one.device, at=one.at)


@dataclass
class _Stream:
    """What one connection was sent live: the position of each conversation, and acknowledgements of earlier copies,
    which stand outside the order."""

    positions: dict[str, int] = field(default_factory=dict)
    aside: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))


def live_is_gapless(history: History) -> Iterator[Violation]:
    """Between a sync and the next, a connection is sent each message or its acknowledgement, once, in order."""
    streams: dict[str, _Stream] = {}
    for one in history.records:
        match one:
            case Opened() | Closed():
                streams[one.device] = _Stream()
            case Synced():
                streams[one.device].positions[one.conversation] = one.to
            case Arrived() | Acked():
                stream = streams.get(one.device)
                if stream is None or not one.live:
                    continue
                aside = stream.aside[one.conversation]
                if isinstance(one, Acked) and one.duplicate:
                    aside.add(one.seq)
                    continue
                position = stream.positions.get(one.conversation, 0)
                while position + 1 in aside and position + 1 < one.seq:
                    position += 1
                if one.seq == position + 1:
                    stream.positions[one.conversation] = one.seq
                elif one.seq in aside:
                    continue
                else:
                    kind = "a gap in the stream" if one.seq > position else "sent twice"
                    text = f"{one.device}, live at {one.conversation} #{position}, was sent #{one.seq}"
                    yield Violation(kind, text, one.conversation, position + 1, device=one.device, at=one.at)
                    stream.positions[one.conversation] = max(position, one.seq)
            case _:
                pass


def rest_is_the_table(history: History) -> Iterator[Violation]:
    """REST shows each conversation as the table has it."""
    for page in history.pages:
        rows = [(row.seq, row.id, row.content) for row in history.conversations.get(page.conversation, [])]
        if page.events != rows:
            at = next((i for i, (a, b) in enumerate(zip(page.events, rows, strict=False)) if a != b), -1)
            text = f"{page.username} reads {len(page.events)} of {len(rows)} in {page.conversation}"
            if at >= 0:
                text = f"{page.username} reads {page.events[at]} in {page.conversation} in the place of {rows[at]}"
            yield Violation("another order", text, page.conversation, rows[at][0] if rows else 0)


CHECKS = (
    applied_is_the_table,
    everything_arrived,
    nobody_overhears,
    arrived_is_the_table,
    live_is_gapless,
    rest_is_the_table,
)
