"""Leases, graces and news."""

import json

import pytest

from hubbub.protocol.conversation import PRESENCE_TOPIC, presence_topic, user_slot
from hubbub.protocol.internal import Attend, AttendAgain, TooMany
from hubbub.protocol.limits import CROWD_SECONDS, LEASE_SECONDS, PRESENCE_GRACE, PRESENCE_NAMES_MAX
from store.presence import Attendance

AL = user_slot("al")
# Others of the same slot.
NAMES = [name for name in (f"u{i}" for i in range(20_000)) if user_slot(name) == AL]
B, C, D = NAMES[:3]
MOST = 5


class Clock:
    """An owner's attendance, ticked ten times a second."""

    def __init__(self) -> None:
        self.attendance = Attendance(MOST)
        self.now = 100.0
        self.attendance.tick(self.now)

    def report(self, version, joined=(), left=(), *, full=False, shard="s0"):
        return self.count(version, {**dict.fromkeys(joined, 1), **dict.fromkeys(left, 0)}, full=full, shard=shard)

    def count(self, version, sessions, *, full=False, shard="s0"):
        return self.attendance.attend(shard.encode(), Attend(shard, AL, version, sessions, full), self.now)

    def later(self, seconds: float, *, renew: dict[str, int] | None = None) -> list[dict[str, str]]:
        """The news of single users in that time; *renew*: shards that renew their lease, with their versions."""
        news = []
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            for shard, version in (renew or {}).items():
                assert self.report(version, shard=shard) is None
            news += self.signals()
        return news

    def signals(self) -> list[dict[str, str]]:
        found = self.attendance.tick(self.now)
        return [json.loads(one.payload)["users"] for one in found if one.topic != PRESENCE_TOPIC]

    @property
    def online(self) -> list[str]:
        return self.attendance.online(AL, None)


@pytest.fixture
def clock():
    return Clock()


def test_who_comes_is_online_and_told(clock):
    assert clock.report(1, ["al"]) is None
    assert clock.online == ["al"]
    (one, two) = clock.attendance.tick(clock.now)
    assert (one.topic, json.loads(one.payload)) == (
        presence_topic("al"),
        {"type": "presence", "users": {"al": "online"}},
    )
    assert (two.topic, json.loads(two.payload)["users"]) == (PRESENCE_TOPIC, {"al": "online"})


def test_who_goes_is_offline_after_a_grace(clock):
    clock.report(1, ["al"])
    clock.later(0.1)
    clock.report(2, [], ["al"])
    assert clock.later(PRESENCE_GRACE - 0.2, renew={"s0": 2}) == []
    assert clock.online == ["al"]
    assert clock.later(0.4, renew={"s0": 2}) == [{"al": "offline"}]
    assert clock.online == []
    assert clock.attendance.gone == ["al"]


def test_who_comes_back_in_time_was_never_away(clock):
    clock.report(1, ["al"])
    clock.later(0.1)
    clock.report(2, [], ["al"])
    clock.later(1.0, renew={"s0": 2})
    clock.report(3, ["al"])
    assert clock.later(PRESENCE_GRACE + 1, renew={"s0": 3}) == []
    assert clock.attendance.gone == []


def test_a_user_on_two_shards(clock):
    clock.report(1, ["al"])
    clock.report(1, ["al"], shard="s1")
    assert clock.later(0.1) == [{"al": "online"}]
    clock.report(2, [], ["al"])
    assert clock.later(PRESENCE_GRACE + 1, renew={"s0": 2, "s1": 1}) == []
    assert clock.online == ["al"]


def test_a_shard_that_dies_takes_its_users_with_it(clock):
    clock.report(1, ["al"])
    clock.later(0.1)
    assert clock.later(LEASE_SECONDS + PRESENCE_GRACE - 0.3) == []
    assert clock.later(0.6) == [{"al": "offline"}]


def test_a_renewed_lease_lives(clock):
    clock.report(1, ["al"])
    clock.later(0.1)
    assert clock.later(3 * LEASE_SECONDS, renew={"s0": 1}) == []
    assert clock.online == ["al"]


def test_an_owner_that_was_stopped_extends_the_leases(clock):
    clock.report(1, ["al"])
    clock.later(0.1)
    clock.now += 60
    assert clock.signals() == []
    assert clock.later(LEASE_SECONDS - 0.3) == []
    assert clock.online == ["al"]


@pytest.mark.parametrize(("version", "joined"), [(1, []), (2, ["al"]), (5, [])])
def test_a_new_owner_asks_for_the_whole_list(clock, version, joined):
    assert clock.report(version, joined) == AttendAgain(AL)
    assert clock.online == []


def test_a_missed_step_is_asked_for(clock):
    clock.report(1, ["al"])
    assert clock.report(3, ["b"]) == AttendAgain(AL)
    assert clock.report(3) == AttendAgain(AL)
    assert clock.online == ["al"]


def test_an_old_step_is_nothing_to_ask_about(clock):
    clock.report(5, ["al"], full=True)
    assert clock.report(4, [], ["al"]) is None
    assert clock.report(5, [], ["al"]) is None
    assert clock.online == ["al"]


