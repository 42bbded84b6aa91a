"""Failovers in mid traffic: of PostgreSQL to its synchronous standby, of a store to the one beside it.

``python -m tests.fault.failover --rounds 7`` repeats each and prints how long nobody was served.
"""

import argparse
import asyncio
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from hubbub.protocol.conversation import SLOTS
from tests.fault.campaign import SERVED_SECONDS
from tests.fault.crowd import Counts, Crowd
from tests.fault.replication import Pair, replicated
from tests.integration.system import System, running, signal_process

STORES = ("store", "store-1")
# What a store counts of all it commits and answers.
COUNTERS = ("messages", "duplicates", "refused", "replays")


class Failover:
    """A server with two stores on a `Pair`, and a crowd in conversation."""

    def __init__(self, system: System, pair: Pair, *, devices: int, seed: int = 1) -> None:
        self.system = system
        self.pair = pair
        self.rng = random.Random(seed)
        self.crowd = Crowd(system, devices=devices, rng=self.rng)

    async def round(self, fault: Callable[[], Awaitable[None]]) -> Counts:
        """Cause *fault* in mid traffic; everybody is served again, and the promise was kept or it is in the counts."""
        crowd = self.crowd
        crowd.talk()
        await crowd.served_since(time.monotonic(), SERVED_SECONDS)
        await asyncio.sleep(self.rng.uniform(0.0, 0.5))  # anywhere in the traffic
        await fault()
        await crowd.served_since(time.monotonic(), SERVED_SECONDS)
        counts = await crowd.fall_silent()
        return counts + await crowd.check()

    async def primary_dies(self) -> None:
        """PostgreSQL's machine loses its power; the standby is promoted. The store finds it by itself."""
        await asyncio.to_thread(self.pair.fail_over)

    async def owner_dies(self) -> None:
        """``kill -9`` of the store that has the slots, and nobody to start it again: as when its machine is gone."""
        owner = self.owner()
        pid, terms = self.system.pid(owner), self.terms()
        supervisord = self.system.pause("supervisord")
        try:
            signal_process(pid, signal.SIGKILL)
            await asyncio.to_thread(self.until_taken, terms)
        finally:
            self.system.resume(supervisord)
        await asyncio.to_thread(
            self.system.until, lambda: self.system.programs()[owner]["statename"] == "RUNNING", 20, "started again"
        )
        assert self.owner() != owner

    async def owner_stops(self) -> None:
        """SIGSTOP of the store that has the slots, until everybody is served by another; then it is resumed."""
        owner, terms = self.owner(), self.terms()
        pids = self.system.pause(owner)
        try:
            await asyncio.to_thread(self.until_taken, terms)
            await self.crowd.served_since(time.monotonic(), SERVED_SECONDS)
        finally:
            self.system.resume(pids)
        assert self.owner() != owner

    async def owner_wakes(self) -> Counts:
        """The same from silence, so that what it had counted is known to the last one. Everybody begins to talk to
        the stopped store: hundreds of requests lie before it when it is resumed, and it must answer none of them."""
        owner, terms = self.owner(), self.terms()
        before = await asyncio.to_thread(self.counted, owner)
        lost = len(self.events(owner, "slots_lost"))
        pids = self.system.pause(owner)
        try:
            self.crowd.talk()
            await asyncio.to_thread(self.until_taken, terms)
            await self.crowd.served_since(time.monotonic(), SERVED_SECONDS)
        finally:
            self.system.resume(pids)

        def told() -> bool:
            return len(self.events(owner, "slots_lost")) > lost

        await asyncio.to_thread(self.system.until, told, 20, f"{owner} told that it lost its slots")
        await self.crowd.served_since(time.monotonic(), SERVED_SECONDS)
        counts = await self.crowd.fall_silent()
        after = await asyncio.to_thread(self.counted, owner)
        assert self.owner() != owner
        assert after == before, f"{owner} was resumed and counts {after} after {before}"
        return counts + await self.crowd.check()

    def events(self, store: str, *names: str) -> list[str]:
        """The times at which *store* logged these events."""
        return [line["timestamp"] for line in self.system.log(store) if line["event"] in names]

    def owner(self) -> str:
        """The store that took the slots last."""
        return max(STORES, key=lambda store: max(self.events(store, "slots_taken"), default=""))

    def terms(self) -> int:
        """Grows with each slot that changes hands."""
        return int(self.system.rows("select sum(term) as terms from slots")[0]["terms"])

    def until_taken(self, before: int) -> None:
        """Wait until all slots have changed hands since `terms` said *before*."""
        self.system.until(lambda: self.terms() >= before + SLOTS, 30, "taken over")

    def counted(self, store: str) -> dict[str, float]:
        """What *store* says in its metrics that it committed and answered, once it stands still for two of them."""
        seen: list[dict[str, float]] = []

        def steady() -> bool:
            time.sleep(1.1)  # a snapshot is written each second
            text = self.system.get("/metrics").body.decode()
            found = re.findall(rf'^hubbub_store_(\w+)_total{{process="{store}"}} (\S+)$', text, re.MULTILINE)
            seen.append({name: float(value) for name, value in found if name in COUNTERS})
            return len(seen) > 2 and seen[-1].keys() == set(COUNTERS) and seen[-1] == seen[-2] == seen[-3]

        self.system.until(steady, 30, f"{store} steady in its metrics")
        return seen[-1]


@asynccontextmanager
async def failover(home: Path, *, devices: int, shards: int = 2) -> AsyncIterator[Failover]:
    """A `Failover`, started and stopped."""
    with replicated() as pair:
        env = {"HUBBUB_DATABASE_URL": pair.url, "HUBBUB_SPARE_STORES": "1"}
        with running(home, shards=shards, env=env) as system:
            made = Failover(system, pair, devices=devices)
            try:
                yield made
            finally:
                await made.crowd.close()


async def _measure(rounds: int, devices: int) -> int:
    kept = True
    with tempfile.TemporaryDirectory(prefix="hubbub-failover-") as home:
        async with failover(Path(home), devices=devices) as made:
            faults = {
                "primary killed, standby promoted": made.primary_dies,
                "owning store killed": made.owner_dies,
                "owning store stopped": made.owner_stops,
            }
            for name, fault in faults.items():
                results = []
                for _ in range(rounds):
                    counts = await made.round(fault)
                    results.append(counts)
                    print(f"{name:<34} {counts}", flush=True)
                    if fault == made.primary_dies:
                        await asyncio.to_thread(made.pair.renew)
                pauses = sorted(one.quiet_ms for one in results)
                total = sum(results, Counts())
                kept = kept and total.kept
                print(
                    f"{name:<34} nobody was served for {statistics.median(pauses):.0f} ms (median of {rounds}; "
                    f"{pauses[0]} to {pauses[-1]}); of {total.acknowledged} acknowledged {total.lost} lost",
                    flush=True,
                )
            for complaint in made.crowd.complaints:
                print(complaint)
    return 0 if kept else 1


def main() -> int:
    """The command; 1 if anything was lost, repeated or out of order."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault.failover", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="of each kind [%(default)s]")
    parser.add_argument("--clients", type=int, default=20, help="devices in traffic [%(default)s]")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    return asyncio.run(_measure(options.rounds, options.clients))


if __name__ == "__main__":
    sys.exit(main())
