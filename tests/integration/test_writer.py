"""The store's connections at work on a real PostgreSQL: the writer's session and its locks, readers, cursors."""

import asyncio
import json
import time
from typing import Any

import psycopg
import pytest
import structlog

from hubbub.protocol.conversation import direct, event_id, slot_of
from hubbub.protocol.internal import (
    Backlog,
    Cursor,
    Done,
    HistoryRows,
    Known,
    MoveCursors,
    ReadHistory,
    Refused,
    Replay,
    Sync,
    epoch_of,
)
from hubbub.protocol.limits import Limits
from store import cursorwriter
from store import writer as store_writer
from store.core import Store
from store.cursorwriter import CursorWriter
from store.database import IDLE_SESSION_MS, READER_OPTIONS, WRITER_OPTIONS, connect, migrations
from store.reader import Reader
from store.writer import Writer
from tests.builders import LOBBY_SLOT, NotingBus, numbers, send

P = b"shard"
ALL = list(range(64))
EVERYTHING = [2**47 - 1] * 64


class StoreProcess:
    """What store/app.py wires together, with a bus that takes notes."""

    def __init__(self, url: str, slots: list[int] = ALL) -> None:
        self.core = Store(Limits())
        self.bus = NotingBus()
        self.core.connect(self.bus)
        self.log = structlog.testing.CapturingLogger()
        self.commits: list[int] = []
        flush = self.core.flush
        self.writer = Writer(
            url, slots, self.core, flush=flush, observe=lambda rows, seconds: self.commits.append(rows), log=self.log
        )
        self.reader = Reader(url, self.core, flush=flush, log=self.log)
        self.cursors = CursorWriter(url, self.core, flush=flush, log=self.log)
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for part in (self.writer, self.reader, self.cursors):
            self.tasks.append(asyncio.create_task(part.run()))

    async def kill(self) -> None:
        """What remains of a process after it ended: nothing."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()

    def ask(self, *requests, peer: bytes = P) -> None:
        self.core.requests(peer, list(requests), 0.0)
        self.writer.woken()
        self.reader.woken()

    async def until(self, true) -> None:
        give_up = time.monotonic() + 20
        while not true():
            failed = [task.exception() for task in self.tasks if task.done()]
            assert not failed, failed
            assert time.monotonic() < give_up, (self.log.calls, self.bus.replied)
            await asyncio.sleep(0.005)

    async def owning(self, term: int = 1) -> "StoreProcess":
        """Wait until it holds all its slots, in this term."""
        await self.until(lambda: [t & 0xFFFFFFFF for t in set(self.core.sequencer.terms.values())] == [term])
        return self

    async def answered(self, count: int = 1) -> list[Any]:
        await self.until(lambda: len(self.bus.replied) >= count)
        return [reply for _, reply in self.bus.replied]

    async def published(self, count: int = 1) -> list[int]:
        """The ids of the first events that were published."""
        await self.until(lambda: len(self.ids()) >= count)
        return self.ids()

    def ids(self) -> list[int]:
        return [event for _, _, events in numbers(self.bus.published) for event in events]

    def said(self, event: str) -> list[Any]:
        return [call.kwargs for call in self.log.calls if call.args and call.args[0] == event]


@pytest.fixture
async def start(database):
    """Starts a store; all are killed at the end."""
    started: list[StoreProcess] = []

    async def one(slots: list[int] = ALL, term: int | None = 1) -> StoreProcess:
        store = StoreProcess(database, slots)
        started.append(store)
        store.start()
        return store if term is None else await store.owning(term)

    yield one
    for store in started:
        await store.kill()


@pytest.fixture
async def admin(database):
    """A session beside the stores'."""
    conn = await connect(database, "")
    yield conn
    await conn.close()


async def fetch(conn, statement, *parameters) -> Any:
    return await (await conn.execute(statement, list(parameters))).fetchall()


