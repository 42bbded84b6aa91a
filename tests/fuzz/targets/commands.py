"""What clients say, through the cores of a shard and a store: documented refusals only, effects bounded, nothing left.

The shard's requests travel as the bytes that the bus would carry, so whatever a client can make a shard ask for, the
store is shown to understand. A bystander beside must hear nothing but events, and be served in the end.
"""

import json
from random import Random
from typing import Any

import msgspec

from hubbub.bus import batch
from hubbub.protocol import messages
from hubbub.protocol.conversation import SLOTS
from hubbub.protocol.internal import (
    Backlog,
    BacklogPage,
    HistoryRows,
    ReadHistory,
    Sync,
    SyncPage,
)
from hubbub.protocol.limits import GIVE_UP_AFTER
from hubbub.protocol.refusals import MESSAGE_MAX, CloseCode, ErrorCode
from shards.session import Session, Stage
from store.core import Store
from tests.builders import NotingBus, authenticator
from tests.fuzz.target import TOKENS
from tests.integration.tokens import signed
from tests.unit.shard import Shard
from tests.unit.test_sequencer import Table

SECRET = b"0123456789abcdef0123456789abcdef"
WORDS = {code.word for code in ErrorCode}
CLOSES = {int(code) for code in CloseCode}
PEER = b"shard"
# What one command may ask of the stores: whoever watches many users asks each slot's owner once.
REQUESTS_MAX = SLOTS
FRESH = 200  # inputs served by one shard

FIELDS: dict[str, list[Any]] = {
    "type": [*"send sync received read history typing watch token ping".split(), "edit", 7, None],
    "content": ["hi", "é" * 20, "", "a\0b", "x" * 20_000, 5],
    "recipient": ["bob", "al", "a b", "", "\uff41l", "x" * 70, None, 3],
    "room": ["r", None],
    "id": ["0123456789abcdef", "~123456789abcdef", "short", "x" * 65, "0123456789\0abcdef", 1, None],
    "reply_to": [0, 1, 2**53, 2**53 + 1, -1, 1.5, None],
    "mentions": [[], ["bob"], ["a b"], ["x"] * 51, "bob", None],
    "have": [{}, {"lobby": 1}, {"direct:al:bob": 0}, {"direct:bob:cy": 1}, {"direct:b:a": 1}, {"x": 2**60}, []],
    "epoch": [5, 4, None, 2**70, -1],
    "more": [True, False, 1],
    "conversation": ["lobby", "direct:al:bob", "direct:al:al", "direct:bob:cy", "direct:bob:al", "room:x", "", "::"],
    "seq": [0, 1, 2**53, 2**53 + 1, -1, "1"],
    "before": [0, 1, 2**53, None],
    "after": [0, 1, None],
    "limit": [1, 50, 200, 201, 0],
    "on": [True, False, "yes"],
    "users": [[], ["bob"], ["bob", "bob", "cy"], [f"u{i}" for i in range(200)], ["a b"], ["x"] * 501],
    "lobby": [True, False],
    "token": ["", "a.b.c", *(signed("al", SECRET, exp=exp) for exp in (4_000_000_000, 1, 2**33, 2**45, 2**62))],
    "unknown": [1],
}
OF_TYPE = {
    kind.__struct_config__.tag: [one for one in kind.__struct_fields__ if one in FIELDS]
    for kind in messages.Command.__args__
}


class Verifying(Shard):
    """A shard that reads real tokens."""

    _verify = staticmethod(authenticator(SECRET).verify)  # type: ignore[assignment]


class World:
    """A shard and a store with nothing between them but the encoding, and a bystander."""

    def __init__(self) -> None:
        self.shard = Verifying(rate=0)
        self.store = Store(self.shard.hub.limits)
        self.bus = NotingBus()
        self.store.connect(self.bus)
        self.store.taken(5, [(slot, 1, 0) for slot in range(SLOTS)])
        self.table = Table()
        self._in_force = 0  # subscriptions
        self.bystander = self.shard.open("bob")
        self.serve()

    def serve(self) -> None:
        """Carry what the shard asks to the store and the answers back, until neither has anything to say."""
        shard, store = self.shard, self.store
        while shard.bus.requested or self._in_force < len(shard.bus.subscriptions):
            asked, shard.bus.requested = [request for _, request in shard.bus.requested], []
            store.requests(PEER, batch.decode_requests(batch.encode(asked)), shard.now)
            for peer, read in store.reads:
                match read:
                    case Sync():
                        store.answer(peer, SyncPage(read.no, []))
                    case Backlog():
                        store.answer(peer, BacklogPage(read.no, [], False))
                    case ReadHistory():
                        store.answer(peer, HistoryRows(read.no, 0, 0, False, []))
            store.reads.clear()
            moved = store.cursors.batch()
            if moved is not None:
                store.moved(moved, [])
            work = store.sequencer.batch(1_767_225_600_000)
            if work is not None:
                store.stored(work, self.table.write(work))
                store.sequencer.landed()
            store.flush()
            shard.hub.ranges(batch.decode_ranges(batch.encode(self.bus.published)), shard.now)
            shard.hub.replies(batch.decode_replies(batch.encode([one for _, one in self.bus.replied])), shard.now)
            self.bus.published.clear()
            self.bus.replied.clear()
            shard.turn()
            self._in_force = len(shard.bus.subscriptions)
            shard.hub.subscribed(self._in_force, shard.now)
            shard.turn()


