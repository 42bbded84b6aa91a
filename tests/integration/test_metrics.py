"""``/metrics``: what every process counts, on whatever shard one asks."""

import asyncio
from collections import defaultdict
from http import HTTPStatus

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.client import connection
from tests.integration.system import System

PROCESSES = {"broker", "store", "shard-0", "shard-1"}
SHARDS = {"shard-0", "shard-1"}
# What an operator looks for, and who tells.
EXPECTED = {
    "process_resident_memory_bytes": PROCESSES,
    "process_cpu_seconds_total": PROCESSES,
    "hubbub_loop_lag_seconds_count": PROCESSES,
    "hubbub_loop_lag_max_seconds": PROCESSES,
    "hubbub_shard_connections": SHARDS,
    "hubbub_shard_users": SHARDS,
    "hubbub_shard_commands_total": SHARDS,
    "hubbub_shard_acknowledgements_total": SHARDS,
    "hubbub_shard_deliveries_total": SHARDS,
    "hubbub_shard_pending_requests": SHARDS,
    "hubbub_shard_unsent_bytes": SHARDS,
    "hubbub_shard_recovering_slots": SHARDS,
    "hubbub_shard_recoveries_total": SHARDS,
    "hubbub_shard_resets_total": SHARDS,
    "hubbub_shard_errors_total": SHARDS,
    "hubbub_shard_closes_total": SHARDS,
    "hubbub_store_messages_total": {"store"},
    "hubbub_store_duplicates_total": {"store"},
    "hubbub_store_refused_total": {"store"},
    "hubbub_store_commit_seconds_count": {"store"},
    "hubbub_store_batch_rows_sum": {"store"},
    "hubbub_store_queue": {"store"},
    "hubbub_store_replays_total": {"store"},
    "hubbub_broker_peers": {"broker"},
    "hubbub_broker_messages_total": {"broker"},
}


def samples(system: System) -> dict[str, dict[str, float]]:
    """Name -> process -> value, summed over other labels. The parser refuses what Prometheus would."""
    answer = system.get("/metrics")
    assert answer.status == HTTPStatus.OK
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(answer.body.decode()):
        assert family.documentation, family.name
        for sample in family.samples:
            found[sample.name][sample.labels["process"]] += sample.value
    return {name: dict(processes) for name, processes in found.items()}


async def test_every_process_tells(system: System) -> None:
    before = total(system)
    async with connection(system.ws, "count-ann") as ann, connection(system.ws, "count-ben"):
        first = await ann.say("one", "count-ben")
        await ann.say("one", "count-ben", id=first["id"])
        await ann.ask("error", type="send", id="an empty message", content="")

        def grown() -> bool:
            now = total(system)
            return all(now[name] >= before.get(name, 0) + step for name, step in GROWTH.items())

        await asyncio.to_thread(system.until, grown, 10, "counted")

        def told() -> dict[str, set[str]]:
            now = samples(system)
            return {name: {*now.get(name, {})} for name in EXPECTED}

        # An error or a close has no sample before its first; everything else is there from the start.
        labelled = {"hubbub_shard_errors_total", "hubbub_shard_closes_total"}
        await asyncio.to_thread(
            system.until, lambda: {k: v for k, v in told().items() if k not in labelled} == UNLABELLED, 10, "all told"
        )
        assert told()["hubbub_shard_errors_total"] <= SHARDS


GROWTH = {
    "hubbub_shard_connections": 0,
    "hubbub_shard_acknowledgements_total": 2,
    "hubbub_shard_deliveries_total": 1,
    "hubbub_shard_errors_total": 1,
    "hubbub_store_messages_total": 1,
    "hubbub_store_duplicates_total": 1,
    "hubbub_store_commit_seconds_count": 2,
    "hubbub_broker_messages_total": 4,
}
UNLABELLED = {k: v for k, v in EXPECTED.items() if k not in ("hubbub_shard_errors_total", "hubbub_shard_closes_total")}


def total(system: System) -> dict[str, float]:
    """Name -> sum over all processes."""
    return {name: sum(processes.values()) for name, processes in samples(system).items()}
