"""Names and the numbers made of them. The numbers stand in databases: they must never change."""

from collections import Counter

import pytest

from hubbub.protocol.conversation import (
    LOBBY,
    SLOTS,
    InvalidName,
    check_username,
    direct,
    event_id,
    may_read,
    parties,
    presence_topic,
    slot_of,
    split_id,
    topics_of,
    user_slot,
    user_topic,
)


@pytest.mark.parametrize("name", ["a", "Zoë", "al.b+c@d-e_1", "李雷", "x" * 64, "0"])
def test_usernames(name):
    assert check_username(name) is name


@pytest.mark.parametrize("name", ["", "x" * 65, "a:b", "a b", "a\0", "a\n", "a/b", "😀", "\u202ea"])
def test_no_usernames(name):
    with pytest.raises(InvalidName, match="1 to 64 letters"):
        check_username(name)


@pytest.mark.parametrize("name", ["\ufb01sh", "e\u0301", "\uff21"])  # a ligature, a combining accent, a wide A
def test_a_name_must_be_normal(name):
    with pytest.raises(InvalidName):
        check_username(name)


def test_direct_is_the_same_whoever_asks():
    assert direct("bob", "al") == direct("al", "bob") == "direct:al:bob"
    assert direct("al", "al") == "direct:al:al"


def test_parties():
    assert parties(LOBBY) is None
    assert parties("direct:al:bob") == ("al", "bob")
    assert parties("direct:al:al") == ("al", "al")


@pytest.mark.parametrize(
    "name", ["", "Lobby", "lobby:", "direct", "direct:al", "direct:bob:al", "direct::bob", "direct:al:", "direct:a:b:c",
             "direct:a b:c", "room:1", "direct:a\0:b"],
)  # fmt: skip
def test_no_conversations(name):
    with pytest.raises(InvalidName, match="is not a conversation"):
        parties(name)


def test_a_long_name_is_not_repeated_whole():
    with pytest.raises(InvalidName) as caught:
        parties("x" * 10_000)
    assert len(str(caught.value)) < 400


def test_who_may_read():
    assert may_read("al", LOBBY)
    assert may_read("al", "direct:al:bob")
    assert may_read("bob", "direct:al:bob")
    assert not may_read("eve", "direct:al:bob")
    assert not may_read("direct", "direct:al:bob")


def test_slots_never_change():
    """A slot is part of every stored id: another formula would tear conversations apart."""
    assert (slot_of(LOBBY), slot_of("direct:al:bob"), slot_of("direct:Zoë:李雷")) == (55, 38, 46)
    assert (user_slot("al"), user_slot("bob"), user_slot("李雷")) == (36, 58, 59)


def test_slots_are_even():
    counts = Counter(slot_of(direct(f"user{i}", f"user{i + 1}")) for i in range(6400))
    assert set(counts) == set(range(SLOTS))
    assert max(counts.values()) < 200


def test_topics():
    assert topics_of(LOBBY) == ["lobby"]
    assert topics_of("direct:al:bob") == [user_topic("al"), user_topic("bob")] == ["user.al", "user.bob"]
    assert topics_of("direct:al:al") == ["user.al"]
    assert presence_topic("al") == "presence.al"


def test_ids_survive_javascript():
    assert event_id(0, 1) == 1
    assert split_id(event_id(63, 2**47 - 1)) == (63, 2**47 - 1)
    assert event_id(63, 2**47 - 1) == 2**53 - 1
    assert event_id(3, 2**47 - 1) + 1 == event_id(4, 0)
