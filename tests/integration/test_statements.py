"""The SQL of the store against a real PostgreSQL: numbering, cursors, reads, locks, and the schema itself."""

import asyncio
from typing import Any

import msgspec
import psycopg
import pytest

from hubbub.protocol.conversation import LOBBY, direct, event_id, slot_of, split_id
from hubbub.protocol.internal import Send
from store import database as store_database
from store.cursors import Movement
from store.cursorwriter import LastSeen
from store.database import (
    READER_OPTIONS,
    STATEMENTS,
    WRITER_OPTIONS,
    DatabaseUnfit,
    check,
    connect,
    is_content_error,
    migrate,
    migrations,
)
from store.events import Row, payload_of_row
from store.pages import Part
from store.reader import Meeting, PostgresTable, Question
from store.sequencer import InputRow, Sequencer, StoredRow
from tests.builders import LOBBY_SLOT, send

MIGRATION_LOCK = store_database._MIGRATION_LOCK
AT = 1_767_225_600_123
EVERYTHING = [2**47 - 1] * 64  # positions that leave nothing out
AL_BOB = direct("al", "bob")

encode = msgspec.json.Encoder().encode


@pytest.fixture
async def conn(database):
    """A writer's session."""
    conn = await connect(database, WRITER_OPTIONS)
    yield conn
    await conn.close()


@pytest.fixture
async def table(database):
    """A reader's session."""
    conn = await connect(database, READER_OPTIONS)
    yield PostgresTable(conn)
    await conn.close()


async def append(conn, rows: list[InputRow]) -> list[StoredRow]:
    cursor = await conn.execute(STATEMENTS["append_messages"], [encode(rows).decode()], prepare=True, binary=True)
    return sorted((StoredRow(*row) for row in await cursor.fetchall()), key=lambda row: row.i)


async def fetch(conn, statement: str, *parameters) -> Any:
    cursor = await conn.execute(STATEMENTS.get(statement, statement), list(parameters), prepare=True)
    return await cursor.fetchall()


async def move(conn, *movements: Movement) -> list[Any]:
    return sorted(await fetch(conn, "move_cursors", encode(movements).decode()))


class Scribe:
    """Writes as a store does: a sequencer in front of the statement."""

    def __init__(self, conn) -> None:
        self.conn = conn
        self.sequencer = Sequencer(queue_max=1_000, batch_max=1_000)
        self.sequencer.take(5, [(slot, 1, 0) for slot in range(64)])

    async def write(self, *sends: Send, at: int = AT) -> list[StoredRow]:
        for one in sends:
            self.sequencer.offer(b"peer", one)
        batch = self.sequencer.batch(at)
        assert batch is not None
        rows = await append(self.conn, batch.rows)
        self.sequencer.stored(batch, rows)
        self.sequencer.landed()
        return rows


@pytest.fixture
def scribe(conn):
    return Scribe(conn)


def row(i: int, conversation: str = LOBBY, *, n: int = 0, seq=None, ordinal=None, sender="al", key=None, **more):
    """An `InputRow`; its key follows from *i*."""
    recipient = None if conversation == LOBBY else more.pop("recipient", "bob")
    given = {"content": "hi", "extra": None, "at": AT} | more
    key = f"key-{i:012}" if key is None else key
    return InputRow(i, slot_of(conversation), n, conversation, seq, ordinal, sender, recipient, key, **given)


# --- append_messages ---------------------------------------------------------------------------------


async def test_new_messages_are_numbered_without_holes(conn):
    rows = await append(conn, [row(0), row(1), row(2)])
    assert rows == [StoredRow(i, event_id(LOBBY_SLOT, i + 1), i + 1, i + 1, AT, True, True) for i in range(3)]
    found = await fetch(conn, "select id, seq, ordinal, sender, content, client_key, extra from messages order by id")
    assert found[1] == (event_id(LOBBY_SLOT, 2), 2, 2, "al", "hi", "key-000000000001", None)
    (first,) = await fetch(conn, "select extract(epoch from timestamp) * 1000 from messages where seq = 1")
    assert first == (AT,)


