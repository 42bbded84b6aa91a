"""The newest number that was seen committed in each slot: what no table may be behind.

All stores of a machine share one small file, mapped into memory, so that it outlives each of them: a store that is
started after the database went back, or that only waited until then, must know it as well as the one that wrote.
"""

import mmap
import os
import struct
from pathlib import Path

from hubbub.protocol.conversation import SLOTS

_CELL = struct.Struct("=QQ")  # epoch, n
_N = struct.Struct("=Q")
_SIZE = SLOTS * _CELL.size


class HighWater:
    """One n for each slot and the epoch that it belongs to; of another epoch nothing is known.

    *path*: None keeps it in this process alone. A power failure may take the last half minute of it. Raises OSError.
    """

    def __init__(self, path: Path | None) -> None:
        if path is None:
            self._cells = mmap.mmap(-1, _SIZE)
            return
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(descriptor).st_size < _SIZE:
                os.truncate(descriptor, _SIZE)
            self._cells = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)

    def seen(self, epoch: int, slot: int) -> int:
        """The newest n of *slot* in *epoch*; 0 where nothing is known."""
        of, n = _CELL.unpack_from(self._cells, slot * _CELL.size)
        return int(n) if of == epoch else 0

    def note(self, epoch: int, slot: int, n: int) -> None:
        """*n* is committed. Only the slot's owner says so."""
        at = slot * _CELL.size
        of, before = _CELL.unpack_from(self._cells, at)
        if of != epoch:
            # Cut off between these two, it says less than it could, and never what is wrong.
            _CELL.pack_into(self._cells, at, epoch, 0)
        elif n <= before:
            return
        _N.pack_into(self._cells, at + _N.size, n)
