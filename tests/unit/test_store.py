"""The store's core between bus and database: who is answered, what is published, what is kept silent."""

import pytest

from hubbub.protocol.conversation import event_id, split_id, user_slot
from hubbub.protocol.internal import (
    Attend,
    Backlog,
    Cursor,
    Done,
    HistoryRows,
    Known,
    MoveCursors,
    Online,
    Range,
    ReadHistory,
    Refused,
    Replay,
    Sync,
    WhoIsOnline,
    wire_term,
)
from hubbub.protocol.limits import WATERMARK_EVERY, Limits
from store.core import Store
from store.events import Row
from tests.builders import LOBBY_SLOT, NotingBus, numbers, send
from tests.unit.test_sequencer import AT, Table

P, Q = b"shard-p", b"shard-q"
ALL = list(range(64))


class Process:
    """A store with a bus that takes notes and a table of dicts."""

    def __init__(self, **limits: int) -> None:
        self.core = Store(Limits(**limits))
        self.bus = NotingBus()
        self.core.connect(self.bus)
        self.table = Table()

    def take(self, slots=ALL, term=1, n=0):
        self.core.taken(5, [(slot, term, n) for slot in slots])
        self.core.flush()
        self.bus.published.clear()

    def ask(self, *requests, peer=P):
        self.core.requests(peer, list(requests), 0.0)
        self.core.flush()

    def commit(self):
        batch = self.core.sequencer.batch(AT)
        assert batch is not None
        self.core.stored(batch, self.table.write(batch))
        self.core.sequencer.landed()
        self.core.flush()


@pytest.fixture
def store():
    process = Process()
    process.take()
    return process


def test_without_a_bus_there_is_nothing_to_say():
    with pytest.raises(RuntimeError):
        _ = Store(Limits()).bus


def test_taken_slots_are_declared_and_marked():
    process = Process()
    process.core.taken(5, [(3, 7, 20), (4, 9, 0)])
    process.core.flush()
    assert process.bus.owned == [{3: wire_term(5, 7), 4: wire_term(5, 9)}]
    assert process.bus.published == [Range(3, wire_term(5, 7), 20, 20, []), Range(4, wire_term(5, 9), 0, 0, [])]


def test_nothing_is_published_before_the_commit(store):
    store.ask(send(1), send(2))
    batch = store.core.sequencer.batch(AT)
    store.core.flush()
    assert (store.bus.published, store.bus.replied) == ([], [])
    store.core.stored(batch, store.table.write(batch))
    store.core.flush()
    assert numbers(store.bus.published) == [(0, 2, [event_id(LOBBY_SLOT, 1), event_id(LOBBY_SLOT, 2)])]
    assert (store.core.stored_messages, store.core.duplicates) == (2, 0)


def test_a_repeated_send_is_answered_alone(store):
    store.ask(send(1, key="k" * 16))
    store.commit()
    store.bus.published.clear()
    store.ask(send(2, key="k" * 16), peer=Q)
    store.commit()
    assert store.bus.published == []
    ((peer, known),) = store.bus.replied
    assert (peer, type(known), known.no, known.seq) == (Q, Known, 2, 1)
    assert store.core.duplicates == 1


def test_cursors_are_answered_when_they_are_committed(store):
    store.ask(MoveCursors(4, [Cursor("bob", "direct:al:bob", 5, 5)]))
    assert store.bus.replied == []
    store.core.moved(store.core.cursors.batch(), [Cursor("bob", "direct:al:bob", 3, 3)])
    store.core.flush()
    assert store.bus.replied == [(P, Done(4))]
    assert [one.topic for one in store.bus.signalled] == ["user.al", "user.bob"]
    assert b'"delivered_seq":3' in store.bus.signalled[0].payload


def test_a_replay_from_memory_goes_to_its_asker_alone(store):
    store.ask(send(1), send(2))
    store.commit()
    store.bus.published.clear()
    store.ask(Replay(LOBBY_SLOT, 1), peer=Q)
    assert store.bus.published == []
    ((peer, part),) = store.bus.replayed
    assert (peer, numbers([part])) == (Q, [(1, 2, [event_id(LOBBY_SLOT, 2)])])
    assert store.core.replays == 1


def test_a_replay_from_the_table():
    process = Process()
    process.take(n=10)
    process.ask(Replay(LOBBY_SLOT, 4))
    assert process.bus.replayed == []
    ((peer, request),) = process.core.reads
    assert type(request) is Replay
    found = [Row(event_id(LOBBY_SLOT, n), "lobby", n, n, "al", None, "hi", "k" * 16, None, 0) for n in (5, 6, 7)]
    process.core.answer_replay(peer, request, 10, found, 3)  # cut at the limit: covers what is there
    process.core.answer_replay(peer, request, 10, found, 4)  # all there is: covers up to the end
    process.core.flush()
    ids = [row.id for row in found]
    assert [(peer, *numbers([part])) for peer, part in process.bus.replayed] == [(P, (4, 7, ids)), (P, (4, 10, ids))]
    assert [split_id(event) for event in ids] == [(LOBBY_SLOT, 5), (LOBBY_SLOT, 6), (LOBBY_SLOT, 7)]


