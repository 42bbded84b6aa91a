"""Argon2id in a bounded pool of threads: the event loop never hashes, and a crowd never fills the memory."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2.exceptions import InvalidHashError, VerificationError

from hubbub.passwords import hasher
from hubbub.protocol.refusals import ErrorCode, Refusal

THREADS = 2
# Past that a second would not do for the last in the queue.
WAITING_MAX = 32

T = TypeVar("T")


class Passwords:
    """Hashes and verifies, a bounded number at a time."""

    def __init__(self) -> None:
        self._hasher = hasher()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
        self._waiting = 0
        # Somebody who does not exist costs as much time as somebody with another password.
        self._nobody = self._hasher.hash("nobody's password")

    async def hash(self, password: str) -> str:
        """The hash to keep. Raises `Refusal` when too many wait."""
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, stored: str, password: str) -> bool:
        """Whether *password* is the one of the hash *stored*; empty: of nobody. Raises `Refusal`."""

        def check() -> bool:
            try:
                return self._hasher.verify(stored or self._nobody, password) and bool(stored)
            except (VerificationError, InvalidHashError):
                return False

        return await self._run(check)

    def outdated(self, stored: str) -> bool:
        """Whether *stored* was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= WAITING_MAX:
            raise Refusal(ErrorCode.OVERLOADED, "too many people sign in at once; try again", retry_after_ms=2000)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1
