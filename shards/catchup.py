"""Opening a session: what it missed first, then what happens live, with no gap and no overlap.

The session enters the index with its live events held, and the shard notes where it stands in every
slot's log. The store reads rows up to those positions, the stream brings everything past them; the
answer is written, then what was held.
"""

from msgspec import UNSET

from hubbub.bus.log import Positions
from hubbub.protocol import internal, messages
from hubbub.protocol.conversation import may_read, user_slot
from hubbub.protocol.internal import BacklogPage, ConversationPage, Refused, Reply, SyncPage
from hubbub.protocol.limits import SYNC_TOTAL_MAX
from hubbub.protocol.refusals import CloseCode, ErrorCode, Refusal
from shards import frames
from shards.confirm import Confirmations
from shards.outbox import Outbox
from shards.requests import Requests
from shards.session import Session, Stage
from shards.topics import Topics


class CatchUp:
    """Serves `sync` for clients that hold positions, and the undelivered messages for those that do not."""

    def __init__(
        self,
        outbox: Outbox,
        topics: Topics,
        positions: Positions,
        requests: Requests,
        confirmations: Confirmations,
    ) -> None:
        self._outbox = outbox
        self._topics = topics
        self._positions = positions
        self._requests = requests
        self._confirmations = confirmations
        # Sessions whose next page of backlog waits for the last to be read by the client.
        self._paused: dict[Session, list[int]] = {}

    def opened(self, session: Session, now: float) -> None:
        """The session's topics are in force."""
        if session.stage is not Stage.OPENING:
            return
        session.stage = Stage.IDLE
        if session.sync_wanted is not None:
            self._begin_sync(session, now)
        elif not session.syncing:
            positions = self._attach(session)
            self._read_backlog(session, {}, positions, now)

    def sync(self, session: Session, command: messages.Sync, now: float) -> None:
        """A client's `sync`. Raises `Refusal`."""
        if session.sync_wanted is not None or session.stage is Stage.HOLDING:
            raise Refusal(ErrorCode.BAD_REQUEST, "a sync is already under way; wait for `synced`")
        have = session.have if session.have is not None else {}
        if len(have) + len(command.have) > SYNC_TOTAL_MAX:
            raise Refusal(ErrorCode.TOO_LARGE, f"a sync may name {SYNC_TOTAL_MAX} conversations")
        for conversation in command.have:
            if not may_read(session.username, conversation):
                raise Refusal(ErrorCode.FORBIDDEN, f"you take no part in {conversation!r}")
        if command.epoch is None or command.epoch == self._positions.epoch:
            have.update(command.have)
        session.have = have
        if command.more:
            return
        session.sync_wanted = (command.id,)
        if session.stage is not Stage.OPENING:
            self._begin_sync(session, now)

    def tick(self, now: float) -> None:
        """Read on for clients that have taken the last page."""
        for session, positions in list(self._paused.items()):
            if session.stage is not Stage.HOLDING:
                del self._paused[session]
            elif not session.unsent and not session.out:
                del self._paused[session]
                self._read_backlog(session, session.backlog_after or {}, positions, now)

    def forget(self, session: Session) -> None:
        """The connection is gone."""
        self._paused.pop(session, None)

    def _attach(self, session: Session) -> list[int]:
        self._outbox.hold(session)
        self._topics.attach(session, session.topics)
        session.read_id += 1
        return self._positions.snapshot()

    def _begin_sync(self, session: Session, now: float) -> None:
        have, session.have = session.have or {}, None
        wanted, session.sync_wanted = session.sync_wanted, None
        command = wanted[0] if wanted is not None else None
        positions = self._attach(session)
        read = session.read_id
        no = self._requests.next_no()
        request = internal.Sync(no, session.username, have, positions)

        def answer(reply: Reply) -> None:
            if session.stage is not Stage.HOLDING or session.read_id != read:
                return
            if isinstance(reply, SyncPage):
                self._write_sync(session, reply, command)
            elif isinstance(reply, Refused):
                self._detach(session)
                refusal = Refusal(ErrorCode[reply.code], reply.message, retry_after_ms=reply.retry_after_ms)
                self._outbox.refuse(session, refusal, command)

        self._requests.add(user_slot(session.username), no, request, now, answer)

    def _detach(self, session: Session) -> None:
        # What was held is lost to this session, so it must not go on as if it had heard everything.
        self._topics.detach(session, session.topics)
        self._confirmations.lost(session)
        session.held, session.held_bytes = None, 0
        session.stage = Stage.IDLE

    def _write_sync(self, session: Session, page: SyncPage, command: str | None) -> None:
        summaries: list[messages.SyncedConversation] = []
        for part in page.conversations:
            self._write_events(session, part)
            other = part.other
            if other is not None and (other.delivered or other.read):
                receipt = messages.Receipt(
                    conversation=part.conversation,
                    username=other.username,
                    delivered_seq=other.delivered,
                    read_seq=other.read,
                )
                self._outbox.say(session, receipt)
            summaries.append(
                messages.SyncedConversation(
                    conversation=part.conversation,
                    from_=part.from_,
                    to=part.to,
                    last_seq=part.last_seq,
                    delivered_seq=part.delivered_seq,
                    read_seq=part.read_seq,
                    unread=part.unread,
                    truncated=part.truncated,
                )
            )
        answer_id = UNSET if command is None else command
        self._outbox.say(session, messages.Synced(conversations=summaries, epoch=self._positions.epoch, id=answer_id))
        self._outbox.release(session)

    def _read_backlog(self, session: Session, after: dict[str, int], positions: list[int], now: float) -> None:
        read = session.read_id
        no = self._requests.next_no()
        request = internal.Backlog(no, session.username, after, positions)

        def answer(reply: Reply) -> None:
            if session.stage is not Stage.HOLDING or session.read_id != read:
                return
            if isinstance(reply, BacklogPage):
                self._write_backlog(session, reply, after, positions)
            else:
                # The store is away for longer than a request is kept: the client comes back later.
                self._outbox.close(session, CloseCode.RESTARTING, 1000)

        self._requests.add(user_slot(session.username), no, request, now, answer)

    def _write_backlog(self, session: Session, page: BacklogPage, after: dict[str, int], positions: list[int]) -> None:
        reached = dict(after)
        for part in page.conversations:
            self._write_events(session, part)
            reached[part.conversation] = part.to
        if page.more:
            session.backlog_after = reached
            self._paused[session] = positions
        else:
            session.backlog_after = None
            self._outbox.release(session)

    def _write_events(self, session: Session, part: ConversationPage) -> None:
        for payload in part.events:
            self._outbox.write(session, frames.text(payload))
        if part.events and not session.acknowledges:
            self._confirmations.wrote(session, part.conversation, part.to)
