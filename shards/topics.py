"""Which topics this shard hears, and for whom.

A topic is *in force* once the exchange has answered the subscription that named it last: from then on
every range was filtered with it. Only then may a session rely on hearing it.
"""

from collections.abc import Callable, Iterable

from hubbub.bus.interface import Bus
from shards.session import Session


class Topics:
    """Reference counts, subscriptions under way, and the index topic -> sessions.

    `index` maps to dicts used as ordered sets, so that delivery order (and a simulated history) does
    not depend on hashes.
    """

    def __init__(self) -> None:
        self.index: dict[str, dict[Session, None]] = {}
        self._wanted: dict[str, int] = {}
        self._told: set[str] = set()
        self._changed: dict[str, None] = {}
        self._awaited: dict[str, int] = {}
        self._waiting: dict[int, list[Callable[[float], None]]] = {}
        self._next: list[tuple[tuple[str, ...], Callable[[float], None]]] = []

    def wanted(self) -> list[str]:
        """Every topic somebody needs."""
        return list(self._wanted)

    def want(self, topics: tuple[str, ...], then: Callable[[float], None], now: float) -> None:
        """Need *topics*; call *then* once all of them are in force (at once if they are)."""
        fresh = False
        for topic in topics:
            count = self._wanted.get(topic, 0)
            self._wanted[topic] = count + 1
            if topic not in self._told or topic in self._changed:
                self._changed[topic] = None
                fresh = True
        if fresh:
            self._next.append((topics, then))
        else:
            self._after(topics, then, now)

    def release(self, topics: Iterable[str]) -> None:
        """No longer need *topics*."""
        for topic in topics:
            count = self._wanted[topic] - 1
            if count:
                self._wanted[topic] = count
            else:
                del self._wanted[topic]
                self._changed[topic] = None

    def attach(self, session: Session, topics: Iterable[str]) -> None:
        """*session* hears *topics* from now on."""
        for topic in topics:
            self.index.setdefault(topic, {})[session] = None

    def detach(self, session: Session, topics: Iterable[str]) -> None:
        """*session* hears *topics* no more."""
        for topic in topics:
            listeners = self.index.get(topic)
            if listeners is not None:
                listeners.pop(session, None)
                if not listeners:
                    del self.index[topic]

    def flush(self, bus: Bus, now: float) -> None:
        """Tell the exchange what has changed since the last call; while the link is down, later."""
        if not bus.up:
            return
        changed, self._changed = self._changed, {}
        add = [topic for topic in changed if topic in self._wanted and topic not in self._told]
        remove = [topic for topic in changed if topic not in self._wanted and topic in self._told]
        if add or remove:
            no = bus.subscribe(add, remove)
            self._told.update(add)
            self._told.difference_update(remove)
            for topic in add:
                self._awaited[topic] = no
            for topic in remove:
                self._awaited.pop(topic, None)
        waiting, self._next = self._next, []
        for topics, then in waiting:
            self._after(topics, then, now)

    def subscribed(self, no: int, now: float) -> bool:
        """Subscription *no* is in force; returns whether topics were added by it."""
        arrived = [topic for topic, awaited in self._awaited.items() if awaited <= no]
        for topic in arrived:
            del self._awaited[topic]
        for ready in [waiting for waiting in self._waiting if waiting <= no]:
            for then in self._waiting.pop(ready):
                then(now)
        return bool(arrived)

    def linked(self, now: float) -> None:
        """A new link knows all that was `wanted` when it said hello; changes since are yet to be told."""
        self._awaited.clear()
        waiting, self._waiting = self._waiting, {}
        for callbacks in waiting.values():
            for then in callbacks:
                then(now)

    def greeted(self) -> list[str]:
        """The topics for a hello: all that is wanted, which the exchange then counts as told."""
        self._told = set(self._wanted)
        self._changed.clear()
        return list(self._wanted)

    def _after(self, topics: tuple[str, ...], then: Callable[[float], None], now: float) -> None:
        last = max((self._awaited.get(topic, 0) for topic in topics), default=0)
        if last:
            self._waiting.setdefault(last, []).append(then)
        else:
            then(now)
