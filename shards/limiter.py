"""Token buckets by name, for what has no session: as many as are in use, and never more than a bound."""

from collections import OrderedDict

BUCKETS_MAX = 50_000


class Buckets:
    """*burst* tokens for each name at first, and *rate* a second more; a rate of 0 is no limit.

    A name that was not seen for long has a full bucket again, so the one unused for longest is forgotten first.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, name: str, now: float) -> float:
        """Seconds until *name* has a token; 0: there is one now."""
        if not self._rate:
            return 0.0
        tokens = self._tokens(name, now)
        return 0.0 if tokens >= 1.0 else (1.0 - tokens) / self._rate

    def take(self, name: str, now: float) -> float:
        """Take a token if there is one; else the seconds until there is."""
        wait = self.wait(name, now)
        if not wait and self._rate:
            self._buckets[name] = (self._tokens(name, now) - 1.0, now)
            self._buckets.move_to_end(name)
            if len(self._buckets) > BUCKETS_MAX:
                self._buckets.popitem(last=False)
        return wait

    def forgive(self, name: str) -> None:
        """A full bucket again."""
        self._buckets.pop(name, None)

    def _tokens(self, name: str, now: float) -> float:
        tokens, at = self._buckets.get(name, (self._burst, now))
        return min(self._burst, tokens + (now - at) * self._rate)
