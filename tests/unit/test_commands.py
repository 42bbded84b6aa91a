"""What each command of a client does, and with which words it is refused."""

from typing import Any

import pytest

from hubbub.protocol.conversation import LOBBY, event_id, slot_of, user_slot
from hubbub.protocol.internal import (
    Cursor,
    HistoryRows,
    Known,
    MoveCursors,
    Online,
    ReadHistory,
    Refused,
    Send,
    Signal,
    WhoIsOnline,
)
from hubbub.protocol.limits import GIVE_UP_AFTER
from tests.builders import event
from tests.unit.shard import Shard

KEY = "0123456789abcdef"
AL_BOB = "direct:al:bob"
T = "2026-01-01T00:00:00.000Z"


@pytest.fixture
def shard():
    return Shard()


@pytest.fixture
def al(shard):
    return shard.live("al")


def error(shard, session) -> Any:
    (found,) = shard.out(session)
    assert found["type"] == "error"
    return found


# --- send --------------------------------------------------------------------------------------------


def test_a_message_to_one(shard, al):
    shard.say(al, content="hi", recipient="bob", id=KEY, reply_to=3, mentions=["bob"])
    ((slot, request),) = [pair for pair in shard.bus.requested if type(pair[1]) is Send]
    assert slot == slot_of(AL_BOB)
    assert request == Send("s0.1", request.no, AL_BOB, "al", "bob", KEY, "hi", 3, ("bob",), False)
    assert shard.out(al) == []


def test_a_message_to_all(shard, al):
    shard.say(al, content="hi")
    (request,) = shard.asked(Send)
    assert (request.conversation, request.recipient) == (LOBBY, None)


def test_without_a_key_the_server_makes_one(shard, al):
    for _ in range(3):
        shard.say(al, content="hi")
    keys = [request.key for request in shard.asked(Send)]
    assert len(set(keys)) == 3
    assert all(key.startswith("~s0.1#") for key in keys)  # of this life of this shard: never made again


def test_the_acknowledgement_comes_with_the_event(shard, al):
    shard.say(al, content="hi", id=KEY)
    (request,) = shard.asked(Send)
    shard.happen(event(1, origin="s0.1", no=request.no))
    assert shard.out(al) == [
        {"type": "ack", "id": KEY, "message_id": event(1).id, "conversation": LOBBY, "seq": 1, "timestamp": T}
    ]
    assert (al.in_flight, shard.hub.acknowledged, len(shard.hub.pending)) == (0, 1, 0)


def test_other_devices_get_the_message_itself(shard, al):
    phone = shard.live("al")
    shard.say(al, content="hi", recipient="bob", id=KEY)
    (request,) = shard.asked(Send)
    shard.happen(event(1, AL_BOB, origin="s0.1", no=request.no))
    assert [one["type"] for one in shard.out(al)] == ["ack"]
    assert shard.out(phone) == [{"id": event(1, AL_BOB).id}]


def test_an_event_of_another_life_is_no_acknowledgement(shard, al):
    shard.say(al, content="hi", id=KEY)
    (request,) = shard.asked(Send)
    shard.happen(event(1, origin="s0.0", no=request.no), event(2, origin="", no=request.no))
    assert shard.out(al) == [{"id": event(1).id}, {"id": event(2).id}]
    assert al.in_flight == 1


def test_a_key_that_is_known(shard, al):
    shard.say(al, content="hi", id=KEY)
    (request,) = shard.asked(Send)
    shard.reply(Known(request.no, event_id(slot_of(LOBBY), 7), 7, T))
    (ack,) = shard.out(al)
    assert (ack["type"], ack["id"], ack["seq"], ack["duplicate"], ack["conversation"]) == ("ack", KEY, 7, True, LOBBY)
    shard.reply(Known(request.no, 1, 1, T))
    assert shard.out(al) == []


def test_a_refusal_of_the_store(shard, al):
    shard.say(al, content="hi", id=KEY)
    (request,) = shard.asked(Send)
    shard.reply(Refused(request.no, "OVERLOADED", "later", "no", 70))
    assert error(shard, al) == {
        "type": "error", "code": "overloaded", "message": "later", "temporary": True, "id": KEY, "stored": "no",
        "retry_after_ms": 70,
    }  # fmt: skip
    assert al.in_flight == 0