async def writer_pids(admin) -> list[int]:
    held = "select distinct pid from pg_locks where locktype = 'advisory' and database = $1::oid and objsubid = 2"
    ((oid,),) = await fetch(admin, "select oid from pg_database where datname = current_database()")
    return [pid for (pid,) in await fetch(admin, held, oid)]


async def terminate_writer(admin) -> None:
    (pid,) = await writer_pids(admin)
    await admin.execute("select pg_terminate_backend($1)", [pid])


# --- the writer --------------------------------------------------------------------------------------


async def test_a_message_is_in_the_table_before_anybody_hears_of_it(start, admin):
    store = await start()
    in_table = []
    publish = store.bus.publish

    def checked(ranges):
        if any(part.entries for part in ranges):
            with psycopg.connect(admin.info.dsn) as conn:
                in_table.append(conn.execute("select count(*) from messages").fetchone())
        return publish(ranges)

    store.bus.publish = checked
    store.ask(send(1), send(2))
    assert await store.published(2) == [event_id(LOBBY_SLOT, 1), event_id(LOBBY_SLOT, 2)]
    assert in_table == [(2,)]
    assert store.commits == [2]


async def test_an_empty_database_is_made_ready(empty_database):
    store = StoreProcess(empty_database)
    store.start()
    try:
        await store.owning()
        store.ask(send(1))
        await store.published()
        assert store.said("migrated") == [{"migration": name} for _, name, _ in migrations()]
    finally:
        await store.kill()


async def test_what_the_database_refuses_is_refused_alone(start, admin):
    store = await start()
    await admin.execute("alter table messages add constraint no_shouting check (content not like 'SHOUT%')")
    store.ask(send(1), send(2, content="\0"), send(3, content="SHOUT"), send(4), send(5, "al", "bob", "\0"))
    store.ask(send(6, "al", "bob"))
    refused = await store.answered(3)
    assert [(type(one), one.no, one.code, one.stored) for one in refused] == [
        (Refused, 2, "BAD_REQUEST", "no"), (Refused, 3, "BAD_REQUEST", "no"), (Refused, 5, "BAD_REQUEST", "no"),
    ]  # fmt: skip
    assert "no_shouting" in refused[1].message
    rows = await fetch(admin, "select client_key, seq, id from messages order by id")
    slot = slot_of(direct("al", "bob"))
    assert sorted(rows) == sorted([
        ("key-000000000001", 1, event_id(LOBBY_SLOT, 1)),
        ("key-000000000004", 2, event_id(LOBBY_SLOT, 2)),
        ("key-000000000006", 1, event_id(slot, 1)),
    ])  # fmt: skip
    store.ask(send(7))
    assert sorted(await store.published(4)) == sorted([*(id_ for *_, id_ in rows), event_id(LOBBY_SLOT, 3)])
    assert len(await writer_pids(admin)) == 1
    assert store.said("slots_lost") == []


async def test_a_number_that_is_taken_is_nobody_s_fault_but_ours(start, admin):
    """Somebody wrote behind the owner's back. The numbers are loaded anew and the message is stored."""
    store = await start()
    await admin.execute(
        "insert into messages values ($1, 'lobby', 1, 1, 'x', null, 'x', now(), 'a stranger''s key', null)",
        [event_id(LOBBY_SLOT, 1)],
    )
    store.ask(send(1))
    await store.owning(term=2)
    assert store.bus.replied == []
    store.ask(send(1, resent=True))
    assert await store.published() == [event_id(LOBBY_SLOT, 2)]
    assert await fetch(admin, "select seq, client_key from messages order by seq") == [
        (1, "a stranger's key"), (2, "key-000000000001"),
    ]  # fmt: skip


