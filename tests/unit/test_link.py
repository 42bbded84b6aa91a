"""A link's life without a socket."""

import pytest

from hubbub.bus import batch
from hubbub.bus.link import PING_EVERY, SILENCE, Link, LinkState
from hubbub.protocol.internal import Done, Replay, Signal
from tests.builders import NotingHandler, mark


class Wire:
    """Takes what a link sends."""

    def __init__(self) -> None:
        self.sent: list[list[bytes]] = []
        self.takes = True
        self.handler = NotingHandler()
        self.topics = ["lobby", "user.al"]
        self.link = Link(
            role=batch.SHARD,
            name="s0",
            handler=self.handler,
            topics=lambda: list(self.topics),
            terms=lambda: {3: 7},
            send=self.send,
        )

    def send(self, frames: list[bytes]) -> bool:
        if self.takes:
            self.sent.append(frames)
        return self.takes

    def kinds(self) -> list[bytes]:
        return [frames[0] for frames in self.sent]


@pytest.fixture
def wire():
    return Wire()


@pytest.fixture
def up(wire):
    wire.link.opened(0.0)
    wire.link.receive([batch.WELCOME], 0.0)
    wire.sent.clear()
    assert wire.link.up
    return wire


def test_the_hello_names_everything(wire):
    assert wire.link.state is LinkState.BROKEN
    wire.link.opened(0.0)
    assert (wire.link.state, wire.link.up) == (LinkState.GREETING, False)
    ((kind, body),) = wire.sent
    hello = batch.decode_hello(body)
    assert kind == batch.HELLO
    assert (hello.version, hello.role, hello.name) == (batch.VERSION, "shard", "s0")
    assert (hello.topics, hello.terms) == (["lobby", "user.al"], {3: 7})


def test_the_topics_of_a_hello_are_those_of_its_moment(up):
    up.topics = ["lobby"]
    up.link.opened(1.0)
    assert batch.decode_hello(up.sent[-1][1]).topics == ["lobby"]


def test_nothing_is_sent_or_heard_before_the_welcome(wire):
    wire.link.opened(0.0)
    assert wire.link.publish([mark(1)]) is False
    assert wire.link.request([(3, Replay(3, 0))]) is False
    assert wire.link.signal([Signal("t", b"x")]) is False
    assert wire.link.subscribe(["t"], []) == 1
    wire.link.tick(PING_EVERY * 2)
    assert wire.kinds() == [batch.HELLO]
    wire.link.receive([batch.RANGES, batch.encode([mark(1)])], 0.1)
    assert wire.handler.story == []
    wire.link.receive([batch.WELCOME], 0.2)
    assert wire.handler.story == [("linked", None)]


def test_slots_taken_behind_a_hello_are_declared_behind_it(wire):
    assert wire.link.own({1: 1}) is False  # no socket: the hello will say it
    wire.link.opened(0.0)
    assert wire.link.own({1: 1}) is True
    assert wire.kinds() == [batch.HELLO, batch.OWN]


def test_what_arrives_is_decoded(up):
    up.link.receive([batch.RANGES, batch.encode([mark(4)])], 1.0)
    up.link.receive([batch.REPLIES, batch.encode([Done(8)])], 1.0)
    up.link.receive([batch.REQUESTS, b"asker", batch.encode([Replay(3, 0)])], 1.0)
    up.link.receive([batch.SIGNALS, batch.encode([Signal("t", b"x")])], 1.0)
    up.link.receive([batch.SUBSCRIBED, batch.encode(5)], 1.0)
    up.link.receive([batch.PING, batch.encode(6)], 1.0)
    assert up.handler.story[1:] == [
        ("ranges", [mark(4)]),
        ("replies", [Done(8)]),
        ("requests", [(b"asker", Replay(3, 0))]),
        ("signals", [Signal("t", b"x")]),
        ("subscribed", 5),
    ]
    assert up.link.up


def test_what_is_said_is_packed(up):
    link = up.link
    assert link.request([(3, Replay(3, 0)), (9, Replay(9, 2))])
    assert link.reply(b"asker", [Done(8)])
    assert link.publish([mark(4)])
    assert link.publish_to(b"asker", [mark(5)])
    assert link.own({3: 8})
    assert link.subscribe(["a"], ["b"]) == 1
    assert link.subscribe([], ["a"]) == 2
    requests, replies, ranges, replayed, own, one, two = up.sent
    assert (requests[0], requests[1]) == (batch.REQUESTS, bytes([3, 9]))
    assert batch.decode_requests(requests[2]) == [Replay(3, 0), Replay(9, 2)]
    assert (replies[:2], batch.decode_replies(replies[2])) == ([batch.REPLIES, b"asker"], [Done(8)])
    assert (ranges[0], batch.decode_ranges(ranges[1])) == (batch.RANGES, [mark(4)])
    assert (replayed[:2], batch.decode_ranges(replayed[2])) == ([batch.REPLAYED, b"asker"], [mark(5)])
    assert (own[0], batch.decode_terms(own[1])) == (batch.OWN, {3: 8})
    assert batch.decode_subscribe(one[1]) == batch.Subscribe(1, ["a"], ["b"])
    assert batch.decode_subscribe(two[1]) == batch.Subscribe(2, [], ["a"])


