"""What waits to be written to each session, and how a session is told goodbye."""

from collections import Counter

from msgspec import UNSET

from hubbub.protocol import messages
from hubbub.protocol.limits import Limits
from hubbub.protocol.refusals import CloseCode, Refusal
from shards import frames
from shards.session import Session, Stage


class Outbox:
    """Puts frames into sessions' `out`; `dirty` names those that have any, for the adapter to empty."""

    def __init__(self, limits: Limits) -> None:
        self.dirty: dict[Session, None] = {}
        self.errors: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self._limits = limits

    def write(self, session: Session, frame: bytes) -> None:
        """A frame for *session*, past anything that is held."""
        if session.stage is not Stage.CLOSED:
            session.out.append(frame)
            self.dirty[session] = None

    def in_order(self, session: Session, frame: bytes) -> bool:
        """A frame that belongs behind what is held, if anything is. False: the session was closed."""
        if session.held is None:
            self.write(session, frame)
            return True
        session.held.append(frame)
        session.held_bytes += len(frame)
        if session.held_bytes > self._limits.held_bytes:
            self.close(session, CloseCode.MISSED_TOO_MUCH)
            return False
        return True

    def say(self, session: Session, event: messages.Event) -> None:
        """An event for this session alone."""
        self.write(session, frames.text(messages.encode_event(event)))

    def refuse(
        self, session: Session, refusal: Refusal, command: str | None, stored: messages.Stored | None = None
    ) -> None:
        """A command's error."""
        self.errors[refusal.code.word] += 1
        self.say(session, messages.refusal_event(refusal, command, stored))

    def droppable(self, session: Session, frame: bytes) -> None:
        """A frame that may be lost (typing, presence): dropped for a session that reads slowly."""
        if session.stage is Stage.LIVE and session.unsent <= self._limits.outbox_bytes // 2:
            self.write(session, frame)

    def hold(self, session: Session) -> None:
        """From now on what `in_order` writes waits for `release`."""
        session.stage = Stage.HOLDING
        if session.held is None:
            session.held = []

    def release(self, session: Session) -> None:
        """Write what was held."""
        held, session.held, session.held_bytes = session.held, None, 0
        session.stage = Stage.LIVE
        if held:
            session.out += held
            self.dirty[session] = None

    def close(self, session: Session, code: CloseCode, reconnect_after_ms: int | None = None) -> None:
        """Say goodbye and close; whatever is held is not written, the client will sync."""
        if session.stage is Stage.CLOSED:
            return
        self.closes[int(code)] += 1
        after = UNSET if reconnect_after_ms is None else reconnect_after_ms
        self.say(session, messages.Goodbye(code=int(code), reason=code.reason, reconnect_after_ms=after))
        self.write(session, frames.close(int(code), code.reason))
        session.closing = code
        session.stage = Stage.CLOSED
        session.held = None
