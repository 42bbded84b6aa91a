"""One connection as the shard's core sees it."""

from enum import Enum
from typing import Any

from hubbub.protocol.limits import Limits
from hubbub.protocol.refusals import CloseCode
from shards.access import Proof

TopicSet = tuple[str, ...]


class Stage(Enum):
    """How far a session is in being served.

    ========  =====================================================  =============
    stage     meaning                                                next
    ========  =====================================================  =============
    OPENING   its topics are not in force yet                        IDLE, HOLDING
    IDLE      waits for the client's `sync`; hears nothing           HOLDING
    HOLDING   in the index; live events wait while the past is read  LIVE
    LIVE      hears everything as it happens                         HOLDING
    CLOSED    written its close frame, or gone                       --
    ========  =====================================================  =============
    """

    OPENING = "opening"
    IDLE = "idle"
    HOLDING = "holding"
    LIVE = "live"
    CLOSED = "closed"


class Session:
    """State of one connection. `out` holds whole WebSocket frames to write at the end of the tick."""

    __slots__ = (
        "acknowledges",
        "backlog_after",
        "closing",
        "expires_at",
        "have",
        "heard",
        "held",
        "held_bytes",
        "id",
        "in_flight",
        "marked",
        "opened_at",
        "out",
        "own",
        "pinged",
        "proof",
        "read_id",
        "refused",
        "remote",
        "spoke",
        "stage",
        "sync_wanted",
        "syncing",
        "tokens",
        "tokens_at",
        "topics",
        "transport",
        "typing_at",
        "unconfirmed",
        "unsent",
        "username",
        "watching",
    )

    def __init__(
        self,
        session_id: str,
        username: str,
        *,
        syncing: bool,
        remote: str,
        expires_at: float | None,
        limits: Limits,
        now: float,
        proof: Proof | None = None,
    ) -> None:
        self.id = session_id
        self.username = username
        self.syncing = syncing
        self.remote = remote
        self.expires_at = expires_at
        self.proof = proof  # what the access list judges
        self.spoke = 0  # of the heartbeat wheel
        self.stage = Stage.OPENING
        self.out: list[bytes] = []
        self.unsent = 0  # kept by the transport: bytes the kernel has not taken
        self.closing: CloseCode | None = None
        self.transport: Any = None
        self.topics: TopicSet = ()
        self.watching: TopicSet = ()
        self.opened_at = now
        self.heard = now
        self.pinged = False
        self.typing_at = 0.0
        # Token bucket
        self.tokens = float(limits.burst)
        self.tokens_at = now
        self.refused = 0  # commands refused by the bucket, less those let through since
        self.in_flight = 0
        # What is read while live events wait
        self.have: dict[str, int] | None = None
        self.sync_wanted: tuple[str | None] | None = None  # an answer is wanted, with this command id
        self.read_id = 0  # number of the read under way; an answer to another one is out of date
        self.held: list[bytes] | None = None
        self.held_bytes = 0
        self.backlog_after: dict[str, int] | None = None
        # Delivery by pong, until the client says `received` itself
        self.acknowledges = False
        self.own: dict[str, int] | None = None  # own messages not yet confirmed: the last of each conversation
        self.unconfirmed: dict[str, int] | None = None
        self.marked: dict[str, int] | None = None

    def take_token(self, limits: Limits, now: float) -> bool:
        """Whether one more command is within the rate; a rate of 0 means no limit."""
        if not limits.rate:
            return True
        self.tokens = min(float(limits.burst), self.tokens + (now - self.tokens_at) * limits.rate)
        self.tokens_at = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True
