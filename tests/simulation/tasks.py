"""Runs the product's own coroutines (writer, readers, cursor writer) on the virtual clock.

`Asyncio` and `Time` stand in for the modules of that name inside the store's adapters, so that these
are simulated as they are, not modelled.
"""

from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any

from tests.simulation.world import WALL, Node, World


class Killed(BaseException):
    """Thrown into the coroutines of a process that was killed, so that they end."""


class Wait:
    """What a coroutine awaits: *begin* is told the task and how to wake it (a number that goes stale)."""

    __slots__ = ("begin",)

    def __init__(self, begin: Callable[["Task", int], None]) -> None:
        self.begin = begin

    def __await__(self) -> Generator["Wait", Any, Any]:
        return (yield self)


class Task:
    """A coroutine of a node. Each suspension has a number; a wake-up with an older one is ignored."""

    current: "Task | None" = None

    def __init__(self, node: Node, coro: Coroutine[Any, Any, Any]) -> None:
        self.node = node
        self.no = 0
        self.done = False
        self._coro = coro

    def wake(self, no: int, value: Any = None, error: BaseException | None = None) -> None:
        """Go on from suspension *no*."""
        if no != self.no or self.done:
            return
        self.no += 1
        Task.current = self
        try:
            wait = self._coro.send(value) if error is None else self._coro.throw(error)
        except (StopIteration, Killed):
            self.done = True
            return
        finally:
            Task.current = None
        wait.begin(self, self.no)

    def kill(self) -> None:
        """The process is gone."""
        if not self.done:
            self.done = True
            try:
                self._coro.throw(Killed())
            except (Killed, StopIteration):
                pass


class _Event:
    def __init__(self) -> None:
        self._set = False
        self._waiting: list[tuple[Task, int]] = []

    def is_set(self) -> bool:
        return self._set

    def clear(self) -> None:
        self._set = False

    def set(self) -> None:
        if not self._set:
            self._set = True
            waiting, self._waiting = self._waiting, []
            for task, no in waiting:
                task.node.after(0.0, task.wake, no)

    async def wait(self) -> bool:
        if not self._set:
            await Wait(lambda task, no: self._waiting.append((task, no)))
        return True


class _Timeout:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._open = False

    async def __aenter__(self) -> None:
        task = Task.current
        assert task is not None
        self._open = True
        task.node.after(self._seconds, self._expire, task)

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False

    def _expire(self, task: Task) -> None:
        if self._open:
            self._open = False
            task.wake(task.no, error=TimeoutError())


class Asyncio:
    """`asyncio` as the store's adapters use it."""

    Event = _Event
    timeout = _Timeout

    @staticmethod
    async def sleep(seconds: float) -> None:
        await Wait(lambda task, no: task.node.after(seconds, task.wake, no))


class Time:
    """`time` as the store's adapters use it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def monotonic(self) -> float:
        return self._world.now

    perf_counter = monotonic

    def time(self) -> float:
        return WALL + self._world.now
