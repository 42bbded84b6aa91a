"""Writes cursors and `last_seen` once a second, on a connection of their own.

They need no lock: they only ever grow, whoever writes them.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import psycopg

from hubbub.protocol.internal import Cursor
from hubbub.protocol.limits import CURSOR_EVERY
from store.core import Store
from store.database import READER_OPTIONS, STATEMENTS, Connection, connect

_encode = msgspec.json.Encoder().encode


class LastSeen(msgspec.Struct, frozen=True):
    """One row of the JSON parameter of `save_last_seen`; `at` in unix milliseconds."""

    username: str
    at: int


class CursorWriter:
    """Drains the core's cursor movements and departures."""

    def __init__(self, url: str, core: Store, *, flush: Callable[[], None], log: Any) -> None:
        self._url = url
        self._core = core
        self._flush = flush
        self._log = log

    async def run(self) -> None:
        """Connect, write, for ever. A batch that failed is dropped: shards report until it is committed."""
        while True:
            await asyncio.sleep(CURSOR_EVERY)
            try:
                conn = await connect(self._url, READER_OPTIONS)
            except psycopg.OperationalError as exc:
                self._log.warning("database_away", error=str(exc).strip(), who="cursors")
                continue
            try:
                while True:
                    await self.write(conn)
                    await asyncio.sleep(CURSOR_EVERY)
            except psycopg.Error as exc:
                self._log.warning("cursors_lost", error=str(exc).strip())
            finally:
                await conn.close()

    async def write(self, conn: Connection) -> None:
        """One round. Before the schema is there it waits."""
        if not self._core.sequencer.terms:
            return
        batch = self._core.cursors.batch()
        if batch is not None:
            cursor = await conn.execute(
                STATEMENTS["move_cursors"], [_encode(batch.rows).decode()], prepare=True, binary=True
            )
            self._core.moved(batch, [Cursor(*row) for row in await cursor.fetchall()])
            self._flush()
        gone = list(self._core.presence.gone)
        if gone:
            at = int(time.time() * 1000)
            rows = [LastSeen(user, at) for user in dict.fromkeys(gone)]
            await conn.execute(STATEMENTS["save_last_seen"], [_encode(rows).decode()], prepare=True)
            del self._core.presence.gone[: len(gone)]
