"""Following one slot's log: apply, drop, hold, ask, give up."""

import msgspec
import pytest

from hubbub.bus import log
from hubbub.bus.log import ASK_AGAIN, Positions
from hubbub.protocol.conversation import SLOTS, split_id
from hubbub.protocol.internal import Entry, Range, wire_term
from tests.builders import LOBBY_SLOT, mark, part

S = LOBBY_SLOT


@pytest.fixture
def positions():
    """A shard that has come to n = 10 of the lobby's slot."""
    positions = Positions()
    positions.accept(mark(10), 0.0)
    assert positions.position(S) == 10
    return positions


def applied(positions, part, now=0.0) -> list[int]:
    return [split_id(event.id)[1] for _, event in positions.accept(part, now)]


def test_nothing_is_known_at_first():
    positions = Positions()
    assert (positions.known, positions.recovering, positions.epoch) == (False, 0, 0)
    assert positions.unknown_slots() == list(range(SLOTS))
    for slot in range(SLOTS):
        assert not positions.known
        positions.accept(Range(slot, wire_term(7, 1), slot, slot, []), 0.0)
    assert positions.known
    assert positions.unknown_slots() == []
    assert positions.snapshot() == list(range(SLOTS))
    assert positions.epoch == 7


def test_the_first_range_says_where_to_begin():
    positions = Positions()
    assert applied(positions, part(4, 6)) == []  # nobody is there who could have missed them
    assert positions.position(S) == 6
    assert applied(positions, part(6, 7)) == [7]
    assert (positions.asks, positions.new_terms, positions.resets) == ([], [], [])


def test_what_continues_is_applied_with_its_topics(positions):
    (topics, event), *rest = positions.accept(part(10, 12), 0.0)
    assert (topics, split_id(event.id)) == (["lobby"], (S, 11))
    assert len(rest) == 1
    assert positions.position(S) == 12


def test_an_empty_range_is_progress(positions):
    assert applied(positions, part(10, 14, only=[])) == []
    assert applied(positions, part(14, 15)) == [15]


def test_what_is_known_is_dropped(positions):
    assert applied(positions, part(8, 10)) == []
    assert applied(positions, mark(9)) == []
    assert positions.position(S) == 10
    assert positions.asks == []


def test_an_overlap_is_applied_once(positions):
    assert applied(positions, part(8, 12)) == [11, 12]


def test_a_hole_is_asked_for_and_what_follows_waits(positions):
    assert applied(positions, part(12, 14), 1.0) == []
    assert applied(positions, part(14, 15), 1.1) == []
    assert (positions.asks, positions.recovering, positions.recoveries) == ([(S, 10)], 1, 1)
    assert positions.position(S) == 10
    assert applied(positions, part(10, 12), 1.2) == [11, 12, 13, 14, 15]
    assert positions.recovering == 0
    assert positions.asks == [(S, 10)]


def test_a_watermark_ahead_shows_a_hole(positions):
    assert applied(positions, mark(13)) == []
    assert positions.asks == [(S, 10)]
    assert applied(positions, part(10, 13)) == [11, 12, 13]
    assert positions.recovering == 0


def test_a_replay_comes_in_chunks(positions):
    positions.accept(mark(20), 0.0)
    assert applied(positions, part(10, 13), 0.1) == [11, 12, 13]
    assert positions.recovering == 1
    assert positions.asks == [(S, 10), (S, 13)]
    assert applied(positions, part(13, 20), 0.2) == list(range(14, 21))
    assert positions.recovering == 0


def test_a_replay_without_progress_is_asked_for_again(positions):
    positions.accept(mark(11), 5.0)
    positions.tick(5.0 + ASK_AGAIN - 0.01)
    assert len(positions.asks) == 1
    positions.tick(5.0 + ASK_AGAIN)
    positions.tick(5.0 + ASK_AGAIN + 0.01)
    assert positions.asks == [(S, 10), (S, 10)]
    positions.accept(part(10, 11), 6.0)
    positions.tick(99.0)
    assert len(positions.asks) == 2


