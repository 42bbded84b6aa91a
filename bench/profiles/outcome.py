"""What a profile saw, what it must not exceed, and how both are shown."""

import math
from collections.abc import Sequence

import msgspec

from bench.profiles.crowd import Crowd


class Outcome(msgspec.Struct, kw_only=True):
    """`problems`: of the promise, empty when it was kept. `bounds`: the most that a figure may be."""

    profile: str
    clients: int
    figures: dict[str, float]
    bounds: dict[str, float] = {}
    problems: dict[str, int] = {}
    examples: list[str] = []
    series: dict[str, list[int]] = {}
    use: dict[str, float] = {}  # cores by role, MiB by role, longest queues

    @property
    def missed(self) -> list[str]:
        """Figures beyond their bound; one that was not measured has missed it too."""
        return [name for name, most in self.bounds.items() if not self.figures.get(name, float("inf")) <= most]

    @property
    def good(self) -> bool:
        """Whether the promise was kept and every bound."""
        return not self.problems and not self.missed


def outcome(profile: str, crowd: Crowd, figures: dict[str, float], bounds: dict[str, float]) -> Outcome:
    """With what every profile tells of its crowd."""
    ledger, meter = crowd.ledger, crowd.meter
    common = {
        "acknowledged": float(len(ledger.acknowledged)),
        "applied": float(ledger.applied),
        **{kind: float(ledger.problems[kind]) for kind in ("lost", "duplicated", "misordered", "refused")},
        "reconnects": float(len(meter.replays)),
        **{f"failed: {why}": float(count) for why, count in meter.failed.items()},
        **{f"closed {code}": float(count) for code, count in meter.closed.items()},
        **{f"{code}, stored {stored}": float(count) for (code, stored), count in meter.refused.items()},
        "generator late p99 ms": milliseconds(crowd.lag, 990),
        "generator late max ms": milliseconds(crowd.lag, 1000),
    }
    problems = dict(+ledger.problems)
    if not ledger.acknowledged:
        problems["nothing was acknowledged"] = 1
    return Outcome(
        profile=profile,
        clients=len(crowd.devices),
        figures={name: round(value, 1) for name, value in {**figures, **common}.items() if math.isfinite(value)},
        bounds=bounds,
        problems=problems,
        examples=ledger.examples,
    )


def milliseconds(seconds: Sequence[float], per_mille: int) -> float:
    """A percentile by nearest rank, infinite without samples."""
    if not seconds:
        return float("inf")
    ordered = sorted(seconds)
    return round(ordered[max(0, -(-len(ordered) * per_mille // 1000) - 1)] * 1000, 1)


def line(one: Outcome) -> str:
    """An outcome for people."""
    parts = []
    for name, value in one.figures.items():
        bound = f" (<= {one.bounds[name]:g}{' MISSED' if name in one.missed else ''})" if name in one.bounds else ""
        parts.append(f"{name} {value:,.10g}{bound}")
    use = "; ".join(f"{name} {value:g}" for name, value in one.use.items())
    text = f"{one.profile}, {one.clients:,} clients: {'; '.join(parts)}\n    use: {use}"
    for name, values in one.series.items():
        text += f"\n    {name}: {' '.join(map(str, values))}"
    if one.problems:
        text += f"\n    BROKEN: {one.problems}\n    " + "\n    ".join(one.examples)
    return text
