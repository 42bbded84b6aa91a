"""*deploy*: a rolling restart of all shards, one after the other as docs/operations.md says, under a talking crowd."""

import asyncio
from time import perf_counter

from bench.profiles import faults
from bench.profiles.crowd import SETTLE_SECONDS, Crowd, Traffic, until
from bench.profiles.outcome import Outcome, milliseconds
from bench.profiles.scene import Scene

QUIET_SECONDS = 8.0
# Between two shards: what the first one's clients do must be over.
_PAUSE = 3.0


async def run(scene: Scene) -> Outcome:
    """Restart each shard once. Bounds: what those see who stay where they are, and how long the others are away."""
    async with scene.crowd() as act:
        crowd = act.crowd
        crowd.talk(Traffic(lobby=5, direct=scene.clients / 10))
        quiet: list[float] = []
        crowd.time(quiet)
        await asyncio.sleep(1.0 if scene.tiny else QUIET_SECONDS)
        stay: list[float] = []
        restarts: list[float] = []
        began = perf_counter()
        for number in range(scene.server.shards):
            name = f"shard-{number}"
            scene.say(f"{name} restarts; {sum(device.shard == name for device in crowd.devices)} clients are on it")
            _time_those_who_stay(crowd, name, stay)
            at = perf_counter()
            await asyncio.to_thread(faults.supervisorctl, scene.server, "restart", f"shard:{name}")
            await until(lambda: crowd.live == len(crowd.devices), SETTLE_SECONDS, "back")
            restarts.append(perf_counter() - at)
            await asyncio.sleep(0.5 if scene.tiny else _PAUSE)
        crowd.time(None)
        away = [one.seconds for one in crowd.meter.replays]
        back = [0] * (int(perf_counter() - began) + 1)
        for moment in crowd.meter.opened:
            if moment >= began:
                back[int(moment - began)] += 1
        found = await act.end(
            {
                "restart to all back max s": max(restarts),
                "peak reconnects in a second": max(back),
                "reconnect p50 ms": milliseconds(away, 500),
                "reconnect p99 ms": milliseconds(away, 990),
                "reconnect max ms": milliseconds(away, 1000),
                "quiet delivery p99 ms": milliseconds(quiet, 990),
                "stayed delivery p50 ms": milliseconds(stay, 500),
                "stayed delivery p99 ms": milliseconds(stay, 990),
                "stayed delivery max ms": milliseconds(stay, 1000),
            },
            {"stayed delivery p99 ms": 1000.0, "reconnect p99 ms": 2000.0},
        )
        found.series["reconnects by second"] = back
        return found


def _time_those_who_stay(crowd: Crowd, restarting: str, into: list[float]) -> None:
    for device in crowd.timed:
        device.deliveries = into if device.shard != restarting else None
