"""Clients that misbehave: each gets its documented refusal, and a healthy one beside it notices nothing."""

import asyncio
import os
import time
from collections import Counter
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from hubbub.runtime.files import read_secret
from tests.integration.client import Connection, connection
from tests.integration.healthy import healthy
from tests.integration.raw import frame, raw
from tests.integration.system import System
from tests.integration.tokens import signed, unsigned

TEXT = 0x1


async def test_one_that_stops_reading_is_closed_with_4001_and_can_come_back(system: System) -> None:
    writers, each, size = 4, 150, 16_000  # 9.6 MB: the kernel keeps about 5 of them
    async with healthy(system, "unread"), raw(system.port, "unread-ann", receive_buffer=4096) as ann:
        session = (await ann.take("welcome"))["session"]
        await asyncio.gather(*[write_much(system, f"unread-ben-{i}", "unread-ann", each, size) for i in range(writers)])

        def end() -> list[dict[str, Any]]:
            lines = [line for i in range(system.shards) for line in system.log(f"shard-{i}")]
            return [line for line in lines if line["event"] == "left" and line["session"] == session]

        # She does not read her goodbye either, so her connection is cut after a while.
        await asyncio.to_thread(system.until, end, 20, "cut off")
        (left,) = end()
        assert (left["by"], left["code"]) == ("server", 4001)
    # Nothing is lost: what she did not confirm is served when she comes back and reads.
    async with connection(system.ws, "unread-ann") as again:
        seqs: Counter[str] = Counter()
        for _ in range(writers * each):
            message = await again.take("message")
            seqs[message["conversation"]] += 1
            assert message["seq"] == seqs[message["conversation"]]


async def test_one_that_reads_slowly_is_told_why_before_the_close(system: System) -> None:
    async with healthy(system, "slow"), raw(system.port, "slow-ann", receive_buffer=4096) as ann:
        await ann.take("welcome")
        await asyncio.gather(*[write_much(system, f"slow-ben-{i}", "slow-ann", 150, 16_000) for i in range(4)])
        events, code = await ann.end()
        assert code == 4001
        assert events[-1]["type"] == "goodbye"
        assert events[-1]["code"] == 4001


