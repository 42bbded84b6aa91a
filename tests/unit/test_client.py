"""The client's rule: drop, apply, ask; sync; send until acknowledged."""

import msgspec
import pytest

from hubbub.protocol import messages
from hubbub.protocol.client import (
    ASK_AGAIN,
    RECEIVED_EVERY,
    RESEND_AFTER,
    STALLED_AFTER,
    Acknowledged,
    Applied,
    Client,
    Discarded,
    Rejected,
    Skipped,
    Stage,
    Started,
)
from hubbub.protocol.limits import SYNC_HAVE_MAX

LIMITS = messages.WelcomeLimits(content_bytes=100, rate=1, burst=1, in_flight=1)
PINGS = messages.PingTimes(interval_ms=1, timeout_ms=1)
AGAIN = messages.ReconnectTimes(min_ms=1, max_ms=1)


class Server:
    """Says things to a client, and reads what it writes."""

    def __init__(self) -> None:
        self.keys = 0
        self.client = Client(key=self._key)

    def _key(self) -> str:
        self.keys += 1
        return f"key-{self.keys:012}"

    def say(self, *events: messages.Event, now: float = 0.0) -> None:
        for event in events:
            self.client.event(messages.encode_event(event), now)

    def commands(self) -> list[messages.Command]:
        out, self.client.out = self.client.out, []
        return [messages.decode_command(data) for data in out]

    def news(self) -> list[object]:
        news, self.client.news = self.client.news, []
        return list(news)

    def welcome(self, epoch: int = 7, now: float = 0.0) -> messages.Sync:
        self.client.connected(now)
        self.say(
            messages.Welcome(
                username="ann", session="s", server_time="", epoch=epoch, limits=LIMITS, ping=PINGS, reconnect=AGAIN
            ),
            now=now,
        )
        commands = self.commands()
        assert isinstance(commands[0], messages.Sync)
        self.rest = commands[1:]
        return commands[0]

    def synced(self, sync: messages.Sync, *parts: tuple[str, int, int], epoch: int = 7, now: float = 0.0) -> None:
        conversations = [
            messages.SyncedConversation(
                conversation=name, from_=after, to=to, last_seq=to, delivered_seq=0, read_seq=0, unread=0
            )
            for name, after, to in parts
        ]
        self.say(messages.Synced(conversations=conversations, epoch=epoch, id=sync.id or ""), now=now)

    def live(self, *parts: tuple[str, int, int]) -> None:
        self.synced(self.welcome(), *(parts or (("lobby", 0, 0),)))
        self.news()


@pytest.fixture
def server() -> Server:
    return Server()


def message(seq: int, conversation: str = "lobby", sender: str = "bob") -> messages.Message:
    return messages.Message(
        id=seq, conversation=conversation, seq=seq, ordinal=seq, sender=sender, content=f"m{seq}", timestamp="t"
    )


def ack(key: str, seq: int, conversation: str = "lobby") -> messages.Ack:
    return messages.Ack(id=key, message_id=seq, conversation=conversation, seq=seq, timestamp="t")


def page(asked: messages.Command, to: int, *seqs: int) -> messages.HistoryPage:
    assert isinstance(asked, messages.History) and asked.after is not None and asked.id is not None
    events = [msgspec.Raw(messages.encode_event(message(seq, asked.conversation))) for seq in seqs]
    return messages.HistoryPage(
        conversation=asked.conversation, from_=asked.after, to=to, events=events, more=False, id=asked.id
    )


def applied(server: Server) -> list[int]:
    return [one.seq for one in server.news() if isinstance(one, Applied)]


def test_the_next_is_applied_and_the_seen_dropped(server):
    server.live()
    server.say(message(1), message(1), message(2), message(1), message(3))
    assert applied(server) == [1, 2, 3]
    assert server.client.position("lobby") == 3
    assert server.commands() == []


def test_a_hole_is_filled_before_what_follows_it(server):
    server.live()
    server.say(message(1), message(4), message(5))
    assert applied(server) == [1]
    (asked,) = server.commands()
    assert isinstance(asked, messages.History) and asked.after == 1
    assert not server.client.settled
    server.say(page(asked, 3, 2, 3))
    assert applied(server) == [2, 3, 4, 5]
    assert server.client.settled


def test_what_a_page_does_not_contain_does_not_exist(server):
    server.live()
    server.say(message(9))
    (asked,) = server.commands()
    server.say(page(asked, 8, 3))
    assert applied(server) == [3, 9]


def test_a_page_that_ends_before_the_hole_does_leads_to_the_next(server):
    server.live()
    server.say(message(9))
    (asked,) = server.commands()
    server.say(page(asked, 4, 1, 2, 3, 4))
    (again,) = server.commands()
    assert isinstance(again, messages.History) and again.after == 4
    server.say(page(asked, 9, 9))  # nobody waits for that one any more
    assert applied(server) == [1, 2, 3, 4]
    server.say(page(again, 9, 5, 9))
    assert applied(server) == [5, 9]


