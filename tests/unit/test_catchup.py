"""What was missed, then what happens: no gap, no overlap, whatever comes in between."""

from typing import Any

import pytest

from hubbub.protocol.conversation import LOBBY, slot_of, user_slot
from hubbub.protocol.internal import Backlog, BacklogPage, ConversationPage, Cursor, Send, Sync, SyncPage
from hubbub.protocol.limits import GIVE_UP_AFTER, SYNC_TOTAL_MAX
from shards.session import Stage
from tests.builders import LOBBY_SLOT, event, part
from tests.unit.shard import Shard, closed_with

AL_BOB = "direct:al:bob"


@pytest.fixture
def shard():
    return Shard()


def page(conversation=LOBBY, after=0, to=0, seqs=(), *, truncated=False, other=None) -> ConversationPage:
    events = [b'{"seq":%d}' % seq for seq in seqs]
    return ConversationPage(conversation, after, to, to, 1, 1, to - 1, truncated, events, other)


def seqs(out) -> list[Any]:
    """The seqs of events, and the types of everything else."""
    return [one.get("seq") or one.get("type") or one["id"] & 0xFF if isinstance(one, dict) else one for one in out]


# --- a client that holds positions -------------------------------------------------------------------


def test_a_sync_is_asked_with_the_positions_of_the_shard(shard):
    shard.happen(event(1), event(2), event(1, AL_BOB))
    session = shard.open("al", syncing=True)
    shard.out(session)
    assert shard.asked(Sync) == []
    shard.say(session, type="sync", have={LOBBY: 1}, id="s")
    ((slot, request),) = [pair for pair in shard.bus.requested if type(pair[1]) is Sync]
    assert (slot, request.username, request.have) == (user_slot("al"), "al", {LOBBY: 1})
    expected = [0] * 64
    expected[LOBBY_SLOT], expected[slot_of(AL_BOB)] = 2, 1
    assert request.positions == expected


def test_the_answer_and_then_what_was_held(shard):
    session = shard.open("al", syncing=True)
    shard.out(session)
    shard.say(session, type="sync", id="s")
    shard.happen(event(1), event(2))
    assert shard.out(session) == []
    other = Cursor("bob", "", 4, 3)
    shard.reply(
        SyncPage(shard.asked(Sync)[0].no, [page(AL_BOB, 2, 5, (3, 5), other=other), page(LOBBY, 0, 0, truncated=True)])
    )
    assert shard.out(session) == [
        {"seq": 3},
        {"seq": 5},
        {"type": "receipt", "conversation": AL_BOB, "username": "bob", "delivered_seq": 4, "read_seq": 3},
        {
            "type": "synced",
            "conversations": [
                {"conversation": AL_BOB, "from": 2, "to": 5, "last_seq": 5, "delivered_seq": 1, "read_seq": 1,
                 "unread": 4},
                {"conversation": LOBBY, "from": 0, "to": 0, "last_seq": 0, "delivered_seq": 1, "read_seq": 1,
                 "unread": -1, "truncated": True},
            ],
            "epoch": 5,
            "id": "s",
        },
        {"id": event(1).id},
        {"id": event(2).id},
    ]  # fmt: skip
    assert session.stage is Stage.LIVE
    shard.happen(event(3))
    assert seqs(shard.out(session)) == [3]


def test_until_it_syncs_a_client_that_says_it_will_hears_nothing(shard):
    session = shard.open("al", syncing=True)
    shard.out(session)
    shard.happen(event(1))
    shard.tick(5)
    assert (shard.out(session), shard.asked(Backlog), session.stage) == ([], [], Stage.IDLE)


def test_a_sync_before_the_topics_are_in_force_waits_for_them(shard):
    session = shard.hub.open("al", syncing=True, remote="", expires_at=None, now=shard.now)
    shard.say(session, type="sync", have={LOBBY: 3})
    assert (shard.asked(Sync), session.stage) == ([], Stage.OPENING)
    shard.happen(event(1))  # filtered without this session's topics, so it must be in the answer
    shard.hub.subscribed(len(shard.bus.subscriptions), shard.now)
    shard.turn()
    (request,) = shard.asked(Sync)
    assert (request.have, request.positions[LOBBY_SLOT]) == ({LOBBY: 3}, 1)


def test_one_question_in_several_commands(shard):
    session = shard.open("al", syncing=True)
    shard.out(session)
    shard.say(session, type="sync", have={LOBBY: 1, AL_BOB: 1}, more=True)
    shard.say(session, type="sync", have={LOBBY: 2}, more=True)
    assert shard.asked(Sync) == []
    shard.say(session, type="sync", have={"direct:al:eve": 3})
    assert shard.asked(Sync)[0].have == {LOBBY: 2, AL_BOB: 1, "direct:al:eve": 3}
    assert shard.out(session) == []


def test_one_sync_at_a_time(shard):
    session = shard.open("al", syncing=True)
    shard.out(session)
    shard.say(session, type="sync", id="1")
    shard.say(session, type="sync", id="2")
    (error,) = shard.out(session)
    assert (error["code"], error["id"]) == ("bad_request", "2")
    shard.reply(SyncPage(shard.asked(Sync)[0].no, []))
    assert seqs(shard.out(session)) == ["synced"]
    shard.say(session, type="sync", id="3")
    assert len(shard.asked(Sync)) == 2


