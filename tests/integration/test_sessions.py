"""What each command of a client does, through all processes."""

import asyncio
import time
from typing import Any

import pytest

from hubbub.protocol.limits import HISTORY_MAX
from hubbub.runtime.files import read_secret
from tests.integration.client import Device, connection, new_key
from tests.integration.raw import frame, raw
from tests.integration.system import System, running
from tests.integration.tokens import signed

# --- a client that knows nothing: websocat and a keyboard ---------------------------------------------


async def test_a_line_of_json_is_a_chat(system: System) -> None:
    async with connection(system.ws, "plain-ann") as ann, connection(system.ws, "plain-ben") as ben:
        await ann.socket.send('{"content":"hi"}')
        ack = await ann.take("ack")
        message = await ben.take("message", id=ack["message_id"])
        assert message["sender"] == "plain-ann"
        assert message["content"] == "hi"
        assert message["conversation"] == "lobby"
        assert "id" not in ack
        assert "client_id" not in message


async def test_who_was_away_gets_what_was_said_once(system: System) -> None:
    async with connection(system.ws, "away-ann") as ann:
        for i in range(3):
            await ann.say(f"message {i}", "away-ben")
        assert delivery(system, "away-ann", "away-ben") == ["undelivered"] * 3
        async with connection(system.ws, "away-ben") as ben:
            assert [(await ben.take("message"))["seq"] for _ in range(3)] == [1, 2, 3]
            # The server's ping behind the messages was answered: they have arrived.
            await ann.take("receipt", username="away-ben", delivered_seq=3)
            assert delivery(system, "away-ann", "away-ben") == ["delivered"] * 3
        await ann.say("message 3", "away-ben")
        async with connection(system.ws, "away-ben") as ben:
            assert (await ben.take("message"))["seq"] == 4


async def test_what_went_into_a_dead_network_is_not_taken_for_delivered(system: System) -> None:
    async with connection(system.ws, "dead-ann") as ann:
        async with raw(system.port, "dead-ben") as ben:  # answers no ping
            await ann.say("hello?", "dead-ben")
            assert (await ben.take("message"))["seq"] == 1
        assert delivery(system, "dead-ann", "dead-ben") == ["undelivered"]
        async with connection(system.ws, "dead-ben") as again:
            assert (await again.take("message"))["content"] == "hello?"


async def test_a_long_absence_is_served_whole_and_in_order(system: System) -> None:
    await say_many(system, "long-ann", 700, "long-ben")  # more than a page
    async with connection(system.ws, "long-ben") as ben:
        contents = [(await ben.take("message"))["content"] for _ in range(700)]
        assert contents == [f"message {i}" for i in range(700)]


# --- a client that says what it holds -------------------------------------------------------------------


async def test_sync_sends_what_a_device_lacks_and_says_what_it_covers(system: System) -> None:
    both = "direct:sync-ann:sync-ben"
    async with connection(system.ws, "sync-ann", syncing=True) as ann:
        await ann.ask("synced", type="sync")
        for i in range(5):
            await ann.say(f"message {i}", "sync-ben")
        async with connection(system.ws, "sync-ben", syncing=True) as phone:
            synced = part(await phone.ask("synced", type="sync", have={}), both)
            assert (synced["from"], synced["to"], synced["last_seq"], synced["unread"]) == (0, 5, 5, 5)
            assert "truncated" not in synced
            assert direct_only(phone.unread("message")) == [1, 2, 3, 4, 5]
            await phone.send(type="received", conversation=both, seq=5)
            await ann.take("receipt", username="sync-ben", delivered_seq=5)
        # Another device is served by what it holds itself, whatever its owner's phone has confirmed.
        async with connection(system.ws, "sync-ben", syncing=True) as laptop:
            synced = part(await laptop.ask("synced", type="sync", have={both: 3}), both)
            assert (synced["from"], synced["to"], synced["delivered_seq"]) == (3, 5, 5)
            assert direct_only(laptop.unread("message")) == [4, 5]
            # And then hears what happens.
            await ann.say("message 5", "sync-ben")
            assert (await laptop.take("message"))["seq"] == 6


