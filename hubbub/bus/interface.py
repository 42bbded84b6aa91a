"""What the exchange between processes promises, whatever engine carries it.

**Nothing is promised to arrive.** An engine may lose anything, anywhere, at any time, and may restart.
What it must keep:

* *Order on a link.* What one peer sent to another over one link arrives in the order sent, without
  repetition, and without a hole that the receiver cannot see: a peer that could not be given something
  is cut off, and finds that out (`Handler.linked` is called again after it said hello anew).
* *Ranges say what they cover.* An engine may leave out events of a `Range` that match none of a shard's
  topics; ``after`` and ``to`` stay the publisher's.
* *Subscriptions take effect in the stream.* When `Handler.subscribed` (or `Handler.linked`) is called,
  every range that comes later was filtered with the topics named before.
* *Old links deliver nothing new.* What was queued for a link that broke never reaches its successor.
* *Nobody waits.* No call blocks; one that finds its queue full drops, and says so by returning False.

Everything else (loss, recovery, repetition) is settled end to end by `hubbub.bus.log` and by the request
table of the shards.
"""

from collections.abc import Sequence
from typing import Protocol

from hubbub.protocol.internal import Range, Reply, Request, Signal


class Bus(Protocol):
    """What a shard or a store may do."""

    @property
    def up(self) -> bool:
        """Whether the engine has answered the last hello."""

    def subscribe(self, add: Sequence[str], remove: Sequence[str]) -> int:
        """Change the topics this peer hears; the number comes back in `Handler.subscribed`."""

    def request(self, requests: Sequence[tuple[int, Request]]) -> bool:
        """Pass ``(slot, request)`` pairs on to the slots' owners; without an owner they are lost."""

    def reply(self, peer: bytes, replies: Sequence[Reply]) -> bool:
        """Answer the peer that `Handler.requests` named."""

    def publish(self, ranges: Sequence[Range]) -> bool:
        """Parts of slot logs, for every shard, in the order of their numbers."""

    def publish_to(self, peer: bytes, ranges: Sequence[Range]) -> bool:
        """The same for one peer: a replay."""

    def signal(self, signals: Sequence[Signal]) -> bool:
        """Unnumbered news for the listeners of their topics."""

    def own(self, terms: dict[int, int]) -> bool:
        """Declare the slots this store owns, each with its term; replaces the declaration before."""


class Handler(Protocol):
    """What a shard or a store is told. Called on the event loop, one at a time, in link order."""

    def linked(self, now: float) -> None:
        """The engine knows this peer (again): all its topics and slots are in force."""

    def subscribed(self, no: int, now: float) -> None:
        """The change of topics with this number is in force."""

    def ranges(self, ranges: list[Range], now: float) -> None:
        """Parts of slot logs, live or replayed."""

    def requests(self, peer: bytes, requests: list[Request], now: float) -> None:
        """Requests for slots that this store declared."""

    def replies(self, replies: list[Reply], now: float) -> None:
        """Answers to this shard's requests."""

    def signals(self, signals: list[Signal], now: float) -> None:
        """Unnumbered news."""
