"""A hub without sockets: sessions in words, a bus that takes notes, a clock that stands still."""

import json
import random
from typing import Any, NamedTuple

from hubbub.protocol.conversation import SLOTS
from hubbub.protocol.internal import (
    Backlog,
    BacklogPage,
    LogEvent,
    Range,
    Reply,
    Request,
    Sync,
    SyncPage,
    wire_term,
)
from hubbub.protocol.limits import Limits
from hubbub.protocol.refusals import ErrorCode, Refusal
from shards.hub import Hub
from shards.session import Session
from store.events import entry
from tests.builders import NotingBus


class Someone(NamedTuple):
    """Who a token is for."""

    username: str
    expires_at: float | None
    guest: bool = False
    token_id: str | None = None
    issued_at: float | None = None


class Shard:
    """A hub whose positions are all known, at n = 0."""

    def __init__(self, *, ready: bool = True, **limits: float) -> None:
        self.now = 100.0
        self.bus = NotingBus()
        self.hub = Hub(
            name="s0.1",
            limits=Limits(**limits),  # type: ignore[arg-type]
            verify=self._verify,
            wall=lambda: 1_767_225_600.0 + self.now,
            rng=random.Random(1),
        )
        self.hub.connect(self.bus)
        if ready:
            self.hub.ranges([Range(slot, wire_term(5, 1), 0, 0, []) for slot in range(SLOTS)], self.now)
        self.hub.flush(self.now)

    @staticmethod
    def _verify(token: str) -> Someone:
        name, _, expires = token.partition(" until ")
        if name == "forged":
            raise Refusal(ErrorCode.UNAUTHORIZED, "the token is not valid")
        return Someone(name, float(expires) if expires else None)

    def open(self, username: str = "al", *, syncing: bool = False, expires_at: float | None = None) -> Session:
        """A new session whose topics are in force; its welcome is still to be read."""
        session = self.hub.open(username, syncing=syncing, remote="", expires_at=expires_at, now=self.now)
        self.turn()
        if self.bus.subscriptions:
            self.hub.subscribed(len(self.bus.subscriptions), self.now)
            self.turn()
        return session

    def live(self, username: str = "al", *, syncing: bool = False) -> Session:
        """A session that has caught up with nothing to tell it."""
        session = self.open(username, syncing=syncing)
        if syncing:
            self.say(session, type="sync")
            self.reply(SyncPage(self.asked(Sync)[-1].no, []))
        else:
            self.reply(BacklogPage(self.asked(Backlog)[-1].no, [], False))
        self.out(session)
        return session

    def say(self, session: Session, raw: bytes | None = None, **command: Any) -> None:
        """A client's message, and the end of the tick."""
        self.hub.receive(session, json.dumps(command).encode() if raw is None else raw, self.now)
        self.turn()

    def reply(self, *replies: Reply) -> None:
        """Answers of the store."""
        self.hub.replies(list(replies), self.now)
        self.turn()

    def happen(self, *events: LogEvent, term: int = 1, epoch: int = 5) -> None:
        """Events of slot logs, each as a range that continues what the shard has."""
        for event in events:
            slot, n = event.id >> 47, event.id & ((1 << 47) - 1)
            self.hub.ranges([Range(slot, wire_term(epoch, term), n - 1, n, [entry(event)])], self.now)
        self.turn()

    def turn(self) -> None:
        """The end of a turn of the loop, with all that may wait in it sent."""
        later = self.hub.flush(self.now)
        if later:
            self.now += later
            self.hub.flush(self.now)

    def tick(self, seconds: float = 0.1) -> None:
        """Time passes in one step."""
        self.now += seconds
        self.hub.tick(self.now)
        self.turn()

    def asked(self, kind: type[Request] | None = None) -> list[Any]:
        """The requests that went to the bus."""
        return [request for _, request in self.bus.requested if kind is None or type(request) is kind]

    def out(self, session: Session) -> list[Any]:
        """What the session was sent since the last call: JSON of texts, ``(opcode, payload)`` of others."""
        found = [_read(frame) for frame in session.out]
        session.out.clear()
        self.hub.dirty.pop(session, None)
        return found


def _read(frame: bytes) -> Any:
    opcode, size = frame[0], frame[1]
    if size < 126:
        payload = frame[2:]
    else:
        width = 2 if size == 126 else 8
        size, payload = int.from_bytes(frame[2 : 2 + width], "big"), frame[2 + width :]
    assert len(payload) == size, "one whole frame"
    return json.loads(payload) if opcode == 0x81 else (opcode, payload)


def closed_with(out: list[Any]) -> int:
    """The close code of what a session was sent last: a goodbye and a close frame that agree."""
    goodbye, (opcode, payload) = out[-2:]
    assert (goodbye["type"], opcode) == ("goodbye", 0x88)
    code = int.from_bytes(payload[:2], "big")
    assert goodbye["code"] == code
    return code
