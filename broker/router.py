"""What the broker knows, and where each message goes. Pure: bytes in, bytes out.

The broker may forget everything at any moment: peers greet its successor, name their topics and slots
anew, and recover what was lost from the slots' owners.
"""

from collections.abc import Iterable

import msgspec

from hubbub.bus import batch
from hubbub.protocol.conversation import SLOTS
from hubbub.protocol.internal import Entry, Range

# A peer that says nothing for so long (it pings four times a second) is stopped or gone.
PATIENCE = 3.0

Outgoing = tuple[bytes, list[bytes]]


class _Peer:
    __slots__ = ("heard", "id", "name", "received", "role", "sent", "terms", "topics")

    def __init__(self, peer: bytes, hello: batch.Hello, now: float) -> None:
        self.id = peer
        self.role = hello.role
        self.name = hello.name
        self.topics: set[str] = set()
        self.terms: dict[int, int] = {}
        self.heard = now
        self.received = 1  # messages on this link, the hello included
        self.sent = 0


class Router:
    """Peers, topics and slot owners; `receive` turns one message into those to be sent.

    A peer that could not be given a message must be reported to `forget`: from then on it gets nothing
    but "say hello again", so that a hole in what it received can never pass for the whole.
    """

    def __init__(self) -> None:
        self._peers: dict[bytes, _Peer] = {}
        self._shards: dict[bytes, _Peer] = {}
        self._listeners: dict[str, set[bytes]] = {}
        self._owners: dict[int, tuple[int, bytes]] = {}  # slot -> (term, peer)
        self.unroutable = 0
        self.malformed = 0

    def peers(self) -> list[tuple[str, str]]:
        """The ``(role, name)`` of everybody connected."""
        return [(peer.role, peer.name) for peer in self._peers.values()]

    def counts(self) -> tuple[int, int, int]:
        """How many peers, topics and owned slots."""
        return len(self._peers), len(self._listeners), len(self._owners)

    def receive(self, peer: bytes, frames: list[bytes], now: float) -> list[Outgoing]:
        """One message from *peer*; unreadable ones cost their sender its link, nobody else anything."""
        try:
            outgoing = self._dispatch(peer, frames, now)
        except batch.UNREADABLE:
            self.malformed += 1
            self.forget(peer)
            return [(peer, [batch.AGAIN])]
        for target, _ in outgoing:
            known = self._peers.get(target)
            if known is not None:
                known.sent += 1
        return outgoing

    def forget(self, peer: bytes) -> None:
        """Drop everything known of *peer*."""
        known = self._peers.pop(peer, None)
        if known is None:
            return
        self._shards.pop(peer, None)
        self._unlisten(peer, known.topics)
        for slot in known.terms:
            self._release(slot, peer)

    def expire(self, now: float) -> list[str]:
        """Forget the silent; returns their names."""
        silent = [peer for peer in self._peers.values() if now - peer.heard > PATIENCE]
        for peer in silent:
            self.forget(peer.id)
        return [peer.name for peer in silent]

    def resumed(self, pause: float) -> None:
        """The broker itself was stopped for *pause* seconds: nobody's silence counts."""
        for peer in self._peers.values():
            peer.heard += pause

    def _dispatch(self, sender: bytes, frames: list[bytes], now: float) -> list[Outgoing]:
        kind = frames[0]
        if kind == batch.HELLO:
            return self._hello(sender, batch.decode_hello(frames[1]), now)
        peer = self._peers.get(sender)
        if peer is None:
            return [(sender, [batch.AGAIN])]
        peer.heard = now
        peer.received += 1
        if kind == batch.RANGES:
            return self._ranges(batch.decode_ranges(frames[1]), self._shards.values())
        if kind == batch.REQUESTS:
            return self._requests(sender, frames[1], frames[2])
        if kind == batch.REPLIES:
            return [(frames[1], [batch.REPLIES, frames[2]])] if frames[1] in self._peers else []
        if kind == batch.PING:
            if batch.decode_number(frames[1]) != peer.received - 1:
                # The transport broke and came back, and took with it what it carried: a link with a hole.
                self.forget(sender)
                return [(sender, [batch.AGAIN])]
            return [(sender, [batch.PING, batch.encode(peer.sent)])]
        if kind == batch.SIGNALS:
            return self._signals(frames[1])
        if kind == batch.SUBSCRIBE:
            change = batch.decode_subscribe(frames[1])
            self._unlisten(sender, change.remove)
            self._listen(peer, change.add)
            return [(sender, [batch.SUBSCRIBED, batch.encode(change.no)])]
        if kind == batch.REPLAYED:
            asker = self._peers.get(frames[1])
            return [] if asker is None else self._ranges(batch.decode_ranges(frames[2]), [asker])
        if kind == batch.OWN:
            self._own(peer, batch.decode_terms(frames[1]))
            return []
        self.malformed += 1
        return []

    def _hello(self, sender: bytes, hello: batch.Hello, now: float) -> list[Outgoing]:
        self.forget(sender)
        if hello.version != batch.VERSION:
            text = f"the broker speaks version {batch.VERSION} of the exchange, you speak {hello.version}"
            return [(sender, [batch.REFUSED, text.encode()])]
        peer = _Peer(sender, hello, now)
        self._peers[sender] = peer
        if hello.role == batch.SHARD:
            self._shards[sender] = peer
        self._listen(peer, hello.topics)
        self._own(peer, hello.terms)
        return [(sender, [batch.WELCOME])]

    def _listen(self, peer: _Peer, topics: Iterable[str]) -> None:
        for topic in topics:
            peer.topics.add(topic)
            self._listeners.setdefault(topic, set()).add(peer.id)

    def _unlisten(self, peer: bytes, topics: Iterable[str]) -> None:
        known = self._peers.get(peer)
        for topic in list(topics):
            if known is not None:
                known.topics.discard(topic)
            listeners = self._listeners.get(topic)
            if listeners is not None:
                listeners.discard(peer)
                if not listeners:
                    del self._listeners[topic]

    def _own(self, peer: _Peer, terms: dict[int, int]) -> None:
        before = peer.terms
        peer.terms = {slot: term for slot, term in terms.items() if 0 <= slot < SLOTS}
        for slot in before.keys() - terms.keys():
            self._release(slot, peer.id)
        for slot, term in peer.terms.items():
            self._claim(slot, term, peer.id)

    def _claim(self, slot: int, term: int, peer: bytes) -> None:
        if term >= self._owners.get(slot, (0, b""))[0]:
            self._owners[slot] = (term, peer)

    def _release(self, slot: int, peer: bytes) -> None:
        if self._owners.get(slot, (0, b""))[1] != peer:
            return
        del self._owners[slot]
        # It may have been an old link of a store that is here again by a newer one: between links there is
        # no order, and the older hello may have come last.
        for other in self._peers.values():
            if slot in other.terms:
                self._claim(slot, other.terms[slot], other.id)

    def _requests(self, sender: bytes, slots: bytes, body: bytes) -> list[Outgoing]:
        owners = self._owners
        targets = {owners[slot][1] if slot in owners else None for slot in set(slots)}
        if len(targets) == 1:
            # The usual case, one store for all of them: the body passes as it came.
            target = targets.pop()
            if target is None:
                self.unroutable += len(slots)
                return []
            return [(target, [batch.REQUESTS, sender, body])]
        groups: dict[bytes, list[msgspec.Raw]] = {}
        for slot, request in zip(slots, batch.decode_raw_list(body), strict=False):
            if slot in owners:
                groups.setdefault(owners[slot][1], []).append(request)
            else:
                self.unroutable += 1
        return [(target, [batch.REQUESTS, sender, batch.encode(group)]) for target, group in groups.items()]

    def _ranges(self, ranges: list[Range], shards: Iterable[_Peer]) -> list[Outgoing]:
        chosen: dict[bytes, list[Range]] = {shard.id: [] for shard in shards}
        listeners = self._listeners
        for part in ranges:
            matching: dict[bytes, list[Entry]] = {}
            for entry in part.entries:
                seen: set[bytes] = set()
                for topic in entry.topics:
                    seen |= listeners.get(topic, seen)
                for shard in seen:
                    matching.setdefault(shard, []).append(entry)
            for shard, parts in chosen.items():
                parts.append(Range(part.slot, part.term, part.after, part.to, matching.get(shard, [])))
        return [(shard, [batch.RANGES, batch.encode(parts)]) for shard, parts in chosen.items()]

    def _signals(self, body: bytes) -> list[Outgoing]:
        chosen: dict[bytes, list[msgspec.Raw]] = {}
        for raw, signal in zip(batch.decode_raw_list(body), batch.decode_signals(body), strict=True):
            for listener in self._listeners.get(signal.topic, ()):
                chosen.setdefault(listener, []).append(raw)
        return [(listener, [batch.SIGNALS, batch.encode(signals)]) for listener, signals in chosen.items()]