def test_the_whole_list_replaces(clock):
    clock.report(1, ["al", B])
    clock.later(0.1)
    clock.report(7, [B, C], full=True)
    assert clock.report(8, [D]) is None
    assert sorted(clock.online) == sorted(["al", B, C, D])
    assert {"al": "offline"} in clock.later(PRESENCE_GRACE + 0.2, renew={"s0": 8})
    assert clock.attendance.gone == ["al"]
    assert sorted(clock.online) == sorted([B, C, D])


def test_joining_twice_and_leaving_twice_counts_once(clock):
    clock.report(1, ["al"])
    clock.report(2, ["al"])
    clock.report(3, [], ["al"])
    clock.report(4, [], ["al", "nobody"])
    clock.later(PRESENCE_GRACE + 0.2, renew={"s0": 4})
    assert clock.online == []
    clock.report(5, ["al"])
    assert clock.online == ["al"]


def test_some_of_many(clock):
    clock.report(1, ["al", B, C])
    assert clock.attendance.online(AL, [C, "x", "al"]) == [C, "al"]
    assert len(clock.attendance) == 3


def test_a_slot_that_is_lost_is_forgotten_without_news(clock):
    clock.report(1, ["al"])
    clock.report(1, ["al"], shard="s1")
    clock.later(0.1)
    clock.report(2, [], ["al"], shard="s1")
    clock.attendance.lose([AL])
    assert clock.online == []
    assert clock.later(LEASE_SECONDS + PRESENCE_GRACE + 1) == []
    assert clock.attendance.gone == []
    assert clock.report(1) == AttendAgain(AL)
    clock.report(1, ["al"])
    assert clock.later(0.1) == [{"al": "online"}]


def test_everybody_s_news_come_once_a_second(clock):
    names = NAMES[:PRESENCE_NAMES_MAX]
    clock.report(1, names)
    notices = [one for one in clock.attendance.tick(clock.now) if one.topic == PRESENCE_TOPIC]
    assert list(json.loads(notices[0].payload)["users"]) == sorted(names)
    many = NAMES[PRESENCE_NAMES_MAX : 2 * PRESENCE_NAMES_MAX + 1]
    clock.report(2, many)
    found = []
    for _ in range(12):
        clock.now += 0.1
        found += [one for one in clock.attendance.tick(clock.now) if one.topic == PRESENCE_TOPIC]
    assert [json.loads(one.payload) for one in found] == [{"type": "presence", "users": {}, "more": True}]


def test_a_user_s_sessions_are_counted_over_all_shards(clock):
    clock.count(1, {"al": MOST - 1, B: MOST})
    clock.count(1, {"al": 3}, shard="s1")
    assert clock.attendance.crowds(clock.now) == []
    clock.later(CROWD_SECONDS - 0.2, renew={"s0": 1, "s1": 1})
    assert clock.attendance.crowds(clock.now) == []
    clock.later(0.3, renew={"s0": 1, "s1": 1})
    assert clock.attendance.crowds(clock.now) == [(b"s0", TooMany("al", 2))]
    assert clock.attendance.crowds(clock.now) == [], "said once, and again only if it does not help"
    clock.count(2, {"al": MOST - 3})
    clock.later(2 * CROWD_SECONDS, renew={"s0": 2, "s1": 1})
    assert clock.attendance.crowds(clock.now) == []


def test_a_crowd_larger_than_any_shard_s_part_is_thinned_out_on_several(clock):
    clock.count(1, {"al": 6})
    clock.count(1, {"al": 9}, shard="s1")
    clock.later(CROWD_SECONDS + 0.2, renew={"s0": 1, "s1": 1})
    assert clock.attendance.crowds(clock.now) == [(b"s1", TooMany("al", 9)), (b"s0", TooMany("al", 1))]
    clock.later(CROWD_SECONDS + 0.2, renew={"s0": 1, "s1": 1})
    assert len(clock.attendance.crowds(clock.now)) == 2, "it did not help, or the word was lost"


def test_users_of_a_shard_that_died_come_back_elsewhere_and_are_no_crowd(clock):
    clock.count(1, {"al": MOST})
    clock.count(1, {B: 1}, shard="s1")
    clock.later(1.0, renew={"s0": 1, "s1": 1})
    clock.count(2, {"al": MOST}, shard="s1")
    for _ in range(round(10 * LEASE_SECONDS) + 20):
        clock.later(0.1, renew={"s1": 2})
        assert clock.attendance.crowds(clock.now) == []


def test_a_lost_slot_forgets_its_crowds(clock):
    clock.count(1, {"al": MOST + 1})
    clock.attendance.lose([AL])
    clock.later(CROWD_SECONDS + 1)
    assert clock.attendance.crowds(clock.now) == []
    assert clock.count(7, {"al": 1}, full=True) is None
    clock.count(8, {"al": MOST})
    clock.later(CROWD_SECONDS + 1, renew={"s0": 8})
    assert clock.attendance.crowds(clock.now) == []
