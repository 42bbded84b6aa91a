"""Makes the broker send every shard everything, for the comparison that decision 0006 rests on.

    python -m bench.routing --b 'PYTHONPATH=bench/everything' --shards 2,8

Python imports a module of this name at its start if it is on PYTHONPATH, so the product needs no switch.
"""

import sys

if sys.orig_argv[-2:] == ["-m", "broker"]:
    from broker.router import Outgoing, Router
    from hubbub.bus import batch

    filtered = Router._dispatch

    def everything(self: Router, sender: bytes, frames: list[bytes], now: float) -> list[Outgoing]:
        """Ranges pass as they came, to every shard."""
        if frames[0] != batch.RANGES or sender not in self._peers:
            return filtered(self, sender, frames, now)
        store = self._peers[sender]
        store.heard, store.received = now, store.received + 1
        return [(shard, [batch.RANGES, frames[1]]) for shard in self._shards]

    Router._dispatch = everything  # type: ignore[method-assign]
    print("broker: every shard gets everything", file=sys.stderr)