async def test_bases_that_are_given_are_used_and_others_are_read(conn):
    await append(conn, [row(0), row(1)])
    assert [(one.id, one.seq, one.ordinal) for one in await append(conn, [row(2, n=2, seq=2, ordinal=2)])] == [
        (event_id(LOBBY_SLOT, 3), 3, 3)
    ]
    assert [(one.seq, one.ordinal) for one in await append(conn, [row(3, n=3), row(4, n=3)])] == [(4, 4), (5, 5)]


async def test_an_ordinal_of_its_own(conn):
    """A seq counts every event, an ordinal the messages: they part when there are other events."""
    await append(conn, [row(0, seq=6, ordinal=3)])
    assert [(one.seq, one.ordinal) for one in await append(conn, [row(1, n=1)])] == [(8, 5)]


async def test_several_conversations_and_slots_in_one_batch(conn):
    other = direct("al", "eve")
    names = [LOBBY, AL_BOB, LOBBY, other, AL_BOB, LOBBY]
    assert len({slot_of(name) for name in names}) == 3
    rows = await append(conn, [row(i, name) for i, name in enumerate(names)])
    assert [(split_id(one.id), one.seq, one.ordinal) for one in rows] == [
        ((slot_of(LOBBY), 1), 1, 1),
        ((slot_of(AL_BOB), 1), 1, 1),
        ((slot_of(LOBBY), 2), 2, 2),
        ((slot_of(other), 1), 1, 1),
        ((slot_of(AL_BOB), 2), 2, 2),
        ((slot_of(LOBBY), 3), 3, 3),
    ]


async def test_conversations_that_share_a_slot_share_its_log(conn):
    other = next(name for i in range(10_000) if slot_of(name := direct("al", f"u{i}")) == LOBBY_SLOT)
    rows = await append(conn, [row(0, n=8), row(1, other, n=8), row(2, n=8), row(3, other, n=8)])
    assert [(split_id(one.id)[1], one.seq) for one in rows] == [(9, 1), (10, 1), (11, 2), (12, 2)]


async def test_a_known_key_gets_its_first_place_and_burns_no_number(conn):
    (first,) = await append(conn, [row(0)])
    later = AT + 5_000
    rows = await append(conn, [row(0, n=1, seq=1, ordinal=1, at=later), row(1, n=1, seq=1, ordinal=1, at=later)])
    assert rows[0] == StoredRow(0, first.id, 1, 1, AT, False, True)
    assert rows[1] == StoredRow(1, event_id(LOBBY_SLOT, 2), 2, 2, later, True, True)
    assert await fetch(conn, "select count(*) from messages") == [(2,)]


async def test_a_known_key_between_new_ones(conn):
    await append(conn, [row(5)])
    rows = await append(conn, [row(i, n=1) for i in (1, 5, 2)])
    by_i = {one.i: one for one in rows}
    assert [(by_i[i].fresh, by_i[i].seq) for i in (1, 5, 2)] == [(True, 2), (False, 1), (True, 3)]


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ({}, {}, True),
        ({}, {"content": "other"}, False),
        ({}, {"extra": {"reply_to": 1}}, False),
        ({"extra": {"reply_to": 1}}, {}, False),
        ({"extra": {"reply_to": 1}}, {"extra": {"reply_to": 1}}, True),
        ({"extra": {"reply_to": 1}}, {"extra": {"reply_to": 2}}, False),
        ({"extra": {"mentions": ["a", "b"]}}, {"extra": {"mentions": ["b", "a"]}}, False),
        ({}, {"at": AT + 1}, True),
        ({"content": "e\u0301"}, {"content": "\u00e9"}, False),
    ],
)
async def test_whether_a_known_row_says_the_same(conn, before, after, same):
    await append(conn, [row(0, **before)])
    (known,) = await append(conn, [row(0, n=1, **after)])
    assert (known.fresh, known.same, known.seq) == (False, same, 1)


