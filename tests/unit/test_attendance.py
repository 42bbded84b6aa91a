"""A shard's reports of who is there."""

import pytest

from hubbub.protocol.conversation import user_slot
from hubbub.protocol.internal import Attend
from hubbub.protocol.limits import LEASE_RENEW
from shards.attendance import Attendance

AL, BOB = user_slot("al"), user_slot("bob")


@pytest.fixture
def attendance():
    assert AL != BOB
    return Attendance("s0.1")


def report(slot, version, joined=(), left=(), full=False):
    return slot, Attend("s0.1", slot, version, list(joined), list(left), full)


def test_the_first_session_joins_and_the_last_leaves(attendance):
    attendance.joined("al")
    attendance.joined("al")
    assert attendance.flush() == [report(AL, 1, ["al"])]
    assert (attendance.sessions("al"), len(attendance)) == (2, 1)
    attendance.left("al")
    assert attendance.flush() == []
    attendance.left("al")
    assert attendance.flush() == [report(AL, 2, [], ["al"])]
    assert (attendance.sessions("al"), len(attendance)) == (0, 0)


def test_each_slot_counts_its_own_steps(attendance):
    attendance.joined("al")
    attendance.joined("bob")
    assert attendance.flush() == [report(AL, 1, ["al"]), report(BOB, 1, ["bob"])]
    attendance.left("bob")
    assert attendance.flush() == [report(BOB, 2, [], ["bob"])]


def test_the_last_word_counts(attendance):
    attendance.joined("al")
    attendance.flush()
    attendance.left("al")
    attendance.joined("al")
    assert attendance.flush() == [report(AL, 2, ["al"])]


def test_the_lease_is_renewed(attendance):
    assert attendance.tick(10.0) == []
    attendance.joined("al")
    attendance.flush()
    assert attendance.tick(10.0 + LEASE_RENEW - 0.01) == []
    assert attendance.tick(10.0 + LEASE_RENEW) == [report(AL, 1)]
    assert attendance.tick(10.0 + LEASE_RENEW + 0.5) == []


def test_the_whole_list_includes_what_was_not_flushed(attendance):
    attendance.joined("al")
    attendance.flush()
    same = next(f"u{i}" for i in range(10_000) if user_slot(f"u{i}") == AL)
    attendance.joined(same)
    assert attendance.full(AL) == report(AL, 2, sorted(["al", same]), full=True)
    assert attendance.flush() == []
    assert attendance.full(BOB) == report(BOB, 0, full=True)