async def test_a_sync_may_come_in_parts_and_names_the_data_it_speaks_of(system: System) -> None:
    async with connection(system.ws, "part-ann", syncing=True) as ann:
        for other in ("part-ben", "part-cat"):
            await ann.say("one", other)
            await ann.say("two", other)
    held = {"direct:part-ann:part-ben": 1, "direct:part-ann:part-cat": 1}
    async with connection(system.ws, "part-ann", syncing=True) as ann:
        for conversation, seq in held.items():
            more = conversation.endswith("ben")
            await ann.send(type="sync", have={conversation: seq}, more=more, id="in two parts")
        synced = await ann.take("synced", id="in two parts")
        assert direct_only(ann.unread("message")) == [2, 2]
        # Of another incarnation of the database it holds nothing that counts.
        again = await ann.ask("synced", type="sync", have=held, epoch=synced["epoch"] + 1)
        assert again["epoch"] == synced["epoch"]
        assert direct_only(ann.unread("message")) == [1, 2, 1, 2]


async def test_a_sync_cuts_off_what_is_old_and_history_brings_it(system: System) -> None:
    both = "direct:cut-ann:cut-ben"
    await say_many(system, "cut-ann", 250, "cut-ben")
    async with connection(system.ws, "cut-ben", syncing=True) as ben:
        synced = part(await ben.ask("synced", type="sync"), both)
        assert (synced["from"], synced["to"], synced["truncated"]) == (250 - HISTORY_MAX, 250, True)
        assert direct_only(ben.unread("message")) == list(range(251 - HISTORY_MAX, 251))
        page = await ben.ask("history", type="history", conversation=both, before=51, limit=200)
        assert (page["from"], page["to"], page["more"]) == (0, 50, False)
        assert [event["seq"] for event in page["events"]] == list(range(1, 51))


async def test_history_pages_say_which_range_they_cover(system: System) -> None:
    both = "direct:page-ann:page-ben"
    await say_many(system, "page-ann", 10, "page-ben")
    async with connection(system.ws, "page-ann", syncing=True) as ann:

        async def page(**where: int) -> tuple[int, int, bool, list[int]]:
            answer = await ann.ask("history", type="history", conversation=both, **where)
            return answer["from"], answer["to"], answer["more"], [event["seq"] for event in answer["events"]]

        assert await page(limit=3) == (7, 10, True, [8, 9, 10])
        assert await page(before=8, limit=3) == (4, 7, True, [5, 6, 7])
        assert await page(before=3, limit=3) == (0, 2, False, [1, 2])
        assert await page(after=0, limit=4) == (0, 4, True, [1, 2, 3, 4])
        assert await page(after=8, limit=4) == (8, 10, False, [9, 10])
        assert await page(after=10) == (10, 10, False, [])
        assert await page(before=1) == (0, 0, False, [])
        both_ends = {"type": "history", "conversation": both, "before": 5, "after": 2}
        assert (await ann.ask("error", **both_ends))["code"] == "bad_request"


async def test_devices_that_follow_the_rule_hold_the_same(system: System) -> None:
    devices = [Device(system.ws, name) for name in ("rule-ann", "rule-ann", "rule-ben")]
    both = "direct:rule-ann:rule-ben"
    try:
        for i in range(20):
            devices[i % 3].send(f"message {i}", "rule-ann" if i % 3 == 2 else "rule-ben")
            if i % 7 == 0:
                devices[i % 2].cut()
        async with asyncio.timeout(30):
            while any(not device.settled or device.core.position(both) != 20 for device in devices):
                await asyncio.sleep(0.02)
        for device in devices:
            assert [(one.seq, one.content) for one in device.applied[both]] == [
                (row["seq"], row["content"])
                for row in system.rows("select seq, content from messages where conversation = %s order by seq", both)
            ]
    finally:
        for device in devices:
            await device.close()


# --- several devices, receipts ----------------------------------------------------------------------------