async def test_a_key_is_for_one_sender_and_conversation(conn):
    await append(conn, [row(0, key="k" * 16)])
    rows = await append(conn, [row(0, n=1, sender="bob", key="k" * 16), row(1, AL_BOB, key="k" * 16)])
    assert [one.fresh for one in rows] == [True, True]


async def test_a_direct_conversation_opens_both_cursors_once(conn):
    await append(conn, [row(0, AL_BOB), row(1, AL_BOB, sender="bob", recipient="al")])
    opened = await fetch(conn, "select username, conversation, delivered_seq, read_seq from cursors order by 1")
    assert opened == [("al", AL_BOB, 0, 0), ("bob", AL_BOB, 0, 0)]
    await move(conn, Movement("bob", AL_BOB, 2, 1))
    await append(conn, [row(2, AL_BOB, n=2)])
    assert await fetch(conn, "select delivered_seq from cursors where username = 'bob'") == [(2,)]


async def test_a_cursor_that_is_there_already_stays(conn):
    await conn.execute("insert into cursors values ('bob', $1, 3, 3)", [AL_BOB])
    await append(conn, [row(0, AL_BOB)])
    assert await fetch(conn, "select username, delivered_seq from cursors order by 1") == [("al", 0), ("bob", 3)]


async def test_a_note_to_oneself_opens_one_cursor_and_the_lobby_none(conn):
    await append(conn, [row(0, direct("al", "al"), recipient="al"), row(1)])
    assert await fetch(conn, "select username, conversation from cursors") == [("al", "direct:al:al")]


async def test_many_batches_through_a_sequencer(conn, scribe):
    """What the store remembers and what the table holds stay the same, whatever is repeated."""
    users = ["al", "bob", "eve"]
    for batch in range(6):
        sends = []
        for i in range(30):
            no = batch * 20 + i  # the last ten of each batch come again in the next
            recipient = None if no % 3 == 0 else users[(no + 1) % 3]
            sends.append(send(no, users[no % 3], recipient, f"m{no}"))
        await scribe.write(*sends)
    total = 6 * 20 + 10
    assert await fetch(conn, "select count(*) from messages") == [(total,)]
    uneven = """select conversation from messages group by conversation
                having min(seq) <> 1 or max(seq) <> count(*) or max(ordinal) <> count(*)"""
    assert await fetch(conn, uneven) == []
    ends = dict(await fetch(conn, "select id >> 47, max(id & ((1::bigint << 47) - 1)) from messages group by 1"))
    assert sum(ends.values()) == total
    assert {slot: scribe.sequencer.last(slot) for slot in ends} == ends


async def test_one_bad_row_refuses_the_whole_batch(conn):
    with pytest.raises(psycopg.Error) as caught:
        await append(conn, [row(0), row(1, content="\0"), row(2)])
    assert is_content_error(caught.value)
    assert await fetch(conn, "select count(*) from messages") == [(0,)]


async def test_numbers_that_are_taken_are_refused(conn):
    await append(conn, [row(0)])
    with pytest.raises(psycopg.errors.UniqueViolation):
        await append(conn, [row(1, n=0)])
    with pytest.raises(psycopg.errors.UniqueViolation):
        await append(conn, [row(1, n=1, seq=0, ordinal=0)])


async def test_all_of_unicode(conn, table):
    content = "".join(chr(c) for c in [*range(1, 0xD800), *range(0xE000, 0x10000), 0x1F600, 0x10FFFF])
    await append(conn, [row(0, content=content)])
    rows = await table.newest([Part(0, LOBBY, 0, 1, 5)])
    assert rows[0][0].content == content


# --- cursors -----------------------------------------------------------------------------------------


async def test_cursors_only_grow_and_end_where_the_conversation_ends(conn):
    await append(conn, [row(i, AL_BOB) for i in range(5)])
    assert await move(conn, Movement("bob", AL_BOB, 3, 1)) == [("bob", AL_BOB, 3, 1)]
    assert await move(conn, Movement("bob", AL_BOB, 2, 0)) == []
    assert await move(conn, Movement("bob", AL_BOB, 3, 1)) == []
    assert await move(conn, Movement("bob", AL_BOB, 0, 2)) == [("bob", AL_BOB, 3, 2)]
    assert await move(conn, Movement("bob", AL_BOB, 4, 0)) == [("bob", AL_BOB, 4, 2)]
    assert await move(conn, Movement("bob", AL_BOB, 2**53, 2**53)) == [("bob", AL_BOB, 5, 5)]
    assert await move(conn, Movement("bob", AL_BOB, 2**53, 2**53)) == []


