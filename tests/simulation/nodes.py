"""The processes: the product's cores, and glue as thin as that of the product."""

import random
from typing import TYPE_CHECKING

from broker.router import Router
from hubbub.bus import batch
from hubbub.bus.link import Link
from hubbub.protocol.limits import Limits
from hubbub.protocol.refusals import ErrorCode, Refusal
from shards.commands import Identity
from shards.hub import Hub
from shards.session import Session, Stage
from store.core import Store
from store.cursorwriter import CursorWriter
from store.reader import Reader
from store.writer import Writer
from tests.simulation.database import Database
from tests.simulation.network import BusNode, Peer, Socket, Stream
from tests.simulation.tasks import Task
from tests.simulation.world import Node, World

if TYPE_CHECKING:
    from tests.simulation.clients import Device

_READERS = 2
# Bytes that the kernel takes for a client that does not read.
_KERNEL = 2_000


class BrokerNode(Node):
    """What broker/app.py is: a router between the peers of one socket."""

    def __init__(self, world: World, high_water: int) -> None:
        super().__init__(world, "broker")
        self.high_water = high_water
        self.full: dict[int, float] = {}  # peers (by id()) whose queue counts as full until then
        self.sockets: dict[bytes, Socket] = {}
        self.router = Router()
        self.cut = 0
        self._expired = 0.0

    def born(self) -> None:
        self.router = Router()
        self._expired = self.world.now
        self.sockets = {key: socket for key, socket in self.sockets.items() if socket.open}
        for socket in self.sockets.values():
            # The peers' sockets connect by themselves and deliver what was queued for the dead.
            at = self.world.now + 0.02 + 0.2 * self.world.rng.random()
            socket.up_at = at
            for _ in socket.up:
                self.world.push(at, self, self.arrived, socket)
        self.after(0.5, self.expire)

    def died(self) -> None:
        rng = self.world.rng
        for socket in self.sockets.values():
            for _ in range(rng.randrange(len(socket.up) + 1)):
                socket.up.popleft()
            for _ in range(rng.randrange(len(socket.down) + 1)):
                socket.down.pop()

    def arrived(self, socket: Socket) -> None:
        """Something may have come from a peer."""
        if not socket.up:
            return
        frames = socket.up.popleft()
        outgoing = self.router.receive(socket.id, frames, self.world.now)
        if len(outgoing) > 1:
            outgoing.sort(key=lambda one: one[0])  # between peers there is no order, and none may come from hashes
        for target, message in outgoing:
            if not self.send(target, message):
                self.cut += 1
                self.router.forget(target)

    def send(self, target: bytes, frames: list[bytes]) -> bool:
        """Queue a message for a peer; False: its queue is full or it is gone."""
        socket = self.sockets.get(target)
        world = self.world
        if socket is None or socket.gone_until > world.now or len(socket.down) >= self.high_water:
            return False
        if self.full and self.full.get(id(socket.owner), 0.0) > world.now:
            return False
        if socket.open:
            socket.down.append(frames)
            socket.down_at = max(socket.down_at, world.now + world.delay())
            world.push(socket.down_at, socket.owner.node, socket.owner.arrived, socket)
        return True

    def noticed_gone(self, socket: Socket) -> None:
        """A peer's socket is no longer there."""
        self.sockets.pop(socket.id, None)

    def expire(self) -> None:
        """What `Broker.expire` does."""
        now = self.world.now
        if now - self._expired > 1.0:
            self.router.resumed(now - self._expired)
        self._expired = now
        self.router.expire(now)
        self.after(0.5, self.expire)