def test_a_page_asked_for_in_vain_is_asked_for_again(server):
    server.live()
    server.say(message(3))
    (first,) = server.commands()
    server.client.tick(ASK_AGAIN - 0.1)
    assert server.commands() == []
    server.client.tick(ASK_AGAIN)
    (second,) = server.commands()
    assert isinstance(second, messages.History) and second.id != first.id
    refused = messages.Error(code="unavailable", message="", temporary=True, id=second.id or "", retry_after_ms=2000)
    server.say(refused, now=20.0)
    server.client.tick(21.9)
    assert server.commands() == []
    server.client.tick(22.0)
    assert len(server.commands()) == 1


def test_sync_says_what_is_held_and_takes_the_rest(server):
    server.live(("lobby", 0, 0), ("direct:ann:bob", 0, 0))
    server.say(message(1), message(1, "direct:ann:bob"))
    server.client.disconnected()
    server.news()
    sync = server.welcome()
    assert sync.have == {"lobby": 1, "direct:ann:bob": 1}
    assert sync.epoch == 7
    server.say(message(2), message(3))
    server.synced(sync, ("lobby", 1, 3), ("direct:ann:bob", 1, 1))
    assert applied(server) == [2, 3]
    assert server.client.stage is Stage.LIVE


def test_a_new_conversation_begins_where_the_answer_does(server):
    sync = server.welcome()
    server.say(message(41), message(42))
    assert server.news() == []
    server.synced(sync, ("lobby", 40, 42))
    news = server.news()
    assert news[0] == Started("lobby", 40)
    assert [one.seq for one in news[1:]] == [41, 42]


def test_a_conversation_that_no_sync_knew_begins_with_its_first(server):
    server.live()
    server.say(message(1, "direct:ann:bob"))
    assert server.news()[0] == Started("direct:ann:bob", 0)


def test_a_conversation_that_began_during_the_sync(server):
    sync = server.welcome()
    server.say(message(1, "direct:ann:bob"))
    server.synced(sync, ("lobby", 0, 0))
    assert applied(server) == [1]


def test_what_the_answer_cut_off_is_told(server):
    server.live()
    server.say(message(1))
    server.client.disconnected()
    server.news()
    sync = server.welcome()
    server.say(message(9), message(10))
    server.synced(sync, ("lobby", 8, 10))
    assert server.news()[0] == Skipped("lobby", 1, 8)
    assert server.client.position("lobby") == 10


def test_an_answer_behind_the_position_takes_nothing_back(server):
    server.live()
    server.say(message(1), message(2))
    server.client.disconnected()
    server.synced(server.welcome(), ("lobby", 1, 1))
    assert server.client.position("lobby") == 2
    server.news()
    server.say(message(2), message(3))
    assert applied(server) == [3]


def test_many_conversations_are_named_in_several_commands(server):
    names = [(f"direct:ann:u{i:04}", 0, 1) for i in range(SYNC_HAVE_MAX + 1)]
    server.live(*names)
    server.client.disconnected()
    server.client.connected(0.0)
    server.client.stage = Stage.GREETING
    server.client.sync(0.0)
    first, second = server.commands()
    assert isinstance(first, messages.Sync) and isinstance(second, messages.Sync)
    assert (first.more, second.more, first.id) == (True, False, second.id)
    assert len(first.have) == SYNC_HAVE_MAX and len(second.have) == 1


@pytest.mark.parametrize("when", ["welcome", "synced"])
def test_another_epoch_voids_everything(server, when):
    server.live()
    server.say(message(1))
    server.client.disconnected()
    server.news()
    if when == "welcome":
        sync = server.welcome(epoch=8)
    else:
        server.synced(server.welcome(), ("lobby", 1, 1), epoch=8)
        (sync,) = server.commands()
    assert server.news() == [Discarded(8)]
    assert (sync.have, sync.epoch) == ({}, 8)
    server.synced(sync, ("lobby", 3, 3), epoch=8)
    assert server.news() == [Started("lobby", 3)]


def test_a_sync_refused_is_tried_again(server):
    sync = server.welcome()
    refused = messages.Error(code="unavailable", message="", temporary=True, id=sync.id or "", retry_after_ms=1000)
    server.say(refused, now=1.0)
    server.client.tick(1.9)
    assert server.commands() == []
    server.client.tick(2.0)
    (again,) = server.commands()
    assert isinstance(again, messages.Sync) and again.id != sync.id
    server.synced(sync, ("lobby", 0, 5))
    assert server.client.stage.name == "SYNCING"  # not the answer to that one
    server.synced(again, ("lobby", 0, 0))
    assert server.client.stage.name == "LIVE"


