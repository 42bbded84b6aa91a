"""Who gets what from the broker, and who is forgotten."""

from typing import Any

import pytest

from broker.router import PATIENCE, Router
from hubbub.bus import batch
from hubbub.protocol.internal import Done, Entry, Range, Replay, Signal

A, B, C = b"shard-a", b"shard-b", b"shard-c"
X, Y = b"store-x", b"store-y"


class Broker:
    """A router and some peers, in words."""

    def __init__(self) -> None:
        self.router = Router()
        self.now = 0.0

    def say(self, peer: bytes, *frames: bytes) -> list[tuple[bytes, list[bytes]]]:
        return self.router.receive(peer, list(frames), self.now)

    def ping(self, peer: bytes) -> bool:
        """Whether the peer, which has sent and heard everything, is told that nothing is missing."""
        known = self.router._peers.get(peer)
        sent = known.received if known is not None else 0
        heard = known.sent if known is not None else 0
        ((to, frames),) = self.say(peer, batch.PING, batch.encode(sent))
        assert to == peer
        assert frames in ([batch.PING, batch.encode(heard)], [batch.AGAIN])
        return frames != [batch.AGAIN]

    def hello(self, peer, role="shard", topics=(), terms=None, version=batch.VERSION):
        hello = batch.Hello(version, role, peer.decode(), list(topics), terms or {})
        return self.say(peer, batch.HELLO, batch.encode(hello))

    def store(self, peer, terms):
        assert self.hello(peer, "store", terms=terms) == [(peer, [batch.WELCOME])]

    def shard(self, peer, *topics):
        assert self.hello(peer, topics=topics) == [(peer, [batch.WELCOME])]

    def ranges(self, *ranges, sender=X):
        """What each shard gets: peer -> ranges."""
        out = self.say(sender, batch.RANGES, batch.encode(ranges))
        assert all(frames[0] == batch.RANGES for _, frames in out)
        return {peer: batch.decode_ranges(frames[1]) for peer, frames in out}

    def request(self, peer, *slots):
        """Who is asked for what: ``(store, asker, slots)``."""
        out = self.say(peer, batch.REQUESTS, bytes(slots), batch.encode([Replay(slot, 0) for slot in slots]))
        assert all(frames[0] == batch.REQUESTS for _, frames in out)
        found: list[tuple[bytes, bytes, list[Any]]] = [
            (to, frames[1], list(batch.decode_requests(frames[2]))) for to, frames in out
        ]
        return sorted((to, asker, [one.slot for one in requests]) for to, asker, requests in found)


@pytest.fixture
def broker():
    return Broker()


def entries(*topics: str) -> list[Entry]:
    return [Entry([topic], topic.encode()) for topic in topics]


def test_strangers_are_told_to_say_hello(broker):
    for kind in (batch.PING, batch.RANGES, batch.OWN, b"?"):
        assert broker.say(A, kind, b"") == [(A, [batch.AGAIN])]
    assert broker.router.counts() == (0, 0, 0)


def test_a_ping_is_answered_with_what_was_sent_before(broker):
    broker.shard(A, "lobby")
    broker.store(X, {})
    assert broker.say(A, batch.PING, batch.encode(1)) == [(A, [batch.PING, batch.encode(1)])]  # hello, welcome
    broker.ranges(Range(3, 7, 0, 1, []))
    broker.say(A, batch.SUBSCRIBE, batch.encode(batch.Subscribe(1, [], [])))
    assert broker.say(A, batch.PING, batch.encode(3)) == [(A, [batch.PING, batch.encode(4)])]


@pytest.mark.parametrize("count", [0, 2, 9])
def test_a_ping_that_has_another_count_shows_a_hole(broker, count):
    broker.shard(A, "lobby")
    assert broker.say(A, batch.PING, batch.encode(count)) == [(A, [batch.AGAIN])]
    assert broker.router.counts() == (0, 0, 0)


def test_another_version_is_refused_in_words(broker):
    ((peer, (kind, text)),) = broker.hello(A, version=batch.VERSION + 1)
    assert (peer, kind) == (A, batch.REFUSED)
    assert f"version {batch.VERSION} " in text.decode() and text.decode().endswith(f"you speak {batch.VERSION + 1}")
    assert not broker.ping(A)


def test_a_peer_of_another_version_loses_what_it_had(broker):
    broker.shard(A, "lobby")
    broker.hello(A, version=0)
    assert broker.router.counts() == (0, 0, 0)