async def test_a_lost_session_is_lost_slots(start, admin):
    store = await start()
    store.ask(send(1))
    await store.published()
    await terminate_writer(admin)
    await store.owning(term=2)
    assert {} in store.bus.owned
    assert len(store.said("slots_lost")) == 1
    store.ask(send(1, resent=True), send(2))
    (known,) = await store.answered()
    assert (type(known), known.no, known.seq) == (Known, 1, 1)
    assert (await store.published(2))[1] == event_id(LOBBY_SLOT, 2)


async def test_a_batch_that_was_cut_off_is_dropped_unanswered(start, admin):
    store = await start()
    async with await connect(admin.info.dsn, "") as blocker:
        async with blocker.transaction():
            await blocker.execute("lock table messages in share mode")
            store.ask(send(1))
            waiting = "select pid from pg_locks where relation = 'messages'::regclass and not granted"
            while not await fetch(admin, waiting):
                await asyncio.sleep(0.005)
            store.ask(send(2))
            await terminate_writer(admin)
            await store.until(lambda: not store.core.sequencer.terms)
    await store.owning(term=2)
    assert (store.bus.replied, store.ids(), len(store.core.sequencer)) == ([], [], 0)
    assert await fetch(admin, "select count(*) from messages") == [(0,)]
    store.ask(send(1, resent=True), send(2, resent=True))
    assert await store.published(2) == [event_id(LOBBY_SLOT, 1), event_id(LOBBY_SLOT, 2)]


async def test_a_commit_with_a_warning_is_not_acknowledged(start, admin):
    """As PostgreSQL says it when a wait for the standby was cancelled: committed here, perhaps not there."""
    store = await start()
    await admin.execute(
        "create function warn() returns trigger language plpgsql as "
        "$$ begin raise warning 'canceling wait for synchronous replication'; return null; end $$"
    )
    await admin.execute("create trigger warn after insert on messages for each statement execute function warn()")
    store.ask(send(1))
    await store.until(lambda: store.said("slots_lost"))
    assert (store.ids(), store.bus.replied) == ([], [])
    await admin.execute("drop trigger warn on messages")
    await store.owning(term=2)
    store.ask(send(1, resent=True))
    (known,) = await store.answered()
    assert (type(known), known.seq) == (Known, 1)


async def test_a_table_that_went_back_stops_its_owner(start, admin):
    store = await start()
    store.ask(send(1), send(2))
    await store.published(2)
    await admin.execute("delete from messages where seq = 2")
    await terminate_writer(admin)
    await store.until(lambda: len(store.said("slots_lost")) >= 2)
    assert store.core.sequencer.terms == {}
    assert f"slot {LOBBY_SLOT} ends at 1 in the table, but 2 was committed" in store.said("slots_lost")[-1]["error"]
    ((before,),) = await fetch(admin, "select epoch from epoch")
    await admin.execute("update epoch set epoch = epoch + 1")
    await store.until(lambda: store.core.sequencer.terms)
    assert epoch_of(store.core.sequencer.terms[LOBBY_SLOT]) == before + 1
    store.ask(send(3))
    assert (await store.published(3))[2] == event_id(LOBBY_SLOT, 2)


async def test_the_next_store_takes_what_the_last_one_left(start, admin):
    first = await start()
    second = await start(term=None)
    first.ask(send(1))
    await first.published()
    (pid,) = await writer_pids(admin)
    tried = "select 1 from pg_stat_activity where pid not in ($1, pg_backend_pid()) and query like '%try_advisory%'"
    while not await fetch(admin, tried, pid):
        await asyncio.sleep(0.005)
    assert second.core.sequencer.terms == {}
    await first.kill()
    await second.owning(term=2)
    assert await writer_pids(admin) != [pid]
    second.ask(send(1, resent=True), send(2))
    assert (await second.answered())[0].seq == 1
    assert await second.published() == [event_id(LOBBY_SLOT, 2)]


async def test_slots_are_divided_between_stores(start):
    low, high = await start(ALL[:32]), await start(ALL[32:])
    assert (sorted(low.core.sequencer.terms), sorted(high.core.sequencer.terms)) == (ALL[:32], ALL[32:])
    assert LOBBY_SLOT in high.core.sequencer.terms
    low.ask(send(1))
    high.ask(send(2))
    await high.published()
    assert len(low.core.sequencer) == 0


