"""The core of a shard: what each session is told, and when. No sockets, no clock, no loop.

Inputs are method calls (a client's message, a batch from the bus, the passing of time); effects are the
frames in each session's `out` (with the session in `dirty`), and what `flush` passes to the bus. One
call of `flush` ends each tick of the loop.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from msgspec import UNSET

from hubbub.bus.interface import Bus
from hubbub.bus.log import Positions
from hubbub.protocol import messages
from hubbub.protocol.conversation import LOBBY_TOPIC, InvalidName, user_topic
from hubbub.protocol.internal import (
    AttendAgain,
    Known,
    LogEvent,
    Range,
    Refused,
    Replay,
    Reply,
    Request,
    Send,
    Signal,
    Steps,
    trace_of,
)
from hubbub.protocol.limits import Limits
from hubbub.protocol.refusals import CloseCode, ErrorCode, Refusal
from shards import frames
from shards.access import Changes, Proof
from shards.attendance import Attendance
from shards.catchup import CatchUp
from shards.commands import Commands, Identity, refusal_of
from shards.confirm import Confirmations
from shards.outbox import Outbox
from shards.requests import Answer, Outcome, Pending, Requests
from shards.session import Session, Stage
from shards.talkers import Talkers
from shards.topics import Topics

if TYPE_CHECKING:
    from random import Random

PING_EVERY = 25
# Sessions closed in one tick (0.1 s) while draining: a storm of reconnects is spread at its source too.
DRAIN_SLICE = 250
# How long a drain waits for acknowledgements of what was taken.
DRAIN_SECONDS = 10.0
RECONNECT = messages.ReconnectTimes(min_ms=200, max_ms=10_000)
RESTART_SPREAD_MS = 2_000
HEARTBEAT = b"h"
_OVERLOADED = ErrorCode.OVERLOADED.name
# The longest that a request waits for others to go with it.
COALESCE = 0.001


def iso(wall: float) -> str:
    """Unix seconds as ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class Hub:
    """One shard's sessions and all that is decided for them; a `hubbub.bus.interface.Handler`.

    *wall* gives unix seconds for what people read; every other time is the monotonic *now* of the call.
    *name* is different for every life of every shard. *verify* turns a token into an identity or raises `Refusal`.
    *steps* is told of each message's way through this shard.
    """

    def __init__(
        self,
        *,
        name: str,
        limits: Limits,
        verify: Callable[[str], Identity],
        wall: Callable[[], float],
        rng: "Random",
        steps: Steps | None = None,
    ) -> None:
        self.name = name
        self.limits = limits
        self.draining = False
        self.sessions: dict[Session, None] = {}
        self.positions = Positions()
        self.pending = Requests()
        self.topics = Topics()
        self.attendance = Attendance(name)
        self.outbox = Outbox(limits)
        self.received = 0  # commands
        self.acknowledged = 0
        self.delivered = 0
        self.resets = 0
        self._wall = wall
        self._rng = rng
        self._bus: Bus | None = None
        self._steps = steps
        self._take_in: Callable[[list[str], LogEvent], object] = (
            self._apply if steps is None else partial(self._apply_and_tell, steps)
        )
        self._signals: list[Signal] = []
        self._ids = 0
        self._wheel: list[dict[Session, None]] = [{} for _ in range(PING_EVERY)]
        self._turned = 0.0
        self._requested = 0.0
        self._spoke = 0
        self._drain_until = 0.0
        self.confirmations = Confirmations(self.outbox, self.pending)
        self._catchup = CatchUp(self.outbox, self.topics, self.positions, self.pending, self.confirmations)
        self._commands = Commands(
            limits=limits,
            outbox=self.outbox,
            topics=self.topics,
            requests=self.pending,
            confirmations=self.confirmations,
            catchup=self._catchup,
            signals=self._signals,
            verify=verify,
            welcome=self._welcome,
            server_time=lambda: iso(wall()),
            origin=name,
        )

    def connect(self, bus: Bus) -> None:
        """The exchange to speak through; once, before anything else."""
        self._bus = bus

    @property
    def bus(self) -> Bus:
        """The exchange."""
        if self._bus is None:
            raise RuntimeError("Hub.connect was not called")
        return self._bus

    @property
    def talkers(self) -> Talkers:
        """Who says most here."""
        return self._commands.talkers

    @property
    def ready(self) -> bool:
        """Whether sessions may open: every slot's position is known and the link is up."""
        return self.bus.up and self.positions.known and not self.draining

    @property
    def dirty(self) -> dict[Session, None]:
        """Sessions whose `out` is to be written; the adapter empties it."""
        return self.outbox.dirty

    # --- sessions -----------------------------------------------------------------------------------

    def open(
        self,
        username: str,
        *,
        syncing: bool,
        remote: str,
        expires_at: float | None,
        now: float,
        proof: Proof | None = None,
    ) -> Session:
        """A connection was accepted; its welcome is in `out`. Raises `Refusal`."""
        if not self.ready or len(self.sessions) >= self.limits.sessions:
            raise Refusal(ErrorCode.UNAVAILABLE, "the server is not ready; try again", retry_after_ms=1000)
        if self.attendance.sessions(username) >= self.limits.sessions_per_user:
            bound = self.limits.sessions_per_user
            raise Refusal(ErrorCode.RATE_LIMITED, f"{bound} connections of this user are open", retry_after_ms=5000)
        self._ids += 1
        session = Session(
            f"{self.name}-{self._ids}",
            username,
            syncing=syncing,
            remote=remote,
            expires_at=expires_at,
            limits=self.limits,
            now=now,
            proof=proof,
        )
        self.sessions[session] = None
        self.attendance.joined(username)
        session.spoke = self._ids % PING_EVERY
        self._wheel[session.spoke][session] = None
        self._welcome(session, None)
        session.topics = (user_topic(username), LOBBY_TOPIC)
        self.topics.want(session.topics, lambda now: self._catchup.opened(session, now), now)
        return session

    def receive(self, session: Session, data: bytes, now: float) -> None:
        """One message of a client, complete and within the frame limit."""
        if session.stage is Stage.CLOSED or self.draining:
            return
        self.received += 1
        if not session.take_token(self.limits, now):
            self._flooded(session, data)
            return
        session.refused -= session.refused > 0
        try:
            command = messages.decode_command(data)
        except Refusal as refusal:
            self.outbox.refuse(session, refusal, messages.command_id(data))
            return
        stored: messages.Stored | None = "no" if type(command) is messages.Send else None
        try:
            self._commands.carry_out(session, command, now)
        except Refusal as refusal:
            self.outbox.refuse(session, refusal, command.id, stored)
        except InvalidName as exc:
            self.outbox.refuse(session, refusal_of(exc), command.id, stored)

    def pong(self, session: Session, payload: bytes, now: float) -> None:
        """A client's pong."""
        if session.stage is not Stage.CLOSED:
            self.confirmations.pong(session, payload)

    def slow(self, session: Session) -> None:
        """The adapter found more unsent bytes than `Limits.outbox_bytes`."""
        self.outbox.close(session, CloseCode.SLOW_CONSUMER)

    def close(self, session: Session, now: float) -> None:
        """The connection is gone, whatever the reason."""
        if self.sessions.pop(session, self) is self:
            return
        session.stage = Stage.CLOSED
        session.held = None
        self.dirty.pop(session, None)
        self.topics.detach(session, session.topics)
        self.topics.detach(session, session.watching)
        self.topics.release(session.topics)
        self.topics.release(session.watching)
        self.confirmations.forget(session)
        self._catchup.forget(session)
        self.attendance.left(session.username)
        self._wheel[session.spoke].pop(session, None)

    def ask(self, factory: Callable[[int], Request], slot: int, answer: Answer, now: float) -> None:
        """A read for somebody who is no session; *factory* makes the request from its number."""
        no = self.pending.next_no()
        self.pending.add(slot, no, factory(no), now, answer)

    def post(
        self, username: str, command: messages.Send, poster: Callable[[Outcome | Refusal], None], now: float
    ) -> None:
        """A message from somebody who is no session; *poster* is told what became of it. Raises `Refusal`.

        The shard acknowledges what it hears in the log, so it has to hear it: until the outcome is known it
        listens to the poster's topics as it does for a session.
        """
        if not self.ready:
            raise Refusal(ErrorCode.UNAVAILABLE, "the server is not ready; try again", retry_after_ms=1000)
        topics = (user_topic(username), LOBBY_TOPIC)

        def heard(outcome: Outcome | Refusal) -> None:
            self.topics.release(topics)
            poster(outcome)

        def send(now: float) -> None:
            try:
                self._commands.post(username, command, heard, now)
            except Refusal as refusal:
                heard(refusal)
            except InvalidName as exc:
                heard(refusal_of(exc))

        self.topics.want(topics, send, now)

    def look_again(self, changes: Changes, refusal: Callable[[Proof], Refusal | None]) -> None:
        """The access list has changed: close the sessions that it does not allow any more."""
        for session in self.sessions:
            proof = session.proof
            if proof is None or session.stage is Stage.CLOSED:
                continue
            if changes.everybody or proof.username in changes.users or proof.token_id in changes.tokens:
                if refusal(proof) is not None:
                    self.outbox.close(session, CloseCode.REVOKED)

    # --- the bus ------------------------------------------------------------------------------------

    def linked(self, now: float) -> None:
        """See `Handler.linked`. What was asked on the old link may be lost, so it is asked again."""
        self.positions.topics_changed()
        self.topics.linked(now)
        self.pending.repeat()

    def subscribed(self, no: int, now: float) -> None:
        """See `Handler.subscribed`."""
        self.positions.topics_changed()
        self.topics.subscribed(no, now)

    def ranges(self, ranges: list[Range], now: float) -> None:
        """See `Handler.ranges`."""
        for part in ranges:
            for topics, event in self.positions.accept(part, now):
                self._take_in(topics, event)
            if self.positions.resets:
                self._follow_up()  # at once: nobody is shown what comes behind the gap
        self._follow_up()

    def replies(self, replies: list[Reply], now: float) -> None:
        """See `Handler.replies`."""
        for reply in replies:
            if isinstance(reply, AttendAgain):
                self.pending.out.append(self.attendance.full(reply.slot))
            elif isinstance(reply, Refused) and reply.code == _OVERLOADED and self.pending.repeated(reply.no):
                pass  # said of the first copy; the second may be stored by now
            else:
                pending = self.pending.answered(reply.no)
                if pending is not None:
                    self._answer(pending, reply)

    def signals(self, signals: list[Signal], now: float) -> None:
        """See `Handler.signals`."""
        for signal in signals:
            listeners = self.topics.index.get(signal.topic)
            if listeners:
                frame = frames.text(signal.payload)
                for session in listeners:
                    self.outbox.droppable(session, frame)

    def requests(self, peer: bytes, requests: list[Request], now: float) -> None:
        """See `Handler.requests`. A shard owns no slot: what comes here went astray and is sent again."""

    # --- time ---------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Ten times a second: what is due by the clock."""
        self.positions.tick(now)
        self._follow_up()
        for pending, refused in self.pending.tick(now):
            self._answer(pending, refused)
        self.confirmations.tick(now)
        self._catchup.tick(now)
        self.pending.out += self.attendance.tick(now)
        if now - self._turned >= 1.0:
            self._turned = now
            self._turn(now)
        if self.draining:
            self._drain_some(now)

    def flush(self, now: float) -> float:
        """Pass on what this tick produced; the seconds after which to call again, 0 if there is no need to.

        What the bus cannot take now is repeated by its own timers.
        """
        bus = self.bus
        self.topics.flush(bus, now)
        self.pending.out += self.attendance.flush()
        later = 0.0
        if self.pending.out:
            later = self._coalesce(now)
            if not later:
                self._requested = now
                out, self.pending.out = self.pending.out, []
                if self._steps is not None:
                    for _, request in out:
                        if isinstance(request, Send):
                            age = self.pending.age(request.no, now)
                            self._steps("forwarded", trace_of(request.origin, request.no), age)
                bus.request(out)
        if self._signals:
            bus.signal(self._signals)
            self._signals.clear()
        return later

    def drain(self, now: float) -> None:
        """Take nothing new, finish the sends that were taken, then close everybody in slices."""
        self.draining = True
        self._drain_until = now + DRAIN_SECONDS

    def _coalesce(self, now: float) -> float:
        """How long the requests of this tick shall wait for more (Nagle's rule, RFC 896).

        While earlier sends are unanswered the store is committing, and what comes meanwhile is one batch
        anyway; a message of its own for each on the bus only costs three processes a wake-up each. Somebody
        who writes alone never waits.
        """
        wait = self._requested + COALESCE - now
        return wait if wait > 0 and self.pending.sends > len(self.pending.out) else 0.0

    # --- inside -------------------------------------------------------------------------------------

    def _welcome(self, session: Session, command: str | None) -> None:
        limits = self.limits
        self.outbox.say(
            session,
            messages.Welcome(
                username=session.username,
                session=session.id,
                server_time=iso(self._wall()),
                epoch=self.positions.epoch,
                limits=messages.WelcomeLimits(
                    content_bytes=limits.content_bytes,
                    rate=limits.rate,
                    burst=limits.burst,
                    in_flight=limits.in_flight,
                ),
                ping=messages.PingTimes(interval_ms=PING_EVERY * 1000, timeout_ms=PING_EVERY * 1000),
                reconnect=RECONNECT,
                token_expires_at=UNSET if session.expires_at is None else iso(session.expires_at),
                id=UNSET if command is None else command,
            ),
        )

    def _flooded(self, session: Session, data: bytes) -> None:
        session.refused += 1
        if session.refused > self.limits.burst:
            self.outbox.close(session, CloseCode.PROTOCOL_VIOLATION)
            return
        wait_ms = int(1000 / self.limits.rate) + 1
        text = f"more than {self.limits.rate:g} commands a second"
        refusal = Refusal(ErrorCode.RATE_LIMITED, text, retry_after_ms=wait_ms)
        self.outbox.refuse(session, refusal, messages.command_id(data), "no")

    def _apply_and_tell(self, steps: Steps, topics: list[str], event: LogEvent) -> None:
        trace = trace_of(event.origin, event.no)
        if event.origin:  # what was read from the table has none
            steps("applying", trace)
        own = self._apply(topics, event)
        if event.origin:
            steps("acknowledged" if own else "delivered", trace)

    def _apply(self, topics: list[str], event: LogEvent) -> bool:
        """Write an event to whom it concerns; whether it answered a send of this shard."""
        pending = self.pending.answered(event.no) if event.origin == self.name else None
        origins: list[Session] = []
        if pending is not None:
            for session, command in pending.waiters:
                origins.append(session)
                self._acknowledge(session, command, event.conversation, event, duplicate=False)
                if session.stage in (Stage.HOLDING, Stage.LIVE) and not session.acknowledges:
                    self.confirmations.wrote(session, event.conversation, event.seq)
            if pending.posters:
                self._tell(pending.posters, event)
        frame = b""
        conversation, seq = event.conversation, event.seq
        dirty = self.outbox.dirty
        for topic in topics:
            listeners = self.topics.index.get(topic)
            if not listeners:
                continue
            frame = frame or frames.text(event.payload)
            full: list[Session] = []
            for session in listeners:
                if session in origins:
                    continue
                if session.stage is Stage.LIVE:
                    session.out.append(frame)
                    dirty[session] = None
                elif not self.outbox.in_order(session, frame):
                    full.append(session)
                    continue
                if not session.acknowledges:
                    self.confirmations.wrote(session, conversation, seq)
            self.delivered += len(listeners)
            for session in full:
                self.topics.detach(session, session.topics)
        return pending is not None

    def _answer(self, pending: Pending, reply: Reply) -> None:
        if self._steps is not None and isinstance(pending.request, Send):
            trace = trace_of(pending.request.origin, pending.request.no)
            self._steps("refused" if isinstance(reply, Refused) else "known", trace)
        if pending.answer is not None:
            pending.answer(reply)
        for session, command in pending.waiters:
            if isinstance(reply, Known):
                conversation = getattr(pending.request, "conversation", "")
                self._acknowledge(session, command, conversation, reply, duplicate=True)
            elif isinstance(reply, Refused):
                session.in_flight -= 1
                refusal = Refusal(ErrorCode[reply.code], reply.message, retry_after_ms=reply.retry_after_ms)
                self.outbox.refuse(session, refusal, command, reply.stored)
        if pending.posters and isinstance(reply, Known | Refused):
            self._tell(pending.posters, reply)

    def _tell(self, posters: list[Callable[[Outcome], None]], outcome: Outcome) -> None:
        for poster in posters:
            self.acknowledged += not isinstance(outcome, Refused)
            poster(outcome)

    def _acknowledge(
        self, session: Session, command: str | None, conversation: str, what: LogEvent | Known, *, duplicate: bool
    ) -> None:
        session.in_flight -= 1
        self.acknowledged += 1
        self.confirmations.spoke(session, conversation, what.seq)
        ack = messages.Ack(
            id=UNSET if command is None else command,
            message_id=what.id,
            conversation=conversation,
            seq=what.seq,
            timestamp=what.timestamp,
            duplicate=duplicate,
        )
        self.outbox.in_order(session, frames.text(messages.encode_event(ack)))

    def _follow_up(self) -> None:
        positions = self.positions
        if positions.asks:
            self.pending.out += [(slot, Replay(slot, after)) for slot, after in positions.asks]
            positions.asks.clear()
        if positions.new_terms:
            self.pending.repeat(positions.new_terms)
            self.pending.out += [self.attendance.full(slot) for slot in positions.new_terms]
            positions.new_terms.clear()
        if positions.resets:
            positions.resets.clear()
            self.resets += 1
            for session in self.sessions:
                wait = self._rng.randrange(RESTART_SPREAD_MS)
                self.outbox.close(session, CloseCode.MISSED_TOO_MUCH, wait)

    def _turn(self, now: float) -> None:
        """One spoke of the heartbeat wheel, and the tokens that have run out."""
        wall = self._wall()
        self._spoke = (self._spoke + 1) % PING_EVERY
        for session in self._wheel[self._spoke]:
            if now - session.heard < PING_EVERY:
                session.pinged = False
            elif not session.pinged:
                session.pinged = True
                self.outbox.write(session, frames.ping(HEARTBEAT))
            else:
                self.outbox.close(session, CloseCode.NO_PONG)
        for session in self.sessions:
            if session.expires_at is not None and session.expires_at <= wall:
                self.outbox.close(session, CloseCode.TOKEN_EXPIRED)

    def _drain_some(self, now: float) -> None:
        if self.pending.sends and now < self._drain_until:
            return
        slices = DRAIN_SLICE
        for session in self.sessions:
            if session.stage is not Stage.CLOSED:
                self.outbox.close(session, CloseCode.RESTARTING, self._rng.randrange(RESTART_SPREAD_MS))
                slices -= 1
                if not slices:
                    break