def test_a_connection_that_does_not_begin_is_given_up(server):
    server.welcome(now=10.0)
    assert not server.client.stalled(10.0 + STALLED_AFTER)
    assert server.client.stalled(10.1 + STALLED_AFTER)


def test_an_acknowledgement_stands_for_the_message(server):
    server.live()
    key = server.client.send("hi", None, 0.0)
    (sent,) = server.commands()
    assert isinstance(sent, messages.Send) and (sent.id, sent.content) == (key, "hi")
    server.say(message(1), ack(key, 2), message(2, sender="ann"))
    acknowledged, own = [one for one in server.news() if not (isinstance(one, Applied) and one.seq == 1)]
    assert isinstance(acknowledged, Acknowledged) and acknowledged.key == key
    assert isinstance(own, Applied) and (own.seq, own.sender, own.content, own.key) == (2, "ann", "hi", key)
    assert server.client.settled


def test_an_acknowledgement_ahead_is_a_hole(server):
    server.live()
    key = server.client.send("hi", None, 0.0)
    server.commands()
    server.say(ack(key, 3))
    (asked,) = server.commands()
    server.say(page(asked, 3, 1, 2, 3))
    assert applied(server) == [1, 2, 3]


def test_an_acknowledgement_of_what_is_no_longer_known_asks_for_it(server):
    server.live()
    server.say(ack("key-of-another-life", 1))
    (asked,) = server.commands()
    server.say(page(asked, 1, 1))
    assert applied(server) == [1]


def test_a_send_is_repeated_until_it_is_acknowledged(server):
    server.live()
    key = server.client.send("hi", "bob", 0.0)
    server.commands()
    server.client.tick(RESEND_AFTER - 0.1)
    assert server.commands() == []
    server.client.tick(RESEND_AFTER)
    (again,) = server.commands()
    assert isinstance(again, messages.Send) and (again.id, again.recipient) == (key, "bob")
    server.client.disconnected()
    server.welcome()
    assert [one.id for one in server.rest if isinstance(one, messages.Send)] == [key]
    server.say(ack(key, 1, "direct:ann:bob"))
    assert server.client.pending == []


def test_what_is_said_without_a_connection_goes_out_with_the_next(server):
    key = server.client.send("hi", None, 0.0)
    assert server.commands() == []
    server.welcome()
    assert [one.id for one in server.rest] == [key]


def test_a_temporary_refusal_is_tried_again_and_a_final_one_told(server):
    server.live()
    key = server.client.send("hi", None, 0.0)
    server.commands()
    wait = messages.Error(code="overloaded", message="", temporary=True, id=key, stored="no", retry_after_ms=500)
    server.say(wait, now=1.0)
    server.client.tick(1.4)
    assert server.commands() == []
    server.client.tick(1.5)
    assert len(server.commands()) == 1
    final = messages.Error(code="conflict", message="", temporary=False, id=key, stored="no")
    server.say(final)
    assert server.news() == [Rejected(key, final)]
    assert server.client.pending == []


def test_received_is_cumulative_and_not_said_too_often(server):
    server.live(("lobby", 0, 0), ("direct:ann:bob", 0, 0))
    server.say(message(1), message(2), message(1, "direct:ann:bob"))
    server.client.tick(1.0)
    said = {one.conversation: one.seq for one in server.commands() if isinstance(one, messages.Received)}
    assert said == {"lobby": 2, "direct:ann:bob": 1}
    server.say(message(3), now=1.01)
    server.client.tick(1.0 + RECEIVED_EVERY / 2)
    assert server.commands() == []
    server.client.tick(1.01 + RECEIVED_EVERY)
    (received,) = server.commands()
    assert isinstance(received, messages.Received) and received.seq == 3


def test_what_the_server_does_not_know_as_received_is_said_again(server):
    server.live()
    server.say(message(1))
    server.client.tick(1.0)
    server.client.disconnected()
    server.synced(server.welcome(), ("lobby", 1, 1))
    server.client.tick(2.0)
    (received,) = server.commands()
    assert isinstance(received, messages.Received) and received.seq == 1


def test_reading_says_how_far(server):
    server.live()
    server.client.read("lobby")
    assert server.commands() == []
    server.say(message(1))
    server.client.read("lobby")
    server.client.read("direct:ann:nobody")
    assert server.commands() == [messages.Read(conversation="lobby", seq=1)]


def test_what_needs_no_rule_is_ignored(server):
    server.live()
    server.say(
        messages.Pong(server_time=""),
        messages.TypingNotice(username="bob", conversation="lobby", on=True),
        messages.Presence(users={"bob": "online"}),
        messages.Receipt(conversation="lobby", username="bob", delivered_seq=1, read_seq=0),
        messages.Goodbye(code=4000, reason="restarting"),
        messages.Error(code="bad_request", message="", temporary=False),
    )
    assert server.news() == [] and server.commands() == []
