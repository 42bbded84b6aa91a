"""What was promised to a crowd, and the check that it was kept. Pure.

Three witnesses: the acknowledgements, what each device applied, and the table at the end. Devices are compared with
one another through `logs`, which the first to tell of an event fills.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

EXAMPLES_MAX = 20


class Row(NamedTuple):
    """A message as the table holds it."""

    conversation: str
    seq: int
    key: str


class Ledger:
    """One run's sends, acknowledgements and deliveries. `problems` is empty as long as the promise is kept."""

    def __init__(self) -> None:
        self.sent: dict[str, float] = {}  # key -> when, by the caller's clock
        self.acknowledged: dict[str, tuple[str, int]] = {}
        self.applied = 0
        self.tops: dict[str, int] = {}  # conversation -> the highest seq heard of
        self.logs: defaultdict[str, dict[int, str]] = defaultdict(dict)
        self.problems: Counter[str] = Counter()
        self.examples: list[str] = []

    def complain(self, kind: str, text: str, count: int = 1) -> None:
        """The promise was broken: *kind* is ``lost``, ``duplicated``, ``misordered`` or ``refused``."""
        self.problems[kind] += count
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(f"{kind}: {text}")

    def acknowledge(self, key: str, conversation: str, seq: int) -> None:
        """The server says that the message is stored."""
        place = self.acknowledged.setdefault(key, (conversation, seq))
        if place != (conversation, seq):
            self.complain("duplicated", f"{key} was acknowledged as {place} and as {(conversation, seq)}")
        self._tell(conversation, seq, key)

    def apply(self, who: str, conversation: str, before: int, seq: int, key: str | None) -> None:
        """*who* applied an event, having stood at *before*."""
        self.applied += 1
        if seq != before + 1:
            kind = "lost" if seq > before else "duplicated"
            self.complain(kind, f"{who} applied {seq} of {conversation} after {before}", abs(seq - before - 1) or 1)
        self._tell(conversation, seq, key or "")

    def check_table(self, rows: Iterable[Row], prefix: str) -> None:
        """Compare with the table, of which only messages whose key begins with *prefix* are ours."""
        stored: dict[str, Row] = {}
        for row in rows:
            if row.key.startswith(prefix):
                if row.key in stored:
                    self.complain("duplicated", f"{row} is in the table as {stored[row.key]} too")
                stored[row.key] = row
                if row.key not in self.sent:
                    self.complain("duplicated", f"nobody sent {row}")
                if self.logs[row.conversation].get(row.seq) != row.key:
                    self.complain("lost", f"{row} is in the table, but nobody was told")
        for key, place in self.acknowledged.items():
            found = stored.get(key)
            if found is None or (found.conversation, found.seq) != place:
                self.complain("lost", f"{key} was acknowledged as {place}, the table has {found}")
        for conversation, log in self.logs.items():
            for seq, key in log.items():
                if key.startswith(prefix) and key not in stored:
                    self.complain("misordered", f"{key} was delivered as {seq} of {conversation} and is in no table")

    def check_reached(self, who: str, conversation: str, position: int, top: int) -> None:
        """*who* stands at *position* of a conversation that ends at *top*, after everything came to rest."""
        if position < top:
            self.complain("lost", f"{who} stands at {position} of {top} in {conversation}", top - position)

    def _tell(self, conversation: str, seq: int, key: str) -> None:
        if self.logs[conversation].setdefault(seq, key) != key:
            self.complain(
                "misordered", f"{seq} of {conversation} is {self.logs[conversation][seq]} to some and {key} to others"
            )
        if seq > self.tops.get(conversation, 0):
            self.tops[conversation] = seq
