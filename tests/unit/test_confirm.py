"""What counts as delivered: what a client says, or a pong that came behind the messages."""

import pytest

from hubbub.protocol.conversation import LOBBY, slot_of
from hubbub.protocol.internal import (
    Backlog,
    BacklogPage,
    ConversationPage,
    Cursor,
    Done,
    MoveCursors,
    Send,
    Sync,
    SyncPage,
)
from hubbub.protocol.limits import GIVE_UP_AFTER
from tests.builders import event
from tests.unit.shard import Shard

AL_BOB = "direct:al:bob"
PING = (0x89, b"d")


@pytest.fixture
def shard():
    return Shard()


def second(shard) -> None:
    for _ in range(11):
        shard.tick(0.1)


def moved(shard) -> list[Cursor]:
    """The movements that were reported since the last call; they are written now."""
    shard.tick(0.2)
    requests = {request.no: request for request in shard.asked(MoveCursors)}
    shard.bus.requested.clear()
    shard.reply(*[Done(no) for no in requests])
    return [cursor for request in requests.values() for cursor in request.cursors]


def pings(shard, session) -> int:
    """How many pings were written since the last look; the client answers each."""
    count: int = shard.out(session).count(PING)
    for _ in range(count):
        shard.hub.pong(session, b"d", shard.now)
    return count


def test_a_ping_behind_the_messages_and_its_pong(shard):
    session = shard.live("al")
    shard.happen(event(1), event(2), event(1, AL_BOB))
    second(shard)
    assert shard.out(session)[-1] == PING
    assert moved(shard) == []
    shard.hub.pong(session, b"d", shard.now)
    assert moved(shard) == [Cursor("al", LOBBY, 2, 0), Cursor("al", AL_BOB, 1, 0)]
    shard.hub.pong(session, b"d", shard.now)
    second(shard)
    assert (moved(shard), pings(shard, session)) == ([], 0)


def test_what_came_behind_the_ping_waits_for_the_next(shard):
    session = shard.live("al")
    shard.happen(event(1))
    second(shard)
    shard.happen(event(2))
    shard.hub.pong(session, b"d", shard.now)
    assert moved(shard) == [Cursor("al", LOBBY, 1, 0)]
    second(shard)
    shard.hub.pong(session, b"d", shard.now)
    assert moved(shard) == [Cursor("al", LOBBY, 2, 0)]


def test_one_ping_at_a_time(shard):
    session = shard.live("al")
    shard.happen(event(1))
    second(shard)
    shard.happen(event(2))
    for _ in range(3):
        second(shard)
    assert shard.out(session).count(PING) == 1
    shard.hub.pong(session, b"d", shard.now)
    second(shard)
    assert pings(shard, session) == 1


def test_a_ping_a_second_and_not_for_each_message(shard):
    session = shard.live("al")
    shard.happen(event(1))
    shard.tick(1.0)
    assert pings(shard, session) == 1
    for n in range(2, 7):
        shard.happen(event(n))
        shard.tick(0.1)
    assert pings(shard, session) == 0
    second(shard)
    assert pings(shard, session) == 1


def test_movements_gather_for_a_tenth_of_a_second(shard):
    session = shard.live("al")
    for seq in range(1, 21):
        shard.say(session, type="received", conversation=LOBBY, seq=seq)
        shard.tick(0.01)
    assert 2 <= len(shard.asked(MoveCursors)) <= 3
    assert moved(shard)[-1] == Cursor("al", LOBBY, 20, 0)


@pytest.mark.parametrize("payload", [b"", b"h", b"dd"])
def test_other_pongs_confirm_nothing(shard, payload):
    session = shard.live("al")
    shard.happen(event(1))
    second(shard)
    shard.hub.pong(session, payload, shard.now)
    assert moved(shard) == []


def test_a_half_open_socket_confirms_nothing(shard):
    session = shard.live("al")
    shard.happen(event(1))
    second(shard)
    shard.hub.close(session, shard.now)
    shard.hub.pong(session, b"d", shard.now)
    second(shard)
    assert moved(shard) == []


def test_a_client_that_says_received_is_not_pinged(shard):
    session = shard.live("al")
    shard.happen(event(1))
    shard.say(session, type="received", conversation=LOBBY, seq=1)
    assert moved(shard) == [Cursor("al", LOBBY, 1, 0)]
    second(shard)
    shard.happen(event(2))
    second(shard)
    assert (pings(shard, session), moved(shard)) == (0, [])


def test_a_pong_to_a_ping_from_before_it_spoke_for_itself(shard):
    session = shard.live("al")
    shard.happen(event(1), event(2))
    second(shard)
    shard.say(session, type="received", conversation=LOBBY, seq=1)
    shard.hub.pong(session, b"d", shard.now)
    assert moved(shard) == [Cursor("al", LOBBY, 1, 0)]


def test_a_backlog_is_confirmed_like_everything_else(shard):
    session = shard.open("al")
    page = ConversationPage(AL_BOB, 0, 7, 7, 0, 0, 7, False, [b"{}"], None)
    shard.reply(BacklogPage(shard.asked(Backlog)[0].no, [page], False))
    second(shard)
    shard.hub.pong(session, b"d", shard.now)
    assert moved(shard) == [Cursor("al", AL_BOB, 7, 0)]