class Commands:
    """Lines, each one message of a client."""

    def __init__(self) -> None:
        self._world: World | None = None
        self._served = 0

    def seeds(self) -> list[bytes]:
        """The examples of the protocol's description, all types."""
        lines = [
            b'{"content":"hello, everybody"}',
            b'{"type":"send","id":"0123456789abcdef","recipient":"bob","content":"hi","mentions":["bob"],"reply_to":1}',
            b'{"type":"sync","have":{"lobby":3,"direct:al:bob":1},"epoch":5,"id":"s"}',
            b'{"type":"received","conversation":"lobby","seq":1}',
            b'{"type":"read","conversation":"direct:al:bob","seq":1}',
            b'{"type":"history","conversation":"lobby","before":10,"limit":20,"id":"h"}',
            b'{"type":"typing","recipient":"bob","on":true}',
            b'{"type":"watch","users":["bob","cy"],"lobby":true,"id":"w"}',
            b'{"type":"ping","id":"p"}',
            json.dumps({"type": "token", "token": signed("al", SECRET, exp=4_000_000_000), "id": "t"}).encode(),
        ]
        return [*lines, b"\n".join(lines)]

    def generate(self, rng: Random) -> bytes:
        """Commands with the right fields, mostly."""
        return b"\n".join(self._line(rng) for _ in range(rng.choice((1, 1, 2, 5, 10))))

    def check(self, data: bytes) -> None:
        """See `Target`."""
        world = self._world or World()
        self._world = None  # one in which something broke is not used again
        self._check(world, data)
        hub = world.shard.hub
        assert (len(hub.pending), list(hub.sessions)) == (0, [world.bystander]), "something was left behind"
        assert set(hub.topics.index) == set(world.bystander.topics)
        self._served += 1
        if self._served % FRESH:
            self._world = world

    def _check(self, world: World, data: bytes) -> None:
        shard = world.shard
        session = shard.open("al", syncing=len(data) % 2 == 0)
        world.serve()
        assert said(session)[0]["type"] == "welcome"
        for line in data.split(b"\n"):
            if len(line) > shard.hub.limits.frame_bytes or session.stage is Stage.CLOSED:
                continue
            shard.hub.receive(session, line, shard.now)
            asked = len(shard.hub.pending)
            assert asked <= REQUESTS_MAX, f"one command led to {asked} requests"
            shard.turn()
            world.serve()
            assert_answered(line, said(session))
        shard.tick()
        world.serve()
        shard.hub.close(session, shard.now)
        shard.tick(GIVE_UP_AFTER + 1)
        world.serve()
        world.bystander.heard = shard.now  # it answers pings, as its connection would note
        shard.say(world.bystander, type="ping", id="still here")
        heard = said(world.bystander)
        assert heard[-1]["id"] == "still here"
        assert all(event["type"] in ("message", "pong", "typing", "presence", "welcome") for event in heard), heard

    @staticmethod
    def _line(rng: Random) -> bytes:
        if rng.random() < 0.03:
            return rng.choice(TOKENS)
        kind = rng.choice(list(OF_TYPE))
        names = [name for name in OF_TYPE[kind] if rng.random() < 0.7]
        if rng.random() < 0.1:
            names.append(rng.choice(list(FIELDS)))
        # Mostly the first values, which are the good ones.
        command = {name: rng.choice(FIELDS[name] if rng.random() < 0.3 else FIELDS[name][:2]) for name in names}
        if kind != "send" or rng.random() < 0.5:
            command["type"] = kind if rng.random() < 0.95 else rng.choice(FIELDS["type"])
        line = json.dumps(command, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
        if rng.random() < 0.05:
            at = rng.randrange(len(line) + 1)
            line = line[:at] + rng.choice(TOKENS) + line[at:]
        return line


def said(session: Session) -> list[dict[str, Any]]:
    """The events in a session's `out`, each of which a client can decode."""
    events = []
    for frame in session.out:
        size = {126: 4, 127: 10}.get(frame[1], 2)
        if frame[0] == 0x81:
            messages.decode_event(frame[size:])
            events.append(json.loads(frame[size:]))
        elif frame[0] == 0x88:
            assert int.from_bytes(frame[2:4], "big") in CLOSES
    session.out.clear()
    return events


def assert_answered(line: bytes, events: list[dict[str, Any]]) -> None:
    """Whatever was said got the answer that its type has, or one documented refusal."""
    errors = [event for event in events if event["type"] == "error"]
    assert all(error["code"] in WORDS - {"internal"} and len(error["message"]) <= MESSAGE_MAX for error in errors), (
        errors
    )
    try:
        kind = messages.decode_command(line)
    except Exception:
        assert [event["code"] for event in errors] == ["bad_request"], "what cannot be read is refused once"
        return
    answer = {
        messages.Send: "ack",
        messages.Sync: "synced",
        messages.History: "history",
        messages.Watch: "presence",
        messages.Token: "welcome",
        messages.Ping: "pong",
    }.get(type(kind))
    answers = [event for event in events if event["type"] == answer and event.get("id") == kind.id]
    if isinstance(kind, messages.Sync) and kind.more and not errors:
        return
    if isinstance(kind, messages.Token) and any(event["type"] == "goodbye" for event in events):
        return
    assert len(answers) + len(errors) == (answer is not None or len(errors)), (line, events)
    if isinstance(kind, messages.Send) and errors:
        assert errors[0]["stored"] == "no"
    assert msgspec.json.encode(events)
