"""Faults in the middle of traffic, again and again: ``python -m tests.fault.campaign --rounds 20``.

Each round: a crowd talks, one process is killed (or stopped and resumed) in mid traffic, everybody is served
again, everybody falls silent, and what was promised is checked. Prints a line for each round and a table.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.fault.crowd import Counts, Crowd
from tests.integration.system import System, SystemFailed

# `postgres` is the postmaster, or to be stopped all of PostgreSQL's processes; `backend` the session that writes;
# `keeper` our program around PostgreSQL.
KINDS = ("shard", "broker", "store", "postgres", "backend", "keeper", "supervisord")
# Whom it makes sense to treat how. PostgreSQL's own SIGTERM waits for its clients, so `keeper` stands for it.
HOWS = {
    "kill": KINDS,
    "stop": ("shard", "broker", "store", "postgres"),
    "term": ("shard", "broker", "store", "keeper"),
}
_ROLES = {"postgres": "postmaster", "keeper": "postgres"}
# A request is given up after 10 s and then tried again by its client; a lock waits up to 5 s for a stopped session.
SERVED_SECONDS = 60.0


@dataclass(frozen=True)
class Fault:
    """What is done to whom. *seconds*: how long a stop lasts."""

    kind: str
    how: str
    seconds: float = 20.0

    def __str__(self) -> str:
        return f"{self.kind} {self.how}"


class Campaign:
    """One running system and its crowd."""

    def __init__(self, system: System, *, devices: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self._system = system
        self.crowd = Crowd(system, devices=devices, rng=self._rng)

    async def round(self, fault: Fault) -> Counts:
        """Cause *fault* in mid traffic and check the promise. Raises `SystemFailed` when service does not return."""
        crowd = self.crowd
        await crowd.spread()
        crowd.talk()
        await crowd.served_since(time.monotonic(), SERVED_SECONDS)
        await asyncio.sleep(self._rng.uniform(0.0, 1.0))  # anywhere in the traffic, not behind an event of ours
        await self._cause(fault)
        await crowd.served_since(time.monotonic(), SERVED_SECONDS)
        counts = await crowd.fall_silent()
        return counts + await crowd.check()

    async def _cause(self, fault: Fault) -> None:
        system = self._system
        role = _ROLES.get(fault.kind, fault.kind)
        if fault.kind == "shard":
            role = f"shard-{self._rng.randrange(system.shards)}"
        if fault.how == "stop":
            stopped = await asyncio.to_thread(system.pause, role)
            try:
                await asyncio.sleep(fault.seconds)
            finally:
                system.resume(stopped)
            return
        old = await asyncio.to_thread(system.terminate if fault.how == "term" else system.kill, role)
        if fault.kind == "supervisord":
            await asyncio.to_thread(system.wait_up_ended)
            system.launch()  # in this thread: the server ends with the one that started it
            await asyncio.to_thread(system.wait_ready)
        else:
            await asyncio.to_thread(system.wait_replaced, role, old)


def table(results: dict[Fault, list[Counts]]) -> str:
    """All rounds of each fault in one line each; times in milliseconds."""
    head = (
        f"{'fault':<18} {'rounds':>6} {'acknowledged':>12} {'lost':>5} {'duplicated':>10} {'misordered':>10} "
        f"{'refused':>7} {'resent':>6} {'nobody served: median':>21} {'longest':>7} {'one waits: median':>17} "
        f"{'longest':>7}"
    )
    lines = [head]
    for fault, rounds in results.items():
        if not rounds:
            continue
        total = sum(rounds, Counts())
        quiet = statistics.median(one.quiet_ms for one in rounds)
        wait = statistics.median(one.wait_ms for one in rounds)
        name = f"{fault} {fault.seconds:g} s" if fault.how == "stop" else str(fault)
        lines.append(
            f"{name:<18} {len(rounds):>6} {total.acknowledged:>12} {total.lost:>5} {total.duplicated:>10} "
            f"{total.misordered:>10} {total.refused:>7} {total.resent:>6} {quiet:>21.0f} {total.quiet_ms:>7} "
            f"{wait:>17.0f} {total.wait_ms:>7}"
        )
    return "\n".join(lines)


async def run(
    system: System, faults: list[Fault], *, rounds: int, devices: int, seed: int, say: Callable[[str], None]
) -> dict[Fault, list[Counts]]:
    """*rounds* rounds of each fault on one system. Stops at the first after which service does not return."""
    results: dict[Fault, list[Counts]] = {fault: [] for fault in faults}
    campaign = Campaign(system, devices=devices, seed=seed)
    try:
        for fault in faults:
            for number in range(1, rounds + 1):
                counts = await campaign.round(fault)
                results[fault].append(counts)
                say(f"{fault!s:<18} {number:>3}/{rounds}  {counts}")
                for complaint in campaign.crowd.complaints:
                    say(f"    {complaint}")
                campaign.crowd.complaints.clear()
    except (SystemFailed, TimeoutError, OSError, psycopg.Error) as exc:
        say(f"{fault!s:<18} {number:>3}/{rounds}  FAILED: {type(exc).__name__}: {exc}")
        results[fault].append(Counts(lost=1))
    finally:
        await campaign.crowd.close()
    return results


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 if anything was lost, repeated or out of order."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault.campaign", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="of each kind [%(default)s]")
    parser.add_argument("--kind", default=",".join(KINDS), help="who is hit [%(default)s]")
    parser.add_argument("--how", default="kill,stop", help=f"of {','.join(HOWS)} [%(default)s]")
    parser.add_argument("--stop-seconds", type=float, default=20.0, help="how long a stop lasts [%(default)s]")
    parser.add_argument("--clients", type=int, default=24, help="devices in traffic [%(default)s]")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--home", type=Path, help="keep data and logs here, in place of a directory that is removed")
    options = parser.parse_args(arguments)
    kinds, hows = options.kind.split(","), options.how.split(",")
    if unknown := {*kinds} - {*KINDS} | {*hows} - HOWS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    faults = [Fault(kind, how, options.stop_seconds) for how in hows for kind in kinds if kind in HOWS[how]]
    with tempfile.TemporaryDirectory(prefix="hubbub-fault-") as temporary:
        system = System(options.home or Path(temporary), shards=options.shards)
        try:
            system.start()
            results = asyncio.run(
                run(
                    system,
                    faults,
                    rounds=options.rounds,
                    devices=options.clients,
                    seed=options.seed,
                    say=lambda line: print(line, flush=True),
                )
            )
        finally:
            system.stop()
    print(table(results))
    return 0 if all(counts.kept for rounds in results.values() for counts in rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
