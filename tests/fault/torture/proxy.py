"""A proxy that breaks connections: ``python -m tests.fault.torture.proxy``, a process of its own.

It reads one JSON object a line from its standard input and answers each with one: ``{"do": "open", "gate": "bus",
"listen": …, "target": …}`` with addresses like ``127.0.0.1:8000`` or ``/path/to.sock``, then faults (see `Gate`) and
``{"do": "heal"}``. It ends with its standard input. `Proxy` is the other end of that.
"""

import asyncio
import json
import os
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import uvloop

from tests.integration.system import ROOT

CHUNK = 64 * 1024


class _Half(asyncio.Protocol):
    """One side of a pipe: what comes in here goes out at `other`, after what the gate does to it."""

    def __init__(self, pipe: "_Pipe") -> None:
        self.pipe = pipe
        self.transport: asyncio.Transport | None = None
        self.other: _Half | None = None
        self._early: list[bytes] = []  # to be written here as soon as there is a connection
        self._queue: asyncio.Queue[bytes] | None = None
        self._pump: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by name
        for data in self._early:
            self.transport.write(data)
        self._early.clear()
        self.pipe.made(self)

    def data_received(self, data: bytes) -> None:
        if self.pipe.deaf:
            return
        if self._queue is None and not self.pipe.gate.slowed:
            self.forward(data)
            return
        # Once slowed, always in line: what comes later must not overtake.
        if self._queue is None:
            self._queue = asyncio.Queue()
            self._pump = asyncio.get_running_loop().create_task(self._slowly(self._queue))
        self._queue.put_nowait(data)

    def forward(self, data: bytes) -> None:
        """Out at the other side."""
        if self.other is not None:
            self.other.write(data)

    def write(self, data: bytes) -> None:
        """Out here."""
        if self.transport is not None:
            self.transport.write(data)
        else:
            self._early.append(data)

    async def _slowly(self, queue: "asyncio.Queue[bytes]") -> None:
        while True:
            data = await queue.get()
            await self.pipe.gate.passage(len(data))
            self.forward(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._pump is not None:
            self._pump.cancel()
        self.pipe.lost(self)

    def abort(self) -> None:
        """Reset it."""
        if self.transport is not None:
            self.transport.abort()


class _Pipe:
    """One connection through a gate. *deaf*: one side is gone, and the other is not told."""

    def __init__(self, gate: "Gate") -> None:
        self.gate = gate
        self.near, self.far = _Half(self), _Half(self)
        self.near.other, self.far.other = self.far, self.near
        self.deaf = False
        self._opening: asyncio.Task[None] | None = None

    def made(self, half: _Half) -> None:
        """A side is connected."""
        if half is self.near:
            self.gate.pipes.add(self)
            self._opening = asyncio.get_running_loop().create_task(self._reach())
        elif self.near.transport is None:
            self.end()  # it has gone meanwhile

    async def _reach(self) -> None:
        try:
            await self.gate.connect(lambda: self.far)
        except OSError:
            self.end()

    def lost(self, half: _Half) -> None:
        """A side is gone."""
        half.transport = None
        if not self.deaf:
            self.end()
        elif self.near.transport is None and self.far.transport is None:
            self.gate.pipes.discard(self)

    def end(self) -> None:
        """Both sides are reset."""
        self.deaf = False
        self.near.abort()
        self.far.abort()
        self.gate.pipes.discard(self)


class Gate:
    """One way in. Its faults: `cut`, `delay`, `throttle`, `stall`, `half_open`, `ghost`."""

    def __init__(self, listen: str, target: str) -> None:
        self._listen = listen
        self._target = target
        self.pipes: set[_Pipe] = set()
        self._delay = 0.0  # seconds that each chunk waits
        self._rate = 0.0  # bytes a second; 0: any
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None  # kept: uvloop closes one that nobody holds

    @property
    def slowed(self) -> bool:
        """Whether bytes do not just pass."""
        return bool(self._delay or self._rate) or not self._open.is_set()

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        if self._listen.startswith("/"):
            with suppress(FileNotFoundError):
                os.unlink(self._listen)
            self._server = await loop.create_unix_server(lambda: _Pipe(self).near, self._listen)
        else:
            host, port = self._listen.split(":")
            self._server = await loop.create_server(lambda: _Pipe(self).near, host, int(port), backlog=4096)

    async def connect(self, make: Callable[[], _Half]) -> None:
        """Reach the target. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        if self._target.startswith("/"):
            await loop.create_unix_connection(make, self._target)
        else:
            host, port = self._target.split(":")
            await loop.create_connection(make, host, int(port))

    async def passage(self, size: int) -> None:
        """Wait as long as *size* bytes take now."""
        await self._open.wait()
        if self._delay:
            await asyncio.sleep(self._delay)
        if self._rate:
            await asyncio.sleep(size / self._rate)

    def cut(self, share: float, amount: float) -> int:
        """Reset a share of the connections; how many."""
        chosen = self._some(share)
        for pipe in chosen:
            pipe.end()
        return len(chosen)

    def delay(self, share: float, amount: float) -> int:
        """From now on each chunk waits *amount* seconds."""
        self._delay = amount
        return len(self.pipes)

    def throttle(self, share: float, amount: float) -> int:
        """From now on *amount* bytes a second pass in each direction of each connection."""
        self._rate = amount
        return len(self.pipes)

    def stall(self, share: float, amount: float) -> int:
        """From now on nothing passes, and nothing is lost."""
        self._open.clear()
        return len(self.pipes)

    def half_open(self, share: float, amount: float) -> int:
        """The far side of a share of the connections is reset, and the near side is not told until `heal`."""
        return self._deafen(self._some(share), lambda pipe: pipe.far)

    def ghost(self, share: float, amount: float) -> int:
        """The near side of a share of the connections is reset, and the far side is not told until `heal`."""
        return self._deafen(self._some(share), lambda pipe: pipe.near)

    def heal(self) -> int:
        """Everything passes again; connections of which one side is gone end."""
        self._delay = self._rate = 0.0
        self._open.set()
        for pipe in list(self.pipes):
            if pipe.deaf:
                pipe.end()
        return len(self.pipes)

    def _deafen(self, pipes: list[_Pipe], side: Callable[[_Pipe], _Half]) -> int:
        for pipe in pipes:
            pipe.deaf = True
            side(pipe).abort()
        return len(pipes)

    def _some(self, share: float) -> list[_Pipe]:
        pipes = [pipe for pipe in self.pipes if pipe.far.transport is not None]
        count = round(len(pipes) * share) or min(1, len(pipes))
        return random.sample(pipes, count)


FAULTS = ("cut", "delay", "throttle", "stall", "half_open", "ghost")


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    gates: dict[str, Gate] = {}
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        if order["do"] == "open":
            gate = gates[order["gate"]] = Gate(order["listen"], order["target"])
            await gate.start()
            count = 0
        elif order["do"] == "heal":
            count = sum(gate.heal() for name, gate in gates.items() if order["gate"] in ("", name))
        else:
            count = getattr(gates[order["gate"]], order["do"])(order["share"], order["amount"])
        print(json.dumps({"count": count}), flush=True)


class Proxy:
    """The proxy's process, from outside. `close` ends it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    @classmethod
    async def start(cls) -> "Proxy":
        """Start it."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                __name__,
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        )

    async def open(self, gate: str, listen: str | Path, target: str | Path) -> None:
        """Let *gate* listen."""
        await self._order(do="open", gate=gate, listen=str(listen), target=str(target))

    async def fault(self, gate: str, do: str, *, share: float = 1.0, amount: float = 0.0) -> int:
        """Cause one of `FAULTS` at *gate*; how many connections it hit."""
        return await self._order(do=do, gate=gate, share=share, amount=amount)

    async def heal(self, gate: str = "") -> None:
        """End the faults of *gate*, or all."""
        await self._order(do="heal", gate=gate)

    async def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def _order(self, **order: Any) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        async with self._turn:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the fault proxy has ended")
        return int(json.loads(line)["count"])


if __name__ == "__main__":
    uvloop.run(_serve())
