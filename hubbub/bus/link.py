"""One peer's link to the broker, as a state machine without a socket.

A link is up from the broker's WELCOME until the broker says AGAIN, falls silent, a send fails, or a ping
shows that messages are missing: each side says in its pings how many it has sent, since ZeroMQ makes a
broken transport anew without a word. It is then given up whole: a new socket with a new random identity,
so that nothing queued for the old one can reach the new one, and a hello that carries every topic and slot.
"""

from collections.abc import Callable, Sequence
from enum import Enum

from hubbub.bus import batch
from hubbub.bus.interface import Handler
from hubbub.protocol.internal import Range, Reply, Request, Signal

PING_EVERY = 0.25
# Eight pings without a word: the broker is dead or this process was stopped. Shorter than the broker's
# own patience with a peer, so that usually the peer starts over first.
SILENCE = 2.0


class LinkState(Enum):
    """Where a link is in its life."""

    GREETING = "greeting"
    UP = "up"
    BROKEN = "broken"


class Link:
    """The peer's half of the ZeroMQ engine; implements `hubbub.bus.interface.Bus`.

    *send* hands one message to the socket and returns False when it cannot take it. The owner calls
    `opened` after each new socket, `receive` for each message, `tick` every 100 ms or so, and replaces
    the socket when `state` is BROKEN.
    """

    def __init__(
        self,
        *,
        role: str,
        name: str,
        handler: Handler,
        topics: Callable[[], list[str]],
        terms: Callable[[], dict[int, int]],
        send: Callable[[list[bytes]], bool],
    ) -> None:
        self.state = LinkState.BROKEN
        self.refused: str | None = None
        self._role = role
        self._name = name
        self._handler = handler
        self._topics = topics
        self._terms = terms
        self._send = send
        self._heard = 0.0
        self._pinged = 0.0
        self._sent = 0  # messages on this link
        self._received = 0
        self._no = 0

    @property
    def up(self) -> bool:
        """Whether the broker has answered the hello."""
        return self.state is LinkState.UP

    def opened(self, now: float) -> None:
        """A fresh socket is there: say hello on it."""
        self.state = LinkState.GREETING
        self._heard = self._pinged = now
        self._sent = self._received = 0
        hello = batch.Hello(batch.VERSION, self._role, self._name, self._topics(), self._terms())
        self._post([batch.HELLO, batch.encode(hello)])

    def tick(self, now: float) -> None:
        """Ping, and notice silence."""
        if self.state is LinkState.BROKEN:
            return
        if now - self._heard > SILENCE:
            self.state = LinkState.BROKEN
        elif self.up and now - self._pinged >= PING_EVERY:
            self._pinged = now
            self._post([batch.PING, batch.encode(self._sent)])

    def receive(self, frames: list[bytes], now: float) -> None:
        """Handle one message from the broker; one that cannot be read breaks the link."""
        if self.state is LinkState.BROKEN:
            return
        self._heard = now
        try:
            self._dispatch(frames, now)
        except batch.UNREADABLE:
            self.state = LinkState.BROKEN
        self._received += 1

    def _dispatch(self, frames: list[bytes], now: float) -> None:
        kind = frames[0]
        if kind == batch.WELCOME:
            self.state = LinkState.UP
            self.refused = None
            self._handler.linked(now)
        elif kind == batch.AGAIN:
            self.state = LinkState.BROKEN
        elif kind == batch.REFUSED:
            self.refused = frames[1].decode(errors="replace")
            self.state = LinkState.BROKEN
        elif not self.up:
            return
        elif kind == batch.PING:
            if batch.decode_number(frames[1]) != self._received:
                self.state = LinkState.BROKEN
        elif kind == batch.RANGES:
            self._handler.ranges(batch.decode_ranges(frames[1]), now)
        elif kind == batch.REPLIES:
            self._handler.replies(batch.decode_replies(frames[1]), now)
        elif kind == batch.REQUESTS:
            self._handler.requests(frames[1], batch.decode_requests(frames[2]), now)
        elif kind == batch.SIGNALS:
            self._handler.signals(batch.decode_signals(frames[1]), now)
        elif kind == batch.SUBSCRIBED:
            self._handler.subscribed(batch.decode_number(frames[1]), now)

    def subscribe(self, add: Sequence[str], remove: Sequence[str]) -> int:
        """See `Bus.subscribe`. Not sent while the link is down: the next hello names every topic."""
        self._no += 1
        self._when_up([batch.SUBSCRIBE, batch.encode(batch.Subscribe(self._no, list(add), list(remove)))])
        return self._no

    def request(self, requests: Sequence[tuple[int, Request]]) -> bool:
        """See `Bus.request`."""
        slots = bytes([slot for slot, _ in requests])
        return self._when_up([batch.REQUESTS, slots, batch.encode([request for _, request in requests])])

    def reply(self, peer: bytes, replies: Sequence[Reply]) -> bool:
        """See `Bus.reply`."""
        return self._when_up([batch.REPLIES, peer, batch.encode(replies)])

    def publish(self, ranges: Sequence[Range]) -> bool:
        """See `Bus.publish`."""
        return self._when_up([batch.RANGES, batch.encode(ranges)])

    def publish_to(self, peer: bytes, ranges: Sequence[Range]) -> bool:
        """See `Bus.publish_to`."""
        return self._when_up([batch.REPLAYED, peer, batch.encode(ranges)])

    def signal(self, signals: Sequence[Signal]) -> bool:
        """See `Bus.signal`."""
        return self._when_up([batch.SIGNALS, batch.encode(signals)])

    def own(self, terms: dict[int, int]) -> bool:
        """See `Bus.own`. On a broken link not sent: the next hello carries the terms.

        Behind a hello that is not answered yet it is sent: what changed since is not in that hello.
        """
        return self.state is not LinkState.BROKEN and self._post([batch.OWN, batch.encode(terms)])

    def _when_up(self, frames: list[bytes]) -> bool:
        return self.up and self._post(frames)

    def _post(self, frames: list[bytes]) -> bool:
        if self._send(frames):
            self._sent += 1
            return True
        # A message that the socket could not take is a hole in this link; only a new link has none.
        self.state = LinkState.BROKEN
        return False
