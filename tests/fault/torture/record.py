"""What a run leaves behind: everything that each client did and was told, and what was found at the end. Pure.

`History.records` is in the order in which it happened: one process writes all of it. Times are seconds since the
run began. A *device* is one client with its own memory (``ann/2``), a *connection* one WebSocket of it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from hubbub.protocol.client import Applied

# --- what a client did --------------------------------------------------------------------------------


class Said(NamedTuple):
    """A person said something on this device; it goes out until it is answered for good."""

    at: float
    device: str
    key: str
    conversation: str
    content: str


class Posted(NamedTuple):
    """One attempt to send it left the device."""

    at: float
    device: str
    key: str
    content: str


class Confirmed(NamedTuple):
    """The device said ``received`` or ``read`` up to *seq*."""

    at: float
    device: str
    what: str
    conversation: str
    seq: int


class Watching(NamedTuple):
    """The device asked for the presence of these users."""

    at: float
    device: str
    users: tuple[str, ...]


# --- what a client was told ---------------------------------------------------------------------------


class Opened(NamedTuple):
    """A connection had its welcome, on this shard."""

    at: float
    device: str
    connection: int
    shard: str


class Closed(NamedTuple):
    """It ended, whoever ended it."""

    at: float
    device: str
    connection: int


class Acked(NamedTuple):
    """A message was acknowledged. *asked*: whether the device waited for it; *live*: whether it had synced before."""

    at: float
    device: str
    connection: int
    key: str
    content: str
    conversation: str
    seq: int
    id: int
    duplicate: bool
    asked: bool
    live: bool = True


class Refused(NamedTuple):
    """An attempt to send was answered with an error."""

    at: float
    device: str
    key: str
    content: str
    code: str
    stored: str
    temporary: bool


class Arrived(NamedTuple):
    """A message came in, before the client's rule. *live*: as it happened, not in answer to a sync or for history."""

    at: float
    device: str
    connection: int
    conversation: str
    seq: int
    id: int
    live: bool


class Reached(NamedTuple):
    """By the client's rule the device has the conversation up to *seq*."""

    at: float
    device: str
    conversation: str
    seq: int


class Synced(NamedTuple):
    """One conversation in the answer to a sync."""

    at: float
    device: str
    connection: int
    conversation: str
    to: int
    last: int
    delivered: int
    read: int
    unread: int


class Receipt(NamedTuple):
    """How far another user (or this one) is said to be."""

    at: float
    device: str
    connection: int
    conversation: str
    username: str
    delivered: int
    read: int


class Presence(NamedTuple):
    """Who is said to have come or gone: ``(name, online)``."""

    at: float
    device: str
    users: tuple[tuple[str, bool], ...]


class Overheard(NamedTuple):
    """Something else that names a conversation came in: a typing notice, a page of history."""

    at: float
    device: str
    what: str
    conversation: str


# --- what was done to the system ----------------------------------------------------------------------


class Blow(NamedTuple):
    """A fault began, ended or missed; `text` is for people. `kind` counts: ``kill store``."""

    at: float
    kind: str
    text: str


class Calm(NamedTuple):
    """All faults were withdrawn and every program was seen to be well; nobody comes or goes until the storm."""

    at: float
    number: int


Record = (
    Said | Posted | Confirmed | Watching | Opened | Closed | Acked | Refused | Arrived | Reached | Synced | Receipt
    | Presence | Overheard | Blow | Calm
)  # fmt: skip


# --- what was found -----------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of the table `messages`."""

    id: int
    conversation: str
    seq: int
    ordinal: int
    sender: str
    recipient: str | None
    key: str
    content: str


class Cursor(NamedTuple):
    """A row of the table `cursors`."""

    username: str
    conversation: str
    delivered: int
    read: int


class Page(NamedTuple):
    """What REST says a conversation holds, all of it, as *username* reads it: ``(seq, id, content)``."""

    username: str
    conversation: str
    events: list[tuple[int, int, str]]


class Listed(NamedTuple):
    """One of a user's conversations as REST lists it."""

    username: str
    conversation: str
    unread: int
    last: int


class Roll(NamedTuple):
    """Who is online: what a witness says, what is true, and since when (all well, nobody moving)."""

    at: float
    since: float
    witness: str
    said: frozenset[str]
    truth: frozenset[str]


class Sample(NamedTuple):
    """One process at a calm moment. *sessions*: clients connected to it."""

    at: float
    role: str
    pid: int
    resident_mb: float
    descriptors: int
    sessions: int


@dataclass
class End:
    """A device when the run stood still. *settled*: connected, synced, with nothing under way."""

    name: str
    username: str
    settled: bool
    applied: dict[str, list[Applied]]
    from_seq: dict[str, int]


@dataclass
class History:
    """Everything about a run, for the checks."""

    records: list[Record] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    cursors: list[list[Cursor]] = field(default_factory=list)  # the table, each time it was looked at
    pages: list[Page] = field(default_factory=list)
    listed: list[Listed] = field(default_factory=list)
    rolls: list[Roll] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)  # what did not come back in time
    secrets: frozenset[str] = frozenset()  # contents that were refused for good and must be nowhere

    @cached_property
    def users(self) -> dict[str, str]:
        """The user of each device."""
        return {end.name: end.username for end in self.ends}

    @cached_property
    def conversations(self) -> dict[str, list[Row]]:
        """The table by conversation, in the order of seq."""
        found: defaultdict[str, list[Row]] = defaultdict(list)
        for row in sorted(self.rows, key=lambda row: (row.conversation, row.seq)):
            found[row.conversation].append(row)
        return dict(found)

    @cached_property
    def by_place(self) -> dict[tuple[str, int], Row]:
        """The table by (conversation, seq)."""
        return {(row.conversation, row.seq): row for row in self.rows}


@dataclass(frozen=True)
class Violation:
    """A promise that was broken. The rest says where to look for a timeline of it."""

    kind: str
    text: str
    conversation: str = ""
    seq: int = 0
    key: str = ""
    user: str = ""
    device: str = ""
    at: float = -1.0

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


Check = Callable[[History], Iterable[Violation]]
