"""Leases, graces and news."""

import json

import pytest

from hubbub.protocol.conversation import PRESENCE_TOPIC, presence_topic, user_slot
from hubbub.protocol.internal import Attend, AttendAgain
from hubbub.protocol.limits import LEASE_SECONDS, PRESENCE_GRACE, PRESENCE_NAMES_MAX
from store.presence import Attendance

AL = user_slot("al")
# Others of the same slot.
NAMES = [name for name in (f"u{i}" for i in range(20_000)) if user_slot(name) == AL]
B, C, D = NAMES[:3]


class Clock:
    """An owner's attendance, ticked ten times a second."""

    def __init__(self) -> None:
        self.attendance = Attendance()
        self.now = 100.0
        self.attendance.tick(self.now)

    def report(self, version, joined=(), left=(), *, full=False, shard="s0", slot=AL):
        return self.attendance.attend(Attend(shard, slot, version, list(joined), list(left), full), self.now)

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
