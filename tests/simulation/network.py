"""What lies between the processes: ZeroMQ sockets with their queues, and the clients' TCP streams.

Both are queues that the receiving process takes from: an event says "something may have arrived", so
that order within a channel is kept whatever a stopped process does with what has piled up.
"""

from collections import deque
from typing import TYPE_CHECKING

from hubbub.bus.link import Link, LinkState
from shards.session import Session
from tests.simulation.world import Node, World

if TYPE_CHECKING:
    from tests.simulation.clients import Device
    from tests.simulation.nodes import BrokerNode, ShardNode


class BusNode(Node):
    """A process with a link to the broker."""

    peer: "Peer"

    def turned(self) -> None:
        """Something came in: end the tick."""


class Socket:
    """A peer's DEALER together with the broker's pipe for it."""

    __slots__ = ("down", "down_at", "gone_until", "id", "open", "owner", "up", "up_at")

    def __init__(self, identity: bytes, owner: "Peer") -> None:
        self.id = identity
        self.owner = owner
        self.open = True  # the peer still holds it
        self.up: deque[list[bytes]] = deque()
        self.down: deque[list[bytes]] = deque()
        self.up_at = 0.0
        self.down_at = 0.0
        self.gone_until = 0.0  # the transport between the two is broken until then


class Peer:
    """A shard's or a store's end of the exchange; what `hubbub.bus.zeromq.Peer` is over a real socket."""

    def __init__(self, node: BusNode, broker: "BrokerNode", high_water: int) -> None:
        self.node = node
        self.broker = broker
        self.socket: Socket | None = None
        self.high_water = high_water
        self.link: Link
        self._sockets = 0

    def turn(self) -> None:
        """What `zeromq.Peer.run` does ten times a second."""
        now = self.node.world.now
        self.link.tick(now)
        if self.link.state is LinkState.BROKEN:
            self.close()
            self._sockets += 1
            self.socket = Socket(f"{self.node.name}.{self.node.life}.{self._sockets}".encode(), self)
            self.broker.sockets[self.socket.id] = self.socket
            self.link.opened(now)

    def close(self) -> None:
        """Let go of the socket: what is in transit may still arrive, what is queued here is gone."""
        socket, self.socket = self.socket, None
        if socket is None:
            return
        socket.open = False
        socket.down.clear()
        kept = self.node.world.rng.randrange(len(socket.up) + 1)
        while len(socket.up) > kept:
            socket.up.pop()
        self.broker.after(self.node.world.delay(), self.broker.noticed_gone, socket)

    def send(self, frames: list[bytes]) -> bool:
        """Queue a message; False when the queue is full."""
        socket = self.socket
        if socket is None or len(socket.up) >= self.high_water:
            return False
        socket.up.append(frames)
        world = self.node.world
        socket.up_at = max(socket.up_at, socket.gone_until, world.now + world.delay())
        world.push(socket.up_at, self.broker, self.broker.arrived, socket)
        return True

    def arrived(self, socket: Socket) -> None:
        """Something may have come from the broker."""
        if socket is self.socket and socket.down:
            self.link.receive(socket.down.popleft(), self.node.world.now)
            self.node.turned()

    def cut(self) -> None:
        """The transport breaks and is made anew, with the same identity: what was in it is lost, unseen."""
        socket, world = self.socket, self.node.world
        if socket is None:
            return
        world.log(self.node.name, "bus transport cut")
        for _ in range(world.rng.randrange(len(socket.up) + 1)):
            socket.up.popleft()
        while len(socket.down) and world.rng.random() < 0.9:
            socket.down.pop()
        if world.rng.random() < 0.5:
            socket.gone_until = world.now + 0.5 * world.rng.random()


class Stream:
    """A client's connection to a shard, from its handshake on. Kinds of messages: see `nodes`."""

    __slots__ = (
        "at_client",
        "at_server",
        "client",
        "client_open",
        "paused",
        "server_open",
        "session",
        "shard",
        "shard_life",
        "to_client",
        "to_server",
    )

    def __init__(self, world: World, client: "Device", shard: "ShardNode") -> None:
        self.client = client
        self.shard = shard
        self.shard_life = shard.life
        self.session: Session
        self.client_open = True
        self.server_open = True
        self.paused = False  # the client does not read
        self.to_server: deque[tuple[str, bytes]] = deque()
        self.to_client: deque[tuple[str, bytes]] = deque()
        self.at_server = world.now
        self.at_client = world.now

    def unread(self) -> int:
        """Bytes on their way to the client."""
        return sum(len(data) for _, data in self.to_client)

    def post_to_server(self, kind: str, data: bytes = b"") -> None:
        """The client writes."""
        if not self.client_open:
            return
        world = self.client.world
        self.to_server.append((kind, data))
        self.at_server = max(self.at_server, world.now + world.delay())
        if self.shard.life == self.shard_life:
            world.push(self.at_server, self.shard, self.shard.heard, self)

    def post_to_client(self, kind: str, data: bytes = b"") -> None:
        """The server writes."""
        if not self.server_open:
            return
        world = self.client.world
        self.to_client.append((kind, data))
        self.at_client = max(self.at_client, world.now + world.delay())
        world.push(self.at_client, self.client, self.client.heard, self)

    def lose(self, to_server: bool, to_client: bool) -> None:
        """What is on its way is lost from some point on."""
        rng = self.client.world.rng
        for lost, queue in ((to_server, self.to_server), (to_client, self.to_client)):
            if lost:
                kept = rng.randrange(len(queue) + 1)
                while len(queue) > kept:
                    queue.pop()
