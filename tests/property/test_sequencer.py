"""Any sends, repetitions, lost commits and changes of hands: one place for each key, no number twice or left out."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hubbub.bus.batch import decode_log_event
from hubbub.protocol.conversation import split_id
from hubbub.protocol.internal import Known, Range, Refused, epoch_of
from store.sequencer import Batch, Sequencer
from tests.builders import send
from tests.unit.test_sequencer import AT, Table

USERS = ["al", "bob"]
Key = tuple[str, str, str]


class Owning(RuleBasedStateMachine):
    """A sequencer, a table that commits whole batches or nothing, and what the shards are told."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.sequencer = Sequencer(queue_max=6, batch_max=4)
        self.term = 0
        self.flying: Batch | None = None
        self.published: dict[int, list[tuple[int, Key]]] = {}  # slot -> (n, key), as a shard that lost nothing saw it
        self.asked: dict[int, tuple[Key, str]] = {}  # no -> key and content
        self.no = 0
        self.take()

    def ends(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for id_, *_ in self.table.rows.values():
            slot, n = split_id(id_)
            found[slot] = max(found.get(slot, 0), n)
        return found

    @precondition(lambda self: not self.sequencer.terms)
    @rule()
    def take(self) -> None:
        self.term += 1
        ends = self.ends()
        self.sequencer.take(5, [(slot, self.term, ends.get(slot, 0)) for slot in range(64)])
        for slot, n in ends.items():
            log = self.published.setdefault(slot, [])
            for key, (id_, *_) in sorted(self.table.rows.items(), key=lambda item: item[1][0]):
                if split_id(id_)[0] == slot and split_id(id_)[1] == len(log) + 1:
                    log.append((split_id(id_)[1], key))  # a replay from the table
            assert len(log) == n

    @rule(
        sender=st.sampled_from(USERS),
        recipient=st.sampled_from([None, "al", "eve"]),
        key=st.integers(0, 5),
        content=st.sampled_from(["hi", "hi", "ho", "bad"]),
        resent=st.booleans(),
    )
    def offer(self, sender: str, recipient: str | None, key: int, content: str, resent: bool) -> None:
        self.no += 1
        one = send(self.no, sender, recipient, content, key=f"key-{key:012}", resent=resent)
        self.asked[self.no] = ((one.conversation, one.sender, one.key), content)
        self.sequencer.offer(b"peer", one)

    @precondition(lambda self: self.flying is None)
    @rule()
    def begin(self) -> None:
        self.flying = self.sequencer.batch(AT)
        if self.flying is not None:
            keys = [(row.conversation, row.sender, row.key) for row in self.flying.rows]
            assert len(set(keys)) == len(keys) <= 4
            assert self.sequencer.batch(AT) is None

    @precondition(lambda self: self.flying is not None)
    @rule()
    def commit(self) -> None:
        batch = self.flying
        assert batch is not None
        parts: list[Range] = []
        if any(row.content == "bad" for row in batch.rows):
            for single in self.sequencer.singles(batch):
                if single.rows[0].content == "bad":
                    self.sequencer.refuse_content(single, "bad")
                else:
                    parts += self.sequencer.stored(single, self.table.write(single))
        else:
            parts += self.sequencer.stored(batch, self.table.write(batch))
        self.sequencer.landed()
        self.flying = None
        for part in parts:
            log = self.published.setdefault(part.slot, [])
            assert part.after == len(log), "it continues what was published"
            for one in part.entries:
                event = decode_log_event(one.event)
                key, _ = self.asked[event.no]
                assert self.table.rows[key][:2] == (event.id, event.seq)
                log.append((split_id(event.id)[1], key))
            assert part.to == len(log)

    @precondition(lambda self: self.sequencer.terms)
    @rule(committed=st.booleans())
    def lose(self, committed: bool) -> None:
        """The session goes; a batch that was under way is committed or not, and nobody knows."""
        if self.flying is not None and committed and not any(row.content == "bad" for row in self.flying.rows):
            self.table.write(self.flying)
        self.sequencer.lose()
        self.flying = None

    @invariant()
    def numbers_have_no_holes(self) -> None:
        logs: dict[int, list[int]] = {}
        talks: dict[str, list[tuple[int, int]]] = {}
        for (conversation, _, _), (id_, seq, ordinal, _, _) in self.table.rows.items():
            slot, n = split_id(id_)
            logs.setdefault(slot, []).append(n)
            talks.setdefault(conversation, []).append((seq, ordinal))
        assert all(sorted(log) == list(range(1, len(log) + 1)) for log in logs.values())
        assert all(sorted(talk) == [(n, n) for n in range(1, len(talk) + 1)] for talk in talks.values())

    @invariant()
    def answers_are_true(self) -> None:
        for _, reply in self.sequencer.replies:
            assert isinstance(reply, Known | Refused)
            key, content = self.asked[reply.no]
            row = self.table.rows.get(key)
            if isinstance(reply, Known):
                assert row is not None and (row[0], row[1], row[4].content) == (reply.id, reply.seq, content)
            elif isinstance(reply, Refused):
                assert reply.stored == "no"
                assert content == "bad" or row is None or row[4].content != content or reply.code == "OVERLOADED"
        self.sequencer.replies.clear()

    @invariant()
    def memory_and_table_agree(self) -> None:
        ends = self.ends()
        for slot, term in self.sequencer.terms.items():
            assert epoch_of(term) == 5
            # A batch whose outcome is unknown may be in the table, but only of slots that are lost.
            assert self.sequencer.last(slot) == ends.get(slot, 0)
            replay = self.sequencer.replay(slot, max(0, self.sequencer.last(slot) - 1))
            assert replay is None or replay.to == self.sequencer.last(slot)

    @invariant()
    def queues_are_bounded(self) -> None:
        assert len(self.sequencer) <= 6
        assert len(self.sequencer._by_key) <= 6 + 4


TestOwning = Owning.TestCase
