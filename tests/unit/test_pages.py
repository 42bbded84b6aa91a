"""Which range an answer covers. A client's position becomes its end, so it must never promise too much."""

from typing import Any

import pytest

from hubbub.protocol.internal import Backlog as BacklogRead
from hubbub.protocol.internal import ReadHistory, Sync
from hubbub.protocol.limits import HISTORY_MAX, PAGE_BYTES, PAGE_EVENTS
from store.events import Row
from store.pages import (
    BACKLOG_EVENTS,
    Conversation,
    Part,
    backlog_page,
    history_page,
    plan_backlog,
    plan_history,
    plan_sync,
    sync_page,
)
from store.reader import GROUP, portions, take_group


def talk(name: str, last: int, *, delivered: int = 0, read: int = 0, other: str | None = None) -> Conversation:
    return Conversation(0, name, delivered, read, last, last - read, other, 3 if other else None, 1 if other else None)


def rows(conversation: str, seqs) -> list[Row]:
    return [Row(seq, conversation, seq, seq, "al", None, f"m{seq}", "k" * 16, None, 0) for seq in seqs]


def seqs(parts) -> list[tuple[str, int, int, int]]:
    return [(part.conversation, part.after, part.upto, part.count) for part in parts]


def covered(page) -> list[tuple[str, int, int, int, bool]]:
    return [(one.conversation, one.from_, one.to, len(one.events), one.truncated) for one in page.conversations]


def test_a_sync_reads_what_is_missing():
    talks = [talk("a", 9), talk("b", 4), talk("c", 0), talk("d", 5)]
    parts = plan_sync({"a": 7, "b": 4, "x": 3}, talks, 20)
    assert seqs(parts) == [("a", 7, 9, 2), ("b", 4, 4, 0), ("c", 0, 0, 0), ("d", 0, 5, 5)]
    assert [part.i for part in parts] == [20, 21, 22, 23]
    page = sync_page(6, talks, parts, {20: rows("a", (8, 9)), 23: rows("d", range(1, 6))})
    assert page.no == 6
    assert covered(page) == [("a", 7, 9, 2, False), ("b", 4, 4, 0, False), ("c", 0, 0, 0, False), ("d", 0, 5, 5, False)]


def test_who_is_ahead_of_this_shard_is_promised_nothing():
    parts = plan_sync({"a": 12}, [talk("a", 9)], 0)
    assert seqs(parts) == [("a", 9, 9, 0)]


def test_a_long_absence_is_truncated():
    talks = [talk("a", 10_000)]
    parts = plan_sync({"a": 10}, talks, 0)
    assert seqs(parts) == [("a", 10, 10_000, HISTORY_MAX)]
    newest = rows("a", range(10_001 - HISTORY_MAX, 10_001))
    assert covered(sync_page(1, talks, parts, {0: newest})) == [("a", 10_000 - HISTORY_MAX, 10_000, HISTORY_MAX, True)]


def test_what_does_not_exist_is_covered():
    """Three of a hundred were kept: fewer came than there was room for, so there are no others."""
    talks = [talk("a", 100)]
    parts = plan_sync({}, talks, 0)
    assert covered(sync_page(1, talks, parts, {0: rows("a", (7, 50, 100))})) == [("a", 0, 100, 3, False)]
    assert covered(sync_page(1, talks, parts, {})) == [("a", 0, 100, 0, False)]