GARBAGE = {
    "no JSON": frame(TEXT, b"hello?"),
    "half a JSON": frame(TEXT, b'{"content":'),
    "a list": frame(TEXT, b"[1,2,3]"),
    "a number": frame(TEXT, b"7"),
    "deep": frame(TEXT, b"[" * 30_000),
    "nothing": frame(TEXT, b""),
    "binary": frame(0x2, os.urandom(50)),
    "a lone surrogate": frame(TEXT, b'{"content":"\\ud800"}'),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
async def test_what_is_no_command_is_refused_and_the_connection_stays(system: System, data: bytes) -> None:
    async with raw(system.port, "garbage-ann") as ann:
        ann.send(data)
        error = await ann.take("error")
        assert error["code"] == "bad_request"
        assert error["temporary"] is False
        ann.say(type="ping")
        await ann.take("pong")


BROKEN = {
    "a bare frame": (frame(TEXT, b'{"content":"x"}', masked=False), 1002),
    "a reserved opcode": (frame(0x3, b"x"), 1002),
    "a reserved bit": (bytes((0x80 | 0x40 | TEXT, 0x80)) + bytes(4), 1002),
    "a continuation of nothing": (frame(0x0, b"x"), 1002),
    "a long ping": (frame(0x9, bytes(126)), 1002),
    "a length in too many bytes": (bytes((0x80 | TEXT, 0x80 | 126, 0, 5)) + bytes(9), 1002),
    "text that is not UTF-8": (frame(TEXT, b'{"content":"\xff\xfe"}'), 1007),
    "random bytes": (b"\x16\x03\x01" + bytes(range(200)), 1002),
    "a frame over the limit": (frame(TEXT, bytes(65 * 1024)), 1009),
}


@pytest.mark.parametrize(("data", "code"), BROKEN.values(), ids=BROKEN.keys())
async def test_what_breaks_the_protocol_ends_the_connection(system: System, data: bytes, code: int) -> None:
    async with raw(system.port, "broken-ann") as ann:
        await ann.take("welcome")
        ann.send(data)
        events, closed_with = await ann.end()
        assert closed_with == code
        assert events[-1]["type"] == "goodbye"
        assert events[-1]["code"] == 4501  # do not come back like this


async def test_a_healthy_client_does_not_notice_garbage(system: System) -> None:
    async def misbehave(data: bytes, answer: str) -> None:
        async with raw(system.port, "noise-ann") as ann:
            ann.send(data)
            await ann.take(answer)

    async with healthy(system, "noise"):
        for _ in range(10):
            await asyncio.gather(*[misbehave(data, "error") for data in GARBAGE.values()])
            await asyncio.gather(*[misbehave(data, "goodbye") for data, _ in BROKEN.values()])


async def test_a_frame_of_100_mb_is_refused_at_its_header(system: System) -> None:
    async with healthy(system, "huge"), raw(system.port, "huge-ann") as ann:
        await ann.take("welcome")
        ann.send(frame(TEXT, b"", size=100 * 1024 * 1024))  # and not one byte of it
        began = time.monotonic()
        assert (await ann.take("goodbye"))["code"] == 4501
        assert time.monotonic() - began < 2.0
        assert await ann.end() == ([], 1009)
    async with healthy(system, "huge-sent"), raw(system.port, "huge-ben") as ben:
        shard = (await ben.take("welcome"))["session"].partition(".")[0]
        before = resident_bytes(system.pid(shard))
        ben.send(frame(TEXT, b"", size=100 * 1024 * 1024))
        sending = asyncio.create_task(push(ben.writer, 100))
        _, code = await ben.end()
        await sending
        assert code in (1009, None)  # a reset may overtake the close frame of a server that does not read on
        assert resident_bytes(system.pid(shard)) - before < 10 * 1024 * 1024


@pytest.mark.parametrize("pause", [0.0, 0.01], ids=["at once", "steadily"])
async def test_a_flood_is_slowed_and_then_cut_off(system: System, pause: float) -> None:
    async with healthy(system, "flood"), raw(system.port, "flood-ann") as ann:
        limits = (await ann.take("welcome"))["limits"]

        async def flood() -> None:
            for i in range(200):
                for j in range(10):
                    ann.say(type="ping", id=f"{i}-{j}")
                await asyncio.sleep(pause)

        flooding = asyncio.create_task(flood())
        events, code = await ann.end()
        await flooding
        kinds = Counter(event["type"] for event in events)
        # A burst is served (and what the bucket gains meanwhile), then refused, and then the connection ends.
        assert limits["burst"] <= kinds["pong"] < 2 * limits["burst"]
        assert limits["burst"] <= kinds["error"] < 2 * limits["burst"]
        refused = next(event for event in events if event["type"] == "error")
        assert refused["code"] == "rate_limited"
        assert refused["temporary"] is True
        assert refused["retry_after_ms"] > 0
        assert (events[-1]["type"], events[-1]["code"], code) == ("goodbye", 4501, 4501)


async def test_sends_without_waiting_are_bounded(system: System) -> None:
    async with healthy(system, "eager"), connection(system.ws, "eager-ann") as ann:
        bound = ann.heard[0]["limits"]["in_flight"]
        for i in range(bound + 10):
            await ann.send(type="send", id=f"eager message {i:03}", content="!", recipient="eager-ben")
        outcomes = [await asyncio.wait_for(outcome(ann, f"eager message {i:03}"), 15) for i in range(bound + 10)]
        refused = [one for one in outcomes if one["type"] == "error"]
        assert all((one["code"], one["stored"], one["temporary"]) == ("rate_limited", "no", True) for one in refused)
        assert len(refused) <= 10


@pytest.mark.parametrize("where", ["header", "subprotocol"])
@pytest.mark.parametrize("kind", ["expired", "forged", "alg none", "another alg", "no name", "malformed"])
async def test_a_bad_token_is_refused_before_the_upgrade(system: System, kind: str, where: str) -> None:
    secret = read_secret(system.settings.token_secret_file)
    token = {
        "expired": lambda: signed("bad-ann", secret, exp=int(time.time()) - 60),
        "forged": lambda: signed("bad-ann", b"not the secret, but as long as one"),
        "alg none": lambda: unsigned("bad-ann"),
        "another alg": lambda: signed("bad-ann", secret * 2, algorithm="HS512"),
        "no name": lambda: signed("", secret),
        "malformed": lambda: "eyJ.eyJ.x",
    }[kind]()
    async with healthy(system, "bad"):
        with pytest.raises(InvalidStatus) as refused:
            if where == "header":
                await Connection.open(system.ws, token=token)
            else:
                await Connection.open(system.ws, protocols=["hubbub.v1", f"bearer.{token}"])
    response = refused.value.response
    assert response.status_code == 401
    assert "Bearer" in response.headers["WWW-Authenticate"]
    assert b'"unauthorized"' in (response.body or b"")


async def test_who_says_no_name_or_somebody_elses_is_refused(system: System) -> None:
    token = system.token("good-ann")
    for username, with_token in ((None, None), ("a b", None), ("", None), ("good-ben", token)):
        with pytest.raises(InvalidStatus) as refused:
            await Connection.open(system.ws, username, token=with_token)
        assert refused.value.response.status_code == 401
    async with connection(system.ws, "good-ann", token=token) as ann:
        assert ann.heard[0]["username"] == "good-ann"


async def test_a_page_of_another_origin_is_refused(system: System) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await Connection.open(system.ws, "origin-ann", headers={"Origin": "https://evil.example"})
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    "command",
    [
        {"content": "a\0b"},
        {"content": "x", "id": "sixteen chars \0 it"},
        {"content": "x", "recipient": "a\0b"},
        {"content": "x", "mentions": ["a\0b"]},
        {"type": "history", "conversation": "direct:a\0:b"},
        {"type": "sync", "have": {"direct:a\0:b": 1}},
        {"type": "watch", "users": ["a\0"]},
    ],
    ids=ascii,
)
async def test_u0000_is_refused_and_takes_nobody_down(system: System, command: dict[str, Any]) -> None:
    # In one batch with others, PostgreSQL would refuse them all for it.
    async with healthy(system, "null"), connection(system.ws, "null-ann") as ann:
        error = await ann.ask("error", **{"id": "a command with a null", **command})
        assert error["code"] == "bad_request"
        assert (await ann.say("after it", "null-ben"))["conversation"] == "direct:null-ann:null-ben"