async def test_what_is_read_is_delivered(conn):
    await append(conn, [row(i, AL_BOB) for i in range(5)])
    assert await move(conn, Movement("bob", AL_BOB, 0, 4)) == [("bob", AL_BOB, 4, 4)]
    assert await move(conn, Movement("al", AL_BOB, 1, 3)) == [("al", AL_BOB, 3, 3)]


async def test_a_conversation_without_messages_has_no_cursor(conn):
    assert await move(conn, Movement("bob", AL_BOB, 3, 3), Movement("bob", LOBBY, 0, 0)) == []
    assert await fetch(conn, "select count(*) from cursors") == [(0,)]


async def test_many_cursors_at_once(conn):
    await append(conn, [row(0), row(1), row(2, AL_BOB)])
    moved = await move(conn, Movement("z", LOBBY, 1, 0), Movement("al", LOBBY, 9, 2), Movement("bob", AL_BOB, 1, 1))
    assert moved == [("al", LOBBY, 2, 2), ("bob", AL_BOB, 1, 1), ("z", LOBBY, 1, 0)]


async def test_the_view_shows_what_was_delivered_and_read(conn):
    await append(conn, [row(0, AL_BOB), row(1, AL_BOB), row(2, AL_BOB, sender="bob", recipient="al"), row(3)])

    async def states():
        return await fetch(conn, "select seq, recipient, delivery, read from direct_messages order by seq")

    assert await states() == [
        (1, "bob", "undelivered", False), (2, "bob", "undelivered", False), (3, "al", "undelivered", False),
    ]  # fmt: skip
    await move(conn, Movement("bob", AL_BOB, 2, 1))
    assert await states() == [
        (1, "bob", "delivered", True), (2, "bob", "delivered", False), (3, "al", "undelivered", False),
    ]  # fmt: skip
    await conn.execute("delete from cursors")
    assert {state[2] for state in await states()} == {"undelivered"}


async def test_last_seen_only_grows(conn):
    for at in (5_000, 9_000, 7_000):
        seen = [LastSeen("al", at), LastSeen("bob", 1_500)]
        await conn.execute(STATEMENTS["save_last_seen"], [encode(seen).decode()])
    found = await fetch(conn, "select username, extract(epoch from last_seen)::float8 from users order by 1")
    assert found == [("al", 9.0), ("bob", 1.5)]


async def test_the_first_contact_with_the_lobby(conn, table):
    await append(conn, [row(i) for i in range(4)])
    await table.meet_lobby([Meeting("al", event_id(LOBBY_SLOT, 3)), Meeting("bob", event_id(LOBBY_SLOT, 9))])
    cursors = "select username, delivered_seq, read_seq from cursors where conversation = 'lobby' order by 1"
    assert await fetch(conn, cursors) == [("al", 3, 3), ("bob", 4, 4)]  # what came behind al's position is unread
    await table.meet_lobby([Meeting("al", event_id(LOBBY_SLOT, 4))])
    assert (await fetch(conn, cursors))[0] == ("al", 3, 3)


async def test_the_first_contact_with_an_empty_lobby(conn, table):
    await table.meet_lobby([Meeting("al", event_id(LOBBY_SLOT, 0))])
    assert await fetch(conn, "select username, conversation, delivered_seq, read_seq from cursors") == [
        ("al", LOBBY, 0, 0)
    ]


# --- reads -------------------------------------------------------------------------------------------


