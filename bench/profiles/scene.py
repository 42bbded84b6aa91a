"""What every profile is given, and how each one ends."""

import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench.profiles.crowd import Crowd, gathered
from bench.profiles.observer import GAUGES, Observer
from bench.profiles.outcome import Outcome, outcome
from bench.server import Server


@dataclass
class Scene:
    """A running system, and how much is to be done to it. *seconds*: of the profile's main part.

    *tiny*: a size that shows that all of it works, on a machine that may be busy: bounds on the promise alone.
    """

    name: str
    server: Server
    clients: int
    seconds: float
    seed: int
    tiny: bool = False

    def say(self, text: str) -> None:
        """Tell the person who waits."""
        print(f"[{self.name}] {text}", file=sys.stderr, flush=True)

    @asynccontextmanager
    async def crowd(self) -> AsyncIterator["Act"]:
        """A crowd that has come together, watched."""
        self.say(f"{self.clients} clients connect")
        async with gathered(self.server, self.clients, seed=self.seed) as crowd:
            observer = Observer(self.server)
            act = Act(self, crowd, observer, random.Random(self.seed))
            try:
                yield act
            finally:
                await observer.stop()


@dataclass
class Act:
    """A profile at work."""

    scene: Scene
    crowd: Crowd
    observer: Observer
    rng: random.Random

    async def end(self, figures: dict[str, float], bounds: dict[str, float]) -> Outcome:
        """Let everything come to rest, compare with the table, and sum up. Raises `NotSettled`."""
        crowd, observer = self.crowd, self.observer
        crowd.fall_silent()
        use = await observer.stop()
        self.scene.say("silence; waiting until everybody has everything")
        figures = {**figures, "settled after s": await crowd.settle()}
        await crowd.check()
        found = outcome(self.scene.name, crowd, figures, {} if self.scene.tiny else bounds)
        found.use = {
            **use,
            **{f"MiB {role}": round(size, 1) for role, size in observer.rss_peak_mib.items()},
            **{f"longest {name}": observer.peaks[name] for name in GAUGES},
        }
        return found
