"""*database-hung* and *database-down*: PostgreSQL is away for a minute, stopped by SIGSTOP or by the operator."""

import asyncio
from contextlib import AbstractContextManager
from time import perf_counter

from bench.profiles import faults
from bench.profiles.crowd import SETTLE_SECONDS, Crowd, Traffic, until
from bench.profiles.outcome import Outcome
from bench.profiles.prober import Prober
from bench.profiles.scene import Act, Scene

# So many unanswered requests a shard keeps in one of the two, a tenth of its default: it has to say `overloaded`.
SMALL = {"HUBBUB_LIMIT_PENDING": "2000"}
# What the server had committed before it lost its database may still be acknowledged.
_LATE_ACK = 1.0
_REFUSALS = {("unavailable", "unknown"), ("overloaded", "no")}
Away = AbstractContextManager[None]


async def run_hung(scene: Scene) -> Outcome:
    """All of PostgreSQL's processes stop in the middle of what they do, and go on later."""
    return await _run(scene, faults.stopped(scene.server, "postgres"))


async def run_down(scene: Scene) -> Outcome:
    """PostgreSQL is shut down and started again."""
    return await _run(scene, faults.down(scene.server, "postgres"))


async def _run(scene: Scene, away: Away) -> Outcome:
    async with scene.crowd() as act:
        crowd = act.crowd
        prober = Prober(scene.server)
        await prober.connect()
        crowd.talk(Traffic(lobby=1, direct=scene.clients / 25))
        await asyncio.sleep(1.0)
        await until(lambda: bool(act.observer.rss_mib), SETTLE_SECONDS, "observed")
        before = dict(act.observer.rss_mib)
        prober.begin()
        scene.say(f"PostgreSQL is away for {scene.seconds:g} s")
        await asyncio.to_thread(away.__enter__)
        began = perf_counter()
        try:
            acknowledged = await _endure(act, scene.seconds)
        finally:
            await asyncio.to_thread(away.__exit__, None, None, None)
        back = perf_counter()
        scene.say("PostgreSQL is back")
        waiting = sum(len(device.core.pending) for device in crowd.devices)
        served = await _served(crowd)
        await prober.end()
        found = await act.end(
            {
                "away s": back - began,
                "acknowledged meanwhile": acknowledged,
                "waiting at the return": waiting,
                "served again after s": served - back,
                **{f"probes {what}": count for what, count in prober.count().items()},
                **{
                    f"{role} grew MiB": size - before.get(role, size)
                    for role, size in act.observer.rss_peak_mib.items()
                    if role in ("broker", "store") or role.startswith("shard-")
                },
            },
            {"served again after s": 10.0, "acknowledged meanwhile": 0.0},
        )
        for text in await prober.check():
            crowd.ledger.complain("false answer", text)
        for refusal in (crowd.meter.refused + prober.refused).keys() - _REFUSALS:
            crowd.ledger.complain("refused", f"sends were refused with {refusal}")
        found.problems = dict(+crowd.ledger.problems)
        return found


async def _endure(act: Act, seconds: float) -> int:
    """Until the time is over; a tenth of the crowd loses its connection meanwhile. How many sends were acknowledged."""
    crowd = act.crowd
    await asyncio.sleep(_LATE_ACK)
    before = len(crowd.ledger.acknowledged)
    await asyncio.sleep((seconds - _LATE_ACK) / 3)
    for device in act.rng.sample(crowd.devices, len(crowd.devices) // 10):
        device.cut(1.0)
    await asyncio.sleep((seconds - _LATE_ACK) * 2 / 3)
    return len(crowd.ledger.acknowledged) - before


async def _served(crowd: Crowd) -> float:
    """Wait until everybody is synced and all that was said before now is acknowledged; when that was."""
    now = perf_counter()
    sent = crowd.ledger.sent

    def served() -> bool:
        return all(device.live and all(sent[key] > now for key in device.core.pending) for device in crowd.devices)

    await until(served, SETTLE_SECONDS, "served again", every=0.1)
    return perf_counter()