async def test_the_conversations_of_a_user(conn, table):
    await append(conn, [row(i, AL_BOB) for i in range(5)] + [row(9, direct("bob", "eve"), sender="eve")])
    await append(conn, [row(20 + i) for i in range(3)])
    await table.meet_lobby([Meeting("al", event_id(LOBBY_SLOT, 2))])
    await move(conn, Movement("al", AL_BOB, 4, 2), Movement("bob", AL_BOB, 5, 1))
    found = await table.conversations([Question(0, "al", EVERYTHING), Question(1, "eve", EVERYTHING)])
    assert [msgspec.to_builtins(one) for one in found] == [
        [0, AL_BOB, 4, 2, 5, 3, "bob", 5, 1],
        [0, LOBBY, 2, 2, 3, 1, None, None, None],
        [1, direct("bob", "eve"), 0, 0, 1, 1, "bob", 0, 0],
    ]
    assert await table.conversations([Question(0, "nobody", EVERYTHING)]) == []


async def test_what_is_past_the_asker_s_positions_is_left_out(conn, table):
    await append(conn, [row(i, AL_BOB) for i in range(5)])
    positions = list(EVERYTHING)

    async def end(n: int) -> tuple[int, int]:
        positions[slot_of(AL_BOB)] = n
        (one,) = await table.conversations([Question(0, "bob", positions)])
        return one.last_seq, one.unread

    assert [await end(n) for n in (0, 1, 4, 5, 6)] == [(0, 0), (1, 1), (4, 4), (5, 5), (5, 5)]
    await move(conn, Movement("bob", AL_BOB, 3, 3))
    assert [await end(n) for n in (0, 1, 4, 5)] == [(0, 0), (1, 0), (4, 1), (5, 2)]  # read past what is seen here


async def test_positions_are_those_of_the_conversation_s_own_slot(conn, table):
    await append(conn, [row(0, AL_BOB)])
    positions = [0] * 64
    assert (await table.conversations([Question(0, "al", positions)]))[0].last_seq == 0
    positions[slot_of(AL_BOB)] = 1
    assert (await table.conversations([Question(0, "al", positions)]))[0].last_seq == 1


async def test_unread_counts_messages_not_events(conn, table):
    await append(conn, [row(0, AL_BOB, seq=0, ordinal=0)])
    await append(conn, [row(1, AL_BOB, n=1, seq=6, ordinal=1)])  # between them five events that are no messages
    await move(conn, Movement("bob", AL_BOB, 4, 4))
    (one,) = await table.conversations([Question(0, "bob", EVERYTHING)])
    assert (one.last_seq, one.unread) == (7, 1)


async def test_the_other_side_of_a_note_to_oneself(conn, table):
    await append(conn, [row(0, direct("al", "al"), recipient="al")])
    (one,) = await table.conversations([Question(0, "al", EVERYTHING)])
    assert (one.conversation, one.last_seq, one.other) == ("direct:al:al", 1, None)


async def test_the_newest_and_the_oldest_events(conn, table):
    await append(conn, [row(i, content=f"m{i + 1}", extra={"reply_to": i} if i else None) for i in range(6)])
    await append(conn, [row(10, AL_BOB)])

    async def seqs(method, *parts: Part) -> dict[int, list[int]]:
        return {i: [one.seq for one in rows] for i, rows in (await method(list(parts))).items()}

    parts = [
        Part(0, LOBBY, 1, 5, 2),
        Part(1, AL_BOB, 0, 9, 5),
        Part(2, LOBBY, 4, 99, 5),
        Part(3, "direct:x:y", 0, 9, 5),
    ]
    assert await seqs(table.newest, *parts) == {0: [4, 5], 1: [1], 2: [5, 6]}
    assert await seqs(table.oldest, *parts) == {0: [2, 3], 1: [1], 2: [5, 6]}
    assert (await table.oldest([Part(0, LOBBY, 1, 2, 1)]))[0] == [
        Row(event_id(LOBBY_SLOT, 2), LOBBY, 2, 2, "al", None, "m2", "key-000000000001", {"reply_to": 1}, AT)
    ]


