"""What this shard's clients were told of others' coming and going, and set right where a notice was lost.

Notices are not numbered: one is lost with its link, and a new owner of a slot knows nothing of those who left while
there was none. So the shard asks the owners every few seconds, and what twice differs from what was told is told.
Slots are asked in turns, so that the questions are spread over the time.
"""

from typing import Literal

from hubbub.protocol.conversation import PRESENCE_TOPIC, SLOTS, presence_topic, user_slot
from hubbub.protocol.internal import Online, Reply, Signal, WhoIsOnline
from hubbub.protocol.limits import LEASE_SECONDS, PRESENCE_NAMES_MAX, PRESENCE_REFRESH
from hubbub.protocol.messages import Presence, decode_event, encode_event
from shards import frames
from shards.outbox import Outbox
from shards.requests import Requests
from shards.session import Session

State = Literal["online", "offline"]


class Watchers:
    """*index* leads from topics to the sessions that hear them. Pure: notices go into sessions' `out`."""

    def __init__(self, outbox: Outbox, requests: Requests, index: dict[str, dict[Session, None]]) -> None:
        self._outbox = outbox
        self._requests = requests
        self._index = index
        self._told: list[dict[str, State]] = [{} for _ in range(SLOTS)]  # of each watched user
        self._here: list[set[str] | None] = [None] * SLOTS  # what those who watch everybody were told; None: not known
        self._suspected: list[dict[str, State]] = [{} for _ in range(SLOTS)]
        self._due = [0.0] * SLOTS
        self._asked: set[int] = set()

    def heard(self, signal: Signal) -> None:
        """A notice of presence is passed on to those who watch."""
        notice = decode_event(signal.payload)
        if not isinstance(notice, Presence):
            return
        if signal.topic == PRESENCE_TOPIC:
            if notice.more:
                self._here = [None] * SLOTS  # whoever wants to know asks
            for user, state in notice.users.items():
                here = self._here[user_slot(user)]
                if here is not None:
                    _enter(here, user, state)
        else:
            self._know(notice.users)

    def answered(self, users: dict[str, State]) -> None:
        """A session that began to watch *users* is told how they are. Those who watch already are told what is new."""
        for user, state in users.items():
            if self._told[user_slot(user)].get(user, state) != state:
                self._correct({user: state})
            self._told[user_slot(user)][user] = state

    def new_owner(self, slots: list[int], now: float) -> None:
        """These slots changed hands. The new owner is told by all shards; it is not asked before it can know."""
        for slot in slots:
            self._due[slot] = max(self._due[slot], now + LEASE_SECONDS)
            self._suspected[slot].clear()

    def tick(self, now: float) -> None:
        """Ask the owners whose turn it is."""
        everybody = bool(self._index.get(PRESENCE_TOPIC))
        for slot, due in enumerate(self._due):
            if now < due or slot in self._asked:
                continue
            if now - due < PRESENCE_REFRESH:
                self._due[slot] = due + PRESENCE_REFRESH
                self._ask(slot, everybody, now)
            else:  # the first time, or after a pause: from here on in turns
                self._due[slot] = now + PRESENCE_REFRESH * slot / SLOTS

    def _ask(self, slot: int, everybody: bool, now: float) -> None:
        told = self._told[slot]
        for user in [user for user in told if presence_topic(user) not in self._index]:
            del told[user]
        if not everybody:
            self._here[slot] = None
        if not (everybody or told):
            self._suspected[slot].clear()
            return
        no = self._requests.next_no()

        def answer(reply: Reply) -> None:
            self._asked.discard(slot)
            if isinstance(reply, Online):
                self._compare(slot, set(reply.users), everybody)

        self._asked.add(slot)
        self._requests.add(slot, no, WhoIsOnline(no, slot, None if everybody else list(told)), now, answer)

    def _compare(self, slot: int, online: set[str], everybody: bool) -> None:
        told, here = self._told[slot], self._here[slot]
        differing: dict[str, State] = {
            user: _state(user in online) for user, state in told.items() if state != _state(user in online)
        }
        if everybody and here is None:
            self._here[slot] = set(online)
        elif everybody and here is not None:
            differing |= {user: _state(user in online) for user in online ^ here}
        # What differs once may be on its way.
        before, self._suspected[slot] = self._suspected[slot], differing
        certain = {user: state for user, state in differing.items() if before.get(user) == state}
        if certain:
            self._correct(certain)
            self._know(certain)
            for user, state in certain.items():
                if here is not None:
                    _enter(here, user, state)

    def _know(self, users: dict[str, State]) -> None:
        for user, state in users.items():
            told = self._told[user_slot(user)]
            if user in told:
                told[user] = state

    def _correct(self, users: dict[str, State]) -> None:
        for user, state in users.items():
            self._tell(presence_topic(user), Presence(users={user: state}))
        if len(users) <= PRESENCE_NAMES_MAX:
            self._tell(PRESENCE_TOPIC, Presence(users=users))
        else:
            self._tell(PRESENCE_TOPIC, Presence(users={}, more=True))

    def _tell(self, topic: str, notice: Presence) -> None:
        listeners = self._index.get(topic)
        if listeners:
            frame = frames.text(encode_event(notice))
            for session in listeners:
                self._outbox.droppable(session, frame)


def _state(there: bool) -> State:
    return "online" if there else "offline"


def _enter(here: set[str], user: str, state: State) -> None:
    if state == "online":
        here.add(user)
    else:
        here.discard(user)