def test_no_answer_means_that_nobody_knows(shard, al):
    shard.say(al, content="hi", id=KEY)
    shard.tick(GIVE_UP_AFTER - 0.1)
    assert shard.out(al) == []
    shard.tick(0.2)
    found = error(shard, al)
    assert (found["code"], found["stored"], found["temporary"]) == ("unavailable", "unknown", True)
    (request, *_) = shard.asked(Send)
    shard.happen(event(1, origin="s0.1", no=request.no))  # it comes after all
    assert shard.out(al) == [{"id": event(1).id}]


def test_the_same_key_twice_is_asked_once_and_answered_twice(shard, al):
    phone = shard.live("al")
    shard.say(al, content="hi", id=KEY)
    shard.say(phone, content="hi", id=KEY)
    (request,) = shard.asked(Send)
    shard.happen(event(1, origin="s0.1", no=request.no))
    assert [one["type"] for one in shard.out(al) + shard.out(phone)] == ["ack", "ack"]
    assert (al.in_flight, phone.in_flight) == (0, 0)


def test_the_same_key_again_on_the_same_connection_is_answered_once(shard, al):
    for _ in range(3):
        shard.say(al, content="hi", id=KEY)
    assert al.in_flight == 1
    (request,) = shard.asked(Send)
    shard.happen(event(1, origin="s0.1", no=request.no))
    assert [one["type"] for one in shard.out(al)] == ["ack"]
    assert al.in_flight == 0


@pytest.mark.parametrize("other", [{"content": "ho"}, {"reply_to": 1}, {"mentions": ["bob"]}])
def test_the_same_key_for_something_else(shard, al, other):
    shard.say(al, **{"content": "hi", "id": KEY})
    shard.say(al, **{"content": "hi", "id": KEY, **other})
    found = error(shard, al)
    assert (found["code"], found["stored"]) == ("conflict", "no")
    assert (len(shard.asked(Send)), al.in_flight) == (1, 1)


def test_the_same_key_of_somebody_else_or_to_somebody_else(shard, al):
    bob = shard.live("bob")
    shard.say(al, content="hi", id=KEY)
    shard.say(bob, content="hi", id=KEY)
    shard.say(al, content="hi", id=KEY, recipient="bob")
    assert len(shard.asked(Send)) == 3


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ({"content": ""}, "bad_request", "empty"),
        ({"content": "a\0b"}, "bad_request", "U+0000"),
        ({"content": "x" * 101}, "too_large", "100 bytes"),
        ({"content": "€" * 34}, "too_large", "100 bytes"),
        ({"content": "hi", "recipient": "b:c"}, "bad_request", "username"),
        ({"content": "hi", "recipient": "b\0"}, "bad_request", "username"),
        ({"content": "hi", "mentions": ["b c"]}, "bad_request", "username"),
        ({"content": "hi", "room": "r"}, "not_found", "'r'"),
        ({"content": "hi", "room": "r", "recipient": "bob"}, "bad_request", "not both"),
        ({"content": "hi", "id": "~0123456789abcdef"}, "bad_request", "~"),
        ({"content": "hi", "id": "0123456789abcde\0"}, "bad_request", "U+0000"),
    ],
)
def test_messages_that_are_refused(command, code, says):
    shard = Shard(content_bytes=100)
    al = shard.live("al")
    shard.say(al, **command)
    found = error(shard, al)
    assert (found["code"], found["stored"], found.get("id")) == (code, "no", command.get("id"))
    assert says in found["message"]
    assert (shard.asked(Send), al.in_flight) == ([], 0)
    assert shard.hub.outbox.errors == {code: 1}


def test_content_up_to_the_last_byte():
    shard = Shard(content_bytes=100)
    al = shard.live("al")
    for content in ("x" * 100, "€" * 33 + "x", "😀" * 25):
        shard.say(al, content=content)
    assert len(shard.asked(Send)) == 3


def test_sends_in_flight_are_bounded():
    shard = Shard(in_flight=2)
    al = shard.live("al")
    for i in range(3):
        shard.say(al, content="hi", id=f"{KEY}{i}")
    found = error(shard, al)
    assert (found["code"], found["stored"], found["id"]) == ("rate_limited", "no", f"{KEY}2")
    shard.happen(event(1, origin="s0.1", no=shard.asked(Send)[0].no))
    shard.out(al)
    shard.say(al, content="hi", id=f"{KEY}2")
    assert shard.out(al) == []


