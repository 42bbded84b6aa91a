"""What hubbub/bus/interface.py promises, asked of every engine.

An engine joins by a class like those below and a line in `ENGINES`.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import pytest
import zmq

from broker.app import Broker
from broker.router import Router
from hubbub.bus import batch, zeromq
from hubbub.bus import link as link_module
from hubbub.bus.interface import Bus
from hubbub.bus.link import Link, LinkState
from hubbub.bus.zeromq import BusConfigurationError, Peer, load_curve
from hubbub.protocol.internal import Done, Entry, Range, Replay, Signal
from tests.builders import NotingHandler


class Station:
    """A peer: its bus, what it was told, and what it wants to be in force."""

    def __init__(self, role: str, name: str, topics: list[str], terms: dict[int, int]) -> None:
        self.role = role
        self.name = name
        self.topics = dict.fromkeys(topics)
        self.terms = terms
        self.handler = NotingHandler()
        self.bus: Link

    def link(self, send: Callable[[list[bytes]], bool]) -> Link:
        self.bus = Link(
            role=self.role,
            name=self.name,
            handler=self.handler,
            topics=lambda: list(self.topics),
            terms=lambda: self.terms,
            send=send,
        )
        return self.bus

    def subscribe(self, *add: str, remove: tuple[str, ...] = ()) -> int:
        self.topics |= dict.fromkeys(add)
        for topic in remove:
            del self.topics[topic]
        return self.bus.subscribe(add, remove)

    def own(self, terms: dict[int, int]) -> None:
        self.terms = terms
        self.bus.own(terms)

    @property
    def links(self) -> int:
        return len(self.handler.of("linked"))

    def heard(self) -> list[tuple[int, int, list[bytes]]]:
        """``(after, to, events)`` of every range."""
        return [(one.after, one.to, [e.event for e in one.entries]) for one in self.handler.of("ranges")]

    def asked(self) -> list[int]:
        """The slots of the requests that came here."""
        return [request.slot for _, request in self.handler.of("requests")]


class Engine(Protocol):
    """What the suite needs of an engine."""

    def start(self) -> None:
        """The engine itself."""

    def stop(self) -> None:
        """As by kill -9."""

    def join(self, station: Station) -> None:
        """Connect a peer."""

    def freeze(self, station: Station) -> None:
        """The peer is stopped: it takes nothing and says nothing, what is sent to it piles up."""

    def thaw(self, station: Station) -> None:
        """It goes on."""

    async def close(self) -> None:
        """The end of the test."""


class ZeroMQ:
    """The product's own broker and peers."""

    def __init__(self, directory: Path, url: str) -> None:
        self.url = url
        self.curve_dir = directory
        self.broker: Broker | None = None
        self.peers: dict[Station, Peer] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.expiring: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.broker = Broker(SimpleNamespace(bus_url=self.url, curve_dir=self.curve_dir), None)  # type: ignore[arg-type]
        if self.url.endswith(":0"):
            self.url = self.broker._socket._watched.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.expiring = asyncio.create_task(self.broker.expire())

    def stop(self) -> None:
        if self.broker is not None and self.expiring is not None:
            self.expiring.cancel()
            self.broker.close()
            self.broker = None

    def join(self, station: Station, curve_dir: Path | None = None) -> None:
        curve = load_curve(self.url, curve_dir or self.curve_dir, broker=False)
        self.peers[station] = peer = Peer(self.url, curve, station.link)
        self.tasks.append(asyncio.create_task(peer.run()))

    def freeze(self, station: Station) -> None:
        watched = self.peers[station]._watched
        assert watched is not None
        asyncio.get_running_loop().remove_reader(watched.socket.fileno())
        watched._scheduled = True  # so that nothing makes it look at its socket
        station.bus.tick = lambda now: None  # type: ignore[method-assign]

    def thaw(self, station: Station) -> None:
        watched = self.peers[station]._watched
        assert watched is not None
        asyncio.get_running_loop().add_reader(watched.socket.fileno(), watched._drain)
        watched._scheduled = False
        watched.soon()
        del station.bus.tick

    async def close(self) -> None:
        self.stop()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Memory:
    """The router and the links of the default engine, with queues between them and nothing else."""

    def __init__(self) -> None:
        self.router: Router | None = None
        self.stations: dict[bytes, Station] = {}
        self.up: deque[tuple[bytes, list[bytes]]] = deque()
        self.down: dict[bytes, deque[list[bytes]]] = {}
        self.frozen: set[Station] = set()
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.router = Router()

    def stop(self) -> None:
        self.router = None
        self.down = {identity: deque() for identity in self.down}

    def join(self, station: Station) -> None:
        identity = b""

        def send(frames: list[bytes]) -> bool:
            if len(self.up) >= zeromq.HIGH_WATER:
                return False
            self.up.append((identity, frames))
            return True

        async def run() -> None:
            nonlocal identity
            link = station.link(send)
            while True:
                now = asyncio.get_running_loop().time()
                if station not in self.frozen:
                    for frames in self.take(identity):
                        link.receive(frames, now)
                    link.tick(now)
                    if link.state is LinkState.BROKEN:
                        self.down.pop(identity, None)
                        identity = os.urandom(8)
                        self.down[identity] = deque()
                        link.opened(now)
                self.route(now)
                await asyncio.sleep(0)

        self.tasks.append(asyncio.create_task(run()))

    def take(self, identity: bytes) -> list[list[bytes]]:
        found = list(self.down.get(identity, ()))
        if found:
            self.down[identity].clear()
        return found

    def route(self, now: float) -> None:
        while self.router is not None and self.up:
            sender, message = self.up.popleft()
            for target, frames in self.router.receive(sender, message, now):
                queue = self.down.get(target)
                if queue is None or len(queue) >= zeromq.HIGH_WATER:
                    self.router.forget(target)
                else:
                    queue.append(frames)

    def freeze(self, station: Station) -> None:
        self.frozen.add(station)

    def thaw(self, station: Station) -> None:
        self.frozen.remove(station)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def make_keys(directory: Path) -> Path:
    """CURVE keys as `hubbub keys` makes them."""
    directory.mkdir()
    for who in ("broker", "peer"):
        for kind, key in zip(("public", "secret"), zmq.curve_keypair(), strict=True):
            (directory / f"{who}.{kind}").write_bytes(key + b"\n")
    return directory