async def test_a_writer_with_nothing_to_write_keeps_its_session(start, admin, monkeypatch):
    """It speaks, so that idle_session_timeout ends only one that is stopped."""
    assert store_writer._SPEAK_EVERY * 1000 * 3 < IDLE_SESSION_MS
    monkeypatch.setattr(store_writer, "_SPEAK_EVERY", 0.1)
    quick = WRITER_OPTIONS.replace(f"idle_session_timeout={IDLE_SESSION_MS}", "idle_session_timeout=400")
    monkeypatch.setattr(store_writer, "WRITER_OPTIONS", quick)
    store = await start()
    (pid,) = await writer_pids(admin)
    spoken = "select extract(epoch from query_start - backend_start) from pg_stat_activity where pid = $1"
    while (await fetch(admin, spoken, pid))[0][0] < 1:
        await asyncio.sleep(0.02)
    assert (await writer_pids(admin), store.said("slots_lost")) == ([pid], [])


# --- readers -----------------------------------------------------------------------------------------


async def test_a_user_s_first_sync_and_the_next(start):
    store = await start()
    store.ask(send(1), send(2, "al", "bob"), send(3, "al", "bob"))
    await store.published(3)
    store.ask(Sync(10, "bob", {}, EVERYTHING))
    (page,) = await store.answered()
    found = {one.conversation: one for one in page.conversations}
    talk, lobby = found[direct("al", "bob")], found["lobby"]
    assert (lobby.from_, lobby.to, lobby.unread, lobby.delivered_seq) == (0, 1, 0, 1)  # met just now
    assert (talk.from_, talk.to, talk.unread, talk.truncated) == (0, 2, 2, False)
    assert [json.loads(event)["seq"] for event in talk.events] == [1, 2]
    store.ask(Sync(11, "bob", {"lobby": 1, direct("al", "bob"): 1}, EVERYTHING))
    page = (await store.answered(2))[1]
    assert {one.conversation: (one.from_, one.to, len(one.events)) for one in page.conversations} == {
        direct("al", "bob"): (1, 2, 1),
        "lobby": (1, 1, 0),
    }


async def test_many_questions_at_once_are_not_mixed_up(start):
    store = await start()
    users = [f"u{i}" for i in range(20)]
    store.ask(*[send(i, "al", user, f"for {user}") for i, user in enumerate(users)])
    await store.published(len(users))
    store.ask(
        *[(Sync(i, u, {}, EVERYTHING) if i % 2 else Backlog(i, u, {}, EVERYTHING)) for i, u in enumerate(users)],
        ReadHistory(100, direct("al", "u3"), None, None, 5),
        Sync(101, "al", {}, EVERYTHING),
    )
    replies = {one.no: one for one in await store.answered(len(users) + 2)}
    for i, user in enumerate(users):
        (event,) = [event for one in replies[i].conversations for event in one.events]
        assert json.loads(event)["content"] == f"for {user}"
    assert replies[100].to == 1
    assert len(replies[101].conversations) == len(users) + 1


async def test_a_backlog_ends_at_the_asker_s_positions(start):
    store = await start()
    store.ask(*[send(i, "al", "bob") for i in range(5)])
    await store.published(5)
    positions = list(EVERYTHING)
    positions[slot_of(direct("al", "bob"))] = 3
    store.ask(Backlog(1, "bob", {}, positions))
    (page,) = await store.answered()
    (one,) = page.conversations
    assert (one.from_, one.to, len(one.events), page.more) == (0, 3, 3, False)


