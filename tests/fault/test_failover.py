"""Failovers in mid traffic: a store to the one beside it, PostgreSQL to its standby, with and without loss.

One pair of servers and one crowd for all of it; `tests.fault.failover` does it many times and measures.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.fault.failover import STORES, Failover, failover
from tests.integration.talk import talk, what_they_hold_is_the_table

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEVICES = 16
Record = Callable[[str, object], None]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Failover]:
    async with failover(tmp_path_factory.mktemp("failover"), devices=DEVICES) as running:
        yield running


@pytest.mark.parametrize("fault", ["owner_dies", "owner_stops", "primary_dies"])
async def test_nothing_is_lost_and_service_returns_by_itself(
    made: Failover, fault: str, record_property: Record
) -> None:
    counts = await made.round(getattr(made, fault))
    record_property("fault", f"{fault:<18} {counts}")
    assert counts.kept, made.crowd.complaints
    assert counts.acknowledged > DEVICES
    if fault == "primary_dies":
        assert made.pair.primary.name == "b"


async def test_a_store_that_was_stopped_and_lost_its_slots_answers_nothing_when_it_is_resumed(made: Failover) -> None:
    counts = await made.owner_wakes()
    assert counts.kept, made.crowd.complaints
    assert counts.acknowledged > DEVICES


async def test_a_commit_whose_wait_for_the_standby_was_cancelled_is_not_acknowledged(made: Failover) -> None:
    """It is in the primary's table, and may be nowhere else: unknown, until it is known to be in both."""
    pair, system = made.pair, made.system
    await asyncio.to_thread(pair.renew)
    device = made.crowd.devices[0]
    await device.until_settled()
    await asyncio.to_thread(pair.standby.kill)
    warned = sum(len(made.events(store, "database_warning")) for store in STORES)
    key = device.send("in one place")
    waiting = "select pid from pg_stat_activity where wait_event = 'SyncRep' and query like '%append_messages%' or " \
              "wait_event = 'SyncRep' and query like '%Store a batch%'"  # fmt: skip
    await asyncio.to_thread(system.until, lambda: pair.primary.rows(waiting), 20, "waiting for the standby")
    here = f"select count(*) from messages where client_key = '{key}'"
    assert pair.primary.rows(here) == [(0,)]
    pair.primary.rows(f"select pg_cancel_backend(pid) from ({waiting}) as batch")
    await asyncio.to_thread(system.until, lambda: pair.primary.rows(here) == [(1,)], 20, "committed here")
    await asyncio.to_thread(
        system.until,
        lambda: sum(len(made.events(store, "database_warning")) for store in STORES) > warned,
        20,
        "warned",
    )
    assert key in device.core.pending and key not in device.acknowledged
    await asyncio.to_thread(pair.standby.start)
    ack = await asyncio.wait_for(device.outcome(key), 60)
    assert ack is not None
    assert pair.primary.rows(here) == pair.standby.rows(here) == [(1,)]
    device.acknowledged.clear()


async def test_a_database_that_lost_what_was_committed_stops_the_store_until_there_is_a_new_epoch(
    made: Failover,
) -> None:
    """A standby that no commit waited for. Numbers would be given twice; so the store gives none."""
    pair, system = made.pair, made.system
    await made.crowd.close()
    async with talk(system, "ann", "bob", "cem") as crowd:
        crowd.begin()
        await crowd.until_said(20)
        await asyncio.to_thread(pair.primary.synchronous, "")
        pair.standby.rows("alter system set primary_conninfo = ''")
        pair.standby.rows("select pg_reload_conf()")
        await asyncio.to_thread(
            system.until, lambda: not pair.primary.rows("select 1 from pg_stat_replication"), 20, "alone"
        )
        await crowd.until_said(40)
        before = {device.core.epoch for device in crowd.devices}
        await asyncio.to_thread(pair.fail_over)
        said = len(crowd.acknowledged)

        def refused() -> list[str]:
            lost = [line for store in STORES for line in system.log(store) if line["event"] == "slots_lost"]
            return [line["error"] for line in lost if "was committed: the database was restored" in line["error"]]

        await asyncio.to_thread(system.until, lambda: len(refused()) >= 3, 30, "refused")
        assert "update epoch set epoch" in refused()[0]
        assert len(crowd.acknowledged) == said
        ids = "select coalesce(max(id), 0), count(*) from messages"
        stands = pair.primary.rows(ids)
        await asyncio.sleep(1.0)  # a store would number anew within a tenth of it
        assert pair.primary.rows(ids) == stands
        pair.primary.rows(refused()[0].partition("make a new epoch: ")[2])
        begun = time.monotonic()
        for device in crowd.devices:
            while device.core.epoch in before:
                async with asyncio.timeout(60):
                    await device.changed()
        assert time.monotonic() - begun < 60
        await crowd.until_said(40)
        await crowd.silence()
        names = [(crowd.epochs[key], ack.message_id) for key, ack in crowd.acknowledged.items()]
        assert len(set(names)) == len(names)
        rows = system.rows("select * from messages order by id")
        what_they_hold_is_the_table(crowd.devices, [row for row in rows])
