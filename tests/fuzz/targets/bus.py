"""The exchange: what the cores of broker, shard and store make of messages that no honest peer sends.

Whoever holds the bus's keys is trusted with what it says, not with being well: a peer that runs amok, or another
version, must not take down a core, nor cost anybody but itself its link.
"""

import types
from functools import cache
from random import Random
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from broker.router import Router
from hubbub.bus import batch
from hubbub.bus.link import Link, LinkState
from hubbub.protocol.conversation import SLOTS
from hubbub.protocol.internal import Range, Reply, Request, Signal, wire_term
from hubbub.protocol.limits import Limits
from store.core import Store
from tests.builders import NotingBus, event
from tests.fuzz.target import TOKENS, Records, mutate
from tests.unit.shard import Shard
from tests.unit.test_sequencer import Table

HEALTHY = b"healthy-shard"
STORE = b"healthy-store"
STRANGERS = (b"stranger-1", b"stranger-2")
TO_SHARD, TO_STORE = 2, 3  # actors: past the broker, as if it had sent it

NUMBERS = (
    0,
    1,
    2,
    3,
    5,
    10,
    63,
    64,
    -1,
    255,
    1 << 32,
    (5 << 32) + 1,
    (1 << 53) + 1,
    (1 << 63) - 1,
    1 << 63,
    -(1 << 63),
)
NAMES = (
    "lobby",
    "al",
    "bob",
    "direct:al:bob",
    "direct:al:al",
    "room:x",
    "",
    "user.al",
    "presence",
    "s0.1",
    "key-0123456789ab",
)
KINDS: dict[bytes, tuple[Any, ...]] = {
    batch.HELLO: (batch.Hello,),
    batch.PING: (int,),
    batch.SUBSCRIBE: (batch.Subscribe,),
    batch.OWN: (dict[int, int],),
    batch.REQUESTS: (bytes, list[Request]),
    batch.REPLIES: (bytes, list[Reply]),
    batch.RANGES: (list[Range],),
    batch.REPLAYED: (bytes, list[Range]),
    batch.SIGNALS: (list[Signal],),
    batch.WELCOME: (),
    batch.SUBSCRIBED: (int,),
    batch.AGAIN: (),
    batch.REFUSED: (bytes,),
}
EVENTS = (b"", b"{}", *(batch.encode(event(n, name)) for n in (1, 2) for name in ("lobby", "direct:al:bob")))
PEERS = (HEALTHY, STORE, *STRANGERS, b"")


WORK = (
    b'{"content":"hi"}',
    b'{"type":"history","conversation":"lobby"}',
    b'{"type":"watch","users":["bob"]}',
    b'{"type":"read","conversation":"lobby","seq":1}',
    b'{"type":"sync"}',
)


class World:
    """A router with an honest shard and an honest store on it, and some work under way."""

    def __init__(self) -> None:
        self.router = Router()
        self.shard = Shard()
        session = self.shard.live("al", syncing=True)
        for command in WORK:
            self.shard.say(session, command)
        self.store = Store(Limits(store_queue=50))
        self.store.connect(NotingBus())
        self.store.taken(5, [(slot, 1, 0) for slot in range(SLOTS)])
        self.table = Table()
        self.shard_link = self._link(batch.SHARD, HEALTHY, self.shard.hub, ["lobby", "user.al"])
        self.store_link = self._link(
            batch.STORE, STORE, self.store, [], {slot: wire_term(5, 1) for slot in range(SLOTS)}
        )

    def _link(
        self, role: str, peer: bytes, handler: Any, topics: list[str], terms: dict[int, int] | None = None
    ) -> Link:
        link = Link(
            role=role,
            name=peer.decode(),
            handler=handler,
            topics=lambda: topics,
            terms=lambda: terms or {},
            send=lambda frames: self.carry(peer, frames),
        )
        link.opened(0.0)
        return link

    def carry(self, sender: bytes, frames: list[bytes]) -> bool:
        """One message to the broker, and what that leads to."""
        malformed, strange = self.router.malformed, sender in STRANGERS
        outgoing = self.router.receive(sender, frames, 0.0)
        if self.router.malformed > malformed:
            assert strange, "an honest peer's message was not understood"
            assert outgoing in ([], [(sender, [batch.AGAIN])]), "what cannot be read costs its sender alone"
        for peer, sent in outgoing:
            assert all(type(one) is bytes for one in sent)
            if peer == HEALTHY and hasattr(self, "shard_link"):
                self.shard_link.receive(sent, 0.0)
            elif peer == STORE and hasattr(self, "store_link"):
                self.store_link.receive(sent, 0.0)
            elif peer in (HEALTHY, STORE):
                assert sent == [batch.WELCOME]
        return True

    def settle(self) -> None:
        """The end of a tick of each, a commit included."""
        shard, store = self.shard, self.store
        shard.turn()
        store.tick(0.0)
        work = store.sequencer.batch(1_767_225_600_000)
        if work is not None:
            store.stored(work, self.table.write(work))
            store.sequencer.landed()
        store.flush()
        for _, read in store.reads:
            # What is read from the database for it, see `store.reader.Answers`.
            assert len(getattr(read, "positions", [0] * SLOTS)) == SLOTS
        store.reads.clear()
        moved = store.cursors.batch()
        if moved is not None:
            store.moved(moved, [])
        shard.tick()

    def again(self, link: Link) -> None:
        """A link that broke is opened anew, and is up."""
        if link.state is not LinkState.UP:
            link.opened(0.0)
            link.receive([batch.WELCOME], 0.0)
        assert link.state is LinkState.UP


