"""Who is online, as leases that shards renew. In memory; every loss repairs itself within a lease. Pure.

The owner of a user's slot is also the only one who knows how many sessions the user has over all shards.
"""

from collections.abc import Mapping
from typing import Literal

from hubbub.protocol.conversation import PRESENCE_TOPIC, presence_topic, user_slot
from hubbub.protocol.internal import Attend, AttendAgain, Signal, TooMany
from hubbub.protocol.limits import CROWD_SECONDS, LEASE_SECONDS, PRESENCE_GRACE, PRESENCE_NAMES_MAX
from hubbub.protocol.messages import Presence, encode_event

State = Literal["online", "offline"]

# A pause between two ticks (ten a second) that means this process itself was stopped.
_STOPPED = 1.0


class _Lease:
    """What one shard reported of one slot. `users`: sessions by user; `peer`: where an answer goes."""

    __slots__ = ("expires", "peer", "users", "version")

    def __init__(self, version: int) -> None:
        self.version = version
        self.users: dict[str, int] = {}
        self.expires = 0.0
        self.peer = b""


class Attendance:
    """Leases by shard and slot, and the users they add up to. A user may have *sessions_max* sessions.

    `gone` collects users whose last session ended, for `last_seen`; `tick` returns the news.
    """

    def __init__(self, sessions_max: int) -> None:
        self.gone: list[str] = []
        self._sessions_max = sessions_max
        self._leases: dict[tuple[str, int], _Lease] = {}
        self._sessions: dict[str, int] = {}  # user -> sessions over all shards
        self._crowds: dict[str, float] = {}  # users with too many -> since when
        self._online: list[dict[str, None]] = [{} for _ in range(64)]
        self._leaving: dict[str, float] = {}
        self._news: dict[str, State] = {}
        self._aggregate: dict[str, State] = {}
        self._aggregated = 0.0
        self._ticked: float | None = None

    def __len__(self) -> int:
        return sum(len(users) for users in self._online)

    def online(self, slot: int, among: list[str] | None) -> list[str]:
        """The slot's online users, or those of *among*."""
        users = self._online[slot]
        return list(users) if among is None else [user for user in among if user in users]

    def attend(self, peer: bytes, report: Attend, now: float) -> AttendAgain | None:
        """A shard's report, which came from *peer*; the answer asks for the whole list where a step is missing."""
        key = (report.shard, report.slot)
        lease = self._leases.get(key)
        step = bool(report.sessions)
        if lease is None:
            if not report.full and (report.version != 1 or not step):
                return AttendAgain(report.slot)
            lease = self._leases[key] = _Lease(0)
        if report.full:
            self._set(lease, {**dict.fromkeys(lease.users, 0), **report.sessions}, now)
        else:
            if lease.version + step != report.version:
                # An old step that was overtaken by the whole list is no reason to ask again.
                return AttendAgain(report.slot) if report.version > lease.version else None
            self._set(lease, report.sessions, now)
        lease.version, lease.peer, lease.expires = report.version, peer, now + LEASE_SECONDS
        return None

    def lose(self, slots: list[int]) -> None:
        """These slots have another owner: forget them without news, it will tell its own."""
        for key in [key for key in self._leases if key[1] in slots]:
            for user in self._leases.pop(key).users:
                self._sessions.pop(user, None)
                self._crowds.pop(user, None)
        for slot in slots:
            for user in self._online[slot]:
                self._leaving.pop(user, None)
                self._news.pop(user, None)
            self._online[slot] = {}

    def tick(self, now: float) -> list[Signal]:
        """Expire leases and graces; return what listeners are to be told."""
        if self._ticked is not None and now - self._ticked > _STOPPED:
            pause = now - self._ticked
            for lease in self._leases.values():
                lease.expires += pause
        self._ticked = now
        for key in [key for key, lease in self._leases.items() if lease.expires <= now]:
            lease = self._leases.pop(key)
            self._set(lease, dict.fromkeys(lease.users, 0), now)
        for user in [user for user, deadline in self._leaving.items() if deadline <= now]:
            del self._leaving[user]
            self._online[user_slot(user)].pop(user, None)
            self._news[user] = "offline"
            self.gone.append(user)
        news, self._news = self._news, {}
        self._aggregate.update(news)
        signals = [
            Signal(presence_topic(user), encode_event(Presence(users={user: state}))) for user, state in news.items()
        ]
        if self._aggregate and now - self._aggregated >= 1.0:
            self._aggregated = now
            changed, self._aggregate = self._aggregate, {}
            listed = len(changed) <= PRESENCE_NAMES_MAX
            notice = Presence(users=changed if listed else {}, more=not listed)
            signals.append(Signal(PRESENCE_TOPIC, encode_event(notice)))
        return signals

    def crowds(self, now: float) -> list[tuple[bytes, TooMany]]:
        """What shards are to be told about users who have had too many sessions for `CROWD_SECONDS`.

        Not at once: when a shard dies its users come back elsewhere, and count twice until its lease has run out.
        """
        found: list[tuple[bytes, TooMany]] = []
        for user in [user for user, since in self._crowds.items() if now - since >= CROWD_SECONDS]:
            self._crowds[user] = now  # if it is still so after another while, it is said again
            surplus = self._sessions[user] - self._sessions_max
            slot = user_slot(user)
            held = [
                (one.users[user], one.peer) for key, one in self._leases.items() if key[1] == slot and user in one.users
            ]
            for count, peer in sorted(held, reverse=True):
                if surplus > 0:
                    found.append((peer, TooMany(user, min(count, surplus))))
                surplus -= count
        return found

    def _set(self, lease: _Lease, sessions: Mapping[str, int], now: float) -> None:
        for user in sorted(sessions):
            before = lease.users.pop(user, 0)
            count = sessions[user]
            if count:
                lease.users[user] = count
            if count != before:
                self._count(user, count - before, now)

    def _count(self, user: str, step: int, now: float) -> None:
        total = self._sessions[user] = self._sessions.get(user, 0) + step
        if total > self._sessions_max:
            self._crowds.setdefault(user, now)
        else:
            self._crowds.pop(user, None)
        if total == 0:
            del self._sessions[user]
            self._leaving[user] = now + PRESENCE_GRACE
        elif total == step:
            self._leaving.pop(user, None)
            online = self._online[user_slot(user)]
            if user not in online:
                online[user] = None
                self._news[user] = "online"
