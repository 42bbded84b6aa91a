"""A watcher is told the truth in the end, whatever became of the notices."""

import pytest

from hubbub.protocol.conversation import PRESENCE_TOPIC, SLOTS, presence_topic, user_slot
from hubbub.protocol.internal import Online, Range, Refused, Signal, WhoIsOnline, wire_term
from hubbub.protocol.limits import LEASE_SECONDS, PRESENCE_NAMES_MAX, PRESENCE_REFRESH
from hubbub.protocol.messages import Presence, encode_event
from tests.unit.shard import Shard


class Place:
    """A shard, and who is online by its store."""

    def __init__(self) -> None:
        self.shard = Shard()
        self.online: set[str] = set()
        self.al = self.shard.live("al", syncing=True)
        self._answered = 0

    def watch(self, *users: str, lobby: bool = False, session=None) -> None:
        """al, or another session, watches."""
        self.shard.say(session or self.al, type="watch", users=users, lobby=lobby)
        self.shard.hub.subscribed(len(self.shard.bus.subscriptions), self.shard.now)
        self.shard.turn()
        self.answer()

    def answer(self) -> None:
        """The store answers whatever it was asked."""
        asked = self.shard.asked(WhoIsOnline)
        for one in asked[self._answered :]:
            there = [user for user in sorted(self.online) if user_slot(user) == one.slot]
            self.shard.reply(Online(one.no, [user for user in there if one.among is None or user in one.among]))
        self._answered = len(asked)

    def wait(self, seconds: float) -> int:
        """Time passes, questions are answered; how many there were."""
        before = len(self.shard.asked(WhoIsOnline))
        for _ in range(round(seconds * 10)):
            self.shard.tick(0.1)
            self.answer()
        return len(self.shard.asked(WhoIsOnline)) - before

    def notice(self, topic: str, **users: str) -> None:
        """A notice arrives."""
        signal = Signal(topic, encode_event(Presence(users=users)))  # type: ignore[arg-type]
        self.shard.hub.signals([signal], self.shard.now)

    def told(self, session=None) -> list[dict[str, str]]:
        """What al was told of presence since the last call."""
        return [one["users"] for one in self.shard.out(session or self.al) if one["type"] == "presence"]


@pytest.fixture
def place() -> Place:
    return Place()


SOON = 3 * PRESENCE_REFRESH  # in turns from the first look on, then twice the same


def test_a_lost_notice_is_made_good(place: Place) -> None:
    place.online = {"bob"}
    place.watch("bob", "eve")
    assert place.told() == [{"bob": "online", "eve": "offline"}]
    place.online = {"eve"}  # and the notices are lost
    place.wait(SOON)
    assert sorted(place.told(), key=str) == [{"bob": "offline"}, {"eve": "online"}]
    place.wait(SOON)
    assert place.told() == []


def test_what_is_known_is_not_said_again(place: Place) -> None:
    place.watch("bob")
    place.told()
    place.notice(presence_topic("bob"), bob="online")
    place.online = {"bob"}
    place.wait(SOON)
    assert place.told() == [{"bob": "online"}]


def test_a_change_that_is_on_its_way_is_not_said_twice(place: Place) -> None:
    place.watch("bob")
    place.wait(PRESENCE_REFRESH)
    place.told()
    place.online = {"bob"}
    place.wait(PRESENCE_REFRESH)  # one question saw it
    place.notice(presence_topic("bob"), bob="online")
    place.wait(SOON)
    assert place.told() == [{"bob": "online"}]


def test_those_who_watched_before_learn_from_a_later_answer(place: Place) -> None:
    place.online = {"bob"}
    place.watch("bob")
    place.told()
    place.online = set()
    other = place.shard.live("carol", syncing=True)
    place.watch("bob", session=other)
    assert place.told() == [{"bob": "offline"}]


def test_who_watches_everybody_is_told_too(place: Place) -> None:
    place.online = {"bob", "carol"}
    place.watch(lobby=True)
    place.wait(SOON)
    place.told()
    place.notice(PRESENCE_TOPIC, dave="online")
    place.online = {"carol", "dave", "eve"}
    place.wait(SOON)
    assert sorted(place.told(), key=str) == [{"bob": "offline"}, {"dave": "online"}, {"eve": "online"}]


def test_too_many_changes_are_not_listed(place: Place) -> None:
    place.watch(lobby=True)
    place.wait(SOON)
    place.told()
    slot = user_slot("u0")
    many = [name for name in (f"u{i}" for i in range(20_000)) if user_slot(name) == slot][: PRESENCE_NAMES_MAX + 1]
    place.online = set(many)
    place.wait(SOON)
    assert place.told() == [{}]


def test_a_notice_without_names_is_a_new_beginning(place: Place) -> None:
    place.watch(lobby=True)
    place.wait(SOON)
    place.told()
    signal = Signal(PRESENCE_TOPIC, encode_event(Presence(users={}, more=True)))
    place.shard.hub.signals([signal], place.shard.now)
    place.online = {"bob"}  # whoever was told to ask has been told
    place.wait(SOON)
    assert place.told() == [{}]


def test_a_new_owner_is_not_asked_before_it_can_know(place: Place) -> None:
    place.online = {"bob"}
    place.watch("bob")
    place.wait(SOON)
    place.told()
    place.shard.hub.ranges([Range(slot, wire_term(5, 2), 0, 0, []) for slot in range(SLOTS)], place.shard.now)
    place.online = set()
    assert place.wait(LEASE_SECONDS - 0.2) == 0
    place.wait(SOON)
    assert place.told() == [{"bob": "offline"}]


def test_nobody_watches_and_nobody_is_asked(place: Place) -> None:
    assert place.wait(SOON) == 0
    place.watch("bob")
    place.watch()
    assert place.wait(SOON) == 0


def test_questions_are_spread(place: Place) -> None:
    place.watch(lobby=True)
    place.wait(SOON)
    counts = [place.wait(0.1) for _ in range(round(PRESENCE_REFRESH * 10))]
    assert sum(counts) == pytest.approx(SLOTS, abs=3)
    assert max(counts) <= 5


def test_a_question_that_is_given_up_is_asked_again(place: Place) -> None:
    place.watch("bob")
    place.wait(PRESENCE_REFRESH)
    for _ in range(round(PRESENCE_REFRESH * 10)):
        place.shard.tick(0.1)
    question = place.shard.asked(WhoIsOnline)[-1]
    place.shard.reply(Refused(question.no, "UNAVAILABLE", "no answer in time", "unknown"))
    place._answered = len(place.shard.asked(WhoIsOnline))
    assert place.wait(SOON) > 0
