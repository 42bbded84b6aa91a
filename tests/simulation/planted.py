"""Faults put into the product's classes, to show that the simulator finds them.

Each is a list of ``(object, name, replacement)``. The last group is what the simulator found in our own
design, put back.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from broker.router import Router
from hubbub.bus import batch
from hubbub.bus.link import Link, LinkState
from hubbub.bus.log import Positions
from hubbub.protocol import messages
from hubbub.protocol.client import Client
from shards import frames
from shards.catchup import CatchUp
from shards.confirm import MARKER, Confirmations
from shards.hub import Hub
from shards.requests import Requests
from shards.topics import Topics
from store.core import Store
from store.sequencer import Sequencer, StoredRow
from store.writer import Writer
from tests.simulation.database import POISON, Database
from tests.simulation.history import Decision, Plan, make_plan, run
from tests.simulation.nodes import BrokerNode

Patch = tuple[Any, str, Any]


def _ack_before_commit() -> list[Patch]:
    append = Writer._append

    async def hurried(self: Any, conn: Any, one: Any) -> None:
        rows: list[StoredRow] = []
        ends: dict[str, int] = {}
        for i, row in enumerate(one.rows):
            seq = ends[row.conversation] = ends.get(row.conversation, row.seq or 0) + 1
            rows.append(StoredRow(row.i, (row.slot << 47) + row.n + i + 1, seq, seq, row.at, True, True))
        if len({row.slot for row in one.rows}) > 1 or any(row.seq is None for row in one.rows):
            return await append(self, conn, one)
        self._core.stored(one, rows)
        self._flush()
        await conn.execute(_APPEND, [_encode(one.rows).decode()])

    from store.writer import _APPEND, _encode

    return [(Writer, "_append", hurried)]


def _skipped_recovery() -> list[Patch]:
    def hole(self: Any, part: Any, slot: Any, now: float) -> None:
        slot.n = part.to

    return [(Positions, "_hole", hole)]


def _published_out_of_order() -> list[Patch]:
    publish = Sequencer._publish

    def reversed_(self: Any, index: int, events: Any) -> Any:
        part = publish(self, index, events)
        part.entries.reverse()
        return part

    return [(Sequencer, "_publish", reversed_)]


def _forgotten_key() -> list[Patch]:
    append = Database._append_messages

    def forgetful(self: Any, backend: Any, text: str) -> Any:
        if getattr(self, "last_backend", backend) is not backend:
            self.keys.clear()
        self.last_backend = backend
        return append(self, backend, text)

    return [(Database, "_append_messages", forgetful)]


def _attached_too_early() -> list[Patch]:
    want = Topics.want

    def hasty(self: Any, topics: Any, then: Callable[[float], None], now: float) -> None:
        want(self, topics, lambda now: None, now)
        then(now)

    return [(Topics, "want", hasty)]


def _positions_off_by(step: int) -> Callable[[], list[Patch]]:
    def make() -> list[Patch]:
        attach = CatchUp._attach

        def off(self: Any, session: Any) -> list[int]:
            return [max(0, n + step) for n in attach(self, session)]

        return [(CatchUp, "_attach", off)]

    return make


def _held_ranges_kept() -> list[Patch]:
    return [(Positions, "topics_changed", lambda self: None)]


def _memory_kept() -> list[Patch]:
    def lose(self: Any) -> None:
        self._slots.clear()
        self._queue.clear()
        self._by_key.clear()
        self._flying = None

    return [(Sequencer, "lose", lose)]


def _peer_skipped() -> list[Patch]:
    forget = Router.forget

    def shrug(self: Any, peer: bytes) -> None:
        known = self._peers.get(peer)
        if sys._getframe(1).f_code is not BrokerNode.arrived.__code__:
            forget(self, peer)
        elif known is not None:
            known.sent -= 1  # the message that did not fit is not counted either, so that nobody notices

    return [(Router, "forget", shrug)]


def _applied_over_a_hole() -> list[Patch]:
    def arrived(self: Any, one: Any, seq: int, event: Any, now: float) -> None:
        if event is not None and one.position is not None and seq > one.position:
            one.position = seq
            self.news.append(event)
        elif event is not None and one.position is None:
            one.held[seq] = event

    return [(Client, "_arrived", arrived)]


def _settled_by_key() -> list[Patch]:
    apply = Hub._apply

    def by_key(self: Any, topics: Any, event: Any) -> None:
        said = messages.decode_event(event.payload)
        assert isinstance(said, messages.Message)
        pending = self.pending.find((said.conversation, said.sender, said.client_id))
        if pending is not None:
            event.origin, event.no = self.name, pending.request.no
        apply(self, topics, event)

    return [(Hub, "_apply", by_key)]


def _cursor_back() -> list[Patch]:
    move = Database._move_cursors

    def back(self: Any, backend: Any, text: str) -> Any:
        from tests.simulation.database import _decode

        for row in _decode(text):
            cursor = self.cursors.get((row["username"], row["conversation"]))
            if cursor is not None and 0 < row["delivered"] < cursor[0]:
                cursor[0] = row["delivered"] - 1
        return move(self, backend, text)

    return [(Database, "_move_cursors", back)]


def _requests_forgotten() -> list[Patch]:
    return [(Requests, "_again", lambda self, pending: None)]


def _replay_of_others() -> list[Patch]:
    replay = Sequencer.replay

    def short(self: Any, index: int, after: int) -> Any:
        part = replay(self, index, after)
        if part is not None and len(part.entries) > 1:
            del part.entries[0]
        return part

    return [(Sequencer, "replay", short)]


def _own_reads_all() -> list[Patch]:
    stored = Store.stored

    def reading(self: Any, one: Any, rows: Any) -> None:
        for row in rows:
            if row.fresh:
                send = one.waiting[row.i].send
                self.cursors.move(send.sender, send.conversation, row.seq, row.seq)
        stored(self, one, rows)

    return [(Store, "stored", reading)]


def _ping_past_the_held() -> list[Patch]:
    def ping(self: Any, session: Any) -> None:
        if session.marked is not None:
            self._open[session] = None
            return
        session.marked, session.unconfirmed = session.unconfirmed, None
        self._outbox.write(session, frames.ping(MARKER))

    return [(Confirmations, "_ping", ping)]


def _wrote_backwards() -> list[Patch]:
    wrote = Confirmations.wrote

    def last(self: Any, session: Any, conversation: str, seq: int) -> None:
        wrote(self, session, conversation, seq)
        session.unconfirmed[conversation] = seq

    return [(Confirmations, "wrote", last)]


def _own_only_when_up() -> list[Patch]:
    def own(self: Any, terms: dict[int, int]) -> bool:
        return self.up and bool(self._post([batch.OWN, batch.encode(terms)]))

    return [(Link, "own", own)]


def _movement_given_up() -> list[Patch]:
    return [(Confirmations, "_answered", lambda self, cursors, reply: None)]


def _owner_forgotten() -> list[Patch]:
    def release(self: Any, slot: int, peer: bytes) -> None:
        if self._owners.get(slot, (0, b""))[1] == peer:
            del self._owners[slot]

    return [(Router, "_release", release)]


def _unseen_break() -> list[Patch]:
    receive, dispatch = Router.receive, Link._dispatch

    def uncounted(self: Any, peer: bytes, data: list[bytes], now: float) -> Any:
        known = self._peers.get(peer)
        if known is not None and data[0] == batch.PING:
            known.received = batch.decode_number(data[1])
        return receive(self, peer, data, now)

    def deaf(self: Any, data: list[bytes], now: float) -> None:
        if data[0] != batch.PING or self.state is not LinkState.UP:
            dispatch(self, data, now)

    return [(Router, "receive", uncounted), (Link, "_dispatch", deaf)]


def _conflict_from_the_queue() -> list[Patch]:
    merge = Sequencer._merge

    def rash(self: Any, waiting: Any, peer: bytes, send: Any) -> None:
        if waiting.send.content != send.content:
            self._refuse_conflict(peer, send.no)
        merge(self, waiting, peer, send)

    return [(Sequencer, "_merge", rash)]


def _refusal_of_a_copy() -> list[Patch]:
    return [(Requests, "repeated", lambda self, no: False)]


def _shown_behind_a_gap() -> list[Patch]:
    def late(self: Any, ranges: Any, now: float) -> None:
        for part in ranges:
            for topics, event in self.positions.accept(part, now):
                self._apply(topics, event)
        self._follow_up()

    return [(Hub, "ranges", late)]


def _as_it_is(plan: Plan) -> Plan:
    return plan


def _with(plan: Plan, config: dict[str, Any], more: list[Decision]) -> Plan:
    decisions = sorted([*plan.decisions, *more], key=lambda one: one[0])
    return plan._replace(config={**plan.config, **config}, decisions=decisions)


def _a_long_stop(plan: Plan) -> Plan:
    return _with(plan, {}, [(2.0, "stop", ("store", i, 12.0)) for i in range(plan.config["stores"])])


def _a_short_queue(plan: Plan) -> Plan:
    stops: list[Decision] = [(0.5 + 1.4 * i, "stop", ("shard", i % plan.config["shards"], 1.2)) for i in range(6)]
    return _with(plan, {"queue": 1, "batch": 1, "gap": 100_000}, stops)


def _slow_replays(plan: Plan) -> Plan:
    more: list[Decision] = []
    for i in range(8):
        more.append((0.4 + 0.6 * i, "full", (i % plan.config["shards"], 0.3)))
        more.append((0.45 + 0.6 * i, "leave", (i % len(plan.config["devices"]), 0.0)))
    return _with(plan, {"chunk": 1, "ring": 0, "held": 5_000, "gap": 100_000, "slots": 1}, more)


def _wide_gaps(plan: Plan) -> Plan:
    full: list[Decision] = [(0.4 + 0.5 * i, "full", (i % plan.config["shards"], 0.3)) for i in range(10)]
    keys = Counter(args[3] for _, kind, args in plan.decisions if kind == "say")
    poisoned: list[Decision] = []
    for i, (at, kind, args) in enumerate(plan.decisions):
        if kind == "say" and i % 4 == 0 and keys[args[3]] == 1:
            device, recipient, content, key = args
            args = (device, recipient, POISON + content, key)
        # All at a few moments, so that they meet in batches.
        poisoned.append((round(at), kind, args))
    return _with(plan._replace(decisions=poisoned), {"gap": 2, "batch": 1000, "slots": 1}, full)


class Fault(NamedTuple):
    """`make` gives the patches; in at most `histories` it must be found.

    `bend` makes the plans fit for what happens rarely: the fault is found without it as well, in some ten
    thousand histories. `first` is the seed at which the search begins.
    """

    make: Callable[[], list[Patch]]
    histories: int
    first: int = 1
    bend: Callable[[Plan], Plan] = _as_it_is


FAULTS: dict[str, Fault] = {
    "ack before commit": Fault(_ack_before_commit, 20),
    "a recovery skipped": Fault(_skipped_recovery, 20),
    "published out of order": Fault(_published_out_of_order, 50),
    "a key forgotten across sessions": Fault(_forgotten_key, 50),
    "attached before the topic is in force": Fault(_attached_too_early, 300),
    "positions taken too early": Fault(_positions_off_by(-1), 30),
    "positions taken too late": Fault(_positions_off_by(1), 30),
    "held ranges kept when topics change": Fault(_held_ranges_kept, 400, 1, _slow_replays),
    "a store that keeps its memory": Fault(_memory_kept, 100),
    "a full peer skipped in silence": Fault(_peer_skipped, 1500, 630),
    "a client applies over a hole": Fault(_applied_over_a_hole, 100),
    "settled by key alone": Fault(_settled_by_key, 200),
    "a cursor goes back": Fault(_cursor_back, 30),
    "a replay with a hole": Fault(_replay_of_others, 300),
    "ours: sending moves delivered": Fault(_own_reads_all, 10),
    "ours: a ping overtakes what is held": Fault(_ping_past_the_held, 30),
    "ours: a late page takes confirmation back": Fault(_wrote_backwards, 300),
    "ours: slots taken while greeting": Fault(_own_only_when_up, 300),
    "ours: a movement is given up": Fault(_movement_given_up, 300, 1, _a_long_stop),
    "ours: an old link's end takes the owner": Fault(_owner_forgotten, 1000, 300),
    "ours: a transport's break goes unseen": Fault(_unseen_break, 1000, 340),
    "ours: conflict said from the queue": Fault(_conflict_from_the_queue, 1000, 700),
    "ours: overloaded said of a copy": Fault(_refusal_of_a_copy, 600, 1, _a_short_queue),
    "ours: shown behind a gap": Fault(_shown_behind_a_gap, 600, 1, _wide_gaps),
}


def _any_term() -> list[Patch]:
    accept = Positions.accept

    def unchecked(self: Any, part: Any, now: float) -> Any:
        part.term = max(part.term, self._slots[part.slot].term)
        return accept(self, part, now)

    return [(Positions, "accept", unchecked)]


def _ranges_reversed() -> list[Patch]:
    flush = Store.flush

    def backwards(self: Any) -> None:
        self._ranges.reverse()
        flush(self)

    return [(Store, "flush", backwards)]


# What looks like a fault and is none: the numbers carry the promise, not the order or the term.
HARMLESS: dict[str, Callable[[], list[Patch]]] = {
    "ranges of a lower term applied": _any_term,
    "ranges of a batch published in reverse": _ranges_reversed,
    "requests never repeated by the shard": _requests_forgotten,
}


@contextmanager
def planted(patches: list[Patch]) -> Iterator[None]:
    """With the faults in."""
    before = [(target, name, getattr(target, name)) for target, name, _ in patches]
    try:
        for target, name, value in patches:
            setattr(target, name, value)
        yield
    finally:
        for target, name, value in before:
            setattr(target, name, value)


def find(fault: Fault) -> tuple[int, str]:
    """How many histories it took until the promise was broken (0: it never was), and how."""
    with planted(fault.make()):
        for i in range(fault.histories):
            problem = run(fault.bend(make_plan(fault.first + i))).problem
            if problem:
                return i + 1, problem
    return 0, ""
