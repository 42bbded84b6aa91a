"""``kill -TERM`` of one shard of two under load: its clients are told, move over, lose nothing."""

import asyncio
import random
import time
from pathlib import Path

from shards.hub import RESTART_SPREAD_MS
from tests.fault.crowd import Crowd
from tests.integration.client import Connection, open_on
from tests.integration.system import running

CLIENTS = 20


async def test_a_shard_that_is_terminated_sends_its_clients_to_the_other(tmp_path: Path) -> None:
    with running(tmp_path) as system:
        crowd = Crowd(system, devices=CLIENTS, rng=random.Random(6))
        leaving = [await open_on(system.ws, f"leaving-{i}", lambda shard: shard == "shard-0") for i in range(5)]
        staying = await open_on(system.ws, "staying", lambda shard: shard == "shard-1")
        await crowd.spread()
        on_it = [device for device in crowd.devices if device.shard == "shard-0"]
        assert on_it
        crowd.talk()
        await crowd.served_since(time.monotonic(), 20)
        old = await asyncio.to_thread(system.terminate, "shard-0")

        # Each is told, with a time to come back that spreads them, and closed with a code that says: come back.
        goodbyes = [await told_to_go(one) for one in leaving]
        assert all(0 <= wait_ms < RESTART_SPREAD_MS for wait_ms in goodbyes)
        assert len({*goodbyes}) > 1
        # The crowd's devices do so, and nothing they said or heard is lost or repeated.
        await crowd.served_since(time.monotonic(), 20)
        counts = await crowd.fall_silent() + await crowd.check()
        print(f"drain: {counts}")
        assert counts.kept, crowd.complaints
        assert counts.acknowledged > CLIENTS
        assert all(device.counts["goodbye 4000"] == 1 for device in on_it)

        # Whoever was on the other shard noticed nothing.
        await staying.settled()
        assert staying.unread("goodbye") == []
        # The shard went because it was done, not because its time was up, and another is there in its place.
        await asyncio.to_thread(system.wait_replaced, "shard-0", old)
        drained = [line for line in system.log("shard-0") if line["event"] in ("draining", "drained", "stopped")]
        assert [line["event"] for line in drained] == ["draining", "drained", "stopped"]
        assert drained[0]["sessions"] == len(on_it) + len(leaving)
        assert (drained[1]["left"], drained[2]["code"]) == (0, 0)
        again = await open_on(system.ws, "coming-back", lambda shard: shard == "shard-0")
        for one in (*leaving, staying, again):
            await one.close()
        await crowd.close()


async def test_what_was_taken_is_acknowledged_before_the_goodbye(tmp_path: Path) -> None:
    with running(tmp_path, shards=1) as system:
        ann = await Connection.open(system.ws, "taken-ann")
        await ann.take("welcome")
        # The store takes its time: the shard has the messages, and nobody has stored them.
        stopped = await asyncio.to_thread(system.pause, "store")
        keys = [f"taken message {i:03}" for i in range(20)]
        for key in keys:
            await ann.send(type="send", id=key, content="still there?", recipient="taken-ben")
        await ann.settled()
        await asyncio.to_thread(system.terminate, "shard-0")
        await asyncio.to_thread(
            system.until, lambda: any(line["event"] == "draining" for line in system.log("shard-0")), 10, "draining"
        )
        system.resume(stopped)
        await ann.closed()
        kinds = [event["type"] for event in ann.heard]
        assert kinds.count("ack") == len(keys)
        assert kinds[-1] == "goodbye"
        await ann.close()
        rows = system.rows("select client_key from messages order by seq")
        assert [row["client_key"] for row in rows] == keys


async def told_to_go(one: Connection) -> int:
    """Take the goodbye; the milliseconds it says."""
    goodbye = await one.take("goodbye")
    assert goodbye["code"] == 4000
    assert await one.closed() == (4000, goodbye["reason"])
    return int(goodbye["reconnect_after_ms"])