def test_holes_behind_holes(positions):
    positions.accept(part(12, 13), 0.0)
    positions.accept(part(15, 16), 0.0)
    assert applied(positions, part(10, 12)) == [11, 12, 13]
    assert positions.recovering == 1
    assert positions.asks[-1] == (S, 13)
    assert applied(positions, part(13, 15)) == [14, 15, 16]
    assert positions.recovering == 0


def test_what_was_held_before_a_subscription_is_replayed_after_it(positions):
    """It was filtered without the new topics: applied, it would hide their events for ever."""
    positions.accept(part(11, 14, only=[13]), 0.0)
    positions.topics_changed()
    assert applied(positions, part(10, 11)) == [11]
    assert positions.asks[-1] == (S, 11)
    assert applied(positions, part(11, 14)) == [12, 13, 14]


def test_an_old_term_is_ignored(positions):
    positions.accept(mark(10, term=3), 0.0)
    assert applied(positions, part(10, 12, term=2)) == []
    assert positions.position(S) == 10


def test_a_new_term_is_told_once(positions):
    assert applied(positions, part(10, 11, term=2)) == [11]
    assert applied(positions, part(11, 12, term=2)) == [12]
    assert positions.new_terms == [S]
    assert positions.resets == []


def test_a_new_owner_is_asked_at_once_for_what_the_old_one_did_not_give(positions):
    positions.accept(mark(12), 0.0)
    positions.accept(mark(12, term=2), 0.1)
    assert positions.asks == [(S, 10), (S, 10)]


def test_another_epoch_starts_over_and_everybody_syncs(positions):
    positions.accept(mark(12), 0.0)
    assert applied(positions, part(2, 3, epoch=2)) == []
    assert (positions.position(S), positions.resets, positions.recovering) == (3, [S], 0)
    assert positions.epoch == 2
    assert applied(positions, part(10, 12)) == []  # the old epoch's owner is late
    assert applied(positions, part(3, 4, epoch=2)) == [4]


def test_too_far_behind_is_not_replayed(positions, monkeypatch):
    monkeypatch.setattr(log, "GAP_MAX", 5)
    positions.accept(part(14, 15), 0.0)
    assert (positions.recovering, positions.resets) == (1, [])
    positions.accept(part(15, 16), 0.0)
    assert (positions.recovering, positions.resets, positions.position(S)) == (0, [S], 16)
    assert applied(positions, part(16, 17)) == [17]
    assert applied(positions, part(10, 14)) == []  # the replay that was asked for comes too late


def test_what_is_held_is_bounded(positions, monkeypatch):
    monkeypatch.setattr(log, "HELD_MAX", 4)
    positions.accept(part(11, 14), 0.0)
    positions.accept(part(14, 16), 0.0)  # does not fit any more
    positions.accept(part(16, 17), 0.0)
    assert applied(positions, part(10, 11)) == [11, 12, 13, 14]
    assert positions.asks[-1] == (S, 14)
    assert positions.recovering == 1
    assert applied(positions, part(14, 17)) == [15, 16, 17]
    assert positions.recovering == 0


def test_empty_ranges_do_not_fill_memory(positions, monkeypatch):
    monkeypatch.setattr(log, "HELD_MAX", 4)
    for n in range(12, 30):
        positions.accept(part(n, n + 1, only=[]), 0.0)
    applied(positions, part(10, 12))
    assert positions.position(S) == 17  # one more than fits, and no more than that


def test_slots_do_not_touch_each_other(positions):
    other = "direct:al:bob"
    positions.accept(mark(3, other), 0.0)
    positions.accept(mark(12), 0.0)
    assert applied(positions, part(3, 4, other)) == [4]
    assert positions.position(S) == 10


def test_a_range_that_cannot_be_read_is_not_applied(positions):
    bad = part(10, 12)
    bad.entries[1] = Entry(["lobby"], b"\xc1")
    with pytest.raises(msgspec.DecodeError):
        positions.accept(bad, 0.0)
    assert positions.position(S) == 10
    assert applied(positions, part(10, 12)) == [11, 12]