async def test_of_large_events_no_more_is_read_than_shows_that_there_is_more(conn, table):
    await append(conn, [row(i, content="€" * 10) for i in range(6)])  # thirty bytes each

    async def seqs(method, *, count: int, size: int) -> list[int]:
        return [one.seq for one in (await method([Part(0, LOBBY, 0, 9, count, size)])).get(0, [])]

    assert await seqs(table.newest, count=6, size=180) == [1, 2, 3, 4, 5, 6]
    assert await seqs(table.newest, count=6, size=89) == [4, 5, 6]
    assert await seqs(table.newest, count=6, size=90) == [3, 4, 5, 6]
    assert await seqs(table.oldest, count=6, size=89) == [1, 2, 3]
    assert await seqs(table.oldest, count=3, size=500) == [1, 2, 3]
    assert await seqs(table.newest, count=6, size=1) == [5, 6]
    assert await seqs(table.oldest, count=1, size=1) == [1]


async def test_what_is_read_back_is_what_was_said(conn, scribe, table):
    one = send(7, "bob", "al", "ü\n€", key="my key, my own key", reply_to=0, mentions=("al", "李雷"))
    (stored,) = await scribe.write(one)
    part = scribe.sequencer.replay(slot_of(AL_BOB), 0)
    rows = await table.newest([Part(0, AL_BOB, 0, 1, 5)])
    assert payload_of_row(rows[0][0]) in part.entries[0].event
    assert b'"client_id":"my key, my own key"' in payload_of_row(rows[0][0])
    assert stored.fresh


async def test_the_end_of_a_conversation(conn, table):
    assert await table.last_seq(LOBBY) == 0
    await append(conn, [row(i) for i in range(3)])
    assert await table.last_seq(LOBBY) == 3
    assert await table.last_seq(AL_BOB) == 0


async def test_a_slot_s_log_by_id(conn, table):
    other = next(name for i in range(10_000) if slot_of(name := direct("al", f"u{i}")) == LOBBY_SLOT)
    await append(conn, [row(0), row(1, other), row(2), row(3, AL_BOB)])
    rows = await table.slot_log(event_id(LOBBY_SLOT, 0), event_id(LOBBY_SLOT, 9), 10)
    assert [(split_id(one.id)[1], one.conversation) for one in rows] == [(1, LOBBY), (2, other), (3, LOBBY)]
    rows = await table.slot_log(event_id(LOBBY_SLOT, 1), event_id(LOBBY_SLOT, 3), 1)
    assert [split_id(one.id)[1] for one in rows] == [2]
    rows = await table.slot_log(event_id(LOBBY_SLOT, 1), event_id(LOBBY_SLOT, 3), 10)
    assert [split_id(one.id)[1] for one in rows] == [2, 3]
    assert await table.slot_log(event_id(LOBBY_SLOT, 3), event_id(LOBBY_SLOT, 3), 10) == []


async def test_the_last_number_of_each_slot(conn):
    assert await fetch(conn, "last_numbers", [0, 63]) == [(0, 0), (63, 0)]
    await append(conn, [row(0, n=6), row(1, AL_BOB, n=2)])
    slots = sorted({0, slot_of(AL_BOB), LOBBY_SLOT, 63})
    numbers = dict(await fetch(conn, "last_numbers", slots))
    assert numbers == dict.fromkeys(slots, 0) | {LOBBY_SLOT: 7, slot_of(AL_BOB): 3}


# --- locks, terms, epoch -----------------------------------------------------------------------------


async def lock(conn, *slots: int) -> list[int]:
    return sorted(slot for (slot,) in await fetch(conn, "lock_slots", list(slots)))


async def test_a_slot_has_one_holder(conn, database):
    async with await connect(database, WRITER_OPTIONS) as other:
        assert await lock(conn, 1, 2, 3) == [1, 2, 3]
        assert await lock(other, 2, 3, 4) == [4]
        await conn.close()
        for _ in range(1_000):  # the backend of the closed session takes a moment to end
            if await lock(other, 2) == [2]:
                break
        else:
            pytest.fail("the lock of a closed session was not freed")
        assert await lock(other, 1, 3) == [1, 3]


