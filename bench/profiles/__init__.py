"""What the server keeps of its promise under stress, in figures: one module for each profile, one frame for all.

A crowd of reference clients (`hubbub.protocol.client`, the rule itself) talks to a fresh system while something is
done to it. Afterwards three witnesses are compared: what was acknowledged, what each client applied, and the table.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.profiles import database, deploy, jitter, slow, storm
from bench.profiles.outcome import Outcome
from bench.profiles.scene import Scene


@dataclass(frozen=True)
class Profile:
    """What is run, with how many clients, for how long; *settings*: of the server, where not its defaults."""

    run: Callable[[Scene], Coroutine[Any, Any, Outcome]]
    clients: int = 5000
    seconds: float = 60.0
    settings: Mapping[str, str] = field(default_factory=dict)


PROFILES = {
    "jitter": Profile(jitter.run),
    "deploy": Profile(deploy.run),
    "slow": Profile(slow.run, clients=200, seconds=20.0),
    "storm": Profile(storm.run),
    "database-hung": Profile(database.run_hung, settings=database.SMALL),
    "database-down": Profile(database.run_down),
}
