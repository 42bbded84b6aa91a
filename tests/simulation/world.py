"""Time, chance and processes: one heap of events, one random generator, nodes that can stop and die."""

import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

WALL = 1_700_000_000.0


class Crash(Exception):
    """A step of a node raised: the process would have ended with this."""


class World:
    """The virtual clock and everything that is to happen. `now` in seconds.

    *trace*, if given, is called with each line of the history's timeline.
    """

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.steps = 0
        self.lag = 0.3  # seconds of the rare long delay
        self.tracing = trace is not None
        self._trace = trace
        self._heap: list[tuple[float, int, Node | None, int, Callable[..., None], tuple[Any, ...]]] = []
        self._no = 0

    def wall(self) -> float:
        """Unix seconds."""
        return WALL + self.now

    def log(self, who: str, text: str) -> None:
        """A line of the timeline; guard the call with `tracing` where it is hot."""
        if self._trace is not None:
            self._trace(f"{self.now:9.4f}  {who:<10} {text}")

    def delay(self) -> float:
        """How long a message or a piece of work takes: mostly little, rarely long."""
        r = self.rng.random()
        if r < 0.86:
            return 0.0002 + 0.003 * r
        if r < 0.97:
            return 0.04 * self.rng.random()
        return self.lag * self.rng.random()

    def push(self, at: float, node: "Node | None", fn: Callable[..., None], *args: Any) -> None:
        """Call *fn* at *at*, on *node* unless it has died meanwhile; a stopped one does it later."""
        self._no += 1
        heappush(self._heap, (at, self._no, node, node.life if node is not None else 0, fn, args))

    def run(self, until: float) -> None:
        """Let everything happen up to *until*."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            at, _, node, life, fn, args = heappop(heap)
            self.now = at
            if node is not None:
                if node.life != life or not node.alive:
                    continue
                if node.stopped:
                    node.backlog.append((fn, args))
                    continue
            self.steps += 1
            try:
                fn(*args)
            except Crash:
                raise
            except Exception as exc:
                raise Crash(f"{node.name if node else 'world'}: {type(exc).__name__}: {exc}") from exc
        self.now = until


class Node:
    """A process. `life` counts its starts and deaths, so that nothing meant for one life reaches the next."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.life = 0
        self.alive = False
        self.stopped = False
        self.backlog: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def after(self, delay: float, fn: Callable[..., None], *args: Any) -> None:
        """Call *fn* in this life, *delay* seconds from now."""
        self.world.push(self.world.now + delay, self, fn, *args)

    def start(self) -> None:
        """Begin a life, if it has none."""
        if not self.alive:
            self.life += 1
            self.alive = True
            self.stopped = False
            self.world.log(self.name, f"starts, life {self.life}")
            self.born()

    def kill(self) -> None:
        """kill -9."""
        if self.alive:
            self.world.log(self.name, "KILLED")
            self.alive = False
            self.stopped = False
            self.life += 1
            self.backlog.clear()
            self.died()

    def stop(self) -> None:
        """SIGSTOP: whatever is to happen here piles up."""
        if self.alive and not self.stopped:
            self.world.log(self.name, "STOPPED")
            self.stopped = True

    def resume(self) -> None:
        """SIGCONT. What has piled up happens in any order; channels keep their own."""
        if not self.stopped:
            return
        self.world.log(self.name, f"resumes with {len(self.backlog)} events")
        self.stopped = False
        backlog, self.backlog = self.backlog, []
        if self.world.rng.random() < 0.5:
            self.world.rng.shuffle(backlog)
        for i, (fn, args) in enumerate(backlog):
            self.after(1e-5 * i, fn, *args)

    def born(self) -> None:
        """A life begins."""

    def died(self) -> None:
        """A life has ended; nothing of it may act any more."""
