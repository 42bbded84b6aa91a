"""What happens inside the processes of a tortured system before they start; see ``site/sitecustomize.py``.

``TORTURE`` in the environment holds an `Inside` as JSON.
"""

import os
import time
from pathlib import Path

import msgspec


class Inside(msgspec.Struct):
    """What a process is to do differently.

    The broker listens at *broker_url*, while the others meet the proxy at the bus's address; the store looks for
    PostgreSQL at *database_url*, the proxy's. *clock* is a file with the seconds by which the store's clock is off.
    *planted* names a fault of `patches.PATCHES`, or none.
    """

    broker_url: str = ""
    database_url: str = ""
    clock: str = ""
    planted: str = ""

    def text(self) -> str:
        """For the environment."""
        return msgspec.json.encode(self).decode()


def prepare(program: str) -> None:
    """Before *program* (``store``, ``broker``, ``shards``) reads its settings."""
    given = msgspec.json.decode(os.environ["TORTURE"], type=Inside)
    if program == "broker" and given.broker_url:
        os.environ["HUBBUB_BUS_URL"] = given.broker_url
    if program == "store":
        if given.database_url:
            os.environ["HUBBUB_DATABASE_URL"] = given.database_url
        if given.clock:
            _step_clock(Path(given.clock))
    if given.planted:
        from tests.fault.torture.patches import PATCHES

        PATCHES[given.planted](program)


def _step_clock(offset: Path) -> None:
    true_time = time.time

    def stepped() -> float:
        try:
            return true_time() + float(offset.read_text())
        except (OSError, ValueError):
            return true_time()  # it is just being written

    time.time = stepped
