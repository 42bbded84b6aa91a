"""Any loss, repetition, delay and change of hands: what is applied is the log, in order, without a hole."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hubbub.bus import log
from hubbub.bus.log import Positions, SlotStatus
from hubbub.protocol.conversation import split_id
from hubbub.protocol.internal import Range, wire_term
from store.events import entry
from tests.builders import LOBBY_SLOT as S
from tests.builders import event


class Follower(RuleBasedStateMachine):
    """One slot: an owner that publishes in order, an engine that loses and repeats what it likes, a shard.

    `topics` says from which n on the shard hears an event's topic; earlier events are filtered out of what passes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.positions = Positions()
        self.end = 0
        self.term = 1
        self.applied: list[int] = []
        self.wire: list[Range] = []
        self.now = 0.0
        self.start = 0
        self.hears_even = False
        self.owed: set[int] = set()  # what the shard must apply: everything that it listened to when it was needed

    def filtered(self, after: int, to: int, term: int) -> Range:
        heard = [n for n in range(after + 1, to + 1) if n % 2 or self.hears_even]
        return Range(S, wire_term(1, term), after, to, [entry(event(n)) for n in heard])

    def accept(self, part: Range) -> None:
        before = self.positions.position(S)
        for _, found in self.positions.accept(part, self.now):
            slot, n = split_id(found.id)
            assert slot == S
            self.applied.append(n)
        assert self.positions.position(S) >= before

    @initialize(n=st.integers(0, 5))
    def first(self, n: int) -> None:
        self.end = self.start = n
        self.accept(Range(S, wire_term(1, 1), n, n, []))

    @rule(count=st.integers(1, 4))
    def publish(self, count: int) -> None:
        self.wire.append(self.filtered(self.end, self.end + count, self.term))
        self.end += count

    @rule()
    def watermark(self) -> None:
        self.wire.append(Range(S, wire_term(1, self.term), self.end, self.end, []))

    @rule()
    def new_owner(self) -> None:
        self.term += 1

    @precondition(lambda self: self.wire)
    @rule(data=st.data(), keep=st.booleans())
    def deliver(self, data: st.DataObject, keep: bool) -> None:
        """Any of the messages under way, in any order; perhaps again later."""
        at = data.draw(st.integers(0, len(self.wire) - 1))
        part = self.wire[at] if keep else self.wire.pop(at)
        self.accept(part)

    @precondition(lambda self: self.wire)
    @rule()
    def lose_everything(self) -> None:
        self.wire.clear()

    @rule(seconds=st.sampled_from([0.1, 0.6, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.positions.tick(self.now)

    @precondition(lambda self: self.positions.asks)
    @rule(count=st.integers(0, 3))
    def replay(self, count: int) -> None:
        """The owner answers one question with a chunk, which comes at once."""
        _, after = self.positions.asks.pop(0)
        self.accept(self.filtered(after, min(after + count, self.end), self.term))

    @rule()
    def subscribe(self) -> None:
        """A new topic is in force: what is under way was filtered without it, and is before it in the stream."""
        for part in self.wire:
            self.accept(part)
        self.wire.clear()
        if not self.hears_even:
            self.owed = set(range(self.positions.position(S) + 1, 10_000))
        self.hears_even = True
        self.positions.topics_changed()

    @invariant()
    def in_order_once_and_without_a_hole(self) -> None:
        n = self.positions.position(S)
        assert self.applied == sorted(set(self.applied))
        assert set(self.applied) >= {k for k in range(self.start + 1, n + 1) if k % 2 or k in self.owed}
        assert not self.applied or self.applied[-1] <= n <= self.end

    @invariant()
    def it_knows_how_it_stands(self) -> None:
        slot = self.positions._slots[S]
        assert (slot.status is SlotStatus.RECOVERING) == (slot.target > slot.n) or slot.status is SlotStatus.UNKNOWN
        assert slot.held_events <= log.HELD_MAX + 4
        assert slot.status is SlotStatus.RECOVERING or not slot.held
        assert not self.positions.resets

    def teardown(self) -> None:
        """Whatever happened: once the engine behaves, the shard comes to the end of the log."""
        if not self.end and not self.term:
            return
        self.wire.clear()
        for _ in range(self.end + 2):
            self.now += log.ASK_AGAIN
            self.accept(Range(S, wire_term(1, self.term), self.end, self.end, []))
            self.positions.tick(self.now)
            while self.positions.asks:
                self.replay(3)
        self.in_order_once_and_without_a_hole()
        assert self.positions.position(S) == self.end
        assert self.positions.recovering == 0


TestFollower = Follower.TestCase


PARTS = st.builds(
    lambda slot, epoch, term, after, size, some: Range(
        slot,
        wire_term(epoch, term),
        after,
        after + size,
        [entry(event(n)) for n in range(after + 1, after + size + 1) if n % 2 or some],
    ),
    st.just(S), st.integers(1, 2), st.integers(1, 3), st.integers(0, 12), st.integers(0, 4), st.booleans(),
)  # fmt: skip


@given(st.lists(PARTS, max_size=30), st.integers(1, 8), st.integers(0, 6))
def test_any_ranges_in_any_order(parts, gap, held):
    """Even from owners that lie about their numbers: never back within a term, never more held than allowed."""
    gap_max, held_max = log.GAP_MAX, log.HELD_MAX
    log.GAP_MAX, log.HELD_MAX = gap, held
    try:
        positions = Positions()
        at: tuple[int, int] | None = None
        for i, part in enumerate(parts):
            found = [split_id(event.id)[1] for _, event in positions.accept(part, float(i))]
            slot = positions._slots[S]
            assert found == sorted(found)
            assert not found or (at is not None and at[1] < found[0] and found[-1] <= slot.n)
            epoch = slot.term >> 32
            assert at is None or epoch > at[0] or (epoch == at[0] and slot.n >= at[1])
            assert slot.held_events <= held + 4
            assert slot.status is not SlotStatus.RECOVERING or slot.target - slot.n <= max(gap, 0)
            at = (epoch, slot.n)
    finally:
        log.GAP_MAX, log.HELD_MAX = gap_max, held_max
