"""Answers reads on connections of their own, so that no read delays a write; many questions in one query."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec
import psycopg

from hubbub.protocol.conversation import LOBBY, event_id, slot_of
from hubbub.protocol.internal import AddAccount, Backlog, ReadHistory, Replay, Sync
from store import pages
from store.core import Lookup, Read, Store
from store.database import READER_OPTIONS, STATEMENTS, Connection, connect
from store.directory import Directory
from store.events import Row
from store.pages import Conversation, Part

# Syncs and backlogs answered by one query: a mass reconnect comes as a few dozen queries.
GROUP = 64
REPLAY_ROWS = 1_000
LOBBY_MET_MAX = 500_000

_encode = msgspec.json.Encoder().encode


class Question(msgspec.Struct, frozen=True):
    """One row of the JSON parameter of `list_conversations`."""

    i: int
    username: str
    positions: list[int]


class Meeting(msgspec.Struct, frozen=True):
    """One row of the JSON parameter of `meet_lobby`; `position` is an event's id."""

    username: str
    position: int


class Table(Protocol):
    """What a reader asks of the database."""

    async def meet_lobby(self, meetings: list[Meeting]) -> None:
        """Users' first contact with the lobby."""

    async def conversations(self, questions: list[Question]) -> list[Conversation]:
        """Each asker's conversations, in the order of the questions."""

    async def newest(self, parts: list[Part]) -> dict[int, list[Row]]:
        """The newest events of each part, oldest first, by the part's number."""

    async def oldest(self, parts: list[Part]) -> dict[int, list[Row]]:
        """The oldest events of each part, by the part's number."""

    async def last_seq(self, conversation: str) -> int:
        """The end of a conversation; 0 if there is nothing."""

    async def slot_log(self, after: int, to: int, limit: int) -> list[Row]:
        """Events with ``after < id <= to``, by id."""


class Answers:
    """Turns reads into answers by way of a `Table`."""

    def __init__(self, core: Store) -> None:
        self._core = core
        self._met: set[str] = set()

    async def group(self, table: Table, reads: Sequence[tuple[bytes, Sync | Backlog]]) -> None:
        """Answer several syncs and backlogs together."""
        lobby = slot_of(LOBBY)
        strangers = {
            read.username: Meeting(read.username, event_id(lobby, read.positions[lobby]))
            for _, read in reads
            if read.username not in self._met
        }
        if strangers:
            await table.meet_lobby(list(strangers.values()))
            if len(self._met) < LOBBY_MET_MAX:
                self._met.update(strangers)
        found: list[list[Conversation]] = [[] for _ in reads]
        for one in await table.conversations(
            [Question(i, read.username, read.positions) for i, (_, read) in enumerate(reads)]
        ):
            found[one.i].append(one)
        newest: list[Part] = []
        oldest: list[Part] = []
        planned: list[list[Part]] = []
        for (_, read), conversations in zip(reads, found, strict=True):
            if isinstance(read, Sync):
                parts = pages.plan_sync(read.have, conversations, len(newest))
                newest += parts
            else:
                parts = pages.plan_backlog(read.after, conversations, len(oldest))
                oldest += parts
            planned.append(parts)
        new_rows = await self._rows(table.newest, newest)
        old_rows = await self._rows(table.oldest, oldest)
        for (peer, read), conversations, parts in zip(reads, found, planned, strict=True):
            if isinstance(read, Sync):
                self._core.answer(peer, pages.sync_page(read.no, conversations, parts, new_rows))
            else:
                self._core.answer(peer, pages.backlog_page(read.no, conversations, parts, old_rows))

    async def history(self, table: Table, peer: bytes, read: ReadHistory) -> None:
        """Answer one page of history."""
        part, forward = pages.plan_history(read, await table.last_seq(read.conversation))
        rows = await (table.oldest if forward else table.newest)([part])
        self._core.answer(peer, pages.history_page(read, part, forward, rows.get(0, [])))

    async def replay(self, table: Table, peer: bytes, read: Replay) -> None:
        """Answer one chunk of a slot's log, up to where its owner knows it to be."""
        if not self._core.sequencer.owns(read.slot):
            return
        to = self._core.sequencer.last(read.slot)
        rows = await table.slot_log(event_id(read.slot, read.after), event_id(read.slot, to), REPLAY_ROWS)
        self._core.answer_replay(peer, read, to, rows, REPLAY_ROWS)

    @staticmethod
    async def _rows(
        query: Callable[[list[Part]], Awaitable[dict[int, list[Row]]]], parts: list[Part]
    ) -> dict[int, list[Row]]:
        wanted = [part for part in parts if part.count]
        return await query(wanted) if wanted else {}