async def test_history(start):
    store = await start()
    store.ask(*[send(i, content=f"m{i + 1}") for i in range(6)])
    await store.published(6)
    asked = [(None, None, 2), (4, None, 1), (3, None, 9), (None, 1, 2), (None, 4, 9)]
    store.ask(*[ReadHistory(no, "lobby", *one) for no, one in enumerate(asked)])
    replies = sorted(await store.answered(len(asked)), key=lambda one: one.no)
    assert all(type(one) is HistoryRows for one in replies)
    assert [
        (one.from_, one.to, [json.loads(event)["content"] for event in one.events], one.more) for one in replies
    ] == [
        (4, 6, ["m5", "m6"], True),
        (2, 3, ["m3"], True),
        (0, 2, ["m1", "m2"], False),
        (1, 3, ["m2", "m3"], True),
        (4, 6, ["m5", "m6"], False),
    ]


async def test_what_is_older_than_memory_is_replayed_from_the_table(start, admin, monkeypatch):
    first = await start()
    first.ask(*[send(i, content=f"m{i}") for i in range(5)])
    ids = await first.published(5)
    await first.kill()
    monkeypatch.setattr("store.reader.REPLAY_ROWS", 2)
    store = await start(term=2)
    after = 0
    found = []
    while after < 5:
        store.ask(Replay(LOBBY_SLOT, after))
        await store.until(lambda: store.bus.replayed)
        ((peer, part),) = store.bus.replayed
        store.bus.replayed.clear()
        assert (peer, part.after, part.term & 0xFFFFFFFF) == (P, after, 2)
        found += numbers([part])[0][2]
        after = part.to
    assert found == ids


async def test_reads_that_are_lost_with_their_connection_are_asked_again(start, admin):
    store = await start()
    store.ask(ReadHistory(1, "lobby", None, None, 2))
    await store.answered()
    await admin.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and "
        "pid <> pg_backend_pid() and pid <> all($1::int[])",
        [await writer_pids(admin)],
    )
    give_up = time.monotonic() + 10
    while len(store.bus.replied) < 2:  # as the shards do: again, until it is answered
        store.ask(ReadHistory(2, "lobby", None, None, 2))
        await asyncio.sleep(0.02)
        assert time.monotonic() < give_up
    assert store.bus.replied[-1][1].no == 2


# --- cursors -----------------------------------------------------------------------------------------


async def test_cursors_are_answered_when_they_are_written(start, admin, monkeypatch):
    monkeypatch.setattr(cursorwriter, "CURSOR_EVERY", 0.02)
    store = await start()
    store.ask(*[send(i, "al", "bob") for i in range(3)])
    await store.published(3)
    in_table = []
    reply = store.bus.reply

    def checked(peer, replies):
        with psycopg.connect(admin.info.dsn) as conn:
            read = "select delivered_seq, read_seq from cursors where username = 'bob'"
            in_table.append(conn.execute(read).fetchone())
        return reply(peer, replies)

    store.bus.reply = checked
    store.ask(MoveCursors(7, [Cursor("bob", direct("al", "bob"), 9, 1)]))
    assert await store.answered() == [Done(7)]
    assert in_table == [(3, 1)]
    receipts = [json.loads(one.payload) for one in store.bus.signalled if one.topic == "user.al"]
    assert (receipts[-1]["username"], receipts[-1]["delivered_seq"], receipts[-1]["read_seq"]) == ("bob", 3, 1)


async def test_who_left_was_last_seen(start, admin, monkeypatch):
    monkeypatch.setattr(cursorwriter, "CURSOR_EVERY", 0.02)
    store = await start()
    store.core.presence.gone += ["al", "bob", "al"]
    await store.until(lambda: not store.core.presence.gone)
    found = await fetch(admin, "select username, now() - last_seen < interval '1 minute' from users order by 1")
    assert found == [("al", True), ("bob", True)]


async def test_a_reader_s_session_cannot_be_ended_for_being_idle(database):
    async with await connect(database, READER_OPTIONS) as conn:
        assert await fetch(conn, "show idle_session_timeout") == [("0",)]
