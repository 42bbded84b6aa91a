"""Who says most: counts of the last minutes, in bounded memory.

Misra and Gries' summary (1982): whoever said more than one in `SIZE` of all is in it, and no count is too high.
"""

SIZE = 200


class Talkers:
    """Counts by username. `fade` is called once a minute, so that old counts weigh less."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def count(self, username: str) -> None:
        """One message of *username*."""
        counts = self.counts
        if username in counts or len(counts) < SIZE:
            counts[username] = counts.get(username, 0) + 1
        else:
            self.counts = {name: left - 1 for name, left in counts.items() if left > 1}

    def fade(self) -> None:
        """Halve all counts."""
        self.counts = {name: count // 2 for name, count in self.counts.items() if count > 1}