class PostgresTable:
    """`Table` on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def meet_lobby(self, meetings: list[Meeting]) -> None:
        """See `Table`."""
        await self._query("meet_lobby", meetings)

    async def conversations(self, questions: list[Question]) -> list[Conversation]:
        """See `Table`."""
        cursor = await self._query("list_conversations", questions)
        return [Conversation(*row) for row in await cursor.fetchall()]

    async def newest(self, parts: list[Part]) -> dict[int, list[Row]]:
        """See `Table`."""
        return await self._events("newest_events", parts)

    async def oldest(self, parts: list[Part]) -> dict[int, list[Row]]:
        """See `Table`."""
        return await self._events("oldest_events", parts)

    async def last_seq(self, conversation: str) -> int:
        """See `Table`."""
        cursor = await self._conn.execute(STATEMENTS["last_seq"], [conversation], prepare=True)
        row = await cursor.fetchone()
        return int(row[0]) if row is not None else 0

    async def slot_log(self, after: int, to: int, limit: int) -> list[Row]:
        """See `Table`."""
        cursor = await self._conn.execute(STATEMENTS["slot_log"], [after, to, limit], prepare=True)
        return [Row(*row) for row in await cursor.fetchall()]

    async def _events(self, name: str, parts: list[Part]) -> dict[int, list[Row]]:
        cursor = await self._query(name, parts)
        rows: dict[int, list[Row]] = {}
        for i, *row in await cursor.fetchall():
            rows.setdefault(i, []).append(Row(*row))
        return rows

    async def _query(self, name: str, parameter: Sequence[msgspec.Struct]) -> psycopg.AsyncCursor[Any]:
        return await self._conn.execute(STATEMENTS[name], [_encode(parameter).decode()], prepare=True)


class Reader:
    """Some connections that drain the core's `reads`. `woken` is to be called when reads have arrived."""

    def __init__(self, url: str, core: Store, *, flush: Callable[[], None], log: Any) -> None:
        self._url = url
        self._core = core
        self._answers = Answers(core)
        self._flush = flush
        self._log = log
        self._arrived = asyncio.Event()

    def woken(self) -> None:
        """Reads have arrived."""
        self._arrived.set()

    async def run(self) -> None:
        """One connection's life: connect, answer, for ever. Several may run side by side."""
        while True:
            await self._wait()
            try:
                conn = await connect(self._url, READER_OPTIONS)
            except psycopg.OperationalError as exc:
                self._log.warning("database_away", error=str(exc).strip(), who="reader")
                await asyncio.sleep(0.5)
                continue
            try:
                await self._serve(PostgresTable(conn), Directory(conn))
            except psycopg.Error as exc:
                # What was being answered is dropped; the shards ask again.
                self._log.warning("reads_lost", error=str(exc).strip())
                await asyncio.sleep(0.05)
            finally:
                await conn.close()

    async def _wait(self) -> None:
        while not self._core.reads:
            self._arrived.clear()
            await self._arrived.wait()

    async def _look_up(self, directory: Directory, peer: bytes, read: Lookup) -> None:
        core = self._core
        # Its own guest of now may not have left a trace in the table yet.
        online = isinstance(read, AddAccount) and core.is_online(read.username)
        self._core.answer(peer, await directory.answer(read, epoch=core.sequencer.epoch, online=online))

    async def _serve(self, table: Table, directory: Directory) -> None:
        while True:
            await self._wait()
            group, single = take_group(self._core.reads)
            if group:
                await self._answers.group(table, group)
            if single is not None:
                peer, read = single
                match read:
                    case ReadHistory():
                        await self._answers.history(table, peer, read)
                    case Replay():
                        await self._answers.replay(table, peer, read)
                    case _:
                        await self._look_up(directory, peer, read)
            self._flush()


def take_group(
    reads: list[tuple[bytes, Read]],
) -> tuple[list[tuple[bytes, Sync | Backlog]], tuple[bytes, ReadHistory | Replay | Lookup] | None]:
    """Take from the head of *reads* either several syncs and backlogs, or one other read."""
    group: list[tuple[bytes, Sync | Backlog]] = []
    for peer, read in reads[:GROUP]:
        if not isinstance(read, (Sync, Backlog)):
            break
        group.append((peer, read))
    if group:
        del reads[: len(group)]
        return group, None
    peer, read = reads.pop(0)
    if isinstance(read, (Sync, Backlog)):
        raise AssertionError("unreachable: the head of a group is no single read")
    return [], (peer, read)
