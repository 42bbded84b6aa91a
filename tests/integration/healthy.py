"""Two people on every shard who just chat, and would notice anything that somebody else's misbehaviour did to them."""

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.integration.client import Connection, open_on
from tests.integration.system import System

# A message every 20 ms keeps below the rate limit of one session.
EVERY = 0.02
# Far above what is normal (3 ms), since other tests run beside these: a commit waits seconds for a disk that somebody
# else's new database keeps busy.
MEDIAN_MS = 50.0
WORST_MS = 3000.0
_serial = itertools.count()


@dataclass
class Wellbeing:
    """What the healthy ones measured: milliseconds from a message to its arrival at the other."""

    milliseconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.milliseconds:
            return "nothing was measured"
        median, worst = statistics.median(self.milliseconds), max(self.milliseconds)
        return f"{len(self.milliseconds)} messages, median {median:.1f} ms, worst {worst:.1f} ms"


@asynccontextmanager
async def healthy(system: System, name: str) -> AsyncIterator[Wellbeing]:
    """Pairs chat as long as the block lasts; afterwards each must have had every message, once, in order, in time."""
    name = f"{name}{next(_serial)}"
    wellbeing = Wellbeing()
    stop = asyncio.Event()
    pairs: list[tuple[Connection, Connection]] = []
    try:
        for i in range(system.shards):
            pair = [
                await open_on(system.ws, f"{name}-{who}-{i}", lambda shard, i=i: shard == f"shard-{i}", syncing=True)  # type: ignore[misc]
                for who in ("hale", "hearty")
            ]
            for one in pair:
                await one.ask("synced", type="sync")
            pairs.append((pair[0], pair[1]))
        tasks = [
            asyncio.create_task(_chat(*pair, f"{name}-hearty-{i}", stop, wellbeing)) for i, pair in enumerate(pairs)
        ]
        yield wellbeing
        stop.set()
        await asyncio.gather(*tasks)
        print(f"healthy beside {name}: {wellbeing}")
        assert len(wellbeing.milliseconds) >= len(pairs), "they had no time to chat"
        assert statistics.median(wellbeing.milliseconds) < MEDIAN_MS, wellbeing
        assert max(wellbeing.milliseconds) < WORST_MS, wellbeing
    finally:
        stop.set()
        for one in [one for pair in pairs for one in pair]:
            await one.close()


async def _chat(hale: Connection, hearty: Connection, recipient: str, stop: asyncio.Event, found: Wellbeing) -> None:
    number = 0
    while not stop.is_set() or number < 10:
        number += 1
        began = time.perf_counter()
        ack = await hale.say(f"number {number}", recipient)
        message = await hearty.take("message", conversation=ack["conversation"])
        found.milliseconds.append((time.perf_counter() - began) * 1000)
        assert (message["seq"], message["content"]) == (number, f"number {number}")
        await asyncio.sleep(EVERY)
    await hearty.settled()
    assert hearty.unread("message") == []
    assert [one for one in hale.heard + hearty.heard if one["type"] in ("error", "goodbye")] == []