class BusMessages:
    """Records: who sends (the lower two bits) in how many frames (the next two), and the frames."""

    def seeds(self) -> list[bytes]:
        """One well formed message of each kind, to everybody."""
        rng = Random(1)
        return [Records.pack([self._record(rng, kind, actor, 0.0)]) for kind in KINDS for actor in range(4)]

    def generate(self, rng: Random) -> bytes:
        """Hellos and whatever comes behind them."""
        records = [self._record(rng, batch.HELLO, actor, 0.0) for actor in (0, 1) if rng.random() < 0.9]
        for _ in range(rng.choice((1, 2, 5, 10))):
            records.append(self._record(rng, rng.choice(list(KINDS)), rng.randrange(4), rng.choice((0.0, 0.0, 0.1))))
        return Records.pack(records)

    def check(self, data: bytes) -> None:
        """See `Target`."""
        world = World()
        for link in (world.shard_link, world.store_link):
            link.receive([batch.WELCOME], 0.0)
        for number, payload in Records.unpack(data):
            actor, frames = number & 3, split(payload, number >> 2 & 3)
            if actor == TO_SHARD:
                world.shard_link.receive(frames, 0.0)
                world.again(world.shard_link)
            elif actor == TO_STORE:
                world.store_link.receive(frames, 0.0)
                world.again(world.store_link)
            else:
                links = [link for link in (world.shard_link, world.store_link) if link.state is LinkState.UP]
                world.carry(STRANGERS[actor], frames)
                if frames[0] not in (batch.RANGES, batch.REPLAYED):  # their events are opened by shards alone
                    assert all(link.state is LinkState.UP for link in links), "a stranger cut an honest peer's link"
                for link in (world.shard_link, world.store_link):
                    world.again(link)
            world.settle()
        # The broker has not lost count of those who kept theirs.
        for peer in (HEALTHY, STORE):
            known = world.router._peers[peer]
            answer = world.router.receive(peer, [batch.PING, batch.encode(known.received)], 0.0)
            assert answer[0][1][0] == batch.PING
        for stranger in STRANGERS:
            world.router.forget(stranger)
        assert {name for _, name in world.router.peers()} == {HEALTHY.decode(), STORE.decode()}

    @staticmethod
    def _record(rng: Random, kind: bytes, actor: int, wrong: float) -> tuple[int, bytes]:
        frames = []
        for place in KINDS[kind]:
            if place is bytes:
                slots = bytes(rng.choice((0, 1, 63, 64, 255)) for _ in range(rng.randrange(4)))
                frames.append(rng.choice(PEERS) if kind != batch.REQUESTS or actor == TO_STORE else slots)
            else:
                body = batch.encode(made(rng, place, wrong))
                frames.append(mutate(rng, body, rng.choice(TOKENS)) if rng.random() < wrong else body)
        if kind == batch.PING and actor < 2:
            frames = [batch.encode(rng.randrange(1, 4))]
        if len(frames) == 2:
            frames[0] = bytes((len(frames[0]),)) + frames[0]
        return actor | len(frames) << 2, kind + b"".join(frames)


def split(payload: bytes, behind: int) -> list[bytes]:
    """The kind and *behind* frames behind it (at most two); the first of two says its length."""
    kind, rest = payload[:1], payload[1:]
    if behind < 2:
        return [kind, rest][: 1 + behind]
    return [kind, rest[1 : 1 + rest[0]], rest[1 + rest[0] :]] if rest else [kind]


@cache
def fields_of(kind: type) -> dict[str, Any]:
    """The fields of a struct with their types."""
    return get_type_hints(kind, include_extras=True)


def made(rng: Random, kind: Any, wrong: float) -> Any:
    """A value of type *kind*, as MessagePack has it; with probability *wrong* at each place another one."""
    if rng.random() < wrong:
        kind = rng.choice((int, str, bytes, list[int], dict[int, int], None))
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return made(rng, arguments[0], wrong)
    if origin in (Union, types.UnionType):
        return made(rng, rng.choice(arguments), wrong)
    if origin is Literal:
        return rng.choice(arguments)
    if origin in (list, tuple):
        size = SLOTS if arguments[0] is int and rng.random() < 0.9 else rng.randrange(3)
        return [made(rng, arguments[0], wrong) for _ in range(size)]
    if origin is dict:
        return {made(rng, arguments[0], 0.0): made(rng, arguments[1], wrong) for _ in range(rng.randrange(3))}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        tag = kind.__struct_config__.tag
        hints = fields_of(kind)
        return [*([] if tag is None else [tag]), *(made(rng, hints[name], wrong) for name in kind.__struct_fields__)]
    if kind is int:
        return rng.choice(NUMBERS) if rng.random() < 0.3 else rng.choice(NUMBERS[:6])
    return {
        str: lambda: (
            rng.choice(NAMES) if rng.random() < 0.95 else rng.choice(("OVERLOADED", "CONFLICT", "x" * 300, "\0"))
        ),
        bytes: lambda: rng.choice(EVENTS),
        bool: lambda: rng.random() < 0.5,
        float: lambda: rng.choice((0.0, -1.0, float("nan"), float("inf"))),
    }.get(kind, lambda: None)()