async def test_terms_grow(conn):
    assert sorted(await fetch(conn, "raise_terms", [3, 4])) == [(3, 1), (4, 1)]
    assert await fetch(conn, "raise_terms", [4]) == [(4, 2)]
    assert await fetch(conn, "select count(*), sum(term) from slots") == [(64, 3)]


async def test_a_session_that_falls_silent_frees_its_locks(database, conn):
    """A stopped store must not keep its slots. Its session says nothing for longer than it may."""
    assert await fetch(conn, "show idle_session_timeout") == [("5s",)]
    quick = WRITER_OPTIONS.replace(f"idle_session_timeout={store_database.IDLE_SESSION_MS}", "idle_session_timeout=300")
    assert quick != WRITER_OPTIONS
    async with await connect(database, READER_OPTIONS) as watching:
        stopped = await connect(database, quick)
        assert await lock(stopped, 7) == [7]
        assert await lock(conn, 7) == []
        (pid,) = (await fetch(stopped, "select pg_backend_pid()"))[0]
        while await fetch(watching, "select 1 from pg_stat_activity where pid = $1", pid):
            pass
        assert await lock(conn, 7) == [7]
        with pytest.raises(psycopg.OperationalError):
            await stopped.execute("select 1")
        await stopped.close()


async def test_a_session_commits_durably(conn):
    assert await fetch(conn, "show synchronous_commit") == [("on",)]


async def test_there_is_one_epoch(conn):
    ((epoch,),) = await fetch(conn, "read_epoch")
    assert 150_000_000 < epoch < 2**31  # seconds since 2020: later incarnations are larger, and fit a wire term
    with pytest.raises(psycopg.errors.UniqueViolation):
        await conn.execute("insert into epoch (epoch) values (1)")


# --- plans -------------------------------------------------------------------------------------------


async def test_no_statement_reads_a_whole_table(conn, database):
    """Whatever the statistics say: a batch must not slow down as the table grows."""
    # So few rows that PostgreSQL, which knows it, would rather read them all.
    await append(conn, [row(i, direct("al", f"u{i}"), recipient=f"u{i}") for i in range(10)])
    await conn.execute("analyze messages, cursors")
    parameters: dict[str, list[Any]] = {
        "append_messages": [encode([row(0)]).decode()],
        "move_cursors": [encode([Movement("al", LOBBY, 1, 1)]).decode()],
        "last_numbers": [[1, 2]],
        "list_conversations": [encode([Question(0, "al", EVERYTHING)]).decode()],
        "newest_events": [encode([Part(0, LOBBY, 0, 1, 5)]).decode()],
        "oldest_events": [encode([Part(0, LOBBY, 0, 1, 5)]).decode()],
        "meet_lobby": [encode([Meeting("al", 3)]).decode()],
        "last_seq": [LOBBY],
        "slot_log": [1, 2, 3],
    }
    async with await connect(database, READER_OPTIONS) as reader:
        for name, given in parameters.items():
            session = conn if name in ("append_messages", "last_numbers") else reader
            plan = "\n".join(line for (line,) in await fetch(session, "explain " + STATEMENTS[name], *given))
            assert "Seq Scan on messages" not in plan, f"{name}\n{plan}"
            assert "Seq Scan on cursors" not in plan, f"{name}\n{plan}"


# --- schema ------------------------------------------------------------------------------------------

_CATALOG = {
    "columns": """select table_name, ordinal_position, column_name, data_type, is_nullable, column_default,
                         col_description(format('public.%I', table_name)::regclass, ordinal_position)
                  from information_schema.columns where table_schema = 'public' order by 1, 2""",
    "constraints": """select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
                      where connamespace = 'public'::regnamespace order by 1, 2""",
    "indexes": "select tablename, indexname, indexdef from pg_indexes where schemaname = 'public' order by 1, 2",
    "views": "select viewname, definition from pg_views where schemaname = 'public' order by 1",
    "relations": """select relname, relkind::text, reloptions, obj_description(oid, 'pg_class') from pg_class
                    where relnamespace = 'public'::regnamespace order by 1""",
    "functions": "select proname from pg_proc where pronamespace = 'public'::regnamespace order by 1",
    "triggers": "select tgname, pg_get_triggerdef(oid) from pg_trigger where not tgisinternal order by 1",
    "types": """select typname, typtype::text from pg_type
                where typnamespace = 'public'::regnamespace and typtype in ('d', 'e') order by 1""",
}


