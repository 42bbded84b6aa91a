"""What each command of a client does."""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, Protocol

from msgspec import UNSET, Raw

from hubbub.protocol import conversation as names
from hubbub.protocol import internal, messages
from hubbub.protocol.conversation import InvalidName, may_read, slot_of, user_slot
from hubbub.protocol.internal import HistoryRows, Online, Refused, Reply, Signal
from hubbub.protocol.limits import SERVER_KEY, Limits
from hubbub.protocol.refusals import ErrorCode, Refusal
from shards.access import Proof
from shards.catchup import CatchUp
from shards.confirm import Confirmations
from shards.outbox import Outbox
from shards.requests import Outcome, Pending, Requests
from shards.session import Session, Stage
from shards.talkers import Talkers
from shards.topics import Topics

# A typing notice of a session is passed on at most this often (seconds).
_TYPING_EVERY = 1.0


class Identity(Proof, Protocol):
    """Who somebody proved to be."""

    @property
    def expires_at(self) -> float | None:
        """Unix seconds, or None: never."""


@lru_cache(maxsize=8192)
def _address(sender: str, recipient: str | None) -> tuple[str, int]:
    """The conversation and slot of a message. Raises `InvalidName`."""
    if recipient is None:
        return names.LOBBY, slot_of(names.LOBBY)
    conversation = names.direct(sender, names.check_username(recipient))
    return conversation, slot_of(conversation)


