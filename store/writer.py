"""One writer for a slot: the PostgreSQL session that holds its advisory lock writes its batches.

Session lost means slots lost, in memory too, at once; everything unanswered is dropped, and the shards
send it again to whoever owns the slots then, under the same keys.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import psycopg
from psycopg.errors import UniqueViolation

from store.core import Store
from store.database import (
    STATEMENTS,
    WRITER_OPTIONS,
    Connection,
    DatabaseUnfit,
    check,
    connect,
    is_content_error,
    migrate,
)
from store.sequencer import Batch, StoredRow

# The session speaks at least this often, so that only a stopped store exceeds idle_session_timeout.
_SPEAK_EVERY = 1.0
# How often a store that misses slots tries to lock them.
_LOCK_EVERY = 0.2
_RETRY_FIRST = 0.05
_RETRY_MAX = 0.5

_encode = msgspec.json.Encoder().encode
_APPEND = STATEMENTS["append_messages"]


class LogWentBack(Exception):
    """The table is behind what this store has seen committed: a restored or lossy database."""


class Writer:
    """Owns the locking session. `run` never returns; `woken` is to be called when sends have arrived.

    *flush* passes on what a commit produced. *observe* is told ``(rows, seconds)`` of every commit.
    """

    def __init__(
        self,
        url: str,
        slots: list[int],
        core: Store,
        *,
        flush: Callable[[], None],
        observe: Callable[[int, float], None],
        log: Any,
    ) -> None:
        self._url = url
        self._slots = slots
        self._core = core
        self._flush = flush
        self._observe = observe
        self._log = log
        self._wake = asyncio.Event()
        self._warned = False
        self._seen: dict[int, int] = {}  # slot -> the newest n this process saw committed
        self._epoch = 0

    def woken(self) -> None:
        """Sends have arrived."""
        self._wake.set()

    async def run(self) -> None:
        """Connect, take slots, write; for ever."""
        delay = _RETRY_FIRST
        while True:
            try:
                conn = await connect(self._url, WRITER_OPTIONS)
            except psycopg.OperationalError as exc:
                self._log.warning("database_away", error=str(exc).strip(), retry_s=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_MAX)
                continue
            try:
                await self._serve(conn)
            except (psycopg.Error, DatabaseUnfit, LogWentBack) as exc:
                self._log.error("slots_lost", error=str(exc).strip(), slots=len(self._core.sequencer.terms))
                delay = _RETRY_MAX if isinstance(exc, (DatabaseUnfit, LogWentBack)) else _RETRY_FIRST
            finally:
                for slot in self._core.sequencer.terms:
                    self._seen[slot] = self._core.sequencer.last(slot)
                self._core.lost()
                self._flush()
                await conn.close()
            await asyncio.sleep(delay)

    async def _serve(self, conn: Connection) -> None:
        self._warned = False
        conn.add_notice_handler(self._notice)
        await check(conn)
        for name in await migrate(conn):
            self._log.info("migrated", migration=name)
        row = await (await conn.execute(STATEMENTS["read_epoch"])).fetchone()
        epoch = int(row[0]) if row is not None else 0
        if epoch != self._epoch:
            self._epoch = epoch
            self._seen.clear()
        missing = list(self._slots)
        tried = spoke = 0.0
        while True:
            now = time.monotonic()
            if missing and now - tried >= _LOCK_EVERY:
                tried = spoke = now
                taken = await self._take(conn, missing, epoch)
                missing = [slot for slot in missing if slot not in taken]
            batch = self._core.sequencer.batch(int(time.time() * 1000))
            if batch is not None:
                await self._write(conn, batch)
                self._core.sequencer.landed()
                spoke = time.monotonic()
                self._flush()
                continue
            if now - spoke >= _SPEAK_EVERY:
                spoke = now
                await conn.execute("select 1")
            self._wake.clear()
            if not len(self._core.sequencer):
                try:
                    async with asyncio.timeout(_LOCK_EVERY if missing else _SPEAK_EVERY):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def _take(self, conn: Connection, wanted: list[int], epoch: int) -> set[int]:
        rows = await (await conn.execute(STATEMENTS["lock_slots"], [wanted])).fetchall()
        locked = [row[0] for row in rows]
        if not locked:
            return set()
        terms: dict[int, int] = dict(await (await conn.execute(STATEMENTS["raise_terms"], [locked])).fetchall())
        numbers: dict[int, int] = dict(await (await conn.execute(STATEMENTS["last_numbers"], [locked])).fetchall())
        for slot, n in numbers.items():
            if n < self._seen.get(slot, 0):
                raise LogWentBack(
                    f"slot {slot} ends at {n} in the table, but {self._seen[slot]} was committed: the database was "
                    "restored or failed over with loss. To go on, raise the number in its table `epoch` by one"
                )
        self._core.taken(epoch, [(slot, terms[slot], numbers[slot]) for slot in locked])
        self._flush()
        self._log.info("slots_taken", slots=len(locked), epoch=epoch)
        return set(locked)

    async def _write(self, conn: Connection, batch: Batch) -> None:
        try:
            await self._append(conn, batch)
        except psycopg.Error as exc:
            if conn.broken or conn.closed or not is_content_error(exc):
                raise
            for single in self._core.sequencer.singles(batch):
                try:
                    await self._append(conn, single)
                except UniqueViolation:
                    raise  # our numbering is at fault, not the message: load it anew
                except psycopg.Error as inner:
                    if conn.broken or conn.closed or not is_content_error(inner):
                        raise
                    self._core.sequencer.refuse_content(single, inner.diag.message_primary or "")

    async def _append(self, conn: Connection, batch: Batch) -> None:
        self._core.committing(batch)
        begun = time.perf_counter()
        cursor = await conn.execute(_APPEND, [_encode(batch.rows).decode()], prepare=True, binary=True)
        rows = [StoredRow(*row) for row in await cursor.fetchall()]
        if self._warned:
            # A commit with a warning (a cancelled wait for the standby) may not be where it must be.
            raise psycopg.OperationalError("the commit came back with a warning; its outcome is unknown")
        self._observe(len(rows), time.perf_counter() - begun)
        self._core.stored(batch, rows)

    def _notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            self._warned = True
            self._log.warning("database_warning", warning=diagnostic.message_primary)
