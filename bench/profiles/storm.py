"""*storm*: everybody comes back at once, without any pause, after a broker's and after a shard's death."""

import asyncio
from time import perf_counter

from bench.profiles import faults
from bench.profiles.crowd import SETTLE_SECONDS, Traffic, until
from bench.profiles.outcome import Outcome, milliseconds
from bench.profiles.scene import Act, Scene

_PAUSE = 3.0


async def run(scene: Scene) -> Outcome:
    """Kill -9 the broker and cut everybody; kill -9 a shard. The bound is on the time until all are synced."""
    async with scene.crowd() as act:
        crowd = act.crowd
        for device in crowd.devices:
            device.eager = True  # the worst client there is: no backoff before its first attempt
        crowd.talk(Traffic(lobby=2, direct=scene.clients / 20))
        await asyncio.sleep(1.0)
        figures: dict[str, float] = {}
        for role in ("broker", "shard-0"):
            figures |= await _storm(act, role)
            await asyncio.sleep(0.5 if scene.tiny else _PAUSE)
        return await act.end(figures, {f"{role}: all synced after s": 15.0 for role in ("broker", "shard-0")})


async def _storm(act: Act, role: str) -> dict[str, float]:
    scene, crowd = act.scene, act.crowd
    crowd.meter.replays.clear()
    opened = len(crowd.meter.opened)
    hit = [device for device in crowd.devices if role == "broker" or device.shard == role]
    scene.say(f"{role} is killed; {len(hit)} clients come back")
    began = perf_counter()
    old = faults.kill(scene.server, role)
    if role == "broker":  # which holds no client's connection: with it goes, say, the proxy in front
        for device in hit:
            device.cut(0.0)
    await until(
        lambda: len(crowd.meter.replays) >= len(hit) and crowd.live == len(crowd.devices), SETTLE_SECONDS, "back"
    )
    seconds = perf_counter() - began
    await asyncio.to_thread(faults.wait_replaced, scene.server, role, old)
    replays = [one.seconds for one in crowd.meter.replays]
    times = sorted(crowd.meter.opened[opened:])
    peak = max(sum(at <= one < at + 1 for one in times) for at in times[:: max(1, len(times) // 100)])
    return {
        f"{role}: clients": len(hit),
        f"{role}: all synced after s": seconds,
        f"{role}: replay p50 ms": milliseconds(replays, 500),
        f"{role}: replay p99 ms": milliseconds(replays, 990),
        f"{role}: peak connects in a second": peak,
        f"{role}: attempts": sum(one.attempts for one in crowd.meter.replays),
    }
