"""Any messages from any peers: the router never fails, never forwards to a stranger, and forgets whole."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker.router import PATIENCE, Router
from hubbub.bus import batch
from hubbub.protocol.internal import Done, Entry, Range, Replay, Signal

PEERS = st.sampled_from([b"a", b"b", b"c", b"x", b"y"])
TOPICS = st.lists(st.sampled_from(["lobby", "user.al", "user.bob"]), max_size=3)
SLOTS = st.integers(0, 5)
TERMS = st.dictionaries(SLOTS, st.integers(1, 4), max_size=3)


class Routing(RuleBasedStateMachine):
    """Against a model: a dict of peers, each with its role, topics and terms."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Router()
        self.now = 0.0
        self.model: dict[bytes, tuple[str, set[str], dict[int, int]]] = {}
        self.heard: dict[bytes, float] = {}

    def say(self, peer: bytes, *frames: bytes) -> list[tuple[bytes, list[bytes]]]:
        if peer in self.model:
            self.heard[peer] = self.now
        out = self.router.receive(peer, list(frames), self.now)
        if peer not in self.model and frames[0] != batch.HELLO:
            assert out == [(peer, [batch.AGAIN])]
            return []
        return out

    @rule(peer=PEERS, role=st.sampled_from([batch.SHARD, batch.STORE]), topics=TOPICS, terms=TERMS)
    def hello(self, peer: bytes, role: str, topics: list[str], terms: dict[int, int]) -> None:
        hello = batch.Hello(batch.VERSION, role, peer.decode(), topics, terms)
        assert self.say(peer, batch.HELLO, batch.encode(hello)) == [(peer, [batch.WELCOME])]
        self.model[peer] = (role, set(topics), terms)
        self.heard[peer] = self.now

    @rule(peer=PEERS)
    def hello_of_another_version(self, peer: bytes) -> None:
        hello = batch.Hello(batch.VERSION + 1, batch.SHARD, "x", ["lobby"], {})
        out = self.say(peer, batch.HELLO, batch.encode(hello))
        assert [frames[0] for _, frames in out] == [batch.REFUSED]
        self.model.pop(peer, None)

    @rule(peer=PEERS, add=TOPICS, remove=TOPICS)
    def subscribe(self, peer: bytes, add: list[str], remove: list[str]) -> None:
        out = self.say(peer, batch.SUBSCRIBE, batch.encode(batch.Subscribe(7, add, remove)))
        if peer in self.model:
            assert out == [(peer, [batch.SUBSCRIBED, batch.encode(7)])]
            topics = self.model[peer][1]
            topics -= set(remove)
            topics |= set(add)

    @rule(peer=PEERS, terms=TERMS)
    def own(self, peer: bytes, terms: dict[int, int]) -> None:
        assert self.say(peer, batch.OWN, batch.encode(terms)) == []
        if peer in self.model:
            role, topics, _ = self.model[peer]
            self.model[peer] = (role, topics, terms)

    @rule(peer=PEERS, entries=st.lists(TOPICS, max_size=4), after=st.integers(0, 99))
    def ranges(self, peer: bytes, entries: list[list[str]], after: int) -> None:
        part = Range(3, 1, after, after + len(entries), [Entry(topics, b"%d" % i) for i, topics in enumerate(entries)])
        out = self.say(peer, batch.RANGES, batch.encode([part]))
        if peer not in self.model:
            return
        got = {target: batch.decode_ranges(frames[1]) for target, frames in out}
        assert got == {
            target: [Range(3, 1, part.after, part.to, [one for one in part.entries if topics & set(one.topics)])]
            for target, (role, topics, _) in self.model.items()
            if role == batch.SHARD
        }

    @rule(peer=PEERS, slots=st.lists(SLOTS, max_size=5))
    def requests(self, peer: bytes, slots: list[int]) -> None:
        lost = self.router.unroutable
        out = self.say(peer, batch.REQUESTS, bytes(slots), batch.encode([Replay(slot, 0) for slot in slots]))
        if peer not in self.model:
            return
        reached = []
        for target, frames in out:
            assert frames[:2] == [batch.REQUESTS, peer]
            for request in batch.decode_requests(frames[2]):
                assert type(request) is Replay
                reached.append(request.slot)
                claims = {
                    who: terms[request.slot] for who, (_, _, terms) in self.model.items() if request.slot in terms
                }
                assert claims[target] == max(claims.values()), "the highest term of those that are here"
        owned = [slot for slot in slots if any(slot in terms for _, _, terms in self.model.values())]
        assert sorted(reached) == sorted(owned)
        assert self.router.unroutable - lost == len(slots) - len(owned)

    @rule(peer=PEERS, asker=PEERS)
    def replies(self, peer: bytes, asker: bytes) -> None:
        body = batch.encode([Done(1)])
        out = self.say(peer, batch.REPLIES, asker, body)
        if peer in self.model:
            assert out == ([(asker, [batch.REPLIES, body])] if asker in self.model else [])

    @rule(peer=PEERS, topic=st.sampled_from(["lobby", "user.al", "user.eve"]))
    def signals(self, peer: bytes, topic: str) -> None:
        out = self.say(peer, batch.SIGNALS, batch.encode([Signal(topic, b"x")]))
        if peer in self.model:
            listeners = {target for target, (_, topics, _) in self.model.items() if topic in topics}
            assert {target for target, _ in out} == listeners
            assert all(batch.decode_signals(frames[1]) == [Signal(topic, b"x")] for _, frames in out)

    @rule(peer=PEERS, wrong=st.integers(-1, 1))
    def ping(self, peer: bytes, wrong: int) -> None:
        known = self.router._peers.get(peer)
        count = known.received + wrong if known is not None else 1
        out = self.say(peer, batch.PING, batch.encode(count))
        if peer in self.model:
            assert [frames[0] for _, frames in out] == [batch.AGAIN if wrong else batch.PING]
            if wrong:
                del self.model[peer]

    @rule(peer=PEERS)
    def forget(self, peer: bytes) -> None:
        self.router.forget(peer)
        self.model.pop(peer, None)

    @rule(seconds=st.sampled_from([0.5, PATIENCE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        silent = [peer for peer in self.model if self.now - self.heard[peer] > PATIENCE]
        assert sorted(self.router.expire(self.now)) == sorted(peer.decode() for peer in silent)
        for peer in silent:
            del self.model[peer]

    @rule(peer=PEERS, frames=st.lists(st.binary(max_size=12), max_size=3))
    def garbage(self, peer: bytes, frames: list[bytes]) -> None:
        kinds = batch.HELLO, batch.PING, batch.OWN, batch.SUBSCRIBE
        if frames and frames[0] in kinds:
            return  # by chance no garbage: the model would have to read it
        malformed = self.router.malformed
        out = self.router.receive(peer, frames, self.now)
        if peer in self.model:
            self.heard[peer] = self.now
        if out == [(peer, [batch.AGAIN])] and self.router.malformed > malformed:
            self.model.pop(peer, None)

    @invariant()
    def it_holds_what_it_should(self) -> None:
        assert sorted(self.router.peers()) == sorted((role, peer.decode()) for peer, (role, _, _) in self.model.items())
        topics = {topic for _, topics, _ in self.model.values() for topic in topics}
        slots = {slot for _, _, terms in self.model.values() for slot in terms}
        assert self.router.counts() == (len(self.model), len(topics), len(slots))


TestRouting = Routing.TestCase
TestRouting.settings = settings(stateful_step_count=40)

KINDS = [value for value in vars(batch).values() if isinstance(value, bytes) and len(value) == 1]
LEAVES = st.none() | st.booleans() | st.integers(-5, 70) | st.text(max_size=3) | st.binary(max_size=3)
LISTS = st.lists(LEAVES, max_size=6) | st.dictionaries(st.text(max_size=2) | st.integers(0, 9), LEAVES, max_size=2)
# Lists in lists in lists, as batches are: ranges with entries.
PACKED = st.lists(LEAVES | LISTS | st.lists(LEAVES | LISTS, max_size=5), max_size=5).map(msgspec.msgpack.encode)


@given(
    st.lists(
        st.tuples(PEERS, st.sampled_from(KINDS), st.lists(PACKED | st.binary(max_size=9), max_size=3)), max_size=20
    )
)
def test_any_messages(messages):
    router = Router()
    known = batch.Hello(batch.VERSION, batch.SHARD, "a", ["lobby"], {1: 1})
    router.receive(b"a", [batch.HELLO, batch.encode(known)], 0.0)
    for peer, kind, frames in messages:
        before = set(router._peers)
        for target, _ in router.receive(peer, [kind, *frames], 0.0):
            assert target == peer or target in before
    for peer in list(router._peers):
        router.forget(peer)
    assert router.counts() == (0, 0, 0)
    assert (router._shards, router._listeners, router._owners) == ({}, {}, {})
