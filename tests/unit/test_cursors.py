"""Cursor movements on their way to the table, and the receipts behind it."""

import json

import pytest

from hubbub.protocol.internal import Cursor, Done, MoveCursors
from store.cursors import Cursors, Movement, receipts


@pytest.fixture
def cursors():
    return Cursors()


def test_movements_are_merged_and_only_grow(cursors):
    cursors.move("al", "lobby", 5, 2)
    cursors.move("al", "lobby", 3, 4)
    cursors.move("bob", "lobby", 1, 0)
    assert len(cursors) == 2
    assert cursors.batch().rows == [Movement("al", "lobby", 5, 4), Movement("bob", "lobby", 1, 0)]
    assert cursors.batch() is None


def test_who_reported_is_answered_with_the_batch(cursors):
    cursors.offer(b"s0", MoveCursors(3, [Cursor("al", "lobby", 5, 0)]))
    cursors.offer(b"s1", MoveCursors(4, [Cursor("al", "lobby", 6, 0)]))
    batch = cursors.batch()
    assert batch.rows == [Movement("al", "lobby", 6, 0)]
    assert batch.replies() == [(b"s0", Done(3)), (b"s1", Done(4))]
    cursors.move("al", "lobby", 7, 0)
    assert cursors.batch().replies() == []


def test_a_report_without_movement_is_answered(cursors):
    cursors.offer(b"s0", MoveCursors(3, []))
    assert cursors.batch().replies() == [(b"s0", Done(3))]


def test_what_is_lost_is_not_answered(cursors):
    cursors.offer(b"s0", MoveCursors(3, [Cursor("al", "lobby", 5, 0)]))
    cursors.lose()
    assert (len(cursors), cursors.batch()) == (0, None)


def test_both_sides_see_a_receipt():
    signals = receipts([Cursor("bob", "direct:al:bob", 4, 2)])
    assert [one.topic for one in signals] == ["user.al", "user.bob"]
    assert json.loads(signals[0].payload) == {
        "type": "receipt", "conversation": "direct:al:bob", "username": "bob", "delivered_seq": 4, "read_seq": 2,
    }  # fmt: skip
    assert signals[0].payload == signals[1].payload


def test_a_note_to_oneself_and_the_lobby():
    assert [one.topic for one in receipts([Cursor("al", "direct:al:al", 4, 2)])] == ["user.al"]
    assert receipts([Cursor("al", "lobby", 4, 2)]) == []
