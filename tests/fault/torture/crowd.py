"""The people and their devices: who does what when, and when all of them have been served."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING

from hubbub.protocol.conversation import parties
from tests.fault.torture.devices import Clock, Witness
from tests.fault.torture.record import End

if TYPE_CHECKING:
    from tests.fault.torture.operations import Operation

FRIENDS = 5
DEVICES_MAX = 4
# What each client does, on average, in a second.
PACE = 0.3
# A device that pings often leaves a stopped shard and meets another; a patient one waits for it.
PATIENCE = (4.0, 60.0)


class Person:
    """A user: some devices, some friends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.friends: list[str] = []
        self.devices: list[Witness] = []

    def connected(self, rng: Random) -> Witness | None:
        """One of the devices that are connected and synced."""
        live = [one for one in self.devices if one.here and one.core.stage.value == "live"]
        return rng.choice(live) if live else None

    def talking(self, rng: Random) -> Witness | None:
        """One of the devices that want to be connected, whatever the server thinks, and have not said too much."""
        here = [one for one in self.devices if one.here and one.free]
        return rng.choice(here) if here else None

    def two(self, rng: Random) -> tuple[Witness | None, Witness | None]:
        """Two different devices of those, or None for what there is not."""
        here = [one for one in self.devices if one.here and one.free]
        if len(here) < 2:
            return None, None
        first, second = rng.sample(here, 2)
        return first, second

    def partner(self, conversation: str) -> str:
        """The other side of a direct conversation."""
        a, b = parties(conversation) or (self.name, self.name)
        return b if a == self.name else a


class Crowd:
    """*clients* devices of somewhat fewer users. Every second one reaches the server by way of the fault proxy."""

    def __init__(
        self,
        ways: tuple[str, ...],
        *,
        clients: int,
        clock: Clock,
        rng: Random,
        operations: "tuple[Operation, ...]",
        who_is_online: Callable[[], Awaitable[set[str]]],
    ) -> None:
        self._ways = itertools.cycle(ways)
        self._clock = clock
        self._rng = rng
        self._operations = operations
        self._who_is_online = who_is_online
        self._serial = itertools.count(1)
        self._numbers = itertools.count(1)
        self._timers: set[asyncio.TimerHandle] = set()
        self._acting: asyncio.Task[None] | None = None
        self._gone: list[Witness] = []
        self.clients = clients
        self.secrets: set[str] = set()
        self.people: list[Person] = []
        left = clients
        while left > 0:
            person = Person(f"u{len(self.people)}")
            for _ in range(min(left, rng.choice((1, 1, 1, 2, 2, DEVICES_MAX)))):
                left -= 1
                person.devices.append(self._device(person))
            self.people.append(person)
        self.names = [person.name for person in self.people]
        for person in self.people:
            others = [name for name in self.names if name != person.name]
            person.friends = rng.sample(others, min(FRIENDS, len(others)))
        for device in rng.sample(self.devices, len(self.devices) // 8):
            device.leave()

    @property
    def devices(self) -> list[Witness]:
        """Those that are not lost."""
        return [device for person in self.people for device in person.devices]

    # --- what operations use --------------------------------------------------------------------------

    def sentence(self, person: Person) -> str:
        """Something that nobody has said before."""
        return f"{person.name} says {next(self._serial)}"

    def forbidden(self, text: str) -> str:
        """*text*, noted as something that must never be stored."""
        self.secrets.add(text)
        return text

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Do it after some seconds, or when people stop coming and going."""
        handle = asyncio.get_running_loop().call_later(seconds, what)
        self._timers.add(handle)

    def replace(self, person: Person, device: Witness) -> None:
        """*device* is lost; the person gets a new one, which remembers nothing."""
        device.retire()
        self._gone.append(device)
        person.devices[person.devices.index(device)] = self._device(person)

    # --- storm and calm -------------------------------------------------------------------------------

    def act(self) -> None:
        """People begin to do things."""
        for device in self.devices:
            if not device.here and self._rng.random() < 0.5:
                device.come_back()
        self._acting = asyncio.create_task(self._act(), name="people")

    async def rest(self) -> None:
        """They stop; who is here stays here, who is away stays away."""
        if self._acting is not None:
            self._acting.cancel()
            await asyncio.gather(self._acting, return_exceptions=True)
            if not self._acting.cancelled():
                await self._acting  # its exception
            self._acting = None
        for handle in self._timers:
            handle.cancel()
        self._timers.clear()

    def everybody_in(self) -> None:
        """All devices come back, so that what they end with can be compared."""
        for device in self.devices:
            device.come_back()

    async def settled(self, seconds: float) -> list[Witness]:
        """Wait until every device that is here is connected, synced and served; those that are not in time."""
        give_up = time.monotonic() + seconds
        while True:
            waiting = [device for device in self.devices if device.here and not device.settled]
            if not waiting or time.monotonic() > give_up:
                return waiting
            await asyncio.sleep(0.05)

    def online(self) -> frozenset[str]:
        """Whose devices are connected and synced."""
        return frozenset(
            person.name for person in self.people if any(one.here and one.settled for one in person.devices)
        )

    def sessions(self) -> dict[str, int]:
        """Connected devices by shard."""
        return dict(Counter(one.shard for one in self.devices if one.here and one.settled))

    def rolls(self) -> dict[str, tuple[set[str], set[str]]]:
        """Who is online by what watching devices were told: witness -> (the users, all of whom it speaks)."""
        told: dict[str, tuple[set[str], set[str]]] = {}
        for one in self.devices:
            if not (one.here and one.settled):
                continue
            if one.watched and len(one.around) >= len(one.watched):
                there = {user for user, is_there in one.around.items() if is_there}
                told[f"{one.name} on {one.shard}"] = there, set(one.watched)
            if one.everybody is not None:
                told[f"{one.name} on {one.shard}, of all"] = set(one.everybody), set(self.names)
        return told

    def ends(self) -> list[End]:
        """Where each device stands, the lost ones too."""
        return [
            End(one.name, one.username, one.here and one.settled, dict(one.applied), dict(one.from_seq))
            for one in (*self.devices, *self._gone)
        ]

    def counts(self) -> dict[str, int]:
        """What the devices counted, added up."""
        total: dict[str, int] = {}
        for device in (*self.devices, *self._gone):
            for name, count in device.counts.items():
                total[name] = total.get(name, 0) + count
        return total

    async def close(self) -> None:
        """Everybody leaves."""
        await self.rest()
        for device in (*self.devices, *self._gone):
            await device.close()

    async def _act(self) -> None:
        weights = [operation.weight for operation in self._operations]
        while True:
            await asyncio.sleep(self._rng.expovariate(PACE * self.clients))
            operation = self._rng.choices(self._operations, weights)[0]
            operation.perform(self, self._rng.choice(self.people), self._rng)

    def _device(self, person: Person) -> Witness:
        number = next(self._numbers)
        return Witness(
            next(self._ways),
            person.name,
            f"{person.name}/{number}",
            clock=self._clock,
            patience=PATIENCE[number % 2],
            rng=Random(self._rng.random()),
            who_is_online=self._who_is_online,
        )
