"""A running system to throw bytes at, and what must be true of it afterwards."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.integration.healthy import healthy
from tests.integration.system import System


@contextmanager
def beside(system: System) -> Iterator[None]:
    """People who behave chat on every shard meanwhile; in the end they must have noticed nothing, nor may a process
    have ended or logged an error."""
    before = {name: one["pid"] for name, one in system.programs().items()}
    logged = {name: len(errors(system, name)) for name in before}
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    failed: list[BaseException] = []

    async def chat() -> None:
        async with healthy(system, "beside"):
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(chat())
        except BaseException as exc:
            failed.append(exc)
        finally:
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
        thread.join()
    if failed:
        raise failed[0]
    assert {name: one["pid"] for name, one in system.programs().items()} == before, "a process ended"
    for name, count in logged.items():
        assert errors(system, name)[count:] == [], "an error was logged"


def errors(system: System, program: str) -> list[dict[str, Any]]:
    """What a program has logged as an error."""
    return [line for line in system.log(program) if line.get("level") in ("error", "critical")]
