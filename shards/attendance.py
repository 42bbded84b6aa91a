"""Which users are connected to this shard, told to the owners of their slots.

Changes go out as numbered steps and are never waited for: each second the shard renews its lease with
the number it has reached, and an owner that missed a step (or is new) asks for the whole list.
"""

from hubbub.protocol.conversation import SLOTS, user_slot
from hubbub.protocol.internal import Attend, Request
from hubbub.protocol.limits import LEASE_RENEW


class Attendance:
    """The users of one shard by slot. `flush` and `tick` return what is to be sent."""

    def __init__(self, shard: str) -> None:
        self._shard = shard
        self._sessions: dict[str, int] = {}
        self._users: list[set[str]] = [set() for _ in range(SLOTS)]
        self._versions = [0] * SLOTS
        self._changes: dict[int, dict[str, bool]] = {}
        self._renewed = 0.0

    def __len__(self) -> int:
        return len(self._sessions)

    def sessions(self, username: str) -> int:
        """How many sessions of *username* this shard holds."""
        return self._sessions.get(username, 0)

    def joined(self, username: str) -> None:
        """A session of *username* opened."""
        count = self._sessions.get(username, 0)
        self._sessions[username] = count + 1
        if count == 0:
            self._change(username, True)

    def left(self, username: str) -> None:
        """A session of *username* ended."""
        count = self._sessions[username] - 1
        if count:
            self._sessions[username] = count
        else:
            del self._sessions[username]
            self._change(username, False)

    def flush(self) -> list[tuple[int, Request]]:
        """The steps since the last call."""
        changes, self._changes = self._changes, {}
        steps: list[tuple[int, Request]] = []
        for slot, users in changes.items():
            self._versions[slot] += 1
            joined = [user for user, there in users.items() if there]
            left = [user for user, there in users.items() if not there]
            steps.append((slot, Attend(self._shard, slot, self._versions[slot], joined, left, False)))
        return steps

    def tick(self, now: float) -> list[tuple[int, Request]]:
        """The renewals of the lease, once a second."""
        if now - self._renewed < LEASE_RENEW:
            return []
        self._renewed = now
        return [
            (slot, Attend(self._shard, slot, self._versions[slot], [], [], False))
            for slot in range(SLOTS)
            if self._users[slot]
        ]

    def full(self, slot: int) -> tuple[int, Request]:
        """Everybody in *slot*, for an owner that asked or is new. Includes changes not yet flushed."""
        if self._changes.pop(slot, None) is not None:
            self._versions[slot] += 1
        return slot, Attend(self._shard, slot, self._versions[slot], sorted(self._users[slot]), [], True)

    def _change(self, username: str, there: bool) -> None:
        slot = user_slot(username)
        if there:
            self._users[slot].add(username)
        else:
            self._users[slot].discard(username)
        self._changes.setdefault(slot, {})[username] = there
