"""A few devices in conversation, for tests in which the data itself is lost or replaced (else: `tests.fault.crowd`)."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from hubbub.protocol.conversation import LOBBY, may_read
from tests.integration.client import Device
from tests.integration.system import System


class Talk:
    """Some devices that say one thing after another, to all and to each other."""

    def __init__(self, system: System, names: Sequence[str]) -> None:
        self.devices = [Device(system.ws, name) for name in names]
        self.acknowledged: dict[str, Any] = {}  # key -> ack, in the order in which they came
        self.epochs: dict[str, int | None] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._count = 0

    def begin(self) -> None:
        self._tasks = [asyncio.create_task(self._talk(i)) for i in range(len(self.devices))]

    async def until_said(self, count: int) -> None:
        """*count* more were acknowledged."""
        wanted = len(self.acknowledged) + count
        async with asyncio.timeout(60):
            while len(self.acknowledged) < wanted:
                await asyncio.sleep(0.01)

    async def silence(self) -> None:
        """Nobody says anything more, and everybody has been told all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.settled()

    async def settled(self) -> None:
        for device in self.devices:
            await device.until_settled()

    async def _talk(self, i: int) -> None:
        device = self.devices[i]
        while True:
            self._count += 1
            other = self.devices[(i + self._count) % len(self.devices)].username
            key = device.send(f"{device.username} says {self._count}\t\\ \n ☂", None if self._count % 3 else other)
            ack = await device.outcome(key)
            assert ack is not None, device.rejected
            self.acknowledged[key] = ack
            self.epochs[key] = device.core.epoch


@asynccontextmanager
async def talk(system: System, *names: str) -> AsyncIterator[Talk]:
    crowd = Talk(system, names)
    try:
        yield crowd
    finally:
        for task in crowd._tasks:
            task.cancel()
        await asyncio.gather(*crowd._tasks, return_exceptions=True)
        for device in crowd.devices:
            await device.close()


def what_they_hold_is_the_table(devices: Sequence[Device], rows: Sequence[dict[str, Any]]) -> None:
    """Each holds, from where it began, all of the table that it may read, in its order, and nothing else."""
    for device in devices:
        for conversation in {LOBBY, *device.applied, *(row["conversation"] for row in rows)}:
            first = device.from_seq.get(conversation, 0)
            table = [
                (row["seq"], row["id"], row["client_key"])
                for row in rows
                if row["conversation"] == conversation
                and row["seq"] > first
                and may_read(device.username, conversation)
            ]
            held = [(one.seq, one.id, one.key) for one in device.applied.get(conversation, [])]
            assert held == table, (device.username, conversation)
        assert device.applied[LOBBY]
