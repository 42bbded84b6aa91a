"""Following the slot logs: what to apply, what to drop, what to hold, what to ask for.

This is the one recovery path between processes. The committer numbers its events 1, 2, 3 … in each
slot; a shard knows how far it has come, and whatever was lost on the way (by a queue, a link, a broker,
a store) shows as a hole, which the slot's owner is asked to fill. The engine between them need not be
trusted with anything but saying which part of the log a range covers.
"""

from enum import Enum

from hubbub.bus.batch import decode_log_event
from hubbub.protocol.conversation import SLOTS, split_id
from hubbub.protocol.internal import LogEvent, Range, epoch_of

# A replay is asked for again after this long without progress: the question or its answer was lost.
ASK_AGAIN = 0.5
# Events held for one slot while a hole before them is filled. What is not held is replayed too.
HELD_MAX = 5_000
# A gap wider than this is not replayed to everybody; the sessions sync instead, each what it needs.
GAP_MAX = 100_000


class SlotStatus(Enum):
    """How a shard stands towards one slot's log."""

    UNKNOWN = "unknown"  # nothing heard yet; no session may open
    LIVE = "live"
    RECOVERING = "recovering"  # there is a hole; live ranges wait


class _Slot:
    __slots__ = ("asked", "held", "held_events", "n", "status", "target", "term")

    def __init__(self) -> None:
        self.status = SlotStatus.UNKNOWN
        self.term = 0
        self.n = 0
        self.target = 0
        self.asked = 0.0
        self.held: list[Range] = []
        self.held_events = 0


class Positions:
    """Where one shard stands in each of the 64 slot logs.

    `accept` returns what is to be applied. The lists `asks` (``(slot, after)`` replays to request),
    `new_terms` (slots that changed hands) and `resets` (slots whose past cannot be replayed: every
    session must sync) fill up meanwhile; the caller empties them.
    """

    def __init__(self) -> None:
        self._slots = [_Slot() for _ in range(SLOTS)]
        self._unknown = SLOTS
        self.asks: list[tuple[int, int]] = []
        self.new_terms: list[int] = []
        self.resets: list[int] = []
        self.recoveries = 0

    @property
    def known(self) -> bool:
        """Whether the position in every slot is known."""
        return self._unknown == 0

    @property
    def recovering(self) -> int:
        """How many slots wait for a replay."""
        return sum(slot.status is SlotStatus.RECOVERING for slot in self._slots)

    @property
    def epoch(self) -> int:
        """The newest database incarnation heard of; 0 before the first range."""
        return max(epoch_of(slot.term) for slot in self._slots)

    def unknown_slots(self) -> list[int]:
        """The slots of which nothing has been heard."""
        return [i for i, slot in enumerate(self._slots) if slot.status is SlotStatus.UNKNOWN]

    def snapshot(self) -> list[int]:
        """n by slot: everything up to here has been applied."""
        return [slot.n for slot in self._slots]

    def position(self, slot: int) -> int:
        """n of one slot."""
        return self._slots[slot].n

    def accept(self, part: Range, now: float) -> list[tuple[list[str], LogEvent]]:
        """Take one range; return the ``(topics, event)`` pairs to apply now, in order."""
        slot = self._slots[part.slot]
        if part.term < slot.term:
            return []
        if slot.status is SlotStatus.UNKNOWN:
            # No session is open yet, so nobody needs what lies before.
            self._unknown -= 1
            self._start(slot, part)
            return []
        if part.term > slot.term:
            self.new_terms.append(part.slot)
            if epoch_of(part.term) != epoch_of(slot.term):
                self._start(slot, part)
                self.resets.append(part.slot)
                return []
            slot.term = part.term
            if slot.status is SlotStatus.RECOVERING:
                self._ask(part.slot, slot, now)
        if part.to <= slot.n:
            return []
        if part.after > slot.n:
            self._hole(part, slot, now)
            return []
        events = self._advance(part, slot)
        if slot.status is SlotStatus.RECOVERING:
            self._continue(part.slot, slot, events, now)
        return events

    def tick(self, now: float) -> None:
        """Ask again where a replay has made no progress."""
        for i, slot in enumerate(self._slots):
            if slot.status is SlotStatus.RECOVERING and now - slot.asked >= ASK_AGAIN:
                self._ask(i, slot, now)

    def topics_changed(self) -> None:
        """The subscriptions grew: what is held was filtered without them and must be replayed."""
        for slot in self._slots:
            self._drop_held(slot)

    def _start(self, slot: _Slot, part: Range) -> None:
        slot.term = part.term
        slot.n = slot.target = part.to
        slot.status = SlotStatus.LIVE
        self._drop_held(slot)

    def _drop_held(self, slot: _Slot) -> None:
        slot.held = []
        slot.held_events = 0

    def _hole(self, part: Range, slot: _Slot, now: float) -> None:
        slot.target = max(slot.target, part.to)
        if slot.status is SlotStatus.LIVE:
            slot.status = SlotStatus.RECOVERING
            self.recoveries += 1
            self._ask(part.slot, slot, now)
        if slot.target - slot.n > GAP_MAX:
            slot.n = slot.target
            slot.status = SlotStatus.LIVE
            self._drop_held(slot)
            self.resets.append(part.slot)
        elif part.to > part.after and slot.held_events + len(part.entries) <= HELD_MAX:
            slot.held.append(part)
            slot.held_events += len(part.entries) or 1

    def _advance(self, part: Range, slot: _Slot) -> list[tuple[list[str], LogEvent]]:
        reached = slot.n
        # Decoded first: a range that cannot be read must not count as applied.
        pairs = [(entry.topics, decode_log_event(entry.event)) for entry in part.entries]
        slot.n = part.to
        if part.after == reached:
            return pairs
        return [pair for pair in pairs if split_id(pair[1].id)[1] > reached]

    def _continue(self, index: int, slot: _Slot, events: list[tuple[list[str], LogEvent]], now: float) -> None:
        waiting: list[Range] = []
        for part in slot.held:
            if part.after <= slot.n < part.to:
                events += self._advance(part, slot)
            elif part.after > slot.n:
                waiting.append(part)
        slot.held = waiting
        slot.held_events = sum(len(part.entries) or 1 for part in waiting)
        if slot.n >= slot.target:
            slot.status = SlotStatus.LIVE
            self._drop_held(slot)
        else:
            self._ask(index, slot, now)

    def _ask(self, index: int, slot: _Slot, now: float) -> None:
        slot.asked = now
        self.asks.append((index, slot.n))