def test_unanswered_requests_are_bounded():
    shard = Shard(pending=2, in_flight=100)
    al = shard.live("al")
    for i in range(3):
        shard.say(al, content="hi", id=f"{KEY}{i}")
    found = error(shard, al)
    assert (found["code"], found["stored"]) == ("overloaded", "no")
    shard.say(al, content="hi", id=f"{KEY}0")  # this one is among them
    assert shard.out(al) == []


def test_a_sender_that_is_gone_is_no_trouble(shard, al):
    shard.say(al, content="hi", id=KEY)
    shard.hub.close(al, shard.now)
    (request,) = shard.asked(Send)
    shard.happen(event(1, origin="s0.1", no=request.no))
    assert shard.out(al) == []
    assert len(shard.hub.pending) == 0


def test_what_cannot_be_decoded(shard, al):
    shard.say(al, raw=b'{"type":"send","content":7,"id":"x"}')
    found = error(shard, al)
    assert (found["code"], found["id"]) == ("bad_request", "x")
    assert "stored" not in found
    for raw in (b"\xff", b'{"type":"nope", zz', b"[" * 50_000):
        shard.say(al, raw=raw)
        assert error(shard, al)["code"] == "bad_request"


# --- received and read -------------------------------------------------------------------------------


def moves(shard) -> list[Cursor]:
    shard.tick(0.2)
    return [cursor for request in shard.asked(MoveCursors) for cursor in request.cursors]


def test_received_and_read(shard, al):
    shard.say(al, type="received", conversation=AL_BOB, seq=7)
    shard.say(al, type="received", conversation=AL_BOB, seq=5)
    shard.say(al, type="read", conversation=AL_BOB, seq=6)
    assert moves(shard) == [Cursor("al", AL_BOB, 7, 6)]
    assert shard.out(al) == []
    assert al.acknowledges


def test_of_others_conversations_one_says_nothing(shard, al):
    for command in ("received", "read"):
        shard.say(al, type=command, conversation="direct:bob:eve", seq=7, id="x")
        assert error(shard, al)["code"] == "forbidden"
        shard.say(al, type=command, conversation="direct:bob", seq=7)
        assert error(shard, al)["code"] == "bad_request"
    assert moves(shard) == []


# --- history -----------------------------------------------------------------------------------------


def test_a_page_of_history(shard, al):
    shard.say(al, type="history", conversation=AL_BOB, before=9, limit=3, id="h")
    ((slot, request),) = [pair for pair in shard.bus.requested if type(pair[1]) is ReadHistory]
    assert (slot, request) == (slot_of(AL_BOB), ReadHistory(request.no, AL_BOB, 9, None, 3))
    shard.reply(HistoryRows(request.no, 5, 8, True, [b'{"seq":6}', b'{"seq":8}']))
    assert shard.out(al) == [
        {"type": "history", "conversation": AL_BOB, "from": 5, "to": 8, "events": [{"seq": 6}, {"seq": 8}],
         "more": True, "id": "h"}
    ]  # fmt: skip


def test_history_that_nobody_answers(shard, al):
    shard.say(al, type="history", conversation=LOBBY, id="h")
    shard.tick(GIVE_UP_AFTER)
    found = error(shard, al)
    assert (found["code"], found["id"]) == ("unavailable", "h")
    assert "stored" not in found


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"conversation": "direct:bob:eve"}, "forbidden"),
        ({"conversation": "direct:bob:al"}, "bad_request"),
        ({"conversation": LOBBY, "before": 3, "after": 1}, "bad_request"),
    ],
)
def test_history_that_is_refused(shard, al, command, code):
    shard.say(al, type="history", id="h", **command)
    found = error(shard, al)
    assert (found["code"], found["id"]) == (code, "h")
    assert shard.asked(ReadHistory) == []


# --- typing ------------------------------------------------------------------------------------------


def test_typing(shard, al):
    shard.say(al, type="typing", recipient="bob")
    notice = b'{"type":"typing","username":"al","conversation":"direct:al:bob","on":true}'
    assert shard.bus.signalled == [Signal("user.bob", notice)]
    shard.tick(1.0)
    shard.say(al, type="typing")
    assert shard.bus.signalled[1].topic == "lobby"


