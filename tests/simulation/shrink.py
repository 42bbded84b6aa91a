"""Makes a failing history small: fewer decisions, then fewer processes and plainer settings."""

from collections.abc import Iterator
from typing import Any

from tests.simulation.history import Decision, Plan, run

_PLAIN: dict[str, Any] = {
    "stores": 1,
    "shards": 2,
    "high_water": 5000,
    "queue": 50_000,
    "batch": 1000,
    "held_bytes": 10**6,
    "outbox_bytes": 10**6,
    "in_flight": 64,
    "gap": 100_000,
    "held": 5_000,
    "chunk": 1_000,
    "ring": 512 * 1024,
    "page": 200,
    "backlog": 500,
    "ends": 100_000,
    "lag": 0.05,
    "lazy": False,
    "presence": False,
    "slots": 1,
}


def _kind(problem: str) -> str:
    # The first words say which promise was broken; the numbers behind them change while shrinking.
    return " ".join(problem.split()[:1])


def shrink(plan: Plan, runs: int = 600) -> Plan:
    """A smaller plan that breaks the promise, found with at most *runs* histories."""
    problem = run(plan).problem
    if not problem:
        return plan
    kind = _kind(problem)
    left = runs

    def fails(candidate: Plan) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and _kind(run(candidate).problem) == kind

    before = None
    while before != plan and left > 0:
        before = plan
        for decisions in _fewer(plan.decisions):
            if len(decisions) < len(plan.decisions) and set(decisions) <= set(plan.decisions):
                candidate = plan._replace(decisions=decisions)
                if fails(candidate):
                    plan = candidate
        size = max(1, len(plan.decisions) // 2)
        while size and left > 0:
            at = 0
            while at < len(plan.decisions):
                candidate = plan._replace(decisions=plan.decisions[:at] + plan.decisions[at + size :])
                if fails(candidate):
                    plan = candidate
                else:
                    at += size
            size //= 2
        for name, value in _PLAIN.items():
            if plan.config[name] != value and not (name in ("stores", "shards") and _named(plan, name, value)):
                candidate = plan._replace(config={**plan.config, name: value})
                if fails(candidate):
                    plan = candidate
    return plan


def _fewer(decisions: list[Decision]) -> Iterator[list[Decision]]:
    """First guesses: without one kind of decision altogether."""
    for kind in dict.fromkeys(one[1] for one in decisions):
        yield [one for one in decisions if one[1] != kind]


def _named(plan: Plan, name: str, value: int) -> bool:
    """Whether a decision names a process that there would be no more, or counts over all of them."""
    what = name.removesuffix("s")
    return any(
        kind in ("full", "bus cut", "store cut", "terminate", "drain") or (kind in ("kill", "stop") and args[0] == what)
        for _, kind, args in plan.decisions
    )
