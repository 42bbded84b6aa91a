"""One history: a plan made from a seed, carried out, healed, and checked.

A plan is a configuration and a list of decisions (what people do, what breaks); everything else that
happens by chance (delays, orders) comes from the same seed. Dropping decisions gives a smaller history.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import broker.router
import hubbub.bus.log
import hubbub.protocol.conversation
import shards.attendance
import shards.commands
import store.cursorwriter
import store.pages
import store.reader
import store.sequencer
import store.writer
from hubbub.protocol.conversation import user_slot
from hubbub.protocol.limits import Limits
from tests.simulation.clients import Device, PlainDevice, SyncingDevice
from tests.simulation.database import POISON, Database
from tests.simulation.ledger import Ledger, Violation
from tests.simulation.network import Peer
from tests.simulation.nodes import BrokerNode, ShardNode, StoreNode
from tests.simulation.tasks import Asyncio, Time
from tests.simulation.world import Crash, Node, World

# After the last fault: how long the system may take until it is live again (virtual seconds).
HEAL_SECONDS = 45.0
_LOOK_EVERY = 0.5
# Leases, graces and renewals of presence: 5 s each, with what a stop adds.
_PRESENCE_SECONDS = 13.0

Decision = tuple[float, str, tuple[Any, ...]]


class Plan(NamedTuple):
    """What is to happen. `config` is plain data; `decisions` are in order of time."""

    seed: int
    config: dict[str, Any]
    decisions: list[Decision]


class Result(NamedTuple):
    """What came of it; `problem` is empty if the promise was kept."""

    problem: str
    stats: Counter[str]


_THEMES: dict[str, tuple[str, ...]] = {
    "calm": (),
    "clients": ("cut", "leave", "pause", "forget", "resync", "cut", "leave"),
    "broker": ("kill broker", "stop broker", "full", "bus cut", "full", "bus cut"),
    "store": ("kill store", "stop store", "store cut", "terminate", "transient", "warning", "slow"),
    "database": ("kill postgres", "stop postgres", "store cut", "terminate", "transient", "slow"),
    "moving": ("full", "bus cut", "bus cut", "stop shard", "kill broker"),
    "keys": ("store cut", "terminate", "transient", "warning", "slow", "stop broker", "kill store", "cut"),
    "shards": ("kill shard", "stop shard", "stop shard", "drain", "drain", "cut", "leave"),
}
_THEMES["all"] = tuple(kind for kinds in list(_THEMES.values()) for kind in kinds)


def make_plan(seed: int) -> Plan:
    """The plan of a seed."""
    rng = random.Random(seed * 2 + 1)
    users = ["ann", "bob", "cy", "di"][: rng.choice((2, 2, 3, 3, 4))]
    devices = [(user, rng.random() < 0.65) for user in users]
    while len(devices) < 6 and rng.random() < 0.55:
        devices.append((rng.choice(users), rng.random() < 0.65))
    theme = rng.choice(
        ("calm", "clients", "broker", "store", "database", "shards", "moving", "moving", "keys", "all", "all", "all")
    )
    tight = rng.random() < 0.4 or theme == "keys"
    config = {
        "theme": theme,
        "slots": rng.choice((1, 2, 2, 3)),
        "shards": rng.choice((2, 2, 3)),
        "stores": rng.choice((1, 1, 2)),
        "devices": devices,
        "tight": tight,
        "high_water": rng.choice((6, 20, 5000, 5000)),
        "queue": rng.choice((1, 2, 5, 50_000) if theme == "keys" else (2, 5, 50_000, 50_000)) if tight else 50_000,
        "batch": rng.choice((1, 2, 3, 1000)),
        "held_bytes": rng.choice((8_000, 20_000, 10**6)) if tight else 10**6,
        "outbox_bytes": rng.choice((600, 3000, 10**6)),
        "in_flight": rng.choice((2, 64)) if tight else 64,
        "gap": rng.choice((2, 5, 100_000)) if tight else 100_000,
        "held": rng.choice((1, 3, 5_000)),
        "chunk": rng.choice((1, 2, 5, 1_000)),
        "ring": rng.choice((0, 400, 2_000, 512 * 1024)),
        "page": rng.choice((2, 4, 200)) if tight else 200,
        "backlog": rng.choice((1, 2, 500)),
        "ends": rng.choice((1, 100_000)),
        "lag": rng.choice((0.05, 0.3, 0.9)),
        "lazy": rng.random() < 0.5,
        "presence": rng.random() < 0.25,
    }
    seconds = rng.choice((3.0, 5.0, 8.0))
    decisions: list[Decision] = []
    said = 0
    keys: list[tuple[int, str | None, str, str]] = []
    said_at: dict[str, float] = {}
    for _ in range(rng.randrange(10, 45)):
        at = seconds * rng.random()
        device = rng.randrange(len(devices))
        said += 1
        recipient = None if rng.random() < 0.45 else rng.choice(users)
        content = f"{POISON if rng.random() < (0.05 if tight else 0.02) else 'm'}{said}"
        key = f"key-{said:012}" if devices[device][1] or rng.random() < 0.7 else ""
        twins = [one for one in keys if devices[one[0]][0] == devices[device][0]]
        if twins and key and rng.random() < (0.5 if theme == "keys" else 0.12):
            # The same key from another device of the same user (or again from this one), or with other content.
            _, recipient, key, old = rng.choice(twins)
            if rng.random() < 0.5:
                at = min(seconds, said_at[key] + 0.4 * rng.random())
            mine = [one[3] for one in keys if one[0] == device and one[2] == key]
            if mine or rng.random() < 0.6:
                content = mine[0] if mine else old
        if key:
            said_at[key] = at
            keys.append((device, recipient, key, content))
        decisions.append((at, "say", (device, recipient, content, key)))
    for _ in range(rng.randrange(4)):
        decisions.append((seconds * rng.random(), "read", (rng.randrange(len(devices)),)))
    kinds = _THEMES[theme]
    if kinds:
        for _ in range(rng.randrange(1, 9)):
            decisions.append(_fault(rng, rng.choice(kinds), seconds, config))
            if theme == "moving":
                # What breaks on the way of somebody who is just coming back is the hardest to get right.
                at = decisions[-1][0]
                verb = rng.choice(("leave", "leave", "cut", "forget"))
                decisions.append((max(0.0, at - 0.9 * rng.random()), verb, (rng.randrange(len(devices)), 0.0)))
    decisions.sort(key=lambda one: one[0])
    return Plan(seed, config, decisions)


def _fault(rng: random.Random, kind: str, seconds: float, config: dict[str, Any]) -> Decision:
    at = seconds * rng.random()
    long = rng.choice((0.1, 0.7, 2.5, 4.0, 9.0)) * (0.5 + rng.random())
    verb, _, what = kind.partition(" ")
    if verb in ("kill", "stop"):
        index = rng.randrange(config.get(what + "s", 1))
        return at, verb, (what, index, min(long, 3.0) if verb == "kill" else long)
    if kind in ("full", "bus cut"):
        return at, kind, (rng.randrange(config["shards"] + config["stores"]), min(long, 3.0))
    if kind == "drain":
        return at, kind, (rng.randrange(config["shards"]), min(long, 3.0))
    if kind in ("store cut", "terminate"):
        return at, kind, (rng.randrange(config["stores"]),)
    if kind in ("transient", "warning"):
        return at, kind, ()
    if kind == "slow":
        return at, kind, (long, rng.choice((10.0, 60.0)))
    return at, kind, (rng.randrange(len(config["devices"])), min(long, 4.0))


@contextmanager
def _set(places: list[tuple[Any, str, Any]]) -> Iterator[None]:
    before = [(place, name, getattr(place, name)) for place, name, _ in places]
    try:
        for place, name, value in places:
            setattr(place, name, value)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


class History:
    """A plan being carried out."""

    def __init__(self, plan: Plan, trace: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        config = plan.config
        world = self.world = World(plan.seed * 2, trace)
        world.lag = config["lag"]
        self.database = Database(world)
        self.ledger = Ledger(self.database)
        self.limits = Limits(
            rate=0.0,
            store_queue=config["queue"],
            batch=config["batch"],
            held_bytes=config["held_bytes"],
            outbox_bytes=config["outbox_bytes"],
            in_flight=config["in_flight"],
        )
        water, slots = config["high_water"], config["slots"]
        self.broker = BrokerNode(world, water)
        self.shards = [
            ShardNode(world, f"shard{i}", self.broker, self.limits, water, lazy=config["lazy"])
            for i in range(config["shards"])
        ]
        self.stores = [
            StoreNode(world, f"store{i}", self.broker, self.database, self.limits, slots=slots, high_water=water)
            for i in range(config["stores"])
        ]
        self.devices: list[Device] = []
        for i, (user, syncing) in enumerate(config["devices"]):
            kind = SyncingDevice if syncing else PlainDevice
            self.devices.append(kind(world, f"{user}.{i}{'' if syncing else 'p'}", user, self.shards, self.ledger))
        self.quiet = ""  # why the system does not count as settled

    def run(self) -> Result:
        """From the first start to the last check."""
        problem = ""
        with _set(self._places()):
            shards.commands._address.cache_clear()  # it remembers slots, and their number is another now
            try:
                self._traffic()
                self._heal()
                self._check()
            except Violation as exc:
                problem = str(exc)
            except Crash as exc:
                cause = exc.__cause__
                problem = str(cause) if isinstance(cause, Violation) else f"crash: {exc}"
                if self.world.tracing and not isinstance(cause, Violation):
                    import traceback

                    self.world.log("", "".join(traceback.format_exception(exc)))
            finally:
                for store_node in self.stores:
                    store_node.kill()
        stats = self.ledger.stats
        stats["steps"] += self.world.steps
        stats["recoveries"] += sum(shard.hub.positions.recoveries for shard in self.shards)
        stats["resets"] += sum(shard.hub.resets for shard in self.shards)
        stats["replays"] += sum(one.core.replays for one in self.stores)
        stats["duplicates"] += sum(one.core.duplicates for one in self.stores)
        stats["peers cut"] += self.broker.cut
        stats["reconnects"] += sum(device.reconnects for device in self.devices)
        return Result(problem, stats)

    def _places(self) -> list[tuple[Any, str, Any]]:
        config, slots = self.plan.config, self.plan.config["slots"]
        time = Time(self.world)

        async def connect(url: Any, options: str) -> Any:
            return await self.database.connect(url, options)

        async def nothing(conn: Any) -> list[str]:
            return []

        return [
            *((module, "SLOTS", slots) for module in (hubbub.protocol.conversation, hubbub.bus.log)),
            *((module, "SLOTS", slots) for module in (broker.router, shards.attendance)),
            (hubbub.bus.log, "GAP_MAX", config["gap"]),
            (hubbub.bus.log, "HELD_MAX", config["held"]),
            (store.sequencer, "REPLAY_EVENTS", config["chunk"]),
            (store.sequencer, "RING_BYTES", config["ring"]),
            (store.sequencer, "ENDS_MAX", config["ends"]),
            (store.reader, "REPLAY_ROWS", config["chunk"]),
            (store.pages, "HISTORY_MAX", config["page"]),
            (store.pages, "BACKLOG_EVENTS", config["backlog"]),
            *((module, "asyncio", Asyncio) for module in (store.writer, store.reader, store.cursorwriter)),
            *((module, "time", time) for module in (store.writer, store.cursorwriter)),
            *((module, "connect", connect) for module in (store.writer, store.reader, store.cursorwriter)),
            (store.writer, "check", nothing),
            (store.writer, "migrate", nothing),
        ]

    # --- acts ---------------------------------------------------------------------------------------

    def _traffic(self) -> None:
        world = self.world
        self.database.start()
        for node in (self.broker, *self.stores, *self.shards):
            world.push(0.05 * world.rng.random(), None, node.start)
        begin = 0.6
        for device in self.devices:
            world.push(begin * 0.5 + begin * world.rng.random(), None, device.start)
        end = begin
        for at, kind, args in self.plan.decisions:
            end = begin + at
            world.run(end)
            self._decide(kind, args)
        world.run(end + 0.5)

    def _decide(self, kind: str, args: tuple[Any, ...]) -> None:
        world, stats = self.world, self.ledger.stats
        if kind == "say":
            device, recipient, content, key = args
            self.devices[device].say(recipient, content, key)
            return
        if kind == "read":
            one = self.devices[args[0]]
            if isinstance(one, SyncingDevice):
                one.read()
            return
        name = f"{kind} {args[0]}" if kind in ("kill", "stop") else kind
        stats["fault: " + name] += 1
        world.log("FAULT", f"{kind} {args}")
        match kind:
            case "kill":
                node = self._node(args[0], args[1])
                node.kill()
                world.push(world.now + args[2], None, node.start)
            case "stop":
                node = self._node(args[0], args[1])
                node.stop()
                world.push(world.now + args[2], None, node.resume)
            case "drain":
                self.shards[args[0]].drain(args[1])
            case "full":
                peer = self._peer(args[0])
                if peer is not None:
                    self.broker.full[id(peer)] = world.now + args[1]
            case "bus cut":
                peer = self._peer(args[0])
                if peer is not None:
                    peer.cut()
            case "store cut":
                self.database.disconnect(self.stores[args[0]])
            case "terminate":
                self.database.terminate(self.stores[args[0]])
            case "transient" | "warning":
                self.database.fail_next.append(kind)
            case "slow":
                self.database.slow = args[1]
                world.push(world.now + args[0], None, self._no_longer_slow)
            case "cut":
                self.devices[args[0]].leave(kindly=False)
            case "leave":
                self.devices[args[0]].leave(kindly=True)
            case "pause":
                self.devices[args[0]].pause(args[1])
            case "forget":
                device = self.devices[args[0]]
                if isinstance(device, SyncingDevice):
                    device.forget()
            case "resync":
                device = self.devices[args[0]]
                if isinstance(device, SyncingDevice):
                    device.resync()
            case _:
                raise AssertionError(kind)

    def _node(self, what: str, index: int) -> Node:
        match what:
            case "shard":
                return self.shards[index]
            case "store":
                return self.stores[index]
            case "broker":
                return self.broker
            case _:
                return self.database

    def _peer(self, index: int) -> Peer | None:
        peers = [node.peer if node.alive else None for node in (*self.shards, *self.stores)]
        return peers[index]

    def _no_longer_slow(self) -> None:
        self.database.slow = 1.0

    # --- the end ------------------------------------------------------------------------------------

    def _heal(self) -> None:
        world = self.world
        world.log("", "--- the faults are over ---")
        self.database.slow = 1.0
        self.database.fail_next.clear()
        self.broker.full.clear()
        for node in (self.database, self.broker, *self.stores, *self.shards):
            node.resume()
            node.start()
        for device in self.devices:
            device.read_on()
        healed = world.now
        least = healed + (_PRESENCE_SECONDS if self.plan.config["presence"] else 0.0)
        while world.now < healed + HEAL_SECONDS:
            world.run(world.now + _LOOK_EVERY)
            if world.now >= least and self._settled():
                self.ledger.stats["heal ms"] += int(1000 * (world.now - max(healed, least)))
                return
        if self.quiet.startswith("lost:"):
            raise Violation(self.quiet)
        raise Violation(f"stuck: not live again after {HEAL_SECONDS} s: {self.quiet}")

    def _settled(self) -> bool:
        self.quiet = self._unsettled()
        return not self.quiet

    def _unsettled(self) -> str:
        database = self.database
        for device in self.devices:
            if not device.settled:
                return f"{device.name} waits"
        ends = [database.last_n(slot) for slot in range(self.plan.config["slots"])]
        for shard in self.shards:
            if not shard.idle:
                pending = list(shard.hub.pending._by_no.values())
                stages = [(session.id, session.stage) for session in shard.hub.sessions]
                return f"{shard.name} is busy: {[one.request for one in pending][:3]}, {stages}"
            if shard.hub.positions.snapshot() != ends:
                return f"{shard.name} is at {shard.hub.positions.snapshot()}, the logs are at {ends}"
            sessions = set(shard.hub.sessions)
            for device in self.devices:
                stream = device.stream
                if stream is not None and stream.shard is shard:
                    sessions.discard(stream.session)
            if sessions:
                return f"{shard.name} holds sessions of nobody"
        try:
            self._check_received()
        except Violation as exc:
            return str(exc)  # it may still be on its way
        for device in self.devices:
            for conversation in database.rows:
                mine = conversation == "lobby" or device.username in conversation.split(":")[1:]
                if mine and database.cursors[device.username, conversation][0] < database.end(conversation):
                    cursor = database.cursors[device.username, conversation]
                    return f"{device.username}'s cursor in {conversation} is {cursor} of {database.end(conversation)}"
        return ""

    def _check(self) -> None:
        self.ledger.check_table()
        self._check_received()
        for shard in self.shards:
            for session in shard.hub.sessions:
                if session.in_flight:
                    raise Violation(f"leak: {session.id} counts {session.in_flight} sends in flight")
        if self.plan.config["presence"]:
            self._check_presence()

    def _check_received(self) -> None:
        for device in self.devices:
            device.check()
        for user in sorted({device.username for device in self.devices}):
            self.ledger.check_received(user)

    def _check_presence(self) -> None:
        truth = sorted({device.username for device in self.devices})
        for slot in range(self.plan.config["slots"]):
            owners = [one for one in self.stores if one.core.sequencer.owns(slot)]
            there = [user for user in truth if user_slot(user) == slot]
            for owner in owners[:1]:
                online = sorted(owner.core.presence.online(slot, None))
                if len(owners) == 1 and online != there:
                    raise Violation(f"presence: online in slot {slot}: {online}, in truth {there}")


def run(plan: Plan, trace: Callable[[str], None] | None = None) -> Result:
    """Carry out a plan."""
    return History(plan, trace).run()