def test_pings_in_silence(up):
    up.link.tick(PING_EVERY - 0.01)
    assert up.sent == []
    up.link.tick(PING_EVERY)
    up.link.tick(PING_EVERY + 0.1)
    up.link.tick(PING_EVERY * 2)
    assert up.sent == [[batch.PING, batch.encode(1)], [batch.PING, batch.encode(2)]]  # what went before it


def test_a_ping_s_answer_tells_what_should_have_come(up):
    up.link.receive([batch.PING, batch.encode(1)], 0.1)  # the welcome
    up.link.receive([batch.RANGES, batch.encode([mark(4)])], 0.1)
    up.link.receive([batch.PING, batch.encode(3)], 0.1)
    assert up.link.up
    up.link.receive([batch.PING, batch.encode(5)], 0.1)  # the transport lost one on the way
    assert up.link.state is LinkState.BROKEN


def test_a_new_link_counts_anew(up):
    up.link.receive([batch.RANGES, batch.encode([mark(4)])], 0.1)
    up.link.opened(1.0)
    up.link.receive([batch.WELCOME], 1.0)
    up.link.receive([batch.PING, batch.encode(1)], 1.0)
    up.link.tick(1.0 + PING_EVERY)
    assert up.link.up
    assert up.sent[-1] == [batch.PING, batch.encode(1)]


def test_a_ping_that_counts_otherwise_breaks_it(up):
    up.link.receive([batch.PING, batch.encode(1)], 1.0)  # the welcome
    assert up.link.up
    up.link.receive([batch.PING, batch.encode(3)], 1.1)  # that one and the ping before it were two
    assert up.link.state is LinkState.BROKEN


def test_silence_breaks_it(up):
    up.link.receive([batch.PING, batch.encode(1)], 1.0)
    up.link.tick(1.0 + SILENCE)
    assert up.link.up
    up.link.tick(1.0 + SILENCE + 0.01)
    assert up.link.state is LinkState.BROKEN


def test_no_welcome_breaks_it(wire):
    wire.link.opened(0.0)
    wire.link.tick(SILENCE + 0.01)
    assert wire.link.state is LinkState.BROKEN


def test_a_new_link_has_its_own_patience(up):
    up.link.opened(60.0)
    up.link.tick(60.0 + SILENCE)
    assert up.link.state is LinkState.GREETING
    up.link.receive([batch.WELCOME], 60.0 + SILENCE)
    up.sent.clear()
    up.link.tick(60.0 + SILENCE)
    assert up.kinds() == [batch.PING]


def test_a_send_that_fails_breaks_it(up):
    up.takes = False
    assert up.link.publish([mark(1)]) is False
    assert up.link.state is LinkState.BROKEN
    up.takes = True
    assert up.link.publish([mark(2)]) is False  # nothing may follow a hole
    assert up.sent == []


def test_a_hello_that_cannot_be_sent_breaks_it(wire):
    wire.takes = False
    wire.link.opened(0.0)
    assert wire.link.state is LinkState.BROKEN


def test_again_breaks_it(up):
    up.link.receive([batch.AGAIN], 0.1)
    assert up.link.state is LinkState.BROKEN


def test_a_broken_link_hears_nothing(up):
    up.link.receive([batch.AGAIN], 0.1)
    up.link.receive([batch.WELCOME], 0.1)
    up.link.receive([batch.RANGES, batch.encode([mark(4)])], 0.1)
    assert up.handler.story == [("linked", None)]
    assert up.link.state is LinkState.BROKEN


def test_another_version_is_told_in_words(wire):
    wire.link.opened(0.0)
    wire.link.receive([batch.REFUSED, "speak 2, ü".encode()], 0.1)
    assert (wire.link.state, wire.link.refused) == (LinkState.BROKEN, "speak 2, ü")
    wire.link.opened(1.0)
    assert wire.link.refused == "speak 2, ü"
    wire.link.receive([batch.WELCOME], 1.1)
    assert wire.link.refused is None


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [batch.RANGES],
        [batch.RANGES, b""],
        [batch.RANGES, b"\xc1"],
        [batch.RANGES, batch.encode([1])],
        [batch.RANGES, batch.encode([(1, 1, 0, 0, [(["t"], "no bytes")])])],
        [batch.REPLIES, b"\x91" * 100_000],
        [batch.SIGNALS, b"\x91\x92\xa1\xff\xc4\x00"],  # a topic that is no UTF-8
        [batch.REQUESTS, b"asker"],
        [batch.SUBSCRIBED, batch.encode("one")],
    ],
)
def test_what_cannot_be_read_breaks_it(up, frames):
    up.link.receive(frames, 0.1)
    assert up.link.state is LinkState.BROKEN
    assert up.handler.story == [("linked", None)]


def test_a_kind_it_does_not_know_is_passed_over(up):
    up.link.receive([b"?", b"what"], 0.1)
    assert up.link.up
