"""Who is let wait at the door, for how long, and who makes room."""

import pytest

from hubbub.protocol.limits import Limits
from shards.entrance import ANSWERING_SECONDS, ARRIVING_SECONDS, IDLE_SECONDS, Entrance, share
from shards.proxies import crowd_of, neighbourhood


def test_slow_headers_are_waited_for_only_so_long():
    door = Entrance(10)
    assert door.came("a", "x", 0.0) is None
    assert door.tick(ARRIVING_SECONDS - 0.1) == []
    assert door.tick(ARRIVING_SECONDS) == ["a"]
    assert (len(door), door.expired) == (0, 1)


def test_each_state_has_its_time():
    door = Entrance(10)
    door.came("a", "x", 0.0)
    door.asked("a", 5.0)
    assert door.tick(5.0 + ANSWERING_SECONDS - 0.1) == []
    door.answered("a", 100.0)
    assert door.tick(100.0 + IDLE_SECONDS - 0.1) == []
    door.asked("a", 170.0)
    door.answered("a", 171.0)
    assert door.tick(171.0 + IDLE_SECONDS) == ["a"]


def test_the_oldest_of_the_most_crowded_address_makes_room():
    door = Entrance(5)
    for i, (key, address) in enumerate([("old", "a"), ("b1", "b"), ("b2", "b"), ("b3", "b"), ("c", "c")]):
        assert door.came(key, address, float(i)) is None
    assert door.came("new", "d", 5.0) == "b1"
    door.left("b1")
    assert door.came("newer", "e", 6.0) == "b2"
    assert (len(door), door.displaced) == (5, 2)


def test_who_is_being_answered_makes_room_last():
    door = Entrance(3)
    for key in "abc":
        door.came(key, "x", 0.0)
    door.asked("a", 1.0)
    door.asked("b", 2.0)
    assert door.came("d", "y", 3.0) == "c"
    door.asked("d", 4.0)
    assert door.came("e", "x", 5.0) == "a"


def test_a_flood_displaces_itself_and_nobody_else():
    door = Entrance(100)
    door.came("honest", "home", 0.0)
    for i in range(10_000):
        assert door.came(i, "flood", i / 1000) != "honest"
    assert len(door) == 100
    door.asked("honest", 10.0)
    door.left("honest")
    assert len(door) == 99


def test_what_is_gone_is_forgotten():
    door = Entrance(2)
    door.came("a", "x", 0.0)
    door.left("a")
    door.left("a")
    door.asked("a", 1.0)
    door.answered("a", 1.0)
    assert (len(door), door._by_address, door.tick(1e9)) == (0, {}, [])


@pytest.mark.parametrize(
    ("files", "shares"),
    [(1_000_000, (1000, 100_000)), (1024, (240, 720)), (20_000, (1000, 18_936)), (3, (1, 1))],
)
def test_descriptors_are_shared_out_before_they_run_out(files, shares):
    assert share(files, Limits()) == shares
    assert sum(shares) <= max(files, 2)


@pytest.mark.parametrize(
    ("address", "place", "crowd"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64", "2001:db8:1:2::/64"),
        ("127.0.0.1", "127.0.0.1", None),
        ("::1", "::/64", None),
        ("::ffff:127.0.0.1", "127.0.0.1", None),
        ("", "", None),
    ],
)
def test_what_counts_as_one_address(address, place, crowd):
    assert (neighbourhood(address), crowd_of(address)) == (place, crowd)
