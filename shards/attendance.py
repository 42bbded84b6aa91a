"""Which users are connected to this shard and how often, told to the owners of their slots.

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
        self._users: list[dict[str, int]] = [{} for _ in range(SLOTS)]  # by slot: sessions of each
        self._versions = [0] * SLOTS
        self._changes: dict[int, set[str]] = {}
        self._renewed = 0.0

    def __len__(self) -> int:
        return sum(len(users) for users in self._users)

    def sessions(self, username: str) -> int:
        """How many sessions of *username* this shard holds."""
        return self._users[user_slot(username)].get(username, 0)

    def joined(self, username: str) -> None:
        """A session of *username* opened."""
        self._change(username, 1)

    def left(self, username: str) -> None:
        """A session of *username* ended."""
        self._change(username, -1)

    def flush(self) -> list[tuple[int, Request]]:
        """The steps since the last call."""
        changes, self._changes = self._changes, {}
        steps: list[tuple[int, Request]] = []
        for slot, changed in changes.items():
            self._versions[slot] += 1
            users = self._users[slot]
            sessions = {user: users.get(user, 0) for user in sorted(changed)}
            steps.append((slot, Attend(self._shard, slot, self._versions[slot], sessions, False)))
        return steps

    def tick(self, now: float) -> list[tuple[int, Request]]:
        """The renewals of the lease, once a second."""
        if now - self._renewed < LEASE_RENEW:
            return []
        self._renewed = now
        return [
            (slot, Attend(self._shard, slot, self._versions[slot], {}, False))
            for slot in range(SLOTS)
            if self._users[slot]
        ]

    def full(self, slot: int) -> tuple[int, Request]:
        """Everybody in *slot*, for an owner that asked or is new. Includes changes not yet flushed."""
        if self._changes.pop(slot, None) is not None:
            self._versions[slot] += 1
        return slot, Attend(self._shard, slot, self._versions[slot], dict(self._users[slot]), True)

    def _change(self, username: str, step: int) -> None:
        slot = user_slot(username)
        users = self._users[slot]
        count = users.get(username, 0) + step
        if count:
            users[username] = count
        else:
            del users[username]
        self._changes.setdefault(slot, set()).add(username)
