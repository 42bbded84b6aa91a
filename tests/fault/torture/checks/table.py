"""The table against what was said, acknowledged and refused."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from hubbub.protocol.conversation import SLOTS, slot_of, split_id
from tests.fault.torture.record import Acked, History, Posted, Refused, Said, Violation


def acknowledged_is_stored(history: History) -> Iterator[Violation]:
    """Each acknowledged message is the row that its acknowledgement names; all acknowledgements of a key agree."""
    for one in history.records:
        if not isinstance(one, Acked) or not one.content:
            continue
        row = history.by_place.get((one.conversation, one.seq))
        sender = history.users.get(one.device)
        if row is None or (row.id, row.key, row.content, row.sender) != (one.id, one.key, one.content, sender):
            text = f"{one.device} was told that {one.content!r} is {one.conversation} #{one.seq}, the table has {row}"
            yield Violation("acknowledged and lost", text, one.conversation, one.seq, one.key, at=one.at)


def refused_is_not_stored(history: History) -> Iterator[Violation]:
    """What was only ever answered with ``stored: no`` is not in the table."""
    posts: Counter[tuple[str, str]] = Counter()
    noes: Counter[tuple[str, str]] = Counter()
    last: dict[tuple[str, str], Refused] = {}
    for one in history.records:
        if isinstance(one, Posted):
            posts[one.key, one.content] += 1
        elif isinstance(one, Refused) and one.stored == "no":
            noes[one.key, one.content] += 1
            last[one.key, one.content] = one
    stored = {(row.key, row.content): row for row in history.rows}
    for said, count in noes.items():
        row = stored.get(said)
        if row is not None and count >= posts[said]:
            one = last[said]
            text = f"{one.device} was told {one.code}, not stored, of {one.content!r}; the table has {row}"
            yield Violation("refused and stored", text, row.conversation, row.seq, row.key, at=one.at)


def stored_was_said(history: History) -> Iterator[Violation]:
    """Each row was said by its sender in its conversation, and is there once."""
    said: defaultdict[tuple[str, str], list[Said]] = defaultdict(list)
    for one in history.records:
        if isinstance(one, Said):
            said[one.key, one.content].append(one)
    texts: Counter[str] = Counter()
    for row in history.rows:
        here = [one for one in said[row.key, row.content] if history.users.get(one.device) == row.sender]
        if not any(one.conversation == row.conversation for one in here):
            yield Violation("stored and never said", f"nobody said {row}", row.conversation, row.seq, row.key)
        texts[row.content] += 1
        if texts[row.content] > 1:
            yield Violation(
                "stored twice", f"{row} is there {texts[row.content]} times", row.conversation, row.seq, row.key
            )


def numbers_have_no_holes(history: History) -> Iterator[Violation]:
    """seq and ordinal 1, 2, 3 … in a conversation, n 1, 2, 3 … in a slot, and both in the same order."""
    logs: defaultdict[int, list[int]] = defaultdict(list)
    for name, rows in history.conversations.items():
        for i, row in enumerate(rows, 1):
            slot, n = split_id(row.id)
            logs[slot].append(n)
            if (row.seq, row.ordinal) != (i, i):
                text = f"{name} has #{row.seq} (ordinal {row.ordinal}) in the place of #{i}"
                yield Violation("a hole in the numbers", text, name, row.seq)
                break
            if slot != slot_of(name):
                yield Violation("another's slot", f"{row} is in slot {slot}", name, row.seq)
        for before, after in pairwise(rows):
            if after.id <= before.id:
                text = f"{name} #{after.seq} has id {after.id}, #{before.seq} has {before.id}"
                yield Violation("ids go back", text, name, after.seq)
                break
    for slot in range(SLOTS):
        numbers = sorted(logs[slot])
        if numbers and numbers != list(range(1, len(numbers) + 1)):
            missing = sorted(set(range(1, numbers[-1] + 1)) - set(numbers))
            yield Violation("a hole in the log", f"slot {slot} goes to {numbers[-1]} without {missing[:9]}")


def order_respects_time(history: History) -> Iterator[Violation]:
    """Who spoke after an acknowledgement comes after it: in the conversation by seq, in the slot by id."""
    rows = {row.key: row for row in history.rows}
    by_seq: dict[str, Acked] = {}  # conversation -> what was acknowledged there with the highest seq
    by_id: dict[int, Acked] = {}  # slot -> the same by id
    said: set[str] = set()
    for one in history.records:
        if isinstance(one, Acked):
            slot, _ = split_id(one.id)
            if one.conversation not in by_seq or by_seq[one.conversation].seq < one.seq:
                by_seq[one.conversation] = one
            if slot not in by_id or by_id[slot].id < one.id:
                by_id[slot] = one
        elif isinstance(one, Said) and one.key not in said:
            said.add(one.key)
            row = rows.get(one.key)
            before = by_seq.get(one.conversation)
            earlier = by_id.get(slot_of(one.conversation))
            if row is None:
                continue
            if (before is not None and row.seq <= before.seq) or (earlier is not None and row.id <= earlier.id):
                text = f"{row} was said after {before} and {earlier} were acknowledged"
                yield Violation("earlier than what came before", text, row.conversation, row.seq, row.key, at=one.at)


def refused_for_good_is_nowhere(history: History) -> Iterator[Violation]:
    """What the rules forbid (too large, a key used for another text) is not in the table, whatever was answered."""
    for row in history.rows:
        if row.content in history.secrets:
            text = f"{row.conversation} #{row.seq} holds what had to be refused: {row.content[:60]!r}"
            yield Violation("stored against the rules", text, row.conversation, row.seq, row.key)


CHECKS = (
    acknowledged_is_stored,
    refused_is_not_stored,
    stored_was_said,
    numbers_have_no_holes,
    order_respects_time,
    refused_for_good_is_nowhere,
)