class ShardNode(BusNode):
    """The hub between its peer and its streams; what shards/app.py and connection.py are."""

    def __init__(
        self, world: World, name: str, broker: BrokerNode, limits: Limits, high_water: int, *, lazy: bool
    ) -> None:
        super().__init__(world, name)
        self.limits = limits
        self.period = 0.1
        self._broker = broker
        self._high_water = high_water
        self._lazy = lazy
        self._scheduled = False
        self._later = False
        self._down = 0.0
        self.hub: Hub
        self.peer: Peer

    def born(self) -> None:
        self._scheduled = self._later = False
        rng = random.Random(self.world.rng.getrandbits(32))
        self.hub = Hub(
            name=f"{self.name}.{self.life}", limits=self.limits, verify=_no_tokens, wall=self.world.wall, rng=rng
        )
        self.peer = Peer(self, self._broker, self._high_water)
        self.peer.link = Link(
            role=batch.SHARD,
            name=self.hub.name,
            handler=self.hub,
            topics=self.hub.topics.greeted,
            terms=dict,
            send=self.peer.send,
        )
        self.hub.connect(self.peer.link)
        self.ticked()

    def died(self) -> None:
        self.peer.close()
        for session in self.hub.sessions:
            stream: Stream = session.transport
            stream.server_open = False
            stream.lose(to_server=False, to_client=True)
            self.world.push(self.world.now + self.world.delay(), stream.client, stream.client.cut_off, stream)

    def ticked(self) -> None:
        """Ten times a second."""
        now = self.world.now
        self.peer.turn()
        for session in self.hub.sessions:
            if session.unsent:
                session.unsent = max(0, session.transport.unread() - _KERNEL)
        self.hub.tick(now)
        self.turned()
        if self.hub.draining and not self.hub.sessions:
            self.world.push(now + self._down, None, self.start)
            self.kill()
        else:
            self.after(self.period, self.ticked)

    def turned(self) -> None:
        """Something came in: end the tick, now or with whatever else comes in."""
        if not self._lazy or self.world.rng.random() < 0.5:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            self.after(0.002, self._flush)

    def accept(self, client: "Device", attempt: int) -> None:
        """A WebSocket handshake."""
        world = self.world
        try:
            session = self.hub.open(
                client.username,
                syncing=client.syncing,
                remote="",
                expires_at=None,
                now=world.now,
            )
        except Refusal:
            world.push(world.now + world.delay(), client, client.refused, attempt)
            return
        stream = Stream(world, client, self)
        session.transport = stream
        stream.session = session
        stream.at_client = world.now + world.delay()
        world.push(stream.at_client, client, client.opened, stream, attempt)
        self.turned()

    def heard(self, stream: Stream) -> None:
        """Something may have come from a client."""
        if not stream.to_server or not stream.server_open:
            return
        kind, data = stream.to_server.popleft()
        session, now = stream.session, self.world.now
        session.heard = now
        if kind == "text":
            self.hub.receive(session, data, now)
        elif kind == "pong":
            self.hub.pong(session, data, now)
        else:
            stream.server_open = False
            self.hub.close(session, now)
        self.turned()

    def reset(self, stream: Stream) -> None:
        """The kernel has noticed that the connection is broken."""
        if stream.server_open:
            stream.server_open = False
            self.hub.close(stream.session, self.world.now)
            self.turned()

    def drain(self, down: float) -> None:
        """SIGTERM; once everybody is gone the process ends, and is back *down* seconds later."""
        if self.alive and not self.hub.draining:
            self.hub.drain(self.world.now)
            self._down = down

    def _flush(self) -> None:
        self._scheduled = False
        hub = self.hub
        later = hub.flush(self.world.now)
        if later and not self._later:
            self._later = True
            self.after(later, self._flush_later)
        while hub.dirty:
            sessions = list(hub.dirty)
            hub.dirty.clear()
            for session in sessions:
                self._write(session)

    def _flush_later(self) -> None:
        self._later = False
        self._flush()

    def _write(self, session: Session) -> None:
        stream: Stream = session.transport
        out, session.out = session.out, []
        if not stream.server_open:
            return
        if stream.paused and session.closing is None:
            session.unsent = max(0, stream.unread() + sum(map(len, out)) - _KERNEL)
            if session.unsent > self.limits.outbox_bytes:
                self.hub.slow(session)
        for frame in out:
            first = frame[0]
            if first == 0x81:
                size = frame[1]
                stream.post_to_client("text", frame[2:] if size < 126 else frame[4:] if size == 126 else frame[10:])
            elif first == 0x89:
                stream.post_to_client("ping", frame[2:])
            elif first == 0x88:
                stream.post_to_client("eof")
                stream.server_open = False
                self.after(self.world.delay(), self.hub.close, session, self.world.now)

    @property
    def idle(self) -> bool:
        """Whether nothing waits here and every log is followed."""
        hub = self.hub
        return (
            hub.ready
            and not hub.positions.recovering
            and not len(hub.pending)
            and all(session.stage is Stage.LIVE for session in hub.sessions)
        )


class StoreNode(BusNode):
    """What store/app.py is; writer, readers and cursor writer are the product's own."""

    def __init__(
        self,
        world: World,
        name: str,
        broker: BrokerNode,
        database: Database,
        limits: Limits,
        *,
        slots: int,
        high_water: int,
    ) -> None:
        super().__init__(world, name)
        self.period = 0.1
        self._broker = broker
        self._database = database
        self._limits = limits
        self._slots = slots
        self._high_water = high_water
        self._tasks: list[Task] = []
        self.core: Store
        self.peer: Peer

    def log(self, event: str, **fields: object) -> None:
        """Stands in for the logger."""
        if self.world.tracing:
            self.world.log(self.name, f"{event} {fields}")

    warning = error = info = log

    def born(self) -> None:
        core = self.core = Store(self._limits)
        self.peer = Peer(self, self._broker, self._high_water)
        self.peer.link = Link(
            role=batch.STORE,
            name=f"{self.name}.{self.life}",
            handler=core,
            topics=list,
            terms=lambda: core.sequencer.terms,
            send=self.peer.send,
        )
        core.connect(self.peer.link)
        url: str = self  # type: ignore[assignment]  # what the patched `connect` is given
        slots = list(range(self._slots))
        self.writer = Writer(url, slots, core, flush=core.flush, observe=lambda rows, seconds: None, log=self)
        self.reader = Reader(url, core, flush=core.flush, log=self)
        cursor_writer = CursorWriter(url, core, flush=core.flush, log=self)
        self._tasks = [Task(self, self.writer.run()), Task(self, cursor_writer.run())]
        self._tasks += [Task(self, self.reader.run()) for _ in range(_READERS)]
        for task in self._tasks:
            self.after(0.0, task.wake, 0)
        self.ticked()

    def died(self) -> None:
        self.peer.close()
        for task in self._tasks:
            task.kill()
        self._database.abandon(self)

    def ticked(self) -> None:
        """Ten times a second."""
        self.peer.turn()
        self.turned()
        self.core.tick(self.world.now)
        self.core.flush()
        self.after(self.period, self.ticked)

    def turned(self) -> None:
        """What `StoreApp._after` does."""
        if len(self.core.sequencer):
            self.writer.woken()
        if self.core.reads:
            self.reader.woken()
        self.core.flush()


def _no_tokens(token: str) -> Identity:
    raise Refusal(ErrorCode.UNAUTHORIZED, "no tokens here")
