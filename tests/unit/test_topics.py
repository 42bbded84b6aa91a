"""When a topic is in force."""

from typing import Any

import pytest

from shards.topics import Topics
from tests.builders import NotingBus


class Station:
    """A `Topics` with a bus, and a list of what came into force."""

    def __init__(self) -> None:
        self.topics = Topics()
        self.bus = NotingBus()
        self.told: list[str] = []

    def want(self, name: str, *topics: str) -> None:
        self.topics.want(topics, lambda now: self.told.append(name), 0.0)

    def flush(self) -> list[tuple[list[str], list[str]]]:
        """What the bus was told by it."""
        before = len(self.bus.subscriptions)
        self.topics.flush(self.bus, 0.0)
        return self.bus.subscriptions[before:]

    def hello(self) -> list[str]:
        self.bus.up = False
        return self.topics.greeted()

    def welcome(self) -> None:
        self.bus.up = True
        self.topics.linked(0.0)


@pytest.fixture
def station():
    return Station()


def test_a_topic_is_in_force_when_the_exchange_has_said_so(station):
    station.want("one", "lobby", "user.al")
    assert station.flush() == [(["lobby", "user.al"], [])]
    assert station.told == []
    assert station.topics.subscribed(1, 0.0) is True
    assert station.told == ["one"]
    assert station.flush() == []


def test_one_that_is_in_force_is_so_for_the_next(station):
    station.want("one", "lobby")
    station.flush()
    station.topics.subscribed(1, 0.0)
    station.want("two", "lobby")
    assert station.told == ["one", "two"]
    assert station.flush() == []


def test_the_next_waits_for_a_subscription_under_way(station):
    station.want("one", "lobby")
    station.flush()
    station.want("two", "lobby")
    assert station.told == []
    station.topics.subscribed(1, 0.0)
    assert station.told == ["one", "two"]


def test_it_waits_for_the_last_of_its_topics(station):
    station.want("one", "lobby")
    station.flush()
    station.want("two", "lobby", "user.al")
    station.flush()
    station.topics.subscribed(1, 0.0)
    assert station.told == ["one"]
    station.topics.subscribed(2, 0.0)
    assert station.told == ["one", "two"]


def test_only_the_last_release_gives_it_up(station):
    station.want("one", "lobby")
    station.want("two", "lobby")
    station.flush()
    station.topics.release(["lobby"])
    assert station.flush() == []
    station.topics.release(["lobby"])
    assert station.flush() == [([], ["lobby"])]
    assert station.topics.wanted() == []


def test_an_answer_to_a_removal_alone_brings_nothing(station):
    station.want("one", "lobby")
    station.flush()
    assert station.topics.subscribed(1, 0.0) is True
    station.topics.release(["lobby"])
    station.flush()
    assert station.topics.subscribed(2, 0.0) is False


def test_given_up_and_wanted_again_in_one_turn(station):
    station.want("one", "lobby")
    station.flush()
    station.topics.subscribed(1, 0.0)
    station.topics.release(["lobby"])
    station.want("two", "lobby")
    assert station.told == ["one"]
    assert station.flush() == []
    assert station.told == ["one", "two"]


def test_given_up_and_wanted_again_waits_for_the_new_subscription(station):
    station.want("one", "lobby")
    station.flush()
    station.topics.subscribed(1, 0.0)
    station.topics.release(["lobby"])
    station.flush()
    station.want("two", "lobby")
    assert station.flush() == [(["lobby"], [])]
    station.topics.subscribed(2, 0.0)
    assert station.told == ["one"]
    station.topics.subscribed(3, 0.0)
    assert station.told == ["one", "two"]


def test_wanted_and_given_up_in_one_turn_is_not_told(station):
    station.want("one", "lobby")
    station.topics.release(["lobby"])
    assert station.flush() == []


def test_while_the_link_is_down_nothing_is_told(station):
    station.bus.up = False
    station.want("one", "lobby")
    assert station.flush() == []
    assert station.hello() == ["lobby"]
    station.welcome()
    assert station.flush() == []
    assert station.told == ["one"]


def test_a_welcome_brings_all_that_the_hello_named(station):
    station.want("one", "lobby")
    station.flush()
    station.hello()
    assert station.told == []
    station.welcome()
    assert station.told == ["one"]


def test_a_change_behind_the_hello_is_told_behind_the_welcome(station):
    station.want("one", "lobby")
    station.hello()
    station.want("two", "user.al")
    station.topics.release(["lobby"])
    station.welcome()
    assert station.flush() == [(["user.al"], ["lobby"])]
    assert "two" not in station.told
    station.topics.subscribed(1, 0.0)
    assert station.told == ["one", "two"]


def test_the_index_keeps_order(station):
    first: Any = object()
    second: Any = object()
    station.topics.attach(first, ["lobby", "user.al"])
    station.topics.attach(second, ["lobby"])
    assert list(station.topics.index["lobby"]) == [first, second]
    station.topics.detach(first, ["lobby", "user.al", "user.bob"])
    station.topics.detach(first, ["lobby"])
    assert station.topics.index == {"lobby": {second: None}}