async def test_a_text_over_the_limit_is_refused(system: System) -> None:
    async with connection(system.ws, "large-ann") as ann:
        bound = ann.heard[0]["limits"]["content_bytes"]
        error = await ann.ask("error", type="send", id="a large one, too large", content="é" * (bound // 2 + 1))
        assert (error["code"], error["stored"]) == ("too_large", "no")
        assert (await ann.say("é" * (bound // 2), "large-ben"))["seq"] == 1


async def test_a_user_has_a_bounded_number_of_connections_on_a_shard(system: System) -> None:
    opened: list[Connection] = []
    bound = system.settings.limits.sessions_per_user
    try:
        with pytest.raises(InvalidStatus) as refused:
            for _ in range(system.shards * bound + 1):
                opened.append(await Connection.open(system.ws, "many-ann"))
        assert refused.value.response.status_code == 429
        assert refused.value.response.headers["Retry-After"]
        assert len(opened) >= bound
    finally:
        for one in opened:
            await one.close()


async def write_much(system: System, sender: str, recipient: str, count: int, size: int) -> None:
    """*count* messages of *size* bytes, as fast as they are acknowledged."""
    async with connection(system.ws, sender) as one:
        for begin in range(0, count, 50):
            await asyncio.gather(*[one.say("x" * size, recipient) for _ in range(begin, min(count, begin + 50))])


async def outcome(connection: Connection, key: str) -> dict[str, Any]:
    """What became of a message."""
    tasks = [asyncio.create_task(connection.take(kind, id=key)) for kind in ("ack", "error")]
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    return done.pop().result()


async def push(writer: asyncio.StreamWriter, megabytes: int) -> None:
    """Write until it is done or the other side has had enough."""
    try:
        for _ in range(megabytes):
            writer.write(bytes(1024 * 1024))
            await writer.drain()
    except ConnectionError:
        pass


def resident_bytes(pid: int) -> int:
    """What a process keeps in memory."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
