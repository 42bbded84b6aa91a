"""The nemesis: a seed is a schedule, and the proxy does what its faults say."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest_asyncio

from tests.fault.torture.nemesis import MENU, Stroke, deal, schedule
from tests.fault.torture.proxy import Proxy

SECONDS = 10.0  # far more than any of it takes


def strokes(seed: int, seconds: float, *, every: float = 1.0) -> list[Stroke]:
    """The storm of a seed."""
    rng = Random(seed)
    return schedule(rng, deal(rng, MENU), seconds=seconds, every=every, shards=2)


def test_a_seed_is_a_schedule() -> None:
    assert strokes(1, 30) == strokes(1, 30) != strokes(2, 30)


def test_everything_is_dealt_before_anything_comes_again() -> None:
    cards = deal(Random(1), MENU)
    first = [next(cards) for _ in MENU]
    assert sorted(first) == sorted((verb, target) for verb, target, _ in MENU)
    rest = Counter(next(cards) for _ in range(sum(weight for *_, weight in MENU) - len(MENU)))
    assert rest == {(verb, target): weight - 1 for verb, target, weight in MENU if weight > 1}


def test_strokes_end_with_the_storm() -> None:
    found = strokes(1, 500)
    assert {one.target for one in found} > {"shard-0", "shard-1"}
    assert all(0 < one.at < 500 and one.at + one.seconds <= 500.3 for one in found)


class Line:
    """A connection to an echo by way of the proxy's gate."""

    def __init__(self, proxy: Proxy, where: Path, ended: asyncio.Event) -> None:
        self.proxy = proxy
        self.ended = ended  # the far side's connection
        self._where = where

    async def connect(self) -> None:
        """A new connection."""
        self.reader, self.writer = await asyncio.open_unix_connection(self._where)

    async def echo(self) -> float | None:
        """Seconds that a word took there and back; None: the connection is gone."""
        began = asyncio.get_running_loop().time()
        try:
            self.writer.write(b"word")
            async with asyncio.timeout(SECONDS):
                heard = await self.reader.readexactly(4)
        except (ConnectionError, asyncio.IncompleteReadError):
            return None
        assert heard == b"word"
        return asyncio.get_running_loop().time() - began

    async def silent(self) -> bool:
        """Whether a word that is said now is not answered soon."""
        self.writer.write(b"word")
        try:
            async with asyncio.timeout(0.3):
                await self.reader.readexactly(4)
        except TimeoutError:
            return True
        return False


@pytest_asyncio.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.clear()
        try:
            while data := await reader.read(1000):
                writer.write(data)
        except ConnectionError:
            pass  # it was cut
        finally:
            writer.close()
            ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_unix_server(serve, tmp_path / "echo")
    proxy = await Proxy.start()
    await proxy.open("gate", tmp_path / "gate", tmp_path / "echo")
    found = Line(proxy, tmp_path / "gate", ended)
    await found.connect()
    yield found
    found.writer.close()
    await proxy.close()
    server.close()


async def test_cut(line: Line) -> None:
    assert await line.echo() is not None
    assert await line.proxy.fault("gate", "cut") == 1
    assert await line.echo() is None
    await line.connect()
    assert await line.echo() is not None


async def test_delay_and_throttle(line: Line) -> None:
    await line.proxy.fault("gate", "delay", amount=0.2)
    assert (await line.echo() or 0.0) >= 0.4
    await line.proxy.heal()
    await line.proxy.fault("gate", "throttle", amount=20.0)  # 4 bytes each way
    assert (await line.echo() or 0.0) >= 0.4


async def test_a_stall_loses_nothing(line: Line) -> None:
    await line.proxy.fault("gate", "stall")
    assert await line.silent()
    await line.proxy.heal("gate")
    async with asyncio.timeout(SECONDS):
        assert await line.reader.readexactly(4) == b"word"
    assert await line.echo() is not None


async def test_half_open(line: Line) -> None:
    assert await line.echo() is not None
    await line.proxy.fault("gate", "half_open")
    async with asyncio.timeout(SECONDS):
        await line.ended.wait()
    assert await line.silent()
    await line.proxy.heal()
    assert await line.echo() is None


async def test_ghost(line: Line) -> None:
    assert await line.echo() is not None
    await line.proxy.fault("gate", "ghost")
    assert await line.echo() is None
    assert not line.ended.is_set()
    await line.proxy.heal()
    async with asyncio.timeout(SECONDS):
        await line.ended.wait()


async def test_a_target_that_is_not_there(tmp_path: Path, line: Line) -> None:
    await line.proxy.open("nowhere", tmp_path / "nowhere", tmp_path / "none")
    lost = Line(line.proxy, tmp_path / "nowhere", asyncio.Event())
    await lost.connect()
    assert await lost.echo() is None
    lost.writer.close()
