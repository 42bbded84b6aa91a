"""Who breaks things: a schedule of strokes from a seed, and what each of them does to the real system."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psycopg

from tests.fault.torture import record
from tests.fault.torture.devices import Clock
from tests.fault.torture.disk import Disk
from tests.fault.torture.proxy import FAULTS, Proxy
from tests.integration.system import System

# ``(verb, target, weight)``. `postmaster` is PostgreSQL's first process (stopped with all of its processes), `backend`
# the session that writes, `keeper` our program around PostgreSQL.
Menu = tuple[tuple[str, str, int], ...]
MENU: Menu = (
    *(("kill", target, weight) for target, weight in (("shard", 3), ("broker", 3), ("store", 3), ("backend", 2))),
    *(("kill", target, 1) for target in ("postmaster", "keeper", "supervisord")),
    *(("stop", target, 2) for target in ("shard", "broker", "store")),
    *(("stop", target, 1) for target in ("postmaster", "backend", "keeper", "supervisord")),
    *(("term", target, 1) for target in ("shard", "broker", "store", "keeper", "backend")),
    *((verb, gate, 1) for gate in ("clients", "bus", "database") for verb in FAULTS),
    ("clock", "store", 2),
    ("fill", "disk", 1),
)
LASTS = {"stop": (0.2, 10.0), "fill": (2.0, 6.0), "clock": (1.0, 8.0)}  # seconds; everything else:
PROXIED = (0.5, 6.0)
BYTES = {"clients": (500.0, 20_000.0), "bus": (20_000.0, 200_000.0), "database": (20_000.0, 200_000.0)}
DELAYS = (0.01, 0.4)
STEPS = (-86_400.0, -60.0, -1.5, 3.0)  # seconds that the store's clock is off
# The programs' names in System, where they differ.
_ROLES = {"keeper": "postgres"}


@dataclass(frozen=True)
class Stroke:
    """One fault: *verb* is done to *target* at *at* (seconds into the storm) for *seconds*."""

    at: float
    verb: str
    target: str
    seconds: float
    amount: float
    share: float

    @property
    def kind(self) -> str:
        """What it is counted as."""
        return f"{self.verb} {self.target.partition('-')[0]}"


def deal(rng: Random, menu: Menu) -> Iterator[tuple[str, str]]:
    """``(verb, target)`` for ever: everything on the menu once, then what has more weight again, and so on."""
    while True:
        for copy in range(max(weight for *_, weight in menu)):
            round_of = [(verb, target) for verb, target, weight in menu if weight > copy]
            rng.shuffle(round_of)
            yield from round_of


def schedule(
    rng: Random, cards: Iterator[tuple[str, str]], *, seconds: float, every: float, shards: int
) -> list[Stroke]:
    """A storm of *seconds*, with one of *cards* every *every* seconds on average. Strokes overlap as they come."""
    strokes: list[Stroke] = []
    at = rng.expovariate(1 / every)
    while at < seconds:
        verb, target = next(cards)
        low, high = LASTS.get(verb, PROXIED)
        lasts = min(rng.uniform(low, high), max(0.2, seconds - at))
        amount = 0.0
        if verb == "delay":
            amount = rng.uniform(*DELAYS)
        elif verb == "throttle":
            amount = rng.uniform(*BYTES[target])
        elif verb == "clock":
            amount = rng.choice(STEPS)
        if target == "shard":
            target = f"shard-{rng.randrange(shards)}"
        strokes.append(Stroke(at, verb, target, lasts, amount, rng.choice((0.1, 0.3, 1.0))))
        at += rng.expovariate(1 / every)
    return strokes


class Nemesis:
    """Carries strokes out. A stroke whose target is not there just then is counted as missed."""

    def __init__(self, system: System, proxy: Proxy, *, clock_file: Path, disk: Disk | None, clock: Clock) -> None:
        self._system = system
        self._proxy = proxy
        self._clock_file = clock_file
        self._disk = disk
        self._clock = clock
        self._stopped: set[int] = set()
        self.counts: Counter[str] = Counter()
        self.hit = 0  # connections cut

    async def storm(self, strokes: Sequence[Stroke], seconds: float) -> None:
        """Carry out *strokes*; return after *seconds*, with all faults withdrawn."""
        tasks = [asyncio.create_task(self._carry_out(stroke), name=stroke.kind) for stroke in strokes]
        await asyncio.sleep(seconds)
        await asyncio.gather(*tasks)
        await self.heal()

    async def heal(self) -> None:
        """End whatever lasts."""
        for pid in self._stopped:
            self._signal(pid, signal.SIGCONT)
        self._stopped.clear()
        await self._proxy.heal()
        if self._disk is not None:
            self._disk.free()

    async def _carry_out(self, stroke: Stroke) -> None:
        await asyncio.sleep(stroke.at)
        begun = self._clock.now()
        try:
            what = await self._strike(stroke)
        except (OSError, RuntimeError, IndexError, ValueError, psycopg.Error) as exc:
            self.counts["missed"] += 1
            self._clock.write(record.Blow, "missed", f"{stroke.kind}: {exc}".splitlines()[0])
            return
        self.counts[stroke.kind] += 1
        took = self._clock.now() - begun
        lasted = f", over after {took:.1f} s" if took > 0.1 else ""
        self._clock.write(record.Blow, stroke.kind, what + lasted)

    async def _strike(self, stroke: Stroke) -> str:
        match stroke.verb:
            case "kill" | "term":
                return await self._end(stroke)
            case "stop":
                return await self._stop(stroke)
            case "clock":
                self._clock_file.write_text(f"{stroke.amount}")
                return f"the store's clock is off by {stroke.amount:g} s"
            case "fill":
                return await self._fill(stroke)
            case _:
                return await self._disturb(stroke)

    async def _end(self, stroke: Stroke) -> str:
        pid = await asyncio.to_thread(self._pids, stroke.target, alone=True)
        number = signal.SIGKILL if stroke.verb == "kill" else signal.SIGTERM
        self._signal(pid[0], number)
        return f"{number.name} to {stroke.target} (pid {pid[0]})"

    async def _stop(self, stroke: Stroke) -> str:
        pids = await asyncio.to_thread(self._pids, stroke.target, alone=False)
        self._clock.write(record.Blow, "begins", f"stop {stroke.target} (pids {pids}) for {stroke.seconds:.1f} s")
        for pid in pids:
            self._signal(pid, signal.SIGSTOP)
        self._stopped.update(pids)
        await asyncio.sleep(stroke.seconds)
        for pid in pids:
            self._signal(pid, signal.SIGCONT)
        self._stopped.difference_update(pids)
        return f"{stroke.target} was stopped"

    async def _fill(self, stroke: Stroke) -> str:
        if self._disk is None:
            raise RuntimeError("the disk cannot be filled here")
        left = self._disk.fill()
        self._clock.write(record.Blow, "begins", f"fill disk ({left >> 20} MB) for {stroke.seconds:.1f} s")
        try:
            await asyncio.sleep(stroke.seconds)
        finally:
            self._disk.free()
        return "the disk was full"

    async def _disturb(self, stroke: Stroke) -> str:
        count = await self._proxy.fault(stroke.target, stroke.verb, share=stroke.share, amount=stroke.amount)
        if stroke.verb == "cut":
            self.hit += count
            return f"{count} connections of {stroke.target} were cut"
        text = f"{stroke.verb} {count} connections of {stroke.target} ({stroke.amount:.3g})"
        self._clock.write(record.Blow, "begins", f"{text} for {stroke.seconds:.1f} s")
        await asyncio.sleep(stroke.seconds)
        await self._proxy.heal(stroke.target)
        return text

    def _pids(self, target: str, *, alone: bool) -> list[int]:
        role = _ROLES.get(target, target)
        pids = [self._system.pid(role)] if alone else self._system.pids(role)
        family = self._system.family()
        ours = [pid for pid in pids if pid in family]
        if not ours:
            raise RuntimeError(f"no process is {target} just now")
        return ours

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