def test_the_budget_of_a_sync_is_shared_out():
    talks = [talk(f"c{i}", 1_000) for i in range(40)]
    parts = plan_sync({}, talks, 0)
    assert {part.count for part in parts} == {PAGE_EVENTS // 40}
    many = [talk(f"c{i}", 1) for i in range(PAGE_EVENTS + 10)]
    parts = plan_sync({}, many, 0)
    assert sum(part.count for part in parts) == PAGE_EVENTS
    last = sync_page(1, many, parts, {part.i: rows(part.conversation, (1,)) for part in parts if part.count})
    assert covered(last)[-1] == (f"c{PAGE_EVENTS + 9}", 1, 1, 0, True)  # cut off, and said so
    assert covered(last)[0] == ("c0", 0, 1, 1, False)


def test_conversations_that_want_nothing_take_no_share():
    talks = [talk("a", 500)] + [talk(f"c{i}", 9) for i in range(100)]
    parts = plan_sync({f"c{i}": 9 for i in range(100)}, talks, 0)
    assert parts[0].count == HISTORY_MAX


def test_what_a_sync_says_of_a_conversation():
    (page,) = sync_page(1, [talk("a", 9, delivered=5, read=4, other="bob")], [Part(0, "a", 9, 9, 0)], {}).conversations
    assert (page.last_seq, page.delivered_seq, page.read_seq, page.unread) == (9, 5, 4, 5)
    assert page.other is not None
    assert (page.other.username, page.other.delivered, page.other.read) == ("bob", 3, 1)
    (page,) = sync_page(1, [talk("a", 9)], [Part(0, "a", 9, 9, 0)], {}).conversations
    assert page.other is None


def test_a_backlog_begins_where_delivery_ended():
    talks = [talk("a", 9, delivered=7), talk("b", 4, delivered=4), talk("c", 3, delivered=9)]
    parts = plan_backlog({}, talks, 0)
    assert seqs(parts) == [("a", 7, 9, 2), ("b", 4, 4, 0), ("c", 3, 3, 0)]
    page = backlog_page(1, talks, parts, {0: rows("a", (8, 9))})
    assert covered(page) == [("a", 7, 9, 2, False)]
    assert page.more is False


def test_a_long_backlog_comes_in_pages_from_the_oldest():
    talks = [talk("a", BACKLOG_EVENTS + 30, delivered=10)]
    parts = plan_backlog({}, talks, 0)
    page = backlog_page(1, talks, parts, {0: rows("a", range(11, BACKLOG_EVENTS + 11))})
    assert covered(page) == [("a", 10, BACKLOG_EVENTS + 10, BACKLOG_EVENTS, False)]
    assert page.more is True
    parts = plan_backlog({"a": BACKLOG_EVENTS + 10}, talks, 0)
    assert seqs(parts) == [("a", BACKLOG_EVENTS + 10, BACKLOG_EVENTS + 30, 20)]
    page = backlog_page(1, talks, parts, {0: rows("a", range(BACKLOG_EVENTS + 11, BACKLOG_EVENTS + 31))})
    assert (page.more, covered(page)[0][2]) == (False, BACKLOG_EVENTS + 30)


def test_what_the_budget_of_a_backlog_leaves_out_comes_later():
    talks = [talk(f"c{i}", BACKLOG_EVENTS) for i in range(PAGE_EVENTS // BACKLOG_EVENTS + 1)]
    parts = plan_backlog({}, talks, 0)
    assert [part.count for part in parts] == [BACKLOG_EVENTS] * (len(talks) - 1) + [0]
    filled = {part.i: rows(part.conversation, range(1, BACKLOG_EVENTS + 1)) for part in parts[:-1]}
    page = backlog_page(1, talks, parts, filled)
    assert page.more is True
    assert len(page.conversations) == len(talks) - 1


def test_a_backlog_passes_over_what_does_not_exist():
    talks = [talk("a", 2_000)]
    parts = plan_backlog({}, talks, 0)
    page = backlog_page(1, talks, parts, {0: rows("a", (900, 1_500))})
    assert (covered(page), page.more) == ([("a", 0, 2_000, 2, False)], False)


def history(before=None, after=None, limit=3, last=10, exist=None):
    """``(from, to, seqs, more)`` of a page of a conversation with events 1 … last, or those in *exist*."""
    request = ReadHistory(4, "a", before, after, limit)
    part, forward = plan_history(request, last)
    there = [seq for seq in exist or range(1, last + 1) if part.after < seq <= part.upto]
    found = rows("a", there[: part.count] if forward else there[-part.count :])
    page = history_page(request, part, forward, found)
    assert page.no == 4
    return page.from_, page.to, [int(event.split(b'"seq":')[1].split(b",")[0]) for event in page.events], page.more


@pytest.mark.parametrize(
    ("asked", "page"),
    [
        ({}, (7, 10, [8, 9, 10], True)),
        ({"limit": 10}, (0, 10, list(range(1, 11)), False)),
        ({"limit": 9}, (1, 10, list(range(2, 11)), True)),
        ({"before": 8}, (4, 7, [5, 6, 7], True)),
        ({"before": 3}, (0, 2, [1, 2], False)),
        ({"before": 1}, (0, 0, [], False)),
        ({"before": 0}, (0, 0, [], False)),
        ({"before": 99}, (7, 10, [8, 9, 10], True)),
        ({"after": 0}, (0, 3, [1, 2, 3], True)),
        ({"after": 7}, (7, 10, [8, 9, 10], False)),
        ({"after": 6}, (6, 9, [7, 8, 9], True)),
        ({"after": 10}, (10, 10, [], False)),
        ({"after": 99}, (10, 10, [], False)),
        ({"last": 0}, (0, 0, [], False)),
        ({"exist": [2, 9]}, (0, 10, [2, 9], False)),
        ({"exist": [2, 4, 6, 9]}, (3, 10, [4, 6, 9], True)),
        ({"after": 1, "exist": [5, 6, 7, 9]}, (1, 7, [5, 6, 7], True)),
        ({"after": 1, "exist": [5, 6]}, (1, 10, [5, 6], False)),
    ],
)
def test_history(asked, page):
    assert history(**asked) == page


def test_reads_are_taken_in_groups():
    sync = [(b"p", Sync(no, "al", {}, [])) for no in range(GROUP + 2)]
    single = (b"p", ReadHistory(99, "a", None, None, 5))
    backlog = (b"p", BacklogRead(98, "al", {}, []))
    reads: list[Any] = [single, *sync, single, backlog]
    taken: list[Any] = []
    while reads:
        group, one = take_group(reads)
        singles: list[Any] = [one]
        assert (one is None) == bool(group)
        taken.append([read.no for _, read in group] or singles[0][1].no)
    assert taken == [99, list(range(GROUP)), [GROUP, GROUP + 1], 99, [98]]


# --- bytes ---------------------------------------------------------------------------------------------


def large(conversation: str, seqs, size: int) -> list[Row]:
    return [Row(seq, conversation, seq, seq, "al", None, "x" * size, "k" * 16, None, 0) for seq in seqs]


def size(page) -> int:
    return sum(len(event) for one in page.conversations for event in one.events)


def test_a_sync_of_large_messages_keeps_the_newest_that_fit():
    talks = [talk("a", 150)]
    parts = plan_sync({"a": 50}, talks, 0)
    page = sync_page(1, talks, parts, {0: large("a", range(51, 151), 16_000)})
    assert PAGE_BYTES - 20_000 < size(page) <= PAGE_BYTES
    kept = len(page.conversations[0].events)
    assert covered(page) == [("a", 150 - kept, 150, kept, True)]
    assert b'"seq":150' in page.conversations[0].events[-1]
    assert b'"seq":%d,' % (151 - kept) in page.conversations[0].events[0]


def test_conversations_share_the_bytes_and_what_one_leaves_the_next_may_use():
    talks = [talk("a", 100), talk("b", 3), talk("c", 100), talk("d", 0)]
    parts = plan_sync({}, talks, 0)
    filled = {0: large("a", range(1, 101), 10_000), 1: rows("b", (1, 2, 3)), 2: large("c", range(1, 101), 10_000)}
    page = sync_page(1, talks, parts, filled)
    assert size(page) <= PAGE_BYTES
    a, b, c, d = covered(page)
    assert b == ("b", 0, 3, 3, False)
    assert d == ("d", 0, 0, 0, False)
    assert 0 < a[3] < c[3] < 100
    assert a[4]
    assert c[4]


def test_one_message_larger_than_a_page_still_comes():
    talks = [talk("a", 2), talk("b", 2)]
    enormous = {0: large("a", (1, 2), PAGE_BYTES), 1: large("b", (1, 2), PAGE_BYTES)}
    page = sync_page(1, talks, plan_sync({}, talks, 0), enormous)
    assert covered(page) == [("a", 1, 2, 1, True), ("b", 2, 2, 0, True)]
    backlog = backlog_page(1, talks, plan_backlog({}, talks, 0), enormous)
    assert (covered(backlog), backlog.more) == ([("a", 0, 1, 1, False)], True)


def test_a_backlog_of_large_messages_comes_in_pages_without_a_hole():
    talks = [talk("a", 100), talk("b", 100)]
    reached: dict[str, int] = {}
    pages = 0
    more = True
    while more:
        parts = plan_backlog(reached, talks, 0)
        filled = {p.i: large(p.conversation, range(p.after + 1, p.after + p.count + 1), 9_000) for p in parts}
        page = backlog_page(1, talks, parts, filled)
        assert size(page) <= PAGE_BYTES
        for name, after, to, count, _ in covered(page):
            assert after == reached.get(name, 0)
            assert count == to - after
            reached[name] = to
        more = page.more
        pages += 1
    assert reached == {"a": 100, "b": 100}
    assert 3 < pages < 8


def test_history_of_large_messages_comes_in_pages_from_either_end():
    every = large("a", range(1, 101), 16_000)
    reached, pages = 0, 0
    while reached < 100:
        read = ReadHistory(1, "a", None, reached, HISTORY_MAX)
        page = history_page(read, *plan_history(read, 100), every[reached:])
        assert (page.from_, page.to) == (reached, reached + len(page.events))
        assert page.more == (page.to < 100)
        reached, pages = page.to, pages + 1
    assert pages == 4
    read = ReadHistory(1, "a", 101, None, HISTORY_MAX)
    page = history_page(read, *plan_history(read, 100), every)
    assert (page.from_, page.to, page.more) == (100 - len(page.events), 100, True)
    assert b'"seq":100' in page.events[-1]
    enormous = large("a", (1, 2), PAGE_BYTES)
    assert history_page(read, *plan_history(read, 2), enormous).from_ == 1


def test_large_answers_go_one_after_the_other():
    def asked(*counts: int) -> list[list[Part]]:
        return [[Part(0, "a", 0, count, count)] for count in counts]

    assert list(portions([], 10)) == []
    assert list(portions(asked(1, 2, 3), 10)) == [range(3)]
    assert list(portions(asked(5, 5, 1, 30, 0, 10), 10)) == [range(2), range(2, 3), range(3, 4), range(4, 6)]