def test_what_was_held_under_another_epoch_counts_for_nothing(shard):
    session = shard.open("al", syncing=True)
    shard.say(session, type="sync", have={LOBBY: 900}, epoch=4)
    assert shard.asked(Sync)[0].have == {}
    again = shard.open("bob", syncing=True)
    shard.say(again, type="sync", have={LOBBY: 900}, epoch=5)
    assert shard.asked(Sync)[1].have == {LOBBY: 900}


@pytest.mark.parametrize(
    ("conversation", "code"), [("direct:bob:eve", "forbidden"), ("direct:bob", "bad_request"), ("x", "bad_request")]
)
def test_a_sync_of_others_conversations(shard, conversation, code):
    session = shard.open("al", syncing=True)
    shard.out(session)
    shard.say(session, type="sync", have={LOBBY: 1, conversation: 1}, id="s")
    (error,) = shard.out(session)
    assert (error["code"], error["id"]) == (code, "s")
    assert shard.asked(Sync) == []
    shard.say(session, type="sync", have={LOBBY: 1})  # not over for that
    assert shard.asked(Sync)[0].have == {LOBBY: 1}


def test_a_sync_is_bounded():
    shard = Shard(rate=0)
    session = shard.open("al", syncing=True)
    shard.out(session)
    for i in range(SYNC_TOTAL_MAX // 500):
        shard.say(session, type="sync", have={f"direct:al:b{i * 500 + j}": 1 for j in range(500)}, more=True)
    assert shard.out(session) == []
    shard.say(session, type="sync", have={LOBBY: 1})
    assert [one["code"] for one in shard.out(session)] == ["too_large"]


def test_a_sync_that_nobody_answers(shard):
    session = shard.open("al", syncing=True)
    shard.out(session)
    shard.say(session, type="sync", id="s")
    shard.happen(event(1))
    shard.tick(GIVE_UP_AFTER)
    (error,) = [one for one in shard.out(session) if isinstance(one, dict)]
    assert (error["code"], error["id"]) == ("unavailable", "s")
    shard.happen(event(2))
    assert shard.out(session) == []  # it has missed one: it hears no more until it has synced
    assert session.stage is Stage.IDLE
    shard.say(session, type="sync", id="t")
    assert shard.asked(Sync)[-1].positions[LOBBY_SLOT] == 2
    shard.reply(SyncPage(shard.asked(Sync)[-1].no, []))
    shard.happen(event(3))
    assert seqs(shard.out(session)) == ["synced", 3]


def test_an_answer_that_comes_too_late_is_not_the_next_one(shard):
    session = shard.open("al", syncing=True)
    shard.out(session)
    shard.say(session, type="sync", id="s")
    first = shard.asked(Sync)[0]
    shard.tick(GIVE_UP_AFTER)
    shard.say(session, type="sync", id="t")
    shard.out(session)
    shard.reply(SyncPage(first.no, [page(LOBBY, 0, 9, (9,))]))
    assert shard.out(session) == []
    shard.reply(SyncPage(shard.asked(Sync)[-1].no, []))
    assert [one["id"] for one in shard.out(session)] == ["t"]


def test_a_live_session_may_sync_again(shard):
    session = shard.live("al", syncing=True)
    shard.happen(event(1))
    assert seqs(shard.out(session)) == [1]
    shard.say(session, type="sync", have={LOBBY: 1})
    shard.happen(event(2))
    assert shard.out(session) == []
    shard.reply(SyncPage(shard.asked(Sync)[-1].no, [page(LOBBY, 1, 1)]))
    assert seqs(shard.out(session)) == ["synced", 2]


def test_acknowledgements_keep_their_place(shard):
    """A message and then the answer to a send that came behind it: in that order for the sender too."""
    session = shard.open("al", syncing=True)
    shard.out(session)
    shard.say(session, type="sync")
    shard.say(session, content="hi")
    shard.happen(event(1), event(2, origin="s0.1", no=shard.asked(Send)[0].no))
    assert shard.out(session) == []
    shard.reply(SyncPage(shard.asked(Sync)[0].no, []))
    assert [one["type"] if "type" in one else one["id"] for one in shard.out(session)] == [
        "synced", event(1).id, "ack",
    ]  # fmt: skip


def test_what_is_held_is_bounded():
    shard = Shard(held_bytes=1_000)
    session, other = shard.open("al", syncing=True), shard.live("bob")
    shard.out(session)
    shard.say(session, type="sync")
    big = b'{"x":"%s"}' % (b"x" * 600)
    shard.happen(event(1, payload=big))
    assert shard.out(session) == []
    shard.happen(event(2, payload=big), event(3))
    assert closed_with(shard.out(session)) == 4004
    assert len(shard.out(other)) == 3
    shard.reply(SyncPage(shard.asked(Sync)[0].no, [page(LOBBY, 0, 3, (1, 2, 3))]))
    assert shard.out(session) == []


# --- a client that holds none ------------------------------------------------------------------------


def test_what_was_not_delivered_and_then_what_happens(shard):
    session = shard.open("al")
    shard.out(session)
    (request,) = shard.asked(Backlog)
    assert (request.username, request.after) == ("al", {})
    shard.happen(event(1))
    shard.reply(BacklogPage(request.no, [page(AL_BOB, 1, 3, (2, 3))], False))
    assert seqs(shard.out(session)) == [2, 3, 1]
    assert session.stage is Stage.LIVE


def test_a_long_backlog_comes_as_fast_as_it_is_read(shard):
    session = shard.open("al")
    (first,) = shard.asked(Backlog)
    shard.happen(event(1), event(2))
    shard.reply(BacklogPage(first.no, [page(AL_BOB, 0, 5, (1, 5)), page(LOBBY, 0, 0, ())], True))
    shard.happen(event(3))
    for _ in range(5):
        shard.tick()
    assert len(shard.asked(Backlog)) == 1  # not read yet
    assert [one["seq"] for one in shard.out(session)[1:]] == [1, 5]
    session.unsent = 10
    shard.tick()
    assert len(shard.asked(Backlog)) == 1  # in the kernel's queue
    session.unsent = 0
    shard.tick()
    second = shard.asked(Backlog)[1]
    assert (second.after, second.positions) == ({AL_BOB: 5, LOBBY: 0}, first.positions)
    shard.reply(BacklogPage(second.no, [page(AL_BOB, 5, 7, (7,))], False))
    assert seqs(shard.out(session))[:4] == [7, 1, 2, 3]
    shard.tick()
    assert len(shard.asked(Backlog)) == 2


def test_a_backlog_that_nobody_answers(shard):
    session = shard.open("al")
    shard.out(session)
    shard.tick(GIVE_UP_AFTER)
    assert closed_with(shard.out(session)) == 4000


def test_a_plain_client_may_sync_after_all(shard):
    session = shard.live("al")
    shard.say(session, type="sync", have={LOBBY: 4})
    shard.reply(SyncPage(shard.asked(Sync)[0].no, []))
    assert seqs(shard.out(session)) == ["synced"]
    assert len(shard.asked(Backlog)) == 1


def test_who_is_closed_meanwhile_is_not_read_for(shard):
    session = shard.open("al")
    shard.reply(BacklogPage(shard.asked(Backlog)[0].no, [page(AL_BOB, 0, 5, (5,))], True))
    shard.hub.slow(session)
    shard.out(session)
    shard.tick()
    assert len(shard.asked(Backlog)) == 1
    assert shard.hub._catchup._paused == {}


def test_who_is_gone_is_not_read_for(shard):
    session = shard.open("al")
    shard.reply(BacklogPage(shard.asked(Backlog)[0].no, [page(AL_BOB, 0, 5, (5,))], True))
    shard.hub.close(session, shard.now)
    session.out.clear()
    shard.tick()
    assert len(shard.asked(Backlog)) == 1


# --- links and topics --------------------------------------------------------------------------------


def test_a_new_link_asks_everything_again(shard):
    session = shard.open("al", syncing=True)
    shard.say(session, type="sync")
    shard.say(session, content="hi", id="0123456789abcdef")
    before = shard.asked(Sync) + shard.asked(Send)
    shard.bus.requested.clear()
    shard.hub.linked(shard.now)
    shard.turn()
    assert shard.asked(Sync) + shard.asked(Send) == before
    assert shard.asked(Send)[0].resent is True


def test_a_session_that_opens_while_the_link_is_down_begins_with_the_next(shard):
    session = shard.hub.open("al", syncing=False, remote="", expires_at=None, now=shard.now)
    shard.bus.up = False
    shard.turn()
    assert shard.bus.subscriptions == []
    assert sorted(shard.hub.topics.greeted()) == ["lobby", "user.al"]
    shard.bus.up = True
    shard.hub.linked(shard.now)
    shard.turn()
    assert (len(shard.asked(Backlog)), session.stage) == (1, Stage.HOLDING)


def test_what_was_held_back_for_a_hole_is_heard_by_who_came_meanwhile(shard):
    """A range that waited for a replay was filtered without the new session's topics: it is replayed too."""
    shard.live("bob")
    shard.hub.ranges([_part(1, 2, [])], shard.now)  # of (1, 2] nothing matched what this shard listened to
    session = shard.open("al", syncing=True)
    shard.say(session, type="sync")
    assert shard.asked(Sync)[0].positions[slot_of(AL_BOB)] == 0
    shard.reply(SyncPage(shard.asked(Sync)[0].no, []))
    shard.out(session)
    shard.hub.ranges([_part(0, 1, [1])], shard.now)
    assert shard.hub.positions.position(slot_of(AL_BOB)) == 1
    shard.hub.ranges([_part(1, 2, [2])], shard.now)
    assert seqs(shard.out(session)) == [1, 2]


def _part(after, to, numbers):
    return part(after, to, AL_BOB, epoch=5, only=numbers)
