"""That the torture can fail: each fault of `patches` is put into the real processes, and must be found."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fault.torture.nemesis import Menu
from tests.fault.torture.patches import PATCHES
from tests.fault.torture.run import Outcome, Plan

_STORE: Menu = (("kill", "store", 1),)
_CRASHES: Menu = (("kill", "backend", 3), ("kill", "store", 1))
_LINKS: Menu = (("cut", "bus", 2), ("kill", "broker", 1))
_CLIENTS: Menu = (("cut", "clients", 1),)
_CLOCK: Menu = (("clock", "store", 1),)


@dataclass(frozen=True)
class Planted:
    """What brings a fault to light: strokes of *menu*, one every *every* seconds, for *seconds*; and by which kinds
    of violation it may show."""

    menu: Menu
    kinds: tuple[str, ...]
    every: float = 1.5
    seconds: float = 12.0
    clients: int = 48
    patience: float = 25.0


_LOST = ("lost on the way", "a gap in the stream")
PLANTED: dict[str, Planted] = {
    "acknowledged before the commit": Planted(_STORE, ("acknowledged and lost",)),
    "published before the commit": Planted(_CRASHES, ("shown and not stored", "another order")),
    "a store goes on without its lock": Planted(_CRASHES[:1], ("did not come back",), patience=15.0),
    "a key is forgotten": Planted(_LINKS, ("stored twice", "stored and never said")),
    "published out of order": Planted(_CLIENTS, _LOST),
    "a direct message to a stranger": Planted(_CLIENTS, ("shown to a stranger",)),
    "unread off by one": Planted(_CLIENTS, ("unread miscounted",)),
    "cursors go back": Planted(_CLIENTS, ("a cursor went back",)),
    "lost notices of presence stay lost": Planted(_CLIENTS, ("presence is wrong",)),
    "presence never withdrawn": Planted(_CLIENTS, ("presence is wrong",)),
    "history in the clock's order": Planted(_CLOCK, ("another order",)),
    "refused although stored": Planted(_CLIENTS, ("refused and stored",)),
    "a repeat gets another number": Planted(_CLIENTS, ("acknowledged and lost",)),
    "a hole is passed over": Planted(_LINKS, _LOST),
    "what is held during a sync is dropped": Planted(_CLIENTS, _LOST),
    "positions taken too early": Planted(_CLIENTS, _LOST),
    "delivered when sent": Planted(_CLIENTS, ("delivered ahead",)),
    "topics forgotten by a new link": Planted(_LINKS, _LOST),
    "descriptors leak": Planted(_CLIENTS, ("descriptors leak",)),
    "memory leaks": Planted(_CLIENTS, ("memory without bound",)),
    "a program that starts once only": Planted(_LINKS[1:], ("did not come back",), every=3.0, patience=10.0),
}
assert PLANTED.keys() == PATCHES.keys()

Torture = Callable[[Plan, Path | None, Path], Outcome]


def plan_of(name: str, seed: int) -> Plan:
    """The run that finds it."""
    one = PLANTED[name]
    return Plan(
        seed,
        one.seconds,
        clients=one.clients,
        storm=one.seconds,
        every=one.every,
        patience=one.patience,
        menu=one.menu,
        planted=name,
    )


def found(name: str, outcome: Outcome) -> str:
    """The first violation that the fault explains, or an empty text."""
    return next((str(one) for one in outcome.violations if one.kind in PLANTED[name].kinds), "")


def find_all(wanted: str, seed: int, torture: Torture, logs: Path) -> int:
    """Plant *wanted* (names with commas, ``all`` or ``list``); 1 if one of them was not found."""
    if wanted == "list":
        print("\n".join(PLANTED))
        return 0
    names = list(PLANTED) if wanted == "all" else wanted.split(",")
    if unknown := [name for name in names if name not in PLANTED]:
        print(f"no such fault: {unknown[0]}; `--planted list` names them")
        return 2
    lines = []
    for name in names:
        began = time.monotonic()
        outcome = torture(plan_of(name, seed), None, logs)
        violation = found(name, outcome)
        lines.append(f"{name:<40} {time.monotonic() - began:4.0f} s  {violation[:100] or 'NOT FOUND'}")
        print(lines[-1], flush=True)
        if not violation:
            print(f"    {dict(outcome.strokes)}, other violations: {outcome.violations[:3]}")
    missed = sum("NOT FOUND" in line for line in lines)
    print(f"\nseed {seed}: {len(lines) - missed} of {len(lines)} planted faults were found")
    return 1 if missed else 0