def test_without_its_lock_a_store_answers_nothing_about_a_slot():
    process = Process()
    process.take(slots=[0])
    slot = user_slot("al")
    assert slot and LOBBY_SLOT
    process.ask(send(1), Replay(LOBBY_SLOT, 0), WhoIsOnline(2, slot, None), Attend("s0", slot, 1, ["al"], [], False))
    assert (process.bus.replied, process.bus.replayed, process.core.reads) == ([], [], [])
    assert len(process.core.sequencer) == 0
    assert len(process.core.presence) == 0
    assert process.core.replays == 0


def test_lost_is_lost(store):
    store.ask(
        send(1), MoveCursors(4, [Cursor("bob", "lobby", 5, 5)]), Attend("s0", user_slot("al"), 1, ["al"], [], False)
    )
    store.core.tick(1.0)  # marks that are not yet published
    store.core.lost()
    store.core.flush()
    assert store.bus.owned[-1] == {}
    assert (store.bus.published, store.bus.replied) == ([], [])
    assert len(store.core.cursors) == len(store.core.sequencer) == len(store.core.presence) == 0
    store.core.tick(2.0)
    store.core.flush()
    assert store.bus.published == []


def test_a_new_link_is_told_where_the_logs_are(store):
    store.core.linked(0.0)
    store.core.flush()
    assert [(part.slot, part.after, part.to) for part in store.bus.published] == [(slot, 0, 0) for slot in ALL]


def test_watermarks_four_times_a_second(store):
    store.core.tick(10.0)
    store.core.tick(10.0 + WATERMARK_EVERY - 0.01)
    store.core.flush()
    assert len(store.bus.published) == 64
    store.core.tick(10.0 + WATERMARK_EVERY)
    store.core.flush()
    assert len(store.bus.published) == 128


def test_reads_are_queued_up_to_a_bound():
    process = Process(store_queue=2)
    process.take()
    reads = [Sync(1, "al", {}, [0] * 64), Backlog(2, "al", {}, [0] * 64), ReadHistory(3, "lobby", None, None, 5)]
    process.ask(*reads)
    assert [read for _, read in process.core.reads] == reads[:2]
    assert process.bus.replied == []
    process.core.answer(P, HistoryRows(3, 0, 0, False, []))
    process.core.flush()
    assert process.bus.replied == [(P, HistoryRows(3, 0, 0, False, []))]


def test_a_replay_from_the_table_finds_the_queue_full():
    process = Process(store_queue=0)
    process.take(n=10)
    process.ask(Replay(LOBBY_SLOT, 4))
    assert process.core.reads == []


def test_sends_are_queued_up_to_a_bound():
    process = Process(store_queue=1)
    process.take()
    process.ask(send(1), send(2))
    ((peer, refused),) = process.bus.replied
    assert (peer, type(refused), refused.code, refused.stored) == (P, Refused, "OVERLOADED", "no")


def test_presence(store):
    slot = user_slot("al")
    store.ask(Attend("s0", slot, 3, [], [], False))
    assert store.bus.replied[0][1].slot == slot  # say it again, all of it
    store.ask(Attend("s0", slot, 3, ["al"], [], True), WhoIsOnline(9, slot, None), WhoIsOnline(10, slot, ["bob"]))
    assert store.bus.replied[1:] == [(P, Online(9, ["al"])), (P, Online(10, []))]
    store.core.tick(1.0)
    store.core.flush()
    assert "presence.al" in [one.topic for one in store.bus.signalled]


def test_what_the_bus_cannot_take_is_not_said_twice(store):
    store.ask(send(1))
    store.bus.takes = False
    store.commit()
    store.bus.takes = True
    store.core.flush()
    assert store.bus.published == []  # the next watermark shows the hole, and memory fills it
    store.ask(Replay(LOBBY_SLOT, 0))
    assert numbers([part for _, part in store.bus.replayed]) == [(0, 1, [event_id(LOBBY_SLOT, 1)])]


def test_replies_for_one_peer_travel_together(store, monkeypatch):
    calls = []
    monkeypatch.setattr(store.bus, "reply", lambda peer, replies: calls.append((peer, [one.no for one in replies])))
    store.core.requests(P, [WhoIsOnline(1, 0, None), WhoIsOnline(2, 1, None)], 0.0)
    store.core.requests(Q, [WhoIsOnline(3, 0, None)], 0.0)
    store.core.requests(P, [WhoIsOnline(4, 0, None)], 0.0)
    store.core.flush()
    assert calls == [(P, [1, 2, 4]), (Q, [3])]
