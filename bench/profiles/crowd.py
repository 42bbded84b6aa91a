"""Some thousand devices that talk at a steady rate, come to rest, and are compared with the table."""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter

import psycopg

from bench.profiles import faults
from bench.profiles.device import Device, Meter
from bench.profiles.ledger import Ledger, Row
from bench.server import Server
from hubbub.protocol.conversation import LOBBY, parties

# Handshakes under way while a crowd comes together.
CONCURRENCY = 100
# Longer than every patience in the system together: what is not settled then will not be.
SETTLE_SECONDS = 60.0
KEY_LENGTH = 24  # a run's 8 hex digits and 16 digits of a counter; the protocol wants 16 to 64
_STEP = 0.01
# Each device's clock: `received` and what has to be sent again. A hundredth of them in each step.
_TICKS = 100


class NotSettled(RuntimeError):
    """The crowd did not come to rest: somebody waits for an acknowledgement, a message or a connection."""


@dataclass(frozen=True)
class Traffic:
    """Messages a second of the whole crowd, sent whether or not the ones before are answered (an open loop)."""

    lobby: float
    direct: float
    content_bytes: int = 100


class Crowd:
    """*count* users of one device each; ``i`` writes to the lobby and to its partner ``i ^ 1``."""

    def __init__(self, server: Server, count: int, *, seed: int, timed: int = 200) -> None:
        self.run = secrets.token_hex(4)
        self.ledger = Ledger()
        self.meter = Meter()
        self.rng = random.Random(seed)
        self.lag: list[float] = []  # by how much this generator came late, in seconds
        self.deliveries: list[float] = []  # of every n-th device, so that about *timed* are measured
        self.acks: list[float] = []
        self.devices = [
            Device(server.url, f"{self.run}-{i}", self.ledger, self.meter, random.Random(self.rng.random()))
            for i in range(count - count % 2)
        ]
        self.timed = self.devices[:: max(1, count // timed)]
        self._server = server
        self._keys = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._clock: asyncio.Task[None] | None = None
        self._talk: asyncio.Task[None] | None = None

    @property
    def live(self) -> int:
        """How many are synced."""
        return sum(device.live for device in self.devices)

    async def gather(self) -> None:
        """Everybody connects. Raises `NotSettled`."""
        self._clock = asyncio.create_task(self._tick(), name="clock")
        for begun, device in enumerate(self.devices, 1):
            task = asyncio.create_task(device.run(), name=device.username)
            task.add_done_callback(_raise)
            self._tasks.append(task)
            if begun % (CONCURRENCY // 2) == 0:
                await until(lambda begun=begun: self.live > begun - CONCURRENCY, SETTLE_SECONDS, "connected")  # type: ignore[misc]
        await until(lambda: self.live == len(self.devices), SETTLE_SECONDS, "connected")

    def time(self, deliveries: list[float] | None, acks: list[float] | None = None) -> None:
        """Let the timed devices collect into these lists from now on; None: nothing is measured."""
        for device in self.timed:
            device.deliveries = deliveries
        for device in self.devices:
            device.acks = acks

    def talk(self, traffic: Traffic, senders: int | None = None) -> None:
        """Begin to talk, all of them or the first *senders*; instead of what was begun before."""
        self.fall_silent()
        among = self.devices[:senders]
        self._talk = asyncio.create_task(self._pace(traffic, among), name="traffic")

    def fall_silent(self) -> None:
        """Begin nothing new."""
        if self._talk is not None:
            self._talk.cancel()
            self._talk = None

    def say(self, device: Device, content_bytes: int, recipient: str | None) -> str:
        """One message; its key."""
        self._keys += 1
        key = f"{self.run}{self._keys:016d}"
        device.say(key, key + "x" * (content_bytes - KEY_LENGTH), recipient)
        return key

    def settled(self) -> bool:
        """Whether everybody is synced, has every answer, and all that anybody was told of."""
        if not all(device.core.settled for device in self.devices):
            return False
        tops = self.ledger.tops
        return all(
            (device.core.position(name) or 0) >= top for name, top in tops.items() for device in self._hearers(name)
        )

    async def settle(self) -> float:
        """Wait for `settled`; the seconds it took. Raises `NotSettled`."""
        began = perf_counter()
        await until(self.settled, SETTLE_SECONDS, "settled", every=0.05)
        return perf_counter() - began

    async def check(self) -> None:
        """Compare with the table; what differs is in the ledger's problems. Call it after `settle`."""
        rows = await asyncio.to_thread(read_table, self._server)
        self.ledger.check_table(rows, self.run)
        tops: dict[str, int] = {}
        for row in rows:
            tops[row.conversation] = max(row.seq, tops.get(row.conversation, 0))
        for name, top in tops.items():
            for device in self._hearers(name):
                self.ledger.check_reached(device.username, name, device.core.position(name) or 0, top)

    async def close(self) -> None:
        """Everybody leaves."""
        self.fall_silent()
        for device in self.devices:
            device.leave()
        for task in (*self._tasks, *([self._clock] if self._clock is not None else [])):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _hearers(self, conversation: str) -> list[Device]:
        if conversation == LOBBY:
            return self.devices
        names = parties(conversation) or ()
        return [self.devices[self._index(name)] for name in names if name.startswith(f"{self.run}-")]

    async def _pace(self, traffic: Traffic, among: list[Device]) -> None:
        began = perf_counter()
        lobby = direct = 0
        while True:
            passed = perf_counter() - began
            for _ in range(int(passed * traffic.lobby) - lobby):
                self.say(self._somebody(among), traffic.content_bytes, None)
                lobby += 1
            for _ in range(int(passed * traffic.direct) - direct):
                device = self._somebody(among)
                self.say(device, traffic.content_bytes, self._partner(device))
                direct += 1
            await asyncio.sleep(_STEP)

    def _somebody(self, among: list[Device]) -> Device:
        """Somebody who is here, if chance finds one soon: most people do not write while they are away."""
        for _ in range(8):
            device = self.rng.choice(among)
            if device.live:
                break
        return device

    def _partner(self, device: Device) -> str:
        return self.devices[self._index(device.username) ^ 1].username

    @staticmethod
    def _index(username: str) -> int:
        return int(username.partition("-")[2])

    async def _tick(self) -> None:
        turn = 0
        while True:
            due = perf_counter() + _STEP
            await asyncio.sleep(_STEP)
            self.lag.append(max(0.0, perf_counter() - due))
            for device in self.devices[turn::_TICKS]:
                device.tick()
            turn = (turn + 1) % _TICKS


def _raise(task: asyncio.Task[None]) -> None:
    """A device that fails is a fault of this generator: the loop shows it, and nobody will settle."""
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


async def until(true: Callable[[], bool], seconds: float, what: str, *, every: float = _STEP) -> None:
    """Wait until *true* says so. Raises `NotSettled`."""
    give_up = time.monotonic() + seconds
    while not true():
        if time.monotonic() > give_up:
            raise NotSettled(f"not {what} within {seconds:g} s")
        await asyncio.sleep(every)


@asynccontextmanager
async def gathered(server: Server, count: int, *, seed: int) -> AsyncIterator[Crowd]:
    """A crowd that is connected and leaves at the end. Raises `NotSettled`."""
    crowd = Crowd(server, count, seed=seed)
    try:
        await crowd.gather()
        yield crowd
    finally:
        await crowd.close()


def read_table(server: Server) -> list[Row]:
    """All messages, in the embedded database's own words."""
    where = f"host={faults.environ(server)['HUBBUB_SOCKET_DIR']}/postgres user=hubbub dbname=hubbub"
    with psycopg.connect(where) as connection:
        found = connection.execute("select conversation, seq, client_key from messages order by conversation, seq")
        return [Row(*row) for row in found]
