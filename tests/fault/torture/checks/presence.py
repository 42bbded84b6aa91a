"""Who is said to be here, against who is."""

from collections.abc import Iterator

from hubbub.protocol.limits import LEASE_SECONDS, PRESENCE_GRACE, PRESENCE_REFRESH
from tests.fault.torture.record import History, Violation

# A lease runs out, then the grace; a lost notice is made good after two questions; notices to the lobby are aggregated
# over a second. A busy machine adds its part.
STATED = LEASE_SECONDS + PRESENCE_GRACE + 2 * PRESENCE_REFRESH + 1.0
SETTLED_AFTER = STATED + 5.0


def presence_settles(history: History) -> Iterator[Violation]:
    """Once all is well and nobody comes or goes for `SETTLED_AFTER` seconds, every witness tells the truth."""
    for roll in history.rolls:
        if roll.at - roll.since >= SETTLED_AFTER and roll.said != roll.truth:
            parts = []
            if ghosts := sorted(roll.said - roll.truth):
                parts.append(f"online who are not: {ghosts[:6]}")
            if missed := sorted(roll.truth - roll.said):
                parts.append(f"offline who are not: {missed[:6]}")
            text = f"{roll.witness} says after {roll.at - roll.since:.1f} s: {'; '.join(parts)}"
            user = (ghosts or missed)[0]
            yield Violation("presence is wrong", text, user=user, at=roll.at)


CHECKS = (presence_settles,)