def test_an_answer_without_events_confirms_nothing(shard):
    """That they were counted as delivered would be news to the client."""
    session = shard.open("al")
    page = ConversationPage(AL_BOB, 0, 7, 7, 0, 0, 7, False, [], None)
    shard.reply(BacklogPage(shard.asked(Backlog)[0].no, [page], False))
    second(shard)
    assert pings(shard, session) == 0


def test_what_is_held_is_not_confirmed_by_a_pong_that_overtook_it(shard):
    session = shard.open("al")
    (request,) = shard.asked(Backlog)
    shard.happen(event(1, AL_BOB), event(2, AL_BOB))
    second(shard)
    assert (pings(shard, session), moved(shard)) == (0, [])  # the backlog is not there: nor is what waits behind it
    shard.reply(BacklogPage(request.no, [], False))
    second(shard)
    assert (pings(shard, session), moved(shard)) == (1, [Cursor("al", AL_BOB, 2, 0)])


def test_what_was_held_is_confirmed_in_full(shard):
    session = shard.open("al")
    shard.happen(event(1, AL_BOB, seq=8))
    page = ConversationPage(AL_BOB, 0, 7, 7, 0, 0, 7, False, [b"{}"], None)
    shard.reply(BacklogPage(shard.asked(Backlog)[0].no, [page], False))
    second(shard)
    assert shard.out(session)[-1] == PING
    shard.hub.pong(session, b"d", shard.now)
    assert moved(shard) == [Cursor("al", AL_BOB, 8, 0)]


def test_what_was_held_for_a_sync_that_failed_is_not_confirmed(shard):
    """It was thrown away; the client will sync again and then have it."""
    session = shard.open("al", syncing=True)
    shard.say(session, type="sync")
    shard.happen(event(1, AL_BOB), event(1))
    second(shard)
    shard.tick(GIVE_UP_AFTER)
    second(shard)
    assert [one["code"] for one in shard.out(session) if isinstance(one, dict) and "code" in one] == ["unavailable"]
    shard.say(session, type="sync")
    page = ConversationPage(AL_BOB, 0, 1, 1, 0, 0, 1, False, [b"{}"], None)
    shard.reply(SyncPage(shard.asked(Sync)[-1].no, [page]))
    shard.out(session)
    shard.happen(event(2, AL_BOB))
    second(shard)
    assert (pings(shard, session), moved(shard)) == (1, [Cursor("al", AL_BOB, 2, 0)])


def test_a_sync_that_failed_right_after_a_ping(shard):
    session = shard.live("al", syncing=True)
    shard.happen(event(1, AL_BOB))
    shard.say(session, type="sync")
    shard.happen(event(2, AL_BOB))
    shard.tick(GIVE_UP_AFTER)
    second(shard)
    pings(shard, session)
    assert [one for one in moved(shard) if one.delivered > 1] == []


def test_who_writes_has_read_so_far_once_it_knows(shard):
    session = shard.live("al")
    shard.say(session, content="hi", recipient="bob")
    (request,) = shard.asked(Send)
    shard.happen(event(1, AL_BOB, origin="s0.1", no=request.no))
    assert moved(shard) == []
    second(shard)
    shard.hub.pong(session, b"d", shard.now)
    assert moved(shard) == [Cursor("al", AL_BOB, 1, 1)]


def test_movements_are_merged_and_go_to_the_conversation_s_owner(shard):
    al, bob = shard.live("al"), shard.live("bob")
    for seq in (1, 3, 2):
        shard.say(al, type="received", conversation=AL_BOB, seq=seq)
    shard.say(bob, type="read", conversation=AL_BOB, seq=2)
    shard.say(bob, type="read", conversation=LOBBY, seq=9)
    shard.tick(0.2)
    sent = {slot: request.cursors for slot, request in shard.bus.requested if type(request) is MoveCursors}
    assert sent == {
        slot_of(AL_BOB): [Cursor("al", AL_BOB, 3, 0), Cursor("bob", AL_BOB, 0, 2)],
        slot_of(LOBBY): [Cursor("bob", LOBBY, 0, 9)],
    }


def test_movements_are_reported_until_they_are_written(shard):
    session = shard.live("al")
    shard.say(session, type="received", conversation=LOBBY, seq=4)
    shard.tick(0.2)
    (request,) = shard.asked(MoveCursors)
    shard.bus.requested.clear()
    shard.tick(1.1)
    assert shard.asked(MoveCursors) == [request]
    shard.tick(GIVE_UP_AFTER)
    second(shard)
    again = shard.asked(MoveCursors)[-1]
    assert (again.cursors, again.no != request.no) == ([Cursor("al", LOBBY, 4, 0)], True)
    shard.reply(Done(again.no))
    shard.bus.requested.clear()
    shard.tick(30)
    second(shard)
    assert shard.asked(MoveCursors) == []