def test_ranges_are_filtered_and_keep_their_numbers(broker):
    broker.shard(A, "lobby", "user.al")
    broker.shard(B, "user.bob")
    broker.shard(C)
    part = Range(3, 7, 10, 13, entries("lobby", "user.bob", "user.eve"))
    broker.store(X, {3: 7})
    assert broker.ranges(part) == {
        A: [Range(3, 7, 10, 13, entries("lobby"))],
        B: [Range(3, 7, 10, 13, entries("user.bob"))],
        C: [Range(3, 7, 10, 13, [])],
    }


def test_an_event_of_several_topics_comes_once(broker):
    broker.shard(A, "user.al", "user.bob")
    broker.store(X, {})
    both = Range(3, 7, 0, 1, [Entry(["user.al", "user.bob"], b"e")])
    assert broker.ranges(both) == {A: [both]}


def test_a_batch_of_ranges_stays_in_order(broker):
    broker.shard(A, "lobby")
    broker.store(X, {})
    batch_of = [Range(3, 7, 0, 1, entries("lobby")), Range(9, 7, 4, 4, []), Range(3, 7, 1, 2, entries("user.al"))]
    assert broker.ranges(*batch_of) == {A: [batch_of[0], batch_of[1], Range(3, 7, 1, 2, [])]}


def test_stores_hear_no_ranges(broker):
    broker.store(X, {3: 1})
    broker.store(Y, {4: 1})
    assert broker.ranges(Range(3, 1, 0, 1, entries("lobby"))) == {}


def test_a_change_of_topics_is_answered_and_in_force(broker):
    broker.shard(A, "user.al")
    broker.store(X, {})
    change = batch.Subscribe(7, ["user.bob"], ["user.al"])
    assert broker.say(A, batch.SUBSCRIBE, batch.encode(change)) == [(A, [batch.SUBSCRIBED, batch.encode(7)])]
    part = Range(3, 7, 0, 2, entries("user.al", "user.bob"))
    assert broker.ranges(part) == {A: [Range(3, 7, 0, 2, entries("user.bob"))]}
    assert broker.router.counts() == (2, 1, 0)


def test_a_topic_that_is_dropped_and_added_in_one_change_stays(broker):
    broker.shard(A, "t")
    broker.say(A, batch.SUBSCRIBE, batch.encode(batch.Subscribe(1, ["t"], ["t"])))
    broker.store(X, {})
    assert broker.ranges(Range(3, 7, 0, 1, entries("t")))[A][0].entries == entries("t")


def test_a_new_hello_replaces_the_old(broker):
    broker.shard(A, "user.al")
    broker.shard(A, "user.bob")
    assert broker.router.counts() == (1, 1, 0)
    broker.store(X, {1: 1, 2: 1})
    broker.store(X, {2: 2})
    assert broker.router.counts() == (2, 1, 1)
    assert broker.request(A, 1) == []


def test_a_replay_goes_to_one_alone_and_is_filtered(broker):
    broker.shard(A, "lobby")
    broker.shard(B, "lobby")
    broker.store(X, {3: 7})
    part = Range(3, 7, 0, 2, entries("lobby", "user.al"))
    out = broker.say(X, batch.REPLAYED, B, batch.encode([part]))
    assert out == [(B, [batch.RANGES, batch.encode([Range(3, 7, 0, 2, entries("lobby"))])])]
    assert broker.say(X, batch.REPLAYED, C, batch.encode([part])) == []


def test_requests_go_to_the_owner(broker):
    broker.store(X, {1: 1, 2: 1})
    broker.store(Y, {3: 1})
    broker.shard(A)
    assert broker.request(A, 1, 2, 1) == [(X, A, [1, 2, 1])]
    assert broker.request(A, 1, 3, 2) == [(X, A, [1, 2]), (Y, A, [3])]


def test_requests_without_an_owner_are_lost(broker):
    broker.store(X, {1: 1})
    broker.shard(A)
    assert broker.request(A, 4, 5) == []
    assert broker.request(A, 4, 1) == [(X, A, [1])]
    assert broker.request(A, 200) == []
    assert broker.request(A) == []
    assert broker.router.unroutable == 4


def test_the_highest_term_owns(broker):
    broker.shard(A)
    broker.store(X, {1: 5})
    broker.store(Y, {1: 4})
    assert broker.request(A, 1)[0][0] == X  # an old owner that comes late
    broker.say(Y, batch.OWN, batch.encode({1: 6}))
    assert broker.request(A, 1)[0][0] == Y
    broker.say(X, batch.OWN, batch.encode({}))
    assert broker.request(A, 1)[0][0] == Y  # X gives up what is no longer its own


