"""*jitter*: every client's TCP connection breaks every quarter of a minute for two seconds, while messages flow."""

import asyncio
from time import perf_counter

from bench.profiles.crowd import Traffic
from bench.profiles.outcome import Outcome, milliseconds
from bench.profiles.scene import Act, Scene

CUT_EVERY = 15.0
AWAY = (1.0, 3.0)
_STEP = 0.02


async def run(scene: Scene) -> Outcome:
    """Cut, come back, replay. The bound is on the replay: from the reconnect's begin to the last missed message."""
    async with scene.crowd() as act:
        crowd = act.crowd
        traffic = Traffic(lobby=5, direct=scene.clients / 10)
        crowd.talk(traffic)
        crowd.time(crowd.deliveries, crowd.acks)
        scene.say(f"{traffic.lobby:g} messages a second to the lobby, {traffic.direct:g} to one; {scene.seconds:g} s")
        cuts = await _cut(act, scene.seconds, 2.0 if scene.tiny else CUT_EVERY)
        replays = [one.seconds for one in crowd.meter.replays]
        return await act.end(
            {
                "cuts": cuts,
                "missed while away": sum(one.missed for one in crowd.meter.replays),
                "replay p50 ms": milliseconds(replays, 500),
                "replay p99 ms": milliseconds(replays, 990),
                "replay max ms": milliseconds(replays, 1000),
                "delivery p50 ms": milliseconds(crowd.deliveries, 500),
                "delivery p99 ms": milliseconds(crowd.deliveries, 990),
                "ack p99 ms": milliseconds(crowd.acks, 990),
            },
            {"replay p99 ms": 1000.0},
        )


async def _cut(act: Act, seconds: float, every: float) -> int:
    """Cut live devices at random, each every so often in the mean; how many were."""
    crowd, rng = act.crowd, act.rng
    began = perf_counter()
    due = len(crowd.devices) / every
    cuts = 0
    while (passed := perf_counter() - began) < seconds:
        while cuts < passed * due:
            cuts += 1
            device = rng.choice(crowd.devices)
            if device.live:
                device.cut(rng.uniform(*AWAY))
        await asyncio.sleep(_STEP)
    return cuts
