"""What goes on beside a run: the server is started again when it ends, the tables and metrics are looked at."""

import asyncio
from contextlib import suppress
from http.client import HTTPException

import psycopg

from tests.fault.torture import record, witnesses
from tests.fault.torture.devices import Clock
from tests.fault.torture.record import History
from tests.integration.system import System, SystemFailed

LOOK_EVERY = 2.0  # seconds


async def restart_server(system: System, clock: Clock) -> None:
    """What systemd does in a deployment: `hubbub up` ends when its supervisord dies, and is started again."""
    while True:
        await asyncio.sleep(0.2)
        if system.ended:
            clock.write(record.Blow, "restart", "hubbub up has ended; it is started again")
            system.launch()


async def look_at_cursors(system: System, history: History) -> None:
    """Put what has changed in the table of cursors into the history, again and again."""
    known: dict[tuple[str, str], record.Cursor] = {}
    while True:
        await asyncio.sleep(LOOK_EVERY)
        try:
            look = await asyncio.to_thread(witnesses.cursors, system)
        except psycopg.Error:
            continue  # it is just being tortured
        fresh = [one for one in look if known.get((one.username, one.conversation)) != one]
        known.update({(one.username, one.conversation): one for one in fresh})
        history.cursors.append(fresh)


async def look_at_metrics(system: System, meter: witnesses.Meter) -> None:
    """What the processes count of themselves, as far as it is seen before they are killed."""
    while True:
        await asyncio.sleep(LOOK_EVERY)
        with suppress(OSError, HTTPException):
            meter.read(await asyncio.to_thread(system.get, "/metrics"))


async def who_is_online(system: System) -> set[str]:
    """As a client asks: again and again until there is an answer."""
    while True:
        with suppress(OSError, HTTPException, SystemFailed):
            return await asyncio.to_thread(witnesses.online, system)
        await asyncio.sleep(1.0)
