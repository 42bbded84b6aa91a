"""HTTP connections, which become WebSockets or do not: bounded in number and in time. Pure.

Who connects costs a file descriptor before anything is known of them. So nobody is turned away at the door: when it
is full, whoever has been slow for longest makes room, of the address that has most. A flood of idle or slow
connections only ever displaces itself.
"""

from collections.abc import Hashable
from enum import Enum

from hubbub.protocol.limits import Limits

# Seconds from connecting until the first request's headers are here …
ARRIVING_SECONDS = 10.0
# … from a request's headers to the last byte of its answer: a page's largest file over a very slow line …
ANSWERING_SECONDS = 120.0
# … and from there to the next request's headers: more than a proxy keeps idle connections.
IDLE_SECONDS = 75.0
# File descriptors that a shard needs for itself, with room for what libraries open.
_OWN_FILES = 64


class State(Enum):
    """What a connection is doing, and for how many seconds it may."""

    ARRIVING = ARRIVING_SECONDS
    ANSWERING = ANSWERING_SECONDS
    IDLE = IDLE_SECONDS


class _Caller:
    __slots__ = ("address", "since", "state")

    def __init__(self, address: str, now: float) -> None:
        self.address = address
        self.state = State.ARRIVING
        self.since = now


class Entrance:
    """At most *most* connections; what is returned is to be closed and `left` follows. Keys are the adapter's."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._callers: dict[Hashable, _Caller] = {}
        self._by_address: dict[str, dict[Hashable, None]] = {}
        self.displaced = 0
        self.expired = 0

    def __len__(self) -> int:
        return len(self._callers)

    def came(self, key: Hashable, address: str, now: float) -> Hashable | None:
        """Somebody connected; who makes room, if somebody has to."""
        room = self._slowest() if len(self._callers) >= self._most else None
        if room is not None:
            self.left(room)
            self.displaced += 1
        self._callers[key] = _Caller(address, now)
        self._by_address.setdefault(address, {})[key] = None
        return room

    def asked(self, key: Hashable, now: float) -> None:
        """A request's headers are here."""
        self._turn(key, State.ANSWERING, now)

    def answered(self, key: Hashable, now: float) -> None:
        """The answer is written to its last byte."""
        self._turn(key, State.IDLE, now)

    def left(self, key: Hashable) -> None:
        """The connection is closed or has become a WebSocket. Again is no error."""
        caller = self._callers.pop(key, None)
        if caller is not None:
            neighbours = self._by_address[caller.address]
            del neighbours[key]
            if not neighbours:
                del self._by_address[caller.address]

    def tick(self, now: float) -> list[Hashable]:
        """Once a second: who took too long."""
        late = [key for key, caller in self._callers.items() if now - caller.since >= caller.state.value]
        self.expired += len(late)
        for key in late:
            self.left(key)
        return late

    def _turn(self, key: Hashable, state: State, now: float) -> None:
        caller = self._callers.get(key)
        if caller is not None:
            caller.state, caller.since = state, now

    def _slowest(self) -> Hashable:
        crowd = max(self._by_address.values(), key=len)
        callers = self._callers
        return min(crowd, key=lambda key: (callers[key].state is State.ANSWERING, callers[key].since))


def share(files: int, limits: Limits) -> tuple[int, int]:
    """How many HTTP connections and how many sessions *files* descriptors are enough for, within *limits*.

    At the system's own bound nothing could be accepted any more, and the loop would be told so without end.
    """
    files = max(files - _OWN_FILES, 2)
    callers = min(limits.http_connections, files // 4 or 1)
    return callers, min(limits.sessions, files - callers)
