"""A session's life: welcome, heartbeat, limits, goodbye."""

from typing import Any

import pytest

from hubbub.protocol.conversation import SLOTS, slot_of, user_slot
from hubbub.protocol.internal import Attend, AttendAgain, Range, Replay, Send, Signal, wire_term
from hubbub.protocol.limits import Limits
from hubbub.protocol.refusals import ErrorCode, Refusal
from shards.hub import DRAIN_SECONDS, DRAIN_SLICE, PING_EVERY, Hub
from shards.session import Session, Stage
from tests.builders import event, mark, part
from tests.unit.shard import Shard, closed_with

PING = (0x89, b"h")


@pytest.fixture
def shard():
    return Shard()


def refused(shard, username="al") -> Refusal:
    with pytest.raises(Refusal) as caught:
        shard.open(username)
    return caught.value


def test_the_welcome(shard):
    session = shard.open("al", expires_at=1_767_225_800.0)
    assert shard.out(session) == [
        {
            "type": "welcome",
            "username": "al",
            "session": "s0.1-1",
            "server_time": "2026-01-01T00:01:40.000Z",
            "epoch": 5,
            "limits": {"content_bytes": 16384, "rate": 50.0, "burst": 200, "in_flight": 64},
            "ping": {"interval_ms": 25_000, "timeout_ms": 25_000},
            "reconnect": {"min_ms": 200, "max_ms": 10_000},
            "token_expires_at": "2026-01-01T00:03:20.000Z",
        }
    ]


def test_until_every_position_is_known_nobody_comes_in():
    shard = Shard(ready=False)
    for slot in range(SLOTS):
        assert refused(shard).code is ErrorCode.UNAVAILABLE
        shard.hub.ranges([Range(slot, wire_term(5, 1), 9, 9, [])], 0.0)
    shard.open()
    shard.bus.up = False
    assert refused(shard).code is ErrorCode.UNAVAILABLE
    assert refused(shard).retry_after_ms


def test_sessions_are_bounded():
    shard = Shard(sessions_per_user=2, sessions=3)
    one, _ = shard.open("al"), shard.open("al")
    assert refused(shard, "al").code is ErrorCode.RATE_LIMITED
    shard.open("bob")
    assert refused(shard, "eve").code is ErrorCode.UNAVAILABLE
    shard.hub.close(one, shard.now)
    shard.open("al")


def test_what_a_session_leaves_behind(shard):
    session = shard.live("al")
    shard.say(session, type="watch", users=["bob"], lobby=True)
    shard.hub.subscribed(len(shard.bus.subscriptions), shard.now)
    shard.happen(event(1))
    assert len(shard.out(session)) == 1
    shard.hub.close(session, shard.now)
    shard.hub.close(session, shard.now)
    shard.turn()
    hub = shard.hub
    assert (hub.sessions, hub.dirty, hub.topics.index, hub.topics.wanted()) == ({}, {}, {}, [])
    assert sorted(shard.bus.subscriptions[-1][1]) == ["lobby", "presence", "presence.bob", "user.al"]
    assert len(hub.attendance) == 0
    assert not any(hub._wheel)
    shard.tick(60)
    assert session.out == []


def test_who_is_there_is_told_to_the_owner(shard):
    slot = user_slot("al")
    one = shard.open("al")
    two = shard.open("al")
    assert shard.asked(Attend) == [Attend("s0.1", slot, 1, ["al"], [], False)]
    shard.reply(AttendAgain(slot))
    assert shard.asked(Attend)[-1] == Attend("s0.1", slot, 1, ["al"], [], True)
    shard.hub.close(one, shard.now)
    shard.hub.close(two, shard.now)
    shard.turn()
    assert shard.asked(Attend)[-1] == Attend("s0.1", slot, 2, [], ["al"], False)


def test_a_new_owner_is_told_who_is_there(shard):
    shard.open("al")
    shard.bus.requested.clear()
    slot = user_slot("al")
    shard.hub.ranges([Range(slot, wire_term(5, 2), 0, 0, [])], shard.now)
    shard.turn()
    assert Attend("s0.1", slot, 1, ["al"], [], True) in shard.asked(Attend)


# --- rate --------------------------------------------------------------------------------------------


