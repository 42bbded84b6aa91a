"""The sequencer's decisions, with a table of dicts in place of the database."""

import json

import pytest

from hubbub.bus.batch import decode_log_event
from hubbub.protocol.conversation import LOBBY, event_id, slot_of
from hubbub.protocol.internal import Known, Range, Refused, wire_term
from store import sequencer as sequencer_module
from store.sequencer import Batch, InputRow, Sequencer, StoredRow
from tests.builders import LOBBY_SLOT, numbers, send

P = b"peer"
AT = 1_767_225_600_123  # 2026-01-01T00:00:00.123Z


class Table:
    """What `append_messages` does, in a few lines."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], tuple[int, int, int, int, InputRow]] = {}

    def write(self, batch: Batch) -> list[StoredRow]:
        found: list[StoredRow] = []
        fresh: dict[object, int] = {}
        for row in batch.rows:
            key = (row.conversation, row.sender, row.key)
            if key in self.rows:
                id_, seq, ordinal, at, old = self.rows[key]
                same = (old.content, old.extra) == (row.content, row.extra)
                found.append(StoredRow(row.i, id_, seq, ordinal, at, False, same))
                continue
            fresh[row.slot] = fresh.get(row.slot, 0) + 1
            fresh[row.conversation] = fresh.get(row.conversation, 0) + 1
            last = [(s, o) for _, s, o, _, r in self.rows.values() if r.conversation == row.conversation]
            base = max(last, default=(0, 0)) if row.seq is None else (row.seq, row.ordinal or 0)
            place = (event_id(row.slot, row.n + fresh[row.slot]), base[0], base[1] + fresh[row.conversation])
            found.append(StoredRow(row.i, place[0], base[0] + fresh[row.conversation], place[2], row.at, True, True))
        for one in found:
            if one.fresh:
                row = batch.rows[one.i]
                self.rows[row.conversation, row.sender, row.key] = (one.id, one.seq, one.ordinal, one.at, row)
        return found


class Slot:
    """A sequencer that owns some slots."""

    def __init__(self, *, queue: int = 100, batch: int = 10, term: int = 1, n: int = 0, table: Table | None = None):
        self.table = table or Table()
        self.sequencer = Sequencer(queue_max=queue, batch_max=batch)
        self.sequencer.take(5, [(slot, term, n) for slot in range(64)])

    def offer(self, *sends, peer=P):
        for one in sends:
            self.sequencer.offer(peer, one)

    def commit(self) -> list[Range]:
        batch = self.sequencer.batch(AT)
        assert batch is not None
        ranges = self.sequencer.stored(batch, self.table.write(batch))
        self.sequencer.landed()
        return ranges

    def replies(self):
        found = list(self.sequencer.replies)
        self.sequencer.replies.clear()
        return found


@pytest.fixture
def slot():
    return Slot()


def events(ranges: list[Range]):
    return [decode_log_event(entry.event) for part in ranges for entry in part.entries]


def test_a_message_gets_its_place(slot):
    slot.offer(send(4, "al", "bob", "hi", key="k" * 16))
    (part,) = slot.commit()
    conversation = "direct:al:bob"
    assert (part.slot, part.term, part.after, part.to) == (slot_of(conversation), wire_term(5, 1), 0, 1)
    assert part.entries[0].topics == ["user.al", "user.bob"]
    (event,) = events([part])
    assert (event.id, event.conversation, event.seq) == (event_id(slot_of(conversation), 1), conversation, 1)
    assert (event.origin, event.no, event.timestamp) == ("s0.1", 4, "2026-01-01T00:00:00.123Z")
    assert json.loads(event.payload) == {
        "type": "message", "id": event.id, "conversation": conversation, "seq": 1, "ordinal": 1, "sender": "al",
        "recipient": "bob", "content": "hi", "timestamp": "2026-01-01T00:00:00.123Z", "client_id": "k" * 16,
    }  # fmt: skip
    assert slot.replies() == []  # the event is the answer


def test_numbers_go_on_over_batches(slot):
    slot.offer(send(1), send(2), send(3, "al", "bob"))
    slot.commit()
    slot.offer(send(4), send(5, "al", "bob"))
    ranges = slot.commit()
    assert sorted(numbers(ranges)) == sorted([
        (2, 3, [event_id(LOBBY_SLOT, 3)]),
        (1, 2, [event_id(slot_of("direct:al:bob"), 2)]),
    ])  # fmt: skip
    assert sorted(event.seq for event in events(ranges)) == [2, 3]


def test_a_slot_goes_on_where_the_table_ends():
    slot = Slot(n=41)
    slot.offer(send(1))
    assert numbers(slot.commit()) == [(41, 42, [event_id(LOBBY_SLOT, 42)])]


def test_what_arrives_meanwhile_is_the_next_batch(slot):
    slot.offer(send(1))
    first = slot.sequencer.batch(AT)
    slot.offer(send(2), send(3))
    assert slot.sequencer.batch(AT) is None
    slot.sequencer.stored(first, slot.table.write(first))
    assert slot.sequencer.batch(AT) is None  # until it has landed
    slot.sequencer.landed()
    assert len(slot.sequencer.batch(AT).rows) == 2
    assert slot.sequencer.batch(AT) is None


def test_a_batch_is_bounded():
    slot = Slot(batch=2)
    slot.offer(*[send(no) for no in range(5)])
    assert [len(events(slot.commit())) for _ in range(3)] == [2, 2, 1]
    assert slot.sequencer.batch(AT) is None


def test_nothing_is_remembered_before_the_commit(slot):
    slot.offer(send(1))
    slot.sequencer.batch(AT)
    assert slot.sequencer.last(LOBBY_SLOT) == 0
    assert slot.sequencer.replay(LOBBY_SLOT, 0).entries == []
    assert slot.sequencer.watermarks()[LOBBY_SLOT].to == 0
    assert slot.replies() == []


def test_a_known_key_is_answered_with_its_first_place(slot):
    slot.offer(send(1, key="k" * 16))
    slot.commit()
    slot.offer(send(7, key="k" * 16, origin="s1.1"), send(8), peer=b"other")
    ranges = slot.commit()
    assert len(events(ranges)) == 1  # it burns no number and fails no neighbour
    assert slot.replies() == [(b"other", Known(7, event_id(LOBBY_SLOT, 1), 1, "2026-01-01T00:00:00.123Z"))]


def test_a_known_key_with_another_content_is_a_conflict(slot):
    slot.offer(send(1, key="k" * 16))
    slot.commit()
    slot.offer(send(2, content="other", key="k" * 16))
    assert slot.commit() == []
    ((peer, refused),) = slot.replies()
    assert isinstance(refused, Refused)
    assert (peer, refused.no, refused.code, refused.stored) == (P, 2, "CONFLICT", "no")
    assert slot.sequencer.refused == 1


def test_a_key_is_for_one_sender_and_conversation(slot):
    slot.offer(send(1, key="k" * 16), send(2, "bob", key="k" * 16), send(3, "al", "bob", key="k" * 16))
    assert len(events(slot.commit())) == 3


@pytest.mark.parametrize("flying", [False, True])
def test_the_same_key_twice_before_the_commit_is_stored_once(slot, flying):
    slot.offer(send(1, key="k" * 16))
    first = slot.sequencer.batch(AT) if flying else None
    slot.offer(send(9, key="k" * 16, origin="s1.1"), peer=b"other")
    if first is None:
        ranges = slot.commit()
    else:
        ranges = slot.sequencer.stored(first, slot.table.write(first))
    (event,) = events(ranges)
    assert (event.origin, event.no) == ("s0.1", 1)
    assert slot.replies() == [(b"other", Known(9, event.id, 1, event.timestamp))]


def test_the_same_request_over_a_newer_link_is_answered_there(slot):
    slot.offer(send(1, key="k" * 16))
    slot.commit()
    slot.offer(send(2, key="k" * 16))
    slot.offer(send(2, key="k" * 16, resent=True), peer=b"newer")
    slot.commit()
    ((peer, known),) = slot.replies()
    assert (peer, known.no) == (b"newer", 2)


@pytest.mark.parametrize(
    "other", [{"content": "other"}, {"reply_to": 1}, {"mentions": ("bob",)}], ids=["content", "reply_to", "mentions"]
)
def test_the_same_key_with_something_else_waits_for_the_table_s_word(slot, other):
    slot.offer(send(1, key="k" * 16), send(2, key="k" * 16, **other))
    (event,) = events(slot.commit())
    assert (event.no, slot.replies()) == (1, [])
    slot.offer(send(2, key="k" * 16, **other))  # its shard asks again
    assert slot.commit() == []
    ((_, refused),) = slot.replies()
    assert (refused.no, refused.code, refused.stored) == (2, "CONFLICT", "no")


def test_a_full_queue_says_so_at_once():
    slot = Slot(queue=2)
    slot.offer(send(1), send(2), send(3))
    ((peer, refused),) = slot.replies()
    assert (peer, refused.no, refused.code, refused.stored, refused.retry_after_ms) == (P, 3, "OVERLOADED", "no", 1000)
    assert len(slot.sequencer) == 2
    slot.offer(send(2))  # this one is in the queue
    assert slot.replies() == []


def test_of_a_send_that_comes_again_nobody_says_that_it_is_not_stored():
    slot = Slot(queue=0)
    slot.offer(send(1, resent=True))
    assert slot.replies() == []


def test_without_the_slot_it_is_silent(slot):
    slot.sequencer.lose()
    slot.offer(send(1))
    assert (len(slot.sequencer), slot.replies(), slot.sequencer.batch(AT)) == (0, [], None)


def test_what_is_lost_with_the_slots(slot):
    slot.offer(send(1), send(2))
    slot.sequencer.batch(AT)
    slot.offer(send(3))
    slot.sequencer.lose()
    assert (slot.sequencer.terms, len(slot.sequencer), slot.sequencer.watermarks()) == ({}, 0, [])
    slot.sequencer.take(5, [(LOBBY_SLOT, 2, 7)])
    slot.offer(send(1, resent=True))
    batch = slot.sequencer.batch(AT)
    assert [(row.n, row.seq, row.ordinal) for row in batch.rows] == [(7, None, None)]  # bases: from the table
    assert slot.sequencer.terms == {LOBBY_SLOT: wire_term(5, 2)}


def test_ends_are_remembered_up_to_a_bound(slot, monkeypatch):
    monkeypatch.setattr(sequencer_module, "ENDS_MAX", 2)
    for name in ("b", "c", "d"):
        slot.offer(send(1, "a", name))
        slot.commit()
    slot.offer(*[send(2, "a", name, key="l" * 16) for name in ("b", "c", "d")])
    batch = slot.sequencer.batch(AT)
    assert [row.seq for row in batch.rows] == [None, 1, 1]
    slot.sequencer.stored(batch, slot.table.write(batch))
    assert sorted(seq for _, seq, *_ in slot.table.rows.values()) == [1, 1, 1, 2, 2, 2]


def test_a_replay_from_memory_in_chunks(slot, monkeypatch):
    monkeypatch.setattr(sequencer_module, "REPLAY_EVENTS", 2)
    slot.offer(*[send(no) for no in range(5)])
    slot.commit()
    ids = [event_id(LOBBY_SLOT, n) for n in range(1, 6)]
    replay = slot.sequencer.replay
    assert numbers([replay(LOBBY_SLOT, n) for n in range(7)]) == [
        (0, 2, ids[:2]), (1, 3, ids[1:3]), (2, 4, ids[2:4]), (3, 5, ids[3:]), (4, 5, ids[4:]), (5, 5, []), (5, 5, []),
    ]  # fmt: skip


def test_memory_does_not_reach_back_for_ever(slot, monkeypatch):
    monkeypatch.setattr(sequencer_module, "RING_BYTES", 1000)
    for no in range(10):
        slot.offer(send(no, content="x" * 200))
        slot.commit()
    assert slot.sequencer.replay(LOBBY_SLOT, 0) is None
    kept = [n for n in range(10) if slot.sequencer.replay(LOBBY_SLOT, n) is not None]
    assert kept == [8, 9] or kept == [7, 8, 9]
    assert numbers([slot.sequencer.replay(LOBBY_SLOT, 9)]) == [(9, 10, [event_id(LOBBY_SLOT, 10)])]


def test_memory_begins_where_the_slot_was_taken():
    slot = Slot(n=10)
    assert slot.sequencer.replay(LOBBY_SLOT, 9) is None
    assert numbers([slot.sequencer.replay(LOBBY_SLOT, 10)]) == [(10, 10, [])]


def test_a_replay_from_the_table_after_the_slot_is_lost(slot):
    assert slot.sequencer.replayed(3, 4, 9, []) == Range(3, wire_term(5, 1), 4, 9, [])
    slot.sequencer.lose()
    assert slot.sequencer.replayed(3, 4, 9, []) is None


def test_row_by_row_each_goes_on_from_the_one_before(slot):
    slot.offer(send(1), send(2, content="bad"), send(3))
    batch = slot.sequencer.batch(AT)
    ranges = []
    for single in slot.sequencer.singles(batch):
        if single.rows[0].content == "bad":
            slot.sequencer.refuse_content(single, "it said")
        else:
            ranges += slot.sequencer.stored(single, slot.table.write(single))
    assert numbers(ranges) == [(0, 1, [event_id(LOBBY_SLOT, 1)]), (1, 2, [event_id(LOBBY_SLOT, 2)])]
    ((peer, refused),) = slot.replies()
    assert (peer, refused.no, refused.code, refused.stored) == (P, 2, "BAD_REQUEST", "no")
    assert "it said" in refused.message
    slot.sequencer.landed()
    slot.offer(send(2, content="bad"))
    assert slot.sequencer.batch(AT) is not None  # its key is free again


def test_a_table_that_numbers_otherwise_stops_the_store(slot):
    slot.offer(send(1))
    batch = slot.sequencer.batch(AT)
    rows = slot.table.write(batch)
    wrong = StoredRow(0, rows[0].id + 1, 1, 1, AT, True, True)
    with pytest.raises(RuntimeError, match="numbered otherwise"):
        slot.sequencer.stored(batch, [wrong])


def test_a_row_that_does_not_come_back_stops_the_store(slot):
    slot.offer(send(1), send(2))
    batch = slot.sequencer.batch(AT)
    with pytest.raises(RuntimeError, match="2 rows were written, 1 came back"):
        slot.sequencer.stored(batch, slot.table.write(batch)[:1])


def test_what_few_messages_carry(slot):
    slot.offer(send(1, reply_to=3, mentions=("bob", "eve")), send(2, key="~s0#1"))
    batch = slot.sequencer.batch(AT)
    assert [row.extra for row in batch.rows][1] is None
    one, two = (json.loads(event.payload) for event in events(slot.sequencer.stored(batch, slot.table.write(batch))))
    assert (one["reply_to"], one["mentions"]) == (3, ["bob", "eve"])
    assert not {"reply_to", "mentions", "client_id", "recipient"} & two.keys()
    assert batch.rows[0].conversation == LOBBY