async def catalog(conn) -> dict[str, list[Any]]:
    return {name: await fetch(conn, statement) for name, statement in _CATALOG.items()}


async def test_the_schema_file_is_what_the_migrations_make(conn, empty_database):
    async with await connect(empty_database, WRITER_OPTIONS) as other:
        for statement in store_database._split((store_database._sql() / "schema.sql").read_text(encoding="utf-8")):
            await other.execute(statement)
        migrated, written = await catalog(conn), await catalog(other)
    assert migrated == written
    assert len(migrated["columns"]) > 30 and len(migrated["constraints"]) > 10 and len(migrated["views"]) == 1


async def test_migrating_twice_changes_nothing(empty_database):
    async with await connect(empty_database, WRITER_OPTIONS) as conn:
        assert await migrate(conn) == [name for _, name, _ in migrations()]
        before = (
            await catalog(conn),
            await fetch(conn, "read_epoch"),
            await fetch(conn, "select * from schema_migrations"),
        )
        assert await migrate(conn) == []
        after = (
            await catalog(conn),
            await fetch(conn, "read_epoch"),
            await fetch(conn, "select * from schema_migrations"),
        )
        assert before == after
        assert await fetch(conn, "select pg_advisory_unlock($1)", MIGRATION_LOCK) == [(False,)]  # it let go of its lock


async def test_a_schema_from_the_future_is_refused(conn):
    await conn.execute("insert into schema_migrations (number, name) values (9999, '9999_later.sql')")
    with pytest.raises(DatabaseUnfit, match="migration 9999, which this version of Hubbub does not know"):
        await migrate(conn)
    assert await fetch(conn, "select 1") == [(1,)]


async def test_a_migration_that_fails_leaves_nothing_behind(empty_database, monkeypatch):
    bad = (2, "0002_bad.sql", "create table half (n int);\nselect 1 / 0;\n")
    monkeypatch.setattr(store_database, "migrations", lambda found=migrations(): [*found[:1], bad])  # noqa: B008
    async with await connect(empty_database, WRITER_OPTIONS) as conn:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await migrate(conn)
        assert await fetch(conn, "select number from schema_migrations") == [(1,)]
        assert await fetch(conn, "select to_regclass('half')") == [(None,)]


async def test_two_stores_that_start_at_once_migrate_once(empty_database):
    async with (
        await connect(empty_database, WRITER_OPTIONS) as one,
        await connect(empty_database, WRITER_OPTIONS) as two,
    ):
        await one.execute("select pg_advisory_lock($1)", [MIGRATION_LOCK])
        waiting = asyncio.create_task(migrate(two))
        waits = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        while not await fetch(one, waits):
            assert not waiting.done()
        await one.execute("select pg_advisory_unlock($1)", [MIGRATION_LOCK])
        assert await waiting == [name for _, name, _ in migrations()]
        assert await migrate(one) == []


# --- fitness -----------------------------------------------------------------------------------------


async def test_a_server_that_may_lose_what_it_acknowledged_is_refused(conn, postgres):
    await check(conn)
    if not postgres.embedded:
        pytest.skip("the server is not ours to change")
    for setting in ("fsync", "full_page_writes"):
        try:
            await change(conn, f"alter system set {setting} = off", setting, "off")
            with pytest.raises(DatabaseUnfit, match=f"{setting}=off"):
                await check(conn)
        finally:
            await change(conn, f"alter system reset {setting}", setting, "on")
    await check(conn)


async def change(conn, statement: str, setting: str, wanted: str) -> None:
    """Change a setting of the whole server and wait until this session has it."""
    await conn.execute(statement)
    await conn.execute("select pg_reload_conf()")
    while await fetch(conn, f"show {setting}") != [(wanted,)]:
        pass