def over_ipc(directory: Path) -> Engine:
    return ZeroMQ(directory, f"ipc://{directory}/bus.sock")


def over_tcp(directory: Path) -> Engine:
    return ZeroMQ(make_keys(directory / "curve"), "tcp://127.0.0.1:0")


def in_memory(directory: Path) -> Engine:
    return Memory()


ENGINES = {"zeromq-ipc": over_ipc, "zeromq-tcp": over_tcp, "memory": in_memory}


class World:
    """An engine and its peers, in words."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def join(self, role: str, name: str, topics=(), terms=None) -> Station:
        station = Station(role, name, list(topics), terms or {})
        self.engine.join(station)
        return station

    async def shard(self, name: str, *topics: str) -> Station:
        station = self.join(batch.SHARD, name, topics)
        await self.until(lambda: station.links)
        return station

    async def store(self, name: str, terms: dict[int, int]) -> Station:
        station = self.join(batch.STORE, name, terms=terms)
        await self.until(lambda: station.links)
        return station

    async def until(self, true: Callable[[], object], seconds: float = 15.0) -> None:
        give_up = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < give_up
            await asyncio.sleep(0.002)

    async def passed(self, sender: Station, listener: Station) -> None:
        """What *sender* said before this has come to where it goes: a signal behind it has arrived."""
        mark = Signal(next(iter(listener.topics)), os.urandom(8))

        def arrived() -> bool:
            return mark in listener.handler.of("signals")

        sender.bus.signal([mark])
        await self.until(arrived)


@pytest.fixture(params=ENGINES)
async def world(request, tmp_path) -> AsyncIterator[World]:
    engine = ENGINES[request.param](tmp_path)
    engine.start()
    yield World(engine)
    await engine.close()


def part(after: int, to: int, *topics: str, slot: int = 3, term: int = 7, body: bytes = b"") -> Range:
    """A range with one event for each topic, which tells its topic."""
    return Range(slot, term, after, to, [Entry([topic], topic.encode() + body) for topic in topics])


# --- a link ------------------------------------------------------------------------------------------


async def test_the_engine_implements_the_interface(world):
    shard = await world.shard("s0")
    bus: Bus = shard.bus
    assert bus.up
    assert shard.handler.story == [("linked", None)]


async def test_what_is_sent_arrives_in_order_and_once(world):
    shard = await world.shard("s0", "lobby")
    store = await world.store("store", {3: 7})
    for n in range(1_000):
        assert store.bus.publish([part(n, n + 1, "lobby"), part(n, n, slot=4)])
        if n % 100 == 99:
            await world.passed(store, shard)
    assert [(one.slot, one.after, one.to) for one in shard.handler.of("ranges")] == [
        place for n in range(1_000) for place in ((3, n, n + 1), (4, n, n))
    ]
    assert shard.links == store.links == 1


async def test_different_things_keep_their_order_too(world):
    shard = await world.shard("s0", "lobby")
    store = await world.store("store", {3: 7})
    shard.bus.request([(3, Replay(3, 0))])
    await world.until(lambda: store.handler.of("requests"))
    ((asker, _),) = store.handler.of("requests")
    store.bus.publish([part(0, 1, "lobby")])
    store.bus.reply(asker, [Done(1)])
    store.bus.publish_to(asker, [part(1, 2, "lobby")])
    store.bus.signal([Signal("lobby", b"x")])
    store.bus.publish([part(2, 3, "lobby")])
    await world.passed(store, shard)
    assert [kind for kind, _ in shard.handler.story[1:6]] == ["ranges", "replies", "ranges", "signals", "ranges"]
    assert [one[:2] for one in shard.heard()] == [(0, 1), (1, 2), (2, 3)]


async def test_while_there_is_no_link_nothing_is_taken(world):
    world.engine.stop()
    shard = world.join(batch.SHARD, "s0", ["lobby"])
    await world.until(lambda: hasattr(shard, "bus"))
    assert not shard.bus.up
    assert shard.bus.publish([part(0, 1)]) is False
    assert shard.bus.request([(3, Replay(3, 0))]) is False
    assert shard.bus.signal([Signal("lobby", b"x")]) is False
    assert shard.bus.reply(b"x", [Done(1)]) is False
    assert shard.bus.publish_to(b"x", [part(0, 1)]) is False
    world.engine.start()
    await world.until(lambda: shard.links)
    assert shard.bus.signal([Signal("lobby", b"x")]) is True


async def test_nobody_waits_for_a_full_queue(world, monkeypatch):
    monkeypatch.setattr(zeromq, "HIGH_WATER", 5)
    store = await world.store("store", {3: 7})
    world.engine.stop()
    begun = time.monotonic()
    taken = 0
    while store.bus.publish([part(taken, taken + 1, body=bytes(100_000))]):
        taken += 1
        assert taken < 1_000
    assert time.monotonic() - begun < 2
    assert not store.bus.up  # what it could not take is a hole: this link is over
    world.engine.start()
    await world.until(lambda: store.links == 2)


# --- subscriptions and ranges ------------------------------------------------------------------------


async def test_ranges_keep_their_numbers_when_they_are_filtered(world):
    one, two, none = (
        await world.shard("s0", "lobby", "user.al"),
        await world.shard("s1", "user.bob"),
        await world.shard("s2"),
    )
    store = await world.store("store", {3: 7})
    store.bus.publish([part(10, 13, "lobby", "user.bob", "user.eve")])
    await world.until(lambda: one.heard() and two.heard() and none.heard())
    assert one.heard() == [(10, 13, [b"lobby"])]
    assert two.heard() == [(10, 13, [b"user.bob"])]
    assert none.heard() == [(10, 13, [])]
    assert [(found.slot, found.term) for found in none.handler.of("ranges")] == [(3, 7)]
    assert store.heard() == []


async def test_topics_of_the_hello_are_in_force_with_the_welcome(world):
    store = await world.store("store", {3: 7})
    shard = world.join(batch.SHARD, "s0", ["user.al"])
    n = 0
    while n < 50 or not shard.heard():
        store.bus.publish([part(n, n + 1, "user.al")])
        n += 1
        await asyncio.sleep(0.002)
    assert shard.handler.story[0] == ("linked", None)
    assert all(events == [b"user.al"] for _, _, events in shard.heard())


async def test_a_subscription_takes_effect_in_the_stream(world):
    shard = await world.shard("s0", "user.al")
    store = await world.store("store", {3: 7})
    n = 0

    async def talk(messages: int) -> None:
        nonlocal n
        for _ in range(messages):
            store.bus.publish([part(n, n + 1, "user.bob", "user.al")])
            n += 1
            await asyncio.sleep(0)

    await talk(20)
    added = shard.subscribe("user.bob")
    await talk(200)
    await world.until(lambda: added in shard.handler.of("subscribed"))
    await talk(20)
    removed = shard.subscribe(remove=("user.al",))
    await talk(200)
    await world.until(lambda: removed in shard.handler.of("subscribed"))
    await talk(20)
    await world.until(lambda: shard.heard() and shard.heard()[-1][1] == n)
    phases: list[set[tuple[bytes, ...]]] = [set()]
    for kind, what in shard.handler.story:
        if kind == "subscribed":
            phases.append(set())
        elif kind == "ranges":
            phases[-1] |= {tuple(e.event for e in one.entries) for one in what}
    assert phases == [{(b"user.al",)}, {(b"user.bob", b"user.al")}, {(b"user.bob",)}]
    assert added < removed


async def test_a_replay_goes_to_one_peer_alone(world):
    one, two = await world.shard("s0", "lobby"), await world.shard("s1", "lobby")
    store = await world.store("store", {3: 7})
    two.bus.request([(3, Replay(3, 4))])
    await world.until(lambda: store.handler.of("requests"))
    ((asker, request),) = store.handler.of("requests")
    store.bus.publish_to(asker, [part(4, 6, "lobby", "user.al")])
    store.bus.publish([part(6, 7, "lobby")])
    await world.until(lambda: len(two.heard()) == 2 and one.heard())
    assert request == Replay(3, 4)
    assert two.heard() == [(4, 6, [b"lobby"]), (6, 7, [b"lobby"])]
    assert one.heard() == [(6, 7, [b"lobby"])]


async def test_signals_go_to_the_listeners_of_their_topic(world):
    one, two = await world.shard("s0", "user.al"), await world.shard("s1", "user.bob")
    two.bus.signal(
        [Signal("user.al", b"1"), Signal("user.bob", b"2"), Signal("user.eve", b"3"), Signal("user.al", b"4")]
    )
    await world.until(lambda: one.handler.of("signals") and two.handler.of("signals"))
    assert one.handler.of("signals") == [Signal("user.al", b"1"), Signal("user.al", b"4")]
    assert two.handler.of("signals") == [Signal("user.bob", b"2")]


# --- requests and replies ----------------------------------------------------------------------------


async def test_requests_go_to_the_owner_with_the_highest_term(world):
    shard = await world.shard("s0", "lobby")
    old, new = await world.store("old", {1: 4, 2: 4}), await world.store("new", {2: 5, 3: 5})
    shard.bus.request([(slot, Replay(slot, 0)) for slot in (1, 2, 3, 1)])
    await world.until(lambda: len(old.asked()) + len(new.asked()) == 4)
    assert (old.asked(), new.asked()) == ([1, 1], [2, 3])
    old.own({1: 4, 2: 4, 3: 4})  # what it once had it does not get back by saying so
    await world.passed(old, shard)
    shard.bus.request([(3, Replay(3, 0))])
    await world.until(lambda: len(new.asked()) == 3)
    old.own({1: 4, 2: 6})
    await world.passed(old, shard)
    shard.bus.request([(2, Replay(2, 0))])
    await world.until(lambda: len(old.asked()) == 3)
    assert (old.asked(), new.asked()) == ([1, 1, 2], [2, 3, 3])


async def test_requests_for_a_slot_without_an_owner_are_lost_quietly(world):
    shard = await world.shard("s0", "lobby")
    assert shard.bus.request([(9, Replay(9, 0))]) is True
    await world.passed(shard, shard)
    store = await world.store("store", {3: 1})
    shard.bus.request([(9, Replay(9, 0)), (3, Replay(3, 0))])
    await world.until(lambda: store.asked())
    store.own({})
    await world.passed(store, shard)
    shard.bus.request([(3, Replay(3, 0))])
    await world.passed(shard, shard)
    store.own({3: 1})
    await world.passed(store, shard)
    shard.bus.request([(3, Replay(3, 8))])
    await world.until(lambda: len(store.asked()) == 2)
    assert [request for _, request in store.handler.of("requests")] == [Replay(3, 0), Replay(3, 8)]
    assert shard.links == store.links == 1


async def test_a_reply_goes_to_the_asker_alone(world):
    one, two = await world.shard("s0", "lobby"), await world.shard("s1", "lobby")
    store = await world.store("store", {3: 7})
    one.bus.request([(3, Replay(3, 1))])
    two.bus.request([(3, Replay(3, 2))])
    await world.until(lambda: len(store.asked()) == 2)
    for asker, request in store.handler.of("requests"):
        store.bus.reply(asker, [Done(request.after)])
    store.bus.reply(b"nobody", [Done(9)])
    await world.passed(store, one)
    await world.passed(store, two)
    assert (one.handler.of("replies"), two.handler.of("replies")) == ([Done(1)], [Done(2)])


# --- what breaks -------------------------------------------------------------------------------------


async def test_a_peer_that_cannot_take_a_message_is_cut_off_and_learns_it(world, monkeypatch):
    monkeypatch.setattr(zeromq, "HIGH_WATER", 5)
    world.engine.stop()
    world.engine.start()
    slow, quick = await world.shard("slow", "lobby"), await world.shard("quick", "lobby")
    store = await world.store("store", {3: 7})
    store.bus.publish([part(0, 1, "lobby")])
    await world.until(lambda: slow.heard() and quick.heard())
    world.engine.freeze(slow)
    sent = 80
    for n in range(1, sent):
        assert store.bus.publish([part(n, n + 1, "lobby", body=bytes(100_000))])
        await world.until(lambda n=n: quick.heard()[-1][1] == n + 1)
    world.engine.thaw(slow)
    await world.until(lambda: slow.links == 2)
    before = [where for where, (kind, _) in enumerate(slow.handler.story) if kind == "linked"][1]
    got = [one for kind, what in slow.handler.story[:before] if kind == "ranges" for one in what]
    assert [(one.after, one.to) for one in got] == [(n, n + 1) for n in range(len(got))]  # a prefix, without holes
    assert 1 <= len(got) < sent
    store.bus.publish([part(sent, sent + 1, "lobby")])
    await world.until(lambda: slow.heard()[-1][1] == sent + 1)
    assert slow.heard()[len(got) :] == [(sent, sent + 1, [b"lobby"])]
    assert (quick.links, len(quick.heard())) == (1, sent + 1)


async def test_an_old_link_delivers_nothing_to_its_successor(world):
    shard, other = await world.shard("s0", "lobby"), await world.shard("s1", "lobby")
    store = await world.store("store", {3: 7})
    world.engine.freeze(shard)
    store.bus.publish([part(0, 1, "lobby")])
    await world.until(lambda: other.heard())
    shard.bus.receive([batch.AGAIN], asyncio.get_running_loop().time())  # the link breaks with that in its queue
    assert not shard.bus.up
    world.engine.thaw(shard)
    await world.until(lambda: shard.links == 2)
    store.bus.publish([part(1, 2, "lobby")])
    await world.until(lambda: shard.heard())
    assert shard.heard() == [(1, 2, [b"lobby"])]


async def test_a_restarted_engine_gets_everything_anew(world):
    shard = await world.shard("s0", "user.al", "user.gone")
    store = await world.store("store", {3: 7})
    shard.subscribe("user.bob", remove=("user.gone",))
    store.own({3: 8, 4: 8})
    await world.passed(store, shard)
    world.engine.stop()
    shard.subscribe("user.eve")
    world.engine.start()
    await world.until(lambda: shard.links == store.links == 2)
    shard.bus.request([(4, Replay(4, 0))])
    await world.until(lambda: store.asked())
    before = len(shard.heard())
    store.bus.publish([part(0, 4, "user.al", "user.bob", "user.eve", "user.gone")])
    await world.until(lambda: len(shard.heard()) > before)
    assert shard.heard()[before:] == [(0, 4, [b"user.al", b"user.bob", b"user.eve"])]


async def test_what_was_queued_for_a_dead_engine_is_not_passed_on_by_the_next(world):
    shard = await world.shard("s0", "lobby")
    store = await world.store("store", {3: 7})
    world.engine.stop()
    assert store.bus.publish([part(0, 1, "lobby")]) is True  # it cannot know yet
    world.engine.start()
    await world.until(lambda: shard.links == store.links == 2)
    store.bus.publish([part(1, 2, "lobby")])
    await world.until(lambda: shard.heard())
    assert shard.heard() == [(1, 2, [b"lobby"])]


async def test_another_version_is_refused_in_words(world, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(link_module, "batch", SimpleNamespace(**{**vars(batch), "VERSION": 99}))
        shard = world.join(batch.SHARD, "s0", ["lobby"])
        await world.until(lambda: hasattr(shard, "bus") and shard.bus.refused)
        assert shard.bus.refused == f"the broker speaks version {batch.VERSION} of the exchange, you speak 99"
        assert shard.handler.story == []
    await world.until(lambda: shard.links)  # the right version, after an upgrade
    assert shard.bus.refused is None


# --- ZeroMQ over tcp ---------------------------------------------------------------------------------


@pytest.fixture
async def tcp(tmp_path) -> AsyncIterator[World]:
    engine = over_tcp(tmp_path)
    engine.start()
    yield World(engine)
    await engine.close()


@pytest.mark.parametrize("who", ["without keys", "wrong broker", "stranger"])
async def test_over_tcp_nobody_gets_in_without_the_right_keys(tcp, tmp_path, who, monkeypatch):
    ours, theirs = tcp.engine.curve_dir, make_keys(tmp_path / "theirs")
    outsider = Station(batch.SHARD, "outsider", ["lobby"], {})
    if who == "without keys":
        monkeypatch.setattr("tests.contract.test_bus.load_curve", lambda *_, **__: None)
    elif who == "stranger":  # who knows the broker's public key, but is nobody whom it knows
        (theirs / "broker.public").write_bytes((ours / "broker.public").read_bytes())
    tcp.engine.join(outsider, theirs)
    monkeypatch.undo()
    shard, store = await tcp.shard("s0", "lobby"), await tcp.store("store", {3: 7})
    # Long enough for many a handshake: links give up and try anew after `SILENCE`, ours have come and gone by then.
    peer = tcp.engine.peers[outsider]
    n = 0
    while peer.reconnects < 1:
        store.bus.publish([part(n, n + 1, "lobby")])
        n += 1
        await tcp.until(lambda: len(shard.heard()) == n)  # noqa: B023
        outsider.bus.signal([Signal("lobby", b"let me in")])
        await asyncio.sleep(0.02)
    assert outsider.handler.story == []
    assert not outsider.bus.up
    assert shard.handler.of("signals") == []
    assert tcp.engine.broker._router.peers() == [("shard", "s0"), ("store", "store")]


def test_over_tcp_keys_are_needed(tmp_path):
    with pytest.raises(BusConfigurationError, match=r"tcp://h:1 needs CURVE keys.*hubbub keys"):
        load_curve("tcp://h:1", tmp_path, broker=True)
    keys = make_keys(tmp_path / "keys")
    (keys / "broker.secret").unlink()
    assert load_curve("tcp://h:1", keys, broker=False) is not None  # a peer's host has no need of it
    (keys / "peer.secret").write_text("short")
    with pytest.raises(BusConfigurationError, match=r"peer\.secret is no CURVE key"):
        load_curve("tcp://h:1", keys, broker=False)
    assert load_curve("ipc:///x", tmp_path, broker=True) is None


async def test_an_address_that_cannot_be_used(tmp_path):
    with pytest.raises(BusConfigurationError, match="cannot listen on ipc:///nowhere/at/all"):
        zeromq.BrokerSocket("ipc:///nowhere/at/all", None, lambda peer, frames: None)
