"""The identity provider's key set: fetched beside the loop's other work, kept through outages."""

import asyncio
import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from tornado.httpclient import HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from shards.keys import KeyRing, UnusableKey, parse_set

REFRESH_SECONDS = 600.0
REFRESH_BOUNDS = (60.0, 3600.0)
# However many tokens with unknown keys arrive, the provider is asked this often at most.
ASK_AGAIN = 10.0
FETCH_SECONDS = 5.0
SET_BYTES_MAX = 256 * 1024


class KeySet:
    """Keeps a ring's remote keys up to date. Raises `UnusableKey` for an address that is not safe to trust."""

    def __init__(self, url: str, ring: KeyRing, clock: Callable[[], float], log: Any) -> None:
        parts = urlsplit(url)
        if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            raise UnusableKey(f"{url}: keys must come over https; whoever can change them in transit signs for anybody")
        self._url = url
        self._ring = ring
        self._clock = clock
        self._log = log
        self._client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=SET_BYTES_MAX)
        self._wanted = asyncio.Event()
        self._answered: asyncio.Future[None] | None = None
        self._asked = -ASK_AGAIN
        self.fetched: float | None = None  # when the set last came, by the clock
        self.failing = False

    @property
    def age(self) -> float:
        """Seconds since the set last came; since the clock's beginning, if it never did."""
        return self._clock() - (self.fetched or 0.0)

    @property
    def may_help(self) -> bool:
        """Whether a fetch under way or allowed now may bring a key that is not known."""
        return self._answered is not None or self.failing or self._clock() - self._asked >= ASK_AGAIN

    def want(self) -> None:
        """A token named a key that is not known."""
        if self._clock() - self._asked >= ASK_AGAIN:
            if self._answered is None:
                self._answered = asyncio.get_running_loop().create_future()
            self._wanted.set()

    async def arrived(self, seconds: float) -> None:
        """Wait for the fetch under way, if there is one, for *seconds* at most."""
        if self._answered is not None:
            await asyncio.wait([self._answered], timeout=seconds)

    async def run(self) -> None:
        """Fetch now, when wanted, and before the set is old; for ever."""
        self.want()
        while True:
            wait = await self._fetch()
            self._wanted.clear()
            answered, self._answered = self._answered, None
            if answered is not None and not answered.done():
                answered.set_result(None)
            try:
                async with asyncio.timeout(wait):
                    await self._wanted.wait()
            except TimeoutError:
                pass

    async def _fetch(self) -> float:
        """Seconds until the next fetch is due."""
        self._asked = self._clock()
        try:
            response = await self._client.fetch(
                HTTPRequest(self._url, connect_timeout=FETCH_SECONDS, request_timeout=FETCH_SECONDS, max_redirects=2)
            )
            keys = parse_set(response.body)
            if not keys:
                raise ValueError("the key set holds no key that can be used")
        # Whatever went wrong at the other end (HTTP, TLS, DNS, JSON): what is known stays in force.
        # tornado's client raises several unrelated types for it.
        except Exception as exc:
            self.failing = True
            self._log.warning("jwks_away", url=self._url, error=str(exc) or type(exc).__name__)
            return ASK_AGAIN
        self._ring.publish(keys)
        self.fetched = self._clock()
        if self.failing:
            self._log.info("jwks_back", url=self._url)
        self.failing = False
        age = re.search(r"max-age=(\d{1,9})", response.headers.get("Cache-Control", ""))
        least, most = REFRESH_BOUNDS
        return min(most, max(least, float(age[1]))) if age else REFRESH_SECONDS


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
