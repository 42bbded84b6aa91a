"""How long work tells how far it is."""

import time
from collections.abc import Callable

_EVERY = 5.0  # seconds


class Progress:
    """Says a line every five seconds."""

    def __init__(self, say: Callable[[str], None], verb: str = "read") -> None:
        self._say = say
        self._verb = verb
        self._said = time.monotonic()

    def noted(self, table: str, rows: int, size: int) -> None:
        """*rows* of *table* are done, which are *size* bytes."""
        now = time.monotonic()
        if now - self._said >= _EVERY:
            self._said = now
            self._say(f"{table}: {rows:,} rows {self._verb}, {moved(size)} …")


def moved(size: int) -> str:
    """A number of bytes, for people."""
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"


def at(seconds: float) -> str:
    """A moment (unix seconds), for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