def session_with(**limits) -> tuple[Session, Limits]:
    found = Limits(**limits)
    return Session("1", "al", syncing=False, remote="", expires_at=None, limits=found, now=0.0), found


def test_a_burst_and_then_the_rate():
    session, limits = session_with(rate=2.0, burst=3)
    assert [session.take_token(limits, 0.0) for _ in range(4)] == [True, True, True, False]
    assert [session.take_token(limits, 0.5) for _ in range(2)] == [True, False]
    assert [session.take_token(limits, 60.0) for _ in range(4)] == [True, True, True, False]


def test_no_rate_is_no_limit():
    session, limits = session_with(rate=0, burst=0)
    assert all(session.take_token(limits, 0.0) for _ in range(1_000))


def test_who_floods_is_refused_and_then_closed():
    shard = Shard(rate=1.0, burst=3)
    session = shard.live()
    for i in range(3):
        shard.say(session, type="ping", id=f"p{i}")
    assert [one["type"] for one in shard.out(session)] == ["pong"] * 3
    shard.say(session, content="hi", id="0123456789abcdef")
    (error,) = shard.out(session)
    assert (error["code"], error["id"], error["stored"], error["temporary"]) == (
        "rate_limited", "0123456789abcdef", "no", True,
    )  # fmt: skip
    assert error["retry_after_ms"] > 0
    shard.tick(1.0)
    shard.say(session, type="ping")
    assert shard.out(session)[-1]["type"] == "pong"  # who slows down is forgiven
    for _ in range(4):
        shard.say(session, type="ping")
    assert closed_with(shard.out(session)) == 4501
    shard.say(session, type="ping")
    assert shard.out(session) == []


# --- heartbeat ---------------------------------------------------------------------------------------


def beat(shard, session, seconds: int) -> list[Any]:
    """What is written to the session in that time, second by second."""
    found = []
    for _ in range(seconds):
        shard.tick(1.0)
        found += shard.out(session)
    return found


def test_who_is_silent_is_pinged_and_then_closed(shard):
    session = shard.live()
    session.heard = shard.now
    assert beat(shard, session, PING_EVERY - 1) == []
    assert beat(shard, session, PING_EVERY) == [PING]
    assert closed_with(beat(shard, session, PING_EVERY)) == 4003
    assert session.stage is Stage.CLOSED


def test_who_answers_lives(shard):
    session = shard.live()
    for _ in range(5):
        assert beat(shard, session, 2 * PING_EVERY).count(PING) == 1
        session.heard = shard.now  # the adapter saw a pong, or anything


def test_everybody_has_a_turn_of_the_wheel():
    shard = Shard(sessions_per_user=100)
    sessions = [shard.live("al") for _ in range(2 * PING_EVERY)]
    for session in sessions:
        session.heard = shard.now - PING_EVERY
    counts = []
    for _ in range(PING_EVERY):
        shard.tick(1.0)
        counts.append(sum(PING in shard.out(session) for session in sessions))
    assert counts == [2] * PING_EVERY


def test_the_wheel_turns_once_a_second():
    shard = Shard(sessions_per_user=100)
    sessions = [shard.live("al") for _ in range(PING_EVERY)]
    shard.tick(1.0)
    for session in sessions:
        session.heard = shard.now - PING_EVERY
        shard.out(session)
    for _ in range(19):
        shard.tick(0.1)
    assert 1 <= sum(PING in shard.out(session) for session in sessions) <= 2


def test_a_token_that_runs_out_ends_the_session(shard):
    session = shard.live()
    session.expires_at = 1_767_225_600.0 + shard.now + 10
    assert beat(shard, session, 9) == []
    assert closed_with(beat(shard, session, 2)) == 4002


# --- goodbye -----------------------------------------------------------------------------------------


def test_who_reads_too_slowly(shard):
    session = shard.live()
    shard.hub.slow(session)
    shard.hub.slow(session)
    out = shard.out(session)
    assert (len(out), closed_with(out)) == (2, 4001)
    assert session.closing == 4001
    shard.happen(event(1))
    assert shard.out(session) == []  # nothing after a close