def test_typing_at_most_once_a_second(shard, al):
    for _ in range(9):
        shard.say(al, type="typing", recipient="bob")
        shard.tick(0.25)
    assert len(shard.bus.signalled) == 3
    shard.say(al, type="typing", recipient="bob", on=False)
    shard.say(al, type="typing", recipient="bob")
    assert [b'"on":true' in one.payload for one in shard.bus.signalled[3:]] == [False, True]


def test_typing_that_is_refused(shard, al):
    shard.say(al, type="typing", room="r", id="t")
    assert error(shard, al)["code"] == "not_found"
    shard.say(al, type="typing", recipient="b c")
    assert error(shard, al)["code"] == "bad_request"
    assert shard.bus.signalled == []


# --- watch -------------------------------------------------------------------------------------------


def test_watching_tells_who_is_there_and_then_who_comes(shard, al):
    shard.say(al, type="watch", users=["bob", "eve", "bob"], lobby=True, id="w")
    assert shard.bus.subscriptions[-1][0] == ["presence.bob", "presence.eve", "presence"]
    assert shard.asked(WhoIsOnline) == []  # asked only when the topics are in force: nothing is missed in between
    shard.hub.subscribed(len(shard.bus.subscriptions), shard.now)
    shard.turn()
    asked = {tuple(request.among): request for request in shard.asked(WhoIsOnline)}
    assert {request.slot for request in asked.values()} == {user_slot("bob"), user_slot("eve")}
    shard.reply(Online(asked["bob",].no, ["bob"]))
    assert shard.out(al) == []
    shard.reply(Online(asked["eve",].no, []))
    assert shard.out(al) == [{"type": "presence", "users": {"bob": "online", "eve": "offline"}, "id": "w"}]
    shard.hub.signals([Signal("presence.eve", b'{"type":"presence","users":{"eve":"online"}}')], shard.now)
    assert len(shard.out(al)) == 1


def test_watching_others_replaces(shard, al):
    shard.say(al, type="watch", users=["bob"])
    shard.hub.subscribed(len(shard.bus.subscriptions), shard.now)
    shard.say(al, type="watch", users=["eve"])
    shard.hub.subscribed(len(shard.bus.subscriptions), shard.now)
    assert shard.bus.subscriptions[-1] == (["presence.eve"], ["presence.bob"])
    shard.hub.signals([Signal("presence.bob", b"{}")], shard.now)
    assert shard.out(al) == []
    assert set(shard.hub.topics.index) == {"lobby", "user.al", "presence.eve"}


def test_of_two_in_a_row_the_last_counts(shard, al):
    shard.say(al, type="watch", users=["bob"], id="1")
    shard.say(al, type="watch", users=[], id="2")
    assert shard.out(al) == [{"type": "presence", "users": {}, "id": "2"}]
    shard.hub.subscribed(len(shard.bus.subscriptions), shard.now)
    shard.turn()
    assert shard.asked(WhoIsOnline) == []
    assert "presence.bob" not in shard.hub.topics.index


def test_watching_that_nobody_answers(shard, al):
    shard.say(al, type="watch", users=["bob"], id="w")
    shard.hub.subscribed(len(shard.bus.subscriptions), shard.now)
    shard.turn()
    shard.tick(GIVE_UP_AFTER)
    found = error(shard, al)
    assert (found["code"], found["id"]) == ("unavailable", "w")


# --- token and ping ----------------------------------------------------------------------------------


def test_a_fresh_token(shard, al):
    shard.say(al, type="token", token="al until 1767225900", id="t")
    (welcome,) = shard.out(al)
    assert (welcome["type"], welcome["id"], welcome["session"]) == ("welcome", "t", al.id)
    assert welcome["token_expires_at"] == "2026-01-01T00:05:00.000Z"
    assert al.expires_at == 1_767_225_900.0


@pytest.mark.parametrize(("token", "code"), [("forged", "unauthorized"), ("bob", "forbidden")])
def test_a_token_that_is_refused(shard, al, token, code):
    al.expires_at = 7e9
    shard.say(al, type="token", token=token, id="t")
    found = error(shard, al)
    assert (found["code"], found["id"], al.expires_at) == (code, "t", 7e9)


def test_a_ping(shard, al):
    shard.say(al, type="ping", id="p")
    shard.say(al, type="ping")
    assert shard.out(al) == [
        {"type": "pong", "server_time": "2026-01-01T00:01:40.000Z", "id": "p"},
        {"type": "pong", "server_time": "2026-01-01T00:01:40.000Z"},
    ]
