"""The targets by name. Each is imported when it is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.live import beside
from tests.fuzz.target import Target
from tests.integration.system import System, running

# Those that need nothing but this process: module and class.
PURE = {
    "frames": "Frames",
    "commands": "Commands",
    "tokens": "Tokens",
    "bus": "BusMessages",
    "text": "Texts",
}
# Those that talk to a running system.
LIVE = {"http": "Requests", "socket": "Streams"}


def pure(name: str) -> Target:
    """A fresh target of this process."""
    target: Target = getattr(import_module(f"{__name__}.{name}"), PURE[name])()
    return target


def live(name: str, system: System) -> Target:
    """A fresh target that talks to *system*."""
    target: Target = getattr(import_module(f"{__name__}.{name}"), LIVE[name])(system)
    return target


@contextmanager
def opened(name: str) -> Iterator[Target]:
    """A target, and whatever it needs for as long as that."""
    if name in PURE:
        yield pure(name)
        return
    with TemporaryDirectory(prefix="hubbub-fuzz-") as home, running(Path(home)) as system, beside(system):
        yield live(name, system)
