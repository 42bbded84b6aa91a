"""A shard's table of unanswered requests.

Whatever leaves for a store is kept here until its answer, or for a send its own event in the slot log,
has come. It is sent again when its slot changes hands, when the link was renewed, and after 1, 3 and 7
seconds; at ten seconds the asker is told that the outcome is unknown.
"""

from collections import deque
from collections.abc import Callable, Iterable

from hubbub.protocol.internal import Known, LogEvent, Refused, Reply, Request, Send
from hubbub.protocol.limits import GIVE_UP_AFTER, RESEND_AFTER
from hubbub.protocol.refusals import ErrorCode
from shards.session import Session

Answer = Callable[[Reply], None]
# What became of a message that was posted by no session: its event, an earlier one's place, or a refusal.
Outcome = LogEvent | Known | Refused
Key = tuple[str, str, str]  # (conversation, sender, client key)

# The loop's clock (uvloop's) moves in whole milliseconds, so a difference may be so much too large.
CLOCK_STEP = 0.001
_STAGES = (*RESEND_AFTER, GIVE_UP_AFTER)


class Pending:
    """One request and who waits for it. `waiters` and `posters` are for sends: ``(session, command id)``, and
    whoever posted without a session."""

    __slots__ = ("answer", "begun", "posters", "request", "slot", "waiters")

    def __init__(self, slot: int, request: Request, begun: float, answer: Answer | None) -> None:
        self.slot = slot
        self.request = request
        self.begun = begun
        self.answer = answer
        self.waiters: list[tuple[Session, str | None]] = []
        self.posters: list[Callable[[Outcome], None]] | None = None


class Requests:
    """Unanswered requests by number and, for sends, by key.

    `out` collects the ``(slot, request)`` pairs to be passed to the bus at the end of the tick.
    """

    def __init__(self) -> None:
        self.out: list[tuple[int, Request]] = []
        self.resent = 0
        self._no = 0
        self._by_no: dict[int, Pending] = {}
        self._by_key: dict[Key, Pending] = {}
        # One queue for each stage of waiting: all in it wait equally long, so its head is always next.
        self._stages: list[deque[int]] = [deque() for _ in _STAGES]

    def __len__(self) -> int:
        return len(self._by_no)

    @property
    def sends(self) -> int:
        """How many of them are messages without acknowledgement."""
        return len(self._by_key)

    def next_no(self) -> int:
        """A number for the next request."""
        self._no += 1
        return self._no

    def find(self, key: Key) -> Pending | None:
        """The unanswered send with this key."""
        return self._by_key.get(key)

    def add(self, slot: int, no: int, request: Request, now: float, answer: Answer | None) -> Pending:
        """Keep *request*, whose number is *no*, and pass it on."""
        pending = Pending(slot, request, now, answer)
        self._by_no[no] = pending
        if type(request) is Send:
            self._by_key[request.conversation, request.sender, request.key] = pending
        self._stages[0].append(no)
        self.out.append((slot, request))
        return pending

    def repeated(self, no: int) -> bool:
        """Whether request *no* is a send of which more than one copy has left."""
        pending = self._by_no.get(no)
        return pending is not None and type(pending.request) is Send and pending.request.resent

    def age(self, no: int, now: float) -> float:
        """The seconds since request *no* was made, rather too few than too many; 0 if it is answered."""
        pending = self._by_no.get(no)
        return 0.0 if pending is None else max(0.0, now - pending.begun - CLOCK_STEP)

    def answered(self, no: int) -> Pending | None:
        """The reply to request *no*, or the event of that send, has come; ``None`` if not the first."""
        pending = self._by_no.pop(no, None)
        if pending is not None and type(pending.request) is Send:
            request = pending.request
            del self._by_key[request.conversation, request.sender, request.key]
        return pending

    def repeat(self, slots: Iterable[int] | None = None) -> None:
        """Send again all requests, or those of *slots*: their owner or the way to it has changed."""
        chosen = None if slots is None else set(slots)
        for pending in self._by_no.values():
            if chosen is None or pending.slot in chosen:
                self._again(pending)

    def tick(self, now: float) -> list[tuple[Pending, Refused]]:
        """Send again what is due; return what is given up, each with its refusal."""
        given_up: list[tuple[Pending, Refused]] = []
        for i, (queue, delay) in enumerate(zip(self._stages, _STAGES, strict=True)):
            while queue:
                pending = self._by_no.get(queue[0])
                if pending is not None and now - pending.begun < delay:
                    break
                no = queue.popleft()
                if pending is None:
                    continue
                if i + 1 < len(self._stages):
                    self._again(pending)
                    self._stages[i + 1].append(no)
                else:
                    self.answered(no)
                    refused = Refused(no, ErrorCode.UNAVAILABLE.name, "no answer in time; try again", "unknown", 1000)
                    given_up.append((pending, refused))
        return given_up

    def _again(self, pending: Pending) -> None:
        self.resent += 1
        if type(pending.request) is Send:
            pending.request.resent = True
        self.out.append((pending.slot, pending.request))