def test_a_gap_too_wide_sends_everybody_to_sync(shard, monkeypatch):
    monkeypatch.setattr("hubbub.bus.log.GAP_MAX", 10)
    sessions = [shard.live("al"), shard.live("bob")]
    shard.hub.ranges([part(50, 51, epoch=5)], shard.now)
    for session in sessions:
        out = shard.out(session)
        assert closed_with(out) == 4004
        assert 0 <= out[0]["reconnect_after_ms"] < 2_000
        assert len(out) == 2  # and nothing from behind the gap
    assert shard.hub.resets == 1


def test_another_epoch_sends_everybody_to_sync(shard):
    session = shard.live()
    shard.hub.ranges([mark(3, epoch=6)], shard.now)
    assert closed_with(shard.out(session)) == 4004
    assert shard.hub.positions.epoch == 6


def test_a_hole_is_asked_for(shard):
    session = shard.live()
    shard.bus.requested.clear()
    shard.hub.ranges([part(3, 4, epoch=5)], shard.now)
    shard.turn()
    assert shard.bus.requested == [(slot_of("lobby"), Replay(slot_of("lobby"), 0))]
    assert shard.out(session) == []
    shard.hub.ranges([part(0, 3, epoch=5)], shard.now)
    assert [one["id"] & 7 for one in shard.out(session)] == [1, 2, 3, 4]


def test_a_drain_finishes_what_was_taken(shard):
    writer, reader = shard.live("al"), shard.live("bob")
    shard.say(writer, content="hi", id="0123456789abcdef")
    shard.hub.drain(shard.now)
    shard.say(writer, content="too late", id="1123456789abcdef")
    shard.tick()
    assert shard.out(reader) == []
    with pytest.raises(Refusal):
        shard.open("eve")
    send = shard.asked(Send)[-1]
    shard.happen(event(1, origin="s0.1", no=send.no))
    shard.tick()
    ack, *rest = shard.out(writer)
    assert (ack["type"], ack["id"]) == ("ack", "0123456789abcdef")
    assert closed_with(rest) == 4000
    assert 0 <= rest[0]["reconnect_after_ms"] < 2_000
    message, *rest = shard.out(reader)
    assert (message["id"], closed_with(rest)) == (event(1).id, 4000)


def test_a_drain_does_not_wait_for_ever(shard):
    session = shard.live()
    shard.say(session, content="hi")
    shard.hub.drain(shard.now)
    shard.tick(DRAIN_SECONDS - 0.1)
    assert session.stage is Stage.LIVE
    shard.tick(0.2)
    assert closed_with(shard.out(session)) == 4000


def test_a_drain_goes_in_slices():
    shard = Shard(sessions_per_user=10_000)
    sessions = [shard.live() for _ in range(DRAIN_SLICE + 50)]
    shard.hub.drain(shard.now)
    shard.tick()
    assert sum(session.stage is Stage.CLOSED for session in sessions) == DRAIN_SLICE
    shard.tick()
    assert all(session.stage is Stage.CLOSED for session in sessions)


# --- what is said to many ----------------------------------------------------------------------------


def test_one_frame_for_everybody(shard):
    one, two = shard.live("al"), shard.live("bob")
    shard.happen(event(1))
    assert one.out[0] is two.out[0]
    assert set(shard.hub.dirty) == {one, two}
    assert shard.hub.delivered == 2


def test_direct_messages_go_to_their_parties_on_every_device(shard):
    al, bob, phone, eve = shard.live("al"), shard.live("bob"), shard.live("bob"), shard.live("eve")
    shard.happen(event(1, "direct:al:bob"))
    assert [len(shard.out(one)) for one in (al, bob, phone, eve)] == [1, 1, 1, 0]


def test_signals_are_dropped_for_those_who_read_slowly(shard):
    quick, slow, waiting = shard.live("al"), shard.live("al"), shard.open("al")
    shard.out(waiting)
    slow.unsent = shard.hub.limits.outbox_bytes // 2 + 1
    shard.hub.signals([Signal("user.al", b'{"type":"typing"}'), Signal("user.bob", b"{}")], shard.now)
    assert [shard.out(one) for one in (quick, slow, waiting)] == [[{"type": "typing"}], [], []]


def test_without_a_bus_there_is_nothing_to_say():
    hub = Hub(name="x", limits=Limits(), verify=lambda token: None, wall=lambda: 0.0, rng=None)  # type: ignore[arg-type, return-value]
    with pytest.raises(RuntimeError):
        _ = hub.bus