async def test_a_users_other_devices_get_what_one_of_them_says(system: System) -> None:
    async with connection(system.ws, "multi-ann") as phone, connection(system.ws, "multi-ann") as laptop:
        ack = await phone.say("from my phone", "multi-ben")
        message = await laptop.take("message", id=ack["message_id"])
        assert message["client_id"] == ack["id"]
        await phone.settled()
        assert phone.unread("message") == []


async def test_cursors_never_go_back_nor_past_the_end(system: System) -> None:
    both = "direct:cursor-ann:cursor-ben"
    async with (
        connection(system.ws, "cursor-ann", syncing=True) as ann,
        connection(system.ws, "cursor-ben", syncing=True) as ben,
    ):
        await ann.ask("synced", type="sync")
        await ben.ask("synced", type="sync")
        await say_many(system, "cursor-ann", 3, "cursor-ben")
        await ben.send(type="received", conversation=both, seq=2)
        await ann.take("receipt", username="cursor-ben", delivered_seq=2, read_seq=0)
        await ben.send(type="received", conversation=both, seq=1)
        await ben.send(type="received", conversation=both, seq=1000)
        await ann.take("receipt", username="cursor-ben", delivered_seq=3, read_seq=0)
        await ben.send(type="read", conversation=both, seq=3)
        await ann.take("receipt", username="cursor-ben", delivered_seq=3, read_seq=3)
        receipts = [one for one in ann.heard if one["type"] == "receipt" and one["username"] == "cursor-ben"]
        assert [one["delivered_seq"] for one in receipts] == [2, 3, 3]
        strange = await ben.ask("error", type="received", conversation="direct:cursor-ann:cursor-cat", seq=1)
        assert strange["code"] == "forbidden"


# --- keys -----------------------------------------------------------------------------------------------


async def test_a_key_stands_for_one_message_also_after_everything_was_restarted(system: System, tmp_path: Any) -> None:
    with running(tmp_path) as own:
        key = new_key()
        async with connection(own.ws, "key-ann") as ann:
            first = await ann.say("once", "key-ben", id=key)
            assert await ann.say("once", "key-ben", id=key) == {**first, "duplicate": True}
        own.stop()
        own.start()
        async with connection(own.ws, "key-ann") as ann:
            assert await ann.say("once", "key-ben", id=key) == {**first, "duplicate": True}
            conflict = await ann.ask("error", type="send", id=key, recipient="key-ben", content="twice")
            assert conflict["code"] == "conflict"
            assert conflict["stored"] == "no"
            # A key counts for a conversation and a sender.
            assert "duplicate" not in await ann.say("once", "key-cat", id=key)
        assert own.rows("select count(*) from messages where content = 'once'") == [{"count": 2}]


async def test_one_key_from_two_devices_at_once_is_one_message(system: System) -> None:
    async with connection(system.ws, "same-ann") as phone, connection(system.ws, "same-ann") as laptop:
        key = new_key()
        acks = await asyncio.gather(phone.say("once", "same-ben", id=key), laptop.say("once", "same-ben", id=key))
        assert acks[0]["seq"] == acks[1]["seq"] == 1
        assert system.rows("select count(*) from messages where client_key = %s", key) == [{"count": 1}]


# --- tokens ---------------------------------------------------------------------------------------------


async def test_a_token_can_be_renewed_on_the_open_connection(system: System) -> None:
    async with connection(system.ws, token=system.token("token-ann", "1h")) as ann:
        before = ann.heard[0]["token_expires_at"]
        fresh = await ann.ask("welcome", type="token", token=system.token("token-ann", "2h"))
        assert fresh["token_expires_at"] > before
        assert fresh["username"] == "token-ann"
        other = await ann.ask("error", type="token", token=system.token("token-ben"))
        assert other["code"] == "forbidden"
        forged = await ann.ask("error", type="token", token=signed("token-ann", b"another secret of 32 bytes or so!"))
        assert forged["code"] == "unauthorized"
        await ann.settled()  # and it is still open