def test_an_old_link_that_goes_leaves_the_slot_to_the_newer(broker):
    """Two links of one store: the older hello may come last, and is forgotten when it falls silent."""
    broker.shard(A)
    broker.store(X, {1: 5})
    broker.store(Y, {1: 5})
    assert broker.request(A, 1)[0][0] == Y
    broker.router.forget(Y)
    assert broker.request(A, 1)[0][0] == X


def test_a_declaration_replaces_the_one_before(broker):
    broker.shard(A)
    broker.store(X, {1: 5})
    assert broker.say(X, batch.OWN, batch.encode({2: 5, 64: 1, -1: 1})) == []
    assert broker.request(A, 1) == []
    assert broker.request(A, 2)[0][0] == X
    assert broker.router.counts() == (2, 0, 1)


def test_an_owner_that_goes_is_an_owner_no_more(broker):
    broker.shard(A)
    broker.store(X, {1: 5})
    broker.router.forget(X)
    assert broker.request(A, 1) == []


def test_a_reply_goes_to_the_asker_alone(broker):
    broker.shard(A)
    broker.shard(B)
    broker.store(X, {})
    body = batch.encode([Done(4)])
    assert broker.say(X, batch.REPLIES, A, body) == [(A, [batch.REPLIES, body])]
    assert broker.say(X, batch.REPLIES, C, body) == []


def test_signals_go_to_the_listeners_of_their_topic(broker):
    broker.shard(A, "user.al", "presence")
    broker.shard(B, "user.bob")
    signals = [Signal("user.al", b"1"), Signal("user.bob", b"2"), Signal("user.eve", b"3"), Signal("presence", b"4")]
    out = dict(broker.say(B, batch.SIGNALS, batch.encode(signals)))
    assert {peer: batch.decode_signals(frames[1]) for peer, frames in out.items()} == {
        A: [signals[0], signals[3]],
        B: [signals[1]],
    }


def test_one_that_is_forgotten_gets_nothing_but_again(broker):
    broker.shard(A, "lobby")
    broker.store(X, {})
    broker.router.forget(A)
    broker.router.forget(A)
    assert broker.ranges(Range(3, 7, 0, 1, entries("lobby"))) == {}
    assert broker.say(X, batch.REPLIES, A, batch.encode([Done(1)])) == []
    assert not broker.ping(A)
    assert broker.router.counts() == (1, 0, 0)


def test_the_silent_are_forgotten(broker):
    broker.shard(A, "lobby")
    broker.store(X, {1: 1})
    broker.now = PATIENCE
    assert broker.ping(A)
    assert broker.router.expire(PATIENCE) == []
    assert broker.router.expire(PATIENCE + 0.01) == ["store-x"]
    assert broker.router.peers() == [("shard", "shard-a")]


def test_while_the_broker_was_stopped_nobody_was_silent(broker):
    broker.shard(A)
    broker.router.resumed(20.0)
    assert broker.router.expire(20.0 + PATIENCE) == []
    assert broker.router.expire(20.0 + PATIENCE + 0.01) == ["shard-a"]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [batch.HELLO],
        [batch.HELLO, b"\xc1"],
        [batch.HELLO, b"\x95\x01\xa5shard\xa1\xff\x90\x80"],  # a name that is no UTF-8
        [batch.SUBSCRIBE, batch.encode("x")],
        [batch.RANGES, b"\x91" * 100_000],
        [batch.REQUESTS, b"\x01"],
        [batch.REQUESTS, b"\x01\x02", b"\xc1"],
        [batch.REPLIES],
        [batch.SIGNALS, batch.encode([1])],
        [batch.OWN, batch.encode({"a": 1})],
        [batch.REPLAYED, B, b"\xc1"],
    ],
)
def test_what_cannot_be_read_costs_its_sender_the_link(broker, frames):
    broker.shard(A, "lobby")
    broker.shard(B, "lobby")
    broker.store(X, {1: 1})
    assert broker.say(A, *frames) == [(A, [batch.AGAIN])]
    assert broker.router.malformed == 1
    assert broker.router.peers() == [("shard", "shard-b"), ("store", "store-x")]
    assert not broker.ping(A)


def test_a_kind_that_it_does_not_know(broker):
    broker.shard(A)
    assert broker.say(A, b"?") == []
    assert broker.router.malformed == 1
    assert broker.ping(A)