class Commands:
    """Carries out decoded commands. Each method raises `Refusal` for what it will not do."""

    def __init__(
        self,
        *,
        limits: Limits,
        outbox: Outbox,
        topics: Topics,
        requests: Requests,
        confirmations: Confirmations,
        catchup: CatchUp,
        signals: list[Signal],
        verify: Callable[[str], Identity],
        welcome: Callable[[Session, str | None], None],
        server_time: Callable[[], str],
        origin: str,
    ) -> None:
        self._limits = limits
        self._outbox = outbox
        self._topics = topics
        self._requests = requests
        self._confirmations = confirmations
        self._catchup = catchup
        self._signals = signals
        self._verify = verify
        self._welcome = welcome
        self._server_time = server_time
        self._origin = origin
        self._keys = 0
        self.talkers = Talkers()

    def carry_out(self, session: Session, command: messages.Command, now: float) -> None:
        """Dispatch on the command's type."""
        match command:
            case messages.Send():
                self._send(session, command, now)
            case messages.Received() | messages.Read():
                self._cursor(session, command)
            case messages.Sync():
                self._catchup.sync(session, command, now)
            case messages.History():
                self._history(session, command, now)
            case messages.Typing():
                self._typing(session, command, now)
            case messages.Watch():
                self._watch(session, command, now)
            case messages.Token():
                self._token(session, command)
            case messages.Ping():
                command_id = UNSET if command.id is None else command.id
                self._outbox.say(session, messages.Pong(server_time=self._server_time(), id=command_id))

    def post(self, username: str, command: messages.Send, poster: Callable[[Outcome], None], now: float) -> None:
        """A send by somebody who is no session; *poster* is told what became of it."""
        pending = self._take(username, command, now)
        pending.posters = [*(pending.posters or ()), poster]

    def _send(self, session: Session, command: messages.Send, now: float) -> None:
        in_flight = session.in_flight < self._limits.in_flight
        pending = self._take(session.username, command, now, in_flight, (session, command.id))
        if (session, command.id) in pending.waiters:
            return  # said again because the answer takes long: one answer is enough, and it will come
        pending.waiters.append((session, command.id))
        session.in_flight += 1

    def _take(
        self,
        username: str,
        command: messages.Send,
        now: float,
        in_flight: bool = True,
        waiter: tuple[Session, str | None] | None = None,
    ) -> Pending:
        """Check a send and pass it on, or find it among those under way. Raises `Refusal`, `InvalidName`."""
        content = command.content
        bound = self._limits.content_bytes
        if len(content) * 4 > bound and len(content.encode()) > bound:
            raise Refusal(ErrorCode.TOO_LARGE, f"content is limited to {bound} bytes of UTF-8")
        if not content:
            raise Refusal(ErrorCode.BAD_REQUEST, "content is empty")
        if "\0" in content:
            raise Refusal(ErrorCode.BAD_REQUEST, "content must not contain U+0000")
        if command.room is not None:
            if command.recipient is not None:
                raise Refusal(ErrorCode.BAD_REQUEST, "give a recipient or a room, not both")
            raise Refusal(ErrorCode.NOT_FOUND, f"there is no room {command.room!r}")
        mentions = tuple(names.check_username(name) for name in command.mentions)
        conversation, slot = _address(username, command.recipient)
        key = command.id
        if key is None:
            self._keys += 1
            key = f"{SERVER_KEY}{self._origin}#{self._keys:x}"
        elif key.startswith(SERVER_KEY) or "\0" in key:
            raise Refusal(ErrorCode.BAD_REQUEST, f"id must not start with {SERVER_KEY} nor contain U+0000")
        pending = self._requests.find((conversation, username, key))
        if pending is not None:
            same = pending.request
            if not isinstance(same, internal.Send) or (same.content, same.reply_to, same.mentions) != (
                content,
                command.reply_to,
                mentions,
            ):
                raise Refusal(ErrorCode.CONFLICT, "this id is in use for another message of yours")
            if waiter in pending.waiters:
                return pending
        if not in_flight:
            text = f"{self._limits.in_flight} of your messages wait for their acknowledgement"
            raise Refusal(ErrorCode.RATE_LIMITED, text, retry_after_ms=100)
        if pending is not None:
            return pending
        if len(self._requests) >= self._limits.pending:
            raise Refusal(ErrorCode.OVERLOADED, "too many unanswered requests here", retry_after_ms=1000)
        no = self._requests.next_no()
        request = internal.Send(
            self._origin, no, conversation, username, command.recipient, key, content, command.reply_to, mentions, False
        )
        self.talkers.count(username)
        return self._requests.add(slot, no, request, now, None)

    def _cursor(self, session: Session, command: messages.Received | messages.Read) -> None:
        if not may_read(session.username, command.conversation):
            raise Refusal(ErrorCode.FORBIDDEN, f"you take no part in {command.conversation!r}")
        if isinstance(command, messages.Read):
            self._confirmations.move(session.username, command.conversation, read=command.seq)
        else:
            self._confirmations.acknowledges(session)
            self._confirmations.confirm(session, command.conversation, command.seq)

    def _history(self, session: Session, command: messages.History, now: float) -> None:
        if not may_read(session.username, command.conversation):
            raise Refusal(ErrorCode.FORBIDDEN, f"you take no part in {command.conversation!r}")
        if command.before is not None and command.after is not None:
            raise Refusal(ErrorCode.BAD_REQUEST, "give before or after, not both")
        no = self._requests.next_no()
        request = internal.ReadHistory(no, command.conversation, command.before, command.after, command.limit)

        def answer(reply: Reply) -> None:
            command_id = UNSET if command.id is None else command.id
            if isinstance(reply, HistoryRows):
                page = messages.HistoryPage(
                    conversation=command.conversation,
                    from_=reply.from_,
                    to=reply.to,
                    events=[Raw(event) for event in reply.events],
                    more=reply.more,
                    id=command_id,
                )
                self._outbox.say(session, page)
            elif isinstance(reply, Refused):
                self._refused(session, reply, command.id)

        self._requests.add(slot_of(command.conversation), no, request, now, answer)

    def _typing(self, session: Session, command: messages.Typing, now: float) -> None:
        if command.room is not None:
            raise Refusal(ErrorCode.NOT_FOUND, f"there is no room {command.room!r}")
        conversation, _ = _address(session.username, command.recipient)
        if command.on and now - session.typing_at < _TYPING_EVERY:
            return
        session.typing_at = now if command.on else 0.0
        topic = names.LOBBY_TOPIC if command.recipient is None else names.user_topic(command.recipient)
        notice = messages.TypingNotice(username=session.username, conversation=conversation, on=command.on)
        self._signals.append(Signal(topic, messages.encode_event(notice)))

    def _watch(self, session: Session, command: messages.Watch, now: float) -> None:
        users = list(dict.fromkeys(names.check_username(name) for name in command.users))
        wanted = tuple(names.presence_topic(name) for name in users)
        if command.lobby:
            wanted += (names.PRESENCE_TOPIC,)
        before, session.watching = session.watching, wanted
        self._topics.detach(session, before)

        def in_force(now: float) -> None:
            if session.stage is Stage.CLOSED or session.watching is not wanted:
                return
            self._topics.attach(session, wanted)
            self._tell_presence(session, users, command.id, now)

        self._topics.want(wanted, in_force, now)
        self._topics.release(before)

    def _tell_presence(self, session: Session, users: list[str], command: str | None, now: float) -> None:
        states: dict[str, Literal["online", "offline"]] = dict.fromkeys(users, "offline")
        by_slot: dict[int, list[str]] = {}
        for user in users:
            by_slot.setdefault(user_slot(user), []).append(user)
        left = len(by_slot)

        def say() -> None:
            command_id = UNSET if command is None else command
            self._outbox.say(session, messages.Presence(users=states, id=command_id))

        def answer(reply: Reply) -> None:
            nonlocal left
            left -= 1
            if isinstance(reply, Online):
                states.update(dict.fromkeys(reply.users, "online"))
            if isinstance(reply, Refused):
                self._refused(session, reply, command)
                left = -1
            if left == 0:
                say()

        if not by_slot:
            say()
        for slot, among in by_slot.items():
            no = self._requests.next_no()
            self._requests.add(slot, no, internal.WhoIsOnline(no, slot, among), now, answer)

    def _token(self, session: Session, command: messages.Token) -> None:
        identity = self._verify(command.token)
        if identity.username != session.username:
            raise Refusal(ErrorCode.FORBIDDEN, "the token is for another user")
        session.expires_at = identity.expires_at
        session.proof = identity
        self._welcome(session, command.id)

    def _refused(self, session: Session, reply: Refused, command: str | None) -> None:
        refusal = Refusal(ErrorCode[reply.code], reply.message, retry_after_ms=reply.retry_after_ms)
        self._outbox.refuse(session, refusal, command)


def refusal_of(error: InvalidName) -> Refusal:
    """A name that breaks the rules, as a client is told."""
    return Refusal(ErrorCode.BAD_REQUEST, str(error))
