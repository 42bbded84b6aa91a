"""What an answer to a read covers: which events of which conversations, and what it says of them. Pure."""

from collections.abc import Iterable

import msgspec

from hubbub.protocol.internal import BacklogPage, ConversationPage, Cursor, HistoryRows, ReadHistory, SyncPage
from hubbub.protocol.limits import HISTORY_MAX, PAGE_BYTES, PAGE_EVENTS
from store.events import Row, payload_of_row

# Events of one conversation in one page of a backlog.
BACKLOG_EVENTS = 500


class Conversation(msgspec.Struct, frozen=True, array_like=True):
    """One row of `list_conversations`: a user's conversation up to the asker's positions."""

    i: int
    conversation: str
    delivered_seq: int
    read_seq: int
    last_seq: int
    unread: int
    other: str | None
    other_delivered: int | None
    other_read: int | None


class Part(msgspec.Struct, frozen=True):
    """Events to read: `count` of ``(after, upto]``, and no more than one that does not fit into `bytes`.

    One row of the JSON parameter of the event queries.
    """

    i: int
    conversation: str
    after: int
    upto: int
    count: int
    bytes: int = PAGE_BYTES


def plan_sync(have: dict[str, int], conversations: list[Conversation], first: int) -> list[Part]:
    """What to read for a sync: everything after `have`, the newest page where nothing is held.

    Parts are numbered from *first*, one for each conversation, in order. A budget for the whole answer
    is shared out; what it cuts off is older and reported as truncated.
    """
    missing = [max(0, one.last_seq - have.get(one.conversation, 0)) for one in conversations]
    wanting = sum(count > 0 for count in missing)
    page = max(1, min(HISTORY_MAX, PAGE_EVENTS // wanting)) if wanting else 0
    budget = PAGE_EVENTS
    parts: list[Part] = []
    for i, (one, count) in enumerate(zip(conversations, missing, strict=True)):
        share = min(count, page, budget)
        budget -= share
        after = min(have.get(one.conversation, 0), one.last_seq)
        parts.append(Part(first + i, one.conversation, after, one.last_seq, share))
    return parts


def plan_backlog(after: dict[str, int], conversations: list[Conversation], first: int) -> list[Part]:
    """What to read for a client without positions: what was not delivered, oldest first."""
    budget = PAGE_EVENTS
    parts: list[Part] = []
    for i, one in enumerate(conversations):
        start = min(max(after.get(one.conversation, 0), one.delivered_seq), one.last_seq)
        share = min(one.last_seq - start, BACKLOG_EVENTS, budget)
        budget -= share
        parts.append(Part(first + i, one.conversation, start, one.last_seq, share))
    return parts


def sync_page(no: int, conversations: list[Conversation], parts: list[Part], rows: dict[int, list[Row]]) -> SyncPage:
    """The answer to a sync. Events that a part names and the table lacks do not exist.

    Each conversation has its share of the bytes, and what those before it left of theirs; what does not fit is older
    and reported as truncated.
    """
    pages: list[ConversationPage] = []
    share = PAGE_BYTES // max(1, sum(part.i in rows for part in parts))
    left = 0
    for one, part in zip(conversations, parts, strict=True):
        events = rows.get(part.i, [])
        payloads, left = _fit(
            reversed(events), left + share if events else left, first=not any(p.events for p in pages)
        )
        kept = events[len(events) - len(payloads) :]
        whole = len(kept) == len(events) and _is_whole(part, events)
        if whole:
            start = part.after
        else:
            start = kept[0].seq - 1 if kept else part.upto
        pages.append(_page(one, start, part.upto, payloads[::-1], truncated=not whole))
    return SyncPage(no, pages)


def backlog_page(
    no: int, conversations: list[Conversation], parts: list[Part], rows: dict[int, list[Row]]
) -> BacklogPage:
    """The answer to a backlog; conversations with nothing to tell are left out, what does not fit comes next."""
    pages: list[ConversationPage] = []
    more = False
    left = PAGE_BYTES
    empty = True
    for one, part in zip(conversations, parts, strict=True):
        if part.after == part.upto:
            continue
        events = rows.get(part.i, [])
        payloads, left = _fit(events, left, first=empty)
        empty = empty and not payloads
        whole = len(payloads) == len(events) and _is_whole(part, events)
        end = part.upto if whole else (events[len(payloads) - 1].seq if payloads else part.after)
        more = more or not whole
        if end > part.after:
            pages.append(_page(one, part.after, end, payloads, truncated=False))
    return BacklogPage(no, pages, more)


def _is_whole(part: Part, events: list[Row]) -> bool:
    """Whether all of the part's range was read."""
    return len(events) < part.count or part.upto - part.after <= part.count


def _fit(rows: Iterable[Row], left: int, *, first: bool) -> tuple[list[bytes], int]:
    """As many of *rows* as fit into so many bytes, as clients read them, and the bytes that are left.

    *first*: nothing is in the answer yet, so one event fits, however large: or nobody would ever get it.
    """
    payloads: list[bytes] = []
    for row in rows:
        payload = payload_of_row(row)
        if len(payload) > left and (payloads or not first):
            break
        payloads.append(payload)
        left -= len(payload)
    return payloads, max(0, left)


def _page(one: Conversation, start: int, end: int, payloads: list[bytes], *, truncated: bool) -> ConversationPage:
    other = None if one.other is None else Cursor(one.other, "", one.other_delivered or 0, one.other_read or 0)
    return ConversationPage(
        one.conversation,
        start,
        end,
        one.last_seq,
        one.delivered_seq,
        one.read_seq,
        one.unread,
        truncated,
        payloads,
        other,
    )


def plan_history(request: ReadHistory, last_seq: int) -> tuple[Part, bool]:
    """What to read for a page of history, one event more than asked; and whether from the oldest."""
    if request.after is not None:
        after = min(request.after, last_seq)
        return Part(0, request.conversation, after, last_seq, request.limit + 1), True
    end = last_seq if request.before is None else min(max(request.before - 1, 0), last_seq)
    return Part(0, request.conversation, 0, end, request.limit + 1), False


def history_page(request: ReadHistory, part: Part, forward: bool, rows: list[Row]) -> HistoryRows:
    """The answer to a page of history, bounded in bytes too."""
    if forward:
        payloads, _ = _fit(rows[: request.limit], PAGE_BYTES, first=True)
        more = len(rows) > len(payloads)
        start, end = part.after, rows[len(payloads) - 1].seq if more else part.upto
    else:
        payloads, _ = _fit(reversed(rows[-request.limit :]), PAGE_BYTES, first=True)
        payloads.reverse()
        more = len(rows) > len(payloads)
        start, end = rows[-len(payloads)].seq - 1 if more else part.after, part.upto
    return HistoryRows(request.no, start, end, more, payloads)
