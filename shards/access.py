"""The access list: accounts, and tokens that are void. Followed by asking the store for what changed.

A shard that has not loaded it once lets nobody in; while the store is away, what was last known holds.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from hubbub.protocol.internal import AccessPage, AccessRule, ReadAccess, Reply, Request
from hubbub.protocol.refusals import ErrorCode, Refusal

# Any slot's owner can answer; one is enough.
ACCESS_SLOT = 0
# A revocation shall be in force everywhere within a second: this, a commit and two hops.
POLL_EVERY = 0.3


class Proof(Protocol):
    """What somebody showed; see `shards.auth.Identity`."""

    @property
    def username(self) -> str:
        """The name."""

    @property
    def guest(self) -> bool:
        """Whether it is a claim only."""

    @property
    def token_id(self) -> str | None:
        """The token's own name (`jti`)."""

    @property
    def issued_at(self) -> float | None:
        """Unix seconds."""


class Changes(NamedTuple):
    """Users and token ids whose sessions have to be looked at again; with `everybody`, all of them."""

    users: set[str]
    tokens: set[str]
    everybody: bool


class _Rules:
    def __init__(self) -> None:
        self.disabled: dict[str, bool] = {}  # of every account
        self.tokens: dict[str, int] = {}  # void token's id -> when it expires
        self.users: dict[str, float] = {}  # whose tokens issued before that are void

    def apply(self, rule: AccessRule) -> None:
        match rule.kind:
            case "account":
                self.disabled[rule.subject] = rule.void
            case "token":
                self.tokens[rule.subject] = rule.expires
            case "user":
                self.users[rule.subject] = max(rule.before, self.users.get(rule.subject, 0.0))


class AccessList:
    """What one shard knows of the list. *wall* gives unix seconds."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._rules = _Rules()
        self._next: _Rules | None = _Rules()  # the whole list, while it is being loaded
        self._epoch: int | None = None
        self.version = 0
        self.loaded = False

    def apply(self, page: AccessPage) -> Changes | None:
        """Take in what changed; None while the list is being loaded anew and the old one holds."""
        if self._epoch is not None and (page.epoch != self._epoch or page.to < self.version):
            # Another incarnation of the database: its versions mean something else.
            self._next, self.version, self._epoch = _Rules(), 0, page.epoch
            return None
        self._epoch, self.version = page.epoch, page.to
        rules = self._next or self._rules
        for rule in page.rules:
            rules.apply(rule)
        if self._next is None:
            users = {rule.subject for rule in page.rules if rule.kind != "token"}
            return Changes(users, {rule.subject for rule in page.rules if rule.kind == "token"}, False)
        if page.more:
            return None
        self._rules, self._next, self.loaded = self._next, None, True
        return Changes(set(), set(), True)

    def is_account(self, username: str) -> bool:
        """Whether the name belongs to an account."""
        return username in self._rules.disabled

    def refusal(self, proof: Proof) -> Refusal | None:
        """Why somebody may not be here, or None."""
        rules = self._rules
        if proof.guest:
            if proof.username in rules.disabled:
                return _refused("this name belongs to an account; sign in with its password")
            return None
        if rules.disabled.get(proof.username):
            return _refused("this account is disabled")
        if proof.token_id is not None and proof.token_id in rules.tokens:
            return _refused("the token was revoked")
        before = rules.users.get(proof.username)
        # A token that does not say when it was issued may be as old as any.
        if before is not None and (proof.issued_at or 0.0) < before:
            return _refused("the token was revoked; sign in again")
        return None

    def forget(self) -> None:
        """Drop revocations of tokens that have expired by themselves."""
        now = self._wall()
        for token in [token for token, expires in self._rules.tokens.items() if expires and expires < now - 3600]:
            del self._rules.tokens[token]


class Follower:
    """Asks for changes, one question at a time. *ask*: `Hub.ask`; *changed*: told what to look at again."""

    def __init__(
        self,
        access: AccessList,
        ask: Callable[[Callable[[int], Request], int, Callable[[Reply], None], float], None],
        changed: Callable[[Changes], None],
    ) -> None:
        self._access = access
        self._ask = ask
        self._changed = changed
        self._asking = False
        self._asked = -POLL_EVERY
        self._heard: float | None = None

    def age(self, now: float) -> float:
        """Seconds since the list was last known to be complete."""
        return now - self._heard if self._heard is not None else now

    def tick(self, now: float) -> None:
        """Ten times a second."""
        if self._asking or now - self._asked < POLL_EVERY:
            return
        self._asking, self._asked = True, now
        after = self._access.version

        def request(no: int) -> Request:
            return ReadAccess(no, after)

        def answer(reply: Reply) -> None:
            self._asking = False
            if not isinstance(reply, AccessPage):
                return  # given up; the next tick asks again
            changes = self._access.apply(reply)
            if reply.more or changes is None:
                self._asked = -POLL_EVERY
            else:
                self._heard = now
                self._access.forget()
            if changes is not None and (changes.everybody or changes.users or changes.tokens):
                self._changed(changes)

        self._ask(request, ACCESS_SLOT, answer, now)


def _refused(message: str) -> Refusal:
    return Refusal(ErrorCode.UNAUTHORIZED, message)
