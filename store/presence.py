"""Who is online, as leases that shards renew. In memory; every loss repairs itself within a lease. Pure."""

from typing import Literal

from hubbub.protocol.conversation import PRESENCE_TOPIC, presence_topic, user_slot
from hubbub.protocol.internal import Attend, AttendAgain, Signal
from hubbub.protocol.limits import LEASE_SECONDS, PRESENCE_GRACE, PRESENCE_NAMES_MAX
from hubbub.protocol.messages import Presence, encode_event

State = Literal["online", "offline"]

# A pause between two ticks (ten a second) that means this process itself was stopped.
_STOPPED = 1.0


class _Lease:
    __slots__ = ("expires", "users", "version")

    def __init__(self, version: int, users: set[str], expires: float) -> None:
        self.version = version
        self.users = users
        self.expires = expires


class Attendance:
    """Leases by shard and slot, and the users they add up to.

    `gone` collects users whose last session ended, for `last_seen`; `tick` returns the news.
    """

    def __init__(self) -> None:
        self.gone: list[str] = []
        self._leases: dict[tuple[str, int], _Lease] = {}
        self._shards: dict[str, int] = {}  # user -> shards that hold sessions of theirs
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

    def attend(self, report: Attend, now: float) -> AttendAgain | None:
        """A shard's report; the answer asks for the whole list where a step is missing."""
        key = (report.shard, report.slot)
        lease = self._leases.get(key)
        if report.full:
            users = set(report.joined)
            before = lease.users if lease is not None else set()
            self._leases[key] = _Lease(report.version, users, now + LEASE_SECONDS)
            self._arrive(users - before)
            self._depart(before - users, now)
            return None
        step = bool(report.joined or report.left)
        if lease is None:
            if report.version != 1 or not step:
                return AttendAgain(report.slot)
            lease = self._leases[key] = _Lease(0, set(), 0.0)
        if lease.version + step != report.version:
            # An old step that was overtaken by the whole list is no reason to ask again.
            return AttendAgain(report.slot) if report.version > lease.version else None
        lease.version = report.version
        lease.expires = now + LEASE_SECONDS
        if step:
            joined = set(report.joined) - lease.users
            left = set(report.left) & lease.users
            lease.users |= joined
            lease.users -= left
            self._arrive(joined)
            self._depart(left, now)
        return None

    def lose(self, slots: list[int]) -> None:
        """These slots have another owner: forget them without news, it will tell its own."""
        for key in [key for key in self._leases if key[1] in slots]:
            for user in self._leases.pop(key).users:
                self._count(user, -1)
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
            self._depart(self._leases.pop(key).users, now)
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

    def _arrive(self, users: set[str]) -> None:
        for user in sorted(users):
            self._leaving.pop(user, None)
            if self._count(user, 1) == 1:
                online = self._online[user_slot(user)]
                if user not in online:
                    online[user] = None
                    self._news[user] = "online"

    def _depart(self, users: set[str], now: float) -> None:
        for user in sorted(users):
            if self._count(user, -1) == 0:
                self._leaving[user] = now + PRESENCE_GRACE

    def _count(self, user: str, step: int) -> int:
        count = self._shards.get(user, 0) + step
        if count:
            self._shards[user] = count
        else:
            self._shards.pop(user, None)
        return count