async def test_a_session_ends_when_its_token_does(system: System) -> None:
    secret = read_secret(system.settings.token_secret_file)
    fresh = system.token("ends-ann")
    short = signed("ends-ann", secret, exp=time.time() + 6)
    async with connection(system.ws, token=short) as ann, connection(system.ws, token=short) as renewed:
        await renewed.ask("welcome", type="token", token=fresh)
        goodbye = await ann.take("goodbye")
        assert goodbye["code"] == 4002
        assert await ann.closed() == (4002, goodbye["reason"])
        await renewed.settled()


# --- what is not stored -----------------------------------------------------------------------------------


async def test_typing_is_told_to_the_other_side(system: System) -> None:
    async with connection(system.ws, "type-ann") as ann, connection(system.ws, "type-ben") as ben:
        await ann.say("let me think", "type-ben")
        await ben.take("message")  # a notice is for those who are there already
        await ann.send(type="typing", recipient="type-ben")
        notice = await ben.take("typing", username="type-ann")
        assert notice["on"] is True
        assert notice["conversation"] == "direct:type-ann:type-ben"
        await ann.send(type="typing", recipient="type-ben", on=False)
        assert (await ben.take("typing", username="type-ann"))["on"] is False


async def test_ping_is_answered(system: System) -> None:
    async with connection(system.ws, "ping-ann") as ann:
        pong = await ann.ask("pong", type="ping", id="are you there")
        assert pong["id"] == "are you there"
        assert pong["server_time"].endswith("Z")
    async with raw(system.port, "ping-ben") as ben:
        ben.send(frame(0x9, b"payload"))
        while (answer := await ben.read())[0] != 0xA:
            pass
        assert answer[1] == b"payload"


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ({"content": "for your eyes only", "recipent": "ben"}, "recipent"),
        ({"type": "snd", "content": "x"}, "snd"),
        ({"type": "send"}, "content"),
        ({"type": "send", "content": 7}, "content"),
        ({"type": "send", "content": ""}, "empty"),
        ({"type": "send", "content": "x", "id": "short"}, "id"),
        ({"type": "send", "content": "x", "recipient": "a:b"}, "username"),
        ({"type": "send", "content": "x", "recipient": "ben", "room": "r"}, "not both"),
        ({"type": "history", "conversation": "direct:b:a"}, "conversation"),
        ({"type": "history", "conversation": "lobby", "limit": 1000}, "limit"),
        ({"type": "watch", "users": ["a b"]}, "username"),
    ],
    ids=str,
)
async def test_a_command_that_is_not_understood_is_refused(system: System, command: dict[str, Any], says: str) -> None:
    async with connection(system.ws, "wrong-ann") as ann:
        await ann.send(**{"id": "a wrong command 1", **command})
        error = await ann.take("error")
        assert error["code"] == "bad_request"
        assert error["temporary"] is False
        assert says in error["message"]
        assert error["id"] == command.get("id", "a wrong command 1")
        await ann.settled()
    assert system.rows("select 1 from messages where sender = 'wrong-ann'") == []


# --- help -----------------------------------------------------------------------------------------------------


def delivery(system: System, a: str, b: str) -> list[str]:
    """The delivery of each message of two users, in order."""
    sql = "select delivery from direct_messages where conversation = %s order by seq"
    return [row["delivery"] for row in system.rows(sql, f"direct:{a}:{b}")]


def part(synced: dict[str, Any], conversation: str) -> dict[str, Any]:
    """What a `synced` says of one conversation."""
    (found,) = [one for one in synced["conversations"] if one["conversation"] == conversation]
    return dict(found)


def direct_only(events: list[dict[str, Any]]) -> list[int]:
    """The seqs of the events that are not the lobby's, which the tests share."""
    return [event["seq"] for event in events if event["conversation"] != "lobby"]


async def say_many(system: System, sender: str, count: int, recipient: str) -> None:
    """*count* messages in order, over as many connections as the limits of rate and of sends in flight call for."""
    told = 0
    while told < count:
        async with connection(system.ws, sender) as one:
            limits = one.heard[0]["limits"]
            for _ in range(limits["burst"] // limits["in_flight"]):
                some = range(told, min(count, told + limits["in_flight"]))
                await asyncio.gather(*[one.say(f"message {i}", recipient) for i in some])
                told = some.stop
